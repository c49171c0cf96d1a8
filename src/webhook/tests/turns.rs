//! Posts take turns when they begin, and none holds its turn for long.

use super::*;

#[tokio::test]
async fn hundreds_of_posts_that_hang_do_not_hold_up_another() {
    let mut receiver = Receiver::start(|_, body| if body == "slow" { Say::Hang } else { Say::Status(200) }).await;
    let sink = Sink::start(receiver.base(), None, RetryPolicy::default());
    let kv = Arc::new(MemoryKv::default());
    let mut lanes = Vec::new();
    for n in 0..200 {
        let slow = outbox(&kv, &format!("slow {n}")).await;
        slow.commit(vec![text("slow")]).await.unwrap();
        lanes.push(sink.webhook.attach(slow));
    }
    let swift = outbox(&kv, "swift").await;
    swift.commit(texts(0..50)).await.unwrap();
    lanes.push(sink.webhook.attach(swift.clone()));
    is_drained(&swift).await;
    let bodies = receiver.bodies(250).await;
    assert_eq!(bodies.iter().filter(|body| *body == "slow").count(), 200, "each of them was begun");
    for lane in lanes {
        within("detach", lane.detach()).await;
    }
    sink.end().await;
}
