//! Every setting: its default, what it takes, what it refuses.

use super::*;
use secrecy::ExposeSecret as _;

fn vars(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn plain(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::check(vars(pairs), Vec::new(), false)
}

fn simulated(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::check(vars(pairs), Vec::new(), true)
}

fn refused(result: Result<Config, ConfigError>) -> Vec<String> {
    result.unwrap_err().problems.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn defaults_hold_for_unset_and_for_empty() {
    let empty: Vec<_> = SETTINGS.iter().map(|setting| (setting.name, "")).filter(|(name, _)| *name != "PORT").collect();
    for config in [plain(&[]).unwrap(), plain(&empty).unwrap()] {
        assert!(matches!(config.key, KeySetting::Generated));
        assert_eq!((config.host.to_string().as_str(), config.port), ("::", 5001));
        assert_eq!(config.webhook_base_url, None);
        assert_eq!(config.webhook_events, WebhookEvents { message: true, session: true, ack: false });
        let hours = |hours: u64| Duration::from_hours(hours);
        let delivery = Delivery {
            timeout: Duration::from_secs(15),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_mins(5),
            retry_for: hours(72),
            max_per_sec: 1_000,
            url_private: true,
            outbox_max_bytes: 1 << 30,
            outbox_max_age: hours(7 * 24),
            dead_max_count: 10_000,
            dead_max_bytes: 64 << 20,
            dead_max_age: hours(30 * 24),
        };
        assert_eq!(config.delivery, delivery);
        assert!(config.redis_url.is_none() && !config.redis_allow_no_aof);
        assert!(!config.development && config.check_numbers && config.color);
        assert_eq!(config.credentials_dir, Path::new("./wa_credentials"));
        assert_eq!(config.media_dir, Path::new("./media"));
        assert!(!config.takeover_force);
        assert_eq!(config.media_max_bytes, 100 * 1024 * 1024);
        assert_eq!((config.media_timeout, config.media_url_private), (Duration::from_secs(20), true));
        assert_eq!(config.start_timeout, Duration::from_secs(8));
        assert_eq!(config.send_timeout, Duration::from_secs(25));
        assert_eq!(config.qr_idle, Duration::from_mins(2));
        assert_eq!(config.restore_concurrency, 8);
        assert_eq!((config.sent_max_count, config.sent_max_age), (50_000, Duration::from_hours(168)));
        assert_eq!(config.idempotency_max_count, 50_000);
        assert_eq!(config.log_format, LogFormat::Human);
        assert_eq!(config.log_filter, "off,wa_gateway=info");
        assert_eq!((config.whatsapp_version, config.simulator), (None, None));
    }
}

#[test]
fn every_setting_is_taken() {
    let config = plain(&[
        ("KEY", "secret"),
        ("PORT", " 5015 "),
        ("HOST", "::1"),
        ("WEBHOOK_BASE_URL", "http://bot:3000"),
        ("WEBHOOK_EVENTS", "Ack, message"),
        ("WEBHOOK_TIMEOUT_SECS", "2"),
        ("WEBHOOK_RETRY_FIRST_MS", "50"),
        ("WEBHOOK_RETRY_MAX_SECS", "3"),
        ("WEBHOOK_RETRY_FOR_SECS", "4"),
        ("WEBHOOK_MAX_PER_SEC", "5"),
        ("WEBHOOK_URL_PRIVATE", "deny"),
        ("OUTBOX_MAX_BYTES", "6000"),
        ("OUTBOX_MAX_AGE_SECS", "7"),
        ("DEAD_MAX_COUNT", "8"),
        ("DEAD_MAX_BYTES", "9"),
        ("DEAD_MAX_AGE_SECS", "10"),
        ("REDIS_URL", "rediss://user:pass@redis:6380/2"),
        ("REDIS_ALLOW_NO_AOF", "yes"),
        ("REDIS_TLS_ROOT", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
        ("NODE_ENV", "development"),
        ("CREDENTIALS_DIR", "/data/c"),
        ("TAKEOVER_FORCE", "1"),
        ("MEDIA_DIR", "/data/m"),
        ("MEDIA_MAX_BYTES", "2048"),
        ("MEDIA_TIMEOUT_SECS", "5"),
        ("MEDIA_URL_PRIVATE", "Deny"),
        ("CHECK_NUMBERS", "No"),
        ("START_TIMEOUT_SECS", "1"),
        ("SEND_TIMEOUT_SECS", "50"),
        ("QR_IDLE_SECS", "3"),
        ("RESTORE_CONCURRENCY", "2"),
        ("SENT_MAX_COUNT", "100"),
        ("SENT_MAX_AGE_HOURS", "24"),
        ("IDEMPOTENCY_MAX_COUNT", "200"),
        ("LOG_FORMAT", "JSON"),
        ("RUST_LOG", "debug"),
        ("NO_COLOR", "1"),
        ("WHATSAPP_VERSION", "2.3000.1023456789"),
    ])
    .unwrap();
    let KeySetting::Given(key) = &config.key else { panic!("{:?}", config.key) };
    assert_eq!(key.expose_secret(), "secret");
    assert_eq!((config.host.to_string().as_str(), config.port), ("::1", 5015));
    assert_eq!(config.webhook_base_url.unwrap().as_str(), "http://bot:3000/");
    assert_eq!(config.webhook_events, WebhookEvents { message: true, session: false, ack: true });
    let delivery = Delivery {
        timeout: Duration::from_secs(2),
        retry_first: Duration::from_millis(50),
        retry_max: Duration::from_secs(3),
        retry_for: Duration::from_secs(4),
        max_per_sec: 5,
        url_private: false,
        outbox_max_bytes: 6_000,
        outbox_max_age: Duration::from_secs(7),
        dead_max_count: 8,
        dead_max_bytes: 9,
        dead_max_age: Duration::from_secs(10),
    };
    assert_eq!(config.delivery, delivery);
    assert_eq!(config.redis_url.unwrap().expose_secret(), "rediss://user:pass@redis:6380/2");
    assert!(config.redis_allow_no_aof && config.redis_tls_root.is_some());
    assert!(config.development && !config.check_numbers && !config.color);
    assert!(config.takeover_force);
    assert_eq!((config.credentials_dir, config.media_dir), ("/data/c".into(), "/data/m".into()));
    assert_eq!((config.media_max_bytes, config.media_timeout.as_secs(), config.media_url_private), (2048, 5, false));
    assert_eq!(config.start_timeout, Duration::from_secs(1));
    assert_eq!(config.send_timeout, Duration::from_secs(50));
    assert_eq!(config.qr_idle, Duration::from_secs(3));
    assert_eq!(config.restore_concurrency, 2);
    assert_eq!((config.sent_max_count, config.sent_max_age), (100, Duration::from_hours(24)));
    assert_eq!(config.idempotency_max_count, 200);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.log_filter, "debug");
    assert_eq!(config.whatsapp_version, Some((2, 3000, 1_023_456_789)));
}

#[test]
fn all_problems_are_told_at_once_and_no_secret_with_them() {
    let error = plain(&[
        ("PORT", "70000"),
        ("HOST", "example.com"),
        ("WEBHOOK_BASE_URL", "ftp://user:hunter2@host"),
        ("WEBHOOK_EVENTS", "message,acks"),
        ("REDIS_URL", "https://:hunter2@host"),
        ("REDIS_ALLOW_NO_AOF", "perhaps"),
        ("REDIS_TLS_ROOT", "/nope"),
        ("ALLOW_NO_KEY", "maybe"),
        ("MEDIA_MAX_BYTES", "1023"),
        ("MEDIA_TIMEOUT_SECS", "0"),
        ("MEDIA_URL_PRIVATE", "sometimes"),
        ("CHECK_NUMBERS", "2"),
        ("START_TIMEOUT_SECS", "0"),
        ("SEND_TIMEOUT_SECS", "51"),
        ("QR_IDLE_SECS", "-1"),
        ("RESTORE_CONCURRENCY", "many"),
        ("SENT_MAX_COUNT", "99"),
        ("SENT_MAX_AGE_HOURS", "0"),
        ("IDEMPOTENCY_MAX_COUNT", "x"),
        ("LOG_FORMAT", "xml"),
        ("WHATSAPP_VERSION", "2.3000"),
        ("WHATSAPP_WS_URL", "ws://127.0.0.1:1/ws/chat"),
        ("WHATSAPP_MEDIA_URL", "http://127.0.0.1:1"),
        ("WHATSAPP_TLS_ROOT", "/nope"),
    ])
    .unwrap_err();
    let text = error.to_string();
    assert_eq!(error.problems.len(), 24, "{text}");
    for (name, _) in &error.problems {
        assert!(text.contains(&format!("\n  {name}: ")), "{text}");
    }
    assert!(text.contains("redis:// or rediss://") && !text.contains("hunter2"), "{text}");
}

#[test]
fn an_empty_port_is_a_random_one() {
    for value in ["", "  ", "0"] {
        assert_eq!(plain(&[("PORT", value)]).unwrap().port, 0);
    }
    for value in ["abc", "65536", "-1", "5001.0"] {
        assert_eq!(refused(plain(&[("PORT", value)])), ["PORT"]);
    }
}

#[test]
fn an_empty_key_is_open_only_when_allowed() {
    for (key, allow, open) in
        [("", "true", true), ("", "1", true), ("  ", "YES", true), ("", "false", false), ("", "", false)]
    {
        let config = plain(&[("KEY", key), ("ALLOW_NO_KEY", allow)]).unwrap();
        assert_eq!(matches!(config.key, KeySetting::Open), open, "{key:?} {allow:?}");
        assert_eq!(matches!(config.key, KeySetting::Generated), !open, "{key:?} {allow:?}");
    }
    let config = plain(&[("KEY", "secret"), ("ALLOW_NO_KEY", "true")]).unwrap();
    assert!(matches!(config.key, KeySetting::Given(_)), "a given key is always asked for");
}

#[test]
fn any_environment_but_development_is_production() {
    for (value, development) in [("development", true), ("production", false), ("", false), ("test", false)] {
        assert_eq!(plain(&[("NODE_ENV", value)]).unwrap().development, development, "{value:?}");
    }
}

#[test]
fn a_simulator_build_takes_loopback_addresses_only() {
    for good in ["ws://127.0.0.1:7001/ws/chat", "wss://localhost:1/", "ws://[::1]:7001/ws/chat", "ws://127.9.9.9/"] {
        let config = simulated(&[("WHATSAPP_WS_URL", good)]).unwrap();
        assert_eq!(config.simulator.unwrap().ws_url, good.parse().unwrap());
    }
    let config = simulated(&[("WHATSAPP_WS_URL", "ws://127.0.0.1:7001")]).unwrap();
    let whole = "ws://127.0.0.1:7001/ws/chat".parse().unwrap();
    assert_eq!(config.simulator.unwrap().ws_url, whole, "without any path it is WhatsApp's own");
    for bad in [
        "wss://web.whatsapp.com/ws/chat",
        "ws://localhost.example.com/",
        "ws://127.0.0.1.example.com/",
        "ws://10.0.0.1/",
        "ws://[::ffff:8.8.8.8]/",
        "ws://user@example.com/",
        "ws://127.0.0.1@example.com/",
        "http://127.0.0.1/",
        "not a url",
    ] {
        assert_eq!(refused(simulated(&[("WHATSAPP_WS_URL", bad)])), ["WHATSAPP_WS_URL"], "{bad}");
    }
    let ws = ("WHATSAPP_WS_URL", "ws://127.0.0.1:7001/ws/chat");
    assert_eq!(refused(simulated(&[ws, ("WHATSAPP_MEDIA_URL", "https://mmg.whatsapp.net")])), ["WHATSAPP_MEDIA_URL"]);
    assert_eq!(refused(simulated(&[ws, ("WHATSAPP_TLS_ROOT", "/does/not/exist")])), ["WHATSAPP_TLS_ROOT"]);
    assert_eq!(refused(simulated(&[])), ["WHATSAPP_WS_URL"], "such a build never dials WhatsApp");
}

#[test]
fn debug_shows_no_key() {
    let config = plain(&[("KEY", "hunter2"), ("REDIS_URL", "redis://:hunter2@host")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_example_file_is_the_table_of_settings() {
    let example = include_str!("../../.env.example");
    assert_eq!(example, env_example(), "print .env.example anew from src/config/setting.rs");
    let parsed = dotenv::parse(example);
    let expected: Vec<_> = SETTINGS.iter().map(|s| (s.name.to_owned(), s.default.to_owned())).collect();
    assert_eq!(parsed, expected);
    plain(&[]).unwrap();
    Config::check(parsed.into_iter().collect(), Vec::new(), false).unwrap();
}

#[test]
fn every_variable_that_is_read_stands_in_the_table() {
    let source = concat!(include_str!("../config.rs"), include_str!("delivery.rs"));
    let read = source.match_indices("(\"").filter_map(|(at, _)| source[at + 2..].split('"').next());
    let mut seen = 0;
    for name in read.filter(|name| name.len() > 2 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')) {
        assert!(SETTINGS.iter().any(|setting| setting.name == name), "{name} is not in the table");
        seen += 1;
    }
    assert!(seen >= SETTINGS.len() - 3, "only {seen} reads were found");
    for setting in SETTINGS {
        assert!(source.contains(&format!("\"{}\"", setting.name)), "{} is never read", setting.name);
        assert!(settings_table().contains(&format!("| `{}` |", setting.name)));
    }
}

#[test]
fn the_readme_holds_the_table() {
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&settings_table()), "print the README's table anew:\n{}", settings_table());
}

#[test]
fn the_readme_in_indonesian_holds_every_setting_with_its_default() {
    let readme = include_str!("../../README.id.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let is_name = |name: &str| name.len() > 2 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let told: Vec<_> = rows
        .filter(|(name, _)| is_name(name))
        .map(|(name, rest)| (name, rest.split(" |").next().unwrap().trim_matches('`')))
        .collect();
    let nothing = |default: &'static str| if default.is_empty() { "tidak ada" } else { default };
    let expected: Vec<_> = SETTINGS.iter().map(|setting| (setting.name, nothing(setting.default))).collect();
    assert_eq!(told, expected);
}

#[test]
fn the_container_gets_every_setting_that_is_not_its_own() {
    const ITS_OWN: &[&str] = &["PORT", "HOST", "CREDENTIALS_DIR", "MEDIA_DIR", "BACKUP_PASSPHRASE"];
    let compose = include_str!("../../docker-compose.yaml");
    let (_, list) = compose.split_once("    environment:\n").unwrap();
    let passed: Vec<_> = list.lines().map_while(|line| line.strip_prefix("      - ")).collect();
    let is_real =
        |setting: &&Setting| !setting.effect.starts_with("Only in a build with the cargo feature `simulator`");
    let expected: Vec<_> = SETTINGS.iter().filter(is_real).map(|setting| setting.name).collect();
    let expected: Vec<_> = expected.into_iter().filter(|name| !ITS_OWN.contains(name)).collect();
    assert_eq!(passed, expected);
}

#[test]
fn what_needs_no_key_is_told_where_it_is() {
    let security = include_str!("../../SECURITY.md");
    // The routes' own test holds which those are; these are the settings that change it.
    for setting in ["METRICS_PUBLIC=true", "MEDIA_REQUIRE_KEY=true", "ALLOW_NO_KEY=true"] {
        assert!(security.contains(setting), "SECURITY.md does not tell of {setting}");
    }
}
