//! Who may stay when connections are as many as can be: those at work. One that waits for its client makes room.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// Who was idle for this long goes without looking for one that was idle for longer: browsers and clients keep
/// connections open just in case, and open others when they are gone.
const IDLE_ENOUGH: Duration = Duration::from_secs(5);

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Room {
    places: usize,
    /// Beyond the places, while all of them are at work: only the health of the gateway is told there.
    spare: usize,
    begun: Instant,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    by_number: HashMap<u64, Arc<Line>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    begun: Instant,
    /// Milliseconds after `begun` at which a byte last went either way.
    moved: AtomicU64,
    /// A request is being worked on: it is not the client that we wait for.
    works: AtomicBool,
    is_spare: bool,
    evicted: CancellationToken,
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    number: u64,
    pub(super) line: Arc<Line>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().by_number.remove(&self.number);
    }
}

impl Room {
    pub(super) fn new(places: usize, spare: usize) -> Arc<Self> {
        Arc::new(Self { places, spare, begun: Instant::now(), lines: Mutex::default() })
    }

    /// A place for one more; `None`: all are at work.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut lines = self.lock();
        let is_full = lines.by_number.len() >= self.places;
        let mut is_spare = false;
        if is_full && let Some(number) = lines.idlest() {
            if let Some(line) = lines.by_number.remove(&number) {
                line.evicted.cancel();
            }
        } else if is_full {
            if lines.by_number.len() >= self.places + self.spare {
                return None;
            }
            is_spare = true;
        }
        let line = Arc::new(Line {
            begun: self.begun,
            moved: AtomicU64::default(),
            works: AtomicBool::new(false),
            is_spare,
            evicted: CancellationToken::new(),
        });
        line.touch();
        let number = lines.next;
        lines.next += 1;
        lines.by_number.insert(number, Arc::clone(&line));
        drop(lines);
        Some(Place { room: Arc::clone(self), number, line })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// The connection that can best be done without.
    fn idlest(&self) -> Option<u64> {
        let waiting = || self.by_number.iter().filter(|(_, line)| !line.works.load(Ordering::Acquire));
        let long = waiting().find(|(_, line)| line.idle() > IDLE_ENOUGH);
        long.or_else(|| waiting().max_by_key(|(_, line)| line.idle())).map(|(number, _)| *number)
    }
}

impl Line {
    fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Release);
    }

    /// How long no byte has gone either way.
    pub(super) fn idle(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Acquire)))
    }

    /// Says whether a request is being worked on.
    pub(super) fn set_works(&self, works: bool) {
        self.works.store(works, Ordering::Release);
    }

    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::Acquire)
    }

    /// It may only ask for the health of the gateway.
    pub(super) fn is_spare(&self) -> bool {
        self.is_spare
    }

    /// Another connection took its place.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

/// A stream that notes when bytes move.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) line: Arc<Line>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.line.touch();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(polled, Poll::Ready(Ok(_))) {
            self.line.touch();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if matches!(polled, Poll::Ready(Ok(_))) {
            self.line.touch();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_makes_room_and_who_works_stays() {
        let room = Room::new(2, 1);
        let (working, waiting) = (room.enter().unwrap(), room.enter().unwrap());
        working.line.set_works(true);
        let third = room.enter().unwrap();
        assert!(waiting.line.evicted.is_cancelled() && !working.line.evicted.is_cancelled());
        assert!(!third.line.is_spare());
        third.line.set_works(true);
        let spare = room.enter().unwrap();
        assert!(spare.line.is_spare());
        spare.line.set_works(true);
        assert!(room.enter().is_none(), "all are at work");
        spare.line.set_works(false);
        let other = room.enter().unwrap();
        assert!(spare.line.evicted.is_cancelled());
        drop((waiting, spare, other));
        assert_eq!(room.lock().by_number.len(), 2, "the places are free again");
    }
}
