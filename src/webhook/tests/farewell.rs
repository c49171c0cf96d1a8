//! What a deleted session's last word holds back of the next session of that name, and for how long.

use super::*;
use crate::outbox::Target;

const BYE: &str = r#"{"session":"a","status":"disconnected"}"#;
const HELLO: &str = r#"{"session":"a","status":"connected"}"#;

fn of(chat: &str, body: &str) -> NewEvent {
    NewEvent { chat: Some(chat.to_owned()), ..text(body) }
}

fn hello() -> NewEvent {
    NewEvent::status("next", &name("a"), Status::Connected)
}

fn target(url: impl Into<String>) -> Target {
    Target { url: url.into(), secret: None, events: None }
}

#[tokio::test]
async fn a_farewell_to_another_receiver_holds_nothing_back() {
    let dead = Receiver::start(|_, _| Say::Hang).await;
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let farewells = sink.webhook.farewells(|_| async {});
    let own = Some(target(format!("http://{}", dead.addr)));
    assert!(farewells.say(Farewell { target: own, ..farewell("a", "bye") }));
    let outbox = outbox(&Arc::default(), "a").await;
    let lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![hello(), of("x", "x0")]).await.unwrap();
    assert_eq!(receiver.bodies(2).await, [HELLO, "x0"]);
    is_drained(&outbox).await;
    within("end", lane.detach()).await;
}

#[tokio::test]
async fn a_farewell_comes_first_where_a_sessions_own_receiver_is_the_gateways() {
    let mut receiver = Receiver::start(|n, body| Say::Status(if body == BYE && n < 3 { 500 } else { 200 })).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let farewells = sink.webhook.farewells(|_| async {});
    assert!(farewells.say(farewell("a", "bye")));
    let outbox = outbox(&Arc::default(), "a").await;
    // The same but for the slash.
    outbox.set_target(Some(target(receiver.base().as_str().trim_end_matches('/'))));
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![of("x", "x0")]).await.unwrap();
    assert_eq!(receiver.bodies(5).await, [BYE, BYE, BYE, BYE, "x0"]);
    sink.end().await;
}

#[tokio::test]
async fn a_session_that_gets_another_receiver_does_not_wait_on_for_a_farewell() {
    let mut hangs = Receiver::start(|_, _| Say::Hang).await;
    let mut other = Receiver::start(|_, _| Say::Status(200)).await;
    let sink = Sink::start(hangs.base(), None, RetryPolicy::default());
    let farewells = sink.webhook.farewells(|_| async {});
    assert!(farewells.say(farewell("a", "bye")));
    let outbox = outbox(&Arc::default(), "a").await;
    let lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![of("x", "x0")]).await.unwrap();
    assert_eq!(hangs.next().await.body, BYE);
    outbox.set_target(Some(target(format!("http://{}", other.addr))));
    assert_eq!(other.next().await.body, "x0");
    hangs.assert_silent();
    is_drained(&outbox).await;
    within("end", lane.detach()).await;
}

#[tokio::test]
async fn a_farewell_that_fails_ten_times_holds_back_no_chat_but_what_is_the_sessions_own() {
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_healed = healed.clone();
    let mut receiver = Receiver::start(move |_, body| {
        Say::Status(if body == BYE && !is_healed.load(Ordering::SeqCst) { 500 } else { 200 })
    })
    .await;
    let sink = Sink::start(receiver.base(), None, quick());
    let farewells = sink.webhook.farewells(|_| async {});
    // Its age must not count here.
    assert!(farewells.say(Farewell { at: chrono::Utc::now() + Duration::from_hours(1), ..farewell("a", "bye") }));
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![of("x", "x0"), hello(), of("y", "y0"), of("x", "x1")]).await.unwrap();
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|body| body != "x1") {
        bodies.push(receiver.next().await.body);
    }
    let tries = bodies.iter().take_while(|body| *body == BYE).count();
    assert!(tries >= 10, "{tries}");
    bodies.retain(|body| body != BYE);
    assert_eq!(bodies, ["x0", "y0", "x1"]);
    until("chats' events gone", || outbox.depth().messages == 0).await;
    assert_eq!(outbox.depth().events(), 1, "its status waits");
    healed.store(true, Ordering::SeqCst);
    assert_eq!(receiver.next().await.body, BYE);
    loop {
        let body = receiver.next().await.body;
        if body == HELLO {
            break;
        }
        assert_eq!(body, BYE);
    }
    is_drained(&outbox).await;
    sink.end().await;
}

#[tokio::test]
async fn an_old_farewell_holds_the_chats_back_for_one_attempt_after_a_restart() {
    let mut receiver = Receiver::start(|_, body| Say::Status(if body == BYE { 500 } else { 200 })).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let farewells = sink.webhook.farewells(|_| async {});
    assert!(farewells.say(Farewell { at: chrono::Utc::now() - Duration::from_hours(1), ..farewell("a", "bye") }));
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![hello(), of("x", "x0")]).await.unwrap();
    assert_eq!(receiver.next().await.body, BYE);
    while receiver.next().await.body == BYE {}
    until("chats' events gone", || outbox.depth().messages == 0).await;
    assert_eq!(outbox.depth().events(), 1);
    sink.end().await;
}
