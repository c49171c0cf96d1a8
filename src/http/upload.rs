//! Requests that may carry a file: in base64 within a JSON body or form, or as a part of a multipart body, which goes to
//! disk as it arrives.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use futures::{StreamExt as _, stream};
use serde_json::Map;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Shared;
use super::error::ApiError;
use super::extract::{self, BodyLimit, Fields, Kind};
use super::repeat::{self, Header, Part};
use crate::message::{Given, MediaSource, Upload};

mod pieces;

use pieces::{Gauge, Pieces};

/// 16 MiB in base64, and what stands around it, or the names and texts of a multipart body. Slow lines get their time.
const LARGE: BodyLimit = BodyLimit { bytes: 24 * 1024 * 1024, time: BODY_TIMEOUT };
/// How long a body with a file may take to arrive: `MEDIA_MAX_BYTES` of 100 MiB over 2 Mbit/s.
const BODY_TIMEOUT: Duration = Duration::from_mins(7);
/// How long a body of unknown length may take to show that it is tiny.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long such a request may take, its answer included.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_mins(8);
/// How long the sender of a multipart body may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The parts of a multipart body: no message has more than some twenty members, and lists of a dozen or so.
const MAX_PARTS: usize = 256;
/// Bodies up to here are not counted as large.
const SMALL_BYTES: usize = 1024 * 1024;
/// Large bodies in memory at the same time, until their messages are sent: some 60 MiB each while they are parsed.
const MAX_LARGE: usize = 6;
/// Bodies above this are counted.
const TINY_BYTES: usize = 64 * 1024;
/// Bodies above [`TINY_BYTES`] that are held at the same time: up to some 20 MiB each while they are parsed.
const MAX_BODIES: usize = 16;
/// How much of a file that is too large is read and thrown away, so that the client gets to read the refusal.
const MAX_DISCARDED_BYTES: u64 = 64 * 1024 * 1024;

/// How files come in; cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads {
    max_bytes: u64,
    folder: Arc<Path>,
    large: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl Uploads {
    /// Files of at most this size, kept in this folder until they are sent.
    pub fn new(max_bytes: u64, folder: Arc<Path>) -> Self {
        Self {
            max_bytes,
            folder,
            large: Arc::new(Semaphore::new(MAX_LARGE)),
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
        }
    }
}

impl Uploads {
    /// Waits until there is memory for the body of a request of a known caller; held while it is answered.
    pub(super) async fn memory_for(
        &self,
        request: Request,
    ) -> Result<(Request, Option<OwnedSemaphorePermit>), ApiError> {
        // Files go to disk as they arrive, and no GET has its body read.
        let is_held = extract::content_kind(request.headers()) != Kind::Multipart
            && !matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_held || !is_larger(request.body(), TINY_BYTES) {
            return Ok((request, None));
        }
        let (parts, body) = request.into_parts();
        let body = begun(body, BEGIN_TIMEOUT).await?;
        let held = if is_larger(&body, TINY_BYTES) { Some(large(&self.bodies, IDLE_TIMEOUT).await?) } else { None };
        Ok((Request::from_parts(parts, body), held))
    }
}

/// The same body. One that came in chunks and is tiny is there as a whole after that, and its length is known.
async fn begun(body: Body, wait: Duration) -> Result<Body, ApiError> {
    if body.size_hint().upper().is_some() {
        return Ok(body);
    }
    let mut chunks = body.into_data_stream();
    let mut start = Vec::new();
    let reading = async {
        while start.len() <= TINY_BYTES {
            let Some(chunk) = chunks.next().await else { return Ok::<_, ApiError>(true) };
            start.extend_from_slice(&chunk.map_err(|_| ApiError::body_unreadable())?);
        }
        Ok(false)
    };
    let is_whole = tokio::time::timeout(wait, reading).await.unwrap_or(Ok(false))?;
    let start = Bytes::from(start);
    Ok(if is_whole { start.into() } else { Body::from_stream(stream::iter([Ok(start)]).chain(chunks)) })
}

