//! The measurement: who takes part, in which order what is measured, and the verdict.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::arguments::{Settings, Target};
use crate::client::Server;
use crate::ledger::Ledger;
use crate::phones::Phones;
use crate::proc::{self, Memory, Process};
use crate::program::Program;
use crate::receiver::Receiver;
use crate::report::{Report, millis};
use crate::{complain, phase, say, soak};

/// A gateway that is started must serve by then; one that runs already, too.
const READY_LIMIT: Duration = Duration::from_mins(2);
/// How often something is looked at that tells no end.
const STEP: Duration = Duration::from_millis(5);
/// The gateway counts as quiet when it uses less than this share of a core.
const QUIET: f64 = 0.03;
/// So long it is given to become quiet.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
const QUIET_WINDOW: Duration = Duration::from_millis(500);

/// All that take part in a measurement.
pub(crate) struct Bench {
    pub(crate) settings: Settings,
    pub(crate) gateway: Server,
    pub(crate) phones: Phones,
    pub(crate) receiver: Receiver,
    pub(crate) report: Report,
    pub(crate) ledger: Ledger,
    /// `None`: nobody said which process it is.
    pub(crate) process: Option<Process>,
    /// Where it keeps sessions, if that is known.
    pub(crate) data: Option<PathBuf>,
    plain_url: String,
    pub(crate) control_url: String,
    pub(crate) key: String,
    own: Option<Own>,
    _simulator: Program,
    folder: TempDir,
}

/// A gateway that we started, and how to start it again.
struct Own {
    program: Option<Program>,
    binary: PathBuf,
    variables: Vec<(String, String)>,
}

/// Measures; false: a count is wrong.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<bool> {
    let mut bench = Bench::start(settings).await?;
    complain(&format!("{} sessions on {}", bench.settings.sessions, proc::machine()));
    if let Some(minutes) = bench.settings.soak_minutes {
        soak::run(&mut bench, minutes).await?;
    } else {
        bench.measure().await?;
    }
    bench.finish().await
}

