//! whatsapp-rust's five storage traits, written once over any `Kv`, scoped to the namespace of one session.
//!
//! One backend is the only writer of its namespace. Methods that read, change and write hold the lock of their table for
//! that time; such writes are buffered, so no lock waits for a flush. What the library relies on after a kill (leases of
//! Signal sessions, sender keys, the paired device) is flushed before the method returns; the rest is buffered, and
//! the engine never reorders it before an earlier write. A ratchet that moves within its lease stays in memory (see `held`).
//!
//! A failed read or write poisons the backend: the library nacks messages whose keys it can't read, and after a failed
//! write its ratchet has moved on in memory, and a later flush of it must not reach the store. The token of
//! [`SessionBackend::failed`] is cancelled before the library hears of the failure: the connection, which holds it, lets
//! nothing out from then on, and the session task closes it and drops the client. A new backend over the same namespace
//! starts from what is stored.

pub mod adopt;
mod app_sync;
mod check;
mod device;
mod draft;
mod held;
mod inbound;
mod key;
mod lease;
mod poll;
mod prekey;
mod protocol;
mod restore;
mod secret;
mod signal;
mod tc_token;
mod value;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, RwLock, mpsc};
use tokio_util::sync::CancellationToken;
use whatsapp_rust::wacore::store::error::{Result, StoreError};

pub use check::check;
pub use device::{Stored, identity};
pub use inbound::Lost;
pub use restore::restored;

use super::{Batch, KeyRange, Kv, KvError, Namespace};

/// Rows that one batch changes at most where a method may touch a whole table: bounds how long an engine is busy with it.
const PAGE: usize = 512;

/// The row by which a session tries out whether the store takes writes again: below every key of the tables.
pub const PROBE: &[u8] = b"\0probe";

/// The storage of one session.
pub struct SessionBackend {
    /// Every read and write holds it shared; `close` takes it alone and leaves `None`. Gone rather than flagged: the
    /// library's timers keep a closed client alive for up to a minute, and shall not keep the store open with it.
    kv: RwLock<Option<Arc<dyn Kv>>>,
    ns: Namespace,
    fence: Option<u64>,
    failed: CancellationToken,
    /// What the client has of a device that no phone had accepted, until one has and it is stored: see `device`.
    pairing: std::sync::Mutex<Option<device::Pairing>>,
    /// Held while the device is written; the identity under which a paired one is stored by now. Taken before `unstored`.
    device: Mutex<Option<device::Identity>>,
    lid_mappings: Mutex<()>,
    prekeys: Mutex<()>,
    tc_tokens: Mutex<tc_token::Tokens>,
    sent_messages: Mutex<()>,
    secrets: Mutex<secret::Indexed>,
    /// Whose messages are the session's own, once known.
    own: std::sync::Mutex<Option<secret::Own>>,
    /// Pending rows that the store has not got yet: see `inbound`.
    unstored: Mutex<inbound::Unstored>,
    /// Writes that may carry a ratchet.
    writing: inbound::Writing,
    /// What is on disk of the leases of ratchets.
    leases: std::sync::Mutex<lease::Leases>,
    /// Ratchets that need not be stored yet: see `held`. Taken before `handled` and `unstored`.
    held: Mutex<held::Held>,
    /// The last handled messages, once known. Taken before `unstored`.
    handled: Mutex<Option<inbound::Handled>>,
    /// Whether any message may have been asked for again; known with `handled`.
    any_asked: AtomicBool,
    /// The next turn in the ring of polls, once known.
    poll_turn: Mutex<Option<u32>>,
    /// Boxed: a channel has room for 32 from the beginning.
    lost: std::sync::Mutex<Option<mpsc::Sender<Box<Lost>>>>,
    /// The chat of the last pending row, and until when several chats count as busy.
    busy: std::sync::Mutex<Busy>,
}

#[derive(Default)]
struct Busy {
    chat: String,
    at: Option<Instant>,
    several_until: Option<Instant>,
}

/// Rows of two chats within so long are traffic at the same time.
const TOGETHER: Duration = Duration::from_millis(100);

