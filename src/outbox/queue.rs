//! What the lane does with an outbox: reads it in order, notes its attempts, takes out what is done.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::done::is_last_of_block;
use super::event::{Attempt, Meta};
use super::state::State;
use super::{CONFLICT_TRIES, Entry, Inner, Outbox, key, prefix};
use crate::store::{Batch, KeyRange, KvError};

impl Outbox {
    /// The oldest `n` events, oldest first.
    ///
    /// # Errors
    /// When the store can't be read. An entry that can't be understood is dropped with an error line.
    pub async fn head(&self, n: usize) -> Result<Vec<Entry>, KvError> {
        self.entries(prefix(b'e', n)).await
    }

    /// The oldest `n` events behind this one, oldest first.
    ///
    /// # Errors
    /// As [`Outbox::head`].
    pub async fn after(&self, seq: u64, n: usize) -> Result<Vec<Entry>, KvError> {
        self.entries(KeyRange { start: Bound::Excluded(key::event_key(seq)), ..prefix(b'e', n) }).await
    }

    /// One event, if it still waits.
    ///
    /// # Errors
    /// As [`Outbox::head`].
    pub async fn entry(&self, seq: u64) -> Result<Option<Entry>, KvError> {
        let key = key::event_key(seq);
        let range = KeyRange { start: Bound::Included(key.clone()), end: Bound::Included(key), limit: 1 };
        Ok(self.entries(range).await?.pop())
    }

