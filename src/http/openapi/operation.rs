//! What each endpoint is for, takes and answers.

use axum::http::Method;

use super::super::body::{Deleted, Detail, Done, Failure, Health, MessageState, Sessions, StartedBody};
use super::super::keys::{KeyDeleted, KeyList, KeyMade, WantedKey};
use super::super::operate::{BackupBody, Readiness};
use super::super::session::{NamedSession, StartPage};
use super::super::webhook::{
    DeadLetters, DeadQuery, GivenWebhook, Replay, Replayed, SessionQuery, ShownWebhook, Stats,
};
use super::{Operation, Shape, Takes, Type, schema};

const FAILURE: Shape = Shape::Json(Type::of::<Failure>());
const READINESS: Shape = Shape::Json(Type::of::<Readiness>());
const SENT: Shape = Shape::Json(Type::of::<schema::Sent>());
const TEXT: Type = Type::of::<schema::SendText>();

/// What every send may come to: no connection, no answer from WhatsApp, no store.
const SEND: &[(u16, Shape)] =
    &[(200, SENT), (404, FAILURE), (409, FAILURE), (502, FAILURE), (503, FAILURE), (504, FAILURE)];
const DELETE: &[(u16, Shape)] = &[(200, Shape::Json(Type::of::<Deleted<'static>>())), (404, FAILURE), (503, FAILURE)];
const LOGOUT: &[(u16, Shape)] = &[(200, Shape::Json(Type::of::<Done>())), (409, FAILURE), (503, FAILURE)];
const STOP: &[(u16, Shape)] = &[(200, Shape::Json(Type::of::<Done>())), (404, FAILURE), (503, FAILURE)];
const PROFILE: &[(u16, Shape)] = &[
    (200, Shape::Json(Type::of::<schema::Profile>())),
    (403, FAILURE),
    (404, FAILURE),
    (409, FAILURE),
    (502, FAILURE),
    (503, FAILURE),
    (504, FAILURE),
];
const FILE: &[(u16, Shape)] =
    &[(200, Shape::File), (206, Shape::File), (304, Shape::Empty), (404, FAILURE), (412, Shape::Empty), (416, FAILURE)];
const WEBHOOK: &[(u16, Shape)] = &[(200, Shape::Json(Type::of::<ShownWebhook>())), (404, FAILURE), (503, FAILURE)];
const MISSING: &[(u16, Shape)] = &[(400, FAILURE)];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        methods: &[Method::GET],
        path: "/health",
        summary: "Whether the process answers",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Json(Type::of::<Health>()))],
    },
    Operation {
        methods: &[Method::GET],
        path: "/livez",
        summary: "Whether the process answers",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Json(Type::of::<Health>()))],
    },
    Operation {
        methods: &[Method::GET],
        path: "/readyz",
        summary: "Whether the gateway can do its work: the store takes writes, stored sessions are restored, it is not shutting down",
        takes: Takes::Nothing,
        answers: &[(200, READINESS), (503, READINESS)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/metrics",
        summary: "Numbers for Prometheus, totals of all sessions",
        takes: Takes::Nothing,
        answers: &[(200, Shape::File)],
    },
    Operation {
        methods: &[Method::POST],
        path: "/backup",
        summary: "An encrypted backup of everything stored, as an age file for the passphrase",
        takes: Takes::Body(Type::of::<BackupBody>()),
        answers: &[(200, Shape::File), (409, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/openapi.json",
        summary: "This description",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Any)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/keys",
        summary: "All keys but the master key, without the keys themselves; for the holder of the master key",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Json(Type::of::<KeyList>())), (409, FAILURE)],
    },
    Operation {
        methods: &[Method::POST],
        path: "/keys",
        summary: "Makes a key and tells it this once; for the holder of the master key",
        takes: Takes::Body(Type::of::<WantedKey>()),
        answers: &[(200, Shape::Json(Type::of::<KeyMade>())), (409, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::DELETE],
        path: "/keys/{name}",
        summary: "Removes a key, which opens nothing from then on; for the holder of the master key",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Json(Type::of::<KeyDeleted>())), (404, FAILURE), (409, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/media/{*name}",
        summary: "A received file, by the name that its webhook told; ranges and conditions are understood",
        takes: Takes::Nothing,
        answers: FILE,
    },
    Operation {
        methods: &[Method::GET],
        path: "/assets/{*path}",
        summary: "A file of the dashboard's pages",
        takes: Takes::Nothing,
        answers: FILE,
    },
    Operation {
        methods: &[Method::GET],
        path: "/auth/login",
        summary: "The dashboard's page to sign in",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Page)],
    },
    Operation {
        methods: &[Method::POST],
        path: "/auth/login",
        summary: "Signs in to the dashboard with a key; a wrong one gets the page again",
        takes: Takes::File(Type::of::<schema::SignIn>(), &[]),
        answers: &[(200, Shape::Page), (302, Shape::Empty), (403, FAILURE), (429, Shape::Page), (503, Shape::Page)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/session",
        summary: "All sessions with their status",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Json(Type::of::<Sessions<'static>>()))],
    },
    Operation {
        methods: &[Method::DELETE],
        path: "/session",
        summary: "Refused: the id is missing",
        takes: Takes::Nothing,
        answers: MISSING,
    },
    Operation {
        methods: &[Method::GET, Method::DELETE],
        path: "/session/",
        summary: "Refused: the id is missing",
        takes: Takes::Nothing,
        answers: MISSING,
    },
    Operation {
        methods: &[Method::GET],
        path: "/session/start",
        summary: "Starts a session and shows its code as a page, which may stand in an iframe",
        takes: Takes::Query(Type::of::<StartPage>()),
        answers: &[(200, Shape::PageOr(Type::of::<StartedBody>())), (409, FAILURE), (503, FAILURE), (504, FAILURE)],
    },
    Operation {
        methods: &[Method::POST],
        path: "/session/start",
        summary: "Starts a session and answers its code; the same one while nobody has scanned it",
        takes: Takes::Body(Type::of::<NamedSession>()),
        answers: &[(200, Shape::Json(Type::of::<StartedBody>())), (409, FAILURE), (503, FAILURE), (504, FAILURE)],
    },
    Operation {
        methods: &[Method::DELETE],
        path: "/session/start",
        summary: "Deletes a session of that name; none can be made",
        takes: Takes::Nothing,
        answers: DELETE,
    },
    Operation {
        methods: &[Method::POST],
        path: "/session/stop",
        summary: "Closes a session's connection and keeps its credentials; start connects it again without a scan",
        takes: Takes::Body(Type::of::<NamedSession>()),
        answers: STOP,
    },
    Operation {
        methods: &[Method::DELETE],
        path: "/session/stop",
        summary: "Deletes a session of that name; none can be made",
        takes: Takes::Nothing,
        answers: DELETE,
    },
    Operation {
        methods: &[Method::GET],
        path: "/session/logout",
        summary: "Unlinks a session from its phone; an unknown one is a success too",
        takes: Takes::Query(Type::of::<NamedSession>()),
        answers: LOGOUT,
    },
    Operation {
        methods: &[Method::POST, Method::PUT, Method::PATCH, Method::DELETE],
        path: "/session/logout",
        summary: "Unlinks a session from its phone; an unknown one is a success too",
        takes: Takes::Either(Type::of::<NamedSession>()),
        answers: LOGOUT,
    },
    Operation {
        methods: &[Method::GET],
        path: "/session/{session}",
        summary: "One session with its account and connection",
        takes: Takes::Nothing,
        answers: &[(200, Shape::Json(Type::of::<Detail<'static>>())), (404, FAILURE)],
    },
    Operation {
        methods: &[Method::DELETE],
        path: "/session/{session}",
        summary: "Unlinks a session where that is possible and forgets it; its name is free again",
        takes: Takes::Nothing,
        answers: DELETE,
    },
    Operation {
        methods: &[Method::GET],
        path: "/session/{session}/webhook",
        summary: "Where the session's events go instead of to the gateway's own webhook",
        takes: Takes::Nothing,
        answers: WEBHOOK,
    },
    Operation {
        methods: &[Method::PUT],
        path: "/session/{session}/webhook",
        summary: "Sends the session's events to a webhook of its own; a null `url` removes it",
        takes: Takes::Body(Type::of::<GivenWebhook>()),
        answers: WEBHOOK,
    },
    Operation {
        methods: &[Method::DELETE],
        path: "/session/{session}/webhook",
        summary: "Removes the session's own webhook",
        takes: Takes::Nothing,
        answers: WEBHOOK,
    },
    Operation {
        methods: &[Method::POST],
        path: "/session/{session}/export",
        summary: "Moves a session to another host: it stops here for good, and all of it is the answer, as an age file for the passphrase",
        takes: Takes::Body(Type::of::<BackupBody>()),
        answers: &[(200, Shape::File), (404, FAILURE), (409, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/webhook/dead",
        summary: "Events that no attempt will deliver any more, the first that died first",
        takes: Takes::Query(Type::of::<DeadQuery>()),
        answers: &[(200, Shape::Json(Type::of::<DeadLetters>())), (404, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::POST],
        path: "/webhook/replay",
        summary: "Tries dead letters again: by id, of a session, or of a time; they keep their ids",
        takes: Takes::Body(Type::of::<Replay>()),
        answers: &[(200, Shape::Json(Type::of::<Replayed>())), (404, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/webhook/stats",
        summary: "How the delivery of events goes, of each session and in all",
        takes: Takes::Query(Type::of::<SessionQuery>()),
        answers: &[(200, Shape::Json(Type::of::<Stats>())), (404, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::GET],
        path: "/message/send-text",
        summary: "Sends a text without showing the typing indicator first",
        takes: Takes::Query(TEXT),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-text",
        summary: "Sends a text after showing the typing indicator: 100 ms for each character, 5 s at most",
        takes: Takes::Body(TEXT),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-image",
        summary: "Sends a picture",
        takes: Takes::File(Type::of::<schema::SendImage>(), &["image", "file"]),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-document",
        summary: "Sends a document",
        takes: Takes::File(Type::of::<schema::SendDocument>(), &["document", "file"]),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-video",
        summary: "Sends a video",
        takes: Takes::File(Type::of::<schema::SendVideo>(), &["video", "file"]),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-sticker",
        summary: "Sends a picture as a sticker",
        takes: Takes::File(Type::of::<schema::SendSticker>(), &["sticker", "image", "file"]),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-audio",
        summary: "Sends a sound or a voice note",
        takes: Takes::File(Type::of::<schema::SendAudio>(), &["audio", "file"]),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-location",
        summary: "Sends a place",
        takes: Takes::Body(Type::of::<schema::SendLocation>()),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-contact",
        summary: "Sends one contact or several",
        takes: Takes::Body(Type::of::<schema::SendContact>()),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-poll",
        summary: "Sends a poll",
        takes: Takes::Body(Type::of::<schema::SendPoll>()),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/send-reaction",
        summary: "Reacts to a message",
        takes: Takes::Body(Type::of::<schema::SendReaction>()),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/edit",
        summary: "Gives a message of this session a new text",
        takes: Takes::Body(Type::of::<schema::Edit>()),
        answers: SEND,
    },
    Operation {
        methods: &[Method::POST],
        path: "/message/delete",
        summary: "Deletes a message for everyone",
        takes: Takes::Body(Type::of::<schema::Delete>()),
        answers: SEND,
    },
    Operation {
        methods: &[Method::GET],
        path: "/message/{id}",
        summary: "How far a message got that this session sent",
        takes: Takes::Query(Type::of::<NamedSession>()),
        answers: &[(200, Shape::Json(Type::of::<MessageState<'static>>())), (404, FAILURE), (503, FAILURE)],
    },
    Operation {
        methods: &[Method::POST],
        path: "/profile",
        summary: "The picture and the about of an account or a group; 400 for what is not on WhatsApp",
        takes: Takes::Body(Type::of::<schema::ProfileTarget>()),
        answers: PROFILE,
    },
];
