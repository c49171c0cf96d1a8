//! What a killed process leaves: every row whose flushed write had returned.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wa_gateway::store::{Batch, KeyRange, Kv, Namespace};

use crate::engine;

/// Names the store's folder in the child's environment.
const MARKER: &str = "WA_GATEWAY_TEST_KILL_STORE";
const ROUNDS: usize = 10;
const WRITERS: usize = 6;
/// Rows seen before the kill, different in each round.
const ROWS: usize = 40;

/// Runs this with the store that the parent named; does nothing in a process that no parent started.
pub(crate) fn in_child(marker: &str, until_killed: impl AsyncFnOnce(Arc<dyn Kv>)) {
    #[expect(clippy::disallowed_methods, reason = "the parent test hands its folder over in the environment")]
    let Ok(path) = std::env::var(marker) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(until_killed(engine::sled(Path::new(&path))));
}

/// Starts this test of ours in a process of its own, with the store in this folder. The harness captures its stdout: it reports
/// on stderr.
pub(crate) fn child(test: &str, marker: &str, store: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(marker, store)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The child: not a test of its own, it returns at once unless the parent started it.
#[test]
fn child_writes_until_killed() {
    in_child(MARKER, async |kv| {
        let mut tasks = tokio::task::JoinSet::new();
        let run = run_name();
        for writer in 0..WRITERS {
            let (kv, run) = (kv.clone(), run.clone());
            tasks.spawn(async move {
                let ns = Namespace::credentials(&(writer % 3).to_string());
                for row in 0.. {
                    let key = format!("{run}-{writer}-{row}");
                    let value = Bytes::from(vec![b'v'; row % 700]);
                    // Every other batch has two rows: both or none may be found.
                    let twin = format!("twin-{key}");
                    let batch = Batch::new().put(key.clone(), value.clone());
                    let batch = if row % 2 == 0 { batch.put(twin, value) } else { batch };
                    kv.write(&ns, batch).await.unwrap();
                    let line = format!("{} {key}\n", writer % 3);
                    std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        tasks.join_next().await;
    });
}

/// Tells the rows of this run from those of the ones before.
fn run_name() -> String {
    format!("run{}", std::process::id())
}

#[test]
fn flushed_rows_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut seen: Vec<(String, String)> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = child("kill::child_writes_until_killed", MARKER, &path);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let wanted = ROWS + round * 17;
        let mut printed = Vec::new();
        while printed.len() < wanted {
            let line = lines.next().expect("the child ended before it was killed").unwrap();
            printed.push(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it printed between the last line read and its end counts too; a line is one write, so none is cut short.
        printed.extend(lines.map_while(Result::ok));
        seen.extend(printed.iter().filter_map(|line| line.split_once(' ')).map(|(ns, key)| (ns.into(), key.into())));

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kv = engine::sled(&path);
            for (ns, key) in &seen {
                let ns = Namespace::credentials(ns);
                let row: usize = key.rsplit('-').next().unwrap().parse().unwrap();
                let value = kv.get(&ns, key.as_bytes()).await.unwrap();
                let found = value.as_ref().map(Bytes::len);
                assert_eq!(found, Some(row % 700), "round {round}: {key} was written and is lost");
            }
            for ns in kv.namespaces().await.unwrap() {
                for (twin, value) in kv.range(&ns, KeyRange::prefix("twin-")).await.unwrap() {
                    let twin_of = twin.slice("twin-".len()..);
                    assert_eq!(kv.get(&ns, &twin_of).await.unwrap(), Some(value), "round {round}: half a batch");
                }
                for (key, value) in kv.range(&ns, KeyRange::prefix("run")).await.unwrap() {
                    let row = key.rsplit(|&byte| byte == b'-').next().unwrap();
                    let row: usize = std::str::from_utf8(row).unwrap().parse().unwrap();
                    let twin = [b"twin-", key.as_ref()].concat();
                    let expected = row.is_multiple_of(2).then_some(value);
                    assert_eq!(kv.get(&ns, &twin).await.unwrap(), expected, "round {round}: half a batch");
                }
            }
            drop(kv);
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    assert!(seen.len() >= ROUNDS * ROWS);
}
