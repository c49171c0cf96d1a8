//! What the task does while it has a connection: follows its signals, watches its link, keeps what it reports.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::Instrument as _;

use super::super::entry::{Command, Loss};
use super::super::state::{State, Step, next};
use super::super::{media, poll};
use super::{Inputs, Outcome, Task, events};
use crate::outbox::CommitError;
use crate::store::backend::{Lost, SessionBackend};
use crate::store::registry::AccountDetails;
use crate::whatsapp::{Connection, Received, Signal, Verdict};

/// A restored session lets the next one dial after so long even if it is not connected.
const RESTORE_TURN: Duration = Duration::from_secs(20);
/// The same from its login on: the library may wait 10 s for a push name that nobody sends.
const SYNC_TURN: Duration = Duration::from_secs(2);
/// Caught up with what waited, and connected all the same without the account's name after so long: the library waits 10 s and
/// more for it at each login of a new client, and some accounts have none.
const NAMELESS: Duration = Duration::from_secs(3);
/// A connection that was replaced sooner than this after it was made, was so by a program that keeps coming back.
const STABLE: Duration = Duration::from_secs(30);
/// A phone has just accepted the session, and WhatsApp says that it was logged out: so often it is asked once more, after 2 and
/// 4 s, before the new credentials are given up.
const FRESH_TRIES: u32 = 2;
/// The connection that showed a code has ended: so long it may turn out that a phone had accepted it, and the library may
/// dial for new codes. whatsapp-rust 0.7.0, `pair.rs`: until those come it goes on showing the old ones in their turn, though
/// none of them can be scanned any more; a new client shows none of them.
const CODE_LOST: Duration = Duration::from_secs(3);
/// A dial that somebody waits for begins again after so long.
const IDLE_DIAL: Duration = Duration::from_secs(10);

/// The watchdog's times, all made of one setting; in brackets those of its default, 30 s.
///
/// A link tells its own end, but not that its other end is gone: so a connected session asks WhatsApp for a sign of life
/// early enough to be sure, one way or the other, when the whole time is over.
struct Limits {
    /// The whole time: a stream that is open and not logged in gets no more either.
    all: Duration,
    /// How often a connected session looks at its link (2 s; three times as seldom while it is quiet), and one that is not
    /// connected at itself (1 s).
    look: Duration,
    tick: Duration,
    /// Silence after which WhatsApp is asked for a sign of life (19.5 s: more often costs a thousand idle sessions a percent
    /// of a core), and silence after something was sent (7.5 s): not everything that we send has an answer of its own.
    ask_idle: Duration,
    ask_unanswered: Duration,
    /// Silence after something was sent, after which the connection counts as dead (18 s). The library finds out too, but only after 15
    /// to 50 s; WhatsApp Web waits 20 s (whatsapp-rust 0.7.0, `wacore::protocol::keepalive`).
    dead: Duration,
    /// Logged in for so long without the library saying that it is ready (20 s): whatsapp-rust 0.7.0 never says so when the
    /// critical app-state sync fails in a retryable way, and waits 180 s for one that never ends.
    ready: Duration,
    /// No longer logged in on a stream that stays open (5 s): after `stream:error` 503 and 429 the library waits for the
    /// server to close it.
    dropped: Duration,
    /// The library dials after 1, 1, 2, 3, 5 … 900 s; a session not connected for so long (75 s) begins again at 1 s.
    redial: Duration,
}

impl Limits {
    fn new(all: Duration) -> Self {
        let part = |share: f64| all.mul_f64(share);
        Self {
            all,
            look: part(1.0 / 15.0).clamp(Duration::from_millis(50), Duration::from_secs(2)),
            tick: part(1.0 / 30.0).clamp(Duration::from_millis(50), Duration::from_secs(1)),
            ask_idle: part(0.65),
            ask_unanswered: part(0.25),
            dead: part(0.6),
            ready: part(2.0 / 3.0),
            dropped: part(1.0 / 6.0),
            redial: part(2.5),
        }
    }

    /// For how long a link that was found quiet needs no look: until WhatsApp could have to be asked.
    fn rest(&self, silence: Duration, unanswered: Duration) -> Duration {
        let until_ask = (self.ask_idle.saturating_sub(silence)).min(self.ask_unanswered.saturating_sub(unanswered));
        until_ask.clamp(self.look, self.look * 3)
    }
}

/// Since when what is so.
struct Clocks {
    began: Instant,
    not_connected_since: Instant,
    /// `None`: not logged in.
    live_since: Option<Instant>,
    /// The stream that is open without a login, by number, and whether it once had one.
    open: Option<(u64, Instant)>,
    was_live_on: Option<u64>,
    /// The stream that what waited has all come over, and the one that a phone accepted the session on; by number.
    caught_up_on: Option<u64>,
    paired_on: Option<u64>,
    /// When the connection that showed a code ended.
    code_lost: Option<Instant>,
    /// Whether WhatsApp was asked for a sign of life in this silence.
    asked: bool,
}

