//! The listener's side: accepts connections within limits, serves each in a task of its own, and drains on request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tower::util::Oneshot;

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
        let service = Peered { router: router.clone(), peer };
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tracker.spawn(drive(connection, slot, peer, soft.clone(), hard.clone()));
    }
}

/// The router for one connection; handlers that ask for [`ConnectInfo`] are told who is at its other end.
struct Peered {
    router: Router,
    peer: SocketAddr,
}

impl Service<Request<Incoming>> for Peered {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = Oneshot<Router, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(ConnectInfo(self.peer));
        self.router.clone().oneshot(request)
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
    connection: http1::Connection<TokioIo<TcpStream>, Peered>,
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

#[cfg(test)]
mod tests {
    use std::future::Future;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(DEADLINE, what).await.expect("it takes too long")
    }

    struct Server {
        address: SocketAddr,
        soft: CancellationToken,
        hard: CancellationToken,
        tracker: TaskTracker,
        /// Told when a request to `/slow` has begun; it ends when `finish` is told.
        begun: Arc<Notify>,
        finish: Arc<Notify>,
    }

    impl Server {
        async fn start(limits: Limits) -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (tell, wait) = (Arc::clone(&begun), Arc::clone(&finish));
            let slow = async move || {
                tell.notify_one();
                wait.notified().await;
                "slow"
            };
            let router = Router::new().route("/", get(|| async { "fast" })).route("/slow", get(slow));
            let hard = CancellationToken::new();
            let (soft, tracker) = (hard.child_token(), TaskTracker::new());
            tracker.spawn(serve(listener, router, limits, soft.clone(), hard.clone(), tracker.clone()));
            tracker.close();
            Self { address, soft, hard, tracker, begun, finish }
        }

        async fn connect(&self) -> TcpStream {
            soon(TcpStream::connect(self.address)).await.unwrap()
        }
    }

    /// Asks on a connection that stays open and reads the answer to the last byte of its body.
    async fn ask(stream: &mut TcpStream, path: &str, body: &str) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(body.as_bytes()) {
            let mut bytes = [0; 1024];
            let count = soon(stream.read(&mut bytes)).await.unwrap();
            assert!(count > 0, "closed after {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&bytes[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        soon(stream.read_to_end(&mut bytes)).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_stop_finishes_what_is_under_way_and_closes_what_is_idle() {
        let server = Server::start(Limits::default()).await;
        let (mut idle, mut busy) = (server.connect().await, server.connect().await);
        ask(&mut idle, "/", "fast").await;
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        soon(server.begun.notified()).await;
        server.soft.cancel();
        assert_eq!(rest(&mut idle).await, "");
        assert!(!server.tracker.is_empty(), "the request in flight is waited for");
        server.finish.notify_one();
        let answer = rest(&mut busy).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("slow"), "{answer}");
        soon(server.tracker.wait()).await;
        assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_hard_stop_drops_what_is_under_way() {
        let server = Server::start(Limits::default()).await;
        let mut busy = server.connect().await;
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        soon(server.begun.notified()).await;
        server.hard.cancel();
        soon(server.tracker.wait()).await;
        assert_eq!(rest(&mut busy).await, "");
    }

    #[tokio::test]
    async fn a_connection_too_many_is_told_so_and_a_free_slot_is_used_again() {
        let limits = Limits { connections: 1, connection_wait: Duration::from_millis(50), ..Limits::default() };
        let server = Server::start(limits).await;
        let mut first = server.connect().await;
        ask(&mut first, "/", "fast").await;
        let refused = rest(&mut server.connect().await).await;
        assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
        let (head, body) = refused.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{refused}");
        drop(first);
        soon(async {
            // The server notices the end of the first connection in its own time.
            while !try_ask(server.address).await {}
        })
        .await;
        server.hard.cancel();
    }

    async fn try_ask(address: SocketAddr) -> bool {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        // A refused connection may be reset, because what it asked was never read.
        let mut answer = Vec::new();
        asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
    }

    #[tokio::test]
    async fn a_head_that_never_ends_and_an_idle_connection_are_closed() {
        let limits = Limits { head_timeout: Duration::from_millis(100), ..Limits::default() };
        let server = Server::start(limits).await;
        let (mut slow, mut idle) = (server.connect().await, server.connect().await);
        slow.write_all(b"GET / HTTP/1.1\r\nhos").await.unwrap();
        ask(&mut idle, "/", "fast").await;
        let closed = rest(&mut slow).await;
        assert!(closed.is_empty() || closed.starts_with("HTTP/1.1 408"), "{closed}");
        assert_eq!(rest(&mut idle).await, "");
        server.hard.cancel();
        soon(server.tracker.wait()).await;
    }
}
