//! The store: a narrow ordered key-value waist (`Kv`) that two engines implement, and what is built on it once.
//!
//! Called by `session` and `outbox`; knows nothing of WhatsApp but in `backend`.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

pub mod backend;
pub mod measured;
pub mod redis;
pub mod registry;
pub mod sled;

/// A set of keys that lives and is dropped as one (a part of a sled tree; a hash and a sorted set in Redis).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The one namespace of the gateway itself: which sessions there are.
    pub fn registry() -> Self {
        Self("registry".into())
    }

    /// Keys and Signal state of the session with this random uid.
    pub fn credentials(uid: &str) -> Self {
        Self(format!("credentials:{uid}").into())
    }

    /// Events of the session with this uid that wait for delivery.
    pub fn outbox(uid: &str) -> Self {
        Self(format!("outbox:{uid}").into())
    }

    /// What became of the messages that the session with this uid sent.
    pub fn sent(uid: &str) -> Self {
        Self(format!("sent:{uid}").into())
    }

    /// Where the health of the store is tried out; holds nothing of worth.
    pub fn probe() -> Self {
        Self("probe".into())
    }

    /// Takes a name as the engine stored it.
    pub fn from_name(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as the engine stores it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Keys that begin so belong to the engine (it keeps the fencing token there): they read as absent and can't be written.
pub const RESERVED_PREFIX: &[u8] = b"\xff\xff";

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// A condition of the batch did not hold; nothing was written.
    #[error("a condition of the batch did not hold")]
    Conflict,
    /// A newer owner holds this namespace; nothing was written.
    #[error("the namespace has a newer owner")]
    Fenced,
    /// The engine failed; whether the batch was written is unknown.
    #[error("the store failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl KvError {
    /// Wraps the engine's own error.
    pub fn engine(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Engine(source.into())
    }
}

/// How long a write may stay in the memory of this process that did not ask to be flushed.
pub const BUFFERED_FOR: Duration = Duration::from_millis(100);

/// When a write returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After it survives a killed process; concurrent writers share one flush.
    #[default]
    Flushed,
    /// At once; a process that is killed within [`BUFFERED_FOR`] may lose it. Never reordered before an earlier write.
    Buffered,
}

/// One change of a batch.
#[derive(Clone, Debug)]
pub enum Op {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key; absent is fine.
    Remove(Bytes),
}

/// Changes to one namespace that happen all or not at all, unless they are [`loose`](Batch::loose).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Each key must hold exactly this value (`None`: be absent), else [`KvError::Conflict`].
    pub conditions: Vec<(Bytes, Option<Bytes>)>,
    /// Applied in order.
    pub ops: Vec<Op>,
    /// The writer's fencing token; a token lower than the namespace has seen gives [`KvError::Fenced`]. `None`: not checked.
    pub fence: Option<u64>,
    /// When the write returns.
    pub durability: Durability,
    /// A process that ends in between may leave the first of the operations without the later ones.
    pub loose: bool,
}

impl Batch {
    /// An empty batch that is flushed before its write returns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put(key.into(), value.into()));
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn remove(mut self, key: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Remove(key.into()));
        self
    }

    /// Adds a condition.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Bytes>, value: Option<Bytes>) -> Self {
        self.conditions.push((key.into(), value));
        self
    }

    /// Returns before the flush.
    #[must_use]
    pub fn buffered(mut self) -> Self {
        self.durability = Durability::Buffered;
        self
    }

    /// Lets each operation stand for itself, in their order: for rows that don't need each other, or of which an earlier one
    /// without the later is harmless. Conditions and the fence hold for the whole all the same. An engine may be much faster with
    /// it.
    #[must_use]
    pub fn loose(mut self) -> Self {
        self.loose = true;
        self
    }

    /// Writes only while no higher token has written here.
    #[must_use]
    pub fn fenced(mut self, token: u64) -> Self {
        self.fence = Some(token);
        self
    }
}

/// Which keys a range reads.
#[derive(Clone, Debug)]
pub struct KeyRange {
    /// Lower end.
    pub start: Bound<Bytes>,
    /// Upper end.
    pub end: Bound<Bytes>,
    /// At most so many pairs.
    pub limit: usize,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded, limit: usize::MAX }
    }

    /// The keys that begin with these bytes.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        let end = successor(&prefix).map_or(Bound::Unbounded, |end| Bound::Excluded(end.into()));
        Self { start: Bound::Included(prefix), end, limit: usize::MAX }
    }

    /// Reads at most so many pairs.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

/// Every engine keeps its own keys out of its callers' hands.
fn check_keys(batch: &Batch) -> Result<(), KvError> {
    let written = batch.ops.iter().map(|op| match op {
        Op::Put(key, _) | Op::Remove(key) => key,
    });
    if written.chain(batch.conditions.iter().map(|(key, _)| key)).any(|key| key.starts_with(RESERVED_PREFIX)) {
        return Err(KvError::engine("a key of the batch is reserved for the engine"));
    }
    Ok(())
}

/// The least key above all that begin with `prefix`; `None`: there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

/// Ends when a batch that was applied is as durable as it asked to be.
pub type Flushing = BoxFuture<'static, Result<(), KvError>>;

/// An ordered key-value engine: sled in a folder of this process, or Redis.
///
/// A cancelled call may or may not have taken effect, as one whole.
#[async_trait]
pub trait Kv: Send + Sync + fmt::Debug + 'static {
    /// The value of a key.
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    /// The values of several keys, in their order.
    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError>;
    /// Pairs in byte order of the keys.
    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError>;
    /// Applies a batch atomically.
    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError>;
    /// The same, with the wait for its durability apart, so that something else can be done meanwhile. Whoever drops that wait
    /// does not learn whether the batch is safe.
    async fn apply(&self, ns: &Namespace, batch: Batch) -> Result<Flushing, KvError> {
        self.write(ns, batch).await?;
        Ok(Box::pin(std::future::ready(Ok(()))))
    }
    /// Removes the namespace with all its keys; durable when it returns; absent is fine.
    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError>;
    /// The same for several, each for itself or, where an engine can, together.
    async fn drop_namespaces(&self, dropped: &[Namespace]) -> Result<(), KvError> {
        for ns in dropped {
            self.drop_namespace(ns).await?;
        }
        Ok(())
    }
    /// All namespaces that hold or held a key.
    async fn namespaces(&self) -> Result<Vec<Namespace>, KvError>;
    /// Everything written so far survives a killed process when it returns.
    async fn flush(&self) -> Result<(), KvError>;
    /// All pairs of a namespace at one moment.
    async fn snapshot(&self, ns: &Namespace) -> Result<Vec<(Bytes, Bytes)>, KvError>;
    /// The last call: flushes, and lets another process take the store at once.
    async fn close(&self) -> Result<(), KvError> {
        self.flush().await
    }
}
