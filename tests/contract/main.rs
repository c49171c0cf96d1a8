//! Every recorded exchange of wa-gateway 4.7.1, replayed against this gateway over the simulator.
//!
//! `golden.json` holds requests and answers, `decisions.toml` each answer that differs, with its reason. An entry either
//! gets the recorded answer or the decided one; none is left out.

#![expect(clippy::unwrap_used, reason = "a failed step of a test shall end it there")]

mod decision;
mod documents;
mod files;
mod golden;
mod hooks;
mod incoming;
mod pattern;
mod replay;
mod stage;
mod startup;
mod wire;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use decision::{Class, Covered, Decision};
use golden::{Entry, SETTINGS, Setting};
use replay::Outcome;

/// Holds outcomes against the table; panics with every one that is neither the recorded nor the decided answer.
fn judge(groups: &[&str], outcomes: &[Outcome]) {
    let table = decision::table();
    let mut problems = String::new();
    let mut used: BTreeSet<(usize, &str)> = BTreeSet::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_as_recorded) {
        let name = outcome.entry.as_str();
        let fits = |decision: &Decision| {
            decision.is_about(name, outcome.setting) && decision.accepts(&outcome.answer, &outcome.files)
        };
        match table.decisions.iter().position(fits) {
            Some(at) => drop(used.insert((at, name))),
            None => writeln!(problems, "{outcome}").unwrap(),
        }
    }
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for (outcome, hook) in outcomes.iter().flat_map(|outcome| outcome.missing.iter().map(move |hook| (outcome, hook))) {
        if table.lacks().any(|lacking| lacking == hook) {
            gone.insert(hook);
        } else {
            writeln!(problems, "{}: the page lacks {hook}", outcome.entry).unwrap();
        }
    }
    let pages: BTreeSet<&str> = outcomes.iter().filter_map(|outcome| outcome.page.as_deref()).collect();
    for hook in table.lacks().filter(|hook| hook.split(':').next().is_some_and(|page| pages.contains(page))) {
        if !gone.contains(hook) {
            writeln!(problems, "a hook that no page lacks: {hook}").unwrap();
        }
    }
    let played: BTreeSet<&str> = outcomes.iter().map(|outcome| outcome.entry.as_str()).collect();
    for (at, decision) in table.decisions.iter().enumerate() {
        for name in decision.entries.iter().filter(|name| played.contains(name.as_str())) {
            if !used.contains(&(at, name.as_str())) {
                writeln!(problems, "a decision that is not needed: {name}: {}", decision.why).unwrap();
            }
        }
    }
    if !problems.is_empty() {
        let lines = outcomes.iter().filter(|outcome| !outcome.is_as_recorded).map(Outcome::to_json);
        let report = format!("{}/{}.json", env!("CARGO_TARGET_TMPDIR"), groups.join("+"));
        std::fs::write(&report, lines.collect::<serde_json::Value>().to_string()).unwrap();
    }
    assert!(problems.is_empty(), "neither as recorded nor as decided in decisions.toml:\n{problems}");
}

async fn replays(groups: &[&str]) {
    let entries = golden::entries();
    let runs = groups.iter().flat_map(|group| SETTINGS.map(|setting| (*group, setting)));
    let mut outcomes = Vec::new();
    // One gateway after the other: the tests of this binary run side by side already.
    for (group, setting) in runs {
        let asked: Vec<&Entry> =
            entries.iter().filter(|entry| entry.group == group && entry.config.covers(setting)).collect();
        outcomes.extend(replay::play(group, setting, &asked).await);
    }
    judge(groups, &outcomes);
}

macro_rules! replay {
    ($($test:ident: $($group:literal),+;)+) => {
        /// The groups that the tests below replay.
        const REPLAYED: &[&str] = &[$($($group),+),+];
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                replays(&[$($group),+]).await;
            }
        )+
    };
}

replay! {
    routes_and_keys: "http", "auth-key";
    sessions: "session", "documented", "restart";
    starts: "start", "start-race", "start-flow", "offline";
    logouts: "logout";
    deletions: "delete";
    sends: "send";
    profiles: "profile";
    files_of_the_gateway: "static";
    dashboard: "dashboard";
    webhooks: "webhook";
}

