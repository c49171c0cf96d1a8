//! One session's rows, made into credentials of this gateway: each row is taken or counted with its reason.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::creds::{Companion, KeyPair};
use super::json::{Binary, Number, base64};
use super::report::Tally;
use super::signal;
use crate::store::backend::adopt::{Address, Credentials, Fingerprint, Refused, Server};
use crate::store::registry::AccountDetails;

/// One row of a source.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What kind it is: `creds`, or one of Baileys' `SignalDataTypeMap`.
    pub(super) category: String,
    /// Its id within the kind.
    pub(super) id: String,
    /// Its value as JSON; `None`: it is no text.
    pub(super) json: Option<String>,
}

/// Everything that a source has of one session.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) session: String,
    pub(super) rows: Vec<Row>,
    /// Why reading ended early, if it did.
    pub(super) damage: Option<String>,
}

/// A session ready to be written.
#[derive(Debug)]
pub(super) struct Converted {
    pub(super) credentials: Credentials,
    pub(super) details: AccountDetails,
    pub(super) platform: Option<String>,
    /// Tells these credentials from all others.
    pub(super) identity: String,
    pub(super) tally: Tally,
}

/// The row that names the companion.
pub(super) const CREDS: &str = "creds";

const UNREADABLE: &str = "it can't be read";

/// The categories of Baileys' `SignalDataTypeMap`; the longer of two that begin alike comes first.
const CATEGORIES: [&str; 10] = [
    "pre-key",
    "session",
    "sender-key-memory",
    "sender-key",
    "app-state-sync-key",
    "app-state-sync-version",
    "lid-mapping",
    "device-list",
    "tctoken",
    "identity-key",
];

/// Splits a key of the store, `category-id`; the table's own column says where, as far as it does.
pub(super) fn split<'a>(key: &'a str, category: Option<&'a str>) -> (&'a str, &'a str) {
    if key == CREDS {
        return (CREDS, "");
    }
    let named = category.into_iter().chain(CATEGORIES);
    for category in named {
        if let Some(id) = key.strip_prefix(category).and_then(|rest| rest.strip_prefix('-')) {
            return (category, id);
        }
    }
    (category.unwrap_or(key), key)
}

pub(super) fn convert(stored: &Stored, now: i64) -> Result<Converted, String> {
    let creds = stored.rows.iter().find(|row| row.category == CREDS).and_then(|row| row.json.as_deref());
    let companion = Companion::read(creds).map_err(|unusable| match &stored.damage {
        Some(damage) => format!("{unusable} ({damage})"),
        None => unusable.to_string(),
    })?;
    let credentials = Credentials::new(&companion.identity).map_err(|refused| refused.to_string())?;
    let identity = hex::encode(Sha256::digest(&companion.identity.identity.public));
    let mut work = Work {
        credentials,
        tally: Tally::default(),
        now,
        unmarked: stored.rows.iter().all(|row| !is_of_seven(row)),
        mappings: BTreeMap::new(),
    };
    for row in &stored.rows {
        work.row(row);
    }
    // After the sessions, which tell identities more surely.
    for row in stored.rows.iter().filter(|row| row.category == "identity-key") {
        let taken = work.identity(row);
        work.count("identities", row, taken);
    }
    work.lid_mappings();
    if let Some(damage) = &stored.damage {
        work.tally.left("rows", damage.as_str(), 1);
    }
    let Work { mut credentials, mut tally, .. } = work;
    if let Some(latest) = &companion.sync_key {
        credentials.latest_sync_key(latest);
    }
    tally.took("own keys", 4);
    let Companion { details, platform, .. } = companion;
    Ok(Converted { credentials, details, platform, identity, tally })
}

/// Whether only Baileys 7 writes such a row. It marks the addresses of hidden identities; before it, `user.device` may be
/// either of the two.
fn is_of_seven(row: &Row) -> bool {
    match row.category.as_str() {
        "lid-mapping" | "device-list" | "tctoken" | "identity-key" => true,
        "session" => row.id.contains('_'),
        "sender-key" => row.id.rsplit("::").nth(1).is_some_and(|user| user.contains('_')),
        _ => false,
    }
}

/// Why one row was left.
enum Why {
    Unreadable,
    Refused(Refused),
}

