//! Logins of the dashboard: who holds a cookie.
//!
//! Bounded, and kept by `keys`, so that a restart signs nobody out. A cookie carries a random token and nothing of the key;
//! only the token's hash is kept.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::attempts::{Attempts, Verdict};
use crate::keys::{self, Hash, KeyError};

/// The cookie's name, as wa-gateway 4.7.1 has it.
pub(super) const NAME: &str = "key";

/// Random bytes of a token: 256 bits can't be guessed.
const TOKEN_BYTES: usize = 32;

/// Logins at the same time; the one that was idle for longest makes room.
const MAX_LOGINS: usize = 1024;

/// A working day: who was away for longer signs in again.
const IDLE: TimeDelta = TimeDelta::hours(12);

/// However busy, a login ends after a week.
const LONGEST: TimeDelta = TimeDelta::hours(7 * 24);

/// How far the store may lag behind in what it knows of a login's use.
const KEEP_EVERY: TimeDelta = TimeDelta::minutes(10);

/// Wrong keys of one client within a minute before it must wait. wa-gateway 4.7.1: five attempts, of all clients.
const MAX_FAILURES: usize = 5;

/// Why a client was not signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Refused {
    /// The key is wrong.
    WrongKey,
    /// Too many wrong keys: nothing is compared before this time has passed.
    TooMany(Duration),
    /// The system gave no random bytes.
    NoRandom,
}

struct Login {
    since: DateTime<Utc>,
    used: DateTime<Utc>,
    /// What the store knows of `used`.
    kept: DateTime<Utc>,
}

impl Login {
    /// A clock that was set back makes no login older.
    fn is_alive(&self, now: DateTime<Utc>) -> bool {
        now - self.used < IDLE && now - self.since < LONGEST
    }
}

#[derive(Default)]
struct Memory {
    /// By the token's hash: what is in memory is no cookie.
    logins: HashMap<Hash, Login>,
}

/// All logins of one gateway.
pub(super) struct Logins {
    memory: Mutex<Memory>,
    attempts: Attempts,
    store: keys::Logins,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logins")
    }
}

impl Logins {
    /// With those that were kept.
    pub(super) fn new(store: keys::Logins, kept: Vec<(Hash, keys::Login)>) -> Self {
        let login = |login: keys::Login| Login { since: login.since, used: login.used, kept: login.used };
        let logins = kept.into_iter().map(|(hash, kept)| (hash, login(kept))).collect();
        Self { memory: Mutex::new(Memory { logins }), attempts: Attempts::new(MAX_FAILURES), store }
    }

    /// Opens a login when the key is right, and gives its token.
    pub(super) async fn sign_in(
        &self,
        client: IpAddr,
        now: DateTime<Utc>,
        is_right: impl FnOnce() -> bool,
    ) -> Result<String, Refused> {
        match self.attempts.guess(client, Instant::now(), is_right) {
            Verdict::Right { .. } => {}
            Verdict::Wrong => return Err(Refused::WrongKey),
            Verdict::Wait(wait) => return Err(Refused::TooMany(wait)),
        }
        let token = hex::encode(random().ok_or(Refused::NoRandom)?);
        let hash = keys::hash(token.as_bytes());
        let forgotten = {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            let forgotten = memory.make_room(now);
            memory.logins.insert(hash, Login { since: now, used: now, kept: now });
            forgotten
        };
        if let Err(error) = self.store.open_login(&hash, now, &forgotten).await {
            tracing::warn!(%error, "a login could not be kept: it ends with this process");
        }
        Ok(token)
    }

    /// The token of these cookies that is a login's, and notes that it is in use.
    pub(super) async fn find(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Option<String> {
        let (token, touched) = {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            tokens(headers).find_map(|token| {
                let hash = keys::hash(token.as_bytes());
                let login = memory.logins.get_mut(&hash).filter(|login| login.is_alive(now))?;
                login.used = now;
                let touched = (now - login.kept > KEEP_EVERY).then(|| {
                    login.kept = now;
                    (hash, login.since)
                });
                Some((token.to_owned(), touched))
            })?
        };
        if let Some((hash, since)) = touched
            && let Err(error) = self.store.touch(&hash, since, now).await
        {
            tracing::debug!(%error, "the use of a login could not be kept");
        }
        Some(token)
    }

    /// Ends the logins of these cookies; after an error they may be back after a start.
    pub(super) async fn sign_out(&self, headers: &HeaderMap) -> Result<(), KeyError> {
        let hashes: Vec<Hash> = tokens(headers).map(|token| keys::hash(token.as_bytes())).collect();
        {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.logins.retain(|hash, _login| !hashes.contains(hash));
        }
        self.store.forget(&hashes).await
    }

    /// What a form of this login carries; without a login (open mode) that of this installation.
    pub(super) fn form_token(&self, token: &str) -> Option<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.store.secret()).ok()?;
        mac.update(b"form ");
        mac.update(token.as_bytes());
        Some(hex::encode(mac.finalize().into_bytes()))
    }
}

impl Memory {
    /// Makes room for one more; gives those that had to go.
    fn make_room(&mut self, now: DateTime<Utc>) -> Vec<Hash> {
        let mut forgotten = Vec::new();
        if self.logins.len() < MAX_LOGINS {
            return forgotten;
        }
        self.logins.retain(|hash, login| {
            let is_alive = login.is_alive(now);
            if !is_alive {
                forgotten.push(*hash);
            }
            is_alive
        });
        while self.logins.len() >= MAX_LOGINS {
            let Some(idlest) = self.logins.iter().min_by_key(|(_, login)| login.used).map(|(token, _)| *token) else {
                break;
            };
            self.logins.remove(&idlest);
            forgotten.push(idlest);
        }
        forgotten
    }
}

