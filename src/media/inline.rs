//! Files that stand in the request itself: `data:` URLs and base64. Pure.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use data_url::DataUrl;

use super::MediaError;

/// The most bytes that a file in the request may decode to; larger ones are uploaded or fetched.
pub const MAX_INLINE_BYTES: usize = 16 * 1024 * 1024;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

/// A file and the type that was declared with it.
pub(super) type Inline = (Vec<u8>, Option<String>);

pub(super) fn is_data_url(text: &str) -> bool {
    text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

/// Decodes a `data:` URL, base64 or percent-encoded.
pub(super) fn data_url(text: &str, limit: usize) -> Result<Inline, MediaError> {
    let bad = || MediaError::Source("is no valid data URL");
    let (_, rest) = text.split_once(',').ok_or_else(bad)?;
    let url = DataUrl::process(text).map_err(|_| bad())?;
    let mime = declared(&text[5..text.len() - rest.len() - 1]);
    let mut bytes = Vec::new();
    // The body is decoded in pieces: one that is too long is left before it is all there.
    let decoded = url.decode(|piece| {
        if bytes.len() + piece.len() > limit {
            return Err(());
        }
        bytes.extend_from_slice(piece);
        Ok(())
    });
    match decoded {
        Ok(_) => Ok((bytes, mime)),
        Err(data_url::forgiving_base64::DecodeError::WriteError(())) => Err(too_large(limit)),
        // Clients are not exact about alphabets and padding; `base64` takes what the URL standard does not.
        Err(data_url::forgiving_base64::DecodeError::InvalidBase64(_)) => {
            base64_body(rest, limit).map(|bytes| (bytes, mime)).map_err(|error| match error {
                MediaError::Source(_) => bad(),
                other => other,
            })
        }
    }
}

/// Decodes base64: standard or URL-safe alphabet, padded or not, white space ignored, with or without a data URL's
/// prefix.
pub(super) fn base64(text: &str, limit: usize) -> Result<Inline, MediaError> {
    let text = text.trim();
    if is_data_url(text) {
        return data_url(text, limit);
    }
    Ok((base64_body(text, limit)?, None))
}

fn base64_body(text: &str, limit: usize) -> Result<Vec<u8>, MediaError> {
    let plain: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    let unpadded = plain.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    if unpadded / 4 * 3 > limit {
        return Err(too_large(limit));
    }
    let bytes = BASE64.decode(plain).map_err(|_| MediaError::Source("is no valid base64"))?;
    if bytes.len() > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

fn too_large(limit: usize) -> MediaError {
    MediaError::TooLarge { limit_bytes: limit as u64 }
}

/// The type before the comma, when one is written there; an absent one means nothing to us.
fn declared(header: &str) -> Option<String> {
    let mime = header.split(';').next().unwrap_or_default().trim();
    mime.contains('/').then(|| mime.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_taken_in_every_form_that_clients_send() {
        for text in [
            "++//Pz8/Pg==",
            "++//Pz8/Pg",
            "--__Pz8_Pg==",
            "--__Pz8_Pg",
            " ++//\r\nPz8/\tPg=\n=\n",
            "data:image/png;base64,++//Pz8/Pg==",
            "DATA:;base64,--__Pz8_Pg",
        ] {
            let (bytes, _) = base64(text, 100).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(bytes, [0xfb, 0xef, 0xff, 0x3f, 0x3f, 0x3f, 0x3e], "{text:?}");
        }
        for text in ["a", "*", "http://host/a.png", "====", "QUJD=QUJD", "Zm9v\u{a0}QQ=="] {
            assert!(matches!(base64(text, 100), Err(MediaError::Source("is no valid base64"))), "{text:?}");
        }
    }

    #[test]
    fn data_urls_are_taken_in_both_encodings() {
        for (text, bytes, mime) in [
            ("data:image/png;base64,QUJD", "ABC", Some("image/png")),
            ("Data:IMAGE/PNG;name=x;base64,QUJD", "ABC", Some("image/png")),
            ("data:text/html,%3Cb%3E%20x", "<b> x", Some("text/html")),
            ("data:,A%42C", "ABC", None),
            ("data:;base64,QUJ%44", "ABC", None),
            ("data:application/octet-stream;base64,QUI", "AB", Some("application/octet-stream")),
            ("data:a/b;base64,-_-_", "\u{fb}\u{ff}\u{bf}", Some("a/b")),
        ] {
            let (found, declared) = data_url(text, 100).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            let wanted: Vec<u8> = bytes.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            assert_eq!((found, declared.as_deref()), (wanted, mime), "{text:?}");
        }
        for text in ["data:", "data:image/png;base64", "data:image/png;base64,*", "data:image/png;base64,QQ=Q"] {
            assert!(matches!(data_url(text, 100), Err(MediaError::Source("is no valid data URL"))), "{text:?}");
        }
    }

    #[test]
    fn what_decodes_to_too_much_is_refused() {
        assert_eq!(base64("QUJD", 3).unwrap().0.len(), 3);
        assert_eq!(data_url("data:,abc", 3).unwrap().0.len(), 3);
        for text in ["QUJDRA==", "QUJDRA", "QUJDREVGRw==", "data:,abcd", "data:;base64,QUJDRA==", "data:;base64,-UJDRA"]
        {
            let result = base64(text, 3);
            assert!(matches!(result, Err(MediaError::TooLarge { limit_bytes: 3 })), "{text:?}: {result:?}");
        }
    }
}
