//! A whole store, taken out and brought back: backup, restore, and the check that reads every row. And a single session
//! that moves to another host (`moving`, `arrival`).
//!
//! `http` streams a backup or an export of the running gateway; `cli` works on a store that nobody uses. Rows are
//! copied as they are; only what a restored session must not use again is left out (`store::backend::restored`).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::archive::{ArchiveError, Head, Kind, Reader, Row, Writer};
use crate::store::backend::restored;
use crate::store::registry::Registry;
use crate::store::{Batch, Kv, KvError, Namespace};

mod arrival;
mod check;
mod moving;

pub use arrival::{Arrived, Import, Wishes};
pub use check::{Finding, Report, check};
pub use moving::{ArriveError, LeaveError, export};

use moving::Traveller;

/// Parts of an archive, of about 64 KiB, that wait for a slow reader.
const PARTS: usize = 4;
/// A reader that takes no part for so long is given up.
const PART_TIMEOUT: Duration = Duration::from_secs(30);
/// A restore writes rows together up to so many, or so many bytes.
const ROWS: usize = 512;
const BYTES: usize = 1 << 20;

/// Why no backup was begun.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// One is under way already.
    #[error("a backup or an export is under way already")]
    Busy,
    /// The session that was to be written is not away, or has been deleted meanwhile.
    #[error("the session is not here any more")]
    Gone,
    /// The store can't be read.
    #[error("the session store is not available")]
    Store(#[from] KvError),
}

/// What comes by the channel: parts of an archive.
pub type Parts = mpsc::Receiver<io::Result<Bytes>>;

/// Makes backups and exports of the store of a running gateway, one at a time; cheap to clone.
#[derive(Clone, Debug)]
pub struct Backup {
    kv: Arc<dyn Kv>,
    tracker: TaskTracker,
    one: Arc<Semaphore>,
}

impl Backup {
    /// Of this store; its task is counted by this tracker.
    pub fn new(kv: Arc<dyn Kv>, tracker: TaskTracker) -> Self {
        Self { kv, tracker, one: Arc::new(Semaphore::new(1)) }
    }

    /// Begins a backup; its parts come by the channel. An error among them, or an end of the channel before the archive's
    /// own, leaves an archive that reads as cut short.
    ///
    /// Each namespace is taken at one moment, and the list of the sessions last: one that is deleted meanwhile is not in
    /// it, and one that is begun meanwhile is listed without credentials.
    ///
    /// # Errors
    /// By [`BackupError`].
    pub async fn begin(&self, passphrase: SecretString) -> Result<Parts, BackupError> {
        let turn = self.turn()?;
        // A store that can't be read is told before the first byte.
        let namespaces = self.kv.namespaces().await?;
        self.kv.get(&Namespace::registry(), b"").await?;
        let (kv, runtime) = (Arc::clone(&self.kv), Handle::current());
        Ok(turn.stream("backup", move |pipe| write(&*kv, namespaces, &runtime, pipe, &passphrase)))
    }

    /// The right to make the next archive, before anything is done for it.
    ///
    /// # Errors
    /// [`BackupError::Busy`].
    pub fn turn(&self) -> Result<Turn, BackupError> {
        let permit = Arc::clone(&self.one).try_acquire_owned().map_err(|_| BackupError::Busy)?;
        Ok(Turn { backup: self.clone(), permit })
    }
}

/// The right to make one archive; dropped, it is another's.
#[derive(Debug)]
pub struct Turn {
    backup: Backup,
    permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Begins the export of the session with this uid, which must be away; all of it is taken at one moment. The parts are
    /// as those of a backup.
    ///
    /// # Errors
    /// [`BackupError::Gone`] and [`BackupError::Store`].
    pub async fn export(self, uid: &str, passphrase: SecretString) -> Result<Parts, BackupError> {
        let kv = Arc::clone(&self.backup.kv);
        let record = Registry::new(Arc::clone(&kv)).record(uid).await?.ok_or(BackupError::Gone)?;
        let traveller = Traveller::of(&*kv, record).await?.ok_or(BackupError::Gone)?;
        Ok(self.stream("export", move |pipe| traveller.write(pipe, &passphrase)))
    }

    fn stream(self, what: &'static str, write: impl FnOnce(Pipe) -> io::Result<()> + Send + 'static) -> Parts {
        let (parts, received) = mpsc::channel(PARTS);
        let Self { backup, permit } = self;
        let runtime = Handle::current();
        backup.tracker.spawn_blocking(move || {
            let _turn = permit;
            if let Err(error) = write(Pipe { parts: parts.clone(), runtime }) {
                tracing::warn!(%error, what, "an archive was not finished");
                // Whoever reads shall not take it for the end; somebody who left needs no telling.
                let _reader_is_gone = parts.try_send(Err(error));
            } else {
                tracing::info!(what, "an archive was made");
            }
        });
        received
    }
}

fn write(
    kv: &dyn Kv,
    mut namespaces: Vec<Namespace>,
    runtime: &Handle,
    pipe: Pipe,
    passphrase: &SecretString,
) -> io::Result<()> {
    let mut writer = Writer::new(io::BufWriter::with_capacity(64 << 10, pipe), passphrase, &Head::new(Kind::Backup))?;
    let registry = Namespace::registry();
    namespaces.retain(|ns| *ns != registry && *ns != Namespace::probe());
    namespaces.sort_unstable();
    namespaces.push(registry);
    for ns in namespaces {
        for (key, value) in runtime.block_on(kv.snapshot(&ns)).map_err(io::Error::other)? {
            writer.row(ns.as_str(), &key, &value)?;
        }
    }
    writer.finish()?.flush()
}

