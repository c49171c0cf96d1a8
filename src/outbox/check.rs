//! Whether the rows of an outbox can be read: for the check of a store that nobody uses.

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::dead::{DeadKey, DeadLetter};
use super::{done, event, key};

/// Whether a row of an outbox can be read.
///
/// # Errors
/// Says which kind of row it is, and nothing of what is in it.
pub fn check(row: &[u8], value: &Bytes) -> Result<(), &'static str> {
    let Some(&table) = row.first() else { return Err("a row without a key") };
    let numbered = key::seq_of(row).is_some();
    let named = row.len() > 1 && std::str::from_utf8(&row[1..]).is_ok();
    let (what, well) = match table {
        b'm' => ("the counters", row == key::META_KEY && value.len() % 8 == 1 && event::Meta::decode(value).is_some()),
        b'e' => ("an event", numbered && is_event(value)),
        b's' => ("the mark of an event that may be shed", numbered && value.is_empty()),
        b'a' => ("an event's attempts", numbered && event::Attempt::decode(value).is_some()),
        b'f' => ("the place of an event's file", numbered && key::file_of(value).is_some()),
        b'i' => ("the place of an event", named && value.len() == 8),
        b'r' => ("the ids of events that are done", numbered && done::is_block(value)),
        b'd' => {
            let is_id = key::old_recent_of(value).is_some_and(|(_turn, id)| is_event_id(&id));
            ("the id of an event that is done", numbered && is_id)
        }
        b'x' => ("a dead letter", DeadLetter::decode(row, value).is_some_and(|letter| is_json(&letter.event.body))),
        b'y' => {
            let leads_to_one = value.first() == Some(&b'x') && DeadKey::decode(value).is_some();
            ("the place of a dead letter", named && leads_to_one)
        }
        _ => return Err("a row of no table that is known"),
    };
    if well { Ok(()) } else { Err(what) }
}

/// Whether an event, with where it goes if it is a farewell, can be read and posted.
pub fn is_event(value: &Bytes) -> bool {
    event::NewEvent::decode(value).is_some_and(|(event, _at)| is_json(&event.body))
}

/// As [`event::event_id`] makes them.
fn is_event_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}
