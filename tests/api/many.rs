//! Many sessions at once: nothing lost, nothing mixed up.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::json;

use super::support::{STEP, TestGateway, eventually};

const SESSIONS: usize = 50;
const TEXTS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_sessions_pair_and_talk_at_the_same_time() {
    let gateway = TestGateway::start_with(
        whatsapp_simulator::Options::default(),
        // Fifty at once on a busy machine: the wait for a code is not what is tested here.
        &[("START_TIMEOUT_SECS", "30")],
    )
    .await;
    let name = |n: usize| format!("session-{n}");
    let own = |n: usize| format!("62811{n:07}");
    let other = |n: usize| format!("62822{n:07}");
    for n in 0..SESSIONS {
        gateway.simulator.phone(&other(n));
    }
    join_all((0..SESSIONS).map(|n| {
        let gateway = &gateway;
        async move {
            gateway.pair(&name(n), &own(n)).await;
        }
    }))
    .await;
    assert_eq!(gateway.simulator.counters().pairings, SESSIONS as u64);

    join_all((0..SESSIONS).map(|n| {
        let gateway = &gateway;
        async move {
            let contact = gateway.simulator.phone(&other(n));
            for text in 0..TEXTS {
                gateway.api.text(&name(n), &other(n), &format!("out {n} {text}")).await.expect(200);
                contact.says(&own(n), &format!("in {n} {text}")).await.unwrap();
            }
            for text in 0..TEXTS {
                let received = contact.next_message(STEP).await.unwrap();
                assert_eq!(received.text, Some(format!("out {n} {text}")));
            }
        }
    }))
    .await;

    for n in 0..SESSIONS {
        let told = eventually(&format!("all messages of session {n}"), || async {
            let messages = gateway.receiver.messages(&name(n));
            (messages.len() >= TEXTS).then_some(messages)
        })
        .await;
        let texts: Vec<_> = told.iter().map(|body| body["message"].clone()).collect();
        assert_eq!(texts, (0..TEXTS).map(|text| json!(format!("in {n} {text}"))).collect::<Vec<_>>());
        let ids: BTreeSet<_> = told.iter().map(|body| body["event_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), TEXTS);
        assert!(told.iter().all(|body| body["from"] == format!("{}@s.whatsapp.net", other(n))));
    }
    let counters = gateway.simulator.counters();
    assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts, counters.violations), (0, 0, 0));
    let order: Vec<_> = gateway.api.get("/session").await.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["session"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), SESSIONS);
    gateway.finish().await;
}
