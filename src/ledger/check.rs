//! Whether the rows of a ledger can be read: for the check of a store that nobody uses.

use super::key;

/// Whether a row of a ledger can be read.
///
/// # Errors
/// Says which kind of row it is, and nothing of what is in it.
pub fn check(row: &[u8], value: &[u8]) -> Result<(), &'static str> {
    let Some((&table, name)) = row.split_first() else { return Err("a row without a key") };
    let named = !name.is_empty() && std::str::from_utf8(name).is_ok();
    let (what, well) = match table {
        key::MESSAGE => ("the record of a sent message", key::record_of(value).is_some()),
        key::MEMBER => ("how far a member of a group is", name.contains(&0) && key::step_of(value).is_some()),
        key::SEND => ("the send of an idempotency key", key::kept_of(value).is_some()),
        _ => return Err("a row of no table that is known"),
    };
    if named && well { Ok(()) } else { Err(what) }
}
