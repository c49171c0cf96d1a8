//! How fast a session reads what WhatsApp sends: no faster than it can store.
//!
//! whatsapp-rust 0.7.0 makes a lane of 8.8 KB for each chat whose message it reads, and takes an idle one away only when
//! it makes another (`handlers/message.rs`, `portable_cache.rs`). Read at once, a burst of ten chats would leave ten lanes
//! for as long as the session lives. So the reader, which asks its runtime after each frame (`client/node_io.rs`), lets
//! the lanes go first, and waits while several messages are being committed, of its session or of all: what a thousand
//! sessions can't store yet waits in the network, not in memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use whatsapp_rust::wacore::runtime::AbortHandle;
use whatsapp_rust::{Runtime, TokioRuntime};

/// Messages of one session that are committed at the same time before its reader waits.
const TOGETHER: usize = 2;
/// The same of all sessions: more than one flush of the store takes along.
const ALL_TOGETHER: usize = 48;
/// The longest wait for one frame: a store that hangs must not hide the answers that keep the connection alive.
const PATIENCE: Duration = Duration::from_millis(100);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Messages that are being committed.
#[derive(Debug, Default)]
struct Count {
    committing: AtomicUsize,
    committed: Notify,
}

impl Count {
    fn begin(&self) {
        self.committing.fetch_add(1, Ordering::AcqRel);
    }

    fn end(&self) {
        self.committing.fetch_sub(1, Ordering::AcqRel);
        // One more fits, so one reader goes on.
        self.committed.notify_one();
    }

    /// Waits until fewer are.
    async fn below(&self, most: usize) {
        loop {
            let committed = self.committed.notified();
            if self.committing.load(Ordering::Acquire) < most {
                return;
            }
            committed.await;
        }
    }
}

/// The messages of all sessions that are being committed; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct AllPaces(Arc<Count>);

/// The messages of one session that are being committed.
#[derive(Debug)]
pub(super) struct Pace {
    here: Count,
    all: AllPaces,
}

impl Pace {
    pub(super) fn new(all: AllPaces) -> Self {
        Self { here: Count::default(), all }
    }

    /// Counts one commit until it is dropped.
    pub(super) fn commit(self: &Arc<Self>) -> Committing {
        self.here.begin();
        self.all.0.begin();
        Committing(Arc::clone(self))
    }

    async fn wait(&self) {
        // A lane that was just woken runs up to its commit meanwhile.
        tokio::task::yield_now().await;
        let room = async {
            self.here.below(TOGETHER).await;
            self.all.0.below(ALL_TOGETHER).await;
        };
        let _stalled = tokio::time::timeout(PATIENCE, room).await;
    }
}

/// A commit under way.
pub(super) struct Committing(Arc<Pace>);

impl Drop for Committing {
    fn drop(&mut self) {
        self.0.here.end();
        self.0.all.0.end();
    }
}

/// Tokio, with one session's pace.
pub(super) struct Paced(pub(super) Arc<Pace>);

impl Runtime for Paced {
    fn spawn(&self, future: Task) -> AbortHandle {
        TokioRuntime.spawn(future)
    }

    fn spawn_detached(&self, future: Task) {
        TokioRuntime.spawn_detached(future);
    }

    fn sleep(&self, duration: Duration) -> Task {
        TokioRuntime.sleep(duration)
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> Task {
        TokioRuntime.spawn_blocking(work)
    }

    fn yield_now(&self) -> Option<Task> {
        let pace = Arc::clone(&self.0);
        Some(Box::pin(async move { pace.wait().await }))
    }

    fn yield_frequency(&self) -> u32 {
        1
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn a_reader_waits_for_room_and_not_for_ever() {
        let pace = Arc::new(Pace::new(AllPaces::default()));
        let runtime = Paced(Arc::clone(&pace));
        let first = pace.commit();
        runtime.yield_now().unwrap().await;
        let _second = pace.commit();
        let reader = TaskTracker::new().spawn(runtime.yield_now().unwrap());
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(!reader.is_finished(), "it read on while {TOGETHER} were committed");
        drop(first);
        reader.await.unwrap();
        let _third = pace.commit();
        // Nothing is committed any more: without its patience this would wait for ever.
        tokio::time::timeout(100 * PATIENCE, runtime.yield_now().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_waits_for_all_sessions() {
        let all = AllPaces::default();
        let paces: Vec<_> = (0..=ALL_TOGETHER).map(|_| Arc::new(Pace::new(all.clone()))).collect();
        let commits: Vec<_> = paces[1..].iter().map(Pace::commit).collect();
        let reader = TaskTracker::new().spawn(Paced(Arc::clone(&paces[0])).yield_now().unwrap());
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(!reader.is_finished(), "it read on while {ALL_TOGETHER} were committed");
        drop(commits);
        reader.await.unwrap();
    }
}
