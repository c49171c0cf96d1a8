//! One WebSocket connection: handshake, then registration or login, then stanzas until the end.
//!
//! The reading side runs in the connection's own task; a second task owns the writing half and seals in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::waproto::whatsapp as wa;

use crate::counters::ClientKind;
use crate::fault::Fault;
use crate::server::Core;
use crate::stanza::{self, SERVER};
use crate::state::account::Phase;
use crate::state::{Link, Out, Reference, Registration, Sender};
use crate::wire::frame::{FrameReader, FrameWriter, Stream, split};
use crate::wire::noise::{Handshake, OnIk, Pattern, respond};
use crate::wire::{Cipher, pack, unpack};

/// A client that has not finished its handshake by then is dropped; clients give up after 20 s themselves.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(25);
/// Stanzas that wait for the writer. A client that lets so many pile up does not read.
const OUTBOX: usize = 8192;

/// Carries a connection from its first byte to its end.
pub(crate) async fn serve(core: Arc<Core>, socket: WebSocketStream<Stream>) {
    let token = core.token.child_token();
    let (mut reader, mut writer) = split(socket, core.options.framing);
    let silent = core.with(|state| {
        state.counters.connections_opened += 1;
        state.strikes(&Fault::SilentAccept)
    });
    if silent {
        swallow(&mut reader, &token).await;
        return;
    }
    let on_ik = core.with(|state| {
        let faults = [
            (Fault::DeclineIk, OnIk::Decline),
            (Fault::AnswerIkByXx, OnIk::AnswerByXx),
            (Fault::CloseOnIk, OnIk::Close),
        ];
        faults.into_iter().find_map(|(fault, on_ik)| state.strikes(&fault).then_some(on_ik)).unwrap_or(OnIk::Accept)
    });
    let shaken = timeout(HANDSHAKE_LIMIT, async {
        reader.prologue().await?;
        respond(&mut reader, &mut writer, &core.identity, on_ik).await
    });
    let handshake = tokio::select! {
        () = token.cancelled() => return,
        shaken = shaken => match shaken.context("the handshake took too long").flatten() {
            Ok(handshake) => handshake,
            Err(error) => {
                tracing::debug!(%error, "handshake failed");
                core.with(|state| state.counters.handshakes_failed += 1);
                return;
            }
        },
    };
    if !core.options.settle.is_zero() {
        tokio::time::sleep(core.options.settle).await;
    }
    run(&core, handshake, reader, writer, token).await;
}

/// Reads and forgets until the client leaves.
async fn swallow(reader: &mut FrameReader, token: &CancellationToken) {
    tokio::select! {
        () = token.cancelled() => {}
        () = async { while matches!(reader.frame().await, Ok(Some(_))) {} } => {}
    }
}

