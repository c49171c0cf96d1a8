//! Chaos on the wire: twenty sessions talk both ways while their server drops, stalls, refuses and replaces them at random.
//!
//! `WA_GATEWAY_CHAOS_SECS` sets its length (15 s unless told otherwise), `WA_GATEWAY_SEED` its chances.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use whatsapp_simulator::{Fault, Kick, Options};

use super::support::{Dice, TestGateway, eventually, flag};

const SESSIONS: usize = 20;
/// The watchdog's time.
const LIMIT: Duration = Duration::from_secs(5);
/// What a busy machine may add to it between the server's silence and the client's last read before it.
const SLACK: Duration = Duration::from_secs(3);

fn name(n: usize) -> String {
    format!("session-{n}")
}

fn own(n: usize) -> String {
    format!("62833{n:07}")
}

fn contact(n: usize) -> String {
    format!("62844{n:07}")
}

/// What happened to sends, by status, and the ids that each status left behind.
#[derive(Default)]
struct Sends {
    by_status: BTreeMap<u16, u32>,
    /// Answered 200: at the contact once.
    sent: BTreeSet<(usize, String)>,
    /// Answered 504 with an id: at the contact once or not at all.
    unknown: BTreeSet<(usize, String)>,
}

/// Does one thing to a session's connection, or to whoever dials next.
async fn strike(gateway: &TestGateway, dice: &mut Dice, n: usize) -> &'static str {
    let simulator = &gateway.simulator;
    let number = own(n);
    let kick = async |how: Kick| {
        let device = simulator.devices(&number)[0].device;
        simulator.kick(&number, device, how).await;
    };
    let inject = |fault: Fault, times: u32| simulator.inject(fault.on(&number).times(times));
    match dice.below(13) {
        0 | 1 => {
            kick(Kick::Close).await;
            "drop"
        }
        2 | 3 => {
            kick(Kick::Silence).await;
            "stall"
        }
        4 => {
            kick(Kick::StreamError { code: 503 }).await;
            "503"
        }
        5 => {
            kick(Kick::StreamErrorOpen { code: 503 }).await;
            "503, left open"
        }
        6 => {
            kick(Kick::StreamError { code: 515 }).await;
            "515"
        }
        7 => {
            kick(Kick::Replaced).await;
            "replaced"
        }
        8 => {
            kick(Kick::Failure { code: 503 }).await;
            "login refused by 503"
        }
        9 => {
            inject(Fault::DelayAcks { delay: Duration::from_millis(400) }, 3);
            "slow acks"
        }
        10 => {
            inject(Fault::CloseOnMessage, 1);
            "drop before a message was routed"
        }
        11 => {
            inject(Fault::CloseOnAck, 1);
            "drop before an ack"
        }
        _ => {
            let fault = dice.pick(&[Fault::RefuseUpgrade, Fault::SilentAccept, Fault::DropConnections]).clone();
            simulator.inject(fault.times(1));
            "the next dial fails"
        }
    }
}

