//! Nothing happens: what connected sessions cost all the same.

use std::time::Duration;

use crate::bench::Bench;
use crate::report::{count, millis};

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    if bench.process.is_none() || bench.settings.idle_secs == 0 {
        return Ok(());
    }
    bench.quiet().await?;
    let length = Duration::from_secs(bench.settings.idle_secs);
    let begun = bench.cpu()?;
    tokio::time::sleep(length).await;
    let used = bench.cpu()?.saturating_sub(begun);
    let minutes = length.as_secs_f64() / 60.0;
    let each = millis(used) / minutes / count(bench.settings.sessions);
    bench.report.number("cpu.idle", "CPU an idle session-minute", each, "ms");
    let share = used.as_secs_f64() / length.as_secs_f64() * 100.0;
    bench.report.number("cpu.idle.all", "CPU of all idle sessions", share, "% of a core");
    Ok(())
}
