//! `/session/{session}/webhook`: where one session's events go instead of the gateway's own receiver.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest as _, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::Shared;
use super::super::access::Sessions;
use super::super::error::ApiError;
use super::super::extract::{self, Fields};
use crate::outbox::{Kind, Target};
use crate::session::{SessionWebhook, WebhookError};

/// Longer URLs than this fit into no request line of ours either.
const MAX_URL_BYTES: usize = 2_048;
/// Keys of HMAC-SHA256 gain nothing beyond 64.
const MAX_SECRET_BYTES: usize = 1_024;

/// Whether webhooks may be posted to a URL that came over the API.
#[derive(Clone)]
pub struct UrlRule(Arc<dyn Fn(&Url) -> bool + Send + Sync>);

impl UrlRule {
    /// A rule that this closure decides.
    pub fn new(allows: impl Fn(&Url) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(allows))
    }
}

impl fmt::Debug for UrlRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlRule")
    }
}

/// A session's own webhook as it is set.
#[derive(ToSchema)]
#[schema(as = SetWebhook)]
#[expect(dead_code, reason = "for the description only: the handler reads fields one by one")]
pub(in crate::http) struct Given {
    /// `http:` or `https:`; null removes the webhook. Events are posted to `/message`, `/session` and so on below it.
    #[schema(required = true)]
    url: Option<String>,
    /// Signs what is posted; without one, `WEBHOOK_SECRET` does.
    secret: Option<String>,
    /// `message`, `session`, `ack`; without a choice, what the gateway's own webhook gets.
    events: Option<Vec<String>>,
}

/// A session's own webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(in crate::http) struct Shown {
    data: ShownData,
}

/// A session's own webhook without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookData)]
struct ShownData {
    session: String,
    /// Null: the session has none of its own.
    url: Option<String>,
    /// Null: what the gateway's own webhook gets.
    events: Option<Vec<&'static str>>,
    /// Whether it has a secret of its own.
    has_secret: bool,
}

/// The id in `/session/{session}/webhook`.
pub(in crate::http) struct Of(String);

impl<S: Sync> FromRequestParts<S> for Of {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let raw = parts.uri.path().strip_prefix("/session/").and_then(|rest| rest.strip_suffix("/webhook"));
        Ok(Self(extract::decode(raw.ok_or_else(ApiError::route_not_found)?)))
    }
}

/// `GET /session/{session}/webhook`.
pub(in crate::http) async fn show(sessions: Sessions, Of(id): Of) -> Result<Response, ApiError> {
    let webhook = sessions.webhook(&id).map_err(|error| refused(&id, error))?;
    let webhook = webhook.ok_or_else(|| ApiError::no_webhook(&id))?;
    Ok(answer(&id, Some(&webhook)))
}

/// `PUT /session/{session}/webhook`.
pub(in crate::http) async fn set(
    State(state): State<Shared>,
    sessions: Sessions,
    Of(id): Of,
    request: Request,
) -> Result<Response, ApiError> {
    let webhook = given(&Fields::from_request(request, &()).await?, &state.webhook_urls)?;
    sessions.set_webhook(&id, webhook.clone()).await.map_err(|error| refused(&id, error))?;
    Ok(answer(&id, webhook.as_ref()))
}

/// `DELETE /session/{session}/webhook`.
pub(in crate::http) async fn delete(sessions: Sessions, Of(id): Of) -> Result<Response, ApiError> {
    sessions.set_webhook(&id, None).await.map_err(|error| refused(&id, error))?;
    Ok(answer(&id, None))
}

fn given(fields: &Fields, rule: &UrlRule) -> Result<Option<SessionWebhook>, ApiError> {
    if fields.is_null("url") {
        return Ok(None);
    }
    let text = fields.string("url")?;
    let secret = if fields.is_null("secret") { None } else { fields.optional_string("secret")? };
    let events = if fields.has("events") && !fields.is_null("events") { Some(fields.list("events")?) } else { None };
    let text = text.trim();
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| fields.invalid("url", "must be an http or https URL"))?;
    if text.len() > MAX_URL_BYTES {
        return Err(fields.invalid("url", "must be at most 2048 bytes long"));
    }
    if !(rule.0)(&url) {
        return Err(fields.invalid("url", "must not lead to an address that is not allowed"));
    }
    if secret.as_ref().is_some_and(|secret| secret.len() > MAX_SECRET_BYTES) {
        return Err(fields.invalid("secret", "must be at most 1024 bytes long"));
    }
    let events = events.map(|events| kinds(fields, events)).transpose()?;
    let secret = secret.filter(|secret| !secret.is_empty());
    Ok(Some(SessionWebhook(Target { url: text.to_owned(), secret, events })))
}

