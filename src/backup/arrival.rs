//! A session that another host has exported becomes one of this store, which no gateway uses meanwhile.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use secrecy::SecretString;
use uuid::Uuid;

use super::moving::{ArriveError, Traveller};
use crate::event::SessionName;
use crate::store::backend::{Stored, identity};
use crate::store::registry::{Arrival, Entered, RecordState, Registry, SessionRecord};
use crate::store::{Batch, Kv, KvError, Namespace};

/// Rows written together.
const ROWS: usize = 512;

/// How an export is taken in.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// What the session is to be called; `None`: as before.
    pub name: Option<SessionName>,
    /// Only look whether it would be taken.
    pub dry_run: bool,
}

/// A session that was taken in, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// What it is called here.
    pub name: SessionName,
    /// Rows of keys, Signal state and sent messages.
    pub rows: usize,
    /// It was here before, and left by an export.
    pub is_back: bool,
}

/// An export that was read to its end.
#[derive(Clone, Debug)]
pub struct Import(Traveller);

impl Import {
    /// Reads all of it. Blocking.
    ///
    /// # Errors
    /// By [`ArriveError`].
    pub fn read(archive: impl Read, passphrase: &SecretString) -> Result<Self, ArriveError> {
        Traveller::read(archive, passphrase).map(Self)
    }

    /// Takes the session in: it starts with the gateway, and its keys go on where they were.
    ///
    /// The list of the sessions comes last: what is left by a crash before belongs to no session, and the next start of a
    /// gateway removes it. The place of a session that left by an export is taken, and the events that wait there.
    ///
    /// # Errors
    /// By [`ArriveError`]; nothing is entered then.
    pub async fn enter(self, kv: &Arc<dyn Kv>, wishes: Wishes) -> Result<Arrived, ArriveError> {
        let Self(traveller) = self;
        let registry = Registry::new(Arc::clone(kv));
        let identity = traveller.identity()?;
        let name = wishes.name.unwrap_or_else(|| traveller.name.clone());
        let last = traveller.moves.last().ok_or(ArriveError::Content("record"))?;
        if registry.has_arrived(last).await? {
            return Err(ArriveError::Before);
        }
        let replaced = twin(&**kv, &registry, &identity).await?;
        if let Some(twin) = replaced.as_ref().filter(|twin| !twin.away) {
            return Err(ArriveError::Here(twin.name.to_string()));
        }
        let holder = registry.get(&name).await?;
        if holder.is_some_and(|holder| replaced.as_ref().is_none_or(|replaced| replaced.uid != holder.uid)) {
            return Err(ArriveError::NameTaken(name.to_string()));
        }
        let arrived = Arrived { name: name.clone(), rows: traveller.rows(), is_back: replaced.is_some() };
        if wishes.dry_run {
            return Ok(arrived);
        }
        let uid = Uuid::new_v4().to_string();
        let written = write(&**kv, &uid, &traveller, replaced.as_ref()).await;
        let Traveller { created_at, details, platform, webhook, moves, .. } = traveller;
        let arrival = Arrival { uid, name, created_at, details, platform, webhook, moves, identity };
        let entered = match written {
            Ok(()) => registry.arrive(&arrival, replaced.as_ref()).await,
            Err(error) => Err(error),
        };
        match entered {
            Ok(Entered::Listed) => {}
            refused => {
                // What can't be removed now is removed by the next start.
                let _swept_later = registry.erase(&arrival.uid).await;
                return Err(match refused {
                    Ok(Entered::Before) => ArriveError::Before,
                    Ok(_) => ArriveError::NameTaken(arrival.name.to_string()),
                    Err(error) => error.into(),
                });
            }
        }
        if let Some(replaced) = replaced {
            // Its device is this one's: it has nothing to say any more.
            registry.erase(&replaced.uid).await?;
            registry.forget(&replaced.uid, None).await?;
        }
        kv.flush().await?;
        Ok(arrived)
    }
}

/// The session of this store that has the same device: the one that runs, if there is such a one.
async fn twin(kv: &dyn Kv, registry: &Registry, device: &str) -> Result<Option<SessionRecord>, KvError> {
    let mut twins = Vec::new();
    for record in registry.list().await? {
        if record.state == RecordState::LoggedOut {
            continue;
        }
        let row = kv.get(&Namespace::credentials(&record.uid), Stored::KEY).await?;
        if row.is_some_and(|row| identity(&row).is_ok_and(|other| other == device)) {
            twins.push(record);
        }
    }
    twins.sort_by_key(|twin| twin.away);
    Ok(twins.into_iter().next())
}

async fn write(kv: &dyn Kv, uid: &str, traveller: &Traveller, replaced: Option<&SessionRecord>) -> Result<(), KvError> {
    put(kv, &Namespace::credentials(uid), &traveller.credentials).await?;
    put(kv, &Namespace::sent(uid), &traveller.sent).await?;
    if let Some(replaced) = replaced {
        let waiting = kv.snapshot(&Namespace::outbox(&replaced.uid)).await?;
        put(kv, &Namespace::outbox(uid), &waiting).await?;
    }
    kv.flush().await
}

async fn put(kv: &dyn Kv, ns: &Namespace, rows: &[(Bytes, Bytes)]) -> Result<(), KvError> {
    for rows in rows.chunks(ROWS) {
        let batch =
            rows.iter().fold(Batch::new().buffered(), |batch, (key, value)| batch.put(key.clone(), value.clone()));
        kv.write(ns, batch).await?;
    }
    Ok(())
}
