//! Start, stop, logout and delete, fired at random on the same names: no deadlock, no ghost, the last verb wins.
//!
//! `WA_GATEWAY_VERBS` sets their number (1,000 unless told otherwise), `WA_GATEWAY_SEED` the chances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::Semaphore;
use wa_gateway::store::Kv as _;
use wa_gateway::store::sled::SledStore;
use whatsapp_simulator::{Fault, Options};

use super::support::{Answer, Dice, TestGateway, eventually, flag};

const NAMES: usize = 6;
/// Verbs under way at a time.
const AT_ONCE: usize = 24;

fn name(n: usize) -> String {
    format!("name-{n}")
}

fn number(n: usize) -> String {
    format!("62855{n:07}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Start,
    Stop,
    Logout,
    Delete,
}

const VERBS: [Verb; 6] = [Verb::Start, Verb::Start, Verb::Start, Verb::Stop, Verb::Logout, Verb::Delete];
/// Names below this one are linked again and again while verbs come, and keep their link for some verbs.
const LINKED: usize = 3;
/// Each of the names that get one verb alone is linked at least so often.
const ROUNDS_ALONE: usize = 8;
const VERBS_OF_LINKED: [Verb; 10] = [
    Verb::Start,
    Verb::Start,
    Verb::Start,
    Verb::Start,
    Verb::Stop,
    Verb::Stop,
    Verb::Stop,
    Verb::Stop,
    Verb::Logout,
    Verb::Delete,
];

async fn fire(gateway: &TestGateway, verb: Verb, name: &str) -> Answer {
    let named = json!({ "session": name });
    match verb {
        Verb::Start => gateway.api.post("/session/start", named).await,
        Verb::Stop => gateway.api.post("/session/stop", named).await,
        Verb::Logout => gateway.api.post("/session/logout", named).await,
        Verb::Delete => gateway.api.delete(name).await,
    }
}

/// The answers that a verb may get while others are under way on the same name.
fn may_answer(verb: Verb) -> &'static [u16] {
    match verb {
        // A code or connected; there already; ended by another verb meanwhile; not yet.
        Verb::Start => &[200, 400, 409, 504],
        Verb::Stop | Verb::Delete => &[200, 404],
        Verb::Logout => &[200],
    }
}

/// How often each verb met a linked session.
type Met = BTreeMap<Verb, u32>;

/// What the storm came to.
#[derive(Debug, Default)]
struct Storm {
    answers: BTreeMap<(Verb, u16), u32>,
    scans: u32,
    on_linked: Met,
}

/// Fires the verbs, many at a time, and scans codes between them.
async fn storm(gateway: &TestGateway, drawn: Vec<(Verb, usize, bool)>) -> Storm {
    let storm = Mutex::new(Storm::default());
    // A phone has no chance against four verbs that wait for their turn already: against one it has.
    let doors: Vec<_> = (0..NAMES).map(|n| Semaphore::new(if n < LINKED { 2 } else { AT_ONCE })).collect();
    let fired = futures::stream::iter(drawn).for_each_concurrent(AT_ONCE, async |(verb, n, scan)| {
        let _door = doors[n].acquire().await.unwrap();
        let was_linked = !gateway.simulator.devices(&number(n)).is_empty();
        let answer = fire(gateway, verb, &name(n)).await;
        assert!(may_answer(verb).contains(&answer.status), "{verb:?}: {} {}", answer.status, answer.body);
        {
            let mut storm = storm.lock().unwrap();
            *storm.answers.entry((verb, answer.status)).or_default() += 1;
            if was_linked && answer.status == 200 {
                *storm.on_linked.entry(verb).or_default() += 1;
            }
        }
        // The name's next verbs wait at the gateway: one of them may be faster than the phone.
        if (scan || n < LINKED)
            && let Some(qr) = answer.json()["qr"].as_str()
            && gateway.simulator.scan(qr, &number(n)).await.is_ok()
        {
            storm.lock().unwrap().scans += 1;
        }
    });
    fired.await;
    storm.into_inner().unwrap()
}

