//! One-time pre-keys, sixteen to a row: a session has fifty of them from its first login on, which in a row each were two
//! thirds of its rows. sled splits a page at 16 rows, and keeps something of each page for as long as it is open.
//!
//! Older stores have a row for each key. They are read, and put into blocks when new keys are stored.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;

use super::{SessionBackend, key, value};
use crate::store::{Batch, KeyRange};

/// Keys of one row, about 75 bytes each: the row is written anew for each that is used.
const SIZE: u32 = 16;
/// First byte of a row; the second is how many keys it has. For each follow its place, the length of its record, and the
/// record as the library made it.
const FORMAT: u8 = 1;

/// The row of a block, and the place in it, of the key with this number.
fn place(id: u32) -> (u32, u8) {
    (id / SIZE, u8::try_from(id % SIZE).expect("a block has 16 places"))
}

fn row(block: u32) -> Bytes {
    key::numbered(key::PREKEYS, block)
}

/// The records of one row, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Block(BTreeMap<u8, Bytes>);

impl Block {
    /// `None`: it is no block that was written here.
    fn parse(row: &Bytes) -> Option<Self> {
        let (&[FORMAT, count], mut rest) = row.split_first_chunk()? else { return None };
        let mut records = BTreeMap::new();
        while let Some((&place, after)) = rest.split_first() {
            let (length, after) = after.split_first_chunk()?;
            let (record, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            let follows = records.last_key_value().is_none_or(|(last, _)| *last < place);
            if !follows || u32::from(place) >= SIZE {
                return None;
            }
            records.insert(place, row.slice_ref(record));
            rest = after;
        }
        (count > 0 && records.len() == usize::from(count)).then_some(Self(records))
    }

    fn read(row: &Bytes) -> Result<Self> {
        Self::parse(row).ok_or_else(value::unreadable)
    }

    /// # Errors
    /// When a record is 64 KiB long: the library's have 71 bytes.
    fn to_bytes(&self) -> Result<Bytes> {
        let count = u8::try_from(self.0.len()).map_err(|_| value::unreadable())?;
        let mut row = vec![FORMAT, count];
        for (place, record) in &self.0 {
            let length = u16::try_from(record.len()).map_err(|_| value::unreadable())?;
            row.push(*place);
            row.extend_from_slice(&length.to_be_bytes());
            row.extend_from_slice(record);
        }
        Ok(row.into())
    }
}

/// Whether a block's row can be read, and each of its records, with its number, is `well`.
pub(super) fn is_block(block: u32, row: &Bytes, well: impl Fn(u32, &[u8]) -> bool) -> bool {
    Block::parse(row).is_some_and(|records| {
        let id = |place: u8| block.checked_mul(SIZE)?.checked_add(u32::from(place));
        records.0.iter().all(|(place, record)| id(*place).is_some_and(|id| well(id, record)))
    })
}

/// Blocks by their numbers, to be written.
#[derive(Default)]
pub(super) struct Blocks(BTreeMap<u32, Block>);

impl Blocks {
    pub(super) fn put(&mut self, id: u32, record: Bytes) {
        let (block, place) = place(id);
        self.0.entry(block).or_default().0.insert(place, record);
    }

    pub(super) fn rows(&self) -> Result<Vec<(Bytes, Bytes)>> {
        self.0.iter().map(|(block, records)| Ok((row(*block), records.to_bytes()?))).collect()
    }
}

/// The record of a row that holds one key: behind a byte that nobody reads.
fn single(row: &Bytes) -> Result<Bytes> {
    if row.is_empty() { Err(value::unreadable()) } else { Ok(row.slice(1..)) }
}

impl SessionBackend {
    async fn block(&self, block: u32) -> Result<Option<Block>> {
        self.get(&row(block)).await?.as_ref().map(Block::read).transpose()
    }

    /// The keys of a block to which new ones come. Those of one that can't be read are lost, and shall not keep others out.
    async fn block_or_none(&self, block: u32) -> Result<Block> {
        let Some(stored) = self.get(&row(block)).await? else { return Ok(Block::default()) };
        Ok(Block::parse(&stored).unwrap_or_else(|| {
            tracing::warn!(block, "a block of pre-keys can't be read and is replaced");
            Block::default()
        }))
    }

    pub(super) async fn put_prekeys(&self, keys: Vec<(u32, Bytes)>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let _writing = self.prekeys.lock().await;
        let singles = self.range(KeyRange::prefix(vec![key::PREKEY])).await?;
        let mut batch = Batch::new();
        let mut blocks = BTreeMap::new();
        let known = singles.iter().filter_map(|(key, row)| Some((key::number(key)?, single(row).ok()?)));
        for (id, record) in known.chain(keys) {
            let (block, place) = place(id);
            let records = match blocks.entry(block) {
                Entry::Vacant(vacant) => vacant.insert(self.block_or_none(block).await?),
                Entry::Occupied(occupied) => occupied.into_mut(),
            };
            records.0.insert(place, record);
        }
        for (key, value) in Blocks(blocks).rows()? {
            batch = batch.put(key, value);
        }
        self.write(singles.into_iter().fold(batch, |batch, (key, _)| batch.remove(key))).await
    }

