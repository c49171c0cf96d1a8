//! The Signal state of one phone: pairwise sessions, sender keys, and which ciphertext keys were seen before.
//!
//! Everything is synchronous and called under the phone's lock, which is never held across a wait. Devices are filed
//! under their LID as soon as it is known, so that both address forms of a device share one session.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, anyhow, ensure};
use futures_util::FutureExt;
use rand::RngExt;
use rand::rngs::StdRng;
use whatsapp_rust::wacore::libsignal::protocol::{
    CiphertextMessage, GenericSignedPreKey, IdentityKeyPair, KeyPair, PreKeyBundle, PreKeyId, PreKeyRecord,
    PreKeySignalMessage, ProtocolAddress, SenderKeyDistributionMessage, SenderKeyMessage, SenderKeyName, SignalMessage,
    SignalProtocolError, SignedPreKeyId, SignedPreKeyRecord, Timestamp, UsePQRatchet,
    create_sender_key_distribution_message, group_decrypt, group_encrypt, message_decrypt, message_encrypt,
    process_prekey_bundle, process_sender_key_distribution_message,
};
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder};

use super::stores::{Identities, PreKeys, SenderKeys, Sessions, SignedKey};

/// The name under which the phone's own sender keys are filed.
const OWN: &str = "own";

/// What the server hands to those who want to write to device 0.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The device's registration id.
    pub registration_id: u32,
    /// The identity key, which is the account key too.
    pub identity: [u8; 32],
    /// Id, public key and signature of the signed pre-key.
    pub signed_key: (u32, [u8; 32], [u8; 64]),
    /// Id and public key of a one-time key that nobody else was given.
    pub one_time_key: (u32, [u8; 32]),
}

impl Bundle {
    /// The children of a bundle as they go over the wire, in the order `type`, `identity`, `key`, `skey`.
    pub fn nodes(&self) -> [Node; 4] {
        let value = |tag, bytes: &[u8]| NodeBuilder::new(tag).bytes(bytes).build();
        let id = |id: u32| NodeBuilder::new("id").bytes(&id.to_be_bytes()[1..]).build();
        let (signed_id, signed, signature) = &self.signed_key;
        let (one_time_id, one_time) = &self.one_time_key;
        [
            value("type", &[5]),
            value("identity", &self.identity),
            NodeBuilder::new("key").children([id(*one_time_id), value("value", one_time)]).build(),
            NodeBuilder::new("skey")
                .children([id(*signed_id), value("value", signed), value("signature", signature)])
                .build(),
        ]
    }
}

/// An encrypted message for one device.
#[derive(Debug)]
pub(super) struct Sealed {
    /// `pkmsg` or `msg`.
    pub(super) kind: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// A decrypted message.
pub(super) struct Opened {
    /// With its padding.
    pub(super) plaintext: Vec<u8>,
    /// The position in the chain that encrypted it.
    pub(super) counter: u32,
    /// The identity that a `pkmsg` came with.
    pub(super) identity: Option<[u8; 32]>,
}

/// Why a ciphertext did not open.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The very same message was decrypted before.
    Duplicate,
    /// Keys are missing or do not fit; the sender can help.
    Undecryptable(SignalProtocolError),
}

impl From<SignalProtocolError> for OpenError {
    fn from(error: SignalProtocolError) -> Self {
        match error {
            SignalProtocolError::DuplicatedMessage(..) => Self::Duplicate,
            other => Self::Undecryptable(other),
        }
    }
}

/// See the module.
pub(super) struct Signal {
    pub(super) sessions: Sessions,
    identities: Identities,
    pre_keys: PreKeys,
    signed_key: SignedKey,
    signed_key_signature: [u8; 64],
    next_key: u32,
    sender_keys: SenderKeys,
    /// Group → devices that hold the phone's current sender key.
    holders: HashMap<String, HashSet<String>>,
    /// Phone number → LID, both without server.
    lids: HashMap<String, String>,
    /// (sender, chain, counter) → hash of the ciphertext that used it.
    used: HashMap<(String, Vec<u8>, u32), u64>,
    repeated: u64,
    rng: StdRng,
}

impl Signal {
    /// A fresh device around the account's key pair.
    pub(super) fn new(own: &KeyPair) -> anyhow::Result<Self> {
        let mut rng: StdRng = rand::make_rng();
        let pair = KeyPair::generate(&mut rng);
        let signature = own.private_key.calculate_signature(&pair.public_key.serialize(), &mut rng)?;
        let id = SignedPreKeyId::from(1);
        let record = SignedPreKeyRecord::new(id, Timestamp::from_epoch_millis(0), &pair, &signature);
        // Registration ids have 14 bits (Signal protocol).
        let registration_id = rng.random_range(1..0x3fff);
        Ok(Self {
            sessions: Sessions::default(),
            identities: Identities {
                own: IdentityKeyPair::from(KeyPair::new(own.public_key, own.private_key.clone())),
                registration_id,
                known: HashMap::new(),
            },
            pre_keys: PreKeys::default(),
            signed_key: SignedKey { id, record },
            signed_key_signature: signature.as_ref().try_into().context("a signature has 64 bytes")?,
            next_key: 1,
            sender_keys: SenderKeys::default(),
            holders: HashMap::new(),
            lids: HashMap::new(),
            used: HashMap::new(),
            repeated: 0,
            rng,
        })
    }

