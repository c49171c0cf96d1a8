//! What a request says: members of its JSON body, of its form or of its query, and the id in its path.
//!
//! Speaks the validation texts of wa-gateway 4.7.1 (contract section 4). A handler asks for its fields in the contract's
//! order and stops at the first problem.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use futures::StreamExt as _;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::repeat::Header;

mod json;

pub(super) use json::json;

/// What a body may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit {
    /// The largest body that is kept.
    pub(super) bytes: usize,
    /// How long it may take to arrive.
    pub(super) time: Duration,
}

/// Texts are far below; files come by URL or to the routes with a larger limit.
const SMALL: BodyLimit = BodyLimit { bytes: 1024 * 1024, time: Duration::from_secs(30) };

/// What people type into the form of a login; strangers may send it.
const TINY: BodyLimit = BodyLimit { bytes: 16 * 1024, time: Duration::from_secs(10) };

/// How much of a body that is too large is read and thrown away, so that the client gets to read the refusal.
const MAX_DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// What a form in a body may have. No message has a hundredth of that.
const MAX_PAIRS: usize = 10_000;

/// Where the fields came from; the texts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The body, a form included.
    Json,
    /// The query of a GET.
    Query,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Query => "query",
        }
    }
}

/// The members of a request: of the query for GET, of the body otherwise.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    source: Source,
    members: Map<String, Value>,
    /// The header `Idempotency-Key`.
    pub(super) repeat: Option<Header>,
}

impl Fields {
    pub(super) fn of_body(members: Map<String, Value>) -> Self {
        Self { source: Source::Json, members, repeat: None }
    }

    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// Tells the tests which members a handler looks at: they hold them against its description.
    fn look(&self, name: &str) -> Option<&Value> {
        #[cfg(test)]
        asked::note(name);
        self.members.get(name)
    }

    /// A member that must be there as a string.
    pub(super) fn string(&self, name: &str) -> Result<String, ApiError> {
        match self.look(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.expected("string", other, name)),
            None => Err(self.required(name)),
        }
    }

    /// A member that may be missing, if it is a string that is not empty; of several the first.
    pub(super) fn first(&self, name: &str) -> Option<String> {
        let value = match self.look(name)? {
            Value::Array(values) => values.first()?,
            value => value,
        };
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// As [`Self::string`], without copying it: a file in base64 may be large.
    pub(super) fn take_string(&mut self, name: &str) -> Result<String, ApiError> {
        match self.members.get_mut(name) {
            Some(Value::String(text)) => Ok(std::mem::take(text)),
            _ => self.string(name),
        }
    }

    /// A member that may be absent, and is a string when it is there.
    pub(super) fn optional_string(&self, name: &str) -> Result<Option<String>, ApiError> {
        self.has(name).then(|| self.string(name)).transpose()
    }

    /// The length of all texts together.
    pub(super) fn text_bytes(&self) -> usize {
        self.members.values().filter_map(Value::as_str).map(str::len).sum()
    }

    /// Whether the member is there, whatever it holds.
    pub(super) fn has(&self, name: &str) -> bool {
        self.look(name).is_some()
    }

    /// Whether the member is there and not null: typed clients send null for what they leave out.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.look(name).is_some_and(|value| !value.is_null())
    }

    /// As [`Self::is_given`], and no empty text either, as forms and templates send for what they leave out.
    pub(super) fn is_filled(&self, name: &str) -> bool {
        self.is_given(name) && self.members.get(name).and_then(Value::as_str) != Some("")
    }

    /// Whether the member is there and null.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(Value::is_null)
    }

    /// A member that must be there as a number; forms and lax clients send it as a string.
    pub(super) fn number(&self, name: &str) -> Result<f64, ApiError> {
        match self.look(name) {
            Some(value) => number(value).ok_or_else(|| self.expected("number", value, name)),
            None => Err(self.required(name)),
        }
    }

    /// A member that may be absent, and is a whole number when it is there.
    pub(super) fn optional_whole(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.look(name) else { return Ok(None) };
        let whole = match value {
            Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            Value::String(text) => text.trim().parse().ok(),
            _ => return Err(self.expected("number", value, name)),
        };
        whole.map(Some).ok_or_else(|| self.invalid(name, "must be a whole number"))
    }

    /// The items of a member that is an array; none when it is absent. A form says a single one without any array.
    pub(super) fn list(&self, name: &str) -> Result<&[Value], ApiError> {
        match self.look(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(text @ Value::String(_)) => Ok(std::slice::from_ref(text)),
            Some(other) => Err(self.expected("array", other, name)),
        }
    }

    /// A member of a type that fits, with a value that does not.
    pub(super) fn invalid(&self, name: &str, why: &str) -> ApiError {
        ApiError::bad_request(format!("{name} {why} field '{name}' on {}", self.source.as_str()))
    }

    /// As [`Self::string`], and a whole number is taken by its digits: spreadsheets and PHP send phone numbers so.
    pub(super) fn digits_or_string(&self, name: &str) -> Result<String, ApiError> {
        match self.look(name) {
            Some(Value::Number(number)) if number.is_u64() => Ok(number.to_string()),
            _ => self.string(name),
        }
    }

    /// The first of these members that is there, as a boolean; `false` when none is.
    ///
    /// Beyond the original, the words `true` and `false` and the numbers 1 and 0 are taken.
    pub(super) fn flag(&self, names: &[&str]) -> Result<bool, ApiError> {
        let there: Vec<_> = names.iter().filter_map(|name| Some((*name, self.look(name)?))).collect();
        let Some((name, value)) = there.first().copied() else { return Ok(false) };
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") || text == "1" => Ok(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") || text == "0" => Ok(false),
            Value::Number(number) if number.as_u64() == Some(1) => Ok(true),
            Value::Number(number) if number.as_u64() == Some(0) => Ok(false),
            other => Err(self.expected("boolean", other, name)),
        }
    }

    pub(super) fn required(&self, name: &str) -> ApiError {
        ApiError::bad_request(format!("Required field '{name}' on {}", self.source.as_str()))
    }

    pub(super) fn expected(&self, wanted: &str, got: &Value, name: &str) -> ApiError {
        expected(wanted, got, name, self.source)
    }
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

