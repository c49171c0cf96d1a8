//! What Linux tells of a process: memory, CPU time, descriptors, threads.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// A process that is looked at from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

/// `/proc/PID/status`, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) file: u64,
    pub(crate) peak: u64,
    pub(crate) threads: u64,
}

impl Process {
    fn read(self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("{path}: the gateway is gone"))
    }

    pub(crate) fn memory(self) -> anyhow::Result<Memory> {
        let status = self.read("status")?;
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
        };
        Ok(Memory {
            resident: number("VmRSS") * 1024,
            anonymous: number("RssAnon") * 1024,
            file: (number("RssFile") + number("RssShmem")) * 1024,
            peak: number("VmHWM") * 1024,
            threads: number("Threads"),
        })
    }

    /// User and system time of all threads that it has or had. By the process's own clock, which counts nanoseconds:
    /// `/proc/PID/stat` counts in steps of 10 ms, in which a dozen texts may fit.
    pub(crate) fn cpu(self) -> anyhow::Result<Duration> {
        let id = i32::try_from(self.0).context("an odd process id")?;
        let clock = clock_getcpuclockid(Pid::from_raw(id)).context("the gateway is gone")?;
        Ok(clock.now().context("the gateway is gone")?.into())
    }

    pub(crate) fn descriptors(self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.0)).context("the gateway is gone")?.count())
    }
}

/// Bytes of all files below, as they are allocated on disk.
pub(crate) fn disk(folder: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("{} can't be read", folder.display()))? {
        let entry = entry?;
        // A file may go while it is counted.
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { disk(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(bytes)
}

/// The machine in a few words.
pub(crate) fn machine() -> String {
    let first = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = first("/proc/meminfo", "MemTotal");
    format!("{cores} cores, {}, {memory}, Linux {}", first("/proc/cpuinfo", "model name"), kernel.trim())
}
