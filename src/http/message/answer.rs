//! What a send is answered with: contract section 5 for the kinds that the original had, the same style for the others.
//!
//! The original's members come first and in its order; what we add follows them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::message::{Author, Contact, Content, File, Sent, Target};

/// The whole body, as JSON.
pub(super) fn body(sent: &Sent) -> String {
    let data = Data {
        key: Key { remote_jid: &sent.spelt_jid, from_me: true, id: &sent.id },
        message: text(sent).unwrap_or_else(|| Message::Other(message(sent))),
        message_timestamp: sent.timestamp.to_string(),
        status: "PENDING",
        participant: sent.participant.as_deref(),
    };
    serde_json::to_string(&Body { data }).expect("strings and numbers always serialise")
}

#[derive(Serialize)]
struct Body<'a> {
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    key: Key<'a>,
    message: Message<'a>,
    message_timestamp: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    participant: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Key<'a> {
    remote_jid: &'a str,
    from_me: bool,
    id: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Message<'a> {
    #[serde(rename_all = "camelCase")]
    Text {
        extended_text_message: Text<'a>,
    },
    Other(Value),
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

/// Most messages are a text that answers nothing and names nobody: without a tree of values.
fn text(sent: &Sent) -> Option<Message<'_>> {
    match &sent.message.content {
        Content::Text(text) if sent.message.quote.is_none() && sent.message.mentions.is_empty() => {
            Some(Message::Text { extended_text_message: Text { text } })
        }
        _ => None,
    }
}

fn message(sent: &Sent) -> Value {
    let none = File::default();
    let file = sent.file.as_ref().unwrap_or(&none);
    let context = || context(sent);
    let (kind, members) = match &sent.message.content {
        Content::Text(text) => ("extendedTextMessage", Members::new().with("text", text.as_str()).some(context())),
        Content::Image { caption, .. } => ("imageMessage", image(file, caption).some(context())),
        Content::Video { caption, .. } => ("videoMessage", video(file, caption).some(context())),
        Content::Document { name, caption, .. } => ("documentMessage", document(file, name, caption).some(context())),
        Content::Sticker { .. } => ("stickerMessage", sticker(file).some(context())),
        Content::Audio { voice, .. } => ("audioMessage", audio(file, *voice).some(context())),
        Content::Location(location) => {
            let members = Members::new()
                .with("degreesLatitude", location.latitude)
                .with("degreesLongitude", location.longitude)
                .maybe("name", location.name.as_deref())
                .maybe("address", location.address.as_deref());
            ("locationMessage", members.some(context()))
        }
        Content::Contacts(contacts) => match contacts.as_slice() {
            [only] => ("contactMessage", card(only).some(context())),
            several => {
                let cards: Vec<Value> = several.iter().map(|contact| Value::Object(card(contact).0)).collect();
                let name = several.first().map(|contact| contact.name.as_str());
                let members = Members::new().maybe("displayName", name).with("contacts", cards);
                ("contactsArrayMessage", members.some(context()))
            }
        },
        Content::Poll(poll) => {
            let options: Vec<Value> = poll.options.iter().map(|name| json!({ "optionName": name })).collect();
            let members = Members::new()
                .with("name", poll.question.as_str())
                .with("options", options)
                .with("selectableOptionsCount", poll.selectable);
            let kind = if poll.selectable == 1 { "pollCreationMessageV3" } else { "pollCreationMessage" };
            (kind, members.some(context()))
        }
        Content::Reaction { target, emoji } => {
            let members = Members::new()
                .with("key", key(sent, target))
                .with("text", emoji.as_str())
                .with("senderTimestampMs", sent.composed_ms.to_string());
            ("reactionMessage", members)
        }
        Content::Edit { id, text } => {
            let target = Target { id: id.clone(), author: Author::Me };
            let text = Members::new().with("text", text.as_str()).some(context());
            let members = Members::new()
                .with("key", key(sent, &target))
                .with("type", "MESSAGE_EDIT")
                .with("editedMessage", json!({ "extendedTextMessage": text.0 }))
                .with("timestampMs", sent.composed_ms.to_string());
            ("protocolMessage", members)
        }
        Content::Delete(target) => {
            ("protocolMessage", Members::new().with("key", key(sent, target)).with("type", "REVOKE"))
        }
    };
    json!({ kind: members.0 })
}

