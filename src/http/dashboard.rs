//! The dashboard: pages for people to link accounts, see how they are, send a text, stop and delete.
//!
//! Guarded by the cookie that `login` gives. No GET changes anything; whatever does carries the login's form token.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::Shared;
use super::access::Sessions;
use super::auth::{Login, Scope};
use super::error::ApiError;
use super::extract::{self, Fields};
use super::login::redirect_to;
use crate::event::{SessionName, SessionNameError, Status};
use crate::message::Recipient;
use crate::session::{SendError, StartError, Started};

mod code;
pub(super) mod view;
mod words;

pub(super) use words::Words;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORM_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");

/// What the dashboard remembers between requests; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Dashboard(Arc<code::Shown>);

/// `GET /`.
pub(super) async fn home() -> Response {
    redirect_to(StatusCode::FOUND, "/dashboard")
}

/// `GET /dashboard`.
pub(super) async fn overview(sessions: Sessions, login: Login, headers: HeaderMap) -> Result<Response, ApiError> {
    view::overview(Words::of(&headers), &login, &sessions.list())
}

/// `GET /dashboard/sessions`.
pub(super) async fn sessions(sessions: Sessions, login: Login, headers: HeaderMap) -> Result<Response, ApiError> {
    let new_id = uuid::Uuid::new_v4().to_string();
    view::sessions(Words::of(&headers), &login, &new_id, &sessions.list())
}

/// `GET /dashboard/sessions/create`: shows a session, or asks for the name of a new one. wa-gateway 4.7.1 starts it here.
pub(super) async fn create_page(
    sessions: Sessions,
    login: Login,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, ApiError> {
    let id = fields.first("id").unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    view::create(Words::of(&headers), &login, &id, sessions.find(&id).as_ref(), None)
}

/// `POST /dashboard/sessions/create`: starts a session.
pub(super) async fn create(
    sessions: Sessions,
    login: Login,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, ApiError> {
    let words = Words::of(&headers);
    let id = fields.string("id")?;
    let again = |status: StatusCode, text: &'static str| {
        let mut response = view::create(words, &login, &id, sessions.find(&id).as_ref(), Some(text))?;
        *response.status_mut() = status;
        Ok(response)
    };
    if check_form(&login, &headers, &fields).is_err() {
        // A page from before a restart: the one that is shown now has a token that works.
        return again(StatusCode::FORBIDDEN, words.failed);
    }
    let name = match SessionName::parse(&id) {
        Ok(name) => name,
        Err(SessionNameError::Blank) => return again(StatusCode::BAD_REQUEST, words.blank),
        Err(SessionNameError::TooLong) => return again(StatusCode::BAD_REQUEST, words.too_long),
        Err(SessionNameError::Reserved) => return again(StatusCode::BAD_REQUEST, words.reserved),
    };
    match sessions.start(sessions.startable(name)?).await {
        Ok(Started::Connected) => return Ok(redirect_to(StatusCode::SEE_OTHER, "/dashboard/sessions")),
        // The page tells whatever becomes of it.
        Ok(Started::Qr(_)) | Err(StartError::AlreadyExists | StartError::TimedOut | StartError::Ended) => {}
        Err(StartError::Damaged) => return again(StatusCode::SERVICE_UNAVAILABLE, words.damaged),
        Err(StartError::Moved) => return again(StatusCode::CONFLICT, words.moved),
        Err(error @ (StartError::ShuttingDown | StartError::Store(_))) => {
            tracing::warn!(%error, "the dashboard could not start a session");
            return again(StatusCode::SERVICE_UNAVAILABLE, words.store_away);
        }
    }
    let query = serde_urlencoded::to_string([("id", &id)]).map_err(ApiError::internal)?;
    Ok(redirect_to(StatusCode::SEE_OTHER, &format!("/dashboard/sessions/create?{query}")))
}

/// `GET /dashboard/sessions/create/qr`: how a session is, for the page that shows its code.
pub(super) async fn code(
    State(state): State<Shared>,
    sessions: Sessions,
    fields: Fields,
) -> Result<Response, ApiError> {
    let id = fields.first("id").unwrap_or_default();
    let code = sessions.code(&id);
    let status = sessions.find(&id).map_or(Status::Disconnected, |session| session.status);
    let body = state.dashboard.0.body(&id, status, code.as_deref(), Instant::now()).map_err(ApiError::internal)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// `POST /dashboard/sessions/stop`.
pub(super) async fn stop(
    sessions: Sessions,
    login: Login,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, ApiError> {
    check_form(&login, &headers, &fields)?;
    let id = fields.string("id")?;
    sessions.stop(&id).await.map_err(|error| ApiError::from_stop(&id, error))?;
    Ok(redirect_to(StatusCode::SEE_OTHER, "/dashboard/sessions"))
}

/// `POST /dashboard/sessions/delete`.
pub(super) async fn delete(
    sessions: Sessions,
    login: Login,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, ApiError> {
    check_form(&login, &headers, &fields)?;
    let id = fields.string("id")?;
    sessions.delete(&id).await.map_err(|error| ApiError::from_delete(&id, error))?;
    Ok(redirect_to(StatusCode::SEE_OTHER, "/dashboard/sessions"))
}

/// `POST /dashboard/messages/send-text-api`. Contract section 4: whatever the content type, and answers of its own.
pub(super) async fn send_text(sessions: Sessions, login: Login, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let token = parts.headers.get(&FORM_TOKEN).and_then(|value| value.to_str().ok());
    check_token(&login, &parts.headers, token)?;
    let members = match extract::json(&extract::read(&parts.headers, body).await?)? {
        Value::Object(members) => members,
        Value::Null => return Err(ApiError::bad_request("Expected object, received null field '' on json")),
        _ => Map::new(),
    };
    let member = |name| match members.get(name) {
        Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let (Some(session), Some(to), Some(message)) = (member("session"), member("to"), member("message")) else {
        return Ok(not_sent(StatusCode::BAD_REQUEST, "Missing parameters"));
    };
    if matches!(sessions.check_ready(Scope::Send, &session), Err(SendError::NoSession)) {
        return Ok(not_sent(StatusCode::BAD_REQUEST, &format!("Session with ID: \"{session}\" Not Exist!")));
    }
    // A page speaks its reader's language; programs read what the API says.
    let words = token.map(|_of_a_page| Words::of(&parts.headers));
    let refuse = |spoken: Option<&'static str>, error: ApiError| {
        let (status, text) = error.told();
        not_sent(status, spoken.unwrap_or(&text))
    };
    let sent = match (sessions.check_ready(Scope::Send, &session), Recipient::parse(&to, false)) {
        (Err(error), _) => Err(error),
        (Ok(()), Err(error)) => return Ok(refuse(words.map(|words| words.bad_number), error.into())),
        (Ok(()), Ok(to)) => sessions.send_text(&session, to, message, false).await,
    };
    Ok(match sent {
        Ok(_) => Json(json!({ "success": true })).into_response(),
        Err(error) => refuse(words.and_then(|words| words.of_send(&error)), error.into()),
    })
}

fn not_sent(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "success": false, "error": error }))).into_response()
}

