//! What is to be sent, and what became of it: plain values that the HTTP edge fills in and spells back.

use bytes::Bytes;

use super::{MediaSource, Recipient};

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What it says.
    pub content: Content,
    /// The message that it answers.
    pub quote: Option<Quote>,
    /// Who is told that the text names them.
    pub mentions: Vec<Recipient>,
}

impl Outgoing {
    /// A message without reply and mentions.
    pub fn new(content: Content) -> Self {
        Self { content, quote: None, mentions: Vec::new() }
    }

    /// A plain text.
    pub fn text(text: String) -> Self {
        Self::new(Content::Text(text))
    }
}

/// The kinds of messages that can be sent.
#[derive(Clone, Debug)]
pub enum Content {
    /// A text.
    Text(String),
    /// A picture.
    Image {
        /// Where its bytes come from.
        source: MediaSource,
        /// May be empty.
        caption: String,
    },
    /// A video.
    Video {
        /// Where its bytes come from.
        source: MediaSource,
        /// May be empty.
        caption: String,
    },
    /// A file of any kind, bytes unchanged.
    Document {
        /// Where its bytes come from.
        source: MediaSource,
        /// The name that the recipient sees; its extension decides the type.
        name: String,
        /// May be empty.
        caption: String,
    },
    /// A sticker, converted to WebP when it is none.
    Sticker {
        /// Where its bytes come from.
        source: MediaSource,
    },
    /// A sound.
    Audio {
        /// Where its bytes come from.
        source: MediaSource,
        /// `true`: a voice note, which must be Opus in an Ogg file.
        voice: bool,
    },
    /// A place.
    Location(Location),
    /// Address cards, at least one.
    Contacts(Vec<Contact>),
    /// A question with answers to choose from.
    Poll(Poll),
    /// An emoji on a message; an empty one takes it back.
    Reaction {
        /// The message that it stands on.
        target: Target,
        /// The emoji.
        emoji: String,
    },
    /// A new text for one of our own messages.
    Edit {
        /// The id of the message.
        id: String,
        /// What it shall say.
        text: String,
    },
    /// Deletes a message for everyone: our own, or as a group's admin anybody's.
    Delete(Target),
}

impl Content {
    /// Where the bytes of its file come from, for the kinds that have one.
    pub fn source(&self) -> Option<&MediaSource> {
        match self {
            Self::Image { source, .. }
            | Self::Video { source, .. }
            | Self::Document { source, .. }
            | Self::Sticker { source }
            | Self::Audio { source, .. } => Some(source),
            Self::Text(_)
            | Self::Location(_)
            | Self::Contacts(_)
            | Self::Poll(_)
            | Self::Reaction { .. }
            | Self::Edit { .. }
            | Self::Delete(_) => None,
        }
    }

    /// The text that is typed before it is sent; `None`: nothing is.
    pub fn typed(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image { caption, .. } | Self::Video { caption, .. } | Self::Document { caption, .. } => Some(caption),
            Self::Sticker { .. }
            | Self::Audio { .. }
            | Self::Location(_)
            | Self::Contacts(_)
            | Self::Poll(_)
            | Self::Reaction { .. }
            | Self::Edit { .. }
            | Self::Delete(_) => None,
        }
    }
}

/// The message that another one answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Its id.
    pub id: String,
    /// Who wrote it.
    pub author: Author,
    /// What it said: shown by apps that do not have it. May be empty.
    pub text: String,
}

/// An earlier message that this one acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub id: String,
    /// Who wrote it.
    pub author: Author,
}

/// Who wrote an earlier message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// This session's account.
    Me,
    /// The other side of a one-to-one chat.
    Peer,
    /// A member of a group.
    Member(Recipient),
}

/// A place on a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// Degrees north, -90 to 90.
    pub latitude: f64,
    /// Degrees east, -180 to 180.
    pub longitude: f64,
    /// What the place is called.
    pub name: Option<String>,
    /// Where it is, in words.
    pub address: Option<String>,
}

