//! A `Kv` in memory for unit tests, with faults on command.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::store::{Batch, KeyRange, Kv, KvError, Namespace, Op};

/// What the next write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// It works.
    None,
    /// It fails and nothing is written.
    Before,
    /// It fails though it is written.
    After,
}

#[derive(Debug, Default)]
pub(crate) struct MemoryKv {
    spaces: Mutex<BTreeMap<Namespace, BTreeMap<Bytes, Bytes>>>,
    fault: AtomicU8,
}

impl MemoryKv {
    pub(crate) fn fail_next_write(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }
}

fn broken() -> KvError {
    KvError::Engine("told to fail".into())
}

#[async_trait]
impl Kv for MemoryKv {
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.spaces.lock().unwrap().get(ns).and_then(|space| space.get(key).cloned()))
    }

    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError> {
        let spaces = self.spaces.lock().unwrap();
        let space = spaces.get(ns);
        Ok(keys.iter().map(|key| space.and_then(|space| space.get(key).cloned())).collect())
    }

    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let spaces = self.spaces.lock().unwrap();
        let Some(space) = spaces.get(ns) else { return Ok(Vec::new()) };
        let pairs = space.range((range.start, range.end)).take(range.limit);
        Ok(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError> {
        let fault = self.fault.swap(Fault::None as u8, Ordering::SeqCst);
        if fault == Fault::Before as u8 {
            return Err(broken());
        }
        let mut spaces = self.spaces.lock().unwrap();
        let space = spaces.entry(ns.clone()).or_default();
        if batch.conditions.iter().any(|(key, value)| space.get(key) != value.as_ref()) {
            return Err(KvError::Conflict);
        }
        for op in batch.ops {
            match op {
                Op::Put(key, value) => space.insert(key, value),
                Op::Remove(key) => space.remove(&key),
            };
        }
        if fault == Fault::After as u8 { Err(broken()) } else { Ok(()) }
    }

    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError> {
        self.spaces.lock().unwrap().remove(ns);
        Ok(())
    }

    async fn namespaces(&self) -> Result<Vec<Namespace>, KvError> {
        Ok(self.spaces.lock().unwrap().keys().cloned().collect())
    }

    async fn flush(&self) -> Result<(), KvError> {
        Ok(())
    }

    async fn snapshot(&self, ns: &Namespace) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let spaces = self.spaces.lock().unwrap();
        Ok(spaces.get(ns).into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
