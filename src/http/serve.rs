//! The listener's side: accepts connections within limits, serves each in a task of its own, and drains on request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What one listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time.
    pub connections: usize,
    /// How long a new connection waits for one to end before it is answered 503.
    pub connection_wait: Duration,
    /// How long the head of a request may take, and how long a connection may stay idle before it.
    pub head_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Below the usual limit of 65536 open files, with room for sessions and stores; some 64 KiB each at most.
            connections: 4096,
            connection_wait: Duration::from_secs(1),
            // hyper's own default; slower heads are an attack or a dead peer.
            head_timeout: Duration::from_secs(30),
        }
    }
}

/// hyper's limit of a head lies above ours of 16 KiB, so that ordinary excess is answered in JSON.
const HARD_HEAD_BYTES: usize = 64 * 1024;

/// How long to wait after the system refused a connection, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The answer to a connection beyond the limit; nothing was read from it.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\naccess-control-allow-origin: *\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 34\r\n\r\n{\"message\":\"Too many connections\"}";

/// Serves until `soft` is cancelled; then accepts no more and lets requests in flight finish on the tracker.
/// `hard` drops them where they are.
///
/// A listener that fails is waited for: it ends only by a token.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).max_header_size(HARD_HEAD_BYTES);
    while let Some((stream, peer)) = accept(&listener, &soft, &hard).await {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it was served");
            continue;
        }
        let Some(slot) = slot(&slots, limits.connection_wait).await else {
            refuse(&stream);
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tracker.spawn(drive(connection, slot, peer, soft.clone(), hard.clone()));
    }
}

/// `None`: a token was cancelled.
async fn accept(
    listener: &TcpListener,
    soft: &CancellationToken,
    hard: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = soft.cancelled() => return None,
            () = hard.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                tracing::warn!(%error, "the listener could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn slot(slots: &Arc<Semaphore>, wait: Duration) -> Option<OwnedSemaphorePermit> {
    let slot = tokio::time::timeout(wait, Arc::clone(slots).acquire_owned()).await;
    slot.ok().and_then(Result::ok)
}

fn refuse(stream: &TcpStream) {
    // A fresh socket has room for this answer; if not, closing says enough.
    let written = stream.try_write(BUSY);
    tracing::warn!(answered = written.is_ok(), "too many connections: one was refused");
}

async fn drive(
    connection: http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>>,
    slot: OwnedSemaphorePermit,
    peer: SocketAddr,
    soft: CancellationToken,
    hard: CancellationToken,
) {
    let mut connection = std::pin::pin!(connection);
    let mut draining = false;
    let ended = loop {
        tokio::select! {
            biased;
            () = hard.cancelled() => break Ok(()),
            () = soft.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = connection.as_mut() => break ended,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
    drop(slot);
}
