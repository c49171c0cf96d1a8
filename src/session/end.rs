//! The verbs that end a session: stop, and for good logout and delete, also when the store or a crash cuts them short.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::oneshot;

use super::entry::Entry;
use super::state::State;
use super::{END_TIMEOUT, MOVED, Manager, SessionManager, resume, task, webhook};
use crate::event::Status;
use crate::outbox::{Kind, NewEvent, Notice};
use crate::store::backend::SessionBackend;
use crate::store::registry::{Ended, EndedBy, RecordState, SessionRecord};
use crate::store::{KvError, Namespace};

/// How often a deletion is tried again that the store did not let through.
const ERASE_AGAIN: Duration = Duration::from_secs(2);

/// Which try to erase a session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Try {
    First,
    /// One before may have done it.
    Further,
}

/// Why a stop, a logout or a deletion failed.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// No session of that name is listed.
    #[error("no such session")]
    NotFound,
    /// An export has moved it to another host, and only there can it be logged out.
    #[error("{MOVED}")]
    Moved,
    /// The gateway stops, and WhatsApp could not be told any more.
    #[error("The gateway is shutting down; its next start finishes this")]
    ShuttingDown,
    /// The store refused; what was begun is finished at the next try or start.
    #[error("the session store is not available")]
    Store(#[from] KvError),
}

impl SessionManager {
    /// Closes the connection and keeps the credentials: nothing happens until a start, restarts of the gateway included.
    /// One that is stopped or logged out stays as it is.
    ///
    /// Goes on when the call is cancelled.
    ///
    /// # Errors
    /// By [`EndError`].
    pub async fn stop(&self, name: &str) -> Result<(), EndError> {
        let (manager, name) = (self.clone(), name.to_owned());
        self.finish(async move {
            let _turn = manager.0.turns.take(&name).await;
            let entry = manager.entry(&name).ok_or(EndError::NotFound)?;
            manager.halt(&entry).await
        })
        .await
    }

    pub(super) async fn halt(&self, entry: &Arc<Entry>) -> Result<(), EndError> {
        if entry.view().state.is_over() {
            return Ok(());
        }
        // First the mark: after a crash from here on it stays stopped.
        self.mark(entry, RecordState::Stopped).await?;
        entry.end_task(END_TIMEOUT, false).await;
        self.look_up(entry).await;
        // WhatsApp may have logged it out in the last moment.
        if !entry.view().state.is_over() {
            entry.set_state(State::Stopped).await;
        }
        tracing::info!(session = %entry.name, "session stopped");
        Ok(())
    }

    /// Unlinks at WhatsApp when reachable and removes the credentials; the entry stays listed as disconnected. Unknown names are fine.
    ///
    /// Goes on when the call is cancelled.
    ///
    /// # Errors
    /// [`EndError::Moved`], and [`EndError::ShuttingDown`] or [`EndError::Store`] when the credentials are still there.
    pub async fn logout(&self, name: &str) -> Result<(), EndError> {
        let (manager, name) = (self.clone(), name.to_owned());
        self.finish(async move {
            let _turn = manager.0.turns.take(&name).await;
            match manager.entry(&name) {
                Some(entry) => manager.log_out(&entry).await,
                None => Ok(()),
            }
        })
        .await
    }

    async fn log_out(&self, entry: &Arc<Entry>) -> Result<(), EndError> {
        let known = entry.record();
        if known.away {
            return Err(EndError::Moved);
        }
        // First the mark: after a crash from here on, the next start unlinks it and removes the credentials.
        if known.state != RecordState::LoggedOut {
            self.mark(entry, RecordState::LoggedOut).await?;
        }
        let unlinked = self.unlink(entry).await;
        self.look_up(entry).await;
        if self.0.is_left_to_next_start(&entry.uid, unlinked).await {
            entry.set_state(State::LoggedOut).await;
            return Err(EndError::ShuttingDown);
        }
        let dropped = self.0.kv.drop_namespace(&Namespace::credentials(&entry.uid)).await;
        entry.set_state(State::LoggedOut).await;
        // The next start removes what is left.
        dropped?;
        tracing::info!(session = %known.name, unlinked, "session logged out, credentials removed");
        Ok(())
    }

