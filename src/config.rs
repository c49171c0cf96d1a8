//! The settings: every environment variable, its default and its check, in one place.
//!
//! The only reader of the environment and of `.env`. All problems are collected, then told at once.
//! Only `gateway`, `main` and `cli` import this room; the others get plain values.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;

mod delivery;
mod dotenv;
pub mod keyfile;
mod setting;

pub use delivery::Delivery;
pub use setting::{SETTINGS, Setting, env_example, settings_table};

/// Everything the process was told from outside, checked as a whole.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own that is on or off")]
pub struct Config {
    /// Who may call the API.
    pub key: KeySetting,
    /// More API keys; `None`: only those of [`key`](Self::key) and of the API.
    pub keys_file: Option<PathBuf>,
    /// Proxies before the gateway whose word about the client's address is taken.
    pub trust_proxy: usize,
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0 takes a random free one.
    pub port: u16,
    /// `None`: no webhooks are sent.
    pub webhook_base_url: Option<Url>,
    /// Which events are posted.
    pub webhook_events: WebhookEvents,
    /// Signs every webhook; `None`: they are not signed.
    pub webhook_secret: Option<SecretString>,
    /// How webhooks are tried, and what may wait for it.
    pub delivery: Delivery,
    /// The Redis that keeps the sessions, with its password; `None`: they are kept in [`credentials_dir`](Self::credentials_dir).
    pub redis_url: Option<SecretString>,
    /// Whether a Redis is taken that keeps no append-only file.
    pub redis_allow_no_aof: bool,
    /// PEM file with the certificates that a `rediss://` server is trusted by; `None`: the public authorities.
    pub redis_tls_root: Option<PathBuf>,
    /// Whether a write waits for the disk itself.
    pub store_sync: bool,
    /// Encrypts and opens backups; `None`: it is asked for.
    pub backup_passphrase: Option<SecretString>,
    /// Whether `/metrics` is told without a key.
    pub metrics_public: bool,
    /// Whether answers of status 500 carry the inner error text.
    pub development: bool,
    /// Where the sessions and a generated API key live.
    pub credentials_dir: PathBuf,
    /// Whether sessions of the original are taken over even when it seems to run.
    pub takeover_force: bool,
    /// Where received media are saved.
    pub media_dir: PathBuf,
    /// Whether received files are for callers with a key only.
    pub media_require_key: bool,
    /// The largest file that is fetched, uploaded or received, in bytes.
    pub media_max_bytes: u64,
    /// How long fetching a file takes at most.
    pub media_timeout: Duration,
    /// Whether media URLs may lead to private addresses.
    pub media_url_private: bool,
    /// Whether a recipient's number is looked up on WhatsApp before the first send to it.
    pub check_numbers: bool,
    /// How long a start waits for a QR or for the connection.
    pub start_timeout: Duration,
    /// How long a send takes at most, typing included.
    pub send_timeout: Duration,
    /// How long an unscanned session gets fresh QR codes after the last time somebody asked for one.
    pub qr_idle: Duration,
    /// How many stored sessions connect at the same time after a start of the process.
    pub restore_concurrency: usize,
    /// Sent messages whose state is kept, of each session.
    pub sent_max_count: usize,
    /// How long the state of a sent message is kept.
    pub sent_max_age: Duration,
    /// Idempotency keys that are kept, of each session.
    pub idempotency_max_count: usize,
    /// How long a session counts as connected, or waits for a login, while nothing comes from WhatsApp.
    pub watchdog: Duration,
    /// The form of the log lines.
    pub log_format: LogFormat,
    /// Which log lines are written, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// Whether human log lines are coloured when they go to a terminal.
    pub color: bool,
    /// `None`: the built-in WhatsApp version, refreshed daily.
    pub whatsapp_version: Option<(u32, u32, u32)>,
    /// The loopback server that stands in for WhatsApp; always there in a build with the feature `simulator`, else `None`.
    pub simulator: Option<Simulator>,
}

/// Who may call the API.
#[derive(Clone, Debug)]
pub enum KeySetting {
    /// Whoever knows this key; webhooks carry it too.
    Given(SecretString),
    /// Whoever knows the key in [`keyfile`]; webhooks don't carry it.
    Generated,
    /// Everybody who can reach the port.
    Open,
}

