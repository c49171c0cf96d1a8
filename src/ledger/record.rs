//! What is kept of a sent message, and what a step does to it; pure.

use serde::{Deserialize, Serialize};

use crate::message::{Progress, Step};

/// A sent message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The chat it went to, as `user@server`.
    pub to: String,
    /// When it was sent, in Unix milliseconds; its age is counted from here.
    pub at_ms: i64,
    /// Whether it went to our own account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_self: bool,
    /// The furthest step.
    pub step: Step,
    /// WhatsApp's code for the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// When each step was first reached, in Unix seconds.
    #[serde(default)]
    pub times: Times,
    /// How many members of the group reached each step.
    #[serde(default)]
    pub members: Members,
}

/// When each step was first reached, in Unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// Refused, or not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<i64>,
    /// Taken by WhatsApp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<i64>,
    /// On a device of the recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<i64>,
    /// Seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<i64>,
    /// Listened to or watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub played: Option<i64>,
}

/// How many members of a group reached each step; who has read a message counts as delivered too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Members {
    /// On a device of theirs.
    pub delivered: u32,
    /// Seen.
    pub read: u32,
    /// Listened to or watched.
    pub played: u32,
}

impl std::fmt::Debug for Record {
    /// Without the address, which may not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("step", &self.step).finish_non_exhaustive()
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing new.
    None,
    /// A time that was not known yet.
    Time,
    /// The message, or a member of its group, got further.
    Further,
}

impl Record {
    /// A message that is about to be sent.
    pub fn new(to: String, to_self: bool, at_ms: i64) -> Self {
        let (times, members) = (Times::default(), Members::default());
        Self { to, at_ms, to_self, step: Step::Pending, code: None, times, members }
    }

    /// Whether it went to a group.
    pub fn is_group(&self) -> bool {
        self.to.ends_with("@g.us")
    }

    /// Whether this can have been said of this message: a receipt comes from the kind of chat that the message went to,
    /// and our own devices tell of what we sent to ourselves only.
    pub(super) fn concerns(&self, progress: &Progress) -> bool {
        match &progress.teller {
            None => true,
            Some(teller) => teller.in_group == self.is_group() && (self.to_self || !teller.is_self),
        }
    }

    /// The step that must have come before this one: what somebody has, WhatsApp took. A receipt can be noted before
    /// WhatsApp's own acknowledgement is.
    pub(super) fn sent_before(&self, progress: &Progress) -> Option<Progress> {
        (self.step < Step::Sent && progress.step > Step::Sent).then(|| Progress {
            id: progress.id.clone(),
            step: Step::Sent,
            at: progress.at,
            code: None,
            teller: None,
        })
    }

    /// Takes a step; `member` is how far the group's member who tells so was before.
    pub(super) fn take(&mut self, progress: &Progress, member: Option<Step>) -> Change {
        let slot = match progress.step {
            Step::Pending => return Change::None,
            Step::Failed if self.step >= Step::Sent => return Change::None,
            Step::Failed => &mut self.times.failed,
            Step::Sent => &mut self.times.sent,
            Step::Delivered => &mut self.times.delivered,
            Step::Read => &mut self.times.read,
            Step::Played => &mut self.times.played,
        };
        let first = slot.is_none();
        slot.get_or_insert(progress.at);
        let in_group = self.is_group() && progress.teller.is_some();
        let further =
            if in_group { member.is_none_or(|before| before < progress.step) } else { self.step < progress.step };
        if further && in_group {
            let before = member.unwrap_or(Step::Sent);
            for (step, count) in [
                (Step::Delivered, &mut self.members.delivered),
                (Step::Read, &mut self.members.read),
                (Step::Played, &mut self.members.played),
            ] {
                *count += u32::from(before < step && step <= progress.step);
            }
        }
        if self.step < progress.step {
            self.step = progress.step;
            self.code = progress.code;
        }
        match (further, first) {
            (true, _) => Change::Further,
            (false, true) => Change::Time,
            (false, false) => Change::None,
        }
    }

    /// When the furthest step was reached, in Unix seconds.
    pub fn since(&self) -> i64 {
        let Times { failed, sent, delivered, read, played } = self.times;
        let time = match self.step {
            Step::Pending => None,
            Step::Failed => failed,
            Step::Sent => sent,
            Step::Delivered => delivered,
            Step::Read => read,
            Step::Played => played,
        };
        time.unwrap_or(self.at_ms / 1000)
    }
}
