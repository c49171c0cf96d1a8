//! Received files: from WhatsApp's media hosts into an open file, decrypted and checked on the way.

use std::error::Error;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use whatsapp_rust::Jid;
use whatsapp_rust::features::{MediaRetryResult, MediaReuploadRequest};
use whatsapp_rust::wacore::download::{DownloadWriter, Downloadable, MediaType};

use super::Connection;
use crate::message::{Attachment, FileKind};

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// WhatsApp's hosts have it no longer, or not for us; its sender may upload it again.
    #[error("WhatsApp's media hosts do not have the file any more")]
    Gone,
    /// It has more bytes than it may.
    #[error("the file is too large")]
    TooLarge,
    /// The hosts can't be reached, or can't give it at the moment.
    #[error("WhatsApp's media hosts can't give the file")]
    Unavailable(#[source] anyhow::Error),
    /// What came is not the file; another try may bring it.
    #[error("the file could not be downloaded")]
    Failed(#[source] anyhow::Error),
}

impl Connection {
    /// Downloads a file of so many bytes at most into an empty one, streaming; what it holds after an error is not to be used.
    ///
    /// A cancelled call goes on in the background for as long as one HTTP exchange may take.
    ///
    /// # Errors
    /// By [`DownloadError`].
    pub async fn download(&self, attachment: &Attachment, file: File, most: u64) -> Result<(), DownloadError> {
        // Here, because it gets in the way of thiserror's derive.
        use whatsapp_rust::ErrorChainExt as _;
        // The length is the sender's word, and need not be true.
        if attachment.file_length > most {
            return Err(DownloadError::TooLarge);
        }
        let over = Arc::new(AtomicBool::new(false));
        let sink = Capped { file, most, over: Arc::clone(&over) };
        match self.client.download_to_writer(&Wire(attachment), sink).await {
            Ok(_file) => Ok(()),
            Err(_) if over.load(Ordering::Relaxed) => Err(DownloadError::TooLarge),
            Err(error) => {
                let is_network = error.chain().any(|cause| cause.is::<ureq::Error>() || cause.is::<io::Error>());
                let chain: &(dyn Error + Send + Sync) = error.as_ref();
                match chain.http_status() {
                    Some(401 | 403 | 404 | 410) => Err(DownloadError::Gone),
                    Some(408 | 425 | 429 | 500..) => Err(DownloadError::Unavailable(error)),
                    None if is_network => Err(DownloadError::Unavailable(error)),
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
    /// Whether there was more.
    over: Arc<AtomicBool>,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.stream_position()?.saturating_add(bytes.len() as u64) > self.most {
            self.over.store(true, Ordering::Relaxed);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large"));
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
        let mut capped = Capped { file: tempfile::tempfile().unwrap(), most: 10, over: Arc::default() };
        capped.write_all(&[0; 10]).unwrap();
        assert!(!capped.over.load(Ordering::Relaxed));
        assert_eq!(capped.write(&[0]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(capped.over.load(Ordering::Relaxed));
        capped.truncate(0).unwrap();
        capped.rewind().unwrap();
        capped.write_all(&[0; 9]).unwrap();
    }
}
