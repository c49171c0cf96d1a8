use chrono::DateTime;

use super::memory::{Fault, MemoryKv};
use super::*;
use crate::event::Status;
use crate::message::incoming::{Attachment, Content, ContentKind, FileKind, Incoming, Media};

mod dead;
mod full;
mod rows;

fn name() -> SessionName {
    SessionName::parse("shop").unwrap()
}

fn event(id: &str) -> NewEvent {
    let body = Bytes::from(format!("{{\"text\":\"{id}\"}}"));
    NewEvent { event_id: id.to_owned(), kind: Kind::Message, chat: Some("1@s.whatsapp.net".to_owned()), body }
}

fn common(bounds: Bounds) -> Arc<Common> {
    Arc::new(Common::new(bounds, Kinds::default(), true))
}

async fn open(kv: &Arc<MemoryKv>) -> Outbox {
    open_in(kv, &common(Bounds::default())).await
}

async fn open_in(kv: &Arc<MemoryKv>, common: &Arc<Common>) -> Outbox {
    Outbox::open(common, kv.clone(), "uid", name(), None).await.unwrap()
}

async fn ids(outbox: &Outbox) -> Vec<String> {
    outbox.head(usize::MAX).await.unwrap().into_iter().map(|entry| entry.event.event_id).collect()
}

#[tokio::test]
async fn events_wait_in_order_and_over_a_reopening() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a"), event("b")]).await.unwrap();
    outbox.commit(vec![NewEvent::status("uid", &name(), Status::Connected)]).await.unwrap();
    assert_eq!(outbox.depth(), Depth { messages: 2, statuses: 1, bytes: 24 + 39 });

    let again = open(&kv).await;
    assert_eq!(again.depth(), outbox.depth());
    again.commit(vec![event("c")]).await.unwrap();
    let entries = again.head(10).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(entries[0].event, event("a"));
    assert_eq!(entries[3].event, event("c"));
    assert_eq!(entries[2].event.body, r#"{"session":"shop","status":"connected"}"#);
    assert_eq!(again.head(2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn sequence_numbers_are_not_reused_when_all_is_delivered() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    assert_eq!(outbox.depth(), Depth::default());
    let again = open(&kv).await;
    again.commit(vec![event("b")]).await.unwrap();
    assert_eq!(again.head(1).await.unwrap()[0].seq, 1);
}

#[tokio::test]
async fn an_event_is_kept_once_while_it_waits_and_shortly_after() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a"), event("a")]).await.unwrap();
    outbox.commit(vec![event("a"), event("b")]).await.unwrap();
    assert_eq!(ids(&outbox).await, ["a", "b"]);
    outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    outbox.commit(vec![event("a")]).await.unwrap();
    open(&kv).await.commit(vec![event("a")]).await.unwrap();
    assert_eq!(ids(&outbox).await, ["b"]);
    assert_eq!(outbox.depth().events(), 1);
}

#[tokio::test]
async fn ids_are_forgotten_oldest_first_and_the_memory_of_them_is_bounded() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    for n in 0..=RECENT_IDS {
        outbox.commit(vec![event(&format!("{n}"))]).await.unwrap();
        outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    }
    // The ids, sixteen to a row, and the counters are all that is left.
    assert_eq!(kv.snapshot(&Namespace::outbox("uid")).await.unwrap().len(), RECENT_IDS.div_ceil(16) + 1);
    for outbox in [open(&kv).await, outbox] {
        outbox.commit(vec![event("1")]).await.unwrap();
        assert_eq!(ids(&outbox).await, [""; 0]);
    }
    let outbox = open(&kv).await;
    outbox.commit(vec![event("0")]).await.unwrap();
    assert_eq!(ids(&outbox).await, ["0"]);
}

#[tokio::test]
async fn a_write_that_failed_leaves_no_doubt_behind() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    for (fault, id) in [(Fault::Before, "b"), (Fault::After, "c")] {
        kv.fail_next_write(fault);
        assert!(matches!(outbox.commit(vec![event(id)]).await, Err(CommitError::Store(KvError::Engine(_)))));
        outbox.commit(vec![event(id)]).await.unwrap();
    }
    assert_eq!(ids(&outbox).await, ["a", "b", "c"]);
    assert_eq!(outbox.depth().messages, 3);

    let head = outbox.head(1).await.unwrap().remove(0);
    kv.fail_next_write(Fault::After);
    assert!(outbox.remove(&head).await.is_err());
    outbox.remove(&head).await.unwrap();
    assert_eq!(ids(&outbox).await, ["b", "c"]);
    assert_eq!(outbox.depth().messages, 2);
}

