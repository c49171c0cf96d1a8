//! Everything below a stanza: WebSocket, frames, the Noise responder, the sealed transport.
//!
//! `accept` upgrades a stream, `noise::respond` runs the handshake on it, and the two halves then carry nodes. Nothing
//! here knows accounts; the connection room does.

pub(crate) mod certificate;
pub(crate) mod frame;
pub(crate) mod noise;
pub(crate) mod tls;

use std::io::Write as _;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use anyhow::{Context as _, anyhow};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use whatsapp_rust::wacore_binary::marshal::{marshal, unmarshal_ref};
use whatsapp_rust::wacore_binary::{Node, util};

/// Nodes smaller than this are sent plain even when compression is on.
const COMPRESS_FROM_BYTES: usize = 128;

/// One direction of the sealed transport: AES-256-GCM with a counter as nonce and no additional data.
pub(crate) struct Cipher {
    key: Aes256Gcm,
    counter: u32,
}

impl Cipher {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self { key: Aes256Gcm::new(key.into()), counter: 0 }
    }

    pub(crate) fn seal(&mut self, clear: &[u8]) -> anyhow::Result<Vec<u8>> {
        let nonce = self.nonce();
        self.key.encrypt(Nonce::from_slice(&nonce), Payload { msg: clear, aad: &[] }).map_err(|_| anyhow!("sealing"))
    }

    pub(crate) fn open(&mut self, sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        let nonce = self.nonce();
        self.key
            .decrypt(Nonce::from_slice(&nonce), Payload { msg: sealed, aad: &[] })
            .map_err(|_| anyhow!("a frame does not open under counter {}", self.counter - 1))
    }

    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter += 1;
        nonce
    }
}

/// Clear text of a frame: the flag byte and the encoded node, deflated when asked and worth it.
pub(crate) fn pack(node: &Node, compress: bool) -> anyhow::Result<(Vec<u8>, bool)> {
    let plain = marshal(node).context("encoding a node")?;
    if !compress || plain.len() < COMPRESS_FROM_BYTES {
        return Ok((plain, false)); // `marshal` writes the flag byte 0 itself
    }
    let mut deflated = vec![2];
    let mut encoder = ZlibEncoder::new(&mut deflated, Compression::fast());
    encoder.write_all(&plain[1..])?;
    encoder.finish()?;
    Ok((deflated, true))
}

/// The node in the clear text of a frame.
pub(crate) fn unpack(clear: &[u8]) -> anyhow::Result<Node> {
    let plain = util::unpack(clear).context("inflating a frame")?;
    Ok(unmarshal_ref(&plain).context("decoding a node")?.to_owned())
}
