//! `bare-library`: whatsapp-rust by itself over the same simulator, with its store in memory: the floor under the gateway.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tokio_websockets::ClientBuilder;
use whatsapp_rust::http::UreqHttpClient;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::transport::{Transport, TransportEvent, TransportFactory, from_websocket};
use whatsapp_rust::types::durability_hook::{InboundDurabilityHook, InboundMessage};
use whatsapp_rust::wacore::proto_helpers::MessageBuilderExt as _;
use whatsapp_rust::wacore::store::InMemoryBackend;
use whatsapp_rust::wacore::types::events::{Event, EventHandler, EventInterest, EventKind, Subscription};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Client, Jid, SendOptions, TokioRuntime, async_channel};

use crate::arguments::{BareLibrary, BarePart};
use crate::phase::pairing::REST;
use crate::phones::{Line, Phones};
use crate::proc::Process;
use crate::report::{Latencies, count, millis};
use crate::say;

/// Clients that are linked, one after the other.
const CLIENTS: usize = 60;
/// Texts each way of one more.
const TEXTS: usize = 300;
/// Anything that takes longer has failed.
const LIMIT: Duration = Duration::from_mins(1);
/// As the gateway has it.
const PRE_KEYS: usize = 50;
/// Events that wait to be looked at.
const EVENTS: usize = 4_096;
/// Numbers that the driver's sessions don't have.
const OWN: &str = "628300000";
const CONTACT: &str = "6284000000000";

pub(crate) async fn run(settings: BareLibrary) -> anyhow::Result<bool> {
    let phones = Phones::new(&settings.control).await?;
    let (own, tracker) = (Process(std::process::id()), TaskTracker::new());
    let told = match settings.part {
        BarePart::Starts => starts(&settings.url, &phones, own, &tracker).await?,
        BarePart::Texts => texts(&settings.url, &phones, own, &tracker).await?,
    };
    say(&told.to_string());
    Ok(true)
}

/// Links some clients, one after the other.
async fn starts(url: &str, phones: &Phones, own: Process, tracker: &TaskTracker) -> anyhow::Result<serde_json::Value> {
    let cpu = own.cpu()?;
    let (mut codes, mut linked) = (Latencies::default(), Vec::new());
    for number in 0..CLIENTS {
        let (session, code) = Session::link(url, phones, &format!("{OWN}{number:04}"), tracker).await?;
        codes.add(code);
        linked.push(session);
        tokio::time::sleep(REST).await;
    }
    // What follows a login belongs to the pairing.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pairing = own.cpu()?.saturating_sub(cpu);
    for session in linked {
        session.client.disconnect().await;
    }
    Ok(json!({"bare.start": codes.quantile(500), "bare.cpu.pairing": millis(pairing) / count(CLIENTS)}))
}

/// Sends and receives texts with one client.
async fn texts(url: &str, phones: &Phones, own: Process, tracker: &TaskTracker) -> anyhow::Result<serde_json::Value> {
    phones.account(CONTACT).await?;
    let to = format!("{OWN}{CLIENTS:04}");
    let (mut session, _code) = Session::link(url, phones, &to, tracker).await?;
    session.send(CONTACT, "the first text").await?;
    // What follows a login belongs to the pairing.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cpu = own.cpu()?;
    let mut sends = Latencies::default();
    for number in 0..TEXTS {
        sends.extend([session.send(CONTACT, &format!("text {number}")).await?]);
    }
    let sent = own.cpu()?.saturating_sub(cpu);

    let line = |number: usize| Line { phone: CONTACT.to_owned(), to: to.clone(), text: format!("text {number}") };
    let cpu = own.cpu()?;
    phones.say(&(0..TEXTS).map(line).collect::<Vec<_>>(), None).await?;
    for _ in 0..TEXTS {
        session.message().await?;
    }
    // Acknowledged too, or they would be found waiting at the end of the gateway's run. The gateway is quiet meanwhile.
    phones.acknowledged().await?;
    let received = own.cpu()?.saturating_sub(cpu);
    session.client.disconnect().await;
    Ok(json!({
        "bare.send": sends.quantile(500),
        "bare.send.p99": sends.quantile(990),
        "bare.cpu.sent": millis(sent) / count(TEXTS),
        "bare.cpu.received": millis(received) / count(TEXTS),
    }))
}

/// What is of interest of the library's events.
enum Told {
    Code(String),
    Connected,
    Ack(String),
    Message,
}

