//! The `Kv` of a Redis server: for each namespace a hash with the values and a sorted set with the keys in order.
//!
//! Nothing of WhatsApp lives here. A batch is one script, which Redis runs and keeps as a whole. What is flushed is as safe
//! as the server's `appendfsync` makes it (see `persistence`); with Redis 7.2 and newer the gateway waits for its disk. Every
//! call has a deadline; one that fails has an unknown outcome, and a script of a given-up connection that is run late
//! changes nothing (see `link`). All keys begin with `wa-gateway:`, so a database may be shared with other programs.

mod barrier;
mod error;
mod link;
mod loss;
mod persistence;
mod script;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{Client, Cmd, ConnectionAddr, FromRedisValue, RedisError, ScriptInvocation, TlsCertificates, cmd};
use async_trait::async_trait;
use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use self::error::OpenError;
use self::link::{Link, Live};
use self::script::{CONFLICT, DONE, FENCED};
use super::{Batch, Durability, KeyRange, Kv, KvError, Namespace, RESERVED_PREFIX, check_keys};

/// The connection that may write: uid of the gateway, number of the connection.
const OWNER: &str = "wa-gateway:owner";
/// The uid of the gateway that is alive; expires when it does not renew it.
const LEASE: &str = "wa-gateway:lease";
const SCHEMA_KEY: &str = "wa-gateway:schema";
/// How many batches were written.
const SEQUENCE: &str = "wa-gateway:sequence";
/// The set of all namespaces.
const NAMESPACES: &str = "wa-gateway:namespaces";
/// What `WAITAOF` waits for.
const BARRIER: &str = "wa-gateway:barrier";

/// The layout written by this program. 1: the keys above; a hash and a sorted set for each namespace.
const SCHEMA: u32 = 1;

/// The longest that a call takes: above what a busy server's disk takes, below what a caller of ours waits for a send.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest that one attempt to connect takes, from the socket to being the owner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an unreachable or held server is tried at the start: longer than a lease that a killed gateway left.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
const OPEN_RETRY: Duration = Duration::from_millis(200);
/// How long the lease of a killed gateway keeps others out.
const LEASE_TTL: Duration = Duration::from_secs(6);
/// How often it is renewed, which also finds a broken connection before a call does.
const LEASE_BEAT: Duration = Duration::from_secs(2);

fn keys_of(ns: &Namespace) -> String {
    format!("wa-gateway:keys:{}", ns.as_str())
}

fn values_of(ns: &Namespace) -> String {
    format!("wa-gateway:values:{}", ns.as_str())
}

/// The Redis engine. Owns one task, which ends when it is dropped.
#[derive(Debug)]
pub struct RedisStore {
    link: Arc<Link>,
    /// The one task, which keeps the lease until `close`.
    beat: Mutex<JoinSet<()>>,
}

impl RedisStore {
    /// Connects and becomes the owner, within about 10 s; `allow_no_aof`: also where nothing is kept on a disk.
    ///
    /// # Errors
    /// [`OpenError`] names the server, never the password, and the remedy.
    pub async fn open(url: &SecretString, allow_no_aof: bool) -> Result<Self, OpenError> {
        Self::open_trusting(url, allow_no_aof, None).await
    }

