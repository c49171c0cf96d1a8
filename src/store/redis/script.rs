//! The Lua scripts and their arguments. Redis runs a script alone and as a whole, in its file too: that is what makes a batch
//! atomic, and what fits every reply to one round trip.

use std::ops::Bound;

use ::redis::{Script, ScriptInvocation};
use bytes::Bytes;

use super::{LEASE, LEASE_TTL, NAMESPACES, OWNER, SCHEMA, SCHEMA_KEY, SEQUENCE, keys_of, values_of};
use crate::store::{Batch, KeyRange, Namespace, Op};

#[derive(Debug)]
pub(super) struct Scripts {
    take: Script,
    beat: Script,
    write: Script,
    drop: Script,
    range: Script,
}

/// The codes of `write.lua` and `drop.lua`.
pub(super) const DONE: u64 = 0;
pub(super) const CONFLICT: u64 = 1;
pub(super) const FENCED: u64 = 2;

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            take: Script::new(include_str!("take.lua")),
            beat: Script::new(include_str!("beat.lua")),
            write: Script::new(include_str!("write.lua")),
            drop: Script::new(include_str!("drop.lua")),
            range: Script::new(include_str!("range.lua")),
        }
    }

    pub(super) fn take(&self, uid: &str, number: u64, first: bool) -> ScriptInvocation<'_> {
        let mut call = self.take.prepare_invoke();
        call.key(OWNER).key(LEASE).key(SCHEMA_KEY).key(SEQUENCE);
        call.arg(uid).arg(number).arg(lease_ms()).arg(SCHEMA).arg(u8::from(first));
        call
    }

    pub(super) fn beat(&self, token: &str, uid: &str) -> ScriptInvocation<'_> {
        let mut call = self.beat.prepare_invoke();
        call.key(OWNER).key(LEASE).arg(token).arg(uid).arg(lease_ms());
        call
    }

    pub(super) fn release(&self, token: &str, uid: &str) -> ScriptInvocation<'_> {
        let mut call = self.beat.prepare_invoke();
        call.key(OWNER).key(LEASE).arg(token).arg(uid).arg(0);
        call
    }

    pub(super) fn write(&self, token: &str, ns: &Namespace, batch: &Batch) -> ScriptInvocation<'_> {
        let mut call = self.write.prepare_invoke();
        call.key(OWNER).key(NAMESPACES).key(SEQUENCE).key(keys_of(ns)).key(values_of(ns));
        let fence = batch.fence.map_or_else(String::new, |fence| format!("{fence:020}"));
        call.arg(token).arg(ns.as_str()).arg(fence).arg(batch.conditions.len()).arg(batch.ops.len());
        for (key, value) in &batch.conditions {
            call.arg(key.as_ref()).arg(u8::from(value.is_some())).arg(value.as_deref().unwrap_or_default());
        }
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => call.arg("p").arg(key.as_ref()).arg(value.as_ref()),
                Op::Remove(key) => call.arg("r").arg(key.as_ref()).arg(""),
            };
        }
        call
    }

    pub(super) fn drop(&self, token: &str, ns: &Namespace) -> ScriptInvocation<'_> {
        let mut call = self.drop.prepare_invoke();
        call.key(OWNER).key(NAMESPACES).key(SEQUENCE).key(keys_of(ns)).key(values_of(ns));
        call.arg(token).arg(ns.as_str());
        call
    }

    pub(super) fn range(&self, ns: &Namespace, range: &KeyRange) -> ScriptInvocation<'_> {
        let mut call = self.range.prepare_invoke();
        call.key(keys_of(ns)).key(values_of(ns));
        call.arg(bound(&range.start, b"-")).arg(bound(&range.end, b"+"));
        // -1: all of them.
        call.arg(i64::try_from(range.limit).unwrap_or(-1));
        call
    }
}

fn lease_ms() -> u64 {
    u64::try_from(LEASE_TTL.as_millis()).unwrap_or(u64::MAX)
}

/// As ZRANGEBYLEX has it.
fn bound(bound: &Bound<Bytes>, unbounded: &[u8]) -> Vec<u8> {
    match bound {
        Bound::Included(key) => [b"[".as_slice(), key].concat(),
        Bound::Excluded(key) => [b"(".as_slice(), key].concat(),
        Bound::Unbounded => unbounded.to_vec(),
    }
}
