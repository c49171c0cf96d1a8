//! What the server has seen, in numbers, and which protocol features which kind of client has exercised.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Counts since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names say it; the exceptions are explained")]
pub struct Counters {
    pub connections_opened: u64,
    pub handshakes_xx: u64,
    pub handshakes_ik: u64,
    pub handshakes_xxfallback: u64,
    pub handshakes_failed: u64,
    /// Logins that were answered by `success`, in all and by Noise pattern.
    pub logins: u64,
    pub logins_xx: u64,
    pub logins_ik: u64,
    pub logins_xxfallback: u64,
    pub logins_refused: u64,
    pub registrations: u64,
    pub scans_refused: u64,
    /// Companions that showed a code to type.
    pub codes_shown: u64,
    pub codes_refused: u64,
    pub pairings: u64,
    /// `remove-companion-device` of the companion itself.
    pub unlinks: u64,
    /// Removals by the phone.
    pub removals: u64,
    /// Stanzas `message` from clients and phones.
    pub messages_in: u64,
    /// Copies of messages for single devices.
    pub messages_out: u64,
    pub acks_withheld: u64,
    pub nacks: u64,
    pub one_time_keys_given: u64,
    pub key_fetches: u64,
    pub prekey_uploads: u64,
    pub prekeys_uploaded: u64,
    pub signed_key_rotations: u64,
    /// By type; `delivery` has none on the wire.
    pub receipts: BTreeMap<String, u64>,
    /// Retry receipts, by the kind of client that asks.
    pub retries: BTreeMap<String, u64>,
    /// Messages that a client rejected by an ack with `error`, by code.
    pub client_nacks: BTreeMap<String, u64>,
    pub pings: u64,
    pub queries: BTreeMap<String, u64>,
    pub compressed_frames: u64,
    pub offline_delivered: u64,
    /// Ciphertexts whose (sender, recipient, ratchet key, counter) was used before: must stay 0.
    pub repeated_counters: u64,
    /// Byte-identical ciphertexts of one sender to one recipient: must stay 0.
    pub repeated_ciphertexts: u64,
    /// Anything that no correct client does: malformed frames, unasked results, bad keys.
    pub violations: u64,
    pub violations_seen: BTreeMap<String, u64>,
    pub faults_hit: u64,
    /// By companions; what phones put there is not counted.
    pub media_uploads: u64,
    pub media_upload_bytes: u64,
    pub media_downloads: u64,
    pub picture_downloads: u64,
    /// Uploads and downloads that a fault refused.
    pub media_refused: u64,
}

impl Counters {
    pub(crate) fn violation(&mut self, what: &str) {
        tracing::warn!(what, "protocol violation");
        self.violations += 1;
        *self.violations_seen.entry(what.to_owned()).or_default() += 1;
    }
}

/// feature → kinds of clients that exercised it.
pub type Features = BTreeMap<String, BTreeSet<String>>;

/// Kinds of clients, told from the client payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ClientKind {
    /// The whatsapp-rust library, and so the gateway.
    Rust,
    Baileys,
    /// A phone in this process.
    Phone,
    Other,
}

impl ClientKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rust => "whatsapp-rust",
            Self::Baileys => "baileys",
            Self::Phone => "phone",
            Self::Other => "other",
        }
    }

    pub(crate) fn of(payload: &whatsapp_rust::waproto::whatsapp::ClientPayload) -> Self {
        let agent = &payload.user_agent;
        if agent.os_version.as_deref() == Some("0.1") {
            Self::Baileys // baileys 7.0.0-rc: Utils/validate-connection.js
        } else if agent.manufacturer.is_some() && agent.os_build_number.is_some() {
            Self::Rust // whatsapp-rust 0.7.0 always names a manufacturer, if an empty one
        } else {
            Self::Other
        }
    }
}
