//! The dashboard's pages as HTML. Everything that comes from outside is escaped by the templates.
//!
//! A page is a shell around one body. Pages hold no script of their own: the content security policy forbids it.

use askama::Template;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;

use super::words::Words;
use crate::event::Status;
use crate::http::auth::Login;
use crate::http::error::ApiError;
use crate::session::SessionSummary;

/// Nothing from elsewhere, no frame around it, nothing kept by the browser. With the policy `no-referrer` browsers would
/// say that our own forms come from nowhere.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_TYPE, "text/html; charset=UTF-8"),
    (header::CACHE_CONTROL, "no-store"),
    (header::VARY, "Accept-Language, Cookie"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Login,
    Overview,
    Sessions,
    Create,
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r##"<!doctype html>
<html lang="{{ t.lang }}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/assets/style.css">
{% if place == Place::Create %}<script src="/assets/js/qrcode.min.js" defer></script>
<script src="/assets/js/create-session.js" defer></script>
{% endif %}<script src="/assets/js/script.js" defer></script>
</head>
<body>
{% if let Some(login) = login %}<a class="skip" href="#main">{{ t.skip }}</a>
<header class="top">
<div class="bar">
<a class="brand" href="/dashboard"><svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true"><rect width="32" height="32" rx="9" class="brand-back"/><path d="M9 10.5h14a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-7.5L11 25v-3.5H9a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2z" class="brand-front"/></svg><span>WA Gateway</span></a>
<nav aria-label="{{ t.main_menu }}">
<a href="/dashboard"{% if place == Place::Overview %} aria-current="page"{% endif %}>{{ t.overview }}</a>
<a href="/dashboard/sessions"{% if place == Place::Sessions %} aria-current="page"{% else if place == Place::Create %} aria-current="true"{% endif %}>{{ t.sessions }}</a>
</nav>
{% if !login.is_open %}<form class="sign-out" action="/auth/logout" method="post"><input type="hidden" name="csrf" value="{{ login.form_token() }}"><button class="button quiet" type="submit">{{ t.sign_out }}</button></form>
{% endif %}</div>
</header>
{% endif %}<main id="main" tabindex="-1"{% if place == Place::Login %} class="centre"{% endif %}>
{{ body|safe }}
</main>
<footer class="foot"><a href="https://github.com/mimamch/wa-gateway" rel="noreferrer">{{ t.compatible }}</a></footer>
<div id="toasts" role="status" aria-live="polite"></div>
<div id="words" hidden data-copied="{{ t.copied }}" data-sending="{{ t.sending }}" data-sent="{{ t.sent }}" data-deleted="{{ t.deleted }}" data-failed="{{ t.failed }}" data-offline="{{ t.offline }}" data-starting="{{ t.starting }}" data-connected="{{ t.connected }}" data-connecting="{{ t.connecting }}" data-disconnected="{{ t.disconnected }}"></div>
</body>
</html>
"##
)]
struct Shell<'a> {
    t: &'static Words,
    title: &'a str,
    place: Place,
    login: Option<&'a Login>,
    body: &'a str,
}

fn page(t: &'static Words, place: Place, login: Option<&Login>, body: &impl Template) -> Result<Response, ApiError> {
    let title = match place {
        Place::Login => t.title_login,
        Place::Overview => t.title_dashboard,
        Place::Sessions | Place::Create => t.title_sessions,
    };
    let body = body.render().map_err(ApiError::internal)?;
    let shell = Shell { t, title, place, login, body: &body };
    let mut response = shell.render().map_err(ApiError::internal)?.into_response();
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<section class="card login" aria-labelledby="login-heading">
<svg viewBox="0 0 32 32" width="48" height="48" aria-hidden="true"><rect width="32" height="32" rx="9" class="brand-back"/><path d="M9 10.5h14a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-7.5L11 25v-3.5H9a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2z" class="brand-front"/></svg>
<h1 id="login-heading">WA Gateway</h1>
<p class="lead">{{ t.login_lead }}</p>
<form action="" method="post">
<div class="field">
<label for="password">{{ t.login_key }}</label>
<input id="password" name="password" type="password" autocomplete="current-password" autofocus aria-describedby="{% if error.is_some() %}login-error {% endif %}login-hint"{% if error.is_some() %} aria-invalid="true"{% endif %}>
{% if let Some(error) = error %}<p id="login-error" class="error" role="alert">{{ error }}</p>
{% endif %}<p id="login-hint" class="hint">{{ t.login_hint }}</p>
</div>
<button class="button primary wide" type="submit">{{ t.login_button }}</button>
</form>
</section>"#
)]
struct LoginBody {
    t: &'static Words,
    error: Option<&'static str>,
}