async fn run(
    core: &Arc<Core>,
    handshake: Handshake,
    mut reader: FrameReader,
    writer: FrameWriter,
    token: CancellationToken,
) {
    let Handshake { pattern, client: noise, payload, sending, mut receiving } = handshake;
    let (queue, outbox) = mpsc::channel(OUTBOX);
    let silent = Arc::new(AtomicBool::new(false));
    let client = ClientKind::of(&payload);
    let link = Link {
        client,
        noise,
        queue,
        token: token.clone(),
        silent: Arc::clone(&silent),
        registration: None,
        device: None,
        pending: std::collections::HashMap::new(),
        pull: Arc::new(Notify::new()),
    };
    let id = core.with(|state| {
        state.note(pattern.feature(), client);
        match pattern {
            Pattern::Xx => state.counters.handshakes_xx += 1,
            Pattern::Ik => state.counters.handshakes_ik += 1,
            Pattern::XxFallback => state.counters.handshakes_xxfallback += 1,
        }
        if state.strikes(&Fault::SilentLogin) {
            silent.store(true, Ordering::Relaxed);
        }
        let id = state.serial();
        state.links.insert(id, link);
        id
    });
    core.tracker.spawn(write(Arc::clone(core), client, writer, sending, outbox, token.clone()));
    let welcomed =
        if payload.username.is_some() { login(core, id, pattern, &payload) } else { register(core, id, &payload) };
    if let Err(error) = welcomed {
        core.with(|state| {
            state.counters.violation(&error.to_string());
            close(state, id);
        });
    }
    let expiry = core.options.registration_ends();
    let unregistered = payload.username.is_none();
    let ended = async {
        if unregistered {
            tokio::time::sleep(expiry).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = token.cancelled() => {}
        () = ended => tracing::debug!("all codes of a registration have expired"),
        read = read(core, id, &mut reader, &mut receiving, &silent) => if let Err(error) = read {
            tracing::debug!(%error, "a connection broke");
        },
    }
    core.with(|state| state.disconnected(id));
    token.cancel();
}

fn close(state: &mut crate::state::State, id: u64) {
    if let Some(link) = state.links.get(&id) {
        link.close();
    }
}

async fn read(
    core: &Arc<Core>,
    id: u64,
    reader: &mut FrameReader,
    receiving: &mut Cipher,
    silent: &AtomicBool,
) -> anyhow::Result<()> {
    while let Some(frame) = reader.frame().await? {
        let node = match receiving.open(&frame).and_then(|clear| unpack(&clear)) {
            Ok(node) => node,
            Err(error) => {
                core.with(|state| state.counters.violation("unreadable frame"));
                return Err(error);
            }
        };
        if !silent.load(Ordering::Relaxed) {
            core.receive(id, &node);
        }
    }
    Ok(())
}

async fn write(
    core: Arc<Core>,
    client: ClientKind,
    mut writer: FrameWriter,
    mut sending: Cipher,
    mut outbox: mpsc::Receiver<Out>,
    token: CancellationToken,
) {
    let compress = core.options.compress;
    let work = async {
        while let Some(first) = outbox.recv().await {
            let mut next = Some(first);
            while let Some(out) = next {
                let node = match out {
                    Out::Node(node) => node,
                    Out::Close(goodbye) => {
                        writer.flush().await?;
                        // The client closes when it has read the last word; the server only if it does not.
                        tokio::time::sleep(goodbye).await;
                        writer.close().await;
                        token.cancel();
                        return Ok(());
                    }
                };
                tracing::trace!(?node, "sending");
                let (clear, compressed) = pack(&node, compress)?;
                if compressed {
                    core.with(|state| {
                        state.counters.compressed_frames += 1;
                        state.note("compressed-frames", client);
                    });
                }
                writer.feed(&sending.seal(&clear)?).await?;
                next = outbox.try_recv().ok();
            }
            writer.flush().await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = token.cancelled() => {}
        done = work => if let Err(error) = done {
            tracing::debug!(%error, "writing to a client");
            token.cancel();
        },
    }
}

/// Hands QR references to an unregistered client.
fn register(core: &Core, id: u64, payload: &wa::ClientPayload) -> anyhow::Result<()> {
    let data = payload.device_pairing_data.as_option().context("registration without pairing data")?;
    let field = |value: &Option<Vec<u8>>, length: usize, what: &'static str| -> anyhow::Result<Vec<u8>> {
        value.clone().filter(|bytes| bytes.len() == length).context(what)
    };
    let identity = field(&data.e_ident, 32, "registration with a bad identity")?;
    let signed_key = (
        field(&data.e_skey_id, 3, "registration with a bad signed key id")?,
        field(&data.e_skey_val, 32, "registration with a bad signed key")?,
        field(&data.e_skey_sig, 64, "registration with a bad signature")?,
    );
    crate::iq::keys::verify_signed_key(&identity, &signed_key)?;
    if data.e_keytype.as_deref() != Some(&[5]) {
        bail!("registration with a bad key type");
    }
    let props = data.device_props.as_deref().unwrap_or_default();
    let props =
        whatsapp_rust::waproto::buffa::Message::decode_from_slice(props).unwrap_or_else(|_| wa::DeviceProps::default());
    let registration = Registration {
        id: field(&data.e_regid, 4, "registration with a bad id")?,
        identity: identity.as_slice().try_into()?,
        signed_key,
        name: props.os.clone().unwrap_or_default(),
    };
    let (first, next) = (core.options.qr_first, core.options.qr_next);
    core.with(|state| {
        state.counters.registrations += 1;
        let begin = Instant::now();
        let references: Vec<String> = (0..core.options.qr_refs).map(|_| fresh_reference()).collect();
        let mut expires = begin + first;
        for reference in &references {
            state.references.insert(reference.clone(), Reference { link: id, expires });
            expires += next;
        }
        let iq = state.serial();
        let Some(link) = state.links.get_mut(&id) else { return };
        link.registration = Some(registration);
        let references = references.iter().map(|reference| stanza::bytes("ref", reference.as_bytes()));
        link.send(
            NodeBuilder::new("iq")
                .attr("from", SERVER)
                .attr("type", "set")
                .attr("id", format!("s.{iq}"))
                .attr("xmlns", "md")
                .children([NodeBuilder::new("pair-device").children(references).build()])
                .build(),
        );
    });
    Ok(())
}

/// A reference in the shape of the real ones: `2@` and base64.
fn fresh_reference() -> String {
    use base64::Engine as _;
    let random: [u8; 48] = rand::random();
    format!("2@{}", base64::engine::general_purpose::STANDARD.encode(random))
}

/// Checks the login and answers `success` or `failure`.
fn login(core: &Arc<Core>, id: u64, pattern: Pattern, payload: &wa::ClientPayload) -> anyhow::Result<()> {
    let number = payload.username.context("login without a number")?.to_string();
    let device = u16::try_from(payload.device.unwrap_or(0)).context("login with a bad device")?;
    core.with(|state| {
        let address = state.accounts.get(&number).map(|account| account.address(device));
        let Some((noise, client)) = state.links.get(&id).map(|link| (link.noise, link.client)) else { return };
        let known = state.device(&number, device).is_some_and(|device| device.noise == noise);
        let planned = state.failures.remove(&(number.clone(), device));
        let refused = planned.or_else(|| {
            let choose = |fault: &Fault| if let Fault::RefuseLogin { code } = fault { Some(*code) } else { None };
            state.strike(&address.clone()?, choose)
        });
        let refused = refused.or(if known { None } else { Some(401) });
        let choose =
            |fault: &Fault| if let Fault::Ban { code, expire } = fault { Some((*code, *expire)) } else { None };
        if let Some(address) = address.clone().filter(|_| refused.is_none())
            && let Some((code, expire)) = state.strike(&address, choose)
        {
            state.counters.logins_refused += 1;
            if let Some(link) = state.links.get(&id) {
                link.send(stanza::ban(code, expire));
                link.close();
            }
            return;
        }
        if let Some(code) = refused {
            state.counters.logins_refused += 1;
            if !known && !state.removed.contains(&noise) {
                state.counters.violation("login with keys that never were registered");
            }
            if let Some(link) = state.links.get(&id) {
                link.send(stanza::failure(code));
                link.close();
            }
            return;
        }
        let Some(address) = address else { return };
        let choose = |fault: &Fault| if let Fault::FailLogin { code } = fault { Some(*code) } else { None };
        if let Some(code) = state.strike(&address, choose) {
            state.counters.logins_refused += 1;
            if let Some(link) = state.links.get(&id) {
                link.send(stanza::stream_error(code));
                link.close();
            }
            return;
        }
        state.counters.logins += 1;
        match pattern {
            Pattern::Xx => state.counters.logins_xx += 1,
            Pattern::Ik => state.counters.logins_ik += 1,
            Pattern::XxFallback => state.counters.logins_xxfallback += 1,
        }
        state.note("login", client);
        let replaced = state.device_mut(&number, device).and_then(|device| {
            device.phase = Phase::Passive;
            device.queue.rewind();
            device.client = client;
            device.link.replace(id)
        });
        if let Some(old) = replaced.and_then(|old| state.links.get(&old)) {
            old.send(stanza::conflict(None, "replaced"));
            old.close();
        }
        let mute = state.strike(&address, |fault| matches!(fault, Fault::SilentAfterLogin).then_some(()));
        let Some(link) = state.links.get_mut(&id) else { return };
        link.device = Some((number.clone(), device));
        link.send(
            NodeBuilder::new("success")
                .attr("t", stanza::now())
                .attr("lid", address.lid_jid())
                .attr("display_name", "")
                .attr("creation", stanza::now())
                .attr("location", "sim")
                .attr("props", "27")
                .build(),
        );
        if mute.is_some() {
            link.silent.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

impl Core {
    /// A stanza from a socket.
    pub(crate) fn receive(self: &Arc<Self>, id: u64, node: &Node) {
        tracing::trace!(?node, "received");
        let sender = self.with(|state| {
            let link = state.links.get(&id)?;
            let (number, device) = link.device.clone()?;
            let client = link.client;
            Some(Sender { address: state.accounts.get(&number)?.address(device), client })
        });
        match sender {
            Some(sender) => self.dispatch(&sender, Some(id), node),
            None => self.receive_unregistered(id, node),
        }
    }
}
