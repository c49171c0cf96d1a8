//! Which messages the webhook is told of.

use whatsapp_rust::Jid;
use whatsapp_rust::prelude::MessageBuilderExt as _;
use whatsapp_rust::types::message::{MessageInfo, MessageSource};
use whatsapp_rust::waproto::whatsapp as wa;

use super::is_reported;

#[test]
fn chats_and_channels_are_reported_and_broadcasts_and_own_messages_are_not() {
    for (chat, is_from_me, expected) in [
        ("6281111111111@s.whatsapp.net", false, true),
        ("987654@lid", false, true),
        ("120363012345678901@g.us", false, true),
        ("123@newsletter", false, true),
        ("status@broadcast", false, false),
        ("1600000000@broadcast", false, false),
        ("6281111111111@s.whatsapp.net", true, false),
    ] {
        let chat: Jid = chat.parse().unwrap();
        let source = MessageSource { chat: chat.clone(), sender: chat, is_from_me, ..MessageSource::default() };
        let info = MessageInfo { source, ..MessageInfo::default() };
        assert_eq!(is_reported(&wa::Message::text("hi"), &info), expected, "{info:?}");
    }
}