/// The page of `/auth/login`.
pub(in crate::http) fn login(t: &'static Words, error: Option<&'static str>) -> Result<Response, ApiError> {
    page(t, Place::Login, None, &LoginBody { t, error })
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<div class="page-head">
<div><h1>{{ t.overview_heading }}</h1>
<p class="lead">{{ t.overview_lead }}</p></div>
</div>
<dl class="tiles">
<div class="card tile connected"><dt><span class="dot"></span>{{ t.connected }}</dt><dd>{{ connected }}</dd></div>
<div class="card tile connecting"><dt><span class="dot"></span>{{ t.connecting }}</dt><dd>{{ connecting }}</dd></div>
<div class="card tile disconnected"><dt><span class="dot"></span>{{ t.disconnected }}</dt><dd>{{ disconnected }}</dd></div>
</dl>
<a class="card go" href="/dashboard/sessions">
<span><strong>{{ t.manage }}</strong><span class="lead">{{ t.manage_lead }}</span></span>
<svg viewBox="0 0 24 24" width="24" height="24" aria-hidden="true" class="arrow"><path d="M5 12h13M13 6l6 6-6 6"/></svg>
</a>"#
)]
struct OverviewBody {
    t: &'static Words,
    connected: usize,
    connecting: usize,
    disconnected: usize,
}

/// The page of `/dashboard`.
pub(super) fn overview(t: &'static Words, login: &Login, sessions: &[SessionSummary]) -> Result<Response, ApiError> {
    let count = |status| sessions.iter().filter(|session| session.status == status).count();
    let (connected, connecting) = (count(Status::Connected), count(Status::Connecting));
    let body = OverviewBody { t, connected, connecting, disconnected: count(Status::Disconnected) };
    page(t, Place::Overview, Some(login), &body)
}

/// One session as a card or a page shows it.
struct Card<'a> {
    id: &'a str,
    status: Status,
    state: &'static str,
    name: &'a str,
    number: &'a str,
    /// As JavaScript parses it.
    since: String,
}