    /// The same; with `root`, certificates in PEM, a server behind TLS is trusted by these and no others.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_trusting(
        url: &SecretString,
        allow_no_aof: bool,
        root: Option<Vec<u8>>,
    ) -> Result<Self, OpenError> {
        let client = Client::open(url.expose_secret()).map_err(OpenError::Url)?;
        let client = match root {
            Some(root) if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(root) };
                Client::build_with_tls(url.expose_secret(), certificates).map_err(OpenError::Root)?
            }
            _ => client,
        };
        let link = Arc::new(Link::new(client, allow_no_aof));
        let until = Instant::now() + OPEN_PATIENCE;
        let mut told = false;
        let live = loop {
            match link.open().await {
                Ok(live) => break live,
                Err(error) if error.may_pass() && Instant::now() < until => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, patience_secs = OPEN_PATIENCE.as_secs(), "waiting for Redis");
                    }
                    tokio::time::sleep(OPEN_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        };
        let deadline = Instant::now() + DEADLINE;
        let mut connection = live.connection.clone();
        let report = persistence::report(&mut connection, &link.place, live.persistence);
        // Only for the log: a server that stops answering here is found out by the first call.
        drop(timeout_at(deadline, report).await);
        let mut beat = JoinSet::new();
        beat.spawn(keep_lease(Arc::clone(&link)));
        Ok(Self { link, beat: Mutex::new(beat) })
    }

    /// Asks what changes nothing; once more on a new connection if the first one broke.
    async fn read<T: FromRedisValue + Send>(&self, question: &Question<'_>) -> Result<T, KvError> {
        let deadline = Instant::now() + DEADLINE;
        let first = self.link.live_until(deadline).await?;
        let broken = match self.link.ask(&first, deadline, question.put(&first)).await {
            Err(Failure::Broken(error)) => error,
            answer => return answer.map_err(KvError::from),
        };
        tracing::debug!(error = %broken, "reading again on a new connection");
        let second = self.link.live_until(deadline).await?;
        Ok(self.link.ask(&second, deadline, question.put(&second)).await?)
    }

    /// Runs a script that writes, once: an error leaves its outcome unknown.
    async fn change(&self, live: &Arc<Live>, deadline: Instant, call: &ScriptInvocation<'_>) -> Result<(), KvError> {
        let (code, sequence): (u64, u64) =
            self.link.ask(live, deadline, call.invoke_async(&mut live.connection.clone())).await?;
        match code {
            DONE => {
                self.link.loss.acknowledge(sequence);
                Ok(())
            }
            CONFLICT => Err(KvError::Conflict),
            FENCED => Err(KvError::Fenced),
            _ => {
                self.link.discard(live);
                Err(KvError::engine("this connection may write to Redis no more"))
            }
        }
    }

    /// Waits until what was acknowledged on this connection is as safe as the server makes it.
    async fn settle(&self, live: &Arc<Live>, deadline: Instant) -> Result<(), KvError> {
        let Some(barrier) = &live.barrier else { return Ok(()) };
        let patience = deadline.saturating_duration_since(Instant::now());
        if self.link.ask(live, deadline, barrier.pass(patience)).await? {
            Ok(())
        } else {
            Err(KvError::engine("Redis did not write to its disk in time"))
        }
    }
}

/// What is read.
enum Question<'a> {
    Command(Cmd),
    Script(ScriptInvocation<'a>),
}

impl Question<'_> {
    async fn put<T: FromRedisValue + Send>(&self, live: &Live) -> Result<T, RedisError> {
        let mut connection = live.connection.clone();
        match self {
            Self::Command(command) => command.query_async(&mut connection).await,
            Self::Script(call) => call.invoke_async(&mut connection).await,
        }
    }
}

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("Redis refuses")]
    Refused(#[source] RedisError),
    #[error("the connection to Redis broke")]
    Broken(#[source] RedisError),
    #[error("Redis did not answer in time")]
    Late,
}

impl From<Failure> for KvError {
    fn from(failure: Failure) -> Self {
        Self::engine(failure)
    }
}

impl Link {
    async fn live_until(&self, deadline: Instant) -> Result<Arc<Live>, KvError> {
        let live = timeout_at(deadline, self.live()).await.map_err(|_elapsed| Failure::Late)?;
        live.map_err(KvError::engine)
    }

    async fn ask<T: Send>(
        &self,
        live: &Arc<Live>,
        deadline: Instant,
        answer: impl Future<Output = Result<T, RedisError>> + Send,
    ) -> Result<T, Failure> {
        match timeout_at(deadline, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                Err(if self.discard_after(live, &error) { Failure::Broken(error) } else { Failure::Refused(error) })
            }
            Err(_elapsed) => {
                self.discard(live);
                Err(Failure::Late)
            }
        }
    }
}

