//! What the outboxes of one gateway share: how much they may hold together, and what is kept at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Kind, Kinds, Target};

/// How much may wait, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of bodies that wait in all outboxes together. A session keeps its equal part of them whatever the others hold.
    pub max_bytes: u64,
    /// What waits longer is not tried any more.
    pub max_age: Duration,
    /// Dead letters of one session.
    pub dead_count: u64,
    /// Bytes of their bodies.
    pub dead_bytes: u64,
    /// How long they are kept.
    pub dead_age: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            max_age: Duration::from_hours(7 * 24),
            dead_count: 10_000,
            dead_bytes: 64 << 20,
            dead_age: Duration::from_hours(30 * 24),
        }
    }
}

/// Shared by all outboxes of a gateway.
#[derive(Debug)]
pub struct Common {
    pub(super) bounds: Bounds,
    /// Which events are kept of a session without a choice of its own.
    kinds: Kinds,
    /// Whether somebody takes the events of a session without a receiver of its own.
    pub(super) has_receiver: bool,
    used: AtomicU64,
    open: AtomicU64,
}

impl Common {
    /// `kinds`: what is kept of a session without a choice of its own; `has_receiver`: whether the gateway has a receiver.
    pub fn new(bounds: Bounds, kinds: Kinds, has_receiver: bool) -> Self {
        Self { bounds, kinds, has_receiver, used: AtomicU64::new(0), open: AtomicU64::new(0) }
    }

    /// Whether events of this kind are kept for a session with this receiver of its own, if it has one.
    pub fn wants(&self, target: Option<&Target>, kind: Kind) -> bool {
        match target.map(|target| target.events.as_ref()) {
            Some(Some(events)) => events.contains(&kind),
            Some(None) => self.kinds.contains(kind),
            None => self.has_receiver && self.kinds.contains(kind),
        }
    }

    pub(super) fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self, bytes: u64) {
        self.count(bytes, 0);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// An outbox that held `before` bytes holds `after`.
    pub(super) fn count(&self, before: u64, after: u64) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Whether an outbox of `own` bytes may take `more`. An empty one may always: one body can't be cut in two.
    pub(super) fn has_room(&self, own: u64, more: u64) -> bool {
        self.is_within(self.bounds.max_bytes, own, more)
    }

    /// The same with a quarter to spare: one that was full stays so until then.
    pub(super) fn has_much_room(&self, own: u64) -> bool {
        self.is_within(self.bounds.max_bytes / 4 * 3, own, 0)
    }

    fn is_within(&self, max: u64, own: u64, more: u64) -> bool {
        let (used, open) = (self.used.load(Ordering::Relaxed), self.open.load(Ordering::Relaxed));
        own == 0 || used.saturating_add(more) <= max || own.saturating_add(more) <= max / open.max(1)
    }
}
