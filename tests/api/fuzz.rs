//! Requests that nobody would write, on every route of `/openapi.json`: each is answered in time, with a documented status
//! and a body of the documented shape.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::support::{KEY, TestGateway, encode};

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
const SUCCEED: [&str; 13] = [
    "/message/send-contact",
    "/message/send-text",
    "/message/send-image",
    "/message/send-document",
    "/message/send-sticker",
    "/message/send-location",
    "/message/send-poll",
    "/profile",
    "/session",
    "/session/start",
    "/session/stop",
    "/session/logout",
    "/webhook/stats",
];

/// xorshift64*: enough to choose by.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(value).unwrap() % sides
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len())]
    }

    fn text(&mut self) -> String {
        let texts = [
            "",
            " ",
            "ok",
            "ghost",
            "start",
            "logout",
            "6281234567890",
            "+62 812-3456",
            "120363012345678901@g.us",
            "a@b@c",
            "\u{0}",
            "caf\u{e9} \u{1f600}",
            "\u{202e}rtl",
            "../../etc/passwd",
            "%00%ff",
            "<script>",
            "'; --",
            "true",
            "1",
            "null",
            "http://127.0.0.1:1/x",
            "data:text/plain;base64,aGk=",
            "ftp://x/y",
            "x.pdf",
            "-",
        ];
        match self.roll(20) {
            0 => "x".repeat(self.roll(3000)),
            1 => "\u{1f600}".repeat(self.roll(500)),
            _ => self.pick(&texts).to_owned(),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.roll(if depth > 2 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.roll(2) == 0),
            2 => json!([0, -1, 1, 6_281_234_567_890_i64, i64::MIN, i64::MAX][self.roll(6)]),
            3 => json!([0.5, -0.0, 1e300][self.roll(3)]),
            5 => json!([self.value(depth + 1)]),
            6 => json!({ self.text(): self.value(depth + 1) }),
            _ => json!(self.text()),
        }
    }
}

