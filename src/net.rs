//! The one guarded way out: who may be connected to, by which address, over which client.
//!
//! Every connection that a stranger's URL can cause is made by a client from here: its resolver hands out only addresses
//! that the policy allows, so the address that was checked is the one connected to. Names nothing of ours.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, LOCATION};
use reqwest::{Client, ClientBuilder, Response, Url, redirect};
use tokio::time::Instant;

mod address;

pub use address::Reach;

/// Time for the TCP and TLS handshakes of one connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Redirects that are followed; a chain that is longer is a loop or a trap.
const MAX_REDIRECTS: usize = 5;

/// Which addresses may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether private addresses, loopback among them, may be; link-local and metadata ones never are.
    pub private: bool,
}

impl Policy {
    /// Whether a connection to this address may be opened.
    pub fn allows(self, address: IpAddr) -> bool {
        match address::reach(address) {
            Reach::Public => true,
            Reach::Private => self.private,
            Reach::Never => false,
        }
    }

    /// Whether the URL's host may be asked for: an address in the URL itself is judged here, a name when it is resolved.
    pub fn allows_host(self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        bare.parse().map_or(!host.is_empty(), |address| self.allows(address))
    }

    /// Begins a client that resolves by this policy, asks no proxy and follows no redirect by itself.
    ///
    /// Whoever uses it asks [`allows_host`](Self::allows_host) for each URL first.
    pub fn client_builder(self) -> ClientBuilder {
        Client::builder()
            .user_agent(concat!("wa-gateway/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .dns_resolver(Arc::new(Resolver(self)))
    }
}

/// Why nothing came from a URL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It, or a redirect of it, is neither `http` nor `https`, or has no host.
    #[error("no http or https URL")]
    Scheme,
    /// It, or a redirect of it, leads to an address that the policy forbids.
    #[error("the address is not allowed")]
    Address,
    /// The server answered with another status than 2xx.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// More redirects than are followed, or one without a target.
    #[error("too many redirects, or one that leads nowhere")]
    Redirects,
    /// No connection, or it broke; the error holds no address.
    #[error("the server can't be reached")]
    Unreachable(#[source] reqwest::Error),
    /// The deadline passed.
    #[error("no answer in time")]
    TimedOut,
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if inner.is::<Refused>() {
                return Self::Address;
            }
            cause = inner.source();
        }
        if error.is_timeout() { Self::TimedOut } else { Self::Unreachable(error.without_url()) }
    }
}

/// A client for GET requests to URLs that strangers chose; clones share its connections.
#[derive(Clone, Debug)]
pub struct Guarded {
    client: Client,
    policy: Policy,
}

impl Guarded {
    /// Makes the client.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(policy: Policy) -> Result<Self, reqwest::Error> {
        // No idle connections: the next fetch hardly ever goes to the same host, and each one is judged afresh.
        let client = policy.client_builder().pool_max_idle_per_host(0).build()?;
        Ok(Self { client, policy })
    }

    /// Asks for `url` and follows at most five redirects, each judged like the first; the answer has a 2xx status and
    /// its body is not read yet.
    ///
    /// # Errors
    /// By [`FetchError`].
    pub async fn get(&self, url: &Url, deadline: Instant) -> Result<Response, FetchError> {
        tokio::time::timeout_at(deadline, self.follow(url.clone())).await.map_err(|_| FetchError::TimedOut)?
    }

    async fn follow(&self, mut url: Url) -> Result<Response, FetchError> {
        for _ in 0..=MAX_REDIRECTS {
            if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
                return Err(FetchError::Scheme);
            }
            if !self.policy.allows_host(&url) {
                return Err(FetchError::Address);
            }
            // Packing saves nothing on pictures, and what is sent packed all the same has to be unpacked here.
            let response = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity").send().await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Err(FetchError::Status(status.as_u16()));
            }
            let target = response.headers().get(LOCATION).and_then(|target| str::from_utf8(target.as_bytes()).ok());
            url = target.and_then(|target| url.join(target).ok()).ok_or(FetchError::Redirects)?;
        }
        Err(FetchError::Redirects)
    }
}

/// A name has no address that may be connected to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the address is not allowed")]
struct Refused;

/// Resolves as the system does, then leaves out what the policy forbids.
#[derive(Clone, Copy, Debug)]
struct Resolver(Policy);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let any = !found.is_empty();
            let allowed: Vec<SocketAddr> = found.into_iter().filter(|found| policy.allows(found.ip())).collect();
            if any && allowed.is_empty() {
                return Err(Refused.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests;