/// The members of a request that may carry a file.
#[derive(Debug)]
pub(super) struct FileFields {
    pub(super) fields: Fields,
    /// The file part and its name.
    file: Option<(String, Upload)>,
    /// Held while a large body is in memory.
    large: Option<OwnedSemaphorePermit>,
}

/// The file of a request, and the member or part that held it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) media: MediaSource,
}

impl FromRequest<Shared> for FileFields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ApiError> {
        let uploads = &state.uploads;
        if extract::content_kind(request.headers()) != Kind::Multipart {
            let (parts, body) = request.into_parts();
            let mut large =
                if is_larger(&body, SMALL_BYTES) { Some(large(&uploads.large, IDLE_TIMEOUT).await?) } else { None };
            let fields = Fields::read(&parts, body, LARGE).await?;
            if fields.text_bytes() <= SMALL_BYTES {
                // It came in pieces, and they were few.
                large = None;
            }
            return Ok(Self { fields, file: None, large });
        }
        let (head, body) = request.into_parts();
        let (pieces, gauge) = Pieces::new(body);
        let parts = Multipart::from_request(Request::from_parts(head.clone(), Body::from_stream(pieces)), state)
            .await
            .map_err(|_| ApiError::bad_request("Malformed multipart request body"))?;
        tokio::time::timeout(BODY_TIMEOUT, read(parts, &gauge, &head, uploads))
            .await
            .map_err(|_elapsed| ApiError::body_too_slow())?
    }
}

impl FileFields {
    /// The file: of a URL, of base64, or of an uploaded part. `parts` are the names that the part may have.
    ///
    /// The URL's member is the one that is asked for when there is none.
    pub(super) fn media(
        &mut self,
        urls: &[&'static str],
        base64: &[&'static str],
        parts: &[&str],
    ) -> Result<Source, ApiError> {
        #[cfg(test)]
        for part in parts {
            extract::asked::note(&format!("part {part}"));
        }
        // All are looked for: which one counts is decided below. One that is null is no source.
        let there = |names: &[&'static str]| {
            names.iter().filter(|name| self.fields.is_given(name)).copied().collect::<Vec<_>>()
        };
        let (url, encoded) = (there(urls).first().copied(), there(base64).first().copied());
        let part = self.file.take_if(|(name, _upload)| parts.contains(&name.as_str()));
        let wanted = *urls.first().expect("each kind has a member for its URL");
        let (name, media) = match (url, encoded, part) {
            // Without any, the one that is wanted is refused by its name.
            (url, None, None) => {
                let url = url.unwrap_or(wanted);
                let given = self.fields.take_string(url)?.into();
                (url.to_owned(), MediaSource::Url(self.held_by(given)))
            }
            (None, Some(name), None) => {
                let given = self.fields.take_string(name)?.into();
                (name.to_owned(), MediaSource::Base64(self.held_by(given)))
            }
            (None, None, Some((name, upload))) => (name, MediaSource::Upload(upload)),
            _ => return Err(self.fields.invalid(wanted, "must be the only source of the file")),
        };
        Ok(Source { name, media })
    }

    /// Has the request's place among the large ones be held for as long as its file is in memory: a client that hangs up does
    /// not end the send.
    fn held_by(&mut self, given: Given) -> Given {
        match self.large.take() {
            Some(place) => given.holding(place),
            None => given,
        }
    }

    /// The name of the uploaded file, as its sender's disk had it.
    pub(super) fn file_name(&self) -> Option<&str> {
        self.file.as_ref().and_then(|(_name, upload)| upload.name.as_deref()).filter(|name| !name.is_empty())
    }
}

/// Whether a body may be larger: of unknown length, or of a length above this.
fn is_larger(body: &Body, limit: usize) -> bool {
    body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok()).is_none_or(|bytes| bytes > limit)
}

async fn large(slots: &Arc<Semaphore>, wait: Duration) -> Result<OwnedSemaphorePermit, ApiError> {
    match tokio::time::timeout(wait, Arc::clone(slots).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "Too many large requests at once")),
    }
}

