//! The recorded requests and answers of wa-gateway 4.7.1.

use serde::Deserialize;
use serde_json::{Map, Value};

/// One recorded exchange.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) step: u32,
    pub(crate) config: Settings,
    pub(crate) direction: Option<String>,
    pub(crate) request: Option<Request>,
    pub(crate) response: Option<Response>,
    #[serde(default)]
    pub(crate) optional_members: Vec<String>,
    #[serde(default)]
    pub(crate) webhook_bodies: Vec<String>,
    /// The files of `/media` that a received message left.
    #[serde(default)]
    pub(crate) files_written: Vec<String>,
    /// What was seen of the process where no answer was taken down.
    #[serde(default)]
    pub(crate) observed: Map<String, Value>,
}

impl Entry {
    /// Whether something is to be sent to the gateway.
    pub(crate) fn is_asked(&self) -> bool {
        self.request.is_some() && self.direction.is_none() && self.response.is_some()
    }

    /// Whether something is to be sent, and what becomes of it was taken down instead of the answer.
    pub(crate) fn is_watched(&self) -> bool {
        self.request.is_some() && self.direction.is_none() && self.response.is_none()
    }
}

/// What the original was run with; `any`: the same answer for every value.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Settings {
    #[serde(rename = "KEY")]
    pub(crate) key: String,
    #[serde(rename = "NODE_ENV")]
    pub(crate) env: String,
}

/// One way to run the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) env: &'static str,
}

/// Every combination that an entry may ask for.
pub(crate) const SETTINGS: [Setting; 4] = [
    Setting { key: "secret", env: "production" },
    Setting { key: "", env: "production" },
    Setting { key: "secret", env: "development" },
    Setting { key: "", env: "development" },
];

impl Settings {
    pub(crate) fn covers(&self, setting: Setting) -> bool {
        let holds = |wanted: &str, given: &str| wanted == "any" || wanted == given;
        holds(&self.key, setting.key) && holds(&self.env, setting.env)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) headers: Map<String, Value>,
    #[serde(default)]
    pub(crate) header_list: Vec<(String, String)>,
    pub(crate) body: Option<String>,
}

impl Request {
    /// Header lines as sent, `<key>` not yet filled in.
    pub(crate) fn header_lines(&self) -> Vec<(String, String)> {
        if self.header_list.is_empty() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            self.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
        } else {
            self.header_list.clone()
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Response {
    pub(crate) status: Option<u16>,
    #[serde(default)]
    pub(crate) headers: Map<String, Value>,
    pub(crate) body_kind: Option<String>,
    pub(crate) body: Option<String>,
    /// For a page: which one, and what programs may hold on to in it.
    pub(crate) page: Option<String>,
    #[serde(default)]
    pub(crate) hooks: Map<String, Value>,
    #[serde(default)]
    pub(crate) any_of: Vec<Response>,
}

/// All entries, in the order in which they were taken.
pub(crate) fn entries() -> Vec<Entry> {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}
