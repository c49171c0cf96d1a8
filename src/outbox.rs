//! Committed events of one session that wait for delivery: durable, in order, each once by its event id.
//!
//! The session commits here before WhatsApp is told that we have a message; the webhook lane reads the head and removes
//! what is done (`queue`), or buries what nobody takes (`dead`). Nothing here knows HTTP. Lives in the session's outbox
//! namespace and is dropped with it.
//!
//! A message with a file is committed with a note of where the file is, and is pending until its body is completed.
//! A full outbox sheds its oldest events that are no messages; full of messages, it refuses more.
//!
//! Keys: `m` the counters · `e<seq>` an event · `i<event id>` its sequence number, of older releases only · `a<seq>` its last
//! attempt · `f<seq>` the file that it waits for · `s<seq>` that it may be shed · `r<place>` sixteen ids that were done lately ·
//! `x<time><seq>` a dead letter · `y<event id>` its key. What a batch is conditional on, see `state`.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::event::SessionName;
use crate::message::Attachment;
use crate::store::{Batch, KeyRange, Kv, KvError, Namespace};

mod check;
mod dead;
mod done;
mod event;
mod key;
#[cfg(test)]
pub(crate) mod memory;
mod notice;
mod queue;
mod room;
mod shared;
mod state;
mod target;
#[cfg(test)]
mod tests;

pub use check::{check, is_event};
pub use dead::{Cause, DeadKey, DeadLetter, Pick, Revived};
pub use event::{Ack, Entry, Kind, Kinds, NewEvent, event_id, message_body, session_body};
pub use notice::Notice;
pub use shared::{Bounds, Common};
pub use target::Target;

use event::{Meta, Notes};
use state::State;

/// How many ids of events that are done are remembered: more than WhatsApp's server replays after a lost ack.
pub const RECENT_IDS: usize = 1_000;

/// How often a batch is tried anew after another write came between: only a cancelled call's late write can.
const CONFLICT_TRIES: usize = 8;

/// The counters of an outbox are there, and make no sense.
#[derive(Debug, thiserror::Error)]
#[error("the counters of an outbox are unreadable")]
struct Unreadable;

/// Why events were not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It is full of messages.
    #[error("the outbox is full of messages that nobody takes")]
    Full,
    /// The store refused.
    #[error("the store refused")]
    Store(#[from] KvError),
}

/// How much waits in an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages.
    pub messages: u64,
    /// Events that are no messages.
    pub statuses: u64,
    /// Bytes of all their bodies.
    pub bytes: u64,
}

impl Depth {
    /// Events of all kinds.
    pub fn events(self) -> u64 {
        self.messages + self.statuses
    }
}

/// What has become of a session's events; kept over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken by the receiver.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Dropped by a full outbox, or because they had grown too old.
    pub shed: u64,
    /// Dead letters that are kept.
    pub dead: u64,
    /// Bytes of their bodies.
    pub dead_bytes: u64,
    /// Dead letters that were dropped because there were too many or they were too old.
    pub dead_dropped: u64,
}

/// One session's outbox; cheap to clone, all clones are the same one. At most one open per namespace.
#[derive(Clone, Debug)]
pub struct Outbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    session: SessionName,
    common: Arc<Common>,
    kv: Arc<dyn Kv>,
    ns: Namespace,
    /// `None`: events go to the gateway's own receiver.
    target: Mutex<Option<Arc<Target>>>,
    /// One permit, for the one lane that waits.
    committed: Notify,
    /// Whether it was read since it was made.
    is_read: AtomicBool,
    generation: AtomicU64,
    /// One permit, for the lane too.
    retargeted: Notify,
    /// One permit, for the one task that fetches files.
    attached: Notify,
    /// Events whose files are still to come, as the store has them.
    pending: Mutex<BTreeSet<u64>>,
    /// Until when somebody has said that files are being fetched.
    fetching: Mutex<Option<Instant>>,
    /// Whether an event that waits may have an attempt noted beside it.
    attempted: AtomicBool,
    meta: Mutex<Meta>,
    /// Failed attempts that the next batch counts which writes the counters.
    failed: AtomicU64,
    /// Messages are refused until the session says that WhatsApp sends them anew, in their order.
    refusing: AtomicBool,
    /// Whether the log was told that events are shed.
    shedding: AtomicBool,
    /// A tokio lock, for it is held over the write: that is what keeps the events in order.
    state: tokio::sync::Mutex<State>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let bytes = self.meta.get_mut().unwrap_or_else(PoisonError::into_inner).depth.bytes;
        self.common.leave(bytes);
    }
}

/// An event with the file that it waits for.
type WithFile = (NewEvent, Option<Attachment>);

