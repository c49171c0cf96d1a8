//! The endpoints below `/session`.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest as _, Request};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::Utc;
use serde_json::Value;
use utoipa::ToSchema;

use super::access::Sessions;
use super::body::{self, Deleted, Detail, Done, Row, StartedBody};
use super::error::ApiError;
use super::extract::{self, Fields, Kind, SessionId};
use super::page;
use crate::event::SessionName;
use crate::session::{SessionSummary, Started};

/// The member that names a session.
#[derive(ToSchema)]
pub(super) struct NamedSession {
    /// Any text that is not blank but `start`, `stop`, `logout`, `status`, `.` and `..`, up to 256 bytes.
    session: String,
}

impl NamedSession {
    fn read(fields: &Fields) -> Result<Self, ApiError> {
        Ok(Self { session: fields.string("session")? })
    }
}

/// What the page of a start takes.
#[derive(ToSchema)]
pub(super) struct StartPage {
    /// Any text that is not blank but `start`, `stop`, `logout`, `status`, `.` and `..`, up to 256 bytes.
    session: String,
    /// A page that shows a code asks for the next one: nothing is started, and a session that was ended is a 409.
    renew: Option<bool>,
}

/// `GET /session`.
pub(super) async fn list(sessions: Sessions) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], sessions.spelled(spell)).into_response()
}

fn spell(rows: &[SessionSummary]) -> Bytes {
    let list = body::Sessions { data: rows.iter().map(Row::new).collect() };
    serde_json::to_vec(&list).expect("strings always serialise").into()
}

/// `GET /session/{session}`.
pub(super) async fn detail(sessions: Sessions, SessionId(id): SessionId) -> Result<Response, ApiError> {
    let summary = sessions.find(&id).ok_or_else(|| ApiError::session_not_found(&id))?;
    Ok(Json(Detail::new(&summary)).into_response())
}

/// `GET` and `DELETE` without an id.
pub(super) async fn missing_id() -> ApiError {
    ApiError::bad_request("Session ID is required")
}

/// `POST /session/start`.
pub(super) async fn start(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let name = sessions.startable(SessionName::parse(&NamedSession::read(&fields)?.session)?)?;
    Ok(Json(StartedBody::from(sessions.start(name).await?)).into_response())
}

/// `GET /session/start`: a page for people, which may stand in an iframe.
pub(super) async fn start_page(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let page = StartPage { session: fields.string("session")?, renew: Some(fields.flag(&["renew"])?) };
    let name = sessions.startable(SessionName::parse(&page.session)?)?;
    let started = match page.renew {
        Some(true) => sessions.renew(name.clone()).await?,
        _ => sessions.start(name.clone()).await?,
    };
    Ok(match started {
        Started::Qr(qr) => page::qr(name.as_str(), &qr).map_err(ApiError::internal)?,
        Started::Connected => Json(StartedBody::CONNECTED).into_response(),
    })
}

/// `POST /session/stop`.
pub(super) async fn stop(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let id = NamedSession::read(&fields)?.session;
    sessions.stop(&id).await.map_err(|error| ApiError::from_stop(&id, error))?;
    Ok(Json(Done { data: "success" }).into_response())
}

/// `DELETE /session/{session}`.
pub(super) async fn delete(sessions: Sessions, SessionId(id): SessionId) -> Result<Response, ApiError> {
    sessions.delete(&id).await.map_err(|error| ApiError::from_delete(&id, error))?;
    Ok(Json(Deleted::new(&id, Utc::now())).into_response())
}

/// Every method on `/session/logout`.
pub(super) async fn logout(sessions: Sessions, request: Request) -> Result<Response, ApiError> {
    if let Some(id) = named_by(request).await? {
        sessions.logout(&id).await.or_else(ApiError::from_logout)?;
    }
    Ok(Json(Done { data: "success" }).into_response())
}

