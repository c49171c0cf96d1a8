//! Group commit: one thread flushes the log, and writers that come while it does share the next flush.
//!
//! sled's own `flush_async` parks one pool thread for every waiter; with a thousand sessions that is a hundred threads for
//! one flush. What nobody waits for is flushed by the same thread a moment later. The thread is owned by the opened store,
//! which joins it when dropped.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sled::Error;
use tokio::sync::oneshot;

use super::opened::Marks;
use crate::store::BUFFERED_FOR;

/// Where many wait, the next flush begins so long after this one began for each of them, at most [`PACE_LIMIT`]: each wakes all
/// seven threads of sled's pool (0.25 ms of CPU), and more writers share one.
const PACE: Duration = Duration::from_millis(1);
const PACE_LIMIT: Duration = Duration::from_millis(6);
/// So many waited for a flush or came while it ran: there will be more. Fewer are not kept waiting.
const CROWD: usize = 3;

/// Each gives back at most 512 pieces, and takes less than a microsecond where there is none.
const COLLECTIONS: usize = 16;

/// So often it is told, [`BUFFERED_FOR`] apart, once nothing is written any more: what somebody looks at meanwhile, as sled's own
/// thread that moves pages, goes later.
const ROUNDS: u32 = 16;

type Waiter = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Something was written since the last flush began that nobody waits for.
    unflushed: AtomicBool,
    /// The thread looks at `unflushed` only when it is woken; else it does by itself, at most `BUFFERED_FOR` from now.
    asleep: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    /// One for each caller that waits in `flush`: bounded by them.
    waiters: Vec<Waiter>,
    closed: bool,
}

impl Flusher {
    pub(super) fn start(
        db: sled::Db,
        written: Arc<Written>,
        syncing: Option<Syncing>,
        marks: Option<Arc<Marks>>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("store-flusher".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, &db, &written, syncing.as_ref(), marks.as_deref())
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns when everything written before the call survives a killed process.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        self.begin().await
    }

    /// The same, with the flush asked for before this returns, whether or not anybody waits for it.
    pub(super) fn begin(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (done, flushed) = oneshot::channel();
        let first = {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            // Dropped, the waiter hears that it has ended.
            if !queue.closed {
                queue.waiters.push(done);
            }
            queue.waiters.len() == 1
        };
        if first {
            self.shared.wake.notify_one();
        }
        async { flushed.await.unwrap_or_else(|_| Err(ended())) }
    }
}

impl Flusher {
    /// Has what was written before the call flushed within [`BUFFERED_FOR`].
    pub(super) fn flush_soon(&self) {
        // In this order, as the thread first says that it sleeps and then looks once more.
        if !self.shared.unflushed.swap(true, Ordering::SeqCst) && self.shared.asleep.swap(false, Ordering::SeqCst) {
            let _queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_one();
        }
    }
}

impl Shared {
    /// Callers that wait for the next flush.
    fn waiting(&self) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).waiters.len()
    }

    /// The next callers that wait for a flush: none when one is due for what was written meanwhile; `None`: closed.
    fn next(&self) -> Option<Vec<Waiter>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rounds = 0;
        loop {
            if !queue.waiters.is_empty() {
                return Some(std::mem::take(&mut queue.waiters));
            }
            if queue.closed {
                return None;
            }
            let (woken, waited) = self.wake.wait_timeout(queue, BUFFERED_FOR).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if !waited.timed_out() {
                continue;
            }
            if self.unflushed.load(Ordering::SeqCst) {
                return Some(std::mem::take(&mut queue.waiters));
            }
            drop(queue);
            let_go();
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            rounds += 1;
            if rounds < ROUNDS {
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            while queue.waiters.is_empty() && !queue.closed && !self.unflushed.load(Ordering::SeqCst) {
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.store(false, Ordering::SeqCst);
            rounds = 0;
        }
    }
}

