//! Who may call the API: keys with a name, the sessions that each may touch, and what it may do with them.
//!
//! Called by `http` for every request and by `gateway` at the start. A key itself is never kept: only its SHA-256.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// The SHA-256 of a key.
pub type Hash = [u8; 32];

/// The hash that is kept of a key.
pub fn hash(key: &[u8]) -> Hash {
    Sha256::digest(key).into()
}

/// What a key may do with the sessions that it may touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right of its own")]
pub struct Scopes {
    /// See sessions.
    pub read: bool,
    /// Send messages.
    pub send: bool,
    /// Start, stop, log out and delete sessions.
    pub manage: bool,
}

impl Scopes {
    /// Everything.
    pub const ALL: Self = Self { read: true, send: true, manage: true };
}

/// The sessions that a key may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSet {
    /// Every one, those to come too.
    All,
    /// Those with one of these names; a name that ends in `*` stands for all that begin so.
    Named(Vec<String>),
}

impl SessionSet {
    /// Whether a session of this name belongs to the set.
    pub fn contains(&self, session: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| match name.strip_suffix('*') {
                Some(start) => session.starts_with(start),
                None => name == session,
            }),
        }
    }
}

/// What the holder of a key may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The key's name; never the key.
    pub name: String,
    /// Where.
    pub sessions: SessionSet,
    /// What.
    pub scopes: Scopes,
    /// It is `KEY`, or no key is asked for: it may do everything, and what concerns the gateway as a whole.
    pub is_master: bool,
}

impl Grant {
    /// Everything, with every session.
    pub fn master(name: &str) -> Self {
        Self { name: name.to_owned(), sessions: SessionSet::All, scopes: Scopes::ALL, is_master: true }
    }
}

#[derive(Clone)]
struct Key {
    hash: Hash,
    grant: Arc<Grant>,
}

/// The keys that are valid now; cheap to clone.
#[derive(Clone, Default)]
pub struct Keys(Arc<RwLock<Vec<Key>>>);

impl Keys {
    /// Adds a key.
    pub fn add(&self, hash: Hash, grant: Grant) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(Key { hash, grant: Arc::new(grant) });
    }

    /// What the key with this hash may do; `None`: there is none.
    ///
    /// Takes the same time whichever key it is, and whether there is one.
    pub fn find(&self, hash: &Hash) -> Option<Arc<Grant>> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (mut found, mut at) = (Choice::from(0), 0_u64);
        for (index, key) in (0_u64..).zip(keys.iter()) {
            let is_this = key.hash.ct_eq(hash);
            at.conditional_assign(&index, is_this);
            found |= is_this;
        }
        if !bool::from(found) {
            return None;
        }
        usize::try_from(at).ok().and_then(|at| keys.get(at)).map(|key| Arc::clone(&key.grant))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_sessions_holds_names_and_beginnings() {
        let set = SessionSet::Named(["shop", "team-*"].map(str::to_owned).to_vec());
        for (session, is_in) in [
            ("shop", true),
            ("shop2", false),
            ("Shop", false),
            ("team-", true),
            ("team-a", true),
            ("team", false),
            ("", false),
        ] {
            assert_eq!(set.contains(session), is_in, "{session}");
        }
        assert!(SessionSet::All.contains("anything"));
        assert!(!SessionSet::Named(Vec::new()).contains(""));
    }

    #[test]
    fn a_key_is_found_by_its_hash_only() {
        let keys = Keys::default();
        assert_eq!(keys.find(&hash(b"")), None);
        for name in ["one", "two", "three"] {
            keys.add(hash(name.as_bytes()), Grant::master(name));
        }
        for name in ["one", "two", "three"] {
            assert_eq!(keys.find(&hash(name.as_bytes())).unwrap().name, name);
        }
        assert_eq!(keys.find(&hash(b"four")), None);
    }
}
