//! The task that delivers one session's outbox: in order, one at a time, but no chat waits for the file of another, nor for
//! a body of another that the receiver never takes.
//!
//! Started by `Webhook::attach`, ended by the sink's token, by `Lane::detach` or by dropping the `Lane`. It sleeps on
//! the outbox's commits and on its own back-off, never on a poll.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attempt::{Flow, Outcome};
use super::farewell::Hold;
use super::{Webhook, policy};
use late::Late;
use pace::Pace;
use queue::{Chat, Next, Queue, ReadError};

use crate::outbox::{Cause, Entry, Outbox};

mod late;
mod pace;
mod queue;

/// How often a lane without a receiver, or behind a farewell, looks whether what waits has grown too old.
const LOOK_EVERY: Duration = Duration::from_mins(10);

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
    let run = Run {
        ended: webhook.inner.token.clone(),
        detached,
        queue: Queue::new(outbox.clone(), webhook.inner.policy.file_wait),
        pace: Pace::new(webhook.inner.policy.max_per_sec),
        webhook,
        outbox,
        block: None,
        farewell: None,
        late: None,
        // A receiver that was set before there was a lane is a change, too.
        generation: 0,
    };
    Lane { detach, task: tracker.spawn(run.guarded()) }
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
    pace: Pace,
    block: Option<Block>,
    /// Ends when the farewell is gone that what is the session's own waits for.
    farewell: Option<CancellationToken>,
    /// The last event that was put back without an answer.
    late: Option<Late>,
    /// Of the receiver that was posted to last.
    generation: u64,
}

/// A chat whose first event failed so often that either its body is poisonous or the receiver is down: after each of its
/// failures one event of another chat tells which. Until then nothing else is tried, so that all comes in order when the
/// receiver is back.
struct Block {
    chat: Chat,
    /// Whether another chat was tried since its last failure.
    probed: bool,
    /// The event that was.
    after: u64,
    /// How often both failed.
    rounds: u32,
    /// Whether the receiver said when the chat may be tried again.
    asked: bool,
}

/// What an event is to the lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The oldest: everything waits for it.
    First,
    /// Of the chat that blocks.
    Blocking,
    /// Of another.
    Probe,
    /// Of a chat on its own schedule.
    Aside,
}

/// How an entry leaves the outbox.
enum End {
    Delivered,
    Shed,
    Dead { attempts: u32, answer: Option<String>, cause: Cause },
}

impl Run {
    /// Starts over after a panic, so that one poisonous event can't silence a session unseen.
    async fn guarded(mut self) {
        let mut panics = 0;
        while AssertUnwindSafe(self.run()).catch_unwind().await.is_err() {
            panics += 1;
            tracing::error!(session = %self.outbox.session(), panics, "a webhook lane panicked and starts over");
            self.start_over();
            if self.pause(self.webhook.inner.policy.delay(panics, policy::dice())).await.is_break() {
                return;
            }
        }
    }

    fn start_over(&mut self) {
        self.queue.start_over();
        self.block = None;
        self.farewell = None;
        self.late = None;
    }

    async fn run(&mut self) {
        let mut store_failures = 0;
        while !self.ended.is_cancelled() && !self.detached.is_cancelled() {
            let went_on = match self.step().await {
                Ok(flow) => {
                    store_failures = 0;
                    flow
                }
                Err(error) => {
                    store_failures += 1;
                    Box::pin(self.store_failed(error.as_ref(), store_failures)).await
                }
            };
            if went_on.is_break() {
                return;
            }
        }
    }

    /// Settles the next event, or waits for one.
    async fn step(&mut self) -> Result<Flow, ReadError> {
        let generation = self.outbox.generation();
        if generation != self.generation {
            self.outbox.forget_attempts().await?;
            self.start_over();
            self.generation = generation;
        }
        if !self.outbox.has_receiver() {
            return Box::pin(self.wait_for_receiver()).await;
        }
        if self.farewell.as_ref().is_some_and(CancellationToken::is_cancelled) {
            self.farewell = None;
            self.queue.set_aside(&None, Instant::now());
        }
        let mut late = self.late.take();
        if let Some(waiting) = &mut late
            && let Some(outcome) = waiting.decided(&self.webhook, &self.outbox).now_or_never()
        {
            return Ok(Box::pin(self.settle_late(waiting, outcome)).await);
        }
        self.late = late;
        match self.next().await? {
            Next::Entry { entry, aside } => {
                let role = match &self.block {
                    Some(block) if block.chat == entry.event.chat => Role::Blocking,
                    Some(_) => Role::Probe,
                    None if aside => Role::Aside,
                    None => Role::First,
                };
                Ok(Box::pin(self.settle(entry, role)).await)
            }
            Next::Nothing { until } => {
                let due = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                let farewell = async {
                    match &self.farewell {
                        Some(gone) => gone.cancelled().await,
                        None => std::future::pending().await,
                    }
                };
                let mut late = self.late.take();
                let answered = async {
                    match &mut late {
                        Some(late) => late.decided(&self.webhook, &self.outbox).await,
                        None => std::future::pending().await,
                    }
                };
                let outcome = tokio::select! {
                    () = self.outbox.committed() => None,
                    () = due => None,
                    () = farewell => None,
                    () = self.outbox.retargeted() => None,
                    outcome = answered => Some(outcome),
                    () = self.ending() => return Ok(Flow::Break(())),
                };
                if let (Some(outcome), Some(late)) = (outcome, &late) {
                    return Ok(Box::pin(self.settle_late(late, outcome)).await);
                }
                self.late = late;
                Ok(Flow::Continue(()))
            }
        }
    }

