//! The library's transport over one WebSocket: what it is given is one whole frame at a time.
//!
//! Ours instead of the transport crate's because the frames of WhatsApp's stream know nothing of the WebSocket's messages: a
//! server may put several into one message, or one into several. whatsapp-rust 0.7.0 forgets what stands behind the server's
//! hello in the same message (`handshake.rs`, `recv_frame`), and then waits for it in vain.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_websockets::{CloseCode, Message, WebSocketStream};
use whatsapp_rust::async_channel::{self, Receiver, Sender};
use whatsapp_rust::transport::{DisconnectReason, Transport, TransportEvent};

/// Frames that wait for the library; then the socket is not read.
const WAITING: usize = 16;
/// A frame's length stands before it in three bytes (whatsapp-rust 0.7.0, `wacore-noise/src/framing.rs`).
const LENGTH_BYTES: usize = 3;

/// Makes a transport of an upgraded WebSocket, which ends with the token; `heard` is called at each frame.
pub(super) fn over<S>(
    websocket: WebSocketStream<S>,
    closed: CancellationToken,
    tracker: &TaskTracker,
    heard: impl Fn() + Send + 'static,
) -> (Arc<dyn Transport>, Receiver<TransportEvent>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sink, stream) = websocket.split();
    let (events, received) = async_channel::bounded(WAITING);
    // There is room for it, and it comes before all frames.
    let _sent = events.try_send(TransportEvent::Connected);
    tracker.spawn(pump(stream, events, heard, closed.clone()));
    (Arc::new(Socket { sink: Mutex::new(Some(sink)), closed: closed.drop_guard() }), received)
}

/// The writing half.
struct Socket<S> {
    sink: Mutex<Option<SplitSink<WebSocketStream<S>, Message>>>,
    closed: DropGuard,
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for Socket<S> {
    async fn send(&self, data: Bytes) -> anyhow::Result<()> {
        let mut sink = self.sink.lock().await;
        let sink = sink.as_mut().ok_or_else(|| anyhow::anyhow!("the connection is closed"))?;
        Ok(sink.send(Message::binary(data)).await?)
    }

    async fn disconnect(&self) {
        self.closed.token().cancel();
        if let Some(mut sink) = self.sink.lock().await.take() {
            // Whoever has gone needs no goodbye.
            let _gone = sink.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")).await;
        }
    }
}

async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    stream: SplitStream<WebSocketStream<S>>,
    events: Sender<TransportEvent>,
    heard: impl Fn(),
    closed: CancellationToken,
) {
    let reason = tokio::select! {
        biased;
        () = closed.cancelled() => DisconnectReason::Unknown,
        reason = read(stream, &events, heard) => reason,
    };
    let end = TransportEvent::Disconnected(reason);
    tokio::select! {
        biased;
        _dropped = events.send(end) => {}
        () = closed.cancelled() => {}
    }
}

/// Hands on what comes until the end; why it ended.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    events: &Sender<TransportEvent>,
    heard: impl Fn(),
) -> DisconnectReason {
    let mut frames = Frames::default();
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return DisconnectReason::ReadError(error.to_string()),
            None => return DisconnectReason::StreamEnded,
        };
        if message.is_close() {
            let told = message.as_close().map(|(code, reason)| (u16::from(code), reason.to_owned()));
            let (code, reason) = told.unzip();
            return DisconnectReason::ServerClose { code, reason: reason.unwrap_or_default() };
        }
        // What else there is, the WebSocket answers by itself.
        if !message.is_binary() {
            continue;
        }
        let mut data = Bytes::from(message.into_payload());
        while let Some(frame) = frames.next(&mut data) {
            heard();
            if events.send(TransportEvent::DataReceived(frame)).await.is_err() {
                return DisconnectReason::Unknown;
            }
        }
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Default)]
struct Frames {
    /// The beginning of a frame whose rest has not come. Grows with what comes, not with what was announced.
    begun: BytesMut,
}

impl Frames {
    /// The next whole frame, its length included; `None`: all of the data is taken.
    fn next(&mut self, data: &mut Bytes) -> Option<Bytes> {
        if self.begun.is_empty()
            && let Some(length) = whole(data).filter(|length| *length <= data.len())
        {
            // As it nearly always is: nothing is copied.
            return Some(data.split_to(length));
        }
        loop {
            let length = whole(&self.begun);
            if length == Some(self.begun.len()) {
                return Some(std::mem::take(&mut self.begun).freeze());
            }
            if data.is_empty() {
                return None;
            }
            let wanted = length.unwrap_or(LENGTH_BYTES);
            let part = data.split_to((wanted - self.begun.len()).min(data.len()));
            self.begun.extend_from_slice(&part);
        }
    }
}

