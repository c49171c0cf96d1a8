//! Who calls: the API key of a request or the cookie of a browser, and what its holder may do.
//!
//! Called by the guard around every handler; handlers see the [`Principal`] or the [`Login`] only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Uri};
use chrono::Utc;
use subtle::ConstantTimeEq as _;

use super::Shared;
use super::error::ApiError;
use crate::keys::{self, Grant, KeyError, Keys, SessionSet};

mod attempts;
mod cookie;

pub(super) use cookie::Refused;

use attempts::{Attempts, Verdict};
use cookie::Logins;

/// Wrong keys of one address within a minute before it must wait: more than a person mistypes, too few to find any.
const MAX_WRONG_KEYS: usize = 20;

/// What an endpoint asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: no key is looked at.
    Public,
    /// To see sessions.
    Read,
    /// To send messages.
    Send,
    /// To start, log out and delete sessions.
    Manage,
    /// What concerns the gateway as a whole: the master key only.
    Admin,
    /// To use the dashboard: its cookie, and not the key.
    Dashboard,
}

/// The caller of a guarded endpoint: its key was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Principal {
    grant: Arc<Grant>,
    client: IpAddr,
}

impl Principal {
    /// A person at the dashboard, who knows the master key.
    pub(super) fn dashboard(login: &Login) -> Self {
        Self { grant: Arc::new(Grant::everything("dashboard")), client: login.client }
    }

    /// Whether the caller may use endpoints of this scope.
    pub(super) fn may(&self, scope: Scope) -> bool {
        match scope {
            Scope::Public => true,
            Scope::Read => self.grant.spec.scopes.read,
            Scope::Send => self.grant.spec.scopes.send,
            Scope::Manage => self.grant.spec.scopes.manage,
            Scope::Admin => self.grant.is_master(),
            // Contract section 8: the key does not open the dashboard.
            Scope::Dashboard => false,
        }
    }

    /// Whether the caller may know of a session of this name.
    pub(super) fn sees(&self, session: &str) -> bool {
        self.grant.spec.sessions.contains(session)
    }

    /// Whether that holds for every session.
    pub(super) fn sees_all(&self) -> bool {
        self.grant.spec.sessions == SessionSet::All
    }

    /// The names of sessions that it was given one by one.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        match &self.grant.spec.sessions {
            SessionSet::All => &[][..],
            SessionSet::Named(names) => names,
        }
        .iter()
        .map(String::as_str)
        .filter(|name| !name.ends_with('*'))
    }

    /// The name of its key.
    pub(super) fn name(&self) -> &str {
        &self.grant.spec.name
    }

    /// Writes down what the caller has done with a session or a key; names of strangers are quoted and escaped.
    pub(super) fn audit(&self, action: &'static str, object: &'static str, name: &str) {
        let (key, client) = (self.name(), self.client);
        tracing::info!(target: "wa_gateway::audit", action, object, ?name, key, %client, "done");
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = ApiError;

    /// The guard has put it there; a request that came past it is refused.
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::unauthorized)
    }
}

/// A person at the dashboard: the cookie was right, or none is needed.
#[derive(Clone)]
pub(super) struct Login {
    /// What each form of this person carries; no other page can read it.
    form_token: String,
    /// There is no key: nothing to sign out of.
    pub(super) is_open: bool,
    client: IpAddr,
}

impl Login {
    pub(super) fn form_token(&self) -> &str {
        &self.form_token
    }

    /// Whether a form carries the token of this login.
    pub(super) fn issued(&self, token: &str) -> bool {
        bool::from(self.form_token.as_bytes().ct_eq(token.as_bytes()))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

impl<S: Sync> FromRequestParts<S> for Login {
    type Rejection = ApiError;

    /// The guard has put it there; a request that came past it is refused.
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::unauthorized)
    }
}

/// The keys, for the holder of the master key only.
#[derive(Debug)]
pub(super) struct KeyAdmin {
    keys: Keys,
    caller: Principal,
}

