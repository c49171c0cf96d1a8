//! Whether the rows of a session's credentials can be read: for the check of a store that nobody uses.
//!
//! Each row is decoded as its reader would, key and value. A key pair must be one: a changed bit in either half is told.

use bytes::Bytes;
use serde::de::IgnoredAny;
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::libsignal::protocol::{
    GenericSignedPreKey as _, KeyPair, PreKeyRecord, SenderKeyRecord, SessionRecord, SignedPreKeyRecord,
};
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::traits::{AppStateSyncKey, DeviceListRecord, LidPnMappingEntry, TcTokenEntry};
use whatsapp_rust::waproto::codec::message_decode;

use super::inbound::{DIGEST, is_block};
use super::prekey::is_block as is_block_of_prekeys;
use super::value::{self, Secret};
use super::{PROBE, key, secret};

/// Bytes of a SHA-256 code, of a key, of a signature.
const CODE: usize = 32;
const KEY: usize = 32;
/// A key with libsignal's type before it.
const TAGGED_KEY: usize = 33;
const SIGNATURE: usize = 64;

/// Whether a row can be read, without keeping anything of it.
///
/// # Errors
/// Says which kind of row it is, and nothing of what is in it.
pub fn check(row: &[u8], value: &Bytes) -> Result<(), &'static str> {
    let Some(&table) = row.first() else { return Err("a row without a key") };
    let (what, well) = match row {
        key::DEVICE => ("the device", device(value)),
        key::POLL_TURN => ("the place of the next poll", value.len() == 4),
        key::LATEST_SYNC_KEY => ("the id of the latest app-state key", !value.is_empty()),
        PROBE => return Ok(()),
        _ => table_of(table, row, value).ok_or("a row of no table that is known")?,
    };
    if well { Ok(()) } else { Err(what) }
}

/// What a row of a table is, and whether it can be read; `None`: there is no such table.
fn table_of(table: u8, row: &[u8], value: &Bytes) -> Option<(&'static str, bool)> {
    let named = || row.len() > 1 && std::str::from_utf8(&row[1..]).is_ok();
    let paired = || key::split(row).is_some();
    let is_old_sent_index = || {
        value.is_empty()
            && key::split_timed(&Bytes::copy_from_slice(row)).is_some_and(|(_, row)| row.first() == Some(&key::SENT))
    };
    Some(match table {
        key::SESSION => ("a Signal session", named() && session(value)),
        key::IDENTITY => ("an identity key", named() && value.len() == KEY),
        key::PREKEY => ("a pre-key", key::number(row).is_some_and(|id| single_prekey(id, value))),
        key::PREKEYS => {
            ("a block of pre-keys", key::number(row).is_some_and(|block| is_block_of_prekeys(block, value, prekey)))
        }
        key::SIGNED_PREKEY => ("a signed pre-key", key::number(row).is_some_and(|id| signed_prekey(id, value))),
        key::SENDER_KEY => ("a sender key", named() && sender_key(value)),
        key::SYNC_KEY => ("an app-state key", value::from_json::<AppStateSyncKey>(value).is_ok()),
        key::SYNC_VERSION => ("an app-state version", named() && value::from_json::<HashState>(value).is_ok()),
        key::MUTATION_MAC => ("an app-state code", key::parts(row).is_some() && value.len() == CODE),
        key::SENDER_KEY_DEVICE => ("who has a sender key", paired() && matches!(value[..], [0 | 1])),
        key::SENDER_KEY_DEVICE_INDEX => ("an index of who has a sender key", paired() && value.is_empty()),
        key::LID => ("a LID's number", named() && value::from_json::<LidPnMappingEntry>(value).is_ok()),
        key::PN => {
            ("a number's LID", named() && stamped(value, |lid| !lid.is_empty() && std::str::from_utf8(lid).is_ok()))
        }
        key::BASE_KEY => ("a base key", paired() && matches!(value.len(), KEY | TAGGED_KEY)),
        key::DEVICE_LIST => ("a list of devices", named() && value::from_json::<DeviceListRecord>(value).is_ok()),
        key::GROUP => ("a group's members", named() && serde_json::from_slice::<IgnoredAny>(value).is_ok()),
        key::TC_TOKEN => ("a contact's token", named() && value::from_json::<TcTokenEntry>(value).is_ok()),
        key::SENT => ("a sent message", paired() && stamped(value, is_message)),
        key::OLD_SENT_INDEX => ("an index of sent messages", is_old_sent_index()),
        key::SECRET => ("a message secret", key::parts(row).is_some() && Secret::from_bytes(value).is_ok()),
        key::SECRET_INDEX => ("an index of message secrets", secret::is_any_index(row, value)),
        key::PENDING => {
            ("a message that is not committed yet", key::parts(row).is_some() && stamped(value, is_message))
        }
        key::HANDLED => ("a block of handled messages", key::number(row).is_some() && is_block(value)),
        key::ASKED => ("a message that was asked for again", row.len() == 1 + DIGEST && value.len() == 1),
        key::POLL => ("a poll", named() && serde_json::from_slice::<serde_json::Map<_, _>>(value).is_ok()),
        key::POLL_RING => {
            ("a place of a poll", key::number(row).is_some() && !value.is_empty() && std::str::from_utf8(value).is_ok())
        }
        _ => return None,
    })
}

/// Beside what its reader wants, each of its key pairs must be one.
fn device(row: &[u8]) -> bool {
    value::from_device::<Device>(row)
        .is_ok_and(|device| [&device.noise_key, &device.identity_key, &device.signed_pre_key].into_iter().all(is_pair))
}

fn is_pair(pair: &KeyPair) -> bool {
    pair.private_key.public_key().is_ok_and(|public| public == pair.public_key)
}

/// What has become a field that nobody knows reads as a record of nothing, which is never stored.
fn session(row: &[u8]) -> bool {
    SessionRecord::deserialize(row)
        .is_ok_and(|record| record.session_state().is_some() || record.previous_session_count() > 0)
}

fn sender_key(row: &[u8]) -> bool {
    SenderKeyRecord::deserialize(row).is_ok_and(|record| !record.is_empty())
}

fn single_prekey(id: u32, row: &[u8]) -> bool {
    matches!(row.split_first(), Some((0 | 1, record)) if prekey(id, record))
}

fn prekey(id: u32, record: &[u8]) -> bool {
    PreKeyRecord::deserialize(record).is_ok_and(|record| {
        record.id().is_ok_and(|of| u32::from(of) == id) && record.key_pair().is_ok_and(|pair| is_pair(&pair))
    })
}

fn signed_prekey(id: u32, row: &[u8]) -> bool {
    SignedPreKeyRecord::deserialize(row).is_ok_and(|record| {
        record.id().is_ok_and(|of| u32::from(of) == id)
            && record.signature().is_ok_and(|signature| signature.len() == SIGNATURE)
            && record.key_pair().is_ok_and(|pair| is_pair(&pair))
    })
}

fn stamped(row: &[u8], well: impl FnOnce(&[u8]) -> bool) -> bool {
    value::from_stamped(row).is_ok_and(|(_at, payload)| well(payload))
}

fn is_message(payload: &[u8]) -> bool {
    !payload.is_empty() && message_decode(payload).is_ok()
}
