//! Turns an `Outgoing` into WhatsApp's message; pure.

use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::proto_helpers::MessageExt as _;
use whatsapp_rust::waproto::whatsapp as wa;

use crate::message::{Author, Contact, Content, File, Outgoing, Poll, Sent, Target};

/// Writes the message; `secret` is what votes on a poll are encrypted with.
pub(super) fn compose(sent: &Sent, secret: Option<&[u8]>) -> wa::Message {
    let file = || sent.file.clone().unwrap_or_default();
    let mut message = match &sent.message.content {
        Content::Text(text) => extended_text(text),
        Content::Image { caption, .. } => image(file(), caption),
        Content::Video { caption, .. } => video(file(), caption),
        Content::Document { name, caption, .. } => document(file(), name, caption),
        Content::Sticker { .. } => sticker(file()),
        Content::Audio { voice, .. } => audio(file(), *voice),
        Content::Location(location) => wa::Message {
            location_message: MessageField::some(wa::message::LocationMessage {
                degrees_latitude: Some(location.latitude),
                degrees_longitude: Some(location.longitude),
                name: location.name.clone(),
                address: location.address.clone(),
                ..Default::default()
            }),
            ..Default::default()
        },
        Content::Contacts(contacts) => cards(contacts),
        Content::Poll(poll) => question(poll, secret),
        Content::Reaction { target, emoji } => wa::Message {
            reaction_message: MessageField::some(wa::message::ReactionMessage {
                key: key(sent, target),
                text: Some(emoji.clone()),
                sender_timestamp_ms: Some(sent.composed_ms),
                ..Default::default()
            }),
            ..Default::default()
        },
        Content::Edit { id, text } => {
            let mut edited = extended_text(text);
            add_context(&mut edited, sent, &sent.message);
            protocol(wa::message::ProtocolMessage {
                key: key(sent, &Target { id: id.clone(), author: Author::Me }),
                r#type: Some(wa::message::protocol_message::Type::MESSAGE_EDIT),
                edited_message: MessageField::some(edited),
                timestamp_ms: Some(sent.composed_ms),
                ..Default::default()
            })
        }
        Content::Delete(target) => protocol(wa::message::ProtocolMessage {
            key: key(sent, target),
            r#type: Some(wa::message::protocol_message::Type::REVOKE),
            ..Default::default()
        }),
    };
    if !matches!(sent.message.content, Content::Edit { .. }) {
        add_context(&mut message, sent, &sent.message);
    }
    message
}

fn extended_text(text: &str) -> wa::Message {
    // wa-gateway 4.7.1 sends plain text as an extended text message too.
    let text = wa::message::ExtendedTextMessage { text: Some(text.to_owned()), ..Default::default() };
    wa::Message { extended_text_message: MessageField::some(text), ..Default::default() }
}

