//! Attachments as a phone sends and reads them: encrypted here, kept by the media hosts, described in the message.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::download::{DownloadUtils, Downloadable, MediaType};
use whatsapp_rust::wacore::proto_helpers::MessageExt;
use whatsapp_rust::wacore::upload::{EncryptedMedia, encrypt_media};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::{
    AudioMessage, DocumentMessage, FutureProofMessage, ImageMessage, StickerMessage, VideoMessage,
};

use super::account::unix_seconds;
use super::{Phone, Received};
use crate::network::Network;

/// Kinds of attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A film.
    Video,
    /// A sound file.
    Audio,
    /// A sound recorded for the chat.
    Voice,
    /// Any file.
    Document,
    /// A picture shown without a frame.
    Sticker,
}

impl MediaKind {
    fn wire(self) -> MediaType {
        match self {
            Self::Image => MediaType::Image,
            Self::Video => MediaType::Video,
            Self::Audio | Self::Voice => MediaType::Audio,
            Self::Document => MediaType::Document,
            Self::Sticker => MediaType::Sticker,
        }
    }
}

/// An attachment to send, in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Which message it becomes.
    pub kind: MediaKind,
    /// The file.
    pub bytes: Vec<u8>,
    /// What the message says about the file; nothing here looks into it.
    pub mimetype: String,
    /// The text below; a document with one goes in a `documentWithCaptionMessage`, as phones send it.
    pub caption: Option<String>,
    /// The name, of documents only.
    pub file_name: Option<String>,
    /// The duration, of videos and sounds.
    pub seconds: Option<u32>,
    /// Width and height in pixels, of what is seen.
    pub size: Option<(u32, u32)>,
    /// A small JPEG, of images, videos and documents.
    pub thumbnail: Option<Vec<u8>>,
}

impl Media {
    /// An attachment without caption, name and the rest.
    pub fn new(kind: MediaKind, bytes: impl Into<Vec<u8>>, mimetype: &str) -> Self {
        Self {
            kind,
            bytes: bytes.into(),
            mimetype: mimetype.to_owned(),
            caption: None,
            file_name: None,
            seconds: None,
            size: None,
            thumbnail: None,
        }
    }

    /// With a text below.
    #[must_use]
    pub fn caption(mut self, caption: &str) -> Self {
        self.caption = Some(caption.to_owned());
        self
    }

    /// With a name.
    #[must_use]
    pub fn file_name(mut self, name: &str) -> Self {
        self.file_name = Some(name.to_owned());
        self
    }
}

/// What a received message says about its attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields of WhatsApp's messages, by their names there")]
pub struct MediaInfo {
    pub kind: MediaKind,
    pub mimetype: Option<String>,
    pub caption: Option<String>,
    pub file_name: Option<String>,
    pub title: Option<String>,
    /// Bytes in clear.
    pub length: Option<u64>,
    pub seconds: Option<u32>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// Pages of a document.
    pub pages: Option<u32>,
    #[serde(skip)]
    pub thumbnail: Option<Vec<u8>>,
    pub direct_path: Option<String>,
    pub url: Option<String>,
    pub view_once: bool,
}

impl MediaInfo {
    fn of(kind: MediaKind) -> Self {
        Self {
            kind,
            mimetype: None,
            caption: None,
            file_name: None,
            title: None,
            length: None,
            seconds: None,
            width: None,
            height: None,
            pages: None,
            thumbnail: None,
            direct_path: None,
            url: None,
            view_once: false,
        }
    }
}

