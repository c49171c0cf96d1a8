//! Sessions that leave for another host, and those that come from one.
//!
//! A session that has left keeps its record and its keys until it is deleted, so that a lost file can be written again;
//! what it may not do any more is connect. Every export has an id, which whoever takes it in notes together with those of
//! all earlier exports of the session: an old one would rewind ratchets that have moved on since.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::adoption::MARKER;
use super::{
    AccountDetails, Batch, CONFLICT_RETRIES, Ended, EndedBy, KvError, RECORD, RecordState, Registry, SEQUENCE,
    SessionRecord, WebhookRecord, json, key, name_key, parse,
};
use crate::event::SessionName;

/// Uid of a session that has left; says the same as its record, for the case that this can't be read.
pub(super) const AWAY: &[u8] = b"away/";
/// Id of an export that was taken in here, or that one which was taken in has outdated.
pub(super) const EXPORT: &[u8] = b"export/";

pub(super) fn away_key(uid: &str) -> Bytes {
    key(AWAY, uid.as_bytes())
}

fn export_key(id: &str) -> Bytes {
    key(EXPORT, id.as_bytes())
}

/// A session from another host, whose rows are written under its uid.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Names its namespaces.
    pub uid: String,
    /// What it is to be called.
    pub name: SessionName,
    /// When its name was first reserved, on whatever host.
    pub created_at: DateTime<Utc>,
    /// The account.
    pub details: Option<AccountDetails>,
    /// The phone's platform, when known.
    pub platform: Option<String>,
    /// Its own webhook.
    pub webhook: Option<WebhookRecord>,
    /// The exports that it went through; the last one brought it here.
    pub moves: Vec<String>,
    /// What tells its credentials from all others.
    pub identity: String,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// It is in the list, and starts with the gateway.
    Listed,
    /// Its export was taken in before, or a later one was.
    Before,
    /// Another session has the name.
    NameTaken,
}

impl Registry {
    /// The session with this uid, also one that is being deleted.
    ///
    /// # Errors
    /// As the engine's `get`; `Engine` when the record can't be read.
    pub async fn record(&self, uid: &str) -> Result<Option<SessionRecord>, KvError> {
        self.row(&key(RECORD, uid.as_bytes())).await?.map(|row| parse(&row)).transpose()
    }

    /// Notes that the device of a session lives on another host from now on, under the id of a new export, and returns the
    /// record. One that is away already stays under the id that it has. `None`: this uid is gone or being deleted.
    ///
    /// Nothing may write to its namespaces any more.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn depart(&self, uid: &str) -> Result<Option<SessionRecord>, KvError> {
        let key = key(RECORD, uid.as_bytes());
        let export = Uuid::new_v4().to_string();
        for _ in 0..CONFLICT_RETRIES {
            let Some(row) = self.row(&key).await? else {
                return Ok(None);
            };
            let mut record = parse(&row)?;
            if record.state == RecordState::Deleting {
                return Ok(None);
            }
            // One that was made anew from other rows has lost its id.
            if record.away && !record.moves.is_empty() {
                return Ok(Some(record));
            }
            (record.state, record.away) = (RecordState::Stopped, true);
            record.ended = Some(Ended { by: EndedBy::Api, at: Utc::now() });
            record.moves.push(export.clone());
            let batch = Batch::new().expect(key.clone(), Some(row)).put(key.clone(), json(&record)?);
            match self.kv.write(&self.ns, batch.put(away_key(uid), Bytes::new())).await {
                Ok(()) => return Ok(Some(record)),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KvError::Conflict)
    }

    /// Whether this export was taken in here before, or a later one of the same session was.
    ///
    /// # Errors
    /// As the engine's `get`.
    pub async fn has_arrived(&self, export: &str) -> Result<bool, KvError> {
        Ok(self.row(&export_key(export)).await?.is_some())
    }

    /// Enters a session from another host, in one write with the marks of its exports and with the end of `replaced`, a
    /// session that is away: that one is being deleted from then on.
    ///
    /// # Errors
    /// As the engine's `write`; nothing was entered then.
    pub async fn arrive(&self, arrival: &Arrival, replaced: Option<&SessionRecord>) -> Result<Entered, KvError> {
        let name = name_key(&arrival.name);
        for _ in 0..CONFLICT_RETRIES {
            let named = self.row(&name).await?;
            let by = replaced.filter(|replaced| named.as_deref() == Some(replaced.uid.as_bytes()));
            if named.is_some() && by.is_none() {
                return Ok(Entered::NameTaken);
            }
            if let Some(export) = arrival.moves.last()
                && self.has_arrived(export).await?
            {
                return Ok(Entered::Before);
            }
            let (counter, sequence) = self.next_sequence().await?;
            let mut batch = Batch::new().expect(name.clone(), named).expect(SEQUENCE, counter);
            if let Some(replaced) = replaced {
                let key = key(RECORD, replaced.uid.as_bytes());
                let row = self.row(&key).await?;
                let mut old = row.as_deref().map(parse).transpose()?.ok_or(KvError::Conflict)?;
                if !old.away {
                    return Err(KvError::Conflict);
                }
                old.state = RecordState::Deleting;
                batch = batch.expect(key.clone(), row).put(key, json(&old)?).remove(name_key(&old.name));
            }
            let now = Bytes::from(Utc::now().to_rfc3339());
            for export in &arrival.moves {
                batch = batch.put(export_key(export), now.clone());
            }
            let record = SessionRecord {
                uid: arrival.uid.clone(),
                name: arrival.name.clone(),
                created_at: arrival.created_at,
                sequence,
                details: arrival.details.clone(),
                platform: arrival.platform.clone(),
                state: RecordState::Live,
                webhook: arrival.webhook.clone(),
                ended: None,
                away: false,
                moves: arrival.moves.clone(),
            };
            let batch = batch
                .put(SEQUENCE, Bytes::copy_from_slice(&sequence.to_be_bytes()))
                .put(name.clone(), record.uid.clone())
                // Nor may they come once more from the gateway that they were first taken over from.
                .put(key(MARKER, arrival.identity.as_bytes()), now)
                .put(key(RECORD, record.uid.as_bytes()), json(&record)?);
            match self.kv.write(&self.ns, batch).await {
                Ok(()) => return Ok(Entered::Listed),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KvError::Conflict)
    }
}
