//! Signal sessions and sender keys as Baileys writes them (`_sessions` of libsignal-node, lists of sender-key states).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::creds::KeyPair;
use super::json::Binary;
use crate::store::backend::adopt::{Address, Chain, Pair, Pending, Ratchet, SenderState, Server};

/// libsignal-node's mark of a session that is written with.
const OPEN: i64 = -1;
const SENDING: u8 = 1;
const RECEIVING: u8 = 2;

/// The address of a device as libsignal-node writes it: `user.device`, the user with `_1` when it is a LID.
pub(super) fn address(text: &str) -> Option<Address> {
    let (user, device) = text.rsplit_once('.')?;
    device_of(user, device)
}

/// The user and the device apart.
fn device_of(user: &str, device: &str) -> Option<Address> {
    let (user, domain) = user.split_once('_').unwrap_or((user, "0"));
    // WhiskeySockets/Baileys, WAJIDDomains.
    let server = match domain {
        "0" => Server::Phone,
        "1" => Server::Lid,
        "128" => Server::Hosted,
        "129" => Server::HostedLid,
        _ => return None,
    };
    Some(Address { user: user.to_owned(), server, device: device.parse().ok()? })
}

/// Group and device of a sender key, `group::user::device`.
pub(super) fn sender(text: &str) -> Option<(&str, Address)> {
    let (rest, device) = text.rsplit_once("::")?;
    let (group, user) = rest.rsplit_once("::")?;
    Some((group, device_of(user, device)?))
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "_sessions", default)]
    sessions: Map<String, Value>,
    #[serde(default)]
    version: Option<String>,
    /// Of records before `v1`, for all their sessions.
    #[serde(rename = "registrationId", default)]
    registration_id: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    registration_id: Option<u32>,
    current_ratchet: CurrentRatchet,
    index_info: IndexInfo,
    #[serde(rename = "_chains")]
    chains: Map<String, Value>,
    #[serde(default)]
    pending_pre_key: Option<PendingPreKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CurrentRatchet {
    ephemeral_key_pair: EphemeralKeyPair,
    last_remote_ephemeral_key: Binary,
    previous_counter: i64,
    root_key: Binary,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EphemeralKeyPair {
    pub_key: Binary,
    priv_key: Binary,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexInfo {
    base_key: Binary,
    closed: i64,
    #[serde(default)]
    used: u64,
    remote_identity_key: Binary,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PendingPreKey {
    signed_key_id: u32,
    base_key: Binary,
    #[serde(default)]
    pre_key_id: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChainEntry {
    chain_key: ChainKey,
    chain_type: u8,
    message_keys: Map<String, Value>,
}

#[derive(Deserialize)]
struct ChainKey {
    counter: i64,
    #[serde(default)]
    key: Option<Binary>,
}

/// The sessions with one device, and how many of them could not be read.
pub(super) fn sessions(json: &str) -> Option<(Vec<Ratchet>, usize)> {
    let record: Record = serde_json::from_str(json).ok()?;
    if record.version.as_deref().is_some_and(|version| version != "v1") {
        return None;
    }
    let count = record.sessions.len();
    let read: Vec<_> =
        record.sessions.into_iter().filter_map(|(base, entry)| session(&base, entry, record.registration_id)).collect();
    let unread = count - read.len();
    Some((read, unread))
}

fn session(base: &str, entry: Value, fallback: Option<u32>) -> Option<Ratchet> {
    let entry: Entry = serde_json::from_value(entry).ok()?;
    // The record is sorted by the base keys; one that stands under another's is not to be trusted.
    if super::json::base64(base)? != entry.index_info.base_key.0 {
        return None;
    }
    let chains = entry.chains.into_iter().map(|(ratchet_key, value)| {
        let chain: ChainEntry = serde_json::from_value(value).ok()?;
        let skipped = chain.message_keys.into_iter().map(|(counter, seed)| {
            let seed: Binary = serde_json::from_value(seed).ok()?;
            Some((counter.parse().ok()?, seed.0))
        });
        Some(Chain {
            ratchet_key: super::json::base64(&ratchet_key)?,
            sending: match chain.chain_type {
                SENDING => true,
                RECEIVING => false,
                _ => return None,
            },
            counter: chain.chain_key.counter,
            key: chain.chain_key.key.map(|key| key.0),
            skipped: skipped.collect::<Option<_>>()?,
        })
    });
    Some(Ratchet {
        chains: chains.collect::<Option<_>>()?,
        open: entry.index_info.closed == OPEN,
        used_at: entry.index_info.used,
        registration_id: entry.registration_id.or(fallback)?,
        ratchet: Pair {
            public: entry.current_ratchet.ephemeral_key_pair.pub_key.0,
            private: entry.current_ratchet.ephemeral_key_pair.priv_key.0,
        },
        last_remote: entry.current_ratchet.last_remote_ephemeral_key.0,
        previous_counter: entry.current_ratchet.previous_counter,
        root_key: entry.current_ratchet.root_key.0,
        base_key: entry.index_info.base_key.0,
        remote_identity: entry.index_info.remote_identity_key.0,
        pending: entry.pending_pre_key.map(|pending| Pending {
            prekey_id: pending.pre_key_id,
            signed_prekey_id: pending.signed_key_id,
            base_key: pending.base_key.0,
        }),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names of the JSON")]
struct SenderKeyState {
    sender_key_id: u32,
    sender_chain_key: SenderChainKey,
    sender_signing_key: SigningKey,
    #[serde(default)]
    sender_message_keys: Vec<SenderChainKey>,
}

#[derive(Deserialize)]
struct SenderChainKey {
    iteration: u32,
    seed: Binary,
}

#[derive(Deserialize)]
struct SigningKey {
    public: Binary,
    #[serde(default)]
    private: Option<Empty>,
}

/// Bytes that may be absent, an empty text or an empty list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Empty {
    Bytes(Binary),
    Other(serde::de::IgnoredAny),
}

/// A list of states as bytes, as text, or as it is: versions differ.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wrapped {
    Bytes(Binary),
    Text(String),
    List(Value),
}

/// The states of a sender key, the newest first.
///
/// Baileys adds one for every announcement, also of a key that it has, and reads with the oldest of the same number, which is
/// the one that moves on; that one is taken.
pub(super) fn sender_states(json: &str) -> Option<Vec<SenderState>> {
    let text = match serde_json::from_str::<Wrapped>(json).ok()? {
        Wrapped::Bytes(bytes) => String::from_utf8(bytes.0).ok()?,
        Wrapped::Text(text) => text,
        Wrapped::List(list) => list.to_string(),
    };
    let states: Vec<SenderKeyState> = serde_json::from_str(&text).ok()?;
    let mut kept: Vec<SenderState> = Vec::new();
    for state in states {
        if let Some(place) = kept.iter().position(|kept| kept.id == state.sender_key_id) {
            // Announced again: it is the newest now.
            let first = kept.remove(place);
            kept.push(first);
            continue;
        }
        let keys = |key: SenderChainKey| (key.iteration, key.seed.0);
        kept.push(SenderState {
            id: state.sender_key_id,
            iteration: state.sender_chain_key.iteration,
            seed: state.sender_chain_key.seed.0,
            signing: KeyPair {
                public: state.sender_signing_key.public,
                private: match state.sender_signing_key.private {
                    Some(Empty::Bytes(private)) => private,
                    Some(Empty::Other(_)) | None => Binary::default(),
                },
            }
            .into(),
            skipped: state.sender_message_keys.into_iter().map(keys).collect(),
        });
    }
    kept.reverse();
    Some(kept)
}
