//! A store that refuses writes: nothing is acknowledged, nothing stale is written, and it goes on when the store does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot, watch};
use wa_gateway::store::sled::SledStore;
use wa_gateway::store::{Batch, Durability, Flushing, KeyRange, Kv, KvError, Namespace, Op};
use wa_gateway::{Config, Gateway};
use whatsapp_simulator::{Options, Simulator};

use super::store_faults::is_shown_as_damaged;
use super::support::{Api, Receiver, STEP, base_settings, eventually};

const NUMBER: &str = "6281234500071";
const FRIEND: &str = "6281234500072";
const OTHER: &str = "6281234500073";

/// A sled store whose writes fail on command.
#[derive(Debug)]
struct Failing {
    inner: SledStore,
    broken: AtomicBool,
    /// Rows of namespaces that end so are not given out.
    mute: Mutex<Option<String>>,
    /// And whoever asks for them panics, as sled does over some damaged pages.
    torn: AtomicBool,
    /// The next write that brings a session's last event is done, and an error all the same.
    unsaid: AtomicBool,
    /// Larger values are refused, as on a disk that is nearly full.
    room: AtomicUsize,
    /// The next commit to an outbox waits until it is let go, and is refused then; pending rows that come before are lost.
    lose_row: AtomicBool,
    row_waits: watch::Sender<bool>,
    let_go: Notify,
    /// Flushes that are waited for apart from their write: how many wait until they are let go, and with what.
    held: Mutex<Vec<oneshot::Sender<Result<(), KvError>>>>,
    holds: AtomicBool,
    /// What takes an event out of an outbox waits while this is so.
    keeps: watch::Sender<bool>,
    ratchets: Ratchets,
}

/// Writes of all Signal sessions that have moved and were not stored: how many were begun, and the last begun of those that have
/// ended.
#[derive(Debug)]
struct Ratchets {
    begun: AtomicUsize,
    /// Those that were begun before the row came that is to be lost.
    known: AtomicUsize,
    ended: watch::Sender<usize>,
}

/// How many rows a batch puts into this table of a session's credentials.
fn puts(ns: &Namespace, batch: &Batch, table: u8) -> usize {
    let is_row = |op: &&Op| matches!(op, Op::Put(key, _) if key.first() == Some(&table));
    if ns.as_str().starts_with("credentials:") { batch.ops.iter().filter(is_row).count() } else { 0 }
}

impl Failing {
    fn new(inner: SledStore) -> Self {
        let ratchets =
            Ratchets { begun: AtomicUsize::new(0), known: AtomicUsize::new(0), ended: watch::Sender::new(0) };
        let (broken, room, lose_row) = (AtomicBool::new(false), AtomicUsize::new(usize::MAX), AtomicBool::new(false));
        let mute = Mutex::default();
        Self {
            inner,
            broken,
            mute,
            torn: AtomicBool::new(false),
            unsaid: AtomicBool::new(false),
            room,
            lose_row,
            row_waits: watch::Sender::new(false),
            let_go: Notify::new(),
            held: Mutex::default(),
            holds: AtomicBool::new(false),
            keeps: watch::Sender::new(false),
            ratchets,
        }
    }

    fn check(&self) -> Result<(), KvError> {
        if self.broken.load(Ordering::SeqCst) { Err(full()) } else { Ok(()) }
    }

    fn hear(&self, ns: &Namespace) -> Result<(), KvError> {
        let is_mute = self.mute.lock().unwrap().as_ref().is_some_and(|uid| ns.as_str().ends_with(uid.as_str()));
        assert!(!is_mute || !self.torn.load(Ordering::SeqCst), "told to panic: a page is damaged");
        if is_mute { Err(away()) } else { Ok(()) }
    }

    /// Returns when the row that is to be lost has come and waits.
    async fn row_waits(&self) {
        let mut waits = self.row_waits.subscribe();
        tokio::time::timeout(STEP, waits.wait_for(|waits| *waits)).await.expect("the row comes").unwrap();
    }

