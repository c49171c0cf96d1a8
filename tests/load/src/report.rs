//! The figures: named, with a unit, as a table for people and as JSON for programs.

use std::time::Duration;

use serde_json::{Map, Value, json};

#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    /// What went wrong; anything here fails the run.
    pub(crate) wrong: Vec<String>,
}

#[derive(Clone, Debug)]
struct Figure {
    key: &'static str,
    label: String,
    value: Value,
    shown: String,
}

/// Latencies of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn extend(&mut self, others: impl IntoIterator<Item = Duration>) {
        self.0.extend(others);
    }

    /// The least latency that so many per thousand do not exceed (nearest rank), in milliseconds.
    pub(crate) fn quantile(&self, per_thousand: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * per_thousand).div_ceil(1_000).max(1);
        sorted.get(rank - 1).map_or(f64::NAN, |latency| millis(*latency))
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        Self(latencies.into_iter().collect())
    }
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// A count or a number of bytes as a number that can be divided.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

pub(crate) fn count(number: usize) -> f64 {
    float(number as u64)
}

impl Report {
    /// A number with its unit.
    pub(crate) fn number(&mut self, key: &'static str, label: impl Into<String>, value: f64, unit: &str) {
        let label = format!("{}, {unit}", label.into());
        self.push(key, label, json!(value), rounded(value));
    }

    /// Bytes, shown in MiB.
    pub(crate) fn mebibytes(&mut self, key: &'static str, label: impl Into<String>, bytes: u64) {
        self.number(key, label, float(bytes) / 1_048_576.0, "MiB");
    }

    /// Milliseconds as p50 / p95 / p99 / max.
    pub(crate) fn latencies(&mut self, key: &'static str, label: impl Into<String>, latencies: &Latencies) {
        let [p50, p95, p99, max] = [500, 950, 990, 1_000].map(|quantile| latencies.quantile(quantile));
        let value = json!({"p50": p50, "p95": p95, "p99": p99, "max": max, "count": latencies.0.len()});
        let shown = [p50, p95, p99, max].map(rounded).join(" / ");
        self.push(key, format!("{}, ms: p50 / p95 / p99 / max", label.into()), value, shown);
    }

    fn push(&mut self, key: &'static str, label: String, value: Value, shown: String) {
        crate::complain(&format!("  {label}: {shown}"));
        self.figures.push(Figure { key, label, value, shown });
    }

    /// A figure that was told before.
    pub(crate) fn told(&self, key: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.key == key)?;
        figure.value.as_f64().or_else(|| figure.value["p50"].as_f64())
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        crate::complain(&format!("  WRONG: {what}"));
        self.wrong.push(what);
    }

    /// A table in Markdown.
    pub(crate) fn table(&self) -> String {
        let rows = self.figures.iter().map(|figure| format!("| {} | {} |\n", figure.label, figure.shown));
        std::iter::once("| figure | value |\n| --- | --- |\n".to_owned()).chain(rows).collect()
    }

    pub(crate) fn json(&self, about: &Value) -> Value {
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|figure| {
                let value = json!({"label": figure.label, "shown": figure.shown, "value": figure.value});
                (figure.key.to_owned(), value)
            })
            .collect();
        json!({"about": about, "figures": figures, "wrong": self.wrong})
    }
}

/// Three digits that count, or more before the point.
fn rounded(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "–".to_owned()
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 || size == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let latencies: Latencies = (1..=100).map(Duration::from_millis).collect();
        for (quantile, wanted) in [(500, 50.0), (950, 95.0), (990, 99.0), (1_000, 100.0)] {
            assert!((latencies.quantile(quantile) - wanted).abs() < 1e-9, "{quantile}");
        }
        assert!((Latencies::from_iter([Duration::from_millis(7)]).quantile(500) - 7.0).abs() < 1e-9);
        assert!(Latencies::default().quantile(500).is_nan());
    }

    #[test]
    fn numbers_are_shown_with_three_digits_that_count() {
        for (value, wanted) in [(123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.0123, "0.012"), (f64::NAN, "–")]
        {
            assert_eq!(rounded(value), wanted);
        }
    }
}
