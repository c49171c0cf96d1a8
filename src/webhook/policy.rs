//! What an answer of the receiver means: delivered, try again and when, or never.
//!
//! Pure arithmetic, no clock and no randomness of its own.

use std::time::Duration;

/// How long and how often a delivery is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The wait after the first failure; doubled after each further one.
    pub first_delay: Duration,
    /// The longest wait of our own.
    pub max_delay: Duration,
    /// How far a wait may differ to either side, as a part of it, so that lanes don't return all at once.
    pub jitter: f64,
    /// The longest wait that a receiver may ask for by `Retry-After`.
    pub max_retry_after: Duration,
    /// Age of an event after which a failure is its last.
    pub give_up_after: Duration,
    /// Time for the TCP and TLS handshakes.
    pub connect_limit: Duration,
    /// Time for one whole attempt, connecting included.
    pub attempt_limit: Duration,
    /// How long a message waits for its file, and with it what its chat sends after it, before it goes without.
    pub file_wait: Duration,
    /// Failures of a chat's oldest event after which the chat may step aside.
    pub aside_after: u32,
    /// Attempts of one lane in a second.
    pub max_per_sec: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_mins(5),
            jitter: 0.2,
            max_retry_after: Duration::from_hours(1),
            // A weekend and a day: longer outages are noticed.
            give_up_after: Duration::from_hours(72),
            connect_limit: Duration::from_secs(5),
            // Below the 20 s that a shutdown waits, so that an attempt under way ends by itself.
            attempt_limit: Duration::from_secs(15),
            // A little more than the session's own limit for a download, which tells a reason.
            file_wait: Duration::from_mins(1),
            // With the waits above: after some eight minutes.
            aside_after: 10,
            max_per_sec: 1_000,
        }
    }
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The receiver answered.
    Status {
        /// HTTP status.
        code: u16,
        /// The wait that the receiver asked for.
        retry_after: Option<Duration>,
    },
    /// No answer within the attempt's limit.
    TimedOut,
    /// No connection, or it broke; the reason holds no address.
    Unreachable(String),
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// Another attempt after this wait.
    Retry(Duration),
    /// The receiver will never take it.
    Refused,
    /// It is too old for another attempt.
    GivenUp,
}

impl RetryPolicy {
    /// Judges the answer to attempt number `attempts` (1 is the first) of an event of this age; `dice` is in 0..1.
    pub fn judge(&self, answer: &Answer, attempts: u32, age: Duration, dice: f64) -> Verdict {
        let asked = match answer {
            Answer::Status { code: 200..=299, .. } => return Verdict::Delivered,
            Answer::Status { code: 408 | 425 | 429 | 500..=599, retry_after } => *retry_after,
            // Redirects too that are not followed: those would send the key to a host that nobody configured.
            Answer::Status { .. } => return Verdict::Refused,
            Answer::TimedOut | Answer::Unreachable(_) => None,
        };
        if age >= self.give_up_after {
            return Verdict::GivenUp;
        }
        Verdict::Retry(match asked {
            Some(wait) => wait.clamp(self.first_delay.min(self.max_retry_after), self.max_retry_after),
            None => self.delay(attempts, dice),
        })
    }

    /// How old an event is about when it has failed [often enough](Self::aside_after) by our own waits.
    pub(super) fn aside_age(&self) -> Duration {
        (1..self.aside_after).map(|attempts| self.delay(attempts, 0.5)).sum()
    }

    /// Exponential, capped, then jittered.
    pub(super) fn delay(&self, attempts: u32, dice: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let delay = self.first_delay.saturating_mul(1 << doublings).min(self.max_delay);
        delay.mul_f64((1.0 + self.jitter * (2.0 * dice - 1.0)).max(0.0))
    }
}

/// A number in 0..1 for the jitter; the middle when the system gives none.
pub(super) fn dice() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: f64 = 0.5;

    fn status(code: u16) -> Answer {
        Answer::Status { code, retry_after: None }
    }

    fn asks(code: u16, secs: u64) -> Answer {
        Answer::Status { code, retry_after: Some(Duration::from_secs(secs)) }
    }

    #[test]
    fn answers_are_judged_by_status() {
        let policy = RetryPolicy::default();
        let again = Verdict::Retry(Duration::from_secs(1));
        for (answer, verdict) in [
            (status(200), Verdict::Delivered),
            (status(204), Verdict::Delivered),
            (status(299), Verdict::Delivered),
            (status(301), Verdict::Refused),
            (status(304), Verdict::Refused),
            (status(400), Verdict::Refused),
            (status(401), Verdict::Refused),
            (status(404), Verdict::Refused),
            (status(410), Verdict::Refused),
            (status(408), again),
            (status(425), again),
            (status(429), again),
            (status(500), again),
            (status(503), again),
            (status(599), again),
            (Answer::TimedOut, again),
            (Answer::Unreachable("refused".to_owned()), again),
        ] {
            assert_eq!(policy.judge(&answer, 1, Duration::ZERO, MIDDLE), verdict, "{answer:?}");
        }
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_jitter_by_a_fifth() {
        let policy = RetryPolicy::default();
        let delays: Vec<u64> = (1..=12).map(|attempts| policy.delay(attempts, MIDDLE).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(policy.delay(u32::MAX, MIDDLE), Duration::from_mins(5));
        assert_eq!(policy.aside_age(), Duration::from_secs(511));
        assert_eq!(policy.delay(1, 0.0), Duration::from_millis(800));
        assert_eq!(policy.delay(1, 1.0), Duration::from_millis(1200));
    }

    #[test]
    fn retry_after_is_respected_within_bounds() {
        let policy = RetryPolicy::default();
        for (asked, waited) in [(0, 1), (1, 1), (90, 90), (3_600, 3_600), (86_400, 3_600)] {
            let verdict = policy.judge(&asks(503, asked), 7, Duration::ZERO, MIDDLE);
            assert_eq!(verdict, Verdict::Retry(Duration::from_secs(waited)), "asked for {asked} s");
        }
        assert_eq!(policy.judge(&asks(403, 9), 1, Duration::ZERO, MIDDLE), Verdict::Refused);
    }

    #[test]
    fn after_72_hours_a_failure_is_the_last_and_a_success_still_counts() {
        let policy = RetryPolicy::default();
        let (young, old) = (Duration::from_secs(72 * 3600 - 1), Duration::from_hours(72));
        assert!(matches!(policy.judge(&status(500), 900, young, MIDDLE), Verdict::Retry(_)));
        assert_eq!(policy.judge(&status(500), 900, old, MIDDLE), Verdict::GivenUp);
        assert_eq!(policy.judge(&Answer::TimedOut, 1, old, MIDDLE), Verdict::GivenUp);
        assert_eq!(policy.judge(&status(200), 900, old, MIDDLE), Verdict::Delivered);
    }

    #[test]
    fn a_schedule_of_failures_ends_shortly_after_72_hours() {
        let policy = RetryPolicy::default();
        let (mut age, mut attempts) = (Duration::ZERO, 0);
        loop {
            attempts += 1;
            match policy.judge(&status(500), attempts, age, MIDDLE) {
                Verdict::Retry(wait) => age += wait,
                verdict => break assert_eq!(verdict, Verdict::GivenUp),
            }
        }
        assert!(age >= policy.give_up_after && age < policy.give_up_after + policy.max_delay);
        assert_eq!(attempts, 873);
    }

    #[test]
    fn the_dice_stay_in_range() {
        assert!((0..1000).map(|_| dice()).all(|dice| (0.0..=1.0).contains(&dice)));
    }
}
