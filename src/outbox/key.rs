//! The keys of the outbox namespace, and the values of its small rows.

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::Attachment;

/// Where the counters stand.
pub(super) const META_KEY: &[u8] = b"m";

pub(super) fn event_key(seq: u64) -> Bytes {
    numbered(b'e', seq)
}

/// Beside an event that a full outbox may shed.
pub(super) fn shed_key(seq: u64) -> Bytes {
    numbered(b's', seq)
}

pub(super) fn attempt_key(seq: u64) -> Bytes {
    numbered(b'a', seq)
}

pub(super) fn file_value(file: &Attachment) -> Bytes {
    serde_json::to_vec(file).expect("a struct of strings, numbers and bytes always serialises").into()
}

pub(super) fn file_of(value: &[u8]) -> Option<Attachment> {
    serde_json::from_slice(value).ok()
}

pub(super) fn file_key(seq: u64) -> Bytes {
    numbered(b'f', seq)
}

/// The attempt's key beside an event's key.
pub(super) fn attempt_key_of(event_key: &[u8]) -> Bytes {
    beside(event_key, b'a')
}

/// The key that says that it may be shed, beside an event's key.
pub(super) fn shed_key_of(event_key: &[u8]) -> Bytes {
    beside(event_key, b's')
}

/// The key of its file beside an event's key.
pub(super) fn file_key_of(event_key: &[u8]) -> Bytes {
    beside(event_key, b'f')
}

fn beside(event_key: &[u8], first: u8) -> Bytes {
    let mut key = BytesMut::from(event_key);
    if let Some(byte) = key.first_mut() {
        *byte = first;
    }
    key.freeze()
}

pub(super) fn seq_of(event_key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(event_key.get(1..)?.try_into().ok()?))
}

pub(super) fn id_key(event_id: &str) -> Bytes {
    [b"i", event_id.as_bytes()].concat().into()
}

/// Where a block of ids that are done stands.
pub(super) fn done_key(place: u64) -> Bytes {
    numbered(b'r', place)
}

/// The turn of its last id, then the ids, oldest first.
pub(super) fn done_value(last: u64, ids: &[u128]) -> Bytes {
    let mut value = BytesMut::with_capacity(8 + 16 * ids.len());
    value.put_u64(last);
    for id in ids {
        value.put_u128(*id);
    }
    value.freeze()
}

/// The turn of the last one, and the ids.
pub(super) fn done_of(value: &[u8]) -> Option<(u64, Vec<u128>)> {
    let (last, ids) = value.split_first_chunk::<8>()?;
    let (ids, rest) = ids.as_chunks::<16>();
    let well = rest.is_empty() && !ids.is_empty();
    well.then(|| (u64::from_be_bytes(*last), ids.iter().map(|id| u128::from_be_bytes(*id)).collect()))
}

/// Where older releases kept the id of one event that is done.
pub(super) fn old_recent_key(slot: u64) -> Bytes {
    numbered(b'd', slot)
}

/// The turn and the id.
pub(super) fn old_recent_of(value: &[u8]) -> Option<(u64, String)> {
    let (turn, id) = value.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*turn), String::from_utf8(id.to_vec()).ok()?))
}

fn numbered(first: u8, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(first);
    key.put_u64(number);
    key.freeze()
}
