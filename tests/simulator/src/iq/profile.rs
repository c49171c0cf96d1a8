//! xmlns `w:profile:picture` and `status`: pictures of people and groups, and about texts.

use bytes::Bytes;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder, Server};

use crate::counters::ClientKind;
use crate::server::Core;
use crate::stanza::{self, attr, attr_is, attr_jid, content, first_child};
use crate::state::account::Account;
use crate::state::{Sender, State};

/// Where pictures are on the picture host; a client that follows the URL is answered by `Core::picture`.
const FOLDER: &str = "/pictures/";

/// A picture as it was set; the server makes no smaller ones, previews have the same bytes at another path.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) id: String,
    image: Bytes,
}

/// An about text.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) text: String,
    /// Seconds since 1970 at which it was set.
    pub(crate) time: u64,
}

impl Account {
    /// Whether a setting like `profile` keeps something from somebody. Contact lists are not known here, so only `none`
    /// hides.
    pub(crate) fn hides(&self, setting: &str, from: &Sender) -> bool {
        from.address.number != self.number && self.privacy.get(setting).is_some_and(|value| value == "none")
    }

    pub(crate) fn about_node(&self, asker: &Sender) -> Node {
        if self.hides("status", asker) {
            return NodeBuilder::new("status").attr("code", 401).build();
        }
        NodeBuilder::new("status").attr("t", self.about.time).bytes(self.about.text.as_bytes()).build()
    }
}

/// Sets the own about text, or tells those of others by the old query.
pub(crate) fn about(state: &mut State, sender: &Sender, id: &str, iq: &Node, set: bool) -> Node {
    let Some(asked) = iq.get_optional_child("status") else { return stanza::error(id, 400, "bad-request") };
    if !set {
        let users = asked.get_children_by_tag("user").filter_map(|user| {
            let jid = attr_jid(user, "jid")?;
            let account = state.account_of(&jid)?;
            let mut about = account.about_node(sender);
            about.tag = "user".into();
            Some(stanza::with_attr(about, "jid", jid))
        });
        return stanza::result(id, [NodeBuilder::new("status").children(users.collect::<Vec<_>>()).build()]);
    }
    state.note("about-set", sender.client);
    // Phones live in this process and may say since when.
    let phone = sender.client == ClientKind::Phone;
    let time = attr(asked, "t").filter(|_| phone).and_then(|time| time.parse().ok()).unwrap_or_else(stanza::now);
    let text = String::from_utf8_lossy(content(asked).unwrap_or_default()).into_owned();
    let Some(account) = state.accounts.get_mut(&sender.address.number) else {
        return stanza::error(id, 404, "item-not-found");
    };
    account.about = About { text, time };
    stanza::result(id, [])
}

pub(crate) fn picture(state: &mut State, sender: &Sender, id: &str, iq: &Node, set: bool) -> Node {
    let target = attr_jid(iq, "target").or_else(|| attr_jid(iq, "to").filter(|jid| !jid.user.is_empty()));
    let group = target.as_ref().is_some_and(|jid| jid.server == Server::Group);
    let action = if set { "-set" } else { "" };
    state.note(&format!("{}picture{action}", if group { "group-" } else { "" }), sender.client);
    let outcome = match (set, target) {
        (false, Some(target)) => shown(state, sender, &target).and_then(|picture| tell(&picture, iq)),
        (false, None) => Err((400, "bad-request")),
        (true, target) => change(state, sender, target.filter(|_| group).as_ref(), iq),
    };
    match outcome {
        Ok(picture) => stanza::result(id, picture),
        Err((code, text)) => stanza::error(id, code, text),
    }
}

type Refusal = (u16, &'static str);

const NOT_FOUND: Refusal = (404, "item-not-found");
const FORBIDDEN: Refusal = (403, "forbidden");

/// The picture of a user or group, if the asker may see it.
fn shown(state: &State, sender: &Sender, target: &Jid) -> Result<Picture, Refusal> {
    if target.server == Server::Group {
        let group = state.groups.get(target.user.as_str()).ok_or(NOT_FOUND)?;
        if !group.has(&sender.address.number) {
            return Err(FORBIDDEN);
        }
        return group.picture.clone().ok_or(NOT_FOUND);
    }
    let account = state.account_of(target).ok_or(NOT_FOUND)?;
    if account.hides("profile", sender) {
        return Err((401, "not-authorized"));
    }
    account.picture.clone().ok_or(NOT_FOUND)
}

/// A picture as a query wants it: its URL, or itself.
fn tell(picture: &Picture, iq: &Node) -> Result<Option<Node>, Refusal> {
    let asked = first_child(iq).filter(|asked| asked.tag == "picture").ok_or((400, "bad-request"))?;
    if attr(asked, "id").as_deref() == Some(&picture.id) {
        return Ok(Some(NodeBuilder::new("picture").build()));
    }
    let kind = if attr_is(asked, "type", "image") { "image" } else { "preview" };
    let node = NodeBuilder::new("picture").attr("id", &picture.id).attr("type", kind);
    if !attr_is(asked, "query", "url") {
        return Ok(Some(node.bytes(picture.image.to_vec()).build()));
    }
    let suffix = if kind == "image" { "" } else { "-preview" };
    let path = format!("{FOLDER}{}{suffix}.jpg", picture.id);
    Ok(Some(node.attr("url", format!("https://pps.whatsapp.net{path}")).attr("direct_path", path).build()))
}

/// Sets or removes the picture of the own account or of a group.
fn change(state: &mut State, sender: &Sender, group: Option<&Jid>, iq: &Node) -> Result<Option<Node>, Refusal> {
    let image = first_child(iq).and_then(content).filter(|image| !image.is_empty());
    let serial = state.serial();
    let picture =
        image.map(|image| Picture { id: (1_700_000_000 + serial).to_string(), image: Bytes::copy_from_slice(image) });
    let answer = picture.as_ref().map(|picture| NodeBuilder::new("picture").attr("id", &picture.id).build());
    let own = &sender.address.number;
    match group {
        Some(jid) => {
            let group = state.groups.get_mut(jid.user.as_str()).ok_or(NOT_FOUND)?;
            if !group.may_edit(own) {
                return Err(FORBIDDEN);
            }
            group.picture = picture;
        }
        None => state.accounts.get_mut(own).ok_or(NOT_FOUND)?.picture = picture,
    }
    Ok(answer)
}

impl Core {
    /// A picture by its path on the picture host.
    pub(crate) fn picture(&self, path: &str) -> Option<Bytes> {
        let id = path.strip_prefix(FOLDER)?.strip_suffix(".jpg")?;
        let id = id.strip_suffix("-preview").unwrap_or(id);
        self.with(|state| {
            let people = state.accounts.values().filter_map(|account| account.picture.as_ref());
            let groups = state.groups.values().filter_map(|group| group.picture.as_ref());
            let found = people.chain(groups).find(|picture| picture.id == id)?;
            Some(found.image.clone())
        })
    }
}
