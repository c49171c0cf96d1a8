//! WhatsApp itself: one `Connection` per session over whatsapp-rust, everything shared between them made once.
//!
//! The only room besides `store/backend` that names `whatsapp_rust`. It reports upwards by [`Signal`]s over a bounded
//! channel and commits received messages through a closure; it knows neither sessions nor the outbox.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use whatsapp_rust::http::HttpClient;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::wacore::iq::devices::RemoveCompanionDeviceSpec;
use whatsapp_rust::wacore::store::traits::Backend;
use whatsapp_rust::wacore::store::{Device, DevicePropsOverride};
use whatsapp_rust::wacore::types::events::{EventInterest, EventKind, Subscription};
use whatsapp_rust::waproto::whatsapp::device_props::PlatformType;
use whatsapp_rust::{CacheConfig, CacheEntryConfig, Client, MsgSecretRetention, NodeBuilder, RetryRequestOptions};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod agreement;
mod dial;
mod download;
mod hosts;
mod inbound;
mod number;
mod outbound;
mod pace;
mod profile;
mod receipt;
mod report;
mod version;

pub use download::DownloadError;
pub use inbound::{Received, Vote};
pub use outbound::{Open, OutboundError};
pub use profile::LookupError;
pub use version::AppVersion;

use crate::message::Progress;
use dial::{Dial, Endpoint, Link};
use hosts::{BoundedHttp, Hosts};
use number::Numbers;
use outbound::{Acks, Heard, MAX_UPLOADS};
use pace::{AllPaces, Pace, Paced};
use report::{Events, Hook, TURNS};
use version::Version;

/// One-time keys that are uploaded at a time, as many as whatsmeow does (`prekeys.go`, `WantedPreKeyCount`): 50 new contacts
/// between two refills, and more are served without one. 200 cost 18 KiB of memory and 8 ms of CPU more a pairing,
/// whatsapp-rust's 812 another 118 KiB and 9 ms.
const PRE_KEYS: usize = 50;
/// State signals a session may have unread; it reads them at once, so this is never near.
pub const SIGNALS: usize = 64;
/// How long an abandoned connection may take to close.
const ABANDON: Duration = Duration::from_secs(5);
/// Asking for a lost message takes no longer.
const RESEND: Duration = Duration::from_secs(10);
/// The library may take so long to read what came just before the end of a stream.
const LAST_FRAMES: Duration = Duration::from_secs(1);
/// How often whatsapp-rust saves the device row apart from explicit flushes.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Makes received messages durable before WhatsApp is told that we have them.
pub type Commit = Arc<dyn Fn(Vec<Received>) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// Takes how far a sent message got; called on the library's tasks, so it never waits.
pub type Follow = Arc<dyn Fn(Progress) + Send + Sync>;

/// Where a connection takes what it hears.
pub struct Reports {
    /// Received messages, before WhatsApp is told that they are here.
    pub commit: Commit,
    /// Changes of its state.
    pub signals: mpsc::Sender<Signal>,
    /// Received messages that the library does not hold back for a commit.
    pub late: mpsc::Sender<Vec<Received>>,
    /// What becomes of sent messages.
    pub progress: Follow,
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}

/// What a connection reports to the session that owns it, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A new code to scan; the one before it is void.
    Qr {
        /// The picture's text.
        code: String,
        /// How long it can be scanned.
        valid_for: Duration,
    },
    /// No codes are left; the connection has ended.
    QrExhausted,
    /// The phone accepted us; a reconnect follows.
    Paired {
        /// The phone's platform as it names it, if it does.
        platform: Option<String>,
    },
    /// The pairing failed at our end or theirs.
    PairFailed,
    /// Logged in, and caught up with what waited.
    Connected,
    /// What waited while it was away is here; comes before or after `Connected`, which waits for more.
    CaughtUp,
    /// The stream below is gone; the library dials again by itself.
    LinkDown,
    /// WhatsApp has told of an error of the stream, which may stay open without a login.
    StreamError,
    /// WhatsApp ended this connection for good.
    Ended(Verdict),
}

/// Why WhatsApp ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The device was unlinked: its credentials are void.
    LoggedOut,
    /// The account is locked; the credentials may work again later.
    Locked,
    /// Another connection uses the same credentials.
    Replaced,
    /// Banned, for so long; `None`: WhatsApp does not say how long.
    Banned(Option<Duration>),
    /// Our announced version is too old.
    Outdated,
    /// Refused with this failure code.
    Refused(i32),
}

/// How to reach WhatsApp; plain values from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `None`: the real one. A loopback stand-in in simulator builds.
    pub ws_url: Option<String>,
    /// Base URL that stands in for the media hosts; only with `ws_url`.
    pub media_url: Option<String>,
    /// One more TLS root in PEM; only with `ws_url`.
    pub tls_root: Option<Vec<u8>>,
    /// `None`: the newest known, renewed daily.
    pub version: Option<AppVersion>,
}

