//! Entries that show a webhook: lets the message arrive, and takes what the receiver gets.

use serde_json::Value;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::prelude::MessageBuilderExt as _;
use whatsapp_rust::wacore::download::MediaType;
use whatsapp_rust::wacore::upload::encrypt_media;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_simulator::Phone;

use super::golden::Entry;
use super::pattern::{body_matches, text_matches, texts_match};
use super::replay::Outcome;
use super::stage::Stage;
use super::wire::Answer;
use super::world::{Hook, number};

/// Who writes in the recorded messages.
const SENDER: &str = "6281111111111";
/// What every received file holds.
const FILE: &[u8] = b"some bytes of a file";
/// Where the receiver gets messages, and where status events.
const MESSAGES: &str = "/webhook/message";
const SESSIONS: &str = "/webhook/session";

/// Whether [`receive`] can let the message of this entry arrive.
pub(crate) fn knows(entry: &Entry) -> bool {
    entry.direction.is_some()
        && (entry.name.starts_with("webhook-session/")
            || entry.group == "restart"
            || ["group message", "fromMe", "own API send", "lid sender", "batch of three"].contains(&kind(entry))
            || chosen(kind(entry), None).is_some()
            || sent(kind(entry), None).is_some())
}

fn kind(entry: &Entry) -> &str {
    entry.name.split_once('/').map_or("", |(_, kind)| kind)
}

/// Lets it arrive. An entry without a request is one that must not be reported: what is reported is a text sent after it.
pub(crate) async fn receive(stage: &Stage, entry: &Entry) -> Outcome {
    let before = stage.world.files(FILE);
    let (mut outcome, id) = report(stage, entry).await;
    let files = stage.world.files(FILE);
    let new = files.into_iter().filter(|name| !before.contains(name));
    outcome.files = new.map(|name| own_id(&name, id.as_deref())).collect();
    outcome.is_as_recorded &= texts_match(&entry.files_written, &outcome.files);
    outcome
}

/// What is reported, and the id that the sender's phone gave it.
async fn report(stage: &Stage, entry: &Entry) -> (Outcome, Option<String>) {
    let Some(request) = &entry.request else {
        let before = stage.world.hooks(MESSAGES).len();
        arrive(stage, entry).await;
        let hook = stage.hook(MESSAGES, before, |_| true).await;
        let is_marker = hook.as_ref().is_some_and(|hook| text_of(hook) == "marker");
        return outcome(stage, entry, hook, is_marker, "not reported".to_owned());
    };
    let body = stage.fill(request.body.as_deref().unwrap_or_default());
    let is_message = entry.name.starts_with("webhook-message/");
    let hook = if is_message {
        let before = stage.world.hooks(MESSAGES).len();
        let is_refused = kind(entry) == "receiver answers 500";
        if is_refused {
            stage.world.refuse_next();
        }
        arrive(stage, entry).await;
        let hook = stage.hook(MESSAGES, before, |_| true).await;
        if is_refused {
            let again = stage.hook(MESSAGES, before + 1, |_| true).await.map(|again| again.body);
            assert_eq!(again, hook.as_ref().map(|hook| hook.body.clone()), "it is told once more, as it was");
        }
        hook
    } else {
        // Events of several sessions come in any order.
        stage.hook(SESSIONS, stage.mark(), |hook| body_matches(&body, &hook.body, &[])).await
    };
    let is_as_recorded = hook.as_ref().is_some_and(|hook| is_recorded(&request.header_lines(), &body, hook));
    outcome(stage, entry, hook, is_as_recorded, format!("{:?} {body}", request.headers))
}

fn outcome(
    stage: &Stage,
    entry: &Entry,
    hook: Option<Hook>,
    is_as_recorded: bool,
    recorded: String,
) -> (Outcome, Option<String>) {
    let id = hook
        .as_ref()
        .and_then(|hook| serde_json::from_str::<Value>(&hook.body).unwrap()["id"].as_str().map(str::to_owned));
    let answer = hook.map_or(Answer { status: 0, headers: Vec::new(), body: String::new() }, |hook| {
        let headers = hook.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        Answer { status: 200, headers: headers.collect(), body: own_id(&hook.body, id.as_deref()) }
    });
    (Outcome::new(entry, stage, is_as_recorded, stage.generalize(answer), recorded), id)
}

/// Ids of phones differ in shape: here stands one as this gateway makes them.
fn own_id(text: &str, id: Option<&str>) -> String {
    id.map_or_else(|| text.to_owned(), |id| text.replace(id, "3EB0000000000000000000"))
}

fn text_of(hook: &Hook) -> Value {
    serde_json::from_str::<Value>(&hook.body).unwrap()["message"].clone()
}

