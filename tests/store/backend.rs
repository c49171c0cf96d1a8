//! One suite for the five storage traits, run over whatsapp-rust's own in-memory backend and over ours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use wa_gateway::store::backend::{SessionBackend, check};
use wa_gateway::store::{Batch, KeyRange, Kv, Namespace};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;
use whatsapp_rust::wacore::store::traits::{
    AppStateSyncKey, Backend, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry, MsgSecretStore as _,
    PendingInboundKey, PendingInboundRow, TcTokenEntry,
};
use whatsapp_rust::wacore::store::{CachedNoiseCert, CachedServerCertChain, Device, InMemoryBackend};
use whatsapp_rust::wacore::time::now_secs;
use whatsapp_rust::waproto::whatsapp::ADVSignedDeviceIdentity;

use crate::engine;

type Storage = Arc<dyn Backend>;

/// Makes three tests of each property.
macro_rules! conformance {
    ($($property:ident),+ $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $property() { super::$property(std::sync::Arc::new(super::InMemoryBackend::new())).await; })+
        }
        mod over_sled {
            $(#[tokio::test] async fn $property() {
                let folder = tempfile::tempdir().unwrap();
                super::$property(super::ours(folder.path())).await;
            })+
        }
        mod over_redis {
            $(#[tokio::test] async fn $property() {
                let server = crate::redis_server::RedisServer::start();
                let kv = crate::engine::redis(&server).await;
                super::$property(super::SessionBackend::new(kv, super::Namespace::credentials("u"), None)).await;
            })+
        }
    };
}

conformance!(
    identities,
    sessions,
    signal_state_of_a_user,
    prekeys,
    marking_brings_no_prekey_back,
    signed_prekeys,
    sender_keys,
    sync_keys,
    versions,
    mutation_macs,
    sender_key_devices,
    lid_mappings,
    lid_mappings_in_one_batch,
    base_keys,
    device_lists,
    group_metadata,
    tc_tokens,
    tc_tokens_expire_by_two_windows,
    sent_messages,
    pending_inbound,
    secrets,
    secrets_merge_their_deadlines,
    secrets_expire,
    secrets_expire_by_chat_and_day,
    the_device,
);

fn ours(path: &std::path::Path) -> Arc<SessionBackend> {
    with_engine(path).0
}

/// The same, with what it is over.
fn with_engine(path: &std::path::Path) -> (Arc<SessionBackend>, Arc<dyn Kv>, Namespace) {
    let (kv, ns) = (engine::sled(&path.join("store")), Namespace::credentials("u"));
    (SessionBackend::new(Arc::clone(&kv), ns.clone(), None), kv, ns)
}

async fn identities(b: Storage) {
    assert_eq!(b.load_identity("a@lid.0").await.unwrap(), None);
    b.put_identity("a@lid.0", [1; 32]).await.unwrap();
    b.put_identities_batch(&[("a@lid.0".into(), [2; 32]), ("b@lid.0".into(), [3; 32])]).await.unwrap();
    assert_eq!(b.load_identity("a@lid.0").await.unwrap(), Some([2; 32]));
    b.delete_identity("a@lid.0").await.unwrap();
    b.delete_identity("a@lid.0").await.unwrap();
    assert_eq!(b.load_identity("a@lid.0").await.unwrap(), None);
    assert_eq!(b.load_identity("b@lid.0").await.unwrap(), Some([3; 32]));
}

