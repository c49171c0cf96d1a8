//! Phones over a tiny network that answers their queries and hands stanzas over, without server or sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::phone::directory::{attr, attr_jid, content};
use async_trait::async_trait;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use whatsapp_rust::Server;
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore::adv::{AdvValidation, validate_adv_with_identity_key};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::{expand_app_state_keys, process_patch};
use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_rust::wacore::messages::{MessageUtils, decode_plaintext};
use whatsapp_rust::wacore_binary::JidExt;
use whatsapp_rust::waproto::codec;
use whatsapp_rust::waproto::whatsapp::history_sync::HistorySyncType as Kind;

const SECOND: Duration = Duration::from_secs(5);

/// A companion of a phone: only keys and a pile of stanzas.
struct Companion {
    signal: Signal,
    pile: Vec<Node>,
}

#[derive(Default)]
struct Switchboard {
    phones: Mutex<HashMap<String, Phone>>,
    companions: Mutex<HashMap<(String, u16), Companion>>,
    /// Group → members by number, and whether it is in LID mode.
    groups: Mutex<HashMap<String, (Vec<String>, bool)>>,
    media: Mutex<Vec<Bytes>>,
    /// Messages are piled up here instead of delivered.
    holding: AtomicBool,
    held: Mutex<Vec<(String, Node)>>,
}

impl Switchboard {
    fn phone(&self, user: &Jid) -> Option<Phone> {
        let phones = self.phones.lock().unwrap();
        phones
            .values()
            .find(|phone| [&phone.address().number, &phone.address().lid].contains(&&user.user.to_string()))
            .cloned()
    }

    fn devices(&self, number: &str) -> Vec<u16> {
        let companions = self.companions.lock().unwrap();
        std::iter::once(0)
            .chain(companions.keys().filter(|(owner, _)| owner == number).map(|(_, device)| *device))
            .collect()
    }

    fn hand_over(&self, device: &Jid, stanza: Node) {
        let phone = self.phone(device).unwrap();
        if device.device == 0 {
            if stanza.tag == "message" && self.holding.load(Ordering::SeqCst) {
                self.held.lock().unwrap().push((phone.address().number.clone(), stanza));
                return;
            }
            phone.deliver(stanza).unwrap();
        } else if let Some(companion) =
            self.companions.lock().unwrap().get_mut(&(phone.address().number.clone(), device.device))
        {
            companion.pile.push(stanza);
        }
    }

    fn release_backwards(&self) {
        self.holding.store(false, Ordering::SeqCst);
        for (number, stanza) in self.held.lock().unwrap().drain(..).rev() {
            self.phones.lock().unwrap()[&number].deliver(stanza).unwrap();
        }
    }

    fn answer_query(&self, iq: &Node) -> Node {
        let users = |path: &[&str]| -> Vec<Jid> {
            let list = iq.get_optional_child_by_tag(path).unwrap();
            list.get_children_by_tag("user").map(|user| attr_jid(user, "jid").unwrap()).collect()
        };
        match attr(iq, "xmlns").unwrap().as_str() {
            "usync" => {
                let list = users(&["usync", "list"]).into_iter().map(|user| {
                    let node = NodeBuilder::new("user").attr("jid", &user);
                    let Some(phone) = self.phone(&user) else { return node.build() };
                    let devices = self.devices(&phone.address().number).into_iter();
                    let devices = devices.map(|id| NodeBuilder::new("device").attr("id", id).build());
                    let devices = NodeBuilder::new("device-list").children(devices).build();
                    let lid = NodeBuilder::new("lid").attr("val", phone.address().lid_jid()).build();
                    node.children([NodeBuilder::new("devices").children([devices]).build(), lid]).build()
                });
                let list = NodeBuilder::new("list").children(list).build();
                NodeBuilder::new("usync").children([list]).build()
            }
            "encrypt" => {
                let list = users(&["key"]).into_iter().map(|user| {
                    let phone = self.phone(&user).unwrap();
                    let bundle = if user.device == 0 {
                        phone.bundle().unwrap()
                    } else {
                        let mut companions = self.companions.lock().unwrap();
                        companions
                            .get_mut(&(phone.address().number.clone(), user.device))
                            .unwrap()
                            .signal
                            .bundle()
                            .unwrap()
                    };
                    let registration =
                        NodeBuilder::new("registration").bytes(bundle.registration_id.to_be_bytes()).build();
                    NodeBuilder::new("user")
                        .attr("jid", &user)
                        .children([registration].into_iter().chain(bundle.nodes()))
                        .build()
                });
                NodeBuilder::new("list").children(list).build()
            }
            _ => {
                let groups = self.groups.lock().unwrap();
                let (members, lid_mode) = &groups[&attr(iq, "to").unwrap()];
                let members = members.iter().map(|number| {
                    let address = self.phones.lock().unwrap()[number].address().clone();
                    let node = NodeBuilder::new("participant");
                    if *lid_mode {
                        node.attr("jid", address.lid_jid()).attr("phone_number", address.pn_jid()).build()
                    } else {
                        node.attr("jid", address.pn_jid()).attr("lid", address.lid_jid()).build()
                    }
                });
                let mode = if *lid_mode { "lid" } else { "pn" };
                NodeBuilder::new("group").attr("addressing_mode", mode).children(members).build()
            }
        }
    }

