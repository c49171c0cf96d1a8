//! The verbs that end a session for good: logout and delete, also when the store or a crash cuts them short.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::oneshot;

use super::entry::Entry;
use super::state::State;
use super::{END_TIMEOUT, Manager, SessionManager, resume, task, webhook};
use crate::event::Status;
use crate::outbox::{Kind, NewEvent, Notice};
use crate::store::backend::SessionBackend;
use crate::store::registry::{RecordState, SessionRecord};
use crate::store::{KvError, Namespace};

/// How often a deletion is tried again that the store did not let through.
const ERASE_AGAIN: Duration = Duration::from_secs(2);

/// Why a deletion or a logout failed.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// No session of that name is listed.
    #[error("no such session")]
    NotFound,
    /// The store refused; what was begun is finished at the next try or start.
    #[error("the session store is not available")]
    Store(#[from] KvError),
}

impl SessionManager {
    /// Unlinks at WhatsApp when reachable and removes the credentials; the entry stays listed as disconnected. Unknown names are fine.
    ///
    /// Goes on when the call is cancelled.
    ///
    /// # Errors
    /// [`EndError::Store`] when the credentials could not be removed.
    pub async fn logout(&self, name: &str) -> Result<(), EndError> {
        let Some(entry) = self.entry(name) else { return Ok(()) };
        let manager = self.clone();
        self.finish(async move { manager.log_out(&entry).await }).await
    }

    async fn log_out(&self, entry: &Arc<Entry>) -> Result<(), EndError> {
        let _verb = entry.verbs.lock().await;
        if entry.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let record = entry.record();
        // First the mark: after a crash from here on, the next start removes the credentials.
        self.0.registry.update(&record.uid, |record| record.state = RecordState::LoggedOut).await?;
        let unlinked = entry.end_task(END_TIMEOUT).await;
        let dropped = self.0.kv.drop_namespace(&Namespace::credentials(&record.uid)).await;
        entry.set_state(State::LoggedOut).await;
        // The next start removes what is left.
        dropped?;
        tracing::info!(session = %record.name, unlinked, "session logged out, credentials removed");
        Ok(())
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
            let entry = manager.unlist(&name).await?;
            manager.remove(&entry).await
        })
        .await
    }

    /// Marks a session as being deleted and takes it off the list; from here on the name is free, and after a crash the
    /// next start finishes the deletion.
    async fn unlist(&self, name: &str) -> Result<Arc<Entry>, EndError> {
        // No start may find the name unlisted while the registry still has it.
        let _creating = self.0.creating.lock().await;
        let entry = self.entry(name).ok_or(EndError::NotFound)?;
        self.0.registry.mark_deleting(&entry.uid).await?;
        {
            let mut sessions = self.lock();
            sessions.by_name.remove(name);
            sessions.in_order.remove(&entry.sequence);
        }
        entry.gone.store(true, Ordering::Release);
        entry.touch();
        Ok(entry)
    }

    async fn remove(&self, entry: &Arc<Entry>) -> Result<(), EndError> {
        let record = entry.record();
        let _verb = entry.verbs.lock().await;
        let unlinked = entry.end_task(END_TIMEOUT).await;
        self.stop_delivery(&record.uid).await;
        // A hook of the library that comes late must not bring the outbox back.
        entry.outbox.close().await;
        entry.follow.ledger.close().await;
        if let Err(error) = self.0.erase(&record).await {
            tracing::error!(session = %record.name, %error, "the store keeps data of a deleted session; trying again");
            let (manager, record) = (Arc::clone(&self.0), record.clone());
            self.0.tracker.spawn(async move { manager.keep_erasing(&record).await });
            return Err(error.into());
        }
        tracing::info!(session = %record.name, unlinked, "session deleted with everything stored of it");
        Ok(())
    }

    /// Waits until the sink posts nothing of this session any more.
    async fn stop_delivery(&self, uid: &str) {
        let (done, stopped) = oneshot::channel();
        if self.0.notices.send(Notice::Closed { uid: uid.to_owned(), done }).await.is_ok() {
            let _sink_ended = tokio::time::timeout(END_TIMEOUT, stopped).await;
        }
    }

    /// Runs a verb on a task of its own, so that a client that hangs up does not leave it half done.
    async fn finish<F>(&self, verb: F) -> Result<(), EndError>
    where
        F: Future<Output = Result<(), EndError>> + Send + 'static,
    {
        match self.0.tracker.spawn(verb).await {
            Ok(result) => result,
            Err(error) => resume(error),
        }
    }
}

impl Manager {
    /// Removes everything stored of a session whose task has ended, and hands its last event to the sink.
    async fn erase(&self, record: &SessionRecord) -> Result<(), KvError> {
        self.registry.erase(&record.uid).await?;
        let (event, target, at) = (farewell(record), webhook::target(record), Utc::now());
        let kept = self.tells_end(record).then(|| event.encode_to(at, target.as_ref()));
        if let Some(key) = self.registry.forget(&record.uid, kept).await? {
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
            if self.erase(record).await.is_ok() {
                tracing::info!(session = %record.name, "what was stored of the deleted session is gone now");
                return;
            }
        }
    }

    /// Finishes a deletion that a crash cut short before WhatsApp was told: logs in once more to unlink, then erases.
    pub(super) async fn finish_deletion(&self, record: &SessionRecord) {
        let namespace = Namespace::credentials(&record.uid);
        let backend = SessionBackend::new(Arc::clone(&self.kv), namespace, None);
        let unlinked = task::unlink_deleted(self, &backend).await;
        backend.close().await;
        tracing::info!(session = %record.name, unlinked, "finishing a deletion that the last run had begun");
        if self.erase(record).await.is_err() {
            self.keep_erasing(record).await;
        }
    }
}

/// The last event of a session that is gone.
fn farewell(record: &SessionRecord) -> NewEvent {
    NewEvent::status(&record.uid, &record.name, Status::Disconnected)
}
