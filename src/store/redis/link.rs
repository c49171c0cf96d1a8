//! The way to Redis: one connection shared by all calls, made anew when it breaks, and the only one that may write.
//!
//! Each connection first makes itself the owner: a script that was sent on an earlier one and is run late, because Redis or
//! the network was stuck, then writes nothing. So what a new connection reads stays true until it writes itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

use super::barrier::Barrier;
use super::error::OpenError;
use super::loss::Loss;
use super::persistence::{self, Persistence};
use super::script::Scripts;
use super::{CONNECT_TIMEOUT, SCHEMA};

/// Pauses between two attempts to connect, doubling; calls fail at once in them.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    pub(super) scripts: Scripts,
    pub(super) loss: Loss,
    /// Host, port and database: what may be told of the URL.
    pub(super) place: String,
    /// Random: tells this gateway from every other.
    pub(super) uid: String,
    allow_no_aof: bool,
    current: Mutex<Option<Arc<Live>>>,
    /// A tokio lock: held while one call connects for all.
    connecting: tokio::sync::Mutex<Pause>,
    /// Of the last connection that was tried.
    number: AtomicU64,
    /// Whether the log says that Redis is away.
    away: AtomicBool,
}

#[derive(Debug, Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
}

/// One connection that is the owner, as far as is known.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    /// There when `WAITAOF` has to be asked. Opened with the connection and dropped with it: neither outlives a server.
    pub(super) barrier: Option<Barrier>,
    /// What scripts show to be let in.
    pub(super) token: String,
    pub(super) persistence: Persistence,
}

impl Link {
    pub(super) fn new(client: Client, allow_no_aof: bool) -> Self {
        let info = client.get_connection_info();
        let place = format!("{}/{}", info.addr(), info.redis_settings().db());
        Self {
            client,
            scripts: Scripts::new(),
            loss: Loss::default(),
            place,
            uid: uuid::Uuid::new_v4().simple().to_string(),
            allow_no_aof,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            number: AtomicU64::new(0),
            away: AtomicBool::new(false),
        }
    }

    /// Makes the first connection, or says why not.
    pub(super) async fn open(&self) -> Result<Arc<Live>, OpenError> {
        let live = Arc::new(self.connect(true).await?);
        self.set(Some(Arc::clone(&live)));
        Ok(live)
    }

    /// The connection; made anew when there is none.
    pub(super) async fn live(&self) -> Result<Arc<Live>, OpenError> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let mut pause = self.connecting.lock().await;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        if pause.until.is_some_and(|until| Instant::now() < until) {
            let reason = "the next attempt is due in a moment".to_owned();
            return Err(OpenError::Unreachable { place: self.place.clone(), reason });
        }
        match self.connect(false).await {
            Ok(live) => {
                let live = Arc::new(live);
                self.set(Some(Arc::clone(&live)));
                *pause = Pause::default();
                if self.away.swap(false, Ordering::AcqRel) {
                    tracing::info!(place = self.place, "Redis is back");
                }
                Ok(live)
            }
            Err(error) => {
                pause.length = (pause.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                pause.until = Some(Instant::now() + pause.length);
                if !self.away.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "Redis is away; trying again");
                }
                Err(error)
            }
        }
    }

    /// Uses this connection no more.
    pub(super) fn discard(&self, live: &Arc<Live>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            *current = None;
        }
    }

    /// The same after an error, unless the server itself said it and the next call may fare better; `true`: discarded.
    pub(super) fn discard_after(&self, live: &Arc<Live>, error: &RedisError) -> bool {
        let broken = match error.kind() {
            // After a fail-over the name of the server leads to another one.
            ErrorKind::Server(kind) => matches!(kind, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown),
            ErrorKind::Extension => false,
            _ => true,
        };
        if broken {
            self.discard(live);
        }
        broken
    }

    fn current(&self) -> Option<Arc<Live>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, live: Option<Arc<Live>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = live;
    }

    async fn connect(&self, first: bool) -> Result<Live, OpenError> {
        let place = &self.place;
        // A number whose attempt failed is not used again: its script may still be under way.
        let number = self.number.fetch_add(1, Ordering::AcqRel) + 1;
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect_and_take(number, first)).await;
        connecting.unwrap_or_else(|_elapsed| {
            let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
            Err(OpenError::Unreachable { place: place.clone(), reason })
        })
    }

    async fn connect_and_take(&self, number: u64, first: bool) -> Result<Live, OpenError> {
        let place = &self.place;
        let told = |error: RedisError| OpenError::from_redis(place, &error);
        // Every wait has its deadline here; a `WAITAOF` takes longer than the library's own.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(told)?;
        let persistence = persistence::check(&mut connection, place, self.allow_no_aof).await?;
        let barrier = if persistence == Persistence::Waits {
            let second = self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(told)?;
            Some(Barrier::new(second))
        } else {
            None
        };
        let taken = self.scripts.take(&self.uid, number, first).invoke_async(&mut connection).await;
        let (code, detail): (u8, u64) = taken.map_err(told)?;
        let place = place.clone();
        match code {
            0 => {}
            1 => return Err(OpenError::NewerSchema { place, found: detail, known: SCHEMA }),
            2 => return Err(OpenError::Held { place }),
            3 => return Err(OpenError::Gone { place }),
            4 => return Err(OpenError::Taken { place }),
            _ => {
                let reason = "a later connection was faster".to_owned();
                return Err(OpenError::Unreachable { place, reason });
            }
        }
        let missing = self.loss.compare(detail);
        if missing > 0 {
            tracing::error!(place, missing, "Redis came back without the last writes that it had acknowledged");
        }
        Ok(Live { connection, barrier, token: format!("{}:{number}", self.uid), persistence })
    }
}
