//! What strangers and broken clients do to a server: it goes on answering, and its memory stays within bounds.

#![cfg(unix)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use whatsapp_simulator::{Options, Simulator};

use super::support::{KEY, Process, Receiver, STEP, base_settings, eventually};

/// The most memory that the gateway may ever have held, in a build without optimisation.
const MEMORY: u64 = 600 * 1024 * 1024;
const IDLE: usize = 10_000;
const SLOW: usize = 500;
const IN_FLIGHT: usize = 5_000;

/// A gateway of its own process, and somebody who asks for its health all the time.
struct Besieged {
    process: Process,
    simulator: Simulator,
    address: SocketAddr,
    watch: Arc<Watch>,
    watcher: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Watch {
    ended: AtomicBool,
    answers: AtomicUsize,
}

impl Besieged {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut all = base_settings(&simulator, &receiver, folder.path());
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let process = Process::start(&all, folder.path()).await;
        let address: SocketAddr = process.api.base().trim_start_matches("http://").parse().unwrap();
        let watch = Arc::new(Watch::default());
        #[expect(clippy::disallowed_methods, reason = "it is waited for at the end")]
        let watcher = tokio::spawn(watch_health(address, Arc::clone(&watch)));
        Self { process, simulator, address, watch, watcher, _folder: folder }
    }

    /// Health is answered now, and was all the time.
    async fn is_well(&self) {
        let before = self.watch.answers.load(Ordering::Acquire);
        eventually("three more answers about its health", || async {
            assert!(!self.watcher.is_finished(), "the health was not told");
            (self.watch.answers.load(Ordering::Acquire) >= before + 3).then_some(())
        })
        .await;
    }

    /// Ends it in order; what there is to tell of the siege.
    async fn finish(mut self) -> String {
        self.is_well().await;
        self.watch.ended.store(true, Ordering::Release);
        self.watcher.await.unwrap();
        let (answers, memory) = (self.watch.answers.load(Ordering::Acquire), self.process.peak_memory());
        assert!(memory < MEMORY, "{memory} bytes of memory");
        let ended = self.process.terminate().await;
        assert!(ended.success(), "{ended:?}");
        self.simulator.shutdown().await;
        format!("{answers} answers about its health, {} MiB at most", memory / 1024 / 1024)
    }
}

