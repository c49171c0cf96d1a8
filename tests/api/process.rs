//! The program itself: it ends in order when told to, keeps its own key, and refuses what it can't use.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use whatsapp_simulator::{Fault, Options, Simulator};

use super::support::{KEY, Process, Receiver, STEP, base_settings, eventually};

const NUMBER: &str = "6281234500081";
const FRIEND: &str = "6281234500082";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_it_in_order_and_sessions_come_back() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = base_settings(&simulator, &receiver, folder.path());
    let mut process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("a").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("a", "connected").await;
    let status = process.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    process.says("stopped").await;
    assert_eq!(simulator.connections(), 0);
    // Stopped, not logged out: the device is still linked.
    assert_eq!(simulator.devices(NUMBER).len(), 1);
    let process = Process::start(&settings, folder.path()).await;
    process.api.wait_status("a", "connected").await;
    assert_eq!(simulator.counters().pairings, 1);
}

/// Whoever uses the library's ciphers before the gateway has chosen keeps the slower ones for the life of the process.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[tokio::test]
async fn keys_are_agreed_by_assembly_where_the_processor_can() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.push(("RUST_LOG".to_owned(), "wa_gateway=debug".to_owned()));
    let mut process = Process::start(&settings, folder.path()).await;
    process.terminate().await;
    let able = graviola::util::is_cpu_supported();
    assert_eq!(process.log().contains("keys are agreed by assembly"), able, "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_waits_for_a_message_that_is_being_sent() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let friend = simulator.phone(FRIEND);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.push(("START_TIMEOUT_SECS".to_owned(), "50".to_owned()));
    let mut process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("a").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("a", "connected").await;
    // A start that waits for its code, which nobody could scan any more, does not hold the end up.
    simulator.inject(Fault::SilentAccept);
    let (api, text) = (process.api.clone(), "x".repeat(50));
    let (started, sent, ended) = tokio::join!(
        api.start("b"),
        api.post("/message/send-text", json!({ "session": "a", "to": FRIEND, "text": text })),
        async {
            friend.wait_typing(true, STEP).await.unwrap();
            eventually("the other session to dial", || async { (api.status("b").await != "absent").then_some(()) })
                .await;
            process.terminate().await
        }
    );
    assert_eq!(started.expect(503).message(), "The gateway is shutting down");
    sent.expect(200);
    assert_eq!(ended.code(), Some(0), "{}", process.log());
    process.says("stopped").await;
    let inbox = friend.inbox();
    assert_eq!(inbox.iter().filter(|message| message.text.as_deref() == Some(&text)).count(), 1, "{inbox:?}");
    assert_eq!(simulator.devices(NUMBER).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_hold_up_no_stop() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = base_settings(&simulator, &receiver, folder.path());
    let mut process = Process::start(&settings, folder.path()).await;
    let address = process.api.base().trim_start_matches("http://").to_owned();
    let body = format!("POST /message/send-text HTTP/1.1\r\nhost: x\r\nkey: {KEY}\r\ncontent-length: 99\r\n\r\n{{");
    let mut clients = Vec::new();
    for half in ["G", &body] {
        let mut client = TcpStream::connect(&address).await.unwrap();
        client.write_all(half.as_bytes()).await.unwrap();
        clients.push(client);
    }
    // They were accepted before this one, which was served.
    process.api.get("/health").await.expect(200);
    let status = process.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    process.says("stopped").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_takes_no_received_files_is_told_at_the_start() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "a file").unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.retain(|(name, _value)| name != "MEDIA_DIR");
    settings.push(("MEDIA_DIR".to_owned(), taken.to_str().unwrap().to_owned()));
    let process = Process::start(&settings, folder.path()).await;
    process.says("MEDIA_DIR takes none").await;
    process.says("/taken").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_it_makes_its_own_and_tells_only_the_file() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.retain(|(name, _value)| name != "KEY");
    let process = Process::start(&settings, folder.path()).await;
    process.api.get("/session").await.expect(401);
    let file = folder.path().join("wa_credentials/api-key");
    let key = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    process.api.get(&format!("/session?key={key}")).await.expect(200);
    process.says("api-key").await;
    assert!(!process.log().contains(&key));
    process.api.get(&format!("/session/start?session=a&key={key}")).await.expect(200);
    receiver.last_status("a", "connecting").await;
    assert_eq!(receiver.hooks()[0].headers["key"], "", "a key of our own is nobody else's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settings_file_of_the_original_means_the_same_here() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.retain(|(name, _value)| name != "KEY");
    // The comment is not UTF-8: the file is read all the same.
    let file = b"# caf\xe9\r\nAPP_NAME=My Gateway\r\nno setting\r\nexport KEY=pa$$w0rd of $HOME # mine\r\n";
    std::fs::write(folder.path().join(".env"), file).unwrap();
    let process = Process::start(&settings, folder.path()).await;
    process.api.with_key("pa$$w0rd of $HOME").get("/session").await.expect(200);
    process.api.with_key("pa").get("/session").await.expect(401);
    drop(process);
    simulator.shutdown().await;
}

#[test]
fn bad_settings_are_told_at_once_and_all_together() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_wa-gateway"))
        .current_dir(folder.path())
        .env_clear()
        .env("PORT", "eighty")
        .env("WEBHOOK_BASE_URL", "ftp://example.org")
        .env("WHATSAPP_WS_URL", "ws://192.0.2.1/ws/chat")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    for name in ["PORT", "WEBHOOK_BASE_URL", "WHATSAPP_WS_URL"] {
        assert!(told.contains(name), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_gateway_on_the_same_folder_is_refused() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = base_settings(&simulator, &receiver, folder.path());
    let _first = Process::start(&settings, folder.path()).await;
    let second = Command::new(env!("CARGO_BIN_EXE_wa-gateway"))
        .current_dir(folder.path())
        .env_clear()
        .envs(settings)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8_lossy(&second.stdout).into_owned() + &String::from_utf8_lossy(&second.stderr);
    assert!(told.contains("in use by another process"), "{told}");
}