/// What all sessions share; cheap to clone.
#[derive(Clone)]
pub struct WhatsApp(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    http: Arc<dyn HttpClient>,
    version: Version,
    numbers: Numbers,
    uploads: Arc<Semaphore>,
    paces: AllPaces,
}

impl fmt::Debug for WhatsApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhatsApp").finish_non_exhaustive()
    }
}

/// Has the process agree keys by assembly instead of the library's own code, where the processor can; whether it does now. Before
/// the library is first used: it keeps the ciphers that it began with.
pub fn agree_by_assembly() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return agreement::install();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

impl WhatsApp {
    /// Prepares what sessions share; connects nowhere.
    ///
    /// # Errors
    /// When the URL or the extra TLS root can't be used.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let Settings { ws_url, media_url, tls_root, version } = settings;
        let hosts = match &ws_url {
            None => Hosts::Real,
            Some(_loopback) => Hosts::StandIn(media_url.as_deref().map(Into::into)),
        };
        let url = ws_url.as_deref().unwrap_or(dial::WHATSAPP_WS_URL);
        Ok(Self(Arc::new(Shared {
            endpoint: Endpoint::new(url, tls_root.as_deref())?,
            http: Arc::new(BoundedHttp::new(hosts, tls_root.as_deref())?),
            version: Version::new(version),
            numbers: Numbers::new(),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            paces: AllPaces::default(),
        })))
    }

    /// Starts the task that keeps the version fresh; it ends with the token.
    pub fn keep_version_fresh(&self, tracker: &TaskTracker, token: CancellationToken) {
        let shared = Arc::clone(&self.0);
        tracker.spawn(async move { shared.version.keep_fresh(Arc::clone(&shared.http), token).await });
    }

    /// Builds a connection over a session's stored device and begins to dial; it goes on dialling until closed or ended.
    /// Once `cut` is cancelled nothing leaves on it any more, not even what the library has ready.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub async fn connect(
        &self,
        backend: Arc<dyn Backend>,
        reports: Reports,
        cut: &CancellationToken,
        tracker: &TaskTracker,
    ) -> anyhow::Result<(Connection, Lease)> {
        let Reports { commit, signals, late, progress } = reports;
        let shared = Arc::clone(&self.0);
        let (link, pace) = (Arc::new(Link::new(cut.child_token())), Arc::new(Pace::new(shared.paces.clone())));
        let heard = Arc::new(Heard::default());
        let store = Arc::new(PersistenceManager::new(backend).await.context("the device can't be loaded")?);
        let (endpoint, dialled) = (shared.endpoint.clone(), Arc::clone(&link));
        let dial = Dial::new(endpoint, dialled, signals.clone(), Arc::clone(&store), tracker.clone());
        let client = Client::builder()
            .with_runtime_arc(Arc::new(Paced(Arc::clone(&pace))))
            .with_persistence_manager(Arc::clone(&store))
            .with_transport_factory(dial)
            .with_http_client_arc(Arc::clone(&shared.http))
            .with_version_override(shared.version.current())
            .with_skip_history_sync(true)
            .with_wanted_pre_key_count(PRE_KEYS)
            .with_cache_config(cache_config())
            .with_background_saver_interval(SAVE_EVERY)
            .with_inbound_durability_hook(Hook { commit, pace, heard: Arc::clone(&heard) })
            .build()
            .await
            .context("the client can't be built")?
            .into_client();
        client
            .set_device_props(DevicePropsOverride::new().with_os("wa-gateway").with_platform_type(PlatformType::CHROME))
            .await;
        // Whoever writes to a gateway expects the second tick, whether or not anyone looks at the phone.
        client.set_force_active_delivery_receipts(true);
        let acks = Arc::new(Acks::default());
        let events = Events {
            client: Arc::downgrade(&client),
            shared: Arc::clone(&shared),
            acks: Arc::clone(&acks),
            signals,
            late,
            turns: Arc::new(Semaphore::new(TURNS)),
            progress,
            runtime: tokio::runtime::Handle::current(),
            tracker: tracker.clone(),
        };
        let subscription = client.subscribe(
            EventInterest::of(&[
                EventKind::PairingQrCode,
                EventKind::PairingQrCodesExhausted,
                EventKind::PairSuccess,
                EventKind::PairError,
                EventKind::Connected,
                EventKind::OfflineSyncCompleted,
                EventKind::LoggedOut,
                EventKind::StreamReplaced,
                EventKind::TemporaryBan,
                EventKind::ClientOutdated,
                EventKind::ConnectFailure,
                EventKind::StreamError,
                EventKind::ServerAck,
                EventKind::Receipt,
                EventKind::Messages,
            ]),
            Arc::new(events),
        );
        let (run, lease) = (CancellationToken::new(), CancellationToken::new());
        let (looping, ended, dropped) = (Arc::clone(&client), run.clone().drop_guard(), lease.clone());
        let abandoned = Arc::clone(&link);
        tracker.spawn(async move {
            tokio::select! {
                () = looping.run() => {}
                // After an orderly close there is nothing left to do here; after a panic of the owner there is.
                () = dropped.cancelled() => {
                    let _stalled = tokio::time::timeout(ABANDON, looping.disconnect()).await;
                    looping.signal_shutdown_sync();
                    abandoned.cut();
                }
            }
            drop(ended);
        });
        let lease = Lease(lease.drop_guard());
        let connection = Connection {
            client,
            shared,
            link,
            acks,
            heard,
            tracker: tracker.clone(),
            ended: run,
            _subscription: Arc::new(subscription),
        };
        Ok((connection, lease))
    }
}