async fn sessions(b: Storage) {
    assert!(!b.has_session("a@lid.0").await.unwrap());
    b.put_session("a@lid.0", b"one").await.unwrap();
    let batch: [(Arc<str>, Bytes); 2] =
        [("a@lid.0".into(), Bytes::from_static(b"two")), ("b:7@lid.0".into(), Bytes::from_static(b""))];
    b.put_sessions_batch(&batch).await.unwrap();
    b.put_sessions_batch(&[]).await.unwrap();
    assert_eq!(b.get_session("a@lid.0").await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(b.get_session("b:7@lid.0").await.unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(b.get_session("b@lid.0").await.unwrap(), None);
    assert!(b.has_session("b:7@lid.0").await.unwrap());
    b.delete_session("a@lid.0").await.unwrap();
    assert!(!b.has_session("a@lid.0").await.unwrap());
}

async fn signal_state_of_a_user(b: Storage) {
    assert!(!b.has_signal_state_for_user("123").await.unwrap());
    b.put_session("1234@lid.0", b"s").await.unwrap();
    b.put_session("12@lid.0", b"s").await.unwrap();
    b.put_identity("1239:4@lid.0", [1; 32]).await.unwrap();
    assert!(!b.has_signal_state_for_user("123").await.unwrap(), "a longer or shorter number is another user");
    b.put_session("123:9@lid.0", b"s").await.unwrap();
    assert!(b.has_signal_state_for_user("123").await.unwrap());
    b.delete_session("123:9@lid.0").await.unwrap();
    assert!(!b.has_signal_state_for_user("123").await.unwrap());
    b.put_identity("123@s.whatsapp.net.0", [1; 32]).await.unwrap();
    assert!(b.has_signal_state_for_user("123").await.unwrap());
}

async fn prekeys(b: Storage) {
    assert_eq!(b.get_max_prekey_id().await.unwrap(), 0);
    assert_eq!(b.load_prekey(1).await.unwrap(), None);
    b.store_prekey(300, b"r300", false).await.unwrap();
    let many: Vec<_> = (1..=255).map(|id| (id, Bytes::from(format!("r{id}")))).collect();
    b.store_prekeys_batch(&many, true).await.unwrap();
    assert_eq!(b.get_max_prekey_id().await.unwrap(), 300, "by number, not by text");
    assert_eq!(b.load_prekey(255).await.unwrap().as_deref(), Some(&b"r255"[..]));
    let loaded: BTreeMap<_, _> = b.load_prekeys_batch(&[300, 7, 999, 1]).await.unwrap().into_iter().collect();
    assert_eq!(loaded.keys().copied().collect::<Vec<_>>(), [1, 7, 300]);
    assert_eq!(loaded[&7], "r7");
    b.remove_prekey(300).await.unwrap();
    b.remove_prekey(300).await.unwrap();
    assert_eq!(b.get_max_prekey_id().await.unwrap(), 255);
    for id in 240..=255 {
        b.remove_prekey(id).await.unwrap();
    }
    assert_eq!(b.get_max_prekey_id().await.unwrap(), 239);
    assert_eq!(b.load_prekey(239).await.unwrap().as_deref(), Some(&b"r239"[..]));
    b.store_prekey(240, b"anew", false).await.unwrap();
    let loaded: BTreeMap<_, _> = b.load_prekeys_batch(&[240, 239, 241]).await.unwrap().into_iter().collect();
    assert_eq!(loaded, BTreeMap::from([(239, Bytes::from_static(b"r239")), (240, Bytes::from_static(b"anew"))]));
}

async fn marking_brings_no_prekey_back(b: Storage) {
    b.store_prekeys_batch(&[(1, Bytes::from_static(b"a")), (2, Bytes::from_static(b"b"))], false).await.unwrap();
    b.remove_prekey(1).await.unwrap();
    b.mark_prekeys_uploaded(&[1, 2, 3]).await.unwrap();
    b.mark_prekeys_uploaded(&[]).await.unwrap();
    b.mark_prekeys_uploaded(&[2]).await.unwrap();
    assert_eq!(b.load_prekey(1).await.unwrap(), None);
    assert_eq!(b.load_prekey(2).await.unwrap().as_deref(), Some(&b"b"[..]), "the record is untouched");
    assert_eq!(b.get_max_prekey_id().await.unwrap(), 2);
}

async fn signed_prekeys(b: Storage) {
    assert_eq!(b.load_signed_prekey(1).await.unwrap(), None);
    b.store_signed_prekey(1, b"one").await.unwrap();
    b.store_signed_prekey(2, b"two").await.unwrap();
    let all: BTreeMap<_, _> = b.load_all_signed_prekeys().await.unwrap().into_iter().collect();
    assert_eq!(all, BTreeMap::from([(1, b"one".to_vec()), (2, b"two".to_vec())]));
    b.remove_signed_prekey(1).await.unwrap();
    assert_eq!(b.load_signed_prekey(1).await.unwrap(), None);
    assert_eq!(b.load_signed_prekey(2).await.unwrap(), Some(b"two".to_vec()));
}

async fn sender_keys(b: Storage) {
    b.put_sender_key("g@g.us:a@lid.0", b"one").await.unwrap();
    let batch: [(Arc<str>, Bytes); 2] =
        [("g@g.us:a@lid.0".into(), Bytes::from_static(b"two")), ("g@g.us:b@lid.0".into(), Bytes::from_static(b"x"))];
    b.put_sender_keys_batch(&batch).await.unwrap();
    assert_eq!(b.get_sender_key("g@g.us:a@lid.0").await.unwrap(), Some(b"two".to_vec()));
    b.delete_sender_key("g@g.us:a@lid.0").await.unwrap();
    assert_eq!(b.get_sender_key("g@g.us:a@lid.0").await.unwrap(), None);
    assert_eq!(b.get_sender_key("g@g.us:b@lid.0").await.unwrap(), Some(b"x".to_vec()));
}

fn sync_key(timestamp: i64) -> AppStateSyncKey {
    AppStateSyncKey { key_data: vec![0, 255, 7], fingerprint: vec![9; 40], timestamp }
}

async fn sync_keys(b: Storage) {
    assert_eq!(b.get_latest_sync_key_id().await.unwrap(), None);
    b.set_sync_key(&[0, 1], sync_key(20)).await.unwrap();
    b.set_sync_key(&[0, 2], sync_key(10)).await.unwrap();
    assert_eq!(b.get_latest_sync_key_id().await.unwrap(), Some(vec![0, 2]), "set last");
    let key = b.get_sync_key(&[0, 1]).await.unwrap().unwrap();
    assert_eq!((key.key_data, key.fingerprint, key.timestamp), (vec![0, 255, 7], vec![9; 40], 20));
    assert!(b.get_sync_key(&[0]).await.unwrap().is_none());
}

async fn versions(b: Storage) {
    let none = b.get_version("regular").await.unwrap();
    assert_eq!((none.version, none.hash), (0, [0; 128]));
    let mut hash = [0; 128];
    hash[127] = 5;
    let state = HashState { version: u64::MAX, hash, mac_mismatch_fatal: true, ..HashState::default() };
    b.set_version("regular", state).await.unwrap();
    let back = b.get_version("regular").await.unwrap();
    assert_eq!((back.version, back.hash, back.mac_mismatch_fatal), (u64::MAX, hash, true));
    assert_eq!(b.get_version("regular_low").await.unwrap().version, 0);
}

fn mac(index: u8, value: u8) -> AppStateMutationMAC {
    AppStateMutationMAC { index_mac: vec![index; 32], value_mac: vec![value; 32] }
}

async fn mutation_macs(b: Storage) {
    b.put_mutation_macs("regular", 1, &[mac(1, 10), mac(2, 20)]).await.unwrap();
    b.put_mutation_macs("regular_low", 1, &[mac(1, 11)]).await.unwrap();
    b.put_mutation_macs("regular", 2, &[mac(2, 21), mac(3, 30)]).await.unwrap();
    assert_eq!(b.get_mutation_mac("regular", &[2; 32]).await.unwrap(), Some(vec![21; 32]));
    let found = b.get_mutation_macs("regular", &[[1; 32], [9; 32], [3; 32]]).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!((&found[&[1; 32]], &found[&[3; 32]]), (&vec![10; 32], &vec![30; 32]));
    b.delete_mutation_macs("regular", &[vec![1; 32], vec![9; 32]]).await.unwrap();
    assert_eq!(b.get_mutation_mac("regular", &[1; 32]).await.unwrap(), None);
    b.clear_mutation_macs("regular").await.unwrap();
    assert_eq!(b.get_mutation_macs("regular", &[[1; 32], [2; 32], [3; 32]]).await.unwrap().len(), 0);
    assert_eq!(b.get_mutation_mac("regular_low", &[1; 32]).await.unwrap(), Some(vec![11; 32]), "that collection only");
    let many: Vec<_> = (0..1_300_u32)
        .map(|i| AppStateMutationMAC { index_mac: i.to_be_bytes().to_vec(), value_mac: vec![1] })
        .collect();
    b.put_mutation_macs("regular", 3, &many).await.unwrap();
    assert_eq!(b.get_mutation_mac("regular", &1_299_u32.to_be_bytes()).await.unwrap(), Some(vec![1]));
    b.clear_mutation_macs("regular").await.unwrap();
    for index in [0_u32, 511, 512, 1_299] {
        assert_eq!(b.get_mutation_mac("regular", &index.to_be_bytes()).await.unwrap(), None, "{index}");
    }
}

async fn devices_of(b: &Storage, group: &str) -> BTreeMap<String, bool> {
    b.get_sender_key_devices(group).await.unwrap().into_iter().collect()
}

async fn sender_key_devices(b: Storage) {
    let expect =
        |rows: &[(&str, bool)]| rows.iter().map(|(jid, has)| ((*jid).to_owned(), *has)).collect::<BTreeMap<_, _>>();
    b.set_sender_key_status("g1@g.us", &[("a:1@lid", true), ("b@lid", false)]).await.unwrap();
    b.set_sender_key_status("g2@g.us", &[("a:1@lid", true), ("a:11@lid", true)]).await.unwrap();
    b.set_sender_key_status("g1@g.us", &[("b@lid", true)]).await.unwrap();
    assert_eq!(devices_of(&b, "g1@g.us").await, expect(&[("a:1@lid", true), ("b@lid", true)]));
    b.delete_sender_key_device_rows(&["a:1@lid", "nobody@lid"]).await.unwrap();
    assert_eq!(devices_of(&b, "g1@g.us").await, expect(&[("b@lid", true)]));
    assert_eq!(devices_of(&b, "g2@g.us").await, expect(&[("a:11@lid", true)]), "across all groups");
    b.clear_sender_key_devices("g1@g.us").await.unwrap();
    assert_eq!(devices_of(&b, "g1@g.us").await, expect(&[]));
    assert_eq!(devices_of(&b, "g2@g.us").await, expect(&[("a:11@lid", true)]));
    // A cleared device is known again, and found by its other index too.
    b.set_sender_key_status("g1@g.us", &[("b@lid", false)]).await.unwrap();
    b.delete_sender_key_device_rows(&["b@lid"]).await.unwrap();
    assert_eq!(devices_of(&b, "g1@g.us").await, expect(&[]));
    b.set_sender_key_status("g1@g.us", &[("b@lid", true)]).await.unwrap();
    b.clear_all_sender_key_devices().await.unwrap();
    assert_eq!(devices_of(&b, "g1@g.us").await, expect(&[]));
    assert_eq!(devices_of(&b, "g2@g.us").await, expect(&[]));
}

fn mapping(lid: &str, phone: &str, at: i64) -> LidPnMappingEntry {
    LidPnMappingEntry {
        lid: lid.into(),
        phone_number: phone.into(),
        created_at: 1,
        updated_at: at,
        learning_source: "usync".into(),
    }
}

async fn lid_of(b: &Storage, phone: &str) -> Option<String> {
    b.get_pn_mapping(phone).await.unwrap().map(|entry| entry.lid)
}

async fn lid_mappings(b: Storage) {
    assert_eq!(lid_of(&b, "49").await, None);
    b.put_lid_mapping(&mapping("L1", "49", 1)).await.unwrap();
    let entry = b.get_lid_mapping("L1").await.unwrap().unwrap();
    assert_eq!((entry.phone_number.as_str(), entry.created_at, entry.learning_source.as_str()), ("49", 1, "usync"));
    assert_eq!(lid_of(&b, "49").await.as_deref(), Some("L1"));
    // The number gets a new LID; the old LID still knows its number.
    b.put_lid_mapping(&mapping("L2", "49", 2)).await.unwrap();
    assert_eq!(lid_of(&b, "49").await.as_deref(), Some("L2"));
    assert_eq!(b.get_lid_mapping("L1").await.unwrap().unwrap().phone_number, "49");
    // The LID moves to another number: the reverse row of the old number goes.
    b.put_lid_mapping(&mapping("L2", "50", 3)).await.unwrap();
    assert_eq!(lid_of(&b, "50").await.as_deref(), Some("L2"));
    assert_eq!(lid_of(&b, "49").await, None);
    assert_eq!(b.get_all_lid_mappings().await.unwrap().len(), 2);
}

async fn lid_mappings_in_one_batch(b: Storage) {
    b.put_lid_mappings(&[mapping("L1", "49", 1), mapping("L1", "50", 2), mapping("L2", "51", 2)]).await.unwrap();
    assert_eq!(lid_of(&b, "49").await, None, "an earlier entry of the batch is seen by a later one");
    assert_eq!(lid_of(&b, "50").await.as_deref(), Some("L1"));
    assert_eq!(lid_of(&b, "51").await.as_deref(), Some("L2"));
    let many: Vec<_> = (0..1_100).map(|i| mapping(&format!("M{i}"), &format!("6{i}"), 1)).collect();
    b.put_lid_mappings(&many).await.unwrap();
    assert_eq!(b.get_all_lid_mappings().await.unwrap().len(), 1_102);
    assert_eq!(lid_of(&b, "61099").await.as_deref(), Some("M1099"));
}

async fn base_keys(b: Storage) {
    b.save_base_key("a@lid.0", "id", b"key").await.unwrap();
    assert!(b.has_same_base_key("a@lid.0", "id", b"key").await.unwrap());
    assert!(!b.has_same_base_key("a@lid.0", "id", b"other").await.unwrap());
    assert!(!b.has_same_base_key("a@lid.0i", "d", b"key").await.unwrap(), "parts don't run together");
    b.delete_base_key("a@lid.0", "id").await.unwrap();
    assert!(!b.has_same_base_key("a@lid.0", "id", b"key").await.unwrap());
}

async fn device_lists(b: Storage) {
    let record = |user: &str, raw_id| DeviceListRecord {
        user: user.into(),
        devices: vec![DeviceInfo::new(0, None), DeviceInfo::new(7, Some(3)).with_hosting(true)],
        timestamp: 5,
        phash: Some("2:abc".into()),
        raw_id,
    };
    assert!(b.get_devices("49").await.unwrap().is_none());
    b.update_device_list(record("49", None)).await.unwrap();
    b.update_device_lists(vec![record("50", Some(9)), record("51", None)]).await.unwrap();
    let back = b.get_devices("50").await.unwrap().unwrap();
    assert_eq!(
        (back.user.as_str(), back.raw_id, back.timestamp, back.phash.as_deref()),
        ("50", Some(9), 5, Some("2:abc"))
    );
    let devices: Vec<_> = back.devices.iter().map(|d| (d.device_id, d.key_index, d.is_hosted)).collect();
    assert_eq!(devices, [(0, None, false), (7, Some(3), true)]);
    assert_eq!(b.get_devices("49").await.unwrap().unwrap().raw_id, None);
    b.delete_devices("50").await.unwrap();
    assert!(b.get_devices("50").await.unwrap().is_none());
    assert!(b.get_devices("51").await.unwrap().is_some());
}

async fn group_metadata(b: Storage) {
    assert_eq!(b.get_group_metadata("g@g.us").await.unwrap(), None);
    b.put_group_metadata("g@g.us", b"{}").await.unwrap();
    b.put_group_metadata("g@g.us", b"{1}").await.unwrap();
    assert_eq!(b.get_group_metadata("g@g.us").await.unwrap(), Some(b"{1}".to_vec()));
    b.delete_group_metadata("g@g.us").await.unwrap();
    assert_eq!(b.get_group_metadata("g@g.us").await.unwrap(), None);
}

async fn tc_token(b: &Storage, jid: &str) -> (Vec<u8>, i64, Option<i64>) {
    let entry = b.get_tc_token(jid).await.unwrap().unwrap();
    (entry.token, entry.token_timestamp, entry.sender_timestamp)
}

async fn tc_tokens(b: Storage) {
    assert!(b.get_tc_token("a").await.unwrap().is_none());
    b.touch_tc_token_sender_timestamp("a", 5_000).await.unwrap();
    assert_eq!(tc_token(&b, "a").await, (vec![], 5_000, Some(5_000)), "a placeholder");
    b.touch_tc_token_sender_timestamp("a", 3_000).await.unwrap();
    assert_eq!(tc_token(&b, "a").await.2, Some(5_000), "only forwards");
    b.store_received_tc_token("a", &[1, 2], 4_000).await.unwrap();
    assert_eq!(tc_token(&b, "a").await, (vec![1, 2], 4_000, Some(5_000)), "a placeholder blocks no real token");
    b.store_received_tc_token("a", &[3], 3_999).await.unwrap();
    assert_eq!(tc_token(&b, "a").await.0, [1, 2], "the newer token stays");
    b.store_received_tc_token("a", &[4], 4_000).await.unwrap();
    b.touch_tc_token_sender_timestamp("a", 6_000).await.unwrap();
    assert_eq!(tc_token(&b, "a").await, (vec![4], 4_000, Some(6_000)));
    b.store_received_tc_token("b", &[9], 1).await.unwrap();
    assert_eq!(tc_token(&b, "b").await, (vec![9], 1, None));
    let mut jids = b.get_all_tc_token_jids().await.unwrap();
    jids.sort();
    assert_eq!(jids, ["a", "b"]);
    b.delete_tc_token("a").await.unwrap();
    assert!(b.get_tc_token("a").await.unwrap().is_none());
    assert_eq!(b.get_all_tc_token_jids().await.unwrap(), ["b"]);
    for (round, number) in (0..2_u8).flat_map(|round| (0..40).map(move |number| (round, number))) {
        b.store_received_tc_token(&format!("of many {number}"), &[round, number], round.into()).await.unwrap();
    }
    for number in 0..40 {
        assert_eq!(tc_token(&b, &format!("of many {number}")).await.0, [1, number]);
    }
}

async fn tc_tokens_expire_by_two_windows(b: Storage) {
    let real = |at, sender_timestamp| TcTokenEntry { token: vec![1], token_timestamp: at, sender_timestamp };
    b.touch_tc_token_sender_timestamp("recent placeholder", 2_500).await.unwrap();
    b.touch_tc_token_sender_timestamp("stale placeholder", 100).await.unwrap();
    b.put_tc_token("expired, live sender", &real(1, Some(2_000))).await.unwrap();
    b.put_tc_token("expired", &real(999, None)).await.unwrap();
    b.put_tc_token("fresh", &real(1_000, None)).await.unwrap();
    assert!(b.get_tc_token("expired").await.unwrap().is_some());
    assert_eq!(b.delete_expired_tc_tokens(1_000, 2_000).await.unwrap(), 2);
    assert!(b.get_tc_token("expired").await.unwrap().is_none());
    let mut left = b.get_all_tc_token_jids().await.unwrap();
    left.sort();
    assert_eq!(left, ["expired, live sender", "fresh", "recent placeholder"]);
}

async fn sent_messages(b: Storage) {
    let now = now_secs();
    assert_eq!(b.take_sent_message("c", "1").await.unwrap(), None);
    for (chat, id, payload) in [("c", "1", "one"), ("c", "2", "two"), ("d", "1", "other"), ("c", "1", "one again")] {
        b.store_sent_message(chat, id, payload.as_bytes()).await.unwrap();
    }
    assert_eq!(b.take_sent_message("c", "1").await.unwrap(), Some(b"one again".to_vec()));
    assert_eq!(b.take_sent_message("c", "1").await.unwrap(), None, "once only");
    assert_eq!(b.delete_expired_sent_messages(now - 60).await.unwrap(), 0);
    assert_eq!(b.delete_expired_sent_messages(now + 60).await.unwrap(), 2);
    assert_eq!(b.take_sent_message("c", "2").await.unwrap(), None);
    assert_eq!(b.delete_expired_sent_messages(now + 60).await.unwrap(), 0);
    for id in 0..1_100 {
        b.store_sent_message("many", &id.to_string(), b"x").await.unwrap();
    }
    assert_eq!(b.delete_expired_sent_messages(now + 60).await.unwrap(), 1_100);
    // Taken by many at once, it goes to one.
    b.store_sent_message("c", "1", b"x").await.unwrap();
    let taken = futures::future::join_all((0..8).map(|_| b.take_sent_message("c", "1"))).await;
    assert_eq!(taken.into_iter().filter(|taken| taken.as_ref().unwrap().is_some()).count(), 1);
}

async fn pending_inbound(b: Storage) {
    let now = now_secs();
    assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), None, "the hook's probe");
    b.store_pending_inbound("c", "s", "1", b"one").await.unwrap();
    let row = |id, message| PendingInboundRow { chat: "c", sender: "s", id, message };
    b.store_pending_inbound_batch(&[row("1", b"uno"), row("2", b"two"), row("3", b"")]).await.unwrap();
    b.store_pending_inbound("c", "t", "1", b"other").await.unwrap();
    assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), Some(b"uno".to_vec()));
    assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), Some(b"uno".to_vec()), "reading takes nothing");
    assert_eq!(b.get_pending_inbound("c", "s", "3").await.unwrap(), Some(vec![]));
    b.delete_pending_inbound("c", "s", "1").await.unwrap();
    b.delete_pending_inbound_batch(&[PendingInboundKey { chat: "c", sender: "s", id: "2" }]).await.unwrap();
    b.delete_pending_inbound_batch(&[]).await.unwrap();
    assert_eq!(b.get_pending_inbound("c", "s", "1").await.unwrap(), None);
    assert_eq!(b.get_pending_inbound("c", "s", "2").await.unwrap(), None);
    assert_eq!(b.get_pending_inbound("c", "t", "1").await.unwrap(), Some(b"other".to_vec()));
    assert_eq!(b.delete_expired_pending_inbound(now - 60).await.unwrap(), 0);
    assert_eq!(b.delete_expired_pending_inbound(now + 60).await.unwrap(), 2);
    assert_eq!(b.get_pending_inbound("c", "t", "1").await.unwrap(), None);
}

