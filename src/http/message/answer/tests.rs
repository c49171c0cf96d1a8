use super::*;
use crate::message::{Location, MediaSource, Outgoing, Poll, Quote, Recipient};

const KEY: &str = r#""key":{"remoteJid":"6281234567890@s.whatsapp.net","fromMe":true,"id":"3EB0AA"}"#;
const TAIL: &str = r#""messageTimestamp":"1770000000","status":"PENDING""#;

fn sent(content: Content) -> Sent {
    Sent {
        remote_jid: "6281234567890@s.whatsapp.net".to_owned(),
        spelt_jid: "6281234567890@s.whatsapp.net".to_owned(),
        id: "3EB0AA".to_owned(),
        message: Outgoing::new(content),
        file: None,
        timestamp: 1_770_000_000,
        composed_ms: 1_770_000_000_123,
        own_jid: "6281234500001@s.whatsapp.net".to_owned(),
        participant: None,
    }
}

fn with_file(content: Content) -> Sent {
    let file = File {
        url: "https://host/d?x=1".to_owned(),
        direct_path: "/d?x=1".to_owned(),
        media_key: [1; 32],
        sha256: [2; 32],
        encrypted_sha256: [3; 32],
        bytes: 5_000_000_000,
        key_timestamp: 1_770_000_001,
        mime: "a/b".to_owned(),
        ..File::default()
    };
    Sent { file: Some(file), ..sent(content) }
}

fn source() -> MediaSource {
    MediaSource::Url("https://example.com/x".to_owned().into())
}

fn value(sent: &Sent) -> Value {
    serde_json::from_str(&body(sent)).unwrap()
}

