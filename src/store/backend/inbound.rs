//! Received messages between decryption and their acknowledgement: pending rows, what was handled, what was lost.
//!
//! whatsapp-rust 0.7.0 keeps a decrypted message in a pending row until the durability hook has it. Its ratchet may reach
//! the store before that row (a flush for another chat takes all ratchets along; a refused write loses the row only). If
//! the process or the connection dies in between, the message delivered again counts as decrypted already, and the
//! library would acknowledge it although nobody has it. So the last handled messages are remembered here: one that is
//! neither pending nor handled was lost, stays unacknowledged, and its sender is asked to send it once more, as for one
//! that can't be decrypted.
//!
//! Most messages are handled before anything else of their session is stored, so a pending row stays in memory until then:
//! every write that may carry a ratchet stores the rows first. A killed process finds what it would have found if it had
//! ended before the message came. In the same way what is handled is stored before the next ratchet is: without that, a message
//! that is delivered again is decrypted again, and the outbox knows its event id.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use whatsapp_rust::wacore::store::error::{Result, StoreError};

use super::{SessionBackend, key, value};
use crate::store::{Batch, KeyRange, Op};

/// Handled messages whose digests share a row. Looked up only when a message comes twice, and written for each one: so few
/// rows are better than an index.
const BLOCK: usize = 16;
/// Blocks that are remembered, and the one that is being filled: 1,024 messages are more than WhatsApp's server replays
/// after acknowledgements were lost. One that is forgotten all the same is asked for again, and known to the outbox by its
/// event id.
const BLOCKS: u32 = 64;
/// Bytes of a digest.
pub(super) const DIGEST: usize = 16;
/// How often a lost message is asked for, once per redelivery, before it is given up.
const ASKS: u8 = 5;
/// Lost messages that wait for the session to ask for them; more are asked for at their next redelivery.
const LOST: usize = 64;

/// A message that can't be decrypted again and whose content was never stored.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Its chat's address.
    pub chat: String,
    /// Its sender's address, with the device.
    pub sender: String,
    /// Its id.
    pub id: String,
}

/// Pending rows that stay in memory at most, and their bytes; with one more all are stored.
const UNSTORED: usize = 32;
const UNSTORED_BYTES: usize = 64 * 1024;

/// A ratchet that was stored so lately may have passed a message whose row comes only now.
const JUST_WRITTEN: Duration = Duration::from_millis(5);

/// Pending rows that the store has not got yet, oldest first. Locked while they are stored, so that no ratchet overtakes them.
#[derive(Debug, Default)]
pub(super) struct Unstored {
    rows: Vec<(Bytes, Bytes)>,
    /// Keys of rows that the store may have, whether or not they are here too.
    stored: HashSet<Bytes>,
}

impl Unstored {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.rows.retain(|(known, _)| *known != key);
        self.rows.push((key, value));
    }

    fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.rows.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// Whether the store has nothing under this key.
    fn is_here_alone(&self, key: &[u8]) -> bool {
        self.get(key).is_some() && !self.stored.contains(key)
    }

    fn forget(&mut self, keys: &[Bytes]) {
        self.rows.retain(|(known, _)| !keys.contains(known));
        self.stored.retain(|known| !keys.contains(known));
    }

    fn is_much(&self) -> bool {
        let bytes = || self.rows.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        self.rows.len() > UNSTORED || bytes() > UNSTORED_BYTES
    }
}

/// Writes under way that may carry a ratchet: the library took it before the row of a message may have been there that it has
/// passed, so a row that comes meanwhile, or a moment later, is stored at once.
#[derive(Debug, Default)]
pub(super) struct Writing {
    under_way: AtomicUsize,
    ended: std::sync::Mutex<Option<Instant>>,
}

impl Writing {
    /// Ends when dropped.
    pub(super) fn begin(&self) -> impl Drop + Send {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(self)
    }

    fn is_or_was(&self) -> bool {
        let ended = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        self.under_way.load(Ordering::Acquire) > 0 || ended.is_some_and(|ended| ended.elapsed() < JUST_WRITTEN)
    }
}

struct UnderWay<'a>(&'a Writing);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Changes to full blocks that wait for the next ratchet at most; with one more all are stored. Each block is one, and one more
/// for that which it takes the place of.
const UNSTORED_CHANGES: usize = 4;

/// The block of handled messages that is being filled, and what the store has not got yet.
#[derive(Debug, Default)]
pub(super) struct Handled {
    block: Block,
    /// Changes to full blocks.
    full: Vec<Op>,
    unstored: bool,
}

