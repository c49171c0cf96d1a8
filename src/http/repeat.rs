//! The header `Idempotency-Key`: the key, and a digest of what the request says.
//!
//! Extractors read both while the body is at hand; the handlers below `/message` ask for them.

use axum::http::HeaderMap;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::error::ApiError;
use crate::session::Repeat;

const NAME: &str = "idempotency-key";
/// The longest key: those in use are UUIDs or a name and a number.
const MAX_KEY_BYTES: usize = 255;

/// What the header says, if it is there; not checked yet, since not every endpoint looks at it.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// As it came; `None`: there were several, or none that can be a key.
    key: Option<String>,
    digest: [u8; 32],
}

/// A file of a request, as far as it says what the request is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) field: &'a str,
    pub(super) name: &'a str,
    pub(super) digest: [u8; 32],
}

/// Whether the header is there, so that bodies have to be digested.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    headers.contains_key(NAME)
}

impl Header {
    /// The header of a request with these members. The order of members does not count.
    pub(super) fn read(
        headers: &HeaderMap,
        path: &str,
        members: &Map<String, Value>,
        file: Option<Part<'_>>,
    ) -> Option<Self> {
        let mut values = headers.get_all(NAME).iter();
        let first = values.next()?;
        let key = first.to_str().ok().filter(|key| is_key(key) && values.next().is_none()).map(str::to_owned);
        let mut hash = Sha256::new();
        text(&mut hash, path);
        object(&mut hash, members);
        if let Some(Part { field, name, digest }) = file {
            text(&mut hash, field);
            text(&mut hash, name);
            hash.update(digest);
        }
        Some(Self { key, digest: hash.finalize().into() })
    }

    /// The key and what it stands for.
    pub(super) fn checked(&self) -> Result<Repeat, ApiError> {
        let Some(key) = self.key.clone() else {
            let text = format!("Idempotency-Key must be one value of 1 to {MAX_KEY_BYTES} printable ASCII characters");
            return Err(ApiError::bad_request(text));
        };
        Ok(Repeat { key, digest: self.digest })
    }
}

fn is_key(key: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

fn object(hash: &mut Sha256, members: &Map<String, Value>) {
    let mut names: Vec<&String> = members.keys().collect();
    names.sort_unstable();
    hash.update((names.len() as u64).to_be_bytes());
    for name in names {
        text(hash, name);
        value(hash, &members[name]);
    }
}

fn value(hash: &mut Sha256, item: &Value) {
    match item {
        Value::Null => hash.update(b"n"),
        Value::Bool(flag) => hash.update([b'b', u8::from(*flag)]),
        Value::Number(number) => {
            hash.update(b"d");
            text(hash, &number.to_string());
        }
        Value::String(string) => {
            hash.update(b"s");
            text(hash, string);
        }
        Value::Array(items) => {
            hash.update(b"a");
            hash.update((items.len() as u64).to_be_bytes());
            for item in items {
                value(hash, item);
            }
        }
        Value::Object(members) => {
            hash.update(b"o");
            object(hash, members);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn read(keys: &[&str], path: &str, body: &Value, file: Option<Part<'_>>) -> Option<Header> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(NAME, HeaderValue::from_bytes(key.as_bytes()).unwrap());
        }
        Header::read(&headers, path, body.as_object().unwrap(), file)
    }

    #[test]
    fn a_key_is_one_short_printable_text() {
        let long = "k".repeat(MAX_KEY_BYTES);
        for key in ["k", "0b5c7a52-1f5e-4b4a-8a46-0d3f2f6f6c0e", "\"quoted key\"", "a/b:c~", long.as_str()] {
            assert_eq!(read(&[key], "/", &json!({}), None).unwrap().checked().unwrap().key, key);
        }
        let longer = "k".repeat(MAX_KEY_BYTES + 1);
        for keys in [&[""][..], &["a\tb"], &["caf\u{e9}"], &[longer.as_str()], &["a", "a"]] {
            assert!(read(keys, "/", &json!({}), None).unwrap().checked().is_err(), "{keys:?}");
        }
        assert!(read(&[], "/", &json!({}), None).is_none());
    }

    #[test]
    fn requests_are_told_apart_by_what_they_say() {
        let digest = |path: &str, body: Value, file: Option<Part<'_>>| read(&["k"], path, &body, file).unwrap().digest;
        let file = |name| Some(Part { field: "image", name, digest: [7; 32] });
        let same = digest("/a", json!({ "to": "1", "text": "x", "list": [{ "a": 1, "b": null }] }), None);
        assert_eq!(same, digest("/a", json!({ "list": [{ "b": null, "a": 1 }], "text": "x", "to": "1" }), None));
        let others = [
            digest("/b", json!({ "to": "1", "text": "x", "list": [{ "a": 1, "b": null }] }), None),
            digest("/a", json!({ "to": "1", "text": "y", "list": [{ "a": 1, "b": null }] }), None),
            digest("/a", json!({ "to": 1, "text": "x", "list": [{ "a": 1, "b": null }] }), None),
            digest("/a", json!({ "to": "1", "text": "x", "list": [{ "a": 1 }] }), None),
            digest("/a", json!({ "to": "1", "text": "x", "list": [{ "a": 1, "b": null }] }), file("a")),
            digest("/a", json!({ "to": "1", "text": "x", "list": [{ "a": 1, "b": null }] }), file("b")),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(*other != same && !others[..at].contains(other), "{at}");
        }
    }
}
