//! The server: its listeners, its options, and the handle that tests hold.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whatsapp_rust::wacore_binary::Node;

use crate::counters::{ClientKind, Counters, Features};
use crate::fault::{FaultId, Injection, Kick};
use crate::listener::Upgrade;
use crate::media::{Intake, Media};
use crate::network::{DeviceAddress, Network};
use crate::phone::Phone;
use crate::state::account::{Account, DeviceInfo};
use crate::state::{Sender, State};
use crate::wire::certificate::NoiseIdentity;
use crate::wire::frame::Framing;
use crate::wire::tls::Tls;

/// How a simulator is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// TCP port of `ws://`; 0 takes a free one.
    pub port: u16,
    /// TCP port of the control and media HTTP server; 0 takes a free one.
    pub control_port: u16,
    /// Also listens for `wss://` (and `https://` media) under a certificate of its own test root.
    pub tls: bool,
    /// TCP port of `wss://`; 0 takes a free one.
    pub tls_port: u16,
    /// How long the first QR reference lives.
    pub qr_first: Duration,
    /// How long each further one lives.
    pub qr_next: Duration,
    /// References handed to an unregistered client.
    pub qr_refs: usize,
    /// Wait between the end of the handshake and the first stanza. baileys 7.0.0-rc.6 loses its process to a stanza that
    /// comes earlier than some 250 ms.
    pub settle: Duration,
    /// Sends larger frames compressed.
    pub compress: bool,
    /// How frames lie in WebSocket messages.
    pub framing: Framing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            control_port: 0,
            tls: false,
            tls_port: 0,
            qr_first: Duration::from_mins(1),
            qr_next: Duration::from_secs(20),
            qr_refs: 6,
            settle: Duration::ZERO,
            compress: false,
            framing: Framing::default(),
        }
    }
}

impl Options {
    /// When a registration ends: after the last reference, and half an interval for the client to end it itself.
    pub(crate) fn registration_ends(&self) -> Duration {
        let further = u32::try_from(self.qr_refs).unwrap_or(u32::MAX).saturating_sub(1);
        self.qr_first + self.qr_next * further + self.qr_next / 2
    }
}

/// What all connections, phones and handles share.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) identity: NoiseIdentity,
    pub(crate) tls: Option<Tls>,
    pub(crate) tracker: TaskTracker,
    pub(crate) token: CancellationToken,
    pub(crate) addresses: Addresses,
    /// Held for the handling of one stanza, never across a wait.
    state: Mutex<State>,
    /// Held for one step, never across a wait nor together with the state.
    media: Mutex<Media>,
    own: Weak<Core>,
}

/// Where the listeners are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) control: SocketAddr,
}

impl Core {
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The phone of a number; the account is made at first use.
    pub(crate) fn phone(&self, number: &str) -> anyhow::Result<Phone> {
        self.account(number, None)
    }

    /// The phone of a number, made with that push name if there is none yet.
    pub(crate) fn account(&self, number: &str, push_name: Option<&str>) -> anyhow::Result<Phone> {
        let digits = number.len() >= 5 && number.len() <= 15 && number.bytes().all(|byte| byte.is_ascii_digit());
        anyhow::ensure!(digits && !number.starts_with('0'), "{number} is no phone number");
        self.with(|state| {
            if let Some(account) = state.accounts.get(number) {
                return Ok(account.phone.clone());
            }
            let lid = crate::state::lid_of(number);
            let name = push_name.map_or_else(|| format!("Phone {number}"), str::to_owned);
            let line = Arc::new(Line(self.own.clone()));
            let phone = Phone::new(number, &lid, &name, line, &self.tracker, self.token.child_token())?;
            state.lids.insert(lid.clone(), number.to_owned());
            state.accounts.insert(number.to_owned(), Account::new(number, &lid, &name, phone.clone()));
            Ok(phone)
        })
    }
}

impl Core {
    pub(crate) fn set_lid_migrated(&self, number: &str, on: bool) -> anyhow::Result<()> {
        self.phone(number)?.set_lid_mode(on);
        self.with(|state| {
            if let Some(account) = state.accounts.get_mut(number) {
                account.lid_migrated = on;
            }
        });
        Ok(())
    }
}

/// A phone's line to the server; does not keep the server alive.
struct Line(Weak<Core>);

#[async_trait]
impl Network for Line {
    async fn submit(&self, from: &DeviceAddress, stanza: Node) -> anyhow::Result<Vec<Node>> {
        let core = self.0.upgrade().context("the server has ended")?;
        Ok(core.handle(&Sender { address: from.clone(), client: ClientKind::Phone }, None, &stanza))
    }