impl Handled {
    fn push(&mut self, digest: [u8; DIGEST]) {
        self.unstored = true;
        if let Some(full) = self.block.push(digest) {
            self.full.push(Op::Put(full.key(), full.row()));
            if let Some(old) = self.block.number.checked_sub(BLOCKS + 1) {
                self.full.push(Op::Remove(key::numbered(key::HANDLED, old)));
            }
        }
    }

    /// Adds what the store has not got yet.
    fn add_to(&self, mut batch: Batch) -> Batch {
        if self.unstored {
            batch.ops.extend(self.full.iter().cloned());
            batch = batch.put(self.block.key(), self.block.row());
        }
        batch
    }

    fn is_stored(&mut self) {
        self.full = Vec::new();
        self.unstored = false;
    }
}

#[derive(Debug, Default)]
struct Block {
    number: u32,
    digests: Vec<u8>,
}

impl Block {
    /// Of a row that is damaged, what can be a digest: the blocks after it go on from its number.
    fn of(key: &[u8], row: &[u8]) -> Option<Self> {
        let (number, digests) = (key::number(key)?, digests(row));
        let whole = (digests.len() / DIGEST).min(BLOCK) * DIGEST;
        Some(Self { number, digests: digests[..whole].to_vec() })
    }

    fn key(&self) -> Bytes {
        key::numbered(key::HANDLED, self.number)
    }

    /// Led by their number, so that a row that was cut off is told from a whole one.
    fn row(&self) -> Bytes {
        let count = u8::try_from(self.digests.len() / DIGEST).expect("a block has 16 digests at most");
        [&[count], self.digests.as_slice()].concat().into()
    }

    /// Takes one more; `Some`: this one is full, and goes on as the next.
    fn push(&mut self, digest: [u8; DIGEST]) -> Option<Self> {
        let full = (self.digests.len() >= BLOCK * DIGEST).then(|| {
            let next = Self { number: self.number.wrapping_add(1), digests: Vec::with_capacity(BLOCK * DIGEST) };
            std::mem::replace(self, next)
        });
        self.digests.extend_from_slice(&digest);
        full
    }
}

/// The digests of a block's row.
fn digests(row: &[u8]) -> &[u8] {
    row.get(1..).unwrap_or_default()
}

/// Whether a block's row is whole.
pub(super) fn is_block(row: &[u8]) -> bool {
    row.first().is_some_and(|count| *count > 0 && digests(row).len() == usize::from(*count) * DIGEST)
}

#[derive(Debug, thiserror::Error)]
#[error("the message was lost before it was stored; it stays unacknowledged and is asked for again")]
struct AskedAgain;

pub(super) fn pending(chat: &str, sender: &str, id: &str) -> Bytes {
    key::joined(key::PENDING, [chat, sender], id)
}

fn asked(pending: &[u8]) -> Bytes {
    key::named(key::ASKED, digest(pending))
}

