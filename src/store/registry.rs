//! Which sessions there are: one record each, and the names that lead to them.
//!
//! A record is kept under the session's random uid, and the name is only an index entry: a deleted name is free at once,
//! while the record stays until its namespaces are gone. Called by `session`; every write is flushed before it returns, but
//! that of `reserve`.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod inspect;
mod moving;

use super::{Batch, Flushing, KeyRange, Kv, KvError, Namespace};
use crate::event::SessionName;

mod adoption;

pub use adoption::Adoption;
pub use moving::{Arrival, Entered};

/// How often a conditional write is tried again: it only meets the few other writes of the same instant.
const CONFLICT_RETRIES: usize = 64;

const RECORD: &[u8] = b"session/";
const NAME: &[u8] = b"name/";
const FAREWELL: &[u8] = b"farewell/";
const SEQUENCE: &[u8] = b"sequence";

/// What is kept of a session besides its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Random; names its namespaces and never comes again.
    pub uid: String,
    /// The client's name for it.
    pub name: SessionName,
    /// When the name was first reserved.
    pub created_at: DateTime<Utc>,
    /// Place in the list: first seen, first listed.
    pub sequence: u64,
    /// The account; `None`: it never connected.
    #[serde(default)]
    pub details: Option<AccountDetails>,
    /// The phone's platform as told at pairing, when known.
    #[serde(default)]
    pub platform: Option<String>,
    /// What is to become of it at the next start.
    pub state: RecordState,
    /// Where its events go; `None`: to the gateway's own receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookRecord>,
    /// How a session that was logged out or stopped came to it; `None`: it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Its device was moved to another host: it is stopped for good, may not connect, and is not to be unlinked from here.
    /// Beside the state and no state of its own: a release that knows nothing of it then finds a stopped session.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
    /// The exports that it went through on any host, oldest first. One for each move: a handful.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<String>,
}

/// A receiver of a session's own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookRecord {
    /// What the kind's path is put behind.
    pub url: String,
    /// Signs what is posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The kinds that it wants, as the API spells them; `None`: no choice of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
}

impl std::fmt::Debug for WebhookRecord {
    /// Without the address and the secret: both may open doors.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookRecord").field("events", &self.events).finish_non_exhaustive()
    }
}

/// How a session was logged out or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Who did it.
    pub by: EndedBy,
    /// When.
    pub at: DateTime<Utc>,
}

/// Who logged a session out, or stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// A call of our API.
    Api,
    /// The phone, or WhatsApp itself.
    Phone,
}

impl EndedBy {
    /// The word as it stands in answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Api => "by_api",
            Self::Phone => "by_phone",
        }
    }
}

/// The account behind a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDetails {
    /// Push name; empty when unknown.
    #[serde(default)]
    pub name: String,
    /// Own phone number, digits only; empty when unknown.
    #[serde(default)]
    pub phone_number: String,
}

/// What a session was last told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// Runs, or is restored at the next start.
    Live,
    /// Has no credentials; listed until a start or a deletion.
    LoggedOut,
    /// Keeps its credentials and does not run.
    Stopped,
    /// Its namespaces are being dropped; not listed, and its name is free.
    Deleting,
}

/// What a start found left over from the process before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Deletions that were finished.
    pub deletions: usize,
    /// Logouts whose credentials were still there.
    pub logouts: usize,
    /// Namespaces of no known session that were dropped.
    pub orphans: usize,
}

/// Typed access to the registry namespace; cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    kv: Arc<dyn Kv>,
    ns: Namespace,
}

