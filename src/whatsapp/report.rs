//! What the library reports: turned into signals, acknowledgements and messages, without ever waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use whatsapp_rust::Client;
use whatsapp_rust::types::durability_hook::{InboundDurabilityHook, InboundMessage};
use whatsapp_rust::wacore::types::events::{ConnectFailureReason, Event, EventHandler};
use whatsapp_rust::wacore_binary::Node;

use super::outbound::{Acks, Heard};
use super::pace::Pace;
use super::{Commit, Follow, Received, Shared, Signal, Verdict, inbound, receipt};

/// A number is looked up in the store for no longer.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Messages outside the durable path that are made ready, and receipts that are looked up, at a time.
pub(super) const TURNS: usize = 64;

/// Commits before the library acknowledges to WhatsApp.
pub(super) struct Hook {
    pub(super) commit: Commit,
    pub(super) pace: Arc<Pace>,
    pub(super) heard: Arc<Heard>,
}

#[async_trait::async_trait]
impl InboundDurabilityHook for Hook {
    async fn on_messages(&self, client: Arc<Client>, batch: &[InboundMessage]) -> anyhow::Result<()> {
        // What comes in a group has a chain of its own, which nothing of ours is sent with.
        if batch.iter().any(|item| !item.info.source.is_group) {
            self.heard.batch();
        }
        let received = inbound::received(&client, batch).await;
        if received.is_empty() {
            return Ok(());
        }
        let _committing = self.pace.commit();
        (self.commit)(received).await
    }
}

/// Turns the library's events into signals; runs on the library's tasks, so it never waits.
pub(super) struct Events {
    pub(super) client: std::sync::Weak<Client>,
    pub(super) shared: Arc<Shared>,
    pub(super) acks: Arc<Acks>,
    pub(super) signals: mpsc::Sender<Signal>,
    pub(super) late: mpsc::Sender<Vec<Received>>,
    pub(super) turns: Arc<Semaphore>,
    pub(super) progress: Follow,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) tracker: TaskTracker,
}

impl Events {
    fn signal(&self, signal: Signal) {
        if let Err(error) = self.signals.try_send(signal) {
            tracing::debug!(%error, "a signal found no reader");
        }
    }

    /// Takes a receipt whose number the store may know; how far a message got does not depend on the order.
    fn look_up(&self, client: Arc<Client>, event: Arc<Event>, turn: OwnedSemaphorePermit) {
        let progress = Arc::clone(&self.progress);
        self.tracker.spawn_on(
            async move {
                let _turn = turn;
                let Event::Receipt(receipt) = &*event else { return };
                let Some(sender) = receipt::hidden(receipt) else { return };
                let phone = tokio::time::timeout(LOOK_UP, inbound::phone_address(&client, sender, None)).await;
                receipt::progress(&client, receipt, phone.ok()).for_each(|step| progress(step));
            },
            &self.runtime,
        );
    }

    /// Messages that the durability hook does not see: at most once, and dropped when the session can't keep up.
    fn late(&self, batch: Arc<[InboundMessage]>) {
        let (client, late) = (self.client.clone(), self.late.clone());
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            tracing::warn!("a message outside the durable path was dropped: too many wait");
            return;
        };
        self.tracker.spawn_on(
            async move {
                let _turn = turn;
                let Some(client) = client.upgrade() else { return };
                let received = inbound::received(&client, &batch).await;
                if !received.is_empty() && late.try_send(received).is_err() {
                    tracing::warn!("a message outside the durable path was dropped: too many wait");
                }
            },
            &self.runtime,
        );
    }
}