    fn route_message(&self, from: &DeviceAddress, stanza: &Node) {
        let to = attr_jid(stanza, "to").unwrap();
        let id = attr(stanza, "id").unwrap();
        let encs: Vec<Node> = stanza.get_children_by_tag("enc").cloned().collect();
        let each: HashMap<String, Vec<Node>> = stanza
            .get_optional_child("participants")
            .map(|list| {
                let to = list.get_children_by_tag("to");
                to.map(|to| (attr(to, "jid").unwrap(), to.children().unwrap().to_vec())).collect()
            })
            .unwrap_or_default();
        if to.is_group() {
            let (members, lid_mode) = self.groups.lock().unwrap()[&to.to_string()].clone();
            let only = attr(stanza, "participant");
            for member in members {
                let member = self.phones.lock().unwrap()[&member].address().clone();
                let form = |address: &DeviceAddress| if lid_mode { address.lid_jid() } else { address.pn_jid() };
                let device = form(&member);
                if device == form(from) || only.as_ref().is_some_and(|only| *only != device.to_string()) {
                    continue;
                }
                let content = each.get(&device.to_string()).into_iter().flatten().chain(&encs).cloned();
                let message = NodeBuilder::new("message").attr("from", &to).attr("participant", form(from));
                self.hand_over(&device, message.attr("id", &id).children(content).build());
            }
            return;
        }
        let direct = if each.is_empty() { HashMap::from([(to.to_string(), encs)]) } else { each };
        for (device, enc) in direct {
            let device: Jid = device.parse().unwrap();
            let own = device.user == from.number || device.user == from.lid;
            let mut message = NodeBuilder::new("message").attr("id", &id);
            message = if device.is_lid() {
                message.attr("from", from.lid_jid()).attr("sender_pn", from.pn_jid())
            } else {
                message.attr("from", from.pn_jid()).attr("sender_lid", from.lid_jid())
            };
            if own && attr(stanza, "category").is_none() {
                message = message.attr("recipient", to.to_non_ad());
            }
            if let Some(category) = attr(stanza, "category") {
                message = message.attr("category", category);
            }
            self.hand_over(&device, message.children(enc).build());
        }
    }

    fn route_receipt(&self, from: &DeviceAddress, stanza: &Node) {
        let to = attr_jid(stanza, "to").unwrap();
        let mut receipt = stanza.clone();
        receipt.attrs = whatsapp_rust::wacore_binary::Attrs::default();
        let mut target = to.clone();
        receipt.attrs.insert("id", attr(stanza, "id").unwrap());
        if to.is_group() {
            let lid_mode = self.groups.lock().unwrap()[&to.to_string()].1;
            target = attr_jid(stanza, "participant").unwrap();
            receipt.attrs.insert("from", &to);
            receipt.attrs.insert("participant", if lid_mode { from.lid_jid() } else { from.pn_jid() });
        } else {
            receipt.attrs.insert("from", if to.is_lid() { from.lid_jid() } else { from.pn_jid() });
        }
        if let Some(kind) = attr(stanza, "type") {
            receipt.attrs.insert("type", kind);
        }
        self.hand_over(&target, receipt);
    }
}

