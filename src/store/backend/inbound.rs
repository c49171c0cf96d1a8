//! Received messages between decryption and their acknowledgement: pending rows, what was handled, what was lost.
//!
//! whatsapp-rust 0.7.0 keeps a decrypted message in a pending row until the durability hook has it. Its ratchet may reach
//! the store before that row (a flush for another chat takes all ratchets along; a refused write loses the row only). If
//! the process or the connection dies in between, the message delivered again counts as decrypted already, and the
//! library would acknowledge it although nobody has it. So the last handled messages are remembered here: one that is
//! neither pending nor handled was lost, stays unacknowledged, and its sender is asked to send it once more, as for one
//! that can't be decrypted.

use std::sync::PoisonError;

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

/// The block of handled messages that is being filled.
#[derive(Debug, Default)]
pub(super) struct Block {
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

    pub(super) async fn pending_row(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Vec<u8>>> {
        let key = pending(chat, sender, id);
        let rows = self.get_many(&[key.clone(), asked(&key)]).await?;
        let [row, asks] = rows.as_slice() else { return Err(value::unreadable()) };
        if let Some(row) = row {
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
        self.put_buffered(asked(&key), Bytes::copy_from_slice(&[asks + 1])).await?;
        let lost = Lost { chat: chat.to_owned(), sender: sender.to_owned(), id: id.to_owned() };
        if listener.try_send(Box::new(lost)).is_err() {
            tracing::debug!("more lost messages than can be asked for at once");
        }
        Err(StoreError::Database(Box::new(AskedAgain)))
    }

    async fn is_handled(&self, pending: &[u8]) -> Result<bool> {
        let digest = digest(pending);
        let blocks = self.range(KeyRange::prefix(vec![key::HANDLED])).await?;
        Ok(blocks.iter().any(|(_, row)| digests(row).chunks(DIGEST).any(|handled| handled == digest)))
    }

    /// Takes out the pending rows of messages that were committed, and remembers the messages for a while.
    pub(super) async fn settle(&self, pending: Vec<Bytes>) -> Result<()> {
        let mut filling = self.handled.lock().await;
        let mut block = if let Some(block) = filling.take() {
            block
        } else {
            let last = self.range(KeyRange::prefix(vec![key::HANDLED]).reversed().limit(1)).await?;
            last.first().and_then(|(key, row)| Block::of(key, row)).unwrap_or_default()
        };
        // In this order: what is not pending any more is known as handled.
        let mut batch = Batch::new().buffered().loose();
        for row in &pending {
            if let Some(full) = block.push(digest(row)) {
                batch = batch.put(full.key(), full.row());
                if let Some(old) = block.number.checked_sub(BLOCKS + 1) {
                    batch = batch.remove(key::numbered(key::HANDLED, old));
                }
            }
        }
        batch = batch.put(block.key(), block.row());
        batch = pending.into_iter().fold(batch, |batch, row| batch.remove(asked(&row)).remove(row));
        self.write(batch).await?;
        *filling = Some(block);
        Ok(())
    }

    pub(super) async fn expire_pending(&self, cutoff: i64) -> Result<u32> {
        self.sweep(KeyRange::prefix(vec![key::PENDING]), |batch, key, row| {
            let expired = value::from_stamped(row).is_ok_and(|(at, _)| at < cutoff);
            if expired {
                batch.ops.push(Op::Remove(key.clone()));
            }
            expired
        })
        .await
    }
}
