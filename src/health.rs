//! How the gateway is: whether it is ready to serve, and the page of numbers that Prometheus reads.
//!
//! Asked by `http`. Readiness is tried out with a real write, at most once a second, whoever asks how often.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::event::Status;
use crate::metrics::{Metrics, Page};
use crate::session::SessionManager;
use crate::store::{Batch, Kv, KvError, Namespace};

mod process;

/// How long the outcome of a tried write is believed.
const BELIEVED: Duration = Duration::from_secs(1);
/// A store that takes longer is not ready; below what probes wait, and above a sync of a busy disk.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Reading how much waits may take so long; without it the page lacks these numbers.
const BACKLOG_TIMEOUT: Duration = Duration::from_secs(3);

/// What readiness consists of: a name, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `store`, `sessions`, `outbox` or `shutdown`.
    pub name: &'static str,
    /// `None`: nothing.
    pub problem: Option<&'static str>,
}

/// Asked how the gateway is; cheap to clone.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kv: Arc<dyn Kv>,
    sessions: SessionManager,
    metrics: Metrics,
    /// Cancelled when the gateway is told to stop.
    stopping: CancellationToken,
    began: SystemTime,
    /// When a write was last tried, and what was wrong. Held while one is: callers that come together share it.
    probe: Mutex<Option<(Instant, Option<&'static str>)>>,
}

impl Health {
    /// Of the gateway that consists of these.
    pub fn new(kv: Arc<dyn Kv>, sessions: SessionManager, metrics: Metrics, stopping: CancellationToken) -> Self {
        Self(Arc::new(Inner { kv, sessions, metrics, stopping, began: SystemTime::now(), probe: Mutex::default() }))
    }

    /// All checks, in a fixed order. Takes some 3 s at most.
    pub async fn readiness(&self) -> Vec<Check> {
        let sessions = &self.0.sessions;
        let when = |wrong: bool, problem| wrong.then_some(problem);
        vec![
            // A small write can fit where a session's did not: what a session met counts too.
            Check {
                name: "store",
                problem: self.store().await.or(when(
                    sessions.is_store_failed(),
                    "the store refused a write of a session, which is closed until it takes one",
                )),
            },
            Check {
                name: "sessions",
                problem: when(!sessions.is_restored(), "stored sessions are still being restored"),
            },
            Check {
                name: "outbox",
                problem: when(sessions.is_outbox_full(), "an outbox is full: its messages stay at WhatsApp"),
            },
            Check { name: "shutdown", problem: when(self.0.stopping.is_cancelled(), "the gateway is shutting down") },
        ]
    }

    async fn store(&self) -> Option<&'static str> {
        let mut probe = self.0.probe.lock().await;
        if let Some((at, problem)) = *probe
            && at.elapsed() < BELIEVED
        {
            return problem;
        }
        let problem = match timeout(PROBE_TIMEOUT, self.try_write()).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some("the store can't be written"),
            Err(_) => Some("the store does not answer in time"),
        };
        *probe = Some((Instant::now(), problem));
        problem
    }

    async fn try_write(&self) -> Result<(), KvError> {
        let now = self.0.began.elapsed().unwrap_or_default().as_millis().to_string();
        self.0.kv.write(&Namespace::probe(), Batch::new().put("written", Bytes::from(now))).await
    }

    /// The page for Prometheus: totals, and nothing that names a session, a number or a chat.
    pub async fn page(&self) -> String {
        let mut page = Page::default();
        let version = env!("CARGO_PKG_VERSION");
        page.head("wa_gateway_info", "gauge", "The version that runs.");
        page.labelled("wa_gateway_info", "version", version, 1);
        let list = self.0.sessions.list();
        page.head("wa_gateway_sessions", "gauge", "Sessions by their status.");
        for (status, word) in [
            (Status::Connecting, "connecting"),
            (Status::Connected, "connected"),
            (Status::Disconnected, "disconnected"),
        ] {
            let count = list.iter().filter(|session| session.status == status).count();
            page.labelled("wa_gateway_sessions", "status", word, count);
        }
        if let Ok(Ok(backlog)) = timeout(BACKLOG_TIMEOUT, self.0.sessions.backlog()).await {
            page.head("wa_gateway_outbox_events", "gauge", "Events that wait for their delivery.");
            page.labelled("wa_gateway_outbox_events", "kind", "message", backlog.messages);
            page.labelled("wa_gateway_outbox_events", "kind", "status", backlog.statuses);
            page.head(
                "wa_gateway_deliveries_total",
                "counter",
                "Webhooks of the listed sessions, by what became of them.",
            );
            page.labelled("wa_gateway_deliveries_total", "outcome", "delivered", backlog.delivered);
            page.labelled("wa_gateway_deliveries_total", "outcome", "failed_attempt", backlog.failed);
            page.labelled("wa_gateway_deliveries_total", "outcome", "shed", backlog.shed);
            page.single("wa_gateway_dead_letters", "gauge", "Dead letters that are kept.", backlog.dead);
            page.single("wa_gateway_outbox_bytes", "gauge", "Bytes of their bodies.", backlog.bytes);
            let oldest = backlog.oldest.map_or(0.0, |oldest| oldest.as_secs_f64());
            let name = "wa_gateway_outbox_oldest_age_seconds";
            page.single(name, "gauge", "How long the oldest of them has waited; 0: none does.", oldest);
        }
        self.0.metrics.print(&mut page);
        process::print(&mut page, self.0.began);
        page.into_text()
    }
}