#[async_trait]
impl Network for Switchboard {
    async fn submit(&self, from: &DeviceAddress, stanza: Node) -> anyhow::Result<Vec<Node>> {
        let id = attr(&stanza, "id").unwrap_or_default();
        Ok(match stanza.tag.as_ref() {
            "iq" => {
                let answer = self.answer_query(&stanza);
                vec![NodeBuilder::new("iq").attr("id", id).attr("type", "result").children([answer]).build()]
            }
            "message" => {
                self.route_message(from, &stanza);
                vec![NodeBuilder::new("ack").attr("class", "message").attr("id", id).build()]
            }
            "receipt" => {
                self.route_receipt(from, &stanza);
                vec![NodeBuilder::new("ack").attr("class", "receipt").attr("id", id).build()]
            }
            "chatstate" => {
                let to = attr_jid(&stanza, "to").unwrap();
                let mut state = stanza;
                state.attrs = whatsapp_rust::wacore_binary::Attrs::default();
                state.attrs.insert("from", from.pn_jid());
                self.hand_over(&to, state);
                Vec::new()
            }
            _ => Vec::new(),
        })
    }

    fn put_media(&self, _kind: &str, ciphertext: &[u8]) -> anyhow::Result<String> {
        let mut media = self.media.lock().unwrap();
        media.push(Bytes::copy_from_slice(ciphertext));
        Ok(format!("/media/{}", media.len() - 1))
    }

    fn restore_media(&self, _direct_path: &str) -> Option<String> {
        None
    }

    fn media(&self, direct_path: &str) -> Option<Bytes> {
        let index: usize = direct_path.rsplit('/').next()?.parse().ok()?;
        self.media.lock().unwrap().get(index).cloned()
    }
}

