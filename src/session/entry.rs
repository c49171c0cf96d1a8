//! One listed session: what is known of it, and the handle to the task that owns its connection.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::follow::Follow;
use super::once::UnderWay;
use super::state::State;
use super::{Details, SendError, SessionSummary, Settings, Standing, StartError, Started};
use crate::event::{SessionName, Status};
use crate::message::Attachment;
use crate::outbox::{CommitError, NewEvent, Outbox};
use crate::store::KvError;
use crate::store::backend::SessionBackend;
use crate::store::registry::{EndedBy, SessionRecord};
use crate::whatsapp::{Account, Connection, Verdict};

mod untold;

/// What others see of a session; written by its task and by the verbs.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) state: State,
    /// When the status, the contract's word, last changed.
    pub(super) since: DateTime<Utc>,
    /// When the state last changed.
    pub(super) entered: DateTime<Utc>,
    /// When the state ends by itself, as far as is known: a code, a ban.
    pub(super) until: Option<DateTime<Utc>>,
    /// Why it is not connected any more; `None` since it was.
    pub(super) lost: Option<Loss>,
    pub(super) connection: Option<Connection>,
}

impl View {
    pub(super) fn new(state: State, since: DateTime<Utc>) -> Self {
        Self { state, since, entered: since, until: None, lost: None, connection: None }
    }
}

/// What a row of the list was made of.
#[derive(Debug)]
pub(super) struct Mark {
    sequence: u64,
    changes: u64,
    /// The account that the connection showed; `None`: there was no live one.
    account: Option<Account>,
}

/// Why a session has to connect anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The stream ended.
    Closed,
    /// The watchdog gave a connection up over which nothing came.
    Silent,
    /// WhatsApp refused a registration.
    Refused(Verdict),
}

impl Loss {
    fn word(self) -> Option<Cow<'static, str>> {
        match self {
            Self::Closed => Some("connection_lost".into()),
            Self::Silent => Some("no_answer".into()),
            Self::Refused(verdict) => State::Held(verdict).reason(),
        }
    }
}

/// What a verb asks of a session's task.
#[derive(Debug)]
pub(super) enum Command {
    /// Close and end, after unlinking if so told; answers whether WhatsApp has unlinked it.
    End { unlink: bool, answer: oneshot::Sender<bool> },
    /// Don't wait for the next try.
    Nudge,
}

struct Task {
    commands: mpsc::Sender<Command>,
    handle: JoinHandle<()>,
}

/// One listed session.
pub(super) struct Entry {
    pub(super) name: SessionName,
    pub(super) uid: String,
    pub(super) sequence: u64,
    /// Taken off the list by a delete.
    pub(super) gone: AtomicBool,
    pub(super) outbox: Outbox,
    /// Whether its outbox is read and has a lane.
    pub(super) is_delivered: AtomicBool,
    /// What became of its sent messages.
    pub(super) follow: Follow,
    /// Keyed requests that are being carried out.
    pub(super) under_way: UnderWay,
    record: Mutex<SessionRecord>,
    /// Counts what changed in the record and in the view.
    changes: AtomicU64,
    all_changes: Arc<AtomicU64>,
    view: watch::Sender<View>,
    /// The longest silence over which it still counts as connected.
    watchdog: Duration,
    /// Started after a stop, and not connected since: those who ask again wait for it too.
    resuming: AtomicBool,
    asked: Mutex<Instant>,
    untold: Mutex<untold::Untold>,
    task: Mutex<Option<Task>>,
    /// The storage that the task's connection writes to; closed when the task has ended, however it did.
    backend: Mutex<Option<Arc<SessionBackend>>>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("uid", &self.uid).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// `all_changes` counts the changes of every row of the list.
    pub(super) fn new(
        record: SessionRecord,
        view: View,
        outbox: Outbox,
        follow: Follow,
        settings: &Settings,
        all_changes: Arc<AtomicU64>,
    ) -> Self {
        Self {
            name: record.name.clone(),
            uid: record.uid.clone(),
            sequence: record.sequence,
            gone: AtomicBool::new(false),
            outbox,
            is_delivered: AtomicBool::new(false),
            follow,
            under_way: UnderWay::default(),
            record: Mutex::new(record),
            changes: AtomicU64::new(0),
            all_changes,
            view: watch::Sender::new(view),
            watchdog: settings.watchdog,
            resuming: AtomicBool::new(false),
            asked: Mutex::new(Instant::now()),
            untold: Mutex::default(),
            task: Mutex::new(None),
            backend: Mutex::new(None),
        }
    }

