//! Who asks: the master key, keys of every scope, wrong ones and none, in every place where a key may stand.

use reqwest::Method;
use serde_json::json;
use wa_gateway::http::{Endpoint, Scope};

use super::dice::Dice;
use crate::support::{Api, KEY, encode};

/// A key of this test: its name, the sessions that it sees, and what it may do with them.
type Spec = (&'static str, &'static [&'static str], &'static [&'static str]);

const MASTER: &str = "master";
/// Sees sessions that nobody has, and that no request of the fuzz can name.
const STRANGER: &str = "fuzz-stranger";
const KEYS: [Spec; 5] = [
    ("fuzz-reader", &["*"], &["read"]),
    ("fuzz-sender", &["*"], &["send"]),
    ("fuzz-manager", &["*"], &["manage"]),
    ("fuzz-owner", &["ok", "spare"], &["read", "send", "manage"]),
    (STRANGER, &["nobodys-*"], &["read", "send", "manage"]),
];
/// A key that a request may remove.
pub(super) const DOOMED: &str = "fuzz-doomed";

/// Where a key stands.
pub(super) const PLACES: [&str; 4] = ["key", "x-api-key", "authorization", "query"];

/// The names and secrets of the keys; made by the API itself.
pub(super) struct Ring(Vec<(&'static str, String)>);

/// The caller of one request whose key is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) name: &'static str,
    pub(super) place: &'static str,
}

impl Ring {
    pub(super) async fn make(api: &Api) -> Self {
        let mut ring = vec![(MASTER, KEY.to_owned())];
        for (name, sessions, scopes) in KEYS.into_iter().chain([(DOOMED, &["*"][..], &["read"][..])]) {
            let body = json!({ "name": name, "sessions": sessions, "scopes": scopes });
            let made = api.post("/keys", body).await.expect(200).json();
            ring.push((name, made["data"]["key"].as_str().unwrap().to_owned()));
        }
        ring.retain(|(name, _)| *name != DOOMED);
        Self(ring)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Gives a request its key. A sound request gets a right one in one place; of others nobody knows when this is `None`.
    pub(super) fn sign(
        &self,
        dice: &mut Dice,
        is_sound: bool,
        target: &mut String,
        headers: &mut Vec<(&'static str, String)>,
    ) -> Option<Caller> {
        let (name, secret) = if dice.roll(2) == 0 { &self.0[0] } else { &self.0[dice.roll(self.0.len())] };
        let place = dice.pick(&PLACES);
        let place = PLACES.into_iter().find(|known| *known == place)?;
        match dice.roll(if is_sound { 6 } else { 10 }) {
            // A right key is not spoilt by what stands where gateways and proxies put keys of their own.
            0 if place == "key" => {
                put(target, headers, place, secret);
                headers.push(("x-api-key", "of somebody else".to_owned()));
                headers
                    .push(("authorization", dice.pick(&["Basic c2VjcmV0", "Bearer of-somebody-else", ""]).to_owned()));
            }
            6 => return None,
            7 => {
                put(target, headers, place, dice.pick(&["wrong", "", "\u{e9}", "SECRET"]));
                return None;
            }
            8 => {
                put(target, headers, place, secret);
                put(target, headers, dice.pick(&PLACES), "wrong");
                return None;
            }
            _ => put(target, headers, place, secret),
        }
        Some(Caller { name, place })
    }
}

fn put(target: &mut String, headers: &mut Vec<(&'static str, String)>, place: &str, key: &str) {
    match place {
        "query" => {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str("key=");
            target.push_str(&encode(key));
        }
        "x-api-key" => headers.push(("x-api-key", key.to_owned())),
        "authorization" => headers.push(("authorization", format!("Bearer {key}"))),
        _ => headers.push(("key", key.to_owned())),
    }
}

impl Caller {
    fn may(self, scope: Scope) -> bool {
        let granted = KEYS.iter().find(|(name, ..)| *name == self.name).map(|(.., scopes)| *scopes);
        let grants = |word| granted.is_none_or(|scopes| scopes.contains(&word));
        match scope {
            Scope::Public => true,
            Scope::Read => grants("read"),
            Scope::Send => grants("send"),
            Scope::Manage => grants("manage"),
            Scope::Admin => granted.is_none(),
            Scope::Dashboard => false,
        }
    }

    /// What is wrong with this status, given whose key it was.
    pub(super) fn objection(self, endpoint: &Endpoint, status: u16) -> Option<&'static str> {
        if endpoint.scope == Scope::Public {
            return None;
        }
        if matches!(status, 401 | 429) {
            return Some("a right key is refused");
        }
        // A head that is too large is refused before anybody looks who sent it.
        if !self.may(endpoint.scope) && !matches!(status, 403 | 431) {
            return Some("the key has not this scope");
        }
        let path = endpoint.path;
        let is_about_a_session = path.starts_with("/message/")
            || path.starts_with("/session/{session}")
            || ["/profile", "/session/start", "/session/stop"].contains(&path);
        if self.name == STRANGER && is_about_a_session && status < 400 {
            return Some("the session is none of this key's");
        }
        None
    }
}

/// Whether the request is one that takes an `Idempotency-Key`.
pub(super) fn is_send(method: &Method, template: &str) -> bool {
    *method == Method::POST && template.starts_with("/message/")
}

/// Gives a request an `Idempotency-Key`: a new one, one that was there before, or what can't be one.
pub(super) fn repeat(
    dice: &mut Dice,
    is_sound: bool,
    template: &str,
    headers: &mut Vec<(&'static str, String)>,
) -> bool {
    const NAME: &str = "idempotency-key";
    match dice.roll(if is_sound { 4 } else { 8 }) {
        0 => headers.push((NAME, format!("new-{}", dice.roll(1 << 30)))),
        1 => headers.push((NAME, format!("again-{template}"))),
        4 => headers.push((NAME, "again".to_owned())),
        5 => headers.push((NAME, dice.text().replace(char::is_control, ""))),
        6 => headers.push((NAME, "x".repeat(250 + dice.roll(10)))),
        7 => headers.extend([(NAME, "a".to_owned()), (NAME, "b".to_owned())]),
        _ => return false,
    }
    true
}
