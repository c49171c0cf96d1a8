//! `wa-gateway check`: reads every row of a stopped gateway's store and changes nothing.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::say;
use super::store::{folder, open_store, runtime};
use crate::backup;
use crate::config::Config;
use crate::store::Kv;
use crate::store::sled::SledStore;

/// Whether all is well; tells what is not.
pub(super) fn check(config: &Config) -> anyhow::Result<bool> {
    let runtime = runtime()?;
    // A folder is opened as a copy, for sled writes into what it opens. Kept until the end.
    let mut copy = None;
    let kv: Arc<dyn Kv> = if config.redis_url.is_some() {
        runtime.block_on(open_store(config))?
    } else {
        let folder = folder(config);
        let copied = copied(&folder)?;
        let kv = Arc::new(SledStore::open_copy(copied.path(), &folder)?);
        copy = Some(copied);
        kv
    };
    let report = runtime.block_on(async {
        let report = backup::check(&*kv).await;
        let closed = kv.close().await;
        report.and_then(|report| closed.map(|()| report))
    });
    drop((kv, copy));
    let report = report.context("the store can't be read")?;
    for finding in &report.findings {
        say(finding);
    }
    let (sessions, rows, found) = (report.sessions, report.rows, report.findings.len());
    say(format_args!("{sessions} sessions, {rows} rows read, {found} findings"));
    Ok(report.findings.is_empty())
}

/// A copy of the store that is removed when it is dropped.
fn copied(folder: &Path) -> anyhow::Result<tempfile::TempDir> {
    let shown = folder.display();
    // A gateway that writes its store anew holds it while it lets go of the log.
    let _lock = SledStore::lock_to_read(folder)?;
    let log =
        File::open(folder.join("db")).with_context(|| format!("there is no store at {shown} (CREDENTIALS_DIR)"))?;
    // The lock that sled takes; held while it is copied.
    match log.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("the store {shown} is in use by another process: stop the gateway first")
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("the store {shown} can't be locked"));
        }
    }
    let copy = tempfile::tempdir().context("a temporary folder for a copy of the store can't be made (TMPDIR)")?;
    copy_all(folder, copy.path()).with_context(|| format!("the store {shown} can't be copied to be read (TMPDIR)"))?;
    Ok(copy)
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
