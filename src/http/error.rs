//! Every refusal and failure as the caller sees it: a status and `{"message"}`. The one place that logs failures.
//!
//! The errors of the lower floors are mapped without a `_` arm: a new variant does not compile until it has a status.

use std::borrow::Cow;
use std::error::Error;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::body::Failure;
use crate::backup::BackupError;
use crate::event::SessionNameError;
use crate::keys::KeyError;
use crate::media::MediaError;
use crate::message::RecipientError;
use crate::session::{Answer, EndError, ExportError, MessageError, OnceError, ProfileError, SendError, StartError};

/// wa-gateway 4.7.1, `NODE_ENV=production`: the text of every answer of status 500.
const HIDDEN: &str = "Something went wrong, please try again later!";

type Source = Box<dyn Error + Send + Sync>;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: Cow<'static, str>,
    /// A further member `data` of the body.
    data: Option<Value>,
    /// For the log only, and in development for the body of a 500.
    source: Option<Source>,
    /// The message goes on after the name of a field.
    names_field: bool,
    /// When to come back, in seconds.
    retry_after: Option<NonZeroU32>,
}

/// The inner text of a 500, which [`reveal`] shows in development.
#[derive(Clone)]
struct Inner(String);

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), data: None, source: None, names_field: false, retry_after: None }
    }

    pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized")
    }

    pub(super) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden")
    }

    /// Of wrong API keys.
    pub(super) fn too_many_wrong_keys(wait: Duration) -> Self {
        let refused = Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many wrong keys, try again later");
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1);
        Self { retry_after: NonZeroU32::new(seconds), ..refused }
    }

    pub(super) fn no_keys_in_open_mode() -> Self {
        Self::new(StatusCode::CONFLICT, "ALLOW_NO_KEY serves everybody: set KEY to use keys")
    }

    /// What the making or the removal of this key came to.
    pub(super) fn from_key(name: &str, error: KeyError) -> Self {
        match error {
            KeyError::NotFound => Self::new(StatusCode::NOT_FOUND, format!("Key '{name}' not found")),
            KeyError::Exists | KeyError::OfFile | KeyError::TooMany => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            KeyError::NoRandom | KeyError::Store(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).because(error)
            }
        }
    }

    pub(super) fn route_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Route not found")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
    }

    pub(super) fn session_not_found(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Session '{id}' not found"))
    }

    /// A session that has no webhook of its own.
    pub(super) fn no_webhook(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Session '{id}' has no webhook of its own"))
    }

    /// No dead letter has this event id.
    pub(super) fn event_not_found(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Event '{id}' not found"))
    }

    /// The store failed where nothing else could.
    pub(super) fn store(source: impl Into<Source>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "The session store is not available").because(source)
    }

    pub(super) fn body_too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Request body too large")
    }

    /// A body that would become far more in memory than it was on the wire.
    pub(super) fn too_many_values() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Too many values in the request body")
    }

    pub(super) fn file_too_large(limit: u64) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("The file is larger than {limit} bytes"))
    }

    /// The target of a profile.
    pub(super) fn not_registered() -> Self {
        Self::bad_request("Target is not registered")
    }

    /// An upload can't be kept.
    pub(super) fn disk(source: std::io::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "The file can't be stored for the moment").because(source)
    }

    pub(super) fn body_unreadable() -> Self {
        Self::bad_request("The request body could not be read")
    }

    pub(super) fn body_too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "The request body took too long")
    }

    /// A fault of ours.
    pub(super) fn internal(source: impl Into<Source>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, HIDDEN).because(source)
    }

    /// Names the field that held the file, when the message is about it.
    pub(super) fn of_field(mut self, name: &str) -> Self {
        if std::mem::take(&mut self.names_field) {
            self.message = format!("parameter \"{name}\" {}", self.message).into();
        }
        self
    }

    fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a deletion of this session came to.
    pub(super) fn from_delete(id: &str, error: EndError) -> Self {
        match error {
            EndError::NotFound => Self::session_not_found(id),
            EndError::Moved => Self::new(StatusCode::CONFLICT, error.to_string()),
            EndError::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            EndError::Store(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("Failed to delete session: {error}")).because(error)
            }
        }
    }

    /// What a stop of this session came to.
    pub(super) fn from_stop(id: &str, error: EndError) -> Self {
        match error {
            EndError::NotFound => Self::session_not_found(id),
            EndError::Moved => Self::new(StatusCode::CONFLICT, error.to_string()),
            EndError::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            EndError::Store(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "The session store is not available").because(error)
            }
        }
    }

    /// Why this session was not exported.
    pub(super) fn from_export(id: &str, error: ExportError) -> Self {
        match error {
            ExportError::NotFound => Self::session_not_found(id),
            ExportError::NotLinked | ExportError::Damaged => Self::new(StatusCode::CONFLICT, error.to_string()),
            ExportError::Store(_) => Self::store(error),
        }
    }

    /// What a logout came to. Contract section 2: an unknown session is a success.
    pub(super) fn from_logout(error: EndError) -> Result<(), Self> {
        match error {
            EndError::NotFound => Ok(()),
            EndError::Moved => Err(Self::new(StatusCode::CONFLICT, error.to_string())),
            EndError::ShuttingDown => Err(Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
            EndError::Store(_) => {
                Err(Self::new(StatusCode::SERVICE_UNAVAILABLE, "The session store is not available").because(error))
            }
        }
    }

    /// Why a message's state can't be told.
    pub(super) fn from_message(id: &str, error: MessageError) -> Self {
        match error {
            MessageError::NoSession => Self::bad_request(error.to_string()),
            MessageError::NotFound => Self::new(StatusCode::NOT_FOUND, format!("Message '{id}' not found")),
            MessageError::Store(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).because(error),
        }
    }

    /// The status and the whole body, for answers that are told more than once; logged as any.
    pub(super) fn into_answer(self) -> Answer {
        self.log();
        let status = self.status.as_u16();
        let body = Failure { message: self.message, data: self.data };
        let body = serde_json::to_vec(&body).expect("texts always serialise").into();
        Answer { status, body }
    }

    /// The status and the text, for answers that have another form; logged as any.
    pub(super) fn told(self) -> (StatusCode, String) {
        self.log();
        (self.status, self.message.into_owned())
    }

    fn log(&self) {
        let status = self.status.as_u16();
        if !self.status.is_server_error() {
            // The message may hold a number: it is the caller's business only.
            tracing::debug!(status, "request refused");
            return;
        }
        let reason = self.source.as_ref().map_or_else(|| self.message.to_string(), |source| chain(source.as_ref()));
        if matches!(self.status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::SERVICE_UNAVAILABLE) {
            tracing::error!(status, reason, "request failed");
        } else {
            tracing::warn!(status, reason, "request failed");
        }
    }
}

