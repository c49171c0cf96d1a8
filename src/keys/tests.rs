use secrecy::ExposeSecret as _;

use super::*;
use crate::outbox::memory::MemoryKv;

fn spec(name: &str) -> Spec {
    Spec::parse(name, None, None).unwrap()
}

#[test]
fn a_set_of_sessions_holds_names_and_beginnings() {
    let set = SessionSet::parse(["shop", "team-*"]).unwrap();
    for (session, is_in) in [
        ("shop", true),
        ("shop2", false),
        ("Shop", false),
        ("team-", true),
        ("team-a", true),
        ("team", false),
        ("", false),
    ] {
        assert_eq!(set.contains(session), is_in, "{session}");
    }
    assert!(SessionSet::All.contains("anything"));
    assert_eq!(SessionSet::parse(["a", "*"]), Ok(SessionSet::All));
    for bad in [&[][..], &[" "], &[""]] {
        assert_eq!(SessionSet::parse(bad.iter().copied()), Err(SpecError::Sessions));
    }
}

#[test]
fn names_and_scopes_have_rules() {
    for name in ["a", "shop-1.x_Y", &"x".repeat(64)] {
        assert!(Spec::parse(name, None, None).is_ok(), "{name}");
    }
    for name in ["", "KEY", "key", "a b", "a/b", "..", "a\n", "\u{e9}", &"x".repeat(65)] {
        assert_eq!(Spec::parse(name, None, None), Err(SpecError::Name), "{name}");
    }
    let words = |words: &[&str]| Scopes::parse(words.iter().copied());
    assert_eq!(words(&["read"]).unwrap().words(), ["read"]);
    assert_eq!(words(&["manage", "send", "read"]), Ok(Scopes::ALL));
    for bad in [&[][..], &["Read"], &["read", "admin"]] {
        assert_eq!(words(bad), Err(SpecError::Scopes));
    }
}

#[tokio::test]
async fn a_key_lives_until_it_is_removed_and_only_its_hash_is_stored() {
    let kv = Arc::new(MemoryKv::default());
    let keys = Keys::open(Arc::clone(&kv) as Arc<dyn Kv>).await.unwrap();
    keys.set_master(b"secret");
    let limited = Spec::parse("shop", Some(&["shop".to_owned()]), Some(&["send".to_owned()])).unwrap();
    let (secret, grant) = keys.create(limited.clone()).await.unwrap();
    let secret = secret.expose_secret().to_owned();
    assert!(secret.starts_with("wag_") && secret.len() == 47, "{}", secret.len());
    assert!(matches!(keys.create(spec("shop")).await, Err(KeyError::Exists)));
    let (other, _) = keys.create(spec("other")).await.unwrap();
    assert_ne!(other.expose_secret(), secret);

    let again = Keys::open(Arc::clone(&kv) as Arc<dyn Kv>).await.unwrap();
    assert_eq!(*again.find(&hash(secret.as_bytes())).unwrap(), grant, "it survives a restart");
    assert_eq!(again.find(&hash(secret.as_bytes())).unwrap().spec, limited);
    for (_, row) in kv.range(&crate::store::Namespace::registry(), crate::store::KeyRange::all()).await.unwrap() {
        assert!(!String::from_utf8_lossy(&row).contains(&secret), "the key itself is stored");
    }

    assert!(keys.find(&hash(b"secret")).unwrap().is_master());
    assert!(!keys.find(&hash(secret.as_bytes())).unwrap().is_master());
    assert_eq!(keys.find(&hash(b"")), None);
    assert_eq!(keys.find(&hash(b"wrong")), None);
    let names: Vec<_> = keys.list().iter().map(|grant| grant.spec.name.clone()).collect();
    assert_eq!(names, ["other", "shop"], "the master is not told");

    keys.remove("shop").await.unwrap();
    assert_eq!(keys.find(&hash(secret.as_bytes())), None);
    assert!(matches!(keys.remove("shop").await, Err(KeyError::NotFound)));
    assert!(matches!(keys.remove(MASTER).await, Err(KeyError::NotFound)));
    let again = Keys::open(kv).await.unwrap();
    assert_eq!(again.find(&hash(secret.as_bytes())), None, "after a restart too");
}

#[tokio::test]
async fn keys_of_a_file_come_and_go_with_it() {
    let keys = Keys::open(Arc::new(MemoryKv::default())).await.unwrap();
    keys.set_master(b"secret");
    keys.set_file(vec![(hash(b"a"), spec("a")), (hash(b"b"), spec("b"))]);
    assert_eq!(keys.find(&hash(b"a")).unwrap().origin, Origin::File);
    assert!(matches!(keys.remove("a").await, Err(KeyError::OfFile)));
    assert!(matches!(keys.create(spec("a")).await, Err(KeyError::Exists)));
    keys.set_file(vec![(hash(b"c"), spec("a"))]);
    assert_eq!((keys.find(&hash(b"a")), keys.find(&hash(b"b"))), (None, None));
    assert_eq!(keys.find(&hash(b"c")).unwrap().spec.name, "a");
    assert!(keys.find(&hash(b"secret")).is_some(), "the others stay");
}
