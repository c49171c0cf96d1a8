//! Reads every row of a store and tells what can't be read, what belongs to nobody, and what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

use super::names;
use crate::store::backend::{self, Stored};
use crate::store::registry::{RecordState, Registry};
use crate::store::{KeyRange, Kv, KvError, Namespace};
use crate::{keys, ledger, outbox};

/// Rows read at a time.
const PAGE: usize = 512;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The session that it concerns, by its name or else its uid; `None`: the list of sessions itself.
    pub session: Option<String>,
    /// What was found, and what it means.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.session {
            Some(session) => write!(f, "session {session}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What a check has read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sessions in the list.
    pub sessions: usize,
    /// Rows read.
    pub rows: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl Report {
    fn tell(&mut self, session: Option<&str>, what: impl Into<String>) {
        self.findings.push(Finding { session: session.map(str::to_owned), what: what.into() });
    }

    /// Tells what is wrong with the rows of a table, by kind.
    fn tell_all(&mut self, session: Option<&str>, table: &str, errors: BTreeMap<String, u64>) {
        for (error, rows) in errors {
            let times = if rows > 1 { format!(" ({rows} rows)") } else { String::new() };
            self.tell(session, format!("{table}: {error}{times}"));
        }
    }
}

/// Reads all rows of a store that no gateway uses; writes nothing.
///
/// # Errors
/// When not even its namespaces can be told.
pub async fn check(kv: &dyn Kv) -> Result<Report, KvError> {
    let mut report = Report::default();
    let namespaces: BTreeSet<Namespace> = kv.namespaces().await?.into_iter().collect();
    let registry = Namespace::registry();
    let mut list = Vec::new();
    let read = walk(kv, &registry, |key, value| {
        list.push((key.clone(), value.clone()));
        of_registry(key, value)
    });
    let (rows, errors) = read.await;
    report.rows += rows;
    report.tell_all(None, "the list of sessions", errors);
    let records: Vec<_> = Registry::read(&list).collect();
    report.sessions = records.len();
    for record in &records {
        match record {
            Err(uid) => report.tell(Some(uid), "its record in the list can't be read: it is listed as disconnected"),
            Ok(record) if record.state == RecordState::Deleting => {
                report.tell(Some(record.name.as_str()), "its deletion was not finished; the next start does that");
            }
            Ok(record) => {
                // One that can't be read is told with the rows.
                let device = kv.get(&Namespace::credentials(&record.uid), Stored::KEY).await;
                let gone =
                    device.is_ok_and(|row| matches!(Stored::of(row.as_deref()), Stored::Absent | Stored::Unpaired));
                if record.details.is_some() && record.state != RecordState::LoggedOut && gone {
                    report.tell(
                        Some(record.name.as_str()),
                        "it was linked, and its device is gone: restore a backup, or link it again",
                    );
                }
            }
        }
    }
    for problem in Registry::misnamed(&list) {
        report.tell(None, problem);
    }
    let names = names(&list);
    let known: BTreeSet<&str> = records
        .iter()
        .map(|record| record.as_ref().map_or_else(String::as_str, |record| record.uid.as_str()))
        .collect();
    for ns in &namespaces {
        let Some((table, uid)) = ns.as_str().split_once(':') else { continue };
        let session = names.get(uid).map_or(uid, String::as_str);
        let readable: fn(&Bytes, &Bytes) -> Result<(), &'static str> = match table {
            "credentials" => |key, value| backend::check(key, value),
            "outbox" => |key, value| outbox::check(key, value),
            "sent" => |key, value| ledger::check(key, value),
            _ => |_key, _value| Err("a row of no table that is known"),
        };
        let (rows, errors) = walk(kv, ns, readable).await;
        report.rows += rows;
        if !known.contains(uid) {
            report.tell(
                Some(session),
                format!("{table}: {rows} rows of no session in the list; the next start removes them"),
            );
        }
        report.tell_all(Some(session), table, errors);
    }
    Ok(report)
}

/// Whether a row of the registry can be read; records are told by their sessions.
fn of_registry(key: &Bytes, value: &Bytes) -> Result<(), &'static str> {
    if Registry::is_record(key) {
        return Ok(());
    }
    if Registry::is_farewell(key) {
        return if outbox::is_event(value) { Ok(()) } else { Err("the last event of a deleted session") };
    }
    let of_another = Err("a row of no table that is known");
    Registry::check(key, value).or_else(|| keys::check(key, value)).unwrap_or(of_another)
}

/// Reads a namespace to its end, or to where the engine fails; how many rows, and what is wrong with how many of them.
async fn walk(
    kv: &dyn Kv,
    ns: &Namespace,
    mut row: impl FnMut(&Bytes, &Bytes) -> Result<(), &'static str>,
) -> (u64, BTreeMap<String, u64>) {
    let (mut rows, mut errors) = (0, BTreeMap::new());
    let mut range = KeyRange::all().limit(PAGE);
    loop {
        let page = match kv.range(ns, range.clone()).await {
            Ok(page) => page,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                errors.insert(format!("rows can't be read: {error}: {cause}"), 1);
                return (rows, errors);
            }
        };
        for (key, value) in &page {
            rows += 1;
            if let Err(what) = row(key, value) {
                *errors.entry(format!("{what} can't be read")).or_default() += 1;
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => range.start = Bound::Excluded(last.clone()),
            _ => return (rows, errors),
        }
    }
}
