//! What a caller gets at: rooms of the lower floors behind the rights of the key that was sent.
//!
//! `AppState` keeps each room that knows sessions within a [`Guarded`], and only this file can open one. So a handler of
//! a new route can't forget to ask whose sessions it may show. The rules for new code:
//!
//! - A handler takes [`Sessions`] as an argument, not the state's manager, and calls the verbs on it. A new verb of
//!   `SessionManager` gets a method here: it names the scope it needs, and answers for a session that the caller may
//!   not see exactly what it answers for one that does not exist, so that nobody can tell the two apart. What changes a
//!   session is audited there.
//! - What holds entries of many sessions (dead letters, records of sent messages) is `Guarded` in `AppState` too; its
//!   methods stand here, and filter by [`Sessions::sees`].
//! - What is about the gateway as a whole and can't be filtered goes on a route of [`Scope::Admin`].

use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;

use super::Shared;
use super::auth::{Login, Principal, Scope};
use super::error::ApiError;
use crate::event::{SessionName, Status};
use crate::ledger::Record;
use crate::media::Folder;
use crate::message::{Outgoing, Profile, Recipient, Sent};
use crate::session::{
    Answer, Delivery, EndError, ExportError, MessageError, OnceError, ProfileError, Repeat, SendError, SessionManager,
    SessionSummary, SessionWebhook, Spelling, StartError, Started, WebhookError,
};

/// A room that handlers reach through this file only.
#[derive(Clone)]
pub struct Guarded<T>(T);

impl<T> From<T> for Guarded<T> {
    fn from(room: T) -> Self {
        Self(room)
    }
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

/// The sessions as this caller sees them.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    manager: Guarded<SessionManager>,
    caller: Principal,
}

impl FromRequestParts<Shared> for Sessions {
    type Rejection = ApiError;

    /// A request that came past the guard has no caller, and is refused.
    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let caller = match parts.extensions.get::<Principal>() {
            Some(caller) => caller.clone(),
            None => Principal::dashboard(parts.extensions.get::<Login>().ok_or_else(ApiError::unauthorized)?),
        };
        Ok(Self { manager: state.sessions.clone(), caller })
    }
}

/// Received files.
#[derive(Clone, Debug)]
pub struct Media {
    /// Where they are.
    pub folder: Folder,
    /// Whether only callers with a key see them, each those of its own sessions; else whoever has a link.
    pub require_key: bool,
}

/// Whether the table asks for a key before files.
pub(super) fn media_require_key(state: &Shared) -> bool {
    state.media.0.require_key
}

/// Received files as this caller sees them.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: Folder,
    /// `None`: everybody may see them.
    sessions: Option<Sessions>,
}

impl FromRequestParts<Shared> for Files {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let Media { folder, require_key } = state.media.0.clone();
        let sessions = if require_key { Some(Sessions::from_request_parts(parts, state).await?) } else { None };
        Ok(Self { folder, sessions })
    }
}

impl Files {
    /// The folder, when the caller may see the file of this name in it. Blocking.
    pub(super) fn folder_of(self, name: &str) -> Option<Folder> {
        let Some(sessions) = self.sessions else { return Some(self.folder) };
        let is_seen = sessions.caller.sees_all()
            || sessions.caller.names().any(|session| self.folder.is_of(session, name))
            || sessions.list().iter().any(|row| self.folder.is_of(row.session.as_str(), name));
        is_seen.then_some(self.folder)
    }
}

/// A name that the caller may give to a new session.
#[derive(Clone, Debug)]
pub(super) struct Startable(SessionName);

