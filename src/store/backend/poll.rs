//! Polls of a session's chats: a vote tells the hashes of options only, encrypted with the poll's secret.

use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;

use super::{SessionBackend, key};
use crate::store::Batch;

/// Polls that are remembered; a new one takes the place of the oldest. About 500 bytes each.
const POLLS: u32 = 4_096;

impl SessionBackend {
    /// Remembers what is known of a poll under the id of its message; an id that is known already is left as it is.
    ///
    /// # Errors
    /// As the engine's reads and writes; nothing of it is written then.
    pub async fn keep_poll(&self, id: &str, poll: Bytes) -> Result<()> {
        let mut turn = self.poll_turn.lock().await;
        let row = key::named(key::POLL, id);
        if self.get(&row).await?.is_some() {
            return Ok(());
        }
        let next = match *turn {
            Some(next) => next,
            None => self
                .get(key::POLL_TURN)
                .await?
                .and_then(|row| Some(u32::from_be_bytes(row[..].try_into().ok()?)))
                .unwrap_or(0),
        };
        let place = key::numbered(key::POLL_RING, next % POLLS);
        let mut batch = Batch::new();
        if let Some(oldest) = self.get(&place).await? {
            batch = batch.remove(key::named(key::POLL, oldest));
        }
        let after = next.wrapping_add(1);
        batch = batch
            .put(row, poll)
            .put(place, Bytes::copy_from_slice(id.as_bytes()))
            .put(Bytes::from_static(key::POLL_TURN), Bytes::copy_from_slice(&after.to_be_bytes()));
        self.write(batch).await?;
        *turn = Some(after);
        Ok(())
    }

    /// What is known of the poll of this message, while it is remembered.
    ///
    /// # Errors
    /// As the engine's reads.
    pub async fn poll(&self, id: &str) -> Result<Option<Bytes>> {
        self.get(&key::named(key::POLL, id)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outbox::memory::MemoryKv;
    use crate::store::Namespace;

    fn backend(kv: &Arc<MemoryKv>) -> Arc<SessionBackend> {
        SessionBackend::new(kv.clone(), Namespace::credentials("u"), None)
    }

    async fn keep(backend: &SessionBackend, id: &str, poll: &str) {
        backend.keep_poll(id, Bytes::copy_from_slice(poll.as_bytes())).await.unwrap();
    }

    #[tokio::test]
    async fn the_last_polls_are_remembered_over_a_reopening() {
        let kv = Arc::new(MemoryKv::default());
        let first = backend(&kv);
        keep(&first, "old", "o").await;
        keep(&first, "kept", "k").await;
        keep(&first, "kept", "another's of the same id").await;
        let second = backend(&kv);
        for turn in 2..=POLLS {
            keep(&second, &format!("{turn}"), "x").await;
        }
        assert_eq!(second.poll("old").await.unwrap(), None, "the oldest makes room");
        assert_eq!(second.poll("kept").await.unwrap().as_deref(), Some(&b"k"[..]));
        assert_eq!(second.poll("2").await.unwrap().as_deref(), Some(&b"x"[..]));
        assert_eq!(second.poll("unknown").await.unwrap(), None);
    }
}