/// An error with everything that caused it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let text = self.message.clone();
        let body = Failure { message: self.message, data: self.data };
        let mut response = (self.status, axum::Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.get()));
        }
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            let inner = self.source.map_or_else(|| text.into_owned(), |source| chain(source.as_ref()));
            response.extensions_mut().insert(Inner(inner));
        }
        response
    }
}

/// In development: a 500 tells its inner text.
pub(super) fn reveal(mut response: Response) -> Response {
    if let Some(Inner(text)) = response.extensions_mut().remove::<Inner>() {
        let body = json!({ "message": text }).to_string();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }
    response
}

impl From<SessionNameError> for ApiError {
    fn from(error: SessionNameError) -> Self {
        match error {
            SessionNameError::Blank | SessionNameError::TooLong | SessionNameError::Reserved => {
                Self::bad_request(error.to_string())
            }
        }
    }
}

impl From<RecipientError> for ApiError {
    fn from(error: RecipientError) -> Self {
        match error {
            RecipientError::Empty | RecipientError::Malformed | RecipientError::UnknownServer => {
                Self::bad_request(error.to_string())
            }
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        let status = match error {
            StartError::AlreadyExists => StatusCode::BAD_REQUEST,
            StartError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            StartError::Ended | StartError::Moved => StatusCode::CONFLICT,
            StartError::Damaged | StartError::ShuttingDown | StartError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string()).because(error)
    }
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Busy => Self::new(StatusCode::CONFLICT, "A backup or an export is under way already"),
            BackupError::Gone => Self::new(StatusCode::CONFLICT, error.to_string()),
            BackupError::Store(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "The session store is not available").because(error)
            }
        }
    }
}

