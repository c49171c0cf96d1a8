//! What waits in an outbox: its words, its ids and its bytes in the store.
//!
//! Pure; the layout of every value is here, of every key in `key`.

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Counts, Depth, Target};
use crate::event::{SessionName, Status};
use crate::message::{Incoming, Step};

/// The first byte of an encoded event: the layout's version.
const LAYOUT: u8 = 1;

/// The first byte of encoded counters. With 1, a release counted each event in them and gave it a place by them alone: it does not
/// open an outbox with 2, where it would write over events that wait.
pub(super) const COUNTERS_LAYOUT: u8 = 2;

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A session's status changed.
    Session,
    /// A message came in.
    Message,
    /// A message that was sent went a step further.
    Ack,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Message, Self::Session, Self::Ack];

    /// The kind of this path.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.path() == path)
    }

    /// Whether a full outbox may drop it: a later one, or a question, tells the same.
    pub fn may_be_shed(self) -> bool {
        match self {
            Self::Session | Self::Ack => true,
            Self::Message => false,
        }
    }

    /// The last part of the path that it is posted to.
    pub fn path(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Message => "message",
            Self::Ack => "ack",
        }
    }
}

/// Which events are kept for the webhook; the others are never committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Changes of status.
    pub session: bool,
    /// Received messages.
    pub message: bool,
    /// What becomes of sent messages.
    pub ack: bool,
}

impl Kinds {
    /// Whether events of this kind are kept.
    pub fn contains(self, kind: Kind) -> bool {
        match kind {
            Kind::Session => self.session,
            Kind::Message => self.message,
            Kind::Ack => self.ack,
        }
    }
}

impl Default for Kinds {
    /// What the original posts.
    fn default() -> Self {
        Self { session: true, message: true, ack: false }
    }
}

/// An event as it is posted.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Stays the same however often it is delivered.
    pub event_id: String,
    /// Says which path it is posted to.
    pub kind: Kind,
    /// The chat whose order it belongs to; `None`: the session's own.
    pub chat: Option<String>,
    /// JSON, members in the contract's order.
    pub body: Bytes,
}

impl std::fmt::Debug for NewEvent {
    /// Without the chat and the body: neither may get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewEvent").field("event_id", &self.event_id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// An event that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order.
    pub seq: u64,
    /// What is posted.
    pub event: NewEvent,
    /// When it was committed, or put back; its age decides when delivery is given up.
    pub committed_at: DateTime<Utc>,
    /// When it was committed first.
    pub first_at: DateTime<Utc>,
    /// Failed attempts so far.
    pub attempts: u32,
    /// Not to be tried before; `None`: not tried yet.
    pub next_at: Option<DateTime<Utc>>,
    /// Whether its file is still to come; until then the body says that it did not.
    pub pending: bool,
}

#[derive(Serialize, Deserialize)]
struct Head {
    id: String,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chat: Option<String>,
    at_ms: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pending: bool,
    /// When it was committed first, of one that was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_ms: Option<i64>,
    /// Where a farewell goes; waiting events go where their session says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
}

/// What a stored event says besides what is posted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Its file is still to come.
    pub(super) pending: bool,
    /// When it was committed first, of one that was put back.
    pub(super) first_ms: Option<i64>,
    /// Where a farewell goes.
    pub(super) target: Option<Target>,
}

impl NewEvent {
    /// A change of status, under a fresh id.
    pub fn status(session_uid: &str, session: &SessionName, status: Status) -> Self {
        let nonce = uuid::Uuid::new_v4();
        Self {
            event_id: event_id(session_uid, "", "", &nonce.simple().to_string(), Kind::Session.path()),
            kind: Kind::Session,
            chat: None,
            body: session_body(session, status),
        }
    }

    /// A received message, under its own id.
    pub fn message(incoming: &Incoming) -> Self {
        Self {
            event_id: incoming.event_id.clone(),
            kind: Kind::Message,
            chat: Some(incoming.from.clone()),
            body: message_body(incoming),
        }
    }

    /// A step of a sent message: the same step of the same message has the same id.
    pub fn ack(session_uid: &str, session: &SessionName, ack: &Ack) -> Self {
        let sender = ack.participant.as_deref().unwrap_or_default();
        let event_id = event_id(session_uid, &ack.to, sender, &ack.id, &format!("ack {}", ack.status.as_str()));
        let body = AckBody { session, ack, event_id: &event_id };
        let body = serde_json::to_vec(&body).expect("strings and numbers always serialise").into();
        Self { event_id, kind: Kind::Ack, chat: Some(ack.to.clone()), body }
    }