/// Whatever else lies below `/dashboard`: people without a cookie are sent to the login page, as wa-gateway 4.7.1 does.
pub(super) async fn unknown(State(state): State<Shared>, request: Request) -> Response {
    let is_ours = request.uri().path().starts_with("/dashboard/");
    let client = state.auth.client(request.extensions(), request.headers());
    if is_ours && state.auth.login(request.headers(), client).await.is_none() {
        return super::login::redirect();
    }
    ApiError::route_not_found().into_response()
}

/// Whether a browser says that the request comes from a page of another site.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    headers.get(&FETCH_SITE).is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// Lets a form through that a page of this login has sent: its token stands in the field `csrf` or in a header.
pub(super) fn check_form(login: &Login, headers: &HeaderMap, fields: &Fields) -> Result<(), ApiError> {
    let token = fields.first("csrf");
    let header = headers.get(&FORM_TOKEN).and_then(|value| value.to_str().ok());
    let token = token.as_deref().or(header).unwrap_or_default();
    if is_foreign(headers) || !login.issued(token) {
        return Err(ApiError::forbidden());
    }
    Ok(())
}

/// The same for the one call that programs make too, with a cookie of their own and without a token: browsers can't,
/// since they name the origin of every such request.
fn check_token(login: &Login, headers: &HeaderMap, token: Option<&str>) -> Result<(), ApiError> {
    let is_browser = headers.contains_key(header::ORIGIN) || headers.contains_key(&FETCH_SITE);
    let allowed = token.map_or(!is_browser, |token| login.issued(token));
    if is_foreign(headers) || !allowed {
        return Err(ApiError::forbidden());
    }
    Ok(())
}