struct World {
    board: Arc<Switchboard>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl World {
    fn new() -> Self {
        Self { board: Arc::default(), tracker: TaskTracker::new(), token: CancellationToken::new() }
    }

    fn phone(&self, number: &str) -> Phone {
        let lid = format!("9{number}");
        let network = Arc::clone(&self.board) as Arc<dyn Network>;
        let phone = Phone::new(number, &lid, number, network, &self.tracker, self.token.clone()).unwrap();
        self.board.phones.lock().unwrap().insert(number.to_owned(), phone.clone());
        phone
    }

    fn group(&self, id: &str, members: &[&Phone], lid_mode: bool) -> String {
        let jid = format!("{id}@g.us");
        let members = members.iter().map(|phone| phone.address().number.clone()).collect();
        self.board.groups.lock().unwrap().insert(jid.clone(), (members, lid_mode));
        jid
    }

    fn companion(&self, phone: &Phone, device: u16) -> KeyPair {
        let pair = KeyPair::generate(&mut rand::make_rng::<rand::rngs::StdRng>());
        let companion = Companion { signal: Signal::new(&pair).unwrap(), pile: Vec::new() };
        self.board.companions.lock().unwrap().insert((phone.address().number.clone(), device), companion);
        pair
    }

    /// What the companion got since the last call, decrypted.
    fn read(&self, phone: &Phone, device: u16) -> Vec<wa::Message> {
        let mut companions = self.board.companions.lock().unwrap();
        let companion = companions.get_mut(&(phone.address().number.clone(), device)).unwrap();
        let pile = std::mem::take(&mut companion.pile);
        let messages = pile.iter().filter(|stanza| stanza.tag == "message");
        messages
            .map(|stanza| {
                let enc = stanza.get_optional_child("enc").unwrap();
                let (from, kind) = (attr_jid(stanza, "from").unwrap(), attr(enc, "type").unwrap());
                let opened = companion.signal.open(&from, &kind, content(enc).unwrap()).unwrap();
                decode_plaintext(&opened.plaintext, 2).unwrap()
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

#[tokio::test]
async fn texts_go_both_ways_with_receipts() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    let first = a.says("222", "hi").await.unwrap();
    let got = b.next_message(SECOND).await.unwrap();
    assert_eq!((got.id.as_str(), got.text.as_deref(), got.enc_type.as_str()), (first.as_str(), Some("hi"), "pkmsg"));
    assert_eq!((got.chat.to_string(), got.from_me), ("111@s.whatsapp.net".to_owned(), false));
    a.wait_receipt(&first, ReceiptKind::Delivered, SECOND).await.unwrap();

    b.says("111@s.whatsapp.net", "hello").await.unwrap();
    let back = a.next_message(SECOND).await.unwrap();
    assert_eq!((back.text.as_deref(), back.enc_type.as_str()), (Some("hello"), "msg"));
    a.says("222", "again").await.unwrap();
    let got = b.next_message(SECOND).await.unwrap();
    assert_eq!((got.text.as_deref(), got.enc_type.as_str()), (Some("again"), "msg"));

    b.reads("111", None, &[&first, &got.id]).await.unwrap();
    a.wait_receipt(&first, ReceiptKind::Read, SECOND).await.unwrap();
    a.wait_receipt(&got.id, ReceiptKind::Read, SECOND).await.unwrap();
    b.types("111", true).await.unwrap();
    a.wait_typing(true, SECOND).await.unwrap();
    assert_eq!((a.repeated_keys(), b.repeated_keys()), (0, 0));
    assert!(a.says("333", "nobody").await.is_err());
}

#[tokio::test]
async fn messages_decrypt_in_any_order() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    a.says("222", "opening").await.unwrap();
    b.next_message(SECOND).await.unwrap();
    b.says("111", "answer").await.unwrap();
    a.next_message(SECOND).await.unwrap();
    world.board.holding.store(true, Ordering::SeqCst);
    for number in 0..40 {
        a.says("222", &number.to_string()).await.unwrap();
    }
    world.board.release_backwards();
    for number in (0..40).rev() {
        assert_eq!(b.next_message(SECOND).await.unwrap().text, Some(number.to_string()));
    }
    assert!(b.receipts().iter().all(|receipt| receipt.kind != ReceiptKind::Retry));
    assert!(a.receipts().iter().all(|receipt| receipt.kind != ReceiptKind::Retry));
}

#[tokio::test]
async fn both_addresses_share_one_session() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    a.says("222", "by number").await.unwrap();
    b.next_message(SECOND).await.unwrap();
    b.set_lid_mode(true);
    b.says("111", "by lid").await.unwrap();
    let got = a.next_message(SECOND).await.unwrap();
    assert_eq!((got.chat.to_string(), got.enc_type.as_str()), ("9222@lid".to_owned(), "msg"));
    a.says("9222@lid", "by lid too").await.unwrap();
    assert_eq!(b.next_message(SECOND).await.unwrap().enc_type, "msg");
}

#[tokio::test]
async fn many_sends_at_once_all_arrive() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    let mut sends = tokio::task::JoinSet::new();
    for number in 0..50 {
        let (a, b) = (a.clone(), b.clone());
        sends.spawn(async move {
            a.says("222", &format!("a{number}")).await.unwrap();
            b.says("111", &format!("b{number}")).await.unwrap();
        });
    }
    while let Some(done) = sends.join_next().await {
        done.unwrap();
    }
    for _ in 0..50 {
        a.next_message(SECOND).await.unwrap();
        b.next_message(SECOND).await.unwrap();
    }
    assert_eq!((a.inbox().len(), b.inbox().len(), a.repeated_keys(), b.repeated_keys()), (50, 50, 0, 0));
}

#[tokio::test]
async fn a_group_reads_what_a_member_writes() {
    for lid_mode in [false, true] {
        let world = World::new();
        let (a, b, c) = (world.phone("111"), world.phone("222"), world.phone("333"));
        let group = world.group("120", &[&a, &b], lid_mode);
        a.says(&group, "one").await.unwrap();
        let got = b.next_message(SECOND).await.unwrap();
        assert_eq!((got.text.as_deref(), got.enc_type.as_str(), got.counter), (Some("one"), "skmsg", Some(0)));
        assert_eq!(got.sender().is_lid(), lid_mode);
        assert_eq!(got.chat.to_string(), group);
        world.group("120", &[&a, &b, &c], lid_mode);
        a.says(&group, "two").await.unwrap();
        assert_eq!(b.next_message(SECOND).await.unwrap().counter, Some(1));
        assert_eq!(c.next_message(SECOND).await.unwrap().text.as_deref(), Some("two"));
        // Somebody left: the key changes.
        world.group("120", &[&a, &b], lid_mode);
        let three = a.says(&group, "three").await.unwrap();
        assert_eq!(b.next_message(SECOND).await.unwrap().counter, Some(0));
        let receipt = a.wait_receipt(&three, ReceiptKind::Delivered, SECOND).await.unwrap();
        assert!(receipt.participant.is_some() && receipt.from.to_string() == group);
        b.says(&group, "four").await.unwrap();
        assert_eq!(a.next_message(SECOND).await.unwrap().text.as_deref(), Some("four"));
        assert!(c.says(&group, "no member").await.is_err());
        assert_eq!(b.repeated_keys(), 0);
    }
}

#[tokio::test]
async fn a_lost_session_is_mended_by_retries() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    a.says("222", "opening").await.unwrap();
    b.next_message(SECOND).await.unwrap();
    b.says("111", "answer").await.unwrap();
    a.next_message(SECOND).await.unwrap();

