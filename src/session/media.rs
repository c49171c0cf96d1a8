//! The message lane of one connection: fetches the files of messages that are committed, and completes their events.
//!
//! Started by the session's task with each connection, ended with it; what is left waits in the outbox for the next.
//! Bounded in every direction: files at once, tries, time. A failure costs one message its file, never more.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::event::SessionName;
use crate::media::{Folder, Names, file_name};
use crate::message::incoming::{Attachment, Content, FileKind, Incoming, Media};
use crate::outbox::{Outbox, message_body};
use crate::whatsapp::{Connection, DownloadError};

/// Files at once in the whole process: each holds a thread of the blocking pool and a connection.
pub(super) const AT_ONCE: usize = 16;
/// Files at once of one session, so that one that is flooded does not take all turns.
const AT_ONCE_HERE: usize = 6;
/// A file that takes longer, from its turn on, is given up; just below the time for which the webhook holds the message back.
const LIMIT: Duration = Duration::from_secs(55);
/// A file whose turn does not come for so long is given up.
const TURN_LIMIT: Duration = Duration::from_mins(14);
/// How often the webhook is told that files are being fetched.
const BEAT: Duration = Duration::from_secs(4);
/// Tries of one file that comes, and is not what it should be.
const TRIES: u32 = 5;
/// The pause after the first failed try; doubled after each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// The pause when the store can't be used.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// The reason that a message is committed with: it is told when nothing else is known in time.
pub(super) const LATE: &str = "The file did not arrive in time";
const GONE: &str = "The file is no longer available on WhatsApp";
const FAILED: &str = "The file could not be downloaded";
const TOO_LARGE: &str = "The file is larger than MEDIA_MAX_BYTES allows";
const NOT_SAVED: &str = "The file could not be saved";

/// What all sessions share for it.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: Folder,
    /// The largest, in bytes.
    most: u64,
    /// Whether it is noted which session received a file.
    notes_owner: bool,
    turns: Arc<Semaphore>,
}

