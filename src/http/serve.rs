//! The listener's side: accepts connections within limits, serves each in a task of its own, and drains on request.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

mod room;

use room::{Line, Place, Room, Watched};

/// What one listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time. One more takes the place of one that waits for its client; where all are at work,
    /// it may ask for the health of the gateway and for nothing else.
    pub connections: usize,
    /// How long the head of a request may take, and how long a connection may stay idle before it.
    pub head_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub stall_timeout: Duration,
}

impl Limits {
    /// What this process can bear; raises its own limit of open files as far as it may.
    pub fn of_process() -> Self {
        let files = open_files();
        // The rest is for sessions, stores and files. An idle connection takes some 10 KiB.
        Self { connections: (files / 4 * 3).clamp(64, 16 * 1024), ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            // hyper's own default; slower heads are an attack or a dead peer.
            head_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_mins(1),
        }
    }
}

/// The limit of open files, after it was raised as far as the system lets a process do that itself.
#[cfg(unix)]
fn open_files() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    // Without a hard limit, as many as any program needs.
    let wanted = limit.maximum.unwrap_or(64 * 1024);
    if limit.current.is_some_and(|current| current < wanted) {
        let before = limit.current;
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files could not be raised");
            limit.current = before;
        }
    }
    limit.current.map_or(64 * 1024, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
fn open_files() -> usize {
    8 * 1024
}

/// What ends the connections of one listener, in the order of a stop.
#[derive(Clone, Debug)]
pub struct Stop {
    /// No more connections are accepted, and those that wait for a request are closed; what is under way goes on, but
    /// waits for a client only while it goes on too.
    pub soft: CancellationToken,
    /// No client is waited for.
    pub ending: CancellationToken,
    /// All is dropped where it is.
    pub hard: CancellationToken,
}

/// hyper's limit of a head lies above ours of 16 KiB, so that ordinary excess is answered in JSON.
const HARD_HEAD_BYTES: usize = 64 * 1024;

/// What is read ahead of one connection, and kept of an answer that is not taken yet.
const BUFFER_BYTES: usize = 64 * 1024;

/// So much of a body is read for so long that no handler wanted.
const MAX_REST_BYTES: usize = 64 << 20;
const REST_TIMEOUT: Duration = Duration::from_secs(10);
const REST_AT_STOP: Duration = Duration::from_secs(1);

/// How long a stop waits for a client that sends no more of its request, or takes no more of its answer.
const STALL_AT_STOP: Duration = Duration::from_secs(2);
/// How often a stop looks for those.
const LOOK_AT_STOP: Duration = Duration::from_millis(250);

/// How long to wait after the system refused a connection, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is said that connections were refused.
const REFUSALS_SAID: Duration = Duration::from_secs(10);

/// Connections beyond the limit, for those who watch over the gateway.
const SPARE: usize = 64;

/// What may be asked there.
const HEALTH: [&str; 3] = ["/health", "/livez", "/readyz"];

/// The answer to a connection beyond that; nothing was read from it.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\naccess-control-allow-origin: *\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 34\r\n\r\n{\"message\":\"Too many connections\"}";

/// Serves until it is stopped; requests in flight finish on the tracker.
///
/// A listener that fails is waited for: it ends only by a token.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: Stop, tracker: TaskTracker) {
    let room = Room::new(limits.connections, SPARE);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout);
    builder.max_header_size(HARD_HEAD_BYTES).max_buf_size(BUFFER_BYTES);
    let rest = Arc::new(Rest { tracker: tracker.clone(), stop: stop.clone() });
    let mut refusals = Refusals::default();
    while let Some((stream, peer)) = accept(&listener, &stop).await {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it was served");
            continue;
        }
        let Some(place) = room.enter() else {
            refusals.note(refuse(stream));
            continue;
        };
        let service = Peered { router: router.clone(), peer, line: Arc::clone(&place.line), rest: Arc::clone(&rest) };
        let stream = Watched { stream, line: Arc::clone(&place.line) };
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tracker.spawn(drive(connection, place, limits.stall_timeout, peer, stop.clone()));
    }
}

