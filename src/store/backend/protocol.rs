//! What the protocol remembers besides keys: LID mappings, device lists, sent messages, messages not yet committed.

use async_trait::async_trait;
use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::{
    DeviceListRecord, LidPnMappingEntry, PendingInboundKey, PendingInboundRow, ProtocolStore, TcTokenEntry,
};
use whatsapp_rust::wacore::time::now_secs;

use super::draft::Draft;
use super::inbound::pending;
use super::{PAGE, SessionBackend, key, value};
use crate::store::{Batch, KeyRange, Op};

/// Sent messages that are looked at together: a send waits for it.
const SENT_PAGE: usize = 64;

impl SessionBackend {
    async fn lid_mapping(&self, lid: &[u8]) -> Result<Option<LidPnMappingEntry>> {
        self.get(&key::named(key::LID, lid)).await?.as_deref().map(value::from_json).transpose()
    }
}

/// Removes a row of the sender-key devices with its index entry.
fn remove_device(batch: &mut Batch, group: &str, device: &str) {
    batch.ops.push(Op::Remove(key::joined(key::SENDER_KEY_DEVICE, [group], device)));
    batch.ops.push(Op::Remove(key::joined(key::SENDER_KEY_DEVICE_INDEX, [device], group)));
}

#[async_trait]
impl ProtocolStore for SessionBackend {
    async fn get_sender_key_devices(&self, group_jid: &str) -> Result<Vec<(String, bool)>> {
        let rows = self.range(KeyRange::prefix(key::below(key::SENDER_KEY_DEVICE, [group_jid]))).await?;
        let parsed = rows.iter().filter_map(|(key, row)| Some((key::split(key)?.1.to_owned(), row.as_ref() == [1])));
        Ok(parsed.collect())
    }

    async fn set_sender_key_status(&self, group_jid: &str, entries: &[(&str, bool)]) -> Result<()> {
        let mut batch = Batch::new().buffered();
        for (device, has_key) in entries {
            batch = batch
                .put(
                    key::joined(key::SENDER_KEY_DEVICE, [group_jid], device),
                    Bytes::from_static(if *has_key { &[1] } else { &[0] }),
                )
                .put(key::joined(key::SENDER_KEY_DEVICE_INDEX, [device], group_jid), Bytes::new());
        }
        self.write(batch).await
    }

    /// All at once: a half-cleared group would leave participants without the new sender key.
    async fn clear_sender_key_devices(&self, group_jid: &str) -> Result<()> {
        let rows = self.range(KeyRange::prefix(key::below(key::SENDER_KEY_DEVICE, [group_jid]))).await?;
        let mut batch = Batch::new().buffered();
        for (group, device) in rows.iter().filter_map(|(key, _)| key::split(key)) {
            remove_device(&mut batch, group, device);
        }
        self.write(batch).await
    }

    async fn delete_sender_key_device_rows(&self, device_jids: &[&str]) -> Result<()> {
        let mut batch = Batch::new().buffered();
        for device in device_jids {
            let rows = self.range(KeyRange::prefix(key::below(key::SENDER_KEY_DEVICE_INDEX, [device]))).await?;
            for (device, group) in rows.iter().filter_map(|(key, _)| key::split(key)) {
                remove_device(&mut batch, group, device);
            }
        }
        self.write(batch).await
    }

    async fn clear_all_sender_key_devices(&self) -> Result<()> {
        for table in [key::SENDER_KEY_DEVICE, key::SENDER_KEY_DEVICE_INDEX] {
            self.sweep(KeyRange::prefix(vec![table]), |batch, key, _| {
                batch.ops.push(Op::Remove(key.clone()));
                true
            })
            .await?;
        }
        Ok(())
    }

    async fn get_lid_mapping(&self, lid: &str) -> Result<Option<LidPnMappingEntry>> {
        self.lid_mapping(lid.as_bytes()).await
    }

    async fn get_pn_mapping(&self, phone: &str) -> Result<Option<LidPnMappingEntry>> {
        match self.get(&key::named(key::PN, phone)).await? {
            Some(row) => self.lid_mapping(value::from_stamped(&row)?.1).await,
            None => Ok(None),
        }
    }

    async fn put_lid_mapping(&self, entry: &LidPnMappingEntry) -> Result<()> {
        self.put_lid_mappings(std::slice::from_ref(entry)).await
    }

