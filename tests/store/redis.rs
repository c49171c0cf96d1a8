//! What only Redis does: it goes away and comes back, answers late, loses what it had, or belongs to somebody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wa_gateway::store::redis::{OpenError, RedisStore};
use wa_gateway::store::{Batch, KeyRange, Kv, KvError, Namespace};

use crate::engine;
use crate::redis_server::RedisServer;

/// Above the deadline of a call.
const PATIENCE: Duration = Duration::from_secs(20);

fn ns() -> Namespace {
    Namespace::credentials("u")
}

async fn refused(url: &str) -> OpenError {
    RedisStore::open(&url.into(), false).await.unwrap_err()
}

/// Writes until it works again; every failure before comes within the deadline.
async fn back(kv: &Arc<dyn Kv>) {
    let since = Instant::now();
    loop {
        let begun = Instant::now();
        match kv.write(&ns(), Batch::new().put("probe", "1")).await {
            Ok(()) => return,
            Err(error) => assert!(matches!(error, KvError::Engine(_)), "{error:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(7), "a call took {:?}", begun.elapsed());
        assert!(since.elapsed() < PATIENCE, "the store never came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_survives_a_killed_server() {
    let mut server = RedisServer::start();
    let kv = engine::redis(&server).await;
    let mut written: Vec<String> = Vec::new();
    for round in 0..3 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let kv = Arc::clone(&kv);
            writers.spawn(async move {
                let mut written = Vec::new();
                for row in 0.. {
                    let key = format!("{round}-{writer}-{row}");
                    let twin = format!("twin-{key}");
                    if kv.write(&ns(), Batch::new().put(key.clone(), "v").put(twin, "v")).await.is_err() {
                        break;
                    }
                    written.push(key);
                }
                written
            });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.kill();
        let mut rows = 0;
        while let Some(ended) = writers.join_next().await {
            let ended = ended.unwrap();
            rows += ended.len();
            written.extend(ended);
        }
        assert!(rows > 0, "round {round}: nothing was written before the kill");
        assert!(matches!(kv.get(&ns(), b"x").await, Err(KvError::Engine(_))), "nobody is there");
        server.restart();
        back(&kv).await;
        for key in &written {
            assert!(kv.get(&ns(), key.as_bytes()).await.unwrap().is_some(), "{key} is lost");
        }
        for (twin, _) in kv.range(&ns(), KeyRange::prefix("twin-")).await.unwrap() {
            assert!(kv.get(&ns(), &twin["twin-".len()..]).await.unwrap().is_some(), "half a batch");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_given_up_changes_nothing_once_the_store_was_read_again() {
    let server = RedisServer::start();
    let kv = engine::redis(&server).await;
    kv.write(&ns(), Batch::new().put("a", "old")).await.unwrap();
    for round in 0..3_u8 {
        server.freeze();
        // Large: the server reads it in many steps, among which it takes new connections.
        let late = Bytes::from(vec![b'0' + round; 4 << 20]);
        let begun = Instant::now();
        let given_up = kv.write(&ns(), Batch::new().put("a", late)).await;
        assert!(matches!(given_up, Err(KvError::Engine(_))));
        assert!(begun.elapsed() < Duration::from_secs(7));
        let kv_again = Arc::clone(&kv);
        let reading = async move {
            loop {
                if let Ok(found) = kv_again.get(&ns(), b"a").await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (found, ()) = tokio::join!(tokio::time::timeout(PATIENCE, reading), async { server.thaw() });
        let found = found.expect("it is read again");
        for _ in 0..50 {
            assert!(kv.get(&ns(), b"a").await.unwrap() == found, "round {round}: it changed behind the reader");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        kv.write(&ns(), Batch::new().put("a", "new")).await.unwrap();
        assert_eq!(kv.get(&ns(), b"a").await.unwrap().as_deref(), Some(&b"new"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_is_made_anew() {
    let server = RedisServer::start();
    let kv = engine::redis(&server).await;
    kv.write(&ns(), Batch::new().put("a", "1")).await.unwrap();
    for _ in 0..5 {
        server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let read = kv.get(&ns(), b"a").await.expect("reads are asked again");
        assert_eq!(read.as_deref(), Some(&b"1"[..]));
        server.ask(&["SCRIPT", "FLUSH"]);
        kv.write(&ns(), Batch::new().put("a", "1")).await.expect("scripts are sent again");
    }
}

#[tokio::test]
async fn a_server_without_a_file_is_refused_unless_allowed() {
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let error = refused(&server.url()).await;
    assert!(matches!(error, OpenError::NoAof { .. }), "{error:?}");
    let text = error.to_string();
    for word in ["REDIS_URL", "127.0.0.1", "appendonly yes", "REDIS_ALLOW_NO_AOF"] {
        assert!(text.contains(word), "{text}");
    }
    let kv = RedisStore::open(&server.url().into(), true).await.unwrap();
    kv.write(&ns(), Batch::new().put("a", "1")).await.unwrap();
    // Hosted servers hide CONFIG; INFO tells it then.
    for (appendonly, taken) in [("no", false), ("yes", true)] {
        let server = RedisServer::start_with(&["--appendonly", appendonly, "--rename-command", "CONFIG", ""]);
        assert_eq!(RedisStore::open(&server.url().into(), false).await.is_ok(), taken, "appendonly {appendonly}");
    }
}

#[tokio::test]
async fn a_server_that_turned_its_file_off_is_refused_when_it_comes_back() {
    let server = RedisServer::start();
    let kv = engine::redis(&server).await;
    server.ask(&["CONFIG", "SET", "appendonly", "no"]);
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(matches!(kv.get(&ns(), b"a").await, Err(KvError::Engine(_))));
    server.ask(&["CONFIG", "SET", "appendonly", "yes"]);
    back(&kv).await;
}

#[tokio::test]
async fn nobody_there_is_told_without_the_password() {
    let begun = Instant::now();
    let error = refused("redis://user:hunter2@127.0.0.1:1/3").await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("REDIS_URL: Redis at 127.0.0.1:1/3 can't be reached"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    assert!(begun.elapsed() >= Duration::from_secs(9), "it may be starting: {:?}", begun.elapsed());
    let error = refused("redis://127.0.0.1:1/one").await;
    assert!(matches!(error, OpenError::Url(_)), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--requirepass", "right"]);
    let at = server.url().replace("redis://", "");
    for url in [format!("redis://:hunter2@{at}"), format!("redis://{at}")] {
        let begun = Instant::now();
        let error = refused(&url).await;
        assert!(matches!(error, OpenError::Refused { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    RedisStore::open(&format!("redis://:right@{at}").as_str().into(), false).await.unwrap();
}

/// A certificate of its own authority for `127.0.0.1`: the authority and the certificate in PEM, and the key.
fn certificate() -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    (root.pem(), leaf.pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_server_behind_tls_is_used_when_its_certificate_is_trusted_and_by_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (root, leaf, key) = certificate();
    for (name, text) in [("root.pem", &root), ("leaf.pem", &leaf), ("key.pem", &key)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (leaf, key, ca, tls_port) = (path("leaf.pem"), path("key.pem"), path("root.pem"), port.to_string());
    let tls = ["--tls-port", &tls_port, "--tls-cert-file", &leaf, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let options = [&tls[..], &["--tls-auth-clients", "no", "--appendonly", "yes", "--appendfsync", "always"]].concat();
    let mut server = RedisServer::start_with(&options);
    let url = format!("rediss://127.0.0.1:{port}/0");

    // The public authorities do not know it.
    let error = refused(&url).await;
    assert!(matches!(error, OpenError::Unreachable { .. } | OpenError::Refused { .. }), "{error:?}");
    let open =
        async |root: String| RedisStore::open_trusting(&url.as_str().into(), false, Some(root.into_bytes())).await;
    assert!(matches!(
        open("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()).await,
        Err(OpenError::Root(_))
    ));

    let kv: Arc<dyn Kv> = Arc::new(open(root).await.unwrap());
    kv.write(&ns(), Batch::new().put("a", "1")).await.unwrap();
    server.kill();
    assert!(kv.get(&ns(), b"a").await.is_err());
    server.restart();
    back(&kv).await;
    assert_eq!(kv.get(&ns(), b"a").await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn one_gateway_at_a_time() {
    let server = RedisServer::start();
    let first = engine::redis(&server).await;
    first.write(&ns(), Batch::new().put("a", "1")).await.unwrap();
    let error = refused(&server.url()).await;
    assert!(matches!(error, OpenError::Held { .. }), "{error:?}");
    first.write(&ns(), Batch::new().put("a", "2")).await.expect("the first one goes on");
    // Another database is another store.
    let other = server.url().replace("/0", "/1");
    RedisStore::open(&other.as_str().into(), false).await.unwrap();

    first.close().await.unwrap();
    let begun = Instant::now();
    let second = engine::redis(&server).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "an orderly end leaves no lease");
    assert_eq!(second.get(&ns(), b"a").await.unwrap().as_deref(), Some(&b"2"[..]));
    for _ in 0..2 {
        let late = first.write(&ns(), Batch::new().put("a", "late")).await;
        assert!(matches!(late, Err(KvError::Engine(_))), "{late:?}");
    }
    second.write(&ns(), Batch::new().put("a", "3")).await.unwrap();
    // As a killed one: its lease runs out.
    drop(second);
    let third = engine::redis(&server).await;
    assert_eq!(third.get(&ns(), b"a").await.unwrap().as_deref(), Some(&b"3"[..]));
}

#[tokio::test]
async fn an_emptied_server_is_not_begun_anew_by_the_running_gateway() {
    let server = RedisServer::start();
    let kv = engine::redis(&server).await;
    kv.write(&ns(), Batch::new().put("a", "1")).await.unwrap();
    server.ask(&["FLUSHALL"]);
    for _ in 0..3 {
        assert!(matches!(kv.write(&ns(), Batch::new().put("a", "2")).await, Err(KvError::Engine(_))));
    }
    assert_eq!(server.ask(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn lost_writes_are_told_to_each_namespace_once() {
    let server = RedisServer::start();
    let kv = engine::redis(&server).await;
    let other = Namespace::credentials("other");
    for ns in [ns(), other.clone()] {
        kv.write(&ns, Batch::new().put("a", "1")).await.unwrap();
    }
    // As a server that comes back on an older file.
    server.ask(&["SET", "wa-gateway:sequence", "1"]);
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    kv.get(&ns(), b"a").await.unwrap();
    for ns in [ns(), other] {
        assert!(matches!(kv.write(&ns, Batch::new().put("a", "2")).await, Err(KvError::Engine(_))));
        kv.write(&ns, Batch::new().put("a", "2")).await.unwrap();
    }
    kv.write(&Namespace::credentials("new"), Batch::new().put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_other_programs_keep_their_keys() {
    let server = RedisServer::start();
    server.ask(&["SET", "cache:1", "x"]);
    let kv = engine::redis(&server).await;
    kv.write(&ns(), Batch::new().put("a", "1")).await.unwrap();
    kv.drop_namespace(&ns()).await.unwrap();
    kv.close().await.unwrap();
    assert_eq!(server.ask(&["GET", "cache:1"]), "x");
    let keys = server.ask(&["KEYS", "*"]);
    assert!(keys.lines().all(|key| key == "cache:1" || key.starts_with("wa-gateway:")), "{keys}");
    assert!(!keys.contains(ns().as_str()), "{keys}");
    assert_eq!(server.ask(&["GET", "wa-gateway:schema"]), "1");
    server.ask(&["SET", "wa-gateway:schema", "2"]);
    let error = refused(&server.url()).await;
    assert!(matches!(error, OpenError::NewerSchema { found: 2, known: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn an_orderly_stop_of_the_server_loses_nothing() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let kv = engine::redis(&server).await;
    kv.write(&ns(), Batch::new().put("a", "1").buffered()).await.unwrap();
    server.terminate();
    assert!(kv.write(&ns(), Batch::new().put("a", "2")).await.is_err());
    server.restart();
    back(&kv).await;
    assert_eq!(kv.get(&ns(), b"a").await.unwrap().as_deref(), Some(&b"1"[..]));
}
