//! The task that owns one session's connection: it makes it, follows its signals, and ends it.
//!
//! Started by the manager; ends on its token (credentials kept), on [`Command::End`], and when WhatsApp logs the
//! device out. A panic inside it ends one connection, not the session.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::anyhow;
use chrono::Utc;
use futures::FutureExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

mod drive;
mod unlink;

pub(super) use unlink::unlink_stored;

use super::Manager;
use super::entry::{Command, Owner};
use super::media;
use super::poll;
use super::state::{Damage, State, pause};
use crate::message::Attachment;
use crate::outbox::{CommitError, NewEvent, event_id};
use crate::store::backend::{Lost, PROBE, SessionBackend, Stored};
use crate::store::registry::{Ended, EndedBy, RecordState};
use crate::store::{Batch, Namespace};
use crate::whatsapp::{Commit, Connection, Follow, Lease, Received, Reports, SIGNALS, Signal, Verdict};

/// Verbs that wait at one session; they come one at a time, nudges may be dropped.
const COMMANDS: usize = 8;
/// Messages outside the durable path that wait to be committed.
const LATE: usize = 256;
/// Closing flushes for up to 5 + 5 s in the library; a stop gives it that.
const CLOSE: Duration = Duration::from_secs(10);
/// Closing what is thrown away anyway.
const CLOSE_FAST: Duration = Duration::from_secs(3);
/// Pause before a connection after one that ended sooner than this, or in a panic: a server that ends each one at once
/// shall not be dialled without a pause.
const BREATH: Duration = Duration::from_secs(1);

/// What is noted of a dead connection takes no longer.
const DOUBT: Duration = Duration::from_secs(1);
/// A connection that lived for so long before it was dead is followed by the next at once.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// A session that the store failed comes back when so much fits: the longest text with what is kept beside it. A smaller
/// write would bring it back to a disk on which the next message fails again.
const PROBE_BYTES: usize = 64 << 10;

/// Starts the task of an entry that has none. `turn`: the semaphore of a restore.
pub(super) fn spawn(manager: &Arc<Manager>, entry: &Owner, turn: Option<Arc<Semaphore>>) {
    let (commands, received) = mpsc::channel(COMMANDS);
    let task = Task {
        manager: Arc::clone(manager),
        entry: Arc::clone(entry),
        commands: received,
        token: manager.token.child_token(),
        failures: 0,
        replacements: 0,
        connected_since: None,
        connected_before: AtomicBool::new(false),
        deaths: 0,
        nudged: false,
    };
    let handle = manager.tracker.spawn(supervise(task, turn));
    entry.set_task(commands, handle);
}

/// Runs a task to its end, and begins again after a panic: a session stays alive, and its list row true.
async fn supervise(mut task: Task, mut turn: Option<Arc<Semaphore>>) {
    while std::panic::AssertUnwindSafe(task.run(turn.take())).catch_unwind().await.is_err() {
        let span = task.span();
        if !Box::pin(task.begin_again().instrument(span)).await {
            return;
        }
    }
}

struct Task {
    manager: Arc<Manager>,
    entry: Owner,
    commands: mpsc::Receiver<Command>,
    token: CancellationToken,
    /// Connections that WhatsApp ended since the last good one.
    failures: u32,
    /// Good connections in a row that another one soon replaced, and when the last good one was made.
    replacements: u32,
    connected_since: Option<Instant>,
    /// Whether it was connected once: the next time is a reconnect.
    connected_before: AtomicBool,
    /// Connections in a row that soon were dead: each may have been dropped after its login.
    deaths: u32,
    /// Somebody asked for it while it was dialling or closing: the next pause is left out.
    nudged: bool,
}

/// Why a connection is over.
enum Outcome {
    Cancelled,
    End {
        unlink: bool,
        answer: oneshot::Sender<bool>,
    },
    StoreFailed,
    Renew(Option<Verdict>),
    /// Nothing comes over it any more.
    Dead,
    LoggedOut,
    Idle,
}

