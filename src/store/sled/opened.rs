//! An open sled database with its tables, from opening to the first disk error.
//!
//! sled keeps its first disk error for ever and what was not on disk by then is gone, though readers still see it. So
//! every later call fails, the database is opened again, and a namespace that lost buffered writes fails its next write
//! once: whoever builds on them must learn of it.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use uuid::Uuid;

use super::error::OpenError;
use super::flusher::{Flusher, Syncing, Written};
use super::home::Home;
use super::marker::{self, Mark};
use super::rewrite::{self, Fresh};
use super::table::{Live, Table};
use super::{CACHE_NAMESPACES, SYNC_EVERY_MS, SyncMode, cache_bytes};
use crate::store::{Batch, Flushing, KvError, Namespace, check_keys};

/// The tree of the store itself; no namespace has this name.
const META: &str = "meta";
/// The one that sled makes, which stays empty.
pub(super) const DEFAULT: &str = "__sled__default";
const SCHEMA_KEY: &[u8] = b"schema";
/// Which store it is, and how often it was marked; see `marker`.
const MARK_KEY: &[u8] = b"mark";
/// How often the marker is renewed while something is written: what is lost of the store since then is not noticed.
const MARK_EVERY: Duration = Duration::from_mins(1);
/// The layout written by this program. 1: one tree for each namespace, keys and values as the rooms above write them. 2: the
/// namespaces of a session may share a tree (`home`).
const SCHEMA: u32 = 2;

/// A store of more namespaces than a quarter above those that it was opened for is opened anew, and so is one of which so many
/// were dropped that at most an eighth of them is left.
const GROWN: usize = 4;
const DROPPED: usize = 900;
const LEFT: usize = 8;

/// What fails where no part of the store does.
const FLUSH: &str = "flush";

/// A gateway that is just ending, or a database just closed here, gives the lock back within this time.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(2);
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Opened {
    /// Every namespace there is: sled has opened their trees anyway.
    pub(super) tables: RwLock<HashMap<Namespace, Arc<Table>>>,
    /// The trees of sessions, by name.
    pub(super) homes: Mutex<HashMap<sled::IVec, Arc<Home>>>,
    flusher: Flusher,
    written: Arc<Written>,
    /// A disk error was seen.
    failed: AtomicBool,
    /// The namespaces that it was opened for, and those dropped since.
    sized_for: usize,
    pub(super) dropped: AtomicUsize,
    /// It may have outgrown how it was opened.
    pub(super) due: AtomicBool,
    /// Namespaces whose buffered writes were lost when the database was reopened.
    lost: Mutex<HashSet<Namespace>>,
    any_lost: AtomicBool,
    /// `None`: a copy, which is not marked.
    pub(super) marks: Option<Arc<Marks>>,
    /// The store's own tree.
    pub(super) meta: sled::Tree,
    /// Last, so that the trees and the flusher let go of it first.
    pub(super) db: sled::Db,
}

impl Opened {
    /// Opens the store that a marker beside the folder tells of, or makes one where there is neither.
    pub(super) fn open(path: &Path, sync: SyncMode) -> Result<Self, OpenError> {
        let opened = Self::open_again(path, sync, 0)?;
        if let Some(marks) = &opened.marks
            && let Err(error) = marks.renew()
        {
            // A full disk, as a rule. Sessions are listed and wait for room; the store is opened again by then.
            tracing::error!(error = %OpenError::from_sled(path, error), "the store can be read only");
            opened.failed.store(true, Ordering::Release);
        }
        Ok(opened)
    }

    /// The same after a disk error: writes nothing into a store that is there. `namespaces`: so many it has at least.
    pub(super) fn open_again(path: &Path, sync: SyncMode, namespaces: usize) -> Result<Self, OpenError> {
        let marked = marker::read(path);
        if !path.join(LOG_FILE).exists() {
            marker::compare(path, marked.as_ref(), None)?;
        }
        let sized_for = marked.as_ref().map_or(0, |told| told.namespaces).max(namespaces);
        let db = make_db(path, sized_for)?;
        let is_new = check_schema(path, &db)?;
        let found = read_mark(path, &db)?;
        marker::compare(path, marked.as_ref(), found.as_ref().filter(|_| !is_new))?;
        let found = found.unwrap_or_else(|| Mark { store: Uuid::new_v4().to_string(), state: 0 });
        let state = Mutex::new((found, Instant::now()));
        let marks = Arc::new(Marks { path: path.to_owned(), db: db.clone(), state, namespaces: AtomicUsize::new(0) });
        let opened = Self::build(path, db, Some(marks), sync, sized_for)?;
        // Not before: until it is open the other folder may have to take its place again.
        rewrite::clean(path);
        Ok(opened)
    }

