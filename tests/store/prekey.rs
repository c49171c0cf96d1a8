//! Pre-keys lie in blocks; older releases kept a row for each.

use std::sync::Arc;

use bytes::Bytes;
use wa_gateway::store::backend::SessionBackend;
use wa_gateway::store::{Batch, KeyRange, Kv, Namespace};
use whatsapp_rust::wacore::store::traits::SignalStore as _;

use crate::engine;

fn namespace() -> Namespace {
    Namespace::credentials("u")
}

fn single(id: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'P', 0, 0, 0, id])
}

/// The rows of a table, by what their keys begin with.
async fn rows(kv: &Arc<dyn Kv>, table: u8) -> Vec<(Bytes, Bytes)> {
    kv.range(&namespace(), KeyRange::prefix(vec![table])).await.unwrap()
}

#[tokio::test]
async fn fifty_pre_keys_are_four_rows() {
    let folder = tempfile::tempdir().unwrap();
    let kv: Arc<dyn Kv> = engine::sled(&folder.path().join("store"));
    let backend = SessionBackend::new(Arc::clone(&kv), namespace(), None);
    let keys: Vec<_> = (1..=50).map(|id| (id, Bytes::from(vec![7; 71]))).collect();
    backend.store_prekeys_batch(&keys, true).await.unwrap();
    assert_eq!(kv.range(&namespace(), KeyRange::all()).await.unwrap().len(), 4);
    for id in 48..=50 {
        backend.remove_prekey(id).await.unwrap();
    }
    assert_eq!(rows(&kv, b'p').await.len(), 3, "nothing is kept of a block without keys");
}

#[tokio::test]
async fn single_rows_are_read_and_put_into_blocks_with_the_next_keys() {
    let folder = tempfile::tempdir().unwrap();
    let kv: Arc<dyn Kv> = engine::sled(&folder.path().join("store"));
    let old = (1..=9).fold(Batch::new(), |batch, id| batch.put(single(id), vec![1, b'r', id]));
    kv.write(&namespace(), old).await.unwrap();
    let backend = SessionBackend::new(Arc::clone(&kv), namespace(), None);

    assert_eq!(backend.get_max_prekey_id().await.unwrap(), 9);
    assert_eq!(backend.load_prekey(3).await.unwrap().as_deref(), Some(&[b'r', 3][..]));
    backend.remove_prekey(9).await.unwrap();
    assert_eq!(backend.load_prekey(9).await.unwrap(), None);
    assert_eq!((rows(&kv, b'P').await.len(), rows(&kv, b'p').await.len()), (8, 0));

    backend.store_prekeys_batch(&[(8, "anew".into()), (20, "new".into())], false).await.unwrap();
    assert_eq!((rows(&kv, b'P').await.len(), rows(&kv, b'p').await.len()), (0, 2));
    assert_eq!(backend.get_max_prekey_id().await.unwrap(), 20);
    let mut loaded = backend.load_prekeys_batch(&[8, 9, 7, 20]).await.unwrap();
    loaded.sort();
    assert_eq!(loaded, [(7, Bytes::from_static(b"r\x07")), (8, "anew".into()), (20, "new".into())]);
    // No older row comes back behind it.
    backend.remove_prekey(8).await.unwrap();
    assert_eq!(backend.load_prekey(8).await.unwrap(), None);
}

#[tokio::test]
async fn keys_that_are_used_at_the_same_time_are_all_gone() {
    let folder = tempfile::tempdir().unwrap();
    let backend = SessionBackend::new(engine::sled(&folder.path().join("store")), namespace(), None);
    let keys: Vec<_> = (1..=15).map(|id| (id, Bytes::from_static(b"record"))).collect();
    backend.store_prekeys_batch(&keys, true).await.unwrap();
    let ids = [2, 3, 5, 7, 11, 13];
    futures::future::try_join_all(ids.iter().map(|&id| backend.remove_prekey(id))).await.unwrap();
    let left: Vec<u32> = (1..=15).collect();
    let left = backend.load_prekeys_batch(&left).await.unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(left, [1, 4, 6, 8, 9, 10, 12, 14, 15]);
}

#[tokio::test]
async fn a_damaged_block_is_an_error_and_keeps_no_new_key_out() {
    let folder = tempfile::tempdir().unwrap();
    let kv: Arc<dyn Kv> = engine::sled(&folder.path().join("store"));
    let backend = SessionBackend::new(Arc::clone(&kv), namespace(), None);
    backend.store_prekey(1, b"record", true).await.unwrap();
    let (key, _) = rows(&kv, b'p').await.remove(0);
    kv.write(&namespace(), Batch::new().put(key, &b"torn"[..])).await.unwrap();
    backend.load_prekey(1).await.unwrap_err();
    backend.remove_prekey(1).await.unwrap_err();
    assert_eq!(backend.get_max_prekey_id().await.unwrap(), 15, "none of its numbers means a second key");
    kv.write(&namespace(), Batch::new().put(single(40), Bytes::new())).await.unwrap();
    backend.store_prekey(2, b"record", true).await.unwrap();
    assert_eq!(backend.load_prekey(1).await.unwrap(), None);
    assert_eq!(backend.load_prekey(2).await.unwrap().as_deref(), Some(&b"record"[..]));
}