/// Which events are posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookEvents {
    /// Received messages.
    pub message: bool,
    /// Changes of a session's status.
    pub session: bool,
    /// What becomes of sent messages.
    pub ack: bool,
}

/// The form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Human,
    /// One JSON object per line.
    Json,
}

/// Where a build with the feature `simulator` finds its WhatsApp; both URLs name a loopback address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulator {
    /// The WebSocket endpoint, `ws` or `wss`.
    pub ws_url: Url,
    /// Base URL that stands in for the media hosts.
    pub media_url: Option<Url>,
    /// A PEM file with the root that signed the certificate of a `wss` endpoint.
    pub tls_root: Option<PathBuf>,
}

/// Every variable that can't be used, with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the variable (or `.env`) and what is wrong with it; never its value when that may be a secret.
    pub problems: Vec<(String, String)>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration can't be used:")?;
        self.problems.iter().try_for_each(|(name, reason)| write!(f, "\n  {name}: {reason}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads `.env` in the working directory, then the environment, which wins.
    ///
    /// # Errors
    /// [`ConfigError`] lists every variable that can't be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut vars = HashMap::new();
        let mut problems = Vec::new();
        let file = Path::new(".env");
        if file.exists() {
            match std::fs::read(file) {
                Ok(text) => vars.extend(dotenv::parse(&String::from_utf8_lossy(&text))),
                Err(error) => problems.push((".env".to_owned(), error.to_string())),
            }
        }
        for setting in SETTINGS {
            match std::env::var_os(setting.name).map(std::ffi::OsString::into_string) {
                Some(Ok(value)) => drop(vars.insert(setting.name.to_owned(), value)),
                Some(Err(_)) => problems.push((setting.name.to_owned(), "is not UTF-8".to_owned())),
                None => {}
            }
        }
        Self::check(vars, problems, cfg!(feature = "simulator"))
    }

    /// Checks variables that were read elsewhere; unknown names are ignored.
    ///
    /// # Errors
    /// [`ConfigError`] lists every variable that can't be used.
    pub fn from_vars<N: Into<String>, V: Into<String>>(
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        let vars = vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self::check(vars, Vec::new(), cfg!(feature = "simulator"))
    }

    fn check(
        vars: HashMap<String, String>,
        problems: Vec<(String, String)>,
        simulator: bool,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader { vars, problems };
        let open = reader.boolean("ALLOW_NO_KEY");
        let key = match reader.raw("KEY").filter(|key| !key.trim().is_empty()) {
            Some(key) => KeySetting::Given(SecretString::from(key.to_owned())),
            None if open => KeySetting::Open,
            None => KeySetting::Generated,
        };
        // wa-gateway 4.7.1, PORT: an empty value reads as 0, a random free port.
        let port = match reader.raw("PORT").map(str::trim) {
            Some("") => 0,
            _ => reader.number("PORT", 0, u16::MAX),
        };
        let config = Self {
            key,
            keys_file: reader.text("KEYS_FILE").map(PathBuf::from),
            trust_proxy: reader.proxies(),
            host: reader.parsed("HOST", "is no IP address").unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            port,
            webhook_base_url: reader.url("WEBHOOK_BASE_URL", &["http", "https"]),
            webhook_events: reader.webhook_events(),
            webhook_secret: reader.text("WEBHOOK_SECRET").map(SecretString::from),
            delivery: Delivery::read(&mut reader),
            redis_url: reader.url("REDIS_URL", &["redis", "rediss"]).map(|url| SecretString::from(url.as_str())),
            redis_allow_no_aof: reader.boolean("REDIS_ALLOW_NO_AOF"),
            redis_tls_root: reader.file("REDIS_TLS_ROOT"),
            store_sync: reader.store_sync(),
            backup_passphrase: reader.raw("BACKUP_PASSPHRASE").filter(|text| !text.is_empty()).map(SecretString::from),
            metrics_public: reader.boolean("METRICS_PUBLIC"),
            development: reader.text("NODE_ENV") == Some("development"),
            credentials_dir: reader.path("CREDENTIALS_DIR"),
            takeover_force: reader.boolean("TAKEOVER_FORCE"),
            media_dir: reader.path("MEDIA_DIR"),
            media_require_key: reader.boolean("MEDIA_REQUIRE_KEY"),
            media_max_bytes: reader.number("MEDIA_MAX_BYTES", 1024, 2 * 1024 * 1024 * 1024),
            media_timeout: reader.seconds("MEDIA_TIMEOUT_SECS", 3600),
            media_url_private: reader.allowed("MEDIA_URL_PRIVATE"),
            check_numbers: reader.boolean("CHECK_NUMBERS"),
            start_timeout: reader.seconds("START_TIMEOUT_SECS", 50),
            send_timeout: reader.seconds("SEND_TIMEOUT_SECS", 50),
            qr_idle: reader.seconds("QR_IDLE_SECS", 86_400),
            restore_concurrency: reader.number("RESTORE_CONCURRENCY", 1, 1024),
            sent_max_count: reader.number("SENT_MAX_COUNT", 100, 10_000_000),
            sent_max_age: Duration::from_hours(reader.number("SENT_MAX_AGE_HOURS", 1, 8760)),
            idempotency_max_count: reader.number("IDEMPOTENCY_MAX_COUNT", 100, 10_000_000),
            watchdog: reader.seconds("WATCHDOG_SECS", 300),
            log_format: reader.log_format(),
            log_filter: reader.text_or_default("RUST_LOG"),
            // no-color.org: any value that is not empty turns colours off.
            color: reader.raw("NO_COLOR").is_none_or(str::is_empty),
            whatsapp_version: reader.whatsapp_version(),
            simulator: reader.simulator(simulator),
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: reader.problems }) }
    }
}

