//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lexopt::prelude::{Long, Short, Value, ValueExt as _};

pub(crate) const USAGE: &str = "\
usage: whatsapp-load [--gateway BIN | --base URL --key K --pid P] [options]
       whatsapp-load bare [options]
       whatsapp-load table FILE...

  bare                instead: the same pairings and texts with sessions of the bare library, its store in memory;
                      takes --sessions, --messages, --chats and --json

  --gateway BIN       gateway to start; built with the cargo feature `simulator`; default: wa-gateway beside this program
  --base URL          a gateway that runs already, with --key K and, for memory and CPU, --pid P. Start this driver first:
                      the simulator then listens on port 7001 (control and media: 7002), webhooks are taken on port 7003
  --data DIR          where that gateway keeps its sessions, for the bytes on disk
  --env NAME=VALUE    one more variable for the gateway that is started; may be repeated
  --sessions N        sessions to link (100)
  --messages M        texts each way for each session (20)
  --chats C           chats of each session (10)
  --idle SECS         length of the idle phase (20)
  --wss               TLS between the gateway and the simulator
  --quick             a tenth of everything that repeats: a try, no measurement
  --no-compare        without the bare library and the bare HTTP server
  --json FILE         writes the figures there too
  --soak MINUTES      instead: steady traffic with files, drops and deletes; 200 sessions unless --sessions says else
  --rate R            texts each way a second in all, with --soak (20)
";

/// What this process is.
pub(crate) enum Mode {
    Help,
    Bench(Settings),
    Simulator {
        tls: bool,
        ports: Ports,
    },
    BareHttp {
        list: PathBuf,
    },
    BareLibrary(BareLibrary),
    /// Sessions of the bare library are measured.
    Bare(Settings),
    Crowd(Crowd),
    Table {
        files: Vec<PathBuf>,
    },
}

/// TCP ports; 0 takes free ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ports {
    pub(crate) chat: u16,
    pub(crate) control: u16,
    pub(crate) webhook: u16,
}

impl Settings {
    /// How often something is repeated.
    pub(crate) fn times(&self, times: usize) -> usize {
        if self.quick { times.div_ceil(10) } else { times }
    }

    /// How long something goes on.
    pub(crate) fn time(&self, time: Duration) -> Duration {
        if self.quick { time / 10 } else { time }
    }
}

/// Where the driver, the simulator and the receiver are when a gateway that runs already must know it beforehand.
const FIXED: Ports = Ports { chat: 7001, control: 7002, webhook: 7003 };

/// The gateway that is measured.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Start { binary: PathBuf, variables: Vec<(String, String)> },
    Running { base: String, key: String, pid: Option<u32>, data: Option<PathBuf> },
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) sessions: usize,
    pub(crate) messages: usize,
    pub(crate) chats: usize,
    pub(crate) idle_secs: u64,
    pub(crate) wss: bool,
    pub(crate) compare: bool,
    pub(crate) quick: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) soak_minutes: Option<f64>,
    pub(crate) rate: f64,
    pub(crate) ports: Ports,
}

#[derive(Clone, Debug)]
pub(crate) struct BareLibrary {
    pub(crate) url: String,
    pub(crate) control: String,
    pub(crate) part: BarePart,
}

/// What the bare library does, each next to the same of the gateway: the machine's speed changes from minute to minute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BarePart {
    Starts,
    Texts,
}

/// Sessions of the bare library, and the texts each way of each.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    pub(crate) url: String,
    pub(crate) control: String,
    pub(crate) sessions: usize,
    pub(crate) messages: usize,
    pub(crate) chats: usize,
}

pub(crate) fn parse() -> anyhow::Result<Mode> {
    let mut parser = lexopt::Parser::from_env();
    let raw = parser.raw_args()?;
    let sub = raw.peek().and_then(|word| word.to_str()).map(str::to_owned);
    let rest = |mut raw: lexopt::RawArgs<'_>| -> anyhow::Result<Vec<String>> {
        raw.next();
        raw.map(|word| word.into_string().map_err(|_| anyhow::anyhow!("an argument is no text"))).collect()
    };
    match sub.as_deref() {
        Some("simulator") => {
            let words = rest(raw)?;
            let [tls, chat, control] = words.as_slice() else { bail!("simulator TLS CHAT CONTROL") };
            let ports = Ports { chat: chat.parse()?, control: control.parse()?, webhook: 0 };
            Ok(Mode::Simulator { tls: tls == "tls", ports })
        }
        Some("bare-http") => {
            let words = rest(raw)?;
            Ok(Mode::BareHttp { list: words.first().context("bare-http FILE")?.into() })
        }
        Some("bare-library") => {
            let words = rest(raw)?;
            let [url, control, part] = words.as_slice() else { bail!("bare-library URL CONTROL starts|texts") };
            let part = if part == "starts" { BarePart::Starts } else { BarePart::Texts };
            Ok(Mode::BareLibrary(BareLibrary { url: url.clone(), control: control.clone(), part }))
        }
        Some("crowd") => {
            let words = rest(raw)?;
            let [url, control, sessions, messages, chats] = words.as_slice() else {
                bail!("crowd URL CONTROL SESSIONS MESSAGES CHATS")
            };
            let (url, control) = (url.clone(), control.clone());
            let (sessions, messages, chats) = (sessions.parse()?, messages.parse()?, chats.parse()?);
            Ok(Mode::Crowd(Crowd { url, control, sessions, messages, chats }))
        }
        Some("table") => Ok(Mode::Table { files: rest(raw)?.into_iter().map(PathBuf::from).collect() }),
        Some("bare") => {
            parser.next()?;
            bench(parser, true)
        }
        _ => bench(parser, false),
    }
}

