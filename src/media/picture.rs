//! Pictures: their size as shown, a thumbnail, and JPEG or PNG made of what phones don't take as a picture.

use std::io::{BufReader, Cursor};
use std::path::Path;

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, GenericImageView as _, ImageDecoder as _, ImageFormat, ImageReader};

use super::kind::described;
use super::{Kind, MediaError, Prepared, Spool};

/// Pixels that are decoded at most: the largest cameras of phones, and 200 MB of memory.
const MAX_PIXELS: u64 = 50_000_000;

/// Memory that one decoder may take.
const MAX_DECODED_BYTES: u64 = 256 * 1024 * 1024;

/// Longest side of a thumbnail, as WhatsApp's own clients send it.
const THUMBNAIL_SIDE: u32 = 100;

/// The quality at which nobody sees a difference at chat size.
const JPEG_QUALITY: u8 = 88;

pub(super) fn prepare(spool: Spool, found: Option<&'static str>, folder: &Path) -> Result<Prepared, MediaError> {
    let (format, mime) = match found {
        Some("image/jpeg") => (ImageFormat::Jpeg, "image/jpeg"),
        Some("image/png") => (ImageFormat::Png, "image/png"),
        _ => return convert(&spool, found, folder),
    };
    let (width, height) = shown_size(&spool, format).ok_or_else(|| unreadable(Kind::Image, mime))?;
    // A picture that can't be decoded is sent as it is: phones may know better.
    let thumbnail = decode(&spool, format).and_then(|image| thumbnail(&image));
    Ok(Prepared { spool, mime: mime.to_owned(), width: Some(width), height: Some(height), thumbnail, seconds: None })
}

/// Makes a JPEG, or a PNG when parts are transparent, of what else can be decoded.
fn convert(spool: &Spool, found: Option<&'static str>, folder: &Path) -> Result<Prepared, MediaError> {
    let (format, _) = decodable(found)
        .ok_or_else(|| MediaError::Content { wanted: Kind::Image.noun(), found: described(spool, found) })?;
    let Decoded { image, orientation } =
        decode(spool, format).ok_or_else(|| unreadable(Kind::Image, found.unwrap_or_default()))?;
    let image = upright(image, orientation);
    // Not copied to look at it: GIF, WebP and BMP are decoded to 8 bits.
    let transparent = image.as_rgba8().is_some_and(|image| image.pixels().any(|pixel| pixel.0[3] != u8::MAX));
    let (bytes, mime) =
        if transparent { (png(&image), "image/png") } else { (jpeg(&image, JPEG_QUALITY), "image/jpeg") };
    let bytes = bytes.ok_or_else(|| unreadable(Kind::Image, found.unwrap_or_default()))?;
    let (width, height) = (image.width(), image.height());
    let thumbnail = thumbnail(&Decoded { image, orientation: Orientation::NoTransforms });
    Ok(Prepared {
        spool: Spool::from_bytes(bytes, folder)?,
        mime: mime.to_owned(),
        width: Some(width),
        height: Some(height),
        thumbnail,
        seconds: None,
    })
}

pub(super) fn unreadable(kind: Kind, mime: &str) -> MediaError {
    MediaError::Content { wanted: kind.noun(), found: format!("{mime} that is broken or too large") }
}

/// The decoder for a type, when there is one.
pub(super) fn decodable(found: Option<&'static str>) -> Option<(ImageFormat, &'static str)> {
    let format = match found? {
        "image/jpeg" => ImageFormat::Jpeg,
        "image/png" => ImageFormat::Png,
        "image/gif" => ImageFormat::Gif,
        "image/webp" => ImageFormat::WebP,
        "image/bmp" => ImageFormat::Bmp,
        _ => return None,
    };
    Some((format, found?))
}

/// Pixels and how they are to be turned.
pub(super) struct Decoded {
    pub(super) image: DynamicImage,
    pub(super) orientation: Orientation,
}

fn reader(spool: &Spool, format: ImageFormat) -> Option<ImageReader<BufReader<Box<dyn super::ReadSeek + Send>>>> {
    let mut reader = ImageReader::with_format(BufReader::new(spool.open().ok()?), format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    Some(reader)
}

/// Width and height as shown; reads the head only.
pub(super) fn shown_size(spool: &Spool, format: ImageFormat) -> Option<(u32, u32)> {
    let mut decoder = reader(spool, format)?.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    Some(if turned { (height, width) } else { (width, height) })
}

/// The first picture; `None` when it is broken or has too many pixels.
pub(super) fn decode(spool: &Spool, format: ImageFormat) -> Option<Decoded> {
    let mut decoder = reader(spool, format)?.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_DECODED_BYTES {
        return None;
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Some(Decoded { image: DynamicImage::from_decoder(decoder).ok()?, orientation })
}

/// Turns a picture as it is shown; the small one where there is a choice, since it is copied.
pub(super) fn upright(mut image: DynamicImage, orientation: Orientation) -> DynamicImage {
    image.apply_orientation(orientation);
    image
}

fn thumbnail(decoded: &Decoded) -> Option<Bytes> {
    let image = &decoded.image;
    let small = if image.width().max(image.height()) > THUMBNAIL_SIDE {
        image.thumbnail(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    } else {
        image.clone()
    };
    let small = upright(small, decoded.orientation);
    jpeg(&small, 60).map(Bytes::from)
}

/// JPEG knows no transparency: what was transparent becomes white.
fn jpeg(image: &DynamicImage, quality: u8) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    if image.color().has_alpha() {
        let mut flat = image::RgbImage::new(image.width(), image.height());
        for (to, (_, _, from)) in flat.pixels_mut().zip(image.pixels()) {
            let [red, green, blue, alpha] = from.0.map(u16::from);
            to.0 = [red, green, blue].map(|part| {
                let mixed = (part * alpha + 255 * (255 - alpha)) / 255;
                u8::try_from(mixed).unwrap_or(u8::MAX)
            });
        }
        flat.write_with_encoder(encoder).ok()?;
    } else {
        image.to_rgb8().write_with_encoder(encoder).ok()?;
    }
    Some(bytes)
}

fn png(image: &DynamicImage) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image.to_rgba8().write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(bytes.into_inner())
}
