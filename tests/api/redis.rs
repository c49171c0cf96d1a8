//! A Redis that goes away in the middle: sessions close unacknowledged, nothing that was committed is lost, no key is used
//! twice, and everything comes back with it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use whatsapp_simulator::{Options, Simulator};

use super::support::{Process, Receiver, STEP, Store, TestGateway, base_settings, eventually};
use crate::redis_server::RedisServer;

mod window;

const NUMBER: &str = "6281234500091";
const FRIEND: &str = "6281234500092";
const ROUNDS: usize = 2;

/// Leaves and comes back, however it is told to.
async fn goes_away(leave: fn(&mut RedisServer), come_back: fn(&mut RedisServer)) {
    let mut gateway = TestGateway::over(Store::Redis).await;
    gateway.pair("a", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    friend.says(NUMBER, "before").await.unwrap();
    gateway.receiver.message("a", "before").await;
    gateway.api.text("a", FRIEND, "out before").await.expect(200);
    assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("out before"));
    for round in 0..ROUNDS {
        leave(gateway.redis.as_mut().unwrap());
        let during = format!("during {round}");
        friend.says(NUMBER, &during).await.unwrap();
        gateway.api.wait_status("a", "connecting").await;
        eventually("sends to say that the store is away", || async {
            (gateway.api.text("a", FRIEND, "x").await.status == 503).then_some(())
        })
        .await;
        assert!(gateway.receiver.messages("a").iter().all(|body| body["message"] != during.as_str()));
        come_back(gateway.redis.as_mut().unwrap());
        gateway.api.wait_status("a", "connected").await;
        gateway.receiver.message("a", &during).await;
        let out = format!("out after {round}");
        gateway.api.text("a", FRIEND, &out).await.expect(200);
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some(out.as_str()));
        let back = format!("back after {round}");
        friend.says(NUMBER, &back).await.unwrap();
        gateway.receiver.message("a", &back).await;
    }
    // What is stored is sound too: a restart goes on from it.
    gateway.restart().await;
    gateway.api.wait_status("a", "connected").await;
    gateway.api.text("a", FRIEND, "after the restart").await.expect(200);
    assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("after the restart"));
    check(&gateway.simulator);
    assert_eq!(friend.repeated_keys(), 0);
    gateway.finish().await;
}

