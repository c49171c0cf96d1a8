//! The API key that the gateway makes for itself when none was given.
//!
//! Called once at start-up. The key never goes to the log; the log names the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;

/// Name of the file below the credentials folder.
pub const KEY_FILE: &str = "api-key";

/// Random bytes of a generated key: 256 bits can't be guessed.
const KEY_BYTES: usize = 32;

/// The key could be neither read nor made.
#[derive(Debug, thiserror::Error)]
#[error("the API key file {} can't be used", path.display())]
pub struct KeyFileError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// The key in `<folder>/api-key`; made on the first call, with mode 0600, whole or not at all.
///
/// Tells the log where the file is.
///
/// # Errors
/// [`KeyFileError`] when the file or its folder can't be used.
pub fn load_or_create(folder: &Path) -> Result<SecretString, KeyFileError> {
    let path = folder.join(KEY_FILE);
    let key = read(&path).transpose().unwrap_or_else(|| {
        fs::create_dir_all(folder)?;
        create(folder, &path)
    });
    match key {
        Ok(key) => {
            tracing::info!(file = %path.display(), "KEY is not set: callers need the key in this file");
            Ok(key)
        }
        Err(source) => Err(KeyFileError { path, source }),
    }
}

/// `None`: there is no file, or an empty one.
fn read(path: &Path) -> io::Result<Option<SecretString>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim()).filter(|key| !key.is_empty()).map(SecretString::from)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn create(folder: &Path, path: &Path) -> io::Result<SecretString> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let key = URL_SAFE_NO_PAD.encode(bytes);
    let draft = folder.join(format!(".{KEY_FILE}.{}", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(&draft)?;
    file.write_all(key.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    // Whoever renamed last has won: everybody takes what the file holds.
    read(path)?.ok_or_else(|| io::Error::other("the key file is empty after it was written"))
}

#[cfg(unix)]
fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("new/credentials");
        let first = load_or_create(&folder).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(first.expose_secret()).unwrap().len(), KEY_BYTES);
        let second = load_or_create(&folder).unwrap();
        assert_eq!(first.expose_secret(), second.expose_secret());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no draft is left behind");
        let other = load_or_create(home.path()).unwrap();
        assert_ne!(first.expose_secret(), other.expose_secret());
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        load_or_create(home.path()).unwrap();
        assert_eq!(fs::metadata(home.path().join("api-key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_existing_key_is_taken_and_an_empty_file_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(KEY_FILE);
        fs::write(&path, "mine\n").unwrap();
        assert_eq!(load_or_create(home.path()).unwrap().expose_secret(), "mine");
        fs::write(&path, "\n").unwrap();
        let made = load_or_create(home.path()).unwrap();
        assert_eq!(made.expose_secret().len(), 43);
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), made.expose_secret());
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error_that_names_the_path() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("file");
        fs::write(&folder, "").unwrap();
        let error = load_or_create(&folder).unwrap_err();
        assert!(error.to_string().contains("api-key"), "{error}");
    }
}
