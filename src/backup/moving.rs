//! One session in an archive, all of it: what an export writes, and how it is read again.
//!
//! Signal sessions, sender keys and one-time keys go along as they are, because nobody goes on with them at home: only a
//! session that is marked as away is ever written. Events that wait for delivery stay where they are and go out from there.

use std::fmt;
use std::io::{self, Read, Write};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveError, Head, Kind, Reader, Writer};
use crate::event::SessionName;
use crate::store::backend::{Stored, identity};
use crate::store::registry::{AccountDetails, RecordState, Registry, SessionRecord, WebhookRecord};
use crate::store::{Kv, KvError, Namespace};

/// The parts of the archive, in this order.
const RECORD: &str = "record";
const CREDENTIALS: &str = "credentials";
const SENT: &str = "sent";

/// Why a session is not written.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// There is none of that name.
    #[error("there is no session of this name")]
    NotFound,
    /// No phone has accepted it, or it was logged out.
    #[error("the session is not linked: there is nothing to export")]
    NotLinked,
    /// What is stored of its device can't be read.
    #[error("the stored keys of this session are damaged: restore a backup, or delete the session and link it again")]
    Damaged,
    /// The store refused.
    #[error("the session store is not available")]
    Store(#[from] KvError),
    /// The archive could not be written; the session is marked, and can be exported again.
    #[error("the export can't be written")]
    Write(#[source] io::Error),
}

/// Why an archive is no session.
#[derive(Debug, thiserror::Error)]
pub enum ArriveError {
    /// The archive can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It holds a whole store.
    #[error("the archive is a backup of a whole gateway: use restore")]
    NotASession,
    /// It has what this program does not know, or lacks what it must have.
    #[error("the archive's {0} can't be read; was it written by a newer program?")]
    Content(&'static str),
    /// This gateway has the session.
    #[error("this gateway has the session already, as {0}: it goes on there, and what is in the file is older")]
    Here(String),
    /// A session has the name.
    #[error(
        "this gateway has another session of the name {0}: delete that one, or call this one otherwise with --session NAME"
    )]
    NameTaken(String),
    /// Its keys have moved on since.
    #[error(
        "this export was imported here before, or a later one was; its encryption keys have moved on since. Export the session anew on the gateway that has it now"
    )]
    Before,
    /// The store refused.
    #[error("the store can't be used")]
    Store(#[from] KvError),
}

/// What is told of a session besides its rows.
#[derive(Serialize, Deserialize)]
struct Told {
    name: SessionName,
    created_at: DateTime<Utc>,
    #[serde(default)]
    details: Option<AccountDetails>,
    #[serde(default)]
    platform: Option<String>,
    #[serde(default)]
    webhook: Option<WebhookRecord>,
    moves: Vec<String>,
}

/// A session on its way.
#[derive(Clone)]
pub(super) struct Traveller {
    pub(super) name: SessionName,
    pub(super) created_at: DateTime<Utc>,
    pub(super) details: Option<AccountDetails>,
    pub(super) platform: Option<String>,
    pub(super) webhook: Option<WebhookRecord>,
    /// Its exports; the last one is this.
    pub(super) moves: Vec<String>,
    /// Keys and Signal state.
    pub(super) credentials: Vec<(Bytes, Bytes)>,
    /// What became of its messages, and its idempotency keys.
    pub(super) sent: Vec<(Bytes, Bytes)>,
}

impl fmt::Debug for Traveller {
    /// Without its keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traveller").field("name", &self.name).field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl Traveller {
    /// Of a session that is away; `None`: it is none, or has lost its credentials since.
    pub(super) async fn of(kv: &dyn Kv, record: SessionRecord) -> Result<Option<Self>, KvError> {
        if !record.away || record.moves.is_empty() {
            return Ok(None);
        }
        let credentials = kv.snapshot(&Namespace::credentials(&record.uid)).await?;
        let sent = kv.snapshot(&Namespace::sent(&record.uid)).await?;
        let SessionRecord { name, created_at, details, platform, webhook, moves, .. } = record;
        let traveller = Self { name, created_at, details, platform, webhook, moves, credentials, sent };
        Ok(traveller.device().is_some().then_some(traveller))
    }

