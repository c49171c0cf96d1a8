//! A companion device without Signal sessions: it pairs, logs in, asks, acknowledges.

use std::collections::VecDeque;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::net::TcpStream;
use tokio::time::timeout;
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, PublicKey as SigningKey};
use whatsapp_rust::wacore::pair_code::PairCodeUtils;
use whatsapp_rust::wacore_binary::{Node, NodeContent};
use whatsapp_rust::waproto::buffa::{Message as _, MessageField};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::client_payload::{DevicePairingRegistrationData, UserAgent};
use whatsapp_rust::{Jid, NodeBuilder};
use whatsapp_simulator::Simulator;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::initiator::{Channel, Io, Socket, handshake};

pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Companion {
    pub(crate) noise: StaticSecret,
    pub(crate) identity: KeyPair,
    signed_key: KeyPair,
    pub(crate) secret: [u8; 32],
    pub(crate) jid: Option<Jid>,
    /// The server's Noise key, once seen.
    pub(crate) server: Option<[u8; 32]>,
    channel: Option<Channel>,
    /// Stanzas that came while another one was waited for.
    skipped: VecDeque<Node>,
    /// The QR code's first field.
    pub(crate) reference: String,
}

pub(crate) fn attr(node: &Node, key: &str) -> String {
    node.attrs.get(key).map(|value| value.as_str().into_owned()).unwrap_or_default()
}

pub(crate) fn content(node: &Node) -> Vec<u8> {
    match &node.content {
        Some(NodeContent::Bytes(bytes)) => bytes.clone(),
        Some(NodeContent::String(text)) => text.as_bytes().to_vec(),
        _ => Vec::new(),
    }
}

impl Companion {
    pub(crate) fn new() -> Self {
        Self {
            noise: StaticSecret::from(rand::random::<[u8; 32]>()),
            identity: KeyPair::generate(&mut rand::rng()),
            signed_key: KeyPair::generate(&mut rand::rng()),
            secret: rand::random(),
            jid: None,
            server: None,
            channel: None,
            skipped: VecDeque::new(),
            reference: String::new(),
        }
    }

    /// Pairs with a number and comes to rest after the login, live, with one-time keys on the server.
    pub(crate) async fn linked(simulator: &Simulator, number: &str) -> Self {
        let mut companion = Self::new();
        companion.register(simulator).await;
        companion.pair(simulator, number).await.unwrap();
        companion.login(simulator).await;
        companion.upload(30).await;
        companion.activate().await;
        companion
    }

    async fn socket(url: &str) -> Socket {
        let address = url.trim_start_matches("ws://").trim_end_matches("/ws/chat").to_owned();
        let stream: Box<dyn Io> = Box::new(TcpStream::connect(address).await.unwrap());
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        Socket::new(socket)
    }

    fn agent() -> MessageField<UserAgent> {
        MessageField::some(UserAgent { os_version: Some("test".to_owned()), ..UserAgent::default() })
    }

    /// Asks for a code to be typed on that number's phone: the first step of linking by code. Returns the reference.
    pub(crate) async fn show_code(&mut self, number: &str, code: &str, ephemeral: &KeyPair) -> Vec<u8> {
        let public: [u8; 32] = ephemeral.public_key.public_key_bytes().try_into().unwrap();
        let wrapped = PairCodeUtils::encrypt_ephemeral_pub(&public, code);
        let noise = PublicKey::from(&self.noise).to_bytes();
        let hello = PairCodeUtils::build_companion_hello_iq(
            number,
            &noise,
            &wrapped,
            "1",
            "Chrome (Linux)",
            true,
            "h".to_owned(),
        );
        self.send(hello).await;
        let answer = self.next("iq").await;
        content(answer.get_optional_child_by_tag(&["link_code_companion_reg", "link_code_pairing_ref"]).unwrap())
    }

