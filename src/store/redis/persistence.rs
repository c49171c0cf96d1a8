//! Whether this Redis keeps what it acknowledges: asked on each new connection, for a server may come back changed.

use std::collections::HashMap;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, RedisError, RedisResult, cmd};

use super::error::OpenError;

/// What a server does with a write before it acknowledges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It is on the disk.
    Always,
    /// It is handed to the system; `WAITAOF` waits for the disk.
    Waits,
    /// It is handed to the system, as a rule, and reaches the disk within about a second.
    Later,
    /// It is kept in memory.
    Never,
}

/// What a server answers, or `None` where it refuses to tell: hosted ones do, and narrow users are.
type Told = RedisResult<Option<String>>;

/// Asks the server; refuses one without an append-only file unless `allow_no_aof`.
pub(super) async fn check(
    connection: &mut MultiplexedConnection,
    place: &str,
    allow_no_aof: bool,
) -> Result<Persistence, OpenError> {
    let told = |error: RedisError| OpenError::from_redis(place, &error);
    // First of all: says whether it lets us in, and whether it is still reading its file.
    cmd("PING").query_async::<()>(connection).await.map_err(told)?;
    let (enabled, found) = match setting(connection, "appendonly").await.map_err(told)? {
        Some(value) => (value == "yes", "appendonly no"),
        None => match info(connection, "persistence", "aof_enabled").await.map_err(told)? {
            Some(value) => (value == "1", "aof_enabled:0"),
            None => (false, "it tells neither CONFIG GET appendonly nor INFO persistence"),
        },
    };
    if !enabled {
        let place = place.to_owned();
        return if allow_no_aof { Ok(Persistence::Never) } else { Err(OpenError::NoAof { place, found }) };
    }
    if setting(connection, "appendfsync").await.map_err(told)?.as_deref() == Some("always") {
        return Ok(Persistence::Always);
    }
    // Redis 7.2 and later; asks for nothing, so that it answers at once.
    let waits: Option<Vec<i64>> =
        unless_refused(cmd("WAITAOF").arg(0).arg(0).arg(1).query_async(connection).await).map_err(told)?;
    Ok(if waits.is_some() { Persistence::Waits } else { Persistence::Later })
}

/// Tells what the findings mean, once when the store is opened.
pub(super) async fn report(connection: &mut MultiplexedConnection, place: &str, persistence: Persistence) {
    match persistence {
        Persistence::Always => tracing::info!(place, "sessions are kept in Redis"),
        Persistence::Waits => tracing::warn!(
            place,
            "sessions are kept in Redis, which writes to its disk once a second: each message waits for that; with \
             `appendfsync always` it needs not"
        ),
        Persistence::Later => tracing::warn!(
            place,
            "sessions are kept in Redis without `appendfsync always`: when Redis or its machine is killed it may lose the \
             last seconds, and sessions may then use encryption keys twice; set `appendfsync always`, or use Redis 7.2 or newer"
        ),
        Persistence::Never => tracing::warn!(
            place,
            "sessions are kept in a Redis without append-only file (REDIS_ALLOW_NO_AOF): when it ends, sessions may be lost or \
             use encryption keys twice"
        ),
    }
    if let Ok(Some(policy)) = info(connection, "memory", "maxmemory_policy").await
        && policy.starts_with("allkeys")
    {
        tracing::warn!(
            place,
            policy,
            "this Redis evicts any key when its memory is full, sessions too: set `maxmemory-policy noeviction`"
        );
    }
}

async fn setting(connection: &mut MultiplexedConnection, name: &str) -> Told {
    let answer = cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
    let found: Option<HashMap<String, String>> = unless_refused(answer)?;
    Ok(found.and_then(|mut found| found.remove(name)))
}

async fn info(connection: &mut MultiplexedConnection, section: &str, name: &str) -> Told {
    let text: Option<String> = unless_refused(cmd("INFO").arg(section).query_async(connection).await)?;
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
    Ok(text.and_then(|text| text.lines().find_map(value)))
}

/// What the server itself refuses is no error; a connection that breaks is.
fn unless_refused<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => Ok(None),
        Err(error) => Err(error),
    }
}
