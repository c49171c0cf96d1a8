//! The sink against a real HTTP receiver on loopback.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::event::{SessionName, Status};
use crate::outbox::memory::MemoryKv;
use crate::outbox::{Bounds, Common, Kind, Kinds, NewEvent, Notice, Target};

mod aside;
mod farewell;
mod files;
mod late;
mod turns;

/// Every wait of these tests ends by then.
const DEADLINE: Duration = Duration::from_secs(20);

/// A request as it arrived.
#[derive(Debug)]
struct Arrived {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
    at: Instant,
}

/// What the receiver does with its n-th request (from 0) on this body.
enum Say {
    Status(u16),
    After(u16, &'static str),
    Redirect(u16, String),
    /// 200, but not before it is released.
    Held(Arc<Notify>),
    /// 200, but not before that time.
    Late(Duration),
    Hang,
}

struct Receiver {
    addr: SocketAddr,
    arrived: mpsc::Receiver<Arrived>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Receiver {
    async fn start(say: impl Fn(usize, &str) -> Say + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), say)
    }

    fn start_on(listener: TcpListener, say: impl Fn(usize, &str) -> Say + Send + Sync + 'static) -> Self {
        let (sender, arrived) = mpsc::channel(1_000);
        let (tracker, token, count) = (TaskTracker::new(), CancellationToken::new(), AtomicUsize::new(0));
        let say = Arc::new(move |body: &str| say(count.fetch_add(1, Ordering::SeqCst), body));
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let body = String::from_utf8(body.to_vec()).unwrap();
            let answer = say(&body);
            sender.try_send(Arrived { method, uri, headers, body, at: Instant::now() }).unwrap();
            match answer {
                Say::Status(code) => StatusCode::from_u16(code).unwrap().into_response(),
                Say::After(code, wait) => {
                    (StatusCode::from_u16(code).unwrap(), [("retry-after", wait)]).into_response()
                }
                Say::Redirect(code, to) => (StatusCode::from_u16(code).unwrap(), [("location", to)]).into_response(),
                Say::Held(released) => {
                    released.notified().await;
                    StatusCode::OK.into_response()
                }
                Say::Late(after) => {
                    tokio::time::sleep(after).await;
                    StatusCode::OK.into_response()
                }
                Say::Hang => std::future::pending::<Response>().await,
            }
        };
        let addr = listener.local_addr().unwrap();
        let ended = token.clone();
        tracker.spawn(async move {
            let served = axum::serve(listener, Router::new().fallback(handler));
            ended.run_until_cancelled(served.into_future()).await;
        });
        Self { addr, arrived, tracker, token }
    }

    fn base(&self) -> Url {
        Url::parse(&format!("http://{}/hook/", self.addr)).unwrap()
    }

    async fn next(&mut self) -> Arrived {
        within("a webhook", self.arrived.recv()).await.unwrap()
    }

    async fn bodies(&mut self, n: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        for _ in 0..n {
            bodies.push(self.next().await.body);
        }
        bodies
    }

    /// Nothing that nobody looked at.
    fn assert_silent(&mut self) {
        assert!(self.arrived.try_recv().is_err(), "an unexpected webhook");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.token.cancel();
        self.tracker.close();
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("no {what} in time"))
}

/// A sink with its own tracker and token, on a store that outlives it.
struct Sink {
    webhook: Webhook,
    tracker: TaskTracker,
    token: CancellationToken,
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        first_delay: Duration::from_millis(20),
        max_delay: Duration::from_millis(50),
        ..RetryPolicy::default()
    }
}

impl Sink {
    fn start(base: impl Into<Option<Url>>, key: Option<&str>, policy: RetryPolicy) -> Self {
        Self::signing(base, key, None, policy)
    }

    fn signing(base: impl Into<Option<Url>>, key: Option<&str>, secret: Option<&str>, policy: RetryPolicy) -> Self {
        let (key, secret) = (key.map(SecretString::from), secret.map(SecretString::from));
        Self::posting(super::Receiver { base_url: base.into(), key, secret, private_urls: true }, policy)
    }

    fn posting(receiver: super::Receiver, policy: RetryPolicy) -> Self {
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let webhook = Webhook::start(receiver, policy, tracker.clone(), token.clone()).unwrap();
        Self { webhook, tracker, token }
    }

    async fn end(self) {
        self.token.cancel();
        self.tracker.close();
        within("end of the sink", self.tracker.wait()).await;
    }
}

