//! xmlns `usync`: who is on WhatsApp, on which devices, under which hidden identity; and the news about devices.

use std::collections::BTreeSet;

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder, Server};

use crate::fault::Fault;
use crate::stanza::{self, attr, attr_jid, bytes, children, content, element};
use crate::state::account::Account;
use crate::state::{Sender, State};

pub(crate) fn answer(state: &mut State, sender: &Sender, id: &str, iq: &Node) -> Node {
    if state.strike(&sender.address, |fault| matches!(fault, Fault::RefuseUsync).then_some(())).is_some() {
        return stanza::error(id, 503, "service-unavailable");
    }
    let Some(usync) = iq.get_optional_child("usync") else { return stanza::error(id, 400, "bad-request") };
    let (Some(query), Some(list)) = (usync.get_optional_child("query"), usync.get_optional_child("list")) else {
        return stanza::error(id, 400, "bad-request");
    };
    let protocols: Vec<String> = children(query).iter().map(|child| child.tag.to_string()).collect();
    for protocol in &protocols {
        state.note(&format!("usync-{protocol}"), sender.client);
    }
    let users: Vec<Node> =
        list.get_children_by_tag("user").filter_map(|user| one(state, sender, &protocols, user)).collect();
    let mut answer = NodeBuilder::new("usync");
    for key in ["sid", "mode", "context", "index"] {
        if let Some(value) = attr(usync, key) {
            answer = answer.attr(key, value);
        }
    }
    let results = protocols.iter().map(|protocol| element(protocol).build());
    let answer = answer.attr("last", "true").children([
        NodeBuilder::new("result").children(results).build(),
        NodeBuilder::new("list").children(users).build(),
    ]);
    stanza::result(id, [answer.build()])
}

fn one(state: &mut State, sender: &Sender, protocols: &[String], asked: &Node) -> Option<Node> {
    let by_jid = attr_jid(asked, "jid");
    let dialled = asked
        .get_optional_child("contact")
        .and_then(content)
        .map(|number| String::from_utf8_lossy(number).chars().filter(char::is_ascii_digit).collect::<String>())
        .map(|number| state.spellings.get(&number).cloned().unwrap_or(number));
    let jid = by_jid.or_else(|| Some(Jid::pn(dialled.as_deref()?)))?.to_non_ad();
    let number = state.number_of(&jid);
    if protocols.iter().any(|protocol| protocol == "devices")
        && let Some(account) = number.as_ref().and_then(|number| state.accounts.get_mut(number))
    {
        account.watchers.insert(sender.address.number.clone());
    }
    let refused = protocols.iter().any(|protocol| protocol == "contact").then(|| {
        state.strike(&sender.address, |fault| match fault {
            Fault::RefuseContacts { code } => Some(*code),
            _ => None,
        })
    });
    let account = number.as_ref().and_then(|number| state.accounts.get(number));
    let parts = protocols.iter().filter_map(|protocol| match account {
        _ if protocol == "contact" && refused.flatten().is_some() => {
            let code = refused.flatten().unwrap_or_default();
            Some(element(protocol).children([stanza::error_child(code, "refused")]).build())
        }
        Some(account) => known(account, sender, &jid, protocol),
        None => unknown(protocol, dialled.is_some()),
    });
    Some(NodeBuilder::new("user").attr("jid", &jid).children(parts.collect::<Vec<_>>()).build())
}

fn unknown(protocol: &str, dialled: bool) -> Option<Node> {
    match protocol {
        "contact" if dialled => Some(NodeBuilder::new("contact").attr("type", "out").build()),
        "business" | "username" => None,
        other => Some(element(other).children([stanza::error_child(404, "item-not-found")]).build()),
    }
}

fn known(account: &Account, asker: &Sender, jid: &Jid, protocol: &str) -> Option<Node> {
    match protocol {
        "devices" => Some(devices(account)),
        "contact" => Some(NodeBuilder::new("contact").attr("type", "in").build()),
        // For users asked by LID baileys logs "Invalid LID-PN mapping".
        "lid" if jid.server == Server::Pn => {
            Some(NodeBuilder::new("lid").attr("val", Jid::lid(account.lid.as_str())).build())
        }
        "status" => Some(account.about_node(asker)),
        "picture" => Some(match &account.picture {
            Some(picture) if !account.hides("profile", asker) => {
                NodeBuilder::new("picture").attr("id", &picture.id).build()
            }
            _ => NodeBuilder::new("picture").children([stanza::error_child(404, "item-not-found")]).build(),
        }),
        "disappearing_mode" => Some(NodeBuilder::new("disappearing_mode").attr("duration", 0).attr("t", 0).build()),
        _ => None,
    }
}

fn devices(account: &Account) -> Node {
    let companions = account.devices.iter().map(|(number, device)| {
        NodeBuilder::new("device").attr("id", *number).attr("key-index", device.key_index).build()
    });
    let list = std::iter::once(NodeBuilder::new("device").attr("id", 0).build()).chain(companions);
    let mut parts = vec![NodeBuilder::new("device-list").attr("hash", device_hash(account)).children(list).build()];
    if !account.devices.is_empty() {
        parts.push(key_index_list(account));
    }
    NodeBuilder::new("devices").children(parts).build()
}

fn key_index_list(account: &Account) -> Node {
    let signed = account.phone.key_index_list(&account.key_indexes());
    NodeBuilder::new("key-index-list").attr("ts", stanza::now()).bytes(signed).build()
}

/// A short digest of the device list, as `device_hash` and `hash` hold it.
fn device_hash(account: &Account) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    for device in account.devices.keys() {
        hash.update(account.address(*device).pn_jid().to_string());
    }
    format!("2:{}", base64::engine::general_purpose::STANDARD.encode(&hash.finalize()[..6]))
}

/// Tells the account's other companions and everybody who asked for its list that a companion came or went.
pub(crate) fn tell_devices(state: &mut State, number: &str, add: bool, device: u16, key_index: u32) {
    let Some(account) = state.accounts.get(number) else { return };
    let address = account.address(device);
    let entry = NodeBuilder::new("device")
        .attr("jid", address.pn_jid())
        .attr("lid", address.lid_jid())
        .attr("key-index", key_index)
        .build();
    let mut parts = vec![entry];
    if add {
        parts.push(key_index_list(account));
    }
    let change = NodeBuilder::new(if add { "add" } else { "remove" })
        .attr("device_hash", device_hash(account))
        .children(parts)
        .build();
    let (from, lid) = (Jid::pn(account.number.as_str()), Jid::lid(account.lid.as_str()));
    let mut told: BTreeSet<String> = account.watchers.clone();
    told.insert(number.to_owned());
    for watcher in told {
        let except = (watcher == number).then_some(device);
        state.notify_companions(&watcher, except, |id| {
            NodeBuilder::new("notification")
                .attr("from", &from)
                .attr("lid", &lid)
                .attr("type", "devices")
                .attr("id", format!("n.{id}"))
                .attr("t", stanza::now())
                .children([change.clone()])
                .build()
        });
    }
}

/// Content of a `status` or a `body` child as bytes, which is how clients read it.
pub(crate) fn text(tag: &'static str, value: &str) -> Node {
    bytes(tag, value.as_bytes())
}
