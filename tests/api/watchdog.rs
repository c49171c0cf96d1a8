//! The watchdog: whatever a server leaves unanswered ends by a deadline and is tried again; and what a session's detail
//! says meanwhile.

use std::time::Duration;

use serde_json::Value;
use whatsapp_simulator::{Fault, Kick, Options};

use super::support::{STEP, TestGateway, eventually};

const NUMBER: &str = "6281234500421";
const FRIEND: &str = "6281234500422";
/// The watchdog's time in these tests.
const LIMIT: &str = "3";

impl TestGateway {
    async fn watched() -> Self {
        Self::start_with(Options::default(), &[("WATCHDOG_SECS", LIMIT), ("START_TIMEOUT_SECS", "1")]).await
    }

    /// The member `data` of a session's detail.
    pub(crate) async fn detail(&self, name: &str) -> Value {
        self.api.get(&format!("/session/{name}")).await.expect(200).json()["data"].take()
    }

    async fn wait_state(&self, name: &str, state: &str) -> Value {
        eventually(&format!("{name} to be {state}"), || async {
            Some(self.detail(name).await).filter(|detail| detail["state"] == state)
        })
        .await
    }

    async fn kick_it(&self, how: Kick) {
        let device = self.simulator.devices(NUMBER)[0].device;
        self.simulator.kick(NUMBER, device, how).await;
    }

    /// Waits for a login after so many.
    async fn logs_in_again(&self, logins: u64) {
        eventually("another login", || async { (self.simulator.counters().logins > logins).then_some(()) }).await;
    }

    /// Waits until the server was dialled more often than so.
    async fn dials_again(&self, opened: u64) {
        eventually("another connection", || async {
            (self.simulator.counters().connections_opened > opened).then_some(())
        })
        .await;
    }

    async fn talks(&self) {
        self.api.wait_status("a", "connected").await;
        self.api.text("a", FRIEND, "still here").await.expect(200);
        let friend = self.simulator.phone(FRIEND);
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("still here"));
    }
}

