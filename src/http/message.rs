//! The endpoints below `/message`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::extract::{Fields, Source};
use crate::message::{Recipient, Sent};

/// `POST` and `GET /message/send-text`; only POST shows the typing phase first.
pub(super) async fn send_text(State(state): State<AppState>, fields: Fields) -> Result<Response, ApiError> {
    let SendText { session, to, text, is_group } = SendText::read(&fields)?;
    // Contract section 4: the session is looked at before the recipient.
    state.sessions.check_ready(&session)?;
    let to = Recipient::parse(&to, is_group)?;
    let typing = fields.source() == Source::Json;
    let sent = state.sessions.send_text(&session, to, text, typing).await?;
    Ok(Json(Answer { data: SentText::new(&sent) }).into_response())
}

/// A text to send.
#[derive(Debug, PartialEq, Eq, ToSchema)]
pub(super) struct SendText {
    /// The session that sends.
    session: String,
    /// A number in international form, with or without `+`, spaces and dashes, or a WhatsApp address.
    to: String,
    /// The text.
    text: String,
    /// Whether `to` is the id of a group.
    #[schema(required = false)]
    is_group: bool,
}

impl SendText {
    fn read(fields: &Fields) -> Result<Self, ApiError> {
        Ok(Self {
            session: fields.string("session")?,
            to: fields.digits_or_string("to")?,
            text: fields.string("text")?,
            is_group: fields.flag(&["is_group", "isGroup"])?,
        })
    }
}

/// A message that WhatsApp has taken.
#[derive(Serialize, ToSchema)]
#[schema(as = Sent)]
pub(super) struct Answer<'a> {
    data: SentText<'a>,
}

/// Contract section 5: member names and order are the original's, the time is a string.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SentText<'a> {
    key: Key<'a>,
    message: Message<'a>,
    message_timestamp: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    participant: Option<&'a str>,
}

/// What names a message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Key<'a> {
    remote_jid: &'a str,
    from_me: bool,
    id: &'a str,
}

/// What was sent, by its kind.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    extended_text_message: Text<'a>,
}

/// A text.
#[derive(Serialize, ToSchema)]
struct Text<'a> {
    text: &'a str,
}

impl<'a> SentText<'a> {
    fn new(sent: &'a Sent) -> Self {
        Self {
            key: Key { remote_jid: &sent.remote_jid, from_me: true, id: &sent.id },
            message: Message { extended_text_message: Text { text: &sent.text } },
            message_timestamp: sent.timestamp.to_string(),
            status: "PENDING",
            participant: sent.participant.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::{FromRequest as _, Request};

    use super::*;

    #[test]
    fn an_answer_has_the_contracts_bytes() {
        let mut sent = Sent {
            remote_jid: "6281234567890@s.whatsapp.net".to_owned(),
            id: "3EB0AA".to_owned(),
            text: "hi \"you\"".to_owned(),
            timestamp: 1_770_000_000,
            participant: None,
        };
        assert_eq!(
            serde_json::to_string(&Answer { data: SentText::new(&sent) }).unwrap(),
            r#"{"data":{"key":{"remoteJid":"6281234567890@s.whatsapp.net","fromMe":true,"id":"3EB0AA"},"message":{"extendedTextMessage":{"text":"hi \"you\""}},"messageTimestamp":"1770000000","status":"PENDING"}}"#
        );
        sent.participant = Some("6281234500001:7@s.whatsapp.net".to_owned());
        assert!(
            serde_json::to_string(&Answer { data: SentText::new(&sent) })
                .unwrap()
                .ends_with(r#""status":"PENDING","participant":"6281234500001:7@s.whatsapp.net"}}"#)
        );
    }

    async fn read(method: &str, uri: &str, kind: &str, body: &str) -> Option<SendText> {
        let request = Request::builder().method(method).uri(uri).header("content-type", kind);
        let request = request.body(Body::from(body.to_owned())).unwrap();
        SendText::read(&Fields::from_request(request, &()).await.ok()?).ok()
    }

    #[tokio::test]
    async fn a_send_is_read_in_every_form_that_clients_use() {
        let json = "application/json";
        for (body, to, is_group) in [
            (r#"{"session":"s","to":"628","text":"t"}"#, "628", false),
            (r#"{"session":"s","to":6281234567890,"text":"t"}"#, "6281234567890", false),
            (r#"{"session":"s","to":"628","text":"t","is_group":true}"#, "628", true),
            (r#"{"session":"s","to":"628","text":"t","is_group":false,"isGroup":true}"#, "628", false),
            (r#"{"session":"s","to":"628","text":"t","isGroup":true}"#, "628", true),
            (r#"{"session":"s","to":"628","text":"t","is_group":"true"}"#, "628", true),
            (r#"{"session":"s","to":"628","text":"t","is_group":"false"}"#, "628", false),
            (r#"{"session":"s","to":"628","text":"t","is_group":1}"#, "628", true),
            (r#"{"session":"s","to":"628","text":"t","is_group":0}"#, "628", false),
        ] {
            let expected = SendText { session: "s".to_owned(), to: to.to_owned(), text: "t".to_owned(), is_group };
            assert_eq!(read("POST", "/message/send-text", json, body).await, Some(expected), "{body}");
        }
        let form = "application/x-www-form-urlencoded";
        let sent = read("POST", "/", form, "session=s&to=%2B62+8&text=a+b%C3%A9&is_group=1").await.unwrap();
        assert_eq!((sent.to.as_str(), sent.text.as_str(), sent.is_group), ("+62 8", "a b\u{e9}", true));
        let sent = read("GET", "/?session=s&to=+628&text=a%20b&is_group=true", "", "").await.unwrap();
        assert_eq!((sent.to.as_str(), sent.text.as_str(), sent.is_group), (" 628", "a b", true));
    }
}