    /// Whatever is in the folder, without a look at the marker and without renewing it.
    pub(super) fn open_unmarked(path: &Path) -> Result<Self, OpenError> {
        let db = make_db(path, 0)?;
        check_schema(path, &db)?;
        Self::build(path, db, None, SyncMode::Soon, 0)
    }

    /// Of a folder that nobody else uses and nobody keeps; `shown`: the folder that it is a copy of.
    pub(super) fn open_copy(path: &Path, shown: &Path) -> Result<Self, OpenError> {
        let db = open_db(path, 0).map_err(|error| error.of(shown))?;
        if check_schema(shown, &db)? {
            marker::compare(shown, marker::read(shown).as_ref(), None)?;
        } else {
            marker::compare(shown, marker::read(shown).as_ref(), read_mark(shown, &db)?.as_ref())?;
        }
        Self::build(shown, db, None, SyncMode::Soon, 0)
    }

    fn build(
        path: &Path,
        db: sled::Db,
        marks: Option<Arc<Marks>>,
        sync: SyncMode,
        sized_for: usize,
    ) -> Result<Self, OpenError> {
        let named = |error| OpenError::from_sled(path, error);
        let (mut tables, mut homes) = (HashMap::new(), HashMap::new());
        let meta = db.open_tree(META).map_err(named)?;
        for name in db.tree_names() {
            if name == META || name == DEFAULT {
                continue;
            }
            let tree = db.open_tree(&name).map_err(named)?;
            if let Some((uid, home)) = Home::found(name.clone(), &tree, &meta) {
                let home = Arc::new(home);
                for (ns, kind, is_leaving) in home.namespaces(&uid) {
                    tables.insert(ns, Arc::new(Table::under(&home, kind, is_leaving)));
                }
                homes.insert(name, home);
            } else if let Ok(name) = std::str::from_utf8(&name) {
                tables.insert(Namespace::from_name(name), Arc::new(Table::new(tree)));
            }
        }
        if let Some(marks) = &marks {
            marks.namespaces.store(tables.len(), Ordering::Release);
        }
        let syncing = match sync {
            SyncMode::Soon => None,
            SyncMode::Always => Some(Syncing::of(path).map_err(|error| OpenError::from_io(path, error))?),
        };
        let written = Arc::default();
        let flusher = Flusher::start(db.clone(), Arc::clone(&written), syncing, marks.clone())
            .map_err(|error| OpenError::from_io(path, error))?;
        Ok(Self {
            tables: RwLock::new(tables),
            homes: Mutex::new(homes),
            flusher,
            written,
            failed: AtomicBool::new(false),
            sized_for,
            dropped: AtomicUsize::new(0),
            due: AtomicBool::new(false),
            lost: Mutex::default(),
            any_lost: AtomicBool::new(false),
            marks,
            meta,
            db,
        })
    }

    /// Closes the database; what it returns lost buffered writes.
    pub(super) fn close(self) -> HashSet<Namespace> {
        let flushed = self.written.flushed();
        let mut lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for (ns, table) in self.tables().iter() {
            if table.last_write.load(Ordering::Acquire) > flushed {
                lost.insert(ns.clone());
            }
        }
        lost
    }

    /// Fails the next write of each of these namespaces once.
    pub(super) fn without(self, lost: HashSet<Namespace>) -> Self {
        self.any_lost.store(!lost.is_empty(), Ordering::Release);
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = lost;
        self
    }

    /// Renews the marker: the last thing before the database is closed in order.
    pub(super) fn mark(&self) {
        if let Some(marks) = &self.marks
            && let Err(error) = marks.renew()
        {
            tracing::warn!(%error, "the store could not be marked at its end");
        }
    }

    /// Flushes what was applied, and tells the marker how many namespaces there are: what precedes an orderly end of which the
    /// store goes on. Blocks: for a thread that may.
    pub(super) fn settle(&self) -> Result<(), KvError> {
        self.watch(FLUSH, Handle::current().block_on(self.flusher.begin()).map_err(KvError::engine))?;
        self.mark();
        Ok(())
    }

