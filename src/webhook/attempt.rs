//! One attempt in words: what came of it, what the log is told, how long to wait.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::post::Late;
use super::{Answer, Verdict, Webhook, policy};
use crate::event::SessionName;
use crate::outbox::{Cause, NewEvent, Target};

/// Whether to go on.
pub(super) type Flow = std::ops::ControlFlow<()>;

/// What an attempt came to.
pub(super) enum Outcome {
    /// The receiver has it.
    Delivered,
    /// Another attempt.
    Retry {
        /// After so long.
        wait: Duration,
        /// The receiver said so.
        asked: bool,
        /// The answer that may still come.
        late: Option<Late>,
    },
    /// No attempt will deliver it; the last answer.
    Dead(Cause, String),
    /// There is nowhere to post it to.
    NoReceiver,
}

impl Webhook {
    /// Sleeps; breaks when the sink ends before.
    pub(super) async fn pause(&self, wait: Duration) -> Flow {
        tokio::select! {
            () = tokio::time::sleep(wait) => Flow::Continue(()),
            () = self.inner.token.cancelled() => Flow::Break(()),
        }
    }

    /// Makes attempt number `attempts` and tells of it.
    pub(super) async fn try_once(
        &self,
        session: &SessionName,
        event: &NewEvent,
        target: Option<&Target>,
        since: DateTime<Utc>,
        attempts: u32,
    ) -> Outcome {
        let Some((answer, late)) = self.inner.poster.attempt(event, target).await else { return Outcome::NoReceiver };
        self.judge(session, event, since, attempts, &answer, late)
    }

    /// Returns when an answer that comes after its attempt's time decides the delivery, so that a receiver that is always
    /// slow is not asked for ever; a failure was counted when the time was over. Not to be called again after that.
    pub(super) async fn decided_late(
        &self,
        session: &SessionName,
        event: &NewEvent,
        since: DateTime<Utc>,
        attempts: u32,
        late: &mut Option<Late>,
    ) -> Outcome {
        if let Some(answering) = late {
            let answer = answering.answer().await;
            *late = None;
            let verdict = self.inner.policy.judge(&answer, attempts, Duration::ZERO, policy::dice());
            if matches!(verdict, Verdict::Delivered | Verdict::Refused) {
                return self.judge(session, event, since, attempts, &answer, None);
            }
        }
        std::future::pending().await
    }

    fn judge(
        &self,
        session: &SessionName,
        event: &NewEvent,
        since: DateTime<Utc>,
        attempts: u32,
        answer: &Answer,
        late: Option<Late>,
    ) -> Outcome {
        let age = (Utc::now() - since).to_std().unwrap_or_default();
        let verdict = self.inner.policy.judge(answer, attempts, age, policy::dice());
        let (event_id, kind) = (&event.event_id, event.kind.path());
        let asked = matches!(answer, Answer::Status { retry_after: Some(_), .. });
        let answer = told(answer);
        match verdict {
            Verdict::Delivered => {
                tracing::debug!(%session, event_id, kind, attempts, "webhook delivered");
                Outcome::Delivered
            }
            Verdict::Retry(wait) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(%session, event_id, kind, attempts, wait_ms, answer, "webhook failed; trying again");
                Outcome::Retry { wait, asked, late }
            }
            Verdict::Refused => {
                tracing::warn!(%session, event_id, kind, attempts, answer, "webhook refused for good");
                Outcome::Dead(Cause::Refused, answer)
            }
            Verdict::GivenUp => {
                let age_secs = age.as_secs();
                tracing::warn!(%session, event_id, kind, attempts, age_secs, answer, "webhook given up");
                Outcome::Dead(Cause::GivenUp, answer)
            }
        }
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Status { code, .. } => format!("status {code}"),
        Answer::TimedOut => "no answer in time".to_owned(),
        Answer::Unreachable(reason) => reason.clone(),
    }
}
