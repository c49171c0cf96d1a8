//! Committed events of one session that wait for delivery: durable, in order, each once by its event id.
//!
//! The session commits here before WhatsApp is told that we have a message; the webhook lane reads the head and removes
//! what is done. Nothing here knows HTTP. Lives in the session's outbox namespace and is dropped with it.
//!
//! A message with a file is committed with a note of where the file is, and is pending until its body is completed.
//!
//! Keys: `m` the counters · `e<seq>` an event · `i<event id>` its sequence number · `a<seq>` its last attempt ·
//! `f<seq>` the file that it waits for · `d<slot>` the ring of ids that were done lately. Every batch but the attempts' is conditional on `m`.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::event::SessionName;
use crate::message::Attachment;
use crate::store::{Batch, KeyRange, Kv, KvError, Namespace};

mod check;
mod event;
#[cfg(test)]
pub(crate) mod memory;
mod notice;
#[cfg(test)]
mod tests;

pub use check::check;
pub use event::{Ack, Entry, Kind, Kinds, NewEvent, event_id, message_body, session_body};
use event::{Attempt, Meta};
pub use notice::Notice;

/// How many ids of events that are done are remembered: more than WhatsApp's server replays after a lost ack.
pub const RECENT_IDS: usize = 1_000;

/// How often a batch is tried anew after another write came between: only a cancelled call's late write can.
const CONFLICT_TRIES: usize = 8;

/// How much waits in an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages.
    pub messages: u64,
    /// Status events, of sessions and of sent messages.
    pub statuses: u64,
    /// Bytes of all their bodies.
    pub bytes: u64,
}

impl Depth {
    /// Events of both kinds.
    pub fn events(self) -> u64 {
        self.messages + self.statuses
    }
}

/// One session's outbox; cheap to clone, all clones are the same one. At most one open per namespace.
#[derive(Clone, Debug)]
pub struct Outbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    session: SessionName,
    /// `None`: nothing is stored.
    place: Option<Place>,
    /// One permit, for the one lane that waits.
    committed: Notify,
    /// One permit, for the one task that fetches files.
    attached: Notify,
    /// Events whose files are still to come, as the store has them.
    pending: Mutex<BTreeSet<u64>>,
    depth: Mutex<Depth>,
    /// A tokio lock, for it is held over the write: that is what keeps the events in order.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
struct Place {
    kv: Arc<dyn Kv>,
    ns: Namespace,
}

#[derive(Debug, Default)]
struct State {
    meta: Meta,
    /// As it stands in the store; the condition of the next batch.
    stored: Option<Bytes>,
    recent: Recent,
    /// Whether the above is what the store holds: false while a write is under way and after one that failed.
    sound: bool,
    closed: bool,
}

