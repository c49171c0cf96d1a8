//! The media hosts: encrypted objects by path, uploaded by companions and phones. Pictures too.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::server::Core;

/// Largest upload: WhatsApp's own limit for documents is 2 GiB; tests need less.
const MAX_UPLOAD_BYTES: usize = 128 << 20;

pub(crate) fn router() -> Router<Arc<Core>> {
    Router::new()
        .route("/mms/{kind}/{token}", post(upload))
        .layer(DefaultBodyLimit::max(MAX_UPLOAD_BYTES))
        .fallback(download)
}

#[derive(Deserialize)]
struct Upload {
    resume: Option<String>,
}

async fn upload(
    State(core): State<Arc<Core>>,
    Path((_kind, token)): Path<(String, String)>,
    Query(Upload { resume }): Query<Upload>,
    body: Bytes,
) -> Response {
    use base64::Engine as _;
    use sha2::Digest as _;
    if resume.is_some() {
        return Json(json!({"resume": "0"})).into_response();
    }
    let digest = sha2::Sha256::digest(&body);
    let expected = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
    if token.trim_end_matches('=') != expected {
        core.with(|state| state.counters.violation("an upload whose token is not the hash of its body"));
        return StatusCode::BAD_REQUEST.into_response();
    }
    core.with(|state| state.counters.media_uploads += 1);
    let path = core.put_media(body);
    Json(json!({"url": format!("https://mmg.whatsapp.net{path}"), "direct_path": path})).into_response()
}

async fn download(State(core): State<Arc<Core>>, uri: Uri, headers: HeaderMap) -> Response {
    let Some(object) = core.media(uri.path()).or_else(|| picture(&core, uri.path())) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    core.with(|state| state.counters.media_downloads += 1);
    match headers.get(header::RANGE).and_then(|range| part(range.to_str().ok()?, object.len())) {
        Some((first, last)) => {
            let range = format!("bytes {first}-{last}/{}", object.len());
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], object.slice(first..=last)).into_response()
        }
        None => object.into_response(),
    }
}

/// First and last byte of a single range that lies within the object.
fn part(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last =
        if last.is_empty() { length.checked_sub(1)? } else { last.parse::<usize>().ok()?.min(length.checked_sub(1)?) };
    (first <= last).then_some((first, last))
}

fn picture(core: &Core, path: &str) -> Option<Bytes> {
    let id = path.strip_prefix("/pictures/")?.strip_suffix(".jpg")?;
    core.with(|state| {
        let mut pictures = state.accounts.values().filter_map(|account| account.picture.as_ref());
        pictures.find(|(known, _)| known == id).map(|(_, image)| Bytes::from(image.clone()))
    })
}
