//! The row `creds`: who the companion is (WhiskeySockets/Baileys, `AuthenticationCreds`).

use serde::Deserialize;

use super::json::{Binary, base64};
use crate::store::backend::adopt::{Identity, Pair};
use crate::store::registry::AccountDetails;

/// Why a session can't be taken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it has no row `creds`")]
    Missing,
    #[error("its row `creds` can't be read")]
    Unreadable,
    #[error("it was never linked to a phone")]
    Unlinked,
}

#[derive(Deserialize)]
pub(super) struct KeyPair {
    pub(super) public: Binary,
    pub(super) private: Binary,
}

impl From<KeyPair> for Pair {
    fn from(pair: KeyPair) -> Self {
        Self { public: pair.public.0, private: pair.private.0 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedPreKey {
    key_pair: KeyPair,
    signature: Binary,
    key_id: u32,
}

#[derive(Deserialize)]
struct Me {
    id: String,
    #[serde(default)]
    lid: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    details: Binary,
    account_signature_key: Binary,
    account_signature: Binary,
    device_signature: Binary,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Creds {
    noise_key: KeyPair,
    signed_identity_key: KeyPair,
    signed_pre_key: SignedPreKey,
    registration_id: u32,
    adv_secret_key: String,
    #[serde(default)]
    me: Option<Me>,
    #[serde(default)]
    account: Option<Signed>,
    first_unuploaded_pre_key_id: u32,
    next_pre_key_id: u32,
    #[serde(default)]
    my_app_state_key_id: Option<String>,
    #[serde(default)]
    platform: Option<String>,
    #[serde(default)]
    routing_info: Option<Binary>,
}

/// What the row tells.
#[derive(Debug)]
pub(super) struct Companion {
    pub(super) identity: Identity,
    pub(super) details: AccountDetails,
    pub(super) platform: Option<String>,
    /// The newest key of the app state.
    pub(super) sync_key: Option<Vec<u8>>,
}

impl Companion {
    pub(super) fn read(json: Option<&str>) -> Result<Self, Unusable> {
        let creds: Creds =
            serde_json::from_str(json.ok_or(Unusable::Missing)?).map_err(|_error| Unusable::Unreadable)?;
        // The phone's answer to a scan brings both.
        let (Some(me), Some(account)) = (creds.me, creds.account) else {
            return Err(Unusable::Unlinked);
        };
        let number = me.id.split([':', '@']).next().unwrap_or_default().to_owned();
        let name = me.name.unwrap_or_default();
        Ok(Self {
            details: AccountDetails { name: name.clone(), phone_number: number },
            platform: creds.platform.filter(|platform| !platform.is_empty()),
            sync_key: creds.my_app_state_key_id.as_deref().and_then(base64),
            identity: Identity {
                noise: creds.noise_key.into(),
                identity: creds.signed_identity_key.into(),
                signed_prekey: creds.signed_pre_key.key_pair.into(),
                signed_prekey_id: creds.signed_pre_key.key_id,
                signed_prekey_signature: creds.signed_pre_key.signature.0,
                registration_id: creds.registration_id,
                adv_secret: base64(&creds.adv_secret_key).ok_or(Unusable::Unreadable)?,
                account: [
                    account.details.0,
                    account.account_signature_key.0,
                    account.account_signature.0,
                    account.device_signature.0,
                ],
                jid: me.id,
                lid: me.lid.filter(|lid| !lid.is_empty()),
                push_name: name,
                first_unuploaded_prekey: creds.first_unuploaded_pre_key_id,
                next_prekey: creds.next_pre_key_id,
                routing: creds.routing_info.map(|routing| routing.0).filter(|routing| !routing.is_empty()),
            },
        })
    }
}
