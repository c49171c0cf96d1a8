//! Keys that the API makes and removes: rows of the registry namespace, by name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use secrecy::SecretString;

use super::spec::Row;
use super::{Grant, Hash, Key, Keys, Origin, Spec, hash};
use crate::store::{Batch, KeyRange, Kv, KvError, Namespace};

pub(super) const KEY: &[u8] = b"key/";

/// Random bytes of a key: 256 bits can't be guessed.
const KEY_BYTES: usize = 32;

/// So that a key which leaks is recognised for what it is.
const PREFIX: &str = "wag_";

/// Keys of the API; each request is compared with all of them.
const MAX_KEYS: usize = 1000;

/// Why a key was not made or removed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is one of this name.
    #[error("There is a key of this name")]
    Exists,
    /// There is none of this name.
    #[error("There is no key of this name")]
    NotFound,
    /// It stands in a file, which the gateway does not write.
    #[error("This key stands in KEYS_FILE: remove it there")]
    OfFile,
    /// There are as many as can be.
    #[error("There are too many keys: remove some first")]
    TooMany,
    /// The system gave no random bytes.
    #[error("No key can be made for the moment")]
    NoRandom,
    /// The store refused.
    #[error("The key store is not available")]
    Store(#[from] KvError),
}

fn row_key(name: &str) -> Bytes {
    [KEY, name.as_bytes()].concat().into()
}

/// A key of the store: the hash of its secret, what it may do, when it was made.
pub(super) fn parse(row: &[u8]) -> Option<(Hash, Spec, Option<DateTime<Utc>>)> {
    let row = serde_json::from_slice::<Row>(row).ok()?;
    Some((row.hash()?, row.spec().ok()?, row.created_at))
}

/// The keys of the store; a row that can't be read is logged and grants nothing.
pub(super) async fn load(kv: &dyn Kv) -> Result<Vec<(Hash, Grant)>, KvError> {
    let mut keys = Vec::new();
    for (key, row) in kv.range(&Namespace::registry(), KeyRange::prefix(KEY)).await? {
        let Some((hash, spec, created_at)) = parse(&row) else {
            let name = String::from_utf8_lossy(&key[KEY.len()..]);
            tracing::error!(%name, "an API key's record can't be read: the key is not valid");
            continue;
        };
        keys.push((hash, Grant { spec, origin: Origin::Api, created_at, unguessable: true }));
    }
    Ok(keys)
}

impl Keys {
    /// Makes a key; the secret is known to the caller only, from here on.
    ///
    /// # Errors
    /// By [`KeyError`]; nothing was made.
    pub async fn create(&self, spec: Spec) -> Result<(SecretString, Grant), KeyError> {
        let _changing = self.changing.lock().await;
        let known = self.list();
        if known.iter().any(|grant| grant.spec.name == spec.name) {
            return Err(KeyError::Exists);
        }
        if known.len() >= MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|_| KeyError::NoRandom)?;
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let hash = hash(secret.as_bytes());
        let created_at = Utc::now().trunc_subsecs(3);
        let row = Row {
            name: spec.name.clone(),
            hash: hex::encode(hash),
            sessions: Some(spec.sessions.words().into_iter().map(str::to_owned).collect()),
            scopes: Some(spec.scopes.words().into_iter().map(str::to_owned).collect()),
            created_at: Some(created_at),
        };
        let row = serde_json::to_vec(&row).map_err(KvError::engine)?;
        self.kv.write(&Namespace::registry(), Batch::new().put(row_key(&spec.name), row)).await?;
        let grant = Grant { spec, origin: Origin::Api, created_at: Some(created_at), unguessable: true };
        let mut ring = self.ring.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        ring.push(Key { hash, grant: std::sync::Arc::new(grant.clone()) });
        Ok((SecretString::from(secret), grant))
    }

    /// Removes a key of the API: when this returns, it opens nothing any more.
    ///
    /// # Errors
    /// By [`KeyError`]; after `Store` it may be valid again after a start.
    pub async fn remove(&self, name: &str) -> Result<(), KeyError> {
        let _changing = self.changing.lock().await;
        match self.list().iter().find(|grant| grant.spec.name == name).map(|grant| grant.origin) {
            Some(Origin::Api) => {}
            Some(Origin::File) => return Err(KeyError::OfFile),
            Some(Origin::Setting) | None => return Err(KeyError::NotFound),
        }
        {
            // First here, so that a store that fails does not keep it valid.
            let mut ring = self.ring.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            ring.retain(|key| key.grant.origin != Origin::Api || key.grant.spec.name != name);
        }
        self.kv.write(&Namespace::registry(), Batch::new().remove(row_key(name))).await?;
        Ok(())
    }
}
