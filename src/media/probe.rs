//! What a video's or audio's container tells: how long it runs and how large its picture is.
//!
//! A guess for the chat's bubble: what can't be read, or not with little work, is `None` and never an error.

use std::io::{self, Read, Seek, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::units::Time;

use super::{ReadSeek, Spool};

/// Read at most; tables of contents are far smaller, and what has none would be read to its end.
const MAX_READ_BYTES: u64 = 16 * 1024 * 1024;

/// Work at most.
const MAX_TIME: Duration = Duration::from_secs(2);

/// What a container told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whole seconds, rounded, at least one.
    pub(super) seconds: Option<u32>,
    /// Pixels of the first video track.
    pub(super) size: Option<(u32, u32)>,
}

/// Reads the container's head; blocks.
pub(super) fn probe(spool: &Spool) -> Facts {
    let Ok(inner) = spool.open() else { return Facts::default() };
    let source = Bounded { inner, len: spool.len(), left: MAX_READ_BYTES, until: Instant::now() + MAX_TIME };
    // A parser that panics on a stranger's file has told that it can't be read; nothing of it is used again.
    std::panic::catch_unwind(AssertUnwindSafe(|| read(source))).unwrap_or_default()
}

fn read(source: Bounded) -> Facts {
    let stream = MediaSourceStream::new(Box::new(source), symphonia::core::io::MediaSourceStreamOptions::default());
    let opened = symphonia::default::get_probe().probe(
        &Hint::new(),
        stream,
        FormatOptions::default(),
        MetadataOptions::default(),
    );
    let Ok(format) = opened else { return Facts::default() };
    let size = format.tracks().iter().find_map(|track| match &track.codec_params {
        Some(CodecParameters::Video(video)) => Some((u32::from(video.width?), u32::from(video.height?))),
        _ => None,
    });
    Facts { seconds: running_time(&*format).and_then(seconds), size: size.filter(|(width, height)| width * height > 0) }
}

/// The container's own word, else its longest track.
fn running_time(format: &dyn FormatReader) -> Option<Time> {
    let whole = format.media_info();
    let told = whole.time_base.zip(whole.duration).and_then(|(base, duration)| base.calc_duration(duration));
    let tracks = format.tracks().iter();
    told.filter(|time| time.as_nanos() > 0)
        .or_else(|| tracks.filter_map(|track| track.time_base?.calc_duration(track.duration?)).max())
}

fn seconds(time: Time) -> Option<u32> {
    let (whole, nanos) = time.parts();
    let rounded = whole.checked_add(i64::from(nanos >= 500_000_000))?;
    if whole == 0 && nanos == 0 { None } else { u32::try_from(rounded.max(1)).ok() }
}

/// Ends like a broken disk when too much was read or too much time has passed.
struct Bounded {
    inner: Box<dyn ReadSeek + Send>,
    len: u64,
    left: u64,
    until: Instant,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || Instant::now() > self.until {
            return Err(io::Error::other("too much work for a guess"));
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl MediaSource for Bounded {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}

#[cfg(test)]
mod tests;
