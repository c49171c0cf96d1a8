//! Deletes every session, sees what comes back, and links some again in the space that was freed.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use super::pairing;
use crate::bench::{Bench, each};
use crate::ledger::session_name;
use crate::proc;
use crate::report::{Latencies, count, float};

/// Sessions that are deleted one after the other.
const ALONE: usize = 20;
/// Sessions that are linked again after all are gone.
const AGAIN: usize = 100;

/// Memory that does not shrink for so long is what remains.
const STEADY: Duration = Duration::from_secs(30);
/// And so long that is waited for at most.
const GIVEN_BACK: Duration = Duration::from_secs(150);
const STEP: Duration = Duration::from_secs(1);

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let sessions = bench.settings.sessions;
    let full = bench.data.as_deref().map(proc::disk).transpose()?;
    let begun = bench.cpu()?;
    let alone = delete(bench, 0..sessions.min(ALONE), 1).await?;
    bench.report.latencies("delete.alone", "delete alone", &alone);
    if sessions > ALONE {
        let crowd = delete(bench, ALONE..sessions, pairing::AT_ONCE).await?;
        bench.report.latencies("delete.ten", "delete, ten at once", &crowd);
    }
    bench.cost("cpu.delete", "CPU a delete", begun, sessions)?;
    bench.quiet().await?;
    smallest(bench).await?;
    bench.memory("all deleted")?;
    if let (Some(full), Some(data)) = (full, bench.data.clone()) {
        bench.report.number(
            "disk.full",
            "disk a session, before the deletes",
            float(full) / 1024.0 / count(sessions),
            "KiB",
        );
        bench.report.mebibytes("disk.deleted", "disk, all deleted", proc::disk(&data)?);
        let again = sessions.min(AGAIN);
        pairing::pair(bench, 0..again, pairing::AT_ONCE).await?;
        bench.quiet().await?;
        bench.report.mebibytes("disk.again", format!("disk, {again} linked again"), proc::disk(&data)?);
        delete(bench, 0..again, pairing::AT_ONCE).await?;
    }
    let left = bench.gateway.get("/session").await?.json()?;
    ensure!(left["data"].as_array().is_some_and(Vec::is_empty), "sessions are left after their deletion: {left}");
    Ok(())
}

/// Waits until memory has not shrunk any more for a while: what is given back late is given back then.
async fn smallest(bench: &Bench) -> anyhow::Result<()> {
    let Some(process) = bench.process else { return Ok(()) };
    let begun = Instant::now();
    let (mut least, mut since) = (process.memory()?.resident, begun);
    while since.elapsed() < bench.settings.time(STEADY) && begun.elapsed() < GIVEN_BACK {
        tokio::time::sleep(STEP).await;
        let resident = process.memory()?.resident;
        if resident < least {
            (least, since) = (resident, Instant::now());
        }
    }
    bench.quiet().await
}

async fn delete(bench: &Bench, sessions: std::ops::Range<usize>, at_once: usize) -> anyhow::Result<Latencies> {
    let gateway = bench.gateway.clone();
    let deleted = each(sessions, at_once, |session| {
        let gateway = gateway.clone();
        async move {
            let begun = Instant::now();
            gateway.delete(&format!("/session/{}", session_name(session))).await?.json()?;
            Ok(begun.elapsed())
        }
    });
    Ok(deleted.await?.into_iter().collect())
}