/// The router for one connection; handlers that ask for [`ConnectInfo`] are told who is at its other end.
struct Peered {
    router: Router,
    peer: SocketAddr,
    line: Arc<Line>,
    rest: Arc<Rest>,
}

/// Where the rest of a body goes that nobody read.
struct Rest {
    tracker: TaskTracker,
    stop: Stop,
}

impl Rest {
    /// Reads on for a while: many clients write all of a request before they read the answer, and one whose connection were
    /// closed meanwhile would never see it.
    fn read(&self, mut body: Incoming) {
        let Stop { soft, hard, .. } = self.stop.clone();
        let mut left = MAX_REST_BYTES;
        let reading = async move {
            while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { break };
                left = less;
            }
        };
        // Nobody who sends slowly holds up a stop.
        let stops = async move {
            soft.cancelled().await;
            tokio::time::sleep(REST_AT_STOP).await;
        };
        self.tracker.spawn(async move {
            tokio::select! {
                () = hard.cancelled() => {}
                () = stops => {}
                _in_time = tokio::time::timeout(REST_TIMEOUT, reading) => {}
            }
        });
    }
}

impl Service<Request<Incoming>> for Peered {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if self.line.is_spare() && !HEALTH.contains(&request.uri().path()) {
            return Box::pin(async { Ok(busy()) });
        }
        let waits = request.headers().contains_key(header::EXPECT);
        let (line, rest) = (Arc::clone(&self.line), Arc::clone(&self.rest));
        let mut request = request.map(|body| Received { body: Some(body), line, waits, rest });
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let (router, line) = (self.router.clone(), Arc::clone(&self.line));
        Box::pin(async move {
            line.set_works(true);
            let answered = router.oneshot(request).await;
            line.set_works(false);
            answered
        })
    }
}

fn busy() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::CONTENT_TYPE, "application/json"),
        (header::RETRY_AFTER, "1"),
        (header::CONNECTION, "close"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, headers, "{\"message\":\"Too many connections\"}").into_response()
}

/// The body of a request. While it is waited for, the connection is not at work.
struct Received {
    /// There until it is dropped.
    body: Option<Incoming>,
    line: Arc<Line>,
    /// Its client waits to be told to go on, which it is when the body is first asked for.
    waits: bool,
    rest: Arc<Rest>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        self.line.set_works(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // Who still waits sends nothing after an answer.
        if let Some(body) = self.body.take().filter(|body| !self.waits && !body.is_end_stream()) {
            self.rest.read(body);
        }
    }
}

/// `None`: a token was cancelled.
async fn accept(listener: &TcpListener, stop: &Stop) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.soft.cancelled() => return None,
            () = stop.hard.cancelled() => return None,
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

/// Tells a client that there is no room; whether it was told.
fn refuse(stream: TcpStream) -> bool {
    // The system itself knows whether it has room for this answer, the runtime does not yet; a fresh socket has.
    let told = stream.into_std().and_then(|mut stream| {
        // What has been asked already: closed with that unread, the connection would be reset, and the answer lost.
        let mut asked = [0; 4096];
        let _nothing_yet = stream.read(&mut asked);
        stream.write_all(BUSY)?;
        stream.shutdown(Shutdown::Write)
    });
    told.is_ok()
}

/// Connections that were refused; said at the first, and then now and then.
#[derive(Default)]
struct Refusals {
    said: Option<Instant>,
    refused: u64,
    answered: u64,
}

impl Refusals {
    fn note(&mut self, answered: bool) {
        self.refused += 1;
        self.answered += u64::from(answered);
        if self.said.is_none_or(|said| said.elapsed() >= REFUSALS_SAID) {
            let Self { refused, answered, .. } = std::mem::take(self);
            tracing::warn!(refused, answered, "too many connections are at work: more are refused");
            self.said = Some(Instant::now());
        }
    }
}

