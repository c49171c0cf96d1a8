//! What strangers and a broken server may send is refused or read, and never a panic.

use proptest::collection::vec;
use proptest::prelude::*;
use whatsapp_rust::NodeBuilder;
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore_binary::marshal::{marshal, unmarshal_ref};
use whatsapp_rust::wacore_binary::{Node, NodeContent};
use whatsapp_rust::waproto::whatsapp as wa;

use super::content;
use crate::property::holds;

/// What an attribute may say on the wire: a text, or an address of a server that there is. A text with an `@` is written as an
/// address, and one of an unknown server is refused by whoever reads it.
fn attribute() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ -?A-~]{0,24}",
        1 => "[1-9][0-9]{4,14}(:[1-9][0-9]?)?@(s\\.whatsapp\\.net|lid)",
        1 => "[1-9][0-9]{9,17}@(g\\.us|newsletter)",
        1 => "(status)@broadcast",
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let attributes = || vec(("[a-z]{1,8}", attribute()), 0..4);
    let with = |tag: String, attributes: Vec<(String, String)>, content: Option<NodeContent>| {
        let mut node = NodeBuilder::new_dynamic(tag).build();
        for (name, value) in attributes {
            node.attrs.insert(name, value);
        }
        node.content = content;
        node
    };
    let leaf = ("[a-z]{1,8}", attributes(), proptest::option::of(vec(any::<u8>(), 0..80)))
        .prop_map(move |(tag, attributes, bytes)| with(tag, attributes, bytes.map(NodeContent::Bytes)));
    leaf.prop_recursive(4, 24, 5, move |inner| {
        ("[a-z]{1,8}", attributes(), vec(inner, 1..5))
            .prop_map(move |(tag, attributes, nodes)| with(tag, attributes, Some(NodeContent::Nodes(nodes))))
    })
}

/// A node in words: an address is the same whether it is kept as a text or taken apart.
fn told(node: &Node) -> String {
    let attributes: Vec<_> = node.attrs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let content = match &node.content {
        None => "nothing".to_owned(),
        Some(NodeContent::Nodes(nodes)) => format!("{:?}", nodes.iter().map(told).collect::<Vec<_>>()),
        Some(other) => format!("{other:?}"),
    };
    format!("{} {attributes:?} {content}", node.tag)
}

#[test]
fn a_node_of_any_bytes_is_read_or_refused() {
    holds(vec(any::<u8>(), 0..300), |bytes| drop(unmarshal_ref(&bytes).map(|node| node.to_owned())));
    // Those that begin like nodes come further.
    holds(
        (
            vec(
                proptest::sample::select(&[0xf8_u8, 0xf9, 0xfa, 0xf7, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, 0, 1, 2, 3, 5][..]),
                0..60,
            ),
            vec(any::<u8>(), 0..60),
        ),
        |(head, tail)| {
            drop(unmarshal_ref(&[head, tail].concat()).map(|node| node.to_owned()));
        },
    );
}

#[test]
fn a_broken_node_is_read_or_refused() {
    holds(
        (node(), any::<proptest::sample::Index>(), any::<u8>(), any::<proptest::sample::Index>()),
        |(node, at, byte, end)| {
            let mut bytes = marshal(&node).unwrap();
            // The first byte tells whether the rest is compressed.
            let read = unmarshal_ref(&bytes[1..]).map(|node| node.to_owned());
            assert_eq!(read.as_ref().map(told).ok(), Some(told(&node)), "not what was written: {read:?}");
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(end.index(bytes.len()) + 1);
            drop(unmarshal_ref(&bytes[1..]).map(|node| node.to_owned()));
        },
    );
}

#[test]
fn a_message_of_any_bytes_is_told_or_refused() {
    holds(vec(any::<u8>(), 0..300), |bytes| {
        let Ok(message) = wa::Message::decode_from_slice(&bytes) else { return };
        let opened = content::open(&message);
        content::text(opened.message);
        content::content(&opened);
        content::file(opened.message);
    });
}
