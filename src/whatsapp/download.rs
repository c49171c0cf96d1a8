//! Received files: from WhatsApp's media hosts into an open file, decrypted and checked on the way.

use std::error::Error;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use whatsapp_rust::Jid;
use whatsapp_rust::features::{MediaRetryResult, MediaReuploadRequest};
use whatsapp_rust::wacore::download::{DownloadWriter, Downloadable, MediaType};

use super::Connection;
use super::inbound::MAX_FILE_BYTES;
use crate::message::{Attachment, FileKind};

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// WhatsApp's hosts have it no longer, or not for us; its sender may upload it again.
    #[error("WhatsApp's media hosts do not have the file any more")]
    Gone,
    /// Trying again may help.
    #[error("the file could not be downloaded")]
    Failed(#[source] anyhow::Error),
}

impl Connection {
    /// Downloads a file into an empty one, streaming; what it holds after an error is not to be used.
    ///
    /// A cancelled call goes on in the background for as long as one HTTP exchange may take.
    ///
    /// # Errors
    /// By [`DownloadError`].
    pub async fn download(&self, attachment: &Attachment, file: File) -> Result<(), DownloadError> {
        // Here, because it gets in the way of thiserror's derive.
        use whatsapp_rust::ErrorChainExt as _;
        let sink = Capped { file, most: MAX_FILE_BYTES };
        match self.client.download_to_writer(&Wire(attachment), sink).await {
            Ok(_file) => Ok(()),
            Err(error) => {
                let chain: &(dyn Error + Send + Sync) = error.as_ref();
                match chain.http_status() {
                    Some(401 | 403 | 404 | 410) => Err(DownloadError::Gone),
                    _ => Err(DownloadError::Failed(error)),
                }
            }
        }
    }

    /// Asks the sender to upload a file again that the hosts have lost; its new place, if that worked.
    pub async fn request_upload(&self, attachment: &Attachment) -> Option<String> {
        let media_key = attachment.media_key.as_deref()?;
        let chat: Jid = attachment.chat.parse().ok()?;
        let sender: Jid = attachment.sender.parse().ok()?;
        let request = MediaReuploadRequest {
            msg_id: &attachment.id,
            chat_jid: &chat,
            media_key,
            is_from_me: false,
            participant: attachment.chat.ends_with("@g.us").then_some(&sender),
        };
        match self.client.media_reupload().request(&request).await {
            // As for the first place: only a path can't change the host.
            Ok(MediaRetryResult::Success { direct_path }) if direct_path.starts_with('/') => Some(direct_path),
            Ok(_refused) => None,
            Err(error) => {
                tracing::debug!(%error, "a file could not be asked for again");
                None
            }
        }
    }
}

/// An attachment in the library's words.
struct Wire<'a>(&'a Attachment);

impl Downloadable for Wire<'_> {
    fn direct_path(&self) -> Option<&str> {
        Some(&self.0.direct_path)
    }

    fn media_key(&self) -> Option<&[u8]> {
        self.0.media_key.as_deref()
    }

    fn file_enc_sha256(&self) -> Option<&[u8]> {
        self.0.file_enc_sha256.as_deref()
    }

    fn file_sha256(&self) -> Option<&[u8]> {
        self.0.file_sha256.as_deref()
    }

    fn file_length(&self) -> Option<u64> {
        Some(self.0.file_length)
    }

    fn app_info(&self) -> MediaType {
        match self.0.kind {
            FileKind::Image => MediaType::Image,
            FileKind::Video => MediaType::Video,
            FileKind::Audio => MediaType::Audio,
            FileKind::Document => MediaType::Document,
            FileKind::Sticker => MediaType::Sticker,
        }
    }
}

/// A file that takes so many bytes and no more.
struct Capped {
    file: File,
    most: u64,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.stream_position()?.saturating_add(bytes.len() as u64) > self.most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than WhatsApp allows"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Capped {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl DownloadWriter for Capped {
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_never_ends_is_cut_off() {
        let mut capped = Capped { file: tempfile::tempfile().unwrap(), most: 10 };
        capped.write_all(&[0; 10]).unwrap();
        assert_eq!(capped.write(&[0]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        capped.truncate(0).unwrap();
        capped.rewind().unwrap();
        capped.write_all(&[0; 9]).unwrap();
    }
}
