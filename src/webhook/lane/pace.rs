//! How fast one lane posts at most: a receiver that is back after an outage is not stormed.

use std::time::Duration;

use tokio::time::Instant;

/// So much of the pace may be caught up at once; timers are coarse.
const BURST: Duration = Duration::from_millis(50);

/// Spaces attempts.
pub(super) struct Pace {
    gap: Duration,
    next: Option<Instant>,
}

impl Pace {
    pub(super) fn new(max_per_sec: u32) -> Self {
        Self { gap: Duration::from_secs(1) / max_per_sec.max(1), next: None }
    }

    /// Takes the next turn: the wait until then.
    pub(super) fn turn(&mut self, now: Instant) -> Duration {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(turn + self.gap);
        turn.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_turns_than_it_may() {
        let mut pace = Pace::new(100);
        let begun = Instant::now();
        let (mut now, mut turns) = (begun, 0);
        while now - begun < Duration::from_secs(10) {
            now += pace.turn(now);
            turns += 1;
        }
        assert!((1_000..=1_006).contains(&turns), "{turns} turns in 10 s");
    }

    #[test]
    fn a_slow_receiver_is_not_slowed_further() {
        let mut pace = Pace::new(10);
        let mut now = Instant::now();
        for _ in 0..100 {
            now += Duration::from_millis(100);
            assert_eq!(pace.turn(now), Duration::ZERO);
        }
    }
}