#[tokio::test]
async fn a_late_write_of_another_handle_is_noticed() {
    let kv = Arc::new(MemoryKv::default());
    let (one, two) = (open(&kv).await, open(&kv).await);
    one.commit(vec![event("a")]).await.unwrap();
    two.commit(vec![event("a"), event("b")]).await.unwrap();
    one.commit(vec![event("c")]).await.unwrap();
    assert_eq!(ids(&one).await, ["a", "b", "c"]);
    assert_eq!(one.depth().messages, 3);
}

#[tokio::test]
async fn attempts_are_kept_over_a_reopening() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a"), event("b")]).await.unwrap();
    let next_at = DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
    outbox.mark_attempt(0, next_at, 3).await.unwrap();
    let entries = open(&kv).await.head(2).await.unwrap();
    assert_eq!((entries[0].attempts, entries[0].next_at), (3, Some(next_at)));
    assert_eq!((entries[1].attempts, entries[1].next_at), (0, None));
    outbox.remove(&entries[0]).await.unwrap();
    assert_eq!(kv.get(&Namespace::outbox("uid"), &key::attempt_key(0)).await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_outbox_takes_nothing() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.close().await;
    assert!(matches!(outbox.commit(vec![event("a")]).await, Err(CommitError::Store(KvError::Fenced))));
    assert_eq!(kv.namespaces().await.unwrap(), []);
}

#[tokio::test]
async fn what_nobody_wants_is_not_stored() {
    let nobody = Arc::new(Common::new(Bounds::default(), Kinds::default(), false));
    let kv = Arc::new(MemoryKv::default());
    let outbox = open_in(&kv, &nobody).await;
    outbox.commit(vec![event("a")]).await.unwrap();
    assert_eq!((ids(&outbox).await, outbox.depth()), (vec![], Depth::default()));
    assert!(!outbox.has_receiver() && kv.namespaces().await.unwrap().is_empty());

    let status = || NewEvent::status("uid", &name(), Status::Connected);
    let own = |events: Option<Vec<Kind>>| Some(Target { url: "http://bot".to_owned(), secret: None, events });
    outbox.set_target(own(Some(vec![Kind::Message])));
    outbox.commit(vec![event("b"), status()]).await.unwrap();
    assert_eq!(ids(&outbox).await, ["b"]);
    outbox.set_target(own(None));
    outbox.commit(vec![event("c"), status()]).await.unwrap();
    assert_eq!(outbox.depth(), Depth { messages: 2, statuses: 1, bytes: 24 + 39 });
    assert!(!format!("{:?}", outbox.target().unwrap()).contains("bot"));
}

#[tokio::test]
async fn an_unreadable_entry_does_not_block_the_ones_behind() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a"), event("b")]).await.unwrap();
    kv.write(&Namespace::outbox("uid"), Batch::new().put(key::event_key(0), "\u{7f}junk")).await.unwrap();
    assert_eq!(ids(&outbox).await, ["b"]);
    assert_eq!(kv.get(&Namespace::outbox("uid"), &key::event_key(0)).await.unwrap(), None);
}

fn file(id: &str) -> Attachment {
    Attachment {
        kind: FileKind::Image,
        chat: "1@s.whatsapp.net".to_owned(),
        sender: "1@s.whatsapp.net".to_owned(),
        id: id.to_owned(),
        direct_path: "/v/x".to_owned(),
        media_key: Some(vec![1; 32]),
        file_sha256: None,
        file_enc_sha256: Some(vec![2; 32]),
        file_length: 5,
        extension: "jpg".to_owned(),
    }
}

#[tokio::test]
async fn an_event_with_a_file_is_pending_until_it_is_completed_over_a_reopening_too() {
    let kv = Arc::new(MemoryKv::default());
    let first = open(&kv).await;
    first.commit_with_files(vec![(event("a"), None), (event("b"), Some(file("b")))]).await.unwrap();
    first.commit_with_files(vec![(event("c"), Some(file("c")))]).await.unwrap();
    assert_eq!(first.pending(), [1, 2]);
    for outbox in [first, open(&kv).await] {
        tokio::time::timeout(std::time::Duration::from_secs(5), outbox.attached()).await.expect("it is told");
        assert_eq!(outbox.pending(), [1, 2]);
        assert_eq!(outbox.file(1).await.unwrap(), Some((event("b"), file("b"))));
        let pending: Vec<_> = outbox.head(9).await.unwrap().iter().map(|entry| entry.pending).collect();
        assert_eq!(pending, [false, true, true]);
    }
    let outbox = open(&kv).await;
    outbox.complete(1, Some(Bytes::from_static(b"{}"))).await.unwrap();
    outbox.complete(2, None).await.unwrap();
    assert_eq!((outbox.pending(), outbox.file(1).await.unwrap()), (vec![], None));
    let entry = outbox.entry(1).await.unwrap().unwrap();
    assert_eq!((entry.pending, &entry.event.body[..], entry.event.event_id.as_str()), (false, &b"{}"[..], "b"));
    assert_eq!(outbox.entry(2).await.unwrap().unwrap().event, event("c"));
    assert_eq!(outbox.depth(), Depth { messages: 3, statuses: 0, bytes: 12 + 2 + 12 });
    for entry in outbox.head(9).await.unwrap() {
        outbox.remove(&entry).await.unwrap();
    }
    outbox.complete(1, Some(Bytes::from_static(b"late"))).await.unwrap();
    assert_eq!((ids(&outbox).await, outbox.depth()), (vec![], Depth::default()));
}