impl<'a> Card<'a> {
    fn new(session: &'a SessionSummary) -> Self {
        let details = session.details.as_ref();
        Self {
            id: session.session.as_str(),
            status: session.status,
            state: session.standing.state,
            name: details.map_or("", |details| &details.name),
            number: details.map_or("", |details| &details.phone_number),
            since: session.since.to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }

    /// Whether a start connects it without a scan.
    fn is_stopped(&self) -> bool {
        self.state == "stopped" && !self.number.is_empty()
    }

    fn is_connected(&self) -> bool {
        self.status == Status::Connected
    }

    fn word(&self, t: &'static Words) -> &'static str {
        match self.status {
            Status::Connected => t.connected,
            Status::Connecting => t.connecting,
            Status::Disconnected => t.disconnected,
        }
    }

    fn capitals(&self) -> String {
        self.status.as_str().to_ascii_uppercase()
    }
}

// Contract section 8 and golden.json: relative links, `data-session`, `data-copy` and `data-delete` on every card, and
// the status in capitals.
#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<div class="page-head">
<div><h1>{{ t.sessions_heading }}</h1>
<p class="lead">{{ t.sessions_lead }}</p></div>
</div>
<ul id="sessions" class="grid" data-csrf="{{ csrf }}">
<li class="card new{% if sessions.is_empty() %} alone{% endif %}"><a href="sessions/create?id={{ new_id }}">
<svg viewBox="0 0 24 24" width="28" height="28" aria-hidden="true" class="arrow"><path d="M12 5v14M5 12h14"/></svg>
{% if sessions.is_empty() %}<strong>{{ t.empty_heading }}</strong><span class="lead">{{ t.empty_lead }}</span><span class="button primary">{{ t.create }}</span>
{% else %}<strong>{{ t.create }}</strong><span class="lead">{{ t.create_lead }}</span>
{% endif %}</a></li>
{% for session in sessions %}<li class="card session" data-card="{{ session.id }}" data-status="{{ session.status.as_str() }}">
<div class="card-head">
<h2>{{ session.id }}</h2>
<button class="button icon" type="button" data-copy="{{ session.id }}" aria-label="{{ t.copy }}: {{ session.id }}" title="{{ t.copy }}"><svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true"><rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5 15V6a2 2 0 0 1 2-2h8"/></svg></button>
</div>
<p class="pill {{ session.status.as_str() }}" title="Status: {{ session.capitals() }}"><span class="dot"></span><span data-word>{{ session.word(t) }}</span></p>
<dl class="facts">
{% if session.name.is_empty() && session.number.is_empty() %}<div><dt>{{ t.number }}</dt><dd class="faint">{{ t.unknown }}</dd></div>
{% else %}<div><dt>{{ t.name }}</dt><dd>{{ session.name }}</dd></div>
<div><dt>{{ t.number }}</dt><dd class="digits">{% if !session.number.is_empty() %}+{{ session.number }}{% endif %}</dd></div>
{% endif %}<div><dt>{{ t.since }}</dt><dd><time datetime="{{ session.since }}">{{ session.since }}</time></dd></div>
</dl>
<div class="actions">
{% if session.is_stopped() %}<form action="/dashboard/sessions/create" method="post"><input type="hidden" name="csrf" value="{{ csrf }}"><input type="hidden" name="id" value="{{ session.id }}"><button class="button primary" type="submit" data-start>{{ t.start }}<span class="visually-hidden">: {{ session.id }}</span></button></form>
{% else if !session.is_connected() %}<a class="button primary" href="sessions/create?id={{ session.id|urlencode_strict }}">{% if session.number.is_empty() || session.status == Status::Disconnected %}{{ t.show_qr }}{% else %}{{ t.follow }}{% endif %}<span class="visually-hidden">: {{ session.id }}</span></a>
{% endif %}<button class="button primary" type="button" data-session="{{ session.id }}"{% if !session.is_connected() %} disabled hidden{% endif %}>{{ t.send }}<span class="visually-hidden">: {{ session.id }}</span></button>
{% if session.status != Status::Disconnected %}<form action="/dashboard/sessions/stop" method="post"><input type="hidden" name="csrf" value="{{ csrf }}"><input type="hidden" name="id" value="{{ session.id }}"><button class="button quiet" type="submit" data-stop>{{ t.stop }}<span class="visually-hidden">: {{ session.id }}</span></button></form>
{% endif %}<button class="button danger" type="button" data-delete="{{ session.id }}">{{ t.delete }}<span class="visually-hidden">: {{ session.id }}</span></button>
</div>
</li>
{% endfor %}</ul>
<noscript><p class="notice">{{ t.no_script }}</p></noscript>
<dialog id="send-text" aria-labelledby="send-heading">
<form method="dialog">
<h2 id="send-heading">{{ t.send }}</h2>
<p class="lead" data-of></p>
<div class="field"><label for="send-to">{{ t.to }}</label>
<input id="send-to" name="to" type="text" inputmode="tel" autocomplete="off" aria-describedby="send-to-hint" required>
<p id="send-to-hint" class="hint">{{ t.to_hint }}</p></div>
<div class="field"><label for="send-message">{{ t.message }}</label>
<textarea id="send-message" name="message" rows="4" aria-describedby="send-error" required></textarea></div>
<p id="send-error" class="error" role="alert"></p>
<div class="actions"><button class="button quiet" type="button" data-close>{{ t.cancel }}</button><button class="button primary" type="submit" data-submit>{{ t.send_button }}</button></div>
</form>
</dialog>
<dialog id="delete-session" aria-labelledby="delete-heading" aria-describedby="delete-lead">
<form method="dialog">
<h2 id="delete-heading">{{ t.delete_heading }}</h2>
<p class="of" data-of></p>
<p class="lead" id="delete-lead">{{ t.delete_lead }}</p>
<p id="delete-error" class="error" role="alert"></p>
<div class="actions"><button class="button quiet" type="button" data-close>{{ t.cancel }}</button><button class="button danger filled" type="submit" data-submit>{{ t.delete_button }}</button></div>
</form>
</dialog>"#
)]
struct SessionsBody<'a> {
    t: &'static Words,
    csrf: &'a str,
    new_id: &'a str,
    sessions: Vec<Card<'a>>,
}

