//! Answers that come after their attempt's time: a receiver that is always slow would otherwise be asked for ever.

use super::super::attempt::{Flow, Outcome};
use super::super::post::Late as Answer;
use super::{Role, Run, Webhook};
use crate::outbox::{Entry, Outbox};

/// An event whose last attempt may still be answered, until the next.
pub(super) struct Late {
    pub(super) entry: Entry,
    pub(super) attempts: u32,
    pub(super) answer: Option<Answer>,
}

impl Late {
    /// Returns when the answer has decided.
    pub(super) async fn decided(&mut self, webhook: &Webhook, outbox: &Outbox) -> Outcome {
        let Self { entry, attempts, answer } = self;
        webhook.decided_late(outbox.session(), &entry.event, entry.committed_at, *attempts, answer).await
    }
}

impl Run {
    /// Removes or buries what was put back, and was answered before its next attempt.
    pub(super) async fn settle_late(&mut self, late: &Late, outcome: Outcome) -> Flow {
        let Late { entry, attempts, .. } = late;
        self.queue.forget(entry);
        self.end(entry, *attempts, outcome).await?;
        let blocks = self.block.as_ref().is_some_and(|block| block.chat == entry.event.chat);
        self.decided(if blocks { Role::Blocking } else { Role::Probe });
        Flow::Continue(())
    }
}
