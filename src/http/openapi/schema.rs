//! What requests below `/message` and `/profile` hold and how sends are answered, for the description only.
//!
//! Handlers read fields one by one in the contract's order. A test holds the members and their types against those that the
//! handlers look at (`http/tests/description.rs`), the fuzz test answers against the shapes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A new message: whom it is from and to, its own fields, and what every message may have.
macro_rules! sends {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Deserialize, Serialize, ToSchema)]
        pub(super) struct $name {
            /// The session that sends.
            session: String,
            /// A number in international form, with or without `+`, spaces and dashes, or a WhatsApp address.
            to: String,
            $($(#[$attribute])* $field: $kind,)*
            /// Whether `to` is the id of a group.
            is_group: Option<bool>,
            /// The same as `is_group`.
            #[serde(rename = "isGroup")]
            is_group_too: Option<bool>,
            /// The id of the message that this one answers.
            reply_to: Option<String>,
            /// In a group: who wrote that message.
            reply_to_participant: Option<String>,
            /// Whether that message was sent by this session.
            reply_to_from_me: Option<bool>,
            /// The text of that message, to be shown.
            reply_to_text: Option<String>,
            /// Numbers that are mentioned in the text.
            mentions: Option<Vec<String>>,
        }
    )*};
}

sends! {
    /// A text to send.
    SendText {
        /// The text.
        text: String,
    }
    /// A picture to send, by `image_url`, `image_base64` or upload.
    SendImage {
        /// The caption.
        text: String,
        /// `http:`, `https:` or `data:`.
        image_url: Option<String>,
        /// At most 16 MiB decoded.
        image_base64: Option<String>,
    }
    /// A video to send, by `video_url`, `video_base64` or upload.
    SendVideo {
        /// The caption.
        text: Option<String>,
        /// `http:`, `https:` or `data:`.
        video_url: Option<String>,
        /// At most 16 MiB decoded.
        video_base64: Option<String>,
    }
    /// A document to send, by `document_url`, `document_base64` or upload.
    SendDocument {
        /// The caption.
        text: String,
        /// The name with its extension; an upload may bring its own.
        document_name: Option<String>,
        /// `http:`, `https:` or `data:`.
        document_url: Option<String>,
        /// At most 16 MiB decoded.
        document_base64: Option<String>,
    }
    /// A picture to send as a sticker, by `image_url`, `image_base64` or upload.
    SendSticker {
        /// Not used.
        text: Option<String>,
        /// `http:`, `https:` or `data:`.
        image_url: Option<String>,
        /// The same as `image_url`.
        sticker_url: Option<String>,
        /// At most 16 MiB decoded.
        image_base64: Option<String>,
        /// The same as `image_base64`.
        sticker_base64: Option<String>,
    }
    /// A sound to send, by `audio_url`, `audio_base64` or upload.
    SendAudio {
        /// `http:`, `https:` or `data:`.
        audio_url: Option<String>,
        /// At most 16 MiB decoded.
        audio_base64: Option<String>,
        /// Whether it is a voice note.
        voice: Option<bool>,
        /// The same as `voice`.
        ptt: Option<bool>,
    }
    /// A place to send.
    SendLocation {
        /// -90 to 90.
        latitude: f64,
        /// -180 to 180.
        longitude: f64,
        name: Option<String>,
        address: Option<String>,
    }
    /// One contact by `contact_name` and `contact_phone`, or several.
    SendContact {
        contact_name: Option<String>,
        contact_phone: Option<String>,
        contacts: Option<Vec<ContactCard>>,
    }
    /// A poll to send.
    SendPoll {
        question: String,
        /// 2 to 12.
        options: Vec<String>,
        /// How many may be chosen; 1 unless given.
        max_selections: Option<u32>,
    }
}

/// A reaction to a message.
#[derive(Deserialize, Serialize, ToSchema)]
pub(super) struct SendReaction {
    /// The session that sends.
    session: String,
    /// A number in international form, with or without `+`, spaces and dashes, or a WhatsApp address.
    to: String,
    message_id: String,
    /// One emoji; empty: takes the reaction back.
    reaction: String,
    /// In a group: who wrote the message.
    participant: Option<String>,
    /// Whether the message was sent by this session.
    from_me: Option<bool>,
    /// The same as `from_me`.
    #[serde(rename = "fromMe")]
    from_me_too: Option<bool>,
    /// Whether `to` is the id of a group.
    is_group: Option<bool>,
    /// The same as `is_group`.
    #[serde(rename = "isGroup")]
    is_group_too: Option<bool>,
}

/// A new text for a message of this session.
#[derive(Deserialize, Serialize, ToSchema)]
pub(super) struct Edit {
    /// The session that sends.
    session: String,
    /// A number in international form, with or without `+`, spaces and dashes, or a WhatsApp address.
    to: String,
    message_id: String,
    text: String,
    /// Whether `to` is the id of a group.
    is_group: Option<bool>,
    /// The same as `is_group`.
    #[serde(rename = "isGroup")]
    is_group_too: Option<bool>,
    /// Numbers that are mentioned in the text.
    mentions: Option<Vec<String>>,
}

/// A message to delete for everyone.
#[derive(Deserialize, Serialize, ToSchema)]
pub(super) struct Delete {
    /// The session that sends.
    session: String,
    /// A number in international form, with or without `+`, spaces and dashes, or a WhatsApp address.
    to: String,
    message_id: String,
    /// In a group, by an admin: who wrote it.
    participant: Option<String>,
    /// Whether `to` is the id of a group.
    is_group: Option<bool>,
    /// The same as `is_group`.
    #[serde(rename = "isGroup")]
    is_group_too: Option<bool>,
}

/// A contact to send.
#[derive(Deserialize, Serialize, ToSchema)]
pub(super) struct ContactCard {
    name: String,
    phone: String,
}

/// A message that WhatsApp has taken.
#[derive(Deserialize, Serialize, ToSchema)]
pub(super) struct Sent {
    data: SentData,
}

/// What is known of it.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SentData {
    key: MessageKey,
    /// One member, named after the kind of the message.
    #[schema(value_type = Object)]
    message: Map<String, Value>,
    /// Seconds since 1970, as text.
    message_timestamp: String,
    /// Always `PENDING`.
    status: String,
    /// In a group: the own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    participant: Option<String>,
}

/// What names a message.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MessageKey {
    remote_jid: String,
    from_me: bool,
    id: String,
}

/// Whose profile to look up.
#[derive(Deserialize, Serialize, ToSchema)]
pub(super) struct ProfileTarget {
    session: String,
    /// An address with `@s.whatsapp.net` or `@g.us`.
    target: String,
}

/// A profile.
#[derive(Deserialize, Serialize, ToSchema)]
pub(super) struct Profile {
    data: ProfileData,
}

/// What the owner lets this session see.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProfileData {
    profile_picture_url: Option<String>,
    status: Option<Vec<ProfileStatus>>,
}

/// An about.
#[derive(Deserialize, Serialize, ToSchema)]
struct ProfileStatus {
    status: About,
    id: String,
}

/// Its text and when it was set.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct About {
    status: String,
    set_at: String,
}

/// What the dashboard's login page sends.
#[derive(ToSchema)]
pub(super) struct SignIn {
    /// The API key.
    #[expect(dead_code, reason = "described, not read")]
    password: String,
}