/// Every entry is replayed, or names a test that exists.
#[test]
fn no_entry_is_left_out() {
    let table = decision::table();
    for entry in golden::entries() {
        let name = entry.name.as_str();
        if table.covered.iter().any(|covered| covered.entry == name) {
            continue;
        }
        let played = REPLAYED.contains(&entry.group.as_str());
        let is_played = entry.is_asked() || replay::plays(&entry);
        assert!(played && is_played, "{name} is neither replayed nor covered by a test");
    }
    for Covered { entry, test, .. } in &table.covered {
        let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("{entry}: {test} names no test"));
        let source = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(runs(&source, function), "{entry}: there is no test {function} in {file}, or it is ignored");
    }
}

/// Whether a source file holds this test, and it is not left out: by its own attributes, in Node by `test`, or as one of
/// the stories that `over_both!` runs over each store.
fn runs(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    if lines.iter().any(|line| line.starts_with(&format!("test(\"{name}\""))) {
        return true;
    }
    let heads = [format!("fn {name}("), format!("async fn {name}(")];
    let Some(at) = lines.iter().position(|line| heads.iter().any(|head| line.starts_with(head))) else { return false };
    let above = || lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
    let has = |attribute: &str| above().any(|line| line.starts_with(attribute));
    let stories = source.split_once("over_both!(").and_then(|(_, rest)| rest.split(')').next());
    let is_story = stories.is_some_and(|stories| stories.split(',').any(|story| story.trim() == name));
    (has("#[test]") || has("#[tokio::test") || is_story) && !has("#[ignore") && !has("#[cfg")
}

#[test]
fn only_what_is_run_counts_as_a_test() {
    for (source, expected) in [
        ("#[test]\nfn a() {", true),
        ("/// Why.\n#[tokio::test(flavor = \"multi_thread\")]\n#[expect(x)]\nasync fn a() {", true),
        ("over_both!(\n    b,\n    a,\n);\nasync fn a(store: Store) {", true),
        ("test(\"a\", async () => {", true),
        ("fn a() {", false),
        ("#[test]\nfn b() {}\n\nfn a() {", false),
        ("#[test]\n#[ignore = \"slow\"]\nfn a() {", false),
        ("#[cfg(any())]\n#[test]\nfn a() {", false),
        ("// #[test]\n// fn a() {", false),
        ("#[test]\nfn a_b() {", false),
        ("test.skip(\"a\", async () => {", false),
    ] {
        assert_eq!(runs(source, "a"), expected, "{source}");
    }
}

/// Decisions are about entries that exist, and no class has grown.
#[test]
fn the_classes_stay_within_their_maxima() {
    let table = decision::table();
    let names: BTreeSet<String> = golden::entries().into_iter().map(|entry| entry.name).collect();
    let mut classes: BTreeMap<Class, BTreeSet<&str>> = BTreeMap::new();
    for (class, why, entry) in table.differences() {
        assert!(!why.is_empty() && names.contains(entry), "{entry} is no entry of golden.json, or has no reason");
        classes.entry(class).or_default().insert(entry);
    }
    let mut covered = BTreeSet::new();
    for Covered { entry, .. } in &table.covered {
        assert!(names.contains(entry) && covered.insert(entry), "{entry} is no entry of golden.json, or stands twice");
        let is_decided = table.decisions.iter().any(|decision| decision.entries.contains(entry));
        assert!(!is_decided, "{entry} is not replayed: it can't have a decided answer");
    }
    for (class, entries) in &classes {
        println!("{class:?}: {} entries of {}", entries.len(), names.len());
        assert!(entries.len() <= table.maxima[class], "{class:?} has grown to {}", entries.len());
    }
}

#[test]
fn every_setting_is_asked_for() {
    for setting in SETTINGS {
        let Setting { key, env } = setting;
        assert!(golden::entries().iter().any(|entry| entry.config.covers(setting)), "{key} {env}");
    }
}