impl Outbox {
    /// The outbox of the session with this uid, with what waits in it from earlier runs; read at first use.
    pub fn new(common: &Arc<Common>, kv: Arc<dyn Kv>, uid: &str, session: SessionName, target: Option<Target>) -> Self {
        common.enter();
        let inner = Inner {
            session,
            common: Arc::clone(common),
            kv,
            ns: Namespace::outbox(uid),
            target: Mutex::new(target.map(Arc::new)),
            is_read: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            committed: Notify::new(),
            retargeted: Notify::new(),
            attached: Notify::new(),
            pending: Mutex::default(),
            fetching: Mutex::default(),
            attempted: AtomicBool::new(false),
            meta: Mutex::default(),
            failed: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            shedding: AtomicBool::new(false),
            state: tokio::sync::Mutex::new(State::default()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Reads it, if that was not done yet; the depth is told only after it. `false`: what is stored makes no sense.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn make_ready(&self) -> Result<bool, KvError> {
        if self.inner.is_read.load(Ordering::Acquire) {
            return Ok(true);
        }
        match self.make_sound(&mut *self.inner.state.lock().await).await {
            Ok(()) => Ok(true),
            Err(KvError::Engine(source)) if source.is::<Unreadable>() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same as [`Outbox::new`], and reads it.
    ///
    /// # Errors
    /// When the store can't be read, or what it holds makes no sense.
    pub async fn open(
        common: &Arc<Common>,
        kv: Arc<dyn Kv>,
        uid: &str,
        session: SessionName,
        target: Option<Target>,
    ) -> Result<Self, KvError> {
        let outbox = Self::new(common, kv, uid, session, target);
        if outbox.make_ready().await? { Ok(outbox) } else { Err(KvError::engine(Unreadable)) }
    }

    /// The session whose events wait here.
    pub fn session(&self) -> &SessionName {
        &self.inner.session
    }

    /// The session's own receiver; `None`: the gateway's.
    pub fn target(&self) -> Option<Arc<Target>> {
        lock(&self.inner.target).clone()
    }

    /// From now on everything goes there, what waits too.
    pub fn set_target(&self, target: Option<Target>) {
        *lock(&self.inner.target) = target.map(Arc::new);
        self.inner.generation.fetch_add(1, Ordering::AcqRel);
        self.inner.retargeted.notify_one();
    }

    /// How often the receiver was changed.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Waits for another receiver since the last call returned; for one waiter, the lane.
    pub async fn retargeted(&self) {
        self.inner.retargeted.notified().await;
    }

    /// Whether anybody takes the session's events.
    pub fn has_receiver(&self) -> bool {
        lock(&self.inner.target).is_some() || self.inner.common.has_receiver
    }

    /// Whether events of this kind are kept.
    pub fn wants(&self, kind: Kind) -> bool {
        self.inner.common.wants(self.target().as_deref(), kind)
    }

    /// Makes events durable, in this order, and wakes the lane.
    ///
    /// An event whose id waits already or was done lately is left out, and so is a kind that no receiver wants. A cancelled
    /// call, and a process that ends, may have committed the first of them, or all; committing them again is safe.
    ///
    /// # Errors
    /// [`CommitError::Full`]: there is no room; from now on every message is refused until [`Outbox::resume`].
    /// [`KvError::Engine`]: whether they were committed is unknown. [`KvError::Fenced`]: after [`Outbox::close`].
    pub async fn commit(&self, events: Vec<NewEvent>) -> Result<(), CommitError> {
        self.commit_with_files(events.into_iter().map(|event| (event, None)).collect()).await
    }

    /// The same for events of which some wait for a file: these are pending until [`Outbox::complete`].
    ///
    /// # Errors
    /// As [`Outbox::commit`].
    pub async fn commit_with_files(&self, mut events: Vec<WithFile>) -> Result<(), CommitError> {
        events.retain(|(event, _file)| self.wants(event.kind));
        if events.is_empty() {
            return Ok(());
        }
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(&mut state).await?;
            let fresh = unknown(&state, &events);
            if fresh.is_empty() {
                return Ok(());
            }
            let (mut meta, mut batch, now) = (state.meta, Batch::new(), Utc::now());
            let mut gone = Vec::new();
            let Some(fresh) = self.make_room(&mut meta, (&mut batch, &mut gone), fresh).await? else {
                return Err(CommitError::Full);
            };
            let counts_more = meta != state.meta || !state.is_marked();
            let (mut pending, mut new) = (Vec::new(), Vec::with_capacity(fresh.len()));
            batch.loose = !counts_more;
            for (event, file) in fresh {
                let seq = meta.add(event.kind, event.body.len());
                new.push((&event.event_id, seq));
                batch.loose &= file.is_none() && !event.kind.may_be_shed();
                batch = put_event(
                    batch,
                    seq,
                    event,
                    event.encode_row(now, Notes { pending: file.is_some(), ..Notes::default() }),
                );
                if let Some(file) = file {
                    batch = batch.put(key::file_key(seq), key::file_value(file));
                    pending.push(seq);
                }
            }
            let written = if counts_more {
                self.write(&mut state, meta, batch).await
            } else {
                self.write_new(&mut state, meta, batch).await
            };
            match written {
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    for id in &gone {
                        state.waiting.remove(id);
                    }
                    for (id, seq) in new {
                        state.waiting.add(id, seq);
                    }
                    if !pending.is_empty() {
                        self.waiting().extend(pending);
                        self.inner.attached.notify_one();
                    }
                    self.inner.committed.notify_one();
                    return Ok(());
                }
            }
        }
        Err(KvError::Conflict.into())
    }

    /// Gives a pending event the body that it is to have now that its file is there or will never be, and wakes the lane.
    ///
    /// `None`: the body that it has. Nothing happens when it is done already.
    ///
    /// # Errors
    /// As [`Outbox::remove`].
    pub async fn complete(&self, seq: u64, body: Option<Bytes>) -> Result<(), KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(&mut state).await?;
            let mut meta = state.meta;
            let mut batch = Batch::new().remove(key::file_key(seq));
            let row = kv.get(ns, &key::event_key(seq)).await?;
            if let Some((event, at)) = row.as_ref().and_then(NewEvent::decode) {
                let body = body.clone().unwrap_or_else(|| event.body.clone());
                meta.replace(event.body.len(), body.len());
                let event = NewEvent { body, ..event };
                batch = batch.put(key::event_key(seq), event.encode_row(at, Notes::default()));
            }
            match self.write(&mut state, meta, batch).await {
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.waiting().remove(&seq);
                    self.inner.committed.notify_one();
                    return Ok(());
                }
            }
        }
        Err(KvError::Conflict)
    }

