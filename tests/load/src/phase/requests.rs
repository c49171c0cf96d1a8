//! Requests that only read: beside an axum handler that returns the same bytes, on the same machine at the same time.

use std::time::Duration;

use anyhow::Context as _;

use crate::bare_http::HEALTH;
use crate::bench::Bench;
use crate::program::Program;
use crate::storm::storm;

/// Length of one round.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds of each; they alternate, so that a change of the machine's mood meets both.
const ROUNDS: usize = 3;

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let list = bench.gateway.get("/session").await?;
    let file = bench.path("list.json");
    std::fs::write(&file, &list.body)?;
    let bare = if bench.settings.compare {
        let (program, ready) = Program::part(["bare-http".as_ref(), file.as_os_str()]).await?;
        let address = ready["address"].as_str().context("the bare server told no address")?.parse()?;
        Some((program, address))
    } else {
        None
    };
    let health = bench.gateway.get("/health").await?;
    if health.status == 200 && health.body != HEALTH {
        bench.report.fail("GET /health does not answer {\"status\":\"ok\"}");
    }
    for (path, keys) in [
        ("/session", ["http.list", "http.list.bare", "http.list.ratio"]),
        ("/health", ["http.health", "http.health.bare", "http.health.ratio"]),
    ] {
        let (round, mut ours, mut theirs) = (bench.settings.time(ROUND), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(storm(bench.gateway.address(), path, &bench.key, round).await?);
            if let Some((_program, address)) = &bare {
                theirs.push(storm(*address, path, "", round).await?);
            }
        }
        let ours = median(ours);
        bench.report.number(keys[0], format!("GET {path}, 32 in flight"), ours, "a second");
        if bare.is_some() {
            let theirs = median(theirs);
            bench.report.number(keys[1], "— bare axum handler, same bytes", theirs, "a second");
            bench.report.number(keys[2], "— ratio", ours / theirs, "of the bare handler's");
        }
    }
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}
