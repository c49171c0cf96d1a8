//! One namespace: its part of a tree, its fencing token, and the gate that makes conditions and snapshots atomic.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use sled::{Error, IVec, Tree};
use smallvec::SmallVec;

use super::home::{Home, Kind};
use super::journal;
use crate::store::{Batch, KeyRange, KvError, Op, RESERVED_PREFIX};

/// Where the highest fencing token of the namespace lives.
const FENCE_KEY: &[u8] = b"\xff\xfffence";

#[derive(Debug)]
pub(super) struct Table {
    rows_of: Part,
    /// The highest token that has written here; zero: none. Kept in step with `FENCE_KEY` once the rows are whole.
    fence: AtomicU64,
    /// Number of the last write: tells whether a flush covers it.
    pub(super) last_write: AtomicU64,
    /// Shared by plain writes; held alone while a batch is checked and applied, a snapshot is read, or the tree dropped. Taken
    /// before `rows`.
    gate: RwLock<Live>,
    /// Shared by readers, held alone while a batch is applied. Tables are looked at when they are used first: so damage of one
    /// is no other's trouble, and a thousand are opened at once.
    rows: RwLock<Rows>,
}

/// How the rows stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// A batch may be half done: not looked at yet, or one failed.
    Unknown,
    /// No batch is half done, and the journal is empty.
    Whole,
    /// The same, and the last write was the batch that the journal still holds: the next batch replaces it, and any other
    /// write empties it first, as a batch that is done once more must not come back over something newer.
    Journaled,
    /// A process ended while it removed them: there are none for a reader, and none before the next write.
    Leaving,
}

/// What became of a table since it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Live {
    Yes,
    /// Its tree is gone: look the namespace up again.
    Dropped,
}

/// The tree of a namespace, or its part of its session's.
#[derive(Debug)]
enum Part {
    /// As older releases made them.
    Whole(Tree),
    Under(Arc<Home>, Kind),
}

/// A key as its tree has it: longer by a byte where namespaces share it. On the stack unless it is long.
type FullKey = SmallVec<[u8; 64]>;

impl Part {
    fn tree(&self) -> &Tree {
        match self {
            Self::Whole(tree) => tree,
            Self::Under(home, _) => &home.tree,
        }
    }

    fn first_byte(&self) -> Option<u8> {
        match self {
            Self::Whole(_) => None,
            Self::Under(_, kind) => Some(kind.first_byte()),
        }
    }

    fn key(&self, key: &[u8]) -> FullKey {
        self.first_byte().into_iter().chain(key.iter().copied()).collect()
    }

    fn get(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        match self {
            Self::Whole(tree) => tree.get(key),
            Self::Under(home, _) => home.tree.get(self.key(key)),
        }
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        match self {
            Self::Whole(tree) => tree.insert(key, value),
            Self::Under(home, _) => home.tree.insert(self.key(key), value),
        }
        .map(drop)
    }

    fn put(&self, op: &Op) -> Result<(), Error> {
        match op {
            Op::Put(key, value) => self.insert(key, value),
            Op::Remove(key) => self.tree().remove(self.key(key)).map(drop),
        }
    }

    /// All ends at once with sled's own batch.
    fn put_large(&self, ops: &[Op]) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.insert(self.key(key).as_slice(), value.as_ref()),
                Op::Remove(key) => batch.remove(self.key(key).as_slice()),
            }
        }
        self.tree().apply_batch(batch)
    }

    /// The rows between two keys that callers may use.
    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> sled::Iter {
        let full = |bound: Bound<&[u8]>| bound.map(|key| self.key(key));
        let start = match start {
            Bound::Unbounded => Bound::Included(self.key(&[])),
            start => full(start),
        };
        self.tree().range::<FullKey, _>((start, full(end)))
    }

    fn without_first_byte<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        key.get(usize::from(self.first_byte().is_some())..).unwrap_or_default()
    }
}

impl Table {
    /// A namespace with a tree of its own.
    pub(super) fn new(tree: Tree) -> Self {
        Self::of(Part::Whole(tree), Rows::Unknown)
    }

