//! Sends that are asked for again: under one idempotency key a message goes out once, and all are told the same.
//!
//! The key and the message's id are stored before anything leaves. When WhatsApp has the message, the answer is kept;
//! until then, as after a kill or without an acknowledgement, a repeat sends again under the same id, by which
//! recipients know a message that they have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::entry::Entry;
use super::{SendError, SessionManager};
use crate::ledger::Kept;
use crate::message::{Outgoing, Recipient, Sent, Step};
use crate::store::KvError;

/// A request that may come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// What its sender names it by.
    pub key: String,
    /// What it says.
    pub digest: [u8; 32],
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Bytes,
}

/// How the HTTP edge spells what a send came to.
pub struct Spelling {
    /// The body of a success, as JSON.
    pub sent: fn(&Sent) -> String,
    /// The answer to a failure.
    pub failed: Box<dyn FnOnce(SendError) -> Answer + Send>,
}

impl std::fmt::Debug for Spelling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spelling").finish_non_exhaustive()
    }
}

/// Why a request with a key was not looked at further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnceError {
    /// No session of that name.
    #[error("Session does not exist")]
    NoSession,
    /// The key stands for a request that says something else.
    #[error("Idempotency-Key was used before with another request")]
    OtherRequest,
    /// The same request is still under way.
    #[error("A request with this Idempotency-Key is still under way")]
    UnderWay,
    /// The store refused; nothing was sent.
    #[error("The session store is not available")]
    Store,
}

type Outcome = Result<Answer, OnceError>;

/// What a request that is under way comes to, for those behind it.
type Behind = watch::Receiver<Option<Outcome>>;

/// What each key's first request says, and what it comes to.
type Firsts = HashMap<String, ([u8; 32], Behind)>;

/// The keyed requests of one session that are under way; bounded by the requests that the server takes at once.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<Firsts>);

/// The place of the first of several equal requests; given up when dropped.
struct Seat {
    entry: Arc<Entry>,
    key: String,
    outcome: watch::Sender<Option<Outcome>>,
}

/// Where a request stands among those that are under way.
enum Place {
    First(Seat),
    Behind(Behind),
}

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, Firsts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.entry.under_way.lock().remove(&self.key);
    }
}

/// What a send must keep before it leaves.
pub(super) struct Once<'a> {
    repeat: &'a Repeat,
    /// The id of an earlier try.
    pub(super) id: Option<String>,
    sent: fn(&Sent) -> String,
}

impl Once<'_> {
    /// Makes the key stand for this message.
    pub(super) async fn keep(&self, entry: &Entry, sent: &Sent, done: bool) -> Result<(), KvError> {
        let Repeat { key, digest } = self.repeat;
        let (id, at_ms) = (sent.id.clone(), chrono::Utc::now().timestamp_millis());
        let kept = Kept { digest: *digest, id, at_ms, done, body: (self.sent)(sent) };
        entry.follow.ledger.keep(key, &kept).await
    }
}

impl SessionManager {
    /// Sends a message unless this request was carried out before, and answers as the first time.
    ///
    /// An equal request that comes while it is under way waits for it, as long as a send may take. A failure is not kept:
    /// the next request tries again, under the same message id if anything may have left.
    ///
    /// # Errors
    /// By [`OnceError`].
    pub async fn send_once(
        &self,
        name: &str,
        to: Recipient,
        message: Outgoing,
        typing: bool,
        repeat: Repeat,
        spelling: Spelling,
    ) -> Result<Answer, OnceError> {
        let deadline = Instant::now() + self.0.settings.send_timeout;
        let entry = self.entry(name).ok_or(OnceError::NoSession)?;
        let mut outcome = match entry.place(&repeat)? {
            Place::Behind(outcome) => outcome,
            Place::First(seat) => {
                let outcome = seat.outcome.subscribe();
                let manager = self.clone();
                // On a task of its own: who hangs up after the request was taken still wants the message sent.
                self.0.requests.spawn(async move {
                    let done = manager.carry_out(&seat.entry, to, message, typing, &repeat, spelling).await;
                    // The place first: who has the outcome may come again with the key at once.
                    let outcome = seat.outcome.clone();
                    drop(seat);
                    outcome.send_replace(Some(done));
                });
                return outcome_of(outcome).await;
            }
        };
        match tokio::time::timeout_at(deadline, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(done)) => (*done).clone().unwrap_or(Err(OnceError::UnderWay)),
            Ok(Err(_)) | Err(_) => Err(OnceError::UnderWay),
        }
    }

    async fn carry_out(
        &self,
        entry: &Arc<Entry>,
        to: Recipient,
        message: Outgoing,
        typing: bool,
        repeat: &Repeat,
        spelling: Spelling,
    ) -> Result<Answer, OnceError> {
        let store = |error: KvError| {
            tracing::error!(session = %entry.name, %error, "an idempotency key can't be looked up");
            OnceError::Store
        };
        let success = |body: String| Answer { status: 200, body: body.into() };
        let kept = entry.follow.ledger.kept(&repeat.key).await.map_err(store)?;
        if let Some(kept) = &kept {
            if kept.digest != repeat.digest {
                return Err(OnceError::OtherRequest);
            }
            let arrived = async { Ok(entry.message(&kept.id).await?.is_some_and(|record| record.step >= Step::Sent)) };
            if kept.done || arrived.await.map_err(store)? {
                return Ok(success(kept.body.clone()));
            }
        }
        let once = Once { repeat, id: kept.map(|kept| kept.id), sent: spelling.sent };
        match self.send_now(entry.name.as_str(), to, message, typing, Some(&once)).await {
            Ok(sent) => {
                // Without it a repeat asks the message's state first, and then sends under the same id.
                if let Err(error) = once.keep(entry, &sent, true).await {
                    tracing::error!(session = %entry.name, %error, "the answer of a send is not kept for its repeats");
                }
                Ok(success((spelling.sent)(&sent)))
            }
            Err(error) => Ok((spelling.failed)(error)),
        }
    }
}

/// What the first request comes to; its task always ends, by a panic at worst.
async fn outcome_of(mut outcome: Behind) -> Outcome {
    let done = outcome.wait_for(Option::is_some).await;
    done.ok().and_then(|done| (*done).clone()).expect("a send with a key panicked")
}

impl Entry {
    /// Finds out whether a request is the first of its key that is under way.
    fn place(self: &Arc<Self>, repeat: &Repeat) -> Result<Place, OnceError> {
        let mut under_way = self.under_way.lock();
        if let Some((digest, outcome)) = under_way.get(&repeat.key) {
            return if *digest == repeat.digest {
                Ok(Place::Behind(outcome.clone()))
            } else {
                Err(OnceError::OtherRequest)
            };
        }
        let (outcome, behind) = watch::channel(None);
        under_way.insert(repeat.key.clone(), (repeat.digest, behind));
        Ok(Place::First(Seat { entry: Arc::clone(self), key: repeat.key.clone(), outcome }))
    }
}
