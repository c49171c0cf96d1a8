//! Files on their way to WhatsApp: fetched within limits, kept off the heap, told apart by content, fitted to their kind.
//!
//! Session sends ask here for `fetch`, then `prepare`. Nothing is believed that a client or a server says about a file,
//! and nothing of a large one is held in memory. Received files are saved by [`Folder`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::message::MediaSource;
use crate::net::{FetchError, Guarded, Policy};

mod encoding;
mod folder;
mod inline;
mod kind;
mod named;
mod picture;
mod probe;
mod spool;
mod sticker;

use encoding::Unpacker;
pub use folder::{Folder, Names, file_name, is_private};
pub use inline::MAX_INLINE_BYTES;
pub use kind::Kind;
pub use named::document_mime;
pub use spool::{ReadSeek, Spool};

use spool::Writer;

/// Files that are fetched at the same time; each holds at most one buffer of a few hundred KiB.
const MAX_FETCHES: usize = 32;

/// Pictures that are decoded at the same time; each may take some hundred MiB.
const MAX_DECODERS: usize = 2;

/// What a file may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest file.
    pub max_bytes: u64,
    /// Longest time from the first request to the last byte.
    pub timeout: Duration,
    /// Whether URLs may lead to private addresses, loopback among them.
    pub private_addresses: bool,
    /// Where large files wait until they are sent, without a name; it is made when it is missing.
    pub folder: Arc<Path>,
}

/// Why a file can't be sent.
///
/// Each text may be shown to the client and may stand in the log: no URL is in it. Those of [`Source`](Self::Source),
/// [`TooLarge`](Self::TooLarge), [`Address`](Self::Address) and [`Content`](Self::Content) go on after the name of the
/// field, as in `parameter "image_url" is no valid base64`; the others are sentences.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// What the client gave can't name or hold a file.
    #[error("{0}")]
    Source(&'static str),
    /// The file is larger than what is allowed.
    #[error("is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What is allowed.
        limit_bytes: u64,
    },
    /// The URL, or a redirect of it, leads to an address that is not allowed.
    #[error("leads to an address that is not allowed")]
    Address,
    /// The file is not of the kind that was asked for, or can't be made one.
    #[error("is no {wanted} that can be sent: it holds {found}")]
    Content {
        /// What it should be.
        wanted: &'static str,
        /// What it is, as a media type or in words.
        found: String,
    },
    /// The server answered with another status than 2xx.
    #[error("the media host answered with status {code}")]
    Status {
        /// The URL as the client gave it, for its eyes only.
        url: String,
        /// The server's status.
        code: u16,
    },
    /// The server can't be reached, or its answer broke off. wa-gateway 4.7.1 has this wording.
    #[error("fetch failed")]
    Unreachable(#[source] Option<reqwest::Error>),
    /// The file did not arrive in time.
    #[error("The media could not be fetched in time")]
    TimedOut,
    /// The disk refused.
    #[error("The media could not be kept on disk")]
    Disk(#[from] std::io::Error),
    /// The client for fetching can't be made; at start-up only.
    #[error("The client for fetching media can't be made")]
    Client(#[source] reqwest::Error),
}

/// A file that WhatsApp's apps can show as the kind that was asked for.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The bytes to send.
    pub spool: Spool,
    /// Their type, by content where it tells.
    pub mime: String,
    /// Pixels of a picture or video as shown; `None` when the content does not tell.
    pub width: Option<u32>,
    /// Pixels as shown; `None` when the content does not tell.
    pub height: Option<u32>,
    /// A JPEG of at most 100 × 100 pixels and about 10 KB; pictures only.
    pub thumbnail: Option<Bytes>,
    /// Whole seconds of a video or audio, at least one; `None` when the container does not tell.
    pub seconds: Option<u32>,
}

/// Fetches and prepares files; clones share their limits.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Guarded,
    limits: Arc<Limits>,
    fetches: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
}

impl Fetcher {
    /// Makes a fetcher with its own client.
    ///
    /// # Errors
    /// [`MediaError::Client`] when TLS can't be set up.
    pub fn new(limits: Limits) -> Result<Self, MediaError> {
        let client = Guarded::new(Policy { private: limits.private_addresses }).map_err(MediaError::Client)?;
        Ok(Self {
            client,
            limits: Arc::new(limits),
            fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
            decoders: Arc::new(Semaphore::new(MAX_DECODERS)),
        })
    }

    /// Brings a file here, until `deadline` or the limit of time, whichever is first.
    ///
    /// Cancelling it leaves nothing behind.
    ///
    /// # Errors
    /// By [`MediaError`], except `Content` and `Client`.
    pub async fn fetch(&self, source: &MediaSource, deadline: Instant) -> Result<Spool, MediaError> {
        let deadline = deadline.min(Instant::now() + self.limits.timeout);
        let fetched = tokio::time::timeout_at(deadline, async {
            let _permit = self.fetches.acquire().await.expect("the semaphore is never closed");
            match source {
                MediaSource::Url(url) => self.fetch_url(url, deadline).await,
                MediaSource::Base64(text) => {
                    let (bytes, mime) = inline::base64(text, self.max_inline_bytes())?;
                    self.keep(bytes, mime).await
                }
                MediaSource::Upload(upload) => {
                    self.check(upload.bytes)?;
                    let spool = Spool::from_upload(upload).await?;
                    self.check(spool.len())?;
                    Ok(spool)
                }
            }
        });
        let spool = fetched.await.map_err(|_| MediaError::TimedOut)??;
        if spool.is_empty() { Err(MediaError::Source("holds no bytes")) } else { Ok(spool) }
    }

