//! What is remembered of a poll, so that later votes can be told by the names of its options.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A poll that was sent or received.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPoll {
    /// What votes are encrypted with, 32 bytes.
    pub secret: Vec<u8>,
    /// The addresses that its author goes by: votes are bound to one of them.
    pub authors: Vec<String>,
    /// The question.
    pub question: String,
    /// The names of its options, in order; votes name them by their hashes.
    pub options: Vec<String>,
}

impl fmt::Debug for KnownPoll {
    /// Without its secret and its words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownPoll").field("options", &self.options.len()).finish_non_exhaustive()
    }
}
