//! A Noise initiator: XX, and IK with a known server key, falling back when the server declines.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use futures_util::{SinkExt as _, StreamExt as _};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use whatsapp_rust::wacore::libsignal::protocol::PublicKey as SigningKey;
use whatsapp_rust::wacore_binary::marshal::{marshal, unmarshal_ref};
use whatsapp_rust::wacore_binary::{Node, util};
use whatsapp_rust::waproto::buffa::{Message as _, MessageField};
use whatsapp_rust::waproto::whatsapp::cert_chain::noise_certificate::Details;
use whatsapp_rust::waproto::whatsapp::handshake_message::{ClientFinish, ClientHello};
use whatsapp_rust::waproto::whatsapp::{CertChain, ClientPayload, HandshakeMessage};
use x25519_dalek::{PublicKey, StaticSecret};

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(crate) struct Socket {
    socket: WebSocketStream<Box<dyn Io>>,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn new(socket: WebSocketStream<Box<dyn Io>>) -> Self {
        Self { socket, buffer: Vec::new() }
    }

    async fn send(&mut self, before: &[u8], body: &[u8]) {
        let mut message = before.to_vec();
        message.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        message.extend_from_slice(body);
        // In two WebSocket messages, since frames and messages need not agree.
        let rest = message.split_off(message.len() / 2);
        self.socket.send(Message::Binary(message.into())).await.unwrap();
        self.socket.send(Message::Binary(rest.into())).await.unwrap();
    }

    async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let [a, b, c, ..] = self.buffer[..] {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.buffer.len() >= 3 + length {
                    let rest = self.buffer.split_off(3 + length);
                    return Some(std::mem::replace(&mut self.buffer, rest).split_off(3));
                }
            }
            match self.socket.next().await {
                Some(Ok(Message::Binary(data))) => self.buffer.extend_from_slice(&data),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }
}

/// A finished handshake.
pub(crate) struct Channel {
    socket: Socket,
    sending: (Aes256Gcm, u32),
    receiving: (Aes256Gcm, u32),
    /// The server's static key, as its certificate says it.
    pub(crate) server: [u8; 32],
    /// Frames that came compressed.
    pub(crate) compressed: u32,
}

impl Channel {
    pub(crate) async fn send(&mut self, node: &Node) {
        let sealed = seal(&mut self.sending, &marshal(node).unwrap(), &[]);
        self.socket.send(&[], &sealed).await;
    }

    /// The next stanza; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<Node> {
        let frame = self.socket.frame().await?;
        let (key, counter) = &mut self.receiving;
        let clear = key.decrypt(Nonce::from_slice(&nonce(*counter)), Payload { msg: &frame, aad: &[] }).unwrap();
        *counter += 1;
        self.compressed += u32::from(clear[0] & 2 != 0);
        let plain = util::unpack(&clear).unwrap();
        Some(unmarshal_ref(&plain).unwrap().to_owned())
    }
}

