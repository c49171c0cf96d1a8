//! Where a session's events go when they don't go to the gateway's own receiver.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Kind;

/// A receiver of one session's own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What the kind's path is put behind.
    pub url: String,
    /// Signs what is posted; `None`: the gateway's own secret does, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// `None`: what the gateway's own receiver gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<Kind>>,
}

impl fmt::Debug for Target {
    /// Without the address and the secret: both may open doors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("events", &self.events).finish_non_exhaustive()
    }
}