fn image(file: File, caption: &str) -> wa::Message {
    wa::Message {
        image_message: MessageField::some(wa::message::ImageMessage {
            url: Some(file.url),
            mimetype: Some(file.mime),
            caption: Some(caption.to_owned()),
            file_sha256: Some(file.sha256.to_vec()),
            file_length: Some(file.bytes),
            height: file.height,
            width: file.width,
            media_key: Some(file.media_key.to_vec()),
            file_enc_sha256: Some(file.encrypted_sha256.to_vec()),
            direct_path: Some(file.direct_path),
            media_key_timestamp: Some(file.key_timestamp),
            jpeg_thumbnail: file.thumbnail.map(|bytes| bytes.to_vec()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn video(file: File, caption: &str) -> wa::Message {
    wa::Message {
        video_message: MessageField::some(wa::message::VideoMessage {
            url: Some(file.url),
            mimetype: Some(file.mime),
            file_sha256: Some(file.sha256.to_vec()),
            file_length: Some(file.bytes),
            seconds: file.seconds,
            media_key: Some(file.media_key.to_vec()),
            caption: Some(caption.to_owned()),
            height: file.height,
            width: file.width,
            file_enc_sha256: Some(file.encrypted_sha256.to_vec()),
            direct_path: Some(file.direct_path),
            media_key_timestamp: Some(file.key_timestamp),
            jpeg_thumbnail: file.thumbnail.map(|bytes| bytes.to_vec()),
            streaming_sidecar: file.sidecar,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn document(file: File, name: &str, caption: &str) -> wa::Message {
    wa::Message {
        document_message: MessageField::some(wa::message::DocumentMessage {
            url: Some(file.url),
            mimetype: Some(file.mime),
            file_sha256: Some(file.sha256.to_vec()),
            file_length: Some(file.bytes),
            media_key: Some(file.media_key.to_vec()),
            file_name: Some(name.to_owned()),
            file_enc_sha256: Some(file.encrypted_sha256.to_vec()),
            direct_path: Some(file.direct_path),
            media_key_timestamp: Some(file.key_timestamp),
            jpeg_thumbnail: file.thumbnail.map(|bytes| bytes.to_vec()),
            caption: Some(caption.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn sticker(file: File) -> wa::Message {
    wa::Message {
        sticker_message: MessageField::some(wa::message::StickerMessage {
            url: Some(file.url),
            file_sha256: Some(file.sha256.to_vec()),
            file_enc_sha256: Some(file.encrypted_sha256.to_vec()),
            media_key: Some(file.media_key.to_vec()),
            mimetype: Some(file.mime),
            height: file.height,
            width: file.width,
            direct_path: Some(file.direct_path),
            file_length: Some(file.bytes),
            media_key_timestamp: Some(file.key_timestamp),
            is_animated: Some(file.animated),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn audio(file: File, voice: bool) -> wa::Message {
    wa::Message {
        audio_message: MessageField::some(wa::message::AudioMessage {
            url: Some(file.url),
            mimetype: Some(file.mime),
            file_sha256: Some(file.sha256.to_vec()),
            file_length: Some(file.bytes),
            seconds: file.seconds,
            ptt: Some(voice),
            media_key: Some(file.media_key.to_vec()),
            file_enc_sha256: Some(file.encrypted_sha256.to_vec()),
            direct_path: Some(file.direct_path),
            media_key_timestamp: Some(file.key_timestamp),
            streaming_sidecar: file.sidecar,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cards(contacts: &[Contact]) -> wa::Message {
    let card = |contact: &Contact| wa::message::ContactMessage {
        display_name: Some(contact.name.clone()),
        vcard: Some(contact.vcard()),
        ..Default::default()
    };
    match contacts {
        [only] => wa::Message { contact_message: MessageField::some(card(only)), ..Default::default() },
        several => wa::Message {
            contacts_array_message: MessageField::some(wa::message::ContactsArrayMessage {
                display_name: several.first().map(|contact| contact.name.clone()),
                contacts: several.iter().map(card).collect(),
                ..Default::default()
            }),
            ..Default::default()
        },
    }
}

fn question(poll: &Poll, secret: Option<&[u8]>) -> wa::Message {
    let option = |name: &String| wa::message::poll_creation_message::Option {
        option_name: Some(name.clone()),
        ..Default::default()
    };
    let body = MessageField::some(wa::message::PollCreationMessage {
        name: Some(poll.question.clone()),
        options: poll.options.iter().map(option).collect(),
        selectable_options_count: Some(poll.selectable),
        // whatsapp-rust 0.7.0, `features/polls.rs`: WhatsApp Web always says so.
        poll_content_type: Some(wa::message::PollContentType::TEXT),
        ..Default::default()
    });
    let context = wa::MessageContextInfo { message_secret: secret.map(<[u8]>::to_vec), ..Default::default() };
    let mut message = wa::Message { message_context_info: MessageField::some(context), ..Default::default() };
    // The same source: the third form is for one choice, the first for several.
    if poll.selectable == 1 {
        message.poll_creation_message_v3 = body;
    } else {
        message.poll_creation_message = body;
    }
    message
}

fn protocol(message: wa::message::ProtocolMessage) -> wa::Message {
    wa::Message { protocol_message: MessageField::some(message), ..Default::default() }
}

fn key(sent: &Sent, target: &Target) -> MessageField<wa::MessageKey> {
    MessageField::some(wa::MessageKey {
        remote_jid: Some(sent.remote_jid.clone()),
        from_me: Some(target.author == Author::Me),
        id: Some(target.id.clone()),
        participant: match &target.author {
            Author::Member(member) => Some(member.as_str().to_owned()),
            Author::Me | Author::Peer => None,
        },
    })
}

/// Adds what the message answers and whom it names.
fn add_context(message: &mut wa::Message, sent: &Sent, outgoing: &Outgoing) {
    if outgoing.quote.is_none() && outgoing.mentions.is_empty() {
        return;
    }
    let mut context = wa::ContextInfo {
        mentioned_jid: outgoing.mentions.iter().map(|jid| jid.as_str().to_owned()).collect(),
        ..Default::default()
    };
    if let Some(quote) = &outgoing.quote {
        context.stanza_id = Some(quote.id.clone());
        context.participant = Some(sent.author_jid(&quote.author).to_owned());
        // Apps show what they have under that id; the copy is for those that have not.
        let quoted = wa::Message { conversation: Some(quote.text.clone()), ..Default::default() };
        context.quoted_message = MessageField::some(quoted);
    }
    // False for kinds that have no place for it, for which none is read.
    let _placed = message.set_context_info(context);
}
