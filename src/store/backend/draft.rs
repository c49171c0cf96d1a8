//! Changes being prepared that must see each other before they are written as one batch.

use std::collections::HashMap;

use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;

use super::SessionBackend;
use crate::store::{Batch, Op};

/// A buffered batch that reads its own changes; the caller holds the lock of the table.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    backend: &'a SessionBackend,
    changes: HashMap<Bytes, Option<Bytes>>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(backend: &'a SessionBackend) -> Self {
        Self { backend, changes: HashMap::new() }
    }

    pub(super) async fn get(&self, key: &Bytes) -> Result<Option<Bytes>> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.backend.get(key).await,
        }
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.insert(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: Bytes) {
        self.changes.insert(key, None);
    }

    pub(super) async fn write(self) -> Result<()> {
        let ops = self.changes.into_iter().map(|(key, value)| match value {
            Some(value) => Op::Put(key, value),
            None => Op::Remove(key),
        });
        self.backend.write(Batch { ops: ops.collect(), ..Batch::new().buffered() }).await
    }
}
