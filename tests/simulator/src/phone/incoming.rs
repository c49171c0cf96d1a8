//! What reaches device 0: decrypts messages, records them, answers with receipts, retry receipts and acks.
//!
//! Runs on the phone's own task, one stanza after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use tracing::{debug, warn};
use whatsapp_rust::wacore::adv::{AdvValidation, validate_adv_with_identity_key};
use whatsapp_rust::wacore::messages::decode_plaintext;
use whatsapp_rust::wacore::proto_helpers::MessageExt;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Jid, NodeBuilder};

use super::Inner;
use super::directory::{attr, attr_jid, content};
use super::record::{Receipt, ReceiptKind, Received, Typing};
use super::signal::{OpenError, Opened, Signal};

/// Retry receipts for one message before the phone gives up (the clients' own limit).
const RETRIES: u32 = 5;
/// The padding of every `enc` version in use.
const PADDING: u8 = 2;

/// Who sent a message, and where.
struct Envelope {
    id: String,
    from: Jid,
    participant: Option<Jid>,
    recipient: Option<Jid>,
    peer: bool,
}

impl Envelope {
    fn read(stanza: &Node) -> anyhow::Result<Self> {
        Ok(Self {
            id: attr(stanza, "id").context("a message without id")?,
            from: attr_jid(stanza, "from").context("a message without from")?,
            participant: attr_jid(stanza, "participant"),
            recipient: attr_jid(stanza, "recipient"),
            peer: attr(stanza, "category").as_deref() == Some("peer"),
        })
    }

    fn sender(&self) -> &Jid {
        self.participant.as_ref().unwrap_or(&self.from)
    }
}