fn secret(id: &str, secret: u8, expires_at: i64, message_ts: i64) -> MsgSecretEntry {
    MsgSecretEntry {
        chat: "c".into(),
        sender: "s".into(),
        msg_id: id.into(),
        secret: [secret; 32],
        expires_at,
        message_ts,
    }
}

async fn secrets(b: Storage) {
    assert_eq!(b.get_msg_secret("c", "s", "M1").await.unwrap(), None);
    let stored = b.put_msg_secrets(vec![secret("M1", 1, 0, 7), secret("M2", 2, 0, 0), secret("M1", 9, 0, 0)]).await;
    assert_eq!(stored.unwrap(), 3);
    b.put_msg_secret("c", "other", "M1", &[4; 32]).await.unwrap();
    assert_eq!(b.get_msg_secret("c", "s", "M1").await.unwrap(), Some(vec![9; 32]));
    assert_eq!(b.get_msg_secret_with_ts("c", "s", "M1").await.unwrap(), Some((vec![9; 32], 7)), "a known time stays");
    assert_eq!(b.get_msg_secret("c", "s", "M2").await.unwrap(), Some(vec![2; 32]));
    assert_eq!(b.get_msg_secret("c", "other", "M1").await.unwrap(), Some(vec![4; 32]), "chat, sender and id together");
    assert_eq!(b.get_msg_secret("cs", "", "M1").await.unwrap(), None);
}