impl Registry {
    /// The registry of this store.
    pub fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv, ns: Namespace::registry() }
    }

    /// All sessions but those being deleted, first seen first. A record that can't be read is logged and left out.
    ///
    /// # Errors
    /// As the engine's `range`.
    pub async fn list(&self) -> Result<Vec<SessionRecord>, KvError> {
        let mut records = self.records().await?;
        records.retain(|record| record.state != RecordState::Deleting);
        Ok(records)
    }

    /// The sessions whose deletion was begun and not finished.
    ///
    /// # Errors
    /// As the engine's `range`.
    pub async fn deletions(&self) -> Result<Vec<SessionRecord>, KvError> {
        let mut records = self.records().await?;
        records.retain(|record| record.state == RecordState::Deleting);
        Ok(records)
    }

    /// The session that has this name now.
    ///
    /// # Errors
    /// As the engine's `get`; `Engine` when the record can't be read.
    pub async fn get(&self, name: &SessionName) -> Result<Option<SessionRecord>, KvError> {
        let Some(uid) = self.kv.get(&self.ns, &name_key(name)).await? else {
            return Ok(None);
        };
        self.row(&key(RECORD, &uid)).await?.map(|row| parse(&row)).transpose()
    }

    /// The number of the next record, and the counter's row that it goes by.
    async fn next_sequence(&self) -> Result<(Option<Bytes>, u64), KvError> {
        let counter = self.row(SEQUENCE).await?;
        let last = match counter.as_deref() {
            Some(counter) => u64::from_be_bytes(counter.try_into().map_err(KvError::engine)?),
            None => 0,
        };
        let next = last.checked_add(1).ok_or_else(|| KvError::engine("the counter of sessions is at its end"))?;
        Ok((counter, next))
    }

    /// The session of this name, made when there is none; two callers at once get the same one. One that this call made comes
    /// with the wait until it is durable, and nothing was ever stored under its uid: if the wait fails, a restart may or may not
    /// know it.
    ///
    /// # Errors
    /// As the engine's `apply`.
    pub async fn reserve(&self, name: &SessionName) -> Result<(SessionRecord, Option<Flushing>), KvError> {
        for _ in 0..CONFLICT_RETRIES {
            if let Some(record) = self.get(name).await? {
                return Ok((record, None));
            }
            let (counter, sequence) = self.next_sequence().await?;
            let record = SessionRecord {
                uid: Uuid::new_v4().to_string(),
                name: name.clone(),
                created_at: Utc::now(),
                sequence,
                details: None,
                platform: None,
                state: RecordState::Live,
                webhook: None,
                ended: None,
                away: false,
                moves: Vec::new(),
            };
            let batch = Batch::new()
                .expect(name_key(name), None)
                .expect(SEQUENCE, counter)
                .put(SEQUENCE, Bytes::copy_from_slice(&sequence.to_be_bytes()))
                .put(name_key(name), record.uid.clone())
                .put(key(RECORD, record.uid.as_bytes()), json(&record)?);
            match self.kv.apply(&self.ns, batch).await {
                Ok(flushing) => return Ok((record, Some(flushing))),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KvError::Conflict)
    }

    /// Changes a record, and returns it as it then is; `None`: this uid is gone or being deleted, nothing was written.
    /// `change` may be called again when another write came between. It can't rename a session nor begin its deletion, and
    /// neither move it nor start one that was moved.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn update(
        &self,
        uid: &str,
        mut change: impl FnMut(&mut SessionRecord) + Send,
    ) -> Result<Option<SessionRecord>, KvError> {
        let key = key(RECORD, uid.as_bytes());
        for _ in 0..CONFLICT_RETRIES {
            let Some(row) = self.row(&key).await? else {
                return Ok(None);
            };
            let old = parse(&row)?;
            if old.state == RecordState::Deleting {
                return Ok(None);
            }
            let mut new = old.clone();
            change(&mut new);
            new.uid.clone_from(&old.uid);
            new.name.clone_from(&old.name);
            new.sequence = old.sequence;
            (new.away, new.moves) = (old.away, old.moves.clone());
            if new.state == RecordState::Deleting || old.away {
                new.state = old.state;
            }
            if new == old {
                return Ok(Some(new));
            }
            let batch = Batch::new().expect(key.clone(), Some(row)).put(key.clone(), json(&new)?);
            match self.kv.write(&self.ns, batch).await {
                Ok(()) => return Ok(Some(new)),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KvError::Conflict)
    }

    /// Begins a deletion: the name is free from here on, and a start finishes what is left. Again is fine.
    /// `None`: this uid is not known.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn mark_deleting(&self, uid: &str) -> Result<Option<SessionRecord>, KvError> {
        let key = key(RECORD, uid.as_bytes());
        for _ in 0..CONFLICT_RETRIES {
            let Some(row) = self.row(&key).await? else {
                return Ok(None);
            };
            let mut record = parse(&row)?;
            if record.state == RecordState::Deleting {
                return Ok(Some(record));
            }
            record.state = RecordState::Deleting;
            let name = name_key(&record.name);
            let named = self.row(&name).await?;
            let mut batch = Batch::new().expect(key.clone(), Some(row)).put(key.clone(), json(&record)?);
            if named.as_deref() == Some(uid.as_bytes()) {
                batch = batch.expect(name.clone(), named).remove(name);
            }
            match self.kv.write(&self.ns, batch).await {
                Ok(()) => return Ok(Some(record)),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KvError::Conflict)
    }

    /// Drops the credentials, the outbox and the ledger of a session; nobody may write to them any more.
    ///
    /// # Errors
    /// As the engine's `drop_namespaces`; again is fine.
    pub async fn erase(&self, uid: &str) -> Result<(), KvError> {
        let all = [Namespace::credentials(uid), Namespace::outbox(uid), Namespace::sent(uid)];
        self.kv.drop_namespaces(&all).await
    }

    /// Ends a deletion: the record goes, and its farewell (the body of the session's last event, which no outbox holds any
    /// more) comes, in one write. Returns the farewell's key. A uid that is not being deleted is left alone.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn forget(&self, uid: &str, farewell: Option<Bytes>) -> Result<Option<Bytes>, KvError> {
        let key = key(RECORD, uid.as_bytes());
        let Some(row) = self.row(&key).await? else {
            return Ok(None);
        };
        if parse(&row)?.state != RecordState::Deleting {
            return Ok(None);
        }
        let mut batch = Batch::new().expect(key.clone(), Some(row)).remove(key).remove(moving::away_key(uid));
        let kept = farewell.map(|body| (farewell_key(uid), body));
        if let Some((key, body)) = &kept {
            batch = batch.put(key.clone(), body.clone());
        }
        match self.kv.write(&self.ns, batch).await {
            // A conflict: another caller ended it just now, with its own farewell.
            Err(KvError::Conflict) => Ok(None),
            other => other.map(|()| kept.map(|(key, _)| key)),
        }
    }

    /// Keeps the last event of a session apart from its namespaces; returns its key.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn add_farewell(&self, uid: &str, body: Bytes) -> Result<Bytes, KvError> {
        let key = farewell_key(uid);
        self.kv.write(&self.ns, Batch::new().put(key.clone(), body)).await?;
        Ok(key)
    }

    /// The farewells that wait for delivery with their keys, oldest first.
    ///
    /// # Errors
    /// As the engine's `range`.
    pub async fn farewells(&self) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.kv.range(&self.ns, KeyRange::prefix(FAREWELL)).await
    }

    /// The key of the farewell of a session that waits for delivery.
    ///
    /// # Errors
    /// As the engine's `range`.
    pub async fn farewell_of(&self, uid: &str) -> Result<Option<Bytes>, KvError> {
        Ok(self.farewells().await?.into_iter().map(|(key, _)| key).find(|key| key.ends_with(uid.as_bytes())))
    }

    /// Removes a farewell that was delivered or given up; absent is fine, and so is a key of something else: it stays.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn remove_farewell(&self, key: Bytes) -> Result<(), KvError> {
        if !key.starts_with(FAREWELL) {
            return Ok(());
        }
        self.kv.write(&self.ns, Batch::new().remove(key)).await
    }

    /// Puts right what a killed process left half done; before any session runs. `farewell` makes the last event of a
    /// session whose deletion is finished here; the deletions and logouts of the uids in `taken` are left to the caller.
    ///
    /// # Errors
    /// As the engine; what was done stays done, and the next call goes on.
    pub async fn recover(
        &self,
        taken: &[String],
        farewell: impl Fn(&SessionRecord) -> Option<Bytes> + Send,
    ) -> Result<Recovered, KvError> {
        let mut recovered = Recovered::default();
        for record in self.deletions().await? {
            if taken.contains(&record.uid) {
                continue;
            }
            self.erase(&record.uid).await?;
            self.forget(&record.uid, farewell(&record)).await?;
            recovered.deletions += 1;
        }
        // Namespaces before records: whoever made one of these had reserved its record by then.
        for ns in self.kv.namespaces().await? {
            let (uid, credentials) = match ns.as_str().split_once(':') {
                Some(("credentials", uid)) => (uid, true),
                Some(("outbox" | "sent", uid)) => (uid, false),
                _ => continue,
            };
            match self.row(&key(RECORD, uid.as_bytes())).await? {
                None => {
                    self.kv.drop_namespace(&ns).await?;
                    recovered.orphans += 1;
                }
                Some(row)
                    if credentials
                        && parse(&row).is_ok_and(|kept| kept.state == RecordState::LoggedOut)
                        && !taken.iter().any(|taken| taken == uid) =>
                {
                    self.kv.drop_namespace(&ns).await?;
                    recovered.logouts += 1;
                }
                Some(_) => {}
            }
        }
        if recovered != Recovered::default() {
            tracing::info!(
                deletions = recovered.deletions,
                logouts = recovered.logouts,
                orphans = recovered.orphans,
                "finished what the last run left half done in the store"
            );
        }
        Ok(recovered)
    }

    async fn row(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.kv.get(&self.ns, key).await
    }

    async fn records(&self) -> Result<Vec<SessionRecord>, KvError> {
        let rows = self.kv.range(&self.ns, KeyRange::prefix(RECORD)).await?;
        let mut records = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            match parse(&row) {
                Ok(record) => records.push(record),
                Err(error) => {
                    let uid = String::from_utf8_lossy(&key[RECORD.len()..]);
                    tracing::error!(%uid, error = %source(&error), "a session's record can't be read: it is not listed");
                }
            }
        }
        records.sort_by_key(|record| record.sequence);
        Ok(records)
    }
}

fn key(table: &[u8], rest: &[u8]) -> Bytes {
    [table, rest].concat().into()
}

fn name_key(name: &SessionName) -> Bytes {
    key(NAME, name.as_str().as_bytes())
}

/// By time, then uid: oldest first, and two of one instant stay apart.
fn farewell_key(uid: &str) -> Bytes {
    let at = u64::try_from(Utc::now().timestamp_micros()).unwrap_or(0);
    [FAREWELL, &at.to_be_bytes(), uid.as_bytes()].concat().into()
}

fn json(record: &SessionRecord) -> Result<Bytes, KvError> {
    serde_json::to_vec(record).map(Bytes::from).map_err(KvError::engine)
}

fn parse(row: &[u8]) -> Result<SessionRecord, KvError> {
    serde_json::from_slice(row).map_err(KvError::engine)
}

fn source(error: &KvError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
