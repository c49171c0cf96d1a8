//! A body that no receiver takes, a receiver that is down, and how the lane tells one from the other.

use super::*;
use crate::outbox::{Cause, Pick, Target};

fn of(chat: &str, body: &str) -> NewEvent {
    NewEvent { chat: Some(chat.to_owned()), ..text(body) }
}

async fn commit(outbox: &Outbox, events: &[(&str, &str)]) {
    outbox.commit(events.iter().map(|(chat, body)| of(chat, body)).collect()).await.unwrap();
}

/// The bodies that the receiver took, once each: what comes next is asked for until all are there.
async fn taken(receiver: &mut Receiver, n: usize, takes: impl Fn(&str) -> bool) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < n {
        let body = receiver.next().await.body;
        if takes(&body) {
            bodies.push(body);
        }
    }
    bodies
}

#[tokio::test]
async fn a_chat_whose_head_fails_ten_times_steps_aside_and_keeps_its_order() {
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_healed = healed.clone();
    let mut receiver = Receiver::start(move |_, body| {
        Say::Status(if body == "poison" && !is_healed.load(Ordering::SeqCst) { 500 } else { 200 })
    })
    .await;
    let sink = Sink::start(receiver.base(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("x", "poison"), ("x", "x1"), ("y", "y0"), ("z", "z0"), ("y", "y1"), ("x", "x2")]).await;
    // Nothing else before ten failures.
    for attempt in 0..10 {
        assert_eq!(receiver.next().await.body, "poison", "attempt {attempt}");
    }
    assert_eq!(taken(&mut receiver, 3, |body| body != "poison").await, ["y0", "z0", "y1"]);
    // What comes later is not held up, and the poisonous one goes on being tried.
    commit(&outbox, &[("y", "y2"), ("x", "x3")]).await;
    assert_eq!(taken(&mut receiver, 1, |body| body != "poison").await, ["y2"]);
    let before = outbox.head(1).await.unwrap()[0].attempts;
    within("more attempts", async {
        while outbox.head(1).await.unwrap()[0].attempts < before + 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(outbox.depth().messages, 4, "its chat waits behind it");
    healed.store(true, Ordering::SeqCst);
    is_drained(&outbox).await;
    let mut order = Vec::new();
    while let Ok(arrived) = receiver.arrived.try_recv() {
        order.push(arrived.body);
    }
    order.dedup();
    assert_eq!(order, ["poison", "x1", "x2", "x3"]);
    sink.end().await;
}

#[tokio::test]
async fn two_poisonous_chats_step_aside_one_after_the_other() {
    let mut receiver = Receiver::start(|_, body| Say::Status(if body.starts_with("bad") { 503 } else { 200 })).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("x", "bad x"), ("y", "bad y"), ("z", "z0"), ("z", "z1"), ("w", "w0")]).await;
    assert_eq!(taken(&mut receiver, 3, |body| !body.starts_with("bad")).await.len(), 3);
    commit(&outbox, &[("v", "v0")]).await;
    assert_eq!(taken(&mut receiver, 1, |body| !body.starts_with("bad")).await, ["v0"]);
    until("the good ones gone", || outbox.depth().messages == 2).await;
    sink.end().await;
}