fn nonce(counter: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

fn seal((key, counter): &mut (Aes256Gcm, u32), clear: &[u8], aad: &[u8]) -> Vec<u8> {
    let sealed = key.encrypt(Nonce::from_slice(&nonce(*counter)), Payload { msg: clear, aad }).unwrap();
    *counter += 1;
    sealed
}

struct Symmetric {
    hash: [u8; 32],
    chaining: [u8; 32],
    key: (Aes256Gcm, u32),
}

impl Symmetric {
    fn new(name: &[u8]) -> Self {
        let start: [u8; 32] = name.try_into().unwrap_or_else(|_| Sha256::digest(name).into());
        let mut noise = Self { hash: start, chaining: start, key: (Aes256Gcm::new(&start.into()), 0) };
        noise.mix(b"WA\x06\x03");
        noise
    }

    fn mix(&mut self, data: &[u8]) {
        self.hash = Sha256::digest([self.hash.as_slice(), data].concat()).into();
    }

    fn derive(&self, input: &[u8]) -> ([u8; 32], [u8; 32]) {
        let mut output = [0; 64];
        Hkdf::<Sha256>::new(Some(&self.chaining), input).expand(&[], &mut output).unwrap();
        (output[..32].try_into().unwrap(), output[32..].try_into().unwrap())
    }

    fn mix_key(&mut self, ours: &StaticSecret, theirs: &[u8; 32]) {
        let (chaining, key) = self.derive(ours.diffie_hellman(&PublicKey::from(*theirs)).as_bytes());
        self.chaining = chaining;
        self.key = (Aes256Gcm::new(&key.into()), 0);
    }

    fn seal(&mut self, clear: &[u8]) -> Vec<u8> {
        let sealed = seal(&mut self.key, clear, &self.hash);
        self.mix(&sealed);
        sealed
    }

    fn open(&mut self, sealed: &[u8]) -> Vec<u8> {
        let (key, counter) = &mut self.key;
        let clear = key.decrypt(Nonce::from_slice(&nonce(*counter)), Payload { msg: sealed, aad: &self.hash }).unwrap();
        *counter += 1;
        self.mix(sealed);
        clear
    }

    fn channel(self, socket: Socket, server: [u8; 32]) -> Channel {
        let (ours, theirs) = self.derive(&[]);
        let cipher = |key: [u8; 32]| (Aes256Gcm::new(&key.into()), 0);
        Channel { socket, sending: cipher(ours), receiving: cipher(theirs), server, compressed: 0 }
    }
}

/// Runs the handshake: IK when the server's key is given, XX otherwise. Checks the certificates under the root.
pub(crate) async fn handshake(
    mut socket: Socket,
    own: &StaticSecret,
    payload: &ClientPayload,
    server: Option<[u8; 32]>,
    root: [u8; 32],
) -> Option<Channel> {
    let ephemeral = StaticSecret::from(rand::random::<[u8; 32]>());
    let ephemeral_public = PublicKey::from(&ephemeral).to_bytes();
    let own_public = PublicKey::from(own).to_bytes();
    let mut hello = ClientHello { ephemeral: Some(ephemeral_public.to_vec()), ..ClientHello::default() };
    let mut ik = None;
    if let Some(server) = server {
        let mut noise = Symmetric::new(b"Noise_IK_25519_AESGCM_SHA256\0\0\0\0");
        noise.mix(&server);
        noise.mix(&ephemeral_public);
        noise.mix_key(&ephemeral, &server);
        hello.r#static = Some(noise.seal(&own_public));
        noise.mix_key(own, &server);
        hello.payload = Some(noise.seal(&payload.encode_to_vec()));
        ik = Some((noise, server));
    }
    let hello = HandshakeMessage { client_hello: MessageField::some(hello), ..HandshakeMessage::default() };
    // Routing information, as clients that were here before send it, and the prologue.
    let before = if server.is_some() { b"ED\x00\x01\x00\x00\x02\x08\x05WA\x06\x03".as_slice() } else { b"WA\x06\x03" };
    socket.send(before, &hello.encode_to_vec()).await;

    let answer = HandshakeMessage::decode_from_slice(&socket.frame().await?).unwrap();
    let answer = answer.server_hello.as_option().unwrap().clone();
    let theirs: [u8; 32] = answer.ephemeral.unwrap().try_into().unwrap();
    let chain = answer.payload.unwrap();
    if let (Some((mut noise, server)), None) = (ik, &answer.r#static) {
        noise.mix(&theirs);
        noise.mix_key(&ephemeral, &theirs);
        noise.mix_key(own, &theirs);
        assert_eq!(check(&noise.open(&chain), root), server);
        return Some(noise.channel(socket, server));
    }
    let name: &[u8] = match server {
        Some(_) => b"Noise_XXfallback_25519_AESGCM_SHA256",
        None => b"Noise_XX_25519_AESGCM_SHA256\0\0\0\0",
    };
    let mut noise = Symmetric::new(name);
    noise.mix(&ephemeral_public);
    noise.mix(&theirs);
    noise.mix_key(&ephemeral, &theirs);
    let server: [u8; 32] = noise.open(&answer.r#static.unwrap()).try_into().unwrap();
    noise.mix_key(&ephemeral, &server);
    assert_eq!(check(&noise.open(&chain), root), server);
    let sealed_static = noise.seal(&own_public);
    noise.mix_key(own, &theirs);
    let sealed_payload = noise.seal(&payload.encode_to_vec());
    let finish =
        ClientFinish { r#static: Some(sealed_static), payload: Some(sealed_payload), ..ClientFinish::default() };
    let finish = HandshakeMessage { client_finish: MessageField::some(finish), ..HandshakeMessage::default() };
    socket.send(&[], &finish.encode_to_vec()).await;
    Some(noise.channel(socket, server))
}

/// Verifies both certificates and returns the key in the leaf.
fn check(chain: &[u8], root: [u8; 32]) -> [u8; 32] {
    let chain = CertChain::decode_from_slice(chain).unwrap();
    let verified = |certificate: &whatsapp_rust::waproto::whatsapp::cert_chain::NoiseCertificate, signer: &[u8]| {
        let details = certificate.details.clone().unwrap();
        let signer = SigningKey::from_djb_public_key_bytes(signer).unwrap();
        assert!(signer.verify_signature(&details, certificate.signature.as_deref().unwrap()));
        Details::decode_from_slice(&details).unwrap()
    };
    let intermediate = verified(chain.intermediate.as_option().unwrap(), &root);
    assert_eq!(intermediate.issuer_serial.unwrap_or_default(), 0);
    let leaf = verified(chain.leaf.as_option().unwrap(), intermediate.key.as_deref().unwrap());
    assert_eq!(leaf.issuer_serial, intermediate.serial);
    leaf.key.unwrap().try_into().unwrap()
}
