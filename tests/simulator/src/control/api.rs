//! The control routes; `control` documents them.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use whatsapp_rust::Jid;

use crate::fault::{FaultId, Injection, Kick};
use crate::server::Core;

pub(super) type Shared = State<Arc<Core>>;

pub(crate) fn router() -> Router<Arc<Core>> {
    Router::new()
        .route("/scan", post(scan))
        .route("/devices", get(devices))
        .route("/counters", get(async |State(core): Shared| Json(core.with(|state| state.counters.clone()))))
        .route("/features", get(async |State(core): Shared| Json(core.with(|state| state.features.clone()))))
        .route(
            "/connections",
            get(async |State(core): Shared| Json(json!({"open": core.with(|state| state.links.len())}))),
        )
        .route("/fault", post(inject).delete(clear))
        .route("/faults", delete(clear_all))
        .route("/kick", post(kick))
        .route("/unlink", post(unlink))
        .route("/group", post(group))
        .route("/account", post(account))
        .route("/say", post(say))
        .route("/typing", post(typing))
        .route("/read", post(read))
        .route("/receipts", get(receipts))
        .route("/root.pem", get(root))
        .route("/noise-root", get(async |State(core): Shared| Json(json!({"hex": hex::encode(core.identity.root)}))))
}

/// Anything that did not work, as 400 with the whole chain of causes: the callers are tests.
pub(super) struct Refused(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"message": format!("{:#}", self.0)}))).into_response()
    }
}

pub(super) type Answer = Result<Json<Value>, Refused>;

#[derive(Deserialize)]
struct Scan {
    qr: String,
    phone: String,
}

async fn scan(State(core): Shared, Json(Scan { qr, phone }): Json<Scan>) -> Answer {
    let jid = core.scan(&qr, &phone).await?;
    Ok(Json(json!({"jid": jid})))
}

#[derive(Deserialize)]
pub(super) struct Number {
    pub(super) phone: String,
}

async fn devices(State(core): Shared, Query(Number { phone }): Query<Number>) -> Answer {
    let devices = core.with(|state| super::devices(state, &phone));
    Ok(Json(serde_json::to_value(devices)?))
}

async fn inject(State(core): Shared, Json(injection): Json<Injection>) -> Answer {
    let id = core.with(|state| state.faults.add(injection));
    Ok(Json(json!({"id": id})))
}

#[derive(Deserialize)]
struct Fault {
    id: u64,
}

async fn clear(State(core): Shared, Query(Fault { id }): Query<Fault>) -> Answer {
    core.with(|state| state.faults.clear(FaultId(id)));
    Ok(Json(json!({})))
}

async fn clear_all(State(core): Shared) -> Answer {
    core.with(|state| state.faults.clear_all());
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Kicked {
    phone: String,
    device: u16,
    #[serde(flatten)]
    how: Kick,
}

async fn kick(State(core): Shared, Json(Kicked { phone, device, how }): Json<Kicked>) -> Answer {
    core.with(|state| super::kick(state, &phone, device, how));
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Companion {
    phone: String,
    device: u16,
}

async fn unlink(State(core): Shared, Json(Companion { phone, device }): Json<Companion>) -> Answer {
    core.with(|state| super::unlink(state, &phone, device));
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct NewGroup {
    subject: String,
    members: Vec<String>,
    #[serde(default)]
    lid: bool,
}

async fn group(State(core): Shared, Json(NewGroup { subject, members, lid }): Json<NewGroup>) -> Answer {
    anyhow::Context::context(members.first(), "a group without members")?;
    for member in &members {
        core.phone(member)?;
    }
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let jid = core.with(|state| crate::iq::group::create(state, &subject, &members, lid));
    Ok(Json(json!({"jid": jid})))
}

#[derive(Deserialize)]
struct NewAccount {
    phone: String,
    lid_migrated: Option<bool>,
    push_name: Option<String>,
}

async fn account(State(core): Shared, Json(asked): Json<NewAccount>) -> Answer {
    let phone = core.account(&asked.phone, asked.push_name.as_deref())?;
    if let Some(on) = asked.lid_migrated {
        core.set_lid_migrated(&asked.phone, on)?;
    }
    let address = phone.address();
    Ok(Json(json!({"number": address.number, "lid": address.lid, "push_name": phone.push_name()})))
}

#[derive(Deserialize)]
struct Say {
    phone: String,
    to: String,
    text: String,
}

async fn say(State(core): Shared, Json(Say { phone, to, text }): Json<Say>) -> Answer {
    let id = core.phone(&phone)?.says(&to, &text).await?;
    Ok(Json(json!({"id": id})))
}

#[derive(Deserialize)]
struct Typing {
    phone: String,
    to: String,
    composing: bool,
}

async fn typing(State(core): Shared, Json(Typing { phone, to, composing }): Json<Typing>) -> Answer {
    core.phone(&phone)?.types(&to, composing).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Read {
    phone: String,
    chat: String,
    participant: Option<String>,
    ids: Vec<String>,
}

async fn read(State(core): Shared, Json(Read { phone, chat, participant, ids }): Json<Read>) -> Answer {
    let participant: Option<Jid> = participant.map(|jid| jid.parse()).transpose()?;
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    core.phone(&phone)?.reads(&chat, participant.as_ref(), &ids).await?;
    Ok(Json(json!({})))
}

async fn receipts(State(core): Shared, Query(Number { phone }): Query<Number>) -> Answer {
    Ok(Json(serde_json::to_value(core.phone(&phone)?.receipts())?))
}

async fn root(State(core): Shared) -> Response {
    match &core.tls {
        Some(tls) => tls.root_pem.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
