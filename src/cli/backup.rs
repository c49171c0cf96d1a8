//! `wa-gateway backup FILE` and `wa-gateway restore FILE`.

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

/// Has the running gateway write a backup, reads it through, and puts it where it is to be.
pub(super) fn save(config: &Config, file: &Path) -> anyhow::Result<()> {
    if config.port == 0 {
        bail!("PORT is 0: the port of the running gateway is not known");
    }
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // Under a name of its own, mode 0600, and gone again if anything fails.
    let mut draft = tempfile::Builder::new()
        .prefix(".wa-gateway-backup-")
        .tempfile_in(folder)
        .with_context(|| format!("{} can't be written to", folder.display()))?;
    let passphrase = passphrase(config, true)?;
    runtime()?.block_on(download(config, &passphrase, &mut draft))?;
    let contents = contents(&mut draft, &passphrase).context("the backup that the gateway sent can't be used")?;
    draft.as_file().sync_all().with_context(|| format!("{} can't be written", file.display()))?;
    draft.persist(file).with_context(|| format!("{} can't be written", file.display()))?;
    let Contents { sessions, rows, .. } = contents;
    super::say(format_args!("{}: {sessions} sessions, {rows} rows", file.display()));
    Ok(())
}

async fn download(config: &Config, passphrase: &SecretString, into: &mut NamedTempFile) -> anyhow::Result<()> {
    let url = format!("http://{}/backup", std::net::SocketAddr::from((reachable(config.host), config.port)));
    // To this machine: past every proxy.
    let client = Client::builder().no_proxy().connect_timeout(PATIENCE).read_timeout(PATIENCE).build()?;
    let body = serde_json::json!({ "passphrase": passphrase.expose_secret() }).to_string();
    let mut request = client.post(&url).header("content-type", "application/json").body(body);
    if let Some(key) = key(config)? {
        request = request.header("key", key.expose_secret());
    }
    let response = request.send().await.with_context(|| format!("no gateway answers at {url} (HOST, PORT)"))?;
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
    let passphrase = passphrase(config, false)?;
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
