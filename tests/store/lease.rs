//! Which ratchets wait for a flush: those that something may be sent with which no record on disk knows of.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use wa_gateway::store::Namespace;
use wa_gateway::store::backend::SessionBackend;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::libsignal::protocol::{SessionRecord, SessionState, SignalProtocolError};
use whatsapp_rust::wacore::store::traits::SignalStore as _;
use whatsapp_rust::waproto::whatsapp::SessionStructure;
use whatsapp_rust::waproto::whatsapp::session_structure::Chain;
use whatsapp_rust::waproto::whatsapp::session_structure::chain::ChainKey;

use crate::engine::{Home, over_both};
use crate::faulty::Faulty;

over_both!(a_ratchet_is_flushed_when_its_lease_is_another, a_backend_trusts_no_lease_of_the_one_before);

fn record(chain: u8, spent: u32) -> SessionRecord {
    let key = MessageField::some(ChainKey { index: Some(0), key: Some(vec![9; 32].into()) });
    let chain = Chain { sender_ratchet_key: Some(vec![chain; 33]), chain_key: key, ..Chain::default() };
    let session = SessionStructure { sender_chain: MessageField::some(chain), ..SessionStructure::default() };
    let mut record = SessionRecord::new(SessionState::from_session_structure(session));
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
