//! What is left of an emptied store goes into a fresh folder, which then takes the place of the old one: sled gives back neither
//! the file that it once filled, in which the rows of dropped sessions stay until others are written over them, nor the memory
//! in which it keeps where all pages are that it ever made.
//!
//! The fresh store is complete, compared and on the disk before the two folders change places, which is one step of the file
//! system: whenever the process ends, the store's folder holds all that was written. The other folder, `NAME.rewritten`, is
//! removed by whoever opens the store next.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags, renameat_with, statx};

use super::error::OpenError;
use super::marker::{self, parent_of};
use super::opened::{DEFAULT, LOCK_RETRY, LOG_FILE, open_db};

/// What of rows is written anew at most, and how long that may take, as all calls wait meanwhile; a store with more of them
/// stays as it is.
const MOST: Most = Most { bytes: 8 << 20, time: Duration::from_millis(500) };
/// The time is looked at after so many rows.
const STEP: usize = 256;

/// Threads of the old database that hold its file a moment longer get that long.
const LET_GO: Duration = Duration::from_millis(500);

/// Where sled puts values that are larger than a segment of its log; the store has none.
const BLOBS: &str = "blobs";
/// What else sled keeps in its folder, and how its snapshots are called.
const CONFIGURATION: &str = "conf";
const SNAPSHOT: &str = "snap.";

#[derive(Clone, Copy, Debug)]
struct Most {
    bytes: usize,
    time: Duration,
}

/// A store that is ready to take the place of another.
#[derive(Debug)]
pub(super) struct Fresh {
    path: PathBuf,
    folder: PathBuf,
}

/// A store that took the place of another, which is kept locked, and whole, until the fresh one is open.
#[derive(Debug)]
pub(super) struct Placed {
    fresh: Fresh,
    _old: File,
}

/// Why a store is not written anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWritten {
    /// There is more than may be written while all calls wait.
    #[error("too much is left in it")]
    TooMuch,
    /// sled keeps some of it in files that it removes later by their path.
    #[error("some of its values are files of their own")]
    Blobs,
    /// Two folders that are to change places have to be two of one kind.
    #[error("its folder is {0}, and can't be exchanged for another")]
    Place(&'static str),
    /// Somebody keeps things in it that would be lost.
    #[error("its folder holds {0}, which is not the store's")]
    Foreign(String),
    /// The rows of the two are not the same.
    #[error("what was written is not what was read")]
    Differs,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] sled::Error),
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Writes all rows of a settled store, of which nothing is written meanwhile, into a folder beside it.
///
/// Blocks: reads and writes all of it, and waits for the disk.
pub(super) fn write(db: &sled::Db, path: &Path) -> Result<Fresh, NotWritten> {
    exchangeable(path)?;
    let folder = folder_of(path);
    remove(&folder)
        .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&folder))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))?;
    let fresh = Fresh { path: path.to_owned(), folder };
    match fresh.fill(db, MOST) {
        Ok(()) => Ok(fresh),
        Err(error) => {
            fresh.give_up();
            Err(error)
        }
    }
}

/// Removes what another process left, or the folder whose place was taken. Only while the store is open: so nobody else is at it.
pub(super) fn clean(path: &Path) {
    let folder = folder_of(path);
    if !folder.exists() {
        return;
    }
    // Where the store is now has to outlive a power cut before what was there goes.
    if let Err(error) = parent_of(path).and_then(|parent| parent.sync_all()).and_then(|()| remove(&folder)) {
        tracing::warn!(folder = %folder.display(), %error, "a folder that is of no use can't be removed");
    }
}

/// Whether the store is a folder that can change places with one beside it and loses nothing by it.
fn exchangeable(path: &Path) -> Result<(), NotWritten> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(NotWritten::Place("a link"));
    }
    let told = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).map_err(io::Error::from)?;
    if found.dev() != parent_of(path)?.metadata()?.dev() || told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(NotWritten::Place("a mount point"));
    }
    match foreign(path)? {
        Some(name) => Err(NotWritten::Foreign(name)),
        None => Ok(()),
    }
}

impl Fresh {
    /// Writes all, and reads it once more from the disk.
    fn fill(&self, db: &sled::Db, most: Most) -> Result<(), NotWritten> {
        let fresh = self.open()?;
        copy(db, &fresh, most)?;
        fresh.flush()?;
        drop(fresh);
        // Of the store that is about to be closed some may be removed later, by their path.
        for store in [&self.path, &self.folder] {
            if has_files(&store.join(BLOBS)) {
                return Err(NotWritten::Blobs);
            }
        }
        // Both read all rows: only now that these are known to be few.
        if self.open()?.checksum()? != db.checksum()? {
            return Err(NotWritten::Differs);
        }
        self.belong_as_the_old()?;
        Ok(sync(&self.folder)?)
    }

