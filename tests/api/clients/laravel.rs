//! The Laravel programs: a service class, a queue job, a controller.

use serde_json::{Value, json};

use super::super::support::{Files, STEP, TestGateway, encode};
use super::{CUSTOMER, NUMBER, Program, attachment, json_of, pdf, photo, sent_id};

/// An owner without a key, as this program sends none.
async fn open_gateway() -> TestGateway {
    TestGateway::start_with(whatsapp_simulator::Options::default(), &[("KEY", ""), ("ALLOW_NO_KEY", "true")]).await
}

fn connected(list: &Value) -> Vec<&str> {
    let rows = list["data"].as_array().unwrap().iter();
    rows.filter(|row| row["status"] == "connected").map(|row| row["session"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn laravel_service() {
    let gateway = open_gateway().await;
    let service = Program::new(&gateway, &[("Accept", "application/json")]);
    let list = json_of(service.get("/session").await).await;
    assert!(connected(&list).is_empty());
    gateway.pair("toko", NUMBER).await;
    let customer = gateway.simulator.phone(CUSTOMER);
    let list = json_of(service.get("/session").await).await;
    let session = connected(&list)[0];
    let text = json!({ "session": session, "to": CUSTOMER, "text": "Pesanan siap" });
    assert!(service.post("/message/send-text", text).await.status().is_success());
    assert_eq!(customer.next_message(STEP).await.unwrap().text.as_deref(), Some("Pesanan siap"));

    let files = Files::start().await;
    let image_url = files.put("nota.jpg", "image/jpeg", photo());
    let image = json!({ "session": session, "to": CUSTOMER, "text": "Nota", "image_url": image_url });
    assert!(service.post("/message/send-image", image).await.status().is_success());
    let (nota, bytes) = attachment(&customer).await;
    assert_eq!(bytes, photo());
    assert_eq!((nota.mimetype.as_deref(), nota.caption.as_deref()), (Some("image/jpeg"), Some("Nota")));
    let document_url = files.put("unduh", "application/octet-stream", pdf());
    let document = json!({
        "session": session, "to": CUSTOMER, "text": "Faktur", "document_url": document_url, "document_name": "faktur 7.pdf",
    });
    assert!(service.post("/message/send-document", document).await.status().is_success());
    let (invoice, bytes) = attachment(&customer).await;
    assert_eq!(bytes, pdf());
    assert_eq!((invoice.file_name.as_deref(), invoice.caption.as_deref()), (Some("faktur 7.pdf"), Some("Faktur")));
    gateway.finish().await;
}

/// Queues itself again on every answer that is not 2xx: what can never work must say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_job() {
    let gateway = open_gateway().await;
    gateway.pair("toko", NUMBER).await;
    let customer = gateway.simulator.phone(CUSTOMER);
    let job = Program::new(&gateway, &[("Accept", "application/json")]);
    let body = json!({ "session": "toko", "to": CUSTOMER, "text": "Tagihan", "is_group": false });
    sent_id(job.post("/message/send-text", body).await).await;
    assert_eq!(customer.next_message(STEP).await.unwrap().text.as_deref(), Some("Tagihan"));

    // The queue runs a job twice when its worker dies: with a key the customer gets one message.
    let keyed = Program::new(&gateway, &[("Accept", "application/json"), ("Idempotency-Key", "job-7")]);
    let body = json!({ "session": "toko", "to": CUSTOMER, "text": "Pengingat", "is_group": false });
    let id = sent_id(keyed.post("/message/send-text", body.clone()).await).await;
    assert_eq!(sent_id(keyed.post("/message/send-text", body).await).await, id);
    assert_eq!(customer.next_message(STEP).await.unwrap().text.as_deref(), Some("Pengingat"));

    let files = Files::start().await;
    let (photo_url, pdf_url) =
        (files.put("a.jpg", "image/jpeg", photo()), files.put("a.pdf", "application/pdf", pdf()));
    let image = json!({ "session": "toko", "to": CUSTOMER, "text": "", "image_url": photo_url, "is_group": false });
    let id = sent_id(job.post("/message/send-image", image).await).await;
    assert_eq!(attachment(&customer).await.1, photo());
    let document = json!({
        "session": "toko", "to": CUSTOMER, "text": "", "document_url": pdf_url, "document_name": "a.pdf", "is_group": false,
    });
    assert_ne!(sent_id(job.post("/message/send-document", document).await).await, id);
    let (file, bytes) = attachment(&customer).await;
    assert_eq!((file.file_name.as_deref(), bytes), (Some("a.pdf"), pdf()));

    for (hopeless, part) in [
        (json!({ "session": "gone", "to": CUSTOMER, "text": "x", "is_group": false }), "Session does not exist"),
        (json!({ "session": "toko", "to": "", "text": "x", "is_group": false }), "\"to\""),
        (json!({ "session": "toko", "to": "not a number", "text": "x", "is_group": false }), "\"to\""),
        (json!({ "session": "toko", "to": CUSTOMER, "text": null, "is_group": false }), "'text'"),
    ] {
        let refused = job.post("/message/send-text", hopeless.clone()).await;
        assert_eq!(refused.status(), 400, "{hopeless}");
        let message = json_of(refused).await["message"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{message}");
    }
    for (path, hopeless, part) in [
        (
            "/message/send-image",
            json!({ "session": "toko", "to": CUSTOMER, "text": "", "is_group": false }),
            "image_url",
        ),
        (
            "/message/send-document",
            json!({ "session": "toko", "to": CUSTOMER, "text": "", "document_url": pdf_url, "is_group": false }),
            "document_name",
        ),
    ] {
        let refused = job.post(path, hopeless).await;
        assert_eq!(refused.status(), 400, "{path}");
        let message = json_of(refused).await["message"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{message}");
    }
    gateway.finish().await;
}

/// Starts by GET, logs out by GET when that does not give a page, and starts again; sends by GET.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn laravel_controller() {
    let gateway = open_gateway().await;
    let controller = Program::new(&gateway, &[]);
    let start = format!("/session/start?session={NUMBER}");
    let page = controller.get(&start).await;
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("data:image/png;base64,"));
    let qr = gateway.api.qr(NUMBER).await;
    gateway.simulator.scan(&qr, NUMBER).await.unwrap();
    gateway.api.wait_status(NUMBER, "connected").await;

    let customer = gateway.simulator.phone(CUSTOMER);
    for (written, text) in [("Halo+kak+caf\u{e9}", "Halo kak caf\u{e9}"), ("a%20b%2Bc", "a b+c")] {
        let path = format!("/message/send-text?session={NUMBER}&to={CUSTOMER}&text={written}");
        sent_id(controller.get(&path).await).await;
        assert_eq!(customer.next_message(STEP).await.unwrap().text.as_deref(), Some(text));
    }

    // As PHP's streams send it: what is not encoded goes out as it is.
    let path = format!("/message/send-text?session={NUMBER}&to={CUSTOMER}&text=Halo+caf\u{e9}");
    let answer = gateway.api.raw(&path).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(customer.next_message(STEP).await.unwrap().text.as_deref(), Some("Halo caf\u{e9}"));

    assert_eq!(controller.get(&start).await.status(), 400);
    let out = controller.get(&format!("/session/logout?session={}", encode(NUMBER))).await;
    assert_eq!(json_of(out).await, json!({ "data": "success" }));
    let again = controller.get(&start).await;
    assert_eq!(again.status(), 200);
    assert!(again.text().await.unwrap().contains("data:image/png;base64,"));
    gateway.finish().await;
}
