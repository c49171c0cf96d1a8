//! The registry: names, records, and deletions that a crash cuts short.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use wa_gateway::event::SessionName;
use wa_gateway::store::registry::{AccountDetails, RecordState, Recovered, Registry};
use wa_gateway::store::{Batch, Kv, KvError, Namespace};

use crate::engine::{Home, over_both};
use crate::faulty::Faulty;

over_both!(
    sessions_are_listed_first_seen_first_across_restarts,
    two_reservations_at_once_make_one_session,
    updates_reach_only_their_own_session,
    a_deletion_cut_short_is_finished_at_the_next_start,
    a_logout_cut_short_and_orphans_are_cleared_at_the_next_start,
    farewells_wait_in_order_until_removed,
);

fn name(text: &str) -> SessionName {
    SessionName::parse(text).unwrap()
}

struct Store {
    home: Home,
    kv: Option<Arc<dyn Kv>>,
}

impl Store {
    async fn new(home: Home) -> Self {
        let kv = home.open().await;
        Self { home, kv: Some(kv) }
    }

    fn kv(&self) -> Arc<dyn Kv> {
        Arc::clone(self.kv.as_ref().unwrap())
    }

    fn registry(&self) -> Registry {
        Registry::new(self.kv())
    }

    /// As after the end of the process; everything taken from `kv` must be gone.
    async fn reopen(&mut self) {
        if let Some(kv) = self.kv.take() {
            kv.close().await.unwrap();
        }
        self.kv = Some(self.home.open().await);
    }
}

async fn sessions_are_listed_first_seen_first_across_restarts(home: Home) {
    let mut store = Store::new(home).await;
    for text in ["b", "a", "a/../b", "caf\u{e9}", "name with spaces"] {
        store.registry().reserve(&name(text)).await.unwrap();
    }
    store.registry().reserve(&name("a")).await.unwrap();
    for _ in 0..2 {
        let listed: Vec<_> =
            store.registry().list().await.unwrap().iter().map(|record| record.name.to_string()).collect();
        assert_eq!(listed, ["b", "a", "a/../b", "caf\u{e9}", "name with spaces"]);
        store.reopen().await;
    }
    let record = store.registry().get(&name("caf\u{e9}")).await.unwrap().unwrap();
    assert_eq!((record.state, record.sequence, record.details), (RecordState::Live, 4, None));
    assert_eq!(store.registry().get(&name("none")).await.unwrap(), None);
}

async fn two_reservations_at_once_make_one_session(home: Home) {
    let store = Store::new(home).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..40 {
        let registry = store.registry();
        tasks.spawn(async move { registry.reserve(&name(&format!("s{}", task % 4))).await.unwrap().0.uid });
    }
    let mut uids = std::collections::BTreeSet::new();
    while let Some(uid) = tasks.join_next().await {
        uids.insert(uid.unwrap());
    }
    assert_eq!(uids.len(), 4);
    let listed = store.registry().list().await.unwrap();
    let sequences: std::collections::BTreeSet<_> = listed.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
}

async fn updates_reach_only_their_own_session(home: Home) {
    let mut store = Store::new(home).await;
    let registry = store.registry();
    let (first, flushing) = registry.reserve(&name("a")).await.unwrap();
    flushing.expect("it is new").await.unwrap();
    let (again, flushing) = registry.reserve(&name("a")).await.unwrap();
    assert!(flushing.is_none());
    assert_eq!(again, first);
    let details = AccountDetails { name: "Ann".into(), phone_number: "491234".into() };
    let updated = registry
        .update(&first.uid, |record| {
            record.details = Some(details.clone());
            record.platform = Some("android".into());
            record.state = RecordState::Stopped;
            record.name = name("other");
            record.uid = "other".into();
        })
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&updated.uid, &updated.name, updated.state), (&first.uid, &first.name, RecordState::Stopped));
    drop(registry);
    store.reopen().await;
    let registry = store.registry();
    assert_eq!(registry.get(&name("a")).await.unwrap().unwrap(), updated);
    assert_eq!(updated.details, Some(details));

    registry.update(&first.uid, |record| record.state = RecordState::Deleting).await.unwrap();
    assert_eq!(
        registry.get(&name("a")).await.unwrap().unwrap().state,
        RecordState::Stopped,
        "only mark_deleting deletes"
    );
    registry.mark_deleting(&first.uid).await.unwrap().unwrap();
    let second = registry.reserve(&name("a")).await.unwrap().0;
    assert_ne!(second.uid, first.uid, "the name was free at once");
    assert_eq!(registry.update(&first.uid, |record| record.platform = None).await.unwrap(), None, "a late task");
    assert_eq!(registry.update("unknown", |_| ()).await.unwrap(), None);
    registry.mark_deleting(&first.uid).await.unwrap().unwrap();
    assert_eq!(registry.get(&name("a")).await.unwrap().unwrap(), second, "marking again leaves the new one alone");
    assert_eq!(registry.forget(&second.uid, None).await.unwrap(), None);
    assert_eq!(registry.get(&name("a")).await.unwrap().unwrap(), second, "only what is being deleted is forgotten");
}

async fn delete(registry: &Registry, uid: &str) -> Result<(), KvError> {
    registry.mark_deleting(uid).await?;
    registry.erase(uid).await?;
    registry.forget(uid, Some(Bytes::from_static(b"bye"))).await?;
    Ok(())
}

