//! The bare library on the same simulator in the same run: what no gateway over it can undercut.

use crate::bench::Bench;
use crate::program::Program;

/// Tells how its starts compare; next after the gateway's own.
pub(crate) async fn starts(bench: &mut Bench) -> anyhow::Result<()> {
    let figures = [
        ("bare.start", "bare library: start → QR, p50", "ms"),
        ("bare.cpu.pairing", "bare library: CPU a pairing", "ms"),
    ];
    part(bench, "starts", &figures).await?;
    ratio(bench, "ratio.start", "start → QR alone, p50, against the bare library's", "start.alone", "bare.start");
    Ok(())
}

/// Tells how its texts compare.
pub(crate) async fn texts(bench: &mut Bench) -> anyhow::Result<()> {
    let figures = [
        ("bare.send", "bare library: text → ack, p50", "ms"),
        ("bare.send.p99", "bare library: text → ack, p99", "ms"),
        ("bare.cpu.sent", "bare library: CPU a text sent", "ms"),
        ("bare.cpu.received", "bare library: CPU a text received", "ms"),
    ];
    part(bench, "texts", &figures).await?;
    ratio(bench, "ratio.send", "further text alone, p50, against the bare library's", "send.alone", "bare.send");
    Ok(())
}

async fn part(
    bench: &mut Bench,
    part: &str,
    figures: &[(&'static str, &'static str, &'static str)],
) -> anyhow::Result<()> {
    let (url, control) = (bench.simulator_url_plain(), bench.control_url.clone());
    let (program, told) = Program::part(["bare-library", &url, &control, part]).await?;
    drop(program);
    for &(key, label, unit) in figures {
        bench.report.number(key, label, told[key].as_f64().unwrap_or(f64::NAN), unit);
    }
    Ok(())
}

fn ratio(bench: &mut Bench, key: &'static str, label: &str, ours: &str, theirs: &str) {
    let report = &mut bench.report;
    if let (Some(ours), Some(theirs)) = (report.told(ours), report.told(theirs)) {
        report.number(key, label, ours / theirs, "×");
    }
}
