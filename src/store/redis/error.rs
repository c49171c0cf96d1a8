//! Why the Redis of `REDIS_URL` can't be used, said so that the owner of the machine knows what to do; never a password.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why the store could not be opened, or a connection to it not be used; each text names the setting and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no server.
    #[error(
        "REDIS_URL is no URL that Redis clients understand: write redis[s]://[user:password@]host[:port][/database]"
    )]
    Url(#[source] RedisError),
    /// The certificates to trust can't be read.
    #[error("REDIS_TLS_ROOT: the file holds no certificates in PEM")]
    Root(#[source] RedisError),
    /// Nobody answers there, or not in time.
    #[error("REDIS_URL: Redis at {place} can't be reached: {reason}")]
    Unreachable {
        /// Host, port and database.
        place: String,
        /// What the connection said.
        reason: String,
    },
    /// It answers, and refuses to be used.
    #[error("REDIS_URL: Redis at {place} refuses: {reason}")]
    Refused {
        /// Host, port and database.
        place: String,
        /// What it said.
        reason: String,
    },
    /// It keeps no append-only file.
    #[error(
        "REDIS_URL: Redis at {place} keeps no append-only file ({found}): what it loses when it ends takes the encryption \
         of the sessions back to keys that were used already. Set `appendonly yes` and `appendfsync always` in its \
         configuration, or accept the loss with REDIS_ALLOW_NO_AOF=true"
    )]
    NoAof {
        /// Host, port and database.
        place: String,
        /// How that was found out.
        found: &'static str,
    },
    /// A newer gateway wrote it.
    #[error(
        "REDIS_URL: the store in Redis at {place} has schema {found}, this gateway knows {known} and older: run the newer gateway"
    )]
    NewerSchema {
        /// Host, port and database.
        place: String,
        /// The schema that is stored.
        found: u64,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// Another gateway is alive on it.
    #[error(
        "REDIS_URL: the store in Redis at {place} is in use by another gateway: stop it, or give this one its own database (redis://host/1)"
    )]
    Held {
        /// Host, port and database.
        place: String,
    },
    /// Another gateway has used it since this one began.
    #[error(
        "REDIS_URL: another gateway took the store in Redis at {place} over: end one of them, then start this one again"
    )]
    Taken {
        /// Host, port and database.
        place: String,
    },
    /// The gateway's keys were there and are not any more.
    #[error(
        "REDIS_URL: Redis at {place} has lost the gateway's data (emptied, or restarted without them): restore them, or start the gateway again to begin anew"
    )]
    Gone {
        /// Host, port and database.
        place: String,
    },
}

impl OpenError {
    pub(super) fn from_redis(place: &str, error: &RedisError) -> Self {
        let (place, reason) = (place.to_owned(), error.to_string());
        match error.kind() {
            // It answers the handshake so until its file is read.
            ErrorKind::Io | ErrorKind::Server(ServerErrorKind::BusyLoading) => Self::Unreachable { place, reason },
            _ => Self::Refused { place, reason },
        }
    }

    /// Whether it may be over in a moment.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Held { .. })
    }
}
