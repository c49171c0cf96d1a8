//! Accepts connections: TLS where asked for, then chat by WebSocket, or media by HTTP on the same port.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;

use crate::fault::Fault;
use crate::server::Core;
use crate::wire::frame::Stream;

/// Longest wait for a client's HTTP request.
const HEAD_LIMIT: Duration = Duration::from_secs(20);
/// Largest request head; clients send some hundred bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a client said when it asked for a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// By TLS (SNI).
    pub server_name: Option<String>,
    /// The header `Host`.
    pub host: Option<String>,
    /// The header `Origin`.
    pub origin: Option<String>,
    /// The path, without a query.
    pub path: String,
}

impl Core {
    /// Accepts connections until the simulator ends.
    pub(crate) async fn listen(self: Arc<Self>, listener: TcpListener, secure: bool) {
        loop {
            let accepted = tokio::select! {
                () = self.token.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let core = Arc::clone(&self);
            self.tracker.spawn(async move {
                let token = core.token.clone();
                tokio::select! {
                    () = token.cancelled() => {}
                    served = core.welcome(stream, secure) => if let Err(error) = served {
                        tracing::debug!(%error, "a connection did not get through");
                    },
                }
            });
        }
    }

    async fn welcome(self: Arc<Self>, stream: TcpStream, secure: bool) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        if self.with(|state| state.strikes(&Fault::DropConnections)) {
            return Ok(());
        }
        let mut server_name = None;
        let stream: Stream = match (&self.tls, secure) {
            (Some(tls), true) => {
                let stream = tls.acceptor.accept(stream).await.context("the TLS handshake")?;
                server_name = stream.get_ref().1.server_name().map(str::to_owned);
                Box::new(stream)
            }
            _ => Box::new(stream),
        };
        let (chat, stream) = timeout(HEAD_LIMIT, look_ahead(stream)).await.context("no request came")??;
        if !chat {
            let service = TowerToHyperService::new(crate::control::router(self));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            return connection.await.context("serving media");
        }
        let refuse = self.with(|state| state.strikes(&Fault::RefuseUpgrade));
        let core = Arc::clone(&self);
        #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
        let check = move |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            let header = |name: &str| request.headers().get(name)?.to_str().ok().map(str::to_owned);
            let upgrade = Upgrade {
                server_name,
                host: header("host"),
                origin: header("origin"),
                path: request.uri().path().to_owned(),
            };
            core.with(|state| state.last_upgrade = Some(upgrade));
            if refuse {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return Err(refusal);
            }
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, check).await.context("the WebSocket upgrade")?;
        crate::connection::serve(self, socket).await;
        Ok(())
    }
}

/// Reads a request's head to see whether it is for the chat endpoint, and gives the stream back with the head in front.
async fn look_ahead(mut stream: Stream) -> anyhow::Result<(bool, Stream)> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        anyhow::ensure!(head.len() < MAX_HEAD_BYTES, "a request head without an end");
        anyhow::ensure!(stream.read_buf(&mut head).await? > 0, "the client left before its request");
    }
    let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let chat = path.split(|byte| *byte == b'?').next() == Some(b"/ws/chat");
    let (reading, writing) = tokio::io::split(stream);
    Ok((chat, Box::new(tokio::io::join(Cursor::new(head).chain(reading), writing))))
}
