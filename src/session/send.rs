//! What sessions send and look up: every message goes through [`SessionManager::send`].

use std::io::Read as _;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::Entry;
use super::once::Once;
use super::{SessionManager, poll, resume};
use crate::event::SessionName;
use crate::ledger::{Note, Record};
use crate::media::{self, Fetcher, Kind, MediaError, Spool};
use crate::message::{Content, File, MediaSource, Outgoing, Profile, Progress, Recipient, Sent, Step};
use crate::metrics::SendOutcome;
use crate::whatsapp::{Connection, LookupError, Open, OutboundError};

/// Why a message was not sent, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No session of that name.
    #[error("Session does not exist")]
    NoSession,
    /// The session is not connected.
    #[error("Session with ID: \"{0}\" Not Ready!")]
    NotReady(SessionName),
    /// The number has no WhatsApp account.
    #[error("The number {0} is not registered on WhatsApp")]
    NotRegistered(String),
    /// WhatsApp's server refused the message.
    #[error("WhatsApp refused the message with code {code}")]
    Refused {
        /// The server's error code.
        code: u16,
        /// The message id.
        id: String,
        /// The chat.
        remote_jid: String,
    },
    /// No acknowledgement in time: whether it was sent is unknown.
    #[error("WhatsApp did not acknowledge the message in time; it may have been sent")]
    Unacknowledged {
        /// The message id.
        id: String,
        /// The chat.
        remote_jid: String,
    },
    /// The connection failed before the message left.
    #[error("The message could not be sent: the connection to WhatsApp failed")]
    Connection(#[source] anyhow::Error),
    /// The recipient's address can't be used.
    #[error("parameter \"to\" is not a phone number or a WhatsApp address")]
    Recipient,
    /// The store refused, so nothing was sent.
    #[error("The session store is not available")]
    Store,
    /// There is no file to send.
    #[error("Invalid Media")]
    EmptyMedia,
    /// The document's name does not tell its type.
    #[error("Filename must include valid extension")]
    FileName,
    /// A voice note must be Opus in an Ogg file; this type was found.
    #[error("A voice note must be an ogg/opus file, this one is {0}")]
    NotVoice(String),
    /// The file could not be had, or is not what it was said to be.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Getting the file ready took too long; nothing was sent.
    #[error("The message was not sent: it could not be made ready in time")]
    TimedOut,
    /// WhatsApp's media servers did not take the file; nothing was sent.
    #[error("The message was not sent: WhatsApp did not take its file")]
    Upload(#[source] anyhow::Error),
    /// The disk failed while the file was made ready.
    #[error("The message was not sent: temporary files can't be written")]
    Disk(#[source] anyhow::Error),
}

/// Why a profile can't be told.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No session of that name.
    #[error("Session does not exist")]
    NoSession,
    /// The session is not connected.
    #[error("Session with ID: \"{0}\" Not Ready!")]
    NotReady(SessionName),
    /// The store refused.
    #[error("The session store is not available")]
    Store,
    /// The number has no account.
    #[error("Target is not registered")]
    NotRegistered,
    /// There is no such group.
    #[error("Group not found")]
    NoGroup,
    /// The session's account is not in the group.
    #[error("The session is not a member of this group")]
    NotMember,
    /// WhatsApp did not answer in time.
    #[error("WhatsApp did not answer in time")]
    TimedOut,
    /// WhatsApp refused with this code.
    #[error("WhatsApp refused the look-up with code {0}")]
    Refused(u16),
    /// The question could not be asked.
    #[error("The look-up failed: the connection to WhatsApp failed")]
    Connection(#[source] anyhow::Error),
}

impl From<LookupError> for ProfileError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotRegistered => Self::NotRegistered,
            LookupError::NoGroup => Self::NoGroup,
            LookupError::NotMember => Self::NotMember,
            LookupError::TimedOut => Self::TimedOut,
            LookupError::Refused(code) => Self::Refused(code),
            LookupError::Connection(error) => Self::Connection(error),
        }
    }
}

/// What WhatsApp's apps play as a voice note, by this very spelling.
const VOICE: &str = "audio/ogg; codecs=opus";
/// The longest that a profile may take.
const PROFILE_TIMEOUT: Duration = Duration::from_secs(20);

