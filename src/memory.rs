//! Gives memory back to the system that the allocator keeps for later: after mass deletes, and now and then.
//!
//! Started by `gateway`; the sessions tell it by a [`Notify`] that something large has ended. Knows nothing of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// So long after the last end it is done: once for a thousand deletes in a row.
const CALM: Duration = Duration::from_secs(2);
/// And so often without one: bursts leave holes too.
const EVERY: Duration = Duration::from_secs(20);

/// Gives memory back a little after each notification and three times a minute, until the token ends.
pub async fn keep_small(ended: Arc<Notify>, token: CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = ended.notified() => {
                let calm = async { while tokio::time::timeout(CALM, ended.notified()).await.is_ok() {} };
                tokio::select! {
                    () = token.cancelled() => return,
                    _ = tokio::time::timeout(EVERY, calm) => {}
                }
            }
            () = tokio::time::sleep(EVERY) => {}
        }
        // Tens of milliseconds for a large heap, so not on a thread that serves.
        if let Err(error) = tokio::task::spawn_blocking(give_back).await {
            tracing::warn!(%error, "memory was not given back");
        }
    }
}

/// Returns the free pages of the C library's heaps to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    #[expect(unsafe_code, reason = "the only way to ask glibc's allocator for it; the call has no precondition")]
    // SAFETY: malloc_trim takes no pointer, and may run beside every other call of the allocator.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do it by themselves or not at all.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_with_its_token_also_while_it_waits_for_calm() {
        let (ended, token) = (Arc::new(Notify::new()), CancellationToken::new());
        let tracker = tokio_util::task::TaskTracker::new();
        let sweeping = tracker.spawn(keep_small(Arc::clone(&ended), token.clone()));
        for _ in 0..100 {
            ended.notify_one();
            tokio::task::yield_now().await;
        }
        assert!(!sweeping.is_finished());
        give_back();
        token.cancel();
        tokio::time::timeout(Duration::from_mins(1), sweeping).await.unwrap().unwrap();
    }
}
