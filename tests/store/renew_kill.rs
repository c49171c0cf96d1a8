//! What a process leaves that is killed while its store is opened anew: every row whose flushed write had returned, and no
//! namespace whose drop had.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use wa_gateway::store::{Batch, Namespace};

use crate::engine;
use crate::kill::{child, in_child};

/// Names the store's folder in the child's environment.
const MARKER: &str = "WA_GATEWAY_TEST_RENEW_KILL_STORE";
const ROUNDS: u32 = 8;
const WRITERS: usize = 3;
/// Sessions that are made and dropped: enough of three namespaces each for a store to be opened anew.
const SESSIONS: usize = 310;

fn tell(line: &str) {
    std::io::stderr().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The child: not a test of its own, it returns at once unless the parent started it.
#[test]
fn child_makes_and_drops_until_killed() {
    in_child(MARKER, async |kv| {
        let mut tasks = tokio::task::JoinSet::new();
        let run = std::process::id();
        for writer in 0..WRITERS {
            let kv = kv.clone();
            tasks.spawn(async move {
                let ns = Namespace::credentials(&writer.to_string());
                for row in 0.. {
                    let key = format!("{run}-{row}");
                    kv.write(&ns, Batch::new().put(key.clone(), "value").put("last", key.clone())).await.unwrap();
                    tell(&format!("row {writer} {key}"));
                }
            });
        }
        tasks.spawn(async move {
            for cycle in 0.. {
                let spaces = |n: usize| {
                    let uid = format!("{run}-{cycle}-{n}");
                    [Namespace::credentials(&uid), Namespace::outbox(&uid), Namespace::sent(&uid)]
                };
                for n in 0..SESSIONS {
                    for ns in spaces(n) {
                        kv.write(&ns, Batch::new().put("key", "value").buffered()).await.unwrap();
                    }
                }
                for n in 0..SESSIONS {
                    kv.drop_namespaces(&spaces(n)).await.unwrap();
                    tell(&format!("dropped {run}-{cycle}-{n}"));
                }
            }
        });
        tasks.join_next().await;
    });
}

/// How often the store was marked; opening it anew begins with that.
fn marks(path: &Path) -> Option<u64> {
    let told: Value = serde_json::from_slice(&fs::read(path.with_file_name("store.id")).ok()?).ok()?;
    told["state"].as_u64()
}

#[test]
fn a_kill_while_the_store_is_opened_anew_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (mut rows, mut dropped) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let before = marks(&path).unwrap_or(0);
        let mut child = child("renew_kill::child_makes_and_drops_until_killed", MARKER, &path);
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        let deadline = Instant::now() + Duration::from_mins(2);
        // Once at its opening, then when it is opened anew; at another moment of that in each round.
        while marks(&path).is_none_or(|now| now < before + 2) {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it was not opened anew");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(12) * round);
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["row", writer, key] => drop(rows.insert((writer.to_owned(), key.to_owned()))),
                ["dropped", uid] => drop(dropped.insert(uid.to_owned())),
                _ => {}
            }
        }

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kv = engine::sled(&path);
            for (writer, key) in &rows {
                let found = kv.get(&Namespace::credentials(writer), key.as_bytes()).await.unwrap();
                assert_eq!(
                    found.as_deref(),
                    Some(&b"value"[..]),
                    "round {round}: {writer} {key} was written and is lost"
                );
            }
            let mut left = kv.namespaces().await.unwrap();
            for ns in &left {
                let (_, uid) = ns.as_str().split_once(':').unwrap_or_default();
                assert!(!dropped.contains(uid), "round {round}: {} was dropped and is there", ns.as_str());
            }
            // What was made and not dropped would be too much for the next round to drop.
            left.retain(|ns| ns.as_str().contains('-'));
            kv.drop_namespaces(&left).await.unwrap();
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    assert!(!rows.is_empty() && dropped.len() >= SESSIONS / 2, "{} {}", rows.len(), dropped.len());
}
