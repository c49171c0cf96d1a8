//! Signal sessions and sender keys as libsignal-node keeps them, made into the library's records.
//!
//! Differences that matter (WhiskeySockets/libsignal-node, `session_record.js`, `session_cipher.js`): a chain's counter is
//! that of the last message, not of the next; a finished chain has no key; skipped message keys are kept as seeds; old
//! receiving chains are never dropped, of which the library keeps five.

use std::cmp::Reverse;

use whatsapp_rust::wacore::libsignal::protocol::{
    IdentityKey, PendingPreKeyComponents, SenderChainKeyComponents, SenderKeyRecord, SenderKeyRecordComponents,
    SenderKeyStateComponents, SenderMessageKeyComponents, SenderSigningKeyComponents, SessionChainComponents,
    SessionChainKeyComponents, SessionComponents, SessionMessageKeyComponents, SessionMessageKeyMaterial,
    SessionRecord, SessionRecordComponents, SignalProtocolError, consts,
};

use super::{Local, Pair, Refused, exact, public};

/// The version of the protocol that libsignal-node speaks.
const VERSION: u32 = 3;

/// One Signal session.
#[derive(Clone, Debug, Default)]
pub struct Ratchet {
    /// The one that is written with; the others only read what comes late.
    pub open: bool,
    /// When it last read something; orders those that are not open.
    pub used_at: u64,
    /// The other device's.
    pub registration_id: u32,
    /// Ours, of now.
    pub ratchet: Pair,
    /// The other's, of now.
    pub last_remote: Vec<u8>,
    /// The counter of the last message of the sending chain before; −1: it had none.
    pub previous_counter: i64,
    /// Makes the next chains.
    pub root_key: Vec<u8>,
    /// Of whoever began.
    pub base_key: Vec<u8>,
    /// The other device's identity.
    pub remote_identity: Vec<u8>,
    /// The sending one and those that receive, oldest first.
    pub chains: Vec<Chain>,
    /// The pre-keys that messages name until the first answer.
    pub pending: Option<Pending>,
}

/// One chain of a session.
#[derive(Clone, Default)]
pub struct Chain {
    /// The sender's ratchet key.
    pub ratchet_key: Vec<u8>,
    /// Ours.
    pub sending: bool,
    /// The counter of the last message key that was made; −1: none yet.
    pub counter: i64,
    /// `None`: finished, only the skipped ones are left.
    pub key: Option<Vec<u8>>,
    /// Seeds of message keys whose messages have not come.
    pub skipped: Vec<(u32, Vec<u8>)>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("sending", &self.sending).field("counter", &self.counter).finish_non_exhaustive()
    }
}

/// What the first messages of a session name.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the protocol's own names")]
pub struct Pending {
    pub prekey_id: Option<u32>,
    pub signed_prekey_id: u32,
    pub base_key: Vec<u8>,
}

/// One generation of a sender key.
#[derive(Clone, Default)]
pub struct SenderState {
    /// Its random number.
    pub id: u32,
    /// The number of the next message.
    pub iteration: u32,
    /// Makes the next message keys.
    pub seed: Vec<u8>,
    /// Of the messages' signatures; the private half is the own key's only.
    pub signing: Pair,
    /// Seeds of message keys whose messages have not come.
    pub skipped: Vec<(u32, Vec<u8>)>,
}

impl std::fmt::Debug for SenderState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SenderState").field("iteration", &self.iteration).finish_non_exhaustive()
    }
}

/// The library's record of the sessions with one device.
pub(super) struct Record {
    pub(super) bytes: Vec<u8>,
    pub(super) identity: [u8; 32],
    pub(super) refused: Vec<Refused>,
    pub(super) chains_left: usize,
}

