//! The process: settings, log, signals, exit codes.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wa_gateway::config::LogFormat;
use wa_gateway::{Config, Gateway, cli};

/// How long a stop may take; below the 30 s after which compose files kill.
const GRACE: Duration = Duration::from_secs(20);

/// sysexits.h, `EX_USAGE`: the settings or arguments can't be used.
const UNUSABLE: u8 = 64;

fn main() -> ExitCode {
    if let Some(done) = cli::answer(std::env::args().skip(1)) {
        return ExitCode::from(done);
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => {
            cli::complain(&error.to_string());
            return ExitCode::from(UNUSABLE);
        }
    };
    log(&config);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the gateway could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(config: &Config) {
    let filter = EnvFilter::builder().parse_lossy(&config.log_filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(config.color && cli::is_terminal());
    match config.log_format {
        LogFormat::Human => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut told = async || {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    let gateway = Gateway::bind(config).await?;
    told().await;
    tracing::info!("stopping");
    gateway.shutdown(GRACE, told()).await;
    Ok(())
}
