//! The composition: opens the store, starts the sink, brings sessions back, serves, and ends all of it in order.
//!
//! Owns both tokens and the tracker that counts every task.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::FusedFuture as _;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backup::Backup;
use crate::cli;
use crate::config::{Config, Delivery, KeySetting, WebhookEvents, keyfile};
use crate::event::SessionName;
use crate::health::Health;
use crate::http::{self, AppState, Auth, Dashboard, Limits, Media, Uploads};
use crate::keys::{self, Keys};
use crate::ledger;
use crate::media::{self, Fetcher, Folder};
use crate::metrics::Metrics;
use crate::net;
use crate::outbox::{self, Kinds, NewEvent, Notice};
use crate::session::{self, SessionManager};
use crate::store::Kv;
use crate::store::measured::Measured;
use crate::store::registry::Registry;
#[cfg(feature = "takeover")]
use crate::takeover;
use crate::webhook::{self, RetryPolicy, Webhook};
use crate::whatsapp::{self, WhatsApp};

/// Sessions and farewells that wait to be taken by the sink; each is taken at once.
const NOTICES: usize = 256;
/// How often a delivered farewell is removed again that the store did not let go of.
const FORGET_AGAIN: Duration = Duration::from_secs(2);
/// How long a stop lets requests in flight go on before the sessions end: the longest typing phase (5 s) and the send after
/// it. Well within the grace, for sessions take up to 10 s to close.
const DRAIN: Duration = Duration::from_secs(8);
/// How long the store may take to flush after that; docker compose waits for 30 s in all.
const STORE_GRACE: Duration = Duration::from_secs(8);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    addr: SocketAddr,
    failed: CancellationToken,
    hard: CancellationToken,
    soft: CancellationToken,
    ending: CancellationToken,
    sink: CancellationToken,
    tracker: TaskTracker,
    requests: TaskTracker,
    sink_tracker: TaskTracker,
    kv: Arc<dyn Kv>,
}

