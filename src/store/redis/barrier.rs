//! Group commit where Redis acknowledges before its disk has it: one `WAITAOF` at a time, shared by who comes meanwhile.
//!
//! On a connection of its own, because `WAITAOF` holds up everything behind it. It waits for what its own connection wrote,
//! so a mark is written before: the append-only file is in order, and what was acknowledged earlier stands before the mark.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisResult, pipe};
use tokio::sync::Mutex;

use super::BARRIER;

#[derive(Debug)]
pub(super) struct Barrier {
    connection: MultiplexedConnection,
    /// How many have asked so far.
    asked: AtomicU64,
    /// Up to which of them the disk has everything. A tokio lock: whoever holds it waits for Redis; the others queue
    /// behind it within their own deadlines.
    passed: Mutex<u64>,
}

impl Barrier {
    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, asked: AtomicU64::new(0), passed: Mutex::new(0) }
    }

    /// Returns `true` when everything acknowledged before the call is on the server's disk; `false`: not within `patience`.
    pub(super) async fn pass(&self, patience: Duration) -> RedisResult<bool> {
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut passed = self.passed.lock().await;
        if *passed >= ticket {
            return Ok(true);
        }
        let covers = self.asked.load(Ordering::Acquire);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let mut connection = self.connection.clone();
        let mut waiting = pipe();
        waiting.cmd("SET").arg(BARRIER).arg(covers).ignore();
        waiting.cmd("WAITAOF").arg(1).arg(0).arg(patience);
        let (copies,): (Vec<i64>,) = waiting.query_async(&mut connection).await?;
        let local = copies.first().is_some_and(|&local| local >= 1);
        if local {
            *passed = covers;
        }
        Ok(local)
    }
}
