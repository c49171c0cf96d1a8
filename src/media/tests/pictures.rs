//! Pictures and stickers, drawn here.

use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

/// Left half red, right half blue.
fn halves(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }).into()
}

fn transparent(width: u32, height: u32) -> DynamicImage {
    RgbaImage::from_fn(width, height, |x, _| Rgba([0, 200, 0, if x < width / 2 { 0 } else { 255 }])).into()
}

fn noise(width: u32, height: u32) -> DynamicImage {
    let mut state = 1u32;
    RgbImage::from_fn(width, height, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [_, red, green, blue] = state.to_le_bytes();
        Rgb([red, green, blue])
    })
    .into()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A JPEG with an EXIF orientation.
fn turned(image: &DynamicImage, orientation: u8) -> Vec<u8> {
    let jpeg = encoded(image, ImageFormat::Jpeg);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend(b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0");
    bytes.extend([orientation, 0, 0, 0, 0, 0, 0]);
    bytes.extend(&jpeg[2..]);
    bytes
}

fn decoded(prepared: &Prepared) -> DynamicImage {
    image::load_from_memory(&prepared.spool.read_to_vec().unwrap()).unwrap()
}

fn thumbnail(prepared: &Prepared) -> DynamicImage {
    let bytes = prepared.thumbnail.as_ref().unwrap();
    assert!(bytes.len() <= 10 * 1024, "a thumbnail of {} bytes", bytes.len());
    image::load_from_memory_with_format(bytes, ImageFormat::Jpeg).unwrap()
}

fn is_near(image: &DynamicImage, x: u32, y: u32, wanted: [u8; 3]) -> bool {
    image.to_rgb8().get_pixel(x, y).0.iter().zip(wanted).all(|(found, wanted)| found.abs_diff(wanted) < 40)
}

#[tokio::test]
async fn a_picture_is_announced_as_what_it_is_with_size_and_thumbnail() {
    let bench = Bench::roomy();
    for (format, mime) in [(ImageFormat::Png, "image/png"), (ImageFormat::Jpeg, "image/jpeg")] {
        let bytes = encoded(&halves(400, 200), format);
        let prepared = bench.prepare_declared(bytes.clone(), Some("image/gif"), Kind::Image, None).await.unwrap();
        assert_eq!((prepared.mime.as_str(), prepared.width, prepared.height), (mime, Some(400), Some(200)));
        assert_eq!(prepared.spool.read_to_vec().unwrap(), bytes, "sent as it is");
        let small = thumbnail(&prepared);
        assert_eq!((small.width(), small.height()), (100, 50));
        assert!(is_near(&small, 20, 25, [255, 0, 0]) && is_near(&small, 80, 25, [0, 0, 255]));
    }
    let prepared = bench.prepare(encoded(&noise(900, 900), ImageFormat::Png), Kind::Image, None).await.unwrap();
    assert_eq!(thumbnail(&prepared).width(), 100);
    let prepared = bench.prepare(encoded(&halves(8, 4), ImageFormat::Png), Kind::Image, None).await.unwrap();
    assert_eq!(thumbnail(&prepared).width(), 8, "a small one is not blown up");
}

#[tokio::test]
async fn a_turned_picture_tells_its_size_as_shown() {
    let bench = Bench::roomy();
    let (red, blue) = ([255, 0, 0], [0, 0, 255]);
    for (orientation, width, height, corner) in
        [(1, 400, 200, red), (3, 400, 200, blue), (6, 200, 400, red), (8, 200, 400, blue)]
    {
        let bytes = turned(&halves(400, 200), orientation);
        let prepared = bench.prepare(bytes.clone(), Kind::Image, None).await.unwrap();
        assert_eq!((prepared.width, prepared.height), (Some(width), Some(height)), "{orientation}");
        assert_eq!(prepared.spool.read_to_vec().unwrap(), bytes, "its bytes are left alone");
        let small = thumbnail(&prepared);
        assert_eq!((small.width(), small.height()), (width / 4, height / 4), "{orientation}");
        assert!(is_near(&small, 5, 5, corner), "{orientation}");
    }
}

#[tokio::test]
async fn what_phones_take_as_no_picture_is_made_one() {
    let bench = Bench::roomy();
    let webp = |image: &DynamicImage| encoded(image, ImageFormat::WebP);
    for (bytes, mime) in [
        (encoded(&halves(60, 30), ImageFormat::Gif), "image/jpeg"),
        (encoded(&halves(60, 30), ImageFormat::Bmp), "image/jpeg"),
        (webp(&halves(60, 30)), "image/jpeg"),
        (webp(&transparent(60, 30)), "image/png"),
    ] {
        let prepared = bench.prepare(bytes, Kind::Image, None).await.unwrap();
        assert_eq!((prepared.mime.as_str(), prepared.width, prepared.height), (mime, Some(60), Some(30)));
        assert_eq!(kind::content_type(&prepared.spool.read_to_vec().unwrap()), Some(mime));
        let picture = decoded(&prepared);
        assert_eq!((picture.width(), picture.height()), (60, 30));
        assert_eq!(thumbnail(&prepared).width(), 60);
    }
    let prepared = bench.prepare(webp(&transparent(60, 30)), Kind::Image, None).await.unwrap();
    assert!(is_near(&thumbnail(&prepared), 5, 15, [255, 255, 255]), "nothing shows as white");
    assert_eq!(decoded(&prepared).to_rgba8().get_pixel(5, 15).0[3], 0, "transparency is kept");
}

#[tokio::test]
async fn what_is_no_picture_is_refused_by_name() {
    let bench = Bench::roomy();
    let mut huge = encoded(&halves(60, 30), ImageFormat::Gif);
    huge[6..10].fill(0xff);
    for (bytes, declared, found) in [
        (b"<html><body>404</body></html>".to_vec(), Some("image/png"), "text/html"),
        (b"%PDF-1.7".to_vec(), None, "application/pdf"),
        (b"BM\0\0\0\0".to_vec(), None, "image/bmp that is broken or too large"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec(), None, "image/heif"),
        (
            b"{\"error\":1}".to_vec(),
            Some("application/json; charset=utf-8"),
            "something else, declared as application/json",
        ),
        (b"plain".to_vec(), None, "something else"),
        (b"\x89PNG\r\n\x1a\n".to_vec(), None, "image/png that is broken or too large"),
        (b"RIFF\x20\0\0\0WEBPVP8 ".to_vec(), None, "image/webp that is broken or too large"),
        (huge, None, "image/gif that is broken or too large"),
    ] {
        for (kind, noun) in [(Kind::Image, "image"), (Kind::Sticker, "sticker")] {
            let error = bench.prepare_declared(bytes.clone(), declared, kind, None).await.unwrap_err();
            assert_eq!(error.to_string(), format!("is no {noun} that can be sent: it holds {found}"));
            assert!(matches!(error, MediaError::Content { .. }));
        }
    }
}

#[tokio::test]
async fn a_picture_of_too_many_pixels_goes_without_a_thumbnail() {
    let mut bytes = encoded(&halves(16, 16), ImageFormat::Jpeg);
    let frame = bytes.windows(2).position(|mark| mark == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x3a, 0x98, 0x3a, 0x98]);
    let prepared = Bench::roomy().prepare(bytes, Kind::Image, None).await.unwrap();
    assert_eq!((prepared.width, prepared.height, prepared.thumbnail), (Some(15_000), Some(15_000), None));
}

