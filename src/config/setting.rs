//! The table of all settings; `.env.example` and the README's table are printed from it and tested against it.

use std::fmt::Write as _;

/// One environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What holds when it is unset or empty; empty: nothing.
    pub default: &'static str,
    /// What its value is or is counted in.
    pub unit: &'static str,
    /// What it changes.
    pub effect: &'static str,
}

impl Setting {
    const fn new(name: &'static str, default: &'static str, unit: &'static str, effect: &'static str) -> Self {
        Self { name, default, unit, effect }
    }

    pub(super) fn default_of(name: &str) -> &'static str {
        SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default)
    }
}

/// Every variable that [`Config`](super::Config) reads, in the order of the documents.
pub const SETTINGS: &[Setting] = &[
    Setting::new(
        "KEY",
        "",
        "text",
        "API key that callers send as header or query `key`; webhooks carry it too. Empty: a random key is made on the first start and kept in `CREDENTIALS_DIR/api-key`.",
    ),
    Setting::new(
        "ALLOW_NO_KEY",
        "false",
        "true or false",
        "With an empty `KEY`: true serves everybody who can reach the port, without any key.",
    ),
    Setting::new(
        "KEYS_FILE",
        "",
        "JSON file",
        "More API keys, each with a name, the SHA-256 of the key, its sessions and scopes; read again when it changes. Keys can be made by `POST /keys` too.",
    ),
    Setting::new(
        "TRUST_PROXY",
        "0",
        "proxies, 0 to 16",
        "How many proxies of yours stand before the gateway: the client's address is taken from so many entries at the end of `X-Forwarded-For`. 0: from the connection.",
    ),
    Setting::new("PORT", "5001", "port", "Port to listen on. 0, or set but empty: a random free one."),
    Setting::new("HOST", "::", "IP address", "Address to listen on; `::` takes IPv6 and IPv4, `0.0.0.0` IPv4 only."),
    Setting::new(
        "WEBHOOK_BASE_URL",
        "",
        "http(s) URL",
        "Events are posted to `/session`, `/message` and `/ack` below it. Empty: no webhooks.",
    ),
    Setting::new(
        "WEBHOOK_EVENTS",
        "message,session",
        "list of message, session, ack",
        "Which events are posted, separated by commas. `ack` tells what becomes of sent messages.",
    ),
    Setting::new(
        "WEBHOOK_SECRET",
        "",
        "text",
        "Signs every webhook with the header `X-Webhook-Signature` (HMAC-SHA256). Empty: not signed.",
    ),
    Setting::new(
        "WEBHOOK_TIMEOUT_SECS",
        "15",
        "seconds, 1 to 60",
        "How long one attempt to deliver a webhook takes at most.",
    ),
    Setting::new(
        "WEBHOOK_RETRY_FIRST_MS",
        "1000",
        "milliseconds, 1 to 3600000",
        "The wait after a webhook's first failure; doubled after each further one, give or take a fifth.",
    ),
    Setting::new("WEBHOOK_RETRY_MAX_SECS", "300", "seconds, 1 to 86400", "The longest of these waits."),
    Setting::new(
        "WEBHOOK_RETRY_FOR_SECS",
        "259200",
        "seconds, 1 to 31536000",
        "How long a webhook is tried; then it is a dead letter. The default is 72 hours.",
    ),
    Setting::new(
        "WEBHOOK_MAX_PER_SEC",
        "1000",
        "webhooks, 1 to 100000",
        "How many webhooks of one session are posted in a second at most, one at a time.",
    ),
    Setting::new(
        "WEBHOOK_URL_PRIVATE",
        "allow",
        "allow or deny",
        "Whether a webhook URL that was set over the API may lead to private addresses, loopback among them. `WEBHOOK_BASE_URL` always may; link-local and cloud metadata addresses no webhook may.",
    ),
    Setting::new(
        "OUTBOX_MAX_BYTES",
        "1073741824",
        "bytes, 1024 to 1099511627776",
        "How much may wait for delivery in all; each session keeps its equal part. Full: the oldest status events are dropped, then new messages stay at WhatsApp.",
    ),
    Setting::new(
        "OUTBOX_MAX_AGE_SECS",
        "604800",
        "seconds, 1 to 31536000",
        "What has waited longer is not tried any more: status events are dropped, messages become dead letters.",
    ),
    Setting::new(
        "DEAD_MAX_COUNT",
        "10000",
        "events, 0 to 10000000",
        "Dead letters that are kept of one session; the oldest go first.",
    ),
    Setting::new(
        "DEAD_MAX_BYTES",
        "67108864",
        "bytes, 0 to 1099511627776",
        "Bytes of dead letters that are kept of one session.",
    ),
    Setting::new("DEAD_MAX_AGE_SECS", "2592000", "seconds, 1 to 31536000", "How long dead letters are kept."),
    Setting::new(
        "REDIS_URL",
        "",
        "redis(s) URL",
        "Sessions are kept in this Redis, one gateway for each of its databases; it needs `appendonly yes`, best with `appendfsync always`. Empty: in `CREDENTIALS_DIR`.",
    ),
    Setting::new(
        "REDIS_ALLOW_NO_AOF",
        "false",
        "true or false",
        "true also takes a Redis without append-only file: when that Redis ends, sessions may be lost or use encryption keys twice.",
    ),
    Setting::new(
        "REDIS_TLS_ROOT",
        "",
        "PEM file",
        "Certificates that a `rediss://` server is trusted by. Empty: the public authorities.",
    ),
    Setting::new(
        "STORE_SYNC",
        "soon",
        "soon or always",
        "Without `REDIS_URL`: soon hands writes to the system at once and to the disk within half a second, which a power cut may cost; always waits for the disk each time.",
    ),
    Setting::new(
        "BACKUP_PASSPHRASE",
        "",
        "text",
        "For `wa-gateway backup`, `restore`, `export` and the `import` of an export: encrypts and opens the file. Empty: it is asked for.",
    ),
    Setting::new("METRICS_PUBLIC", "false", "true or false", "true: `/metrics` needs no key; it holds totals only."),
    Setting::new(
        "NODE_ENV",
        "production",
        "development or production",
        "development shows the inner error text in answers of status 500; anything else hides it.",
    ),
    Setting::new(
        "CREDENTIALS_DIR",
        "./wa_credentials",
        "folder",
        "Where sessions (without `REDIS_URL`) and a generated API key are kept.",
    ),
    Setting::new(
        "TAKEOVER_FORCE",
        "false",
        "true or false",
        "true takes the sessions of a `CREDENTIALS_DIR/database.db` over although the Node.js gateway seems to run on it; then both use the same encryption keys.",
    ),
    Setting::new("MEDIA_DIR", "./media", "folder", "Where received media are saved."),
    Setting::new(
        "MEDIA_REQUIRE_KEY",
        "false",
        "true or false",
        "true asks for a key with scope `read` before a file below `/media` is served, and shows each key the files of its own sessions only; files from before the change go to keys for all sessions.",
    ),
    Setting::new(
        "MEDIA_MAX_BYTES",
        "104857600",
        "bytes, 1024 to 2147483648",
        "Largest file that is fetched, uploaded or received; the default is 100 MiB.",
    ),
    // Within the time of a send, so that something is left for sending.
    Setting::new(
        "MEDIA_TIMEOUT_SECS",
        "20",
        "seconds, 1 to 3600",
        "How long fetching a file from a URL takes at most; the time of the send counts too.",
    ),
    Setting::new(
        "MEDIA_URL_PRIVATE",
        "allow",
        "allow or deny",
        "Whether media URLs may lead to private addresses, loopback among them. Link-local and cloud metadata addresses never may.",
    ),
    Setting::new(
        "CHECK_NUMBERS",
        "true",
        "true or false",
        "Look up whether a number has WhatsApp before sending to it; the answer is remembered for a while.",
    ),
    // Clients wait 10 s for a start, and 30 s for a send.
    Setting::new(
        "START_TIMEOUT_SECS",
        "8",
        "seconds, 1 to 50",
        "How long a start waits for a QR or the connection before it answers 504; the start itself goes on.",
    ),
    Setting::new(
        "SEND_TIMEOUT_SECS",
        "25",
        "seconds, 1 to 50",
        "How long a send takes at most, typing included, before it answers 504.",
    ),
    // whatsmeow: the first QR of a connection lives 60 s, the later ones 20 s. Whoever shows the codes to somebody asks
    // at least once in the life of the longest; two of them leave room for a slow one.
    Setting::new(
        "QR_IDLE_SECS",
        "120",
        "seconds, 1 to 86400",
        "How long an unscanned session gets fresh QR codes after the last time somebody asked for one.",
    ),
    Setting::new(
        "RESTORE_CONCURRENCY",
        "8",
        "sessions, 1 to 1024",
        "How many stored sessions connect at the same time after a start.",
    ),
    Setting::new(
        "SENT_MAX_COUNT",
        "50000",
        "messages, 100 to 10000000",
        "Of how many sent messages of each session the state is kept; the oldest go first, some 2,000 later.",
    ),
    Setting::new("SENT_MAX_AGE_HOURS", "168", "hours, 1 to 8760", "How long the state of a sent message is kept."),
    Setting::new(
        "IDEMPOTENCY_MAX_COUNT",
        "50000",
        "keys, 100 to 10000000",
        "How many idempotency keys of each session are kept, for 24 hours each; the oldest go first.",
    ),
    Setting::new(
        "WATCHDOG_SECS",
        "30",
        "seconds, 1 to 300",
        "How long a session may be shown as connected while nothing comes from WhatsApp, which is asked for a sign of life before; a login that is not answered is given up after the same time.",
    ),
    Setting::new("LOG_FORMAT", "human", "human or json", "Form of the log lines."),
    Setting::new(
        "RUST_LOG",
        "off,wa_gateway=info",
        "filter",
        "Which log lines are written, by module. The libraries' own lines name phone numbers, so they are off; a release has theirs from info up.",
    ),
    Setting::new("NO_COLOR", "", "any text", "Set to anything: no colours in the log."),
    Setting::new(
        "WHATSAPP_VERSION",
        "",
        "version 2.3000.N",
        "WhatsApp Web version to announce. Empty: the built-in one, refreshed daily.",
    ),
    Setting::new(
        "WHATSAPP_WS_URL",
        "",
        "ws(s) URL",
        "Only in a build with the cargo feature `simulator`, and required there: the loopback server to dial.",
    ),
    Setting::new(
        "WHATSAPP_MEDIA_URL",
        "",
        "http(s) URL",
        "Only in a build with the cargo feature `simulator`: loopback base URL that stands in for the media hosts.",
    ),
    Setting::new(
        "WHATSAPP_TLS_ROOT",
        "",
        "PEM file",
        "Only in a build with the cargo feature `simulator`: root certificate for a `wss` server.",
    ),
];

