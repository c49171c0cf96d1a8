//! Brings the stored sessions back when the gateway starts.
//!
//! All are listed first, by what the registry knows of them; what else is stored of each is read after that, one session
//! after the other, so that a thousand of them do not keep the gateway from serving. Damage of one session is no other's
//! trouble: it is listed as damaged, and the others go on.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;

use super::entry::Entry;
use super::state::{Damage, State};
use super::{SessionManager, task};
use crate::store::backend::{SessionBackend, Stored};
use crate::store::registry::{EndedBy, RecordState, SessionRecord};
use crate::store::{KvError, Namespace};

/// Sessions whose rows are read at the same time: two hide the way to a store, more only crowd it.
const READERS: usize = 2;

/// How long the sessions behind one wait for a verb on it.
const TURN: Duration = Duration::from_millis(100);

/// The pause before a store that gave no answer is asked again, which doubles each time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The longest such pause.
const ASK_SELDOM: Duration = Duration::from_secs(30);

/// Sessions that are listed, and of which nothing else is read yet.
#[must_use = "they stay as they are until it begins"]
pub struct Restoring {
    manager: SessionManager,
    listed: Vec<Arc<Entry>>,
    /// Held until all are looked through: until then not everything is restored.
    until_done: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Restoring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restoring").field("listed", &self.listed.len()).finish_non_exhaustive()
    }
}

impl Restoring {
    /// Goes through them on a task of its own. To be called when the gateway serves: it takes all that the cores have.
    pub fn begin(self) {
        let Self { manager, listed, until_done } = self;
        manager.0.tracker.clone().spawn(async move {
            let _until_done = until_done;
            let through = futures::stream::iter(listed).for_each_concurrent(READERS, async |entry| {
                manager.bring_back(&entry).await;
            });
            tokio::select! {
                () = manager.0.stopping.cancelled() => {}
                () = through => {}
            }
        });
    }
}

