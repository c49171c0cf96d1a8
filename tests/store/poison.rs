//! A backend after a failed write: it refuses the next ones, and says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use wa_gateway::store::backend::SessionBackend;
use wa_gateway::store::{Batch, Kv, Namespace};
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::traits::{DeviceStore, ProtocolStore, SignalStore};

use crate::engine::{Home, over_both};
use crate::faulty::Faulty;

over_both!(
    a_failed_write_ends_all_writes_of_that_backend,
    a_failed_read_is_known_before_its_reader_hears_of_it,
    a_newer_owner_ends_all_writes,
    nothing_comes_back_after_close,
    a_token_is_remembered_as_it_is_stored,
);

const DEADLINE: Duration = Duration::from_secs(10);

async fn told(backend: &SessionBackend) {
    let failed = backend.failed();
    tokio::time::timeout(DEADLINE, failed.cancelled()).await.expect("the failure is signalled");
}

async fn a_failed_write_ends_all_writes_of_that_backend(home: Home) {
    let faulty = Faulty::new(home.open().await);
    let kv: Arc<dyn Kv> = faulty.clone();
    let ns = Namespace::credentials("u");
    let backend = SessionBackend::new(Arc::clone(&kv), ns.clone(), None);
    let other = SessionBackend::new(Arc::clone(&kv), Namespace::credentials("v"), None);
    backend.put_session("a@lid.0", b"one").await.unwrap();
    assert!(!backend.failed().is_cancelled());

    faulty.fail_writes.store(true, Ordering::SeqCst);
    backend.put_sessions_batch(&[("a@lid.0".into(), Bytes::from_static(b"two"))]).await.unwrap_err();
    told(&backend).await;
    faulty.fail_writes.store(false, Ordering::SeqCst);

    // The store works again, but this ratchet must not reach it.
    backend.put_session("a@lid.0", b"three").await.unwrap_err();
    backend.remove_prekey(1).await.unwrap_err();
    backend.store_sent_message("c", "id", b"x").await.unwrap_err();
    assert_eq!(backend.get_session("a@lid.0").await.unwrap().as_deref(), Some(&b"one"[..]), "reads go on");
    assert!(!other.failed().is_cancelled(), "other sessions go on");
    other.put_session("a@lid.0", b"one").await.unwrap();

    let fresh = SessionBackend::new(kv, ns, None);
    fresh.put_session("a@lid.0", b"again").await.unwrap();
    assert_eq!(fresh.get_session("a@lid.0").await.unwrap().as_deref(), Some(&b"again"[..]));
}

async fn a_failed_read_is_known_before_its_reader_hears_of_it(home: Home) {
    let faulty = Faulty::new(home.open().await);
    let ns = Namespace::credentials("u");
    let failing = || {
        let backend = SessionBackend::new(faulty.clone(), ns.clone(), None);
        faulty.fail_reads.store(true, Ordering::SeqCst);
        backend
    };
    let backend = failing();
    backend.get_session("a@lid.0").await.unwrap_err();
    assert!(backend.failed().is_cancelled());
    let backend = failing();
    backend.load_prekeys_batch(&[1, 2]).await.unwrap_err();
    assert!(backend.failed().is_cancelled());
    faulty.fail_reads.store(false, Ordering::SeqCst);
    backend.put_session("a@lid.0", b"late").await.unwrap_err();
    assert_eq!(backend.get_session("a@lid.0").await.unwrap(), None, "nothing was written");
}

async fn a_newer_owner_ends_all_writes(home: Home) {
    let kv = home.open().await;
    let ns = Namespace::credentials("u");
    let old = SessionBackend::new(Arc::clone(&kv), ns.clone(), Some(1));
    old.put_session("a@lid.0", b"old").await.unwrap();
    let new = SessionBackend::new(Arc::clone(&kv), ns, Some(2));
    new.put_session("a@lid.0", b"new").await.unwrap();
    old.put_session("a@lid.0", b"late").await.unwrap_err();
    told(&old).await;
    assert_eq!(new.get_session("a@lid.0").await.unwrap().as_deref(), Some(&b"new"[..]));
    assert!(!new.failed().is_cancelled());
}

async fn nothing_comes_back_after_close(home: Home) {
    let kv = home.open().await;
    let ns = Namespace::credentials("u");
    let backend = SessionBackend::new(Arc::clone(&kv), ns.clone(), None);
    backend.save(&Device::new()).await.unwrap();
    tokio::time::timeout(DEADLINE, backend.close()).await.unwrap();
    kv.drop_namespace(&ns).await.unwrap();
    backend.put_session("a@lid.0", b"late").await.unwrap_err();
    backend.save(&Device::new()).await.unwrap_err();
    assert!(!kv.namespaces().await.unwrap().contains(&ns));
    assert!(!backend.failed().is_cancelled(), "closing is not failing");
    kv.write(&ns, Batch::new().put("a", "1")).await.unwrap();
}

async fn a_token_is_remembered_as_it_is_stored(home: Home) {
    let faulty = Faulty::new(home.open().await);
    let backend = SessionBackend::new(faulty.clone(), Namespace::credentials("u"), None);
    backend.touch_tc_token_sender_timestamp("a", 5).await.unwrap();
    backend.store_received_tc_token("b", &[7], 6).await.unwrap();
    faulty.fail_reads.store(true, Ordering::SeqCst);
    let sent_at = async |jid| backend.get_tc_token(jid).await.map(|entry| entry.unwrap().sender_timestamp);
    assert_eq!((sent_at("a").await.unwrap(), sent_at("b").await.unwrap()), (Some(5), None), "nobody read the store");

    faulty.fail_writes.store(true, Ordering::SeqCst);
    backend.touch_tc_token_sender_timestamp("a", 9).await.unwrap_err();
    faulty.fail_reads.store(false, Ordering::SeqCst);
    assert_eq!(sent_at("a").await.unwrap(), Some(5), "what was not stored is not remembered");
}
