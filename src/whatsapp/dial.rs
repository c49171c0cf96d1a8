//! Dials WhatsApp's WebSocket and watches the stream below it.
//!
//! Ours instead of the transport crate's factory for five reasons: `TCP_NODELAY` (without it one send in ten stalls 44 ms
//! on a delayed ACK), one TLS configuration for all sessions, a deadline on stalled writes, a truthful `Link`: the session's
//! status follows the stream itself; and what a stream that ended at once says of the next one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use async_trait::async_trait;
use http::Uri;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_websockets::ClientBuilder;
use whatsapp_rust::async_channel;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::transport::{Transport, TransportEvent, TransportFactory};
use whatsapp_rust::wacore::store::DeviceCommand;

use super::Signal;

mod transport;

/// WhatsApp Web's endpoint (whatsapp-rust 0.7.0, `wacore::net`).
pub(super) const WHATSAPP_WS_URL: &str = "wss://web.whatsapp.com/ws/chat";
/// The `Origin` that a browser on WhatsApp Web would send.
const ORIGIN: &str = "https://web.whatsapp.com";
/// The whole of resolving, connecting, TLS and upgrade; whatsapp-rust gives a dial 20 s, so ours ends first and names the cause.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// One address of several may take so long: one that drops what is sent to it must leave time for the others. TCP asks three
/// times within it (after 1 and 3 s).
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(4);
/// A write that makes no progress for so long is a dead connection; below whatsapp-rust's 20 s dead-socket time.
const WRITE_STALL: Duration = Duration::from_secs(15);
/// A stream that was there for less time was ended at once.
const SHORT: Duration = Duration::from_secs(2);
/// So many streams in a row may end at once without a pause: the one that paired does, and the library dials again.
const SHORT_ONES: u32 = 2;
/// The pause after one more; it doubles. whatsapp-rust 0.7.0 makes none of its own after `stream:error` 515.
const BRAKE: Duration = Duration::from_secs(1);
/// The longest: with the dial it stays below the library's 20 s.
const LONGEST_BRAKE: Duration = Duration::from_secs(4);

/// Where to dial and with which trust; shared by all sessions.
#[derive(Clone)]
pub(super) struct Endpoint {
    uri: Uri,
    host: Arc<str>,
    port: u16,
    tls: Option<TlsConnector>,
}

impl Endpoint {
    /// Prepares a `ws://` or `wss://` URL; `extra_root` is one more PEM certificate to trust (simulator builds).
    pub(super) fn new(url: &str, extra_root: Option<&[u8]>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().context("the WhatsApp URL can't be parsed")?;
        let host = uri.host().context("the WhatsApp URL has no host")?.trim_matches(['[', ']']).into();
        let (port, tls) = match uri.scheme_str() {
            Some("ws") => (uri.port_u16().unwrap_or(80), None),
            Some("wss") => (uri.port_u16().unwrap_or(443), Some(tls_connector(extra_root)?)),
            _ => bail!("the WhatsApp URL must start with ws:// or wss://"),
        };
        Ok(Self { uri, host, port, tls })
    }
}

fn tls_connector(extra_root: Option<&[u8]>) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = extra_root {
        use rustls::pki_types::pem::PemObject;
        for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|error| anyhow!("the extra TLS root is no PEM: {error}"))?)?;
        }
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What is known of a session's stream at this moment; read by status, written by the stream itself.
#[derive(Debug)]
pub(super) struct Link {
    /// Cancelled: no byte leaves any more, and no stream is dialled.
    cut: CancellationToken,
    /// The stream that is in use, by number; 0: none. An older stream's late end must not close a newer one.
    open: AtomicU64,
    /// The number of the last stream that was dialled.
    last: AtomicU64,
    began: Instant,
    /// When the last byte was read of the open stream, in milliseconds since `began`.
    read_ms: AtomicU64,
    /// When the first byte was written after the last one that was read, in milliseconds since `began`; 0: all is answered.
    unanswered_ms: AtomicU64,
    /// The last stream that was opened, when it was, and when it ended, in milliseconds since `began`, and the frames that came over it.
    opened: AtomicU64,
    opened_ms: AtomicU64,
    ended_ms: AtomicU64,
    frames: AtomicU64,
}

