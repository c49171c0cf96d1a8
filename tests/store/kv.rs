//! The story that every engine passes: what `Kv` promises.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wa_gateway::store::sled::{OpenError, SledStore};
use wa_gateway::store::{Batch, KeyRange, Kv, KvError, Namespace};

use crate::engine::{Home, over_both};

over_both!(the_story, what_was_flushed_is_there_again);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn pairs(rows: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
    rows.iter().map(|(key, value)| (bytes(key), bytes(value))).collect()
}

async fn get(kv: &Arc<dyn Kv>, ns: &Namespace, key: &str) -> Option<String> {
    kv.get(ns, key.as_bytes()).await.unwrap().map(|value| String::from_utf8(value.into()).unwrap())
}

/// One chapter after the other, each in namespaces of its own.
async fn the_story(home: Home) {
    let kv = home.open().await;
    points(&kv).await;
    ranges(&kv).await;
    ranges_as_a_sorted_map_has_them(&kv).await;
    batches(&kv).await;
    conditions(&kv).await;
    races(&kv).await;
    fences(&kv).await;
    drops(&kv).await;
    snapshots(&kv).await;
}

async fn points(kv: &Arc<dyn Kv>) {
    let ns = Namespace::credentials("points");
    let other = Namespace::outbox("points");
    assert_eq!(get(kv, &ns, "a").await, None);
    assert!(!kv.namespaces().await.unwrap().contains(&ns), "reading makes no namespace");
    kv.write(&ns, Batch::new().put("a", "1")).await.unwrap();
    kv.write(&ns, Batch::new().put("b", "").buffered()).await.unwrap();
    assert_eq!(get(kv, &ns, "a").await.as_deref(), Some("1"));
    assert_eq!(get(kv, &ns, "b").await.as_deref(), Some(""), "an empty value is a value");
    assert_eq!(get(kv, &other, "a").await, None, "namespaces are apart");
    let keys = [bytes("b"), bytes("none"), bytes("a"), bytes("a")];
    let expected = [Some(bytes("")), None, Some(bytes("1")), Some(bytes("1"))];
    assert_eq!(kv.get_many(&ns, &keys).await.unwrap(), expected);
    assert_eq!(kv.get_many(&other, &keys).await.unwrap(), vec![None; 4]);
    kv.write(&ns, Batch::new().remove("a")).await.unwrap();
    kv.write(&ns, Batch::new().remove("a")).await.unwrap();
    assert_eq!(get(kv, &ns, "a").await, None);
    assert!(kv.namespaces().await.unwrap().contains(&ns));
    assert!(!kv.namespaces().await.unwrap().contains(&other));
    let reserved = kv.write(&ns, Batch::new().put(&b"\xff\xffx"[..], "1")).await;
    assert!(matches!(reserved, Err(KvError::Engine(_))), "{reserved:?}");
    assert_eq!(kv.get(&ns, b"\xff\xffx").await.unwrap(), None);
}

async fn ranges(kv: &Arc<dyn Kv>) {
    let ns = Namespace::credentials("ranges");
    let rows = [("a", "1"), ("b", "2"), ("ba", "3"), ("c", "4")];
    let batch = rows.iter().fold(Batch::new(), |batch, (key, value)| batch.put(bytes(key), bytes(value)));
    kv.write(&ns, batch).await.unwrap();
    let range = |start, end, limit| KeyRange { start, end, limit };
    let (included, excluded) = (|key| Bound::Included(bytes(key)), |key| Bound::Excluded(bytes(key)));
    let all = usize::MAX;
    for (wanted, expected) in [
        (KeyRange::all(), &[0, 1, 2, 3][..]),
        (KeyRange::all().limit(2), &[0, 1]),
        (KeyRange::all().limit(0), &[]),
        (KeyRange::prefix("b"), &[1, 2]),
        (KeyRange::prefix("b").limit(1), &[1]),
        (KeyRange::prefix("x"), &[]),
        (range(included("b"), included("c"), all), &[1, 2, 3]),
        (range(excluded("b"), excluded("c"), all), &[2]),
        (range(included("b"), included("b"), all), &[1]),
        (range(included("b"), excluded("b"), all), &[]),
        (range(excluded("b"), excluded("b"), all), &[]),
        (range(included("c"), included("a"), all), &[]),
        (range(Bound::Unbounded, included("b"), all), &[0, 1]),
        (range(excluded("b"), Bound::Unbounded, 1), &[2]),
    ] {
        let expected: Vec<_> = expected.iter().map(|&row| (bytes(rows[row].0), bytes(rows[row].1))).collect();
        assert_eq!(kv.range(&ns, wanted.clone()).await.unwrap(), expected, "{wanted:?}");
    }
    assert_eq!(kv.range(&Namespace::outbox("ranges"), KeyRange::all()).await.unwrap(), []);
}