/// What cut a wait short.
enum Interrupted {
    Cancelled,
    End { unlink: bool, answer: oneshot::Sender<bool> },
}

impl Task {
    /// Has what is logged in it tell the session's name; for what ends soon.
    ///
    /// Each span that lived as long as its session would leave a piece of 160 bytes in the subscriber's table for good
    /// (tracing-subscriber 0.3, `registry/sharded.rs`), in a page of its own after a thousand sessions.
    fn span(&self) -> Span {
        // A root span: sessions live longer than the request that starts them.
        tracing::info_span!(parent: None, "session", session = %self.entry.name)
    }

    /// What follows a panic; `false`: the session has ended meanwhile.
    async fn begin_again(&mut self) -> bool {
        tracing::error!("the session's task panicked; its connection is closed, and it begins again");
        self.entry.set_connection(None);
        self.entry.close_backend(CLOSE).await;
        match self.wait(Some(BREATH)).await {
            Ok(()) => true,
            Err(Interrupted::Cancelled) => false,
            Err(Interrupted::End { unlink, answer }) => {
                self.end_unconnected(unlink, answer).await;
                false
            }
        }
    }

    async fn run(&mut self, turn: Option<Arc<Semaphore>>) {
        // Each restored session begins a little after the other; none of them waits for the slowest.
        let mut turn = match turn {
            None => None,
            Some(semaphore) => {
                self.entry.tell(crate::event::Status::Connecting).instrument(self.span()).await;
                tokio::select! {
                    () = self.token.cancelled() => return,
                    Some((unlink, answer)) = next_end(&mut self.commands, &mut self.nudged) => {
                        let span = self.span();
                        return Box::pin(self.end_unconnected(unlink, answer).instrument(span)).await;
                    }
                    permit = semaphore.acquire_owned() => permit.ok(),
                }
            }
        };
        if turn.is_some() {
            tokio::time::sleep(jitter(Duration::from_millis(50))).await;
        }
        loop {
            if Box::pin(self.is_damaged().instrument(self.span())).await {
                return;
            }
            let began = Instant::now();
            let outcome = match Box::pin(self.connect().instrument(self.span())).await {
                Ok((connection, backend, inputs, _lease)) => {
                    self.entry.set_connection(Some(connection.clone()));
                    let outcome = self.drive(&connection, &backend, inputs, &mut turn).await;
                    self.entry.set_connection(None);
                    let span = self.span();
                    match Box::pin(self.close(connection, &backend, outcome).instrument(span)).await {
                        Some(outcome) => outcome,
                        None => return,
                    }
                }
                Err(error) => {
                    let (session, error) = (&self.entry.name, format!("{error:#}"));
                    tracing::warn!(%session, error, "the session's store can't be used");
                    Outcome::StoreFailed
                }
            };
            turn = None;
            // Without a span: some pauses last for hours.
            if let Err(interrupted) = Box::pin(self.pause_after(outcome, began.elapsed())).await {
                if let Interrupted::End { unlink, answer } = interrupted {
                    let span = self.span();
                    Box::pin(self.end_unconnected(unlink, answer).instrument(span)).await;
                }
                return;
            }
        }
    }

    /// Whether a device is stored that can't be read, which is then its state. A store that can't be asked is told by the
    /// connection's own reads.
    async fn is_damaged(&self) -> bool {
        let namespace = Namespace::credentials(&self.entry.uid);
        let stored = SessionBackend::new(Arc::clone(&self.manager.kv), namespace, None).stored().await;
        let is_damaged = matches!(stored, Ok(Stored::Damaged));
        if is_damaged {
            tracing::error!("the stored keys of this session are damaged: it is not dialled");
            self.entry.set_state(State::Damaged(Damage::Device)).await;
        }
        is_damaged
    }