impl Files {
    pub(super) fn new(folder: Folder, most: u64, notes_owner: bool) -> Self {
        Self { folder, most, notes_owner, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// Fetches what is pending and what becomes so; returns only by being dropped.
pub(super) async fn run(connection: Connection, outbox: Outbox, files: Files) {
    let lane = Lane { connection, outbox, files };
    let mut under_way = FuturesUnordered::new();
    let mut taken = HashSet::new();
    loop {
        while taken.len() < AT_ONCE_HERE
            && let Some(seq) = lane.outbox.next_pending(|seq| taken.contains(&seq))
        {
            taken.insert(seq);
            // Boxed: the set keeps room for one of them all the time, 3 KB for each session.
            // A root span, as the session's task has it for what ends soon.
            let span = tracing::info_span!(parent: None, "session", session = %lane.outbox.session());
            under_way.push(lane.settle(seq).instrument(span).boxed());
        }
        let is_busy = !under_way.is_empty();
        if is_busy {
            lane.outbox.fetching(Instant::now() + BEAT * 3);
        }
        tokio::select! {
            Some(seq) = under_way.next(), if is_busy => {
                taken.remove(&seq);
            }
            () = lane.outbox.attached() => {}
            () = tokio::time::sleep(BEAT), if is_busy => {}
        }
    }
}

/// The lane as its owner holds it: running or not.
#[derive(Default)]
pub(super) struct Fetching(Option<BoxFuture<'static, ()>>);

impl Fetching {
    /// Begins it or drops it.
    pub(super) fn keep<F>(&mut self, running: bool, begin: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match (&self.0, running) {
            (None, true) => self.0 = Some(begin().boxed()),
            (Some(_), false) => self.0 = None,
            _ => {}
        }
    }

    /// Lets it go on; never returns. Cancelling loses nothing.
    pub(super) async fn go_on(&mut self) {
        match &mut self.0 {
            Some(lane) => lane.await,
            None => std::future::pending().await,
        }
    }
}

struct Lane {
    connection: Connection,
    outbox: Outbox,
    files: Files,
}

impl Lane {
    /// Settles one pending event, or leaves it pending when the store can't be used; returns its number.
    async fn settle(&self, seq: u64) -> u64 {
        let settled = match self.outbox.file(seq).await {
            Ok(Some((event, attachment))) => {
                // Whatever strangers send must cost one file at most.
                let fetched = AssertUnwindSafe(self.fetch(attachment)).catch_unwind().await.unwrap_or(Err(FAILED));
                if let Err(reason) = fetched {
                    tracing::warn!(event_id = event.event_id, reason, "a message goes out without its file");
                }
                self.outbox.complete(seq, completed(&event.body, fetched)).await
            }
            Ok(None) => self.outbox.complete(seq, None).await,
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a message's file could not be noted; trying again"
            );
            tokio::time::sleep(STORE_PAUSE).await;
        }
        seq
    }

    /// Downloads and saves a file, once it is its turn.
    async fn fetch(&self, attachment: Attachment) -> Result<Saved, &'static str> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.turn()).await.map_err(|_elapsed| LATE)?;
        // What it will be given up for: nothing came, or what the last try failed by.
        let mut reason = LATE;
        match tokio::time::timeout(LIMIT, self.try_on(attachment, turn, &mut reason)).await {
            Ok(fetched) => fetched,
            Err(_elapsed) => Err(reason),
        }
    }

    async fn turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.files.turns).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Tries until it works or can't any more; for as long as it is let.
    async fn try_on(
        &self,
        mut attachment: Attachment,
        turn: OwnedSemaphorePermit,
        reason: &mut &'static str,
    ) -> Result<Saved, &'static str> {
        let (mut pauses, mut wrong, mut asked) = (0, 0, false);
        let mut turn = Some(turn);
        loop {
            let own = match turn.take() {
                Some(turn) => turn,
                None => self.turn().await,
            };
            let tried = self.try_fetch(&attachment).await;
            drop(own);
            match tried {
                Ok(saved) => return Ok(saved),
                Err(Failure::Download(DownloadError::Gone)) if !asked => {
                    asked = true;
                    attachment.direct_path = self.connection.request_upload(&attachment).await.ok_or(GONE)?;
                    continue;
                }
                Err(Failure::Download(DownloadError::Gone)) => return Err(GONE),
                Err(Failure::Download(DownloadError::TooLarge)) => return Err(TOO_LARGE),
                Err(Failure::Disk(error)) => {
                    tracing::error!(%error, "a received file could not be saved");
                    *reason = NOT_SAVED;
                }
                Err(Failure::Download(DownloadError::Unavailable(error))) => {
                    tracing::debug!(error = format!("{error:#}"), pauses, "a file can't be had at the moment");
                    *reason = FAILED;
                }
                Err(Failure::Download(DownloadError::Failed(error))) => {
                    tracing::debug!(error = format!("{error:#}"), pauses, "a file could not be downloaded");
                    wrong += 1;
                    if wrong == TRIES {
                        return Err(FAILED);
                    }
                    *reason = FAILED;
                }
            }
            tokio::time::sleep(FIRST_PAUSE.saturating_mul(1 << pauses.min(8)).min(LONGEST_PAUSE)).await;
            pauses += 1;
        }
    }

    async fn try_fetch(&self, attachment: &Attachment) -> Result<Saved, Failure> {
        let folder = self.files.folder.clone();
        let (temp, file) = on_disk(move || {
            let temp = folder.temp()?;
            let file = temp.as_file().try_clone()?;
            Ok((temp, file))
        })
        .await?;
        self.connection.download(attachment, file, self.files.most).await.map_err(Failure::Download)?;
        let (folder, names) = (self.files.folder.clone(), names(attachment));
        let owner = self.files.notes_owner.then(|| self.outbox.session().clone());
        let told = on_disk(move || {
            let place = folder.save(temp, &names, owner.as_ref().map(SessionName::as_str))?;
            let [.., last] = &names;
            Ok(names.get(place).unwrap_or(last).told.clone())
        })
        .await?;
        Ok(Saved { kind: attachment.kind, told })
    }
}

/// Why one try failed.
enum Failure {
    Disk(std::io::Error),
    Download(DownloadError),
}

/// Runs file work on the blocking pool.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Failure::Disk),
        Err(error) => Err(Failure::Disk(std::io::Error::other(error))),
    }
}

/// A saved file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Saved {
    kind: FileKind,
    /// The name that the webhook tells.
    told: String,
}

/// The names that a file may have: by its message's id, as in wa-gateway 4.7.1, which tells documents without their extension;
/// and one that is its own whatever id its sender has chosen, for one that another message had before.
fn names(attachment: &Attachment) -> [Names; 2] {
    let pair = |id: &str| {
        let on_disk = file_name(id, &attachment.extension);
        let told = if attachment.kind == FileKind::Document { file_name(id, "") } else { on_disk.clone() };
        Names { on_disk, told }
    };
    let Attachment { chat, sender, id, .. } = attachment;
    let digest = hex::encode(Sha256::digest(format!("{chat}\n{sender}\n{id}")));
    // An id that can't stand in a name is hashed with what is behind it.
    [pair(id), pair(&format!("{id}-{}", &digest[..16]))]
}

