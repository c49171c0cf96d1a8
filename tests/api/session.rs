//! The states of a session that is not simply connected: each is listed, restarted and deleted; none hangs, none comes back.

use std::time::Duration;

use serde_json::json;
use whatsapp_simulator::{Fault, Kick, Options};

use super::support::{STEP, Store, TestGateway, eventually, over_both};

over_both!(
    waiting_for_a_scan,
    two_starts_at_once_make_one_session,
    a_connected_session_is_not_started_again,
    connecting_to_a_server_that_never_answers,
    reconnecting_after_a_drop,
    logged_out_from_the_phone,
    removed_from_the_phone_while_the_gateway_was_down,
    logout_by_every_method,
    codes_rotate_and_are_renewed_while_somebody_asks,
    a_session_that_nobody_asks_for_stops_dialling,
    a_status_is_never_connected_over_a_dead_socket,
);

const NUMBER: &str = "6281234500011";
const FRIEND: &str = "6281234500012";

async fn waiting_for_a_scan(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    let qr = gateway.api.qr("a").await;
    assert_eq!(gateway.api.status("a").await, "connecting");
    // A second start hands out the same code and makes no second session.
    assert_eq!(gateway.api.qr("a").await, qr);
    assert_eq!(gateway.simulator.connections(), 1);
    let detail = gateway.api.get("/session/a").await.expect(200).json();
    assert_eq!(detail["data"]["connection"]["isConnected"], false);

    // Never scanned, so a restart forgets it.
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.api.qr("a").await;
    gateway.api.delete("a").await.expect(200);
    gateway.api.delete("a").await.expect(404);
    eventually("the connection to end", || async { (gateway.simulator.connections() == 0).then_some(()) }).await;
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.finish().await;
}

async fn two_starts_at_once_make_one_session(store: Store) {
    let gateway = TestGateway::over(store).await;
    let starts = (0..8).map(|_| gateway.api.qr("a"));
    let codes = futures::future::join_all(starts).await;
    assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
    assert_eq!(gateway.simulator.connections(), 1);
    gateway.finish().await;
}

async fn a_connected_session_is_not_started_again(store: Store) {
    let gateway = TestGateway::over(store).await;
    gateway.pair("a", NUMBER).await;
    assert_eq!(gateway.api.start("a").await.expect(400).message(), "Session already exist");
    gateway.finish().await;
}

async fn connecting_to_a_server_that_never_answers(store: Store) {
    let mut gateway = TestGateway::start_over(store, Options::default(), &[("START_TIMEOUT_SECS", "1")]).await;
    gateway.simulator.inject(Fault::SilentAccept);
    let answer = gateway.api.start("a").await.expect(504);
    assert!(answer.message().contains("did not answer in time"), "{}", answer.body);
    assert_eq!(gateway.api.status("a").await, "connecting");
    gateway.api.start("a").await.expect(504);
    gateway.api.delete("a").await.expect(200);
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.api.start("a").await.expect(504);
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "absent");

    // The server answers again: the start that timed out goes on by itself.
    gateway.api.start("a").await.expect(504);
    gateway.simulator.clear_faults();
    eventually("a code after the silence", || async { (gateway.api.start("a").await.status == 200).then_some(()) })
        .await;
    gateway.finish().await;
}

async fn reconnecting_after_a_drop(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    gateway.pair("a", NUMBER).await;
    gateway.simulator.inject(Fault::DropConnections);
    gateway.simulator.kick(NUMBER, device(&gateway), Kick::Close).await;
    gateway.api.wait_status("a", "connecting").await;
    let row = gateway.api.row("a").await.unwrap();
    let members: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["session", "details", "status"], "details are remembered, and stand before the status");
    assert_eq!(gateway.api.text("a", FRIEND, "x").await.expect(409).message(), "Session with ID: \"a\" Not Ready!");
    assert_eq!(gateway.api.start("a").await.expect(400).message(), "Session already exist");
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "connecting");

    gateway.simulator.clear_faults();
    gateway.api.wait_status("a", "connected").await;

    gateway.simulator.inject(Fault::DropConnections);
    gateway.simulator.kick(NUMBER, device(&gateway), Kick::Close).await;
    gateway.api.wait_status("a", "connecting").await;
    gateway.api.delete("a").await.expect(200);
    gateway.simulator.clear_faults();
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "absent");
    assert_eq!(gateway.simulator.connections(), 0);
    gateway.finish().await;
}

async fn logged_out_from_the_phone(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    gateway.pair("a", NUMBER).await;
    gateway.simulator.unlink(NUMBER, device(&gateway));
    gateway.api.wait_status("a", "disconnected").await;
    let detail = gateway.api.get("/session/a").await.expect(200).json();
    assert_eq!(detail["data"]["status"], "disconnected");
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "disconnected", "listed until it is started or deleted");
    gateway.receiver.last_status("a", "disconnected").await;

    let qr = gateway.api.qr("a").await;
    assert_eq!(gateway.api.status("a").await, "connecting");
    gateway.simulator.scan(&qr, NUMBER).await.unwrap();
    gateway.api.wait_status("a", "connected").await;
    gateway.simulator.unlink(NUMBER, device(&gateway));
    gateway.api.wait_status("a", "disconnected").await;
    gateway.api.delete("a").await.expect(200);
    gateway.api.delete("a").await.expect(404);
    gateway.restart().await;
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.finish().await;
}

