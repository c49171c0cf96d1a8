//! From a decrypted message to the words of the `message` webhook.
//!
//! Called by the durability hook before WhatsApp is told that we have the message, and by the lane for the two kinds
//! that the hook does not see (channels, and messages recovered through the phone).

use std::sync::Arc;

use whatsapp_rust::Client;
use whatsapp_rust::Jid;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::types::message::{MessageCategory, MessageInfo};
use whatsapp_rust::wacore::proto_helpers::MessageExt as _;
use whatsapp_rust::wacore::types::events::InboundMessage;
use whatsapp_rust::waproto::whatsapp as wa;

use crate::message::{Incoming, Media};

#[cfg(test)]
mod reported;

/// A received message, still without what only the session knows (`session`, `event_id`).
#[derive(Clone, Debug)]
pub struct Received {
    /// The chat's address as it came over the wire; part of the event id.
    pub chat: String,
    /// The sender's address without its device; part of the event id.
    pub sender: String,
    /// The webhook's words.
    pub incoming: Incoming,
}

/// The messages of a batch that the contract reports, in order.
pub(super) async fn received(client: &Client, batch: &[InboundMessage]) -> Vec<Received> {
    let mut all = Vec::with_capacity(batch.len());
    for item in batch {
        if is_reported(&item.message, &item.info) {
            all.push(receive(client, &item.message, &item.info).await);
        }
    }
    all
}

/// wa-gateway 4.7.1 (contract section 6): not own messages, nothing of a broadcast, no protocol messages.
fn is_reported(message: &wa::Message, info: &MessageInfo) -> bool {
    let chat = info.source.chat.to_string();
    if info.source.is_from_me || info.category == MessageCategory::Peer || chat.contains("broadcast") {
        return false;
    }
    let base = message.get_base_message();
    let only_keys = base.sender_key_distribution_message.is_set() && has_no_content(base);
    !base.protocol_message.is_set() && !only_keys
}

/// Whether nothing but key material is in the message.
fn has_no_content(message: &wa::Message) -> bool {
    let mut rest = message.clone();
    rest.sender_key_distribution_message = MessageField::default();
    rest.message_context_info = MessageField::default();
    rest == wa::Message::default()
}

async fn receive(client: &Client, message: &Arc<wa::Message>, info: &MessageInfo) -> Received {
    let source = &info.source;
    let is_group = source.is_group || source.chat.to_string().ends_with("@g.us");
    let author = phone_address(client, &source.sender, source.sender_alt.as_ref()).await;
    let from = if is_group || !(source.chat.is_lid() || source.chat.is_pn()) {
        source.chat.to_non_ad_string()
    } else {
        phone_address(client, &source.chat, source.sender_alt.as_ref()).await
    };
    let from_lid = [Some(&source.sender), source.sender_alt.as_ref()]
        .into_iter()
        .flatten()
        .find(|jid| jid.is_lid())
        .map(Jid::to_non_ad_string);
    Received {
        chat: source.chat.to_non_ad_string(),
        sender: source.sender.to_non_ad_string(),
        incoming: Incoming {
            session: String::new(),
            from,
            message: text(message),
            media: Media::default(),
            id: info.id.clone(),
            event_id: String::new(),
            timestamp: info.timestamp.timestamp(),
            participant: is_group.then_some(author),
            participant_name: (!info.push_name.is_empty()).then(|| info.push_name.clone()),
            is_group,
            from_lid,
        },
    }
}

/// The phone-number form of an address whenever the message or the store knows it, else the address itself.
async fn phone_address(client: &Client, jid: &Jid, alternative: Option<&Jid>) -> String {
    if !jid.is_lid() {
        return jid.to_non_ad_string();
    }
    if let Some(phone) = alternative.filter(|jid| jid.is_pn()) {
        return phone.to_non_ad_string();
    }
    match client.get_lid_pn_entry(jid).await {
        Ok(Some(entry)) => Jid::pn(entry.phone_number.as_ref()).to_string(),
        Ok(None) | Err(_) => jid.to_non_ad_string(),
    }
}

/// wa-gateway 4.7.1: the first that is not empty of these; wrappers are opened first.
fn text(message: &wa::Message) -> Option<String> {
    let base = message.get_base_message();
    [
        base.conversation.as_deref(),
        base.extended_text_message.as_option().and_then(|m| m.text.as_deref()),
        base.image_message.as_option().and_then(|m| m.caption.as_deref()),
        base.video_message.as_option().and_then(|m| m.caption.as_deref()),
        base.document_message.as_option().and_then(|m| m.caption.as_deref()),
        base.contact_message.as_option().and_then(|m| m.display_name.as_deref()),
        base.location_message.as_option().and_then(|m| m.comment.as_deref()),
        base.live_location_message.as_option().and_then(|m| m.caption.as_deref()),
    ]
    .into_iter()
    .flatten()
    .find(|text| !text.is_empty())
    .map(str::to_owned)
}