    /// A namespace of a session; `is_leaving`: its rows were being removed when the last process ended.
    pub(super) fn under(home: &Arc<Home>, kind: Kind, is_leaving: bool) -> Self {
        let rows = if is_leaving { Rows::Leaving } else { Rows::Unknown };
        Self::of(Part::Under(Arc::clone(home), kind), rows)
    }

    fn of(rows_of: Part, rows: Rows) -> Self {
        let (fence, last_write) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { rows_of, fence, last_write, gate: RwLock::new(Live::Yes), rows: RwLock::new(rows) }
    }

    /// Where it lives, if it is a session's.
    pub(super) fn home(&self) -> Option<(&Arc<Home>, Kind)> {
        match &self.rows_of {
            Part::Whole(_) => None,
            Part::Under(home, kind) => Some((home, *kind)),
        }
    }

    /// Its rows are about to be removed, the gate held alone: no journal of it is ever done again.
    pub(super) fn leave(&self) {
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = Rows::Leaving;
    }

    /// Finishes the batch that a killed process, an error or a panic left half done, before anybody reads or writes; and before
    /// a write, a removal of all rows.
    fn make_whole(&self) -> Result<(), Error> {
        if matches!(self.rows(), Rows::Whole | Rows::Journaled) {
            return Ok(());
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if *rows == Rows::Leaving
            && let Some((home, kind)) = self.home()
        {
            home.finish_clearing(kind)?;
            *rows = Rows::Unknown;
        }
        if *rows == Rows::Unknown {
            let found = finish(&self.rows_of)?;
            let fence = match self.rows_of.get(FENCE_KEY)? {
                Some(token) => match token.as_ref().try_into() {
                    Ok(token) => u64::from_be_bytes(token),
                    Err(_) => return Err(Error::ReportableBug("a fencing token has the wrong size".into())),
                },
                None => 0,
            };
            self.fence.store(fence, Ordering::Release);
            *rows = found;
        }
        Ok(())
    }

    fn rows(&self) -> Rows {
        *self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a write that is no journaled batch.
    fn empty_journal(&self) -> Result<(), Error> {
        if self.rows() != Rows::Journaled {
            return Ok(());
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if *rows == Rows::Journaled {
            self.rows_of.insert(journal::KEY, &[])?;
            *rows = Rows::Whole;
        }
        Ok(())
    }

    /// Reads while no batch is half done.
    fn reading<T: Default>(&self, read: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            {
                let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
                match *rows {
                    Rows::Unknown => {}
                    Rows::Whole | Rows::Journaled => return read(),
                    Rows::Leaving => return Ok(T::default()),
                }
            }
            self.make_whole()?;
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        if key.starts_with(RESERVED_PREFIX) {
            return Ok(None);
        }
        match self.reading(|| self.rows_of.get(key)) {
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
        // Only forwards: for the other way sled brings a constant of a mebibyte, its greatest key.
        match self.reading(|| self.collect(self.rows_of.range(start, end), range.limit)) {
            Err(Error::CollectionNotFound(_)) => Ok(Vec::new()),
            read => read.map_err(KvError::engine),
        }
    }

    pub(super) fn snapshot(&self) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let _alone = self.alone();
        self.range(&KeyRange::all())
    }

    /// Applies a batch, or says that the table was dropped meanwhile.
    pub(super) fn apply(&self, batch: &Batch) -> Result<Live, KvError> {
        // Each of its operations stands for itself.
        let single = batch.loose || batch.ops.len() <= 1;
        if single && batch.conditions.is_empty() {
            let live = self.shared();
            if *live == Live::Dropped {
                return Ok(Live::Dropped);
            }
            self.make_whole().map_err(KvError::engine)?;
            match batch.fence.map_or(std::cmp::Ordering::Equal, |token| token.cmp(&self.fence.load(Ordering::Acquire)))
            {
                std::cmp::Ordering::Less => return Err(KvError::Fenced),
                std::cmp::Ordering::Equal => return self.put_each(&batch.ops).map_err(KvError::engine),
                std::cmp::Ordering::Greater => {}
            }
        }
        let live = self.alone();
        if *live == Live::Dropped {
            return Ok(Live::Dropped);
        }
        self.make_whole().map_err(KvError::engine)?;
        let seen = self.fence.load(Ordering::Acquire);
        if batch.fence.is_some_and(|token| token < seen) {
            return Err(KvError::Fenced);
        }
        for (key, expected) in &batch.conditions {
            let held = self.rows_of.get(key).map_err(KvError::engine)?;
            if held.as_deref() != expected.as_deref() {
                return Err(KvError::Conflict);
            }
        }
        let Some(raised) = batch.fence.filter(|&token| token > seen) else {
            let put = if single { self.put_each(&batch.ops) } else { self.put_all(&batch.ops, &batch.conditions) };
            return put.map_err(KvError::engine);
        };
        let fence = Op::Put(Bytes::from_static(FENCE_KEY), Bytes::copy_from_slice(&raised.to_be_bytes()));
        let ops: Vec<Op> = batch.ops.iter().cloned().chain([fence]).collect();
        let live = self.put_all(&ops, &batch.conditions).map_err(KvError::engine)?;
        self.fence.store(raised, Ordering::Release);
        Ok(live)
    }

    /// The gate, closed for everybody else: nobody writes while it is held.
    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, Live> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Live> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// In their order; a process that ends in between leaves the first of them.
    fn put_each(&self, ops: &[Op]) -> Result<Live, Error> {
        self.empty_journal()?;
        ops.iter().try_for_each(|op| self.rows_of.put(op)).map(|()| Live::Yes)
    }

    /// All or none of them, whenever the process ends; the gate is held alone, and the rows of `read` were read.
    fn put_all(&self, ops: &[Op], read: &[(Bytes, Option<Bytes>)]) -> Result<Live, Error> {
        if ops.len() <= 1 {
            return self.put_each(ops);
        }
        if journal::size(ops) > journal::MAX_BYTES {
            self.empty_journal()?;
            return self.rows_of.put_large(ops).map(|()| Live::Yes);
        }
        // A page that can't be read fails the batch here, with nothing written; the next lines need the pages anyway.
        for op in ops {
            let (Op::Put(key, _) | Op::Remove(key)) = op;
            if !read.iter().any(|(known, _)| known == key) {
                self.rows_of.get(key)?;
            }
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        *rows = Rows::Unknown;
        self.rows_of.insert(journal::KEY, journal::encode(ops).as_ref())?;
        ops.iter().try_for_each(|op| self.rows_of.put(op))?;
        *rows = Rows::Journaled;
        Ok(Live::Yes)
    }

    fn collect(
        &self,
        pairs: impl Iterator<Item = Result<(IVec, IVec), Error>>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let mut found = Vec::new();
        for pair in pairs.take(limit) {
            match pair {
                Ok((key, value)) => {
                    let key = self.rows_of.without_first_byte(&key);
                    found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(&value)));
                }
                Err(Error::CollectionNotFound(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Does what a batch was about to do when the process ended. Writes nothing where all of it was done: a store on a full
/// disk can still be read.
fn finish(rows: &Part) -> Result<Rows, Error> {
    let Some(left) = rows.get(journal::KEY)?.filter(|left| !left.is_empty()) else { return Ok(Rows::Whole) };
    let Some(ops) = journal::decode(Bytes::copy_from_slice(&left)) else {
        return Err(Error::ReportableBug("a journal can't be read".into()));
    };
    for op in &ops {
        let (key, value) = match op {
            Op::Put(key, value) => (key, Some(value)),
            Op::Remove(key) => (key, None),
        };
        if rows.get(key)?.as_deref() != value.map(Bytes::as_ref) {
            ops.iter().try_for_each(|op| rows.put(op))?;
            break;
        }
    }
    Ok(Rows::Journaled)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(tree: &Tree) -> Vec<(Vec<u8>, Vec<u8>)> {
        tree.iter().map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    }

    /// A tree of its own, and a part of a session's whose other parts hold rows with the same keys.
    fn parts(db: &sled::Db, name: &str) -> [Part; 2] {
        let tree = db.open_tree(format!("shared {name}")).unwrap();
        let home = Arc::new(Home::new(name.into(), tree, Tree::clone(db)));
        for kind in [Kind::Outbox, Kind::Sent] {
            let other = Part::Under(Arc::clone(&home), kind);
            for key in [&b"a"[..], b"d", FENCE_KEY] {
                other.insert(key, b"of another").unwrap();
            }
        }
        [Part::Whole(db.open_tree(name).unwrap()), Part::Under(home, Kind::Credentials)]
    }

    fn again(part: &Part) -> Table {
        let part = match part {
            Part::Whole(tree) => Part::Whole(tree.clone()),
            Part::Under(home, kind) => Part::Under(Arc::clone(home), *kind),
        };
        Table::of(part, Rows::Unknown)
    }

    #[test]
    fn a_batch_that_was_cut_short_is_finished_once() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let ops = [
            Op::Put("a".into(), "new".into()),
            Op::Remove("b".into()),
            Op::Put("c".into(), "new".into()),
            Op::Put(Bytes::from_static(FENCE_KEY), Bytes::copy_from_slice(&7_u64.to_be_bytes())),
        ];
        for done in 0..=ops.len() {
            for part in parts(&db, &format!("cut after {done}")) {
                for key in ["a", "b", "d"] {
                    part.insert(key.as_bytes(), b"old").unwrap();
                }
                part.insert(journal::KEY, journal::encode(&ops).as_ref()).unwrap();
                ops[..done].iter().for_each(|op| part.put(op).unwrap());
                let table = again(&part);
                let pair = |key: &str, value: &str| {
                    (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
                };
                assert_eq!(table.snapshot().unwrap(), [pair("a", "new"), pair("c", "new"), pair("d", "old")], "{done}");
                assert!(matches!(table.apply(&Batch::new().remove("a").fenced(6)), Err(KvError::Fenced)), "{done}");
                table.apply(&Batch::new().put("a", "later")).unwrap();
                drop(table);
                let after = rows(part.tree());
                again(&part).get(b"a").unwrap();
                assert_eq!(rows(part.tree()), after, "{done}: not a second time");
            }
        }
    }

    #[test]
    fn what_a_failed_batch_left_is_finished_before_the_next_write() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let table = Table::new(Tree::clone(&db));
        table.apply(&Batch::new().put("a", "old")).unwrap();
        // As `put_all` leaves it when an operation fails or panics in the middle.
        let ops = [Op::Put("a".into(), "batch".into()), Op::Put("b".into(), "batch".into())];
        *table.rows.write().unwrap() = Rows::Unknown;
        db.insert(journal::KEY, journal::encode(&ops).as_ref()).unwrap();
        table.apply(&Batch::new().put("a", "later")).unwrap();
        let value = |key: &[u8]| table.get(key).unwrap().unwrap();
        assert_eq!((value(b"a"), value(b"b")), ("later".into(), "batch".into()));
        drop(table);
        let table = Table::new(Tree::clone(&db));
        assert_eq!(table.get(b"a").unwrap().unwrap(), "later", "an old batch comes back over nothing newer");
    }

    #[test]
    fn a_batch_that_is_done_comes_back_over_nothing_newer() {
        let large = vec![b'x'; journal::MAX_BYTES];
        let later: [(&str, Batch); 4] = [
            ("a single write", Batch::new().put("a", "later")),
            ("each for itself", Batch::new().put("b", "other").put("a", "later").loose()),
            ("a large batch", Batch::new().put("a", "later").put("c", large)),
            ("another batch", Batch::new().put("a", "later").put("b", "other")),
        ];
        for (what, later) in later {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let table = Table::new(Tree::clone(&db));
            table.apply(&Batch::new().put("a", "batch").put("b", "batch")).unwrap();
            assert!(!db.get(journal::KEY).unwrap().unwrap().is_empty(), "the next batch replaces it");
            assert_eq!(table.get(b"a").unwrap().unwrap(), "batch", "{what}");
            table.apply(&later).unwrap();
            drop(table);
            let table = Table::new(Tree::clone(&db));
            assert_eq!(table.get(b"a").unwrap().unwrap(), "later", "{what}");
        }
    }

    #[test]
    fn a_journal_that_is_damaged_is_an_error() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        db.insert(journal::KEY, b"torn").unwrap();
        let table = Table::new(Tree::clone(&db));
        assert!(table.get(b"a").is_err());
        assert!(table.snapshot().is_err());
        assert!(table.apply(&Batch::new().put("a", "1")).is_err(), "nothing is built on half a batch");
    }
}
