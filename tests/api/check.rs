//! `wa-gateway check` over what a gateway has really stored: every kind of row is read, and every kind of damage is named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use wa_gateway::backup;
use wa_gateway::store::backend::SessionBackend;
use wa_gateway::store::sled::SledStore;
use wa_gateway::store::{Batch, KeyRange, Kv, Namespace};
use whatsapp_rust::wacore::libsignal::protocol::{
    GenericSignedPreKey as _, KeyPair, PreKeyRecord, PrivateKey, SignedPreKeyRecord, Timestamp,
};
use whatsapp_rust::wacore::store::traits::{Backend, MsgSecretEntry, TcTokenEntry};
use whatsapp_simulator::phone::{Media, MediaKind};
use whatsapp_simulator::{Fault, Options};

use super::support::{KEY, STEP, TestGateway, eventually};

const NUMBER: &str = "6281234500401";
const GONE: &str = "6281234500402";
const FRIEND: &str = "6281234500403";
const OTHER: &str = "6281234500404";

/// What a check calls the rows of each kind: by namespace, and by what their keys begin with.
const KINDS: &[(&str, &[u8], &str)] = &[
    ("registry", b"key/", "an API key"),
    ("registry", b"login/", "a login"),
    ("registry", b"login-secret", "the secret of the logins"),
    ("registry", b"farewell/", "the last event of a deleted session"),
    ("registry", b"sequence", "the counter of sessions"),
    ("registry", b"takeover/", "the note of a takeover"),
    ("registry", b"takeover-source/", "the state of a place of a takeover"),
    ("credentials", b"Z", "the device"),
    ("credentials", b"z", "the place of the next poll"),
    ("credentials", b"y", "the id of the latest app-state key"),
    ("credentials", b"S", "a Signal session"),
    ("credentials", b"I", "an identity key"),
    ("credentials", b"P", "a pre-key"),
    ("credentials", b"p", "a block of pre-keys"),
    ("credentials", b"G", "a signed pre-key"),
    ("credentials", b"K", "a sender key"),
    ("credentials", b"Y", "an app-state key"),
    ("credentials", b"V", "an app-state version"),
    ("credentials", b"M", "an app-state code"),
    ("credentials", b"D", "who has a sender key"),
    ("credentials", b"d", "an index of who has a sender key"),
    ("credentials", b"L", "a LID's number"),
    ("credentials", b"l", "a number's LID"),
    ("credentials", b"B", "a base key"),
    ("credentials", b"U", "a list of devices"),
    ("credentials", b"R", "a group's members"),
    ("credentials", b"T", "a contact's token"),
    ("credentials", b"O", "a sent message"),
    ("credentials", b"o", "an index of sent messages"),
    ("credentials", b"X", "a message secret"),
    ("credentials", b"x", "an index of message secrets"),
    ("credentials", b"Q", "a message that is not committed yet"),
    ("credentials", b"h", "a block of handled messages"),
    ("credentials", b"A", "a message that was asked for again"),
    ("credentials", b"W", "a poll"),
    ("credentials", b"w", "a place of a poll"),
    ("outbox", b"m", "the counters"),
    ("outbox", b"e", "an event"),
    ("outbox", b"s", "the mark of an event that may be shed"),
    ("outbox", b"a", "an event's attempts"),
    ("outbox", b"f", "the place of an event's file"),
    ("outbox", b"i", "the place of an event"),
    ("outbox", b"r", "the ids of events that are done"),
    ("outbox", b"d", "the id of an event that is done"),
    ("outbox", b"x", "a dead letter"),
    ("outbox", b"y", "the place of a dead letter"),
    ("sent", b"m", "the record of a sent message"),
    ("sent", b"p", "how far a member of a group is"),
    ("sent", b"k", "the send of an idempotency key"),
];

/// Values in which each byte can be any: a changed one shows by nothing but the engine's own checksum.
const NUMBERS: &[&str] = &[
    "the secret of the logins",
    "the counter of sessions",
    "the place of the next poll",
    "the id of the latest app-state key",
    "an identity key",
    "an app-state code",
    "a base key",
    "a message that was asked for again",
    "an event's attempts",
    "the place of an event",
    "the id of an event that is done",
    "the ids of events that are done",
];

/// Names and ids of others, half of which reads as one too.
const NAMES: &[&str] = &[
    "a number's LID",
    "a place of a poll",
    "the state of a place of a takeover",
    "the id of the latest app-state key",
];

/// A row's namespace without the session, and the row.
type Found = BTreeMap<&'static str, (Namespace, Bytes, Bytes)>;

/// What a damage makes of a value; `None`: it does not befall such a one.
type Damage = fn(&[u8]) -> Option<Vec<u8>>;

