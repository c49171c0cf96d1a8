//! The files below `/assets`, which are part of the program: nothing is read from disk and nothing from another host.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

use super::error::ApiError;

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path below `/assets`, type, content. The paths are those of wa-gateway 4.7.1, the contents are ours: what was a
/// library there (`qrcode.min.js`) draws the modules that the gateway has worked out.
const FILES: [(&str, &str, &str); 5] = [
    ("style.css", CSS, include_str!("asset/style.css")),
    ("icon.svg", SVG, include_str!("asset/icon.svg")),
    ("js/script.js", SCRIPT, include_str!("asset/script.js")),
    ("js/create-session.js", SCRIPT, include_str!("asset/create-session.js")),
    ("js/qrcode.min.js", SCRIPT, include_str!("asset/qrcode.js")),
];

/// `GET /assets/{path}`.
pub(super) async fn file(path: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, ApiError> {
    let Path(path) = path.map_err(|_not_utf8| ApiError::route_not_found())?;
    let known = FILES.iter().find(|(name, ..)| *name == path);
    let (_, kind, content) = known.ok_or_else(ApiError::route_not_found)?;
    let tag = format!("\"{}\"", &hex::encode(Sha256::digest(content))[..16]);
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if asked.is_some_and(|asked| asked.split(',').any(|known| known.trim() == tag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, *kind)], *content).into_response()
    };
    let headers = response.headers_mut();
    // Asked again each time, so that an update of the gateway never mixes old scripts with new pages.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::ETAG, HeaderValue::try_from(tag).map_err(ApiError::internal)?);
    Ok(response)
}
