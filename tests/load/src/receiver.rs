//! The webhook receiver: stamps each event as it comes and answers at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    inner: Arc<Inner>,
    pub(crate) url: String,
}

#[derive(Debug, Default)]
struct Inner {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// By text: for which session it came, and when, in Unix microseconds; more than once is one too many.
    texts: HashMap<String, Vec<(String, u64)>>,
    /// Events for messages without a text.
    files: u64,
    /// Files that did not come with their message.
    missing_files: u64,
    /// The last status of each session, and when it came.
    statuses: HashMap<String, (String, Instant)>,
}

impl Receiver {
    pub(crate) async fn start(port: u16) -> anyhow::Result<Self> {
        let inner = Arc::new(Inner::default());
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let router = Router::new().fallback(post(take)).with_state(Arc::clone(&inner));
        TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
        Ok(Self { inner, url })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.kept()
    }

    /// Waits until a session's last status is this one and came after that moment; returns when it came.
    pub(crate) async fn wait_status(
        &self,
        session: &str,
        status: &str,
        since: Instant,
        limit: Duration,
    ) -> anyhow::Result<Instant> {
        self.wait(limit, &format!("status {status} of {session}"), |kept| {
            kept.statuses.get(session).filter(|(last, at)| last == status && *at > since).map(|(_last, at)| *at)
        })
        .await
    }

    /// Waits until so many texts have come, each counted once.
    pub(crate) async fn wait_texts(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        self.wait(limit, &format!("{count} texts by webhook"), |kept| (kept.texts.len() >= count).then_some(())).await
    }

    pub(crate) async fn wait_files(&self, count: u64, limit: Duration) -> anyhow::Result<()> {
        self.wait(limit, &format!("{count} files by webhook"), |kept| (kept.files >= count).then_some(())).await
    }

    pub(crate) fn texts(&self) -> HashMap<String, Vec<(String, u64)>> {
        self.kept().texts.clone()
    }

    pub(crate) fn missing_files(&self) -> u64 {
        self.kept().missing_files
    }

    async fn wait<T>(
        &self,
        limit: Duration,
        what: &str,
        mut find: impl FnMut(&Kept) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            // Registered before looking, so that nothing slips in between.
            changed.as_mut().enable();
            if let Some(found) = find(&self.kept()) {
                return Ok(found);
            }
            timeout_at(deadline, changed).await.map_err(|_| anyhow!("no {what} within {limit:?}"))?;
        }
    }
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take(State(inner): State<Arc<Inner>>, uri: Uri, body: Bytes) -> StatusCode {
    let (at, now) = (unix_micros(), Instant::now());
    let Ok(event) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST };
    let session = event["session"].as_str().unwrap_or_default().to_owned();
    {
        let mut kept = inner.kept();
        if uri.path().ends_with("/session") {
            let status = event["status"].as_str().unwrap_or_default().to_owned();
            kept.statuses.insert(session, (status, now));
        } else if let Some(text) = event["message"].as_str() {
            kept.texts.entry(text.to_owned()).or_default().push((session, at));
        } else if uri.path().ends_with("/message") {
            kept.files += 1;
            let files = event["media"].as_object().into_iter().flatten();
            kept.missing_files += u64::from(files.filter(|(_, name)| name.is_string()).count() == 0);
        }
    }
    inner.changed.notify_waiters();
    StatusCode::OK
}

fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
