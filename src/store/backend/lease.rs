//! Which ratchets must be on disk before anything may be sent with them.
//!
//! whatsapp-rust 0.7.0 leases the counters of a sending chain in batches: a stored record names a ceiling, and a process that
//! starts from it goes on behind that ceiling. So a send needs its record on disk only when the ceiling was raised or the
//! chain is another (`signal_flush.rs`, `persist_signal_state_pre_wire`); every other record is what the library calls
//! write-behind. It stores both by one method, so the record itself is asked.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use whatsapp_rust::buffa::DecodeError;
use whatsapp_rust::buffa::encoding::{Tag, WireType, decode_varint, skip_field};

/// Chats whose lease is remembered; with one more all are forgotten, and each record is flushed once more. 16 bytes each.
const CHATS: usize = 4_096;

// RecordStructure, with the field that wacore-libsignal adds (`protocol/local_field.rs`).
const CURRENT_SESSION: u32 = 1;
const CEILING: u32 = 100;
// SessionStructure.
const SENDER_CHAIN: u32 = 6;
// SessionStructure.Chain.
const SENDER_RATCHET_KEY: u32 = 1;

/// The leases that are on disk, as far as this backend has flushed them: hashes of addresses, to hashes of ceiling and chain.
#[derive(Debug, Default)]
pub(super) struct Leases {
    hashes: RandomState,
    flushed: HashMap<u64, u64>,
}

impl Leases {
    /// Whether this record of an address names the lease that is on disk. One that can't be understood does not.
    pub(super) fn covers(&self, address: &str, record: &[u8]) -> bool {
        let flushed = self.flushed.get(&self.hashes.hash_one(address));
        flushed.is_some() && flushed.copied() == self.lease(record)
    }

    /// Takes note of a record that was flushed.
    pub(super) fn flushed(&mut self, address: &str, record: &[u8]) {
        let address = self.hashes.hash_one(address);
        if self.flushed.len() >= CHATS && !self.flushed.contains_key(&address) {
            self.flushed.clear();
        }
        match self.lease(record) {
            Some(lease) => self.flushed.insert(address, lease),
            None => self.flushed.remove(&address),
        };
    }

    /// The record of this address is another one now.
    pub(super) fn forget(&mut self, address: &str) {
        self.flushed.remove(&self.hashes.hash_one(address));
    }

    fn lease(&self, record: &[u8]) -> Option<u64> {
        lease(record).ok().map(|lease| self.hashes.hash_one(lease))
    }
}

/// Ceiling and chain of a record.
fn lease(record: &[u8]) -> Result<(Option<u64>, Option<&[u8]>), DecodeError> {
    let ceiling = field(record, CEILING)?.and_then(Field::number);
    let mut chain = Some(record);
    for number in [CURRENT_SESSION, SENDER_CHAIN, SENDER_RATCHET_KEY] {
        chain = match chain {
            Some(message) => field(message, number)?.and_then(Field::bytes),
            None => None,
        };
    }
    Ok((ceiling, chain))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn number(self) -> Option<u64> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

/// The last field of this number in a protobuf message.
fn field(mut message: &[u8], number: u32) -> Result<Option<Field<'_>>, DecodeError> {
    let mut found = None;
    while !message.is_empty() {
        let tag = Tag::decode(&mut message)?;
        match tag.wire_type() {
            WireType::Varint if tag.field_number() == number => {
                found = Some(Field::Number(decode_varint(&mut message)?));
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut message)?).map_err(|_| DecodeError::UnexpectedEof)?;
                let (bytes, rest) = message.split_at_checked(length).ok_or(DecodeError::UnexpectedEof)?;
                message = rest;
                if tag.field_number() == number {
                    found = Some(Field::Bytes(bytes));
                }
            }
            _ => skip_field(tag, &mut message)?,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use whatsapp_rust::buffa::MessageField;
    use whatsapp_rust::wacore::libsignal::protocol::{SessionRecord, SessionState};
    use whatsapp_rust::waproto::whatsapp::SessionStructure;
    use whatsapp_rust::waproto::whatsapp::session_structure::Chain;

    use super::*;

    fn record(chain: u8) -> SessionRecord {
        let chain = Chain { sender_ratchet_key: Some(vec![chain; 33]), ..Chain::default() };
        let session = SessionStructure { sender_chain: MessageField::some(chain), ..SessionStructure::default() };
        SessionRecord::new(SessionState::from_session_structure(session))
    }

    fn stored(record: &SessionRecord) -> Vec<u8> {
        let mut row = Vec::new();
        record.serialize_into_for_store(&mut row, &[7; 16]);
        row
    }

    #[test]
    fn ceiling_and_chain_are_read_as_the_library_writes_them() {
        let mut first = record(1);
        assert_eq!(lease(&stored(&first)).unwrap(), (None, Some(&[1; 33][..])));
        first.reserve_sender_chain_counters(0);
        let ceiling = first.reserved_sender_chain_index();
        assert!(ceiling > 0);
        assert_eq!(lease(&stored(&first)).unwrap(), (Some(ceiling.into()), Some(&[1; 33][..])));
        assert_eq!(lease(&stored(&SessionRecord::new_fresh())).unwrap(), (None, None));
    }

    #[test]
    fn only_the_lease_that_was_flushed_is_covered() {
        let mut leases = Leases::default();
        let mut here = record(1);
        here.reserve_sender_chain_counters(0);
        let row = stored(&here);
        assert!(!leases.covers("a", &row), "nothing was flushed yet");
        leases.flushed("a", &row);
        assert!(leases.covers("a", &row) && !leases.covers("b", &row));

        here.session_state_mut().unwrap().set_previous_counter(5);
        assert_ne!(stored(&here), row);
        assert!(leases.covers("a", &stored(&here)), "what else has changed rides along");

        let mut other = record(2);
        other.reserve_sender_chain_counters(0);
        assert!(!leases.covers("a", &stored(&other)), "another chain under the same ceiling");
        here.reserve_sender_chain_counters(here.reserved_sender_chain_index());
        assert!(!leases.covers("a", &stored(&here)), "a raised ceiling");

        leases.forget("a");
        assert!(!leases.covers("a", &row));
    }

    #[test]
    fn what_is_no_record_is_never_covered() {
        let mut leases = Leases::default();
        for junk in [&b"\x0a\xff"[..], b"\xff", b"\x07", b"\x0a\x05\x32\xff"] {
            leases.flushed("a", junk);
            assert!(!leases.covers("a", junk), "{junk:?}");
        }
    }

    #[test]
    fn a_bounded_number_is_remembered() {
        let mut leases = Leases::default();
        let row = stored(&record(1));
        for chat in 0..=CHATS {
            leases.flushed(&chat.to_string(), &row);
        }
        assert!(leases.flushed.len() <= CHATS);
        assert!(leases.covers(&CHATS.to_string(), &row), "the last one is among them");
    }
}
