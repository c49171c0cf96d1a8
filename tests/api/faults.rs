//! Every fault of the server, and what the status, the answer and the log then say.

use std::time::Duration;

use serde_json::json;
use whatsapp_simulator::{Fault, Kick, Simulator};

use super::support::{Process, Receiver, STEP, base_settings, eventually};

const NUMBER: &str = "6281234500031";
const FRIEND: &str = "6281234500032";

/// A gateway process with one connected session, whose log can be read.
struct Scene {
    simulator: Simulator,
    receiver: Receiver,
    process: Process,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let simulator = Simulator::start(whatsapp_simulator::Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut all = base_settings(&simulator, &receiver, folder.path());
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        simulator.phone(FRIEND);
        let process = Process::start(&all, folder.path()).await;
        let qr = process.api.qr("a").await;
        simulator.scan(&qr, NUMBER).await.unwrap();
        process.api.wait_status("a", "connected").await;
        Self { simulator, receiver, process, _folder: folder }
    }

    async fn kick(&self, how: Kick) {
        let device = self.simulator.devices(NUMBER)[0].device;
        self.simulator.kick(NUMBER, device, how).await;
    }

    async fn logs(&self, text: &str) {
        eventually(&format!("a log line with {text:?}"), || async { self.process.log().contains(text).then_some(()) })
            .await;
    }

    /// Waits for the `n`th line with this text.
    async fn says(&self, text: &str, n: usize) {
        eventually(&format!("line {n} with {text:?}"), || async {
            (self.process.log().matches(text).count() >= n).then_some(())
        })
        .await;
    }

