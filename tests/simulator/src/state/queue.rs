//! Stanzas for one companion, kept until it acknowledges them.

use std::collections::VecDeque;

use whatsapp_rust::wacore_binary::Node;

use crate::stanza::{attr, attr_jid};

/// What a stanza is acknowledged as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Message,
    Receipt,
    Notification,
}

impl Class {
    pub(crate) fn of(word: &str) -> Option<Self> {
        match word {
            "message" => Some(Self::Message),
            "receipt" => Some(Self::Receipt),
            "notification" => Some(Self::Notification),
            _ => None,
        }
    }
}

struct Kept {
    serial: u64,
    class: Class,
    stanza: Node,
    sent: bool,
}

/// In the order of arrival; what was sent stays in its place until acknowledged.
#[derive(Default)]
pub(crate) struct Queue(VecDeque<Kept>);

impl Queue {
    pub(crate) fn push(&mut self, serial: u64, class: Class, stanza: Node, sent: bool) {
        self.0.push_back(Kept { serial, class, stanza, sent });
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The ids of messages that are not acknowledged yet, sent or not.
    pub(crate) fn messages(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter(|kept| kept.class == Class::Message).filter_map(|kept| attr(&kept.stanza, "id"))
    }

    /// After a lost connection everything is to be sent again.
    pub(crate) fn rewind(&mut self) {
        for kept in &mut self.0 {
            kept.sent = false;
        }
    }

    /// How many wait, by class: messages, receipts, notifications.
    pub(crate) fn waiting(&self) -> [usize; 3] {
        [Class::Message, Class::Receipt, Class::Notification]
            .map(|class| self.0.iter().filter(|kept| !kept.sent && kept.class == class).count())
    }

    /// How many are not acknowledged, sent or not, by class: messages, receipts, notifications.
    pub(crate) fn unacknowledged(&self) -> [usize; 3] {
        [Class::Message, Class::Receipt, Class::Notification]
            .map(|class| self.0.iter().filter(|kept| kept.class == class).count())
    }

    /// The next stanzas that were not sent yet, now taken as sent.
    pub(crate) fn take(&mut self, most: usize) -> Vec<Node> {
        let unsent = self.0.iter_mut().filter(|kept| !kept.sent).take(most);
        unsent
            .map(|kept| {
                kept.sent = true;
                kept.stanza.clone()
            })
            .collect()
    }

    /// Takes out what an ack of this class and id means. Several receipts may have one id: the one whose sender, type
    /// and participant agree goes first. Returns whether there was one.
    pub(crate) fn acknowledge(&mut self, class: Class, id: &str, ack: &Node) -> bool {
        let matches = self.0.iter().filter(|kept| {
            kept.sent && kept.class == class && kept.stanza.attrs.get("id").is_some_and(|own| *own == *id)
        });
        let chosen = matches
            .max_by_key(|kept| {
                let user = |jid: Option<whatsapp_rust::Jid>| jid.map(|jid| jid.to_non_ad());
                let from = user(attr_jid(&kept.stanza, "from")) == user(attr_jid(ack, "to"));
                let kind = attr(&kept.stanza, "type") == attr(ack, "type");
                let participant = user(attr_jid(&kept.stanza, "participant")) == user(attr_jid(ack, "participant"));
                (u8::from(from) + u8::from(kind) + u8::from(participant), std::cmp::Reverse(kept.serial))
            })
            .map(|kept| kept.serial);
        let Some(serial) = chosen else { return false };
        self.0.retain(|kept| kept.serial != serial);
        true
    }
}