pub(super) fn session_record(mut sessions: Vec<Ratchet>, local: Local) -> Result<Record, Refused> {
    // libsignal-node writes with the first open one, and reads with the one used last.
    let mut opened = false;
    for session in &mut sessions {
        let first = session.open && !opened;
        opened |= session.open;
        session.open = first;
    }
    sessions.sort_by_key(|session| (!session.open, Reverse(session.used_at)));
    let (mut current, mut previous) = (None, Vec::new());
    let (mut refused, mut chains_left, mut identity) = (Vec::new(), 0, None);
    for session in sessions {
        let open = session.open;
        let of = public(&session.remote_identity, "remote identity");
        let made = of.and_then(|of| Ok((of, components(session, local)?)));
        // Each on its own first: a damaged one must not take the others with it.
        let made = made.and_then(|(of, (made, left))| {
            let alone = SessionRecordComponents { current_session: Some(made.clone()), previous_sessions: Vec::new() };
            SessionRecord::from_components(alone).map_err(encoding)?;
            Ok((of, made, left))
        });
        match made {
            Ok((of, made, left)) => {
                chains_left += left;
                identity.get_or_insert(of);
                if open { current = Some(made) } else { previous.push(made) }
            }
            Err(error) => refused.push(error),
        }
    }
    let Some(identity) = identity else {
        return Err(refused.into_iter().next().unwrap_or(Refused::Empty));
    };
    let record = SessionRecordComponents { current_session: current, previous_sessions: previous };
    let record = SessionRecord::from_components(record).map_err(encoding)?;
    let identity = exact(identity.public_key_bytes(), "remote identity")?;
    Ok(Record { bytes: record.serialize().map_err(encoding)?, identity, refused, chains_left })
}

fn encoding(error: SignalProtocolError) -> Refused {
    Refused::Encoding(Box::new(error))
}

/// The session's parts, and how many of its receiving chains were left out.
fn components(session: Ratchet, local: Local) -> Result<(SessionComponents, usize), Refused> {
    let ratchet = session.ratchet.checked("ratchet key")?;
    let last_remote = public(&session.last_remote, "remote ratchet key")?;
    let (mut sending, receiving): (Vec<_>, Vec<_>) = session.chains.into_iter().partition(|chain| chain.sending);
    let (Some(sender), true) = (sending.pop(), sending.is_empty()) else {
        return Err(Refused::Damaged("sending chain"));
    };
    if sender.key.is_none() || public(&sender.ratchet_key, "sending chain")? != ratchet.public_key {
        return Err(Refused::Damaged("sending chain"));
    }
    let is_last = |chain: &Chain| public(&chain.ratchet_key, "receiving chain").ok() == Some(last_remote);
    let (mut kept, left) = newest(receiving, is_last);
    if !kept.is_empty() {
        // The library takes the last one for the newest.
        let last = kept.iter().position(is_last).ok_or(Refused::Damaged("receiving chain"))?;
        let newest = kept.remove(last);
        kept.push(newest);
    }
    let base_key = public(&session.base_key, "base key")?;
    let pending = session
        .pending
        .map(|pending| {
            if public(&pending.base_key, "pending pre-key")? != base_key {
                return Err(Refused::Damaged("pending pre-key"));
            }
            Ok(PendingPreKeyComponents {
                pre_key_id: pending.prekey_id,
                signed_pre_key_id: Some(pending.signed_prekey_id.cast_signed()),
                base_key: Some(pending.base_key),
                kyber_pre_key_id: None,
                kyber_ciphertext: None,
            })
        })
        .transpose()?;
    let private = session.ratchet.private;
    let components = SessionComponents {
        session_version: Some(VERSION),
        local_identity_public: Some(local.identity.serialize().to_vec()),
        remote_identity_public: Some(
            IdentityKey::new(public(&session.remote_identity, "remote identity")?).serialize().to_vec(),
        ),
        root_key: Some(session.root_key),
        previous_counter: Some(match session.previous_counter {
            -1 => 0,
            counter => u32::try_from(counter).map_err(|_range| Refused::Damaged("previous counter"))?,
        }),
        sender_chain: Some(chain(sender, Some(private))?),
        receiver_chains: kept.into_iter().map(|kept| chain(kept, None)).collect::<Result<_, _>>()?,
        pending_key_exchange: None,
        pending_pre_key: pending,
        remote_registration_id: Some(session.registration_id),
        local_registration_id: Some(local.registration_id),
        needs_refresh: None,
        alice_base_key: Some(session.base_key),
    };
    Ok((components, left))
}