impl Outbox {
    /// Opens the outbox of the session with this uid, with what waits in it from earlier runs.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn open(kv: Arc<dyn Kv>, uid: &str, session: SessionName) -> Result<Self, KvError> {
        let outbox = Self::build(session, Some(Place { kv, ns: Namespace::outbox(uid) }));
        if let Some(place) = &outbox.inner.place {
            outbox.load(place, &mut *outbox.inner.state.lock().await).await?;
        }
        Ok(outbox)
    }

    /// An outbox that stores nothing, for a gateway without a webhook: every commit returns at once.
    pub fn discarding(session: SessionName) -> Self {
        Self::build(session, None)
    }

    fn build(session: SessionName, place: Option<Place>) -> Self {
        let inner = Inner {
            session,
            place,
            committed: Notify::new(),
            attached: Notify::new(),
            pending: Mutex::default(),
            depth: Mutex::new(Depth::default()),
            state: tokio::sync::Mutex::new(State::default()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The session whose events wait here.
    pub fn session(&self) -> &SessionName {
        &self.inner.session
    }

    /// Makes events durable, all or none, in this order, and wakes the lane.
    ///
    /// An event whose id waits already or was done lately is left out. A cancelled call may or may not have committed
    /// all of them; committing them again is safe.
    ///
    /// # Errors
    /// [`KvError::Engine`]: whether they were committed is unknown. [`KvError::Fenced`]: after [`Outbox::close`].
    pub async fn commit(&self, events: Vec<NewEvent>) -> Result<(), KvError> {
        self.commit_with_files(events.into_iter().map(|event| (event, None)).collect()).await
    }

    /// The same for events of which some wait for a file: these are pending until [`Outbox::complete`].
    ///
    /// # Errors
    /// As [`Outbox::commit`].
    pub async fn commit_with_files(&self, events: Vec<(NewEvent, Option<Attachment>)>) -> Result<(), KvError> {
        let Some(place) = &self.inner.place else { return Ok(()) };
        if events.is_empty() {
            return Ok(());
        }
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(place, &mut state).await?;
            let fresh = Self::unknown(place, &state, &events).await?;
            if fresh.is_empty() {
                return Ok(());
            }
            let (mut meta, mut batch, now) = (state.meta, Batch::new(), Utc::now());
            let mut pending = Vec::new();
            for (event, file) in fresh {
                let seq = meta.add(event.kind, event.body.len());
                batch = batch
                    .put(event::event_key(seq), event.encode_row(now, file.is_some()))
                    .put(event::id_key(&event.event_id), Bytes::copy_from_slice(&seq.to_be_bytes()));
                if let Some(file) = file {
                    batch = batch.put(event::file_key(seq), event::file_value(file));
                    pending.push(seq);
                }
            }
            match self.write(place, &mut state, meta, batch).await {
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if !pending.is_empty() {
                        self.waiting().extend(pending);
                        self.inner.attached.notify_one();
                    }
                    self.inner.committed.notify_one();
                    return Ok(());
                }
            }
        }
        Err(KvError::Conflict)
    }

    /// Gives a pending event the body that it is to have now that its file is there or will never be, and wakes the lane.
    ///
    /// `None`: the body that it has. Nothing happens when it is done already.
    ///
    /// # Errors
    /// As [`Outbox::remove`].
    pub async fn complete(&self, seq: u64, body: Option<Bytes>) -> Result<(), KvError> {
        let Some(place) = &self.inner.place else { return Ok(()) };
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(place, &mut state).await?;
            let mut meta = state.meta;
            let mut batch = Batch::new().remove(event::file_key(seq));
            let row = place.kv.get(&place.ns, &event::event_key(seq)).await?;
            if let Some((event, at)) = row.as_ref().and_then(NewEvent::decode) {
                let body = body.clone().unwrap_or_else(|| event.body.clone());
                meta.replace(event.body.len(), body.len());
                let event = NewEvent { body, ..event };
                batch = batch.put(event::event_key(seq), event.encode_row(at, false));
            }
            match self.write(place, &mut state, meta, batch).await {
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

    /// Whether this event waits for its file.
    pub fn is_pending(&self, seq: u64) -> bool {
        self.waiting().contains(&seq)
    }

    /// A pending event with its file; `None`: it is done, or the note can't be read.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn file(&self, seq: u64) -> Result<Option<(NewEvent, Attachment)>, KvError> {
        let Some(place) = &self.inner.place else { return Ok(None) };
        let row = place.kv.get(&place.ns, &event::event_key(seq)).await?;
        let file = place.kv.get(&place.ns, &event::file_key(seq)).await?;
        let event = row.as_ref().and_then(NewEvent::decode).map(|(event, _at)| event);
        Ok(event.zip(file.and_then(|bytes| event::file_of(&bytes))))
    }

    /// Waits for an event with a file since the last call returned; for one waiter.
    pub async fn attached(&self) {
        self.inner.attached.notified().await;
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.inner.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest `n` events, oldest first.
    ///
    /// # Errors
    /// When the store can't be read. An entry that can't be understood is dropped with an error line.
    pub async fn head(&self, n: usize) -> Result<Vec<Entry>, KvError> {
        self.entries(prefix(b'e', n)).await
    }

    /// The oldest `n` events behind this one, oldest first.
    ///
    /// # Errors
    /// As [`Outbox::head`].
    pub async fn after(&self, seq: u64, n: usize) -> Result<Vec<Entry>, KvError> {
        self.entries(KeyRange { start: Bound::Excluded(event::event_key(seq)), ..prefix(b'e', n) }).await
    }

    /// One event, if it still waits.
    ///
    /// # Errors
    /// As [`Outbox::head`].
    pub async fn entry(&self, seq: u64) -> Result<Option<Entry>, KvError> {
        let key = event::event_key(seq);
        let range =
            KeyRange { start: Bound::Included(key.clone()), end: Bound::Included(key), reverse: false, limit: 1 };
        Ok(self.entries(range).await?.pop())
    }

    async fn entries(&self, range: KeyRange) -> Result<Vec<Entry>, KvError> {
        let Some(place) = &self.inner.place else { return Ok(Vec::new()) };
        let rows = place.kv.range(&place.ns, range).await?;
        let attempts: Vec<Bytes> = rows.iter().map(|(key, _)| event::attempt_key_of(key)).collect();
        let attempts = place.kv.get_many(&place.ns, &attempts).await?;
        let mut entries = Vec::with_capacity(rows.len());
        for ((key, value), attempt) in rows.into_iter().zip(attempts) {
            let attempt = attempt.and_then(|bytes| Attempt::decode(&bytes)).unwrap_or_default();
            if let Some(entry) = event::seq_of(&key).and_then(|seq| Entry::decode(seq, &value, attempt)) {
                entries.push(entry);
            } else {
                tracing::error!(session = %self.inner.session, "an unreadable entry of the outbox was dropped");
                let gone =
                    Batch::new().remove(event::attempt_key_of(&key)).remove(event::file_key_of(&key)).remove(key);
                place.kv.write(&place.ns, gone).await?;
            }
        }
        Ok(entries)
    }

    /// Waits for a commit since the last call returned; for one waiter, the lane.
    pub async fn committed(&self) {
        self.inner.committed.notified().await;
    }

    /// Takes out an event that is done, delivered or not, and remembers its id for a while. Durable when it returns.
    ///
    /// # Errors
    /// [`KvError::Engine`]: whether it is out is unknown; removing it again is safe.
    pub async fn remove(&self, entry: &Entry) -> Result<(), KvError> {
        let Some(place) = &self.inner.place else { return Ok(()) };
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(place, &mut state).await?;
            let key = event::event_key(entry.seq);
            if place.kv.get(&place.ns, &key).await?.is_none() {
                return Ok(());
            }
            let mut meta = state.meta;
            let turn = meta.take(entry.event.kind, entry.event.body.len());
            let batch = Batch::new()
                .remove(key)
                .remove(event::id_key(&entry.event.event_id))
                .remove(event::attempt_key(entry.seq))
                .remove(event::file_key(entry.seq))
                .put(event::recent_key(turn, RECENT_IDS), event::recent_value(turn, &entry.event.event_id));
            match self.write(place, &mut state, meta, batch).await {
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.waiting().remove(&entry.seq);
                    state.recent.push(entry.event.event_id.clone());
                    return Ok(());
                }
            }
        }
        Err(KvError::Conflict)
    }

    /// Notes a failed attempt, so that a restart goes on where it was; may be lost with the process.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn mark_attempt(&self, seq: u64, next_at: DateTime<Utc>, attempts: u32) -> Result<(), KvError> {
        let Some(place) = &self.inner.place else { return Ok(()) };
        let value = Attempt { count: attempts, next_at_ms: next_at.timestamp_millis() }.encode();
        place.kv.write(&place.ns, Batch::new().put(event::attempt_key(seq), value).buffered()).await
    }

    /// How much waits, from memory.
    pub fn depth(&self) -> Depth {
        *self.inner.depth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses every later commit and removal, so that nothing comes back once the namespace is dropped.
    pub async fn close(&self) {
        self.inner.state.lock().await.closed = true;
    }

    /// Those that neither wait nor were done lately, and each once.
    async fn unknown<'a>(
        place: &Place,
        state: &State,
        events: &'a [(NewEvent, Option<Attachment>)],
    ) -> Result<Vec<&'a (NewEvent, Option<Attachment>)>, KvError> {
        let keys: Vec<Bytes> = events.iter().map(|(event, _file)| event::id_key(&event.event_id)).collect();
        let waiting = place.kv.get_many(&place.ns, &keys).await?;
        let mut seen = HashSet::new();
        let is_new = |event: &NewEvent| !state.recent.contains(&event.event_id);
        let pairs = events.iter().zip(waiting);
        Ok(pairs
            .filter(|((event, _), waits)| waits.is_none() && is_new(event) && seen.insert(event.event_id.as_str()))
            .map(|(pair, _waits)| pair)
            .collect())
    }

    /// Writes a batch that turns the counters into `meta`, if they are still what we think.
    async fn write(&self, place: &Place, state: &mut State, meta: Meta, batch: Batch) -> Result<(), KvError> {
        let bytes = meta.encode();
        let batch = batch.expect(event::META_KEY, state.stored.clone()).put(event::META_KEY, bytes.clone());
        state.sound = false;
        place.kv.write(&place.ns, batch).await?;
        (state.meta, state.stored, state.sound) = (meta, Some(bytes), true);
        self.publish(meta);
        Ok(())
    }

    async fn make_sound(&self, place: &Place, state: &mut State) -> Result<(), KvError> {
        if state.closed {
            return Err(KvError::Fenced);
        }
        if state.sound { Ok(()) } else { self.load(place, state).await }
    }

    async fn load(&self, place: &Place, state: &mut State) -> Result<(), KvError> {
        state.stored = place.kv.get(&place.ns, event::META_KEY).await?;
        state.meta = match &state.stored {
            None => Meta::default(),
            Some(bytes) => {
                Meta::decode(bytes).ok_or_else(|| KvError::Engine("outbox counters are unreadable".into()))?
            }
        };
        let ring = place.kv.range(&place.ns, prefix(b'd', RECENT_IDS)).await?;
        let mut ring: Vec<_> = ring.iter().filter_map(|(_, value)| event::recent_of(value)).collect();
        ring.sort_unstable();
        state.recent = Recent::default();
        for (_, id) in ring {
            state.recent.push(id);
        }
        let files = place.kv.range(&place.ns, prefix(b'f', usize::MAX)).await?;
        *self.waiting() = files.iter().filter_map(|(key, _)| event::seq_of(key)).collect();
        state.sound = true;
        // A write that failed half-way may have brought something new.
        self.inner.attached.notify_one();
        self.inner.committed.notify_one();
        self.publish(state.meta);
        Ok(())
    }

    fn publish(&self, meta: Meta) {
        *self.inner.depth.lock().unwrap_or_else(PoisonError::into_inner) = meta.depth;
    }
}

/// The last [`RECENT_IDS`] ids that were done.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<String>,
    ids: HashSet<String>,
}

impl Recent {
    fn push(&mut self, id: String) {
        if self.ids.insert(id.clone()) {
            self.order.push_back(id);
        }
        if self.order.len() > RECENT_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}

/// The first `limit` keys that begin with this byte.
fn prefix(first: u8, limit: usize) -> KeyRange {
    KeyRange {
        start: Bound::Included(Bytes::copy_from_slice(&[first])),
        end: Bound::Excluded(Bytes::copy_from_slice(&[first + 1])),
        reverse: false,
        limit,
    }
}