    /// The reverse row names the LID of a number that was updated last; a LID that moves away takes only its own with it.
    async fn put_lid_mappings(&self, entries: &[LidPnMappingEntry]) -> Result<()> {
        // The first one is that of a pairing, whose answer waits for it.
        self.store_paired().await?;
        let _lock = self.lid_mappings.lock().await;
        for page in entries.chunks(PAGE) {
            let mut draft = Draft::new(self);
            for entry in page {
                let row = key::named(key::LID, &entry.lid);
                if let Some(old) = draft.get(&row).await? {
                    let old: LidPnMappingEntry = value::from_json(&old)?;
                    let reverse = key::named(key::PN, &old.phone_number);
                    if old.phone_number != entry.phone_number
                        && let Some(named) = draft.get(&reverse).await?
                        && value::from_stamped(&named)?.1 == entry.lid.as_bytes()
                    {
                        draft.remove(reverse);
                    }
                }
                let reverse = key::named(key::PN, &entry.phone_number);
                let newer = match draft.get(&reverse).await? {
                    Some(named) => {
                        let (updated_at, lid) = value::from_stamped(&named)?;
                        lid != entry.lid.as_bytes() && updated_at > entry.updated_at
                    }
                    None => false,
                };
                if !newer {
                    draft.put(reverse, value::stamped(entry.updated_at, entry.lid.as_bytes()));
                }
                draft.put(row, value::json(entry)?);
            }
            draft.write().await?;
        }
        Ok(())
    }

    async fn get_all_lid_mappings(&self) -> Result<Vec<LidPnMappingEntry>> {
        let rows = self.range(KeyRange::prefix(vec![key::LID])).await?;
        rows.iter().map(|(_, row)| value::from_json(row)).collect()
    }

    async fn save_base_key(&self, address: &str, message_id: &str, base_key: &[u8]) -> Result<()> {
        self.put_buffered(key::joined(key::BASE_KEY, [address], message_id), Bytes::copy_from_slice(base_key)).await
    }

    async fn has_same_base_key(&self, address: &str, message_id: &str, current_base_key: &[u8]) -> Result<bool> {
        let saved = self.get(&key::joined(key::BASE_KEY, [address], message_id)).await?;
        Ok(saved.is_some_and(|saved| saved == current_base_key))
    }

    async fn delete_base_key(&self, address: &str, message_id: &str) -> Result<()> {
        self.remove_buffered(key::joined(key::BASE_KEY, [address], message_id)).await
    }

    async fn update_device_list(&self, record: DeviceListRecord) -> Result<()> {
        self.put_buffered(key::named(key::DEVICE_LIST, &record.user), value::json(&record)?).await
    }

    async fn update_device_lists(&self, records: Vec<DeviceListRecord>) -> Result<()> {
        for page in records.chunks(PAGE) {
            let mut batch = Batch::new().buffered();
            for record in page {
                batch = batch.put(key::named(key::DEVICE_LIST, &record.user), value::json(record)?);
            }
            self.write(batch).await?;
        }
        Ok(())
    }

    async fn get_devices(&self, user: &str) -> Result<Option<DeviceListRecord>> {
        self.get(&key::named(key::DEVICE_LIST, user)).await?.as_deref().map(value::from_json).transpose()
    }

    async fn delete_devices(&self, user: &str) -> Result<()> {
        self.remove_buffered(key::named(key::DEVICE_LIST, user)).await
    }

