//! The real router, by requests that are answered before any session is asked.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use axum::routing::any;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::*;
use crate::keys::{Keys, Logins};
use crate::media::{self, Fetcher, Folder};
use crate::metrics::Metrics;
use crate::outbox::memory::MemoryKv;
use crate::session::{self, Tasks};
use crate::whatsapp::{self, WhatsApp};

mod description;
mod property;
mod scope;

/// Real, but with nothing stored and nowhere to dial: these tests start no session.
fn sessions_over(kv: Arc<dyn crate::store::Kv>) -> SessionManager {
    let settings = session::Settings {
        sent: crate::ledger::Limits { messages: 100, age: Duration::from_hours(1), keys: 100 },
        check_numbers: false,
        start_timeout: Duration::from_secs(8),
        send_timeout: Duration::from_secs(25),
        qr_idle: Duration::from_mins(2),
        media_owners: false,
        restore_concurrency: 8,
        watchdog: Duration::from_secs(30),
    };
    let whatsapp = whatsapp::Settings { ws_url: Some("ws://127.0.0.1:9/".to_owned()), ..whatsapp::Settings::default() };
    let whatsapp = WhatsApp::new(whatsapp).unwrap();
    let fetcher = Fetcher::new(media::Limits {
        max_bytes: 1024 * 1024,
        timeout: Duration::from_secs(10),
        private_addresses: true,
        folder: std::env::temp_dir().into(),
    });
    SessionManager::new(settings, kv, whatsapp, fetcher.unwrap(), outboxes(), Metrics::default(), Tasks::default())
}

/// Nobody takes the notices, and nobody takes events.
fn outboxes() -> (tokio::sync::mpsc::Sender<crate::outbox::Notice>, Arc<crate::outbox::Common>) {
    let common = crate::outbox::Common::new(crate::outbox::Bounds::default(), crate::outbox::Kinds::default(), false);
    (tokio::sync::mpsc::channel(1).0, Arc::new(common))
}

async fn auth(keys: Option<Keys>) -> Auth {
    let logins = Logins::open(Arc::new(MemoryKv::default()), keys.as_ref()).await.unwrap();
    Auth::new(keys, logins, Vec::new(), 0)
}

pub(super) async fn state(key: Option<&str>) -> AppState {
    let keys = Keys::open(Arc::new(MemoryKv::default())).await.unwrap();
    let auth = auth(key.map(|key| {
        keys.set_master(key.as_bytes());
        keys
    }))
    .await;
    let uploads = Uploads::new(1_000_000, std::env::temp_dir().into());
    let kv = Arc::new(MemoryKv::default());
    let sessions = sessions_over(Arc::clone(&kv) as _);
    AppState {
        health: Health::new(Arc::clone(&kv) as _, sessions.clone(), Metrics::default(), CancellationToken::new()),
        backup: Backup::new(kv, TaskTracker::new()),
        metrics_public: false,
        sessions: sessions.into(),
        auth,
        uploads,
        webhook_urls: UrlRule::new(|_url| true),
        dashboard: Dashboard::default(),
        development: false,
        media: Media { folder: Folder::new("media"), require_key: false }.into(),
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask_router(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 22).await.unwrap();
    assert_eq!(parts.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).unwrap(), "*", "every answer is open");
    let body = String::from_utf8_lossy(&body).into_owned();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

pub(super) async fn ask(key: Option<&str>, request: Request<Body>) -> Answer {
    ask_router(router(state(key).await), request).await
}

fn request(method: &str, uri: &str) -> Request<Body> {
    Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()
}

fn post(uri: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method("POST").uri(uri).header("key", "secret");
    let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
    request.body(body.into()).unwrap()
}

#[tokio::test]
async fn health_is_public() {
    for uri in ["/health", "/health?key=wrong", "http://localhost:5001/health", "/session/../health"] {
        let answer = ask(Some("secret"), request("GET", uri)).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"ok"}"#), "{uri}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(!answer.header("x-request-id").is_empty());
    }
    let head = ask(Some("secret"), request("HEAD", "/health")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn every_guarded_endpoint_asks_for_the_key_first() {
    let endpoints = endpoints(&state(Some("secret")).await);
    let public: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.scope == Scope::Public).collect();
    let public: Vec<_> = public.iter().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)).collect();
    let expected = [
        "GET /health",
        "HEAD /health",
        "GET /livez",
        "HEAD /livez",
        "GET /readyz",
        "HEAD /readyz",
        "GET /openapi.json",
        "HEAD /openapi.json",
        "GET /media/{*name}",
        "HEAD /media/{*name}",
        "GET /assets/{*path}",
        "HEAD /assets/{*path}",
        "GET /auth/login",
        "HEAD /auth/login",
        "POST /auth/login",
    ];
    assert_eq!(public, expected, "nothing else is public");
    for endpoint in endpoints {
        if endpoint.scope == Scope::Public {
            continue;
        }
        if endpoint.scope == Scope::Dashboard {
            for uri in [endpoint.path.to_owned(), format!("{}?key=secret", endpoint.path)] {
                let mut asked = request(endpoint.method.as_str(), &uri);
                asked.headers_mut().insert("key", "secret".parse().unwrap());
                let answer = ask(Some("secret"), asked).await;
                assert_eq!((answer.status, answer.body.as_str()), (302, ""), "{} {uri}", endpoint.method);
                assert_eq!(answer.header("location"), "/auth/login");
                assert_eq!(answer.header("content-type"), "text/plain; charset=UTF-8");
            }
            continue;
        }
        let uri = endpoint.path.replace("{session}", "x");
        for uri in [uri.clone(), format!("{uri}?key=wrong"), format!("{uri}?key=")] {
            let answer = ask(Some("secret"), request(endpoint.method.as_str(), &uri)).await;
            let body = if endpoint.method == Method::HEAD { "" } else { r#"{"message":"Unauthorized"}"# };
            assert_eq!((answer.status, answer.body.as_str()), (401, body), "{} {uri}", endpoint.method);
            assert_eq!(answer.header("www-authenticate"), "");
        }
    }
    let body = r#"{"key":"secret","session":"x"}"#;
    let unsigned = Request::builder().method("POST").uri("/session/start").header("content-type", "application/json");
    assert_eq!(ask(Some("secret"), unsigned.body(Body::from(body)).unwrap()).await.status, 401);
}

