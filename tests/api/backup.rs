//! Backup of a running gateway, restore into another folder, and the check: the program as its owner calls it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;
use whatsapp_simulator::{Options, Simulator};

use super::support::output::{failed, succeeded};
use super::support::{Process, Receiver, base_settings, eventually};

const NUMBER: &str = "6281234500311";
const OTHER: &str = "6281234500312";
const FRIEND: &str = "6281234500313";
const PASSPHRASE: &str = "correct horse battery staple";

/// The program's settings with this folder for its store.
fn settings_in(simulator: &Simulator, receiver: &Receiver, folder: &Path) -> Vec<(String, String)> {
    let mut settings = base_settings(simulator, receiver, folder);
    settings.push(("BACKUP_PASSPHRASE".to_owned(), PASSPHRASE.to_owned()));
    settings
}

/// Runs a subcommand to its end.
fn run(settings: &[(String, String)], folder: &Path, arguments: &[&str], port: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wa-gateway"));
    command.current_dir(folder).env_clear().envs(settings.iter().cloned()).args(arguments);
    if let Some(port) = port {
        command.env("PORT", port);
    }
    command.stdin(std::process::Stdio::null()).output().unwrap()
}

struct Scene {
    simulator: Simulator,
    receiver: Receiver,
    folder: TempDir,
    settings: Vec<(String, String)>,
    process: Process,
}