/// Keys of all bytes, enough to split pages, every pair of bounds from a sample.
async fn ranges_as_a_sorted_map_has_them(kv: &Arc<dyn Kv>) {
    let ns = Namespace::credentials("map");
    let mut map = BTreeMap::new();
    let mut batch = Batch::new();
    for i in 0..2_000_u32 {
        // A fixed scramble: keys of 1 to 4 bytes over the whole alphabet, but the reserved prefix.
        let scrambled = i.wrapping_mul(2_654_435_761).to_be_bytes();
        let key = Bytes::copy_from_slice(&scrambled[..=(i as usize % 4)]);
        if !key.starts_with(b"\xff\xff") {
            let value = Bytes::from(vec![b'v'; i as usize % 300]);
            map.insert(key.clone(), value.clone());
            batch = batch.put(key, value);
        }
    }
    kv.write(&ns, batch).await.unwrap();
    let ends: Vec<Bytes> = map.keys().step_by(97).cloned().chain([Bytes::new(), bytes("\u{7f}x")]).collect();
    for low in &ends {
        for high in ends.iter().filter(|high| *high > low) {
            for (start, end) in [
                (Bound::Included(low.clone()), Bound::Excluded(high.clone())),
                (Bound::Excluded(low.clone()), Bound::Included(high.clone())),
            ] {
                let mut expected: Vec<_> =
                    map.range((start.clone(), end.clone())).map(|(k, v)| (k.clone(), v.clone())).collect();
                let range = KeyRange { start, end, limit: usize::MAX };
                assert_eq!(kv.range(&ns, range.clone()).await.unwrap(), expected);
                expected.truncate(7);
                assert_eq!(kv.range(&ns, range.limit(7)).await.unwrap(), expected);
            }
        }
    }
}

async fn batches(kv: &Arc<dyn Kv>) {
    let ns = Namespace::credentials("batches");
    kv.write(&ns, Batch::new().put("a", "1").put("a", "2").put("b", "3").remove("b").remove("c").put("c", "4"))
        .await
        .unwrap();
    assert_eq!(kv.snapshot(&ns).await.unwrap(), pairs(&[("a", "2"), ("c", "4")]), "applied in order");
    kv.write(&ns, Batch::new()).await.unwrap();
    assert_eq!(kv.snapshot(&ns).await.unwrap(), pairs(&[("a", "2"), ("c", "4")]));
    let loose = Batch::new().remove("a").put("c", "5").put("d", "6").put("d", "7").put("e", "8").remove("e").loose();
    kv.write(&ns, loose).await.unwrap();
    assert_eq!(kv.snapshot(&ns).await.unwrap(), pairs(&[("c", "5"), ("d", "7")]), "loose, and in order all the same");
    let half = Batch::new().expect("c", Some(bytes("5"))).expect("d", None).put("c", "6").put("f", "9").loose();
    assert!(matches!(kv.write(&ns, half).await, Err(KvError::Conflict)));
    assert_eq!(kv.snapshot(&ns).await.unwrap(), pairs(&[("c", "5"), ("d", "7")]), "conditions hold for all of it");
}

async fn conditions(kv: &Arc<dyn Kv>) {
    let ns = Namespace::credentials("conditions");
    let write = |batch| kv.write(&ns, batch);
    let conflict = write(Batch::new().expect("a", Some(bytes("1"))).put("a", "2")).await;
    assert!(matches!(conflict, Err(KvError::Conflict)));
    assert!(!kv.namespaces().await.unwrap().contains(&ns), "a conflict makes no namespace");
    write(Batch::new().expect("a", None).put("a", "1")).await.unwrap();
    assert!(matches!(write(Batch::new().expect("a", None).put("a", "2")).await, Err(KvError::Conflict)));
    write(Batch::new().expect("a", Some(bytes("1"))).expect("b", None).put("a", "2").put("b", "2")).await.unwrap();
    let half = write(Batch::new().expect("a", Some(bytes("2"))).expect("b", None).put("a", "3").remove("b")).await;
    assert!(matches!(half, Err(KvError::Conflict)));
    assert_eq!(kv.snapshot(&ns).await.unwrap(), pairs(&[("a", "2"), ("b", "2")]), "nothing of it was written");
    assert!(matches!(write(Batch::new().expect("a", Some(bytes("x")))).await, Err(KvError::Conflict)));
    write(Batch::new().expect("a", Some(bytes("2")))).await.unwrap();
}

