//! Which ratchets wait for a flush: those that something may be sent with which no record on disk knows of. The others are held.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use wa_gateway::store::backend::SessionBackend;
use wa_gateway::store::{Kv as _, Namespace};
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::libsignal::protocol::{SessionRecord, SessionState, SignalProtocolError};
use whatsapp_rust::wacore::store::traits::{ProtocolStore as _, SignalStore as _};
use whatsapp_rust::waproto::whatsapp::SessionStructure;
use whatsapp_rust::waproto::whatsapp::session_structure::Chain;
use whatsapp_rust::waproto::whatsapp::session_structure::chain::{ChainKey, MessageKey};

use crate::engine::{Home, over_both};
use crate::faulty::Faulty;

over_both!(
    a_ratchet_is_flushed_when_its_lease_is_another,
    a_backend_trusts_no_lease_of_the_one_before,
    a_ratchet_within_its_lease_is_held_until_it_must_be_stored,
    what_is_held_is_bounded,
    a_pre_key_is_gone_behind_the_session_that_it_began,
    nothing_is_held_after_a_failure,
    a_backlog_that_was_received_is_not_far_ahead_of_the_store,
);

fn record(chain: u8, spent: u32) -> SessionRecord {
    let mut record = SessionRecord::new(SessionState::from_session_structure(session(chain, 0)));
    record.reserve_sender_chain_counters(spent);
    record
}

fn row(record: &SessionRecord) -> Bytes {
    let mut row = Vec::new();
    record.serialize_into_for_store(&mut row, &[7; 16]);
    row.into()
}

/// As the same incarnation of the library reads it.
fn read(row: &[u8]) -> Result<SessionRecord, SignalProtocolError> {
    SessionRecord::deserialize_for_store(row, &[7; 16])
}

/// Stores these records, and says whether the write waited for a flush.
async fn is_flushed(kv: &Faulty, backend: &SessionBackend, rows: &[(&str, &Bytes)]) -> bool {
    let before = kv.flushed.load(Ordering::SeqCst);
    let rows: Vec<(Arc<str>, Bytes)> = rows.iter().map(|(name, row)| ((*name).into(), (*row).clone())).collect();
    backend.put_sessions_batch(&rows).await.unwrap();
    for (name, row) in &rows {
        let stored = backend.get_session(name).await.unwrap().unwrap();
        let (Ok(stored), Ok(given)) = (read(&stored), read(row)) else {
            assert_eq!(stored, row, "what is not understood is left as it is");
            continue;
        };
        assert!(stored.reserved_sender_chain_index() >= given.reserved_sender_chain_index());
        let session = |record: &SessionRecord| format!("{:?}", record.session_state());
        assert_eq!(session(&stored), session(&given));
    }
    kv.flushed.load(Ordering::SeqCst) > before
}

async fn a_ratchet_is_flushed_when_its_lease_is_another(home: Home) {
    let kv = Faulty::new(home.open().await);
    let backend = SessionBackend::new(kv.clone(), Namespace::credentials("u"), None);
    let mut here = record(1, 0);
    let first = row(&here);
    assert!(is_flushed(&kv, &backend, &[("a", &first)]).await, "a new one");
    here.session_state_mut().unwrap().set_previous_counter(1);
    assert!(!is_flushed(&kv, &backend, &[("a", &row(&here))]).await, "the same lease");

    for _ in 0..2 {
        here.reserve_sender_chain_counters(here.reserved_sender_chain_index());
        assert!(!is_flushed(&kv, &backend, &[("a", &row(&here))]).await, "a raised ceiling that the disk knows of");
    }
    here.reserve_sender_chain_counters(here.reserved_sender_chain_index());
    let raised = row(&here);
    assert!(is_flushed(&kv, &backend, &[("a", &raised)]).await, "one that it does not know of");
    let chain = row(&record(2, 0));
    assert!(is_flushed(&kv, &backend, &[("a", &chain)]).await, "another chain");
    assert!(!is_flushed(&kv, &backend, &[("a", &chain)]).await);
    assert!(is_flushed(&kv, &backend, &[("a", &chain), ("b", &first)]).await, "one of two");
    assert!(!is_flushed(&kv, &backend, &[("b", &first), ("a", &chain)]).await);

    backend.delete_session("a").await.unwrap();
    assert!(is_flushed(&kv, &backend, &[("a", &chain)]).await, "it was deleted meanwhile");
    backend.put_session("a", &raised).await.unwrap();
    assert!(is_flushed(&kv, &backend, &[("a", &chain)]).await, "it was another meanwhile");
    let junk = Bytes::from_static(b"junk");
    for _ in 0..2 {
        assert!(is_flushed(&kv, &backend, &[("a", &junk)]).await, "what is not understood");
    }
}

