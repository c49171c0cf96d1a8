//! One attempt: a POST with the contract's headers over one shared, pooled client.
//!
//! Each goes over a guarded client: link-local and metadata addresses are refused wherever the URL came from. Follows a
//! redirect only on the same host, asks no proxy, reads at most a little of the answer. Errors are told without the address.

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::sign::{SIGNATURE, sign};
use super::{Answer, RetryPolicy, WebhookError};
use crate::net;
use crate::outbox::{NewEvent, Target};

/// Node closes a connection that was idle for 5 s: reusing one at that moment would fail.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// Idle connections kept, and posts that may begin at the same time: a connection costs 55 KB, and a receiver that answers
/// at once serves a thousand lanes over a few.
const MAX_IDLE: usize = 32;
/// A post that takes longer lets another begin: a slow receiver delays nobody's but its own.
const TURN: Duration = Duration::from_millis(25);

/// So many answers are waited for at the same time after their attempts' time: each keeps a connection.
const MAX_LATE: usize = 128;

/// So much of an answer is read and thrown away, to get the connection back; a longer one costs the connection.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// So often an attempt is led elsewhere on its host.
const MAX_REDIRECTS: usize = 3;

/// The status has decided by then: so long we wait for the rest of the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

const EVENT_ID: HeaderName = HeaderName::from_static("x-event-id");

/// Where webhooks go unless a session has a receiver of its own, and what they carry.
#[derive(Clone, Debug, Default)]
pub struct Receiver {
    /// `None`: only sessions with a receiver of their own tell anything.
    pub base_url: Option<Url>,
    /// Sent as the header `key` to the base URL, and never to a session's own; `None`: sent empty, as for a key that the
    /// gateway made itself.
    pub key: Option<SecretString>,
    /// Signs each attempt, unless the session has a secret of its own.
    pub secret: Option<SecretString>,
    /// Whether a session's own URL may lead to private addresses; the base URL always may.
    pub private_urls: bool,
}

