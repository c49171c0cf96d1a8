//! The keys of a session's namespace: one byte for the table, then the parts.
//!
//! Every part but the last carries its length, so that no text from outside can reach into another row; integers and
//! times are big-endian, so that byte order is their order.

use bytes::Bytes;

pub(super) const SESSION: u8 = b'S';
pub(super) const IDENTITY: u8 = b'I';
/// Not written any more.
pub(super) const PREKEY: u8 = b'P';
/// Number of a block, to its pre-keys.
pub(super) const PREKEYS: u8 = b'p';
pub(super) const SIGNED_PREKEY: u8 = b'G';
pub(super) const SENDER_KEY: u8 = b'K';
pub(super) const SYNC_KEY: u8 = b'Y';
pub(super) const SYNC_VERSION: u8 = b'V';
pub(super) const MUTATION_MAC: u8 = b'M';
/// Group, then device.
pub(super) const SENDER_KEY_DEVICE: u8 = b'D';
/// Device, then group: finds the rows of a device across all groups.
pub(super) const SENDER_KEY_DEVICE_INDEX: u8 = b'd';
pub(super) const LID: u8 = b'L';
pub(super) const PN: u8 = b'l';
pub(super) const BASE_KEY: u8 = b'B';
pub(super) const DEVICE_LIST: u8 = b'U';
pub(super) const GROUP: u8 = b'R';
pub(super) const TC_TOKEN: u8 = b'T';
pub(super) const SENT: u8 = b'O';
/// Time, then the key of the row; not written any more.
pub(super) const OLD_SENT_INDEX: u8 = b'o';
pub(super) const SECRET: u8 = b'X';
/// Deadline, then the key of the row.
pub(super) const SECRET_INDEX: u8 = b'x';
pub(super) const PENDING: u8 = b'Q';
/// Number of a block, to the digests of handled messages.
pub(super) const HANDLED: u8 = b'h';
/// Digest of a lost message's pending key, to how often it was asked for.
pub(super) const ASKED: u8 = b'A';

/// Id of a poll's message, to what is remembered of it.
pub(super) const POLL: u8 = b'W';
/// Place in the ring of polls, to the id.
pub(super) const POLL_RING: u8 = b'w';

pub(super) const DEVICE: &[u8] = b"Z";
/// Holds the next place in the ring of polls.
pub(super) const POLL_TURN: &[u8] = b"z";
/// Holds the id of the app-state sync key that was set last.
pub(super) const LATEST_SYNC_KEY: &[u8] = b"y";

/// The row of one name in a table.
pub(super) fn named(table: u8, name: impl AsRef<[u8]>) -> Bytes {
    let name = name.as_ref();
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(table);
    key.extend_from_slice(name);
    key.into()
}

/// The row of one number in a table.
pub(super) fn numbered(table: u8, id: u32) -> Bytes {
    named(table, id.to_be_bytes())
}

/// The number of a `numbered` key.
pub(super) fn number(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// What the keys begin with that have these parts and one more.
pub(super) fn below<const N: usize>(table: u8, parts: [&str; N]) -> Vec<u8> {
    with_room(table, parts, 0)
}

/// The row of these parts and a last one.
pub(super) fn joined<const N: usize>(table: u8, parts: [&str; N], last: impl AsRef<[u8]>) -> Bytes {
    let last = last.as_ref();
    let mut key = with_room(table, parts, last.len());
    key.extend_from_slice(last);
    key.into()
}

fn with_room<const N: usize>(table: u8, parts: [&str; N], room: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| 4 + part.len()).sum::<usize>() + room);
    key.push(table);
    for part in parts {
        let len = u32::try_from(part.len()).expect("no part of a key is 4 GiB long");
        key.extend_from_slice(&len.to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    key
}

/// The two parts of a key made by `joined` from one part and a last one.
pub(super) fn split(key: &[u8]) -> Option<(&str, &str)> {
    let (len, rest) = key.get(1..)?.split_first_chunk::<4>()?;
    let (first, last) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    Some((std::str::from_utf8(first).ok()?, std::str::from_utf8(last).ok()?))
}

/// The parts of a key made by `joined`, the last one being what is left; `None`: a part's length leads beyond the key.
pub(super) fn parts(key: &[u8]) -> Option<Vec<&[u8]>> {
    let count = if matches!(key.first(), Some(&(SECRET | PENDING))) { 2 } else { 1 };
    let (mut rest, mut parts) = (key.get(1..)?, Vec::new());
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let (part, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    Some(parts)
}

/// The index entry of a row at a time.
pub(super) fn timed(index: u8, at: i64, row: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(9 + row.len());
    key.push(index);
    key.extend_from_slice(&ordered(at));
    key.extend_from_slice(row);
    key.into()
}

/// The time and the row of an index entry.
pub(super) fn split_timed(entry: &Bytes) -> Option<(i64, Bytes)> {
    let at = entry.get(1..9)?.try_into().ok()?;
    Some((i64::from_be_bytes(at) ^ i64::MIN, entry.slice(9..)))
}

/// Bytes of a time whose order is the order of the times, negative ones too.
fn ordered(at: i64) -> [u8; 8] {
    (at ^ i64::MIN).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_run_into_each_other() {
        assert_ne!(joined(SENT, ["a"], "bc"), joined(SENT, ["ab"], "c"));
        assert_ne!(joined(SENT, ["a\0b"], "c"), joined(SENT, ["a"], "b\0c"));
        assert!(!joined(SENT, ["ab"], "c").starts_with(&below(SENT, ["a"])));
        assert_eq!(split(&joined(SENT, ["a\0b"], "c")), Some(("a\0b", "c")));
        assert_eq!(split(&joined(SENT, [""], "")), Some(("", "")));
        assert_eq!(split(b"O\0\0\0\x05ab"), None);
    }

    #[test]
    fn times_sort_and_come_back() {
        let times = [i64::MIN, -5, 0, 1, 1_700_000_000, i64::MAX];
        let keys: Vec<_> = times.iter().map(|&at| timed(SECRET_INDEX, at, b"row")).collect();
        assert!(keys.is_sorted());
        for (key, at) in keys.iter().zip(times) {
            assert_eq!(split_timed(key), Some((at, Bytes::from_static(b"row"))));
        }
        assert_eq!(number(&numbered(PREKEY, 7)), Some(7));
    }
}
