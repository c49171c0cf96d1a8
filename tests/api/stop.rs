//! Stopping: the connection goes, the credentials stay.

use serde_json::json;
use whatsapp_simulator::{Fault, Kick, Options};

use super::support::{STEP, Store, TestGateway, eventually, over_both};

over_both!(
    a_stopped_session_keeps_its_credentials_and_starts_without_a_scan,
    a_stop_ends_whatever_the_session_was_doing,
    a_start_that_waits_is_told_of_the_stop,
    a_stopped_session_is_unlinked_by_delete_and_by_logout,
    a_stopped_session_that_the_phone_removed_starts_with_a_code,
);

const NUMBER: &str = "6281234500411";
const FRIEND: &str = "6281234500412";

impl TestGateway {
    async fn halt(&self, name: &str) {
        let answer = self.api.post("/session/stop", json!({ "session": name })).await.expect(200);
        assert_eq!(answer.json(), json!({"data": "success"}));
    }

    async fn nobody_is_connected(&self) {
        eventually("all connections to end", || async { (self.simulator.connections() == 0).then_some(()) }).await;
    }

    async fn state(&self, name: &str) -> (String, Option<String>) {
        let detail = self.api.get(&format!("/session/{name}")).await.expect(200).json();
        let word = |member: &str| detail["data"][member].as_str().map(str::to_owned);
        (word("state").unwrap(), word("reason"))
    }
}

async fn a_stopped_session_keeps_its_credentials_and_starts_without_a_scan(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    let friend = gateway.simulator.phone(FRIEND);
    gateway.pair("a", NUMBER).await;
    gateway.api.text("a", FRIEND, "before").await.expect(200);
    gateway.halt("a").await;
    assert_eq!(gateway.simulator.connections(), 0, "it is closed before the answer");
    assert_eq!(gateway.api.status("a").await, "disconnected");
    let by_us = ("stopped".to_owned(), Some("by_api".to_owned()));
    assert_eq!(gateway.state("a").await, by_us);
    gateway.receiver.last_status("a", "disconnected").await;
    gateway.halt("a").await;
    gateway.api.text("a", FRIEND, "x").await.expect(409);
    friend.says(NUMBER, "while it was stopped").await.unwrap();

    let since = gateway.api.get("/session/a").await.json()["data"]["since"].clone();
    let logins = gateway.simulator.counters().logins;
    for _ in 0..2 {
        gateway.restart().await;
        assert_eq!(gateway.state("a").await, by_us);
        assert_eq!(gateway.api.get("/session/a").await.json()["data"]["since"], since);
    }
    assert_eq!(gateway.simulator.counters().logins, logins, "nobody logs in until a start");
    assert_eq!(gateway.receiver.statuses("a").iter().filter(|word| *word == "disconnected").count(), 1);

    let answer = gateway.api.start("a").await.expect(200);
    assert_eq!(answer.json(), json!({"data": {"message": "Connected"}}));
    assert_eq!(gateway.api.status("a").await, "connected");
    gateway.receiver.message("a", "while it was stopped").await;
    gateway.api.text("a", FRIEND, "after").await.expect(200);
    for text in ["before", "after"] {
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some(text));
    }
    assert_eq!(gateway.simulator.counters().pairings, 1);
    gateway.restart().await;
    gateway.api.wait_status("a", "connected").await;
    gateway.finish().await;
}

