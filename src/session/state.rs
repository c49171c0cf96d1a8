//! What a session is doing, and what a signal from WhatsApp makes of it: pure, without I/O.

use std::borrow::Cow;
use std::time::Duration;

use crate::event::Status;
use crate::whatsapp::{Signal, Verdict};

/// What a session is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Has no credentials and no code yet: dialling.
    Starting,
    /// Shows a code and waits for a scan.
    WaitingForScan {
        /// The current code.
        code: String,
    },
    /// Nobody asked for a code for a while: not dialling until somebody does.
    Idle,
    /// The phone accepted; the first login follows.
    Pairing,
    /// Has credentials; dialling or logging in.
    Connecting,
    /// Logged in.
    Connected,
    /// Has credentials that WhatsApp refuses for now; tried again and again, until it takes them.
    Held(Verdict),
    /// The store refused a write: closed until writes work again.
    StoreFailed {
        /// Whether a phone has accepted the session.
        paired: bool,
    },
    /// What is stored of it can't be read: it may not log in, and no other device takes its place unasked.
    Damaged(Damage),
    /// Keeps its credentials, if it has any, and does nothing until a start.
    Stopped,
    /// Its device lives on another host: only a delete changes that, or its return by an import.
    Moved,
    /// Has no credentials any more; only a start or a delete changes that.
    LoggedOut,
}

/// What of a session can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Its device.
    Device,
    /// The counters of its outbox: what it would commit could overwrite what waits.
    Outbox,
}

impl Damage {
    /// The reason as it stands in answers.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Device => "device_unreadable",
            Self::Outbox => "outbox_unreadable",
        }
    }
}

impl State {
    /// The contract's word.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Starting
            | Self::WaitingForScan { .. }
            | Self::Pairing
            | Self::Connecting
            | Self::Held(_)
            | Self::StoreFailed { .. } => Status::Connecting,
            Self::Connected => Status::Connected,
            Self::Idle | Self::Damaged(_) | Self::Stopped | Self::Moved | Self::LoggedOut => Status::Disconnected,
        }
    }

    /// Our own word, which tells more than the contract's.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WaitingForScan { .. } => "waiting_for_scan",
            Self::Idle => "idle",
            Self::Pairing => "pairing",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Held(Verdict::Replaced) => "replaced",
            Self::Held(Verdict::Banned(_)) => "banned",
            Self::Held(Verdict::Outdated) => "outdated",
            Self::Held(Verdict::Locked) => "locked",
            Self::Held(Verdict::Refused(_) | Verdict::LoggedOut) => "refused",
            Self::StoreFailed { .. } => "store_failed",
            Self::Damaged(_) => "damaged",
            Self::Stopped => "stopped",
            Self::Moved => "moved",
            Self::LoggedOut => "logged_out",
        }
    }

    /// Why it is so, as far as the state itself knows.
    pub(super) fn reason(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Idle => "nobody_asked".into(),
            Self::Held(Verdict::Replaced) => "other_connection".into(),
            Self::Held(Verdict::Banned(Some(_))) => "temporary_ban".into(),
            Self::Held(Verdict::Banned(None)) => "account_banned".into(),
            Self::Held(Verdict::Outdated) => "version_refused".into(),
            Self::Held(Verdict::Locked) => "account_locked".into(),
            Self::Held(Verdict::Refused(code)) => format!("code_{code}").into(),
            Self::Held(Verdict::LoggedOut) => "code_401".into(),
            Self::StoreFailed { .. } => "write_refused".into(),
            Self::Damaged(damage) => damage.word().into(),
            _ => return None,
        })
    }

    /// Whether a phone has accepted this session.
    pub(super) fn is_paired(&self) -> bool {
        matches!(
            self,
            Self::Pairing | Self::Connecting | Self::Connected | Self::Held(_) | Self::StoreFailed { paired: true }
        )
    }

    /// Whether a phone has just accepted it, and no login succeeded yet.
    fn is_fresh(&self) -> bool {
        matches!(self, Self::Pairing | Self::Held(Verdict::LoggedOut))
    }

    /// Whether it does nothing until a start: it ended by a verb or by WhatsApp's own word, or its keys are damaged.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Stopped | Self::Moved | Self::LoggedOut)
    }
}