/// The library's caches, sized for a thousand sessions in one process (whatsapp-rust 0.7.0, `cache_config.rs`).
fn cache_config() -> CacheConfig {
    let hour = Some(Duration::from_hours(1));
    CacheConfig {
        group_cache: CacheEntryConfig::new(hour, 64),
        // More than the largest group (1,024 members), or a send to it would thrash.
        device_registry_cache: CacheEntryConfig::new(hour, 1_500),
        undecryptable_dispatched: CacheEntryConfig::new(Some(Duration::from_mins(5)), 256),
        sender_key_devices_cache: CacheEntryConfig::new(hour, 100),
        session_locks_capacity: 2_048,
        // 8.8 KB for each chat that delivered a message, evicted only by this capacity, and never one with work (see `pace`):
        // another chat's next message makes its lane anew, in microseconds.
        chat_lanes_capacity: 1,
        group_distribution_locks_capacity: 64,
        resend_rate_limiter_capacity: 256,
        seed_msg_secrets_from_history: false,
        msg_secret_retention: secret_retention(),
        ..CacheConfig::default()
    }
}

/// As the library has it, but for a day more for bots: the secrets of texts, which are kept for the shortest time, are known by
/// that to the store, where those of the session's own texts are of no use.
fn secret_retention() -> MsgSecretRetention {
    let kept = MsgSecretRetention::default();
    MsgSecretRetention { bot: kept.bot + Duration::from_hours(24), ..kept }
}

/// Held by a connection's owner: when it is dropped, whatever the reason, the library stops dialling.
#[derive(Debug)]
#[must_use = "dropping it ends the connection"]
pub struct Lease(#[expect(dead_code, reason = "held for its drop")] DropGuard);

/// One session's way to WhatsApp, which outlives single sockets; cheap to clone. Dropping it does not close it.
#[derive(Clone)]
pub struct Connection {
    client: Arc<Client>,
    shared: Arc<Shared>,
    link: Arc<Link>,
    acks: Arc<Acks>,
    heard: Arc<Heard>,
    tracker: TaskTracker,
    ended: CancellationToken,
    _subscription: Arc<Subscription>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("link", &self.link).finish_non_exhaustive()
    }
}

/// Who a session is, as its credentials say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Own phone number, digits only.
    pub phone_number: String,
    /// Own push name; empty when unknown.
    pub name: String,
}

impl Connection {
    /// Whether the stream is open and WhatsApp has logged us in on it.
    pub fn is_live(&self) -> bool {
        self.link.is_open() && self.client.is_connected() && self.client.is_logged_in()
    }

    /// Ends the waits for acknowledgements that a closed stream can't bring any more, once what it brought last is read.
    pub fn fail_pending(&self) {
        let (acks, link) = (Arc::clone(&self.acks), Arc::clone(&self.link));
        self.tracker.spawn(async move {
            let _cut = tokio::time::timeout(LAST_FRAMES, link.until_cut()).await;
            acks.keep_only(link.stream());
        });
    }

