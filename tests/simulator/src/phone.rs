//! A simulated phone: the primary device of an account, in process, with real Signal keys.
//!
//! It links companions and greets them, and it is the contact that tests write to and read from. It speaks stanzas to
//! the server through [`Network`], as a companion does through its socket; the server hands it the stanzas for device 0
//! by [`Phone::deliver`]. One task per phone handles them in order. A phone is always online.

mod account;
mod directory;
mod greeting;
mod incoming;
mod label;
mod link_code;
mod media;
mod media_retry;
mod outgoing;
mod profile;
mod record;
mod signal;
mod stores;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whatsapp_rust::wacore::proto_helpers::MessageBuilderExt;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Jid, NodeBuilder};

use self::account::Account;
use self::greeting::SyncKey;
pub(crate) use self::link_code::CodeAnswer;
pub use self::media::{Media, MediaInfo, MediaKind};
pub use self::record::{Receipt, ReceiptKind, Received, Typing};
pub use self::signal::Bundle;
use self::signal::Signal;
use crate::network::{DeviceAddress, Network};

/// Stanzas that wait for the phone's task. Phones answer within microseconds; the bound is for a stuck one.
const QUEUE: usize = 16_384;
/// Longest wait for the server's direct replies; a server in this process needs milliseconds.
const SUBMIT_LIMIT: Duration = Duration::from_secs(20);
/// Sent messages kept for retry receipts.
const SENT: usize = 4_096;

/// A handle to a simulated phone; clones are the same phone.
#[derive(Clone)]
pub struct Phone(Arc<Inner>);

/// A message kept to be sent again.
#[derive(Debug, Clone)]
struct Sent {
    chat: Jid,
    message: wa::Message,
    /// True for what only an own companion may see, as key shares.
    peer: bool,
}

#[derive(Default)]
struct SentLog {
    messages: HashMap<String, Sent>,
    order: VecDeque<String>,
}

struct Inner {
    me: DeviceAddress,
    push_name: String,
    account: Account,
    sync_key: SyncKey,
    network: Arc<dyn Network>,
    queue: mpsc::Sender<Node>,
    /// Held for one step of cryptography at a time, never across a wait.
    signal: Mutex<Signal>,
    /// Held for one whole send; tokio's because it spans waits.
    sending: tokio::sync::Mutex<()>,
    sent: Mutex<SentLog>,
    /// (sending device, message) → retry receipts sent.
    retries: Mutex<HashMap<(String, String), u32>>,
    record: record::Record,
    lid_mode: AtomicBool,
    unproven: AtomicU64,
    next_id: AtomicU64,
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phone").field("number", &self.0.me.number).finish_non_exhaustive()
    }
}

impl Phone {
    /// Makes a phone with fresh keys; its task runs on the tracker until the token is cancelled.
    ///
    /// `number` and `lid` are digits.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub fn new(
        number: &str,
        lid: &str,
        push_name: &str,
        network: Arc<dyn Network>,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> anyhow::Result<Self> {
        let account = Account::new();
        let mut signal = Signal::new(account.pair())?;
        signal.learn(number, lid);
        let (queue, mut stanzas) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            me: DeviceAddress { number: number.to_owned(), lid: lid.to_owned(), device: 0 },
            push_name: push_name.to_owned(),
            account,
            sync_key: SyncKey::new(),
            network,
            queue,
            signal: Mutex::new(signal),
            sending: tokio::sync::Mutex::new(()),
            sent: Mutex::default(),
            retries: Mutex::default(),
            record: record::Record::default(),
            lid_mode: AtomicBool::new(false),
            unproven: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
        });
        let owner = Arc::clone(&inner);
        tracker.spawn(async move {
            loop {
                let stanza = tokio::select! {
                    () = token.cancelled() => break,
                    stanza = stanzas.recv() => stanza,
                };
                let Some(stanza) = stanza else { break };
                tokio::select! {
                    () = token.cancelled() => break,
                    () = owner.handle(stanza) => {}
                }
            }
        });
        Ok(Self(inner))
    }

    /// Device 0 of the account.
    pub fn address(&self) -> &DeviceAddress {
        &self.0.me
    }

    /// The name that messages carry.
    pub fn push_name(&self) -> &str {
        &self.0.push_name
    }

    /// Queues a stanza for device 0; never blocks.
    ///
    /// # Errors
    /// The queue is full or the phone has ended.
    pub fn deliver(&self, stanza: Node) -> anyhow::Result<()> {
        self.0.queue.try_send(stanza).map_err(|error| anyhow!("the phone takes no stanza: {error}"))
    }

    /// Whether one-to-one chats go by LID instead of phone number.
    pub fn set_lid_mode(&self, on: bool) {
        self.0.lid_mode.store(on, Ordering::Relaxed);
    }
}

/// Linking.
impl Phone {
    /// The account key, which is the Signal identity of device 0.
    pub fn identity(&self) -> [u8; 32] {
        self.0.account.public()
    }