    /// Whether the second such write has ended that was begun after that. The library passes a ratchet on 25 ms after it moved,
    /// and they are stored when they have been passed on 64 times: that of the row is among them, or was stored before.
    fn ratchets_are_stored(&self) -> bool {
        *self.ratchets.ended.borrow() > self.ratchets.known.load(Ordering::SeqCst) + 1
    }
}

fn full() -> KvError {
    KvError::Engine("no space left on device".into())
}

fn away() -> KvError {
    KvError::Engine("connection reset".into())
}

#[async_trait]
impl Kv for Failing {
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.hear(ns)?;
        self.inner.get(ns, key).await
    }
    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError> {
        self.hear(ns)?;
        self.inner.get_many(ns, keys).await
    }
    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.hear(ns)?;
        self.inner.range(ns, range).await
    }
    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError> {
        self.check()?;
        let room = self.room.load(Ordering::SeqCst);
        if batch.ops.iter().any(|op| matches!(op, Op::Put(_, value) if value.len() > room)) {
            return Err(full());
        }
        let is_last = |op: &Op| matches!(op, Op::Put(key, _) if key.starts_with(b"farewell/"));
        if batch.ops.iter().any(is_last) && self.unsaid.swap(false, Ordering::SeqCst) {
            self.inner.write(ns, batch).await?;
            return Err(away());
        }
        let losing = self.lose_row.load(Ordering::SeqCst) || *self.row_waits.borrow();
        if losing && puts(ns, &batch, b'Q') > 0 {
            return Ok(());
        }
        if ns.as_str().starts_with("outbox:") && self.lose_row.swap(false, Ordering::SeqCst) {
            self.ratchets.known.store(self.ratchets.begun.load(Ordering::SeqCst), Ordering::SeqCst);
            self.row_waits.send_replace(true);
            self.let_go.notified().await;
            self.row_waits.send_replace(false);
            return Err(full());
        }
        if ns.as_str().starts_with("outbox:") && batch.ops.iter().any(|op| matches!(op, Op::Remove(_))) {
            let mut keeps = self.keeps.subscribe();
            keeps.wait_for(|keeps| !*keeps).await.unwrap();
        }
        // Those of the other and of the own phone at least; one that must be on disk is flushed, and tells nothing of the rest.
        if puts(ns, &batch, b'S') < 2 || batch.durability == Durability::Flushed {
            return self.inner.write(ns, batch).await;
        }
        let begun = self.ratchets.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let written = self.inner.write(ns, batch).await;
        self.ratchets.ended.send_modify(|ended| *ended = begun.max(*ended));
        written
    }
    async fn apply(&self, ns: &Namespace, batch: Batch) -> Result<Flushing, KvError> {
        self.check()?;
        let flushing = self.inner.apply(ns, batch).await?;
        if !self.holds.load(Ordering::SeqCst) {
            return Ok(flushing);
        }
        let (let_go, held) = oneshot::channel();
        self.held.lock().unwrap().push(let_go);
        Ok(Box::pin(async move {
            held.await.unwrap()?;
            flushing.await
        }))
    }
    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError> {
        self.check()?;
        self.inner.drop_namespace(ns).await
    }
    async fn namespaces(&self) -> Result<Vec<Namespace>, KvError> {
        self.inner.namespaces().await
    }
    async fn flush(&self) -> Result<(), KvError> {
        self.inner.flush().await
    }
    async fn snapshot(&self, ns: &Namespace) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.inner.snapshot(ns).await
    }
}

/// A gateway over such a store, with one connected session.
struct Scene {
    simulator: Simulator,
    receiver: Receiver,
    api: Api,
    gateway: Gateway,
    kv: Arc<Failing>,
    _folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let kv = Arc::new(Failing::new(SledStore::open(&folder.path().join("wa_credentials/store")).unwrap()));
        let (gateway, api) = bind(&simulator, &receiver, &folder, &kv).await;
        let qr = api.qr("a").await;
        simulator.scan(&qr, NUMBER).await.unwrap();
        api.wait_status("a", "connected").await;
        Self { simulator, receiver, api, gateway, kv, _folder: folder }
    }
}

