//! From a decrypted message to the words of the `message` webhook.
//!
//! Called by the durability hook before WhatsApp is told that we have the message, and by the lane for the two kinds
//! that the hook does not see (channels, and messages recovered through the phone).

use std::sync::Arc;

use whatsapp_rust::Client;
use whatsapp_rust::Jid;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::types::message::{MessageCategory, MessageInfo};
use whatsapp_rust::wacore::types::events::InboundMessage;
use whatsapp_rust::waproto::whatsapp as wa;

use crate::message::{Attachment, FileKind, Incoming, KnownPoll, Media};

mod content;
mod vote;

pub use vote::Vote;

/// The largest file that WhatsApp takes; a larger claim is not worth a try.
const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

#[cfg(test)]
mod property;
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
    /// The file to download, if there is one that can be.
    pub attachment: Option<Attachment>,
    /// What a poll's votes will be told by.
    pub poll: Option<KnownPoll>,
    /// A vote, whose poll the session may know.
    pub vote: Option<Vote>,
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

/// wa-gateway 4.7.1 (contract section 6): not own messages, nothing of a broadcast, no protocol messages; of these we
/// report edits.
fn is_reported(message: &wa::Message, info: &MessageInfo) -> bool {
    let chat = info.source.chat.to_string();
    if info.source.is_from_me || info.category == MessageCategory::Peer || chat.contains("broadcast") {
        return false;
    }
    let base = content::open(message).message;
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
    let opened = content::open(message);
    let mut content = content::content(&opened);
    // Not those of mentions, which stand in the text as well.
    if let Some(author) = content.quoted.as_mut().and_then(|quoted| quoted.participant.as_mut()) {
        *author = known_address(client, author).await;
    }
    let (chat, sender) = (source.chat.to_non_ad_string(), source.sender.to_non_ad_string());
    let attachment = match content::file(opened.message).map(|file| attach(&file)) {
        None => None,
        Some(Ok(attachment)) => {
            Some(Attachment { chat: chat.clone(), sender: sender.clone(), id: info.id.clone(), ..attachment })
        }
        Some(Err(reason)) => {
            content.media_error = Some(reason.to_owned());
            None
        }
    };
    Received {
        poll: vote::known(client, message, opened.message, info).await,
        vote: vote::vote(client, opened.message, info).await,
        chat,
        sender,
        incoming: Incoming {
            session: String::new(),
            from,
            message: content::text(opened.message),
            media: Media::default(),
            id: info.id.clone(),
            event_id: String::new(),
            timestamp: info.timestamp.timestamp(),
            participant: is_group.then_some(author),
            participant_name: (!info.push_name.is_empty()).then(|| info.push_name.clone()),
            is_group,
            from_lid,
            content,
        },
        attachment,
    }
}

