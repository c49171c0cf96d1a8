//! The task that delivers one session's outbox: in order, but no chat waits for the file of another.
//!
//! Started by `Webhook::attach`, ended by the sink's token, by `Lane::detach` or by dropping the `Lane`. It sleeps on
//! the outbox's commits and on its own back-off, never on a poll.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::{Answer, Verdict, Webhook, policy};
use queue::{Next, Queue};

use crate::event::SessionName;
use crate::outbox::{Entry, NewEvent, Outbox};

mod queue;

/// A session's running lane; dropping it ends the lane too, but does not wait.
#[must_use = "dropping a lane ends it"]
#[derive(Debug)]
pub struct Lane {
    detach: DropGuard,
    task: JoinHandle<()>,
}

impl Lane {
    /// Breaks off an attempt under way and returns when the lane's task is gone; what was not delivered stays.
    pub async fn detach(self) {
        drop(self.detach);
        joined(self.task).await;
    }

    /// Returns when the lane has ended with the sink; breaks nothing off.
    pub async fn ended(self) {
        joined(self.task).await;
    }
}

async fn joined(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a webhook lane had panicked");
    }
}

pub(super) fn start(webhook: Webhook, outbox: Outbox) -> Lane {
    let detached = CancellationToken::new();
    let detach = detached.clone().drop_guard();
    let tracker = webhook.inner.tracker.clone();
    let task = tracker.spawn(async move {
        let queue = Queue::new(outbox.clone(), webhook.inner.policy.file_wait);
        let run = Run { ended: webhook.inner.token.clone(), detached, webhook, outbox, queue };
        run.guarded().await;
    });
    Lane { detach, task }
}

struct Run {
    webhook: Webhook,
    outbox: Outbox,
    /// The sink ends: an attempt under way may finish.
    ended: CancellationToken,
    /// The lane ends: an attempt under way is broken off, a write to the store never is, so that none comes late.
    detached: CancellationToken,
    /// What is to be posted next.
    queue: Queue,
}

impl Run {
    /// Starts over after a panic, so that one poisonous event can't silence a session unseen.
    async fn guarded(mut self) {
        let mut panics = 0;
        while AssertUnwindSafe(self.run()).catch_unwind().await.is_err() {
            panics += 1;
            tracing::error!(session = %self.outbox.session(), panics, "a webhook lane panicked and starts over");
            self.queue.start_over();
            if self.pause(self.webhook.inner.policy.delay(panics, policy::dice())).await.is_break() {
                return;
            }
        }
    }

    async fn run(&mut self) {
        if !self.webhook.is_configured() {
            return;
        }
        let mut store_failures = 0;
        while !self.ended.is_cancelled() && !self.detached.is_cancelled() {
            let next = match self.queue.next().await {
                Ok(next) => next,
                Err(error) => {
                    store_failures += 1;
                    if self.store_failed(error.as_ref(), store_failures).await.is_break() {
                        return;
                    }
                    continue;
                }
            };
            store_failures = 0;
            let entry = match next {
                Next::Entry(entry) => entry,
                Next::Nothing { until } => {
                    let due = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = self.outbox.committed() => continue,
                        () = due => continue,
                        () = self.ending() => return,
                    }
                }
            };
            let span =
                tracing::info_span!("delivery", session = %self.outbox.session(), event_id = %entry.event.event_id);
            if self.settle(entry).instrument(span).await.is_break() {
                return;
            }
        }
    }

    /// Delivers one entry and removes it; breaks when the lane is to end before.
    async fn settle(&mut self, entry: Entry) -> Flow {
        self.wait_for_farewell().await?;
        if let Some(next_at) = entry.next_at {
            // Clamped: the clock may have been set back meanwhile.
            let wait = (next_at - Utc::now()).to_std().unwrap_or_default();
            self.pause(wait.min(self.webhook.inner.policy.max_retry_after)).await?;
        }
        let mut attempts = entry.attempts;
        loop {
            attempts += 1;
            let attempt = self.webhook.try_once(self.outbox.session(), &entry.event, entry.committed_at, attempts);
            let Some(outcome) = self.detached.run_until_cancelled(attempt).await else { return Flow::Break(()) };
            let Some(wait) = outcome else { break };
            if let Err(error) = self.outbox.mark_attempt(entry.seq, Utc::now() + wait, attempts).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a failed attempt could not be noted");
            }
            self.pause(wait).await?;
        }
        let mut failures = 0;
        while let Err(error) = self.outbox.remove(&entry).await {
            failures += 1;
            self.store_failed(&error, failures).await?;
        }
        Flow::Continue(())
    }

    /// A deleted session's last word comes before the first of the next session of that name.
    async fn wait_for_farewell(&self) -> Flow {
        tokio::select! {
            () = self.webhook.inner.pending.none_of(self.outbox.session()) => Flow::Continue(()),
            () = self.ending() => Flow::Break(()),
        }
    }

    /// Returns when the sink or the lane ends.
    async fn ending(&self) {
        tokio::select! {
            () = self.ended.cancelled() => {}
            () = self.detached.cancelled() => {}
        }
    }

    async fn store_failed(&self, error: &(dyn std::error::Error + Send + Sync + 'static), failures: u32) -> Flow {
        let session = self.outbox.session();
        tracing::warn!(%session, error = error as &dyn std::error::Error, "the outbox can't be used; trying again");
        self.pause(self.webhook.inner.policy.delay(failures, policy::dice())).await
    }

    async fn pause(&self, wait: Duration) -> Flow {
        let pause = self.webhook.pause(wait);
        self.detached.run_until_cancelled(pause).await.unwrap_or(Flow::Break(()))
    }
}

/// Whether to go on.
pub(super) type Flow = std::ops::ControlFlow<()>;

impl Webhook {
    /// Sleeps; breaks when the sink ends before.
    pub(super) async fn pause(&self, wait: Duration) -> Flow {
        tokio::select! {
            () = tokio::time::sleep(wait) => Flow::Continue(()),
            () = self.inner.token.cancelled() => Flow::Break(()),
        }
    }

    /// Makes attempt number `attempts` and tells of it; the wait before the next, or `None`: it is decided.
    pub(super) async fn try_once(
        &self,
        session: &SessionName,
        event: &NewEvent,
        since: DateTime<Utc>,
        attempts: u32,
    ) -> Option<Duration> {
        let poster = self.inner.poster.as_ref()?;
        let answer = poster.attempt(event).await;
        let age = (Utc::now() - since).to_std().unwrap_or_default();
        let verdict = self.inner.policy.judge(&answer, attempts, age, policy::dice());
        let (event_id, kind) = (&event.event_id, event.kind.path());
        let answer = told(&answer);
        match verdict {
            Verdict::Delivered => tracing::debug!(%session, event_id, kind, attempts, "webhook delivered"),
            Verdict::Retry(wait) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(%session, event_id, kind, attempts, wait_ms, answer, "webhook failed; trying again");
                return Some(wait);
            }
            // Both are where a dead letter will be made.
            Verdict::Refused => {
                tracing::warn!(%session, event_id, kind, attempts, answer, "webhook refused for good; event dropped");
            }
            Verdict::GivenUp => {
                let age_secs = age.as_secs();
                tracing::warn!(%session, event_id, kind, attempts, age_secs, answer, "webhook given up; event dropped");
            }
        }
        None
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Status { code, .. } => format!("status {code}"),
        Answer::TimedOut => "no answer in time".to_owned(),
        Answer::Unreachable(reason) => reason.clone(),
    }
}