async fn bind(simulator: &Simulator, receiver: &Receiver, folder: &TempDir, kv: &Arc<Failing>) -> (Gateway, Api) {
    let config = Config::from_vars(base_settings(simulator, receiver, folder.path())).unwrap();
    let gateway = Gateway::bind_on(config, Arc::clone(kv) as _).await.unwrap();
    let api = Api::new(gateway.addr().port());
    (gateway, api)
}

/// Retry receipts so far.
fn retries(simulator: &Simulator) -> u64 {
    simulator.counters().retries.values().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_ratchet_was_stored_ahead_of_it_is_asked_for_again() {
    let Scene { simulator, receiver, api, gateway, kv, _folder } = Scene::new().await;
    let (friend, other) = (simulator.phone(FRIEND), simulator.phone(OTHER));
    for (phone, text) in [(&friend, "before"), (&other, "hello")] {
        phone.says(NUMBER, text).await.unwrap();
        receiver.message("a", text).await;
    }
    for round in 0..3 {
        let asked = retries(&simulator);
        kv.lose_row.store(true, Ordering::SeqCst);
        let lost = format!("lost {round}");
        friend.says(NUMBER, &lost).await.unwrap();
        kv.row_waits().await;
        // When those of another chat have moved often, all ratchets are stored that have moved.
        let pass = async {
            for sent in 0.. {
                if kv.ratchets_are_stored() {
                    break;
                }
                let passing = format!("passing {round} {sent}");
                api.text("a", OTHER, &passing).await.expect(200);
                assert_eq!(other.next_message(STEP).await.unwrap().text.as_deref(), Some(passing.as_str()));
                // They are passed on by the clock, not by the text.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(STEP, pass).await.expect("they are stored");
        kv.let_go.notify_one();
        receiver.message("a", &lost).await;
        assert_eq!(retries(&simulator), asked + 1, "it could be decrypted no more, so it was sent again");
        api.wait_status("a", "connected").await;
        eventually("everything to be acknowledged", || async {
            simulator.unacknowledged(NUMBER).is_empty().then_some(())
        })
        .await;
    }
    let told = |start: &str| -> Vec<String> {
        let bodies = receiver.messages("a").into_iter().map(|body| body["message"].as_str().unwrap().to_owned());
        bodies.filter(|text| text.starts_with(start)).collect()
    };
    assert_eq!(told("lost"), ["lost 0", "lost 1", "lost 2"]);
    gateway.shutdown(STEP, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_closes_the_session_until_the_store_works() {
    let Scene { simulator, receiver, api, gateway, kv, _folder } = Scene::new().await;
    let friend = simulator.phone(FRIEND);
    friend.says(NUMBER, "before").await.unwrap();
    receiver.message("a", "before").await;
    api.text("a", FRIEND, "out before").await.expect(200);
    assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("out before"));

    for round in 0..3 {
        kv.broken.store(true, Ordering::SeqCst);
        let during = format!("during {round}");
        friend.says(NUMBER, &during).await.unwrap();
        api.wait_status("a", "connecting").await;
        eventually("sends to say that the store is away", || async {
            (api.text("a", FRIEND, "x").await.status == 503).then_some(())
        })
        .await;
        assert!(receiver.messages("a").iter().all(|body| body["message"] != during.as_str()));
        kv.broken.store(false, Ordering::SeqCst);
        api.wait_status("a", "connected").await;
        receiver.message("a", &during).await;
        let out = format!("out after {round}");
        api.text("a", FRIEND, &out).await.expect(200);
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some(out.as_str()));
    }
    let counters = simulator.counters();
    assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts, counters.pairings), (0, 0, 1));
    gateway.shutdown(STEP, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_phone_unlinks_while_the_store_is_away_is_told_when_it_is_back() {
    let Scene { simulator, receiver, api, gateway, kv, _folder } = Scene::new().await;
    kv.broken.store(true, Ordering::SeqCst);
    simulator.unlink(NUMBER, simulator.devices(NUMBER)[0].device);
    // Or its storage fails before it hears of it: then it hears of it when it comes back.
    eventually("the session to end", || async {
        let shown = api.get("/session/a").await.expect(200).json();
        ["logged_out", "store_failed"].contains(&shown["data"]["state"].as_str().unwrap()).then_some(())
    })
    .await;
    kv.broken.store(false, Ordering::SeqCst);
    receiver.last_status("a", "disconnected").await;
    assert_eq!(receiver.statuses("a").iter().filter(|word| *word == "disconnected").count(), 1);
    gateway.shutdown(STEP, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_the_store_took_and_did_not_say_so_is_told() {
    let Scene { simulator: _simulator, receiver, api, gateway, kv, _folder } = Scene::new().await;
    kv.unsaid.store(true, Ordering::SeqCst);
    assert_eq!(api.delete("a").await.status, 503);
    assert_eq!(api.status("a").await, "absent");
    receiver.last_status("a", "disconnected").await;
    gateway.shutdown(STEP, std::future::pending()).await;
    assert_eq!(receiver.statuses("a").iter().filter(|word| *word == "disconnected").count(), 1);
    assert_eq!(kv.range(&Namespace::registry(), KeyRange::prefix("farewell/")).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_on_which_only_small_writes_fit_is_not_ready() {
    let Scene { simulator, receiver, api, gateway, kv, _folder } = Scene::new().await;
    api.get("/readyz").await.expect(200);
    kv.room.store(8 << 10, Ordering::SeqCst);
    let large = "x".repeat(30_000);
    simulator.phone(FRIEND).says(NUMBER, &large).await.unwrap();
    eventually("the gateway to be no longer ready", || async {
        (api.get("/readyz").await.status == 503).then_some(())
    })
    .await;
    // And it stays so: what fits is no reason to try again with what does not.
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < until {
        let told = api.get("/readyz").await.expect(503).json();
        assert_eq!(told["failing"], json!(["store"]), "{told}");
        assert!(told["message"].as_str().unwrap().contains("a write of a session"), "{told}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let shown = api.get("/session/a").await.expect(200).json();
    assert_eq!(shown["data"]["state"], "store_failed", "{shown}");
    // The store itself takes small writes all the while.
    let probe = Batch::new().put(&b"x"[..], &b"y"[..]);
    kv.write(&Namespace::probe(), probe).await.unwrap();
    kv.room.store(usize::MAX, Ordering::SeqCst);
    receiver.message("a", &large).await;
    eventually("the gateway to be ready", || async { (api.get("/readyz").await.status == 200).then_some(()) }).await;
    gateway.shutdown(STEP, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_damaged_while_the_gateway_runs_is_not_dialled() {
    let Scene { simulator, api, gateway, kv, _folder, .. } = Scene::new().await;
    let stop = async || api.post("/session/stop", json!({ "session": "a" })).await.expect(200);
    stop().await;
    let all = kv.namespaces().await.unwrap();
    let credentials = all.iter().find(|ns| ns.as_str().starts_with("credentials:")).unwrap();
    let device = kv.get(credentials, b"Z").await.unwrap().unwrap();
    let put = async |row: Bytes| kv.write(credentials, Batch::new().put(&b"Z"[..], row)).await.unwrap();
    put(device.slice(..device.len() / 2)).await;
    let refused = api.start("a").await.expect(503);
    assert!(refused.message().contains("wa-gateway restore"), "{}", refused.body);
    is_shown_as_damaged(&api, "a").await;
    api.text("a", FRIEND, "x").await.expect(409);
    // The row as it was: the same identity.
    put(device).await;
    api.start("a").await.expect(200);
    api.wait_status("a", "connected").await;
    assert_eq!(simulator.counters().pairings, 1);
    gateway.shutdown(STEP, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_rows_are_not_given_out_at_the_start_waits_for_them_alone() {
    waits_for_its_rows_alone(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_over_whose_rows_the_store_panics_at_the_start_keeps_no_other_away() {
    waits_for_its_rows_alone(true).await;
}

async fn waits_for_its_rows_alone(torn: bool) {
    let Scene { simulator, receiver, api, gateway, kv, _folder: folder } = Scene::new().await;
    kv.torn.store(torn, Ordering::SeqCst);
    let qr = api.qr("b").await;
    simulator.scan(&qr, OTHER).await.unwrap();
    api.wait_status("b", "connected").await;
    gateway.shutdown(STEP, std::future::pending()).await;
    let uid = kv.get(&Namespace::registry(), b"name/a").await.unwrap().unwrap();
    *kv.mute.lock().unwrap() = Some(String::from_utf8(uid.to_vec()).unwrap());

    let (gateway, api) = bind(&simulator, &receiver, &folder, &kv).await;
    api.wait_status("b", "connected").await;
    eventually("the session to say what it waits for", || async {
        let shown = api.get("/session/a").await.expect(200).json();
        assert_eq!(shown["data"]["status"], "connecting");
        (shown["data"]["state"] == "store_failed").then_some(())
    })
    .await;
    api.text("a", FRIEND, "x").await.expect(503);
    api.start("a").await.expect(503);
    let told = api.get("/readyz").await.expect(503).json();
    assert_eq!(told["failing"], json!(["store"]), "{told}");
    *kv.mute.lock().unwrap() = None;
    // By itself, and as the device that it was.
    api.wait_status("a", "connected").await;
    assert_eq!(simulator.counters().pairings, 2);
    gateway.shutdown(STEP, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_session_dials_while_it_is_stored_and_is_told_of_once_it_is() {
    let Scene { simulator, receiver, api, gateway, kv, _folder: folder } = Scene::new().await;
    kv.holds.store(true, Ordering::SeqCst);
    for stored in [false, true] {
        let before = simulator.counters().registrations;
        let mut starting = tokio::task::JoinSet::new();
        let starter = api.clone();
        starting.spawn(async move { starter.start("b").await });
        eventually("it to dial", || async { (simulator.counters().registrations > before).then_some(()) }).await;
        for _ in 0..20 {
            assert_eq!(api.status("b").await, "absent");
            assert!(starting.try_join_next().is_none(), "the code is told before the session is stored");
        }
        let let_go = kv.held.lock().unwrap().pop().unwrap();
        let_go.send(if stored { Ok(()) } else { Err(full()) }).unwrap();
        let answer = starting.join_next().await.unwrap().unwrap();
        if stored {
            let qr = answer.expect(200).json()["qr"].as_str().unwrap().to_owned();
            simulator.scan(&qr, OTHER).await.unwrap();
        } else {
            assert_eq!(answer.expect(503).message(), "The session store is not available");
            assert_eq!(api.status("b").await, "absent");
            api.get("/session/b").await.expect(404);
            eventually("its connection to end", || async { (simulator.connections() == 1).then_some(()) }).await;
            // As after a reopened store that has lost it.
            let uid = kv.get(&Namespace::registry(), b"name/b").await.unwrap().unwrap();
            let record = Bytes::from([b"session/", &uid[..]].concat());
            let lost = Batch::new().remove(&b"name/b"[..]).remove(record);
            kv.inner.write(&Namespace::registry(), lost).await.unwrap();
        }
    }
    api.wait_status("b", "connected").await;
    gateway.shutdown(STEP, std::future::pending()).await;

    let (gateway, api) = bind(&simulator, &receiver, &folder, &kv).await;
    api.wait_status("b", "connected").await;
    assert_eq!(simulator.counters().pairings, 2);
    gateway.shutdown(STEP, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_can_not_be_stored_does_not_wait_for_what_it_began() {
    let Scene { simulator, receiver, api, gateway, kv, _folder } = Scene::new().await;
    kv.holds.store(true, Ordering::SeqCst);
    // The delivery of its events ends only when the store lets go of the one that was delivered.
    kv.keeps.send_replace(true);
    let (answer, ()) = tokio::join!(api.start("b"), async {
        receiver.last_status("b", "connecting").await;
        let let_go = eventually("it to be stored", || async { kv.held.lock().unwrap().pop() }).await;
        let_go.send(Err(full())).unwrap();
    });
    assert_eq!(answer.expect(503).message(), "The session store is not available");
    assert_eq!(api.status("b").await, "absent");
    kv.keeps.send_replace(false);
    eventually("its connection to end", || async { (simulator.connections() == 1).then_some(()) }).await;
    gateway.shutdown(STEP, std::future::pending()).await;
}
