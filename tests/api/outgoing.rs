//! What becomes of sent messages, and requests that come again.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use whatsapp_simulator::{Fault, Options, Phone, Simulator};

use super::support::{Answer, Process, Receiver, STEP, Store, TestGateway, base_settings, eventually, over_both};

const NUMBER: &str = "6281234500221";
const ANI: &str = "6281234500222";
const BUDI: &str = "6281234500223";
const TEXT: &str = "/message/send-text";

fn id_of(answer: &Answer) -> String {
    answer.json()["data"]["key"]["id"].as_str().unwrap_or_else(|| panic!("no id in {}", answer.body)).to_owned()
}

fn text(text: &str) -> Value {
    json!({ "session": "a", "to": ANI, "text": text })
}

/// The ids under which a phone got this text.
fn copies(phone: &Phone, text: &str) -> Vec<String> {
    let inbox = phone.inbox().into_iter().filter(|message| message.text.as_deref() == Some(text));
    inbox.map(|message| message.id).collect()
}

async fn with_acks(store: Store) -> TestGateway {
    TestGateway::start_over(store, Options::default(), &[("WEBHOOK_EVENTS", "message,session,ack")]).await
}

over_both!(
    a_message_is_followed_until_it_is_played,
    the_same_request_is_carried_out_once,
    an_answer_outlives_restarts_and_goes_with_its_session,
);