/// Asks on a fresh connection each time, as a load balancer does.
async fn watch_health(address: SocketAddr, watch: Arc<Watch>) {
    while !watch.ended.load(Ordering::Acquire) {
        let answer = exchange(address, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(r#"{"status":"ok"}"#), "{answer}");
        watch.answers.fetch_add(1, Ordering::AcqRel);
        // So that it is not the watcher who keeps the gateway busy.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends what can be sent and reads until the end.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address).await;
    // The gateway may have heard enough before all is sent.
    let _sent = tokio::time::timeout(STEP, stream.write_all(request)).await.expect("nobody reads");
    read_all(&mut stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(STEP, stream.read_to_end(&mut answer)).await;
    // What the gateway did not read makes its end a reset.
    let _reset = read.expect("no answer in time");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn connect(address: SocketAddr) -> TcpStream {
    tokio::time::timeout(STEP, TcpStream::connect(address)).await.expect("no connection in time").unwrap()
}

/// As many files as this process may open.
fn open_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_and_slow_connections_disturb_nobody() {
    open_many_files();
    let gateway = Besieged::start(&[]).await;
    let mut connections: Vec<TcpStream> =
        futures::stream::iter(0..IDLE).map(|_| connect(gateway.address)).buffer_unordered(64).collect().await;
    assert_eq!(connections.len(), IDLE);
    gateway.is_well().await;
    // Some begin a head that never ends, byte by byte.
    for round in 0..10 {
        for stream in connections.iter_mut().take(SLOW) {
            let head = b"GET /hea".get(round..=round).unwrap_or(b"l");
            let _closed = stream.write_all(head).await;
        }
        gateway.is_well().await;
    }
    // And some a body.
    for stream in connections.iter_mut().skip(SLOW).take(SLOW) {
        let head = "POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n";
        let kind = "content-type: application/x-www-form-urlencoded\r\n\r\npass";
        let _closed = stream.write_all(format!("{head}{kind}").as_bytes()).await;
    }
    gateway.is_well().await;
    gateway.process.api.get("/session").await.expect(200);
    drop(connections);
    println!("10,000 connections: {}", gateway.finish().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_too_deep_is_refused_without_being_kept() {
    let gateway = Besieged::start(&[]).await;
    let head =
        |rest: &str| format!("POST /session/start HTTP/1.1\r\nhost: x\r\nkey: {KEY}\r\nconnection: close\r\n{rest}");
    // One header of 1 MiB, and 1 MiB of headers.
    let one = head(&format!("x-large: {}\r\n\r\n", "x".repeat(1 << 20)));
    let many = head(&format!("{}\r\n", format!("x-many: {}\r\n", "x".repeat(1000)).repeat(1000)));
    let line = format!("GET /health?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    for request in [one, many, line] {
        let requests = (0..20).map(|_| exchange(gateway.address, request.as_bytes()));
        for answer in futures::future::join_all(requests).await {
            let refused = answer.is_empty() || ["431", "414", "400"].iter().any(|code| answer[9..].starts_with(code));
            assert!(refused, "{answer}");
        }
    }
    let uri = format!("GET /health?{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "x".repeat(20_000));
    let answer = exchange(gateway.address, uri.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("too large"), "{answer}");

    // JSON as deep as a body may be, a hundred at once.
    let array = "[".repeat(1_000_000);
    let object = r#"{"a":"#.repeat(200_000);
    let within = format!(r#"{{"session":{array}"#);
    for body in [&array, &object, &within] {
        let kind = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let request = head(&kind);
        let requests = (0..33).map(|_| exchange(gateway.address, request.as_bytes()));
        for answer in futures::future::join_all(requests).await {
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Malformed JSON"), "{answer}");
        }
    }
    gateway.is_well().await;

    // 1 GiB, announced and in chunks.
    let announced = head(&format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", 1_u64 << 30));
    let answer = exchange(gateway.address, announced.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("Request body too large"), "{answer}");
    for path in ["/session/start", "/message/send-image", "/auth/login", "/nope"] {
        let sent = flood(gateway.address, path).await;
        println!("{path}: {} MiB of 1 GiB were taken", sent >> 20);
        gateway.is_well().await;
    }
    println!("large requests: {}", gateway.finish().await);
}

/// Sends up to 1 GiB in chunks, without ever having it; gives how much the gateway took before it closed.
async fn flood(address: SocketAddr, path: &str) -> u64 {
    let mut stream = connect(address).await;
    let kind = if path == "/auth/login" { "application/x-www-form-urlencoded" } else { "application/json" };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nkey: {KEY}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(std::iter::repeat_n(b'[', 0x10000));
    chunk.extend(b"\r\n");
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        let mut sent = 0_u64;
        while sent < 1 << 30 {
            if writer.write_all(&chunk).await.is_err() {
                break;
            }
            sent += 0x10000;
        }
        sent
    };
    let reading = async {
        let mut answer = Vec::new();
        let _reset = reader.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let both = tokio::time::timeout(STEP + STEP, futures::future::join(sending, reading)).await;
    let (sent, answer) = both.expect("the gateway neither took it nor closed");
    assert!(
        answer.is_empty() || ["413", "404", "408", "503"].iter().any(|code| answer[9..].starts_with(code)),
        "{answer}"
    );
    assert!(sent < 1 << 30, "{path} took all of it");
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_requests_in_flight_disturb_nobody() {
    open_many_files();
    // A host that takes connections and says nothing, so that fetches of files hang.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/a.jpg", silent.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "it is aborted at the end")]
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let gateway = Besieged::start(&[("MEDIA_TIMEOUT_SECS", "12"), ("CHECK_NUMBERS", "false")]).await;
    let api = &gateway.process.api;
    let qr = api.qr("busy").await;
    gateway.simulator.scan(&qr, "6281234500001").await.unwrap();
    api.wait_status("busy", "connected").await;
    let body = json!({ "session": "busy", "to": "6281234500002", "text": "", "image_url": url });
    let begun = Instant::now();
    let requests =
        (0..IN_FLIGHT).map(|_| api.try_send(reqwest::Method::POST, "/message/send-image", Some(body.clone())));
    let answers = futures::future::join_all(requests);
    let (answers, ()) = futures::future::join(answers, gateway.is_well()).await;
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for answer in answers {
        *statuses.entry(answer.map_or(0, |answer| answer.status)).or_default() += 1;
    }
    println!("{IN_FLIGHT} requests in {:?}: {statuses:?}", begun.elapsed());
    assert!(statuses.keys().all(|status| [502, 503, 504].contains(status)), "each is answered: {statuses:?}");
    api.get("/session").await.expect(200);
    held.abort();
    println!("5,000 requests in flight: {}", gateway.finish().await);
}