/// Numbers of the last write that was applied, and of the last that is known to be flushed.
#[derive(Debug, Default)]
pub(super) struct Written {
    applied: AtomicU64,
    flushed: AtomicU64,
}

impl Written {
    /// Gives a write that was applied its number.
    pub(super) fn next(&self) -> u64 {
        self.applied.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    fn last(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn flushed_to(&self, number: u64) {
        self.flushed.fetch_max(number, Ordering::AcqRel);
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's flush thread panicked");
        }
    }
}

/// Gives back what sled has unlinked. It does that itself only while it is used, eight bags of 64 pieces for every 128 looks at
/// its pages, so that a store which rests after many removals would keep megabytes (crossbeam-epoch's `internal.rs`; sled's
/// collector is the crate's default one).
pub(super) fn let_go() {
    for _ in 0..COLLECTIONS {
        crossbeam_epoch::pin().flush();
    }
}

/// How long after a flush the next one begins at the earliest, by how many waited for it or came while it ran.
fn pause(waited: usize) -> Duration {
    if waited < CROWD {
        return Duration::ZERO;
    }
    u32::try_from(waited).map_or(PACE_LIMIT, |waited| PACE.saturating_mul(waited).min(PACE_LIMIT))
}

fn run(shared: &Shared, db: &sled::Db, written: &Written, syncing: Option<&Syncing>, marks: Option<&Marks>) {
    let mut due = Instant::now();
    // Of a flush that nobody waited for. The system tells an error of writing once only, so the next who wait are told of it.
    let mut owed = None;
    loop {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let Some(waiters) = shared.next() else { return };
        let began = Instant::now();
        shared.unflushed.store(false, Ordering::SeqCst);
        let covers = written.last();
        let flushed = catch_unwind(AssertUnwindSafe(|| {
            let flushed = db.flush()?;
            syncing.map_or(Ok(flushed), |syncing| syncing.sync().map(|()| flushed).map_err(Error::Io))
        }));
        due = began + pause(waiters.len() + shared.waiting());
        let panicked = flushed.is_err();
        let mut result = flushed.map_or_else(|_| Err(ended()), |flushed| flushed.map(drop));
        if let Some(error) = owed.take() {
            result = Err(error);
        }
        match &result {
            Ok(()) => written.flushed_to(covers),
            Err(error) if waiters.is_empty() => {
                tracing::error!(%error, "what was written could not be flushed");
                owed = Some(error.clone());
            }
            Err(_) => {}
        }
        for waiter in waiters {
            // A waiter that is gone was cancelled; its data is flushed all the same.
            drop(waiter.send(result.clone()));
        }
        if panicked {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.closed = true;
            queue.waiters.clear();
            return;
        }
        // After the waiters have their answer: once a minute this takes a real sync.
        if let Some(Err(error)) = marks.map(Marks::renew_in_time) {
            tracing::warn!(%error, "the store could not be marked");
        }
    }
}

/// Brings what sled has written to the disk itself: its own flush only hands it to the system's writing.
#[derive(Debug)]
pub(super) struct Syncing {
    log: File,
    blobs: PathBuf,
}

impl Syncing {
    pub(super) fn of(store: &Path) -> io::Result<Self> {
        Ok(Self { log: File::open(store.join("db"))?, blobs: store.join("blobs") })
    }