    /// Builds a connection over the stored device.
    async fn connect(&self) -> anyhow::Result<(Connection, Arc<SessionBackend>, Inputs, Lease)> {
        let namespace = Namespace::credentials(&self.entry.uid);
        let backend = SessionBackend::new(Arc::clone(&self.manager.kv), namespace, None);
        self.entry.set_backend(&backend);
        let paired = backend.has_device().await?;
        // What WhatsApp refuses stays refused until it says otherwise.
        if !(paired && matches!(self.entry.view().state, State::Held(_))) {
            self.entry.set_state(if paired { State::Connecting } else { State::Starting }).await;
        }
        // WhatsApp sends anew what was refused before, in its order.
        self.entry.outbox.resume();
        let (signals, signals_in) = mpsc::channel(SIGNALS);
        let (late, late_in) = mpsc::channel(LATE);
        let lost = backend.lost();
        let (cut, tracker) = (backend.failed(), &self.manager.tracker);
        let reports = Reports { commit: self.commit(&backend), signals, late, progress: self.progress() };
        let whatsapp = &self.manager.whatsapp;
        let (connection, lease) = whatsapp.connect(Arc::clone(&backend) as _, reports, &cut, tracker).await?;
        if !paired {
            backend.store_when_paired(connection.device());
        }
        Ok((connection, backend, Inputs { signals: signals_in, late: late_in, lost, failed: cut }, lease))
    }

    /// The closure that makes messages durable before WhatsApp is told of their arrival.
    fn commit(&self, backend: &Arc<SessionBackend>) -> Commit {
        // Weak: the library's timers keep a closed client for a while, and it shall not keep the store open.
        let (entry, backend) = (Arc::downgrade(&self.entry), Arc::downgrade(backend));
        Arc::new(move |mut received| {
            let (entry, backend) = (entry.clone(), backend.clone());
            Box::pin(async move {
                let entry = entry.upgrade().ok_or_else(|| anyhow!("the session is gone"))?;
                let storage = backend.upgrade().ok_or_else(|| anyhow!("the session's connection is gone"))?;
                poll::settle(&storage, &mut received).await?;
                drop(storage);
                let Err(error) = entry.commit(events(&entry, received)).await else { return Ok(()) };
                // Nothing is acknowledged. Without room the connection stays, and begins anew when there is some; without
                // a store it ends now. Either way WhatsApp then sends again what it was not told of.
                if matches!(error, CommitError::Store(_))
                    && let Some(backend) = backend.upgrade()
                {
                    backend.poison();
                }
                Err(anyhow!(error).context("a received message could not be committed"))
            })
        })
    }

    /// The closure that notes how far sent messages got.
    fn progress(&self) -> Follow {
        let entry = Arc::downgrade(&self.entry);
        Arc::new(move |progress| {
            if let Some(entry) = entry.upgrade() {
                entry.progress(progress);
            }
        })
    }

    /// Closes the connection as the outcome wants it; `None`: the task is done.
    async fn close(
        &mut self,
        connection: Connection,
        backend: &Arc<SessionBackend>,
        outcome: Outcome,
    ) -> Option<Outcome> {
        match outcome {
            Outcome::Cancelled => {
                connection.close(CLOSE).await;
                backend.close().await;
                None
            }
            Outcome::End { unlink, answer } => {
                let unlinked = if unlink {
                    self.unlink(connection, backend).await
                } else {
                    connection.close(CLOSE).await;
                    backend.close().await;
                    false
                };
                let _nobody_waits = answer.send(unlinked);
                None
            }
            Outcome::StoreFailed => {
                // The link is cut already. The ratchets in memory are ahead of the store: nothing of them may be written
                // any more.
                backend.close().await;
                connection.close(CLOSE_FAST).await;
                Some(Outcome::StoreFailed)
            }
            Outcome::LoggedOut => {
                connection.close(CLOSE_FAST).await;
                backend.close().await;
                self.wipe().await;
                None
            }
            Outcome::Renew(_) | Outcome::Dead | Outcome::Idle => {
                if matches!(outcome, Outcome::Dead) {
                    let doubted = tokio::time::timeout(DOUBT, connection.doubt_server_key()).await;
                    if !matches!(doubted, Ok(Ok(()))) {
                        tracing::debug!("the device could not be saved");
                    }
                    // Nobody reads what a close would still say.
                    connection.cut();
                }
                let mut closing = std::pin::pin!(connection.close(CLOSE));
                let end = tokio::select! {
                    () = &mut closing => None,
                    Some(end) = next_end(&mut self.commands, &mut self.nudged) => Some(end),
                };
                if end.is_some() {
                    // A verb does not wait for the goodbye of a connection that is over.
                    connection.cut();
                    closing.await;
                }
                backend.close().await;
                let Some((unlink, answer)) = end else { return Some(outcome) };
                self.end_unconnected(unlink, answer).await;
                None
            }
        }
    }