    b.forget_session(&"111@s.whatsapp.net".parse().unwrap());
    let id = a.says("222", "after the loss").await.unwrap();
    let got = b.next_message(SECOND).await.unwrap();
    assert_eq!(
        (got.id.as_str(), got.text.as_deref(), got.enc_type.as_str()),
        (id.as_str(), Some("after the loss"), "pkmsg")
    );
    let retries = a.receipts().iter().filter(|receipt| receipt.kind == ReceiptKind::Retry).count();
    assert_eq!(retries, 2, "the first receipt asks without keys, the second brings them");
    b.says("111", "thanks").await.unwrap();
    a.next_message(SECOND).await.unwrap();
    a.says("222", "mended").await.unwrap();
    assert_eq!(b.next_message(SECOND).await.unwrap().enc_type, "msg");
}

#[tokio::test]
async fn a_lost_sender_key_is_mended_by_a_retry() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    let group = world.group("120", &[&a, &b], true);
    a.says(&group, "one").await.unwrap();
    b.next_message(SECOND).await.unwrap();
    b.forget_sender_key(&group.parse().unwrap(), &"9111@lid".parse().unwrap());
    let two = a.says(&group, "two").await.unwrap();
    let got = b.next_message(SECOND).await.unwrap();
    assert_eq!((got.id, got.text.as_deref(), got.chat.to_string()), (two, Some("two"), group.clone()));
    a.says(&group, "three").await.unwrap();
    let got = b.next_message(SECOND).await.unwrap();
    assert_eq!((got.text.as_deref(), got.enc_type.as_str()), (Some("three"), "skmsg"));
}

#[tokio::test]
async fn a_repeated_key_is_noticed_and_a_redelivery_is_not() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    world.board.holding.store(true, Ordering::SeqCst);
    let first = a.says("222", "first").await.unwrap();
    let (_, stanza) = world.board.held.lock().unwrap().pop().unwrap();
    world.board.holding.store(false, Ordering::SeqCst);
    b.deliver(stanza.clone()).unwrap();
    b.deliver(stanza).unwrap();
    b.next_message(SECOND).await.unwrap();
    let delivered = async {
        loop {
            a.next_receipt(SECOND).await.unwrap();
            if a.receipts().iter().filter(|receipt| receipt.id == first).count() == 2 {
                break;
            }
        }
    };
    delivered.await;
    assert_eq!((b.inbox().len(), b.repeated_keys()), (1, 0));

    // The sender goes back in time and encrypts another text with the key of the last one.
    b.says("111", "answer").await.unwrap();
    a.next_message(SECOND).await.unwrap();
    let before = a.0.signal(|signal| signal.sessions.0.clone());
    a.says("222", "second").await.unwrap();
    b.next_message(SECOND).await.unwrap();
    a.0.signal(|signal| signal.sessions.0 = before);
    let third = a.says("222", "third").await.unwrap();
    a.wait_receipt(&third, ReceiptKind::Delivered, SECOND).await.unwrap();
    assert_eq!((b.inbox().len(), b.repeated_keys()), (2, 1));
}

