//! Which event of an outbox comes next: the oldest, but a chat whose oldest message waits for its file, or for another try
//! after many, lets the other chats pass.
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

/// Entries passed over before the queue reads no further: some hundred kB of numbers.
const MAX_HELD: usize = 8_192;

/// Chats among which the lane looks for one that the receiver takes, before it begins with the first again.
const MAX_PROBED: usize = 32;

/// A file is waited for so many times as long where the files before it take their time.
const MOST_WAITS: u32 = 15;

/// Whether they still do is asked so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why the outbox can't be read.
pub(super) type ReadError = Box<dyn Error + Send + Sync>;

/// Whose order an event belongs to; `None`: the session's own.
pub(super) type Chat = Option<String>;

/// The queue of one lane.
pub(super) struct Queue {
    outbox: Outbox,
    wait: Duration,
    /// Files are waited for since then at the earliest: before, nobody fetched them.
    started: DateTime<Utc>,
    /// The last entry that was read; `None`: begin at the oldest.
    last: Option<u64>,
    ahead: VecDeque<Entry>,
    /// The chats that were passed over; none of them is empty.
    lines: HashMap<Chat, Line>,
}

/// What waits of one chat, in order.
#[derive(Default)]
struct Line {
    /// Its first entry failed so often that it has a schedule of its own.
    aside: Option<Instant>,
    held: VecDeque<Held>,
}

struct Held {
    seq: u64,
    /// When it goes out without its file; `None`: it waits for none.
    file: Option<FileWait>,
}

/// How long a file is waited for.
#[derive(Clone, Copy)]
struct FileWait {
    until: Instant,
    /// While the session's files are being fetched, so many at a time, it may still come.
    at_most: Instant,
}

impl FileWait {
    fn ends(self, outbox: &Outbox, now: Instant) -> Option<Instant> {
        if self.until > now {
            Some(self.until)
        } else if outbox.is_fetching() && self.at_most > now {
            Some(self.at_most.min(now + LOOK_AGAIN))
        } else {
            None
        }
    }
}

/// What the queue says.
pub(super) enum Next {
    /// To be posted, and then removed from the outbox or put back.
    Entry {
        entry: Entry,
        /// Its chat had stepped aside.
        aside: bool,
    },
    /// Ask again after a commit, or then.
    Nothing { until: Option<Instant> },
}

impl Line {
    /// When its first entry may go; `None`: now.
    fn waits(&self, outbox: &Outbox, now: Instant) -> Option<Instant> {
        let first = self.held.front()?;
        let file = first.file.filter(|_file| outbox.is_pending(first.seq)).and_then(|file| file.ends(outbox, now));
        file.max(self.aside.filter(|until| *until > now))
    }

    fn seq(&self) -> u64 {
        self.held.front().map_or(u64::MAX, |held| held.seq)
    }
}

impl Queue {
    pub(super) fn new(outbox: Outbox, wait: Duration) -> Self {
        Self { outbox, wait, started: Utc::now(), last: None, ahead: VecDeque::new(), lines: HashMap::new() }
    }

    /// Forgets what it read: the next call begins at the oldest entry that is left.
    pub(super) fn start_over(&mut self) {
        self.last = None;
        self.ahead.clear();
        self.lines.clear();
    }

    /// The next event, which the queue forgets with that.
    pub(super) async fn next(&mut self) -> Result<Next, ReadError> {
        loop {
            let now = Instant::now();
            let open = self.lines.iter().filter(|(_, line)| line.waits(&self.outbox, now).is_none());
            if let Some(chat) = open.min_by_key(|(_, line)| line.seq()).map(|(chat, _)| chat.clone()) {
                if let Some(next) = self.take(&chat).await? {
                    return Ok(next);
                }
                continue;
            }
            match self.read().await? {
                None => return Ok(Next::Nothing { until: self.wakes() }),
                Some(entry) => {
                    if let Some(entry) = self.pass(entry) {
                        return Ok(Next::Entry { entry, aside: false });
                    }
                }
            }
        }
    }