    /// Removes credentials that WhatsApp has declared void; the entry stays listed.
    async fn wipe(&self) {
        let uid = &self.entry.uid;
        let ended = Ended { by: EndedBy::Phone, at: Utc::now() };
        let marked = self.manager.registry.update(uid, |record| {
            record.state = RecordState::LoggedOut;
            record.ended = Some(ended);
        });
        let marked = marked.await.map(|record| record.map(|record| self.entry.set_record(record)));
        let dropped = self.manager.kv.drop_namespace(&Namespace::credentials(uid)).await;
        if let Err(error) = marked.map(drop).and(dropped) {
            tracing::error!(%error, "void credentials could not be removed; the next start does");
        }
        tracing::info!("logged out by WhatsApp, credentials removed");
        self.entry.set_state(State::LoggedOut).await;
    }

    /// Waits as the outcome wants it before the next connection; `lived`: how long the last one was there.
    async fn pause_after(&mut self, outcome: Outcome, lived: Duration) -> Result<(), Interrupted> {
        if lived >= LONG_ENOUGH {
            self.deaths = 0;
        }
        match outcome {
            Outcome::Idle => {
                let session = &self.entry.name;
                tracing::info!(%session, "nobody asks for a code: not dialling until somebody does");
                self.entry.set_state(State::Idle).await;
                while self.entry.asked().elapsed() > self.manager.settings.qr_idle {
                    self.wait(None).await?;
                }
                self.entry.set_state(State::Starting).await;
                Ok(())
            }
            Outcome::StoreFailed => {
                let paired = self.entry.view().state.is_paired();
                self.entry.set_state(State::StoreFailed { paired }).await;
                let session = &self.entry.name;
                tracing::error!(%session, "the store refuses writes: the session is closed until it takes them again");
                let mut delay = Duration::from_millis(500);
                loop {
                    self.wait(Some(delay)).await?;
                    if self.store_works().await {
                        tracing::info!(session = %self.entry.name, "the store takes writes again");
                        return Ok(());
                    }
                    delay = (delay * 2).min(Duration::from_secs(10));
                }
            }
            Outcome::Renew(verdict) => {
                let length = pause(verdict, self.failures);
                self.failures = self.failures.saturating_add(u32::from(verdict.is_some()));
                let nudged = std::mem::take(&mut self.nudged);
                if matches!(self.entry.view().state, State::Held(Verdict::LoggedOut)) {
                    // Whoever asks for it again and again must not use up the tries.
                    let until = Instant::now() + length;
                    while Instant::now() < until {
                        self.wait(Some(until - Instant::now())).await?;
                    }
                    return Ok(());
                }
                if nudged {
                    return Ok(());
                }
                if length > Duration::ZERO {
                    self.wait(Some(length + jitter(length / 5))).await?;
                } else if lived < BREATH {
                    self.wait(Some(BREATH + jitter(BREATH / 5))).await?;
                }
                Ok(())
            }
            Outcome::Dead => {
                self.deaths += u32::from(lived < LONG_ENOUGH);
                let length = dead_pause(self.deaths);
                if std::mem::take(&mut self.nudged) || length.is_zero() {
                    return Ok(());
                }
                self.wait(Some(length + jitter(length / 5))).await
            }
            Outcome::Cancelled | Outcome::End { .. } | Outcome::LoggedOut => Err(Interrupted::Cancelled),
        }
    }