fn random() -> Option<[u8; TOKEN_BYTES]> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Cookies don't tell ports apart: another gateway on this host may have set one of the same name.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.filter(|(name, value)| *name == NAME && value.len() == 2 * TOKEN_BYTES).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::attempts::{MAX_CLIENTS, WINDOW};
    use super::*;
    use crate::outbox::memory::MemoryKv;

    fn cookie(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, format!("a=b; {NAME}={token}; c=d").parse().unwrap())])
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    async fn logins(kv: &Arc<MemoryKv>) -> Logins {
        let kv = Arc::<MemoryKv>::clone(kv);
        let store = keys::Logins::open(kv, None).await.unwrap();
        let kept = store.load().await.unwrap();
        Logins::new(store, kept)
    }

    async fn fresh() -> Logins {
        logins(&Arc::default()).await
    }

    #[tokio::test]
    async fn a_login_lives_while_it_is_used_and_a_week_at_most() {
        let (logins, mut now) = (fresh().await, Utc::now());
        let token = logins.sign_in(client(1), now, || true).await.unwrap();
        assert_eq!(logins.find(&cookie(&token), now).await, Some(token.clone()));
        assert_eq!(logins.find(&cookie(&token.replace(char::is_alphanumeric, "0")), now).await, None);
        assert_eq!(logins.find(&HeaderMap::new(), now).await, None);
        for _ in 0..15 {
            now += TimeDelta::hours(11);
            assert!(logins.find(&cookie(&token), now).await.is_some());
        }
        now += TimeDelta::hours(4);
        assert_eq!(logins.find(&cookie(&token), now).await, None, "a week has passed");
        let idle = logins.sign_in(client(1), now, || true).await.unwrap();
        now += IDLE;
        assert_eq!(logins.find(&cookie(&idle), now).await, None);
        let ended = logins.sign_in(client(1), now, || true).await.unwrap();
        logins.sign_out(&cookie(&ended)).await.unwrap();
        assert_eq!(logins.find(&cookie(&ended), now).await, None);
    }

    #[tokio::test]
    async fn a_restart_signs_nobody_out_and_in() {
        let (kv, now) = (Arc::<MemoryKv>::default(), Utc::now());
        let before = logins(&kv).await;
        let used = before.sign_in(client(1), now, || true).await.unwrap();
        let ended = before.sign_in(client(1), now, || true).await.unwrap();
        let form = before.form_token(&used);
        before.sign_out(&cookie(&ended)).await.unwrap();
        assert!(before.find(&cookie(&used), now + TimeDelta::hours(11)).await.is_some());
        let after = logins(&kv).await;
        let later = now + TimeDelta::hours(22);
        assert_eq!(after.find(&cookie(&used), later).await, Some(used.clone()), "its use was kept, too");
        assert_eq!(after.find(&cookie(&ended), now).await, None);
        assert_eq!(after.form_token(&used), form, "pages from before still work");
        for (_, row) in
            crate::store::Kv::range(&*kv, &crate::store::Namespace::registry(), crate::store::KeyRange::all())
                .await
                .unwrap()
        {
            assert!(!String::from_utf8_lossy(&row).contains(&used), "the token is stored");
        }
    }

    #[tokio::test]
    async fn five_wrong_keys_are_enough() {
        let (logins, now) = (fresh().await, Utc::now());
        for _ in 0..MAX_FAILURES {
            assert_eq!(logins.sign_in(client(1), now, || false).await, Err(Refused::WrongKey));
        }
        let refused = logins.sign_in(client(1), now, || unreachable!("nothing is compared while it waits")).await;
        assert!(matches!(refused, Err(Refused::TooMany(wait)) if wait <= WINDOW));
        assert!(logins.sign_in(client(2), now, || true).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let kv = Arc::<MemoryKv>::default();
        let (logins_of, now) = (logins(&kv).await, Utc::now());
        let first = logins_of.sign_in(client(1), now, || true).await.unwrap();
        let later = now + TimeDelta::seconds(1);
        let second = logins_of.sign_in(client(1), later, || true).await.unwrap();
        for _ in 1..MAX_LOGINS {
            logins_of.sign_in(client(1), later, || true).await.unwrap();
        }
        assert_eq!(logins_of.find(&cookie(&first), later).await, None, "it was idle for longest");
        assert!(logins_of.find(&cookie(&second), later).await.is_some());
        assert_eq!(logins(&kv).await.memory.lock().unwrap().logins.len(), MAX_LOGINS, "in the store, too");
        for n in 0..u32::try_from(MAX_CLIENTS).unwrap() + 10 {
            let client = IpAddr::from(n.to_be_bytes());
            assert_eq!(logins_of.sign_in(client, now, || false).await, Err(Refused::WrongKey));
        }
        assert_eq!(
            (logins_of.memory.lock().unwrap().logins.len(), logins_of.attempts.clients()),
            (MAX_LOGINS, MAX_CLIENTS)
        );
    }

    #[tokio::test]
    async fn form_tokens_belong_to_one_login_of_one_installation() {
        let (one, other) = (fresh().await, fresh().await);
        let token = one.form_token("a").unwrap();
        assert_eq!(one.form_token("a").unwrap(), token);
        assert_ne!(one.form_token("b").unwrap(), token);
        assert_ne!(other.form_token("a").unwrap(), token);
    }
}
