//! The media hosts, and attachments between phones.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::wacore::media_retry::{build_media_retry_receipt, encrypt_media_retry_receipt};
use whatsapp_rust::wacore::proto_helpers::MessageExt as _;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;
use whatsapp_rust::{Jid, NodeBuilder};
use whatsapp_simulator::phone::{Media, MediaKind};
use whatsapp_simulator::{Fault, Options, Simulator};

use crate::companion::{Companion, LIMIT, attr};
use crate::http::exchange;

const NUMBER: &str = "6281111111111";
const FRIEND: &str = "6282222222222";

fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes[..]);
    bytes
}

/// The token of a media connection.
async fn media_token(companion: &mut Companion) -> String {
    let answer = companion.ask("set", "w:m", "s.whatsapp.net", [NodeBuilder::new("media_conn").build()]).await;
    let connection = answer.get_optional_child("media_conn").unwrap();
    let hosts: Vec<String> = connection.get_children_by_tag("host").map(|host| attr(host, "hostname")).collect();
    assert_eq!(hosts, ["mmg.whatsapp.net", "mmg-fallback.whatsapp.net"]);
    attr(connection, "auth")
}

async fn upload(simulator: &Simulator, auth: &str, body: &[u8], more: &str) -> (u16, Value) {
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(body));
    let path = format!("/mms/image/{hash}?auth={auth}&token={hash}{more}");
    let body = if more.contains("resume") { &[] } else { body };
    let (status, answer) = exchange(&simulator.media_url(), "POST", &path, "", body).await;
    (status, serde_json::from_slice(&answer).unwrap_or_default())
}

#[tokio::test]
async fn uploads_need_the_token_of_a_connection_and_the_hash_of_their_body() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let auth = media_token(&mut companion).await;
    for body in [bytes(100), bytes(3 << 20)] {
        assert_eq!(upload(&simulator, &auth, &body, "&resume=1").await.1["resume"], "0");
        let (status, answer) = upload(&simulator, &auth, &body, "").await;
        let path = answer["direct_path"].as_str().unwrap();
        assert_eq!((status, answer["url"].as_str().unwrap()), (200, &*format!("https://mmg.whatsapp.net{path}")));
        let (_, known) = upload(&simulator, &auth, &body, "&resume=1").await;
        assert_eq!((known["resume"].as_str(), known["direct_path"].as_str()), (Some("complete"), Some(path)));
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&body));
        let base = simulator.media_url();
        let get =
            async |query: &str, headers: &str| exchange(&base, "GET", &format!("{path}{query}"), headers, &[]).await;
        assert_eq!(get("", "").await, (200, body.clone()));
        assert_eq!(get(&format!("?auth={auth}&token={hash}"), "").await, (200, body.clone()));
        assert_eq!(get("", "range: bytes=10-19\r\n").await, (206, body[10..20].to_vec()));
        assert_eq!(get("", "range: bytes=999999999-\r\n").await.0, 416);
    }
    let counters = simulator.counters();
    assert_eq!((counters.media_uploads, counters.violations), (2, 0));
    assert_eq!(counters.media_upload_bytes, 100 + (3 << 20));
    assert_eq!(simulator.features()["media-upload-image"].iter().collect::<Vec<_>>(), ["other"]);

    assert_eq!(upload(&simulator, "unknown", b"body", "").await.0, 401);
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(b"another"));
    let path = format!("/mms/image/{hash}?auth={auth}&token={hash}");
    assert_eq!(exchange(&simulator.media_url(), "POST", &path, "", b"body").await.0, 400);
    assert_eq!(simulator.counters().violations, 2);
    simulator.shutdown().await;
}