/// One client.
pub(crate) struct Session {
    client: Arc<Client>,
    events: mpsc::Receiver<Told>,
    _subscription: Subscription,
}

impl Session {
    async fn begin(url: &str, tracker: &TaskTracker) -> anyhow::Result<Self> {
        let store = Arc::new(PersistenceManager::new(Arc::new(InMemoryBackend::new())).await?);
        let (told, events) = mpsc::channel(EVENTS);
        let client = Client::builder()
            .with_runtime(TokioRuntime)
            .with_persistence_manager(store)
            .with_transport_factory(Dial(url.to_owned()))
            .with_http_client(UreqHttpClient::new())
            .with_version_override((2, 3_000, 1_042_742_319))
            .with_skip_history_sync(true)
            .with_wanted_pre_key_count(PRE_KEYS)
            .with_background_saver_interval(Duration::from_secs(30))
            .with_inbound_durability_hook(Hook(told.clone()))
            .build()
            .await?
            .into_client();
        let kinds = [EventKind::PairingQrCode, EventKind::Connected, EventKind::ServerAck, EventKind::Messages];
        let subscription = client.subscribe(EventInterest::of(&kinds), Arc::new(Events(told)));
        let running = Arc::clone(&client);
        tracker.spawn(async move { running.run().await });
        Ok(Self { client, events, _subscription: subscription })
    }

    /// Links a client to a phone; returns how long its code took, too.
    pub(crate) async fn link(
        url: &str,
        phones: &Phones,
        number: &str,
        tracker: &TaskTracker,
    ) -> anyhow::Result<(Self, Duration)> {
        let begun = Instant::now();
        let mut session = Self::begin(url, tracker).await?;
        let code = session.next(|event| if let Told::Code(code) = event { Some(code) } else { None }).await?;
        let took = begun.elapsed();
        phones.scan(&code, number).await?;
        session.next(|event| matches!(event, Told::Connected).then_some(())).await?;
        Ok((session, took))
    }

    /// Sends to a contact and waits for the server's acknowledgement; returns how long that took.
    pub(crate) async fn send(&mut self, to: &str, text: &str) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let id = self.client.generate_message_id();
        let options = SendOptions::default().with_message_id(&id);
        let to: Jid = Jid::pn(to);
        self.client.send_message_with_options(to, wa::Message::text(text), options).await?;
        self.next(|event| matches!(event, Told::Ack(acked) if acked == id).then_some(())).await?;
        Ok(begun.elapsed())
    }

    /// Waits for a message from a contact.
    pub(crate) async fn message(&mut self) -> anyhow::Result<()> {
        self.next(|event| matches!(event, Told::Message).then_some(())).await
    }

    /// The first event that is wanted; others are dropped.
    async fn next<T>(&mut self, mut wanted: impl FnMut(Told) -> Option<T>) -> anyhow::Result<T> {
        let next = async {
            loop {
                let event = self.events.recv().await.context("the client has ended")?;
                if let Some(found) = wanted(event) {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(LIMIT, next).await.map_err(|_| anyhow!("the library told nothing within {LIMIT:?}"))?
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

struct Events(mpsc::Sender<Told>);

impl EventHandler for Events {
    fn handle_event(&self, event: Arc<Event>) {
        let told = match &*event {
            Event::PairingQrCode(code) => Told::Code(code.code.clone()),
            Event::Connected(_) => Told::Connected,
            Event::ServerAck(ack) => Told::Ack(ack.id.clone()),
            _ => return,
        };
        // A full channel: the wait for what was dropped fails.
        drop(self.0.try_send(told));
    }
}

/// Counts messages where the gateway commits them.
struct Hook(mpsc::Sender<Told>);

#[whatsapp_rust::async_trait]
impl InboundDurabilityHook for Hook {
    async fn on_messages(&self, _client: Arc<Client>, batch: &[InboundMessage]) -> anyhow::Result<()> {
        for _ in batch {
            drop(self.0.try_send(Told::Message));
        }
        Ok(())
    }
}

/// Dials with `TCP_NODELAY`, which the library's own transport does not set.
struct Dial(String);

#[whatsapp_rust::async_trait]
impl TransportFactory for Dial {
    async fn create_transport(&self) -> anyhow::Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>)> {
        let host = self.0.trim_start_matches("ws://").split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let (websocket, _response) = ClientBuilder::new().uri(&self.0)?.connect_on(stream).await?;
        Ok(from_websocket(websocket))
    }
}
