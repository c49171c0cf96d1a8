//! Sending: our own message id, the server's acknowledgement, and who is on WhatsApp at all.
//!
//! `compose` writes the messages, `upload` brings their files to WhatsApp's media servers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use whatsapp_rust::wacore::types::events::ServerAck;
use whatsapp_rust::{Jid, SendOptions};

use super::Connection;
use super::number::Found;
use crate::message::{File, KnownPoll, Outgoing, Poll, Progress, Recipient, Sent, Step};

mod compose;
mod upload;

pub(super) use upload::MAX_UPLOADS;
pub use upload::Open;

/// A look-up of a number takes no longer; past it the send goes on unchecked.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// A send over a connection that was given up may take so long to tell by itself what became of it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Why a message was not sent, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The recipient's address can't be used by the library.
    #[error("the recipient's address can't be used")]
    Recipient,
    /// The number has no account.
    #[error("the number is not on WhatsApp")]
    NotRegistered,
    /// The server refused with this code.
    #[error("refused with code {0}")]
    Refused(u16),
    /// It left, but nothing was heard; it may have been sent.
    #[error("not acknowledged")]
    Unacknowledged,
    /// It was not ready to be sent in time.
    #[error("not ready in time")]
    TimedOut,
    /// WhatsApp's media servers did not take its file.
    #[error("the upload failed")]
    Upload(#[source] anyhow::Error),
    /// Its file could not be read or written here.
    #[error("the temporary files can't be used")]
    Disk(#[source] anyhow::Error),
    /// It did not leave.
    #[error("the connection failed")]
    Connection(#[source] anyhow::Error),
    /// Not connected.
    #[error("not connected")]
    NotConnected,
}

/// Acknowledgements that sends wait for, by message id.
#[derive(Debug, Default)]
pub(super) struct Acks(Mutex<HashMap<String, Waiter>>);

/// A send that waits, and the stream that it left by.
#[derive(Debug)]
struct Waiter {
    stream: Option<u64>,
    answer: oneshot::Sender<Ack>,
}

#[derive(Debug)]
struct Ack {
    error: Option<u16>,
    timestamp: Option<i64>,
}

impl Acks {
    fn expect<'a>(&'a self, id: &'a str, stream: Option<u64>) -> (Expected<'a>, oneshot::Receiver<Ack>) {
        let (answer, receiver) = oneshot::channel();
        self.lock().insert(id.to_owned(), Waiter { stream, answer });
        (Expected { acks: self, id }, receiver)
    }

    /// Notes what an acknowledgement says of its message, then hands it to the send that waits for it, if one does.
    pub(super) fn resolve(&self, ack: &ServerAck, note: impl FnOnce(Progress)) {
        if ack.class.as_deref().is_some_and(|class| class != "message") {
            return;
        }
        // A nack whose code is no number is still a refusal: 500 stands for "unnamed".
        let error = ack.error.as_deref().map(|code| code.parse().unwrap_or(500));
        let timestamp = ack.timestamp.map(|time| time.timestamp());
        let step = if error.is_some() { Step::Failed } else { Step::Sent };
        let at = timestamp.unwrap_or_else(|| chrono::Utc::now().timestamp());
        note(Progress { id: ack.id.clone(), step, at, code: error, teller: None });
        if let Some(waiter) = self.lock().remove(&ack.id) {
            let _gone = waiter.answer.send(Ack { error, timestamp });
        }
    }

    /// Ends all waits: the connection that would have brought the acknowledgements is gone.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Ends the waits for what no stream brings any more but this one; `None`: none does.
    pub(super) fn keep_only(&self, stream: Option<u64>) {
        self.lock().retain(|_id, waiter| stream.is_some() && waiter.stream == stream);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something was received whose ratchets the store may not have.
///
/// A message that answers ours replaces the chain that we send with. whatsapp-rust 0.7.0 stores the new one 25 ms later, and
/// sends with it at once (wacore-libsignal, `rebase_lease_after_sender_chain_reset`): a process that were killed in between would
/// go on with the old one, and what follows in this chat had to be sent once more, both ways. So they are stored before a send.
/// What comes between that and the send's own encryption is still open to it: only the library could close that.
#[derive(Debug, Default)]
pub(super) struct Heard {
    batches: AtomicU64,
    stored: AtomicU64,
}

impl Heard {
    /// After its decryption.
    pub(super) fn batch(&self) {
        self.batches.fetch_add(1, Ordering::AcqRel);
    }

    /// What is to be passed to [`stored`](Self::stored) once the ratchets are; `None`: they are.
    fn unstored(&self) -> Option<u64> {
        let batches = self.batches.load(Ordering::Acquire);
        (batches > self.stored.load(Ordering::Acquire)).then_some(batches)
    }

    fn stored(&self, batches: u64) {
        self.stored.fetch_max(batches, Ordering::AcqRel);
    }
}

/// Ends the wait for an acknowledgement, also of a send that is cancelled.
struct Expected<'a> {
    acks: &'a Acks,
    id: &'a str,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.acks.lock().remove(self.id);
    }
}

impl Connection {
    /// Looks whether the recipient can be written to, and tells where: WhatsApp may know a number by another spelling. Groups and
    /// LIDs are not looked up, an unanswered look-up counts as yes.
    ///
    /// # Errors
    /// `Recipient`, or `NotRegistered` when WhatsApp says so.
    pub async fn check_recipient(&self, recipient: Recipient, deadline: Instant) -> Result<Recipient, OutboundError> {
        let jid: Jid = recipient.as_str().parse().map_err(|_error| OutboundError::Recipient)?;
        if !jid.is_pn() {
            return Ok(recipient);
        }
        let found = match self.shared.numbers.known(&jid.user) {
            Some(found) => found,
            None => {
                match tokio::time::timeout_at(
                    deadline.min(Instant::now() + CHECK_TIMEOUT),
                    self.client.contacts().is_on_whatsapp(std::slice::from_ref(&jid)),
                )
                .await
                {
                    // What tells nothing is no reason not to try.
                    Ok(Ok(results)) => {
                        self.shared.numbers.learn_from(&jid.user, results.first()).unwrap_or(Found::Here)
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(error = format!("{error:#}"), "a number could not be looked up");
                        Found::Here
                    }
                    Err(_elapsed) => Found::Here,
                }
            }
        };
        match found {
            Found::Here => Ok(recipient),
            Found::As(number) => Ok(recipient.at(Jid::pn(number.to_string()).to_string())),
            Found::Nowhere => Err(OutboundError::NotRegistered),
        }
    }

    /// Shows "typing…" to the recipient for a while, then takes it back. Failures don't matter to the message.
    pub async fn type_for(&self, recipient: &Recipient, duration: Duration) {
        let Ok(jid) = recipient.as_str().parse::<Jid>() else { return };
        let end = Instant::now() + duration;
        let composing = tokio::time::timeout(duration, self.client.chatstate().send_composing(&jid)).await;
        tokio::time::sleep_until(end).await;
        if let Ok(Ok(())) = composing {
            let _best_effort =
                tokio::time::timeout(Duration::from_secs(1), self.client.chatstate().send_paused(&jid)).await;
        }
    }

    /// A new message id: `3EB0` and 18 hexadecimal capitals, as WhatsApp Web makes them.
    pub fn message_id(&self) -> String {
        self.client.generate_message_id()
    }

    /// What is to be remembered of a poll, with a new secret for its votes.
    ///
    /// # Errors
    /// `NotConnected`, or `Connection` without randomness.
    pub fn poll(&self, poll: &Poll) -> Result<KnownPoll, OutboundError> {
        let mut secret = vec![0; 32];
        getrandom::fill(&mut secret).map_err(|error| OutboundError::Connection(anyhow::Error::msg(error)))?;
        let own = self.client.pn().ok_or(OutboundError::NotConnected)?;
        let authors = [Some(own), self.client.lid()].into_iter().flatten().map(|jid| jid.to_non_ad_string()).collect();
        Ok(KnownPoll { secret, authors, question: poll.question.clone(), options: poll.options.clone() })
    }

    /// Writes a message down as it is to be sent under this id, with the present time for the server's.
    ///
    /// # Errors
    /// `NotConnected`: the session has no account any more.
    pub fn draft(
        &self,
        recipient: &Recipient,
        message: Outgoing,
        file: Option<File>,
        id: String,
    ) -> Result<Sent, OutboundError> {
        let own = self.client.pn().ok_or(OutboundError::NotConnected)?;
        let now = chrono::Utc::now();
        Ok(Sent {
            remote_jid: recipient.as_str().to_owned(),
            spelt_jid: recipient.spelt().to_owned(),
            id,
            message,
            file,
            timestamp: u64::try_from(now.timestamp()).unwrap_or_default(),
            composed_ms: now.timestamp_millis(),
            own_jid: own.to_non_ad().to_string(),
            participant: recipient.is_group().then(|| own.to_string()),
        })
    }

    /// Has the store have the ratchets of what was received.
    async fn store_heard(&self, deadline: Instant) -> Result<(), OutboundError> {
        let Some(heard) = self.heard.unstored() else { return Ok(()) };
        let client = Arc::clone(&self.client);
        // On a task of its own, which goes on when this one is given up: while the library catches up with what waited, it
        // commits messages in there.
        let storing = self.tracker.spawn(async move { client.flush_pending_signal_state().await });
        let stored = tokio::select! {
            stored = tokio::time::timeout_at(deadline, storing) => stored.map_err(|_elapsed| OutboundError::TimedOut)?,
            () = self.link.until_cut() => return Err(OutboundError::NotConnected),
        };
        let failed = |error: anyhow::Error| OutboundError::Connection(error.context("ratchets could not be stored"));
        stored.map_err(|panicked| failed(panicked.into()))?.map_err(|error| failed(error.into()))?;
        self.heard.stored(heard);
        Ok(())
    }

    /// Sends a message and waits for the server's acknowledgement until the deadline; `secret` is a poll's.
    ///
    /// A cancelled call may have sent the message.
    ///
    /// # Errors
    /// By [`OutboundError`].
    pub async fn send(&self, mut sent: Sent, secret: Option<&[u8]>, deadline: Instant) -> Result<Sent, OutboundError> {
        // In here, since thiserror's derive above would find its methods ambiguous.
        use whatsapp_rust::ErrorChainExt as _;

        let jid: Jid = sent.remote_jid.parse().map_err(|_error| OutboundError::Recipient)?;
        if !self.is_live() {
            return Err(OutboundError::NotConnected);
        }
        if deadline <= Instant::now() {
            return Err(OutboundError::TimedOut);
        }
        self.store_heard(deadline).await?;
        let id = sent.id.clone();
        let composed = compose::compose(&sent, secret);
        let (_expected, acknowledged) = self.acks.expect(&id, self.stream());
        let work = tokio::time::timeout_at(deadline, async {
            let options = SendOptions::default().with_message_id(id.as_str());
            self.client.send_message_with_options(jid, composed, options).await.map_err(|error| {
                match error.server_rejection() {
                    Some(rejection) => OutboundError::Refused(rejection.code),
                    None => OutboundError::Connection(error.into()),
                }
            })?;
            // A closed channel: the connection went away before the acknowledgement.
            acknowledged.await.map_err(|_closed| OutboundError::Unacknowledged)
        });
        // The library may wait long for answers that a given-up connection can't bring.
        let given_up = async {
            self.link.until_cut().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = given_up => return Err(OutboundError::Unacknowledged),
        };
        let ack = outcome.map_err(|_elapsed| OutboundError::Unacknowledged)??;
        if let Some(code) = ack.error {
            return Err(OutboundError::Refused(code));
        }
        let timestamp = ack.timestamp.unwrap_or_else(|| chrono::Utc::now().timestamp());
        sent.timestamp = u64::try_from(timestamp).unwrap_or_default();
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_ratchets_are_stored_is_not_taken_for_stored() {
        let heard = Heard::default();
        assert_eq!(heard.unstored(), None);
        heard.batch();
        let first = heard.unstored().unwrap();
        heard.batch();
        heard.stored(first);
        let second = heard.unstored().unwrap();
        heard.stored(second);
        assert_eq!(heard.unstored(), None);
    }
}