    /// Answers the phone's step as a client that showed this code, and takes the secret for `pair-success`.
    pub(crate) async fn finish_code(&mut self, number: &str, code: &str, ephemeral: &KeyPair) {
        let news = self.next("notification").await;
        assert_eq!(attr(&news, "type"), "link_code_companion_reg");
        let part = |tag| content(news.get_optional_child_by_tag(&["link_code_companion_reg", tag]).unwrap());
        let theirs = part("link_code_pairing_wrapped_primary_ephemeral_pub");
        let theirs = PairCodeUtils::decrypt_primary_ephemeral_pub(&theirs, code).unwrap();
        let phone: [u8; 32] = part("primary_identity_pub").try_into().unwrap();
        let (bundle, secret) = PairCodeUtils::prepare_key_bundle(ephemeral, &theirs, &phone, &self.identity).unwrap();
        self.secret = secret;
        let own: [u8; 32] = self.identity.public_key.public_key_bytes().try_into().unwrap();
        let reference = part("link_code_pairing_ref");
        self.send(PairCodeUtils::build_companion_finish_iq(number, bundle, &own, &reference, "f".to_owned())).await;
        assert_eq!(attr(&self.next("iq").await, "type"), "result");
    }

    /// Connects unregistered and takes the first QR reference.
    pub(crate) async fn register(&mut self, simulator: &Simulator) {
        let mut signed = vec![5];
        signed.extend_from_slice(self.signed_key.public_key.public_key_bytes());
        let signature = self.identity.private_key.calculate_signature(&signed, &mut rand::rng()).unwrap();
        let props = wa::DeviceProps { os: Some("test".to_owned()), ..wa::DeviceProps::default() };
        let data = DevicePairingRegistrationData {
            e_regid: Some(vec![0, 0, 0, 9]),
            e_keytype: Some(vec![5]),
            e_ident: Some(self.identity.public_key.public_key_bytes().to_vec()),
            e_skey_id: Some(vec![0, 0, 1]),
            e_skey_val: Some(self.signed_key.public_key.public_key_bytes().to_vec()),
            e_skey_sig: Some(signature.to_vec()),
            device_props: Some(props.encode_to_vec()),
            ..DevicePairingRegistrationData::default()
        };
        let payload = wa::ClientPayload {
            user_agent: Self::agent(),
            device_pairing_data: MessageField::some(data),
            ..wa::ClientPayload::default()
        };
        let socket = Self::socket(&simulator.ws_url()).await;
        self.channel = handshake(socket, &self.noise, &payload, None, simulator.noise_root()).await;
        self.server = self.channel.as_ref().map(|channel| channel.server);
        let iq = self.next("iq").await;
        let references = iq.get_optional_child("pair-device").unwrap();
        self.reference = String::from_utf8(content(&references.children().unwrap()[0])).unwrap();
        self.send(NodeBuilder::new("iq").attr("type", "result").attr("id", attr(&iq, "id")).build()).await;
    }

    pub(crate) fn code(&self) -> String {
        let noise = STANDARD.encode(PublicKey::from(&self.noise).as_bytes());
        let identity = STANDARD.encode(self.identity.public_key.public_key_bytes());
        format!("{},{noise},{identity},{},1", self.reference, STANDARD.encode(self.secret))
    }

    /// Has the code scanned and plays the companion's part of the pairing.
    pub(crate) async fn pair(&mut self, simulator: &Simulator, number: &str) -> anyhow::Result<String> {
        let (simulator, code, number) = (simulator.clone(), self.code(), number.to_owned());
        let scan = async move { simulator.scan(&code, &number).await };
        let (jid, ()) = tokio::join!(scan, self.prove(true));
        self.jid = jid.as_ref().ok().map(|jid| jid.parse().unwrap());
        jid
    }

