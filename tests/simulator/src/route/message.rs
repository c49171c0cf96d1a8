//! Messages between devices: fan-out to the devices that the sender encrypted for, each with its own ciphertext.

use whatsapp_rust::wacore_binary::{Jid, Node};
use whatsapp_rust::{NodeBuilder, Server};

use super::group;
use crate::counters::ClientKind;
use crate::dispatch::{After, Handled};
use crate::fault::Fault;
use crate::network::DeviceAddress;
use crate::stanza::{self, attr, attr_is, attr_jid, content};
use crate::state::queue::Class;
use crate::state::{Sender, State};

/// Why a message is not taken; the code goes into the ack's `error`.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    /// `None`: legitimate, as a message to a group that the sender was removed from.
    pub(crate) violation: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn of(code: u16) -> Self {
        Self { code, violation: None }
    }

    pub(crate) fn wrong(code: u16, violation: &'static str) -> Self {
        Self { code, violation: Some(violation) }
    }
}

pub(crate) fn handle(state: &mut State, sender: &Sender, node: &Node) -> Handled {
    state.counters.messages_in += 1;
    let (Some(id), Some(to)) = (attr(node, "id"), attr_jid(node, "to")) else {
        state.counters.violation("a message without id or recipient");
        return Handled::default();
    };
    // Peer messages (key requests and the like) are the library's own business, not a send that a fault should meet.
    let faulty = sender.client != ClientKind::Phone && !attr_is(node, "category", "peer");
    let strike = |state: &mut State, wanted: &Fault| {
        faulty && state.strike(&sender.address, |fault| (fault == wanted).then_some(())).is_some()
    };
    if strike(state, &Fault::CloseOnMessage) {
        return Handled::default().then(After::Abort);
    }
    if strike(state, &Fault::DropMessages) {
        return Handled::default();
    }
    let nack = |fault: &Fault| if let Fault::NackMessages { code } = fault { Some(*code) } else { None };
    let refused = if faulty { state.strike(&sender.address, nack) } else { None };
    let outcome = match refused {
        Some(code) => Err(Refusal::of(code)),
        None => route(state, sender, &id, &to, node),
    };
    let mut ack =
        NodeBuilder::new("ack").attr("class", "message").attr("id", &id).attr("from", &to).attr("t", stanza::now());
    if let Some(participant) = attr_jid(node, "participant") {
        ack = ack.attr("participant", participant);
    }
    if let Err(Refusal { code, violation }) = &outcome {
        state.counters.nacks += 1;
        if let Some(violation) = violation {
            state.counters.violation(violation);
        }
        ack = ack.attr("error", *code);
    }
    if strike(state, &Fault::CloseOnAck) {
        return Handled::default().then(After::Abort);
    }
    if strike(state, &Fault::DropMessageAcks) {
        state.counters.acks_withheld += 1;
        return Handled::default();
    }
    let mut handled = Handled::reply(ack.build());
    if strike(state, &Fault::CloseAfterAck) {
        return handled.then(After::CloseNow);
    }
    if faulty {
        handled.delay = state
            .strike(&sender.address, |fault| if let Fault::DelayAcks { delay } = fault { Some(*delay) } else { None });
    }
    handled
}

fn route(state: &mut State, sender: &Sender, id: &str, to: &Jid, node: &Node) -> Result<(), Refusal> {
    match to.server {
        Server::Group => group::route(state, sender, id, to, node),
        Server::Broadcast if to.user == "status" => group::route_status(state, sender, id, to, node),
        Server::Pn | Server::Lid => one_to_one(state, sender, id, to, node),
        _ => Err(Refusal::of(404)),
    }
}