#[tokio::test]
async fn after_an_outage_everything_comes_oldest_first() {
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_up = up.clone();
    let mut receiver =
        Receiver::start(move |_, _| Say::Status(if is_up.load(Ordering::SeqCst) { 200 } else { 503 })).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    let chats = ["v", "w", "x", "y", "z"];
    let wanted: Vec<String> = (0..60).map(|n| format!("{n:02}")).collect();
    for (n, body) in wanted.iter().enumerate() {
        commit(&outbox, &[(chats[n % chats.len()], body)]).await;
    }
    // The outage lasts for longer than the ten failures of the oldest.
    within("failures", async {
        while outbox.head(1).await.unwrap()[0].attempts < 14 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(outbox.depth().messages, 60, "nothing was lost meanwhile");
    up.store(true, Ordering::SeqCst);
    is_drained(&outbox).await;
    let mut bodies = Vec::new();
    while let Ok(arrived) = receiver.arrived.try_recv() {
        bodies.push(arrived.body);
    }
    let last: Vec<String> = bodies.split_off(bodies.len() - 60);
    // The oldest may have been tried just before the return and another chat's just after: these two change places.
    let late = last.iter().zip(&wanted).filter(|(is, wanted)| is != wanted).count();
    assert!(late <= 2, "{last:?}");
    for chat in 0..5 {
        let of_chat = |all: &[String]| -> Vec<String> {
            all.iter().filter(|body| body.parse::<usize>().unwrap() % 5 == chat).cloned().collect()
        };
        assert_eq!(of_chat(&last), of_chat(&wanted));
    }
    assert_eq!(outbox.counts().delivered, 60);
    assert!(outbox.counts().failed >= 14);
    sink.end().await;
}

#[tokio::test]
async fn an_event_of_another_chat_that_comes_while_a_poisonous_one_waits_is_not_held_up() {
    let mut receiver = Receiver::start(|_, body| match body {
        // Long after this test.
        "poison" => Say::After(503, "3600"),
        _ => Say::Status(200),
    })
    .await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy { aside_after: 1, ..quick() });
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("x", "poison")]).await;
    assert_eq!(receiver.next().await.body, "poison");
    commit(&outbox, &[("x", "x1"), ("y", "y0")]).await;
    assert_eq!(receiver.next().await.body, "y0");
    let status = NewEvent::status("uid", &name("a"), Status::Connected);
    outbox.commit(vec![status]).await.unwrap();
    assert_eq!(receiver.next().await.uri.path(), "/hook/session");
    sink.end().await;

    // A restart knows that it stepped aside.
    let sink = Sink::start(receiver.base(), None, RetryPolicy { aside_after: 1, ..quick() });
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("y", "y1")]).await;
    assert_eq!(receiver.next().await.body, "y1");
    receiver.assert_silent();
    sink.end().await;
}

#[tokio::test]
async fn what_is_refused_or_given_up_is_a_dead_letter_and_can_be_replayed() {
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_mended = mended.clone();
    let mut receiver = Receiver::start(move |_, body| {
        Say::Status(match body {
            _ if is_mended.load(Ordering::SeqCst) => 200,
            "refused" => 422,
            "failing" => 500,
            _ => 200,
        })
    })
    .await;
    let policy = RetryPolicy { give_up_after: Duration::from_millis(300), ..quick() };
    let sink = Sink::start(receiver.base(), None, policy);
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("x", "refused"), ("x", "failing"), ("x", "fine")]).await;
    is_drained(&outbox).await;
    let letters = outbox.dead(None, 9).await.unwrap();
    let told: Vec<_> =
        letters.iter().map(|letter| (letter.event.event_id.as_str(), letter.cause, letter.answer.as_deref())).collect();
    assert_eq!(
        told,
        [("refused", Cause::Refused, Some("status 422")), ("failing", Cause::GivenUp, Some("status 500"))]
    );
    assert_eq!(letters[0].attempts, 1);
    assert!(letters[1].attempts >= 2);
    assert_eq!(outbox.counts().delivered, 1);
    assert_eq!(outbox.counts().failed, u64::from(letters[0].attempts + letters[1].attempts));
    while receiver.arrived.try_recv().is_ok() {}
    mended.store(true, Ordering::SeqCst);
    assert_eq!(outbox.revive(&Pick::default()).await.unwrap().events, 2);
    let again = receiver.next().await;
    assert_eq!((again.body.as_str(), again.headers["x-event-id"].to_str().unwrap()), ("refused", "refused"));
    assert_eq!(receiver.next().await.body, "failing");
    is_drained(&outbox).await;
    assert_eq!((outbox.counts().dead, outbox.counts().delivered), (0, 3));
    sink.end().await;
}

