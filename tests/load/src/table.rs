//! `table FILE...`: the figures of several runs side by side, as Markdown.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::say;

pub(crate) fn run(files: &[PathBuf]) -> anyhow::Result<bool> {
    ensure!(!files.is_empty(), "no files");
    let read = |file: &PathBuf| -> anyhow::Result<Value> {
        let text = std::fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    };
    let runs = files.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    say(&table(&runs));
    Ok(true)
}

fn table(runs: &[Value]) -> String {
    let names: Vec<String> = runs.iter().map(|run| run["about"]["name"].as_str().unwrap_or("?").to_owned()).collect();
    let mut lines =
        vec![format!("| figure | {} |", names.join(" | ")), format!("| --- |{}", " --- |".repeat(runs.len()))];
    let mut keys: Vec<&String> = Vec::new();
    for run in runs {
        for key in run["figures"].as_object().into_iter().flat_map(serde_json::Map::keys) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    for key in keys {
        let figures: Vec<&Value> = runs.iter().map(|run| &run["figures"][key]).collect();
        let label = figures.iter().find_map(|figure| figure["label"].as_str()).unwrap_or(key);
        let cells: Vec<&str> = figures.iter().map(|figure| figure["shown"].as_str().unwrap_or("")).collect();
        lines.push(format!("| {label} | {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn runs_stand_side_by_side() {
        let run = |name: &str, shown: &str| json!({"about": {"name": name}, "figures": {"a": {"label": "A, ms", "shown": shown}}});
        let table = table(&[run("1", "2"), run("10", "3")]);
        assert_eq!(table, "| figure | 1 | 10 |\n| --- | --- | --- |\n| A, ms | 2 | 3 |");
    }
}