/// Meanwhile names of its own are linked and get one verb alone, twice at once, so that it is known what it met.
async fn alone(gateway: &TestGateway, over: &AtomicBool) -> Met {
    let mut met = Met::new();
    for round in 0.. {
        if over.load(Ordering::SeqCst) && round >= ROUNDS_ALONE {
            break;
        }
        for n in NAMES..NAMES + LINKED {
            let (verb, name) = ([Verb::Stop, Verb::Logout, Verb::Delete][(round + n) % 3], name(n));
            let answer = gateway.api.start(&name).await;
            // As in `last_verbs`, one that was stopped in its first second may be late.
            assert!([200, 400, 504].contains(&answer.status), "{} {}", answer.status, answer.body);
            if answer.status == 504 {
                gateway.api.wait_status(&name, "connected").await;
            }
            if let Some(qr) = answer.json()["qr"].as_str() {
                gateway.simulator.scan(qr, &number(n)).await.unwrap();
            }
            // Some while the first login is under way, some when it is through.
            if round % 2 == 0 {
                gateway.api.wait_status(&name, "connected").await;
            }
            let both = tokio::join!(fire(gateway, verb, &name), fire(gateway, verb, &name));
            assert_eq!(both.0.status.min(both.1.status), 200, "{verb:?} {} {}", both.0.body, both.1.body);
            // What WhatsApp was told of is gone from the phone; a stop leaves it there, without a connection, once the other
            // end has read of its end.
            let left = || gateway.simulator.devices(&number(n));
            match verb {
                Verb::Stop => {
                    let offline = async || left().iter().all(|device| !device.online).then_some(());
                    eventually("a stopped session to have no connection", offline).await;
                }
                _ => assert!(left().is_empty(), "{verb:?} left {:?}", left()),
            }
            *met.entry(verb).or_default() += 1;
        }
    }
    met
}

