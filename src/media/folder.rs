//! The folder of received files; their names are made here, from message ids that strangers choose.
//!
//! A file appears under its name only when it is complete. Blocking: call from the blocking pool.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

/// How unfinished files begin.
const UNFINISHED: &str = ".part-";
/// How folders of notes begin.
const NOTES: &str = ".of-";
/// Longer ids are hashed: file systems take 255 bytes, and WhatsApp's ids have 16 to 32.
const MAX_ID: usize = 128;
/// Longer extensions are hashed away with the id.
const MAX_EXTENSION: usize = 32;

/// The two names of a received file, made by [`file_name`], which are often the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The one with its extension.
    pub on_disk: String,
    /// The one that is told.
    pub told: String,
}

/// The folder of received files.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// Held while a file gets its names.
    naming: Arc<Mutex<()>>,
}

impl Folder {
    /// A folder at this path; made by [`prepare`](Self::prepare), or when a file comes.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), naming: Arc::default() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An unfinished file beside the others; it goes when dropped.
    ///
    /// # Errors
    /// When the folder can't be made or written.
    pub fn temp(&self) -> io::Result<NamedTempFile> {
        std::fs::create_dir_all(&self.path)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED);
        #[cfg(unix)]
        {
            // As the other files in the folder, not for our eyes only: other programs may serve it.
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(std::fs::Permissions::from_mode(0o644));
        }
        builder.tempfile_in(&self.path)
    }

    /// Gives a finished file its names: the first of these pairs that no other file has, or the last one; which.
    ///
    /// What is there already stays what it is, unless it is of the last pair: its name has been told. `owner`: the session
    /// that received it is noted.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn save(&self, temp: NamedTempFile, names: &[Names], owner: Option<&str>) -> io::Result<usize> {
        temp.as_file().sync_data()?;
        let Some((last, free)) = names.split_last() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file without a name"));
        };
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, names) in free.iter().enumerate() {
            if self.has_another(&names.on_disk, temp.path())? || self.has_another(&names.told, temp.path())? {
                continue;
            }
            self.own_both(owner, names)?;
            let path = self.path.join(&names.on_disk);
            if !path.exists() {
                temp.persist(path).map_err(|error| error.error)?;
            }
            return self.alias(names).map(|()| place);
        }
        self.own_both(owner, last)?;
        temp.persist(self.path.join(&last.on_disk)).map_err(|error| error.error)?;
        if last.told != last.on_disk {
            match std::fs::remove_file(self.path.join(&last.told)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.alias(last)?;
        Ok(free.len())
    }

    /// Whether a file of this name is there that holds something else than that one.
    fn has_another(&self, name: &str, than: &Path) -> io::Result<bool> {
        let there = match std::fs::File::open(self.path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let this = std::fs::File::open(than)?;
        if there.metadata()?.len() != this.metadata()?.len() {
            return Ok(true);
        }
        let digest = |file| {
            let mut digest = Sha256::new();
            io::copy(&mut io::BufReader::with_capacity(1 << 16, file), &mut digest).map(|_length| digest.finalize())
        };
        Ok(digest(there)? != digest(this)?)
    }

    /// Makes a saved file reachable under its second name, too, if it is not.
    fn alias(&self, names: &Names) -> io::Result<()> {
        let (from, to) = (self.path.join(&names.on_disk), self.path.join(&names.told));
        if to.exists() {
            return Ok(());
        }
        // Some file systems know no hard links.
        std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop))
    }

    /// Before the file: a note about none does no harm, a file without its note can't be read by its owner.
    fn own_both(&self, owner: Option<&str>, names: &Names) -> io::Result<()> {
        let Some(owner) = owner else { return Ok(()) };
        self.own(owner, &names.on_disk)?;
        self.own(owner, &names.told)
    }

    /// Notes that this session received the file of this name.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn own(&self, session: &str, name: &str) -> io::Result<()> {
        let notes = self.path.join(notes_of(session));
        std::fs::create_dir_all(&notes)?;
        std::fs::File::create(notes.join(name)).map(drop)
    }

    /// Whether the file of this name, which is one below the folder, was received by this session, as far as that was noted.
    pub fn is_of(&self, session: &str, name: &str) -> bool {
        !name.contains(['/', '\\']) && self.path.join(notes_of(session)).join(name).is_file()
    }

    /// Makes the folder, sees that it takes files, and removes what an earlier run left unfinished.
    ///
    /// # Errors
    /// When it can't be made, written or read.
    pub fn prepare(&self) -> io::Result<()> {
        drop(self.temp()?);
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether a part of a path below the folder is our own business and no received file: unfinished, or a folder of notes.
///
/// In any case, for some file systems know none; and by the names that temporary files have for others, and deleted ones that
/// are still open on NFS and FUSE.
pub fn is_private(part: &[u8]) -> bool {
    let begins = |with: &str| part.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    [UNFINISHED, NOTES, ".tmp", ".nfs", ".fuse_hidden"].into_iter().any(begins)
}

/// The folder of notes about a session's files; private, and hashed, whatever the session is called.
fn notes_of(session: &str) -> String {
    format!("{NOTES}{}", &hex::encode(Sha256::digest(session))[..32])
}

/// The name of a received file: `<id>.<extension>`, or `<id>` for an empty extension, when nothing in them could lead
/// elsewhere; else the id's hash stands for it, and a doubtful extension is left out.
pub fn file_name(message_id: &str, extension: &str) -> String {
    let plain = |text: &str, most: usize| {
        (1..=most).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let stem = if plain(message_id, MAX_ID) {
        message_id.to_owned()
    } else {
        let mut hash = hex::encode(Sha256::digest(message_id));
        hash.truncate(32);
        hash
    };
    if plain(extension, MAX_EXTENSION) { format!("{stem}.{extension}") } else { stem }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_of_the_sessions_that_received_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path());
        for session in ["shop", "../x"] {
            folder.own(session, "a.jpg").unwrap();
        }
        for (session, name, is_of) in [
            ("shop", "a.jpg", true),
            ("../x", "a.jpg", true),
            ("shop", "b.jpg", false),
            ("other", "a.jpg", false),
            ("shop", "", false),
            ("shop", "../a.jpg", false),
        ] {
            assert_eq!(folder.is_of(session, name), is_of, "{session} {name}");
        }
        let all_private = std::fs::read_dir(place.path())
            .unwrap()
            .all(|entry| is_private(entry.unwrap().file_name().as_encoded_bytes()));
        assert!(all_private, "what is private is not served");
    }

    #[test]
    fn names_never_lead_anywhere_else() {
        for (id, extension, name) in [
            ("3EB0AABB", "jpg", "3EB0AABB.jpg"),
            ("3EB0AABB", "", "3EB0AABB"),
            ("false_62812-1", "PDF", "false_62812-1.PDF"),
            ("3EB0", "js/../x", "3EB0"),
            ("3EB0", "tar.gz", "3EB0"),
            ("3EB0", "\u{e9}", "3EB0"),
        ] {
            assert_eq!(file_name(id, extension), name);
        }
        let long = "A".repeat(129);
        let mut seen = std::collections::HashSet::new();
        for id in ["../../x", "..", ".", "", ".hidden", "a/b", "a\\b", "a\0b", "\u{661}", "a b", "3EB0.jpg", &long] {
            let name = file_name(id, "jpg");
            assert!(
                name.len() == 36 && name.split_once('.').is_some_and(|(_, end)| end == "jpg") && !name.starts_with('.'),
                "{id:?} gives {name}"
            );
            assert!(seen.insert(name), "{id:?} shares its name");
        }
    }

    fn names(on_disk: &str, told: &str) -> Names {
        Names { on_disk: on_disk.to_owned(), told: told.to_owned() }
    }

    /// A folder, and what saves a text in it.
    fn scene() -> (tempfile::TempDir, Folder, impl Fn(&str, &[Names]) -> usize) {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().join("media"));
        folder.prepare().unwrap();
        let saving = folder.clone();
        let save = move |text: &str, names: &[Names]| {
            let mut temp = saving.temp().unwrap();
            temp.write_all(text.as_bytes()).unwrap();
            saving.save(temp, names, Some("shop")).unwrap()
        };
        (place, folder, save)
    }

    #[test]
    fn a_file_appears_when_it_is_complete_and_under_both_names() {
        let (_place, folder, save) = scene();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let mut temp = folder.temp().unwrap();
        temp.write_all(b"first").unwrap();
        assert!(!folder.path().join("a.pdf").exists());
        let pair = [names("a.pdf", "a")];
        folder.save(temp, &pair, None).unwrap();
        assert_eq!((read("a"), read("a.pdf")), ("first".to_owned(), "first".to_owned()));
        assert!(!folder.is_of("shop", "a"));
        save("second", &pair);
        assert_eq!((read("a"), read("a.pdf")), ("second".to_owned(), "second".to_owned()), "the last pair is its own");
        assert!(folder.is_of("shop", "a") && folder.is_of("shop", "a.pdf"));
        let (_file, left) = folder.temp().unwrap().keep().unwrap();
        folder.prepare().unwrap();
        assert!(!left.exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "two names and the folder of notes");
    }

    #[test]
    fn what_was_told_is_never_replaced_by_another_file() {
        let (_place, folder, save) = scene();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let pairs = |extension: &str, sender: &str| {
            [
                names(&format!("ID.{extension}"), "ID"),
                names(&format!("ID-{sender}.{extension}"), &format!("ID-{sender}")),
            ]
        };
        assert_eq!(save("hers", &pairs("pdf", "ani")), 0);
        assert_eq!(save("hers", &pairs("pdf", "budi")), 0, "the same file");
        assert_eq!(save("HERS", &pairs("pdf", "budi")), 1, "as long, and another");
        // By the name that both would have without an extension, and by the one with it.
        assert_eq!(save("his", &pairs("txt", "budi")), 1);
        assert_eq!(save("picture", &[names("ID.pdf", "ID.pdf"), names("ID-budi.jpg", "ID-budi.jpg")]), 1);
        for (name, text) in [
            ("ID", "hers"),
            ("ID.pdf", "hers"),
            ("ID-budi.pdf", "HERS"),
            ("ID-budi.txt", "his"),
            ("ID-budi", "his"),
            ("ID-budi.jpg", "picture"),
        ] {
            assert_eq!(read(name), text, "{name}");
        }
        assert!(!folder.path().join("ID.txt").exists());
    }
}
