//! No request makes a handler panic: a panic would be a 500.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use tokio::runtime::Builder;

use axum::http::HeaderValue;

use super::*;
use crate::http::extract;
use crate::property::holds;

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// Without what would start a session and dial.
const PATHS: [&str; 13] = [
    "/session",
    "/session/",
    "/session/logout",
    "/message/send-text",
    "/message/send-image",
    "/message/send-location",
    "/message/send-contact",
    "/message/send-poll",
    "/message/send-reaction",
    "/profile",
    "/keys/",
    "/media/",
    "/auth/login",
];
const KINDS: [&str; 6] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/plain",
    "application/vnd.x+json; charset=\u{e9}",
];
const MEMBERS: [&str; 16] = [
    "session",
    "to",
    "text",
    "is_group",
    "image_url",
    "latitude",
    "longitude",
    "contacts",
    "question",
    "options",
    "max_selections",
    "message_id",
    "reaction",
    "target",
    "reply_to",
    "mentions[]",
];

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        ".{0,12}".prop_map(serde_json::Value::from),
        "[+0-9@. a-z*-]{0,24}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            vec((".{0,8}", inner), 0..6).prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let member = (select(&MEMBERS[..]), json());
    let object = vec(member, 0..8).prop_map(|members| {
        let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
        serde_json::Value::Object(members.collect()).to_string().into_bytes()
    });
    let form = vec((select(&MEMBERS[..]), ".{0,12}"), 0..8)
        .prop_map(|pairs| serde_urlencoded::to_string(pairs).unwrap().into_bytes());
    let part = ".{0,24}".prop_map(|text| {
        format!(
            "--x\r\nContent-Disposition: form-data; name=\"{text}\"; filename=\"{text}\"\r\n\r\n{text}\r\n--x--\r\n"
        )
        .into_bytes()
    });
    prop_oneof![object, form, part, vec(any::<u8>(), 0..200), json().prop_map(|json| json.to_string().into_bytes())]
}

#[test]
fn no_request_makes_a_handler_panic() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let router = runtime.block_on(async { router(state(None).await) });
    let target = (select(&PATHS[..]), "[a-zA-Z0-9%+.;:@&=~*'-]{0,24}", "[ -~]{0,40}");
    let head = (select(&METHODS[..]), select(&KINDS[..]), vec(any::<u8>(), 0..40));
    holds((target, head, body()), |((path, tail, query), (method, kind, cookie), body)| {
        let query: String = query.chars().map(|c| if "\"<>\\^`{|} #".contains(c) { '_' } else { c }).collect();
        let tail = if path.ends_with('/') { tail.replace('%', "%4") } else { String::new() };
        let Ok(mut request) =
            Request::builder().method(method).uri(format!("{path}{tail}?{query}")).body(Body::from(body))
        else {
            return;
        };
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_bytes(kind.as_bytes()).unwrap());
        if let Ok(cookie) = HeaderValue::from_bytes(&cookie) {
            for name in ["cookie", "key", "range", "if-modified-since", "x-forwarded-for", "authorization"] {
                headers.insert(name, cookie.clone());
            }
        }
        let told = format!("{method} {path}{tail}?{query}");
        let response = runtime.block_on(router.clone().oneshot(request)).unwrap();
        assert!(response.status().as_u16() != 500, "{told}: {}", response.status());
    });
}

#[test]
fn ids_are_decoded_without_loss_or_panic() {
    holds(".{0,40}", |text| {
        let encoded = text.bytes().fold(String::new(), |encoded, byte| encoded + &format!("%{byte:02X}"));
        assert_eq!(extract::decode(&encoded), text);
    });
    holds("[%0-9a-fA-F\u{e9}+]{0,40}", |text| {
        extract::decode(&text);
    });
}

#[test]
fn a_body_is_json_or_refused() {
    holds(vec(any::<u8>(), 0..400), |bytes| drop(extract::json(&bytes)));
    holds(json(), |value| {
        assert!(extract::json(value.to_string().as_bytes()).is_ok());
    });
    let deep = |open: &str| extract::json(open.repeat(100_000).as_bytes()).is_err();
    assert!(deep("[") && deep("{\"a\":"));
}
