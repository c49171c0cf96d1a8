//! Moving stickers: an animated GIF becomes an animated WebP, frame by frame, without loss but for colours.
//!
//! The container is written here (WebP container specification, RFC 9649, section 2.7): the `image` crate encodes still
//! pictures only, and each frame is one.

use std::io::BufReader;

use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPEncoder;
use image::imageops::{self, FilterType};
use image::{AnimationDecoder as _, DynamicImage, ImageDecoder as _, RgbaImage};

use super::{SIDE, centred, coarsen};
use crate::media::Spool;

/// WhatsApp's sticker guide: at most 500 KB when it moves.
const WANTED_BYTES: usize = 500_000;
/// What apps still show; above it the sticker stands still.
const MAX_BYTES: usize = 1_000_000;
/// What is tried in turn until it is small enough: the side, the low bits of each colour that are given up, and the most
/// frames.
const ATTEMPTS: [(u32, u32, usize); 5] = [(SIDE, 2, 80), (SIDE, 4, 50), (320, 4, 40), (224, 4, 30), (160, 5, 20)];
/// Pixels of a frame at most, before it is scaled: each is decoded whole.
const MAX_PIXELS: u64 = 4_000_000;
/// Frames that are looked at.
const MAX_FRAMES: usize = 400;
/// What apps and browsers make of frames without a time.
const DEFAULT_MS: u32 = 100;
/// The longest that 24 bits can say.
const MAX_MS: u32 = 0x00FF_FFFF;

/// The side and the bytes of the WebP; `None`: the GIF has one frame only, or can't be made small enough.
pub(super) fn encode(spool: &Spool) -> Option<(u32, Vec<u8>)> {
    let count = frames(spool)?.take(MAX_FRAMES).take_while(Result::is_ok).count();
    if count < 2 {
        return None;
    }
    let mut best = None;
    for (side, bits, most) in ATTEMPTS {
        let bytes = attempt(spool, side, bits, count.div_ceil(most))?;
        let fits = bytes.len() <= WANTED_BYTES;
        if bytes.len() <= MAX_BYTES {
            best = Some((side, bytes));
        }
        if fits {
            break;
        }
    }
    best
}

fn frames(spool: &Spool) -> Option<image::Frames<'static>> {
    let mut decoder = GifDecoder::new(BufReader::new(spool.open().ok()?)).ok()?;
    let (width, height) = decoder.dimensions();
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(64 * 1024 * 1024);
    decoder.set_limits(limits).ok()?;
    (u64::from(width) * u64::from(height) <= MAX_PIXELS).then(|| decoder.into_frames())
}

/// Every `stride`-th frame in a square of this side; broken off once it is too large for anything.
fn attempt(spool: &Spool, side: u32, bits: u32, stride: usize) -> Option<Vec<u8>> {
    let mut parts: Vec<Part> = Vec::new();
    let mut shown: Option<RgbaImage> = None;
    let mut bytes = 0;
    for (at, frame) in frames(spool)?.take(MAX_FRAMES).map_while(Result::ok).enumerate() {
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let ms = match numerator / denominator.max(1) {
            // As browsers: faster than a screen means that nobody has set it.
            0..=10 => DEFAULT_MS,
            ms => ms,
        };
        let last = parts.last_mut();
        if let Some(last) = last
            && !at.is_multiple_of(stride)
        {
            last.ms = last.ms.saturating_add(ms);
            continue;
        }
        let image = square(frame.into_buffer(), side, bits);
        match (changed(shown.as_ref(), &image), parts.last_mut()) {
            (None, Some(last)) => last.ms = last.ms.saturating_add(ms),
            (area, _) => {
                let area = area.unwrap_or(Area { left: 0, top: 0, width: 2, height: 2 });
                let picture =
                    still(&imageops::crop_imm(&image, area.left, area.top, area.width, area.height).to_image())?;
                bytes += picture.len();
                parts.push(Part { area, ms, picture });
            }
        }
        shown = Some(image);
        if bytes > MAX_BYTES {
            break;
        }
    }
    Some(container(side, &parts))
}

