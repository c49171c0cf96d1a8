//! Stickers: WebP of 512 × 512 pixels, as WhatsApp's own are.

use std::io::BufReader;
use std::path::Path;

use image::codecs::webp::{WebPDecoder, WebPEncoder};
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbaImage};

use super::kind::described;
use super::picture::{decodable, decode, shown_size, unreadable, upright};
use super::{Kind, MediaError, Prepared, Spool};

mod moving;

/// Side of the square. WhatsApp's sticker guide: exactly 512 × 512.
const SIDE: u32 = 512;

/// WhatsApp's sticker guide: at most 100 KB when it does not move.
const WANTED_BYTES: usize = 100_000;

/// What is tried in turn until it is small enough: the side, and how many low bits of each colour are given up.
const ATTEMPTS: [(u32, u32); 6] = [(SIDE, 0), (SIDE, 2), (SIDE, 3), (SIDE, 4), (384, 4), (256, 4)];

pub(super) fn prepare(spool: Spool, found: Option<&'static str>, folder: &Path) -> Result<Prepared, MediaError> {
    let (format, mime) = decodable(found)
        .ok_or_else(|| MediaError::Content { wanted: Kind::Sticker.noun(), found: described(&spool, found) })?;
    if format == ImageFormat::WebP && is_finished(&spool)? {
        let (width, height) = shown_size(&spool, format).unzip();
        return Ok(Prepared { spool, mime: mime.to_owned(), width, height, thumbnail: None, seconds: None });
    }
    if format == ImageFormat::Gif
        && let Some((side, bytes)) = moving::encode(&spool)
    {
        return finished(side, bytes, folder);
    }
    let decoded = decode(&spool, format).ok_or_else(|| unreadable(Kind::Sticker, mime))?;
    let image = upright(decoded.image, decoded.orientation);
    // Scaled before it is made RGBA: a large picture is not copied.
    let image = if image.width() == SIDE && image.height() == SIDE {
        image
    } else {
        image.resize(SIDE, SIDE, FilterType::CatmullRom)
    };
    let square = centred(&image.to_rgba8(), SIDE);
    let (side, bytes) = encode(&square).ok_or_else(|| unreadable(Kind::Sticker, mime))?;
    finished(side, bytes, folder)
}

fn finished(side: u32, bytes: Vec<u8>, folder: &Path) -> Result<Prepared, MediaError> {
    Ok(Prepared {
        spool: Spool::from_bytes(bytes, folder)?,
        mime: "image/webp".to_owned(),
        width: Some(side),
        height: Some(side),
        thumbnail: None,
        seconds: None,
    })
}

/// Whether a WebP goes out as it is: it moves, or has the right size.
fn is_finished(spool: &Spool) -> Result<bool, MediaError> {
    let decoder =
        WebPDecoder::new(BufReader::new(spool.open()?)).map_err(|_| unreadable(Kind::Sticker, "image/webp"))?;
    Ok(decoder.has_animation() || image::ImageDecoder::dimensions(&decoder) == (SIDE, SIDE))
}

/// The picture in the middle of a transparent square.
fn centred(image: &RgbaImage, side: u32) -> RgbaImage {
    let mut square = RgbaImage::new(side, side);
    let [left, top] = [image.width(), image.height()].map(|part| i64::from(side.saturating_sub(part) / 2));
    imageops::replace(&mut square, image, left, top);
    square
}

/// Encodes without loss; colours, then pixels are given up while it is too large. The side comes first.
fn encode(square: &RgbaImage) -> Option<(u32, Vec<u8>)> {
    let mut best = None;
    for (side, bits) in ATTEMPTS {
        let mut image =
            if side == SIDE { square.clone() } else { imageops::resize(square, side, side, FilterType::CatmullRom) };
        coarsen(&mut image, bits);
        let mut bytes = Vec::new();
        image.write_with_encoder(WebPEncoder::new_lossless(&mut bytes)).ok()?;
        let fits = bytes.len() <= WANTED_BYTES;
        best = Some((side, bytes));
        if fits {
            break;
        }
    }
    best
}

/// Rounds each colour to fewer bits, which lossless coding is thankful for; forgets colours that nobody sees.
fn coarsen(image: &mut RgbaImage, bits: u32) {
    let keep = u8::MAX << bits;
    for pixel in image.pixels_mut() {
        if pixel.0[3] == 0 {
            pixel.0 = [0; 4];
        } else if bits > 0 {
            for part in &mut pixel.0[..3] {
                *part = part.saturating_add(1 << (bits - 1)) & keep;
            }
        }
    }
}
