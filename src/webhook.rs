//! The sink: posts what sessions committed to their outboxes, one ordered lane per session, until the receiver has it.
//!
//! The gateway starts one [`Webhook`] and attaches each session's outbox. An event leaves its outbox only after its
//! delivery is decided. Bodies are passed on as they were committed and never logged.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::outbox::Outbox;

mod attempt;
mod farewell;
mod lane;
mod policy;
mod post;
mod serve;
mod sign;
#[cfg(test)]
mod tests;

use farewell::Pending;
pub use farewell::{Farewell, Farewells, MAX_FAREWELLS};
pub use lane::Lane;
pub use policy::{Answer, RetryPolicy, Verdict};
use post::Poster;
pub use post::Receiver;

/// Why the sink can't be started.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// KEY holds a byte that no HTTP header may carry.
    #[error("KEY can't be sent as an HTTP header: it holds a control character")]
    Key,
    /// The base URL is no `http` or `https` URL.
    #[error("the webhook's base URL must begin with http:// or https://")]
    BaseUrl,
    /// The base URL names an address that nothing may be posted to.
    #[error("the webhook's base URL (WEBHOOK_BASE_URL) leads to a link-local, cloud metadata or unspecified address")]
    Address,
    /// The HTTP client could not be built.
    #[error("the webhook's HTTP client could not be built")]
    Client(#[source] reqwest::Error),
}

/// The running sink; cheap to clone.
#[derive(Clone)]
pub struct Webhook {
    inner: Arc<Inner>,
}

struct Inner {
    poster: Poster,
    policy: RetryPolicy,
    tracker: TaskTracker,
    token: CancellationToken,
    pending: Pending,
}

impl fmt::Debug for Webhook {
    /// Without the address and the key: both may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let configured = self.inner.poster.has_base();
        f.debug_struct("Webhook").field("configured", &configured).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Makes the sink; lanes are started by [`Webhook::attach`].
    ///
    /// All tasks run on `tracker` and end on `token`: an attempt under way is finished within its limit first, what is left
    /// stays in the outboxes.
    ///
    /// # Errors
    /// By [`WebhookError`].
    pub fn start(
        receiver: Receiver,
        retry: RetryPolicy,
        tracker: TaskTracker,
        token: CancellationToken,
    ) -> Result<Self, WebhookError> {
        let poster = Poster::new(receiver, &retry)?;
        let inner = Inner { poster, policy: retry, tracker, token, pending: Pending::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts the lane of one session; at most one per outbox at a time.
    pub fn attach(&self, outbox: Outbox) -> Lane {
        lane::start(self.clone(), outbox)
    }

    /// Starts the task that posts the last words of deleted sessions; call once.
    ///
    /// `forget` is called with the key when a farewell's delivery is decided: the caller keeps farewells in the
    /// registry until then and [says](Farewells::say) the left ones again after a restart.
    pub fn farewells<F, Fut>(&self, forget: F) -> Farewells
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        farewell::start(self.clone(), forget)
    }
}
