//! What a file is, and what has to be done to it to be sent as what was asked for.

use std::path::Path;

use super::{MediaError, Prepared, Spool, document_mime, named, picture, probe, sticker};

/// So much of a file tells its type: signatures and the white space that may stand before `<html`.
const HEAD_BYTES: u64 = 8 * 1024;

/// Names no type: what servers and clients say when they don't know.
const OCTETS: &str = "application/octet-stream";

/// As what a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A picture in the chat: JPEG or PNG.
    Image,
    /// A video in the chat.
    Video,
    /// An audio file or a voice note.
    Audio,
    /// Any file, under a name.
    Document,
    /// A WebP of at most 512 × 512 pixels.
    Sticker,
}

impl Kind {
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Document => "document",
            Self::Sticker => "sticker",
        }
    }
}

/// Does the work of [`Fetcher::prepare`](super::Fetcher::prepare) on a thread that may block.
pub(super) fn prepare(spool: Spool, kind: Kind, name: Option<&str>, folder: &Path) -> Result<Prepared, MediaError> {
    let head = spool.head(HEAD_BYTES)?;
    let found = content_type(&head);
    match kind {
        Kind::Image => picture::prepare(spool, found, folder),
        Kind::Sticker => sticker::prepare(spool, found, folder),
        Kind::Video | Kind::Audio => {
            let mime = playable(kind, &spool, &head, found, name)?;
            let facts = probe::probe(&spool);
            let (width, height) = facts.size.filter(|_| kind == Kind::Video).unzip();
            Ok(Prepared { spool, mime, width, height, thumbnail: None, seconds: facts.seconds })
        }
        Kind::Document => {
            let mime = name
                .and_then(document_mime)
                .or_else(|| found.map(str::to_owned))
                .or_else(|| spool.declared_mime().and_then(essence))
                .unwrap_or_else(|| OCTETS.to_owned());
            Ok(Prepared { spool, mime, width: None, height: None, thumbnail: None, seconds: None })
        }
    }
}

/// The type that the content itself tells.
pub(super) fn content_type(head: &[u8]) -> Option<&'static str> {
    infer::get(head).map(|kind| kind.mime_type()).or_else(|| movie(head))
}

/// A container of the MP4 family (ISO/IEC 14496-12, section 4.3) of a brand that nobody knows: what phones record. Pictures are
/// of known ones.
fn movie(head: &[u8]) -> Option<&'static str> {
    let brand = head.get(4..)?.strip_prefix(b"ftyp")?.get(..4)?;
    match brand {
        [b'3', b'g', b'2', _] => Some("video/3gpp2"),
        [b'3', b'g', ..] => Some("video/3gpp"),
        [b'i', b's', b'o', _] | [b'm', b'p', b'4', _] | [b'd', b'a', b's', b'h'] => Some("video/mp4"),
        _ => None,
    }
}

/// What it is in the words of an error, when it is not what it should be.
pub(super) fn described(spool: &Spool, found: Option<&'static str>) -> String {
    match found {
        Some(mime) => mime.to_owned(),
        None => match spool.declared_mime().and_then(essence) {
            Some(mime) if mime != OCTETS => format!("something else, declared as {mime}"),
            _ => "something else".to_owned(),
        },
    }
}

/// The type of a video or audio: by content, else by a name's extension, else as declared.
fn playable(
    kind: Kind,
    spool: &Spool,
    head: &[u8],
    found: Option<&'static str>,
    name: Option<&str>,
) -> Result<String, MediaError> {
    let prefix = if kind == Kind::Video { "video/" } else { "audio/" };
    let mime = match (found, kind) {
        // WhatsApp plays voice notes by this very spelling.
        (Some("audio/ogg" | "audio/opus" | "application/ogg"), Kind::Audio) => {
            let opus = head.windows(8).take(512).any(|bytes| bytes == b"OpusHead");
            Some(if opus { "audio/ogg; codecs=opus" } else { "audio/ogg" }.to_owned())
        }
        // One container for both; its brand tells no more.
        (Some("audio/m4a" | "video/mp4" | "video/x-m4v"), Kind::Audio) => Some("audio/mp4".to_owned()),
        (Some("audio/m4a" | "video/x-m4v"), Kind::Video) => Some("video/mp4".to_owned()),
        (Some("video/3gpp"), Kind::Audio) => Some("audio/3gpp".to_owned()),
        (Some("video/webm" | "video/x-matroska"), Kind::Audio) => Some("audio/webm".to_owned()),
        (Some("audio/x-wav"), Kind::Audio) => Some("audio/wav".to_owned()),
        (Some(mime), _) => Some(mime.to_owned()).filter(|mime| mime.starts_with(prefix)),
        (None, _) => {
            let named = [name, spool.declared_name()].into_iter().flatten().flat_map(named::mimes);
            let declared = spool.declared_mime().and_then(essence);
            named.map(str::to_owned).chain(declared).find(|mime| mime.starts_with(prefix))
        }
    };
    mime.ok_or_else(|| MediaError::Content { wanted: kind.noun(), found: described(spool, found) })
}

/// The type without its parameters.
fn essence(mime: &str) -> Option<String> {
    let mime = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (mime.contains('/') && mime.len() <= 100).then_some(mime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_phones_record_is_known_by_its_container() {
        for (brand, mime) in [
            (b"3gp4", Some("video/3gpp")),
            (b"3g2a", Some("video/3gpp2")),
            (b"isom", Some("video/mp4")),
            (b"iso8", Some("video/mp4")),
            (b"heic", Some("image/heif")),
            (b"zzzz", None),
        ] {
            let head = [&b"\0\0\0\x18ftyp"[..], brand, b"\0\0\0\0", brand, b"mp41"].concat();
            assert_eq!(content_type(&head), mime, "{}", String::from_utf8_lossy(brand));
        }
        assert_eq!(content_type(b"\0\0\0\x18fty"), None);
    }
}
