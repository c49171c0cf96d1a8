//! A gateway in a recorded state: sessions connected, waiting for a scan, connecting, logged out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use wa_gateway::{Config, Gateway};
use whatsapp_simulator::{Options, Phone, Simulator};

use super::golden::Setting;
use super::wire::{self, Answer};

/// The longest that a step on the way to a state may take.
pub(crate) const STEP: Duration = Duration::from_secs(30);

/// Polls until there is a value; panics with `what` after [`STEP`].
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + STEP;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {STEP:?} in vain for {what}");
        // A bounded poll of a condition that nobody announces.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One webhook call as the receiver got it.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// The receiver: the calls so far, and how many of the next ones it refuses with 500.
#[derive(Clone, Default)]
struct Receiver {
    hooks: Arc<Mutex<Vec<Hook>>>,
    refusals: Arc<AtomicUsize>,
}

/// A gateway over a simulator, and a webhook receiver.
pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) simulator: Simulator,
    pub(crate) port: u16,
    receiver: Receiver,
    folder: TempDir,
    variables: Vec<(String, String)>,
    /// Where the gateway looks for WhatsApp; `None`: at the simulator.
    elsewhere: Option<&'static str>,
    gateway: Option<Gateway>,
    _receiver: DropGuard,
}

impl World {
    pub(crate) async fn start(setting: Setting) -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::default();
        let (hooks, stop) = receive(receiver.clone()).await;
        let folder = tempfile::tempdir().unwrap();
        let in_folder = |name: &str| folder.path().join(name).display().to_string();
        let variables = [
            ("KEY", setting.key.to_owned()),
            ("ALLOW_NO_KEY", setting.key.is_empty().to_string()),
            ("NODE_ENV", setting.env.to_owned()),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", "0".to_owned()),
            ("START_TIMEOUT_SECS", "2".to_owned()),
            ("WEBHOOK_BASE_URL", format!("http://127.0.0.1:{hooks}/webhook")),
            ("WHATSAPP_WS_URL", simulator.ws_url()),
            ("WHATSAPP_MEDIA_URL", simulator.media_url()),
            ("CREDENTIALS_DIR", in_folder("wa_credentials")),
            ("MEDIA_DIR", in_folder("media")),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let gateway = bind(&variables, None).await;
        let port = gateway.addr().port();
        let gateway = Some(gateway);
        Self { setting, simulator, port, receiver, folder, variables, elsewhere: None, gateway, _receiver: stop }
    }

    /// Where files of `/media` lie.
    pub(crate) fn media(&self) -> std::path::PathBuf {
        self.folder.path().join("media")
    }

