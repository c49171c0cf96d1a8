//! A chat that waits for a file: what goes on meanwhile, in which order, and for how long.

use super::*;
use crate::message::{Attachment, FileKind};

fn of(chat: &str, body: &str) -> NewEvent {
    NewEvent { chat: Some(chat.to_owned()), ..text(body) }
}

#[expect(clippy::unnecessary_wraps, reason = "the events of these tests have a file or none")]
fn file() -> Option<Attachment> {
    Some(Attachment {
        kind: FileKind::Image,
        chat: String::new(),
        sender: String::new(),
        id: String::new(),
        direct_path: "/x".to_owned(),
        media_key: None,
        file_sha256: None,
        file_enc_sha256: None,
        file_length: 1,
        extension: "jpg".to_owned(),
    })
}

async fn commit(outbox: &Outbox, events: impl IntoIterator<Item = (NewEvent, Option<Attachment>)>) {
    outbox.commit_with_files(events.into_iter().collect()).await.unwrap();
}

#[tokio::test]
async fn other_chats_pass_a_chat_that_waits_for_a_file_and_its_own_order_is_kept() {
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    let status = NewEvent::status("uid", &name("a"), Status::Connected);
    commit(&outbox, [(of("x", "x0"), None), (of("x", "x1"), file()), (of("x", "x2"), None), (of("y", "y0"), None)])
        .await;
    commit(&outbox, [(of("y", "y1"), file()), (of("x", "x3"), file()), (of("z", "z0"), None), (status, None)]).await;
    let connected = r#"{"session":"a","status":"connected"}"#;
    assert_eq!(receiver.bodies(4).await, ["x0", "y0", "z0", connected]);
    receiver.assert_silent();
    // The later file of the chat comes first: it goes on waiting behind the earlier one.
    outbox.complete(5, Some("x3 with file".into())).await.unwrap();
    outbox.complete(4, Some("y1 with file".into())).await.unwrap();
    assert_eq!(receiver.bodies(1).await, ["y1 with file"]);
    outbox.complete(1, Some("x1 with file".into())).await.unwrap();
    assert_eq!(receiver.bodies(3).await, ["x1 with file", "x2", "x3 with file"]);
    is_drained(&outbox).await;
    commit(&outbox, [(of("x", "x4"), None)]).await;
    assert_eq!(receiver.bodies(1).await, ["x4"]);
    is_drained(&outbox).await;
    receiver.assert_silent();
    sink.end().await;
}

#[tokio::test]
async fn a_file_that_does_not_come_is_waited_for_no_longer_than_the_limit() {
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let limit = Duration::from_millis(400);
    let sink = Sink::start(receiver.base(), None, RetryPolicy { file_wait: limit, ..quick() });
    let outbox = outbox(&Arc::default(), "a").await;
    let _lane = sink.webhook.attach(outbox.clone());
    let begun = Instant::now();
    commit(&outbox, [(of("x", "x0"), file()), (of("x", "x1"), file()), (of("x", "x2"), None)]).await;
    assert_eq!(receiver.bodies(3).await, ["x0", "x1", "x2"]);
    let took = begun.elapsed();
    assert!(took >= limit && took < DEADLINE / 2, "the limits of one chat run side by side: {took:?}");
    is_drained(&outbox).await;
    assert_eq!(outbox.pending(), [0; 0]);
    // Too late: nothing is posted twice.
    outbox.complete(0, Some("late".into())).await.unwrap();
    commit(&outbox, [(of("x", "x3"), None)]).await;
    assert_eq!(receiver.bodies(1).await, ["x3"]);
    sink.end().await;
}

#[tokio::test]
async fn a_file_is_waited_for_while_those_before_it_are_fetched_and_not_for_ever() {
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let limit = Duration::from_millis(50);
    let sink = Sink::start(receiver.base(), None, RetryPolicy { file_wait: limit, ..quick() });
    let outbox = outbox(&Arc::default(), "a").await;
    outbox.fetching(tokio::time::Instant::now() + limit * 6);
    let _lane = sink.webhook.attach(outbox.clone());
    commit(&outbox, [(of("x", "x0"), file()), (of("x", "x1"), file())]).await;
    outbox.complete(0, Some("x0 with file".into())).await.unwrap();
    assert_eq!(receiver.bodies(2).await, ["x0 with file", "x1"]);
    assert!(!outbox.is_fetching(), "nobody fetched any more");
    // Whoever says so for ever is not believed for ever.
    outbox.fetching(tokio::time::Instant::now() + DEADLINE * 2);
    commit(&outbox, [(of("y", "y0"), file())]).await;
    assert_eq!(receiver.bodies(1).await, ["y0"]);
    assert!(outbox.is_fetching());
    sink.end().await;
}

#[tokio::test]
async fn a_restart_waits_anew_and_hundreds_of_held_messages_keep_their_order() {
    let kv = Arc::new(MemoryKv::default());
    let mut receiver = Receiver::start(|_, _| Say::Status(200)).await;
    let sink = Sink::start(receiver.base(), None, quick());
    let first = outbox(&kv, "a").await;
    let _lane = sink.webhook.attach(first.clone());
    commit(&first, [(of("x", "x"), file())]).await;
    commit(&first, (0..300).map(|n| (of("x", &format!("x{n}")), None))).await;
    commit(&first, [(of("y", "y"), None)]).await;
    assert_eq!(receiver.bodies(1).await, ["y"]);
    sink.end().await;

    let sink = Sink::start(receiver.base(), None, quick());
    let again = outbox(&kv, "a").await;
    assert_eq!(again.pending(), [0]);
    let _lane = sink.webhook.attach(again.clone());
    commit(&again, [(of("y", "y2"), None)]).await;
    assert_eq!(receiver.bodies(1).await, ["y2"]);
    again.complete(0, Some("x".into())).await.unwrap();
    let wanted: Vec<_> = std::iter::once("x".to_owned()).chain((0..300).map(|n| format!("x{n}"))).collect();
    assert_eq!(receiver.bodies(301).await, wanted);
    is_drained(&again).await;
    sink.end().await;
}