impl From<Refused> for Why {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

struct Work {
    credentials: Credentials,
    tally: Tally,
    now: i64,
    /// No address is marked as that of a hidden identity.
    unmarked: bool,
    /// Numbers to LIDs, as told in either direction.
    mappings: BTreeMap<String, Mapping>,
}

#[derive(Default)]
struct Mapping {
    forth: Option<String>,
    back: Vec<String>,
}

impl Work {
    fn row(&mut self, row: &Row) {
        match row.category.as_str() {
            CREDS | "identity-key" => {}
            "pre-key" => {
                let taken = self.prekey(row);
                self.count("pre-keys", row, taken);
            }
            "session" => {
                let taken = self.session(row);
                self.count("Signal sessions", row, taken);
            }
            "sender-key" => {
                let taken = self.sender_key(row);
                self.count("sender keys", row, taken);
            }
            "sender-key-memory" => {
                let taken = self.sender_key_memory(row);
                self.count("sender-key memories", row, taken);
            }
            "app-state-sync-key" => {
                let taken = self.sync_key(row);
                self.count("app-state keys", row, taken);
            }
            "app-state-sync-version" => {
                let taken = self.sync_version(row);
                self.count("app-state versions", row, taken);
            }
            "lid-mapping" => {
                if self.lid_mapping(row).is_none() {
                    self.tally.left("LID mappings", UNREADABLE, 1);
                }
            }
            "tctoken" => {
                // Baileys keeps a list of the others under this name.
                if row.id != "__index" {
                    let taken = self.tc_token(row);
                    self.count("trust tokens", row, taken);
                }
            }
            "device-list" => {
                self.tally.left("device lists", "they are asked from WhatsApp when they are needed", 1);
            }
            unknown => self.tally.left(unknown, "the kind of this row is not known", 1),
        }
    }

    fn count(&mut self, what: &'static str, row: &Row, taken: Result<usize, Why>) {
        match taken {
            Ok(count) => self.tally.took(what, count),
            Err(_) if row.json.is_none() => self.tally.left(what, UNREADABLE, 1),
            Err(Why::Unreadable) => self.tally.left(what, UNREADABLE, 1),
            Err(Why::Refused(refused)) => self.tally.left(what, refused.to_string(), 1),
        }
    }

    fn prekey(&mut self, row: &Row) -> Result<usize, Why> {
        let pair: KeyPair = read(row)?;
        let id: u32 = row.id.parse().map_err(|_error| Why::Unreadable)?;
        self.credentials.prekey(id, &pair.into())?;
        Ok(1)
    }

    fn session(&mut self, row: &Row) -> Result<usize, Why> {
        let (sessions, unread) = row.json.as_deref().and_then(signal::sessions).ok_or(Why::Unreadable)?;
        let address = signal::address(&row.id).ok_or(Refused::Address)?;
        if sessions.is_empty() {
            return Err(if unread > 0 { Why::Unreadable } else { Why::Refused(Refused::Empty) });
        }
        if let Some(other) = self.other_reading(&address) {
            self.credentials.sessions(&other, sessions.clone())?;
        }
        let (refused, chains) = self.credentials.sessions(&address, sessions)?;
        self.tally.left("states of Signal sessions", UNREADABLE, unread);
        for refused in refused {
            self.tally.left("states of Signal sessions", refused.to_string(), 1);
        }
        self.tally.left("receiving chains", "they are older than the five that are kept", chains);
        Ok(1)
    }

    fn identity(&mut self, row: &Row) -> Result<usize, Why> {
        let key: Binary = read(row)?;
        let address = signal::address(&row.id).ok_or(Refused::Address)?;
        self.credentials.identity(&address, &key.0)?;
        Ok(1)
    }

    fn sender_key(&mut self, row: &Row) -> Result<usize, Why> {
        let states = row.json.as_deref().and_then(signal::sender_states).ok_or(Why::Unreadable)?;
        let (group, address) = signal::sender(&row.id).ok_or(Refused::Address)?;
        if let Some(other) = self.other_reading(&address) {
            self.credentials.sender_key(group, &other, states.clone())?;
        }
        self.credentials.sender_key(group, &address, states)?;
        Ok(1)
    }

    /// The same digits as a hidden identity, where nothing says which they are: of the two readings one names nobody, and
    /// is never asked for.
    fn other_reading(&self, address: &Address) -> Option<Address> {
        (self.unmarked && address.server == Server::Phone).then(|| Address { server: Server::Lid, ..address.clone() })
    }

    fn sender_key_memory(&mut self, row: &Row) -> Result<usize, Why> {
        let memory: BTreeMap<String, bool> = read(row)?;
        let told = memory.iter().filter(|(_, told)| **told).map(|(device, _)| device.as_str());
        self.credentials.sender_key_devices(&row.id, told)?;
        Ok(1)
    }

