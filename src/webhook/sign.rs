//! The signature by which a receiver knows that a webhook is ours and fresh.
//!
//! `X-Webhook-Signature: t=<Unix seconds>,v1=<hex>`: HMAC-SHA256 under `WEBHOOK_SECRET` of the decimal time, a dot and the
//! body as it was sent. Each attempt is signed anew, so that a receiver may refuse old ones.

use hmac::{Hmac, Mac as _};
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

pub(super) const SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");

/// The header's value for this body at this time.
pub(super) fn sign(secret: &SecretString, unix_seconds: i64, body: &[u8]) -> HeaderValue {
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(secret.expose_secret().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(unix_seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let value = format!("t={unix_seconds},v1={}", hex::encode(mac.finalize().into_bytes()));
    HeaderValue::from_str(&value).expect("digits and hexadecimals fit into a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_covers_the_time_and_the_body() {
        let secret = SecretString::from("whsec");
        // printf '1770000000.{"a":1}' | openssl dgst -sha256 -hmac whsec
        let signed = sign(&secret, 1_770_000_000, br#"{"a":1}"#);
        assert_eq!(
            signed.to_str().unwrap(),
            "t=1770000000,v1=9d84d6830858813dc7b3e36289c1bfb87556fffcec149b6a498ac96535cfc568"
        );
        assert_ne!(signed, sign(&secret, 1_770_000_001, br#"{"a":1}"#));
        assert_ne!(signed, sign(&secret, 1_770_000_000, br#"{"a":2}"#));
        assert_ne!(signed, sign(&SecretString::from("other"), 1_770_000_000, br#"{"a":1}"#));
    }
}
