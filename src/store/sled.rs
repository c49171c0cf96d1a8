//! The `Kv` of one process: sled 0.34, one tree for each session, in a folder that this process locks.
//!
//! Nothing of WhatsApp lives here. What is flushed survives a killed process at once, and a power cut after sled's own
//! flusher has synced the file (every [`SYNC_EVERY_MS`]): on Linux sled's flush is `sync_file_range`.
//! sled stops for good at its first disk error; the store is then reopened from disk by the next call (see `opened`). It is
//! also opened anew, in an orderly way, when it has outgrown how it was opened (`Shared::renew`).

mod error;
mod flusher;
mod home;
mod journal;
mod lock;
mod marker;
mod naming;
mod opened;
mod rewrite;
mod table;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::error::OpenError;
pub use self::lock::Lock;
use self::opened::Opened;
use super::{Batch, Durability, Flushing, KeyRange, Kv, KvError, Namespace};

/// How often sled rolls its buffer, gives space back and really syncs the file: the most that a power cut can take of what
/// was flushed. Shorter costs idle syncs, longer delays the reuse of space.
pub const SYNC_EVERY_MS: u64 = 500;

/// Pages that sled keeps decoded, in bytes; its own default is 1 GiB. With 1,000 sessions a text sent takes 4 reads of the file
/// instead of the 15 with 16 MiB, one received 1.5 instead of 7, for 8 MiB more memory; see `BENCHMARKS.md`.
const CACHE_BYTES: u64 = 24 << 20;
/// The namespaces of 1,000 sessions, for which that is enough.
const CACHE_NAMESPACES: usize = 3_000;
/// What each further one adds, so that each of more sessions has as much: pages are read for each text otherwise.
const CACHE_BYTES_FURTHER: u64 = 8 << 10;
const CACHE_BYTES_MOST: u64 = 512 << 20;

/// After a disk error the store is reopened at most so often.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// So long a store that is to be opened anew waits for calls that are under way; all others wait meanwhile.
const RENEW_PATIENCE: Duration = Duration::from_secs(1);
const RENEW_POLL: Duration = Duration::from_millis(1);

/// What sled keeps decoded of a store of so many namespaces. It takes the number at its opening only.
fn cache_bytes(namespaces: usize) -> u64 {
    let further = u64::try_from(namespaces.saturating_sub(CACHE_NAMESPACES)).unwrap_or(u64::MAX);
    CACHE_BYTES.saturating_add(further.saturating_mul(CACHE_BYTES_FURTHER)).min(CACHE_BYTES_MOST)
}

/// What a flushed write waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// The system has it: it survives a killed process, and a power cut after [`SYNC_EVERY_MS`].
    #[default]
    Soon,
    /// The disk has it: it survives a power cut, as far as the disk tells the truth. Each flush takes a real sync, shared by
    /// those who write at the same time.
    Always,
}

impl SyncMode {
    /// `true`: each write waits for the disk.
    pub fn from_setting(always: bool) -> Self {
        if always { Self::Always } else { Self::Soon }
    }
}

/// The sled engine.
#[derive(Debug)]
pub struct SledStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    sync: SyncMode,
    state: RwLock<State>,
    /// Held while the store is reopened.
    reopening: Mutex<Reopening>,
    /// `None`: a copy, which nobody else has. Last, so that the store is closed before.
    lock: Option<Lock>,
}

#[derive(Debug, Default)]
struct Reopening {
    /// When that was last tried.
    tried: Option<Instant>,
    /// Namespaces whose buffered writes are lost, to be told when it is open again.
    lost: HashSet<Namespace>,
    /// It is about to end: not worth opening anew.
    closed: bool,
}

#[derive(Debug)]
enum State {
    Open(Arc<Opened>),
    /// A disk error stopped sled, or it is being opened anew.
    Stopped,
}