/// Scaled into a transparent square, with fewer colours.
fn square(frame: RgbaImage, side: u32, bits: u32) -> RgbaImage {
    let frame = DynamicImage::ImageRgba8(frame).resize(side, side, FilterType::Triangle).to_rgba8();
    let mut image = centred(&frame, side);
    coarsen(&mut image, bits);
    image
}

/// One frame of the result.
struct Part {
    area: Area,
    ms: u32,
    /// A `VP8L` chunk.
    picture: Vec<u8>,
}

/// A part of the square; its corner has even coordinates, as the container wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// What differs from the frame before, all of it when there is none; `None`: nothing.
fn changed(before: Option<&RgbaImage>, now: &RgbaImage) -> Option<Area> {
    let Some(before) = before else {
        return Some(Area { left: 0, top: 0, width: now.width(), height: now.height() });
    };
    let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
    for ((x, y, new), old) in now.enumerate_pixels().zip(before.pixels()) {
        if new != old {
            (left, top) = (left.min(x), top.min(y));
            (right, bottom) = (right.max(x), bottom.max(y));
        }
    }
    if left == u32::MAX {
        return None;
    }
    let (left, top) = (left & !1, top & !1);
    Some(Area { left, top, width: right + 1 - left, height: bottom + 1 - top })
}

/// The `VP8L` chunk of a picture.
fn still(image: &RgbaImage) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    image.write_with_encoder(WebPEncoder::new_lossless(&mut bytes)).ok()?;
    let chunk = bytes.get(12..)?;
    chunk.starts_with(b"VP8L").then(|| chunk.to_vec())
}

fn container(side: u32, parts: &[Part]) -> Vec<u8> {
    let mut body = Vec::from(*b"WEBP");
    // Moving (2), with transparency (16).
    let mut head = vec![0x12, 0, 0, 0];
    head.extend(three(side - 1));
    head.extend(three(side - 1));
    chunk(&mut body, *b"VP8X", &head);
    // No background, for ever.
    chunk(&mut body, *b"ANIM", &[0; 6]);
    for Part { area, ms, picture } in parts {
        let numbers = [area.left / 2, area.top / 2, area.width - 1, area.height - 1, (*ms).min(MAX_MS)];
        let mut frame: Vec<u8> = numbers.into_iter().flat_map(three).collect();
        // It takes the place of what was there, and stays.
        frame.push(0b10);
        frame.extend(picture);
        if picture.len() % 2 == 1 {
            frame.push(0);
        }
        chunk(&mut body, *b"ANMF", &frame);
    }
    let mut file = Vec::with_capacity(body.len() + 8);
    chunk(&mut file, *b"RIFF", &body);
    file
}

fn chunk(to: &mut Vec<u8>, name: [u8; 4], content: &[u8]) {
    to.extend(name);
    to.extend(u32::try_from(content.len()).expect("a few megabytes at most").to_le_bytes());
    to.extend(content);
    if content.len() % 2 == 1 {
        to.push(0);
    }
}

/// 24 bits, little-endian.
fn three(value: u32) -> [u8; 3] {
    let [first, second, third, _] = value.to_le_bytes();
    [first, second, third]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_encoded_from_an_even_corner() {
        let before = RgbaImage::new(8, 8);
        let mut now = before.clone();
        assert_eq!(changed(Some(&before), &now), None);
        now.put_pixel(3, 5, image::Rgba([1, 2, 3, 255]));
        now.put_pixel(4, 6, image::Rgba([1, 2, 3, 255]));
        assert_eq!(changed(Some(&before), &now), Some(Area { left: 2, top: 4, width: 3, height: 3 }));
        assert_eq!(changed(None, &now), Some(Area { left: 0, top: 0, width: 8, height: 8 }));
    }
}
