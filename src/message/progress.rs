//! How far a sent message got: what WhatsApp's server and the recipients' devices tell of it.

use serde::{Deserialize, Serialize};

/// A step on the way of a sent message. Later ones are greater: a message never goes back to a lesser one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// On its way to WhatsApp, or without an answer from there.
    Pending,
    /// WhatsApp refused it, or it never left. A later step proves that wrong.
    Failed,
    /// WhatsApp has it.
    Sent,
    /// A device of the recipient has it.
    Delivered,
    /// The recipient has seen it.
    Read,
    /// The recipient has listened to it or watched it.
    Played,
}

impl Step {
    /// The word as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Played => "played",
        }
    }
}

/// What was heard of a message that this account may have sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Progress {
    /// The message's id.
    pub id: String,
    /// How far it got.
    pub step: Step,
    /// When, in Unix seconds.
    pub at: i64,
    /// WhatsApp's code for a refusal.
    pub code: Option<u16>,
    /// Who tells so; `None`: WhatsApp's server.
    pub teller: Option<Teller>,
}

/// Whose device told of a step.
#[derive(Clone, PartialEq, Eq)]
pub struct Teller {
    /// The address without a device.
    pub address: String,
    /// Whether the message was seen in a group.
    pub in_group: bool,
    /// Whether it is a device of our own account.
    pub is_self: bool,
}

impl std::fmt::Debug for Teller {
    /// Without the address, which may not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").field("in_group", &self.in_group).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Progress {
    /// Without the teller's address, which may not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("id", &self.id).field("step", &self.step).finish_non_exhaustive()
    }
}
