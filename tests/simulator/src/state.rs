//! Everything the server remembers, behind one lock: accounts, devices, groups, open connections, faults, counts.
//!
//! Methods here are synchronous and never wait: a stanza for a connection goes into that connection's bounded queue, one
//! for a phone into the phone's. Stanzas that must not be lost stay in the device's queue until acknowledged.

pub(crate) mod account;
pub(crate) mod queue;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder, Server};

use self::account::{Account, Device, Phase};
use self::queue::Class;
use crate::counters::{ClientKind, Counters, Features};
use crate::fault::{Fault, Faults};
use crate::iq::group::Group;
use crate::listener::Upgrade;
use crate::network::DeviceAddress;
use crate::pairing::code::Hello;
use crate::phone::Phone;
use crate::route::ciphertext::Ciphertexts;
use crate::stanza::{self, SERVER};

/// How long a client may take to close after it was told to; then the server does.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a connection's writer is told.
#[derive(Debug)]
pub(crate) enum Out {
    Node(Node),
    /// Close after what was queued before, and after that time, which the client may take to close by itself.
    Close(Duration),
}

/// An unregistered client that shows a QR code.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) id: Vec<u8>,
    pub(crate) identity: [u8; 32],
    pub(crate) signed_key: (Vec<u8>, Vec<u8>, Vec<u8>),
    pub(crate) name: String,
}

/// An open connection.
pub(crate) struct Link {
    pub(crate) client: ClientKind,
    pub(crate) noise: [u8; 32],
    pub(crate) queue: mpsc::Sender<Out>,
    pub(crate) token: CancellationToken,
    /// Nothing is answered nor sent any more.
    pub(crate) silent: Arc<AtomicBool>,
    pub(crate) registration: Option<Registration>,
    pub(crate) device: Option<(String, u16)>,
    /// IQs of the server that wait for their result.
    pub(crate) pending: HashMap<String, oneshot::Sender<Node>>,
    /// Wakes the drain of the backlog.
    pub(crate) pull: Arc<Notify>,
}

impl Link {
    pub(crate) fn send(&self, node: Node) {
        if self.silent.load(Ordering::Relaxed) {
            return;
        }
        if self.queue.try_send(Out::Node(node)).is_err() {
            // The client does not read: as a real server would, give the connection up. Its queue is kept.
            self.token.cancel();
        }
    }

    /// Closes after what was queued; nothing that comes meanwhile is handled.
    pub(crate) fn close(&self) {
        self.close_after(GOODBYE);
    }

    /// The same, at most so long after what was queued.
    pub(crate) fn close_after(&self, goodbye: Duration) {
        if self.queue.try_send(Out::Close(goodbye)).is_err() {
            self.token.cancel();
        }
        self.silent.store(true, Ordering::Relaxed);
    }
}

/// A QR reference that was handed to a connection.
pub(crate) struct Reference {
    pub(crate) link: u64,
    pub(crate) expires: Instant,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) accounts: BTreeMap<String, Account>,
    /// User part of a LID → number.
    pub(crate) lids: HashMap<String, String>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) references: HashMap<String, Reference>,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    pub(crate) features: Features,
    pub(crate) ciphertexts: Ciphertexts,
    pub(crate) last_upgrade: Option<Upgrade>,
    /// Numbers that are dialled for another one, which the account has.
    pub(crate) spellings: HashMap<String, String>,
    /// Noise keys of devices that were removed: their next login is told so.
    pub(crate) removed: HashSet<[u8; 32]>,
    /// `<failure>` for the next login of a device.
    pub(crate) failures: HashMap<(String, u16), u16>,
    /// Companions that show a code to type, by the number that they want to belong to.
    pub(crate) hellos: HashMap<String, Hello>,
    /// Tokens of media connections and whose they are.
    pub(crate) media_tokens: HashMap<String, Sender>,
    serial: u64,
}

/// Who sends a stanza.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) address: DeviceAddress,
    pub(crate) client: ClientKind,
}

impl State {
    /// A number that was never given before: ids of IQs, notifications, connections.
    pub(crate) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn note(&mut self, feature: &str, client: ClientKind) {
        let clients = self.features.entry(feature.to_owned()).or_default();
        if !clients.contains(client.name()) {
            clients.insert(client.name().to_owned());
        }
    }

    /// Takes a strike of a fault that concerns this device.
    pub(crate) fn strike<T>(&mut self, address: &DeviceAddress, choose: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let chosen = self.faults.strike(Some((&address.number, address.device)), choose);
        self.counters.faults_hit += u64::from(chosen.is_some());
        chosen
    }

    /// Takes a strike of a fault that meets whoever connects.
    pub(crate) fn strikes(&mut self, fault: &Fault) -> bool {
        let struck = self.faults.strike(None, |other| (other == fault).then_some(())).is_some();
        self.counters.faults_hit += u64::from(struck);
        struck
    }