impl KeyAdmin {
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn audit(&self, action: &'static str, name: &str) {
        self.caller.audit(action, "key", name);
    }
}

impl FromRequestParts<Shared> for KeyAdmin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let caller = Principal::from_request_parts(parts, state).await?;
        match &state.auth.keys {
            Some(keys) if caller.may(Scope::Admin) => Ok(Self { keys: keys.clone(), caller }),
            Some(_) => Err(ApiError::forbidden()),
            // What a stranger made there would go on opening the gateway once it asks for keys.
            None => Err(ApiError::no_keys_in_open_mode()),
        }
    }
}

/// Why a caller is nobody we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// There is no key, or a wrong one.
    Unknown,
    /// Too many wrong keys came from there.
    TooMany(Duration),
}

/// How callers are told apart.
#[derive(Clone)]
pub struct Auth {
    /// `None`: everybody is let in.
    keys: Option<Keys>,
    logins: Arc<Logins>,
    attempts: Arc<Attempts>,
    /// Proxies of ours before the gateway: so many addresses at the end of `X-Forwarded-For` are believed.
    proxies: usize,
}

impl Auth {
    /// Lets in who has one of these keys; without any (`None`), everybody. `kept` are the logins to go on with.
    pub fn new(keys: Option<Keys>, logins: keys::Logins, kept: Vec<(keys::Hash, keys::Login)>, proxies: usize) -> Self {
        let attempts = Arc::new(Attempts::new(MAX_WRONG_KEYS));
        Self { keys, logins: Arc::new(Logins::new(logins, kept)), attempts, proxies }
    }

    /// Whether everybody is let in.
    pub(super) fn is_open(&self) -> bool {
        self.keys.is_none()
    }

    /// Where a request comes from: the other end of the connection, or whom our own proxies name.
    pub(super) fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> IpAddr {
        // Without a connection (a router by itself) all clients are one.
        let peer =
            extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |at| at.0.ip());
        if self.proxies == 0 {
            return peer;
        }
        let lines = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok());
        let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        // Each proxy adds whom it was asked by at the end; what stands before our own was written by the client.
        let named = hops.len().checked_sub(self.proxies).or((!hops.is_empty()).then_some(0));
        named.and_then(|at| address(hops[at])).unwrap_or(peer)
    }

    /// Finds out who calls.
    pub(super) fn principal(&self, uri: &Uri, headers: &HeaderMap, client: IpAddr) -> Result<Principal, Denied> {
        let Some(keys) = &self.keys else {
            return Ok(Principal { grant: Arc::new(Grant::everything("nobody's")), client });
        };
        let mut given = false;
        let mut find = |value: &[u8]| {
            given |= !value.is_empty();
            keys.find(&keys::hash(value))
        };
        // Contract section 3: a query value that is not empty wins over the header, right or wrong.
        let found = if let Some(value) = query_key(uri).filter(|value| !value.is_empty()) {
            find(value.as_bytes())
        } else {
            let header = header_key(headers).and_then(|value| find(&value));
            header.or_else(|| other_headers(headers).find_map(find))
        };
        if !given {
            return Err(Denied::Unknown);
        }
        match self.attempts.judge(client, Instant::now(), found.as_deref()) {
            Verdict::Right { is_new } => {
                let principal = Principal { grant: found.ok_or(Denied::Unknown)?, client };
                if is_new {
                    principal.audit("first use of a key from this address", "key", principal.name());
                }
                Ok(principal)
            }
            Verdict::Wrong => {
                tracing::warn!(target: "wa_gateway::audit", action = "wrong key", %client, "refused");
                Err(Denied::Unknown)
            }
            Verdict::Wait(wait) => Err(Denied::TooMany(wait)),
        }
    }

    /// The person whose cookie this is; `None`: nobody is signed in.
    pub(super) async fn login(&self, headers: &HeaderMap, client: IpAddr) -> Option<Login> {
        let is_open = self.is_open();
        let token = if is_open { String::new() } else { self.logins.find(headers, Utc::now()).await? };
        Some(Login { form_token: self.logins.form_token(&token)?, is_open, client })
    }

    /// Signs in who knows the master key; gives the value of the `set-cookie` header.
    pub(super) async fn sign_in(&self, client: IpAddr, password: &str, secure: bool) -> Result<String, Refused> {
        let is_right = || match &self.keys {
            // The dashboard shows every session.
            Some(keys) => keys.find(&keys::hash(password.as_bytes())).is_some_and(|grant| grant.is_master()),
            None => password.is_empty(),
        };
        let token = self.logins.sign_in(client, Utc::now(), is_right).await?;
        let secure = if secure { "; Secure" } else { "" };
        Ok(format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{secure}", cookie::NAME))
    }

    /// Ends the login of this cookie; gives the `set-cookie` that makes a browser forget it.
    pub(super) async fn sign_out(&self, headers: &HeaderMap) -> Result<String, KeyError> {
        self.logins.sign_out(headers).await?;
        Ok(format!("{}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0", cookie::NAME))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.keys.is_some() { "Auth(key)" } else { "Auth(open)" })
    }
}

