//! Files that strangers made are told, or refused, and never a panic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::media::{inline, kind, picture, probe};
use crate::property::holds;

/// How files of the kinds begin that are looked into.
const HEADS: [&[u8]; 12] = [
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"\xff\xd8\xff\xe0\0\x10JFIF",
    b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0",
    b"GIF89a",
    b"RIFF\x24\0\0\0WEBPVP8 ",
    b"RIFF\x24\0\0\0WEBPVP8X",
    b"RIFF\x24\0\0\0WAVEfmt ",
    b"OggS\0\x02\0\0\0\0\0\0\0\0",
    b"\0\0\0\x20ftypisom\0\0\0\0isommp42\0\0\0\x20moov",
    b"\x1aE\xdf\xa3",
    b"ID3\x04\0\0\0\0\0\x10",
    b"",
];

fn file() -> impl Strategy<Value = Vec<u8>> {
    (proptest::sample::select(&HEADS[..]), vec(any::<u8>(), 0..400)).prop_map(|(head, rest)| [head, &rest].concat())
}

#[test]
fn a_file_of_any_bytes_is_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    holds(file(), |bytes| {
        let found = kind::content_type(&bytes);
        let spool = Spool::from_bytes(bytes, folder.path()).unwrap();
        probe::probe(&spool);
        kind::described(&spool, found);
        if let Some((format, _)) = picture::decodable(found) {
            picture::shown_size(&spool, format);
            picture::decode(&spool, format);
        }
    });
}

#[test]
fn a_file_in_a_text_is_decoded_or_refused() {
    holds("(data:)?[ -~]{0,60}", |text| {
        drop(inline::base64(&text, 100));
        if inline::is_data_url(&text) {
            drop(inline::data_url(&text, 100));
        }
    });
    holds(".{0,60}", |text| {
        drop(inline::base64(&text, 100));
        inline::is_data_url(&text);
        document_mime(&text);
        file_name(&text, &text);
    });
    holds(vec(any::<u8>(), 1..100), |bytes| {
        let text = STANDARD.encode(&bytes);
        assert_eq!(inline::base64(&text, 100).unwrap().0, bytes);
    });
}

#[test]
fn no_id_leads_out_of_the_folder() {
    holds((".{0,200}", ".{0,40}"), |(id, extension)| {
        let name = file_name(&id, &extension);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(!name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(plain), "{name}");
        assert!(!name.contains(".."), "{name}");
    });
}
