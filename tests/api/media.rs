//! Files on their way out: by URL, in base64 and uploaded; what arrives at the contact is what was given.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use serde_json::{Value, json};
use whatsapp_simulator::{Fault, Options, Phone, Simulator};

use super::support::{Answer, Files, Process, Receiver, STEP, TestGateway, base_settings, picture, voice};

const NUMBER: &str = "6281234500201";
const ANI: &str = "6281234500202";

/// What the contact got: the kind's own words, and the bytes behind it.
async fn arrived(phone: &Phone) -> (whatsapp_simulator::phone::MediaInfo, Vec<u8>) {
    let got = phone.next_message(STEP).await.unwrap();
    let info = got.media().unwrap_or_else(|| panic!("no file in {got:?}"));
    (info, phone.download(&got).unwrap())
}

/// The message of an answer, and the names of its members in their order.
fn told(answer: &Answer, kind: &str) -> (Value, Vec<String>) {
    let body = answer.json();
    let data = body["data"].as_object().unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["key", "message", "messageTimestamp", "status"], "{}", answer.body);
    let message = body["data"]["message"].as_object().unwrap();
    assert_eq!(message.keys().collect::<Vec<_>>(), [kind], "{}", answer.body);
    let members = message[kind].as_object().unwrap().keys().cloned().collect();
    (message[kind].clone(), members)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_arrives_as_it_was_from_every_source() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let files = Files::start().await;
    let png = picture(40, 30, ImageFormat::Png);
    // Told as something else, taken for what it is.
    let url = files.put("a.jpg", "image/jpeg", png.clone());
    let encoded = STANDARD.encode(&png);
    for source in [
        json!({ "image_url": url }),
        json!({ "image_url": format!("data:image/png;base64,{encoded}") }),
        json!({ "image_base64": encoded }),
    ] {
        let mut body = json!({ "session": "a", "to": ANI, "text": "hi" });
        body.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        let answer = gateway.api.post("/message/send-image", body).await.expect(200);
        let (message, members) = told(&answer, "imageMessage");
        assert_eq!(
            members,
            [
                "url",
                "mimetype",
                "caption",
                "fileSha256",
                "fileLength",
                "height",
                "width",
                "mediaKey",
                "fileEncSha256",
                "directPath",
                "mediaKeyTimestamp",
                "jpegThumbnail"
            ]
        );
        assert_eq!((&message["mimetype"], &message["caption"]), (&json!("image/png"), &json!("hi")));
        assert_eq!((&message["width"], &message["height"]), (&json!(40), &json!(30)));
        assert_eq!(message["fileLength"], png.len().to_string());
        let (info, bytes) = arrived(&ani).await;
        assert_eq!(bytes, png);
        assert_eq!((info.mimetype.as_deref().unwrap(), info.caption.as_deref()), ("image/png", Some("hi")));
        assert_eq!((info.width, info.height), (Some(40), Some(30)));
    }
    let fields = [("session", "a"), ("to", ANI), ("text", "by form")];
    gateway.api.upload("/message/send-image", &fields, "image", "a.png", &png).await.expect(200);
    let (info, bytes) = arrived(&ani).await;
    assert_eq!((bytes, info.caption.as_deref()), (png, Some("by form")));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_videos_sounds_and_stickers_arrive() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let pdf = b"%PDF-1.4 nothing more".to_vec();
    let document = json!({
        "session": "a", "to": ANI, "text": "hi", "document_base64": STANDARD.encode(&pdf), "document_name": "r\u{e9}sum\u{e9}.pdf",
    });
    let answer = gateway.api.post("/message/send-document", document).await.expect(200);
    let (message, members) = told(&answer, "documentMessage");
    assert_eq!(
        members,
        [
            "url",
            "mimetype",
            "fileSha256",
            "fileLength",
            "mediaKey",
            "fileName",
            "fileEncSha256",
            "directPath",
            "mediaKeyTimestamp",
            "caption"
        ]
    );
    assert_eq!(
        (&message["mimetype"], &message["fileName"]),
        (&json!("application/pdf"), &json!("r\u{e9}sum\u{e9}.pdf"))
    );
    let (info, bytes) = arrived(&ani).await;
    assert_eq!(
        (bytes, info.file_name.as_deref(), info.caption.as_deref()),
        (pdf.clone(), Some("r\u{e9}sum\u{e9}.pdf"), Some("hi"))
    );

    // An upload may bring the name along.
    let fields = [("session", "a"), ("to", ANI), ("text", "")];
    gateway.api.upload("/message/send-document", &fields, "file", "list.csv", b"a,b").await.expect(200);
    let (info, bytes) = arrived(&ani).await;
    assert_eq!(
        (bytes.as_slice(), info.file_name.as_deref(), info.mimetype.as_deref().unwrap()),
        (&b"a,b"[..], Some("list.csv"), "text/csv")
    );

    let mp4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\x08mdat".to_vec();
    let video = json!({ "session": "a", "to": ANI, "video_base64": STANDARD.encode(&mp4) });
    let answer = gateway.api.post("/message/send-video", video).await.expect(200);
    let (message, members) = told(&answer, "videoMessage");
    assert_eq!(
        members,
        [
            "url",
            "mimetype",
            "fileSha256",
            "fileLength",
            "mediaKey",
            "caption",
            "fileEncSha256",
            "directPath",
            "mediaKeyTimestamp"
        ]
    );
    assert_eq!((&message["mimetype"], &message["caption"]), (&json!("video/mp4"), &json!("")));
    assert_eq!(arrived(&ani).await.1, mp4);

    let opus = voice();
    let sound = json!({ "session": "a", "to": ANI, "voice": true, "audio_base64": STANDARD.encode(&opus) });
    let answer = gateway.api.post("/message/send-audio", sound).await.expect(200);
    let (message, _members) = told(&answer, "audioMessage");
    assert_eq!((&message["mimetype"], &message["ptt"]), (&json!("audio/ogg; codecs=opus"), &json!(true)));
    let (info, bytes) = arrived(&ani).await;
    assert_eq!((bytes, info.mimetype.as_deref().unwrap()), (opus, "audio/ogg; codecs=opus"));
    let mp3 = json!({ "session": "a", "to": ANI, "ptt": "1", "audio_base64": STANDARD.encode(b"ID3\x03\0\0\0\0\0\0") });
    let answer = gateway.api.post("/message/send-audio", mp3).await.expect(400);
    assert_eq!(answer.message(), "A voice note must be an ogg/opus file, this one is audio/mpeg");

    let png = picture(600, 300, ImageFormat::Png);
    let sticker = json!({ "session": "a", "to": ANI, "sticker_base64": STANDARD.encode(png) });
    let answer = gateway.api.post("/message/send-sticker", sticker).await.expect(200);
    let (message, members) = told(&answer, "stickerMessage");
    assert_eq!(
        members[..8],
        ["url", "fileSha256", "fileEncSha256", "mediaKey", "mimetype", "directPath", "fileLength", "mediaKeyTimestamp"]
    );
    assert_eq!(message["mimetype"], "image/webp");
    let (_info, bytes) = arrived(&ani).await;
    assert_eq!((&bytes[..4], &bytes[8..12]), (&b"RIFF"[..], &b"WEBP"[..]));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_sent_is_refused_with_its_reason() {
    let settings = [("MEDIA_MAX_BYTES", "5000"), ("MEDIA_TIMEOUT_SECS", "1")];
    let gateway = TestGateway::start_with(Options::default(), &settings).await;
    gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let files = Files::start().await;
    let (large, page) = (files.put("large", "image/png", vec![0; 6000]), files.put("page", "text/html", "<html>hi"));
    let post = async |kind: &str, members: Value| {
        let mut body = json!({ "session": "a", "to": ANI, "text": "" });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let answer = gateway.api.post(&format!("/message/send-{kind}"), body).await;
        (answer.status, answer.message())
    };
    let (gone, slow) = (files.url("gone"), files.url("slow"));
    for (url, status, message) in [
        ("", 400, "Invalid Media".to_owned()),
        ("/etc/hostname", 400, "parameter \"image_url\" is no http, https or data URL".to_owned()),
        ("file:///etc/hostname", 400, "parameter \"image_url\" is no http, https or data URL".to_owned()),
        ("http://169.254.169.254/x", 400, "parameter \"image_url\" leads to an address that is not allowed".to_owned()),
        (&large, 413, "parameter \"image_url\" is larger than 5000 bytes".to_owned()),
        (&gone, 502, format!("Failed to fetch stream from {gone}")),
        ("http://127.0.0.1:1/x", 502, "fetch failed".to_owned()),
        (&slow, 504, "The media could not be fetched in time".to_owned()),
    ] {
        for kind in ["image", "sticker"] {
            assert_eq!(post(kind, json!({ "image_url": url })).await, (status, message.clone()), "{kind} {url}");
        }
    }
    let (status, message) = post("image", json!({ "image_url": page })).await;
    assert_eq!(status, 400, "{message}");
    assert!(message.contains("text/html"), "{message}");
    for name in ["document", "a.zzzz", "", "a.pdf."] {
        let document = json!({ "document_url": page, "document_name": name });
        assert_eq!(post("document", document).await, (400, "Filename must include valid extension".to_owned()));
    }
    let both = json!({ "image_url": page, "image_base64": "AA==" });
    let told = "image_url must be the only source of the file field 'image_url' on json".to_owned();
    assert_eq!(post("image", both).await, (400, told));
    assert_eq!(post("image", json!({})).await, (400, "Required field 'image_url' on json".to_owned()));
    let null = json!({ "image_url": null });
    assert_eq!(post("image", null).await.1, "Expected string, received null field 'image_url' on json");
    let fields = [("session", "a"), ("to", ANI), ("text", "")];
    let answer = gateway.api.upload("/message/send-image", &fields, "image", "a.png", &[0; 6000]).await.expect(413);
    assert_eq!(answer.message(), "The file is larger than 5000 bytes");
    let answer = gateway.api.upload("/message/send-image", &fields, "image", "a.png", b"").await.expect(400);
    assert_eq!(answer.message(), "Invalid Media");
    gateway.api.upload("/message/send-image", &fields, "other", "a.png", b"x").await.expect(400);
    let unready = json!({ "session": "b", "to": ANI, "text": "", "image_url": "" });
    let answer = gateway.api.post("/message/send-image", unready).await.expect(400);
    assert_eq!(answer.message(), "Session does not exist");
    assert!(gateway.simulator.phone(ANI).inbox().is_empty());
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_of_a_file_that_can_not_be_had_and_not_its_url() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let files = Files::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.push(("RUST_LOG".to_owned(), "wa_gateway=trace".to_owned()));
    let process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("a").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("a", "connected").await;
    simulator.phone(ANI);
    let signed = |url: &str| url.replacen("//", "//user:hidden-password@", 1) + "?X-Amz-Signature=hidden-token";
    let (gone, nobody) = (signed(&files.url("hidden-path.pdf")), signed("http://127.0.0.1:1/hidden-path.pdf"));
    let forbidden = signed("http://169.254.169.254/hidden-path.pdf");
    let because_of = |url: &str| format!("Failed to fetch stream from {url}");
    for (url, status, message) in [
        (&gone, 502, because_of(&gone)),
        (&nobody, 502, "fetch failed".to_owned()),
        (&forbidden, 400, "parameter \"document_url\" leads to an address that is not allowed".to_owned()),
    ] {
        let body = json!({ "session": "a", "to": ANI, "text": "", "document_url": url, "document_name": "x.pdf" });
        let answer = process.api.post("/message/send-document", body).await.expect(status);
        assert_eq!(answer.message(), message);
    }
    for told in ["the media host answered with status 404", "fetch failed", "request refused"] {
        process.says(told).await;
    }
    assert!(!process.log().contains("hidden-"), "a part of the URL stands in\n{}", process.log());
    drop(process);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_whatsapp_does_not_take_is_told_as_not_sent() {
    let settings = [("SEND_TIMEOUT_SECS", "3")];
    let gateway = TestGateway::start_with(Options::default(), &settings).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let body = json!({ "session": "a", "to": ANI, "text": "", "document_base64": "aGk=", "document_name": "a.txt" });
    let refused = gateway.simulator.inject(Fault::RefuseUploads { code: 500 });
    let answer = gateway.api.post("/message/send-document", body.clone()).await.expect(502);
    assert_eq!(answer.body, r#"{"message":"The message was not sent: WhatsApp did not take its file"}"#);
    gateway.simulator.clear(refused);
    let slow = gateway.simulator.inject(Fault::SlowMedia { delay: Duration::from_secs(5) });
    let answer = gateway.api.post("/message/send-document", body.clone()).await.expect(504);
    assert_eq!(answer.body, r#"{"message":"The message was not sent: it could not be made ready in time"}"#);
    gateway.simulator.clear(slow);
    assert!(ani.inbox().is_empty());
    gateway.api.post("/message/send-document", body).await.expect(200);
    assert_eq!(arrived(&ani).await.1, b"hi");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caption_is_typed_while_the_file_is_made_ready() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let mut body = json!({ "session": "a", "to": ANI, "text": "0123456789", "document_base64": "aGk=" });
    body["document_name"] = "a.txt".into();
    let begun = Instant::now();
    gateway.api.post("/message/send-document", body).await.expect(200);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let typed: Vec<bool> = ani.typing().iter().map(|typing| typing.composing).collect();
    assert_eq!(typed, [true, false]);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_document_passes_through_a_small_memory() {
    const BYTES: usize = 64 * 1024 * 1024;
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let files = Files::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.push(("SEND_TIMEOUT_SECS".to_owned(), "50".to_owned()));
    let process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("a").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("a", "connected").await;
    let ani = simulator.phone(ANI);
    process.api.text("a", ANI, "first").await.expect(200);
    ani.next_message(STEP).await.unwrap();

    // No two blocks alike, so that no part can stand for another.
    let bytes: Vec<u8> = (0..BYTES / 8).flat_map(usize::to_le_bytes).collect();
    let url = files.put("large.bin", "application/octet-stream", bytes.clone());
    let before = process.peak_memory();
    let body = json!({ "session": "a", "to": ANI, "text": "", "document_url": url, "document_name": "large.bin" });
    process.api.post("/message/send-document", body).await.expect(200);
    let grown = process.peak_memory() - before;
    let (info, got) = arrived(&ani).await;
    assert_eq!(info.length, u64::try_from(BYTES).ok());
    assert!(got == bytes, "the document arrived changed");
    assert!(grown < 16 * 1024 * 1024, "the peak grew by {grown} bytes");
    let fields = [("session", "a"), ("to", ANI), ("text", "")];
    process.api.upload("/message/send-document", &fields, "document", "large.bin", &bytes).await.expect(200);
    let grown = process.peak_memory() - before;
    assert!(arrived(&ani).await.1 == bytes, "the uploaded document arrived changed");
    assert!(grown < 16 * 1024 * 1024, "the peak grew by {grown} bytes with an upload");
    let left = std::fs::read_dir(folder.path().join("media")).unwrap().count();
    assert_eq!(left, 0, "temporary files stay behind");
}
