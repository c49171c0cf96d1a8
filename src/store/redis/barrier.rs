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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::redis::{AsyncConnectionConfig, Client};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Answers as Redis does, `WAITAOF` with `local` copies after a while; counts those in `waits`.
    async fn serve(stream: TcpStream, local: u8, waits: Arc<AtomicU64>) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            stream.read_line(&mut head).await.ok().filter(|&length| length > 0)?;
            let words: usize = head.trim_end().strip_prefix('*')?.parse().ok()?;
            let mut first = Vec::new();
            for word in 0..words {
                let mut length = String::new();
                stream.read_line(&mut length).await.ok()?;
                let mut bytes = vec![0; length.trim_end().strip_prefix('$')?.parse::<usize>().ok()? + 2];
                stream.read_exact(&mut bytes).await.ok()?;
                if word == 0 {
                    first = bytes;
                }
            }
            let answer = if first.starts_with(b"WAITAOF") {
                waits.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                format!("*2\r\n:{local}\r\n:0\r\n")
            } else {
                "+OK\r\n".to_owned()
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    async fn barrier(local: u8) -> (Barrier, Arc<AtomicU64>, tokio::task::JoinSet<Option<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let waits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&waits);
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { serve(listener.accept().await.ok()?.0, local, counted).await });
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let client = Client::open(url).unwrap();
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        (Barrier::new(connection), waits, server)
    }

    #[tokio::test]
    async fn who_comes_while_one_waits_shares_the_next() {
        let (barrier, waits, _server) = barrier(1).await;
        let patience = Duration::from_secs(5);
        let all = futures::future::join_all((0..20).map(|_| barrier.pass(patience)));
        let passed = tokio::time::timeout(patience, all).await.unwrap();
        assert!(passed.into_iter().all(|passed| passed.unwrap()));
        assert!((1..=2).contains(&waits.load(Ordering::SeqCst)), "{waits:?}");
        let before = waits.load(Ordering::SeqCst);
        assert!(barrier.pass(patience).await.unwrap());
        assert_eq!(waits.load(Ordering::SeqCst), before + 1, "what came later is not covered");
    }

    #[tokio::test]
    async fn a_disk_that_is_late_covers_nobody() {
        let (barrier, waits, _server) = barrier(0).await;
        for asked in 1..=3 {
            assert!(!barrier.pass(Duration::from_millis(1)).await.unwrap());
            assert_eq!(waits.load(Ordering::SeqCst), asked);
        }
    }
}
