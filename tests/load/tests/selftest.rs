//! The driver drives: a small run against the gateway beside it, with figures that can be true.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_small_run_tells_figures_that_can_be_true() {
    let driver = Path::new(env!("CARGO_BIN_EXE_whatsapp-load"));
    // Built with the workspace's tests, as those of the gateway need it too.
    let gateway = driver.with_file_name("wa-gateway");
    assert!(gateway.exists(), "no gateway at {}: run the tests of the whole workspace", gateway.display());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("figures.json");
    let mut run = Command::new(driver);
    run.args(["--sessions", "3", "--messages", "4", "--chats", "2", "--idle", "1", "--quick", "--no-compare"]);
    let run = run.arg("--gateway").arg(gateway).arg("--json").arg(&file).output().unwrap();
    let (table, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{errors}");
    assert!(table.starts_with("| figure | value |\n"), "{table}");
    let told: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(told["wrong"], serde_json::json!([]));
    let figure = |key: &str| {
        let value = &told["figures"][key]["value"];
        value.as_f64().or_else(|| value["p50"].as_f64()).unwrap_or_else(|| panic!("no figure {key} in {told:#}"))
    };
    // 3 sessions with 4 texts each way, and 4 after the restart; alone 30, from one session 200; in 30 at their pace.
    assert!((figure("texts.sent") - 254.0).abs() < 0.1, "{}", figure("texts.sent"));
    assert!((figure("texts.received") - 54.0).abs() < 0.1, "{}", figure("texts.received"));
    for key in [
        "rss.none",
        "rss.connected",
        "rss.texts",
        "rss.deleted",
        "cpu.pairing",
        "cpu.sent",
        "cpu.sent.restarted",
        "cpu.received.restarted",
        "cpu.received",
        "start.alone",
        "send.alone",
        "incoming",
        "delete.alone",
        "rate.one",
        "http.list",
        "http.health",
        "restart.listening",
        "restart.connected",
        "disk.paired",
    ] {
        assert!(figure(key) > 0.0, "{key} is {}", figure(key));
    }
}

#[test]
fn sessions_of_the_bare_library_tell_figures_that_can_be_true() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("figures.json");
    let mut run = Command::new(env!("CARGO_BIN_EXE_whatsapp-load"));
    run.args(["bare", "--sessions", "3", "--messages", "4", "--chats", "2", "--json"]).arg(&file);
    let run = run.output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let told: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(told["about"]["name"], "3, bare");
    for key in ["cpu.pairing", "rss.connected", "cpu.first", "cpu.sent", "cpu.received", "rss.texts"] {
        let value = told["figures"][format!("bare.crowd.{key}")]["value"].as_f64().unwrap_or_default();
        assert!(value > 0.0, "{key} is {value} in {told:#}");
    }
}
