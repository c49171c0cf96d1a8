//! What tests say: a gateway over a simulator, a webhook receiver, and waits with deadlines.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing_subscriber::filter::LevelFilter;
use wa_gateway::{Config, Gateway};
use whatsapp_simulator::{Options, Phone, Simulator};

use crate::redis_server::RedisServer;

mod dice;
mod files;
pub(crate) mod output;
mod process;
mod receiver;

pub(crate) use dice::{Dice, flag};
pub(crate) use files::{Files, picture, voice};
pub(crate) use process::Process;
pub(crate) use receiver::Receiver;

/// The longest that any single step of a test may take.
pub(crate) const STEP: Duration = Duration::from_mins(1);
/// The API key of every test gateway.
pub(crate) const KEY: &str = "secret";

/// Polls until the closure gives a value; panics with `what` after [`STEP`].
pub(crate) async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
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

/// An answer of the gateway.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The error text.
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

/// Speaks to one gateway, in this process or another.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) client: reqwest::Client,
    key: String,
}

impl Api {
    pub(crate) fn new(port: u16) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(STEP + STEP).build().unwrap();
        Self { base: format!("http://127.0.0.1:{port}"), client, key: KEY.to_owned() }
    }

    /// The same caller with another key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// The answer to a GET of a target that no client library would send as it is, without a key.
    pub(crate) async fn raw(&self, target: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.base.trim_start_matches("http://")).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(STEP, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    /// Scheme, host and port.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) async fn send(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Answer {
        self.try_send(method, path, body).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).header("key", &self.key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok(Answer { status, body: response.text().await? })
    }

    /// Posts a multipart body of text fields and one file.
    pub(crate) async fn upload(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        part: &str,
        name: &str,
        file: &[u8],
    ) -> Answer {
        let boundary = "a-boundary-that-no-file-holds";
        let mut body = Vec::new();
        for (name, value) in fields {
            let field = format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend(field.as_bytes());
        }
        let head = format!("content-disposition: form-data; name=\"{part}\"; filename=\"{name}\"");
        body.extend(format!("--{boundary}\r\n{head}\r\ncontent-type: application/octet-stream\r\n\r\n").as_bytes());
        body.extend(file);
        body.extend(format!("\r\n--{boundary}--\r\n").as_bytes());
        let request = self.client.post(format!("{}{path}", self.base)).header("key", KEY);
        let kind = format!("multipart/form-data; boundary={boundary}");
        let response = request.header("content-type", kind).body(body).send().await.unwrap();
        Answer { status: response.status().as_u16(), body: response.text().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(reqwest::Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(reqwest::Method::POST, path, Some(body)).await
    }

    /// Posts JSON with an `Idempotency-Key`.
    pub(crate) async fn post_once(&self, path: &str, key: &str, body: Value) -> reqwest::Result<Answer> {
        let request = self.client.post(format!("{}{path}", self.base)).header("key", KEY);
        let request = request.header("idempotency-key", key).header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await?;
        let status = response.status().as_u16();
        Ok(Answer { status, body: response.text().await? })
    }

    /// What is known of a sent message.
    pub(crate) async fn state(&self, session: &str, id: &str) -> Answer {
        self.get(&format!("/message/{id}?session={}", encode(session))).await
    }

    /// Waits until a sent message has got so far.
    pub(crate) async fn wait_state(&self, session: &str, id: &str, status: &str) -> Value {
        eventually(&format!("the message to be {status}"), || async {
            let state = self.state(session, id).await.expect(200).json()["data"].clone();
            (state["status"] == status).then_some(state)
        })
        .await
    }

    pub(crate) async fn delete(&self, name: &str) -> Answer {
        self.send(reqwest::Method::DELETE, &format!("/session/{name}"), None).await
    }

    pub(crate) async fn start(&self, name: &str) -> Answer {
        self.post("/session/start", json!({ "session": name })).await
    }

    /// Starts a session that is not paired: its code.
    pub(crate) async fn qr(&self, name: &str) -> String {
        let answer = self.start(name).await.expect(200);
        answer.json()["qr"].as_str().unwrap_or_else(|| panic!("no code in {}", answer.body)).to_owned()
    }

    /// The session's row in the list.
    pub(crate) async fn row(&self, name: &str) -> Option<Value> {
        let list = self.get("/session").await.expect(200).json();
        list["data"].as_array().unwrap().iter().find(|row| row["session"] == name).cloned()
    }

    pub(crate) async fn status(&self, name: &str) -> String {
        self.row(name).await.map_or_else(|| "absent".to_owned(), |row| row["status"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn wait_status(&self, name: &str, status: &str) {
        eventually(&format!("session {name} to be {status}"), || async {
            (self.status(name).await == status).then_some(())
        })
        .await;
    }

    pub(crate) async fn text(&self, session: &str, to: &str, text: &str) -> Answer {
        let query = [("session", session), ("to", to), ("text", text)];
        let query = query.map(|(name, value)| format!("{name}={}", encode(value))).join("&");
        self.get(&format!("/message/send-text?{query}")).await
    }
}

/// Percent-encodes a query value.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A gateway in this process with everything around it.
pub(crate) struct TestGateway {
    pub(crate) simulator: Simulator,
    pub(crate) receiver: Receiver,
    pub(crate) api: Api,
    folder: TempDir,
    settings: Vec<(String, String)>,
    gateway: Option<Gateway>,
    /// `None`: it runs over sled. Last, so that the gateway ends before it.
    pub(crate) redis: Option<RedisServer>,
}

/// What a gateway keeps its sessions in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Store {
    Sled,
    Redis,
}

/// Makes two tests of each story, which takes a `Store`: one over sled, one over Redis.
macro_rules! over_both {
    ($($story:ident),+ $(,)?) => {
        mod over_sled {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $story() {
                super::$story(crate::support::Store::Sled).await;
            })+
        }
        mod over_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $story() {
                super::$story(crate::support::Store::Redis).await;
            })+
        }
    };
}
pub(crate) use over_both;