/// An address as proxies write it: some with a port, IPv6 in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(address, _port)| address);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()))
}

/// Of a repeated query the first value counts.
fn query_key(uri: &Uri) -> Option<String> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(uri.query()?).ok()?;
    pairs.into_iter().find_map(|(name, value)| (name == "key").then_some(value))
}

/// Repeated headers are joined with a comma, and so fail.
fn header_key(headers: &HeaderMap) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = headers.get_all("key").iter().map(HeaderValue::as_bytes).collect();
    (!values.is_empty()).then(|| values.join(&b", "[..]))
}

/// Tolerance for clients that send the key by other names too; foreign values there are ignored.
fn other_headers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let api_keys = headers.get_all("x-api-key").iter().map(HeaderValue::as_bytes);
    let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
    });
    api_keys.chain(bearers)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;
    use crate::outbox::memory::MemoryKv;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn secret() -> Auth {
        let keys = Keys::open(Arc::new(MemoryKv::default())).await.unwrap();
        keys.set_master(b"secret");
        Auth { keys: Some(keys), ..open(0).await }
    }

    async fn open(proxies: usize) -> Auth {
        let logins = keys::Logins::open(Arc::new(MemoryKv::default()), None).await.unwrap();
        Auth::new(None, logins, Vec::new(), proxies)
    }

    fn lets_in(auth: &Auth, uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        auth.principal(&uri.parse().unwrap(), &map, CLIENT).is_ok()
    }

    #[tokio::test]
    async fn the_key_is_found_where_clients_put_it() {
        let s = "/session";
        for (uri, headers, expected) in [
            (s, &[][..], false),
            (s, &[("key", "secret")], true),
            (s, &[("KEY", "secret")], true),
            (s, &[("key", "wrong")], false),
            (s, &[("key", "")], false),
            (s, &[("key", "SECRET")], false),
            (s, &[("key", "secre")], false),
            (s, &[("key", "secrets")], false),
            (s, &[("key", "secret"), ("key", "secret")], false),
            ("/session?key=secret", &[], true),
            ("/session?key=%73ecret", &[], true),
            ("/session?key=wrong", &[], false),
            ("/session?key=", &[], false),
            ("/session?key", &[], false),
            ("/session?KEY=secret", &[], false),
            ("/session?key=wrong", &[("key", "secret")], false),
            ("/session?key=secret", &[("key", "wrong")], true),
            ("/session?key=", &[("key", "secret")], true),
            ("/session?key=secret&key=wrong", &[], true),
            ("/session?key=wrong&key=secret", &[], false),
            ("/session?key=&key=secret", &[], false),
            (s, &[("authorization", "Bearer secret")], true),
            (s, &[("authorization", "bearer secret")], true),
            (s, &[("authorization", "secret")], false),
            (s, &[("authorization", "Bearer wrong")], false),
            (s, &[("authorization", "Basic c2VjcmV0")], false),
            (s, &[("key", "secret"), ("authorization", "Bearer foreign")], true),
            (s, &[("key", "secret"), ("x-api-key", "foreign")], true),
            (s, &[("x-api-key", "secret")], true),
            (s, &[("x-api-key", "wrong")], false),
            (s, &[("cookie", "key=secret")], false),
        ] {
            // Each by a gateway of its own: wrong keys count.
            assert_eq!(lets_in(&secret().await, uri, headers), expected, "{uri} {headers:?}");
        }
    }

    #[tokio::test]
    async fn open_mode_lets_everybody_in() {
        for (uri, headers) in [("/session", &[][..]), ("/session?key=wrong", &[("key", "wrong")])] {
            assert!(lets_in(&open(0).await, uri, headers));
        }
    }

    #[tokio::test]
    async fn the_key_holder_may_do_everything_and_debug_shows_no_key() {
        let auth = secret().await;
        let holder = auth.principal(&"/?key=secret".parse().unwrap(), &HeaderMap::new(), CLIENT).unwrap();
        for scope in [Scope::Public, Scope::Read, Scope::Send, Scope::Manage, Scope::Admin] {
            assert!(holder.may(scope));
        }
        assert!(!holder.may(Scope::Dashboard));
        assert!(!format!("{holder:?}").contains("secret"));
        assert_eq!(format!("{auth:?} {:?}", open(0).await), "Auth(key) Auth(open)");
    }

    #[tokio::test]
    async fn a_guesser_must_wait_and_an_absent_key_is_no_guess() {
        let auth = secret().await;
        let ask = |key: &str| auth.principal(&format!("/?key={key}").parse().unwrap(), &HeaderMap::new(), CLIENT);
        for _ in 0..100 {
            assert_eq!(ask(""), Err(Denied::Unknown));
        }
        for _ in 0..MAX_WRONG_KEYS {
            assert_eq!(ask("wrong"), Err(Denied::Unknown));
        }
        assert!(matches!(ask("wrong"), Err(Denied::TooMany(_))));
        assert!(matches!(ask("secret"), Err(Denied::TooMany(_))), "a short key may be the guesser's luck");
        assert_eq!(ask(""), Err(Denied::Unknown));
    }

    #[tokio::test]
    async fn the_client_is_who_our_own_proxies_say() {
        let client = async |proxies: usize, forwarded: &[&str]| {
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 80))));
            let lines =
                forwarded.iter().map(|line| (HeaderName::from_static("x-forwarded-for"), line.parse().unwrap()));
            open(proxies).await.client(&extensions, &lines.collect()).to_string()
        };
        for (proxies, forwarded, expected) in [
            (0, &["192.0.2.1"][..], "10.0.0.1"),
            (1, &[], "10.0.0.1"),
            (1, &["192.0.2.1"], "192.0.2.1"),
            (1, &["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
            (1, &["6.6.6.6", "192.0.2.1"], "192.0.2.1"),
            (2, &["6.6.6.6, 192.0.2.1, 192.0.2.2"], "192.0.2.1"),
            (2, &["192.0.2.1"], "192.0.2.1"),
            (1, &["192.0.2.1:4711"], "192.0.2.1"),
            (1, &["[2001:db8::1]:4711"], "2001:db8::1"),
            (1, &["2001:db8::1"], "2001:db8::1"),
            (1, &["unknown"], "10.0.0.1"),
            (1, &[""], "10.0.0.1"),
        ] {
            assert_eq!(client(proxies, forwarded).await, expected, "{proxies} {forwarded:?}");
        }
    }
}