/// Hands parts of an archive over to whoever reads them.
#[derive(Debug)]
struct Pipe {
    parts: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sending = self.parts.send_timeout(Ok(Bytes::copy_from_slice(bytes)), PART_TIMEOUT);
        self.runtime.block_on(sending).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an archive holds, or what was brought back from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Sessions in its list.
    pub sessions: usize,
    /// Rows.
    pub rows: u64,
    /// Rows that were left out: Signal sessions, sender keys, pre-keys and caches.
    pub left_out: u64,
}

/// Why a store was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It holds a single session.
    #[error("the archive holds one exported session and no backup: use import")]
    NotABackup,
    /// The store holds sessions already.
    #[error("the store is not empty: move it away, or use --force to replace all that is in it")]
    NotEmpty,
    /// The device of a session can't be read.
    #[error("the archive's device of the session with the uid {0} can't be read")]
    Device(String),
    /// The store refused.
    #[error("the store can't be used")]
    Store(#[from] KvError),
}

/// Reads an archive to its end and keeps nothing of it.
///
/// # Errors
/// By [`RestoreError`].
pub fn inspect(archive: impl Read, passphrase: &SecretString) -> Result<Contents, RestoreError> {
    let mut reader = Reader::open(archive, passphrase)?;
    if reader.head().kind != Kind::Backup {
        return Err(RestoreError::NotABackup);
    }
    let mut contents = Contents::default();
    while let Some(row) = reader.row()? {
        contents.rows += 1;
        contents.sessions += usize::from(is_record(&row));
        kept(row)?;
    }
    Ok(contents)
}

/// Brings the archive's rows into a store that no gateway uses; `force`: also into one that is not empty, which is emptied
/// first. The archive must have been [inspected](inspect).
///
/// The list of the sessions comes last: what an interrupted restore has left belongs to no session, and the next start of a
/// gateway removes it. Blocks; call it off the runtime's threads.
///
/// # Errors
/// By [`RestoreError`].
pub fn restore(
    kv: &dyn Kv,
    runtime: &Handle,
    archive: impl Read,
    passphrase: &SecretString,
    force: bool,
) -> Result<Contents, RestoreError> {
    let mut reader = Reader::open(archive, passphrase)?;
    let old = runtime.block_on(occupied(kv))?;
    if !old.is_empty() && !force {
        return Err(RestoreError::NotEmpty);
    }
    // The list first: from here on there is no session that could be started with half of its rows.
    for ns in std::iter::once(Namespace::registry()).chain(old) {
        runtime.block_on(kv.drop_namespace(&ns))?;
    }
    let mut contents = Contents::default();
    let registry = Namespace::registry();
    let mut list = Batch::new();
    let mut pending = Pending::default();
    while let Some(row) = reader.row()? {
        contents.rows += 1;
        contents.sessions += usize::from(is_record(&row));
        let Some(row) = kept(row)? else {
            contents.left_out += 1;
            continue;
        };
        if row.namespace == registry.as_str() {
            list = list.put(row.key, row.value);
        } else {
            pending.add(kv, runtime, row)?;
        }
    }
    pending.write(kv, runtime)?;
    runtime.block_on(kv.write(&registry, list))?;
    runtime.block_on(kv.flush())?;
    Ok(contents)
}

/// Rows of one namespace that are written together.
#[derive(Default)]
struct Pending {
    namespace: String,
    batch: Batch,
    bytes: usize,
}

impl Pending {
    fn add(&mut self, kv: &dyn Kv, runtime: &Handle, row: Row) -> Result<(), KvError> {
        if row.namespace != self.namespace || self.batch.ops.len() >= ROWS || self.bytes >= BYTES {
            self.write(kv, runtime)?;
            self.namespace = row.namespace;
        }
        self.bytes += row.key.len() + row.value.len();
        self.batch = std::mem::take(&mut self.batch).put(row.key, row.value);
        Ok(())
    }

    fn write(&mut self, kv: &dyn Kv, runtime: &Handle) -> Result<(), KvError> {
        let batch = std::mem::take(&mut self.batch).buffered();
        self.bytes = 0;
        if batch.ops.is_empty() {
            return Ok(());
        }
        runtime.block_on(kv.write(&Namespace::from_name(&self.namespace), batch))
    }
}

/// The namespaces that hold something.
async fn occupied(kv: &dyn Kv) -> Result<Vec<Namespace>, KvError> {
    let mut occupied = Vec::new();
    for ns in kv.namespaces().await? {
        let first = kv.range(&ns, crate::store::KeyRange::all().limit(1)).await?;
        if ns != Namespace::probe() && !first.is_empty() {
            occupied.push(ns);
        }
    }
    Ok(occupied)
}

fn is_record(row: &Row) -> bool {
    row.namespace == Namespace::registry().as_str() && Registry::is_record(&row.key)
}

/// The row as it may come back; `None`: it may not.
fn kept(row: Row) -> Result<Option<Row>, RestoreError> {
    let Row { namespace, key, value } = row;
    let Some(uid) = namespace.strip_prefix("credentials:") else { return Ok(Some(Row { namespace, key, value })) };
    match restored(&key, value) {
        Ok(None) => Ok(None),
        Ok(Some(value)) => Ok(Some(Row { namespace, key, value })),
        Err(_unreadable) => Err(RestoreError::Device(uid.to_owned())),
    }
}

/// The names of the sessions by their uids, as far as the list can be read.
fn names(rows: &[(Bytes, Bytes)]) -> BTreeMap<String, String> {
    Registry::read(rows).filter_map(Result::ok).map(|record| (record.uid, record.name.as_str().to_owned())).collect()
}
