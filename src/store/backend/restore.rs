//! What becomes of a session's rows when they come back from an older state.
//!
//! A ratchet that was saved has gone on since: keys that it would use again are burnt. So everything that encrypts or
//! decrypts messages by a state that moves is left out, and the device is told that it has no pre-keys at the server:
//! new ones are made and uploaded at the next login, contacts start new Signal sessions with them, and a message that was
//! encrypted to an old one is asked for again.

use bytes::Bytes;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::error::Result;

use super::key;
use super::value;

/// Pre-key ids are passed over by so many: more than the gateway can have used since the backup (812 at a time), so that
/// no id means two keys. Beyond the last id, 2^24 − 1, whatsapp-rust begins again at 1.
const PREKEY_GAP: u32 = 1_000_000;
const MAX_PREKEY_ID: u32 = (1 << 24) - 1;

/// The row as it may stand in a store that is restored; `None`: it may not.
///
/// # Errors
/// When the device can't be read.
pub fn restored(key: &[u8], value: Bytes) -> Result<Option<Bytes>> {
    if key == key::DEVICE {
        return restored_device(&value).map(Some);
    }
    Ok(match key.first() {
        // Ratchets, and what belongs to them; who has our sender keys, for nobody has the new ones; whose devices and
        // members may have changed meanwhile: asked anew.
        Some(
            &(key::SESSION
            | key::PREKEY
            | key::PREKEYS
            | key::SENDER_KEY
            | key::BASE_KEY
            | key::SENDER_KEY_DEVICE
            | key::SENDER_KEY_DEVICE_INDEX
            | key::DEVICE_LIST
            | key::GROUP),
        ) => None,
        _ => Some(value),
    })
}

fn restored_device(row: &[u8]) -> Result<Bytes> {
    let mut device: Device = value::from_device(row)?;
    device.server_has_prekeys = false;
    device.first_unupload_pre_key_id = 0;
    device.next_pre_key_id = device.next_pre_key_id.saturating_add(PREKEY_GAP) % MAX_PREKEY_ID;
    value::device(value::is_paired(row), &device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_that_may_have_been_used_comes_back() {
        for table in [key::SESSION, key::PREKEY, key::PREKEYS, key::SENDER_KEY, key::BASE_KEY] {
            assert_eq!(restored(&key::numbered(table, 1), "row".into()).unwrap(), None, "{}", char::from(table));
        }
        assert_eq!(restored(&key::named(key::IDENTITY, "a"), "row".into()).unwrap(), Some("row".into()));
    }
}
