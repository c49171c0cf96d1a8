//! Entries about the process: its port, its settings file, its log.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::wire;
use super::world::eventually;

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn gateway(folder: &std::path::Path, variables: &[(&str, &str)]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wa-gateway"));
    command.current_dir(folder).env_clear().env("HOST", "127.0.0.1").envs(variables.iter().copied());
    // Nothing is dialled: no session is started.
    command.env("WHATSAPP_WS_URL", "ws://127.0.0.1:9/");
    let log = File::create(folder.join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn end(process: &mut Process) -> i32 {
    let ended = || {
        let status = process.0.try_wait().unwrap();
        async move { status }
    };
    eventually("the process to end", ended).await.code().unwrap()
}

#[tokio::test]
async fn a_taken_port_ends_it_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut process = gateway(folder.path(), &[("KEY", "secret"), ("PORT", &port)]);
    assert_eq!(end(&mut process).await, 1);
}

/// The original listens on all interfaces, IPv6 and IPv4: `localhost` is either.
#[tokio::test]
async fn it_listens_on_all_interfaces() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _process = gateway(folder.path(), &[("KEY", "secret"), ("PORT", &port.to_string()), ("HOST", "")]);
    let ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for address in ["127.0.0.1", "::1"].into_iter().filter(|address| ipv6 || *address != "::1") {
        let up = || async { std::net::TcpStream::connect((address, port)).ok() };
        eventually(&format!("the gateway to listen on {address}"), up).await;
    }
}

/// The original printed the whole request, its key included, some 6 to 12 kB each time.
#[tokio::test]
async fn a_failed_webhook_is_one_short_line_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let (port, nobody) = (free_port(), free_port());
    let base = format!("http://user:pass-word@127.0.0.1:{nobody}/hook?token=in-the-query");
    let _process = gateway(
        folder.path(),
        &[("KEY", "the-key"), ("PORT", &port.to_string()), ("WEBHOOK_BASE_URL", &base), ("NO_COLOR", "1")],
    );
    let up = || async { std::net::TcpStream::connect(("127.0.0.1", port)).ok() };
    eventually("the gateway to listen", up).await;
    let headers =
        [("key".to_owned(), "the-key".to_owned()), ("content-type".to_owned(), "application/json".to_owned())];
    // The status `connecting` has nowhere to go, nor has the dial.
    wire::ask(port, "POST", "/session/start", &headers, Some(r#"{"session":"a"}"#)).await;
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    let lines = || {
        let log = log();
        log.lines()
            .filter(|line| line.contains("webhook") || line.contains("deliver"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    eventually("the log to tell the failure", || async { (!lines().is_empty()).then_some(()) }).await;
    for line in lines() {
        assert!(line.len() < 500, "{line}");
    }
    let log = log();
    for secret in ["the-key", "pass-word", "in-the-query"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// The original's log held query strings, keys included.
#[tokio::test]
async fn a_settings_file_is_read_the_environment_wins_and_the_log_keeps_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let (port, other) = (free_port(), free_port());
    std::fs::write(folder.path().join(".env"), format!("KEY=from-the-file\nPORT={other}\n")).unwrap();
    let mut process =
        gateway(folder.path(), &[("PORT", &port.to_string()), ("RUST_LOG", "wa_gateway=trace"), ("NO_COLOR", "1")]);
    let up = || async { std::net::TcpStream::connect(("127.0.0.1", port)).ok() };
    eventually("the gateway to listen", up).await;
    let answer = wire::ask(port, "GET", "/session?key=from-the-file", &[], None).await;
    assert_eq!(answer.status, 200);
    assert_eq!(wire::ask(port, "GET", "/session?key=a-guess", &[], None).await.status, 401);
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    let line = format!("Server is running on port {port}");
    // It listens a moment before it says so.
    eventually("the log to tell the port", || async { log().contains(&line).then_some(()) }).await;
    process.0.kill().unwrap();
    let log = log();
    assert!(!log.contains("from-the-file") && !log.contains("a-guess"), "{log}");
    let requests: Vec<&str> = log.lines().filter(|line| line.contains("request answered")).collect();
    assert!(requests.len() == 2 && requests.iter().all(|line| line.contains("DEBUG") && !line.contains('?')), "{log}");
}

/// The original's log says 0.
#[tokio::test]
async fn an_empty_port_is_a_random_one_and_the_log_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let _process = gateway(folder.path(), &[("KEY", "secret"), ("PORT", ""), ("NO_COLOR", "1")]);
    let named = || async {
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        let (_, rest) = log.split_once("Server is running on port ")?;
        rest.split_once('\n')?.0.trim().parse::<u16>().ok()
    };
    let port = eventually("the log to name the port", named).await;
    assert_eq!(wire::ask(port, "GET", "/health", &[], None).await.status, 200);
}

/// The original ends with 1; here 1 is for what may work the next time.
#[tokio::test]
async fn a_port_that_is_none_ends_it_with_64() {
    for port in ["abc", "70000"] {
        let folder = tempfile::tempdir().unwrap();
        let mut process = gateway(folder.path(), &[("KEY", "secret"), ("PORT", port)]);
        assert_eq!(end(&mut process).await, 64, "{port}");
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(log.contains("PORT"), "{log}");
    }
}

/// The original served on, and ended with the first session.
#[tokio::test]
async fn a_credentials_folder_that_cannot_be_used_ends_it_with_1() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("wa_credentials"), "no folder").unwrap();
    let port = free_port();
    let mut process = gateway(folder.path(), &[("KEY", "secret"), ("PORT", &port.to_string())]);
    assert_eq!(end(&mut process).await, 1);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("wa_credentials") && !log.contains("Server is running"), "{log}");
}

/// The original's lines are `[<session>] connecting`, without a time.
#[tokio::test]
async fn the_log_tells_each_status_of_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let settings = [("KEY", "secret"), ("PORT", &port.to_string()), ("NO_COLOR", "1"), ("START_TIMEOUT_SECS", "1")];
    let _process = gateway(folder.path(), &settings);
    let up = || async { std::net::TcpStream::connect(("127.0.0.1", port)).ok() };
    eventually("the gateway to listen", up).await;
    let headers = [("key".to_owned(), "secret".to_owned()), ("content-type".to_owned(), "application/json".to_owned())];
    let session = Some(r#"{"session":"a"}"#);
    wire::ask(port, "POST", "/session/start", &headers, session).await;
    assert_eq!(wire::ask(port, "POST", "/session/logout", &headers, session).await.status, 200);
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    for status in ["connecting", "disconnected"] {
        let is_told = |line: &str| {
            line.contains("status changed")
                && line.contains("session=a")
                && line.contains(status)
                && line.contains("INFO")
        };
        eventually(status, || async { log().lines().any(is_told).then_some(()) }).await;
    }
}