async fn removed_from_the_phone_while_the_gateway_was_down(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    gateway.pair("a", NUMBER).await;
    let number = device(&gateway);
    gateway.stop().await;
    gateway.simulator.unlink(NUMBER, number);
    gateway.restart().await;
    gateway.api.wait_status("a", "disconnected").await;
    gateway.api.qr("a").await;
    gateway.finish().await;
}

async fn logout_by_every_method(store: Store) {
    let gateway = TestGateway::start_over(store, Options::default(), &[("START_TIMEOUT_SECS", "3")]).await;
    for (name, method) in [("a", "GET"), ("b", "POST"), ("c", "PUT"), ("d", "PATCH"), ("e", "DELETE")] {
        gateway.pair(name, NUMBER).await;
        let unlinks = gateway.simulator.counters().unlinks;
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let answer = gateway.api.send(method, &format!("/session/logout?session={name}"), None).await.expect(200);
        assert_eq!(answer.json(), json!({"data": "success"}));
        assert_eq!(gateway.api.status(name).await, "disconnected");
        assert_eq!(gateway.simulator.counters().unlinks, unlinks + 1);
    }
    assert!(gateway.simulator.devices(NUMBER).is_empty());
    // One that is still on its way to a server that does not answer.
    gateway.simulator.inject(Fault::SilentAccept);
    gateway.api.start("f").await.expect(504);
    assert_eq!(gateway.api.status("f").await, "connecting");
    gateway.api.post("/session/logout", json!({"session": "f"})).await.expect(200);
    assert_eq!(gateway.api.status("f").await, "disconnected");
    gateway.receiver.last_status("f", "disconnected").await;
    assert_eq!(gateway.receiver.statuses("f"), ["connecting", "disconnected"]);
    let unknown = gateway.api.post("/session/logout", json!({"session": "unknown"})).await.expect(200);
    assert_eq!(unknown.json(), json!({"data": "success"}));
    gateway.finish().await;
}

async fn codes_rotate_and_are_renewed_while_somebody_asks(store: Store) {
    let short = Duration::from_millis(400);
    let options = Options { qr_first: short, qr_next: short, qr_refs: 3, ..Options::default() };
    let gateway = TestGateway::start_over(store, options, &[]).await;
    let mut seen = vec![gateway.api.qr("a").await];
    // whatsapp-rust shows the first code for 60 s whatever the server means by it, so expired ones are refused by the
    // simulator, and a start after the server closed the connection must show a fresh one.
    eventually("a code that the server still takes", || async {
        let qr = gateway.api.qr("a").await;
        let scanned = gateway.simulator.scan(&qr, NUMBER).await;
        scanned.is_ok().then_some(())
    })
    .await;
    seen.dedup();
    gateway.api.wait_status("a", "connected").await;
    gateway.finish().await;
}

async fn a_session_that_nobody_asks_for_stops_dialling(store: Store) {
    let gateway =
        TestGateway::start_over(store, Options::default(), &[("QR_IDLE_SECS", "1"), ("START_TIMEOUT_SECS", "3")]).await;
    gateway.simulator.inject(Fault::RefuseUpgrade);
    gateway.api.start("a").await.expect(504);
    gateway.api.wait_status("a", "disconnected").await;
    let opened = gateway.simulator.counters().connections_opened;
    gateway.simulator.clear_faults();
    assert_eq!(gateway.simulator.counters().connections_opened, opened);
    gateway.api.qr("a").await;
    gateway.finish().await;
}

async fn a_status_is_never_connected_over_a_dead_socket(store: Store) {
    let gateway = TestGateway::over(store).await;
    let friend = gateway.simulator.phone(FRIEND);
    gateway.pair("a", NUMBER).await;
    for _ in 0..5 {
        let logins = gateway.simulator.counters().logins;
        gateway.simulator.kick(NUMBER, device(&gateway), Kick::Close).await;
        eventually("a new login", || async { (gateway.simulator.counters().logins > logins).then_some(()) }).await;
        gateway.api.wait_status("a", "connected").await;
        gateway.api.text("a", FRIEND, "still there").await.expect(200);
    }
    for _ in 0..5 {
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("still there"));
    }
    gateway.finish().await;
}

/// The companion number of the one device that is linked.
fn device(gateway: &TestGateway) -> u16 {
    let devices = gateway.simulator.devices(NUMBER);
    assert_eq!(devices.len(), 1, "{devices:?}");
    devices[0].device
}