impl SessionManager {
    /// Checks that a session is there and connected: the contract's order puts this before the recipient.
    ///
    /// # Errors
    /// `NoSession`, `NotReady`, or `Store` while the session waits for its store.
    pub fn check_ready(&self, name: &str) -> Result<(), SendError> {
        self.entry(name).ok_or(SendError::NoSession)?.live().map(|_connection| ())
    }

    /// Sends a text; see [`Self::send`].
    ///
    /// # Errors
    /// By [`SendError`].
    pub async fn send_text(&self, name: &str, to: Recipient, text: String, typing: bool) -> Result<Sent, SendError> {
        self.send(name, to, Outgoing::text(text), typing).await
    }

    /// Sends a message and waits for WhatsApp's acknowledgement, `SEND_TIMEOUT_SECS` at most: the file and the typing
    /// phase, which go on side by side, included.
    ///
    /// # Errors
    /// By [`SendError`]; after `Unacknowledged` alone it may have been sent.
    pub async fn send(&self, name: &str, to: Recipient, message: Outgoing, typing: bool) -> Result<Sent, SendError> {
        let (manager, name) = (self.clone(), name.to_owned());
        // On a task of its own: who hangs up after the request was taken still wants the message sent.
        match self.0.requests.spawn(async move { manager.send_now(&name, to, message, typing, None).await }).await {
            Ok(sent) => sent,
            Err(error) => resume(error),
        }
    }

    /// Sends here and now; not to be cancelled.
    pub(super) async fn send_now(
        &self,
        name: &str,
        to: Recipient,
        message: Outgoing,
        typing: bool,
        once: Option<&Once<'_>>,
    ) -> Result<Sent, SendError> {
        let sent = self.try_send(name, to, message, typing, once).await;
        self.0.metrics.send(outcome(&sent));
        sent
    }

    async fn try_send(
        &self,
        name: &str,
        to: Recipient,
        message: Outgoing,
        typing: bool,
        once: Option<&Once<'_>>,
    ) -> Result<Sent, SendError> {
        let deadline = Instant::now() + self.0.settings.send_timeout;
        let entry = self.entry(name).ok_or(SendError::NoSession)?;
        let connection = entry.live()?;
        let to = if self.0.settings.check_numbers {
            let found = connection.check_recipient(to.clone(), deadline).await;
            found.map_err(|error| failed(&entry, &to, "", error))?
        } else {
            to
        };
        let typed = message.content.typed().filter(|_text| typing).map(|text| text.encode_utf16().count());
        let typing = async {
            if let Some(length) = typed {
                let left = deadline.saturating_duration_since(Instant::now());
                connection.type_for(&to, typing_time(length).min(left)).await;
            }
        };
        // Contract section 4: errors of the file are told after the typing phase.
        let ((), file) = tokio::join!(typing, self.attach(&connection, &message.content, deadline));
        let file = file.map_err(|error| match error {
            AttachError::Send(error) => error,
            AttachError::Outbound(error) => failed(&entry, &to, "", error),
        })?;
        let earlier = once.and_then(|once| once.id.clone());
        let id = earlier.clone().unwrap_or_else(|| connection.message_id());
        let store = |error: &dyn std::fmt::Display| {
            tracing::error!(session = %entry.name, %error, "a message is not sent: what belongs to it can't be stored");
            SendError::Store
        };
        let draft = connection.draft(&to, message, file, id.clone());
        let draft = draft.map_err(|error| failed(&entry, &to, &id, error))?;
        if let Some(once) = once {
            once.keep(&entry, &draft, false).await.map_err(|error| store(&error))?;
        }
        let poll = match &draft.message.content {
            Content::Poll(poll) => {
                let backend = entry.backend().ok_or(SendError::Store)?;
                // An earlier try may have arrived: votes are made with its secret.
                let known = match &earlier {
                    Some(id) => poll::known(&backend, id).await.map_err(|error| store(&error))?,
                    None => None,
                };
                let poll = match known {
                    Some(known) => known,
                    None => connection.poll(poll).map_err(|error| failed(&entry, &to, &id, error))?,
                };
                // Before it is sent: the first vote may be there before the acknowledgement.
                poll::keep(&backend, &id, &poll).await.map_err(|error| store(&error))?;
                Some(poll)
            }
            _ => None,
        };
        let record = Record::new(draft.remote_jid.clone(), draft.remote_jid == draft.own_jid, draft.composed_ms);
        entry.note(Note::Begun(id.clone(), record));
        let sent = connection.send(draft, poll.as_ref().map(|poll| &*poll.secret), deadline).await;
        if let Some((step, at, code)) = told(&sent) {
            entry.progress(Progress { id: id.clone(), step, at, code, teller: None });
        }
        sent.map_err(|error| failed(&entry, &to, &id, error))
    }