async fn read(mut parts: Multipart, gauge: &Gauge, head: &Parts, uploads: &Uploads) -> Result<FileFields, ApiError> {
    let (mut members, mut file, mut text_bytes, mut count) = (Map::new(), None, 0, 0);
    let mut place = None;
    let mut digest = repeat::is_asked(&head.headers).then(Sha256::new);
    loop {
        gauge.seek();
        let Some(mut part) = within(parts.next_field()).await? else { break };
        gauge.open();
        count += 1;
        if count > MAX_PARTS {
            return Err(ApiError::bad_request(format!("More than {MAX_PARTS} parts in multipart request body")));
        }
        let name = part.name().unwrap_or_default().to_owned();
        text_bytes += name.len();
        if let Some(file_name) = part.file_name().map(unescaped) {
            let upload = save(&mut part, file_name, uploads, digest.as_mut()).await?;
            // A browser sends a part for a file that nobody chose.
            if upload.bytes == 0 && upload.name.as_deref() == Some("") {
                continue;
            }
            if file.replace((name, upload)).is_some() {
                return Err(ApiError::bad_request("Only one file can be sent with a message"));
            }
            continue;
        }
        let mut value = Vec::new();
        while let Some(chunk) = within(part.chunk()).await? {
            text_bytes += chunk.len();
            if text_bytes > LARGE.bytes {
                return Err(ApiError::body_too_large());
            }
            // Files in base64 are texts too.
            if text_bytes > SMALL_BYTES && place.is_none() {
                place = Some(large(&uploads.large, IDLE_TIMEOUT).await?);
            }
            value.extend_from_slice(&chunk);
        }
        let value =
            String::from_utf8(value).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        extract::add(&mut members, name, value);
    }
    let part = digest.zip(file.as_ref()).map(|(digest, (field, upload)): (Sha256, &(String, Upload))| Part {
        field,
        name: upload.name.as_deref().unwrap_or_default(),
        digest: digest.finalize().into(),
    });
    let repeat = Header::read(&head.headers, head.uri.path(), &members, part);
    let mut fields = Fields::of_body(members);
    fields.repeat = repeat;
    Ok(FileFields { fields, file, large: place })
}

/// A file's name as its sender has it: forms escape three characters of it (HTML, multipart/form-data encoding algorithm).
fn unescaped(name: &str) -> String {
    if name.contains('%') {
        name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
    } else {
        name.to_owned()
    }
}

/// Writes a part to disk as it arrives.
async fn save(
    part: &mut Field<'_>,
    name: String,
    uploads: &Uploads,
    mut digest: Option<&mut Sha256>,
) -> Result<Upload, ApiError> {
    let mime = part.content_type().map(str::to_owned);
    let folder = Arc::clone(&uploads.folder);
    let create = move || {
        std::fs::create_dir_all(&folder)?;
        // Files of this name are not served, and what a crash leaves of them is swept away.
        tempfile::Builder::new().prefix(".part-").tempfile_in(&folder)
    };
    let created = tokio::task::spawn_blocking(create).await;
    let (file, path) = created.map_err(ApiError::internal)?.map_err(ApiError::disk)?.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut bytes = 0_u64;
    while let Some(chunk) = within(part.chunk()).await? {
        bytes = bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if bytes > uploads.max_bytes.saturating_add(MAX_DISCARDED_BYTES) {
            break;
        }
        if bytes <= uploads.max_bytes {
            if let Some(digest) = &mut digest {
                digest.update(&chunk);
            }
            file.write_all(&chunk).await.map_err(ApiError::disk)?;
        }
    }
    if bytes > uploads.max_bytes {
        return Err(ApiError::file_too_large(uploads.max_bytes));
    }
    file.flush().await.map_err(ApiError::disk)?;
    Ok(Upload { file: Arc::new(path), bytes, name: Some(name), mime })
}

/// Waits for the next piece of a multipart body.
async fn within<T>(next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(IDLE_TIMEOUT, next).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(ApiError::body_too_large()),
        Ok(Err(_)) => Err(ApiError::bad_request("Malformed multipart request body")),
        Err(_elapsed) => Err(ApiError::body_too_slow()),
    }
}

#[cfg(test)]
mod tests;
