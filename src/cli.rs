//! What the process says and hears besides HTTP: its log, its signals, its arguments, and the subcommands that run
//! beside a gateway or instead of one.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, ConfigError, LogFormat};

mod backup;
mod check;
mod export;
mod health;
#[cfg(feature = "takeover")]
mod import;
mod line;
mod passphrase;
mod store;

#[cfg(feature = "takeover")]
pub use import::Import;

pub use store::open_store;

/// `EX_USAGE` of `sysexits.h`: the arguments or the settings can't be used.
pub const BAD_USAGE: u8 = 64;

const USAGE: &str = "\
usage: wa-gateway                        serves
       wa-gateway backup FILE            has the running gateway write an encrypted backup
       wa-gateway restore [--force] FILE brings a backup back into the store of a gateway that is stopped
       wa-gateway check                  reads every row of the store of a gateway that is stopped
       wa-gateway export SESSION [FILE]  stops a session for good and writes it, for another host to import
       wa-gateway import PATH|URL [--session NAME] [--dry-run] [--force]
                                         takes sessions of another gateway over, or an exported one
       wa-gateway --healthcheck          whether the gateway on this machine is well
       wa-gateway --version
The passphrase of a backup or an export is BACKUP_PASSPHRASE, or asked for. The settings are those of the gateway: the same environment.";

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The gateway itself.
    Serve,
    /// Whether the gateway on this machine is well.
    Healthcheck,
    /// The version.
    Version,
    /// How it is called.
    Help,
    /// A backup of the running gateway.
    Backup {
        /// Where it goes.
        file: PathBuf,
    },
    /// A backup comes back.
    Restore {
        /// Where it is.
        file: PathBuf,
        /// Whether what is in the store may go.
        force: bool,
    },
    /// The store is read through.
    Check,
    /// A session leaves for another host.
    Export {
        /// Its name.
        session: String,
        /// Where it is written; `None`: into the working directory, under its name.
        file: Option<PathBuf>,
    },
    /// Sessions of another gateway are taken over; with its own arguments.
    #[cfg(feature = "takeover")]
    Import(Vec<String>),
}

impl Command {
    /// Of the arguments behind the program's name.
    ///
    /// # Errors
    /// Says what can't be understood.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let arguments: Vec<String> = arguments.into_iter().collect();
        #[cfg(feature = "takeover")]
        if let Some((_, rest)) = arguments.split_first().filter(|(first, _)| *first == "import") {
            return Ok(Self::Import(rest.to_vec()));
        }
        let (options, words): (Vec<&str>, Vec<&str>) =
            arguments.iter().map(String::as_str).partition(|word| word.starts_with('-') && *word != "-");
        let force = options.contains(&"--force");
        match (words.as_slice(), options.as_slice()) {
            ([], []) => Ok(Self::Serve),
            ([], ["--healthcheck"]) => Ok(Self::Healthcheck),
            ([], ["--version" | "-V"]) => Ok(Self::Version),
            ([], ["--help" | "-h"]) | (["help"], []) => Ok(Self::Help),
            (["backup", file], []) => Ok(Self::Backup { file: file.into() }),
            (["restore", file], [] | ["--force"]) => Ok(Self::Restore { file: file.into(), force }),
            (["check"], []) => Ok(Self::Check),
            (["export", session], []) => Ok(Self::Export { session: (*session).to_owned(), file: None }),
            (["export", session, file], []) => {
                Ok(Self::Export { session: (*session).to_owned(), file: Some(file.into()) })
            }
            (["export"], _) => Err("export needs a SESSION".to_owned()),
            (["backup" | "restore"], _) => Err(format!("{} needs a FILE", words[0])),
            ([known @ ("backup" | "restore" | "check" | "export"), rest @ ..], options) => {
                let other = options.first().or(rest.last()).copied().unwrap_or_default();
                Err(format!("{known} does not know the argument {other:?}"))
            }
            (words, options) => {
                let other = words.first().or(options.first()).copied().unwrap_or_default();
                Err(format!("unknown argument {other:?}"))
            }
        }
    }

    /// Does what is asked, unless that is to serve, which is `main`'s: `None`.
    pub fn run(self, config: &Config) -> Option<ExitCode> {
        Some(match self {
            Self::Serve => return None,
            Self::Healthcheck => health::ask(config.host, config.port),
            Self::Version => {
                say(format_args!("wa-gateway {}", env!("CARGO_PKG_VERSION")));
                ExitCode::SUCCESS
            }
            Self::Help => {
                say(USAGE);
                ExitCode::SUCCESS
            }
            Self::Backup { file } => ended(backup::save(config, &file)),
            Self::Export { session, file } => ended(export::export(config, &session, file)),
            Self::Restore { file, force } => ended(backup::restore(config, &file, force)),
            #[cfg(feature = "takeover")]
            Self::Import(arguments) => import(config, &arguments),
            Self::Check => match check::check(config) {
                Ok(well) => ExitCode::from(u8::from(!well)),
                Err(error) => ended(Err(error)),
            },
        })
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("wa-gateway: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// To standard output; whoever closed it does not want to know.
fn say(text: impl std::fmt::Display) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}

/// To standard error: there is no log.
fn tell(text: impl std::fmt::Display) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Tells all bad settings: there is no log yet.
pub fn complain(error: &ConfigError) {
    tell(error);
}

/// Says which arguments there are.
pub fn misused(what: &str) -> ExitCode {
    tell(format_args!("wa-gateway: {what}\n{USAGE}"));
    ExitCode::from(BAD_USAGE)
}

/// Starts the log as the settings want it.
pub fn start_log(config: &Config) {
    let filter = log_filter(&config.log_filter);
    // Else the libraries would make lines that the filter then drops.
    let most = Filter::<Registry>::max_level_hint(&filter).unwrap_or(LevelFilter::TRACE);
    let color = config.color && std::io::stdout().is_terminal();
    let log = tracing_subscriber::fmt().with_max_level(most).with_ansi(color).with_writer(line::Lines);
    match config.log_format {
        LogFormat::Human => log.finish().with(filter).init(),
        LogFormat::Json => log.json().finish().with(filter).init(),
    }
}

/// The lines that are asked for: levels and targets, with commas between them. What can't be read, or asks for spans or
/// fields, gives our own lines: those of the libraries name phone numbers.
fn log_filter(asked: &str) -> Targets {
    // An empty part would be a level of its own, a space a part of a target's name, a bracket too.
    let parts: Vec<_> = asked.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let filter = parts.join(",").parse().ok().filter(|_| !parts.is_empty() && !asked.contains('['));
    filter.unwrap_or_else(|| Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO))
}

