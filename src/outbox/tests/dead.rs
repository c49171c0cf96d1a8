//! Dead letters: kept, bounded, put back.

use std::time::Duration;

use super::*;

async fn bury(outbox: &Outbox, id: &str, cause: Cause) {
    outbox.commit(vec![event(id)]).await.unwrap();
    let entry = outbox.head(1).await.unwrap().remove(0);
    outbox.bury(&entry, 7, Some("status 400".to_owned()), cause).await.unwrap();
}

async fn dead(outbox: &Outbox) -> Vec<String> {
    outbox.dead(None, 99).await.unwrap().into_iter().map(|letter| letter.event.event_id).collect()
}

#[tokio::test]
async fn a_letter_is_kept_as_it_was_over_a_reopening() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    let entry = outbox.head(1).await.unwrap().remove(0);
    outbox.bury(&entry, 7, Some("status 400".to_owned()), Cause::Refused).await.unwrap();
    for outbox in [open(&kv).await, outbox] {
        assert_eq!((outbox.depth(), outbox.counts().dead, outbox.counts().dead_bytes), (Depth::default(), 1, 12));
        let letter = outbox.dead(None, 9).await.unwrap().remove(0);
        assert_eq!((letter.event, letter.first_at), (entry.event.clone(), entry.committed_at));
        assert_eq!((letter.attempts, letter.answer.as_deref(), letter.cause), (7, Some("status 400"), Cause::Refused));
        assert!(letter.died_at >= letter.first_at);
        // WhatsApp sends it again after a lost acknowledgement: it is done all the same.
        outbox.commit(vec![event("a")]).await.unwrap();
        assert_eq!(ids(&outbox).await, [""; 0]);
        // Again is safe.
        outbox.bury(&entry, 7, None, Cause::Refused).await.unwrap();
        assert_eq!(outbox.counts().dead, 1);
    }
}

#[tokio::test]
async fn letters_are_put_back_by_id_by_time_or_all_and_keep_their_ids() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    for id in ["a", "b", "c", "d"] {
        bury(&outbox, id, Cause::GivenUp).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let times: Vec<_> = outbox.dead(None, 9).await.unwrap().iter().map(|letter| letter.first_at).collect();
    let by_id = Pick { event_ids: Some(vec!["c".to_owned(), "nope".to_owned(), "c".to_owned()]), ..Pick::default() };
    assert_eq!(outbox.revive(&by_id).await.unwrap(), Revived { events: 1, full: false });
    assert_eq!(
        (ids(&outbox).await, dead(&outbox).await),
        (vec!["c".to_owned()], vec!["a".into(), "b".into(), "d".into()])
    );
    assert_eq!(outbox.revive(&by_id).await.unwrap().events, 0);
    let by_time = Pick { from: Some(times[1]), to: Some(times[2]), ..Pick::default() };
    assert_eq!(outbox.revive(&by_time).await.unwrap().events, 1);
    assert_eq!(ids(&outbox).await, ["c", "b"]);
    let entry = outbox.head(1).await.unwrap().remove(0);
    assert_eq!((entry.first_at, entry.attempts, entry.next_at), (times[2], 0, None));
    assert!(entry.committed_at > entry.first_at, "it has its whole time once more");
    assert_eq!(outbox.revive(&Pick::default()).await.unwrap().events, 2);
    assert_eq!(ids(&outbox).await, ["c", "b", "a", "d"]);
    assert_eq!((outbox.counts().dead, outbox.counts().dead_bytes, outbox.depth().messages), (0, 0, 4));
    // It may die again, under its first time.
    let entry = outbox.head(1).await.unwrap().remove(0);
    outbox.bury(&entry, 1, None, Cause::Refused).await.unwrap();
    assert_eq!(outbox.dead(None, 9).await.unwrap()[0].first_at, times[2]);
    assert_eq!(kv.get(&Namespace::outbox("uid"), &key::id_key("c")).await.unwrap(), None);
}

#[tokio::test]
async fn the_oldest_letters_go_when_there_are_too_many_or_too_large() {
    for bounds in [Bounds { dead_count: 2, ..Bounds::default() }, Bounds { dead_bytes: 30, ..Bounds::default() }] {
        let outbox = open_in(&Arc::default(), &common(bounds)).await;
        for id in ["a", "b", "c", "d"] {
            bury(&outbox, id, Cause::Refused).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(dead(&outbox).await, ["c", "d"]);
        assert_eq!((outbox.counts().dead, outbox.counts().dead_dropped), (2, 2));
        let gone = Pick { event_ids: Some(vec!["a".to_owned()]), ..Pick::default() };
        assert_eq!(outbox.revive(&gone).await.unwrap().events, 0);
    }
}

#[tokio::test]
async fn letters_that_are_too_old_go() {
    let outbox =
        open_in(&Arc::default(), &common(Bounds { dead_age: Duration::from_millis(1), ..Bounds::default() })).await;
    for id in ["a", "b"] {
        bury(&outbox, id, Cause::Refused).await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    outbox.expire_dead().await.unwrap();
    assert_eq!((dead(&outbox).await, outbox.counts().dead), (vec![], 0));
}

#[tokio::test]
async fn more_letters_than_one_batch_are_listed_in_pages_and_put_back_in_order_until_there_is_no_room() {
    let kv = Arc::new(MemoryKv::default());
    let bounds = Bounds { max_bytes: 2_000, ..Bounds::default() };
    let outbox = open_in(&kv, &common(bounds)).await;
    let wanted: Vec<String> = (0..150).map(|n| format!("{n:03}")).collect();
    for id in &wanted {
        bury(&outbox, id, Cause::Refused).await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = outbox.dead(after, 40).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        seen.extend(page.into_iter().map(|letter| letter.event.event_id));
    }
    assert_eq!(seen, wanted);
    // Each body has 14 bytes: 142 fit.
    assert_eq!(outbox.revive(&Pick::default()).await.unwrap(), Revived { events: 142, full: true });
    assert_eq!(ids(&outbox).await, wanted[..142]);
    assert_eq!(dead(&outbox).await, wanted[142..]);
    assert!(!outbox.is_refusing());
}

#[test]
fn counters_of_an_older_release_are_read() {
    let old = [vec![1], [3_u64, 1, 2, 0, 24].map(u64::to_be_bytes).concat()].concat();
    let meta = Meta::decode(&old).unwrap();
    assert_eq!((meta.depth, meta.counts), (Depth { messages: 2, statuses: 0, bytes: 24 }, Counts::default()));
    assert_eq!(Meta::decode(&meta.encode()), Some(meta));
}
