//! Logins of the dashboard as they are kept: rows of the registry namespace, by the hash of the cookie's token, and the
//! secret of this installation. A stolen store opens no dashboard.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Hash, KeyError, Keys};
use crate::store::{Batch, KeyRange, Kv, KvError, Namespace};

pub(super) const LOGIN: &[u8] = b"login/";
pub(super) const SECRET: &[u8] = b"login-secret";

/// Bytes of the secret.
pub(super) const SECRET_BYTES: usize = 32;

/// One login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// When it was opened.
    pub since: DateTime<Utc>,
    /// When it was last used, as far as that was kept.
    pub used: DateTime<Utc>,
    /// Which master key it was opened with; with another one it is void.
    #[serde(default)]
    key: String,
}

/// The logins of this installation; cheap to clone.
#[derive(Clone)]
pub struct Logins {
    kv: Arc<dyn Kv>,
    secret: [u8; SECRET_BYTES],
    key: String,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logins")
    }
}

impl Logins {
    /// Those of this store, opened with the master key of `keys`; `None`: nobody needs one. Makes the secret when there is none.
    ///
    /// # Errors
    /// As the engine; and when the system gives no random bytes.
    pub async fn open(kv: Arc<dyn Kv>, keys: Option<&Keys>) -> Result<Self, KvError> {
        let ns = Namespace::registry();
        let kept = kv.get(&ns, SECRET).await?.and_then(|kept| <[u8; SECRET_BYTES]>::try_from(&kept[..]).ok());
        let mut secret = kept.unwrap_or_default();
        if kept.is_none() {
            getrandom::fill(&mut secret).map_err(|error| KvError::engine(error.to_string()))?;
            kv.write(&ns, Batch::new().put(SECRET, Bytes::copy_from_slice(&secret))).await?;
        }
        let key = keys.and_then(Keys::master_print).unwrap_or_default();
        Ok(Self { kv, secret, key })
    }

    /// The secret of this installation.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// All that were kept, by the hash of their tokens; those of another master key are removed.
    ///
    /// # Errors
    /// As the engine.
    pub async fn load(&self) -> Result<Vec<(Hash, Login)>, KvError> {
        let (mut logins, mut void) = (Vec::new(), Batch::new());
        for (key, row) in self.kv.range(&Namespace::registry(), KeyRange::prefix(LOGIN)).await? {
            let hash = Hash::try_from(&key[LOGIN.len()..]).ok();
            let login = serde_json::from_slice::<Login>(&row).ok().filter(|login| login.key == self.key);
            match hash.zip(login) {
                Some(kept) => logins.push(kept),
                None => void = void.remove(key),
            }
        }
        if !void.ops.is_empty() {
            self.kv.write(&Namespace::registry(), void).await?;
        }
        Ok(logins)
    }

    /// Keeps a login, and forgets others in the same write.
    ///
    /// # Errors
    /// [`KeyError::Store`].
    pub async fn open_login(&self, hash: &Hash, at: DateTime<Utc>, forgotten: &[Hash]) -> Result<(), KeyError> {
        let batch = forgotten.iter().fold(Batch::new(), |batch, hash| batch.remove(row_key(hash)));
        Ok(self.kv.write(&Namespace::registry(), batch.put(row_key(hash), self.row(at, at)?)).await?)
    }

    /// Keeps that a login was used; lost with a killed process, which only makes it look idle for a little longer.
    ///
    /// # Errors
    /// [`KeyError::Store`].
    pub async fn touch(&self, hash: &Hash, since: DateTime<Utc>, used: DateTime<Utc>) -> Result<(), KeyError> {
        let key = row_key(hash);
        // Only while it is there: a logout side by side must stay one.
        let Some(row) = self.kv.get(&Namespace::registry(), &key).await? else { return Ok(()) };
        let batch = Batch::new().expect(key.clone(), Some(row)).put(key, self.row(since, used)?).buffered();
        match self.kv.write(&Namespace::registry(), batch).await {
            Ok(()) | Err(KvError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets logins; absent is fine.
    ///
    /// # Errors
    /// [`KeyError::Store`].
    pub async fn forget(&self, hashes: &[Hash]) -> Result<(), KeyError> {
        let batch = hashes.iter().fold(Batch::new(), |batch, hash| batch.remove(row_key(hash)));
        Ok(self.kv.write(&Namespace::registry(), batch).await?)
    }

    fn row(&self, since: DateTime<Utc>, used: DateTime<Utc>) -> Result<Vec<u8>, KvError> {
        serde_json::to_vec(&Login { since, used, key: self.key.clone() }).map_err(KvError::engine)
    }
}

fn row_key(hash: &Hash) -> Bytes {
    [LOGIN, hash].concat().into()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::outbox::memory::MemoryKv;

    #[tokio::test]
    async fn logins_are_kept_for_their_key_until_they_are_forgotten() {
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::default());
        let keys = Keys::open(Arc::clone(&kv)).await.unwrap();
        keys.set_master(b"secret");
        let logins = Logins::open(Arc::clone(&kv), Some(&keys)).await.unwrap();
        let (now, later) = (Utc::now(), Utc::now() + TimeDelta::hours(1));
        for hash in [[1; 32], [2; 32], [3; 32]] {
            logins.open_login(&hash, now, &[]).await.unwrap();
        }
        logins.open_login(&[4; 32], now, &[[3; 32]]).await.unwrap();
        logins.touch(&[1; 32], now, later).await.unwrap();
        logins.forget(&[[2; 32]]).await.unwrap();
        logins.touch(&[2; 32], now, later).await.unwrap();

        let again = Logins::open(Arc::clone(&kv), Some(&keys)).await.unwrap();
        assert_eq!(again.secret(), logins.secret(), "one secret for each installation");
        let kept: Vec<_> = again.load().await.unwrap().into_iter().map(|(hash, login)| (hash[0], login.used)).collect();
        assert_eq!(kept, [(1, later), (4, now)]);

        keys.set_master(b"another");
        let other = Logins::open(Arc::clone(&kv), Some(&keys)).await.unwrap();
        assert!(other.load().await.unwrap().is_empty(), "a new KEY ends them");
        assert!(again.load().await.unwrap().is_empty(), "for good");
    }
}
