//! `wa-gateway import PATH|URL [--session NAME] [--dry-run] [--force]`: sessions of another gateway, taken over by hand, or
//! one that a gateway of this kind has exported.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::Url;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::passphrase::passphrase;
use super::store::open_store;
use crate::archive::is_sealed;
use crate::backup::{self, Arrived, Wishes};
use crate::config::Config;
use crate::event::SessionName;
use crate::net::{FetchError, Guarded, Policy};
use crate::store::Kv;
use crate::takeover::{self, Options, Outcome};

/// Downloads of credentials are stopped above this: 1,000 sessions of the original are some hundred MiB.
const MAX_BYTES: u64 = 4 << 30;
/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_mins(10);

/// What `import` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// A database, a folder, an export, or an http(s) URL of a database or an export.
    pub from: String,
    /// The one session that is wanted, or what that of a folder or an export is to be called.
    pub session: Option<SessionName>,
    /// Only tell.
    pub dry_run: bool,
    /// Also while the other gateway seems to run.
    pub force: bool,
}

impl Import {
    /// Of the arguments behind `import`.
    ///
    /// # Errors
    /// Says what can't be understood.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let (mut from, mut session, mut dry_run, mut force) = (None, None, false, false);
        let mut arguments = arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            match argument {
                "--dry-run" => dry_run = true,
                "--force" => force = true,
                "--session" => {
                    let name = arguments.next().ok_or("--session needs a NAME")?;
                    session = Some(SessionName::parse(name).map_err(|error| error.to_string())?);
                }
                _ if argument.starts_with("--") || from.is_some() => {
                    return Err(format!("import does not know the argument {argument:?}"));
                }
                _ => from = Some(argument.to_owned()),
            }
        }
        Ok(Self { from: from.ok_or("import needs a PATH or a URL")?, session, dry_run, force })
    }

    pub(super) fn run(&self, config: &Config) -> anyhow::Result<()> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads can be made")?;
        let scratch = tempfile::tempdir().context("a temporary folder can't be made (TMPDIR)")?;
        let source = runtime.block_on(self.source(&scratch))?;
        if let Some(export) = exported(&source) {
            return self.take_in(config, &runtime, export).with_context(|| format!("{} can't be imported", self.from));
        }
        let report = runtime.block_on(self.import(config, &source, scratch.path()))?;
        super::say(&report);
        if report.sessions.is_empty() {
            bail!("{} holds no such session", report.source);
        }
        if report.sessions.iter().all(|session| session.outcome == Outcome::Left) {
            bail!("no session can be used");
        }
        Ok(())
    }

    /// Takes a session in that a gateway of this kind has exported.
    fn take_in(&self, config: &Config, runtime: &Runtime, export: File) -> anyhow::Result<()> {
        if self.force {
            bail!("--force is for a gateway that still runs; an exported session runs nowhere");
        }
        let import = backup::Import::read(export, &passphrase(config, "export", false)?)?;
        let wishes = Wishes { name: self.session.clone(), dry_run: self.dry_run };
        let Arrived { name, rows, is_back } = runtime.block_on(async {
            let kv = open(config).await?;
            let arrived = import.enter(&kv, wishes).await;
            let closed = kv.close().await;
            let arrived = arrived?;
            closed.context("the store can't be used")?;
            anyhow::Ok(arrived)
        })?;
        let (verb, back) = (if self.dry_run { "would be" } else { "is" }, if is_back { "back " } else { "" });
        super::say(format_args!("session {name} {verb} {back}here, {rows} rows; it connects when the gateway starts"));
        Ok(())
    }

    async fn import(&self, config: &Config, source: &Path, scratch: &Path) -> anyhow::Result<takeover::Report> {
        let options = Options { force: self.force, dry_run: self.dry_run, session: self.session.clone() };
        let kv = open(config).await?;
        let report = takeover::import(&kv, source, scratch, &options).await;
        let closed = kv.close().await;
        let mut report = report.with_context(|| format!("{} can't be imported", self.from))?;
        closed.context("the store can't be used")?;
        report.source.clone_from(&self.from);
        Ok(report)
    }

    /// The path itself, or what is at the URL.
    async fn source(&self, scratch: &TempDir) -> anyhow::Result<PathBuf> {
        let Some((scheme, _)) = self.from.split_once("://") else { return Ok(PathBuf::from(&self.from)) };
        match scheme {
            "http" | "https" => {}
            "redis" | "rediss" => bail!(
                "sessions can't be imported from a Redis: how the Node.js gateway lays them out there is not published. Start that gateway once without REDIS_URL, link the sessions, and import its database.db"
            ),
            _ => bail!("{scheme}:// is not understood: give a path, or an http or https URL"),
        }
        let url: Url = self.from.parse().context("this is no URL")?;
        let client = Guarded::new(Policy { private: true }).context("the client can't be made")?;
        let file = scratch.path().join(takeover::DATABASE);
        download(&client, &url, &file).await.with_context(|| format!("{} can't be fetched", self.from))?;
        if exported(&file).is_some() {
            return Ok(file);
        }
        // The newest rows are in the log beside the file, if the other gateway did not end in order.
        let mut log = url.clone();
        log.set_path(&format!("{}-wal", url.path()));
        match download(&client, &log, &scratch.path().join(format!("{}-wal", takeover::DATABASE))).await {
            Ok(()) => {}
            Err(error) if matches!(error.downcast_ref(), Some(FetchError::Status(404 | 410))) => {}
            Err(error) => return Err(error.context(format!("{log} can't be fetched"))),
        }
        Ok(file)
    }
}

async fn download(client: &Guarded, url: &Url, file: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + DOWNLOAD;
    let mut response = client.get(url, deadline).await?;
    let mut into = File::create_new(file)?;
    let mut bytes = 0;
    while let Some(part) = tokio::time::timeout_at(deadline, response.chunk()).await.context("no answer in time")?? {
        bytes += part.len() as u64;
        if bytes > MAX_BYTES {
            bail!("it is larger than {MAX_BYTES} bytes");
        }
        into.write_all(&part)?;
    }
    Ok(())
}

/// The file, if it is one that an export writes.
fn exported(path: &Path) -> Option<File> {
    let mut file = File::open(path).ok().filter(|_file| path.is_file())?;
    let mut begins = Vec::new();
    (&file).take(64).read_to_end(&mut begins).ok()?;
    file.rewind().ok()?;
    is_sealed(&begins).then_some(file)
}

/// Opens the store for this process alone.
async fn open(config: &Config) -> anyhow::Result<Arc<dyn Kv>> {
    open_store(config).await.context("the session store can't be opened; is the gateway running? Stop it first")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Import, String> {
        Import::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        let plain = Import { from: "a/b".into(), session: None, dry_run: false, force: false };
        assert_eq!(parse("a/b"), Ok(plain.clone()));
        let named = Import { session: Some(SessionName::parse("shop").unwrap()), dry_run: true, ..plain.clone() };
        assert_eq!(parse("--session shop a/b --dry-run"), Ok(named));
        assert_eq!(parse("a/b --force"), Ok(Import { force: true, ..plain }));
        for (line, says) in [
            ("", "needs a PATH"),
            ("a --session", "needs a NAME"),
            ("a --session start", "must not be one of"),
            ("a b", "\"b\""),
            ("a --fast", "\"--fast\""),
        ] {
            let told = parse(line).unwrap_err();
            assert!(told.contains(says), "{line}: {told}");
        }
    }
}
