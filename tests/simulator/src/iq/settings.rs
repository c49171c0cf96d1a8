//! The account's own settings and the server's properties: privacy, blocklist, props, media hosts.

use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;

use crate::stanza::{self, attr, attr_is, attr_jid};
use crate::state::{Sender, State};

pub(crate) fn answer(state: &mut State, sender: &Sender, id: &str, xmlns: &str, iq: &Node, set: bool) -> Node {
    match xmlns {
        "abt" | "w" => {
            state.note("props", sender.client);
            let protocol = if xmlns == "abt" { "1" } else { "2" };
            let props = NodeBuilder::new("props")
                .attr("protocol", protocol)
                .attr("ab_key", "sim")
                .attr("hash", "sim")
                .attr("refresh", 86_400)
                .attr("refresh_id", 1);
            stanza::result(id, [props.build()])
        }
        "privacy" => privacy(state, sender, id, iq, set),
        "blocklist" => blocklist(state, sender, id, iq, set),
        _ => stanza::result(id, []),
    }
}

fn privacy(state: &mut State, sender: &Sender, id: &str, iq: &Node, set: bool) -> Node {
    state.note("privacy", sender.client);
    let Some(account) = state.accounts.get_mut(&sender.address.number) else {
        return stanza::error(id, 404, "item-not-found");
    };
    if iq.get_optional_child("tokens").is_some() {
        state.note("privacy-tokens", sender.client);
        return stanza::result(id, []);
    }
    if set && let Some(asked) = iq.get_optional_child("privacy") {
        for category in asked.get_children_by_tag("category") {
            if let (Some(name), Some(value)) = (attr(category, "name"), attr(category, "value")) {
                account.privacy.insert(name, value);
            }
        }
    }
    let categories = account
        .privacy
        .iter()
        .map(|(name, value)| NodeBuilder::new("category").attr("name", name).attr("value", value).build());
    stanza::result(id, [NodeBuilder::new("privacy").children(categories).build()])
}

fn blocklist(state: &mut State, sender: &Sender, id: &str, iq: &Node, set: bool) -> Node {
    state.note("blocklist", sender.client);
    let item = iq.get_optional_child("item");
    let blocked = item.and_then(|item| attr_jid(item, "jid")).map(|jid| jid.to_non_ad().to_string());
    let Some(account) = state.accounts.get_mut(&sender.address.number) else {
        return stanza::error(id, 404, "item-not-found");
    };
    if let (true, Some(item), Some(blocked)) = (set, item, blocked) {
        if attr_is(item, "action", "unblock") {
            account.blocked.remove(&blocked);
        } else {
            account.blocked.insert(blocked);
        }
    }
    let items = account.blocked.iter().map(|jid| NodeBuilder::new("item").attr("jid", jid).build());
    let hash = format!("{}", account.blocked.len());
    stanza::result(id, [NodeBuilder::new("list").attr("dhash", hash).children(items).build()])
}

/// Hosts that every media object is on; tests redirect them to the control port.
pub(crate) fn media_conn(state: &mut State, sender: &Sender, id: &str) -> Node {
    state.note("media_conn", sender.client);
    let hosts = [("mmg.whatsapp.net", "primary"), ("mmg-fallback.whatsapp.net", "fallback")].map(|(name, kind)| {
        let children = [NodeBuilder::new("upload").build(), NodeBuilder::new("download").build()];
        NodeBuilder::new("host").attr("hostname", name).attr("type", kind).children(children).build()
    });
    let token = hex::encode(rand::random::<[u8; 24]>());
    state.media_tokens.insert(token.clone(), sender.clone());
    let media = NodeBuilder::new("media_conn")
        .attr("auth", token)
        .attr("ttl", 3600)
        .attr("auth_ttl", 21_600)
        .attr("max_buckets", 12)
        .children(hosts);
    stanza::result(id, [media.build()])
}