    /// Brings a message's file, if it has one, to WhatsApp's media servers.
    async fn attach(
        &self,
        connection: &Connection,
        content: &Content,
        deadline: Instant,
    ) -> Result<Option<File>, AttachError> {
        let Some(source) = content.source() else { return Ok(None) };
        let media = &self.0.fetcher;
        let ready = tokio::time::timeout_at(deadline, ready(media, content, source, deadline)).await;
        let prepared = ready.map_err(|_elapsed| SendError::TimedOut)??;
        let animated = matches!(content, Content::Sticker { .. }) && is_animated(prepared.spool.clone()).await?;
        let spool = prepared.spool.clone();
        let open: Open = Box::new(move || Ok(Box::new(spool.open()?)));
        let uploaded = connection.upload(content, open, media.folder(), deadline).await?;
        Ok(Some(File {
            mime: prepared.mime,
            width: prepared.width,
            height: prepared.height,
            seconds: prepared.seconds,
            thumbnail: prepared.thumbnail,
            animated,
            ..uploaded
        }))
    }

    /// Looks up the picture and the about of an account or a group.
    ///
    /// # Errors
    /// By [`ProfileError`].
    pub async fn profile(&self, name: &str, target: &Recipient) -> Result<Profile, ProfileError> {
        let entry = self.entry(name).ok_or(ProfileError::NoSession)?;
        let connection = entry.live().map_err(|error| match error {
            SendError::Store => ProfileError::Store,
            _ => ProfileError::NotReady(entry.name.clone()),
        })?;
        Ok(connection.profile(target, Instant::now() + PROFILE_TIMEOUT).await?)
    }
}

fn outcome(sent: &Result<Sent, SendError>) -> SendOutcome {
    match sent {
        Ok(_) => SendOutcome::Sent,
        Err(SendError::NotReady(_)) => SendOutcome::NotReady,
        Err(SendError::Refused { .. }) => SendOutcome::Refused,
        Err(SendError::Unacknowledged { .. }) => SendOutcome::Unacknowledged,
        Err(
            SendError::NoSession
            | SendError::NotRegistered(_)
            | SendError::Recipient
            | SendError::EmptyMedia
            | SendError::FileName
            | SendError::NotVoice(_)
            | SendError::Media(
                MediaError::Source(_) | MediaError::Address | MediaError::Content { .. } | MediaError::TooLarge { .. },
            ),
        ) => SendOutcome::Invalid,
        Err(
            SendError::Connection(_)
            | SendError::Store
            | SendError::Media(_)
            | SendError::TimedOut
            | SendError::Upload(_)
            | SendError::Disk(_),
        ) => SendOutcome::Failed,
    }
}

/// Why a file did not get to the media servers.
enum AttachError {
    Send(SendError),
    Outbound(OutboundError),
}

impl From<SendError> for AttachError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<OutboundError> for AttachError {
    fn from(error: OutboundError) -> Self {
        Self::Outbound(error)
    }
}

/// Fetches a file and makes of it what its kind asks for.
async fn ready(
    media: &Fetcher,
    content: &Content,
    source: &MediaSource,
    deadline: Instant,
) -> Result<media::Prepared, SendError> {
    let name = match content {
        Content::Document { name, .. } => Some(name.as_str()),
        _ => match source {
            MediaSource::Upload(upload) => upload.name.as_deref(),
            MediaSource::Url(_) | MediaSource::Base64(_) => None,
        },
    };
    let document_mime = match content {
        Content::Document { name, .. } => Some(media::document_mime(name).ok_or(SendError::FileName)?),
        _ => None,
    };
    let empty = match source {
        MediaSource::Url(text) | MediaSource::Base64(text) => text.trim().is_empty(),
        MediaSource::Upload(upload) => upload.bytes == 0,
    };
    if empty {
        return Err(SendError::EmptyMedia);
    }
    let spool = media.fetch(source, deadline).await?;
    let mut prepared = media.prepare(spool, kind(content), name).await?;
    if let Some(mime) = document_mime {
        // Contract section 5: a document's type is its name's.
        prepared.mime = mime;
    }
    if matches!(content, Content::Audio { voice: true, .. }) && prepared.mime != VOICE {
        return Err(SendError::NotVoice(prepared.mime));
    }
    Ok(prepared)
}