async fn a_message_is_followed_until_it_is_played(store: Store) {
    let mut gateway = with_acks(store).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let id = id_of(&gateway.api.text("a", ANI, "hello").await.expect(200));
    ani.next_message(STEP).await.unwrap();
    let state = gateway.api.wait_state("a", &id, "delivered").await;
    assert_eq!((&state["session"], &state["id"]), (&json!("a"), &json!(id)));
    assert_eq!(state["to"], format!("{ANI}@s.whatsapp.net"));
    assert!(state["timestamps"]["pending"].is_u64() && state["timestamps"]["sent"].is_u64(), "{state}");
    assert_eq!((&state["error"], &state["participants"]), (&Value::Null, &Value::Null));
    ani.reads(NUMBER, None, &[id.as_str()]).await.unwrap();
    let state = gateway.api.wait_state("a", &id, "read").await;
    assert_eq!(state["timestamp"], state["timestamps"]["read"]);

    // Read while the gateway is away, and told at its next login.
    let second = id_of(&gateway.api.text("a", ANI, "second").await.expect(200));
    gateway.api.wait_state("a", &second, "delivered").await;
    gateway.stop().await;
    ani.reads(NUMBER, None, &[second.as_str()]).await.unwrap();
    gateway.restart().await;
    gateway.api.wait_state("a", &id, "read").await;
    gateway.api.wait_state("a", &second, "read").await;
    ani.plays(NUMBER, None, &[id.as_str()]).await.unwrap();
    gateway.api.wait_state("a", &id, "played").await;

    let acks = eventually("all steps at the webhook", || async {
        Some(gateway.receiver.acks(&id)).filter(|acks| acks.len() >= 4)
    })
    .await;
    let words: Vec<_> = acks.iter().map(|ack| ack["status"].as_str().unwrap()).collect();
    assert_eq!(words, ["sent", "delivered", "read", "played"]);
    let members: Vec<&str> = acks[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["session", "id", "to", "status", "timestamp", "participant", "event_id"]);
    for ack in &acks {
        assert_eq!((&ack["session"], &ack["participant"]), (&json!("a"), &Value::Null));
        assert_eq!(ack["to"], format!("{ANI}@s.whatsapp.net"));
        assert!(ack["timestamp"].is_u64());
    }
    let hooks = gateway.receiver.hooks();
    for hook in hooks.iter().filter(|hook| hook.path == "/hook/ack") {
        assert_eq!(hook.headers["x-event-id"], hook.body["event_id"].as_str().unwrap());
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_messages_and_sessions_are_told() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    gateway.pair("b", BUDI).await;
    let id = id_of(&gateway.api.text("a", ANI, "hello").await.expect(200));
    ani.next_message(STEP).await.unwrap();
    gateway.api.wait_state("a", &id, "delivered").await;
    assert_eq!(gateway.api.state("a", "3EB0").await.expect(404).message(), "Message '3EB0' not found");
    gateway.api.state("b", &id).await.expect(404);
    assert_eq!(gateway.api.state("c", &id).await.expect(400).message(), "Session does not exist");
    let missing = gateway.api.get(&format!("/message/{id}")).await.expect(400);
    assert_eq!(missing.message(), "Required field 'session' on query");
    // Nobody asked for these webhooks.
    assert!(gateway.receiver.acks(&id).is_empty());
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_tells_each_member_by_the_number() {
    for lid_mode in [false, true] {
        let gateway = with_acks(Store::Sled).await;
        let (ani, budi) = (gateway.simulator.phone(ANI), gateway.simulator.phone(BUDI));
        gateway.pair("a", NUMBER).await;
        let group = gateway.simulator.create_group("friends", &[NUMBER, ANI, BUDI], lid_mode);
        let id = id_of(&gateway.api.text("a", &group, "all").await.expect(200));
        for phone in [&ani, &budi] {
            phone.next_message(STEP).await.unwrap();
        }
        let sender = gateway.simulator.phone(NUMBER).address().clone();
        let device = gateway.simulator.devices(NUMBER)[0].device;
        let author = if lid_mode {
            format!("{}:{device}@lid", sender.lid)
        } else {
            format!("{}:{device}@s.whatsapp.net", sender.number)
        };
        ani.reads(&group, Some(&author.parse().unwrap()), &[id.as_str()]).await.unwrap();
        let state = eventually("both to have it and one to have read it", || async {
            let state = gateway.api.state("a", &id).await.expect(200).json()["data"].clone();
            (state["participants"] == json!({ "delivered": 2, "read": 1, "played": 0 })).then_some(state)
        })
        .await;
        assert_eq!(state["status"], "read");
        let acks = eventually("the webhook of the reader", || async {
            Some(gateway.receiver.acks(&id)).filter(|acks| acks.iter().any(|ack| ack["status"] == "read"))
        })
        .await;
        for ack in acks.iter().filter(|ack| ack["participant"].is_string()) {
            let told = ack["participant"].as_str().unwrap();
            assert!([ANI, BUDI].iter().any(|number| told == format!("{number}@s.whatsapp.net")), "{lid_mode}: {ack}");
        }
        let read = acks.iter().find(|ack| ack["status"] == "read").unwrap();
        assert_eq!(read["participant"], format!("{ANI}@s.whatsapp.net"));
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_late_acknowledgements_are_told() {
    let settings = [("WEBHOOK_EVENTS", "ack"), ("SEND_TIMEOUT_SECS", "4")];
    let gateway = TestGateway::start_with(Options::default(), &settings).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    gateway.api.text("a", ANI, "first").await.expect(200);
    ani.next_message(STEP).await.unwrap();

    let fault = gateway.simulator.inject(Fault::NackMessages { code: 479 }.on(NUMBER));
    let refused = gateway.api.text("a", ANI, "refused").await.expect(502);
    assert!(refused.message().contains("479"));
    let state = gateway.api.wait_state("a", &id_of(&refused), "failed").await;
    assert_eq!(state["error"], 479);
    gateway.simulator.clear(fault);

    let fault = gateway.simulator.inject(Fault::DropMessages.on(NUMBER));
    let lost = id_of(&gateway.api.text("a", ANI, "lost").await.expect(504));
    gateway.simulator.clear(fault);
    let state = gateway.api.state("a", &lost).await.expect(200).json()["data"].clone();
    assert_eq!((&state["status"], &state["timestamp"]), (&json!("pending"), &state["timestamps"]["pending"]));

    let fault = gateway.simulator.inject(Fault::DelayAcks { delay: Duration::from_secs(8) }.on(NUMBER));
    let late = gateway.api.text("a", ANI, "late").await.expect(504);
    let late = id_of(&late);
    eventually("the late acknowledgement", || async {
        let state = gateway.api.state("a", &late).await.expect(200).json()["data"].clone();
        state["timestamps"]["sent"].is_u64().then_some(())
    })
    .await;
    gateway.simulator.clear(fault);
    assert!(gateway.receiver.hooks().iter().all(|hook| hook.path == "/hook/ack"), "only these were asked for");
    gateway.finish().await;
}

async fn the_same_request_is_carried_out_once(store: Store) {
    let gateway = TestGateway::over(store).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let send = |key: &str, body: Value| {
        let (api, key) = (gateway.api.clone(), key.to_owned());
        async move { api.post_once(TEXT, &key, body).await.unwrap() }
    };
    let first = send("k1", text("once")).await.expect(200);
    ani.next_message(STEP).await.unwrap();
    let again = send("k1", json!({ "text": "once", "to": ANI, "session": "a" })).await.expect(200);
    assert_eq!(first.body, again.body);
    let other = send("k1", text("twice")).await.expect(409);
    assert!(other.message().contains("Idempotency-Key"), "{}", other.body);

    // Four at once, while the acknowledgement is on its way.
    let fault = gateway.simulator.inject(Fault::DelayAcks { delay: Duration::from_millis(500) }.on(NUMBER));
    let answers = futures::future::join_all((0..4).map(|_| send("k2", text("crowd")))).await;
    gateway.simulator.clear(fault);
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }

    // What failed before anything left is tried again.
    let unknown = json!({ "session": "a", "to": "6289999999999", "text": "x" });
    send("k3", unknown.clone()).await.expect(400);
    send("k3", unknown).await.expect(400);
    send("k3", text("after a refusal")).await.expect(200);

    for key in ["", "a\u{7f}b", "x".repeat(256).as_str()] {
        let request = gateway.api.client.post(format!("{}{TEXT}", gateway.api.base())).header("key", "secret");
        let key = reqwest::header::HeaderValue::from_bytes(key.as_bytes());
        let Ok(key) = key else { continue };
        let request = request.header("idempotency-key", key).header("content-type", "application/json");
        let request = request.body(text("never").to_string()).send().await.unwrap();
        assert_eq!(request.status(), 400);
        assert!(request.text().await.unwrap().contains("Idempotency-Key"));
    }

    // Every form of a request, each kind a key of its own.
    let get = || async {
        let url = format!("{}{TEXT}?key=secret&session=a&to={ANI}&text=query", gateway.api.base());
        let answer = gateway.api.client.get(url).header("idempotency-key", "k4").send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    assert_eq!(get().await, get().await);
    let file = |bytes: &'static [u8], key: &'static str| {
        let api = gateway.api.clone();
        async move {
            let part = format!(
                "--b\r\ncontent-disposition: form-data; name=\"session\"\r\n\r\na\r\n--b\r\ncontent-disposition: form-data; name=\"to\"\r\n\r\n{ANI}\r\n--b\r\ncontent-disposition: form-data; name=\"text\"\r\n\r\n\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n{}\r\n--b--\r\n",
                String::from_utf8_lossy(bytes)
            );
            let request = api.client.post(format!("{}/message/send-document", api.base())).header("key", "secret");
            let request = request.header("content-type", "multipart/form-data; boundary=b");
            let answer = request.header("idempotency-key", key).body(part).send().await.unwrap();
            Answer { status: answer.status().as_u16(), body: answer.text().await.unwrap() }
        }
    };
    let upload = file(b"one", "k5").await.expect(200);
    assert_eq!(file(b"one", "k5").await.expect(200).body, upload.body);
    file(b"two", "k5").await.expect(409);
    let reaction =
        json!({ "session": "a", "to": ANI, "message_id": id_of(&first), "from_me": true, "reaction": "\u{1f44d}" });
    for path in ["/message/send-reaction", "/message/send-reaction"] {
        gateway.api.post_once(path, "k6", reaction.clone()).await.unwrap().expect(200);
    }
    gateway.api.post_once("/message/delete", "k6", reaction).await.unwrap().expect(409);

    // The last to arrive: whatever was sent twice would have come before it.
    gateway.api.text("a", ANI, "end").await.expect(200);
    eventually("the last message", || async { (!copies(&ani, "end").is_empty()).then_some(()) }).await;
    for (text, count) in [("once", 1), ("twice", 0), ("crowd", 1), ("after a refusal", 1), ("never", 0), ("query", 1)] {
        assert_eq!(copies(&ani, text).len(), count, "{text}");
    }
    let documents = ani.inbox().iter().filter(|message| message.message.document_message.is_set()).count();
    let reactions = ani.inbox().iter().filter(|message| message.message.reaction_message.is_set()).count();
    assert_eq!((documents, reactions, ani.repeated_ids()), (1, 1, 0));
    gateway.finish().await;
}

async fn an_answer_outlives_restarts_and_goes_with_its_session(store: Store) {
    let mut gateway = TestGateway::over(store).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let first = gateway.api.post_once(TEXT, "k", text("once")).await.unwrap().expect(200);
    gateway.restart().await;
    // Whether it is connected again or not.
    let again = gateway.api.post_once(TEXT, "k", text("once")).await.unwrap().expect(200);
    assert_eq!(first.body, again.body);
    gateway.api.wait_status("a", "connected").await;
    gateway.api.delete("a").await.expect(200);
    gateway.api.post_once(TEXT, "k", text("once")).await.unwrap().expect(400);
    gateway.pair("a", NUMBER).await;
    gateway.api.state("a", &id_of(&first)).await.expect(404);
    let new = gateway.api.post_once(TEXT, "k", text("once")).await.unwrap().expect(200);
    assert_ne!(id_of(&new), id_of(&first));
    eventually("both messages", || async { (copies(&ani, "once").len() == 2).then_some(()) }).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_after_a_lost_acknowledgement_keeps_the_id() {
    let gateway = TestGateway::start_with(Options::default(), &[("SEND_TIMEOUT_SECS", "4")]).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    gateway.api.text("a", ANI, "first").await.expect(200);

    // It arrived: the contact's receipt proves it, and nothing is sent again.
    let fault = gateway.simulator.inject(Fault::DropMessageAcks.on(NUMBER));
    let lost = gateway.api.post_once(TEXT, "k1", text("arrived")).await.unwrap().expect(504);
    gateway.simulator.clear(fault);
    gateway.api.wait_state("a", &id_of(&lost), "delivered").await;
    let again = gateway.api.post_once(TEXT, "k1", text("arrived")).await.unwrap().expect(200);
    assert_eq!(id_of(&again), id_of(&lost));
    let third = gateway.api.post_once(TEXT, "k1", text("arrived")).await.unwrap().expect(200);
    assert_eq!(again.body, third.body);

    // It did not: it goes out again under its id.
    let fault = gateway.simulator.inject(Fault::DropMessages.on(NUMBER));
    let lost = gateway.api.post_once(TEXT, "k2", text("vanished")).await.unwrap().expect(504);
    gateway.simulator.clear(fault);
    let again = gateway.api.post_once(TEXT, "k2", text("vanished")).await.unwrap().expect(200);
    assert_eq!(id_of(&again), id_of(&lost));

    // A refusal is no answer for ever.
    let fault = gateway.simulator.inject(Fault::NackMessages { code: 503 }.on(NUMBER));
    let refused = gateway.api.post_once(TEXT, "k3", text("refused")).await.unwrap().expect(502);
    gateway.simulator.clear(fault);
    let again = gateway.api.post_once(TEXT, "k3", text("refused")).await.unwrap().expect(200);
    assert_eq!(id_of(&again), id_of(&refused));
    gateway.api.wait_state("a", &id_of(&again), "delivered").await;

    for text in ["arrived", "vanished", "refused"] {
        eventually("the message", || async { (!copies(&ani, text).is_empty()).then_some(()) }).await;
        assert_eq!(copies(&ani, text).len(), 1, "{text}");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_during_a_send_sends_nothing_twice() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder: TempDir = tempfile::tempdir().unwrap();
    let settings = base_settings(&simulator, &receiver, folder.path());
    let ani = simulator.phone(ANI);
    let mut process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("a").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("a", "connected").await;
    process.api.text("a", ANI, "first").await.expect(200);
    for round in 0..3 {
        let (key, body) = (format!("round {round}"), format!("text {round}"));
        let fault = simulator.inject(Fault::DropMessageAcks.on(NUMBER));
        let api = process.api.clone();
        let (sent_key, sent_body) = (key.clone(), text(&body));
        tokio::select! {
            answer = api.post_once(TEXT, &sent_key, sent_body) => panic!("an answer without an acknowledgement: {answer:?}"),
            () = eventually("the message at the contact", || async { (!copies(&ani, &body).is_empty()).then_some(()) }) => {}
        }
        process.kill();
        simulator.clear(fault);
        process = Process::start(&settings, folder.path()).await;
        process.api.wait_status("a", "connected").await;
        let answer = process.api.post_once(TEXT, &key, text(&body)).await.unwrap().expect(200);
        let again = process.api.post_once(TEXT, &key, text(&body)).await.unwrap().expect(200);
        assert_eq!(answer.body, again.body);
        process.api.text("a", ANI, &format!("end {round}")).await.expect(200);
        let end = format!("end {round}");
        eventually("the last message", || async { (!copies(&ani, &end).is_empty()).then_some(()) }).await;
        assert_eq!(copies(&ani, &body), [id_of(&answer)], "a contact has one message, by its id");
    }
    assert_eq!(simulator.counters().repeated_counters, 0);
    assert_eq!(ani.repeated_keys(), 0);
}
