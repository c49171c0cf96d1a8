//! What a phone received, kept for tests to read: messages, receipts and typing, each in the order of arrival.
//!
//! Filled by the phone's task; waiting is by deadline and never polls.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use whatsapp_rust::Jid;
use whatsapp_rust::waproto::whatsapp as wa;

/// A message that the phone decrypted.
#[derive(Clone, Serialize)]
pub struct Received {
    /// The id that the sender chose.
    pub id: String,
    /// The contact or group; for a copy of an own companion's message, where that one went.
    #[serde(serialize_with = "as_text")]
    pub chat: Jid,
    /// The stanza's `from` as it came: the sending device, or the group.
    #[serde(serialize_with = "as_text")]
    pub from: Jid,
    /// The sending device, in groups.
    #[serde(serialize_with = "as_optional_text")]
    pub participant: Option<Jid>,
    /// The text, if it is a text message.
    pub text: Option<String>,
    /// What was decrypted, without the wrapper of own copies.
    #[serde(skip)]
    pub message: Arc<wa::Message>,
    /// `pkmsg`, `msg` or `skmsg`.
    pub enc_type: String,
    /// The position in the sender's chain.
    pub counter: Option<u32>,
    /// True for a copy of what a companion of the same account sent.
    pub from_me: bool,
}

/// Without the message, whose many empty fields would fill a screen.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("id", &self.id)
            .field("chat", &self.chat.to_string())
            .field("sender", &self.sender().to_string())
            .field("text", &self.text)
            .field("enc_type", &self.enc_type)
            .field("counter", &self.counter)
            .field("from_me", &self.from_me)
            .finish_non_exhaustive()
    }
}

impl Received {
    /// The sending device.
    pub fn sender(&self) -> &Jid {
        self.participant.as_ref().unwrap_or(&self.from)
    }
}

/// What a receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptKind {
    /// A device has it (no type on the wire, or `inactive`).
    Delivered,
    /// It was read.
    Read,
    /// It was played.
    Played,
    /// A device could not decrypt it and asks for it again.
    Retry,
    /// An own companion has its copy.
    Sender,
    /// Any other type.
    Other,
}

impl ReceiptKind {
    pub(super) fn from_type(kind: Option<&str>) -> Self {
        match kind {
            None | Some("" | "inactive" | "delivery") => Self::Delivered,
            Some("read") => Self::Read,
            Some("played") => Self::Played,
            Some("retry") => Self::Retry,
            Some("sender") => Self::Sender,
            Some(_) => Self::Other,
        }
    }
}

/// A receipt for one message; a stanza that names several makes several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The message.
    pub id: String,
    /// The stanza's `from`: the device or user, or the group.
    #[serde(serialize_with = "as_text")]
    pub from: Jid,
    /// Who, in groups.
    #[serde(serialize_with = "as_optional_text")]
    pub participant: Option<Jid>,
    /// What it says.
    pub kind: ReceiptKind,
}

/// A chat state that reached the phone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Typing {
    /// The contact, or the group.
    #[serde(serialize_with = "as_text")]
    pub from: Jid,
    /// True for `composing`, false for `paused`.
    pub composing: bool,
}

fn as_text<S: Serializer>(jid: &Jid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(jid)
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn as_optional_text<S: Serializer>(jid: &Option<Jid>, serializer: S) -> Result<S::Ok, S::Error> {
    jid.as_ref().map(ToString::to_string).serialize(serializer)
}

#[derive(Default)]
struct Kept {
    inbox: Vec<Received>,
    handed_out: usize,
    ids: HashSet<(String, String)>,
    repeated_ids: u64,
    receipts: Vec<Receipt>,
    receipts_handed_out: usize,
    typing: Vec<Typing>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Record {
    kept: Mutex<Kept>,
    changed: Notify,
}

impl Record {
    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a message, unless one with that id came from that device before (a resend that crossed the original).
    pub(super) fn add(&self, received: Received) {
        self.with(|kept| {
            if kept.ids.insert((received.sender().to_string(), received.id.clone())) {
                kept.inbox.push(received);
            } else {
                kept.repeated_ids += 1;
            }
        });
        self.changed.notify_waiters();
    }

    pub(super) fn add_receipt(&self, receipt: Receipt) {
        self.with(|kept| kept.receipts.push(receipt));
        self.changed.notify_waiters();
    }

    pub(super) fn add_typing(&self, typing: Typing) {
        self.with(|kept| kept.typing.push(typing));
        self.changed.notify_waiters();
    }

    pub(super) fn inbox(&self) -> Vec<Received> {
        self.with(|kept| kept.inbox.clone())
    }

    /// The message with this id, whoever sent it.
    pub(super) fn find(&self, id: &str) -> Option<Received> {
        self.with(|kept| kept.inbox.iter().find(|received| received.id == id).cloned())
    }

    pub(super) fn receipts(&self) -> Vec<Receipt> {
        self.with(|kept| kept.receipts.clone())
    }

    pub(super) fn typing(&self) -> Vec<Typing> {
        self.with(|kept| kept.typing.clone())
    }

    pub(super) fn repeated_ids(&self) -> u64 {
        self.with(|kept| kept.repeated_ids)
    }

    pub(super) async fn next_message(&self, limit: Duration) -> anyhow::Result<Received> {
        self.wait(limit, "message", |kept| {
            let next = kept.inbox.get(kept.handed_out)?.clone();
            kept.handed_out += 1;
            Some(next)
        })
        .await
    }

    pub(super) async fn next_receipt(&self, limit: Duration) -> anyhow::Result<Receipt> {
        self.wait(limit, "receipt", |kept| {
            let next = kept.receipts.get(kept.receipts_handed_out)?.clone();
            kept.receipts_handed_out += 1;
            Some(next)
        })
        .await
    }

    pub(super) async fn wait_receipt(&self, id: &str, kind: ReceiptKind, limit: Duration) -> anyhow::Result<Receipt> {
        self.wait(limit, &format!("{kind:?} receipt for {id}"), |kept| {
            kept.receipts.iter().find(|receipt| receipt.id == id && receipt.kind == kind).cloned()
        })
        .await
    }

    pub(super) async fn wait_typing(&self, composing: bool, limit: Duration) -> anyhow::Result<Typing> {
        self.wait(limit, "chat state", |kept| kept.typing.iter().find(|typing| typing.composing == composing).cloned())
            .await
    }

    async fn wait<T>(
        &self,
        limit: Duration,
        what: &str,
        mut find: impl FnMut(&mut Kept) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that nothing slips in between.
            changed.as_mut().enable();
            if let Some(found) = self.with(&mut find) {
                return Ok(found);
            }
            timeout_at(deadline, changed).await.map_err(|_| anyhow!("no {what} within {limit:?}"))?;
        }
    }
}
