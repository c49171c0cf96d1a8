//! Faults on command: what a server, a proxy or a network may do to a client.
//!
//! A fault lies in a list until it is cleared or has struck `count` times. Rooms ask the list where a fault would strike.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A kind of fault. As it stands it strikes everybody until cleared; `on`, `device` and `times` narrow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// Logins are answered by `<failure reason=code>`.
    RefuseLogin {
        /// 401, 403, 405, 409, 500 …
        code: u16,
    },
    /// Logins are answered by `<failure reason=402 code expire>`: banned for so long.
    Ban {
        /// 101 to 106.
        code: u16,
        /// Seconds.
        expire: u64,
    },
    /// TCP and WebSocket are accepted, the handshake is never answered. Knows no scope.
    SilentAccept,
    /// The handshake is answered; neither `success` nor codes follow, nor anything else. Knows no scope.
    SilentLogin,
    /// The HTTP upgrade is answered by 503. Knows no scope.
    RefuseUpgrade,
    /// The connection is closed before the upgrade is answered. Knows no scope.
    DropConnections,
    /// An IK hello is answered by `XXfallback`, as by a server with a new key. Knows no scope.
    DeclineIk,
    /// The connection is closed at an IK hello. Knows no scope.
    CloseOnIk,
    /// An IK hello is answered by the hello of an XX handshake, as by a server that knows no other. Knows no scope.
    AnswerIkByXx,
    /// Logins are answered by `<stream:error code>` instead of `success`, and the connection is closed.
    FailLogin {
        /// 515, 503, 429 …
        code: u16,
    },
    /// After `success` nothing is answered nor sent.
    SilentAfterLogin,
    /// Answers to queries are held back that long.
    SlowAnswers {
        /// Milliseconds.
        #[serde(rename = "millis", with = "millis")]
        delay: Duration,
    },
    /// Queries of this xmlns are never answered.
    DropAnswers {
        /// The xmlns, as `usync`; all if empty.
        #[serde(default)]
        xmlns: String,
    },
    /// Messages are refused by an ack with `error`.
    NackMessages {
        /// 479, 463, 403 …
        code: u16,
    },
    /// Messages are routed, their acks are lost.
    DropMessageAcks,
    /// Messages and their acks are lost.
    DropMessages,
    /// Acks of messages are held back that long.
    DelayAcks {
        /// Milliseconds.
        #[serde(rename = "millis", with = "millis")]
        delay: Duration,
    },
    /// Key fetches are refused by an iq error 503.
    RefusePreKeys,
    /// usync queries are refused by an iq error 503.
    RefuseUsync,
    /// usync queries are answered, but whether a number has an account by an error in the user's `contact`.
    RefuseContacts {
        /// 429, 500 …
        code: u16,
    },
    /// The connection is closed abruptly at the next message, which is neither routed nor acknowledged.
    CloseOnMessage,
    /// The connection is closed abruptly after the next message was routed, instead of the ack.
    CloseOnAck,
    /// The connection is closed as soon as the ack of the next message was written.
    CloseAfterAck,
    /// Downloads from the media hosts are refused by this status. Narrowed to a number, it strikes only clients that
    /// name the token of their media connection, as whatsapp-rust does.
    RefuseDownloads {
        /// 404, 410, 500 …
        code: u16,
        /// Only the objects whose path begins so (a query is ignored); all if empty.
        #[serde(default)]
        path: String,
    },
    /// Uploads to the media hosts are refused by this status.
    RefuseUploads {
        /// 401, 413, 500 …
        code: u16,
    },
    /// Answers of the media hosts are held back that long.
    SlowMedia {
        /// Milliseconds.
        #[serde(rename = "millis", with = "millis")]
        delay: Duration,
    },
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(delay: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// A fault with its scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injection {
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
    /// Only to devices of this number.
    #[serde(default)]
    pub phone: Option<String>,
    /// Only to devices of this number on their account.
    #[serde(default)]
    pub device: Option<u16>,
    /// How often it strikes before it is gone; `None`: until cleared.
    #[serde(default)]
    pub count: Option<u32>,
}

impl From<Fault> for Injection {
    fn from(fault: Fault) -> Self {
        Self { fault, phone: None, device: None, count: None }
    }
}

impl Fault {
    /// Strikes devices of this number only.
    pub fn on(self, phone: &str) -> Injection {
        Injection::from(self).on(phone)
    }

    /// Strikes that often, then is gone.
    pub fn times(self, count: u32) -> Injection {
        Injection::from(self).times(count)
    }
}

impl Injection {
    /// Strikes devices of this number only.
    #[must_use]
    pub fn on(mut self, phone: &str) -> Self {
        self.phone = Some(phone.to_owned());
        self
    }

    /// Strikes this companion only.
    #[must_use]
    pub fn device(mut self, device: u16) -> Self {
        self.device = Some(device);
        self
    }

    /// Strikes that often, then is gone.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }
}

/// Names an injected fault, to clear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FaultId(pub u64);

/// How a connection is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Kick {
    /// The TCP connection is closed without a word.
    Close,
    /// The connection stays open; nothing is answered nor sent any more.
    Silence,
    /// `<stream:error code>`, then the connection is closed.
    StreamError {
        /// 503, 515, 429, 401 …
        code: u16,
    },
    /// `<stream:error code>`; the connection stays open, and nothing is answered nor sent any more.
    StreamErrorOpen {
        /// 503, 429 …
        code: u16,
    },
    /// `<stream:error><conflict type=replaced>`: what a client calls 440.
    Replaced,
    /// `<failure reason=code>` at the next login, once; an open connection is closed now.
    Failure {
        /// 401, 403, 405, 409, 500 …
        code: u16,
    },
}

/// The injected faults.
#[derive(Default)]
pub(crate) struct Faults {
    list: Vec<(u64, Injection)>,
    next: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, injection: Injection) -> FaultId {
        self.next += 1;
        self.list.push((self.next, injection));
        FaultId(self.next)
    }

    pub(crate) fn clear(&mut self, FaultId(id): FaultId) {
        self.list.retain(|(other, _)| *other != id);
    }

    pub(crate) fn clear_all(&mut self) {
        self.list.clear();
    }

    /// Takes one strike of the first fault that `choose` wants and whose scope holds the device.
    pub(crate) fn strike<T>(&mut self, device: Option<(&str, u16)>, choose: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let place = self.list.iter().position(|(_, injection)| {
            let phone = injection.phone.as_deref().is_none_or(|phone| device.is_some_and(|(own, _)| own == phone));
            let number = injection.device.is_none_or(|wanted| device.is_some_and(|(_, own)| own == wanted));
            phone && number && choose(&injection.fault).is_some()
        })?;
        let (_, injection) = &mut self.list[place];
        let chosen = choose(&injection.fault);
        if let Some(count) = &mut injection.count {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.list.remove(place);
            }
        }
        chosen
    }
}
