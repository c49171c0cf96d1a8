//! The layout of the ledger's namespace: every key and value is here and nowhere else.
//!
//! `m<id>` a sent message · `p<id>\0<address>` how far a member of its group is · `k<key>` the send that an idempotency
//! key stands for.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Kept, Record};
use crate::message::Step;

pub(super) const MESSAGE: u8 = b'm';
pub(super) const MEMBER: u8 = b'p';
pub(super) const SEND: u8 = b'k';

pub(super) fn message(id: &str) -> Bytes {
    [&[MESSAGE], id.as_bytes()].concat().into()
}

pub(super) fn member(id: &str, address: &str) -> Bytes {
    [&[MEMBER], id.as_bytes(), b"\0", address.as_bytes()].concat().into()
}

/// What the keys of all members of a message begin with.
pub(super) fn members(id: &str) -> Bytes {
    [&[MEMBER], id.as_bytes(), b"\0"].concat().into()
}

pub(super) fn send(key: &str) -> Bytes {
    [&[SEND], key.as_bytes()].concat().into()
}

pub(super) fn record(record: &Record) -> Bytes {
    serde_json::to_vec(record).expect("strings and numbers always serialise").into()
}

pub(super) fn record_of(value: &[u8]) -> Option<Record> {
    serde_json::from_slice(value).ok()
}

pub(super) fn step(step: Step) -> Bytes {
    Bytes::from_static(step.as_str().as_bytes())
}

pub(super) fn step_of(value: &[u8]) -> Option<Step> {
    [Step::Delivered, Step::Read, Step::Played].into_iter().find(|step| step.as_str().as_bytes() == value)
}

#[derive(Serialize, Deserialize)]
struct Row {
    digest: String,
    id: String,
    at_ms: i64,
    done: bool,
    body: String,
}

pub(super) fn kept(kept: &Kept) -> Bytes {
    let Kept { digest, id, at_ms, done, body } = kept;
    let row = Row { digest: hex::encode(digest), id: id.clone(), at_ms: *at_ms, done: *done, body: body.clone() };
    serde_json::to_vec(&row).expect("strings and numbers always serialise").into()
}

pub(super) fn kept_of(value: &[u8]) -> Option<Kept> {
    let Row { digest, id, at_ms, done, body } = serde_json::from_slice(value).ok()?;
    let digest = hex::decode(digest).ok()?.try_into().ok()?;
    Some(Kept { digest, id, at_ms, done, body })
}

/// When a row of either table was made, in Unix milliseconds; one that can't be read is as old as can be.
pub(super) fn made_at(row: &[u8]) -> i64 {
    #[derive(Deserialize)]
    struct Made {
        at_ms: i64,
    }
    serde_json::from_slice::<Made>(row).map_or(i64::MIN, |made| made.at_ms)
}
