//! The gateway on one thread, the world on another, and what the first allocates.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use wa_gateway::event::SessionName;
use wa_gateway::store::Kv;
use wa_gateway::store::registry::{AccountDetails, RecordState, Registry};
use wa_gateway::store::sled::SledStore;
use wa_gateway::{Config, Gateway};
use whatsapp_simulator::{Options, Simulator};

/// The longest that a single step may take.
const STEP: Duration = Duration::from_mins(1);
const KEY: &str = "secret";
/// Operations before the first that counts: connections, caches and buffers are there by then.
const WARM_UP: usize = 60;
/// Texts that count, and lists, of which each takes the same.
const TEXTS: usize = 1000;
const LISTS: usize = 50;
/// Of these in the order of their counts, the average of the second fifth is told. A timer, or a page of the store that falls due, adds
/// to some; others find a page that was just written.
const FIFTHS: usize = 5;
/// What an average may be above its baseline: one more allocation in each operation is more.
const TOLERANCE: f64 = 0.5;
/// An average above is measured anew: only what stays there is the code's.
const TRIES: usize = 3;
/// By then nothing of an operation is under way any more: receipts, acknowledgements, records.
const CALM: Duration = Duration::from_millis(15);
const BASELINE: &str = include_str!("baseline.json");

const OWN: &str = "6281000000001";
const CONTACT: &str = "6281000000002";

/// What is not the gateway, on threads of its own.
struct Outside {
    runtime: Runtime,
    simulator: Simulator,
    /// The texts of webhooks, as they come.
    texts: Arc<tokio::sync::Mutex<mpsc::Receiver<String>>>,
    receiver: String,
    client: reqwest::Client,
}

impl Outside {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tell, texts) = mpsc::channel(64);
        let (simulator, receiver) = runtime.block_on(async {
            let simulator = Simulator::start(Options::default()).await.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let receiver = format!("http://{}", listener.local_addr().unwrap());
            let router = Router::new().fallback(post(take)).with_state(tell);
            tokio::runtime::Handle::current().spawn(async move { axum::serve(listener, router).await });
            (simulator, receiver)
        });
        let client = reqwest::Client::builder().no_proxy().timeout(STEP).tcp_nodelay(true).build().unwrap();
        Self { runtime, simulator, texts: Arc::new(tokio::sync::Mutex::new(texts)), receiver, client }
    }
}

async fn take(State(tell): State<mpsc::Sender<String>>, body: Bytes) -> StatusCode {
    let event: Value = serde_json::from_slice(&body).unwrap();
    if let Some(text) = event["message"].as_str() {
        tell.send(text.to_owned()).await.unwrap();
    }
    StatusCode::OK
}

/// A gateway on this very thread: it moves only while something here waits.
struct World {
    runtime: Runtime,
    gateway: Gateway,
    outside: Outside,
    _folder: TempDir,
}

impl World {
    /// With so many listed sessions that are logged out.
    fn start(sessions: usize) -> Self {
        let outside = Outside::start();
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let gateway = runtime.block_on(async {
            let kv: Arc<dyn Kv> = Arc::new(SledStore::open(&folder.path().join("store")).unwrap());
            fill(&Registry::new(Arc::clone(&kv)), sessions).await;
            Gateway::bind_on(config(&outside, folder.path()), kv).await.unwrap()
        });
        Self { runtime, gateway, outside, _folder: folder }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.gateway.addr())
    }

    /// Does something outside while the gateway moves; returns what it gave and what the gateway's thread allocated.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> (T, u64) {
        let (done, waits) = oneshot::channel();
        self.outside.runtime.spawn(async move {
            let given = tokio::time::timeout(STEP, work).await.expect("a step in time");
            drop(done.send(given));
        });
        let mut given = None;
        let counted = allocation_counter::measure(|| given = self.runtime.block_on(waits).ok());
        (given.expect("the step outside panicked"), counted.count_total)
    }

    fn get(&self, target: &str) -> impl Future<Output = Value> + Send + use<> {
        self.get_with(KEY, target)
    }

    fn get_with(&self, key: &str, target: &str) -> impl Future<Output = Value> + Send + use<> {
        let request = self.outside.client.get(self.url(target)).header("key", key);
        async move {
            let response = request.send().await.unwrap();
            assert_eq!(response.status().as_u16(), 200);
            serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
        }
    }

    /// What such an operation allocates from its begin until all is calm.
    fn usual<F>(&self, what: &str, times: usize, mut operation: impl FnMut(usize) -> F) -> f64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut turns = 0..;
        let mut count = || {
            let operation = operation(turns.next().unwrap());
            let all = async move {
                operation.await;
                tokio::time::sleep(CALM).await;
            };
            self.run(all).1
        };
        for _ in 0..WARM_UP {
            count();
        }
        let mut least = f64::INFINITY;
        for _ in 0..TRIES {
            let mut counts: Vec<u64> = (0..times).map(|_| count()).collect();
            counts.sort_unstable();
            let kept = &counts[times / FIFTHS..times / FIFTHS * 2];
            least = least.min(kept.iter().copied().map(float).sum::<f64>() / float(kept.len() as u64));
            if is_within(what, least) {
                break;
            }
        }
        least
    }

    /// Links the one session that is connected.
    fn pair(&self) {
        let body = json!({"session": "shop"}).to_string();
        let start = self.outside.client.post(self.url("/session/start")).header("key", KEY);
        let start = start.header("content-type", "application/json").body(body);
        let simulator = self.outside.simulator.clone();
        let scanned = async move {
            let started: Value = serde_json::from_slice(&start.send().await.unwrap().bytes().await.unwrap()).unwrap();
            simulator.scan(started["qr"].as_str().unwrap(), OWN).await.unwrap();
            simulator.phone(CONTACT);
        };
        self.run(scanned);
        let begun = std::time::Instant::now();
        while self.run(self.get("/session/shop")).0["data"]["status"] != "connected" {
            assert!(begun.elapsed() < STEP, "the session does not connect");
        }
    }

    /// A key that sees the sessions of `fill`, and only because they are named so.
    fn limited_key(&self) -> String {
        let wanted = json!({"name": "limited", "sessions": ["shop-*"], "scopes": ["read"]}).to_string();
        let request = self.outside.client.post(self.url("/keys")).header("key", KEY);
        let request = request.header("content-type", "application/json").body(wanted);
        let made = async move {
            serde_json::from_slice::<Value>(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
        };
        self.run(made).0["data"]["key"].as_str().unwrap().to_owned()
    }

    fn stop(self) {
        self.runtime.block_on(self.gateway.shutdown(STEP, std::future::pending()));
        self.outside.runtime.block_on(self.outside.simulator.shutdown());
    }
}

