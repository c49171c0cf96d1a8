//! What is left of an emptied store goes into a fresh folder, which then takes the place of the old one: sled gives back neither
//! the file that it once filled, in which the rows of dropped sessions stay until others are written over them, nor the memory
//! in which it keeps where all pages are that it ever made.
//!
//! The fresh store is complete, compared and on the disk before the two folders change places, which is one step of the file
//! system: whenever the process ends, the store's folder holds all that was written. The other folder, `NAME.new`, is removed
//! by whoever opens the store next.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::error::OpenError;
use super::marker;
use super::opened::{DEFAULT, LOG_FILE, make_db};

/// So many bytes of rows are written anew at most, as all calls wait meanwhile; a store with more of them stays as it is.
const MOST: usize = 64 << 20;

/// Where sled puts values that are larger than a segment of its log; the store has none.
const BLOBS: &str = "blobs";

/// A store that is ready to take the place of another.
#[derive(Debug)]
pub(super) struct Fresh {
    path: PathBuf,
    folder: PathBuf,
}

/// Writes all rows of a settled store, of which nothing is written meanwhile, into a folder beside it; `None`: it has too many.
///
/// Blocks: reads and writes all of it, and waits for the disk.
pub(super) fn write(db: &sled::Db, path: &Path) -> Result<Option<Fresh>, OpenError> {
    let folder = folder_of(path);
    remove(&folder).map_err(|error| OpenError::from_io(&folder, error))?;
    let fresh = Fresh { path: path.to_owned(), folder };
    match fresh.fill(db, MOST) {
        Ok(true) => Ok(Some(fresh)),
        Ok(false) => {
            fresh.give_up();
            Ok(None)
        }
        Err(error) => {
            let error = OpenError::from_sled(&fresh.folder, error);
            fresh.give_up();
            Err(error)
        }
    }
}

/// Removes what another process left, or the folder whose place was taken. Only while the store is open: so nobody else is at it.
pub(super) fn clean(path: &Path) {
    let folder = folder_of(path);
    if let Err(error) = remove(&folder) {
        tracing::warn!(folder = %folder.display(), %error, "a folder that is of no use can't be removed");
    }
}

impl Fresh {
    /// Whether all of it was written: `false` when there is more than `most` bytes.
    fn fill(&self, db: &sled::Db, most: usize) -> Result<bool, sled::Error> {
        let fresh = make_db(&self.folder, 0).map_err(|error| sled::Error::ReportableBug(error.to_string()))?;
        let mut bytes = 0;
        for name in db.tree_names() {
            if name == DEFAULT {
                continue;
            }
            let (from, to) = (db.open_tree(&name)?, fresh.open_tree(&name)?);
            for row in &from {
                let (key, value) = row?;
                bytes += key.len() + value.len();
                if bytes > most {
                    return Ok(false);
                }
                to.insert(key, value)?;
            }
        }
        fresh.flush()?;
        if fresh.checksum()? != db.checksum()? {
            return Err(sled::Error::ReportableBug("what was written is not what was read".into()));
        }
        drop(fresh);
        // Of the store that is about to be closed some may be removed later, by their path.
        if [&self.path, &self.folder].into_iter().any(|store| has_files(&store.join(BLOBS))) {
            return Ok(false);
        }
        sync(&self.folder)?;
        Ok(true)
    }

    /// Takes the place of the old store, which is closed. Another gateway that waits for this one to end gets the old one or
    /// the fresh one, never one that is then replaced: what is returned keeps the old one locked, until that is removed.
    pub(super) fn take_place(self) -> io::Result<File> {
        let changed = self.change();
        if changed.is_err() {
            self.give_up();
        }
        changed
    }

    fn change(&self) -> io::Result<File> {
        let log = File::open(self.path.join(LOG_FILE))?;
        log.try_lock()?;
        renameat_with(CWD, &self.folder, CWD, &self.path, RenameFlags::EXCHANGE)?;
        marker::sync_folder_of(&self.path)?;
        Ok(log)
    }

