//! Who may call the API: keys with a name, the sessions that each may touch, and what it may do with them.
//!
//! Called by `http` for every request and by `gateway` at the start. Keys come from the setting `KEY`, from a file
//! (`file`), and from the API (`stored`). A key itself is never kept: only its SHA-256.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::store::{Kv, KvError};

mod check;
pub mod file;
mod login;
mod spec;
mod stored;

pub use check::check;
pub use login::{Login, Logins};
pub use spec::{Scopes, SessionSet, Spec, SpecError};
pub use stored::KeyError;

/// The SHA-256 of a key.
pub type Hash = [u8; 32];

/// The name of the master key.
pub const MASTER: &str = "KEY";

/// Keys that are this long are taken for unguessable: those that the gateway makes have 47 bytes.
const LONG_KEY_BYTES: usize = 32;

/// The hash that is kept of a key.
pub fn hash(key: &[u8]) -> Hash {
    Sha256::digest(key).into()
}

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The setting `KEY`, or the file that the gateway made for want of it.
    Setting,
    /// The file that `KEYS_FILE` names.
    File,
    /// The API.
    Api,
}

impl Origin {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::File => "file",
            Self::Api => "api",
        }
    }
}

/// What the holder of a key may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The key's name, never the key; where; what.
    pub spec: Spec,
    /// Where the key comes from.
    pub origin: Origin,
    /// When it was made; `None`: somebody else made it.
    pub created_at: Option<DateTime<Utc>>,
    /// Made at random, so that nobody finds it by trying.
    pub unguessable: bool,
}

impl Grant {
    /// Everything, with every session, for a caller who goes by this name.
    pub fn everything(name: &str) -> Self {
        let spec = Spec { name: name.to_owned(), sessions: SessionSet::All, scopes: Scopes::ALL };
        Self { spec, origin: Origin::Setting, created_at: None, unguessable: false }
    }

    /// Whether its holder may do everything, and what concerns the gateway as a whole.
    pub fn is_master(&self) -> bool {
        self.origin == Origin::Setting
    }
}

#[derive(Clone)]
struct Key {
    hash: Hash,
    grant: Arc<Grant>,
}

/// The keys that are valid now; cheap to clone.
#[derive(Clone)]
pub struct Keys {
    ring: Arc<RwLock<Vec<Key>>>,
    kv: Arc<dyn Kv>,
    /// Held while keys of the API change, so that the store and the ring agree; never while a request is checked.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Keys {
    /// Those that the API has made so far.
    ///
    /// # Errors
    /// As the engine's `range`.
    pub async fn open(kv: Arc<dyn Kv>) -> Result<Self, KvError> {
        let keys = Self { ring: Arc::default(), kv, changing: Arc::default() };
        let stored = stored::load(&*keys.kv).await?;
        keys.replace(Origin::Api, stored);
        Ok(keys)
    }

    /// Makes this the master key.
    pub fn set_master(&self, key: &[u8]) {
        let grant = Grant { unguessable: key.len() >= LONG_KEY_BYTES, ..Grant::everything(MASTER) };
        self.replace(Origin::Setting, vec![(hash(key), grant)]);
    }

    /// Tells master keys apart, and nothing of the key.
    fn master_print(&self) -> Option<String> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let master = ring.iter().find(|key| key.grant.is_master())?;
        Some(hex::encode(hash(&master.hash)))
    }

    /// Takes the keys of a file in place of those that came from one before; tells the log what changed, by name.
    pub fn set_file(&self, keys: Vec<(Hash, Spec)>) {
        let before = self.of(Origin::File);
        let grant = |spec| Grant { spec, origin: Origin::File, created_at: None, unguessable: false };
        self.replace(Origin::File, keys.into_iter().map(|(hash, spec)| (hash, grant(spec))).collect());
        let after = self.of(Origin::File);
        for (name, (hash, grant)) in &after {
            if before.get(name).is_none_or(|(old, was)| old != hash || was != grant) {
                tracing::info!(target: "wa_gateway::audit", action = "key added", key = %name, "KEYS_FILE grants a key");
            }
        }
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            tracing::info!(target: "wa_gateway::audit", action = "key removed", key = %name, "KEYS_FILE grants a key no more");
        }
    }

    fn of(&self, origin: Origin) -> HashMap<String, (Hash, Arc<Grant>)> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let those = ring.iter().filter(|key| key.grant.origin == origin);
        those.map(|key| (key.grant.spec.name.clone(), (key.hash, Arc::clone(&key.grant)))).collect()
    }

    fn replace(&self, origin: Origin, keys: Vec<(Hash, Grant)>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.retain(|key| key.grant.origin != origin);
        ring.extend(keys.into_iter().map(|(hash, grant)| Key { hash, grant: Arc::new(grant) }));
    }

    /// What the key with this hash may do; `None`: there is none.
    ///
    /// Takes the same time whichever key it is, and whether there is one.
    pub fn find(&self, hash: &Hash) -> Option<Arc<Grant>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let (mut found, mut at) = (Choice::from(0), 0_u64);
        for (index, key) in (0_u64..).zip(ring.iter()) {
            let is_this = key.hash.ct_eq(hash);
            at.conditional_assign(&index, is_this);
            found |= is_this;
        }
        if !bool::from(found) {
            return None;
        }
        usize::try_from(at).ok().and_then(|at| ring.get(at)).map(|key| Arc::clone(&key.grant))
    }

    /// All keys but the master, by name.
    pub fn list(&self) -> Vec<Arc<Grant>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let mut grants: Vec<_> = ring.iter().map(|key| Arc::clone(&key.grant)).collect();
        grants.retain(|grant| !grant.is_master());
        grants.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        grants
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

#[cfg(test)]
mod tests;