/// What is asked of a session over and over by somebody else, while a test goes on.
async fn observe(gateway: &TestGateway, name: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let detail = gateway.detail(name).await;
        let end = detail["state"] == "connecting";
        seen.push(detail);
        if end {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_that_dies_is_not_connected_for_longer_than_the_watchdog_allows() {
    let gateway = TestGateway::watched().await;
    gateway.simulator.phone(FRIEND);
    gateway.pair("a", NUMBER).await;
    let logins = gateway.simulator.counters().logins;
    // Long enough to be seen: the next dials fail.
    let away = gateway.simulator.inject(Fault::DropConnections);
    gateway.kick_it(Kick::Silence).await;
    // Nothing is sent by anybody: the gateway itself asks for a sign of life.
    let seen = tokio::time::timeout(STEP, observe(&gateway, "a")).await.expect("it notices");
    let (last, before) = seen.split_last().unwrap();
    assert!(before.iter().all(|detail| detail["status"] == "connected" && detail["reason"].is_null()));
    assert_eq!((last["status"].as_str(), last["reason"].as_str()), (Some("connecting"), Some("no_answer")));
    gateway.simulator.clear(away);
    gateway.logs_in_again(logins).await;
    gateway.talks().await;
    assert_eq!(gateway.detail("a").await["reason"], Value::Null);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_connection_is_left_alone() {
    let gateway = TestGateway::watched().await;
    gateway.simulator.phone(FRIEND);
    gateway.pair("a", NUMBER).await;
    let counters = gateway.simulator.counters();
    // The gateway asks, the server answers: no other traffic keeps it alive.
    eventually("three signs of life", || async {
        (gateway.simulator.counters().pings >= counters.pings + 3).then_some(())
    })
    .await;
    assert_eq!(gateway.simulator.counters().connections_opened, counters.connections_opened);
    assert_eq!(gateway.detail("a").await["state"], "connected");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_never_answered_is_tried_again() {
    for fault in [Fault::SilentAccept, Fault::SilentLogin] {
        let gateway = TestGateway::watched().await;
        gateway.simulator.phone(FRIEND);
        gateway.pair("a", NUMBER).await;
        let silent = gateway.simulator.inject(fault.clone());
        gateway.kick_it(Kick::Close).await;
        let opened = gateway.simulator.counters().connections_opened;
        gateway.dials_again(opened + 2).await;
        let detail = gateway.detail("a").await;
        assert_eq!((&detail["status"], &detail["state"]), (&"connecting".into(), &"connecting".into()), "{fault:?}");
        gateway.simulator.clear(silent);
        gateway.talks().await;
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_brings_no_code_is_tried_again() {
    for fault in [Fault::SilentAccept, Fault::SilentLogin] {
        let gateway = TestGateway::watched().await;
        let silent = gateway.simulator.inject(fault.clone());
        gateway.api.start("a").await.expect(504);
        let opened = gateway.simulator.counters().connections_opened;
        gateway.dials_again(opened + 1).await;
        assert_eq!(gateway.detail("a").await["state"], "starting");
        gateway.simulator.clear(silent);
        eventually("a code", || async { (gateway.api.start("a").await.status == 200).then_some(()) }).await;
        let detail = gateway.detail("a").await;
        assert_eq!(detail["state"], "waiting_for_scan");
        assert!(detail["until"].as_str() > detail["since"].as_str(), "{detail}");
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_after_the_login_is_not_connected() {
    let gateway = TestGateway::watched().await;
    gateway.simulator.phone(FRIEND);
    gateway.pair("a", NUMBER).await;
    let logins = gateway.simulator.counters().logins;
    let silent = gateway.simulator.inject(Fault::SilentAfterLogin);
    gateway.kick_it(Kick::Close).await;
    eventually("two logins that lead nowhere", || async {
        assert_ne!(gateway.api.status("a").await, "disconnected");
        (gateway.simulator.counters().logins >= logins + 2).then_some(())
    })
    .await;
    gateway.simulator.clear(silent);
    gateway.talks().await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_synchronisation_that_never_ends_does_not_hold_the_session_up() {
    let gateway = TestGateway::watched().await;
    gateway.simulator.phone(FRIEND);
    gateway.simulator.inject(Fault::DropAnswers { xmlns: "w:sync:app:state".to_owned() });
    gateway.pair("a", NUMBER).await;
    gateway.talks().await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_error_whose_connection_stays_open_ends_it() {
    let gateway = TestGateway::watched().await;
    gateway.simulator.phone(FRIEND);
    gateway.pair("a", NUMBER).await;
    for code in [503, 429] {
        let logins = gateway.simulator.counters().logins;
        gateway.kick_it(Kick::StreamErrorOpen { code }).await;
        gateway.logs_in_again(logins).await;
        gateway.talks().await;
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_of_a_login_has_a_state_of_its_own() {
    let gateway = TestGateway::watched().await;
    gateway.simulator.phone(FRIEND);
    gateway.pair("a", NUMBER).await;
    let refuse = |code| Fault::RefuseLogin { code };
    for (fault, state, reason) in [
        (refuse(403), "locked", "account_locked"),
        (refuse(405), "outdated", "version_refused"),
        (refuse(406), "banned", "account_banned"),
        (refuse(409), "refused", "code_409"),
        (Fault::Ban { code: 101, expire: 600 }, "banned", "temporary_ban"),
    ] {
        let refused = gateway.simulator.inject(fault.clone());
        gateway.kick_it(Kick::Close).await;
        let detail = gateway.wait_state("a", state).await;
        assert_eq!((detail["status"].as_str(), detail["reason"].as_str()), (Some("connecting"), Some(reason)));
        let until = detail["until"].as_str().map(|until| until.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
        let since = detail["since"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        let length = until.map(|until| (until - since).num_seconds());
        assert!(
            if let Fault::Ban { .. } = fault { length == Some(600) || length == Some(599) } else { length.is_none() },
            "{detail}"
        );
        // It is tried again, and stays what it is until WhatsApp takes it.
        let logins = gateway.simulator.counters().logins_refused;
        gateway.api.start("a").await.expect(400);
        eventually("another try", || async { (gateway.simulator.counters().logins_refused > logins).then_some(()) })
            .await;
        assert_eq!(gateway.detail("a").await["state"], state);
        gateway.simulator.clear(refused);
        gateway.api.start("a").await.expect(400);
        gateway.talks().await;
        assert_eq!(gateway.detail("a").await["state"], "connected");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_a_session_is_told_also_after_a_restart() {
    let mut gateway = TestGateway::watched().await;
    gateway.pair("a", NUMBER).await;
    assert_eq!(gateway.detail("a").await["state"], "connected");
    let members: Vec<_> = gateway.detail("a").await.as_object().unwrap().keys().cloned().collect();
    let contract = ["session", "status", "details", "connection", "metadata"];
    assert_eq!(members, [&contract[..], &["state", "reason", "since", "until", "platform"]].concat());
    gateway.kick_it(Kick::Replaced).await;
    assert_eq!(gateway.wait_state("a", "replaced").await["reason"], "other_connection");
    gateway.wait_state("a", "connected").await;
    for by in ["by_phone", "by_api"] {
        if by == "by_phone" {
            gateway.simulator.unlink(NUMBER, gateway.simulator.devices(NUMBER)[0].device);
        } else {
            gateway.pair("a", NUMBER).await;
            gateway.api.post("/session/logout", serde_json::json!({"session": "a"})).await.expect(200);
        }
        let before = gateway.wait_state("a", "logged_out").await;
        assert_eq!((before["status"].as_str(), before["reason"].as_str()), (Some("disconnected"), Some(by)));
        gateway.restart().await;
        let after = gateway.detail("a").await;
        assert_eq!((&after["state"], &after["reason"]), (&before["state"], &before["reason"]));
        assert!(after["since"].as_str() <= before["since"].as_str(), "{before} {after}");
    }
    gateway.finish().await;
}
