//! Webhooks on their way: receivers that are down, bodies that nobody takes, letters that died, an outbox that is full, and
//! a receiver of a session's own.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use wa_gateway::outbox::{Bounds, Common, Kind, Kinds, NewEvent, Outbox};
use wa_gateway::store::Kv;
use wa_gateway::store::registry::Registry;
use wa_gateway::store::sled::SledStore;
use whatsapp_simulator::{Fault, Options, Phone, Simulator};

use super::support::{Process, Receiver, Store, TestGateway, base_settings, eventually, over_both};

const NUMBER: &str = "6281234500071";
const FRIEND: &str = "6281234500072";

/// Retries that a test can wait for.
const QUICK: &[(&str, &str)] = &[("WEBHOOK_RETRY_FIRST_MS", "20"), ("WEBHOOK_RETRY_MAX_SECS", "1")];

async fn paired(settings: &[(&str, &str)]) -> (TestGateway, Phone) {
    let gateway = TestGateway::start_with(Options::default(), settings).await;
    gateway.pair("shop", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    (gateway, friend)
}

fn with_quick<'a>(settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [QUICK, settings].concat()
}

/// The numbers of the one session.
async fn stats(gateway: &TestGateway) -> Value {
    let all = gateway.api.get("/webhook/stats").await.expect(200).json();
    let sessions = all["data"]["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1, "{all}");
    assert_eq!(sessions[0]["session"], "shop");
    for (name, total) in all["data"]["total"].as_object().unwrap() {
        assert_eq!(&sessions[0][name], total, "{name}");
    }
    sessions[0].clone()
}

async fn until(gateway: &TestGateway, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("stats that show {what}"), || async { Some(stats(gateway).await).filter(|stats| holds(stats)) })
        .await
}

