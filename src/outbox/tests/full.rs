//! A full outbox: what it drops, what it refuses, and until when.

use super::*;

fn bounds(max_bytes: u64) -> Bounds {
    Bounds { max_bytes, ..Bounds::default() }
}

fn status() -> NewEvent {
    NewEvent::status("uid", &name(), Status::Connected)
}

fn sized(id: &str, bytes: usize) -> NewEvent {
    NewEvent { body: vec![b'x'; bytes].into(), ..event(id) }
}

async fn commit(outbox: &Outbox, event: NewEvent) -> Result<(), CommitError> {
    outbox.commit(vec![event]).await
}

#[tokio::test]
async fn what_is_shed_makes_room_once() {
    let outbox = open_in(&Arc::new(MemoryKv::default()), &common(bounds(400))).await;
    for _ in 0..4 {
        commit(&outbox, status()).await.unwrap();
    }
    let each = outbox.depth().bytes / 4;
    commit(&outbox, sized("a", usize::try_from(400 - 4 * each).unwrap())).await.unwrap();
    assert_eq!((outbox.depth().bytes, outbox.counts().shed), (400, 0));
    // One byte more than one of them has needs two of them to go.
    commit(&outbox, sized("b", usize::try_from(each + 1).unwrap())).await.unwrap();
    assert_eq!((outbox.depth().statuses, outbox.counts().shed), (2, 2));
    commit(&outbox, sized("c", usize::try_from(each).unwrap())).await.unwrap();
    assert!(outbox.depth().bytes <= 400, "{:?}", outbox.depth());
    // Whatever goes to make room: an outbox that is empty then takes one body of any size.
    let outbox = open_in(&Arc::new(MemoryKv::default()), &common(bounds(100))).await;
    commit(&outbox, status()).await.unwrap();
    commit(&outbox, sized("large", 500)).await.unwrap();
    assert_eq!((outbox.depth().statuses, outbox.depth().messages), (0, 1));
}

#[tokio::test]
async fn the_oldest_status_events_go_first_and_then_messages_are_refused() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open_in(&kv, &common(bounds(400))).await;
    let first = status();
    commit(&outbox, first.clone()).await.unwrap();
    commit(&outbox, sized("a", 100)).await.unwrap();
    let second = status();
    commit(&outbox, second.clone()).await.unwrap();
    commit(&outbox, sized("b", 200)).await.unwrap();
    assert_eq!((outbox.depth().events(), outbox.counts().shed, outbox.is_full()), (4, 0, false));
    // 378 of 400: one status has to go.
    commit(&outbox, sized("c", 50)).await.unwrap();
    assert_eq!(ids(&outbox).await, ["a", second.event_id.as_str(), "b", "c"]);
    // A status makes room for itself among its like, and only there.
    let third = status();
    commit(&outbox, third.clone()).await.unwrap();
    assert_eq!(ids(&outbox).await, ["a", "b", "c", third.event_id.as_str()]);
    commit(&outbox, sized("d", 40)).await.unwrap();
    assert_eq!(ids(&outbox).await, ["a", "b", "c", "d"]);
    assert_eq!((outbox.counts().shed, outbox.is_full()), (3, false));
    commit(&outbox, status()).await.unwrap();
    assert_eq!((outbox.depth().statuses, outbox.counts().shed), (0, 4), "no room for one more");

    assert!(matches!(commit(&outbox, sized("e", 20)).await, Err(CommitError::Full)));
    assert!(outbox.is_full());
    // None that comes later may pass one that was refused.
    assert!(matches!(commit(&outbox, sized("f", 1)).await, Err(CommitError::Full)));
    let head = outbox.head(1).await.unwrap();
    outbox.remove(&head[0]).await.unwrap();
    assert!(!outbox.is_full() && outbox.is_refusing() && outbox.has_room());
    assert!(matches!(commit(&outbox, sized("f", 1)).await, Err(CommitError::Full)));
    outbox.resume();
    for event in [sized("e", 20), sized("f", 1)] {
        commit(&outbox, event).await.unwrap();
    }
    assert_eq!(ids(&outbox).await, ["b", "c", "d", "e", "f"]);
    let again = open_in(&kv, &common(bounds(400))).await;
    assert_eq!((again.depth(), again.counts()), (outbox.depth(), outbox.counts()), "kept over a restart");
}

#[tokio::test]
async fn one_body_that_is_larger_than_the_outbox_is_taken_by_an_empty_one() {
    let outbox = open_in(&Arc::default(), &common(bounds(100))).await;
    commit(&outbox, sized("a", 1_000)).await.unwrap();
    assert!(matches!(commit(&outbox, sized("b", 1)).await, Err(CommitError::Full)));
}

#[tokio::test]
async fn a_session_keeps_its_part_whatever_another_holds() {
    let kv = Arc::new(MemoryKv::default());
    let common = common(bounds(1_000));
    let open = async |uid: &str| Outbox::open(&common, kv.clone(), uid, name(), None).await.unwrap();
    let (greedy, modest) = (open("greedy").await, open("modest").await);
    commit(&greedy, sized("a", 990)).await.unwrap();
    assert!(matches!(commit(&greedy, sized("b", 20)).await, Err(CommitError::Full)));
    for id in ["a", "b", "c", "d"] {
        commit(&modest, sized(id, 120)).await.unwrap();
    }
    assert!(matches!(commit(&modest, sized("e", 120)).await, Err(CommitError::Full)));
    // What the other gives back is there for all.
    greedy.close().await;
    assert!(modest.has_room() && !modest.is_full());
    modest.resume();
    commit(&modest, sized("e", 120)).await.unwrap();
}
