//! Linking by code: the companion's hello, the phone's answer when the code is typed, the companion's key bundle.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use tokio::sync::oneshot;
use tokio::time::timeout;
use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;

use super::{ANSWER_LIMIT, Candidate};
use crate::phone::CodeAnswer;
use crate::server::Core;
use crate::stanza::{self, SERVER, attr, attr_jid, bytes, child_content};
use crate::state::State;

const STANZA: &str = "link_code_companion_reg";

/// A companion that shows a code; one per number, the last one.
pub(crate) struct Hello {
    link: u64,
    reference: Vec<u8>,
    wrapped: Vec<u8>,
    /// Who waits for the companion's second step.
    finish: Option<oneshot::Sender<Finish>>,
}

impl Hello {
    /// Whether it came over that connection.
    pub(crate) fn is_of(&self, link: u64) -> bool {
        self.link == link
    }
}

/// The companion's second step.
struct Finish {
    identity: [u8; 32],
    bundle: Vec<u8>,
}

impl Core {
    /// Acts as the phone on which a companion's code is typed. Returns the new device's JID, as `scan`.
    pub(crate) async fn link(self: &Arc<Self>, code: &str, number: &str) -> anyhow::Result<String> {
        let linked = self.link_by_code(code, number).await;
        if linked.is_err() {
            self.with(|state| state.counters.codes_refused += 1);
        }
        linked
    }

    async fn link_by_code(self: &Arc<Self>, code: &str, number: &str) -> anyhow::Result<String> {
        let phone = self.phone(number)?;
        let wrapped = self.with(|state| state.hellos.get(number).map(|hello| hello.wrapped.clone()));
        let wrapped = wrapped.context("no companion shows a code for this number")?;
        let typed = code.to_owned();
        let answer = tokio::task::spawn_blocking(move || CodeAnswer::new(&typed, &wrapped)).await??;
        let (sender, finish) = oneshot::channel();
        let link = self.with(|state| {
            let hello = state.hellos.get_mut(number).context("the companion shows no code any more")?;
            hello.finish = Some(sender);
            let (link, reference) = (hello.link, hello.reference.clone());
            let notification = state.notification(STANZA).children([NodeBuilder::new(STANZA)
                .attr("stage", "primary_hello")
                .children([
                    bytes("link_code_pairing_ref", &reference),
                    bytes("primary_identity_pub", &phone.identity()),
                    bytes("link_code_pairing_wrapped_primary_ephemeral_pub", &answer.wrapped),
                ])
                .build()]);
            state.links.get(&link).context("the client has left")?.send(notification.build());
            anyhow::Ok(link)
        })?;
        let finish = timeout(ANSWER_LIMIT, finish).await.context("the client did not answer the phone's hello")?;
        let Finish { identity, bundle } = finish.context("the client left while it was being linked")?;
        let secret = answer.open(&phone, identity, &bundle)?;
        self.with(|state| state.hellos.remove(number));
        self.pair(&phone, number, Candidate { link, identity, secret, feature: "code-pairing" }).await
    }
}

/// Answers both steps of a companion.
pub(super) fn step(state: &mut State, link: u64, id: &str, asked: &Node) -> Node {
    let stage = attr(asked, "stage").unwrap_or_default();
    let outcome = match stage.as_str() {
        "companion_hello" => hello(state, link, asked).map(|reference| stanza::result(id, [reference])),
        "companion_finish" => finish(state, asked, link).map(|()| stanza::result(id, [])),
        other => Err(anyhow::anyhow!("linking by code in the stage {other:?}")),
    };
    outcome.unwrap_or_else(|error| {
        state.counters.violation(&format!("{error:#}"));
        stanza::error(id, 400, "bad-request")
    })
}

fn number(asked: &Node) -> anyhow::Result<String> {
    Ok(attr_jid(asked, "jid").context("linking by code without a number")?.user.to_string())
}

fn part<'a>(asked: &'a Node, tag: &str) -> anyhow::Result<&'a [u8]> {
    child_content(asked, tag).with_context(|| format!("linking by code without {tag}"))
}

fn hello(state: &mut State, link: u64, asked: &Node) -> anyhow::Result<Node> {
    let number = number(asked)?;
    let wrapped = part(asked, "link_code_pairing_wrapped_companion_ephemeral_pub")?.to_vec();
    ensure!(wrapped.len() == 80, "linking by code with a wrapped key of {} bytes", wrapped.len());
    let companion = state.links.get(&link).context("a code of nobody")?;
    ensure!(companion.registration.is_some(), "a code of a client that does not register");
    ensure!(part(asked, "companion_server_auth_key_pub")? == companion.noise, "a code under another Noise key");
    for described in ["companion_platform_id", "companion_platform_display"] {
        ensure!(!part(asked, described)?.is_empty(), "linking by code with an empty {described}");
    }
    let reference = format!("3@{}", hex::encode(rand::random::<[u8; 24]>())).into_bytes();
    let answer = bytes("link_code_pairing_ref", &reference);
    state.hellos.insert(number, Hello { link, reference, wrapped, finish: None });
    state.counters.codes_shown += 1;
    Ok(NodeBuilder::new(STANZA).attr("stage", "companion_hello").children([answer]).build())
}

fn finish(state: &mut State, asked: &Node, link: u64) -> anyhow::Result<()> {
    let number = number(asked)?;
    let identity: [u8; 32] =
        part(asked, "companion_identity_public")?.try_into().context("an identity that is no key")?;
    let bundle = part(asked, "link_code_pairing_wrapped_key_bundle")?.to_vec();
    let registration = state.links.get(&link).and_then(|link| link.registration.as_ref());
    ensure!(registration.is_some_and(|known| known.identity == identity), "a code under another identity");
    let hello = state.hellos.get_mut(&number).context("the second step of linking by code before the first")?;
    ensure!(hello.link == link && hello.reference == part(asked, "link_code_pairing_ref")?, "a code of another client");
    let waiting = hello.finish.take().context("a second step that no phone asked for")?;
    if waiting.send(Finish { identity, bundle }).is_err() {
        tracing::debug!("the phone does not wait for its companion any more");
    }
    Ok(())
}

/// Whether a query is a step of linking by code.
pub(super) fn asked(iq: &Node) -> Option<&Node> {
    iq.get_optional_child(STANZA).filter(|_| stanza::attr_is(iq, "to", SERVER))
}
