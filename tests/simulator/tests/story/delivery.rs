//! What phones write reaches companions, and stays until they acknowledge it.

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder};
use whatsapp_simulator::phone::ReceiptKind;
use whatsapp_simulator::{Options, Simulator};

use crate::companion::{Companion, LIMIT, attr, content};

const NUMBER: &str = "6281111111111";
const FRIEND: &str = "6282222222222";

/// The greeting of the phone: a key share and three history notifications.
async fn greeted(simulator: &Simulator) -> Companion {
    let mut companion = Companion::linked(simulator, NUMBER).await;
    for _ in 0..4 {
        let message = companion.next("message").await;
        assert_eq!(
            (attr(&message, "category"), attr(&message, "from")),
            ("peer".to_owned(), format!("{NUMBER}@s.whatsapp.net"))
        );
        companion.confirm(&message).await;
    }
    companion
}

#[tokio::test]
async fn a_live_companion_is_greeted_and_gets_messages_as_they_come() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = greeted(&simulator).await;
    let friend = simulator.phone(FRIEND);
    let id = friend.says(NUMBER, "hi").await.unwrap();
    let message = companion.next("message").await;
    assert_eq!((attr(&message, "id"), attr(&message, "from")), (id.clone(), format!("{FRIEND}@s.whatsapp.net")));
    assert!(attr(&message, "sender_lid").ends_with("@lid"));
    assert!(message.attrs.get("offline").is_none());
    companion.confirm(&message).await;
    assert_eq!(simulator.devices(NUMBER)[0].queued, 0);
    let receipt = friend.wait_receipt(&id, ReceiptKind::Delivered, LIMIT).await.unwrap();
    assert_eq!(receipt.id, id);
    assert_eq!(simulator.counters().violations, 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_backlog_waits_and_comes_again_until_acknowledged() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = greeted(&simulator).await;
    companion.hang_up();
    let friend = simulator.phone(FRIEND);
    let mut sent = Vec::new();
    for place in 0..25 {
        sent.push(friend.says(NUMBER, &format!("text {place}")).await.unwrap());
    }
    companion.login(&simulator).await;
    let messages = |backlog: &[Node]| -> Vec<String> {
        backlog.iter().filter(|stanza| stanza.tag == "message").map(|stanza| attr(stanza, "id")).collect()
    };
    let backlog = companion.activate().await;
    assert_eq!(messages(&backlog), sent);
    assert!(backlog.iter().all(|stanza| stanza.attrs.get("offline").is_some()));
    companion.confirm(backlog.iter().find(|stanza| stanza.tag == "message").unwrap()).await;
    companion.hang_up();
    companion.login(&simulator).await;
    assert_eq!(messages(&companion.activate().await), sent[1..]);
    simulator.shutdown().await;
}

#[tokio::test]
async fn one_time_keys_are_given_once_and_runs_low_are_told() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = greeted(&simulator).await;
    let mut asking = Companion::linked(&simulator, FRIEND).await;
    let before = simulator.devices(NUMBER)[0].prekeys;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..before {
        let user = NodeBuilder::new("user").attr("jid", companion.jid.clone().unwrap()).build();
        let key = NodeBuilder::new("key").children([user]).build();
        let answer = asking.ask("get", "encrypt", "s.whatsapp.net", [key]).await;
        let given = answer.get_optional_child_by_tag(&["list", "user", "key", "id"]).expect("a one-time key");
        assert!(seen.insert(content(given)), "a key given twice");
        assert!(answer.get_optional_child_by_tag(&["list", "user", "device-identity"]).is_some());
    }
    assert_eq!(simulator.devices(NUMBER)[0].prekeys, 0);
    let low = companion.next("notification").await;
    assert_eq!(attr(&low, "type"), "encrypt");
    let user = NodeBuilder::new("user").attr("jid", "6289999999999@s.whatsapp.net".parse::<Jid>().unwrap()).build();
    let key = NodeBuilder::new("key").children([user]).build();
    let answer = asking.ask("get", "encrypt", "s.whatsapp.net", [key]).await;
    assert_eq!(attr(answer.get_optional_child_by_tag(&["list", "user", "error"]).unwrap(), "code"), "406");
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_group_is_announced_and_its_messages_reach_members_only() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    for lid in [false, true] {
        let number = if lid { "6285555555555" } else { "6284444444444" };
        let mut companion = Companion::linked(&simulator, number).await;
        let group = simulator.create_group("test", &[FRIEND, number, "6283333333333"], lid);
        let news = companion.next("notification").await;
        let created = news.get_optional_child_by_tag(&["create", "group"]).unwrap();
        assert_eq!(attr(created, "addressing_mode"), if lid { "lid" } else { "pn" });
        assert_eq!(created.get_children_by_tag("participant").count(), 3);
        simulator.phone(FRIEND).says(&group, "all").await.unwrap();
        let other = simulator.phone("6283333333333").next_message(LIMIT).await.unwrap();
        assert_eq!(other.text.as_deref(), Some("all"));
        let message = loop {
            let message = companion.next("message").await;
            if attr(&message, "category") != "peer" {
                break message;
            }
        };
        assert_eq!(attr(&message, "from"), group);
        let kinds: Vec<String> = message.get_children_by_tag("enc").map(|enc| attr(enc, "type")).collect();
        assert_eq!(kinds, ["pkmsg", "skmsg"]);
        assert!(simulator.phone("6286666666666").says(&group, "intruder").await.is_err());
    }
    assert_eq!(simulator.counters().violations, 0);
    simulator.shutdown().await;
}