    fn sync_key(&mut self, row: &Row) -> Result<usize, Why> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shared {
            key_data: Binary,
            #[serde(default)]
            fingerprint: Option<KeyFingerprint>,
            #[serde(default)]
            timestamp: Option<Number>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct KeyFingerprint {
            #[serde(default)]
            raw_id: Option<u32>,
            #[serde(default)]
            current_index: Option<u32>,
            #[serde(default)]
            device_indexes: Vec<u32>,
        }
        let key: Shared = read(row)?;
        let id = base64(&row.id).ok_or(Why::Unreadable)?;
        let fingerprint = key.fingerprint.map_or_else(Fingerprint::default, |told| Fingerprint {
            raw_id: told.raw_id,
            current_index: told.current_index,
            device_indexes: told.device_indexes,
        });
        self.credentials.sync_key(&id, key.key_data.0, &fingerprint, key.timestamp.unwrap_or_default().0)?;
        Ok(1)
    }

    fn sync_version(&mut self, row: &Row) -> Result<usize, Why> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct State {
            version: u64,
            hash: Binary,
            #[serde(default)]
            index_value_map: BTreeMap<String, Code>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Code {
            value_mac: Binary,
        }
        let state: State = read(row)?;
        let codes = state.index_value_map.into_iter().map(|(index, code)| Some((base64(&index)?, code.value_mac.0)));
        let codes = codes.collect::<Option<Vec<_>>>().ok_or(Why::Unreadable)?;
        self.credentials.sync_version(&row.id, state.version, &state.hash.0, codes)?;
        Ok(1)
    }

    fn lid_mapping(&mut self, row: &Row) -> Option<()> {
        let value: String = serde_json::from_str(row.json.as_deref()?).ok()?;
        match row.id.strip_suffix("_reverse") {
            Some(lid) => self.mappings.entry(value).or_default().back.push(lid.to_owned()),
            None => self.mappings.entry(row.id.clone()).or_default().forth = Some(value),
        }
        Some(())
    }

    /// A number has the LID that its own row names; where only a LID names the number, that one, if there is but one.
    fn lid_mappings(&mut self) {
        for (number, mapping) in std::mem::take(&mut self.mappings) {
            let lid = match (mapping.forth, mapping.back.as_slice()) {
                (Some(lid), _) => lid,
                (None, [lid]) => lid.clone(),
                (None, _) => {
                    self.tally.left("LID mappings", "several LIDs name the same number", 1);
                    continue;
                }
            };
            match self.credentials.lid_mapping(&number, &lid, self.now) {
                Ok(()) => self.tally.took("LID mappings", 1),
                Err(refused) => self.tally.left("LID mappings", refused.to_string(), 1),
            }
        }
    }

    fn tc_token(&mut self, row: &Row) -> Result<usize, Why> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Trust {
            #[serde(default)]
            token: Binary,
            #[serde(default)]
            timestamp: Option<Number>,
            #[serde(default)]
            sender_timestamp: Option<Number>,
        }
        let token: Trust = read(row)?;
        let sent_at = token.sender_timestamp.map(|at| at.0);
        let Some(at) = token.timestamp.map(|at| at.0).or(sent_at) else { return Err(Refused::Empty.into()) };
        self.credentials.tc_token(&row.id, token.token.0, at, sent_at)?;
        Ok(1)
    }
}

fn read<'de, T: Deserialize<'de>>(row: &'de Row) -> Result<T, Why> {
    serde_json::from_str(row.json.as_deref().ok_or(Why::Unreadable)?).map_err(|_error| Why::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_where_their_category_ends() {
        for (key, column, parts) in [
            ("creds", Some("credentials"), ("creds", "")),
            ("session-6281.0", Some("session"), ("session", "6281.0")),
            ("session-1_1.3", None, ("session", "1_1.3")),
            ("sender-key-memory-1-2@g.us", None, ("sender-key-memory", "1-2@g.us")),
            ("sender-key-1-2@g.us::3::0", None, ("sender-key", "1-2@g.us::3::0")),
            ("app-state-sync-key-AAAA/-", None, ("app-state-sync-key", "AAAA/-")),
            ("new-kind-7", Some("new-kind"), ("new-kind", "7")),
            ("whatever", None, ("whatever", "whatever")),
        ] {
            assert_eq!(split(key, column), parts, "{key}");
        }
    }
}