fn check(simulator: &Simulator) {
    let counters = simulator.counters();
    assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts, counters.pairings), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle() {
    goes_away(RedisServer::kill, RedisServer::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_in_order() {
    goes_away(RedisServer::terminate, RedisServer::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    goes_away(|redis| redis.freeze(), |redis| redis.thaw()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_of_a_burst_is_lost_when_it_is_killed() {
    let mut gateway = TestGateway::over(Store::Redis).await;
    gateway.pair("a", NUMBER).await;
    let friends: Vec<_> = (0..3).map(|n| gateway.simulator.phone(&format!("628998{n}"))).collect();
    let mut said = BTreeSet::new();
    for round in 0..4_u64 {
        let burst = futures::future::join_all(friends.iter().enumerate().map(|(chat, friend)| async move {
            let mut said = Vec::new();
            for text in 0..6 {
                said.push(friend.says(NUMBER, &format!("message {round} {chat} {text}")).await.unwrap());
            }
            said
        }));
        let redis = gateway.redis.as_mut().unwrap();
        let (burst, ()) = tokio::join!(burst, async {
            tokio::time::sleep(Duration::from_millis(10 * round)).await;
            redis.kill();
        });
        said.extend(burst.into_iter().flatten());
        gateway.redis.as_mut().unwrap().restart();
        let missing = || {
            let bodies = gateway.receiver.messages("a");
            let told: BTreeSet<_> = bodies.iter().filter_map(|body| body["id"].as_str()).collect();
            said.iter().filter(|id| !told.contains(id.as_str())).cloned().collect::<Vec<_>>()
        };
        let arrived = tokio::time::timeout(STEP, async {
            while !missing().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(
            arrived.await.is_ok(),
            "round {round}: {:?} are missing, {:?} unacknowledged, {}, {:?}",
            missing(),
            gateway.simulator.unacknowledged(NUMBER),
            gateway.api.status("a").await,
            gateway.simulator.counters()
        );
        gateway.api.wait_status("a", "connected").await;
    }
    check(&gateway.simulator);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_used_twice_when_it_is_killed_among_sends() {
    let mut gateway = TestGateway::over(Store::Redis).await;
    gateway.pair("a", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    let mut sent = BTreeSet::new();
    for round in 0..5_u64 {
        let sends = (0..4).map(|n| {
            let api = gateway.api.clone();
            async move {
                let text = format!("send {round} {n}");
                let answer = api.text("a", FRIEND, &text).await;
                (answer.status, text)
            }
        });
        let redis = gateway.redis.as_mut().unwrap();
        let (answers, ()) = tokio::join!(futures::future::join_all(sends), async {
            tokio::time::sleep(Duration::from_millis(15 * round)).await;
            redis.kill();
        });
        redis.restart();
        for (status, text) in answers {
            match status {
                200 => drop(sent.insert(text)),
                409 | 502..=504 => {}
                other => panic!("{other} for {text}"),
            }
        }
        eventually("the session to send again", || async {
            (gateway.api.text("a", FRIEND, &format!("after {round}")).await.status == 200).then_some(())
        })
        .await;
        sent.insert(format!("after {round}"));
        eventually("everything that was answered with success at the contact", || async {
            let read: BTreeSet<_> = friend.inbox().into_iter().filter_map(|message| message.text).collect();
            sent.is_subset(&read).then_some(())
        })
        .await;
    }
    check(&gateway.simulator);
    assert_eq!(friend.repeated_keys(), 0);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_comes_back_from_it() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.push(("REDIS_URL".to_owned(), redis.url()));
    let mut process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("a").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("a", "connected").await;
    let friend = simulator.phone(FRIEND);
    for round in 0..ROUNDS {
        process.kill();
        let while_down = format!("while down {round}");
        friend.says(NUMBER, &while_down).await.unwrap();
        process = Process::start(&settings, folder.path()).await;
        process.api.wait_status("a", "connected").await;
        receiver.message("a", &while_down).await;
        process.api.text("a", FRIEND, "still there").await.expect(200);
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some("still there"));
    }
    check(&simulator);
    assert!(!folder.path().join("wa_credentials/store").exists(), "nothing is kept on the disk of the gateway");
    let namespaces = redis.ask(&["SMEMBERS", "wa-gateway:namespaces"]);
    assert!(namespaces.contains("credentials:"), "{namespaces}");
    process.api.delete("a").await.expect(200);
    receiver.last_status("a", "disconnected").await;
    assert_eq!(redis.ask(&["SMEMBERS", "wa-gateway:namespaces"]), "registry", "a deleted session leaves nothing");
    assert_eq!(redis.ask(&["KEYS", "wa-gateway:values:*:*"]), "");
    assert_eq!(process.terminate().await.code(), Some(0), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_would_forget_is_refused_at_the_start() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start_with(&["--appendonly", "no", "--requirepass", "hunter2"]);
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.push(("REDIS_URL".to_owned(), redis.url().replace("redis://", "redis://:hunter2@")));
    let output = Command::new(env!("CARGO_BIN_EXE_wa-gateway"))
        .current_dir(folder.path())
        .env_clear()
        .envs(settings.clone())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("REDIS_URL") && told.contains("REDIS_ALLOW_NO_AOF=true"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    settings.push(("REDIS_ALLOW_NO_AOF".to_owned(), "true".to_owned()));
    let process = Process::start(&settings, folder.path()).await;
    process.api.qr("a").await;
    process.says("without append-only file").await;
    assert!(!process.log().contains("hunter2"));
}