/// One verb on each name, in all combinations: what it wanted is what is there.
async fn last_verbs(gateway: &TestGateway) {
    for round in 0..4 {
        let mut listed = BTreeSet::new();
        let mut dialling = 0;
        for n in 0..NAMES {
            let before = gateway.api.status(&name(n)).await;
            let verb = [Verb::Stop, Verb::Logout, Verb::Start, Verb::Delete][(n + round) % 4];
            let mut answer = fire(gateway, verb, &name(n)).await;
            if verb == Verb::Start && answer.status == 409 {
                // A stop of the storm came between a scan and WhatsApp's hearing of it: the device was stored here, and
                // WhatsApp knows nothing of it. It says so once.
                assert_eq!(before, "disconnected", "{}", answer.body);
                let detail = gateway.detail(&name(n)).await;
                assert_eq!(
                    (&detail["state"], &detail["reason"]),
                    (&json!("logged_out"), &json!("by_phone")),
                    "{detail}"
                );
                answer = fire(gateway, verb, &name(n)).await;
            }
            let state = match gateway.api.status(&name(n)).await.as_str() {
                "absent" => None,
                _ => gateway.detail(&name(n)).await["state"].as_str().map(str::to_owned),
            };
            match verb {
                Verb::Start => {
                    // 504: a device that was stopped in its first second logs in, and whatsapp-rust 0.7.0 then waits 10 s
                    // (`node_io.rs`) for a key that it has.
                    let late = answer.status == 504 && state.as_deref() == Some("connecting");
                    assert!(late || [200, 400].contains(&answer.status), "{} {}", answer.status, answer.body);
                    let runs = ["waiting_for_scan", "connected", "connecting", "pairing"];
                    assert!(state.as_deref().is_some_and(|state| runs.contains(&state)), "{state:?}");
                    dialling += 1;
                }
                Verb::Delete => assert_eq!(state, None),
                _ if before == "absent" => assert_eq!(state, None),
                Verb::Stop => {
                    assert!(["stopped", "logged_out"].contains(&state.as_deref().unwrap()), "{state:?}");
                }
                Verb::Logout => assert_eq!(state.as_deref(), Some("logged_out")),
            }
            if state.is_some() {
                listed.insert(name(n));
            }
        }
        eventually("as many connections as sessions that run", || async {
            (gateway.simulator.connections() == dialling).then_some(())
        })
        .await;
        let list = gateway.api.get("/session").await.expect(200).json();
        let rows: BTreeSet<_> =
            list["data"].as_array().unwrap().iter().map(|row| row["session"].as_str().unwrap().to_owned()).collect();
        assert_eq!(rows, listed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_verbs_on_the_same_names_leave_what_the_last_one_wanted() {
    let (verbs, seed) = (usize::try_from(flag("WA_GATEWAY_VERBS", 1000)).unwrap(), flag("WA_GATEWAY_SEED", 4));
    let mut gateway = TestGateway::start_with(Options::default(), &[("START_TIMEOUT_SECS", "5")]).await;
    // A slow server: every answer takes its time.
    let slow = gateway.simulator.inject(Fault::SlowAnswers { delay: Duration::from_millis(40) });
    let mut dice = Dice::new(seed);
    let mut draw = || {
        let n = dice.below(NAMES);
        let verb = if n < LINKED { dice.pick(&VERBS_OF_LINKED) } else { dice.pick(&VERBS) };
        (*verb, n, dice.below(2) == 0)
    };
    let drawn: Vec<_> = (0..verbs).map(|_| draw()).collect();
    let (began, over) = (tokio::time::Instant::now(), AtomicBool::new(false));
    let firing = async {
        let storm = storm(&gateway, drawn).await;
        over.store(true, Ordering::SeqCst);
        storm
    };
    let both = async { tokio::join!(firing, alone(&gateway, &over)) };
    let (fired, alone) = tokio::time::timeout(Duration::from_mins(5), both).await.expect("no verb hangs");
    let took = began.elapsed();
    println!("seed {seed}: {verbs} verbs in {took:?}, {fired:?}, on linked ones alone {alone:?}");
    for verb in [Verb::Stop, Verb::Logout, Verb::Delete] {
        for (met, least) in [(&fired.on_linked, verbs / 100), (&alone, ROUNDS_ALONE)] {
            let count = met.get(&verb).copied().unwrap_or(0);
            assert!(usize::try_from(count).unwrap() >= least, "{verb:?} of linked sessions: {count} of {least}");
        }
    }
    gateway.simulator.clear(slow);
    for n in NAMES..NAMES + LINKED {
        let status = gateway.api.delete(&name(n)).await.status;
        assert!([200, 404].contains(&status), "{status}");
    }
    last_verbs(&gateway).await;

    for n in 0..NAMES {
        let status = gateway.api.delete(&name(n)).await.status;
        assert!([200, 404].contains(&status), "{status}");
    }
    assert_eq!(gateway.api.get("/session").await.expect(200).json(), json!({"data": []}));
    eventually("no ghost at the server", || async { (gateway.simulator.connections() == 0).then_some(()) }).await;
    for n in 0..NAMES + LINKED {
        let devices = gateway.simulator.devices(&number(n));
        assert!(devices.is_empty(), "the phone still lists {devices:?}");
    }
    gateway.stop().await;
    let store = SledStore::open(&gateway.folder().join("wa_credentials/store")).unwrap();
    for namespace in store.namespaces().await.unwrap() {
        let space = namespace.as_str();
        assert!(!space.starts_with("credentials:") && !space.starts_with("outbox:"), "{space} is left");
        for (key, value) in store.snapshot(&namespace).await.unwrap() {
            let row = format!("{} {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
            // A last event that was not delivered yet would be no leftover; the receiver takes all.
            assert!(!row.contains("name-"), "{space}: {row}");
        }
    }
    drop(store);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_does_not_wait_for_a_start_that_it_can_end() {
    let gateway = TestGateway::start_with(Options::default(), &[("START_TIMEOUT_SECS", "50")]).await;
    gateway.simulator.inject(Fault::SilentAccept);
    for verb in [Verb::Delete, Verb::Logout, Verb::Stop] {
        let (started, ended) = tokio::join!(gateway.api.start("a"), async {
            eventually("the session to be listed", || async {
                (gateway.api.status("a").await == "connecting").then_some(())
            })
            .await;
            fire(&gateway, verb, "a").await.status
        });
        // The start would have waited for its whole time, and been told 504.
        assert_eq!((started.status, ended), (409, 200), "{verb:?} {}", started.body);
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_renews_its_code_begins_nothing_that_was_ended() {
    let gateway = TestGateway::start().await;
    let renew = "/session/start?session=a&renew=true";
    assert_eq!(gateway.api.get(renew).await.status, 409, "nothing was started");
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.api.start("a").await.expect(200);
    for verb in [Verb::Stop, Verb::Logout, Verb::Delete] {
        gateway.api.get(renew).await.expect(200);
        assert_eq!(fire(&gateway, verb, "a").await.status, 200);
        let ended = gateway.api.status("a").await;
        assert_eq!(gateway.api.get(renew).await.status, 409, "{verb:?}");
        assert_eq!(gateway.api.status("a").await, ended, "{verb:?}");
        gateway.api.start("a").await.expect(200);
    }
    let wrong = gateway.api.get("/session/start?session=a&renew=soon").await;
    assert_eq!(wrong.status, 400, "{}", wrong.body);
    gateway.finish().await;
}
