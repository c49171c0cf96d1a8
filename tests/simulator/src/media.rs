//! Encrypted media objects by path, as the media hosts keep them: small ones in memory, larger ones in unnamed files.
//!
//! Only ciphertext comes here. Objects live until the simulator ends or they are forgotten on command.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Objects up to this size stay in memory.
const IN_MEMORY_BYTES: usize = 1 << 20;
/// What real paths carry after the object; clients must take it as a part of the path.
const PATH_QUERY: &str = "?ccb=11-4&_nc_sid=5e03e0";

/// A stored object; clones share its content.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    content: Content,
    pub(crate) length: u64,
    pub(crate) sha256: [u8; 32],
    /// The kind in the upload's path, as `image`; tells downloads of attachments from those of histories.
    pub(crate) kind: String,
}

#[derive(Debug, Clone)]
enum Content {
    Memory(Bytes),
    File(Arc<File>),
}

impl Object {
    /// Reads a part that lies within the object. Blocks while it reads a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(&self, from: u64, length: usize) -> io::Result<Bytes> {
        match &self.content {
            Content::Memory(bytes) => {
                let from = usize::try_from(from).map_err(io::Error::other)?;
                Ok(bytes.slice(from..from + length))
            }
            Content::File(file) => {
                let mut part = vec![0; length];
                file.read_exact_at(&mut part, from)?;
                Ok(part.into())
            }
        }
    }

    /// The whole object.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn whole(&self) -> io::Result<Bytes> {
        self.read(0, usize::try_from(self.length).map_err(io::Error::other)?)
    }
}

/// An object on its way in.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    hash: Sha256,
    memory: Vec<u8>,
    file: Option<File>,
    length: u64,
}

impl Intake {
    /// Takes the next part; beyond a certain length into a file.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(crate) fn take(&mut self, part: &[u8]) -> io::Result<()> {
        self.hash.update(part);
        self.length += part.len() as u64;
        if let Some(file) = &mut self.file {
            return file.write_all(part);
        }
        self.memory.extend_from_slice(part);
        if self.memory.len() > IN_MEMORY_BYTES {
            let mut file = unnamed_file()?;
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        Ok(())
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn finish(self, kind: &str) -> Object {
        Object {
            content: match self.file {
                Some(file) => Content::File(Arc::new(file)),
                None => Content::Memory(self.memory.into()),
            },
            length: self.length,
            sha256: self.hash.finalize().into(),
            kind: kind.to_owned(),
        }
    }
}

/// A file that is gone as soon as nobody holds it.
fn unnamed_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("whatsapp-simulator-{}", hex::encode(rand::random::<[u8; 12]>())));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Media {
    stored: HashMap<String, Object>,
    /// What was forgotten on command; phones have their files still.
    forgotten: HashMap<String, Object>,
}

impl Media {
    /// Stores an object and returns its direct path.
    pub(crate) fn put(&mut self, object: Object) -> String {
        let path = format!("/v/{}/{}.enc", family(&object.kind), hex::encode(object.sha256));
        self.put_at(path, object)
    }

    fn put_at(&mut self, path: String, object: Object) -> String {
        let direct = format!("{path}{PATH_QUERY}");
        self.stored.insert(path, object);
        direct
    }

    /// The object at a path, whatever comes after a question mark.
    pub(crate) fn at(&self, direct_path: &str) -> Option<Object> {
        self.stored.get(bare(direct_path)).cloned()
    }

    /// The path of the object with this hash, if it is there.
    pub(crate) fn find(&self, sha256: &[u8]) -> Option<String> {
        let (path, _) = self.stored.iter().find(|(_, object)| object.sha256 == sha256)?;
        Some(format!("{path}{PATH_QUERY}"))
    }

    /// Forgets an object; true if it was there.
    pub(crate) fn forget(&mut self, direct_path: &str) -> bool {
        let path = bare(direct_path);
        let Some(object) = self.stored.remove(path) else { return false };
        self.forgotten.insert(path.to_owned(), object);
        true
    }

    /// Stores the object of a path, forgotten or not, at a new one.
    pub(crate) fn restore(&mut self, direct_path: &str) -> Option<String> {
        let path = bare(direct_path);
        let object = self.stored.get(path).or_else(|| self.forgotten.get(path))?.clone();
        let again = format!("/v/{}/{}.enc", family(&object.kind), hex::encode(rand::random::<[u8; 32]>()));
        Some(self.put_at(again, object))
    }
}

/// A path without its query.
pub(crate) fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// The folder of a kind (baileys' and whatsmeow's examples of direct paths).
fn family(kind: &str) -> &'static str {
    match kind {
        "image" => "t62.7118-24",
        "video" => "t62.7161-24",
        "audio" => "t62.7117-24",
        "document" => "t62.7119-24",
        _ => "t62",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(length: usize, part: usize) -> Object {
        let mut intake = Intake::default();
        for place in (0..length).step_by(part) {
            let bytes: Vec<u8> = (place..length.min(place + part)).map(|byte| byte.to_le_bytes()[0]).collect();
            intake.take(&bytes).unwrap();
        }
        intake.finish("image")
    }

    #[test]
    fn small_and_large_objects_read_alike() {
        for length in [10, IN_MEMORY_BYTES + 70_000] {
            let object = object(length, 60_000);
            assert_eq!(object.length, length as u64);
            assert_eq!(matches!(object.content, Content::File(_)), length > IN_MEMORY_BYTES);
            let whole = object.whole().unwrap();
            assert_eq!(object.sha256, <[u8; 32]>::from(Sha256::digest(&whole)));
            assert_eq!(object.read(3, 5).unwrap(), whole.slice(3..8));
        }
    }

    #[test]
    fn objects_are_found_until_forgotten() {
        let mut media = Media::default();
        let object = object(10, 10);
        let path = media.put(object.clone());
        assert!(path.starts_with("/v/t62.7118-24/"));
        assert_eq!(media.at(&format!("{path}?auth=x")).unwrap().length, 10);
        assert_eq!(media.find(&object.sha256), Some(path.clone()));
        assert!(media.forget(&path) && !media.forget(&path));
        assert!(media.at(&path).is_none());
        let again = media.restore(&path).unwrap();
        assert!(again != path && media.at(&again).unwrap().sha256 == object.sha256);
        assert_eq!(media.restore("/v/none.enc"), None);
    }
}
