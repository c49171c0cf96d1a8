//! The TypeScript programs: a server and a client class.

use std::time::Duration;

use serde_json::json;

use super::super::support::{Files, KEY, STEP, TestGateway};
use super::{CUSTOMER, NUMBER, Program, attachment, json_of, pdf, photo, sent_id};

/// Sends its key twice, takes a redirect for a bad key, and logs out what already exists until it gets a code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typescript_server() {
    let gateway = TestGateway::start().await;
    let server = Program::new(&gateway, &[("key", KEY), ("x-api-key", KEY)]);
    let session = json!({ "session": "crm" });
    assert_eq!(server.get("/session/crm").await.status(), 404);
    let qr = json_of(server.post("/session/start", session.clone()).await).await["qr"].as_str().unwrap().to_owned();
    gateway.simulator.scan(&qr, NUMBER).await.unwrap();
    gateway.api.wait_status("crm", "connected").await;
    let detail = json_of(server.get("/session/crm").await).await["data"].clone();
    assert_eq!(detail["status"], "connected");
    assert_eq!(detail["connection"]["isConnected"], true);
    assert_eq!(detail["details"]["phoneNumber"], NUMBER);

    let customer = gateway.simulator.phone(CUSTOMER);
    let text = json!({ "session": "crm", "to": CUSTOMER, "text": "Hi" });
    let id = sent_id(server.post("/message/send-text", text).await).await;
    assert_eq!(customer.next_message(STEP).await.unwrap().id, id);

    // A new link is wanted while the old one lives.
    let mut code = None;
    for _ in 0..4 {
        let answer = server.post("/session/start", session.clone()).await;
        let body = json_of(answer).await;
        if let Some(qr) = body["qr"].as_str() {
            code = Some(qr.to_owned());
            break;
        }
        assert!(body["message"].as_str().unwrap().to_lowercase().contains("already exist"), "{body}");
        assert_eq!(server.post("/session/logout", session.clone()).await.status(), 200);
        // The program's own pause.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert!(code.is_some_and(|code| code != qr), "a fresh code after the logout");

    let stranger = Program::new(&gateway, &[("key", "wrong"), ("x-api-key", "wrong")]);
    assert_eq!(stranger.get("/session").await.status(), 401);
    gateway.finish().await;
}

/// Every call of the class.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typescript_client() {
    let gateway = TestGateway::start().await;
    let class = Program::new(&gateway, &[("key", KEY)]);
    let start = json_of(class.post("/session/start", json!({ "session": "main" })).await).await;
    gateway.simulator.scan(start["qr"].as_str().unwrap(), NUMBER).await.unwrap();
    gateway.api.wait_status("main", "connected").await;
    let list = json_of(class.get("/session").await).await;
    assert_eq!(list["data"][0]["session"], "main");
    assert_eq!(json_of(class.get("/session/main").await).await["success"], true);
    let customer = gateway.simulator.phone(CUSTOMER);
    let text = json!({ "session": "main", "to": CUSTOMER, "text": "Hi" });
    sent_id(class.post("/message/send-text", text).await).await;
    assert_eq!(customer.next_message(STEP).await.unwrap().text.as_deref(), Some("Hi"));

    let files = Files::start().await;
    let image_url = files.put("photo.jpg", "image/jpeg", photo());
    let image = json!({ "session": "main", "to": CUSTOMER, "text": "Look", "image_url": image_url });
    sent_id(class.post("/message/send-image", image).await).await;
    let (info, bytes) = attachment(&customer).await;
    assert_eq!((info.caption.as_deref(), bytes), (Some("Look"), photo()));
    let document_url = files.put("terms.pdf", "application/pdf", pdf());
    let document = json!({
        "session": "main", "to": CUSTOMER, "text": "Read", "document_url": document_url, "document_name": "Terms.pdf",
    });
    sent_id(class.post("/message/send-document", document).await).await;
    let (info, bytes) = attachment(&customer).await;
    assert_eq!((info.file_name.as_deref(), bytes), (Some("Terms.pdf"), pdf()));

    // Its number check: an error of any kind means that the number is not on WhatsApp.
    let check = async |number: &str| {
        let target = format!("{number}@s.whatsapp.net");
        class.post("/profile", json!({ "session": "main", "target": target })).await
    };
    let known = check(CUSTOMER).await;
    assert_eq!(known.status(), 200);
    let shown = json_of(known).await["data"].clone();
    assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), ["profilePictureUrl", "status"]);
    let unknown = check("6289999999999").await;
    assert_eq!(unknown.status(), 400);
    assert_eq!(json_of(unknown).await["message"], "Target is not registered");

    let out = class.post("/session/logout", json!({ "session": "main" })).await;
    assert_eq!(json_of(out).await, json!({ "data": "success" }));
    let deleted = class.delete("/session/main").await;
    assert_eq!(deleted.status(), 200);
    assert_eq!(json_of(deleted).await["message"], "Session 'main' deleted successfully");
    assert_eq!(class.delete("/session/main").await.status(), 404);
    gateway.finish().await;
}
