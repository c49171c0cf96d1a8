//! Links every session: a few alone for the latencies, the rest ten at once.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::time::Instant;

use crate::bench::{Bench, each};
use crate::client::Server;
use crate::ledger::{own_number, session_name};
use crate::phase::compare;
use crate::phones::Phones;
use crate::proc::{self, Process};
use crate::receiver::Receiver;
use crate::report::{Latencies, count, float};

/// Sessions that are linked one after the other.
const ALONE: usize = 60;
/// Sessions that are linked at the same time after those.
pub(crate) const AT_ONCE: usize = 10;
/// Pause after each of those, and of the bare library's: what follows a login shall not meet the next start.
pub(crate) const REST: Duration = Duration::from_millis(100);
/// A pairing that takes longer has failed.
const LIMIT: Duration = Duration::from_mins(2);

/// How long the two halves of a pairing took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paired {
    code: Duration,
    connected: Duration,
}

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let sessions = bench.settings.sessions;
    let (begun, none) = (bench.cpu()?, bench.process.map(Process::memory).transpose()?);
    let mut alone = Vec::new();
    for session in 0..sessions.min(ALONE) {
        alone.extend(pair(bench, session..session + 1, 1).await?);
        tokio::time::sleep(REST).await;
    }
    let of = |paired: &[Paired], half: fn(&Paired) -> Duration| paired.iter().map(half).collect::<Latencies>();
    bench.report.latencies("start.alone", "start → QR alone", &of(&alone, |paired| paired.code));
    bench.report.latencies("scan.alone", "scan → connected alone", &of(&alone, |paired| paired.connected));
    if bench.settings.compare {
        compare::starts(bench).await?;
    }
    // What one more session costs is told between the tenth part and the whole, without the first ones' shared costs.
    let tenth = sessions / 10;
    let mut crowd = Vec::new();
    if tenth > ALONE {
        crowd.extend(pair(bench, ALONE..tenth, AT_ONCE).await?);
    }
    let base = tenth.max(sessions.min(ALONE));
    bench.quiet().await?;
    let few = bench.process.map(Process::memory).transpose()?;
    crowd.extend(pair(bench, base..sessions, AT_ONCE).await?);
    bench.quiet().await?;

    bench.cost("cpu.pairing", "CPU a pairing", begun, sessions)?;
    if !crowd.is_empty() {
        bench.report.latencies("start.ten", "start → QR, ten at once", &of(&crowd, |paired| paired.code));
        bench.report.latencies("scan.ten", "scan → connected, ten at once", &of(&crowd, |paired| paired.connected));
    }
    let all = bench.memory("all connected")?;
    if let (Some(none), Some(few)) = (none, few) {
        let kib = |more: u64, less: u64, sessions: usize| float(more.saturating_sub(less)) / 1024.0 / count(sessions);
        let mean = kib(all.resident, none.resident, sessions);
        bench.report.number("rss.session", "RSS a connected session", mean, "KiB");
        if sessions > base {
            let further = kib(all.resident, few.resident, sessions - base);
            bench.report.number("rss.further", format!("RSS of each session after the {base}th"), further, "KiB");
        }
    }
    if let Some(data) = &bench.data {
        let used = float(proc::disk(data)?) / 1024.0 / count(sessions);
        bench.report.number("disk.paired", "disk a session, paired", used, "KiB");
    }
    Ok(())
}

/// Links these sessions.
pub(crate) async fn pair(
    bench: &Bench,
    sessions: std::ops::Range<usize>,
    at_once: usize,
) -> anyhow::Result<Vec<Paired>> {
    each(sessions, at_once, |session| {
        let (gateway, phones, receiver) = (bench.gateway.clone(), bench.phones.clone(), bench.receiver.clone());
        async move {
            let name = session_name(session);
            pair_one(&gateway, &phones, &receiver, &name, &own_number(session))
                .await
                .with_context(|| format!("pairing {name}"))
        }
    })
    .await
}

async fn pair_one(
    gateway: &Server,
    phones: &Phones,
    receiver: &Receiver,
    name: &str,
    number: &str,
) -> anyhow::Result<Paired> {
    let begun = Instant::now();
    let started = gateway.post("/session/start", &json!({"session": name})).await?.json()?;
    let code = begun.elapsed();
    let qr = started["qr"].as_str().context("a start without a QR")?;
    let scanned = Instant::now();
    phones.scan(qr, number).await?;
    let connected = receiver.wait_status(name, "connected", scanned, LIMIT).await?;
    Ok(Paired { code, connected: connected.saturating_duration_since(scanned) })
}
