//! SIGKILL in counted windows: the store always opens, each session is whole or gone, no key is used twice, nothing that
//! was committed is lost.
//!
//! `WA_GATEWAY_KILLS` sets the number of kills in each window (5 unless told otherwise).

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use wa_gateway::store::Kv as _;
use wa_gateway::store::sled::SledStore;
use whatsapp_simulator::{Fault, Options, Phone, Simulator};

use super::support::{Process, Receiver, STEP, base_settings, eventually};

const NUMBER: &str = "6281234500061";
const FRIEND: &str = "6281234500062";
const OTHER: &str = "6281234500063";

/// How many kills each window gets.
fn kills() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a flag of the test run, not a setting of the gateway")]
    std::env::var("WA_GATEWAY_KILLS").ok().map_or(5, |kills| kills.parse().unwrap())
}

struct Victim {
    simulator: Simulator,
    receiver: Receiver,
    folder: TempDir,
    settings: Vec<(String, String)>,
    process: Process,
}

impl Victim {
    async fn new() -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let settings = base_settings(&simulator, &receiver, folder.path());
        simulator.phone(FRIEND);
        let process = Process::start(&settings, folder.path()).await;
        Self { simulator, receiver, folder, settings, process }
    }

    async fn pair(&self) {
        let qr = self.process.api.qr("a").await;
        self.simulator.scan(&qr, NUMBER).await.unwrap();
        self.process.api.wait_status("a", "connected").await;
    }

    async fn kill_and_restart(&mut self) {
        self.process.kill();
        self.process = Process::start(&self.settings, self.folder.path()).await;
    }

    fn friend(&self) -> Phone {
        self.simulator.phone(FRIEND)
    }

    /// The promises that hold after every kill.
    fn check(&self) {
        let counters = self.simulator.counters();
        assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts), (0, 0), "a key was used twice");
        assert_eq!(self.friend().repeated_keys(), 0);
    }

    /// Waits until a session that came back is connected or logged out.
    async fn whole_or_gone(&self) -> String {
        let settled = tokio::time::timeout(STEP, async {
            loop {
                let status = self.process.api.status("a").await;
                if status != "connecting" {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        settled.await.unwrap_or_else(|_elapsed| {
            panic!("half a session:\n{}\n{:?}", self.process.log(), self.simulator.devices(NUMBER))
        })
    }

    /// The ids of messages that the receiver has.
    fn told(&self) -> BTreeSet<String> {
        self.receiver.messages("a").iter().filter_map(|body| body["id"].as_str().map(str::to_owned)).collect()
    }

    /// The ids of messages that are on disk or were delivered; only while no gateway runs.
    async fn committed(&self) -> BTreeSet<String> {
        let mut ids = self.told();
        let store = SledStore::open(&self.folder.path().join("wa_credentials/store")).unwrap();
        for namespace in store.namespaces().await.unwrap() {
            if !namespace.as_str().starts_with("outbox:") {
                continue;
            }
            for (_key, value) in store.snapshot(&namespace).await.unwrap() {
                let value = String::from_utf8_lossy(&value);
                // The body's own member is the last: the head before it has the event id under the same name.
                if let Some((_before, rest)) = value.rsplit_once("\"id\":\"") {
                    ids.insert(rest.split('"').next().unwrap_or_default().to_owned());
                }
            }
        }
        ids
    }

    /// Waits until a phone lists no companion any more.
    async fn unlinked(&self, number: &str) {
        eventually("WhatsApp to have been told", || async { self.simulator.devices(number).is_empty().then_some(()) })
            .await;
    }

    /// The namespaces with credentials; only while no gateway runs.
    async fn credentials(&self) -> Vec<String> {
        let store = SledStore::open(&self.folder.path().join("wa_credentials/store")).unwrap();
        let all = store.namespaces().await.unwrap().into_iter().map(|namespace| namespace.as_str().to_owned());
        all.filter(|namespace| namespace.starts_with("credentials:")).collect()
    }

    /// Both ways still work, on whatever ratchets are left.
    async fn talk(&self, round: u32) {
        self.process.api.wait_status("a", "connected").await;
        let text = format!("after kill {round}");
        self.process.api.text("a", FRIEND, &text).await.expect(200);
        eventually(&format!("the contact to read {text:?}"), || async {
            self.friend().inbox().iter().any(|message| message.text.as_deref() == Some(&text)).then_some(())
        })
        .await;
        let back = format!("back after kill {round}");
        self.friend().says(NUMBER, &back).await.unwrap();
        self.receiver.message("a", &back).await;
        self.check();
    }
}

/// How often companions asked to be unlinked.
fn asked_to_unlink(simulator: &Simulator) -> u64 {
    simulator.counters().queries.get("md").copied().unwrap_or(0)
}

/// Waits until so many have asked.
async fn wait_asked(simulator: &Simulator, times: u64) {
    eventually("WhatsApp to be asked", || async { (asked_to_unlink(simulator) >= times).then_some(()) }).await;
}

/// A moment between nothing and `most`, another one each round.
async fn moment(round: u32, most: Duration) {
    // 0, 7/10, 4/10, 1/10, 8/10 …: spread over the window, the same in each run.
    tokio::time::sleep(most.mul_f64(f64::from(round * 7 % 10) / 10.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_pairing() {
    let mut victim = Victim::new().await;
    let mut windows = 0;
    for round in 0..kills() {
        let qr = victim.process.api.qr("a").await;
        let scanning = victim.simulator.scan(&qr, NUMBER);
        tokio::select! {
            _scanned = scanning => moment(round, Duration::from_millis(150)).await,
            () = moment(round, Duration::from_millis(60)) => {}
        }
        victim.kill_and_restart().await;
        windows += 1;
        // Gone: a new start gives a new code. Whole: it comes back without a scan. Or the phone never heard of it:
        // WhatsApp says so, and it is logged out.
        if victim.process.api.status("a").await != "absent" {
            if victim.whole_or_gone().await == "connected" {
                victim.talk(round).await;
            }
            victim.process.api.delete("a").await.expect(200);
        }
        // No device is left at the phone that nobody here has.
        victim.unlinked(NUMBER).await;
    }
    victim.pair().await;
    victim.talk(u32::MAX).await;
    assert_eq!(windows, kills());
}

/// Where the kills have struck messages on their way in.
#[derive(Debug, Default)]
struct Windows {
    before_commit: u32,
    between_commit_and_ack: u32,
    after_ack: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn around_the_commit_of_received_messages() {
    const CHATS: usize = 5;
    const TEXTS: usize = 6;
    let mut victim = Victim::new().await;
    victim.pair().await;
    let friends: Vec<_> = (0..CHATS).map(|n| victim.simulator.phone(&format!("628999{n}"))).collect();
    let mut windows = Windows::default();
    let mut sent = BTreeSet::new();
    let most = 20 + 20 * kills();
    for round in 0..most {
        if windows.before_commit.min(windows.between_commit_and_ack).min(windows.after_ack) >= kills() {
            break;
        }
        let burst = futures::future::join_all(friends.iter().enumerate().map(|(chat, friend)| async move {
            let mut said = Vec::new();
            for text in 0..TEXTS {
                said.push(friend.says(NUMBER, &format!("message {round} {chat} {text}")).await.unwrap());
            }
            said
        }));
        let (said, ()) = tokio::join!(burst, async {
            moment(round, Duration::from_millis(50)).await;
            victim.process.kill();
        });
        let said: BTreeSet<_> = said.into_iter().flatten().collect();
        eventually("the server to see the connection end", || async {
            victim.simulator.devices(NUMBER).iter().all(|device| !device.online).then_some(())
        })
        .await;
        let unacknowledged: BTreeSet<_> = victim.simulator.unacknowledged(NUMBER).into_iter().collect();
        let committed = victim.committed().await;
        let lost: Vec<_> = said.iter().filter(|id| !committed.contains(*id) && !unacknowledged.contains(*id)).collect();
        assert!(lost.is_empty(), "told WhatsApp of messages that are not on disk: {lost:?}");
        let hit = |window: bool| u32::from(window);
        windows.before_commit += hit(said.iter().any(|id| !committed.contains(id)));
        windows.between_commit_and_ack +=
            hit(said.iter().any(|id| committed.contains(id) && unacknowledged.contains(id)));
        windows.after_ack += hit(said.iter().any(|id| committed.contains(id) && !unacknowledged.contains(id)));
        sent.extend(said);
        victim.process = Process::start(&victim.settings, victim.folder.path()).await;
        victim.talk(round).await;
        eventually("every message at the receiver", || async { sent.is_subset(&victim.told()).then_some(()) }).await;
    }
    println!("kills by window: {windows:?}");
    let fewest = windows.before_commit.min(windows.between_commit_and_ack).min(windows.after_ack);
    assert!(fewest >= kills(), "not every window was struck {} times: {windows:?}", kills());
    // Twice is allowed after a kill, but then under one event id.
    let mut ids = BTreeSet::new();
    for body in victim.receiver.messages("a") {
        ids.insert((body["id"].to_string(), body["event_id"].to_string()));
    }
    let messages: BTreeSet<_> = ids.iter().map(|(id, _event)| id).collect();
    assert_eq!(ids.len(), messages.len(), "a message was told under two event ids");
    assert_eq!(victim.simulator.counters().repeated_counters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_the_commit_and_its_delivery() {
    let mut victim = Victim::new().await;
    victim.pair().await;
    victim.receiver.last_status("a", "connected").await;
    let mut sent = Vec::new();
    for round in 0..kills() {
        // A status that is refused would hold up what comes after it.
        victim.process.api.wait_status("a", "connected").await;
        eventually("the status events of this round", || async {
            let told = victim.receiver.statuses("a");
            // Pairing tells three, each restart two.
            (told.len() >= 3 + 2 * usize::try_from(round).unwrap() && told.last()? == "connected").then_some(())
        })
        .await;
        victim.receiver.answer(503);
        let text = format!("held {round}");
        victim.friend().says(NUMBER, &text).await.unwrap();
        sent.push(text.clone());
        eventually("the committed message to be tried", || async {
            victim.receiver.hooks().iter().any(|hook| hook.body["message"] == text.as_str()).then_some(())
        })
        .await;
        victim.process.kill();
        victim.receiver.answer(200);
        victim.process = Process::start(&victim.settings, victim.folder.path()).await;
        victim.receiver.message("a", &text).await;
    }
    victim.talk(u32::MAX).await;
    let mut told: Vec<_> = victim
        .receiver
        .messages("a")
        .iter()
        .filter_map(|body| body["message"].as_str().map(str::to_owned))
        .filter(|text| text.starts_with("held"))
        .collect();
    told.dedup();
    assert_eq!(told, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_send() {
    let mut victim = Victim::new().await;
    victim.pair().await;
    victim.talk(u32::MAX).await;
    for round in 0..kills() {
        victim.simulator.inject(Fault::DelayAcks { delay: Duration::from_millis(100) }.on(NUMBER));
        let sends = (0..4).map(|n| {
            let api = victim.process.api.clone();
            async move {
                let body = json!({"session": "a", "to": FRIEND, "text": format!("send {round} {n}")});
                api.try_send(reqwest::Method::POST, "/message/send-text", Some(body)).await.is_ok()
            }
        });
        tokio::select! {
            _all = futures::future::join_all(sends) => {}
            () = moment(round, Duration::from_millis(900)) => {}
        }
        victim.simulator.clear_faults();
        victim.kill_and_restart().await;
        victim.talk(round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_a_delete() {
    let mut victim = Victim::new().await;
    for round in 0..kills() {
        victim.pair().await;
        let api = victim.process.api.clone();
        tokio::select! {
            _deleted = api.try_send(reqwest::Method::DELETE, "/session/a", None) => {}
            () = moment(round, Duration::from_millis(60)) => {}
        }
        victim.kill_and_restart().await;
        // Not gone: the kill came before the mark, or WhatsApp was told and the store was not: whole, or logged out.
        if victim.process.api.status("a").await != "absent" {
            victim.whole_or_gone().await;
            victim.process.api.delete("a").await.expect(200);
        }
        assert_eq!(victim.process.api.status("a").await, "absent");
        victim.unlinked(NUMBER).await;
        victim.check();
    }
    victim.pair().await;
    victim.talk(u32::MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_a_logout() {
    let mut victim = Victim::new().await;
    for round in 0..kills() {
        victim.pair().await;
        // WhatsApp takes its time: the mark is made, and the device is still linked.
        let deaf = victim.simulator.inject(Fault::DropAnswers { xmlns: "md".to_owned() }.on(NUMBER));
        let (api, before) = (victim.process.api.clone(), asked_to_unlink(&victim.simulator));
        let session = Some(json!({ "session": "a" }));
        tokio::select! {
            out = api.try_send(reqwest::Method::POST, "/session/logout", session) => panic!("it was not asked: {out:?}"),
            () = wait_asked(&victim.simulator, before + 1) => moment(round, Duration::from_millis(60)).await,
        }
        victim.process.kill();
        victim.simulator.clear(deaf);
        assert_eq!(victim.simulator.devices(NUMBER).len(), 1);
        victim.process = Process::start(&victim.settings, victim.folder.path()).await;
        assert_eq!(victim.process.api.status("a").await, "disconnected");
        if round % 2 == 0 {
            victim.unlinked(NUMBER).await;
            victim.process.says("finishing a logout").await;
        } else {
            // A start meanwhile waits for it: a new device, and a scan.
            victim.process.api.qr("a").await;
            assert!(victim.simulator.devices(NUMBER).is_empty());
            victim.process.api.post("/session/logout", json!({ "session": "a" })).await.expect(200);
        }
        assert_eq!(victim.process.api.status("a").await, "disconnected");
        assert!(victim.process.terminate().await.success());
        assert_eq!(victim.credentials().await, Vec::<String>::new());
        victim.process = Process::start(&victim.settings, victim.folder.path()).await;
        assert_eq!(victim.process.api.status("a").await, "disconnected");
        victim.check();
    }
    victim.pair().await;
    victim.talk(u32::MAX).await;
}

/// A stop leaves to the next start what WhatsApp was not told of, however often it comes too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_before_the_unlinking_leaves_no_device_behind() {
    let mut victim = Victim::new().await;
    victim.pair().await;
    let qr = victim.process.api.qr("b").await;
    victim.simulator.scan(&qr, OTHER).await.unwrap();
    victim.process.api.wait_status("b", "connected").await;
    victim.simulator.inject(Fault::DropAnswers { xmlns: "md".to_owned() });
    let (api, before) = (victim.process.api.clone(), asked_to_unlink(&victim.simulator));
    let (simulator, process) = (&victim.simulator, &mut victim.process);
    let session = Some(json!({ "session": "a" }));
    let (out, deleted, stopped) = tokio::join!(
        api.try_send(reqwest::Method::POST, "/session/logout", session),
        api.try_send(reqwest::Method::DELETE, "/session/b", None),
        async {
            wait_asked(simulator, before + 2).await;
            process.terminate().await
        }
    );
    assert!(stopped.success());
    for answer in [out, deleted] {
        let answer = answer.unwrap().expect(503);
        assert!(answer.message().ends_with("its next start finishes this"), "{}", answer.body);
    }
    // Nor is there time at the next start.
    let away = victim.simulator.inject(Fault::SilentAccept);
    victim.process = Process::start(&victim.settings, victim.folder.path()).await;
    assert!(victim.process.terminate().await.success());
    assert_eq!(victim.credentials().await.len(), 2);
    victim.simulator.clear(away);
    victim.simulator.clear_faults();
    victim.process = Process::start(&victim.settings, victim.folder.path()).await;
    assert_eq!(victim.process.api.status("a").await, "disconnected");
    assert_eq!(victim.process.api.status("b").await, "absent");
    victim.unlinked(NUMBER).await;
    victim.unlinked(OTHER).await;
    for told in ["finishing a logout", "finishing a deletion"] {
        victim.process.says(told).await;
    }
    assert!(victim.process.terminate().await.success());
    assert_eq!(victim.credentials().await, Vec::<String>::new());
    victim.check();
}

/// A contact's message that answers ours replaces the chain that is sent with. What is sent with the new one, at once, is
/// understood after a kill, and so is what the contact says next: nothing has to be sent once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_after_an_answer_to_an_answer() {
    let mut victim = Victim::new().await;
    victim.pair().await;
    let retries = |victim: &Victim| victim.simulator.counters().retries.values().sum::<u64>();
    for round in 0..kills() {
        let before = retries(&victim);
        for turn in 0..2 {
            let question = format!("question {round}.{turn}");
            victim.friend().says(NUMBER, &question).await.unwrap();
            at_once(&victim, &question).await;
            victim.process.api.text("a", FRIEND, &format!("answer {round}.{turn}")).await.expect(200);
            if turn == 0 {
                // Let the library store what it stores a moment later.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        victim.process.kill();
        victim.friend().says(NUMBER, &format!("and then {round}")).await.unwrap();
        victim.process = Process::start(&victim.settings, victim.folder.path()).await;
        victim.receiver.message("a", &format!("and then {round}")).await;
        victim.talk(round).await;
        assert_eq!(retries(&victim), before, "round {round}: {:?}", victim.simulator.counters().retries);
    }
}

/// Waits for a message as `Receiver::message` does, but looks each millisecond.
async fn at_once(victim: &Victim, text: &str) {
    let looking = async {
        while !victim.receiver.messages("a").iter().any(|body| body["message"] == text) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(STEP, looking).await.unwrap_or_else(|_elapsed| panic!("{text:?} did not come"));
}