#[tokio::test]
async fn scopes_are_as_agreed() {
    use Scope::{Manage, Public, Read, Send};
    let endpoints = endpoints(&state(None).await);
    for (path, method, scope) in [
        ("/health", Method::GET, Public),
        ("/session", Method::GET, Read),
        ("/session/{session}", Method::GET, Read),
        ("/session/{session}", Method::HEAD, Read),
        ("/session/{session}", Method::DELETE, Manage),
        ("/session/start", Method::GET, Manage),
        ("/session/start", Method::POST, Manage),
        ("/session/logout", Method::PATCH, Manage),
        ("/message/send-text", Method::GET, Send),
        ("/message/send-text", Method::POST, Send),
        ("/message/send-image", Method::POST, Send),
        ("/message/delete", Method::POST, Send),
        ("/profile", Method::POST, Read),
    ] {
        assert!(endpoints.contains(&Endpoint { path, method: method.clone(), scope }), "{method} {path}");
    }
}

#[tokio::test]
async fn unknown_paths_are_404_in_json() {
    for uri in [
        "/nope",
        "/nope?key=secret",
        "/health/",
        "/SESSION",
        "//session",
        "/session/ok1/",
        "/session/ok1/extra",
        "/session/a/b",
        "/session/start/",
        "/message",
        "/message/send-text/",
        // Without the key it may be a message, which only who has the key may ask for.
        "/message/send-nothing?key=secret",
        "/profile/",
        "/assets",
        "/assets/",
        "/auth",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = ask(Some("secret"), request(method, uri)).await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (404, r#"{"message":"Route not found"}"#),
                "{method} {uri}"
            );
            assert_eq!(answer.header("content-type"), "application/json");
        }
    }
    // Not UTF-8; these paths exist for GET only.
    for uri in ["/assets/%ff", "/media/%ff"] {
        let answer = ask(Some("secret"), request("GET", uri)).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, r#"{"message":"Route not found"}"#), "{uri}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_with_allow_and_head_changes_nothing() {
    for (method, uri, allow) in [
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/session", "GET, HEAD, DELETE"),
        ("PUT", "/session/", "GET, HEAD, DELETE"),
        ("PATCH", "/session/ok1", "GET, HEAD, DELETE"),
        ("PUT", "/session/start", "GET, POST, DELETE"),
        ("PUT", "/message/send-text", "GET, POST"),
        ("GET", "/message/send-image", "POST"),
        ("PUT", "/profile", "POST"),
        ("HEAD", "/message/send-text?session=ok1&to=628&text=hi", "GET, POST"),
        ("HEAD", "/session/start?session=qr1", "GET, POST, DELETE"),
        ("HEAD", "/session/logout?session=ok1", "GET, POST, PUT, PATCH, DELETE"),
        ("TRACE", "/session/logout?session=ok1", "GET, POST, PUT, PATCH, DELETE"),
    ] {
        let mut asked = request(method, uri);
        asked.headers_mut().insert("key", "secret".parse().unwrap());
        let answer = ask(Some("secret"), asked).await;
        let body = if method == "HEAD" { "" } else { r#"{"message":"Method not allowed"}"# };
        assert_eq!((answer.status, answer.body.as_str()), (405, body), "{method} {uri}");
        assert_eq!(answer.header("allow"), allow, "{method} {uri}");
    }
}

#[tokio::test]
async fn a_missing_id_is_told() {
    for (method, uri) in [("GET", "/session/"), ("DELETE", "/session/"), ("DELETE", "/session")] {
        let mut asked = request(method, uri);
        asked.headers_mut().insert("key", "secret".parse().unwrap());
        let answer = ask(Some("secret"), asked).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (400, r#"{"message":"Session ID is required"}"#),
            "{method} {uri}"
        );
    }
}

#[tokio::test]
async fn raw_bytes_in_a_path_are_refused_without_a_word() {
    for uri in ["/session/caf\u{e9}", "/caf\u{e9}?x=y"] {
        let answer = ask(Some("secret"), request("GET", uri)).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, ""), "{uri}");
    }
    let answer = ask(Some("secret"), request("GET", "/health?x=\u{1f600}")).await;
    assert_eq!(answer.status, 200, "in a query they are what they are");
}