    async fn entries(&self, range: KeyRange) -> Result<Vec<Entry>, KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        let rows = kv.range(ns, range).await?;
        let attempts = if self.may_have_attempts() {
            let attempts: Vec<Bytes> = rows.iter().map(|(key, _)| key::attempt_key_of(key)).collect();
            kv.get_many(ns, &attempts).await?
        } else {
            vec![None; rows.len()]
        };
        let mut entries = Vec::with_capacity(rows.len());
        for ((key, value), attempt) in rows.into_iter().zip(attempts) {
            let attempt = attempt.and_then(|bytes| Attempt::decode(&bytes)).unwrap_or_default();
            if let Some(entry) = key::seq_of(&key).and_then(|seq| Entry::decode(seq, &value, attempt)) {
                entries.push(entry);
            } else {
                tracing::error!(session = %self.inner.session, "an unreadable entry of the outbox was dropped");
                let gone = Batch::new()
                    .remove(key::attempt_key_of(&key))
                    .remove(key::file_key_of(&key))
                    .remove(key::shed_key_of(&key))
                    .remove(key);
                kv.write(ns, gone).await?;
            }
        }
        Ok(entries)
    }

    /// Not known before it was read.
    fn may_have_attempts(&self) -> bool {
        self.inner.attempted.load(Ordering::Acquire) || !self.inner.is_read.load(Ordering::Acquire)
    }

    /// Waits for a commit since the last call returned; for one waiter, the lane.
    pub async fn committed(&self) {
        self.inner.committed.notified().await;
    }

    /// Takes out an event that was delivered, and remembers its id for a while. Buffered: a killed process may deliver the
    /// events of its last moment once more.
    ///
    /// # Errors
    /// [`KvError::Engine`]: whether it is out is unknown; removing it again is safe.
    pub async fn remove(&self, entry: &Entry) -> Result<(), KvError> {
        self.settle(entry, false).await
    }

    /// Takes out an event that is not worth delivering any more.
    ///
    /// # Errors
    /// As [`Outbox::remove`].
    pub async fn shed(&self, entry: &Entry) -> Result<(), KvError> {
        self.settle(entry, true).await
    }

    async fn settle(&self, entry: &Entry, is_shed: bool) -> Result<(), KvError> {
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(&mut state).await?;
            if !state.waiting.has(entry) {
                return self.remove_double(&mut state, entry).await;
            }
            let mut meta = state.meta;
            let count = if is_shed { &mut meta.counts.shed } else { &mut meta.counts.delivered };
            *count += 1;
            let (batch, turn) = self.done(Batch::new().buffered(), &state, &mut meta, entry);
            let counts_itself = batch.loose && !is_shed && !is_last_of_block(turn);
            let written = if counts_itself && self.inner.failed.load(Ordering::Relaxed) == 0 {
                self.write_rows(&mut state, meta, batch).await
            } else {
                self.write(&mut state, meta, batch).await
            };
            match written {
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if meta.depth.events() == 0 {
                        // The lane notes attempts and takes events out, one after the other.
                        self.inner.attempted.store(false, Ordering::Release);
                    }
                    self.is_done(&mut state, turn, entry);
                    return Ok(());
                }
            }
        }
        Err(KvError::Conflict)
    }

    /// An entry that does not wait is done already, or put back at another place; or else its id was there twice, as older
    /// releases could have it, and the later one waits.
    pub(super) async fn remove_double(&self, state: &mut State, entry: &Entry) -> Result<(), KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        let row = key::event_key(entry.seq);
        if !state.waiting.contains(&entry.event.event_id) || kv.get(ns, &row).await?.is_none() {
            return Ok(());
        }
        let mut meta = state.meta;
        meta.take(entry.event.kind, entry.event.body.len());
        self.write(state, meta, Batch::new().buffered().remove(row)).await
    }

    /// Adds what every event needs that is done, and returns its turn. Of the rows beside it only those are taken out that may
    /// be there: each looks at a page. With none of them the batch is loose: a process that ends in between has noted that the
    /// event is done, and delivers it once more at most.
    pub(super) fn done(&self, batch: Batch, state: &State, meta: &mut Meta, entry: &Entry) -> (Batch, u64) {
        meta.take(entry.event.kind, entry.event.body.len());
        let turn = meta.turn();
        let id = &entry.event.event_id;
        let beside = [
            (self.may_have_attempts(), key::attempt_key(entry.seq)),
            (self.is_pending(entry.seq), key::file_key(entry.seq)),
            (entry.event.kind.may_be_shed(), key::shed_key(entry.seq)),
            (state.any_id_rows, key::id_key(id)),
        ];
        let alone = beside.iter().all(|(may_be, _)| !may_be);
        let batch = state.recent.put(batch, turn, id);
        let batch = beside.into_iter().filter(|(may_be, _)| *may_be).fold(batch, |batch, (_, key)| batch.remove(key));
        let batch = batch.remove(key::event_key(entry.seq));
        (if alone { batch.loose() } else { batch }, turn)
    }

    /// Takes note of what [`Outbox::done`] made once it is written.
    pub(super) fn is_done(&self, state: &mut State, turn: u64, entry: &Entry) {
        self.waiting().remove(&entry.seq);
        state.waiting.remove(&entry.event.event_id);
        state.any_id_rows &= !state.waiting.is_empty();
        state.recent.push(turn, &entry.event.event_id);
    }

    /// Notes a failed attempt, so that a restart goes on where it was; may be lost with the process.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn mark_attempt(&self, seq: u64, next_at: DateTime<Utc>, attempts: u32) -> Result<(), KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        self.inner.failed.fetch_add(1, Ordering::Relaxed);
        let value = Attempt { count: attempts, next_at_ms: next_at.timestamp_millis() }.encode();
        self.inner.attempted.store(true, Ordering::Release);
        kv.write(ns, Batch::new().put(key::attempt_key(seq), value).buffered()).await
    }

    /// Another receiver: what failed at the last one is tried as if it were new.
    ///
    /// # Errors
    /// When the store can't be used.
    pub async fn forget_attempts(&self) -> Result<(), KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        // Few: only what was tried has one.
        let rows = kv.range(ns, prefix(b'a', usize::MAX)).await?;
        let batch = rows.into_iter().fold(Batch::new().buffered(), |batch, (key, _)| batch.remove(key));
        if batch.ops.is_empty() { Ok(()) } else { kv.write(ns, batch).await }
    }

    /// When the oldest event that waits was committed; `None`: nothing waits.
    ///
    /// # Errors
    /// As [`Outbox::head`].
    pub async fn oldest(&self) -> Result<Option<DateTime<Utc>>, KvError> {
        Ok(self.head(1).await?.first().map(|entry| entry.first_at))
    }

    /// Whether an event has waited longer than events may.
    pub fn is_too_old(&self, entry: &Entry, now: DateTime<Utc>) -> bool {
        (now - entry.committed_at).to_std().is_ok_and(|age| age > self.inner.common.bounds.max_age)
    }
}