/// Seconds; ours keeps a secret until the day of its deadline is over.
const DAY: i64 = 86_400;

async fn secrets_merge_their_deadlines(b: Storage) {
    let days = |days: i64| days * DAY;
    b.put_msg_secrets(vec![secret("a", 1, days(2), 5), secret("b", 1, days(2), 0), secret("c", 1, 0, 0)])
        .await
        .unwrap();
    b.put_msg_secrets(vec![secret("a", 1, days(1), 4), secret("b", 1, 0, 0), secret("c", 1, days(2), 0)])
        .await
        .unwrap();
    assert_eq!(b.delete_expired_msg_secrets(days(2) - 1).await.unwrap(), 0, "never shortened");
    assert_eq!(b.get_msg_secret_with_ts("c", "s", "a").await.unwrap(), Some((vec![1; 32], 5)));
    b.put_msg_secrets(vec![secret("a", 1, days(4), 0)]).await.unwrap();
    assert_eq!(b.delete_expired_msg_secrets(days(4) - 1).await.unwrap(), 0, "the later deadline counts");
    assert_eq!(b.delete_expired_msg_secrets(days(5) - 1).await.unwrap(), 1);
    assert_eq!(b.delete_expired_msg_secrets(i64::MAX).await.unwrap(), 0, "zero is never");
    assert!(b.get_msg_secret("c", "s", "b").await.unwrap().is_some());
    assert!(b.get_msg_secret("c", "s", "c").await.unwrap().is_some());
}

