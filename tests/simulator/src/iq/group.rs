//! xmlns `w:g2`: groups, their members and settings, and the news about them.

use std::collections::BTreeMap;

use whatsapp_rust::wacore_binary::{Jid, Node};
use whatsapp_rust::{NodeBuilder, Server};

use super::directory::text;
use super::profile::Picture;
use crate::counters::ClientKind;
use crate::network::DeviceAddress;
use crate::stanza::{self, attr, attr_is, attr_jid, bytes, child_content, children, content, element, first_child};
use crate::state::queue::Class;
use crate::state::{Sender, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Member,
    Admin,
    Creator,
}

/// A group. Members are kept by number, whatever the addressing mode.
#[derive(Debug)]
pub(crate) struct Group {
    id: String,
    subject: String,
    subject_time: u64,
    creation: u64,
    creator: String,
    pub(crate) lid_mode: bool,
    members: BTreeMap<String, Role>,
    /// Id, text, author's number, time.
    description: Option<(String, String, String, u64)>,
    locked: bool,
    pub(crate) announcement: bool,
    ephemeral: u64,
    invite: String,
    pub(crate) picture: Option<Picture>,
}

impl Group {
    pub(crate) fn has(&self, number: &str) -> bool {
        self.members.contains_key(number)
    }

    pub(crate) fn is_admin(&self, number: &str) -> bool {
        self.members.get(number).is_some_and(|role| *role != Role::Member)
    }

    /// Whether a member may change what the group shows: everybody, or admins of a locked one.
    pub(crate) fn may_edit(&self, number: &str) -> bool {
        self.has(number) && (!self.locked || self.is_admin(number))
    }

    pub(crate) fn numbers(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    fn jid(&self) -> Jid {
        Jid::group(self.id.as_str())
    }

    fn mode(&self) -> &'static str {
        if self.lid_mode { "lid" } else { "pn" }
    }
}

/// Makes a group of accounts that exist; the first becomes its creator.
pub(crate) fn create(state: &mut State, subject: &str, members: &[&str], lid_mode: bool) -> String {
    let id = new_id(state);
    create_as(state, id, subject, members, lid_mode)
}

/// An id of today's form.
fn new_id(state: &mut State) -> String {
    format!("1203{:014}", 63_000_000_000_u64 + state.serial())
}

/// The same under an id of any form.
pub(crate) fn create_as(state: &mut State, id: String, subject: &str, members: &[&str], lid_mode: bool) -> String {
    let creator = members.first().copied().unwrap_or_default().to_owned();
    let roles = members
        .iter()
        .enumerate()
        .map(|(place, number)| ((*number).to_owned(), if place == 0 { Role::Creator } else { Role::Member }));
    let roles: BTreeMap<String, Role> = roles.collect();
    let address = state.accounts.get(&creator).map(|account| account.address(0));
    let id = found(state, id, subject, &creator, roles, lid_mode);
    if let Some(address) = address {
        announce_creation(state, &id, &Sender { address, client: ClientKind::Phone }, false);
    }
    format!("{id}@g.us")
}

fn found(
    state: &mut State,
    id: String,
    subject: &str,
    creator: &str,
    members: BTreeMap<String, Role>,
    lid_mode: bool,
) -> String {
    let invite: [u8; 8] = rand::random();
    let group = Group {
        id: id.clone(),
        subject: subject.to_owned(),
        subject_time: stanza::now(),
        creation: stanza::now(),
        creator: creator.to_owned(),
        lid_mode,
        members,
        description: None,
        locked: false,
        announcement: false,
        ephemeral: 0,
        invite: hex::encode(invite),
        picture: None,
    };
    state.groups.insert(id.clone(), group);
    id
}

fn announce_creation(state: &mut State, id: &str, actor: &Sender, besides_actor: bool) {
    let Some(group) = state.groups.get(id) else { return };
    let create = NodeBuilder::new("create").attr("type", "new").children([node(state, group)]).build();
    tell(state, id, actor, besides_actor, &create, &[]);
}

