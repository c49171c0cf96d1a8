//! xmlns `encrypt`: uploads, counts, digests and bundles of pre-keys. One-time keys are given once.

use anyhow::{Context as _, ensure};
use sha1::{Digest as _, Sha1};
use whatsapp_rust::wacore::libsignal::protocol::PublicKey;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder};

use crate::dispatch::{After, Handled};
use crate::fault::Fault;
use crate::stanza::{self, attr_is, attr_jid, bytes, child_content, children};
use crate::state::account::Device;
use crate::state::queue::Class;
use crate::state::{Sender, State};

/// Below so many one-time keys the companion is told. Clients upload at 5 and fewer (baileys), WhatsApp tells at 10.
const LOW: usize = 10;

pub(crate) fn answer(state: &mut State, sender: &Sender, id: &str, iq: &Node) -> Handled {
    let (number, own) = (sender.address.number.clone(), sender.address.device);
    let set = attr_is(iq, "type", "set");
    if let (false, Some(asked)) = (set, iq.get_optional_child("key")) {
        return Handled::reply(fetch(state, sender, id, asked));
    }
    let client = sender.client;
    let Some(device) = state.device_mut(&number, own) else {
        return Handled::reply(stanza::error(id, 400, "bad-request"));
    };
    if set {
        let outcome = match iq.get_optional_child("rotate") {
            Some(rotate) => rotate_signed(device, rotate).map(|()| None),
            None => upload(device, iq).map(Some),
        };
        return match outcome {
            Ok(uploaded) => {
                if let Some(keys) = uploaded {
                    state.counters.prekey_uploads += 1;
                    state.counters.prekeys_uploaded += keys as u64;
                    state.note("prekey-upload", client);
                } else {
                    state.counters.signed_key_rotations += 1;
                    state.note("signed-key-rotation", client);
                }
                Handled::reply(stanza::result(id, [])).then(After::Greet)
            }
            Err(error) => {
                state.counters.violation(&error.to_string());
                Handled::reply(stanza::error(id, 400, "bad-request"))
            }
        };
    }
    if iq.get_optional_child("count").is_some() {
        let count = NodeBuilder::new("count").attr("value", device.pool.len()).build();
        state.note("count", client);
        return Handled::reply(stanza::result(id, [count]));
    }
    if iq.get_optional_child("digest").is_some() {
        let digest = digest(device);
        state.note("digest", client);
        return Handled::reply(stanza::result(id, [digest]));
    }
    Handled::reply(stanza::result(id, []))
}

/// Checks that the identity signed the key, type byte included.
pub(crate) fn verify_signed_key(
    identity: &[u8],
    (_, key, signature): &(Vec<u8>, Vec<u8>, Vec<u8>),
) -> anyhow::Result<()> {
    let signer = PublicKey::from_djb_public_key_bytes(identity).context("an identity that is no key")?;
    let tagged = [&[5], key.as_slice()].concat();
    ensure!(signer.verify_signature(&tagged, signature), "a signed key whose signature does not verify");
    Ok(())
}

fn part(node: &Node, tag: &str, length: usize, what: &'static str) -> anyhow::Result<Vec<u8>> {
    child_content(node, tag).filter(|bytes| bytes.len() == length).map(<[u8]>::to_vec).context(what)
}

fn signed_key(node: &Node) -> anyhow::Result<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let key = node.get_optional_child("skey").context("no signed key in an upload")?;
    Ok((
        part(key, "id", 3, "a signed key with a bad id")?,
        part(key, "value", 32, "a signed key of a bad length")?,
        part(key, "signature", 64, "a signed key with a bad signature")?,
    ))
}