    /// The stored record as last written.
    pub(super) fn record(&self) -> SessionRecord {
        lock(&self.record).clone()
    }

    /// Remembers the record as it was just written.
    pub(super) fn set_record(&self, record: SessionRecord) {
        *lock(&self.record) = record;
        self.changed();
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.all_changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn view(&self) -> watch::Ref<'_, View> {
        self.view.borrow()
    }

    /// How the session is. Connected is what the socket says now, not what an event said once.
    pub(super) fn summary(&self) -> SessionSummary {
        let view = self.view();
        let record = lock(&self.record);
        let live = view.connection.as_ref().filter(|connection| connection.is_live());
        let (mut status, mut details) = (view.state.status(), None);
        let mut standing = Standing {
            state: view.state.word(),
            reason: view.state.reason(),
            since: view.entered,
            until: view.until.filter(|until| *until > Utc::now()),
        };
        match (&view.state, self.heard(&view)) {
            (State::Connected, Some(connection)) => {
                details = connection
                    .account()
                    .map(|account| Details { name: account.name, phone_number: account.phone_number });
            }
            // The task will notice too; nobody shall be told otherwise until it does.
            (State::Connected, None) => {
                status = Status::Connecting;
                standing.state = State::Connecting.word();
                standing.reason = if live.is_some() { Loss::Silent } else { Loss::Closed }.word();
            }
            (State::Starting | State::Connecting, _) => standing.reason = view.lost.and_then(Loss::word),
            (State::Stopped | State::LoggedOut, _) => {
                standing.reason = record.ended.map(|ended| ended.by.word().into());
                standing.since = record.ended.map_or(standing.since, |ended| ended.at);
            }
            (State::Moved, _) => standing.since = record.ended.map_or(standing.since, |ended| ended.at),
            _ => {}
        }
        SessionSummary {
            session: self.name.clone(),
            status,
            details: details.or_else(|| record.details.clone().map(Details::from)),
            since: view.since,
            platform: record.platform.clone(),
            standing,
        }
    }