/// How long a write of ratchets waits for the pending rows of other chats.
const ROWS_FIRST: Duration = Duration::from_millis(3);

/// Why a backend writes no more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Refused {
    #[error("an earlier write of this session failed; it must start again from the store")]
    Failed,
    #[error("the storage of this session was closed")]
    Closed,
}

fn open(kv: Option<&Arc<dyn Kv>>) -> Result<&Arc<dyn Kv>> {
    kv.ok_or_else(|| StoreError::Database(Box::new(Refused::Closed)))
}

impl SessionBackend {
    /// The storage in this namespace; `fence`: the token that proves ownership where several processes share the engine.
    pub fn new(kv: Arc<dyn Kv>, ns: Namespace, fence: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            kv: RwLock::new(Some(kv)),
            ns,
            fence,
            failed: CancellationToken::new(),
            pairing: std::sync::Mutex::default(),
            device: Mutex::default(),
            lid_mappings: Mutex::new(()),
            prekeys: Mutex::new(()),
            tc_tokens: Mutex::default(),
            sent_messages: Mutex::new(()),
            secrets: Mutex::default(),
            own: std::sync::Mutex::default(),
            unstored: Mutex::default(),
            writing: inbound::Writing::default(),
            leases: std::sync::Mutex::default(),
            held: Mutex::default(),
            handled: Mutex::new(None),
            any_asked: AtomicBool::new(false),
            poll_turn: Mutex::new(None),
            lost: std::sync::Mutex::new(None),
            busy: std::sync::Mutex::default(),
        })
    }

    /// Cancelled when a read or a write failed, before its caller knows: whatever would be said to WhatsApp from then on may
    /// be untrue, and the client built on this backend must be dropped.
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Refuses everything from now on, and returns when no write is under way: after it nothing of this session can come back into
    /// a namespace that is then dropped. Waits as long as the engine's slowest write.
    pub async fn close(&self) {
        if !self.failed.is_cancelled() {
            // A message that nobody has yet comes again, and is then replayed from its row.
            let stored = async {
                self.store_pending().await?;
                self.store_handled().await?;
                self.store_held().await
            };
            if let Err(error) = stored.await {
                tracing::debug!(%error, "pending messages and ratchets were not stored");
            }
        }
        *self.kv.write().await = None;
    }

    /// What is stored of the device; reads one row.
    ///
    /// # Errors
    /// As the engine's `get`.
    pub async fn stored(&self) -> std::result::Result<Stored, KvError> {
        let kv = self.kv.read().await;
        let kv = kv.as_ref().ok_or_else(|| KvError::engine(Refused::Closed))?;
        Ok(Stored::of(kv.get(&self.ns, key::DEVICE).await?.as_deref()))
    }

    /// Whether a paired device is stored; reads one row.
    ///
    /// # Errors
    /// As the engine's `get`.
    pub async fn has_device(&self) -> std::result::Result<bool, KvError> {
        let kv = self.kv.read().await;
        let kv = kv.as_ref().ok_or_else(|| KvError::engine(Refused::Closed))?;
        Ok(kv.get(&self.ns, key::DEVICE).await?.is_some_and(|row| value::is_paired(&row)))
    }

    /// What is kept in memory for a later write is taken as long as a write would be.
    async fn takes_more(&self) -> Result<()> {
        open(self.kv.read().await.as_ref())?;
        if self.failed.is_cancelled() { Err(StoreError::Database(Box::new(Refused::Failed))) } else { Ok(()) }
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let read = {
            let kv = self.kv.read().await;
            match open(kv.as_ref()) {
                Ok(kv) => kv.get(&self.ns, key).await.map_err(database),
                Err(closed) => Err(closed),
            }
        };
        self.read(read)
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let read = {
            let kv = self.kv.read().await;
            match open(kv.as_ref()) {
                Ok(kv) => kv.get_many(&self.ns, keys).await.map_err(database),
                Err(closed) => Err(closed),
            }
        };
        self.read(read)
    }

    async fn range(&self, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>> {
        let read = {
            let kv = self.kv.read().await;
            match open(kv.as_ref()) {
                Ok(kv) => kv.range(&self.ns, range).await.map_err(database),
                Err(closed) => Err(closed),
            }
        };
        self.read(read)
    }

    /// A failed read poisons too: the library answers it with a nack, and WhatsApp takes a message that is refused so for
    /// handled.
    fn read<T>(&self, read: Result<T>) -> Result<T> {
        if let Err(StoreError::Database(error)) = &read
            && !matches!(error.downcast_ref::<Refused>(), Some(Refused::Closed))
        {
            self.poison();
        }
        read
    }

    /// Whether any key begins with these bytes.
    async fn any(&self, prefix: Vec<u8>) -> Result<bool> {
        Ok(!self.range(KeyRange::prefix(prefix).limit(1)).await?.is_empty())
    }

    async fn write(&self, batch: Batch) -> Result<()> {
        if batch.ops.is_empty() {
            return Ok(());
        }
        let _writing = self.writing.begin();
        self.store_pending().await?;
        self.write_alone(batch).await
    }

    /// Writes a batch that carries ratchets: what they have passed is pending or handled in the store before.
    async fn write_ratchets(&self, batch: Batch) -> Result<()> {
        if batch.ops.is_empty() {
            return Ok(());
        }
        let _writing = self.writing.begin();
        // In this order: what is handled meanwhile has its pending row stored, and is stored as handled at once.
        self.store_pending().await?;
        self.store_handled().await?;
        self.write_alone(batch).await
    }

    /// Writes a batch that carries no ratchet: pending rows need not be there before it.
    async fn write_alone(&self, mut batch: Batch) -> Result<()> {
        let kv = self.kv.read().await;
        let kv = open(kv.as_ref())?;
        if self.failed.is_cancelled() {
            return Err(StoreError::Database(Box::new(Refused::Failed)));
        }
        batch.fence = self.fence;
        kv.write(&self.ns, batch).await.map_err(|error| {
            self.poison();
            database(error)
        })
    }

    fn leases(&self) -> MutexGuard<'_, lease::Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row_of_chat(&self, chat: &str) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if busy.chat != chat {
            if busy.at.is_some_and(|at| now.duration_since(at) < TOGETHER) {
                busy.several_until = Some(now + 5 * TOGETHER);
            }
            chat.clone_into(&mut busy.chat);
        }
        busy.at = Some(now);
    }

    fn several_chats_are_busy(&self) -> bool {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.several_until.is_some_and(|until| Instant::now() < until)
    }

    /// Marks the backend failed, as a failed write does: for writes beside it that belong to the same step.
    pub fn poison(&self) {
        self.failed.cancel();
    }

    async fn put(&self, key: Bytes, value: Bytes) -> Result<()> {
        self.write(Batch::new().put(key, value)).await
    }

    async fn put_buffered(&self, key: Bytes, value: Bytes) -> Result<()> {
        self.write(Batch::new().put(key, value).buffered()).await
    }

    async fn remove(&self, key: Bytes) -> Result<()> {
        self.write(Batch::new().remove(key)).await
    }

    async fn remove_buffered(&self, key: Bytes) -> Result<()> {
        self.write(Batch::new().remove(key).buffered()).await
    }

    /// Removes the rows of a range page by page; `removal` adds what goes with a row to the batch and says if it counts.
    async fn sweep(
        &self,
        mut range: KeyRange,
        mut removal: impl FnMut(&mut Batch, &Bytes, &Bytes) -> bool + Send,
    ) -> Result<u32> {
        range.limit = PAGE;
        let mut removed = 0;
        loop {
            let rows = self.range(range.clone()).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(removed);
            };
            range.start = std::ops::Bound::Excluded(last.clone());
            let mut batch = Batch::new().buffered();
            for (key, value) in &rows {
                removed += u32::from(removal(&mut batch, key, value));
            }
            let end = rows.len() < PAGE;
            self.write(batch).await?;
            if end {
                return Ok(removed);
            }
        }
    }
}

impl fmt::Debug for SessionBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBackend").field("ns", &self.ns).field("fence", &self.fence).finish_non_exhaustive()
    }
}

fn database(error: KvError) -> StoreError {
    StoreError::Database(Box::new(error))
}
