//! How subcommands get at the store and at the running gateway.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::{Config, KeySetting, keyfile};
use crate::store::Kv;
use crate::store::redis::RedisStore;
use crate::store::sled::{OpenError, SledStore, SyncMode};

/// Where a gateway that listens on this address is reached from this machine.
pub(super) fn reachable(host: IpAddr) -> IpAddr {
    if host.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { host }
}

/// The folder of the store, where it is no Redis.
pub(super) fn folder(config: &Config) -> PathBuf {
    config.credentials_dir.join("store")
}

/// Opens the store for this process alone: refused while another has it.
///
/// # Errors
/// The store's own error names the place and the remedy.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Kv>> {
    Ok(match &config.redis_url {
        Some(url) => {
            let root = config.redis_tls_root.as_ref().map(std::fs::read).transpose();
            let root = root.context("REDIS_TLS_ROOT can't be read")?;
            Arc::new(RedisStore::open_trusting(url, config.redis_allow_no_aof, root).await?)
        }
        None => Arc::new(SledStore::open_with(&folder(config), SyncMode::from_setting(config.store_sync))?),
    })
}

/// Opens a store that is to be replaced: also one that is not what it was, and with `force` in the place of one that can't be
/// read, which is moved away.
pub(super) async fn open_to_restore(config: &Config, force: bool) -> anyhow::Result<Arc<dyn Kv>> {
    if config.redis_url.is_some() {
        return open_store(config).await;
    }
    let folder = folder(config);
    match SledStore::open_unmarked(&folder) {
        Err(OpenError::Corrupt { .. }) if force => {
            let name = format!("store.damaged-{}", chrono::Utc::now().format("%Y%m%dT%H%M%SZ"));
            let aside = folder.with_file_name(name);
            let moved = std::fs::rename(&folder, &aside);
            moved.with_context(|| format!("the damaged store {} can't be moved away", folder.display()))?;
            super::tell(format_args!("the damaged store was moved to {}", aside.display()));
            Ok(Arc::new(SledStore::open_unmarked(&folder)?))
        }
        opened => Ok(Arc::new(opened?)),
    }
}

/// After a restore: what is in the store now is what is expected there.
pub(super) fn accept(config: &Config) -> anyhow::Result<()> {
    if config.redis_url.is_none() {
        SledStore::accept(&folder(config))?;
    }
    Ok(())
}

/// The key that the running gateway takes; `None`: it takes everybody.
pub(super) fn key(config: &Config) -> anyhow::Result<Option<SecretString>> {
    match &config.key {
        KeySetting::Given(key) => Ok(Some(key.clone())),
        KeySetting::Open => Ok(None),
        KeySetting::Generated => {
            let file = config.credentials_dir.join(keyfile::KEY_FILE);
            let text = std::fs::read_to_string(&file);
            let key = text.with_context(|| format!("KEY is not set, and {} can't be read", file.display()))?;
            Ok(Some(SecretString::from(key.trim().to_owned())).filter(|key| !key.expose_secret().is_empty()))
        }
    }
}

/// A runtime for one subcommand.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no threads can be made")
}
