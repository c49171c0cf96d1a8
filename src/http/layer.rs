//! What happens to every request, whatever its route: CORS, log, panics, size of the head, time.
//!
//! Functions around the next one and no layers of axum's: each of those clones and boxes all that is within it for every
//! request.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::error::ApiError;
use super::upload;

/// Request line and headers together. wa-gateway 4.7.1: more than 16 KiB is answered 431.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The longest a request may take, body included: above every deadline that a setting can give a handler (50 s).
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Contract section 2: every answer is open to every origin, and OPTIONS is answered here for every path.
pub(super) async fn cors<F: Future<Output = Response>>(request: Request, next: impl FnOnce(Request) -> F) -> Response {
    let mut response =
        if request.method() == Method::OPTIONS { preflight(request.headers()) } else { next(request).await };
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn preflight(asked: &header::HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET,HEAD,PUT,POST,DELETE,PATCH"));
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok());
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        let echo = wanted.split(',').map(str::trim).collect::<Vec<_>>().join(",");
        if let Ok(echo) = HeaderValue::from_str(&echo) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, echo);
            headers.insert(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
        }
    }
    // wa-gateway 4.7.1 names a type for the empty body.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response
}

/// Opens the span of a request and logs its end. Neither the path nor the query is written: they hold ids and keys.
/// `key` is the name of the caller's key.
pub(super) async fn observe<F: Future<Output = Response>>(
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    let span = tracing::info_span!("request", %id, method = %request.method(), route = Empty, key = Empty);
    let started = Instant::now();
    let mut response = next(request).instrument(span.clone()).await;
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| {
        tracing::debug!(status = response.status().as_u16(), duration_ms, "request answered");
    });
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Answers for a handler that panics.
pub(super) async fn caught<F: Future<Output = Response>>(
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    // The panic's text went to standard error by the hook; it may hold what was asked for, so it is not repeated here.
    let panicked = |_panic| ApiError::internal("the handler panicked").into_response();
    AssertUnwindSafe(next(request)).catch_unwind().await.unwrap_or_else(panicked)
}

/// What every answer says to browsers, unless it says so itself.
pub(super) async fn guarded<F: Future<Output = Response>>(
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let mut response = next(request).await;
    for (name, value) in [(header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::REFERRER_POLICY, "no-referrer")] {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Marks an answer that was for the holder of a key only: it holds numbers, codes or keys, and no cache shall have it.
pub(super) fn not_kept(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Refuses large heads ourselves, so that the refusal is JSON and carries CORS; hyper's own limit lies above.
pub(super) async fn head_limit<F: Future<Output = Response>>(
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    // wa-gateway 4.7.1: its parser refuses raw bytes in the request line, without a word. A query may have what is UTF-8: there
    // are clients that put a message's text there as it is.
    if !request.uri().path().is_ascii() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let line =
        request.method().as_str().len() + request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    // Each header line has ": " and a line end, the request line two spaces, "HTTP/1.1" and a line end.
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if line + 12 + headers > MAX_HEAD_BYTES {
        return ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request header fields too large")
            .into_response();
    }
    next(request).await
}

/// Ends requests that take too long; the handler is dropped where it waits.
pub(super) async fn time_limit<F: Future<Output = Response>>(
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    // Files come over slow lines; the handler has a deadline of its own once they are there.
    let limit =
        if request.uri().path().starts_with("/message/send-") { upload::REQUEST_TIMEOUT } else { REQUEST_TIMEOUT };
    within(limit, request, next).await
}

pub(super) async fn within<F: Future<Output = Response>>(
    limit: Duration,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    match tokio::time::timeout(limit, next(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "The request took too long").into_response(),
    }
}

/// Resolves `.` and `..` segments as browsers do, encoded ones too; ids in the path can't be either.
pub(super) fn without_dots(mut request: Request) -> Request {
    let path = request.uri().path();
    let dots = |segment: &str| match segment.len() {
        1 | 3 if segment.replace("%2e", ".").replace("%2E", ".") == "." => 1,
        2 | 4 | 6 if segment.replace("%2e", ".").replace("%2E", ".") == ".." => 2,
        _ => 0,
    };
    if !path.split('/').any(|segment| dots(segment) > 0) {
        return request;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let count = dots(segment);
        if count == 2 {
            kept.pop();
        }
        if count == 0 {
            kept.push(segment);
        } else if segments.peek().is_none() {
            kept.push("");
        }
    }
    let target = match request.uri().query() {
        Some(query) => format!("/{}?{query}", kept.join("/")),
        None => format!("/{}", kept.join("/")),
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok().or(parts.path_and_query);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn dot_segments_are_resolved_before_routing() {
        for (from, to) in [
            ("/session/ok1", "/session/ok1"),
            ("/session/..", "/"),
            ("/session/../health", "/health"),
            ("/session/.%2E/health?a=..", "/health?a=.."),
            ("/session/./ok1", "/session/ok1"),
            ("/session/%2e", "/session/"),
            ("/../../session", "/session"),
            ("/session/...", "/session/..."),
            ("/session/a..b", "/session/a..b"),
            ("/session/a%2F..", "/session/a%2F.."),
        ] {
            let request = Request::builder().uri(from).body(Body::empty()).unwrap();
            assert_eq!(without_dots(request).uri().to_string(), to, "{from}");
        }
    }
}
