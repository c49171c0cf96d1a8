//! Whether the rows of an outbox can be read: for the check of a store that nobody uses.

use bytes::Bytes;

use super::{event, key};

/// Whether a row of an outbox can be read.
///
/// # Errors
/// Says which kind of row it is.
pub fn check(row: &[u8], value: &Bytes) -> Result<(), &'static str> {
    let numbered = || key::seq_of(row).is_some();
    match row.first() {
        Some(b'm') if event::Meta::decode(value).is_none() => Err("the counters can't be read"),
        Some(b'e') if !numbered() || event::NewEvent::decode(value).is_none() => Err("an event can't be read"),
        Some(b'a') if !numbered() || event::Attempt::decode(value).is_none() => {
            Err("an event's attempts can't be read")
        }
        Some(b'f') if !numbered() || key::file_of(value).is_none() => Err("the place of an event's file can't be read"),
        Some(b'i') if value.len() != 8 => Err("the place of an event can't be read"),
        Some(b'd') if key::recent_of(value).is_none() => Err("the id of an event that is done can't be read"),
        _ => Ok(()),
    }
}