/// Somebody's address card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The full name.
    pub name: String,
    /// The phone number, digits only.
    pub phone: String,
}

impl Contact {
    /// The card as WhatsApp's apps write it; `waid` lets them offer a chat with the number.
    pub fn vcard(&self) -> String {
        // RFC 2426, section 5: these have a meaning of their own inside of a value.
        let mut name = String::with_capacity(self.name.len());
        for character in self.name.chars() {
            match character {
                '\\' | ',' | ';' => name.extend(['\\', character]),
                '\n' => name.push_str("\\n"),
                '\r' => {}
                _ => name.push(character),
            }
        }
        let phone = &self.phone;
        format!(
            "BEGIN:VCARD\nVERSION:3.0\nN:;{name};;;\nFN:{name}\nTEL;type=CELL;type=VOICE;waid={phone}:+{phone}\nEND:VCARD"
        )
    }
}

/// A question with answers to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The question.
    pub question: String,
    /// The answers, 2 to 12, all different.
    pub options: Vec<String>,
    /// How many may be chosen, 1 to all of them.
    pub selectable: u32,
}

/// A file as WhatsApp's media servers hold it, and what the message tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Where it can be fetched.
    pub url: String,
    /// The path at any of the media hosts.
    pub direct_path: String,
    /// The key that its encryption is derived from.
    pub media_key: [u8; 32],
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// SHA-256 of the encrypted bytes.
    pub encrypted_sha256: [u8; 32],
    /// How many bytes it has.
    pub bytes: u64,
    /// When the key was made, in Unix seconds.
    pub key_timestamp: i64,
    /// Lets apps play it while it loads.
    pub sidecar: Option<Vec<u8>>,
    /// The media type.
    pub mime: String,
    /// In pixels, when known.
    pub width: Option<u32>,
    /// In pixels, when known.
    pub height: Option<u32>,
    /// The duration, when known.
    pub seconds: Option<u32>,
    /// A small JPEG.
    pub thumbnail: Option<Bytes>,
    /// Whether a sticker moves; apps show a still one otherwise.
    pub animated: bool,
}

/// A message that WhatsApp's server has acknowledged.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The chat it went to, as `user@server`.
    pub remote_jid: String,
    /// The same as the client spelt it, which answers repeat.
    pub spelt_jid: String,
    /// The message id that we chose.
    pub id: String,
    /// What was sent.
    pub message: Outgoing,
    /// The file that went with it.
    pub file: Option<File>,
    /// The server's time of acceptance in Unix seconds.
    pub timestamp: u64,
    /// Our own time in the message, in Unix milliseconds.
    pub composed_ms: i64,
    /// Our own account, as `user@server`.
    pub own_jid: String,
    /// Our own JID with the device; told for groups and status only (contract section 5).
    pub participant: Option<String>,
}

impl Sent {
    /// The JID of somebody who wrote an earlier message of this chat.
    pub fn author_jid<'a>(&'a self, author: &'a Author) -> &'a str {
        match author {
            Author::Me => &self.own_jid,
            Author::Peer => &self.remote_jid,
            Author::Member(member) => member.as_str(),
        }
    }
}

/// What an account or a group shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The picture; `None`: it has none, or hides it.
    pub picture_url: Option<String>,
    /// `None`: it has none, or hides it. A group's is its description.
    pub about: Option<About>,
}

/// The words below a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The words.
    pub text: String,
    /// Since when, in Unix seconds; 0 when unknown.
    pub since: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_the_number_and_escapes_the_name() {
        let card = Contact { name: "Budi; \"Toko\", A\\B\r\nC".to_owned(), phone: "6281234567890".to_owned() };
        assert_eq!(
            card.vcard(),
            "BEGIN:VCARD\nVERSION:3.0\nN:;Budi\\; \"Toko\"\\, A\\\\B\\nC;;;\nFN:Budi\\; \"Toko\"\\, A\\\\B\\nC\nTEL;type=CELL;type=VOICE;waid=6281234567890:+6281234567890\nEND:VCARD"
        );
    }
}