fn upload(device: &mut Device, iq: &Node) -> anyhow::Result<usize> {
    ensure!(child_content(iq, "type") == Some(&[5]), "an upload of a bad key type");
    ensure!(child_content(iq, "identity") == Some(&device.identity), "an upload under another identity");
    let registration = part(iq, "registration", 4, "an upload with a bad registration id")?;
    ensure!(registration == device.registration, "an upload under another registration id");
    let signed = signed_key(iq)?;
    verify_signed_key(&device.identity, &signed)?;
    let list = iq.get_optional_child("list").context("an upload without a list")?;
    let keys = children(list).iter().map(|key| {
        Ok((
            part(key, "id", 3, "a one-time key with a bad id")?,
            part(key, "value", 32, "a one-time key of a bad length")?,
        ))
    });
    let keys = keys.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!keys.is_empty(), "an upload of no keys");
    device.signed_key = signed;
    let count = keys.len();
    for (id, value) in keys {
        device.pool.retain(|(known, _)| *known != id);
        device.pool.push_back((id, value));
    }
    device.warned = false;
    Ok(count)
}

fn rotate_signed(device: &mut Device, rotate: &Node) -> anyhow::Result<()> {
    let signed = signed_key(rotate)?;
    verify_signed_key(&device.identity, &signed)?;
    device.signed_key = signed;
    Ok(())
}

fn signed_node((id, value, signature): &(Vec<u8>, Vec<u8>, Vec<u8>)) -> Node {
    NodeBuilder::new("skey").children([bytes("id", id), bytes("value", value), bytes("signature", signature)]).build()
}

fn digest(device: &Device) -> Node {
    let mut hash = Sha1::new();
    hash.update(device.identity);
    hash.update(&device.signed_key.1);
    hash.update(&device.signed_key.2);
    for (_, key) in &device.pool {
        hash.update(key);
    }
    let list = device.pool.iter().map(|(id, _)| bytes("id", id));
    NodeBuilder::new("digest")
        .children([
            bytes("registration", &device.registration),
            bytes("type", &[5]),
            bytes("identity", &device.identity),
            signed_node(&device.signed_key),
            NodeBuilder::new("list").children(list).build(),
            bytes("hash", &hash.finalize()),
        ])
        .build()
}

fn fetch(state: &mut State, sender: &Sender, id: &str, asked: &Node) -> Node {
    let refused = state.strike(&sender.address, |fault| matches!(fault, Fault::RefusePreKeys).then_some(()));
    if refused.is_some() {
        return stanza::error(id, 503, "service-unavailable");
    }
    state.counters.key_fetches += 1;
    state.note("prekey-fetch", sender.client);
    let users: Vec<Jid> = asked.get_children_by_tag("user").filter_map(|user| attr_jid(user, "jid")).collect();
    let bundles: Vec<Node> = users
        .iter()
        .map(|jid| {
            let user = NodeBuilder::new("user").attr("jid", jid);
            match bundle(state, jid) {
                Some(parts) => user.attr("t", stanza::now()).children(parts).build(),
                None => user.children([stanza::error_child(406, "not-acceptable")]).build(),
            }
        })
        .collect();
    stanza::result(id, [NodeBuilder::new("list").children(bundles).build()])
}

fn bundle(state: &mut State, jid: &Jid) -> Option<Vec<Node>> {
    let number = state.number_of(jid)?;
    if jid.device == 0 {
        let bundle = state.phone(&number)?.bundle().ok()?;
        let mut parts = vec![bytes("registration", &bundle.registration_id.to_be_bytes())];
        parts.extend(bundle.nodes());
        state.counters.one_time_keys_given += 1;
        return Some(parts);
    }
    let device = state.device_mut(&number, jid.device)?;
    let mut parts =
        vec![bytes("registration", &device.registration), bytes("type", &[5]), bytes("identity", &device.identity)];
    let one_time = device.pool.pop_front();
    if let Some((id, value)) = &one_time {
        parts.push(NodeBuilder::new("key").children([bytes("id", id), bytes("value", value)]).build());
    }
    parts.push(signed_node(&device.signed_key));
    parts.push(bytes("device-identity", &device.signed_identity));
    let left = device.pool.len();
    let warn = left < LOW && !device.warned;
    device.warned |= warn;
    if one_time.is_some() {
        state.counters.one_time_keys_given += 1;
    }
    if warn {
        let count = NodeBuilder::new("count").attr("value", left).build();
        let low = state.notification("encrypt").children([count]).build();
        state.deliver((&number, jid.device), Class::Notification, low);
    }
    Some(parts)
}
