//! The last word of a deleted session: its outbox is gone, so the registry keeps it until its delivery is decided.
//!
//! It is tried as long as any other event, over restarts, and never becomes a dead letter: a deletion leaves nothing behind that
//! could be listed or replayed, and what it tells stands in the list of sessions too. One that is dropped is logged.
//! One task posts them all, each on its own schedule. Which session has one pending, and for which receiver, is known to
//! the lanes, so that a new session of that name does not overtake it there: none of its events, until the farewell has
//! failed as often as lets a chat step aside; from then on only its status events, which would tell less in another order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reqwest::Url;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Webhook;
use super::attempt::{Flow, Outcome};
use crate::event::SessionName;
use crate::outbox::{NewEvent, Target};

/// How many farewells are worked on at a time; the rest waits in the registry for the next start.
pub const MAX_FAREWELLS: usize = 1_024;

/// Attempts at once: deletions in bulk shall not storm the receiver.
const AT_ONCE: usize = 8;

/// The last event of a session that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Names it where it is kept until it is delivered.
    pub key: Bytes,
    /// The session's name.
    pub session: SessionName,
    /// What is posted.
    pub event: NewEvent,
    /// The receiver that the session had of its own.
    pub target: Option<Target>,
    /// When it was deleted; as for other events, the age decides when delivery is given up.
    pub at: DateTime<Utc>,
}

/// Where farewells are handed in; cheap to clone. The task ends with the sink's token.
#[derive(Clone, Debug)]
pub struct Farewells {
    /// Bounded by [`MAX_FAREWELLS`].
    sender: mpsc::Sender<Farewell>,
    webhook: Webhook,
}

impl Farewells {
    /// Takes a farewell that is in the registry already; from now on lanes of that name and receiver wait for it.
    ///
    /// `false`: too many wait, or the sink has ended; it stays in the registry. One that is pending already is not
    /// taken twice.
    pub fn say(&self, farewell: Farewell) -> bool {
        let Ok(permit) = self.sender.try_reserve() else { return false };
        let place = self.webhook.inner.poster.place(farewell.target.as_ref());
        if self.webhook.inner.pending.add(&farewell, place) {
            permit.send(farewell);
        }
        true
    }

    /// Waits until nobody takes them any more.
    pub(super) async fn ended(&self) {
        self.sender.closed().await;
    }
}

pub(super) fn start<F, Fut>(webhook: Webhook, forget: F) -> Farewells
where
    F: Fn(Bytes) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel::<Farewell>(MAX_FAREWELLS);
    let farewells = Farewells { sender, webhook: webhook.clone() };
    let tracker = webhook.inner.tracker.clone();
    tracker.spawn(async move {
        let attempts = Semaphore::new(AT_ONCE);
        let mut under_way = FuturesUnordered::new();
        let ended = webhook.inner.token.clone();
        loop {
            tokio::select! {
                Some(farewell) = receiver.recv(), if under_way.len() < MAX_FAREWELLS => {
                    under_way.push(deliver(&webhook, &attempts, &forget, farewell));
                }
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                () = ended.cancelled() => break,
            }
        }
        // Each finishes its attempt under way and stops at its next wait.
        while under_way.next().await.is_some() {}
    });
    farewells
}

async fn deliver<F, Fut>(webhook: &Webhook, permits: &Semaphore, forget: &F, farewell: Farewell)
where
    F: Fn(Bytes) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut attempts = 0;
    loop {
        attempts += 1;
        let Farewell { session, event, target, at, .. } = &farewell;
        let mut outcome = {
            let _permit = permits.acquire().await;
            if webhook.inner.token.is_cancelled() {
                return;
            }
            webhook.try_once(session, event, target.as_ref(), *at, attempts).await
        };
        if let Outcome::Retry { wait, mut late, .. } = outcome {
            let policy = &webhook.inner.policy;
            let age = (Utc::now() - farewell.at).to_std().unwrap_or_default();
            // By its age, too: an earlier run has counted what this one does not know of.
            if attempts >= policy.aside_after || age >= policy.aside_age() {
                webhook.inner.pending.step_aside(&farewell);
            }
            outcome = tokio::select! {
                flow = webhook.pause(wait) => match flow {
                    Flow::Continue(()) => continue,
                    Flow::Break(()) => return,
                },
                outcome = webhook.decided_late(session, event, *at, attempts, &mut late) => outcome,
            };
        }
        if matches!(outcome, Outcome::Dead(..)) {
            let (session, event_id) = (&farewell.session, &farewell.event.event_id);
            tracing::warn!(%session, event_id, attempts, "a deleted session's last event is dropped: no receiver will take it");
        }
        break;
    }
    forget(farewell.key.clone()).await;
    webhook.inner.pending.remove(&farewell);
}

/// What farewells hold back of the next session of their name, and what ends that.
#[derive(Debug)]
pub(super) enum Hold {
    /// All.
    All(CancellationToken),
    /// What is the session's own, of no chat.
    Own(CancellationToken),
}

/// The farewells under way, by session and event.
#[derive(Default)]
pub(super) struct Pending {
    all: Mutex<HashMap<SessionName, HashMap<String, Waiting>>>,
}

struct Waiting {
    /// Where it is to go.
    place: Option<Url>,
    /// It is no longer under way.
    gone: CancellationToken,
    /// It has failed often, or is gone.
    aside: CancellationToken,
}

impl Pending {
    /// Whether it is new.
    fn add(&self, farewell: &Farewell, place: Option<Url>) -> bool {
        match self.lock().entry(farewell.session.clone()).or_default().entry(farewell.event.event_id.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                let gone = CancellationToken::new();
                free.insert(Waiting { place, aside: gone.child_token(), gone });
                true
            }
        }
    }

    fn step_aside(&self, farewell: &Farewell) {
        let all = self.lock();
        if let Some(waiting) = all.get(&farewell.session).and_then(|ids| ids.get(&farewell.event.event_id)) {
            waiting.aside.cancel();
        }
    }

    fn remove(&self, farewell: &Farewell) {
        let mut all = self.lock();
        let Some(left) = all.get_mut(&farewell.session) else { return };
        if let Some(waiting) = left.remove(&farewell.event.event_id) {
            waiting.gone.cancel();
        }
        if left.is_empty() {
            all.remove(&farewell.session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionName, HashMap<String, Waiting>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Webhook {
    /// What the farewells of this session's name hold back of what goes there; `None`: nothing.
    pub(super) fn hold(&self, session: &SessionName, target: Option<&Target>) -> Option<Hold> {
        let all = self.inner.pending.lock();
        let waiting = all.get(session)?;
        let place = self.inner.poster.place(target)?;
        let mut there = waiting.values().filter(|waiting| waiting.place.as_ref() == Some(&place)).peekable();
        let own = there.peek().map(|waiting| Hold::Own(waiting.gone.clone()));
        there.find(|waiting| !waiting.aside.is_cancelled()).map(|waiting| Hold::All(waiting.aside.clone())).or(own)
    }
}
