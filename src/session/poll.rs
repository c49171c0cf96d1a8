//! Polls and their votes: what is known of a poll is kept beside the credentials, and a vote is told by its options' names.

use bytes::Bytes;

use crate::message::KnownPoll;
use crate::store::backend::SessionBackend;
use crate::whatsapp::Received;

/// Remembers a poll under the id of its message.
///
/// # Errors
/// When the store refuses; the backend is poisoned then.
pub(super) async fn keep(backend: &SessionBackend, id: &str, poll: &KnownPoll) -> anyhow::Result<()> {
    let row = serde_json::to_vec(poll).expect("a struct of texts and bytes always serialises");
    Ok(backend.keep_poll(id, Bytes::from(row)).await?)
}

/// What is known of a poll by the id of its message.
///
/// # Errors
/// When the store can't be read.
pub(super) async fn known(backend: &SessionBackend, id: &str) -> anyhow::Result<Option<KnownPoll>> {
    Ok(backend.poll(id).await?.and_then(|row| serde_json::from_slice(&row).ok()))
}

/// Remembers the polls among received messages, and puts names to the votes whose polls are known.
///
/// # Errors
/// As [`keep`].
pub(super) async fn settle(backend: &SessionBackend, received: &mut [Received]) -> anyhow::Result<()> {
    for message in received {
        if let Some(poll) = message.poll.take() {
            keep(backend, &message.incoming.id, &poll).await?;
        }
        let Some(vote) = message.vote.take() else { continue };
        let Some(row) = backend.poll(&vote.poll).await? else { continue };
        let Ok(poll) = serde_json::from_slice::<KnownPoll>(&row) else { continue };
        let Some(told) = &mut message.incoming.content.poll else { continue };
        told.selected = vote.open(&poll);
        if told.selected.is_some() {
            told.name = Some(poll.question);
            told.options = poll.options;
        }
    }
    Ok(())
}