    /// As bytes for a store: layout version, length of the head, head as JSON, body.
    pub fn encode(&self, at: DateTime<Utc>) -> Bytes {
        self.encode_row(at, Notes::default())
    }

    /// The same, with where it goes.
    pub fn encode_to(&self, at: DateTime<Utc>, target: Option<&Target>) -> Bytes {
        self.encode_row(at, Notes { target: target.cloned(), ..Notes::default() })
    }

    pub(super) fn encode_row(&self, at: DateTime<Utc>, notes: Notes) -> Bytes {
        let (id, chat) = (self.event_id.clone(), self.chat.clone());
        let Notes { pending, first_ms, target } = notes;
        let head = Head { id, kind: self.kind, chat, at_ms: at.timestamp_millis(), pending, first_ms, target };
        framed(&head, &self.body)
    }

    /// From [`NewEvent::encode`]'s bytes, with the time given there; `None`: not understood.
    pub fn decode(bytes: &Bytes) -> Option<(Self, DateTime<Utc>)> {
        Self::decode_row(bytes).map(|(event, at, _notes)| (event, at))
    }

    /// From [`NewEvent::encode_to`]'s bytes.
    pub fn decode_to(bytes: &Bytes) -> Option<(Self, DateTime<Utc>, Option<Target>)> {
        Self::decode_row(bytes).map(|(event, at, notes)| (event, at, notes.target))
    }

    pub(super) fn decode_row(bytes: &Bytes) -> Option<(Self, DateTime<Utc>, Notes)> {
        let (head, body) = unframed::<Head>(bytes)?;
        let event = Self { event_id: head.id, kind: head.kind, chat: head.chat, body };
        let notes = Notes { pending: head.pending, first_ms: head.first_ms, target: head.target };
        Some((event, DateTime::from_timestamp_millis(head.at_ms)?, notes))
    }
}

/// Layout version, length of the head, head as JSON, body.
pub(super) fn framed(head: &impl Serialize, body: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).expect("a struct of strings and numbers always serialises");
    let mut bytes = BytesMut::with_capacity(5 + head.len() + body.len());
    bytes.put_u8(LAYOUT);
    bytes.put_u32(u32::try_from(head.len()).expect("ids, JIDs and URLs are far below 4 GiB"));
    bytes.put_slice(&head);
    bytes.put_slice(body);
    bytes.freeze()
}

/// The head and the body of [`framed`] bytes; `None`: not understood.
pub(super) fn unframed<H: serde::de::DeserializeOwned>(bytes: &Bytes) -> Option<(H, Bytes)> {
    let (&layout, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let head = serde_json::from_slice(rest.get(..length)?).ok().filter(|_| layout == LAYOUT)?;
    Some((head, bytes.slice(5 + length..)))
}

/// What became of a sent message.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Ack {
    /// The message's id.
    pub id: String,
    /// The chat that it went to.
    pub to: String,
    /// How far it got.
    pub status: Step,
    /// When, in Unix seconds.
    pub timestamp: i64,
    /// Whose device told so, in a group.
    pub participant: Option<String>,
    /// WhatsApp's code for a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<u16>,
}

impl std::fmt::Debug for Ack {
    /// Without the addresses, which may not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ack").field("id", &self.id).field("status", &self.status).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct AckBody<'a> {
    session: &'a SessionName,
    #[serde(flatten)]
    ack: &'a Ack,
    event_id: &'a str,
}

impl Entry {
    pub(super) fn decode(seq: u64, bytes: &Bytes, attempt: Attempt) -> Option<Self> {
        let (event, committed_at, notes) = NewEvent::decode_row(bytes)?;
        let first_at = notes.first_ms.and_then(DateTime::from_timestamp_millis).unwrap_or(committed_at);
        let pending = notes.pending;
        let next_at = if attempt.count == 0 { None } else { DateTime::from_timestamp_millis(attempt.next_at_ms) };
        Some(Self { seq, event, committed_at, first_at, attempts: attempt.count, next_at, pending })
    }
}

/// The id of an event: the same for the same message of the same session, whenever it is computed.
///
/// The first 32 hexadecimal digits of SHA-256 over the parts, each behind its length as 64 bits, big-endian.
pub fn event_id(session_uid: &str, chat: &str, sender: &str, id: &str, kind: &str) -> String {
    let mut hash = Sha256::new();
    for part in [session_uid, chat, sender, id, kind] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(32);
    text
}