    /// Writes all of a settled store into a fresh one; `None`: it stays as it is, after a failure too.
    pub(super) fn rewrite(&self, path: &Path) -> Option<Fresh> {
        // sled asserts while it reads pages: damage may come as a panic.
        match catch_unwind(AssertUnwindSafe(|| rewrite::write(&self.db, path))) {
            Ok(Ok(fresh)) => return Some(fresh),
            Ok(Err(error)) => tracing::info!(%error, "the emptied store is not written anew and keeps its size"),
            Err(_) => tracing::warn!("the emptied store is not written anew, as a part of it is damaged"),
        }
        None
    }

    /// Whether it is to be opened anew; `true` once for each time.
    pub(super) fn is_due(&self) -> bool {
        self.due.load(Ordering::Acquire) && self.due.swap(false, Ordering::AcqRel)
    }

    /// Whether it has outgrown how it was opened, or was emptied since.
    pub(super) fn is_outgrown(&self) -> bool {
        // A copy is read and thrown away.
        self.marks.is_some() && (is_outgrown(self.tables().len(), self.sized_for) || self.is_emptied())
    }

    /// Whether nearly all that was in it was dropped.
    pub(super) fn is_emptied(&self) -> bool {
        is_emptied(self.tables().len(), self.dropped.load(Ordering::Acquire))
    }

    pub(super) fn tables(&self) -> RwLockReadGuard<'_, HashMap<Namespace, Arc<Table>>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Notes an engine error, so that the next call opens the database again; `part`: what was read or written.
    pub(super) fn watch<T>(&self, part: &str, result: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(KvError::Engine(source)) = &result
            && let Some(error) = source.downcast_ref::<sled::Error>()
        {
            // One damaged page is its reader's trouble: opening again would not mend it, and would disturb all others.
            if matches!(error, sled::Error::Corruption { .. }) {
                tracing::error!(part, %error, "a part of the store is damaged");
            } else if !self.failed.swap(true, Ordering::AcqRel) {
                tracing::error!(part, %error, "the store failed");
            }
        }
        result
    }

    pub(super) fn table(&self, ns: &Namespace) -> Option<Arc<Table>> {
        self.tables().get(ns).cloned()
    }

    pub(super) fn namespaces(&self) -> Vec<Namespace> {
        self.tables().keys().cloned().collect()
    }

    /// Applies a batch; it is in the log's buffer when this returns.
    pub(super) fn apply(&self, ns: &Namespace, batch: &Batch) -> Result<(), KvError> {
        check_keys(batch)?;
        if self.any_lost.load(Ordering::Acquire) && self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(ns)
        {
            return Err(KvError::engine("buffered writes of this namespace were lost in a disk error"));
        }
        loop {
            let table = match self.table(ns) {
                Some(table) => table,
                None if batch.conditions.iter().any(|(_, value)| value.is_some()) => return Err(KvError::Conflict),
                None if batch.ops.is_empty() && batch.fence.is_none() => return Ok(()),
                None => self.make_table(ns)?,
            };
            let live = table.apply(batch)?;
            // Counted after the write, so that a flush that began before never seems to cover it.
            table.last_write.fetch_max(self.written.next(), Ordering::AcqRel);
            if live == Live::Yes {
                return Ok(());
            }
        }
    }

    pub(super) async fn flush(&self) -> Result<(), KvError> {
        self.watch(FLUSH, self.flusher.flush().await.map_err(KvError::engine))
    }

    /// The same, with the flush asked for before this returns. Does not keep the database open.
    pub(super) fn begin_flush(self: &Arc<Self>) -> Flushing {
        let (flushed, opened) = (self.flusher.begin(), Arc::downgrade(self));
        Box::pin(async move {
            let flushed = flushed.await.map_err(KvError::engine);
            match opened.upgrade() {
                Some(opened) => opened.watch(FLUSH, flushed),
                None => flushed,
            }
        })
    }

    /// Has what was applied before the call flushed a moment later.
    pub(super) fn flush_soon(&self) {
        self.flusher.flush_soon();
    }
}

fn is_outgrown(namespaces: usize, sized_for: usize) -> bool {
    let sized_for = sized_for.max(CACHE_NAMESPACES);
    namespaces > sized_for + sized_for / GROWN
}

fn is_emptied(namespaces: usize, dropped: usize) -> bool {
    dropped >= DROPPED && namespaces <= dropped / LEFT
}

/// The file that holds sled's log; the one that it locks.
pub(super) const LOG_FILE: &str = "db";

/// `namespaces`: so many it had, as far as is known.
pub(super) fn make_db(path: &Path, namespaces: usize) -> Result<sled::Db, OpenError> {
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true).mode(0o700).create(path).map_err(|error| OpenError::from_io(path, error))?;
    open_db(path, namespaces)
}

