//! What an outbox knows of its rows in the store, and the ways in which it changes them: batches that hold only while the
//! counters are what it thinks, new events, which hold only while their place is free, and events that are delivered. The
//! latter two leave the counters as they are: each row that is written costs a text its time, and what these say is counted
//! when an outbox is read.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::done::{Recent, packed};
use super::event::{COUNTERS_LAYOUT, Meta, NewEvent};
use super::{Entry, Inner, Outbox, RECENT_IDS, Unreadable, key, lock, prefix};
use crate::store::{Batch, KvError};

/// Events that are read at once when what waits is counted.
const PAGE: usize = 64;
/// Room for so many ids stays when none waits any more.
const FEW: usize = 64;

/// The ids of the events that wait, and their places; 32 bytes each.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<u128, u64>);

impl Waiting {
    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.contains_key(&packed(id))
    }

    /// Whether it is this entry that waits, and no other of its id.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.0.get(&packed(&entry.event.event_id)) == Some(&entry.seq)
    }

    pub(super) fn add(&mut self, id: &str, seq: u64) {
        self.0.insert(packed(id), seq);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.0.remove(&packed(id));
        if self.0.is_empty() {
            self.0.shrink_to(FEW);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) meta: Meta,
    /// As it stands in the store; the condition of the next batch.
    pub(super) stored: Option<Bytes>,
    pub(super) recent: Recent,
    pub(super) waiting: Waiting,
    /// Whether events of an older release wait, which have a row with their id beside them.
    pub(super) any_id_rows: bool,
    /// Whether the above is what the store holds: false while a write is under way and after one that failed.
    pub(super) sound: bool,
    pub(super) closed: bool,
}

impl State {
    /// Whether the counters in the store keep older releases away.
    pub(super) fn is_marked(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.first() == Some(&COUNTERS_LAYOUT))
    }
}

impl Outbox {
    /// Writes a batch that turns the counters into `meta`, if they are still what we think.
    pub(super) async fn write(&self, state: &mut State, mut meta: Meta, batch: Batch) -> Result<(), KvError> {
        let failed = self.inner.failed.load(Ordering::Relaxed);
        meta.counts.failed += failed;
        let bytes = meta.encode();
        let batch = batch.expect(key::META_KEY, state.stored.clone()).put(key::META_KEY, bytes.clone());
        state.sound = false;
        self.inner.kv.write(&self.inner.ns, batch).await?;
        (state.meta, state.stored, state.sound) = (meta, Some(bytes), true);
        self.inner.failed.fetch_sub(failed, Ordering::Relaxed);
        self.publish(meta);
        Ok(())
    }

    /// Writes rows of new events only; the counters, which count them already, are another time's.
    pub(super) async fn write_new(&self, state: &mut State, meta: Meta, batch: Batch) -> Result<(), KvError> {
        let batch = batch.expect(key::event_key(state.meta.next_seq()), None);
        self.write_rows(state, meta, batch).await
    }

    /// Writes all but the counters.
    pub(super) async fn write_rows(&self, state: &mut State, meta: Meta, batch: Batch) -> Result<(), KvError> {
        state.sound = false;
        self.inner.kv.write(&self.inner.ns, batch).await?;
        (state.meta, state.sound) = (meta, true);
        self.publish(meta);
        Ok(())
    }

    pub(super) async fn make_sound(&self, state: &mut State) -> Result<(), KvError> {
        if state.closed {
            return Err(KvError::Fenced);
        }
        if state.sound { Ok(()) } else { self.load(state).await }
    }

    pub(super) async fn load(&self, state: &mut State) -> Result<(), KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        // A place that was given away is never given again while anybody may remember it: the lane reads on behind the last.
        let places = state.meta.next_seq();
        state.stored = kv.get(ns, key::META_KEY).await?;
        state.meta = match &state.stored {
            None => Meta::default(),
            Some(bytes) => Meta::decode(bytes).ok_or_else(|| KvError::engine(Unreadable))?,
        };
        // At once: this call may fail after it.
        if let Some(last) = places.checked_sub(1) {
            state.meta.skip(last);
        }
        let old = kv.range(ns, prefix(b'd', RECENT_IDS)).await?;
        state.recent = Recent::load(&kv.range(ns, prefix(b'r', RECENT_IDS)).await?, &old);
        if let Some(turn) = state.recent.last_turn() {
            state.meta.go_on_behind(turn);
        }
        self.count_waiting(state).await?;
        state.any_id_rows = !kv.range(ns, prefix(b'i', 1)).await?.is_empty();
        let files = kv.range(ns, prefix(b'f', usize::MAX)).await?;
        *self.waiting() = files.iter().filter_map(|(key, _)| key::seq_of(key)).collect();
        if !kv.range(ns, prefix(b'a', 1)).await?.is_empty() {
            self.inner.attempted.store(true, Ordering::Release);
        }
        state.sound = true;
        self.inner.is_read.store(true, Ordering::Release);
        // A write that failed half-way may have brought something new.
        self.inner.attached.notify_one();
        self.inner.committed.notify_one();
        self.publish(state.meta);
        Ok(())
    }

    /// By the events themselves: the counters are those of the last batch that wrote them.
    async fn count_waiting(&self, state: &mut State) -> Result<(), KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        state.waiting = Waiting::default();
        state.meta.depth = super::Depth::default();
        let mut range = prefix(b'e', PAGE);
        loop {
            let rows = kv.range(ns, range.clone()).await?;
            for (key, row) in &rows {
                let Some(seq) = key::seq_of(key) else { continue };
                state.meta.skip(seq);
                // What can't be read is dropped when its turn comes.
                if let Some((event, _at)) = NewEvent::decode(row) {
                    state.meta.put(event.kind, event.body.len());
                    state.waiting.add(&event.event_id, seq);
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == PAGE => range.start = Bound::Excluded(last.clone()),
                _ => return Ok(()),
            }
            tokio::task::yield_now().await;
        }
    }

    fn publish(&self, meta: Meta) {
        let before = std::mem::replace(&mut *lock(&self.inner.meta), meta);
        self.inner.common.count(before.depth.bytes, meta.depth.bytes);
        if self.inner.shedding.load(Ordering::Relaxed) && self.has_room() {
            self.inner.shedding.store(false, Ordering::Relaxed);
        }
    }
}
