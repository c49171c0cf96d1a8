//! redis-server killed, and now and then stopped in order, in the middle of each verb that changes a session: pairing, a
//! send to a group, a send of a file, logout and delete. Each is struck before it begins, where it waits for WhatsApp, and
//! at moments spread over its time.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use whatsapp_simulator::{Fault, Phone};

use super::{FRIEND, NUMBER};
use crate::redis_server::RedisServer;
use crate::support::{Answer, STEP, Store, TestGateway, eventually};

/// Ends of Redis within each verb.
const KILLS: u32 = 6;
/// How long WhatsApp's answer is held back where the kill shall come before it.
const HELD: Duration = Duration::from_millis(1500);

/// Where a kill strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Before,
    /// While WhatsApp's answer is awaited.
    Held,
    /// After so long.
    After(Duration),
}

impl Window {
    /// Whether the verb needs Redis once more while it is surely away: in these rounds it stays away until the answer.
    fn is_sure(self, round: u32) -> bool {
        round.is_multiple_of(2) && matches!(self, Self::Before | Self::Held)
    }

    fn of(round: u32, most: Duration) -> Self {
        match round {
            0 => Self::Before,
            1 | 2 => Self::Held,
            // 1/10, 8/10, 5/10 …: spread over the time, the same in each run.
            _ => Self::After(most.mul_f64(f64::from(round * 7 % 10) / 10.0)),
        }
    }

    /// Waits for the window; `reached`: whether WhatsApp was asked.
    async fn wait(self, reached: impl Fn() -> bool) {
        match self {
            Self::Before => {}
            Self::Held => eventually("WhatsApp to be asked", || async { reached().then_some(()) }).await,
            Self::After(moment) => tokio::time::sleep(moment).await,
        }
    }
}

/// Runs the verb, ends Redis in the window, and brings it back: at once in odd rounds, else when the verb has ended. Two of
/// three ends are kills.
async fn killed<T>(
    redis: &mut Option<RedisServer>,
    round: u32,
    verb: impl Future<Output = T>,
    window: impl Future<Output = ()>,
) -> T {
    let redis = redis.as_mut().unwrap();
    let mut verb = std::pin::pin!(verb);
    let early = tokio::select! {
        biased;
        () = window => None,
        ended = &mut verb => Some(ended),
    };
    if round % 3 == 2 {
        redis.terminate();
    } else {
        redis.kill();
    }
    if !round.is_multiple_of(2) {
        redis.restart();
    }
    let ended = match early {
        Some(ended) => ended,
        None => verb.await,
    };
    if round.is_multiple_of(2) {
        redis.restart();
    }
    ended
}

/// Whether it was done; what else may be answered while the store goes away and comes back is a refusal that says so.
fn is_done(answer: &Answer) -> bool {
    assert!(matches!(answer.status, 200 | 409 | 502..=504), "{} {}", answer.status, answer.body);
    answer.status == 200
}

/// No key was used twice, by any account of ours to any contact.
fn check(gateway: &TestGateway, contacts: &[Phone]) {
    let counters = gateway.simulator.counters();
    assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts), (0, 0), "{counters:?}");
    for contact in contacts {
        assert_eq!(contact.repeated_keys(), 0);
    }
}

async fn has_read(phone: &Phone, text: &str) {
    eventually(&format!("{text:?} at a contact"), || async {
        phone.inbox().iter().any(|message| message.text.as_deref() == Some(text)).then_some(())
    })
    .await;
}

/// The code of a session that nobody has linked; the store may still be on its way back.
async fn begin(gateway: &TestGateway) -> String {
    eventually("a code", || async {
        let started = gateway.api.start("a").await;
        assert!(matches!(started.status, 200 | 503), "{} {}", started.status, started.body);
        started.json()["qr"].as_str().map(str::to_owned)
    })
    .await
}

async fn pair(gateway: &TestGateway) {
    let code = begin(gateway).await;
    gateway.simulator.scan(&code, NUMBER).await.unwrap();
    gateway.api.wait_status("a", "connected").await;
}

/// Both ways still work, on whatever ratchets are left.
async fn talk(gateway: &TestGateway, round: u32) {
    let friend = gateway.simulator.phone(FRIEND);
    let out = format!("after kill {round}");
    eventually("the session to send again", || async {
        is_done(&gateway.api.text("a", FRIEND, &out).await).then_some(())
    })
    .await;
    has_read(&friend, &out).await;
    let back = format!("back after kill {round}");
    friend.says(NUMBER, &back).await.unwrap();
    gateway.receiver.message("a", &back).await;
    check(gateway, &[friend]);
}

