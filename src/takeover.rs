//! Moving in: sessions that another gateway has linked become sessions of this one, without a new scan.
//!
//! Called by `gateway` at start, for the original's database in the credentials folder, and by `cli` for anything else.
//! What it finds is only read, from a copy; what it takes is marked, so that it is taken once: credentials that came back a
//! second time would rewind ratchets that have moved on since.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt as _, stream};
use uuid::Uuid;

mod convert;
mod creds;
mod database;
mod folder;
mod json;
mod report;
mod running;
mod signal;

pub use report::{Left, Outcome, Report, SessionReport};

use crate::event::SessionName;
use crate::store::registry::{Adoption, Registry};
use crate::store::{Kv, KvError, Namespace};
use convert::{Converted, Stored, convert};
use database::Look;

/// The original's file in the credentials folder.
pub const DATABASE: &str = "database.db";
/// What a start writes into the credentials folder after it has taken sessions over.
pub const REPORT: &str = "takeover-report.json";

/// A gateway at work writes at least that often: its connections are kept alive, and what they bring moves ratchets.
const QUIET: Duration = Duration::from_secs(3);
/// Sessions that are read and wait to be converted.
const AHEAD: usize = 4;

/// Why nothing was taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Another process has the database open.
    #[error(
        "{} is in use: the Node.js gateway still runs on this folder. Stop it, then start this one again. (TAKEOVER_FORCE=true takes its sessions all the same; then both use the same encryption keys, and contacts can't read some messages.)",
        .0.display()
    )]
    InUse(PathBuf),
    /// The database or its log changed while it was watched.
    #[error(
        "{} is being written to: the Node.js gateway still runs on this folder. Stop it, then start this one again. (TAKEOVER_FORCE=true takes its sessions all the same; then both use the same encryption keys, and contacts can't read some messages.)",
        .0.display()
    )]
    Changing(PathBuf),
    /// It could not be copied.
    #[error("{} can't be read", path.display())]
    Copy {
        /// What was to be copied.
        path: PathBuf,
        /// Why it could not.
        source: io::Error,
    },
    /// It is no database, or one that is damaged at its root.
    #[error("the database can't be read")]
    Database(#[from] rusqlite::Error),
    /// There is nothing of the kind.
    #[error("{} is neither a database.db nor a folder with one or with a creds.json", .0.display())]
    Unknown(PathBuf),
    /// Our own store refused.
    #[error("the session store is not available")]
    Store(#[from] KvError),
    /// The reading ended by a fault of its own.
    #[error("reading the credentials ended early")]
    Reader(#[from] tokio::task::JoinError),
}

/// How a takeover behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Take sessions over even when the other gateway seems to run.
    pub force: bool,
    /// Only report.
    pub dry_run: bool,
    /// Of a database: the one session that is taken. Of a folder: what the session is to be called.
    pub session: Option<SessionName>,
}

/// Takes the sessions of the original's database in this folder over, as far as this gateway does not have them.
///
/// `None`: there is no such file, or nothing has changed since all of it was looked at. Waits three seconds when there is
/// something to take, to see whether the file is at rest.
///
/// # Errors
/// When the original still runs, or the store refuses; sessions that were entered by then stay.
pub async fn at_start(kv: &Arc<dyn Kv>, folder: &Path, force: bool) -> Result<Option<Report>, TakeoverError> {
    let database = folder.join(DATABASE);
    if !database.is_file() {
        return Ok(None);
    }
    let failed = |source| TakeoverError::Copy { path: database.clone(), source };
    if !force && running::is_locked(&database).map_err(failed)? {
        return Err(TakeoverError::InUse(database));
    }
    let registry = Registry::new(Arc::clone(kv));
    let look = Look::at(&database).map_err(failed)?.text();
    if registry.looked_at(DATABASE).await?.is_some_and(|before| before == look) {
        return Ok(None);
    }
    let options = Options { force, ..Options::default() };
    let report = match import(kv, &database, folder, &options).await {
        Ok(report) => report,
        // A file that is none, or that is out of reach, shall not keep the sessions of this gateway from starting. It is
        // looked at again at the next start.
        Err(error @ (TakeoverError::Database(_) | TakeoverError::Copy { .. })) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(source, "no session is taken over: {error}");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    registry.set_looked_at(DATABASE, Bytes::from(look)).await?;
    tracing::info!("{report}");
    if let Err(error) = write_report(folder, &report) {
        tracing::warn!(%error, "{REPORT} can't be written");
    }
    Ok(Some(report))
}

fn write_report(folder: &Path, report: &Report) -> io::Result<()> {
    std::fs::write(folder.join(REPORT), serde_json::to_vec_pretty(report)?)
}

/// Takes sessions over from a database of the original, from a folder with one, or from a Baileys folder. Copies are made
/// below `scratch`.
///
/// # Errors
/// By [`TakeoverError`]; sessions that were entered by then stay.
pub async fn import(kv: &Arc<dyn Kv>, path: &Path, scratch: &Path, options: &Options) -> Result<Report, TakeoverError> {
    let begun = Instant::now();
    let place = Place::find(path)?;
    let before = place.look()?;
    let registry = Registry::new(Arc::clone(kv));
    let known = Known {
        names: registry.names().await?.into_iter().collect(),
        identities: registry.adopted().await?.into_iter().map(|(identity, _)| identity).collect(),
    };
    if !options.force && place.is_locked()? {
        return Err(TakeoverError::InUse(place.path));
    }
    let (found, stored) = tokio::sync::mpsc::channel(AHEAD);
    let (reading, scratch, wanted) = (place.clone(), scratch.to_owned(), options.session.clone());
    let reader = tokio::task::spawn_blocking(move || {
        reading.read(&scratch, wanted.as_ref(), |stored| found.blocking_send(stored).is_ok())
    });
    // Every key is checked, which takes more than reading does: so on every core, and in order all the same.
    let known = Arc::new(known);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let stored = stream::unfold(stored, |mut stored| async move { stored.recv().await.map(|next| (next, stored)) });
    let judged = stored.map(|stored| {
        let known = Arc::clone(&known);
        tokio::task::spawn_blocking(move || known.judge(&stored))
    });
    let mut sessions = std::pin::pin!(judged.buffered(cores));
    // Nothing is entered before it is sure that the other gateway is still: the credentials wait without a record, and a
    // start that ends here leaves them to be swept.
    let mut waiting = Vec::new();
    let mut reports = Vec::new();
    while let Some(judged) = sessions.next().await {
        match judged? {
            Judged::Report(report) => reports.push(Ok(report)),
            Judged::Usable(name, converted) => {
                let Converted { credentials, details, platform, identity, tally } = *converted;
                let uid = Uuid::new_v4().to_string();
                if !options.dry_run {
                    credentials.write(&**kv, &Namespace::credentials(&uid)).await?;
                }
                let note = Bytes::from(Utc::now().to_rfc3339());
                reports.push(Err(waiting.len()));
                waiting.push((Adoption { uid, name, details, platform, identity, note }, tally));
            }
        }
    }
    reader.await??;
    if !options.force && !waiting.is_empty() {
        tokio::time::sleep(QUIET.saturating_sub(begun.elapsed())).await;
        if place.look()? != before || place.is_locked()? {
            return Err(TakeoverError::Changing(place.path));
        }
    }
    let mut entered = Vec::with_capacity(waiting.len());
    for (adoption, tally) in waiting {
        let name = adoption.name.as_str();
        // Refused: two of the source had the same credentials.
        let outcome =
            if options.dry_run || registry.adopt(&adoption).await? { Outcome::Taken } else { Outcome::TakenBefore };
        entered.push(Some(tally.report(name, outcome)));
    }
    // Before anybody can use them, and once for all: a thousand sessions would otherwise wait for the disk twice each.
    kv.flush().await?;
    let sessions = reports.into_iter().filter_map(|report| report.map_or_else(|place| entered[place].take(), Some));
    Ok(Report {
        source: place.path.display().to_string(),
        at: Utc::now(),
        milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        dry_run: options.dry_run,
        sessions: sessions.collect(),
    })
}

/// What this gateway has already.
struct Known {
    names: HashSet<String>,
    identities: HashSet<String>,
}

/// What is to become of a session of the source.
enum Judged {
    Report(SessionReport),
    Usable(SessionName, Box<Converted>),
}

impl Known {
    fn judge(&self, stored: &Stored) -> Judged {
        let session = stored.session.as_str();
        let refuse = |outcome, why| Judged::Report(SessionReport::not_taken(session, outcome, why));
        if self.names.contains(session) {
            return refuse(Outcome::Held, None);
        }
        let name = match SessionName::parse(session) {
            Ok(name) => name,
            Err(error) => return refuse(Outcome::Left, Some(format!("its name can't be used here: {error}"))),
        };
        match convert(stored, Utc::now().timestamp()) {
            Ok(converted) if self.identities.contains(&converted.identity) => refuse(Outcome::TakenBefore, None),
            Ok(converted) => Judged::Usable(name, Box::new(converted)),
            Err(why) => refuse(Outcome::Left, Some(why)),
        }
    }
}

/// Where credentials are.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Database,
    Folder,
}

impl Place {
    fn find(path: &Path) -> Result<Self, TakeoverError> {
        let (path, kind) = if path.is_file() {
            (path.to_owned(), Kind::Database)
        } else if path.join(DATABASE).is_file() {
            (path.join(DATABASE), Kind::Database)
        } else if path.join(folder::CREDS).is_file() {
            (path.to_owned(), Kind::Folder)
        } else {
            return Err(TakeoverError::Unknown(path.to_owned()));
        };
        Ok(Self { path, kind })
    }

    fn failed(&self, source: io::Error) -> TakeoverError {
        TakeoverError::Copy { path: self.path.clone(), source }
    }

    /// How the place looks from outside; a folder changes with its newest file.
    fn look(&self) -> Result<Look, TakeoverError> {
        match self.kind {
            Kind::Database => Look::at(&self.path),
            Kind::Folder => Look::at(&self.path.join(folder::CREDS)),
        }
        .map_err(|error| self.failed(error))
    }

    fn is_locked(&self) -> Result<bool, TakeoverError> {
        match self.kind {
            Kind::Database => running::is_locked(&self.path).map_err(|error| self.failed(error)),
            Kind::Folder => Ok(false),
        }
    }

    /// Hands over session by session until there are no more, or until `take` wants none.
    fn read(
        &self,
        scratch: &Path,
        wanted: Option<&SessionName>,
        mut take: impl FnMut(Stored) -> bool,
    ) -> Result<(), TakeoverError> {
        match self.kind {
            Kind::Folder => {
                let own = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
                let name = wanted.map_or_else(|| own.unwrap_or_default(), ToString::to_string);
                take(folder::stored(&self.path, name)?);
            }
            Kind::Database => {
                let copied = database::copy(&self.path, scratch)?;
                for session in copied.sessions()? {
                    if wanted.is_none_or(|wanted| wanted.as_str() == session) && !take(copied.stored(session)) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}
