//! Logins of the dashboard: who holds a cookie, and how often a client may guess the key.
//!
//! Kept in memory and bounded; a restart signs everybody out. A cookie carries a random token and nothing of the key.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// The cookie's name, as wa-gateway 4.7.1 has it.
pub(super) const NAME: &str = "key";

/// Random bytes of a token: 256 bits can't be guessed.
const TOKEN_BYTES: usize = 32;

/// Logins at the same time; the one that was idle for longest makes room.
const MAX_LOGINS: usize = 1024;

/// A working day: who was away for longer signs in again.
const IDLE: Duration = Duration::from_hours(12);

/// However busy, a login ends after a week.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// Wrong keys of one client within [`WINDOW`] before it must wait. wa-gateway 4.7.1: five attempts, of all clients.
const MAX_FAILURES: usize = 5;

/// How long a wrong key counts.
const WINDOW: Duration = Duration::from_mins(1);

/// Clients whose wrong keys are remembered; the oldest makes room.
const MAX_CLIENTS: usize = 4096;

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
    since: Instant,
    used: Instant,
}

impl Login {
    fn is_alive(&self, now: Instant) -> bool {
        now.duration_since(self.used) < IDLE && now.duration_since(self.since) < LONGEST
    }
}

#[derive(Default)]
struct Memory {
    /// By the token's hash: what is in memory is no cookie.
    logins: HashMap<[u8; 32], Login>,
    failures: HashMap<IpAddr, Vec<Instant>>,
}

/// All logins and failures of one gateway.
pub(super) struct Logins {
    memory: Mutex<Memory>,
    /// Makes the form tokens; `None`: the system gave no random bytes, and no form is taken.
    secret: Option<[u8; TOKEN_BYTES]>,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logins")
    }
}

impl Logins {
    pub(super) fn new() -> Self {
        Self { memory: Mutex::default(), secret: random() }
    }

    /// Opens a login when the key is right, and gives its token.
    ///
    /// The count is looked at and written under one lock, so that guesses side by side count too.
    pub(super) fn sign_in(
        &self,
        client: IpAddr,
        now: Instant,
        is_right: impl FnOnce() -> bool,
    ) -> Result<String, Refused> {
        let client = network(client);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = memory.failures.entry(client).or_default();
        failures.retain(|failed| now.duration_since(*failed) < WINDOW);
        if failures.len() >= MAX_FAILURES {
            let wait = failures.first().map_or(WINDOW, |first| WINDOW.saturating_sub(now.duration_since(*first)));
            return Err(Refused::TooMany(wait));
        }
        if !is_right() {
            failures.push(now);
            memory.forget_a_client(client);
            return Err(Refused::WrongKey);
        }
        memory.failures.remove(&client);
        let token = hex::encode(random().ok_or(Refused::NoRandom)?);
        memory.make_room(now);
        memory.logins.insert(hash(&token), Login { since: now, used: now });
        Ok(token)
    }

    /// The token of these cookies that is a login's, and notes that it is in use.
    pub(super) fn find(&self, headers: &HeaderMap, now: Instant) -> Option<String> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        tokens(headers).find_map(|token| {
            let login = memory.logins.get_mut(&hash(token)).filter(|login| login.is_alive(now))?;
            login.used = now;
            Some(token.to_owned())
        })
    }

    /// Ends the logins of these cookies.
    pub(super) fn sign_out(&self, headers: &HeaderMap) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for token in tokens(headers) {
            memory.logins.remove(&hash(token));
        }
    }

    /// What a form of this login carries; without a login (open mode) that of this process.
    pub(super) fn form_token(&self, token: &str) -> Option<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret?).ok()?;
        mac.update(b"form ");
        mac.update(token.as_bytes());
        Some(hex::encode(mac.finalize().into_bytes()))
    }
}

impl Memory {
    fn make_room(&mut self, now: Instant) {
        if self.logins.len() < MAX_LOGINS {
            return;
        }
        self.logins.retain(|_token, login| login.is_alive(now));
        while self.logins.len() >= MAX_LOGINS {
            let Some(idlest) = self.logins.iter().min_by_key(|(_, login)| login.used).map(|(token, _)| *token) else {
                return;
            };
            self.logins.remove(&idlest);
        }
    }

