//! Whether the rows of keys and logins can be read: for the check of a store that nobody uses.

use super::login::{self, Login};
use super::{Hash, stored};

/// Whether a row of the registry is a key's or a login's, and can be read; `None`: it is another's.
pub fn check(row: &[u8], value: &[u8]) -> Option<Result<(), &'static str>> {
    let (what, well) = if let Some(name) = row.strip_prefix(stored::KEY) {
        let of_name = |name: &[u8]| stored::parse(value).is_some_and(|(_, spec, _)| spec.name.as_bytes() == name);
        ("an API key", of_name(name))
    } else if let Some(hash) = row.strip_prefix(login::LOGIN) {
        ("a login", Hash::try_from(hash).is_ok() && serde_json::from_slice::<Login>(value).is_ok())
    } else if row == login::SECRET {
        ("the secret of the logins", value.len() == login::SECRET_BYTES)
    } else {
        return None;
    };
    Some(if well { Ok(()) } else { Err(what) })
}