/// How long a frame is that begins so, its length included; `None`: that is not known yet.
fn whole(begun: &[u8]) -> Option<usize> {
    let [high, middle, low] = *begun.first_chunk()?;
    Some(LENGTH_BYTES + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[1..], body].concat()
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let large = vec![9; 70_000];
        let bodies: [&[u8]; 5] = [b"hello", b"", &[7; 700], b"x", &large];
        let wanted: Vec<_> = bodies.iter().map(|body| frame(body)).collect();
        let stream = wanted.concat();
        for size in [1, 2, 3, 4, 5, 8, 9, 100, 711, 65_536, stream.len()] {
            let mut frames = Frames::default();
            let mut got: Vec<Bytes> = Vec::new();
            for piece in stream.chunks(size) {
                let mut data = Bytes::copy_from_slice(piece);
                while let Some(frame) = frames.next(&mut data) {
                    got.push(frame);
                }
                assert!(data.is_empty(), "all of it is taken");
            }
            assert_eq!(got, wanted, "{size}");
            assert!(frames.begun.is_empty() && frames.begun.capacity() == 0, "nothing is kept");
        }
    }

    #[test]
    fn what_is_announced_takes_no_memory() {
        let mut frames = Frames::default();
        assert_eq!(frames.next(&mut Bytes::from_static(&[0xff, 0xff, 0xff, 1])), None);
        assert!(frames.begun.capacity() < 1 << 10, "{}", frames.begun.capacity());
    }

    /// A client, and the bytes at the other end of its WebSocket.
    fn client() -> (WebSocketStream<DuplexStream>, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 16);
        (tokio_websockets::ClientBuilder::new().take_over(near), far)
    }

    /// A short message as a server sends it (RFC 6455, section 5.2).
    fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
        [&[0x80 | opcode, u8::try_from(payload.len()).unwrap()], payload].concat()
    }

    /// Reads a short message of the client: its opcode and its payload.
    async fn said(server: &mut DuplexStream) -> (u8, Vec<u8>) {
        let mut head = [0; 6];
        server.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        server.read_exact(&mut payload).await.unwrap();
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        (head[0] & 0x0f, payload)
    }

    #[tokio::test]
    async fn the_end_is_told_after_all_frames() {
        let (client, mut server) = client();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let heard = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let (transport, events) = over(client, CancellationToken::new(), &TaskTracker::new(), heard);
        let (first, second) = (frame(b"one"), frame(b"two"));
        server.write_all(&message(2, &[&first[..], &second[..2]].concat())).await.unwrap();
        server.write_all(&message(2, &second[2..])).await.unwrap();
        transport.send(Bytes::from_static(b"three")).await.unwrap();
        assert_eq!(said(&mut server).await, (2, b"three".to_vec()));
        server.write_all(&message(8, b"\x03\xe9bye")).await.unwrap();
        assert!(matches!(events.recv().await, Ok(TransportEvent::Connected)));
        for wanted in [first, second] {
            match events.recv().await {
                Ok(TransportEvent::DataReceived(data)) => assert_eq!(data, wanted),
                other => panic!("{other:?}"),
            }
        }
        match events.recv().await {
            Ok(TransportEvent::Disconnected(DisconnectReason::ServerClose { code, reason })) => {
                assert_eq!((code, reason.as_str()), (Some(1001), "bye"));
            }
            other => panic!("{other:?}"),
        }
        assert!(events.recv().await.is_err(), "nothing comes after the end");
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_disconnect_a_dropped_transport_and_a_cut_end_it() {
        for end in ["disconnect", "drop", "cut"] {
            let (client, mut server) = client();
            let (cut, tracker) = (CancellationToken::new(), TaskTracker::new());
            let (transport, events) = over(client, cut.child_token(), &tracker, || {});
            match end {
                "drop" => drop(transport),
                "cut" => cut.cancel(),
                _ => {
                    transport.disconnect().await;
                    assert_eq!(said(&mut server).await, (8, vec![0x03, 0xe8]));
                    assert!(transport.send(Bytes::from_static(b"late")).await.is_err());
                }
            }
            assert!(matches!(events.recv().await, Ok(TransportEvent::Connected)));
            assert!(matches!(events.recv().await, Ok(TransportEvent::Disconnected(DisconnectReason::Unknown))));
            assert!(events.recv().await.is_err());
            assert!(tracker.is_empty());
        }
    }

    #[tokio::test]
    async fn a_cut_ends_it_also_when_nobody_takes_its_frames() {
        let (client, mut server) = client();
        let (cut, tracker) = (CancellationToken::new(), TaskTracker::new());
        let (_transport, _events) = over(client, cut.child_token(), &tracker, || {});
        let frames = message(2, &frame(b"").repeat(WAITING + 8));
        server.write_all(&frames).await.unwrap();
        tokio::task::yield_now().await;
        cut.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
