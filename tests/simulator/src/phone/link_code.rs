//! The phone's side of linking by code: what follows when somebody types the eight characters that a companion shows.
//!
//! Pure cryptography; `pairing` carries the stanzas. The wrapped form of an ephemeral key is the same in both
//! directions, so the library's functions for companions serve the phone too.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use anyhow::{Context, anyhow, ensure};
use hkdf::Hkdf;
use rand::make_rng;
use rand::rngs::StdRng;
use sha2::Sha256;
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, PublicKey};
use whatsapp_rust::wacore::pair_code::PairCodeUtils;

use super::Phone;
use super::signal::key_bytes;

const BUNDLE_INFO: &[u8] = b"link_code_pairing_key_bundle_encryption_key";
const SECRET_INFO: &[u8] = b"adv_secret";

/// An answer to a companion's hello; its keys open the bundle that the companion sends next.
pub(crate) struct CodeAnswer {
    ephemeral: KeyPair,
    companion: [u8; 32],
    /// The phone's ephemeral key, wrapped under the code.
    pub(crate) wrapped: [u8; 80],
}

impl fmt::Debug for CodeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeAnswer").finish_non_exhaustive()
    }
}

impl CodeAnswer {
    /// Takes a code as people type it. Blocks for the derivation of two keys, some hundred milliseconds.
    ///
    /// # Errors
    /// The code or the companion's wrapped key have not the right form. A wrong code shows only at the bundle.
    pub(crate) fn new(code: &str, wrapped_companion: &[u8]) -> anyhow::Result<Self> {
        let code = code.replace('-', "").to_ascii_uppercase();
        ensure!(PairCodeUtils::validate_code(&code), "a code of the wrong form");
        let companion = PairCodeUtils::decrypt_primary_ephemeral_pub(wrapped_companion, &code)
            .map_err(|error| anyhow!("the companion's wrapped key: {error}"))?;
        let mut rng: StdRng = make_rng();
        let ephemeral = KeyPair::generate(&mut rng);
        let public = key_bytes(ephemeral.public_key.public_key_bytes()).context("Curve25519 keys have 32 bytes")?;
        let wrapped = PairCodeUtils::encrypt_ephemeral_pub(&public, &code);
        Ok(Self { ephemeral, companion, wrapped })
    }

    /// Opens the companion's bundle and returns the secret that seals `pair-success`.
    ///
    /// # Errors
    /// The bundle does not open (the code was wrong) or names other identities.
    pub(crate) fn open(&self, phone: &Phone, identity: [u8; 32], bundle: &[u8]) -> anyhow::Result<[u8; 32]> {
        ensure!(bundle.len() == 32 + 12 + 96 + 16, "a key bundle of {} bytes", bundle.len());
        let (salt, sealed) = bundle.split_at(32);
        let (nonce, sealed) = sealed.split_at(12);
        let shared =
            self.ephemeral.private_key.calculate_agreement(&PublicKey::from_djb_public_key_bytes(&self.companion)?)?;
        let mut key = [0; 32];
        expand(Some(salt), &shared, BUNDLE_INFO, &mut key);
        let opened = Aes256Gcm::new(&key.into()).decrypt(Nonce::from_slice(nonce), sealed);
        let opened = opened.map_err(|_| anyhow!("the key bundle does not open: the code is wrong"))?;
        ensure!(opened[..32] == identity, "the bundle names another companion");
        ensure!(opened[32..64] == phone.identity(), "the bundle names another phone");
        let mut secret = [0; 32];
        expand(None, &[&shared[..], &phone.agree(identity)?[..], &opened[64..]].concat(), SECRET_INFO, &mut secret);
        Ok(secret)
    }
}

fn expand(salt: Option<&[u8]>, input: &[u8], info: &[u8], output: &mut [u8; 32]) {
    Hkdf::<Sha256>::new(salt, input).expand(info, output).expect("32 bytes are no more than HKDF gives");
}
