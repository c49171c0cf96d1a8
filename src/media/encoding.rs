//! What a server packed for the way: the file is what comes out.
//!
//! Nothing packed is asked for, but stores for files send what was uploaded packed as it is, whatever is asked for. wa-gateway
//! 4.7.1 fetches as browsers do, and unpacks it.

use std::borrow::Cow;
use std::io::{self, Write as _};

use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// Unpacks a body piece by piece.
pub(super) enum Unpacker {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Unpacker {
    /// For a `Content-Encoding` (RFC 9110, section 8.4.1); `None`: a known one that can't be unpacked here. What is unknown is
    /// taken as it is, as by a browser.
    pub(super) fn of(encoding: &str) -> Option<Self> {
        Some(match encoding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            "deflate" => Self::Deflate(Box::new(ZlibDecoder::new(Vec::new()))),
            "br" | "zstd" | "compress" | "x-compress" => return None,
            several if several.contains(',') => return None,
            _ => Self::Plain,
        })
    }

    pub(super) fn is_packed(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// How much may be unpacked at a time: it may come out a thousand times as large.
    pub(super) fn step(&self) -> usize {
        if self.is_packed() { 2 * 1024 } else { usize::MAX }
    }

    /// What is in a piece, and in those before it that did not tell yet.
    pub(super) fn unpack<'a>(&mut self, piece: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        Ok(match self {
            Self::Plain => piece.into(),
            Self::Gzip(decoder) => {
                decoder.write_all(piece)?;
                std::mem::take(decoder.get_mut()).into()
            }
            Self::Deflate(decoder) => {
                decoder.write_all(piece)?;
                std::mem::take(decoder.get_mut()).into()
            }
        })
    }

    /// What is left; an error when it broke off.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(Vec::new()),
            Self::Gzip(decoder) => decoder.finish(),
            Self::Deflate(decoder) => decoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::Compression;
    use flate2::read::{GzEncoder, ZlibEncoder};

    use super::*;

    fn unpacked(encoding: &str, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut unpacker = Unpacker::of(encoding).unwrap();
        let mut all = Vec::new();
        for piece in packed.chunks(7) {
            all.extend_from_slice(&unpacker.unpack(piece)?);
        }
        all.extend(unpacker.finish()?);
        Ok(all)
    }

    #[test]
    fn what_was_packed_comes_out() {
        let file: Vec<u8> = (0..5_000_u32).flat_map(u32::to_le_bytes).collect();
        let (mut gzip, mut deflate) = (Vec::new(), Vec::new());
        GzEncoder::new(&*file, Compression::fast()).read_to_end(&mut gzip).unwrap();
        ZlibEncoder::new(&*file, Compression::fast()).read_to_end(&mut deflate).unwrap();
        for (encoding, packed) in
            [("gzip", &gzip), ("X-GZIP ", &gzip), ("deflate", &deflate), ("identity", &file), ("aws-chunked", &file)]
        {
            assert!(unpacked(encoding, packed).unwrap() == file, "{encoding}");
        }
        assert!(unpacked("gzip", &gzip[..gzip.len() - 9]).is_err(), "it broke off");
        assert!(unpacked("gzip", &file).is_err(), "it is not packed");
        for unknown in ["br", "zstd", "gzip, gzip"] {
            assert!(Unpacker::of(unknown).is_none(), "{unknown}");
        }
    }
}
