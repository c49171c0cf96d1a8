//! Which rows an event has in the store, and what is made of those that a killed process or an older release left.

use super::*;
use crate::outbox::check;

fn outbox_rows() -> Namespace {
    Namespace::outbox("uid")
}

async fn rows(kv: &MemoryKv) -> Vec<(Bytes, Bytes)> {
    kv.snapshot(&outbox_rows()).await.unwrap()
}

async fn tables(kv: &MemoryKv) -> String {
    rows(kv).await.iter().map(|(key, _)| char::from(key[0])).collect()
}

/// A store with these rows.
async fn store_of(rows: &[(Bytes, Bytes)]) -> Arc<MemoryKv> {
    let kv = Arc::new(MemoryKv::default());
    let put = |batch: Batch, (key, value): &(Bytes, Bytes)| batch.put(key.clone(), value.clone());
    kv.write(&outbox_rows(), rows.iter().fold(Batch::new(), put)).await.unwrap();
    kv
}

#[tokio::test]
async fn a_message_that_waits_is_one_row() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    outbox.commit(vec![event("b")]).await.unwrap();
    assert_eq!(tables(&kv).await, "eem", "with the counters that keep older releases away");
    for _ in 0..2 {
        outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    }
    assert_eq!(tables(&kv).await, "mr");
    for n in 3..=40 {
        let outbox = open(&kv).await;
        outbox.commit(vec![event(&n.to_string())]).await.unwrap();
        outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
        assert_eq!((outbox.counts().delivered, open(&kv).await.counts().delivered), (n, n));
    }
    assert_eq!(tables(&kv).await, "mrrr");
}

#[tokio::test]
async fn a_place_is_taken_as_long_as_its_event_waits() {
    let kv = Arc::new(MemoryKv::default());
    for (place, id) in ["a", "b", "c"].into_iter().enumerate() {
        let outbox = open(&kv).await;
        outbox.commit(vec![event(id)]).await.unwrap();
        assert_eq!(outbox.head(9).await.unwrap().last().unwrap().seq, place as u64);
    }
    let many = PAGES.map(|n| event(&n.to_string())).collect();
    open(&kv).await.commit(many).await.unwrap();
    let outbox = open(&kv).await;
    assert_eq!(outbox.depth().messages, 3 + PAGES.count() as u64);
    outbox.commit(vec![event("d"), event("599"), event("100")]).await.unwrap();
    let last: Vec<_> = outbox.after(601, 9).await.unwrap().into_iter().map(|entry| entry.event.event_id).collect();
    assert_eq!(last, ["599", "d"]);
}

/// More events than are counted at once.
const PAGES: std::ops::Range<u32> = 0..600;

#[tokio::test]
async fn a_process_that_ends_while_an_event_is_done_delivers_it_once_more_at_most() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("z")]).await.unwrap();
    outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    outbox.commit(vec![event("a"), event("b")]).await.unwrap();
    let before = rows(&kv).await;
    outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    let after = rows(&kv).await;

    // In the order in which a loose batch is written: the id is noted, the event goes, the counters follow.
    let noted = |(key, value): &(Bytes, Bytes)| {
        let value = if key[0] == b'r' {
            after.iter().find(|(other, _)| other == key).unwrap().1.clone()
        } else {
            value.clone()
        };
        (key.clone(), value)
    };
    let noted: Vec<_> = before.iter().map(noted).collect();
    let gone: Vec<_> = noted.iter().filter(|(key, _)| *key != key::event_key(1)).cloned().collect();
    assert_ne!((&noted, &gone), (&before, &after));
    for (left, waits) in [(noted, &["a", "b"][..]), (gone, &["b"][..])] {
        let kv = store_of(&left).await;
        let outbox = open(&kv).await;
        assert_eq!(
            (ids(&outbox).await, outbox.depth().messages),
            (waits.iter().map(ToString::to_string).collect(), waits.len() as u64)
        );
        outbox.commit(vec![event("a"), event("z"), event("c")]).await.unwrap();
        for entry in outbox.head(9).await.unwrap() {
            outbox.remove(&entry).await.unwrap();
        }
        for outbox in [open(&kv).await, outbox] {
            outbox.commit(vec![event("a"), event("b"), event("c"), event("z")]).await.unwrap();
            assert_eq!((ids(&outbox).await, outbox.depth()), (Vec::new(), Depth::default()));
        }
        for (key, value) in rows(&kv).await {
            check(&key, &value).unwrap();
        }
    }
}