/// The kinds that a list names, each once.
fn kinds(fields: &Fields, events: &[Value]) -> Result<Vec<Kind>, ApiError> {
    let mut kinds = Vec::new();
    for event in events {
        let name = event.as_str().ok_or_else(|| fields.expected("string", event, "events"))?;
        let kind = Kind::from_path(name).ok_or_else(|| fields.invalid("events", &one_of()))?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() { Err(fields.invalid("events", &one_of())) } else { Ok(kinds) }
}

fn one_of() -> String {
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.path()).collect();
    format!("must be a list of {}", names.join(", "))
}

fn refused(id: &str, error: WebhookError) -> ApiError {
    match error {
        WebhookError::NotFound => ApiError::session_not_found(id),
        WebhookError::Store(error) => ApiError::store(error),
    }
}

fn answer(id: &str, webhook: Option<&SessionWebhook>) -> Response {
    let target = webhook.map(|SessionWebhook(target)| target);
    let events = target.and_then(|target| target.events.as_ref());
    Json(Shown {
        data: ShownData {
            session: id.to_owned(),
            url: target.map(|target| target.url.clone()),
            events: events.map(|events| events.iter().map(|kind| kind.path()).collect()),
            has_secret: target.is_some_and(|target| target.secret.is_some()),
        },
    })
    .into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(body: Value) -> Result<Option<Target>, String> {
        let Value::Object(members) = body else { panic!("{body}") };
        let rule = UrlRule::new(|url| url.host_str() != Some("169.254.169.254"));
        let given = given(&Fields::of_body(members), &rule);
        given.map(|webhook| webhook.map(|SessionWebhook(target)| target)).map_err(|error| error.told().1)
    }

    #[test]
    fn a_webhook_is_read_or_refused_in_the_contracts_wording() {
        let full = json!({"url": " http://bot/x ", "secret": "s", "events": ["message", "session", "message"]});
        let events = Some(vec![Kind::Message, Kind::Session]);
        let target = Target { url: "http://bot/x".to_owned(), secret: Some("s".to_owned()), events };
        assert_eq!(of(full), Ok(Some(target)));
        let bare = Target { url: "https://bot".to_owned(), secret: None, events: None };
        assert_eq!(of(json!({"url": "https://bot"})), Ok(Some(bare.clone())));
        assert_eq!(of(json!({"url": "https://bot", "secret": "", "events": null})), Ok(Some(bare)));
        assert_eq!(of(json!({"url": null})), Ok(None));
        for (body, message) in [
            (json!({}), "Required field 'url' on json"),
            (json!({"url": 5}), "Expected string, received number field 'url' on json"),
            (json!({"url": "bot"}), "url must be an http or https URL field 'url' on json"),
            (json!({"url": "ftp://bot"}), "url must be an http or https URL field 'url' on json"),
            (
                json!({"url": "http://169.254.169.254/x"}),
                "url must not lead to an address that is not allowed field 'url' on json",
            ),
            (json!({"url": "http://b", "secret": 5}), "Expected string, received number field 'secret' on json"),
            (json!({"url": "http://b", "events": 5}), "Expected array, received number field 'events' on json"),
            (json!({"url": "http://b", "events": [5]}), "Expected string, received number field 'events' on json"),
        ] {
            assert_eq!(of(body), Err(message.to_owned()));
        }
        for events in [json!([]), json!(["messages"])] {
            let refused = of(json!({"url": "http://b", "events": events})).unwrap_err();
            assert!(refused.starts_with("events must be a list of message, session"), "{refused}");
        }
    }
}
