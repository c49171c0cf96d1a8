//! Faults of the store as the owner of the program meets them: what is told, what goes on, and that nobody is given a new
//! identity unasked.

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use wa_gateway::store::sled::SledStore;
use wa_gateway::store::{Batch, KeyRange, Kv as _, Namespace};
use whatsapp_simulator::{Options, Simulator};

use super::support::{Api, Process, Receiver, base_settings, eventually};

const NUMBER: &str = "6281234500321";
const OTHER: &str = "6281234500322";
const FRIEND: &str = "6281234500323";

struct Scene {
    simulator: Simulator,
    receiver: Receiver,
    folder: TempDir,
    settings: Vec<(String, String)>,
}

impl Scene {
    async fn new() -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let settings = base_settings(&simulator, &receiver, folder.path());
        Self { simulator, receiver, folder, settings }
    }

    async fn start(&self) -> Process {
        Process::start(&self.settings, self.folder.path()).await
    }

    async fn pair(&self, process: &Process, name: &str, number: &str) {
        let qr = process.api.qr(name).await;
        self.simulator.scan(&qr, number).await.unwrap();
        process.api.wait_status(name, "connected").await;
    }

    /// Two sessions that were connected, and a gateway that was stopped.
    async fn with_two() -> Self {
        let scene = Self::new().await;
        let mut process = scene.start().await;
        scene.pair(&process, "a", NUMBER).await;
        scene.pair(&process, "b", OTHER).await;
        assert_eq!(process.terminate().await.code(), Some(0));
        scene
    }

    fn store(&self) -> std::path::PathBuf {
        self.folder.path().join("wa_credentials/store")
    }

    /// A start that must fail: what it says.
    fn refused(&self) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_wa-gateway"))
            .current_dir(self.folder.path())
            .env_clear()
            .envs(self.settings.iter().cloned())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// Changes rows of the stopped gateway's store.
    async fn meddle(&self, ns: &Namespace, change: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) -> usize {
        let store = SledStore::open(&self.store()).unwrap();
        let mut changed = 0;
        for (key, value) in store.range(ns, KeyRange::all()).await.unwrap() {
            if let Some(new) = change(&key, &value) {
                store.write(ns, Batch::new().put(key, Bytes::from(new))).await.unwrap();
                changed += 1;
            }
        }
        store.close().await.unwrap();
        changed
    }

    /// The credentials of the session with this name.
    async fn credentials(&self, name: &str) -> Namespace {
        let store = SledStore::open(&self.store()).unwrap();
        let key = format!("name/{name}");
        let uid = store.get(&Namespace::registry(), key.as_bytes()).await.unwrap().unwrap();
        Namespace::credentials(std::str::from_utf8(&uid).unwrap())
    }

    fn check(&self) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_wa-gateway"))
            .arg("check")
            .current_dir(self.folder.path())
            .env_clear()
            .envs(self.settings.iter().cloned())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    }
}

/// `GET /session/{name}` says that its keys can't be read.
pub(crate) async fn is_shown_as_damaged(api: &Api, name: &str) {
    is_damaged_by(api, name, "device_unreadable").await;
}

