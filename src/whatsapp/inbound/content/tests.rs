use serde_json::{Value, json};
use whatsapp_rust::waproto::whatsapp::message::{
    AudioMessage, ButtonsResponseMessage, ContactMessage, ContactsArrayMessage, DeviceSentMessage, DocumentMessage,
    ExtendedTextMessage, FutureProofMessage, ImageMessage, ListResponseMessage, LiveLocationMessage, LocationMessage,
    PollCreationMessage, PollUpdateMessage, ProtocolMessage, ReactionMessage, StickerMessage,
    TemplateButtonReplyMessage, VideoMessage,
};

use super::*;

fn some<T: Default>(value: T) -> MessageField<T> {
    MessageField::some(value)
}

fn said(text: &str) -> wa::Message {
    wa::Message { conversation: Some(text.to_owned()), ..wa::Message::default() }
}

fn wrapped(message: wa::Message) -> MessageField<FutureProofMessage> {
    some(FutureProofMessage { message: some(message) })
}

/// The text and our members, as JSON.
fn told(message: &wa::Message) -> (Option<String>, Value) {
    let opened = open(message);
    (text(opened.message), serde_json::to_value(content(&opened)).unwrap())
}

fn key(id: &str) -> MessageField<wa::MessageKey> {
    some(wa::MessageKey { id: Some(id.to_owned()), ..wa::MessageKey::default() })
}