impl Gateway {
    /// Opens everything and serves; returns once the port is bound and all stored sessions are listed.
    ///
    /// # Errors
    /// When the store can't be opened, the port can't be bound, or a setting can't be used.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let kv = cli::open_store(&config).await?;
        let bound = Self::bind_on(config, Arc::clone(&kv)).await;
        if bound.is_err() {
            // Nothing was done that could be lost: it only lets the next start have the store at once.
            drop(kv.close().await);
        }
        bound
    }

    /// The same over a store that is open already.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_on(config: Config, kv: Arc<dyn Kv>) -> anyhow::Result<Self> {
        if whatsapp::agree_by_assembly() {
            tracing::debug!("keys are agreed by assembly");
        }
        let (tracker, requests, sink_tracker) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        let hard = CancellationToken::new();
        let soft = hard.child_token();
        let ending = hard.child_token();
        let sink = hard.child_token();
        let listener = listen(config.host, config.port)
            .await
            .with_context(|| format!("can't listen on port {} (PORT, HOST)", config.port))?;
        let addr = listener.local_addr()?;

        take_over(&config, &kv).await?;
        let metrics = Metrics::default();
        let kv: Arc<dyn Kv> = Arc::new(Measured::new(kv, metrics.clone()));
        let registry = Registry::new(Arc::clone(&kv));
        let webhook_key = match &config.key {
            KeySetting::Given(key) => Some(key.clone()),
            KeySetting::Generated | KeySetting::Open => None,
        };
        let receiver = webhook::Receiver {
            base_url: config.webhook_base_url.clone(),
            key: webhook_key,
            secret: config.webhook_secret.clone(),
            private_urls: config.delivery.url_private,
        };
        let webhook = Webhook::start(receiver, retry_policy(&config.delivery), sink_tracker.clone(), sink.clone())?;
        let (notices, to_post) = mpsc::channel(NOTICES);
        let forgetting = (registry.clone(), sink.clone());
        // A server or a sink that ends by itself, a panic included, ends the process instead of leaving it half dead.
        let failed = CancellationToken::new();
        webhook.serve(to_post, move |key| forget_farewell(forgetting.clone(), key), &failed);
        repeat_farewells(&registry, &notices).await?;
        let outboxes = Arc::new(outboxes(&config));

        let whatsapp = WhatsApp::new(whatsapp_settings(&config)?)?;
        whatsapp.keep_version_fresh(&tracker, soft.clone());
        let fetcher = fetcher(&config).await?;
        let uploads = Uploads::new(config.media_max_bytes, fetcher.folder());
        let sessions = SessionManager::new(
            session::Settings {
                check_numbers: config.check_numbers,
                start_timeout: config.start_timeout,
                send_timeout: config.send_timeout,
                qr_idle: config.qr_idle,
                sent: ledger::Limits {
                    messages: config.sent_max_count,
                    age: config.sent_max_age,
                    keys: config.idempotency_max_count,
                },
                media_owners: config.media_require_key,
                restore_concurrency: config.restore_concurrency,
                watchdog: config.watchdog,
            },
            Arc::clone(&kv),
            whatsapp,
            fetcher,
            (notices, outboxes),
            metrics.clone(),
            session::Tasks {
                tracker: tracker.clone(),
                requests: requests.clone(),
                stopping: soft.clone(),
                token: ending.clone(),
            },
        );
        let restoring = sessions.restore().await.with_context(|| unreadable(&config))?;
        let auth = auth(&config, Arc::clone(&kv), &tracker, soft.clone()).await?;
        let webhook_urls = net::Policy { private: config.delivery.url_private };
        let router = http::router(AppState {
            health: Health::new(Arc::clone(&kv), sessions.clone(), metrics, soft.clone()),
            backup: Backup::new(Arc::clone(&kv), tracker.clone()),
            metrics_public: config.metrics_public,
            sessions: sessions.into(),
            auth,
            uploads,
            webhook_urls: http::UrlRule::new(move |url| webhook_urls.allows_host(url)),
            dashboard: Dashboard::default(),
            development: config.development,
            media: Media { folder: Folder::new(&config.media_dir), require_key: config.media_require_key }.into(),
        });
        let stop = http::Stop { soft: soft.clone(), ending: ending.clone(), hard: hard.clone() };
        let serving = http::serve(listener, router, Limits::of_process(), stop, requests.clone());
        let ended = failed.clone().drop_guard();
        tracker.spawn(async move {
            serving.await;
            drop(ended);
        });
        restoring.begin();
        tracing::info!("Server is running on port {}", addr.port());
        Ok(Self { addr, failed, hard, soft, ending, sink, tracker, requests, sink_tracker, kv })
    }

    /// Where it serves; tells the port when it was asked to choose one.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until the server has ended without having been told to.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Stops: no new requests, requests in flight are finished over sessions that live on for them, for 8 s at most;
    /// then the sessions close, the sink posts what it can, the store is flushed last. After `grace`, or when `hurry` ends,
    /// everything is dropped as it is.
    pub async fn shutdown(self, grace: Duration, hurry: impl Future<Output = ()>) {
        self.soft.cancel();
        self.tracker.close();
        self.requests.close();
        self.sink_tracker.close();
        let orderly = async {
            if tokio::time::timeout(DRAIN, self.requests.wait()).await.is_err() {
                tracing::warn!("requests are still under way: not waiting for them before the sessions end");
            }
            self.ending.cancel();
            // Requests begin other tasks, and the listener's task may have begun one more of them.
            while !(self.requests.is_empty() && self.tracker.is_empty()) {
                self.requests.wait().await;
                self.tracker.wait().await;
            }
            self.sink.cancel();
            self.sink_tracker.wait().await;
        };
        let mut hurry = std::pin::pin!(hurry.fuse());
        tokio::select! {
            () = orderly => tracing::info!("stopped"),
            () = tokio::time::sleep(grace) => tracing::warn!(grace_secs = grace.as_secs(), "not all tasks ended in time"),
            () = &mut hurry => tracing::warn!("told twice to stop: not waiting"),
        }
        self.hard.cancel();
        let told_twice = async {
            // Whoever said so before the store's turn has waited for nothing yet.
            if hurry.is_terminated() {
                std::future::pending::<()>().await;
            }
            hurry.await;
        };
        tokio::select! {
            closed = self.kv.close() => if let Err(error) = closed {
                tracing::error!(%error, "the store could not be flushed");
            },
            () = tokio::time::sleep(STORE_GRACE) => tracing::error!("the store was not flushed in time"),
            () = told_twice => tracing::error!("told twice to stop: not waiting for the store"),
        }
    }
}

