//! A session that leaves for another host and comes back: all of it goes along, it is never lost and never there twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use secrecy::SecretString;
use wa_gateway::backup::{self, ArriveError, Arrived, Import, LeaveError, Wishes};
use wa_gateway::event::SessionName;
use wa_gateway::store::backend::SessionBackend;
use wa_gateway::store::registry::{AccountDetails, RecordState, Registry, SessionRecord, WebhookRecord};
use wa_gateway::store::{Batch, Kv, Namespace};
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::traits::DeviceStore;
use whatsapp_rust::waproto::whatsapp::ADVSignedDeviceIdentity;

use crate::engine::{Home, over_both};
use crate::faulty::Faulty;

over_both!(
    all_of_a_session_moves_there_and_back,
    an_export_counts_once_and_an_old_one_never,
    what_is_taken_or_not_linked_is_refused,
    an_arrival_cut_short_anywhere_is_whole_or_not_there,
    a_session_that_left_stays_so_even_when_its_record_is_damaged,
);

/// A host with its store.
struct Host {
    kv: Arc<dyn Kv>,
    _home: Home,
}

fn name(text: &str) -> SessionName {
    SessionName::parse(text).unwrap()
}

fn passphrase() -> SecretString {
    "correct horse".into()
}

fn wishes(name: Option<&str>) -> Wishes {
    Wishes { name: name.map(self::name), dry_run: false }
}

impl Host {
    async fn new(home: Home) -> Self {
        Self { kv: home.open().await, _home: home }
    }

    fn registry(&self) -> Registry {
        Registry::new(Arc::clone(&self.kv))
    }

    async fn record(&self, session: &str) -> SessionRecord {
        self.registry().get(&name(session)).await.unwrap().expect("the session is listed")
    }

    /// A linked session with rows of every kind.
    async fn link(&self, session: &str) {
        let uid = self.registry().reserve(&name(session)).await.unwrap().0.uid;
        let record = |record: &mut SessionRecord| {
            record.details = Some(AccountDetails { name: "Ann".into(), phone_number: "491234".into() });
            record.platform = Some("android".into());
            record.webhook = Some(WebhookRecord { url: "http://bot/".into(), secret: Some("s".into()), events: None });
        };
        self.registry().update(&uid, record).await.unwrap();
        let mut device = Device::new();
        device.pn = Some("491234:5@s.whatsapp.net".parse().unwrap());
        device.account = Some(Arc::new(ADVSignedDeviceIdentity::default()));
        let credentials = Namespace::credentials(&uid);
        SessionBackend::new(Arc::clone(&self.kv), credentials.clone(), None).save(&device).await.unwrap();
        // Signal sessions, pre-keys, sender keys, and more than one batch of others.
        let rows = (0..1200_u32).fold(Batch::new(), |batch, n| batch.put(format!("S{n:05}"), vec![7; 40]));
        self.kv.write(&credentials, rows.put("P\0\0\0\x01", "pre-key").put("Kgroup", "sender key")).await.unwrap();
        self.kv.write(&Namespace::sent(&uid), Batch::new().put("mID", "{}")).await.unwrap();
        self.kv.write(&Namespace::outbox(&uid), Batch::new().put("e1", "waits")).await.unwrap();
    }

    /// The rows of a session by the kind of their namespace.
    async fn rows(&self, session: &str) -> BTreeMap<&'static str, Vec<(Bytes, Bytes)>> {
        let uid = self.record(session).await.uid;
        let mut rows = BTreeMap::new();
        for (kind, ns) in [
            ("credentials", Namespace::credentials(&uid)),
            ("sent", Namespace::sent(&uid)),
            ("outbox", Namespace::outbox(&uid)),
        ] {
            rows.insert(kind, self.kv.snapshot(&ns).await.unwrap());
        }
        rows
    }

    /// What is in the file, which is read once: its key is slow to make.
    async fn export(&self, session: &str) -> Import {
        let mut file = Vec::new();
        backup::export(&*self.kv, &self.registry(), &name(session), &mut file, &passphrase()).await.unwrap();
        Import::read(file.as_slice(), &passphrase()).unwrap()
    }

    async fn import(&self, file: &Import, named: Option<&str>) -> Result<Arrived, ArriveError> {
        file.clone().enter(&self.kv, wishes(named)).await
    }

    async fn listed(&self) -> Vec<(String, bool)> {
        let list = self.registry().list().await.unwrap();
        list.into_iter().map(|record| (record.name.to_string(), record.away)).collect()
    }
}

