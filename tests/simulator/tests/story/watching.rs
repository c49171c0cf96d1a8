//! The control port does what the handle does.

use serde_json::{Value, json};
use whatsapp_simulator::{Options, Simulator};

use crate::companion::{Companion, LIMIT};
use crate::http::exchange;

const NUMBER: &str = "6281111111111";
const FRIEND: &str = "6282222222222";

async fn request(base: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Vec<u8>) {
    let body = body.map(Value::to_string).unwrap_or_default();
    exchange(base, method, path, "content-type: application/json\r\n", body.as_bytes()).await
}

async fn call(base: &str, method: &str, path: &str, body: Value) -> Value {
    let (status, body) = request(base, method, path, (method == "POST").then_some(&body)).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn everything_goes_over_the_control_port_too() {
    let simulator = Simulator::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let base = simulator.control_url();
    let account =
        call(&base, "POST", "/account", json!({"phone": NUMBER, "push_name": "Ann", "lid_migrated": true})).await;
    assert_eq!(account["push_name"], "Ann");
    let mut companion = Companion::new();
    companion.register(&simulator).await;
    let scan = json!({"qr": companion.code(), "phone": NUMBER});
    let (scanned, ()) = tokio::join!(call(&base, "POST", "/scan", scan), companion.prove(true));
    assert_eq!(scanned["jid"], format!("{NUMBER}:1@s.whatsapp.net"));
    let (status, _) = request(&base, "POST", "/scan", Some(&json!({"qr": "x", "phone": NUMBER}))).await;
    assert_eq!(status, 400);
    let devices = call(&base, "GET", &format!("/devices?phone={NUMBER}"), Value::Null).await;
    assert_eq!(devices[0]["key_index"], 1);
    let fault = json!({"fault": "slow_answers", "millis": 5, "phone": NUMBER, "device": 1, "count": 2});
    let fault = call(&base, "POST", "/fault", fault).await;
    assert!(fault["id"].is_u64());
    call(&base, "DELETE", "/faults", Value::Null).await;

    call(&base, "POST", "/say", json!({"phone": FRIEND, "to": NUMBER, "text": "hi"})).await;
    simulator.phone(NUMBER).next_message(LIMIT).await.unwrap();
    let inbox = call(&base, "GET", &format!("/inbox?phone={NUMBER}"), Value::Null).await;
    assert_eq!(inbox[0]["text"], "hi");
    assert_eq!(inbox[0]["media"], Value::Null);

    let media = json!({
        "phone": FRIEND, "to": NUMBER, "kind": "document", "mimetype": "text/plain", "base64": "aGVsbG8=",
        "caption": "read me", "file_name": "hello.txt"
    });
    let id = call(&base, "POST", "/send-media", media).await["id"].as_str().unwrap().to_owned();
    simulator.phone(NUMBER).next_message(LIMIT).await.unwrap();
    let got = call(&base, "GET", &format!("/inbox?phone={NUMBER}"), Value::Null).await[1].clone();
    assert_eq!((&got["media"]["file_name"], &got["media"]["caption"]), (&json!("hello.txt"), &json!("read me")));
    let download = format!("/download?phone={NUMBER}&id={id}");
    assert_eq!(request(&base, "GET", &download, None).await, (200, b"hello".to_vec()));
    let again = json!({"phone": NUMBER, "to": FRIEND, "message": got["message"]});
    call(&base, "POST", "/send", again).await;
    assert_eq!(simulator.phone(FRIEND).next_message(LIMIT).await.unwrap().media().unwrap().length, Some(5));
    let forget = json!({"direct_path": got["media"]["direct_path"]});
    assert_eq!(call(&base, "POST", "/forget-media", forget).await["forgotten"], true);
    assert_eq!(request(&base, "GET", &download, None).await.0, 400);

    let picture = json!({"phone": FRIEND, "base64": "aW1hZ2U="});
    let picture = call(&base, "POST", "/picture", picture).await["id"].as_str().unwrap().to_owned();
    let path = format!("/pictures/{picture}.jpg");
    assert_eq!(request(&simulator.media_url(), "GET", &path, None).await, (200, b"image".to_vec()));
    call(&base, "POST", "/picture", json!({"phone": FRIEND, "hidden": true})).await;
    call(&base, "POST", "/about", json!({"phone": FRIEND, "text": "busy", "t": 1_700_000_000, "hidden": true})).await;
    let (status, _) = request(&base, "POST", "/link", Some(&json!({"code": "ABCD1234", "phone": NUMBER}))).await;
    assert_eq!(status, 400, "nobody shows a code");

    let group = json!({"subject": "g", "members": [NUMBER, FRIEND], "lid": true});
    assert!(call(&base, "POST", "/group", group).await["jid"].as_str().unwrap().ends_with("@g.us"));

    call(&base, "POST", "/kick", json!({"phone": NUMBER, "device": 1, "how": "failure", "code": 403})).await;
    call(&base, "POST", "/unlink", json!({"phone": NUMBER, "device": 1})).await;
    assert!(simulator.devices(NUMBER).is_empty());
    assert_eq!(call(&base, "GET", "/counters", Value::Null).await["pairings"], 1);
    assert_eq!(call(&base, "GET", "/features", Value::Null).await["qr-pairing"], json!(["other"]));
    let (_, pem) = request(&base, "GET", "/root.pem", None).await;
    assert_eq!(Some(String::from_utf8(pem).unwrap()), simulator.root_pem());
    simulator.shutdown().await;
}

#[tokio::test]
async fn many_phones_are_told_and_asked_at_once() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let base = simulator.control_url();
    let line = |phone: &str, text: &str| json!({"phone": phone, "to": NUMBER, "text": text});
    call(&base, "POST", "/account", json!({"phone": NUMBER})).await;
    let lines = json!([line(FRIEND, "one"), line("x", "nobody's"), line(FRIEND, "two")]);
    let said = call(&base, "POST", "/say-all", json!({"lines": lines, "per_second": 1000, "at_once": 2})).await;
    let said = said["said"].as_array().unwrap();
    assert!(said[1]["error"].as_str().unwrap().contains("no phone number"), "{}", said[1]);
    assert!(said[0]["at_us"].as_u64().unwrap() < said[2]["at_us"].as_u64().unwrap());
    for _ in 0..2 {
        simulator.phone(NUMBER).next_message(LIMIT).await.unwrap();
    }
    let heard = call(&base, "POST", "/heard", json!({"phones": [NUMBER, FRIEND]})).await;
    let told = |texts: Value| json!({"texts": texts, "repeated_ids": 0, "repeated_keys": 0, "unproven": 0});
    let texts = json!([[said[0]["id"], "one"], [said[2]["id"], "two"]]);
    assert_eq!(heard["phones"], json!([told(texts), told(json!([]))]));
    assert_eq!(
        call(&base, "GET", "/queued", Value::Null).await,
        json!({"queued": 0, "messages": 0, "receipts": 0, "notifications": 0})
    );
    let (status, _) = request(&base, "POST", "/say-all", Some(&json!({"lines": [], "per_second": 0}))).await;
    assert_eq!(status, 400);
    simulator.shutdown().await;
}

#[tokio::test]
async fn media_is_served_in_ranges_on_the_chat_port_too() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let path = simulator.network().put_media("image", b"0123456789").unwrap();
    let chat = simulator.ws_url().replace("ws://", "http://").replace("/ws/chat", "");
    for base in [simulator.media_url(), chat] {
        assert_eq!(request(&base, "GET", &format!("{path}?auth=x"), None).await, (200, b"0123456789".to_vec()));
        assert_eq!(request(&base, "GET", "/v/none.enc", None).await.0, 404);
    }
    simulator.shutdown().await;
}