    /// Writes and removes a row of the session's own namespace, as large as a message's.
    async fn store_works(&self) -> bool {
        let namespace = Namespace::credentials(&self.entry.uid);
        let write = Batch::new().put(PROBE, vec![b'1'; PROBE_BYTES]);
        let written = self.manager.kv.write(&namespace, write).await;
        written.is_ok() && self.manager.kv.write(&namespace, Batch::new().remove(PROBE)).await.is_ok()
    }

    /// Waits for a time (`None`: until nudged); a nudge ends it.
    async fn wait(&mut self, length: Option<Duration>) -> Result<(), Interrupted> {
        let sleep = async {
            match length {
                Some(length) => tokio::time::sleep(length).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.token.cancelled() => Err(Interrupted::Cancelled),
            command = self.commands.recv() => match command {
                Some(Command::End { unlink, answer }) => Err(Interrupted::End { unlink, answer }),
                Some(Command::Nudge) => Ok(()),
                None => Err(Interrupted::Cancelled),
            },
            () = sleep => Ok(()),
        }
    }
}

/// How long to wait after so many connections in a row that soon were dead.
fn dead_pause(deaths: u32) -> Duration {
    /// whatsapp-rust 0.7.0 waits for up to 15 minutes by itself where a server drops it after each login, but only on streams
    /// that the server closes.
    const LONGEST: Duration = Duration::from_mins(1);
    let Some(more) = deaths.checked_sub(2) else { return Duration::ZERO };
    Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(more)).min(LONGEST)
}

/// What a connection sends to its task.
struct Inputs {
    signals: mpsc::Receiver<Signal>,
    late: mpsc::Receiver<Vec<Received>>,
    lost: mpsc::Receiver<Box<Lost>>,
    failed: CancellationToken,
}

/// The events of received messages, named as this session's.
fn events(entry: &Owner, received: Vec<Received>) -> Vec<(NewEvent, Option<Attachment>)> {
    received
        .into_iter()
        .map(|mut received| {
            let id = event_id(&entry.uid, &received.chat, &received.sender, &received.incoming.id, "message");
            received.incoming.event_id = id;
            entry.name.as_str().clone_into(&mut received.incoming.session);
            if received.attachment.is_some() {
                // Until the file is there; what goes out if it never is.
                received.incoming.content.media_error = Some(media::LATE.to_owned());
            }
            (NewEvent::message(&received.incoming), received.attachment)
        })
        .collect()
}

/// The next end command; nudges before it are remembered.
async fn next_end(commands: &mut mpsc::Receiver<Command>, nudged: &mut bool) -> Option<(bool, oneshot::Sender<bool>)> {
    loop {
        match commands.recv().await? {
            Command::Nudge => *nudged = true,
            Command::End { unlink, answer } => return Some((unlink, answer)),
        }
    }
}

/// A random part of a duration.
fn jitter(most: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness there is just no jitter.
    let drawn = getrandom::fill(&mut bytes).map_or(0, |()| u32::from_le_bytes(bytes));
    most.mul_f64(f64::from(drawn) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of<T, U, F: Future>(_: fn(T, U) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn connections_that_die_again_and_again_are_made_ever_later() {
        let pauses: Vec<_> = [0, 1, 2, 3, 4, 7, 8, 9, 99].map(|deaths| dead_pause(deaths).as_secs()).into();
        assert_eq!(pauses, [0, 0, 1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn a_task_that_follows_its_connection_is_small() {
        // What it takes to connect, to close and to unlink, 4 KiB, is there when it is needed: every session has a task.
        let size = size_of(supervise);
        assert!(size <= 2 << 10, "{size} bytes");
    }
}
