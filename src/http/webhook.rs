//! The endpoints below `/webhook`: how delivery goes, what died, and another try for it. `own` has a session's own webhook.

use std::collections::BTreeMap;

use axum::Json;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::access::Sessions;
use super::auth::Scope;
use super::body::iso8601;
use super::error::ApiError;
use super::extract::Fields;
use crate::outbox::{Cause, Counts, DeadKey, DeadLetter, Depth, Pick};
use crate::session::Delivery;

mod own;

pub use own::UrlRule;
pub(super) use own::{Given as GivenWebhook, Shown as ShownWebhook, delete, set, show};

/// Letters of one page unless the caller asks for fewer or more.
const PAGE: usize = 100;
/// Letters of one page at most.
const MAX_PAGE: u32 = 1_000;
/// Unix times above are milliseconds: in seconds they would be in the year 5138.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// Dead letters, the first that died first.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetters {
    data: Vec<Dead>,
    /// Asks for the next page as `cursor`; null: this is the last.
    next_cursor: Option<String>,
}

/// An event that no attempt will deliver any more.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(super) struct Dead {
    /// Its own id, as the header `X-Event-Id` has it.
    event_id: String,
    session: String,
    /// `message`, `session` or `ack`: where it was posted to.
    kind: &'static str,
    /// The chat that it belongs to; null: the session's own.
    chat: Option<String>,
    attempts: u32,
    /// What the last attempt came to; null: there was none.
    last_answer: Option<String>,
    /// `refused`, `given_up` (tried for as long as it may be) or `too_old` (waited for too long).
    reason: &'static str,
    /// When it came to wait for delivery.
    created_at: String,
    /// When it was given up.
    died_at: String,
    /// Length of its body.
    bytes: usize,
    /// What was posted; only with `body=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    body: Option<Value>,
}

/// The query of a list of dead letters.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description only: the handler reads fields one by one")]
pub(super) struct DeadQuery {
    /// Only of this session.
    session: Option<String>,
    /// 1 to 1000; 100 unless told.
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Whether to show what was posted.
    body: Option<bool>,
}

/// The query of the numbers.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description only: the handler reads fields one by one")]
pub(super) struct SessionQuery {
    /// Only of this session.
    session: Option<String>,
}

/// Which dead letters are tried again: one of `event_id`, `session`, `from` and `to` at least; all that are given count.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description only: the handler reads fields one by one")]
pub(super) struct Replay {
    /// One id or several.
    #[schema(value_type = Option<Vec<String>>)]
    event_id: Option<Value>,
    /// The same.
    #[schema(value_type = Option<Vec<String>>)]
    id: Option<Value>,
    /// All of this session.
    session: Option<String>,
    /// Events from this time on: Unix seconds or ISO 8601.
    #[schema(value_type = Option<String>)]
    from: Option<Value>,
    /// Events up to this time.
    #[schema(value_type = Option<String>)]
    to: Option<Value>,
}

/// What came of a replay.
#[derive(Serialize, ToSchema)]
pub(super) struct Replayed {
    data: ReplayedCount,
}

/// How many events wait for delivery again.
#[derive(Serialize, ToSchema)]
pub(super) struct ReplayedCount {
    replayed: u64,
    /// Whether letters were left because the outbox is full.
    full: bool,
}

/// How the delivery of events goes.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    data: StatsData,
}

/// All sessions together, and each.
#[derive(Serialize, ToSchema)]
pub(super) struct StatsData {
    total: Numbers,
    sessions: Vec<SessionNumbers>,
}

/// The numbers of one session.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionNumbers {
    session: String,
    #[serde(flatten)]
    numbers: Numbers,
}

/// What waits now, and what has become of the rest.
#[derive(Clone, Default, Serialize, ToSchema)]
pub(super) struct Numbers {
    /// Events that wait.
    waiting: u64,
    /// Bytes of their bodies.
    bytes: u64,
    /// Seconds since the oldest of them came; null: none waits.
    oldest_age_secs: Option<u64>,
    /// Dead letters.
    dead: u64,
    /// Dead letters that were dropped because there were too many or they were too old.
    dead_dropped: u64,
    /// Events that a receiver took.
    delivered: u64,
    /// Attempts that failed.
    failed_attempts: u64,
    /// Events that a full outbox dropped, or that waited for too long.
    shed: u64,
    /// Whether messages stay at WhatsApp because there is no room for more.
    full: bool,
}

