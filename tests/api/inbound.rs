//! What contacts send, as the receiver gets it: every kind with its members in order, files with equal bytes.

use std::time::Duration;

use serde_json::{Value, json};
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::{
    ContactMessage, FutureProofMessage, LocationMessage, PollCreationMessage, ProtocolMessage, ReactionMessage,
};
use whatsapp_simulator::phone::{Media, MediaKind, ReceiptKind};
use whatsapp_simulator::{Fault, Options, Phone, Simulator};

use super::support::{Process, Receiver, STEP, TestGateway, base_settings, eventually};

const NUMBER: &str = "6281234500071";
const FRIEND: &str = "6281234500072";
const OTHER: &str = "6281234500073";

/// The members that the contract knows, in its order.
const CONTRACT: &[&str] = &["session", "from", "message", "media"];
/// Those that every body has behind them.
const OURS: &[&str] =
    &["id", "event_id", "timestamp", "participant", "participant_name", "is_group", "from_lid", "type"];

async fn paired() -> (TestGateway, Phone) {
    let gateway = TestGateway::start().await;
    gateway.pair("shop", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    (gateway, friend)
}

/// The body of the message with this id.
async fn hook(receiver: &Receiver, id: &str) -> Value {
    eventually(&format!("a webhook for {id}"), || async {
        receiver.messages("shop").into_iter().find(|body| body["id"] == id)
    })
    .await
}

fn bytes(length: usize) -> Vec<u8> {
    // No period that fits a block.
    (0..length).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect()
}

async fn download(gateway: &TestGateway, name: &str) -> (u16, String, Vec<u8>) {
    let response = gateway.api.client.get(format!("{}/media/{name}", gateway.api.base)).send().await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status().as_u16(), kind, response.bytes().await.unwrap().to_vec())
}

fn some<T: Default>(value: T) -> MessageField<T> {
    MessageField::some(value)
}

