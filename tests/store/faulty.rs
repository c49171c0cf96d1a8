//! An engine that fails on command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use wa_gateway::store::{Batch, Durability, KeyRange, Kv, KvError, Namespace};

/// Passes everything on, until told to fail.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn Kv>,
    pub(crate) fail_writes: AtomicBool,
    pub(crate) fail_reads: AtomicBool,
    /// Changes (writes and drops) still let through; the ones after fail.
    pub(crate) changes_left: AtomicUsize,
    /// Writes that waited for a flush.
    pub(crate) flushed: AtomicUsize,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Kv>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fail_writes: AtomicBool::new(false),
            fail_reads: AtomicBool::new(false),
            changes_left: AtomicUsize::new(usize::MAX),
            flushed: AtomicUsize::new(0),
        })
    }

    fn read(&self) -> Result<(), KvError> {
        if self.fail_reads.load(Ordering::SeqCst) { Err(KvError::engine("told to fail")) } else { Ok(()) }
    }

    fn change(&self) -> Result<(), KvError> {
        let left = self.changes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if self.fail_writes.load(Ordering::SeqCst) || left.is_err() {
            return Err(KvError::engine("told to fail"));
        }
        Ok(())
    }
}

#[async_trait]
impl Kv for Faulty {
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.read()?;
        self.inner.get(ns, key).await
    }
    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError> {
        self.read()?;
        self.inner.get_many(ns, keys).await
    }
    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.read()?;
        self.inner.range(ns, range).await
    }
    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError> {
        self.change()?;
        if batch.durability == Durability::Flushed {
            self.flushed.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.write(ns, batch).await
    }
    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError> {
        self.change()?;
        self.inner.drop_namespace(ns).await
    }
    async fn namespaces(&self) -> Result<Vec<Namespace>, KvError> {
        self.inner.namespaces().await
    }
    async fn flush(&self) -> Result<(), KvError> {
        self.inner.flush().await
    }
    async fn snapshot(&self, ns: &Namespace) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.inner.snapshot(ns).await
    }
}