    fn put_media(&self, kind: &str, ciphertext: &[u8]) -> anyhow::Result<String> {
        self.0.upgrade().context("the server has ended")?.put_media(kind, ciphertext)
    }

    fn restore_media(&self, direct_path: &str) -> Option<String> {
        self.0.upgrade()?.with_media(|media| media.restore(direct_path))
    }

    fn media(&self, direct_path: &str) -> Option<Bytes> {
        self.0.upgrade()?.media(direct_path)
    }
}

/// A running loopback WhatsApp server; clones are the same server.
#[derive(Clone)]
pub struct Simulator(Arc<Core>);

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("addresses", &self.0.addresses).finish_non_exhaustive()
    }
}

impl Simulator {
    /// Binds the listeners on the loopback interface and serves until `shutdown`.
    ///
    /// # Errors
    /// A port is taken or keys cannot be made.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let plain = bind(options.port).await.context("binding the WebSocket port")?;
        let control = bind(options.control_port).await.context("binding the control port")?;
        let secure =
            if options.tls { Some(bind(options.tls_port).await.context("binding the TLS port")?) } else { None };
        let addresses = Addresses {
            plain: plain.local_addr()?,
            tls: secure.as_ref().map(TcpListener::local_addr).transpose()?,
            control: control.local_addr()?,
        };
        let tls = if options.tls { Some(Tls::generate()?) } else { None };
        let identity = NoiseIdentity::generate()?;
        let core = Arc::new_cyclic(|own| Core {
            options,
            identity,
            tls,
            tracker: TaskTracker::new(),
            token: CancellationToken::new(),
            addresses,
            state: Mutex::default(),
            media: Mutex::default(),
            own: own.clone(),
        });
        core.tracker.spawn(Arc::clone(&core).listen(plain, false));
        if let Some(secure) = secure {
            core.tracker.spawn(Arc::clone(&core).listen(secure, true));
        }
        core.tracker.spawn(crate::control::serve(Arc::clone(&core), control));
        Ok(Self(core))
    }

    /// `ws://127.0.0.1:PORT/ws/chat`
    pub fn ws_url(&self) -> String {
        format!("ws://{}/ws/chat", self.0.addresses.plain)
    }

    /// `wss://localhost:PORT/ws/chat`, with `Options::tls`.
    pub fn wss_url(&self) -> Option<String> {
        self.0.addresses.tls.map(|address| format!("wss://localhost:{}/ws/chat", address.port()))
    }

    /// The test root that signed the TLS certificate, with `Options::tls`.
    pub fn root_pem(&self) -> Option<String> {
        self.0.tls.as_ref().map(|tls| tls.root_pem.clone())
    }

    /// Public key of the root that signed the Noise certificates: baileys rc14 checks it against a mutable constant.
    pub fn noise_root(&self) -> [u8; 32] {
        self.0.identity.root
    }

    /// `http://127.0.0.1:PORT`
    pub fn control_url(&self) -> String {
        format!("http://{}", self.0.addresses.control)
    }

    /// Base URL that stands in for `https://<any media host>`.
    pub fn media_url(&self) -> String {
        self.control_url()
    }

    /// Scans a QR code as that number's phone and returns the new companion's JID, once it was told to log in.
    ///
    /// # Errors
    /// The reference is unknown or has expired, the client left, or a signature does not verify.
    pub async fn scan(&self, qr: &str, phone: &str) -> anyhow::Result<String> {
        self.0.scan(qr, phone).await
    }

    /// Types the code that a companion shows into that number's phone and returns the new companion's JID, once it was
    /// told to log in.
    ///
    /// # Errors
    /// No companion shows a code for the number, the code is wrong, the client left, or a signature does not verify.
    pub async fn link(&self, code: &str, phone: &str) -> anyhow::Result<String> {
        self.0.link(code, phone).await
    }

    /// The server as phones see it, for tests that play a device of their own.
    pub fn network(&self) -> Arc<dyn Network> {
        Arc::new(Line(Arc::downgrade(&self.0)))
    }

    /// The primary device of a number, made at first use.
    ///
    /// # Panics
    /// The number is not 5 to 15 digits.
    pub fn phone(&self, number: &str) -> Phone {
        self.0.phone(number).expect("a phone number of 5 to 15 digits")
    }

    /// Like `phone`, with that push name if the account is made now.
    ///
    /// # Errors
    /// The number is not 5 to 15 digits.
    pub fn account(&self, number: &str, push_name: &str) -> anyhow::Result<Phone> {
        self.0.account(number, Some(push_name))
    }

    /// Has this account found by another number as well, which has no account, as Brazil's and Mexico's mobile numbers are.
    pub fn spell(&self, dialled: &str, number: &str) {
        self.0.with(|state| state.spellings.insert(dialled.to_owned(), number.to_owned()));
    }

    /// Whether companions linked from now on, and the phone, write one-to-one chats by LID.
    ///
    /// # Panics
    /// The number is not 5 to 15 digits.
    pub fn set_lid_migrated(&self, number: &str, on: bool) {
        self.0.set_lid_migrated(number, on).expect("a phone number of 5 to 15 digits");
    }

    /// Makes a group of these numbers, the first its admin, and tells all members. Returns its JID.
    ///
    /// # Panics
    /// A number is not 5 to 15 digits, or there is none.
    pub fn create_group(&self, subject: &str, members: &[&str], lid_mode: bool) -> String {
        for member in members {
            self.phone(member);
        }
        self.0.with(|state| crate::iq::group::create(state, subject, members, lid_mode))
    }

    /// The same with an id of the caller's: old groups have their creator's number, a dash and a time.
    ///
    /// # Panics
    /// As [`Self::create_group`].
    pub fn create_group_as(&self, id: &str, subject: &str, members: &[&str]) -> String {
        for member in members {
            self.phone(member);
        }
        self.0.with(|state| crate::iq::group::create_as(state, id.to_owned(), subject, members, false))
    }

    /// Removes a companion as its phone does: `device_removed` when online, failure 401 at its next login.
    pub fn unlink(&self, phone: &str, device: u16) {
        self.0.with(|state| crate::control::unlink(state, phone, device));
    }

    /// The companions of a number.
    pub fn devices(&self, phone: &str) -> Vec<DeviceInfo> {
        self.0.with(|state| crate::control::devices(state, phone))
    }

    /// The ids of messages that a companion of this number has not acknowledged yet.
    pub fn unacknowledged(&self, phone: &str) -> Vec<String> {
        self.0.with(|state| {
            let devices = state.accounts.get(phone).into_iter().flat_map(|account| account.devices.values());
            devices.flat_map(|device| device.queue.messages()).collect()
        })
    }

    /// The open connection of this number's companion over which nothing comes any more, by number.
    pub fn silent_connection(&self, phone: &str) -> Option<u64> {
        self.0.with(|state| {
            let account = state.accounts.get(phone)?;
            let mut links = account.devices.values().filter_map(|device| device.link);
            let silent = |id: &u64| {
                state.links.get(id).is_some_and(|link| link.silent.load(std::sync::atomic::Ordering::Relaxed))
            };
            links.find(silent)
        })
    }

    /// How many WebSocket connections have finished their handshake and are open.
    pub fn connections(&self) -> usize {
        self.0.with(|state| state.links.len())
    }

    /// The last request for a WebSocket.
    pub fn last_upgrade(&self) -> Option<Upgrade> {
        self.0.with(|state| state.last_upgrade.clone())
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.0.with(|state| state.counters.clone())
    }

    /// Which kinds of clients exercised which protocol features.
    pub fn features(&self) -> Features {
        self.0.with(|state| state.features.clone())
    }

    /// Injects a fault.
    pub fn inject(&self, fault: impl Into<Injection>) -> FaultId {
        let injection = fault.into();
        self.0.with(|state| state.faults.add(injection))
    }

    /// Takes a fault away; one that is gone already does no harm.
    pub fn clear(&self, id: FaultId) {
        self.0.with(|state| state.faults.clear(id));
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) {
        self.0.with(|state| state.faults.clear_all());
    }

    /// Ends or silences the connection of a companion, if it has one.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may wait in future")]
    pub async fn kick(&self, phone: &str, device: u16, how: Kick) {
        self.0.with(|state| crate::control::kick(state, phone, device, how));
    }

    /// Forgets a media object, as the media hosts do after some weeks: downloads get 404. True if it was there.
    pub fn forget_media(&self, direct_path: &str) -> bool {
        self.0.with_media(|media| media.forget(direct_path))
    }

    /// Closes everything and waits for all tasks.
    pub async fn shutdown(self) {
        self.0.token.cancel();
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }
}

/// The media hosts.
impl Core {
    pub(crate) fn with_media<T>(&self, act: impl FnOnce(&mut Media) -> T) -> T {
        act(&mut self.media.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn put_media(&self, kind: &str, ciphertext: &[u8]) -> anyhow::Result<String> {
        let mut intake = Intake::default();
        intake.take(ciphertext).context("storing media")?;
        Ok(self.with_media(|media| media.put(intake.finish(kind))))
    }

    pub(crate) fn media(&self, direct_path: &str) -> Option<Bytes> {
        self.with_media(|media| media.at(direct_path))?.whole().ok()
    }
}