    fn open(&self) -> Result<sled::Db, NotWritten> {
        open_db(&self.folder, 0).map_err(|error| match error {
            OpenError::Io { source, .. } | OpenError::NoAccess { source, .. } | OpenError::DiskFull { source, .. } => {
                source.into()
            }
            // Its own text would have the owner look after a store that nothing is wrong with.
            other => io::Error::other(format!("the fresh folder can't be opened ({other:?})")).into(),
        })
    }

    /// Whoever may read the old folder may read this one.
    fn belong_as_the_old(&self) -> io::Result<()> {
        for part in [Path::new(""), Path::new(LOG_FILE)] {
            let (old, new) = (self.path.join(part).metadata()?, self.folder.join(part));
            let made = new.metadata()?;
            if (old.uid(), old.gid()) != (made.uid(), made.gid()) {
                std::os::unix::fs::chown(&new, Some(old.uid()), Some(old.gid()))?;
            }
            fs::set_permissions(&new, old.permissions())?;
        }
        Ok(())
    }

    /// Takes the place of the old store, which is closed.
    pub(super) fn take_place(self) -> io::Result<Placed> {
        match self.change() {
            Ok(old) => Ok(Placed { fresh: self, _old: old }),
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    /// An error: the folders have not changed places.
    fn change(&self) -> io::Result<File> {
        let old = File::open(self.path.join(LOG_FILE))?;
        let began = Instant::now();
        // sled's: the old database is closed when it can be had.
        while let Err(error) = old.try_lock() {
            match error {
                TryLockError::WouldBlock if began.elapsed() < LET_GO => std::thread::sleep(LOCK_RETRY),
                other => return Err(other.into()),
            }
        }
        self.exchange()?;
        Ok(old)
    }

    fn exchange(&self) -> io::Result<()> {
        let parent = parent_of(&self.path)?;
        renameat_with(CWD, &self.folder, CWD, &self.path, RenameFlags::EXCHANGE)?;
        if let Err(error) = parent.sync_all() {
            // A power cut may show the other one, which is as good until something is written.
            tracing::warn!(%error, "the disk may not have the store that was written anew yet");
        }
        Ok(())
    }

    fn give_up(self) {
        clean(&self.path);
    }
}

impl Placed {
    /// Puts the old store in its place again, as the fresh one can't be opened, and removes nothing.
    pub(super) fn give_back(self) -> io::Result<()> {
        self.fresh.exchange()
    }
}

/// Writes the rows of all trees into another database.
fn copy(from: &sled::Db, to: &sled::Db, most: Most) -> Result<(), NotWritten> {
    let (began, mut bytes, mut rows) = (Instant::now(), 0, 0_usize);
    for name in from.tree_names() {
        if name == DEFAULT {
            continue;
        }
        let (source, target) = (from.open_tree(&name)?, to.open_tree(&name)?);
        for row in &source {
            let (key, value) = row?;
            bytes += key.len() + value.len();
            rows += 1;
            if bytes > most.bytes || (rows.is_multiple_of(STEP) && began.elapsed() > most.time) {
                return Err(NotWritten::TooMuch);
            }
            target.insert(key, value)?;
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> PathBuf {
    marker::beside(path, ".rewritten")
}

/// Removes a store; absent is fine, one that holds something else stays.
fn remove(folder: &Path) -> io::Result<()> {
    match foreign(folder) {
        Ok(None) => fs::remove_dir_all(folder),
        Ok(Some(name)) => Err(io::Error::other(format!("it holds {name}, which is not the store's"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The name of something in a store's folder that sled does not keep there.
fn foreign(folder: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if ![LOG_FILE, CONFIGURATION, BLOBS].contains(&&*name) && !name.starts_with(SNAPSHOT) {
            return Ok(Some(name));
        }
    }
    Ok(None)
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::opened::make_db;
    use super::*;

    const ROWS: u32 = 200;

    fn fill(db: &sled::Db) {
        for name in ["a", "b"] {
            let tree = db.open_tree(name).unwrap();
            for row in 0..ROWS {
                tree.insert(row.to_be_bytes(), name.repeat(100).as_bytes()).unwrap();
            }
        }
        let gone = db.open_tree("gone").unwrap();
        for row in 0..ROWS * 50 {
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
        fs::create_dir(home.path().join("store.rewritten")).unwrap();
        fs::write(home.path().join("store.rewritten/db"), "what a killed process left").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(path.join(LOG_FILE), fs::Permissions::from_mode(0o640)).unwrap();
        let (before, trees) = (db.checksum().unwrap(), db.tree_names().len());
        let fresh = write(&db, &path).unwrap();
        drop(db);
        let holds_secret =
            |store: &Path| fs::read(store.join(LOG_FILE)).unwrap().windows(14).any(|bytes| bytes == b"secret secret ");
        assert!(holds_secret(&path), "or the last line proves nothing");
        let placed = fresh.take_place().unwrap();
        assert!(!holds_secret(&path));
        for (part, mode) in [(path.clone(), 0o750), (path.join(LOG_FILE), 0o640)] {
            assert_eq!(part.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", part.display());
        }
        let db = make_db(&path, 0).unwrap();
        assert_eq!((db.checksum().unwrap(), db.tree_names().len()), (before, trees));
        assert_eq!(names(home.path()), ["store", "store.rewritten"]);
        drop(placed);
        clean(&path);
        assert_eq!(names(home.path()), ["store"]);
    }

    #[test]
    fn the_old_store_takes_its_place_again() {
        let (home, path, db) = store();
        let before = db.checksum().unwrap();
        let fresh = write(&db, &path).unwrap();
        drop(db);
        let placed = fresh.take_place().unwrap();
        fs::write(path.join(LOG_FILE), "what can't be opened").unwrap();
        placed.give_back().unwrap();
        assert_eq!(make_db(&path, 0).unwrap().checksum().unwrap(), before);
        clean(&path);
        assert_eq!(names(home.path()), ["store"]);
    }

    #[test]
    fn a_store_of_too_many_rows_stays_as_it_is() {
        let (home, path, db) = store();
        let fresh = Fresh { path: path.clone(), folder: folder_of(&path) };
        let time = Duration::from_hours(1);
        // Two trees, keys of four bytes, values of a hundred.
        let bytes = 2 * usize::try_from(ROWS).unwrap() * 104;
        for most in [Most { bytes: bytes - 1, time }, Most { bytes, time: Duration::ZERO }] {
            let error = fresh.fill(&db, most).unwrap_err();
            assert!(matches!(error, NotWritten::TooMuch), "{most:?}: {error}");
            remove(&fresh.folder).unwrap();
        }
        fresh.fill(&db, Most { bytes, time }).unwrap();
        fresh.give_up();
        assert_eq!(names(home.path()), ["store"]);
    }

    #[test]
    fn a_store_of_values_in_files_of_their_own_stays_as_it_is() {
        let (home, path, db) = store();
        db.open_tree("a").unwrap().insert("large", vec![1; 1 << 20]).unwrap();
        db.flush().unwrap();
        assert!(has_files(&path.join(BLOBS)), "or this proves nothing");
        assert!(matches!(write(&db, &path), Err(NotWritten::Blobs)));
        assert_eq!(names(home.path()), ["store"]);
    }

    #[test]
    fn a_store_that_is_a_link_stays_where_it_is() {
        let (home, path, db) = store();
        drop(db);
        let elsewhere = home.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let db = make_db(&path, 0).unwrap();
        assert!(matches!(write(&db, &path), Err(NotWritten::Place("a link"))));
        assert_eq!(names(home.path()), ["elsewhere", "store"]);
    }

    #[test]
    fn what_is_not_the_stores_is_not_removed() {
        let (home, path, db) = store();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        assert!(matches!(write(&db, &path), Err(NotWritten::Foreign(name)) if name == "notes.txt"));
        fs::remove_file(path.join("notes.txt")).unwrap();
        let copy = home.path().join("store.rewritten");
        fs::create_dir(&copy).unwrap();
        fs::write(copy.join("notes.txt"), "mine").unwrap();
        clean(&path);
        let error = write(&db, &path).unwrap_err().to_string();
        assert!(error.contains("store.rewritten") && error.contains("notes.txt"), "{error}");
        assert_eq!(names(&copy), ["notes.txt"]);
    }

    #[test]
    fn a_store_that_another_has_opened_meanwhile_stays_as_it_is() {
        let (home, path, db) = store();
        let before = db.checksum().unwrap();
        let fresh = write(&db, &path).unwrap();
        assert_eq!(fresh.take_place().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(names(home.path()), ["store"]);
        drop(db);
        assert_eq!(make_db(&path, 0).unwrap().checksum().unwrap(), before);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let (home, path, db) = store();
        // Not a folder's name.
        fs::write(home.path().join("store.rewritten"), "").unwrap();
        let error = write(&db, &path).unwrap_err();
        assert!(error.to_string().contains("store.rewritten"), "{error}");
    }
}
