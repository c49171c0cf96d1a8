//! The reviewed table of what this gateway answers otherwise than the original, and why.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::golden::Setting;
use super::pattern::{body_matches, texts_match};
use super::wire::Answer;

/// The table as it stands in `decisions.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    /// The largest number of entries that each class may hold.
    pub(crate) maxima: BTreeMap<Class, usize>,
    #[serde(rename = "decision")]
    pub(crate) decisions: Vec<Decision>,
    pub(crate) hooks: Vec<Hooks>,
    /// Entries that no request replays.
    pub(crate) covered: Vec<Covered>,
}

/// Why an answer may differ; there is no other reason.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Class {
    /// The tolerance list and the orders of the issues ask for it.
    Ordered,
    /// The recorded answer is one of the engine that stood in for WhatsApp.
    StandIn,
    /// The recorded answer harms.
    Security,
}

/// Hooks of the original's pages that ours do not have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hooks {
    pub(crate) class: Class,
    /// One sentence for the page of differences.
    pub(crate) why: String,
    /// `<page>: <kind> <hook>`
    pub(crate) lacks: Vec<String>,
}

/// An entry that tests beside the replay show.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Covered {
    pub(crate) entry: String,
    /// `<file>::<function>`
    pub(crate) test: String,
    /// `None`: it happens as recorded.
    pub(crate) differs: Option<Difference>,
}

/// What happens instead of what was recorded.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Difference {
    pub(crate) class: Class,
    /// One sentence for the page of differences.
    pub(crate) instead: String,
}

/// What is answered instead, for each of some entries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decision {
    pub(crate) class: Class,
    /// One sentence for the page of differences.
    pub(crate) why: String,
    /// Only with this `KEY`.
    pub(crate) key: Option<String>,
    /// Only with this `NODE_ENV`.
    pub(crate) env: Option<String>,
    pub(crate) status: u16,
    /// The body as recorded ones are written; absent: empty.
    #[serde(default)]
    pub(crate) body: String,
    /// Headers that the answer must have.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The files of `/media` that a received message leaves.
    #[serde(default)]
    pub(crate) files: Vec<String>,
    pub(crate) entries: Vec<String>,
}

impl Decision {
    pub(crate) fn is_about(&self, entry: &str, setting: Setting) -> bool {
        self.key.as_deref().is_none_or(|key| key == setting.key)
            && self.env.as_deref().is_none_or(|env| env == setting.env)
            && self.entries.iter().any(|name| name == entry)
    }

    pub(crate) fn accepts(&self, answer: &Answer, files: &[String]) -> bool {
        let header = |(name, value): (&String, &String)| {
            answer.header(name).is_some_and(|given| body_matches(value, given, &[]))
        };
        self.status == answer.status
            && self.headers.iter().all(header)
            && body_matches(&self.body, &answer.body, &[])
            && texts_match(&self.files, files)
    }
}

impl Table {
    /// What pages of ours lack.
    pub(crate) fn lacks(&self) -> impl Iterator<Item = &str> {
        self.hooks.iter().flat_map(|hooks| &hooks.lacks).map(String::as_str)
    }

    /// Each entry that is answered otherwise, with its class and a sentence about what happens instead.
    pub(crate) fn differences(&self) -> impl Iterator<Item = (Class, &str, &str)> {
        let decided = self.decisions.iter().flat_map(|decision| {
            decision.entries.iter().map(|entry| (decision.class, decision.why.as_str(), entry.as_str()))
        });
        let covered = self.covered.iter().filter_map(|covered| {
            let differs = covered.differs.as_ref()?;
            Some((differs.class, differs.instead.as_str(), covered.entry.as_str()))
        });
        decided.chain(covered)
    }
}

pub(crate) fn table() -> Table {
    toml::from_str(include_str!("decisions.toml")).unwrap()
}
