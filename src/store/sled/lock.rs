//! The file beside the store's folder that the process locks which has the store.
//!
//! sled locks its log, which a store that is written anew exchanges for another (see `rewrite`): who opened the old one just
//! before could lock it just after, and would then be a second gateway on the same sessions. This file stays.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::error::OpenError;
use super::marker;
use super::opened::{LOCK_PATIENCE, LOCK_RETRY};

/// The store is this process's until this is dropped.
#[derive(Debug)]
pub struct Lock {
    /// `None`: the folder that holds the store's can't be written. sled's own lock has to do, and the store is never written
    /// anew.
    file: Option<File>,
}

impl Lock {
    /// Blocks while another process is about to give it back, for [`LOCK_PATIENCE`].
    pub(super) fn take(store: &Path) -> Result<Self, OpenError> {
        let named = |error| OpenError::from_io(store, error);
        let file = match open(store) {
            Ok(file) => file,
            Err(error) if is_refused(&error) => {
                let file = file_of(store);
                tracing::warn!(
                    file = %file.display(), %error,
                    "the store's lock can't be opened, so that its file never shrinks: give it to the user that runs the gateway"
                );
                return Ok(Self { file: None });
            }
            Err(error) => return Err(named(error)),
        };
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file: Some(file) }),
                Err(TryLockError::Error(error)) => return Err(named(error)),
                Err(TryLockError::WouldBlock) if began.elapsed() >= LOCK_PATIENCE => {
                    return Err(OpenError::Locked { path: store.to_owned() });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
            }
        }
    }

    /// The same for who only reads and makes no file; `None`: it can't be had without.
    pub(super) fn take_if_there(store: &Path) -> Result<Option<Self>, OpenError> {
        match File::open(file_of(store)) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Ok(Some(Self { file: Some(file) })),
                Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: store.to_owned() }),
                Err(TryLockError::Error(_)) => Ok(None),
            },
            Err(_) => Ok(None),
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.file.is_some()
    }
}

/// Where it is.
fn file_of(store: &Path) -> PathBuf {
    marker::beside(store, ".lock")
}

fn open(store: &Path) -> io::Result<File> {
    let file = file_of(store);
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)
}

fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_store() {
        let home = tempfile::tempdir().unwrap();
        let store = home.path().join("deeper/store");
        let first = Lock::take(&store).unwrap();
        assert!(first.is_held());
        assert!(matches!(Lock::take(&store), Err(OpenError::Locked { path }) if path == store));
        drop(first);
        let again = Lock::take(&store).unwrap();
        assert!(again.is_held());
        assert!(matches!(Lock::take_if_there(&store), Err(OpenError::Locked { path }) if path == store));
        drop(again);
        assert!(Lock::take_if_there(&store).unwrap().is_some());
        assert!(Lock::take_if_there(&home.path().join("another")).unwrap().is_none());
        assert!(!file_of(&home.path().join("another")).exists());
    }

    #[test]
    fn a_folder_that_takes_no_file_is_not_in_the_way() {
        let refused = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        assert!(is_refused(&refused) && !is_refused(&io::ErrorKind::NotADirectory.into()));
    }
}
