//! Trusted-contact tokens: read, changed and written under one lock, since two paths of the library own a field each.
//!
//! Each text to a person asks for one, so those of the last few are remembered.

use std::collections::VecDeque;

use bytes::Bytes;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::TcTokenEntry;

use super::{SessionBackend, key, value};
use crate::store::{KeyRange, Op};

/// Persons whose token is remembered, or that there is none: about 150 bytes each.
const REMEMBERED: usize = 16;

/// The last rows that were asked for, as the store has them; the oldest first. Its lock is held over each write.
#[derive(Debug, Default)]
pub(super) struct Tokens(VecDeque<(Box<str>, Option<Bytes>)>);

impl Tokens {
    fn get(&self, jid: &str) -> Option<&Option<Bytes>> {
        self.0.iter().find(|(of, _)| **of == *jid).map(|(_, row)| row)
    }

    fn remember(&mut self, jid: &str, row: Option<Bytes>) {
        self.forget(jid);
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((jid.into(), row));
    }

    fn forget(&mut self, jid: &str) {
        self.0.retain(|(of, _)| **of != *jid);
    }
}

impl SessionBackend {
    pub(super) async fn tc_token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        self.known_tc_token(&mut *self.tc_tokens.lock().await, jid).await
    }

    async fn known_tc_token(&self, known: &mut Tokens, jid: &str) -> Result<Option<TcTokenEntry>> {
        let row = if let Some(row) = known.get(jid) {
            row.clone()
        } else {
            let row = self.get(&key::named(key::TC_TOKEN, jid)).await?;
            known.remember(jid, row.clone());
            row
        };
        row.as_deref().map(value::from_json).transpose()
    }

    pub(super) async fn put_tc_token_entry(&self, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        self.write_tc_token(&mut *self.tc_tokens.lock().await, jid, entry).await
    }

    async fn write_tc_token(&self, known: &mut Tokens, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        known.forget(jid);
        let row = value::json(entry)?;
        self.put_buffered(key::named(key::TC_TOKEN, jid), row.clone()).await?;
        known.remember(jid, Some(row));
        Ok(())
    }

    pub(super) async fn remove_tc_token(&self, jid: &str) -> Result<()> {
        let mut known = self.tc_tokens.lock().await;
        known.forget(jid);
        self.remove_buffered(key::named(key::TC_TOKEN, jid)).await
    }

    pub(super) async fn touch_tc_token(&self, jid: &str, sender_timestamp: i64) -> Result<()> {
        let mut known = self.tc_tokens.lock().await;
        let mut entry = self.known_tc_token(&mut known, jid).await?.unwrap_or(TcTokenEntry {
            token: Vec::new(),
            token_timestamp: sender_timestamp,
            sender_timestamp: None,
        });
        entry.sender_timestamp = entry.sender_timestamp.max(Some(sender_timestamp));
        self.write_tc_token(&mut known, jid, &entry).await
    }

    pub(super) async fn receive_tc_token(&self, jid: &str, token: &[u8], token_timestamp: i64) -> Result<()> {
        let mut known = self.tc_tokens.lock().await;
        let old = self.known_tc_token(&mut known, jid).await?;
        if old.as_ref().is_some_and(|old| !old.token.is_empty() && token_timestamp < old.token_timestamp) {
            return Ok(());
        }
        let sender_timestamp = old.and_then(|old| old.sender_timestamp);
        let entry = TcTokenEntry { token: token.to_vec(), token_timestamp, sender_timestamp };
        self.write_tc_token(&mut known, jid, &entry).await
    }

    pub(super) async fn sweep_tc_tokens(&self, token_cutoff: i64, sender_cutoff: i64) -> Result<u32> {
        let mut known = self.tc_tokens.lock().await;
        *known = Tokens::default();
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