/// Sends texts of one session to its contact until the time is over.
async fn send(gateway: &TestGateway, n: usize, until: Instant, sends: &Mutex<Sends>) {
    let mut k = 0;
    while Instant::now() < until {
        k += 1;
        let answer = gateway.api.text(&name(n), &contact(n), &format!("out {n} {k}")).await;
        {
            let mut sends = sends.lock().unwrap();
            *sends.by_status.entry(answer.status).or_default() += 1;
            let id = answer.json()["data"]["key"]["id"].as_str().map(str::to_owned);
            match (answer.status, id) {
                (200, Some(id)) => assert!(sends.sent.insert((n, id)), "an id comes once"),
                (504, Some(id)) => assert!(sends.unknown.insert((n, id)), "an id comes once"),
                // Not sent, for certain: the contact is asked in the end.
                (409 | 502 | 504, None) => {}
                (status, _) => panic!("{status} {}", answer.body),
            }
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

/// Looks at the list until the time is over: whoever is shown as connected was heard of within the limit.
async fn watch(gateway: &TestGateway, until: Instant) -> u32 {
    let mut silent: HashMap<usize, (u64, Instant)> = HashMap::new();
    let mut looks = 0;
    while Instant::now() < until {
        for n in 0..SESSIONS {
            match gateway.simulator.silent_connection(&own(n)) {
                Some(link) if silent.get(&n).is_none_or(|(known, _)| *known != link) => {
                    silent.insert(n, (link, Instant::now()));
                }
                Some(_) => {}
                None => {
                    silent.remove(&n);
                }
            }
        }
        let asked = Instant::now();
        let list = gateway.api.get("/session").await.expect(200).json();
        for (n, (link, since)) in &silent {
            let row = list["data"].as_array().unwrap().iter().find(|row| row["session"] == name(*n).as_str()).unwrap();
            // Still the same connection: no new one has been made meanwhile.
            if row["status"] == "connected" && gateway.simulator.silent_connection(&own(*n)) == Some(*link) {
                let age = asked.duration_since(*since);
                assert!(age < LIMIT + SLACK, "{} is shown as connected over a socket dead for {age:?}", name(*n));
            }
        }
        looks += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    looks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_and_all_end_connected() {
    let (length, seed) = (flag("WA_GATEWAY_CHAOS_SECS", 15), flag("WA_GATEWAY_SEED", 4));
    let limit = LIMIT.as_secs().to_string();
    let settings = [("WATCHDOG_SECS", limit.as_str()), ("SEND_TIMEOUT_SECS", "8"), ("START_TIMEOUT_SECS", "30")];
    let gateway = TestGateway::start_with(Options::default(), &settings).await;
    for n in 0..SESSIONS {
        gateway.simulator.phone(&contact(n));
    }
    join_all((0..SESSIONS).map(async |n| drop(gateway.pair(&name(n), &own(n)).await))).await;

    let until = Instant::now() + Duration::from_secs(length);
    let sends = Mutex::new(Sends::default());
    let strikes = async {
        let mut dice = Dice::new(seed);
        let mut struck: BTreeMap<&str, u32> = BTreeMap::new();
        while Instant::now() < until {
            let n = dice.below(SESSIONS);
            *struck.entry(strike(&gateway, &mut dice, n).await).or_default() += 1;
            tokio::time::sleep(Duration::from_millis(40 + u64::try_from(dice.below(120)).unwrap())).await;
        }
        struck
    };
    let talk = join_all((0..SESSIONS).map(async |n| {
        let friend = gateway.simulator.phone(&contact(n));
        let speak = async {
            let mut said = Vec::new();
            while Instant::now() < until {
                said.push(friend.says(&own(n), &format!("in {n} {}", said.len())).await.unwrap());
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            said
        };
        tokio::join!(speak, send(&gateway, n, until, &sends)).0
    }));
    let (struck, said, looks) = tokio::join!(strikes, talk, watch(&gateway, until));
    gateway.simulator.clear_faults();
    let sends = sends.into_inner().unwrap();
    println!("seed {seed}, {length} s: struck {struck:?}; sends by status {:?}; {looks} looks", sends.by_status);

    // Two rounds of waiting: a connection that was stalled last is given up first.
    for n in 0..SESSIONS {
        let connected = async || gateway.api.status(&name(n)).await == "connected";
        eventually("nobody to be silent", || async {
            (gateway.simulator.silent_connection(&own(n)).is_none() && connected().await).then_some(())
        })
        .await;
        gateway.api.text(&name(n), &contact(n), "the last one").await.expect(200);
    }
    for (n, said) in said.iter().enumerate() {
        let missing = async || {
            let told = gateway.receiver.messages(&name(n));
            let told: BTreeSet<_> = told.iter().filter_map(|body| body["id"].as_str()).collect();
            said.iter().filter(|id| !told.contains(id.as_str())).cloned().collect::<Vec<_>>()
        };
        eventually(&format!("all {} messages of session {n}", said.len()), || async {
            missing().await.is_empty().then_some(())
        })
        .await;
        let told = gateway.receiver.messages(&name(n));
        let events: BTreeSet<_> =
            told.iter().map(|body| (body["id"].to_string(), body["event_id"].to_string())).collect();
        assert_eq!(events.len(), said.len(), "each message has one event id, and none is another session's");

        let friend = gateway.simulator.phone(&contact(n));
        let inbox = eventually("the last text at the contact", || async {
            Some(friend.inbox()).filter(|inbox| inbox.iter().any(|got| got.text.as_deref() == Some("the last one")))
        })
        .await;
        let mut times: BTreeMap<&str, u32> = BTreeMap::new();
        for got in &inbox {
            *times.entry(&got.id).or_default() += 1;
        }
        let doubled: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(doubled.is_empty(), "sent twice: {doubled:?}");
        let of = |ids: &BTreeSet<(usize, String)>| -> BTreeSet<String> {
            ids.iter().filter(|(session, _)| *session == n).map(|(_, id)| id.clone()).collect()
        };
        let (sent, unknown) = (of(&sends.sent), of(&sends.unknown));
        let lost: Vec<_> = sent.iter().filter(|id| !times.contains_key(id.as_str())).collect();
        assert!(lost.is_empty(), "answered 200 and not at the contact: {lost:?}");
        let final_text = inbox.iter().find(|got| got.text.as_deref() == Some("the last one")).unwrap();
        let unasked: Vec<_> = inbox
            .iter()
            .filter(|got| !sent.contains(&got.id) && !unknown.contains(&got.id) && got.id != final_text.id)
            .collect();
        assert!(unasked.is_empty(), "at the contact although the answer said that it was not sent: {unasked:?}");
    }
    let counters = gateway.simulator.counters();
    assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts), (0, 0));
    assert_eq!(counters.pairings, SESSIONS as u64, "nobody had to scan again");
    gateway.finish().await;
}