async fn all_of_a_session_moves_there_and_back(home: Home) {
    let (a, b) = (Host::new(home.another()).await, Host::new(home).await);
    a.link("shop").await;
    let before = (a.record("shop").await, a.rows("shop").await);
    let file = a.export("shop").await;
    let left = a.record("shop").await;
    assert_eq!((left.state, left.away, left.moves.len()), (RecordState::Stopped, true, 1));
    assert_eq!(a.rows("shop").await, before.1, "it keeps all its rows until it is deleted");

    let tried = file.clone().enter(&b.kv, Wishes { dry_run: true, ..wishes(None) }).await.unwrap();
    assert_eq!((b.listed().await, tried.is_back), (vec![], false));
    let arrived = b.import(&file, None).await.unwrap();
    assert_eq!(
        (arrived, tried.rows),
        (Arrived { rows: tried.rows, ..tried.clone() }, before.1["credentials"].len() + 1)
    );
    let there = b.record("shop").await;
    assert_eq!((there.state, there.away), (RecordState::Live, false));
    assert_eq!(
        (&there.details, &there.platform, &there.webhook, there.created_at),
        (&before.0.details, &before.0.platform, &before.0.webhook, before.0.created_at)
    );
    let rows = b.rows("shop").await;
    for kind in ["credentials", "sent"] {
        assert_eq!(rows[kind], before.1[kind], "{kind}");
    }
    assert_eq!(rows["outbox"], [], "what waits is delivered from where it came");

    // Life goes on there; then it comes back under another name, and the events that still wait here are its again.
    let credentials = Namespace::credentials(&there.uid);
    b.kv.write(&credentials, Batch::new().put("S00000", "newer").remove("P\0\0\0\x01")).await.unwrap();
    let newer = b.rows("shop").await;
    let file = b.export("shop").await;
    let back = a.import(&file, Some("store")).await.unwrap();
    assert!(back.is_back);
    assert_eq!(a.listed().await, [("store".to_owned(), false)]);
    let rows = a.rows("store").await;
    assert_eq!((&rows["credentials"], &rows["outbox"]), (&newer["credentials"], &before.1["outbox"]));
    assert_eq!(a.record("store").await.moves.len(), 2);
    let namespaces = a.kv.namespaces().await.unwrap();
    assert!(!namespaces.contains(&Namespace::credentials(&left.uid)), "nothing of its first stay is left");
    assert!(a.registry().deletions().await.unwrap().is_empty());
}

async fn an_export_counts_once_and_an_old_one_never(home: Home) {
    let (a, b) = (Host::new(home.another()).await, Host::new(home).await);
    a.link("shop").await;
    let first = a.export("shop").await;
    let again = a.export("shop").await;
    b.import(&again, None).await.unwrap();
    // The same export, from either file, also under another name, and after the session was deleted.
    for named in [None, Some("other")] {
        assert!(matches!(b.import(&first, named).await, Err(ArriveError::Before)));
    }
    let second = b.export("shop").await;
    a.import(&second, None).await.unwrap();
    // At home they knew of the first by that it left, and of the second by that it came.
    for file in [&first, &second] {
        assert!(matches!(a.import(file, Some("other")).await, Err(ArriveError::Before)));
    }
    let third = a.export("shop").await;
    for file in [&first, &second] {
        assert!(matches!(a.import(file, Some("other")).await, Err(ArriveError::Before)), "it would rewind ratchets");
    }
    // Whoever changes their mind takes the newest back where it left.
    assert!(a.import(&third, None).await.unwrap().is_back);
    let uid = a.record("shop").await.uid;
    a.registry().mark_deleting(&uid).await.unwrap();
    a.registry().erase(&uid).await.unwrap();
    a.registry().forget(&uid, None).await.unwrap();
    assert!(matches!(a.import(&third, None).await, Err(ArriveError::Before)));
    assert_eq!(a.listed().await, []);
}