#[tokio::test]
async fn linking_signs_and_checks() {
    let world = World::new();
    let phone = world.phone("111");
    let mut rng: rand::rngs::StdRng = rand::make_rng();
    let companion = KeyPair::generate(&mut rng);
    let identity: [u8; 32] = companion.public_key.public_key_bytes().try_into().unwrap();
    let secret = [7; 32];

    let sealed = codec::adv_signed_device_identity_hmac_decode(&phone.sign_companion(identity, &secret, 3)).unwrap();
    let signed = sealed.details.unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
    mac.update(&signed);
    mac.verify_slice(&sealed.hmac.unwrap()).unwrap();
    let mut signed = codec::adv_signed_device_identity_decode(&signed).unwrap();
    let details = signed.details.clone().unwrap();
    assert_eq!(wa::ADVDeviceIdentity::decode_from_slice(&details).unwrap().key_index, Some(3));
    assert_eq!(signed.account_signature_key.take().unwrap(), phone.identity());

    let text = [&[6, 1], &details[..], &identity, &phone.identity()].concat();
    signed.device_signature = Some(companion.private_key.calculate_signature(&text, &mut rng).unwrap().to_vec());
    let answer = codec::adv_signed_device_identity_to_vec(&signed);
    let stored = phone.accept_device_signature(&answer, identity).unwrap();
    // Peers check it like this.
    assert_eq!(validate_adv_with_identity_key(&stored, &identity, None), AdvValidation::Valid);
    assert!(phone.accept_device_signature(&answer, [9; 32]).is_err());
    signed.device_signature = Some(vec![1; 64]);
    let forged = codec::adv_signed_device_identity_to_vec(&signed);
    assert!(phone.accept_device_signature(&forged, identity).is_err());

    let list = codec::adv_signed_key_index_list_decode(&phone.key_index_list(&[1, 3])).unwrap();
    let details = list.details.unwrap();
    let key =
        whatsapp_rust::wacore::libsignal::protocol::PublicKey::from_djb_public_key_bytes(&phone.identity()).unwrap();
    assert!(key.verify_signature(&[&[6, 2], &details[..]].concat(), &list.account_signature.unwrap()));
    assert_eq!(codec::adv_key_index_list_decode(&details).unwrap().valid_indexes, [1, 3]);
}

#[tokio::test]
async fn a_new_companion_is_greeted() {
    let world = World::new();
    let phone = world.phone("111");
    world.companion(&phone, 1);
    phone.greet(1).await.unwrap();
    let messages = world.read(&phone, 1);
    assert_eq!(messages.len(), 4);
    let share = &messages[0].protocol_message.app_state_sync_key_share.keys[0];
    let (key_id, key) = (share.key_id.key_id.clone().unwrap(), share.key_data.key_data.clone().unwrap());

    let kinds: Vec<_> = messages[1..]
        .iter()
        .map(|message| {
            let history = &*message.protocol_message.history_sync_notification;
            let inline = history.initial_hist_bootstrap_inline_payload.clone().unwrap();
            let mut blob = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&inline[..]), &mut blob).unwrap();
            assert!(world.board.media(history.direct_path.as_deref().unwrap()).is_some());
            codec::history_sync_decode(&blob).unwrap().sync_type
        })
        .collect();
    assert_eq!(kinds, [Kind::INITIAL_BOOTSTRAP, Kind::PUSH_NAME, Kind::RECENT]);

    let (name, patch) = phone.seed_app_state();
    let patch = codec::syncd_patch_decode(&patch).unwrap();
    let keys = Arc::new(expand_app_state_keys(&key));
    let mut state = HashState::default();
    let find = |id: &[u8]| {
        assert_eq!(id, key_id);
        Ok(Arc::clone(&keys))
    };
    let result = process_patch(&patch, &mut state, find, |_| Ok(None), true, name).unwrap();
    assert_eq!(name, "critical_block");
    assert_eq!(result.mutations[0].index, ["setting_pushName"]);
    let value = result.mutations[0].action_value.as_ref().unwrap();
    assert_eq!(value.push_name_setting.name.as_deref(), Some("111"));
}

