//! What the task does while it has a connection: follows its signals, watches its link, keeps what it reports.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument as _;

use super::super::entry::Command;
use super::super::state::{State, Step, next};
use super::super::{media, poll};
use super::{Inputs, Outcome, Task, events};
use crate::store::backend::{Lost, SessionBackend};
use crate::store::registry::AccountDetails;
use crate::whatsapp::{Connection, Signal};

/// The library dials after 1, 1, 2, 3, 5 … 900 s; a session not connected for so long begins again at 1 s.
const REDIAL: Duration = Duration::from_secs(75);
/// Logged in for so long without the library saying that it is ready: whatsapp-rust 0.7.0 never says so when the critical
/// app-state sync fails in a retryable way.
const READY: Duration = Duration::from_secs(20);
/// How often a connected session looks at its link.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Silence after which WhatsApp is asked for a sign of life: not everything that we send has an answer of its own.
const PROD: Duration = Duration::from_secs(8);
/// Silence after which the connection counts as dead. The library finds out too, but only after 15 to 50 s; WhatsApp Web
/// waits 20 s (whatsapp-rust 0.7.0, `wacore::protocol::keepalive`).
const DEAD: Duration = Duration::from_secs(18);
/// A restored session lets the next one dial after so long even if it is not connected.
const RESTORE_TURN: Duration = Duration::from_secs(20);
/// A dial that somebody waits for begins again after so long.
const IDLE_DIAL: Duration = Duration::from_secs(10);

/// Since when what is so.
struct Clocks {
    began: Instant,
    not_connected_since: Instant,
    /// `None`: not logged in.
    live_since: Option<Instant>,
    /// Whether WhatsApp was asked for a sign of life in this silence.
    prodded: bool,
}

impl Clocks {
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, not_connected_since: now, live_since: None, prodded: false }
    }

    fn lost(&mut self) {
        self.not_connected_since = Instant::now();
        self.live_since = None;
    }
}

impl Task {
    /// Follows one connection until something ends it.
    pub(super) async fn drive(
        &mut self,
        connection: &Connection,
        backend: &Arc<SessionBackend>,
        mut inputs: Inputs,
        turn: &mut Option<OwnedSemaphorePermit>,
    ) -> Outcome {
        let mut clocks = Clocks::new();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = tokio::time::interval(WATCH_EVERY);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let token = self.token.clone();
        let mut files = media::Fetching::default();
        loop {
            let connected = self.entry.view().state == State::Connected;
            // Only while connected: a download that waits for the link must not hold the turn of another session.
            files.keep(connected, || {
                media::run(connection.clone(), self.entry.outbox.clone(), self.manager.files.clone())
            });
            tokio::select! {
                biased;
                () = token.cancelled() => return Outcome::Cancelled,
                command = self.commands.recv() => match command {
                    Some(Command::End(answer)) => return Outcome::End(answer),
                    Some(Command::Nudge) => {
                        // Somebody waits: a dial that hangs in a long pause of the library begins again.
                        let idle = !connection.is_live() && clocks.not_connected_since.elapsed() > IDLE_DIAL;
                        if idle && self.entry.view().state.is_paired() {
                            return Outcome::Renew(None);
                        }
                    }
                    None => return Outcome::Cancelled,
                },
                () = inputs.failed.cancelled() => return Outcome::StoreFailed,
                Some(signal) = inputs.signals.recv() => {
                    if let Some(outcome) = self.follow(connection, &signal).await {
                        return outcome;
                    }
                    match signal {
                        Signal::Connected => {
                            *turn = None;
                            self.failures = 0;
                        }
                        Signal::LinkDown => {
                            clocks.lost();
                        }
                        _ => {}
                    }
                }
                Some(mut received) = inputs.late.recv() => {
                    // A failure has poisoned the backend, and is told below as the commit's.
                    let _failed = poll::settle(backend, &mut received).await;
                    if let Err(error) = self.entry.commit(events(&self.entry, received)).await {
                        tracing::warn!(%error, "a message outside the durable path was lost: the store refused it");
                        backend.poison();
                    }
                }
                Some(Lost { chat, sender, id }) = inputs.lost.recv() => {
                    let connection = connection.clone();
                    let ask = async move { connection.request_resend(&chat, &sender, &id).await };
                    self.manager.tracker.spawn(ask.in_current_span());
                }
                () = files.go_on() => {}
                () = connection.ended() => return Outcome::Renew(None),
                _ = tick.tick(), if !connected => {
                    if clocks.began.elapsed() > RESTORE_TURN {
                        *turn = None;
                    }
                    if let Some(outcome) = self.wait_for_login(connection, &mut clocks).await {
                        return outcome;
                    }
                }
                // A link tells its own end, but not that its other end is gone.
                _ = watch.tick(), if connected => if let Some(outcome) = self.look_at_link(connection, &mut clocks).await {
                    return outcome;
                },
            }
        }
    }

