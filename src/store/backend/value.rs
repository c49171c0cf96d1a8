//! The values of a session's namespace.
//!
//! What the library hands over as bytes is stored as it is: its format is the library's own. Its records are a format byte
//! and JSON: they gain fields between releases, some leave fields out, and key pairs read only as sequences, which rules
//! out the compact codecs. The rows written for every message are our own fixed layouts.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use whatsapp_rust::wacore::store::error::{Result, StoreError};
use whatsapp_rust::wacore::store::traits::MessageSecret;

/// First byte of every value that is not stored as the library gave it.
const FORMAT: u8 = 1;
const PAIRED: u8 = 1;

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("a stored row has the unknown format {0:?}")]
    Format(Option<u8>),
    #[error("a stored row has the wrong size")]
    Size,
}

pub(super) fn unreadable() -> StoreError {
    StoreError::Serialization(Box::new(Unreadable::Size))
}

pub(super) fn json(record: &impl Serialize) -> Result<Bytes> {
    extend_json(vec![FORMAT], record)
}

fn extend_json(mut value: Vec<u8>, record: &impl Serialize) -> Result<Bytes> {
    serde_json::to_writer(&mut value, record).map_err(|error| StoreError::Serialization(Box::new(error)))?;
    Ok(value.into())
}

pub(super) fn from_json<T: DeserializeOwned>(value: &[u8]) -> Result<T> {
    serde_json::from_slice(body(value)?).map_err(|error| StoreError::Serialization(Box::new(error)))
}

fn body(value: &[u8]) -> Result<&[u8]> {
    match value.split_first() {
        Some((&FORMAT, body)) => Ok(body),
        other => Err(StoreError::Serialization(Box::new(Unreadable::Format(other.map(|(&format, _)| format))))),
    }
}

/// The device, with a byte before it that says whether it is paired.
pub(super) fn device(paired: bool, device: &impl Serialize) -> Result<Bytes> {
    extend_json(vec![FORMAT, if paired { PAIRED } else { 0 }], device)
}

pub(super) fn from_device<T: DeserializeOwned>(value: &[u8]) -> Result<T> {
    let json = body(value)?.get(1..).ok_or_else(unreadable)?;
    serde_json::from_slice(json).map_err(|error| StoreError::Serialization(Box::new(error)))
}

pub(super) fn is_paired(value: &[u8]) -> bool {
    matches!(value, [FORMAT, flags, ..] if flags & PAIRED != 0)
}

/// A time, then bytes of the library.
pub(super) fn stamped(at: i64, payload: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(9 + payload.len());
    value.push(FORMAT);
    value.extend_from_slice(&at.to_be_bytes());
    value.extend_from_slice(payload);
    value.into()
}

pub(super) fn from_stamped(value: &[u8]) -> Result<(i64, &[u8])> {
    let (at, payload) = body(value)?.split_first_chunk().ok_or_else(unreadable)?;
    Ok((i64::from_be_bytes(*at), payload))
}

/// A message secret with its deadline (zero: none) and the time of its message (zero: unknown), in Unix seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secret {
    pub(super) bytes: MessageSecret,
    pub(super) expires_at: i64,
    pub(super) message_ts: i64,
}

impl Secret {
    pub(super) fn to_bytes(self) -> Bytes {
        let mut value = Vec::with_capacity(17 + self.bytes.len());
        value.push(FORMAT);
        value.extend_from_slice(&self.expires_at.to_be_bytes());
        value.extend_from_slice(&self.message_ts.to_be_bytes());
        value.extend_from_slice(&self.bytes);
        value.into()
    }

    pub(super) fn from_bytes(value: &[u8]) -> Result<Self> {
        let (expires_at, rest) = body(value)?.split_first_chunk().ok_or_else(unreadable)?;
        let (message_ts, secret) = rest.split_first_chunk().ok_or_else(unreadable)?;
        Ok(Self {
            bytes: secret.try_into().map_err(|_| unreadable())?,
            expires_at: i64::from_be_bytes(*expires_at),
            message_ts: i64::from_be_bytes(*message_ts),
        })
    }
}
