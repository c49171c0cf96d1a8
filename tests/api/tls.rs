//! The production way to dial: `wss://` with a certificate that is checked.

use whatsapp_simulator::{Options, Simulator};

use super::support::{Process, Receiver, base_settings};

const NUMBER: &str = "6281234500051";

async fn settings(
    simulator: &Simulator,
    receiver: &Receiver,
    folder: &std::path::Path,
    root: &str,
) -> Vec<(String, String)> {
    let file = folder.join("root.pem");
    tokio::fs::write(&file, root).await.unwrap();
    let mut settings = base_settings(simulator, receiver, folder);
    settings.retain(|(name, _value)| name != "WHATSAPP_WS_URL");
    settings.push(("WHATSAPP_WS_URL".to_owned(), simulator.wss_url().unwrap()));
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