fn bench(mut parser: lexopt::Parser, alone: bool) -> anyhow::Result<Mode> {
    let (mut gateway, mut base, mut key, mut pid, mut data) = (None, None, None, None, None);
    let (mut variables, mut sessions) = (Vec::new(), None);
    let mut settings = Settings {
        target: Target::Start { binary: PathBuf::new(), variables: Vec::new() },
        sessions: 100,
        messages: 20,
        chats: 10,
        idle_secs: 20,
        wss: false,
        compare: true,
        quick: false,
        json: None,
        soak_minutes: None,
        rate: 20.0,
        ports: Ports::default(),
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Mode::Help),
            Long("gateway") => gateway = Some(PathBuf::from(parser.value()?)),
            Long("base") => base = Some(parser.value()?.string()?),
            Long("key") => key = Some(parser.value()?.string()?),
            Long("pid") => pid = Some(parser.value()?.parse()?),
            Long("data") => data = Some(PathBuf::from(parser.value()?)),
            Long("env") => {
                let pair = parser.value()?.string()?;
                let (name, value) = pair.split_once('=').context("--env NAME=VALUE")?;
                variables.push((name.to_owned(), value.to_owned()));
            }
            Long("sessions") => sessions = Some(parser.value()?.parse()?),
            Long("messages") => settings.messages = parser.value()?.parse()?,
            Long("chats") => settings.chats = parser.value()?.parse()?,
            Long("idle") => settings.idle_secs = parser.value()?.parse()?,
            Long("wss") => settings.wss = true,
            Long("quick") => settings.quick = true,
            Long("no-compare") => settings.compare = false,
            Long("json") => settings.json = Some(PathBuf::from(parser.value()?)),
            Long("soak") => settings.soak_minutes = Some(parser.value()?.parse()?),
            Long("rate") => settings.rate = parser.value()?.parse()?,
            Value(word) => bail!("unknown argument {}", word.to_string_lossy()),
            other => return Err(other.unexpected().into()),
        }
    }
    settings.sessions = sessions.unwrap_or(if settings.soak_minutes.is_some() { 200 } else { 100 });
    ensure!((1..=9_999).contains(&settings.sessions), "--sessions must be 1 to 9999");
    ensure!((1..=100).contains(&settings.chats), "--chats must be 1 to 100");
    ensure!(settings.messages >= settings.chats, "--messages must be at least --chats: each chat gets a first text");
    ensure!(settings.rate.is_finite() && settings.rate > 0.0, "--rate must be above 0");
    if alone {
        let is_other = settings.wss || settings.quick || !settings.compare || settings.soak_minutes.is_some();
        let is_gateways = gateway.is_some() || base.is_some() || !variables.is_empty();
        ensure!(!is_other && !is_gateways, "bare takes --sessions, --messages, --chats and --json only");
        return Ok(Mode::Bare(settings));
    }
    settings.target = match (gateway, base) {
        (Some(_), Some(_)) => bail!("--gateway and --base exclude each other"),
        (None, Some(base)) => {
            settings.ports = FIXED;
            Target::Running { base, key: key.context("--base needs --key")?, pid, data }
        }
        (gateway, None) => {
            let beside = || -> anyhow::Result<PathBuf> { Ok(std::env::current_exe()?.with_file_name("wa-gateway")) };
            let binary = gateway.map_or_else(beside, Ok)?;
            let binary = binary.canonicalize().with_context(|| {
                format!("no gateway at {}; build one: cargo build --release --features simulator", binary.display())
            })?;
            Target::Start { binary, variables }
        }
    };
    Ok(Mode::Bench(settings))
}