/// The text of `.env.example`.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Every setting of wa-gateway with its default. Copy this file to `.env` and change what you need;\n\
         # variables of the environment win over the file. Printed from src/config/setting.rs and tested against it.\n\
         #\n\
         # The file is read as Node's dotenv reads it: `$` stands for itself, and a value goes on to a `#` or the end of its\n\
         # line. In quotes ('...', \"...\" or `...`) it may hold both; in double ones `\\n` is the end of a line. Docker compose\n\
         # reads it by rules of its own, where `$name` is replaced and `#` needs a space before it: put what has either in\n\
         # single quotes, which both read alike.\n",
    );
    for Setting { name, default, unit, effect } in SETTINGS {
        let shown = if default.is_empty() { "none" } else { default };
        writeln!(text, "\n# {effect}\n# Value: {unit}. Default: {shown}.\n{name}={default}")
            .expect("a String takes every write");
    }
    text
}

/// The README's table of settings in Markdown.
pub fn settings_table() -> String {
    let mut text = String::from("| Variable | Default | Value | Effect |\n| --- | --- | --- | --- |\n");
    for Setting { name, default, unit, effect } in SETTINGS {
        let shown = if default.is_empty() { String::from("none") } else { format!("`{default}`") };
        writeln!(text, "| `{name}` | {shown} | {unit} | {effect} |").expect("a String takes every write");
    }
    text
}