impl EventHandler for Events {
    fn handle_event(&self, event: Arc<Event>) {
        match &*event {
            Event::PairingQrCode(qr) => self.signal(Signal::Qr { code: qr.code.clone(), valid_for: qr.timeout }),
            Event::PairingQrCodesExhausted(_) => self.signal(Signal::QrExhausted),
            Event::PairSuccess(pair) => {
                let platform = Some(pair.platform.clone()).filter(|platform| !platform.is_empty());
                self.signal(Signal::Paired { platform });
            }
            Event::PairError(_) => self.signal(Signal::PairFailed),
            Event::Connected(_) => self.signal(Signal::Connected),
            Event::OfflineSyncCompleted(_) => self.signal(Signal::CaughtUp),
            // Whoever was removed all the same is told so at the next login.
            Event::LoggedOut(out) if out.raw.as_ref().is_some_and(is_other_stream) => {
                self.signal(Signal::Ended(Verdict::Replaced));
            }
            // Raised by our own logout too, which has no stanza behind it.
            Event::LoggedOut(out) if out.raw.is_some() => {
                self.signal(Signal::Ended(match out.reason {
                    ConnectFailureReason::AccountLocked => Verdict::Locked,
                    // 406, which WhatsApp Web calls banned (whatsmeow, `ConnectFailureUnknownLogout`).
                    ConnectFailureReason::UnknownLogout => Verdict::Banned(None),
                    _ => Verdict::LoggedOut,
                }));
            }
            Event::StreamReplaced(_) => self.signal(Signal::Ended(Verdict::Replaced)),
            Event::TemporaryBan(ban) => {
                let length = ban.expire.to_std().unwrap_or_default();
                self.signal(Signal::Ended(Verdict::Banned(Some(length))));
            }
            Event::ClientOutdated(_) => {
                self.shared.version.refused();
                self.signal(Signal::Ended(Verdict::Outdated));
            }
            Event::ConnectFailure(failure) if !failure.reason.should_reconnect() => {
                self.signal(Signal::Ended(match failure.reason {
                    // A ban whose length is missing or makes no sense.
                    ConnectFailureReason::TempBanned => Verdict::Banned(None),
                    reason => Verdict::Refused(reason.code()),
                }));
            }
            // Baileys and some servers write the number; the library knows the child `conflict` only.
            Event::StreamError(error) if error.code == "440" => self.signal(Signal::Ended(Verdict::Replaced)),
            Event::StreamError(_) => self.signal(Signal::StreamError),
            Event::ServerAck(ack) => self.acks.resolve(ack, |progress| (self.progress)(progress)),
            Event::Receipt(receipt) => {
                let Some(client) = self.client.upgrade() else { return };
                // Where too many are looked up already, this one is told by the LID.
                match receipt::hidden(receipt).and_then(|_sender| Arc::clone(&self.turns).try_acquire_owned().ok()) {
                    Some(turn) => self.look_up(client, event, turn),
                    None => receipt::progress(&client, receipt, None).for_each(|progress| (self.progress)(progress)),
                }
            }
            Event::Messages(batch) if !batch.hook_committed => self.late(Arc::clone(&batch.messages)),
            _ => {}
        }
    }
}

/// Whether a stanza that the library takes for a logout says only that there is another stream, as a conflict does (RFC 6120,
/// section 4.9.3.3): it takes all of them so but `replaced`.
fn is_other_stream(stanza: &Node) -> bool {
    let kind = stanza
        .get_optional_child("conflict")
        .and_then(|conflict| conflict.attrs().optional_string("type").map(std::borrow::Cow::into_owned));
    let is_logout = matches!(stanza.attrs().optional_string("code").as_deref(), Some("401" | "516"));
    stanza.tag == "stream:error" && !is_logout && kind.is_some_and(|kind| kind != "device_removed")
}

#[cfg(test)]
mod tests {
    use whatsapp_rust::NodeBuilder;

    use super::*;

    #[test]
    fn only_what_says_that_the_device_was_removed_is_a_logout() {
        let error = |code: Option<&str>, kind: Option<&str>| {
            let children = kind.map(|kind| NodeBuilder::new("conflict").attr("type", kind).build());
            let error = NodeBuilder::new("stream:error").children(children);
            code.into_iter().fold(error, |error, code| error.attr("code", code)).build()
        };
        for (code, kind, other) in [
            (Some("401"), Some("device_removed"), false),
            (None, Some("device_removed"), false),
            (Some("401"), Some("taken"), false),
            (Some("401"), None, false),
            (Some("516"), None, false),
            (None, Some("taken"), true),
            (Some("409"), Some("taken"), true),
        ] {
            assert_eq!(is_other_stream(&error(code, kind)), other, "{code:?} {kind:?}");
        }
        assert!(!is_other_stream(&NodeBuilder::new("failure").attr("reason", "401").build()));
    }
}
