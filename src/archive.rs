//! The encrypted archive: rows of a store, on their way to a file and back.
//!
//! Written by a backup and by an export, read by a restore and by an import. The file is an age file for one passphrase
//! (`age -d` opens it, see `age`); inside stand a head in JSON, then the rows, then their number, then zeros up to a full
//! chunk. That filling is what tells a file that was cut short from one that was changed. All of it blocks: call it on a
//! thread that may.

use std::io::{self, Read, Write};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

mod age;

pub use age::is_sealed;

use age::{Opened, Sealed};

/// What the content begins with.
const MAGIC: &[u8] = b"wa-gateway archive\n";
/// The layout that this program writes and the newest that it reads.
const FORMAT: u32 = 1;
/// The longest key, value or head: more than the largest row of a store, little enough to be held.
const MAX_FIELD: usize = 64 << 20;

const NAMESPACE: u8 = b'N';
const ROW: u8 = b'R';
const END: u8 = b'E';

/// What the archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Every namespace of a store.
    Backup,
    /// One session, to be taken to another gateway.
    Session,
}

/// The first thing in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The layout of what follows.
    pub format: u32,
    /// What the archive holds.
    pub kind: Kind,
    /// When it was begun.
    pub created_at: DateTime<Utc>,
    /// The version of the program that wrote it.
    pub program: String,
}

impl Head {
    /// The head of an archive that is begun now.
    pub fn new(kind: Kind) -> Self {
        Self { format: FORMAT, kind, created_at: Utc::now(), program: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// One row of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name of its namespace.
    pub namespace: String,
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// Why an archive can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is a file of another kind.
    #[error("this is no archive of wa-gateway")]
    NotAnArchive,
    /// The passphrase does not open it.
    #[error("the passphrase is wrong (or the first lines of the archive were changed)")]
    WrongPassphrase,
    /// The end is missing.
    #[error("the archive is cut short: its end is missing")]
    Truncated,
    /// Some of it is not what was written.
    #[error("the archive was changed or damaged after it was written")]
    Tampered,
    /// A newer program wrote it.
    #[error("the archive has format {found}, this program knows {FORMAT} and older: use the newer program")]
    NewerFormat {
        /// The format that it has.
        found: u32,
    },
    /// It can't be read for another reason.
    #[error("the archive can't be read")]
    Io(#[source] io::Error),
}

/// Writes an archive into `W`.
///
/// One that is dropped before [`finish`](Self::finish) leaves a file that reads as cut short.
#[derive(Debug)]
pub struct Writer<W: Write> {
    sealed: Sealed<W>,
    namespace: Option<String>,
    rows: u64,
}

impl<W: Write> Writer<W> {
    /// Begins an archive. Making the key takes some tenths of a second and 64 MiB for that time.
    ///
    /// # Errors
    /// As `inner`, or when there is no randomness.
    pub fn new(inner: W, passphrase: &SecretString, head: &Head) -> io::Result<Self> {
        let mut sealed = Sealed::new(inner, passphrase)?;
        sealed.write_all(MAGIC)?;
        field(&mut sealed, &serde_json::to_vec(head)?)?;
        Ok(Self { sealed, namespace: None, rows: 0 })
    }

    /// Adds a row; those of one namespace best follow each other.
    ///
    /// # Errors
    /// As `inner`; a key or a value above 64 MiB is `InvalidInput`.
    pub fn row(&mut self, namespace: &str, key: &[u8], value: &[u8]) -> io::Result<()> {
        if self.namespace.as_deref() != Some(namespace) {
            self.sealed.write_all(&[NAMESPACE])?;
            field(&mut self.sealed, namespace.as_bytes())?;
            self.namespace = Some(namespace.to_owned());
        }
        self.sealed.write_all(&[ROW])?;
        field(&mut self.sealed, key)?;
        field(&mut self.sealed, value)?;
        self.rows += 1;
        Ok(())
    }

    /// Ends the archive: without this it can't be read.
    ///
    /// # Errors
    /// As `inner`.
    pub fn finish(mut self) -> io::Result<W> {
        self.sealed.write_all(&[END])?;
        self.sealed.write_all(&self.rows.to_be_bytes())?;
        self.sealed.finish()
    }
}

fn field(into: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > MAX_FIELD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a row is too large for an archive"));
    }
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    into.write_all(&len.to_be_bytes())?;
    into.write_all(bytes)
}

/// Reads an archive out of `R`.
#[derive(Debug)]
pub struct Reader<R: Read> {
    opened: Opened<R>,
    head: Head,
    namespace: String,
    rows: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Opens an archive and reads its head; as slow as [`Writer::new`].
    ///
    /// # Errors
    /// By [`ArchiveError`].
    pub fn open(inner: R, passphrase: &SecretString) -> Result<Self, ArchiveError> {
        let mut opened = Opened::new(inner, passphrase)?;
        let mut magic = [0; MAGIC.len()];
        opened.exactly(&mut magic)?;
        if magic != MAGIC {
            return Err(ArchiveError::NotAnArchive);
        }
        let head = take(&mut opened)?;
        // Read by itself first: the rest may look different in a newer format.
        let Format { format } = serde_json::from_slice(&head).map_err(|_| ArchiveError::Tampered)?;
        if format > FORMAT {
            return Err(ArchiveError::NewerFormat { found: format });
        }
        let head = serde_json::from_slice(&head).map_err(|_| ArchiveError::Tampered)?;
        Ok(Self { opened, head, namespace: String::new(), rows: 0, ended: false })
    }

    /// What the archive says of itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next row; `None`: that was all, and all of it was there. Rows may be used only after `None` came: until then a
    /// part may be missing.
    ///
    /// # Errors
    /// By [`ArchiveError`].
    pub fn row(&mut self) -> Result<Option<Row>, ArchiveError> {
        while !self.ended {
            let mut tag = [0];
            self.opened.exactly(&mut tag)?;
            match tag[0] {
                NAMESPACE => {
                    let name = take(&mut self.opened)?;
                    self.namespace = String::from_utf8(name).map_err(|_| ArchiveError::Tampered)?;
                }
                ROW => {
                    let key = take(&mut self.opened)?.into();
                    let value = take(&mut self.opened)?.into();
                    self.rows += 1;
                    return Ok(Some(Row { namespace: self.namespace.clone(), key, value }));
                }
                END => {
                    let mut rows = [0; 8];
                    self.opened.exactly(&mut rows)?;
                    if u64::from_be_bytes(rows) != self.rows {
                        return Err(ArchiveError::Tampered);
                    }
                    self.opened.end()?;
                    self.ended = true;
                }
                _ => return Err(ArchiveError::Tampered),
            }
        }
        Ok(None)
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn take<R: Read>(opened: &mut Opened<R>) -> Result<Vec<u8>, ArchiveError> {
    let mut len = [0; 4];
    opened.exactly(&mut len)?;
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > MAX_FIELD {
        return Err(ArchiveError::Tampered);
    }
    let mut bytes = vec![0; len];
    opened.exactly(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