#[expect(clippy::unnecessary_wraps, reason = "the fields of messages are optional")]
fn owned(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn texts_are_found_in_the_originals_order() {
    let mut all = wa::Message {
        conversation: owned("1"),
        extended_text_message: some(ExtendedTextMessage { text: owned("2"), ..Default::default() }),
        image_message: some(ImageMessage { caption: owned("3"), ..Default::default() }),
        video_message: some(VideoMessage { caption: owned("4"), ..Default::default() }),
        document_message: some(DocumentMessage { caption: owned("5"), ..Default::default() }),
        contact_message: some(ContactMessage { display_name: owned("6"), ..Default::default() }),
        location_message: some(LocationMessage { comment: owned("7"), ..Default::default() }),
        live_location_message: some(LiveLocationMessage { caption: owned("8"), ..Default::default() }),
        ..Default::default()
    };
    let mut seen = vec![text(&all)];
    all.conversation = owned("");
    seen.push(text(&all));
    all.extended_text_message = MessageField::default();
    seen.push(text(&all));
    all.image_message = MessageField::default();
    seen.push(text(&all));
    all.video_message = MessageField::default();
    seen.push(text(&all));
    all.document_message = MessageField::default();
    seen.push(text(&all));
    all.contact_message = MessageField::default();
    seen.push(text(&all));
    all.location_message = MessageField::default();
    seen.push(text(&all));
    all.live_location_message = MessageField::default();
    seen.push(text(&all));
    let wanted = ["1", "2", "3", "4", "5", "6", "7", "8"].map(owned);
    assert_eq!(seen[..8], wanted);
    assert_eq!(seen[8], None);
}

#[test]
fn wrappers_are_opened_however_they_are_nested() {
    let text = || said("inside");
    let wraps: [fn(MessageField<FutureProofMessage>) -> wa::Message; 6] = [
        |m| wa::Message { ephemeral_message: m, ..Default::default() },
        |m| wa::Message { view_once_message: m, ..Default::default() },
        |m| wa::Message { view_once_message_v2: m, ..Default::default() },
        |m| wa::Message { view_once_message_v2_extension: m, ..Default::default() },
        |m| wa::Message { document_with_caption_message: m, ..Default::default() },
        |m| wa::Message { edited_message: m, ..Default::default() },
    ];
    for outer in wraps {
        assert_eq!(open(&outer(wrapped(text()))).message.conversation.as_deref(), Some("inside"));
        for inner in wraps {
            let message = outer(wrapped(inner(wrapped(text()))));
            assert_eq!(open(&message).message.conversation.as_deref(), Some("inside"));
        }
    }
    let sent = DeviceSentMessage { message: some(wraps[0](wrapped(text()))), ..Default::default() };
    let message = wa::Message { device_sent_message: some(sent), ..Default::default() };
    assert_eq!(open(&message).message.conversation.as_deref(), Some("inside"));
    assert!(open(&wraps[1](wrapped(text()))).view_once && !open(&wraps[0](wrapped(text()))).view_once);

    let mut deep = text();
    for _ in 0..1_000 {
        deep = wraps[0](wrapped(deep));
    }
    assert_eq!(open(&deep).message.conversation, None, "bounded");
}

#[test]
fn an_edit_tells_the_new_text_and_the_id_of_the_old() {
    let protocol = ProtocolMessage { key: key("OLD"), edited_message: some(said("better")), ..Default::default() };
    let edit = wa::Message { protocol_message: some(protocol), ..Default::default() };
    let inside = wa::Message { edited_message: wrapped(edit.clone()), ..Default::default() };
    for message in [edit, inside] {
        assert_eq!(told(&message), (owned("better"), json!({"type": "edit", "edited": "OLD"})));
    }
    let revoke = ProtocolMessage { key: key("OLD"), ..Default::default() };
    let revoke = wa::Message { protocol_message: some(revoke), ..Default::default() };
    assert!(open(&revoke).message.protocol_message.is_set(), "a revoke stays what it is");
}

#[test]
fn each_kind_is_told_with_its_small_object() {
    use whatsapp_rust::waproto::whatsapp::message::poll_creation_message::Option as PollOption;
    let card = |name: &str| ContactMessage { display_name: owned(name), vcard: owned("VCARD"), ..Default::default() };
    let option = |name: &str| PollOption { option_name: owned(name), ..Default::default() };
    let empty = wa::Message::default;
    for (message, text, wanted) in [
        (said("hi"), Some("hi"), json!({"type": "text"})),
        (
            wa::Message {
                location_message: some(LocationMessage {
                    degrees_latitude: Some(-6.5),
                    degrees_longitude: Some(106.75),
                    name: owned("Monas"),
                    ..Default::default()
                }),
                ..empty()
            },
            None,
            json!({"type": "location", "location":
                {"latitude": -6.5, "longitude": 106.75, "name": "Monas", "address": null}}),
        ),
        (
            wa::Message {
                live_location_message: some(LiveLocationMessage {
                    degrees_latitude: Some(f64::NAN),
                    degrees_longitude: Some(1.0),
                    ..Default::default()
                }),
                ..empty()
            },
            None,
            json!({"type": "location"}),
        ),
        (
            wa::Message { contact_message: some(card("Ani")), ..empty() },
            Some("Ani"),
            json!({"type": "contact", "contacts": [{"name": "Ani", "vcard": "VCARD"}]}),
        ),
        (
            wa::Message {
                contacts_array_message: some(ContactsArrayMessage {
                    contacts: vec![card("Ani"), card("Budi")],
                    ..Default::default()
                }),
                ..empty()
            },
            None,
            json!({"type": "contact",
                "contacts": [{"name": "Ani", "vcard": "VCARD"}, {"name": "Budi", "vcard": "VCARD"}]}),
        ),
        (
            wa::Message {
                reaction_message: some(ReactionMessage {
                    key: key("M1"),
                    text: owned("\u{1f44d}"),
                    ..Default::default()
                }),
                ..empty()
            },
            None,
            json!({"type": "reaction", "reaction": {"id": "M1", "text": "\u{1f44d}"}}),
        ),
        (
            wa::Message {
                poll_creation_message_v3: some(PollCreationMessage {
                    name: owned("Lunch?"),
                    options: vec![option("soto"), option("bakso")],
                    ..Default::default()
                }),
                ..empty()
            },
            None,
            json!({"type": "poll", "poll": {"name": "Lunch?", "options": ["soto", "bakso"]}}),
        ),
        (
            wa::Message {
                poll_update_message: some(PollUpdateMessage {
                    poll_creation_message_key: key("P1"),
                    ..Default::default()
                }),
                ..empty()
            },
            None,
            json!({"type": "poll_vote", "poll": {"id": "P1"}}),
        ),
        (empty(), None, json!({"type": "unknown"})),
    ] {
        assert_eq!(told(&message), (text.map(str::to_owned), wanted));
    }
}

#[test]
fn a_choice_is_told_with_its_id_and_its_words() {
    use whatsapp_rust::waproto::whatsapp::__buffa::oneof::message::buttons_response_message::Response;
    use whatsapp_rust::waproto::whatsapp::message::list_response_message::SingleSelectReply;
    let row = SingleSelectReply { selected_row_id: owned("r1") };
    let empty = wa::Message::default;
    for (message, wanted) in [
        (
            wa::Message {
                buttons_response_message: some(ButtonsResponseMessage {
                    selected_button_id: owned("b1"),
                    response: Some(Response::SelectedDisplayText("Yes".to_owned())),
                    ..Default::default()
                }),
                ..empty()
            },
            json!({"type": "button", "choice": {"id": "b1", "text": "Yes"}}),
        ),
        (
            wa::Message {
                list_response_message: some(ListResponseMessage {
                    title: owned("Row"),
                    single_select_reply: some(row),
                    ..Default::default()
                }),
                ..empty()
            },
            json!({"type": "button", "choice": {"id": "r1", "text": "Row"}}),
        ),
        (
            wa::Message {
                template_button_reply_message: some(TemplateButtonReplyMessage {
                    selected_id: owned("t1"),
                    selected_display_text: owned("Go"),
                    ..Default::default()
                }),
                ..empty()
            },
            json!({"type": "button", "choice": {"id": "t1", "text": "Go"}}),
        ),
    ] {
        assert_eq!(told(&message), (None, wanted));
    }
}

#[test]
fn files_are_found_with_what_their_sender_says_of_them() {
    let document = DocumentMessage {
        file_name: owned("Q3 report.pdf"),
        mimetype: owned("application/pdf"),
        file_length: Some(9),
        caption: owned("here"),
        ..Default::default()
    };
    let document = wa::Message { document_message: some(document), ..Default::default() };
    let document = wa::Message { document_with_caption_message: wrapped(document), ..Default::default() };
    let wanted = json!({"type": "document", "mimetype": "application/pdf", "file_name": "Q3 report.pdf", "size": 9});
    assert_eq!(told(&document), (owned("here"), wanted));
    for (message, kind, word) in [
        (wa::Message { image_message: some(ImageMessage::default()), ..Default::default() }, FileKind::Image, "image"),
        (wa::Message { video_message: some(VideoMessage::default()), ..Default::default() }, FileKind::Video, "video"),
        (wa::Message { ptv_message: some(VideoMessage::default()), ..Default::default() }, FileKind::Video, "video"),
        (wa::Message { audio_message: some(AudioMessage::default()), ..Default::default() }, FileKind::Audio, "audio"),
        (
            wa::Message { sticker_message: some(StickerMessage::default()), ..Default::default() },
            FileKind::Sticker,
            "sticker",
        ),
    ] {
        assert_eq!(file(&message).map(|file| file.kind), Some(kind));
        assert_eq!(told(&message).1["type"], word);
    }
    assert!(file(&said("x")).is_none());
}

#[test]
fn replies_and_mentions_are_told() {
    let context = wa::ContextInfo {
        stanza_id: owned("Q1"),
        participant: owned("1@s.whatsapp.net"),
        quoted_message: some(wa::Message { ephemeral_message: wrapped(said("before")), ..Default::default() }),
        mentioned_jid: vec!["2@s.whatsapp.net".to_owned()],
        ..Default::default()
    };
    let reply = ExtendedTextMessage { text: owned("@2 yes"), context_info: some(context), ..Default::default() };
    let reply = wa::Message { extended_text_message: some(reply), ..Default::default() };
    let quoted = json!({"id": "Q1", "participant": "1@s.whatsapp.net", "text": "before"});
    let wanted = json!({"type": "text", "quoted": quoted, "mentions": ["2@s.whatsapp.net"]});
    assert_eq!(told(&reply), (owned("@2 yes"), wanted));
}