    /// The connection, when it is live and the watchdog has not given it up.
    fn heard<'a>(&self, view: &'a View) -> Option<&'a Connection> {
        let heard = |connection: &&Connection| connection.is_live() && connection.silent_for() <= self.watchdog;
        view.connection.as_ref().filter(heard)
    }

    /// What its row in the list is made of at this moment.
    pub(super) fn mark(&self) -> Mark {
        let changes = self.changes.load(Ordering::Acquire);
        let heard = self.heard(&self.view()).map(|connection| connection.account().unwrap_or_default());
        Mark { sequence: self.sequence, changes, account: heard }
    }

    /// Whether its row is still made of the same; allocates nothing.
    pub(super) fn is_as_marked(&self, mark: &Mark) -> bool {
        if mark.sequence != self.sequence || mark.changes != self.changes.load(Ordering::Acquire) {
            return false;
        }
        match (self.heard(&self.view()), &mark.account) {
            (None, None) => true,
            (Some(connection), Some(account)) => connection.shows(account),
            _ => false,
        }
    }

    /// The connection, when messages can go over it.
    pub(super) fn live(&self) -> Result<Connection, SendError> {
        let view = self.view();
        match (&view.state, &view.connection) {
            (State::Connected, Some(connection)) if connection.is_live() => Ok(connection.clone()),
            (State::StoreFailed { .. }, _) => Err(SendError::Store),
            _ => Err(SendError::NotReady(self.name.clone())),
        }
    }

    pub(super) fn set_connection(&self, connection: Option<Connection>) {
        self.view.send_modify(|view| view.connection = connection);
        self.changed();
    }

    /// Takes a new state and commits the status event that the contract has for it.
    ///
    /// wa-gateway 4.7.1 tells each change, and `connecting` once more after a scan.
    pub(super) async fn set_state(self: &Arc<Self>, state: State) {
        self.set_state_until(state, None).await;
    }

    /// Takes the state that it was left in before the gateway started: nothing new, so nobody is told.
    pub(super) fn set_left_as(&self, state: State) {
        self.view.send_modify(|view| {
            if view.state.status() != state.status() {
                view.since = Utc::now();
            }
            (view.entered, view.state) = (Utc::now(), state);
        });
        self.changed();
    }

    /// The same as `set_state` for a state that is known to end at a certain time.
    pub(super) async fn set_state_until(self: &Arc<Self>, state: State, until: Option<DateTime<Utc>>) {
        if let Some(status) = self.enter(state, until) {
            self.tell(status).await;
        }
    }

    /// Takes a new state; the caller tells what it returns.
    pub(super) fn enter(&self, state: State, until: Option<DateTime<Utc>>) -> Option<Status> {
        let status = state.status();
        let mut told = None;
        if state == State::Connected {
            self.resuming.store(false, Ordering::Release);
        }
        self.view.send_if_modified(|view| {
            view.until = until;
            if view.state == state {
                return false;
            }
            let again = state == State::Pairing;
            let now = Utc::now();
            // A session that begins has told nothing yet: its first state is an event too.
            if view.state.status() != status || again {
                view.since = now;
                told = Some(status);
            }
            if !matches!(state, State::Starting | State::Connecting | State::Held(_)) {
                view.lost = None;
            }
            view.entered = now;
            view.state = state;
            true
        });
        self.changed();
        told
    }

    /// Notes why it is about to connect anew.
    pub(super) fn set_lost(&self, loss: Loss) {
        self.view.send_modify(|view| view.lost = Some(loss));
    }

    /// Makes those events durable that the webhook is to have; a message is acknowledged to WhatsApp after it only.
    pub(super) async fn commit(&self, events: Vec<(NewEvent, Option<Attachment>)>) -> Result<(), CommitError> {
        self.outbox.commit_with_files(events).await
    }

    /// Notes that somebody wants this session now.
    pub(super) fn ask(&self) {
        *lock(&self.asked) = Instant::now();
        self.nudge();
    }

    /// The code that is shown now. Notes that somebody looks at the session, without cutting a pause short.
    pub(super) fn look(&self) -> Option<String> {
        *lock(&self.asked) = Instant::now();
        match &self.view().state {
            State::WaitingForScan { code } => Some(code.clone()),
            _ => None,
        }
    }

    pub(super) fn asked(&self) -> Instant {
        *lock(&self.asked)
    }

    pub(super) fn set_task(&self, commands: mpsc::Sender<Command>, handle: JoinHandle<()>) {
        *lock(&self.task) = Some(Task { commands, handle });
    }

    /// The storage of the connection that is there or was last.
    pub(super) fn backend(&self) -> Option<Arc<SessionBackend>> {
        lock(&self.backend).clone()
    }

    /// Whether the store failed it: the storage of its connection says so before its task has closed that connection.
    pub(super) fn is_store_failed(&self) -> bool {
        let is_poisoned = || self.backend().is_some_and(|backend| backend.failed().is_cancelled());
        matches!(self.view().state, State::StoreFailed { .. }) || is_poisoned()
    }

    pub(super) fn set_backend(&self, backend: &Arc<SessionBackend>) {
        *lock(&self.backend) = Some(Arc::clone(backend));
    }

    pub(super) fn has_task(&self) -> bool {
        lock(&self.task).as_ref().is_some_and(|task| !task.handle.is_finished())
    }

    /// Cuts a pause short. A full channel has commands enough to wake the task.
    pub(super) fn nudge(&self) {
        if let Some(task) = lock(&self.task).as_ref() {
            let _full = task.commands.try_send(Command::Nudge);
        }
    }

    /// Whether it was started after a stop and has not connected since.
    pub(super) fn is_resuming(&self) -> bool {
        self.resuming.load(Ordering::Acquire)
    }

    /// Whether its phone, or WhatsApp, has ended it.
    pub(super) fn is_removed_by_phone(&self) -> bool {
        self.view().state == State::LoggedOut && self.record().ended.is_some_and(|ended| ended.by == EndedBy::Phone)
    }

    pub(super) fn set_resuming(&self, resuming: bool) {
        self.resuming.store(resuming, Ordering::Release);
    }

    /// Ends the task, with or without unlinking at WhatsApp, and waits for it; after the limit it is aborted.
    /// `Some(true)`: WhatsApp has unlinked it. `None`: there was no task that could have asked.
    ///
    /// Call while it is the name's turn.
    pub(super) async fn end_task(&self, limit: Duration, unlink: bool) -> Option<bool> {
        let mut task = lock(&self.task).take()?;
        let deadline = Instant::now() + limit;
        let (answer, answered) = oneshot::channel();
        let asked = tokio::time::timeout_at(deadline, task.commands.send(Command::End { unlink, answer })).await;
        let unlinked = match asked {
            Ok(Ok(())) => tokio::time::timeout_at(deadline, answered).await.ok().and_then(Result::ok),
            // It has ended by itself, or does not listen.
            Ok(Err(_)) | Err(_) => None,
        };
        if tokio::time::timeout_at(deadline, &mut task.handle).await.is_err() {
            tracing::error!(session = %self.name, "a session's task did not end in time and was aborted");
            task.handle.abort();
            let _aborted = task.handle.await;
        }
        // An orderly end has closed it; after an abort or a panic the library may still be writing.
        self.close_backend(limit).await;
        unlinked
    }

    /// Closes the storage of the last connection, so that nothing of it is written any more.
    pub(super) async fn close_backend(&self, limit: Duration) {
        let backend = lock(&self.backend).take();
        if let Some(backend) = backend
            && tokio::time::timeout(limit, backend.close()).await.is_err()
        {
            tracing::error!(session = %self.name, "a write of the session's storage did not end in time");
        }
    }

    /// Waits until the session shows a code or is connected.
    pub(super) async fn wait_started(&self, deadline: Instant) -> Result<Started, StartError> {
        let mut views = self.view.subscribe();
        loop {
            match &views.borrow_and_update().state {
                State::WaitingForScan { code } => return Ok(Started::Qr(code.clone())),
                State::Connected => return Ok(Started::Connected),
                State::Damaged(_) => return Err(StartError::Damaged),
                State::Stopped | State::Moved | State::LoggedOut => return Err(StartError::Ended),
                State::StoreFailed { .. } => {
                    return Err(StartError::Store(KvError::Engine("the session waits for its store".into())));
                }
                State::Starting | State::Idle | State::Pairing | State::Connecting | State::Held(_) => {}
            }
            if self.gone.load(Ordering::Acquire) {
                return Err(StartError::Ended);
            }
            match tokio::time::timeout_at(deadline, views.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(StartError::Ended),
                Err(_elapsed) => return Err(StartError::TimedOut),
            }
        }
    }

    /// Wakes those who wait, so that they see that the session is gone.
    pub(super) fn touch(&self) {
        self.view.send_modify(|_view| {});
    }
}

/// Keeps an entry for as long as its task runs.
pub(super) type Owner = Arc<Entry>;
