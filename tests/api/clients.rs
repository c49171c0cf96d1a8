//! Programs that were written against wa-gateway 4.7.1, played with their own requests, order and headers.
//!
//! None may need a change; what each depends on is asserted as that program reads it.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, Response, redirect};
use serde_json::{Value, json};
use whatsapp_simulator::Phone;
use whatsapp_simulator::phone::MediaInfo;

use super::support::{KEY, STEP, TestGateway, encode, eventually, picture};

mod admin;
mod laravel;
mod typescript;

const NUMBER: &str = "6281234500001";
const CUSTOMER: &str = "6281234567890";

/// One of the programs: an HTTP client that sends the same headers with every request.
pub(crate) struct Program {
    base: String,
    client: Client,
    headers: Vec<(&'static str, String)>,
}

impl Program {
    pub(crate) fn new(gateway: &TestGateway, headers: &[(&'static str, &str)]) -> Self {
        let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(STEP).build().unwrap();
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { base: gateway.api.base().to_owned(), client, headers }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<(&str, String)>) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.ask(Method::POST, path, Some(("application/json", body.to_string()))).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.ask(Method::DELETE, path, None).await
    }
}

pub(crate) async fn json_of(response: Response) -> Value {
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/json"), "{kind}");
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

/// The member `data.key.id`, which every program reads after a send.
pub(crate) async fn sent_id(response: Response) -> String {
    assert_eq!(response.status(), 200);
    json_of(response).await["data"]["key"]["id"].as_str().unwrap().to_owned()
}

/// What the customer got: what is told of the file, and the file.
pub(crate) async fn attachment(customer: &Phone) -> (MediaInfo, Vec<u8>) {
    let got = customer.next_message(STEP).await.unwrap();
    let info = got.media().unwrap_or_else(|| panic!("no file in {got:?}"));
    (info, customer.download(&got).unwrap())
}

pub(crate) fn photo() -> Vec<u8> {
    picture(24, 16, image::ImageFormat::Jpeg)
}

pub(crate) fn pdf() -> Vec<u8> {
    b"%PDF-1.4 an invoice".to_vec()
}

/// A bot that asks for things that are not there, and lives on webhooks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_bot() {
    let gateway = TestGateway::start().await;
    let bot = Program::new(&gateway, &[("key", KEY)]);
    let status = bot.get("/session/status?session=bot").await.status().as_u16();
    assert!([400, 404].contains(&status), "{status}");
    assert_eq!(json_of(bot.get("/session").await).await, json!({ "data": [] }));
    // It tries GET first and falls back to POST.
    let first = bot.get("/session/start?session=bot").await;
    assert_eq!(first.status(), 200);
    let qr = json_of(bot.post("/session/start", json!({ "session": "bot" })).await).await;
    gateway.simulator.scan(qr["qr"].as_str().unwrap(), NUMBER).await.unwrap();
    gateway.receiver.last_status("bot", "connected").await;

    let customer = gateway.simulator.phone(CUSTOMER);
    let group = gateway.simulator.create_group("Family", &[CUSTOMER, NUMBER], false);
    customer.says(&group, "not for the bot").await.unwrap();
    customer.says(NUMBER, "!ping").await.unwrap();
    gateway.receiver.message("bot", "!ping").await;
    gateway.receiver.message("bot", "not for the bot").await;
    for hook in gateway.receiver.messages("bot") {
        let from = hook["from"].as_str().unwrap();
        assert!(hook["media"].is_object());
        if from.ends_with("@g.us") {
            continue;
        }
        let to = from.replace("@s.whatsapp.net", "");
        let reply = json!({ "session": hook["session"], "to": to, "text": "pong" });
        sent_id(bot.post("/message/send-text", reply).await).await;
    }
    let received = customer.next_message(STEP).await.unwrap();
    assert_eq!(received.text.as_deref(), Some("pong"));
    gateway.finish().await;
}

/// Sends slowly, with a key and somebody else's `Authorization`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn php_office() {
    let gateway = TestGateway::start().await;
    gateway.pair("office", NUMBER).await;
    gateway.simulator.phone(CUSTOMER);
    for foreign in ["Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "Basic b2ZmaWNlOnBhc3M=", "Bearer", "garbage"] {
        let office = Program::new(&gateway, &[("key", KEY), ("Authorization", foreign)]);
        assert_eq!(office.get("/session").await.status(), 200, "{foreign}");
        let body = json!({ "session": "office", "to": CUSTOMER, "text": "" });
        sent_id(office.post("/message/send-text", body).await).await;
    }
    let stranger = Program::new(&gateway, &[("Authorization", "Bearer wrong")]);
    assert_eq!(stranger.get("/session").await.status(), 401);
    gateway.finish().await;
}

/// Ways of writing the same thing that are in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loose_writing_is_understood() {
    let gateway = TestGateway::start().await;
    gateway.pair("a", NUMBER).await;
    let customer = gateway.simulator.phone(CUSTOMER);
    let group = gateway.simulator.create_group("Team", &[NUMBER, CUSTOMER], false);
    let id = group.trim_end_matches("@g.us");
    for headers in [[("key", KEY)], [("x-api-key", KEY)], [("Authorization", "Bearer secret")]] {
        let program = Program::new(&gateway, &headers);
        assert_eq!(program.get("/session").await.status(), 200, "{headers:?}");
    }
    let program = Program::new(&gateway, &[("key", KEY)]);
    let mut texts = 0;
    let mut send = async |kind: &str, body: String| {
        texts += 1;
        let body = body.replace("TEXT", &format!("{texts}"));
        let response = program.ask(Method::POST, "/message/send-text", Some((kind, body.clone()))).await;
        assert_eq!(response.status(), 200, "{kind} {body}");
        let received = eventually("the text", || async {
            customer.inbox().into_iter().find(|received| received.text == Some(texts.to_string()))
        });
        received.await.chat.to_string()
    };
    for flag in ["\"is_group\":true", "\"is_group\":\"true\"", "\"is_group\":1", "\"isGroup\":true"] {
        let body = format!(r#"{{"session":"a","to":"{id}","text":"TEXT",{flag}}}"#);
        assert_eq!(send("application/json", body).await, group, "{flag}");
    }
    for flag in ["\"is_group\":false", "\"is_group\":\"false\"", "\"is_group\":0", "\"isGroup\":false"] {
        let body = format!(r#"{{"session":"a","to":{CUSTOMER},"text":"TEXT",{flag}}}"#);
        assert!(send("APPLICATION/JSON; charset=UTF-8", body).await.starts_with(NUMBER), "{flag}");
    }
    let form = format!("session=a&to=%2B{CUSTOMER}&text=TEXT&is_group=false");
    send("application/x-www-form-urlencoded; charset=UTF-8", form).await;
    let query = format!("/message/send-text?session=a&to={id}&text=q&is_group=true");
    sent_id(program.get(&query).await).await;
    gateway.finish().await;
}

/// No program is ever sent elsewhere, and wrong paths and methods are told apart in JSON.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_paths_never_redirect() {
    let gateway = TestGateway::start().await;
    for headers in [&[("key", KEY)][..], &[], &[("key", "wrong")]] {
        let program = Program::new(&gateway, headers);
        for path in ["/session/a/b", "/message/nope", "/message", "/profile/x", "/health/x", "/sessions"] {
            let response = program.get(path).await;
            // This one may be a message, which only who has the key may ask for.
            let guarded = path == "/message/nope" && !headers.contains(&("key", KEY));
            assert_eq!(response.status(), if guarded { 401 } else { 404 }, "{path}");
            assert_eq!(json_of(response).await["message"], if guarded { "Unauthorized" } else { "Route not found" });
        }
        let response = program.ask(Method::PUT, "/message/send-text", None).await;
        assert_eq!(response.status(), 405);
        let allow = response.headers()["allow"].to_str().unwrap().to_owned();
        assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
        assert!(json_of(response).await["message"].is_string());
    }
    gateway.finish().await;
}

/// How long a program waits: a start answers within 10 s and a send within 30, whatever WhatsApp does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_time() {
    let gateway = TestGateway::start().await;
    let program = Program::new(&gateway, &[("key", KEY)]);
    gateway.pair("a", NUMBER).await;
    gateway.simulator.phone(CUSTOMER);
    gateway.simulator.inject(whatsapp_simulator::Fault::SilentAccept);
    let started = Instant::now();
    let silent = program.post("/session/start", json!({ "session": "b" })).await;
    assert!(
        silent.status().is_server_error() && started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    gateway.simulator.clear_faults();
    gateway.simulator.inject(whatsapp_simulator::Fault::DropMessageAcks);
    let started = Instant::now();
    let path = format!("/message/send-text?session=a&to={CUSTOMER}&text={}", encode("no ack"));
    let lost = program.get(&path).await;
    assert!(started.elapsed() < STEP, "{:?}", started.elapsed());
    assert_eq!(lost.status(), 504);
    assert!(json_of(lost).await["data"]["key"]["id"].is_string());
    gateway.finish().await;
}