fn name(name: &str) -> SessionName {
    SessionName::parse(name).unwrap()
}

fn common() -> Arc<Common> {
    Arc::new(Common::new(Bounds::default(), Kinds::default(), true))
}

async fn outbox(kv: &Arc<MemoryKv>, session: &str) -> Outbox {
    Outbox::open(&common(), kv.clone(), session, name(session), None).await.unwrap()
}

fn text(id: &str) -> NewEvent {
    NewEvent { event_id: id.to_owned(), kind: Kind::Message, chat: None, body: id.to_owned().into() }
}

fn texts(ids: std::ops::Range<usize>) -> Vec<NewEvent> {
    ids.map(|id| text(&format!("{id}"))).collect()
}

async fn is_drained(outbox: &Outbox) {
    until("drained outbox", || outbox.depth().events() == 0).await;
}

/// A bounded poll, for what has no event to wait on.
async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_post_has_the_contracts_headers_and_body() {
    for (key, wanted) in [(Some("secret"), "secret"), (Some(""), ""), (None, "")] {
        let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
        let sink = Sink::start(receiver.base(), key, quick());
        let outbox = outbox(&Arc::default(), "ok1").await;
        let lane = sink.webhook.attach(outbox.clone());
        let status = NewEvent::status("uid", &name("ok1"), Status::Connecting);
        outbox.commit(vec![status.clone(), text("body")]).await.unwrap();

        let arrived = receiver.next().await;
        assert_eq!((arrived.method, arrived.uri.path()), (Method::POST, "/hook/session"));
        assert_eq!(arrived.body, r#"{"session":"ok1","status":"connecting"}"#);
        let header = |name: &str| arrived.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("accept"), Some("application/json, text/plain, */*"));
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("key"), Some(wanted));
        assert_eq!(header("x-event-id"), Some(status.event_id.as_str()));
        assert_eq!(header("content-length"), Some("39"));
        assert_eq!(header("x-webhook-signature"), None, "no secret, no signature");
        assert!(header("user-agent").unwrap().starts_with("wa-gateway/"));
        assert_eq!(receiver.next().await.uri.path(), "/hook/message");
        is_drained(&outbox).await;
        within("end", lane.detach()).await;
        sink.end().await;
    }
}

#[tokio::test]
async fn every_attempt_is_signed_anew() {
    let mut receiver = Receiver::start(|n, _| Say::Status(if n == 0 { 500 } else { 200 })).await;
    let sink = Sink::signing(receiver.base(), None, Some("whsec"), quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![text("body")]).await.unwrap();
    for _ in 0..2 {
        let arrived = receiver.next().await;
        let signature = &arrived.headers["x-webhook-signature"];
        let time: i64 = signature.to_str().unwrap()[2..].split(',').next().unwrap().parse().unwrap();
        assert!((chrono::Utc::now().timestamp() - time).abs() < 30, "{signature:?}");
        assert_eq!(*signature, sign::sign(&SecretString::from("whsec"), time, arrived.body.as_bytes()));
    }
    is_drained(&outbox).await;
    within("end", lane.detach()).await;
    sink.end().await;
}

#[tokio::test]
async fn events_arrive_in_order_with_failures_between() {
    // Every third request fails; the same body must come again before the next.
    let mut receiver = Receiver::start(|n, _| Say::Status(if n % 3 == 1 { 500 } else { 204 })).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let lane = sink.webhook.attach(outbox.clone());
    outbox.commit(texts(0..20)).await.unwrap();
    outbox.commit(texts(20..40)).await.unwrap();
    is_drained(&outbox).await;
    let mut wanted = Vec::new();
    for id in 0..40 {
        wanted.push(format!("{id}"));
        if wanted.len() % 3 == 2 {
            wanted.push(format!("{id}"));
        }
    }
    assert_eq!(receiver.bodies(wanted.len()).await, wanted);
    receiver.assert_silent();
    within("end", lane.detach()).await;
    sink.end().await;
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let mut receiver = Receiver::start(|n, _| if n == 0 { Say::After(429, "1") } else { Say::Status(200) }).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![text("x")]).await.unwrap();
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert!(second.at - first.at >= Duration::from_millis(990), "{:?}", second.at - first.at);
    is_drained(&outbox).await;
    sink.end().await;
}

