//! `simulator`: WhatsApp's stand-in as a process of its own, the same as the program `whatsapp-simulator`.

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use whatsapp_simulator::{Options, Simulator};

use crate::arguments::Ports;
use crate::say;

pub(crate) async fn run(tls: bool, ports: Ports) -> anyhow::Result<bool> {
    let options = Options { tls, port: ports.chat, control_port: ports.control, ..Options::default() };
    let simulator = Simulator::start(options).await?;
    let url = if tls { simulator.wss_url() } else { Some(simulator.ws_url()) };
    say(&json!({"url": url, "ws": simulator.ws_url(), "control": simulator.control_url()}).to_string());
    signal(SignalKind::terminate())?.recv().await;
    Ok(true)
}