/// One row of each kind that is in the store.
async fn one_of_each(store: &SledStore) -> Found {
    let mut found = Found::new();
    for ns in store.namespaces().await.unwrap() {
        let table = ns.as_str().split(':').next().unwrap().to_owned();
        for (key, value) in store.range(&ns, KeyRange::all()).await.unwrap() {
            let is = |(of, start, _): &&(&str, &[u8], &str)| *of == table && key.starts_with(start);
            // The longest that fits: `login-secret` is no login.
            if let Some((_, _, what)) = KINDS.iter().filter(is).max_by_key(|(_, start, _)| start.len()) {
                found.entry(what).or_insert((ns.clone(), key, value));
            }
        }
    }
    found
}

/// A gateway that did a little of everything, and was stopped.
async fn used() -> TestGateway {
    let settings =
        [("WEBHOOK_RETRY_FIRST_MS", "20"), ("WEBHOOK_RETRY_MAX_SECS", "1"), ("WEBHOOK_EVENTS", "message,session,ack")];
    let mut gateway = TestGateway::start_with(Options::default(), &settings).await;
    let (friend, other) = (gateway.simulator.phone(FRIEND), gateway.simulator.phone(OTHER));
    gateway.pair("shop", NUMBER).await;
    gateway.pair("gone", GONE).await;
    let api = gateway.api.clone();
    friend.says(NUMBER, "hello").await.unwrap();
    gateway.receiver.message("shop", "hello").await;
    let group = gateway.simulator.create_group("Toko", &[FRIEND, OTHER, NUMBER], false);
    let sent = api.text("shop", &group, "to all").await.expect(200).json();
    other.says(&group, "to you").await.unwrap();
    gateway.receiver.message("shop", "to you").await;
    eventually("a member's receipt", || async {
        let state = api.state("shop", sent["data"]["key"]["id"].as_str().unwrap()).await.expect(200).json();
        (state["data"]["status"] == "delivered").then_some(())
    })
    .await;
    let poll = json!({ "session": "shop", "to": FRIEND, "question": "Lunch?", "options": ["Soto", "Bakso"] });
    api.post("/message/send-poll", poll).await.expect(200);
    let text = json!({ "session": "shop", "to": FRIEND, "text": "once" });
    api.post_once("/message/send-text", "k1", text).await.unwrap().expect(200);
    api.post("/keys", json!({ "name": "reader", "scopes": ["read"] })).await.expect(200);
    let login = api.client.post(format!("{}/auth/login", api.base())).body(format!("password={KEY}"));
    let login = login.header("content-type", "application/x-www-form-urlencoded");
    assert!(login.send().await.unwrap().status().as_u16() < 400);

    gateway.receiver.answer_to("refused", 422);
    friend.says(NUMBER, "refused").await.unwrap();
    let stats = async || api.get("/webhook/stats").await.expect(200).json()["data"]["total"].clone();
    eventually("a dead letter", || async { (stats().await["dead"] == 1).then_some(()) }).await;
    gateway.receiver.answer(503);
    gateway.simulator.inject(Fault::SlowMedia { delay: Duration::from_secs(20) });
    let failed = stats().await["failed_attempts"].as_u64().unwrap();
    friend.says(NUMBER, "waits").await.unwrap();
    api.text("shop", FRIEND, "its acks wait").await.expect(200);
    eventually("an attempt to fail", || async {
        (stats().await["failed_attempts"].as_u64().unwrap() > failed + 1).then_some(())
    })
    .await;
    let waiting = stats().await["waiting"].as_u64().unwrap();
    friend.sends_media(NUMBER, &Media::new(MediaKind::Image, vec![7; 20_000], "image/jpeg")).await.unwrap();
    eventually("the picture to wait", || async {
        (stats().await["waiting"].as_u64().unwrap() > waiting).then_some(())
    })
    .await;
    api.delete("gone").await.expect(200);
    gateway.stop().await;
    gateway
}