    async fn get_group_metadata(&self, group_jid: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.get(&key::named(key::GROUP, group_jid)).await?.map(Vec::from))
    }

    async fn put_group_metadata(&self, group_jid: &str, blob: &[u8]) -> Result<()> {
        self.put_buffered(key::named(key::GROUP, group_jid), Bytes::copy_from_slice(blob)).await
    }

    async fn delete_group_metadata(&self, group_jid: &str) -> Result<()> {
        self.remove_buffered(key::named(key::GROUP, group_jid)).await
    }

    async fn get_tc_token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        self.tc_token(jid).await
    }

    async fn put_tc_token(&self, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        self.put_tc_token_entry(jid, entry).await
    }

    async fn delete_tc_token(&self, jid: &str) -> Result<()> {
        self.remove_tc_token(jid).await
    }

    async fn get_all_tc_token_jids(&self) -> Result<Vec<String>> {
        let rows = self.range(KeyRange::prefix(vec![key::TC_TOKEN])).await?;
        Ok(rows.iter().filter_map(|(key, _)| Some(std::str::from_utf8(&key[1..]).ok()?.to_owned())).collect())
    }

    async fn delete_expired_tc_tokens(&self, token_cutoff: i64, sender_cutoff: i64) -> Result<u32> {
        self.sweep_tc_tokens(token_cutoff, sender_cutoff).await
    }

    async fn touch_tc_token_sender_timestamp(&self, jid: &str, sender_timestamp: i64) -> Result<()> {
        self.touch_tc_token(jid, sender_timestamp).await
    }

    async fn store_received_tc_token(&self, jid: &str, token: &[u8], token_timestamp: i64) -> Result<()> {
        self.receive_tc_token(jid, token, token_timestamp).await
    }

    /// One row and no index by time: one more row would be one more page that each send looks at, and what is too old is
    /// looked for every few minutes only.
    async fn store_sent_message(&self, chat_jid: &str, message_id: &str, payload: &[u8]) -> Result<()> {
        let _lock = self.sent_messages.lock().await;
        self.put_buffered(key::joined(key::SENT, [chat_jid], message_id), value::stamped(now_secs(), payload)).await
    }

    async fn take_sent_message(&self, chat_jid: &str, message_id: &str) -> Result<Option<Vec<u8>>> {
        let row = key::joined(key::SENT, [chat_jid], message_id);
        let _lock = self.sent_messages.lock().await;
        let Some(sent) = self.get(&row).await? else {
            return Ok(None);
        };
        let payload = value::from_stamped(&sent)?.1.to_vec();
        self.remove_buffered(row).await?;
        Ok(Some(payload))
    }

    async fn delete_expired_sent_messages(&self, cutoff_timestamp: i64) -> Result<u32> {
        // Of older releases; nothing reads it.
        self.sweep(KeyRange::prefix(vec![key::OLD_SENT_INDEX]), |batch, key, _| {
            batch.ops.push(Op::Remove(key.clone()));
            true
        })
        .await?;
        // A page at a time: sends go on in between. What is damaged stays: it is nobody's trouble but its reader's.
        let mut range = KeyRange::prefix(vec![key::SENT]).limit(SENT_PAGE);
        let mut removed = 0;
        loop {
            let _lock = self.sent_messages.lock().await;
            let rows = self.range(range.clone()).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(removed);
            };
            range.start = std::ops::Bound::Excluded(last.clone());
            let mut batch = Batch::new().buffered();
            for (row, sent) in rows {
                if value::from_stamped(&sent).is_ok_and(|(at, _)| at < cutoff_timestamp) {
                    batch = batch.remove(row);
                    removed += 1;
                }
            }
            self.write(batch).await?;
        }
    }

    /// In memory until a ratchet is stored: without that WhatsApp delivers the message again.
    async fn store_pending_inbound(&self, chat: &str, sender: &str, id: &str, message: &[u8]) -> Result<()> {
        self.keep_pending([(pending(chat, sender, id), value::stamped(now_secs(), message))]).await?;
        self.row_of_chat(chat);
        Ok(())
    }

    async fn get_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Vec<u8>>> {
        self.pending_row(chat, sender, id).await
    }

    async fn delete_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<()> {
        self.settle(vec![pending(chat, sender, id)]).await
    }

    /// Reads them all: committed messages leave at once, so few are ever there, and none pays for an index. Every five minutes or
    /// so, thus what is held of ratchets goes too.
    async fn delete_expired_pending_inbound(&self, cutoff_timestamp: i64) -> Result<u32> {
        self.store_held().await?;
        self.expire_pending(cutoff_timestamp).await
    }

    async fn store_pending_inbound_batch(&self, rows: &[PendingInboundRow<'_>]) -> Result<()> {
        let now = now_secs();
        for row in rows {
            self.row_of_chat(row.chat);
        }
        let row =
            |row: &PendingInboundRow<'_>| (pending(row.chat, row.sender, row.id), value::stamped(now, row.message));
        self.keep_pending(rows.iter().map(row).collect::<Vec<_>>()).await
    }

    async fn delete_pending_inbound_batch(&self, keys: &[PendingInboundKey<'_>]) -> Result<()> {
        self.settle(keys.iter().map(|key| pending(key.chat, key.sender, key.id)).collect()).await
    }
}
