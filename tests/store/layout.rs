//! How sled holds the namespaces of a session: together in one tree, or each in its own as older releases made them.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wa_gateway::store::sled::SledStore;
use wa_gateway::store::{Batch, KeyRange, Kv, KvError, Namespace};

fn spaces(uid: &str) -> [Namespace; 3] {
    [Namespace::credentials(uid), Namespace::outbox(uid), Namespace::sent(uid)]
}

/// The names of its trees but the store's own and sled's, and how many rows they hold.
fn trees(path: &Path) -> Vec<(Vec<u8>, usize)> {
    let db = sled::open(path).unwrap();
    let mut trees: Vec<_> = db
        .tree_names()
        .into_iter()
        .filter(|name| *name != "meta" && *name != "__sled__default")
        .map(|name| (name.to_vec(), db.open_tree(&name).unwrap().iter().count()))
        .collect();
    trees.sort();
    trees
}

fn schema(path: &Path) -> u32 {
    let db = sled::open(path).unwrap();
    let row = db.open_tree("meta").unwrap().get("schema").unwrap().unwrap();
    u32::from_be_bytes(row.as_ref().try_into().unwrap())
}

async fn rows(kv: &SledStore, ns: &Namespace) -> Vec<(Bytes, Bytes)> {
    kv.range(ns, KeyRange::all()).await.unwrap()
}

fn row(key: &str, value: &str) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

/// A store of an older release with one session, as its files would be.
fn old_store(path: &Path) {
    drop(SledStore::open(path).unwrap());
    std::fs::remove_file(path.with_file_name("store.id")).unwrap();
    let db = sled::open(path).unwrap();
    let meta = db.open_tree("meta").unwrap();
    meta.insert("schema", &1_u32.to_be_bytes()).unwrap();
    meta.remove("mark").unwrap();
    for ns in spaces("old") {
        let tree = db.open_tree(ns.as_str()).unwrap();
        tree.insert("key", ns.as_str()).unwrap();
        tree.insert(b"\xff\xfffence", &7_u64.to_be_bytes()).unwrap();
    }
    db.flush().unwrap();
}

#[tokio::test]
async fn namespaces_of_a_session_share_a_tree_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    let kv = SledStore::open(&path).unwrap();
    for ns in spaces("a") {
        // The last two are neighbours of another namespace's first row, were they not kept apart.
        for key in ["", "key", "\u{7f}"] {
            kv.write(&ns, Batch::new().put(key.to_owned(), ns.as_str().to_owned()).put(b"\xfe".to_vec(), ""))
                .await
                .unwrap();
        }
    }
    kv.write(&Namespace::sent("a"), Batch::new().put("key", "fenced").fenced(9)).await.unwrap();
    let refused = kv.write(&Namespace::sent("a"), Batch::new().put("key", "late").fenced(8)).await;
    assert!(matches!(refused, Err(KvError::Fenced)), "{refused:?}");
    kv.write(&Namespace::outbox("a"), Batch::new().put("key", "own").fenced(1)).await.unwrap();
    let value = |ns: &Namespace| {
        let kept = if *ns == Namespace::sent("a") { "fenced" } else { "own" };
        if *ns == Namespace::credentials("a") { ns.as_str().to_owned() } else { kept.to_owned() }
    };
    let check = async |kv: &SledStore| {
        for ns in spaces("a") {
            let mut wanted = vec![row("", ns.as_str()), row("key", &value(&ns)), row("\u{7f}", ns.as_str())];
            wanted.push((Bytes::from_static(b"\xfe"), Bytes::new()));
            assert_eq!(rows(kv, &ns).await, wanted, "{}", ns.as_str());
            assert_eq!(kv.snapshot(&ns).await.unwrap(), wanted);
        }
    };
    check(&kv).await;
    kv.close().await.unwrap();
    drop(kv);
    assert_eq!(trees(&path).len(), 1, "{:?}", trees(&path));
    assert_eq!(schema(&path), 2, "older releases would not find the rows");
    let kv = SledStore::open(&path).unwrap();
    let mut found = kv.namespaces().await.unwrap();
    found.sort();
    assert_eq!(found, spaces("a"));
    check(&kv).await;
}