/// The answer to an attempt whose time is over; dropping it closes the connection.
///
/// The mutex is never locked: it lets those be shared that own one.
pub(super) struct Late(Mutex<BoxFuture<'static, Answer>>);

impl Late {
    /// The answer itself, which comes once.
    pub(super) fn answer(&mut self) -> &mut BoxFuture<'static, Answer> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Poster {
    /// The gateway's own receiver.
    base: Option<Base>,
    /// For URLs that came over the API.
    guarded: Client,
    policy: net::Policy,
    secret: Option<SecretString>,
    attempt_limit: Duration,
    turns: Semaphore,
    late: Arc<Semaphore>,
}

#[derive(Debug)]
struct Base {
    client: Client,
    url: Url,
}

impl Poster {
    pub(super) fn new(receiver: Receiver, limits: &RetryPolicy) -> Result<Self, WebhookError> {
        let Receiver { base_url, key, secret, private_urls } = receiver;
        if base_url.as_ref().is_some_and(|base| !matches!(base.scheme(), "http" | "https")) {
            return Err(WebhookError::BaseUrl);
        }
        let key = key.as_ref().map_or("", ExposeSecret::expose_secret);
        let mut key = HeaderValue::from_bytes(key.as_bytes()).map_err(|_| WebhookError::Key)?;
        key.set_sensitive(true);
        let policy = net::Policy { private: private_urls };
        let finish = |policy: net::Policy, key: HeaderValue| {
            policy
                .client_builder()
                .default_headers(headers(key))
                .redirect(redirect::Policy::custom(on_same_host))
                .connect_timeout(limits.connect_limit)
                .pool_idle_timeout(IDLE_LIMIT)
                .pool_max_idle_per_host(MAX_IDLE)
                .build()
                .map_err(WebhookError::Client)
        };
        let base = match base_url {
            None => None,
            Some(url) => {
                // Who sets it up may mean a neighbour, and never the cloud's metadata.
                let policy = net::Policy { private: true };
                if !policy.allows_host(&url) {
                    return Err(WebhookError::Address);
                }
                Some(Base { client: finish(policy, key)?, url })
            }
        };
        let guarded = finish(policy, HeaderValue::from_static(""))?;
        let (attempt_limit, turns, late) = (limits.attempt_limit, Semaphore::new(MAX_IDLE), Semaphore::new(MAX_LATE));
        Ok(Self { base, guarded, policy, secret, attempt_limit, turns, late: Arc::new(late) })
    }

    /// Whether events have a receiver that no session asked for.
    pub(super) fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// What the kinds' paths are put behind, so that two receivers can be told apart; `None`: there is nowhere to post to.
    pub(super) fn place(&self, target: Option<&Target>) -> Option<Url> {
        let base = match target {
            None => self.base.as_ref()?.url.clone(),
            Some(target) => Url::parse(&target.url).ok()?,
        };
        Some(endpoint(&base, ""))
    }

    /// Posts once; cancelling it closes the connection. `None`: there is nowhere to post it to.
    ///
    /// With the answer that may still come when it timed out.
    pub(super) async fn attempt(&self, event: &NewEvent, target: Option<&Target>) -> Option<(Answer, Option<Late>)> {
        let (client, url, own_secret) = match target {
            None => {
                let base = self.base.as_ref()?;
                (&base.client, endpoint(&base.url, event.kind.path()), None)
            }
            Some(target) => {
                let Some(url) = Url::parse(&target.url).ok().filter(|url| self.policy.allows_host(url)) else {
                    return Some((Answer::Unreachable("the address is not allowed".to_owned()), None));
                };
                (&self.guarded, endpoint(&url, event.kind.path()), target.secret.as_deref().map(SecretString::from))
            }
        };
        let mut request = client.post(url).header(EVENT_ID, &event.event_id).body(event.body.clone());
        if let Some(secret) = own_secret.as_ref().or(self.secret.as_ref()) {
            request = request.header(SIGNATURE, sign(secret, Utc::now().timestamp(), &event.body));
        }
        let turn = self.turns.acquire().await;
        let mut answer = std::pin::pin!(self.ask(request));
        match tokio::time::timeout(TURN, &mut answer).await {
            Ok(answer) => Some(answer),
            Err(_slow) => {
                drop(turn);
                Some(answer.await)
            }
        }
    }

    async fn ask(&self, request: RequestBuilder) -> (Answer, Option<Late>) {
        let mut response = Box::pin(request.send());
        if let Ok(response) = tokio::time::timeout(self.attempt_limit, &mut response).await {
            return (answer(response).await, None);
        }
        let late = Arc::clone(&self.late).try_acquire_owned().ok().map(|permit| {
            let late = async move {
                let _permit = permit;
                answer(response.await).await
            };
            Late(Mutex::new(late.boxed()))
        });
        (Answer::TimedOut, late)
    }
}

async fn answer(response: reqwest::Result<Response>) -> Answer {
    match response {
        // No handshake in time is no connection; only the receiver can answer late.
        Err(error) if error.is_timeout() && !error.is_connect() => Answer::TimedOut,
        Err(error) => Answer::Unreachable(reason(error)),
        Ok(response) => {
            let code = response.status().as_u16();
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| wait_asked(value, Utc::now()));
            discard(response).await;
            Answer::Status { code, retry_after }
        }
    }
}

