//! A webhook receiver: keeps what it is sent, answers what it is told to.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::eventually;

/// One webhook call.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) raw: String,
    pub(crate) body: Value,
    /// What it was answered.
    pub(crate) answered: u16,
}

#[derive(Clone, Default)]
struct Shared {
    hooks: Arc<Mutex<Vec<Hook>>>,
    answer: Arc<AtomicU16>,
    /// What is answered to bodies that hold a text.
    exception: Arc<Mutex<Option<(String, u16)>>>,
    hangs: Arc<AtomicBool>,
}

/// The receiver; ends when dropped.
pub(crate) struct Receiver {
    port: u16,
    shared: Shared,
    _stop: DropGuard,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::start_at(0).await
    }

    /// Serves on this port.
    pub(crate) async fn start_at(port: u16) -> Self {
        let shared = Shared::default();
        shared.answer.store(200, Ordering::SeqCst);
        let router = Router::new().fallback(take).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let token = CancellationToken::new();
        let stopped = token.clone();
        #[expect(clippy::disallowed_methods, reason = "the receiver's owner is its drop guard")]
        tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await.unwrap();
        });
        Self { port, shared, _stop: token.drop_guard() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// From now on answers with this status.
    pub(crate) fn answer(&self, status: u16) {
        self.shared.answer.store(status, Ordering::SeqCst);
    }

    /// From now on answers with this status to what holds this text.
    pub(crate) fn answer_to(&self, text: &str, status: u16) {
        *self.shared.exception.lock().unwrap() = Some((text.to_owned(), status));
    }

    /// From now on answers nothing, or again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::SeqCst);
    }

    /// All calls so far, in order.
    pub(crate) fn hooks(&self) -> Vec<Hook> {
        self.shared.hooks.lock().unwrap().clone()
    }

    /// How many calls came so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.hooks.lock().unwrap().len()
    }

    /// The bodies of accepted calls of this kind that are wanted, in order. Copies no others: long runs keep tens of thousands.
    fn accepted(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let hooks = self.shared.hooks.lock().unwrap();
        let of_kind =
            hooks.iter().filter(|hook| hook.answered == 200 && hook.path.strip_prefix("/hook/") == Some(kind));
        of_kind.map(|hook| &hook.body).filter(|body| wanted(body)).cloned().collect()
    }

    /// The bodies of accepted message calls of a session, in order.
    pub(crate) fn messages(&self, session: &str) -> Vec<Value> {
        self.accepted("message", |body| body["session"] == session)
    }

    /// The bodies of accepted ack calls about a message, in order.
    pub(crate) fn acks(&self, id: &str) -> Vec<Value> {
        self.accepted("ack", |body| body["id"] == id)
    }

    /// The status words told of a session, in order.
    pub(crate) fn statuses(&self, session: &str) -> Vec<String> {
        let told = self.accepted("session", |body| body["session"] == session);
        told.iter().map(|body| body["status"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits for a message call of a session with this text.
    pub(crate) async fn message(&self, session: &str, text: &str) -> Value {
        eventually(&format!("a webhook of {session} with {text:?}"), || async {
            self.messages(session).into_iter().find(|body| body["message"] == text)
        })
        .await
    }

    /// Waits until the last status told of a session is this one.
    pub(crate) async fn last_status(&self, session: &str, status: &str) {
        eventually(&format!("the last status event of {session} to be {status}"), || async {
            (self.statuses(session).last().map(String::as_str) == Some(status)).then_some(())
        })
        .await;
    }
}

async fn take(State(shared): State<Shared>, uri: Uri, headers: HeaderMap, bytes: Bytes) -> StatusCode {
    let raw = String::from_utf8_lossy(&bytes).into_owned();
    if shared.hangs.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let exception = shared.exception.lock().unwrap().clone().filter(|(text, _)| raw.contains(text));
    let answered = exception.map_or_else(|| shared.answer.load(Ordering::SeqCst), |(_, status)| status);
    let body = serde_json::from_str(&raw).unwrap_or(Value::Null);
    shared.hooks.lock().unwrap().push(Hook { path: uri.path().to_owned(), headers, raw, body, answered });
    StatusCode::from_u16(answered).unwrap()
}
