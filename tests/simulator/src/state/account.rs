//! Accounts and their companions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::queue::Queue;
use crate::counters::ClientKind;
use crate::iq::app_state::Collection;
use crate::iq::profile::{About, Picture};
use crate::network::DeviceAddress;
use crate::phone::Phone;
use crate::stanza;

/// Number of a companion that clients take for a hosted device, and so is never given.
const HOSTED: u16 = 99;

/// A phone number with its phone and companions.
pub(crate) struct Account {
    pub(crate) number: String,
    pub(crate) lid: String,
    pub(crate) push_name: String,
    pub(crate) phone: Phone,
    /// One-to-one chats of its companions go by LID.
    pub(crate) lid_migrated: bool,
    pub(crate) devices: BTreeMap<u16, Device>,
    pub(crate) collections: BTreeMap<String, Collection>,
    pub(crate) about: About,
    pub(crate) picture: Option<Picture>,
    pub(crate) privacy: BTreeMap<String, String>,
    pub(crate) blocked: BTreeSet<String>,
    /// Seconds since 1970 at which it was last seen available.
    pub(crate) last_seen: Option<u64>,
    /// Devices that asked for its presence: number, device, and whether they asked by LID.
    pub(crate) subscribers: BTreeSet<(String, u16, bool)>,
    /// Numbers that asked for its device list and are told of changes.
    pub(crate) watchers: BTreeSet<String>,
    next_device: u16,
    next_key_index: u32,
}

impl Account {
    pub(crate) fn new(number: &str, lid: &str, push_name: &str, phone: Phone) -> Self {
        let (collection, patch) = phone.seed_app_state();
        let privacy = ["last", "online", "profile", "status", "readreceipts", "groupadd", "calladd", "messages"];
        Self {
            number: number.to_owned(),
            lid: lid.to_owned(),
            push_name: push_name.to_owned(),
            phone,
            lid_migrated: false,
            devices: BTreeMap::new(),
            collections: BTreeMap::from([(collection.to_owned(), Collection::seeded(patch))]),
            about: About { text: "Hey there! I am using WhatsApp.".to_owned(), time: stanza::now() },
            picture: None,
            privacy: privacy.map(|name| (name.to_owned(), "all".to_owned())).into(),
            blocked: BTreeSet::new(),
            last_seen: None,
            subscribers: BTreeSet::new(),
            watchers: BTreeSet::new(),
            next_device: 1,
            next_key_index: 1,
        }
    }

    pub(crate) fn address(&self, device: u16) -> DeviceAddress {
        DeviceAddress { number: self.number.clone(), lid: self.lid.clone(), device }
    }

    /// Number and key index for the next companion. No key index is given twice; a number is, once 255 have been given, for
    /// an address on the wire has one byte for it.
    pub(crate) fn next_companion(&mut self) -> (u16, u32) {
        let after = |device: u16| device % u16::from(u8::MAX) + 1;
        while self.next_device == HOSTED || self.devices.contains_key(&self.next_device) {
            self.next_device = after(self.next_device);
        }
        let next = (self.next_device, self.next_key_index);
        self.next_device = after(self.next_device);
        self.next_key_index += 1;
        next
    }

    pub(crate) fn key_indexes(&self) -> Vec<u32> {
        let mut indexes = vec![0];
        indexes.extend(self.devices.values().map(|device| device.key_index));
        indexes
    }

    pub(crate) fn available(&self) -> bool {
        self.devices.values().any(|device| device.available)
    }
}

/// How far a companion's connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Offline,
    /// Logged in; nothing is sent until it asks to be active.
    Passive,
    /// The backlog is being sent.
    Draining,
    /// The backlog's end was sent; stanzas go out as they come.
    Live,
}

/// A companion.
pub(crate) struct Device {
    pub(crate) noise: [u8; 32],
    pub(crate) registration: Vec<u8>,
    pub(crate) identity: [u8; 32],
    /// Id, public key, signature.
    pub(crate) signed_key: (Vec<u8>, Vec<u8>, Vec<u8>),
    /// One-time keys, id and public key, oldest first.
    pub(crate) pool: VecDeque<(Vec<u8>, Vec<u8>)>,
    pub(crate) key_index: u32,
    /// `ADVSignedDeviceIdentity` with the account key.
    pub(crate) signed_identity: Vec<u8>,
    pub(crate) client: ClientKind,
    /// What the phone shows under linked devices.
    pub(crate) name: String,
    pub(crate) push_name: String,
    pub(crate) queue: Queue,
    pub(crate) link: Option<u64>,
    pub(crate) phase: Phase,
    /// The phone has sent keys and history.
    pub(crate) greeted: bool,
    pub(crate) available: bool,
    /// The server told that the pool is low; not again before the next upload.
    pub(crate) warned: bool,
}

/// A companion as tests and the control port see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The phone-number form, with the device.
    pub jid: String,
    /// The hidden-identity form, with the device.
    pub lid: String,
    /// Number of the companion on its account.
    pub device: u16,
    /// Index in the account's signed list.
    pub key_index: u32,
    /// Whether a logged-in connection is open.
    pub online: bool,
    /// Whether the backlog was delivered and stanzas go out as they come.
    pub live: bool,
    /// Stanzas that are not acknowledged yet, sent or not.
    pub queued: usize,
    /// What the phone shows under linked devices.
    pub platform: String,
    /// The kind of client: `whatsapp-rust`, `baileys`, `other`.
    pub client: String,
    /// The name in its last presence.
    pub push_name: String,
    /// One-time keys left.
    pub prekeys: usize,
    /// Whether it announced itself available.
    pub available: bool,
}