/// Takes one variable after the other and keeps what is wrong with them.
struct Reader {
    vars: HashMap<String, String>,
    problems: Vec<(String, String)>,
}

impl Reader {
    fn refuse(&mut self, name: &str, reason: impl Into<String>) {
        self.problems.push((name.to_owned(), reason.into()));
    }

    fn raw(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    /// The value without white space around it; an empty one counts as unset.
    fn text(&self, name: &str) -> Option<&str> {
        self.raw(name).map(str::trim).filter(|value| !value.is_empty())
    }

    fn text_or_default(&self, name: &str) -> String {
        self.text(name).unwrap_or(Setting::default_of(name)).to_owned()
    }

    fn parsed<T: FromStr>(&mut self, name: &str, reason: &str) -> Option<T> {
        let value = self.text_or_default(name);
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.refuse(name, format!("\"{value}\" {reason}"));
        }
        parsed
    }

    /// A refused number reads as `min`: the whole configuration fails anyway.
    fn number<T: FromStr + PartialOrd + Copy + fmt::Display>(&mut self, name: &str, min: T, max: T) -> T {
        let value = self.text_or_default(name);
        match value.parse() {
            Ok(number) if number >= min && number <= max => number,
            _ => {
                self.refuse(name, format!("\"{value}\" is no whole number from {min} to {max}"));
                min
            }
        }
    }

    fn seconds(&mut self, name: &str, max: u64) -> Duration {
        Duration::from_secs(self.number(name, 1, max))
    }

