//! The live sessions: who they are, what state they are in, and the verbs on them.
//!
//! `SessionManager` is the registry that HTTP handlers ask; each session has one owner task (`task`). `send` is the one
//! way of every message, `end` has stop, logout and delete, `restore` what a start of the gateway does; `turn` puts the verbs on one name in order.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::{SessionName, Status};
use crate::ledger::{Ledger, Limits};
use crate::media::{Fetcher, Folder};
use crate::metrics::Metrics;
use crate::outbox::{self, Notice, Outbox};
use crate::store::backend::SessionBackend;
use crate::store::registry::{AccountDetails, RecordState, Registry, SessionRecord};
use crate::store::{Flushing, Kv, KvError, Namespace};
use crate::whatsapp::WhatsApp;

mod backlog;
mod end;
mod entry;
mod export;
mod follow;
mod list;
mod media;
mod once;
mod poll;
mod restore;
mod send;
mod state;
mod task;
mod turn;
mod webhook;

pub use backlog::Backlog;
pub use end::EndError;
pub use export::ExportError;
pub use follow::MessageError;
pub use once::{Answer, OnceError, Repeat, Spelling};
pub use restore::Restoring;
pub use send::{ProfileError, SendError};
pub use webhook::{Delivery, SessionWebhook, WebhookError};

use entry::{Entry, View};
use follow::Follow;
use state::State;
use turn::Turns;

/// The account behind a session, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Push name; empty when unknown.
    pub name: String,
    /// Own phone number, digits only; empty when unknown.
    pub phone_number: String,
}

/// One row of the session list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its name.
    pub session: SessionName,
    /// Its status, as the socket says.
    pub status: Status,
    /// `None`: it never connected.
    pub details: Option<Details>,
    /// When the status last changed.
    pub since: DateTime<Utc>,
    /// The phone's platform as told at pairing (`android`, `iphone`, …), when known.
    pub platform: Option<String>,
    /// What lies behind the status.
    pub standing: Standing,
}

/// What lies behind a status, in words of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What the session is doing, or why it does nothing: `waiting_for_scan`, `banned`, `stopped`, …
    pub state: &'static str,
    /// Why, where the state alone does not tell: `connection_lost`, `by_phone`, `code_409`, …
    pub reason: Option<Cow<'static, str>>,
    /// Since when it is in this state.
    pub since: DateTime<Utc>,
    /// When the state ends by itself, where that is known: a code, a ban.
    pub until: Option<DateTime<Utc>>,
}

/// What a start came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// Waits for a scan of this code.
    Qr(String),
    /// Had credentials and is connected.
    Connected,
}

/// Why a start gave neither.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The session is paired and alive.
    #[error("Session already exist")]
    AlreadyExists,
    /// No QR and no connection within the time; the start goes on, unless the session can't be stored.
    #[error("WhatsApp did not answer in time; the session keeps trying, ask again")]
    TimedOut,
    /// The session was deleted, logged out or stopped while we waited.
    #[error("Session was deleted, logged out or stopped while it was starting")]
    Ended,
    /// An export has moved it to another host.
    #[error("{MOVED}")]
    Moved,
    /// What is stored of its device can't be read: it may not log in, and no other takes its place unasked.
    #[error(
        "Stored data of this session is damaged: stop the gateway and bring a backup back with `wa-gateway restore`, or delete the session and link it again"
    )]
    Damaged,
    /// The gateway is shutting down.
    #[error("The gateway is shutting down")]
    ShuttingDown,
    /// The store refused.
    #[error("The session store is not available")]
    Store(#[from] KvError),
}

/// What is told of a session that an export has moved.
const MOVED: &str = "Session was moved to another host by wa-gateway export and runs there; wa-gateway import of its newest export brings it back";

/// How the manager behaves; plain values from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Numbers are looked up before a message goes to them.
    pub check_numbers: bool,
    /// Longest wait of a start for a code or a connection.
    pub start_timeout: Duration,
    /// Longest time of a send, the typing phase included.
    pub send_timeout: Duration,
    /// How long codes are renewed after somebody last asked for one.
    pub qr_idle: Duration,
    /// What is kept of sent messages.
    pub sent: Limits,
    /// It is noted which session received a file, for callers who may see some sessions only.
    pub media_owners: bool,
    /// Restored sessions that dial at the same time.
    pub restore_concurrency: usize,
    /// The longest that a session counts as connected, or waits for a login, while nothing comes from WhatsApp.
    pub watchdog: Duration,
}

