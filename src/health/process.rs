//! What the system tells of this process, under the names that Prometheus's own libraries use. Linux; elsewhere nothing.

use std::fs;
use std::time::SystemTime;

use crate::metrics::Page;

pub(super) fn print(page: &mut Page, began: SystemTime) {
    let since = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    page.single("process_start_time_seconds", "gauge", "When the gateway began, in Unix seconds.", since);
    if let Some(bytes) = resident_bytes() {
        page.single("process_resident_memory_bytes", "gauge", "Memory of this process that is in RAM.", bytes);
    }
    if let Some(open) = open_files() {
        page.single("process_open_fds", "gauge", "Open files and connections.", open);
    }
    if let Some(most) = max_files() {
        page.single("process_max_fds", "gauge", "How many it may have.", most);
    }
}

/// proc(5), `/proc/pid/status`: `VmRSS:   12345 kB`.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn open_files() -> Option<usize> {
    // The listing itself has one open.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// proc(5), `/proc/pid/limits`: name, soft limit, hard limit, unit.
fn max_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_of_this_process() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        let open = open_files().unwrap();
        assert!(open >= 3, "{open}");
        assert!(max_files().is_some_and(|most| most > 3));
    }
}