async fn secrets_expire_by_chat_and_day(b: Storage) {
    let entry = |chat: &str, sender: &str, id: &str, at: i64| MsgSecretEntry {
        chat: chat.into(),
        sender: sender.into(),
        ..secret(id, 1, at, 0)
    };
    for (id, at) in [("1", 10), ("2", DAY + 20), ("3", 3 * DAY), ("4", 0)] {
        for (chat, sender) in [("c", "s"), ("cs", ""), ("c", "s2")] {
            b.put_msg_secrets(vec![entry(chat, sender, id, at)]).await.unwrap();
        }
    }
    assert_eq!(b.delete_expired_msg_secrets(9).await.unwrap(), 0);
    assert_eq!(b.delete_expired_msg_secrets(DAY - 1).await.unwrap(), 3);
    // Of a day whose entry is there, and of one whose entry is gone.
    b.put_msg_secrets(vec![entry("c", "s", "5", DAY + 30), entry("c", "s", "6", 15)]).await.unwrap();
    assert_eq!(b.delete_expired_msg_secrets(2 * DAY - 1).await.unwrap(), 5);
    // Moved on to another day.
    b.put_msg_secrets(vec![entry("c", "s", "3", 7 * DAY)]).await.unwrap();
    assert_eq!(b.delete_expired_msg_secrets(7 * DAY - 1).await.unwrap(), 2);
    assert_eq!(b.delete_expired_msg_secrets(8 * DAY - 1).await.unwrap(), 1);
    for (chat, sender) in [("c", "s"), ("cs", ""), ("c", "s2")] {
        assert_eq!(b.get_msg_secret(chat, sender, "3").await.unwrap(), None);
        assert!(b.get_msg_secret(chat, sender, "4").await.unwrap().is_some(), "zero is never");
    }
    assert_eq!(b.delete_expired_msg_secrets(i64::MAX).await.unwrap(), 0);
}