impl Scene {
    async fn new() -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let settings = settings_in(&simulator, &receiver, folder.path());
        let process = Process::start(&settings, folder.path()).await;
        Self { simulator, receiver, folder, settings, process }
    }

    async fn pair(&self, name: &str, number: &str) {
        let qr = self.process.api.qr(name).await;
        self.simulator.scan(&qr, number).await.unwrap();
        self.process.api.wait_status(name, "connected").await;
    }

    fn port(&self) -> String {
        self.process.api.base().rsplit(':').next().unwrap().to_owned()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("gateway.backup")
    }

    fn backup(&self) -> Output {
        let file = self.file();
        run(&self.settings, self.folder.path(), &["backup", file.to_str().unwrap()], Some(&self.port()))
    }

    /// One text each way.
    async fn talk(&self, process: &Process, out: &str, back: &str) {
        let friend = self.simulator.phone(FRIEND);
        process.api.text("a", FRIEND, out).await.expect(200);
        eventually(&format!("the contact to read {out:?}"), || async {
            friend.inbox().iter().any(|message| message.text.as_deref() == Some(out)).then_some(())
        })
        .await;
        friend.says(NUMBER, back).await.unwrap();
        self.receiver.message("a", back).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_gateway_goes_on_without_a_scan_and_no_key_is_used_twice() {
    let mut scene = Scene::new().await;
    scene.pair("a", NUMBER).await;
    scene.pair("gone later", OTHER).await;
    scene.talk(&scene.process, "out before", "back before").await;
    let group = scene.simulator.create_group("everybody", &[NUMBER, FRIEND], false);
    scene.process.api.text("a", &group, "to all before").await.expect(200);

    let told = succeeded(&scene.backup());
    assert!(told.contains("2 sessions"), "{told}");
    assert_eq!(std::fs::metadata(scene.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(scene.file()).unwrap();
    for secret in [NUMBER, "gone later", PASSPHRASE] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} can be read in it");
    }
    // Nothing else is left in the folder, and the log does not know the passphrase.
    let drafts = std::fs::read_dir(scene.folder.path()).unwrap().flatten();
    assert!(drafts.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".wa-gateway")));
    assert!(!scene.process.log().contains(PASSPHRASE));

    // Life goes on: these ratchets are ahead of the backup's.
    for round in 0..5 {
        scene.talk(&scene.process, &format!("out {round}"), &format!("back {round}")).await;
    }
    scene.process.api.text("a", &group, "to all after").await.expect(200);
    let before = scene.simulator.counters();
    assert_eq!(scene.process.terminate().await.code(), Some(0));
    // While nobody listens: encrypted to a ratchet that the restored gateway will not have.
    scene.simulator.phone(FRIEND).says(NUMBER, "while away").await.unwrap();

    let new = tempfile::tempdir().unwrap();
    let settings = settings_in(&scene.simulator, &scene.receiver, new.path());
    let file = scene.file();
    let told = succeeded(&run(&settings, new.path(), &["restore", file.to_str().unwrap()], None));
    assert!(told.contains("restored 2 sessions"), "{told}");
    let checked = succeeded(&run(&settings, new.path(), &["check"], None));
    assert!(checked.contains("2 sessions"), "{checked}");

    let restored = Process::start(&settings, new.path()).await;
    restored.api.wait_status("a", "connected").await;
    restored.api.wait_status("gone later", "connected").await;
    scene.receiver.message("a", "while away").await;
    for round in 0..5 {
        scene.talk(&restored, &format!("out again {round}"), &format!("back again {round}")).await;
    }
    restored.api.text("a", &group, "to all again").await.expect(200);
    eventually("the group to read it", || async {
        let inbox = scene.simulator.phone(FRIEND).inbox();
        inbox.iter().any(|message| message.text.as_deref() == Some("to all again")).then_some(())
    })
    .await;
    let after = scene.simulator.counters();
    assert_eq!(after.pairings, 2, "nobody scanned again");
    assert!(after.prekey_uploads >= before.prekey_uploads + 2, "each session made new pre-keys");
    assert_eq!((after.repeated_counters, after.repeated_ciphertexts), (0, 0), "a key was used twice");
    assert_eq!(scene.simulator.phone(FRIEND).repeated_keys(), 0);
    assert_eq!(after.violations, 0, "{:?}", after.violations_seen);
    // At most one retry for each message that was under way on an old ratchet.
    let retries = |counters: &whatsapp_simulator::Counters| counters.retries.values().sum::<u64>();
    assert!(retries(&after) - retries(&before) <= 2, "{:?}", after.retries);
    let texts = |text: &str| scene.receiver.messages("a").iter().filter(|body| body["message"] == text).count();
    assert_eq!(texts("while away"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_refused_where_it_would_harm() {
    let mut scene = Scene::new().await;
    scene.pair("a", NUMBER).await;
    succeeded(&scene.backup());
    let file = scene.file();
    let file = file.to_str().unwrap();
    // The gateway runs.
    failed(&run(&scene.settings, scene.folder.path(), &["restore", file], None), "in use by another process");
    failed(&run(&scene.settings, scene.folder.path(), &["check"], None), "in use by another process");
    assert_eq!(scene.process.terminate().await.code(), Some(0));
    // It has sessions.
    failed(&run(&scene.settings, scene.folder.path(), &["restore", file], None), "not empty");
    // Another passphrase, half a file, a changed one, none at all; and nothing of the store is touched.
    let mut wrong = scene.settings.clone();
    wrong.push(("BACKUP_PASSPHRASE".to_owned(), "wrong".to_owned()));
    failed(&run(&wrong, scene.folder.path(), &["restore", "--force", file], None), "the passphrase is wrong");
    let bytes = std::fs::read(file).unwrap();
    let broken = scene.folder.path().join("broken");
    let restore_broken = ["restore", "--force", "broken"];
    std::fs::write(&broken, &bytes[..bytes.len() - 1000]).unwrap();
    failed(&run(&scene.settings, scene.folder.path(), &restore_broken, None), "cut short");
    let mut changed = bytes.clone();
    let middle = changed.len() - 30_000;
    changed[middle] ^= 1;
    std::fs::write(&broken, changed).unwrap();
    failed(&run(&scene.settings, scene.folder.path(), &restore_broken, None), "changed or damaged");
    failed(&run(&scene.settings, scene.folder.path(), &["restore", "nowhere"], None), "nowhere");
    let mut without = scene.settings.clone();
    without.retain(|(name, _)| name != "BACKUP_PASSPHRASE");
    failed(&run(&without, scene.folder.path(), &["restore", "--force", file], None), "needs a passphrase");
    succeeded(&run(&scene.settings, scene.folder.path(), &["check"], None));
    // With --force it replaces what is there.
    succeeded(&run(&scene.settings, scene.folder.path(), &["restore", "--force", file], None));
    let process = Process::start(&scene.settings, scene.folder.path()).await;
    process.api.wait_status("a", "connected").await;
    assert_eq!(scene.simulator.counters().pairings, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_needs_a_gateway_a_key_and_a_passphrase() {
    let mut scene = Scene::new().await;
    let port = scene.port();
    let file = scene.file();
    let arguments = ["backup", file.to_str().unwrap()];
    let with = |name: &str, value: &str| {
        let mut settings = scene.settings.clone();
        settings.push((name.to_owned(), value.to_owned()));
        settings
    };
    failed(&run(&with("KEY", "other"), scene.folder.path(), &arguments, Some(&port)), "Unauthorized");
    failed(&run(&with("BACKUP_PASSPHRASE", ""), scene.folder.path(), &arguments, Some(&port)), "needs a passphrase");
    scene.process.api.post("/backup", json!({})).await.expect(400);
    scene.process.api.post("/backup", json!({ "passphrase": "" })).await.expect(400);
    assert_eq!(scene.process.terminate().await.code(), Some(0));
    failed(&run(&scene.settings, scene.folder.path(), &arguments, Some(&port)), "no gateway answers");
    assert!(!file.exists(), "a backup that failed leaves no file");
}
