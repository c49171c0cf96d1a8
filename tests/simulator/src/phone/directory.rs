//! What a phone asks the server: devices of users, bundles, groups. Builds the queries and reads the answers.
//!
//! Knows no Signal state and keeps nothing: a phone asks again for every message, so device changes need no
//! notification to take effect.

use anyhow::{Context, bail, ensure};
use whatsapp_rust::wacore::adv::{AdvValidation, validate_adv_with_identity_key};
use whatsapp_rust::wacore::libsignal::protocol::{IdentityKey, PreKeyBundle, PublicKey};
use whatsapp_rust::wacore_binary::{Node, NodeContent};
use whatsapp_rust::{Jid, NodeBuilder, Server};

use super::signal::key_bytes;

/// One user of a usync answer.
#[derive(Debug)]
pub(super) struct User {
    pub(super) jid: Jid,
    /// User part of the LID, when the answer holds one.
    pub(super) lid: Option<String>,
    /// Empty for an unknown user.
    pub(super) devices: Vec<u16>,
}

/// A group as far as sending needs it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) lid_mode: bool,
    /// Members in the group's address form, each with its other form if known.
    pub(super) members: Vec<(Jid, Option<Jid>)>,
}

pub(super) fn attr(node: &Node, key: &str) -> Option<String> {
    node.attrs.get(key).map(|value| value.as_str().into_owned())
}

pub(super) fn attr_jid(node: &Node, key: &str) -> Option<Jid> {
    node.attrs.get(key)?.to_jid()
}

pub(super) fn content(node: &Node) -> Option<&[u8]> {
    match node.content.as_ref()? {
        NodeContent::Bytes(bytes) => Some(bytes),
        NodeContent::String(text) => Some(text.as_bytes()),
        NodeContent::Nodes(_) => None,
    }
}

pub(super) fn device_query(id: &str, users: &[Jid]) -> Node {
    let users = users.iter().map(|user| NodeBuilder::new("user").attr("jid", user).build());
    let query = [NodeBuilder::new("devices").attr("version", "2").build(), NodeBuilder::new("lid").build()];
    iq(id, "get", "usync", &server())
        .children([NodeBuilder::new("usync")
            .attr("sid", id)
            .attr("mode", "query")
            .attr("context", "message")
            .attr("index", "0")
            .attr("last", "true")
            .children([
                NodeBuilder::new("query").children(query).build(),
                NodeBuilder::new("list").children(users).build(),
            ])
            .build()])
        .build()
}

pub(super) fn users(answer: &Node) -> anyhow::Result<Vec<User>> {
    let list = answer.get_optional_child_by_tag(&["usync", "list"]).context("no list in the usync answer")?;
    list.get_children_by_tag("user")
        .map(|user| {
            let devices = user.get_optional_child_by_tag(&["devices", "device-list"]);
            let devices = devices.map(|list| {
                list.get_children_by_tag("device").filter_map(|device| attr(device, "id")?.parse().ok()).collect()
            });
            let lid = user.get_optional_child("lid").and_then(|lid| attr_jid(lid, "val"));
            Ok(User {
                jid: attr_jid(user, "jid").context("a usync user without jid")?,
                lid: lid.map(|lid| lid.user.to_string()),
                devices: devices.unwrap_or_default(),
            })
        })
        .collect()
}

pub(super) fn key_query(id: &str, devices: &[Jid]) -> Node {
    let users = devices.iter().map(|device| NodeBuilder::new("user").attr("jid", device).build());
    iq(id, "get", "encrypt", &server()).children([NodeBuilder::new("key").children(users).build()]).build()
}

/// The bundles of a key answer; devices that the server refused are missing from it.
pub(super) fn bundles(answer: &Node) -> anyhow::Result<Vec<(Jid, PreKeyBundle)>> {
    let list = answer.get_optional_child("list").context("no list in the key answer")?;
    list.get_children_by_tag("user")
        .filter(|user| user.get_optional_child("error").is_none())
        .map(|user| {
            let jid = attr_jid(user, "jid").context("a bundle without jid")?;
            let registration = child(user, "registration")?;
            if let Some(proof) = user.get_optional_child("device-identity").and_then(content) {
                let identity = key_bytes(child(user, "identity")?)?;
                let valid = validate_adv_with_identity_key(proof, &identity, None) == AdvValidation::Valid;
                ensure!(valid, "the identity of {jid} is not the one its account linked");
            }
            let bundle = bundle(registration, user).with_context(|| format!("the bundle of {jid}"))?;
            Ok((jid, bundle))
        })
        .collect()
}

/// Reads a bundle: `identity`, `skey` and perhaps `key` under `keys`. Retry receipts hold the same children.
pub(super) fn bundle(registration: &[u8], keys: &Node) -> anyhow::Result<PreKeyBundle> {
    let one_time = match keys.get_optional_child("key") {
        Some(key) => {
            Some((number(child(key, "id")?).into(), PublicKey::from_djb_public_key_bytes(child(key, "value")?)?))
        }
        None => None,
    };
    let signed = keys.get_optional_child("skey").context("no signed key")?;
    Ok(PreKeyBundle::new(
        number(registration),
        0.into(),
        one_time,
        number(child(signed, "id")?).into(),
        PublicKey::from_djb_public_key_bytes(child(signed, "value")?)?,
        child(signed, "signature")?.to_vec(),
        IdentityKey::new(PublicKey::from_djb_public_key_bytes(child(keys, "identity")?)?),
    )?)
}

pub(super) fn group_query(id: &str, group: &Jid) -> Node {
    iq(id, "get", "w:g2", group).children([NodeBuilder::new("query").attr("request", "interactive").build()]).build()
}

pub(super) fn group(answer: &Node) -> anyhow::Result<Group> {
    let group = answer.get_optional_child("group").context("no group in the answer")?;
    let members = group.get_children_by_tag("participant").map(|participant| {
        let other = attr_jid(participant, "phone_number").or_else(|| attr_jid(participant, "lid"));
        Ok((attr_jid(participant, "jid").context("a participant without jid")?, other))
    });
    Ok(Group {
        lid_mode: attr(group, "addressing_mode").as_deref() == Some("lid"),
        members: members.collect::<anyhow::Result<_>>()?,
    })
}

/// The answer to the query among the server's replies.
pub(super) fn answer(id: &str, replies: Vec<Node>) -> anyhow::Result<Node> {
    let reply = replies.into_iter().find(|reply| reply.tag == "iq" && attr(reply, "id").as_deref() == Some(id));
    let reply = reply.with_context(|| format!("no answer to {id}"))?;
    if attr(&reply, "type").as_deref() == Some("error") {
        let error = reply.get_optional_child("error");
        let say = |key| error.and_then(|error| attr(error, key)).unwrap_or_default();
        bail!("the server refused {id}: {} {}", say("code"), say("text"));
    }
    Ok(reply)
}

fn iq(id: &str, kind: &'static str, xmlns: &'static str, to: &Jid) -> NodeBuilder {
    NodeBuilder::new("iq").attr("id", id).attr("type", kind).attr("xmlns", xmlns).attr("to", to)
}

/// The server's own address.
pub(super) fn server() -> Jid {
    Jid::new("", Server::Pn)
}

fn child<'a>(node: &'a Node, tag: &str) -> anyhow::Result<&'a [u8]> {
    node.get_optional_child(tag).and_then(content).with_context(|| format!("no {tag}"))
}

/// A big-endian number of up to four bytes.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