/// Many conditional counters at once count every success exactly once.
async fn races(kv: &Arc<dyn Kv>) {
    const TASKS: usize = 8;
    const EACH: usize = 50;
    let ns = Namespace::credentials("races");
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (kv, ns) = (Arc::clone(kv), ns.clone());
        tasks.spawn(async move {
            for step in 0..EACH {
                loop {
                    let old = kv.get(&ns, b"count").await.unwrap();
                    let count: usize =
                        old.as_deref().map_or(0, |old| std::str::from_utf8(old).unwrap().parse().unwrap());
                    let batch = Batch::new().expect("count", old).put("count", (count + 1).to_string()).buffered();
                    match kv.write(&ns, batch).await {
                        Ok(()) => break,
                        Err(KvError::Conflict) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
                kv.write(&ns, Batch::new().put(format!("row-{task}-{step}"), "x").put("last", "x")).await.unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(get(kv, &ns, "count").await.unwrap(), (TASKS * EACH).to_string());
    assert_eq!(kv.range(&ns, KeyRange::prefix("row-")).await.unwrap().len(), TASKS * EACH);
}

async fn fences(kv: &Arc<dyn Kv>) {
    let ns = Namespace::credentials("fences");
    let write = |batch| kv.write(&ns, batch);
    write(Batch::new().put("a", "1")).await.unwrap();
    write(Batch::new().put("a", "5").fenced(5)).await.unwrap();
    assert!(matches!(write(Batch::new().put("a", "4").fenced(4)).await, Err(KvError::Fenced)));
    write(Batch::new().put("a", "5b").fenced(5)).await.unwrap();
    write(Batch::new().fenced(7)).await.unwrap();
    assert!(matches!(write(Batch::new().put("a", "5").fenced(5)).await, Err(KvError::Fenced)), "an empty batch claims");
    let old = Batch::new().expect("a", Some(bytes("5b"))).put("a", "6").fenced(6);
    assert!(matches!(write(old).await, Err(KvError::Fenced)));
    let lost = Batch::new().expect("a", Some(bytes("x"))).put("a", "9").fenced(9);
    assert!(matches!(write(lost).await, Err(KvError::Conflict)));
    write(Batch::new().put("b", "7").fenced(7)).await.expect("a batch that conflicted raised nothing");
    assert_eq!(kv.range(&ns, KeyRange::all()).await.unwrap(), pairs(&[("a", "5b"), ("b", "7")]), "the token is hidden");
    assert_eq!(kv.snapshot(&ns).await.unwrap(), pairs(&[("a", "5b"), ("b", "7")]));
}

async fn drops(kv: &Arc<dyn Kv>) {
    let (ns, other) = (Namespace::credentials("drops"), Namespace::outbox("drops"));
    kv.drop_namespace(&ns).await.unwrap();
    kv.write(&ns, Batch::new().put("a", "1").fenced(3)).await.unwrap();
    kv.write(&other, Batch::new().put("a", "1")).await.unwrap();
    kv.drop_namespace(&ns).await.unwrap();
    assert_eq!(get(kv, &ns, "a").await, None);
    assert_eq!(kv.snapshot(&ns).await.unwrap(), []);
    assert!(!kv.namespaces().await.unwrap().contains(&ns));
    assert_eq!(get(kv, &other, "a").await.as_deref(), Some("1"));
    kv.write(&ns, Batch::new().put("b", "2").fenced(1)).await.expect("the token went with the namespace");
    assert_eq!(kv.snapshot(&ns).await.unwrap(), pairs(&[("b", "2")]));
}

/// Each batch sets two keys alike: no snapshot may see them differ.
async fn snapshots(kv: &Arc<dyn Kv>) {
    let ns = Namespace::credentials("snapshots");
    kv.write(&ns, Batch::new().put("a", "0").put("z", "0")).await.unwrap();
    let mut writer = {
        let (kv, ns) = (Arc::clone(kv), ns.clone());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            for step in 0..300 {
                let value = step.to_string();
                let filler =
                    (0..20).fold(Batch::new().buffered(), |batch, i| batch.put(format!("m{i:02}"), value.clone()));
                kv.write(&ns, filler.put("a", value.clone()).put("z", value)).await.unwrap();
            }
        });
        tasks
    };
    let mut between = 0;
    loop {
        let seen = kv.snapshot(&ns).await.unwrap();
        assert_eq!(seen.first().unwrap().1, seen.last().unwrap().1, "half a batch was seen");
        match seen.last().unwrap().1.as_ref() {
            b"299" => break,
            b"0" => {}
            _ => between += 1,
        }
        tokio::task::yield_now().await;
    }
    assert!(between > 0, "no snapshot met the writer");
    while let Some(ended) = writer.join_next().await {
        ended.unwrap();
    }
}

/// And dropped namespaces stay gone and give their space back.
async fn what_was_flushed_is_there_again(home: Home) {
    let (kept, dropped) = (Namespace::credentials("kept"), Namespace::credentials("dropped"));
    let kv = home.open().await;
    kv.write(&kept, Batch::new().put("a", "1").fenced(4)).await.unwrap();
    fill(&kv, &dropped, b'x').await;
    kv.close().await.unwrap();
    drop(kv);
    let full = taken(&home);
    let kv = home.open().await;
    assert_eq!(kv.range(&dropped, KeyRange::all()).await.unwrap().len(), 2_000);
    kv.drop_namespace(&dropped).await.unwrap();
    kv.close().await.unwrap();
    drop(kv);
    let kv = home.open().await;
    assert_eq!(get(&kv, &kept, "a").await.as_deref(), Some("1"));
    assert!(matches!(kv.write(&kept, Batch::new().put("a", "2").fenced(3)).await, Err(KvError::Fenced)));
    assert_eq!(kv.namespaces().await.unwrap(), std::slice::from_ref(&kept));
    // As much again fits into the space that came back: the store does not grow by it.
    fill(&kv, &dropped, b'y').await;
    kv.flush().await.unwrap();
    kv.drop_namespace(&dropped).await.unwrap();
    kv.close().await.unwrap();
    drop(kv);
    let again = taken(&home);
    assert!(full > 4_000_000, "{full}");
    assert!(again < full * 3 / 2, "{full} bytes, then {again}");
}

async fn fill(kv: &Arc<dyn Kv>, ns: &Namespace, with: u8) {
    for row in 0..2_000_u32 {
        let value = Bytes::from(vec![with; 2_000]);
        kv.write(ns, Batch::new().put(row.to_string(), value).buffered()).await.unwrap();
    }
}

/// Bytes that the store takes: on the disk, or of the server's memory, which frees what was dropped in the background.
fn taken(home: &Home) -> u64 {
    match home {
        Home::Sled(folder) => size(folder.path()),
        Home::Redis(server) => {
            let memory = server.ask(&["INFO", "memory"]);
            let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
            used.trim().parse().unwrap()
        }
    }
}

fn size(path: &Path) -> u64 {
    let mut total = 0;
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        // Blocks that hold data: sled gives space back by punching holes, too.
        total += if meta.is_dir() { size(&entry.path()) } else { std::os::unix::fs::MetadataExt::blocks(&meta) * 512 };
    }
    total
}

#[tokio::test]
async fn sled_makes_a_private_folder_and_locks_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wa_credentials").join("store");
    let first = SledStore::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let error = SledStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    drop(first);
    SledStore::open(&path).unwrap();
}

#[test]
fn sled_says_what_is_wrong_with_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(SledStore::open(&file), Err(OpenError::NotAFolder { .. })));
    assert!(matches!(SledStore::open(&file.join("store")), Err(OpenError::NotAFolder { .. })));
    let readonly = SledStore::open(Path::new("/proc/store")).unwrap_err();
    assert!(matches!(readonly, OpenError::NoAccess { .. } | OpenError::Io { .. }), "{readonly:?}");

    let damaged = folder.path().join("damaged");
    drop(SledStore::open(&damaged).unwrap());
    std::fs::write(damaged.join("conf"), "segment_size: 4\nnonsense\n12345678").unwrap();
    let error = SledStore::open(&damaged).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("backup"), "{error}");
}

#[test]
fn sled_refuses_a_newer_schema() {
    let folder = tempfile::tempdir().unwrap();
    drop(SledStore::open(&folder.path().join("store")).unwrap());
    {
        let db = sled::open(folder.path().join("store")).unwrap();
        let meta = db.open_tree("meta").unwrap();
        assert_eq!(meta.get("schema").unwrap().unwrap().as_ref(), 2_u32.to_be_bytes());
        meta.insert("schema", &3_u32.to_be_bytes()).unwrap();
        db.flush().unwrap();
    }
    let error = SledStore::open(&folder.path().join("store")).unwrap_err();
    assert!(matches!(error, OpenError::NewerSchema { found: 3, known: 2, .. }), "{error:?}");
}
