//! Pairing over a slow disk and a full one: WhatsApp hears of a device that is stored, and of no other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use wa_gateway::store::sled::SledStore;
use wa_gateway::store::{Batch, Flushing, KeyRange, Kv, KvError, Namespace, Op};
use wa_gateway::{Config, Gateway};
use whatsapp_simulator::{Options, Simulator};

use super::support::{Api, Receiver, STEP, base_settings, eventually};

const NUMBER: &str = "6281234500081";

/// What becomes of the row of a device that a phone has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// It is stored at once.
    Fast,
    /// It is stored after a while.
    Slow,
    /// After that while there is no room for it.
    Full,
    /// After that while it is stored, and an error comes all the same.
    Unsure,
}

#[derive(Debug)]
struct Store {
    inner: SledStore,
    disk: Mutex<Disk>,
    /// Whether such a row is stored.
    stored: AtomicBool,
}

impl Store {
    fn set(&self, disk: Disk) {
        *self.disk.lock().unwrap() = disk;
    }
}

#[async_trait]
impl Kv for Store {
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(ns, key).await
    }
    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError> {
        self.inner.get_many(ns, keys).await
    }
    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.inner.range(ns, range).await
    }
    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError> {
        let is_paired = |op: &Op| matches!(op, Op::Put(key, row) if key == "Z" && row.get(1) == Some(&1));
        if !ns.as_str().starts_with("credentials:") || !batch.ops.iter().any(is_paired) {
            return self.inner.write(ns, batch).await;
        }
        let disk = *self.disk.lock().unwrap();
        if disk != Disk::Fast {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        if disk != Disk::Full {
            self.inner.write(ns, batch).await?;
            self.stored.store(true, Ordering::SeqCst);
        }
        match disk {
            Disk::Fast | Disk::Slow => Ok(()),
            Disk::Full | Disk::Unsure => Err(KvError::Engine("no space left on device".into())),
        }
    }
    async fn apply(&self, ns: &Namespace, batch: Batch) -> Result<Flushing, KvError> {
        self.inner.apply(ns, batch).await
    }
    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError> {
        self.inner.drop_namespace(ns).await
    }
    async fn namespaces(&self) -> Result<Vec<Namespace>, KvError> {
        self.inner.namespaces().await
    }
    async fn flush(&self) -> Result<(), KvError> {
        self.inner.flush().await
    }
    async fn snapshot(&self, ns: &Namespace) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.inner.snapshot(ns).await
    }
}

/// A gateway over such a store.
struct Scene {
    simulator: Simulator,
    api: Api,
    gateway: Gateway,
    store: Arc<Store>,
    _receiver: Receiver,
    _folder: TempDir,
}

impl Scene {
    async fn new(disk: Disk) -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let receiver = Receiver::start().await;
        let folder = tempfile::tempdir().unwrap();
        let inner = SledStore::open(&folder.path().join("wa_credentials/store")).unwrap();
        let store = Arc::new(Store { inner, disk: Mutex::new(disk), stored: AtomicBool::new(false) });
        let config = Config::from_vars(base_settings(&simulator, &receiver, folder.path())).unwrap();
        let gateway = Gateway::bind_on(config, Arc::clone(&store) as _).await.unwrap();
        let api = Api::new(gateway.addr().port());
        Self { simulator, api, gateway, store, _receiver: receiver, _folder: folder }
    }

    async fn qr(&self) -> String {
        eventually("a code", || async { self.api.start("a").await.json()["qr"].as_str().map(str::to_owned) }).await
    }

    /// A phone scans a code, and is not told that it was accepted.
    async fn fails(&self) {
        self.simulator.scan(&self.qr().await, NUMBER).await.unwrap_err();
        assert!(self.simulator.devices(NUMBER).is_empty(), "the phone shows a device that is not here");
        self.store.set(Disk::Fast);
        self.store.stored.store(false, Ordering::SeqCst);
    }

    /// A phone scans a code, and the session works.
    async fn pairs(self) {
        self.simulator.scan(&self.qr().await, NUMBER).await.unwrap();
        assert!(self.store.stored.load(Ordering::SeqCst), "the phone shows a device that is not stored yet");
        self.api.wait_status("a", "connected").await;
        assert_eq!((self.simulator.devices(NUMBER).len(), self.simulator.counters().pairings), (1, 1));
        self.gateway.shutdown(STEP, std::future::pending()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_phone_shows_a_device_once_it_is_stored() {
    Scene::new(Disk::Slow).await.pairs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_phone_shows_no_device_that_cannot_be_stored() {
    let scene = Scene::new(Disk::Full).await;
    scene.fails().await;
    scene.pairs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_the_phone_never_heard_of_gives_way_to_a_new_one() {
    let scene = Scene::new(Disk::Unsure).await;
    scene.fails().await;
    // It logs in, and WhatsApp does not know it.
    scene.api.wait_status("a", "disconnected").await;
    let shown = scene.api.get("/session/a").await.expect(200).json();
    assert_eq!(shown["data"]["state"], "logged_out", "{shown}");
    scene.pairs().await;
}
