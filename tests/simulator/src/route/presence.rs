//! Presence and typing: shown to whoever is online, acknowledged and stored by nobody.

use whatsapp_rust::wacore_binary::{Jid, Node};
use whatsapp_rust::{NodeBuilder, Server};

use crate::stanza::{self, attr, attr_jid, first_child};
use crate::state::{Sender, State};

pub(crate) fn presence(state: &mut State, sender: &Sender, node: &Node) {
    state.note("presence", sender.client);
    let (number, device) = (sender.address.number.as_str(), sender.address.device);
    let kind = attr(node, "type").unwrap_or_else(|| "available".to_owned());
    match kind.as_str() {
        "available" | "unavailable" => {
            let available = kind == "available";
            if let Some(own) = state.device_mut(number, device) {
                if let Some(name) = attr(node, "name") {
                    own.push_name = name;
                }
                own.available = available;
            }
            changed(state, number);
        }
        "subscribe" | "unsubscribe" => {
            let Some(subject) =
                attr_jid(node, "to").and_then(|to| Some((to.server == Server::Lid, state.number_of(&to)?)))
            else {
                return;
            };
            state.note("presence-subscribe", sender.client);
            let (lid, subject) = subject;
            let subscriber = (number.to_owned(), device, lid);
            let Some(account) = state.accounts.get_mut(&subject) else { return };
            if kind == "subscribe" {
                account.subscribers.insert(subscriber);
                if let Some(shown) = shown(state, &subject, lid) {
                    state.deliver_live((number, device), shown);
                }
            } else {
                account.subscribers.remove(&subscriber);
            }
        }
        _ => {}
    }
}

/// Tells the subscribers of an account that a companion of it came or went.
pub(crate) fn changed(state: &mut State, number: &str) {
    let Some(account) = state.accounts.get_mut(number) else { return };
    if !account.available() {
        account.last_seen = Some(stanza::now());
    }
    for (subscriber, device, lid) in account.subscribers.clone() {
        if let Some(shown) = shown(state, number, lid) {
            state.deliver_live((&subscriber, device), shown);
        }
    }
}

fn shown(state: &State, number: &str, lid: bool) -> Option<Node> {
    let account = state.accounts.get(number)?;
    let from = if lid { Jid::lid(account.lid.as_str()) } else { Jid::pn(number) };
    let presence = NodeBuilder::new("presence").attr("from", from);
    Some(if account.available() {
        presence.build()
    } else {
        let last = account.last_seen.map_or_else(|| "deny".to_owned(), |last| last.to_string());
        presence.attr("type", "unavailable").attr("last", last).build()
    })
}

pub(crate) fn chatstate(state: &mut State, sender: &Sender, node: &Node) {
    state.note("chatstate", sender.client);
    let (Some(to), Some(what)) = (attr_jid(node, "to"), first_child(node).cloned()) else {
        state.counters.violation("a chat state without recipient or content");
        return;
    };
    let own = sender.address.number.clone();
    let (numbers, from, participant) = if to.server == Server::Group {
        let Some(group) = state.groups.get(to.user.as_str()).filter(|group| group.has(&own)) else { return };
        let member = if group.lid_mode { sender.address.lid_jid() } else { sender.address.pn_jid() };
        (group.numbers(), to, Some(member.to_non_ad()))
    } else {
        let Some(number) = state.number_of(&to) else { return };
        let from = if to.server == Server::Lid { sender.address.lid_jid() } else { sender.address.pn_jid() };
        (vec![number], from.to_non_ad(), None)
    };
    let mut shown = NodeBuilder::new("chatstate").attr("from", from);
    if let Some(participant) = participant {
        shown = shown.attr("participant", participant);
    }
    let shown = shown.children([what]).build();
    for number in numbers.into_iter().filter(|number| *number != own) {
        let mut devices = vec![0];
        devices.extend(state.companions(&number));
        for device in devices {
            state.deliver_live((&number, device), shown.clone());
        }
    }
}