    /// Finishes a logout that the last run had begun: logs in once more to unlink, then removes the credentials. Call while it
    /// is the name's turn.
    pub(super) async fn finish_logout(&self, entry: &Entry) {
        let unlinked = task::unlink_stored(&self.0, &entry.uid).await;
        if self.0.is_left_to_next_start(&entry.uid, unlinked).await {
            return;
        }
        tracing::info!(session = %entry.name, unlinked, "finishing a logout that the last run had begun");
        if let Err(error) = self.0.kv.drop_namespace(&Namespace::credentials(&entry.uid)).await {
            tracing::error!(session = %entry.name, %error, "void credentials could not be removed; the next start does");
        }
    }

    /// Writes down what a call of the API has made of a session.
    async fn mark(&self, entry: &Arc<Entry>, state: RecordState) -> Result<(), KvError> {
        let ended = Ended { by: EndedBy::Api, at: Utc::now() };
        let marked = self.0.registry.update(&entry.uid, |record| {
            // What WhatsApp logged out a moment ago has no credentials that a stop could keep.
            if record.state == RecordState::Live || state == RecordState::LoggedOut {
                record.state = state;
                record.ended = Some(ended);
            }
        });
        if let Some(record) = marked.await? {
            entry.set_record(record);
        }
        Ok(())
    }

    /// Remembers the record as it is now: the task's last words on it may have crossed those of a verb.
    async fn look_up(&self, entry: &Arc<Entry>) {
        match self.0.registry.update(&entry.uid, |_record| {}).await {
            Ok(Some(record)) => entry.set_record(record),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a session's record could not be read again"),
        }
    }

    /// Ends the task of a session and unlinks it at WhatsApp when reachable, also one that has no task: that logs in once
    /// more, for a bounded time. `true`: WhatsApp has unlinked it. One that was moved is linked on its new host, and stays so.
    async fn unlink(&self, entry: &Arc<Entry>) -> bool {
        if entry.record().away {
            return false;
        }
        match entry.end_task(END_TIMEOUT, true).await {
            Some(unlinked) => unlinked,
            None => task::unlink_stored(&self.0, &entry.uid).await,
        }
    }

    /// Unlinks when reachable, removes everything stored and forgets the name; complete when it returns.
    ///
    /// Goes on when the call is cancelled.
    ///
    /// # Errors
    /// By [`EndError`].
    pub async fn delete(&self, name: &str) -> Result<(), EndError> {
        let (manager, name) = (self.clone(), name.to_owned());
        self.finish(async move {
            let _turn = manager.0.turns.take(&name).await;
            let entry = manager.unlist(&name).await?;
            manager.remove(&entry).await
        })
        .await
    }

    /// Marks a session as being deleted and takes it off the list; after a crash the next start finishes the deletion.
    async fn unlist(&self, name: &str) -> Result<Arc<Entry>, EndError> {
        let entry = self.entry(name).ok_or(EndError::NotFound)?;
        self.0.registry.mark_deleting(&entry.uid).await?;
        {
            let mut sessions = self.lock();
            sessions.by_name.remove(name);
            sessions.in_order.remove(&entry.sequence);
            self.0.changes.fetch_add(1, Ordering::AcqRel);
        }
        entry.gone.store(true, Ordering::Release);
        entry.touch();
        Ok(entry)
    }

    async fn remove(&self, entry: &Arc<Entry>) -> Result<(), EndError> {
        let record = entry.record();
        let unlinked = self.unlink(entry).await;
        self.seal(entry).await;
        if self.0.is_left_to_next_start(&record.uid, unlinked).await {
            return Err(EndError::ShuttingDown);
        }
        if let Err(error) = self.0.erase(&record, Try::First).await {
            tracing::error!(session = %record.name, %error, "the store keeps data of a deleted session; trying again");
            let (manager, record) = (Arc::clone(&self.0), record.clone());
            self.0.tracker.spawn(async move { manager.keep_erasing(&record).await });
            return Err(error.into());
        }
        tracing::info!(session = %record.name, unlinked, "session deleted with everything stored of it");
        Ok(())
    }