impl From<SendError> for ApiError {
    fn from(error: SendError) -> Self {
        let (status, data) = match &error {
            SendError::NoSession
            | SendError::NotRegistered(_)
            | SendError::Recipient
            | SendError::EmptyMedia
            | SendError::FileName
            | SendError::NotVoice(_) => (StatusCode::BAD_REQUEST, None),
            SendError::NotReady(_) => (StatusCode::CONFLICT, None),
            SendError::Connection(_) | SendError::Upload(_) => (StatusCode::BAD_GATEWAY, None),
            SendError::Refused { id, remote_jid, .. } => {
                let status = of_group(&error).map_or(StatusCode::BAD_GATEWAY, |(status, _)| status);
                (status, Some(key(remote_jid, id)))
            }
            SendError::Unacknowledged { id, remote_jid } => (StatusCode::GATEWAY_TIMEOUT, Some(key(remote_jid, id))),
            SendError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, None),
            SendError::Store | SendError::Disk(_) => (StatusCode::SERVICE_UNAVAILABLE, None),
            SendError::Media(error) => (of_media(error).0, None),
        };
        let names_field = matches!(&error, SendError::Media(error) if of_media(error).1);
        let message = match &error {
            // wa-gateway 4.7.1 has this wording. The error itself holds back the URL, which may carry a token, for the log.
            SendError::Media(MediaError::Status { url, .. }) => format!("Failed to fetch stream from {url}"),
            _ => match of_group(&error) {
                Some((_, why)) => format!("{error}: {why}"),
                None => error.to_string(),
            },
        };
        Self { data, names_field, ..Self::new(status, message).because(error) }
    }
}

/// What a refusal says of a group that can't be written to, as for its profile: a repeat would not help.
fn of_group(error: &SendError) -> Option<(StatusCode, ProfileError)> {
    match error {
        SendError::Refused { code: 404, remote_jid, .. } if remote_jid.ends_with("@g.us") => {
            Some((StatusCode::NOT_FOUND, ProfileError::NoGroup))
        }
        SendError::Refused { code: 403, remote_jid, .. } if remote_jid.ends_with("@g.us") => {
            Some((StatusCode::FORBIDDEN, ProfileError::NotMember))
        }
        _ => None,
    }
}

/// What names a message that may have been sent.
fn key(remote_jid: &str, id: &str) -> Value {
    json!({ "key": { "remoteJid": remote_jid, "fromMe": true, "id": id } })
}

