//! Frames over a WebSocket: a byte stream in binary messages, cut by 3-byte lengths.
//!
//! The client's prologue (and the routing pre-intro before it) is read here as well, since it is not a frame.

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// The bytes every client starts with: `WA`, magic 6, dictionary 3.
pub(crate) const PROLOGUE: [u8; 4] = [0x57, 0x41, 0x06, 0x03];
const PRE_INTRO: [u8; 4] = [0x45, 0x44, 0x00, 0x01];
const MAX_FRAME_BYTES: usize = 1 << 24;

/// A TCP or TLS stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
/// Any of the streams a listener accepts.
pub(crate) type Stream = Box<dyn Io>;

/// The reading half.
pub(crate) struct FrameReader {
    socket: SplitStream<WebSocketStream<Stream>>,
    buffer: BytesMut,
}

/// How frames lie in the messages of the WebSocket, which WhatsApp leaves open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// Each one in a message of its own.
    #[default]
    Single,
    /// All that are ready at a time in one message, the server's hello among them.
    Joined,
    /// Each one in messages of so many bytes.
    Cut(usize),
}

/// The writing half.
pub(crate) struct FrameWriter {
    socket: SplitSink<WebSocketStream<Stream>, Message>,
    framing: Framing,
    /// Frames that wait for others to be joined to.
    waiting: BytesMut,
}

pub(crate) fn split(socket: WebSocketStream<Stream>, framing: Framing) -> (FrameReader, FrameWriter) {
    let (sink, stream) = socket.split();
    let writer = FrameWriter { socket: sink, framing, waiting: BytesMut::new() };
    (FrameReader { socket: stream, buffer: BytesMut::new() }, writer)
}

impl FrameReader {
    /// Reads the pre-intro, if there is one, and the prologue. Returns the routing information of the pre-intro.
    pub(crate) async fn prologue(&mut self) -> anyhow::Result<Option<Bytes>> {
        self.fill(4).await?;
        let routing = if self.buffer[..4] == PRE_INTRO {
            self.buffer.advance(4);
            Some(self.frame().await?.context("the stream ended in the pre-intro")?)
        } else {
            None
        };
        self.fill(4).await?;
        ensure!(self.buffer[..4] == PROLOGUE, "the stream does not start with the prologue");
        self.buffer.advance(4);
        Ok(routing)
    }

    /// The next frame's body; `None` at the end of the stream.
    pub(crate) async fn frame(&mut self) -> anyhow::Result<Option<Bytes>> {
        if !self.more(3).await? {
            return Ok(None);
        }
        let length = usize::from(self.buffer[0]) << 16 | usize::from(self.buffer[1]) << 8 | usize::from(self.buffer[2]);
        self.buffer.advance(3);
        if !self.more(length).await? {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    async fn fill(&mut self, bytes: usize) -> anyhow::Result<()> {
        ensure!(self.more(bytes).await?, "the stream ended early");
        Ok(())
    }

    /// Whether the buffer holds that many bytes, after reading as needed.
    async fn more(&mut self, bytes: usize) -> anyhow::Result<bool> {
        while self.buffer.len() < bytes {
            match self.socket.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(false),
                Some(Ok(Message::Binary(data))) => self.buffer.extend_from_slice(&data),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_)) => bail!("a WebSocket message that is not binary"),
                Some(Err(error)) => return Err(error).context("reading the WebSocket"),
            }
        }
        Ok(true)
    }
}

impl FrameWriter {
    /// Sends one frame.
    pub(crate) async fn send(&mut self, body: &[u8]) -> anyhow::Result<()> {
        self.feed(body).await?;
        self.flush().await
    }

    /// Sends one frame that the client need not answer before the next: that one may be joined to it.
    pub(crate) async fn send_soon(&mut self, body: &[u8]) -> anyhow::Result<()> {
        self.feed(body).await?;
        if self.framing == Framing::Joined { Ok(()) } else { self.flush().await }
    }

    /// Queues one frame; `flush` sends what was queued.
    pub(crate) async fn feed(&mut self, body: &[u8]) -> anyhow::Result<()> {
        ensure!(body.len() < MAX_FRAME_BYTES, "a frame of {} bytes", body.len());
        let length = u32::try_from(body.len())?.to_be_bytes();
        self.waiting.reserve(3 + body.len());
        self.waiting.extend_from_slice(&length[1..]);
        self.waiting.extend_from_slice(body);
        match self.framing {
            Framing::Joined => Ok(()),
            Framing::Single => self.write(usize::MAX).await,
            Framing::Cut(size) => self.write(size).await,
        }
    }

    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        self.write(usize::MAX).await?;
        self.socket.flush().await.context("writing the WebSocket")
    }

    /// Queues what waits, in messages of so many bytes.
    async fn write(&mut self, size: usize) -> anyhow::Result<()> {
        while !self.waiting.is_empty() {
            let message = self.waiting.split_to(size.max(1).min(self.waiting.len())).freeze();
            self.socket.feed(Message::Binary(message)).await.context("writing the WebSocket")?;
        }
        Ok(())
    }

    /// Says goodbye as a WebSocket does.
    pub(crate) async fn close(&mut self) {
        if let Err(error) = self.socket.close().await {
            tracing::trace!(%error, "closing a WebSocket");
        }
    }
}