pub(crate) fn answer(state: &mut State, sender: &Sender, id: &str, iq: &Node) -> Node {
    state.note("group-query", sender.client);
    let Some(to) = attr_jid(iq, "to") else { return stanza::error(id, 400, "bad-request") };
    let Some(asked) = first_child(iq) else { return stanza::error(id, 400, "bad-request") };
    if to.user.is_empty() {
        return server_wide(state, sender, id, asked);
    }
    let Some(group) = state.groups.get(to.user.as_str()) else { return stanza::error(id, 404, "item-not-found") };
    if !group.has(&sender.address.number) {
        return stanza::error(id, 403, "forbidden");
    }
    let set = attr_is(iq, "type", "set");
    let admin = group.is_admin(&sender.address.number);
    let open = !group.locked && matches!(asked.tag.as_ref(), "subject" | "description" | "ephemeral" | "not_ephemeral");
    if set && !admin && !open {
        return stanza::error(id, 403, "forbidden");
    }
    let group_id = group.id.clone();
    match asked.tag.as_ref() {
        "query" => stanza::result(id, [node(state, group)]),
        "invite" => {
            let code = group.invite.clone();
            let fresh: [u8; 8] = rand::random();
            let code = if set { hex::encode(fresh) } else { code };
            if let Some(group) = state.groups.get_mut(&group_id) {
                group.invite.clone_from(&code);
            }
            stanza::result(id, [NodeBuilder::new("invite").attr("code", code).build()])
        }
        "add" | "remove" | "promote" | "demote" => stanza::result(id, [participants(state, sender, &group_id, asked)]),
        "membership_approval_requests" => stanza::result(id, [element(&asked.tag).build()]),
        _ if set => setting(state, sender, &group_id, id, asked),
        _ => stanza::result(id, []),
    }
}

fn server_wide(state: &mut State, sender: &Sender, id: &str, asked: &Node) -> Node {
    let own = sender.address.number.clone();
    match asked.tag.as_ref() {
        "create" => {
            let mut members = BTreeMap::from([(own.clone(), Role::Creator)]);
            for participant in asked.get_children_by_tag("participant") {
                if let Some(number) = attr_jid(participant, "jid").and_then(|jid| state.number_of(&jid)) {
                    members.entry(number).or_insert(Role::Member);
                }
            }
            state.note("group-create", sender.client);
            let fresh = new_id(state);
            let group = found(state, fresh, &attr(asked, "subject").unwrap_or_default(), &own, members, true);
            announce_creation(state, &group, sender, true);
            state
                .groups
                .get(&group)
                .map_or_else(|| stanza::error(id, 500, "internal"), |group| stanza::result(id, [node(state, group)]))
        }
        "participating" => {
            let groups = state.groups.values().filter(|group| group.has(&own)).map(|group| node(state, group));
            stanza::result(id, [NodeBuilder::new("groups").children(groups.collect::<Vec<_>>()).build()])
        }
        "leave" => {
            let left: Vec<String> = asked
                .get_children_by_tag("group")
                .filter_map(|group| Some(attr_jid(group, "id")?.user.to_string()))
                .collect();
            let mut answers = Vec::new();
            for group in left {
                let jid = state.accounts.get(&own).map(|account| (account.number.clone(), account.lid.clone()));
                let (Some(known), Some((number, lid))) = (state.groups.get(&group), jid) else { continue };
                let member = if known.lid_mode { Jid::lid(lid) } else { Jid::pn(number) };
                let gone =
                    NodeBuilder::new("remove").children([NodeBuilder::new("participant").attr("jid", member).build()]);
                tell(state, &group, sender, true, &gone.build(), &[]);
                if let Some(group) = state.groups.get_mut(&group) {
                    group.members.remove(&own);
                }
                answers.push(NodeBuilder::new("group").attr("id", Jid::group(group)).build());
            }
            stanza::result(id, [NodeBuilder::new("leave").children(answers).build()])
        }
        "invite" => {
            let code = attr(asked, "code").unwrap_or_default();
            let Some(group) = state.groups.values().find(|group| group.invite == code) else {
                return stanza::error(id, 404, "item-not-found");
            };
            stanza::result(id, [node(state, group)])
        }
        _ => stanza::result(id, []),
    }
}

