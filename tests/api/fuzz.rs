//! Requests that nobody would write, on every route: each is answered in time, with a documented status and a body of the
//! documented shape. Routes and statuses stand in `/openapi.json`; those of the dashboard's pages in [`dashboard`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Map, Value, json};

use wa_gateway::http::Endpoint;

use super::support::{TestGateway, encode};

mod caller;
mod dashboard;
mod dice;
mod schema;
mod table;

use caller::{Caller, DOOMED, PLACES, Ring};
use dice::Dice;
use schema::{is_of, members};

/// Fixed, so that a failure comes again.
const SEED: u64 = 0x5EED_0047_1A7E_57A9;
/// For each method of each path.
const REQUESTS: usize = 60;
/// Requests in flight: most of those that succeed wait for a typing phase.
const SIDE_BY_SIDE: usize = 48;
/// The longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The smallest PNG.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// What must succeed at least once: else the rest says little.
const SUCCEED: [&str; 22] = [
    "/backup",
    "/keys",
    "/keys/{name}",
    "/message/send-audio",
    "/message/send-contact",
    "/message/send-text",
    "/message/send-image",
    "/message/send-document",
    "/message/send-sticker",
    "/message/send-location",
    "/message/send-poll",
    "/message/send-video",
    "/metrics",
    "/profile",
    "/session",
    "/session/{session}",
    "/session/{session}/webhook",
    "/session/start",
    "/session/stop",
    "/session/logout",
    "/webhook/dead",
    "/webhook/stats",
];

/// One request, ready to be sent.
struct Shot {
    method: Method,
    template: String,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// `None`: no key, a wrong one, or several.
    caller: Option<Caller>,
    has_repeat: bool,
}

/// A value of this member with which a request can succeed.
fn sound(name: &str) -> Option<Value> {
    Some(match name {
        "to" | "contact_phone" => json!("6281234567890"),
        "target" => json!("6281234567890@s.whatsapp.net"),
        "image_url" => json!(format!("data:image/png;base64,{PIXEL}")),
        "document_url" => json!("data:application/pdf;base64,JVBERi0xLjQK"),
        "document_name" => json!("x.pdf"),
        "video_url" => json!("data:video/mp4;base64,AAAAGGZ0eXBtcDQyAAAAAG1wNDJpc29tAAAACG1kYXQ="),
        "audio_url" => json!("data:audio/mpeg;base64,SUQzAwAAAAAAAA=="),
        "passphrase" => json!("correct horse battery staple"),
        "latitude" | "longitude" => json!(1.5),
        "text" | "question" | "contact_name" => json!("fine"),
        "options" => json!(["a", "b"]),
        "emoji" | "reaction" => json!("\u{1f44d}"),
        "message_id" | "id" => json!("3EB0C767D71B2A1B2C3D"),
        _ => return None,
    })
}

/// What a part of a path can be so that the request succeeds.
fn sound_part(name: &str, session: &str) -> Option<String> {
    match name {
        "session" => Some(session.to_owned()),
        "name" => Some(DOOMED.to_owned()),
        _ => None,
    }
}

