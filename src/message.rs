//! Words that both edges share: whom a message goes to, what was sent, what came in.
//!
//! Pure values; the HTTP handlers and the webhook bodies are spelt from them.

use serde::{Deserialize, Serialize};

/// A validated target of an outgoing message: a JID, spelt as the contract builds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipient(String);

/// Why a `to` can't be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// Nothing is left of the text.
    #[error("parameter \"to\" is required")]
    Empty,
    /// The user part is no phone number, group id or LID.
    #[error("parameter \"to\" is not a phone number or a WhatsApp address")]
    Malformed,
    /// The part after the `@` is no server that takes messages.
    #[error("parameter \"to\" names an unknown kind of WhatsApp address")]
    UnknownServer,
}

impl Recipient {
    /// The address as `user@server`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the target is a group.
    pub fn is_group(&self) -> bool {
        self.0.ends_with("@g.us")
    }
}

/// A message that WhatsApp's server has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The chat it went to, as `user@server`.
    pub remote_jid: String,
    /// The message id that we chose.
    pub id: String,
    /// The text as it was sent.
    pub text: String,
    /// The server's time of acceptance in Unix seconds.
    pub timestamp: u64,
    /// Our own JID; told for groups and status only (contract section 5).
    pub participant: Option<String>,
}

/// A received message as the `message` webhook spells it; member order is the contract's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Name of the session that received it.
    pub session: String,
    /// The chat: the phone number's JID whenever it is known, else the LID; groups as `…@g.us`.
    pub from: String,
    /// The text, or `None` for kinds without one.
    pub message: Option<String>,
    /// File names below `/media`.
    pub media: Media,
    /// The message id.
    pub id: String,
    /// Stable over redeliveries; also the `X-Event-Id` header.
    pub event_id: String,
    /// Unix seconds, as the sender's server stamped it.
    pub timestamp: i64,
    /// Who wrote it in a group, as a JID; `None` in one-to-one chats.
    pub participant: Option<String>,
    /// The author's push name.
    pub participant_name: Option<String>,
    /// Whether the chat is a group.
    pub is_group: bool,
    /// The LID of the author when the message carried one.
    pub from_lid: Option<String>,
}

/// The contract's `media` object: all members are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// A picture's file name.
    pub image: Option<String>,
    /// A video's file name.
    pub video: Option<String>,
    /// A document's file name.
    pub document: Option<String>,
    /// An audio's or voice note's file name.
    pub audio: Option<String>,
}
