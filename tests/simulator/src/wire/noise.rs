//! The Noise responder: XX, IK (zero round trips to the login) and `XXfallback` when an IK hello is declined.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use anyhow::{Context as _, anyhow, bail, ensure};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use whatsapp_rust::waproto::buffa::{Message as _, MessageField};
use whatsapp_rust::waproto::whatsapp::handshake_message::{ClientHello, ServerHello};
use whatsapp_rust::waproto::whatsapp::{ClientPayload, HandshakeMessage};
use x25519_dalek::{PublicKey, StaticSecret};

use super::Cipher;
use super::certificate::NoiseIdentity;
use super::frame::{FrameReader, FrameWriter, PROLOGUE};

/// Which of the three handshakes ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    Xx,
    Ik,
    XxFallback,
}

impl Pattern {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Xx => b"Noise_XX_25519_AESGCM_SHA256\0\0\0\0",
            Self::Ik => b"Noise_IK_25519_AESGCM_SHA256\0\0\0\0",
            Self::XxFallback => b"Noise_XXfallback_25519_AESGCM_SHA256",
        }
    }

    pub(crate) fn feature(self) -> &'static str {
        match self {
            Self::Xx => "xx",
            Self::Ik => "ik",
            Self::XxFallback => "xxfallback",
        }
    }
}

/// What a finished handshake yields.
pub(crate) struct Handshake {
    pub(crate) pattern: Pattern,
    /// The client's Noise static key.
    pub(crate) client: [u8; 32],
    pub(crate) payload: ClientPayload,
    pub(crate) sending: Cipher,
    pub(crate) receiving: Cipher,
}

/// What becomes of an IK hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnIk {
    Accept,
    /// As a server whose key has changed: `XXfallback`.
    Decline,
    /// As a server that knows only XX.
    AnswerByXx,
    /// The connection ends.
    Close,
}

/// Answers a client's handshake.
pub(crate) async fn respond(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    identity: &NoiseIdentity,
    on_ik: OnIk,
) -> anyhow::Result<Handshake> {
    let hello = HandshakeMessage::decode_from_slice(&reader.frame().await?.context("no client hello")?)?;
    let hello = hello.client_hello.as_option().context("the first frame is no client hello")?;
    let ephemeral = key(hello.ephemeral.as_deref(), "client hello's ephemeral")?;
    if hello.r#static.is_some() && hello.payload.is_some() {
        // A hello sealed to another key cannot be opened, and is then declined as well.
        match on_ik {
            OnIk::Close => bail!("IK hellos are not answered"),
            OnIk::AnswerByXx => return exchange(reader, writer, identity, &ephemeral, Pattern::Xx).await,
            OnIk::Accept | OnIk::Decline => {}
        }
        if on_ik == OnIk::Accept
            && let Ok(opened) = open_ik(identity, hello, &ephemeral)
        {
            return accept_ik(writer, identity, &ephemeral, opened).await;
        }
        return exchange(reader, writer, identity, &ephemeral, Pattern::XxFallback).await;
    }
    exchange(reader, writer, identity, &ephemeral, Pattern::Xx).await
}

