//! Receipts: what they acknowledge, and to whom each type goes on.

use whatsapp_rust::wacore_binary::{Jid, Node};
use whatsapp_rust::{NodeBuilder, Server};

use crate::dispatch::Handled;
use crate::stanza::{self, attr, attr_jid, children};
use crate::state::queue::Class;
use crate::state::{Sender, State};

pub(crate) fn handle(state: &mut State, sender: &Sender, node: &Node) -> Handled {
    let (Some(id), Some(to)) = (attr(node, "id"), attr_jid(node, "to")) else {
        state.counters.violation("a receipt without id or recipient");
        return Handled::default();
    };
    let kind = attr(node, "type");
    let word = kind.clone().unwrap_or_else(|| "delivery".to_owned());
    *state.counters.receipts.entry(word.clone()).or_default() += 1;
    if word == "retry" {
        *state.counters.retries.entry(sender.client.name().to_owned()).or_default() += 1;
        state.note("retry", sender.client);
    } else {
        state.note(&format!("receipt-{word}"), sender.client);
    }
    if let Some(device) = state.device_mut(&sender.address.number, sender.address.device) {
        for id in ids(node, &id) {
            device.queue.acknowledge(Class::Message, &id, node);
        }
    }
    forward(state, sender, &to, kind.as_deref(), node);

    let mut ack = NodeBuilder::new("ack").attr("class", "receipt").attr("id", id).attr("from", &to);
    if let Some(kind) = kind {
        ack = ack.attr("type", kind);
    }
    if let Some(participant) = attr_jid(node, "participant") {
        ack = ack.attr("participant", participant);
    }
    Handled::reply(ack.build())
}

/// A phone tells one of its companions where a lost attachment is now.
pub(crate) fn media_retry(state: &mut State, sender: &Sender, node: &Node) {
    let (Some(id), Some(to)) = (attr(node, "id"), attr_jid(node, "to")) else { return };
    if state.number_of(&to).as_deref() != Some(&sender.address.number) {
        state.counters.violation("media for a companion of somebody else");
        return;
    }
    let notification = NodeBuilder::new("notification")
        .attr("from", to.to_non_ad())
        .attr("type", "mediaretry")
        .attr("id", id)
        .attr("t", stanza::now())
        .children(children(node).iter().cloned());
    state.deliver((&sender.address.number, to.device), Class::Notification, notification.build());
}

/// All message ids of a receipt: its own, and those of the list in it.
fn ids(node: &Node, first: &str) -> Vec<String> {
    let mut ids = vec![first.to_owned()];
    for list in node.get_children_by_tag("list") {
        ids.extend(list.get_children_by_tag("item").filter_map(|item| attr(item, "id")));
    }
    ids
}

fn forward(state: &mut State, sender: &Sender, to: &Jid, kind: Option<&str>, node: &Node) {
    let own = sender.address.number.clone();
    let participant = attr_jid(node, "participant");
    let in_group = matches!(to.server, Server::Group | Server::Broadcast);
    // Whose message it is about: in a group the participant, else the one written to.
    let author = if in_group { participant.clone() } else { Some(to.clone()) };
    match kind {
        None | Some("inactive") => {
            let Some((author, number)) = author.and_then(|jid| Some((jid.clone(), state.number_of(&jid)?))) else {
                return;
            };
            let receipt = addressed(sender, to, &author, in_group, true, None, node);
            state.deliver((&number, author.device), Class::Receipt, receipt);
        }
        Some("retry") => {
            let Some((author, number)) = author.and_then(|jid| Some((jid.clone(), state.number_of(&jid)?))) else {
                return;
            };
            let receipt = addressed(sender, to, &author, in_group, true, kind, node);
            state.deliver((&number, author.device), Class::Receipt, receipt);
        }
        Some("read" | "played") => {
            let Some((author, number)) = author.and_then(|jid| Some((jid.clone(), state.number_of(&jid)?))) else {
                return;
            };
            let receipt = addressed(sender, to, &author, in_group, false, kind, node);
            let mut devices = vec![0];
            devices.extend(state.companions(&number));
            for device in devices {
                if number != own || device != sender.address.device {
                    state.deliver((&number, device), Class::Receipt, receipt.clone());
                }
            }
        }
        Some("sender") => {
            if let Some((author, number)) = author.and_then(|jid| Some((jid.clone(), state.number_of(&jid)?)))
                && number == own
            {
                let receipt = addressed(sender, to, &author, in_group, true, kind, node);
                state.deliver((&number, author.device), Class::Receipt, receipt);
            }
        }
        Some("read-self" | "played-self") => {
            let from =
                if to.server == Server::Lid { Jid::lid(sender.address.lid.as_str()) } else { Jid::pn(own.as_str()) };
            let mut receipt = copied(node).attr("from", from).attr("recipient", to);
            if let Some(participant) = participant {
                receipt = receipt.attr("participant", participant);
            }
            let receipt = receipt.attr("type", kind.unwrap_or_default()).build();
            for device in state.companions(&own) {
                if device != sender.address.device {
                    state.deliver((&own, device), Class::Receipt, receipt.clone());
                }
            }
        }
        // A companion asks its own phone for an attachment that the media hosts have lost.
        Some("server-error") if state.number_of(to).as_deref() == Some(&own) => {
            let receipt = addressed(sender, to, to, false, true, kind, node);
            state.deliver((&own, 0), Class::Receipt, receipt);
        }
        // peer_msg, hist_sync, and server-error about a history: the server's own business.
        Some(_) => {}
    }
}

/// Id, time and content of a receipt; who and whom is still to be said.
fn copied(node: &Node) -> NodeBuilder {
    let receipt = NodeBuilder::new("receipt")
        .attr("id", attr(node, "id").unwrap_or_default())
        .attr("t", attr(node, "t").unwrap_or_else(|| stanza::now().to_string()));
    if children(node).is_empty() { receipt } else { receipt.children(children(node).iter().cloned()) }
}

/// The receipt as the author of the message sees it, the reader addressed in the form in which the author was.
fn addressed(
    sender: &Sender,
    to: &Jid,
    author: &Jid,
    in_group: bool,
    with_device: bool,
    kind: Option<&str>,
    node: &Node,
) -> Node {
    let reader = if author.server == Server::Lid { sender.address.lid_jid() } else { sender.address.pn_jid() };
    let reader = if with_device { reader } else { reader.to_non_ad() };
    let mut receipt = copied(node);
    receipt =
        if in_group { receipt.attr("from", to).attr("participant", reader) } else { receipt.attr("from", reader) };
    if let Some(kind) = kind {
        receipt = receipt.attr("type", kind);
    }
    if let Some(recipient) = attr_jid(node, "recipient") {
        receipt = receipt.attr("recipient", recipient);
    }
    receipt.build()
}
