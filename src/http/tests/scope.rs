//! No key reaches another key's sessions: every endpoint of the table, with every kind of key.
//!
//! The endpoints come from the table itself. One that names its session in a new way fails here until [`PLACES`] knows it.

use serde_json::{Value, json};

use super::*;
use crate::event::SessionName;
use crate::keys::{Scopes, SessionSet, Spec, hash};
use crate::store::registry::{RecordState, Registry};

/// Where a request names the session it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the path.
    Path,
    /// As the member `session`, of the query or of the body.
    Member,
    /// It is about all that the caller may see.
    Listed,
    /// About none.
    Nowhere,
}

/// Every path that asks for a key.
const PLACES: &[(&str, Place)] = &[
    ("/session", Place::Listed),
    ("/session/", Place::Nowhere),
    ("/session/start", Place::Member),
    ("/session/logout", Place::Member),
    ("/session/stop", Place::Member),
    ("/session/{session}", Place::Path),
    ("/session/{session}/webhook", Place::Path),
    ("/session/{session}/export", Place::Path),
    ("/webhook/dead", Place::Member),
    ("/webhook/replay", Place::Member),
    ("/webhook/stats", Place::Member),
    ("/message/send-text", Place::Member),
    ("/message/send-image", Place::Member),
    ("/message/send-document", Place::Member),
    ("/message/send-video", Place::Member),
    ("/message/send-sticker", Place::Member),
    ("/message/send-audio", Place::Member),
    ("/message/send-location", Place::Member),
    ("/message/send-contact", Place::Member),
    ("/message/send-poll", Place::Member),
    ("/message/send-reaction", Place::Member),
    ("/message/edit", Place::Member),
    ("/message/delete", Place::Member),
    ("/message/{id}", Place::Member),
    ("/profile", Place::Member),
    ("/metrics", Place::Nowhere),
    ("/backup", Place::Nowhere),
    ("/keys", Place::Nowhere),
    ("/keys/{name}", Place::Nowhere),
];

const NONE: Scopes = Scopes { read: false, send: false, manage: false };

/// Keys by the name of what they may do.
const KEYS: &[(&str, Scopes)] = &[
    ("read", Scopes { read: true, ..NONE }),
    ("send", Scopes { send: true, ..NONE }),
    ("manage", Scopes { manage: true, ..NONE }),
];

fn grants(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::Send => "send",
        Scope::Manage => "manage",
        Scope::Public | Scope::Admin | Scope::Dashboard => "",
    }
}

/// A state with two listed sessions, `mine` and `yours`. Each key of [`KEYS`] comes twice: for every session by its
/// name, and for `yours` alone as `<name>-yours`.
async fn stage() -> AppState {
    let kv: Arc<dyn crate::store::Kv> = Arc::new(MemoryKv::default());
    let registry = Registry::new(Arc::clone(&kv));
    for name in ["mine", "yours"] {
        let record = registry.reserve(&SessionName::parse(name).unwrap()).await.unwrap().0;
        registry.update(&record.uid, |record| record.state = RecordState::LoggedOut).await.unwrap();
    }
    let sessions = sessions_over(Arc::clone(&kv));
    sessions.restore().await.unwrap().begin();
    let mut keys = Vec::new();
    for (name, scopes) in KEYS {
        let all = Spec { name: (*name).to_owned(), sessions: SessionSet::All, scopes: *scopes };
        let name = format!("{name}-yours");
        let yours = Spec { name: name.clone(), sessions: SessionSet::Named(vec!["yours".to_owned()]), ..all.clone() };
        keys.extend([(hash(all.name.as_bytes()), all), (hash(name.as_bytes()), yours)]);
    }
    let ring = Keys::open(kv).await.unwrap();
    ring.set_master(b"secret");
    ring.set_file(keys);
    AppState { sessions: sessions.into(), auth: auth(Some(ring)).await, ..state(None).await }
}

/// What every send could need, so that the session is what decides.
fn body(session: &str) -> Value {
    json!({
        "session": session, "to": "6281234567890", "text": "hi", "image_url": "data:image/png;base64,AA==",
        "video_url": "data:video/mp4;base64,AA==", "audio_url": "data:audio/ogg;base64,AA==",
        "document_url": "data:text/plain;base64,AA==", "document_name": "a.txt", "latitude": 1, "longitude": 2,
        "contacts": [{ "name": "a", "phone": "628123456789" }], "question": "q", "options": ["a", "b"],
        "message_id": "3EB0", "reaction": "x", "target": "6281234567890@s.whatsapp.net",
    })
}

