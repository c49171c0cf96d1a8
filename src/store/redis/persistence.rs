//! Whether this Redis keeps what it acknowledges: asked on each new connection, for a server may come back changed.

use std::collections::HashMap;

use ::redis::aio::MultiplexedConnection;
use ::redis::{FromRedisValue, RedisResult, cmd};

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

/// Asks the server; refuses one without an append-only file unless `allow_no_aof`.
pub(super) async fn check(
    connection: &mut MultiplexedConnection,
    place: &str,
    allow_no_aof: bool,
) -> Result<Persistence, OpenError> {
    let (enabled, found) = match setting(connection, "appendonly").await {
        Some(value) => (value == "yes", "appendonly no"),
        // Hosted servers refuse CONFIG.
        None => match info(connection, "persistence", "aof_enabled").await {
            Some(value) => (value == "1", "aof_enabled:0"),
            None => (false, "it tells neither CONFIG GET appendonly nor INFO persistence"),
        },
    };
    if !enabled {
        let place = place.to_owned();
        return if allow_no_aof { Ok(Persistence::Never) } else { Err(OpenError::NoAof { place, found }) };
    }
    if setting(connection, "appendfsync").await.as_deref() == Some("always") {
        return Ok(Persistence::Always);
    }
    // Redis 7.2 and later; asks for nothing, so that it answers at once.
    let waits: RedisResult<Vec<i64>> = cmd("WAITAOF").arg(0).arg(0).arg(1).query_async(connection).await;
    Ok(if waits.is_ok() { Persistence::Waits } else { Persistence::Later })
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
    if let Some(policy) = info(connection, "memory", "maxmemory_policy").await
        && policy.starts_with("allkeys")
    {
        tracing::warn!(
            place,
            policy,
            "this Redis evicts any key when its memory is full, sessions too: set `maxmemory-policy noeviction`"
        );
    }
}

async fn setting(connection: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let found: HashMap<String, String> = cmd("CONFIG").arg("GET").arg(name).query_async(connection).await.ok()?;
    found.get(name).cloned()
}

async fn info(connection: &mut MultiplexedConnection, section: &str, name: &str) -> Option<String> {
    let answer = cmd("INFO").arg(section).query_async(connection).await.ok()?;
    let text = String::from_redis_value(answer).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
}
