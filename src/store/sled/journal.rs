//! Batches that happen all or not at all, out of single operations: the batch is put under one key first, and what a killed
//! process left of it is done when the tree is opened again.
//!
//! sled 0.34 has batches of its own, but closes its log buffer before and after each one and has a pool of threads, all of
//! which wake, write both: some 0.3 ms of CPU. A log that ends early ends at one point for all keys, so the operations
//! of a batch can't be there without its journal, nor its end without all of them.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::store::Op;

/// Where the batch stands that is being applied, or was applied last; empty after any other write.
pub(super) const KEY: &[u8] = b"\xff\xffjournal";

/// Larger batches are rare, and cheaper as sled's own: the page with the journal is written anew, batch and all, every few writes.
pub(super) const MAX_BYTES: usize = 4 * 1024;

const PUT: u8 = 0;
const REMOVE: u8 = 1;
/// The tag of an operation and the lengths of its key and value.
const HEAD: usize = 1 + 4 + 4;

/// How many bytes a batch takes in the journal.
pub(super) fn size(ops: &[Op]) -> usize {
    ops.iter()
        .map(|op| match op {
            Op::Put(key, value) => HEAD + key.len() + value.len(),
            Op::Remove(key) => HEAD + key.len(),
        })
        .sum()
}

/// A batch as bytes; never empty unless the batch is.
pub(super) fn encode(ops: &[Op]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size(ops));
    for op in ops {
        let (tag, key, value) = match op {
            Op::Put(key, value) => (PUT, key, value.as_ref()),
            Op::Remove(key) => (REMOVE, key, &[][..]),
        };
        bytes.put_u8(tag);
        for part in [key.as_ref(), value] {
            bytes.put_u32(u32::try_from(part.len()).expect("the journal holds small batches only"));
        }
        bytes.put_slice(key);
        bytes.put_slice(value);
    }
    bytes.freeze()
}

/// The batch of [`encode`]'s bytes; `None`: not understood.
pub(super) fn decode(mut bytes: Bytes) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    while bytes.has_remaining() {
        let tag = bytes.try_get_u8().ok()?;
        let mut length = || usize::try_from(bytes.try_get_u32().ok()?).ok();
        let (key, value) = (length()?, length()?);
        if bytes.len() < key.checked_add(value)? {
            return None;
        }
        let (key, value) = (bytes.split_to(key), bytes.split_to(value));
        ops.push(match tag {
            PUT => Op::Put(key, value),
            REMOVE => Op::Remove(key),
            _ => return None,
        });
    }
    Some(ops)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<Op> {
        vec![
            Op::Put("a".into(), "1".into()),
            Op::Remove("b".into()),
            Op::Put(Bytes::new(), Bytes::new()),
            Op::Put(Bytes::from_static(b"\xff\xfffence"), vec![0; 300].into()),
        ]
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let bytes = encode(&batch());
        assert_eq!(bytes.len(), size(&batch()));
        assert_eq!(format!("{:?}", decode(bytes).unwrap()), format!("{:?}", batch()));
        assert!(decode(Bytes::new()).unwrap().is_empty());
    }

    #[test]
    fn a_torn_one_is_not_understood() {
        let bytes = encode(&batch());
        let whole: Vec<usize> = (0..=batch().len()).map(|count| size(&batch()[..count])).collect();
        for length in (0..bytes.len()).filter(|length| !whole.contains(length)) {
            assert!(decode(bytes.slice(..length)).is_none(), "{length}");
        }
        let mut odd = bytes.to_vec();
        odd[0] = 2;
        assert!(decode(odd.into()).is_none());
    }
}
