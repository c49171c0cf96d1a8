//! The ids of events that were done lately: an event that comes again is known by them.
//!
//! Sixteen share a row, as each row that is written looks at a page. Older releases kept one to a row; such rows are read,
//! and go when their turn comes.

use std::collections::VecDeque;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{RECENT_IDS, key};
use crate::store::Batch;

/// Ids that share a row.
const BLOCK: usize = 16;
/// Rows that are kept: never fewer ids than [`RECENT_IDS`], the block included that is being filled.
const BLOCKS: u64 = RECENT_IDS.div_ceil(BLOCK) as u64 + 1;

/// The last [`RECENT_IDS`] ids that were done, and the block that is being filled.
///
/// Of a thousand sessions that all have seen many messages, ids as text in a set would take a hundred MiB. Event ids are 32
/// hexadecimal digits, and comparing a thousand numbers takes less than reading one row.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ids: VecDeque<u128>,
    /// Turn of the last id of the block, and its ids.
    filling: Option<(u64, Vec<u128>)>,
    /// Whether rows of the old layout are there.
    any_old: bool,
}

impl Recent {
    /// From its rows, in any order: blocks, and rows of the old layout.
    pub(super) fn load(blocks: &[(Bytes, Bytes)], old: &[(Bytes, Bytes)]) -> Self {
        let mut recent = Self { any_old: !old.is_empty(), ..Self::default() };
        let blocks: Vec<_> = blocks.iter().filter_map(|(_, value)| key::done_of(value)).collect();
        let turns = |(last, ids): &(u64, Vec<u128>)| {
            let first = (last + 1).saturating_sub(ids.len() as u64);
            (first..).zip(ids.clone()).collect::<Vec<_>>()
        };
        // By turn: an older release may have gone on between two runs of this one.
        let old = old.iter().filter_map(|(_, value)| key::old_recent_of(value)).map(|(turn, id)| (turn, packed(&id)));
        let mut all: Vec<_> = old.chain(blocks.iter().flat_map(turns)).collect();
        all.sort_unstable();
        for (_, id) in all {
            recent.remember(id);
        }
        recent.filling = blocks.into_iter().max_by_key(|(last, _)| *last);
        recent
    }

    /// The turn of the id that was done last.
    pub(super) fn last_turn(&self) -> Option<u64> {
        self.filling.as_ref().map(|(last, _)| *last)
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.contains(&packed(id))
    }

    /// Adds what remembers this id, which is done in this turn, to the batch.
    pub(super) fn put(&self, mut batch: Batch, turn: u64, id: &str) -> Batch {
        if self.any_old {
            batch = batch.remove(key::old_recent_key(turn % RECENT_IDS as u64));
        }
        let ids = self.block_with(turn, packed(id));
        batch.put(key::done_key(turn / BLOCK as u64 % BLOCKS), key::done_value(turn, &ids))
    }

    /// Takes an id whose batch was written.
    pub(super) fn push(&mut self, turn: u64, id: &str) {
        let id = packed(id);
        self.filling = Some((turn, self.block_with(turn, id)));
        self.remember(id);
    }

    fn block_with(&self, turn: u64, id: u128) -> Vec<u128> {
        let block = |turn: u64| turn / BLOCK as u64;
        let filling = self.filling.as_ref().filter(|(last, _)| block(*last) == block(turn));
        let mut ids = filling.map(|(_, ids)| ids.clone()).unwrap_or_default();
        ids.push(id);
        ids
    }

    fn remember(&mut self, id: u128) {
        if self.ids.contains(&id) {
            return;
        }
        if self.ids.len() >= RECENT_IDS {
            self.ids.pop_front();
        }
        self.ids.push_back(id);
    }
}

/// Whether the id of this turn fills its block.
pub(super) fn is_last_of_block(turn: u64) -> bool {
    turn % BLOCK as u64 == BLOCK as u64 - 1
}

/// Whether a block's row can be read.
pub(super) fn is_block(value: &[u8]) -> bool {
    key::done_of(value).is_some_and(|(last, ids)| ids.len() as u64 <= last % BLOCK as u64 + 1)
}

