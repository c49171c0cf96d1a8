//! Plays the entries of one group in their order, against one gateway.

use std::fmt;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::decision;
use super::golden::{Entry, Response, Setting};
use super::hooks;
use super::incoming;
use super::pattern::{body_matches, expand, text_matches};
use super::stage::Stage;
use super::wire::{self, Answer};

/// Sends that wait for their typing phase at a time.
const SIDE_BY_SIDE: usize = 24;

/// Entries that are asked together with the next one.
const AT_ONCE: [&str; 2] = ["start-race/two starts of one id, request 1", "delete/two deletes at once, first"];

/// A body that is too large to be written down.
const LARGE: &str = "<valid body, session 'missing', text of 30,000,000 characters>";

fn large() -> String {
    json!({ "session": "missing", "to": "6281234567890", "text": "x".repeat(30_000_000) }).to_string()
}

/// What an entry came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) entry: String,
    pub(crate) setting: Setting,
    pub(crate) is_as_recorded: bool,
    pub(crate) answer: Answer,
    /// The files of `/media` that a received message left.
    pub(crate) files: Vec<String>,
    /// The page that it is, and the hooks that it lacks.
    pub(crate) page: Option<String>,
    pub(crate) missing: Vec<String>,
    recorded: String,
}

impl Outcome {
    pub(crate) fn new(entry: &Entry, stage: &Stage, is_as_recorded: bool, answer: Answer, recorded: String) -> Self {
        Self {
            entry: entry.name.clone(),
            setting: stage.world.setting,
            is_as_recorded,
            answer,
            files: Vec::new(),
            page: None,
            missing: Vec::new(),
            recorded,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "entry": self.entry, "key": self.setting.key, "env": self.setting.env, "recorded": self.recorded,
            "status": self.answer.status, "body": self.answer.body, "headers": self.answer.headers,
            "files": self.files,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, setting, answer, files, recorded, .. } = self;
        let short = |text: &str| text.chars().take(300).collect::<String>();
        write!(
            f,
            "{entry} [{} {}]\n  recorded {}\n  answered {} {} {files:?}",
            setting.key,
            setting.env,
            short(recorded),
            answer.status,
            short(&answer.body)
        )
    }
}

/// Whether [`play`] has a way to replay an entry that is no plain request.
pub(crate) fn plays(entry: &Entry) -> bool {
    !entry.webhook_bodies.is_empty() || entry.is_watched() || incoming::knows(entry)
}

/// Plays a group's entries that a setting covers.
pub(crate) async fn play(group: &str, setting: Setting, entries: &[&Entry]) -> Vec<Outcome> {
    if entries.is_empty() {
        return Vec::new();
    }
    let mut stage = Stage::set(group, setting).await;
    let mut outcomes = Vec::new();
    if group == "send" {
        stage.prepare(1).await;
        let asked = entries.iter().filter(|entry| entry.is_asked());
        let asks = asked.map(|entry| ask(&stage, entry));
        outcomes = futures::stream::iter(asks).buffered(SIDE_BY_SIDE).collect().await;
    } else {
        let mut done = 0;
        let covered = decision::table().covered;
        let is_left = |entry: &&&Entry| covered.iter().all(|covered| covered.entry != entry.name);
        let mut left = entries.iter().filter(is_left);
        while let Some(entry) = left.next() {
            while done < entry.step {
                done += 1;
                stage.prepare(done).await;
            }
            if AT_ONCE.contains(&entry.name.as_str()) {
                let other = left.next().expect("who is first has a second");
                let (mut first, mut second) = tokio::join!(ask(&stage, entry), ask(&stage, other));
                // Recorded with the same answer; which one of them is served first is chance.
                if first.answer.status > second.answer.status {
                    std::mem::swap(&mut first.entry, &mut second.entry);
                    std::mem::swap(&mut first, &mut second);
                }
                outcomes.extend([first, second]);
            } else if entry.is_asked() {
                outcomes.push(ask(&stage, entry).await);
            } else if entry.is_watched() {
                outcomes.push(watch(&stage, entry).await);
            } else if !entry.webhook_bodies.is_empty() {
                outcomes.push(told(&stage, entry).await);
            } else if incoming::knows(entry) {
                outcomes.push(incoming::receive(&stage, entry).await);
            }
        }
    }
    stage.strike().await;
    outcomes
}

