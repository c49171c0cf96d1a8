//! The dashboard's pages and forms, which are for browsers and do not stand in `/openapi.json`: their statuses stand here.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Map, Value, json};
use wa_gateway::http::Scope;

use super::dice::Dice;
use super::{PATIENCE, SIDE_BY_SIDE, client, short, table};
use crate::support::{KEY, TestGateway, encode};

const SEED: u64 = 0x0DA5_4B0A_4D00_F00D;
/// For each method of each page.
const REQUESTS: usize = 80;
const FRIEND: &str = "6281234567890";
const LOGOUT: &str = "/auth/logout";
const FORM: &str = "application/x-www-form-urlencoded";

/// A page: method, path, fields, and what people who are signed in may be answered. GET stands for HEAD too.
type Page = (Method, &'static str, &'static [&'static str], &'static [u16]);

const PAGES: [Page; 10] = [
    (Method::GET, "/", &[], &[302]),
    (Method::GET, "/dashboard", &[], &[200]),
    (Method::GET, "/dashboard/sessions", &[], &[200]),
    (Method::GET, "/dashboard/sessions/create", &["id"], &[200]),
    // 303: the page of the session; 403: the page again, with a token that works.
    (Method::POST, "/dashboard/sessions/create", &["csrf", "id"], &[303, 400, 403]),
    (Method::GET, "/dashboard/sessions/create/qr", &["id"], &[200]),
    (Method::POST, "/dashboard/sessions/stop", &["csrf", "id"], &[303, 400, 403, 404]),
    (Method::POST, "/dashboard/sessions/delete", &["csrf", "id"], &[303, 400, 403, 404]),
    // 409: the session is not connected.
    (Method::POST, "/dashboard/messages/send-text-api", &["session", "to", "message"], &[200, 400, 403, 409]),
    (Method::POST, LOGOUT, &["csrf"], &[303, 400, 403]),
];

/// Whose cookie comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Visitor {
    /// None, or one that opens nothing.
    Stranger,
    SignedIn,
    /// Signs out in the middle: a stranger from then on.
    Leaving,
}

/// A cookie and the token of its forms.
struct Login {
    cookie: String,
    token: String,
}

impl Login {
    async fn of(gateway: &TestGateway) -> Self {
        let base = gateway.api.base();
        let form = client().post(format!("{base}/auth/login")).header("content-type", FORM);
        let answer = form.body(format!("password={KEY}")).send().await.unwrap();
        assert_eq!(answer.status(), 302);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let page = client().get(format!("{base}/dashboard/sessions")).header("cookie", &cookie).send().await.unwrap();
        let page = page.text().await.unwrap();
        let token = page.split_once("data-csrf=\"").unwrap().1.split('"').next().unwrap().to_owned();
        Self { cookie, token }
    }
}

struct Shot {
    method: Method,
    path: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    visitor: Visitor,
    /// It carries the token of its login, or comes from a program that needs none, and no foreign page sends it.
    may_change: bool,
}

struct Archer<'a> {
    dice: Dice,
    signed_in: &'a Login,
    leaving: &'a Login,
}

