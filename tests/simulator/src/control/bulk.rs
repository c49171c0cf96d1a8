//! Control routes for many phones at once, for load drivers; `control` documents them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Answer, Shared};
use crate::server::Core;

/// Largest request: a hundred thousand lines or so.
const MAX_BODY_BYTES: usize = 32 << 20;
/// Texts that are on their way at the same time, when the request does not say.
const AT_ONCE: usize = 16;
/// The most of them.
const MAX_AT_ONCE: usize = 1_024;

pub(crate) fn router() -> Router<Arc<Core>> {
    Router::new()
        .route("/say-all", post(say_all))
        .route("/heard", post(heard))
        .route("/queued", get(queued))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

#[derive(Deserialize)]
struct Asked {
    lines: Vec<Line>,
    /// Lines begin at this pace; absent: as fast as they go.
    per_second: Option<f64>,
    at_once: Option<usize>,
}

#[derive(Deserialize)]
struct Line {
    phone: String,
    to: String,
    text: String,
}

async fn say_all(State(core): Shared, Json(asked): Json<Asked>) -> Answer {
    let pace = asked.per_second.map(|rate| {
        ensure!(rate.is_finite() && rate > 0.0, "per_second must be above 0");
        Ok(Duration::from_secs_f64(1.0 / rate))
    });
    let pace = pace.transpose()?;
    let at_once = asked.at_once.unwrap_or(AT_ONCE).clamp(1, MAX_AT_ONCE);
    let begun = Instant::now();
    let said = stream::iter(asked.lines).zip(stream::iter(0_u32..)).map(|(line, turn)| {
        let core = Arc::clone(&core);
        async move {
            if let Some(pace) = pace {
                tokio::time::sleep_until(begun + pace * turn).await;
            }
            let at_us = unix_micros();
            match say(&core, &line).await {
                Ok(id) => json!({"id": id, "at_us": at_us}),
                Err(error) => json!({"error": format!("{error:#}")}),
            }
        }
    });
    let said: Vec<Value> = said.buffered(at_once).collect().await;
    Ok(Json(json!({"said": said})))
}

async fn say(core: &Core, line: &Line) -> anyhow::Result<String> {
    core.phone(&line.phone)?.says(&line.to, &line.text).await
}

#[derive(Deserialize)]
struct Phones {
    phones: Vec<String>,
}

async fn heard(State(core): Shared, Json(asked): Json<Phones>) -> Answer {
    let mut phones = Vec::with_capacity(asked.phones.len());
    for number in &asked.phones {
        let phone = core.phone(number)?;
        let inbox = phone.inbox();
        let others = inbox.iter().filter(|received| !received.from_me);
        let texts: Vec<Value> = others.map(|received| json!([received.id, received.text])).collect();
        phones.push(json!({
            "texts": texts,
            "repeated_ids": phone.repeated_ids(),
            "repeated_keys": phone.repeated_keys(),
            "unproven": phone.unproven(),
        }));
    }
    Ok(Json(json!({"phones": phones})))
}

async fn queued(State(core): Shared) -> Answer {
    let [messages, receipts, notifications] = core.with(|state| {
        let devices = state.accounts.values().flat_map(|account| account.devices.values());
        devices
            .map(|device| device.queue.unacknowledged())
            .fold([0; 3], |sum, more| std::array::from_fn(|class| sum[class] + more[class]))
    });
    let queued: usize = messages + receipts + notifications;
    Ok(Json(json!({
        "queued": queued, "messages": messages, "receipts": receipts, "notifications": notifications,
    })))
}

/// Microseconds since 1970: what another process on this machine can compare with its own.
fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
