//! The fields of the endpoints below `/message`, in the contract's words.

use serde_json::Value;

use crate::http::error::ApiError;
use crate::http::extract::Fields;
use crate::http::repeat::Header;
use crate::message::{Author, Contact, Content, Location, Outgoing, Poll, Quote, Recipient};
use crate::session::Repeat;

/// Names that one text may mention: a group has 1,024 members.
const MAX_MENTIONS: usize = 1024;
/// Cards in one message; WhatsApp's apps let people choose fewer.
const MAX_CONTACTS: usize = 100;
/// whatsapp-rust 0.7.0, `features/polls.rs`, as WhatsApp's apps.
const POLL_OPTIONS: std::ops::RangeInclusive<usize> = 2..=12;
/// The longest id of a message; WhatsApp's own are half as long.
const MAX_ID_BYTES: usize = 128;
/// The longest emoji is a family of joined ones.
const MAX_EMOJI_BYTES: usize = 64;

/// Whether an endpoint takes `text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Required,
    Optional,
    None,
}

/// What every message says first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) session: String,
    pub(super) to: String,
    pub(super) is_group: bool,
    /// The request may come again.
    pub(super) repeat: Option<Repeat>,
}

impl Head {
    /// Reads the fields that come first, and the text: empty when it may be absent and is.
    pub(super) fn read(fields: &Fields, text: Text) -> Result<(Self, String), ApiError> {
        let session = fields.string("session")?;
        let to = fields.digits_or_string("to")?;
        let text = match text {
            Text::Required => fields.string("text")?,
            Text::Optional => fields.optional_string("text")?.unwrap_or_default(),
            Text::None => String::new(),
        };
        // The second spelling is not the original's.
        let names: &[&str] = if fields.is_null("isGroup") { &["is_group"] } else { &["is_group", "isGroup"] };
        let is_group = fields.flag(names)?;
        let repeat = fields.repeat.as_ref().map(Header::checked).transpose()?;
        Ok((Self { session, to, is_group, repeat }, text))
    }
}

/// The reply and the mentions that most kinds may have.
#[derive(Debug)]
pub(super) struct Extras {
    reply: Option<Reply>,
    mentions: Vec<Recipient>,
}

#[derive(Debug)]
struct Reply {
    id: String,
    participant: Option<Recipient>,
    from_me: bool,
    text: String,
}

impl Extras {
    pub(super) fn read(fields: &Fields) -> Result<Self, ApiError> {
        let mut reply = None;
        if fields.is_filled("reply_to") {
            reply = Some(Reply {
                id: message_id(fields, "reply_to")?,
                participant: participant(fields, "reply_to_participant")?,
                from_me: flag(fields, &["reply_to_from_me"])?,
                text: text(fields, "reply_to_text")?.unwrap_or_default(),
            });
        }
        Ok(Self { reply, mentions: mentions(fields)? })
    }

    /// The message of this content, once it is known whom it goes to.
    pub(super) fn with(self, content: Content, to: &Recipient, fields: &Fields) -> Result<Outgoing, ApiError> {
        let quote = match self.reply {
            None => None,
            Some(reply) => Some(Quote {
                author: author(fields, "reply_to_participant", reply.participant, reply.from_me, to)?,
                id: reply.id,
                text: reply.text,
            }),
        };
        Ok(Outgoing { content, quote, mentions: self.mentions })
    }
}

/// Who wrote an earlier message of the chat; a group has to be told.
pub(super) fn author(
    fields: &Fields,
    name: &str,
    participant: Option<Recipient>,
    from_me: bool,
    to: &Recipient,
) -> Result<Author, ApiError> {
    match participant {
        _ if from_me => Ok(Author::Me),
        Some(member) if member == *to => Ok(Author::Peer),
        Some(member) => Ok(Author::Member(member)),
        None if to.is_group() => Err(fields.required(name)),
        None => Ok(Author::Peer),
    }
}

/// A text that the original does not have: one that is null is absent.
fn text(fields: &Fields, name: &str) -> Result<Option<String>, ApiError> {
    fields.is_given(name).then(|| fields.string(name)).transpose()
}

/// The first of these flags that is given; the original has none of them.
pub(super) fn flag(fields: &Fields, names: &[&str]) -> Result<bool, ApiError> {
    let given: Vec<_> = names.iter().copied().filter(|name| fields.is_given(name)).collect();
    fields.flag(&given)
}

/// The id of an earlier message.
pub(super) fn message_id(fields: &Fields, name: &str) -> Result<String, ApiError> {
    let id = fields.string(name)?;
    match id.trim() {
        "" => Err(fields.invalid(name, "must not be empty")),
        id if id.len() > MAX_ID_BYTES => Err(fields.invalid(name, "is too long")),
        id => Ok(id.to_owned()),
    }
}

/// A person, by number or address.
pub(super) fn participant(fields: &Fields, name: &str) -> Result<Option<Recipient>, ApiError> {
    if !fields.is_given(name) {
        return Ok(None);
    }
    let text = fields.digits_or_string(name)?;
    person(&text).map(Some).ok_or_else(|| fields.invalid(name, "is not a phone number or a WhatsApp address"))
}

fn person(text: &str) -> Option<Recipient> {
    Recipient::parse(text, false).ok().filter(|person| !person.is_group())
}

