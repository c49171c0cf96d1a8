//! What the gateway counts while it runs, for `GET /metrics`.
//!
//! Totals only: nothing here names a session, a number or a chat. Handed to whoever counts; read by `health`. The counters
//! begin at zero with the process, as Prometheus expects.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// WhatsApp acknowledged it.
    Sent,
    /// The caller's fault: no such session, recipient or file.
    Invalid,
    /// The session was not connected.
    NotReady,
    /// WhatsApp refused it.
    Refused,
    /// No acknowledgement came: it may have been sent.
    Unacknowledged,
    /// The connection, the file's source or the store failed.
    Failed,
}

impl SendOutcome {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Sent, "sent"),
        (Self::Invalid, "invalid"),
        (Self::NotReady, "not_ready"),
        (Self::Refused, "refused"),
        (Self::Unacknowledged, "unacknowledged"),
        (Self::Failed, "failed"),
    ];
}

/// Upper ends of the histogram of writes in seconds: a buffered one takes microseconds, a flush some tenths of a millisecond,
/// a real sync milliseconds, a sick disk seconds.
const BUCKETS: [f64; 12] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];

/// The counters; cheap to clone, all clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    sends: [AtomicU64; SendOutcome::ALL.len()],
    reconnects: AtomicU64,
    /// Writes by the first bucket that holds them; the last: slower than all.
    writes: [AtomicU64; BUCKETS.len() + 1],
    write_micros: AtomicU64,
    write_failures: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    /// Counts a send that is decided.
    pub fn send(&self, outcome: SendOutcome) {
        add(&self.0.sends[outcome as usize]);
    }

    /// Counts a session that is connected again after its connection was lost.
    pub fn reconnect(&self) {
        add(&self.0.reconnects);
    }

    /// Counts a write to the store that waited until it was safe.
    pub fn write(&self, took: Duration, failed: bool) {
        let bucket = BUCKETS.iter().position(|end| took.as_secs_f64() <= *end).unwrap_or(BUCKETS.len());
        add(&self.0.writes[bucket]);
        self.0.write_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if failed {
            add(&self.0.write_failures);
        }
    }

    /// Adds all counters to a page.
    pub fn print(&self, page: &mut Page) {
        let counters = &self.0;
        page.head("wa_gateway_sends_total", "counter", "Messages that callers wanted sent, by what became of them.");
        for ((_, word), count) in SendOutcome::ALL.iter().zip(&counters.sends) {
            page.labelled("wa_gateway_sends_total", "outcome", word, read(count));
        }
        let name = "wa_gateway_reconnects_total";
        page.single(name, "counter", "Sessions that came back after a lost connection.", read(&counters.reconnects));
        let name = "wa_gateway_store_write_failures_total";
        page.single(name, "counter", "Writes that the store refused.", read(&counters.write_failures));
        let name = "wa_gateway_store_write_seconds";
        page.head(name, "histogram", "How long writes to the store took until they were safe.");
        let mut sum = 0;
        for (end, count) in BUCKETS.iter().zip(&counters.writes) {
            sum += read(count);
            page.labelled(&format!("{name}_bucket"), "le", &end.to_string(), sum);
        }
        sum += read(&counters.writes[BUCKETS.len()]);
        page.labelled(&format!("{name}_bucket"), "le", "+Inf", sum);
        page.line(&format!("{name}_sum"), Duration::from_micros(read(&counters.write_micros)).as_secs_f64());
        page.line(&format!("{name}_count"), sum);
    }
}

/// A page in Prometheus's text format, version 0.0.4.
#[derive(Clone, Debug, Default)]
pub struct Page(String);

impl Page {
    /// The type of the page.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a metric.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One value of the metric that was begun.
    pub fn line(&mut self, name: &str, value: impl fmt::Display) {
        self.put(format_args!("{name} {value}\n"));
    }

    /// One value of the metric that was begun, with a label; names and values come from the program, never from outside.
    pub fn labelled(&mut self, name: &str, label: &str, word: &str, value: impl fmt::Display) {
        self.put(format_args!("{name}{{{label}=\"{word}\"}} {value}\n"));
    }

    /// A metric with a single value.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl fmt::Display) {
        self.head(name, kind, help);
        self.line(name, value);
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes every write");
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_own_counter() {
        let metrics = Metrics::default();
        for (outcome, _) in SendOutcome::ALL {
            metrics.send(outcome);
        }
        metrics.send(SendOutcome::Refused);
        metrics.reconnect();
        let mut page = Page::default();
        metrics.print(&mut page);
        let text = page.into_text();
        for (outcome, word) in SendOutcome::ALL {
            let count = if outcome == SendOutcome::Refused { 2 } else { 1 };
            assert!(text.contains(&format!("wa_gateway_sends_total{{outcome=\"{word}\"}} {count}\n")), "{text}");
        }
        assert!(text.contains("wa_gateway_reconnects_total 1\n"), "{text}");
    }

    #[test]
    fn the_histogram_counts_upwards_to_all() {
        let metrics = Metrics::default();
        for (micros, failed) in [(50, false), (100, false), (700, true), (60_000_000, false)] {
            metrics.write(Duration::from_micros(micros), failed);
        }
        let mut page = Page::default();
        metrics.print(&mut page);
        let text = page.into_text();
        for line in [
            "wa_gateway_store_write_seconds_bucket{le=\"0.0001\"} 2",
            "wa_gateway_store_write_seconds_bucket{le=\"0.0005\"} 2",
            "wa_gateway_store_write_seconds_bucket{le=\"0.001\"} 3",
            "wa_gateway_store_write_seconds_bucket{le=\"5\"} 3",
            "wa_gateway_store_write_seconds_bucket{le=\"+Inf\"} 4",
            "wa_gateway_store_write_seconds_sum 60.00085",
            "wa_gateway_store_write_seconds_count 4",
            "wa_gateway_store_write_failures_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
