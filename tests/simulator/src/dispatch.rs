//! One stanza in, its direct replies out: the code path that sockets and phones share.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;

use crate::counters::ClientKind;
use crate::fault::Fault;
use crate::iq;
use crate::route;
use crate::server::Core;
use crate::stanza::{SERVER, attr, attr_is};
use crate::state::account::Phase;
use crate::state::queue::Class;
use crate::state::{Sender, State};

/// Stanzas of the backlog that go out before the client pulls.
const FIRST_BATCH: usize = 10;
/// Stanzas per pull.
const BATCH: usize = 200;
/// A client that does not pull gets the rest of its backlog after this.
const PULL_LIMIT: Duration = Duration::from_secs(3);

/// What handling a stanza asks for besides replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Send the backlog and its end.
    Drain,
    /// See whether the phone should greet the companion now.
    Greet,
    /// The companion has unlinked itself.
    Close,
    /// Close as soon as the replies are written.
    CloseNow,
    /// Drop the connection without a word.
    Abort,
}

/// Replies and what else is to be done.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    pub(crate) replies: Vec<Node>,
    pub(crate) after: Option<After>,
    /// Hold the replies back that long.
    pub(crate) delay: Option<Duration>,
}

impl Handled {
    pub(crate) fn reply(node: Node) -> Self {
        Self { replies: vec![node], ..Self::default() }
    }

    pub(crate) fn then(mut self, after: After) -> Self {
        self.after = Some(after);
        self
    }
}

impl Core {
    /// A stanza of a companion's connection.
    pub(crate) fn dispatch(self: &Arc<Self>, sender: &Sender, link: Option<u64>, node: &Node) {
        let handled = self.with(|state| handle(state, sender, link, node));
        let Some(id) = link else { return };
        match handled.delay {
            Some(delay) => {
                let core = Arc::clone(self);
                let sender = sender.clone();
                self.tracker.spawn(async move {
                    tokio::select! {
                        () = core.token.cancelled() => {}
                        () = sleep(delay) => core.finish(&sender, id, handled),
                    }
                });
            }
            None => self.finish(sender, id, handled),
        }
    }

    /// A stanza of a phone, or of anybody without a connection.
    pub(crate) fn handle(self: &Arc<Self>, sender: &Sender, link: Option<u64>, node: &Node) -> Vec<Node> {
        self.with(|state| handle(state, sender, link, node)).replies
    }

    fn finish(self: &Arc<Self>, sender: &Sender, id: u64, handled: Handled) {
        let (number, device) = (sender.address.number.clone(), sender.address.device);
        self.with(|state| {
            if let Some(link) = state.links.get(&id) {
                for reply in handled.replies {
                    link.send(reply);
                }
                match handled.after {
                    Some(After::Close) => link.close(),
                    Some(After::CloseNow) => link.close_after(Duration::ZERO),
                    Some(After::Abort) => link.token.cancel(),
                    _ => {}
                }
            }
        });
        match handled.after {
            Some(After::Drain) => self.start_drain(number, device, id),
            Some(After::Greet) => self.greet(&number, device),
            _ => {}
        }
    }

    fn start_drain(self: &Arc<Self>, number: String, device: u16, id: u64) {
        let waiting = self.with(|state| begin_drain(state, &number, device, id));
        match waiting {
            None => {}
            Some(0) => {
                self.with(|state| end_drain(state, &number, device, id, 0));
                self.greet(&number, device);
            }
            Some(_) => {
                let core = Arc::clone(self);
                self.tracker.spawn(async move {
                    let token = core.token.clone();
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = core.drain(&number, device, id) => core.greet(&number, device),
                    }
                });
            }
        }
    }

    /// Sends the backlog: a few stanzas at once, the rest as the client pulls, then the end marker.
    async fn drain(self: &Arc<Self>, number: &str, device: u16, id: u64) {
        let Some(pull) = self.with(|state| state.links.get(&id).map(|link| Arc::clone(&link.pull))) else { return };
        let mut sent = 0;
        let mut batch = FIRST_BATCH;
        loop {
            let finished = self.with(|state| {
                let taken = match state.device_mut(number, device) {
                    Some(target) if target.link == Some(id) => target.queue.take(batch),
                    _ => return true,
                };
                if taken.is_empty() {
                    end_drain(state, number, device, id, sent);
                    return true;
                }
                sent += taken.len();
                state.counters.offline_delivered += taken.len() as u64;
                if let Some(link) = state.links.get(&id) {
                    for (place, mut stanza) in taken.into_iter().enumerate() {
                        stanza.attrs.insert("offline", place);
                        link.send(stanza);
                    }
                }
                state.device(number, device).is_none_or(|target| target.queue.waiting() == [0; 3]) && {
                    end_drain(state, number, device, id, sent);
                    true
                }
            });
            if finished {
                return;
            }
            if timeout(PULL_LIMIT, pull.notified()).await.is_err() {
                tracing::debug!("the client does not pull its backlog");
            }
            batch = BATCH;
        }
    }

    /// Lets the phone greet a companion, once it is live and has one-time keys.
    pub(crate) fn greet(self: &Arc<Self>, number: &str, device: u16) {
        let phone = self.with(|state| {
            let target = state.device_mut(number, device)?;
            if target.greeted || target.phase != Phase::Live || target.pool.is_empty() {
                return None;
            }
            target.greeted = true;
            state.phone(number).cloned()
        });
        if let Some(phone) = phone {
            self.tracker.spawn(async move {
                if let Err(error) = phone.greet(device).await {
                    tracing::warn!(%error, "a phone could not greet its companion");
                }
            });
        }
    }
}

