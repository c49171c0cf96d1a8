//! The endpoints below `/keys`: who may call. For the holder of the master key only.

use axum::Json;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::auth::KeyAdmin;
use super::body::iso8601;
use super::error::ApiError;
use super::extract::{self, Fields};
use crate::keys::{Grant, Spec};

/// A key to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description: the handler reads fields one by one")]
pub(super) struct WantedKey {
    /// What it is called: 1 to 64 letters, digits, `.`, `_` or `-`.
    name: String,
    /// Names of sessions, or beginnings of names with `*` behind; absent: all.
    sessions: Option<Vec<String>>,
    /// Some of `read`, `send`, `manage`; absent: all three.
    scopes: Option<Vec<String>>,
}

/// All keys but the master key.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyList {
    data: Vec<KeyRow>,
}

/// The key that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyMade {
    data: KeyRow,
}

/// One key.
#[derive(Serialize, ToSchema)]
struct KeyRow {
    name: String,
    /// The key itself, in the answer to its making and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// `*` alone: all.
    sessions: Vec<String>,
    scopes: Vec<&'static str>,
    /// `api` or `file`.
    source: &'static str,
    /// UTC, milliseconds, `Z`; null for a key of `KEYS_FILE`.
    created_at: Option<String>,
}

impl KeyRow {
    fn new(grant: &Grant, key: Option<&str>) -> Self {
        Self {
            name: grant.spec.name.clone(),
            key: key.map(str::to_owned),
            sessions: grant.spec.sessions.words().into_iter().map(str::to_owned).collect(),
            scopes: grant.spec.scopes.words(),
            source: grant.origin.as_str(),
            created_at: grant.created_at.map(iso8601),
        }
    }
}

/// A key is gone.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyDeleted {
    success: bool,
    message: String,
    data: KeyDeletion,
}

/// Which, and when.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KeyDeletion {
    name: String,
    /// UTC, milliseconds, `Z`.
    deleted_at: String,
}

/// `GET /keys`.
pub(super) async fn list(admin: KeyAdmin) -> Response {
    Json(KeyList { data: admin.keys().list().iter().map(|grant| KeyRow::new(grant, None)).collect() }).into_response()
}

/// `POST /keys`: the only time that a key is told.
pub(super) async fn create(admin: KeyAdmin, fields: Fields) -> Result<Response, ApiError> {
    let name = fields.string("name")?;
    let (sessions, scopes) = (texts(&fields, "sessions")?, texts(&fields, "scopes")?);
    let spec = Spec::parse(&name, sessions.as_deref(), scopes.as_deref())
        .map_err(|error| fields.invalid(error.member(), &error.to_string()))?;
    let (secret, grant) = admin.keys().create(spec).await.map_err(|error| ApiError::from_key(&name, error))?;
    admin.audit("key created", &name);
    Ok(Json(KeyMade { data: KeyRow::new(&grant, Some(secret.expose_secret())) }).into_response())
}

/// `DELETE /keys/{name}`.
pub(super) async fn delete(admin: KeyAdmin, uri: Uri) -> Result<Response, ApiError> {
    let name = extract::decode(uri.path().strip_prefix("/keys/").unwrap_or_default());
    admin.keys().remove(&name).await.map_err(|error| ApiError::from_key(&name, error))?;
    admin.audit("key removed", &name);
    let message = format!("Key '{name}' deleted successfully");
    let data = KeyDeletion { name, deleted_at: iso8601(Utc::now()) };
    Ok(Json(KeyDeleted { success: true, message, data }).into_response())
}

/// A list of texts, or one alone; `None`: it is absent or null.
fn texts(fields: &Fields, name: &str) -> Result<Option<Vec<String>>, ApiError> {
    if !fields.has(name) || fields.is_null(name) {
        return Ok(None);
    }
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| fields.expected("string", value, name));
    fields.list(name)?.iter().map(text).collect::<Result<_, _>>().map(Some)
}