    async fn next(&mut self) -> Result<Next, ReadError> {
        let Some(block) = &self.block else { return self.queue.next().await };
        let (chat, probed, after) = (block.chat.clone(), block.probed, block.after);
        match self.queue.waits(&chat) {
            None => {
                if let Some(next) = self.queue.take(&chat).await? {
                    return Ok(next);
                }
                self.block = None;
                self.queue.next().await
            }
            until if probed => Ok(Next::Nothing { until }),
            Some(until) => Ok(match self.queue.probe(&chat, after).await? {
                Next::Nothing { until: other } => {
                    let now = Instant::now();
                    let other = other.filter(|other| *other > now);
                    Next::Nothing { until: Some(other.map_or(until, |other| other.min(until))) }
                }
                entry @ Next::Entry { .. } => entry,
            }),
        }
    }

    /// Tries one entry, and removes, buries or puts it back; breaks when the lane is to end before.
    async fn settle(&mut self, entry: Entry, role: Role) -> Flow {
        // Its next attempt breaks the last one off.
        self.late = self.late.take().filter(|late| late.entry.seq != entry.seq);
        if self.outbox.is_too_old(&entry, Utc::now()) {
            self.too_old(&entry).await?;
            self.decided(role);
            return Flow::Continue(());
        }
        let limits = &self.webhook.inner.policy;
        let (many, longest) = (limits.aside_after, limits.max_retry_after.max(limits.max_delay * 2));
        let mut attempts = entry.attempts;
        if let Some(next_at) = entry.next_at {
            // Clamped: the clock may have been set back meanwhile.
            let wait = (next_at - Utc::now()).to_std().unwrap_or_default().min(longest);
            match role {
                Role::First if attempts < many => self.pause(wait).await?,
                Role::First | Role::Probe if !wait.is_zero() => return self.put_back(&entry, role, wait, false),
                _ => {}
            }
        }
        loop {
            let turn = self.pace.turn(Instant::now());
            self.pause(turn).await?;
            let target = self.outbox.target();
            // A deleted session's last word comes first, where it goes to the same receiver.
            match self.webhook.hold(self.outbox.session(), target.as_deref()) {
                Some(Hold::All(aside)) => {
                    self.wait_for_farewell(&aside).await?;
                    continue;
                }
                Some(Hold::Own(gone)) if entry.event.chat.is_none() => return self.hold_back(&entry, role, gone),
                _ => {}
            }
            attempts += 1;
            let attempt = self.webhook.try_once(
                self.outbox.session(),
                &entry.event,
                target.as_deref(),
                entry.committed_at,
                attempts,
            );
            let Some(mut outcome) = self.detached.run_until_cancelled(attempt).await else { return Flow::Break(()) };
            if let Outcome::Retry { wait, asked, late } = outcome {
                if let Err(error) = self.outbox.mark_attempt(entry.seq, Utc::now() + wait, attempts).await {
                    tracing::warn!(
                        session = %self.outbox.session(),
                        event_id = entry.event.event_id,
                        error = &error as &dyn std::error::Error,
                        "a failed attempt could not be noted"
                    );
                }
                let mut late = Late { entry: entry.clone(), attempts, answer: late };
                if role != Role::First || attempts >= many {
                    if late.answer.is_some() {
                        self.late = Some(late);
                    }
                    return self.put_back(&entry, role, wait, asked);
                }
                outcome = tokio::select! {
                    flow = self.pause(wait) => {
                        flow?;
                        continue;
                    }
                    outcome = late.decided(&self.webhook, &self.outbox) => outcome,
                };
            }
            if matches!(outcome, Outcome::NoReceiver) {
                self.start_over();
                return Flow::Continue(());
            }
            self.end(&entry, attempts, outcome).await?;
            self.decided(role);
            return Flow::Continue(());
        }
    }

    async fn end(&self, entry: &Entry, attempts: u32, outcome: Outcome) -> Flow {
        match outcome {
            Outcome::Delivered => self.take_out(entry, End::Delivered).await,
            Outcome::Dead(cause, answer) => {
                self.take_out(entry, End::Dead { attempts, answer: Some(answer), cause }).await
            }
            Outcome::Retry { .. } | Outcome::NoReceiver => Flow::Continue(()),
        }
    }