/// As many receiving chains as the library keeps: the last one, those that still wait for messages, the newest others.
fn newest(chains: Vec<Chain>, is_last: impl Fn(&Chain) -> bool) -> (Vec<Chain>, usize) {
    let count = chains.len();
    let mut ranked: Vec<(usize, Chain)> = chains.into_iter().enumerate().collect();
    if count > consts::MAX_RECEIVER_CHAINS {
        ranked.sort_by_key(|(place, chain)| (!is_last(chain), chain.skipped.is_empty(), Reverse(*place)));
    }
    ranked.truncate(consts::MAX_RECEIVER_CHAINS);
    ranked.sort_by_key(|(place, _)| *place);
    (ranked.into_iter().map(|(_, chain)| chain).collect(), count.saturating_sub(consts::MAX_RECEIVER_CHAINS))
}

fn chain(chain: Chain, private: Option<Vec<u8>>) -> Result<SessionChainComponents, Refused> {
    let next = chain.counter.checked_add(1).and_then(|next| u32::try_from(next).ok());
    let next = next.ok_or(Refused::Damaged("chain counter"))?;
    Ok(SessionChainComponents {
        sender_ratchet_key: Some(chain.ratchet_key),
        sender_ratchet_key_private: private,
        chain_key: Some(SessionChainKeyComponents { index: Some(next), key: chain.key }),
        message_keys: skipped(chain.skipped, next)?
            .into_iter()
            .map(|(index, seed)| {
                Ok(SessionMessageKeyComponents {
                    index,
                    material: SessionMessageKeyMaterial::Seed(exact(&seed, "skipped key")?),
                })
            })
            .collect::<Result<_, Refused>>()?,
    })
}

/// The skipped keys, the newest of too many; each must be of a message before the next.
fn skipped(mut keys: Vec<(u32, Vec<u8>)>, next: u32) -> Result<Vec<(u32, Vec<u8>)>, Refused> {
    if keys.iter().any(|(index, _)| *index >= next) {
        return Err(Refused::Damaged("skipped key"));
    }
    keys.sort_by_key(|(index, _)| *index);
    keys.dedup_by_key(|(index, _)| *index);
    keys.drain(..keys.len().saturating_sub(consts::MAX_MESSAGE_KEYS));
    Ok(keys)
}

/// The library's record of the sender keys of one device in a group.
pub(super) fn sender_record(states: Vec<SenderState>) -> Result<Vec<u8>, Refused> {
    if states.is_empty() {
        return Err(Refused::Empty);
    }
    let states = states.into_iter().map(|state| {
        let signing = public(&state.signing.public, "signing key")?;
        let private = (!state.signing.private.is_empty()).then_some(state.signing.private);
        Ok(SenderKeyStateComponents {
            key_id: state.id,
            chain_key: SenderChainKeyComponents { iteration: state.iteration, seed: state.seed },
            signing_key: SenderSigningKeyComponents { public: signing.serialize().to_vec(), private },
            message_keys: skipped(state.skipped, state.iteration)?
                .into_iter()
                .map(|(iteration, seed)| SenderMessageKeyComponents { iteration, seed })
                .collect(),
        })
    });
    let states = states.collect::<Result<Vec<_>, Refused>>()?;
    let record = SenderKeyRecord::from_components(SenderKeyRecordComponents { states }).map_err(encoding)?;
    record.serialize().map_err(encoding)
}
