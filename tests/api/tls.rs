//! The production way to dial: `wss://` with a certificate that is checked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use whatsapp_simulator::{Options, Simulator};

use super::support::{Process, Receiver, STEP, base_settings, picture};

const NUMBER: &str = "6281234500051";
const FRIEND: &str = "6281234500052";

async fn settings(
    simulator: &Simulator,
    receiver: &Receiver,
    folder: &std::path::Path,
    root: &str,
) -> Vec<(String, String)> {
    let file = folder.join("root.pem");
    tokio::fs::write(&file, root).await.unwrap();
    let mut settings = base_settings(simulator, receiver, folder);
    settings.retain(|(name, _value)| !["WHATSAPP_WS_URL", "WHATSAPP_MEDIA_URL"].contains(&name.as_str()));
    let url = simulator.wss_url().unwrap();
    let media = url.replace("wss://", "https://").replace("/ws/chat", "");
    settings.push(("WHATSAPP_WS_URL".to_owned(), url));
    settings.push(("WHATSAPP_MEDIA_URL".to_owned(), media));
    settings.push(("WHATSAPP_TLS_ROOT".to_owned(), file.display().to_string()));
    settings.push(("START_TIMEOUT_SECS".to_owned(), "5".to_owned()));
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_pairs_over_tls() {
    let simulator = Simulator::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&simulator, &receiver, folder.path(), &simulator.root_pem().unwrap()).await;
    let process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("a").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("a", "connected").await;
    let seen = simulator.last_upgrade().unwrap();
    assert_eq!(seen.server_name.as_deref(), Some("localhost"));
    assert_eq!(seen.origin.as_deref(), Some("https://web.whatsapp.com"));
    assert_eq!(seen.path, "/ws/chat");
    assert!(seen.host.is_some_and(|host| host.starts_with("localhost:")));
    // Files take the same way, by the same trust.
    let friend = simulator.phone(FRIEND);
    let png = picture(4, 3, image::ImageFormat::Png);
    let image = STANDARD.encode(&png);
    let body = json!({ "session": "a", "to": FRIEND, "text": "hi", "image_base64": image });
    process.api.post("/message/send-image", body).await.expect(200);
    let got = friend.next_message(STEP).await.unwrap();
    assert!(got.message.image_message.as_option().is_some(), "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_root_is_refused() {
    let simulator = Simulator::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let stranger = Simulator::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&simulator, &receiver, folder.path(), &stranger.root_pem().unwrap()).await;
    let process = Process::start(&settings, folder.path()).await;
    process.api.start("a").await.expect(504);
    assert_eq!(process.api.status("a").await, "connecting");
    process.says("TLS with localhost failed").await;
    assert_eq!(simulator.counters().registrations, 0);
}
