//! The settings of webhooks: how often and how long they are tried, and how many may wait.

use std::time::Duration;

use super::Reader;

/// How webhooks are tried, and what may wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How long one attempt takes at most.
    pub timeout: Duration,
    /// The wait after the first failure; doubled after each further one.
    pub retry_first: Duration,
    /// The longest of these waits.
    pub retry_max: Duration,
    /// The age at which a failure is the last.
    pub retry_for: Duration,
    /// Webhooks of one session in a second.
    pub max_per_sec: u32,
    /// Whether a webhook URL that came over the API may lead to private addresses.
    pub url_private: bool,
    /// Bytes that wait in all outboxes together.
    pub outbox_max_bytes: u64,
    /// What waits longer is not tried any more.
    pub outbox_max_age: Duration,
    /// Dead letters that are kept of one session.
    pub dead_max_count: u64,
    /// Bytes of them.
    pub dead_max_bytes: u64,
    /// How long they are kept.
    pub dead_max_age: Duration,
}

/// A year, for whoever wants to keep things for good.
const YEAR_SECS: u64 = 31_536_000;

impl Delivery {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            timeout: reader.seconds("WEBHOOK_TIMEOUT_SECS", 60),
            retry_first: Duration::from_millis(reader.number("WEBHOOK_RETRY_FIRST_MS", 1, 3_600_000)),
            retry_max: reader.seconds("WEBHOOK_RETRY_MAX_SECS", 86_400),
            retry_for: reader.seconds("WEBHOOK_RETRY_FOR_SECS", YEAR_SECS),
            max_per_sec: reader.number("WEBHOOK_MAX_PER_SEC", 1, 100_000),
            url_private: reader.allowed("WEBHOOK_URL_PRIVATE"),
            outbox_max_bytes: reader.number("OUTBOX_MAX_BYTES", 1_024, 1 << 40),
            outbox_max_age: reader.seconds("OUTBOX_MAX_AGE_SECS", YEAR_SECS),
            dead_max_count: reader.number("DEAD_MAX_COUNT", 0, 10_000_000),
            dead_max_bytes: reader.number("DEAD_MAX_BYTES", 0, 1 << 40),
            dead_max_age: reader.seconds("DEAD_MAX_AGE_SECS", YEAR_SECS),
        }
    }
}
