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

/// Handled messages that are remembered: more than WhatsApp's server replays after acknowledgements were lost. One that
/// is forgotten all the same is asked for again, and known to the outbox by its event id.
const HANDLED: u32 = 1_024;
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

#[derive(Debug, thiserror::Error)]
#[error("the message was lost before it was stored; it stays unacknowledged and is asked for again")]
struct AskedAgain;

pub(super) fn pending(chat: &str, sender: &str, id: &str) -> Bytes {
    key::joined(key::PENDING, [chat, sender], id)
}

fn asked(pending: &[u8]) -> Bytes {
    key::named(key::ASKED, digest(pending))
}

fn handled(pending: &[u8]) -> Bytes {
    key::named(key::HANDLED, digest(pending))
}

fn digest(pending: &[u8]) -> [u8; 16] {
    let digest = Sha256::digest(pending);
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

impl SessionBackend {
    /// The lost messages that are to be asked for, from now on; without a call they count as handled, as the library has it.
    pub fn lost(&self) -> mpsc::Receiver<Lost> {
        let (sender, receiver) = mpsc::channel(LOST);
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    pub(super) async fn pending_row(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Vec<u8>>> {
        let key = pending(chat, sender, id);
        let rows = self.get_many(&[key.clone(), handled(&key), asked(&key)]).await?;
        let [row, handled, asks] = rows.as_slice() else { return Err(value::unreadable()) };
        if let Some(row) = row {
            return Ok(Some(value::from_stamped(row)?.1.to_vec()));
        }
        let asks = asks.as_ref().and_then(|row| row.first().copied()).unwrap_or(0);
        let listener = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(listener) = listener.filter(|_| handled.is_none()) else { return Ok(None) };
        if asks >= ASKS {
            tracing::error!(
                message = id,
                "a message was lost before it was stored, and its sender did not send it again"
            );
            return Ok(None);
        }
        self.put_buffered(asked(&key), Bytes::copy_from_slice(&[asks + 1])).await?;
        let lost = Lost { chat: chat.to_owned(), sender: sender.to_owned(), id: id.to_owned() };
        if listener.try_send(lost).is_err() {
            tracing::debug!("more lost messages than can be asked for at once");
        }
        Err(StoreError::Database(Box::new(AskedAgain)))
    }

    /// Takes out the pending rows of messages that were committed, and remembers the messages for a while.
    pub(super) async fn settle(&self, pending: Vec<Bytes>) -> Result<()> {
        let mut turn = self.turn.lock().await;
        let mut next = if let Some(next) = *turn {
            next
        } else {
            let last = self.range(KeyRange::prefix(vec![key::HANDLED_RING]).reversed().limit(1)).await?;
            last.first().and_then(|(key, _)| key::number(key)).map_or(0, |last| last.wrapping_add(1))
        };
        // In this order: what is not pending any more is known as handled.
        let mut batch = Batch::new().buffered().loose();
        for row in pending {
            if let Some(old) = next.checked_sub(HANDLED) {
                let old = key::numbered(key::HANDLED_RING, old);
                if let Some(digest) = self.get(&old).await? {
                    batch = batch.remove(key::named(key::HANDLED, digest)).remove(old);
                }
            }
            batch = batch
                .put(key::numbered(key::HANDLED_RING, next), Bytes::copy_from_slice(&digest(&row)))
                .put(handled(&row), Bytes::new())
                .remove(asked(&row))
                .remove(row);
            next = next.wrapping_add(1);
        }
        self.write(batch).await?;
        *turn = Some(next);
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
