//! The other processes of a measurement: started, waited for, stopped.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::time::Instant;

use crate::proc::Process;

/// A program that ends is waited for so long, then killed.
const END_LIMIT: Duration = Duration::from_secs(40);
/// How often it is looked whether a program has ended.
const STEP: Duration = Duration::from_millis(10);

/// A process of ours; killed when dropped.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts this very program in another mode, and returns the line of JSON that it prints when it is ready.
    pub(crate) async fn part<I, S>(arguments: I) -> anyhow::Result<(Self, Value)>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("this program can't start itself")?;
        let output = child.stdout.take().context("no output to read")?;
        let program = Self(child);
        let read = move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        };
        let line = tokio::task::spawn_blocking(read).await??;
        let ready = serde_json::from_str(&line).context("a part of the measurement did not get ready")?;
        Ok((program, ready))
    }

    /// Starts the gateway in its folder with these variables alone; its log goes to `gateway.log` there.
    pub(crate) fn gateway(binary: &Path, folder: &Path, variables: &[(String, String)]) -> anyhow::Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("gateway.log"))?;
        let mut command = Command::new(binary);
        command.current_dir(folder).env_clear().envs(variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("{} can't be started", binary.display()))?))
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.0.id())
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// SIGTERM, and SIGKILL when it does not end in time; returns how long it took.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        // The shell's own `kill`: the standard library knows SIGKILL only.
        let told = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.0.id())).status()?;
        if !told.success() {
            bail!("a process could not be told to end");
        }
        while self.0.try_wait()?.is_none() {
            if begun.elapsed() > END_LIMIT {
                bail!("a process did not end within {END_LIMIT:?} and was killed");
            }
            tokio::time::sleep(STEP).await;
        }
        Ok(begun.elapsed())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
