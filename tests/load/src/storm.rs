//! The same request over and over on keep-alive connections, as `wrk -t1 -c32` does: one thread, little work a request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Connections, each with one request under way.
const CONNECTIONS: usize = 32;
/// Largest answer: a list of ten thousand sessions.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Requests a second that the server answers with 200, over the given time.
pub(crate) async fn storm(address: SocketAddr, path: &str, key: &str, length: Duration) -> anyhow::Result<f64> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nkey: {key}\r\n\r\n");
    // A thread of its own, as wrk's: the driver's other tasks don't get in between.
    let run = move || -> anyhow::Result<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let begun = Instant::now();
            let mut lanes: FuturesUnordered<_> =
                (0..CONNECTIONS).map(|_| lane(address, request.as_bytes(), begun + length)).collect();
            let mut answers = 0;
            while let Some(lane) = lanes.next().await {
                answers += lane?;
            }
            Ok(f64::from(answers) / begun.elapsed().as_secs_f64())
        })
    };
    tokio::task::spawn_blocking(run).await?
}

async fn lane(address: SocketAddr, request: &[u8], end: Instant) -> anyhow::Result<u32> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut answers = 0;
    while Instant::now() < end {
        stream.write_all(request).await?;
        let (mut filled, mut wanted) = (0, None);
        while wanted.is_none_or(|wanted| filled < wanted) {
            if filled == buffer.len() {
                ensure!(filled < MAX_ANSWER_BYTES, "an answer without end");
                buffer.resize(filled * 2, 0);
            }
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the server closed the connection");
            filled += read;
            if wanted.is_none() {
                wanted = length(&buffer[..filled])?;
            }
        }
        answers += 1;
    }
    Ok(answers)
}

/// How long the whole answer is; `None`: its head is not there yet.
fn length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = str::from_utf8(&bytes[..end]).context("a head that is no text")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the server answers {}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    Ok(Some(end + 4 + length.context("an answer without a length")??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_head_says() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-").unwrap(), None);
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").unwrap(), Some(43));
        assert!(length(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