    /// Those of the keys with these numbers that are stored.
    pub(super) async fn prekeys(&self, ids: &[u32]) -> Result<Vec<(u32, Bytes)>> {
        let wanted: BTreeSet<u32> = ids.iter().map(|id| place(*id).0).collect();
        let rows = self.get_many(&wanted.iter().map(|block| row(*block)).collect::<Vec<_>>()).await?;
        let mut blocks = BTreeMap::new();
        for (block, row) in wanted.into_iter().zip(rows) {
            blocks.insert(block, row.as_ref().map_or_else(|| Ok(Block::default()), Block::read)?);
        }
        let in_block = |id: u32| {
            let (block, place) = place(id);
            blocks.get(&block).and_then(|records| records.0.get(&place)).cloned()
        };
        let mut found: Vec<_> = ids.iter().filter_map(|&id| Some((id, in_block(id)?))).collect();
        let others: Vec<u32> = ids.iter().copied().filter(|id| in_block(*id).is_none()).collect();
        if !others.is_empty() {
            let rows = others.iter().map(|id| key::numbered(key::PREKEY, *id)).collect::<Vec<_>>();
            for (id, row) in others.into_iter().zip(self.get_many(&rows).await?) {
                if let Some(row) = row {
                    found.push((id, single(&row)?));
                }
            }
        }
        Ok(found)
    }

    /// Buffered.
    pub(super) async fn drop_prekey(&self, id: u32) -> Result<()> {
        let _writing = self.prekeys.lock().await;
        let (block, place) = place(id);
        let Some(mut records) = self.block(block).await?.filter(|records| records.0.contains_key(&place)) else {
            return self.remove_buffered(key::numbered(key::PREKEY, id)).await;
        };
        records.0.remove(&place);
        if records.0.is_empty() {
            self.remove_buffered(row(block)).await
        } else {
            self.put_buffered(row(block), records.to_bytes()?).await
        }
    }

    /// The highest number of a key that is stored, or that a block which can't be read may have; 0: there is none.
    pub(super) async fn last_prekey(&self) -> Result<u32> {
        let keys = |table: u8| self.range(KeyRange::prefix(vec![table]));
        let mut highest = keys(key::PREKEY).await?.last().and_then(|(key, _)| key::number(key)).unwrap_or(0);
        if let Some((key, row)) = keys(key::PREKEYS).await?.last()
            && let Some(block) = key::number(key)
        {
            let place = Block::parse(row).and_then(|records| records.0.keys().last().copied().map(u32::from));
            highest = highest.max(block.saturating_mul(SIZE).saturating_add(place.unwrap_or(SIZE - 1)));
        }
        Ok(highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(records: &[(u8, &'static str)]) -> Block {
        Block(records.iter().map(|(place, record)| (*place, Bytes::from_static(record.as_bytes()))).collect())
    }

    #[test]
    fn a_block_comes_back() {
        for records in [&[(0, "one")][..], &[(3, ""), (4, "two"), (15, "three")]] {
            let records = block(records);
            assert_eq!(Block::parse(&records.to_bytes().unwrap()), Some(records));
        }
        assert_eq!((place(0), place(15), place(16), place(50)), ((0, 0), (0, 15), (1, 0), (3, 2)));
    }

    #[test]
    fn what_is_no_block_is_told() {
        let whole = block(&[(3, "one"), (4, "two")]).to_bytes().unwrap();
        for length in 0..whole.len() {
            assert_eq!(Block::parse(&whole.slice(..length)), None, "{length}");
        }
        for (at, byte) in [(0, 2), (1, 1), (1, 3), (2, 16), (2, 4), (4, 200), (8, 3)] {
            let mut row = whole.to_vec();
            row[at] = byte;
            assert_eq!(Block::parse(&row.into()), None, "{at}");
        }
        assert!(Block::default().to_bytes().is_ok_and(|row| Block::parse(&row).is_none()));
        Block([(0, Bytes::from(vec![0; 1 << 16]))].into()).to_bytes().unwrap_err();
    }

    #[test]
    fn each_record_of_a_block_is_looked_at_by_its_number() {
        let row = block(&[(0, "32"), (15, "47")]).to_bytes().unwrap();
        assert!(is_block(2, &row, |id, record| id.to_string().as_bytes() == record));
        assert!(!is_block(3, &row, |id, record| id.to_string().as_bytes() == record));
        assert!(!is_block(u32::MAX, &row, |_, _| true));
    }
}
