//! A real `redis-server` of one test: on a free loopback port, with its append-only file in a temporary folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The longest that it may take to start or to end.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server; killed when dropped.
pub(crate) struct RedisServer {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    child: Child,
}

impl RedisServer {
    /// Starts one that has every write on its disk before it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts one with these options.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        // The port may be taken between the look and the start.
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if let Some(child) = spawn(&folder, port, &options) {
                return Self { folder, port, options, child };
            }
        }
        panic!("redis-server does not start: {}", log(&folder));
    }

    /// Its database 0.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: it ends in order.
    pub(crate) fn terminate(&mut self) {
        self.signal("TERM");
        let since = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < DEADLINE, "redis-server does not end: {}", log(&self.folder));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGSTOP: its connections stay and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// Starts it again on the same port and file, after `kill` or `terminate`.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.folder, self.port, &self.options)
            .unwrap_or_else(|| panic!("redis-server does not start again: {}", log(&self.folder)));
    }

    /// What a command answers, as `redis-cli` prints it.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn log(folder: &TempDir) -> String {
    std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

/// `None`: it ended at once.
fn spawn(folder: &TempDir, port: u16, options: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--logfile", "log"])
        .arg("--dir")
        .arg(folder.path())
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server (Debian's package redis-server) is there");
    let since = Instant::now();
    while TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_err() {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(since.elapsed() < DEADLINE, "redis-server does not answer: {}", log(folder));
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(child)
}
