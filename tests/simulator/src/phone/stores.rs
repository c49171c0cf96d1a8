//! The Signal stores of one phone: plain maps in memory that implement libsignal's storage traits.
//!
//! Only `signal` uses them, under the phone's lock. Nothing here waits: every future is ready when it is made.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use whatsapp_rust::wacore::libsignal::protocol::{
    Direction, IdentityChange, IdentityKey, IdentityKeyPair, IdentityKeyStore, PreKeyId, PreKeyRecord, PreKeyStore,
    ProtocolAddress, SenderKeyName, SenderKeyRecord, SenderKeyStore, SessionRecord, SessionStore, SignalProtocolError,
    SignedPreKeyId, SignedPreKeyRecord, SignedPreKeyStore,
};

type Result<T> = std::result::Result<T, SignalProtocolError>;

/// One-time keys that were handed out and not used yet; the oldest goes when more are outstanding. A client may fetch a
/// bundle for every message (baileys 7.0.0-rc.6 does), so most of them are never used.
const OUTSTANDING_KEYS: usize = 20_000;

/// Pairwise sessions by address.
#[derive(Default)]
pub(super) struct Sessions(pub(super) HashMap<String, SessionRecord>);

#[async_trait]
impl SessionStore for Sessions {
    async fn load_session(&self, address: &ProtocolAddress) -> Result<Option<SessionRecord>> {
        Ok(self.0.get(address.as_str()).cloned())
    }

    async fn has_session(&self, address: &ProtocolAddress) -> Result<bool> {
        Ok(self.0.contains_key(address.as_str()))
    }

    async fn store_session(&mut self, address: &ProtocolAddress, record: SessionRecord) -> Result<()> {
        self.0.insert(address.as_str().to_owned(), record);
        Ok(())
    }
}

/// The phone's own identity and those it has met.
pub(super) struct Identities {
    pub(super) own: IdentityKeyPair,
    pub(super) registration_id: u32,
    pub(super) known: HashMap<String, IdentityKey>,
}

#[async_trait]
impl IdentityKeyStore for Identities {
    async fn get_identity_key_pair(&self) -> Result<IdentityKeyPair> {
        Ok(self.own.clone())
    }

    async fn get_local_registration_id(&self) -> Result<u32> {
        Ok(self.registration_id)
    }

    async fn save_identity(&mut self, address: &ProtocolAddress, identity: &IdentityKey) -> Result<IdentityChange> {
        let previous = self.known.insert(address.as_str().to_owned(), *identity);
        Ok(IdentityChange::from_changed(previous.is_some_and(|previous| previous != *identity)))
    }

    /// Always: a phone accepts a contact's new identity and at most shows a note.
    async fn is_trusted_identity(&self, _: &ProtocolAddress, _: &IdentityKey, _: Direction) -> Result<bool> {
        Ok(true)
    }

    async fn get_identity(&self, address: &ProtocolAddress) -> Result<Option<IdentityKey>> {
        Ok(self.known.get(address.as_str()).copied())
    }
}

/// One-time keys, ordered by id, which is the order in which they were handed out.
#[derive(Default)]
pub(super) struct PreKeys(BTreeMap<u32, PreKeyRecord>);

impl PreKeys {
    pub(super) fn insert(&mut self, id: PreKeyId, record: PreKeyRecord) {
        self.0.insert(id.into(), record);
        if self.0.len() > OUTSTANDING_KEYS {
            self.0.pop_first();
        }
    }

    pub(super) fn remove(&mut self, id: PreKeyId) {
        self.0.remove(&id.into());
    }
}

#[async_trait]
impl PreKeyStore for PreKeys {
    async fn get_pre_key(&self, id: PreKeyId) -> Result<PreKeyRecord> {
        self.0.get(&id.into()).cloned().ok_or(SignalProtocolError::InvalidPreKeyId)
    }

    async fn save_pre_key(&mut self, id: PreKeyId, record: &PreKeyRecord) -> Result<()> {
        self.insert(id, record.clone());
        Ok(())
    }

    async fn remove_pre_key(&mut self, id: PreKeyId) -> Result<()> {
        self.remove(id);
        Ok(())
    }
}

/// The one signed pre-key; phones here live too short to rotate it.
pub(super) struct SignedKey {
    pub(super) id: SignedPreKeyId,
    pub(super) record: SignedPreKeyRecord,
}

#[async_trait]
impl SignedPreKeyStore for SignedKey {
    async fn get_signed_pre_key(&self, id: SignedPreKeyId) -> Result<SignedPreKeyRecord> {
        if id == self.id { Ok(self.record.clone()) } else { Err(SignalProtocolError::InvalidSignedPreKeyId) }
    }

    async fn save_signed_pre_key(&mut self, id: SignedPreKeyId, record: &SignedPreKeyRecord) -> Result<()> {
        self.id = id;
        self.record = record.clone();
        Ok(())
    }
}

/// Sender keys by group and sending device, the phone's own among them.
#[derive(Default)]
pub(super) struct SenderKeys(pub(super) HashMap<String, SenderKeyRecord>);

#[async_trait]
impl SenderKeyStore for SenderKeys {
    async fn store_sender_key(&mut self, name: &SenderKeyName, record: SenderKeyRecord) -> Result<()> {
        self.0.insert(name.cache_key().to_owned(), record);
        Ok(())
    }

    async fn load_sender_key(&self, name: &SenderKeyName) -> Result<Option<SenderKeyRecord>> {
        Ok(self.0.get(name.cache_key()).cloned())
    }
}