/// The body of an event whose file came, or did not; `None`: the body stays what it is.
fn completed(body: &Bytes, fetched: Result<Saved, &'static str>) -> Option<Bytes> {
    let mut incoming: Incoming = serde_json::from_slice(body).ok()?;
    let Incoming { media, content, .. } = &mut incoming;
    match fetched {
        Ok(saved) => name(media, content, saved),
        Err(reason) => content.media_error = Some(reason.to_owned()),
    }
    Some(message_body(&incoming))
}

fn name(media: &mut Media, content: &mut Content, saved: Saved) {
    content.media_error = None;
    let member = match saved.kind {
        FileKind::Image => &mut media.image,
        FileKind::Video => &mut media.video,
        FileKind::Audio => &mut media.audio,
        FileKind::Document => &mut media.document,
        FileKind::Sticker => &mut content.sticker,
    };
    *member = Some(saved.told);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(kind: FileKind, id: &str, extension: &str) -> Attachment {
        Attachment {
            kind,
            chat: "1@s.whatsapp.net".to_owned(),
            sender: "1@s.whatsapp.net".to_owned(),
            id: id.to_owned(),
            direct_path: "/x".to_owned(),
            media_key: None,
            file_sha256: None,
            file_enc_sha256: None,
            file_length: 0,
            extension: extension.to_owned(),
        }
    }

    #[test]
    fn documents_are_told_without_their_extension() {
        for (kind, extension, told, on_disk) in [
            (FileKind::Image, "jpg", "3EB0.jpg", "3EB0.jpg"),
            (FileKind::Document, "pdf", "3EB0", "3EB0.pdf"),
            (FileKind::Document, "undefined", "3EB0", "3EB0.undefined"),
            (FileKind::Document, "js/x", "3EB0", "3EB0"),
        ] {
            let [first, _own] = names(&attachment(kind, "3EB0", extension));
            assert_eq!((first.told.as_str(), first.on_disk.as_str()), (told, on_disk));
        }
        let [first, own] = names(&attachment(FileKind::Image, "../../x", "jpg"));
        assert!(!first.told.contains(['/', '\\']) && !own.told.contains(['/', '\\']));
    }

    #[test]
    fn the_second_name_is_the_message_s_own() {
        let his = attachment(FileKind::Image, "3EB0", "jpg");
        let [_first, own] = names(&his);
        assert_eq!(own.on_disk.len(), "3EB0-0123456789abcdef.jpg".len());
        for other in [
            Attachment { chat: "2@g.us".to_owned(), ..his.clone() },
            Attachment { sender: "2@s.whatsapp.net".to_owned(), ..his.clone() },
            attachment(FileKind::Image, "3EB1", "jpg"),
        ] {
            assert_ne!(names(&other)[1], own);
        }
    }

    #[test]
    fn a_completed_body_names_the_file_or_the_reason() {
        let body = Bytes::from_static(
            br#"{"session":"a","from":"1@s.whatsapp.net","message":null,"media":{"image":null,"video":null,"document":null,"audio":null},"id":"3EB0","event_id":"e","timestamp":1,"participant":null,"participant_name":null,"is_group":false,"from_lid":null,"type":"image","mimetype":"image/png","media_error":"The file did not arrive in time"}"#,
        );
        let came = completed(&body, Ok(Saved { kind: FileKind::Image, told: "3EB0.jpg".to_owned() })).unwrap();
        assert_eq!(
            std::str::from_utf8(&came).unwrap(),
            r#"{"session":"a","from":"1@s.whatsapp.net","message":null,"media":{"image":"3EB0.jpg","video":null,"document":null,"audio":null},"id":"3EB0","event_id":"e","timestamp":1,"participant":null,"participant_name":null,"is_group":false,"from_lid":null,"type":"image","mimetype":"image/png"}"#
        );
        let gone = completed(&body, Err(GONE)).unwrap();
        assert_eq!(gone.len(), body.len() - LATE.len() + GONE.len());
        assert!(std::str::from_utf8(&gone).unwrap().ends_with(&format!(r#""media_error":"{GONE}"}}"#)));
        assert_eq!(completed(&Bytes::from_static(b"junk"), Err(GONE)), None);
    }
}
