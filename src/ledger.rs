//! What became of the messages that a session sent, and the sends that idempotency keys stand for.
//!
//! One namespace for each session, made by its first send and dropped with the session. `session` writes here: what a
//! repeated request must find is flushed before anything leaves; steps come in batches. Nothing here knows HTTP.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::RwLock;

use crate::message::{Progress, Step};
use crate::store::{Batch, KeyRange, Kv, KvError, Namespace};

mod check;
mod key;
mod record;
#[cfg(test)]
mod tests;

pub use check::check;
pub use record::{Members, Record, Times};

use record::Change;

/// How long the answer of a send is kept for requests that come again with its key.
pub const ANSWERS_KEPT: Duration = Duration::from_hours(24);
/// Rows that are read or removed at once when old ones are swept out: bounds how long an engine is busy with it.
const PAGE: usize = 512;
/// Messages between two sweeps by count: so many may stand above the limit.
const SWEEP_EVERY: usize = 2_000;
/// Messages before the first sweep after an opening.
const FIRST_SWEEP: usize = 16;

/// What is kept at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages of each session.
    pub messages: usize,
    /// Their age.
    pub age: Duration,
    /// Idempotency keys of each session.
    pub keys: usize,
}

/// The send that an idempotency key stands for.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// What the first request said.
    pub digest: [u8; 32],
    /// The message's id: a repeat that has to send again sends under this one.
    pub id: String,
    /// When this was written, in Unix milliseconds.
    pub at_ms: i64,
    /// Whether WhatsApp has it: the body is the answer.
    pub done: bool,
    /// The answer's JSON; before `done` as it will be, but for the time.
    pub body: String,
}

impl std::fmt::Debug for Kept {
    /// Without the body, which holds what was sent.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("id", &self.id).field("done", &self.done).finish_non_exhaustive()
    }
}

/// Something to be noted of a sent message.
#[derive(Clone, Debug)]
pub enum Note {
    /// It is about to be sent, for the first time or once more.
    Begun(String, Record),
    /// It got further.
    Progress(Progress),
}

impl Note {
    fn id(&self) -> &str {
        match self {
            Self::Begun(id, _) => id,
            Self::Progress(progress) => &progress.id,
        }
    }
}

/// A message, or a member of its group, got further.
#[derive(Clone, PartialEq, Eq)]
pub struct Advance {
    /// The message's id.
    pub id: String,
    /// The chat.
    pub to: String,
    /// The step.
    pub step: Step,
    /// When, in Unix seconds.
    pub at: i64,
    /// WhatsApp's code for a refusal.
    pub code: Option<u16>,
    /// The member who tells so, in a group.
    pub participant: Option<String>,
}

impl std::fmt::Debug for Advance {
    /// Without the addresses, which may not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Advance").field("id", &self.id).field("step", &self.step).finish_non_exhaustive()
    }
}

/// What notes come to: not written yet.
#[derive(Default)]
pub struct Plan {
    /// In the order of the notes.
    pub advances: Vec<Advance>,
    batch: Batch,
    begun: usize,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("advances", &self.advances).finish_non_exhaustive()
    }
}

/// One session's ledger.
#[derive(Debug)]
pub struct Ledger {
    kv: Arc<dyn Kv>,
    ns: Namespace,
    limits: Limits,
    /// Every write holds it shared; `close` takes it alone. `true`: closed.
    gate: RwLock<bool>,
    /// Messages begun since the last sweep.
    begun: AtomicUsize,
}

impl Ledger {
    /// The ledger of the session with this uid; reads nothing yet.
    pub fn new(kv: Arc<dyn Kv>, uid: &str, limits: Limits) -> Self {
        // One that is opened often and never sends as much would never be swept.
        let (gate, begun) = (RwLock::new(false), AtomicUsize::new(SWEEP_EVERY - FIRST_SWEEP));
        Self { kv, ns: Namespace::sent(uid), limits, gate, begun }
    }