    fn boolean(&mut self, name: &str) -> bool {
        let value = self.text_or_default(name);
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => true,
            "false" | "0" | "no" => false,
            _ => {
                self.refuse(name, format!("\"{value}\" is neither true nor false"));
                false
            }
        }
    }

    /// A number; as Express takes it, true is one proxy.
    fn proxies(&mut self) -> usize {
        match self.text_or_default("TRUST_PROXY").to_ascii_lowercase().as_str() {
            "true" => 1,
            "false" => 0,
            _ => self.number("TRUST_PROXY", 0, 16),
        }
    }

    fn allowed(&mut self, name: &str) -> bool {
        let value = self.text_or_default(name);
        match value.to_ascii_lowercase().as_str() {
            "allow" => true,
            "deny" => false,
            _ => {
                self.refuse(name, format!("\"{value}\" is neither allow nor deny"));
                false
            }
        }
    }

    fn store_sync(&mut self) -> bool {
        let value = self.text_or_default("STORE_SYNC");
        match value.to_ascii_lowercase().as_str() {
            "soon" => false,
            "always" => true,
            _ => {
                self.refuse("STORE_SYNC", format!("\"{value}\" is neither soon nor always"));
                false
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.text_or_default(name))
    }

    /// The value may hold a password: it is not quoted when refused.
    fn url(&mut self, name: &str, schemes: &[&str]) -> Option<Url> {
        let url = self.text(name)?.parse::<Url>();
        match url {
            Ok(url) if schemes.contains(&url.scheme()) && url.has_host() => Some(url),
            _ => {
                self.refuse(name, format!("is no URL that starts with {}://", schemes.join(":// or ")));
                None
            }
        }
    }

    fn loopback_url(&mut self, name: &str, schemes: &[&str]) -> Option<Url> {
        let url = self.url(name, schemes)?;
        if is_loopback(&url) {
            return Some(url);
        }
        self.refuse(name, "names an address other than 127.0.0.0/8, ::1 or localhost");
        None
    }

    fn webhook_events(&mut self) -> WebhookEvents {
        let value = self.text_or_default("WEBHOOK_EVENTS");
        let mut events = WebhookEvents::default();
        for word in value.split(',') {
            match word.trim().to_ascii_lowercase().as_str() {
                "message" => events.message = true,
                "session" => events.session = true,
                "ack" => events.ack = true,
                _ => {
                    self.refuse("WEBHOOK_EVENTS", format!("\"{value}\" is no list of message, session and ack"));
                    break;
                }
            }
        }
        events
    }

    fn log_format(&mut self) -> LogFormat {
        let value = self.text_or_default("LOG_FORMAT");
        match value.to_ascii_lowercase().as_str() {
            "human" => LogFormat::Human,
            "json" => LogFormat::Json,
            _ => {
                self.refuse("LOG_FORMAT", format!("\"{value}\" is neither human nor json"));
                LogFormat::Human
            }
        }
    }

    fn whatsapp_version(&mut self) -> Option<(u32, u32, u32)> {
        let value = self.text("WHATSAPP_VERSION")?.to_owned();
        let numbers: Option<Vec<u32>> = value.split('.').map(|part| part.parse().ok()).collect();
        if let Some([major, minor, patch]) = numbers.as_deref() {
            return Some((*major, *minor, *patch));
        }
        self.refuse("WHATSAPP_VERSION", format!("\"{value}\" is no version of the form 2.3000.1023456789"));
        None
    }

    fn file(&mut self, name: &'static str) -> Option<PathBuf> {
        let file = self.text(name).map(PathBuf::from);
        if file.as_ref().is_some_and(|file| !file.is_file()) {
            self.refuse(name, "names no file");
        }
        file
    }

    fn simulator(&mut self, built_for_it: bool) -> Option<Simulator> {
        if !built_for_it {
            for name in ["WHATSAPP_WS_URL", "WHATSAPP_MEDIA_URL", "WHATSAPP_TLS_ROOT"] {
                if self.text(name).is_some() {
                    self.refuse(name, "works only in a build with the cargo feature `simulator`");
                }
            }
            return None;
        }
        if self.text("WHATSAPP_WS_URL").is_none() {
            self.refuse(
                "WHATSAPP_WS_URL",
                "is required: this build (cargo feature `simulator`) does not check who answers, so it must not dial WhatsApp",
            );
        }
        let mut ws_url = self.loopback_url("WHATSAPP_WS_URL", &["ws", "wss"]);
        let no_path = |text: &str| text.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?']));
        if self.text("WHATSAPP_WS_URL").is_some_and(no_path)
            && let Some(url) = &mut ws_url
        {
            url.set_path("/ws/chat");
        }
        let media_url = self.loopback_url("WHATSAPP_MEDIA_URL", &["http", "https"]);
        let tls_root = self.file("WHATSAPP_TLS_ROOT");
        Some(Simulator { ws_url: ws_url?, media_url, tls_root })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
