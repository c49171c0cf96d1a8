//! What an account or a group shows of itself: picture and about.

use std::time::Duration;

use tokio::time::Instant;
use whatsapp_rust::Jid;
use whatsapp_rust::usync::{
    UsyncContext, UsyncMode, UsyncProtocol, UsyncProtocolKind, UsyncProtocolResult, UsyncQuery, UsyncUser,
};

use super::Connection;
use super::number::Found;
use crate::message::{About, Profile, Recipient};

/// Each question of a profile takes no longer; the whole has three at most.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a profile can't be told.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The number has no account, or the address can't be one.
    #[error("the target is not on WhatsApp")]
    NotRegistered,
    /// There is no such group.
    #[error("no such group")]
    NoGroup,
    /// We are not in the group.
    #[error("not a member of the group")]
    NotMember,
    /// WhatsApp did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// WhatsApp refused with this code.
    #[error("refused with code {0}")]
    Refused(u16),
    /// The question could not be asked.
    #[error("the connection failed")]
    Connection(#[source] anyhow::Error),
}

impl Connection {
    /// Looks up the picture and the about of an account or a group; hidden ones are `None`.
    ///
    /// # Errors
    /// By [`LookupError`].
    pub async fn profile(&self, target: &Recipient, deadline: Instant) -> Result<Profile, LookupError> {
        let mut jid: Jid = target.as_str().parse().map_err(|_error| LookupError::NotRegistered)?;
        if target.is_group() {
            // First, since a group of others has no picture for us: the caller shall know why.
            let group = ask(deadline, self.client.groups().get_metadata(&jid)).await.map_err(|error| match error {
                LookupError::Refused(404) => LookupError::NoGroup,
                LookupError::Refused(401 | 403) => LookupError::NotMember,
                other => other,
            })?;
            let since = i64::try_from(group.description_time.unwrap_or_default()).unwrap_or_default();
            let about = group.description.filter(|text| !text.is_empty()).map(|text| About { text, since });
            return Ok(Profile { picture_url: self.picture_url(&jid, deadline).await?, about });
        }
        if jid.is_pn() {
            match self.find(&jid, deadline).await? {
                Found::Here => {}
                Found::As(number) => jid = Jid::pn(number.to_string()),
                Found::Nowhere => return Err(LookupError::NotRegistered),
            }
        }
        let (picture_url, about) = tokio::join!(self.picture_url(&jid, deadline), self.about(&jid, deadline));
        Ok(Profile { picture_url: picture_url?, about: about? })
    }

    /// Unlike before a send, a failed look-up is a failure: the answer is all that the caller wants.
    async fn find(&self, jid: &Jid, deadline: Instant) -> Result<Found, LookupError> {
        if let Some(known) = self.shared.numbers.known(&jid.user) {
            return Ok(known);
        }
        let results = ask(deadline, self.client.contacts().is_on_whatsapp(std::slice::from_ref(jid))).await?;
        let result = results.first();
        match self.shared.numbers.learn_from(&jid.user, result) {
            Some(found) => Ok(found),
            None => match result.and_then(|result| result.contact_error.as_ref()) {
                Some(error) => Err(LookupError::Refused(error.code.unwrap_or_default())),
                None => Ok(Found::Nowhere),
            },
        }
    }

    async fn picture_url(&self, jid: &Jid, deadline: Instant) -> Result<Option<String>, LookupError> {
        match ask(deadline, self.client.contacts().get_profile_picture(jid, false)).await {
            Ok(picture) => Ok(picture.map(|picture| picture.url)),
            // whatsapp-rust takes 401 and 404 for "none" itself; 403 is a group's.
            Err(LookupError::Refused(401 | 403 | 404)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn about(&self, jid: &Jid, deadline: Instant) -> Result<Option<About>, LookupError> {
        let query = UsyncQuery::new(
            UsyncMode::Query,
            UsyncContext::Interactive,
            vec![UsyncProtocol::Status],
            vec![UsyncUser::from_jid(jid.to_non_ad())],
        )
        .map_err(|error| LookupError::Connection(error.into()))?;
        let answer = ask(deadline, self.client.query_usync(query)).await?;
        let status = answer.users.first().and_then(|user| match user.protocol(UsyncProtocolKind::Status) {
            Some(UsyncProtocolResult::Status(outcome)) => outcome.value(),
            _ => None,
        });
        Ok(status.and_then(|status| {
            let text = status.status.as_ref().map(ToString::to_string).filter(|text| !text.is_empty())?;
            Some(About { text, since: status.timestamp.unwrap_or_default() })
        }))
    }
}

/// Asks WhatsApp one question.
async fn ask<T, E>(deadline: Instant, question: impl Future<Output = Result<T, E>>) -> Result<T, LookupError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    // In here, since thiserror's derive above would find its methods ambiguous.
    use whatsapp_rust::ErrorChainExt as _;

    let deadline = deadline.min(Instant::now() + QUESTION_TIMEOUT);
    match tokio::time::timeout_at(deadline, question).await {
        Err(_elapsed) => Err(LookupError::TimedOut),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match error.server_rejection() {
            Some(rejection) => LookupError::Refused(rejection.code),
            None => LookupError::Connection(error.into()),
        }),
    }
}