impl Archer<'_> {
    fn cookie(&mut self, path: &str) -> (Visitor, Option<String>) {
        let forged = ["key=", "key=secret", "session=1", "key", "\u{e9}=\u{e9}", ";;;=", "key=secret.c2lnbmF0dXJl"];
        match self.dice.roll(8) {
            0 => (Visitor::Stranger, None),
            1 => (Visitor::Stranger, Some(self.dice.pick(&forged).to_owned())),
            2 => (Visitor::Stranger, Some(format!("key={}", "0".repeat(64)))),
            3 | 4 if path == LOGOUT => (Visitor::Leaving, Some(self.leaving.cookie.clone())),
            3 => (Visitor::Leaving, Some(self.leaving.cookie.clone())),
            4 => (Visitor::SignedIn, Some(format!("theme=dark; {}; a=b", self.signed_in.cookie))),
            _ => (Visitor::SignedIn, Some(self.signed_in.cookie.clone())),
        }
    }

    /// A value with which the field can do something, or any text. What ends a session ends `spare`.
    fn value(&mut self, field: &str, ends: bool, is_sound: bool) -> String {
        let session = if ends { "spare" } else { "ok" };
        let text = match field {
            // One that nobody has linked.
            "session" if is_sound && self.dice.roll(3) == 0 => "waits".to_owned(),
            "id" | "session" if is_sound => session.to_owned(),
            "to" if is_sound => FRIEND.to_owned(),
            _ => self.dice.text(),
        };
        if text == "ok" { session.to_owned() } else { text }
    }

    fn aim(&mut self, method: &Method, path: &'static str, fields: &[&str]) -> Shot {
        let is_sound = self.dice.roll(3) == 0;
        let ends = path.starts_with("/dashboard/sessions/");
        let is_api = path.ends_with("-api");
        let (visitor, cookie) = self.cookie(path);
        let own = if visitor == Visitor::Leaving { self.leaving } else { self.signed_in };
        let other = if visitor == Visitor::Leaving { self.signed_in } else { self.leaving };
        // Whoever is to stay signed in has no right token here.
        let token = if path == LOGOUT && visitor == Visitor::SignedIn { "stale" } else { &own.token };
        let mut headers: Vec<_> = cookie.into_iter().map(|cookie| ("cookie", cookie)).collect();

        let (mut pairs, mut object) = (Vec::new(), Map::new());
        let mut tokens = Vec::new();
        for field in fields {
            if !is_sound && self.dice.roll(6) == 0 {
                continue;
            }
            let text = match *field {
                "csrf" if is_sound || self.dice.roll(2) == 0 => token.to_owned(),
                "csrf" if self.dice.roll(2) == 0 => other.token.clone(),
                field => self.value(field, ends, is_sound),
            };
            if *field == "csrf" {
                tokens.push(text.clone());
            }
            pairs.push(format!("{field}={}", encode(&text)));
            object.insert((*field).to_owned(), if is_sound { json!(text) } else { self.odd(&text) });
            if !is_sound && self.dice.roll(12) == 0 {
                let again = self.value(field, ends, false);
                pairs.push(format!("{field}={}", encode(&again)));
            }
        }
        if self.dice.roll(4) == 0 {
            let token = self.dice.pick(&[token, &other.token, "wrong", ""]).to_owned();
            // What a field says counts before the header.
            tokens.push(token.clone());
            headers.push(("x-csrf-token", token));
        }
        let mut is_browser = false;
        let mut is_foreign = false;
        if self.dice.roll(4) == 0 {
            let site = self.dice.pick(&["same-origin", "none", "same-site", "cross-site", "", "\u{e9}"]).to_owned();
            is_browser = true;
            is_foreign = !["same-origin", "none"].contains(&site.as_str());
            headers.push(("sec-fetch-site", site));
        }
        if self.dice.roll(8) == 0 {
            is_browser = true;
            headers.push(("origin", self.dice.pick(&["null", "http://evil.example", ""]).to_owned()));
        }
        if self.dice.roll(4) == 0 {
            let language = self.dice.pick(&["id", "en;q=0.1,id", "\u{e9}", ";;;", "*", "xx-\u{ff}"]).to_owned();
            headers.push(("accept-language", language));
        }
        let may_change = !is_foreign && (tokens.contains(&own.token) || (is_api && !is_browser));

        let is_form = !is_api;
        let kinds = [
            FORM,
            FORM,
            "application/json",
            "text/plain",
            "multipart/form-data",
            "multipart/form-data; boundary=x",
            "",
        ];
        let kind = if is_sound && is_form { FORM } else { self.dice.pick(&kinds) };
        if !kind.is_empty() {
            headers.push(("content-type", kind.to_owned()));
        }
        let body = match if is_sound { 9 } else { self.dice.roll(10) } {
            0 => String::new(),
            1 => "{bad".to_owned(),
            2 => self.dice.value(0).to_string(),
            3 => "=&&=%zz&id".to_owned(),
            4 => format!("{}1{}", "[".repeat(2000), "]".repeat(2000)),
            5 => "--x\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\nspare\r\n--x--\r\n".to_owned(),
            _ if kind == FORM && is_form => pairs.join("&"),
            _ => Value::Object(object).to_string(),
        };
        let mut target = path.to_owned();
        if *method != Method::POST || self.dice.roll(6) == 0 {
            let query: String = pairs.join("&").chars().take(6000).collect();
            target = format!("{path}?{query}");
        }
        let body = if *method == Method::GET || *method == Method::HEAD { String::new() } else { body };
        Shot { method: method.clone(), path, target, headers, body, visitor, may_change }
    }

    /// The text, or something of another type.
    fn odd(&mut self, text: &str) -> Value {
        if self.dice.roll(8) == 0 { self.dice.value(0) } else { json!(text) }
    }
}