async fn secrets_expire(b: Storage) {
    let many = (0..1_200).map(|i| secret(&i.to_string(), 1, DAY + i + if i < 1_150 { 0 } else { DAY }, 0)).collect();
    b.put_msg_secrets(many).await.unwrap();
    assert_eq!(b.delete_expired_msg_secrets(2 * DAY - 1).await.unwrap(), 1_150);
    assert_eq!(b.get_msg_secret("c", "s", "1149").await.unwrap(), None);
    assert!(b.get_msg_secret("c", "s", "1150").await.unwrap().is_some());
    assert_eq!(b.delete_expired_msg_secrets(3 * DAY - 1).await.unwrap(), 50);
}

#[tokio::test]
async fn an_index_of_secrets_is_small_and_that_of_an_older_release_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (b, kv, ns) = with_engine(folder.path());
    let index = || async { kv.range(&ns, KeyRange::prefix(b"x".to_vec())).await.unwrap().len() };
    let old_index = async |id: &str| {
        let row = [b"X\0\0\0\x01c\0\0\0\x01s", id.as_bytes()].concat();
        assert!(kv.get(&ns, &row).await.unwrap().is_some());
        let at: i64 = 10;
        let old = [b"x", (at ^ i64::MIN).to_be_bytes().as_slice(), &row].concat();
        assert_eq!((check(&old, &Bytes::new()), check(&old, &Bytes::from_static(&[1])).is_err()), (Ok(()), true));
        kv.write(&ns, Batch::new().put(old, Bytes::new())).await.unwrap();
    };
    b.put_msg_secrets(vec![secret("gone", 1, 10, 0)]).await.unwrap();
    for (entry, _) in kv.range(&ns, KeyRange::prefix(b"x".to_vec())).await.unwrap() {
        kv.write(&ns, Batch::new().remove(entry)).await.unwrap();
    }
    old_index("gone").await;
    b.put_msg_secrets(vec![secret("moved", 1, 5 * DAY, 0)]).await.unwrap();
    old_index("moved").await;
    assert_eq!(index().await, 3);
    b.put_msg_secrets((0..100).map(|id| secret(&id.to_string(), 1, 9 * DAY + id, 0)).collect()).await.unwrap();
    b.put_msg_secrets((100..110).map(|id| secret(&id.to_string(), 1, 10 * DAY - 1, 0)).collect()).await.unwrap();
    assert_eq!(index().await, 4, "one for a day");

    assert_eq!(b.delete_expired_msg_secrets(2 * DAY).await.unwrap(), 1);
    assert!(b.get_msg_secret("c", "s", "moved").await.unwrap().is_some());
    assert_eq!(b.get_msg_secret("c", "s", "gone").await.unwrap(), None);
    assert_eq!(index().await, 2);
    assert_eq!(b.delete_expired_msg_secrets(10 * DAY - 1).await.unwrap(), 111);
    assert_eq!(index().await, 0);
    assert!(kv.range(&ns, KeyRange::prefix(b"X".to_vec())).await.unwrap().is_empty());
}