/// Adds, removes, promotes or demotes; answers each participant, with `error` where it did not apply.
fn participants(state: &mut State, sender: &Sender, group: &str, asked: &Node) -> Node {
    let mut done = Vec::new();
    let mut answers = Vec::new();
    let mut leaving = Vec::new();
    for participant in asked.get_children_by_tag("participant") {
        let Some(jid) = attr_jid(participant, "jid") else { continue };
        let answer = NodeBuilder::new("participant").attr("jid", &jid);
        let number = state.number_of(&jid);
        let code = match (number, state.groups.get_mut(group)) {
            (Some(number), Some(group)) => {
                let code = change(group, &asked.tag, &number);
                if code.is_none() {
                    if asked.tag == "remove" {
                        leaving.push(number.clone());
                    }
                    done.push(number);
                }
                code
            }
            _ => Some(404),
        };
        answers.push(match code {
            Some(code) => answer.attr("error", code).build(),
            None => answer.build(),
        });
    }
    if let Some(known) = state.groups.get(group)
        && !done.is_empty()
    {
        let entries = done.iter().map(|number| participant(state, known, number, None));
        let news = element(&asked.tag).children(entries.collect::<Vec<_>>()).build();
        tell(state, group, sender, true, &news, &leaving);
    }
    element(&asked.tag).children(answers).build()
}

/// `None` when done, else the error code.
fn change(group: &mut Group, what: &str, number: &str) -> Option<u16> {
    match (what, group.members.get(number).copied()) {
        ("add", None) | ("demote", Some(Role::Admin)) => {
            group.members.insert(number.to_owned(), Role::Member);
            None
        }
        ("add", Some(_)) => Some(409),
        ("remove", Some(role)) if role != Role::Creator => {
            group.members.remove(number);
            None
        }
        ("promote", Some(Role::Member)) => {
            group.members.insert(number.to_owned(), Role::Admin);
            None
        }
        (_, None) => Some(404),
        _ => Some(406),
    }
}

fn setting(state: &mut State, sender: &Sender, group_id: &str, id: &str, asked: &Node) -> Node {
    let own = sender.address.number.clone();
    let Some(group) = state.groups.get_mut(group_id) else { return stanza::error(id, 404, "item-not-found") };
    let mut news = element(&asked.tag);
    match asked.tag.as_ref() {
        "subject" => {
            group.subject = String::from_utf8_lossy(content(asked).unwrap_or_default()).into_owned();
            group.subject_time = stanza::now();
            news = news.attr("subject", &group.subject).attr("s_t", group.subject_time);
        }
        "description" => {
            let body = child_content(asked, "body").map(|body| String::from_utf8_lossy(body).into_owned());
            let desc = attr(asked, "id").unwrap_or_default();
            news = news.attr("id", &desc);
            group.description = match body {
                Some(body) if !attr_is(asked, "delete", "true") => {
                    news = news.children([text("body", &body)]);
                    Some((desc, body, own, stanza::now()))
                }
                _ => None,
            };
        }
        "locked" => group.locked = true,
        "unlocked" => group.locked = false,
        "announcement" => group.announcement = true,
        "not_announcement" => group.announcement = false,
        "ephemeral" => {
            group.ephemeral = attr(asked, "expiration").and_then(|secs| secs.parse().ok()).unwrap_or(0);
            news = news.attr("expiration", group.ephemeral);
        }
        "not_ephemeral" => group.ephemeral = 0,
        _ => return stanza::result(id, children(asked).first().map(|_| element(&asked.tag).build())),
    }
    tell(state, group_id, sender, true, &news.build(), &[]);
    stanza::result(id, [])
}