#[tokio::test]
async fn events_of_an_older_release_are_known_by_the_rows_beside_them() {
    let kv = Arc::new(MemoryKv::default());
    open(&kv).await.commit(vec![event("a"), event("b")]).await.unwrap();
    // As it wrote them: a row with the place of each id, and counters with each event.
    let mut meta = Meta::default();
    meta.add(Kind::Message, 12);
    meta.add(Kind::Message, 12);
    let place = |seq: u64| Bytes::copy_from_slice(&seq.to_be_bytes());
    let older = Batch::new().put(key::id_key("a"), place(0)).put(key::id_key("b"), place(1));
    let counters = [&[1], &meta.encode()[1..]].concat();
    kv.write(&outbox_rows(), older.put(key::META_KEY, counters)).await.unwrap();

    let outbox = open(&kv).await;
    assert_eq!(outbox.depth(), Depth { messages: 2, statuses: 0, bytes: 24 });
    outbox.commit(vec![event("b"), event("c")]).await.unwrap();
    assert_eq!(ids(&outbox).await, ["a", "b", "c"]);
    for entry in outbox.head(9).await.unwrap() {
        outbox.remove(&entry).await.unwrap();
    }
    assert_eq!(tables(&kv).await, "mr");
}

#[tokio::test]
async fn an_event_that_was_put_back_is_not_taken_out_by_who_had_it_before() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    let before = outbox.head(1).await.unwrap().remove(0);
    outbox.bury(&before, 1, None, Cause::Refused).await.unwrap();
    outbox.revive(&Pick::default()).await.unwrap();
    outbox.remove(&before).await.unwrap();
    assert_eq!((ids(&outbox).await, outbox.depth().messages), (vec!["a".to_owned()], 1));
}

/// As the lane reads: behind the last entry that it knows.
#[tokio::test]
async fn a_place_is_not_given_again_after_a_failed_write() {
    let kv = Arc::new(MemoryKv::default());
    let bounds = Bounds { max_bytes: 60, ..Bounds::default() };
    let outbox = open_in(&kv, &common(bounds)).await;
    let status = || NewEvent::status("uid", &name(), Status::Connected);
    outbox.commit(vec![status()]).await.unwrap();
    outbox.commit(vec![status()]).await.unwrap();
    assert_eq!((outbox.counts().shed, outbox.depth().statuses), (1, 1), "the first had to go");
    let deliver = async |id: &str| {
        outbox.commit(vec![event(id)]).await.unwrap();
        let entry = outbox.head(9).await.unwrap().pop().unwrap();
        outbox.remove(&entry).await.unwrap();
        entry.seq
    };
    outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    deliver("a").await;
    let last = deliver("b").await;
    kv.fail_next_write(Fault::Before);
    outbox.commit(vec![event("c")]).await.unwrap_err();
    outbox.commit(vec![event("c")]).await.unwrap();
    assert_eq!(outbox.after(last, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_event_that_waits_twice_is_taken_out_twice() {
    let kv = Arc::new(MemoryKv::default());
    open(&kv).await.commit(vec![event("a"), event("b")]).await.unwrap();
    let row = kv.get(&outbox_rows(), &key::event_key(0)).await.unwrap().unwrap();
    kv.write(&outbox_rows(), Batch::new().put(key::event_key(2), row)).await.unwrap();
    let outbox = open(&kv).await;
    assert_eq!(outbox.depth().messages, 3);
    for entry in outbox.head(9).await.unwrap() {
        outbox.remove(&entry).await.unwrap();
    }
    assert_eq!((ids(&outbox).await, outbox.depth()), (Vec::new(), Depth::default()));
}

#[tokio::test]
async fn letters_of_one_event_come_back_as_one() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    outbox.bury(&outbox.head(1).await.unwrap()[0], 1, None, Cause::Refused).await.unwrap();
    let letter = outbox.dead(None, 1).await.unwrap().remove(0);
    let key = [&b"x"[..], &letter.key.died_ms.to_be_bytes(), &7_u64.to_be_bytes()].concat();
    let rows = rows(&kv).await;
    let (_, value) = rows.iter().find(|(key, _)| key[0] == b'x').unwrap();
    kv.write(&outbox_rows(), Batch::new().put(key, value.clone())).await.unwrap();
    assert_eq!(outbox.revive(&Pick::default()).await.unwrap().events, 1);
    assert_eq!((ids(&outbox).await, outbox.depth().messages), (vec!["a".to_owned()], 1));
}

#[tokio::test]
async fn an_older_release_does_not_open_what_it_would_write_over() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    let counters = kv.get(&outbox_rows(), key::META_KEY).await.unwrap().unwrap();
    assert_ne!(counters[0], 1, "the layout of releases that count each event");
    // Theirs are taken over with the next event.
    let older = [&[1], &counters[1..]].concat();
    kv.write(&outbox_rows(), Batch::new().put(key::META_KEY, older)).await.unwrap();
    let outbox = open(&kv).await;
    outbox.commit(vec![event("b")]).await.unwrap();
    assert_eq!(kv.get(&outbox_rows(), key::META_KEY).await.unwrap().unwrap()[0], counters[0]);
    assert_eq!(ids(&outbox).await, ["a", "b"]);
}
