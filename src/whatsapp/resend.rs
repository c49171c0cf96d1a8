//! Asks the sender of a message to send it once more.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::Semaphore;
use whatsapp_rust::types::message::MessageInfo;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Client, NodeBuilder, RetryReason, RetryRequestError, RetryRequestOptions};

/// Connecting, at worst, and one receipt.
const LIMIT: Duration = Duration::from_secs(10);

/// Messages of one session that are asked for with keys at the same time; the library's own requests go on beside them.
const AT_ONCE: usize = 16;

/// One session's early requests.
#[derive(Clone)]
pub(super) struct Early(Arc<Semaphore>);

impl Early {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Asks at once in the way that mends a chat whose encryption state we don't have, as after a move or a restored backup.
    ///
    /// The library asks without keys first, and with them when the message comes a second time and can't be read either
    /// (whatsapp-rust 0.7.0, `wacore::protocol::retry`). Without a state here that second time is certain, so the second
    /// request goes out with the first: the sender makes a new session after one round.
    pub(super) async fn ask(&self, client: &Arc<Client>, info: &MessageInfo) {
        let Ok(_permit) = self.0.try_acquire() else { return };
        let source = &info.source;
        if source.is_from_me || !matches!(client.signal().validate_session(&source.sender).await, Ok(false)) {
            return;
        }
        let (chat, sender) = (source.chat.to_string(), source.sender.to_string());
        // The count that the library's first request has.
        let repeated = NodeBuilder::new("enc").attr("count", "1").build();
        let options = RetryRequestOptions::new().with_reason(RetryReason::NoSession).with_force_include_keys(true);
        let asked = request(client, (&chat, &sender, &info.id), Some(repeated), options).await;
        match asked {
            Ok(()) => tracing::info!(message = %info.id, "no encryption state for a sender; asked for a new one"),
            Err(error) => {
                tracing::debug!(message = %info.id, error = format!("{error:#}"), "a sender was not asked early")
            }
        }
    }
}

/// Why nobody was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("not in time")]
    Late,
    #[error(transparent)]
    Refused(#[from] RetryRequestError),
}

/// Sends a retry receipt for the message with this chat, sender and id.
pub(super) async fn request(
    client: &Arc<Client>,
    (chat, sender, id): (&str, &str, &str),
    child: Option<Node>,
    options: RetryRequestOptions,
) -> Result<(), AskError> {
    let stanza = NodeBuilder::new("message").attr("id", id).attr("type", "text");
    // The library takes the time only for the age of the message.
    let stanza = stanza.attr("t", Utc::now().timestamp()).children(child);
    let in_chat = chat.ends_with("@g.us") || chat.ends_with("@broadcast");
    let stanza =
        if in_chat { stanza.attr("from", chat).attr("participant", sender) } else { stanza.attr("from", sender) };
    let stanza = stanza.build();
    let stanza = stanza.as_node_ref();
    match tokio::time::timeout(LIMIT, client.request_message_retry(&stanza, options)).await {
        Ok(asked) => Ok(asked.map(|_outcome| ())?),
        Err(_elapsed) => Err(AskError::Late),
    }
}
