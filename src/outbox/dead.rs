//! Dead letters: events that no attempt will deliver any more, kept for a look and for another try.
//!
//! Bounded by number, bytes and age; the oldest are dropped and counted. A letter that is put back keeps its event id.

use std::collections::HashSet;
use std::ops::Bound;

use bytes::{BufMut as _, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::event::{Kind, Meta, Notes, framed, unframed};
use super::{CONFLICT_TRIES, Entry, Inner, NewEvent, Outbox, prefix, put_event};
use crate::store::{Batch, KeyRange, KvError};

/// Letters that are read, dropped or put back by one batch.
const AT_ONCE: usize = 100;

/// Why an event died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The receiver will never take it.
    Refused,
    /// Its attempts went on for as long as they may.
    GivenUp,
    /// It waited for longer than events may.
    TooOld,
}

/// Where a letter stands among those of its session: by time, then by its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadKey {
    /// Unix milliseconds.
    pub died_ms: u64,
    /// The place that it had.
    pub seq: u64,
}

/// A letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it stands.
    pub key: DeadKey,
    /// What was posted.
    pub event: NewEvent,
    /// When it was committed first.
    pub first_at: DateTime<Utc>,
    /// When it was given up.
    pub died_at: DateTime<Utc>,
    /// Attempts that failed.
    pub attempts: u32,
    /// What the last of them came to; `None`: there was none.
    pub answer: Option<String>,
    /// Why it was the last.
    pub cause: Cause,
}

#[derive(Serialize, Deserialize)]
struct Head {
    id: String,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chat: Option<String>,
    first_ms: i64,
    died_ms: i64,
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    cause: Cause,
}

/// Which letters are put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// Only these events; `None`: all.
    pub event_ids: Option<Vec<String>>,
    /// Only what was committed first at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Only what was committed first at this time or before.
    pub to: Option<DateTime<Utc>>,
}

/// What came of putting letters back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revived {
    /// So many wait for delivery again.
    pub events: u64,
    /// The outbox has no room for the rest.
    pub full: bool,
}

impl DeadLetter {
    pub(super) fn decode(key: &[u8], value: &Bytes) -> Option<Self> {
        let (head, body) = unframed::<Head>(value)?;
        Some(Self {
            key: DeadKey::decode(key)?,
            event: NewEvent { event_id: head.id, kind: head.kind, chat: head.chat, body },
            first_at: DateTime::from_timestamp_millis(head.first_ms)?,
            died_at: DateTime::from_timestamp_millis(head.died_ms)?,
            attempts: head.attempts,
            answer: head.answer,
            cause: head.cause,
        })
    }

    fn encode(&self) -> Bytes {
        let head = Head {
            id: self.event.event_id.clone(),
            kind: self.event.kind,
            chat: self.event.chat.clone(),
            first_ms: self.first_at.timestamp_millis(),
            died_ms: self.died_at.timestamp_millis(),
            attempts: self.attempts,
            answer: self.answer.clone(),
            cause: self.cause,
        };
        framed(&head, &self.event.body)
    }
}

impl DeadKey {
    fn encode(self) -> Bytes {
        let mut key = BytesMut::with_capacity(17);
        key.put_u8(b'x');
        key.put_u64(self.died_ms);
        key.put_u64(self.seq);
        key.freeze()
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (died_ms, seq) = key.get(1..)?.split_first_chunk::<8>()?;
        Some(Self { died_ms: u64::from_be_bytes(*died_ms), seq: u64::from_be_bytes(seq.try_into().ok()?) })
    }
}

fn id_key(event_id: &str) -> Bytes {
    [b"y", event_id.as_bytes()].concat().into()
}

impl Pick {
    fn takes(&self, letter: &DeadLetter) -> bool {
        self.from.is_none_or(|from| letter.first_at >= from) && self.to.is_none_or(|to| letter.first_at <= to)
    }
}