/// The store holds nothing of any session, and WhatsApp no device of ours.
async fn is_gone_without_a_trace(gateway: &TestGateway) {
    gateway.receiver.last_status("a", "disconnected").await;
    let redis = gateway.redis.as_ref().unwrap();
    // What belongs to the gateway itself stays: the registry's own rows, and what readiness tries writes with.
    let own =
        ["registry", "probe", "wa-gateway:values:registry", "wa-gateway:values:probe", "sequence", "login-secret"];
    let rows = || {
        let asked = [
            &["SMEMBERS", "wa-gateway:namespaces"][..],
            &["KEYS", "wa-gateway:values:*"],
            &["HKEYS", "wa-gateway:values:registry"],
        ];
        let told = asked.map(|command| redis.ask(command)).join("\n");
        told.lines().filter(|row| !own.contains(row)).map(str::to_owned).collect::<Vec<_>>()
    };
    let empty = tokio::time::timeout(STEP, async {
        loop {
            if rows().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(empty.await.is_ok(), "something is left: {:?}", rows());
}

async fn is_unlinked(gateway: &TestGateway) {
    eventually("WhatsApp to have no device of ours", || async {
        gateway.simulator.devices(NUMBER).is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_pairing() {
    let mut gateway = TestGateway::over(Store::Redis).await;
    let mut scans: BTreeMap<u64, u32> = BTreeMap::new();
    // WhatsApp keeps a device whose keys were on their way to Redis; only its phone can remove it.
    let mut lost = 0;
    for round in 0..KILLS {
        let qr = begin(&gateway).await;
        let (simulator, before) = (&gateway.simulator, gateway.simulator.counters().pairings);
        let window = Window::of(round, Duration::from_millis(150));
        let wait = window.wait(|| simulator.counters().pairings > before);
        let _scanned = killed(&mut gateway.redis, round, simulator.scan(&qr, NUMBER), wait).await;
        // Linked, or it shows a code again: whoever scans that links it.
        eventually("the session to be linked in the end", || async {
            if gateway.api.status("a").await == "connected" {
                return Some(());
            }
            let started = gateway.api.start("a").await;
            if let Some(code) = started.json()["qr"].as_str() {
                let _may_be_an_old_one = gateway.simulator.scan(code, NUMBER).await;
            }
            None
        })
        .await;
        let took = gateway.simulator.counters().pairings - before;
        *scans.entry(took).or_default() += 1;
        lost += usize::try_from(took).unwrap() - 1;
        talk(&gateway, round).await;
        gateway.api.delete("a").await.expect(200);
        is_gone_without_a_trace(&gateway).await;
        eventually("WhatsApp to have no other device of ours", || async {
            (gateway.simulator.devices(NUMBER).len() == lost).then_some(())
        })
        .await;
    }
    println!("rounds by the scans that each took: {scans:?}");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_sends_to_a_group() {
    const MEMBERS: [&str; 3] = ["6281234500093", "6281234500094", "6281234500095"];
    let mut gateway = TestGateway::over(Store::Redis).await;
    gateway.pair("a", NUMBER).await;
    let members: Vec<_> = MEMBERS.iter().map(|number| gateway.simulator.phone(number)).collect();
    let everybody: Vec<_> = MEMBERS.into_iter().chain([NUMBER]).collect();
    // The second half of the kills meets a group whose sender key is known already.
    let mut group = String::new();
    for round in 0..2 * KILLS {
        if round <= KILLS {
            group = gateway.simulator.create_group(&format!("Toko {round}"), &everybody, round % 2 == 0);
        }
        let window = Window::of(round % KILLS, Duration::from_millis(300));
        let hold = (window == Window::Held).then(|| Fault::DelayAcks { delay: HELD }.on(NUMBER));
        let hold = hold.map(|fault| gateway.simulator.inject(fault));
        let texts: Vec<_> = (0..4).map(|n| format!("group {round} {n}")).collect();
        let sends = futures::future::join_all(texts.iter().map(|text| gateway.api.text("a", &group, text)));
        let (simulator, before) = (&gateway.simulator, gateway.simulator.counters().messages_in);
        let wait = window.wait(|| simulator.counters().messages_in > before);
        let answers = killed(&mut gateway.redis, round, sends, wait).await;
        if let Some(hold) = hold {
            gateway.simulator.clear(hold);
        }
        let last = format!("group after kill {round}");
        eventually("the group to be written to again", || async {
            is_done(&gateway.api.text("a", &group, &last).await).then_some(())
        })
        .await;
        let sent = texts.iter().zip(&answers).filter(|(_, answer)| is_done(answer)).map(|(text, _)| text);
        for text in sent.chain([&last]) {
            for member in &members {
                has_read(member, text).await;
            }
        }
        assert!(window != Window::Before || answers.iter().all(|answer| answer.status != 200), "{answers:?}");
        check(&gateway, &members);
    }
    let said = members[0].says(&group, "an answer").await.unwrap();
    assert_eq!(gateway.receiver.message("a", "an answer").await["id"], said.as_str());
    gateway.restart().await;
    gateway.api.wait_status("a", "connected").await;
    gateway.api.text("a", &group, "after the restart").await.expect(200);
    for member in &members {
        has_read(member, "after the restart").await;
    }
    check(&gateway, &members);
    assert_eq!(gateway.simulator.counters().pairings, 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_sends_of_files() {
    let mut gateway = TestGateway::over(Store::Redis).await;
    gateway.pair("a", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    for round in 0..KILLS {
        let window = Window::of(round, Duration::from_millis(300));
        let hold = (window == Window::Held).then(|| gateway.simulator.inject(Fault::SlowMedia { delay: HELD }));
        let file = |n: u32| format!("%PDF-1.4 {round} {n} {}", "x".repeat(70_000)).into_bytes();
        let send = async |n: u32| {
            let body = json!({
                "session": "a", "to": FRIEND, "text": "", "document_name": "a.pdf", "document_base64": STANDARD.encode(file(n)),
            });
            gateway.api.post("/message/send-document", body).await
        };
        let (simulator, before) = (&gateway.simulator, gateway.simulator.counters().faults_hit);
        // Each of the three uploads is under way.
        let wait = window.wait(|| simulator.counters().faults_hit == before + 3);
        let sends = futures::future::join_all((0..3).map(&send));
        let answers = killed(&mut gateway.redis, round, sends, wait).await;
        if let Some(hold) = hold {
            gateway.simulator.clear(hold);
        }
        assert!(!window.is_sure(round) || answers.iter().all(|answer| answer.status != 200), "{answers:?}");
        let again = eventually("a file to be sent again", || async {
            let answer = send(9).await;
            is_done(&answer).then_some(answer)
        })
        .await;
        let done = (0..).zip(&answers).filter(|(_, answer)| is_done(answer)).chain([(9, &again)]);
        for (n, answer) in done {
            let id = answer.json()["data"]["key"]["id"].as_str().unwrap().to_owned();
            let got = eventually("a file at the contact", || async {
                friend.inbox().into_iter().find(|message| message.id == id)
            })
            .await;
            assert!(friend.download(&got).unwrap() == file(n), "a file arrived changed");
        }
        talk(&gateway, round).await;
    }
    gateway.restart().await;
    gateway.api.wait_status("a", "connected").await;
    talk(&gateway, u32::MAX).await;
    assert_eq!(gateway.simulator.counters().pairings, 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_logout() {
    let mut gateway = TestGateway::over(Store::Redis).await;
    for round in 0..KILLS {
        pair(&gateway).await;
        talk(&gateway, round).await;
        let answer =
            ended(&mut gateway, round, async |api| api.post("/session/logout", json!({ "session": "a" })).await).await;
        if answer.status != 200 {
            // It was refused before anything was done, or all but the last was.
            eventually("a further logout to be done", || async {
                let again = gateway.api.post("/session/logout", json!({ "session": "a" })).await;
                assert!(matches!(again.status, 200 | 503), "{} {}", again.status, again.body);
                (again.status == 200).then_some(())
            })
            .await;
        }
        // The list says so; the event is lost when the store was away just then.
        gateway.api.wait_status("a", "disconnected").await;
        is_unlinked(&gateway).await;
        if round + 1 == KILLS {
            gateway.restart().await;
            gateway.api.wait_status("a", "disconnected").await;
        }
        begin(&gateway).await;
        gateway.api.delete("a").await.expect(200);
        is_gone_without_a_trace(&gateway).await;
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_delete() {
    let mut gateway = TestGateway::over(Store::Redis).await;
    for round in 0..KILLS {
        pair(&gateway).await;
        talk(&gateway, round).await;
        let answer = ended(&mut gateway, round, async |api| api.delete("a").await).await;
        // Listed still: nothing was done, and a further one does it. Else it is finished without anybody asking again.
        if gateway.api.status("a").await != "absent" {
            assert_eq!(answer.status, 503);
            eventually("a further delete to be done", || async {
                let again = gateway.api.delete("a").await;
                assert!(matches!(again.status, 200 | 404 | 503), "{} {}", again.status, again.body);
                (again.status != 503).then_some(())
            })
            .await;
        }
        assert_eq!(gateway.api.status("a").await, "absent");
        is_gone_without_a_trace(&gateway).await;
        is_unlinked(&gateway).await;
    }
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.pair("a", NUMBER).await;
    talk(&gateway, u32::MAX).await;
    gateway.finish().await;
}

/// Runs a verb that unlinks the session, and kills Redis in the round's window.
async fn ended(gateway: &mut TestGateway, round: u32, verb: impl AsyncFnOnce(crate::support::Api) -> Answer) -> Answer {
    let window = Window::of(round, Duration::from_millis(60));
    let hold = (window == Window::Held).then(|| Fault::SlowAnswers { delay: HELD }.on(NUMBER));
    let hold = hold.map(|fault| gateway.simulator.inject(fault));
    let (simulator, before) = (&gateway.simulator, gateway.simulator.counters().unlinks);
    let wait = window.wait(|| simulator.counters().unlinks > before);
    let answer = killed(&mut gateway.redis, round, verb(gateway.api.clone()), wait).await;
    if let Some(hold) = hold {
        gateway.simulator.clear(hold);
    }
    assert!(matches!(answer.status, 200 | 503), "{} {}", answer.status, answer.body);
    assert!(!window.is_sure(round) || answer.status == 503, "{} {}", answer.status, answer.body);
    answer
}