fn paired() -> Device {
    let mut device = Device::new();
    device.pn = Some("491234:5@s.whatsapp.net".parse().unwrap());
    device.account = Some(Arc::new(ADVSignedDeviceIdentity::default()));
    device.lid = Some("77:5@lid".parse().unwrap());
    device.push_name = "Ann".into();
    device.next_pre_key_id = 813;
    device.server_has_prekeys = true;
    device.login_counter = 3;
    device.nct_salt = Some(vec![1, 2, 3]);
    device.edge_routing_info = Some(vec![7]);
    let cert = CachedNoiseCert { key: [3; 32], not_before: 1, not_after: 2 };
    device.server_cert_chain = Some(CachedServerCertChain { intermediate: cert.clone(), leaf: cert });
    device
}

async fn the_device(b: Storage) {
    assert!(!b.exists().await.unwrap());
    assert!(b.load().await.unwrap().is_none());
    b.create().await.unwrap();
    // As the library goes on: with the one that is there, or a new one.
    let made = b.load().await.unwrap().unwrap_or_else(Device::new);
    assert!(made.pn.is_none());
    b.save(&made).await.unwrap();
    assert!(b.exists().await.unwrap());
    b.create().await.unwrap();
    assert_eq!(b.load().await.unwrap().unwrap().registration_id, made.registration_id, "made once");
    let device = paired();
    b.save(&device).await.unwrap();
    let back = b.load().await.unwrap().unwrap();
    assert_eq!(serde_json::to_value(&back).unwrap(), serde_json::to_value(&device).unwrap());
    assert_eq!(back.device_props.os, device.device_props.os, "not stored, and as of a new device");
    assert_eq!(back.client_profile.device, device.client_profile.device);
    let payload = |device: &Device| device.get_client_payload().username;
    assert_eq!(payload(&back), payload(&device));
}

/// What only ours has: it outlives the process.
#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let device = paired();
    {
        let b = ours(folder.path());
        assert!(!b.has_device().await.unwrap());
        let b: Storage = b;
        b.save(&device).await.unwrap();
        b.put_session("a@lid.0", b"session").await.unwrap();
        b.store_prekey(4, b"prekey", false).await.unwrap();
        b.set_sender_key_status("g@g.us", &[("a@lid", true)]).await.unwrap();
        b.put_lid_mapping(&mapping("L1", "49", 1)).await.unwrap();
    }
    let b = ours(folder.path());
    assert!(b.has_device().await.unwrap());
    let b: Storage = b;
    assert_eq!(serde_json::to_value(b.load().await.unwrap().unwrap()).unwrap(), serde_json::to_value(&device).unwrap());
    assert_eq!(b.get_session("a@lid.0").await.unwrap().as_deref(), Some(&b"session"[..]));
    assert_eq!(b.load_prekey(4).await.unwrap().as_deref(), Some(&b"prekey"[..]));
    assert_eq!(b.get_sender_key_devices("g@g.us").await.unwrap(), [("a@lid".to_owned(), true)]);
    assert_eq!(lid_of(&b, "49").await.as_deref(), Some("L1"));
}