/// What is needed to download a file, or why it can't be; without the message's address.
fn attach(file: &content::File<'_>) -> Result<Attachment, &'static str> {
    if file.length.is_some_and(|length| length > MAX_FILE_BYTES) {
        return Err("The file is larger than WhatsApp allows");
    }
    // The library puts the path behind a host's name as it is: only with its slash it can't change that host.
    let on_host = |path: &str| path.starts_with('/') && !path.contains(|c: char| c.is_control() || c.is_whitespace());
    let paths = [
        file.direct_path.map(str::to_owned),
        file.static_url.and_then(path_at_whatsapp),
        file.url.and_then(path_at_whatsapp),
    ];
    let direct_path =
        paths.into_iter().flatten().find(|path| on_host(path)).ok_or("The message does not say where the file is")?;
    let is_complete = if file.media_key.is_some() { file.enc_sha256.is_some() } else { file.sha256.is_some() };
    if !is_complete {
        return Err("The message does not say how the file is encrypted");
    }
    let extension = match file.kind {
        FileKind::Image => "jpg",
        FileKind::Video => "mp4",
        FileKind::Audio => "mp3",
        FileKind::Sticker => "webp",
        // wa-gateway 4.7.1: what is behind the last dot of the name, the whole of it without one.
        FileKind::Document => file.name.and_then(|name| name.rsplit('.').next()).unwrap_or("undefined"),
    };
    Ok(Attachment {
        kind: file.kind,
        chat: String::new(),
        sender: String::new(),
        id: String::new(),
        direct_path,
        media_key: file.media_key.map(<[u8]>::to_vec),
        file_sha256: file.sha256.map(<[u8]>::to_vec),
        file_enc_sha256: file.enc_sha256.map(<[u8]>::to_vec),
        file_length: file.length.unwrap_or_default(),
        extension: extension.to_owned(),
    })
}

/// The path of a URL on a host of WhatsApp's; a stranger's URL is never followed anywhere else.
fn path_at_whatsapp(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    let (host, path) = rest.split_at(rest.find('/')?);
    host.ends_with(".whatsapp.net").then(|| path.to_owned())
}

/// The same of an address that a message names, the session's own included.
async fn known_address(client: &Client, address: &str) -> String {
    match address.parse::<Jid>() {
        Ok(jid) if jid.is_lid() => {
            let own = client.lid().filter(|own| own.user == jid.user).and(client.pn());
            phone_address(client, &jid, own.as_ref()).await
        }
        _ => address.to_owned(),
    }
}

/// The phone-number form of an address whenever the message or the store knows it, else the address itself.
pub(super) async fn phone_address(client: &Client, jid: &Jid, alternative: Option<&Jid>) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file<'a>(direct_path: &'a str, url: &'a str) -> content::File<'a> {
        content::File {
            kind: FileKind::Document,
            mimetype: None,
            name: Some("a.b.pdf"),
            length: Some(3),
            seconds: None,
            direct_path: Some(direct_path),
            url: Some(url),
            static_url: None,
            media_key: Some(&[1]),
            sha256: None,
            enc_sha256: Some(&[2]),
        }
    }

    #[test]
    fn a_file_is_looked_for_on_whatsapps_hosts_only() {
        for (direct_path, url, path) in [
            ("/v/t62/a?ccb=1", "", Some("/v/t62/a?ccb=1")),
            ("@evil.example/a", "https://mmg.whatsapp.net/v/b?c=1", Some("/v/b?c=1")),
            (".evil.example/a", "https://evil.example/v/b", None),
            ("", "http://mmg.whatsapp.net/v/b", None),
            ("", "https://whatsapp.net.evil.example/v/b", None),
            ("", "https://mmg.whatsapp.net", None),
            ("/a b", "", None),
            ("/a\r\nHost: x", "", None),
        ] {
            let found = attach(&file(direct_path, url)).ok().map(|attachment| attachment.direct_path);
            assert_eq!(found.as_deref(), path, "{direct_path:?} {url:?}");
        }
    }

    #[test]
    fn the_extension_is_what_the_original_takes() {
        for (name, extension) in
            [(Some("a.b.pdf"), "pdf"), (Some("report"), "report"), (Some("x."), ""), (None, "undefined")]
        {
            let attached = attach(&content::File { name, ..file("/a", "") }).unwrap();
            assert_eq!(attached.extension, extension, "{name:?}");
        }
    }

    #[test]
    fn what_can_not_be_downloaded_says_why() {
        let too_large = content::File { length: Some(MAX_FILE_BYTES + 1), ..file("/a", "") };
        assert!(attach(&too_large).unwrap_err().contains("larger"));
        assert!(attach(&content::File { enc_sha256: None, ..file("/a", "") }).unwrap_err().contains("encrypted"));
        assert!(attach(&content::File { media_key: None, ..file("/a", "") }).is_err());
        assert!(attach(&content::File { media_key: None, sha256: Some(&[1]), ..file("/a", "") }).is_ok());
    }
}