async fn exchange(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    identity: &NoiseIdentity,
    ephemeral: &[u8; 32],
    pattern: Pattern,
) -> anyhow::Result<Handshake> {
    let mut noise = Symmetric::new(pattern);
    noise.mix(ephemeral);
    let (own, own_public) = fresh();
    noise.mix(&own_public);
    noise.mix_key(&own, ephemeral)?;
    let sealed_static = noise.seal(&identity.public)?;
    noise.mix_key(&identity.secret, ephemeral)?;
    let sealed_chain = noise.seal(&identity.chain)?;
    writer.send(&server_hello(&own_public, Some(sealed_static), sealed_chain)).await?;

    let finish = HandshakeMessage::decode_from_slice(&reader.frame().await?.context("no client finish")?)?;
    let finish = finish.client_finish.as_option().context("the second frame is no client finish")?;
    let client = noise.open(finish.r#static.as_deref().context("no static key in the client finish")?)?;
    let client = key(Some(&client), "client's static key")?;
    noise.mix_key(&own, &client)?;
    let payload = noise.open(finish.payload.as_deref().context("no payload in the client finish")?)?;
    noise.finish(pattern, client, &payload)
}

fn open_ik(
    identity: &NoiseIdentity,
    hello: &ClientHello,
    ephemeral: &[u8; 32],
) -> anyhow::Result<(Symmetric, [u8; 32], Vec<u8>)> {
    let mut noise = Symmetric::new(Pattern::Ik);
    noise.mix(&identity.public);
    noise.mix(ephemeral);
    noise.mix_key(&identity.secret, ephemeral)?;
    let client = noise.open(hello.r#static.as_deref().context("no static key in the hello")?)?;
    let client = key(Some(&client), "client's static key")?;
    noise.mix_key(&identity.secret, &client)?;
    let payload = noise.open(hello.payload.as_deref().context("no payload in the hello")?)?;
    Ok((noise, client, payload))
}

async fn accept_ik(
    writer: &mut FrameWriter,
    identity: &NoiseIdentity,
    ephemeral: &[u8; 32],
    (mut noise, client, payload): (Symmetric, [u8; 32], Vec<u8>),
) -> anyhow::Result<Handshake> {
    let (own, own_public) = fresh();
    noise.mix(&own_public);
    noise.mix_key(&own, ephemeral)?;
    noise.mix_key(&own, &client)?;
    let sealed_chain = noise.seal(&identity.chain)?;
    writer.send_soon(&server_hello(&own_public, None, sealed_chain)).await?;
    noise.finish(Pattern::Ik, client, &payload)
}

fn server_hello(ephemeral: &[u8; 32], sealed_static: Option<Vec<u8>>, sealed_chain: Vec<u8>) -> Vec<u8> {
    HandshakeMessage {
        server_hello: MessageField::some(ServerHello {
            ephemeral: Some(ephemeral.to_vec()),
            r#static: sealed_static,
            payload: Some(sealed_chain),
            ..ServerHello::default()
        }),
        ..HandshakeMessage::default()
    }
    .encode_to_vec()
}

fn fresh() -> (StaticSecret, [u8; 32]) {
    let secret = StaticSecret::from(rand::random::<[u8; 32]>());
    let public = PublicKey::from(&secret).to_bytes();
    (secret, public)
}

fn key(bytes: Option<&[u8]>, what: &str) -> anyhow::Result<[u8; 32]> {
    bytes.and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("{what} is not 32 bytes"))
}

/// The symmetric state of the Noise framework.
struct Symmetric {
    hash: [u8; 32],
    chaining: [u8; 32],
    key: [u8; 32],
    counter: u32,
}

impl Symmetric {
    fn new(pattern: Pattern) -> Self {
        let name = pattern.name();
        let start = <[u8; 32]>::try_from(name).unwrap_or_else(|_| Sha256::digest(name).into());
        let mut noise = Self { hash: start, chaining: start, key: start, counter: 0 };
        noise.mix(&PROLOGUE);
        noise
    }

    fn mix(&mut self, data: &[u8]) {
        self.hash = Sha256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    fn mix_key(&mut self, ours: &StaticSecret, theirs: &[u8; 32]) -> anyhow::Result<()> {
        let shared = ours.diffie_hellman(&PublicKey::from(*theirs));
        ensure!(shared.was_contributory(), "a public key of low order");
        (self.chaining, self.key) = self.derive(shared.as_bytes())?;
        self.counter = 0;
        Ok(())
    }

    fn derive(&self, input: &[u8]) -> anyhow::Result<([u8; 32], [u8; 32])> {
        let mut output = [0; 64];
        Hkdf::<Sha256>::new(Some(&self.chaining), input).expand(&[], &mut output).map_err(|e| anyhow!("{e}"))?;
        let (mut first, mut second) = ([0; 32], [0; 32]);
        first.copy_from_slice(&output[..32]);
        second.copy_from_slice(&output[32..]);
        Ok((first, second))
    }

    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter += 1;
        nonce
    }

    fn seal(&mut self, clear: &[u8]) -> anyhow::Result<Vec<u8>> {
        let nonce = self.nonce();
        let sealed = Aes256Gcm::new((&self.key).into())
            .encrypt(Nonce::from_slice(&nonce), Payload { msg: clear, aad: &self.hash })
            .map_err(|_| anyhow!("sealing a handshake field"))?;
        self.mix(&sealed);
        Ok(sealed)
    }

    fn open(&mut self, sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        let nonce = self.nonce();
        let clear = Aes256Gcm::new((&self.key).into())
            .decrypt(Nonce::from_slice(&nonce), Payload { msg: sealed, aad: &self.hash })
            .map_err(|_| anyhow!("a handshake field does not open"))?;
        self.mix(sealed);
        Ok(clear)
    }

    fn finish(self, pattern: Pattern, client: [u8; 32], payload: &[u8]) -> anyhow::Result<Handshake> {
        let (theirs, ours) = self.derive(&[])?;
        Ok(Handshake {
            pattern,
            client,
            payload: ClientPayload::decode_from_slice(payload).context("decoding the client payload")?,
            sending: Cipher::new(&ours),
            receiving: Cipher::new(&theirs),
        })
    }
}
