//! One namespace: its tree, its fencing token, and the gate that makes conditions and snapshots atomic.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use sled::{Error, Tree};

use crate::store::{Batch, KeyRange, KvError, Op, RESERVED_PREFIX};

/// Where the highest fencing token of the namespace lives.
const FENCE_KEY: &[u8] = b"\xff\xfffence";

#[derive(Debug)]
pub(super) struct Table {
    tree: Tree,
    /// The highest token that has written here; zero: none. Kept in step with `FENCE_KEY`.
    fence: AtomicU64,
    /// Number of the last write: tells whether a flush covers it.
    pub(super) last_write: AtomicU64,
    /// Shared by plain writes; held alone while a condition is checked and applied, a snapshot is read, or the tree dropped.
    gate: RwLock<Live>,
}

/// What became of a table since it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Live {
    Yes,
    /// Its tree is gone: look the namespace up again.
    Dropped,
}

impl Table {
    pub(super) fn open(tree: Tree) -> Result<Self, Error> {
        let fence = match tree.get(FENCE_KEY)? {
            Some(token) => match token.as_ref().try_into() {
                Ok(token) => u64::from_be_bytes(token),
                Err(_) => return Err(Error::ReportableBug("a fencing token has the wrong size".into())),
            },
            None => 0,
        };
        Ok(Self { tree, fence: AtomicU64::new(fence), last_write: AtomicU64::new(0), gate: RwLock::new(Live::Yes) })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        if key.starts_with(RESERVED_PREFIX) {
            return Ok(None);
        }
        match self.tree.get(key) {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(Error::CollectionNotFound(_)) => Ok(None),
            Err(error) => Err(KvError::engine(error)),
        }
    }

    pub(super) fn range(&self, range: &KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let start = as_slice(&range.start);
        let end = match as_slice(&range.end) {
            Bound::Included(end) | Bound::Excluded(end) if end >= RESERVED_PREFIX => Bound::Excluded(RESERVED_PREFIX),
            Bound::Unbounded => Bound::Excluded(RESERVED_PREFIX),
            end => end,
        };
        if is_empty(start, end) {
            return Ok(Vec::new());
        }
        let pairs = self.tree.range::<&[u8], _>((start, end));
        if range.reverse { collect(pairs.rev(), range.limit) } else { collect(pairs, range.limit) }
    }

    pub(super) fn snapshot(&self) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let _alone = self.alone();
        self.range(&KeyRange::all())
    }

    /// Applies a batch, or says that the table was dropped meanwhile.
    pub(super) fn apply(&self, batch: &Batch) -> Result<Live, KvError> {
        if batch.conditions.is_empty() {
            let live = self.shared();
            if *live == Live::Dropped {
                return Ok(Live::Dropped);
            }
            match batch.fence.map_or(std::cmp::Ordering::Equal, |token| token.cmp(&self.fence.load(Ordering::Acquire)))
            {
                std::cmp::Ordering::Less => return Err(KvError::Fenced),
                std::cmp::Ordering::Equal if batch.loose => return self.put_each(&batch.ops),
                std::cmp::Ordering::Equal => return self.put(&batch.ops, None),
                std::cmp::Ordering::Greater => {}
            }
        }
        let live = self.alone();
        if *live == Live::Dropped {
            return Ok(Live::Dropped);
        }
        let seen = self.fence.load(Ordering::Acquire);
        if batch.fence.is_some_and(|token| token < seen) {
            return Err(KvError::Fenced);
        }
        for (key, expected) in &batch.conditions {
            let held = self.tree.get(key).map_err(KvError::engine)?;
            if held.as_deref() != expected.as_deref() {
                return Err(KvError::Conflict);
            }
        }
        let raised = batch.fence.filter(|&token| token > seen);
        let live = self.put(&batch.ops, raised)?;
        if let Some(token) = raised {
            self.fence.store(token, Ordering::Release);
        }
        Ok(live)
    }

    /// The gate, closed for everybody else: nobody writes while it is held.
    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, Live> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Live> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// sled 0.34 closes its log buffer before and after each batch and has its pool of threads write both, flushed or not:
    /// some 0.3 ms of CPU that single operations don't cost.
    fn put_each(&self, ops: &[Op]) -> Result<Live, KvError> {
        ops.iter().try_fold(Live::Yes, |_, op| self.put(std::slice::from_ref(op), None))
    }

    /// One key goes in directly: that spares sled's process-wide batch lock and the batch's log record.
    fn put(&self, ops: &[Op], fence: Option<u64>) -> Result<Live, KvError> {
        match (ops, fence) {
            ([], None) => Ok(Live::Yes),
            ([Op::Put(key, value)], None) => done(self.tree.insert(key, value.as_ref())),
            ([Op::Remove(key)], None) => done(self.tree.remove(key)),
            _ => {
                let mut batch = sled::Batch::default();
                for op in ops {
                    match op {
                        Op::Put(key, value) => batch.insert(key.as_ref(), value.as_ref()),
                        Op::Remove(key) => batch.remove(key.as_ref()),
                    }
                }
                if let Some(token) = fence {
                    batch.insert(FENCE_KEY, &token.to_be_bytes());
                }
                done(self.tree.apply_batch(batch))
            }
        }
    }
}

fn done<T>(result: Result<T, Error>) -> Result<Live, KvError> {
    result.map(|_| Live::Yes).map_err(KvError::engine)
}

fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(AsRef::as_ref)
}

/// sled is not asked for a range that can't hold a key: what it does with one is nowhere promised.
fn is_empty(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
        | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
        _ => false,
    }
}

fn collect(
    pairs: impl Iterator<Item = Result<(sled::IVec, sled::IVec), Error>>,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, KvError> {
    let mut found = Vec::new();
    for pair in pairs.take(limit) {
        match pair {
            Ok((key, value)) => found.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))),
            Err(Error::CollectionNotFound(_)) => break,
            Err(error) => return Err(KvError::engine(error)),
        }
    }
    Ok(found)
}