/// One request, ready to be sent.
struct Shot {
    method: Method,
    template: String,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// A value of this member with which a request can succeed.
fn sound(name: &str) -> Option<Value> {
    Some(match name {
        "to" | "contact_phone" => json!("6281234567890"),
        "target" => json!("6281234567890@s.whatsapp.net"),
        "image_url" => json!(format!("data:image/png;base64,{PIXEL}")),
        "document_url" => json!("data:application/pdf;base64,JVBERi0xLjQK"),
        "document_name" => json!("x.pdf"),
        "latitude" | "longitude" => json!(1.5),
        "text" | "question" | "contact_name" => json!("fine"),
        "options" => json!(["a", "b"]),
        "emoji" | "reaction" => json!("\u{1f44d}"),
        "message_id" | "id" => json!("3EB0C767D71B2A1B2C3D"),
        _ => return None,
    })
}

fn aim(dice: &mut Dice, method: &Method, template: &str, members: &[String]) -> Shot {
    // One session is ended again and again, so that the other stays linked for the rest.
    let ends = method == Method::DELETE
        || ["/session/start", "/session/logout", "/session/stop", "/session/{session}/export"].contains(&template);
    let session = if ends { "spare" } else { "ok" };
    let spared = |text: String| if text == "ok" { session.to_owned() } else { text };
    let is_sound = dice.roll(4) == 0;
    let mut target = template.to_owned();
    while let Some((before, after)) = target.split_once('{').map(|(a, b)| (a.to_owned(), b.to_owned())) {
        let after = after.split_once('}').unwrap().1;
        let text: String = dice.text().chars().take(80).collect();
        let text = spared(text);
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
    let mut headers = vec![("content-type", kind.to_owned())];
    match if is_sound { 9 } else { dice.roll(10) } {
        0 => {}
        1 => headers.push(("key", "wrong".to_owned())),
        _ => headers.push(("key", KEY.to_owned())),
    }
    Shot { method: method.clone(), template: template.to_owned(), target, headers, body }
}

/// Whether a value is what a schema says; as much of JSON Schema as the description uses.
fn is_of(value: &Value, schema: &Value, document: &Value) -> bool {
    if let Some(reference) = schema["$ref"].as_str() {
        return is_of(value, document.pointer(reference.trim_start_matches('#')).unwrap(), document);
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[word].as_array() {
            return choices.iter().any(|choice| is_of(value, choice, document));
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return parts.iter().all(|part| is_of(value, part, document));
    }
    let is_type = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the description uses the type {other}"),
    };
    let is_type = match &schema["type"] {
        Value::String(name) => is_type(name),
        Value::Array(names) => names.iter().any(|name| is_type(name.as_str().unwrap())),
        _ => true,
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let properties = schema["properties"].as_object().into_iter().flatten();
    is_type
        && required.into_iter().all(|name| value.get(name.as_str().unwrap()).is_some())
        && properties.into_iter().all(|(name, schema)| value.get(name).is_none_or(|part| is_of(part, schema, document)))
        && value.as_array().into_iter().flatten().all(|item| is_of(item, &schema["items"], document))
}

/// The names of the members that an operation takes, in its query or body.
fn members(operation: &Value, document: &Value) -> Vec<String> {
    let query = operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query");
    let mut names: Vec<String> = query.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect();
    if let Some(reference) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        names.extend(schema["properties"].as_object().unwrap().keys().cloned());
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_a_documented_one() {
    let gateway = TestGateway::start().await;
    gateway.pair("ok", "6281234500001").await;
    gateway.pair("spare", "6281234500002").await;
    gateway.simulator.phone("6281234567890");
    let document = gateway.api.get("/openapi.json").await.expect(200).json();
    let mut dice = Dice(SEED);
    let mut shots = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let method: Method = method.parse().unwrap();
            let operation = &item[method.as_str().to_ascii_lowercase()];
            let members = members(operation, &document);
            let count = if operation.is_null() { REQUESTS / 12 } else { REQUESTS };
            shots.extend((0..count).map(|_| aim(&mut dice, &method, path, &members)));
        }
    }
    // What changes sessions goes through their whole life; its order is the dice's too.
    for last in (1..shots.len()).rev() {
        shots.swap(last, dice.roll(last + 1));
    }
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let started = Instant::now();
    let count = shots.len();
    let fire = shots.into_iter().map(|shot| fire(&client, gateway.api.base(), shot, &document));
    let answers: Vec<Answered> = futures::stream::iter(fire).buffer_unordered(SIDE_BY_SIDE).collect().await;
    let mut statuses: BTreeMap<(String, u16), usize> = BTreeMap::new();
    for (template, status, _) in &answers {
        *statuses.entry((template.clone(), *status)).or_default() += 1;
    }
    println!("{count} requests in {:?}: {statuses:?}", started.elapsed());
    let faults: Vec<String> = answers.into_iter().filter_map(|(_, _, fault)| fault).collect();
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
    for path in SUCCEED {
        assert!(statuses.contains_key(&(path.to_owned(), 200)), "{path} never succeeds: {statuses:?}");
    }
    assert_eq!(gateway.api.get("/health").await.status, 200);
    gateway.finish().await;
}

/// The path, the status (0: none came), and what is wrong with the answer.
type Answered = (String, u16, Option<String>);

async fn fire(client: &reqwest::Client, base: &str, shot: Shot, document: &Value) -> Answered {
    let (template, mut status) = (shot.template.clone(), 0);
    let fault = fault(client, base, shot, document, &mut status).await;
    (template, status, fault)
}

/// Sends one; what is wrong with its answer.
async fn fault(
    client: &reqwest::Client,
    base: &str,
    shot: Shot,
    document: &Value,
    answered: &mut u16,
) -> Option<String> {
    let Shot { method, template, target, headers, body } = shot;
    let mut request = client.request(method.clone(), format!("{base}{target}")).timeout(PATIENCE);
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(*name, value.as_bytes());
    }
    let told = format!("{method} {} {headers:?} {}", short(&target), short(&String::from_utf8_lossy(&body)));
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
