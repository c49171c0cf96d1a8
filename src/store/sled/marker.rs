//! A small file beside the store's folder that says which store was there and how far it had come.
//!
//! sled takes an emptied folder for a new one, and a log that lost its end for a shorter one: both would go on with no
//! sessions, or with old keys, as if nothing were wrong. The file outlives the folder and the store knows the same two
//! things, so that the next opening sees the difference. It is renewed at every opening and closing, and once a minute
//! while something is written. A number that the file does not know yet is fine; one that the store does not know is not.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::OpenError;

/// What the file and the store both say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Which store it is: random, made with it.
    pub(super) store: String,
    /// How often it was marked; only grows.
    pub(super) state: u64,
}

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// For whoever looks into the file.
    #[serde(default)]
    about: String,
    #[serde(flatten)]
    pub(super) mark: Mark,
    /// How many namespaces the store had: a hint, by which it is opened.
    #[serde(default)]
    pub(super) namespaces: usize,
}

const ABOUT: &str = "wa-gateway keeps this beside its store to notice when the store is lost or older than it was";

/// Where the marker of the store in this folder is.
pub(super) fn file_of(store: &Path) -> PathBuf {
    beside(store, ".id")
}

/// What stands beside a file or folder under its name with an ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// The folder that a name stands in, to be synced: so the disk has what it says of the names in it.
pub(super) fn parent_of(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))
}

/// What the marker says; `None`: there is none, or one that can't be read, which proves nothing.
pub(super) fn read(store: &Path) -> Option<Told> {
    let file = file_of(store);
    match fs::read(&file) {
        Ok(text) => {
            let read = serde_json::from_slice::<Told>(&text);
            if read.is_err() {
                tracing::warn!(file = %file.display(), "the store's marker can't be read and is written anew");
            }
            read.ok()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the store's marker can't be read");
            None
        }
    }
}

/// Removes the marker; absent is fine.
pub(super) fn remove(store: &Path) -> io::Result<()> {
    match fs::remove_file(file_of(store)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes the marker, whole or not at all. A failure costs only the warning that it would give one day.
pub(super) fn write(store: &Path, mark: &Mark, namespaces: usize) {
    let file = file_of(store);
    if let Err(error) = try_write(&file, &Told { about: ABOUT.to_owned(), mark: mark.clone(), namespaces }) {
        tracing::warn!(file = %file.display(), %error, "the store's marker can't be written");
    }
}

fn try_write(file: &Path, told: &Told) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(told)?;
    let draft = beside(file, ".new");
    let mut open = fs::OpenOptions::new();
    let mut new = open.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    new.write_all(&text)?;
    new.sync_all()?;
    fs::rename(&draft, file)?;
    parent_of(file)?.sync_all()
}

/// Whether the store that was found is the one that was there; `found`: `None`, a store that was made just now.
pub(super) fn compare(store: &Path, told: Option<&Told>, found: Option<&Mark>) -> Result<(), OpenError> {
    let (path, marker) = (store.to_owned(), file_of(store));
    match (told.map(|told| &told.mark), found) {
        (Some(_), None) => Err(OpenError::Gone { path, marker }),
        (Some(told), Some(found)) if told.store != found.store => Err(OpenError::Exchanged { path, marker }),
        (Some(told), Some(found)) if told.state > found.state => Err(OpenError::Older { path, marker }),
        _ => Ok(()),
    }
}
