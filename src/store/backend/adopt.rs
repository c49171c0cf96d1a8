//! Credentials that another gateway has kept, put into this layout: the plain keys come in, rows of this backend go out.
//!
//! Called by `takeover`. It takes what is whole and refuses the rest item by item; it never mends and never guesses.
//! Nothing is written before [`Credentials::write`].

mod ratchet;

use std::sync::Arc;

use bytes::Bytes;
use whatsapp_rust::Jid;
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::libsignal::protocol::{IdentityKey, KeyPair, PrivateKey, PublicKey};
use whatsapp_rust::wacore::libsignal::store::record_helpers::encode_pre_key_record_to;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::error::StoreError;
use whatsapp_rust::wacore::store::traits::{AppStateSyncKey, LidPnMappingEntry, TcTokenEntry};
use whatsapp_rust::wacore::types::jid::JidExt as _;
use whatsapp_rust::waproto::{codec, whatsapp as wa};

pub use ratchet::{Chain, Pending, Ratchet, SenderState};

use super::prekey::Blocks;
use super::{PAGE, key, value};
use crate::store::{Batch, Kv, KvError, Namespace};

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refused {
    #[error("its {0} is damaged")]
    Damaged(&'static str),
    #[error("its address is not understood")]
    Address,
    #[error("nothing of it can be used any more")]
    Empty,
    #[error("it can't be encoded")]
    Encoding(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Encoding(Box::new(error))
    }
}

/// A key pair as bytes: 32 each, the public one with or without its type byte.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Pair {
    pub public: Vec<u8>,
    pub private: Vec<u8>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair(..)")
    }
}

impl Pair {
    /// The pair, when the one key is the other's.
    fn checked(&self, what: &'static str) -> Result<KeyPair, Refused> {
        let pair = self.unchecked(what)?;
        match pair.private_key.public_key() {
            Ok(public) if public == pair.public_key => Ok(pair),
            _ => Err(Refused::Damaged(what)),
        }
    }

    /// The pair without that check, which costs a multiplication on the curve.
    fn unchecked(&self, what: &'static str) -> Result<KeyPair, Refused> {
        let private = PrivateKey::deserialize(&self.private).map_err(|_error| Refused::Damaged(what))?;
        Ok(KeyPair::new(public(&self.public, what)?, private))
    }
}

/// A public key of 32 bytes, or of 33 with the type before it.
fn public(bytes: &[u8], what: &'static str) -> Result<PublicKey, Refused> {
    let key =
        if bytes.len() == 32 { PublicKey::from_djb_public_key_bytes(bytes) } else { PublicKey::deserialize(bytes) };
    key.map_err(|_error| Refused::Damaged(what))
}

fn exact<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], Refused> {
    bytes.try_into().map_err(|_length| Refused::Damaged(what))
}

/// Who the companion is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Of the Noise handshake.
    pub noise: Pair,
    /// Of the Signal protocol; with the address it is what the companion is known by.
    pub identity: Pair,
    /// The signed pre-key that WhatsApp has.
    pub signed_prekey: Pair,
    /// Its number.
    pub signed_prekey_id: u32,
    /// Made of it with the identity key.
    pub signed_prekey_signature: Vec<u8>,
    /// Of the Signal protocol.
    pub registration_id: u32,
    /// Shared with the phone at pairing.
    pub adv_secret: Vec<u8>,
    /// What the phone signed at pairing: details, the account's key and its signature, the companion's signature.
    pub account: [Vec<u8>; 4],
    /// `user:device@s.whatsapp.net`.
    pub jid: String,
    /// `user:device@lid`, when known.
    pub lid: Option<String>,
    /// Empty: not known.
    pub push_name: String,
    /// One-time pre-keys below it were uploaded.
    pub first_unuploaded_prekey: u32,
    /// The number of the next one-time pre-key that is made.
    pub next_prekey: u32,
    /// How WhatsApp's edge routes this companion.
    pub routing: Option<Vec<u8>>,
}