/// Sends what the entry asks, filled in.
async fn send(stage: &Stage, entry: &Entry) -> Answer {
    let request = entry.request.as_ref().unwrap();
    let fill = |text: &str| stage.fill(&expand(text));
    let headers = request.header_lines();
    // With an empty KEY the original's clients sent no key.
    let is_sent = |(_, value): &&(String, String)| value != "<key>" || !stage.world.setting.key.is_empty();
    let headers: Vec<(String, String)> =
        headers.iter().filter(is_sent).map(|(name, value)| (name.clone(), fill(value))).collect();
    let body = request.body.as_deref().map(|body| if body == LARGE { large() } else { fill(body) });
    wire::ask(stage.world.port, &request.method, &fill(&request.path), &headers, body.as_deref()).await
}

async fn ask(stage: &Stage, entry: &Entry) -> Outcome {
    let answer = send(stage, entry).await;
    let recorded = entry.response.as_ref().unwrap();
    let is_as_recorded = is_recorded(recorded, &answer, &entry.optional_members, &|text| stage.fill(text));
    let status = recorded.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let text = format!("{status} {:?} {}", recorded.headers, recorded.body.as_deref().unwrap_or_default());
    let mut outcome = Outcome::new(entry, stage, is_as_recorded, stage.generalize(answer), text);
    if is_as_recorded && recorded.page.is_some() {
        outcome.page.clone_from(&recorded.page);
        outcome.missing = hooks::missing(recorded, &outcome.answer.body);
    }
    outcome
}

/// Whether the answer is the recorded one; the framing is not looked at.
fn is_recorded(recorded: &Response, answer: &Answer, optional: &[String], fill: &dyn Fn(&str) -> String) -> bool {
    if !recorded.any_of.is_empty() {
        return recorded.any_of.iter().any(|one| is_recorded(one, answer, optional, fill));
    }
    let header = |(name, value): (&String, &Value)| {
        let wanted = fill(value.as_str().unwrap_or_default());
        answer.header(name).is_some_and(|given| text_matches(&wanted, given))
    };
    let body = || match (&recorded.body, recorded.body_kind.as_deref()) {
        (Some(wanted), _) => body_matches(&fill(wanted), &answer.body, optional),
        // Pages and style sheets are this gateway's own: they are there, and of the kind.
        (None, _) => !answer.body.is_empty(),
    };
    recorded.status == Some(answer.status) && recorded.headers.iter().all(header) && body()
}

/// Sends it and holds what becomes of the session against what was seen then: its row in the list, and what the receiver
/// is told.
async fn watch(stage: &Stage, entry: &Entry) -> Outcome {
    let answer = send(stage, entry).await;
    let request = entry.request.as_ref().unwrap();
    let body = request.body.as_deref().and_then(|body| serde_json::from_str::<Value>(body).ok());
    let in_path = || request.path.rsplit('/').next().unwrap_or_default().to_owned();
    let session = body.and_then(|body| body["session"].as_str().map(str::to_owned)).unwrap_or_else(in_path);
    let seen = &entry.observed;
    let wanted =
        json!({ "status": seen["status"], "listed": seen.get("listed_afterwards_as"), "told": seen["webhooks"] });
    let listed = Some(stage.world.status(&session).await).filter(|status| !status.is_empty());
    let told = stage.told(&session, "disconnected").await;
    let given = json!({ "status": answer.status, "listed": listed, "told": told });
    let answer = Answer { status: answer.status, headers: Vec::new(), body: given.to_string() };
    Outcome::new(entry, stage, given == wanted, answer, wanted.to_string())
}

/// The status events that the receiver has got of the sessions of this entry, each session's in order.
async fn told(stage: &Stage, entry: &Entry) -> Outcome {
    let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
    for body in &entry.webhook_bodies {
        let body: Value = serde_json::from_str(body).unwrap();
        let (session, status) = (body["session"].as_str().unwrap(), body["status"].as_str().unwrap().to_owned());
        match wanted.iter_mut().find(|(other, _)| other == session) {
            Some((_, statuses)) => statuses.push(status),
            None => wanted.push((session.to_owned(), vec![status])),
        }
    }
    let mut given = Vec::new();
    for (session, statuses) in &wanted {
        given.push((session.clone(), stage.told(session, statuses.last().unwrap()).await));
    }
    let words = |list: &[(String, Vec<String>)]| {
        let lines = list.iter().map(|(session, statuses)| format!("{session}: {}", statuses.join(" ")));
        lines.collect::<Vec<_>>().join("; ")
    };
    let answer = Answer { status: 200, headers: Vec::new(), body: words(&given) };
    Outcome::new(entry, stage, given == wanted, answer, words(&wanted))
}