/// Tells all members' companions, and those who are leaving. The acting device itself learns from its answer, but its
/// account's other companions are told; `besides_actor` leaves the acting device out.
fn tell(state: &mut State, group: &str, actor: &Sender, besides_actor: bool, news: &Node, leaving: &[String]) {
    let Some(known) = state.groups.get(group) else { return };
    let DeviceAddress { number, lid, device } = actor.address.clone();
    let by = if known.lid_mode { Jid::lid(lid.as_str()) } else { Jid::pn(number.as_str()) };
    let (jid, mode, mut told) = (known.jid(), known.mode(), known.numbers());
    told.extend(leaving.iter().cloned());
    let name = state.accounts.get(&number).map(|account| account.push_name.clone()).unwrap_or_default();
    for member in told {
        for companion in state.companions(&member) {
            if besides_actor && member == number && companion == device {
                continue;
            }
            let serial = state.serial();
            let notification = NodeBuilder::new("notification")
                .attr("from", &jid)
                .attr("type", "w:gp2")
                .attr("id", format!("n.{serial}"))
                .attr("participant", &by)
                .attr("participant_pn", Jid::pn(number.as_str()))
                .attr("addressing_mode", mode)
                .attr("t", stanza::now())
                .attr("notify", &name)
                .children([news.clone()])
                .build();
            state.deliver((&member, companion), Class::Notification, notification);
        }
    }
}

fn participant(state: &State, group: &Group, number: &str, role: Option<Role>) -> Node {
    let lid = state.accounts.get(number).map(|account| account.lid.clone()).unwrap_or_default();
    let participant = NodeBuilder::new("participant");
    let participant = if group.lid_mode {
        participant.attr("jid", Jid::lid(lid)).attr("phone_number", Jid::pn(number))
    } else {
        participant.attr("jid", Jid::pn(number)).attr("lid", Jid::lid(lid))
    };
    match role {
        Some(Role::Creator) => participant.attr("type", "superadmin").build(),
        Some(Role::Admin) => participant.attr("type", "admin").build(),
        _ => participant.build(),
    }
}

/// The whole group, as queries and creations show it.
fn node(state: &State, group: &Group) -> Node {
    let user = |number: &str| {
        let lid = state.accounts.get(number).map(|account| account.lid.clone()).unwrap_or_default();
        if group.lid_mode { Jid::new(lid, Server::Lid) } else { Jid::pn(number) }
    };
    let mut parts: Vec<Node> =
        group.members.iter().map(|(number, role)| participant(state, group, number, Some(*role))).collect();
    if let Some((id, body, author, time)) = &group.description {
        let description =
            NodeBuilder::new("description").attr("id", id).attr("participant", user(author)).attr("t", *time);
        parts.push(description.children([text("body", body)]).build());
    }
    if group.locked {
        parts.push(element("locked").build());
    }
    if group.announcement {
        parts.push(element("announcement").build());
    }
    if group.ephemeral > 0 {
        parts.push(NodeBuilder::new("ephemeral").attr("expiration", group.ephemeral).build());
    }
    parts.push(bytes("member_add_mode", b"all_member_add"));
    NodeBuilder::new("group")
        .attr("id", &group.id)
        .attr("subject", &group.subject)
        .attr("s_t", group.subject_time)
        .attr("s_o", user(&group.creator))
        .attr("s_o_pn", Jid::pn(group.creator.as_str()))
        .attr("creation", group.creation)
        .attr("creator", user(&group.creator))
        .attr("creator_pn", Jid::pn(group.creator.as_str()))
        .attr("addressing_mode", group.mode())
        .attr("size", group.members.len())
        .attr("a_v_id", "0")
        .attr("p_v_id", "0")
        .children(parts)
        .build()
}
