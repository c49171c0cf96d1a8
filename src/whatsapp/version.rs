//! The WhatsApp Web version that all sessions announce: one value for the process, renewed apart from them.
//!
//! A version that WhatsApp no longer takes is answered with failure 405; a start never waits for a renewal.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use whatsapp_rust::http::HttpClient;

/// A version as `(primary, secondary, tertiary)`.
pub type AppVersion = (u32, u32, u32);

/// The newest version known when this was built (whatsapp-rust 0.7.0, `wacore::store::Device::new`).
const COMPILED: AppVersion = (2, 3000, 1_042_742_319);
/// WhatsApp raises the floor every few weeks; a day keeps well ahead.
const RENEW_EVERY: Duration = Duration::from_hours(24);
/// At most one renewal in so long, however many sessions are told that they are outdated.
const RENEW_AT_MOST: Duration = Duration::from_mins(1);
/// A renewal that takes longer is given up.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// The process-wide version.
#[derive(Debug)]
pub(super) struct Version {
    current: Mutex<AppVersion>,
    fixed: bool,
    outdated: Notify,
}

impl Version {
    /// `fixed`: the owner's own choice, never renewed.
    pub(super) fn new(fixed: Option<AppVersion>) -> Self {
        Self { current: Mutex::new(fixed.unwrap_or(COMPILED)), fixed: fixed.is_some(), outdated: Notify::new() }
    }

    pub(super) fn current(&self) -> AppVersion {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that WhatsApp refused the current version.
    pub(super) fn refused(&self) {
        self.outdated.notify_one();
    }

    /// Renews until cancelled: at once, daily, and when refused.
    pub(super) async fn keep_fresh(&self, http: Arc<dyn HttpClient>, token: CancellationToken) {
        if self.fixed {
            return;
        }
        loop {
            let started = Instant::now();
            let fetch = whatsapp_rust::version::fetch_latest_app_version(&http);
            tokio::select! {
                () = token.cancelled() => return,
                result = tokio::time::timeout(FETCH_TIMEOUT, fetch) => match result {
                    Ok(Ok(version)) => self.renew(version),
                    Ok(Err(error)) => tracing::debug!(error = format!("{error:#}"), "the WhatsApp version was not renewed"),
                    Err(_elapsed) => tracing::debug!("the WhatsApp version was not renewed in time"),
                },
            }
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RENEW_EVERY) => {}
                () = async {
                    self.outdated.notified().await;
                    tokio::time::sleep_until(started + RENEW_AT_MOST).await;
                } => {}
            }
        }
    }

    fn renew(&self, version: AppVersion) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != version {
            *current = version;
            tracing::info!("WhatsApp version is now {}.{}.{}", version.0, version.1, version.2);
        }
    }
}
