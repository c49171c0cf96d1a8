//! What is in a decrypted message, once its wrappers are opened: text, kind, the small objects, the file.
//!
//! Pure. Everything here was written by a stranger.

use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::proto_helpers::MessageExt as _;
use whatsapp_rust::waproto::whatsapp as wa;

use crate::message::incoming::{Choice, Contact, Content, ContentKind, FileKind, Location, Poll, Quoted, Reaction};

/// Wrappers in wrappers that are opened; apps make three at most.
const MAX_DEPTH: usize = 8;
/// Contacts, options and mentions told of one message; apps allow fewer of each.
const MAX_ITEMS: usize = 1_024;

/// A message without its wrappers.
pub(super) struct Opened<'a> {
    pub(super) message: &'a wa::Message,
    /// Id of the message that this one replaces.
    pub(super) edited: Option<&'a str>,
    pub(super) view_once: bool,
}

/// Takes every wrapper off, those of an edit too.
pub(super) fn open(message: &wa::Message) -> Opened<'_> {
    let mut opened = Opened { message, edited: None, view_once: false };
    for _ in 0..MAX_DEPTH {
        let m = opened.message;
        let once = [&m.view_once_message, &m.view_once_message_v2, &m.view_once_message_v2_extension];
        let others = [
            &m.ephemeral_message,
            &m.document_with_caption_message,
            &m.edited_message,
            &m.group_mentioned_message,
            &m.associated_child_message,
            &m.lottie_sticker_message,
            &m.poll_creation_message_v4,
            &m.spoiler_message,
            &m.bot_invoke_message,
        ];
        if let Some(inner) = m.device_sent_message.as_option().and_then(|m| m.message.as_option()) {
            opened.message = inner;
        } else if let Some(inner) = once.into_iter().find_map(inner) {
            opened.message = inner;
            opened.view_once = true;
        } else if let Some(inner) = others.into_iter().find_map(inner) {
            opened.message = inner;
        } else if let Some(protocol) = m.protocol_message.as_option()
            && let Some(inner) = protocol.edited_message.as_option()
        {
            opened.edited = protocol.key.as_option().and_then(|key| key.id.as_deref());
            opened.message = inner;
        } else {
            break;
        }
    }
    opened
}

fn inner(wrapper: &MessageField<wa::message::FutureProofMessage>) -> Option<&wa::Message> {
    wrapper.as_option()?.message.as_option()
}

/// wa-gateway 4.7.1: the first that is not empty of these.
pub(super) fn text(m: &wa::Message) -> Option<String> {
    [
        m.conversation.as_deref(),
        m.extended_text_message.as_option().and_then(|m| m.text.as_deref()),
        m.image_message.as_option().and_then(|m| m.caption.as_deref()),
        m.video_message.as_option().and_then(|m| m.caption.as_deref()),
        m.document_message.as_option().and_then(|m| m.caption.as_deref()),
        m.contact_message.as_option().and_then(|m| m.display_name.as_deref()),
        m.location_message.as_option().and_then(|m| m.comment.as_deref()),
        m.live_location_message.as_option().and_then(|m| m.caption.as_deref()),
    ]
    .into_iter()
    .flatten()
    .find(|text| !text.is_empty())
    .map(str::to_owned)
}

/// Our members of the webhook's body, apart from those that a file gets when it is there.
pub(super) fn content(opened: &Opened<'_>) -> Content {
    let m = opened.message;
    let mut content = Content {
        kind: kind(m),
        edited: opened.edited.map(str::to_owned),
        view_once: opened.view_once || m.is_view_once(),
        location: location(m),
        contacts: contacts(m),
        reaction: m.reaction_message.as_option().map(|reaction| Reaction {
            id: reaction.key.as_option().and_then(|key| key.id.clone()),
            text: reaction.text.clone().unwrap_or_default(),
        }),
        poll: poll(m),
        choice: choice(m),
        ..Content::default()
    };
    if opened.edited.is_some() {
        content.kind = ContentKind::Edit;
    }
    if let Some(context) = context(m) {
        content.mentions = context.mentioned_jid.iter().take(MAX_ITEMS).cloned().collect();
        content.quoted = context.stanza_id.clone().filter(|id| !id.is_empty()).map(|id| Quoted {
            id,
            participant: context.participant.clone(),
            text: context.quoted_message.as_option().and_then(|quoted| text(open(quoted).message)),
        });
    }
    if let Some(file) = file(m) {
        content.mimetype = file.mimetype.map(str::to_owned);
        content.file_name = file.name.map(str::to_owned);
        content.size = file.length;
        content.seconds = file.seconds;
    }
    content
}

