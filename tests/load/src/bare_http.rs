//! `bare-http`: the least that an axum handler can be, returning the bytes that the gateway returned.

use std::path::Path;

use anyhow::Context as _;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use serde_json::json;
use tokio::net::TcpListener;

use crate::say;

/// What the gateway answers to `GET /health`.
pub(crate) const HEALTH: &[u8] = br#"{"status":"ok"}"#;

pub(crate) async fn run(list: &Path) -> anyhow::Result<bool> {
    let list: Bytes = std::fs::read(list).context("the answer to repeat")?.into();
    let router = Router::new()
        .route("/health", get(async || ([(CONTENT_TYPE, "application/json")], HEALTH)))
        .route("/session", get(async move || ([(CONTENT_TYPE, "application/json")], list.clone())));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    say(&json!({"address": listener.local_addr()?.to_string()}).to_string());
    // A socket that is gone shows at its first read.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router).await?;
    Ok(true)
}
