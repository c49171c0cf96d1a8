//! The HTTP edge: the table of routes, the layers around it, and what handlers share.
//!
//! Built by `gateway`, which also runs [`serve()`]. Handlers parse, ask the session floor, and map the answer; they hold
//! no state of their own. An endpoint is one line of `routes` and one handler.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt as _;

use crate::backup::Backup;
use crate::health::Health;
use crate::session::SessionManager;

mod access;
mod asset;
mod auth;
mod body;
mod dashboard;
mod error;
mod extract;
mod files;
mod keys;
mod layer;
mod login;
mod message;
mod openapi;
mod operate;
mod page;
mod profile;
mod repeat;
mod route;
mod serve;
mod session;
mod upload;
mod webhook;

pub use access::{Guarded, Media};
pub use auth::{Auth, Scope};
pub use dashboard::Dashboard;
pub use route::{Endpoint, endpoints};
pub use serve::{Limits, Stop, serve};
pub use upload::Uploads;
pub use webhook::UrlRule;

use route::{Route, Routes};

/// What handlers and layers need.
#[derive(Clone, Debug)]
pub struct AppState {
    /// The live sessions; handlers reach them through `access::Sessions`.
    pub sessions: Guarded<SessionManager>,
    /// Who may call.
    pub auth: Auth,
    /// What the dashboard remembers.
    pub dashboard: Dashboard,
    /// How the gateway is.
    pub health: Health,
    /// Makes backups.
    pub backup: Backup,
    /// Whether the numbers are told without a key.
    pub metrics_public: bool,
    /// How files come in.
    pub uploads: Uploads,
    /// Where a session's own webhook may lead.
    pub webhook_urls: UrlRule,
    /// Whether answers of status 500 carry the inner error text.
    pub development: bool,
    /// Received files; served below `/media`, through `access::Files`.
    pub media: Guarded<Media>,
}

/// The same for all requests: a handler's own copy would be a dozen counted references.
type Shared = Arc<AppState>;

