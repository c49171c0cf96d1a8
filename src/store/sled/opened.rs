//! An open sled database with its tables, from opening to the first disk error.
//!
//! sled keeps its first disk error for ever and what was not on disk by then is gone, though readers still see it. So
//! every later call fails, the database is opened again, and a namespace that lost buffered writes fails its next write
//! once: whoever builds on them must learn of it.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::error::OpenError;
use super::flusher::Flusher;
use super::table::{Live, Table};
use super::{CACHE_BYTES, SYNC_EVERY_MS};
use crate::store::{Batch, KvError, Namespace, check_keys};

/// The tree of the store itself; no namespace has this name.
const META: &str = "meta";
const SCHEMA_KEY: &[u8] = b"schema";
/// The layout written by this program. 1: one tree for each namespace, keys and values as the rooms above write them.
const SCHEMA: u32 = 1;

/// A gateway that is just ending, or a database just closed here, gives the lock back within this time.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Opened {
    /// Every tree there is: sled has opened them all anyway.
    tables: RwLock<HashMap<Namespace, Arc<Table>>>,
    flusher: Flusher,
    /// Number of the last write that was applied, and of the last that is known to be flushed.
    written: AtomicU64,
    flushed: AtomicU64,
    /// A disk error was seen.
    failed: AtomicBool,
    /// Namespaces whose buffered writes were lost when the database was reopened.
    lost: Mutex<HashSet<Namespace>>,
    any_lost: AtomicBool,
    /// Last, so that the trees and the flusher let go of it first.
    db: sled::Db,
}

impl Opened {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o700).create(path).map_err(|error| OpenError::from_io(path, error))?;
        let db = open_db(path)?;
        let named = |error| OpenError::from_sled(path, error);
        check_schema(path, &db)?;
        let mut tables = HashMap::new();
        for name in db.tree_names() {
            match std::str::from_utf8(&name) {
                Ok(name) if name != META && name != "__sled__default" => {
                    let tree = db.open_tree(name).map_err(named)?;
                    tables.insert(Namespace::from_name(name), Arc::new(Table::open(tree).map_err(named)?));
                }
                _ => {}
            }
        }
        let flusher = Flusher::start(db.clone()).map_err(|error| OpenError::from_io(path, error))?;
        Ok(Self {
            tables: RwLock::new(tables),
            flusher,
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            lost: Mutex::default(),
            any_lost: AtomicBool::new(false),
            db,
        })
    }

    /// Closes the database; what it returns lost buffered writes.
    pub(super) fn close(self) -> HashSet<Namespace> {
        let flushed = self.flushed.load(Ordering::Acquire);
        let mut lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for (ns, table) in self.tables.read().unwrap_or_else(PoisonError::into_inner).iter() {
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

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Notes an engine error, so that the next call opens the database again.
    pub(super) fn watch<T>(&self, result: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(KvError::Engine(source)) = &result
            && let Some(error) = source.downcast_ref::<sled::Error>()
            && !self.failed.swap(true, Ordering::AcqRel)
        {
            tracing::error!(%error, "the store failed");
        }
        result
    }

    pub(super) fn table(&self, ns: &Namespace) -> Option<Arc<Table>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).get(ns).cloned()
    }

    pub(super) fn namespaces(&self) -> Vec<Namespace> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
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
            table.last_write.fetch_max(self.written.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
            if live == Live::Yes {
                return Ok(());
            }
        }
    }

    pub(super) async fn flush(&self) -> Result<(), KvError> {
        let covers = self.written.load(Ordering::Acquire);
        self.watch(self.flusher.flush().await.map_err(KvError::engine))?;
        self.flushed.fetch_max(covers, Ordering::AcqRel);
        Ok(())
    }

    /// Drops the tree of a namespace; durable after the next flush.
    pub(super) fn drop_table(&self, ns: &Namespace) -> Result<(), KvError> {
        let Some(table) = self.table(ns) else {
            return Ok(());
        };
        // Writers wait at the gate, then look the namespace up again and make it anew; readers find an empty tree.
        let mut live = table.alone();
        if *live == Live::Dropped {
            return Ok(());
        }
        self.db.drop_tree(ns.as_str()).map_err(KvError::engine)?;
        *live = Live::Dropped;
        self.tables.write().unwrap_or_else(PoisonError::into_inner).remove(ns);
        Ok(())
    }

    fn make_table(&self, ns: &Namespace) -> Result<Arc<Table>, KvError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(ns) {
            return Ok(Arc::clone(table));
        }
        let tree = self.db.open_tree(ns.as_str()).map_err(KvError::engine)?;
        let table = Arc::new(Table::open(tree).map_err(KvError::engine)?);
        tables.insert(ns.clone(), Arc::clone(&table));
        Ok(table)
    }
}

fn open_db(path: &Path) -> Result<sled::Db, OpenError> {
    let began = Instant::now();
    loop {
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(SYNC_EVERY_MS));
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

fn check_schema(path: &Path, db: &sled::Db) -> Result<(), OpenError> {
    let named = |error| OpenError::from_sled(path, error);
    let meta = db.open_tree(META).map_err(named)?;
    match meta.get(SCHEMA_KEY).map_err(named)? {
        None => {
            meta.insert(SCHEMA_KEY, &SCHEMA.to_be_bytes()).map_err(named)?;
            meta.flush().map_err(named)?;
        }
        Some(found) => {
            let found = found.as_ref().try_into().map(u32::from_be_bytes).map_err(|_| OpenError::Corrupt {
                path: path.to_owned(),
                detail: "the schema version has the wrong size".into(),
            })?;
            if found > SCHEMA {
                return Err(OpenError::NewerSchema { path: path.to_owned(), found, known: SCHEMA });
            }
        }
    }
    Ok(())
}
