//! How a session is unlinked at WhatsApp before its credentials go: over its connection, or over one made just for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::{mpsc, oneshot};

use super::super::Manager;
use super::{CLOSE_FAST, LATE, Task};
use crate::store::Namespace;
use crate::store::backend::SessionBackend;
use crate::whatsapp::{Commit, Connection, Reports, SIGNALS, Signal, Verdict};

/// A session that is being removed may take so long to log in once more and say so to WhatsApp.
const UNLINK_LOGIN: Duration = Duration::from_secs(4);
/// WhatsApp's answer to the unlinking; the library waits 3 s.
const UNLINK: Duration = Duration::from_secs(4);
impl Task {
    /// Unlinks over this connection, or over a fresh one when this one is not heard; closes both. `true`: WhatsApp has done it.
    pub(super) async fn unlink(&self, connection: Connection, backend: &Arc<SessionBackend>) -> bool {
        let paired = self.entry.view().state.is_paired();
        // A login that is under way is waited for; a dial that pauses is not.
        if paired && !connection.is_live() && connection.stream().is_some() {
            connection.wait_login(UNLINK_LOGIN).await;
        }
        let unlinked = paired && connection.unlink(UNLINK).await;
        if !unlinked {
            connection.cut();
        }
        connection.close(CLOSE_FAST).await;
        // Whatever the library still has under way must not write into a namespace that is about to go.
        backend.close().await;
        // Not asked whether it was paired: a phone may have accepted it in this very moment.
        unlinked || unlink_stored(&self.manager, &self.entry.uid).await
    }

    /// Ends a session that has no connection at the moment; to unlink, it logs in once more, for a bounded time.
    pub(super) async fn end_unconnected(&mut self, unlink: bool, answer: oneshot::Sender<bool>) {
        let unlinked = unlink && unlink_stored(&self.manager, &self.entry.uid).await;
        let _nobody_waits = answer.send(unlinked);
    }
}

/// Logs in with the stored credentials of a session that has no connection, for a bounded time, to unlink it at WhatsApp.
/// `true`: WhatsApp has done it, or had before.
pub(in crate::session) async fn unlink_stored(manager: &Manager, uid: &str) -> bool {
    let namespace = Namespace::credentials(uid);
    let backend = SessionBackend::new(Arc::clone(&manager.kv), namespace, None);
    if !backend.has_device().await.unwrap_or(false) {
        return false;
    }
    let (signals, mut signals_in) = mpsc::channel(SIGNALS);
    let (late, _late_in) = mpsc::channel(LATE);
    let refuse: Commit = Arc::new(|_received| Box::pin(async { Err(anyhow!("the session is being removed")) }));
    let (whatsapp, cut) = (&manager.whatsapp, backend.failed());
    let reports = Reports { commit: refuse, signals, late, progress: Arc::new(|_progress| {}) };
    let connected = whatsapp.connect(Arc::clone(&backend) as _, reports, &cut, &manager.tracker).await;
    let Ok((connection, _lease)) = connected else { return false };
    // A device that was unlinked before is told so at its login.
    let unlinked_before = async {
        while let Some(signal) = signals_in.recv().await {
            if let Signal::Ended(verdict) = signal {
                return verdict == Verdict::LoggedOut;
            }
        }
        false
    };
    let unlink = async { connection.wait_login(UNLINK_LOGIN).await && connection.unlink(UNLINK).await };
    let unlinked = tokio::select! {
        () = manager.token.cancelled() => false,
        unlinked = unlinked_before => unlinked,
        unlinked = unlink => unlinked,
    };
    if !unlinked {
        connection.cut();
    }
    connection.close(CLOSE_FAST).await;
    backend.close().await;
    unlinked
}
