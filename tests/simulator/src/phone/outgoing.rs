//! What a phone sends: messages to contacts, groups and own companions, and the second copies that devices ask for.
//!
//! One send at a time per phone (`Inner::sending`), from the device query to the server's ack, so that sender keys
//! arrive before what they encrypt. The Signal lock is taken for each step and never held across a wait.

use std::collections::HashSet;

use anyhow::{Context, bail, ensure};
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::messages::MessageUtils;
use whatsapp_rust::wacore_binary::{JidExt, Node};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Jid, NodeBuilder};

use super::directory::{self, Group, attr, attr_jid, content};
use super::label::Label;
use super::signal::Sealed;
use super::{Inner, Sent, message_id};

/// A device that asks more often is not answered (the clients' own limit).
const RETRIES: u32 = 5;

impl Inner {
    /// Sends a message and returns its id once the server took it.
    pub(super) async fn send(&self, to: &Jid, message: wa::Message) -> anyhow::Result<String> {
        let id = message_id();
        let _sending = self.sending.lock().await;
        if to.is_group() {
            self.send_to_group(&id, to, message).await?;
        } else {
            self.send_to_user(&id, to, message).await?;
        }
        Ok(id)
    }

    async fn send_to_user(&self, id: &str, to: &Jid, message: wa::Message) -> anyhow::Result<()> {
        let mut chat = to.to_non_ad();
        let found = self.users(std::slice::from_ref(&chat)).await?;
        ensure!(!device_jids(&found, &chat).is_empty(), "{chat} is unknown to the server");
        let asked = chat.clone();
        if self.lid_mode() && chat.is_pn() {
            let lid = self.signal(|signal| signal.lid_of(&chat.user).map(str::to_owned));
            chat = Jid::lid(lid.with_context(|| format!("no LID of {chat}"))?);
        }
        let own = self.own_user(&chat);
        let mut targets: Vec<Jid> =
            device_jids(&found, &asked).iter().map(|device| chat.with_device(device.device)).collect();
        if own != chat {
            targets.extend(device_jids(&self.users(std::slice::from_ref(&own)).await?, &own));
        }
        targets.retain(|device| *device != own);
        let targets = self.open_sessions(targets).await?;

        let plain = MessageUtils::encode_and_pad(&message);
        let copy = MessageUtils::encode_and_pad(&device_sent(&chat, &message));
        let label = Label::of(&message);
        let participants = self.signal(|signal| {
            let each = targets.iter().map(|device| {
                let padded = if device.user == own.user { &copy } else { &plain };
                anyhow::Ok(envelope(device, signal.seal(device, padded)?, label))
            });
            each.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let participants = NodeBuilder::new("participants").children(participants).build();
        let stanza = label
            .on(NodeBuilder::new("message").attr("to", &chat).attr("id", id))
            .children(std::iter::once(participants).chain(label.children()))
            .build();
        self.keep_sent(id, Sent { chat, message, peer: false });
        self.submit_message(stanza).await
    }

    async fn send_to_group(&self, id: &str, to: &Jid, message: wa::Message) -> anyhow::Result<()> {
        let Group { lid_mode, members } = self.group(to).await?;
        let users: Vec<Jid> = members.iter().map(|(member, _)| member.to_non_ad()).collect();
        let own = if lid_mode { self.me.lid_jid() } else { self.me.pn_jid() };
        ensure!(users.contains(&own), "not a member of {to}");
        let found = self.users(&users).await?;
        let mut devices: Vec<Jid> = users.iter().flat_map(|user| device_jids(&found, user)).collect();
        devices.retain(|device| *device != own);

        let lacking = self.signal(|signal| {
            let members: HashSet<String> = devices.iter().map(|device| signal.filed(device)).collect();
            // Whoever left must not read on (the Signal group protocol's rule).
            if signal.holders(to).iter().any(|holder| !members.contains(holder)) {
                signal.rotate(to);
            }
            let holders = signal.holders(to).clone();
            devices.iter().filter(|device| !holders.contains(&signal.filed(device))).cloned().collect::<Vec<_>>()
        });
        let lacking = self.open_sessions(lacking).await?;

        let plain = MessageUtils::encode_and_pad(&message);
        let label = Label::of(&message);
        let (participants, sealed) = self.signal(|signal| {
            let distribution = distribution(to, signal.distribution(to)?);
            let (keys, padded) = (Label::of(&distribution), MessageUtils::encode_and_pad(&distribution));
            let each = lacking.iter().map(|device| anyhow::Ok(envelope(device, signal.seal(device, &padded)?, keys)));
            let participants = each.collect::<anyhow::Result<Vec<_>>>()?;
            anyhow::Ok((participants, signal.seal_group(to, &plain)?))
        })?;
        let mut children = Vec::new();
        if !participants.is_empty() {
            children.push(NodeBuilder::new("participants").children(participants).build());
        }
        children.push(label.enc("skmsg", sealed));
        children.extend(label.children());
        let stanza = label
            .on(NodeBuilder::new("message").attr("to", to).attr("id", id))
            .attr("addressing_mode", if lid_mode { "lid" } else { "pn" })
            .children(children)
            .build();
        self.keep_sent(id, Sent { chat: to.clone(), message, peer: false });
        self.submit_message(stanza).await?;
        self.signal(|signal| {
            for device in &lacking {
                let filed = signal.filed(device);
                signal.holders(to).insert(filed);
            }
        });
        Ok(())
    }

    /// Sends a message of the account to one of its own companions.
    pub(super) async fn send_to_companion(&self, companion: &Jid, message: &wa::Message) -> anyhow::Result<String> {
        let id = message_id();
        let _sending = self.sending.lock().await;
        ensure!(!self.open_sessions(vec![companion.clone()]).await?.is_empty(), "{companion} has no keys");
        let padded = MessageUtils::encode_and_pad(message);
        let sealed = self.signal(|signal| signal.seal(companion, &padded))?;
        let stanza = peer_stanza(&id, companion, Label::of(message).enc(sealed.kind, sealed.bytes));
        self.keep_sent(&id, Sent { chat: companion.clone(), message: message.clone(), peer: true });
        self.submit_message(stanza).await?;
        Ok(id)
    }

    /// Answers a retry receipt with a second copy for the device that asked.
    pub(super) async fn resend(&self, receipt: &Node) -> anyhow::Result<()> {
        let from = attr_jid(receipt, "from").context("a retry receipt without from")?;
        let device = attr_jid(receipt, "participant").unwrap_or_else(|| from.clone());
        let id = attr(receipt, "id").context("a retry receipt without id")?;
        let retry = receipt.get_optional_child("retry");
        let count: u32 = retry.and_then(|retry| attr(retry, "count")?.parse().ok()).unwrap_or(1);
        let Some(Sent { chat, message, peer }) = self.sent(&id) else {
            bail!("{device} asks for the unknown message {id}")
        };
        ensure!(count <= RETRIES, "{device} asks for {id} too often");
        let _sending = self.sending.lock().await;

        let registration = receipt.get_optional_child("registration").and_then(content);
        let stale = registration.is_some_and(|asked| {
            let asked = asked.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            self.signal(|signal| signal.remote_registration_id(&device)).is_some_and(|known| known != asked)
        });
        match (receipt.get_optional_child("keys"), registration) {
            (Some(keys), Some(registration)) => {
                let bundle = directory::bundle(registration, keys)?;
                self.signal(|signal| signal.open_session(&device, &bundle))?;
            }
            // The device was registered anew: its old session cannot help.
            _ if stale => self.signal(|signal| signal.forget_session(&device)),
            _ => {}
        }
        ensure!(!self.open_sessions(vec![device.clone()]).await?.is_empty(), "{device} has no keys");

        let own = device.user == self.me.number || device.user == self.me.lid;
        let mut again = message.clone();
        let label = Label::of(&message);
        let mut stanza = label.on(NodeBuilder::new("message").attr("id", &id));
        if chat.is_group() {
            let bytes = self.signal(|signal| signal.distribution(&chat))?;
            again.sender_key_distribution_message = distribution(&chat, bytes).sender_key_distribution_message;
            let mode = if device.is_lid() { "lid" } else { "pn" };
            stanza = stanza.attr("to", &chat).attr("participant", &device).attr("addressing_mode", mode);
        } else if peer {
            stanza = stanza.attr("to", &device).attr("category", "peer").attr("push_priority", "high_force");
        } else if own {
            again = device_sent(&chat, &message);
            stanza = stanza.attr("to", &device).attr("recipient", &chat).attr("device_fanout", "false");
        } else {
            stanza = stanza.attr("to", &device).attr("device_fanout", "false");
        }
        let padded = MessageUtils::encode_and_pad(&again);
        let sealed = self.signal(|signal| signal.seal(&device, &padded))?;
        let mut enc = label.enc(sealed.kind, sealed.bytes);
        enc.attrs.insert("count", count.to_string());
        self.submit_message(stanza.children(std::iter::once(enc).chain(label.children())).build()).await?;
        if chat.is_group() {
            self.signal(|signal| {
                let filed = signal.filed(&device);
                signal.holders(&chat).insert(filed);
            });
        }
        Ok(())
    }

    /// Opens the sessions that are missing and returns the devices that have one now.
    async fn open_sessions(&self, devices: Vec<Jid>) -> anyhow::Result<Vec<Jid>> {
        let missing: Vec<Jid> = self.signal(|signal| {
            let missing = devices.iter().filter(|device| !signal.has_session(device));
            missing.cloned().collect()
        });
        if !missing.is_empty() {
            let id = self.query_id();
            let answer = self.query(&id, directory::key_query(&id, &missing)).await?;
            for (device, bundle) in directory::bundles(&answer)? {
                self.signal(|signal| signal.open_session(&device, &bundle))?;
            }
        }
        Ok(self.signal(|signal| devices.into_iter().filter(|device| signal.has_session(device)).collect()))
    }

    /// Asks for the devices of users and learns their LIDs; unknown users are missing from the answer.
    async fn users(&self, users: &[Jid]) -> anyhow::Result<Vec<directory::User>> {
        let id = self.query_id();
        let answer = self.query(&id, directory::device_query(&id, users)).await?;
        let found = directory::users(&answer)?;
        self.signal(|signal| {
            for user in &found {
                if let (true, Some(lid)) = (user.jid.is_pn(), &user.lid) {
                    signal.learn(&user.jid.user, lid);
                }
            }
        });
        Ok(found)
    }

    async fn group(&self, group: &Jid) -> anyhow::Result<Group> {
        let id = self.query_id();
        let found = directory::group(&self.query(&id, directory::group_query(&id, group)).await?)?;
        self.signal(|signal| {
            for (member, other) in &found.members {
                match other {
                    Some(lid) if member.is_pn() && lid.is_lid() => signal.learn(&member.user, &lid.user),
                    Some(number) if member.is_lid() && number.is_pn() => signal.learn(&number.user, &member.user),
                    _ => {}
                }
            }
        });
        Ok(found)
    }

    /// The account's own user in the address form of the chat.
    fn own_user(&self, chat: &Jid) -> Jid {
        if chat.is_lid() { self.me.lid_jid() } else { self.me.pn_jid() }
    }

    async fn submit_message(&self, stanza: Node) -> anyhow::Result<()> {
        let id = attr(&stanza, "id").unwrap_or_default();
        let replies = self.submit(stanza).await?;
        let ack = replies.iter().find(|reply| reply.tag == "ack" && attr(reply, "id").as_deref() == Some(id.as_str()));
        let ack = ack.with_context(|| format!("no ack of message {id}"))?;
        match attr(ack, "error") {
            Some(error) => bail!("the server refused message {id}: {error}"),
            None => Ok(()),
        }
    }
}

/// The devices of one of the users found.
fn device_jids(found: &[directory::User], user: &Jid) -> Vec<Jid> {
    let found = found.iter().filter(|found| found.jid.is_same_chat_as(user));
    found.flat_map(|found| &found.devices).map(|device| user.with_device(*device)).collect()
}

fn device_sent(chat: &Jid, message: &wa::Message) -> wa::Message {
    wa::Message {
        device_sent_message: MessageField::some(wa::message::DeviceSentMessage {
            destination_jid: Some(chat.to_string()),
            message: MessageField::some(message.clone()),
            ..wa::message::DeviceSentMessage::default()
        }),
        ..wa::Message::default()
    }
}

fn distribution(group: &Jid, bytes: Vec<u8>) -> wa::Message {
    wa::Message {
        sender_key_distribution_message: MessageField::some(wa::message::SenderKeyDistributionMessage {
            group_id: Some(group.to_string()),
            axolotl_sender_key_distribution_message: Some(bytes),
        }),
        ..wa::Message::default()
    }
}

fn envelope(device: &Jid, sealed: Sealed, label: Label) -> Node {
    NodeBuilder::new("to").attr("jid", device).children([label.enc(sealed.kind, sealed.bytes)]).build()
}

fn peer_stanza(id: &str, companion: &Jid, enc: Node) -> Node {
    NodeBuilder::new("message")
        .attr("to", companion)
        .attr("id", id)
        .attr("type", "text")
        .attr("category", "peer")
        .attr("push_priority", "high_force")
        .children([enc])
        .build()
}