/// The body of a status event (wa-gateway 4.7.1, webhook `session`).
pub fn session_body(session: &SessionName, status: Status) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        session: &'a SessionName,
        status: Status,
    }
    serde_json::to_vec(&Body { session, status }).expect("two strings always serialise").into()
}

/// The body of a message event (wa-gateway 4.7.1, webhook `message`, with our members behind).
pub fn message_body(incoming: &Incoming) -> Bytes {
    serde_json::to_vec(incoming).expect("strings, booleans and finite numbers always serialise").into()
}

/// What is known of an event's delivery so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempt {
    pub(super) count: u32,
    pub(super) next_at_ms: i64,
}

impl Attempt {
    pub(super) fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(12);
        bytes.put_u32(self.count);
        bytes.put_i64(self.next_at_ms);
        bytes.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let next_at_ms = i64::from_be_bytes(rest.try_into().ok()?);
        Some(Self { count: u32::from_be_bytes(*count), next_at_ms })
    }
}

/// The outbox's counters. They are stored with what changes them, but for what is counted anew from the rows when an outbox is
/// read: place and depth, and the last events that were delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// The next event's place; above that of all that wait.
    next_seq: u64,
    /// Events that are done, which is also the turn of the ring.
    done: u64,
    pub(super) depth: Depth,
    pub(super) counts: Counts,
}

impl Meta {
    /// Counts an event in and gives it its place.
    pub(super) fn add(&mut self, kind: Kind, bytes: usize) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.put(kind, bytes);
        seq
    }

    /// Counts an event in that has its place.
    pub(super) fn put(&mut self, kind: Kind, bytes: usize) {
        *self.count(kind) += 1;
        self.depth.bytes += bytes as u64;
    }

    /// The place of the next event.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// This place is taken.
    pub(super) fn skip(&mut self, seq: u64) {
        self.next_seq = self.next_seq.max(seq.saturating_add(1));
    }

    /// The turns up to this one were taken: those that are not counted yet, by events that were delivered.
    pub(super) fn go_on_behind(&mut self, turn: u64) {
        let done = self.done.max(turn.saturating_add(1));
        self.counts.delivered = self.counts.delivered.saturating_add(done - self.done);
        self.done = done;
        self.next_seq = self.next_seq.max(done);
    }

    /// Gives an event that is done its turn in the ring of ids.
    pub(super) fn turn(&mut self) -> u64 {
        let turn = self.done;
        self.done += 1;
        turn
    }

    /// Counts an event out.
    pub(super) fn take(&mut self, kind: Kind, bytes: usize) {
        let count = self.count(kind);
        *count = count.saturating_sub(1);
        self.depth.bytes = self.depth.bytes.saturating_sub(bytes as u64);
    }

    /// Counts a body that took the place of another.
    pub(super) fn replace(&mut self, old: usize, new: usize) {
        self.depth.bytes = self.depth.bytes.saturating_sub(old as u64) + new as u64;
    }

    fn count(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Session | Kind::Ack => &mut self.depth.statuses,
            Kind::Message => &mut self.depth.messages,
        }
    }

    pub(super) fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(97);
        bytes.put_u8(COUNTERS_LAYOUT);
        let Counts { delivered, failed, shed, dead, dead_bytes, dead_dropped } = self.counts;
        for number in [self.next_seq, self.done, self.depth.messages, self.depth.statuses, self.depth.bytes] {
            bytes.put_u64(number);
        }
        for number in [delivered, failed, shed, dead, dead_bytes, dead_dropped] {
            bytes.put_u64(number);
        }
        bytes.freeze()
    }

    /// Numbers that an older release did not keep begin at 0.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (LAYOUT | COUNTERS_LAYOUT, rest) = bytes.split_first().map(|(layout, rest)| (*layout, rest))? else {
            return None;
        };
        let mut numbers = rest.chunks_exact(8).map(|chunk| chunk.try_into().map(u64::from_be_bytes));
        let mut next = || numbers.next()?.ok();
        let (next_seq, done) = (next()?, next()?);
        let depth = Depth { messages: next()?, statuses: next()?, bytes: next()? };
        let mut count = || next().unwrap_or(0);
        let counts = Counts {
            delivered: count(),
            failed: count(),
            shed: count(),
            dead: count(),
            dead_bytes: count(),
            dead_dropped: count(),
        };
        Some(Self { next_seq, done, depth, counts })
    }
}