/// An event id as the number that it spells; any other text as a part of its hash.
pub(super) fn packed(id: &str) -> u128 {
    let digits = if id.len() == 32 { u128::from_str_radix(id, 16).ok() } else { None };
    digits.unwrap_or_else(|| {
        let hash: [u8; 32] = Sha256::digest(id).into();
        u128::from_be_bytes(hash.first_chunk().copied().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::Op;

    fn id(turn: u64) -> String {
        format!("{turn:032x}")
    }

    /// The rows as a store has them.
    #[derive(Default)]
    struct Rows(BTreeMap<Bytes, Bytes>);

    impl Rows {
        fn write(&mut self, batch: Batch) {
            for op in batch.ops {
                match op {
                    Op::Put(key, value) => self.0.insert(key, value),
                    Op::Remove(key) => self.0.remove(&key),
                };
            }
        }

        fn load(&self) -> Recent {
            let of = |first: u8| -> Vec<_> {
                self.0
                    .iter()
                    .filter(|(key, _)| key[0] == first)
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            };
            Recent::load(&of(b'r'), &of(b'd'))
        }
    }

    #[test]
    fn the_last_thousand_are_known_over_a_reopening_at_any_turn() {
        let (mut rows, mut recent) = (Rows::default(), Recent::default());
        let mut turn = 0;
        for until in [1, 15, 16, 17, 40, 999, 1_000, 1_001, 1_017, 2_500] {
            while turn < until {
                rows.write(recent.put(Batch::new(), turn, &id(turn)));
                recent.push(turn, &id(turn));
                turn += 1;
            }
            let known = |recent: &Recent| (0..until).filter(|turn| recent.contains(&id(*turn))).collect::<Vec<_>>();
            let last: Vec<_> = (until.saturating_sub(RECENT_IDS as u64)..until).collect();
            assert_eq!(known(&recent), last, "{until}");
            recent = rows.load();
            assert_eq!(known(&recent), last, "{until}, reopened");
            assert!(rows.0.values().all(|value| is_block(value)), "{until}");
        }
        assert!(rows.0.len() as u64 <= BLOCKS, "{}", rows.0.len());
    }

    fn old_row(turn: u64) -> Batch {
        let value = [turn.to_be_bytes().as_slice(), id(turn).as_bytes()].concat();
        Batch::new().put(key::old_recent_key(turn % RECENT_IDS as u64), value)
    }

    #[test]
    fn an_older_release_may_go_on_in_between() {
        let mut rows = Rows::default();
        for turns in [0..1_500, 2_200..2_300] {
            let mut recent = rows.load();
            for turn in turns.clone() {
                rows.write(recent.put(Batch::new(), turn, &id(turn)));
                recent.push(turn, &id(turn));
            }
            (turns.end..turns.end + 700).for_each(|turn| rows.write(old_row(turn)));
        }
        let recent = rows.load();
        assert!((2_000..3_000).all(|turn| recent.contains(&id(turn))), "the last thousand, whoever wrote them");
    }

    #[test]
    fn rows_of_an_older_release_are_known_until_their_turn_comes() {
        let mut rows = Rows::default();
        (500..1_500).for_each(|turn| rows.write(old_row(turn)));
        let mut recent = rows.load();
        assert!((500..1_500).all(|turn| recent.contains(&id(turn))));
        for turn in 1_500..2_100 {
            rows.write(recent.put(Batch::new(), turn, &id(turn)));
            recent.push(turn, &id(turn));
        }
        for recent in [&recent, &rows.load()] {
            let known: Vec<_> = (500..2_100).filter(|turn| recent.contains(&id(*turn))).collect();
            assert_eq!(known, (1_100..2_100).collect::<Vec<_>>());
        }
        assert_eq!(rows.0.keys().filter(|key| key[0] == b'd').count(), 400);
    }

    #[test]
    fn a_row_that_is_no_block_is_told() {
        assert!(is_block(&key::done_value(0, &[7])));
        assert!(is_block(&key::done_value(20, &[7])), "a block that began before it was loaded");
        for junk in [&b""[..], b"12345678", &key::done_value(0, &[7])[..20], &key::done_value(16, &[7, 8])] {
            assert!(!is_block(junk), "{junk:?}");
        }
    }
}
