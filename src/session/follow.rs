//! Follows what becomes of sent messages: gathers what is heard of them and writes it in batches.
//!
//! Notes come from sends and from the library's tasks, which must not wait; a task that lives as long as there is
//! something to write takes them to the ledger, and what got further to the webhook's outbox.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::entry::Entry;
use super::{SessionManager, resume};
use crate::ledger::{Advance, Ledger, Note, Record};
use crate::message::Progress;
use crate::outbox::{Ack, CommitError, Kind, NewEvent};
use crate::store::KvError;

/// How long notes are gathered before they are written, buffered: with the time of a buffered write, what a killed process
/// forgets of them at most. Long enough that the steps of one message, or of many at once, are one write.
const GATHER: Duration = Duration::from_millis(50);
/// Notes that wait while the store does not take them; then the newest are dropped. Some 5 MB.
const MAX_WAITING: usize = 20_000;
/// The pause after a write that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Why the state of a message can't be told.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// No session of that name.
    #[error("Session does not exist")]
    NoSession,
    /// The session has sent no message of this id, or so long ago that it is forgotten.
    #[error("no such message")]
    NotFound,
    /// The store can't be read or written.
    #[error("The session store is not available")]
    Store(#[from] KvError),
}

/// One session's ledger and what is to be written there.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) ledger: Ledger,
    notes: Mutex<Notes>,
    /// Held from the planning of a batch until it is written; its waiters are the one task and look-ups.
    writing: tokio::sync::Mutex<()>,
    pub(super) tracker: TaskTracker,
    pub(super) token: CancellationToken,
    runtime: tokio::runtime::Handle,
}

#[derive(Debug, Default)]
struct Notes {
    waiting: Vec<Note>,
    /// Whether a task is there to write them.
    taken_care_of: bool,
}

impl Follow {
    /// Call within a runtime: the tasks run there, whoever takes the notes.
    pub(super) fn new(ledger: Ledger, tracker: TaskTracker, token: CancellationToken) -> Self {
        let (notes, writing) = (Mutex::default(), tokio::sync::Mutex::new(()));
        Self { ledger, notes, writing, tracker, token, runtime: tokio::runtime::Handle::current() }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Takes a note and returns at once; it is written a moment later.
    pub(super) fn note(self: &Arc<Self>, note: Note) {
        let mut notes = self.follow.notes();
        if notes.waiting.len() >= MAX_WAITING {
            tracing::warn!(session = %self.name, "the state of a sent message is lost: the store takes none");
            return;
        }
        notes.waiting.push(note);
        if !std::mem::replace(&mut notes.taken_care_of, true) {
            let entry = Arc::clone(self);
            let write = async move { entry.write_until_done().await };
            self.follow.tracker.spawn_on(write.in_current_span(), &self.follow.runtime);
        }
    }

    /// Notes how far a message got.
    pub(super) fn progress(self: &Arc<Self>, progress: Progress) {
        self.note(Note::Progress(progress));
    }

    async fn write_until_done(self: Arc<Self>) {
        let mut pause = GATHER;
        loop {
            let _stops = tokio::time::timeout(pause, self.follow.token.cancelled()).await;
            pause = GATHER;
            match self.write_notes().await {
                Ok(()) => {}
                // Deleted: nobody asks for them any more.
                Err(KvError::Fenced) => self.follow.notes().waiting.clear(),
                Err(error) => {
                    tracing::warn!(session = %self.name, %error, "the state of sent messages can't be written");
                    if self.follow.token.is_cancelled() {
                        self.follow.notes().taken_care_of = false;
                        return;
                    }
                    pause = AGAIN;
                }
            }
            let mut notes = self.follow.notes();
            if notes.waiting.is_empty() {
                notes.taken_care_of = false;
                return;
            }
        }
    }

    /// Writes what was noted. On an error all of it waits again. Not to be cancelled.
    async fn write_notes(&self) -> Result<(), KvError> {
        let _writing = self.follow.writing.lock().await;
        let notes = std::mem::take(&mut self.follow.notes().waiting);
        if notes.is_empty() {
            return Ok(());
        }
        let written = self.write_batch(&notes).await;
        if written.is_err() {
            let mut waiting = self.follow.notes();
            let newer = std::mem::replace(&mut waiting.waiting, notes);
            waiting.waiting.extend(newer);
        }
        written
    }

    async fn write_batch(&self, notes: &[Note]) -> Result<(), KvError> {
        let mut plan = self.follow.ledger.plan(notes).await?;
        let advances = std::mem::take(&mut plan.advances);
        // Few receivers want them, and each costs a hash and a body.
        if self.outbox.wants(Kind::Ack) {
            let event = |advance| (NewEvent::ack(&self.uid, &self.name, &ack(advance)), None);
            // Before the ledger: planned again after a failure they have the same ids, and the outbox takes each once.
            match self.commit(advances.into_iter().map(event).collect()).await {
                // Only messages are refused for lack of room: what an ack tells can be asked for.
                Ok(()) | Err(CommitError::Full) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        self.follow.ledger.carry_out(plan).await
    }

    /// What is known of a message, all notes taken so far included.
    pub(super) async fn message(self: &Arc<Self>, id: &str) -> Result<Option<Record>, KvError> {
        let entry = Arc::clone(self);
        // On a task of its own: who asks may hang up, and notes that are under way must not be lost with that.
        match self.follow.tracker.spawn(async move { entry.write_notes().await }).await {
            Ok(written) => written?,
            Err(error) => resume(error),
        }
        self.follow.ledger.message(id).await
    }
}

fn ack(advance: Advance) -> Ack {
    let Advance { id, to, step, at, code, participant } = advance;
    Ack { id, to, status: step, timestamp: at, participant, error: code }
}

impl SessionManager {
    /// How far a message got that this session sent.
    ///
    /// # Errors
    /// By [`MessageError`].
    pub async fn message(&self, name: &str, id: &str) -> Result<Record, MessageError> {
        let entry = self.entry(name).ok_or(MessageError::NoSession)?;
        entry.message(id).await?.ok_or(MessageError::NotFound)
    }
}
