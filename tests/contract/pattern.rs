//! Recorded texts with placeholders, and how an answer is held against them.

use serde_json::Value;

/// Whether a text is what the pattern says; `<name>` stands for a value of that kind, `<c*N>` for N times c.
pub(crate) fn text_matches(pattern: &str, text: &str) -> bool {
    let Some(start) = pattern.find('<') else { return pattern == text };
    let Some(rest) = text.strip_prefix(&pattern[..start]) else { return false };
    let pattern = &pattern[start..];
    if let Some(end) = pattern.find('>') {
        let (name, after) = (&pattern[1..end], &pattern[end + 1..]);
        if let Some(repeated) = repetition(name) {
            return rest.strip_prefix(repeated.as_str()).is_some_and(|rest| text_matches(after, rest));
        }
        if let Some(is_value) = kind(name) {
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
            return ends.into_iter().any(|end| is_value(&rest[..end]) && text_matches(after, &rest[end..]));
        }
    }
    rest.strip_prefix('<').is_some_and(|rest| text_matches(&pattern[1..], rest))
}

/// Whether these are the texts that the patterns say, in their order.
pub(crate) fn texts_match(patterns: &[String], texts: &[String]) -> bool {
    patterns.len() == texts.len() && patterns.iter().zip(texts).all(|(pattern, text)| text_matches(pattern, text))
}

/// Writes out every `<c*N>`.
pub(crate) fn expand(text: &str) -> String {
    let Some(start) = text.find('<') else { return text.to_owned() };
    if let Some(end) = text[start..].find('>').map(|end| start + end)
        && let Some(repeated) = repetition(&text[start + 1..end])
    {
        return format!("{}{repeated}{}", &text[..start], expand(&text[end + 1..]));
    }
    format!("{}<{}", &text[..start], expand(&text[start + 1..]))
}

fn repetition(name: &str) -> Option<String> {
    let (text, count) = name.rsplit_once('*')?;
    let count = count.parse().ok()?;
    (text.chars().count() == 1).then(|| text.repeat(count))
}

fn kind(name: &str) -> Option<fn(&str) -> bool> {
    let is_value: fn(&str) -> bool = match name {
        "iso8601" => |text| {
            let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            shape == "0000-00-00T00:00:00.000Z"
        },
        "unix-seconds" => |text| text.len() == 10 && all(text, |byte| byte.is_ascii_digit()),
        "uuid" => |text| text.len() == 36 && uuid::Uuid::parse_str(text).is_ok_and(|id| id.get_version_num() == 4),
        // What the phone is shown: a reference and at least three keys.
        "qr" => |text| text.split(',').count() >= 4 && text.len() > 100 && !text.contains('"'),
        "message-id" => |text| {
            let is_capital = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
            text.len() == 22 && text.starts_with("3EB0") && all(text, is_capital)
        },
        "base64" | "qr-png" => {
            |text| text.len() >= 4 && all(text, |byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
        }
        "media-url" => |text| text.starts_with("http") && !text.contains('"'),
        "direct-path" => |text| text.starts_with('/') && !text.contains('"'),
        "signature" => {
            |text| text.len() >= 44 && all(text, |byte| byte.is_ascii_alphanumeric() || b"%-_.".contains(&byte))
        }
        // What stands for an id that could lead out of a folder.
        "hash" => |text| text.len() == 32 && all(text, |byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
        "version" => |text| !text.is_empty() && all(text, |byte| byte.is_ascii_digit() || byte == b'.'),
        "any" => |_| true,
        _ => return None,
    };
    Some(is_value)
}

fn all(text: &str, is_good: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(is_good)
}

/// Whether a JSON answer holds everything the recorded one did: its members first, in order; more may follow.
pub(crate) fn json_matches(pattern: &Value, value: &Value, optional: &[String]) -> bool {
    match (pattern, value) {
        (Value::Object(wanted), Value::Object(given)) => {
            let is_optional = |name: &String| optional.contains(name);
            let mut given = given.iter().filter(|(name, _)| wanted.contains_key(*name) || !is_optional(name));
            wanted.iter().all(|(name, pattern)| {
                given.next().is_some_and(|(other, value)| name == other && json_matches(pattern, value, optional))
            })
        }
        (Value::Array(wanted), Value::Array(given)) => {
            wanted.len() == given.len()
                && wanted.iter().zip(given).all(|(wanted, given)| json_matches(wanted, given, optional))
        }
        (Value::String(wanted), Value::String(given)) => text_matches(wanted, given),
        _ => pattern == value,
    }
}

/// As [`json_matches`] for texts; what is no JSON must match as a text.
pub(crate) fn body_matches(pattern: &str, body: &str, optional: &[String]) -> bool {
    match (serde_json::from_str(pattern), serde_json::from_str(body)) {
        (Ok(pattern @ (Value::Object(_) | Value::Array(_))), Ok(body)) => json_matches(&pattern, &body, optional),
        _ => text_matches(pattern, body),
    }
}

#[test]
fn placeholders_stand_for_their_kind_only() {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("<iso8601>", "2026-02-03T04:52:38.123Z", true),
        ("<iso8601>", "2026-02-03T04:52:38Z", false),
        ("<message-id>.jpg", "3EB0123456789ABCDEF012.jpg", true),
        ("<message-id>.jpg", "3EB0123456789abcdef012.jpg", false),
        ("<hash>.js", "0123456789abcdef0123456789abcdef.js", true),
        ("<hash>.js", "../assets/js/evil/0123456789abcd.js", false),
        ("x<y*3>z", "xyyyz", true),
        ("x<y*3>z", "xyyz", false),
        ("<b>", "<b>", true),
        ("\"<x> <unix-seconds>", "\"<x> 1770000000", true),
        ("key=secret.<signature>; Path=/", "key=secret.a; Path=/", false),
    ] {
        assert_eq!(text_matches(pattern, text), expected, "{pattern} {text}");
    }
    assert_eq!(expand("/a/<z*4>?<b>"), "/a/zzzz?<b>");
}

#[test]
fn members_come_in_order_and_more_may_follow() {
    for (pattern, body, expected) in [
        (r#"{"a":1,"b":{"c":"x"}}"#, r#"{"a":1,"b":{"c":"x","d":2},"e":3}"#, true),
        (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, false),
        (r#"{"a":1}"#, r#"{"e":3,"a":1}"#, false),
        (r#"{"a":1}"#, r#"{"height":3,"a":1}"#, true),
        (r#"{"a":[1]}"#, r#"{"a":[1,2]}"#, false),
        ("null", "null", true),
    ] {
        assert_eq!(body_matches(pattern, body, &["height".to_owned()]), expected, "{pattern} {body}");
    }
}