fn digest(pending: &[u8]) -> [u8; DIGEST] {
    let digest = Sha256::digest(pending);
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

impl SessionBackend {
    /// The lost messages that are to be asked for, from now on; without a call they count as handled, as the library has it.
    pub fn lost(&self) -> mpsc::Receiver<Box<Lost>> {
        let (sender, receiver) = mpsc::channel(LOST);
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Takes pending rows: they reach the store before the next ratchet does.
    pub(super) async fn keep_pending(&self, rows: impl IntoIterator<Item = (Bytes, Bytes)> + Send) -> Result<()> {
        self.takes_more().await?;
        let now = {
            let mut unstored = self.unstored.lock().await;
            rows.into_iter().for_each(|(key, value)| unstored.put(key, value));
            unstored.is_much() || self.writing.is_or_was()
        };
        if now { self.store_pending().await } else { Ok(()) }
    }

    /// Stores the pending rows that are not stored yet.
    pub(super) async fn store_pending(&self) -> Result<()> {
        let mut unstored = self.unstored.lock().await;
        if unstored.rows.is_empty() {
            return Ok(());
        }
        // Buffered: what comes after it is flushed with it, and without that WhatsApp delivers the messages again.
        let mut batch = Batch::new().buffered().loose();
        for (key, value) in unstored.rows.clone() {
            unstored.stored.insert(key.clone());
            batch = batch.put(key, value);
        }
        self.write_alone(batch).await?;
        unstored.rows.clear();
        Ok(())
    }

    pub(super) async fn pending_row(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Vec<u8>>> {
        let key = pending(chat, sender, id);
        if let Some(row) = self.unstored.lock().await.get(&key) {
            return Ok(Some(value::from_stamped(row)?.1.to_vec()));
        }
        let rows = self.get_many(&[key.clone(), asked(&key)]).await?;
        let [row, asks] = rows.as_slice() else { return Err(value::unreadable()) };
        if let Some(row) = row {
            // It may be put once more before it is handled.
            self.unstored.lock().await.stored.insert(key);
            return Ok(Some(value::from_stamped(row)?.1.to_vec()));
        }
        let Some(listener) = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return Ok(None) };
        // Read after the pending row: that is taken out only when this has it.
        if self.is_handled(&key).await? {
            return Ok(None);
        }
        let asks = asks.as_ref().and_then(|row| row.first().copied()).unwrap_or(0);
        if asks >= ASKS {
            tracing::error!(
                message = id,
                "a message was lost before it was stored, and its sender did not send it again"
            );
            return Ok(None);
        }
        self.any_asked.store(true, Ordering::Release);
        self.put_buffered(asked(&key), Bytes::copy_from_slice(&[asks + 1])).await?;
        let lost = Lost { chat: chat.to_owned(), sender: sender.to_owned(), id: id.to_owned() };
        if listener.try_send(Box::new(lost)).is_err() {
            tracing::debug!("more lost messages than can be asked for at once");
        }
        Err(StoreError::Database(Box::new(AskedAgain)))
    }

    /// Stores which messages are handled, before a ratchet that has passed them.
    pub(super) async fn store_handled(&self) -> Result<()> {
        let mut handled = self.handled.lock().await;
        let Some(handled) = handled.as_mut().filter(|handled| handled.unstored) else { return Ok(()) };
        self.write_alone(handled.add_to(Batch::new().buffered().loose())).await?;
        handled.is_stored();
        Ok(())
    }

    async fn is_handled(&self, pending: &[u8]) -> Result<bool> {
        self.store_handled().await?;
        let digest = digest(pending);
        let blocks = self.range(KeyRange::prefix(vec![key::HANDLED])).await?;
        Ok(blocks.iter().any(|(_, row)| digests(row).chunks(DIGEST).any(|handled| handled == digest)))
    }

    /// Takes out the pending rows of messages that were committed, and remembers the messages for a while.
    pub(super) async fn settle(&self, pending: Vec<Bytes>) -> Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        self.takes_more().await?;
        let mut handled = self.handled.lock().await;
        if handled.is_none() {
            if self.any(vec![key::ASKED]).await? {
                self.any_asked.store(true, Ordering::Release);
            }
            let blocks = self.range(KeyRange::prefix(vec![key::HANDLED])).await?;
            let block = blocks.last().and_then(|(key, row)| Block::of(key, row)).unwrap_or_default();
            *handled = Some(Handled { block, ..Handled::default() });
        }
        // It stays where it is: if this call is dropped, what it has is still to be stored.
        let now = handled.get_or_insert_default();
        for row in &pending {
            now.push(digest(row));
        }
        let any_asked = self.any_asked.load(Ordering::Acquire);
        let mut unstored = self.unstored.lock().await;
        let nothing_stored = !any_asked && pending.iter().all(|row| unstored.is_here_alone(row));
        if nothing_stored && now.full.len() <= UNSTORED_CHANGES {
            unstored.forget(&pending);
            return Ok(());
        }
        // In this order: what is not pending any more is known as handled.
        let mut batch = now.add_to(Batch::new().buffered().loose());
        for row in &pending {
            if any_asked {
                batch = batch.remove(asked(row));
            }
            if !unstored.is_here_alone(row) {
                batch = batch.remove(row.clone());
            }
        }
        // Locked on: who finds a row pending no more finds it handled.
        self.write_alone(batch).await?;
        unstored.forget(&pending);
        now.is_stored();
        Ok(())
    }

    pub(super) async fn expire_pending(&self, cutoff: i64) -> Result<u32> {
        self.store_pending().await?;
        let mut expired = Vec::new();
        let removed = self
            .sweep(KeyRange::prefix(vec![key::PENDING]), |batch, key, row| {
                let is_expired = value::from_stamped(row).is_ok_and(|(at, _)| at < cutoff);
                if is_expired {
                    batch.ops.push(Op::Remove(key.clone()));
                    expired.push(key.clone());
                }
                is_expired
            })
            .await?;
        // One that was put once more meanwhile keeps its row, which then counts as stored too: a removal too many is harmless.
        let mut unstored = self.unstored.lock().await;
        expired.retain(|key| unstored.get(key).is_none());
        unstored.stored.retain(|known| !expired.contains(known));
        drop(unstored);
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use whatsapp_rust::wacore::store::traits::SignalStore as _;

    use super::*;
    use crate::outbox::memory::MemoryKv;
    use crate::store::sled::SledStore;
    use crate::store::{Kv as _, Namespace};

    #[tokio::test]
    async fn what_expires_is_not_remembered_as_stored() {
        let folder = tempfile::tempdir().unwrap();
        let kv = Arc::new(SledStore::open(&folder.path().join("store")).unwrap());
        let backend = SessionBackend::new(kv, Namespace::credentials("u"), None);
        let rows = [("old", 10), ("young", 30)];
        let rows = rows.map(|(id, at)| (pending("c", "s", id), value::stamped(at, b"text")));
        backend.keep_pending(rows.clone()).await.unwrap();
        backend.store_pending().await.unwrap();
        assert_eq!(backend.expire_pending(20).await.unwrap(), 1);
        let stored = backend.unstored.lock().await.stored.clone();
        assert_eq!(stored, HashSet::from([rows[1].0.clone()]));
    }

    fn messages(ids: std::ops::Range<u32>) -> Vec<(Bytes, Bytes)> {
        ids.map(|id| (pending("c", "s", &id.to_string()), value::stamped(1, b"text"))).collect()
    }

    async fn handled_rows(kv: &MemoryKv) -> usize {
        let range = KeyRange::prefix(vec![key::HANDLED]);
        kv.range(&Namespace::credentials("u"), range).await.unwrap().len()
    }

    #[tokio::test]
    async fn what_is_handled_is_stored_before_the_next_ratchet() {
        for ratchet in 0..6 {
            let kv = Arc::new(MemoryKv::default());
            let backend = SessionBackend::new(kv.clone(), Namespace::credentials("u"), None);
            let _lost = backend.lost();
            let rows = messages(0..3);
            backend.keep_pending(rows.clone()).await.unwrap();
            backend.settle(rows.into_iter().map(|(key, _)| key).collect()).await.unwrap();
            assert!(kv.snapshot(&Namespace::credentials("u")).await.unwrap().is_empty(), "no ratchet has passed them");
            let record = Bytes::from_static(b"record");
            match ratchet {
                0 => backend.put_session("s", &record).await.unwrap(),
                1 => backend.put_sessions_batch(&[("s".into(), record)]).await.unwrap(),
                2 => backend.put_sender_key("s", &record).await.unwrap(),
                3 => backend.put_sender_keys_batch(&[("s".into(), record)]).await.unwrap(),
                4 => backend.close().await,
                _ => assert_eq!(backend.pending_row("c", "s", "1").await.unwrap(), None, "it is no lost one"),
            }
            assert_eq!(handled_rows(&kv).await, 1, "ratchet {ratchet}");
            let next = SessionBackend::new(kv.clone(), Namespace::credentials("u"), None);
            let _lost = next.lost();
            for (id, known) in [("0", true), ("2", true), ("3", false)] {
                assert_eq!(next.pending_row("c", "s", id).await.is_ok(), known, "message {id}");
            }
        }
    }

    #[tokio::test]
    async fn what_has_a_row_is_stored_as_handled_at_once() {
        let kv = Arc::new(MemoryKv::default());
        let backend = SessionBackend::new(kv.clone(), Namespace::credentials("u"), None);
        let rows = messages(0..2);
        backend.keep_pending(rows[..1].to_vec()).await.unwrap();
        backend.store_pending().await.unwrap();
        backend.keep_pending(rows[1..].to_vec()).await.unwrap();
        backend.settle(vec![rows[1].0.clone()]).await.unwrap();
        assert_eq!(handled_rows(&kv).await, 0);
        backend.settle(vec![rows[0].0.clone()]).await.unwrap();
        let left = kv.snapshot(&Namespace::credentials("u")).await.unwrap();
        assert_eq!((left.len(), digests(&left[0].1).len()), (1, 2 * DIGEST));
    }

    #[tokio::test]
    async fn a_bounded_number_of_handled_messages_waits_for_a_ratchet() {
        let kv = Arc::new(MemoryKv::default());
        let backend = SessionBackend::new(kv.clone(), Namespace::credentials("u"), None);
        for (key, value) in messages(0..300) {
            backend.keep_pending([(key.clone(), value)]).await.unwrap();
            backend.settle(vec![key]).await.unwrap();
        }
        let stored = handled_rows(&kv).await;
        assert!((300 / BLOCK - UNSTORED_CHANGES..=300 / BLOCK + 1).contains(&stored), "{stored} blocks");
        backend.close().await;
        assert_eq!(handled_rows(&kv).await, 300_usize.div_ceil(BLOCK));
    }
}
