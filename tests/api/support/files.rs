//! A web server with files, for sends by URL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio_util::sync::{CancellationToken, DropGuard};

type Shared = Arc<Mutex<HashMap<String, (&'static str, Bytes)>>>;

/// The server; ends when dropped.
pub(crate) struct Files {
    port: u16,
    files: Shared,
    _stop: DropGuard,
}

impl Files {
    pub(crate) async fn start() -> Self {
        let files = Shared::default();
        let router = Router::new().fallback(serve).with_state(Arc::clone(&files));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let token = CancellationToken::new();
        let stopped = token.clone();
        #[expect(clippy::disallowed_methods, reason = "the server's owner is its drop guard")]
        tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await.unwrap();
        });
        Self { port, files, _stop: token.drop_guard() }
    }

    /// Serves these bytes under this name; gives the URL.
    pub(crate) fn put(&self, name: &str, kind: &'static str, bytes: impl Into<Bytes>) -> String {
        self.files.lock().unwrap().insert(format!("/{name}"), (kind, bytes.into()));
        self.url(name)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }
}

async fn serve(State(files): State<Shared>, uri: Uri) -> Response {
    let found = files.lock().unwrap().get(uri.path()).cloned();
    match found {
        Some((kind, bytes)) => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
        None if uri.path() == "/slow" => std::future::pending().await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A picture of this size in this format.
pub(crate) fn picture(width: u32, height: u32, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixel = |x: u32, y: u32| image::Rgb([x, y, x ^ y].map(|value| u8::try_from(value % 256).unwrap()));
    image::DynamicImage::ImageRgb8(image::RgbImage::from_fn(width, height, pixel))
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

/// An Ogg page that says it is Opus; nothing follows it.
pub(crate) fn voice() -> Vec<u8> {
    let mut bytes =
        b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01\x38\x01\x80\xbb\0\0".to_vec();
    bytes.extend([0, 0, 0]);
    bytes
}
