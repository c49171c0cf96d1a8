//! The boundary between the server and a phone that lives in this process.
//!
//! A phone is device 0 of its account. It speaks stanzas as a companion does, without a socket: it submits them here,
//! and the router hands it those addressed to device 0 by `Phone::deliver`, which only queues and never blocks.

use async_trait::async_trait;
use bytes::Bytes;
use whatsapp_rust::Jid;
use whatsapp_rust::wacore_binary::Node;

/// One device of one account, in both address forms.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceAddress {
    /// The phone number, digits only.
    pub number: String,
    /// The user part of the hidden identity, digits only.
    pub lid: String,
    /// 0 is the phone, others are companions.
    pub device: u16,
}

impl DeviceAddress {
    /// The phone-number form, `number:device@s.whatsapp.net`.
    pub fn pn_jid(&self) -> Jid {
        Jid::pn_device(self.number.as_str(), self.device)
    }

    /// The hidden-identity form, `lid:device@lid`.
    pub fn lid_jid(&self) -> Jid {
        Jid::lid_device(self.lid.as_str(), self.device)
    }
}

/// The server as a phone sees it.
#[async_trait]
pub trait Network: Send + Sync {
    /// Handles a stanza of `from` on the code path of stanzas from sockets and returns the direct replies
    /// (the IQ result or error, the ack).
    ///
    /// # Errors
    /// The sender is unknown or the server is ending.
    async fn submit(&self, from: &DeviceAddress, stanza: Node) -> anyhow::Result<Vec<Node>>;

    /// Stores an encrypted media object and returns its `direct_path`, to be fetched from the media hosts. `kind` is that
    /// of upload paths, as `image`.
    ///
    /// # Errors
    /// The object cannot be stored, or the server has ended.
    fn put_media(&self, kind: &str, ciphertext: &[u8]) -> anyhow::Result<String>;

    /// Uploads the object of a `direct_path` again, as a phone that has kept the file: its new path. `None` if it never
    /// was there.
    fn restore_media(&self, direct_path: &str) -> Option<String>;

    /// The encrypted media object at a `direct_path` (a query after it is ignored).
    fn media(&self, direct_path: &str) -> Option<Bytes>;
}
