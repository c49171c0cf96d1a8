//! X25519 by s2n-bignum's assembly (graviola), where the processor can.
//!
//! whatsapp-rust agrees keys by curve25519-dalek, whose ladder takes three times as long. A received text that begins a new
//! chain of its ratchet agrees twice, a pairing and a first text some times more: it was the largest single piece of their CPU.
//! All else is done by the library's own ciphers, and so is an agreement that graviola refuses.

use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};
use whatsapp_rust::wacore::libsignal::crypto::{
    CryptoProviderError, GcmInPlaceBuffer, RustCryptoProvider, SignalCryptoProvider, TransportAead, set_crypto_provider,
};

type Result<T = (), E = CryptoProviderError> = std::result::Result<T, E>;

/// Whether the library agrees keys so from now on: not on a processor that can't, and not when it has begun with others.
pub(super) fn install() -> bool {
    graviola::util::is_cpu_supported() && set_crypto_provider(Assembly).is_ok()
}

struct Assembly;

impl SignalCryptoProvider for Assembly {
    /// The library's answer to a public key of low order is a secret of zeros, which graviola refuses to give.
    fn x25519_agreement(&self, private_key: &[u8; 32], their_public_key: &[u8; 32]) -> Result<[u8; 32]> {
        let private = StaticPrivateKey::from_array(private_key);
        match private.diffie_hellman(&PublicKey::from_array(their_public_key)) {
            Ok(secret) => Ok(secret.0),
            Err(_) => RustCryptoProvider.x25519_agreement(private_key, their_public_key),
        }
    }

    fn aes_256_cbc_encrypt(&self, key: &[u8; 32], iv: &[u8; 16], plaintext: &[u8], out: &mut Vec<u8>) -> Result {
        RustCryptoProvider.aes_256_cbc_encrypt(key, iv, plaintext, out)
    }

    fn aes_256_cbc_decrypt(&self, key: &[u8; 32], iv: &[u8; 16], ciphertext: &[u8], out: &mut Vec<u8>) -> Result {
        RustCryptoProvider.aes_256_cbc_decrypt(key, iv, ciphertext, out)
    }

    fn aes_256_cbc_decrypt_in_place(&self, key: &[u8; 32], iv: &[u8; 16], buffer: &mut Vec<u8>) -> Result {
        RustCryptoProvider.aes_256_cbc_decrypt_in_place(key, iv, buffer)
    }

    fn aes_256_gcm_encrypt(
        &self,
        key: &[u8; 32],
        nonce: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result {
        RustCryptoProvider.aes_256_gcm_encrypt(key, nonce, aad, plaintext, out)
    }

    fn aes_256_gcm_decrypt(
        &self,
        key: &[u8; 32],
        nonce: &[u8; 12],
        aad: &[u8],
        ciphertext_with_tag: &[u8],
        out: &mut Vec<u8>,
    ) -> Result {
        RustCryptoProvider.aes_256_gcm_decrypt(key, nonce, aad, ciphertext_with_tag, out)
    }

    fn aes_256_gcm_encrypt_in_place(
        &self,
        key: &[u8; 32],
        nonce: &[u8; 12],
        aad: &[u8],
        buffer: &mut dyn GcmInPlaceBuffer,
    ) -> Result {
        RustCryptoProvider.aes_256_gcm_encrypt_in_place(key, nonce, aad, buffer)
    }

    fn aes_256_gcm_decrypt_in_place(
        &self,
        key: &[u8; 32],
        nonce: &[u8; 12],
        aad: &[u8],
        buffer: &mut dyn GcmInPlaceBuffer,
    ) -> Result {
        RustCryptoProvider.aes_256_gcm_decrypt_in_place(key, nonce, aad, buffer)
    }

    fn hmac_sha256(&self, key: &[u8], input: &[u8]) -> [u8; 32] {
        RustCryptoProvider.hmac_sha256(key, input)
    }

    fn hmac_sha256_two_part(&self, key: &[u8], first: &[u8], second: &[u8]) -> [u8; 32] {
        RustCryptoProvider.hmac_sha256_two_part(key, first, second)
    }

    fn transport_aead(&'static self, key: &[u8; 32]) -> Result<Box<dyn TransportAead>> {
        RustCryptoProvider.transport_aead(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::array::uniform32;
    use proptest::num::u8::ANY;

    use super::*;

    fn agrees_as_the_library(private: [u8; 32], public: [u8; 32]) {
        let [here, there] = [&Assembly as &dyn SignalCryptoProvider, &RustCryptoProvider]
            .map(|provider| provider.x25519_agreement(&private, &public).unwrap());
        assert_eq!(here, there, "{private:?} {public:?}");
    }

    #[test]
    fn every_agreement_is_that_of_the_library() {
        if !graviola::util::is_cpu_supported() {
            return;
        }
        crate::property::holds((uniform32(ANY), uniform32(ANY)), |(private, public)| {
            agrees_as_the_library(private, public);
        });
    }

    /// Points of low order, numbers from the field's prime on and the bit above it (RFC 7748, section 5).
    #[test]
    fn keys_at_the_edges_agree_as_in_the_library() {
        if !graviola::util::is_cpu_supported() {
            return;
        }
        let prime = |last: u8, top: u8| {
            let mut key = [0xff; 32];
            (key[0], key[31]) = (last, top);
            key
        };
        let small = |last: u8, top: u8| {
            let mut key = [0; 32];
            (key[0], key[31]) = (last, top);
            key
        };
        let order_8 = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ];
        for private in [[0; 32], [0xff; 32], [0x42; 32], small(7, 0x80)] {
            agrees_as_the_library(private, order_8);
            for last in 0..=u8::MAX {
                for top in [0, 0x7f, 0x80, 0xff] {
                    agrees_as_the_library(private, prime(last, top));
                    agrees_as_the_library(private, small(last, top));
                }
            }
        }
        assert_eq!(Assembly.x25519_agreement(&[0x42; 32], &order_8).unwrap(), [0; 32]);
    }
}
