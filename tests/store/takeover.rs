//! Another gateway's credentials become this one's: what is taken, what is left, and that nothing is taken twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use wa_gateway::event::SessionName;
use wa_gateway::store::backend::SessionBackend;
use wa_gateway::store::registry::Registry;
use wa_gateway::store::{Kv, Namespace};
use wa_gateway::takeover::{self, DATABASE, Options, Outcome, REPORT, Report, SessionReport, TakeoverError};
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, SenderKeyRecord, SessionRecord};
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::traits::{AppSyncStore, DeviceStore, ProtocolStore, SignalStore};
use whatsapp_rust::waproto::codec;

use crate::engine;

/// A store of ours and a folder of the original's.
struct Move {
    _store: TempDir,
    folder: TempDir,
    kv: Arc<dyn Kv>,
}

impl Move {
    fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let kv = engine::sled(store.path());
        Self { _store: store, folder: tempfile::tempdir().unwrap(), kv }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join(DATABASE)
    }

    fn open(&self) -> Connection {
        let db = Connection::open(self.database()).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        // wa-multi-session, SqliteAdapter.
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS auth_store (id TEXT, session_id TEXT, category TEXT, value TEXT, PRIMARY KEY (id, session_id))",
        )
        .unwrap();
        db
    }

    fn registry(&self) -> Registry {
        Registry::new(Arc::clone(&self.kv))
    }

    async fn start(&self) -> Option<Report> {
        takeover::at_start(&self.kv, self.folder.path(), false).await.unwrap()
    }

    async fn import(&self, path: &Path, options: &Options) -> Result<Report, TakeoverError> {
        let scratch = tempfile::tempdir().unwrap();
        takeover::import(&self.kv, path, scratch.path(), options).await
    }

    async fn backend(&self, session: &str) -> Arc<SessionBackend> {
        let record = self.registry().get(&name(session)).await.unwrap().expect("the session was entered");
        SessionBackend::new(Arc::clone(&self.kv), Namespace::credentials(&record.uid), None)
    }
}

fn name(text: &str) -> SessionName {
    SessionName::parse(text).unwrap()
}

fn put(db: &Connection, session: &str, category: &str, id: &str, value: &Value) {
    let (key, category) =
        if category == "creds" { ("creds".to_owned(), "credentials") } else { (format!("{category}-{id}"), category) };
    db.execute(
        "INSERT OR REPLACE INTO auth_store (id, session_id, category, value) VALUES (?1, ?2, ?3, ?4)",
        (key, session, category, value.to_string()),
    )
    .unwrap();
}

fn bytes(bytes: &[u8]) -> Value {
    json!({"type": "Buffer", "data": BASE64.encode(bytes)})
}

fn pair(pair: &KeyPair) -> Value {
    json!({"public": bytes(pair.public_key.public_key_bytes()), "private": bytes(pair.private_key.serialize())})
}

fn key() -> KeyPair {
    Device::new().noise_key
}

/// The row `creds` of a linked companion.
fn creds(device: &Device, number: &str) -> Value {
    json!({
        "noiseKey": pair(&device.noise_key),
        "pairingEphemeralKeyPair": pair(&device.noise_key),
        "signedIdentityKey": pair(&device.identity_key),
        "signedPreKey": {"keyPair": pair(&device.signed_pre_key), "signature": bytes(&device.signed_pre_key_signature), "keyId": 1},
        "registrationId": device.registration_id,
        "advSecretKey": BASE64.encode(device.adv_secret_key),
        "me": {"id": format!("{number}:7@s.whatsapp.net"), "lid": format!("1{number}:7@lid"), "name": "Shop"},
        "account": {"details": "AQID", "accountSignatureKey": BASE64.encode([1; 32]), "accountSignature": BASE64.encode([2; 64]), "deviceSignature": BASE64.encode([3; 64])},
        "firstUnuploadedPreKeyId": 3,
        "nextPreKeyId": 4,
        "myAppStateKeyId": "AAAAAKq7",
        "platform": "android",
        "registered": false,
    })
}