    /// The receiver answered for good: it is there.
    fn decided(&mut self, role: Role) {
        if !matches!(role, Role::Probe | Role::Blocking) {
            return;
        }
        let Some(block) = self.block.take() else { return };
        if role == Role::Probe {
            tracing::warn!(session = %self.outbox.session(), "a chat whose oldest event fails again and again steps aside");
            // The receiver may have come back between the two: then the chat goes on in its place.
            if !block.asked {
                self.queue.set_aside(&block.chat, Instant::now());
            }
        }
    }

    fn put_back(&mut self, entry: &Entry, role: Role, wait: Duration, asked: bool) -> Flow {
        let until = Instant::now() + wait;
        match role {
            Role::First | Role::Blocking => {
                self.queue.put_back(entry, Some(until));
                let (after, rounds) = self.block.as_ref().map_or((entry.seq, 0), |block| (block.after, block.rounds));
                self.block = Some(Block { chat: entry.event.chat.clone(), probed: false, after, rounds, asked });
            }
            Role::Probe => {
                self.queue.put_back(entry, None);
                if let Some(block) = &mut self.block {
                    (block.probed, block.after, block.rounds) = (true, entry.seq, block.rounds + 1);
                    if !block.asked {
                        // It failed just now: the other may have met the receiver at a bad moment.
                        let wait = self.webhook.inner.policy.delay(block.rounds, policy::dice());
                        self.queue.set_aside(&block.chat, Instant::now() + wait);
                    }
                }
            }
            Role::Aside => self.queue.put_back(entry, Some(until)),
        }
        Flow::Continue(())
    }

    /// Lets the chats pass what is the session's own until a farewell is gone.
    fn hold_back(&mut self, entry: &Entry, role: Role, gone: CancellationToken) -> Flow {
        self.queue.put_back(entry, Some(Instant::now() + LOOK_EVERY));
        if role == Role::Blocking {
            self.block = None;
        }
        self.farewell = Some(gone);
        Flow::Continue(())
    }

    /// Settles an event that has waited for too long without trying it.
    async fn too_old(&self, entry: &Entry) -> Flow {
        tracing::warn!(
            session = %self.outbox.session(),
            event_id = entry.event.event_id,
            kind = entry.event.kind.path(),
            "an event has waited for too long and is not tried any more"
        );
        let end = if entry.event.kind.may_be_shed() {
            End::Shed
        } else {
            End::Dead { attempts: entry.attempts, answer: None, cause: Cause::TooOld }
        };
        self.take_out(entry, end).await
    }

    /// Nobody takes the events of the session: what waits, from when somebody did, waits on.
    async fn wait_for_receiver(&mut self) -> Result<Flow, ReadError> {
        self.start_over();
        if let Some(entry) = self.outbox.head(1).await?.pop()
            && self.outbox.is_too_old(&entry, Utc::now())
        {
            return Ok(self.too_old(&entry).await);
        }
        tokio::select! {
            () = self.outbox.retargeted() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = self.ending() => return Ok(Flow::Break(())),
        }
        Ok(Flow::Continue(()))
    }

    /// Takes an entry out of the outbox, however long the store takes to let it.
    async fn take_out(&self, entry: &Entry, end: End) -> Flow {
        let mut failures = 0;
        loop {
            let written = match &end {
                End::Delivered => self.outbox.remove(entry).await,
                End::Shed => self.outbox.shed(entry).await,
                End::Dead { attempts, answer, cause } => {
                    self.outbox.bury(entry, *attempts, answer.clone(), *cause).await
                }
            };
            let Err(error) = written else { return Flow::Continue(()) };
            failures += 1;
            self.store_failed(&error, failures).await?;
        }
    }

    /// Returns when the farewell lets others pass, or the session gets another receiver.
    async fn wait_for_farewell(&self, aside: &CancellationToken) -> Flow {
        tokio::select! {
            () = aside.cancelled() => Flow::Continue(()),
            () = self.outbox.retargeted() => Flow::Continue(()),
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

    /// Sleeps, but not on when the session gets another receiver; breaks when the lane ends.
    async fn pause(&self, wait: Duration) -> Flow {
        if wait.is_zero() {
            return Flow::Continue(());
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => Flow::Continue(()),
            () = self.outbox.retargeted() => Flow::Continue(()),
            () = self.ending() => Flow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of<T, F: Future>(_: fn(T) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn a_lane_that_waits_is_small() {
        // What it takes to deliver an event, 4.5 KiB, is there while one is delivered: every session has a lane.
        let size = size_of(Run::guarded);
        assert!(size <= 2_560, "{size} bytes");
    }
}
