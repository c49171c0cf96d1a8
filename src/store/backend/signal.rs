//! Signal state: identities, sessions, pre-keys, sender keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::SignalStore;

use super::lease::Grant;
use super::{ROWS_FIRST, SessionBackend, key, value};
use crate::store::{Batch, KeyRange};

fn puts<V: Clone + Into<Bytes>>(table: u8, rows: &[(Arc<str>, V)]) -> Batch {
    rows.iter().fold(Batch::new(), |batch, (name, value)| batch.put(key::named(table, &**name), value.clone()))
}

#[async_trait]
impl SignalStore for SessionBackend {
    async fn put_identity(&self, address: &str, identity: [u8; 32]) -> Result<()> {
        self.put_buffered(key::named(key::IDENTITY, address), Bytes::copy_from_slice(&identity)).await
    }

    async fn put_identities_batch(&self, identities: &[(Arc<str>, [u8; 32])]) -> Result<()> {
        let batch = identities.iter().fold(Batch::new().buffered().loose(), |batch, (address, identity)| {
            batch.put(key::named(key::IDENTITY, &**address), Bytes::copy_from_slice(identity))
        });
        self.write(batch).await
    }

    async fn load_identity(&self, address: &str) -> Result<Option<[u8; 32]>> {
        let row = self.get(&key::named(key::IDENTITY, address)).await?;
        row.map(|row| row.as_ref().try_into().map_err(|_| value::unreadable())).transpose()
    }

    async fn delete_identity(&self, address: &str) -> Result<()> {
        self.remove(key::named(key::IDENTITY, address)).await
    }

    async fn get_session(&self, address: &str) -> Result<Option<Bytes>> {
        if let Some(held) = self.held.lock().await.get(address) {
            return Ok(Some(held));
        }
        self.get(&key::named(key::SESSION, address)).await
    }

    async fn put_session(&self, address: &str, session: &[u8]) -> Result<()> {
        let mut held = self.held.lock().await;
        self.leases().forget(address);
        held.forget(address);
        self.write_ratchets(Batch::new().put(key::named(key::SESSION, address), Bytes::copy_from_slice(session))).await
    }

    /// whatsapp-rust 0.7.0 flushes all ratchets that moved, also that of a message in another chat which is decrypted
    /// but whose pending row is not written yet; a kill right after such a flush would lose that message (on its
    /// redelivery it counts as seen). Its row comes within microseconds, so while several chats are busy the flush lets
    /// it go first. Where nothing was received there is no such row, and a send waits for nothing.
    ///
    /// Stored and flushed only when something may be sent that a record on disk does not know of (see `lease`); else held for a
    /// later write (see `held`).
    async fn put_sessions_batch(&self, sessions: &[(Arc<str>, Bytes)]) -> Result<()> {
        self.takes_more().await?;
        let (mut heard, mut urgent) = (false, Vec::new());
        let mut held = self.held.lock().await;
        {
            let mut leases = self.leases();
            for (address, record) in sessions {
                let grant = leases.grant(address, record);
                if grant.covered {
                    held.put(address, &grant);
                    leases.written(address, grant.stored);
                } else {
                    heard |= grant.heard;
                    urgent.push((address, grant));
                }
            }
        }
        let all = held.is_much();
        if urgent.is_empty() && !all {
            return Ok(());
        }
        heard &= sessions.len() > 1 || self.several_chats_are_busy();
        if heard || all && held.has_just_heard() {
            tokio::time::sleep(ROWS_FIRST).await;
        }
        let batch = Batch::new().loose();
        let batch = if urgent.is_empty() { batch.buffered() } else { batch };
        let batch = if all { held.add_to(batch) } else { batch };
        let add = |batch: Batch, (address, grant): &(&Arc<str>, Grant)| {
            batch.put(key::named(key::SESSION, &***address), grant.row.clone())
        };
        let batch = urgent.iter().fold(batch, add);
        for (address, _) in &urgent {
            held.forget(address);
        }
        self.write_ratchets(batch).await?;
        if all {
            held.clear();
        }
        let mut leases = self.leases();
        for (address, grant) in urgent {
            leases.written(address, grant.stored);
        }
        Ok(())
    }

