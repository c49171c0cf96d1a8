//! A store that has another size than it was opened for is opened anew, while others use it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::task::TaskTracker;
use wa_gateway::store::sled::{OpenError, SledStore};
use wa_gateway::store::{Batch, KeyRange, Kv, Namespace};

/// More than those of which at most an eighth may be left.
const MANY: usize = 1_000;

/// What one of the namespaces held that are dropped; nothing else does.
fn secret(of: usize) -> String {
    format!("a secret of a session that is deleted, number {of:04}")
}

/// Whether the store's file still has it somewhere.
fn holds_secret(path: &Path, of: usize) -> bool {
    let secret = secret(of);
    fs::read(path.join("db")).unwrap().windows(secret.len()).any(|bytes| bytes == secret.as_bytes())
}

/// How many namespaces the store had at its last opening or orderly end.
fn marked(home: &Path) -> u64 {
    let told: Value = serde_json::from_slice(&fs::read(home.join("store.id")).unwrap()).unwrap();
    told["namespaces"].as_u64().unwrap()
}

async fn make_many(store: &SledStore) {
    for n in 0..MANY {
        let row = Batch::new().put("key", secret(n));
        store.apply(&Namespace::outbox(&n.to_string()), row).await.unwrap().await.unwrap();
    }
}

async fn drop_many(store: &SledStore) {
    for n in 0..MANY {
        store.drop_namespace(&Namespace::outbox(&n.to_string())).await.unwrap();
    }
}

/// Waits for the mark that precedes it.
async fn closed_to_be_opened_anew(home: &Path, deadline: Instant) {
    // An eighth of those dropped, and a few others.
    while !(1..=130).contains(&marked(home)) {
        assert!(Instant::now() < deadline, "it was not opened anew");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_emptied_is_opened_anew_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    let store = Arc::new(SledStore::open(&path).unwrap());
    for n in 0..MANY {
        store
            .apply(&Namespace::outbox(&n.to_string()), Batch::new().put("key", secret(n)))
            .await
            .unwrap()
            .await
            .unwrap();
    }
    assert_eq!(marked(home.path()), 0);
    assert!(holds_secret(&path, 0), "or the last line proves nothing");
    let (tracker, over) = (TaskTracker::new(), Arc::new(AtomicBool::new(false)));
    let all = Arc::new(AtomicU32::new(0));
    // Meanwhile others write, flushed and not, and read what they wrote.
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, over, all) = (Arc::clone(&store), Arc::clone(&over), Arc::clone(&all));
            tracker.spawn(async move {
                let ns = Namespace::credentials(&writer.to_string());
                let mut rows = 0_u32;
                while !over.load(Ordering::SeqCst) {
                    let batch = Batch::new().put(rows.to_be_bytes().to_vec(), "row");
                    let batch = if rows.is_multiple_of(2) { batch } else { batch.buffered() };
                    store.write(&ns, batch).await.unwrap();
                    assert!(store.get(&ns, &rows.to_be_bytes()).await.unwrap().is_some(), "row {rows} was not kept");
                    rows += 1;
                    all.fetch_add(1, Ordering::SeqCst);
                }
                rows
            })
        })
        .collect();
    drop_many(&store).await;
    let deadline = Instant::now() + Duration::from_mins(1);
    closed_to_be_opened_anew(home.path(), deadline).await;
    // Marked, it is about to be closed: the writers go on over what is opened.
    let marked_at = all.load(Ordering::SeqCst);
    while all.load(Ordering::SeqCst) < marked_at + 200 {
        assert!(Instant::now() < deadline, "nothing is written after it was opened anew");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    over.store(true, Ordering::SeqCst);
    let mut written = Vec::new();
    for writer in writers {
        written.push(writer.await.unwrap());
    }
    assert!(written.iter().all(|rows| *rows > 10), "{written:?}");
    store.close().await.unwrap();
    drop(store);
    let store = SledStore::open(&path).unwrap();
    for (writer, rows) in written.into_iter().enumerate() {
        let kept = store.range(&Namespace::credentials(&writer.to_string()), KeyRange::all()).await.unwrap();
        assert_eq!(kept.len(), usize::try_from(rows).unwrap());
    }
    assert_eq!(store.namespaces().await.unwrap().len(), 4);
    assert!(!path.with_file_name("store.rewritten").exists());
    // Those that were dropped before what was left was written anew.
    assert!(!holds_secret(&path, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_store_that_cannot_be_written_anew_goes_on_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    let store = SledStore::open(&path).unwrap();
    let kept = Namespace::credentials("kept");
    store.write(&kept, Batch::new().put("before", "row")).await.unwrap();
    make_many(&store).await;
    // In the way of the fresh folder.
    let obstacle = path.with_file_name("store.rewritten");
    fs::write(&obstacle, "not ours").unwrap();
    drop_many(&store).await;
    closed_to_be_opened_anew(home.path(), Instant::now() + Duration::from_mins(1)).await;
    store.write(&kept, Batch::new().put("after", "row")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert_eq!(fs::read(&obstacle).unwrap(), b"not ours");
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.namespaces().await.unwrap(), std::slice::from_ref(&kept));
    assert_eq!(store.range(&kept, KeyRange::all()).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_files_were_exchanged_is_still_in_use() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    let store = SledStore::open(&path).unwrap();
    store.flush().await.unwrap();
    // The engine locks the file that was there.
    fs::copy(path.join("db"), home.path().join("copy")).unwrap();
    fs::rename(home.path().join("copy"), path.join("db")).unwrap();
    let refused = SledStore::open(&path).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused:?}");
}
