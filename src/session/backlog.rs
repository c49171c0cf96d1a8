//! How much waits in all outboxes together, whether the restore is over and the store good to all sessions: for who
//! watches the gateway.

use std::time::Duration;

use chrono::Utc;

use super::SessionManager;
use crate::store::KvError;

/// What waits for delivery, of all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages.
    pub messages: u64,
    /// Everything else.
    pub statuses: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Events that their receivers took.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Dead letters that are kept.
    pub dead: u64,
    /// Events that were dropped by full outboxes, or because they had grown too old.
    pub shed: u64,
    /// How long the oldest has waited; `None`: nothing waits.
    pub oldest: Option<Duration>,
}

impl SessionManager {
    /// Whether every restored session had its first turn to connect: it is connected, or was refused, or took too long.
    pub fn is_restored(&self) -> bool {
        self.0.restoring.available_permits() >= self.0.settings.restore_concurrency.max(1)
    }

    /// Whether the store refused a session's read or write, and has not taken one of it since.
    pub fn is_store_failed(&self) -> bool {
        self.lock().in_order.values().any(|entry| entry.is_store_failed())
    }

    /// What waits in all outboxes; reads the head of each that is not empty.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn backlog(&self) -> Result<Backlog, KvError> {
        let outboxes: Vec<_> = self.lock().in_order.values().map(|entry| entry.outbox.clone()).collect();
        let mut backlog = Backlog::default();
        for outbox in outboxes {
            // One that can't be read counts nothing; its session says why.
            if outbox.make_ready().await.is_err() {
                continue;
            }
            let (depth, counts) = (outbox.depth(), outbox.counts());
            backlog.delivered += counts.delivered;
            backlog.failed += counts.failed;
            backlog.dead += counts.dead;
            backlog.shed += counts.shed;
            if depth.events() == 0 {
                continue;
            }
            backlog.messages += depth.messages;
            backlog.statuses += depth.statuses;
            backlog.bytes += depth.bytes;
            if let Some(head) = outbox.head(1).await?.first() {
                let age = (Utc::now() - head.committed_at).to_std().unwrap_or_default();
                backlog.oldest = backlog.oldest.max(Some(age));
            }
        }
        Ok(backlog)
    }
}
