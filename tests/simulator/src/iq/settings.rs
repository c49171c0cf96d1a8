//! The account's own settings and the server's properties: privacy, blocklist, about, picture, props, media hosts.

use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;

use crate::stanza::{self, attr, attr_is, attr_jid, child_content, content, first_child};
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
        "status" => {
            if let Some(about) = child_content(iq, "status")
                && let Some(account) = state.accounts.get_mut(&sender.address.number)
            {
                account.about = String::from_utf8_lossy(about).into_owned();
            }
            stanza::result(id, [])
        }
        "w:profile:picture" => picture(state, sender, id, iq, set),
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

fn picture(state: &mut State, sender: &Sender, id: &str, iq: &Node, set: bool) -> Node {
    state.note("picture", sender.client);
    let target = attr_jid(iq, "target").or_else(|| attr_jid(iq, "to").filter(|jid| !jid.user.is_empty()));
    if !set {
        let found = target.and_then(|jid| state.account_of(&jid)?.picture.clone());
        let Some((picture, _)) = found else { return stanza::error(id, 404, "item-not-found") };
        let path = format!("/pictures/{picture}.jpg");
        let node = NodeBuilder::new("picture")
            .attr("id", picture)
            .attr("type", "image")
            .attr("url", format!("https://pps.whatsapp.net{path}"))
            .attr("direct_path", path);
        return stanza::result(id, [node.build()]);
    }
    let serial = state.serial();
    let Some(account) = state.accounts.get_mut(&sender.address.number) else {
        return stanza::error(id, 404, "item-not-found");
    };
    if let Some(image) = first_child(iq).and_then(content) {
        let picture = format!("{}", 1_700_000_000 + serial);
        account.picture = Some((picture.clone(), image.to_vec()));
        stanza::result(id, [NodeBuilder::new("picture").attr("id", picture).build()])
    } else {
        account.picture = None;
        stanza::result(id, [])
    }
}

/// Hosts that every media object is on; tests redirect them to the control port.
pub(crate) fn media_conn(state: &mut State, sender: &Sender, id: &str) -> Node {
    state.note("media_conn", sender.client);
    let host = NodeBuilder::new("host")
        .attr("hostname", "mmg.whatsapp.net")
        .attr("type", "primary")
        .children([NodeBuilder::new("upload").build(), NodeBuilder::new("download").build()])
        .build();
    let media = NodeBuilder::new("media_conn")
        .attr("auth", "simulated")
        .attr("ttl", 3600)
        .attr("auth_ttl", 21_600)
        .attr("max_buckets", 12)
        .children([host]);
    stanza::result(id, [media.build()])
}
