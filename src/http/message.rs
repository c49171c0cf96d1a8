//! The endpoints below `/message`: each reads its fields in the contract's order and hands the message to `deliver`.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::access::Sessions;
use super::auth::Scope;
use super::body::MessageState;
use super::error::ApiError;
use super::extract::{self, Fields, MessageId};
use super::upload::{FileFields, Source};
use crate::message::{Author, Content, Outgoing, Recipient, Target};
use crate::session::{Answer, SendError, Spelling};

mod answer;
mod read;

use read::{Extras, Head, Text, author};

/// `POST` and `GET /message/send-text`; only POST shows the typing phase first.
pub(super) async fn send_text(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (head, text) = Head::read(&fields, Text::Required)?;
    let extras = Extras::read(&fields)?;
    let typing = fields.source() == extract::Source::Json;
    deliver(&sessions, &head, typing, None, |to| extras.with(Content::Text(text), to, &fields)).await
}

/// `POST /message/send-image`.
pub(super) async fn send_image(sessions: Sessions, mut body: FileFields) -> Result<Response, ApiError> {
    let (head, caption) = Head::read(&body.fields, Text::Required)?;
    let Source { name: field, media: source } = body.media(&["image_url"], &["image_base64"], &["image", "file"])?;
    let extras = Extras::read(&body.fields)?;
    let message = |to: &Recipient| extras.with(Content::Image { source, caption }, to, &body.fields);
    deliver(&sessions, &head, true, Some(field), message).await
}

/// `POST /message/send-video`.
pub(super) async fn send_video(sessions: Sessions, mut body: FileFields) -> Result<Response, ApiError> {
    let (head, caption) = Head::read(&body.fields, Text::Optional)?;
    let Source { name: field, media: source } = body.media(&["video_url"], &["video_base64"], &["video", "file"])?;
    let extras = Extras::read(&body.fields)?;
    let message = |to: &Recipient| extras.with(Content::Video { source, caption }, to, &body.fields);
    deliver(&sessions, &head, true, Some(field), message).await
}

/// `POST /message/send-document`. An uploaded document may go by the name that its part has.
pub(super) async fn send_document(sessions: Sessions, mut body: FileFields) -> Result<Response, ApiError> {
    let (head, caption) = Head::read(&body.fields, Text::Required)?;
    let part_name = body.file_name().map(str::to_owned);
    let Source { name: field, media: source } =
        body.media(&["document_url"], &["document_base64"], &["document", "file"])?;
    let name = match part_name {
        Some(name) if !body.fields.has("document_name") => name,
        _ => body.fields.string("document_name")?,
    };
    let extras = Extras::read(&body.fields)?;
    let message = |to: &Recipient| extras.with(Content::Document { source, name, caption }, to, &body.fields);
    deliver(&sessions, &head, true, Some(field), message).await
}

/// `POST /message/send-sticker`. wa-gateway 4.7.1 asks for a text that it never uses; here it may be absent.
pub(super) async fn send_sticker(sessions: Sessions, mut body: FileFields) -> Result<Response, ApiError> {
    let (head, _unused) = Head::read(&body.fields, Text::Optional)?;
    let Source { name: field, media: source } =
        body.media(&["image_url", "sticker_url"], &["sticker_base64", "image_base64"], &["sticker", "image", "file"])?;
    let extras = Extras::read(&body.fields)?;
    let message = |to: &Recipient| extras.with(Content::Sticker { source }, to, &body.fields);
    deliver(&sessions, &head, false, Some(field), message).await
}

/// `POST /message/send-audio`.
pub(super) async fn send_audio(sessions: Sessions, mut body: FileFields) -> Result<Response, ApiError> {
    let (head, _unused) = Head::read(&body.fields, Text::None)?;
    let Source { name: field, media: source } = body.media(&["audio_url"], &["audio_base64"], &["audio", "file"])?;
    let voice = read::flag(&body.fields, &["voice", "ptt"])?;
    let extras = Extras::read(&body.fields)?;
    let message = |to: &Recipient| extras.with(Content::Audio { source, voice }, to, &body.fields);
    deliver(&sessions, &head, false, Some(field), message).await
}

/// `POST /message/send-location`.
pub(super) async fn send_location(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (head, _unused) = Head::read(&fields, Text::None)?;
    let location = read::location(&fields)?;
    let extras = Extras::read(&fields)?;
    deliver(&sessions, &head, false, None, |to| extras.with(Content::Location(location), to, &fields)).await
}