/// What counts the tasks of all sessions, and what ends them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// Counts all of them but sends.
    pub tracker: TaskTracker,
    /// Counts sends, which outlive the requests that asked for them; a stop waits for them before `token` ends the rest.
    pub requests: TaskTracker,
    /// Cancelled when the gateway is told to stop: no session is begun any more.
    pub stopping: CancellationToken,
    /// Cancelled when all sessions are to end.
    pub token: CancellationToken,
}

/// The registry of live sessions; cheap to clone.
#[derive(Clone)]
pub struct SessionManager(Arc<Manager>);

struct Manager {
    settings: Settings,
    kv: Arc<dyn Kv>,
    registry: Registry,
    whatsapp: WhatsApp,
    fetcher: Fetcher,
    /// To the webhook sink.
    notices: mpsc::Sender<Notice>,
    /// What all outboxes share.
    outboxes: Arc<outbox::Common>,
    metrics: Metrics,
    sessions: Mutex<Sessions>,
    /// Held to take or to replace it, never while the list is made.
    listed: Mutex<Option<list::Listed>>,
    /// Counts whatever changes a row of the list, or which rows there are.
    changes: Arc<AtomicU64>,
    turns: Turns,
    /// Held while a name is reserved: names reserved at once would meet at the registry's counter.
    reserving: tokio::sync::Mutex<()>,
    restoring: Arc<Semaphore>,
    files: media::Files,
    tracker: TaskTracker,
    requests: TaskTracker,
    stopping: CancellationToken,
    token: CancellationToken,
}

#[derive(Default)]
struct Sessions {
    by_name: HashMap<SessionName, Arc<Entry>>,
    /// By sequence number: the contract lists first seen first.
    in_order: BTreeMap<u64, Arc<Entry>>,
}

impl fmt::Debug for SessionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionManager")
            .field("settings", &self.0.settings)
            .field("fetcher", &self.0.fetcher)
            .finish_non_exhaustive()
    }
}

/// The longest that the end of a session's task may take: an unlinking that is not heard 4 s, closing 3 s, logging in once
/// more 4 s, unlinking 4 s, closing 3 s, and some.
const END_TIMEOUT: Duration = Duration::from_secs(25);

impl SessionManager {
    /// Makes the manager; received files go to `folder`, sessions come with [`restore`](Self::restore) and [`start`](Self::start).
    pub fn new(
        settings: Settings,
        kv: Arc<dyn Kv>,
        whatsapp: WhatsApp,
        fetcher: Fetcher,
        (notices, outboxes): (mpsc::Sender<Notice>, Arc<outbox::Common>),
        metrics: Metrics,
        Tasks { tracker, requests, stopping, token }: Tasks,
    ) -> Self {
        let restoring = Arc::new(Semaphore::new(settings.restore_concurrency.max(1)));
        let registry = Registry::new(Arc::clone(&kv));
        let files = media::Files::new(Folder::new(&*fetcher.folder()), fetcher.max_bytes(), settings.media_owners);
        Self(Arc::new(Manager {
            settings,
            kv,
            registry,
            whatsapp,
            fetcher,
            notices,
            outboxes,
            metrics,
            sessions: Mutex::default(),
            listed: Mutex::default(),
            changes: Arc::default(),
            turns: Turns::default(),
            reserving: tokio::sync::Mutex::new(()),
            restoring,
            files,
            tracker,
            requests,
            stopping,
            token,
        }))
    }

    /// All listed sessions, first seen first.
    pub fn list(&self) -> Vec<SessionSummary> {
        self.lock().in_order.values().map(|entry| entry.summary()).collect()
    }

    /// One listed session.
    pub fn find(&self, name: &str) -> Option<SessionSummary> {
        self.entry(name).map(|entry| entry.summary())
    }

    /// The code that a session shows now, for whoever keeps looking: as long as somebody does, codes are renewed.
    ///
    /// `None`: it waits for no scan.
    pub fn code(&self, name: &str) -> Option<String> {
        self.entry(name)?.look()
    }