async fn a_stop_ends_whatever_the_session_was_doing(store: Store) {
    let mut gateway = TestGateway::start_over(store, Options::default(), &[("START_TIMEOUT_SECS", "1")]).await;
    let missing = gateway.api.post("/session/stop", json!({})).await.expect(400);
    assert_eq!(missing.message(), "Required field 'session' on json");
    let unknown = gateway.api.post("/session/stop", json!({"session": "none"})).await.expect(404);
    assert_eq!(unknown.message(), "Session 'none' not found");

    // Waiting for a scan.
    gateway.api.qr("scan").await;
    gateway.halt("scan").await;
    assert_eq!(gateway.state("scan").await.0, "stopped");
    gateway.nobody_is_connected().await;
    gateway.api.qr("scan").await;
    gateway.halt("scan").await;

    // Reconnecting, while the server is away.
    gateway.pair("back", NUMBER).await;
    gateway.simulator.inject(Fault::DropConnections);
    let device = gateway.simulator.devices(NUMBER)[0].device;
    gateway.simulator.kick(NUMBER, device, Kick::Close).await;
    gateway.api.wait_status("back", "connecting").await;
    gateway.halt("back").await;
    assert_eq!(gateway.api.status("back").await, "disconnected");
    // Started again it comes when the server does, and who asks again waits for it too.
    gateway.api.start("back").await.expect(504);
    gateway.api.start("back").await.expect(504);
    gateway.simulator.clear_faults();
    // 400: it connected between two requests.
    eventually("the start to go on", || async {
        matches!(gateway.api.start("back").await.status, 200 | 400).then_some(())
    })
    .await;
    gateway.api.wait_status("back", "connected").await;
    assert_eq!(gateway.api.start("back").await.expect(400).message(), "Session already exist");

    // Those that were never scanned are forgotten by a restart.
    gateway.restart().await;
    assert_eq!(gateway.api.status("scan").await, "absent");
    gateway.api.wait_status("back", "connected").await;
    gateway.finish().await;
}

async fn a_start_that_waits_is_told_of_the_stop(store: Store) {
    let mut gateway = TestGateway::start_over(store, Options::default(), &[("START_TIMEOUT_SECS", "50")]).await;
    gateway.simulator.inject(Fault::SilentAccept);
    let (started, ()) = tokio::join!(gateway.api.start("a"), async {
        eventually("the session to be listed", || async { (gateway.api.status("a").await != "absent").then_some(()) })
            .await;
        gateway.halt("a").await;
    });
    let text = started.expect(409).message();
    assert_eq!(text, "Session was deleted, logged out or stopped while it was starting");
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.finish().await;
}

async fn a_stopped_session_is_unlinked_by_delete_and_by_logout(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    for restart in [false, true] {
        gateway.pair("deleted", NUMBER).await;
        gateway.pair("out", FRIEND).await;
        gateway.halt("deleted").await;
        gateway.halt("out").await;
        if restart {
            gateway.restart().await;
        }
        gateway.api.delete("deleted").await.expect(200);
        assert!(gateway.simulator.devices(NUMBER).is_empty(), "the phone lists it no more");
        assert_eq!(gateway.api.status("deleted").await, "absent");
        gateway.api.post("/session/logout", json!({"session": "out"})).await.expect(200);
        assert!(gateway.simulator.devices(FRIEND).is_empty());
        assert_eq!(gateway.state("out").await, ("logged_out".to_owned(), Some("by_api".to_owned())));
        // There is nothing to keep any more: a stop changes nothing, and a start needs a scan.
        gateway.halt("out").await;
        assert_eq!(gateway.state("out").await.0, "logged_out");
        gateway.nobody_is_connected().await;
        gateway.api.qr("out").await;
        gateway.api.delete("out").await.expect(200);
    }
    // Out of reach it ends all the same, and the name is free.
    gateway.pair("deleted", NUMBER).await;
    gateway.halt("deleted").await;
    let away = gateway.simulator.inject(Fault::SilentAccept);
    gateway.api.delete("deleted").await.expect(200);
    gateway.simulator.clear(away);
    gateway.api.qr("deleted").await;
    gateway.finish().await;
}

async fn a_stopped_session_that_the_phone_removed_starts_with_a_code(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    gateway.pair("a", NUMBER).await;
    gateway.halt("a").await;
    gateway.simulator.unlink(NUMBER, gateway.simulator.devices(NUMBER)[0].device);
    gateway.api.qr("a").await;
    gateway.receiver.last_status("a", "connecting").await;
    assert!(gateway.receiver.statuses("a").contains(&"disconnected".to_owned()), "its end is told");
    gateway.pair("a", NUMBER).await;
    assert_eq!(gateway.state("a").await, ("connected".to_owned(), None));

    gateway.simulator.unlink(NUMBER, gateway.simulator.devices(NUMBER)[0].device);
    gateway.api.wait_status("a", "disconnected").await;
    let by_phone = ("logged_out".to_owned(), Some("by_phone".to_owned()));
    assert_eq!(gateway.state("a").await, by_phone);
    gateway.restart().await;
    assert_eq!(gateway.state("a").await, by_phone, "a restart does not forget why");
    gateway.finish().await;
}