#[tokio::test]
async fn a_sticker_is_fitted_into_a_transparent_square() {
    let bench = Bench::roomy();
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let prepared = bench.prepare(encoded(&halves(200, 100), format), Kind::Sticker, None).await.unwrap();
        assert_eq!((prepared.mime.as_str(), prepared.width, prepared.height), ("image/webp", Some(512), Some(512)));
        let bytes = prepared.spool.read_to_vec().unwrap();
        assert!(bytes.len() <= 100_000 && kind::content_type(&bytes) == Some("image/webp"), "{format:?}");
        let square = decoded(&prepared);
        assert_eq!((square.width(), square.height()), (512, 512));
        let alpha = |x, y| square.to_rgba8().get_pixel(x, y).0[3];
        assert_eq!((alpha(256, 10), alpha(256, 256), alpha(10, 256), alpha(256, 500)), (0, 255, 255, 0), "{format:?}");
        assert!(is_near(&square, 100, 256, [255, 0, 0]) && is_near(&square, 400, 256, [0, 0, 255]), "{format:?}");
    }
    let prepared = bench.prepare(encoded(&transparent(10, 10), ImageFormat::Png), Kind::Sticker, None).await.unwrap();
    assert_eq!(decoded(&prepared).to_rgba8().get_pixel(10, 256).0[3], 0, "transparency is kept");
}

#[tokio::test]
async fn a_finished_sticker_goes_unchanged() {
    let bench = Bench::roomy();
    let mut still = Vec::new();
    halves(512, 512).write_with_encoder(WebPEncoder::new_lossless(&mut still)).unwrap();
    for (bytes, size) in [(still, (512, 512)), (animated(), (20, 20))] {
        let prepared = bench.prepare(bytes.clone(), Kind::Sticker, None).await.unwrap();
        assert_eq!(prepared.spool.read_to_vec().unwrap(), bytes);
        assert_eq!(prepared.mime, "image/webp");
        assert_eq!(prepared.width.zip(prepared.height), Some(size));
    }
}

