//! The simulator as a program: `cargo run -p whatsapp-simulator -- --port 7001 --control 7002 [--tls-port N]`.
//!
//! Prints its URLs as one line of JSON when it is ready and serves until interrupted.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use whatsapp_simulator::{Options, Simulator};

/// baileys 7.0.0-rc.6 loses its process to a stanza that comes right after the handshake.
const SETTLE: Duration = Duration::from_millis(250);

#[expect(clippy::disallowed_methods, reason = "a program of its own, with no settings but this one")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let asked = std::env::var("RUST_LOG").ok().and_then(|asked| asked.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(std::io::stderr);
    log.finish().with(filter).init();
    let simulator = Simulator::start(options(std::env::args().skip(1))?).await?;
    announce(&simulator);
    tokio::signal::ctrl_c().await?;
    simulator.shutdown().await;
    Ok(())
}

fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options { settle: SETTLE, ..Options::default() };
    while let Some(name) = arguments.next() {
        if name == "--compress" {
            options.compress = true;
            continue;
        }
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        let number: u64 = value.parse().with_context(|| format!("{name} needs a number"))?;
        let port = u16::try_from(number);
        match name.as_str() {
            "--port" => options.port = port?,
            "--control" => options.control_port = port?,
            "--tls-port" => {
                options.tls = true;
                options.tls_port = port?;
            }
            "--settle-ms" => options.settle = Duration::from_millis(number),
            "--qr-first-ms" => options.qr_first = Duration::from_millis(number),
            "--qr-next-ms" => options.qr_next = Duration::from_millis(number),
            "--qr-refs" => options.qr_refs = usize::try_from(number)?,
            other => bail!(
                "unknown argument {other}; known: --port, --control, --tls-port, --settle-ms, --qr-first-ms, \
                 --qr-next-ms, --qr-refs, --compress"
            ),
        }
    }
    Ok(options)
}

#[expect(clippy::print_stdout, reason = "the line that whoever started this program waits for")]
fn announce(simulator: &Simulator) {
    let urls = json!({
        "ws": simulator.ws_url(),
        "wss": simulator.wss_url(),
        "control": simulator.control_url(),
        "media": simulator.media_url(),
        "noise_root": hex::encode(simulator.noise_root()),
    });
    println!("{urls}");
}