/// The session of a logout: of the query unless that is empty, else of the body, whatever type the body announces.
///
/// Contract section 2 and wa-gateway 4.7.1: a body that names none is a success too. Where the original failed with 500,
/// on no body and on one that is no JSON, the caller is told what is missing.
async fn named_by(request: Request) -> Result<Option<String>, ApiError> {
    let (parts, body) = request.into_parts();
    let first = match extract::query_members(&parts).get("session") {
        Some(Value::Array(values)) => values.first().cloned(),
        other => other.cloned(),
    };
    if let Some(Value::String(id)) = first
        && !id.is_empty()
    {
        return Ok(Some(id));
    }
    if parts.method == Method::GET {
        let fields = Fields::from_request(Request::from_parts(parts, Body::empty()), &()).await?;
        return Err(fields.required("session"));
    }
    if extract::content_kind(&parts.headers) == Kind::Form {
        let fields = Fields::from_request(Request::from_parts(parts, body), &()).await?;
        return fields.string("session").map(Some);
    }
    let bytes = extract::read(&parts.headers, body).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request("Required field 'session' on json"));
    }
    match extract::json(&bytes)? {
        Value::Object(mut members) => match members.remove("session") {
            Some(Value::String(id)) => Ok(Some(id)),
            _ => Ok(None),
        },
        Value::Null => Err(ApiError::bad_request("Expected object, received null field '' on json")),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::event::Status;
    use crate::http::body::iso8601;
    use crate::session::{Details, SessionSummary, Standing};

    fn json_of(value: &impl serde::Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    fn summary(status: Status, details: Option<(&str, &str)>, platform: Option<&str>) -> SessionSummary {
        SessionSummary {
            session: SessionName::parse("ok 1").unwrap(),
            status,
            details: details.map(|(name, number)| Details { name: name.into(), phone_number: number.into() }),
            since: "2026-02-03T04:52:38.123456Z".parse().unwrap(),
            platform: platform.map(str::to_owned),
            standing: Standing {
                state: status.as_str(),
                reason: (status == Status::Connecting).then_some("connection_lost".into()),
                since: "2026-02-03T04:52:39.123456Z".parse().unwrap(),
                until: (status == Status::Disconnected).then_some("2026-02-03T05:00:00Z".parse().unwrap()),
            },
        }
    }

    #[test]
    fn rows_of_the_list_have_the_contracts_bytes() {
        let known = Some(("Fake ok1", "6281234500001"));
        for (row, bytes) in [
            (
                summary(Status::Connected, known, None),
                r#"{"session":"ok 1","status":"connected","details":{"name":"Fake ok1","phoneNumber":"6281234500001"}}"#,
            ),
            (
                summary(Status::Connected, None, None),
                r#"{"session":"ok 1","status":"connected","details":{"name":"","phoneNumber":""}}"#,
            ),
            (
                summary(Status::Disconnected, known, None),
                r#"{"session":"ok 1","details":{"name":"Fake ok1","phoneNumber":"6281234500001"},"status":"disconnected"}"#,
            ),
            (
                summary(Status::Connecting, known, None),
                r#"{"session":"ok 1","details":{"name":"Fake ok1","phoneNumber":"6281234500001"},"status":"connecting"}"#,
            ),
            (summary(Status::Connecting, None, None), r#"{"session":"ok 1","status":"connecting"}"#),
        ] {
            assert_eq!(json_of(&Row::new(&row)), bytes);
        }
        assert_eq!(json_of(&body::Sessions { data: Vec::new() }), r#"{"data":[]}"#);
    }

    #[test]
    fn a_detail_has_the_contracts_bytes() {
        let fresh = summary(Status::Connecting, None, None);
        assert_eq!(
            json_of(&Detail::new(&fresh)),
            r#"{"success":true,"data":{"session":"ok 1","status":"connecting","details":{"name":"","phoneNumber":""},"connection":{"isConnected":false,"lastUpdate":"2026-02-03T04:52:38.123Z"},"metadata":{"platform":"unknown","deviceManufacturer":"unknown","deviceModel":"unknown"},"state":"connecting","reason":"connection_lost","since":"2026-02-03T04:52:39.123Z","until":null,"platform":null}}"#
        );
        let known = summary(Status::Connected, Some(("Budi", "628")), Some("android"));
        assert_eq!(
            json_of(&Detail::new(&known)),
            r#"{"success":true,"data":{"session":"ok 1","status":"connected","details":{"name":"Budi","phoneNumber":"628"},"connection":{"isConnected":true,"lastUpdate":"2026-02-03T04:52:38.123Z"},"metadata":{"platform":"unknown","deviceManufacturer":"unknown","deviceModel":"unknown"},"state":"connected","reason":null,"since":"2026-02-03T04:52:39.123Z","until":null,"platform":"android"}}"#
        );
        let gone = summary(Status::Disconnected, Some(("Budi", "628")), None);
        let gone = json_of(&Detail::new(&gone));
        assert!(gone.contains(r#""status":"disconnected""#), "{gone}");
        assert!(gone.ends_with(r#","until":"2026-02-03T05:00:00.000Z","platform":null}}"#), "{gone}");
    }

    #[test]
    fn a_deletion_answers_as_documented() {
        let at: DateTime<Utc> = "2026-02-03T04:52:38.123Z".parse().unwrap();
        assert_eq!(
            json_of(&Deleted::new("a/\"b", at)),
            r#"{"success":true,"message":"Session 'a/\"b' deleted successfully","data":{"session":"a/\"b","deletedAt":"2026-02-03T04:52:38.123Z"}}"#
        );
        assert_eq!(iso8601("2026-01-01T00:00:00Z".parse().unwrap()), "2026-01-01T00:00:00.000Z");
    }

    async fn named(method: &str, uri: &str, kind: Option<&str>, body: &str) -> Result<Option<String>, u16> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let named = named_by(request.body(Body::from(body.to_owned())).unwrap()).await;
        named.map_err(|error| error.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn a_logout_finds_its_session_where_the_original_did() {
        const JSON: Option<&str> = Some("application/json");
        const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
        let some = |id: &str| Ok(Some(id.to_owned()));
        for (method, uri, kind, body, expected) in [
            ("GET", "/session/logout?session=ok1", None, "", some("ok1")),
            ("GET", "/session/logout?session=a&session=b", None, "", some("a")),
            ("GET", "/session/logout", None, "", Err(400)),
            ("GET", "/session/logout?session=", None, "", Err(400)),
            ("POST", "/session/logout?session=ok4", JSON, r#"{"session":"ok5"}"#, some("ok4")),
            ("POST", "/session/logout?session=x", JSON, "{bad", some("x")),
            ("POST", "/session/logout?session=", JSON, r#"{"session":"qr1"}"#, some("qr1")),
            ("PUT", "/session/logout", JSON, r#"{"session":"ok6"}"#, some("ok6")),
            ("POST", "/session/logout", None, r#"{"session":"ok3"}"#, some("ok3")),
            ("POST", "/session/logout", FORM, "session=ok5", some("ok5")),
            ("POST", "/session/logout", JSON, r#"{"session":""}"#, some("")),
            ("POST", "/session/logout", JSON, "{}", Ok(None)),
            ("POST", "/session/logout", JSON, r#"{"session":null}"#, Ok(None)),
            ("POST", "/session/logout", JSON, r#"{"session":5}"#, Ok(None)),
            ("POST", "/session/logout", JSON, "[]", Ok(None)),
            ("POST", "/session/logout", JSON, r#""x""#, Ok(None)),
            ("POST", "/session/logout", JSON, "null", Err(400)),
            ("POST", "/session/logout", JSON, "{bad", Err(400)),
            ("POST", "/session/logout", JSON, "", Err(400)),
            ("DELETE", "/session/logout", None, "", Err(400)),
        ] {
            assert_eq!(named(method, uri, kind, body).await, expected, "{method} {uri} {kind:?} {body}");
        }
    }
}
