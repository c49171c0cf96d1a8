//! Changes being prepared that must see each other before they are written together.

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
    /// The changed keys, first touched first.
    order: Vec<Bytes>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(backend: &'a SessionBackend) -> Self {
        Self { backend, changes: HashMap::new(), order: Vec::new() }
    }

    pub(super) async fn get(&self, key: &Bytes) -> Result<Option<Bytes>> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.backend.get(key).await,
        }
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) {
        self.change(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: Bytes) {
        self.change(key, None);
    }

    fn change(&mut self, key: Bytes, value: Option<Bytes>) {
        if self.changes.insert(key.clone(), value).is_none() {
            self.order.push(key);
        }
    }

    /// As one batch.
    pub(super) async fn write(self) -> Result<()> {
        let (backend, batch) = self.batch();
        backend.write(batch).await
    }

    /// Each change by itself, in the order in which their keys were first touched.
    pub(super) async fn write_loose(self) -> Result<()> {
        let (backend, batch) = self.batch();
        backend.write(batch.loose()).await
    }

    fn batch(mut self) -> (&'a SessionBackend, Batch) {
        let mut batch = Batch::new().buffered();
        for key in self.order {
            batch.ops.extend(self.changes.remove(&key).map(|value| match value {
                Some(value) => Op::Put(key, value),
                None => Op::Remove(key),
            }));
        }
        (self.backend, batch)
    }
}