    /// The files that the gateway has left in its folder, as `/media` names them: what lies outside begins with `../`. Its
    /// credentials and hidden files are left out. Each holds these bytes.
    pub(crate) fn files(&self, bytes: &[u8]) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![(self.folder.path().to_owned(), "../".to_owned())];
        while let Some((folder, before)) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
                if name.starts_with('.') || before == "../" && name == "wa_credentials" {
                    continue;
                }
                if path.is_dir() {
                    let is_media = before == "../" && name == "media";
                    folders.push((path, if is_media { String::new() } else { format!("{before}{name}/") }));
                } else {
                    assert!(std::fs::read(path).unwrap() == bytes, "{name} holds other bytes");
                    files.push(format!("{before}{name}"));
                }
            }
        }
        files.sort();
        files
    }

    /// Begins anew with a gateway that looks for WhatsApp at this address; `None`: at the simulator's.
    pub(crate) async fn look_at(&mut self, elsewhere: Option<&'static str>) {
        self.elsewhere = elsewhere;
        self.restart().await;
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let gateway = bind(&self.variables, self.elsewhere).await;
        self.port = gateway.addr().port();
        self.gateway = Some(gateway);
    }

    async fn stop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.shutdown(STEP, std::future::pending()).await;
        }
    }

    pub(crate) async fn finish(mut self) {
        self.stop().await;
        self.simulator.shutdown().await;
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut headers = vec![("key".to_owned(), self.setting.key.to_owned())];
        let body = body.map(|body| body.to_string());
        if body.is_some() {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        wire::ask(self.port, method, path, &headers, body.as_deref()).await
    }

    /// The session's status in the list; empty: it is not listed.
    pub(crate) async fn status(&self, id: &str) -> String {
        let list: Value = serde_json::from_str(&self.ask("GET", "/session", None).await.body).unwrap();
        let row = list["data"].as_array().unwrap().iter().find(|row| row["session"] == id).cloned();
        row.map_or_else(String::new, |row| row["status"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn wait_status(&self, id: &str, status: &str) {
        eventually(&format!("{id} to be {status}"), || async { (self.status(id).await == status).then_some(()) }).await;
    }

    /// A session that waits for its scan: its code.
    pub(crate) async fn waits(&self, id: &str) -> String {
        let answer = self.ask("POST", "/session/start", Some(json!({ "session": id }))).await;
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        body["qr"].as_str().unwrap_or_else(|| panic!("no code for {id}: {}", answer.body)).to_owned()
    }

    /// A connected session; its account is named after it, its number ends in the digits of its id.
    pub(crate) async fn connected(&self, id: &str) -> Phone {
        let qr = self.waits(id).await;
        let number = number(id);
        let phone = self.simulator.account(&number, &format!("Fake {id}")).unwrap();
        self.simulator.scan(&qr, &number).await.unwrap();
        self.wait_status(id, "connected").await;
        phone
    }

    /// A session whose phone has unlinked it.
    pub(crate) async fn unlinked(&self, id: &str) {
        self.connected(id).await;
        self.unlink(id).await;
    }

    pub(crate) async fn unlink(&self, id: &str) {
        let number = number(id);
        let device = self.simulator.devices(&number).last().unwrap().device;
        self.simulator.unlink(&number, device);
        self.wait_status(id, "disconnected").await;
    }

    /// The calls so far to a path of the receiver.
    pub(crate) fn hooks(&self, path: &str) -> Vec<Hook> {
        self.receiver.hooks.lock().unwrap().iter().filter(|hook| hook.path == path).cloned().collect()
    }

    /// The receiver answers the next call with 500.
    pub(crate) fn refuse_next(&self) {
        self.receiver.refusals.store(1, Ordering::SeqCst);
    }

    /// The status words that the receiver was told of a session after so many events, in order.
    pub(crate) fn told(&self, id: &str, after: usize) -> Vec<String> {
        let read = |hook: Hook| serde_json::from_str::<Value>(&hook.body).unwrap();
        let bodies = self.hooks("/webhook/session").into_iter().skip(after).map(read);
        bodies.filter(|body| body["session"] == id).map(|body| body["status"].as_str().unwrap().to_owned()).collect()
    }
}

/// The number of a session's account. What is logged out beforehand has accounts of its own.
pub(crate) fn number(id: &str) -> String {
    let digits: String = id.chars().filter(char::is_ascii_digit).collect();
    let shares = id.starts_with("dead") || id.starts_with("stuck") || id.starts_with("late");
    format!("6281234{}{digits:0>3}", if shares { "509" } else { "500" })
}

/// Settings name loopback addresses only; what is dialled `elsewhere` is put in afterwards.
async fn bind(variables: &[(String, String)], elsewhere: Option<&str>) -> Gateway {
    let mut config = Config::from_vars(variables.iter().cloned()).unwrap();
    if let Some(url) = elsewhere {
        config.simulator.as_mut().unwrap().ws_url = url.parse().unwrap();
    }
    Gateway::bind(config).await.unwrap()
}

/// Takes every call and says 200, if it shall not refuse it; ends with the guard.
async fn receive(receiver: Receiver) -> (u16, DropGuard) {
    let take = |State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, bytes: Bytes| async move {
        let body = String::from_utf8_lossy(&bytes).into_owned();
        receiver.hooks.lock().unwrap().push(Hook { path: uri.path().to_owned(), headers, body });
        let refused = receiver.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        refused.map_or(StatusCode::OK, |_| StatusCode::INTERNAL_SERVER_ERROR)
    };
    let router = axum::Router::new().fallback(take).with_state(receiver);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let token = CancellationToken::new();
    let stopped = token.clone();
    #[expect(clippy::disallowed_methods, reason = "the receiver's owner is its drop guard")]
    tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await.unwrap();
    });
    (port, token.drop_guard())
}