/// The process ends after each of the steps of a deletion; the next start leaves the session whole or gone.
async fn a_deletion_cut_short_is_finished_at_the_next_start(home: Home) {
    const STEPS: usize = 5;
    for step in 0..=STEPS {
        let mut store = Store::new(home.another()).await;
        let (doomed, kept) = {
            let registry = store.registry();
            let doomed = registry.reserve(&name("a")).await.unwrap().0;
            let kept = registry.reserve(&name("b")).await.unwrap().0;
            for uid in [&doomed.uid, &kept.uid] {
                store.kv().write(&Namespace::credentials(uid), Batch::new().put("key", "secret")).await.unwrap();
                store.kv().write(&Namespace::outbox(uid), Batch::new().put("key", "event")).await.unwrap();
            }
            let faulty = Faulty::new(store.kv());
            faulty.changes_left.store(step, Ordering::SeqCst);
            let ended = delete(&Registry::new(faulty), &doomed.uid).await;
            assert_eq!(ended.is_ok(), step >= STEPS, "step {step}: {ended:?}");
            if step > 0 {
                // Free at once, and the new session of that name is not touched by what follows.
                assert_ne!(registry.reserve(&name("a")).await.unwrap().0.uid, doomed.uid);
            }
            (doomed, kept)
        };
        store.reopen().await;
        let registry = store.registry();
        let recovered =
            registry.recover(&[], |record| Some(Bytes::from(format!("bye {}", record.name)))).await.unwrap();
        let cut_short = step > 0 && step < STEPS;
        assert_eq!(recovered, Recovered { deletions: usize::from(cut_short), ..Recovered::default() }, "step {step}");
        let namespaces = store.kv().namespaces().await.unwrap();
        let whole = step == 0;
        assert_eq!(namespaces.contains(&Namespace::credentials(&doomed.uid)), whole, "step {step}");
        assert_eq!(namespaces.contains(&Namespace::outbox(&doomed.uid)), whole, "step {step}");
        assert!(namespaces.contains(&Namespace::credentials(&kept.uid)));
        assert!(namespaces.contains(&Namespace::outbox(&kept.uid)));
        assert_eq!(registry.get(&name("b")).await.unwrap().unwrap(), kept);
        assert_eq!(registry.get(&name("a")).await.unwrap().unwrap().uid == doomed.uid, whole);
        assert_eq!(registry.deletions().await.unwrap(), []);
        let farewells: Vec<_> = registry.farewells().await.unwrap();
        let expected: &[&[u8]] = if whole {
            &[]
        } else if cut_short {
            &[b"bye a"]
        } else {
            &[b"bye"]
        };
        assert_eq!(farewells.iter().map(|(_, body)| body.as_ref()).collect::<Vec<_>>(), expected, "step {step}");
        assert_eq!(registry.recover(&[], |_| None).await.unwrap(), Recovered::default(), "once is enough");
    }
}

async fn a_logout_cut_short_and_orphans_are_cleared_at_the_next_start(home: Home) {
    let store = Store::new(home).await;
    let registry = store.registry();
    let kv = store.kv();
    let gone = registry.reserve(&name("a")).await.unwrap().0;
    registry.update(&gone.uid, |record| record.state = RecordState::LoggedOut).await.unwrap();
    for ns in [
        Namespace::credentials(&gone.uid),
        Namespace::outbox(&gone.uid),
        Namespace::credentials("nobody"),
        Namespace::outbox("nobody"),
        Namespace::from_name("something-else"),
    ] {
        kv.write(&ns, Batch::new().put("key", "x")).await.unwrap();
    }
    let recovered = registry.recover(std::slice::from_ref(&gone.uid), |_| None).await.unwrap();
    assert_eq!(recovered, Recovered { deletions: 0, logouts: 0, orphans: 2 }, "left to the caller");
    assert!(kv.namespaces().await.unwrap().contains(&Namespace::credentials(&gone.uid)));
    let recovered = registry.recover(&[], |_| None).await.unwrap();
    assert_eq!(recovered, Recovered { deletions: 0, logouts: 1, orphans: 0 });
    let mut left = kv.namespaces().await.unwrap();
    left.sort();
    let mut expected = [Namespace::outbox(&gone.uid), Namespace::registry(), Namespace::from_name("something-else")];
    expected.sort();
    assert_eq!(left, expected, "undelivered events of a logged-out session stay");
    assert_eq!(registry.get(&name("a")).await.unwrap().unwrap().state, RecordState::LoggedOut);
}

async fn farewells_wait_in_order_until_removed(home: Home) {
    let mut store = Store::new(home).await;
    let first = store.registry().add_farewell("u1", Bytes::from_static(b"1")).await.unwrap();
    // Keys are ordered by the microsecond.
    while store.registry().add_farewell("u1", Bytes::from_static(b"1")).await.unwrap() == first {}
    let second = store.registry().add_farewell("u2", Bytes::from_static(b"2")).await.unwrap();
    store.reopen().await;
    let registry = store.registry();
    let keys: Vec<_> = registry.farewells().await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert!(keys.is_sorted());
    assert_eq!((keys.first(), keys.last()), (Some(&first), Some(&second)));
    for key in keys {
        registry.remove_farewell(key).await.unwrap();
    }
    assert_eq!(registry.farewells().await.unwrap(), []);
    let session = registry.reserve(&name("a")).await.unwrap().0;
    registry.remove_farewell(Bytes::from_static(b"name/a")).await.unwrap();
    assert_eq!(registry.get(&name("a")).await.unwrap(), Some(session), "only farewells can be removed so");
}