    /// The registration id of device 0.
    pub fn registration_id(&self) -> u32 {
        self.0.signal(|signal| signal.registration_id())
    }

    /// A bundle of device 0, with a one-time key that is handed out once.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub fn bundle(&self) -> anyhow::Result<Bundle> {
        self.0.signal(Signal::bundle)
    }

    /// Agrees on the pair-code secret: the shared secret of the account key and a companion's identity.
    ///
    /// # Errors
    /// The identity is no key.
    pub fn agree(&self, identity: [u8; 32]) -> anyhow::Result<[u8; 32]> {
        self.0.account.agree(identity)
    }

    /// Signs a companion's identity: the encoded `ADVSignedDeviceIdentityHMAC` for `pair-success`.
    pub fn sign_companion(&self, identity: [u8; 32], adv_secret: &[u8], key_index: u32) -> Vec<u8> {
        self.0.account.sign_companion(identity, adv_secret, key_index)
    }

    /// Checks the companion's answer and returns the `ADVSignedDeviceIdentity` for its peers.
    ///
    /// # Errors
    /// The message is malformed or a signature does not fit.
    pub fn accept_device_signature(&self, signed: &[u8], identity: [u8; 32]) -> anyhow::Result<Vec<u8>> {
        self.0.account.accept_device_signature(signed, identity)
    }

    /// The encoded `ADVSignedKeyIndexList` for usync and device notifications.
    pub fn key_index_list(&self, indexes: &[u32]) -> Vec<u8> {
        self.0.account.key_index_list(indexes)
    }

    /// The collection that a new account starts with, and its first `SyncdPatch`: the push name.
    pub fn seed_app_state(&self) -> (&'static str, Vec<u8>) {
        self.0.sync_key.push_name_patch(&self.0.push_name)
    }

    /// Sends a new companion what it waits for: the app-state key and the history notifications.
    ///
    /// # Errors
    /// The companion has no keys on the server yet, or the server refused a message.
    pub async fn greet(&self, companion: u16) -> anyhow::Result<()> {
        let device = Jid::pn_device(self.0.me.number.as_str(), companion);
        let own = self.0.me.pn_jid().to_string();
        self.0.send_to_companion(&device, &self.0.sync_key.share(self.0.account.raw_id())).await?;
        for message in greeting::history(self.0.network.as_ref(), &own, &self.0.push_name)? {
            self.0.send_to_companion(&device, &message).await?;
        }
        Ok(())
    }
}

/// Writing.
impl Phone {
    /// Sends a text and returns its message id once the server has acknowledged it.
    ///
    /// # Errors
    /// As [`Phone::sends_message`].
    pub async fn says(&self, to: &str, text: &str) -> anyhow::Result<String> {
        self.sends_message(to, wa::Message::text(text)).await
    }

    /// Sends any message; `to` is a phone number in digits or a JID, a group's too.
    ///
    /// # Errors
    /// The recipient is unknown, or the server refused the message or a query before it.
    pub async fn sends_message(&self, to: &str, message: wa::Message) -> anyhow::Result<String> {
        self.0.send(&recipient(to)?, message).await
    }

    /// The same under an id of the sender's own choice, which no server checks.
    ///
    /// # Errors
    /// As [`Phone::sends_message`].
    pub async fn sends_as(&self, id: &str, to: &str, message: wa::Message) -> anyhow::Result<String> {
        self.0.send_as(id.to_owned(), &recipient(to)?, message).await
    }

    /// Tells that messages were read; `participant` is their sender in a group.
    ///
    /// # Errors
    /// The server took no receipt.
    pub async fn reads(&self, chat: &str, participant: Option<&Jid>, ids: &[&str]) -> anyhow::Result<()> {
        self.tells("read", chat, participant, ids).await
    }

    /// Tells that sounds or videos were played; `participant` is their sender in a group.
    ///
    /// # Errors
    /// The server took no receipt.
    pub async fn plays(&self, chat: &str, participant: Option<&Jid>, ids: &[&str]) -> anyhow::Result<()> {
        self.tells("played", chat, participant, ids).await
    }

    async fn tells(&self, kind: &str, chat: &str, participant: Option<&Jid>, ids: &[&str]) -> anyhow::Result<()> {
        let (first, rest) = ids.split_first().context("no message to read")?;
        let mut receipt = NodeBuilder::new("receipt")
            .attr("id", *first)
            .attr("to", recipient(chat)?)
            .attr("type", kind)
            .attr("t", account::unix_seconds());
        if let Some(participant) = participant {
            receipt = receipt.attr("participant", participant);
        }
        if !rest.is_empty() {
            let items = rest.iter().map(|id| NodeBuilder::new("item").attr("id", *id).build());
            receipt = receipt.children([NodeBuilder::new("list").children(items).build()]);
        }
        self.0.submit(receipt.build()).await?;
        Ok(())
    }