fn one_to_one(state: &mut State, sender: &Sender, id: &str, to: &Jid, node: &Node) -> Result<(), Refusal> {
    let recipient = state.number_of(to).ok_or(Refusal::of(404))?;
    let own = sender.address.number.clone();
    let lid = to.server == Server::Lid;
    state.note(if lid { "dm-lid" } else { "dm-pn" }, sender.client);
    if let Some(edit) = attr(node, "edit") {
        state.note(&format!("edit-{edit}"), sender.client);
    }
    let copies = copies(to, node)?;
    for (target, _) in &copies {
        let number = state.number_of(target).ok_or(Refusal::wrong(400, "a copy for an unknown user"))?;
        if number != recipient && number != own {
            return Err(Refusal::wrong(400, "a copy for neither the recipient nor an own device"));
        }
        if number == own && target.device == sender.address.device {
            return Err(Refusal::wrong(400, "a copy for the sending device"));
        }
    }
    let peer = attr_is(node, "category", "peer");
    for (target, enc) in copies {
        let Some(number) = state.number_of(&target) else { continue };
        watch(state, &sender.address, &number, target.device, enc);
        let mut copy = envelope(state, sender, id, node, &target);
        if number == own && !peer {
            let chat = attr_jid(node, "recipient").unwrap_or_else(|| to.to_non_ad());
            copy = with_recipient(state, copy, &chat);
        }
        let mut children = vec![enc.clone()];
        children.extend(passed_on(node, enc));
        state.counters.messages_out += 1;
        state.deliver((&number, target.device), Class::Message, copy.children(children).build());
    }
    Ok(())
}

/// Device and ciphertext of each copy: listed ones, or a single one for the device in `to`.
fn copies<'a>(to: &Jid, node: &'a Node) -> Result<Vec<(Jid, &'a Node)>, Refusal> {
    if let Some(enc) = node.get_optional_child("enc") {
        return Ok(vec![(to.clone(), enc)]);
    }
    let listed = node.get_optional_child("participants").ok_or(Refusal::wrong(400, "a message without ciphertext"))?;
    listed
        .get_children_by_tag("to")
        .map(|entry| {
            let device = attr_jid(entry, "jid").ok_or(Refusal::wrong(400, "a copy without a recipient"))?;
            let enc = entry.get_optional_child("enc").ok_or(Refusal::wrong(400, "a copy without ciphertext"))?;
            Ok((device, enc))
        })
        .collect()
}

/// Takes note of a ciphertext for one device.
pub(crate) fn watch(state: &mut State, from: &DeviceAddress, number: &str, device: u16, enc: &Node) {
    let kind = attr(enc, "type").unwrap_or_default();
    let body = content(enc).unwrap_or_default();
    state.ciphertexts.see(&mut state.counters, from, &format!("{number}:{device}"), &kind, body);
}

/// A one-to-one message as the target device sees it, addressed in the form in which the target was.
fn envelope(state: &State, sender: &Sender, id: &str, node: &Node, target: &Jid) -> NodeBuilder {
    let address = &sender.address;
    let message = NodeBuilder::new("message");
    let message = if target.server == Server::Lid {
        message.attr("from", address.lid_jid()).attr("sender_pn", Jid::pn(address.number.as_str()))
    } else {
        message.attr("from", address.pn_jid()).attr("sender_lid", Jid::lid(address.lid.as_str()))
    };
    described(state, sender, message, id, node)
}

/// Attributes that every copy of a message has.
pub(crate) fn described(state: &State, sender: &Sender, message: NodeBuilder, id: &str, node: &Node) -> NodeBuilder {
    let account = state.accounts.get(&sender.address.number);
    let device = state.device(&sender.address.number, sender.address.device);
    let own_name = device.map(|device| device.push_name.clone()).filter(|name| !name.is_empty());
    let name = own_name.or_else(|| account.map(|account| account.push_name.clone())).unwrap_or_default();
    let mut message = message.attr("id", id).attr("t", stanza::now()).attr("notify", name);
    for key in ["type", "edit", "category", "push_priority"] {
        if let Some(value) = attr(node, key) {
            message = message.attr(key, value);
        }
    }
    message
}

fn with_recipient(state: &State, copy: NodeBuilder, chat: &Jid) -> NodeBuilder {
    let copy = copy.attr("recipient", chat);
    match (chat.server, state.account_of(chat)) {
        (Server::Pn, Some(peer)) => copy.attr("peer_recipient_lid", Jid::lid(peer.lid.as_str())),
        (Server::Lid, Some(peer)) => copy.attr("peer_recipient_pn", Jid::pn(peer.number.as_str())),
        _ => copy,
    }
}

/// Children that go along: the sender's signed identity with a first message, and what describes the message.
pub(crate) fn passed_on<'a>(node: &'a Node, enc: &'a Node) -> impl Iterator<Item = Node> + use<'a> {
    let first = attr_is(enc, "type", "pkmsg");
    stanza::children(node)
        .iter()
        .filter(move |child| match child.tag.as_ref() {
            "device-identity" => first,
            "meta" | "biz" => true,
            _ => false,
        })
        .cloned()
}
