//! A file's bytes: in memory while they are few, else in a file without a name, which ends with its last reader.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use crate::message::Upload;

/// Up to here in memory: most pictures, while 32 fetches at once hold 8 MiB.
pub(super) const MEMORY_BYTES: usize = 256 * 1024;

/// What a spool is read through.
pub trait ReadSeek: Read + Seek + Sync {}

impl<T: Read + Seek + Sync> ReadSeek for T {}

/// A file's bytes, complete and unchanging; clones share them.
#[derive(Clone)]
pub struct Spool {
    data: Data,
    len: u64,
    mime: Option<String>,
    name: Option<String>,
}

#[derive(Clone)]
enum Data {
    Memory(Bytes),
    Disk(Arc<File>),
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_disk = matches!(self.data, Data::Disk(_));
        f.debug_struct("Spool").field("len", &self.len).field("on_disk", &on_disk).finish_non_exhaustive()
    }
}

impl Spool {
    /// Keeps bytes that are in memory already; many of them go to a file in `folder`. Blocks.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn from_bytes(bytes: Vec<u8>, folder: &Path) -> io::Result<Self> {
        let len = bytes.len() as u64;
        if bytes.len() <= MEMORY_BYTES {
            return Ok(Self { data: Data::Memory(bytes.into()), len, mime: None, name: None });
        }
        let mut file = create(folder)?;
        io::Write::write_all(&mut file, &bytes)?;
        Ok(Self { data: Data::Disk(Arc::new(file)), len, mime: None, name: None })
    }

    /// Takes the file that a client sent along as it lies on our disk.
    pub(super) async fn from_upload(upload: &Upload) -> io::Result<Self> {
        let file = tokio::fs::File::open(&**upload.file).await?;
        let len = file.metadata().await?.len();
        let data = Data::Disk(Arc::new(file.into_std().await));
        Ok(Self { data, len, mime: None, name: None }.described(upload.mime.as_deref(), upload.name.as_deref()))
    }

    /// Remembers what its source says about it.
    pub(super) fn described(mut self, mime: Option<&str>, name: Option<&str>) -> Self {
        (self.mime, self.name) = (mime.map(str::to_owned), name.map(str::to_owned));
        self
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type that its source declared; nothing has checked it.
    pub fn declared_mime(&self) -> Option<&str> {
        self.mime.as_deref()
    }

    /// The name that its source gave it: an upload's, or the last part of the URL; nothing has checked it.
    pub fn declared_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// A reader from the start, independent of all others; its reads may block.
    ///
    /// # Errors
    /// None today; a spool may come to open its file late.
    pub fn open(&self) -> io::Result<Box<dyn ReadSeek + Send>> {
        Ok(match &self.data {
            Data::Memory(bytes) => Box::new(Cursor::new(bytes.clone())),
            Data::Disk(file) => Box::new(Reader { file: Arc::clone(file), at: 0, len: self.len }),
        })
    }

    /// All bytes, for files that are known to be small. Blocks when they are on disk.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_to_vec(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.len).unwrap_or_default());
        self.open()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The first bytes, as many as told or as there are. Blocks when they are on disk.
    pub(super) fn head(&self, bytes: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.open()?.take(bytes).read_to_end(&mut head)?;
        Ok(head)
    }
}

/// Reads at its own place, so that many can share one file.
struct Reader {
    file: Arc<File>,
    at: u64,
    len: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// A file without a name: it ends when it is closed, also by a crash.
fn create(folder: &Path) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    tempfile::tempfile_in(folder)
}

/// Takes a file piece by piece, a buffer's worth in memory at a time.
pub(super) struct Writer {
    folder: PathBuf,
    buffer: Vec<u8>,
    file: Option<tokio::fs::File>,
    len: u64,
}

impl Writer {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), buffer: Vec::new(), file: None, len: 0 }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that wait in memory.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.len += piece.len() as u64;
        if self.buffer.len() + piece.len() <= MEMORY_BYTES {
            self.buffer.extend_from_slice(piece);
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let folder = self.folder.clone();
                let file = tokio::task::spawn_blocking(move || create(&folder)).await.map_err(io::Error::other)??;
                empty.insert(tokio::fs::File::from_std(file))
            }
        };
        file.write_all(&self.buffer).await?;
        self.buffer.clear();
        if piece.len() > MEMORY_BYTES {
            file.write_all(piece).await?;
        } else {
            self.buffer.extend_from_slice(piece);
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> io::Result<Spool> {
        let data = match self.file.take() {
            None => Data::Memory(self.buffer.into()),
            Some(mut file) => {
                file.write_all(&self.buffer).await?;
                file.flush().await?;
                Data::Disk(Arc::new(file.into_std().await))
            }
        };
        Ok(Spool { data, len: self.len, mime: None, name: None })
    }
}
