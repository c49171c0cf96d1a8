//! The page of `GET /session/start`: a QR code for a person to scan.
//!
//! Stands alone, loads nothing from elsewhere, and may be shown in an iframe.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qrcode::types::QrError;
use qrcode::{Color, EcLevel, QrCode};

/// Pixels of one module: a code of 77 modules with its margin stays readable when the picture is shown as it is.
const SCALE: usize = 4;

/// Modules of white around the code, as the standard asks.
const MARGIN: usize = 4;

/// The page with this code. wa-gateway 4.7.1 documents a picture as a PNG data URL within the id `qrcode`.
pub(super) fn qr(session: &str, code: &str) -> Result<Response, QrError> {
    let picture = STANDARD.encode(png(&QrCode::with_error_correction_level(code, EcLevel::L)?));
    let page = TEMPLATE.replace("{{session}}", &escape(session)).replace("{{picture}}", &picture);
    let mut response = page.into_response();
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// No frame-ancestors and no X-Frame-Options: owners show this page inside their own.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_TYPE, "text/html; charset=UTF-8"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'",
    ),
];

/// The script asks for the status with the key of the page's own address, if it has one, and for the current picture
/// while somebody looks and the session waits for a scan: what was ended elsewhere is told, and not begun again. It does
/// nothing where the page was copied into another one.
const TEMPLATE: &str = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scan QR - {{session}}</title>
<style>
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-content: center; justify-items: center; gap: 1rem; padding: 1rem; box-sizing: border-box; text-align: center; background: Canvas; color: CanvasText; }
h1 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 0; max-width: 22rem; line-height: 1.4; }
#qrcode img { width: min(80vw, 20rem); height: auto; display: block; border-radius: .5rem; image-rendering: pixelated; background: #fff; }
</style>
</head>
<body>
<h1>{{session}}</h1>
<div id="qrcode"><img src="data:image/png;base64,{{picture}}" alt="QR code that links WhatsApp"></div>
<p id="status" role="status">Open WhatsApp on your phone, choose Linked devices, and scan this code.</p>
<script>
(() => {
  const page = new URL(location.href);
  const session = page.searchParams.get("session");
  if (!session || !page.pathname.endsWith("/session/start")) return;
  const key = page.searchParams.get("key");
  const detail = new URL(encodeURIComponent(session), page);
  if (key) detail.searchParams.set("key", key);
  const renew = new URL(page);
  renew.searchParams.set("renew", "true");
  const status = document.getElementById("status");
  const code = document.getElementById("qrcode");
  const done = (text) => { code.remove(); status.textContent = text; };
  const ends = {
    stopped: "This session was stopped. Load this page again to start it.",
    logged_out: "This session was logged out. Load this page again to link it anew.",
    moved: "This session was moved to another gateway.",
    damaged: "What is stored of this session is damaged.",
  };
  let round = 0;
  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(detail);
        if (answer.status === 401) return;
        if (answer.status === 404) return done("This session was deleted.");
        const { connection, state } = answer.ok ? (await answer.json()).data : {};
        if (connection?.isConnected) return done("Connected.");
        if (ends[state]) return done(ends[state]);
        if (["waiting_for_scan", "idle"].includes(state) && ++round % 5 === 0) {
          const fresh = await fetch(renew);
          const type = fresh.headers.get("content-type") || "";
          if (fresh.ok && type.startsWith("text/html")) {
            const next = new DOMParser().parseFromString(await fresh.text(), "text/html").querySelector("#qrcode img");
            if (next) code.querySelector("img").src = next.src;
          }
        }
      } catch { /* The gateway is away for a moment: the next round asks again. */ }
    }
    setTimeout(look, 2000);
  };
  setTimeout(look, 2000);
})();
</script>
</body>
</html>
"##;

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Braces would be taken for the template's own.
            '{' => escaped.push_str("&#123;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Draws the code as a PNG of one bit per pixel, its data stored without compression.
fn png(code: &QrCode) -> Vec<u8> {
    let modules = code.to_colors();
    let width = code.width();
    let side = (width + 2 * MARGIN) * SCALE;
    let is_light = |x: usize, y: usize| {
        let at = |pixel: usize| (pixel / SCALE).checked_sub(MARGIN).filter(|module| *module < width);
        at(x).zip(at(y)).is_none_or(|(x, y)| modules[y * width + x] == Color::Light)
    };
    let mut pixels = Vec::with_capacity(side * (side / 8 + 2));
    for y in 0..side {
        // PNG, section 9: each line opens with its filter; 0 is none.
        pixels.push(0);
        for start in (0..side).step_by(8) {
            let bits = (start..start + 8).map(|x| u8::from(x >= side || is_light(x, y)));
            pixels.push(bits.fold(0, |byte, bit| byte << 1 | bit));
        }
    }
    let side = u32::try_from(side).expect("a QR code has at most 177 modules").to_be_bytes();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    // One bit per pixel, greyscale, and the only methods there are.
    chunk(&mut file, *b"IHDR", &[&side[..], &side[..], &[1, 0, 0, 0, 0]].concat());
    chunk(&mut file, *b"IDAT", &stored(&pixels));
    chunk(&mut file, *b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a picture of a QR code is small");
    file.extend_from_slice(&length.to_be_bytes());
    let body = [&kind[..], data].concat();
    file.extend_from_slice(&body);
    file.extend_from_slice(&crc32(&body).to_be_bytes());
}

/// RFC 1950 around RFC 1951's stored blocks.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = data.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).expect("a block holds at most 65535 bytes");
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend_from_slice(&length.to_le_bytes());
        stream.extend_from_slice(&(!length).to_le_bytes());
        stream.extend_from_slice(block);
    }
    let (low, high) = data.iter().fold((1, 0), |(low, high): (u32, u32), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    stream.extend_from_slice(&(high << 16 | low).to_be_bytes());
    stream
}

/// ISO 3309, as PNG wants it.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_every_module() {
        let code = QrCode::with_error_correction_level("2@abc,def,ghi,jkl", EcLevel::L).unwrap();
        let file = png(&code);
        let side = (code.width() + 2 * MARGIN) * SCALE;
        assert_eq!(u32::from_be_bytes(file[16..20].try_into().unwrap()) as usize, side);
        // IDAT: signature 8, IHDR 25, length and kind 8, zlib header 2, block header 5.
        let line = side.div_ceil(8) + 1;
        let pixels = &file[48..48 + line * side];
        for (at, color) in code.to_colors().into_iter().enumerate() {
            let (x, y) = ((at % code.width() + MARGIN) * SCALE + 1, (at / code.width() + MARGIN) * SCALE + 2);
            let bit = pixels[y * line + 1 + x / 8] >> (7 - x % 8) & 1;
            assert_eq!(bit == 1, color == Color::Light, "module {at}");
        }
        assert!(file.ends_with(b"\0\0\0\0IEND\xAE\x42\x60\x82"), "the check sum of an empty IEND is known");
    }

    #[test]
    fn check_sums_are_the_published_ones() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert!(stored(b"Wikipedia").ends_with(&0x11E6_0398_u32.to_be_bytes()));
    }

    #[tokio::test]
    async fn the_page_escapes_its_session_and_fits_into_a_frame() {
        let response = qr("a<b>'\"&{{picture}}", &"x".repeat(400)).unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=UTF-8");
        assert!(!response.headers().contains_key(header::X_FRAME_OPTIONS));
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(!policy.contains("frame-ancestors"), "{policy}");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.contains("<h1>a&lt;b&gt;&#39;&quot;&amp;&#123;&#123;picture}}</h1>"), "{text}");
        let (before, picture) = text.split_once("<div id=\"qrcode\"><img src=\"data:image/png;base64,").unwrap();
        let (picture, after) = picture.split_once('"').unwrap();
        assert!(picture.starts_with("iVBORw0KGgo"), "{picture}");
        for elsewhere in ["http:", "https:", "src=\"/", "href="] {
            let found = before.contains(elsewhere) || after.contains(elsewhere);
            assert!(!found, "nothing comes from elsewhere: {elsewhere}");
        }
    }

    #[test]
    fn a_code_that_is_too_long_is_an_error() {
        assert!(qr("a", &"x".repeat(5000)).is_err());
    }
}