/// The page of `/dashboard/sessions`; `new_id` is the name that the next session is offered.
pub(super) fn sessions(
    t: &'static Words,
    login: &Login,
    new_id: &str,
    sessions: &[SessionSummary],
) -> Result<Response, ApiError> {
    let sessions = sessions.iter().map(Card::new).collect();
    let body = SessionsBody { t, csrf: login.form_token(), new_id, sessions };
    page(t, Place::Sessions, Some(login), &body)
}

// golden.json: the ids `status`, `redirecting` and `qr`.
#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<div class="page-head">
<div><p class="crumb"><a href="/dashboard/sessions">{{ t.back }}</a></p>
<h1>{{ t.create_heading }}</h1></div>
</div>
<section class="card link" id="link" data-id="{{ id }}" data-state="{% if let Some(session) = session %}{{ session.status.as_str() }}{% else %}new{% endif %}" data-waiting="{{ t.state_waiting }}" data-pending="{{ t.state_pending }}" data-connecting="{{ t.state_connecting }}" data-connected="{{ t.state_connected }}" data-disconnected="{{ t.state_disconnected }}" data-label="{{ t.qr_label }}">
<div class="side">
<div class="live"{% if session.is_none() %} hidden{% endif %}>
<p class="of">{{ id }}</p>
<p id="status" role="status" aria-live="polite">{% if let Some(session) = session %}{% if session.is_connected() %}{{ t.state_connected }}{% else if session.status == Status::Connecting %}{{ t.state_waiting }}{% else %}{{ t.state_disconnected }}{% endif %}{% endif %}</p>
<div id="qr"></div>
<p id="redirecting" hidden>{{ t.linked }} <a class="button primary" href="/dashboard/sessions">{{ t.back }}</a></p>
<p class="hint renews" hidden>{{ t.renews }}</p>
</div>
<form action="/dashboard/sessions/create" method="post"{% if let Some(session) = session %}{% if session.status != Status::Disconnected %} hidden{% endif %}{% endif %}>
<input type="hidden" name="csrf" value="{{ csrf }}">
{% if session.is_some() %}<input type="hidden" name="id" value="{{ id }}">
<p class="lead">{{ t.stopped }}</p>
{% else %}<div class="field"><label for="id">{{ t.create_name }}</label>
<input id="id" name="id" value="{{ id }}" autocomplete="off" autocapitalize="none" spellcheck="false" required maxlength="256" aria-describedby="{% if error.is_some() %}id-error {% endif %}id-hint"{% if error.is_some() %} aria-invalid="true"{% endif %}>
<p class="hint" id="id-hint">{{ t.create_hint }}</p></div>
{% endif %}{% if let Some(error) = error %}<p class="error" id="id-error" role="alert">{{ error }}</p>
{% endif %}<button class="button primary wide" type="submit">{% if let Some(session) = session && session.is_stopped() %}{{ t.start }}{% else %}{{ t.show_qr }}{% endif %}</button>
</form>
</div>
<div class="steps"{% if let Some(session) = session %}{% if session.is_connected() %} hidden{% endif %}{% endif %}>
<h2>{{ t.steps_heading }}</h2>
<ol><li>{{ t.step_open }}</li><li>{{ t.step_menu }}</li><li>{{ t.step_scan }}</li></ol>
</div>
<noscript><p class="notice">{{ t.no_script }}</p></noscript>
</section>"#
)]
struct CreateBody<'a> {
    t: &'static Words,
    csrf: &'a str,
    id: &'a str,
    session: Option<Card<'a>>,
    error: Option<&'static str>,
}

/// The page of `/dashboard/sessions/create` for a new name, or for a session that is there.
pub(super) fn create(
    t: &'static Words,
    login: &Login,
    id: &str,
    session: Option<&SessionSummary>,
    error: Option<&'static str>,
) -> Result<Response, ApiError> {
    let session = session.map(Card::new);
    page(t, Place::Create, Some(login), &CreateBody { t, csrf: login.form_token(), id, session, error })
}
