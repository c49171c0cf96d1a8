//! A store that is not what it was: emptied, older, cut short, changed. It says so, or gives back every row; never fewer.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;
use wa_gateway::store::sled::{OpenError, SledStore};
use wa_gateway::store::{Batch, KeyRange, Kv, Namespace};

const ROWS: usize = 400;

fn ns() -> Namespace {
    Namespace::credentials("a")
}

fn row(n: usize) -> (String, Bytes) {
    (format!("{n:05}"), Bytes::from(vec![b'a' + u8::try_from(n % 26).unwrap(); 700]))
}

async fn write(kv: &SledStore, rows: std::ops::Range<usize>) {
    for n in rows {
        let (key, value) = row(n);
        kv.write(&ns(), Batch::new().put(key, value)).await.unwrap();
    }
}

/// A store with so many rows that was closed in order.
async fn written(path: &Path) {
    let kv = SledStore::open(path).unwrap();
    write(&kv, 0..ROWS).await;
    kv.close().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The store and its marker as they were, in another folder.
fn twin(home: &Path, name: &str) -> PathBuf {
    let folder = home.join(name);
    copy(&home.join("store"), &folder.join("store"));
    fs::copy(home.join("store.id"), folder.join("store.id")).unwrap();
    folder.join("store")
}

fn refused(path: &Path) -> OpenError {
    let error = SledStore::open(path).expect_err("the store was opened as if nothing were wrong");
    let told = error.to_string();
    assert!(told.contains(&path.display().to_string()), "it does not name the folder: {told}");
    error
}

#[tokio::test]
async fn a_store_that_is_gone_or_emptied_is_not_begun_anew() {
    let home = tempfile::tempdir().unwrap();
    written(&home.path().join("store")).await;

    let gone = twin(home.path(), "gone");
    fs::remove_dir_all(&gone).unwrap();
    for _ in 0..2 {
        let told = refused(&gone);
        assert!(matches!(told, OpenError::Gone { .. }), "{told:?}");
        assert!(told.to_string().contains("store.id") && told.to_string().contains("wa-gateway restore"), "{told}");
        assert!(!gone.exists(), "nothing is made in its place");
    }
    // Who means it removes the marker.
    fs::remove_file(gone.with_file_name("store.id")).unwrap();
    assert_eq!(SledStore::open(&gone).unwrap().range(&ns(), KeyRange::all()).await.unwrap(), []);

    let emptied = twin(home.path(), "emptied");
    fs::remove_dir_all(&emptied).unwrap();
    fs::create_dir(&emptied).unwrap();
    assert!(matches!(refused(&emptied), OpenError::Gone { .. }));

    // The log alone lost its content; what sled keeps beside it is not enough.
    let hollow = twin(home.path(), "hollow");
    for entry in fs::read_dir(&hollow).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap")) {
            fs::remove_file(path).unwrap();
        }
    }
    fs::File::options().write(true).open(hollow.join("db")).unwrap().set_len(0).unwrap();
    for _ in 0..2 {
        refused(&hollow);
    }
}

#[tokio::test]
async fn a_copy_of_earlier_is_told_from_the_store() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    written(&path).await;
    let earlier = home.path().join("earlier");
    copy(&path, &earlier);
    let kv = SledStore::open(&path).unwrap();
    write(&kv, ROWS..ROWS + 10).await;
    kv.close().await.unwrap();
    drop(kv);
    // It opens again and again as it is, closed in order or not.
    for _ in 0..3 {
        let kv = SledStore::open(&path).unwrap();
        assert_eq!(kv.range(&ns(), KeyRange::all()).await.unwrap().len(), ROWS + 10);
    }
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&earlier, &path).unwrap();
    for _ in 0..2 {
        let told = refused(&path);
        assert!(matches!(told, OpenError::Older { .. }), "{told:?}");
    }
    // Another store altogether.
    let other = home.path().join("other/store");
    written(&other).await;
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(matches!(refused(&path), OpenError::Exchanged { .. }));
}