async fn a_backend_trusts_no_lease_of_the_one_before(home: Home) {
    let kv = Faulty::new(home.open().await);
    let first = row(&record(1, 0));
    for _ in 0..2 {
        let backend = SessionBackend::new(kv.clone(), Namespace::credentials("u"), None);
        assert!(is_flushed(&kv, &backend, &[("a", &first)]).await);
        backend.close().await;
    }
}

fn namespace() -> Namespace {
    Namespace::credentials("u")
}

/// The row that the store has.
async fn stored(kv: &Arc<Faulty>, address: &str) -> Option<Bytes> {
    kv.get(&namespace(), format!("S{address}").as_bytes()).await.unwrap()
}

async fn put(backend: &SessionBackend, address: &str, row: &Bytes) {
    backend.put_sessions_batch(&[(address.into(), row.clone())]).await.unwrap();
}

/// A Signal session after so many messages of its sending chain.
fn session(chain: u8, place: u32) -> SessionStructure {
    let key = MessageField::some(ChainKey { index: Some(place), key: Some(vec![9; 32].into()) });
    let chain = Chain { sender_ratchet_key: Some(vec![chain; 33]), chain_key: key, ..Chain::default() };
    SessionStructure { sender_chain: MessageField::some(chain), ..SessionStructure::default() }
}

/// Its record, with a lease of counters from the chain's beginning.
fn leased(session: SessionStructure) -> SessionRecord {
    let mut record = SessionRecord::new(SessionState::from_session_structure(session));
    record.reserve_sender_chain_counters(0);
    record
}

fn at(chain: u8, place: u32) -> SessionRecord {
    leased(session(chain, place))
}

fn place(row: Option<Bytes>) -> u32 {
    let record = read(&row.unwrap()).unwrap();
    record.session_state().unwrap().get_sender_chain_key().unwrap().index()
}

async fn a_ratchet_within_its_lease_is_held_until_it_must_be_stored(home: Home) {
    let kv = Faulty::new(home.open().await);
    let backend = SessionBackend::new(kv.clone(), namespace(), None);
    for moved in 0..3 {
        put(&backend, "a", &row(&at(1, moved))).await;
        assert_eq!(place(backend.get_session("a").await.unwrap()), moved, "who reads it finds the last");
        assert_eq!(place(stored(&kv, "a").await), 0);
    }
    // What a process finds that was killed here: it goes on behind the ceiling.
    let killed = stored(&kv, "a").await.unwrap();
    let killed = SessionRecord::deserialize_for_store(&killed, &[8; 16]).unwrap();
    assert!(killed.session_state().unwrap().get_sender_chain_key().unwrap().index() > 64);

    // Another chain is flushed, and what was held of the one before is gone.
    put(&backend, "a", &row(&at(2, 1))).await;
    assert_eq!(place(stored(&kv, "a").await), 1);
    assert_eq!(place(backend.get_session("a").await.unwrap()), 1);

    put(&backend, "b", &row(&at(1, 0))).await;
    for address in ["a", "b"] {
        put(&backend, address, &row(&at(if address == "a" { 2 } else { 1 }, 5))).await;
    }
    backend.delete_session("b").await.unwrap();
    assert_eq!(backend.get_session("b").await.unwrap(), None);
    backend.close().await;
    assert_eq!(place(stored(&kv, "a").await), 5, "who closes in order stores it");
    assert_eq!(stored(&kv, "b").await, None);
    assert!(backend.get_session("a").await.is_err(), "it is closed");
    assert!(backend.put_sessions_batch(&[("a".into(), row(&at(2, 6)))]).await.is_err());
}

