//! What the owner of the machine asks: is it alive, is it ready, its numbers, a backup, a session for another host.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::access::Sessions;
use super::body::Health;
use super::error::ApiError;
use super::extract::{self, Fields};
use crate::backup;
use crate::metrics::Page;

/// `GET /livez`: the process answers. A gateway that can't reach its store is alive too: a restart would not help it.
pub(super) async fn live() -> Response {
    Json(Health { status: "ok" }).into_response()
}

/// Whether the gateway can do its work.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ok` or `unavailable`.
    status: &'static str,
    /// What is wrong, for people; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The names of the checks that fail.
    failing: Vec<&'static str>,
    /// Each check: `ok`, or what is wrong.
    #[schema(value_type = Object)]
    checks: serde_json::Map<String, serde_json::Value>,
}

/// `GET /readyz`.
pub(super) async fn ready(State(state): State<Shared>) -> Response {
    let checks = state.health.readiness().await;
    let failing: Vec<_> = checks.iter().filter(|check| check.problem.is_some()).map(|check| check.name).collect();
    let problems: Vec<_> = checks.iter().filter_map(|check| check.problem).collect();
    let is_ready = problems.is_empty();
    let body = Readiness {
        status: if is_ready { "ok" } else { "unavailable" },
        message: (!is_ready).then(|| format!("Not ready: {}", problems.join("; "))),
        failing,
        checks: checks.iter().map(|check| (check.name.to_owned(), check.problem.unwrap_or("ok").into())).collect(),
    };
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// `GET /metrics`.
pub(super) async fn metrics(State(state): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, Page::CONTENT_TYPE)], state.health.page().await).into_response()
}

/// What encrypts a backup or an export.
#[derive(ToSchema)]
pub(super) struct BackupBody {
    /// Without it nobody opens the file.
    #[expect(dead_code, reason = "described only: it is read as a secret")]
    passphrase: String,
}

/// `POST /backup`: an encrypted archive of the whole store.
pub(super) async fn backup(State(state): State<Shared>, mut fields: Fields) -> Result<Response, ApiError> {
    let passphrase = passphrase(&mut fields)?;
    Ok(archive(state.backup.begin(passphrase).await?, "attachment; filename=\"wa-gateway.backup\""))
}

/// The id in `/session/{session}/export`.
pub(super) struct Of(String);

impl<S: Sync> FromRequestParts<S> for Of {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let raw = parts.uri.path().strip_prefix("/session/").and_then(|rest| rest.strip_suffix("/export"));
        Ok(Self(extract::decode(raw.ok_or_else(ApiError::route_not_found)?)))
    }
}

/// `POST /session/{session}/export`: the session ends here, and all of it is the answer.
pub(super) async fn export(
    State(state): State<Shared>,
    sessions: Sessions,
    Of(id): Of,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let passphrase = passphrase(&mut fields)?;
    // Before the session ends: without a turn it goes on.
    let turn = state.backup.turn()?;
    let uid = sessions.export(&id).await.map_err(|error| ApiError::from_export(&id, error))?;
    let parts = turn.export(&uid, passphrase).await?;
    Ok(archive(parts, "attachment; filename=\"wa-gateway.session\""))
}

fn passphrase(fields: &mut Fields) -> Result<SecretString, ApiError> {
    let passphrase = fields.take_string("passphrase")?;
    if passphrase.is_empty() {
        return Err(ApiError::bad_request("passphrase must not be empty"));
    }
    Ok(SecretString::from(passphrase))
}

fn archive(parts: backup::Parts, disposition: &'static str) -> Response {
    let parts = stream::unfold(parts, |mut parts| async move { parts.recv().await.map(|part| (part, parts)) });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(parts)).into_response()
}