async fn is_damaged_by(api: &Api, name: &str, reason: &str) {
    let shown = api.get(&format!("/session/{name}")).await.expect(200).json();
    let data = &shown["data"];
    assert_eq!(
        (&data["status"], &data["state"], &data["reason"]),
        (&json!("disconnected"), &json!("damaged"), &json!(reason)),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_cannot_be_read_is_told_and_never_replaced() {
    for damage in [&b""[..], b"\x09{}", b"\x01\x01{\"registration_id\":"] {
        let scene = Scene::with_two().await;
        assert_eq!(scene.check().0, Some(0));
        let credentials = scene.credentials("a").await;
        let damaged = scene.meddle(&credentials, |key, _| (key == b"Z").then(|| damage.to_vec())).await;
        assert_eq!(damaged, 1);
        let (code, told) = scene.check();
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("session a:"), "{told}");

        let process = scene.start().await;
        // The other one is unharmed.
        process.api.wait_status("b", "connected").await;
        process.api.wait_status("a", "disconnected").await;
        process.says("are damaged").await;
        is_shown_as_damaged(&process.api, "a").await;
        process.api.post("/session/stop", json!({ "session": "a" })).await.expect(200);
        for _ in 0..2 {
            let refused = process.api.start("a").await;
            assert_eq!(refused.status, 503, "{}", refused.body);
            assert!(refused.message().contains("wa-gateway restore"), "{}", refused.body);
            assert!(refused.message().contains("delete the session"), "{}", refused.body);
        }
        is_shown_as_damaged(&process.api, "a").await;
        assert_eq!(scene.simulator.counters().pairings, 2);
        // Over a restart too.
        drop(process);
        let process = scene.start().await;
        process.api.wait_status("a", "disconnected").await;
        is_shown_as_damaged(&process.api, "a").await;
        process.api.start("a").await.expect(503);
        assert_eq!(scene.simulator.counters().pairings, 2);
        // Who says so gets a new one.
        process.api.delete("a").await.expect(200);
        process.api.qr("a").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_that_cannot_be_read_harms_its_own_session_only() {
    let scene = Scene::with_two().await;
    let credentials = scene.credentials("a").await;
    let outbox = Namespace::outbox(credentials.as_str().split_once(':').unwrap().1);
    let counters = scene.meddle(&outbox, |key, _| (key == b"m").then(|| b"none".to_vec())).await;
    assert_eq!(counters, 1);

    let process = scene.start().await;
    process.api.wait_status("b", "connected").await;
    process.api.wait_status("a", "disconnected").await;
    is_damaged_by(&process.api, "a", "outbox_unreadable").await;
    process.says("are damaged").await;
    process.api.start("a").await.expect(503);
    is_damaged_by(&process.api, "a", "outbox_unreadable").await;
    // The other one receives and sends.
    let friend = scene.simulator.phone(FRIEND);
    friend.says(OTHER, "hello b").await.unwrap();
    scene.receiver.message("b", "hello b").await;
    process.api.text("b", FRIEND, "hello from b").await.expect(200);
    assert_eq!(scene.simulator.counters().pairings, 2);
    // It can be had anew.
    process.api.delete("a").await.expect(200);
    process.api.qr("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_does_not_forget_its_session() {
    let scene = Scene::with_two().await;
    let registry = Namespace::registry();
    let is_a = |key: &[u8], value: &[u8]| {
        key.starts_with(b"session/") && String::from_utf8_lossy(value).contains("\"name\":\"a\"")
    };
    let damaged =
        scene.meddle(&registry, |key, value| is_a(key, value).then(|| value[..value.len() / 2].to_vec())).await;
    assert_eq!(damaged, 1);
    let (code, told) = scene.check();
    assert_eq!(code, Some(1), "{told}");
    let mut process = scene.start().await;
    // Its keys are there, and so it comes back without a scan.
    process.api.wait_status("a", "connected").await;
    process.api.wait_status("b", "connected").await;
    process.says("made anew").await;
    assert_eq!(scene.simulator.counters().pairings, 2);
    assert_eq!(process.terminate().await.code(), Some(0));
    let (code, told) = scene.check();
    assert_eq!(code, Some(0), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_lost_or_damaged_is_no_fresh_start() {
    let scene = Scene::with_two().await;
    let (store, aside) = (scene.store(), scene.folder.path().join("aside"));
    let named = |said: &str| assert!(said.contains(&store.display().to_string()), "{said}");
    fs::rename(&store, &aside).unwrap();
    for _ in 0..2 {
        let said = scene.refused();
        named(&said);
        assert!(said.contains("store.id") && said.contains("restore"), "{said}");
    }
    // Brought back, all is well.
    fs::rename(&aside, &store).unwrap();
    let mut process = scene.start().await;
    process.api.wait_status("a", "connected").await;
    assert_eq!(process.terminate().await.code(), Some(0));
    // sled's own settings, cut.
    let conf = fs::read(store.join("conf")).unwrap();
    fs::write(store.join("conf"), &conf[..conf.len() / 2]).unwrap();
    let said = scene.refused();
    named(&said);
    assert!(said.contains("wa-gateway restore"), "{said}");
    assert_eq!(scene.simulator.counters().pairings, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_closes_sessions_until_there_is_room() {
    let scene = Scene::new().await;
    // A limit on the size of files stands for the full disk.
    let process = Process::start_limited(&scene.settings, scene.folder.path(), 4 << 20).await;
    scene.pair(&process, "a", NUMBER).await;
    process.api.get("/readyz").await.expect(200);
    // Nobody takes the events: they stay in the store.
    scene.receiver.answer(503);
    let friend = scene.simulator.phone(FRIEND);
    let mut sent = Vec::new();
    eventually("the disk to be full", || {
        let text = format!("{} {}", sent.len(), "x".repeat(30_000));
        sent.push(text.clone());
        let (friend, api) = (friend.clone(), process.api.clone());
        async move {
            friend.says(NUMBER, &text).await.unwrap();
            // A small write may still fit where a message does not: the session that met it counts too.
            let told = api.get("/readyz").await;
            (told.status == 503 && told.json()["failing"][0] == "store").then_some(())
        }
    })
    .await;
    process.api.get("/livez").await.expect(200);
    process.raise_limit();
    scene.receiver.answer(200);
    eventually("the gateway to be ready again", || async {
        (process.api.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    process.api.wait_status("a", "connected").await;
    for text in &sent {
        scene.receiver.message("a", text).await;
    }
    process.api.text("a", FRIEND, "after").await.expect(200);
    eventually("the contact to read it", || async {
        friend.inbox().iter().any(|message| message.text.as_deref() == Some("after")).then_some(())
    })
    .await;
    let counters = scene.simulator.counters();
    assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts, counters.pairings), (0, 0, 1));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("wa_credentials");
    let folder_of = |path: &Path| path.display().to_string();
    // As root nothing is read-only but what the kernel serves.
    for credentials in [credentials.as_path(), Path::new("/proc/wa_credentials")] {
        use std::os::unix::fs::PermissionsExt as _;
        if credentials.starts_with(folder.path()) {
            fs::create_dir(credentials).unwrap();
            fs::set_permissions(credentials, fs::Permissions::from_mode(0o500)).unwrap();
            if fs::write(credentials.join("probe"), "").is_ok() {
                continue;
            }
        }
        let output = Command::new(env!("CARGO_BIN_EXE_wa-gateway"))
            .current_dir(folder.path())
            .env_clear()
            .env("PORT", "0")
            .env("KEY", "secret")
            .env("WHATSAPP_WS_URL", "ws://127.0.0.1:9/ws/chat")
            .env("CREDENTIALS_DIR", credentials)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&folder_of(credentials)), "{said}");
    }
}
