//! HTTP to one server over keep-alive connections: as many as there are requests at the same time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

/// The longest that anything may take here: a bulk command says thousands of texts.
const LIMIT: Duration = Duration::from_mins(10);

/// A server; clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    key: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    tracker: TaskTracker,
}

/// What it said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body of a success.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!((200..300).contains(&self.status), "status {}: {text}", self.status);
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }
}

impl Server {
    /// `base`: `http://HOST:PORT`.
    pub(crate) async fn new(base: &str, key: &str) -> anyhow::Result<Self> {
        let host = base.strip_prefix("http://").context("the base URL must start with http://")?;
        let host = host.trim_end_matches('/');
        let mut found = tokio::net::lookup_host(host).await.with_context(|| format!("{host} can't be found"))?;
        let address = found.next().context("the host has no address")?;
        let inner = Inner { address, key: key.to_owned(), idle: Mutex::default(), tracker: TaskTracker::new() };
        Ok(Self(Arc::new(inner)))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(crate) async fn get(&self, target: &str) -> anyhow::Result<Answer> {
        self.ask(Method::GET, target, Bytes::new()).await
    }

    pub(crate) async fn delete(&self, target: &str) -> anyhow::Result<Answer> {
        self.ask(Method::DELETE, target, Bytes::new()).await
    }

    pub(crate) async fn post(&self, target: &str, body: &Value) -> anyhow::Result<Answer> {
        self.ask(Method::POST, target, serde_json::to_vec(body)?.into()).await
    }

    async fn ask(&self, method: Method, target: &str, body: Bytes) -> anyhow::Result<Answer> {
        let asked = async {
            let mut lane = self.lane().await?;
            let request = Request::builder()
                .method(method)
                .uri(target)
                .header(header::HOST, self.0.address.to_string())
                .header(header::CONTENT_TYPE, "application/json")
                .header("key", &self.0.key)
                .body(Full::new(body))?;
            let response = lane.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            self.idle().push(lane);
            anyhow::Ok(Answer { status, body })
        };
        tokio::time::timeout(LIMIT, asked).await.with_context(|| format!("no answer to {target} in time"))?
    }

    async fn lane(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        loop {
            let idle = self.idle().pop();
            match idle {
                // The server may have closed it meanwhile.
                Some(mut lane) => {
                    if lane.ready().await.is_ok() {
                        return Ok(lane);
                    }
                }
                None => break,
            }
        }
        let stream = TcpStream::connect(self.0.address).await?;
        stream.set_nodelay(true)?;
        let (lane, connection) = handshake(TokioIo::new(stream)).await?;
        self.0.tracker.spawn(connection);
        Ok(lane)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
