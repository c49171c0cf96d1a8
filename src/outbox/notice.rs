//! What the sink must know of sessions' outboxes: sent down by `session`, taken by `webhook`.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use super::{NewEvent, Outbox, Target};
use crate::event::SessionName;

/// A change among the outboxes that are delivered.
#[derive(Debug)]
pub enum Notice {
    /// Deliver what is committed here.
    Opened {
        /// The session's uid.
        uid: String,
        /// Its outbox.
        outbox: Outbox,
    },
    /// The session is being deleted, or could not be stored: post nothing of it any more.
    Closed {
        /// The session's uid.
        uid: String,
        /// Answered when an attempt under way has ended too.
        done: oneshot::Sender<()>,
    },
    /// The last event of a deleted session; the registry keeps it until it is delivered.
    Farewell {
        /// Names it in the registry.
        key: Bytes,
        /// The name it had.
        session: SessionName,
        /// What is posted.
        event: NewEvent,
        /// The receiver that it had of its own.
        target: Option<Target>,
        /// When it was deleted.
        at: DateTime<Utc>,
    },
}