async fn fill(registry: &Registry, sessions: usize) {
    for number in 0..sessions {
        let name = SessionName::parse(&format!("shop-{number:03}")).unwrap();
        let record = registry.reserve(&name).await.unwrap().0;
        let change = |record: &mut wa_gateway::store::registry::SessionRecord| {
            record.state = RecordState::LoggedOut;
            record.details =
                Some(AccountDetails { name: format!("Shop {number:03}"), phone_number: format!("62811{number:08}") });
        };
        registry.update(&record.uid, change).await.unwrap();
    }
}

fn config(outside: &Outside, folder: &Path) -> Config {
    let folder = |name: &str| folder.join(name).display().to_string();
    let settings = [
        ("KEY", KEY.to_owned()),
        ("HOST", "127.0.0.1".to_owned()),
        ("PORT", "0".to_owned()),
        ("WEBHOOK_BASE_URL", outside.receiver.clone()),
        ("WHATSAPP_WS_URL", outside.simulator.ws_url()),
        ("WHATSAPP_MEDIA_URL", outside.simulator.media_url()),
        ("CREDENTIALS_DIR", folder("wa_credentials")),
        ("MEDIA_DIR", folder("media")),
    ];
    Config::from_vars(settings.map(|(name, value)| (name.to_owned(), value))).unwrap()
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn baseline() -> BTreeMap<String, f64> {
    serde_json::from_str(BASELINE).unwrap()
}

fn is_within(what: &str, count: f64) -> bool {
    baseline().get(what).is_some_and(|allowed| count <= allowed + TOLERANCE)
}

/// Compares counts with the baseline; all that is wrong is told at once.
fn compare(counted: &[(&str, f64)]) {
    let baseline = baseline();
    let line =
        |(what, count): &(&str, f64)| format!("{what}: {count:.2} allocations, baseline {:?}", baseline.get(*what));
    for counted in counted {
        println!("{}", line(counted));
    }
    let wrong: Vec<String> = counted.iter().filter(|(what, count)| !is_within(what, *count)).map(line).collect();
    assert!(
        wrong.is_empty(),
        "hot paths allocate more than before:\n{}\nif that is meant, change tests/guard/baseline.json in the same commit",
        wrong.join("\n")
    );
}

#[test]
fn texts_allocate_no_more_than_the_baseline() {
    let world = World::start(0);
    world.pair();
    let sent = world.usual("send text", TEXTS, |turn| {
        let sent = world.get(&format!("/message/send-text?session=shop&to={CONTACT}&text=text%20{turn:04}"));
        async move { assert!(sent.await["data"]["key"]["id"].is_string()) }
    });
    let contact = world.outside.simulator.phone(CONTACT);
    let received = world.usual("receive text", TEXTS, |turn| {
        let (contact, texts) = (contact.clone(), Arc::clone(&world.outside.texts));
        async move {
            let text = format!("text {turn:04}");
            contact.says(OWN, &text).await.unwrap();
            assert_eq!(texts.lock().await.recv().await, Some(text));
        }
    });
    compare(&[("send text", sent), ("receive text", received)]);
    world.stop();
}

/// For the holder of the master key the list is spelled only after a change; for a key with rights to some, each time.
#[test]
fn a_list_allocates_no_more_than_the_baseline_and_in_step_with_its_length() {
    let sizes = [10, 100, 400];
    let counts = sizes.map(|sessions| {
        let world = World::start(sessions);
        let key = world.limited_key();
        let list = |key: &str| {
            let list = world.get_with(key, "/session");
            async move { assert_eq!(list.await["data"].as_array().unwrap().len(), sessions) }
        };
        let counts = (
            world.usual(&format!("list {sessions} sessions"), LISTS, |_turn| list(KEY)),
            world.usual(&format!("spell {sessions} sessions"), LISTS, |_turn| list(&key)),
        );
        world.stop();
        counts
    });
    let spelled = counts.map(|(_kept, spelled)| spelled);
    let each = |more: usize, less: usize| {
        (spelled[more] - spelled[less]) / float(u64::try_from(sizes[more] - sizes[less]).unwrap())
    };
    let (small, large) = (each(1, 0), each(2, 1));
    println!("allocations for each further session: {small:.2} up to 100, {large:.2} up to 400");
    // Buffers double, so that it may be a little less or more.
    assert!(large <= small * 1.1 + 0.1, "a list of 400 sessions allocates {large:.2} for each, one of 100 {small:.2}");
    compare(&[
        ("list 10 sessions", counts[0].0),
        ("list 100 sessions", counts[1].0),
        ("list 400 sessions", counts[2].0),
        ("spell 10 sessions", spelled[0]),
        ("spell 100 sessions", spelled[1]),
        ("spell 400 sessions", spelled[2]),
    ]);
}