/// Which namespace of users an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Server {
    Phone,
    Lid,
    Hosted,
    HostedLid,
}

/// One device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Address {
    pub user: String,
    pub server: Server,
    pub device: u16,
}

impl Address {
    fn jid(&self) -> Result<Jid, Refused> {
        if self.user.is_empty() || !self.user.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refused::Address);
        }
        let server = match self.server {
            Server::Phone => "s.whatsapp.net",
            Server::Lid => "lid",
            Server::Hosted => "hosted",
            Server::HostedLid => "hosted.lid",
        };
        let device = if self.device == 0 { String::new() } else { format!(":{}", self.device) };
        format!("{}{device}@{server}", self.user).parse().map_err(|_error| Refused::Address)
    }

    fn signal(&self) -> Result<String, Refused> {
        Ok(self.jid()?.to_protocol_address_string())
    }
}

/// The credentials of one session, as far as they were taken.
pub struct Credentials {
    local: Local,
    device: Bytes,
    rows: Vec<(Bytes, Bytes)>,
    prekeys: Blocks,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

/// What each Signal session repeats of the companion.
#[derive(Clone, Copy)]
struct Local {
    identity: IdentityKey,
    registration_id: u32,
}

impl Credentials {
    /// Begins with the companion itself.
    ///
    /// # Errors
    /// [`Refused`] when a part without which it could not log in is missing or damaged.
    pub fn new(companion: &Identity) -> Result<Self, Refused> {
        let identity = companion.identity.checked("identity key")?;
        let signed_pre_key = companion.signed_prekey.checked("signed pre-key")?;
        let signature = exact::<64>(&companion.signed_prekey_signature, "signature of the signed pre-key")?;
        if !identity.public_key.verify_signature(&signed_pre_key.public_key.serialize(), &signature) {
            return Err(Refused::Damaged("signature of the signed pre-key"));
        }
        let [details, account_key, account_signature, device_signature] = &companion.account;
        if details.is_empty()
            || account_key.len() != 32
            || account_signature.len() != 64
            || device_signature.len() != 64
        {
            return Err(Refused::Damaged("account signature"));
        }
        let pn: Jid = companion.jid.parse().map_err(|_error| Refused::Address)?;
        let lid: Option<Jid> =
            companion.lid.as_deref().map(str::parse).transpose().map_err(|_error| Refused::Address)?;
        if !pn.is_pn() || pn.device == 0 || lid.as_ref().is_some_and(|lid| !lid.is_lid()) {
            return Err(Refused::Address);
        }
        // A LID that was kept without the device still is this device's.
        let lid = lid.map(|lid| if lid.device == 0 { lid.with_device(pn.device) } else { lid });
        let local =
            Local { identity: IdentityKey::new(identity.public_key), registration_id: companion.registration_id };
        let mut device = Device::new();
        device.pn = Some(pn);
        device.lid = lid;
        device.registration_id = companion.registration_id;
        device.noise_key = companion.noise.checked("noise key")?;
        device.identity_key = identity;
        device.signed_pre_key = signed_pre_key;
        device.signed_pre_key_id = companion.signed_prekey_id;
        device.signed_pre_key_signature = signature;
        // When it was made is not known: the library takes its rotation from here on.
        device.last_signed_pre_key_rotation_ms = 0;
        device.adv_secret_key = exact(&companion.adv_secret, "adv secret")?;
        device.account = Some(Arc::new(wa::ADVSignedDeviceIdentity {
            details: Some(details.clone()),
            account_signature_key: Some(account_key.clone()),
            account_signature: Some(account_signature.clone()),
            device_signature: Some(device_signature.clone()),
        }));
        device.push_name.clone_from(&companion.push_name);
        device.next_pre_key_id = companion.next_prekey.max(1);
        device.first_unupload_pre_key_id = companion.first_unuploaded_prekey.clamp(1, device.next_pre_key_id);
        device.server_has_prekeys = device.first_unupload_pre_key_id > 1;
        device.edge_routing_info.clone_from(&companion.routing);
        Ok(Self { local, device: value::device(true, &device)?, rows: Vec::new(), prekeys: Blocks::default() })
    }