/// Whether a sticker moves.
async fn is_animated(spool: Spool) -> Result<bool, SendError> {
    let read = move || {
        let mut head = Vec::new();
        spool.open()?.take(21).read_to_end(&mut head)?;
        std::io::Result::Ok(moves(&head))
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| SendError::Disk(error.into()))?;
    read.map_err(|error| SendError::Disk(error.into()))
}

/// WebP container specification, extended file format: the flag of an animation is the second bit of the 21st byte.
fn moves(head: &[u8]) -> bool {
    matches!(head, [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', b'V', b'P', b'8', b'X', _, _, _, _, flags, ..] if flags & 2 != 0)
}

fn kind(content: &Content) -> Kind {
    match content {
        Content::Image { .. } => Kind::Image,
        Content::Video { .. } => Kind::Video,
        Content::Sticker { .. } => Kind::Sticker,
        Content::Audio { .. } => Kind::Audio,
        Content::Document { .. }
        | Content::Text(_)
        | Content::Location(_)
        | Content::Contacts(_)
        | Content::Poll(_)
        | Content::Reaction { .. }
        | Content::Edit { .. }
        | Content::Delete(_) => Kind::Document,
    }
}

/// What a send that failed tells of the message: the step, when, and WhatsApp's code.
fn told(sent: &Result<Sent, OutboundError>) -> Option<(Step, i64, Option<u16>)> {
    let now = || chrono::Utc::now().timestamp();
    match sent {
        // Told by the acknowledgement, which is there or may still come.
        Ok(_) | Err(OutboundError::Unacknowledged) => None,
        Err(OutboundError::Refused(code)) => Some((Step::Failed, now(), Some(*code))),
        Err(_) => Some((Step::Failed, now(), None)),
    }
}

fn failed(entry: &Entry, to: &Recipient, id: &str, error: OutboundError) -> SendError {
    match error {
        OutboundError::Recipient => SendError::Recipient,
        OutboundError::NotRegistered => {
            SendError::NotRegistered(to.as_str().split('@').next().unwrap_or_default().to_owned())
        }
        OutboundError::Refused(code) => {
            SendError::Refused { code, id: id.to_owned(), remote_jid: to.spelt().to_owned() }
        }
        OutboundError::Unacknowledged => {
            SendError::Unacknowledged { id: id.to_owned(), remote_jid: to.spelt().to_owned() }
        }
        OutboundError::NotConnected => SendError::NotReady(entry.name.clone()),
        OutboundError::TimedOut => SendError::TimedOut,
        OutboundError::Upload(error) => SendError::Upload(error),
        OutboundError::Disk(error) => SendError::Disk(error),
        OutboundError::Connection(error) => match entry.live() {
            Err(SendError::Store) => SendError::Store,
            _ => SendError::Connection(error),
        },
    }
}

/// wa-gateway 4.7.1: 100 ms for each UTF-16 unit, 5 s at most.
fn typing_time(utf16_units: usize) -> Duration {
    Duration::from_millis(100)
        .saturating_mul(u32::try_from(utf16_units).unwrap_or(u32::MAX))
        .min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moving_webp_is_told_from_a_still_one() {
        assert!(moves(b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x12"));
        assert!(!moves(b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x10"));
        assert!(!moves(b"RIFF\x24\0\0\0WEBPVP8L\x0a\0\0\0\x12"));
        assert!(!moves(b"RIFF"));
    }

    #[test]
    fn typing_takes_a_tenth_of_a_second_a_unit() {
        assert_eq!(typing_time(0), Duration::ZERO);
        assert_eq!(typing_time(10), Duration::from_secs(1));
        assert_eq!(typing_time(50), Duration::from_secs(5));
        assert_eq!(typing_time(usize::MAX), Duration::from_secs(5));
    }
}