    /// Starts a session, or hands out the current QR of one that waits for a scan.
    ///
    /// A cancelled call leaves the start going on.
    ///
    /// # Errors
    /// By [`StartError`]; after `TimedOut` the start goes on, unless the session can't be stored.
    pub async fn start(&self, name: SessionName) -> Result<Started, StartError> {
        let deadline = Instant::now() + self.0.settings.start_timeout;
        let started = async {
            match self.begin_and_wait(&name, deadline).await {
                // It had been stopped, and its phone had removed it meanwhile: it begins with a code as any other.
                Err(StartError::Ended)
                    if self.entry(name.as_str()).is_some_and(|entry| entry.is_removed_by_phone()) =>
                {
                    self.begin_and_wait(&name, deadline).await
                }
                started => started,
            }
        };
        tokio::select! {
            biased;
            started = started => started,
            // Nobody could scan the code of a gateway that stops.
            () = self.0.stopping.cancelled() => Err(StartError::ShuttingDown),
        }
    }

    async fn begin_and_wait(&self, name: &SessionName, deadline: Instant) -> Result<Started, StartError> {
        let (manager, name) = (self.clone(), name.clone());
        // On a task of its own: a client that hangs up must not leave a session half begun.
        let begun = self.0.tracker.spawn(async move { manager.begin(name).await });
        match tokio::time::timeout_at(deadline, begun).await {
            Err(_elapsed) => Err(StartError::TimedOut),
            Ok(Ok(begun)) => begun?.wait_started(deadline).await,
            Ok(Err(error)) => resume(error),
        }
    }

    /// The next code of a session that is being started; begins nothing.
    ///
    /// # Errors
    /// By [`StartError`]; `Ended` also when it was ended before, or never was.
    pub async fn renew(&self, name: &str) -> Result<Started, StartError> {
        let deadline = Instant::now() + self.0.settings.start_timeout;
        let entry = self.entry(name).ok_or(StartError::Ended)?;
        entry.ask();
        tokio::select! {
            biased;
            started = entry.wait_started(deadline) => started,
            () = self.0.stopping.cancelled() => Err(StartError::ShuttingDown),
        }
    }

    /// Makes sure that the session is stored and has a running task, and says that somebody waits for it.
    async fn begin(&self, name: SessionName) -> Result<Arc<Entry>, StartError> {
        let turn = self.0.turns.take(name.as_str()).await;
        if self.0.stopping.is_cancelled() {
            return Err(StartError::ShuttingDown);
        }
        let (entry, flushing) = self.create(&name).await?;
        let Some(flushing) = flushing else {
            return self.launch(&entry, false).await.map(|()| entry);
        };
        // A new one dials while the disk works. It is not listed before it is stored, so nobody sees its code until then.
        let stored = async { flushing.await.inspect(|()| self.enlist(&entry)) };
        let (stored, launched) = tokio::join!(biased; stored, self.launch(&entry, true));
        if let Err(error) = stored {
            let manager = self.clone();
            // Nobody waits for a connection that may be slow to close, but the next start of the name.
            self.0.tracker.spawn(async move {
                let _turn = turn;
                manager.abandon(&entry).await;
            });
            return Err(error.into());
        }
        launched.map(|()| entry)
    }

    /// Makes sure that a session has a running task. `is_new`: nothing was ever stored of it. Call while it is the name's
    /// turn.
    async fn launch(&self, entry: &Arc<Entry>, is_new: bool) -> Result<(), StartError> {
        if entry.record().away {
            return Err(StartError::Moved);
        }
        entry.ask();
        // A start of the gateway may not have come to it yet.
        if !entry.has_task() && matches!(entry.view().state, State::Connecting | State::StoreFailed { .. }) {
            self.settle(entry).await?;
        }
        let state = entry.view().state.clone();
        if entry.has_task() && !state.is_over() {
            if matches!(state, State::StoreFailed { .. }) {
                return Err(StartError::Store(KvError::engine("the session waits for its store")));
            }
            if state.is_paired() && state != State::Pairing && !entry.is_resuming() {
                return Err(StartError::AlreadyExists);
            }
            return Ok(());
        }
        // What was just made begins with nothing, and is stored as one that is started.
        let linked = !is_new && self.begin_anew(entry, &state).await?;
        let told = entry.enter(if linked { State::Connecting } else { State::Starting }, None);
        tracing::info!(session = %entry.name, linked, "session starts");
        // Told while it dials. In this order: what the task tells comes after it, for commits are made as they are asked for.
        let tell = async {
            if let Some(status) = told {
                entry.tell(status).await;
            }
        };
        tokio::join!(biased; tell, async { task::spawn(&self.0, entry, None) });
        Ok(())
    }

