//! The main job from beginning to end: start, scan, texts both ways, restart, texts again, delete, gone.

use serde_json::json;

use super::support::{STEP, Store, TestGateway, over_both};

over_both!(
    a_session_lives_from_its_start_to_its_deletion,
    the_webhook_tells_each_change_as_the_original_does,
    what_comes_while_it_is_down_arrives_after_the_restart,
    a_receiver_that_fails_gets_everything_when_it_works_again,
);

const NUMBER: &str = "6281234500001";
const FRIEND: &str = "6281234500002";

async fn a_session_lives_from_its_start_to_its_deletion(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    let friend = gateway.simulator.phone(FRIEND);

    gateway.pair("shop", NUMBER).await;
    let row = gateway.api.row("shop").await.unwrap();
    assert_eq!(row["details"]["phoneNumber"], NUMBER);

    let sent = gateway.api.text("shop", FRIEND, "hello").await.expect(200).json();
    let id = sent["data"]["key"]["id"].as_str().unwrap().to_owned();
    assert_eq!(sent["data"]["key"]["remoteJid"], format!("{FRIEND}@s.whatsapp.net"));
    assert_eq!(sent["data"]["message"], json!({"extendedTextMessage": {"text": "hello"}}));
    assert_eq!(sent["data"]["status"], "PENDING");
    let received = friend.next_message(STEP).await.unwrap();
    assert_eq!((received.text.as_deref(), received.id.as_str()), (Some("hello"), id.as_str()));

    let said = friend.says(NUMBER, "hi there").await.unwrap();
    let hook = gateway.receiver.message("shop", "hi there").await;
    let members: Vec<_> = hook.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members[..5], ["session", "from", "message", "media", "id"]);
    assert_eq!(hook["from"], format!("{FRIEND}@s.whatsapp.net"));
    assert_eq!(hook["media"], json!({"image": null, "video": null, "document": null, "audio": null}));
    assert_eq!(hook["id"], said.as_str());
    assert_eq!(hook["is_group"], false);
    assert_eq!(hook["participant"], json!(null));

    // It comes back over IK, without a scan, and speaks on the same ratchets.
    let before = gateway.simulator.counters();
    gateway.restart().await;
    gateway.api.wait_status("shop", "connected").await;
    let after = gateway.simulator.counters();
    assert_eq!(after.pairings, before.pairings);
    assert!(after.logins_ik > before.logins_ik, "the restart did not use IK: {after:?}");
    gateway.api.text("shop", FRIEND, "again").await.expect(200);
    assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("again"));
    friend.says(NUMBER, "welcome back").await.unwrap();
    gateway.receiver.message("shop", "welcome back").await;

    let before = gateway.simulator.counters().unlinks;
    let deleted = gateway.api.delete("shop").await.expect(200).json();
    assert_eq!(deleted["success"], true);
    assert_eq!(deleted["message"], "Session 'shop' deleted successfully");
    assert_eq!(gateway.simulator.counters().unlinks, before + 1);
    assert!(gateway.simulator.devices(NUMBER).is_empty());
    assert_eq!(gateway.api.status("shop").await, "absent");
    gateway.api.get("/session/shop").await.expect(404);
    gateway.receiver.last_status("shop", "disconnected").await;

    // The name is free, and nothing of the old account is left behind it.
    let qr = gateway.api.qr("shop").await;
    assert!(!qr.is_empty());
    assert_eq!(gateway.api.row("shop").await.unwrap(), json!({"session": "shop", "status": "connecting"}));
    gateway.api.delete("shop").await.expect(200);

    let counters = gateway.simulator.counters();
    assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts, counters.violations), (0, 0, 0));
    assert_eq!(friend.repeated_keys(), 0);
    gateway.finish().await;
}

async fn the_webhook_tells_each_change_as_the_original_does(store: Store) {
    let gateway = TestGateway::over(store).await;
    gateway.pair("a", NUMBER).await;
    gateway.receiver.last_status("a", "connected").await;
    assert_eq!(gateway.receiver.statuses("a"), ["connecting", "connecting", "connected"]);
    gateway.api.post("/session/logout", json!({"session": "a"})).await.expect(200);
    gateway.receiver.last_status("a", "disconnected").await;
    assert_eq!(gateway.receiver.statuses("a"), ["connecting", "connecting", "connected", "disconnected"]);
    let hook = gateway.receiver.hooks().into_iter().next().unwrap();
    assert_eq!(hook.raw, r#"{"session":"a","status":"connecting"}"#);
    assert_eq!(hook.headers["key"], super::support::KEY);
    assert!(hook.headers.contains_key("x-event-id"));
    gateway.finish().await;
}

async fn what_comes_while_it_is_down_arrives_after_the_restart(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    gateway.pair("shop", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    friend.says(NUMBER, "before").await.unwrap();
    gateway.receiver.message("shop", "before").await;
    gateway.stop().await;
    for n in 0..20 {
        friend.says(NUMBER, &format!("while down {n}")).await.unwrap();
    }
    gateway.restart().await;
    gateway.receiver.message("shop", "while down 19").await;
    let texts: Vec<_> = gateway.receiver.messages("shop").iter().map(|body| body["message"].clone()).collect();
    let expected: Vec<_> =
        std::iter::once(json!("before")).chain((0..20).map(|n| json!(format!("while down {n}")))).collect();
    assert_eq!(texts, expected, "in order, each once");
    gateway.finish().await;
}

async fn a_receiver_that_fails_gets_everything_when_it_works_again(store: Store) {
    let gateway = TestGateway::over(store).await;
    gateway.pair("shop", NUMBER).await;
    gateway.receiver.last_status("shop", "connected").await;
    gateway.receiver.answer(500);
    let friend = gateway.simulator.phone(FRIEND);
    for n in 0..5 {
        friend.says(NUMBER, &format!("text {n}")).await.unwrap();
    }
    super::support::eventually("a refused webhook", || async {
        gateway.receiver.hooks().iter().any(|hook| hook.answered == 500).then_some(())
    })
    .await;
    gateway.receiver.answer(200);
    gateway.receiver.message("shop", "text 4").await;
    let texts: Vec<_> = gateway.receiver.messages("shop").iter().map(|body| body["message"].clone()).collect();
    assert_eq!(texts, (0..5).map(|n| json!(format!("text {n}"))).collect::<Vec<_>>());
    gateway.finish().await;
}
