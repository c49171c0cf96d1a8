//! The composition: opens the store, starts the sink, brings sessions back, serves, and ends all of it in order.
//!
//! Owns both tokens and the tracker that counts every task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::http;
use crate::outbox::Notice;
use crate::session::{self, SessionManager};
use crate::store::Kv;
use crate::store::registry::Registry;
use crate::store::sled::SledStore;
use crate::webhook::{RetryPolicy, Webhook};
use crate::whatsapp::{self, WhatsApp};

/// Sessions and farewells that wait to be taken by the sink; each is taken at once.
const NOTICES: usize = 256;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    addr: SocketAddr,
    hard: CancellationToken,
    soft: CancellationToken,
    sink: CancellationToken,
    tracker: TaskTracker,
    sink_tracker: TaskTracker,
    kv: Arc<dyn Kv>,
}

impl Gateway {
    /// Opens everything and serves; returns once the port is bound and all stored sessions are listed.
    ///
    /// # Errors
    /// When the store can't be opened, the port can't be bound, or a setting can't be used.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let path = config.credentials_dir.join("store");
        let kv: Arc<dyn Kv> = Arc::new(SledStore::open(&path)?);
        Self::bind_on(config, kv).await
    }

    /// The same over a store that is open already.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_on(config: Config, kv: Arc<dyn Kv>) -> anyhow::Result<Self> {
        let (tracker, sink_tracker) = (TaskTracker::new(), TaskTracker::new());
        let hard = CancellationToken::new();
        let soft = hard.child_token();
        let sink = hard.child_token();
        let listener = TcpListener::bind((config.host, config.port))
            .await
            .with_context(|| format!("can't listen on port {} (PORT, HOST)", config.port))?;
        let addr = listener.local_addr()?;

        let registry = Registry::new(Arc::clone(&kv));
        let webhook = Webhook::start(
            config.webhook_base_url.clone(),
            config.webhook_key(),
            RetryPolicy::default(),
            sink_tracker.clone(),
            sink.clone(),
        )?;
        let (notices, noticed) = mpsc::channel(NOTICES);
        let delivers = webhook.is_configured();
        if delivers {
            webhook.serve(noticed, registry);
        }

        let whatsapp = WhatsApp::new(whatsapp::Settings {
            ws_url: config.whatsapp_ws_url.clone(),
            media_url: config.whatsapp_media_url.clone(),
            tls_root: config.whatsapp_tls_root.clone(),
            version: config.whatsapp_version,
        })?;
        whatsapp.keep_version_fresh(&tracker, soft.clone());
        let sessions = SessionManager::new(
            session::Settings {
                check_numbers: config.check_numbers,
                start_timeout: config.start_timeout,
                send_timeout: config.send_timeout,
                qr_idle: config.qr_idle,
                restore_concurrency: config.restore_concurrency,
            },
            Arc::clone(&kv),
            whatsapp,
            delivers.then_some(notices),
            tracker.clone(),
            soft.clone(),
        );
        sessions.restore().await.context("stored sessions can't be read")?;
        http::serve(listener, &config, sessions, &tracker, soft.clone());
        tracing::info!("Server is running on port {}", addr.port());
        Ok(Self { addr, hard, soft, sink, tracker, sink_tracker, kv })
    }

    /// Where it serves; tells the port when it was asked to choose one.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops: no new requests, requests in flight and connections end in order, the sink posts what it can, the store is
    /// flushed last. After `grace`, or when `hurry` ends, everything is dropped as it is.
    pub async fn shutdown(self, grace: Duration, hurry: impl Future<Output = ()>) {
        self.soft.cancel();
        self.tracker.close();
        self.sink_tracker.close();
        let orderly = async {
            self.tracker.wait().await;
            self.sink.cancel();
            self.sink_tracker.wait().await;
        };
        tokio::select! {
            () = orderly => tracing::info!("stopped"),
            () = tokio::time::sleep(grace) => tracing::warn!(grace_secs = grace.as_secs(), "not all tasks ended in time"),
            () = hurry => tracing::warn!("told twice to stop: not waiting"),
        }
        self.hard.cancel();
        if let Err(error) = self.kv.flush().await {
            tracing::error!(%error, "the store could not be flushed");
        }
    }
}
