//! What the owner of the machine asks: is it alive, is it ready, its numbers, a backup.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::body::Health;
use super::error::ApiError;
use super::extract::Fields;
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
pub(super) async fn ready(State(state): State<AppState>) -> Response {
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
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, Page::CONTENT_TYPE)], state.health.page().await).into_response()
}

/// What encrypts a backup.
#[derive(ToSchema)]
pub(super) struct BackupBody {
    /// Without it nobody opens the file.
    #[expect(dead_code, reason = "described only: it is read as a secret")]
    passphrase: String,
}

/// `POST /backup`: an encrypted archive of the whole store.
pub(super) async fn backup(State(state): State<AppState>, mut fields: Fields) -> Result<Response, ApiError> {
    let passphrase = fields.take_string("passphrase")?;
    if passphrase.is_empty() {
        return Err(ApiError::bad_request("passphrase must not be empty"));
    }
    let parts = state.backup.begin(SecretString::from(passphrase)).await?;
    let parts = stream::unfold(parts, |mut parts| async move { parts.recv().await.map(|part| (part, parts)) });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"wa-gateway.backup\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(parts)).into_response())
}
