//! Ends the gateway and starts it again over what it stored.

use std::time::Duration;

use tokio::time::Instant;

use crate::bench::Bench;
use crate::ledger::session_name;
use crate::report::{count, millis};

/// All sessions are back by then.
const LIMIT: Duration = Duration::from_mins(5);

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let ended = bench.stop_gateway().await?;
    bench.report.number("stop", "stop, all sessions connected", millis(ended), "ms");
    let begun = Instant::now();
    let listening = bench.start_gateway().await?;
    bench.report.number("restart.listening", "restart → listening", millis(listening), "ms");
    for session in 0..bench.settings.sessions {
        bench.receiver.wait_status(&session_name(session), "connected", begun, LIMIT).await?;
    }
    bench.report.number("restart.connected", "restart → all connected", millis(begun.elapsed()), "ms");
    bench.quiet().await?;
    let used = bench.cpu()?;
    bench.report.number("restart.cpu", "CPU of the restart", millis(used), "ms");
    bench.report.number("restart.cpu.each", "— of each session", millis(used) / count(bench.settings.sessions), "ms");
    bench.memory("after the restart")?;
    Ok(())
}