/// A request to an endpoint about this session.
fn about(endpoint: &Endpoint, session: &str, key: Option<&str>) -> Request<Body> {
    let place = PLACES.iter().find(|(path, _)| *path == endpoint.path).map(|(_, place)| *place);
    let place = place.unwrap_or_else(|| panic!("{} is not in PLACES: where does it name its session?", endpoint.path));
    let path = endpoint.path.replace("{session}", session);
    let uri = match place {
        Place::Member => format!("{path}?session={session}&to=6281234567890&text=hi"),
        Place::Path | Place::Listed | Place::Nowhere => path,
    };
    let mut request = Request::builder().method(endpoint.method.clone()).uri(uri);
    if let Some(key) = key {
        request = request.header("key", key);
    }
    request.header("content-type", "application/json").body(Body::from(body(session).to_string())).unwrap()
}

/// The endpoints that ask for a key.
fn guarded(state: &AppState) -> Vec<Endpoint> {
    let mut endpoints = endpoints(state);
    endpoints.retain(|endpoint| !matches!(endpoint.scope, Scope::Public | Scope::Dashboard));
    endpoints
}

#[tokio::test]
async fn every_endpoint_asks_for_its_scope() {
    let state = stage().await;
    for endpoint in guarded(&state) {
        for key in [None, Some("wrong"), Some("")] {
            // Wrong keys count: each comes to a gateway of its own.
            let answer = ask_router(router(stage().await), about(&endpoint, "mine", key)).await;
            assert_eq!(answer.status, 401, "{endpoint:?} {key:?}");
        }
        for (key, _) in KEYS {
            // A session that nobody has, so that a right key changes nothing.
            let may = grants(endpoint.scope) == *key;
            if may && endpoint.path == "/session/start" && endpoint.method != Method::DELETE {
                continue;
            }
            let answer = ask_router(router(state.clone()), about(&endpoint, "ghost", Some(key))).await;
            assert_eq!(!matches!(answer.status, 401 | 403), may, "{endpoint:?} {key}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn another_keys_session_is_answered_as_an_unknown_one() {
    let state = stage().await;
    for endpoint in guarded(&state) {
        for (key, _) in KEYS {
            let key = format!("{key}-yours");
            let mut answers = Vec::new();
            for session in ["mine", "ghost"] {
                let answer = ask_router(router(state.clone()), about(&endpoint, session, Some(&key))).await;
                answers.push((answer.status, answer.body.replace(session, "…")));
            }
            assert_eq!(answers[0], answers[1], "{endpoint:?} {key}");
            assert!(!answers[0].1.contains("mine"), "{endpoint:?} {key}: {}", answers[0].1);
        }
    }
    let all = ask_router(router(state.clone()), keyed("GET", "/session", "secret")).await.body;
    assert!(all.contains("mine") && all.contains("yours"), "nothing was changed: {all}");
    let yours = ask_router(router(state.clone()), keyed("GET", "/session", "read-yours")).await.body;
    assert!(!yours.contains("mine") && yours.contains("yours"), "{yours}");
    let gone = ask_router(router(state.clone()), keyed("DELETE", "/session/yours", "manage-yours")).await;
    assert_eq!(gone.status, 200, "its own session is in reach: {}", gone.body);
}

fn keyed(method: &str, uri: &str, key: &str) -> Request<Body> {
    let mut request = request(method, uri);
    request.headers_mut().insert("key", key.parse().unwrap());
    request
}

#[tokio::test]
async fn a_name_outside_the_keys_set_can_not_be_started() {
    let state = stage().await;
    for (name, key) in [("mine", "manage-yours"), ("new", "manage-yours")] {
        for (method, uri) in [("GET", format!("/session/start?session={name}")), ("POST", "/session/start".to_owned())]
        {
            let mut request = keyed(method, &uri, key);
            if method == "POST" {
                request.headers_mut().insert("content-type", "application/json".parse().unwrap());
                *request.body_mut() = Body::from(json!({ "session": name }).to_string());
            }
            let answer = ask_router(router(state.clone()), request).await;
            assert_eq!((answer.status, answer.body.as_str()), (403, r#"{"message":"Forbidden"}"#), "{method} {name}");
        }
    }
}

#[tokio::test]
async fn the_dashboard_opens_for_the_master_key_only() {
    let state = stage().await;
    for (key, status) in [("secret", 302), ("manage", 200), ("read", 200)] {
        let mut request = post("/auth/login", "application/x-www-form-urlencoded", format!("password={key}"));
        request.headers_mut().remove("key");
        assert_eq!(ask_router(router(state.clone()), request).await.status, status, "{key}");
    }
}
