//! Message secrets, which decrypt later edits, encrypted reactions and comments, and what bots answer.
//!
//! Those of the session's own texts to one person are not kept: whatsapp-rust 0.7.0 has one made for each message that is sent,
//! but reactions and comments are encrypted in groups only, edits come from who wrote the text (`message_edit.rs`), and what the
//! session's own phone wrote is told to nobody. Kept for a month, they would be a third of what a sent text writes.
//!
//! What is too old is found by an index of chats and days: one entry for all secrets of a sender in a chat whose deadline is
//! within a day, as an entry for each would be one more page that each message looks at. They go when the day is over. Older
//! releases made one for each; such entries are read, and go in their time.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;
use std::sync::{MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use whatsapp_rust::Jid;
use whatsapp_rust::wacore::msg_secret::MsgSecretRetention;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::{
    MsgSecretEntry, MsgSecretStore, merge_msg_secret_expiry, merge_msg_secret_message_ts,
};

use super::draft::Draft;
use super::value::{self, Secret};
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

/// The library does not say what a secret belongs to; that of a text is known by the time that it is kept, as `whatsapp` has
/// all others kept for longer.
fn is_of_text(entry: &MsgSecretEntry) -> bool {
    let kept = MsgSecretRetention::default().text.as_secs();
    entry.expires_at != 0 && entry.expires_at.checked_sub(entry.message_ts) == i64::try_from(kept).ok()
}

/// Whether it is of a chat with one person.
fn is_direct(entry: &MsgSecretEntry) -> bool {
    entry.chat.ends_with("@s.whatsapp.net") || entry.chat.ends_with("@lid")
}

/// The session's own addresses without a device, as far as they are known: number and LID.
#[derive(Debug)]
pub(super) struct Own(Vec<String>);

impl Own {
    pub(super) fn of(device: &Device) -> Self {
        Self([&device.pn, &device.lid].into_iter().flatten().map(Jid::to_non_ad_string).collect())
    }

    fn wrote(&self, entry: &MsgSecretEntry) -> bool {
        self.0.iter().any(|own| **own == *entry.sender)
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

    pub(super) fn own(&self) -> MutexGuard<'_, Option<Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves out what nobody will ask for.
    async fn of_use(&self, mut entries: Vec<MsgSecretEntry>) -> Result<Vec<MsgSecretEntry>> {
        if !entries.iter().any(is_of_text) {
            return Ok(entries);
        }
        if self.own().is_none()
            && let Some(row) = self.get(key::DEVICE).await?
        {
            let own = Own::of(&value::from_device(&row)?);
            self.own().get_or_insert(own);
        }
        if let Some(own) = &*self.own() {
            entries.retain(|entry| !(is_of_text(entry) && is_direct(entry) && own.wrote(entry)));
        }
        Ok(entries)
    }
}

#[async_trait]
impl MsgSecretStore for SessionBackend {
    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        let entries = self.of_use(entries).await?;
        if entries.is_empty() {
            return Ok(0);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use whatsapp_rust::wacore::store::traits::DeviceStore as _;

    use super::*;
    use crate::outbox::memory::MemoryKv;
    use crate::store::Namespace;

    const PN: &str = "6281111111111@s.whatsapp.net";
    const LID: &str = "271828@lid";
    const OTHER: &str = "6282222222222@s.whatsapp.net";

    fn backend(kv: &Arc<MemoryKv>) -> Arc<SessionBackend> {
        SessionBackend::new(Arc::<MemoryKv>::clone(kv), Namespace::credentials("uid"), None)
    }

    fn secret(sender: &str, id: &str, kept: Duration) -> MsgSecretEntry {
        let sent_at = 1_700_000_000;
        MsgSecretEntry {
            chat: OTHER.into(),
            sender: sender.into(),
            msg_id: id.into(),
            secret: [7; 32],
            expires_at: sent_at + i64::try_from(kept.as_secs()).unwrap(),
            message_ts: sent_at,
        }
    }

    #[tokio::test]
    async fn only_of_own_texts_none_is_kept() {
        let (kv, kept) = (Arc::new(MemoryKv::default()), MsgSecretRetention::default());
        let longer = kept.text + Duration::from_hours(24);
        let first = backend(&kv);
        first.put_msg_secrets(vec![secret(PN, "unknown", kept.text)]).await.unwrap();
        assert!(
            first.get_msg_secret(OTHER, PN, "unknown").await.unwrap().is_some(),
            "nobody is known to be its writer"
        );
        let mut device = Device::new();
        device.pn = Some("6281111111111:7@s.whatsapp.net".parse().unwrap());
        device.lid = Some("271828:7@lid".parse().unwrap());
        first.save(&device).await.unwrap();
        for backend in [first, backend(&kv)] {
            let own = [secret(PN, "text", kept.text), secret(LID, "text", kept.text)];
            assert_eq!(backend.put_msg_secrets(own.to_vec()).await.unwrap(), 0);
            let others = [
                secret(PN, "poll", kept.poll_event),
                secret(LID, "bot", longer),
                secret(OTHER, "text", kept.text),
                MsgSecretEntry { chat: "1203@g.us".into(), ..secret(LID, "to a group", kept.text) },
                MsgSecretEntry { expires_at: 0, ..secret(PN, "for ever", kept.text) },
                MsgSecretEntry { message_ts: 0, ..secret(PN, "at no time", kept.text) },
            ];
            assert_eq!(backend.put_msg_secrets([&own[..], &others].concat()).await.unwrap(), others.len());
            for entry in others {
                let stored = backend.get_msg_secret(&entry.chat, &entry.sender, &entry.msg_id).await;
                assert!(stored.unwrap().is_some(), "{}", entry.msg_id);
            }
            for sender in [PN, LID] {
                assert_eq!(backend.get_msg_secret(OTHER, sender, "text").await.unwrap(), None);
            }
        }
    }
}
