//! The list as it was last spelled out, kept until one of its rows changes: monitors ask for it all the time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::entry::{Entry, Mark};
use super::{SessionManager, SessionSummary};

/// How long the connections of the listed sessions are not asked again whether they still are what the list says; what changes
/// by anything else shows at once.
const TRUSTED_FOR: Duration = Duration::from_millis(50);

/// What the rows were made of, in order, and what was made of them.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    marks: Arc<Vec<Mark>>,
    body: Bytes,
    /// The number of the last change, and when, as of the last look at the rows.
    change: u64,
    at: Instant,
}

impl SessionManager {
    /// The whole list as `spell` writes it. That is called only when a row has changed since the last time, so every
    /// caller must spell it the same way, and from nothing but what an entry's mark knows of.
    pub fn spelled(&self, spell: impl FnOnce(&[SessionSummary]) -> Bytes) -> Bytes {
        // Before any row: a change in between is seen the next time.
        let (change, at) = (self.0.changes.load(Ordering::Acquire), Instant::now());
        let last = self.listed().clone();
        if let Some(last) = &last
            && last.change == change
            && at.saturating_duration_since(last.at) < TRUSTED_FOR
        {
            return last.body.clone();
        }
        let sessions = self.lock();
        if let Some(last) = last
            && last.marks.len() == sessions.in_order.len()
            && sessions.in_order.values().zip(last.marks.iter()).all(|(entry, mark)| entry.is_as_marked(mark))
        {
            drop(sessions);
            let body = last.body.clone();
            *self.listed() = Some(Listed { change, at, ..last });
            return body;
        }
        let entries: Vec<Arc<Entry>> = sessions.in_order.values().cloned().collect();
        drop(sessions);
        // Each mark before its row, too.
        let (marks, rows): (Vec<Mark>, Vec<SessionSummary>) =
            entries.iter().map(|entry| (entry.mark(), entry.summary())).unzip();
        let body = spell(&rows);
        *self.listed() = Some(Listed { marks: Arc::new(marks), body: body.clone(), change, at });
        body
    }

    fn listed(&self) -> MutexGuard<'_, Option<Listed>> {
        self.0.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
