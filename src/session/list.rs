//! The list as it was last spelled out, kept until one of its rows changes: monitors ask for it all the time.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::entry::{Entry, Mark};
use super::{SessionManager, SessionSummary};

/// What the rows were made of, in order, and what was made of them.
#[derive(Debug)]
pub(super) struct Listed {
    marks: Vec<Mark>,
    body: Bytes,
}

impl SessionManager {
    /// The whole list as `spell` writes it. That is called only when a row has changed since the last time, so every
    /// caller must spell it the same way, and from nothing but what an entry's mark knows of.
    pub fn spelled(&self, spell: impl FnOnce(&[SessionSummary]) -> Bytes) -> Bytes {
        let last = self.0.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sessions = self.lock();
        if let Some(last) = last
            && last.marks.len() == sessions.in_order.len()
            && sessions.in_order.values().zip(&last.marks).all(|(entry, mark)| entry.is_as_marked(mark))
        {
            return last.body.clone();
        }
        let entries: Vec<Arc<Entry>> = sessions.in_order.values().cloned().collect();
        drop(sessions);
        // Each mark before its row: a change in between is seen the next time.
        let (marks, rows): (Vec<Mark>, Vec<SessionSummary>) =
            entries.iter().map(|entry| (entry.mark(), entry.summary())).unzip();
        let body = spell(&rows);
        let listed = Listed { marks, body: body.clone() };
        *self.0.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(listed));
        body
    }
}