async fn drive(
    connection: http1::Connection<TokioIo<Watched<TcpStream>>, Peered>,
    place: Place,
    stall_timeout: Duration,
    peer: SocketAddr,
    stop: Stop,
) {
    let mut connection = std::pin::pin!(connection);
    let mut draining = false;
    let line = &place.line;
    let mut looks = tokio::time::interval(stall_timeout / 4);
    let ended = loop {
        tokio::select! {
            biased;
            () = stop.hard.cancelled() => break Ok(()),
            () = line.evicted() => break Ok(()),
            () = stop.soft.cancelled(), if !draining => {
                draining = true;
                looks = tokio::time::interval(LOOK_AT_STOP);
                connection.as_mut().graceful_shutdown();
            }
            // Before the look, which then knows of all that has come.
            ended = connection.as_mut() => break ended,
            _at = looks.tick() => {
                let patience = match draining {
                    true if stop.ending.is_cancelled() => Duration::ZERO,
                    true => STALL_AT_STOP,
                    // Idle connections end before by the timeout of a head: this one does not take its answer.
                    false => stall_timeout,
                };
                if !line.works() && line.idle() >= patience {
                    break Ok(());
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
    drop(place);
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(DEADLINE, what).await.expect("it takes too long")
    }

    struct Server {
        address: SocketAddr,
        stop: Stop,
        tracker: TaskTracker,
        /// Told when a request to `/slow` has begun; it ends when `finish` is told.
        begun: Arc<Notify>,
        finish: Arc<Notify>,
    }

    fn never() -> Stop {
        let hard = CancellationToken::new();
        Stop { soft: hard.child_token(), ending: hard.child_token(), hard }
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
            let fast = get(|| async { "fast" });
            let echo = post(async |body: Bytes| body);
            let router = Router::new().route("/", fast.clone()).route("/health", fast).route("/slow", get(slow));
            let router = router.route("/echo", echo);
            let (stop, tracker) = (never(), TaskTracker::new());
            tracker.spawn(serve(listener, router, limits, stop.clone(), tracker.clone()));
            tracker.close();
            Self { address, stop, tracker, begun, finish }
        }

        /// Everything that was written before has been read: this runtime has one thread.
        async fn has_read(&self) {
            ask(&mut self.connect().await, "/", "fast").await;
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
        server.stop.soft.cancel();
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
        server.stop.hard.cancel();
        soon(server.tracker.wait()).await;
        assert_eq!(rest(&mut busy).await, "");
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_requests_that_never_end() {
        let server = Server::start(Limits::default()).await;
        let (mut head, mut body) = (server.connect().await, server.connect().await);
        head.write_all(b"G").await.unwrap();
        body.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        server.has_read().await;
        server.stop.soft.cancel();
        assert_eq!((rest(&mut head).await, rest(&mut body).await), (String::new(), String::new()));
        soon(server.tracker.wait()).await;
    }

    #[tokio::test]
    async fn a_stop_waits_for_a_request_that_still_comes_until_nobody_is_waited_for() {
        let server = Server::start(Limits::default()).await;
        let (mut last, mut slow) = (server.connect().await, server.connect().await);
        for stream in [&mut last, &mut slow] {
            stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 60\r\n\r\n").await.unwrap();
        }
        server.has_read().await;
        server.stop.soft.cancel();
        // Together longer than a client may rest.
        for _ in 0..30 {
            last.write_all(b"xx").await.unwrap();
            slow.write_all(b"x").await.unwrap();
            tokio::time::sleep(STALL_AT_STOP / 20).await;
        }
        let answer = rest(&mut last).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(&"x".repeat(60)), "{answer}");
        assert!(!server.tracker.is_empty(), "the other has not ended");
        server.stop.ending.cancel();
        soon(server.tracker.wait()).await;
        assert_eq!(rest(&mut slow).await, "");
    }

    #[tokio::test]
    async fn an_idle_connection_makes_room_for_a_new_one() {
        let server = Server::start(Limits { connections: 1, ..Limits::default() }).await;
        let mut first = server.connect().await;
        ask(&mut first, "/", "fast").await;
        let mut second = server.connect().await;
        ask(&mut second, "/", "fast").await;
        assert_eq!(rest(&mut first).await, "", "it had nothing to do");
        server.stop.hard.cancel();
    }

    #[tokio::test]
    async fn where_all_are_at_work_only_health_is_told() {
        let server = Server::start(Limits { connections: 1, ..Limits::default() }).await;
        let mut busy = server.connect().await;
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        soon(server.begun.notified()).await;
        let mut beyond = server.connect().await;
        ask(&mut beyond, "/health", "fast").await;
        beyond.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let refused = rest(&mut beyond).await;
        assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
        assert!(refused.ends_with("{\"message\":\"Too many connections\"}"), "{refused}");
        server.finish.notify_one();
        let mut answer = [0; 15];
        soon(busy.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK", "it was not disturbed");
        server.stop.hard.cancel();
    }

    #[tokio::test]
    async fn a_client_that_does_not_take_its_answer_is_cut_off() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless = || async {
            axum::body::Body::from_stream(futures::stream::repeat(Ok::<_, std::convert::Infallible>(vec![
                b'x';
                64 * 1024
            ])))
        };
        let router = Router::new().route("/", get(endless));
        let (stop, tracker) = (never(), TaskTracker::new());
        let limits = Limits { stall_timeout: Duration::from_millis(200), ..Limits::default() };
        tracker.spawn(serve(listener, router, limits, stop.clone(), tracker.clone()));
        let mut lazy = soon(TcpStream::connect(address)).await.unwrap();
        lazy.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // The listener's task, and no connection's.
        soon(async {
            while tracker.len() < 2 {
                tokio::task::yield_now().await;
            }
            while tracker.len() > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        stop.hard.cancel();
        drop(lazy);
    }

    #[tokio::test]
    async fn one_too_many_is_told_so_whether_or_not_it_has_asked() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        for asked in ["", "GET /session HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let mut client = soon(TcpStream::connect(listener.local_addr().unwrap())).await.unwrap();
            client.write_all(asked.as_bytes()).await.unwrap();
            let (stream, _peer) = soon(listener.accept()).await.unwrap();
            assert!(refuse(stream));
            let refused = rest(&mut client).await;
            assert_eq!(refused.as_bytes(), BUSY, "{asked:?}");
        }
    }

    #[test]
    fn refusals_are_not_said_one_by_one() {
        let mut refusals = Refusals::default();
        refusals.note(true);
        assert_eq!((refusals.refused, refusals.said.is_some()), (0, true), "the first is said");
        for answered in [true, false, true] {
            refusals.note(answered);
        }
        assert_eq!((refusals.refused, refusals.answered), (3, 2), "the others wait");
    }

    #[test]
    fn the_answer_to_one_too_many_tells_its_length() {
        let refused = String::from_utf8(BUSY.to_vec()).unwrap();
        let (head, body) = refused.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{refused}");
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
        server.stop.hard.cancel();
        soon(server.tracker.wait()).await;
    }

    #[tokio::test]
    async fn who_writes_a_large_body_first_reads_the_answer_that_did_not_need_it() {
        let server = Server::start(Limits::default()).await;
        let mut stream = server.connect().await;
        let body = vec![b'x'; 16 << 20];
        let head = format!("POST /absent HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        for _ in 0..2 {
            soon(stream.write_all(head.as_bytes())).await.unwrap();
            soon(stream.write_all(&body)).await.unwrap();
            let mut answer = [0; 1024];
            let count = soon(stream.read(&mut answer)).await.unwrap();
            assert!(answer[..count].starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer[..count]));
        }
        server.stop.soft.cancel();
        soon(server.tracker.wait()).await;
    }
}