#[tokio::test]
async fn an_event_that_goes_out_without_its_file_is_not_pending_any_more() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit_with_files(vec![(event("a"), Some(file("a")))]).await.unwrap();
    outbox.remove(&outbox.head(1).await.unwrap()[0]).await.unwrap();
    assert_eq!((outbox.pending(), open(&kv).await.pending()), (vec![], vec![]));
    assert_eq!(kv.get(&Namespace::outbox("uid"), &key::file_key(0)).await.unwrap(), None);
}

#[tokio::test]
async fn entries_are_read_on_from_any_place() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(vec![event("a"), event("b"), event("c")]).await.unwrap();
    let behind = |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.seq).collect::<Vec<_>>();
    assert_eq!(behind(outbox.after(0, 9).await.unwrap()), [1, 2]);
    assert_eq!(behind(outbox.after(0, 1).await.unwrap()), [1]);
    assert_eq!(behind(outbox.after(2, 9).await.unwrap()), [0; 0]);
    assert_eq!(outbox.entry(9).await.unwrap(), None);
}

#[test]
fn event_ids_depend_on_each_part_and_on_where_it_ends() {
    let id = event_id("uid", "chat", "sender", "id", "message");
    assert_eq!(id, event_id("uid", "chat", "sender", "id", "message"));
    assert_eq!(id.len(), 32);
    assert!(id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
    let others = [
        event_id("uid2", "chat", "sender", "id", "message"),
        event_id("uid", "chats", "ender", "id", "message"),
        event_id("uid", "chat", "sender", "", "idmessage"),
        event_id("uid", "chat", "sender", "id", "session"),
    ];
    assert_eq!(others.iter().chain([&id]).collect::<HashSet<_>>().len(), 5);
}

#[test]
fn bodies_have_the_contracts_members_in_order() {
    assert_eq!(session_body(&name(), Status::Connecting), r#"{"session":"shop","status":"connecting"}"#);
    let incoming = Incoming {
        session: "shop".to_owned(),
        from: "6281111111111@s.whatsapp.net".to_owned(),
        message: Some("caf\u{e9} \u{1f600}".to_owned()),
        media: Media::default(),
        id: "3EB0".to_owned(),
        event_id: "ab".to_owned(),
        timestamp: 1_700_000_000,
        participant: None,
        participant_name: Some("Ani".to_owned()),
        is_group: false,
        from_lid: None,
        content: Content { kind: ContentKind::Text, ..Content::default() },
    };
    let event = NewEvent::message(&incoming);
    assert_eq!((event.event_id.as_str(), event.kind), ("ab", Kind::Message));
    assert_eq!(
        std::str::from_utf8(&event.body).unwrap(),
        concat!(
            r#"{"session":"shop","from":"6281111111111@s.whatsapp.net","message":"café 😀","#,
            r#""media":{"image":null,"video":null,"document":null,"audio":null},"id":"3EB0","event_id":"ab","#,
            r#""timestamp":1700000000,"participant":null,"participant_name":"Ani","is_group":false,"from_lid":null,"type":"text"}"#
        )
    );
    assert!(!format!("{event:?}").contains("caf"));
}

#[test]
fn an_encoded_event_is_read_back_and_junk_is_refused() {
    let at = DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
    let bytes = event("a").encode(at);
    assert_eq!(NewEvent::decode(&bytes), Some((event("a"), at)));
    for junk in [Bytes::new(), Bytes::from_static(&[1, 255, 255, 255, 255, 0]), bytes.slice(..9), bytes.slice(1..)] {
        assert_eq!(NewEvent::decode(&junk), None);
    }
}

/// wa-gateway 4.7.1 ended when WhatsApp delivered an empty batch.
#[tokio::test]
async fn nothing_to_commit_is_nothing_to_tell() {
    let kv = Arc::new(MemoryKv::default());
    let outbox = open(&kv).await;
    outbox.commit(Vec::new()).await.unwrap();
    assert_eq!((outbox.depth(), ids(&outbox).await), (Depth::default(), Vec::new()));
    outbox.commit(vec![event("a")]).await.unwrap();
    assert_eq!(ids(&outbox).await, ["a"]);
}