    /// The first event of another chat than this, to see whether the receiver takes that: the one behind `after`, or from
    /// the first again.
    pub(super) async fn probe(&mut self, but: &Chat, after: u64) -> Result<Next, ReadError> {
        loop {
            let now = Instant::now();
            let others = self
                .lines
                .iter()
                .filter(|(chat, line)| *chat != but && line.aside.is_none() && line.waits(&self.outbox, now).is_none());
            let mut others: Vec<(u64, &Chat)> = others.map(|(chat, line)| (line.seq(), chat)).collect();
            others.sort_unstable();
            let behind = others.iter().find(|(seq, _)| *seq > after);
            if behind.is_none() && others.len() < MAX_PROBED {
                let found = others.first().map(|(_, chat)| (*chat).clone());
                if let Some(entry) = self.read().await? {
                    match self.pass(entry) {
                        Some(entry) => return Ok(Next::Entry { entry, aside: false }),
                        None => continue,
                    }
                }
                let Some(chat) = found else { return Ok(Next::Nothing { until: self.wakes() }) };
                if let Some(next) = self.take(&chat).await? {
                    return Ok(next);
                }
                continue;
            }
            let Some((_, chat)) = behind.or(others.first()) else {
                return Ok(Next::Nothing { until: self.wakes() });
            };
            let chat = (*chat).clone();
            if let Some(next) = self.take(&chat).await? {
                return Ok(next);
            }
        }
    }

    /// The first event of a chat that was passed over; `None`: it is gone.
    pub(super) async fn take(&mut self, chat: &Chat) -> Result<Option<Next>, ReadError> {
        let Some(line) = self.lines.get(chat) else { return Ok(None) };
        // Read again: it may have got its file.
        let (seq, aside) = (line.seq(), line.aside.is_some());
        let entry = self.outbox.entry(seq).await?;
        self.pop(chat);
        Ok(entry.map(|entry| Next::Entry { entry, aside }))
    }

    fn pop(&mut self, chat: &Chat) {
        if let Some(line) = self.lines.get_mut(chat) {
            line.held.pop_front();
            line.aside = None;
            if line.held.is_empty() {
                self.lines.remove(chat);
            }
        }
    }

    /// Forgets an event that was put back, if nobody has taken it since.
    pub(super) fn forget(&mut self, entry: &Entry) {
        let chat = &entry.event.chat;
        if self.lines.get(chat).is_some_and(|line| line.seq() == entry.seq) {
            self.pop(chat);
        }
    }

    /// When this chat may be tried again; `None`: now, or there is nothing of it.
    pub(super) fn waits(&self, chat: &Chat) -> Option<Instant> {
        self.lines.get(chat)?.waits(&self.outbox, Instant::now())
    }

    /// Puts an event back that the queue has given, before all else of its chat. `until`: the chat steps aside.
    pub(super) fn put_back(&mut self, entry: &Entry, until: Option<Instant>) {
        let line = self.lines.entry(entry.event.chat.clone()).or_default();
        line.held.push_front(Held { seq: entry.seq, file: None });
        line.aside = until;
    }

    /// A chat that stepped aside is tried again then.
    pub(super) fn set_aside(&mut self, chat: &Chat, until: Instant) {
        if let Some(line) = self.lines.get_mut(chat) {
            line.aside = Some(until);
        }
    }

    /// Passes an event over that has to wait, or gives it back.
    fn pass(&mut self, entry: Entry) -> Option<Entry> {
        let chat = &entry.event.chat;
        // What is the session's own has no file.
        let waits = entry.pending && chat.is_some();
        if !waits && !self.lines.contains_key(chat) {
            return Some(entry);
        }
        let held = Held { seq: entry.seq, file: waits.then(|| self.until(&entry)) };
        self.lines.entry(entry.event.chat).or_default().held.push_back(held);
        None
    }

    async fn read(&mut self) -> Result<Option<Entry>, ReadError> {
        if self.ahead.is_empty() && self.lines.values().map(|line| line.held.len()).sum::<usize>() < MAX_HELD {
            let entries = match self.last {
                None => self.outbox.head(READ_AHEAD).await?,
                Some(last) => self.outbox.after(last, READ_AHEAD).await?,
            };
            self.ahead = entries.into();
        }
        let entry = self.ahead.pop_front();
        self.last = entry.as_ref().map(|entry| entry.seq).or(self.last);
        Ok(entry)
    }

    /// When the first of the chats that were passed over may go.
    fn wakes(&self) -> Option<Instant> {
        let now = Instant::now();
        self.lines.values().map(|line| line.waits(&self.outbox, now).unwrap_or(now)).min()
    }

    /// When an entry goes out without its file.
    fn until(&self, entry: &Entry) -> FileWait {
        let waited = (Utc::now() - entry.committed_at.max(self.started)).to_std().unwrap_or_default();
        let now = Instant::now();
        FileWait {
            until: now + self.wait.saturating_sub(waited),
            at_most: now + (self.wait * MOST_WAITS).saturating_sub(waited),
        }
    }
}
