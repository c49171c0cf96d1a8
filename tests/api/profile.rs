//! What accounts and groups show of themselves.

use image::ImageFormat;
use serde_json::{Value, json};

use super::support::{Answer, TestGateway, picture};

const NUMBER: &str = "6281234500221";
const ANI: &str = "6281234500222";
const BUDI: &str = "6281234500223";

async fn profile(gateway: &TestGateway, target: &str) -> Answer {
    gateway.api.post("/profile", json!({ "session": "a", "target": target })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_shows_picture_and_about() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let target = format!("{ANI}@s.whatsapp.net");
    ani.set_about("Available", 1_700_000_000).await.unwrap();
    let answer = profile(&gateway, &target).await.expect(200);
    assert_eq!(
        answer.body,
        format!(
            r#"{{"data":{{"profilePictureUrl":null,"status":[{{"status":{{"status":"Available","setAt":"2023-11-14T22:13:20.000Z"}},"id":"{target}"}}]}}}}"#
        )
    );
    ani.set_picture(Some(&picture(8, 8, ImageFormat::Jpeg))).await.unwrap();
    let answer = profile(&gateway, &target).await.expect(200).json();
    assert!(answer["data"]["profilePictureUrl"].as_str().is_some_and(|url| url.starts_with("http")), "{answer}");
    ani.hide_picture(true).await.unwrap();
    let answer = profile(&gateway, &target).await.expect(200).json();
    assert_eq!(answer["data"]["profilePictureUrl"], Value::Null);
    ani.hide_about(true).await.unwrap();
    let answer = profile(&gateway, &target).await.expect(200);
    assert_eq!(answer.body, r#"{"data":{"profilePictureUrl":null,"status":null}}"#);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_shows_its_picture_to_members_only() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let group = gateway.simulator.create_group("Toko", &[ANI, NUMBER], false);
    let answer = profile(&gateway, &group).await.expect(200);
    assert_eq!(answer.json()["data"]["profilePictureUrl"], Value::Null, "{}", answer.body);
    ani.set_group_picture(&group, Some(&picture(8, 8, ImageFormat::Jpeg))).await.unwrap();
    let answer = profile(&gateway, &group).await.expect(200).json();
    assert!(answer["data"]["profilePictureUrl"].is_string(), "{answer}");
    let others = gateway.simulator.create_group("Others", &[ANI, BUDI], false);
    assert_eq!(profile(&gateway, &others).await.expect(403).message(), "The session is not a member of this group");
    assert_eq!(profile(&gateway, "120363000000000000@g.us").await.expect(404).message(), "Group not found");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_is_checked_in_the_contracts_order() {
    let gateway = TestGateway::start().await;
    gateway.pair("a", NUMBER).await;
    gateway.api.qr("b").await;
    let bad_target = "target must contain '@s.whatsapp.net' or '@g.us' field 'target' on json";
    for (body, status, message) in [
        (json!({}), 400, "Required field 'session' on json"),
        (json!({ "target": "x" }), 400, "Required field 'session' on json"),
        (json!({ "session": "a" }), 400, "Required field 'target' on json"),
        (json!({ "session": "a", "target": 6281 }), 400, "Expected string, received number field 'target' on json"),
        (json!({ "session": "none", "target": "123@lid" }), 400, bad_target),
        (json!({ "session": "none", "target": "6281@s.whatsapp.net" }), 400, "Session does not exist"),
        (json!({ "session": "b", "target": "6281@s.whatsapp.net" }), 409, "Session with ID: \"b\" Not Ready!"),
        (json!({ "session": "a", "target": "6289999999@s.whatsapp.net" }), 400, "Target is not registered"),
        (json!({ "session": "a", "target": "x628@s.whatsapp.net.evil" }), 400, "Target is not registered"),
    ] {
        let answer = gateway.api.post("/profile", body.clone()).await;
        assert_eq!((answer.status, answer.message().as_str()), (status, message), "{body}");
    }
    gateway.finish().await;
}
