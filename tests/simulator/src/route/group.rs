//! Group messages: one `skmsg` for everybody, and the sender key for the devices that lack it.

use std::collections::HashMap;

use whatsapp_rust::wacore_binary::{Jid, Node};
use whatsapp_rust::{NodeBuilder, Server};

use super::message::{Refusal, described, passed_on, watch};
use crate::stanza::{attr, attr_is, attr_jid, content};
use crate::state::queue::Class;
use crate::state::{Sender, State};

pub(crate) fn route(state: &mut State, sender: &Sender, id: &str, to: &Jid, node: &Node) -> Result<(), Refusal> {
    let group = state.groups.get(to.user.as_str()).ok_or(Refusal::of(404))?;
    if !group.has(&sender.address.number) {
        return Err(Refusal::of(403));
    }
    if group.announcement && !group.is_admin(&sender.address.number) {
        return Err(Refusal::of(403));
    }
    let (lid_mode, members) = (group.lid_mode, group.numbers());
    let mode = if lid_mode { "lid" } else { "pn" };
    if attr(node, "addressing_mode").is_some_and(|stated| stated != mode) {
        return Err(Refusal::of(479));
    }
    state.note(if lid_mode { "group-message-lid" } else { "group-message-pn" }, sender.client);
    state.note("group-message", sender.client);
    if let Some(participant) = attr_jid(node, "participant") {
        return answer_to_retry(state, sender, id, to, node, &participant, lid_mode);
    }
    let shared = node.get_optional_child("enc").ok_or(Refusal::wrong(400, "a group message without ciphertext"))?;
    if !attr_is(shared, "type", "skmsg") {
        return Err(Refusal::wrong(400, "a group message that is no skmsg"));
    }
    watch_shared(state, sender, to, shared);
    let mut own = sender_keys(state, sender, node)?;
    for number in members {
        let mut devices = vec![0];
        devices.extend(state.companions(&number));
        for device in devices {
            if number == sender.address.number && device == sender.address.device {
                continue;
            }
            let key = own.remove(&(number.clone(), device));
            let mut children: Vec<Node> = key.into_iter().cloned().collect();
            children.push(shared.clone());
            children.extend(passed_on(node, key.unwrap_or(shared)));
            let copy = envelope(state, sender, id, to, node, Some(lid_mode)).children(children).build();
            state.counters.messages_out += 1;
            state.deliver((&number, device), Class::Message, copy);
        }
    }
    Ok(())
}

/// A status goes to the devices that the sender lists.
pub(crate) fn route_status(state: &mut State, sender: &Sender, id: &str, to: &Jid, node: &Node) -> Result<(), Refusal> {
    state.note("status-message", sender.client);
    if let Some(participant) = attr_jid(node, "participant") {
        let lid_mode = participant.server == Server::Lid;
        return answer_to_retry(state, sender, id, to, node, &participant, lid_mode);
    }
    let shared = node.get_optional_child("enc").cloned();
    if let Some(shared) = &shared {
        watch_shared(state, sender, to, shared);
    }
    let listed = node.get_optional_child("participants");
    let listed: Vec<(Jid, Option<Node>)> = listed
        .into_iter()
        .flat_map(|list| list.get_children_by_tag("to"))
        .filter_map(|entry| Some((attr_jid(entry, "jid")?, entry.get_optional_child("enc").cloned())))
        .collect();
    for (target, enc) in listed {
        let Some(number) = state.number_of(&target) else { continue };
        if let Some(enc) = &enc {
            watch(state, &sender.address, &number, target.device, enc);
        }
        let mut children: Vec<Node> = enc.iter().chain(shared.iter()).cloned().collect();
        let Some(first) = children.first().cloned() else { continue };
        children.extend(passed_on(node, &first));
        let copy = envelope(state, sender, id, to, node, Some(target.server == Server::Lid)).children(children).build();
        state.counters.messages_out += 1;
        state.deliver((&number, target.device), Class::Message, copy);
    }
    Ok(())
}

/// Sender keys by device. Copies for devices that are gone are dropped.
fn sender_keys<'a>(
    state: &mut State,
    sender: &Sender,
    node: &'a Node,
) -> Result<HashMap<(String, u16), &'a Node>, Refusal> {
    let mut keys = HashMap::new();
    let Some(listed) = node.get_optional_child("participants") else { return Ok(keys) };
    for entry in listed.get_children_by_tag("to") {
        let device = attr_jid(entry, "jid").ok_or(Refusal::wrong(400, "a sender key without a recipient"))?;
        let enc = entry.get_optional_child("enc").ok_or(Refusal::wrong(400, "a sender key without ciphertext"))?;
        let number = state.number_of(&device).ok_or(Refusal::wrong(400, "a sender key for an unknown user"))?;
        watch(state, &sender.address, &number, device.device, enc);
        keys.insert((number, device.device), enc);
    }
    Ok(keys)
}

fn watch_shared(state: &mut State, sender: &Sender, to: &Jid, shared: &Node) {
    let body = content(shared).unwrap_or_default();
    state.ciphertexts.see(&mut state.counters, &sender.address, &to.to_string(), "skmsg", body);
}

fn answer_to_retry(
    state: &mut State,
    sender: &Sender,
    id: &str,
    to: &Jid,
    node: &Node,
    target: &Jid,
    lid_mode: bool,
) -> Result<(), Refusal> {
    let enc = node.get_optional_child("enc").ok_or(Refusal::wrong(400, "a retried message without ciphertext"))?;
    let number = state.number_of(target).ok_or(Refusal::of(404))?;
    watch(state, &sender.address, &number, target.device, enc);
    let mut children = vec![enc.clone()];
    children.extend(passed_on(node, enc));
    let copy = envelope(state, sender, id, to, node, Some(lid_mode)).children(children).build();
    state.counters.messages_out += 1;
    state.deliver((&number, target.device), Class::Message, copy);
    Ok(())
}

fn envelope(state: &State, sender: &Sender, id: &str, to: &Jid, node: &Node, lid_mode: Option<bool>) -> NodeBuilder {
    let address = &sender.address;
    let message = NodeBuilder::new("message").attr("from", to);
    let message = if lid_mode == Some(true) {
        message.attr("participant", address.lid_jid()).attr("participant_pn", Jid::pn(address.number.as_str()))
    } else {
        message.attr("participant", address.pn_jid()).attr("participant_lid", Jid::lid(address.lid.as_str()))
    };
    let message = match (to.server, lid_mode) {
        (Server::Group, Some(true)) => message.attr("addressing_mode", "lid"),
        (Server::Group, _) => message.attr("addressing_mode", "pn"),
        _ => message,
    };
    described(state, sender, message, id, node)
}