#[tokio::test]
async fn media_hosts_refuse_and_delay_on_command() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let auth = media_token(&mut companion).await;
    let network = simulator.network();
    let (first, second) = (network.put_media("image", b"one").unwrap(), network.put_media("image", b"two").unwrap());
    let base = simulator.media_url();
    let get = async |path: &str| exchange(&base, "GET", path, "", &[]).await.0;

    let fault = simulator.inject(Fault::RefuseDownloads { code: 410, path: first.clone() });
    assert_eq!((get(&first).await, get(&second).await), (410, 200));
    simulator.clear(fault);
    simulator.inject(Fault::RefuseDownloads { code: 500, path: String::new() }.times(1));
    assert_eq!((get(&first).await, get(&first).await), (500, 200));
    simulator.inject(Fault::RefuseUploads { code: 401 }.on(NUMBER).times(1));
    assert_eq!(upload(&simulator, &auth, b"three", "").await.0, 401);
    assert_eq!(upload(&simulator, &auth, b"three", "").await.0, 200);
    assert_eq!(simulator.counters().media_refused, 3);

    let delay = Duration::from_millis(200);
    simulator.inject(Fault::SlowMedia { delay }.times(1));
    let begun = Instant::now();
    assert_eq!(get(&first).await, 200);
    assert!(begun.elapsed() >= delay);
    assert!(simulator.forget_media(&first));
    assert_eq!((get(&first).await, get(&second).await), (404, 200));
    assert_eq!(simulator.counters().violations, 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn phones_exchange_every_kind_of_media() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let (friend, phone) = (simulator.phone(FRIEND), simulator.phone(NUMBER));
    let group = simulator.create_group("media", &[FRIEND, NUMBER], true);
    let kinds = [
        (MediaKind::Image, "image/png", 10),
        (MediaKind::Video, "video/mp4", 2 << 20),
        (MediaKind::Audio, "audio/mpeg", 4096),
        (MediaKind::Voice, "audio/ogg; codecs=opus", 1),
        (MediaKind::Document, "application/pdf", 100_000),
        (MediaKind::Sticker, "image/webp", 31),
    ];
    for (kind, mimetype, length) in kinds {
        for to in [NUMBER, &group] {
            let file = bytes(length);
            let media = Media::new(kind, file.clone(), mimetype).caption("see").file_name("a.pdf");
            let id = friend.sends_media(to, &media).await.unwrap();
            let got = phone.next_message(LIMIT).await.unwrap();
            let info = got.media().unwrap();
            assert_eq!((got.id.clone(), info.kind, info.length), (id, kind, Some(length as u64)));
            assert_eq!(info.mimetype.as_deref(), Some(mimetype));
            assert_eq!(info.file_name.as_deref(), (kind == MediaKind::Document).then_some("a.pdf"));
            let captioned = matches!(kind, MediaKind::Image | MediaKind::Video | MediaKind::Document);
            assert_eq!(info.caption.as_deref(), captioned.then_some("see"));
            assert_eq!(phone.download(&got).unwrap(), file);
            let path = info.direct_path.unwrap();
            let ciphertext = simulator.network().media(&path).unwrap();
            assert!(length < 32 || !ciphertext.windows(32).any(|part| *part == file[..32]), "kept in clear");
            assert!(simulator.forget_media(&path));
            assert!(phone.download(&got).is_err());
        }
    }
    simulator.shutdown().await;
}