#[tokio::test]
async fn options_is_answered_for_every_path_without_a_key() {
    for uri in ["/session/ok1", "/nope", "/session/logout?session=ok1", "/dashboard/messages/send-text-api"] {
        let mut asked = request("OPTIONS", uri);
        let plain = ask(Some("secret"), asked).await;
        assert_eq!((plain.status, plain.body.as_str()), (204, ""));
        assert_eq!(plain.header("access-control-allow-methods"), "GET,HEAD,PUT,POST,DELETE,PATCH");
        assert_eq!(plain.header("content-type"), "text/plain; charset=UTF-8");
        assert_eq!((plain.header("access-control-allow-headers"), plain.header("vary")), ("", ""));
        asked = request("OPTIONS", uri);
        asked.headers_mut().insert("access-control-request-headers", "content-type, key".parse().unwrap());
        let echo = ask(Some("secret"), asked).await;
        assert_eq!(echo.header("access-control-allow-headers"), "content-type,key");
        assert_eq!(echo.header("vary"), "Access-Control-Request-Headers");
        assert_eq!(echo.header("access-control-allow-credentials"), "");
    }
}

#[tokio::test]
async fn validation_speaks_the_contracts_words() {
    const JSON: &str = "application/json";
    const START: &str = "/session/start";
    const TEXT: &str = "/message/send-text";
    for (uri, kind, body, message) in [
        (START, "", "", "Required field 'session' on json"),
        (START, "", r#"{"session":"n1"}"#, "Required field 'session' on json"),
        (START, "multipart/form-data; boundary=x", "--x\r\n", "Required field 'session' on json"),
        (START, JSON, "", "Malformed JSON in request body"),
        (START, JSON, "{bad", "Malformed JSON in request body"),
        (START, JSON, r#"{"session":"n1""#, "Malformed JSON in request body"),
        (START, JSON, r#"{"session":"n1"}x"#, "Malformed JSON in request body"),
        (START, JSON, "{'session':'n1'}", "Malformed JSON in request body"),
        (START, JSON, "null", "Expected object, received null field '' on json"),
        (START, JSON, "[]", "Expected object, received array field '' on json"),
        (START, JSON, r#""x""#, "Expected object, received string field '' on json"),
        (START, JSON, "5", "Expected object, received number field '' on json"),
        (START, JSON, "true", "Expected object, received boolean field '' on json"),
        (START, JSON, "{}", "Required field 'session' on json"),
        (START, JSON, r#"{"session":5}"#, "Expected string, received number field 'session' on json"),
        (START, JSON, r#"{"session":1.5}"#, "Expected string, received number field 'session' on json"),
        (START, JSON, r#"{"session":null}"#, "Expected string, received null field 'session' on json"),
        (START, JSON, r#"{"session":true}"#, "Expected string, received boolean field 'session' on json"),
        (START, JSON, r#"{"session":["a"]}"#, "Expected string, received array field 'session' on json"),
        (START, JSON, r#"{"session":{}}"#, "Expected string, received object field 'session' on json"),
        (START, JSON, r#"{"Session":"n1"}"#, "Required field 'session' on json"),
        (START, JSON, "\u{feff}{}", "Required field 'session' on json"),
        (START, JSON, r#"{"session":"x","session":5}"#, "Expected string, received number field 'session' on json"),
        ("/session/start?session=n1", JSON, "{}", "Required field 'session' on json"),
        (START, "APPLICATION/JSON", "{bad", "Malformed JSON in request body"),
        (START, "application/vnd.api+json", "{bad", "Malformed JSON in request body"),
        (START, "application/json5", "{bad", "Required field 'session' on json"),
        (START, "text/json", "{bad", "Required field 'session' on json"),
        (START, "application/json, text/plain", "{bad", "Required field 'session' on json"),
        (START, "application/x-www-form-urlencoded", "x=1", "Required field 'session' on json"),
        (START, JSON, r#"{"session":""}"#, "Session must not be empty"),
        (START, JSON, r#"{"session":"  "}"#, "Session must not be empty"),
        (START, JSON, r#"{"session":"logout"}"#, "Session must not be one of start, stop, logout, status, . and .."),
        (START, JSON, r#"{"session":".."}"#, "Session must not be one of start, stop, logout, status, . and .."),
        (TEXT, JSON, "{}", "Required field 'session' on json"),
        (TEXT, JSON, r#"{"to":"628","text":"hi"}"#, "Required field 'session' on json"),
        (TEXT, JSON, r#"{"session":5,"to":5,"text":5}"#, "Expected string, received number field 'session' on json"),
        (TEXT, JSON, r#"{"session":"s","text":"hi"}"#, "Required field 'to' on json"),
        (TEXT, JSON, r#"{"session":"s","to":null,"text":"hi"}"#, "Expected string, received null field 'to' on json"),
        (TEXT, JSON, r#"{"session":"s","to":1.5,"text":"hi"}"#, "Expected string, received number field 'to' on json"),
        (TEXT, JSON, r#"{"session":"s","to":-5,"text":"hi"}"#, "Expected string, received number field 'to' on json"),
        (TEXT, JSON, r#"{"session":"s","to":"628"}"#, "Required field 'text' on json"),
        (
            TEXT,
            JSON,
            r#"{"session":"s","to":"628","text":null}"#,
            "Expected string, received null field 'text' on json",
        ),
        (TEXT, JSON, r#"{"session":"s","to":"628","text":5}"#, "Expected string, received number field 'text' on json"),
        (
            TEXT,
            JSON,
            r#"{"session":"s","to":"628","text":"hi","is_group":null}"#,
            "Expected boolean, received null field 'is_group' on json",
        ),
        (
            TEXT,
            JSON,
            r#"{"session":"s","to":"628","text":"hi","is_group":"maybe"}"#,
            "Expected boolean, received string field 'is_group' on json",
        ),
        (
            TEXT,
            JSON,
            r#"{"session":"s","to":"628","text":"hi","is_group":2}"#,
            "Expected boolean, received number field 'is_group' on json",
        ),
        (
            TEXT,
            JSON,
            r#"{"session":"s","to":"628","text":"hi","isGroup":[]}"#,
            "Expected boolean, received array field 'isGroup' on json",
        ),
    ] {
        let answer = ask(Some("secret"), post(uri, kind, body)).await;
        let expected = serde_json::json!({ "message": message }).to_string();
        assert_eq!((answer.status, answer.body), (400, expected), "{uri} {kind} {body}");
    }
}

#[tokio::test]
async fn validation_of_a_query_names_the_query() {
    for (uri, message) in [
        ("/session/start", "Required field 'session' on query"),
        ("/session/start?session=", "Session must not be empty"),
        ("/session/start?session=a&session=b", "Expected string, received array field 'session' on query"),
        ("/session/logout", "Required field 'session' on query"),
        ("/message/send-text", "Required field 'session' on query"),
        ("/message/send-text?to=628&text=hi", "Required field 'session' on query"),
        ("/message/send-text?session=s&text=hi", "Required field 'to' on query"),
        ("/message/send-text?session=s&to=628", "Required field 'text' on query"),
        ("/message/send-text?session=s&to=1&to=2&text=x", "Expected string, received array field 'to' on query"),
        (
            "/message/send-text?session=s&to=628&text=x&is_group=",
            "Expected boolean, received string field 'is_group' on query",
        ),
        (
            "/message/send-text?session=s&to=628&text=x&is_group=true&is_group=true",
            "Expected boolean, received array field 'is_group' on query",
        ),
    ] {
        let answer = ask(None, request("GET", uri)).await;
        let expected = serde_json::json!({ "message": message }).to_string();
        assert_eq!((answer.status, answer.body), (400, expected), "{uri}");
    }
}

#[tokio::test]
async fn a_large_head_is_431_and_a_large_body_413() {
    let uri = format!("/session/{}", "z".repeat(17_000));
    let answer = ask(None, request("GET", &uri)).await;
    assert_eq!((answer.status, answer.body.as_str()), (431, r#"{"message":"Request header fields too large"}"#));

    let too_large = (413, r#"{"message":"Request body too large"}"#);
    let body = format!(r#"{{"session":"{}"}}"#, "q".repeat(1_100_000));
    let answer = ask(Some("secret"), post("/session/start", "application/json", body.clone())).await;
    assert_eq!((answer.status, answer.body.as_str()), too_large);
    let chunks =
        body.into_bytes().chunks(4096).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
    let chunked = Body::from_stream(futures::stream::iter(chunks));
    let answer = ask(Some("secret"), post("/session/start", "application/json", chunked)).await;
    assert_eq!((answer.status, answer.body.as_str()), too_large);

    let mut announced = post("/session/start", "application/json", Body::empty());
    announced.headers_mut().insert(header::CONTENT_LENGTH, "100000000".parse().unwrap());
    assert_eq!(ask(Some("secret"), announced).await.status, 413);
}

#[tokio::test]
async fn a_body_of_too_many_values_is_413_before_it_is_parsed() {
    let refused = (413, r#"{"message":"Too many values in the request body"}"#);
    let form = "application/x-www-form-urlencoded";
    for (kind, body) in
        [(form, "a&".repeat(10_000)), ("application/json", format!(r#"{{"x":[{}"#, "0,".repeat(60_000)))]
    {
        for uri in ["/session/start", "/message/send-text", "/message/send-image"] {
            let answer = ask(Some("secret"), post(uri, kind, body.clone())).await;
            assert_eq!((answer.status, answer.body.as_str()), refused, "{uri} {kind}");
        }
    }
    let answer = ask(Some("secret"), post("/message/send-text", form, "a&".repeat(9_999))).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, r#"{"message":"Required field 'session' on json"}"#));
}

async fn panics() -> Response {
    panic!("inner text")
}

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let answer = ask_router(within_layers(Router::new().route("/", any(panics)), false), request("GET", "/")).await;
    let hidden = r#"{"message":"Something went wrong, please try again later!"}"#;
    assert_eq!((answer.status, answer.body.as_str()), (500, hidden));
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let endless = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let limit = extract::BodyLimit { bytes: 1000, time: Duration::from_millis(20) };
    let refused = extract::read_within(limit, endless).await.unwrap_err().into_response();
    assert_eq!(refused.status(), 408);
}

#[tokio::test]
async fn a_handler_that_never_ends_is_given_up() {
    let given_up = |request| layer::within(Duration::from_millis(20), request, |_| std::future::pending());
    let router = Router::new().route("/", any(move |request: Request<Body>| layer::cors(request, given_up)));
    let answer = ask_router(router, request("GET", "/")).await;
    assert_eq!((answer.status, answer.body.as_str()), (504, r#"{"message":"The request took too long"}"#));
}

#[tokio::test]
async fn the_table_and_the_description_agree() {
    let served = endpoints(&state(Some("secret")).await);
    openapi::tests::agree(&served);
    let answer = ask(None, request("GET", "/openapi.json")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(document, openapi::tests::of(&served));
    openapi::tests::references_hold(&document, &document);
    assert_eq!(document["openapi"], "3.1.0");
    let described = document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap());
    let operations: Vec<_> = described.collect();
    // The dashboard's pages are no API.
    assert_eq!(operations.len(), served.iter().filter(|endpoint| endpoint.scope != Scope::Dashboard).count());
    let mut ids: Vec<&str> = Vec::new();
    for (method, operation) in operations {
        let id = operation["operationId"].as_str().unwrap();
        assert!(id.starts_with(method.as_str()) && !ids.contains(&id), "{id}");
        ids.push(id);
        assert!(!operation["responses"].as_object().unwrap().is_empty(), "{id}");
    }
}