async fn keep_lease(link: Arc<Link>) {
    loop {
        tokio::time::sleep(LEASE_BEAT).await;
        let deadline = Instant::now() + DEADLINE;
        // Failures are told by the link.
        let Ok(live) = link.live_until(deadline).await else { continue };
        let beat = link.scripts.beat(&live.token, &link.uid);
        let renewed: Result<bool, Failure> =
            link.ask(&live, deadline, beat.invoke_async(&mut live.connection.clone())).await;
        match renewed {
            Ok(true) => {}
            Ok(false) => link.discard(&live),
            Err(error) => tracing::debug!(%error, "the lease in Redis was not renewed"),
        }
    }
}

#[async_trait]
impl Kv for RedisStore {
    async fn get(&self, ns: &Namespace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        if key.starts_with(RESERVED_PREFIX) {
            return Ok(None);
        }
        let mut command = cmd("HGET");
        command.arg(values_of(ns)).arg(key);
        let found: Option<Vec<u8>> = self.read(&Question::Command(command)).await?;
        Ok(found.map(Bytes::from))
    }

    async fn get_many(&self, ns: &Namespace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, KvError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = cmd("HMGET");
        command.arg(values_of(ns));
        for key in keys {
            command.arg(key.as_ref());
        }
        let found: Vec<Option<Vec<u8>>> = self.read(&Question::Command(command)).await?;
        let visible = |key: &Bytes| !key.starts_with(RESERVED_PREFIX);
        Ok(keys.iter().zip(found).map(|(key, value)| value.filter(|_| visible(key)).map(Bytes::from)).collect())
    }

    async fn range(&self, ns: &Namespace, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        if range.limit == 0 {
            return Ok(Vec::new());
        }
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = self.read(&Question::Script(self.link.scripts.range(ns, &range))).await?;
        Ok(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    async fn write(&self, ns: &Namespace, batch: Batch) -> Result<(), KvError> {
        check_keys(&batch)?;
        let deadline = Instant::now() + DEADLINE;
        let live = self.link.live_until(deadline).await?;
        self.link.loss.check(ns)?;
        self.change(&live, deadline, &self.link.scripts.write(&live.token, ns, &batch)).await?;
        match batch.durability {
            Durability::Flushed => self.settle(&live, deadline).await,
            Durability::Buffered => Ok(()),
        }
    }

    async fn drop_namespace(&self, ns: &Namespace) -> Result<(), KvError> {
        let deadline = Instant::now() + DEADLINE;
        let live = self.link.live_until(deadline).await?;
        self.change(&live, deadline, &self.link.scripts.drop(&live.token, ns)).await?;
        self.link.loss.forget(ns);
        self.settle(&live, deadline).await
    }

    async fn namespaces(&self) -> Result<Vec<Namespace>, KvError> {
        let mut command = cmd("SMEMBERS");
        command.arg(NAMESPACES);
        let names: Vec<String> = self.read(&Question::Command(command)).await?;
        Ok(names.iter().map(|name| Namespace::from_name(name)).collect())
    }

    async fn flush(&self) -> Result<(), KvError> {
        let deadline = Instant::now() + DEADLINE;
        let live = self.link.live_until(deadline).await?;
        self.settle(&live, deadline).await
    }

    async fn snapshot(&self, ns: &Namespace) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.range(ns, KeyRange::all()).await
    }

    async fn close(&self) -> Result<(), KvError> {
        self.flush().await?;
        // What it has sent already stands before the release, on the same connection.
        self.beat.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        let deadline = Instant::now() + DEADLINE;
        let live = self.link.live_until(deadline).await?;
        let release = self.link.scripts.release(&live.token, &self.link.uid);
        let _released: bool =
            self.link.ask(&live, deadline, release.invoke_async(&mut live.connection.clone())).await?;
        Ok(())
    }
}