impl Bench {
    async fn start(settings: Settings) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (tls, ports) = (if settings.wss { "tls" } else { "plain" }, settings.ports);
        let (simulator, urls) =
            Program::part(["simulator", tls, &ports.chat.to_string(), &ports.control.to_string()]).await?;
        let url = |name: &str| urls[name].as_str().map(str::to_owned).context("the simulator told no URL");
        let (simulator_url, plain_url, control_url) = (url("url")?, url("ws")?, url("control")?);
        let phones = Phones::new(&control_url).await?;
        let receiver = Receiver::start(ports.webhook).await?;
        let (base, key, own, data) = match &settings.target {
            Target::Start { binary, variables: extra } => {
                let port = free_port()?;
                let mut variables = gateway_variables(&simulator_url, &control_url, &receiver.url, port);
                if settings.wss {
                    std::fs::write(folder.path().join("root.pem"), phones.root().await?)?;
                    variables.push(("WHATSAPP_TLS_ROOT".to_owned(), "root.pem".to_owned()));
                }
                variables.extend(extra.iter().cloned());
                let own = Own { program: None, binary: binary.clone(), variables };
                let data = folder.path().join("credentials");
                (format!("http://127.0.0.1:{port}"), "load".to_owned(), Some(own), Some(data))
            }
            Target::Running { base, key, data, .. } => {
                complain(&format!(
                    "WhatsApp: {simulator_url}; control and media: {control_url}; webhooks: {}",
                    receiver.url
                ));
                (base.clone(), key.clone(), None, data.clone())
            }
        };
        let pid = match settings.target {
            Target::Running { pid, .. } => pid,
            Target::Start { .. } => None,
        };
        let gateway = Server::new(&base, &key).await?;
        let (process, report, ledger) = (pid.map(Process), Report::default(), Ledger::default());
        let mut bench = Self {
            settings,
            gateway,
            phones,
            receiver,
            report,
            ledger,
            process,
            data,
            plain_url,
            control_url,
            key,
            own,
            _simulator: simulator,
            folder,
        };
        bench.start_gateway().await?;
        Ok(bench)
    }

    async fn measure(&mut self) -> anyhow::Result<()> {
        self.idle_memory().await?;
        phase::pairing::run(self).await?;
        phase::idle::run(self).await?;
        phase::traffic::run(self).await?;
        if self.settings.compare {
            phase::compare::texts(self).await?;
        }
        phase::requests::run(self).await?;
        if self.is_ours() {
            phase::restart::run(self).await?;
            phase::traffic::after_restart(self).await?;
        }
        phase::traffic::check(self, false).await?;
        phase::delete::run(self).await
    }

    async fn idle_memory(&mut self) -> anyhow::Result<()> {
        self.quiet().await?;
        self.memory("no session")?;
        if let Some(own) = &self.own {
            let size = std::fs::metadata(&own.binary)?.len();
            self.report.mebibytes("binary", "binary", size);
        }
        Ok(())
    }

    /// Tells memory now.
    pub(crate) fn memory(&mut self, when: &'static str) -> anyhow::Result<Memory> {
        let Some(process) = self.process else { return Ok(Memory::default()) };
        let memory = process.memory()?;
        let keys = match when {
            "no session" => ["rss.none", "anonymous.none", "file.none"],
            "all connected" => ["rss.connected", "anonymous.connected", "file.connected"],
            "after the texts" => ["rss.texts", "anonymous.texts", "file.texts"],
            "after the restart" => ["rss.restart", "anonymous.restart", "file.restart"],
            _ => ["rss.deleted", "anonymous.deleted", "file.deleted"],
        };
        self.report.mebibytes(keys[0], format!("RSS, {when}"), memory.resident);
        self.report.mebibytes(keys[1], format!("— of it anonymous, {when}"), memory.anonymous);
        self.report.mebibytes(keys[2], format!("— of it of files, {when}"), memory.file);
        Ok(memory)
    }

    /// CPU time so far; zero when the process is not known.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.process.map_or(Ok(Duration::ZERO), Process::cpu)
    }

    /// Tells what each of `count` cost since `begun`.
    pub(crate) fn cost(&mut self, key: &'static str, label: &str, begun: Duration, count: usize) -> anyhow::Result<()> {
        if self.process.is_some() {
            let used = self.cpu()?.saturating_sub(begun);
            self.report.number(key, label, millis(used) / crate::report::count(count), "ms");
        }
        Ok(())
    }

    /// Waits until the gateway has nothing more to do, for a limited time.
    pub(crate) async fn quiet(&self) -> anyhow::Result<()> {
        let (begun, mut calm) = (Instant::now(), 0);
        while calm < 3 && begun.elapsed() < QUIET_LIMIT {
            let before = self.cpu()?;
            tokio::time::sleep(QUIET_WINDOW).await;
            let used = self.cpu()?.saturating_sub(before);
            calm = if used.as_secs_f64() < QUIET_WINDOW.as_secs_f64() * QUIET { calm + 1 } else { 0 };
        }
        Ok(())
    }

    /// Whether the gateway was started here.
    pub(crate) fn is_ours(&self) -> bool {
        self.own.is_some()
    }

    /// Starts the gateway, if it is ours, and waits until it answers; returns how long that took.
    pub(crate) async fn start_gateway(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        if let Some(own) = &mut self.own {
            let program = Program::gateway(&own.binary, self.folder.path(), &own.variables)?;
            self.process = Some(program.process());
            own.program = Some(program);
        }
        while !self.gateway.get("/session").await.is_ok_and(|answer| answer.status == 200) {
            if let Some(program) = self.own.as_mut().and_then(|own| own.program.as_mut())
                && program.has_ended()?
            {
                bail!("the gateway ended:\n{}", self.log());
            }
            if begun.elapsed() > READY_LIMIT {
                bail!("the gateway does not answer within {READY_LIMIT:?}");
            }
            tokio::time::sleep(STEP).await;
        }
        Ok(begun.elapsed())
    }

    /// Ends our gateway with SIGTERM; returns how long that took.
    pub(crate) async fn stop_gateway(&mut self) -> anyhow::Result<Duration> {
        match self.own.as_mut().and_then(|own| own.program.take()) {
            Some(program) => program.stop().await,
            None => Ok(Duration::ZERO),
        }
    }

    /// The end of our gateway's log.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("gateway.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Where the simulator is without TLS, which the bare library does not speak here.
    pub(crate) fn simulator_url_plain(&self) -> String {
        self.plain_url.clone()
    }

    /// A file of this run's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Stops everything, tells the figures and the verdict.
    async fn finish(mut self) -> anyhow::Result<bool> {
        if self.is_ours() {
            self.stop_gateway().await?;
        }
        let settings = &self.settings;
        tell(&self.report, settings, &format!("{}{}", settings.sessions, if settings.wss { ", wss" } else { "" }))?;
        let right = self.report.wrong.is_empty();
        if !right {
            complain(&format!(
                "FAILED:\n{}\nthe gateway's log ends with:\n{}",
                self.report.wrong.join("\n"),
                self.log()
            ));
        }
        Ok(right)
    }
}

/// Prints the figures as a table, and as JSON, to the file if there is one.
pub(crate) fn tell(report: &Report, settings: &Settings, name: &str) -> anyhow::Result<()> {
    let about = json!({
        "name": name,
        "sessions": settings.sessions,
        "messages": settings.messages,
        "chats": settings.chats,
        "wss": settings.wss,
        "soak_minutes": settings.soak_minutes,
        "machine": proc::machine(),
    });
    let json = report.json(&about);
    say(&report.table());
    match &settings.json {
        Some(file) => std::fs::write(file, format!("{json:#}\n"))?,
        None => say(&json.to_string()),
    }
    Ok(())
}

/// Does the work for all items, so many at the same time, in order; the first error ends it.
pub(crate) async fn each<T, U, F>(
    items: impl IntoIterator<Item = T>,
    at_once: usize,
    work: impl FnMut(T) -> F,
) -> anyhow::Result<Vec<U>>
where
    F: Future<Output = anyhow::Result<U>>,
{
    let mut done = Vec::new();
    let mut results = stream::iter(items).map(work).buffered(at_once);
    while let Some(result) = results.next().await {
        done.push(result?);
    }
    Ok(done)
}

fn gateway_variables(simulator: &str, control: &str, webhook: &str, port: u16) -> Vec<(String, String)> {
    [
        ("KEY", "load"),
        ("HOST", "127.0.0.1"),
        ("PORT", &port.to_string()),
        ("CREDENTIALS_DIR", "credentials"),
        ("MEDIA_DIR", "media"),
        ("WEBHOOK_BASE_URL", webhook),
        ("WHATSAPP_WS_URL", simulator),
        ("WHATSAPP_MEDIA_URL", control),
        ("WHATSAPP_VERSION", "2.3000.1042742319"),
        ("NO_COLOR", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
