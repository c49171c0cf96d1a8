//! Received messages that were handled are told from lost ones.

use std::sync::Arc;

use wa_gateway::store::backend::SessionBackend;
use wa_gateway::store::{Batch, KeyRange, Kv, Namespace};
use whatsapp_rust::wacore::store::traits::{
    PendingInboundKey, PendingInboundRow, ProtocolStore as _, SignalStore as _,
};

use crate::engine::{Home, over_both};

over_both!(
    a_lost_message_is_asked_for_five_times,
    a_handled_message_is_not_lost,
    only_the_last_handled_messages_are_remembered,
    a_damaged_block_is_gone_on_from,
    a_pending_row_is_there_before_a_ratchet_and_not_without_one,
    few_pending_rows_stay_in_memory,
    a_replayed_message_leaves_no_row,
    a_row_that_comes_beside_a_ratchet_is_stored_at_once,
);

fn namespace() -> Namespace {
    Namespace::credentials("u")
}

fn backend(kv: &Arc<dyn Kv>) -> Arc<SessionBackend> {
    SessionBackend::new(Arc::clone(kv), namespace(), None)
}

async fn a_lost_message_is_asked_for_five_times(home: Home) {
    let kv = home.open().await;
    for round in 0..6 {
        let b = backend(&kv);
        let mut lost = b.lost();
        let answer = b.get_pending_inbound("c", "s:3", "1").await;
        if round < 5 {
            answer.unwrap_err();
            let lost = lost.try_recv().unwrap();
            assert_eq!((lost.chat.as_str(), lost.sender.as_str(), lost.id.as_str()), ("c", "s:3", "1"));
        } else {
            assert_eq!(answer.unwrap(), None, "given up");
        }
    }
    assert_eq!(backend(&kv).get_pending_inbound("c", "s:3", "2").await.unwrap(), None, "nobody listens");
}

async fn a_handled_message_is_not_lost(home: Home) {
    let kv = home.open().await;
    let b = backend(&kv);
    let _lost = b.lost();
    b.get_pending_inbound("c", "s", "1").await.unwrap_err();
    b.store_pending_inbound("c", "s", "1", b"sent again").await.unwrap();
    assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), Some(b"sent again".to_vec()));
    b.delete_pending_inbound("c", "s", "1").await.unwrap();
    for b in [Arc::clone(&b), backend(&kv)] {
        let _lost = b.lost();
        assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), None);
        b.get_pending_inbound("c", "other", "1").await.unwrap_err();
    }
}

async fn only_the_last_handled_messages_are_remembered(home: Home) {
    let kv = home.open().await;
    let ids: Vec<String> = (0..3_000).map(|id| id.to_string()).collect();
    // Two backends one after the other: a block goes on where it was.
    for half in ids.chunks(1_500) {
        let b = backend(&kv);
        for some in half.chunks(100) {
            let keys: Vec<_> = some.iter().map(|id| PendingInboundKey { chat: "c", sender: "s", id }).collect();
            b.delete_pending_inbound_batch(&keys).await.unwrap();
        }
    }
    // 64 blocks of 16, and the one that is being filled.
    assert_eq!(kv.range(&namespace(), KeyRange::all()).await.unwrap().len(), 65);
    let b = backend(&kv);
    let _lost = b.lost();
    assert_eq!(b.get_pending_inbound("c", "s", "2999").await.unwrap(), None);
    assert_eq!(b.get_pending_inbound("c", "s", "1968").await.unwrap(), None);
    b.get_pending_inbound("c", "s", "1967").await.unwrap_err();
}

async fn a_damaged_block_is_gone_on_from(home: Home) {
    let kv = home.open().await;
    for (number, row) in [(7_u8, vec![0xff; 6_000]), (9, vec![1; 20]), (11, Vec::new())] {
        let key = [b'h', 0, 0, 0, number];
        kv.write(&namespace(), Batch::new().put(key.to_vec(), row)).await.unwrap();
        let b = backend(&kv);
        let id = number.to_string();
        b.delete_pending_inbound("c", "s", &id).await.unwrap();
        let rows = kv.range(&namespace(), KeyRange::all()).await.unwrap();
        assert!(rows.last().unwrap().0[..] >= key[..], "it begins again before what is there");
        let _lost = b.lost();
        assert_eq!(b.get_pending_inbound("c", "s", &id).await.unwrap(), None);
        assert_eq!(backend(&kv).get_pending_inbound("c", "s", &id).await.unwrap(), None);
    }
}

