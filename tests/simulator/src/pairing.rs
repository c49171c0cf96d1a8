//! Linking a companion by QR code or by a typed one: the phone signs, checks the answer; the server registers the device.

pub(crate) mod code;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::oneshot;
use tokio::time::timeout;
use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::waproto::buffa::Message as _;
use whatsapp_rust::waproto::whatsapp::ClientPairingProps;

use crate::counters::ClientKind;
use crate::phone::Phone;
use crate::server::Core;
use crate::stanza::{self, SERVER, attr, attr_is, bytes, child_content};
use crate::state::State;
use crate::state::account::{Device, Phase};
use crate::state::queue::Queue;

/// How long a client may take to answer `pair-success`.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// What newer clients put before the code.
const LINK_PREFIX: &str = "https://wa.me/settings/linked_devices#";

/// A QR code's fields.
struct Code<'a> {
    reference: &'a str,
    noise: [u8; 32],
    identity: [u8; 32],
    secret: [u8; 32],
}

impl<'a> Code<'a> {
    fn parse(qr: &'a str) -> anyhow::Result<Self> {
        let fields: Vec<&str> = qr.strip_prefix(LINK_PREFIX).unwrap_or(qr).split(',').collect();
        // Newer clients name the browser in a fifth field; baileys 7.0.0-rc.6 shows four.
        let ([reference, noise, identity, secret] | [reference, noise, identity, secret, _]) = fields[..] else {
            bail!("a QR code of {} fields", fields.len());
        };
        let key = |field: &str, what: &'static str| -> anyhow::Result<[u8; 32]> {
            STANDARD.decode(field).ok().and_then(|bytes| bytes.try_into().ok()).context(what)
        };
        Ok(Self {
            reference,
            noise: key(noise, "the code's noise key is no key")?,
            identity: key(identity, "the code's identity is no key")?,
            secret: key(secret, "the code's secret is no key")?,
        })
    }
}

impl Core {
    /// Acts as the phone that scans the code. Returns the new device's JID once the client has proved itself and was
    /// told to log in.
    pub(crate) async fn scan(self: &Arc<Self>, qr: &str, number: &str) -> anyhow::Result<String> {
        let scanned = self.link_by_qr(qr, number).await;
        if scanned.is_err() {
            self.with(|state| state.counters.scans_refused += 1);
        }
        scanned
    }

    async fn link_by_qr(self: &Arc<Self>, qr: &str, number: &str) -> anyhow::Result<String> {
        let code = Code::parse(qr)?;
        let phone = self.phone(number)?;
        let link = self.with(|state| claim(state, &code))?;
        let Code { identity, secret, .. } = code;
        self.pair(&phone, number, Candidate { link, identity, secret, feature: "qr-pairing" }).await
    }

    /// Signs a companion, has it prove itself, and makes it exist.
    async fn pair(self: &Arc<Self>, phone: &Phone, number: &str, candidate: Candidate) -> anyhow::Result<String> {
        let Candidate { link: id, identity, secret, feature } = candidate;
        let (answer, device, key_index) = self.with(|state| {
            let account = state.accounts.get_mut(number).context("no such phone")?;
            let (device, key_index) = account.next_companion();
            let container = phone.sign_companion(identity, &secret, key_index);
            let (serial, seal) = (state.serial(), oneshot::channel());
            let iq = format!("s.{serial}");
            let success = pair_success(state, number, device, &iq, &container)?;
            let link_state = state.links.get_mut(&id).context("the client has left")?;
            link_state.pending.insert(iq, seal.0);
            link_state.send(success);
            anyhow::Ok((seal.1, device, key_index))
        })?;
        let answer = timeout(ANSWER_LIMIT, answer).await.context("the client did not answer pair-success")?;
        let answer = answer.context("the client left while it was being paired")?;
        let stored = verify(&answer, key_index).and_then(|signed| phone.accept_device_signature(signed, identity));
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                self.with(|state| {
                    state.counters.violation("a pairing answer that does not verify");
                    if let Some(link) = state.links.get(&id) {
                        link.close();
                    }
                });
                return Err(error);
            }
        };
        self.with(|state| {
            let (jid, client) = enrol(state, id, number, device, key_index, stored)?;
            state.note(feature, client);
            Ok(jid)
        })
    }
}

/// A client whose keys the phone knows, by whichever code.
struct Candidate {
    link: u64,
    identity: [u8; 32],
    /// Known to the client and the phone only.
    secret: [u8; 32],
    /// What the table of features calls this way of linking.
    feature: &'static str,
}

