//! The one table of routes and what is made of it: axum's router, the 405 answers, the list of endpoints.
//!
//! A handler can't be registered without a scope, and is reached through the guard only.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::auth::{Denied, Scope};
use super::error::ApiError;
use super::layer;
use super::{AppState, Shared};

/// One method on one path, as documents and tests want to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The path with `{…}` for its variable parts.
    pub path: &'static str,
    /// The method; HEAD stands beside every GET without effects.
    pub method: Method,
    /// What it asks of its caller.
    pub scope: Scope,
}

/// Every endpoint that a router of this state serves, in the order of the table.
pub fn endpoints(state: &AppState) -> Vec<Endpoint> {
    super::routes(&Arc::new(state.clone())).0.into_iter().flat_map(|route| route.endpoints).collect()
}

/// Puts one method's handler behind the guard, once the state is known.
type Guarded = Box<dyn FnOnce(&Shared) -> MethodRouter<Shared>>;

/// One path with its methods.
pub(super) struct Route {
    path: &'static str,
    endpoints: Vec<Endpoint>,
    methods: Vec<Guarded>,
    /// Other methods are answered as an unknown path.
    is_open_ended: bool,
}

impl Route {
    pub(super) fn new(path: &'static str) -> Self {
        Self { path, endpoints: Vec::new(), methods: Vec::new(), is_open_ended: false }
    }

    /// A GET without effects; HEAD is answered by the same handler.
    pub(super) fn get<H: Handler<T, Shared>, T: 'static>(self, scope: Scope, handler: H) -> Self {
        self.on(Method::GET, scope, handler.clone()).on(Method::HEAD, scope, handler)
    }

    /// A GET that changes something: HEAD is refused as any method that is not in the table.
    pub(super) fn get_with_effect<H: Handler<T, Shared>, T: 'static>(self, scope: Scope, handler: H) -> Self {
        self.on(Method::GET, scope, handler)
    }

    /// Any one method.
    pub(super) fn on<H: Handler<T, Shared>, T: 'static>(mut self, method: Method, scope: Scope, handler: H) -> Self {
        let path = self.path;
        let filter = MethodFilter::try_from(method.clone()).expect("the table holds axum's methods only");
        self.endpoints.push(Endpoint { path, method, scope });
        self.methods.push(Box::new(move |state| {
            on(filter, handler)
                .route_layer(from_fn_with_state(Arc::new(Guard { state: Arc::clone(state), scope, path }), guard))
        }));
        self
    }

    /// The path takes any text: with other methods it is as unknown as it was without this route.
    pub(super) fn open_ended(mut self) -> Self {
        self.is_open_ended = true;
        self
    }

    fn into_method_router(self, state: &Shared) -> MethodRouter<Shared> {
        let allow: Vec<&str> = self.endpoints.iter().map(|endpoint| endpoint.method.as_str()).collect();
        let (path, is_open_ended) = (self.path, self.is_open_ended);
        let allow = HeaderValue::from_str(&allow.join(", ")).expect("methods are tokens");
        let refuse = async move || {
            if is_open_ended {
                return ApiError::route_not_found().into_response();
            }
            tracing::Span::current().record("route", path);
            let mut response = ApiError::method_not_allowed().into_response();
            response.headers_mut().insert(header::ALLOW, allow);
            response
        };
        let mut router = MethodRouter::new();
        // axum answers HEAD by the GET handler unless HEAD has one of its own.
        if !self.endpoints.iter().any(|endpoint| endpoint.method == Method::HEAD) {
            router = router.head(refuse.clone());
        }
        for method in self.methods {
            router = router.merge(method(state));
        }
        router.fallback(refuse)
    }
}

/// The table.
pub(super) struct Routes(Vec<Route>, Shared);

impl Routes {
    pub(super) fn new(state: &Shared) -> Self {
        Self(Vec::new(), Arc::clone(state))
    }

    pub(super) fn add(mut self, route: Route) -> Self {
        self.0.push(route);
        self
    }

    pub(super) fn into_router(self) -> Router<Shared> {
        let state = self.1;
        self.0
            .into_iter()
            .fold(Router::new(), |router, route| router.route(route.path, route.into_method_router(&state)))
    }
}

struct Guard {
    state: Shared,
    scope: Scope,
    path: &'static str,
}

/// Lets a request through to its handler when its caller may.
async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    tracing::Span::current().record("route", guard.path);
    if guard.scope == Scope::Public {
        return next.run(request).await;
    }
    let auth = &guard.state.auth;
    let client = auth.client(request.extensions(), request.headers());
    if guard.scope == Scope::Dashboard {
        let Some(login) = auth.login(request.headers(), client).await else { return super::login::redirect() };
        request.extensions_mut().insert(login);
        return next.run(request).await;
    }
    match auth.principal(request.uri(), request.headers(), client) {
        Ok(principal) if principal.may(guard.scope) => {
            tracing::Span::current().record("key", principal.name());
            request.extensions_mut().insert(principal);
            let (request, _memory) = match guard.state.uploads.memory_for(request).await {
                Ok(held) => held,
                Err(error) => return error.into_response(),
            };
            layer::not_kept(next.run(request).await)
        }
        Ok(_) => ApiError::forbidden().into_response(),
        Err(Denied::Unknown) => ApiError::unauthorized().into_response(),
        Err(Denied::TooMany(wait)) => ApiError::too_many_wrong_keys(wait).into_response(),
    }
}
