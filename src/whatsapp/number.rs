//! Which numbers are on WhatsApp, as looked up lately by any session: a further message to a number asks nobody.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use whatsapp_rust::IsOnWhatsAppResult;

/// How long "is on WhatsApp" is believed.
const KNOWN_FOR: Duration = Duration::from_hours(24);
/// How long "is not on WhatsApp" is believed: short, since people join.
const UNKNOWN_FOR: Duration = Duration::from_mins(5);
/// Numbers remembered over all sessions, 17 to 34 bytes each: fifty of each of 2,000 sessions. Who does not find its contacts here
/// looks each up again.
const MOST: usize = 100_000;

/// What a look-up says of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It has no account.
    Nowhere,
    /// It has one.
    Here,
    /// Its account has this number, another spelling of the same line: Brazil's and Mexico's mobile numbers are dialled with a
    /// digit that those of accounts may lack, or the other way round.
    As(u64),
}

/// Numbers of accounts remembered that are dialled by others; past it all are asked for once more.
const MOST_OTHERS: usize = 20_000;

/// Numbers by what they spell.
#[derive(Debug)]
pub(super) struct Numbers {
    began: Instant,
    known: Mutex<HashMap<u64, Known>>,
    /// The numbers of accounts that are dialled by others; few.
    others: Mutex<HashMap<u64, u64>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    registered: bool,
    /// Seconds since all this began.
    at: u32,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), known: Mutex::default(), others: Mutex::default() }
    }

    pub(super) fn known(&self, number: &str) -> Option<Found> {
        let registered = self.known_at(number, self.now())?;
        Some(self.found(number, registered))
    }

    fn found(&self, number: &str, registered: bool) -> Found {
        if !registered {
            return Found::Nowhere;
        }
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        spelt(number).and_then(|number| others.get(&number).copied()).map_or(Found::Here, Found::As)
    }

    /// Learns from the answer to a look-up, and tells what it said; `None`: nothing of the number, as WhatsApp could not or
    /// would not look it up.
    pub(super) fn learn_from(&self, number: &str, result: Option<&IsOnWhatsAppResult>) -> Option<Found> {
        let result = result?;
        // 404: there is none.
        let refused = result.contact_error.as_ref().is_some_and(|error| error.code != Some(404));
        if refused {
            return None;
        }
        self.learn_at(number, result.is_registered, self.now());
        let phone = [Some(&result.jid), result.pn_jid.as_ref()].into_iter().flatten().find(|jid| jid.is_pn());
        self.set_other(number, phone.filter(|_phone| result.is_registered).map_or(number, |phone| &phone.user));
        Some(self.found(number, result.is_registered))
    }

    /// Notes which number the account has.
    fn set_other(&self, number: &str, account: &str) {
        let Some(number) = spelt(number) else { return };
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        match spelt(account).filter(|account| *account != number) {
            None => {
                others.remove(&number);
            }
            Some(account) => {
                if others.len() >= MOST_OTHERS && !others.contains_key(&number) {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    for (number, _account) in others.drain() {
                        known.remove(&number);
                    }
                }
                others.insert(number, account);
            }
        }
    }

    fn known_at(&self, number: &str, now: u32) -> Option<bool> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&spelt(number)?)?;
        let believed = if known.registered { KNOWN_FOR } else { UNKNOWN_FOR };
        let age = now.saturating_sub(known.at);
        (Duration::from_secs(age.into()) < believed).then_some(known.registered)
    }

    fn learn_at(&self, number: &str, registered: bool, at: u32) {
        let Some(number) = spelt(number) else { return };
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(&number) {
            forget_half(&mut all);
        }
        all.insert(number, Known { registered, at });
    }

    fn now(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

/// The older half.
fn forget_half(all: &mut HashMap<u64, Known>) {
    let mut ages: Vec<_> = all.iter().map(|(number, known)| (known.at, *number)).collect();
    let half = ages.len() / 2;
    ages.select_nth_unstable(half);
    for (_, number) in &ages[..half] {
        all.remove(number);
    }
}

/// The number as one; `None`: not one of E.164's, which begin with no zero.
fn spelt(number: &str) -> Option<u64> {
    if number.starts_with(['0', '+']) { None } else { number.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_is_known_for_a_while() {
        let numbers = Numbers::new();
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap();
        assert_eq!(numbers.known("6281"), None);
        numbers.learn_at("6281", true, 7);
        numbers.learn_at("6282", false, 7);
        let both = |now| (numbers.known_at("6281", now), numbers.known_at("6282", now));
        assert_eq!(both(7), (Some(true), Some(false)));
        assert_eq!(both(6 + seconds(UNKNOWN_FOR)), (Some(true), Some(false)));
        assert_eq!(both(7 + seconds(UNKNOWN_FOR)), (Some(true), None));
        numbers.learn_at("6282", true, 8);
        assert_eq!(both(7 + seconds(KNOWN_FOR)), (None, Some(true)));
        numbers.learn_at("6283", true, numbers.now());
        assert_eq!(numbers.known("6283"), Some(Found::Here));
    }

    #[tokio::test]
    async fn a_line_may_have_its_account_under_another_number() {
        let numbers = Numbers::new();
        numbers.learn_at("5511987654321", true, numbers.now());
        numbers.set_other("5511987654321", "551187654321");
        assert_eq!(numbers.known("5511987654321"), Some(Found::As(551_187_654_321)));
        assert_eq!(numbers.known("551187654321"), None);
        numbers.set_other("5511987654321", "5511987654321");
        assert_eq!(numbers.known("5511987654321"), Some(Found::Here), "it moved");
        for n in 0..=MOST_OTHERS {
            let number = format!("55{n:09}");
            numbers.learn_at(&number, true, numbers.now());
            numbers.set_other(&number, "62812");
        }
        assert_eq!(numbers.known("55000000000"), None, "what is forgotten is asked for again");
        assert_eq!(numbers.known(&format!("55{MOST_OTHERS:09}")), Some(Found::As(62_812)));
    }

    #[tokio::test]
    async fn what_is_no_number_is_no_others() {
        let numbers = Numbers::new();
        for odd in ["06281", "+6281", "", "6281x", "99999999999999999999"] {
            numbers.learn_at(odd, false, numbers.now());
            assert_eq!(numbers.known(odd), None, "{odd}");
        }
        assert_eq!(numbers.known("6281"), None);
    }

    #[tokio::test]
    async fn the_older_half_is_forgotten_when_there_are_too_many() {
        let numbers = Numbers::new();
        let name = |n: usize| format!("62{n:08}");
        for n in 0..MOST {
            numbers.learn_at(&name(n), true, u32::from(n >= MOST / 2));
        }
        numbers.learn_at(&name(0), false, 2);
        let known = |n: usize| numbers.known_at(&name(n), 2);
        assert_eq!(known(1), Some(true), "one that is known already takes no other's place");
        numbers.learn_at(&name(MOST), true, 2);
        assert_eq!((known(0), known(MOST)), (Some(false), Some(true)), "the newest");
        assert_eq!((1..MOST).filter(|n| known(*n).is_some()).count(), MOST / 2 - 1);
        assert!((1..MOST / 2).filter(|n| known(*n).is_some()).count() <= 1, "of the older ones");
    }
}