    fn put(&mut self, key: Bytes, value: impl Into<Bytes>) {
        self.rows.push((key, value.into()));
    }

    /// Takes a one-time pre-key. That the one half is the other's is not checked: there are hundreds of them.
    ///
    /// # Errors
    /// [`Refused`] names the half that is damaged.
    pub fn prekey(&mut self, id: u32, pair: &Pair) -> Result<(), Refused> {
        // The protocol numbers them in three bytes.
        if id == 0 || id > 0x00ff_ffff {
            return Err(Refused::Damaged("number"));
        }
        let mut record = Vec::new();
        encode_pre_key_record_to(id, &pair.unchecked("key pair")?, &mut record);
        self.prekeys.put(id, record.into());
        Ok(())
    }

    /// Takes the Signal sessions with one device, and its identity. Returns why single ones of them were left out, and
    /// how many receiving chains were.
    ///
    /// # Errors
    /// [`Refused`] when none could be taken.
    pub fn sessions(&mut self, address: &Address, sessions: Vec<Ratchet>) -> Result<(Vec<Refused>, usize), Refused> {
        let name = address.signal()?;
        let record = ratchet::session_record(sessions, self.local)?;
        self.put(key::named(key::IDENTITY, &name), Bytes::copy_from_slice(&record.identity));
        self.put(key::named(key::SESSION, &name), record.bytes);
        Ok((record.refused, record.chains_left))
    }

    /// Takes a device's identity where no session told it.
    ///
    /// # Errors
    /// [`Refused`] when it is no key.
    pub fn identity(&mut self, address: &Address, identity: &[u8]) -> Result<(), Refused> {
        let row = key::named(key::IDENTITY, address.signal()?);
        let identity = public(identity, "key")?;
        if self.rows.iter().all(|(key, _)| *key != row) {
            self.put(row, Bytes::copy_from_slice(identity.public_key_bytes()));
        }
        Ok(())
    }

    /// Takes the sender keys of one device in a group, the newest first.
    ///
    /// # Errors
    /// [`Refused`] names the part that is damaged.
    pub fn sender_key(&mut self, group: &str, address: &Address, states: Vec<SenderState>) -> Result<(), Refused> {
        let group = group_jid(group)?;
        let record = ratchet::sender_record(states)?;
        self.put(key::named(key::SENDER_KEY, format!("{group}:{}", address.signal()?)), record);
        Ok(())
    }

    /// Notes which devices have the own sender key of a group; those that are no device's address are left out.
    /// Returns how many were noted.
    ///
    /// # Errors
    /// [`Refused`] when the group is none.
    pub fn sender_key_devices<'a>(
        &mut self,
        group: &str,
        devices: impl Iterator<Item = &'a str>,
    ) -> Result<usize, Refused> {
        let group = group_jid(group)?;
        let mut noted = 0;
        for device in devices {
            let Ok(jid) = device.parse::<Jid>() else { continue };
            let device = jid.to_string();
            self.put(key::joined(key::SENDER_KEY_DEVICE, [&group], &device), Bytes::from_static(&[1]));
            self.put(key::joined(key::SENDER_KEY_DEVICE_INDEX, [&device], &group), Bytes::new());
            noted += 1;
        }
        Ok(noted)
    }

    /// Takes a key of the app state.
    ///
    /// # Errors
    /// [`Refused`] when it is none.
    pub fn sync_key(&mut self, id: &[u8], data: Vec<u8>, fingerprint: &Fingerprint, at: i64) -> Result<(), Refused> {
        if id.is_empty() || data.len() != 32 {
            return Err(Refused::Damaged("key"));
        }
        let fingerprint = wa::message::AppStateSyncKeyFingerprint {
            raw_id: fingerprint.raw_id,
            current_index: fingerprint.current_index,
            device_indexes: fingerprint.device_indexes.clone(),
        };
        let fingerprint = codec::app_state_sync_key_fingerprint_to_vec(&fingerprint);
        let row = value::json(&AppStateSyncKey { key_data: data, fingerprint, timestamp: at })?;
        self.put(key::named(key::SYNC_KEY, id), row);
        Ok(())
    }

