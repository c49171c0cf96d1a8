//! A session's own webhook, and how the delivery of every session's events goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::SessionManager;
use crate::event::SessionName;
use crate::outbox::{Kind, Outbox, Target};
use crate::store::KvError;
use crate::store::registry::{SessionRecord, WebhookRecord};

/// Where a session's events go instead of the gateway's own receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionWebhook(pub Target);

/// Why a session's webhook was not changed.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// No session of that name is listed.
    #[error("no such session")]
    NotFound,
    /// The store refused.
    #[error("The session store is not available")]
    Store(#[from] KvError),
}

/// The delivery of one session's events.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its name.
    pub session: SessionName,
    /// Its place in the list; never comes again.
    pub sequence: u64,
    /// What waits, what died, and what became of the rest.
    pub outbox: Outbox,
}

impl SessionManager {
    /// The session's own webhook; `Ok(None)`: it has none.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`].
    pub fn webhook(&self, name: &str) -> Result<Option<SessionWebhook>, WebhookError> {
        let entry = self.entry(name).ok_or(WebhookError::NotFound)?;
        Ok(entry.outbox.target().map(|target| SessionWebhook(Target::clone(&target))))
    }

    /// Sets or removes the session's own webhook; what waits goes there too. Stored when it returns.
    ///
    /// Goes on when the call is cancelled.
    ///
    /// # Errors
    /// By [`WebhookError`]; after `Store` the old one holds.
    pub async fn set_webhook(&self, name: &str, webhook: Option<SessionWebhook>) -> Result<(), WebhookError> {
        let (manager, name) = (self.clone(), name.to_owned());
        self.finish(async move { manager.change_webhook(&name, webhook).await }).await
    }

    async fn change_webhook(&self, name: &str, webhook: Option<SessionWebhook>) -> Result<(), WebhookError> {
        let _turn = self.0.turns.take(name).await;
        let entry = self.entry(name).ok_or(WebhookError::NotFound)?;
        if entry.gone.load(Ordering::Acquire) {
            return Err(WebhookError::NotFound);
        }
        let stored = webhook.as_ref().map(|SessionWebhook(target)| record(target));
        let written = self.0.registry.update(&entry.uid, |record| record.webhook.clone_from(&stored)).await?;
        entry.set_record(written.ok_or(WebhookError::NotFound)?);
        let own = webhook.is_some();
        entry.outbox.set_target(webhook.map(|SessionWebhook(target)| target));
        tracing::info!(session = %entry.name, own, "the session's webhook was changed");
        Ok(())
    }

    /// The deliveries of all listed sessions, first seen first.
    pub fn deliveries(&self) -> Vec<Delivery> {
        let sessions = self.lock();
        let delivery = |entry: &Arc<super::Entry>| Delivery {
            session: entry.name.clone(),
            sequence: entry.sequence,
            outbox: entry.outbox.clone(),
        };
        sessions.in_order.values().map(delivery).collect()
    }

    /// The delivery of one listed session.
    pub fn delivery(&self, name: &str) -> Option<Delivery> {
        let entry = self.entry(name)?;
        Some(Delivery { session: entry.name.clone(), sequence: entry.sequence, outbox: entry.outbox.clone() })
    }

    /// Whether a session's messages stay at WhatsApp because nobody takes those that wait here.
    pub fn is_outbox_full(&self) -> bool {
        self.lock().in_order.values().any(|entry| entry.outbox.is_full())
    }
}

/// The receiver that a record names.
pub(super) fn target(record: &SessionRecord) -> Option<Target> {
    let WebhookRecord { url, secret, events } = record.webhook.clone()?;
    // A kind that only another release knows is none of ours.
    let events = events.map(|events| events.iter().filter_map(|event| Kind::from_path(event)).collect());
    Some(Target { url, secret, events })
}

fn record(target: &Target) -> WebhookRecord {
    let Target { url, secret, events } = target.clone();
    let events = events.map(|events| events.into_iter().map(|kind| kind.path().to_owned()).collect());
    WebhookRecord { url, secret, events }
}
