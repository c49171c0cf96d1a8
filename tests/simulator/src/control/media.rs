//! The media hosts over HTTP: uploads with a token of the media connection, downloads in ranges. Pictures too.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::json;

use crate::counters::ClientKind;
use crate::fault::Fault;
use crate::media::{Intake, Object, bare};
use crate::server::Core;
use crate::state::Sender;

/// Largest upload: WhatsApp's own limit for documents is 2 GiB; tests need less.
const MAX_UPLOAD_BYTES: u64 = 256 << 20;
/// Bytes that a download reads at once.
const PART_BYTES: u64 = 256 << 10;

pub(crate) fn router() -> Router<Arc<Core>> {
    Router::new().route("/mms/{kind}/{token}", post(upload)).fallback(download)
}

/// A value of the query. Clients append `?auth=…` to paths that have a query of their own.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let mut pairs = uri.query()?.split(['&', '?']).filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Who asks: by the token of its media connection.
fn client(core: &Core, uri: &Uri) -> Option<Sender> {
    let auth = parameter(uri, "auth")?;
    core.with(|state| state.media_tokens.get(auth).cloned())
}

/// Waits and refuses as faults demand.
async fn strike(
    core: &Core,
    client: Option<&Sender>,
    refusal: impl Fn(&Fault) -> Option<u16>,
) -> Result<(), StatusCode> {
    let device = client.map(|client| (client.address.number.as_str(), client.address.device));
    let slow = |fault: &Fault| if let Fault::SlowMedia { delay } = fault { Some(*delay) } else { None };
    let (delay, status) = core.with(|state| {
        let struck = (state.faults.strike(device, slow), state.faults.strike(device, refusal));
        state.counters.faults_hit += u64::from(struck.0.is_some()) + u64::from(struck.1.is_some());
        state.counters.media_refused += u64::from(struck.1.is_some());
        struck
    });
    tokio::select! {
        () = tokio::time::sleep(delay.unwrap_or(Duration::ZERO)) => {}
        () = core.token.cancelled() => return Err(StatusCode::SERVICE_UNAVAILABLE),
    }
    match status {
        Some(status) => Err(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
        None => Ok(()),
    }
}

async fn upload(
    State(core): State<Arc<Core>>,
    Path((kind, token)): Path<(String, String)>,
    uri: Uri,
    body: Body,
) -> Result<Response, StatusCode> {
    let client = client(&core, &uri);
    strike(&core, client.as_ref(), |fault| if let Fault::RefuseUploads { code } = fault { Some(*code) } else { None })
        .await?;
    let wrong = |what: &str, status| {
        core.with(|state| state.counters.violation(what));
        Err(status)
    };
    let Some(client) = client else {
        return wrong("an upload without a token of the media connection", StatusCode::UNAUTHORIZED);
    };
    let token = token.trim_end_matches('=');
    if parameter(&uri, "token").map(|given| given.trim_end_matches("%3D").trim_end_matches('=')) != Some(token) {
        return wrong("an upload whose tokens differ", StatusCode::BAD_REQUEST);
    }
    if parameter(&uri, "resume").is_some() {
        let known = URL_SAFE_NO_PAD.decode(token).ok().and_then(|hash| core.with_media(|media| media.find(&hash)));
        return Ok(match known {
            Some(path) => Json(json!({"resume": "complete", "url": url(&path), "direct_path": path})).into_response(),
            None => Json(json!({"resume": "0"})).into_response(),
        });
    }
    if parameter(&uri, "file_offset").is_some_and(|offset| offset != "0") {
        return wrong("an upload that continues what was never begun", StatusCode::BAD_REQUEST);
    }
    let mut intake = Intake::default();
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        // Straight into the file: parts are small, and the page cache takes them.
        intake.take(&part.map_err(|_| StatusCode::BAD_REQUEST)?).map_err(|_| StatusCode::INSUFFICIENT_STORAGE)?;
        if intake.length() > MAX_UPLOAD_BYTES {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
    if intake.length() == 0 {
        // Baileys 7 (`uploadWithNodeHttp`) may measure its file before that is written out. It goes on to the next host.
        return Err(StatusCode::BAD_REQUEST);
    }
    let object = intake.finish(&kind);
    if token != URL_SAFE_NO_PAD.encode(object.sha256) {
        let what =
            format!("an upload of {:?} whose token is not the hash of its {} bytes", client.client, object.length);
        return wrong(&what, StatusCode::BAD_REQUEST);
    }
    core.with(|state| {
        state.counters.media_uploads += 1;
        state.counters.media_upload_bytes += object.length;
        state.note(&format!("media-upload-{kind}"), client.client);
    });
    let path = core.with_media(|media| media.put(object));
    Ok(Json(json!({"url": url(&path), "direct_path": path})).into_response())
}

fn url(path: &str) -> String {
    format!("https://mmg.whatsapp.net{path}")
}

async fn download(State(core): State<Arc<Core>>, uri: Uri, headers: HeaderMap) -> Result<Response, StatusCode> {
    let client = client(&core, &uri);
    let refusal = |fault: &Fault| match fault {
        Fault::RefuseDownloads { code, path } if uri.path().starts_with(bare(path)) => Some(*code),
        _ => None,
    };
    strike(&core, client.as_ref(), refusal).await?;
    if let Some(picture) = core.picture(uri.path()) {
        core.with(|state| state.counters.picture_downloads += 1);
        return Ok(([(header::CONTENT_TYPE, "image/jpeg")], picture).into_response());
    }
    let object = core.with_media(|media| media.at(uri.path())).ok_or(StatusCode::NOT_FOUND)?;
    // Whoever names the object's hash must name it right: whatsapp-rust as `token`, WhatsApp Web as `hash`.
    let named = parameter(&uri, "token").or_else(|| parameter(&uri, "hash"));
    if named
        .is_some_and(|hash| hash.trim_end_matches("%3D").trim_end_matches('=') != URL_SAFE_NO_PAD.encode(object.sha256))
    {
        core.with(|state| state.counters.violation("a download under another object's hash"));
        return Err(StatusCode::FORBIDDEN);
    }
    // Baileys sends no token, but an origin.
    let kind = match &client {
        Some(client) => Some(client.client),
        None => headers.contains_key(header::ORIGIN).then_some(ClientKind::Baileys),
    };
    core.with(|state| {
        state.counters.media_downloads += 1;
        if let (Some(kind), "image" | "video" | "audio" | "document") = (kind, object.kind.as_str()) {
            state.note(&format!("media-download-{}", object.kind), kind);
        }
    });
    let Some(asked) = headers.get(header::RANGE) else {
        let length = object.length;
        return Ok(([(header::CONTENT_LENGTH, length)], content(object, 0, length)).into_response());
    };
    let Some((first, last)) = asked.to_str().ok().and_then(|range| part(range, object.length)) else {
        return Err(StatusCode::RANGE_NOT_SATISFIABLE);
    };
    let range = format!("bytes {first}-{last}/{}", object.length);
    let headers = [(header::CONTENT_RANGE, range), (header::CONTENT_LENGTH, (last - first + 1).to_string())];
    Ok((StatusCode::PARTIAL_CONTENT, headers, content(object, first, last + 1)).into_response())
}

/// A part of an object as it is asked for, never all of it in memory.
fn content(object: Object, from: u64, to: u64) -> Body {
    Body::from_stream(stream::unfold((object, from), move |(object, from)| async move {
        let length = usize::try_from(PART_BYTES.min(to - from)).unwrap_or_default();
        if length == 0 {
            return None;
        }
        let reading = object.clone();
        let read = tokio::task::spawn_blocking(move || reading.read(from, length)).await;
        let part: std::io::Result<Bytes> = read.map_err(std::io::Error::other).flatten();
        Some((part, (object, from + length as u64)))
    }))
}

/// First and last byte of a single range that begins within the object.
fn part(range: &str, length: u64) -> Option<(u64, u64)> {
    let end = length.checked_sub(1)?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let count: u64 = last.parse().ok()?;
        return (count > 0).then(|| (length.saturating_sub(count), end));
    }
    let first: u64 = first.parse().ok()?;
    let last = if last.is_empty() { end } else { last.parse::<u64>().ok()?.min(end) };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_within_the_object() {
        assert_eq!(part("bytes=0-3", 10), Some((0, 3)));
        assert_eq!(part("bytes=4-", 10), Some((4, 9)));
        assert_eq!(part("bytes=4-99", 10), Some((4, 9)));
        assert_eq!(part("bytes=-3", 10), Some((7, 9)));
        for wrong in ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=a-b", "lines=1-2"] {
            assert_eq!(part(wrong, 10), None, "{wrong}");
        }
        assert_eq!(part("bytes=0-", 0), None);
    }

    #[test]
    fn parameters_are_found_behind_a_second_question_mark() {
        let uri: Uri = "/v/a.enc?ccb=11-4?auth=x&token=y".parse().unwrap();
        assert_eq!((parameter(&uri, "auth"), parameter(&uri, "token")), (Some("x"), Some("y")));
        assert_eq!(parameter(&uri, "resume"), None);
    }
}