/// The headers that name the HTTP library of the sender are its own.
fn is_recorded(headers: &[(String, String)], body: &str, hook: &Hook) -> bool {
    let id = serde_json::from_str::<Value>(&hook.body).unwrap()["id"].clone();
    // The sender's phone chooses the id.
    let body = body.replace("<message-id>", id.as_str().unwrap_or_default());
    let header = |(name, wanted): &(String, String)| {
        let given = hook.headers.get(name.as_str()).map(|value| value.to_str().unwrap());
        given.is_some_and(|given| text_matches(wanted, given))
    };
    let ours = |(name, _): &&(String, String)| name == "User-Agent" || name == "Accept-Encoding";
    headers.iter().filter(|line| !ours(line)).all(header) && body_matches(&body, &hook.body, &[])
}

async fn arrive(stage: &Stage, entry: &Entry) {
    let simulator = &stage.world.simulator;
    let sender = simulator.account(SENDER, "Sari").unwrap();
    let own = number("ok1");
    if let Some((id, message)) = chosen(kind(entry), Some(stage)) {
        sender.sends_as(id, &own, message).await.unwrap();
        return;
    }
    match kind(entry) {
        "group message" => {
            let group = format!("{}@g.us", stage.group().unwrap());
            sender.says(&group, "hi all").await.unwrap();
        }
        "fromMe" => drop(simulator.phone(&own).says(SENDER, "mine").await.unwrap()),
        "own API send" => {
            let body = serde_json::json!({ "session": "ok1", "to": SENDER, "text": "x" });
            assert_eq!(stage.world.ask("POST", "/message/send-text", Some(body)).await.status, 200);
        }
        "lid sender" => {
            let phone = simulator.account("6281111111112", "Hidden").unwrap();
            simulator.set_lid_migrated("6281111111112", true);
            phone.says(&own, "lid").await.unwrap();
        }
        "batch of three" => {
            for text in ["one", "two", "three"] {
                sender.says(&own, text).await.unwrap();
            }
            let has_text = |text: &'static str| move |hook: &Hook| text_of(hook) == text;
            assert!(stage.hook(MESSAGES, 0, has_text("three")).await.is_some(), "all of a batch are reported");
        }
        name => drop(sender.sends_message(&own, sent(name, Some((stage, &sender))).unwrap()).await.unwrap()),
    }
    if entry.request.is_none() {
        sender.says(&own, "marker").await.unwrap();
    }
}

fn some<T: Default>(value: T) -> MessageField<T> {
    MessageField::some(value)
}

/// The messages whose sender has chosen an id that leads out of the folder; without a stage, media are left out.
fn chosen(name: &str, stage: Option<&Stage>) -> Option<(&'static str, wa::Message)> {
    let upload = |kind: MediaType| stage.map(|stage| Uploaded::new(stage, kind)).unwrap_or_default();
    let mut message = wa::Message::default();
    let id = match name {
        "sender-chosen id with path" => {
            message.image_message = some(upload(MediaType::Image).image(None));
            "../assets/pwn"
        }
        "sender-chosen id and file name" => {
            message.document_message = some(upload(MediaType::Document).document(Some("x.js".to_owned()), None));
            "../assets/js/evil"
        }
        _ => return None,
    };
    Some((id, message))
}