async fn what_is_taken_or_not_linked_is_refused(home: Home) {
    let (a, b) = (Host::new(home.another()).await, Host::new(home).await);
    a.link("shop").await;
    b.link("shop").await;
    let file = a.export("shop").await;
    assert!(matches!(b.import(&file, None).await, Err(ArriveError::NameTaken(taken)) if taken == "shop"));
    // One that left, with another device, keeps its name and its keys too.
    let other = b.export("shop").await;
    assert!(matches!(b.import(&file, None).await, Err(ArriveError::NameTaken(_))));
    b.import(&file, Some("branch")).await.unwrap();
    assert_eq!(b.listed().await, [("shop".to_owned(), true), ("branch".to_owned(), false)]);
    b.import(&other, None).await.unwrap();
    // What runs here is here, whatever a file says: as after a backup that came back.
    let uid = a.record("shop").await.uid;
    let registry = Namespace::registry();
    let mut record = a.record("shop").await;
    record.away = false;
    record.state = RecordState::Live;
    let row = serde_json::to_vec(&record).unwrap();
    a.kv.write(&registry, Batch::new().put(format!("session/{uid}"), row)).await.unwrap();
    assert!(matches!(a.import(&file, Some("other")).await, Err(ArriveError::Here(here)) if here == "shop"));

    let refused = |session: &'static str| {
        let host = &a;
        async move {
            let into = Vec::new();
            backup::export(&*host.kv, &host.registry(), &name(session), into, &passphrase()).await.unwrap_err()
        }
    };
    assert!(matches!(refused("nobody").await, LeaveError::NotFound));
    let unlinked = a.registry().reserve(&name("unlinked")).await.unwrap().0;
    assert!(matches!(refused("unlinked").await, LeaveError::NotLinked));
    a.kv.write(&Namespace::credentials(&unlinked.uid), Batch::new().put("Z", "junk")).await.unwrap();
    assert!(matches!(refused("unlinked").await, LeaveError::Damaged));
    assert!(!a.record("unlinked").await.away, "what can't leave stays");
}

/// The process ends after each of the steps of an arrival.
async fn an_arrival_cut_short_anywhere_is_whole_or_not_there(home: Home) {
    let (a, b) = (Host::new(home.another()).await, Host::new(home.another()).await);
    a.link("shop").await;
    let there = a.export("shop").await;
    b.import(&there, None).await.unwrap();
    let back = b.export("shop").await;
    let mut entered_at = None;
    for step in 0..20 {
        let host = Host::new(home.another()).await;
        // Its first stay, with an event that waits.
        host.import(&there, None).await.unwrap();
        let uid = host.record("shop").await.uid;
        host.registry().depart(&uid).await.unwrap();
        host.kv.write(&Namespace::outbox(&uid), Batch::new().put("e1", "waits")).await.unwrap();
        let faulty = Faulty::new(Arc::clone(&host.kv));
        faulty.changes_left.store(step, Ordering::SeqCst);
        let failing: Arc<dyn Kv> = faulty;
        let ended = back.clone().enter(&failing, wishes(None)).await;
        // What the next start does.
        host.registry().recover(&[], |_| None).await.unwrap();
        let listed = host.listed().await;
        let rows = host.rows("shop").await;
        assert_eq!(rows["outbox"].len(), 1, "step {step}");
        assert_eq!(rows["credentials"].len(), a.rows("shop").await["credentials"].len(), "step {step}");
        if listed == [("shop".to_owned(), false)] {
            entered_at.get_or_insert(step);
            assert_ne!(host.record("shop").await.uid, uid);
            // It is there, and so a second try says so.
            assert!(matches!(host.import(&back, None).await, Err(ArriveError::Before)));
        } else {
            assert_eq!(listed, [("shop".to_owned(), true)], "step {step}");
            assert!(entered_at.is_none() && ended.is_err(), "step {step}");
            assert!(host.import(&back, None).await.unwrap().is_back, "step {step}: and so it can be tried again");
        }
        let credentials = host.kv.namespaces().await.unwrap();
        let credentials = credentials.iter().filter(|ns| ns.as_str().starts_with("credentials:")).count();
        assert_eq!(credentials, 1, "step {step}: nothing is left of what was cut short");
        if ended.is_ok() {
            return;
        }
    }
    panic!("the arrival never ended");
}

async fn a_session_that_left_stays_so_even_when_its_record_is_damaged(home: Home) {
    let a = Host::new(home).await;
    a.link("shop").await;
    a.export("shop").await;
    let uid = a.record("shop").await.uid;
    let revived = a.registry().update(&uid, |record| (record.state, record.away) = (RecordState::Live, false)).await;
    let revived = revived.unwrap().unwrap();
    assert_eq!((revived.state, revived.away), (RecordState::Stopped, true), "no verb brings it back");
    let row = Bytes::from(format!("session/{uid}"));
    a.kv.write(&Namespace::registry(), Batch::new().put(row, "junk")).await.unwrap();
    a.registry().mend().await.unwrap();
    let mended = a.record("shop").await;
    assert_eq!((mended.state, mended.away), (RecordState::Stopped, true));
    let file = a.export("shop").await;
    assert!(a.import(&file, None).await.unwrap().is_back, "and it can be exported still");
}
