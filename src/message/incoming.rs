//! A received message: the body of the `message` webhook, and what is needed to get its file later.
//!
//! The contract's members first and in its order, then ours. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A received message as the `message` webhook spells it; member order is the contract's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incoming {
    /// Name of the session that received it.
    pub session: String,
    /// The chat: the phone number's JID whenever it is known, else the LID; groups as `…@g.us`.
    pub from: String,
    /// The text, or `None` for kinds without one.
    pub message: Option<String>,
    /// File names below `/media`.
    pub media: Media,
    /// The message id.
    pub id: String,
    /// Stable over redeliveries; also the `X-Event-Id` header.
    pub event_id: String,
    /// Unix seconds, as the sender's server stamped it.
    pub timestamp: i64,
    /// Who wrote it in a group, as a JID; `None` in one-to-one chats.
    pub participant: Option<String>,
    /// The author's push name.
    pub participant_name: Option<String>,
    /// Whether the chat is a group.
    pub is_group: bool,
    /// The LID of the author when the message carried one.
    pub from_lid: Option<String>,
    /// What the contract has no member for.
    #[serde(flatten)]
    pub content: Content,
}

/// The contract's `media` object: all members are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// A picture's file name.
    pub image: Option<String>,
    /// A video's file name.
    pub video: Option<String>,
    /// A document's file name, without extension; the file is there with it, too.
    pub document: Option<String>,
    /// An audio's or voice note's file name.
    pub audio: Option<String>,
}

/// Our members of the body; those that say nothing are left out, `type` is always there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// What kind of message it is.
    #[serde(rename = "type")]
    pub kind: ContentKind,
    /// Id of the message that this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<String>,
    /// Whether the sender wants it to be looked at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub view_once: bool,
    /// What it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<Quoted>,
    /// JIDs that the text mentions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
    /// A place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Contact cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
    /// A reaction to a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaction: Option<Reaction>,
    /// A poll, or the poll that a vote is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
    /// The button or row that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// A sticker's file name below `/media`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticker: Option<String>,
    /// The file's type, as its sender names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mimetype: Option<String>,
    /// The file's name, as its sender names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// The file's length in bytes, as its sender names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How long a video or a sound runs, as its sender says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// Why there is no file although the message has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_error: Option<String>,
}

/// The kinds of messages that are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// Plain or extended text.
    Text,
    /// A picture.
    Image,
    /// A video, round ones too.
    Video,
    /// Audio, voice notes too.
    Audio,
    /// Any file.
    Document,
    /// A sticker.
    Sticker,
    /// A place, live ones too.
    Location,
    /// One or more contact cards.
    Contact,
    /// A poll.
    Poll,
    /// A vote in a poll.
    PollVote,
    /// A reaction, or its withdrawal.
    Reaction,
    /// A choice among buttons or rows.
    Button,
    /// A new version of an earlier message.
    Edit,
    /// Anything else.
    #[default]
    Unknown,
}

/// The message that another one answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quoted {
    /// Its id.
    pub id: String,
    /// Who wrote it, as a JID.
    pub participant: Option<String>,
    /// Its text.
    pub text: Option<String>,
}

/// A place on earth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Degrees.
    pub latitude: f64,
    /// Degrees.
    pub longitude: f64,
    /// What the place is called.
    pub name: Option<String>,
    /// Its postal address.
    pub address: Option<String>,
}

/// A contact card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The name shown.
    pub name: Option<String>,
    /// The card itself.
    pub vcard: Option<String>,
}

/// A reaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    /// Id of the message that it is for.
    pub id: Option<String>,
    /// The emoji; empty: the reaction is withdrawn.
    pub text: String,
}

/// A poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// For a vote, the id of the poll's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The answers to choose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// What a vote chooses now, none: it is taken back; absent when the poll is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Vec<String>>,
}

/// A chosen button or row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The id that the sender of the buttons gave it.
    pub id: Option<String>,
    /// What was written on it.
    pub text: Option<String>,
}

/// The kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A picture.
    Image,
    /// A video.
    Video,
    /// Audio.
    Audio,
    /// Any file.
    Document,
    /// A sticker.
    Sticker,
}

/// Everything that is needed to download a received file later.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// What it is; decides the keys.
    pub kind: FileKind,
    /// The chat's address as it came over the wire.
    pub chat: String,
    /// The sender's address without its device.
    pub sender: String,
    /// The message id, chosen by a stranger.
    pub id: String,
    /// Its place below WhatsApp's media hosts, with the slash in front.
    pub direct_path: String,
    /// `None`: the file is not encrypted (channels).
    pub media_key: Option<Vec<u8>>,
    /// Hash of the file.
    pub file_sha256: Option<Vec<u8>>,
    /// Hash of the encrypted file.
    pub file_enc_sha256: Option<Vec<u8>>,
    /// Length of the file as its sender names it.
    pub file_length: u64,
    /// What the original puts behind the last dot of its name; chosen by a stranger for documents.
    pub extension: String,
}

impl fmt::Debug for Attachment {
    /// Without its key and its place: who has both has the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").field("kind", &self.kind).field("id", &self.id).finish_non_exhaustive()
    }
}