    /// Says which of the app state's keys is the newest.
    pub fn latest_sync_key(&mut self, id: &[u8]) {
        self.put(Bytes::from_static(key::LATEST_SYNC_KEY), Bytes::copy_from_slice(id));
    }

    /// Takes how far a collection of the app state is, with the codes of what it holds.
    ///
    /// # Errors
    /// [`Refused`] names the part that is damaged.
    pub fn sync_version(
        &mut self,
        collection: &str,
        version: u64,
        hash: &[u8],
        codes: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), Refused> {
        let state = HashState { version, hash: exact(hash, "hash")?, ..HashState::default() };
        if codes.iter().any(|(index, code)| index.len() != 32 || code.len() != 32) {
            return Err(Refused::Damaged("list of codes"));
        }
        self.put(key::named(key::SYNC_VERSION, collection), value::json(&state)?);
        for (index, code) in codes {
            self.put(key::joined(key::MUTATION_MAC, [collection], index), code);
        }
        Ok(())
    }

    /// Takes which hidden identity a number has.
    ///
    /// # Errors
    /// [`Refused`] when either is none.
    pub fn lid_mapping(&mut self, number: &str, lid: &str, at: i64) -> Result<(), Refused> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(number) || !digits(lid) {
            return Err(Refused::Address);
        }
        let entry = LidPnMappingEntry {
            lid: lid.to_owned(),
            phone_number: number.to_owned(),
            created_at: at,
            updated_at: at,
            learning_source: "other".to_owned(),
        };
        self.put(key::named(key::LID, lid), value::json(&entry)?);
        self.put(key::named(key::PN, number), value::stamped(at, lid.as_bytes()));
        Ok(())
    }

    /// Takes a contact's trust token; the times are in Unix seconds.
    ///
    /// # Errors
    /// [`Refused`] when it names nobody.
    pub fn tc_token(&mut self, jid: &str, token: Vec<u8>, at: i64, sent_at: Option<i64>) -> Result<(), Refused> {
        let jid: Jid = jid.parse().map_err(|_error| Refused::Address)?;
        let entry = TcTokenEntry { token, token_timestamp: at, sender_timestamp: sent_at };
        self.put(key::named(key::TC_TOKEN, &*jid.user), value::json(&entry)?);
        Ok(())
    }

    /// Writes everything into an empty namespace, the device last: what a crash leaves there is no paired session. Not
    /// flushed; a later write that is flushed takes it along.
    ///
    /// # Errors
    /// As the engine's `write`.
    pub async fn write(mut self, kv: &dyn Kv, ns: &Namespace) -> Result<(), KvError> {
        self.rows.extend(self.prekeys.rows().map_err(KvError::engine)?);
        for page in self.rows.chunks(PAGE) {
            let batch =
                page.iter().fold(Batch::new().buffered(), |batch, (key, value)| batch.put(key.clone(), value.clone()));
            kv.write(ns, batch).await?;
        }
        kv.write(ns, Batch::new().put(Bytes::from_static(key::DEVICE), self.device).buffered()).await
    }
}

/// Which of the account's devices a key of the app state was made for.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the protocol's own names")]
pub struct Fingerprint {
    pub raw_id: Option<u32>,
    pub current_index: Option<u32>,
    pub device_indexes: Vec<u32>,
}

/// A group, or the list of those who see the status.
fn group_jid(group: &str) -> Result<String, Refused> {
    let jid: Jid = group.parse().map_err(|_error| Refused::Address)?;
    if group.ends_with("@g.us") || group == "status@broadcast" { Ok(jid.to_string()) } else { Err(Refused::Address) }
}