impl Clocks {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            not_connected_since: now,
            live_since: None,
            open: None,
            was_live_on: None,
            caught_up_on: None,
            paired_on: None,
            code_lost: None,
            asked: false,
        }
    }

    fn lost(&mut self) {
        self.not_connected_since = Instant::now();
        self.live_since = None;
    }

    /// How long this stream has been open without a login.
    fn without_login(&mut self, stream: u64) -> Duration {
        match self.open {
            Some((known, since)) if known == stream => since.elapsed(),
            _ => {
                self.open = Some((stream, Instant::now()));
                Duration::ZERO
            }
        }
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
        let limits = Limits::new(self.manager.settings.watchdog);
        let (mut tick, mut watch) = (together(limits.tick), together(limits.look));
        let token = self.token.clone();
        let mut files = media::Fetching::default();
        loop {
            let connected = self.entry.view().state == State::Connected;
            if connected {
                *turn = None;
            }
            // Only while connected: a download that waits for the link must not hold the turn of another session.
            files.keep(connected, || {
                media::run(connection.clone(), self.entry.outbox.clone(), self.manager.files.clone())
            });
            tokio::select! {
                biased;
                () = token.cancelled() => return Outcome::Cancelled,
                command = self.commands.recv() => match command {
                    Some(Command::End { unlink, answer }) => return Outcome::End { unlink, answer },
                    Some(Command::Nudge) => {
                        self.nudged = !connected;
                        // Somebody waits: a dial that hangs in a long pause of the library begins again.
                        let idle = !connection.is_live() && clocks.not_connected_since.elapsed() > IDLE_DIAL;
                        // One that shows a code has a stream, and keeps both.
                        if idle && (self.entry.view().state.is_paired() || connection.stream().is_none()) {
                            return Outcome::Renew(None);
                        }
                    }
                    None => return Outcome::Cancelled,
                },
                () = inputs.failed.cancelled() => return Outcome::StoreFailed,
                Some(signal) = inputs.signals.recv() => {
                    if matches!(signal, Signal::Qr { .. }) && connection.stream().is_none() {
                        continue;
                    }
                    if signal == Signal::LinkDown && matches!(self.entry.view().state, State::WaitingForScan { .. }) {
                        clocks.code_lost = Some(Instant::now());
                    }
                    if signal == Signal::StreamError {
                        watch.reset_after(limits.tick);
                        continue;
                    }
                    // Before it is followed, which may take a while.
                    let (span, stream) = (self.span(), connection.stream());
                    if let Some(outcome) = Box::pin(self.follow(connection, &signal).instrument(span)).await {
                        return outcome;
                    }
                    match signal {
                        // The stream is another one.
                        Signal::Connected => watch.reset_immediately(),
                        Signal::CaughtUp => {
                            clocks.caught_up_on = stream;
                            tick.reset_immediately();
                        }
                        Signal::LinkDown => clocks.lost(),
                        Signal::Paired { .. } => (clocks.code_lost, clocks.paired_on) = (None, stream),
                        Signal::Qr { .. } => clocks.code_lost = None,
                        _ => {}
                    }
                }
                Some(received) = inputs.late.recv() => {
                    Box::pin(self.commit_late(backend, received).instrument(self.span())).await;
                }
                Some(lost) = inputs.lost.recv() => {
                    let Lost { chat, sender, id } = *lost;
                    let connection = connection.clone();
                    let ask = async move { connection.request_resend(&chat, &sender, &id).await };
                    self.manager.tracker.spawn(ask.instrument(self.span()));
                }
                () = files.go_on() => {}
                () = connection.ended() => return Outcome::Renew(None),
                _ = tick.tick(), if !connected => {
                    let synced_for = clocks.live_since.map(|since| since.elapsed());
                    if clocks.began.elapsed() > RESTORE_TURN || synced_for > Some(SYNC_TURN) {
                        *turn = None;
                    }
                    let span = self.span();
                    let look = self.wait_for_login(connection, &mut clocks, &limits);
                    if let Some(outcome) = Box::pin(look.instrument(span)).await {
                        return outcome;
                    }
                }
                _ = watch.tick(), if connected => {
                    if let Some(rest) = self.quiet(connection, &clocks, &limits) {
                        watch.reset_at(shared(Instant::now() + rest));
                        continue;
                    }
                    let look = self.look_at_link(connection, &mut clocks, &limits);
                    if let Some(outcome) = Box::pin(look.instrument(self.span())).await {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Takes messages that came outside the durable path.
    async fn commit_late(&self, backend: &SessionBackend, mut received: Vec<Received>) {
        // A failure has poisoned the backend, and is told below as the commit's.
        let _failed = poll::settle(backend, &mut received).await;
        if let Err(error) = self.entry.commit(events(&self.entry, received)).await {
            tracing::warn!(%error, "a message outside the durable path was lost");
            if matches!(error, CommitError::Store(_)) {
                backend.poison();
            }
        }
    }

    /// For how long the link needs no look; `None`: it needs one now. It is quiet nearly always, and a thousand sessions look
    /// often.
    fn quiet(&self, connection: &Connection, clocks: &Clocks, limits: &Limits) -> Option<Duration> {
        let (silence, unanswered) = (connection.silent_for(), connection.unanswered_for());
        let is_quiet = !clocks.asked
            && clocks.was_live_on == connection.stream()
            && connection.is_live()
            && silence <= limits.ask_idle
            && unanswered <= limits.ask_unanswered
            && !self.entry.outbox.is_refusing();
        is_quiet.then(|| limits.rest(silence, unanswered))
    }

    /// Looks after a connection that is not connected yet; `Some`: this one is over.
    async fn wait_for_login(
        &mut self,
        connection: &Connection,
        clocks: &mut Clocks,
        limits: &Limits,
    ) -> Option<Outcome> {
        let state = self.entry.view().state.clone();
        let stream = connection.stream();
        if connection.is_live() && state.is_paired() {
            (clocks.was_live_on, clocks.open) = (stream, None);
            let logged_in_for = clocks.live_since.get_or_insert_with(Instant::now).elapsed();
            let is_known = || {
                let known = self.entry.record().details;
                let account = connection.account();
                known.zip(account).is_some_and(|(known, account)| known.phone_number == account.phone_number)
            };
            let is_ready = clocks.caught_up_on == stream && (logged_in_for > NAMELESS || is_known());
            if is_ready {
                self.connected(connection).await;
                return None;
            }
            if logged_in_for > limits.ready {
                tracing::warn!("logged in, but not all of the start-up sync came through; going on");
                self.connected(connection).await;
                return None;
            }
            return self.look_at_link(connection, clocks, limits).await;
        }
        clocks.live_since = None;
        let unasked = self.entry.asked().elapsed() > self.manager.settings.qr_idle;
        if state == State::Starting && unasked {
            return Some(Outcome::Idle);
        }
        if state == State::Starting && clocks.code_lost.is_some_and(|lost| lost.elapsed() > CODE_LOST) {
            return Some(Outcome::Renew(None));
        }
        if matches!(state, State::WaitingForScan { .. }) {
            // Codes follow each other by the library's clock, and it looks after the link meanwhile.
            let until = self.entry.view().until;
            let overdue = until.is_some_and(|until| (Utc::now() - until).to_std().is_ok_and(|late| late > limits.all));
            return overdue.then_some(Outcome::Renew(None));
        }
        if let Some(stream) = stream {
            // WhatsApp closes the stream that paired, for the first login.
            let is_done = [clocks.was_live_on, clocks.paired_on].contains(&Some(stream));
            let limit = if is_done { limits.dropped } else { limits.all };
            let waited = clocks.without_login(stream);
            if waited > limit {
                tracing::warn!(
                    waited_ms = waited.as_millis(),
                    "WhatsApp leaves the connection open and answers nothing: connecting anew"
                );
                self.entry.set_lost(Loss::Silent);
                return Some(Outcome::Dead);
            }
        }
        (clocks.not_connected_since.elapsed() > limits.redial).then_some(Outcome::Renew(None))
    }

    /// Looks whether the other end of a link that is logged in still answers; `Some`: this connection is over.
    async fn look_at_link(&self, connection: &Connection, clocks: &mut Clocks, limits: &Limits) -> Option<Outcome> {
        let outbox = &self.entry.outbox;
        if outbox.is_refusing() && outbox.has_room() {
            tracing::info!("the outbox has room again: connecting anew for the messages that it refused");
            self.entry.set_state(State::Connecting).await;
            return Some(Outcome::Renew(None));
        }
        if !connection.is_live() {
            clocks.lost();
            self.entry.set_lost(Loss::Closed);
            self.entry.set_state(State::Connecting).await;
            return None;
        }
        clocks.was_live_on = connection.stream();
        let (silence, unanswered) = (connection.silent_for(), connection.unanswered_for());
        if unanswered > limits.dead || silence > limits.all {
            tracing::warn!(silence_ms = silence.as_millis(), "WhatsApp does not answer: connecting anew");
            self.entry.set_lost(Loss::Silent);
            self.entry.set_state(State::Connecting).await;
            return Some(Outcome::Dead);
        }
        let due = silence > limits.ask_idle || unanswered > limits.ask_unanswered;
        if due && !clocks.asked {
            // On a task of its own: a write that stalls must not hold up the watch.
            let connection = connection.clone();
            self.manager.tracker.spawn(async move { connection.prod().await }.in_current_span());
        }
        clocks.asked = due;
        None
    }

    /// Takes one signal; `Some`: this connection is over.
    async fn follow(&mut self, connection: &Connection, signal: &Signal) -> Option<Outcome> {
        let (state, step) = next(&self.entry.view().state, signal);
        let mut until = None;
        match signal {
            Signal::Paired { platform } => {
                tracing::info!("a phone accepted the session");
                self.failures = 0;
                // It is stored, unless WhatsApp named no LID; what has changed since is saved by the library only when it gets
                // round to it.
                if let Err(error) = connection.save().await {
                    tracing::error!(error = format!("{error:#}"), "the credentials could not be saved");
                }
                self.remember(None, platform.clone()).await;
            }
            Signal::Connected => {
                self.connected(connection).await;
                return None;
            }
            Signal::Ended(verdict) => {
                tracing::warn!(?verdict, "WhatsApp ended the connection");
                if let Verdict::Banned(Some(length)) = verdict {
                    until = after(*length);
                }
                self.entry.set_lost(Loss::Refused(*verdict));
                self.replacements = match (verdict, self.connected_since) {
                    (Verdict::Replaced, Some(since)) if since.elapsed() < STABLE => self.replacements + 1,
                    _ => 0,
                };
            }
            Signal::StreamError | Signal::CaughtUp => {}
            Signal::QrExhausted => {
                if self.entry.asked().elapsed() > self.manager.settings.qr_idle {
                    return Some(Outcome::Idle);
                }
            }
            Signal::PairFailed => tracing::warn!("the pairing failed"),
            Signal::LinkDown => {
                tracing::info!("the connection to WhatsApp ended");
                connection.fail_pending();
                self.entry.set_lost(Loss::Closed);
            }
            Signal::Qr { valid_for, .. } => until = after(*valid_for),
        }
        let outcome = match step {
            Step::Stay => None,
            Step::Renew(Some(Verdict::LoggedOut)) if state.is_paired() && self.failures >= FRESH_TRIES => {
                return Some(Outcome::LoggedOut);
            }
            Step::Renew(verdict) => Some(Outcome::Renew(verdict)),
            Step::Wipe => return Some(Outcome::LoggedOut),
        };
        let bounded = matches!(state, State::WaitingForScan { .. } | State::Held(_));
        // A ban that lasts over several connections keeps its end.
        if !matches!(signal, Signal::LinkDown) || state != self.entry.view().state {
            self.entry.set_state_until(state, until.filter(|_until| bounded)).await;
        }
        outcome
    }

    async fn connected(&mut self, connection: &Connection) {
        self.nudged = false;
        // Two programs with the same credentials must not take turns at full speed.
        self.failures = self.replacements;
        self.connected_since = Some(Instant::now());
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

/// Ticks at times that many sessions share.
fn together(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(shared(Instant::now()), period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

/// This time or the next that many sessions share, so that a thousand of them don't wake a thread each: of an idle gateway's
/// CPU that was most. Tenths of a second apart, they don't all come at once either.
fn shared(at: Instant) -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    const GRID: Duration = Duration::from_millis(100);
    let steps = at.duration_since(*ORIGIN).div_duration_f64(GRID).ceil();
    (*ORIGIN + GRID.mul_f64(steps)).max(at)
}

/// The time so long from now; `None`: beyond all calendars.
fn after(length: Duration) -> Option<DateTime<Utc>> {
    Utc::now().checked_add_signed(chrono::Duration::from_std(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_link_rests_until_whatsapp_might_have_to_be_asked() {
        let limits = Limits::new(Duration::from_secs(30));
        let rest = |silence, unanswered| limits.rest(Duration::from_millis(silence), Duration::from_millis(unanswered));
        assert_eq!(rest(0, 0), Duration::from_secs(6), "three looks");
        assert_eq!(rest(15_000, 0), Duration::from_millis(4_500), "nothing came for a while");
        assert_eq!(rest(0, 3_000), Duration::from_millis(4_500), "what was sent has no answer yet");
        assert_eq!(rest(15_000, 4_500), Duration::from_secs(3), "what comes first");
        assert_eq!(rest(19_400, 0), limits.look, "never more often than a link is looked at");
    }
}
