//! Ratchets that the store need not have yet: rows that moved within the lease that is on disk.
//!
//! whatsapp-rust 0.7.0 stores a ratchet 25 ms after each time it moved. A process that starts from an older row goes on all the
//! same: behind the ceiling of that row where something was sent (`lease`), and what was received is derived once more, as
//! a lost advance of a receiving chain is (`signal_flush.rs`). So these rows stay here until there are many, and each page of
//! the store is touched once for all that it holds: with a thousand sessions no page is in memory any more when the next
//! text of its chat comes. A killed process loses what is here.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;

use super::lease::Grant;
use super::{ROWS_FIRST, SessionBackend, key};
use crate::store::Batch;

/// Rows that are held at most, and their bytes: about those of ten busy chats. With more all are stored.
const ROWS: usize = 16;
const BYTES: usize = 16 * 1024;
/// How often ratchets are passed on until all are stored.
const MOVES: usize = 64;
/// Messages that were received with one of them until all are stored. A chain goes on by 2,000 at once at most (wacore-libsignal,
/// `MAX_FORWARD_JUMPS`), and by 400 of a backlog before it is passed on (whatsapp-rust, `commit_batch.rs`).
const PASSED: u64 = 500;

/// Rows of Signal sessions that the store has older versions of. Locked while they are stored, so that no reader finds an older
/// one in between.
#[derive(Debug, Default)]
pub(super) struct Held {
    rows: Vec<Row>,
    moves: usize,
    /// When one came last with which something may have been received.
    heard_at: Option<Instant>,
}

#[derive(Debug)]
struct Row {
    address: Arc<str>,
    record: Vec<u8>,
    /// Messages received since the version that the store has.
    passed: u64,
}

impl Held {
    pub(super) fn put(&mut self, address: &Arc<str>, grant: &Grant) {
        self.moves += 1;
        if grant.heard {
            self.heard_at = Some(Instant::now());
        }
        let row = if let Some(row) = self.rows.iter_mut().find(|row| row.address == *address) {
            row
        } else {
            self.rows.reserve_exact(1);
            self.rows.push(Row { address: Arc::clone(address), record: Vec::new(), passed: 0 });
            self.rows.last_mut().expect("one was pushed")
        };
        row.passed += grant.passed;
        row.record.clear();
        row.record.reserve_exact(grant.row.len());
        row.record.extend_from_slice(&grant.row);
    }

    pub(super) fn get(&self, address: &str) -> Option<Bytes> {
        self.rows.iter().find(|row| *row.address == *address).map(|row| Bytes::copy_from_slice(&row.record))
    }

    /// The row of this address is another one now, or gone. Before that is written: a write that is cancelled may be done all the
    /// same, and what is held is older then.
    pub(super) fn forget(&mut self, address: &str) {
        self.rows.retain(|row| *row.address != *address);
    }

    /// Whether they are so many, or so far ahead of the store, that they are to be stored.
    pub(super) fn is_much(&self) -> bool {
        let bytes = || self.rows.iter().map(|row| row.record.len()).sum::<usize>();
        self.moves >= MOVES
            || self.rows.len() > ROWS
            || self.rows.iter().any(|row| row.passed > PASSED)
            || bytes() > BYTES
    }

    /// Whether one came so lately that the row of a message which it has passed may still come.
    pub(super) fn has_just_heard(&self) -> bool {
        self.heard_at.is_some_and(|at| at.elapsed() < ROWS_FIRST)
    }

    /// The batch with all of them behind what it has.
    pub(super) fn add_to(&self, batch: Batch) -> Batch {
        let add = |batch: Batch, row: &Row| {
            batch.put(key::named(key::SESSION, &*row.address), Bytes::copy_from_slice(&row.record))
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
        if held.has_just_heard() {
            tokio::time::sleep(ROWS_FIRST).await;
        }
        self.write_ratchets(held.add_to(Batch::new().buffered().loose())).await?;
        held.clear();
        Ok(())
    }
}
