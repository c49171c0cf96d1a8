//! Groups, hidden identities, and messages that need a second try.

use serde_json::json;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::ContextInfo;
use whatsapp_rust::waproto::whatsapp::message::ExtendedTextMessage;
use whatsapp_simulator::Options;

use super::support::{STEP, TestGateway};

const NUMBER: &str = "6281234500041";
const ANI: &str = "6281234500042";
const BUDI: &str = "6281234500043";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_be_written_to_is_told_as_such() {
    let gateway = TestGateway::start().await;
    gateway.pair("a", NUMBER).await;
    let others = gateway.simulator.create_group("Others", &[ANI, BUDI], true);
    for (group, status, why) in [
        (others.as_str(), 403, "WhatsApp refused the message with code 403: The session is not a member of this group"),
        ("120363000000000000@g.us", 404, "WhatsApp refused the message with code 404: Group not found"),
    ] {
        let refused = gateway.api.text("a", group, "to nobody").await.expect(status);
        assert_eq!(refused.message(), why);
        assert_eq!(refused.json()["data"]["key"]["remoteJid"], group);
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_written_to_and_heard_in_both_address_forms() {
    for lid_mode in [false, true] {
        let mut gateway = TestGateway::start().await;
        let (ani, budi) = (gateway.simulator.phone(ANI), gateway.simulator.phone(BUDI));
        gateway.pair("a", NUMBER).await;
        let group = gateway.simulator.create_group("Toko", &[ANI, BUDI, NUMBER], lid_mode);

        let answer = gateway.api.text("a", &group, "to all").await.expect(200).json();
        assert!(answer["data"]["participant"].as_str().unwrap().starts_with(NUMBER));
        for phone in [&ani, &budi] {
            assert_eq!(phone.next_message(STEP).await.unwrap().text.as_deref(), Some("to all"));
        }
        ani.says(&group, "from ani").await.unwrap();
        let hook = gateway.receiver.message("a", "from ani").await;
        assert_eq!(hook["from"], group.as_str());
        assert_eq!(hook["is_group"], true);
        assert_eq!(hook["participant"], format!("{ANI}@s.whatsapp.net"));
        assert_eq!(hook["participant_name"], ani.push_name());
        assert!(hook["from_lid"].as_str().is_some_and(|lid| lid.ends_with("@lid")), "{hook}");

        // The author of what a message answers is told by the number too, though it is the session itself; whom it mentions
        // as in its text.
        let named = [NUMBER, ANI].map(|number| format!("{}@lid", gateway.simulator.phone(number).address().lid));
        let context = ContextInfo {
            mentioned_jid: named.to_vec(),
            stanza_id: Some("3EB0".to_owned()),
            participant: Some(named[0].clone()),
            ..ContextInfo::default()
        };
        let text = ExtendedTextMessage {
            text: Some("you all".to_owned()),
            context_info: MessageField::some(context),
            ..ExtendedTextMessage::default()
        };
        let message = wa::Message { extended_text_message: MessageField::some(text), ..wa::Message::default() };
        ani.sends_message(&group, message).await.unwrap();
        let hook = gateway.receiver.message("a", "you all").await;
        assert_eq!(hook["mentions"], json!(named));
        assert_eq!(hook["quoted"]["participant"], format!("{NUMBER}@s.whatsapp.net"));
        assert_eq!(budi.next_message(STEP).await.unwrap().text.as_deref(), Some("from ani"));
        assert_eq!(budi.next_message(STEP).await.unwrap().text.as_deref(), Some("you all"));

        gateway.restart().await;
        gateway.api.wait_status("a", "connected").await;
        gateway.api.text("a", &group, "after the restart").await.expect(200);
        assert_eq!(budi.next_message(STEP).await.unwrap().text.as_deref(), Some("after the restart"));
        budi.says(&group, "from budi").await.unwrap();
        gateway.receiver.message("a", "from budi").await;
        assert_eq!(gateway.simulator.counters().repeated_counters, 0);
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_by_lid_names_the_phone_number() {
    let gateway = TestGateway::start_with(Options::default(), &[]).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.simulator.set_lid_migrated(NUMBER, true);
    gateway.simulator.set_lid_migrated(ANI, true);
    gateway.pair("a", NUMBER).await;
    ani.says(NUMBER, "by lid").await.unwrap();
    let hook = gateway.receiver.message("a", "by lid").await;
    assert_eq!(hook["from"], format!("{ANI}@s.whatsapp.net"));
    assert!(hook["from_lid"].as_str().is_some_and(|lid| lid.ends_with("@lid")), "{hook}");
    gateway.api.text("a", ANI, "answer").await.expect(200);
    assert_eq!(ani.next_message(STEP).await.unwrap().text.as_deref(), Some("answer"));
    // An answer straight to the hidden address arrives too.
    gateway.api.text("a", hook["from_lid"].as_str().unwrap(), "to the lid").await.expect(200);
    assert_eq!(ani.next_message(STEP).await.unwrap().text.as_deref(), Some("to the lid"));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_that_lost_its_keys_gets_the_message_by_retry() {
    let gateway = TestGateway::start().await;
    gateway.pair("a", NUMBER).await;
    let ani = gateway.simulator.phone(ANI);
    gateway.api.text("a", ANI, "first").await.expect(200);
    assert_eq!(ani.next_message(STEP).await.unwrap().text.as_deref(), Some("first"));
    ani.says(NUMBER, "seen").await.unwrap();
    gateway.receiver.message("a", "seen").await;
    let sender = gateway.simulator.devices(NUMBER)[0].jid.parse().unwrap();
    ani.forget_session(&sender);
    gateway.api.text("a", ANI, "second").await.expect(200);
    assert_eq!(ani.next_message(STEP).await.unwrap().text.as_deref(), Some("second"));
    assert_eq!(gateway.simulator.counters().repeated_counters, 0);
    gateway.finish().await;
}