fn kind(m: &wa::Message) -> ContentKind {
    let kinds = [
        (m.conversation.is_some() || m.extended_text_message.is_set(), ContentKind::Text),
        (m.image_message.is_set(), ContentKind::Image),
        (m.video_message.is_set() || m.ptv_message.is_set(), ContentKind::Video),
        (m.audio_message.is_set(), ContentKind::Audio),
        (m.document_message.is_set(), ContentKind::Document),
        (m.sticker_message.is_set(), ContentKind::Sticker),
        (m.location_message.is_set() || m.live_location_message.is_set(), ContentKind::Location),
        (m.contact_message.is_set() || m.contacts_array_message.is_set(), ContentKind::Contact),
        (created_poll(m).is_some(), ContentKind::Poll),
        (m.poll_update_message.is_set(), ContentKind::PollVote),
        (m.reaction_message.is_set() || m.enc_reaction_message.is_set(), ContentKind::Reaction),
        (choice(m).is_some(), ContentKind::Button),
    ];
    kinds.into_iter().find(|(is_set, _)| *is_set).map_or(ContentKind::Unknown, |(_, kind)| kind)
}

fn location(m: &wa::Message) -> Option<Location> {
    if let Some(place) = m.location_message.as_option() {
        let (latitude, longitude) = (place.degrees_latitude?, place.degrees_longitude?);
        return on_earth(Location { latitude, longitude, name: place.name.clone(), address: place.address.clone() });
    }
    let live = m.live_location_message.as_option()?;
    let (latitude, longitude) = (live.degrees_latitude?, live.degrees_longitude?);
    on_earth(Location { latitude, longitude, name: None, address: None })
}

/// JSON has no infinities.
fn on_earth(location: Location) -> Option<Location> {
    (location.latitude.is_finite() && location.longitude.is_finite()).then_some(location)
}

fn contacts(m: &wa::Message) -> Vec<Contact> {
    let card =
        |card: &wa::message::ContactMessage| Contact { name: card.display_name.clone(), vcard: card.vcard.clone() };
    let one = m.contact_message.as_option().into_iter();
    let many = m.contacts_array_message.as_option().into_iter().flat_map(|array| &array.contacts);
    one.chain(many).take(MAX_ITEMS).map(card).collect()
}

pub(super) fn created_poll(m: &wa::Message) -> Option<&wa::message::PollCreationMessage> {
    let versions = [
        &m.poll_creation_message,
        &m.poll_creation_message_v2,
        &m.poll_creation_message_v3,
        &m.poll_creation_message_v5,
        &m.poll_creation_message_v6,
    ];
    versions.into_iter().find_map(MessageField::as_option)
}

fn poll(m: &wa::Message) -> Option<Poll> {
    if let Some(poll) = created_poll(m) {
        return Some(Poll { name: poll.name.clone(), options: options(poll), ..Poll::default() });
    }
    let vote = m.poll_update_message.as_option()?;
    let id = vote.poll_creation_message_key.as_option().and_then(|key| key.id.clone());
    Some(Poll { id, ..Poll::default() })
}

/// The names of a poll's options.
pub(super) fn options(poll: &wa::message::PollCreationMessage) -> Vec<String> {
    poll.options.iter().take(MAX_ITEMS).filter_map(|option| option.option_name.clone()).collect()
}