/// The row of a device that began, was answered, and whose message 1 has not come.
fn signal_session() -> Value {
    let (ours, base, identity, theirs) = (key(), key(), key(), key());
    let public = |pair: &KeyPair| BASE64.encode(pair.public_key.serialize());
    let chain = |counter: i64, kind: u8, keys: Value| json!({"chainKey": {"counter": counter, "key": BASE64.encode([9; 32])}, "chainType": kind, "messageKeys": keys});
    json!({"version": "v1", "_sessions": {public(&base): {
        "registrationId": 77,
        "currentRatchet": {
            "ephemeralKeyPair": {"pubKey": public(&ours), "privKey": BASE64.encode(ours.private_key.serialize())},
            "lastRemoteEphemeralKey": public(&theirs),
            "previousCounter": 4,
            "rootKey": BASE64.encode([8; 32]),
        },
        "indexInfo": {"baseKey": public(&base), "baseKeyType": 2, "closed": -1, "used": 5, "created": 5, "remoteIdentityKey": public(&identity)},
        "_chains": {
            public(&theirs): chain(2, 2, json!({"1": BASE64.encode([7; 32])})),
            public(&ours): chain(-1, 1, json!({})),
        },
    }}})
}

fn one<'a>(report: &'a Report, session: &str) -> &'a SessionReport {
    report.sessions.iter().find(|found| found.session == session).expect("the session is in the report")
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one row of each kind, and what became of each")]
async fn everything_of_a_session_is_taken() {
    let moving = Move::new();
    let device = Device::new();
    let db = moving.open();
    put(&db, "shop", "creds", "", &creds(&device, "6281"));
    for id in [2, 3] {
        put(&db, "shop", "pre-key", &id.to_string(), &pair(&key()));
    }
    put(&db, "shop", "session", "6282.3", &signal_session());
    put(&db, "shop", "session", "99_1.0", &signal_session());
    let state = |id: u32, iteration: u32| json!({"senderKeyId": id, "senderChainKey": {"iteration": iteration, "seed": {"0": 1}}, "senderSigningKey": {"public": bytes(&key().public_key.serialize()), "private": bytes(&[])}, "senderMessageKeys": []});
    let mut states = json!([state(5, 9), state(6, 2), state(5, 3)]);
    for state in states.as_array_mut().unwrap() {
        state["senderChainKey"]["seed"] = json!({"type": "Buffer", "data": vec![4_u8; 32]});
    }
    put(&db, "shop", "sender-key", "12-34@g.us::99_1::2", &bytes(states.to_string().as_bytes()));
    put(&db, "shop", "sender-key-memory", "12-34@g.us", &json!({"99:2@lid": true, "98@lid": false}));
    put(
        &db,
        "shop",
        "app-state-sync-key",
        "AAAAAKq7",
        &json!({"keyData": BASE64.encode([6; 32]), "fingerprint": {"rawId": 1, "deviceIndexes": [0]}, "timestamp": "1700000000"}),
    );
    put(
        &db,
        "shop",
        "app-state-sync-version",
        "regular",
        &json!({"version": 12, "hash": bytes(&[5; 128]), "indexValueMap": {BASE64.encode([1; 32]): {"valueMac": bytes(&[2; 32])}}}),
    );
    put(&db, "shop", "lid-mapping", "6282", &json!("99"));
    put(&db, "shop", "lid-mapping", "99_reverse", &json!("6282"));
    put(
        &db,
        "shop",
        "tctoken",
        "99@lid",
        &json!({"token": bytes(b"token"), "timestamp": "1700000001", "senderTimestamp": 5}),
    );
    put(&db, "shop", "device-list", "6282", &json!(["0", "3"]));
    drop(db);

    let report = moving.start().await.unwrap();
    let shop = one(&report, "shop");
    assert_eq!(shop.outcome, Outcome::Taken, "{report}");
    for (what, count) in [
        ("pre-keys", 2),
        ("Signal sessions", 2),
        ("sender keys", 1),
        ("sender-key memories", 1),
        ("app-state keys", 1),
        ("app-state versions", 1),
        ("LID mappings", 1),
        ("trust tokens", 1),
    ] {
        assert_eq!(shop.taken.get(what), Some(&count), "{what}: {report}");
    }
    assert_eq!(shop.left.len(), 1, "{report}");
    assert_eq!(shop.left[0].what, "device lists");

    let record = moving.registry().get(&name("shop")).await.unwrap().unwrap();
    assert_eq!(record.details.map(|known| (known.name, known.phone_number)), Some(("Shop".into(), "6281".into())));
    assert_eq!(record.platform.as_deref(), Some("android"));
    let backend = moving.backend("shop").await;
    assert!(backend.has_device().await.unwrap());
    let taken = backend.load().await.unwrap().unwrap();
    assert_eq!(taken.pn.unwrap().to_string(), "6281:7@s.whatsapp.net");
    assert_eq!(taken.lid.unwrap().to_string(), "16281:7@lid");
    assert_eq!(taken.noise_key.private_key.serialize(), device.noise_key.private_key.serialize());
    assert_eq!(taken.identity_key.private_key.serialize(), device.identity_key.private_key.serialize());
    assert_eq!((taken.next_pre_key_id, taken.first_unupload_pre_key_id, taken.server_has_prekeys), (4, 3, true));
    assert_eq!(taken.push_name, "Shop");
    assert!(backend.load_prekey(2).await.unwrap().is_some() && backend.get_max_prekey_id().await.unwrap() == 3);
    for address in ["6282:3@c.us.0", "99@lid.0"] {
        let record = SessionRecord::deserialize(&backend.get_session(address).await.unwrap().unwrap()).unwrap();
        let session = record.into_components().unwrap().current_session.unwrap();
        assert_eq!((session.previous_counter, session.remote_registration_id), (Some(4), Some(77)));
        assert_eq!(
            session.sender_chain.unwrap().chain_key.unwrap().index,
            Some(0),
            "the next of a chain that sent none"
        );
        let [chain] = session.receiver_chains.try_into().unwrap();
        assert_eq!(chain.chain_key.unwrap().index, Some(3), "the next after 2");
        assert_eq!(chain.message_keys.iter().map(|key| key.index).collect::<Vec<_>>(), [1]);
        assert!(backend.load_identity(address).await.unwrap().is_some());
    }
    let record = backend.get_sender_key("12-34@g.us:99:2@lid.0").await.unwrap().unwrap();
    let states = SenderKeyRecord::deserialize(&record).unwrap().into_components().unwrap().states;
    let states: Vec<_> = states.iter().map(|state| (state.key_id, state.chain_key.iteration)).collect();
    assert_eq!(states, [(5, 9), (6, 2)], "the newest first, of one announced twice the one that moved on");
    let devices = backend.get_sender_key_devices("12-34@g.us").await.unwrap();
    assert_eq!(devices, [("99:2@lid".to_owned(), true)]);
    assert_eq!(backend.get_latest_sync_key_id().await.unwrap(), Some(BASE64.decode("AAAAAKq7").unwrap()));
    let sync_key = backend.get_sync_key(&BASE64.decode("AAAAAKq7").unwrap()).await.unwrap().unwrap();
    assert_eq!((sync_key.key_data, sync_key.timestamp), (vec![6; 32], 1_700_000_000));
    assert_eq!(backend.get_version("regular").await.unwrap().version, 12);
    assert_eq!(backend.get_mutation_mac("regular", &[1; 32]).await.unwrap(), Some(vec![2; 32]));
    assert_eq!(backend.get_pn_mapping("6282").await.unwrap().unwrap().lid, "99");
    assert_eq!(backend.get_lid_mapping("99").await.unwrap().unwrap().phone_number, "6282");
    let trust = backend.get_tc_token("99").await.unwrap().unwrap();
    assert_eq!(
        (trust.token, trust.token_timestamp, trust.sender_timestamp),
        (b"token".to_vec(), 1_700_000_001, Some(5))
    );
    assert!(codec::adv_signed_device_identity_to_vec(&taken.account.unwrap()).len() > 160);
}

