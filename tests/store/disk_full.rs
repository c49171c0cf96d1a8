//! A disk that has no room for a while: writes fail, nothing that was flushed is lost, and it goes on when there is room.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wa_gateway::store::{Batch, KeyRange, KvError, Namespace};

use crate::engine;

/// Names the store's folder in the child's environment.
const MARKER: &str = "WA_GATEWAY_TEST_FULL_STORE";
const DEADLINE: Duration = Duration::from_secs(20);

/// A file-size limit of 4 MiB stands for the full disk; the signal that comes with it is ignored, as `write` then fails.
#[test]
fn a_full_disk_stops_the_store_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -S -f $((4 * 1024 * 1024 / 512)); exec \"$0\" \"$@\"";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk_full::child_fills_the_disk", "--nocapture"])
        .env(MARKER, folder.path().join("store"))
        .output()
        .expect("sh runs the child");
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("went on after the disk was full"), "the child did its part: {said}");
}

/// The child: not a test of its own, it returns at once unless the parent started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_fills_the_disk() {
    #[expect(clippy::disallowed_methods, reason = "the parent test hands its folder over in the environment")]
    let Ok(path) = std::env::var(MARKER) else { return };
    let kv = engine::sled(Path::new(&path));
    let (ns, quiet, buffered) =
        (Namespace::credentials("a"), Namespace::credentials("quiet"), Namespace::credentials("buffered"));
    kv.write(&quiet, Batch::new().put("k", "v")).await.unwrap();
    kv.write(&buffered, Batch::new().put("k", "old")).await.unwrap();
    let row = |row: usize| Batch::new().put(format!("{row:05}"), Bytes::from(vec![b'x'; 10_000]));
    let (mut flushed, mut under_way) = (0, false);
    let failed = loop {
        // Buffered in each round, so that one is under way when the disk is full.
        if let Err(error) = kv.write(&buffered, Batch::new().put("k", flushed.to_string()).buffered()).await {
            break error;
        }
        under_way = true;
        match kv.write(&ns, row(flushed)).await {
            Ok(()) => (flushed, under_way) = (flushed + 1, false),
            Err(error) => break error,
        }
        assert!(flushed < 5_000, "the limit was never met");
    };
    assert!(matches!(failed, KvError::Engine(_)), "{failed:?}");
    assert!(flushed > 50, "{flushed}");
    // Opened again it may find room for a few more rows; what it says to be written has to stay.
    let mut later = Vec::new();
    for attempt in 0..200 {
        let key = format!("later-{attempt:05}");
        if kv.write(&ns, Batch::new().put(key.clone(), Bytes::from(vec![b'y'; 10_000]))).await.is_ok() {
            later.push(key);
        }
    }
    assert!(later.len() < 200, "the limit was never met again");
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
    assert!(raised.expect("prlimit (util-linux) is there").success());

    let since = Instant::now();
    while kv.write(&quiet, Batch::new().put("k", "new")).await.is_err() {
        assert!(since.elapsed() < DEADLINE, "the store never came back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows = kv.range(&ns, KeyRange::all()).await.unwrap();
    assert!(rows.len() >= flushed);
    for (expected, (key, _)) in rows.iter().take(flushed).enumerate() {
        assert_eq!(key, &format!("{expected:05}"), "a flushed row is lost");
    }
    for key in later {
        assert!(kv.get(&ns, key.as_bytes()).await.unwrap().is_some(), "{key} is lost");
    }
    // Its last buffered write never reached the disk: the writer learns of it once, then goes on from what is stored.
    let told = kv.write(&buffered, Batch::new().put("k", "next")).await;
    assert_eq!(told.is_err(), under_way, "{told:?}");
    kv.write(&buffered, Batch::new().put("k", "next")).await.unwrap();
    assert_eq!(kv.get(&quiet, b"k").await.unwrap().as_deref(), Some(&b"new"[..]));
    println!("went on after the disk was full");
}
