//! Status events on their way to the outbox: what the store does not take is kept, and told before the next one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::super::state::{Damage, State};
use super::{Entry, lock};
use crate::event::Status;
use crate::outbox::{CommitError, NewEvent};
use crate::store::KvError;

/// Status events that are kept while the store takes none; then the oldest are lost.
const MAX_UNTOLD: usize = 8;
/// How often they are tried again.
const TELL_AGAIN: Duration = Duration::from_secs(2);

/// Status events that the outbox may not have, oldest first.
#[derive(Debug, Default)]
pub(super) struct Untold {
    events: VecDeque<NewEvent>,
    /// Whether a task tries them again.
    taken_care_of: bool,
}

impl Entry {
    /// Commits a status event. One that the store refuses is kept, and goes before the next one or when the store is back.
    pub(in crate::session) async fn tell(self: &Arc<Self>, status: Status) {
        tracing::info!(session = %self.name, status = status.as_str(), "status changed");
        {
            let mut untold = lock(&self.untold);
            if untold.events.len() >= MAX_UNTOLD {
                untold.events.pop_front();
                tracing::warn!(session = %self.name, "a status event is lost for the webhook: the store takes none");
            }
            untold.events.push_back(NewEvent::status(&self.uid, &self.name, status));
        }
        let Err(error) = self.tell_kept().await else { return };
        tracing::warn!(session = %self.name, %error, "a status event could not be stored for the webhook; trying again");
        if !std::mem::replace(&mut lock(&self.untold).taken_care_of, true) {
            let entry = Arc::clone(self);
            self.follow.tracker.spawn(async move { entry.keep_telling().await });
        }
    }

    /// Commits what is still to be told, in order. By its id the outbox takes each once, whatever became of an earlier try.
    async fn tell_kept(&self) -> Result<(), CommitError> {
        let events: Vec<NewEvent> = lock(&self.untold).events.iter().cloned().collect();
        match self.commit(events.iter().map(|event| (event.clone(), None)).collect()).await {
            // Deleted: its end is told otherwise.
            Ok(()) | Err(CommitError::Store(KvError::Fenced)) => {
                lock(&self.untold).events.retain(|kept| events.iter().all(|event| event.event_id != kept.event_id));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tries until all is told; what a stop of the gateway leaves then is lost.
    async fn keep_telling(&self) {
        loop {
            let stops = tokio::time::timeout(TELL_AGAIN, self.follow.token.cancelled()).await.is_ok();
            if let Err(error) = self.tell_kept().await {
                tracing::debug!(session = %self.name, %error, "a status event could not be stored for the webhook again");
            }
            // An outbox that can't be read takes nothing before a restart.
            let is_in_vain = stops || self.view().state == State::Damaged(Damage::Outbox);
            let mut untold = lock(&self.untold);
            if is_in_vain || untold.events.is_empty() {
                untold.taken_care_of = false;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::super::{Follow, Outbox, Settings, View};
    use super::*;
    use crate::event::SessionName;
    use crate::ledger::{Ledger, Limits};
    use crate::outbox::memory::{Fault, MemoryKv};
    use crate::outbox::{Bounds, Common, Kinds};
    use crate::store::registry::{RecordState, SessionRecord};

    const UID: &str = "0a";

    fn entry(kv: &Arc<MemoryKv>) -> Arc<Entry> {
        let name = SessionName::parse("a").unwrap();
        let record = SessionRecord {
            uid: UID.to_owned(),
            name: name.clone(),
            created_at: Utc::now(),
            sequence: 1,
            details: None,
            platform: None,
            state: RecordState::Live,
            webhook: None,
            ended: None,
            away: false,
            moves: Vec::new(),
        };
        let sent = Limits { messages: 100, age: Duration::from_hours(1), keys: 100 };
        let settings = Settings {
            check_numbers: false,
            start_timeout: Duration::from_secs(8),
            send_timeout: Duration::from_secs(25),
            qr_idle: Duration::from_mins(2),
            sent,
            media_owners: false,
            restore_concurrency: 1,
            watchdog: Duration::from_secs(30),
        };
        let common = Arc::new(Common::new(Bounds::default(), Kinds { session: true, ..Kinds::default() }, true));
        let outbox = Outbox::new(&common, Arc::clone(kv) as _, UID, name, None);
        let ledger = Ledger::new(Arc::clone(kv) as _, UID, sent);
        let follow = Follow::new(ledger, TaskTracker::new(), CancellationToken::new());
        let view = View::new(State::Connecting, Utc::now());
        Arc::new(Entry::new(record, view, outbox, follow, &settings, Arc::default()))
    }

    async fn told(entry: &Entry) -> Vec<String> {
        let waiting = entry.outbox.head(100).await.unwrap();
        let word = |body: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(body).unwrap()["status"].as_str().unwrap().to_owned()
        };
        waiting.iter().map(|entry| word(&entry.event.body)).collect()
    }

    #[tokio::test]
    async fn a_status_that_the_store_did_not_take_goes_before_the_next_one_and_once() {
        for fault in [Fault::Before, Fault::After] {
            let kv = Arc::new(MemoryKv::default());
            let entry = entry(&kv);
            entry.tell(Status::Connecting).await;
            kv.fail_next_write(fault);
            entry.tell(Status::Disconnected).await;
            entry.tell(Status::Connecting).await;
            assert_eq!(told(&entry).await, ["connecting", "disconnected", "connecting"], "{fault:?}");
            assert!(lock(&entry.untold).events.is_empty());
        }
    }

    #[tokio::test]
    async fn a_status_that_the_store_did_not_take_is_tried_again_by_itself() {
        let kv = Arc::new(MemoryKv::default());
        let entry = entry(&kv);
        kv.fail_next_write(Fault::Before);
        entry.tell(Status::Disconnected).await;
        assert!(told(&entry).await.is_empty());
        let taken = async {
            while told(&entry).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), taken).await.expect("it is tried again");
        entry.follow.tracker.close();
        tokio::time::timeout(Duration::from_secs(20), entry.follow.tracker.wait())
            .await
            .expect("nothing is left to do");
        assert_eq!(told(&entry).await, ["disconnected"]);
    }

    #[tokio::test]
    async fn only_the_newest_statuses_are_kept_while_the_store_takes_none() {
        let kv = Arc::new(MemoryKv::default());
        let entry = entry(&kv);
        for _ in 0..=MAX_UNTOLD {
            kv.fail_next_write(Fault::Before);
            entry.tell(Status::Connecting).await;
        }
        entry.tell(Status::Disconnected).await;
        let told = told(&entry).await;
        assert_eq!((told.len(), told.last().map(String::as_str)), (MAX_UNTOLD, Some("disconnected")));
        // Deleted: nothing is kept any more.
        entry.outbox.close().await;
        entry.tell(Status::Disconnected).await;
        assert!(lock(&entry.untold).events.is_empty());
    }
}