    /// Has a session that was there before stored as one that is started; returns whether it is linked.
    async fn begin_anew(&self, entry: &Arc<Entry>, state: &State) -> Result<bool, StartError> {
        // One that WhatsApp logged out may be at its last steps.
        entry.end_task(END_TIMEOUT, false).await;
        let credentials = Namespace::credentials(&entry.uid);
        match self.damage_of(entry).await {
            Ok(None) => {}
            Ok(Some(damage)) => {
                entry.set_state(State::Damaged(damage)).await;
                return Err(StartError::Damaged);
            }
            Err(_) if matches!(*state, State::Damaged(_)) => return Err(StartError::Damaged),
            Err(error) => return Err(error.into()),
        }
        if *state == State::LoggedOut || entry.record().state == RecordState::LoggedOut {
            // A logout that could not remove the credentials leaves them void.
            self.0.kv.drop_namespace(&credentials).await?;
        }
        let linked = SessionBackend::new(Arc::clone(&self.0.kv), credentials, None).has_device().await?;
        let started = self.0.registry.update(&entry.uid, |record| {
            record.state = RecordState::Live;
            record.ended = None;
        });
        entry.set_record(started.await?.ok_or(StartError::Ended)?);
        entry.set_resuming(linked);
        Ok(linked)
    }

    /// The listed session of a name, or one that is made: that is listed here if it is stored already, else by whoever waits for
    /// that. Call while it is the name's turn.
    async fn create(&self, name: &SessionName) -> Result<(Arc<Entry>, Option<Flushing>), KvError> {
        if let Some(entry) = self.entry(name.as_str()) {
            return Ok((entry, None));
        }
        let (record, flushing) = {
            let _reserving = self.0.reserving.lock().await;
            self.0.registry.reserve(name).await?
        };
        let entry = self.make(record, State::LoggedOut);
        // Nothing is listed that could not be delivered.
        if !self.deliver(&entry).await? {
            return Err(KvError::engine("a new outbox can't be read"));
        }
        if flushing.is_none() {
            self.enlist(&entry);
        }
        Ok((entry, flushing))
    }

    /// An entry over what is stored of a session, of which nothing is read yet.
    fn make(&self, record: SessionRecord, state: State) -> Arc<Entry> {
        let (kv, target) = (Arc::clone(&self.0.kv), webhook::target(&record));
        let outbox = Outbox::new(&self.0.outboxes, kv, &record.uid, record.name.clone(), target);
        let ledger = Ledger::new(Arc::clone(&self.0.kv), &record.uid, self.0.settings.sent);
        let follow = Follow::new(ledger, self.0.tracker.clone(), self.0.token.clone());
        let is_ended = matches!(state, State::Stopped | State::LoggedOut);
        let since = record.ended.filter(|_ended| is_ended).map_or_else(Utc::now, |ended| ended.at);
        let changes = Arc::clone(&self.0.changes);
        Arc::new(Entry::new(record, View::new(state, since), outbox, follow, &self.0.settings, changes))
    }

    fn enlist(&self, entry: &Arc<Entry>) {
        let mut sessions = self.lock();
        sessions.by_name.insert(entry.name.clone(), Arc::clone(entry));
        sessions.in_order.insert(entry.sequence, Arc::clone(entry));
        self.0.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads a session's outbox, if that was not done yet, and attaches its delivery. `false`: what it holds makes no sense.
    /// Call while it is the name's turn.
    async fn deliver(&self, entry: &Arc<Entry>) -> Result<bool, KvError> {
        if entry.is_delivered.load(Ordering::Acquire) {
            return Ok(true);
        }
        if !entry.outbox.make_ready().await? {
            return Ok(false);
        }
        entry.is_delivered.store(true, Ordering::Release);
        // A sink that has ended is a gateway that stops; what is in the outbox is delivered after the next start.
        let opened = Notice::Opened { uid: entry.uid.clone(), outbox: entry.outbox.clone() };
        let _stopping = self.0.notices.send(opened).await;
        Ok(true)
    }

    fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.lock().by_name.get(name).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes a panic on; tasks of ours are not aborted.
fn resume<T>(error: tokio::task::JoinError) -> T {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("a verb was aborted: {error}"),
    }
}

impl From<AccountDetails> for Details {
    fn from(account: AccountDetails) -> Self {
        Self { name: account.name, phone_number: account.phone_number }
    }
}
