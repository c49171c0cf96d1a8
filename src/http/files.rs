//! Received files below `/media`, for everybody who has the link: wa-gateway 4.7.1 serves them without a key. With
//! `MEDIA_REQUIRE_KEY` each caller sees those of its own sessions.
//!
//! What strangers sent must not run on this origin and must not lead out of the folder. Read-only, no listing.

use std::path::{Path as FilePath, PathBuf};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use mime_guess::mime;
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

use super::access::Files;
use super::error::ApiError;
use crate::media::is_private;
use Range::{Forward, Last};

/// What a browser may show in place; anything else is downloaded.
const SHOWN: &[&str] =
    &["image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp", "application/pdf", "text/plain"];

/// `GET /media/{name}`
pub(super) async fn media(files: Files, name: Result<Path<String>, PathRejection>, mut request: Request) -> Response {
    let found = match name {
        Ok(Path(name)) => seen(files, name).await,
        Err(_not_utf8) => None,
    };
    let Some((path, size)) = found else { return ApiError::route_not_found().into_response() };
    if is_from_the_future(request.headers()) {
        request.headers_mut().remove(header::IF_MODIFIED_SINCE);
    }
    let range = usable_range(request.headers());
    match range {
        None => drop(request.headers_mut().remove(header::RANGE)),
        // RFC 9110: the whole file, where tower-http finds nothing to answer.
        Some(Last(bytes)) if bytes >= size && size > 0 => {
            request.headers_mut().insert(header::RANGE, HeaderValue::from_static("bytes=0-"));
        }
        Some(Last(_) | Forward) => {}
    }
    let mut response = if range.is_some() && size == 0 {
        // tower-http 0.6 answers a part of nothing.
        not_satisfiable(HeaderValue::from_static("bytes */0"))
    } else {
        let Ok(served) = ServeFile::new(&path).oneshot(request).await;
        served.into_response()
    };
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
            if let Some(size) = response.headers_mut().remove(header::CONTENT_RANGE) {
                response = not_satisfiable(size);
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

/// Whether the client claims a copy that nobody can have yet; wa-gateway 4.7.1 sends the file.
fn is_from_the_future(headers: &HeaderMap) -> bool {
    let date = headers.get(header::IF_MODIFIED_SINCE).and_then(|date| date.to_str().ok());
    date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()).is_some_and(|date| date > Utc::now())
}

fn not_satisfiable(size: HeaderValue) -> Response {
    let refused = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "Requested range not satisfiable");
    let mut response = refused.into_response();
    response.headers_mut().insert(header::CONTENT_RANGE, size);
    response
}

/// The file of this name, when it is there and the caller may see it: else there is none.
async fn seen(files: Files, name: String) -> Option<(PathBuf, u64)> {
    let asked = name.trim_start_matches('/').to_owned();
    let folder = tokio::task::spawn_blocking(move || files.folder_of(&asked)).await.ok()??;
    find(folder.path(), &name).await
}

/// The regular file of this name inside the folder, and its size; unfinished ones and our own notes don't count.
async fn find(folder: &FilePath, name: &str) -> Option<(PathBuf, u64)> {
    // wa-gateway 4.7.1 takes several slashes for one; the name stays below the folder.
    let name = name.trim_start_matches('/');
    if !name.split('/').all(|part| !part.is_empty() && !matches!(part, "." | "..") && !part.contains(['\\', '\0'])) {
        return None;
    }
    let folder = tokio::fs::canonicalize(folder).await.ok()?;
    // Resolved, so that a link can't lead out of the folder or to a private file in it.
    let path = tokio::fs::canonicalize(folder.join(name)).await.ok()?;
    let inside = path.strip_prefix(&folder).ok()?;
    let is_private = inside.iter().any(|part| is_private(part.as_encoded_bytes()));
    let metadata = tokio::fs::metadata(&path).await.ok()?;
    (metadata.is_file() && !is_private).then_some((path, metadata.len()))
}

/// A range that may be answered by a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// From some byte on.
    Forward,
    /// So many at the end.
    Last(u64),
}

/// The one range that is asked for. RFC 9110 lets a server answer any other wish by the whole file.
fn usable_range(headers: &HeaderMap) -> Option<Range> {
    let mut ranges = headers.get_all(header::RANGE).iter();
    // The whole file is right whatever the validator says.
    let (Some(range), None, None) = (ranges.next(), ranges.next(), headers.get(header::IF_RANGE)) else { return None };
    let (first, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok());
    match (number(first)?, number(last)?) {
        (Some(first), Some(last)) if last < first => None,
        (Some(_), Some(_)) => Some(Forward),
        (Some(_), None) if last.is_empty() => Some(Forward),
        (None, Some(last)) if first.is_empty() => Some(Last(last)),
        _ => None,
    }
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
    fn a_copy_from_the_future_is_not_believed() {
        for (date, is_false) in
            [("Wed, 21 Oct 2099 07:28:00 GMT", true), ("Wed, 21 Oct 2015 07:28:00 GMT", false), ("soon", false)]
        {
            let headers = HeaderMap::from_iter([(header::IF_MODIFIED_SINCE, HeaderValue::from_static(date))]);
            assert_eq!(is_from_the_future(&headers), is_false, "{date}");
        }
    }

    #[tokio::test]
    async fn slashes_in_front_do_not_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let media = folder.path().join("media");
        std::fs::create_dir(&media).unwrap();
        std::fs::write(media.join("a.jpg"), "abc").unwrap();
        std::fs::write(folder.path().join("secret"), "outside").unwrap();
        let outside = folder.path().join("secret").display().to_string();
        for (name, size) in
            [("a.jpg", Some(3)), ("/a.jpg", Some(3)), ("//a.jpg", Some(3)), (outside.as_str(), None), ("/", None)]
        {
            assert_eq!(find(&media, name).await.map(|(_, size)| size), size, "{name}");
        }
    }

    #[test]
    fn one_range_of_bytes_is_used_and_others_are_ignored() {
        for (range, used) in [
            ("bytes=0-0", Some(Forward)),
            ("bytes=-3", Some(Last(3))),
            ("bytes=5-", Some(Forward)),
            ("bytes=9999-", Some(Forward)),
            ("bytes=-0", Some(Last(0))),
            ("bytes=2-1", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=99999999999999999999-", None),
            ("bytes=0-99999999999999999999", None),
            ("bytes=0-1,3-4", None),
            ("BYTES=1-2", None),
            ("lines=0-1", None),
            ("bytes", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))]);
            assert_eq!(usable_range(&headers), used, "{range}");
        }
        let both = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, "\"x\"")];
        let headers = both.map(|(name, value)| (name, HeaderValue::from_static(value)));
        assert_eq!(usable_range(&HeaderMap::from_iter(headers)), None);
    }
}
