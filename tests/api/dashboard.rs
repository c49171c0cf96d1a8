//! The dashboard as a browser meets it, without one: cookies, guards, limits, forms and what they change.

use std::net::IpAddr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, redirect};
use serde_json::json;
use whatsapp_simulator::Options;

use super::support::{KEY, STEP, TestGateway, encode, eventually};

const NUMBER: &str = "6281234500001";
const FRIEND: &str = "6281234500002";
const NOBODY: &str = "6281234500003";
const FORM: &str = "application/x-www-form-urlencoded";
/// A name that would end an attribute, a script and an element.
const HOSTILE: &str = "\"'></script><script>alert(1)</script>&lt;b {{x}}";

struct Page {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// The token of the page's forms.
    fn token(&self) -> String {
        let (_, after) = self.body.split_once("name=\"csrf\" value=\"").expect("a form with a token");
        after.split('"').next().unwrap().to_owned()
    }
}

/// Keeps no cookie and follows no redirect: tests say what is sent.
struct Browser {
    base: String,
    client: reqwest::Client,
    headers: HeaderMap,
}

impl Browser {
    fn of(gateway: &TestGateway) -> Self {
        let client = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(STEP);
        let base = gateway.api.base().to_owned();
        Self { base, client: client.build().unwrap(), headers: HeaderMap::new() }
    }