/// The attachment of a message, whatever wraps it.
pub(super) enum Attachment<'a> {
    Image(&'a ImageMessage),
    Video(&'a VideoMessage),
    Audio(&'a AudioMessage),
    Document(&'a DocumentMessage),
    Sticker(&'a StickerMessage),
}

impl<'a> Attachment<'a> {
    pub(super) fn find(message: &'a wa::Message) -> Option<Self> {
        let message = message.get_base_message();
        let image = message.image_message.as_option().map(Self::Image);
        let video = || message.video_message.as_option().map(Self::Video);
        let audio = || message.audio_message.as_option().map(Self::Audio);
        let document = || message.document_message.as_option().map(Self::Document);
        let sticker = || message.sticker_message.as_option().map(Self::Sticker);
        image.or_else(video).or_else(audio).or_else(document).or_else(sticker)
    }

    pub(super) fn downloadable(&self) -> &'a dyn Downloadable {
        match *self {
            Self::Image(message) => message,
            Self::Video(message) => message,
            Self::Audio(message) => message,
            Self::Document(message) => message,
            Self::Sticker(message) => message,
        }
    }

    fn info(&self) -> MediaInfo {
        match *self {
            Self::Image(image) => MediaInfo {
                mimetype: image.mimetype.clone(),
                caption: image.caption.clone(),
                length: image.file_length,
                width: image.width,
                height: image.height,
                thumbnail: image.jpeg_thumbnail.clone(),
                direct_path: image.direct_path.clone(),
                url: image.url.clone(),
                view_once: image.view_once == Some(true),
                ..MediaInfo::of(MediaKind::Image)
            },
            Self::Video(video) => MediaInfo {
                mimetype: video.mimetype.clone(),
                caption: video.caption.clone(),
                length: video.file_length,
                seconds: video.seconds,
                width: video.width,
                height: video.height,
                thumbnail: video.jpeg_thumbnail.clone(),
                direct_path: video.direct_path.clone(),
                url: video.url.clone(),
                view_once: video.view_once == Some(true),
                ..MediaInfo::of(MediaKind::Video)
            },
            Self::Audio(audio) => MediaInfo {
                mimetype: audio.mimetype.clone(),
                length: audio.file_length,
                seconds: audio.seconds,
                direct_path: audio.direct_path.clone(),
                url: audio.url.clone(),
                view_once: audio.view_once == Some(true),
                ..MediaInfo::of(if audio.ptt == Some(true) { MediaKind::Voice } else { MediaKind::Audio })
            },
            Self::Document(document) => MediaInfo {
                mimetype: document.mimetype.clone(),
                caption: document.caption.clone(),
                file_name: document.file_name.clone(),
                title: document.title.clone(),
                length: document.file_length,
                pages: document.page_count,
                thumbnail: document.jpeg_thumbnail.clone(),
                direct_path: document.direct_path.clone(),
                url: document.url.clone(),
                ..MediaInfo::of(MediaKind::Document)
            },
            Self::Sticker(sticker) => MediaInfo {
                mimetype: sticker.mimetype.clone(),
                length: sticker.file_length,
                width: sticker.width,
                height: sticker.height,
                thumbnail: sticker.png_thumbnail.clone(),
                direct_path: sticker.direct_path.clone(),
                url: sticker.url.clone(),
                ..MediaInfo::of(MediaKind::Sticker)
            },
        }
    }
}

impl Received {
    /// What the message says about its attachment; wrappers (disappearing, view once, captioned document) are opened.
    pub fn media(&self) -> Option<MediaInfo> {
        Attachment::find(&self.message).map(|attachment| attachment.info())
    }
}

impl Phone {
    /// Encrypts, uploads and sends an attachment; the message id.
    ///
    /// # Errors
    /// As [`Phone::sends_message`].
    pub async fn sends_media(&self, to: &str, media: &Media) -> anyhow::Result<String> {
        self.sends_message(to, self.media_message(media)?).await
    }

    /// Encrypts and uploads an attachment: the message that describes it, to be wrapped or quoted before it is sent.
    ///
    /// # Errors
    /// The media hosts do not take it.
    pub fn media_message(&self, media: &Media) -> anyhow::Result<wa::Message> {
        let encrypted = encrypt_media(&media.bytes, media.kind.wire()).context("encrypting media")?;
        let path = self.0.network.put_media(media.kind.wire().mms_type(), &encrypted.data_to_upload)?;
        let message = describe(media, &encrypted, path);
        let captioned = media.kind == MediaKind::Document && media.caption.is_some();
        Ok(if captioned { wrapped(message) } else { message })
    }

    /// The attachment of a received message in clear, after all hashes and the length were checked.
    ///
    /// # Errors
    /// There is none, the media hosts have lost it, or it is not what the message says.
    pub fn download(&self, received: &Received) -> anyhow::Result<Vec<u8>> {
        let attachment = Attachment::find(&received.message).context("a message without attachment")?;
        fetch(self.0.network.as_ref(), attachment.downloadable())
    }
}

fn fetch(network: &dyn Network, wanted: &dyn Downloadable) -> anyhow::Result<Vec<u8>> {
    let path = wanted.direct_path().context("no direct path")?;
    let ciphertext = network.media(path).with_context(|| format!("the media hosts do not have {path}"))?;
    let hash = Sha256::digest(&ciphertext);
    ensure!(wanted.file_enc_sha256() == Some(hash.as_slice()), "the ciphertext has another hash than the message says");
    let key = wanted.media_key().context("no media key")?;
    let clear = DownloadUtils::verify_and_decrypt(&ciphertext, key, wanted.app_info())?;
    let hash = Sha256::digest(&clear);
    ensure!(wanted.file_sha256() == Some(hash.as_slice()), "the file has another hash than the message says");
    ensure!(wanted.file_length() == Some(clear.len() as u64), "the file has another length than the message says");
    Ok(clear)
}

/// As phones send a document with a caption.
fn wrapped(message: wa::Message) -> wa::Message {
    wa::Message {
        document_with_caption_message: MessageField::some(FutureProofMessage { message: MessageField::some(message) }),
        ..wa::Message::default()
    }
}

fn describe(media: &Media, encrypted: &EncryptedMedia, path: String) -> wa::Message {
    let url = Some(format!("https://mmg.whatsapp.net{path}"));
    let direct_path = Some(path);
    let mimetype = Some(media.mimetype.clone());
    let file_length = Some(media.bytes.len() as u64);
    let file_sha256 = Some(encrypted.file_sha256.to_vec());
    let file_enc_sha256 = Some(encrypted.file_enc_sha256.to_vec());
    let media_key = Some(encrypted.media_key.to_vec());
    let media_key_timestamp = Some(unix_seconds().cast_signed());
    let (caption, seconds) = (media.caption.clone(), media.seconds);
    let (width, height) = media.size.unzip();
    let jpeg_thumbnail = media.thumbnail.clone();
    let mut message = wa::Message::default();
    match media.kind {
        MediaKind::Image => {
            message.image_message = MessageField::some(ImageMessage {
                url,
                direct_path,
                mimetype,
                file_length,
                file_sha256,
                file_enc_sha256,
                media_key,
                media_key_timestamp,
                caption,
                width,
                height,
                jpeg_thumbnail,
                ..ImageMessage::default()
            });
        }
        MediaKind::Video => {
            message.video_message = MessageField::some(VideoMessage {
                url,
                direct_path,
                mimetype,
                file_length,
                file_sha256,
                file_enc_sha256,
                media_key,
                media_key_timestamp,
                caption,
                seconds,
                width,
                height,
                jpeg_thumbnail,
                ..VideoMessage::default()
            });
        }
        MediaKind::Audio | MediaKind::Voice => {
            message.audio_message = MessageField::some(AudioMessage {
                url,
                direct_path,
                mimetype,
                file_length,
                file_sha256,
                file_enc_sha256,
                media_key,
                media_key_timestamp,
                seconds,
                ptt: Some(media.kind == MediaKind::Voice),
                ..AudioMessage::default()
            });
        }
        MediaKind::Document => {
            message.document_message = MessageField::some(DocumentMessage {
                url,
                direct_path,
                mimetype,
                file_length,
                file_sha256,
                file_enc_sha256,
                media_key,
                media_key_timestamp,
                title: media.file_name.clone(),
                file_name: media.file_name.clone(),
                caption,
                jpeg_thumbnail,
                ..DocumentMessage::default()
            });
        }
        MediaKind::Sticker => {
            message.sticker_message = MessageField::some(StickerMessage {
                url,
                direct_path,
                mimetype,
                file_length,
                file_sha256,
                file_enc_sha256,
                media_key,
                media_key_timestamp,
                width,
                height,
                ..StickerMessage::default()
            });
        }
    }
    message
}