/// `POST /message/send-contact`.
pub(super) async fn send_contact(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (head, _unused) = Head::read(&fields, Text::None)?;
    let contacts = read::contacts(&fields)?;
    let extras = Extras::read(&fields)?;
    deliver(&sessions, &head, false, None, |to| extras.with(Content::Contacts(contacts), to, &fields)).await
}

/// `POST /message/send-poll`.
pub(super) async fn send_poll(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (head, _unused) = Head::read(&fields, Text::None)?;
    let poll = read::poll(&fields)?;
    let extras = Extras::read(&fields)?;
    deliver(&sessions, &head, false, None, |to| extras.with(Content::Poll(poll), to, &fields)).await
}

/// `POST /message/send-reaction`. In a group, `participant` says who wrote the message, unless it is our own.
pub(super) async fn send_reaction(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (head, _unused) = Head::read(&fields, Text::None)?;
    let id = read::message_id(&fields, "message_id")?;
    let emoji = read::emoji(&fields)?;
    let participant = read::participant(&fields, "participant")?;
    let from_me = read::flag(&fields, &["from_me", "fromMe"])?;
    deliver(&sessions, &head, false, None, |to| {
        let author = match author(&fields, "participant", participant, from_me, to)? {
            // A chat of two has no participants.
            Author::Member(_) if !to.is_group() => Author::Peer,
            author => author,
        };
        Ok(Outgoing::new(Content::Reaction { target: Target { id, author }, emoji }))
    })
    .await
}

/// `POST /message/edit`: a new text for one of our own messages.
pub(super) async fn edit(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (head, text) = Head::read(&fields, Text::Required)?;
    let id = read::message_id(&fields, "message_id")?;
    let mentions = read::mentions(&fields)?;
    deliver(&sessions, &head, false, None, |_to| Ok(Outgoing { mentions, ..Outgoing::new(Content::Edit { id, text }) }))
        .await
}

/// `POST /message/delete`: for everyone. With `participant`, a group's admin deletes what that member wrote.
pub(super) async fn delete(sessions: Sessions, fields: Fields) -> Result<Response, ApiError> {
    let (head, _unused) = Head::read(&fields, Text::None)?;
    let id = read::message_id(&fields, "message_id")?;
    let participant = read::participant(&fields, "participant")?;
    deliver(&sessions, &head, false, None, |to| {
        let author = match participant {
            None => Author::Me,
            Some(member) if to.is_group() => Author::Member(member),
            Some(_) => return Err(fields.invalid("participant", "can be given for groups only")),
        };
        Ok(Outgoing::new(Content::Delete(Target { id, author })))
    })
    .await
}

/// `GET /message/{id}`: how far a message of this session got.
pub(super) async fn progress(
    sessions: Sessions,
    MessageId(id): MessageId,
    fields: Fields,
) -> Result<Response, ApiError> {
    // Without a session this is no look-up, unless it looks like one: WhatsApp's ids are capitals and digits.
    let is_id = id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if !is_id && !fields.has("session") {
        return Err(ApiError::route_not_found());
    }
    let session = fields.string("session")?;
    let record = sessions.message(&session, &id).await.map_err(|error| ApiError::from_message(&id, error))?;
    Ok(Json(MessageState::new(&session, &id, &record)).into_response())
}

/// The one way of every message: the checks in the contract's order, the send, the answer. `field` held its file.
async fn deliver(
    sessions: &Sessions,
    head: &Head,
    typing: bool,
    field: Option<String>,
    message: impl FnOnce(&Recipient) -> Result<Outgoing, ApiError>,
) -> Result<Response, ApiError> {
    let told = move |error: SendError| {
        let error = ApiError::from(error);
        match &field {
            Some(field) => error.of_field(field),
            None => error,
        }
    };
    if let Some(repeat) = head.repeat.clone() {
        // Not whether it is connected: what was carried out before is answered in any state.
        if !sessions.has(Scope::Send, &head.session) {
            return Err(SendError::NoSession.into());
        }
        let to = Recipient::parse(&head.to, head.is_group)?;
        let message = message(&to)?;
        let failed = Box::new(move |error| told(error).into_answer());
        let spelling = Spelling { sent: answer::body, failed };
        let Answer { status, body } = sessions.send_once(&head.session, to, message, typing, repeat, spelling).await?;
        let status = StatusCode::from_u16(status).map_err(ApiError::internal)?;
        return Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response());
    }
    // Contract section 4: the session is looked at before the recipient.
    sessions.check_ready(Scope::Send, &head.session)?;
    let to = Recipient::parse(&head.to, head.is_group)?;
    let message = message(&to)?;
    let sent = sessions.send(&head.session, to, message, typing).await.map_err(told)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], answer::body(&sent)).into_response())
}