fn aim(dice: &mut Dice, ring: &Ring, method: &Method, template: &str, members: &[String]) -> Shot {
    // One session is ended again and again, so that the other stays linked for the rest.
    let ends = method == Method::DELETE
        || ["/session/start", "/session/logout", "/session/stop", "/session/{session}/export"].contains(&template);
    let session = if ends { "spare" } else { "ok" };
    let spared = |text: String| if text == "ok" { session.to_owned() } else { text };
    let is_sound = dice.roll(4) == 0;
    let mut target = template.to_owned();
    while let Some((before, after)) = target.split_once('{').map(|(a, b)| (a.to_owned(), b.to_owned())) {
        let (name, after) = after.split_once('}').unwrap();
        let text: String = dice.text().chars().take(80).collect();
        let text = sound_part(name, session).filter(|_| is_sound).unwrap_or_else(|| spared(text));
        // A path segment is there; an empty one is another path.
        target = format!("{before}{}{after}", encode(if text.is_empty() || text == "." { "x" } else { &text }));
    }
    let mut object = Map::new();
    let mut query = Vec::new();
    for name in members {
        // Mostly there, and mostly texts, so that some requests come past the checks.
        if is_sound || dice.roll(8) > 0 {
            let value = match (dice.roll(5), sound(name)) {
                (0, _) if !is_sound => dice.value(0),
                _ if name == "session" => json!(session),
                (_, Some(sound)) if is_sound || dice.roll(2) == 0 => sound,
                _ if is_sound => continue,
                _ => json!(dice.text()),
            };
            let value = if value == "ok" { json!(session) } else { value };
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            query.push(format!("{name}={}", encode(&text)));
            object.insert(name.clone(), value);
        }
        if !is_sound && dice.roll(15) == 0 {
            query.push(format!("{name}={}", encode(&spared(dice.text()))));
        }
    }
    if dice.roll(3) == 0 || method == Method::GET || method == Method::HEAD {
        let text: String = query.join("&").chars().take(6000).collect();
        target = format!("{target}?{text}");
    }
    let kind = dice.pick(&[
        "application/json",
        "application/json",
        "application/json",
        "APPLICATION/JSON; charset=UTF-8",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "",
        "\u{e9}",
    ]);
    let kind = if is_sound { "application/json" } else { kind };
    let body = match if is_sound { 11 } else { dice.roll(12) } {
        0 => Vec::new(),
        1 => b"{bad".to_vec(),
        2 => dice.value(0).to_string().into_bytes(),
        3 => vec![0xff, 0xfe, 0x00, b'{'],
        4 => format!("{}1{}", "[".repeat(2000), "]".repeat(2000)).into_bytes(),
        5 => format!("--x\r\nContent-Disposition: form-data; name=\"session\"\r\n\r\n{session}\r\n--x--\r\n")
            .into_bytes(),
        6 if kind.contains("form") => query.join("&").into_bytes(),
        _ => Value::Object(object).to_string().into_bytes(),
    };
    let mut headers = Vec::new();
    if !kind.is_empty() {
        headers.push(("content-type", kind.to_owned()));
    }
    let caller = ring.sign(dice, is_sound, &mut target, &mut headers);
    let has_repeat = (caller::is_send(method, template) || dice.roll(8) == 0)
        && caller::repeat(dice, is_sound, template, &mut headers);
    Shot { method: method.clone(), template: template.to_owned(), target, headers, body, caller, has_repeat }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_a_documented_one() {
    let gateway = TestGateway::start().await;
    gateway.pair("ok", "6281234500001").await;
    gateway.pair("spare", "6281234500002").await;
    gateway.simulator.phone("6281234567890");
    let document = gateway.api.get("/openapi.json").await.expect(200).json();
    let folder = tempfile::tempdir().unwrap();
    let table = table::served(folder.path()).await;
    let ring = Ring::make(&gateway.api).await;
    let mut dice = Dice(SEED);
    let mut shots = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let method: Method = method.parse().unwrap();
            let operation = &item[method.as_str().to_ascii_lowercase()];
            let members = members(operation, &document);
            let count = if operation.is_null() { REQUESTS / 12 } else { REQUESTS };
            shots.extend((0..count).map(|_| aim(&mut dice, &ring, &method, path, &members)));
        }
    }
    // What changes sessions goes through their whole life; its order is the dice's too.
    for last in (1..shots.len()).rev() {
        shots.swap(last, dice.roll(last + 1));
    }
    let described = Described { document, table };
    let client = client();
    let started = Instant::now();
    let count = shots.len();
    let fire = shots.into_iter().map(|shot| fire(&client, gateway.api.base(), shot, &described));
    let answers: Vec<Answered> = futures::stream::iter(fire).buffer_unordered(SIDE_BY_SIDE).collect().await;
    let mut statuses: BTreeMap<(&str, u16), usize> = BTreeMap::new();
    for answer in &answers {
        *statuses.entry((&answer.template, answer.status)).or_default() += 1;
    }
    println!("{count} requests in {:?}: {statuses:?}", started.elapsed());
    let faults: Vec<&str> = answers.iter().filter_map(|answer| answer.fault.as_deref()).collect();
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
    for path in SUCCEED {
        assert!(statuses.contains_key(&(path, 200)), "{path} never succeeds: {statuses:?}");
    }
    let succeeded = |wanted: &dyn Fn(&Answered) -> bool| answers.iter().any(|one| one.status == 200 && wanted(one));
    let called = |wanted: &dyn Fn(Caller) -> bool| succeeded(&|one| one.is_guarded && one.caller.is_some_and(wanted));
    for name in ring.names() {
        assert!(called(&|caller| caller.name == name), "the key {name} never opens anything");
    }
    for place in PLACES {
        assert!(called(&|caller| caller.place == place), "a key in {place} never opens anything");
    }
    let is_repeated_send = |one: &Answered| one.has_repeat && one.template.starts_with("/message/send-");
    assert!(succeeded(&is_repeated_send), "no send with an Idempotency-Key succeeds");
    assert_eq!(gateway.api.get("/health").await.status, 200);
    gateway.finish().await;
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// What is known of the routes.
struct Described {
    document: Value,
    table: Vec<Endpoint>,
}