    async fn delete_session(&self, address: &str) -> Result<()> {
        let mut held = self.held.lock().await;
        self.leases().forget(address);
        held.forget(address);
        self.remove(key::named(key::SESSION, address)).await
    }

    /// What is held has an older row in the store.
    async fn has_session(&self, address: &str) -> Result<bool> {
        Ok(self.get(&key::named(key::SESSION, address)).await?.is_some())
    }

    async fn has_signal_state_for_user(&self, user: &str) -> Result<bool> {
        for table in [key::SESSION, key::IDENTITY] {
            for mark in ["@", ":"] {
                if self.any([&[table], user.as_bytes(), mark.as_bytes()].concat()).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn store_prekey(&self, id: u32, record: &[u8], _uploaded: bool) -> Result<()> {
        self.put_prekeys(vec![(id, Bytes::copy_from_slice(record))]).await
    }

    async fn store_prekeys_batch(&self, keys: &[(u32, Bytes)], _uploaded: bool) -> Result<()> {
        self.put_prekeys(keys.to_vec()).await
    }

    async fn load_prekey(&self, id: u32) -> Result<Option<Bytes>> {
        Ok(self.prekeys(&[id]).await?.pop().map(|(_id, record)| record))
    }

    async fn load_prekeys_batch(&self, ids: &[u32]) -> Result<Vec<(u32, Bytes)>> {
        self.prekeys(ids).await
    }

    /// Nothing: which keys were uploaded is told by the device's own row (`first_unupload_pre_key_id`), which the library
    /// stores before the upload, and nobody asks a key.
    async fn mark_prekeys_uploaded(&self, _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    /// Buffered, behind the session that it began; a key that comes back is asked for by nobody.
    async fn remove_prekey(&self, id: u32) -> Result<()> {
        self.store_held().await?;
        self.drop_prekey(id).await
    }

    async fn get_max_prekey_id(&self) -> Result<u32> {
        self.last_prekey().await
    }

    async fn store_signed_prekey(&self, id: u32, record: &[u8]) -> Result<()> {
        self.put(key::numbered(key::SIGNED_PREKEY, id), Bytes::copy_from_slice(record)).await
    }

    async fn load_signed_prekey(&self, id: u32) -> Result<Option<Vec<u8>>> {
        Ok(self.get(&key::numbered(key::SIGNED_PREKEY, id)).await?.map(Vec::from))
    }

    async fn load_all_signed_prekeys(&self) -> Result<Vec<(u32, Vec<u8>)>> {
        let rows = self.range(KeyRange::prefix(vec![key::SIGNED_PREKEY])).await?;
        Ok(rows.into_iter().filter_map(|(key, row)| Some((key::number(&key)?, row.into()))).collect())
    }

    async fn remove_signed_prekey(&self, id: u32) -> Result<()> {
        self.remove_buffered(key::numbered(key::SIGNED_PREKEY, id)).await
    }

    async fn put_sender_key(&self, address: &str, record: &[u8]) -> Result<()> {
        self.write_ratchets(Batch::new().put(key::named(key::SENDER_KEY, address), Bytes::copy_from_slice(record)))
            .await
    }

    async fn put_sender_keys_batch(&self, sender_keys: &[(Arc<str>, Bytes)]) -> Result<()> {
        // The library stores them behind the sessions of the same moment; see there.
        if self.several_chats_are_busy() {
            tokio::time::sleep(ROWS_FIRST).await;
        }
        self.write_ratchets(puts(key::SENDER_KEY, sender_keys).loose()).await
    }

    async fn get_sender_key(&self, address: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.get(&key::named(key::SENDER_KEY, address)).await?.map(Vec::from))
    }

    async fn delete_sender_key(&self, address: &str) -> Result<()> {
        self.remove(key::named(key::SENDER_KEY, address)).await
    }
}