/// What is known of a stream that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    /// Its number.
    stream: u64,
    lived: Duration,
    /// Since its end.
    age: Duration,
    /// Whether the handshake was all that was heard of it, or less.
    is_mute: bool,
}

impl Link {
    pub(super) fn new(cut: CancellationToken) -> Self {
        Self {
            cut,
            open: AtomicU64::default(),
            last: AtomicU64::default(),
            began: Instant::now(),
            read_ms: AtomicU64::default(),
            unanswered_ms: AtomicU64::default(),
            opened: AtomicU64::default(),
            opened_ms: AtomicU64::default(),
            ended_ms: AtomicU64::default(),
            frames: AtomicU64::default(),
        }
    }

    /// Milliseconds since this link was made, at least 1.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn age(&self, at_ms: u64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(at_ms))
    }

    /// A stream is there: whatever was before it counts no more. Returns whether another one was, whose end nobody has seen.
    fn opened(&self, stream: u64) -> bool {
        let now_ms = self.now_ms();
        self.unanswered_ms.store(0, Ordering::Relaxed);
        self.read_ms.store(now_ms, Ordering::Relaxed);
        self.opened.store(stream, Ordering::Relaxed);
        self.opened_ms.store(now_ms, Ordering::Relaxed);
        self.frames.store(0, Ordering::Relaxed);
        self.open.swap(stream, Ordering::AcqRel) != 0
    }

    /// A stream is over; `true`: nobody knew yet.
    fn ended(&self, stream: u64) -> bool {
        let ends = self.open.compare_exchange(stream, 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if ends {
            self.ended_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        ends
    }

    /// A frame came over a stream.
    fn heard(&self, stream: u64) {
        if self.open.load(Ordering::Relaxed) == stream {
            self.frames.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the server's hello was all that came over the last stream, or less.
    pub(super) fn is_mute(&self) -> bool {
        self.frames.load(Ordering::Relaxed) < 2
    }

    /// The last stream; `None`: there was none.
    fn past(&self) -> Option<Past> {
        let stream = Some(self.opened.load(Ordering::Relaxed)).filter(|number| *number != 0)?;
        let opened_ms = self.opened_ms.load(Ordering::Relaxed);
        // One that is open still is given up by who dials again.
        let ended_ms = if self.is_open() { self.now_ms() } else { self.ended_ms.load(Ordering::Relaxed) };
        let lived = Duration::from_millis(ended_ms.saturating_sub(opened_ms));
        Some(Past { stream, lived, age: self.age(ended_ms), is_mute: self.is_mute() })
    }

    /// Ends the stream at once and for good.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until it is cut.
    pub(super) async fn until_cut(&self) {
        self.cut.cancelled().await;
    }

    /// Whether the stream is there, as far as this end can know.
    pub(super) fn is_open(&self) -> bool {
        self.stream().is_some()
    }

    /// The number of the stream that is there.
    pub(super) fn stream(&self) -> Option<u64> {
        Some(self.open.load(Ordering::Acquire)).filter(|number| *number != 0)
    }

    /// How long nothing at all has come.
    pub(super) fn silent_for(&self) -> Duration {
        if self.is_open() { self.age(self.read_ms.load(Ordering::Relaxed)) } else { Duration::ZERO }
    }

    /// How long nothing at all has come since something was written; WhatsApp answers within a second or so.
    pub(super) fn unanswered_for(&self) -> Duration {
        match self.unanswered_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.age(since),
        }
    }

    fn read(&self, stream: u64) {
        if self.open.load(Ordering::Relaxed) == stream {
            self.unanswered_ms.store(0, Ordering::Relaxed);
            self.read_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    fn written(&self, stream: u64) {
        if self.open.load(Ordering::Relaxed) == stream && self.unanswered_ms.load(Ordering::Relaxed) == 0 {
            self.unanswered_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }
}

/// Addresses as they are to be tried: the two families in turn, beginning with the resolver's first choice (RFC 8305, section 4).
fn in_turn(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut preferred = addresses.into_iter().peekable();
    let Some(is_ipv6) = preferred.peek().map(SocketAddr::is_ipv6) else { return Vec::new() };
    let (preferred, others): (Vec<_>, Vec<_>) = preferred.partition(|address| address.is_ipv6() == is_ipv6);
    let mut others = others.into_iter();
    let mut order = Vec::new();
    for address in preferred {
        order.push(address);
        order.extend(others.next());
    }
    order.extend(others);
    order
}

/// Connects to the first address that answers within the limit, each in its turn; the last may take what is left of the
/// dial's time.
async fn first_of<T, F>(
    addresses: &[SocketAddr],
    limit: Duration,
    mut connect: impl FnMut(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let Some((last, before)) = addresses.split_last() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    };
    for address in before {
        match tokio::time::timeout(limit, connect(*address)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => tracing::debug!(%error, "an address of WhatsApp does not answer"),
            Err(_elapsed) => tracing::debug!("an address of WhatsApp does not answer in time"),
        }
    }
    connect(*last).await
}

/// Has the next handshake ask for the server's key instead of trusting the one that is kept.
///
/// A client that knows the key logs in by its first message. Where a server neither goes on from there nor says what is wrong,
/// whatsapp-rust 0.7.0 would try the same for ever: it gives a key up only where an answer can't be read (`handshake.rs`).
pub(super) async fn forget_server_key(store: &PersistenceManager) {
    if store.get_device_snapshot().server_cert_chain.is_some() {
        tracing::info!("WhatsApp did not go on after a short handshake: the next one is a full one");
        store.process_command(DeviceCommand::ClearServerCertChain).await;
    }
}

/// Streams that ended at once, one after the other.
#[derive(Debug, Default)]
struct ShortOnes {
    /// The last stream that was counted, by number.
    counted: AtomicU64,
    in_a_row: AtomicU32,
}

impl ShortOnes {
    /// Counts the last stream, if it is a new one; how long to wait before the next.
    fn pause(&self, past: Past) -> Duration {
        let stream = past.stream;
        let in_a_row = if self.counted.swap(stream, Ordering::Relaxed) == stream {
            self.in_a_row.load(Ordering::Relaxed)
        } else if past.lived < SHORT {
            self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
        } else {
            self.in_a_row.store(0, Ordering::Relaxed);
            0
        };
        match in_a_row.checked_sub(SHORT_ONES + 1) {
            None => Duration::ZERO,
            Some(more) => BRAKE.saturating_mul(2_u32.saturating_pow(more)).min(LONGEST_BRAKE).saturating_sub(past.age),
        }
    }
}

/// Makes one session's connections.
pub(super) struct Dial {
    endpoint: Endpoint,
    link: Arc<Link>,
    signals: mpsc::Sender<Signal>,
    store: Arc<PersistenceManager>,
    tracker: TaskTracker,
    short_ones: ShortOnes,
}

impl Dial {
    pub(super) fn new(
        endpoint: Endpoint,
        link: Arc<Link>,
        signals: mpsc::Sender<Signal>,
        store: Arc<PersistenceManager>,
        tracker: TaskTracker,
    ) -> Self {
        Self { endpoint, link, signals, store, tracker, short_ones: ShortOnes::default() }
    }

    /// What the stream before says of the next one: not at once, or not with the key that is kept of the server.
    async fn learn(&self) {
        let Some(past) = self.link.past() else { return };
        let pause = self.short_ones.pause(past);
        if !pause.is_zero() {
            tracing::info!(
                pause_ms = pause.as_millis(),
                "WhatsApp ends each connection at once: waiting before the next"
            );
            let _cut = tokio::time::timeout(pause, self.link.until_cut()).await;
        }
        if past.is_mute {
            forget_server_key(&self.store).await;
        }
    }

    async fn dial(&self) -> anyhow::Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>)> {
        if self.link.cut.is_cancelled() {
            bail!("the session has given this connection up");
        }
        let Endpoint { uri, host, port, tls } = &self.endpoint;
        let found = tokio::net::lookup_host((host.as_ref(), *port)).await;
        let addresses = in_turn(found.with_context(|| format!("can't resolve {host}"))?);
        let tcp = first_of(&addresses, ADDRESS_TIMEOUT, TcpStream::connect).await;
        let tcp = tcp.with_context(|| format!("can't connect to {host}"))?;
        tcp.set_nodelay(true)?;
        match tls {
            None => self.upgrade(uri, tcp).await,
            Some(connector) => {
                let name = ServerName::try_from(host.to_string()).context("the WhatsApp host is no TLS name")?;
                let stream = connector.connect(name, tcp).await.with_context(|| format!("TLS with {host} failed"))?;
                self.upgrade(uri, stream).await
            }
        }
    }

    async fn upgrade<S>(
        &self,
        uri: &Uri,
        stream: S,
    ) -> anyhow::Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let number = self.link.last.fetch_add(1, Ordering::Relaxed) + 1;
        let watched = Watched {
            inner: stream,
            number,
            link: Arc::clone(&self.link),
            signals: self.signals.clone(),
            cut: Box::pin(self.link.cut.clone().cancelled_owned()),
            stall: None,
        };
        let (websocket, _response) = ClientBuilder::from_uri(uri.clone())
            .add_header(http::header::ORIGIN, http::HeaderValue::from_static(ORIGIN))?
            .connect_on(watched)
            .await
            .context("the WebSocket upgrade failed")?;
        // The library gives a stream up before it dials again, and may keep the old one's end to itself until later.
        if self.link.opened(number) {
            let _full = self.signals.try_send(Signal::LinkDown);
        }
        let link = Arc::clone(&self.link);
        let cut = self.link.cut.child_token();
        Ok(transport::over(websocket, cut, &self.tracker, move || link.heard(number)))
    }
}

#[async_trait]
impl TransportFactory for Dial {
    async fn create_transport(&self) -> anyhow::Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>)> {
        self.learn().await;
        let result = match tokio::time::timeout(DIAL_TIMEOUT, self.dial()).await {
            Ok(result) => result,
            Err(_elapsed) => Err(anyhow!("no connection within {} s", DIAL_TIMEOUT.as_secs())),
        };
        if let Err(error) = &result {
            tracing::info!(error = format!("{error:#}"), "can't reach WhatsApp, trying again");
        }
        result
    }
}

/// A stream that reports its end, does not let a write stall for ever, and lets nothing out once it is cut.
struct Watched<S> {
    inner: S,
    number: u64,
    link: Arc<Link>,
    signals: mpsc::Sender<Signal>,
    /// Wakes the reader, so that the library hears of the cut at once.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// Marks the link closed and tells the session once. The channel is bounded; a full one means that the session has
    /// unread signals and will look at the link anyway.
    fn closed(&self) {
        if self.link.ended(self.number) {
            let _full = self.signals.try_send(Signal::LinkDown);
        }
    }

    /// What a write gets once the link is cut.
    fn refusal(&self) -> Option<io::Error> {
        self.link.cut.is_cancelled().then(|| {
            self.closed();
            cut_off()
        })
    }

    fn guard_write<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(result) => {
                self.stall = None;
                if result.is_err() {
                    self.closed();
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let stall =
                    self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_STALL)));
                if stall.as_mut().poll(context).is_ready() {
                    self.stall = None;
                    self.closed();
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the write stalled")));
                }
                Poll::Pending
            }
        }
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the session has given this connection up")
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.closed();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            self.closed();
            return Poll::Ready(Err(cut_off()));
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, buf);
        match &poll {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                self.link.read(self.number);
            }
            Poll::Ready(_ended) => self.closed(),
            Poll::Pending => {}
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.refusal() {
            return Poll::Ready(Err(error));
        }
        let poll = Pin::new(&mut self.inner).poll_write(context, bytes);
        if matches!(poll, Poll::Ready(Ok(_))) {
            self.link.written(self.number);
        }
        self.guard_write(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(context);
        self.guard_write(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(context);
        self.guard_write(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.refusal() {
            return Poll::Ready(Err(error));
        }
        let poll = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        if matches!(poll, Poll::Ready(Ok(_))) {
            self.link.written(self.number);
        }
        self.guard_write(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_both_families_take_turns() {
        let order = |given: &[&str]| in_turn(given.iter().map(|text| address(text)));
        let (a6, b6, c6) = ("[2001:db8::a]:443", "[2001:db8::b]:443", "[2001:db8::c]:443");
        let (a4, b4) = ("192.0.2.1:443", "192.0.2.2:443");
        let cases: [(&[&str], &[&str]); 5] = [
            (&[a6, b6, c6, a4, b4], &[a6, a4, b6, b4, c6]),
            (&[a4, b4, a6], &[a4, a6, b4]),
            (&[a4, a6, b6], &[a4, a6, b6]),
            (&[a4, b4], &[a4, b4]),
            (&[], &[]),
        ];
        for (given, wanted) in cases {
            assert_eq!(order(given), wanted.iter().map(|text| address(text)).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_the_next_one() {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [dead, live.local_addr().unwrap()];
        let connected = first_of(&addresses, DIAL_TIMEOUT, TcpStream::connect).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap(), addresses[1]);
        let nowhere = first_of(&[], DIAL_TIMEOUT, TcpStream::connect).await;
        assert_eq!(nowhere.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_address_that_never_answers_leaves_time_for_the_others_and_the_last_error_is_told() {
        async fn connect(address: SocketAddr) -> io::Result<u16> {
            match address.port() {
                1 => std::future::pending().await,
                2 => Err(io::ErrorKind::ConnectionRefused.into()),
                port => Ok(port),
            }
        }
        async fn within(addresses: &[SocketAddr]) -> io::Result<u16> {
            let limit = Duration::from_millis(10);
            tokio::time::timeout(DIAL_TIMEOUT, first_of(addresses, limit, connect)).await.expect("it takes too long")
        }
        let (silent, closed, live) = (address("[2001:db8::a]:1"), address("192.0.2.1:2"), address("192.0.2.2:3"));
        assert_eq!(within(&[silent, live, closed]).await.unwrap(), 3);
        assert_eq!(within(&[silent, silent, closed]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(within(&[closed, closed, live]).await.unwrap(), 3);
    }

    fn watched(token: &CancellationToken) -> (Watched<DuplexStream>, DuplexStream, mpsc::Receiver<Signal>) {
        let (near, far) = tokio::io::duplex(64);
        let link = Arc::new(Link::new(token.child_token()));
        link.opened(1);
        let (signals, received) = mpsc::channel(1);
        let cut = Box::pin(link.cut.clone().cancelled_owned());
        (Watched { inner: near, number: 1, link, signals, cut, stall: None }, far, received)
    }

    #[tokio::test]
    async fn nothing_leaves_once_it_is_cut() {
        let token = CancellationToken::new();
        let (mut stream, mut far, mut signals) = watched(&token);
        stream.write_all(b"before").await.unwrap();
        token.cancel();
        assert_eq!(stream.write_all(b"after").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(!stream.link.is_open());
        assert_eq!(signals.try_recv(), Ok(Signal::LinkDown));
        drop(stream);
        let mut left = Vec::new();
        far.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"before");
        assert!(signals.try_recv().is_err(), "its end is told once");
    }

    #[tokio::test]
    async fn an_answer_ends_the_wait_that_the_first_question_began() {
        let token = CancellationToken::new();
        let (mut stream, mut far, _signals) = watched(&token);
        let link = Arc::clone(&stream.link);
        assert_eq!(link.unanswered_for(), Duration::ZERO);
        stream.write_all(b"ask").await.unwrap();
        let asked = link.unanswered_ms.load(Ordering::Relaxed);
        assert_ne!(asked, 0);
        while link.now_ms() == asked {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stream.write_all(b"again").await.unwrap();
        assert_eq!(link.unanswered_ms.load(Ordering::Relaxed), asked, "the first question counts");
        assert!(link.unanswered_for() > Duration::ZERO && link.silent_for() > Duration::ZERO);
        let heard = link.read_ms.load(Ordering::Relaxed);
        far.write_all(b"answer").await.unwrap();
        stream.read_exact(&mut [0; 6]).await.unwrap();
        assert_eq!(link.unanswered_for(), Duration::ZERO);
        assert!(link.read_ms.load(Ordering::Relaxed) > heard);
        drop(stream);
        assert_eq!((link.stream(), link.silent_for()), (None, Duration::ZERO), "what is closed is not silent");
    }

    #[tokio::test]
    async fn a_stream_that_nobody_saw_end_is_ended_by_the_next() {
        let token = CancellationToken::new();
        let (first, _far, mut signals) = watched(&token);
        let link = Arc::clone(&first.link);
        assert!(link.opened(2), "the first one is there still");
        drop(first);
        assert_eq!(link.stream(), Some(2), "its late end is not the second's");
        assert!(signals.try_recv().is_err(), "nor told once more");
        link.open.store(0, Ordering::Release);
        assert!(!link.opened(3), "the second one's end was seen");
    }

    #[test]
    fn a_stream_that_brought_only_a_hello_is_mute() {
        let link = Link::new(CancellationToken::new());
        assert_eq!(link.past(), None);
        link.last.store(1, Ordering::Relaxed);
        assert_eq!(link.past(), None, "its upgrade failed");
        link.opened(1);
        link.heard(1);
        assert!(link.past().unwrap().is_mute);
        link.heard(1);
        assert!(link.ended(1) && !link.ended(1), "it ends once");
        assert!(!link.past().unwrap().is_mute);
        link.opened(2);
        link.heard(1);
        link.heard(1);
        assert!(link.past().unwrap().is_mute, "an older stream's late frames don't count");
    }

    #[test]
    fn streams_that_end_at_once_are_dialled_ever_later() {
        let short_ones = ShortOnes::default();
        let pause = |stream, lived, age| {
            let (lived, age) = (Duration::from_millis(lived), Duration::from_millis(age));
            short_ones.pause(Past { stream, lived, age, is_mute: false }).as_millis()
        };
        let pauses: Vec<_> = (1..=8).map(|stream| pause(stream, 300, 0)).collect();
        assert_eq!(pauses, [0, 0, 1_000, 2_000, 4_000, 4_000, 4_000, 4_000]);
        assert_eq!(pause(8, 300, 1_500), 2_500, "counted once, and some of it is over");
        assert_eq!(pause(8, 300, 9_000), 0);
        assert_eq!(pause(9, 2_000, 0), 0, "one that lasts ends the row");
        assert_eq!(pause(10, 0, 0), 0);
        assert!(LONGEST_BRAKE + DIAL_TIMEOUT < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn a_cut_wakes_who_reads() {
        let token = CancellationToken::new();
        let (mut stream, _far, _signals) = watched(&token);
        let cutting = Arc::clone(&stream.link);
        let read = tokio::time::timeout(Duration::from_secs(10), async {
            let mut byte = [0];
            let (read, ()) = tokio::join!(stream.read(&mut byte), async {
                tokio::task::yield_now().await;
                cutting.cut();
            });
            read
        });
        assert_eq!(read.await.expect("it is woken").unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(!token.is_cancelled(), "only this connection was given up");
    }
}
