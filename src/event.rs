//! What a session is called and what it reports: plain words without I/O.
//!
//! Every floor speaks them; nothing of ours is imported here but `message`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest session name in bytes: long enough for every name seen in use, short enough for a log line.
pub const MAX_SESSION_NAME_BYTES: usize = 256;

/// Names that can't be told apart from something else below `/session`: routes, and what a path resolves.
pub const RESERVED_SESSION_NAMES: [&str; 6] = ["start", "stop", "logout", "status", ".", ".."];

/// A validated name of a session: not blank, bounded, not reserved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionName(Arc<str>);

/// Why a text can't name a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionNameError {
    /// Empty, or white space only.
    #[error("Session must not be empty")]
    Blank,
    /// Longer than [`MAX_SESSION_NAME_BYTES`].
    #[error("Session must be at most {MAX_SESSION_NAME_BYTES} bytes")]
    TooLong,
    /// One of [`RESERVED_SESSION_NAMES`].
    #[error("Session must not be one of start, stop, logout, status, . and ..")]
    Reserved,
}

impl SessionName {
    /// Checks a name as a client sent it; it is kept byte for byte.
    ///
    /// # Errors
    /// [`SessionNameError`] names the rule that the text breaks.
    pub fn parse(raw: &str) -> Result<Self, SessionNameError> {
        if raw.trim().is_empty() {
            return Err(SessionNameError::Blank);
        }
        if raw.len() > MAX_SESSION_NAME_BYTES {
            return Err(SessionNameError::TooLong);
        }
        if RESERVED_SESSION_NAMES.contains(&raw) {
            return Err(SessionNameError::Reserved);
        }
        Ok(Self(raw.into()))
    }

    /// The name as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for SessionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The contract's three words for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Dialling, waiting for a scan, or reconnecting.
    Connecting,
    /// Logged in over a live connection.
    Connected,
    /// Has no credentials, or was stopped.
    Disconnected,
}

impl Status {
    /// The word as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_or_refused_by_rule() {
        for good in ["a", "ok 2", "ok+3", "caf\u{e9}", "a/b", "36be407f-1400-46f1-b259-58e3aa4f6179", "Start"] {
            assert_eq!(SessionName::parse(good).unwrap().as_str(), good);
        }
        for blank in ["", " ", "\t\n"] {
            assert_eq!(SessionName::parse(blank), Err(SessionNameError::Blank));
        }
        assert!(SessionName::parse(&"x".repeat(MAX_SESSION_NAME_BYTES)).is_ok());
        assert_eq!(SessionName::parse(&"x".repeat(MAX_SESSION_NAME_BYTES + 1)), Err(SessionNameError::TooLong));
        for name in RESERVED_SESSION_NAMES {
            assert_eq!(SessionName::parse(name), Err(SessionNameError::Reserved));
        }
    }
}
