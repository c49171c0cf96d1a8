//! Control routes of what contacts send, get and show besides texts: any message, media, profiles; `control` documents
//! them.

use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use whatsapp_rust::waproto::codec;

use super::api::{Answer, Number, Refused, Shared};
use crate::phone::{Media, MediaKind, Received};
use crate::server::Core;
use crate::stanza;

/// Largest request: base64 of a 64 MiB file.
const MAX_BODY_BYTES: usize = 96 << 20;

pub(crate) fn router() -> Router<Arc<Core>> {
    Router::new()
        .route("/link", post(link))
        .route("/send", post(send))
        .route("/send-media", post(send_media))
        .route("/inbox", get(inbox))
        .route("/download", get(download))
        .route("/forget-media", post(forget_media))
        .route("/picture", post(picture))
        .route("/about", post(about))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

#[derive(Deserialize)]
struct Link {
    code: String,
    phone: String,
}

async fn link(State(core): Shared, Json(Link { code, phone }): Json<Link>) -> Answer {
    let jid = core.link(&code, &phone).await?;
    Ok(Json(json!({"jid": jid})))
}

#[derive(Deserialize)]
struct Send {
    phone: String,
    to: String,
    message: String,
}

async fn send(State(core): Shared, Json(Send { phone, to, message }): Json<Send>) -> Answer {
    let message = codec::message_decode(&STANDARD.decode(message)?)?;
    let id = core.phone(&phone)?.sends_message(&to, message).await?;
    Ok(Json(json!({"id": id})))
}

#[derive(Deserialize)]
struct SendMedia {
    phone: String,
    to: String,
    kind: MediaKind,
    mimetype: String,
    base64: String,
    caption: Option<String>,
    file_name: Option<String>,
    seconds: Option<u32>,
}

async fn send_media(State(core): Shared, Json(asked): Json<SendMedia>) -> Answer {
    let bytes = STANDARD.decode(&asked.base64)?;
    let media = Media {
        caption: asked.caption,
        file_name: asked.file_name,
        seconds: asked.seconds,
        ..Media::new(asked.kind, bytes, &asked.mimetype)
    };
    let id = core.phone(&asked.phone)?.sends_media(&asked.to, &media).await?;
    Ok(Json(json!({"id": id})))
}

async fn inbox(State(core): Shared, Query(Number { phone }): Query<Number>) -> Answer {
    let told = core.phone(&phone)?.inbox().iter().map(tell).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Json(Value::Array(told)))
}

/// A received message, with the whole of it encoded, for programs that know the protocol buffers.
fn tell(received: &Received) -> anyhow::Result<Value> {
    let mut told = serde_json::to_value(received)?;
    told["media"] = serde_json::to_value(received.media())?;
    told["message"] = STANDARD.encode(codec::message_to_vec(&received.message)).into();
    Ok(told)
}

#[derive(Deserialize)]
struct Download {
    phone: String,
    id: String,
}

async fn download(State(core): Shared, Query(Download { phone, id }): Query<Download>) -> Result<Response, Refused> {
    let phone = core.phone(&phone)?;
    let received = phone.inbox().into_iter().find(|received| received.id == id).context("no such message")?;
    let bytes = tokio::task::spawn_blocking(move || phone.download(&received)).await??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

#[derive(Deserialize)]
struct Forget {
    direct_path: String,
}

async fn forget_media(State(core): Shared, Json(Forget { direct_path }): Json<Forget>) -> Answer {
    let forgotten = core.with_media(|media| media.forget(&direct_path));
    Ok(Json(json!({"forgotten": forgotten})))
}

#[derive(Deserialize)]
struct Picture {
    phone: String,
    group: Option<String>,
    base64: Option<String>,
    hidden: Option<bool>,
}

async fn picture(State(core): Shared, Json(asked): Json<Picture>) -> Answer {
    let phone = core.phone(&asked.phone)?;
    if let Some(hidden) = asked.hidden {
        phone.hide_picture(hidden).await?;
        return Ok(Json(json!({})));
    }
    let image = asked.base64.map(|image| STANDARD.decode(image)).transpose()?;
    let id = match asked.group {
        Some(group) => phone.set_group_picture(&group, image.as_deref()).await?,
        None => phone.set_picture(image.as_deref()).await?,
    };
    Ok(Json(json!({"id": id})))
}

#[derive(Deserialize)]
struct About {
    phone: String,
    text: Option<String>,
    t: Option<u64>,
    hidden: Option<bool>,
}

async fn about(State(core): Shared, Json(asked): Json<About>) -> Answer {
    let phone = core.phone(&asked.phone)?;
    if let Some(text) = asked.text {
        phone.set_about(&text, asked.t.unwrap_or_else(stanza::now)).await?;
    }
    if let Some(hidden) = asked.hidden {
        phone.hide_about(hidden).await?;
    }
    Ok(Json(json!({})))
}
