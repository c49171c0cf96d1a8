//! Words that both edges share: whom a message goes to, what was sent, what came in.
//!
//! Pure values; the HTTP handlers and the webhook bodies are spelt from them.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

pub mod incoming;
mod outgoing;
mod poll;
mod progress;

pub use incoming::{Attachment, FileKind, Incoming, Media};
pub use outgoing::{About, Author, Contact, Content, File, Location, Outgoing, Poll, Profile, Quote, Sent, Target};
pub use poll::KnownPoll;
pub use progress::{Progress, Step, Teller};

/// A validated target of an outgoing message.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The account's or group's JID.
    address: String,
    /// As the contract builds it from what the client wrote, when that is another spelling of the address.
    spelt: Option<String>,
}

impl PartialEq for Recipient {
    /// However it was spelt.
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for Recipient {}

impl std::hash::Hash for Recipient {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

/// Why a `to` can't be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// Nothing is left of the text.
    #[error("parameter \"to\" is required")]
    Empty,
    /// The user part is no phone number, group id or LID.
    #[error("parameter \"to\" is not a phone number or a WhatsApp address")]
    Malformed,
    /// The part after the `@` is no server that takes messages.
    #[error("parameter \"to\" names an unknown kind of WhatsApp address")]
    UnknownServer,
}

/// Digits of a phone number or LID: short ones occur in tests of clients, WhatsApp's own ids stay below 20.
const USER_DIGITS: std::ops::RangeInclusive<usize> = 3..=20;

/// Characters of a group id: today's have 18 digits, the old ones are a creator's number, a dash and a time.
const GROUP_CHARS: std::ops::RangeInclusive<usize> = 5..=40;

impl Recipient {
    /// The same recipient at another address, as WhatsApp spells it.
    #[must_use]
    pub fn at(self, address: String) -> Self {
        let spelt = self.spelt.unwrap_or(self.address);
        Self { spelt: Some(spelt).filter(|spelt| *spelt != address), address }
    }

    /// Builds the address from what a client sent, by the rules of wa-gateway 4.7.1, then checks that it can be one.
    ///
    /// White space and `+` are removed everywhere; what still has an `@` is an address, whatever `is_group` says; a
    /// group id keeps its dash, a phone number loses all of them.
    ///
    /// # Errors
    /// By [`RecipientError`].
    pub fn parse(to: &str, is_group: bool) -> Result<Self, RecipientError> {
        // JavaScript's \s, which the original removes, counts the byte order mark too.
        let text: String = to.chars().filter(|c| !c.is_whitespace() && !matches!(c, '+' | '\u{feff}')).collect();
        if let Some((user, server)) = text.split_once('@') {
            return Self::check(user, server);
        }
        let without_dashes = text.replace('-', "");
        if without_dashes.is_empty() {
            return Err(RecipientError::Empty);
        }
        match is_group {
            true if is_group_id(&text) => Self::check(&text, "g.us"),
            true => Self::check(&without_dashes, "g.us"),
            false => Self::check(&without_dashes, "s.whatsapp.net"),
        }
    }

    fn check(user: &str, server: &str) -> Result<Self, RecipientError> {
        let (account, at, fits) = match server {
            "g.us" => (user, "g.us", GROUP_CHARS.contains(&user.len()) && is_group_id(user)),
            // whatsmeow: c.us is the old spelling of s.whatsapp.net.
            "s.whatsapp.net" | "c.us" | "lid" => {
                // A message goes to an account, not to one of its devices.
                let account = match user.split_once(':') {
                    Some((account, device)) if is_digits(device) => account,
                    _ => user,
                };
                let server = if server == "lid" { "lid" } else { "s.whatsapp.net" };
                (account, server, USER_DIGITS.contains(&account.len()) && is_digits(account))
            }
            _ => return Err(RecipientError::UnknownServer),
        };
        if !fits {
            return Err(RecipientError::Malformed);
        }
        let (address, spelt) = (format!("{account}@{at}"), format!("{user}@{server}"));
        Ok(Self { spelt: Some(spelt).filter(|spelt| *spelt != address), address })
    }

    /// The address as `user@server`.
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// The address as answers repeat it: with `c.us` or a device when the client wrote so.
    pub fn spelt(&self) -> &str {
        self.spelt.as_deref().unwrap_or(&self.address)
    }

