//! Small words for stanzas: reading attributes and content, and the answers that every room gives.

use std::time::{SystemTime, UNIX_EPOCH};

use whatsapp_rust::wacore_binary::{Node, NodeContent};
use whatsapp_rust::{Jid, NodeBuilder};

/// The server's own address, in the form that clients compare as a string.
pub(crate) const SERVER: &str = "s.whatsapp.net";

pub(crate) fn attr(node: &Node, key: &str) -> Option<String> {
    node.attrs.get(key).map(|value| value.as_str().into_owned())
}

pub(crate) fn attr_is(node: &Node, key: &str, expected: &str) -> bool {
    node.attrs.get(key).is_some_and(|value| *value == *expected)
}

pub(crate) fn attr_jid(node: &Node, key: &str) -> Option<Jid> {
    node.attrs.get(key)?.to_jid()
}

pub(crate) fn content(node: &Node) -> Option<&[u8]> {
    match node.content.as_ref()? {
        NodeContent::Bytes(bytes) => Some(bytes),
        NodeContent::String(text) => Some(text.as_bytes()),
        NodeContent::Nodes(_) => None,
    }
}

/// Content of a child, as bytes.
pub(crate) fn child_content<'a>(node: &'a Node, tag: &str) -> Option<&'a [u8]> {
    content(node.get_optional_child(tag)?)
}

pub(crate) fn children(node: &Node) -> &[Node] {
    node.children().unwrap_or_default()
}

pub(crate) fn first_child(node: &Node) -> Option<&Node> {
    children(node).first()
}

pub(crate) fn bytes(tag: &'static str, content: &[u8]) -> Node {
    NodeBuilder::new(tag).bytes(content).build()
}

pub(crate) fn with_attr(
    mut node: Node,
    key: &'static str,
    value: impl Into<whatsapp_rust::wacore_binary::NodeValue>,
) -> Node {
    node.attrs.insert(key, value);
    node
}

/// An empty element of a tag that is not known at compile time.
pub(crate) fn element(tag: &str) -> NodeBuilder {
    NodeBuilder::new_dynamic(tag.to_owned())
}

pub(crate) fn result(id: &str, content: impl IntoIterator<Item = Node>) -> Node {
    let mut content = content.into_iter().peekable();
    let iq = NodeBuilder::new("iq").attr("from", SERVER).attr("type", "result").attr("id", id);
    if content.peek().is_some() { iq.children(content).build() } else { iq.build() }
}

pub(crate) fn error(id: &str, code: u16, text: &str) -> Node {
    NodeBuilder::new("iq")
        .attr("from", SERVER)
        .attr("type", "error")
        .attr("id", id)
        .children([error_child(code, text)])
        .build()
}

pub(crate) fn error_child(code: u16, text: &str) -> Node {
    NodeBuilder::new("error").attr("code", code).attr("text", text).build()
}

pub(crate) fn stream_error(code: u16) -> Node {
    NodeBuilder::new("stream:error").attr("code", code).build()
}

pub(crate) fn conflict(code: Option<u16>, kind: &str) -> Node {
    let error = NodeBuilder::new("stream:error").children([NodeBuilder::new("conflict").attr("type", kind).build()]);
    match code {
        Some(code) => error.attr("code", code).build(),
        None => error.build(),
    }
}

pub(crate) fn failure(code: u16) -> Node {
    NodeBuilder::new("failure").attr("reason", code).attr("location", "sim").build()
}

pub(crate) fn ban(code: u16, expire: u64) -> Node {
    NodeBuilder::new("failure").attr("reason", 402).attr("code", code).attr("expire", expire).build()
}

/// Seconds since 1970, as the attribute `t` has them.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