#[tokio::test]
async fn what_is_dropped_leaves_no_row_and_what_is_not_stays() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    let kv = SledStore::open(&path).unwrap();
    for uid in ["a", "b"] {
        for ns in spaces(uid) {
            for n in 0..300_u32 {
                kv.write(&ns, Batch::new().put(n.to_be_bytes().to_vec(), "value").buffered()).await.unwrap();
            }
        }
    }
    kv.drop_namespace(&Namespace::credentials("a")).await.unwrap();
    assert_eq!(rows(&kv, &Namespace::credentials("a")).await, []);
    assert_eq!(rows(&kv, &Namespace::sent("a")).await.len(), 300);
    kv.drop_namespaces(&[spaces("b"), spaces("b")].concat()).await.unwrap();
    assert_eq!(kv.namespaces().await.unwrap().len(), 2);
    kv.close().await.unwrap();
    drop(kv);
    let left = trees(&path);
    assert_eq!(left.len(), 1);
    // Each namespace may keep a journal and a fence of its own.
    assert!((600..=604).contains(&left[0].1), "{left:?}");
    let kv = SledStore::open(&path).unwrap();
    let mut found = kv.namespaces().await.unwrap();
    found.sort();
    assert_eq!(found, [Namespace::outbox("a"), Namespace::sent("a")]);
    kv.write(&Namespace::credentials("a"), Batch::new().put("key", "new")).await.unwrap();
    assert_eq!(rows(&kv, &Namespace::credentials("a")).await, [row("key", "new")]);
    // One by one, the last takes the tree with it.
    for ns in spaces("a") {
        kv.drop_namespace(&ns).await.unwrap();
    }
    assert_eq!(kv.namespaces().await.unwrap(), []);
    kv.write(&Namespace::sent("a"), Batch::new().put("key", "again")).await.unwrap();
    kv.close().await.unwrap();
    drop(kv);
    assert_eq!(trees(&path), [(b"\x02a".to_vec(), 1)]);
}

#[tokio::test]
async fn a_store_of_an_older_release_goes_on_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    old_store(&path);
    let kv = SledStore::open(&path).unwrap();
    let mut found = kv.namespaces().await.unwrap();
    found.sort();
    assert_eq!(found, spaces("old"));
    for ns in spaces("old") {
        assert_eq!(rows(&kv, &ns).await, [row("key", ns.as_str())]);
        let refused = kv.write(&ns, Batch::new().put("key", "late").fenced(6)).await;
        assert!(matches!(refused, Err(KvError::Fenced)), "{refused:?}");
        kv.write(&ns, Batch::new().put("key", "new").put("more", "rows")).await.unwrap();
    }
    kv.close().await.unwrap();
    drop(kv);
    assert_eq!(schema(&path), 1, "nothing is in it that the older release would not find");
    let kv = SledStore::open(&path).unwrap();
    // Made anew it is where new ones are.
    kv.drop_namespace(&Namespace::credentials("old")).await.unwrap();
    kv.write(&Namespace::credentials("old"), Batch::new().put("key", "linked again")).await.unwrap();
    kv.write(&Namespace::outbox("new"), Batch::new().put("key", "value")).await.unwrap();
    assert_eq!(rows(&kv, &Namespace::credentials("old")).await, [row("key", "linked again")]);
    assert_eq!(rows(&kv, &Namespace::sent("old")).await, [row("key", "new"), row("more", "rows")]);
    kv.close().await.unwrap();
    drop(kv);
    assert_eq!(schema(&path), 2);
    let kv = SledStore::open(&path).unwrap();
    kv.drop_namespaces(&spaces("old")).await.unwrap();
    assert_eq!(kv.namespaces().await.unwrap(), [Namespace::outbox("new")]);
    kv.close().await.unwrap();
    drop(kv);
    assert_eq!(trees(&path).len(), 1);
}

