//! The crash matrix: SIGKILL at seeded moments while five sessions receive a thousand messages and their receiver works,
//! fails, hangs and comes back. Whatever the moment, every message arrives, in the order of its chat, under one event id.
//!
//! `WA_GATEWAY_KILLS` sets the kills that each window must have seen (10 unless told otherwise), `WA_GATEWAY_SEED` the seed,
//! `WA_GATEWAY_LOG` what the gateway logs, which is shown when a pairing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use tempfile::TempDir;
use wa_gateway::outbox::{Bounds, Common, Entry, Kinds, Outbox};
use wa_gateway::store::registry::Registry;
use wa_gateway::store::sled::SledStore;
use wa_gateway::store::{Kv, Namespace};
use whatsapp_simulator::phone::{Media, MediaKind};
use whatsapp_simulator::{Fault, Options, Simulator};

use super::support::{Process, Receiver, STEP, base_settings, eventually};

const SESSIONS: usize = 5;
const CHATS: usize = 4;
/// Messages of one chat in a round.
const BURST: usize = 4;
/// The least that is sent in all.
const MESSAGES: usize = 1_000;
/// The session that is deleted again and again.
const DOOMED: &str = "doomed";
const DOOMED_NUMBER: &str = "6281234500990";

fn from_environment(name: &str, default: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a flag of the test run, not a setting of the gateway")]
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// Marsaglia's xorshift64: the same moments for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Where the kills have struck.
#[derive(Clone, Copy, Debug, Default)]
struct Windows {
    before_commit: u64,
    between_commit_and_ack: u64,
    between_post_and_removal: u64,
    during_media: u64,
    during_delete: u64,
}

impl Windows {
    fn fewest(&self) -> u64 {
        let Self { before_commit, between_commit_and_ack, between_post_and_removal, during_media, during_delete } =
            *self;
        [before_commit, between_commit_and_ack, between_post_and_removal, during_media, during_delete]
            .into_iter()
            .min()
            .unwrap()
    }
}

/// What the store holds of a session while no gateway runs.
#[derive(Default)]
struct OnDisk {
    waiting: Vec<Entry>,
    dead: usize,
    files: usize,
}

struct Matrix {
    simulator: Simulator,
    receiver: Receiver,
    folder: TempDir,
    settings: Vec<(String, String)>,
    process: Process,
    dice: Dice,
    windows: Windows,
    /// By session and chat, the ids in the order in which they were said.
    said: BTreeMap<(usize, usize), Vec<String>>,
    files: BTreeSet<String>,
}

fn session(n: usize) -> String {
    format!("s{n}")
}

fn number(session: usize) -> String {
    format!("62812345009{session:02}")
}

/// What a chat said in a round: the ids in order, and the one with a file.
type Burst = ((usize, usize), Vec<String>, Option<String>);

/// Each chat says its burst to each session, side by side; one may be a picture.
async fn burst(simulator: &Simulator, round: usize, pictures: bool) -> Vec<Burst> {
    let chats = (0..SESSIONS).flat_map(|session| (0..CHATS).map(move |chat| (session, chat)));
    join_all(chats.map(|(session, chat)| async move {
        let (friend, to) = (simulator.phone(&format!("62899900{chat}")), number(session));
        let (mut ids, mut file) = (Vec::new(), None);
        for n in 0..BURST {
            let text = format!("{round} {n}");
            if pictures && n == 1 && chat == 0 {
                let picture = Media::new(MediaKind::Image, vec![7; 20_000], "image/jpeg").caption(&text);
                file = Some(friend.sends_media(&to, &picture).await.unwrap());
                ids.extend(file.clone());
            } else {
                ids.push(friend.says(&to, &text).await.unwrap());
            }
        }
        ((session, chat), ids, file)
    }))
    .await
}

impl Matrix {
    async fn new(seed: u64) -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut settings = base_settings(&simulator, &receiver, folder.path());
        for (name, value) in
            [("WEBHOOK_RETRY_FIRST_MS", "20"), ("WEBHOOK_RETRY_MAX_SECS", "1"), ("WEBHOOK_TIMEOUT_SECS", "2")]
        {
            settings.push((name.to_owned(), value.to_owned()));
        }
        #[expect(clippy::disallowed_methods, reason = "a flag of the test run, not a setting of the gateway")]
        if let Ok(filter) = std::env::var("WA_GATEWAY_LOG") {
            settings.push(("RUST_LOG".to_owned(), filter));
        }
        let process = Process::start(&settings, folder.path()).await;
        Self {
            simulator,
            receiver,
            folder,
            settings,
            process,
            dice: Dice(seed | 1),
            windows: Windows::default(),
            said: BTreeMap::new(),
            files: BTreeSet::new(),
        }
    }

    async fn pair(&mut self, name: &str, number: &str) {
        let qr = self.process.api.qr(name).await;
        if let Err(error) = self.simulator.scan(&qr, number).await {
            let ended = self.process.ended();
            panic!("{name} can't be paired: {error:#}; the gateway ended: {ended:?}\n{}", self.process.log());
        }
        self.process.api.wait_status(name, "connected").await;
    }

    fn total(&self) -> usize {
        self.said.values().map(Vec::len).sum()
    }

    /// What is on disk; only while no gateway runs. Whether a deletion was begun and not finished.
    async fn disk(&self) -> (BTreeMap<usize, OnDisk>, bool) {
        let kv: std::sync::Arc<dyn Kv> =
            std::sync::Arc::new(SledStore::open(&self.folder.path().join("wa_credentials/store")).unwrap());
        let registry = Registry::new(std::sync::Arc::clone(&kv));
        let common = std::sync::Arc::new(Common::new(Bounds::default(), Kinds::default(), true));
        let mut found = BTreeMap::new();
        for record in registry.list().await.unwrap() {
            let Some(n) = record.name.as_str().strip_prefix('s').and_then(|n| n.parse().ok()) else { continue };
            let outbox =
                Outbox::open(&common, std::sync::Arc::clone(&kv), &record.uid, record.name, None).await.unwrap();
            let waiting = outbox.head(usize::MAX).await.unwrap();
            let (dead, files) = (outbox.dead(None, usize::MAX).await.unwrap().len(), outbox.pending().len());
            found.insert(n, OnDisk { waiting, dead, files });
        }
        let deleting = !registry.deletions().await.unwrap().is_empty();
        kv.close().await.unwrap();
        (found, deleting)
    }

    /// The ids of the messages that the receiver took of a session, in order.
    fn taken(&self, n: usize) -> Vec<(String, String)> {
        let id = |body: &serde_json::Value, name: &str| body[name].as_str().unwrap().to_owned();
        self.receiver.messages(&session(n)).iter().map(|body| (id(body, "id"), id(body, "event_id"))).collect()
    }

    /// Kills at the round's moment while messages come, looks at what the kill left, and starts again.
    async fn round(&mut self, round: usize) {
        let with_delete = self.windows.during_delete <= self.windows.fewest() + 1;
        // The gateway must be up for what this round wants to meet.
        for n in 0..SESSIONS {
            self.process.api.wait_status(&session(n), "connected").await;
        }
        if with_delete && self.process.api.status(DOOMED).await != "connected" {
            if self.process.api.status(DOOMED).await != "absent" {
                self.process.api.delete(DOOMED).await.expect(200);
            }
            self.pair(DOOMED, DOOMED_NUMBER).await;
        }
        let mode = self.dice.below(4);
        match mode {
            0 => self.receiver.answer(503),
            1 => self.receiver.hang(true),
            // Otherwise it has recovered.
            _ => {}
        }
        let pictures = round.is_multiple_of(2);
        let slow = pictures.then(|| self.simulator.inject(Fault::SlowMedia { delay: Duration::from_millis(300) }));
        let moment = Duration::from_micros(20_000 + self.dice.below(300_000));
        let delete_at = Duration::from_micros(self.dice.below(60_000));
        let api = self.process.api.clone();
        let deleting = async {
            if with_delete {
                // So long before the kill.
                tokio::time::sleep(moment.saturating_sub(delete_at)).await;
                let _killed = api.try_send(Method::DELETE, &format!("/session/{DOOMED}"), None).await;
            }
        };
        // The moment between a commit and its acknowledgement is short, and just before the receiver is called.
        let aimed = self.windows.between_commit_and_ack == self.windows.fewest();
        let (receiver, calls) = (&self.receiver, 1 + usize::try_from(self.dice.below(6)).unwrap());
        let enough = receiver.count() + calls;
        let kill = async {
            let aim = async {
                while !aimed || receiver.count() < enough {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let _late = tokio::time::timeout(moment, aim).await;
        };
        let said = {
            let mut burst = std::pin::pin!(burst(&self.simulator, round, pictures));
            let mut deleting = std::pin::pin!(deleting);
            let mut kill = std::pin::pin!(kill);
            let (mut said, mut deleted) = (None, false);
            loop {
                tokio::select! {
                    biased;
                    () = &mut kill => break,
                    () = &mut deleting, if !deleted => deleted = true,
                    all = &mut burst, if said.is_none() => said = Some(all),
                }
            }
            self.process.kill();
            match said {
                Some(said) => said,
                None => burst.as_mut().await,
            }
        };
        eventually("the server to see the connections end", || async {
            let gone = (0..SESSIONS).all(|n| self.simulator.devices(&number(n)).iter().all(|device| !device.online));
            gone.then_some(())
        })
        .await;
        if let Some(fault) = slow {
            self.simulator.clear(fault);
        }
        for (chat, ids, file) in said {
            self.said.entry(chat).or_default().extend(ids);
            self.files.extend(file);
        }
        self.look(with_delete).await;
        self.receiver.hang(false);
        self.receiver.answer(200);
        self.process = Process::start(&self.settings, self.folder.path()).await;
        if with_delete {
            self.check_doomed().await;
        }
    }

    /// Nothing that WhatsApp was told of may be missing; which windows the kill has struck.
    async fn look(&mut self, with_delete: bool) {
        let (disk, deleting) = self.disk().await;
        let mut hit = Windows::default();
        for n in 0..SESSIONS {
            let on_disk = &disk[&n];
            let unacknowledged: BTreeSet<_> = self.simulator.unacknowledged(&number(n)).into_iter().collect();
            let waiting: BTreeSet<String> = on_disk.waiting.iter().filter_map(id_of).collect();
            let taken: BTreeSet<String> = self.taken(n).into_iter().map(|(id, _)| id).collect();
            let said = self.said.iter().filter(|((session, _), _)| *session == n).flat_map(|(_, ids)| ids);
            for id in said {
                let committed = waiting.contains(id) || taken.contains(id);
                assert!(committed || unacknowledged.contains(id), "WhatsApp was told of {id}, which is nowhere");
                hit.before_commit |= u64::from(!committed);
                hit.between_commit_and_ack |= u64::from(committed && unacknowledged.contains(id));
                hit.between_post_and_removal |= u64::from(waiting.contains(id) && taken.contains(id));
            }
            hit.during_media |= u64::from(on_disk.files > 0);
            assert_eq!(on_disk.dead, 0);
        }
        hit.during_delete = u64::from(with_delete && deleting);
        self.windows.before_commit += hit.before_commit;
        self.windows.between_commit_and_ack += hit.between_commit_and_ack;
        self.windows.between_post_and_removal += hit.between_post_and_removal;
        self.windows.during_media += hit.during_media;
        self.windows.during_delete += hit.during_delete;
    }

    /// A session whose deletion was cut short is gone, or whole and can be deleted.
    async fn check_doomed(&self) {
        eventually("the doomed session to be whole or gone", || async {
            match self.process.api.status(DOOMED).await.as_str() {
                "connecting" => None,
                _ => Some(()),
            }
        })
        .await;
    }

    /// Everything has arrived, in order, under one id each, and nothing is left anywhere.
    async fn check(&mut self) {
        let all = self.total();
        let wait = tokio::time::timeout(STEP * 4, async {
            loop {
                let taken: BTreeSet<_> = (0..SESSIONS).flat_map(|n| self.taken(n)).map(|(id, _)| id).collect();
                if self.said.values().flatten().all(|id| taken.contains(id)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if wait.await.is_err() {
            let taken: BTreeSet<_> = (0..SESSIONS).flat_map(|n| self.taken(n)).map(|(id, _)| id).collect();
            let missing: Vec<_> = self.said.values().flatten().filter(|id| !taken.contains(*id)).collect();
            panic!("{} of {all} never arrived: {missing:?}", missing.len());
        }
        let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for n in 0..SESSIONS {
            let taken = self.taken(n);
            for (chat, ids) in self.said.iter().filter(|((session, _), _)| *session == n) {
                let of_chat: BTreeSet<_> = ids.iter().collect();
                let mut first = Vec::new();
                for (id, _) in taken.iter().filter(|(id, _)| of_chat.contains(id)) {
                    if !first.contains(id) {
                        first.push(id.clone());
                    }
                }
                assert_eq!(&first, ids, "chat {chat:?} is out of order");
            }
            for (id, event) in taken {
                events.entry(format!("{n} {id}")).or_default().insert(event);
            }
            for body in self.receiver.messages(&session(n)) {
                if self.files.contains(body["id"].as_str().unwrap()) {
                    assert!(body["media"]["image"].is_string() || body["media_error"].is_string(), "{body}");
                }
            }
        }
        let twice: Vec<_> = events.iter().filter(|(_, events)| events.len() > 1).collect();
        assert!(twice.is_empty(), "more than one event id: {twice:?}");
        eventually("nothing left at WhatsApp", || async {
            (0..SESSIONS).all(|n| self.simulator.unacknowledged(&number(n)).is_empty()).then_some(())
        })
        .await;
        let counters = self.simulator.counters();
        assert_eq!((counters.repeated_counters, counters.repeated_ciphertexts), (0, 0), "a key was used twice");
    }

    /// No half session is left of those that were deleted.
    async fn check_leftovers(&mut self) {
        if self.process.api.status(DOOMED).await != "absent" {
            self.process.api.delete(DOOMED).await.expect(200);
        }
        eventually("WhatsApp to have been told of each deletion", || async {
            self.simulator.devices(DOOMED_NUMBER).is_empty().then_some(())
        })
        .await;
        self.process.terminate().await;
        let kv = SledStore::open(&self.folder.path().join("wa_credentials/store")).unwrap();
        let left = kv.namespaces().await.unwrap();
        let left: Vec<_> = left.iter().filter(|ns| **ns != Namespace::registry()).collect();
        assert_eq!(left.len(), 2 * SESSIONS, "{left:?}");
    }
}

/// WhatsApp's id of a message that waits.
fn id_of(entry: &Entry) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&entry.event.body).unwrap();
    body["id"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_moment_of_a_kill_loses_a_message_or_its_place() {
    let kills = from_environment("WA_GATEWAY_KILLS", 10);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = from_environment("WA_GATEWAY_SEED", u64::try_from(now.as_millis()).unwrap());
    println!("seed {seed}");
    let mut matrix = Matrix::new(seed).await;
    for n in 0..SESSIONS {
        matrix.pair(&session(n), &number(n)).await;
    }
    let mut rounds = 0;
    let most = 40 + 20 * kills;
    while matrix.windows.fewest() < kills || matrix.total() < MESSAGES {
        assert!(rounds < most, "seed {seed}: after {rounds} kills not every window was struck: {:?}", matrix.windows);
        matrix.round(usize::try_from(rounds).unwrap()).await;
        rounds += 1;
        if rounds.is_multiple_of(50) {
            println!("seed {seed}: {rounds} kills so far, by window {:?}", matrix.windows);
        }
    }
    println!("seed {seed}: {rounds} kills, {} messages, by window {:?}", matrix.total(), matrix.windows);
    matrix.check().await;
    matrix.check_leftovers().await;
}