    /// What is known of a message; `None`: nothing, or not any more.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn message(&self, id: &str) -> Result<Option<Record>, KvError> {
        let row = self.kv.get(&self.ns, &key::message(id)).await?;
        let young = |record: &Record| record.at_ms >= before(self.limits.age);
        Ok(row.and_then(|row| key::record_of(&row)).filter(young))
    }

    /// The send that a key stands for; `None`: none, or not any more.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn kept(&self, key: &str) -> Result<Option<Kept>, KvError> {
        let row = self.kv.get(&self.ns, &key::send(key)).await?;
        Ok(row.and_then(|row| key::kept_of(&row)).filter(|kept| kept.at_ms >= before(ANSWERS_KEPT)))
    }

    /// Makes a key stand for a send; survives a killed process when it returns.
    ///
    /// # Errors
    /// [`KvError::Fenced`] after [`close`](Self::close), else as the engine's `write`.
    pub async fn keep(&self, key: &str, kept: &Kept) -> Result<(), KvError> {
        self.write(Batch::new().put(key::send(key), key::kept(kept))).await
    }

    /// Finds out what these notes come to. One at a time: the next may be planned when this one is written.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn plan(&self, notes: &[Note]) -> Result<Plan, KvError> {
        let mut rows = Rows::load(self, notes).await?;
        let mut plan = Plan::default();
        let (mut changed, mut moved) = (HashSet::new(), HashSet::new());
        for note in notes {
            match note {
                Note::Begun(id, new) => {
                    plan.begun += 1;
                    // One that is sent again is the same message.
                    let fresh = rows.records.get(id.as_str()).is_none_or(|known| known.to != new.to);
                    if fresh {
                        rows.records.insert(id.clone(), new.clone());
                        changed.insert(id.clone());
                    }
                }
                Note::Progress(progress) => {
                    let Some(record) = rows.records.get_mut(progress.id.as_str()) else { continue };
                    if !record.concerns(progress) {
                        continue;
                    }
                    if let Some(sent) = record.sent_before(progress) {
                        record.take(&sent, None);
                        plan.advances.push(Advance {
                            id: sent.id,
                            to: record.to.clone(),
                            step: sent.step,
                            at: sent.at,
                            code: None,
                            participant: None,
                        });
                    }
                    let teller = progress.teller.as_ref().filter(|_| record.is_group());
                    let place = teller.map(|teller| key::member(&progress.id, &teller.address));
                    let member = place.as_ref().and_then(|place| rows.members.get(place).copied());
                    let change = record.take(progress, member);
                    if change == Change::None {
                        continue;
                    }
                    changed.insert(progress.id.clone());
                    if change == Change::Further {
                        if let Some(place) = place {
                            rows.members.insert(place.clone(), progress.step);
                            moved.insert(place);
                        }
                        plan.advances.push(Advance {
                            id: progress.id.clone(),
                            to: record.to.clone(),
                            step: progress.step,
                            at: progress.at,
                            code: progress.code,
                            participant: teller.map(|teller| teller.address.clone()),
                        });
                    }
                }
            }
        }
        let mut batch = Batch::new();
        for id in changed {
            if let Some(record) = rows.records.get(&id) {
                batch = batch.put(key::message(&id), key::record(record));
            }
        }
        // A group's counts and its members' steps belong together; else each message stands for itself.
        batch.loose = moved.is_empty();
        for place in moved {
            if let Some(step) = rows.members.get(&place) {
                batch = batch.put(place, key::step(*step));
            }
        }
        plan.batch = batch;
        Ok(plan)
    }

    /// Writes a plan; a killed process may forget what it wrote in its last moment. Old messages are swept out now and then.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub async fn carry_out(&self, plan: Plan) -> Result<(), KvError> {
        if !plan.batch.ops.is_empty() {
            self.write(plan.batch.buffered()).await?;
        }
        let begun = self.begun.fetch_add(plan.begun, Ordering::Relaxed) + plan.begun;
        if begun >= SWEEP_EVERY {
            self.begun.store(0, Ordering::Relaxed);
            self.sweep().await?;
        }
        Ok(())
    }

    /// Removes what is too old, and the oldest of what is too much.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub async fn sweep(&self) -> Result<(), KvError> {
        for (table, most, age) in
            [(key::MESSAGE, self.limits.messages, self.limits.age), (key::SEND, self.limits.keys, ANSWERS_KEPT)]
        {
            let mut rows = self.dated(table).await?;
            rows.sort_unstable();
            let old = rows.partition_point(|(made_at, _)| *made_at < before(age));
            rows.truncate(old.max(rows.len().saturating_sub(most)));
            for page in rows.chunks(PAGE) {
                let mut batch = Batch::new().buffered();
                for (_, row) in page {
                    if table == key::MESSAGE
                        && let Some(id) = row.get(1..).and_then(|id| std::str::from_utf8(id).ok())
                    {
                        for (member, _) in self.kv.range(&self.ns, KeyRange::prefix(key::members(id))).await? {
                            batch = batch.remove(member);
                        }
                    }
                    batch = batch.remove(row.clone());
                }
                self.write(batch).await?;
            }
        }
        Ok(())
    }

    /// The keys of a table with the time that each row was made.
    async fn dated(&self, table: u8) -> Result<Vec<(i64, Bytes)>, KvError> {
        let mut range = KeyRange::prefix(vec![table]).limit(PAGE);
        let mut dated = Vec::new();
        loop {
            let rows = self.kv.range(&self.ns, range.clone()).await?;
            let Some((last, _)) = rows.last() else { return Ok(dated) };
            range.start = Bound::Excluded(last.clone());
            dated.extend(rows.iter().map(|(key, row)| (key::made_at(row), key.clone())));
        }
    }

    /// Refuses every later write, and returns when none is under way: nothing comes back once the namespace is dropped.
    pub async fn close(&self) {
        *self.gate.write().await = true;
    }

    async fn write(&self, batch: Batch) -> Result<(), KvError> {
        let closed = self.gate.read().await;
        if *closed {
            return Err(KvError::Fenced);
        }
        self.kv.write(&self.ns, batch).await
    }
}

