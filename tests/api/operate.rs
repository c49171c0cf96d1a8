//! What the owner of the machine asks: liveness, readiness, numbers.

use serde_json::{Value, json};
use whatsapp_simulator::{Kick, Options};

use super::support::{STEP, TestGateway, eventually};

const NUMBER: &str = "6281234500301";
const FRIEND: &str = "6281234500302";

/// The value of a metric; labels as they are written.
pub(crate) fn metric(page: &str, name: &str) -> f64 {
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("{name} is not in\n{page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_gateway_says_so_without_a_key() {
    let gateway = TestGateway::start().await;
    let bare = gateway.api.client.clone();
    let ask = async |path: &str| bare.get(format!("{}{path}", gateway.api.base())).send().await.unwrap();
    let live = ask("/livez").await;
    assert_eq!((live.status().as_u16(), live.text().await.unwrap().as_str()), (200, r#"{"status":"ok"}"#));
    let ready = ask("/readyz").await;
    assert_eq!(ready.status(), 200);
    let body: Value = serde_json::from_str(&ready.text().await.unwrap()).unwrap();
    assert_eq!((&body["status"], &body["failing"]), (&json!("ok"), &json!([])));
    for check in ["store", "sessions", "outbox", "shutdown"] {
        assert_eq!(body["checks"][check], "ok", "{body}");
    }
    // The numbers are the key holder's.
    assert_eq!(ask("/metrics").await.status(), 401);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_tell_what_went_on_and_name_nobody() {
    let gateway = TestGateway::start_with(Options::default(), &[("METRICS_PUBLIC", "true")]).await;
    gateway.pair("a-telling-name", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    gateway.api.text("a-telling-name", FRIEND, "hello").await.expect(200);
    friend.next_message(STEP).await.unwrap();
    gateway.api.text("a-telling-name", "6289999999", "hello").await.expect(400);
    friend.says(NUMBER, "hi").await.unwrap();
    gateway.receiver.message("a-telling-name", "hi").await;
    gateway.receiver.answer(503);
    friend.says(NUMBER, "waits").await.unwrap();
    let page = async || gateway.api.client.get(format!("{}/metrics", gateway.api.base())).send().await.unwrap();
    eventually("the message to wait", || async {
        let page = page().await.text().await.unwrap();
        (metric(&page, "wa_gateway_outbox_events{kind=\"message\"}") > 0.0).then_some(())
    })
    .await;
    let answer = page().await;
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let page = answer.text().await.unwrap();
    for (name, value) in [
        ("wa_gateway_sessions{status=\"connected\"}", 1.0),
        ("wa_gateway_sessions{status=\"disconnected\"}", 0.0),
        ("wa_gateway_sends_total{outcome=\"sent\"}", 1.0),
        ("wa_gateway_sends_total{outcome=\"invalid\"}", 1.0),
        ("wa_gateway_outbox_events{kind=\"message\"}", 1.0),
        ("wa_gateway_deliveries_total{outcome=\"shed\"}", 0.0),
        ("wa_gateway_store_write_failures_total", 0.0),
    ] {
        let found = metric(&page, name);
        assert!((found - value).abs() < 0.5, "{name} is {found}\n{page}");
    }
    for name in [
        "wa_gateway_store_write_seconds_count",
        "wa_gateway_store_write_seconds_sum",
        "wa_gateway_outbox_bytes",
        "wa_gateway_deliveries_total{outcome=\"delivered\"}",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(metric(&page, name) > 0.0, "{name}\n{page}");
    }
    assert!(metric(&page, "wa_gateway_outbox_oldest_age_seconds") >= 0.0);
    for secret in ["a-telling-name", NUMBER, FRIEND, "s.whatsapp.net"] {
        assert!(!page.contains(secret), "{page}");
    }
    gateway.receiver.answer(200);
    gateway.receiver.message("a-telling-name", "waits").await;
    let device = gateway.simulator.devices(NUMBER)[0].device;
    gateway.simulator.kick(NUMBER, device, Kick::Close).await;
    eventually("the reconnect to be counted", || async {
        let page = gateway.api.get("/metrics").await.body;
        (metric(&page, "wa_gateway_reconnects_total") >= 1.0).then_some(())
    })
    .await;
    gateway.finish().await;
}