/// All routes: what is served, to whom, by which handler.
///
/// `get` answers HEAD too; `get_with_effect` does not, because HEAD must change nothing.
fn routes(state: &Shared) -> Routes {
    use Scope::{Admin, Dashboard, Manage, Public, Read, Send};
    let media = if access::media_require_key(state) { Read } else { Public };
    Routes::new(state)
        .add(Route::new("/health").get(Public, health))
        .add(Route::new("/livez").get(Public, operate::live))
        .add(Route::new("/readyz").get(Public, operate::ready))
        .add(Route::new("/metrics").get(if state.metrics_public { Public } else { Admin }, operate::metrics))
        .add(Route::new("/backup").on(Method::POST, Admin, operate::backup))
        .add(Route::new("/openapi.json").get(Public, openapi::serve))
        // wa-gateway 4.7.1 documents the answer to a missing id; clients build the path from an empty variable.
        .add(Route::new("/session").get(Read, session::list).on(Method::DELETE, Manage, session::missing_id))
        .add(Route::new("/session/").get(Read, session::missing_id).on(Method::DELETE, Manage, session::missing_id))
        .add(
            Route::new("/session/start")
                .get_with_effect(Manage, session::start_page)
                .on(Method::POST, Manage, session::start)
                .on(Method::DELETE, Manage, session::delete),
        )
        .add(Route::new("/session/stop").on(Method::POST, Manage, session::stop).on(
            Method::DELETE,
            Manage,
            session::delete,
        ))
        .add(
            Route::new("/session/logout")
                .get_with_effect(Manage, session::logout)
                .on(Method::POST, Manage, session::logout)
                .on(Method::PUT, Manage, session::logout)
                .on(Method::PATCH, Manage, session::logout)
                .on(Method::DELETE, Manage, session::logout),
        )
        .add(Route::new("/session/{session}").get(Read, session::detail).on(Method::DELETE, Manage, session::delete))
        .add(
            Route::new("/session/{session}/webhook").get(Read, webhook::show).on(Method::PUT, Manage, webhook::set).on(
                Method::DELETE,
                Manage,
                webhook::delete,
            ),
        )
        .add(Route::new("/session/{session}/export").on(Method::POST, Admin, operate::export))
        .add(Route::new("/webhook/dead").get(Read, webhook::dead))
        .add(Route::new("/webhook/replay").on(Method::POST, Manage, webhook::replay))
        .add(Route::new("/webhook/stats").get(Read, webhook::stats))
        .add(Route::new("/message/send-text").get_with_effect(Send, message::send_text).on(
            Method::POST,
            Send,
            message::send_text,
        ))
        .add(Route::new("/message/send-image").on(Method::POST, Send, message::send_image))
        .add(Route::new("/message/send-document").on(Method::POST, Send, message::send_document))
        .add(Route::new("/message/send-video").on(Method::POST, Send, message::send_video))
        .add(Route::new("/message/send-sticker").on(Method::POST, Send, message::send_sticker))
        .add(Route::new("/message/send-audio").on(Method::POST, Send, message::send_audio))
        .add(Route::new("/message/send-location").on(Method::POST, Send, message::send_location))
        .add(Route::new("/message/send-contact").on(Method::POST, Send, message::send_contact))
        .add(Route::new("/message/send-poll").on(Method::POST, Send, message::send_poll))
        .add(Route::new("/message/send-reaction").on(Method::POST, Send, message::send_reaction))
        .add(Route::new("/message/edit").on(Method::POST, Send, message::edit))
        .add(Route::new("/message/delete").on(Method::POST, Send, message::delete))
        .add(Route::new("/message/{id}").get(Read, message::progress).open_ended())
        .add(Route::new("/profile").on(Method::POST, Read, profile::profile))
        .add(Route::new("/keys").get(Admin, keys::list).on(Method::POST, Admin, keys::create))
        .add(Route::new("/keys/{name}").on(Method::DELETE, Admin, keys::delete))
        .add(Route::new("/media/{*name}").get(media, files::media))
        .add(Route::new("/assets/{*path}").get(Public, asset::file))
        .add(Route::new("/auth/login").get(Public, login::page).on(Method::POST, Public, login::sign_in))
        .add(Route::new("/auth/logout").on(Method::POST, Dashboard, login::sign_out))
        .add(Route::new("/").get(Dashboard, dashboard::home))
        .add(Route::new("/dashboard").get(Dashboard, dashboard::overview))
        .add(Route::new("/dashboard/sessions").get(Dashboard, dashboard::sessions))
        .add(Route::new("/dashboard/sessions/create").get(Dashboard, dashboard::create_page).on(
            Method::POST,
            Dashboard,
            dashboard::create,
        ))
        .add(Route::new("/dashboard/sessions/create/qr").get(Dashboard, dashboard::code))
        .add(Route::new("/dashboard/sessions/stop").on(Method::POST, Dashboard, dashboard::stop))
        .add(Route::new("/dashboard/sessions/delete").on(Method::POST, Dashboard, dashboard::delete))
        .add(Route::new("/dashboard/messages/send-text-api").on(Method::POST, Dashboard, dashboard::send_text))
}

/// The whole service: the routes within the layers. The first layer below is the innermost.
pub fn router(state: AppState) -> Router {
    if state.auth.is_open() {
        tracing::warn!(
            "ALLOW_NO_KEY is set: everybody who can reach the port, and every web page they open, drives the sessions"
        );
    }
    let development = state.development;
    let state = Shared::new(state);
    let table = routes(&state)
        .into_router()
        // axum's own limit of 2 MiB; each body is read within limits of ours.
        .layer(DefaultBodyLimit::disable())
        .fallback(dashboard::unknown)
        .with_state(state);
    within_layers(table, development)
}

/// The table within what happens to every request. Dot segments must go before the table chooses a route, so the layers are a
/// router of their own around it.
fn within_layers(table: Router, development: bool) -> Router {
    Router::new().fallback(move |request: Request| {
        let table = table.clone();
        // The innermost first; CORS is outside everything, so that refusals and panics carry it too.
        let routed = |request| async {
            table.oneshot(layer::without_dots(request)).await.unwrap_or_else(|never| match never {})
        };
        let timed = |request| layer::time_limit(request, routed);
        let limited = |request| layer::head_limit(request, timed);
        let guarded = |request| layer::guarded(request, limited);
        let caught = |request| layer::caught(request, guarded);
        let revealed = move |request| async move {
            let response = caught(request).await;
            if development { error::reveal(response) } else { response }
        };
        let observed = |request| layer::observe(request, revealed);
        layer::cors(request, observed)
    })
}

async fn health() -> Response {
    axum::Json(body::Health { status: "ok" }).into_response()
}

#[cfg(test)]
mod tests;
