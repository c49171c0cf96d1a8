//! The bare library on the same simulator in the same run: what no gateway over it can undercut.

use crate::bench::Bench;
use crate::program::Program;
use crate::report::Report;

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (program, told) = Program::part(["bare-library", &bench.simulator_url_plain(), &bench.control_url]).await?;
    drop(program);
    let report = &mut bench.report;
    for (key, label, unit) in [
        ("bare.start", "bare library: start → QR, p50", "ms"),
        ("bare.send", "bare library: text → ack, p50", "ms"),
        ("bare.send.p99", "bare library: text → ack, p99", "ms"),
        ("bare.cpu.pairing", "bare library: CPU a pairing", "ms"),
        ("bare.cpu.sent", "bare library: CPU a text sent", "ms"),
        ("bare.cpu.received", "bare library: CPU a text received", "ms"),
    ] {
        report.number(key, label, told[key].as_f64().unwrap_or(f64::NAN), unit);
    }
    ratio(report, "ratio.start", "start → QR alone, p50, against the bare library's", "start.alone", "bare.start");
    ratio(report, "ratio.send", "further text alone, p50, against the bare library's", "send.alone", "bare.send");
    Ok(())
}

fn ratio(report: &mut Report, key: &'static str, label: &str, ours: &str, theirs: &str) {
    if let (Some(ours), Some(theirs)) = (report.told(ours), report.told(theirs)) {
        report.number(key, label, ours / theirs, "×");
    }
}