fn choice(m: &wa::Message) -> Option<Choice> {
    if let Some(button) = m.buttons_response_message.as_option() {
        use wa::__buffa::oneof::message::buttons_response_message::Response;
        let text = button.response.as_ref().map(|Response::SelectedDisplayText(text)| text.clone());
        return Some(Choice { id: button.selected_button_id.clone(), text });
    }
    if let Some(row) = m.list_response_message.as_option() {
        let id = row.single_select_reply.as_option().and_then(|reply| reply.selected_row_id.clone());
        return Some(Choice { id, text: row.title.clone() });
    }
    if let Some(button) = m.template_button_reply_message.as_option() {
        return Some(Choice { id: button.selected_id.clone(), text: button.selected_display_text.clone() });
    }
    let reply = m.interactive_response_message.as_option()?;
    Some(Choice { id: None, text: reply.body.as_option().and_then(|body| body.text.clone()) })
}

/// What a message says of the one that it answers and of those that it mentions.
fn context(m: &wa::Message) -> Option<&wa::ContextInfo> {
    [
        m.extended_text_message.as_option().map(|m| &m.context_info),
        m.image_message.as_option().map(|m| &m.context_info),
        m.video_message.as_option().map(|m| &m.context_info),
        m.ptv_message.as_option().map(|m| &m.context_info),
        m.audio_message.as_option().map(|m| &m.context_info),
        m.document_message.as_option().map(|m| &m.context_info),
        m.sticker_message.as_option().map(|m| &m.context_info),
        m.location_message.as_option().map(|m| &m.context_info),
        m.live_location_message.as_option().map(|m| &m.context_info),
        m.contact_message.as_option().map(|m| &m.context_info),
        m.contacts_array_message.as_option().map(|m| &m.context_info),
        created_poll(m).map(|m| &m.context_info),
        m.buttons_response_message.as_option().map(|m| &m.context_info),
        m.list_response_message.as_option().map(|m| &m.context_info),
        m.template_button_reply_message.as_option().map(|m| &m.context_info),
        m.interactive_response_message.as_option().map(|m| &m.context_info),
    ]
    .into_iter()
    .flatten()
    .find_map(MessageField::as_option)
}

/// A message's file, as its sender describes it.
pub(super) struct File<'a> {
    pub(super) kind: FileKind,
    pub(super) mimetype: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) length: Option<u64>,
    pub(super) seconds: Option<u32>,
    pub(super) direct_path: Option<&'a str>,
    pub(super) url: Option<&'a str>,
    pub(super) static_url: Option<&'a str>,
    pub(super) media_key: Option<&'a [u8]>,
    pub(super) sha256: Option<&'a [u8]>,
    pub(super) enc_sha256: Option<&'a [u8]>,
}

/// The members that all kinds of files have under the same names.
macro_rules! file {
    ($kind:ident, $m:expr, name: $name:expr, seconds: $seconds:expr, static_url: $static_url:expr) => {
        File {
            seconds: $seconds,
            kind: FileKind::$kind,
            mimetype: $m.mimetype.as_deref(),
            name: $name,
            length: $m.file_length,
            direct_path: $m.direct_path.as_deref(),
            url: $m.url.as_deref(),
            static_url: $static_url,
            media_key: $m.media_key.as_deref(),
            sha256: $m.file_sha256.as_deref(),
            enc_sha256: $m.file_enc_sha256.as_deref(),
        }
    };
}

/// The file of an opened message.
pub(super) fn file(m: &wa::Message) -> Option<File<'_>> {
    if let Some(m) = m.image_message.as_option() {
        return Some(file!(Image, m, name: None, seconds: None, static_url: m.static_url.as_deref()));
    }
    if let Some(m) = m.video_message.as_option().or_else(|| m.ptv_message.as_option()) {
        return Some(file!(Video, m, name: None, seconds: m.seconds, static_url: m.static_url.as_deref()));
    }
    if let Some(m) = m.document_message.as_option() {
        let name = m.file_name.as_deref().or(m.title.as_deref());
        return Some(file!(Document, m, name: name, seconds: None, static_url: None));
    }
    if let Some(m) = m.audio_message.as_option() {
        return Some(file!(Audio, m, name: None, seconds: m.seconds, static_url: None));
    }
    let m = m.sticker_message.as_option()?;
    Some(file!(Sticker, m, name: None, seconds: None, static_url: None))
}

#[cfg(test)]
mod tests;