pub(super) fn open_db(path: &Path, namespaces: usize) -> Result<sled::Db, OpenError> {
    let (began, pages) = (Instant::now(), cache_bytes(namespaces));
    loop {
        let config = sled::Config::new().path(path).cache_capacity(pages).flush_every_ms(Some(SYNC_EVERY_MS));
        // sled asserts while it reads a log: damage may come as a panic.
        let error = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) => OpenError::from_sled(path, error),
            Err(_) => OpenError::Corrupt { path: path.to_owned(), detail: "sled could not read its log".into() },
        };
        if !matches!(error, OpenError::Locked { .. }) || began.elapsed() >= LOCK_PATIENCE {
            return Err(error);
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

/// Whether the store is new: it had no schema yet.
fn check_schema(path: &Path, db: &sled::Db) -> Result<bool, OpenError> {
    let named = |error| OpenError::from_sled(path, error);
    let meta = db.open_tree(META).map_err(named)?;
    match meta.get(SCHEMA_KEY).map_err(named)? {
        None => {
            meta.insert(SCHEMA_KEY, &SCHEMA.to_be_bytes()).map_err(named)?;
            meta.flush().map_err(named)?;
            Ok(true)
        }
        Some(found) => {
            let found = found.as_ref().try_into().map(u32::from_be_bytes).map_err(|_| OpenError::Corrupt {
                path: path.to_owned(),
                detail: "the schema version has the wrong size".into(),
            })?;
            if found > SCHEMA {
                return Err(OpenError::NewerSchema { path: path.to_owned(), found, known: SCHEMA });
            }
            Ok(false)
        }
    }
}

/// Before the first row that older programs would not find.
pub(super) fn raise_schema(meta: &sled::Tree) -> Result<(), sled::Error> {
    let known = SCHEMA.to_be_bytes();
    if meta.get(SCHEMA_KEY)?.as_deref() != Some(&known) {
        meta.insert(SCHEMA_KEY, &known)?;
    }
    Ok(())
}

/// What the store itself says of its mark; `None`: it was never marked.
fn read_mark(path: &Path, db: &sled::Db) -> Result<Option<Mark>, OpenError> {
    let named = |error| OpenError::from_sled(path, error);
    let row = db.open_tree(META).map_err(named)?.get(MARK_KEY).map_err(named)?;
    let damaged = |_| OpenError::Corrupt { path: path.to_owned(), detail: "its mark can't be read".into() };
    row.map(|row| serde_json::from_slice(&row).map_err(damaged)).transpose()
}

/// Renews the mark of an open store.
#[derive(Debug)]
pub(super) struct Marks {
    path: PathBuf,
    db: sled::Db,
    /// The mark as it stands, and when it was last renewed.
    state: Mutex<(Mark, Instant)>,
    pub(super) namespaces: AtomicUsize,
}

impl Marks {
    /// Renews it when the last time was long ago.
    pub(super) fn renew_in_time(&self) -> Result<(), sled::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at and renewed in one: a mark that were renewed while the store is written anew would not be in what is written.
        if state.1.elapsed() < MARK_EVERY { Ok(()) } else { self.renew_to(&mut state) }
    }

    /// Renews it now. First the store, really on the disk; then the file beside it, which so never knows more than the store.
    fn renew(&self) -> Result<(), sled::Error> {
        self.renew_to(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn renew_to(&self, (mark, at): &mut (Mark, Instant)) -> Result<(), sled::Error> {
        *at = Instant::now();
        mark.state += 1;
        let row = serde_json::to_vec(mark).map_err(|error| sled::Error::ReportableBug(error.to_string()))?;
        self.db.open_tree(META)?.insert(MARK_KEY, row)?;
        self.db.flush()?;
        std::fs::File::open(self.path.join(LOG_FILE)).and_then(|log| log.sync_all()).map_err(sled::Error::Io)?;
        marker::write(&self.path, mark, self.namespaces.load(Ordering::Acquire));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_opened_anew_when_it_has_grown_or_was_emptied() {
        for (namespaces, sized_for, wanted) in
            [(3_750, 0, false), (3_751, 0, true), (3_751, 3_751, false), (4_689, 3_751, true)]
        {
            assert_eq!(is_outgrown(namespaces, sized_for), wanted, "{namespaces} {sized_for}");
        }
        for (namespaces, dropped, wanted) in
            [(0, 0, false), (112, 899, false), (112, 900, true), (113, 900, false), (0, 3_000, true)]
        {
            assert_eq!(is_emptied(namespaces, dropped), wanted, "{namespaces} {dropped}");
        }
    }
}