/// Finds the client behind a QR code, once.
fn claim(state: &mut State, code: &Code<'_>) -> anyhow::Result<u64> {
    let reference = state.references.get(code.reference).context("an unknown reference")?;
    ensure!(reference.expires > Instant::now(), "the reference has expired");
    let id = reference.link;
    let link = state.links.get(&id).context("the client has left")?;
    let registration = link.registration.as_ref().context("the client is not registering")?;
    ensure!(link.noise == code.noise, "the code's noise key is not the connection's");
    ensure!(registration.identity == code.identity, "the code's identity is not the connection's");
    state.references.retain(|_, reference| reference.link != id); // one scan per connection
    Ok(id)
}

fn pair_success(state: &State, number: &str, device: u16, iq: &str, container: &[u8]) -> anyhow::Result<Node> {
    let account = state.accounts.get(number).context("no such phone")?;
    let address = account.address(device);
    let mut parts = vec![
        bytes("device-identity", container),
        NodeBuilder::new("device").attr("jid", address.pn_jid()).attr("lid", address.lid_jid()).build(),
        NodeBuilder::new("platform").attr("name", "android").build(),
    ];
    if account.lid_migrated {
        let props = ClientPairingProps { is_chat_db_lid_migrated: Some(true), ..ClientPairingProps::default() };
        parts.push(bytes("client-props", &props.encode_to_vec()));
    }
    Ok(NodeBuilder::new("iq")
        .attr("from", SERVER)
        .attr("type", "set")
        .attr("id", iq)
        .attr("xmlns", "md")
        .attr("t", stanza::now())
        .children([NodeBuilder::new("pair-success").children(parts).build()])
        .build())
}

fn verify(answer: &Node, key_index: u32) -> anyhow::Result<&[u8]> {
    if attr_is(answer, "type", "error") {
        let error = answer.get_optional_child("error");
        let say = |key| error.and_then(|error| attr(error, key)).unwrap_or_default();
        bail!("the client refused the pairing: {} {}", say("code"), say("text"));
    }
    let sign = answer.get_optional_child("pair-device-sign").context("no pair-device-sign in the answer")?;
    let identity = sign.get_optional_child("device-identity").context("no device-identity in the answer")?;
    ensure!(attr(identity, "key-index") == Some(key_index.to_string()), "the answer names another key index");
    child_content(sign, "device-identity").context("an empty device-identity")
}

/// Makes the device exist, then restarts the client, which logs in within milliseconds.
fn enrol(
    state: &mut State,
    id: u64,
    number: &str,
    device: u16,
    key_index: u32,
    signed_identity: Vec<u8>,
) -> anyhow::Result<(String, ClientKind)> {
    let link = state.links.get_mut(&id).context("the client has left")?;
    let registration = link.registration.take().context("the client is not registering")?;
    let client = link.client;
    let enrolled = Device {
        noise: link.noise,
        registration: registration.id,
        identity: registration.identity,
        signed_key: registration.signed_key,
        pool: std::collections::VecDeque::new(),
        key_index,
        signed_identity,
        client,
        name: registration.name,
        push_name: String::new(),
        queue: Queue::default(),
        link: None,
        phase: Phase::Offline,
        greeted: false,
        available: false,
        warned: false,
    };
    let account = state.accounts.get_mut(number).context("no such phone")?;
    account.devices.insert(device, enrolled);
    let jid = account.address(device).pn_jid().to_string();
    state.counters.pairings += 1;
    crate::iq::directory::tell_devices(state, number, true, device, key_index);
    if let Some(link) = state.links.get(&id) {
        link.send(stanza::stream_error(515));
        link.close();
    }
    Ok((jid, client))
}

impl Core {
    /// A stanza from a client that has no device yet.
    pub(crate) fn receive_unregistered(self: &Arc<Self>, id: u64, node: &Node) {
        if node.tag != "iq" {
            return; // whatsapp-rust sends `ib` and presence early; nothing to answer
        }
        let iq = attr(node, "id").unwrap_or_default();
        self.with(|state| {
            let Some(link) = state.links.get_mut(&id) else { return };
            if attr_is(node, "type", "result") || attr_is(node, "type", "error") {
                if let Some(waiting) = link.pending.remove(&iq)
                    && waiting.send(node.clone()).is_err()
                {
                    tracing::debug!("a pairing answer came too late");
                }
            } else if attr_is(node, "xmlns", "w:p") {
                link.send(stanza::with_attr(stanza::result(&iq, []), "t", stanza::now()));
                state.counters.pings += 1;
            } else if let Some(asked) = code::asked(node) {
                let answer = code::step(state, id, &iq, asked);
                if let Some(link) = state.links.get(&id) {
                    link.send(answer);
                }
            } else {
                link.send(stanza::error(&iq, 401, "not-authorized"));
            }
        });
    }
}