/// A WebP of two frames, put together from two still ones.
fn animated() -> Vec<u8> {
    let chunk = |name: &[u8; 4], body: &[u8]| {
        let len = u32::try_from(body.len()).unwrap();
        [&name[..], &len.to_le_bytes(), body, &[0][..body.len() % 2]].concat()
    };
    let frame = |image: &DynamicImage| {
        let mut still = Vec::new();
        image.write_with_encoder(WebPEncoder::new_lossless(&mut still)).unwrap();
        chunk(b"ANMF", &[&[0, 0, 0, 0, 0, 0, 19, 0, 0, 19, 0, 0, 100, 0, 0, 0][..], &still[12..]].concat())
    };
    let body = [
        b"WEBP".to_vec(),
        chunk(b"VP8X", &[2, 0, 0, 0, 19, 0, 0, 19, 0, 0]),
        chunk(b"ANIM", &[0; 6]),
        frame(&halves(20, 20)),
        frame(&transparent(20, 20)),
    ];
    chunk(b"RIFF", &body.concat())
}

/// A GIF of these frames, each with its time in milliseconds.
fn gif(frames: &[(DynamicImage, u32)]) -> Vec<u8> {
    use image::codecs::gif::GifEncoder;
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for (image, ms) in frames {
        let delay = image::Delay::from_numer_denom_ms(*ms, 1);
        encoder.encode_frame(image::Frame::from_parts(image.to_rgba8(), 0, 0, delay)).unwrap();
    }
    drop(encoder);
    bytes
}

/// The frames of a WebP, with their times in milliseconds.
fn frames(webp: &[u8]) -> Vec<(RgbaImage, u32)> {
    use image::AnimationDecoder as _;
    let decoder = image::codecs::webp::WebPDecoder::new(Cursor::new(webp)).unwrap();
    assert!(decoder.has_animation());
    let time = |frame: &image::Frame| frame.delay().numer_denom_ms().0 / frame.delay().numer_denom_ms().1;
    decoder.into_frames().map(|frame| frame.unwrap()).map(|frame| (frame.buffer().clone(), time(&frame))).collect()
}

#[tokio::test]
async fn a_moving_gif_becomes_a_moving_sticker() {
    let bench = Bench::roomy();
    let moves = gif(&[(halves(60, 30), 200), (halves(60, 30), 300), (transparent(60, 30), 0), (halves(60, 30), 500)]);
    let prepared = bench.prepare(moves, Kind::Sticker, None).await.unwrap();
    assert_eq!((prepared.mime.as_str(), prepared.width, prepared.height), ("image/webp", Some(512), Some(512)));
    let bytes = prepared.spool.read_to_vec().unwrap();
    assert_eq!(kind::content_type(&bytes), Some("image/webp"));
    let frames = frames(&bytes);
    let times: Vec<u32> = frames.iter().map(|(_, ms)| *ms).collect();
    assert_eq!(times, [500, 100, 500], "what does not change is one frame; no time is a tenth of a second");
    let pixel = |at: usize, x, y| frames[at].0.get_pixel(x, y).0;
    for (image, _) in &frames {
        assert_eq!((image.width(), image.height()), (512, 512));
        assert_eq!(image.get_pixel(256, 20).0[3], 0, "nothing above it");
    }
    let near = |found: [u8; 4], wanted: [u8; 4]| found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 16);
    assert!(near(pixel(0, 100, 256), [255, 0, 0, 255]) && near(pixel(0, 400, 256), [0, 0, 255, 255]));
    assert!(near(pixel(1, 400, 256), [0, 200, 0, 255]), "{:?}", pixel(1, 400, 256));
    assert!(near(pixel(2, 100, 256), [255, 0, 0, 255]) && near(pixel(2, 400, 256), [0, 0, 255, 255]));
}

#[tokio::test]
async fn a_moving_sticker_that_codes_badly_is_made_coarser_and_smaller() {
    let noisy: Vec<_> =
        (0..12).map(|turn| (noise(300, 300).huerotate(turn * 30), 100)).chain([(halves(300, 300), 100)]).collect();
    let prepared = Bench::roomy().prepare(gif(&noisy), Kind::Sticker, None).await.unwrap();
    assert!(prepared.spool.len() <= 1_000_000, "{} bytes", prepared.spool.len());
    let times: u32 = frames(&prepared.spool.read_to_vec().unwrap()).iter().map(|(_, ms)| *ms).sum();
    assert_eq!(times, 1300, "it takes as long as before");
}

#[tokio::test]
async fn a_sticker_that_codes_badly_is_made_coarser_and_smaller() {
    let prepared =
        Bench::roomy().prepare(encoded(&noise(512, 512), ImageFormat::Png), Kind::Sticker, None).await.unwrap();
    let len = prepared.spool.len();
    assert!(len < 200_000, "pure noise takes {len} bytes");
    assert_eq!(prepared.width, prepared.height);
}