/// The message that the entries of this name are about; without a stage, media are left out.
fn sent(name: &str, stage: Option<(&Stage, &Phone)>) -> Option<wa::Message> {
    use wa::message as m;
    let text = |text: &str| Some(text.to_owned());
    let point = (Some(-6.2), Some(106.8));
    let wrapped = |message: wa::Message| some(m::FutureProofMessage { message: some(message) });
    let upload = |kind: MediaType| stage.map(|(stage, _)| Uploaded::new(stage, kind)).unwrap_or_default();
    let mut message = wa::Message::default();
    match name {
        "conversation" => message = wa::Message::text("hello"),
        "unicode text" => message = wa::Message::text("caf\u{e9} \u{1f600}"),
        "receiver answers 500" => message = wa::Message::text("five"),
        "extendedText" | "empty text" => {
            let text = if name == "empty text" { "" } else { "reply text" };
            message.extended_text_message =
                some(m::ExtendedTextMessage { text: Some(text.to_owned()), ..Default::default() });
        }
        "image with caption" => message.image_message = some(upload(MediaType::Image).image(text("look"))),
        "image without caption" => message.image_message = some(upload(MediaType::Image).image(None)),
        "view once image" => {
            let image = some(upload(MediaType::Image).image(None));
            message.view_once_message = wrapped(wa::Message { image_message: image, ..Default::default() });
        }
        "video with caption" => message.video_message = some(upload(MediaType::Video).video(text("clip"))),
        "document with filename and caption" => {
            message.document_message = some(upload(MediaType::Document).document(text("report.pdf"), text("doc")));
        }
        "document double extension" => {
            message.document_message = some(upload(MediaType::Document).document(text("a.tar.gz"), None));
        }
        "document name without dot" => {
            message.document_message = some(upload(MediaType::Document).document(text("report"), None));
        }
        "document without filename" => {
            message.document_message = some(upload(MediaType::Document).document(None, None));
        }
        "documentWithCaption wrapper" => {
            let document = some(upload(MediaType::Document).document(text("report.pdf"), text("wrapped")));
            message.document_with_caption_message =
                wrapped(wa::Message { document_message: document, ..Default::default() });
        }
        "audio voice note" => message.audio_message = some(upload(MediaType::Audio).voice()),
        "sticker" => message.sticker_message = some(upload(MediaType::Sticker).sticker()),
        "contact" => {
            message.contact_message = some(m::ContactMessage { display_name: text("Bob"), ..Default::default() });
        }
        "contacts array" => {
            let contact = |name: &str| m::ContactMessage { display_name: text(name), ..Default::default() };
            message.contacts_array_message =
                some(m::ContactsArrayMessage { contacts: vec![contact("Bob"), contact("Eve")], ..Default::default() });
        }
        "location with comment" | "location without comment" => {
            let comment = (name == "location with comment").then(|| "meet here".to_owned());
            message.location_message = some(m::LocationMessage {
                degrees_latitude: point.0,
                degrees_longitude: point.1,
                comment,
                ..Default::default()
            });
        }
        "live location" => {
            message.live_location_message = some(m::LiveLocationMessage {
                degrees_latitude: point.0,
                degrees_longitude: point.1,
                caption: text("on my way"),
                ..Default::default()
            });
        }
        "reaction" => {
            message.reaction_message =
                some(m::ReactionMessage { key: some(earlier()), text: text("\u{1f44d}"), ..Default::default() });
        }
        "poll" => {
            message.poll_creation_message = some(m::PollCreationMessage { name: text("lunch?"), ..Default::default() });
        }
        "button reply" => {
            message.buttons_response_message =
                some(m::ButtonsResponseMessage { selected_button_id: text("b1"), ..Default::default() });
        }
        "ephemeral text" => message.ephemeral_message = wrapped(wa::Message::text("gone soon")),
        "edited message" | "protocol message" => {
            let is_edit = name == "edited message";
            let kind =
                if is_edit { m::protocol_message::Type::MESSAGE_EDIT } else { m::protocol_message::Type::REVOKE };
            let edited = if is_edit { some(wa::Message::text("edited")) } else { MessageField::none() };
            message.protocol_message = some(m::ProtocolMessage {
                key: some(earlier()),
                r#type: Some(kind),
                edited_message: edited,
                ..Default::default()
            });
        }
        _ => return None,
    }
    Some(message)
}

fn earlier() -> wa::MessageKey {
    wa::MessageKey { id: Some("3EB0123456789ABCDEF012".to_owned()), from_me: Some(true), ..Default::default() }
}

/// A file on the simulator's media host.
#[derive(Default)]
struct Uploaded {
    path: Option<String>,
    url: Option<String>,
    key: Option<Vec<u8>>,
    plain: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    length: Option<u64>,
}

macro_rules! fields_of {
    ($message:ident, $file:expr, $($field:ident: $value:expr),*) => {
        wa::message::$message {
            url: $file.url,
            direct_path: $file.path,
            media_key: $file.key,
            file_sha256: $file.plain,
            file_enc_sha256: $file.sealed,
            file_length: $file.length,
            $($field: $value,)*
            ..Default::default()
        }
    };
}

impl Uploaded {
    fn new(stage: &Stage, kind: MediaType) -> Self {
        let sealed = encrypt_media(FILE, kind).unwrap();
        let place = match kind {
            MediaType::Image | MediaType::Sticker => "image",
            MediaType::Video => "video",
            MediaType::Audio => "audio",
            _ => "document",
        };
        let path = stage.world.simulator.network().put_media(place, &sealed.data_to_upload).unwrap();
        Self {
            url: Some(format!("https://mmg.whatsapp.net{path}")),
            path: Some(path),
            key: Some(sealed.media_key.to_vec()),
            plain: Some(sealed.file_sha256.to_vec()),
            sealed: Some(sealed.file_enc_sha256.to_vec()),
            length: Some(FILE.len() as u64),
        }
    }

    fn image(self, caption: Option<String>) -> wa::message::ImageMessage {
        fields_of!(ImageMessage, self, caption: caption, mimetype: Some("image/jpeg".to_owned()))
    }

    fn video(self, caption: Option<String>) -> wa::message::VideoMessage {
        fields_of!(VideoMessage, self, caption: caption, mimetype: Some("video/mp4".to_owned()))
    }

    fn document(self, file_name: Option<String>, caption: Option<String>) -> wa::message::DocumentMessage {
        let kind = Some("application/octet-stream".to_owned());
        fields_of!(DocumentMessage, self, file_name: file_name, caption: caption, mimetype: kind)
    }

    fn voice(self) -> wa::message::AudioMessage {
        fields_of!(AudioMessage, self, ptt: Some(true), mimetype: Some("audio/ogg; codecs=opus".to_owned()))
    }

    fn sticker(self) -> wa::message::StickerMessage {
        fields_of!(StickerMessage, self, mimetype: Some("image/webp".to_owned()))
    }
}