/// The texts that a receiver took, in order, each once.
fn texts(receiver: &Receiver) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for body in receiver.messages("shop") {
        let text = body["message"].as_str().unwrap_or_default().to_owned();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

async fn dead(gateway: &TestGateway, query: &str) -> Value {
    gateway.api.get(&format!("/webhook/dead{query}")).await.expect(200).json()
}

async fn replay(gateway: &TestGateway, body: Value) -> u64 {
    gateway.api.post("/webhook/replay", body).await.expect(200).json()["data"]["replayed"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_was_down_for_long_gets_everything_in_order_when_it_is_back() {
    let (gateway, friend) = paired(QUICK).await;
    gateway.receiver.last_status("shop", "connected").await;
    let other = gateway.simulator.phone("6281234500073");
    gateway.receiver.answer(503);
    let mut sent = Vec::new();
    for n in 0..60 {
        let text = format!("{n:03}");
        let from = if n % 3 == 0 { &other } else { &friend };
        from.says(NUMBER, &text).await.unwrap();
        sent.push(text);
        if n == 0 {
            until(&gateway, "the first", |stats| stats["waiting"] == 1).await;
        }
    }
    // Longer than the oldest may fail before others are looked at.
    let stats = until(&gateway, "an outage", |stats| {
        stats["waiting"] == 60 && stats["failed_attempts"].as_u64().unwrap() >= 14
    })
    .await;
    assert!(stats["oldest_age_secs"].is_u64() && stats["bytes"].as_u64().unwrap() > 60 * 100, "{stats}");
    assert_eq!((&stats["dead"], &stats["shed"], &stats["full"]), (&json!(0), &json!(0), &json!(false)));
    gateway.receiver.answer(200);
    until(&gateway, "that nothing waits", |stats| stats["waiting"] == 0).await;
    let told = texts(&gateway.receiver);
    for chat in [0, 1] {
        let of_chat = |all: &[String]| -> Vec<String> {
            all.iter().filter(|text| usize::from(text.parse::<usize>().unwrap() % 3 != 0) == chat).cloned().collect()
        };
        assert_eq!(of_chat(&told), of_chat(&sent));
    }
    let ids: std::collections::BTreeSet<_> =
        gateway.receiver.messages("shop").iter().map(|body| body["event_id"].to_string()).collect();
    assert_eq!(ids.len(), 60);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_the_receiver_never_takes_does_not_block_the_other_chats() {
    let (gateway, friend) = paired(QUICK).await;
    let other = gateway.simulator.phone("6281234500073");
    gateway.receiver.answer_to("poison", 500);
    friend.says(NUMBER, "poison").await.unwrap();
    until(&gateway, "a failure", |stats| stats["failed_attempts"] != 0).await;
    friend.says(NUMBER, "behind it").await.unwrap();
    other.says(NUMBER, "from another chat").await.unwrap();
    gateway.receiver.message("shop", "from another chat").await;
    other.says(NUMBER, "and another").await.unwrap();
    gateway.receiver.message("shop", "and another").await;
    assert!(!texts(&gateway.receiver).contains(&"behind it".to_owned()));
    gateway.receiver.answer_to("poison", 200);
    gateway.receiver.message("shop", "behind it").await;
    assert_eq!(texts(&gateway.receiver)[2..], ["poison", "behind it"]);
    gateway.finish().await;
}

async fn what_is_refused_is_listed_in_pages_and_replayed(store: Store) {
    let mut gateway =
        TestGateway::start_over(store, Options::default(), &with_quick(&[("WEBHOOK_RETRY_FOR_SECS", "1")])).await;
    gateway.pair("shop", NUMBER).await;
    let friend = gateway.simulator.phone(FRIEND);
    assert_eq!(dead(&gateway, "").await, json!({"data": [], "next_cursor": null}));
    gateway.receiver.answer_to("refused", 422);
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(friend.says(NUMBER, &format!("refused {n}")).await.unwrap());
    }
    until(&gateway, "three letters", |stats| stats["dead"] == 3 && stats["waiting"] == 0).await;
    gateway.receiver.answer_to("failing", 503);
    friend.says(NUMBER, "failing").await.unwrap();
    until(&gateway, "a fourth", |stats| stats["dead"] == 4 && stats["waiting"] == 0).await;
    gateway.restart().await;

    let all = dead(&gateway, "").await;
    let letters = all["data"].as_array().unwrap();
    assert_eq!((letters.len(), &all["next_cursor"]), (4, &Value::Null));
    let first = &letters[0];
    assert_eq!(
        (&first["session"], &first["kind"], &first["reason"]),
        (&json!("shop"), &json!("message"), &json!("refused"))
    );
    assert_eq!((&first["attempts"], &first["last_answer"]), (&json!(1), &json!("status 422")));
    assert_eq!(first["chat"], format!("{FRIEND}@s.whatsapp.net"));
    assert!(first.get("body").is_none() && first["bytes"].as_u64().unwrap() > 100);
    for time in ["created_at", "died_at"] {
        assert!(first[time].as_str().unwrap().ends_with('Z'), "{first}");
    }
    assert_eq!((&letters[3]["reason"], &letters[3]["last_answer"]), (&json!("given_up"), &json!("status 503")));
    assert!(letters[3]["attempts"].as_u64().unwrap() > 1);
    let with_body = dead(&gateway, "?limit=3&body=true&session=shop").await;
    assert_eq!(with_body["data"][2]["body"]["id"], json!(ids[2]));
    let cursor = with_body["next_cursor"].as_str().unwrap();
    let rest = dead(&gateway, &format!("?limit=3&cursor={cursor}")).await;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    assert_eq!(rest["data"][0], letters[3]);

    // By id, by time, by session; each keeps its id.
    gateway.receiver.answer_to("nothing", 200);
    let id = letters[1]["event_id"].as_str().unwrap();
    assert_eq!(replay(&gateway, json!({ "event_id": id })).await, 1);
    gateway.receiver.message("shop", "refused 1").await;
    let taken = gateway.receiver.hooks().into_iter().filter(|hook| hook.body["message"] == "refused 1");
    let taken: Vec<_> =
        taken.map(|hook| (hook.answered, hook.headers["x-event-id"].to_str().unwrap().to_owned())).collect();
    assert_eq!(taken, [(422, id.to_owned()), (200, id.to_owned())]);
    let at = &letters[2]["created_at"];
    assert_eq!(replay(&gateway, json!({ "from": at, "to": at })).await, 1);
    gateway.receiver.message("shop", "refused 2").await;
    assert_eq!(replay(&gateway, json!({ "session": "shop" })).await, 2);
    gateway.receiver.message("shop", "refused 0").await;
    gateway.receiver.message("shop", "failing").await;
    let stats = until(&gateway, "that all is delivered", |stats| stats["waiting"] == 0).await;
    assert_eq!(stats["dead"], 0);
    gateway.finish().await;
}

over_both!(
    a_full_outbox_leaves_messages_at_whatsapp_until_there_is_room,
    what_is_refused_is_listed_in_pages_and_replayed,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_replayed_or_listed_is_refused_in_words() {
    let gateway = TestGateway::start().await;
    for (body, status, message) in [
        (json!({}), 400, "Required field 'event_id' on json"),
        (json!({"event_id": 5}), 400, "Expected array, received number field 'event_id' on json"),
        (json!({"from": "noon"}), 400, "from must be a time in Unix seconds or ISO 8601 field 'from' on json"),
        (json!({"session": 5}), 400, "Expected string, received number field 'session' on json"),
        (json!({"session": "nobody"}), 404, "Session 'nobody' not found"),
        (json!({"event_id": "nothing"}), 404, "Event 'nothing' not found"),
    ] {
        let answer = gateway.api.post("/webhook/replay", body).await;
        assert_eq!((answer.status, answer.message().as_str()), (status, message));
    }
    for (query, status, message) in [
        ("?limit=0", 400, "limit must be from 1 to 1000 field 'limit' on query"),
        ("?limit=x", 400, "limit must be a whole number field 'limit' on query"),
        ("?cursor=x", 400, "cursor is not one of a page before field 'cursor' on query"),
        ("?session=nobody", 404, "Session 'nobody' not found"),
    ] {
        let answer = gateway.api.get(&format!("/webhook/dead{query}")).await;
        assert_eq!((answer.status, answer.message().as_str()), (status, message));
    }
    let empty = gateway.api.get("/webhook/stats").await.expect(200).json();
    assert_eq!((&empty["data"]["sessions"], &empty["data"]["total"]["waiting"]), (&json!([]), &json!(0)));
    assert_eq!(replay(&gateway, json!({"from": 0})).await, 0);
    gateway.finish().await;
}

async fn a_full_outbox_leaves_messages_at_whatsapp_until_there_is_room(store: Store) {
    let gateway =
        TestGateway::start_over(store, Options::default(), &with_quick(&[("OUTBOX_MAX_BYTES", "4000")])).await;
    gateway.pair("shop", NUMBER).await;
    gateway.receiver.last_status("shop", "connected").await;
    let friend = gateway.simulator.phone(FRIEND);
    gateway.receiver.answer(503);
    let mut sent = Vec::new();
    for n in 0..30 {
        let text = format!("{n:03}");
        friend.says(NUMBER, &text).await.unwrap();
        sent.push(text);
    }
    let stats = until(&gateway, "a full outbox", |stats| stats["full"] == true).await;
    assert!(stats["waiting"].as_u64().unwrap() < 30 && stats["bytes"].as_u64().unwrap() <= 4_000, "{stats}");
    eventually("messages that WhatsApp keeps", || async {
        let kept = gateway.simulator.unacknowledged(NUMBER).len();
        (kept + usize::try_from(self::stats(&gateway).await["waiting"].as_u64().unwrap()).unwrap() == 30).then_some(())
    })
    .await;
    assert_eq!(gateway.api.status("shop").await, "connected", "it can still send");
    gateway.api.text("shop", FRIEND, "sent all the same").await.expect(200);
    gateway.receiver.answer(200);
    eventually("every message at the receiver", || async { (texts(&gateway.receiver).len() == 30).then_some(()) })
        .await;
    assert_eq!(texts(&gateway.receiver), sent);
    let stats = until(&gateway, "room", |stats| stats["full"] == false && stats["waiting"] == 0).await;
    assert_eq!(stats["dead"], 0);
    eventually("nothing left at WhatsApp", || async {
        gateway.simulator.unacknowledged(NUMBER).is_empty().then_some(())
    })
    .await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_sheds_its_oldest_status_events_first() {
    let (gateway, friend) = paired(&with_quick(&[("OUTBOX_MAX_BYTES", "4000")])).await;
    gateway.receiver.last_status("shop", "connected").await;
    // The receiver has it before the outbox lets go of it.
    until(&gateway, "an empty outbox", |stats| stats["waiting"] == 0).await;
    gateway.receiver.answer(503);
    // A drop makes two status events.
    for _ in 0..3 {
        let before = stats(&gateway).await["waiting"].as_u64().unwrap();
        gateway.simulator.inject(Fault::CloseOnMessage.times(1));
        let _lost = gateway.api.text("shop", FRIEND, "on the way").await;
        until(&gateway, "its status events", |stats| stats["waiting"].as_u64().unwrap() >= before + 2).await;
        gateway.api.wait_status("shop", "connected").await;
    }
    let statuses = stats(&gateway).await["waiting"].as_u64().unwrap();
    for n in 0..30 {
        friend.says(NUMBER, &format!("{n:03}")).await.unwrap();
    }
    let full = until(&gateway, "a full outbox", |stats| stats["full"] == true).await;
    let before = gateway.receiver.hooks().len();
    gateway.receiver.answer(200);
    eventually("every message at the receiver", || async { (texts(&gateway.receiver).len() == 30).then_some(()) })
        .await;
    let taken: Vec<_> = gateway.receiver.hooks().into_iter().skip(before).filter(|hook| hook.answered == 200).collect();
    let raw = |path: &str| taken.iter().filter(|hook| hook.path == path).map(|hook| hook.raw.len() as u64).max();
    // A status has 43 or 44 bytes, and none may have been left; the messages are all of one size.
    let (message, status) = (raw("/hook/message").unwrap(), 44);
    let number = |name: &str| full[name].as_u64().unwrap();
    let (waiting, bytes, shed) = (number("waiting"), number("bytes"), number("shed"));
    let more = message - status;
    let messages = (bytes - waiting * status + more / 2) / more;
    let kept = waiting - messages;
    assert!(bytes <= 4_000, "more than the limit: {full}");
    assert!(shed > 0 && shed + kept >= statuses, "{kept} kept of {statuses}: {full}");
    // They are kept only where even without them there had been no room for one message more.
    assert!(
        kept == 0 || (messages + 1) * message > 4_000,
        "{kept} status events beside {messages} messages of {message} bytes: {full}"
    );
    // Those that were not shed are older than the messages, so they come first, and the newest tells how the session was.
    let first: Vec<_> = taken.iter().take_while(|hook| hook.path == "/hook/session").collect();
    assert!(first.last().is_none_or(|hook| hook.body["status"] == "connected"), "{first:?}");
    gateway.finish().await;
}

const HOOK: &str = "/session/shop/webhook";

async fn set(gateway: &TestGateway, body: Value) -> Value {
    gateway.api.send(Method::PUT, HOOK, Some(body)).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_a_webhook_of_its_own_that_survives_a_restart_and_goes_with_it() {
    let own = Receiver::start().await;
    let mut gateway = TestGateway::start_with(Options::default(), QUICK).await;
    gateway.pair("shop", NUMBER).await;
    gateway.receiver.last_status("shop", "connected").await;
    let friend = gateway.simulator.phone(FRIEND);
    assert_eq!(gateway.api.get(HOOK).await.expect(404).message(), "Session 'shop' has no webhook of its own");

    let shown = json!({"data": {"session": "shop", "url": own.url(), "events": ["message"], "has_secret": true}});
    assert_eq!(set(&gateway, json!({"url": own.url(), "secret": "mine", "events": ["message"]})).await, shown);
    let answer = gateway.api.get(HOOK).await.expect(200);
    assert_eq!(answer.json(), shown);
    assert!(!answer.body.contains("mine"));
    friend.says(NUMBER, "one").await.unwrap();
    own.message("shop", "one").await;
    let hook = own.hooks().remove(0);
    assert_eq!((hook.path.as_str(), hook.headers["key"].to_str().unwrap()), ("/hook/message", ""));
    assert!(hook.headers.contains_key("x-webhook-signature"));

    gateway.restart().await;
    gateway.api.wait_status("shop", "connected").await;
    assert_eq!(gateway.api.get(HOOK).await.expect(200).json(), shown);
    friend.says(NUMBER, "two").await.unwrap();
    own.message("shop", "two").await;
    assert!(own.hooks().iter().all(|hook| hook.path == "/hook/message"), "only the kinds that it wants");
    assert!(gateway.receiver.messages("shop").is_empty());

    let none = json!({"data": {"session": "shop", "url": null, "events": null, "has_secret": false}});
    assert_eq!(gateway.api.send(Method::DELETE, HOOK, None).await.expect(200).json(), none);
    friend.says(NUMBER, "three").await.unwrap();
    gateway.receiver.message("shop", "three").await;
    set(&gateway, json!({"url": own.url()})).await;
    assert_eq!(set(&gateway, json!({"url": null})).await, none);
    set(&gateway, json!({"url": own.url()})).await;
    let refused = gateway.api.send(Method::PUT, HOOK, Some(Value::Null)).await.expect(400);
    assert_eq!(refused.message(), "Expected object, received null field '' on json");
    assert_eq!(gateway.api.get(HOOK).await.expect(200).json()["data"]["url"], own.url());
    set(&gateway, json!({"url": own.url()})).await;
    // Its last word goes there too, and the next session of that name begins without it.
    gateway.api.delete("shop").await.expect(200);
    own.last_status("shop", "disconnected").await;
    gateway.api.qr("shop").await;
    gateway.api.get(HOOK).await.expect(404);
    gateway.receiver.last_status("shop", "connecting").await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_set_though_the_client_hangs_up() {
    let own = Receiver::start().await;
    let (gateway, _friend) = paired(QUICK).await;
    // A logout that waits for WhatsApp keeps what comes after it waiting.
    gateway.simulator.inject(Fault::DropAnswers { xmlns: "md".to_owned() });
    let mut impatient = gateway.api.clone();
    impatient.client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().unwrap();
    let (logout, url) = tokio::join!(gateway.api.post("/session/logout", json!({"session": "shop"})), async {
        for n in 0..1_000 {
            let url = format!("{}?n={n}", own.url());
            let Ok(answer) = impatient.try_send(Method::PUT, HOOK, Some(json!({"url": url}))).await else { return url };
            answer.expect(200);
        }
        panic!("none had to wait");
    });
    logout.expect(200);
    eventually("the webhook to be set", || async {
        (gateway.api.get(HOOK).await.json()["data"]["url"] == url.as_str()).then_some(())
    })
    .await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_of_its_own_works_without_a_global_one() {
    let own = Receiver::start().await;
    let (gateway, friend) = paired(&with_quick(&[("WEBHOOK_BASE_URL", ""), ("WEBHOOK_SECRET", "whsec")])).await;
    friend.says(NUMBER, "nobody takes it").await.unwrap();
    eventually("its acknowledgement", || async { gateway.simulator.unacknowledged(NUMBER).is_empty().then_some(()) })
        .await;
    assert_eq!(stats(&gateway).await["waiting"], 0);
    set(&gateway, json!({"url": own.url()})).await;
    friend.says(NUMBER, "one").await.unwrap();
    own.message("shop", "one").await;
    assert_eq!(own.messages("shop").len(), 1);
    assert!(own.hooks()[0].headers.contains_key("x-webhook-signature"));
    gateway.api.delete("shop").await.expect(200);
    own.last_status("shop", "disconnected").await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_url_that_must_not_be_is_refused() {
    let (gateway, _friend) = paired(&with_quick(&[("WEBHOOK_URL_PRIVATE", "deny")])).await;
    for url in
        ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://127.0.0.1:1/", "http://10.0.0.1/", "ftp://bot"]
    {
        let answer = gateway.api.send(Method::PUT, HOOK, Some(json!({ "url": url }))).await.expect(400);
        assert!(answer.message().starts_with("url must "), "{url}: {}", answer.message());
    }
    set(&gateway, json!({"url": "https://receiver.example/wa"})).await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let body = (method == Method::PUT).then(|| json!({"url": "https://receiver.example"}));
        let answer = gateway.api.send(method, "/session/nobody/webhook", body).await.expect(404);
        assert_eq!(answer.message(), "Session 'nobody' not found");
    }
    gateway.finish().await;
}

/// Puts so many events into the outbox of the session `shop`, while no gateway runs.
async fn fill(folder: &std::path::Path, events: usize) {
    let kv: Arc<dyn Kv> = Arc::new(SledStore::open(&folder.join("wa_credentials/store")).unwrap());
    let name = wa_gateway::event::SessionName::parse("shop").unwrap();
    let record = Registry::new(Arc::clone(&kv)).get(&name).await.unwrap().unwrap();
    let common = Arc::new(Common::new(Bounds::default(), Kinds::default(), true));
    let outbox = Outbox::open(&common, Arc::clone(&kv), &record.uid, name, None).await.unwrap();
    let filling = "x".repeat(300);
    for first in (0..events).step_by(500) {
        let event = |n: usize| NewEvent {
            event_id: format!("{n:032x}"),
            kind: Kind::Message,
            chat: Some(format!("{}@s.whatsapp.net", n % 50)),
            body: json!({"session": "shop", "message": format!("{n}"), "filling": filling}).to_string().into(),
        };
        outbox.commit((first..(first + 500).min(events)).map(event).collect()).await.unwrap();
    }
    kv.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_while_a_hundred_thousand_events_wait() {
    const EVENTS: usize = 100_000;
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = base_settings(&simulator, &receiver, folder.path());
    settings.extend(QUICK.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let mut process = Process::start(&settings, folder.path()).await;
    let qr = process.api.qr("shop").await;
    simulator.scan(&qr, NUMBER).await.unwrap();
    process.api.wait_status("shop", "connected").await;
    receiver.last_status("shop", "connected").await;
    process.terminate().await;
    // As much is done in both, but for what waits.
    let mut measured = Vec::new();
    for events in [0, EVENTS] {
        fill(folder.path(), events).await;
        receiver.answer(503);
        let mut process = Process::start(&settings, folder.path()).await;
        process.api.wait_status("shop", "connected").await;
        let waiting = || async {
            let stats = process.api.get("/webhook/stats?session=shop").await.expect(200).json();
            let failed = stats["data"]["total"]["failed_attempts"].as_u64().unwrap();
            (failed >= 30 && stats["data"]["total"]["waiting"].as_u64().unwrap() >= events as u64).then_some(())
        };
        eventually("failed attempts", waiting).await;
        measured.push(process.peak_memory());
        if events > 0 {
            receiver.answer(200);
            eventually("the first thousand", || async { (texts_so_far(&receiver) >= 1_000).then_some(()) }).await;
            let order: Vec<usize> =
                receiver.messages("shop").iter().filter_map(|body| body["message"].as_str()?.parse().ok()).collect();
            for chat in 0..50 {
                let of_chat: Vec<_> = order.iter().filter(|n| *n % 50 == chat).collect();
                assert!(of_chat.is_sorted(), "chat {chat} is out of order");
            }
            measured.push(process.peak_memory());
        } else {
            receiver.answer(200);
        }
        process.terminate().await;
    }
    let grown: Vec<_> = measured.iter().map(|peak| peak.saturating_sub(measured[0]) >> 20).collect();
    println!("peak memory: {} MiB without a backlog, then {grown:?} MiB more", measured[0] >> 20);
    assert!(grown.iter().all(|grown| *grown < 80), "memory grew with what waits: {grown:?} MiB");
    tokio::time::timeout(super::support::STEP, simulator.shutdown()).await.unwrap();
}

fn texts_so_far(receiver: &Receiver) -> usize {
    receiver.hooks().iter().filter(|hook| hook.answered == 200 && hook.path == "/hook/message").count()
}
