//! The device: keys, JID and counters of the companion.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use whatsapp_rust::ClientProfile;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::device::DEVICE_PROPS;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::DeviceStore;

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

#[async_trait]
impl DeviceStore for SessionBackend {
    async fn save(&self, device: &Device) -> Result<()> {
        // The library sets the address before the account's signature; only both make a device that can log in and write.
        let paired = device.pn.is_some() && device.account.is_some();
        let (row, value) = (Bytes::from_static(key::DEVICE), value::device(paired, device)?);
        // One that no phone has accepted is as good as a new one: the first code need not wait for the disk.
        if paired { self.put(row, value).await } else { self.put_buffered(row, value).await }
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

    /// There is one device in a namespace; the id only reaches the library's log.
    async fn create(&self) -> Result<i32> {
        if !self.exists().await? {
            self.save(&Device::new()).await?;
        }
        Ok(1)
    }
}
