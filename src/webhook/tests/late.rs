//! Receivers that answer after an attempt's time, all of them or only for one body.

use super::*;

/// Attempts that end long before a test does, and the next one after it.
fn once() -> RetryPolicy {
    let never = Duration::from_hours(1);
    RetryPolicy { attempt_limit: Duration::from_millis(300), first_delay: never, max_delay: never, ..quick() }
}

fn of(chat: &str, body: &str) -> NewEvent {
    NewEvent { chat: Some(chat.to_owned()), ..text(body) }
}

async fn is_tried(outbox: &Outbox) {
    within("a failed attempt", async {
        while outbox.head(1).await.unwrap()[0].attempts < 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_next_attempt_counts() {
    // In the place of the head, and put back as one that blocks its chat.
    for aside_after in [10, 1] {
        let release = Arc::new(Notify::new());
        let held = release.clone();
        let mut receiver = Receiver::start(move |_, body| match body {
            "x0" => Say::Held(held.clone()),
            _ => Say::Status(200),
        })
        .await;
        let sink = Sink::start(receiver.base(), None, RetryPolicy { aside_after, ..once() });
        let outbox = outbox(&Arc::default(), "a").await;
        let _lane = sink.webhook.attach(outbox.clone());
        outbox.commit(vec![of("x", "x0"), of("x", "x1")]).await.unwrap();
        is_tried(&outbox).await;
        release.notify_one();
        is_drained(&outbox).await;
        assert_eq!(receiver.bodies(2).await, ["x0", "x1"]);
        receiver.assert_silent();
        assert_eq!(outbox.counts().delivered, 2);
        sink.end().await;
    }
}

#[tokio::test]
async fn a_farewell_that_is_answered_late_is_delivered() {
    let release = Arc::new(Notify::new());
    let held = release.clone();
    let mut receiver = Receiver::start(move |_, body| match body {
        "again" => Say::Status(200),
        _ => Say::Held(held.clone()),
    })
    .await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy { aside_after: 1, ..once() });
    let (forgotten, mut forgets) = mpsc::channel(1);
    let farewells = sink.webhook.farewells(move |key| send(forgotten.clone(), key));
    assert!(farewells.say(farewell("a", "bye")));
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![of("x", "again")]).await.unwrap();
    receiver.next().await;
    // It let the chats pass: its time is over.
    assert_eq!(receiver.next().await.body, "again");
    release.notify_one();
    assert_eq!(within("forgetting", forgets.recv()).await.unwrap(), "key of bye");
    sink.end().await;
}

#[tokio::test]
async fn a_receiver_that_is_always_late_gets_everything_in_the_order_of_each_chat() {
    let mut receiver = Receiver::start(|_, _| Say::Late(Duration::from_millis(60))).await;
    let policy = RetryPolicy { attempt_limit: Duration::from_millis(30), aside_after: 2, ..quick() };
    let policy = RetryPolicy { max_delay: Duration::from_millis(500), ..policy };
    let sink = Sink::start(receiver.base(), None, policy);
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    let bodies = ["x0", "y0", "x1", "z0", "y1", "x2"];
    outbox.commit(bodies.iter().map(|body| of(&body[..1], body)).collect()).await.unwrap();
    is_drained(&outbox).await;
    assert_eq!((outbox.counts().delivered, outbox.counts().dead), (6, 0));
    let mut order = Vec::new();
    while let Ok(arrived) = receiver.arrived.try_recv() {
        if !order.contains(&arrived.body) {
            order.push(arrived.body);
        }
    }
    for chat in ["x", "y", "z"] {
        let of_chat: Vec<_> = order.iter().filter(|body| body.starts_with(chat)).collect();
        assert!(of_chat.is_sorted(), "{order:?}");
    }
    assert_eq!(order.len(), 6);
    sink.end().await;
}

#[tokio::test]
async fn a_chat_whose_head_hangs_steps_aside_like_one_that_fails() {
    let mut receiver = Receiver::start(|_, body| if body == "poison" { Say::Hang } else { Say::Status(200) }).await;
    let policy = RetryPolicy { attempt_limit: Duration::from_millis(300), aside_after: 3, ..quick() };
    let sink = Sink::start(receiver.base(), None, policy);
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    outbox.commit(vec![of("x", "poison"), of("x", "x1"), of("y", "y0"), of("z", "z0"), of("y", "y1")]).await.unwrap();
    let mut bodies = Vec::new();
    while bodies.len() < 3 {
        let body = receiver.next().await.body;
        if body != "poison" {
            bodies.push(body);
        }
    }
    assert_eq!(bodies, ["y0", "z0", "y1"]);
    until("the others gone", || outbox.depth().messages == 2).await;
    sink.end().await;
}
