//! The device: keys, JID and counters of the companion.
//!
//! whatsapp-rust 0.7.0 (`pair.rs`) answers the phone's word and says only then that it is paired; its own saver may come any
//! time. Between the two a kill, or a disk that takes nothing, would leave a device at the phone that nobody here has. But
//! before the answer it stores which LID belongs to the own number, when the device has all that it needs for a login.

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use whatsapp_rust::ClientProfile;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::device::DEVICE_PROPS;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::DeviceStore;

use super::secret::Own;
use super::{SessionBackend, key, value};

/// What is stored of a session's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing: the session never got so far, or its credentials are gone.
    Absent,
    /// One that no phone has accepted.
    Unpaired,
    /// One that can log in.
    Paired,
    /// One that can't be read: neither may it log in, nor may another take its place unasked.
    Damaged,
}

impl Stored {
    /// Of the device's row; reads all of it.
    pub fn of(row: Option<&[u8]>) -> Self {
        match row {
            None => Self::Absent,
            Some(row) if value::from_device::<Device>(row).is_err() => Self::Damaged,
            Some(row) if value::is_paired(row) => Self::Paired,
            Some(_) => Self::Unpaired,
        }
    }

    /// The key of the device's row.
    pub const KEY: &[u8] = key::DEVICE;
}

/// What tells the credentials with this row of a device from all others, as a takeover notes it.
///
/// # Errors
/// When the row can't be read.
pub fn identity(row: &[u8]) -> Result<String> {
    let device: Device = value::from_device(row)?;
    Ok(hex::encode(Sha256::digest(device.identity_key.public_key.public_key_bytes())))
}

/// Tells the device as it is in memory; `None`: its client is gone.
pub(super) type Pairing = Box<dyn Fn() -> Option<Device> + Send + Sync>;

/// The public identity key, by which a device is told from those before it.
pub(super) type Identity = [u8; 32];

/// The library sets the address before the account's signature; only both make a device that can log in and write.
fn is_paired(device: &Device) -> bool {
    device.pn.is_some() && device.account.is_some()
}

impl SessionBackend {
    /// Has a device that no phone has accepted yet stored before WhatsApp is told that it is paired. `device` tells what the
    /// client has of it, and must not keep the client alive.
    pub fn store_when_paired(&self, device: impl Fn() -> Option<Device> + Send + Sync + 'static) {
        *self.pairing.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(device));
    }

    /// Stores the device that a phone has just accepted. If that fails, nothing leaves the connection any more: the phone
    /// does not hear that it was accepted, and shows no device.
    pub(super) async fn store_paired(&self) -> Result<()> {
        let device = {
            let pairing = self.pairing.lock().unwrap_or_else(PoisonError::into_inner);
            pairing.as_ref().and_then(|device| device()).filter(is_paired)
        };
        let Some(device) = device else { return Ok(()) };
        if let Err(error) = self.save(&device).await {
            self.poison();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, source, "a pairing is broken off: its device can't be stored");
            return Err(error);
        }
        *self.pairing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

#[async_trait]
impl DeviceStore for SessionBackend {
    async fn save(&self, device: &Device) -> Result<()> {
        let paired = is_paired(device);
        let mut stored = self.device.lock().await;
        let identity: Option<Identity> = device.identity_key.public_key.public_key_bytes().try_into().ok();
        if !paired && identity.is_some() && *stored == identity {
            // The library's saver has taken it before the phone accepted it, and comes late.
            return Ok(());
        }
        let (row, value) = (Bytes::from_static(key::DEVICE), value::device(paired, device)?);
        // One that no phone has accepted is as good as a new one: the first code need not wait for the disk.
        let written = if paired { self.put(row, value).await } else { self.put_buffered(row, value).await };
        written?;
        *stored = identity.filter(|_identity| paired);
        *self.own() = Some(Own::of(device));
        Ok(())
    }

    /// The props and the profile are not stored: they come back as a new device has them, until the caller sets its own.
    async fn load(&self) -> Result<Option<Device>> {
        let Some(row) = self.get(key::DEVICE).await? else {
            return Ok(None);
        };
        let mut device: Device = value::from_device(&row)?;
        device.device_props = Arc::new(DEVICE_PROPS.clone());
        device.client_profile = ClientProfile::web();
        Ok(Some(device))
    }

    async fn exists(&self) -> Result<bool> {
        Ok(self.get(key::DEVICE).await?.is_some())
    }

    /// Makes none: where [`load`](Self::load) finds none the library begins with one of its own, and its saver brings it here.
    /// One made here would be keys twice, a fifth of the time until the first code. There is one device in a namespace; the id
    /// only reaches the library's log.
    async fn create(&self) -> Result<i32> {
        Ok(1)
    }
}
