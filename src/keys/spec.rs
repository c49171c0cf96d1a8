//! A key in words: its name, its sessions, its scopes, and the rules for each.

use serde::{Deserialize, Serialize};

/// The longest name of a key, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Names of sessions in one key.
const MAX_SESSIONS: usize = 1000;
/// A session's name, and a `*`.
const MAX_SESSION_BYTES: usize = 257;

/// What a key may do with the sessions that it may touch. No scope holds another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// See sessions.
    pub read: bool,
    /// Send messages.
    pub send: bool,
    /// Start, stop, log out and delete sessions.
    pub manage: bool,
}

impl Scopes {
    /// Everything.
    pub const ALL: Self = Self { read: true, send: true, manage: true };

    /// The words for them.
    pub fn words(self) -> Vec<&'static str> {
        let all = [(self.read, "read"), (self.send, "send"), (self.manage, "manage")];
        all.into_iter().filter_map(|(may, word)| may.then_some(word)).collect()
    }

    /// Reads the words; none at all is refused.
    ///
    /// # Errors
    /// [`SpecError::Scopes`].
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, SpecError> {
        let mut scopes = Self::default();
        for word in words {
            match word {
                "read" => scopes.read = true,
                "send" => scopes.send = true,
                "manage" => scopes.manage = true,
                "*" => scopes = Self::ALL,
                _ => return Err(SpecError::Scopes),
            }
        }
        if scopes == Self::default() { Err(SpecError::Scopes) } else { Ok(scopes) }
    }
}

/// The sessions that a key may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSet {
    /// Every one, those to come too.
    All,
    /// Those with one of these names; a name that ends in `*` stands for all that begin so.
    Named(Vec<String>),
}

impl SessionSet {
    /// Whether a session of this name belongs to the set.
    pub fn contains(&self, session: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| match name.strip_suffix('*') {
                Some(start) => session.starts_with(start),
                None => name == session,
            }),
        }
    }

    /// The names, or `*` for all.
    pub fn words(&self) -> Vec<&str> {
        match self {
            Self::All => vec!["*"],
            Self::Named(names) => names.iter().map(String::as_str).collect(),
        }
    }

    /// Reads the names; none at all is refused, since such a key could do nothing.
    ///
    /// # Errors
    /// [`SpecError::Sessions`].
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, SpecError> {
        let mut kept: Vec<String> = Vec::new();
        for name in names {
            if name.trim().is_empty() || name.len() > MAX_SESSION_BYTES || kept.len() >= MAX_SESSIONS {
                return Err(SpecError::Sessions);
            }
            if !kept.iter().any(|known| known == name) {
                kept.push(name.to_owned());
            }
        }
        if kept.is_empty() {
            return Err(SpecError::Sessions);
        }
        Ok(if kept.iter().any(|name| name == "*") { Self::All } else { Self::Named(kept) })
    }
}

/// A key without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What it is called in answers and in the log.
    pub name: String,
    /// Where it is valid.
    pub sessions: SessionSet,
    /// What it is good for.
    pub scopes: Scopes,
}

/// A part of a key that can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name.
    #[error("must be 1 to 64 letters, digits, '.', '_' or '-', and not KEY")]
    Name,
    /// The sessions.
    #[error("must be 1 to 1000 names of sessions, or beginnings of names with '*' behind")]
    Sessions,
    /// The scopes.
    #[error("must be some of read, send, manage")]
    Scopes,
}

impl SpecError {
    /// The member that holds it.
    pub fn member(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Sessions => "sessions",
            Self::Scopes => "scopes",
        }
    }
}

impl Spec {
    /// Reads the words of a key; without sessions it is valid for all, without scopes for everything.
    ///
    /// # Errors
    /// [`SpecError`] names the part.
    pub fn parse(name: &str, sessions: Option<&[String]>, scopes: Option<&[String]>) -> Result<Self, SpecError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_good = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain);
        if !is_good || name.eq_ignore_ascii_case(super::MASTER) || name.bytes().all(|byte| byte == b'.') {
            return Err(SpecError::Name);
        }
        let sessions = match sessions {
            None => SessionSet::All,
            Some(names) => SessionSet::parse(names.iter().map(String::as_str))?,
        };
        let scopes = match scopes {
            None => Scopes::ALL,
            Some(words) => Scopes::parse(words.iter().map(String::as_str))?,
        };
        Ok(Self { name: name.to_owned(), sessions, scopes })
    }
}

/// A key as it is kept, in the store and in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) name: String,
    /// SHA-256 in hexadecimal digits.
    pub(super) hash: String,
    #[serde(default)]
    pub(super) sessions: Option<Vec<String>>,
    #[serde(default)]
    pub(super) scopes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) created_at: Option<chrono::DateTime<chrono::Utc>>,
}

impl Row {
    /// The hash, when it is one.
    pub(super) fn hash(&self) -> Option<super::Hash> {
        let digits = self.hash.trim();
        hex::decode(digits.strip_prefix("sha256:").unwrap_or(digits)).ok()?.try_into().ok()
    }

    pub(super) fn spec(&self) -> Result<Spec, SpecError> {
        Spec::parse(&self.name, self.sessions.as_deref(), self.scopes.as_deref())
    }
}
