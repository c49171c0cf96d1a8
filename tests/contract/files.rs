//! The media server of the recorded sends.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A picture of one point: 70 bytes.
const PICTURE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// Serves until the guard is dropped; its `host:port`.
pub(crate) async fn serve() -> (String, DropGuard) {
    let picture = || async { ([(header::CONTENT_TYPE, "image/png")], STANDARD.decode(PICTURE).unwrap()) };
    let video = || async {
        let mut bytes = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".to_vec();
        bytes.resize(64, 0);
        ([(header::CONTENT_TYPE, "video/mp4")], bytes)
    };
    let router = Router::new()
        .route("/a.png", get(picture))
        .route("/d.pdf", get(|| async { ([(header::CONTENT_TYPE, "application/pdf")], "%PDF-1.4 fake") }))
        .route("/v.mp4", get(video))
        .route("/page.html", get(|| async { ([(header::CONTENT_TYPE, "text/html")], "<html>x</html>\n") }))
        .route("/redir", get(|| async { Redirect::temporary("/a.png") }))
        .route("/500", get(|| async { StatusCode::INTERNAL_SERVER_ERROR.into_response() }))
        .route("/hang", get(std::future::pending::<StatusCode>));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let token = CancellationToken::new();
    let stopped = token.clone();
    #[expect(clippy::disallowed_methods, reason = "the server's owner is its drop guard")]
    tokio::spawn(async move {
        tokio::select! {
            ended = axum::serve(listener, router) => ended.unwrap(),
            () = stopped.cancelled() => {}
        }
    });
    (address, token.drop_guard())
}