impl Outbox {
    /// Takes an event out of the queue and keeps it as a dead letter. Durable when it returns.
    ///
    /// # Errors
    /// As [`Outbox::remove`].
    pub async fn bury(
        &self,
        entry: &Entry,
        attempts: u32,
        answer: Option<String>,
        cause: Cause,
    ) -> Result<(), KvError> {
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(&mut state).await?;
            if !state.waiting.has(entry) {
                return self.remove_double(&mut state, entry).await;
            }
            let died_at = Utc::now();
            let key = DeadKey { died_ms: u64::try_from(died_at.timestamp_millis()).unwrap_or(0), seq: entry.seq };
            let (event, first_at, answer) = (entry.event.clone(), entry.first_at, answer.clone());
            let letter = DeadLetter { key, event, first_at, died_at, attempts, answer, cause };
            let mut meta = state.meta;
            let (mut batch, turn) = self.done(Batch::new(), &state, &mut meta, entry);
            batch.loose = false;
            // One that was put back and died again while it was dead already can't be: its id waits.
            meta.counts.dead += 1;
            meta.counts.dead_bytes += letter.event.body.len() as u64;
            meta.counts.failed += u64::from(cause != Cause::TooOld);
            batch = batch.put(key.encode(), letter.encode()).put(id_key(&letter.event.event_id), key.encode());
            batch = self.drop_surplus(batch, &mut meta, Some(&letter), died_at).await?;
            match self.write(&mut state, meta, batch).await {
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.is_done(&mut state, turn, entry);
                    return Ok(());
                }
            }
        }
        Err(KvError::Conflict)
    }

    /// Adds the removal of the oldest letters that are too many, too large or too old; `new` is in no row yet.
    async fn drop_surplus(
        &self,
        mut batch: Batch,
        meta: &mut Meta,
        new: Option<&DeadLetter>,
        now: DateTime<Utc>,
    ) -> Result<Batch, KvError> {
        let Inner { kv, ns, common, .. } = &*self.inner;
        let before = meta.counts.dead_dropped;
        let bounds = &common.bounds;
        let oldest = kv.range(ns, prefix(b'x', AT_ONCE)).await?;
        for (key, value) in oldest {
            let letter = DeadLetter::decode(&key, &value);
            let expired = letter
                .as_ref()
                .is_none_or(|letter| (now - letter.died_at).to_std().is_ok_and(|age| age > bounds.dead_age));
            let counts = &mut meta.counts;
            if !expired && counts.dead <= bounds.dead_count && counts.dead_bytes <= bounds.dead_bytes {
                break;
            }
            if let Some(letter) = letter {
                counts.dead_bytes = counts.dead_bytes.saturating_sub(letter.event.body.len() as u64);
                // The new one may be a letter of the same event that came back.
                if new.is_none_or(|new| new.event.event_id != letter.event.event_id) {
                    batch = batch.remove(id_key(&letter.event.event_id));
                }
            }
            counts.dead = counts.dead.saturating_sub(1);
            counts.dead_dropped += 1;
            batch = batch.remove(key);
        }
        let events = meta.counts.dead_dropped - before;
        if events > 0 {
            tracing::warn!(session = %self.inner.session, events, "the oldest dead letters were dropped");
        }
        Ok(batch)
    }

    /// Drops the letters that have grown too old.
    ///
    /// # Errors
    /// When the store can't be used.
    pub async fn expire_dead(&self) -> Result<(), KvError> {
        if self.counts().dead == 0 {
            return Ok(());
        }
        let mut state = self.inner.state.lock().await;
        loop {
            self.make_sound(&mut state).await?;
            let mut meta = state.meta;
            let batch = self.drop_surplus(Batch::new(), &mut meta, None, Utc::now()).await?;
            if batch.ops.is_empty() {
                return Ok(());
            }
            match self.write(&mut state, meta, batch).await {
                Ok(()) | Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Up to `n` letters behind this one, oldest first.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn dead(&self, after: Option<DeadKey>, n: usize) -> Result<Vec<DeadLetter>, KvError> {
        let mut range = prefix(b'x', n);
        if let Some(after) = after {
            range.start = Bound::Excluded(after.encode());
        }
        Ok(self.letters(range).await?.into_iter().filter_map(|(_key, letter)| letter).collect())
    }

    async fn letters(&self, range: KeyRange) -> Result<Vec<(Bytes, Option<DeadLetter>)>, KvError> {
        let rows = self.inner.kv.range(&self.inner.ns, range).await?;
        Ok(rows.into_iter().map(|(key, value)| (key.clone(), DeadLetter::decode(&key, &value))).collect())
    }

    /// Puts letters back behind what waits, oldest first, under the ids that they have, and wakes the lane.
    ///
    /// Those that die again meanwhile are not taken twice.
    ///
    /// # Errors
    /// When the store can't be used; what was put back stays so.
    pub async fn revive(&self, pick: &Pick) -> Result<Revived, KvError> {
        let mut revived = Revived::default();
        let end = DeadKey { died_ms: u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0), seq: u64::MAX };
        if let Some(ids) = &pick.event_ids {
            for ids in ids.chunks(AT_ONCE) {
                let keys: Vec<Bytes> = ids.iter().map(|id| id_key(id)).collect();
                let found = self.inner.kv.get_many(&self.inner.ns, &keys).await?;
                let mut keys: Vec<Bytes> = found.into_iter().flatten().collect();
                keys.sort_unstable();
                keys.dedup();
                let rows = self.inner.kv.get_many(&self.inner.ns, &keys).await?;
                let letters = keys.iter().zip(rows).filter_map(|(key, row)| DeadLetter::decode(key, &row?)).collect();
                if self.revive_these(pick, letters, &mut revived).await? {
                    return Ok(revived);
                }
            }
            return Ok(revived);
        }
        let mut range = KeyRange { end: Bound::Included(end.encode()), ..prefix(b'x', AT_ONCE) };
        loop {
            let rows = self.letters(range.clone()).await?;
            let Some((last, _)) = rows.last() else { return Ok(revived) };
            range.start = Bound::Excluded(last.clone());
            let letters = rows.into_iter().filter_map(|(_key, letter)| letter).collect();
            if self.revive_these(pick, letters, &mut revived).await? {
                return Ok(revived);
            }
        }
    }

    /// Puts these letters back in one batch; whether there is no room for more.
    async fn revive_these(
        &self,
        pick: &Pick,
        letters: Vec<DeadLetter>,
        revived: &mut Revived,
    ) -> Result<bool, KvError> {
        let Inner { kv, ns, common, .. } = &*self.inner;
        let letters: Vec<DeadLetter> = letters.into_iter().filter(|letter| pick.takes(letter)).collect();
        let mut state = self.inner.state.lock().await;
        for _ in 0..CONFLICT_TRIES {
            self.make_sound(&mut state).await?;
            let keys: Vec<Bytes> = letters.iter().map(|letter| letter.key.encode()).collect();
            let rows = kv.get_many(ns, &keys).await?;
            let (mut meta, mut batch, now, mut back) = (state.meta, Batch::new(), Utc::now(), Vec::new());
            let (mut full, mut added, mut ids) = (false, 0, HashSet::new());
            for (letter, row) in letters.iter().zip(rows) {
                if row.is_none() {
                    continue;
                }
                let bytes = letter.event.body.len() as u64;
                if !common.has_room(state.meta.depth.bytes, added + bytes) {
                    full = true;
                    break;
                }
                meta.counts.dead = meta.counts.dead.saturating_sub(1);
                meta.counts.dead_bytes = meta.counts.dead_bytes.saturating_sub(bytes);
                batch = batch.remove(letter.key.encode()).remove(id_key(&letter.event.event_id));
                let id = letter.event.event_id.as_str();
                if !state.waiting.contains(id) && ids.insert(id) {
                    let seq = meta.add(letter.event.kind, letter.event.body.len());
                    let notes = Notes { first_ms: Some(letter.first_at.timestamp_millis()), ..Notes::default() };
                    batch = put_event(batch, seq, &letter.event, letter.event.encode_row(now, notes));
                    back.push((id, seq));
                    added += bytes;
                }
            }
            if batch.ops.is_empty() {
                revived.full |= full;
                return Ok(full);
            }
            match self.write(&mut state, meta, batch).await {
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    revived.events += back.len() as u64;
                    for (id, seq) in back {
                        state.waiting.add(id, seq);
                    }
                    revived.full |= full;
                    self.inner.committed.notify_one();
                    return Ok(full);
                }
            }
        }
        Err(KvError::Conflict)
    }
}
