//! Which ratchets must be on disk before anything may be sent with them.
//!
//! whatsapp-rust 0.7.0 leases the counters of a sending chain in batches: a stored record names a ceiling, and a process that
//! starts from it goes on behind that ceiling. So a send needs its record on disk only when the ceiling was raised or the
//! chain is another (`signal_flush.rs`, `persist_signal_state_pre_wire`); every other record is what the library calls
//! write-behind. It stores both by one method, so the record itself is asked.
//!
//! A record that has to be on disk is stored with a ceiling [`AHEAD`] of its chain's place: when the library raises its own, the
//! disk knows of it already, and that send waits for nothing either. It is counted from the place, as the library may read such
//! a row again: the ceiling must not climb with each reading, and no process move a chain that sent nothing. A process that
//! starts from the row goes on behind the higher ceiling; the receiver skips what was not sent, of which it bears far more
//! (2,000 keys of a chain).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher as _, RandomState};

use bytes::Bytes;
use whatsapp_rust::buffa::DecodeError;
use whatsapp_rust::buffa::encoding::{Tag, WireType, decode_varint, encode_varint, skip_field, varint_len};
use whatsapp_rust::wacore::libsignal::protocol::consts::SENDER_CHAIN_RESERVATION_BATCH;

/// Chats whose lease is remembered; with one more all are forgotten, and each record is flushed once more. 56 bytes each.
const CHATS: usize = 4_096;

/// Counters from a chain's place to the ceiling of a row on disk. The library leases 64 at a time: one send in 192 waits for the disk.
const AHEAD: u32 = 3 * SENDER_CHAIN_RESERVATION_BATCH;

// RecordStructure, with the field that wacore-libsignal adds (`protocol/local_field.rs`).
const CURRENT_SESSION: u32 = 1;
const CEILING: u32 = 100;
// SessionStructure.
const SENDER_CHAIN: u32 = 6;
const RECEIVER_CHAINS: u32 = 7;
// SessionStructure.Chain.
const SENDER_RATCHET_KEY: u32 = 1;
const CHAIN_KEY: u32 = 3;
// SessionStructure.Chain.ChainKey.
const INDEX: u32 = 1;

/// The leases that are on disk, as far as this backend has flushed them, by hashes of addresses.
#[derive(Debug, Default)]
pub(super) struct Leases {
    hashes: RandomState,
    stored: HashMap<u64, Note>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    /// Hash of the chain's key, or of its absence.
    chain: u64,
    ceiling: Option<u32>,
}

/// What is known of a stored row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    /// On disk.
    lease: Lease,
    /// The ceiling of the record that the row was made for.
    asked: Option<u32>,
    /// Hash of what it holds besides its sending chain.
    heard: u64,
    /// Where its receiving chains stand, added up.
    received: u64,
}

/// A record as it is to be stored.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) row: Bytes,
    /// The lease that is on disk covers it: the store may have it later.
    pub(super) covered: bool,
    /// Something may have been received since the last row: more than the sending chain is another.
    pub(super) heard: bool,
    /// Messages that its receiving chains went on by since the last row.
    pub(super) passed: u64,
    /// To be noted when it is written, or held if it is covered; `None`: the record can't be understood.
    pub(super) stored: Option<Note>,
}

impl Grant {
    /// Of a record that can't be understood.
    fn unread(record: &Bytes) -> Self {
        Self { row: record.clone(), covered: false, heard: true, passed: 0, stored: None }
    }
}

impl Leases {
    /// Whether this record of an address is within the lease that is on disk, and the row to store for it: with that lease,
    /// or else with one to be flushed. A record that can't be understood is stored as it is, and flushed.
    pub(super) fn grant(&self, address: &str, record: &Bytes) -> Grant {
        let (Ok((asked, place)), Ok((heard, received))) = (self.lease(record), self.heard(record)) else {
            return Grant::unread(record);
        };
        let known = self.stored.get(&self.hashes.hash_one(address));
        let is_new = known.is_none_or(|known| known.heard != heard);
        let passed = known.map_or(0, |known| received.saturating_sub(known.received));
        // One that asks for less than before was another in between, of which the disk may know nothing.
        let on_disk = known.filter(|known| known.lease.chain == asked.chain && known.asked <= asked.ceiling);
        let on_disk = on_disk.map(|known| known.lease).filter(|on_disk| match (asked.ceiling, on_disk.ceiling) {
            (Some(asked), Some(on_disk)) => asked <= on_disk,
            (asked, on_disk) => asked == on_disk,
        });
        let lease = on_disk.unwrap_or_else(|| match (asked.ceiling, place) {
            // Before the next send the library raises a ceiling that is reached.
            (Some(ceiling), Some(place)) if place < ceiling => {
                Lease { ceiling: Some(ceiling.max(place.saturating_add(AHEAD))), ..asked }
            }
            _ => asked,
        });
        let row =
            match lease.ceiling.filter(|_| lease.ceiling != asked.ceiling).map(|raised| with_ceiling(record, raised)) {
                None => record.clone(),
                Some(Ok(row)) => row,
                Some(Err(_)) => return Grant::unread(record),
            };
        let stored = Some(Note { lease, asked: asked.ceiling, heard, received });
        Grant { row, covered: on_disk.is_some(), heard: is_new, passed, stored }
    }