impl From<OnceError> for ApiError {
    fn from(error: OnceError) -> Self {
        let status = match error {
            OnceError::NoSession => StatusCode::BAD_REQUEST,
            OnceError::OtherRequest | OnceError::UnderWay => StatusCode::CONFLICT,
            OnceError::Store => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// The status of a file that can't be had, and whether its text goes on after the name of the field.
fn of_media(error: &MediaError) -> (StatusCode, bool) {
    match error {
        MediaError::Source(_) | MediaError::Address | MediaError::Content { .. } => (StatusCode::BAD_REQUEST, true),
        MediaError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, true),
        MediaError::Status { .. } | MediaError::Unreachable(_) => (StatusCode::BAD_GATEWAY, false),
        MediaError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, false),
        MediaError::Disk(_) => (StatusCode::SERVICE_UNAVAILABLE, false),
        MediaError::Client(_) => (StatusCode::INTERNAL_SERVER_ERROR, false),
    }
}

impl From<ProfileError> for ApiError {
    fn from(error: ProfileError) -> Self {
        let status = match &error {
            ProfileError::NoSession | ProfileError::NotRegistered => StatusCode::BAD_REQUEST,
            ProfileError::NotReady(_) => StatusCode::CONFLICT,
            ProfileError::NoGroup => StatusCode::NOT_FOUND,
            ProfileError::NotMember => StatusCode::FORBIDDEN,
            ProfileError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            ProfileError::Refused(_) | ProfileError::Connection(_) => StatusCode::BAD_GATEWAY,
            ProfileError::Store => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string()).because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SessionName;
    use crate::store::KvError;

    async fn told(error: ApiError) -> (u16, String) {
        let response = error.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn store_failure() -> KvError {
        KvError::Engine("disk full at sector 7".into())
    }

    #[tokio::test]
    async fn each_failure_of_the_lower_floors_has_its_answer() {
        let name = SessionName::parse("a\"b").unwrap();
        for (error, status, body) in [
            (StartError::AlreadyExists.into(), 400, r#"{"message":"Session already exist"}"#),
            (
                StartError::TimedOut.into(),
                504,
                r#"{"message":"WhatsApp did not answer in time; the session keeps trying, ask again"}"#,
            ),
            (
                StartError::Ended.into(),
                409,
                r#"{"message":"Session was deleted, logged out or stopped while it was starting"}"#,
            ),
            (
                StartError::Damaged.into(),
                503,
                r#"{"message":"Stored data of this session is damaged: stop the gateway and bring a backup back with `wa-gateway restore`, or delete the session and link it again"}"#,
            ),
            (StartError::ShuttingDown.into(), 503, r#"{"message":"The gateway is shutting down"}"#),
            (StartError::Store(store_failure()).into(), 503, r#"{"message":"The session store is not available"}"#),
            (SendError::NoSession.into(), 400, r#"{"message":"Session does not exist"}"#),
            (SendError::NotReady(name).into(), 409, r#"{"message":"Session with ID: \"a\"b\" Not Ready!"}"#),
            (
                SendError::NotRegistered("628".to_owned()).into(),
                400,
                r#"{"message":"The number 628 is not registered on WhatsApp"}"#,
            ),
            (
                SendError::Refused { code: 479, id: "3EB0".to_owned(), remote_jid: "628@c.us".to_owned() }.into(),
                502,
                r#"{"message":"WhatsApp refused the message with code 479","data":{"key":{"remoteJid":"628@c.us","fromMe":true,"id":"3EB0"}}}"#,
            ),
            (
                SendError::Unacknowledged { id: "3EB0".to_owned(), remote_jid: "628@s.whatsapp.net".to_owned() }.into(),
                504,
                r#"{"message":"WhatsApp did not acknowledge the message in time; it may have been sent","data":{"key":{"remoteJid":"628@s.whatsapp.net","fromMe":true,"id":"3EB0"}}}"#,
            ),
            (
                SendError::Connection(anyhow::anyhow!("tls: inner text")).into(),
                502,
                r#"{"message":"The message could not be sent: the connection to WhatsApp failed"}"#,
            ),
            (
                SendError::Recipient.into(),
                400,
                r#"{"message":"parameter \"to\" is not a phone number or a WhatsApp address"}"#,
            ),
            (
                OnceError::OtherRequest.into(),
                409,
                r#"{"message":"Idempotency-Key was used before with another request"}"#,
            ),
            (ApiError::from_message("3EB0", MessageError::NotFound), 404, r#"{"message":"Message '3EB0' not found"}"#),
            (ApiError::from_message("3EB0", MessageError::NoSession), 400, r#"{"message":"Session does not exist"}"#),
            (SendError::Store.into(), 503, r#"{"message":"The session store is not available"}"#),
            (ApiError::from_delete("a'b", EndError::NotFound), 404, r#"{"message":"Session 'a'b' not found"}"#),
            (
                ApiError::from_delete("a", EndError::Store(store_failure())),
                503,
                r#"{"message":"Failed to delete session: the session store is not available"}"#,
            ),
            (
                ApiError::from_logout(EndError::Store(store_failure())).unwrap_err(),
                503,
                r#"{"message":"The session store is not available"}"#,
            ),
            (
                ApiError::from_logout(EndError::ShuttingDown).unwrap_err(),
                503,
                r#"{"message":"The gateway is shutting down; its next start finishes this"}"#,
            ),
            (ApiError::from_stop("a", EndError::NotFound), 404, r#"{"message":"Session 'a' not found"}"#),
            (
                ApiError::from_stop("a", EndError::Store(store_failure())),
                503,
                r#"{"message":"The session store is not available"}"#,
            ),
            (SessionNameError::Blank.into(), 400, r#"{"message":"Session must not be empty"}"#),
            (RecipientError::Empty.into(), 400, r#"{"message":"parameter \"to\" is required"}"#),
            (ApiError::internal("inner text"), 500, r#"{"message":"Something went wrong, please try again later!"}"#),
        ] {
            let (got_status, got_body) = told(error).await;
            // The name above holds a quote: it is escaped once in JSON.
            assert_eq!((got_status, got_body.replace(r#"\"a\\\"b\""#, r#"\"a\"b\""#).as_str()), (status, body));
        }
        assert!(ApiError::from_logout(EndError::NotFound).is_ok());
    }

    #[tokio::test]
    async fn failures_of_files_and_profiles_have_their_answers() {
        let media = |error: MediaError| ApiError::from(SendError::Media(error)).of_field("image_url");
        let upload = || anyhow::anyhow!("inner text");
        for (error, status, message) in [
            (SendError::EmptyMedia.into(), 400, "Invalid Media"),
            (SendError::FileName.into(), 400, "Filename must include valid extension"),
            (
                SendError::NotVoice("audio/mpeg".to_owned()).into(),
                400,
                "A voice note must be an ogg/opus file, this one is audio/mpeg",
            ),
            (SendError::TimedOut.into(), 504, "The message was not sent: it could not be made ready in time"),
            (SendError::Upload(upload()).into(), 502, "The message was not sent: WhatsApp did not take its file"),
            (SendError::Disk(upload()).into(), 503, "The message was not sent: temporary files can't be written"),
            (ApiError::from(SendError::FileName).of_field("image_url"), 400, "Filename must include valid extension"),
            (
                media(MediaError::Source("is no http, https or data URL")),
                400,
                "parameter \"image_url\" is no http, https or data URL",
            ),
            (media(MediaError::Address), 400, "parameter \"image_url\" leads to an address that is not allowed"),
            (media(MediaError::TooLarge { limit_bytes: 5 }), 413, "parameter \"image_url\" is larger than 5 bytes"),
            (
                media(MediaError::Status { url: "https://x/y".to_owned(), code: 404 }),
                502,
                "Failed to fetch stream from https://x/y",
            ),
            (media(MediaError::Unreachable(None)), 502, "fetch failed"),
            (media(MediaError::TimedOut), 504, "The media could not be fetched in time"),
            (media(MediaError::Disk(std::io::Error::other("inner text"))), 503, "The media could not be kept on disk"),
            (ProfileError::NoSession.into(), 400, "Session does not exist"),
            (ProfileError::NotRegistered.into(), 400, "Target is not registered"),
            (ProfileError::NoGroup.into(), 404, "Group not found"),
            (ProfileError::NotMember.into(), 403, "The session is not a member of this group"),
            (ProfileError::TimedOut.into(), 504, "WhatsApp did not answer in time"),
            (ProfileError::Refused(429).into(), 502, "WhatsApp refused the look-up with code 429"),
            (ProfileError::Connection(upload()).into(), 502, "The look-up failed: the connection to WhatsApp failed"),
            (ProfileError::Store.into(), 503, "The session store is not available"),
        ] {
            let body = json!({ "message": message }).to_string();
            assert_eq!(told(error).await, (status, body));
        }
    }

    #[tokio::test]
    async fn development_shows_the_inner_text_of_a_500_only() {
        let inner = ApiError::internal(store_failure()).into_response();
        let shown = axum::body::to_bytes(reveal(inner).into_body(), 1000).await.unwrap();
        assert_eq!(shown, r#"{"message":"the store failed: disk full at sector 7"}"#);
        let safe = ApiError::from(StartError::Store(store_failure())).into_response();
        let shown = axum::body::to_bytes(reveal(safe).into_body(), 1000).await.unwrap();
        assert_eq!(shown, r#"{"message":"The session store is not available"}"#);
    }
}
