//! Ratchets that the store need not have yet: rows that moved within the lease that is on disk.
//!
//! whatsapp-rust 0.7.0 stores a ratchet 25 ms after each time it moved. A process that starts from an older row goes on all the
//! same: behind the ceiling of that row where something was sent (`lease`), and what was received is derived once more, as
//! a lost advance of a receiving chain is (`signal_flush.rs`). So these rows stay here until there are many, and each page of
//! the store is touched once for all that it holds: with a thousand sessions no page is in memory any more when the next
//! text of its chat comes. A killed process loses what is here.

use std::sync::Arc;

use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;

use super::{SessionBackend, key};
use crate::store::Batch;

/// Rows that are held at most, and their bytes: about those of ten busy chats. With more all are stored.
const ROWS: usize = 16;
const BYTES: usize = 16 * 1024;
/// How often ratchets move until all are stored: bounds how far a receiving chain is derived again, of the 2,000 messages that
/// one may skip.
const MOVES: usize = 64;

/// Rows of Signal sessions that the store has older versions of. Locked while they are stored, so that no reader finds an older
/// one in between.
#[derive(Debug, Default)]
pub(super) struct Held {
    rows: Vec<(Arc<str>, Vec<u8>)>,
    moves: usize,
}

impl Held {
    pub(super) fn put(&mut self, address: &Arc<str>, row: &[u8]) {
        self.moves += 1;
        if let Some((_, held)) = self.rows.iter_mut().find(|(of, _)| of == address) {
            held.clear();
            held.reserve_exact(row.len());
            held.extend_from_slice(row);
        } else {
            self.rows.reserve_exact(1);
            self.rows.push((Arc::clone(address), row.to_vec()));
        }
    }

    pub(super) fn get(&self, address: &str) -> Option<Bytes> {
        self.rows.iter().find(|(of, _)| &**of == address).map(|(_, row)| Bytes::copy_from_slice(row))
    }

    /// The row of this address is another one now, or gone.
    pub(super) fn forget(&mut self, address: &str) {
        self.rows.retain(|(of, _)| &**of != address);
    }

    /// Whether they are so many, or moved so often, that they are to be stored.
    pub(super) fn is_much(&self) -> bool {
        let bytes = || self.rows.iter().map(|(_, row)| row.len()).sum::<usize>();
        self.rows.len() > ROWS || self.moves >= MOVES || bytes() > BYTES
    }

    /// The batch with all of them behind what it has.
    pub(super) fn add_to(&self, batch: Batch) -> Batch {
        let add = |batch: Batch, (address, row): &(Arc<str>, Vec<u8>)| {
            batch.put(key::named(key::SESSION, &**address), Bytes::copy_from_slice(row))
        };
        self.rows.iter().fold(batch, add)
    }

    /// They are stored.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl SessionBackend {
    /// Stores what is held of Signal sessions; buffered.
    pub(super) async fn store_held(&self) -> Result<()> {
        let mut held = self.held.lock().await;
        self.write(held.add_to(Batch::new().buffered().loose())).await?;
        held.clear();
        Ok(())
    }
}
