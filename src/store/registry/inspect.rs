//! The list of sessions as raw rows: for a backup and for the check, and mended where a row is damaged.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::adoption::{MARKER, SOURCE};
use super::moving::{AWAY, EXPORT, away_key};
use super::{FAREWELL, NAME, RECORD, RecordState, Registry, SEQUENCE, SessionRecord, json, name_key, parse};
use crate::event::SessionName;
use crate::store::{Batch, KeyRange, KvError};

impl Registry {
    /// Whether this is the key of a session's record.
    pub fn is_record(key: &[u8]) -> bool {
        key.starts_with(RECORD)
    }

    /// The records among these rows; of one that can't be read its uid.
    pub fn read(rows: &[(Bytes, Bytes)]) -> impl Iterator<Item = Result<SessionRecord, String>> {
        let records = rows.iter().filter(|(key, _)| Self::is_record(key));
        records.map(|(key, row)| parse(row).map_err(|_| uid_of(key)))
    }

    /// The event that a row keeps of a deleted session.
    pub fn is_farewell(key: &[u8]) -> bool {
        key.starts_with(FAREWELL)
    }

    /// Whether one of the list's own rows can be read, a record and a farewell left out; `None`: it is another's.
    pub fn check(key: &[u8], value: &[u8]) -> Option<Result<(), &'static str>> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|text| !text.is_empty());
        let (what, well) = if let Some(name) = key.strip_prefix(NAME) {
            let is_name = std::str::from_utf8(name).is_ok_and(|name| SessionName::parse(name).is_ok());
            ("a session's name", is_name && text(value))
        } else if key == SEQUENCE {
            ("the counter of sessions", value.len() == 8)
        } else if key.starts_with(MARKER) {
            let is_time = std::str::from_utf8(value).is_ok_and(|time| DateTime::parse_from_rfc3339(time).is_ok());
            ("the note of a takeover", is_time)
        } else if key.starts_with(SOURCE) {
            ("the state of a place of a takeover", std::str::from_utf8(key).is_ok() && text(value))
        } else if key.starts_with(AWAY) || key.starts_with(EXPORT) {
            ("the note of a move", std::str::from_utf8(key).is_ok())
        } else {
            return None;
        };
        Some(if well { Ok(()) } else { Err(what) })
    }

    /// Names among these rows that lead to no session, and sessions that no name leads to.
    pub fn misnamed(rows: &[(Bytes, Bytes)]) -> Vec<String> {
        let named = named(rows);
        let records: BTreeMap<String, Option<SessionRecord>> = rows
            .iter()
            .filter(|(key, _)| Self::is_record(key))
            .map(|(key, row)| (uid_of(key), parse(row).ok()))
            .collect();
        let mut problems = Vec::new();
        for (uid, name) in &named {
            if !records.contains_key(uid) {
                problems.push(format!("the name {name} leads to a session that is not in the list"));
            }
        }
        for (uid, record) in &records {
            match record {
                Some(record) if record.state != RecordState::Deleting && !named.contains_key(uid) => {
                    problems.push(format!("no name leads to the session {}", record.name.as_str()));
                }
                None if !named.contains_key(uid) => {
                    problems.push(format!("the session with the uid {uid} has neither a record nor a name"));
                }
                _ => {}
            }
        }
        problems
    }

    /// Makes anew what can be told from other rows: a record that can't be read from its key and its name, and a name that
    /// leads astray from its record. Before any session runs; returns how many rows it made.
    ///
    /// # Errors
    /// As the engine.
    pub async fn mend(&self) -> Result<usize, KvError> {
        let rows = self.kv.range(&self.ns, KeyRange::all()).await?;
        let named = named(&rows);
        let mut mended = 0;
        for (row_key, row) in rows.iter().filter(|(key, _)| Self::is_record(key)) {
            let uid = uid_of(row_key);
            let batch = match parse(row) {
                Ok(record) if record.state == RecordState::Deleting || named.get(&uid) == Some(&record.name) => {
                    continue;
                }
                Ok(record) => {
                    let taken = rows.iter().any(|(key, other)| {
                        *key == name_key(&record.name)
                            && Self::read(&rows).flatten().any(|one| one.uid.as_bytes() == other)
                    });
                    if taken {
                        continue;
                    }
                    tracing::warn!(session = %record.name, "the store did not know this session's name any more; mended");
                    Batch::new().put(name_key(&record.name), uid.clone())
                }
                Err(error) => {
                    let Some(name) = named.get(&uid) else {
                        tracing::error!(
                            %uid,
                            error = super::source(&error),
                            "a session's record can't be read and nothing tells its name: it is not listed; its keys are kept"
                        );
                        continue;
                    };
                    tracing::error!(session = %name, error = super::source(&error), "a session's record can't be read; made anew");
                    let away = rows.iter().any(|(key, _)| *key == away_key(&uid));
                    let state = if away { RecordState::Stopped } else { RecordState::Live };
                    let made = serde_json::json!({
                        "uid": uid, "name": name, "created_at": Utc::now(), "sequence": next_sequence(&rows), "state": state, "away": away,
                    });
                    let record: SessionRecord = serde_json::from_value(made).map_err(KvError::engine)?;
                    let sequence = Bytes::copy_from_slice(&record.sequence.to_be_bytes());
                    Batch::new().put(row_key.clone(), json(&record)?).put(SEQUENCE, sequence)
                }
            };
            self.kv.write(&self.ns, batch).await?;
            mended += 1;
        }
        Ok(mended)
    }
}

/// One above all that are in use, so that what can't be read is listed last.
fn next_sequence(rows: &[(Bytes, Bytes)]) -> u64 {
    let counter = rows
        .iter()
        .find(|(key, _)| key == SEQUENCE)
        .and_then(|(_, row)| Some(u64::from_be_bytes(row.as_ref().try_into().ok()?)));
    let used = Registry::read(rows).flatten().map(|record| record.sequence).max();
    counter.max(used).map_or(1, |last| last + 1)
}

fn uid_of(key: &[u8]) -> String {
    String::from_utf8_lossy(&key[RECORD.len()..]).into_owned()
}

/// The names by the uids that they lead to.
fn named(rows: &[(Bytes, Bytes)]) -> BTreeMap<String, SessionName> {
    let names = rows.iter().filter_map(|(key, uid)| Some((key.strip_prefix(NAME)?, uid)));
    names
        .filter_map(|(name, uid)| {
            let name = SessionName::parse(std::str::from_utf8(name).ok()?).ok()?;
            Some((String::from_utf8_lossy(uid).into_owned(), name))
        })
        .collect()
}
