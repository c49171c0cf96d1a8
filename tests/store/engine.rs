//! The engines that the stories run on.

use std::path::Path;
use std::sync::Arc;

use wa_gateway::store::Kv;
use wa_gateway::store::sled::SledStore;

/// Opens sled in this folder. The one before must be dropped.
pub(crate) fn sled(path: &Path) -> Arc<dyn Kv> {
    Arc::new(SledStore::open(path).unwrap())
}