impl SledStore {
    /// Opens the store in this folder, making it (mode 0700) when absent. Blocks: reads the whole log's index.
    ///
    /// # Errors
    /// [`OpenError`] names the folder and the remedy.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, SyncMode::default())
    }

    /// The same, with a choice of what a flush waits for.
    ///
    /// # Errors
    /// [`OpenError`] names the folder and the remedy.
    pub fn open_with(path: &Path, sync: SyncMode) -> Result<Self, OpenError> {
        let lock = Lock::take(path)?;
        Ok(Self::over(path, sync, Opened::open(path, sync)?, Some(lock)))
    }

    /// Opens a copy of the store in `original`, to be read and thrown away; the original is not touched.
    ///
    /// # Errors
    /// [`OpenError`] names the original's folder and the remedy.
    pub fn open_copy(copy: &Path, original: &Path) -> Result<Self, OpenError> {
        Ok(Self::over(original, SyncMode::Soon, Opened::open_copy(copy, original)?, None))
    }

    /// Opens what is in the folder, also where the marker beside it says that it should be something else: for a restore, which
    /// ends with [`accept`](Self::accept).
    ///
    /// # Errors
    /// [`OpenError`] names the folder and the remedy.
    pub fn open_unmarked(path: &Path) -> Result<Self, OpenError> {
        let lock = Lock::take(path)?;
        Ok(Self::over(path, SyncMode::Soon, Opened::open_unmarked(path)?, Some(lock)))
    }

    /// Keeps the store from being opened while its files are read; `None`: nothing but sled's own lock tells who has it.
    ///
    /// # Errors
    /// [`OpenError::Locked`] while another process has it.
    pub fn lock_to_read(path: &Path) -> Result<Option<Lock>, OpenError> {
        Lock::take_if_there(path)
    }

    /// Makes the store that is in the folder the one that later openings expect there.
    ///
    /// # Errors
    /// [`OpenError`] names the folder and the remedy.
    pub fn accept(path: &Path) -> Result<(), OpenError> {
        let _lock = Lock::take(path)?;
        marker::remove(path).map_err(|error| OpenError::from_io(path, error))?;
        Opened::open(path, SyncMode::Soon).map(drop)
    }

    fn over(path: &Path, sync: SyncMode, opened: Opened, lock: Option<Lock>) -> Self {
        let state = RwLock::new(State::Open(Arc::new(opened)));
        Self { shared: Arc::new(Shared { path: path.to_owned(), sync, state, reopening: Mutex::default(), lock }) }
    }

    /// The live store; after a disk error one caller a second reopens it here.
    async fn opened(&self) -> Result<Arc<Opened>, KvError> {
        if let Some(opened) = self.shared.live() {
            return Ok(opened);
        }
        let shared = Arc::clone(&self.shared);
        // Goes on when this call is cancelled, and then leaves the store open for the next.
        tokio::task::spawn_blocking(move || shared.reopen()).await.map_err(KvError::engine)?
    }

    /// Has the store opened anew when that is due; whoever comes next waits for it.
    fn renew_if_due(&self, opened: &Opened) {
        if opened.is_due() {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || shared.renew());
        }
    }
}

impl Shared {
    fn live(&self) -> Option<Arc<Opened>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(opened) if !opened.failed() => Some(Arc::clone(opened)),
            _ => None,
        }
    }

    fn set(&self, state: State) -> State {
        std::mem::replace(&mut *self.state.write().unwrap_or_else(PoisonError::into_inner), state)
    }

    /// Opens the store anew that has outgrown how it was opened, or was emptied since: sled takes the size of its pages at its
    /// opening only, and what little of an emptied store lives would hold the memory in which it was allocated. Of an emptied
    /// one first all that is left is written anew (see `rewrite`).
    ///
    /// Calls that come meanwhile wait; one that takes longer than [`RENEW_PATIENCE`] has all go on as before.
    fn renew(&self) {
        let mut reopening = self.reopening.lock().unwrap_or_else(PoisonError::into_inner);
        if reopening.closed || !self.live().is_some_and(|opened| opened.is_outgrown()) {
            return;
        }
        let State::Open(mut held) = self.set(State::Stopped) else { return };
        let (began, mut waited) = (Instant::now(), false);
        let old = loop {
            match Arc::try_unwrap(held) {
                Ok(old) => break old,
                Err(shared) if waited => {
                    self.set(State::Open(shared));
                    return;
                }
                Err(shared) => held = shared,
            }
            waited = began.elapsed() > RENEW_PATIENCE;
            std::thread::sleep(RENEW_POLL);
        };
        let namespaces = old.namespaces().len();
        if let Err(error) = old.settle() {
            // The next call opens it as after any disk error.
            tracing::error!(%error, "the store failed");
            self.set(State::Open(Arc::new(old)));
            return;
        }
        let is_ours = self.lock.as_ref().is_some_and(Lock::is_held);
        let fresh = if is_ours && old.is_emptied() { old.rewrite(&self.path) } else { None };
        reopening.lost.extend(old.close());
        let placed = fresh.and_then(|fresh| {
            let placed = fresh.take_place();
            placed.inspect_err(|error| tracing::warn!(%error, "the store that was written anew stays unused")).ok()
        });
        let open = || Opened::open_again(&self.path, self.sync, namespaces);
        let opened = match (open(), placed) {
            (Err(error), Some(placed)) => {
                tracing::error!(%error, "the store that was written anew can't be opened: the old one takes its place again");
                placed.give_back().map_err(|error| OpenError::from_io(&self.path, error)).and_then(|()| open())
            }
            (opened, _) => opened,
        };
        match opened {
            Ok(opened) => {
                let opened = opened.without(std::mem::take(&mut reopening.lost));
                self.set(State::Open(Arc::new(opened)));
                let took_ms = began.elapsed().as_millis();
                tracing::info!(namespaces, took_ms, "the store was opened anew, as it has another size now");
            }
            // The next call tries again.
            Err(error) => tracing::error!(%error, "the store could not be opened anew"),
        }
    }

    fn reopen(&self) -> Result<Arc<Opened>, KvError> {
        // One at a time; the others wait here on a blocking thread and then find it open, or fail.
        let mut reopening = self.reopening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = self.live() {
            return Ok(opened);
        }
        if reopening.tried.is_some_and(|at| at.elapsed() < REOPEN_EVERY) {
            return Err(KvError::engine("the store stopped after a disk error"));
        }
        reopening.tried = Some(Instant::now());
        if let State::Open(old) = self.set(State::Stopped) {
            match Arc::try_unwrap(old) {
                Ok(old) => reopening.lost.extend(old.close()),
                // Calls that are still waiting for a flush of it are about to fail: next time.
                Err(old) => {
                    self.set(State::Open(old));
                    return Err(KvError::engine("the store stopped after a disk error"));
                }
            }
        }
        tracing::warn!(path = %self.path.display(), "the store stopped after a disk error and is opened again");
        let opened = Opened::open_again(&self.path, self.sync, 0).map_err(KvError::engine)?;
        let opened = Arc::new(opened.without(std::mem::take(&mut reopening.lost)));
        self.set(State::Open(Arc::clone(&opened)));
        Ok(opened)
    }
}