impl TestGateway {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default(), &[]).await
    }

    pub(crate) async fn start_with(options: Options, settings: &[(&str, &str)]) -> Self {
        Self::start_over(Store::Sled, options, settings).await
    }

    pub(crate) async fn over(store: Store) -> Self {
        Self::start_over(store, Options::default(), &[]).await
    }

    pub(crate) async fn start_over(store: Store, options: Options, settings: &[(&str, &str)]) -> Self {
        let simulator = Simulator::start(options).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut all = base_settings(&simulator, &receiver, folder.path());
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let redis = match store {
            Store::Sled => None,
            Store::Redis => Some(RedisServer::start()),
        };
        all.extend(redis.as_ref().map(|redis| ("REDIS_URL".to_owned(), redis.url())));
        let gateway = bind(&all).await;
        let api = Api::new(gateway.addr().port());
        Self { simulator, receiver, api, folder, settings: all, gateway: Some(gateway), redis }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.shutdown(STEP, std::future::pending()).await;
        }
    }

    /// Stops in order and comes back on the same folder.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let gateway = bind(&self.settings).await;
        self.api = Api::new(gateway.addr().port());
        self.gateway = Some(gateway);
    }

    /// Starts a session, scans its code with this number's phone and waits until it is connected.
    pub(crate) async fn pair(&self, name: &str, number: &str) -> Phone {
        let qr = self.api.qr(name).await;
        self.simulator.scan(&qr, number).await.unwrap();
        self.api.wait_status(name, "connected").await;
        self.simulator.phone(number)
    }

    /// Ends the test: everything must stop in order.
    pub(crate) async fn finish(mut self) {
        self.stop().await;
        self.simulator.shutdown().await;
    }
}

/// The settings of a gateway over this simulator.
pub(crate) fn base_settings(simulator: &Simulator, receiver: &Receiver, folder: &Path) -> Vec<(String, String)> {
    [
        ("KEY", KEY.to_owned()),
        ("HOST", "127.0.0.1".to_owned()),
        ("PORT", "0".to_owned()),
        ("NODE_ENV", "production".to_owned()),
        ("WEBHOOK_BASE_URL", receiver.url()),
        ("WHATSAPP_WS_URL", simulator.ws_url()),
        ("WHATSAPP_MEDIA_URL", simulator.media_url()),
        ("CREDENTIALS_DIR", folder.join("wa_credentials").display().to_string()),
        ("MEDIA_DIR", folder.join("media").display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

async fn bind(settings: &[(String, String)]) -> Gateway {
    // With RUST_LOG set to a level, tests tell what goes on in the gateway.
    #[expect(clippy::disallowed_methods, reason = "a flag of the test run, not a setting of the gateway")]
    if let Some(level) = std::env::var("RUST_LOG").ok().and_then(|level| level.parse::<LevelFilter>().ok()) {
        let _another_test_did = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).try_init();
    }
    let config = Config::from_vars(settings.iter().cloned()).unwrap();
    Gateway::bind(config).await.unwrap()
}