    /// Takes back a new session that is not listed yet and may not be stored: a restart might not know what was linked to it.
    /// What is stored of it after all is found by the next start of its name, and of the gateway. A receiver may have been told
    /// that it is connecting.
    pub(super) async fn abandon(&self, entry: &Arc<Entry>) {
        entry.end_task(END_TIMEOUT, false).await;
        self.seal(entry).await;
        tracing::error!(session = %entry.name, "a new session could not be stored and is given up");
    }

    /// Ends the delivery of a session's events, and lets nothing more be written of them.
    async fn seal(&self, entry: &Arc<Entry>) {
        self.stop_delivery(&entry.uid).await;
        // A hook of the library that comes late must not bring the outbox back.
        entry.outbox.close().await;
        entry.follow.ledger.close().await;
    }

    /// Waits until the sink posts nothing of this session any more.
    async fn stop_delivery(&self, uid: &str) {
        let (done, stopped) = oneshot::channel();
        if self.0.notices.send(Notice::Closed { uid: uid.to_owned(), done }).await.is_ok() {
            let _sink_ended = tokio::time::timeout(END_TIMEOUT, stopped).await;
        }
    }

    /// Runs a verb on a task of its own, so that a client that hangs up does not leave it half done.
    pub(super) async fn finish<T, E, F>(&self, verb: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        match self.0.tracker.spawn(verb).await {
            Ok(result) => result,
            Err(error) => resume(error),
        }
    }
}

impl Manager {
    /// Whether the gateway stops before WhatsApp was told of an unlinking: only with the credentials can the next start do it.
    async fn is_left_to_next_start(&self, uid: &str, unlinked: bool) -> bool {
        !unlinked && self.stopping.is_cancelled() && {
            let credentials = Namespace::credentials(uid);
            SessionBackend::new(Arc::clone(&self.kv), credentials, None).has_device().await.unwrap_or(true)
        }
    }

    /// Removes everything stored of a session whose task has ended, and hands its last event to the sink.
    async fn erase(&self, record: &SessionRecord, which: Try) -> Result<(), KvError> {
        self.registry.erase(&record.uid).await?;
        let (event, target, at) = (farewell(record), webhook::target(record), Utc::now());
        let kept = self.tells_end(record).then(|| event.encode_to(at, target.as_ref()));
        let key = match self.registry.forget(&record.uid, kept).await? {
            // The store took it, and failed before it said so: nobody else tells of it before the next start.
            None if which == Try::Further => self.registry.farewell_of(&record.uid).await?,
            key => key,
        };
        if let Some(key) = key {
            let session = record.name.clone();
            let _stopping = self.notices.send(Notice::Farewell { key, session, event, target, at }).await;
        }
        Ok(())
    }

    /// Whether anybody wants to know that this session is gone.
    fn tells_end(&self, record: &SessionRecord) -> bool {
        self.outboxes.wants(webhook::target(record).as_ref(), Kind::Session)
    }

    /// The last event of a session as the registry keeps it, if anybody wants it.
    pub(super) fn farewell_row(&self, record: &SessionRecord) -> Option<Bytes> {
        self.tells_end(record).then(|| farewell(record).encode_to(Utc::now(), webhook::target(record).as_ref()))
    }

    /// Tries until the store lets go of a deleted session; a stop leaves the rest to the next start.
    async fn keep_erasing(&self, record: &SessionRecord) {
        loop {
            tokio::select! {
                () = self.token.cancelled() => return,
                () = tokio::time::sleep(ERASE_AGAIN) => {}
            }
            if self.erase(record, Try::Further).await.is_ok() {
                tracing::info!(session = %record.name, "what was stored of the deleted session is gone now");
                return;
            }
        }
    }

    /// Finishes a deletion that a crash cut short before WhatsApp was told: logs in once more to unlink, then erases.
    pub(super) async fn finish_deletion(&self, record: &SessionRecord) {
        let unlinked = task::unlink_stored(self, &record.uid).await;
        if self.is_left_to_next_start(&record.uid, unlinked).await {
            return;
        }
        tracing::info!(session = %record.name, unlinked, "finishing a deletion that the last run had begun");
        if self.erase(record, Try::First).await.is_err() {
            self.keep_erasing(record).await;
        }
    }
}

/// The last event of a session that is gone.
fn farewell(record: &SessionRecord) -> NewEvent {
    NewEvent::status(&record.uid, &record.name, Status::Disconnected)
}
