//! A session moves to another host and back: the programs as their owner calls them, over one WhatsApp.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;
use wa_gateway::event::SessionName;
use wa_gateway::store::Kv;
use wa_gateway::store::registry::Registry;
use wa_gateway::store::sled::SledStore;
use whatsapp_simulator::{Counters, Options, Simulator};

use super::support::output::{failed, succeeded};
use super::support::{Process, Receiver, base_settings, eventually};

const NUMBER: &str = "6281234500911";
const FRIEND: &str = "6281234500912";
const STRANGER: &str = "6281234500913";
const PASSPHRASE: &str = "correct horse battery staple";

/// One host: a folder, its receiver, and the gateway when it runs.
struct Host {
    folder: TempDir,
    receiver: Receiver,
    settings: Vec<(String, String)>,
    process: Option<Process>,
}

impl Host {
    async fn new(simulator: &Simulator) -> Self {
        let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
        let mut settings = base_settings(simulator, &receiver, folder.path());
        settings.push(("BACKUP_PASSPHRASE".to_owned(), PASSPHRASE.to_owned()));
        Self { folder, receiver, settings, process: None }
    }

    async fn up(&mut self) {
        self.process = Some(Process::start(&self.settings, self.folder.path()).await);
    }

    async fn down(&mut self) {
        let mut process = self.process.take().unwrap();
        assert_eq!(process.terminate().await.code(), Some(0));
        assert!(!process.log().contains(PASSPHRASE));
    }

    fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Runs the program on this host to its end.
    fn run_with(&self, passphrase: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wa-gateway"));
        command.current_dir(self.folder.path()).env_clear().envs(self.settings.iter().cloned()).args(arguments);
        if let Some(process) = &self.process {
            command.env("PORT", process.api.base().rsplit(':').next().unwrap());
        }
        command.env("BACKUP_PASSPHRASE", passphrase).stdin(std::process::Stdio::null()).output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(PASSPHRASE, arguments)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    async fn state(&self, name: &str) -> (String, String) {
        let detail = self.process().api.get(&format!("/session/{name}")).await.expect(200).json();
        let word = |member: &str| detail["data"][member].as_str().unwrap().to_owned();
        (word("status"), word("state"))
    }

    /// It is listed as moved, and no call of the API makes it run.
    async fn has_left(&self, name: &str) {
        let api = &self.process().api;
        assert_eq!(self.state(name).await, ("disconnected".to_owned(), "moved".to_owned()));
        assert_eq!(api.status(name).await, "disconnected");
        let told = api.start(name).await.expect(409).message();
        assert!(told.contains("export") && told.contains("import"), "{told}");
        api.post("/session/stop", json!({ "session": name })).await.expect(200);
        api.post("/session/logout", json!({ "session": name })).await.expect(409);
        api.text(name, FRIEND, "x").await.expect(409);
        assert_eq!(self.state(name).await.1, "moved");
    }
}

/// The file goes to the other host.
fn carry(file: &Path, to: &Host) -> PathBuf {
    let there = to.path("carried");
    std::fs::copy(file, &there).unwrap();
    there
}

fn retries(counters: &Counters) -> u64 {
    counters.retries.values().sum()
}

/// One text each way, in the chat and in the group.
async fn talk(simulator: &Simulator, host: &Host, session: &str, group: &str, round: &str) {
    let friend = simulator.phone(FRIEND);
    for (to, from) in [(FRIEND, NUMBER), (group, group)] {
        let (out, back) = (format!("out {round} {to}"), format!("back {round} {to}"));
        host.process().api.text(session, to, &out).await.expect(200);
        eventually(&format!("the contact to read {out:?}"), || async {
            friend.inbox().iter().any(|message| message.text.as_deref() == Some(&out)).then_some(())
        })
        .await;
        friend.says(from, &back).await.unwrap();
        host.receiver.message(session, &back).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_to_another_host_and_back_without_a_scan() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let (mut a, mut b) = (Host::new(&simulator).await, Host::new(&simulator).await);
    a.up().await;
    let qr = a.process().api.qr("shop").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    a.process().api.wait_status("shop", "connected").await;
    let own = json!({ "url": a.receiver.url(), "events": ["message"] });
    let group = simulator.create_group("everybody", &[NUMBER, FRIEND], false);
    for round in ["1", "2", "3"] {
        talk(&simulator, &a, "shop", &group, round).await;
    }
    let before = simulator.counters();

    // An event that nobody takes while the session leaves: it goes out from here, after a restart too.
    a.receiver.answer(503);
    simulator.phone(FRIEND).says(NUMBER, "still at home").await.unwrap();
    eventually("the webhook to be tried", || async {
        a.receiver.hooks().iter().any(|hook| hook.body["message"] == "still at home").then_some(())
    })
    .await;
    // Errors change nothing.
    failed(&a.run(&["export", "nobody"]), "Session 'nobody' not found");
    a.process().api.qr("unlinked").await;
    failed(&a.run(&["export", "unlinked"]), "not linked");
    std::fs::write(a.path("taken"), "x").unwrap();
    failed(&a.run(&["export", "shop", "taken"]), "exists");
    failed(&a.run_with("", &["export", "shop"]), "needs a passphrase");
    assert_eq!(a.state("shop").await.1, "connected");

    let told = succeeded(&a.run(&["export", "shop", "away"]));
    assert!(told.contains("session shop"), "{told}");
    assert_eq!(simulator.connections(), 1, "of the one that waits for a scan; its own is closed");
    a.has_left("shop").await;
    // The file was lost: the same once more.
    succeeded(&a.run(&["export", "shop"]));
    assert!(a.path("shop.session").is_file());
    a.down().await;
    a.up().await;
    a.has_left("shop").await;
    a.receiver.answer(200);
    a.receiver.message("shop", "still at home").await;
    // While it is on its way.
    simulator.phone(FRIEND).says(NUMBER, "on its way").await.unwrap();

    let file = carry(&a.path("away"), &b);
    let file = file.to_str().unwrap();
    failed(&b.run_with("wrong", &["import", file]), "the passphrase is wrong");
    let bytes = std::fs::read(file).unwrap();
    for cut in [10, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(b.path("cut"), &bytes[..cut]).unwrap();
        failed(&b.run(&["import", "cut"]), "cut short");
    }
    failed(&b.run(&["restore", file]), "use import");
    let told = succeeded(&b.run(&["import", file, "--dry-run"]));
    assert!(told.contains("would be"), "{told}");
    succeeded(&b.run(&["import", file, "--session", "branch"]));
    failed(&b.run(&["import", file]), "imported here before");
    b.up().await;
    failed(&b.run(&["import", file]), "is the gateway running?");
    b.process().api.wait_status("branch", "connected").await;
    b.receiver.message("branch", "on its way").await;
    for round in ["4", "5"] {
        talk(&simulator, &b, "branch", &group, round).await;
    }
    b.process().api.send(reqwest::Method::PUT, "/session/branch/webhook", Some(own.clone())).await.expect(200);
    b.down().await;

    // From a store that no gateway uses, and home again, where the name is free for it: it is the one that left.
    succeeded(&b.run(&["export", "branch", "home"]));
    b.up().await;
    b.has_left("branch").await;
    let file = carry(&b.path("home"), &a);
    let file = file.to_str().unwrap();
    a.down().await;
    succeeded(&a.run(&["import", file, "--session", "shop"]));
    failed(&a.run(&["import", "away", "--session", "old"]), "imported here before, or a later one was");
    succeeded(&a.run(&["check"]));
    a.up().await;
    a.process().api.wait_status("shop", "connected").await;
    let webhook = a.process().api.get("/session/shop/webhook").await.expect(200).json();
    assert_eq!(webhook["data"]["url"], own["url"], "its own webhook came along");
    for round in ["6", "7"] {
        talk(&simulator, &a, "shop", &group, round).await;
    }
    // Forgetting it where it left unlinks nothing.
    b.process().api.delete("branch").await.expect(200);
    assert_eq!(b.process().api.status("branch").await, "absent");
    talk(&simulator, &a, "shop", &group, "8").await;
    // Somebody who never wrote before: the one-time keys are its own still.
    simulator.phone(STRANGER).says(NUMBER, "hello").await.unwrap();
    a.receiver.message("shop", "hello").await;

    let after = simulator.counters();
    assert_eq!((after.pairings, after.unlinks), (1, 0), "nobody scanned again, nothing was unlinked");
    assert_eq!(simulator.devices(NUMBER).len(), 1);
    assert_eq!(retries(&after), retries(&before), "every message was read at once: {:?}", after.retries);
    assert_eq!((after.repeated_counters, after.repeated_ciphertexts), (0, 0), "a key was used twice");
    assert_eq!(simulator.phone(FRIEND).repeated_keys(), 0);
    assert_eq!(after.violations, 0, "{:?}", after.violations_seen);
    a.down().await;
    b.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_left_is_deleted_without_a_word_to_whatsapp_also_after_a_kill() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut a = Host::new(&simulator).await;
    a.up().await;
    let qr = a.process().api.qr("shop").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    a.process().api.wait_status("shop", "connected").await;
    let api = a.process().api.clone();
    let export = |body| api.post("/session/shop/export", body);
    export(json!({})).await.expect(400);
    export(json!({ "passphrase": "" })).await.expect(400);
    assert_eq!(a.state("shop").await.1, "connected");
    let body = json!({ "passphrase": PASSPHRASE });
    // Whoever asks goes away in the middle: it has left all the same, and can be exported again.
    let url = format!("{}/session/shop/export", api.base());
    let asked = api.client.post(url).header("key", super::support::KEY).header("content-type", "application/json");
    drop(asked.body(body.to_string()).send().await.unwrap());
    a.has_left("shop").await;
    a.process.as_mut().unwrap().kill();
    a.process = None;
    a.up().await;
    a.has_left("shop").await;
    succeeded(&a.run(&["export", "shop"]));
    let logins = simulator.counters().logins;
    // A deletion that a kill cuts short at its first step, and that the next start finishes.
    a.down().await;
    {
        let kv: Arc<dyn Kv> = Arc::new(SledStore::open(&a.path("wa_credentials/store")).unwrap());
        let registry = Registry::new(Arc::clone(&kv));
        let record = registry.get(&SessionName::parse("shop").unwrap()).await.unwrap().unwrap();
        registry.mark_deleting(&record.uid).await.unwrap();
        kv.close().await.unwrap();
    }
    a.up().await;
    assert_eq!(a.process().api.status("shop").await, "absent");
    a.process().api.qr("shop").await;
    a.process().api.delete("shop").await.expect(200);
    assert_eq!((simulator.counters().logins, simulator.devices(NUMBER).len()), (logins, 1));
    a.down().await;
    assert!(succeeded(&a.run(&["check"])).starts_with("0 sessions"), "nothing of it is left");
    // The file is all that there is now, and enough.
    succeeded(&a.run(&["import", "shop.session"]));
    a.up().await;
    a.process().api.wait_status("shop", "connected").await;
    assert_eq!(simulator.counters().pairings, 1);
    a.down().await;
}