fn expected(wanted: &str, got: &Value, name: &str, source: Source) -> ApiError {
    let received = match got {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let source = source.as_str();
    ApiError::bad_request(format!("Expected {wanted}, received {received} field '{name}' on {source}"))
}

impl<S: Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if matches!(parts.method, Method::GET | Method::HEAD) {
            let mut members = query_members(&parts);
            // Who calls is no part of what they say.
            members.shift_remove("key");
            let repeat = Header::read(&parts.headers, parts.uri.path(), &members, None);
            return Ok(Self { source: Source::Query, members, repeat });
        }
        Self::read(&parts, body, SMALL).await
    }
}

impl Fields {
    /// The members of a body.
    pub(super) async fn read(parts: &Parts, body: Body, limit: BodyLimit) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        let members = match content_kind(headers) {
            Kind::Json => match json(&read_limited(headers, body, limit).await?)? {
                Value::Object(members) => members,
                other => return Err(expected("object", &other, "", Source::Json)),
            },
            Kind::Form => {
                let text = read_limited(headers, body, limit).await?;
                // Each pair takes a hundred times its two bytes.
                if text.split(|byte| *byte == b'&').nth(MAX_PAIRS).is_some() {
                    return Err(ApiError::too_many_values());
                }
                members_of_form(&text)
            }
            // wa-gateway 4.7.1 does not read such a body.
            Kind::Multipart | Kind::Other => Map::new(),
        };
        let repeat = Header::read(headers, parts.uri.path(), &members, None);
        Ok(Self { repeat, ..Self::of_body(members) })
    }
}

/// The members of the query; a repeated one is an array.
pub(super) fn query_members(parts: &Parts) -> Map<String, Value> {
    members_of_form(parts.uri.query().unwrap_or_default().as_bytes())
}

fn members_of_form(text: &[u8]) -> Map<String, Value> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(text).unwrap_or_default();
    let mut members = Map::new();
    for (name, value) in pairs {
        add(&mut members, name, value);
    }
    members
}

/// Adds a field of a form. PHP and many others write `name[]` for one that is repeated.
pub(super) fn add(members: &mut Map<String, Value>, name: String, value: String) {
    let value = Value::String(value);
    let (name, many) = match name.strip_suffix("[]") {
        Some(name) => (name.to_owned(), true),
        None => (name, false),
    };
    match members.get_mut(&name) {
        None => drop(members.insert(name, if many { Value::Array(vec![value]) } else { value })),
        Some(Value::Array(values)) => values.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

/// What a `Content-Type` announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `application/json` or `application/<words>+json`, in any case, with any parameters.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/form-data`.
    Multipart,
    /// Anything else, or nothing.
    Other,
}

pub(super) fn content_kind(headers: &HeaderMap) -> Kind {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "multipart/form-data" {
        return Kind::Multipart;
    }
    let is_words = |words: &str| words.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    match essence.strip_prefix("application/") {
        Some("json") => Kind::Json,
        Some("x-www-form-urlencoded") => Kind::Form,
        Some(other) if other.strip_suffix("+json").is_some_and(|words| !words.is_empty() && is_words(words)) => {
            Kind::Json
        }
        _ => Kind::Other,
    }
}

/// Reads a body of ordinary size.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    read_limited(headers, body, SMALL).await
}