/// `GET /webhook/dead`.
pub(super) async fn dead(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let deliveries = chosen(&sessions, Scope::Read, fields.first("session")).await?;
    let limit = match fields.optional_whole("limit")? {
        None => PAGE,
        Some(limit @ 1..=MAX_PAGE) => limit as usize,
        Some(_) => return Err(fields.invalid("limit", "must be from 1 to 1000")),
    };
    let cursor = match fields.first("cursor") {
        None => None,
        Some(text) => Some(Place::parse(&text).ok_or_else(|| fields.invalid("cursor", "is not one of a page before"))?),
    };
    let with_body = fields.flag(&["body"])?;
    let mut page: BTreeMap<Place, (Delivery, DeadLetter)> = BTreeMap::new();
    for delivery in deliveries {
        if delivery.outbox.counts().dead == 0 {
            continue;
        }
        delivery.outbox.expire_dead().await.map_err(ApiError::store)?;
        let after = cursor.and_then(|cursor| cursor.before(delivery.sequence));
        for letter in delivery.outbox.dead(after, limit + 1).await.map_err(ApiError::store)? {
            page.insert(Place { key: letter.key, sequence: delivery.sequence }, (delivery.clone(), letter));
        }
        while page.len() > limit + 1 {
            page.pop_last();
        }
    }
    let more = page.len() > limit;
    if more {
        page.pop_last();
    }
    let next_cursor = more.then(|| page.last_key_value().map(|(place, _)| place.to_string())).flatten();
    let data = page.into_values().map(|(delivery, letter)| Dead::new(&delivery, letter, with_body)).collect();
    Ok(Json(DeadLetters { data, next_cursor }).into_response())
}

/// `POST /webhook/replay`.
pub(super) async fn replay(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let mut ids = Vec::new();
    for name in ["event_id", "id"] {
        for id in fields.list(name)? {
            ids.push(id.as_str().ok_or_else(|| fields.expected("string", id, name))?.to_owned());
        }
    }
    let session = fields.optional_string("session")?;
    let (from, to) = (time(&fields, "from")?, time(&fields, "to")?);
    if ids.is_empty() && session.is_none() && from.is_none() && to.is_none() {
        return Err(fields.required("event_id"));
    }
    let single = (ids.len() == 1).then(|| ids[0].clone());
    let pick = Pick { event_ids: (!ids.is_empty()).then_some(ids), from, to };
    let (mut replayed, mut full) = (0, false);
    for delivery in chosen(&sessions, Scope::Manage, session).await? {
        if delivery.outbox.counts().dead == 0 {
            continue;
        }
        let revived = delivery.outbox.revive(&pick).await.map_err(ApiError::store)?;
        replayed += revived.events;
        full |= revived.full;
    }
    if let Some(id) = single.filter(|_| replayed == 0 && !full) {
        return Err(ApiError::event_not_found(&id));
    }
    tracing::info!(events = replayed, "dead letters are tried again");
    Ok(Json(Replayed { data: ReplayedCount { replayed, full } }).into_response())
}

/// `GET /webhook/stats`.
pub(super) async fn stats(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (mut total, mut rows) = (Numbers::default(), Vec::new());
    let now = Utc::now();
    for Delivery { session, outbox, .. } in chosen(&sessions, Scope::Read, fields.first("session")).await? {
        let oldest = outbox.oldest().await.map_err(ApiError::store)?;
        let age = oldest.map(|at| (now - at).to_std().unwrap_or_default().as_secs());
        let numbers = Numbers::new(outbox.depth(), outbox.counts(), age, outbox.is_full());
        total.add(&numbers);
        rows.push(SessionNumbers { session: session.as_str().to_owned(), numbers });
    }
    Ok(Json(Stats { data: StatsData { total, sessions: rows } }).into_response())
}

/// The sessions that a request is about, with their counts read.
async fn chosen(sessions: &Sessions, scope: Scope, session: Option<String>) -> Result<Vec<Delivery>, ApiError> {
    if let Some(id) = session {
        let delivery = sessions.delivery(scope, &id).ok_or_else(|| ApiError::session_not_found(&id))?;
        delivery.outbox.make_ready().await.map_err(ApiError::store)?;
        return Ok(vec![delivery]);
    }
    let mut chosen = Vec::new();
    for delivery in sessions.deliveries(scope) {
        // One that can't be read counts nothing; its session says why.
        if delivery.outbox.make_ready().await.is_ok() {
            chosen.push(delivery);
        }
    }
    Ok(chosen)
}

/// A member that may be absent, and is a time: Unix seconds, milliseconds, or ISO 8601.
fn time(fields: &Fields, name: &str) -> Result<Option<DateTime<Utc>>, ApiError> {
    if !fields.has(name) {
        return Ok(None);
    }
    let at = if let Ok(number) = fields.number(name) {
        #[expect(clippy::cast_possible_truncation, reason = "a number out of range is clamped, and no time then")]
        let (whole, millis) = (number as i64, (number * 1_000.0) as i64);
        DateTime::from_timestamp_millis(if whole.abs() >= MILLISECONDS_FROM { whole } else { millis })
    } else {
        DateTime::parse_from_rfc3339(fields.string(name)?.trim()).ok().map(|at| at.to_utc())
    };
    at.map(Some).ok_or_else(|| fields.invalid(name, "must be a time in Unix seconds or ISO 8601"))
}

