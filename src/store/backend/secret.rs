//! Message secrets, which decrypt later reactions, poll votes and edits.

use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::{
    MsgSecretEntry, MsgSecretStore, merge_msg_secret_expiry, merge_msg_secret_message_ts,
};

use super::draft::Draft;
use super::value::Secret;
use super::{PAGE, SessionBackend, key};
use crate::store::KeyRange;

impl SessionBackend {
    async fn secret(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Secret>> {
        let row = self.get(&key::joined(key::SECRET, [chat, sender], id)).await?;
        row.as_deref().map(Secret::from_bytes).transpose()
    }
}

#[async_trait]
impl MsgSecretStore for SessionBackend {
    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        let _lock = self.secrets.lock().await;
        for page in entries.chunks(PAGE) {
            let mut draft = Draft::new(self);
            for entry in page {
                let row = key::joined(key::SECRET, [&entry.chat, &entry.sender], &*entry.msg_id);
                let mut new =
                    Secret { bytes: entry.secret, expires_at: entry.expires_at, message_ts: entry.message_ts };
                let old = draft.get(&row).await?.as_deref().map(Secret::from_bytes).transpose()?;
                if let Some(old) = &old {
                    new.expires_at = merge_msg_secret_expiry(old.expires_at, new.expires_at);
                    new.message_ts = merge_msg_secret_message_ts(old.message_ts, new.message_ts);
                }
                // Whatever comes of these in the end, no row is without an entry that sweeps it away.
                if new.expires_at != 0 {
                    draft.put(key::timed(key::SECRET_INDEX, new.expires_at, &row), Bytes::new());
                }
                draft.put(row.clone(), new.to_bytes());
                if let Some(old) = old.filter(|old| old.expires_at != 0 && old.expires_at != new.expires_at) {
                    draft.remove(key::timed(key::SECRET_INDEX, old.expires_at, &row));
                }
            }
            draft.write_loose().await?;
        }
        Ok(entries.len())
    }

    async fn get_msg_secret(&self, chat: &str, sender: &str, msg_id: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.secret(chat, sender, msg_id).await?.map(|row| row.bytes.to_vec()))
    }

    async fn get_msg_secret_with_ts(&self, chat: &str, sender: &str, msg_id: &str) -> Result<Option<(Vec<u8>, i64)>> {
        Ok(self.secret(chat, sender, msg_id).await?.map(|row| (row.bytes.to_vec(), row.message_ts)))
    }

    async fn delete_expired_msg_secrets(&self, cutoff_timestamp: i64) -> Result<u32> {
        let _lock = self.secrets.lock().await;
        let mut range = KeyRange::prefix(vec![key::SECRET_INDEX]);
        if let Some(after) = cutoff_timestamp.checked_add(1) {
            range.end = Bound::Excluded(key::timed(key::SECRET_INDEX, after, &[]));
        }
        self.sweep(range, |batch, entry, _| {
            batch.ops.push(crate::store::Op::Remove(entry.clone()));
            let row = key::split_timed(entry).map(|(_, row)| crate::store::Op::Remove(row));
            let counts = row.is_some();
            batch.ops.extend(row);
            counts
        })
        .await
    }
}