impl SessionManager {
    /// Finishes deletions and logouts that a crash cut short, then brings back every session that a phone has accepted.
    ///
    /// Returns once all are listed; [`Restoring::begin`] looks them through in the background, and they connect a few at a
    /// time. Sessions that were never scanned are forgotten (wa-gateway 4.7.1 does not keep them either); logged-out,
    /// stopped and moved ones stay listed.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub async fn restore(&self) -> Result<Restoring, KvError> {
        let manager = &self.0;
        if let Err(error) = manager.registry.mend().await {
            tracing::warn!(%error, "damaged rows of the list of sessions could not be mended");
        }
        let mut taken = Vec::new();
        for record in manager.registry.deletions().await? {
            // One that can't be read is no reason not to start: what can be is finished in the background.
            if !record.away && self.backend(&record.uid).has_device().await.unwrap_or(true) {
                taken.push(record.uid.clone());
                let finishing = Arc::clone(manager);
                manager.tracker.spawn(async move { finishing.finish_deletion(&record).await });
            }
        }
        let records = manager.registry.list().await?;
        for record in records.iter().filter(|record| is_logged_out_by_us(record)) {
            // One that can't be read is no reason not to start.
            if self.backend(&record.uid).has_device().await.unwrap_or(true) {
                taken.push(record.uid.clone());
            }
        }
        manager.registry.recover(&taken, |record| manager.farewell_row(record)).await?;
        let mut listed = Vec::new();
        for record in records {
            if self.was_never_scanned(&record).await? {
                manager.kv.drop_namespace(&Namespace::credentials(&record.uid)).await?;
                manager.registry.mark_deleting(&record.uid).await?;
                manager.registry.erase(&record.uid).await?;
                manager.registry.forget(&record.uid, None).await?;
                continue;
            }
            let state = match record.state {
                _ if record.away => State::Moved,
                RecordState::LoggedOut | RecordState::Deleting => State::LoggedOut,
                RecordState::Stopped => State::Stopped,
                RecordState::Live => State::Connecting,
            };
            let entry = self.make(record, state);
            self.enlist(&entry);
            if taken.contains(&entry.uid) {
                // Nobody asks for anything yet: the turn is free, and a start of the name comes after it.
                let turn = manager.turns.take(entry.name.as_str()).await;
                let (finishing, entry) = (self.clone(), Arc::clone(&entry));
                manager.tracker.spawn(async move {
                    finishing.finish_logout(&entry).await;
                    drop(turn);
                });
            }
            listed.push(entry);
        }
        let restored = listed.iter().filter(|entry| entry.view().state == State::Connecting).count();
        if restored > 0 {
            tracing::info!(restored, "bringing sessions back");
        }
        let until_done = Arc::clone(&manager.restoring).try_acquire_owned().ok();
        Ok(Restoring { manager: self.clone(), listed, until_done })
    }

    /// Whether nobody ever scanned its code. An account in the record, or a device that can't be read, says that somebody did.
    async fn was_never_scanned(&self, record: &SessionRecord) -> Result<bool, KvError> {
        if record.away || record.state == RecordState::LoggedOut || record.details.is_some() {
            return Ok(false);
        }
        match self.backend(&record.uid).stored().await {
            Ok(Stored::Absent | Stored::Unpaired) => Ok(true),
            Ok(Stored::Paired | Stored::Damaged) => Ok(false),
            Err(error) => {
                tracing::warn!(session = %record.name, %error, "the keys of a session can't be read");
                Ok(false)
            }
        }
    }

    /// Settles a listed session, now or as soon as it can be.
    async fn bring_back(&self, entry: &Arc<Entry>) {
        match tokio::time::timeout(TURN, self.0.turns.take(entry.name.as_str())).await {
            Ok(_turn) => match self.settle(entry).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(session = %entry.name, %error, "a session's rows can't be read"),
            },
            Err(_elapsed) => {
                tracing::debug!(session = %entry.name, "a verb is under way; the session is read after it");
            }
        }
        // Not here: the sessions behind it don't wait.
        let (manager, entry) = (self.clone(), Arc::clone(entry));
        self.0.tracker.spawn(async move { manager.keep_reading(&entry).await });
    }

    /// Tries until no verb is under way and the store gives the session's rows out.
    async fn keep_reading(&self, entry: &Arc<Entry>) {
        let mut pause = ASK_AGAIN;
        loop {
            tokio::select! {
                () = self.0.token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(ASK_SELDOM);
            let _turn = self.0.turns.take(entry.name.as_str()).await;
            match self.settle(entry).await {
                Ok(()) => return,
                Err(error) => {
                    let state = entry.view().state.clone();
                    let waits = !entry.has_task() && !state.is_over() && !entry.gone.load(Ordering::Acquire);
                    if waits && !matches!(state, State::StoreFailed { .. }) {
                        tracing::error!(session = %entry.name, %error, "a session waits for the store to give its rows out");
                        entry.set_state(State::StoreFailed { paired: true }).await;
                    }
                }
            }
        }
    }

    /// Reads what is stored of a listed session without a task, and goes on with it as it was left. Verbs may have come first:
    /// what they made of the session stays. Call while it is the name's turn.
    ///
    /// # Errors
    /// When the store can't be read or written. So is a panic told: over a damaged page sled does not always find a better word,
    /// and that is no other session's trouble.
    pub(super) async fn settle(&self, entry: &Arc<Entry>) -> Result<(), KvError> {
        AssertUnwindSafe(self.settle_now(entry)).catch_unwind().await.unwrap_or_else(|_panic| {
            tracing::error!(session = %entry.name, "the store panicked over a session's rows");
            Err(KvError::engine("the store panicked"))
        })
    }

    async fn settle_now(&self, entry: &Arc<Entry>) -> Result<(), KvError> {
        if entry.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(damage) = self.damage_of(entry).await? {
            tracing::error!(
                session = %entry.name,
                damage = damage.word(),
                "stored rows of this session are damaged: restore a backup, or delete it and link it again"
            );
            if !entry.record().away && !entry.has_task() {
                entry.set_left_as(State::Damaged(damage));
            }
            return Ok(());
        }
        let record = entry.record();
        if record.away || record.state == RecordState::LoggedOut || entry.has_task() {
            return Ok(());
        }
        let credentials = Namespace::credentials(&entry.uid);
        if !self.backend(&entry.uid).has_device().await? {
            self.0.kv.drop_namespace(&credentials).await?;
            entry.set_left_as(State::LoggedOut);
        } else if record.state == RecordState::Live {
            if entry.view().state != State::Connecting {
                entry.set_state(State::Connecting).await;
            }
            task::spawn(&self.0, entry, Some(Arc::clone(&self.0.restoring)));
        }
        Ok(())
    }

    /// What of a session is damaged; a sound one's events are delivered from now on. Never a reason for a new identity.
    pub(super) async fn damage_of(&self, entry: &Arc<Entry>) -> Result<Option<Damage>, KvError> {
        if !self.deliver(entry).await? {
            return Ok(Some(Damage::Outbox));
        }
        let record = entry.record();
        let has_keys = !record.away && record.state != RecordState::LoggedOut;
        Ok((has_keys && self.backend(&entry.uid).stored().await? == Stored::Damaged).then_some(Damage::Device))
    }

    fn backend(&self, uid: &str) -> Arc<SessionBackend> {
        SessionBackend::new(Arc::clone(&self.0.kv), Namespace::credentials(uid), None)
    }
}

/// Whether a call of the API logged it out. One that WhatsApp itself has logged out may not log in any more.
fn is_logged_out_by_us(record: &SessionRecord) -> bool {
    let by_us = record.ended.is_some_and(|ended| ended.by == EndedBy::Api);
    record.state == RecordState::LoggedOut && by_us && !record.away
}