    /// The row of its device, if that is one that can log in.
    fn device(&self) -> Option<&Bytes> {
        let row = self.credentials.iter().find(|(key, _)| key == Stored::KEY).map(|(_, row)| row)?;
        (Stored::of(Some(row)) == Stored::Paired).then_some(row)
    }

    /// What tells its credentials from all others.
    pub(super) fn identity(&self) -> Result<String, ArriveError> {
        let device = self.device().ok_or(ArriveError::Content("device"))?;
        identity(device).map_err(|_unreadable| ArriveError::Content("device"))
    }

    /// Writes the whole archive. Blocking.
    pub(super) fn write(&self, into: impl Write, passphrase: &SecretString) -> io::Result<()> {
        let buffered = io::BufWriter::with_capacity(64 << 10, into);
        let mut writer = Writer::new(buffered, passphrase, &Head::new(Kind::Session))?;
        let told = Told {
            name: self.name.clone(),
            created_at: self.created_at,
            details: self.details.clone(),
            platform: self.platform.clone(),
            webhook: self.webhook.clone(),
            moves: self.moves.clone(),
        };
        writer.row(RECORD, b"", &serde_json::to_vec(&told)?)?;
        for (part, rows) in [(CREDENTIALS, &self.credentials), (SENT, &self.sent)] {
            for (key, value) in rows {
                writer.row(part, key, value)?;
            }
        }
        writer.finish()?.flush()
    }

    /// Reads an archive to its end; one session is little enough to be held. Blocking.
    pub(super) fn read(archive: impl Read, passphrase: &SecretString) -> Result<Self, ArriveError> {
        let mut reader = Reader::open(archive, passphrase)?;
        if reader.head().kind != Kind::Session {
            return Err(ArriveError::NotASession);
        }
        let (mut told, mut credentials, mut sent) = (None, Vec::new(), Vec::new());
        while let Some(row) = reader.row()? {
            match row.namespace.as_str() {
                RECORD => {
                    let read = serde_json::from_slice::<Told>(&row.value);
                    told = Some(read.map_err(|_unreadable| ArriveError::Content("record"))?);
                }
                CREDENTIALS => credentials.push((row.key, row.value)),
                SENT => sent.push((row.key, row.value)),
                _ => return Err(ArriveError::Content("content")),
            }
        }
        let Told { name, created_at, details, platform, webhook, moves } =
            told.ok_or(ArriveError::Content("record"))?;
        let name = SessionName::parse(name.as_str()).map_err(|_bad| ArriveError::Content("record"))?;
        if moves.is_empty() {
            return Err(ArriveError::Content("record"));
        }
        let read = Self { name, created_at, details, platform, webhook, moves, credentials, sent };
        read.identity()?;
        Ok(read)
    }

    pub(super) fn rows(&self) -> usize {
        self.credentials.len() + self.sent.len()
    }
}

/// Marks a session of a store that no gateway uses as away, if it is not yet, and writes it. How many rows that were.
///
/// The mark is durable before the first byte is written: whatever happens then, the session starts here no more, and it can
/// be written again.
///
/// # Errors
/// By [`LeaveError`]; nothing is changed but with `Write`.
pub async fn export(
    kv: &dyn Kv,
    registry: &Registry,
    name: &SessionName,
    into: impl Write + Send,
    passphrase: &SecretString,
) -> Result<usize, LeaveError> {
    let record = registry.get(name).await?.ok_or(LeaveError::NotFound)?;
    let device = kv.get(&Namespace::credentials(&record.uid), Stored::KEY).await?;
    match Stored::of(device.as_deref()) {
        Stored::Paired if record.state != RecordState::LoggedOut => {}
        Stored::Damaged => return Err(LeaveError::Damaged),
        Stored::Paired | Stored::Absent | Stored::Unpaired => return Err(LeaveError::NotLinked),
    }
    let record = registry.depart(&record.uid).await?.ok_or(LeaveError::NotFound)?;
    let traveller = Traveller::of(kv, record).await?.ok_or(LeaveError::NotLinked)?;
    traveller.write(into, passphrase).map_err(LeaveError::Write)?;
    Ok(traveller.rows())
}