    /// Shows the contact or group that this phone is typing, or that it stopped.
    ///
    /// # Errors
    /// The server took no chat state.
    pub async fn types(&self, to: &str, composing: bool) -> anyhow::Result<()> {
        let state = NodeBuilder::new(if composing { "composing" } else { "paused" }).build();
        self.0.submit(NodeBuilder::new("chatstate").attr("to", recipient(to)?).children([state]).build()).await?;
        Ok(())
    }
}

/// Reading.
impl Phone {
    /// All messages so far, in the order in which they were decrypted.
    pub fn inbox(&self) -> Vec<Received> {
        self.0.record.inbox()
    }

    /// The next message; each is handed out once.
    ///
    /// # Errors
    /// None came within the limit.
    pub async fn next_message(&self, limit: Duration) -> anyhow::Result<Received> {
        self.0.record.next_message(limit).await
    }

    /// All receipts so far.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.0.record.receipts()
    }

    /// The next receipt; each is handed out once.
    ///
    /// # Errors
    /// None came within the limit.
    pub async fn next_receipt(&self, limit: Duration) -> anyhow::Result<Receipt> {
        self.0.record.next_receipt(limit).await
    }

    /// The first receipt of that kind for a message, whether handed out or not.
    ///
    /// # Errors
    /// None came within the limit.
    pub async fn wait_receipt(&self, id: &str, kind: ReceiptKind, limit: Duration) -> anyhow::Result<Receipt> {
        self.0.record.wait_receipt(id, kind, limit).await
    }

    /// All chat states so far.
    pub fn typing(&self) -> Vec<Typing> {
        self.0.record.typing()
    }

    /// The first chat state of that kind.
    ///
    /// # Errors
    /// None came within the limit.
    pub async fn wait_typing(&self, composing: bool, limit: Duration) -> anyhow::Result<Typing> {
        self.0.record.wait_typing(composing, limit).await
    }

    /// How many ciphertexts came under a key (sending device, chain, counter) that had encrypted another one: 0 unless a
    /// sender lost ratchet state.
    pub fn repeated_keys(&self) -> u64 {
        self.0.signal(|signal| signal.repeated())
    }

    /// How many companions' `pkmsg`s came without a valid `device-identity`: 0 for honest clients.
    pub fn unproven(&self) -> u64 {
        self.0.unproven.load(Ordering::Relaxed)
    }

    /// How many decrypted messages had an id that the same device had used before; they are not in the inbox.
    pub fn repeated_ids(&self) -> u64 {
        self.0.record.repeated_ids()
    }
}

/// Losing state, to provoke retries.
impl Phone {
    /// Loses the pairwise session with a device.
    pub fn forget_session(&self, device: &Jid) {
        self.0.signal(|signal| signal.forget_session(device));
    }

    /// Loses the sender key of a group member's device.
    pub fn forget_sender_key(&self, group: &Jid, device: &Jid) {
        self.0.signal(|signal| signal.forget_sender_key(group, device));
    }
}

impl Inner {
    fn signal<T>(&self, act: impl FnOnce(&mut Signal) -> T) -> T {
        act(&mut self.signal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn retries(&self) -> MutexGuard<'_, HashMap<(String, String), u32>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lid_mode(&self) -> bool {
        self.lid_mode.load(Ordering::Relaxed)
    }

    async fn submit(&self, stanza: Node) -> anyhow::Result<Vec<Node>> {
        let replies = timeout(SUBMIT_LIMIT, self.network.submit(&self.me, stanza));
        replies.await.map_err(|_| anyhow!("the server did not answer within {SUBMIT_LIMIT:?}"))?
    }

    async fn query(&self, id: &str, iq: Node) -> anyhow::Result<Node> {
        directory::answer(id, self.submit(iq).await?)
    }

    fn query_id(&self) -> String {
        format!("p.{}", self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn keep_sent(&self, id: &str, sent: Sent) {
        let mut log = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        log.messages.insert(id.to_owned(), sent);
        log.order.push_back(id.to_owned());
        if log.order.len() > SENT
            && let Some(oldest) = log.order.pop_front()
        {
            log.messages.remove(&oldest);
        }
    }

    fn sent(&self, id: &str) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).messages.get(id).cloned()
    }
}

/// 3A and hexadecimal digits, the form in which phones make ids.
fn message_id() -> String {
    let random: [u8; 9] = rand::random();
    format!("3A{}", hex::encode_upper(random))
}

/// A JID as it stands, or a phone number.
fn recipient(to: &str) -> anyhow::Result<Jid> {
    if to.contains('@') {
        return to.parse().with_context(|| format!("{to} is no JID"));
    }
    ensure!(!to.is_empty() && to.bytes().all(|byte| byte.is_ascii_digit()), "{to} is neither JID nor number");
    Ok(Jid::pn(to))
}