    /// The registration id of device 0.
    pub(super) fn registration_id(&self) -> u32 {
        self.identities.registration_id
    }

    /// Makes a bundle with a one-time key of its own.
    pub(super) fn bundle(&mut self) -> anyhow::Result<Bundle> {
        let pair = KeyPair::generate(&mut self.rng);
        let id = self.next_key;
        // Ids have three bytes on the wire.
        self.next_key = self.next_key % 0x00ff_ffff + 1;
        self.pre_keys.insert(PreKeyId::from(id), PreKeyRecord::new(PreKeyId::from(id), &pair));
        Ok(Bundle {
            registration_id: self.identities.registration_id,
            identity: key_bytes(self.identities.own.public_key().public_key_bytes())?,
            signed_key: (
                self.signed_key.id.into(),
                key_bytes(self.signed_key.record.public_key()?.public_key_bytes())?,
                self.signed_key_signature,
            ),
            one_time_key: (id, key_bytes(pair.public_key.public_key_bytes())?),
        })
    }

    /// Learns that both address forms are one user, and moves what was filed under the number.
    pub(super) fn learn(&mut self, number: &str, lid: &str) {
        if self.lids.insert(number.to_owned(), lid.to_owned()).as_deref() == Some(lid) {
            return;
        }
        let renamed = |key: &str| {
            let rest = key.strip_prefix(number)?;
            let (device, tail) = rest.split_once("@s.whatsapp.net")?;
            (device.is_empty() || device.starts_with(':')).then(|| format!("{lid}{device}@lid{tail}"))
        };
        rename(&mut self.sessions.0, renamed);
        rename(&mut self.identities.known, renamed);
        rename(&mut self.sender_keys.0, |key| {
            let (group, sender) = key.split_once(':')?;
            Some(format!("{group}:{}", renamed(sender)?))
        });
        for devices in self.holders.values_mut() {
            *devices = devices.drain().map(|device| renamed(&device).unwrap_or(device)).collect();
        }
    }

    /// The LID of a phone number, once learned.
    pub(super) fn lid_of(&self, number: &str) -> Option<&str> {
        self.lids.get(number).map(String::as_str)
    }

    /// The form under which a device is filed: its LID if known.
    pub(super) fn filed(&self, device: &Jid) -> String {
        let lid = if device.is_pn() { self.lids.get(device.user.as_str()) } else { None };
        match lid {
            Some(lid) => Jid::lid_device(lid.as_str(), device.device).to_string(),
            None => Jid { agent: 0, ..device.clone() }.to_string(),
        }
    }

    fn address(&self, device: &Jid) -> ProtocolAddress {
        ProtocolAddress::new(&self.filed(device), 0.into())
    }

    /// Whether a session with the device exists.
    pub(super) fn has_session(&self, device: &Jid) -> bool {
        self.sessions.0.contains_key(self.address(device).as_str())
    }

    /// The registration id that the device had when the session was made.
    pub(super) fn remote_registration_id(&self, device: &Jid) -> Option<u32> {
        self.sessions.0.get(self.address(device).as_str())?.remote_registration_id().ok()
    }

    /// Loses the session with the device, as a phone restored from a backup does.
    pub(super) fn forget_session(&mut self, device: &Jid) {
        let address = self.address(device);
        self.sessions.0.remove(address.as_str());
    }

    /// Starts a session from a bundle; one that exists is kept for reading only.
    pub(super) fn open_session(&mut self, device: &Jid, bundle: &PreKeyBundle) -> anyhow::Result<()> {
        let address = self.address(device);
        ready(process_prekey_bundle(
            &address,
            &mut self.sessions,
            &mut self.identities,
            bundle,
            &mut self.rng,
            UsePQRatchet::No,
        ))
        .with_context(|| format!("bundle of {device}"))?;
        Ok(())
    }

    /// Encrypts for one device, with which a session must exist.
    pub(super) fn seal(&mut self, device: &Jid, padded: &[u8]) -> anyhow::Result<Sealed> {
        let address = self.address(device);
        let message = ready(message_encrypt(padded, &address, &mut self.sessions, &mut self.identities))?;
        let kind = match &message {
            CiphertextMessage::PreKeySignalMessage(_) => "pkmsg",
            CiphertextMessage::SignalMessage(_) => "msg",
            _ => return Err(anyhow!("unexpected ciphertext kind")),
        };
        Ok(Sealed { kind, bytes: message.serialize().to_vec() })
    }

