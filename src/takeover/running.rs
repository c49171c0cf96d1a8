//! Whether the original still runs on its folder: two gateways with the same ratchets would use message keys twice.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::process::{Flock, FlockType, fcntl_getlk};

/// Whether a process has the database open. A connection in WAL mode holds a shared lock on the file for as long as it
/// lives, and one on the log's index (sqlite.org, `walformat.html`); asking changes neither.
pub(super) fn is_locked(database: &Path) -> io::Result<bool> {
    let mut index = database.as_os_str().to_owned();
    index.push("-shm");
    for file in [database, Path::new(&index)] {
        let file = match File::open(file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)) {
            Ok(Some(_held)) => return Ok(true),
            Ok(None) => {}
            // A file system without locks tells nothing; whether the log grows does.
            Err(error) => tracing::debug!(%error, "this file system can't tell who holds a lock"),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nobody_has_locked_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("database.db");
        assert!(!is_locked(&file).unwrap(), "none there");
        std::fs::write(&file, "x").unwrap();
        assert!(!is_locked(&file).unwrap());
    }
}