/// What needs more luck than a test has: written as the library would.
async fn add_rare_rows(store: &Arc<SledStore>, credentials: &Namespace) {
    let kv: Arc<dyn Kv> = Arc::clone(store) as _;
    let backend: Arc<dyn Backend> = SessionBackend::new(Arc::clone(&kv), credentials.clone(), None);
    let message = whatsapp_rust::buffa::Message::encode_to_vec(&whatsapp_rust::waproto::whatsapp::Message {
        conversation: Some("a text".to_owned()),
        ..Default::default()
    });
    backend.store_pending_inbound("c@s.whatsapp.net", "c@s.whatsapp.net", "3EB0A", &message).await.unwrap();
    backend.store_sent_message("c@s.whatsapp.net", "3EB0B", &message).await.unwrap();
    backend.save_base_key("628:1@s.whatsapp.net.0", "3EB0C", &[5; 33]).await.unwrap();
    let token = TcTokenEntry { token: vec![1; 8], token_timestamp: 7, sender_timestamp: None };
    backend.put_tc_token("628", &token).await.unwrap();
    let private = PrivateKey::deserialize(&[8; 32]).unwrap();
    let pair = KeyPair::new(private.public_key().unwrap(), private);
    let signed = SignedPreKeyRecord::new(2.into(), Timestamp::from_epoch_millis(1), &pair, &[3; 64]);
    backend.store_signed_prekey(2, &signed.serialize().unwrap()).await.unwrap();
    let secret = MsgSecretEntry {
        chat: "c@s.whatsapp.net".into(),
        sender: "c@s.whatsapp.net".into(),
        msg_id: "3EB0D".into(),
        secret: [9; 32],
        expires_at: i64::MAX,
        message_ts: 1,
    };
    backend.put_msg_secrets(vec![secret]).await.unwrap();
    let asked = Batch::new().put([&b"A"[..], &[1; 16]].concat(), vec![1_u8]);
    kv.write(credentials, asked).await.unwrap();
    // As older releases wrote them.
    let single = [&[1][..], &PreKeyRecord::new(900.into(), &pair).serialize().unwrap()].concat();
    kv.write(credentials, Batch::new().put([&b"P"[..], &900_u32.to_be_bytes()].concat(), single)).await.unwrap();
    let mut index = [&b"o"[..], &(i64::MIN + 1_700_000_000).to_be_bytes()].concat();
    index.extend_from_slice(b"O\0\0\0\x01c3EB0E");
    kv.write(credentials, Batch::new().put(index, Bytes::new())).await.unwrap();
    let uid = credentials.as_str().strip_prefix("credentials:").unwrap();
    let done = [&5_u64.to_be_bytes()[..], &[b'f'; 32]].concat();
    let slot = [&b"d"[..], &5_u64.to_be_bytes()].concat();
    let place =
        Batch::new().put(&b"i0123456789abcdef0123456789abcdef"[..], Bytes::copy_from_slice(&5_u64.to_be_bytes()));
    kv.write(&Namespace::outbox(uid), place.put(slot, done)).await.unwrap();
    let note = Batch::new()
        .put(&b"takeover/of-another"[..], &b"2026-01-02T03:04:05+00:00"[..])
        .put(&b"takeover-source/a place"[..], &b"1 2"[..]);
    kv.write(&Namespace::registry(), note).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_row_is_read_and_its_damage_named() {
    let gateway = used().await;
    let store = Arc::new(SledStore::open(&gateway.folder().join("wa_credentials/store")).unwrap());
    let uid = store.get(&Namespace::registry(), b"name/shop").await.unwrap().unwrap();
    let credentials = Namespace::credentials(std::str::from_utf8(&uid).unwrap());
    add_rare_rows(&store, &credentials).await;

    let well = backup::check(&*store).await.unwrap();
    assert!(well.findings.is_empty(), "what a gateway stored is well: {:#?}", well.findings);
    let rows = one_of_each(&store).await;
    let missing: Vec<_> = KINDS.iter().filter(|(_, _, what)| !rows.contains_key(what)).collect();
    assert!(missing.is_empty(), "no row of these kinds is there to be damaged: {missing:?}");

    let flipped: Damage = |value| {
        let mut value = value.to_vec();
        *value.first_mut()? ^= 0x80;
        Some(value)
    };
    let cut: Damage = |value| (!value.is_empty()).then(|| value[..value.len() / 2].to_vec());
    // An index has nothing that could be cut: something comes.
    let grown: Damage = |value| value.is_empty().then(|| vec![0]);
    for (how, damage, shows) in [
        ("a changed bit", flipped, (|what| !NUMBERS.contains(&what)) as fn(&str) -> bool),
        ("a cut", cut, |what| !NAMES.contains(&what)),
        ("a value where none belongs", grown, |_| true),
    ] {
        let mut damaged = BTreeSet::new();
        for (what, (ns, key, value)) in &rows {
            if let Some(new) = damage(value).filter(|_| shows(what)) {
                store.write(ns, Batch::new().put(key.clone(), new)).await.unwrap();
                damaged.insert(*what);
            }
        }
        assert!(!damaged.is_empty());
        let report = backup::check(&*store).await.unwrap();
        for what in &damaged {
            let text = format!(": {what} can't be read");
            let named = report.findings.iter().find(|found| found.what.ends_with(&text));
            let named = named.unwrap_or_else(|| panic!("{how} of {what} is not told: {:#?}", report.findings));
            let (table, ..) = KINDS.iter().find(|(_, _, kind)| kind == what).unwrap();
            let session = (*table != "registry").then_some("shop");
            assert_eq!(named.session.as_deref(), session, "{named}");
        }
        assert_eq!(report.findings.len(), damaged.len(), "{how}: {:#?}", report.findings);
        for (ns, key, value) in rows.values() {
            store.write(ns, Batch::new().put(key.clone(), value.clone())).await.unwrap();
        }
    }
    assert!(backup::check(&*store).await.unwrap().findings.is_empty());
    store.close().await.unwrap();
    drop(store);
    tokio::time::timeout(STEP, gateway.finish()).await.unwrap();
}