/// Rows that the store has of messages that are not handled.
async fn pending(kv: &Arc<dyn Kv>) -> usize {
    kv.range(&namespace(), KeyRange::prefix(b"Q".to_vec())).await.unwrap().len()
}

async fn a_pending_row_is_there_before_a_ratchet_and_not_without_one(home: Home) {
    let kv = home.open().await;
    let b = backend(&kv);
    let _lost = b.lost();
    for id in ["1", "2"] {
        b.store_pending_inbound("c", "s", id, b"text").await.unwrap();
    }
    // Handled before anything else is stored: nobody knows them but the message that is handled.
    b.delete_pending_inbound("c", "s", "1").await.unwrap();
    assert_eq!(pending(&kv).await, 0);
    assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), None, "it is handled");
    assert_eq!(b.get_pending_inbound("c", "s", "2").await.unwrap(), Some(b"text".to_vec()), "it is pending");
    // What a process finds that was killed here.
    let killed = backend(&kv);
    let _lost_too = killed.lost();
    killed.get_pending_inbound("c", "s", "2").await.unwrap_err();
    assert_eq!(killed.get_pending_inbound("c", "s", "1").await.unwrap(), None);

    b.put_session("s.0", b"ratchet").await.unwrap();
    for b in [Arc::clone(&b), backend(&kv)] {
        assert_eq!(b.get_pending_inbound("c", "s", "2").await.unwrap(), Some(b"text".to_vec()));
    }
    b.delete_pending_inbound("c", "s", "2").await.unwrap();
    assert_eq!(pending(&kv).await, 0);
    assert_eq!(killed.get_pending_inbound("c", "s", "2").await.unwrap(), None, "it is handled");
}

async fn few_pending_rows_stay_in_memory(home: Home) {
    let kv = home.open().await;
    let b = backend(&kv);
    for id in 0..32 {
        b.store_pending_inbound("c", "s", &id.to_string(), b"text").await.unwrap();
    }
    b.store_pending_inbound("c", "s", "0", b"the same again").await.unwrap();
    assert_eq!(pending(&kv).await, 0);
    b.store_pending_inbound("c", "s", "32", b"text").await.unwrap();
    assert_eq!(pending(&kv).await, 33);
    let large = vec![0; 70_000];
    let row = PendingInboundRow { chat: "c", sender: "s", id: "33", message: &large };
    b.store_pending_inbound_batch(&[row]).await.unwrap();
    assert_eq!(pending(&kv).await, 34);
    assert_eq!(backend(&kv).get_pending_inbound("c", "s", "0").await.unwrap(), Some(b"the same again".to_vec()));
}

async fn a_replayed_message_leaves_no_row(home: Home) {
    let kv = home.open().await;
    let b = backend(&kv);
    b.store_pending_inbound("c", "s", "1", b"text").await.unwrap();
    b.put_session("s.0", b"ratchet").await.unwrap();
    assert_eq!(pending(&kv).await, 1);
    // Closed before the message was handled: another finds its row, and the library stores it once more.
    b.close().await;
    let b = backend(&kv);
    assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), Some(b"text".to_vec()));
    b.store_pending_inbound("c", "s", "1", b"text").await.unwrap();
    b.delete_pending_inbound("c", "s", "1").await.unwrap();
    assert_eq!(pending(&kv).await, 0);
    b.store_pending_inbound("c", "s", "2", b"text").await.unwrap();
    b.close().await;
    b.store_pending_inbound("c", "s", "3", b"text").await.unwrap_err();
    assert_eq!(pending(&kv).await, 1, "what was taken is kept");
}

async fn a_row_that_comes_beside_a_ratchet_is_stored_at_once(home: Home) {
    let kv = home.open().await;
    let b = backend(&kv);
    b.store_pending_inbound("c", "s", "1", b"text").await.unwrap();
    assert_eq!(pending(&kv).await, 0);
    let mut stored = false;
    for id in 2..100 {
        // Of a message that the ratchet may have passed already.
        let write = b.put_session("s.0", b"ratchet");
        let id = id.to_string();
        let (written, kept) = tokio::join!(write, b.store_pending_inbound("c", "s", &id, b"text"));
        written.unwrap();
        kept.unwrap();
        stored |= pending(&kv).await == id.parse::<usize>().unwrap();
    }
    assert!(stored, "never within a few milliseconds");
}