async fn what_is_held_is_bounded(home: Home) {
    let kv = Faulty::new(home.open().await);
    let backend = SessionBackend::new(kv.clone(), namespace(), None);
    put(&backend, "a", &row(&at(1, 0))).await;
    for moved in 1..64 {
        put(&backend, "a", &row(&at(1, moved))).await;
        assert_eq!(place(stored(&kv, "a").await), 0);
    }
    let flushed = kv.flushed.load(Ordering::SeqCst);
    put(&backend, "a", &row(&at(1, 64))).await;
    assert_eq!(place(stored(&kv, "a").await), 64, "it moved so often");

    let addresses: Vec<_> = (0..17).map(|number| format!("chat {number}")).collect();
    for address in &addresses {
        put(&backend, address, &row(&at(1, 0))).await;
    }
    let flushed = flushed + addresses.len();
    assert_eq!(kv.flushed.load(Ordering::SeqCst), flushed);
    for (held, address) in addresses.iter().enumerate() {
        assert_eq!(place(stored(&kv, &addresses[0]).await), 0, "{held} are held");
        put(&backend, address, &row(&at(1, 7))).await;
    }
    for address in &addresses {
        assert_eq!(place(stored(&kv, address).await), 7, "{address}: more than are held");
    }

    // With keys that were skipped: what is large is not held.
    let mut skipped = Chain::default();
    skipped.message_keys.resize_with(600, || MessageKey { cipher_key: Some(vec![5; 32].into()), ..Default::default() });
    let mut large = session(1, 8);
    large.receiver_chains.push(skipped);
    put(&backend, &addresses[0], &row(&leased(large))).await;
    assert_eq!(place(stored(&kv, &addresses[0]).await), 8);
    assert_eq!(kv.flushed.load(Ordering::SeqCst), flushed, "nobody waited for it");

    // What the library does every few minutes.
    put(&backend, "a", &row(&at(1, 65))).await;
    assert_eq!(place(stored(&kv, "a").await), 64);
    backend.delete_expired_pending_inbound(0).await.unwrap();
    assert_eq!(place(stored(&kv, "a").await), 65);
}

async fn a_pre_key_is_gone_behind_the_session_that_it_began(home: Home) {
    let kv = Faulty::new(home.open().await);
    let backend = SessionBackend::new(kv.clone(), namespace(), None);
    backend.store_prekey(7, b"key", true).await.unwrap();
    put(&backend, "a", &row(&at(1, 0))).await;
    put(&backend, "a", &row(&at(1, 1))).await;
    kv.changes_left.store(1, Ordering::SeqCst);
    backend.remove_prekey(7).await.unwrap_err();
    assert_eq!(place(stored(&kv, "a").await), 1);
    assert!(SessionBackend::new(kv, namespace(), None).load_prekey(7).await.unwrap().is_some());
}

async fn nothing_is_held_after_a_failure(home: Home) {
    let kv = Faulty::new(home.open().await);
    let backend = SessionBackend::new(kv.clone(), namespace(), None);
    put(&backend, "a", &row(&at(1, 0))).await;
    put(&backend, "a", &row(&at(1, 1))).await;
    kv.fail_writes.store(true, Ordering::SeqCst);
    backend.put_sessions_batch(&[("a".into(), row(&at(2, 0)))]).await.unwrap_err();
    kv.fail_writes.store(false, Ordering::SeqCst);
    backend.put_sessions_batch(&[("a".into(), row(&at(1, 2)))]).await.unwrap_err();
    backend.close().await;
    assert_eq!(place(stored(&kv, "a").await), 0, "nothing stale reaches the store");
}

async fn a_backlog_that_was_received_is_not_far_ahead_of_the_store(home: Home) {
    let kv = Faulty::new(home.open().await);
    let backend = SessionBackend::new(kv.clone(), namespace(), None);
    let received = |count: u32| {
        let mut session = session(1, 0);
        for index in [7, count] {
            let key = MessageField::some(ChainKey { index: Some(index), key: Some(vec![9; 32].into()) });
            session.receiver_chains.push(Chain { chain_key: key, ..Chain::default() });
        }
        row(&leased(session))
    };
    let count = |row: Option<Bytes>| {
        let session = read(&row.unwrap()).unwrap().session_state().unwrap().clone();
        format!("{session:?}")
    };
    put(&backend, "a", &received(0)).await;
    let mut on_disk = 0;
    // As many as the library takes at once.
    for at in (400..4_000).step_by(400) {
        put(&backend, "a", &received(at)).await;
        if count(stored(&kv, "a").await) == count(Some(received(at))) {
            on_disk = at;
        }
        assert!(at - on_disk < 1_000, "a process that was killed here can't read on");
    }
    assert!(on_disk > 0);
}