/// The rows that notes are about, as the store has them.
struct Rows {
    records: HashMap<String, Record>,
    members: HashMap<Bytes, Step>,
}

impl Rows {
    async fn load(ledger: &Ledger, notes: &[Note]) -> Result<Self, KvError> {
        let ids: Vec<&str> = notes.iter().map(Note::id).collect::<HashSet<_>>().into_iter().collect();
        let keys: Vec<Bytes> = ids.iter().map(|id| key::message(id)).collect();
        let found = ledger.kv.get_many(&ledger.ns, &keys).await?;
        let mut records = HashMap::new();
        for (id, row) in ids.iter().zip(found) {
            if let Some(record) = row.and_then(|row| key::record_of(&row)) {
                records.insert((*id).to_owned(), record);
            }
        }
        let members: HashSet<Bytes> = notes
            .iter()
            .filter_map(|note| match note {
                Note::Progress(Progress { id, teller: Some(teller), .. }) if teller.in_group => {
                    Some(key::member(id, &teller.address))
                }
                Note::Progress(_) | Note::Begun(..) => None,
            })
            .collect();
        let members: Vec<Bytes> = members.into_iter().collect();
        let steps = if members.is_empty() { Vec::new() } else { ledger.kv.get_many(&ledger.ns, &members).await? };
        let known = |(place, row): (Bytes, Option<Bytes>)| Some((place, key::step_of(&row?)?));
        let members = members.into_iter().zip(steps).filter_map(known).collect();
        Ok(Self { records, members })
    }
}

/// The time so long ago, in Unix milliseconds.
fn before(age: Duration) -> i64 {
    Utc::now().timestamp_millis().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}
