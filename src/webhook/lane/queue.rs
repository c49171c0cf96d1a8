//! Which event of an outbox comes next: the oldest, but a chat whose oldest message waits for its file lets the other
//! chats pass.
//!
//! Only the lane reads it. It holds bodies of a few entries, and of those that were passed over their numbers.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::outbox::{Entry, Outbox};

/// Entries read at once: fewer reads of the store, a few hundred kB at most.
const READ_AHEAD: usize = 16;

/// Entries passed over before the queue waits for the files: some ten kB of numbers.
const MAX_HELD: usize = 1_024;

/// Why the outbox can't be read.
pub(super) type ReadError = Box<dyn Error + Send + Sync>;

/// The queue of one lane.
pub(super) struct Queue {
    outbox: Outbox,
    wait: Duration,
    /// Files are waited for since then at the earliest: before, nobody fetched them.
    started: DateTime<Utc>,
    /// The last entry that was read; `None`: begin at the oldest.
    last: Option<u64>,
    ahead: VecDeque<Entry>,
    /// By chat, in order, the entries that were passed over: when each is no longer waited for, if it is at all.
    held: HashMap<String, VecDeque<Held>>,
}

struct Held {
    seq: u64,
    until: Instant,
}

/// What the queue says.
pub(super) enum Next {
    /// To be posted, and then removed from the outbox.
    Entry(Entry),
    /// Ask again after a commit, or then.
    Nothing { until: Option<Instant> },
}

impl Queue {
    pub(super) fn new(outbox: Outbox, wait: Duration) -> Self {
        Self { outbox, wait, started: Utc::now(), last: None, ahead: VecDeque::new(), held: HashMap::new() }
    }

    /// Forgets what it read: the next call begins at the oldest entry that is left.
    pub(super) fn start_over(&mut self) {
        self.last = None;
        self.ahead.clear();
        self.held.clear();
    }

    /// The next event, which the queue forgets with that.
    pub(super) async fn next(&mut self) -> Result<Next, ReadError> {
        loop {
            if let Some((chat, seq)) = self.released() {
                // Read again: it may have got its file.
                let entry = self.outbox.entry(seq).await?;
                self.release(&chat);
                if let Some(entry) = entry {
                    return Ok(Next::Entry(entry));
                }
                continue;
            }
            if self.ahead.is_empty() && self.held.values().map(VecDeque::len).sum::<usize>() < MAX_HELD {
                let entries = match self.last {
                    None => self.outbox.head(READ_AHEAD).await?,
                    Some(last) => self.outbox.after(last, READ_AHEAD).await?,
                };
                self.ahead = entries.into();
            }
            let Some(entry) = self.ahead.pop_front() else {
                let first = self.held.values().filter_map(VecDeque::front);
                return Ok(Next::Nothing { until: first.map(|held| held.until).min() });
            };
            self.last = Some(entry.seq);
            match &entry.event.chat {
                Some(chat) if entry.pending || self.held.contains_key(chat) => {
                    let held = Held { seq: entry.seq, until: self.until(&entry) };
                    self.held.entry(chat.clone()).or_default().push_back(held);
                }
                _ => return Ok(Next::Entry(entry)),
            }
        }
    }

    /// The oldest of the entries that were passed over and need not wait any more.
    fn released(&self) -> Option<(String, u64)> {
        let now = Instant::now();
        let first = self.held.iter().filter_map(|(chat, held)| Some((chat, held.front()?)));
        let ready = first.filter(|(_, held)| held.until <= now || !self.outbox.is_pending(held.seq));
        ready.min_by_key(|(_, held)| held.seq).map(|(chat, held)| (chat.clone(), held.seq))
    }

    fn release(&mut self, chat: &str) {
        if let Some(held) = self.held.get_mut(chat) {
            held.pop_front();
            if held.is_empty() {
                self.held.remove(chat);
            }
        }
    }

    /// When an entry goes out without its file.
    fn until(&self, entry: &Entry) -> Instant {
        let waited = (Utc::now() - entry.committed_at.max(self.started)).to_std().unwrap_or_default();
        Instant::now() + self.wait.saturating_sub(waited)
    }
}
