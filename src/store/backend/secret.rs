//! Message secrets, which decrypt later reactions, poll votes and edits.
//!
//! What is too old is found by an index of chats and days: one entry for all secrets of a sender in a chat whose deadline is
//! within a day, as an entry for each would be one more page that each message looks at. They go when the day is over. Older
//! releases made one for each; such entries are read, and go in their time.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
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
use crate::store::{Batch, KeyRange, Op};

/// Seconds that share an entry of the index, and that a secret may outlive its deadline by.
const DAY: i64 = 86_400;
/// Entries that are known to be there, 8 bytes each; with one more all are forgotten, and written once more.
const INDEXED: usize = 64;
/// The value of an entry for all that begins with its row; that of an older release, for one row, is empty.
const ALL: &[u8] = &[1];

/// Hashes of entries that the index has. Locked while secrets are written.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    hashes: RandomState,
    entries: HashSet<u64>,
}

impl Indexed {
    /// They are written.
    fn add(&mut self, entries: Vec<u64>) {
        if self.entries.len() + entries.len() > INDEXED {
            self.entries.clear();
        }
        self.entries.extend(entries.into_iter().take(INDEXED));
    }
}

/// When the day of this deadline began.
fn day(expires_at: i64) -> i64 {
    expires_at.div_euclid(DAY).saturating_mul(DAY)
}

/// Whether this is an entry of the index as it is written now.
fn is_index(entry: &[u8], value: &[u8]) -> bool {
    value == ALL && id_of(entry).is_some_and(|id| id.is_empty())
}

/// The same, or as older releases wrote it.
pub(super) fn is_any_index(entry: &[u8], value: &[u8]) -> bool {
    is_index(entry, value) || value.is_empty() && id_of(entry).is_some_and(|id| !id.is_empty())
}

/// The message's id in the row that an entry names.
fn id_of(entry: &[u8]) -> Option<Bytes> {
    let (_, row) = key::split_timed(&Bytes::copy_from_slice(entry))?;
    let parts = key::parts(&row).filter(|_| row.first() == Some(&key::SECRET))?;
    Some(Bytes::copy_from_slice(parts.last()?))
}

impl SessionBackend {
    async fn secret(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Secret>> {
        let row = self.get(&key::joined(key::SECRET, [chat, sender], id)).await?;
        row.as_deref().map(Secret::from_bytes).transpose()
    }
}

#[async_trait]
impl MsgSecretStore for SessionBackend {
    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        let mut indexed = self.secrets.lock().await;
        for page in entries.chunks(PAGE) {
            let (mut draft, mut new_entries) = (Draft::new(self), Vec::new());
            for entry in page {
                let row = key::joined(key::SECRET, [&entry.chat, &entry.sender], &*entry.msg_id);
                let mut new =
                    Secret { bytes: entry.secret, expires_at: entry.expires_at, message_ts: entry.message_ts };
                if let Some(old) = draft.get(&row).await?.as_deref().map(Secret::from_bytes).transpose()? {
                    new.expires_at = merge_msg_secret_expiry(old.expires_at, new.expires_at);
                    new.message_ts = merge_msg_secret_message_ts(old.message_ts, new.message_ts);
                }
                // Before its row: whatever comes of these in the end, no row is without an entry that sweeps it away.
                if new.expires_at != 0 {
                    let all = key::below(key::SECRET, [&entry.chat, &entry.sender]);
                    let index = key::timed(key::SECRET_INDEX, day(new.expires_at), &all);
                    let hash = indexed.hashes.hash_one(&index);
                    if !indexed.entries.contains(&hash) {
                        draft.put(index, Bytes::from_static(ALL));
                        new_entries.push(hash);
                    }
                }
                draft.put(row, new.to_bytes());
            }
            draft.write_loose().await?;
            indexed.add(new_entries);
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
        let mut indexed = self.secrets.lock().await;
        indexed.entries.clear();
        let mut range = KeyRange::prefix(vec![key::SECRET_INDEX]).limit(PAGE);
        // Of days that are over.
        range.end = Bound::Excluded(key::timed(key::SECRET_INDEX, cutoff_timestamp.saturating_sub(DAY - 2), &[]));
        let (mut removed, mut swept) = (0, HashSet::new());
        loop {
            let entries = self.range(range.clone()).await?;
            let Some((last, _)) = entries.last() else { return Ok(removed) };
            range.start = Bound::Excluded(last.clone());
            let mut batch = Batch::new().buffered();
            for (entry, value) in &entries {
                let row = key::split_timed(entry).map(|(_, row)| row);
                if is_index(entry, value) {
                    if let Some(chat) = row.filter(|chat| swept.insert(chat.clone())) {
                        removed += self.sweep_secrets(&chat, cutoff_timestamp).await?;
                    }
                } else if let Some(row) = row
                    && self.get(&row).await?.is_some_and(|secret| is_expired(&secret, cutoff_timestamp))
                {
                    batch.ops.push(Op::Remove(row));
                    removed += 1;
                }
                batch.ops.push(Op::Remove(entry.clone()));
            }
            self.write(batch).await?;
        }
    }
}

/// What is damaged is not: it is nobody's trouble but its reader's.
fn is_expired(secret: &[u8], cutoff: i64) -> bool {
    Secret::from_bytes(secret).is_ok_and(|secret| secret.expires_at != 0 && secret.expires_at <= cutoff)
}

impl SessionBackend {
    /// Removes what has expired of the secrets that begin so, and says how many.
    async fn sweep_secrets(&self, chat: &[u8], cutoff: i64) -> Result<u32> {
        self.sweep(KeyRange::prefix(chat.to_vec()), |batch, key, row| {
            let expired = is_expired(row, cutoff);
            if expired {
                batch.ops.push(Op::Remove(key.clone()));
            }
            expired
        })
        .await
    }
}
