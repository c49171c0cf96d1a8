//! Sessions that came from elsewhere, and the markers that they did: a marker outlives its session, so that credentials
//! are taken once and never again, which would rewind their ratchets.

use bytes::Bytes;
use chrono::Utc;

use super::{
    AccountDetails, Batch, CONFLICT_RETRIES, KeyRange, KvError, NAME, RECORD, RecordState, Registry, SEQUENCE,
    SessionRecord, json, key, name_key,
};
use crate::event::SessionName;

/// Identity of the credentials, to what became of them.
pub(super) const MARKER: &[u8] = b"takeover/";
/// Place where credentials were found, to what it was like when all of them had been looked at.
pub(super) const SOURCE: &[u8] = b"takeover-source/";

/// A session whose credentials are written under its uid, to be entered.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// Names its namespaces.
    pub uid: String,
    /// What it is to be called.
    pub name: SessionName,
    /// The account, as its credentials tell.
    pub details: AccountDetails,
    /// The phone's platform, when known.
    pub platform: Option<String>,
    /// What tells its credentials from all others.
    pub identity: String,
    /// What is kept with the marker.
    pub note: Bytes,
}

impl Registry {
    /// Enters a session together with the marker of its credentials; `false`: its name or its credentials were here
    /// already, and nothing was written. Not flushed: many are entered one after the other, and a crash loses the last of
    /// them with their markers.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn adopt(&self, adoption: &Adoption) -> Result<bool, KvError> {
        let marker = key(MARKER, adoption.identity.as_bytes());
        let name = name_key(&adoption.name);
        for _ in 0..CONFLICT_RETRIES {
            if self.row(&name).await?.is_some() || self.row(&marker).await?.is_some() {
                return Ok(false);
            }
            let (counter, sequence) = self.next_sequence().await?;
            let record = SessionRecord {
                uid: adoption.uid.clone(),
                name: adoption.name.clone(),
                created_at: Utc::now(),
                sequence,
                details: Some(adoption.details.clone()),
                platform: adoption.platform.clone(),
                state: RecordState::Live,
                webhook: None,
                ended: None,
                away: false,
                moves: Vec::new(),
            };
            let batch = Batch::new()
                .buffered()
                .expect(name.clone(), None)
                .expect(marker.clone(), None)
                .expect(SEQUENCE, counter)
                .put(SEQUENCE, Bytes::copy_from_slice(&sequence.to_be_bytes()))
                .put(name.clone(), record.uid.clone())
                .put(marker.clone(), adoption.note.clone())
                .put(key(RECORD, record.uid.as_bytes()), json(&record)?);
            match self.kv.write(&self.ns, batch).await {
                Ok(()) => return Ok(true),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KvError::Conflict)
    }

    /// The identities of all credentials that were ever taken, with what was noted of each.
    ///
    /// # Errors
    /// As the engine's `range`.
    pub async fn adopted(&self) -> Result<Vec<(String, Bytes)>, KvError> {
        let rows = self.kv.range(&self.ns, KeyRange::prefix(MARKER)).await?;
        let rows =
            rows.into_iter().map(|(key, note)| (String::from_utf8_lossy(&key[MARKER.len()..]).into_owned(), note));
        Ok(rows.collect())
    }

    /// The names that are taken.
    ///
    /// # Errors
    /// As the engine's `range`.
    pub async fn names(&self) -> Result<Vec<String>, KvError> {
        let rows = self.kv.range(&self.ns, KeyRange::prefix(NAME)).await?;
        Ok(rows.into_iter().map(|(key, _)| String::from_utf8_lossy(&key[NAME.len()..]).into_owned()).collect())
    }

    /// What a place was like when all its credentials had been looked at; `None`: they have not.
    ///
    /// # Errors
    /// As the engine's `get`.
    pub async fn looked_at(&self, place: &str) -> Result<Option<Bytes>, KvError> {
        self.row(&key(SOURCE, place.as_bytes())).await
    }

    /// Notes that all credentials of a place have been looked at.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn set_looked_at(&self, place: &str, state: Bytes) -> Result<(), KvError> {
        self.kv.write(&self.ns, Batch::new().put(key(SOURCE, place.as_bytes()), state)).await
    }
}