/// The messages that a contact may send besides texts and media.
fn others() -> Vec<(wa::Message, &'static str, Option<&'static str>)> {
    use wa::message::{
        ContactMessage, ExtendedTextMessage, LocationMessage, PollCreationMessage, ProtocolMessage, ReactionMessage,
        poll_creation_message::Option as Choice,
    };
    let key = || {
        MessageField::some(wa::MessageKey {
            remote_jid: Some(format!("{FRIEND}@s.whatsapp.net")),
            from_me: Some(true),
            id: Some("3EB0".to_owned()),
            ..wa::MessageKey::default()
        })
    };
    let text = |text: &str| wa::Message { conversation: Some(text.to_owned()), ..wa::Message::default() };
    let reply = wa::ContextInfo {
        stanza_id: Some("3EB0".to_owned()),
        participant: Some(format!("{NUMBER}@s.whatsapp.net")),
        quoted_message: MessageField::some(text("before")),
        mentioned_jid: vec![format!("{NUMBER}@s.whatsapp.net")],
        ..wa::ContextInfo::default()
    };
    let choice = |name: &str| Choice { option_name: Some(name.to_owned()), ..Choice::default() };
    let mut messages = vec![wa::Message::default(); 7];
    messages[0].location_message = MessageField::some(LocationMessage {
        degrees_latitude: Some(-6.2),
        degrees_longitude: Some(106.8),
        ..LocationMessage::default()
    });
    messages[1].contact_message = MessageField::some(ContactMessage {
        display_name: Some("Ann".to_owned()),
        vcard: Some("BEGIN:VCARD\nEND:VCARD".to_owned()),
        ..ContactMessage::default()
    });
    messages[2].poll_creation_message_v3 = MessageField::some(PollCreationMessage {
        name: Some("Lunch?".to_owned()),
        options: vec![choice("yes"), choice("no")],
        selectable_options_count: Some(1),
        ..PollCreationMessage::default()
    });
    messages[3].reaction_message = MessageField::some(ReactionMessage {
        key: key(),
        text: Some("\u{1f44d}".to_owned()),
        ..ReactionMessage::default()
    });
    messages[4].extended_text_message = MessageField::some(ExtendedTextMessage {
        text: Some("@6281111111111 see".to_owned()),
        context_info: MessageField::some(reply),
        ..ExtendedTextMessage::default()
    });
    messages[5].protocol_message = MessageField::some(ProtocolMessage {
        key: key(),
        r#type: Some(Type::MESSAGE_EDIT),
        edited_message: MessageField::some(text("better")),
        ..ProtocolMessage::default()
    });
    messages[6].protocol_message =
        MessageField::some(ProtocolMessage { key: key(), r#type: Some(Type::REVOKE), ..ProtocolMessage::default() });
    let labels = [("media", None), ("media", None), ("poll", None), ("reaction", None), ("text", None)];
    let labels = labels.into_iter().chain([("text", Some("1")), ("text", Some("7"))]);
    messages.into_iter().zip(labels).map(|(message, (kind, edit))| (message, kind, edit)).collect()
}

#[tokio::test]
async fn phones_send_any_message_and_label_its_stanza() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let (friend, phone) = (simulator.phone(FRIEND), simulator.phone(NUMBER));
    for (message, kind, edit) in others() {
        let id = friend.sends_message(NUMBER, message.clone()).await.unwrap();
        let got = phone.next_message(LIMIT).await.unwrap();
        assert_eq!((&got.id, got.message.as_ref()), (&id, &message));
        assert!(got.media().is_none());
        let stanza = loop {
            let stanza = companion.next("message").await;
            if attr(&stanza, "id") == id {
                break stanza;
            }
        };
        assert_eq!(
            (attr(&stanza, "type"), attr(&stanza, "edit")),
            (kind.to_owned(), edit.unwrap_or_default().to_owned())
        );
        assert_eq!(stanza.get_optional_child("meta").is_some(), kind == "poll");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_phone_uploads_again_what_its_companion_cannot_fetch() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let (friend, phone) = (simulator.phone(FRIEND), simulator.phone(NUMBER));
    let file = bytes(2000);
    let id = friend.sends_media(NUMBER, &Media::new(MediaKind::Image, file, "image/png")).await.unwrap();
    let got = phone.next_message(LIMIT).await.unwrap();
    let image = got.message.get_base_message().image_message.as_option().unwrap();
    let (key, path) = (image.media_key.clone().unwrap(), image.direct_path.clone().unwrap());
    assert!(simulator.forget_media(&path));

    let (sealed, nonce) = encrypt_media_retry_receipt(&key, &id).unwrap();
    let (own, chat) = (Jid::pn(NUMBER), Jid::pn(FRIEND));
    companion.send(build_media_retry_receipt(&own, &id, &chat, false, None, &sealed, &nonce)).await;
    let news = loop {
        let news = companion.next("notification").await;
        if attr(&news, "type") == "mediaretry" {
            break news;
        }
    };
    assert_eq!((attr(&news, "id"), attr(&news, "from")), (id.clone(), own.to_string()));
    let part = |tag| crate::companion::content(news.get_optional_child_by_tag(&["encrypt", tag]).unwrap());
    let opened = whatsapp_rust::wacore::media_retry::decrypt_media_retry_notification(
        &key,
        &id,
        &part("enc_iv"),
        &part("enc_p"),
    );
    let opened = wa::MediaRetryNotification::decode_from_slice(&opened.unwrap()).unwrap();
    assert_eq!(opened.result, Some(wa::media_retry_notification::ResultType::SUCCESS));
    let again = opened.direct_path.unwrap();
    assert_ne!(again, path);
    assert_eq!(exchange(&simulator.media_url(), "GET", &again, "", &[]).await.0, 200);
    simulator.shutdown().await;
}
