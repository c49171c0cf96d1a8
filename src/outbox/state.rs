//! What an outbox knows of its rows in the store, and the one way in which it changes them: batches that hold only while the
//! counters are what it thinks.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::done::Recent;
use super::event::Meta;
use super::{Inner, Outbox, RECENT_IDS, Unreadable, key, lock, prefix};
use crate::store::{Batch, KvError};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) meta: Meta,
    /// As it stands in the store; the condition of the next batch.
    pub(super) stored: Option<Bytes>,
    pub(super) recent: Recent,
    /// Whether the above is what the store holds: false while a write is under way and after one that failed.
    pub(super) sound: bool,
    pub(super) closed: bool,
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

    pub(super) async fn make_sound(&self, state: &mut State) -> Result<(), KvError> {
        if state.closed {
            return Err(KvError::Fenced);
        }
        if state.sound { Ok(()) } else { self.load(state).await }
    }

    pub(super) async fn load(&self, state: &mut State) -> Result<(), KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        state.stored = kv.get(ns, key::META_KEY).await?;
        state.meta = match &state.stored {
            None => Meta::default(),
            Some(bytes) => Meta::decode(bytes).ok_or_else(|| KvError::engine(Unreadable))?,
        };
        let old = kv.range(ns, prefix(b'd', RECENT_IDS)).await?;
        state.recent = Recent::load(&kv.range(ns, prefix(b'r', RECENT_IDS)).await?, &old);
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

    fn publish(&self, meta: Meta) {
        let before = std::mem::replace(&mut *lock(&self.inner.meta), meta);
        self.inner.common.count(before.depth.bytes, meta.depth.bytes);
        if self.inner.shedding.load(Ordering::Relaxed) && self.has_room() {
            self.inner.shedding.store(false, Ordering::Relaxed);
        }
    }
}
