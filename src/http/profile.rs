//! `POST /profile`: the picture and the about of an account or a group.

use axum::Json;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::access::Sessions;
use super::auth::Scope;
use super::error::ApiError;
use super::extract::Fields;
use crate::message::{Profile, Recipient};

/// `POST /profile`.
pub(super) async fn profile(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let session = fields.string("session")?;
    let target = fields.string("target")?;
    // wa-gateway 4.7.1 looks for no more than this.
    if !target.contains("@s.whatsapp.net") && !target.contains("@g.us") {
        return Err(fields.invalid("target", "must contain '@s.whatsapp.net' or '@g.us'"));
    }
    sessions.check_ready(Scope::Read, &session)?;
    // Callers take every refusal for "not on WhatsApp", which is what holds for an address that can't be one.
    let target = Recipient::parse(&target, false).map_err(|_| ApiError::not_registered())?;
    let profile = sessions.profile(&session, &target).await?;
    Ok(Json(body(&target, profile)).into_response())
}

/// Contract section 5: `status` is an array, when there is one.
fn body(target: &Recipient, profile: Profile) -> Value {
    let status = profile.about.map(|about| {
        let since = DateTime::<Utc>::from_timestamp(about.since, 0).unwrap_or_default();
        let since = since.to_rfc3339_opts(SecondsFormat::Millis, true);
        json!([{ "status": { "status": about.text, "setAt": since }, "id": target.as_str() }])
    });
    json!({ "data": { "profilePictureUrl": profile.picture_url, "status": status } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::About;

    #[test]
    fn a_profile_has_the_contracts_bytes() {
        let target = Recipient::parse("6281@s.whatsapp.net", false).unwrap();
        let about = Some(About { text: "Available".to_owned(), since: 1_700_000_000 });
        assert_eq!(
            body(&target, Profile { picture_url: Some("https://x/y?z=1".to_owned()), about }).to_string(),
            r#"{"data":{"profilePictureUrl":"https://x/y?z=1","status":[{"status":{"status":"Available","setAt":"2023-11-14T22:13:20.000Z"},"id":"6281@s.whatsapp.net"}]}}"#
        );
        assert_eq!(
            body(&target, Profile { picture_url: None, about: None }).to_string(),
            r#"{"data":{"profilePictureUrl":null,"status":null}}"#
        );
    }
}
