//! Received files below `/media`, for everybody who has the link: wa-gateway 4.7.1 serves them without a key.
//!
//! What strangers sent must not run on this origin and must not lead out of the folder. Read-only, no listing.

use std::path::{Path as FilePath, PathBuf};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mime_guess::mime;
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

use super::AppState;
use super::error::ApiError;

/// What a browser may show in place; anything else is downloaded.
const SHOWN: &[&str] =
    &["image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp", "application/pdf", "text/plain"];

/// `GET /media/{name}`
pub(super) async fn media(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
    mut request: Request,
) -> Response {
    let found = match name {
        Ok(Path(name)) => find(&state.media_dir, &name).await,
        Err(_not_utf8) => None,
    };
    let Some(path) = found else { return ApiError::route_not_found().into_response() };
    if !has_usable_range(request.headers()) {
        request.headers_mut().remove(header::RANGE);
    }
    let Ok(served) = ServeFile::new(&path).oneshot(request).await;
    let mut response = served.into_response();
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            let (kind, shown) = kind_of(&path);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            if !shown {
                response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
            }
        }
        StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED => {}
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let size = response.headers_mut().remove(header::CONTENT_RANGE);
            response =
                ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "Requested range not satisfiable").into_response();
            if let Some(size) = size {
                response.headers_mut().insert(header::CONTENT_RANGE, size);
            }
        }
        // It went between the look and the opening.
        StatusCode::NOT_FOUND => response = ApiError::route_not_found().into_response(),
        _ => response = ApiError::internal("a received file can't be read").into_response(),
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    response
}

/// The regular file of this name inside the folder; hidden ones, which unfinished files are too, don't count.
async fn find(folder: &FilePath, name: &str) -> Option<PathBuf> {
    if !name.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0'])) {
        return None;
    }
    let folder = tokio::fs::canonicalize(folder).await.ok()?;
    // Resolved, so that a link can't lead out of the folder or to a hidden file in it.
    let path = tokio::fs::canonicalize(folder.join(name)).await.ok()?;
    let inside = path.strip_prefix(&folder).ok()?;
    let is_hidden = inside.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
    let is_file = tokio::fs::metadata(&path).await.ok()?.is_file();
    (is_file && !is_hidden).then_some(path)
}

/// Whether there is one range that we may answer by a part. RFC 9110 lets a server answer any other by the whole file.
fn has_usable_range(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(header::RANGE).iter();
    // The whole file is right whatever the validator says.
    let (Some(range), None, None) = (ranges.next(), ranges.next(), headers.get(header::IF_RANGE)) else { return false };
    let Some((unit, range)) = range.to_str().ok().and_then(|range| range.split_once('=')) else { return false };
    let Some((first, last)) = range.split_once('-') else { return false };
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let backwards = matches!((first.parse::<u64>(), last.parse::<u64>()), (Ok(first), Ok(last)) if last < first);
    unit == "bytes" && number(first) && number(last) && !(first.is_empty() && last.is_empty()) && !backwards
}

/// The content type by the name's extension, and whether a browser may show it in place.
fn kind_of(path: &FilePath) -> (HeaderValue, bool) {
    let guess = mime_guess::from_path(path).first_or(mime::APPLICATION_OCTET_STREAM);
    let essence = guess.essence_str();
    let plays = matches!(guess.type_(), mime::AUDIO | mime::VIDEO);
    if essence == "text/plain" {
        return (HeaderValue::from_static("text/plain; charset=utf-8"), true);
    }
    // Pages, pictures with scripts, scripts and styles are bytes to be saved, whatever they are called.
    let passive = plays
        || SHOWN.contains(&essence)
        || essence == "text/csv"
        || (guess.type_() == mime::APPLICATION && !essence.ends_with("xml") && !essence.contains("script"));
    let told = if passive { essence } else { mime::APPLICATION_OCTET_STREAM.essence_str() };
    let told = HeaderValue::from_str(told).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    (told, plays || SHOWN.contains(&essence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_follow_the_extension_and_nothing_active_is_shown() {
        for (name, kind, shown) in [
            ("a.jpg", "image/jpeg", true),
            ("a.JPG", "image/jpeg", true),
            ("a.png", "image/png", true),
            ("a.webp", "image/webp", true),
            ("a.mp3", "audio/mpeg", true),
            ("a.mp4", "video/mp4", true),
            ("a.pdf", "application/pdf", true),
            ("a.txt", "text/plain; charset=utf-8", true),
            ("a.csv", "text/csv", false),
            ("a.zip", "application/zip", false),
            ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", false),
            ("a", "application/octet-stream", false),
            ("a.undefined", "application/octet-stream", false),
            ("a.html", "application/octet-stream", false),
            ("a.htm", "application/octet-stream", false),
            ("a.xhtml", "application/octet-stream", false),
            ("a.svg", "application/octet-stream", false),
            ("a.xml", "application/octet-stream", false),
            ("a.js", "application/octet-stream", false),
            ("a.mjs", "application/octet-stream", false),
            ("a.css", "application/octet-stream", false),
        ] {
            let (told, in_place) = kind_of(FilePath::new(name));
            assert_eq!((told.to_str().unwrap(), in_place), (kind, shown), "{name}");
        }
    }

    #[test]
    fn one_range_of_bytes_is_used_and_others_are_ignored() {
        for (range, used) in [
            ("bytes=0-0", true),
            ("bytes=-3", true),
            ("bytes=5-", true),
            ("BYTES=1-2", false),
            ("bytes=9999-", true),
            ("bytes=-0", true),
            ("bytes=2-1", false),
            ("bytes=-", false),
            ("bytes=a-b", false),
            ("bytes=+1-2", false),
            ("bytes=0-1,3-4", false),
            ("lines=0-1", false),
            ("bytes", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))]);
            assert_eq!(has_usable_range(&headers), used, "{range}");
        }
        let both = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, "\"x\"")];
        let headers = both.map(|(name, value)| (name, HeaderValue::from_static(value)));
        assert!(!has_usable_range(&HeaderMap::from_iter(headers)));
    }
}
