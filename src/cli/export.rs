//! `wa-gateway export SESSION [FILE]`: a session leaves for another host.

use std::fs::File;
use std::io::Seek as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use secrecy::SecretString;
use tempfile::NamedTempFile;

use super::backup::{Unreached, draft, fetch, keep};
use super::passphrase::passphrase;
use super::store::{open_store, runtime};
use crate::backup::{self, Import};
use crate::config::Config;
use crate::event::SessionName;
use crate::store::registry::Registry;

/// Has the running gateway export the session, or does it in the store of one that is stopped; reads the file through, and
/// puts it where it is to be.
pub(super) fn export(config: &Config, session: &str, file: Option<PathBuf>) -> anyhow::Result<()> {
    let name = SessionName::parse(session)?;
    let file = file.unwrap_or_else(|| PathBuf::from(format!("{}.session", plain(session))));
    // Of another session it may be the only copy.
    if file.exists() {
        bail!("{} exists: name another FILE, or move it away", file.display());
    }
    let mut draft = draft(&file)?;
    let passphrase = passphrase(config, "export", true)?;
    let runtime = runtime()?;
    let reached = runtime.block_on(ask(config, &name, &passphrase, &mut draft));
    match reached {
        Ok(()) => {}
        Err(error) if error.is::<Unreached>() => {
            runtime
                .block_on(write(config, &name, &passphrase, draft.as_file()))
                .with_context(|| format!("session {name} can't be exported ({error}, so its store was opened)"))?;
        }
        Err(error) => return Err(again(error, &name)),
    }
    draft.rewind()?;
    Import::read(&mut draft, &passphrase)
        .map_err(|error| again(anyhow::Error::new(error).context("the export that was made can't be used"), &name))?;
    keep(draft, &file, false).map_err(|error| again(error, &name))?;
    super::say(format_args!(
        "{}: session {name}. It is stopped here for good: take the file to the other host, and there `wa-gateway import`. When the session is connected there, delete it here; nothing is unlinked by that",
        file.display()
    ));
    Ok(())
}

/// What went wrong when the session may be marked already.
fn again(error: anyhow::Error, name: &SessionName) -> anyhow::Error {
    error.context(format!("session {name} was not exported; if it is listed as moved now, export it again"))
}

async fn ask(
    config: &Config,
    name: &SessionName,
    passphrase: &SecretString,
    into: &mut NamedTempFile,
) -> anyhow::Result<()> {
    let path = format!("/session/{}/export", encoded(name.as_str()));
    fetch(config, &path, passphrase, into).await
}

async fn write(config: &Config, name: &SessionName, passphrase: &SecretString, into: &File) -> anyhow::Result<()> {
    let kv = open_store(config).await?;
    let registry = Registry::new(std::sync::Arc::clone(&kv));
    let written = backup::export(&*kv, &registry, name, into, passphrase).await;
    let closed = kv.close().await;
    written?;
    closed.context("the store can't be used")
}

/// A file's name for a session of any name.
fn plain(session: &str) -> String {
    let kept = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = session.chars().map(kept).take(100).collect();
    Path::new(&name).file_name().map_or_else(|| "session".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Percent-encoded as one segment of a path.
fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_and_paths_hold_no_separators() {
        for (session, file, path) in [
            ("shop", "shop", "shop"),
            ("a/../b c", "a_.._b_c", "a%2F%2E%2E%2Fb%20c"),
            ("..", "session", "%2E%2E"),
            ("caf\u{e9}", "caf\u{e9}", "caf%C3%A9"),
        ] {
            assert_eq!((plain(session).as_str(), encoded(session).as_str()), (file, path));
        }
    }
}