/// What the owner task does besides taking the new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Goes on.
    Stay,
    /// Closes this connection and makes a new one, after a pause for this verdict.
    Renew(Option<Verdict>),
    /// Removes the credentials and ends.
    Wipe,
}

/// The state after a signal, and what to do.
pub(super) fn next(state: &State, signal: &Signal) -> (State, Step) {
    let paired = state.is_paired();
    match signal {
        Signal::Qr { code, .. } if !paired => (State::WaitingForScan { code: code.clone() }, Step::Stay),
        Signal::QrExhausted if !paired => (State::Starting, Step::Renew(None)),
        // A code after the pairing is a leftover of the connection that ended with it.
        Signal::Qr { .. } | Signal::QrExhausted | Signal::StreamError | Signal::CaughtUp => (state.clone(), Step::Stay),
        Signal::Paired { .. } => (State::Pairing, Step::Stay),
        Signal::PairFailed => (State::Starting, Step::Renew(None)),
        Signal::Connected => (State::Connected, Step::Stay),
        // The server closes the connection that paired (stream error 515); the login follows by itself.
        Signal::LinkDown => match state {
            State::Pairing | State::Held(_) => (state.clone(), Step::Stay),
            _ if paired => (State::Connecting, Step::Stay),
            _ => (State::Starting, Step::Stay),
        },
        // WhatsApp may be behind with what the phone has just accepted; the task's owner knows when it has had time enough.
        Signal::Ended(Verdict::LoggedOut) if state.is_fresh() => {
            (State::Held(Verdict::LoggedOut), Step::Renew(Some(Verdict::LoggedOut)))
        }
        Signal::Ended(Verdict::LoggedOut) if paired => (State::LoggedOut, Step::Wipe),
        Signal::Ended(verdict) if paired => (State::Held(*verdict), Step::Renew(Some(*verdict))),
        Signal::Ended(verdict) => (State::Starting, Step::Renew(Some(*verdict))),
    }
}