#[tokio::test]
async fn what_waited_too_long_is_not_tried() {
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let bounds = Bounds { max_age: Duration::from_millis(1), ..Bounds::default() };
    let common = Arc::new(Common::new(bounds, Kinds::default(), true));
    let outbox = Outbox::open(&common, Arc::new(MemoryKv::default()), "a", name("a"), None).await.unwrap();
    outbox.commit(vec![NewEvent::status("uid", &name("a"), Status::Connected), text("old")]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let _lane = sink.webhook.attach(outbox.clone());
    is_drained(&outbox).await;
    receiver.assert_silent();
    let letters = outbox.dead(None, 9).await.unwrap();
    assert_eq!((letters.len(), letters[0].cause, letters[0].attempts), (1, Cause::TooOld, 0));
    assert_eq!((outbox.counts().shed, outbox.counts().dead), (1, 1));
    sink.end().await;
}

#[tokio::test]
async fn a_session_has_a_receiver_of_its_own() {
    let mut global = Receiver::start(|_, _| Say::Status(200)).await;
    let mut own = Receiver::start(|_, _| Say::Status(200)).await;
    let sink = Sink::signing(global.base(), Some("secret"), Some("global"), quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("x", "1")]).await;
    assert_eq!(global.next().await.body, "1");
    let url = format!("http://{}/own?token=1", own.addr);
    outbox.set_target(Some(Target { url: url.clone(), secret: Some("mine".to_owned()), events: None }));
    commit(&outbox, &[("x", "2")]).await;
    let arrived = own.next().await;
    assert_eq!((arrived.body.as_str(), arrived.uri.to_string().as_str()), ("2", "/own/message?token=1"));
    assert_eq!(arrived.headers["key"], "", "the key opens the whole gateway");
    let signature = arrived.headers["x-webhook-signature"].to_str().unwrap();
    let time: i64 = signature[2..].split(',').next().unwrap().parse().unwrap();
    assert_eq!(signature, sign::sign(&SecretString::from("mine"), time, b"2").to_str().unwrap());
    outbox.set_target(Some(Target { url, secret: None, events: None }));
    commit(&outbox, &[("x", "3")]).await;
    let arrived = own.next().await;
    let signature = arrived.headers["x-webhook-signature"].to_str().unwrap();
    let time: i64 = signature[2..].split(',').next().unwrap().parse().unwrap();
    assert_eq!(signature, sign::sign(&SecretString::from("global"), time, b"3").to_str().unwrap());
    outbox.set_target(None);
    commit(&outbox, &[("x", "4")]).await;
    assert_eq!(global.next().await.body, "4");
    global.assert_silent();
    own.assert_silent();
    sink.end().await;
}

#[tokio::test]
async fn another_receiver_is_tried_at_once_and_none_is_waited_for() {
    let down = Receiver::start(|_, _| Say::After(503, "3600")).await;
    let mut up = Receiver::start(|_, _| Say::Status(200)).await;
    let sink = Sink::start(None, None, quick());
    let nobody = Arc::new(Common::new(Bounds::default(), Kinds::default(), false));
    let target =
        |receiver: &Receiver| Some(Target { url: format!("http://{}", receiver.addr), secret: None, events: None });
    let outbox = Outbox::open(&nobody, Arc::new(MemoryKv::default()), "a", name("a"), target(&down)).await.unwrap();
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("x", "1"), ("y", "2")]).await;
    within("a failed attempt", async {
        while outbox.head(1).await.unwrap()[0].attempts < 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    outbox.set_target(None);
    commit(&outbox, &[("x", "nobody wants it")]).await;
    assert_eq!(outbox.depth().messages, 2);
    outbox.set_target(target(&up));
    assert_eq!(up.bodies(2).await, ["1", "2"]);
    is_drained(&outbox).await;
    sink.end().await;
}

#[tokio::test]
async fn a_forbidden_address_is_not_posted_to() {
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let denying = super::super::Receiver { private_urls: false, ..Default::default() };
    let sink = Sink::posting(denying, quick());
    let nobody = Arc::new(Common::new(Bounds::default(), Kinds::default(), false));
    let target = Target { url: format!("http://{}", receiver.addr), secret: None, events: None };
    let kv = Arc::new(MemoryKv::default());
    let outbox = Outbox::open(&nobody, kv, "a", name("a"), Some(target)).await.unwrap();
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, &[("x", "1")]).await;
    within("failed attempts", async {
        while outbox.head(1).await.unwrap()[0].attempts < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    receiver.assert_silent();
    sink.end().await;
}