fn wrapped(message: wa::Message) -> MessageField<FutureProofMessage> {
    some(FutureProofMessage { message: some(message) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_file_arrives_with_equal_bytes_under_its_name() {
    let (gateway, friend) = paired().await;
    for (kind, mimetype, member, extension, served) in [
        (MediaKind::Image, "image/png", "image", "jpg", "image/jpeg"),
        (MediaKind::Video, "video/mp4", "video", "mp4", "video/mp4"),
        (MediaKind::Audio, "audio/mpeg", "audio", "mp3", "audio/mpeg"),
        (MediaKind::Voice, "audio/ogg; codecs=opus", "audio", "mp3", "audio/mpeg"),
    ] {
        let content = bytes(70_000);
        let id = friend.sends_media(NUMBER, &Media::new(kind, content.clone(), mimetype)).await.unwrap();
        let body = hook(&gateway.receiver, &id).await;
        let name = format!("{id}.{extension}");
        let mut media = json!({"image": null, "video": null, "document": null, "audio": null});
        media[member] = json!(name);
        assert_eq!((&body["media"], &body["message"]), (&media, &Value::Null), "{kind:?}");
        assert_eq!((&body["type"], &body["mimetype"]), (&json!(member), &json!(mimetype)));
        assert_eq!((&body["size"], body.get("media_error")), (&json!(70_000), None));
        let members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members[..12], [CONTRACT, OURS].concat());
        assert!(download(&gateway, &name).await == (200, served.to_owned(), content), "{kind:?}: other bytes");
    }
    let sticker = Media::new(MediaKind::Sticker, bytes(900), "image/webp");
    let id = friend.sends_media(NUMBER, &sticker).await.unwrap();
    let body = hook(&gateway.receiver, &id).await;
    assert_eq!(body["media"], json!({"image": null, "video": null, "document": null, "audio": null}));
    assert_eq!((&body["type"], &body["sticker"]), (&json!("sticker"), &json!(format!("{id}.webp"))));
    assert!(download(&gateway, &format!("{id}.webp")).await.2 == sticker.bytes);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_told_without_extension_and_served_under_both_names() {
    let (gateway, friend) = paired().await;
    for (file_name, extension, served) in [
        (Some("Q3.report.pdf"), ".pdf", "application/pdf"),
        (Some("page.html"), ".html", "application/octet-stream"),
        (Some("report"), ".report", "application/octet-stream"),
        (Some("x.js/../../assets"), "", "application/octet-stream"),
        // This one ended the original.
        (Some("a./b"), "", "application/octet-stream"),
    ] {
        let mut document = Media::new(MediaKind::Document, bytes(5_000), "application/pdf").caption("as agreed");
        document.file_name = file_name.map(str::to_owned);
        let id = friend.sends_media(NUMBER, &document).await.unwrap();
        let body = hook(&gateway.receiver, &id).await;
        assert_eq!((&body["media"]["document"], &body["message"]), (&json!(id), &json!("as agreed")), "{file_name:?}");
        assert_eq!(body["file_name"], json!(file_name));
        let plain = (200, "application/octet-stream".to_owned(), document.bytes.clone());
        assert!(download(&gateway, &id).await == plain, "{file_name:?}");
        let named = (200, served.to_owned(), document.bytes.clone());
        assert!(download(&gateway, &format!("{id}{extension}")).await == named, "{file_name:?}");
    }
    gateway.finish().await;
}

/// As in the original: files are there for the webhook.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_webhook_no_file_is_kept() {
    let gateway = TestGateway::start_with(Options::default(), &[("WEBHOOK_BASE_URL", "")]).await;
    gateway.pair("shop", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    let picture = Media::new(MediaKind::Image, bytes(400), "image/jpeg");
    let id = friend.sends_media(NUMBER, &picture).await.unwrap();
    friend.wait_receipt(&id, ReceiptKind::Delivered, STEP).await.unwrap();
    // The next one is taken after the first: nothing is under way any more.
    let last = friend.says(NUMBER, "and then").await.unwrap();
    friend.wait_receipt(&last, ReceiptKind::Delivered, STEP).await.unwrap();
    assert_eq!(gateway.simulator.counters().media_downloads, 0);
    let kept = std::fs::read_dir(gateway.folder().join("media")).map_or(0, Iterator::count);
    assert_eq!(kept, 0);
    assert_eq!(gateway.receiver.hooks().len(), 0);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_leads_out_of_the_folder_names_a_file_in_it() {
    let (gateway, friend) = paired().await;
    for hostile in ["../../escaped", "..", ".hidden", "a/b"] {
        let picture = Media::new(MediaKind::Image, bytes(300), "image/jpeg");
        let message = friend.media_message(&picture).unwrap();
        friend.sends_as(hostile, NUMBER, message).await.unwrap();
        let body = hook(&gateway.receiver, hostile).await;
        let name = body["media"]["image"].as_str().unwrap().to_owned();
        assert!(
            name.len() == 36
                && name.split_once('.').is_some_and(|(_, end)| end == "jpg")
                && !name.contains(['/', '\\']),
            "{hostile}: {name}"
        );
        assert!(download(&gateway, &name).await.2 == picture.bytes, "{hostile}");
        assert!(gateway.folder().join("media").join(&name).is_file());
    }
    assert_eq!(std::fs::read_dir(gateway.folder().join("media")).unwrap().count(), 4);
    assert!(!gateway.folder().join("escaped.jpg").exists());
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrapped_and_edited_messages_are_opened_and_revokes_are_not_told() {
    let (gateway, friend) = paired().await;
    let said = |text: &str| wa::Message { conversation: Some(text.to_owned()), ..Default::default() };
    let picture = Media::new(MediaKind::Image, bytes(400), "image/jpeg").caption("once");
    let inner = friend.media_message(&picture).unwrap();
    let once = wa::Message { view_once_message_v2: wrapped(inner), ..Default::default() };
    let id = friend.sends_message(NUMBER, once).await.unwrap();
    let body = hook(&gateway.receiver, &id).await;
    assert_eq!((&body["message"], &body["media"]["image"]), (&json!("once"), &json!(format!("{id}.jpg"))));
    assert_eq!(body["view_once"], true);

    let vanishing = wa::Message { ephemeral_message: wrapped(said("soon gone")), ..Default::default() };
    let id = friend.sends_message(NUMBER, vanishing).await.unwrap();
    assert_eq!(hook(&gateway.receiver, &id).await["message"], "soon gone");

    let first = friend.says(NUMBER, "helo").await.unwrap();
    let key = wa::MessageKey { id: Some(first.clone()), from_me: Some(true), ..Default::default() };
    let edit = ProtocolMessage {
        key: some(key.clone()),
        r#type: Some(wa::message::protocol_message::Type::MESSAGE_EDIT),
        edited_message: some(said("hello")),
        ..Default::default()
    };
    let edit = wa::Message { protocol_message: some(edit), ..Default::default() };
    let edit = wa::Message { edited_message: wrapped(edit), ..Default::default() };
    friend.sends_message(NUMBER, edit).await.unwrap();
    let body = gateway.receiver.message("shop", "hello").await;
    assert_eq!((&body["type"], &body["edited"]), (&json!("edit"), &json!(first)));

    let revoke = ProtocolMessage {
        key: some(key),
        r#type: Some(wa::message::protocol_message::Type::REVOKE),
        ..Default::default()
    };
    let revoke = wa::Message { protocol_message: some(revoke), ..Default::default() };
    friend.sends_message(NUMBER, revoke).await.unwrap();
    let before = gateway.receiver.messages("shop").len();
    friend.says(NUMBER, "after the revoke").await.unwrap();
    gateway.receiver.message("shop", "after the revoke").await;
    assert_eq!(gateway.receiver.messages("shop").len(), before + 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_without_text_are_told_as_nulls_with_what_they_are() {
    let (gateway, friend) = paired().await;
    let key = wa::MessageKey { id: Some("3EB0AA".to_owned()), ..Default::default() };
    let empty = wa::Message::default;
    for (message, text, members) in [
        (
            wa::Message {
                reaction_message: some(ReactionMessage {
                    key: some(key),
                    text: Some("\u{1f44d}".to_owned()),
                    ..Default::default()
                }),
                ..empty()
            },
            Value::Null,
            json!({"type": "reaction", "reaction": {"id": "3EB0AA", "text": "\u{1f44d}"}}),
        ),
        (
            wa::Message {
                poll_creation_message: some(PollCreationMessage {
                    name: Some("Lunch?".to_owned()),
                    ..Default::default()
                }),
                ..empty()
            },
            Value::Null,
            json!({"type": "poll", "poll": {"name": "Lunch?"}}),
        ),
        (
            wa::Message {
                location_message: some(LocationMessage {
                    degrees_latitude: Some(-6.25),
                    degrees_longitude: Some(106.5),
                    ..Default::default()
                }),
                ..empty()
            },
            Value::Null,
            json!({"type": "location",
                "location": {"latitude": -6.25, "longitude": 106.5, "name": null, "address": null}}),
        ),
        (
            wa::Message {
                contact_message: some(ContactMessage { display_name: Some("Ani".to_owned()), ..Default::default() }),
                ..empty()
            },
            json!("Ani"),
            json!({"type": "contact", "contacts": [{"name": "Ani", "vcard": null}]}),
        ),
    ] {
        let id = friend.sends_message(NUMBER, message).await.unwrap();
        let body = hook(&gateway.receiver, &id).await;
        assert_eq!((&body["message"], &body["from"]), (&text, &json!(format!("{FRIEND}@s.whatsapp.net"))));
        assert_eq!(body["media"], json!({"image": null, "video": null, "document": null, "audio": null}));
        for (name, value) in members.as_object().unwrap() {
            assert_eq!(&body[name], value, "{name} in {body}");
        }
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_hosts_fail_for_a_while_arrives() {
    let (gateway, friend) = paired().await;
    let picture = Media::new(MediaKind::Image, bytes(3_000), "image/jpeg").caption("look");
    gateway.simulator.inject(Fault::RefuseDownloads { code: 500, path: String::new() }.times(2));
    let id = friend.sends_media(NUMBER, &picture).await.unwrap();
    assert_eq!(hook(&gateway.receiver, &id).await["media"]["image"], format!("{id}.jpg"));
    assert!(download(&gateway, &format!("{id}.jpg")).await.2 == picture.bytes);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_tried_for_longer_than_hosts_and_disks_fail() {
    let (gateway, friend) = paired().await;
    let picture = Media::new(MediaKind::Image, bytes(3_000), "image/jpeg");
    let folder = gateway.folder().join("media");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let fault = gateway.simulator.inject(Fault::RefuseDownloads { code: 503, path: String::new() });
    let id = friend.sends_media(NUMBER, &picture).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::remove_file(&folder).unwrap();
    // A try that ends by what is no file takes place five times, and then there are more.
    eventually("six tries", || async { (gateway.simulator.counters().faults_hit >= 6).then_some(()) }).await;
    gateway.simulator.clear(fault);
    assert_eq!(hook(&gateway.receiver, &id).await["media"]["image"], format!("{id}.jpg"));
    assert!(download(&gateway, &format!("{id}.jpg")).await.2 == picture.bytes);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_larger_than_the_setting_is_not_taken_whatever_its_sender_says() {
    let gateway = TestGateway::start_with(Options::default(), &[("MEDIA_MAX_BYTES", "4096")]).await;
    gateway.pair("shop", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    let media = |length| Media::new(MediaKind::Image, bytes(length), "image/jpeg").caption("look");
    let told = friend.media_message(&media(4_097)).unwrap();
    let mut untold = friend.media_message(&media(9_000)).unwrap();
    untold.image_message.as_option_mut().unwrap().file_length = Some(5);
    for message in [told, untold] {
        let id = friend.sends_message(NUMBER, message).await.unwrap();
        let body = hook(&gateway.receiver, &id).await;
        assert_eq!((&body["media"]["image"], &body["message"]), (&Value::Null, &json!("look")));
        assert_eq!(body["media_error"], "The file is larger than MEDIA_MAX_BYTES allows");
    }
    let id = friend.sends_media(NUMBER, &media(4_096)).await.unwrap();
    assert_eq!(hook(&gateway.receiver, &id).await["media"]["image"], format!("{id}.jpg"));
    assert_eq!(std::fs::read_dir(gateway.folder().join("media")).unwrap().count(), 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_replaces_a_file_that_was_told_by_the_id_of_another_message() {
    let (gateway, friend) = paired().await;
    let mallory = gateway.simulator.phone(OTHER);
    for kind in [MediaKind::Image, MediaKind::Document] {
        let member = if kind == MediaKind::Image { "image" } else { "document" };
        let hers = Media::new(kind, bytes(3_000), "image/jpeg");
        let id = friend.sends_media(NUMBER, &hers).await.unwrap();
        let name = hook(&gateway.receiver, &id).await["media"][member].as_str().unwrap().to_owned();
        let mut his = Media::new(kind, bytes(2_000), "image/jpeg");
        his.file_name = Some("other.txt".to_owned());
        let message = mallory.media_message(&his).unwrap();
        mallory.sends_as(&id, NUMBER, message).await.unwrap();
        let from_him = eventually("his message", || async {
            let messages = gateway.receiver.messages("shop");
            messages.into_iter().find(|body| body["id"] == id && body["size"] == 2_000)
        })
        .await;
        let other = from_him["media"][member].as_str().unwrap();
        assert_ne!(other, name);
        assert!(download(&gateway, &name).await.2 == hers.bytes, "{kind:?}");
        assert!(download(&gateway, other).await.2 == his.bytes, "{kind:?}");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_the_hosts_lost_is_asked_for_again_and_arrives() {
    let (gateway, friend) = paired().await;
    let picture = Media::new(MediaKind::Image, bytes(3_000), "image/jpeg");
    let message = friend.media_message(&picture).unwrap();
    let path = message.image_message.as_option().unwrap().direct_path.clone().unwrap();
    assert!(gateway.simulator.forget_media(&path));
    let id = friend.sends_message(NUMBER, message).await.unwrap();
    let body = hook(&gateway.receiver, &id).await;
    assert_eq!((&body["media"]["image"], body.get("media_error")), (&json!(format!("{id}.jpg")), None));
    assert!(download(&gateway, &format!("{id}.jpg")).await.2 == picture.bytes);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_nobody_has_any_more_is_told_as_missing_with_the_rest_of_the_message() {
    let (gateway, friend) = paired().await;
    let picture = Media::new(MediaKind::Image, bytes(3_000), "image/jpeg").caption("look");
    for code in [404, 410] {
        let fault = gateway.simulator.inject(Fault::RefuseDownloads { code, path: String::new() });
        let id = friend.sends_media(NUMBER, &picture).await.unwrap();
        let body = hook(&gateway.receiver, &id).await;
        assert_eq!(body["media"], json!({"image": null, "video": null, "document": null, "audio": null}), "{code}");
        assert_eq!((&body["message"], &body["type"]), (&json!("look"), &json!("image")));
        assert_eq!(body["media_error"], "The file is no longer available on WhatsApp", "{code}");
        gateway.simulator.clear(fault);
    }
    // The session goes on as if nothing had been.
    friend.says(NUMBER, "and now").await.unwrap();
    gateway.receiver.message("shop", "and now").await;
    assert_eq!(std::fs::read_dir(gateway.folder().join("media")).unwrap().count(), 0, "nothing half is left");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_file_holds_its_chat_in_order_and_no_other() {
    let (gateway, friend) = paired().await;
    let other = gateway.simulator.phone(OTHER);
    other.says(NUMBER, "warm").await.unwrap();
    gateway.receiver.message("shop", "warm").await;
    let slow = gateway.simulator.inject(Fault::SlowMedia { delay: Duration::from_secs(3) });
    let video = friend.sends_media(NUMBER, &Media::new(MediaKind::Video, bytes(9_000), "video/mp4")).await.unwrap();
    friend.says(NUMBER, "after the video").await.unwrap();
    other.says(NUMBER, "meanwhile").await.unwrap();
    gateway.receiver.message("shop", "meanwhile").await;
    let seen = gateway.receiver.messages("shop");
    assert!(seen.iter().all(|body| body["id"] != video.as_str() && body["message"] != "after the video"), "{seen:?}");
    gateway.receiver.message("shop", "after the video").await;
    let seen = gateway.receiver.messages("shop");
    let last: Vec<_> = seen.iter().rev().take(2).map(|body| body["message"].clone()).collect();
    assert_eq!(last, [json!("after the video"), Value::Null], "in the order of the chat");
    assert_eq!(seen[seen.len() - 2]["media"]["video"], format!("{video}.mp4"));
    gateway.simulator.clear(slow);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_of_a_download_begins_it_again() {
    let (mut gateway, friend) = paired().await;
    let slow = gateway.simulator.inject(Fault::SlowMedia { delay: Duration::from_secs(20) });
    let picture = Media::new(MediaKind::Image, bytes(3_000), "image/jpeg");
    let id = friend.sends_media(NUMBER, &picture).await.unwrap();
    eventually("an unfinished file", || async {
        let files = std::fs::read_dir(gateway.folder().join("media")).ok()?;
        (files.count() == 1).then_some(())
    })
    .await;
    gateway.stop().await;
    gateway.simulator.clear(slow);
    gateway.restart().await;
    assert_eq!(hook(&gateway.receiver, &id).await["media"]["image"], format!("{id}.jpg"));
    assert!(download(&gateway, &format!("{id}.jpg")).await.2 == picture.bytes);
    assert_eq!(gateway.receiver.messages("shop").len(), 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_document_does_not_pass_through_memory() {
    const LENGTH: usize = 64 << 20;
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = base_settings(&simulator, &receiver, folder.path());
    let process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("shop").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("shop", "connected").await;
    let friend = simulator.phone(FRIEND);
    // Everything that is made once is there before the measure is taken.
    let small = Media::new(MediaKind::Document, bytes(1_000), "application/zip").file_name("small.zip");
    let id = friend.sends_media(NUMBER, &small).await.unwrap();
    hook(&receiver, &id).await;
    let before = process.peak_memory();
    let large = Media::new(MediaKind::Document, bytes(LENGTH), "application/zip").file_name("large.zip");
    let id = friend.sends_media(NUMBER, &large).await.unwrap();
    assert_eq!(hook(&receiver, &id).await["media"]["document"], json!(id));
    let saved = std::fs::read(folder.path().join("media").join(format!("{id}.zip"))).unwrap();
    assert!(saved == large.bytes, "other bytes");
    let grown = process.peak_memory() - before;
    assert!(grown < 16 << 20, "VmHWM grew by {grown} bytes");
    tokio::time::timeout(STEP, simulator.shutdown()).await.unwrap();
}