    /// Values above half a MiB are files of their own, which sled never syncs: few, if any, are there.
    fn sync(&self) -> io::Result<()> {
        let blobs = match std::fs::read_dir(&self.blobs) {
            Ok(blobs) => blobs,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.log.sync_all(),
            Err(error) => return Err(error),
        };
        let mut any = false;
        for blob in blobs {
            match File::open(blob?.path()) {
                Ok(blob) => blob.sync_all()?,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            any = true;
        }
        if any {
            File::open(&self.blobs)?.sync_all()?;
        }
        self.log.sync_all()
    }
}

fn ended() -> Error {
    Error::ReportableBug("the store's flush thread has ended".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the log itself: sled's readers see what is buffered too.
    fn is_logged(folder: &Path, value: &[u8]) -> bool {
        std::fs::read(folder.join("db")).unwrap().windows(value.len()).any(|window| window == value)
    }

    #[test]
    fn only_a_crowd_waits_and_not_for_long() {
        for (waited, wanted) in [(0, 0), (1, 0), (2, 0), (3, 3), (5, 5), (6, 6), (7, 6), (usize::MAX, 6)] {
            assert_eq!(pause(waited), Duration::from_millis(wanted), "{waited}");
        }
    }

    #[test]
    fn what_was_unlinked_is_let_go_of_though_nobody_looks_at_the_store() {
        let pieces = Arc::new(());
        {
            let guard = crossbeam_epoch::pin();
            for _ in 0..5_000 {
                let piece = Arc::clone(&pieces);
                guard.defer(move || drop(piece));
            }
            assert!(Arc::strong_count(&pieces) > 1, "they are gone while somebody may look at them");
        }
        // Other tests look at stores of their own meanwhile.
        let deadline = Instant::now() + Duration::from_secs(30);
        while Arc::strong_count(&pieces) > 1 {
            assert!(Instant::now() < deadline, "{} are kept", Arc::strong_count(&pieces) - 1);
            let_go();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_store_that_rests_lets_go_of_what_somebody_still_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(folder.path()).flush_every_ms(None).open().unwrap();
        let _flusher = Flusher::start(db, Arc::default(), None, None).unwrap();
        let pieces = Arc::new(());
        {
            let guard = crossbeam_epoch::pin();
            for _ in 0..5_000 {
                let piece = Arc::clone(&pieces);
                guard.defer(move || drop(piece));
            }
            std::thread::sleep(3 * BUFFERED_FOR);
            assert!(Arc::strong_count(&pieces) > 1, "they are gone while somebody may look at them");
        }
        // Those beyond the last 64, which stay with this thread until it looks at a store again.
        let deadline = Instant::now() + Duration::from_secs(30);
        while Arc::strong_count(&pieces) > 65 {
            assert!(Instant::now() < deadline, "{} are kept", Arc::strong_count(&pieces) - 1);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_nobody_waits_for_is_flushed_a_moment_later() {
        let folder = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(folder.path()).flush_every_ms(None).open().unwrap();
        let flusher = Flusher::start(db.clone(), Arc::default(), None, None).unwrap();
        // The second time the thread sleeps until it is told.
        for value in ["the first value", "the second value"] {
            db.insert("key", value).unwrap();
            assert!(!is_logged(folder.path(), value.as_bytes()));
            flusher.flush_soon();
            let deadline = Instant::now() + Duration::from_secs(30);
            while !is_logged(folder.path(), value.as_bytes()) {
                assert!(Instant::now() < deadline, "{value} is still in memory");
                std::thread::sleep(Duration::from_millis(10));
            }
            while !flusher.shared.asleep.load(Ordering::SeqCst) {
                assert!(Instant::now() < deadline, "the thread never rests");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[tokio::test]
    async fn who_waits_next_hears_of_a_flush_that_failed_unheard() {
        let folder = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(folder.path()).flush_every_ms(None).open().unwrap();
        // Its log is a pipe's end, which can't be synced.
        let (pipe, _other) = io::pipe().unwrap();
        let log = File::from(std::os::fd::OwnedFd::from(pipe));
        let syncing = Syncing { log, blobs: folder.path().join("none") };
        let written = Arc::new(Written::default());
        let flusher = Flusher::start(db.clone(), Arc::clone(&written), Some(syncing), None).unwrap();
        db.insert("key", "value").unwrap();
        written.next();
        flusher.flush_soon();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_logged(folder.path(), b"value") || flusher.shared.unflushed.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "it is not flushed");
            std::thread::sleep(Duration::from_millis(10));
        }
        flusher.flush().await.unwrap_err();
        assert_eq!(written.flushed(), 0);
    }
}