    fn give_up(self) {
        clean(&self.path);
    }
}

fn folder_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn has_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
}

/// Has the disk hold all that is in the folder.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: u32 = 100;

    fn fill(db: &sled::Db) {
        for name in ["a", "b"] {
            let tree = db.open_tree(name).unwrap();
            for row in 0..ROWS {
                tree.insert(row.to_be_bytes(), name.repeat(100).as_bytes()).unwrap();
            }
        }
        let gone = db.open_tree("gone").unwrap();
        for row in 0..ROWS * 100 {
            gone.insert(row.to_be_bytes(), b"secret ".repeat(30)).unwrap();
        }
        db.drop_tree("gone").unwrap();
        db.flush().unwrap();
    }

    /// A store in a folder of its own, with rows in two trees and those of a third in its file.
    fn store() -> (tempfile::TempDir, PathBuf, sled::Db) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        let db = make_db(&path, 0).unwrap();
        fill(&db);
        (home, path, db)
    }

    fn names(home: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_rows_are_in_the_store_that_takes_the_place_and_nothing_else_is() {
        let (home, path, db) = store();
        fs::create_dir(home.path().join("store.new")).unwrap();
        fs::write(home.path().join("store.new/db"), "what a killed process left").unwrap();
        let (before, trees) = (db.checksum().unwrap(), db.tree_names().len());
        let fresh = write(&db, &path).unwrap().unwrap();
        drop(db);
        let holds_secret =
            |store: &Path| fs::read(store.join(LOG_FILE)).unwrap().windows(14).any(|bytes| bytes == b"secret secret ");
        assert!(holds_secret(&path), "or the last line proves nothing");
        fresh.take_place().unwrap();
        assert!(!holds_secret(&path));
        let db = make_db(&path, 0).unwrap();
        assert_eq!((db.checksum().unwrap(), db.tree_names().len()), (before, trees));
        assert_eq!(names(home.path()), ["store", "store.new"]);
        clean(&path);
        assert_eq!(names(home.path()), ["store"]);
    }

    #[test]
    fn a_store_of_too_many_rows_stays_as_it_is() {
        let (home, path, db) = store();
        let fresh = Fresh { path: path.clone(), folder: folder_of(&path) };
        // Two trees, keys of four bytes, values of a hundred.
        let bytes = 2 * usize::try_from(ROWS).unwrap() * 104;
        assert!(!fresh.fill(&db, bytes - 1).unwrap());
        remove(&fresh.folder).unwrap();
        assert!(fresh.fill(&db, bytes).unwrap());
        fresh.give_up();
        assert_eq!(names(home.path()), ["store"]);
    }

    #[test]
    fn a_store_of_values_in_files_of_their_own_stays_as_it_is() {
        let (home, path, db) = store();
        db.open_tree("a").unwrap().insert("large", vec![1; 1 << 20]).unwrap();
        db.flush().unwrap();
        assert!(has_files(&path.join(BLOBS)), "or this proves nothing");
        assert!(write(&db, &path).unwrap().is_none());
        assert_eq!(names(home.path()), ["store"]);
    }

    #[test]
    fn a_store_that_another_has_opened_meanwhile_stays_as_it_is() {
        let (home, path, db) = store();
        let before = db.checksum().unwrap();
        let fresh = write(&db, &path).unwrap().unwrap();
        assert_eq!(fresh.take_place().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(names(home.path()), ["store"]);
        drop(db);
        assert_eq!(make_db(&path, 0).unwrap().checksum().unwrap(), before);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let (home, path, db) = store();
        // Not a folder's name.
        fs::write(home.path().join("store.new"), "").unwrap();
        let error = write(&db, &path).unwrap_err();
        assert!(error.to_string().contains("store.new"), "{error}");
    }
}
