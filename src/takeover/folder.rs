//! A folder of Baileys' `useMultiFileAuthState`, one file for each value, which is one session.

use std::fs;
use std::path::Path;

use super::TakeoverError;
use super::convert::{Row, Stored, split};

/// The file that makes a folder one of these.
pub(super) const CREDS: &str = "creds.json";

pub(super) fn stored(folder: &Path, session: String) -> Result<Stored, TakeoverError> {
    let unreadable = |source| TakeoverError::Copy { path: folder.to_owned(), source };
    let mut stored = Stored { session, ..Stored::default() };
    let mut files: Vec<_> = fs::read_dir(folder).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        let name = file.file_name();
        let Some(key) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
        let (category, id) = split(key, None);
        let id = id_of(category, id);
        let json = fs::read(file.path()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        stored.rows.push(Row { category: category.to_owned(), id, json });
    }
    Ok(stored)
}

/// Baileys writes `/` as `__` and `:` as `-` into file names; which of them stood there is told by the kind of the value.
fn id_of(category: &str, id: &str) -> String {
    match category {
        // Base64.
        "app-state-sync-key" => id.replace("__", "/"),
        // `group::user::device`, and groups of old have a `-` too.
        "sender-key" => {
            let mut parts: Vec<&str> = id.rsplitn(3, "--").collect();
            parts.reverse();
            parts.join("::")
        }
        _ => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_become_ids_again() {
        for (category, file, id) in [
            ("app-state-sync-key", "AAAA__b+=", "AAAA/b+="),
            ("sender-key", "120363@g.us--628_1--3", "120363@g.us::628_1::3"),
            ("sender-key", "6281-15@g.us--628--0", "6281-15@g.us::628::0"),
            ("session", "628_1.3", "628_1.3"),
        ] {
            assert_eq!(id_of(category, file), id);
        }
    }
}