#[tokio::test]
async fn a_refusal_or_a_redirect_is_final_and_the_next_event_follows() {
    let mut receiver = Receiver::start(|_, body| match body {
        "0" => Say::Status(404),
        "1" => Say::Redirect(302, "/elsewhere".to_owned()),
        _ => Say::Status(200),
    })
    .await;
    let sink = Sink::start(receiver.base(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(texts(0..3)).await.unwrap();
    is_drained(&outbox).await;
    assert_eq!(receiver.bodies(3).await, ["0", "1", "2"]);
    receiver.assert_silent();
    sink.end().await;
}

#[tokio::test]
async fn only_a_redirect_on_the_same_host_that_keeps_the_body_is_followed() {
    let mut elsewhere = Receiver::start(|_, _| Say::Status(200)).await;
    let other_host = format!("http://localhost:{}/", elsewhere.addr.port());
    let other_port = format!("http://127.0.0.1:{}/there", elsewhere.addr.port());
    let mut receiver = Receiver::start(move |_, body| match body {
        "0" => Say::Redirect(307, other_host.clone()),
        "1" => Say::Redirect(308, other_port.clone()),
        "2" => Say::Redirect(307, "/round".to_owned()),
        _ => Say::Status(200),
    })
    .await;
    let sink = Sink::start(receiver.base(), Some("k"), quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(texts(0..4)).await.unwrap();
    is_drained(&outbox).await;
    assert_eq!(receiver.bodies(7).await, ["0", "1", "2", "2", "2", "2", "3"], "a round ends");
    let led = elsewhere.next().await;
    assert_eq!((led.method, led.uri.path(), led.body.as_str()), (Method::POST, "/there", "1"));
    let header = |name: &str| led.headers[name].to_str().unwrap();
    assert_eq!((header("key"), header("content-type")), ("k", "application/json"));
    elsewhere.assert_silent();
    receiver.assert_silent();
    assert_eq!(outbox.dead(None, 9).await.unwrap().len(), 2);
    sink.end().await;
}

#[tokio::test]
async fn no_webhook_goes_to_link_local_or_metadata_addresses() {
    let start = |base: &str| {
        let receiver = super::Receiver { base_url: Some(Url::parse(base).unwrap()), ..super::Receiver::default() };
        Webhook::start(receiver, quick(), TaskTracker::new(), CancellationToken::new())
    };
    for base in [
        "http://169.254.169.254/latest",
        "http://2852039166/",
        "http://[fe80::1]:3000/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "http://0.0.0.0:3000/",
    ] {
        assert!(matches!(start(base), Err(WebhookError::Address)), "{base}");
        // A session's own receiver, whatever was stored once.
        let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
        let sink = Sink::start(receiver.base(), None, quick());
        let outbox = outbox(&Arc::default(), "a").await;
        outbox.set_target(Some(Target { url: base.to_owned(), secret: None, events: None }));
        let _lane = sink.webhook.attach(outbox.clone());
        outbox.commit(vec![text("x")]).await.unwrap();
        within("failures", async {
            while outbox.head(1).await.unwrap().first().is_none_or(|entry| entry.attempts < 2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        receiver.assert_silent();
        sink.end().await;
    }
    // Neighbours are what receivers are, by name too.
    for base in
        ["http://bot:3000", "http://127.0.0.1:3000/", "http://10.0.0.7/", "http://[fd12::7]/", "http://localhost/"]
    {
        assert!(start(base).is_ok(), "{base}");
    }
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let by_name = Url::parse(&format!("http://localhost:{}/hook", receiver.addr.port())).unwrap();
    let denied = super::Receiver { base_url: Some(by_name.clone()), private_urls: false, ..super::Receiver::default() };
    let sink = Sink::posting(denied, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![text("to the base")]).await.unwrap();
    assert_eq!(receiver.next().await.body, "to the base");
    // The same place over the API is denied, at the address that the name stands for.
    outbox.set_target(Some(Target { url: by_name.to_string(), secret: None, events: None }));
    outbox.commit(vec![text("to its own")]).await.unwrap();
    within("a failure", async {
        while outbox.head(1).await.unwrap().first().is_none_or(|entry| entry.attempts < 2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    receiver.assert_silent();
    sink.end().await;
}

#[tokio::test]
async fn an_event_that_grew_too_old_is_given_up() {
    let mut receiver = Receiver::start(|_, body| Say::Status(if body == "0" { 503 } else { 200 })).await;
    let policy = RetryPolicy { give_up_after: Duration::from_millis(100), ..quick() };
    let sink = Sink::start(receiver.base(), None, policy);
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(texts(0..2)).await.unwrap();
    is_drained(&outbox).await;
    let mut tries = 0;
    while receiver.next().await.body == "0" {
        tries += 1;
    }
    assert!(tries >= 2, "{tries} tries");
    sink.end().await;
}

#[tokio::test]
async fn a_receiver_that_was_down_gets_everything_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let sink = Sink::start(Url::parse(&format!("http://{addr}")).unwrap(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(texts(0..3)).await.unwrap();
    within("failed attempts", async {
        while outbox.head(1).await.unwrap()[0].attempts < 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let mut receiver = Receiver::start_on(TcpListener::bind(addr).await.unwrap(), |_, _| Say::Status(200));
    assert_eq!(receiver.bodies(3).await, ["0", "1", "2"]);
    is_drained(&outbox).await;
    sink.end().await;
}

#[tokio::test]
async fn a_hanging_receiver_costs_one_attempt_limit() {
    let mut receiver = Receiver::start(|n, _| if n == 0 { Say::Hang } else { Say::Status(200) }).await;
    let policy = RetryPolicy { attempt_limit: Duration::from_millis(150), ..quick() };
    let sink = Sink::start(receiver.base(), None, policy);
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![text("x")]).await.unwrap();
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert!(second.at - first.at >= Duration::from_millis(140));
    is_drained(&outbox).await;
    sink.end().await;
}

#[tokio::test]
async fn detaching_breaks_off_a_hanging_attempt_and_keeps_the_event() {
    let mut receiver = Receiver::start(|_, _| Say::Hang).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let outbox = outbox(&Arc::default(), "a").await;
    let lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![text("x")]).await.unwrap();
    receiver.next().await;
    let begun = Instant::now();
    within("detach", lane.detach()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "the attempt's limit was waited for");
    assert_eq!(sink.tracker.len(), 0);
    assert_eq!(outbox.head(9).await.unwrap().len(), 1);
    receiver.assert_silent();
    sink.end().await;
}

#[tokio::test]
async fn an_attempt_under_way_is_finished_when_the_sink_ends() {
    let release = Arc::new(Notify::new());
    let held = release.clone();
    let mut receiver = Receiver::start(move |_, _| Say::Held(held.clone())).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(texts(0..2)).await.unwrap();
    assert_eq!(receiver.next().await.body, "0");
    sink.token.cancel();
    release.notify_one();
    sink.end().await;
    receiver.assert_silent();
    let left = outbox.head(9).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.event.event_id.as_str()).collect::<Vec<_>>(), ["1"]);
}

#[tokio::test]
async fn what_waits_is_delivered_after_a_restart() {
    let kv = Arc::new(MemoryKv::default());
    let mut receiver = Receiver::start(|n, _| Say::Status(if n < 2 { 500 } else { 200 })).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy { first_delay: Duration::from_secs(30), ..quick() });
    let first = outbox(&kv, "a").await;
    let _lane = sink.webhook.attach(first.clone());
    first.commit(texts(0..3)).await.unwrap();
    assert_eq!(receiver.next().await.body, "0");
    sink.end().await;

    // The lane is gone in the middle of a back-off of 50 ms, which the next one keeps.
    let sink = Sink::start(receiver.base(), None, quick());
    let again = outbox(&kv, "a").await;
    assert_eq!((again.depth().events(), again.head(1).await.unwrap()[0].attempts), (3, 1));
    let _lane = sink.webhook.attach(again.clone());
    is_drained(&again).await;
    assert_eq!(receiver.bodies(4).await, ["0", "0", "1", "2"]);
    sink.end().await;
}

#[tokio::test]
async fn one_sessions_slow_receiver_does_not_delay_another() {
    let mut receiver = Receiver::start(|_, body| if body == "slow" { Say::Hang } else { Say::Status(200) }).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let kv = Arc::new(MemoryKv::default());
    let (slow, swift) = (outbox(&kv, "slow").await, outbox(&kv, "swift").await);
    let lanes = [sink.webhook.attach(slow.clone()), sink.webhook.attach(swift.clone())];
    slow.commit(vec![text("slow")]).await.unwrap();
    assert_eq!(receiver.next().await.body, "slow");
    swift.commit(texts(0..50)).await.unwrap();
    is_drained(&swift).await;
    assert_eq!(slow.depth().events(), 1);
    for lane in lanes {
        within("detach", lane.detach()).await;
    }
    sink.end().await;
}

#[tokio::test]
async fn connections_are_reused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = Url::parse(&format!("http://{}", front.local_addr().unwrap())).unwrap();
    let mut receiver = Receiver::start_on(listener, |_, _| Say::Status(200));
    let (count, ended) = (accepted.clone(), receiver.token.clone());
    receiver.tracker.spawn(async move {
        ended
            .run_until_cancelled(async {
                loop {
                    let (mut client, _) = front.accept().await.unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    let mut server = tokio::net::TcpStream::connect(addr).await.unwrap();
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.unwrap_or_default();
                }
            })
            .await;
    });
    let sink = Sink::start(Some(base), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(texts(0..30)).await.unwrap();
    assert_eq!(receiver.bodies(30).await.len(), 30);
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    sink.end().await;
}

#[tokio::test]
async fn without_a_receiver_nothing_is_posted_and_farewells_are_forgotten() {
    let sink = Sink::start(None, Some("secret"), quick());
    let nobody = Arc::new(Common::new(Bounds::default(), Kinds::default(), false));
    let outbox = Outbox::open(&nobody, Arc::new(MemoryKv::default()), "a", name("a"), None).await.unwrap();
    let lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![text("x")]).await.unwrap();
    within("detach", lane.detach()).await;
    let (forgotten, mut forgets) = mpsc::channel(1);
    let farewells = sink.webhook.farewells(move |key| send(forgotten.clone(), key));
    assert!(farewells.say(farewell("a", "bye")));
    assert_eq!(within("forgetting", forgets.recv()).await.unwrap(), "key of bye");
    sink.end().await;
}

async fn send(sender: mpsc::Sender<Bytes>, key: Bytes) {
    sender.send(key).await.unwrap();
}

fn farewell(session: &str, id: &str) -> Farewell {
    let event = NewEvent { event_id: id.to_owned(), ..NewEvent::status("uid", &name(session), Status::Disconnected) };
    Farewell { key: format!("key of {id}").into(), session: name(session), event, target: None, at: chrono::Utc::now() }
}

#[tokio::test]
async fn notices_open_and_close_lanes_and_say_farewells() {
    let mut receiver = Receiver::start(|_, body| if body == "hang" { Say::Hang } else { Say::Status(200) }).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let (notify, notices) = mpsc::channel(8);
    let (forgotten, mut forgets) = mpsc::channel(1);
    sink.webhook.serve(notices, move |key| send(forgotten.clone(), key), &CancellationToken::new());
    let outbox = outbox(&Arc::default(), "a").await;
    notify.send(Notice::Opened { uid: "a".to_owned(), outbox: outbox.clone() }).await.unwrap();
    outbox.commit(vec![text("one"), text("hang")]).await.unwrap();
    assert_eq!(receiver.bodies(2).await, ["one", "hang"]);

    let (done, closed) = tokio::sync::oneshot::channel();
    notify.send(Notice::Closed { uid: "a".to_owned(), done }).await.unwrap();
    within("the end of the lane", closed).await.unwrap();
    outbox.commit(vec![text("late")]).await.unwrap();
    let Farewell { key, session, event, target, at } = farewell("a", "bye");
    notify.send(Notice::Farewell { key, session, event, target, at }).await.unwrap();
    assert_eq!(within("forgetting", forgets.recv()).await.unwrap(), "key of bye");
    assert_eq!(receiver.next().await.body, r#"{"session":"a","status":"disconnected"}"#);
    receiver.assert_silent();
    sink.end().await;
}

#[tokio::test]
async fn a_sink_that_panics_is_noticed() {
    let receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let (notify, notices) = mpsc::channel(8);
    let ended = CancellationToken::new();
    sink.webhook.serve(notices, |_| async { panic!("a test's own panic") }, &ended);
    assert!(!ended.is_cancelled());
    let Farewell { key, session, event, target, at } = farewell("a", "bye");
    notify.send(Notice::Farewell { key, session, event, target, at }).await.unwrap();
    within("the end of the sink", ended.cancelled()).await;
    within("the end of the notices", notify.closed()).await;
    sink.end().await;
}

#[tokio::test]
async fn served_lanes_finish_their_attempt_when_the_sink_ends() {
    let release = Arc::new(Notify::new());
    let held = release.clone();
    let mut receiver = Receiver::start(move |_, _| Say::Held(held.clone())).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let (notify, notices) = mpsc::channel(8);
    sink.webhook.serve(notices, |_| async {}, &CancellationToken::new());
    let outbox = outbox(&Arc::default(), "a").await;
    notify.send(Notice::Opened { uid: "a".to_owned(), outbox: outbox.clone() }).await.unwrap();
    outbox.commit(vec![text("x")]).await.unwrap();
    receiver.next().await;
    sink.token.cancel();
    // Its end shows that the task that took notices has seen the token, too.
    within("the end of the notices", notify.closed()).await;
    release.notify_one();
    sink.end().await;
    assert_eq!(outbox.depth().events(), 0);
}

#[tokio::test]
async fn a_farewell_is_retried_and_comes_before_the_next_session_of_that_name() {
    let mut receiver =
        Receiver::start(|n, body| Say::Status(if body.contains("disconnected") && n < 3 { 500 } else { 200 })).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let (forgotten, mut forgets) = mpsc::channel(1);
    let farewells = sink.webhook.farewells(move |key| send(forgotten.clone(), key));
    assert!(farewells.say(farewell("a", "bye")));
    assert!(farewells.say(farewell("a", "bye")), "one that is pending is taken, but not twice");

    let kv = Arc::new(MemoryKv::default());
    let (same, other) = (outbox(&kv, "a").await, outbox(&kv, "b").await);
    let _lanes = [sink.webhook.attach(same.clone()), sink.webhook.attach(other.clone())];
    same.commit(vec![text("again")]).await.unwrap();
    other.commit(vec![text("other")]).await.unwrap();
    is_drained(&same).await;
    is_drained(&other).await;
    assert_eq!(within("forgetting", forgets.recv()).await.unwrap(), "key of bye");

    let mut bodies = Vec::new();
    while let Ok(arrived) = receiver.arrived.try_recv() {
        bodies.push(arrived.body);
    }
    let bye = r#"{"session":"a","status":"disconnected"}"#;
    assert!(bodies.iter().any(|body| body == "other"));
    bodies.retain(|body| body != "other");
    assert_eq!(bodies.pop().as_deref(), Some("again"));
    assert!(bodies.len() >= 3 && bodies.iter().all(|body| body == bye), "{bodies:?}");
    sink.end().await;
}

#[tokio::test]
async fn a_farewell_that_nobody_takes_is_given_up_and_forgotten() {
    let mut receiver =
        Receiver::start(|_, body| Say::Status(if body.contains("disconnected") { 503 } else { 200 })).await;
    let policy = RetryPolicy { give_up_after: Duration::from_millis(100), ..quick() };
    let sink = Sink::start(receiver.base(), None, policy);
    let (forgotten, mut forgets) = mpsc::channel(1);
    let farewells = sink.webhook.farewells(move |key| send(forgotten.clone(), key));
    assert!(farewells.say(farewell("a", "bye")));
    assert_eq!(within("forgetting", forgets.recv()).await.unwrap(), "key of bye");
    // The next session of that name waits for it no longer.
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![text("again")]).await.unwrap();
    is_drained(&outbox).await;
    let mut tries = 0;
    while receiver.next().await.body != "again" {
        tries += 1;
    }
    assert!(tries >= 2, "{tries}");
    assert_eq!(
        (outbox.counts().dead, outbox.dead(None, 9).await.unwrap().len()),
        (0, 0),
        "none of a session that is gone"
    );
    sink.end().await;
}

#[tokio::test]
async fn a_farewell_that_was_not_delivered_is_not_forgotten_when_the_sink_ends() {
    let mut receiver = Receiver::start(|_, _| Say::Status(503)).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let (forgotten, mut forgets) = mpsc::channel(1);
    let farewells = sink.webhook.farewells(move |key| send(forgotten.clone(), key));
    assert!(farewells.say(farewell("a", "bye")));
    receiver.next().await;
    sink.end().await;
    assert!(forgets.recv().await.is_none());
    assert!(!farewells.say(farewell("b", "late")));
}

#[test]
fn debug_shows_neither_the_address_nor_the_key() {
    let sink = Sink::start(Url::parse("http://bot/?token=abc").ok(), Some("secret"), quick());
    let shown = format!("{:?}", sink.webhook);
    assert!(!shown.contains("abc") && !shown.contains("secret") && !shown.contains("bot"), "{shown}");
}
