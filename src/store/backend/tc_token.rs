//! Trusted-contact tokens: read, changed and written under one lock, since two paths of the library own a field each.

use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::TcTokenEntry;

use super::{SessionBackend, key, value};
use crate::store::{KeyRange, Op};

impl SessionBackend {
    pub(super) async fn tc_token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        self.get(&key::named(key::TC_TOKEN, jid)).await?.as_deref().map(value::from_json).transpose()
    }

    pub(super) async fn write_tc_token(&self, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        self.put_buffered(key::named(key::TC_TOKEN, jid), value::json(entry)?).await
    }

    pub(super) async fn touch_tc_token(&self, jid: &str, sender_timestamp: i64) -> Result<()> {
        let _lock = self.tc_tokens.lock().await;
        let mut entry = self.tc_token(jid).await?.unwrap_or(TcTokenEntry {
            token: Vec::new(),
            token_timestamp: sender_timestamp,
            sender_timestamp: None,
        });
        entry.sender_timestamp = entry.sender_timestamp.max(Some(sender_timestamp));
        self.write_tc_token(jid, &entry).await
    }

    pub(super) async fn receive_tc_token(&self, jid: &str, token: &[u8], token_timestamp: i64) -> Result<()> {
        let _lock = self.tc_tokens.lock().await;
        let old = self.tc_token(jid).await?;
        if old.as_ref().is_some_and(|old| !old.token.is_empty() && token_timestamp < old.token_timestamp) {
            return Ok(());
        }
        let sender_timestamp = old.and_then(|old| old.sender_timestamp);
        self.write_tc_token(jid, &TcTokenEntry { token: token.to_vec(), token_timestamp, sender_timestamp }).await
    }

    pub(super) async fn sweep_tc_tokens(&self, token_cutoff: i64, sender_cutoff: i64) -> Result<u32> {
        let _lock = self.tc_tokens.lock().await;
        self.sweep(KeyRange::prefix(vec![key::TC_TOKEN]), |batch, key, row| {
            // A row that can't be read is kept: it says nothing about its age.
            let Ok(entry) = value::from_json::<TcTokenEntry>(row) else {
                return false;
            };
            let token_live = !entry.token.is_empty() && entry.token_timestamp >= token_cutoff;
            let sender_live = entry.sender_timestamp.is_some_and(|at| at >= sender_cutoff);
            if token_live || sender_live {
                return false;
            }
            batch.ops.push(Op::Remove(key.clone()));
            true
        })
        .await
    }
}