    /// Keeps the number of clients within its bound, whoever else has to go.
    fn forget_a_client(&mut self, kept: IpAddr) {
        if self.failures.len() <= MAX_CLIENTS {
            return;
        }
        let oldest =
            self.failures.iter().filter(|(client, _)| **client != kept).min_by_key(|(_, failed)| failed.last());
        if let Some(client) = oldest.map(|(client, _)| *client) {
            self.failures.remove(&client);
        }
    }
}

/// Whoever has an IPv6 address has all of its /64.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn random() -> Option<[u8; TOKEN_BYTES]> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Cookies don't tell ports apart: another gateway on this host may have set one of the same name.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.filter(|(name, value)| *name == NAME && value.len() == 2 * TOKEN_BYTES).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, format!("a=b; {NAME}={token}; c=d").parse().unwrap())])
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_login_lives_while_it_is_used_and_a_week_at_most() {
        let (logins, mut now) = (Logins::new(), Instant::now());
        let token = logins.sign_in(client(1), now, || true).unwrap();
        assert_eq!(logins.find(&cookie(&token), now), Some(token.clone()));
        assert_eq!(logins.find(&cookie(&token.replace(char::is_alphanumeric, "0")), now), None);
        assert_eq!(logins.find(&HeaderMap::new(), now), None);
        for _ in 0..15 {
            now += Duration::from_hours(11);
            assert!(logins.find(&cookie(&token), now).is_some());
        }
        now += Duration::from_hours(4);
        assert_eq!(logins.find(&cookie(&token), now), None, "a week has passed");
        let idle = logins.sign_in(client(1), now, || true).unwrap();
        now += IDLE;
        assert_eq!(logins.find(&cookie(&idle), now), None);
        let ended = logins.sign_in(client(1), now, || true).unwrap();
        logins.sign_out(&cookie(&ended));
        assert_eq!(logins.find(&cookie(&ended), now), None);
    }

    #[test]
    fn only_failures_count_and_only_for_their_client() {
        let (logins, mut now) = (Logins::new(), Instant::now());
        for _ in 0..20 {
            logins.sign_in(client(1), now, || true).unwrap();
        }
        for _ in 0..MAX_FAILURES {
            assert_eq!(logins.sign_in(client(1), now, || false), Err(Refused::WrongKey));
            now += Duration::from_secs(1);
        }
        let refused = logins.sign_in(client(1), now, || unreachable!("nothing is compared while it waits"));
        assert_eq!(refused, Err(Refused::TooMany(WINDOW.saturating_sub(Duration::from_secs(5)))));
        assert!(logins.sign_in(client(2), now, || true).is_ok(), "others are not locked out");
        now += WINDOW.saturating_sub(Duration::from_secs(5));
        assert!(logins.sign_in(client(1), now, || true).is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (logins, now) = (Logins::new(), Instant::now());
        let first = logins.sign_in(client(1), now, || true).unwrap();
        let later = now + Duration::from_secs(1);
        let second = logins.sign_in(client(1), later, || true).unwrap();
        for _ in 1..MAX_LOGINS {
            logins.sign_in(client(1), later, || true).unwrap();
        }
        assert_eq!(logins.find(&cookie(&first), later), None, "it was idle for longest");
        assert!(logins.find(&cookie(&second), later).is_some());
        for n in 0..u32::try_from(MAX_CLIENTS).unwrap() + 10 {
            assert_eq!(logins.sign_in(IpAddr::from(n.to_be_bytes()), now, || false), Err(Refused::WrongKey));
        }
        let memory = logins.memory.lock().unwrap();
        assert_eq!((memory.logins.len(), memory.failures.len()), (MAX_LOGINS, MAX_CLIENTS));
    }

    #[test]
    fn neighbours_in_ipv6_are_one_client() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), client(1));
    }

    #[test]
    fn form_tokens_belong_to_one_login_of_one_process() {
        let (one, other) = (Logins::new(), Logins::new());
        let token = one.form_token("a").unwrap();
        assert_eq!(one.form_token("a").unwrap(), token);
        assert_ne!(one.form_token("b").unwrap(), token);
        assert_ne!(other.form_token("a").unwrap(), token);
    }
}