/// What is wrong with an answer.
fn objection(shot: &Shot, status: u16, headers: &reqwest::header::HeaderMap, body: &str) -> Option<String> {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    let page = if shot.method == Method::HEAD { Method::GET } else { shot.method.clone() };
    let Some((.., signed_in)) = PAGES.iter().find(|(method, path, ..)| *method == page && *path == shot.path) else {
        return (status != 405 || header("allow").is_empty()).then(|| "not 405 with Allow".to_owned());
    };
    let is_refused = status == 302 && header("location") == "/auth/login" && body.is_empty();
    let is_documented = match shot.visitor {
        Visitor::Stranger => is_refused,
        Visitor::SignedIn => signed_in.contains(&status) && !is_refused,
        Visitor::Leaving => is_refused || signed_in.contains(&status),
    };
    if !is_documented {
        return Some("not documented for this visitor".to_owned());
    }
    let has_changed = shot.method == Method::POST && matches!(status, 200 | 303);
    if has_changed && !shot.may_change {
        return Some("done without the token of the login".to_owned());
    }
    let kind = header("content-type");
    if kind.starts_with("text/html")
        && (body.contains("<script>") || !body.contains("</html>"))
        && shot.method != Method::HEAD
    {
        return Some("a broken page".to_owned());
    }
    // Refusals of forms are the page again, or tell their reason as the API does.
    if (400..500).contains(&status) && !kind.starts_with("text/html") {
        let told: Value = serde_json::from_str(body).unwrap_or_default();
        if !told["message"].is_string() && !told["error"].is_string() {
            return Some("a refusal without a reason".to_owned());
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_answered_as_documented() {
    let gateway = TestGateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let table = table::served(folder.path()).await;
    let served: BTreeSet<_> = table
        .iter()
        .filter(|endpoint| endpoint.scope == Scope::Dashboard && endpoint.method != Method::HEAD)
        .map(|endpoint| (endpoint.method.as_str(), endpoint.path))
        .collect();
    let listed: BTreeSet<_> = PAGES.iter().map(|(method, path, ..)| (method.as_str(), *path)).collect();
    assert_eq!(listed, served, "listed here, and served");

    gateway.pair("ok", "6281234500001").await;
    gateway.pair("spare", "6281234500002").await;
    gateway.api.qr("waits").await;
    gateway.simulator.phone(FRIEND);
    let (signed_in, leaving) = (Login::of(&gateway).await, Login::of(&gateway).await);
    let mut archer = Archer { dice: Dice(SEED), signed_in: &signed_in, leaving: &leaving };
    let mut shots = Vec::new();
    let paths: BTreeSet<_> = PAGES.iter().map(|(_, path, ..)| *path).collect();
    for path in paths {
        let fields = PAGES.iter().filter(|page| page.1 == path).max_by_key(|page| page.2.len()).unwrap().2;
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let method: Method = method.parse().unwrap();
            let is_listed = PAGES.iter().any(|page| page.0 == method && page.1 == path);
            let count = if is_listed { REQUESTS } else { REQUESTS / 8 };
            shots.extend((0..count).map(|_| archer.aim(&method, path, fields)));
        }
    }
    for last in (1..shots.len()).rev() {
        shots.swap(last, archer.dice.roll(last + 1));
    }
    let (client, base, count) = (client(), gateway.api.base(), shots.len());
    let fire = shots.into_iter().map(|shot| {
        let mut request = client.request(shot.method.clone(), format!("{base}{}", shot.target)).timeout(PATIENCE);
        for (name, value) in &shot.headers {
            request = request.header(*name, value.as_bytes());
        }
        let request = request.body(shot.body.clone());
        async move {
            let answer = request.send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body = answer.text().await.unwrap();
            let Shot { method, target, headers: sent, visitor, .. } = &shot;
            let fault = objection(&shot, status, &headers, &body).map(|objection| {
                let told = format!("{visitor:?} {method} {} {sent:?} {}", short(target), short(&shot.body));
                format!("{told}: {status}, {objection}: {}", short(&body))
            });
            ((shot.method.to_string(), shot.path, visitor.to_owned(), status), fault)
        }
    });
    let answers: Vec<_> = futures::stream::iter(fire).buffer_unordered(SIDE_BY_SIDE).collect().await;
    let mut seen: BTreeMap<_, usize> = BTreeMap::new();
    for (answer, _) in &answers {
        *seen.entry(answer.clone()).or_default() += 1;
    }
    println!("{count} requests: {seen:?}");
    let faults: Vec<_> = answers.into_iter().filter_map(|(_, fault)| fault).collect();
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
    // Whatever is documented here is not there for show.
    for (method, path, _, statuses) in &PAGES {
        for status in *statuses {
            let came = seen.keys().any(|(m, p, _, s)| m == method.as_str() && p == path && s == status);
            assert!(came, "{method} {path} never answers {status}: {seen:?}");
        }
    }
    assert_eq!(gateway.api.status("ok").await, "connected");
    gateway.finish().await;
}