    /// The same with one header more.
    fn with(&self, name: &str, value: &str) -> Self {
        let mut headers = self.headers.clone();
        headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        Self { base: self.base.clone(), client: self.client.clone(), headers }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<(&str, String)>) -> Page {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).headers(self.headers.clone());
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Page { status, headers, body: response.text().await.unwrap() }
    }

    async fn get(&self, path: &str) -> Page {
        self.ask(Method::GET, path, None).await
    }

    async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        self.ask(Method::POST, path, Some((FORM, body.join("&")))).await
    }

    async fn sign_in(&self, password: &str) -> Page {
        self.form("/auth/login", &[("password", password)]).await
    }

    /// The same browser after it has signed in.
    async fn signed_in(&self) -> Self {
        let page = self.sign_in(KEY).await.expect(302);
        assert_eq!((page.header("location"), page.body.as_str()), ("/dashboard", ""));
        let cookie = page.header("set-cookie");
        self.with("cookie", cookie.split(';').next().unwrap())
    }

    async fn token(&self) -> String {
        self.get("/dashboard").await.expect(200).token()
    }

    async fn send_text(&self, body: &str) -> Page {
        self.ask(Method::POST, "/dashboard/messages/send-text-api", Some(("text/plain;charset=UTF-8", body.to_owned())))
            .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_gives_a_cookie_that_holds_no_key_and_ends_with_a_logout() {
    let gateway = TestGateway::start().await;
    let browser = Browser::of(&gateway);
    let page = browser.sign_in(KEY).await.expect(302);
    let cookie = page.header("set-cookie").to_owned();
    assert!(cookie.starts_with("key=") && !cookie.contains(KEY), "{cookie}");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    let secure = browser.with("x-forwarded-proto", "https, http").sign_in(KEY).await.expect(302);
    assert!(secure.header("set-cookie").ends_with("; SameSite=Lax; Secure"));
    assert_ne!(secure.header("set-cookie"), cookie);

    let anna = browser.signed_in().await;
    let budi = browser.signed_in().await;
    for page in ["/dashboard", "/dashboard/sessions", "/dashboard/sessions/create"] {
        let page = anna.get(page).await.expect(200);
        assert_eq!(page.header("content-type"), "text/html; charset=UTF-8");
        assert_eq!((page.header("cache-control"), page.header("x-content-type-options")), ("no-store", "nosniff"));
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
        for inline in ["<script>", "<style", " style=", " onclick=", "javascript:", "src=\"http"] {
            assert!(!page.body.contains(inline), "{inline}");
        }
    }
    assert_eq!(anna.get("/").await.expect(302).header("location"), "/dashboard");
    anna.get("/dashboard/").await.expect(404);
    anna.get("/auth/login").await.expect(200);
    gateway.api.get("/session").await.expect(200);
    anna.get("/session").await.expect(401);

    // Only a form of this login ends it, and no other login.
    anna.form("/auth/logout", &[]).await.expect(403);
    anna.form("/auth/logout", &[("csrf", &budi.token().await)]).await.expect(403);
    anna.ask(Method::GET, "/auth/logout", None).await.expect(405);
    let out = anna.form("/auth/logout", &[("csrf", &anna.token().await)]).await.expect(303);
    assert_eq!(out.header("location"), "/auth/login");
    assert!(out.header("set-cookie").starts_with("key=; ") && out.header("set-cookie").ends_with("; Max-Age=0"));
    assert_eq!(anna.get("/dashboard").await.expect(302).header("location"), "/auth/login");
    budi.get("/dashboard").await.expect(200);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_sent_to_the_login_page_on_dashboard_paths_only() {
    let gateway = TestGateway::start().await;
    let browser = Browser::of(&gateway);
    let forged = "0".repeat(64);
    for cookie in ["", "key=", "key=secret", &format!("key={forged}"), "key=secret.c2lnbmF0dXJl", "session=1"] {
        let browser = browser.with("cookie", cookie).with("key", KEY);
        for path in ["/", "/dashboard", "/dashboard/", "/dashboard/nope", "/dashboard/sessions/create/qr?id=a"] {
            let page = browser.get(path).await.expect(302);
            assert_eq!((page.header("location"), page.body.as_str()), ("/auth/login", ""), "{path}");
        }
        let sent = browser.send_text(r#"{"session":"a","to":"628","message":"x"}"#).await.expect(302);
        assert_eq!(sent.header("location"), "/auth/login");
    }
    for path in
        ["/nope", "/auth", "/auth/login/", "/assets/", "/assets/nope.css", "/assets/..%2fstyle.css", "/dashboardx"]
    {
        assert_eq!(browser.get(path).await.expect(404).body, r#"{"message":"Route not found"}"#, "{path}");
    }
    let script = "text/javascript; charset=utf-8";
    for (path, kind) in [
        ("/assets/style.css", "text/css; charset=utf-8"),
        ("/assets/js/script.js", script),
        ("/assets/js/create-session.js", script),
        ("/assets/js/qrcode.min.js", script),
    ] {
        let file = browser.get(path).await.expect(200);
        assert_eq!(file.header("content-type"), kind);
        assert!(!file.body.contains("http://") || file.body.contains("www.w3.org"), "{path} names another host");
        let again = browser.with("if-none-match", file.header("etag")).get(path).await.expect(304);
        assert_eq!(again.body, "");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_are_limited_for_their_client_and_right_ones_are_not() {
    let gateway = TestGateway::start().await;
    let browser = Browser::of(&gateway);
    for _ in 0..8 {
        browser.sign_in(KEY).await.expect(302);
    }
    for body in [("password", "wrong"), ("x", "1"), ("password", ""), ("password", "SECRET"), ("password", "secret ")] {
        let page = browser.form("/auth/login", &[body]).await.expect(200);
        assert!(page.body.contains("id=\"login-error\"") && page.body.contains(">Invalid key<"), "{}", page.body);
        assert_eq!(page.header("set-cookie"), "");
    }
    let refused = browser.sign_in(KEY).await.expect(429);
    assert!(refused.body.contains("Too many login attempts. Please try again later."));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let neighbour = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(STEP);
    let neighbour = neighbour.local_address(IpAddr::from([127, 0, 0, 2])).build().unwrap();
    let neighbour = Browser { base: browser.base.clone(), client: neighbour, headers: HeaderMap::new() };
    neighbour.sign_in(KEY).await.expect(302);
    let refused = browser.with("accept-language", "id-ID,id;q=0.9").sign_in(KEY).await.expect(429);
    assert!(refused.body.contains("<html lang=\"id\">") && refused.body.contains("Terlalu banyak percobaan"));

    let json = Some(("application/json", r#"{"password":"secret"}"#.to_owned()));
    browser.ask(Method::POST, "/auth/login", json).await.expect(400);
    browser.ask(Method::POST, "/auth/login", None).await.expect(400);
    browser.ask(Method::PUT, "/auth/login", None).await.expect(405);
    browser.with("sec-fetch-site", "cross-site").sign_in(KEY).await.expect(403);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_linked_told_used_and_deleted() {
    let gateway = TestGateway::start().await;
    let friend = gateway.simulator.phone(FRIEND);
    let browser = Browser::of(&gateway).signed_in().await;
    let token = browser.token().await;
    let qr = |id: &str| format!("/dashboard/sessions/create/qr?id={}", encode(id));

    assert_eq!(browser.get(&qr("shop 1")).await.body, r#"{"status":"disconnected"}"#);
    let created = browser.form("/dashboard/sessions/create", &[("csrf", &token), ("id", "shop 1")]).await.expect(303);
    assert_eq!(created.header("location"), "/dashboard/sessions/create?id=shop+1");
    let page = browser.get(created.header("location")).await.expect(200);
    for hook in ["data-id=\"shop 1\"", "id=\"status\"", "id=\"redirecting\"", "id=\"qr\""] {
        assert!(page.body.contains(hook), "{hook}");
    }
    let state = browser.get(&qr("shop 1")).await.expect(200);
    assert!(
        state.body.starts_with("{\"qr\":\"") && state.body.contains("\",\"status\":\"pending\","),
        "{}",
        state.body
    );
    let code = serde_json::from_str::<serde_json::Value>(&state.body).unwrap()["qr"].as_str().unwrap().to_owned();
    assert_eq!(gateway.api.qr("shop 1").await, code, "the API hands out the same code");
    gateway.simulator.scan(&code, NUMBER).await.unwrap();
    eventually("the page to be told", || async {
        (browser.get(&qr("shop 1")).await.body == r#"{"qr":null,"status":"connected"}"#).then_some(())
    })
    .await;

    let list = browser.get("/dashboard/sessions").await.expect(200);
    for hook in [
        "Status: CONNECTED",
        "data-session=\"shop 1\"",
        "data-copy=\"shop 1\"",
        "data-delete=\"shop 1\"",
        "href=\"sessions/create?id=",
        &format!("+{NUMBER}"),
    ] {
        assert!(list.body.contains(hook), "{hook}");
    }

    let sent = browser.send_text(&json!({"session": "shop 1", "to": FRIEND, "message": "halo"}).to_string()).await;
    assert_eq!((sent.status, sent.body.as_str()), (200, r#"{"success":true}"#));
    assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("halo"));

    // The same as a page sends it.
    let page = browser.with("origin", browser.base.as_str()).with("sec-fetch-site", "same-origin");
    let body = json!({"session": "shop 1", "to": FRIEND.parse::<u64>().unwrap(), "message": 5}).to_string();
    page.send_text(&body).await.expect(403);
    page.with("x-csrf-token", "wrong").send_text(&body).await.expect(403);
    page.with("x-csrf-token", &token).send_text(&body).await.expect(200);
    assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("5"));
    let foreign = page.with("x-csrf-token", &token).with("sec-fetch-site", "cross-site");
    foreign.send_text(&body).await.expect(403);

    // A page is told in its reader's words what a program is told in the API's.
    let reader = page.with("x-csrf-token", &token).with("accept-language", "id-ID,en;q=0.5");
    let nobody = json!({"session": "shop 1", "to": NOBODY, "message": "halo"}).to_string();
    for (asked, told) in
        [(&browser, "is not registered on WhatsApp"), (&reader, "Nomor ini tidak punya akun WhatsApp.")]
    {
        let refused = asked.send_text(&nobody).await.expect(400);
        assert!(refused.body.contains(told), "{}", refused.body);
    }
    let malformed = json!({"session": "shop 1", "to": "nobody", "message": "halo"}).to_string();
    for (asked, told) in [(&browser, "is not a phone number"), (&reader, "Silakan isi nomor telepon")] {
        let refused = asked.send_text(&malformed).await.expect(400);
        assert!(refused.body.contains(told), "{}", refused.body);
    }
    browser.with("origin", "http://evil.example").send_text(&body).await.expect(403);

    for (body, status, answer) in [
        (r#"{"session":"shop 1","to":"628"}"#, 400, r#"{"success":false,"error":"Missing parameters"}"#),
        (r#"{"session":"shop 1","to":"","message":"x"}"#, 400, r#"{"success":false,"error":"Missing parameters"}"#),
        ("{}", 400, r#"{"success":false,"error":"Missing parameters"}"#),
        ("[]", 400, r#"{"success":false,"error":"Missing parameters"}"#),
        ("{bad", 400, r#"{"message":"Malformed JSON in request body"}"#),
        ("", 400, r#"{"message":"Malformed JSON in request body"}"#),
        ("null", 400, r#"{"message":"Expected object, received null field '' on json"}"#),
        (
            r#"{"session":"zz","to":"628","message":"x"}"#,
            400,
            r#"{"success":false,"error":"Session with ID: \"zz\" Not Exist!"}"#,
        ),
    ] {
        let sent = browser.send_text(body).await;
        assert_eq!((sent.status, sent.body.as_str()), (status, answer), "{body}");
    }
    gateway.api.qr("waits").await;
    let sent = browser.send_text(r#"{"session":"waits","to":"628","message":"x"}"#).await;
    let answer = r#"{"success":false,"error":"Session with ID: \"waits\" Not Ready!"}"#;
    assert_eq!((sent.status, sent.body.as_str()), (409, answer));

    // Neither without a token nor by a GET.
    browser.form("/dashboard/sessions/delete", &[("id", "shop 1")]).await.expect(403);
    browser.get("/dashboard/sessions/delete?id=shop+1").await.expect(405);
    assert_eq!(gateway.api.status("shop 1").await, "connected");
    let gone = browser.form("/dashboard/sessions/delete", &[("csrf", &token), ("id", "shop 1")]).await.expect(303);
    assert_eq!(gone.header("location"), "/dashboard/sessions");
    assert_eq!(gateway.api.status("shop 1").await, "absent");
    assert!(gateway.simulator.devices(NUMBER).is_empty(), "unlinked at WhatsApp");
    browser.form("/dashboard/sessions/delete", &[("csrf", &token), ("id", "shop 1")]).await.expect(404);
    assert_eq!(browser.get(&qr("shop 1")).await.body, r#"{"status":"disconnected"}"#);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_starts_nothing_and_hostile_names_stay_text() {
    let gateway = TestGateway::start().await;
    let browser = Browser::of(&gateway).signed_in().await;
    let token = browser.token().await;
    for path in ["create?id=n1", "create", &format!("create?id={}", encode(HOSTILE)), "create?id=a&id=b"] {
        let page = browser.get(&format!("/dashboard/sessions/{path}")).await.expect(200);
        assert!(!page.body.contains("<script>") && !page.body.contains("\"'>"), "{path}");
    }
    assert_eq!(gateway.api.get("/session").await.body, r#"{"data":[]}"#);
    assert_eq!(gateway.simulator.counters().connections_opened, 0);

    for (id, text) in
        [(" ", "Please enter a name."), ("logout", "This name is reserved."), (&"x".repeat(257), "too long")]
    {
        let page = browser.form("/dashboard/sessions/create", &[("csrf", &token), ("id", id)]).await.expect(400);
        assert!(page.body.contains(text) && page.body.contains("id=\"id-error\""), "{id}: {}", page.body);
    }
    let stale = browser.form("/dashboard/sessions/create", &[("id", "n1"), ("csrf", "stale")]).await.expect(403);
    assert_eq!(stale.token(), token, "the answer is the page with a token that works");
    let foreign = browser.with("sec-fetch-site", "same-site");
    foreign.form("/dashboard/sessions/create", &[("csrf", &token), ("id", "n1")]).await.expect(403);
    assert_eq!(gateway.api.get("/session").await.body, r#"{"data":[]}"#);

    browser.form("/dashboard/sessions/create", &[("csrf", &token), ("id", HOSTILE)]).await.expect(303);
    for path in ["/dashboard/sessions", &format!("/dashboard/sessions/create?id={}", encode(HOSTILE))] {
        let page = browser.get(path).await.expect(200);
        assert!(!page.body.contains("<script>") && !page.body.contains("\"'>"), "{path}: {}", page.body);
        assert!(page.body.contains("&#60;/script&#62;") || page.body.contains("&lt;/script&gt;"), "{path}");
    }
    browser.form("/dashboard/sessions/delete", &[("csrf", &token), ("id", HOSTILE)]).await.expect(303);
    assert_eq!(gateway.api.get("/session").await.body, r#"{"data":[]}"#);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_the_dashboard_is_open_but_no_other_page_may_use_its_forms() {
    let settings = [("KEY", ""), ("ALLOW_NO_KEY", "true")];
    let gateway = TestGateway::start_with(Options::default(), &settings).await;
    let browser = Browser::of(&gateway);
    assert_eq!(browser.get("/").await.expect(302).header("location"), "/dashboard");
    let page = browser.get("/dashboard").await.expect(200);
    assert!(!page.body.contains("/auth/logout"), "nothing to sign out of");
    browser.get("/dashboard/nope").await.expect(404);
    assert_eq!(browser.sign_in("").await.expect(302).header("location"), "/dashboard");
    browser.sign_in("wrong").await.expect(200);
    browser.form("/dashboard/sessions/create", &[("id", "n1")]).await.expect(403);
    let list = browser.get("/dashboard/sessions").await.expect(200).body;
    let token = list.split_once("data-csrf=\"").unwrap().1.split('"').next().unwrap().to_owned();
    browser.form("/dashboard/sessions/create", &[("csrf", &token), ("id", "n1")]).await.expect(303);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_key_opens_the_dashboard_and_a_login_lives_through_restarts_until_a_logout_or_a_new_key() {
    let mut gateway = TestGateway::start_with(Options::default(), &[("KEY", "")]).await;
    let key = std::fs::read_to_string(gateway.folder().join("wa_credentials/api-key")).unwrap();
    let browser = Browser::of(&gateway);
    browser.sign_in("").await.expect(200);
    let cookie = browser.sign_in(key.trim()).await.expect(302).header("set-cookie").to_owned();
    let signed_in = browser.with("cookie", cookie.split(';').next().unwrap());
    signed_in.get("/dashboard").await.expect(200);
    gateway.restart().await;
    let again = Browser { base: gateway.api.base().to_owned(), ..signed_in };
    again.get("/dashboard").await.expect(200);
    let cookie = again.sign_in(key.trim()).await.expect(302).header("set-cookie").to_owned();
    let other = again.with("cookie", cookie.split(';').next().unwrap());
    again.form("/auth/logout", &[("csrf", &again.token().await)]).await.expect(303);
    gateway.restart().await;
    let again = Browser { base: gateway.api.base().to_owned(), ..again };
    let other = Browser { base: gateway.api.base().to_owned(), ..other };
    again.get("/dashboard").await.expect(302);
    other.get("/dashboard").await.expect(200);
    std::fs::write(gateway.folder().join("wa_credentials/api-key"), "another key").unwrap();
    gateway.restart().await;
    let other = Browser { base: gateway.api.base().to_owned(), ..other };
    other.get("/dashboard").await.expect(302);
    gateway.finish().await;
}