/// What came of a request.
struct Answered {
    template: String,
    /// 0: none came.
    status: u16,
    caller: Option<Caller>,
    /// It asks for a key.
    is_guarded: bool,
    has_repeat: bool,
    fault: Option<String>,
}

async fn fire(client: &reqwest::Client, base: &str, shot: Shot, described: &Described) -> Answered {
    let mut answered = Answered {
        template: shot.template.clone(),
        status: 0,
        caller: shot.caller,
        is_guarded: described.document["paths"][&shot.template][shot.method.as_str().to_ascii_lowercase()]["security"]
            .as_array()
            .is_some_and(|schemes| !schemes.is_empty()),
        has_repeat: shot.has_repeat,
        fault: None,
    };
    answered.fault = fault(client, base, shot, described, &mut answered.status).await;
    answered
}

/// Sends one; what is wrong with its answer.
async fn fault(
    client: &reqwest::Client,
    base: &str,
    shot: Shot,
    Described { document, table }: &Described,
    answered: &mut u16,
) -> Option<String> {
    let Shot { method, template, target, headers, body, caller, .. } = shot;
    let mut request = client.request(method.clone(), format!("{base}{target}")).timeout(PATIENCE);
    for (name, value) in &headers {
        request = request.header(*name, value.as_bytes());
    }
    let told = format!("{method} {} {headers:?} {caller:?} {}", short(&target), short(&String::from_utf8_lossy(&body)));
    let response = match request.body(body).send().await {
        Ok(response) => response,
        Err(error) => return Some(format!("{told}: {error:?}")),
    };
    let status = response.status().as_u16();
    *answered = status;
    let kind = response.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let text = response.text().await.unwrap_or_default();
    // An id may be the name of another route.
    let path = target.split('?').next().unwrap();
    let path = if document["paths"][path].is_null() { template.as_str() } else { path };
    let operation = &document["paths"][path][method.as_str().to_ascii_lowercase()];
    if operation.is_null() {
        // This path takes any text: with other methods it is an unknown one.
        let wanted = if path == "/message/{id}" { 404 } else { 405 };
        return (status != wanted).then(|| format!("{told}: {status}, not {wanted}"));
    }
    let answer = &operation["responses"][status.to_string()];
    if answer.is_null() {
        return Some(format!("{told}: {status} is not documented: {}", short(&text)));
    }
    // Nothing is wrong with WhatsApp or the store here: a failure would be the gateway's own.
    if status >= 500 {
        return Some(format!("{told}: {status} {}", short(&text)));
    }
    let endpoint = table.iter().find(|endpoint| endpoint.path == path && endpoint.method == method).unwrap();
    if let Some(objection) = caller.and_then(|caller| caller.objection(endpoint, status)) {
        return Some(format!("{told}: {status}, but {objection}: {}", short(&text)));
    }
    let content = &answer["content"]["application/json"];
    if method == Method::HEAD || !kind.starts_with("application/json") || content["schema"].is_null() {
        return None;
    }
    let value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(error) => return Some(format!("{told}: {error}: {}", short(&text))),
    };
    (!is_of(&value, &content["schema"], document))
        .then(|| format!("{told}: not of the described shape: {}", short(&text)))
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}