fn retry_policy(delivery: &Delivery) -> RetryPolicy {
    RetryPolicy {
        first_delay: delivery.retry_first,
        max_delay: delivery.retry_max,
        give_up_after: delivery.retry_for,
        attempt_limit: delivery.timeout,
        connect_limit: delivery.timeout.min(RetryPolicy::default().connect_limit),
        max_per_sec: delivery.max_per_sec,
        ..RetryPolicy::default()
    }
}

/// What loads and saves files; tells of a folder that takes none.
async fn fetcher(config: &Config) -> anyhow::Result<Fetcher> {
    let folder = Folder::new(&config.media_dir);
    if let Err(error) = tokio::task::spawn_blocking(move || folder.prepare()).await? {
        let path = config.media_dir.display();
        tracing::error!(%error, %path, "received files can't be saved: MEDIA_DIR takes none");
    }
    Ok(Fetcher::new(media::Limits {
        max_bytes: config.media_max_bytes,
        timeout: config.media_timeout,
        private_addresses: config.media_url_private,
        folder: config.media_dir.as_path().into(),
    })?)
}

fn outboxes(config: &Config) -> outbox::Common {
    let delivery = &config.delivery;
    let bounds = outbox::Bounds {
        max_bytes: delivery.outbox_max_bytes,
        max_age: delivery.outbox_max_age,
        dead_count: delivery.dead_max_count,
        dead_bytes: delivery.dead_max_bytes,
        dead_age: delivery.dead_max_age,
    };
    let WebhookEvents { message, session, ack } = config.webhook_events;
    outbox::Common::new(bounds, Kinds { session, message, ack }, config.webhook_base_url.is_some())
}

/// Takes the sessions of the original over that lie in the credentials folder.
///
/// Not into Redis: with a `REDIS_URL` the original kept its sessions there, and a file beside it would be from before.
#[cfg(feature = "takeover")]
async fn take_over(config: &Config, kv: &Arc<dyn Kv>) -> anyhow::Result<()> {
    let folder = &config.credentials_dir;
    if config.redis_url.is_some() {
        if folder.join(takeover::DATABASE).exists() {
            tracing::warn!(
                "{} is not taken over: with REDIS_URL the Node.js gateway kept its sessions in Redis, so this file may be old; `wa-gateway import` takes it by hand",
                folder.join(takeover::DATABASE).display()
            );
        }
        return Ok(());
    }
    takeover::at_start(kv, folder, config.takeover_force).await?;
    Ok(())
}

#[cfg(not(feature = "takeover"))]
#[expect(clippy::unused_async, reason = "the same as with the feature")]
async fn take_over(config: &Config, _kv: &Arc<dyn Kv>) -> anyhow::Result<()> {
    if config.credentials_dir.join("database.db").exists() {
        tracing::warn!(
            "sessions of the Node.js gateway are not taken over: this build lacks the cargo feature `takeover`"
        );
    }
    Ok(())
}