/// Sends the routing information and the preview. Returns how many stanzas wait; `None` if this is not the login's first
/// request to be active.
fn begin_drain(state: &mut State, number: &str, device: u16, id: u64) -> Option<usize> {
    let target = state.device_mut(number, device)?;
    if target.phase != Phase::Passive || target.link != Some(id) {
        return None;
    }
    target.phase = Phase::Draining;
    let [messages, receipts, notifications] = target.queue.waiting();
    let count = messages + receipts + notifications;
    let client = target.client;
    let link = state.links.get(&id)?;
    let routing = NodeBuilder::new("routing_info").bytes(vec![0x08, 0x0a, 0x08, 0x05]).build();
    link.send(ib(NodeBuilder::new("edge_routing").children([routing]).build()));
    let preview = NodeBuilder::new("offline_preview")
        .attr("count", count)
        .attr("message", messages)
        .attr("receipt", receipts)
        .attr("notification", notifications)
        .attr("call", 0)
        .attr("appdata", 0)
        .attr("status", 0);
    link.send(ib(preview.build()));
    if count > 0 {
        state.note("offline-backlog", client);
    }
    Some(count)
}

fn end_drain(state: &mut State, number: &str, device: u16, id: u64, count: usize) {
    let Some(target) = state.device_mut(number, device) else { return };
    if target.link != Some(id) || target.phase != Phase::Draining {
        return;
    }
    target.phase = Phase::Live;
    let late = target.queue.take(usize::MAX);
    let Some(link) = state.links.get(&id) else { return };
    link.send(ib(NodeBuilder::new("offline").attr("count", count).build()));
    for stanza in late {
        link.send(stanza);
    }
}

fn ib(child: Node) -> Node {
    NodeBuilder::new("ib").attr("from", SERVER).children([child]).build()
}

fn handle(state: &mut State, sender: &Sender, link: Option<u64>, node: &Node) -> Handled {
    match node.tag.as_ref() {
        "iq" => query(state, sender, link, node),
        "message" => route::message::handle(state, sender, node),
        "receipt" => route::receipt::handle(state, sender, node),
        "ack" => {
            acknowledge(state, sender, node);
            Handled::default()
        }
        "presence" => {
            route::presence::presence(state, sender, node);
            Handled::default()
        }
        "chatstate" => {
            route::presence::chatstate(state, sender, node);
            Handled::default()
        }
        "ib" => {
            if node.get_optional_child("offline_batch").is_some() {
                state.note("offline-batch", sender.client);
                if let Some(link) = link.and_then(|id| state.links.get(&id)) {
                    link.pull.notify_one();
                }
            }
            Handled::default()
        }
        "notification" | "call" => {
            if sender.client == ClientKind::Phone && attr_is(node, "type", "mediaretry") {
                route::receipt::media_retry(state, sender, node);
            }
            let mut ack = NodeBuilder::new("ack").attr("class", node.tag.as_ref()).attr("from", SERVER);
            if let Some(id) = attr(node, "id") {
                ack = ack.attr("id", id);
            }
            Handled::reply(ack.build())
        }
        other => {
            tracing::debug!(tag = other, "a stanza that needs no answer");
            Handled::default()
        }
    }
}

fn query(state: &mut State, sender: &Sender, link: Option<u64>, node: &Node) -> Handled {
    let Some(id) = attr(node, "id") else {
        state.counters.violation("a query without id");
        return Handled::default();
    };
    if attr_is(node, "type", "result") || attr_is(node, "type", "error") {
        let waiting = link.and_then(|link| state.links.get_mut(&link)?.pending.remove(&id));
        if waiting.is_some_and(|waiting| waiting.send(node.clone()).is_err()) {
            tracing::debug!("a result came too late");
        }
        return Handled::default();
    }
    let xmlns = attr(node, "xmlns").unwrap_or_default();
    *state.counters.queries.entry(xmlns.clone()).or_default() += 1;
    let dropped = |fault: &Fault| match fault {
        Fault::DropAnswers { xmlns: named } if named.is_empty() || *named == xmlns => Some(()),
        _ => None,
    };
    if sender.client != ClientKind::Phone && state.strike(&sender.address, dropped).is_some() {
        return Handled::default();
    }
    let mut handled = iq::answer(state, sender, &id, &xmlns, node);
    let slow = |fault: &Fault| if let Fault::SlowAnswers { delay } = fault { Some(*delay) } else { None };
    if sender.client != ClientKind::Phone {
        handled.delay = state.strike(&sender.address, slow);
    }
    handled
}

/// Takes what a client acknowledges out of its queue.
fn acknowledge(state: &mut State, sender: &Sender, ack: &Node) {
    let (Some(class), Some(id)) = (attr(ack, "class"), attr(ack, "id")) else {
        state.counters.violation("an ack without class or id");
        return;
    };
    if let Some(code) = attr(ack, "error") {
        *state.counters.client_nacks.entry(code).or_default() += 1;
    }
    if let Some(class) = Class::of(&class)
        && let Some(device) = state.device_mut(&sender.address.number, sender.address.device)
    {
        device.queue.acknowledge(class, &id, ack);
    }
}
