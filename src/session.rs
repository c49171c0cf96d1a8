//! The live sessions: who they are, what state they are in, and the verbs on them.
//!
//! `SessionManager` is the registry that HTTP handlers ask; each session has one owner task (`task`).

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::event::{SessionName, Status};
use crate::message::{Recipient, Sent};
use crate::store::KvError;

/// The account behind a session, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Push name; empty when unknown.
    pub name: String,
    /// Own phone number, digits only; empty when unknown.
    pub phone_number: String,
}

/// One row of the session list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its name.
    pub session: SessionName,
    /// Its status, as the socket says.
    pub status: Status,
    /// `None`: it never connected.
    pub details: Option<Details>,
    /// When the status last changed.
    pub since: DateTime<Utc>,
    /// The phone's platform as told at pairing (`android`, `iphone`, …), when known.
    pub platform: Option<String>,
}

/// What a start came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// Waits for a scan of this code.
    Qr(String),
    /// Had credentials and is connected.
    Connected,
}

/// Why a start gave neither.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The session is paired and alive.
    #[error("Session already exist")]
    AlreadyExists,
    /// No QR and no connection within the time; the start goes on.
    #[error("WhatsApp did not answer in time; the session keeps trying, ask again")]
    TimedOut,
    /// The session was deleted or logged out while we waited.
    #[error("Session was deleted or logged out while it was starting")]
    Ended,
    /// The gateway is shutting down.
    #[error("The gateway is shutting down")]
    ShuttingDown,
    /// The store refused.
    #[error("The session store is not available")]
    Store(#[from] KvError),
}

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

/// Why a message was not sent, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No session of that name.
    #[error("Session does not exist")]
    NoSession,
    /// The session is not connected.
    #[error("Session with ID: \"{0}\" Not Ready!")]
    NotReady(SessionName),
    /// The number has no WhatsApp account.
    #[error("The number {0} is not registered on WhatsApp")]
    NotRegistered(String),
    /// WhatsApp's server refused the message.
    #[error("WhatsApp refused the message with code {code}")]
    Refused {
        /// The server's error code.
        code: u16,
        /// The message id.
        id: String,
    },
    /// No acknowledgement in time: whether it was sent is unknown.
    #[error("WhatsApp did not acknowledge the message in time; it may have been sent")]
    Unacknowledged {
        /// The message id.
        id: String,
        /// The chat.
        remote_jid: String,
    },
    /// The connection failed before the message left.
    #[error("The message could not be sent: the connection to WhatsApp failed")]
    Connection(#[source] anyhow::Error),
    /// The store refused, so nothing was sent.
    #[error("The session store is not available")]
    Store,
}

/// The registry of live sessions; cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionManager {}

impl SessionManager {
    /// All listed sessions, first seen first.
    pub fn list(&self) -> Vec<SessionSummary> {
        unimplemented!()
    }

    /// One listed session.
    pub fn find(&self, _name: &str) -> Option<SessionSummary> {
        unimplemented!()
    }

    /// Starts a session, or hands out the current QR of one that waits for a scan.
    ///
    /// # Errors
    /// By [`StartError`]; after `TimedOut` the start goes on.
    pub async fn start(&self, _name: SessionName) -> Result<Started, StartError> {
        unimplemented!()
    }

    /// Unlinks at WhatsApp when reachable and removes the credentials; the entry stays listed as disconnected. Unknown names are fine.
    ///
    /// # Errors
    /// [`EndError::Store`] when the credentials could not be removed.
    pub async fn logout(&self, _name: &str) -> Result<(), EndError> {
        unimplemented!()
    }

    /// Unlinks when reachable, removes everything stored and forgets the name; complete when it returns.
    ///
    /// # Errors
    /// By [`EndError`].
    pub async fn delete(&self, _name: &str) -> Result<(), EndError> {
        unimplemented!()
    }

    /// Checks that a session is there and connected: the contract's order puts this before the recipient.
    ///
    /// # Errors
    /// `NoSession` or `NotReady`.
    pub fn check_ready(&self, _name: &str) -> Result<(), SendError> {
        unimplemented!()
    }

    /// Sends a text and waits for WhatsApp's acknowledgement, `SEND_TIMEOUT_SECS` at most, the typing phase included.
    ///
    /// # Errors
    /// By [`SendError`].
    pub async fn send_text(
        &self,
        _name: &str,
        _to: Recipient,
        _text: String,
        _typing: bool,
    ) -> Result<Sent, SendError> {
        unimplemented!()
    }
}