/// Where a letter stands among those of all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: DeadKey,
    sequence: u64,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(str::parse);
        let mut next = || parts.next()?.ok();
        let place = Self { key: DeadKey { died_ms: next()?, seq: next()? }, sequence: next()? };
        parts.next().is_none().then_some(place)
    }

    /// The last key of this session that is not behind this place.
    fn before(self, sequence: u64) -> Option<DeadKey> {
        let DeadKey { died_ms, seq } = self.key;
        match (sequence <= self.sequence, seq.checked_sub(1)) {
            (true, _) => Some(self.key),
            (false, Some(seq)) => Some(DeadKey { died_ms, seq }),
            (false, None) => Some(DeadKey { died_ms: died_ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.key.died_ms, self.key.seq, self.sequence)
    }
}

impl Dead {
    fn new(delivery: &Delivery, letter: DeadLetter, with_body: bool) -> Self {
        let DeadLetter { event, first_at, died_at, attempts, answer, cause, .. } = letter;
        Self {
            event_id: event.event_id,
            session: delivery.session.as_str().to_owned(),
            kind: event.kind.path(),
            chat: event.chat,
            attempts,
            last_answer: answer,
            reason: match cause {
                Cause::Refused => "refused",
                Cause::GivenUp => "given_up",
                Cause::TooOld => "too_old",
            },
            created_at: iso8601(first_at),
            died_at: iso8601(died_at),
            bytes: event.body.len(),
            body: with_body.then(|| serde_json::from_slice(&event.body).unwrap_or(Value::Null)),
        }
    }
}

impl Numbers {
    fn new(depth: Depth, counts: Counts, oldest_age_secs: Option<u64>, full: bool) -> Self {
        Self {
            waiting: depth.events(),
            bytes: depth.bytes,
            oldest_age_secs: oldest_age_secs.filter(|_| depth.events() > 0),
            dead: counts.dead,
            dead_dropped: counts.dead_dropped,
            delivered: counts.delivered,
            failed_attempts: counts.failed,
            shed: counts.shed,
            full,
        }
    }

    fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.bytes += other.bytes;
        self.oldest_age_secs = self.oldest_age_secs.max(other.oldest_age_secs);
        self.dead += other.dead;
        self.dead_dropped += other.dead_dropped;
        self.delivered += other.delivered;
        self.failed_attempts += other.failed_attempts;
        self.shed += other.shed;
        self.full |= other.full;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(died_ms: u64, seq: u64, sequence: u64) -> Place {
        Place { key: DeadKey { died_ms, seq }, sequence }
    }

    #[test]
    fn a_cursor_is_read_back_and_junk_is_refused() {
        let cursor = place(1_700_000_000_123, 0, 7);
        assert_eq!(Place::parse(&cursor.to_string()), Some(cursor));
        for junk in ["", "1", "1.2", "1.2.3.4", "a.2.3", "-1.2.3", "1.2.99999999999999999999"] {
            assert_eq!(Place::parse(junk), None, "{junk}");
        }
    }

    #[test]
    fn a_page_goes_on_where_the_last_ended_in_each_session() {
        let last = place(5, 3, 2);
        for (sequence, key) in [(1, Some((5, 3))), (2, Some((5, 3))), (3, Some((5, 2)))] {
            let key = key.map(|(died_ms, seq)| DeadKey { died_ms, seq });
            assert_eq!(last.before(sequence), key, "{sequence}");
        }
        assert_eq!(place(5, 0, 2).before(3), Some(DeadKey { died_ms: 4, seq: u64::MAX }));
        assert_eq!(place(0, 0, 2).before(3), None);
        assert!(place(5, 3, 2) < place(5, 3, 3) && place(5, 3, 9) < place(5, 4, 0));
    }

    #[test]
    fn times_are_unix_seconds_milliseconds_or_iso_8601() {
        let read = |value: Value| {
            let fields = Fields::of_body(serde_json::Map::from_iter([("from".to_owned(), value)]));
            time(&fields, "from").map(|at| at.unwrap().timestamp_millis()).ok()
        };
        for (value, wanted) in [
            (Value::from(1_700_000_000), Some(1_700_000_000_000)),
            (Value::from(1_700_000_000.5), Some(1_700_000_000_500)),
            (Value::from(1_700_000_000_123_i64), Some(1_700_000_000_123)),
            (Value::from("1700000000"), Some(1_700_000_000_000)),
            (Value::from("2023-11-14T22:13:20Z"), Some(1_700_000_000_000)),
            (Value::from("2023-11-15T05:13:20+07:00"), Some(1_700_000_000_000)),
            (Value::from(0), Some(0)),
            (Value::from("yesterday"), None),
            (Value::from(1e300), None),
            (Value::Bool(true), None),
        ] {
            assert_eq!(read(value.clone()), wanted, "{value}");
        }
    }
}
