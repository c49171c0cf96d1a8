//! Deleting: nothing of the session is left anywhere, also when it goes wrong on the way.

use serde_json::json;
use wa_gateway::store::sled::SledStore;
use wa_gateway::store::{Kv, Namespace};
use whatsapp_simulator::Fault;

use super::support::{TestGateway, eventually};

const NUMBER: &str = "6281234500021";
const FRIEND: &str = "6281234500022";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_holds_no_key_of_a_deleted_session() {
    let mut gateway = TestGateway::start().await;
    gateway.pair("gone", NUMBER).await;
    gateway.pair("stays", "6281234500023").await;
    gateway.pair("left", "6281234500024").await;
    gateway.simulator.phone(FRIEND).says(NUMBER, "hi").await.unwrap();
    gateway.receiver.message("gone", "hi").await;
    gateway.api.delete("gone").await.expect(200);
    gateway.receiver.last_status("gone", "disconnected").await;
    gateway.api.post("/session/logout", json!({ "session": "left" })).await.expect(200);
    gateway.receiver.last_status("left", "disconnected").await;
    gateway.stop().await;
    {
        let store = SledStore::open(&gateway.folder().join("wa_credentials/store")).unwrap();
        let mut left = Vec::new();
        for namespace in store.namespaces().await.unwrap() {
            for (key, value) in store.snapshot(&namespace).await.unwrap() {
                let mut row = format!("{} {}", namespace.as_str(), String::from_utf8_lossy(&key));
                row.push_str(&String::from_utf8_lossy(&value));
                left.push(row);
            }
        }
        assert!(left.iter().any(|row| row.contains("stays")));
        let leftovers: Vec<_> = left.iter().filter(|row| row.contains("gone")).collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
        let credentials: Vec<_> = store
            .namespaces()
            .await
            .unwrap()
            .into_iter()
            .filter(|namespace: &Namespace| namespace.as_str().starts_with("credentials:"))
            .collect();
        assert_eq!(
            credentials.len(),
            1,
            "neither of the deleted one nor of the one that was logged out: {credentials:?}"
        );
    }
    gateway.restart().await;
    gateway.api.wait_status("stays", "connected").await;
    assert_eq!(gateway.api.status("gone").await, "absent");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undelivered_messages_go_with_the_session_and_one_last_status_comes() {
    let gateway = TestGateway::start().await;
    gateway.pair("a", NUMBER).await;
    gateway.receiver.last_status("a", "connected").await;
    gateway.receiver.answer(503);
    gateway.simulator.phone(FRIEND).says(NUMBER, "never told").await.unwrap();
    eventually("the message to be tried", || async {
        gateway.receiver.hooks().iter().any(|hook| hook.answered == 503).then_some(())
    })
    .await;
    gateway.api.delete("a").await.expect(200);
    gateway.receiver.answer(200);
    gateway.receiver.last_status("a", "disconnected").await;
    assert!(gateway.receiver.messages("a").is_empty());
    let last: Vec<_> = gateway.receiver.statuses("a").into_iter().filter(|word| word == "disconnected").collect();
    assert_eq!(last.len(), 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_free_at_once_and_deletes_answer_once() {
    let gateway = TestGateway::start().await;
    for _ in 0..3 {
        gateway.pair("a", NUMBER).await;
        let (one, two) = tokio::join!(gateway.api.delete("a"), gateway.api.delete("a"));
        let mut statuses = [one.status, two.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404]);
    }
    assert!(gateway.simulator.devices(NUMBER).is_empty());
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_even_when_the_server_does_not_answer() {
    let gateway = TestGateway::start().await;
    gateway.pair("a", NUMBER).await;
    gateway.simulator.inject(Fault::DropAnswers { xmlns: "md".to_owned() });
    gateway.api.delete("a").await.expect(200);
    assert_eq!(gateway.api.status("a").await, "absent");
    gateway.simulator.clear_faults();

    gateway.pair("b", NUMBER).await;
    gateway.simulator.inject(Fault::SilentAccept);
    let devices = gateway.simulator.devices(NUMBER);
    let device = devices.iter().find(|device| device.online).unwrap().device;
    gateway.simulator.kick(NUMBER, device, whatsapp_simulator::Kick::Close).await;
    gateway.api.wait_status("b", "connecting").await;
    let answer = gateway.api.delete("b").await.expect(200).json();
    assert_eq!(answer["data"]["session"], "b");
    assert_eq!(gateway.api.get("/session").await.expect(200).json(), json!({"data": []}));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_and_deletes_at_once_leave_one_session_or_none() {
    let gateway = TestGateway::start().await;
    for round in 0..10 {
        if round % 2 == 0 {
            gateway.pair("a", NUMBER).await;
        } else {
            gateway.api.qr("a").await;
        }
        let (deleted, started, _again) =
            tokio::join!(gateway.api.delete("a"), gateway.api.start("a"), gateway.api.start("a"));
        assert_eq!(deleted.status, 200, "{}", deleted.body);
        assert!([200, 400, 409].contains(&started.status), "{} {}", started.status, started.body);
        eventually("the old device to be gone", || async {
            gateway.simulator.devices(NUMBER).is_empty().then_some(())
        })
        .await;
        // Whatever came last has won: a listed session shows a code and holds the only connection.
        let listed = usize::from(gateway.api.status("a").await != "absent");
        if listed == 1 {
            gateway.api.qr("a").await;
        }
        eventually("as many connections as sessions", || async {
            (gateway.simulator.connections() == listed).then_some(())
        })
        .await;
        let expected = if listed == 1 { 200 } else { 404 };
        gateway.api.delete("a").await.expect(expected);
    }
    eventually("all connections to end", || async { (gateway.simulator.connections() == 0).then_some(()) }).await;
    gateway.finish().await;
}