/// Reads a body of a stranger.
pub(super) async fn read_tiny(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    read_limited(headers, body, TINY).await
}

async fn read_limited(headers: &HeaderMap, body: Body, limit: BodyLimit) -> Result<Vec<u8>, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > MAX_DISCARDED_BYTES) {
        return Err(ApiError::body_too_large());
    }
    read_within(limit, body).await
}

pub(super) async fn read_within(limit: BodyLimit, body: Body) -> Result<Vec<u8>, ApiError> {
    let reading = async {
        let mut kept = Vec::new();
        let mut seen = 0;
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| ApiError::body_unreadable())?;
            seen += chunk.len();
            if seen > MAX_DISCARDED_BYTES {
                break;
            }
            if seen > limit.bytes {
                kept = Vec::new();
            } else {
                kept.extend_from_slice(&chunk);
            }
        }
        if seen > limit.bytes { Err(ApiError::body_too_large()) } else { Ok(kept) }
    };
    tokio::time::timeout(limit.time, reading).await.map_err(|_elapsed| ApiError::body_too_slow())?
}

/// The id in `/session/{session}`, percent-decoded once.
///
/// axum's own extractor refuses what is not UTF-8; wa-gateway 4.7.1 leaves it as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionId(pub(super) String);

impl<S: Sync> FromRequestParts<S> for SessionId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let raw = parts.uri.path().strip_prefix("/session/").ok_or_else(ApiError::route_not_found)?;
        Ok(Self(decode(raw)))
    }
}

/// The id in `/message/{id}`, percent-decoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageId(pub(super) String);

impl<S: Sync> FromRequestParts<S> for MessageId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let raw = parts.uri.path().strip_prefix("/message/").ok_or_else(ApiError::route_not_found)?;
        Ok(Self(decode(raw)))
    }
}

/// Decodes each run of escapes that is UTF-8; `+`, bad escapes and other runs stay as they are.
pub(super) fn decode(raw: &str) -> String {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut bytes = Vec::new();
        while let Some(byte) = escape(&rest.as_bytes()[bytes.len() * 3..]) {
            bytes.push(byte);
        }
        let run = (bytes.len() * 3).max(1);
        match String::from_utf8(bytes) {
            Ok(text) if !text.is_empty() => decoded.push_str(&text),
            _ => decoded.push_str(&rest[..run]),
        }
        rest = &rest[run..];
    }
    decoded.push_str(rest);
    decoded
}

fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The members that handlers on this thread have looked at.
#[cfg(test)]
pub(super) mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static NAMES: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(in crate::http) fn note(name: &str) {
        NAMES.with_borrow_mut(|names| names.insert(name.to_owned()));
    }

    /// Those since the last call.
    pub(in crate::http) fn take() -> BTreeSet<String> {
        NAMES.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_decoded_once() {
        for (raw, id) in [
            ("ok1", "ok1"),
            ("ok%31", "ok1"),
            ("ok%202", "ok 2"),
            ("ok+3", "ok+3"),
            ("ok%2B3", "ok+3"),
            ("caf%C3%A9", "caf\u{e9}"),
            ("a%2Fb", "a/b"),
            ("%20", " "),
            ("%zz", "%zz"),
            ("%", "%"),
            ("a%4", "a%4"),
            ("%ff", "%ff"),
            ("%ff-%41", "%ff-A"),
            ("%C3", "%C3"),
            ("ok%2531", "ok%31"),
            ("a%00b", "a\0b"),
            ("%22%3Cb%3E'", "\"<b>'"),
        ] {
            assert_eq!(decode(raw), id, "{raw}");
        }
    }

    #[test]
    fn content_types_are_told_apart() {
        for (text, kind) in [
            ("application/json", Kind::Json),
            ("application/json; charset=utf-8", Kind::Json),
            (" application/json", Kind::Json),
            ("APPLICATION/JSON", Kind::Json),
            ("application/vnd.api+json", Kind::Json),
            ("application/ld+json;profile=x", Kind::Json),
            ("application/x-www-form-urlencoded; charset=UTF-8", Kind::Form),
            ("application/json5", Kind::Other),
            ("application/+json", Kind::Other),
            ("application/json, text/plain", Kind::Other),
            ("text/json", Kind::Other),
            ("multipart/form-data; boundary=x", Kind::Multipart),
            ("", Kind::Other),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(content_kind(&headers), kind, "{text:?}");
        }
        assert_eq!(content_kind(&HeaderMap::new()), Kind::Other);
    }
}
