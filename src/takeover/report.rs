//! What a takeover did: per session what was taken, what was left, and why. It names sessions, never a number or a key.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// The whole takeover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where the credentials were found.
    pub source: String,
    /// When it was done.
    pub at: DateTime<Utc>,
    /// How long it took.
    pub milliseconds: u64,
    /// Nothing was written.
    pub dry_run: bool,
    /// Every session that was found, in the order of the source.
    pub sessions: Vec<SessionReport>,
}

/// One session of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionReport {
    /// Its name.
    pub session: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What was taken, in numbers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub taken: BTreeMap<&'static str, usize>,
    /// What was left out of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Left>,
}

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is a session of this gateway now (of a dry run: it would be).
    Taken,
    /// This gateway has a session of that name.
    Held,
    /// Its credentials were taken before, and are never taken twice.
    TakenBefore,
    /// It can't be used.
    Left,
}

/// Things of one kind that were left for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// What they are.
    pub what: String,
    /// Why they were left.
    pub why: String,
    /// How many.
    pub count: usize,
}

impl Report {
    /// How many sessions had this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.sessions.iter().filter(|session| session.outcome == outcome).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would be taken" } else { "taken" };
        write!(f, "{}: {} sessions {verb}", self.source, self.count(Outcome::Taken))?;
        for (outcome, text) in [
            (Outcome::Held, "are here already by name"),
            (Outcome::TakenBefore, "were taken before"),
            (Outcome::Left, "can't be used"),
        ] {
            if self.count(outcome) > 0 {
                write!(f, ", {} {text}", self.count(outcome))?;
            }
        }
        self.sessions.iter().try_for_each(|session| write!(f, "\n  {session}"))
    }
}

impl fmt::Display for SessionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.session)?;
        match (self.outcome, &self.why) {
            (Outcome::Taken, _) => f.write_str("taken")?,
            (Outcome::Held, _) => return f.write_str("not taken, this gateway has a session of that name"),
            (Outcome::TakenBefore, _) => return f.write_str("not taken, its credentials were taken before"),
            (Outcome::Left, why) => return write!(f, "not taken, {}", why.as_deref().unwrap_or("it can't be used")),
        }
        for (place, (what, count)) in self.taken.iter().enumerate() {
            write!(f, "{}{count} {what}", if place == 0 { " with " } else { ", " })?;
        }
        self.left.iter().try_for_each(|Left { what, why, count }| write!(f, "; left {count} of {what}: {why}"))
    }
}

/// Counts while a session is converted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    taken: BTreeMap<&'static str, usize>,
    left: BTreeMap<(String, String), usize>,
}

impl Tally {
    pub(super) fn took(&mut self, what: &'static str, count: usize) {
        if count > 0 {
            *self.taken.entry(what).or_default() += count;
        }
    }

    pub(super) fn left(&mut self, what: impl Into<String>, why: impl Into<String>, count: usize) {
        if count > 0 {
            *self.left.entry((what.into(), why.into())).or_default() += count;
        }
    }

    pub(super) fn report(self, session: &str, outcome: Outcome) -> SessionReport {
        let left = self.left.into_iter().map(|((what, why), count)| Left { what, why, count });
        SessionReport { session: session.to_owned(), outcome, why: None, taken: self.taken, left: left.collect() }
    }
}

impl SessionReport {
    pub(super) fn not_taken(session: &str, outcome: Outcome, why: Option<String>) -> Self {
        Self { session: session.to_owned(), outcome, why, taken: BTreeMap::new(), left: Vec::new() }
    }
}