#[async_trait]
impl Kv for SledStore {
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let opened = self.opened().await?;
        opened.watch(ns.as_str(), opened.table(ns).map_or(Ok(None), |table| table.get(key)))
    }

    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError> {
        let opened = self.opened().await?;
        let Some(table) = opened.table(ns) else {
            return Ok(vec![None; keys.len()]);
        };
        opened.watch(ns.as_str(), keys.iter().map(|key| table.get(key)).collect())
    }

    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let opened = self.opened().await?;
        opened.watch(ns.as_str(), opened.table(ns).map_or(Ok(Vec::new()), |table| table.range(&range)))
    }

    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError> {
        let opened = self.opened().await?;
        opened.watch(ns.as_str(), opened.apply(ns, &batch))?;
        self.renew_if_due(&opened);
        match batch.durability {
            Durability::Flushed => opened.flush().await,
            Durability::Buffered => {
                opened.flush_soon();
                Ok(())
            }
        }
    }

    async fn apply(&self, ns: &Namespace, batch: Batch) -> Result<Flushing, KvError> {
        let opened = self.opened().await?;
        opened.watch(ns.as_str(), opened.apply(ns, &batch))?;
        self.renew_if_due(&opened);
        match batch.durability {
            // Of this opening: another one may have lost it.
            Durability::Flushed => Ok(opened.begin_flush()),
            Durability::Buffered => {
                opened.flush_soon();
                Ok(Box::pin(std::future::ready(Ok(()))))
            }
        }
    }

    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError> {
        self.drop_namespaces(std::slice::from_ref(ns)).await
    }

    async fn drop_namespaces(&self, dropped: &[Namespace]) -> Result<(), KvError> {
        let opened = self.opened().await?;
        let found: Vec<Namespace> = dropped.iter().filter(|ns| opened.table(ns).is_some()).cloned().collect();
        if found.is_empty() {
            // A drop that was not flushed may be what made them absent.
            return opened.flush().await;
        }
        // Frees every page of the tree: milliseconds for a large one.
        let dropping = Arc::clone(&opened);
        let dropped =
            tokio::task::spawn_blocking(move || dropping.drop_tables(&found)).await.map_err(KvError::engine)?;
        opened.watch("drop", dropped)?;
        self.renew_if_due(&opened);
        opened.flush().await
    }

    async fn namespaces(&self) -> Result<Vec<Namespace>, KvError> {
        Ok(self.opened().await?.namespaces())
    }

    async fn flush(&self) -> Result<(), KvError> {
        self.opened().await?.flush().await
    }

    async fn snapshot(&self, ns: &Namespace) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let opened = self.opened().await?;
        opened.watch(ns.as_str(), opened.table(ns).map_or(Ok(Vec::new()), |table| table.snapshot()))
    }

    async fn close(&self) -> Result<(), KvError> {
        let shared = Arc::clone(&self.shared);
        // Waits for one that is being opened anew, and lets no other be.
        let closing = move || shared.reopening.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        tokio::task::spawn_blocking(closing).await.map_err(KvError::engine)?;
        let opened = self.opened().await?;
        opened.flush().await?;
        tokio::task::spawn_blocking(move || opened.mark()).await.map_err(KvError::engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_decoded_grows_with_the_store_and_has_an_end() {
        assert_eq!(cache_bytes(0), 24 << 20);
        assert_eq!(cache_bytes(3_000), 24 << 20);
        let two_thousand = cache_bytes(6_000);
        assert!((47 << 20..=48 << 20).contains(&two_thousand), "{two_thousand}");
        assert_eq!(cache_bytes(usize::MAX), 512 << 20);
    }
}
