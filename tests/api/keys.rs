//! Keys with names: whom they let in, to which sessions, for how long, and what the log tells of them.

use serde_json::{Value, json};
use sha2::Digest as _;
use wa_gateway::{Config, Gateway};
use whatsapp_simulator::phone::{Media, MediaKind};
use whatsapp_simulator::{Options, Simulator};

use super::support::{Api, KEY, Process, Receiver, TestGateway, base_settings, eventually};

const MINE: &str = "6281234500001";
const YOURS: &str = "6281234500002";
const FRIEND: &str = "6281234500003";

/// Makes a key and gives its secret.
async fn key(api: &Api, body: Value) -> String {
    let made = api.post("/keys", body).await.expect(200).json();
    made["data"]["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

fn hash(key: &str) -> String {
    hex::encode(sha2::Sha256::digest(key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_its_own_sessions_and_survives_a_restart() {
    let mut gateway = TestGateway::start().await;
    gateway.pair("mine", MINE).await;
    gateway.pair("yours", YOURS).await;
    gateway.simulator.phone(FRIEND);
    let secret = key(&gateway.api, json!({ "name": "shop", "sessions": ["yours", "team-*"] })).await;
    assert!(secret.len() > 40);
    let master = gateway.api.clone();
    let listed = master.get("/keys").await.expect(200);
    assert!(!listed.body.contains(&secret), "a key is told once");
    let row = &listed.json()["data"][0];
    assert_eq!((&row["name"], &row["sessions"]), (&json!("shop"), &json!(["yours", "team-*"])));
    assert_eq!((&row["scopes"], &row["source"]), (&json!(["read", "send", "manage"]), &json!("api")));

    for round in 0..2 {
        let shop = gateway.api.with_key(&secret);
        let list = shop.get("/session").await.expect(200).json();
        let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|row| row["session"].clone()).collect();
        assert_eq!(names, ["yours"]);
        shop.get("/session/yours").await.expect(200);
        for name in ["mine", "ghost"] {
            assert_eq!(
                shop.get(&format!("/session/{name}")).await.expect(404).message(),
                format!("Session '{name}' not found")
            );
            assert_eq!(shop.delete(name).await.expect(404).message(), format!("Session '{name}' not found"));
            assert_eq!(shop.text(name, FRIEND, "hi").await.expect(400).message(), "Session does not exist");
            shop.post("/session/logout", json!({ "session": name })).await.expect(200);
            shop.start(name).await.expect(403);
        }
        shop.get("/keys").await.expect(403);
        shop.post("/keys", json!({ "name": "more" })).await.expect(403);
        shop.send(reqwest::Method::DELETE, "/keys/shop", None).await.expect(403);
        gateway.api.wait_status("yours", "connected").await;
        shop.text("yours", FRIEND, "hi").await.expect(200);
        // Nothing was done to it; after the restart it may still be on its way.
        gateway.api.wait_status("mine", "connected").await;
        if round == 0 {
            gateway.restart().await;
        }
    }
    let shop = gateway.api.with_key(&secret);
    shop.qr("team-1").await;
    shop.delete("team-1").await.expect(200);

    let gone = gateway.api.send(reqwest::Method::DELETE, "/keys/shop", None).await.expect(200).json();
    assert_eq!((&gone["success"], &gone["data"]["name"]), (&json!(true), &json!("shop")));
    shop.get("/session").await.expect(401);
    gateway.api.send(reqwest::Method::DELETE, "/keys/shop", None).await.expect(404);
    gateway.restart().await;
    gateway.api.with_key(&secret).get("/session").await.expect(401);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_a_key_is_refused_by_its_member() {
    let gateway = TestGateway::start().await;
    for (body, member) in [
        (json!({}), "name"),
        (json!({ "name": 5 }), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": "KEY" }), "name"),
        (json!({ "name": "a b" }), "name"),
        (json!({ "name": "a", "sessions": [] }), "sessions"),
        (json!({ "name": "a", "sessions": [1] }), "sessions"),
        (json!({ "name": "a", "sessions": {} }), "sessions"),
        (json!({ "name": "a", "scopes": ["admin"] }), "scopes"),
        (json!({ "name": "a", "scopes": [] }), "scopes"),
    ] {
        let message = gateway.api.post("/keys", body.clone()).await.expect(400).message();
        assert!(message.contains(&format!("'{member}'")), "{body}: {message}");
    }
    key(&gateway.api, json!({ "name": "a", "sessions": "one", "scopes": "read" })).await;
    gateway.api.post("/keys", json!({ "name": "a" })).await.expect(409);
    let row = gateway.api.get("/keys").await.expect(200).json()["data"][0].clone();
    assert_eq!((&row["sessions"], &row["scopes"]), (&json!(["one"]), &json!(["read"])));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_keys_is_read_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let write = |keys: Value| std::fs::write(&file, keys.to_string()).unwrap();
    write(json!([{ "name": "reader", "hash": hash("first"), "scopes": ["read"] }]));
    let gateway = TestGateway::start_with(Options::default(), &[("KEYS_FILE", file.to_str().unwrap())]).await;
    gateway.api.with_key("first").get("/session").await.expect(200);
    gateway.api.with_key("first").start("a").await.expect(403);
    let row = gateway.api.get("/keys").await.expect(200).json()["data"][0].clone();
    assert_eq!((&row["name"], &row["source"]), (&json!("reader"), &json!("file")));
    gateway.api.send(reqwest::Method::DELETE, "/keys/reader", None).await.expect(409);
    write(json!({ "keys": [{ "name": "second", "hash": hash("second"), "scopes": ["read"] }] }));
    let read_again = async |name: &str| {
        eventually("the file to be read again", || async {
            (gateway.api.get("/keys").await.expect(200).json()["data"][0]["name"] == name).then_some(())
        })
        .await;
    };
    read_again("second").await;
    gateway.api.with_key("second").get("/session").await.expect(200);
    gateway.api.with_key("first").get("/session").await.expect(401);
    // What can't be used changes nothing.
    std::fs::write(&file, "{").unwrap();
    write(json!([{ "name": "third", "hash": hash("third") }]));
    read_again("third").await;
    gateway.api.with_key("third").get("/session").await.expect(200);
    gateway.finish().await;

    std::fs::write(&file, r#"[{"name":"a","hash":"plain text"}]"#).unwrap();
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.push(("KEYS_FILE".to_owned(), file.display().to_string()));
    let refused = Gateway::bind(Config::from_vars(settings).unwrap()).await.unwrap_err();
    let told = format!("{refused:#}");
    assert!(told.contains("keys.json") && told.contains("key 1: hash") && !told.contains("plain text"), "{told}");
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guesser_is_told_to_wait_and_its_neighbours_are_not() {
    let gateway = TestGateway::start_with(Options::default(), &[("TRUST_PROXY", "1")]).await;
    let ask = async |key: &str, client: &str| {
        let request = gateway.api.client.get(format!("{}/session", gateway.api.base));
        let response = request.header("key", key).header("x-forwarded-for", client).send().await.unwrap();
        let wait = response.headers().get("retry-after").map(|wait| wait.to_str().unwrap().parse::<u64>().unwrap());
        (response.status().as_u16(), wait)
    };
    assert_eq!(ask(KEY, "192.0.2.1").await, (200, None));
    let mut refused = 0;
    while ask("wrong", "6.6.6.6, 192.0.2.1").await.0 == 401 {
        refused += 1;
        assert!(refused < 100, "nobody stops the guesser");
    }
    let (status, wait) = ask("wrong", "7.7.7.7, 192.0.2.1").await;
    assert!(status == 429 && (1..=60).contains(&wait.unwrap()), "{status} {wait:?}");
    assert_eq!(ask("", "192.0.2.1").await.0, 401, "no key is no guess");
    assert_eq!(ask(KEY, "192.0.2.1").await.0, 200, "who was known there goes on");
    let made = key(&gateway.api, json!({ "name": "new" })).await;
    assert_eq!(ask(&made, "192.0.2.1").await.0, 200, "nobody guesses this one");
    assert_eq!(ask("wrong", "192.0.2.2").await.0, 401, "others have their own count");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_setting_files_are_for_the_keys_of_their_session() {
    let gateway = TestGateway::start_with(Options::default(), &[("MEDIA_REQUIRE_KEY", "true")]).await;
    gateway.pair("mine", MINE).await;
    let friend = gateway.simulator.phone(FRIEND);
    let picture = Media::new(MediaKind::Image, vec![7; 5000], "image/jpeg");
    let id = friend.sends_media(MINE, &picture).await.unwrap();
    eventually("the webhook of the picture", || async {
        gateway.receiver.messages("mine").into_iter().find(|body| body["id"] == id.as_str())
    })
    .await;
    let path = format!("/media/{id}.jpg");
    let status = async |key: &str| {
        gateway.api.client.get(format!("{}{path}?key={key}", gateway.api.base)).send().await.unwrap().status().as_u16()
    };
    assert_eq!((status("").await, status("wrong").await, status(KEY).await), (401, 401, 200));
    for (name, sessions, scopes, expected) in [
        ("own", json!(["mine"]), json!(["read"]), 200),
        ("beginning", json!(["mi*"]), json!(["read"]), 200),
        ("all", json!(["*"]), json!(["read"]), 200),
        ("other", json!(["yours"]), json!(["read"]), 404),
        ("sender", json!(["mine"]), json!(["send"]), 403),
    ] {
        let secret = key(&gateway.api, json!({ "name": name, "sessions": sessions, "scopes": scopes })).await;
        assert_eq!(status(&secret).await, expected, "{name}");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_who_did_what_and_no_key() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    // The master key would be found in other words.
    settings.retain(|(name, _)| name != "KEY");
    let master = "a-master-key-that-stands-nowhere-else";
    settings.extend(
        [("KEY", master), ("RUST_LOG", "wa_gateway=trace,tower_http=trace,axum=trace,hyper=debug")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let process = Process::start(&settings, folder.path()).await;
    let api = process.api.with_key(master);
    let secret = key(&api, json!({ "name": "helper" })).await;
    let helper = process.api.with_key(&secret);
    helper.qr("line\nbreak").await;
    helper.delete("line%0Abreak").await.expect(200);
    process.api.with_key("not-a-key-of-ours").get("/session").await.expect(401);
    process.api.with_key("").get(&format!("/session/logout?session=x&key={secret}")).await.expect(200);
    process.api.with_key("").get("/session?key=not-a-key-of-ours-either").await.expect(401);
    api.send(reqwest::Method::DELETE, "/keys/helper", None).await.expect(200);
    for told in ["key created", "start", "delete", "key removed", "helper", r"line\nbreak", "wrong key", "first use"] {
        process.says(told).await;
    }
    let log = process.log();
    for kept in [master, &secret, "not-a-key-of-ours"] {
        assert!(!log.contains(kept), "a key stands in\n{log}");
    }
    assert!(!log.contains("line\nbreak"), "a name made a line of its own:\n{log}");
    drop(process);
    simulator.shutdown().await;
}
