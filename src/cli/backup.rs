//! `wa-gateway backup FILE` and `wa-gateway restore FILE`, and how an archive comes from a running gateway to its place.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use reqwest::Client;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::NamedTempFile;

use super::passphrase::passphrase;
use super::store::{accept, key, open_to_restore, reachable, runtime};
use crate::backup::{self, Contents};
use crate::config::Config;

/// How long the gateway may take for the first byte, and between two of them.
const PATIENCE: Duration = Duration::from_mins(1);

/// No gateway answers; nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("no gateway answers at {url} (HOST, PORT)")]
pub(super) struct Unreached {
    url: String,
    source: Option<reqwest::Error>,
}

/// Has the running gateway write a backup, reads it through, and puts it where it is to be.
pub(super) fn save(config: &Config, file: &Path) -> anyhow::Result<()> {
    if config.port == 0 {
        bail!("PORT is 0: the port of the running gateway is not known");
    }
    let mut draft = draft(file)?;
    let passphrase = passphrase(config, "backup", true)?;
    runtime()?.block_on(fetch(config, "/backup", &passphrase, &mut draft))?;
    let contents = contents(&mut draft, &passphrase).context("the backup that the gateway sent can't be used")?;
    keep(draft, file, true)?;
    let Contents { sessions, rows, .. } = contents;
    super::say(format_args!("{}: {sessions} sessions, {rows} rows", file.display()));
    Ok(())
}

/// A file beside the one that is wanted: under a name of its own, mode 0600, and gone again if anything fails.
pub(super) fn draft(file: &Path) -> anyhow::Result<NamedTempFile> {
    let folder = folder(file);
    let draft = tempfile::Builder::new().prefix(".wa-gateway-backup-").tempfile_in(folder);
    draft.with_context(|| format!("{} can't be written to", folder.display()))
}

/// Puts a draft where it is to be, for good.
pub(super) fn keep(draft: NamedTempFile, file: &Path, replace: bool) -> anyhow::Result<()> {
    let failed = || format!("{} can't be written", file.display());
    draft.as_file().sync_all().with_context(failed)?;
    let kept = if replace { draft.persist(file) } else { draft.persist_noclobber(file) };
    kept.with_context(failed)?;
    // The name too.
    File::open(folder(file)).and_then(|folder| folder.sync_all()).with_context(failed)
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Has the running gateway make an archive, at this path of its API.
///
/// # Errors
/// [`Unreached`] when there is none that could have done anything.
pub(super) async fn fetch(
    config: &Config,
    path: &str,
    passphrase: &SecretString,
    into: &mut NamedTempFile,
) -> anyhow::Result<()> {
    let url = format!("http://{}{path}", std::net::SocketAddr::from((reachable(config.host), config.port)));
    if config.port == 0 {
        return Err(Unreached { url, source: None }.into());
    }
    // To this machine: past every proxy.
    let client = Client::builder().no_proxy().connect_timeout(PATIENCE).read_timeout(PATIENCE).build()?;
    let body = serde_json::json!({ "passphrase": passphrase.expose_secret() }).to_string();
    let mut request = client.post(&url).header("content-type", "application/json").body(body);
    if let Some(key) = key(config)? {
        request = request.header("key", key.expose_secret());
    }
    let response = match request.send().await {
        Err(source) if source.is_connect() => return Err(Unreached { url, source: Some(source) }.into()),
        sent => sent.with_context(|| format!("the gateway at {url} does not answer"))?,
    };
    let status = response.status();
    if !status.is_success() {
        let text = response.text().await.unwrap_or_default();
        let said = serde_json::from_str::<serde_json::Value>(&text).ok();
        let message = said.as_ref().and_then(|said| said["message"].as_str()).unwrap_or_default();
        bail!("the gateway refused with {status}: {message}");
    }
    let mut parts = response.bytes_stream();
    while let Some(part) = parts.next().await {
        let part = part.context("the gateway broke off: see its log")?;
        into.write_all(&part).with_context(|| format!("{} can't be written", into.path().display()))?;
    }
    into.flush()?;
    Ok(())
}

fn contents(file: &mut NamedTempFile, passphrase: &SecretString) -> anyhow::Result<Contents> {
    file.rewind()?;
    Ok(backup::inspect(file, passphrase)?)
}

/// Brings a backup back.
pub(super) fn restore(config: &Config, file: &Path, force: bool) -> anyhow::Result<()> {
    let passphrase = passphrase(config, "backup", false)?;
    let open_file = || File::open(file).with_context(|| format!("{} can't be read", file.display()));
    let named = || format!("{} can't be restored", file.display());
    // All of it before anything in the store is touched.
    backup::inspect(open_file()?, &passphrase).with_context(named)?;
    let runtime = runtime()?;
    let kv = runtime.block_on(open_to_restore(config, force))?;
    let restored = backup::restore(&*kv, runtime.handle(), open_file()?, &passphrase, force).with_context(named);
    let closed = runtime.block_on(kv.close());
    let Contents { sessions, rows, left_out } = restored?;
    closed.context("the store can't be used")?;
    // Closed for good: it is opened once more.
    drop(kv);
    accept(config)?;
    super::say(format_args!(
        "restored {sessions} sessions, {} rows; {left_out} rows of encryption keys were left out and are made anew at the next start",
        rows - left_out
    ));
    Ok(())
}