    /// Whether the target is a group.
    pub fn is_group(&self) -> bool {
        self.address.ends_with("@g.us")
    }
}

/// Where a file comes from that is to be sent, as the client named it; nothing of it is checked yet.
#[derive(Clone)]
pub enum MediaSource {
    /// An `http`, `https` or `data` URL; any other text is refused when it is fetched.
    Url(Given),
    /// The bytes in base64, with or without a data URL's prefix.
    Base64(Given),
    /// A file that came with the request.
    Upload(Upload),
}

/// A text that a client gave, and what is held for as long as it is in memory; clones share that.
#[derive(Clone)]
pub struct Given {
    text: String,
    held: Option<Arc<dyn Any + Send + Sync>>,
}

impl Given {
    /// The same, holding this: a place among large requests, say.
    #[must_use]
    pub fn holding(self, held: impl Any + Send + Sync) -> Self {
        Self { held: Some(Arc::new(held)), ..self }
    }
}

impl From<String> for Given {
    fn from(text: String) -> Self {
        Self { text, held: None }
    }
}

impl Deref for Given {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// A file that a client sent along; it is removed with the last clone.
#[derive(Clone)]
pub struct Upload {
    /// The file on our disk.
    pub file: Arc<tempfile::TempPath>,
    /// Its size.
    pub bytes: u64,
    /// The name that the client gave it.
    pub name: Option<String>,
    /// The type that the client gave it.
    pub mime: Option<String>,
}

// Neither shows what a client sends: URLs carry tokens, names and contents are private.
impl fmt::Debug for MediaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "Url({} bytes)", url.len()),
            Self::Base64(text) => write!(f, "Base64({} bytes)", text.len()),
            Self::Upload(upload) => upload.fmt(f),
        }
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("bytes", &self.len()).field("holds", &self.held.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("bytes", &self.bytes).field("mime", &self.mime).finish_non_exhaustive()
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Digits, or digits, one dash, digits.
fn is_group_id(text: &str) -> bool {
    match text.split_once('-') {
        Some((creator, time)) => is_digits(creator) && is_digits(time),
        None => is_digits(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_built_as_the_original_builds_them() {
        for (to, is_group, address) in [
            ("6281234567890", false, "6281234567890@s.whatsapp.net"),
            ("+6281234567890", false, "6281234567890@s.whatsapp.net"),
            ("+62 812-3456-7890", false, "6281234567890@s.whatsapp.net"),
            (" 62812", false, "62812@s.whatsapp.net"),
            ("\t62\n812", false, "62812@s.whatsapp.net"),
            ("62\u{a0}812\u{feff}", false, "62812@s.whatsapp.net"),
            ("628", false, "628@s.whatsapp.net"),
            ("081234567890", false, "081234567890@s.whatsapp.net"),
            ("6281234567890@s.whatsapp.net", false, "6281234567890@s.whatsapp.net"),
            ("+62 812@s.whatsapp.net", false, "62812@s.whatsapp.net"),
            ("62812@s.whatsapp.net", true, "62812@s.whatsapp.net"),
            ("62812@c.us", false, "62812@s.whatsapp.net"),
            ("62812:5@s.whatsapp.net", false, "62812@s.whatsapp.net"),
            ("123456@lid", false, "123456@lid"),
            ("123456789012345:7@lid", false, "123456789012345@lid"),
            ("120363012345678901", true, "120363012345678901@g.us"),
            ("120363012345678901@g.us", false, "120363012345678901@g.us"),
            ("120363012345678901@g.us", true, "120363012345678901@g.us"),
            ("6281234567890-1600000000", true, "6281234567890-1600000000@g.us"),
            ("6281234567890-1600000000@g.us", false, "6281234567890-1600000000@g.us"),
            ("62-81-2", true, "62812@g.us"),
        ] {
            let recipient = Recipient::parse(to, is_group).unwrap_or_else(|error| panic!("{to:?} {is_group}: {error}"));
            assert_eq!(recipient.as_str(), address, "{to:?} {is_group}");
            assert_eq!(recipient.is_group(), address.ends_with("@g.us"), "{to:?} {is_group}");
        }
        for (to, spelt) in [
            ("62812", "62812@s.whatsapp.net"),
            ("62 812@c.us", "62812@c.us"),
            ("62812:5@s.whatsapp.net", "62812:5@s.whatsapp.net"),
        ] {
            let recipient = Recipient::parse(to, false).unwrap();
            assert_eq!((recipient.spelt(), recipient.as_str()), (spelt, "62812@s.whatsapp.net"));
            assert_eq!(recipient, Recipient::parse("62812", false).unwrap());
        }
    }

    #[test]
    fn any_text_is_an_address_or_refused() {
        let texts = "(\\+?[0-9 -]{0,24}|.{0,30})(@(s\\.whatsapp\\.net|g\\.us|lid|c\\.us|.{0,8}))?";
        crate::property::holds((texts, proptest::bool::ANY), |(to, is_group)| {
            let Ok(recipient) = Recipient::parse(&to, is_group) else { return };
            let (user, server) = recipient.as_str().split_once('@').unwrap();
            assert!(["s.whatsapp.net", "g.us", "lid"].contains(&server), "{recipient:?}");
            assert!(!user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'), "{user}");
            assert_eq!(Recipient::parse(recipient.as_str(), !is_group).as_ref(), Ok(&recipient), "it stays what it is");
        });
    }

    #[test]
    fn what_can_be_no_address_is_refused() {
        use RecipientError::{Empty, Malformed, UnknownServer};
        for (to, is_group, error) in [
            ("", false, Empty),
            ("", true, Empty),
            (" \n", false, Empty),
            ("+", false, Empty),
            ("-", false, Empty),
            ("--", true, Empty),
            ("0", false, Malformed),
            ("62.812.345", false, Malformed),
            ("(62)812345", false, Malformed),
            ("budi", false, Malformed),
            ("\u{666}\u{662}\u{661}", false, Malformed),
            ("6281234567890-1600000000", false, Malformed),
            ("123456789012345678901", false, Malformed),
            ("62-812@s.whatsapp.net", false, Malformed),
            ("62812:@s.whatsapp.net", false, Malformed),
            ("62812:x@s.whatsapp.net", false, Malformed),
            (":5@s.whatsapp.net", false, Malformed),
            ("@s.whatsapp.net", false, Malformed),
            ("@g.us", false, Malformed),
            ("1-2-3@g.us", false, Malformed),
            ("12345-@g.us", false, Malformed),
            ("name", true, Malformed),
            ("@", false, UnknownServer),
            ("62812@", false, UnknownServer),
            ("62812@s.whatsapp.net@s.whatsapp.net", false, UnknownServer),
            ("62812@example.com", false, UnknownServer),
            ("123@newsletter", false, UnknownServer),
            ("status@broadcast", false, UnknownServer),
        ] {
            assert_eq!(Recipient::parse(to, is_group), Err(error), "{to:?} {is_group}");
        }
    }
}