    /// Takes note of a row that was written: flushed, unless the lease on disk covers it.
    pub(super) fn written(&mut self, address: &str, stored: Option<Note>) {
        let address = self.hashes.hash_one(address);
        if self.stored.len() >= CHATS && !self.stored.contains_key(&address) {
            self.stored.clear();
        }
        match stored {
            Some(stored) => self.stored.insert(address, stored),
            None => self.stored.remove(&address),
        };
    }

    /// The record of this address is another one now.
    pub(super) fn forget(&mut self, address: &str) {
        self.stored.remove(&self.hashes.hash_one(address));
    }

    /// The lease of a record, and the place of its sending chain.
    fn lease(&self, record: &[u8]) -> Result<(Lease, Option<u32>), DecodeError> {
        let small = |number: Option<u64>| number.map(u32::try_from).transpose().map_err(|_| DecodeError::UnexpectedEof);
        let ceiling = small(field(record, CEILING)?.and_then(Field::number))?;
        let chain = within(within(Some(record), CURRENT_SESSION)?, SENDER_CHAIN)?;
        let place = match within(chain, CHAIN_KEY)? {
            Some(key) => small(field(key, INDEX)?.and_then(Field::number))?,
            None => None,
        };
        Ok((Lease { chain: self.hashes.hash_one(within(chain, SENDER_RATCHET_KEY)?), ceiling }, place))
    }

    /// Hash of what a received message changes: all but ceiling and incarnation, and of the current session all but its sending
    /// chain; and where the receiving chains of that stand, added up.
    fn heard(&self, record: &[u8]) -> Result<(u64, u64), DecodeError> {
        let (mut hasher, mut received) = (self.hashes.build_hasher(), 0_u64);
        each_field(record, |number, whole| {
            if number == CURRENT_SESSION
                && let Some(session) = field(whole, number)?.and_then(Field::bytes)
            {
                return each_field(session, |number, whole| {
                    if number != SENDER_CHAIN {
                        hasher.write(whole);
                    }
                    if number == RECEIVER_CHAINS
                        && let Some(key) = within(within(Some(whole), number)?, CHAIN_KEY)?
                    {
                        let index = field(key, INDEX)?.and_then(Field::number).unwrap_or(0);
                        received = received.saturating_add(index);
                    }
                    Ok(())
                });
            }
            if number < CEILING {
                hasher.write(whole);
            }
            Ok(())
        })?;
        Ok((hasher.finish(), received))
    }
}

/// The bytes of a field within a message.
fn within(message: Option<&[u8]>, number: u32) -> Result<Option<&[u8]>, DecodeError> {
    message.map_or(Ok(None), |message| Ok(field(message, number)?.and_then(Field::bytes)))
}

/// Calls for each field of a protobuf message, with its number and its bytes, tag included.
fn each_field<'a>(
    message: &'a [u8],
    mut each: impl FnMut(u32, &'a [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut rest = message;
    while !rest.is_empty() {
        let (whole, tag) = (rest, Tag::decode(&mut rest)?);
        skip_field(tag, &mut rest)?;
        each(tag.field_number(), &whole[..whole.len() - rest.len()])?;
    }
    Ok(())
}