#[track_caller]
fn assert_message(sent: &Sent, message: &str) {
    assert_eq!(body(sent), format!(r#"{{"data":{{{KEY},"message":{{{message}}},{TAIL}}}}}"#));
}

#[test]
fn a_text_has_the_contracts_bytes() {
    let mut text = sent(Content::Text("hi \"you\"".to_owned()));
    assert_message(&text, r#""extendedTextMessage":{"text":"hi \"you\""}"#);
    text.participant = Some("6281234500001:7@s.whatsapp.net".to_owned());
    let group = body(&text);
    assert!(group.ends_with(r#""status":"PENDING","participant":"6281234500001:7@s.whatsapp.net"}}"#), "{group}");
}

#[test]
fn files_have_the_contracts_members_in_its_order() {
    let one = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let two = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
    let three = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
    let head = r#""url":"https://host/d?x=1""#;
    let tail = r#""directPath":"/d?x=1","mediaKeyTimestamp":"1770000001""#;
    let mut image = with_file(Content::Image { source: source(), caption: "hi".to_owned() });
    assert_message(
        &image,
        &format!(
            r#""imageMessage":{{{head},"mimetype":"a/b","caption":"hi","fileSha256":"{two}","fileLength":"5000000000","mediaKey":"{one}","fileEncSha256":"{three}",{tail}}}"#
        ),
    );
    if let Some(file) = &mut image.file {
        (file.width, file.height, file.thumbnail) = (Some(4), Some(3), Some(bytes::Bytes::from_static(b"jpeg")));
    }
    assert_message(
        &image,
        &format!(
            r#""imageMessage":{{{head},"mimetype":"a/b","caption":"hi","fileSha256":"{two}","fileLength":"5000000000","height":3,"width":4,"mediaKey":"{one}","fileEncSha256":"{three}",{tail},"jpegThumbnail":"anBlZw=="}}"#
        ),
    );
    assert_message(
        &with_file(Content::Video { source: source(), caption: String::new() }),
        &format!(
            r#""videoMessage":{{{head},"mimetype":"a/b","fileSha256":"{two}","fileLength":"5000000000","mediaKey":"{one}","caption":"","fileEncSha256":"{three}",{tail}}}"#
        ),
    );
    assert_message(
        &with_file(Content::Document { source: source(), name: "d.pdf".to_owned(), caption: "hi".to_owned() }),
        &format!(
            r#""documentMessage":{{{head},"mimetype":"a/b","fileSha256":"{two}","fileLength":"5000000000","mediaKey":"{one}","fileName":"d.pdf","fileEncSha256":"{three}",{tail},"caption":"hi"}}"#
        ),
    );
    assert_message(
        &with_file(Content::Sticker { source: source() }),
        &format!(
            r#""stickerMessage":{{{head},"fileSha256":"{two}","fileEncSha256":"{three}","mediaKey":"{one}","mimetype":"a/b","directPath":"/d?x=1","fileLength":"5000000000","mediaKeyTimestamp":"1770000001"}}"#
        ),
    );
    assert_message(
        &with_file(Content::Audio { source: source(), voice: true }),
        &format!(
            r#""audioMessage":{{{head},"mimetype":"a/b","fileSha256":"{two}","fileLength":"5000000000","ptt":true,"mediaKey":"{one}","fileEncSha256":"{three}",{tail}}}"#
        ),
    );
}

#[test]
fn the_new_kinds_are_spelt_alike() {
    let place = Location { latitude: -6.2, longitude: 106.8, name: Some("Monas".to_owned()), address: None };
    assert_message(
        &sent(Content::Location(place)),
        r#""locationMessage":{"degreesLatitude":-6.2,"degreesLongitude":106.8,"name":"Monas"}"#,
    );
    let poll = |selectable| Poll { question: "Lunch?".to_owned(), options: vec!["A".into(), "B".into()], selectable };
    assert_message(
        &sent(Content::Poll(poll(1))),
        r#""pollCreationMessageV3":{"name":"Lunch?","options":[{"optionName":"A"},{"optionName":"B"}],"selectableOptionsCount":1}"#,
    );
    assert!(value(&sent(Content::Poll(poll(2))))["data"]["message"]["pollCreationMessage"].is_object());
    let member = Recipient::parse("62899", false).unwrap();
    let target = Target { id: "ID".to_owned(), author: Author::Member(member) };
    let key = r#""key":{"remoteJid":"6281234567890@s.whatsapp.net","fromMe":false,"id":"ID","participant":"62899@s.whatsapp.net"}"#;
    assert_message(
        &sent(Content::Reaction { target: target.clone(), emoji: "👍".to_owned() }),
        &format!(r#""reactionMessage":{{{key},"text":"👍","senderTimestampMs":"1770000000123"}}"#),
    );
    assert_message(&sent(Content::Delete(target)), &format!(r#""protocolMessage":{{{key},"type":"REVOKE"}}"#));
    assert_message(
        &sent(Content::Edit { id: "ID".to_owned(), text: "new".to_owned() }),
        r#""protocolMessage":{"key":{"remoteJid":"6281234567890@s.whatsapp.net","fromMe":true,"id":"ID"},"type":"MESSAGE_EDIT","editedMessage":{"extendedTextMessage":{"text":"new"}},"timestampMs":"1770000000123"}"#,
    );
    let contact = |name: &str| Contact { name: name.to_owned(), phone: "628".to_owned() };
    let one = value(&sent(Content::Contacts(vec![contact("Ani")])));
    assert_eq!(one["data"]["message"]["contactMessage"]["displayName"], "Ani");
    let two = value(&sent(Content::Contacts(vec![contact("Ani"), contact("Budi")])));
    assert_eq!(two["data"]["message"]["contactsArrayMessage"]["contacts"][1]["displayName"], "Budi");
}

#[test]
fn replies_and_mentions_follow_the_contracts_members() {
    let mut text = sent(Content::Text("t".to_owned()));
    text.message.quote = Some(Quote { id: "ID".to_owned(), author: Author::Peer, text: "was".to_owned() });
    text.message.mentions = vec![Recipient::parse("62899", false).unwrap()];
    assert_message(
        &text,
        r#""extendedTextMessage":{"text":"t","contextInfo":{"stanzaId":"ID","participant":"6281234567890@s.whatsapp.net","quotedMessage":{"conversation":"was"},"mentionedJid":["62899@s.whatsapp.net"]}}"#,
    );
    text.message.quote = Some(Quote { id: "ID".to_owned(), author: Author::Me, text: String::new() });
    let own = &value(&text)["data"]["message"]["extendedTextMessage"]["contextInfo"]["participant"];
    assert_eq!(own, "6281234500001@s.whatsapp.net");
}
