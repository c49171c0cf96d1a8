//! What the process says and hears besides HTTP: its log, its signals, and the few flags it knows.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, LogFormat};

#[cfg(feature = "takeover")]
mod import;
mod line;

#[cfg(feature = "takeover")]
pub use import::Import;

/// A gateway that takes longer to say that it is well is not well.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Tells all bad settings on standard error: there is no log yet.
pub fn complain(error: &ConfigError) {
    // A closed standard error leaves only the exit code.
    let _closed = writeln!(std::io::stderr(), "{error}");
}

/// Starts the log as the settings want it.
pub fn start_log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_error| EnvFilter::new("info"));
    let color = config.color && std::io::stdout().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color).with_writer(line::Lines);
    match config.log_format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Asks the gateway on this machine whether it is well: what the image's HEALTHCHECK runs.
pub fn healthcheck(host: IpAddr, port: u16) -> ExitCode {
    if ask_health(host, port).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn ask_health(host: IpAddr, port: u16) -> std::io::Result<String> {
    let host = if host.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { host };
    let address = SocketAddr::from((host, port));
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Prints the version.
pub fn version() -> ExitCode {
    let _closed = writeln!(std::io::stdout(), "wa-gateway {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

/// Takes sessions of another gateway over by hand.
#[cfg(feature = "takeover")]
pub fn import(config: &Config, arguments: &[String]) -> ExitCode {
    let import = match Import::parse(arguments) {
        Ok(import) => import,
        Err(what) => {
            let _closed = writeln!(
                std::io::stderr(),
                "wa-gateway: {what}\nusage: wa-gateway import PATH|URL [--session NAME] [--dry-run] [--force]"
            );
            return ExitCode::from(64);
        }
    };
    match import.run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "wa-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// To standard output; whoever closed it does not want to know.
#[cfg(feature = "takeover")]
fn say(text: impl std::fmt::Display) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}

/// Says which arguments there are.
pub fn unknown(argument: &str) -> ExitCode {
    let _closed = writeln!(std::io::stderr(), "unknown argument {argument:?}; known: import, --healthcheck, --version");
    ExitCode::from(64)
}

/// SIGTERM and SIGINT, whichever comes.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both over from their default, which is to end the process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
