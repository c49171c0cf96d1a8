//! The server's Noise identity: its static key and a certificate chain over it, signed by a root of its own.

use std::time::{SystemTime, UNIX_EPOCH};

use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_rust::waproto::buffa::{Message as _, MessageField};
use whatsapp_rust::waproto::whatsapp::CertChain;
use whatsapp_rust::waproto::whatsapp::cert_chain::NoiseCertificate;
use whatsapp_rust::waproto::whatsapp::cert_chain::noise_certificate::Details;
use x25519_dalek::{PublicKey, StaticSecret};

/// Certificates begin an hour ago and last a month: a client may use its cached chain (and so IK) meanwhile.
const BEGAN_SECS_AGO: u64 = 3600;
const LASTS_SECS: u64 = 30 * 24 * 3600;
const INTERMEDIATE_SERIAL: u32 = 11;
const LEAF_SERIAL: u32 = 12;

pub(crate) struct NoiseIdentity {
    pub(crate) secret: StaticSecret,
    pub(crate) public: [u8; 32],
    /// The encoded `CertChain`.
    pub(crate) chain: Vec<u8>,
    /// Public key of the root that signed the intermediate.
    pub(crate) root: [u8; 32],
}

impl NoiseIdentity {
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let mut rng = rand::rng();
        let (root, intermediate) = (KeyPair::generate(&mut rng), KeyPair::generate(&mut rng));
        let secret = StaticSecret::from(rand::random::<[u8; 32]>());
        let public = PublicKey::from(&secret).to_bytes();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let certificate = |signer: &KeyPair, serial, issuer, key: &[u8]| -> anyhow::Result<NoiseCertificate> {
            let details = Details {
                serial: Some(serial),
                issuer_serial: Some(issuer),
                key: Some(key.to_vec()),
                not_before: Some(now - BEGAN_SECS_AGO),
                not_after: Some(now + LASTS_SECS),
            }
            .encode_to_vec();
            let signature = signer.private_key.calculate_signature(&details, &mut rand::rng())?.to_vec();
            Ok(NoiseCertificate { details: Some(details), signature: Some(signature) })
        };
        let chain = CertChain {
            intermediate: MessageField::some(certificate(
                &root,
                INTERMEDIATE_SERIAL,
                0,
                intermediate.public_key.public_key_bytes(),
            )?),
            leaf: MessageField::some(certificate(&intermediate, LEAF_SERIAL, INTERMEDIATE_SERIAL, &public)?),
        }
        .encode_to_vec();
        let mut root_key = [0; 32];
        root_key.copy_from_slice(root.public_key.public_key_bytes());
        Ok(Self { secret, public, chain, root: root_key })
    }
}