impl Inner {
    /// Handles one stanza; what goes wrong is logged and ends with it.
    pub(super) async fn handle(&self, stanza: Node) {
        let result = match stanza.tag.as_ref() {
            "message" => self.on_message(&stanza).await,
            "receipt" => self.on_receipt(&stanza).await,
            "notification" | "call" => self.acknowledge(&stanza).await,
            "chatstate" => {
                self.on_chatstate(&stanza);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            warn!(tag = %stanza.tag, error = format!("{error:#}"), "a phone could not handle a stanza");
        }
    }

    async fn on_message(&self, stanza: &Node) -> anyhow::Result<()> {
        let envelope = Envelope::read(stanza)?;
        self.learn_sender(stanza, &envelope);
        let mut failure = None;
        for enc in stanza.get_children_by_tag("enc") {
            let kind = attr(enc, "type").unwrap_or_default();
            let bytes = content(enc).unwrap_or_default();
            let opened = self.signal(|signal| match kind.as_str() {
                "skmsg" => signal.open_group(&envelope.from, envelope.sender(), bytes),
                _ => signal.open(envelope.sender(), &kind, bytes),
            });
            match opened {
                Ok(opened) => {
                    self.check_companion(stanza, &envelope, &opened);
                    self.take_in(&envelope, kind, &opened).await?;
                }
                Err(OpenError::Duplicate) => debug!(id = %envelope.id, "decrypted before"),
                Err(OpenError::Undecryptable(error)) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            debug!(id = %envelope.id, error = %error, "asking for a message again");
            return self.ask_again(stanza, &envelope).await;
        }
        self.retries().remove(&(envelope.sender().to_string(), envelope.id.clone()));
        self.submit(delivery_receipt(&envelope, self.is_own(envelope.sender()))).await?;
        Ok(())
    }

    /// A companion proves with each `pkmsg` that its account linked it.
    fn check_companion(&self, stanza: &Node, envelope: &Envelope, opened: &Opened) {
        let Some(identity) = opened.identity.filter(|_| envelope.sender().device != 0) else { return };
        let proof = stanza.get_optional_child("device-identity").and_then(content).unwrap_or_default();
        if validate_adv_with_identity_key(proof, &identity, None) != AdvValidation::Valid {
            warn!(id = %envelope.id, found = !proof.is_empty(), "a companion did not prove its account");
            self.unproven.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records a decrypted message, or does what it asks for.
    async fn take_in(&self, envelope: &Envelope, kind: String, opened: &Opened) -> anyhow::Result<()> {
        let mut message = decode_plaintext(&opened.plaintext, PADDING)?;
        let own = self.is_own(envelope.sender());
        let mut chat = envelope.from.to_non_ad();
        let mut from_me = false;
        if own && let Some(copy) = message.device_sent_message.as_option() {
            let destination = copy.destination_jid.as_deref().and_then(|jid| jid.parse::<Jid>().ok());
            let inner = copy.message.as_option().cloned().unwrap_or_default();
            chat = envelope.recipient.clone().or(destination).context("a copy without recipient")?.to_non_ad();
            message = inner;
            from_me = true;
        } else if own && envelope.participant.is_some() {
            from_me = true;
        }
        if let Some(distribution) = message.sender_key_distribution_message.as_option() {
            let group = distribution.group_id.as_deref().unwrap_or_default();
            let bytes = distribution.axolotl_sender_key_distribution_message.as_deref().unwrap_or_default();
            self.signal(|signal| signal.accept_distribution(group, envelope.sender(), bytes))?;
        }
        if envelope.peer {
            return self.on_peer_message(envelope.sender(), &message).await;
        }
        if is_empty(&message) {
            return Ok(());
        }
        self.record.add(Received {
            id: envelope.id.clone(),
            chat,
            from: envelope.from.clone(),
            participant: envelope.participant.clone(),
            text: message.text_content().map(str::to_owned),
            message: Arc::new(message),
            enc_type: kind,
            counter: Some(opened.counter),
            from_me,
        });
        Ok(())
    }

    /// A companion that lacks the app-state key gets it; what else companions ask for has no answer here.
    async fn on_peer_message(&self, companion: &Jid, message: &wa::Message) -> anyhow::Result<()> {
        let protocol = message.protocol_message.as_option();
        if protocol.is_some_and(|protocol| protocol.app_state_sync_key_request.is_set()) {
            self.send_to_companion(companion, &self.sync_key.share(self.account.raw_id())).await?;
        }
        Ok(())
    }

    async fn ask_again(&self, stanza: &Node, envelope: &Envelope) -> anyhow::Result<()> {
        let key = (envelope.sender().to_string(), envelope.id.clone());
        let count = {
            let mut retries = self.retries();
            let count = retries.entry(key).or_default();
            *count += 1;
            *count
        };
        if count > RETRIES {
            return Ok(());
        }
        let retry = NodeBuilder::new("retry")
            .attr("v", "1")
            .attr("id", &envelope.id)
            .attr("t", attr(stanza, "t").unwrap_or_default())
            .attr("count", count)
            .build();
        let registration = self.signal(|signal| signal.registration_id());
        let registration = NodeBuilder::new("registration").bytes(registration.to_be_bytes()).build();
        let mut children = vec![retry, registration];
        // WhatsApp Web: the first receipt asks with what both sides have, the later ones bring fresh keys.
        if count > 1 {
            let bundle = self.signal(Signal::bundle)?;
            children.push(NodeBuilder::new("keys").children(bundle.nodes()).build());
        }
        let mut receipt = address_receipt(envelope).attr("type", "retry");
        if envelope.peer {
            receipt = receipt.attr("category", "peer");
        }
        if let Some(recipient) = &envelope.recipient {
            receipt = receipt.attr("recipient", recipient);
        }
        self.submit(receipt.children(children).build()).await?;
        Ok(())
    }

    async fn on_receipt(&self, stanza: &Node) -> anyhow::Result<()> {
        let from = attr_jid(stanza, "from").context("a receipt without from")?;
        let first = attr(stanza, "id").context("a receipt without id")?;
        let kind = ReceiptKind::from_type(attr(stanza, "type").as_deref());
        let participant = attr_jid(stanza, "participant");
        let items = stanza.get_optional_child("list").and_then(Node::children).unwrap_or_default();
        for id in std::iter::once(first).chain(items.iter().filter_map(|item| attr(item, "id"))) {
            self.record.add_receipt(Receipt { id, from: from.clone(), participant: participant.clone(), kind });
        }
        self.acknowledge(stanza).await?;
        match attr(stanza, "type").as_deref() {
            Some("retry") => self.resend(stanza).await,
            Some("server-error") => self.upload_again(stanza).await,
            _ => Ok(()),
        }
    }

    fn on_chatstate(&self, stanza: &Node) {
        if let Some(from) = attr_jid(stanza, "from") {
            let composing = stanza.get_optional_child("composing").is_some();
            self.record.add_typing(Typing { from, composing });
        }
    }

    async fn acknowledge(&self, stanza: &Node) -> anyhow::Result<()> {
        let mut ack = NodeBuilder::new("ack").attr("class", stanza.tag.to_string());
        for (theirs, ours) in [("id", "id"), ("from", "to"), ("type", "type"), ("participant", "participant")] {
            if let Some(value) = stanza.attrs.get(theirs) {
                ack = ack.attr(ours, value.clone());
            }
        }
        self.submit(ack.build()).await?;
        Ok(())
    }

    fn is_own(&self, user: &Jid) -> bool {
        (user.is_pn() && user.user == self.me.number) || (user.is_lid() && user.user == self.me.lid)
    }

    /// Learns the sender's other address form.
    fn learn_sender(&self, stanza: &Node, envelope: &Envelope) {
        let sender = envelope.sender();
        let other = |names: [&str; 2]| names.iter().find_map(|name| attr_jid(stanza, name));
        if sender.is_pn() {
            if let Some(lid) = other(["sender_lid", "participant_lid"]) {
                self.signal(|signal| signal.learn(&sender.user, &lid.user));
            }
        } else if let Some(number) = other(["sender_pn", "participant_pn"]) {
            self.signal(|signal| signal.learn(&number.user, &sender.user));
        }
    }
}

fn address_receipt(envelope: &Envelope) -> NodeBuilder {
    let receipt = NodeBuilder::new("receipt").attr("id", &envelope.id).attr("to", &envelope.from);
    match &envelope.participant {
        Some(participant) => receipt.attr("participant", participant),
        None => receipt,
    }
}

fn delivery_receipt(envelope: &Envelope, own: bool) -> Node {
    let receipt = address_receipt(envelope);
    match (&envelope.recipient, own) {
        _ if envelope.peer => receipt.attr("type", "peer_msg"),
        (Some(recipient), true) => receipt.attr("type", "sender").attr("recipient", recipient),
        (None, true) => receipt.attr("type", "sender"),
        _ => receipt,
    }
    .build()
}

/// True if a message only carried keys.
fn is_empty(message: &wa::Message) -> bool {
    let mut rest = message.clone();
    rest.sender_key_distribution_message = wa::Message::default().sender_key_distribution_message;
    rest.message_context_info = wa::Message::default().message_context_info;
    rest == wa::Message::default()
}
