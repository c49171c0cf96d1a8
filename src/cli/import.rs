//! `wa-gateway import PATH|URL [--session NAME] [--dry-run] [--force]`: sessions of another gateway, taken over by hand.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::Url;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::config::Config;
use crate::event::SessionName;
use crate::net::{FetchError, Guarded, Policy};
use crate::store::Kv;
use crate::store::redis::RedisStore;
use crate::store::sled::SledStore;
use crate::takeover::{self, Options, Outcome};

/// Downloads of credentials are stopped above this: 1,000 sessions of the original are some hundred MiB.
const MAX_BYTES: u64 = 4 << 30;
/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_mins(10);

/// What `import` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// A database, a folder, or an http(s) URL of a database.
    pub from: String,
    /// The one session that is wanted, or what a folder's session is to be called.
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
        let report = runtime.block_on(self.import(config))?;
        super::say(&report);
        if report.sessions.is_empty() {
            bail!("{} holds no such session", report.source);
        }
        if report.sessions.iter().all(|session| session.outcome == Outcome::Left) {
            bail!("no session can be used");
        }
        Ok(())
    }

    async fn import(&self, config: &Config) -> anyhow::Result<takeover::Report> {
        let scratch = tempfile::tempdir().context("a temporary folder can't be made (TMPDIR)")?;
        let source = self.source(&scratch).await?;
        let options = Options { force: self.force, dry_run: self.dry_run, session: self.session.clone() };
        let kv = open(config).await?;
        let report = takeover::import(&kv, &source, scratch.path(), &options).await;
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
    let mut into = std::fs::File::create_new(file)?;
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

/// Opens the store for this process alone: refused while a gateway has it.
async fn open(config: &Config) -> anyhow::Result<Arc<dyn Kv>> {
    if let Some(url) = &config.redis_url {
        return Ok(Arc::new(RedisStore::open(url, config.redis_allow_no_aof).await?));
    }
    let opened = SledStore::open(&config.credentials_dir.join("store"));
    Ok(Arc::new(opened.context("the session store can't be opened; is the gateway running? Stop it first")?))
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
