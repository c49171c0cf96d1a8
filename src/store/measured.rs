//! A store whose writes are timed.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Batch, Durability, Flushing, KeyRange, Kv, KvError, Namespace};
use crate::metrics::Metrics;

/// Passes everything on and counts the writes that wait until they are safe.
#[derive(Debug)]
pub struct Measured {
    inner: Arc<dyn Kv>,
    metrics: Metrics,
}

impl Measured {
    /// Around this store.
    pub fn new(inner: Arc<dyn Kv>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }
}

fn count(metrics: &Metrics, began: Instant, durability: Durability, error: Option<&KvError>) {
    let failed = matches!(error, Some(KvError::Engine(_)));
    if durability == Durability::Flushed || failed {
        metrics.write(began.elapsed(), failed);
    }
}

#[async_trait]
impl Kv for Measured {
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(ns, key).await
    }

    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError> {
        self.inner.get_many(ns, keys).await
    }

    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.inner.range(ns, range).await
    }

    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError> {
        let (began, durability) = (Instant::now(), batch.durability);
        let written = self.inner.write(ns, batch).await;
        count(&self.metrics, began, durability, written.as_ref().err());
        written
    }

    async fn apply(&self, ns: &Namespace, batch: Batch) -> Result<Flushing, KvError> {
        let (began, durability, metrics) = (Instant::now(), batch.durability, self.metrics.clone());
        match self.inner.apply(ns, batch).await {
            Ok(flushing) => Ok(Box::pin(async move {
                let written = flushing.await;
                count(&metrics, began, durability, written.as_ref().err());
                written
            })),
            Err(error) => {
                count(&metrics, began, durability, Some(&error));
                Err(error)
            }
        }
    }

    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError> {
        self.inner.drop_namespace(ns).await
    }

    async fn drop_namespaces(&self, dropped: &[Namespace]) -> Result<(), KvError> {
        self.inner.drop_namespaces(dropped).await
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

    async fn close(&self) -> Result<(), KvError> {
        self.inner.close().await
    }
}