    /// Decrypts a `pkmsg` or `msg`.
    pub(super) fn open(&mut self, device: &Jid, kind: &str, bytes: &[u8]) -> Result<Opened, OpenError> {
        let message = if kind == "pkmsg" {
            CiphertextMessage::PreKeySignalMessage(PreKeySignalMessage::try_from(bytes)?)
        } else {
            CiphertextMessage::SignalMessage(SignalMessage::try_from(bytes)?)
        };
        let (inner, identity) = match &message {
            CiphertextMessage::PreKeySignalMessage(message) => {
                (message.message(), key_bytes(message.identity_key().public_key().public_key_bytes()).ok())
            }
            CiphertextMessage::SignalMessage(message) => (message, None),
            _ => return Err(SignalProtocolError::InvalidProtobufEncoding.into()),
        };
        let (counter, chain) = (inner.counter(), inner.sender_ratchet_key().serialize().to_vec());
        let (address, filed) = (self.address(device), self.filed(device));
        let digest = digest(inner.serialized());
        let result = ready(message_decrypt(
            &message,
            &address,
            &mut self.sessions,
            &mut self.identities,
            &mut self.pre_keys,
            &self.signed_key,
            &mut self.rng,
            UsePQRatchet::No,
        ));
        self.note_use((filed, chain, counter), digest);
        let result = result?;
        if let Some(id) = result.consumed_prekey_id {
            self.pre_keys.remove(id);
        }
        Ok(Opened { plaintext: result.plaintext, counter, identity })
    }

    /// The phone's sender key for the group, as others take it in; makes one if there is none.
    pub(super) fn distribution(&mut self, group: &Jid) -> anyhow::Result<Vec<u8>> {
        let name = SenderKeyName::from_parts(&group.to_string(), OWN);
        let message = ready(create_sender_key_distribution_message(&name, &mut self.sender_keys, &mut self.rng))?;
        Ok(message.serialized().to_vec())
    }

    /// Encrypts for a group with the phone's sender key, which must exist.
    pub(super) fn seal_group(&mut self, group: &Jid, padded: &[u8]) -> anyhow::Result<Vec<u8>> {
        let name = SenderKeyName::from_parts(&group.to_string(), OWN);
        let message = ready(group_encrypt(&mut self.sender_keys, &name, padded, &mut self.rng))?;
        Ok(message.serialized().to_vec())
    }

    /// Takes in a member's sender key.
    pub(super) fn accept_distribution(&mut self, group: &str, sender: &Jid, bytes: &[u8]) -> anyhow::Result<()> {
        let name = SenderKeyName::from_parts(group, &self.filed(sender));
        let message = SenderKeyDistributionMessage::try_from(bytes)?;
        ready(process_sender_key_distribution_message(&name, &message, &mut self.sender_keys))?;
        Ok(())
    }

    /// Decrypts an `skmsg`.
    pub(super) fn open_group(&mut self, group: &Jid, sender: &Jid, bytes: &[u8]) -> Result<Opened, OpenError> {
        let filed = self.filed(sender);
        let name = SenderKeyName::from_parts(&group.to_string(), &filed);
        let message = SenderKeyMessage::try_from(bytes)?;
        let counter = message.iteration();
        let chain = [name.group_id().as_bytes(), &message.chain_id().to_be_bytes()].concat();
        let result = ready(group_decrypt(bytes, &mut self.sender_keys, &name));
        self.note_use((filed, chain, counter), digest(bytes));
        Ok(Opened { plaintext: result?, counter, identity: None })
    }

    /// The devices that were given the phone's current sender key of the group.
    pub(super) fn holders(&mut self, group: &Jid) -> &mut HashSet<String> {
        self.holders.entry(group.to_string()).or_default()
    }

    /// Drops the phone's sender key of the group, so that the next message is sent under a new one.
    pub(super) fn rotate(&mut self, group: &Jid) {
        self.holders.remove(&group.to_string());
        self.sender_keys.0.remove(SenderKeyName::from_parts(&group.to_string(), OWN).cache_key());
    }

    /// Loses a member's sender key.
    pub(super) fn forget_sender_key(&mut self, group: &Jid, sender: &Jid) {
        let name = SenderKeyName::from_parts(&group.to_string(), &self.filed(sender));
        self.sender_keys.0.remove(name.cache_key());
    }

    /// How many ciphertexts came under a key that had encrypted another one.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }

    /// A redelivered stanza carries the same bytes and is no repetition.
    fn note_use(&mut self, key: (String, Vec<u8>, u32), digest: u64) {
        if self.used.insert(key, digest).is_some_and(|previous| previous != digest) {
            self.repeated += 1;
        }
    }
}

/// Moves the entries that have a new name, unless something is filed there already.
fn rename<T>(map: &mut HashMap<String, T>, renamed: impl Fn(&str) -> Option<String>) {
    let moves: Vec<_> = map.keys().filter_map(|key| Some((key.clone(), renamed(key)?))).collect();
    for (old, new) in moves {
        if let Some(value) = map.remove(&old) {
            map.entry(new).or_insert(value);
        }
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn key_bytes(bytes: &[u8]) -> anyhow::Result<[u8; 32]> {
    ensure!(bytes.len() == 32, "a key has 32 bytes, not {}", bytes.len());
    Ok(bytes.try_into()?)
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("stores in memory never wait")
}
