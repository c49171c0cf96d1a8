//! A multipart body as its parser gets it: piece by piece, and only so much between the values of its parts.
//!
//! multer keeps all that has come until it finds the start or the head of a part, and searches all of it each time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream, Bytes};
use futures::{Stream, StreamExt as _};

use super::MAX_DISCARDED_BYTES;

/// What may stand before the first part, or between two values: the heads of parts are some hundred bytes. No piece is
/// larger.
const MAX_BETWEEN_BYTES: usize = 64 * 1024;

/// How much may still come before the next value begins.
#[derive(Clone, Debug)]
pub(super) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    /// A value has ended, and the next is looked for.
    pub(super) fn seek(&self) {
        self.0.store(MAX_BETWEEN_BYTES, Ordering::Relaxed);
    }

    /// A value is read: its reader counts.
    pub(super) fn open(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }
}

/// The body in pieces; ends with an error where no value begins in time.
#[derive(Debug)]
pub(super) struct Pieces {
    chunks: BodyDataStream,
    /// What is left of the last chunk.
    rest: Bytes,
    /// A piece was just given: the parser has to look at it before it gets another.
    is_given: bool,
    /// How much was thrown away, once it was too much.
    discarded: Option<u64>,
    gauge: Gauge,
}

impl Pieces {
    pub(super) fn new(body: Body) -> (Self, Gauge) {
        let gauge = Gauge(Arc::new(AtomicUsize::new(MAX_BETWEEN_BYTES)));
        let chunks = body.into_data_stream();
        (Self { chunks, rest: Bytes::new(), is_given: false, discarded: None, gauge: gauge.clone() }, gauge)
    }

    /// Reads on for a while, so that the client gets to read the refusal.
    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<axum::Error> {
        let discarded = self.discarded.get_or_insert(0);
        while *discarded <= MAX_DISCARDED_BYTES
            && let Some(Ok(chunk)) = ready!(self.chunks.poll_next_unpin(cx))
        {
            *discarded = discarded.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
        Poll::Ready(axum::Error::new("no part begins"))
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.is_given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while self.rest.is_empty() && self.discarded.is_none() {
            match ready!(self.chunks.poll_next_unpin(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                end => return Poll::Ready(end),
            }
        }
        let left = self.gauge.0.load(Ordering::Relaxed);
        if left == 0 || self.discarded.is_some() {
            self.rest = Bytes::new();
            return self.discard(cx).map(|error| Some(Err(error)));
        }
        let bytes = self.rest.len().min(MAX_BETWEEN_BYTES).min(left);
        self.gauge.0.store(left - bytes, Ordering::Relaxed);
        self.is_given = true;
        Poll::Ready(Some(Ok(self.rest.split_to(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt as _, stream};

    use super::*;

    /// A body that is there at once, of so many chunks of 100 KiB.
    fn body(chunks: usize) -> Body {
        let chunk = Bytes::from(vec![b'x'; 100 * 1024]);
        Body::from_stream(stream::iter(std::iter::repeat_n(Ok::<_, Infallible>(chunk), chunks)))
    }

    #[tokio::test]
    async fn between_values_only_so_much_is_given_and_the_rest_is_read_for_a_while() {
        for (chunks, left) in [(10, 0), (1000, 343)] {
            let (mut pieces, _gauge) = Pieces::new(body(chunks));
            assert_eq!(pieces.next().await.unwrap().unwrap().len(), MAX_BETWEEN_BYTES);
            assert!(pieces.next().await.unwrap().is_err());
            assert_eq!(pieces.chunks.count().await, left);
        }
    }

    #[tokio::test]
    async fn a_value_may_be_of_any_length_and_comes_in_small_pieces() {
        let (mut pieces, gauge) = Pieces::new(body(1000));
        gauge.open();
        let mut bytes = 0;
        for _ in 0..1500 {
            let piece = pieces.next().await.unwrap().unwrap();
            assert!(piece.len() <= MAX_BETWEEN_BYTES);
            bytes += piece.len();
        }
        gauge.seek();
        let mut between = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            between += piece.len();
        }
        assert_eq!((bytes, between), (750 * 100 * 1024, MAX_BETWEEN_BYTES));
    }

    #[tokio::test]
    async fn each_piece_is_looked_at_before_the_next() {
        let (mut pieces, gauge) = Pieces::new(body(3));
        gauge.open();
        let mut is_there = || pieces.next().now_or_never().is_some();
        assert_eq!([is_there(), is_there(), is_there()], [true, false, true]);
    }
}
