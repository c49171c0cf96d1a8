//! Group commit: one thread flushes the log, and writers that come while it does share the next flush.
//!
//! sled's own `flush_async` parks one pool thread for every waiter; with a thousand sessions that is a hundred threads for
//! one flush. The thread is owned by the opened store, which joins it when dropped.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use sled::Error;
use tokio::sync::oneshot;

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
}

#[derive(Debug, Default)]
struct Queue {
    /// One for each caller that waits in `flush`: bounded by them.
    waiters: Vec<Waiter>,
    closed: bool,
}

impl Flusher {
    pub(super) fn start(db: sled::Db) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("store-flusher".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, &db)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns when everything written before the call survives a killed process.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        let (done, flushed) = oneshot::channel();
        let first = {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.closed {
                return Err(ended());
            }
            queue.waiters.push(done);
            queue.waiters.len() == 1
        };
        if first {
            self.shared.wake.notify_one();
        }
        flushed.await.unwrap_or_else(|_| Err(ended()))
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

fn run(shared: &Shared, db: &sled::Db) {
    loop {
        let waiters = {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            while queue.waiters.is_empty() && !queue.closed {
                queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.waiters.is_empty() {
                return;
            }
            std::mem::take(&mut queue.waiters)
        };
        let flushed = catch_unwind(AssertUnwindSafe(|| db.flush()));
        let panicked = flushed.is_err();
        let result = flushed.map_or_else(|_| Err(ended()), |flushed| flushed.map(drop));
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
    }
}

fn ended() -> Error {
    Error::ReportableBug("the store's flush thread has ended".into())
}