#[tokio::test]
async fn an_unpaired_device_is_no_device_to_restore() {
    let folder = tempfile::tempdir().unwrap();
    let b = ours(folder.path());
    let storage: Storage = b.clone();
    storage.save(&Device::new()).await.unwrap();
    assert!(!b.has_device().await.unwrap());
    // Killed in the middle of a pairing: the address is there, the phone's signature is not.
    storage.save(&Device { account: None, ..paired() }).await.unwrap();
    assert!(!b.has_device().await.unwrap());
    storage.save(&paired()).await.unwrap();
    assert!(b.has_device().await.unwrap());
    storage.save(&Device::new()).await.unwrap();
    assert!(!b.has_device().await.unwrap());
}

#[tokio::test]
async fn a_device_that_a_phone_accepts_is_stored_before_its_own_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let b = ours(folder.path());
    let storage: Storage = b.clone();
    let (accepted, device) = (Arc::new(AtomicBool::new(false)), paired());
    let (asked, in_memory) = (Arc::clone(&accepted), device.clone());
    b.store_when_paired(move || {
        let account = in_memory.account.clone().filter(|_account| asked.load(Ordering::SeqCst));
        Some(Device { account, ..in_memory.clone() })
    });
    storage.put_lid_mapping(&mapping("L1", "49", 1)).await.unwrap();
    assert!(!storage.exists().await.unwrap(), "nobody accepted it yet");
    accepted.store(true, Ordering::SeqCst);
    storage.put_lid_mapping(&mapping("L2", "50", 1)).await.unwrap();
    assert!(b.has_device().await.unwrap());
    // What the library's saver took a moment before comes late.
    storage.save(&Device { account: None, ..device }).await.unwrap();
    assert!(b.has_device().await.unwrap());
}

#[tokio::test]
async fn an_older_mapping_moves_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let b: Storage = ours(folder.path());
    b.put_lid_mapping(&mapping("new", "49", 20)).await.unwrap();
    b.put_lid_mapping(&mapping("old", "49", 10)).await.unwrap();
    assert_eq!(lid_of(&b, "49").await.as_deref(), Some("new"), "the most recent LID of a number");
    b.put_lid_mapping(&mapping("old", "50", 30)).await.unwrap();
    assert_eq!(lid_of(&b, "49").await.as_deref(), Some("new"), "a LID takes only its own reverse row along");
}

#[tokio::test]
async fn the_latest_sync_key_is_one_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (b, kv, ns) = with_engine(folder.path());
    let b: Storage = b;
    b.set_sync_key(b"old", sync_key(10)).await.unwrap();
    b.set_sync_key(b"young", sync_key(20)).await.unwrap();
    b.set_sync_key(b"bad", sync_key(30)).await.unwrap();
    let damaged = Batch::new().put("Ybad", "\u{1}nonsense");
    kv.write(&ns, damaged).await.unwrap();
    assert_eq!(b.get_latest_sync_key_id().await.unwrap(), Some(b"young".to_vec()));
    b.get_sync_key(b"bad").await.unwrap_err();
}

#[tokio::test]
async fn a_row_of_an_unknown_format_is_an_error_not_a_new_device() {
    let folder = tempfile::tempdir().unwrap();
    let (b, kv, ns) = with_engine(folder.path());
    kv.write(&ns, Batch::new().put("Z", "\u{9}{}")).await.unwrap();
    assert!(!b.has_device().await.unwrap());
    let b: Storage = b;
    assert!(b.exists().await.unwrap());
    b.load().await.map(|_| ()).unwrap_err();
}

/// Releases before kept an index of sent messages by time.
#[tokio::test]
async fn an_index_that_nobody_reads_any_more_goes_with_what_is_expired() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, kv, ns) = with_engine(folder.path());
    let backend: Storage = backend;
    backend.store_sent_message("c", "1", b"one").await.unwrap();
    let entries = (0..1_000_u64).fold(Batch::new(), |batch, at| {
        batch.put([&b"o"[..], &at.to_be_bytes(), b"O\0\0\0\x01c1"].concat(), Bytes::new())
    });
    kv.write(&ns, entries).await.unwrap();
    assert_eq!(backend.delete_expired_sent_messages(1).await.unwrap(), 0);
    let left = kv.snapshot(&ns).await.unwrap();
    assert_eq!(left.iter().map(|(key, _)| &key[..1]).collect::<Vec<_>>(), [b"O"]);
    assert_eq!(backend.delete_expired_sent_messages(i64::MAX).await.unwrap(), 1);
    assert!(kv.snapshot(&ns).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_sent_message_keeps_nothing_else_from_expiring() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, kv, ns) = with_engine(folder.path());
    let backend: Storage = backend;
    for id in 0..300 {
        backend.store_sent_message("c", &format!("{id:03}"), b"text").await.unwrap();
    }
    let damaged: &[u8] = b"O\0\0\0\x01c100";
    kv.write(&ns, Batch::new().put(damaged, "cut")).await.unwrap();
    assert_eq!(backend.delete_expired_sent_messages(i64::MAX).await.unwrap(), 299);
    assert_eq!(kv.snapshot(&ns).await.unwrap().iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [damaged]);
}
