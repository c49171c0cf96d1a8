//! Keys of the file that `KEYS_FILE` names: read at the start, and again whenever the file changes.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::spec::Row;
use super::{Hash, Keys, Spec, SpecError};

/// How often the file is looked at; a look is one call of the system.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Far more than a thousand keys need.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Why a file of keys can't be used.
#[derive(Debug, thiserror::Error)]
#[error("KEYS_FILE {} can't be used: {reason}", path.display())]
pub struct KeysFileError {
    /// The file.
    pub path: PathBuf,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The text of the parser, which quotes no values.
    #[error("it is no JSON of the form [{{\"name\", \"hash\", \"sessions\", \"scopes\"}}]: {0}")]
    Json(String),
    #[error("key {place}: {member} {why}")]
    Member { place: usize, member: &'static str, why: SpecError },
    #[error("key {0}: hash must be the SHA-256 of the key as 64 hexadecimal digits (printf %s \"$KEY\" | sha256sum)")]
    Hash(usize),
    #[error("the name {0} stands there twice")]
    Twice(String),
}

/// What a file holds: a list of keys, bare or as the member `keys`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    List(Vec<serde_json::Value>),
    Named { keys: Vec<serde_json::Value> },
}

/// What tells one state of a file from another.
type Look = Option<(SystemTime, u64)>;

/// Reads the file.
///
/// # Errors
/// [`KeysFileError`] names the file, the key by its place, and what is wrong with it; never a value.
pub fn read(path: &Path) -> Result<Vec<(Hash, Spec)>, KeysFileError> {
    parse_file(path).map_err(|reason| KeysFileError { path: path.to_owned(), reason })
}

fn parse_file(path: &Path) -> Result<Vec<(Hash, Spec)>, Reason> {
    let metadata = std::fs::metadata(path)?;
    if metadata.len() > MAX_BYTES {
        return Err(Reason::TooLarge);
    }
    warn_if_open(path, &metadata);
    parse(&std::fs::read_to_string(path)?)
}

fn parse(text: &str) -> Result<Vec<(Hash, Spec)>, Reason> {
    let told = |error: serde_json::Error| Reason::Json(format!("line {}, column {}", error.line(), error.column()));
    let rows = match serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(told)? {
        Document::List(rows) | Document::Named { keys: rows } => rows,
    };
    let (mut keys, mut names) = (Vec::new(), HashSet::new());
    for (place, row) in (1..).zip(rows) {
        // The parser's own text may quote a value, as that of a key where a hash should stand.
        let row = serde_json::from_value::<Row>(row).map_err(|_| {
            Reason::Json(format!(
                "key {place} has other members than name, hash, sessions, scopes, or lacks name or hash"
            ))
        })?;
        let hash = row.hash().ok_or(Reason::Hash(place))?;
        let spec = row.spec().map_err(|why| Reason::Member { place, member: why.member(), why })?;
        if !names.insert(spec.name.clone()) {
            return Err(Reason::Twice(spec.name));
        }
        keys.push((hash, spec));
    }
    Ok(keys)
}

#[cfg(unix)]
fn warn_if_open(path: &Path, metadata: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        tracing::warn!(file = %path.display(), mode = %format!("{mode:o}"), "others may write KEYS_FILE, and so let themselves in: chmod 600");
    } else if mode & 0o044 != 0 {
        tracing::warn!(file = %path.display(), mode = %format!("{mode:o}"), "others may read KEYS_FILE: chmod 600");
    }
}

#[cfg(not(unix))]
fn warn_if_open(_path: &Path, _metadata: &std::fs::Metadata) {}

fn look(path: &Path) -> Look {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Reads the file into the keys, and gives what keeps them as the file is until the token ends.
///
/// A change that can't be used is logged and changes nothing; so is a file that has gone.
///
/// # Errors
/// As [`read`].
pub fn follow(
    path: PathBuf,
    keys: Keys,
    token: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, KeysFileError> {
    let mut seen = look(&path);
    keys.set_file(read(&path)?);
    Ok(async move {
        while token.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let (looked, now) = (
                path.clone(),
                tokio::task::spawn_blocking({
                    let path = path.clone();
                    move || look(&path)
                }),
            );
            let Ok(now) = now.await else { continue };
            if now == seen {
                continue;
            }
            seen = now;
            match tokio::task::spawn_blocking(move || read(&looked)).await {
                Ok(Ok(read)) => keys.set_file(read),
                Ok(Err(error)) => tracing::error!(%error, "the keys stay as they were"),
                Err(error) => tracing::error!(%error, "KEYS_FILE could not be read: the keys stay as they were"),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::hash;

    fn hex_of(key: &str) -> String {
        hex::encode(hash(key.as_bytes()))
    }

    #[test]
    fn a_file_lists_keys_by_their_hash() {
        let text = format!(
            r#"[{{"name":"shop","hash":"{}","sessions":["shop","team-*"],"scopes":["send"]}},{{"name":"all","hash":"sha256:{}"}}]"#,
            hex_of("a"),
            hex_of("b").to_uppercase(),
        );
        let keys = parse(&text).unwrap();
        assert_eq!((keys[0].0, keys[1].0), (hash(b"a"), hash(b"b")));
        assert!(keys[0].1.scopes.send && !keys[0].1.scopes.read && keys[0].1.sessions.contains("team-1"));
        assert!(keys[1].1.scopes.manage && keys[1].1.sessions.contains("anything"));
        assert_eq!(parse(&format!("{{\"keys\":{text}}}")).unwrap().len(), 2);
        assert!(parse("[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is_quoted() {
        let good = hex_of("a");
        for (text, told) in [
            ("{".to_owned(), "line 1, column 1"),
            (r#"[{"name":"a"}]"#.to_owned(), "key 1 has other members"),
            (r#"[{"name":"a","key":"SECRET"}]"#.to_owned(), "key 1 has other members"),
            (r#"[{"name":"a","hash":"SECRET"}]"#.to_owned(), "key 1: hash must be"),
            (format!(r#"[{{"name":"a","hash":"{good}"}},{{"name":"","hash":"{good}"}}]"#), "key 2: name must be"),
            (format!(r#"[{{"name":"key","hash":"{good}"}}]"#), "key 1: name must be"),
            (format!(r#"[{{"name":"a","hash":"{good}","sessions":[]}}]"#), "key 1: sessions must be"),
            (format!(r#"[{{"name":"a","hash":"{good}","scopes":["SECRET"]}}]"#), "key 1: scopes must be"),
            (
                format!(r#"[{{"name":"a","hash":"{good}"}},{{"name":"a","hash":"{good}"}}]"#),
                "the name a stands there twice",
            ),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("SECRET"), "{text}: {error}");
        }
        let missing = read(Path::new("/nowhere/keys.json")).unwrap_err().to_string();
        assert!(missing.contains("KEYS_FILE /nowhere/keys.json"), "{missing}");
    }
}