/// The record with another ceiling; the library refuses one with two.
fn with_ceiling(record: &[u8], ceiling: u32) -> Result<Bytes, DecodeError> {
    let mut kept = 0;
    each_field(record, |number, whole| {
        kept += if number == CEILING { 0 } else { whole.len() };
        Ok(())
    })?;
    // As long as the row will be: `Bytes` takes it as it is.
    let mut row = Vec::with_capacity(kept + varint_len(u64::from(CEILING) << 3) + varint_len(ceiling.into()));
    each_field(record, |number, whole| {
        if number != CEILING {
            row.extend_from_slice(whole);
        }
        Ok(())
    })?;
    Tag::new(CEILING, WireType::Varint).encode(&mut row);
    encode_varint(ceiling.into(), &mut row);
    debug_assert_eq!(row.len(), row.capacity());
    Ok(row.into())
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
    use whatsapp_rust::buffa::{Message as _, MessageField};
    use whatsapp_rust::wacore::libsignal::protocol::{SessionRecord, SessionState};
    use whatsapp_rust::waproto::whatsapp::SessionStructure;
    use whatsapp_rust::waproto::whatsapp::session_structure::Chain;
    use whatsapp_rust::waproto::whatsapp::session_structure::chain::ChainKey;

    use super::*;

    fn record(chain: u8) -> SessionRecord {
        at(chain, 0)
    }

    fn at(chain: u8, place: u32) -> SessionRecord {
        let key = ChainKey { index: Some(place), key: Some(vec![9; 32].into()) };
        let (ratchet, key) = (Some(vec![chain; 33]), MessageField::some(key));
        let chain = Chain { sender_ratchet_key: ratchet, chain_key: key, ..Chain::default() };
        let session = SessionStructure { sender_chain: MessageField::some(chain), ..SessionStructure::default() };
        SessionRecord::new(SessionState::from_session_structure(session))
    }

    fn stored(record: &SessionRecord) -> Bytes {
        let mut row = Vec::new();
        record.serialize_into_for_store(&mut row, &[7; 16]);
        row.into()
    }

    fn ceiling(row: &[u8]) -> Option<u32> {
        Leases::default().lease(row).unwrap().0.ceiling
    }

    /// Stores a record as the backend does; whether it had to be flushed.
    fn store(leases: &mut Leases, address: &str, record: &SessionRecord) -> (bool, Bytes) {
        let grant = leases.grant(address, &stored(record));
        leases.written(address, grant.stored);
        (!grant.covered, grant.row)
    }

    #[test]
    fn ceiling_and_chain_are_read_as_the_library_writes_them() {
        let leases = Leases::default();
        let (mut first, chain) = (record(1), leases.hashes.hash_one(Some(&[1_u8; 33][..])));
        assert_eq!(leases.lease(&stored(&first)).unwrap(), (Lease { chain, ceiling: None }, Some(0)));
        first.reserve_sender_chain_counters(0);
        let ceiling = first.reserved_sender_chain_index();
        assert!(ceiling > 0);
        assert_eq!(leases.lease(&stored(&first)).unwrap(), (Lease { chain, ceiling: Some(ceiling) }, Some(0)));
        assert_eq!(leases.lease(&stored(&at(1, 300))).unwrap().1, Some(300));
        let none = leases.hashes.hash_one(None::<&[u8]>);
        assert_eq!(
            leases.lease(&stored(&SessionRecord::new_fresh())).unwrap(),
            (Lease { chain: none, ceiling: None }, None)
        );
    }

    #[test]
    fn what_is_stored_is_what_the_library_wrote_under_a_higher_ceiling() {
        let mut here = record(1);
        here.reserve_sender_chain_counters(0);
        let asked = here.reserved_sender_chain_index();
        let (_, row) = store(&mut Leases::default(), "a", &here);
        assert_eq!(ceiling(&row), Some(AHEAD));
        // The same incarnation: it is not moved forward.
        let read = |row: &[u8]| SessionRecord::deserialize_for_store(row, &[7; 16]).unwrap();
        assert_eq!(read(&row).reserved_sender_chain_index(), AHEAD);
        assert_eq!(stored(&read(&with_ceiling(&row, asked).unwrap())), stored(&here));
        assert_eq!(ceiling(&store(&mut Leases::default(), "a", &record(1)).1), None, "one without a lease gets none");
    }

    #[test]
    fn only_the_lease_that_was_flushed_is_covered() {
        let mut leases = Leases::default();
        let mut here = record(1);
        here.reserve_sender_chain_counters(0);
        assert!(!leases.grant("a", &stored(&here)).covered, "nothing was flushed yet");
        let (_, row) = store(&mut leases, "a", &here);
        assert!(leases.grant("a", &stored(&here)).covered && !leases.grant("b", &stored(&here)).covered);

        here.session_state_mut().unwrap().set_previous_counter(5);
        let grant = leases.grant("a", &stored(&here));
        assert!(grant.covered && grant.row != row, "what else has changed rides along");

        let mut other = record(2);
        other.reserve_sender_chain_counters(0);
        assert!(!leases.grant("a", &stored(&other)).covered, "another chain under the same ceiling");
        assert!(!leases.grant("a", &stored(&record(1))).covered, "no lease where there was one");

        leases.forget("a");
        assert!(!leases.grant("a", &stored(&here)).covered);
    }

    /// Whatever was sent, the last row that was flushed must stand above it, and no later row may stand below that.
    #[test]
    fn no_counter_is_spent_that_a_row_on_disk_does_not_cover() {
        let (mut leases, mut ceilings) = (Leases::default(), record(1));
        let (mut on_disk, mut count) = (0, 0);
        for spent in 0..1_000 {
            if spent >= ceilings.reserved_sender_chain_index() {
                ceilings.reserve_sender_chain_counters(spent);
            }
            let mut here = at(1, spent + 1);
            here.reserve_sender_chain_counters(ceilings.reserved_sender_chain_index() - SENDER_CHAIN_RESERVATION_BATCH);
            let (flushed, row) = store(&mut leases, "a", &here);
            let stands = ceiling(&row).unwrap();
            if flushed {
                (on_disk, count) = (stands, count + 1);
            }
            assert!(spent < on_disk && stands == on_disk, "{spent} was sent under {on_disk}, stored {stands}");
        }
        assert!(count <= 6, "flushed {count} times");
    }

    /// Rows are read again after an eviction, by the same incarnation of the library, and after a restart, by another.
    #[test]
    fn neither_ceiling_nor_place_climbs_when_rows_are_only_read_and_stored() {
        let mut here = at(1, 3);
        here.reserve_sender_chain_counters(0);
        let (_, mut row) = store(&mut Leases::default(), "a", &here);
        for round in 0..100 {
            let incarnation = if round < 50 { [7; 16] } else { [round; 16] };
            let read = SessionRecord::deserialize_for_store(&row, &incarnation).unwrap();
            let mut again = Vec::new();
            read.serialize_into_for_store(&mut again, &incarnation);
            row = Leases::default().grant("a", &again.into()).row;
            let (lease, place) = Leases::default().lease(&row).unwrap();
            assert_eq!(lease.ceiling, Some(3 + AHEAD), "round {round}");
            assert_eq!(place, Some(if round < 50 { 3 } else { 3 + AHEAD }), "round {round}");
        }
    }

    #[test]
    fn a_session_that_was_another_in_between_is_flushed() {
        let mut leases = Leases::default();
        let mut here = at(1, 70);
        here.reserve_sender_chain_counters(70);
        store(&mut leases, "a", &here);
        let mut back = at(1, 70);
        back.reserve_sender_chain_counters(0);
        assert!(!leases.grant("a", &stored(&back)).covered);
    }

    #[test]
    fn what_was_received_is_told_from_what_was_sent() {
        let (mut leases, mut here) = (Leases::default(), record(1));
        here.reserve_sender_chain_counters(0);
        assert!(leases.grant("a", &stored(&here)).heard, "nothing is known of it yet");
        store(&mut leases, "a", &here);
        assert!(!leases.grant("a", &stored(&here)).heard, "nothing is another");

        let session = |record: &SessionRecord| {
            SessionStructure::decode_from_slice(
                field(&stored(record), CURRENT_SESSION).unwrap().and_then(Field::bytes).unwrap(),
            )
            .unwrap()
        };
        let again = |session: SessionStructure| {
            let mut record = SessionRecord::new(SessionState::from_session_structure(session));
            record.reserve_sender_chain_counters(0);
            record
        };
        let mut sent = session(&here);
        sent.sender_chain.as_option_mut().unwrap().chain_key.as_option_mut().unwrap().index = Some(7);
        let sent = again(sent);
        assert_ne!(stored(&sent), stored(&here));
        assert!(!leases.grant("a", &stored(&sent)).heard, "only the sending chain went on");

        let mut heard = session(&sent);
        heard.receiver_chains.push(Chain::default());
        let heard = again(heard);
        let grant = leases.grant("a", &stored(&heard));
        assert!(grant.heard && grant.covered, "a receiving chain is another");
        leases.written("a", grant.stored);
        assert!(!leases.grant("a", &stored(&heard)).heard, "it is written");
        assert!(leases.grant("a", &stored(&sent)).heard, "what was before it is another again");

        here.archive_current_state().unwrap();
        assert!(leases.grant("a", &stored(&here)).heard, "the session is an earlier one now");
    }

    #[test]
    fn what_is_no_record_is_never_covered() {
        let mut leases = Leases::default();
        for junk in [&b"\x0a\xff"[..], b"\xff", b"\x07", b"\x0a\x05\x32\xff", b"\xa0\x06\xff\xff\xff\xff\x7f"] {
            let first = leases.grant("a", &Bytes::from_static(junk));
            leases.written("a", first.stored);
            let grant = leases.grant("a", &Bytes::from_static(junk));
            assert!(!grant.covered && grant.row == junk, "{junk:?}");
        }
    }

    #[test]
    fn a_bounded_number_is_remembered() {
        let mut leases = Leases::default();
        let row = stored(&record(1));
        for chat in 0..=CHATS {
            let grant = leases.grant(&chat.to_string(), &row);
            leases.written(&chat.to_string(), grant.stored);
        }
        assert!(leases.stored.len() <= CHATS);
        assert!(leases.grant(&CHATS.to_string(), &row).covered, "the last one is among them");
    }
}
