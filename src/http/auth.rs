//! Who calls: the API key of a request or the cookie of a browser, and what its holder may do.
//!
//! Called by the guard around every handler; handlers see the [`Principal`] or the [`Login`] only.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Uri};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use super::error::ApiError;
use crate::keys::{self, Grant, Keys};

mod cookie;

pub(super) use cookie::Refused;

use cookie::Logins;

/// What `KEY` is called where keys are told by name.
const MASTER: &str = "KEY";

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
pub(super) struct Principal(Arc<Grant>);

impl Principal {
    /// Everybody, where no key is asked for.
    fn open() -> Self {
        Self(Arc::new(Grant::master("(no key)")))
    }

    /// A person at the dashboard.
    pub(super) fn dashboard() -> Self {
        Self(Arc::new(Grant::master("(dashboard)")))
    }

    /// Whether the caller may use endpoints of this scope.
    pub(super) fn may(&self, scope: Scope) -> bool {
        match scope {
            Scope::Public => true,
            Scope::Read => self.0.scopes.read,
            Scope::Send => self.0.scopes.send,
            Scope::Manage => self.0.scopes.manage,
            Scope::Admin => self.0.is_master,
            // Contract section 8: the key does not open the dashboard.
            Scope::Dashboard => false,
        }
    }

    /// Whether the caller may know of a session of this name.
    pub(super) fn sees(&self, session: &str) -> bool {
        self.0.sessions.contains(session)
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

/// How callers are told apart.
#[derive(Clone)]
pub struct Auth {
    /// `None`: everybody is let in.
    keys: Option<Keys>,
    logins: Arc<Logins>,
}

impl Auth {
    /// Lets in who knows this key, which may do everything, or one of the others.
    pub fn key(key: &SecretString, others: Keys) -> Self {
        others.add(keys::hash(key.expose_secret().as_bytes()), Grant::master(MASTER));
        Self { keys: Some(others), logins: Arc::new(Logins::new()) }
    }

    /// Lets in everybody.
    pub fn open() -> Self {
        Self { keys: None, logins: Arc::new(Logins::new()) }
    }

    /// Whether everybody is let in.
    pub(super) fn is_open(&self) -> bool {
        self.keys.is_none()
    }

    /// Finds out who calls; `None`: nobody we know.
    pub(super) fn principal(&self, uri: &Uri, headers: &HeaderMap) -> Option<Principal> {
        let Some(keys) = &self.keys else { return Some(Principal::open()) };
        let find = |given: &[u8]| keys.find(&keys::hash(given)).map(Principal);
        // Contract section 3: a query value that is not empty wins over the header, right or wrong.
        match query_key(uri).filter(|value| !value.is_empty()) {
            Some(value) => find(value.as_bytes()),
            None => {
                header_key(headers).and_then(|value| find(&value)).or_else(|| other_headers(headers).find_map(find))
            }
        }
    }

    /// The person whose cookie this is; `None`: nobody is signed in.
    pub(super) fn login(&self, headers: &HeaderMap) -> Option<Login> {
        let is_open = self.is_open();
        let token = if is_open { String::new() } else { self.logins.find(headers, Instant::now())? };
        Some(Login { form_token: self.logins.form_token(&token)?, is_open })
    }

    /// Signs in who knows the key; gives the value of the `set-cookie` header.
    pub(super) fn sign_in(&self, client: IpAddr, password: &str, secure: bool) -> Result<String, Refused> {
        let token = self.logins.sign_in(client, Instant::now(), || match &self.keys {
            // The dashboard shows every session: it opens for the master key only.
            Some(keys) => keys.find(&keys::hash(password.as_bytes())).is_some_and(|grant| grant.is_master),
            None => password.is_empty(),
        })?;
        let secure = if secure { "; Secure" } else { "" };
        Ok(format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{secure}", cookie::NAME))
    }

    /// Ends the login of this cookie; gives the `set-cookie` that makes a browser forget it.
    pub(super) fn sign_out(&self, headers: &HeaderMap) -> String {
        self.logins.sign_out(headers);
        format!("{}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0", cookie::NAME)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.keys.is_some() { "Auth(key)" } else { "Auth(open)" })
    }
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

    fn lets_in(auth: &Auth, uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        auth.principal(&uri.parse().unwrap(), &map).is_some()
    }

    #[test]
    fn the_key_is_found_where_clients_put_it() {
        let auth = Auth::key(&SecretString::from("secret"), Keys::default());
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
            assert_eq!(lets_in(&auth, uri, headers), expected, "{uri} {headers:?}");
        }
    }

    #[test]
    fn open_mode_lets_everybody_in() {
        for (uri, headers) in [("/session", &[][..]), ("/session?key=wrong", &[("key", "wrong")])] {
            assert!(lets_in(&Auth::open(), uri, headers));
        }
    }

    #[test]
    fn the_key_holder_may_do_everything_and_debug_shows_no_key() {
        let auth = Auth::key(&SecretString::from("secret"), Keys::default());
        let holder = auth.principal(&"/?key=secret".parse().unwrap(), &HeaderMap::new()).unwrap();
        for scope in [Scope::Public, Scope::Read, Scope::Send, Scope::Manage, Scope::Admin] {
            assert!(holder.may(scope));
        }
        assert_eq!(
            format!("{:?} {:?}", Auth::key(&SecretString::from("secret"), Keys::default()), Auth::open()),
            "Auth(key) Auth(open)"
        );
    }
}
