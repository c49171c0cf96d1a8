//! What a message's stanza says about it beside the ciphertext: kind, edit, media, poll. The same for every copy.

use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore::proto_helpers::MessageExt;
use whatsapp_rust::wacore::send::{media_type_from_message, should_hide_decrypt_fail, stanza_type_from_message};
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    kind: &'static str,
    /// 1 edits, 2 pins, 7 takes back what is one's own, 8 what is another's (WhatsApp Web, `EDIT_ATTR`).
    edit: Option<&'static str>,
    media: Option<&'static str>,
    /// Who cannot decrypt it shows nothing.
    hidden: bool,
    poll: Option<&'static str>,
}

impl Label {
    pub(super) fn of(message: &wa::Message) -> Self {
        let edit = edit(message);
        let base = message.get_base_message();
        let creation = base.poll_creation_message.is_set()
            || base.poll_creation_message_v2.is_set()
            || base.poll_creation_message_v3.is_set();
        let poll = match (creation, base.poll_update_message.is_set()) {
            (true, _) => Some("creation"),
            (false, true) => Some("vote"),
            (false, false) => None,
        };
        Self {
            kind: stanza_type_from_message(message),
            edit,
            media: media_type_from_message(message),
            hidden: should_hide_decrypt_fail(message),
            poll,
        }
    }

    /// The stanza with the attributes that describe its message.
    pub(super) fn on(self, stanza: NodeBuilder) -> NodeBuilder {
        let stanza = stanza.attr("type", self.kind);
        match self.edit {
            Some(edit) => stanza.attr("edit", edit),
            None => stanza,
        }
    }

    /// The children that describe the message.
    pub(super) fn children(self) -> impl Iterator<Item = Node> {
        self.poll.map(|kind| NodeBuilder::new("meta").attr("polltype", kind).build()).into_iter()
    }

    /// The ciphertext of one copy.
    pub(super) fn enc(self, kind: &'static str, bytes: Vec<u8>) -> Node {
        let mut enc = NodeBuilder::new("enc").attr("v", "2").attr("type", kind);
        if let Some(media) = self.media {
            enc = enc.attr("mediatype", media);
        }
        if self.hidden {
            enc = enc.attr("decrypt-fail", "hide");
        }
        enc.bytes(bytes).build()
    }
}

fn edit(message: &wa::Message) -> Option<&'static str> {
    if message.edited_message.is_set() {
        return Some("1");
    }
    if message.pin_in_chat_message.is_set() {
        return Some("2");
    }
    if message.reaction_message.as_option().is_some_and(|reaction| reaction.text.as_deref() == Some("")) {
        return Some("7");
    }
    let protocol = message.protocol_message.as_option()?;
    match protocol.r#type? {
        Type::MESSAGE_EDIT => Some("1"),
        Type::REVOKE => {
            let own = protocol.key.as_option().is_none_or(|key| key.from_me != Some(false));
            Some(if own { "7" } else { "8" })
        }
        _ => None,
    }
}
