//! What a full outbox does with the next event: it drops older ones that are no messages, or takes it not.

use std::sync::atomic::Ordering;

use super::event::Meta;
use super::{NewEvent, Outbox, WithFile, key, prefix, remove_event};
use crate::store::{Batch, KvError};

/// Events that one commit sheds at most; the next one goes on.
const SHED_AT_ONCE: usize = 256;

impl Outbox {
    /// Sheds what it must for these events to fit, whose ids `gone` takes, and leaves out those that are shed at once; `None`:
    /// messages don't fit.
    pub(super) async fn make_room<'a>(
        &self,
        meta: &mut Meta,
        (batch, gone): (&mut Batch, &mut Vec<String>),
        mut fresh: Vec<&'a WithFile>,
    ) -> Result<Option<Vec<&'a WithFile>>, KvError> {
        let has_message = fresh.iter().any(|(event, _)| !event.kind.may_be_shed());
        if has_message && self.inner.refusing.load(Ordering::Acquire) {
            return Ok(None);
        }
        let need: u64 = fresh.iter().map(|(event, _)| event.body.len() as u64).sum();
        let fits = |meta: &Meta, need: u64| {
            // What this batch frees is not counted yet, neither of all outboxes nor of this one.
            let (held, left) = (self.depth().bytes, meta.depth.bytes);
            let freed = held.saturating_sub(left);
            left == 0 || need <= freed || self.inner.common.has_room(held, need - freed)
        };
        if fits(meta, need) {
            return Ok(Some(fresh));
        }
        let shed = meta.counts.shed;
        let oldest = self.inner.kv.range(&self.inner.ns, prefix(b's', SHED_AT_ONCE)).await?;
        for seq in oldest.iter().filter_map(|(key, _)| key::seq_of(key)) {
            if fits(meta, need) {
                break;
            }
            let mut without = std::mem::take(batch).remove(key::shed_key(seq));
            if let Some(row) = self.inner.kv.get(&self.inner.ns, &key::event_key(seq)).await?
                && let Some((event, _at)) = NewEvent::decode(&row)
            {
                meta.take(event.kind, event.body.len());
                meta.counts.shed += 1;
                without = remove_event(without, seq, &event.event_id);
                gone.push(event.event_id);
            }
            *batch = without;
        }
        let full = !fits(meta, need);
        if full && !has_message {
            meta.counts.shed += fresh.len() as u64;
            fresh.clear();
        }
        if meta.counts.shed > shed && !self.inner.shedding.swap(true, Ordering::AcqRel) {
            let events = meta.counts.shed - shed;
            tracing::warn!(session = %self.inner.session, events, "the outbox is full: its oldest status events are dropped");
        }
        if full && has_message {
            if !self.inner.refusing.swap(true, Ordering::AcqRel) {
                let waiting = meta.depth.events();
                tracing::error!(session = %self.inner.session, waiting, "the outbox is full: messages stay at WhatsApp until there is room");
            }
            return Ok(None);
        }
        Ok(Some(fresh))
    }

    /// Whether messages are refused for lack of room, and there still is none.
    pub fn is_full(&self) -> bool {
        self.is_refusing() && !self.has_room()
    }

    /// Whether messages were refused since the last [`Outbox::resume`].
    pub fn is_refusing(&self) -> bool {
        self.inner.refusing.load(Ordering::Acquire)
    }

    /// Whether there is room again for an outbox that was full: some, so that it does not fill up at once.
    pub fn has_room(&self) -> bool {
        self.inner.common.has_much_room(self.depth().bytes)
    }

    /// Takes messages again: WhatsApp sends those anew that were refused, in their order.
    pub fn resume(&self) {
        self.inner.refusing.store(false, Ordering::Release);
    }
}