    async fn works(&self) {
        self.process.api.wait_status("a", "connected").await;
        self.process.api.text("a", FRIEND, "works").await.expect(200);
        let friend = self.simulator.phone(FRIEND);
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("works"));
        friend.says(NUMBER, "and back").await.unwrap();
        self.receiver.message("a", "and back").await;
        let log = self.process.log();
        for secret in [NUMBER, FRIEND, "and back", super::support::KEY] {
            assert!(!log.contains(secret), "the log tells {secret:?}:\n{log}");
        }
        assert_eq!(self.simulator.counters().pairings, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abrupt_close_is_told_and_mended() {
    let scene = Scene::new(&[]).await;
    scene.simulator.inject(Fault::RefuseUpgrade);
    scene.kick(Kick::Close).await;
    scene.process.api.wait_status("a", "connecting").await;
    scene.process.api.text("a", FRIEND, "x").await.expect(409);
    scene.logs("can't reach WhatsApp").await;
    scene.simulator.clear_faults();
    scene.works().await;
    assert_eq!(
        scene.receiver.statuses("a")[..4],
        ["connecting", "connecting", "connected", "connecting"].map(str::to_owned)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_asked_for_again_does_not_wait_for_the_next_dial() {
    let scene = Scene::new(&[("START_TIMEOUT_SECS", "4")]).await;
    scene.simulator.inject(Fault::DropConnections);
    scene.process.api.start("b").await.expect(504);
    // The library dials after 1, 1, 2, 3, 5 s, and next after 8.
    scene.says("can't reach WhatsApp", 6).await;
    scene.simulator.clear_faults();
    scene.process.api.qr("b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_errors_lead_back_to_connected() {
    let scene = Scene::new(&[]).await;
    // The pairing itself ended one connection (515) and led to the first "connected".
    for (ends, code) in [(2, 503), (3, 515)] {
        let logins = scene.simulator.counters().logins;
        scene.kick(Kick::StreamError { code }).await;
        eventually("a new login", || async { (scene.simulator.counters().logins > logins).then_some(()) }).await;
        scene.process.api.wait_status("a", "connected").await;
        scene.says("the connection to WhatsApp ended", ends).await;
        scene.says("status=\"connected\"", ends).await;
    }
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_come_holds_nobody_up() {
    let scene = Scene::new(&[]).await;
    // Nothing of the account is synchronised, as where WhatsApp knows no name for it.
    let silent = scene.simulator.inject(Fault::DropAnswers { xmlns: "w:sync:app:state".to_owned() });
    let qr = scene.process.api.qr("b").await;
    scene.simulator.scan(&qr, "6281234500039").await.unwrap();
    scene.process.api.wait_status("b", "connected").await;
    scene.process.api.text("b", FRIEND, "nameless").await.expect(200);
    let log = scene.process.log();
    assert!(!log.contains("not all of the start-up sync"), "it did not have to be given up:\n{log}");
    scene.simulator.clear(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_end_at_once_are_not_tried_without_a_pause() {
    let scene = Scene::new(&[]).await;
    let fault = scene.simulator.inject(Fault::FailLogin { code: 515 });
    scene.kick(Kick::Close).await;
    // The library makes none after this code.
    scene.says("WhatsApp ends each connection at once", 3).await;
    assert_eq!(scene.process.api.status("a").await, "connecting");
    scene.simulator.clear(fault);
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_just_before_the_end_counts() {
    let scene = Scene::new(&[]).await;
    scene.works().await;
    for n in 0..5 {
        scene.simulator.inject(Fault::CloseAfterAck.on(NUMBER).times(1));
        scene.process.api.text("a", FRIEND, &format!("last {n}")).await.expect(200);
        scene.says("the connection to WhatsApp ended", n + 2).await;
        scene.process.api.wait_status("a", "connected").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_connection_waits_and_comes_back() {
    let scene = Scene::new(&[]).await;
    let logins = scene.simulator.counters().logins;
    scene.kick(Kick::Replaced).await;
    scene.process.api.wait_status("a", "connecting").await;
    scene.logs("Replaced").await;
    eventually("a new login", || async { (scene.simulator.counters().logins > logins).then_some(()) }).await;
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_logins_keep_the_credentials() {
    for (code, word) in [(403, "Locked"), (405, "Outdated"), (409, "Refused(409)"), (503, "status changed")] {
        let scene = Scene::new(&[]).await;
        let fault = scene.simulator.inject(Fault::RefuseLogin { code });
        scene.kick(Kick::Close).await;
        scene.process.api.wait_status("a", "connecting").await;
        scene.logs(word).await;
        scene.process.api.text("a", FRIEND, "x").await.expect(409);
        scene.simulator.clear(fault);
        // A start says that it exists, and makes it try at once.
        scene.process.api.start("a").await.expect(400);
        scene.works().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_401_and_device_removed_end_the_session() {
    for removed in [false, true] {
        let scene = Scene::new(&[]).await;
        if removed {
            scene.simulator.unlink(NUMBER, scene.simulator.devices(NUMBER)[0].device);
        } else {
            scene.kick(Kick::Failure { code: 401 }).await;
        }
        scene.process.api.wait_status("a", "disconnected").await;
        scene.receiver.last_status("a", "disconnected").await;
        scene.logs("logged out by WhatsApp, credentials removed").await;
        scene.process.api.text("a", FRIEND, "x").await.expect(409);
        let qr = scene.process.api.qr("a").await;
        scene.simulator.scan(&qr, NUMBER).await.unwrap();
        scene.process.api.wait_status("a", "connected").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_message_names_the_code() {
    let scene = Scene::new(&[]).await;
    let fault = scene.simulator.inject(Fault::NackMessages { code: 479 }.on(NUMBER));
    let answer = scene.process.api.text("a", FRIEND, "x").await.expect(502);
    assert!(answer.message().contains("479"), "{}", answer.body);
    scene.logs("request failed status=502 reason=\"WhatsApp refused").await;
    assert_eq!(scene.process.api.status("a").await, "connected");
    scene.simulator.clear(fault);
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_ack_is_told_with_the_message_id() {
    let scene = Scene::new(&[("SEND_TIMEOUT_SECS", "2")]).await;
    let fault = scene.simulator.inject(Fault::DropMessageAcks.on(NUMBER));
    let answer = scene.process.api.text("a", FRIEND, "is there").await.expect(504);
    let id = answer.json()["data"]["key"]["id"].as_str().unwrap().to_owned();
    let received = scene.simulator.phone(FRIEND).next_message(STEP).await.unwrap();
    assert_eq!((received.id, received.text.as_deref()), (id, Some("is there")));
    scene.logs("request failed status=504").await;
    assert_eq!(scene.process.api.status("a").await, "connected");
    scene.simulator.clear(fault);
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_during_a_send_is_told() {
    let scene = Scene::new(&[]).await;
    scene.simulator.inject(Fault::CloseOnMessage.on(NUMBER).times(1));
    let answer = scene.process.api.text("a", FRIEND, "lost").await.expect(504);
    assert!(answer.json()["data"]["key"]["id"].is_string(), "{}", answer.body);
    scene.logs("request failed status=504").await;
    scene.says("the connection to WhatsApp ended", 2).await;
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_a_send_has_one_answer() {
    let scene = Scene::new(&[("SEND_TIMEOUT_SECS", "6")]).await;
    let slow = Duration::from_millis(300);
    // Known to the gateway, so that the first faults meet the message itself and not the look-ups before it.
    scene.works().await;
    for (n, (fault, status, arrives)) in [
        (Fault::NackMessages { code: 463 }, 502, false),
        (Fault::NackMessages { code: 403 }, 502, false),
        (Fault::DropMessages, 504, false),
        (Fault::DropMessageAcks, 504, true),
        (Fault::CloseOnMessage, 504, false),
        (Fault::CloseOnAck, 504, true),
        (Fault::DelayAcks { delay: slow }, 200, true),
        (Fault::SlowAnswers { delay: slow }, 200, true),
        // The chat is known: nothing has to be looked up for it.
        (Fault::RefuseUsync, 200, true),
        (Fault::RefusePreKeys, 200, true),
        (Fault::DropAnswers { xmlns: "usync".to_owned() }, 200, true),
    ]
    .into_iter()
    .enumerate()
    {
        scene.process.api.wait_status("a", "connected").await;
        let injected = scene.simulator.inject(fault.clone().on(NUMBER));
        let text = format!("fault {n}");
        let answer = scene.process.api.text("a", FRIEND, &text).await;
        assert_eq!(answer.status, status, "{fault:?}: {}", answer.body);
        scene.simulator.clear(injected);
        // What comes after it has overtaken nothing: then it has arrived, or never will.
        scene.process.api.wait_status("a", "connected").await;
        let last = format!("after fault {n}");
        scene.process.api.text("a", FRIEND, &last).await.expect(200);
        let friend = scene.simulator.phone(FRIEND);
        let inbox = eventually("the text after the fault", || async {
            Some(friend.inbox()).filter(|inbox| inbox.iter().any(|got| got.text.as_deref() == Some(&last)))
        })
        .await;
        let times = inbox.iter().filter(|got| got.text.as_deref() == Some(&text)).count();
        assert_eq!(times, usize::from(arrives), "{fault:?}");
    }
    // Nothing is known of these: a look-up that fails counts as yes, and without its list the message goes to the phone.
    let strangers = ["6281234500033", "6281234500034"];
    for (fault, stranger, status) in
        [(Fault::RefuseUsync, strangers[0], 200), (Fault::RefusePreKeys, strangers[1], 502)]
    {
        let phone = scene.simulator.phone(stranger);
        let injected = scene.simulator.inject(fault.clone().on(NUMBER));
        let answer = scene.process.api.text("a", stranger, "first").await;
        assert_eq!(answer.status, status, "{fault:?}: {}", answer.body);
        scene.simulator.clear(injected);
        scene.process.api.text("a", stranger, "second").await.expect(200);
        let expected = if status == 200 { &["first", "second"][..] } else { &["second"] };
        for text in expected {
            assert_eq!(phone.next_message(STEP).await.unwrap().text.as_deref(), Some(*text), "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_can_not_be_looked_up_is_not_taken_for_unknown() {
    let scene = Scene::new(&[]).await;
    let stranger = "6281234500035";
    let phone = scene.simulator.phone(stranger);
    let target = format!("{stranger}@s.whatsapp.net");
    for code in [429, 500] {
        let injected = scene.simulator.inject(Fault::RefuseContacts { code }.on(NUMBER));
        let asked = scene.process.api.post("/profile", json!({ "session": "a", "target": target })).await;
        assert_eq!(asked.expect(502).message(), format!("WhatsApp refused the look-up with code {code}"));
        scene.process.api.text("a", stranger, "tried").await.expect(200);
        assert_eq!(phone.next_message(STEP).await.unwrap().text.as_deref(), Some("tried"));
        scene.simulator.clear(injected);
    }
    let injected = scene.simulator.inject(Fault::RefuseContacts { code: 404 }.on(NUMBER));
    let refused = scene.process.api.text("a", stranger, "never").await.expect(400);
    assert!(refused.body.contains("is not registered on WhatsApp"), "{}", refused.body);
    scene.simulator.clear(injected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_keys_fail_the_send_and_nothing_else() {
    let scene = Scene::new(&[]).await;
    let fault = scene.simulator.inject(Fault::RefusePreKeys.on(NUMBER));
    scene.process.api.text("a", FRIEND, "no keys").await.expect(502);
    scene.logs("request failed status=502").await;
    assert_eq!(scene.process.api.status("a").await, "connected");
    scene.simulator.clear(fault);
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_are_waited_for_and_silence_is_noticed() {
    let scene = Scene::new(&[]).await;
    let fault = scene.simulator.inject(Fault::SlowAnswers { delay: Duration::from_millis(700) }.on(NUMBER));
    scene.process.api.text("a", FRIEND, "slow").await.expect(200);
    assert_eq!(scene.simulator.phone(FRIEND).next_message(STEP).await.unwrap().text.as_deref(), Some("slow"));
    scene.simulator.clear(fault);
    assert!(!scene.process.log().contains("request failed"), "slowness is no failure:\n{}", scene.process.log());
    scene.kick(Kick::Silence).await;
    scene.process.api.text("a", FRIEND, "into silence").await.expect(504);
    scene.logs("request failed status=504").await;
    scene.logs("WhatsApp does not answer: connecting anew").await;
    // The library notices within 20 s of a send without an answer, and dials again.
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_never_answers_is_told() {
    let scene = Scene::new(&[("START_TIMEOUT_SECS", "1")]).await;
    let fault = scene.simulator.inject(Fault::SilentAccept);
    let answer = scene.process.api.start("b").await.expect(504);
    assert!(answer.message().contains("did not answer in time"), "{}", answer.body);
    scene.logs("request failed status=504").await;
    scene.process.api.wait_status("b", "connecting").await;
    scene.process.api.delete("b").await.expect(200);
    scene.simulator.clear(fault);
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_without_an_account_is_refused() {
    let scene = Scene::new(&[]).await;
    let answer = scene.process.api.text("a", "6289999999999", "x").await.expect(400);
    assert!(answer.message().contains("6289999999999"), "{}", answer.body);
    let answer = scene.process.api.post("/message/send-text", json!({"session": "b", "to": FRIEND, "text": "x"})).await;
    assert_eq!(answer.expect(400).message(), "Session does not exist");
    scene.works().await;
}