#[tokio::test]
async fn what_is_damaged_is_told_and_harms_nobody_else() {
    let moving = Move::new();
    let db = moving.open();
    put(&db, "whole", "creds", "", &creds(&Device::new(), "6281"));
    let mut wrong = creds(&Device::new(), "6282");
    wrong["signedIdentityKey"] = pair(&key());
    put(&db, "wrong key", "creds", "", &wrong);
    let mut other_half = creds(&Device::new(), "6283");
    other_half["noiseKey"]["private"] = bytes(&[1; 32]);
    put(&db, "other half", "creds", "", &other_half);
    let mut unlinked = creds(&Device::new(), "6284");
    unlinked["me"] = Value::Null;
    put(&db, "unlinked", "creds", "", &unlinked);
    put(&db, "without creds", "pre-key", "1", &pair(&key()));
    put(&db, "start", "creds", "", &creds(&Device::new(), "6285"));
    put(&db, "rows", "creds", "", &creds(&Device::new(), "6286"));
    put(&db, "rows", "session", "628.0", &json!({"_sessions": {"AA==": {"registrationId": 1}}}));
    put(&db, "rows", "session", "629.0", &json!({"_sessions": {}}));
    put(&db, "rows", "session", "nobody", &signal_session());
    put(&db, "rows", "session", "627.0", &signal_session());
    put(&db, "rows", "pre-key", "many", &pair(&key()));
    put(&db, "rows", "pre-key", "7", &json!({"public": bytes(&[1; 31]), "private": bytes(&[1; 32])}));
    put(&db, "rows", "sender-key", "no-group", &json!([]));
    put(&db, "rows", "moods", "1", &json!({}));
    for (key, value) in [("session-626.0", "x'ff00fe'"), ("session-625.0", "NULL"), ("session-624.0", "12")] {
        db.execute(&format!("INSERT INTO auth_store VALUES ('{key}', 'rows', 'session', {value})"), []).unwrap();
    }
    db.execute("INSERT INTO auth_store VALUES ('creds', 'cut', 'credentials', '{\"noiseKey\":{')", []).unwrap();
    drop(db);

    let report = moving.start().await.unwrap();
    let outcomes =
        |wanted| report.sessions.iter().filter(|s| s.outcome == wanted).map(|s| s.session.as_str()).collect::<Vec<_>>();
    assert_eq!(outcomes(Outcome::Taken), ["whole", "rows"], "{report}");
    assert_eq!(outcomes(Outcome::Left), ["wrong key", "other half", "unlinked", "without creds", "start", "cut"]);
    for (session, why) in [
        ("wrong key", "its signature of the signed pre-key is damaged"),
        ("other half", "its noise key is damaged"),
        ("unlinked", "it was never linked to a phone"),
        ("without creds", "it has no row `creds`"),
        ("start", "its name can't be used here: Session must not be one of start, stop, logout, status, . and .."),
        ("cut", "its row `creds` can't be read"),
    ] {
        assert_eq!(one(&report, session).why.as_deref(), Some(why));
    }
    let rows = one(&report, "rows");
    assert_eq!((rows.taken.get("Signal sessions"), rows.taken.get("pre-keys")), (Some(&1), None), "{report}");
    let left: Vec<_> = rows.left.iter().map(|left| (left.what.as_str(), left.why.as_str(), left.count)).collect();
    for told in [
        ("Signal sessions", "it can't be read", 4),
        ("Signal sessions", "its address is not understood", 1),
        ("Signal sessions", "nothing of it can be used any more", 1),
        ("pre-keys", "it can't be read", 1),
        ("pre-keys", "its key pair is damaged", 1),
        ("sender keys", "it can't be read", 1),
        ("moods", "the kind of this row is not known", 1),
    ] {
        assert!(left.contains(&told), "{told:?} is not among {left:?}");
    }
    let written: Value = serde_json::from_slice(&fs::read(moving.folder.path().join(REPORT)).unwrap()).unwrap();
    assert_eq!(written["sessions"].as_array().unwrap().len(), report.sessions.len());
    assert_eq!(moving.registry().list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn files_that_hold_nothing_stop_no_start() {
    for (content, found) in [(Vec::new(), true), (b"this is no database, however long it may be".repeat(200), false)] {
        let moving = Move::new();
        fs::write(moving.database(), content).unwrap();
        assert_eq!(moving.start().await.map(|report| report.sessions.len()), found.then_some(0));
    }
    let moving = Move::new();
    assert_eq!(moving.start().await, None, "there is no file at all");
    drop(moving.open());
    assert_eq!(moving.start().await.unwrap().sessions, [], "a table without rows");
}

#[tokio::test]
async fn the_originals_files_stay_as_they_are_and_the_log_counts() {
    let moving = Move::new();
    let db = moving.open();
    put(&db, "shop", "creds", "", &creds(&Device::new(), "6281"));
    // Held open, in this process, whose locks do not count: closing it would move the log into the file.
    let files = ["database.db", "database.db-wal"].map(|file| moving.folder.path().join(file));
    let look =
        || files.each_ref().map(|file| (fs::read(file).unwrap(), fs::metadata(file).unwrap().modified().unwrap()));
    let before = look();
    assert!(!before[1].0.is_empty(), "the row is in the log only");
    assert_eq!(moving.start().await.unwrap().count(Outcome::Taken), 1);
    assert!(look() == before, "a file of the original was changed");
    let left: Vec<_> = fs::read_dir(moving.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|file| file.to_string_lossy().starts_with(".takeover")), "a copy was left: {left:?}");
}

#[tokio::test]
async fn credentials_are_taken_once() {
    let moving = Move::new();
    let device = Device::new();
    let db = moving.open();
    put(&db, "shop", "creds", "", &creds(&device, "6281"));
    put(&db, "twin", "creds", "", &creds(&device, "6281"));
    put(&db, "held", "creds", "", &creds(&Device::new(), "6282"));
    drop(db);
    moving.registry().reserve(&name("held")).await.unwrap();
    let report = moving.start().await.unwrap();
    assert_eq!(one(&report, "shop").outcome, Outcome::Taken, "{report}");
    assert_eq!(one(&report, "twin").outcome, Outcome::TakenBefore);
    assert_eq!(one(&report, "held").outcome, Outcome::Held);
    assert_eq!(moving.start().await, None, "nothing has changed");

    // Deleted here, and used by the original once more.
    let record = moving.registry().get(&name("shop")).await.unwrap().unwrap();
    moving.registry().mark_deleting(&record.uid).await.unwrap();
    moving.registry().erase(&record.uid).await.unwrap();
    moving.registry().forget(&record.uid, None).await.unwrap();
    let db = moving.open();
    put(&db, "shop", "pre-key", "9", &pair(&key()));
    put(&db, "new", "creds", "", &creds(&Device::new(), "6283"));
    drop(db);
    let report = moving.start().await.unwrap();
    assert_eq!(one(&report, "shop").outcome, Outcome::TakenBefore, "{report}");
    assert_eq!(one(&report, "new").outcome, Outcome::Taken);
    assert_eq!(moving.registry().get(&name("shop")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_written_to_is_refused_unless_forced() {
    let moving = Move::new();
    let db = moving.open();
    put(&db, "shop", "creds", "", &creds(&Device::new(), "6281"));
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        for id in 0.. {
            put(&db, "shop", "pre-key", &id.to_string(), &pair(&key()));
            if ended.recv_timeout(std::time::Duration::from_millis(50))
                != Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                return;
            }
        }
    });
    let refused = takeover::at_start(&moving.kv, moving.folder.path(), false).await;
    assert!(matches!(refused, Err(TakeoverError::Changing(_))), "{refused:?}");
    assert_eq!(moving.registry().list().await.unwrap(), []);
    let forced = takeover::at_start(&moving.kv, moving.folder.path(), true).await.unwrap().unwrap();
    assert_eq!(one(&forced, "shop").outcome, Outcome::Taken);
    done.send(()).unwrap();
    writing.join().unwrap();
}

#[tokio::test]
async fn a_folder_of_baileys_is_taken_and_named() {
    let moving = Move::new();
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, value: &Value| fs::write(folder.path().join(file), value.to_string()).unwrap();
    write("creds.json", &creds(&Device::new(), "6281"));
    write("session-6282.0.json", &signal_session());
    write("session-99_1.0.json", &signal_session());
    write("app-state-sync-key-AA__A.json", &json!({"keyData": BASE64.encode([6; 32])}));
    fs::write(folder.path().join("notes.txt"), "no value").unwrap();
    let options = Options { session: Some(name("from afar")), ..Options::default() };
    let tried = moving.import(folder.path(), &Options { dry_run: true, ..options.clone() }).await.unwrap();
    assert_eq!(one(&tried, "from afar").outcome, Outcome::Taken);
    assert_eq!(moving.registry().list().await.unwrap(), [], "a dry run enters nothing");
    let report = moving.import(folder.path(), &options).await.unwrap();
    let taken = one(&report, "from afar");
    assert_eq!((taken.outcome, taken.taken.get("Signal sessions")), (Outcome::Taken, Some(&2)), "{report}");
    let backend = moving.backend("from afar").await;
    assert!(backend.has_device().await.unwrap());
    assert!(backend.get_sync_key(&BASE64.decode("AA/A").unwrap()).await.unwrap().is_some());
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(moving.import(empty.path(), &options).await, Err(TakeoverError::Unknown(_))));
}

#[tokio::test]
async fn one_session_of_many_is_taken_by_its_name() {
    let moving = Move::new();
    let db = moving.open();
    for (session, number) in [("a", "6281"), ("b", "6282")] {
        put(&db, session, "creds", "", &creds(&Device::new(), number));
    }
    drop(db);
    let options = Options { session: Some(name("b")), ..Options::default() };
    let report = moving.import(moving.folder.path(), &options).await.unwrap();
    assert_eq!(report.sessions.iter().map(|found| found.session.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(moving.registry().list().await.unwrap().len(), 1);
}