/// wa-gateway 4.7.1 sends these of axios; its User-Agent and Accept-Encoding are its own.
fn headers(key: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/plain, */*"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("key"), key);
    headers
}

/// wa-gateway 4.7.1's axios follows them all. What keeps method and body stays on its host, as where a proxy leads from http to
/// https; elsewhere nothing goes that was meant for this receiver.
fn on_same_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let keeps_method = matches!(attempt.status().as_u16(), 307 | 308);
    let is_same = attempt.previous().first().is_some_and(|first| first.host_str() == attempt.url().host_str());
    let is_secure =
        attempt.previous().iter().all(|before| before.scheme() != "https") || attempt.url().scheme() == "https";
    if keeps_method && is_same && is_secure && attempt.previous().len() <= MAX_REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// The address below the base: one slash between, a query of the base stays behind, a fragment is dropped.
fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url.set_fragment(None);
    url
}

/// `Retry-After` as seconds or as a date.
fn wait_asked(value: &HeaderValue, now: DateTime<Utc>) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.with_timezone(&Utc) - now).to_std().unwrap_or_default())
}

async fn discard(mut response: Response) {
    let mut left = MAX_ANSWER_BYTES;
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Too late or too long only costs the connection.
    drop(tokio::time::timeout(ANSWER_LIMIT, read).await);
}

/// The chain of causes without the address, which may hold secrets.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_goes_behind_the_bases_path_and_before_its_query() {
        for (base, wanted) in [
            ("http://bot:3000", "http://bot:3000/message"),
            ("http://bot:3000/", "http://bot:3000/message"),
            ("https://a.example/hooks/wa", "https://a.example/hooks/wa/message"),
            ("https://a.example/hooks/wa//", "https://a.example/hooks/wa/message"),
            ("https://a.example/hooks?token=a%2Fb", "https://a.example/hooks/message?token=a%2Fb"),
            ("https://a.example/hooks/?t=1#x", "https://a.example/hooks/message?t=1"),
            ("http://user:word@[::1]:80/x", "http://user:word@[::1]/x/message"),
        ] {
            assert_eq!(endpoint(&Url::parse(base).unwrap(), "message").as_str(), wanted);
        }
    }

    #[test]
    fn every_base_gets_its_paths_and_keeps_its_host_and_query() {
        let base = "https?://([a-z]{1,8}:[a-z]{1,8}@)?([a-z]{1,10}(\\.[a-z]{2,5})?|\\[::1\\])(:[1-9][0-9]{0,3})?(/[ -~]{0,12}){0,3}(\\?[ -~]{0,20})?(#[ -~]{0,8})?";
        crate::property::holds(base, |text| {
            let Ok(base) = Url::parse(&text) else { return };
            let url = endpoint(&base, "message");
            assert!(url.path().ends_with("/message") && !url.path().ends_with("//message"), "{url}");
            assert_eq!((url.host(), url.port(), url.query()), (base.host(), base.port(), base.query()), "{url}");
            assert_eq!((url.scheme(), url.username(), url.fragment()), (base.scheme(), base.username(), None), "{url}");
        });
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-01-02T03:04:05Z").unwrap().to_utc();
        for (text, wanted) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Fri, 02 Jan 2026 03:05:05 GMT", Some(60)),
            ("Fri, 02 Jan 2026 03:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let wait = wait_asked(&HeaderValue::from_str(text).unwrap(), now);
            assert_eq!(wait, wanted.map(Duration::from_secs), "{text}");
        }
    }

    #[tokio::test]
    async fn no_handshake_in_time_is_no_connection() {
        // It is connected to, and never says a word.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = Url::parse(&format!("https://{}", silent.local_addr().unwrap())).ok();
        let limits = RetryPolicy { connect_limit: Duration::from_millis(100), ..RetryPolicy::default() };
        let poster = Poster::new(Receiver { base_url, ..Receiver::default() }, &limits).unwrap();
        let name = crate::event::SessionName::parse("a").unwrap();
        let event = NewEvent::status("uid", &name, crate::event::Status::Connected);
        let answer = poster.attempt(&event, None).await;
        assert!(matches!(answer, Some((Answer::Unreachable(_), None))));
    }

    #[test]
    fn a_key_or_a_base_that_cannot_be_sent_is_refused() {
        let policy = RetryPolicy::default();
        let receiver = |base: &str, key: &str| Receiver {
            base_url: Some(Url::parse(base).unwrap()),
            key: Some(SecretString::from(key)),
            ..Receiver::default()
        };
        let made = |key: &str| Poster::new(receiver("http://bot", key), &policy);
        assert!(matches!(made("a\nb"), Err(WebhookError::Key)));
        assert!(made("gr\u{fc}n \u{1f511}").is_ok());
        assert!(matches!(Poster::new(receiver("ftp://bot", ""), &policy), Err(WebhookError::BaseUrl)));
    }
}