/// Takes sessions of another gateway over by hand.
#[cfg(feature = "takeover")]
fn import(config: &Config, arguments: &[String]) -> ExitCode {
    match Import::parse(arguments) {
        Ok(import) => ended(import.run(config)),
        Err(what) => misused(&what),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn no_filter_brings_the_lines_of_libraries_unasked() {
        use tracing::Level;
        for asked in [
            "off,wa_gateway=info",
            "off, wa_gateway=info,",
            " wa_gateway=info , off,,",
            "wa_gateway[session]=debug",
            "wa_gateway=loudly",
            "wa_gateway==debug",
            ",",
        ] {
            let filter = log_filter(asked);
            assert!(filter.would_enable("wa_gateway::session", &Level::INFO), "{asked}");
            assert!(!filter.would_enable("wa_gateway::session", &Level::DEBUG), "{asked}");
            assert!(!filter.would_enable("whatsapp_rust", &Level::ERROR), "{asked}");
        }
        let filter = log_filter("warn,wa_gateway=trace");
        assert!(filter.would_enable("whatsapp_rust", &Level::WARN) && filter.would_enable("wa_gateway", &Level::TRACE));
        assert!(!log_filter("off").would_enable("wa_gateway", &Level::ERROR));
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        assert_eq!(parse(""), Ok(Command::Serve));
        assert_eq!(parse("--healthcheck"), Ok(Command::Healthcheck));
        assert_eq!(parse("--version"), Ok(Command::Version));
        assert_eq!(parse("backup a/b"), Ok(Command::Backup { file: "a/b".into() }));
        assert_eq!(parse("restore a"), Ok(Command::Restore { file: "a".into(), force: false }));
        for line in ["restore --force a", "restore a --force"] {
            assert_eq!(parse(line), Ok(Command::Restore { file: "a".into(), force: true }));
        }
        assert_eq!(parse("check"), Ok(Command::Check));
        let export = |file: Option<&str>| Command::Export { session: "shop".into(), file: file.map(PathBuf::from) };
        assert_eq!(parse("export shop"), Ok(export(None)));
        assert_eq!(parse("export shop a/b"), Ok(export(Some("a/b"))));
        for (line, says) in [
            ("backup", "needs a FILE"),
            ("restore --force", "needs a FILE"),
            ("backup a b", "\"b\""),
            ("backup --force a", "\"--force\""),
            ("check it", "\"it\""),
            ("export", "needs a SESSION"),
            ("export a b c", "\"c\""),
            ("export --force a", "\"--force\""),
            ("serve", "\"serve\""),
            ("--frobnicate", "\"--frobnicate\""),
        ] {
            let told = parse(line).unwrap_err();
            assert!(told.contains(says), "{line}: {told}");
        }
    }
}
