//! The engines that the stories run on.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use wa_gateway::store::Kv;
use wa_gateway::store::redis::RedisStore;
use wa_gateway::store::sled::SledStore;

use crate::redis_server::RedisServer;

/// Opens sled in this folder. The one before must be dropped.
pub(crate) fn sled(path: &Path) -> Arc<dyn Kv> {
    Arc::new(SledStore::open(path).unwrap())
}

/// Opens the store in this server. The one before must be closed.
pub(crate) async fn redis(server: &RedisServer) -> Arc<dyn Kv> {
    Arc::new(RedisStore::open(&server.url().into(), false).await.unwrap())
}

/// Where the store of one test lives; gone when dropped.
pub(crate) enum Home {
    Sled(TempDir),
    Redis(RedisServer),
}

impl Home {
    pub(crate) fn sled() -> Self {
        Self::Sled(tempfile::tempdir().unwrap())
    }

    pub(crate) fn redis() -> Self {
        Self::Redis(RedisServer::start())
    }

    /// An empty one of the same kind.
    pub(crate) fn another(&self) -> Self {
        match self {
            Self::Sled(_) => Self::sled(),
            Self::Redis(_) => Self::redis(),
        }
    }

    /// Opens the store. The one before must be gone, for Redis closed.
    pub(crate) async fn open(&self) -> Arc<dyn Kv> {
        match self {
            Self::Sled(folder) => sled(&folder.path().join("store")),
            Self::Redis(server) => redis(server).await,
        }
    }
}

/// Makes two tests of each story, which takes a `Home`: one over sled, one over Redis.
macro_rules! over_both {
    ($($story:ident),+ $(,)?) => {
        mod over_sled {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $story() {
                super::$story(crate::engine::Home::sled()).await;
            })+
        }
        mod over_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $story() {
                super::$story(crate::engine::Home::redis()).await;
            })+
        }
    };
}

pub(crate) use over_both;
