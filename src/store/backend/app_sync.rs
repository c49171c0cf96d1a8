//! App state: sync keys, collection versions, mutation MACs.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::{AppStateSyncKey, AppSyncStore};

use super::{PAGE, SessionBackend, key, value};
use crate::store::{Batch, KeyRange};

#[async_trait]
impl AppSyncStore for SessionBackend {
    async fn get_sync_key(&self, key_id: &[u8]) -> Result<Option<AppStateSyncKey>> {
        self.get(&key::named(key::SYNC_KEY, key_id)).await?.as_deref().map(value::from_json).transpose()
    }

    /// Flushed: a lost key has to be asked from the phone again.
    async fn set_sync_key(&self, key_id: &[u8], sync_key: AppStateSyncKey) -> Result<()> {
        let batch = Batch::new()
            .put(key::named(key::SYNC_KEY, key_id), value::json(&sync_key)?)
            .put(Bytes::from_static(key::LATEST_SYNC_KEY), Bytes::copy_from_slice(key_id));
        self.write(batch).await
    }

    async fn get_version(&self, name: &str) -> Result<HashState> {
        let row = self.get(&key::named(key::SYNC_VERSION, name)).await?;
        row.as_deref().map_or_else(|| Ok(HashState::default()), value::from_json)
    }

    async fn set_version(&self, name: &str, state: HashState) -> Result<()> {
        self.put_buffered(key::named(key::SYNC_VERSION, name), value::json(&state)?).await
    }

    /// In pages: the library sets the version after them, so a kill between two is made good by the next sync.
    async fn put_mutation_macs(&self, name: &str, _version: u64, mutations: &[AppStateMutationMAC]) -> Result<()> {
        for page in mutations.chunks(PAGE) {
            let batch = page.iter().fold(Batch::new().buffered(), |batch, mac| {
                batch
                    .put(key::joined(key::MUTATION_MAC, [name], &mac.index_mac), Bytes::copy_from_slice(&mac.value_mac))
            });
            self.write(batch).await?;
        }
        Ok(())
    }

    async fn get_mutation_mac(&self, name: &str, index_mac: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.get(&key::joined(key::MUTATION_MAC, [name], index_mac)).await?.map(Vec::from))
    }

    async fn get_mutation_macs(&self, name: &str, index_macs: &[[u8; 32]]) -> Result<HashMap<[u8; 32], Vec<u8>>> {
        let keys: Vec<_> = index_macs.iter().map(|mac| key::joined(key::MUTATION_MAC, [name], mac)).collect();
        let rows = self.get_many(&keys).await?;
        Ok(index_macs.iter().zip(rows).filter_map(|(mac, row)| Some((*mac, row?.into()))).collect())
    }

    async fn delete_mutation_macs(&self, name: &str, index_macs: &[Vec<u8>]) -> Result<()> {
        for page in index_macs.chunks(PAGE) {
            let batch = page
                .iter()
                .fold(Batch::new().buffered(), |batch, mac| batch.remove(key::joined(key::MUTATION_MAC, [name], mac)));
            self.write(batch).await?;
        }
        Ok(())
    }

    async fn clear_mutation_macs(&self, name: &str) -> Result<()> {
        let range = KeyRange::prefix(key::below(key::MUTATION_MAC, [name]));
        self.sweep(range, |batch, key, _| {
            batch.ops.push(crate::store::Op::Remove(key.clone()));
            true
        })
        .await
        .map(drop)
    }

    /// The key that was set last; if its row can't be read, the youngest that can.
    async fn get_latest_sync_key_id(&self) -> Result<Option<Vec<u8>>> {
        let Some(latest) = self.get(key::LATEST_SYNC_KEY).await? else {
            return Ok(None);
        };
        if matches!(self.get_sync_key(&latest).await, Ok(Some(_))) {
            return Ok(Some(latest.into()));
        }
        let rows = self.range(KeyRange::prefix(vec![key::SYNC_KEY])).await?;
        let readable = rows.iter().filter_map(|(key, row)| {
            let sync_key: AppStateSyncKey = value::from_json(row).ok()?;
            Some((sync_key.timestamp, key.slice(1..)))
        });
        Ok(readable.max().map(|(_, id)| id.into()))
    }
}