/// The keys from everywhere that they come from.
async fn auth(
    config: &Config,
    kv: Arc<dyn Kv>,
    tracker: &TaskTracker,
    soft: CancellationToken,
) -> anyhow::Result<Auth> {
    let keys = Keys::open(Arc::clone(&kv)).await.context("stored API keys can't be read")?;
    let asked = match &config.key {
        KeySetting::Given(key) => {
            keys.set_master(key.expose_secret().as_bytes());
            Some(keys)
        }
        KeySetting::Generated => {
            keys.set_master(keyfile::load_or_create(&config.credentials_dir)?.expose_secret().as_bytes());
            Some(keys)
        }
        KeySetting::Open => None,
    };
    if let (Some(path), Some(keys)) = (&config.keys_file, &asked) {
        tracker.spawn(keys::file::follow(path.clone(), keys.clone(), soft)?);
    }
    let logins = keys::Logins::open(kv, asked.as_ref()).await.context("stored logins can't be read")?;
    let kept = logins.load().await.context("stored logins can't be read")?;
    Ok(Auth::new(asked, logins, kept, config.trust_proxy))
}

fn unreadable(config: &Config) -> String {
    let place = match &config.redis_url {
        Some(_) => "in Redis".to_owned(),
        None => format!("in the store {}", config.credentials_dir.join("store").display()),
    };
    format!(
        "the sessions {place} can't be read: `wa-gateway check` tells more, `wa-gateway restore` brings a backup back"
    )
}

fn whatsapp_settings(config: &Config) -> anyhow::Result<whatsapp::Settings> {
    let Some(simulator) = &config.simulator else {
        return Ok(whatsapp::Settings { version: config.whatsapp_version, ..whatsapp::Settings::default() });
    };
    let tls_root = match &simulator.tls_root {
        None => None,
        Some(path) => {
            Some(std::fs::read(path).with_context(|| format!("WHATSAPP_TLS_ROOT {} can't be read", path.display()))?)
        }
    };
    Ok(whatsapp::Settings {
        ws_url: Some(simulator.ws_url.to_string()),
        media_url: simulator.media_url.as_ref().map(ToString::to_string),
        tls_root,
        version: config.whatsapp_version,
    })
}

/// Takes the port; `::` takes IPv4 too, and nothing else where the machine has no IPv6.
async fn listen(host: IpAddr, port: u16) -> std::io::Result<TcpListener> {
    let any = host == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match TcpListener::bind((host, port)).await {
        Err(error) if any && is_without_ipv6(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
        bound => bound,
    }
}

fn is_without_ipv6(error: &std::io::Error) -> bool {
    // Linux, errno 97: the address family is not supported.
    error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97)
}

/// Hands the sink those last events of deleted sessions that an earlier run did not get delivered.
async fn repeat_farewells(registry: &Registry, notices: &mpsc::Sender<Notice>) -> anyhow::Result<()> {
    for (key, bytes) in registry.farewells().await? {
        let Some((event, at, target)) = NewEvent::decode_to(&bytes) else {
            tracing::error!("a deleted session's last event can't be read and is dropped");
            registry.remove_farewell(key).await?;
            continue;
        };
        let named = serde_json::from_slice::<Named>(&event.body).ok();
        if let Some(session) = named.and_then(|body| SessionName::parse(&body.session).ok()) {
            let _sink_ended = notices.send(Notice::Farewell { key, session, event, target, at }).await;
        }
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Named {
    session: String,
}

/// Removes a farewell that was delivered or given up. A store that is away is asked again until the sink ends.
async fn forget_farewell((registry, ending): (Registry, CancellationToken), key: Bytes) {
    while let Err(error) = registry.remove_farewell(key.clone()).await {
        if ending.is_cancelled() {
            tracing::warn!(%error, "a delivered farewell stays stored and is posted again after the next start");
            return;
        }
        tokio::select! {
            () = ending.cancelled() => {}
            () = tokio::time::sleep(FORGET_AGAIN) => {}
        }
    }
}
