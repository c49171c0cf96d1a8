//! xmlns `w:sync:app:state`: five collections of sealed patches per account. The server reads none of them.

use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::waproto::buffa::{Message as _, MessageField};
use whatsapp_rust::waproto::whatsapp::{SyncdPatch, SyncdVersion};

use crate::stanza::{self, attr, child_content};
use crate::state::{Sender, State, notification};

/// A collection: its patches, the first of which is version 1.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    patches: Vec<Vec<u8>>,
}

impl Collection {
    /// A collection that starts with a patch of the phone.
    pub(crate) fn seeded(patch: Vec<u8>) -> Self {
        Self { patches: vec![patch] }
    }

    fn version(&self) -> usize {
        self.patches.len()
    }

    /// Patches after a version, each with its version filled in.
    fn since(&self, version: usize) -> impl Iterator<Item = Node> {
        self.patches.iter().enumerate().skip(version).map(|(place, patch)| {
            let mut decoded = SyncdPatch::decode_from_slice(patch).unwrap_or_default();
            decoded.version = MessageField::some(SyncdVersion { version: Some(place as u64 + 1) });
            stanza::bytes("patch", &decoded.encode_to_vec())
        })
    }
}

pub(crate) fn answer(state: &mut State, sender: &Sender, id: &str, iq: &Node) -> Node {
    let Some(sync) = iq.get_optional_child("sync") else { return stanza::error(id, 400, "bad-request") };
    state.note("app-state", sender.client);
    let collections: Vec<Node> =
        sync.get_children_by_tag("collection").filter_map(|asked| collection(state, sender, asked)).collect();
    stanza::result(id, [NodeBuilder::new("sync").children(collections).build()])
}

fn collection(state: &mut State, sender: &Sender, asked: &Node) -> Option<Node> {
    let name = attr(asked, "name")?;
    let known: usize = attr(asked, "version").and_then(|version| version.parse().ok()).unwrap_or(0);
    let patch = child_content(asked, "patch").map(<[u8]>::to_vec);
    let wrote = patch.is_some();
    let number = sender.address.number.clone();
    let collection = state.accounts.get_mut(&number)?.collections.entry(name.clone()).or_default();
    let answer = NodeBuilder::new("collection").attr("name", &name);
    if let Some(patch) = patch {
        if known != collection.version() {
            return Some(answer.attr("type", "error").children([stanza::error_child(409, "conflict")]).build());
        }
        if SyncdPatch::decode_from_slice(&patch).is_err() {
            state.counters.violation("an app state patch that does not decode");
            return Some(answer.attr("type", "error").children([stanza::error_child(400, "bad-request")]).build());
        }
        collection.patches.push(patch);
    }
    let version = collection.version();
    let answer = answer.attr("version", version).attr("has_more_patches", "false");
    let patches: Vec<Node> = if wrote { Vec::new() } else { collection.since(known).collect() };
    if wrote {
        state.note("app-state-write", sender.client);
        let changed = NodeBuilder::new("collection").attr("name", &name).attr("version", version).build();
        state.notify_companions(&number, Some(sender.address.device), |id| {
            notification("server_sync", id).children([changed.clone()]).build()
        });
    }
    Some(if patches.is_empty() {
        answer.build()
    } else {
        answer.children([NodeBuilder::new("patches").children(patches).build()]).build()
    })
}