/// How long to wait before try `attempt` (from 0) at a connection that WhatsApp ended with this verdict, without jitter.
///
/// Network failures are not paced here but by the library (1, 1, 2, 3, 5 … s).
pub(super) fn pause(verdict: Option<Verdict>, attempt: u32) -> Duration {
    /// Longest pause: an owner who has unlocked the account shall not wait for hours.
    const LONGEST: Duration = Duration::from_mins(15);
    /// The same for a replacement: who ends the other program wants this one back.
    const REPLACED: Duration = Duration::from_secs(30);
    let (first, longest) = match verdict {
        None => return Duration::ZERO,
        // An hour at most: bans are lifted early too.
        Some(Verdict::Banned(Some(length))) => return length.clamp(Duration::from_secs(5), Duration::from_hours(1)),
        Some(Verdict::Replaced) => (2, REPLACED),
        Some(Verdict::Outdated | Verdict::Refused(_) | Verdict::LoggedOut) => (2, LONGEST),
        Some(Verdict::Locked | Verdict::Banned(None)) => (30, LONGEST),
    };
    Duration::from_secs(first).saturating_mul(2_u32.saturating_pow(attempt)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_state() -> Vec<State> {
        vec![
            State::Starting,
            State::WaitingForScan { code: "a".to_owned() },
            State::Idle,
            State::Pairing,
            State::Connecting,
            State::Connected,
            State::Held(Verdict::Replaced),
            State::StoreFailed { paired: true },
            State::Damaged(Damage::Device),
            State::Stopped,
            State::Moved,
            State::LoggedOut,
        ]
    }

    #[test]
    fn each_state_has_a_word_of_its_own() {
        let mut words: Vec<_> = every_state().iter().map(State::word).collect();
        let held = [Verdict::Banned(None), Verdict::Outdated, Verdict::Locked, Verdict::Refused(409)];
        words.extend(held.map(|verdict| State::Held(verdict).word()));
        let distinct: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), words.len(), "{words:?}");
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        assert_eq!(State::Held(Verdict::Refused(409)).reason().as_deref(), Some("code_409"));
        let ban = Verdict::Banned(Some(Duration::from_mins(5)));
        assert_eq!(State::Held(ban).reason().as_deref(), Some("temporary_ban"));
        assert_eq!(State::Connected.reason(), None);
    }

    #[test]
    fn the_three_words_are_the_contract_s() {
        let words: Vec<_> = every_state().iter().map(|state| state.status().as_str()).collect();
        assert_eq!(
            words,
            [
                "connecting",
                "connecting",
                "disconnected",
                "connecting",
                "connecting",
                "connected",
                "connecting",
                "connecting",
                "disconnected",
                "disconnected",
                "disconnected",
                "disconnected"
            ]
        );
    }

    #[test]
    fn a_code_is_shown_only_to_sessions_that_are_not_paired() {
        let code = Signal::Qr { code: "b".to_owned(), valid_for: Duration::from_secs(20) };
        for state in every_state() {
            let (after, step) = next(&state, &code);
            assert_eq!(step, Step::Stay);
            if state.is_paired() {
                assert_eq!(after, state);
            } else {
                assert_eq!(after, State::WaitingForScan { code: "b".to_owned() });
            }
        }
    }

    #[test]
    fn only_a_logout_wipes_and_only_what_is_paired() {
        for state in every_state() {
            for verdict in [Verdict::Locked, Verdict::Replaced, Verdict::Outdated, Verdict::Refused(418)] {
                let (after, step) = next(&state, &Signal::Ended(verdict));
                assert_eq!(step, Step::Renew(Some(verdict)));
                assert_ne!(after, State::LoggedOut);
            }
            let (_after, step) = next(&state, &Signal::Ended(Verdict::LoggedOut));
            assert_eq!(step == Step::Wipe, state.is_paired() && !state.is_fresh());
        }
    }

    #[test]
    fn credentials_that_never_logged_in_survive_a_logout() {
        let (after, step) = next(&State::Pairing, &Signal::Ended(Verdict::LoggedOut));
        assert_eq!(step, Step::Renew(Some(Verdict::LoggedOut)));
        assert!(after.is_paired() && after.word() == "refused" && after.reason().as_deref() == Some("code_401"));
        assert_eq!(next(&after, &Signal::Ended(Verdict::LoggedOut)), (after.clone(), step));
        assert_eq!(next(&after, &Signal::LinkDown), (after.clone(), Step::Stay));
        assert_eq!(next(&after, &Signal::Connected).0, State::Connected);
    }

    #[test]
    fn a_lost_link_is_never_connected() {
        for state in every_state() {
            let (after, step) = next(&state, &Signal::LinkDown);
            assert_eq!(step, Step::Stay);
            assert!(!matches!(after, State::WaitingForScan { .. }), "its code can't be scanned any more");
            assert_ne!(after.status(), Status::Connected);
            assert_eq!(after.is_paired(), state.is_paired());
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(None, 9), Duration::ZERO);
        assert_eq!(pause(Some(Verdict::Replaced), 0), Duration::from_secs(2));
        assert_eq!(pause(Some(Verdict::Replaced), 3), Duration::from_secs(16));
        assert_eq!(pause(Some(Verdict::Replaced), 40), Duration::from_secs(30));
        assert_eq!(pause(Some(Verdict::Locked), 40), Duration::from_mins(15));
        assert_eq!(pause(Some(Verdict::Banned(Some(Duration::from_secs(90)))), 5), Duration::from_secs(90));
        assert_eq!(pause(Some(Verdict::Banned(Some(Duration::ZERO))), 0), Duration::from_secs(5));
    }
}