/// What a process leaves that ends while it drops a namespace of several: its rows are void, whichever are still there.
#[tokio::test]
async fn a_drop_that_was_cut_short_is_finished() {
    for removed in [0, 1, 3] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        let kv = SledStore::open(&path).unwrap();
        for ns in spaces("a") {
            kv.write(&ns, Batch::new().put("a", "1").put("b", "2").fenced(5)).await.unwrap();
        }
        kv.close().await.unwrap();
        drop(kv);
        {
            let db = sled::open(&path).unwrap();
            let row = [&b"k\x02a"[..]].concat();
            // Bits: outbox, credentials, sent; all are there, the credentials are leaving.
            db.open_tree("meta").unwrap().insert(row, &[7, 2]).unwrap();
            let tree = db.open_tree(b"\x02a").unwrap();
            let keys: Vec<_> = tree.scan_prefix([2]).keys().map(Result::unwrap).collect();
            assert_eq!(keys.len(), 4, "two rows, the fence and the journal");
            for key in &keys[..removed] {
                tree.remove(key).unwrap();
            }
            db.flush().unwrap();
        }
        let kv = SledStore::open(&path).unwrap();
        let void = Namespace::credentials("a");
        assert!(kv.namespaces().await.unwrap().contains(&void), "so that whoever dropped it ends that");
        assert_eq!(rows(&kv, &void).await, []);
        assert_eq!(kv.get(&void, b"b").await.unwrap(), None);
        assert_eq!(kv.snapshot(&void).await.unwrap(), []);
        assert_eq!(rows(&kv, &Namespace::sent("a")).await.len(), 2);
        if removed == 1 {
            kv.drop_namespace(&void).await.unwrap();
            assert!(!kv.namespaces().await.unwrap().contains(&void));
        }
        kv.write(&void, Batch::new().expect("a", None).put("c", "3").fenced(1)).await.unwrap();
        assert_eq!(rows(&kv, &void).await, [row("c", "3")]);
        kv.close().await.unwrap();
        drop(kv);
        let kv = SledStore::open(&path).unwrap();
        assert_eq!(rows(&kv, &void).await, [row("c", "3")]);
        assert_eq!(rows(&kv, &Namespace::outbox("a")).await.len(), 2);
    }
}

/// What is written while others of the session are dropped is there, and what was written before its own drop is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_and_writes_of_one_session_disturb_no_other_namespace() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    let kv = Arc::new(SledStore::open(&path).unwrap());
    let [dropped, kept, other] = spaces("a");
    let dropping = {
        let (kv, dropped, other) = (Arc::clone(&kv), dropped.clone(), other.clone());
        async move {
            for n in 0..200_u32 {
                for ns in [&dropped, &other] {
                    kv.write(ns, Batch::new().put("key", n.to_be_bytes().to_vec()).put("more", "").buffered())
                        .await
                        .unwrap();
                }
                if n % 2 == 0 {
                    kv.drop_namespaces(&[dropped.clone(), other.clone()]).await.unwrap();
                } else {
                    kv.drop_namespace(&dropped).await.unwrap();
                }
                assert_eq!(kv.get(&dropped, b"key").await.unwrap(), None);
            }
        }
    };
    let writing = {
        let (kv, kept) = (Arc::clone(&kv), kept.clone());
        async move {
            let mut rows = 0_u32;
            for n in 0..2_000_u32 {
                kv.write(&kept, Batch::new().put(rows.to_be_bytes().to_vec(), "row").buffered()).await.unwrap();
                rows += 1;
                if n % 100 == 99 {
                    assert_eq!(kv.range(&kept, KeyRange::all()).await.unwrap().len(), rows as usize);
                    if n % 200 == 199 {
                        kv.drop_namespace(&kept).await.unwrap();
                        rows = 0;
                    }
                }
                tokio::task::yield_now().await;
            }
            rows
        }
    };
    let (rows_left, ()) = tokio::join!(writing, dropping);
    assert_eq!(kv.range(&kept, KeyRange::all()).await.unwrap().len(), rows_left as usize);
    kv.write(&kept, Batch::new().put("last", "row")).await.unwrap();
    kv.close().await.unwrap();
    drop(kv);
    let kv = SledStore::open(&path).unwrap();
    assert_eq!(kv.range(&kept, KeyRange::all()).await.unwrap().len(), rows_left as usize + 1);
    assert_eq!(kv.range(&dropped, KeyRange::all()).await.unwrap(), []);
}
