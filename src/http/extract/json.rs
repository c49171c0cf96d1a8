//! JSON of a body, as long as it does not become far more in memory than it was on the wire.

use serde_json::Value;

use crate::http::error::ApiError;

/// Items and members. Each takes some hundred bytes, and no message has a hundredth of that many.
const MAX_VALUES: usize = 50_000;
/// `serde_json` goes no deeper.
const MAX_DEPTH: usize = 127;

/// Parses a body as wa-gateway 4.7.1 does: a byte order mark is skipped, of repeated members the last counts.
pub(in crate::http) fn json(body: &[u8]) -> Result<Value, ApiError> {
    let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    if text.len() > MAX_VALUES && has_too_many_values(text) {
        return Err(ApiError::too_many_values());
    }
    let text = String::from_utf8_lossy(text);
    serde_json::from_str(&text)
        .or_else(|error| without_halves(&text).map_or(Err(error), |text| serde_json::from_str(&text)))
        .map_err(|_| ApiError::bad_request("Malformed JSON in request body"))
}

/// The text with U+FFFD for each escaped half of a surrogate pair that stands alone; `None`: there is none.
///
/// JavaScript and Python write one where a text was cut within an emoji, and `JSON.parse` takes it; `serde_json` does not.
fn without_halves(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let unit = |at: usize| match bytes.get(at..at + 6)? {
        [b'\\', b'u', digits @ ..] => {
            digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
        }
        _ => None,
    };
    let (mut whole, mut kept, mut at) = (String::new(), 0, 0);
    while let Some(next) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += next;
        match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                whole.push_str(&text[kept..at]);
                whole.push_str("\\ufffd");
                at += 6;
                kept = at;
            }
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    (kept > 0).then(|| whole + &text[kept..])
}

/// Counts what begins an array, an object or a further value in one. What is malformed is told by the parser.
fn has_too_many_values(text: &[u8]) -> bool {
    let (mut values, mut depth) = (0, 0_usize);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while bytes.find(|byte| matches!(byte, b'"' | b'\\')) == Some(&b'\\') {
                    bytes.next();
                }
            }
            b'[' | b'{' => {
                values += 1;
                depth += 1;
                if depth > MAX_DEPTH {
                    // The parser ends here.
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if values > MAX_VALUES {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    fn status(body: &str) -> u16 {
        json(body.as_bytes()).map_or_else(|error| error.into_response().status().as_u16(), |_| 200)
    }

    #[test]
    fn values_are_counted_before_any_is_made() {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        let within = r#",[{\",\\"#;
        for (body, answered) in [
            (list("0", MAX_VALUES), 200),
            (list("0", MAX_VALUES + 1), 413),
            (list("[]", MAX_VALUES / 2), 200),
            (list("[]", MAX_VALUES / 2 + 1), 413),
            (list(r#"{"a":1}"#, MAX_VALUES / 2 + 1), 413),
            (format!("\u{feff}{}", list("0", MAX_VALUES + 1)), 413),
            (format!(r"{{{}}}", vec![r#""a":0"#; MAX_VALUES + 1].join(",")), 413),
            (list(&format!(r#""{}""#, within.repeat(1000)), 100), 200),
            (format!(r#"["a\\",{}"#, "0,".repeat(MAX_VALUES)), 413),
            ("[".repeat(MAX_VALUES * 2), 400),
            ("]".repeat(MAX_VALUES * 2), 400),
            ("\"".repeat(MAX_VALUES * 2 + 1), 400),
            (format!("\"{}", "\\".repeat(MAX_VALUES * 2)), 400),
            (format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH)), 200),
            (format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1)), 400),
        ] {
            assert_eq!(status(&body), answered, "{}", &body[..20]);
        }
    }

    #[test]
    fn half_an_emoji_is_replaced_and_the_rest_stays_as_it_is() {
        for (text, read) in [
            (r"caf\u00e9 \ud83d", "caf\u{e9} \u{fffd}"),
            (r"\udc4d!", "\u{fffd}!"),
            (r"\ud83d\ud83d\udc4d\uDC4D", "\u{fffd}\u{1f44d}\u{fffd}"),
            (r"\uD83Dx\uDC4D", "\u{fffd}x\u{fffd}"),
            (r"\ud83d\n\\ud83d\\", "\u{fffd}\n\\ud83d\\"),
            (r"\\\ud83d\\\\udc4d", "\\\u{fffd}\\\\udc4d"),
            ("\u{1f44d}\\ud83d\u{1f44d}", "\u{1f44d}\u{fffd}\u{1f44d}"),
        ] {
            let body = format!(r#"{{"text":"{text}"}}"#);
            assert_eq!(json(body.as_bytes()).unwrap()["text"], read, "{text}");
        }
        for malformed in
            [r#"{"a":"\ud83d}"#, r#""\ud83"#, r#""\ud83g""#, r#""\"#, "\"\\\u{1f44d}\"", r"\ud83d", r#""\ud83d" x"#]
        {
            assert_eq!(status(malformed), 400, "{malformed}");
        }
    }
}