fn image(file: &File, caption: &str) -> Members {
    Members::new()
        .with("url", file.url.as_str())
        .with("mimetype", file.mime.as_str())
        .with("caption", caption)
        .bytes("fileSha256", &file.sha256)
        .with("fileLength", file.bytes.to_string())
        .maybe("height", file.height)
        .maybe("width", file.width)
        .bytes("mediaKey", &file.media_key)
        .bytes("fileEncSha256", &file.encrypted_sha256)
        .with("directPath", file.direct_path.as_str())
        .with("mediaKeyTimestamp", file.key_timestamp.to_string())
        .thumbnail(file)
}

fn video(file: &File, caption: &str) -> Members {
    Members::new()
        .with("url", file.url.as_str())
        .with("mimetype", file.mime.as_str())
        .bytes("fileSha256", &file.sha256)
        .with("fileLength", file.bytes.to_string())
        .bytes("mediaKey", &file.media_key)
        .with("caption", caption)
        .bytes("fileEncSha256", &file.encrypted_sha256)
        .with("directPath", file.direct_path.as_str())
        .with("mediaKeyTimestamp", file.key_timestamp.to_string())
        .maybe("seconds", file.seconds)
        .maybe("height", file.height)
        .maybe("width", file.width)
        .thumbnail(file)
}

fn document(file: &File, name: &str, caption: &str) -> Members {
    Members::new()
        .with("url", file.url.as_str())
        .with("mimetype", file.mime.as_str())
        .bytes("fileSha256", &file.sha256)
        .with("fileLength", file.bytes.to_string())
        .bytes("mediaKey", &file.media_key)
        .with("fileName", name)
        .bytes("fileEncSha256", &file.encrypted_sha256)
        .with("directPath", file.direct_path.as_str())
        .with("mediaKeyTimestamp", file.key_timestamp.to_string())
        .with("caption", caption)
        .thumbnail(file)
}

fn sticker(file: &File) -> Members {
    Members::new()
        .with("url", file.url.as_str())
        .bytes("fileSha256", &file.sha256)
        .bytes("fileEncSha256", &file.encrypted_sha256)
        .bytes("mediaKey", &file.media_key)
        .with("mimetype", file.mime.as_str())
        .with("directPath", file.direct_path.as_str())
        .with("fileLength", file.bytes.to_string())
        .with("mediaKeyTimestamp", file.key_timestamp.to_string())
        .maybe("height", file.height)
        .maybe("width", file.width)
        .maybe("isAnimated", file.animated.then_some(true))
}

fn audio(file: &File, voice: bool) -> Members {
    Members::new()
        .with("url", file.url.as_str())
        .with("mimetype", file.mime.as_str())
        .bytes("fileSha256", &file.sha256)
        .with("fileLength", file.bytes.to_string())
        .maybe("seconds", file.seconds)
        .with("ptt", voice)
        .bytes("mediaKey", &file.media_key)
        .bytes("fileEncSha256", &file.encrypted_sha256)
        .with("directPath", file.direct_path.as_str())
        .with("mediaKeyTimestamp", file.key_timestamp.to_string())
}

fn card(contact: &Contact) -> Members {
    Members::new().with("displayName", contact.name.as_str()).with("vcard", contact.vcard())
}

fn key(sent: &Sent, target: &Target) -> Value {
    let members = Members::new()
        .with("remoteJid", sent.remote_jid.as_str())
        .with("fromMe", target.author == Author::Me)
        .with("id", target.id.as_str());
    let participant = match &target.author {
        Author::Member(member) => Some(member.as_str()),
        Author::Me | Author::Peer => None,
    };
    Value::Object(members.maybe("participant", participant).0)
}

/// What the message answers and whom it names.
fn context(sent: &Sent) -> Option<Value> {
    let mut members = Members::new();
    if let Some(quote) = &sent.message.quote {
        members = members
            .with("stanzaId", quote.id.as_str())
            .with("participant", sent.author_jid(&quote.author))
            .with("quotedMessage", json!({ "conversation": quote.text }));
    }
    if !sent.message.mentions.is_empty() {
        let jids: Vec<Value> = sent.message.mentions.iter().map(|jid| jid.as_str().into()).collect();
        members = members.with("mentionedJid", jids);
    }
    (!members.0.is_empty()).then_some(Value::Object(members.0))
}

/// Members in the order in which they were put in.
struct Members(Map<String, Value>);

impl Members {
    fn new() -> Self {
        Self(Map::new())
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn maybe(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        self.with(name, STANDARD.encode(bytes))
    }

    fn thumbnail(self, file: &File) -> Self {
        self.maybe("jpegThumbnail", file.thumbnail.as_ref().map(|bytes| STANDARD.encode(bytes)))
    }

    fn some(self, context: Option<Value>) -> Self {
        self.maybe("contextInfo", context)
    }
}

#[cfg(test)]
mod tests;
