//! How often a client may give a wrong key before it must wait.
//!
//! In memory and bounded. Clients behind one address must not lock each other out, so whoever has shown a key from that
//! address before goes on using it, and a key that nobody can guess always works.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::keys::Grant;

/// How long a wrong key counts.
pub(super) const WINDOW: Duration = Duration::from_mins(1);

/// Clients whose wrong keys are remembered, and pairs of client and key that went together; the oldest makes room.
pub(super) const MAX_CLIENTS: usize = 4096;

/// What a try came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The key is right.
    Right {
        /// It did not come from this client before.
        is_new: bool,
    },
    /// The key is wrong.
    Wrong,
    /// Too many wrong keys: whether this one is right is not told before this time has passed.
    Wait(Duration),
}

#[derive(Default)]
struct Memory {
    failures: HashMap<IpAddr, VecDeque<Instant>>,
    /// Clients with the name of the key that they have shown, and when they last did.
    known: HashMap<(IpAddr, String), Instant>,
}

impl Memory {
    /// How long the client must wait, when it must.
    fn wait(&mut self, client: IpAddr, now: Instant, most: usize) -> Option<Duration> {
        let failures = self.failures.get_mut(&client)?;
        failures.retain(|failed| now.duration_since(*failed) < WINDOW);
        let first = failures.front().copied().filter(|_| failures.len() >= most)?;
        Some(WINDOW.saturating_sub(now.duration_since(first)))
    }

    fn fail(&mut self, client: IpAddr, now: Instant) {
        self.failures.entry(client).or_default().push_back(now);
        keep_within_bound(&mut self.failures, &client, |failed| failed.back().copied());
    }
}

/// The wrong keys of all clients at one door.
pub(super) struct Attempts {
    /// Wrong keys of one client within [`WINDOW`].
    most: usize,
    memory: Mutex<Memory>,
}

impl Attempts {
    pub(super) fn new(most: usize) -> Self {
        Self { most, memory: Mutex::default() }
    }

    /// Compares, unless the client must wait. The count is looked at and written under one lock, so that guesses side by
    /// side count too.
    pub(super) fn guess(&self, client: IpAddr, now: Instant, is_right: impl FnOnce() -> bool) -> Verdict {
        let client = network(client);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = memory.wait(client, now, self.most) {
            return Verdict::Wait(wait);
        }
        if is_right() {
            memory.failures.remove(&client);
            return Verdict::Right { is_new: false };
        }
        memory.fail(client, now);
        Verdict::Wrong
    }

    /// Judges a key that was looked for already: `found` says what it grants.
    ///
    /// While the client must wait, a key that could be guessed counts only when this client has used it before: else the
    /// answer would tell a guesser what it is not to learn so fast.
    pub(super) fn judge(&self, client: IpAddr, now: Instant, found: Option<&Grant>) -> Verdict {
        let client = network(client);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = memory.wait(client, now, self.most);
        let Some(grant) = found else {
            return wait.map_or_else(
                || {
                    memory.fail(client, now);
                    Verdict::Wrong
                },
                Verdict::Wait,
            );
        };
        let pair = (client, grant.spec.name.clone());
        let is_new = !memory.known.contains_key(&pair);
        if let Some(wait) = wait
            && is_new
            && !grant.unguessable
        {
            return Verdict::Wait(wait);
        }
        memory.known.insert(pair.clone(), now);
        keep_within_bound(&mut memory.known, &pair, |used| Some(*used));
        Verdict::Right { is_new }
    }

    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.memory.lock().unwrap().failures.len()
    }
}

/// Removes the oldest entry when there are too many, whoever it is but `kept`.
fn keep_within_bound<K: Hash + Eq + Clone, V>(map: &mut HashMap<K, V>, kept: &K, last: impl Fn(&V) -> Option<Instant>) {
    if map.len() <= MAX_CLIENTS {
        return;
    }
    let oldest = map.iter().filter(|(key, _)| *key != kept).min_by_key(|(_, value)| last(value));
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        map.remove(&key);
    }
}

/// Whoever has an IPv6 address has all of its /64.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 5;

    fn client(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn only_wrong_keys_count_and_only_for_their_client() {
        let (attempts, mut now) = (Attempts::new(MOST), Instant::now());
        for _ in 0..20 {
            assert!(matches!(attempts.guess(client(1), now, || true), Verdict::Right { .. }));
        }
        for _ in 0..MOST {
            assert_eq!(attempts.guess(client(1), now, || false), Verdict::Wrong);
            now += Duration::from_secs(1);
        }
        let refused = attempts.guess(client(1), now, || unreachable!("nothing is compared while it waits"));
        assert_eq!(refused, Verdict::Wait(WINDOW.saturating_sub(Duration::from_secs(5))));
        assert!(matches!(attempts.guess(client(2), now, || true), Verdict::Right { .. }), "others are not locked out");
        now += WINDOW.saturating_sub(Duration::from_secs(5));
        assert!(matches!(attempts.guess(client(1), now, || true), Verdict::Right { .. }));
    }

    #[test]
    fn neighbours_of_a_guesser_go_on() {
        let (attempts, now) = (Attempts::new(MOST), Instant::now());
        let grant = |name: &str, unguessable| Grant { unguessable, ..Grant::everything(name) };
        let judge = |client, grant: &Grant| attempts.judge(client, now, Some(grant));
        assert_eq!(judge(client(1), &grant("used", false)), Verdict::Right { is_new: true });
        for _ in 0..MOST {
            assert_eq!(attempts.judge(client(1), now, None), Verdict::Wrong);
        }
        assert_eq!(attempts.judge(client(1), now, None), Verdict::Wait(WINDOW));
        assert_eq!(judge(client(1), &grant("used", false)), Verdict::Right { is_new: false });
        assert_eq!(judge(client(1), &grant("fresh", true)), Verdict::Right { is_new: true });
        assert_eq!(judge(client(1), &grant("guessed", false)), Verdict::Wait(WINDOW), "this may be the guesser's luck");
        assert_eq!(judge(client(2), &grant("guessed", false)), Verdict::Right { is_new: true });
        let later = now + WINDOW;
        assert_eq!(attempts.judge(client(1), later, Some(&grant("guessed", false))), Verdict::Right { is_new: true });
    }

    #[test]
    fn a_right_key_does_not_wipe_the_count() {
        let (attempts, now) = (Attempts::new(MOST), Instant::now());
        for _ in 0..MOST {
            assert_eq!(attempts.judge(client(1), now, None), Verdict::Wrong);
            attempts.judge(client(1), now, Some(&Grant::everything("mine")));
        }
        assert_eq!(attempts.judge(client(1), now, None), Verdict::Wait(WINDOW));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (attempts, now) = (Attempts::new(MOST), Instant::now());
        for n in 0..u32::try_from(MAX_CLIENTS).unwrap() + 10 {
            let client = IpAddr::from(n.to_be_bytes());
            assert_eq!(attempts.judge(client, now, None), Verdict::Wrong);
            attempts.judge(client, now, Some(&Grant::everything("a")));
        }
        let memory = attempts.memory.lock().unwrap();
        assert_eq!((memory.failures.len(), memory.known.len()), (MAX_CLIENTS, MAX_CLIENTS));
    }

    #[test]
    fn neighbours_in_ipv6_are_one_client() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), client(1));
    }
}