    async fn fetch_url(&self, text: &str, deadline: Instant) -> Result<Spool, MediaError> {
        // White space around a pasted URL is no part of it (WHATWG URL), as in the original.
        let text = text.trim();
        if inline::is_data_url(text) {
            let (bytes, mime) = inline::data_url(text, self.max_inline_bytes())?;
            return self.keep(bytes, mime).await;
        }
        let url: reqwest::Url = text.parse().map_err(|_| BAD_URL)?;
        let mut response = self.client.get(&url, deadline).await.map_err(|error| of_fetch(error, text))?;
        if let Some(announced) = response.content_length() {
            self.check(announced)?;
        }
        let encoding = response.headers().get(reqwest::header::CONTENT_ENCODING);
        let encoding = encoding.map_or(Ok(""), |encoding| encoding.to_str()).unwrap_or_default();
        let broken = |error: std::io::Error| {
            tracing::info!(%error, "a fetched file can't be unpacked");
            MediaError::Unreachable(None)
        };
        let Some(mut unpacker) = Unpacker::of(encoding) else {
            tracing::info!(encoding, "a fetched file is packed in a way that is not known here");
            return Err(MediaError::Unreachable(None));
        };
        let mut writer = Writer::new(&self.limits.folder);
        while let Some(chunk) = response.chunk().await.map_err(|error| of_fetch(error.into(), text))? {
            for packed in chunk.chunks(unpacker.step()) {
                let piece = unpacker.unpack(packed).map_err(broken)?;
                self.check(writer.len().saturating_add(piece.len() as u64))?;
                writer.write(&piece).await?;
                if unpacker.is_packed() {
                    // Unpacking is work, and others wait for this thread.
                    tokio::task::yield_now().await;
                }
            }
        }
        let rest = unpacker.finish().map_err(broken)?;
        self.check(writer.len().saturating_add(rest.len() as u64))?;
        writer.write(&rest).await?;
        let mime = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|mime| mime.to_str().ok());
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).filter(|name| !name.is_empty());
        Ok(writer.finish().await?.described(mime, name))
    }

    async fn keep(&self, bytes: Vec<u8>, mime: Option<String>) -> Result<Spool, MediaError> {
        let mut writer = Writer::new(&self.limits.folder);
        writer.write(&bytes).await?;
        Ok(writer.finish().await?.described(mime.as_deref(), None))
    }

    /// Finds out what the file is and makes it what WhatsApp's apps show as `kind`.
    ///
    /// `name` is the file name for the message, when there is one. Decoding is bounded in pixels and runs beside the
    /// runtime's threads; cancelling stops the wait, and the decoding that has begun ends by itself.
    ///
    /// # Errors
    /// [`MediaError::Content`] when the file is not of that kind, [`MediaError::Disk`] when it can't be read.
    pub async fn prepare(&self, spool: Spool, kind: Kind, name: Option<&str>) -> Result<Prepared, MediaError> {
        let permit = match kind {
            Kind::Image | Kind::Sticker => {
                Some(Arc::clone(&self.decoders).acquire_owned().await.expect("the semaphore is never closed"))
            }
            Kind::Video | Kind::Audio | Kind::Document => None,
        };
        let (folder, name) = (self.folder(), name.map(str::to_owned));
        let work = move || {
            // Held by the work, not by the wait: a caller who gave up must not let another one in.
            let _permit = permit;
            kind::prepare(spool, kind, name.as_deref(), &folder)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(prepared) => prepared,
            // A decoder that panics has met a file that it can't read.
            Err(_) => Err(MediaError::Content { wanted: kind.noun(), found: "a file that can't be read".to_owned() }),
        }
    }

    /// Where large files wait until they are sent.
    pub fn folder(&self) -> Arc<Path> {
        Arc::clone(&self.limits.folder)
    }

    /// The largest file that is taken, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.limits.max_bytes
    }

    fn check(&self, bytes: u64) -> Result<(), MediaError> {
        let limit_bytes = self.limits.max_bytes;
        if bytes > limit_bytes { Err(MediaError::TooLarge { limit_bytes }) } else { Ok(()) }
    }

    fn max_inline_bytes(&self) -> usize {
        usize::try_from(self.limits.max_bytes).unwrap_or(usize::MAX).min(MAX_INLINE_BYTES)
    }
}

const BAD_URL: MediaError = MediaError::Source("is no http, https or data URL");

fn of_fetch(error: FetchError, url: &str) -> MediaError {
    match error {
        FetchError::Scheme => BAD_URL,
        FetchError::Address => MediaError::Address,
        FetchError::Status(code) => MediaError::Status { url: url.to_owned(), code },
        FetchError::Redirects => MediaError::Unreachable(None),
        FetchError::Unreachable(error) => MediaError::Unreachable(Some(error)),
        FetchError::TimedOut => MediaError::TimedOut,
    }
}

#[cfg(test)]
mod tests;
