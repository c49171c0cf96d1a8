//! The verb that lets a session go to another host: it ends here for good before anything of it leaves.

use std::sync::Arc;

use super::SessionManager;
use super::end::EndError;
use super::entry::Entry;
use super::state::State;
use crate::store::backend::{SessionBackend, Stored};
use crate::store::registry::RecordState;
use crate::store::{KvError, Namespace};

/// Why a session was not moved.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No session of that name is listed.
    #[error("no such session")]
    NotFound,
    /// No phone has accepted it, or it was logged out: there is nothing to take along.
    #[error("Session is not linked: there is nothing to export")]
    NotLinked,
    /// What is stored of its device can't be read.
    #[error("The stored keys of this session are damaged: restore a backup, or delete the session and link it again")]
    Damaged,
    /// The store refused.
    #[error("the session store is not available")]
    Store(#[from] KvError),
}

impl SessionManager {
    /// Stops a session and notes that its device lives on another host from now on; returns the uid under which its rows
    /// can be read. One that was moved before stays as it is: what is read is the same again.
    ///
    /// When it returns, the connection and the storage are closed and the note is durable, so that what is read then is
    /// the last of it. A crash before that leaves a session that is stopped at most. Goes on when the call is cancelled.
    ///
    /// # Errors
    /// By [`ExportError`]; what is not linked is left as it was.
    pub async fn export(&self, name: &str) -> Result<String, ExportError> {
        let (manager, name) = (self.clone(), name.to_owned());
        self.finish(async move {
            let _turn = manager.0.turns.take(&name).await;
            let entry = manager.entry(&name).ok_or(ExportError::NotFound)?;
            if !entry.record().away {
                manager.leave(&entry).await?;
            }
            Ok(entry.uid.clone())
        })
        .await
    }

    async fn leave(&self, entry: &Arc<Entry>) -> Result<(), ExportError> {
        self.check_linked(entry).await?;
        self.halt(entry).await.map_err(|error| match error {
            EndError::NotFound | EndError::Moved | EndError::ShuttingDown => ExportError::NotFound,
            EndError::Store(error) => ExportError::Store(error),
        })?;
        // WhatsApp may have logged it out in the last moment.
        self.check_linked(entry).await?;
        let left = self.0.registry.depart(&entry.uid).await?;
        entry.set_record(left.ok_or(ExportError::NotFound)?);
        entry.set_state(State::Moved).await;
        tracing::info!(session = %entry.name, "session leaves for another host");
        Ok(())
    }

    async fn check_linked(&self, entry: &Entry) -> Result<(), ExportError> {
        if entry.record().state == RecordState::LoggedOut {
            return Err(ExportError::NotLinked);
        }
        let credentials = Namespace::credentials(&entry.uid);
        match SessionBackend::new(Arc::clone(&self.0.kv), credentials, None).stored().await? {
            Stored::Paired => Ok(()),
            Stored::Damaged => Err(ExportError::Damaged),
            Stored::Absent | Stored::Unpaired => Err(ExportError::NotLinked),
        }
    }
}