    /// Checks `pair-success` and signs back; with `honest` false the signature is by another key.
    pub(crate) async fn prove(&mut self, honest: bool) {
        let iq = self.next("iq").await;
        let success = iq.get_optional_child("pair-success").unwrap();
        let container = content(success.get_optional_child("device-identity").unwrap());
        let container = wa::ADVSignedDeviceIdentityHMAC::decode_from_slice(&container).unwrap();
        let details = container.details.unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).unwrap();
        mac.update(&details);
        mac.verify_slice(&container.hmac.unwrap()).unwrap();
        let mut signed = wa::ADVSignedDeviceIdentity::decode_from_slice(&details).unwrap();
        let account = signed.account_signature_key.take().unwrap();
        let device = signed.details.clone().unwrap();
        let own = self.identity.public_key.public_key_bytes();
        let by_account = [&[6, 0], device.as_slice(), own].concat();
        let key = SigningKey::from_djb_public_key_bytes(&account).unwrap();
        assert!(key.verify_signature(&by_account, signed.account_signature.as_deref().unwrap()));
        let by_device = [&[6, 1], device.as_slice(), own, &account].concat();
        let hand = if honest { self.identity.clone() } else { KeyPair::generate(&mut rand::rng()) };
        let signature = hand.private_key.calculate_signature(&by_device, &mut rand::rng()).unwrap();
        signed.device_signature = Some(signature.to_vec());
        let index = wa::ADVDeviceIdentity::decode_from_slice(&device).unwrap().key_index.unwrap();
        let identity =
            NodeBuilder::new("device-identity").attr("key-index", index).bytes(signed.encode_to_vec()).build();
        self.send(
            NodeBuilder::new("iq")
                .attr("type", "result")
                .attr("id", attr(&iq, "id"))
                .children([NodeBuilder::new("pair-device-sign").children([identity]).build()])
                .build(),
        )
        .await;
    }

    fn login_payload(&self) -> wa::ClientPayload {
        let jid = self.jid.as_ref().unwrap();
        wa::ClientPayload {
            username: jid.user.parse().ok(),
            device: Some(jid.device.into()),
            user_agent: Self::agent(),
            passive: Some(true),
            ..wa::ClientPayload::default()
        }
    }

    /// Opens a new connection with a login; returns the server's first stanza.
    pub(crate) async fn connect(&mut self, simulator: &Simulator, ik: bool) -> Option<Node> {
        let socket = Self::socket(&simulator.ws_url()).await;
        self.hang_up();
        let server = self.server.filter(|_| ik);
        let payload = self.login_payload();
        self.channel = handshake(socket, &self.noise, &payload, server, simulator.noise_root()).await;
        self.receive().await
    }

    /// Logs in by XX.
    pub(crate) async fn login(&mut self, simulator: &Simulator) {
        let first = self.connect(simulator, false).await.unwrap();
        assert_eq!(first.tag, "success", "{first:?}");
        assert_eq!(attr(&first, "lid").split(':').count(), 2);
    }

    pub(crate) async fn upload(&mut self, keys: u32) {
        let bytes = |tag, value: &[u8]| NodeBuilder::new(tag).bytes(value).build();
        let list = (0..keys).map(|id| {
            let key = KeyPair::generate(&mut rand::rng());
            let value = bytes("value", key.public_key.public_key_bytes());
            NodeBuilder::new("key").children([bytes("id", &id.to_be_bytes()[1..]), value]).build()
        });
        let mut signed = vec![5];
        signed.extend_from_slice(self.signed_key.public_key.public_key_bytes());
        let signature = self.identity.private_key.calculate_signature(&signed, &mut rand::rng()).unwrap();
        let signed_key = NodeBuilder::new("skey").children([
            bytes("id", &[0, 0, 1]),
            bytes("value", self.signed_key.public_key.public_key_bytes()),
            bytes("signature", signature.as_ref()),
        ]);
        let parts = [
            bytes("registration", &[0, 0, 0, 9]),
            bytes("type", &[5]),
            bytes("identity", self.identity.public_key.public_key_bytes()),
            NodeBuilder::new("list").children(list.collect::<Vec<_>>()).build(),
            signed_key.build(),
        ];
        let answer = self.ask("set", "encrypt", "s.whatsapp.net", parts).await;
        assert_eq!(attr(&answer, "type"), "result");
    }

    /// Asks to be active and reads on to the end of the backlog, acknowledging nothing. Returns the backlog.
    pub(crate) async fn activate(&mut self) -> Vec<Node> {
        self.ask("set", "passive", "s.whatsapp.net", [NodeBuilder::new("active").build()]).await;
        let mut backlog = Vec::new();
        loop {
            let stanza = self.receive().await.unwrap();
            match stanza.get_optional_child("offline") {
                Some(end) if stanza.tag == "ib" => {
                    assert_eq!(attr(end, "count"), backlog.len().to_string());
                    return backlog;
                }
                _ if stanza.tag == "ib" => {
                    if stanza.get_optional_child("offline_preview").is_some() {
                        let pull = NodeBuilder::new("offline_batch").attr("count", 200).build();
                        self.send(NodeBuilder::new("ib").children([pull]).build()).await;
                    }
                }
                _ => backlog.push(stanza),
            }
        }
    }

    pub(crate) async fn send(&mut self, node: Node) {
        self.channel.as_mut().unwrap().send(&node).await;
    }

    /// The next stanza, or `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<Node> {
        match self.skipped.pop_front() {
            Some(stanza) => Some(stanza),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Option<Node> {
        let channel = self.channel.as_mut()?;
        timeout(LIMIT, channel.receive()).await.expect("a stanza or the end of the stream")
    }

    /// The next stanza of a tag; others are kept for later.
    pub(crate) async fn next(&mut self, tag: &str) -> Node {
        if let Some(place) = self.skipped.iter().position(|stanza| stanza.tag == tag) {
            return self.skipped.remove(place).unwrap();
        }
        loop {
            let stanza = self.read().await.unwrap_or_else(|| panic!("the stream ended before a {tag}"));
            if stanza.tag == tag {
                return stanza;
            }
            self.skipped.push_back(stanza);
        }
    }

    /// Whether nothing comes for a moment. The only wait by the clock: silence has no event.
    pub(crate) async fn silence(&mut self) -> bool {
        let channel = self.channel.as_mut().unwrap();
        timeout(Duration::from_millis(300), channel.receive()).await.is_err()
    }

    pub(crate) async fn ask(
        &mut self,
        kind: &'static str,
        xmlns: &'static str,
        to: &str,
        content: impl IntoIterator<Item = Node>,
    ) -> Node {
        let id = format!("q{}", rand::random::<u32>());
        let iq = NodeBuilder::new("iq").attr("id", &id).attr("type", kind).attr("xmlns", xmlns).attr("to", to);
        self.send(iq.children(content).build()).await;
        loop {
            let answer = self.next("iq").await;
            if attr(&answer, "id") == id {
                return answer;
            }
        }
    }

    /// Says that a message has arrived.
    pub(crate) async fn confirm(&mut self, message: &Node) {
        let receipt = NodeBuilder::new("receipt").attr("id", attr(message, "id")).attr("to", attr(message, "from"));
        self.send(receipt.build()).await;
        self.next("ack").await;
    }

    pub(crate) fn hang_up(&mut self) {
        self.skipped.clear();
        self.channel = None;
    }

    pub(crate) fn compressed(&self) -> u32 {
        self.channel.as_ref().map_or(0, |channel| channel.compressed)
    }

    /// Over TLS with the test root instead of plainly: connects with a login.
    pub(crate) async fn connect_securely(&mut self, simulator: &Simulator) -> Option<Node> {
        use rustls::pki_types::pem::PemObject as _;
        let url = simulator.wss_url().unwrap();
        let port = url.trim_start_matches("wss://localhost:").trim_end_matches("/ws/chat");
        let mut roots = rustls::RootCertStore::empty();
        let pem = simulator.root_pem().unwrap();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let stream: Box<dyn Io> = Box::new(connector.connect("localhost".try_into().unwrap(), stream).await.unwrap());
        let (socket, _) = tokio_tungstenite::client_async(&url, stream).await.unwrap();
        let payload = self.login_payload();
        self.channel = handshake(Socket::new(socket), &self.noise, &payload, None, simulator.noise_root()).await;
        self.receive().await
    }
}
