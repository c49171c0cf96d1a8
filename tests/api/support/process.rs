//! The gateway as a process of its own, which can be killed.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Api, STEP, eventually};

/// A running `wa-gateway`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) api: Api,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the binary and waits until it serves.
    pub(crate) async fn start(settings: &[(String, String)], folder: &Path) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_wa-gateway")), settings, folder).await
    }

    /// The same with files of so many bytes at most, as on a full disk; the signal that comes with that is ignored.
    pub(crate) async fn start_limited(settings: &[(String, String)], folder: &Path, bytes: u64) -> Self {
        let mut shell = Command::new("/bin/sh");
        let script = format!("trap '' XFSZ; ulimit -S -f {}; exec \"$0\"", bytes / 512);
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_wa-gateway")]);
        Self::run(shell, settings, folder).await
    }

    /// Ends the limit of [`Self::start_limited`].
    pub(crate) fn raise_limit(&self) {
        let pid = self.child.id().to_string();
        let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
        assert!(raised.expect("prlimit (util-linux) is there").success());
    }

    async fn run(mut command: Command, settings: &[(String, String)], folder: &Path) -> Self {
        let port = free_port();
        let mut child = command
            .current_dir(folder)
            .env_clear()
            .envs(settings.iter().cloned())
            .env("PORT", port.to_string())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), &log);
        collect(child.stderr.take().unwrap(), &log);
        let mut process = Self { child, api: Api::new(port), log };
        let api = process.api.clone();
        eventually("the gateway to answer /health", || {
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "the gateway ended with {ended:?}:\n{}", process.log());
            let api = api.clone();
            async move { api.try_send(reqwest::Method::GET, "/health", None).await.ok().filter(|a| a.status == 200) }
        })
        .await;
        process
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Everything it has printed.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has printed this: lines are read a moment after they are written.
    pub(crate) async fn says(&self, text: &str) {
        let until = tokio::time::Instant::now() + STEP;
        while !self.log().contains(text) {
            assert!(tokio::time::Instant::now() < until, "no {text} in\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The most memory that it ever held, in bytes (Linux).
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        let signalled = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(signalled.success());
        let deadline = tokio::time::Instant::now() + STEP;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "no end after SIGTERM:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn collect(mut from: impl std::io::Read + Send + 'static, log: &Arc<Mutex<String>>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