    /// Sequence numbers of the events that wait for their files, oldest first.
    pub fn pending(&self) -> Vec<u64> {
        self.waiting().iter().copied().collect()
    }

    /// The oldest event that waits for its file and is not taken.
    pub fn next_pending(&self, is_taken: impl Fn(u64) -> bool) -> Option<u64> {
        self.waiting().iter().copied().find(|seq| !is_taken(*seq))
    }

    /// Tells that files are being fetched, at least until then.
    pub fn fetching(&self, until: Instant) {
        *lock(&self.inner.fetching) = Some(until);
    }

    /// Whether files are being fetched, one after the other.
    pub fn is_fetching(&self) -> bool {
        lock(&self.inner.fetching).is_some_and(|until| until > Instant::now())
    }

    /// Whether this event waits for its file.
    pub fn is_pending(&self, seq: u64) -> bool {
        self.waiting().contains(&seq)
    }

    /// A pending event with its file; `None`: it is done, or the note can't be read.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn file(&self, seq: u64) -> Result<Option<(NewEvent, Attachment)>, KvError> {
        let Inner { kv, ns, .. } = &*self.inner;
        let row = kv.get(ns, &key::event_key(seq)).await?;
        let file = kv.get(ns, &key::file_key(seq)).await?;
        let event = row.as_ref().and_then(NewEvent::decode).map(|(event, _at)| event);
        Ok(event.zip(file.and_then(|bytes| key::file_of(&bytes))))
    }

    /// Waits for an event with a file since the last call returned; for one waiter.
    pub async fn attached(&self) {
        self.inner.attached.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        lock(&self.inner.pending)
    }

    /// How much waits, from memory.
    pub fn depth(&self) -> Depth {
        lock(&self.inner.meta).depth
    }

    /// What has become of the session's events, from memory.
    pub fn counts(&self) -> Counts {
        let counts = lock(&self.inner.meta).counts;
        Counts { failed: counts.failed + self.inner.failed.load(Ordering::Relaxed), ..counts }
    }

    /// Refuses every later commit and removal, so that nothing comes back once the namespace is dropped.
    pub async fn close(&self) {
        *self.inner.state.lock().await = State { closed: true, ..State::default() };
        self.inner.let_go();
    }
}

/// Those that neither wait nor were done lately, and each once.
fn unknown<'a>(state: &State, events: &'a [WithFile]) -> Vec<&'a WithFile> {
    let mut seen = HashSet::new();
    let is_new = |id: &str| !state.waiting.contains(id) && !state.recent.contains(id);
    events.iter().filter(|(event, _file)| is_new(&event.event_id) && seen.insert(event.event_id.as_str())).collect()
}

impl Inner {
    /// What a deleted session's outbox held takes no room any more.
    fn let_go(&self) {
        let before = std::mem::take(&mut *lock(&self.meta));
        self.common.count(before.depth.bytes, 0);
        self.refusing.store(false, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds the rows of an event; its files' rows are the caller's.
fn put_event(batch: Batch, seq: u64, event: &NewEvent, row: Bytes) -> Batch {
    let batch = batch.put(key::event_key(seq), row);
    if event.kind.may_be_shed() { batch.put(key::shed_key(seq), Bytes::new()) } else { batch }
}

/// Adds the removal of all rows of an event.
fn remove_event(batch: Batch, seq: u64, event_id: &str) -> Batch {
    batch
        .remove(key::event_key(seq))
        .remove(key::id_key(event_id))
        .remove(key::attempt_key(seq))
        .remove(key::file_key(seq))
        .remove(key::shed_key(seq))
}

/// The first `limit` keys that begin with this byte.
fn prefix(first: u8, limit: usize) -> KeyRange {
    KeyRange {
        start: Bound::Included(Bytes::copy_from_slice(&[first])),
        end: Bound::Excluded(Bytes::copy_from_slice(&[first + 1])),
        limit,
    }
}
