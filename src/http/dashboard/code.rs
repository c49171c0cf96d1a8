//! The code on the create page: its modules for the script that draws them, and who has been shown one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qrcode::types::QrError;
use qrcode::{Color, EcLevel, QrCode};
use serde_json::{Value, json};

use crate::event::Status;

/// wa-gateway 4.7.1 keeps a code for 60 s after it was last renewed.
const KEPT: Duration = Duration::from_mins(1);

/// Sessions whose codes are remembered; more than a person can scan in a minute.
const MAX_SHOWN: usize = 256;

/// The codes that the dashboard has shown lately. Contract section 8 tells those sessions by a member `qr`, which stays
/// for a while after the scan; others are told by their status alone.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<HashMap<String, (String, Instant)>>);

impl Shown {
    /// The body of `GET /dashboard/sessions/create/qr`.
    pub(super) fn body(&self, id: &str, status: Status, code: Option<&str>, now: Instant) -> Result<Value, QrError> {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|_id, (_code, at)| now.duration_since(*at) < KEPT);
        if let Some(code) = code {
            if shown.len() < MAX_SHOWN || shown.contains_key(id) {
                shown.insert(id.to_owned(), (code.to_owned(), now));
            }
            let (side, modules) = modules(code)?;
            // The first two are the contract's.
            return Ok(json!({ "qr": code, "status": "pending", "side": side, "modules": modules }));
        }
        Ok(match (status, shown.get(id)) {
            (Status::Connecting, Some((code, _))) => json!({ "qr": code, "status": status }),
            (Status::Connected, Some(_)) => json!({ "qr": null, "status": status }),
            (Status::Disconnected, Some(_)) => {
                shown.remove(id);
                json!({ "status": status })
            }
            (_, None) => json!({ "status": status }),
        })
    }
}

/// The modules of a code, row by row, dark is 1, as base64 of eight to a byte; and how many make a row.
fn modules(code: &str) -> Result<(usize, String), QrError> {
    let code = QrCode::with_error_correction_level(code, EcLevel::L)?;
    let colors = code.to_colors();
    let bytes: Vec<u8> = colors
        .chunks(8)
        .map(|eight| (0..8).fold(0, |byte, at| byte << 1 | u8::from(eight.get(at) == Some(&Color::Dark))))
        .collect();
    Ok((code.width(), STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_as_the_original_told_it() {
        let shown = Shown::default();
        let begun = Instant::now();
        let ask = |status, code| shown.body("a", status, code, begun).unwrap();
        assert_eq!(ask(Status::Connecting, None), json!({"status": "connecting"}));
        let pending = ask(Status::Connecting, Some("one")).to_string();
        assert!(pending.starts_with(r#"{"qr":"one","status":"pending","side":21,"modules":""#), "{pending}");
        assert!(ask(Status::Connecting, Some("two")).to_string().starts_with(r#"{"qr":"two","status":"pending""#));
        assert_eq!(ask(Status::Connecting, None).to_string(), r#"{"qr":"two","status":"connecting"}"#);
        assert_eq!(ask(Status::Connected, None).to_string(), r#"{"qr":null,"status":"connected"}"#);
        let other = shown.body("b", Status::Connected, None, begun).unwrap();
        assert_eq!(other, json!({"status": "connected"}), "started through the API");
        let later = shown.body("a", Status::Connected, None, begun + KEPT).unwrap();
        assert_eq!(later, json!({"status": "connected"}));
        ask(Status::Connecting, Some("three"));
        let later = shown.body("a", Status::Connecting, None, begun + KEPT).unwrap();
        assert_eq!(later, json!({"status": "connecting"}), "a minute after the code");
        ask(Status::Connecting, Some("four"));
        assert_eq!(ask(Status::Disconnected, None), json!({"status": "disconnected"}));
        assert_eq!(ask(Status::Connecting, None), json!({"status": "connecting"}), "forgotten with the end");
    }

    #[test]
    fn modules_are_packed_row_by_row() {
        let (side, packed) = modules("2@abc").unwrap();
        let bytes = STANDARD.decode(packed).unwrap();
        assert_eq!((side, bytes.len()), (21, (21 * 21_usize).div_ceil(8)));
        assert_eq!(bytes[0], 0b1111_1110, "the finder pattern: seven dark modules and a light one");
        assert!(modules(&"x".repeat(5000)).is_err());
    }
}
