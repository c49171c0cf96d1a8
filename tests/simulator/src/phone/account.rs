//! The account key of a phone and what it signs: companions at linking, and the list of valid ones.
//!
//! The key pair is the Signal identity of device 0 as well. Prefixes: whatsmeow, pair.go and types of `ADV` messages.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use hmac::{Hmac, Mac};
use rand::rngs::StdRng;
use rand::{RngExt, make_rng};
use sha2::Sha256;
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, PublicKey};
use whatsapp_rust::waproto::codec;
use whatsapp_rust::waproto::whatsapp as wa;

use super::signal::key_bytes;

const ACCOUNT_SIGNATURE: [u8; 2] = [6, 0];
const DEVICE_SIGNATURE: [u8; 2] = [6, 1];
const KEY_INDEX_LIST_SIGNATURE: [u8; 2] = [6, 2];

/// See the module.
pub(super) struct Account {
    pair: KeyPair,
    raw_id: u32,
}

impl Account {
    pub(super) fn new() -> Self {
        let mut rng: StdRng = make_rng();
        Self { pair: KeyPair::generate(&mut rng), raw_id: rng.random_range(1..u32::MAX) }
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(super) fn public(&self) -> [u8; 32] {
        key_bytes(self.pair.public_key.public_key_bytes()).expect("Curve25519 keys have 32 bytes")
    }

    pub(super) fn raw_id(&self) -> u32 {
        self.raw_id
    }

    fn sign(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut rng: StdRng = make_rng();
        let signature = self.pair.private_key.calculate_signature(&parts.concat(), &mut rng);
        signature.expect("a generated key signs").to_vec()
    }

    pub(super) fn agree(&self, identity: [u8; 32]) -> anyhow::Result<[u8; 32]> {
        Ok(self.pair.private_key.calculate_agreement(&PublicKey::from_djb_public_key_bytes(&identity)?)?)
    }

    /// The container for `pair-success`, sealed with the secret that only the code carried.
    pub(super) fn sign_companion(&self, identity: [u8; 32], adv_secret: &[u8], key_index: u32) -> Vec<u8> {
        let details = wa::ADVDeviceIdentity {
            raw_id: Some(self.raw_id),
            timestamp: Some(unix_seconds()),
            key_index: Some(key_index),
            account_type: Some(wa::ADVEncryptionType::E2EE),
            device_type: Some(wa::ADVEncryptionType::E2EE),
        }
        .encode_to_vec();
        let signature = self.sign(&[&ACCOUNT_SIGNATURE, &details, &identity]);
        let signed = codec::adv_signed_device_identity_to_vec(&wa::ADVSignedDeviceIdentity {
            details: Some(details),
            account_signature_key: Some(self.public().to_vec()),
            account_signature: Some(signature),
            device_signature: None,
        });
        let mut mac = Hmac::<Sha256>::new_from_slice(adv_secret).expect("HMAC takes keys of any length");
        mac.update(&signed);
        wa::ADVSignedDeviceIdentityHMAC {
            hmac: Some(mac.finalize().into_bytes().to_vec()),
            details: Some(signed),
            account_type: Some(wa::ADVEncryptionType::E2EE),
        }
        .encode_to_vec()
    }

    /// Checks what the companion signed in `pair-device-sign`, and returns it with the account key put back.
    pub(super) fn accept_device_signature(&self, bytes: &[u8], identity: [u8; 32]) -> anyhow::Result<Vec<u8>> {
        let mut signed = codec::adv_signed_device_identity_decode(bytes)?;
        let details = signed.details.as_deref().context("no details")?;
        let account_signature = signed.account_signature.as_deref().context("no account signature")?;
        let device_signature = signed.device_signature.as_deref().context("no device signature")?;
        let public = self.public();
        ensure!(
            self.pair
                .public_key
                .verify_signature(&[&ACCOUNT_SIGNATURE, details, &identity[..]].concat(), account_signature),
            "the account signature is not ours"
        );
        ensure!(
            PublicKey::from_djb_public_key_bytes(&identity)?
                .verify_signature(&[&DEVICE_SIGNATURE, details, &identity[..], &public[..]].concat(), device_signature),
            "the device signature does not fit the identity"
        );
        signed.account_signature_key = Some(public.to_vec());
        Ok(codec::adv_signed_device_identity_to_vec(&signed))
    }

    /// The signed list of valid companions.
    pub(super) fn key_index_list(&self, indexes: &[u32]) -> Vec<u8> {
        let details = codec::adv_key_index_list_to_vec(&wa::ADVKeyIndexList {
            raw_id: Some(self.raw_id),
            timestamp: Some(unix_seconds()),
            current_index: Some(indexes.iter().copied().max().unwrap_or_default()),
            valid_indexes: indexes.to_vec(),
            account_type: Some(wa::ADVEncryptionType::E2EE),
        });
        let signature = self.sign(&[&KEY_INDEX_LIST_SIGNATURE, &details]);
        codec::adv_signed_key_index_list_to_vec(&wa::ADVSignedKeyIndexList {
            details: Some(details),
            account_signature: Some(signature),
            account_signature_key: Some(self.public().to_vec()),
        })
    }
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
