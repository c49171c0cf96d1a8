//! Why the store's folder can't be opened, said so that the owner of the machine knows what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::marker;

/// Why the store could not be opened; each text names the folder and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store {} is in use by another process: stop the other gateway, or give this one its own folder", .path.display())]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// The folder or a file in it may not be read or written.
    #[error("the store {} is not readable and writable: give its owner and mode to the user that runs the gateway (chown -R, chmod -R u+rwX) and mount the volume read-write", .path.display())]
    NoAccess {
        /// The store's folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No space is left for it.
    #[error("the store {} can't be written, the disk is full: make room and start again", .path.display())]
    DiskFull {
        /// The store's folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path is there and not a folder.
    #[error("the store {} is not a folder: move that file away", .path.display())]
    NotAFolder {
        /// The store's folder.
        path: PathBuf,
    },
    /// Its files are damaged.
    #[error("the store {} is damaged ({detail}): bring a backup back with `wa-gateway restore --force FILE`, or move it away and remove {} to begin without any session", .path.display(), marker::file_of(.path).display())]
    Corrupt {
        /// The store's folder.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The folder is gone or empty, and there was a store in it.
    #[error("the store {} is gone or was emptied, and {} says that there was one: bring it back, or run `wa-gateway restore` with a backup; to begin without any session remove {}", .path.display(), .marker.display(), .marker.display())]
    Gone {
        /// The store's folder.
        path: PathBuf,
        /// The file that remembers it.
        marker: PathBuf,
    },
    /// Another store than before is in the folder.
    #[error("the store {} is another one than was there before: bring the right one back; if this one is right, remove {}", .path.display(), .marker.display())]
    Exchanged {
        /// The store's folder.
        path: PathBuf,
        /// The file that remembers the other.
        marker: PathBuf,
    },
    /// The store has lost what it had written.
    #[error("the store {} is older than it was: its files were damaged or replaced by a copy, and encryption keys would be used twice. Restore a backup with `wa-gateway restore --force`, or remove {} to take it as it is", .path.display(), .marker.display())]
    Older {
        /// The store's folder.
        path: PathBuf,
        /// The file that remembers how far it had come.
        marker: PathBuf,
    },
    /// A newer gateway wrote it.
    #[error("the store {} has schema {found}, this gateway knows {known} and older: run the newer gateway", .path.display())]
    NewerSchema {
        /// The store's folder.
        path: PathBuf,
        /// The schema on disk.
        found: u32,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// The system refused for another reason.
    #[error("the store {} can't be opened", .path.display())]
    Io {
        /// The store's folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// The same of another folder, which is the one that its owner knows.
    pub(super) fn of(mut self, shown: &Path) -> Self {
        match &mut self {
            Self::Locked { path }
            | Self::NoAccess { path, .. }
            | Self::DiskFull { path, .. }
            | Self::NotAFolder { path }
            | Self::Corrupt { path, .. }
            | Self::Gone { path, .. }
            | Self::Exchanged { path, .. }
            | Self::Older { path, .. }
            | Self::NewerSchema { path, .. }
            | Self::Io { path, .. } => shown.clone_into(path),
        }
        self
    }

    pub(super) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::NoAccess { path, source },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Self::NotAFolder { path },
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::Corrupt { path, detail: source.to_string() }
            }
            _ if is_lock(&source) => Self::Locked { path },
            _ => Self::Io { path, source },
        }
    }

    pub(super) fn from_sled(path: &Path, error: sled::Error) -> Self {
        match error {
            sled::Error::Io(source) => Self::from_io(path, source),
            other => Self::Corrupt { path: path.to_owned(), detail: other.to_string() },
        }
    }
}

/// sled 0.34 wraps a refused `flock` in an error of kind `Other` and says so in its text only.
fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}