#[tokio::test]
async fn own_companions_get_copies_and_their_copies_are_read() {
    let world = World::new();
    let (a, b) = (world.phone("111"), world.phone("222"));
    let pair = world.companion(&a, 1);
    a.says("222", "hi").await.unwrap();
    b.next_message(SECOND).await.unwrap();
    let copies = world.read(&a, 1);
    let copy = &*copies[0].device_sent_message;
    assert_eq!(copy.destination_jid.as_deref(), Some("222@s.whatsapp.net"));
    assert_eq!(copy.message.conversation.as_deref(), Some("hi"));

    let message = wa::Message {
        device_sent_message: whatsapp_rust::buffa::MessageField::some(wa::message::DeviceSentMessage {
            destination_jid: Some("222@s.whatsapp.net".to_owned()),
            message: whatsapp_rust::buffa::MessageField::some(wa::Message::text("from the desk")),
            ..Default::default()
        }),
        ..Default::default()
    };
    let own = Jid::new("111", Server::Pn);
    let seal = || {
        let bundle = a.bundle().unwrap();
        let keys = NodeBuilder::new("keys").children(bundle.nodes()).build();
        let bundle = directory::bundle(&bundle.registration_id.to_be_bytes(), &keys).unwrap();
        let mut companions = world.board.companions.lock().unwrap();
        let signal = &mut companions.get_mut(&("111".to_owned(), 1)).unwrap().signal;
        signal.open_session(&own, &bundle).unwrap();
        let sealed = signal.seal(&own, &MessageUtils::encode_and_pad(&message)).unwrap();
        assert_eq!(sealed.kind, "pkmsg");
        NodeBuilder::new("enc").attr("v", "2").attr("type", sealed.kind).bytes(sealed.bytes).build()
    };
    let deliver = |id: &str, content: Vec<Node>| {
        let message = NodeBuilder::new("message").attr("from", Jid::pn_device("111", 1)).attr("id", id);
        a.deliver(message.attr("recipient", Jid::new("222", Server::Pn)).children(content).build()).unwrap();
    };
    deliver("3B0", vec![seal(), NodeBuilder::new("device-identity").bytes(proof_of(&a, &pair)).build()]);
    let got = a.next_message(SECOND).await.unwrap();
    assert_eq!(
        (got.chat.to_string(), got.text.as_deref(), got.from_me),
        ("222@s.whatsapp.net".to_owned(), Some("from the desk"), true)
    );
    assert_eq!(a.unproven(), 0);
    deliver("3B1", vec![seal()]);
    a.next_message(SECOND).await.unwrap();
    assert_eq!(a.unproven(), 1, "no device-identity with a pkmsg");
}

/// The `device-identity` of a companion that the phone linked.
fn proof_of(phone: &Phone, companion: &KeyPair) -> Vec<u8> {
    let mut rng: rand::rngs::StdRng = rand::make_rng();
    let identity: [u8; 32] = companion.public_key.public_key_bytes().try_into().unwrap();
    let sealed = codec::adv_signed_device_identity_hmac_decode(&phone.sign_companion(identity, &[1; 32], 1)).unwrap();
    let mut signed = codec::adv_signed_device_identity_decode(&sealed.details.unwrap()).unwrap();
    let text = [&[6, 1], signed.details.as_deref().unwrap(), &identity, &phone.identity()].concat();
    signed.device_signature = Some(companion.private_key.calculate_signature(&text, &mut rng).unwrap().to_vec());
    phone.accept_device_signature(&codec::adv_signed_device_identity_to_vec(&signed), identity).unwrap()
}