/// Who is told that the text names them.
pub(super) fn mentions(fields: &Fields) -> Result<Vec<Recipient>, ApiError> {
    if !fields.is_filled("mentions") {
        return Ok(Vec::new());
    }
    let items = fields.list("mentions")?;
    if items.len() > MAX_MENTIONS {
        return Err(fields.invalid("mentions", &format!("must have at most {MAX_MENTIONS} items")));
    }
    let read = |(at, item): (usize, &Value)| {
        let name = format!("mentions.{at}");
        let text = digits_or_text(item).ok_or_else(|| fields.expected("string", item, &name))?;
        person(&text).ok_or_else(|| fields.invalid(&name, "is not a phone number or a WhatsApp address"))
    };
    items.iter().enumerate().map(read).collect()
}

fn digits_or_text(item: &Value) -> Option<String> {
    match item {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// An emoji, or nothing, which takes one back.
pub(super) fn emoji(fields: &Fields) -> Result<String, ApiError> {
    let emoji = fields.string("reaction")?;
    if emoji.len() > MAX_EMOJI_BYTES {
        return Err(fields.invalid("reaction", "must be one emoji"));
    }
    Ok(emoji)
}

pub(super) fn location(fields: &Fields) -> Result<Location, ApiError> {
    let latitude = fields.number("latitude")?;
    if !(-90.0..=90.0).contains(&latitude) {
        return Err(fields.invalid("latitude", "must be between -90 and 90"));
    }
    let longitude = fields.number("longitude")?;
    if !(-180.0..=180.0).contains(&longitude) {
        return Err(fields.invalid("longitude", "must be between -180 and 180"));
    }
    let (name, address) = (text(fields, "name")?, text(fields, "address")?);
    Ok(Location { latitude, longitude, name, address })
}

/// `contacts` as `[{name, phone}]`, or one as `contact_name` and `contact_phone`.
pub(super) fn contacts(fields: &Fields) -> Result<Vec<Contact>, ApiError> {
    if fields.is_given("contact_name") || fields.is_given("contact_phone") {
        let name = fields.string("contact_name")?;
        let phone = fields.digits_or_string("contact_phone")?;
        return Ok(vec![contact(fields, "contact_name", &name, "contact_phone", &phone)?]);
    }
    if !fields.is_given("contacts") {
        return Err(fields.required("contacts"));
    }
    let items = fields.list("contacts")?;
    if !(1..=MAX_CONTACTS).contains(&items.len()) {
        return Err(fields.invalid("contacts", &format!("must have 1 to {MAX_CONTACTS} items")));
    }
    let read = |(at, item): (usize, &Value)| {
        let path = format!("contacts.{at}");
        let Value::Object(members) = item else { return Err(fields.expected("object", item, &path)) };
        let member = |name: &str| {
            let path = format!("{path}.{name}");
            let value = members.get(name).ok_or_else(|| fields.required(&path))?;
            digits_or_text(value).ok_or_else(|| fields.expected("string", value, &path))
        };
        let (name, phone) = (member("name")?, member("phone")?);
        contact(fields, &format!("{path}.name"), &name, &format!("{path}.phone"), &phone)
    };
    items.iter().enumerate().map(read).collect()
}

fn contact(fields: &Fields, at_name: &str, name: &str, at_phone: &str, phone: &str) -> Result<Contact, ApiError> {
    if name.trim().is_empty() {
        return Err(fields.invalid(at_name, "must not be empty"));
    }
    let number = person(phone).filter(|person| person.as_str().ends_with("@s.whatsapp.net"));
    let number = number.as_ref().and_then(|person| person.as_str().split('@').next());
    let number = number.ok_or_else(|| fields.invalid(at_phone, "is not a phone number"))?;
    Ok(Contact { name: name.trim().to_owned(), phone: number.to_owned() })
}

pub(super) fn poll(fields: &Fields) -> Result<Poll, ApiError> {
    let question = fields.string("question")?;
    if question.trim().is_empty() {
        return Err(fields.invalid("question", "must not be empty"));
    }
    if !fields.has("options") {
        return Err(fields.required("options"));
    }
    let items = fields.list("options")?;
    let mut options: Vec<String> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let name = format!("options.{at}");
        let Value::String(option) = item else { return Err(fields.expected("string", item, &name)) };
        if option.trim().is_empty() {
            return Err(fields.invalid(&name, "must not be empty"));
        }
        // Votes name an option by the hash of its text.
        if options.contains(option) {
            return Err(fields.invalid(&name, "must differ from the other options"));
        }
        options.push(option.clone());
        if options.len() > *POLL_OPTIONS.end() {
            break;
        }
    }
    if !POLL_OPTIONS.contains(&options.len()) {
        return Err(fields.invalid("options", "must have 2 to 12 items"));
    }
    let selectable = fields.is_given("max_selections").then(|| fields.optional_whole("max_selections")).transpose()?;
    let selectable = selectable.flatten().unwrap_or(1);
    let fits = usize::try_from(selectable).is_ok_and(|selectable| (1..=options.len()).contains(&selectable));
    if !fits {
        return Err(fields.invalid("max_selections", &format!("must be between 1 and {}", options.len())));
    }
    Ok(Poll { question, options, selectable })
}

#[cfg(test)]
mod tests;
