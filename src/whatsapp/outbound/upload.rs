//! Files on their way to WhatsApp's media servers: encrypted to disk, then streamed, never whole in memory.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::time::Instant;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::wacore::upload::{EncryptedMediaInfo, UploadSource, encrypt_media_streaming};

use super::{Connection, OutboundError};
use crate::message::{self, Content};

/// Uploads at once over all sessions: each holds a thread of tokio's blocking pool while it encrypts or sends.
pub(in crate::whatsapp) const MAX_UPLOADS: usize = 8;

/// Opens the bytes that are to be uploaded.
pub type Open = Box<dyn FnOnce() -> std::io::Result<Box<dyn Read + Send>> + Send>;

/// The encrypted file; it has no name and ends when the last attempt to send it is over.
struct Encrypted {
    file: Arc<File>,
    bytes: u64,
}

impl UploadSource for Encrypted {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn reader_from(&self, offset: u64) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Reader { file: Arc::clone(&self.file), at: offset }))
    }
}

/// Reads at its own place, so that attempts can share the file.
struct Reader {
    file: Arc<File>,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += u64::try_from(read).unwrap_or_default();
        Ok(read)
    }
}

impl Connection {
    /// Encrypts the bytes into a temporary file of this folder and uploads it; the file's kind is the content's.
    ///
    /// A cancelled call may leave an upload going on, which nobody will refer to.
    ///
    /// # Errors
    /// `TimedOut`, `Disk` when the bytes can't be read or written here, else `Upload`.
    pub async fn upload(
        &self,
        content: &Content,
        open: Open,
        folder: Arc<Path>,
        deadline: Instant,
    ) -> Result<message::File, OutboundError> {
        let Some(kind) = media_type(content) else { return Ok(message::File::default()) };
        let uploading = async {
            let _permit = self.shared.uploads.acquire().await.map_err(|error| OutboundError::Upload(error.into()))?;
            let encrypting = tokio::task::spawn_blocking(move || encrypt(open, &folder, kind));
            let (encrypted, info) =
                encrypting.await.map_err(|error| OutboundError::Disk(error.into()))?.map_err(OutboundError::Disk)?;
            self.client.upload_stream(encrypted, info, kind).await.map_err(OutboundError::Upload)
        };
        let answer =
            tokio::time::timeout_at(deadline, uploading).await.map_err(|_elapsed| OutboundError::TimedOut)??;
        Ok(message::File {
            url: answer.url,
            direct_path: answer.direct_path,
            media_key: answer.media_key,
            sha256: answer.file_sha256,
            encrypted_sha256: answer.file_enc_sha256,
            bytes: answer.file_length,
            key_timestamp: answer.media_key_timestamp,
            sidecar: answer.streaming_sidecar,
            ..message::File::default()
        })
    }
}

fn media_type(content: &Content) -> Option<MediaType> {
    Some(match content {
        Content::Image { .. } => MediaType::Image,
        Content::Video { .. } => MediaType::Video,
        Content::Document { .. } => MediaType::Document,
        Content::Sticker { .. } => MediaType::Sticker,
        Content::Audio { .. } => MediaType::Audio,
        Content::Text(_)
        | Content::Location(_)
        | Content::Contacts(_)
        | Content::Poll(_)
        | Content::Reaction { .. }
        | Content::Edit { .. }
        | Content::Delete(_) => return None,
    })
}

fn encrypt(open: Open, folder: &Path, kind: MediaType) -> anyhow::Result<(Encrypted, EncryptedMediaInfo)> {
    let plain = open().context("the file can't be opened")?;
    std::fs::create_dir_all(folder).context("no folder for temporary files")?;
    let file = tempfile::tempfile_in(folder).context("no temporary file")?;
    let mut writer = std::io::BufWriter::with_capacity(64 * 1024, file);
    let info = encrypt_media_streaming(plain, &mut writer, kind)?;
    writer.flush()?;
    let file = writer.into_inner().context("the temporary file can't be written")?;
    let bytes = file.metadata()?.len();
    Ok((Encrypted { file: Arc::new(file), bytes }, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_file_can_be_read_from_any_offset_and_leaves_nothing_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let plain = vec![7_u8; 100_000];
        let open: Open = Box::new(move || Ok(Box::new(std::io::Cursor::new(plain))));
        let (encrypted, info) = encrypt(open, folder.path(), MediaType::Document).unwrap();
        assert_eq!(info.file_length, 100_000);
        // AES-CBC pads to whole blocks, then ten bytes of MAC follow.
        assert_eq!(encrypted.len(), 100_000 / 16 * 16 + 16 + 10);
        let (mut all, mut rest) = (Vec::new(), Vec::new());
        encrypted.reader_from(0).unwrap().read_to_end(&mut all).unwrap();
        encrypted.reader_from(99_000).unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(all[99_000..], rest);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