#[tokio::test]
async fn a_store_from_before_the_marker_is_taken_and_marked() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    written(&path).await;
    fs::remove_file(home.path().join("store.id")).unwrap();
    drop(SledStore::open(&path).unwrap());
    assert!(home.path().join("store.id").exists());
    // A marker that can't be read proves nothing.
    fs::write(home.path().join("store.id"), "{").unwrap();
    drop(SledStore::open(&path).unwrap());
    assert_eq!(SledStore::open(&path).unwrap().range(&ns(), KeyRange::all()).await.unwrap().len(), ROWS);
}

#[tokio::test]
async fn the_marker_knows_how_many_namespaces_there_are_and_may_not() {
    let home = tempfile::tempdir().unwrap();
    let (path, file) = (home.path().join("store"), home.path().join("store.id"));
    let store = SledStore::open(&path).unwrap();
    for name in ["a", "b", "c"] {
        store.write(&Namespace::outbox(name), Batch::new().put("key", "value")).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let mut told: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(told["namespaces"], 3);
    told.as_object_mut().unwrap().remove("namespaces");
    fs::write(&file, told.to_string()).unwrap();
    assert_eq!(SledStore::open(&path).unwrap().namespaces().await.unwrap().len(), 3);
}

/// Whether a damaged store says that it is, at its opening or where the damage is; panics when it hides it.
async fn is_noticed(path: &Path, how: &str) -> bool {
    let Ok(kv) = SledStore::open(path) else { return true };
    let mut noticed = false;
    for n in 0..ROWS {
        let (key, value) = row(n);
        match kv.get(&ns(), key.as_bytes()).await {
            Ok(found) => assert_eq!(found, Some(value), "{how}: row {n} is not what was written, and nobody says so"),
            Err(_) => noticed = true,
        }
    }
    noticed
}

#[tokio::test]
async fn a_file_that_was_cut_never_hides_it() {
    let home = tempfile::tempdir().unwrap();
    written(&home.path().join("store")).await;
    let size = fs::metadata(home.path().join("store/db")).unwrap().len();
    let mut noticed = 0;
    for (at, tenths) in [1, 3, 5, 7, 9].into_iter().enumerate() {
        let path = twin(home.path(), &format!("cut-{at}"));
        fs::File::options().write(true).open(path.join("db")).unwrap().set_len(size * tenths / 10).unwrap();
        noticed += u32::from(is_noticed(&path, &format!("cut at {tenths}/10")).await);
    }
    assert!(noticed >= 1, "no cut was noticed: the test cuts where nothing stands");
}

#[tokio::test]
async fn a_changed_bit_never_hides_itself() {
    let home = tempfile::tempdir().unwrap();
    written(&home.path().join("store")).await;
    let bytes = fs::read(home.path().join("store/db")).unwrap();
    // Where rows stand: a row's value is a run of one letter.
    let places: Vec<usize> = bytes
        .windows(64)
        .enumerate()
        .filter(|(_, run)| run.iter().all(|byte| *byte == run[0] && byte.is_ascii_lowercase()))
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    let mut noticed = 0;
    for nth in 0..8 {
        let at = places[places.len() * nth / 8];
        let path = twin(home.path(), &format!("flip-{nth}"));
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fs::write(path.join("db"), changed).unwrap();
        noticed += u32::from(is_noticed(&path, &format!("a bit changed at {at}")).await);
    }
    assert!(noticed >= 1, "no change was noticed: the test changes where nothing stands");
}

#[tokio::test]
async fn always_synced_rows_are_there_and_say_so() {
    use wa_gateway::store::sled::SyncMode;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    let kv = SledStore::open_with(&path, SyncMode::Always).unwrap();
    write(&kv, 0..20).await;
    // A value above sled's inline size is a file of its own.
    let large = Bytes::from(vec![7; 2 << 20]);
    kv.write(&ns(), Batch::new().put("large", large.clone())).await.unwrap();
    kv.close().await.unwrap();
    drop(kv);
    let kv = SledStore::open(&path).unwrap();
    assert_eq!(kv.range(&ns(), KeyRange::all()).await.unwrap().len(), 21);
    assert_eq!(kv.get(&ns(), b"large").await.unwrap(), Some(large));
}
