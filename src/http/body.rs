//! The answers of handlers as types. The order of members is part of the contract; `/openapi.json` is made of the same types.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::event::Status;
use crate::ledger::{Members, Record, Times};
use crate::session::{Details, SessionSummary, Started};

/// Why a request was refused or failed.
#[derive(Serialize, ToSchema)]
pub(super) struct Failure {
    /// For people; the texts of known refusals do not change.
    pub(super) message: Cow<'static, str>,
    /// What is known all the same, as the key of a message that may have been sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(super) data: Option<Value>,
}

/// How far a sent message got.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageState<'a> {
    data: MessageStateData<'a>,
}

/// What is known of it.
#[derive(Serialize, ToSchema)]
struct MessageStateData<'a> {
    session: &'a str,
    /// The message's id.
    id: &'a str,
    /// The chat that it went to.
    to: &'a str,
    /// `pending`, `sent`, `delivered`, `read`, `played` or `failed`; in a group the furthest that a member has got.
    status: &'static str,
    /// Since when, in Unix seconds.
    timestamp: i64,
    timestamps: Timestamps,
    /// WhatsApp's code for a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<u16>,
    /// In a group: how many members.
    #[serde(skip_serializing_if = "Option::is_none")]
    participants: Option<MemberCounts>,
}

/// When each step was reached, in Unix seconds; those that were not are left out.
#[derive(Serialize, ToSchema)]
struct Timestamps {
    pending: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    played: Option<i64>,
}

/// How many members of a group have got so far.
#[derive(Serialize, ToSchema)]
struct MemberCounts {
    delivered: u32,
    read: u32,
    played: u32,
}

impl<'a> MessageState<'a> {
    pub(super) fn new(session: &'a str, id: &'a str, record: &'a Record) -> Self {
        let Times { failed, sent, delivered, read, played } = record.times;
        let timestamps = Timestamps { pending: record.at_ms / 1000, failed, sent, delivered, read, played };
        let Members { delivered, read, played } = record.members;
        let data = MessageStateData {
            session,
            id,
            to: &record.to,
            status: record.step.as_str(),
            timestamp: record.since(),
            timestamps,
            error: record.code,
            participants: record.is_group().then_some(MemberCounts { delivered, read, played }),
        };
        Self { data }
    }
}

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    pub(super) status: &'static str,
}

/// All sessions, first seen first.
#[derive(Serialize, ToSchema)]
pub(super) struct Sessions<'a> {
    pub(super) data: Vec<Row<'a>>,
}

/// One session. Contract section 2: the order of its members is part of the bytes.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Row<'a> {
    /// Logged in over a live connection.
    Connected { session: &'a str, status: &'static str, details: Cow<'a, DetailsBody> },
    /// On its way, or given up.
    Other {
        session: &'a str,
        /// Remembered from the last time that it was connected.
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<Cow<'a, DetailsBody>>,
        status: &'static str,
    },
}

/// The account of a session.
#[derive(Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Details)]
pub(super) struct DetailsBody {
    /// What the account calls itself; empty when unknown.
    pub(super) name: String,
    /// Digits; empty when unknown.
    pub(super) phone_number: String,
}

impl From<&Details> for DetailsBody {
    fn from(details: &Details) -> Self {
        Self { name: details.name.clone(), phone_number: details.phone_number.clone() }
    }
}

impl<'a> Row<'a> {
    pub(super) fn new(summary: &'a SessionSummary) -> Self {
        let session = summary.session.as_str();
        let status = summary.status.as_str();
        let details = summary.details.as_ref().map(|details| Cow::Owned(details.into()));
        if summary.status == Status::Connected {
            Self::Connected { session, status, details: details.unwrap_or_default() }
        } else {
            Self::Other { session, details, status }
        }
    }
}

/// A code to scan, or the news that there is nothing to scan.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum StartedBody {
    /// What the QR picture holds.
    Code { qr: String },
    /// The session has connected.
    Connected { data: ConnectedBody },
}

/// The session has connected.
#[derive(Serialize, ToSchema)]
pub(super) struct ConnectedBody {
    /// Always `Connected`.
    message: &'static str,
}

impl StartedBody {
    pub(super) const CONNECTED: Self = Self::Connected { data: ConnectedBody { message: "Connected" } };
}

impl From<Started> for StartedBody {
    fn from(started: Started) -> Self {
        match started {
            Started::Qr(qr) => Self::Code { qr },
            Started::Connected => Self::CONNECTED,
        }
    }
}

/// It is done, or there was nothing to do.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    /// Always `success`.
    pub(super) data: &'static str,
}

/// One session in full.
#[derive(Serialize, ToSchema)]
pub(super) struct Detail<'a> {
    success: bool,
    data: DetailData<'a>,
}

/// What is known of a session.
#[derive(Serialize, ToSchema)]
struct DetailData<'a> {
    session: &'a str,
    status: &'static str,
    details: DetailsBody,
    connection: Connection,
    metadata: Metadata,
    /// What the session is doing, or why it does nothing; the README lists the words.
    state: &'static str,
    /// Why, where the state alone does not tell.
    reason: Option<&'a str>,
    /// Since when it is in this state: UTC, milliseconds, `Z`.
    since: String,
    /// When the state ends by itself, where that is known.
    until: Option<String>,
    /// The account's primary device as its phone names it, where it does: `android`, `iphone`, `smba` and so on.
    platform: Option<&'a str>,
}

/// The state of its connection.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Connection {
    is_connected: bool,
    /// When the status last changed: UTC, milliseconds, `Z`.
    last_update: String,
}

/// wa-gateway 4.7.1 says `unknown` in all three members; what is known stands in `platform` behind.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    platform: &'static str,
    device_manufacturer: &'static str,
    device_model: &'static str,
}

impl<'a> Detail<'a> {
    pub(super) fn new(summary: &'a SessionSummary) -> Self {
        let unknown = "unknown";
        let data = DetailData {
            session: summary.session.as_str(),
            status: summary.status.as_str(),
            details: summary.details.as_ref().map(DetailsBody::from).unwrap_or_default(),
            connection: Connection {
                is_connected: summary.status == Status::Connected,
                last_update: iso8601(summary.since),
            },
            metadata: Metadata { platform: unknown, device_manufacturer: unknown, device_model: unknown },
            state: summary.standing.state,
            reason: summary.standing.reason.as_deref(),
            since: iso8601(summary.standing.since),
            until: summary.standing.until.map(iso8601),
            platform: summary.platform.as_deref(),
        };
        Self { success: true, data }
    }
}

/// A session is gone.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted<'a> {
    success: bool,
    message: String,
    data: DeletedData<'a>,
}

/// Which, and when.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeletedData<'a> {
    session: &'a str,
    /// UTC, milliseconds, `Z`.
    deleted_at: String,
}

impl<'a> Deleted<'a> {
    pub(super) fn new(id: &'a str, at: DateTime<Utc>) -> Self {
        let message = format!("Session '{id}' deleted successfully");
        Self { success: true, message, data: DeletedData { session: id, deleted_at: iso8601(at) } }
    }
}

/// As JavaScript's `toISOString` writes it: UTC, milliseconds, `Z`.
pub(super) fn iso8601(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