impl Startable {
    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Sessions {
    /// Whether the caller may do this with a session of this name.
    pub(super) fn sees(&self, scope: Scope, name: &str) -> bool {
        self.caller.may(scope) && self.caller.sees(name)
    }

    /// The manager, when the caller may do this with the session.
    fn of(&self, scope: Scope, name: &str) -> Option<&SessionManager> {
        self.sees(scope, name).then_some(&self.manager.0)
    }

    /// The listed sessions that the caller may see.
    pub(super) fn list(&self) -> Vec<SessionSummary> {
        let mut rows = self.manager.0.list();
        rows.retain(|row| self.sees(Scope::Read, row.session.as_str()));
        rows
    }

    /// The list as `spell` writes it: spelled anew only after a change, for those who see all of it.
    pub(super) fn spelled(&self, spell: fn(&[SessionSummary]) -> Bytes) -> Bytes {
        if self.caller.may(Scope::Read) && self.caller.sees_all() {
            self.manager.0.spelled(spell)
        } else {
            spell(&self.list())
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<SessionSummary> {
        self.of(Scope::Read, name)?.find(name)
    }

    pub(super) fn code(&self, name: &str) -> Option<String> {
        self.of(Scope::Manage, name)?.code(name)
    }

    /// Lets a name through that the caller may start. The answer depends on the name only, not on any session.
    pub(super) fn startable(&self, name: SessionName) -> Result<Startable, ApiError> {
        if self.sees(Scope::Manage, name.as_str()) { Ok(Startable(name)) } else { Err(ApiError::forbidden()) }
    }

    pub(super) async fn start(&self, name: Startable) -> Result<Started, StartError> {
        // Whoever shows a code asks for it again and again.
        if self.manager.0.find(name.as_str()).is_none_or(|row| row.status == Status::Disconnected) {
            self.caller.audit("start", "session", name.as_str());
        }
        self.manager.0.start(name.0).await
    }

    pub(super) async fn renew(&self, name: Startable) -> Result<Started, StartError> {
        self.manager.0.renew(name.0.as_str()).await
    }

    pub(super) async fn stop(&self, name: &str) -> Result<(), EndError> {
        let manager = self.of(Scope::Manage, name).ok_or(EndError::NotFound)?;
        self.caller.audit("stop", "session", name);
        manager.stop(name).await
    }

    pub(super) async fn logout(&self, name: &str) -> Result<(), EndError> {
        let manager = self.of(Scope::Manage, name).ok_or(EndError::NotFound)?;
        self.caller.audit("logout", "session", name);
        manager.logout(name).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), EndError> {
        let manager = self.of(Scope::Manage, name).ok_or(EndError::NotFound)?;
        self.caller.audit("delete", "session", name);
        manager.delete(name).await
    }

    /// The uid of a session that has left; whoever has its keys has the account, so this is for the master key.
    pub(super) async fn export(&self, name: &str) -> Result<String, ExportError> {
        let manager = self.of(Scope::Admin, name).ok_or(ExportError::NotFound)?;
        self.caller.audit("export", "session", name);
        manager.export(name).await
    }

    pub(super) fn check_ready(&self, scope: Scope, name: &str) -> Result<(), SendError> {
        self.of(scope, name).ok_or(SendError::NoSession)?.check_ready(name)
    }

    pub(super) async fn send(
        &self,
        name: &str,
        to: Recipient,
        message: Outgoing,
        typing: bool,
    ) -> Result<Sent, SendError> {
        self.of(Scope::Send, name).ok_or(SendError::NoSession)?.send(name, to, message, typing).await
    }

    pub(super) async fn send_text(
        &self,
        name: &str,
        to: Recipient,
        text: String,
        typing: bool,
    ) -> Result<Sent, SendError> {
        self.of(Scope::Send, name).ok_or(SendError::NoSession)?.send_text(name, to, text, typing).await
    }

    /// Whether there is such a session, for who may do this with it.
    pub(super) fn has(&self, scope: Scope, name: &str) -> bool {
        self.of(scope, name).is_some_and(|manager| manager.find(name).is_some())
    }

    pub(super) async fn send_once(
        &self,
        name: &str,
        to: Recipient,
        message: Outgoing,
        typing: bool,
        repeat: Repeat,
        spelling: Spelling,
    ) -> Result<Answer, OnceError> {
        let manager = self.of(Scope::Send, name).ok_or(OnceError::NoSession)?;
        manager.send_once(name, to, message, typing, repeat, spelling).await
    }

    /// What became of a message that was sent.
    pub(super) async fn message(&self, name: &str, id: &str) -> Result<Record, MessageError> {
        self.of(Scope::Read, name).ok_or(MessageError::NoSession)?.message(name, id).await
    }

    /// The deliveries of the sessions with which the caller may do this.
    pub(super) fn deliveries(&self, scope: Scope) -> Vec<Delivery> {
        let mut deliveries = self.manager.0.deliveries();
        deliveries.retain(|delivery| self.sees(scope, delivery.session.as_str()));
        deliveries
    }

    pub(super) fn delivery(&self, scope: Scope, name: &str) -> Option<Delivery> {
        self.of(scope, name)?.delivery(name)
    }

    pub(super) fn webhook(&self, name: &str) -> Result<Option<SessionWebhook>, WebhookError> {
        self.of(Scope::Read, name).ok_or(WebhookError::NotFound)?.webhook(name)
    }

    pub(super) async fn set_webhook(&self, name: &str, webhook: Option<SessionWebhook>) -> Result<(), WebhookError> {
        self.of(Scope::Manage, name).ok_or(WebhookError::NotFound)?.set_webhook(name, webhook).await
    }

    pub(super) async fn profile(&self, name: &str, target: &Recipient) -> Result<Profile, ProfileError> {
        self.of(Scope::Read, name).ok_or(ProfileError::NoSession)?.profile(name, target).await
    }
}