    /// The account's number of a user in either address form, whatever the device.
    pub(crate) fn number_of(&self, jid: &Jid) -> Option<String> {
        match jid.server {
            Server::Pn | Server::Legacy => self.accounts.contains_key(jid.user.as_str()).then(|| jid.user.to_string()),
            Server::Lid => self.lids.get(jid.user.as_str()).cloned(),
            _ => None,
        }
    }

    pub(crate) fn account_of(&self, jid: &Jid) -> Option<&Account> {
        self.accounts.get(&self.number_of(jid)?)
    }

    /// A device by its address in either form; `None` for device 0, which is the phone.
    pub(crate) fn device_mut(&mut self, number: &str, device: u16) -> Option<&mut Device> {
        self.accounts.get_mut(number)?.devices.get_mut(&device)
    }

    pub(crate) fn device(&self, number: &str, device: u16) -> Option<&Device> {
        self.accounts.get(number)?.devices.get(&device)
    }

    pub(crate) fn phone(&self, number: &str) -> Option<&Phone> {
        self.accounts.get(number).map(|account| &account.phone)
    }

    /// The open connection of a companion.
    pub(crate) fn link_of(&self, number: &str, device: u16) -> Option<&Link> {
        self.links.get(&self.device(number, device)?.link?)
    }

    /// Hands a stanza to a device, to be kept until it is acknowledged.
    pub(crate) fn deliver(&mut self, to: (&str, u16), class: Class, stanza: Node) {
        let (number, device) = to;
        if device == 0 {
            self.deliver_to_phone(number, stanza);
            return;
        }
        let serial = self.serial();
        let Some(target) = self.device_mut(number, device) else { return };
        let live = target.phase == Phase::Live;
        target.queue.push(serial, class, stanza.clone(), live);
        if live && let Some(link) = self.link_of(number, device) {
            link.send(stanza);
        }
    }

    /// Hands a stanza to a device if it is online: presence and chat states are not kept.
    pub(crate) fn deliver_live(&mut self, (number, device): (&str, u16), stanza: Node) {
        if device == 0 {
            self.deliver_to_phone(number, stanza);
        } else if self.device(number, device).is_some_and(|target| target.phase == Phase::Live)
            && let Some(link) = self.link_of(number, device)
        {
            link.send(stanza);
        }
    }

    fn deliver_to_phone(&mut self, number: &str, stanza: Node) {
        if let Some(phone) = self.phone(number)
            && let Err(error) = phone.deliver(stanza)
        {
            tracing::debug!(%error, "a phone takes no stanza");
        }
    }

    /// Companions of an account, without the phone.
    pub(crate) fn companions(&self, number: &str) -> Vec<u16> {
        self.accounts.get(number).map(|account| account.devices.keys().copied().collect()).unwrap_or_default()
    }

    /// A stanza from the server to all companions of an account but one, kept until acknowledged.
    pub(crate) fn notify_companions(&mut self, number: &str, except: Option<u16>, build: impl Fn(u64) -> Node) {
        for device in self.companions(number) {
            if Some(device) != except {
                let id = self.serial();
                self.deliver((number, device), Class::Notification, build(id));
            }
        }
    }

    /// The connection is gone: what was not acknowledged goes back to the front of the backlog.
    pub(crate) fn disconnected(&mut self, id: u64) {
        self.references.retain(|_, reference| reference.link != id);
        self.hellos.retain(|_, hello| !hello.is_of(id));
        let Some((number, device)) = self.links.remove(&id).and_then(|link| link.device) else { return };
        let Some(target) = self.device_mut(&number, device) else { return };
        if target.link == Some(id) {
            target.link = None;
            target.phase = Phase::Offline;
            target.queue.rewind();
            if std::mem::take(&mut target.available) {
                crate::route::presence::changed(self, &number);
            }
        }
    }

    /// Forgets a companion: keys, backlog, group memberships of its own. Tells everybody who knows the device list.
    pub(crate) fn remove_device(&mut self, number: &str, device: u16) -> Option<Device> {
        let removed = self.accounts.get_mut(number)?.devices.remove(&device)?;
        self.removed.insert(removed.noise);
        crate::iq::directory::tell_devices(self, number, false, device, removed.key_index);
        Some(removed)
    }

    /// Ids for stanzas of the server itself.
    pub(crate) fn notification(&mut self, kind: &'static str) -> NodeBuilder {
        let id = self.serial();
        notification(kind, id)
    }
}

pub(crate) fn notification(kind: &'static str, id: u64) -> NodeBuilder {
    NodeBuilder::new("notification")
        .attr("from", SERVER)
        .attr("type", kind)
        .attr("id", format!("n.{id}"))
        .attr("t", stanza::now())
}

/// The hidden identity of a number: 15 digits, the same at each start.
pub(crate) fn lid_of(number: &str) -> String {
    let digest = Sha256::digest(number.as_bytes());
    let mut word = [0; 8];
    word.copy_from_slice(&digest[..8]);
    format!("{}", 100_000_000_000_000 + u64::from_be_bytes(word) % 900_000_000_000_000)
}
