//! Messages without files, and what they say of other messages.

use serde_json::{Value, json};

use super::support::{KEY, STEP, TestGateway};

const NUMBER: &str = "6281234500211";
const ANI: &str = "6281234500212";
const BUDI: &str = "6281234500213";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_cards_and_polls_arrive() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let place = json!({ "session": "a", "to": ANI, "latitude": -6.1754, "longitude": 106.8272, "name": "Monas" });
    let answer = gateway.api.post("/message/send-location", place).await.expect(200).json();
    assert_eq!(
        answer["data"]["message"].to_string(),
        r#"{"locationMessage":{"degreesLatitude":-6.1754,"degreesLongitude":106.8272,"name":"Monas"}}"#
    );
    let got = ani.next_message(STEP).await.unwrap();
    let location = got.message.location_message.as_option().unwrap();
    assert_eq!((location.degrees_latitude, location.name.as_deref()), (Some(-6.1754), Some("Monas")));

    let card = json!({ "session": "a", "to": ANI, "contact_name": "Budi", "contact_phone": format!("+{BUDI}") });
    gateway.api.post("/message/send-contact", card).await.expect(200);
    let got = ani.next_message(STEP).await.unwrap();
    let contact = got.message.contact_message.as_option().unwrap();
    assert_eq!(contact.display_name.as_deref(), Some("Budi"));
    assert!(contact.vcard.as_deref().unwrap().contains(&format!("waid={BUDI}:+{BUDI}")));
    let two = json!([{ "name": "Ani", "phone": ANI }, { "name": "Budi", "phone": BUDI }]);
    let cards = json!({ "session": "a", "to": ANI, "contacts": two });
    gateway.api.post("/message/send-contact", cards).await.expect(200);
    let got = ani.next_message(STEP).await.unwrap();
    assert_eq!(got.message.contacts_array_message.as_option().unwrap().contacts.len(), 2);

    let poll = json!({ "session": "a", "to": ANI, "question": "Lunch?", "options": ["Soto", "Bakso"] });
    let answer = gateway.api.post("/message/send-poll", poll).await.expect(200).json();
    assert!(answer["data"]["message"]["pollCreationMessageV3"].is_object(), "{answer}");
    let got = ani.next_message(STEP).await.unwrap();
    let poll = got.message.poll_creation_message_v3.as_option().unwrap();
    let names: Vec<_> = poll.options.iter().filter_map(|option| option.option_name.as_deref()).collect();
    assert_eq!((poll.name.as_deref(), names.as_slice()), (Some("Lunch?"), &["Soto", "Bakso"][..]));
    let context = got.message.message_context_info.as_option().unwrap();
    assert_eq!(context.message_secret.as_ref().map(Vec::len), Some(32), "votes can't be read without it");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_whatsapp_spells_otherwise_is_found_and_answered_as_it_was_written() {
    const DIALLED: &str = "5511987654321";
    const ACCOUNT: &str = "551187654321";
    let gateway = TestGateway::start().await;
    let phone = gateway.simulator.phone(ACCOUNT);
    gateway.simulator.spell(DIALLED, ACCOUNT);
    gateway.pair("a", NUMBER).await;
    for text in ["asked", "known"] {
        let answer = gateway.api.text("a", DIALLED, text).await.expect(200).json();
        assert_eq!(answer["data"]["key"]["remoteJid"], format!("{DIALLED}@s.whatsapp.net"));
        assert_eq!(phone.next_message(STEP).await.unwrap().text.as_deref(), Some(text));
    }
    let target = json!({ "session": "a", "target": format!("{DIALLED}@s.whatsapp.net") });
    gateway.api.post("/profile", target).await.expect(200);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_was_cut_within_an_emoji_arrives() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    // As JSON.stringify and json.dumps write it.
    let body = format!(r#"{{"session":"a","to":"{ANI}","text":"good \\ud83d\ude00 day \ud83d"}}"#);
    let url = format!("{}/message/send-text", gateway.api.base());
    let request = gateway.api.client.post(url).header("key", KEY).header("content-type", "application/json");
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    let got = ani.next_message(STEP).await.unwrap();
    assert_eq!(got.text.as_deref(), Some("good \\ud83d\u{fffd} day \u{fffd}"));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_mentions_reactions_edits_and_deletions_name_their_message() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    ani.says(NUMBER, "question").await.unwrap();
    let hook = gateway.receiver.message("a", "question").await;
    let theirs = hook["id"].as_str().unwrap();

    let reply = json!({
        "session": "a", "to": ANI, "text": "hi @628", "reply_to": theirs, "reply_to_text": "question", "mentions": [BUDI],
    });
    let answer = gateway.api.post("/message/send-text", reply).await.expect(200).json();
    let ours = answer["data"]["key"]["id"].as_str().unwrap().to_owned();
    let got = ani.next_message(STEP).await.unwrap();
    assert_eq!(got.text.as_deref(), Some("hi @628"));
    let text = got.message.extended_text_message.as_option().unwrap();
    let context = text.context_info.as_option().unwrap();
    assert_eq!(context.stanza_id.as_deref(), Some(theirs));
    assert_eq!(context.participant, Some(format!("{ANI}@s.whatsapp.net")));
    assert_eq!(context.quoted_message.as_option().unwrap().conversation.as_deref(), Some("question"));
    assert_eq!(context.mentioned_jid, [format!("{BUDI}@s.whatsapp.net")]);

    let reaction = json!({ "session": "a", "to": ANI, "message_id": theirs, "reaction": "\u{1f44d}" });
    let answer = gateway.api.post("/message/send-reaction", reaction).await.expect(200).json();
    assert_eq!(answer["data"]["message"]["reactionMessage"]["key"]["id"], theirs);
    let got = ani.next_message(STEP).await.unwrap();
    let reaction = got.message.reaction_message.as_option().unwrap();
    let key = reaction.key.as_option().unwrap();
    assert_eq!((reaction.text.as_deref(), key.id.as_deref()), (Some("\u{1f44d}"), Some(theirs)));
    assert_eq!(key.from_me, Some(false));
    let taken_back = json!({ "session": "a", "to": ANI, "message_id": ours, "reaction": "", "from_me": true });
    gateway.api.post("/message/send-reaction", taken_back).await.expect(200);
    let got = ani.next_message(STEP).await.unwrap();
    let reaction = got.message.reaction_message.as_option().unwrap();
    assert_eq!((reaction.text.as_deref(), reaction.key.as_option().unwrap().from_me), (Some(""), Some(true)));

    let edit = json!({ "session": "a", "to": ANI, "message_id": ours, "text": "better" });
    let answer = gateway.api.post("/message/edit", edit).await.expect(200).json();
    assert_eq!(answer["data"]["message"]["protocolMessage"]["type"], "MESSAGE_EDIT");
    assert_ne!(answer["data"]["key"]["id"], ours.as_str());
    let got = ani.next_message(STEP).await.unwrap();
    let protocol = got.message.protocol_message.as_option().unwrap();
    assert_eq!(protocol.key.as_option().unwrap().id.as_deref(), Some(ours.as_str()));
    let edited = protocol.edited_message.as_option().unwrap().extended_text_message.as_option().unwrap();
    assert_eq!(edited.text.as_deref(), Some("better"));

    let delete = json!({ "session": "a", "to": ANI, "message_id": ours });
    let answer = gateway.api.post("/message/delete", delete).await.expect(200).json();
    assert_eq!(answer["data"]["message"]["protocolMessage"]["type"], "REVOKE");
    let got = ani.next_message(STEP).await.unwrap();
    let protocol = got.message.protocol_message.as_option().unwrap();
    let key = protocol.key.as_option().unwrap();
    assert_eq!((key.id.as_deref(), key.from_me), (Some(ours.as_str()), Some(true)));
    assert!(protocol.edited_message.as_option().is_none());
    let theirs = json!({ "session": "a", "to": ANI, "message_id": theirs, "participant": ANI });
    let answer = gateway.api.post("/message/delete", theirs).await.expect(400);
    assert_eq!(answer.message(), "participant can be given for groups only field 'participant' on json");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_groups_the_author_is_asked_for() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let group = gateway.simulator.create_group("Toko", &[ANI, BUDI, NUMBER], false);
    let reaction =
        json!({ "session": "a", "to": group, "message_id": "ID", "reaction": "\u{1f44d}", "is_group": true });
    let answer = gateway.api.post("/message/send-reaction", reaction.clone()).await.expect(400);
    assert_eq!(answer.message(), "Required field 'participant' on json");
    let mut named = reaction;
    named["participant"] = Value::from(BUDI);
    let answer = gateway.api.post("/message/send-reaction", named).await.expect(200).json();
    assert!(answer["data"]["participant"].as_str().unwrap().starts_with(NUMBER), "{answer}");
    let got = ani.next_message(STEP).await.unwrap();
    let reaction = got.message.reaction_message.as_option().unwrap();
    assert_eq!(reaction.key.as_option().unwrap().participant, Some(format!("{BUDI}@s.whatsapp.net")));
    let delete = json!({ "session": "a", "to": group, "message_id": "ID", "participant": BUDI });
    gateway.api.post("/message/delete", delete).await.expect(200);
    let got = ani.next_message(STEP).await.unwrap();
    let key = got.message.protocol_message.as_option().unwrap().key.as_option().unwrap();
    assert_eq!(
        (key.from_me, key.participant.as_deref()),
        (Some(false), Some(format!("{BUDI}@s.whatsapp.net").as_str()))
    );
    let reply = json!({ "session": "a", "to": group, "text": "x", "reply_to": "ID" });
    let answer = gateway.api.post("/message/send-text", reply).await.expect(400);
    assert_eq!(answer.message(), "Required field 'reply_to_participant' on json");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_typed_clients_leave_out_as_null_is_absent() {
    let gateway = TestGateway::start().await;
    let ani = gateway.simulator.phone(ANI);
    gateway.pair("a", NUMBER).await;
    let nothing = json!({
        "isGroup": null, "reply_to": null, "reply_to_text": null, "reply_to_from_me": null, "reply_to_participant": null,
        "mentions": null,
    });
    let picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    for (path, members) in [
        ("send-text", json!({ "text": "x" })),
        ("send-text", json!({ "text": "x", "reply_to": "", "mentions": "" })),
        ("send-location", json!({ "latitude": 1, "longitude": 2, "name": null, "address": null })),
        (
            "send-contact",
            json!({ "contacts": [{ "name": "B", "phone": BUDI }], "contact_name": null, "contact_phone": null }),
        ),
        ("send-contact", json!({ "contacts": null, "contact_name": "B", "contact_phone": BUDI })),
        ("send-poll", json!({ "question": "?", "options": ["a", "b"], "max_selections": null })),
        ("send-image", json!({ "text": "", "image_url": null, "image_base64": picture })),
        ("send-sticker", json!({ "image_url": null, "sticker_url": null, "sticker_base64": picture })),
        ("send-audio", json!({ "audio_url": null, "audio_base64": "SUQzAwAAAAAAAA==", "voice": null, "ptt": null })),
        ("send-reaction", json!({ "message_id": "ID", "reaction": "", "participant": null, "from_me": null })),
        ("edit", json!({ "message_id": "ID", "text": "y" })),
        ("delete", json!({ "message_id": "ID", "participant": null })),
    ] {
        let mut body = json!({ "session": "a", "to": ANI });
        for more in [&nothing, &members] {
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        let answer = gateway.api.post(&format!("/message/{path}"), body).await.expect(200);
        assert!(!answer.body.contains("contextInfo"), "{path}: {}", answer.body);
        ani.next_message(STEP).await.unwrap();
    }
    let mut reply = nothing;
    reply.as_object_mut().unwrap().extend([
        ("session".to_owned(), "a".into()),
        ("to".to_owned(), ANI.into()),
        ("text".to_owned(), "x".into()),
        ("reply_to".to_owned(), "ID".into()),
    ]);
    gateway.api.post("/message/send-text", reply).await.expect(200);
    let got = ani.next_message(STEP).await.unwrap();
    let context = got.message.extended_text_message.as_option().unwrap().context_info.as_option().unwrap().clone();
    assert_eq!(context.participant, Some(format!("{ANI}@s.whatsapp.net")));
    // The original's own members are as strict as there.
    for (path, name, wanted) in [
        ("send-text", "is_group", "boolean"),
        ("send-text", "text", "string"),
        ("send-video", "text", "string"),
        ("send-image", "image_url", "string"),
        ("send-document", "document_name", "string"),
    ] {
        let mut body = json!({ "session": "a", "to": ANI, "text": "", "document_url": "http://127.0.0.1:1/" });
        body[name] = Value::Null;
        let answer = gateway.api.post(&format!("/message/{path}"), body).await.expect(400);
        assert_eq!(answer.message(), format!("Expected {wanted}, received null field '{name}' on json"), "{path}");
    }
    gateway.finish().await;
}
