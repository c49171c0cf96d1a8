//! The original's `SQLite` file, read from a copy.
//!
//! Opening the file itself would write to it: a checkpoint moves the write-ahead log into it, and the log's index is made
//! anew. The copy is of both, for the newest ratchets are in the log only.

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use tempfile::TempDir;

use super::TakeoverError;
use super::convert::{Row, Stored, split};

/// The copies of an earlier run that was killed begin so.
const SCRATCH: &str = ".takeover-";

/// The write-ahead log beside a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// What a database and its log look like from outside; changes with every write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look([Option<(u64, Option<SystemTime>)>; 2]);

impl Look {
    pub(super) fn at(database: &Path) -> io::Result<Self> {
        let look = |path: &Path| match fs::metadata(path) {
            Ok(found) => Ok(Some((found.len(), found.modified().ok()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Self([look(database)?, look(&log_of(database))?]))
    }

    /// The look as text, to be compared after a restart.
    pub(super) fn text(&self) -> String {
        let part = |part: &Option<(u64, Option<SystemTime>)>| {
            let (length, modified) = (*part)?;
            let since = modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())?;
            Some(format!("{length}@{}", since.as_nanos()))
        };
        self.0.iter().map(|file| part(file).unwrap_or_else(|| "none".to_owned())).collect::<Vec<_>>().join(" ")
    }
}

/// A copy of a database, which goes with it.
pub(super) struct Copied {
    _folder: TempDir,
    connection: Connection,
}

/// Copies a database and its log into a private folder below `scratch`, and opens the copy.
pub(super) fn copy(database: &Path, scratch: &Path) -> Result<Copied, TakeoverError> {
    sweep(scratch);
    let copied = |error| TakeoverError::Copy { path: database.to_owned(), source: error };
    let folder = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(scratch).map_err(copied)?;
    let file = folder.path().join("database.db");
    fs::copy(database, &file).map_err(copied)?;
    match fs::copy(log_of(database), log_of(&file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(copied(error)),
        _ => {}
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&file, flags)?;
    Ok(Copied { _folder: folder, connection })
}

/// Removes copies that a killed run left behind: they hold keys.
fn sweep(scratch: &Path) {
    let Ok(entries) = fs::read_dir(scratch) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            let _stays_for_the_next_time = fs::remove_dir_all(entry.path());
        }
    }
}

impl Copied {
    /// The names of all sessions, first stored first.
    pub(super) fn sessions(&self) -> Result<Vec<String>, TakeoverError> {
        let table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'auth_store'";
        if self.connection.query_row(table, [], |_row| Ok(())).optional()?.is_none() {
            return Ok(Vec::new());
        }
        // The key is (id, session_id): without an index of its own each session would cost a walk through all rows.
        // A damaged file may not allow one; then it costs that.
        let _slower = self.connection.execute("CREATE INDEX takeover ON auth_store (session_id)", []);
        let mut names =
            self.connection.prepare("SELECT session_id FROM auth_store GROUP BY session_id ORDER BY MIN(rowid)")?;
        let mut rows = names.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            if let Some(name) = text(row.get_ref(0)?) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Everything of one session; a damaged file gives what comes before the damage.
    pub(super) fn stored(&self, session: String) -> Stored {
        let mut stored = Stored { session, ..Stored::default() };
        if let Err(error) = self.read(&mut stored) {
            stored.damage = Some(format!("the database is damaged: {error}"));
        }
        stored
    }

    fn read(&self, stored: &mut Stored) -> rusqlite::Result<()> {
        let mut query = self.connection.prepare("SELECT id, category, value FROM auth_store WHERE session_id = ?1")?;
        let mut rows = query.query([&stored.session])?;
        while let Some(row) = rows.next()? {
            let (key, category) = (text(row.get_ref(0)?).unwrap_or_default(), text(row.get_ref(1)?));
            let (category, id) = split(&key, category.as_deref());
            let row = Row { category: category.to_owned(), id: id.to_owned(), json: text(row.get_ref(2)?) };
            stored.rows.push(row);
        }
        Ok(())
    }
}

/// Text, also where `SQLite` keeps it as bytes.
fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    }
}