    /// Has the next connection ask for the server's key, if this one heard nothing after the handshake.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn doubt_server_key(&self) -> anyhow::Result<()> {
        if !self.link.is_mute() {
            return Ok(());
        }
        dial::forget_server_key(&self.client.persistence_manager()).await;
        self.save().await
    }

    /// The stream that is open now, by number; `None`: there is none.
    pub fn stream(&self) -> Option<u64> {
        self.link.stream()
    }

    /// How long nothing has come from WhatsApp; nothing while no stream is open.
    pub fn silent_for(&self) -> Duration {
        self.link.silent_for()
    }

    /// How long WhatsApp has been silent after something was sent to it.
    pub fn unanswered_for(&self) -> Duration {
        self.link.unanswered_for()
    }

    /// Ends the stream at once and for good: nothing leaves it any more, and a close waits for nothing of it.
    pub fn cut(&self) {
        self.link.cut();
    }

    /// Asks WhatsApp for a sign of life; any answer counts.
    pub async fn prod(&self) {
        // whatsapp-rust 0.7.0, `wacore::iq::keepalive`: the same query as its own keep-alive, with an id nobody waits for.
        let ping = NodeBuilder::new("iq")
            .attr("to", "s.whatsapp.net")
            .attr("type", "get")
            .attr("xmlns", "w:p")
            .attr("id", self.message_id())
            .children([NodeBuilder::new("ping").build()])
            .build();
        if let Err(error) = self.client.send_node(ping).await {
            tracing::debug!(%error, "a ping could not be sent");
        }
    }

    /// Asks the sender of a received message to send it once more, as for one that can't be decrypted.
    pub async fn request_resend(&self, chat: &str, sender: &str, id: &str) {
        let mut stanza = NodeBuilder::new("message").attr("id", id).attr("type", "text");
        // The library takes the time only for the age of the message.
        stanza = stanza.attr("t", chrono::Utc::now().timestamp());
        let in_chat = chat.ends_with("@g.us") || chat.ends_with("@broadcast");
        stanza =
            if in_chat { stanza.attr("from", chat).attr("participant", sender) } else { stanza.attr("from", sender) };
        let stanza = stanza.build();
        let stanza = stanza.as_node_ref();
        let request = self.client.request_message_retry(&stanza, RetryRequestOptions::new());
        match tokio::time::timeout(RESEND, request).await {
            Ok(Ok(_outcome)) => {
                tracing::warn!(message = id, "a message was lost before it was stored; asked for it again");
            }
            Ok(Err(error)) => {
                tracing::warn!(message = id, error = format!("{error:#}"), "a lost message can't be asked for");
            }
            Err(_elapsed) => tracing::warn!(message = id, "a lost message can't be asked for in time"),
        }
    }

    /// The account, once paired.
    pub fn account(&self) -> Option<Account> {
        let phone = self.client.pn()?;
        Some(Account { phone_number: phone.user.to_string(), name: self.client.push_name() })
    }

    /// Whether [`account`](Self::account) gives this one; an unknown one is the empty one.
    pub fn shows(&self, account: &Account) -> bool {
        let device = self.client.persistence_manager().get_device_snapshot();
        match &device.pn {
            Some(phone) => phone.user == account.phone_number && device.push_name == account.name,
            None => *account == Account::default(),
        }
    }

    /// Waits until the library has stopped dialling for good.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Tells the device as it is in memory, for as long as there is a connection.
    pub fn device(&self) -> impl Fn() -> Option<Device> + Send + Sync + use<> {
        let manager = Arc::downgrade(&self.client.persistence_manager());
        move || Some(manager.upgrade()?.get_device_snapshot().to_serializable())
    }

    /// Writes the device row now.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn save(&self) -> anyhow::Result<()> {
        self.client.persistence_manager().flush().await.context("the device can't be saved")
    }

    /// Tells WhatsApp to unlink this device, when logged in; `true`: WhatsApp has said that it is done.
    pub async fn unlink(&self, limit: Duration) -> bool {
        let Some(jid) = self.client.pn().filter(|_jid| self.is_live()) else { return false };
        // The library's own `logout` does not tell whether it was heard. It must not dial again as a device that is gone.
        self.client.enable_auto_reconnect.store(false, Ordering::Relaxed);
        match tokio::time::timeout(limit, self.client.execute(RemoveCompanionDeviceSpec::new(&jid))).await {
            Ok(Ok(_done)) => true,
            Ok(Err(error)) => {
                tracing::info!(error = format!("{error:#}"), "WhatsApp did not take the unlinking");
                false
            }
            Err(_elapsed) => false,
        }
    }

    /// Waits until logged in, for as long as the limit, or until WhatsApp has refused it for good.
    pub async fn wait_login(&self, limit: Duration) -> bool {
        let poll = async {
            while !self.is_live() {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        tokio::select! {
            login = tokio::time::timeout(limit, poll) => login.is_ok(),
            () = self.ended() => false,
        }
    }

    /// Closes the connection, flushing what is to be kept; past the limit it is dropped as it is. Nothing leaves after it.
    pub async fn close(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.client.disconnect()).await.is_err() {
            tracing::warn!(limit_ms = limit.as_millis(), "the connection did not close in time");
        }
        self.client.signal_shutdown_sync();
        self.link.cut();
        self.acks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_a_text_is_kept_for_the_shortest_time() {
        let (library, kept) = (MsgSecretRetention::default(), secret_retention());
        assert_eq!(kept.text, library.text);
        assert!(kept.bot > kept.text && kept.poll_event > kept.text);
    }
}
