//! Watches that no ciphertext key is used twice: the server sees headers only, but those suffice.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};
use whatsapp_rust::wacore::libsignal::protocol::{PreKeySignalMessage, SenderKeyMessage, SignalMessage};

use crate::counters::Counters;
use crate::network::DeviceAddress;

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Ciphertexts {
    /// Digest over sender, recipient, ratchet key and counter (or group, chain and iteration).
    keys: HashSet<[u8; 32]>,
    /// Digest over sender, recipient and the whole ciphertext.
    bodies: HashSet<[u8; 32]>,
}

impl Ciphertexts {
    /// Takes note of a ciphertext for a device or, with `skmsg`, for a group. `to` names the recipient without its
    /// address form, so that a PN and a LID address are one.
    pub(crate) fn see(
        &mut self,
        counters: &mut Counters,
        from: &DeviceAddress,
        to: &str,
        kind: &str,
        body: &[u8],
    ) -> bool {
        let parsed = match kind {
            "msg" => SignalMessage::try_from(body).ok().map(|message| ratchet(&message)),
            "pkmsg" => PreKeySignalMessage::try_from(body).ok().map(|message| ratchet(message.message())),
            "skmsg" => SenderKeyMessage::try_from(body).ok().map(|message| {
                [message.chain_id().to_be_bytes().as_slice(), &message.iteration().to_be_bytes()].concat()
            }),
            _ => None,
        };
        let Some(key) = parsed else {
            counters.violation("a ciphertext that does not parse");
            return false;
        };
        let digest = |last: &[u8]| -> [u8; 32] {
            let sender = format!("{}:{}>{to}|", from.number, from.device);
            Sha256::new().chain_update(sender).chain_update(last).finalize().into()
        };
        if !self.bodies.insert(digest(body)) {
            counters.repeated_ciphertexts += 1;
            counters.violation("a ciphertext sent twice");
        }
        if !self.keys.insert(digest(&key)) {
            counters.repeated_counters += 1;
            counters.violation("a ratchet counter used twice");
        }
        true
    }
}

fn ratchet(message: &SignalMessage) -> Vec<u8> {
    let mut key = message.sender_ratchet_key().public_key_bytes().to_vec();
    key.extend_from_slice(&message.counter().to_be_bytes());
    key
}