    /// Looks after a connection that is not connected yet; `Some`: this one is over.
    async fn wait_for_login(&self, connection: &Connection, clocks: &mut Clocks) -> Option<Outcome> {
        let state = self.entry.view().state.clone();
        if connection.is_live() && state.is_paired() {
            if clocks.live_since.get_or_insert_with(Instant::now).elapsed() > READY {
                tracing::warn!("logged in, but not all of the start-up sync came through; going on");
                self.connected(connection).await;
            }
            return None;
        }
        clocks.live_since = None;
        let unasked = self.entry.asked().elapsed() > self.manager.settings.qr_idle;
        if state == State::Starting && unasked {
            return Some(Outcome::Idle);
        }
        let waiting = matches!(state, State::WaitingForScan { .. });
        (!waiting && clocks.not_connected_since.elapsed() > REDIAL).then_some(Outcome::Renew(None))
    }

    /// Looks whether the other end of a connected link still answers; `Some`: this connection is over.
    async fn look_at_link(&self, connection: &Connection, clocks: &mut Clocks) -> Option<Outcome> {
        let silence = connection.unanswered_for();
        if !connection.is_live() {
            clocks.not_connected_since = Instant::now();
            self.entry.set_state(State::Connecting).await;
        } else if silence > DEAD {
            tracing::warn!(silence_ms = silence.as_millis(), "WhatsApp does not answer: connecting anew");
            self.entry.set_state(State::Connecting).await;
            return Some(Outcome::Renew(None));
        } else if silence < PROD {
            clocks.prodded = false;
        } else if !clocks.prodded {
            clocks.prodded = true;
            connection.prod().await;
        }
        None
    }

    /// Takes one signal; `Some`: this connection is over.
    async fn follow(&mut self, connection: &Connection, signal: &Signal) -> Option<Outcome> {
        let (state, step) = next(&self.entry.view().state, signal);
        match signal {
            Signal::Paired { platform } => {
                tracing::info!("a phone accepted the session");
                // The library saves the device row only when it gets round to it.
                if let Err(error) = connection.save().await {
                    tracing::error!(error = format!("{error:#}"), "the credentials could not be saved");
                }
                self.remember(None, platform.clone()).await;
            }
            Signal::Connected => {
                self.connected(connection).await;
                return None;
            }
            Signal::Ended(verdict) => tracing::warn!(?verdict, "WhatsApp ended the connection"),
            Signal::QrExhausted => {
                if self.entry.asked().elapsed() > self.manager.settings.qr_idle {
                    return Some(Outcome::Idle);
                }
            }
            Signal::PairFailed => tracing::warn!("the pairing failed"),
            Signal::LinkDown => {
                tracing::info!("the connection to WhatsApp ended");
                connection.fail_pending();
            }
            Signal::Qr { .. } => {}
        }
        let outcome = match step {
            Step::Stay => None,
            Step::Renew(verdict) => Some(Outcome::Renew(verdict)),
            Step::Wipe => return Some(Outcome::LoggedOut),
        };
        self.entry.set_state(state).await;
        outcome
    }

    async fn connected(&self, connection: &Connection) {
        if let Some(account) = connection.account() {
            let details = AccountDetails { name: account.name, phone_number: account.phone_number };
            self.remember(Some(details), None).await;
        }
        let is_new = self.entry.view().state != State::Connected;
        if is_new && self.connected_before.swap(true, Ordering::Relaxed) {
            self.manager.metrics.reconnect();
        }
        self.entry.set_state(State::Connected).await;
    }

    /// Keeps what the list shows of a session while it is away.
    async fn remember(&self, details: Option<AccountDetails>, platform: Option<String>) {
        let written = self.manager.registry.update(&self.entry.uid, |record| {
            if details.is_some() {
                record.details.clone_from(&details);
            }
            if platform.is_some() {
                record.platform.clone_from(&platform);
            }
        });
        match written.await {
            Ok(Some(record)) => self.entry.set_record(record),
            // It is being deleted.
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the account's name was not stored"),
        }
    }
}
