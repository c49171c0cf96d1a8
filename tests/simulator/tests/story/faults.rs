//! Faults strike whom and as often as they were told to.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder};
use whatsapp_simulator::{Fault, Options, Simulator};

use crate::companion::{Companion, attr};

const NUMBER: &str = "6281111111111";
const FRIEND: &str = "6282222222222";

fn ping() -> Node {
    NodeBuilder::new("ping").build()
}

/// A message whose ciphertext nobody can open; its header is in order.
fn message(id: &str, counter: u8) -> Node {
    // Version 3.3, ratchet key (1), counter (2), previous counter (3), ciphertext (4), eight bytes of MAC.
    let mut body = vec![0x33, 0x0a, 0x21, 0x05];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0x10, counter, 0x18, 0, 0x22, 16]);
    body.extend_from_slice(&rand::random::<[u8; 24]>());
    let enc = NodeBuilder::new("enc").attr("v", 2).attr("type", "msg").bytes(body).build();
    NodeBuilder::new("message").attr("id", id).attr("type", "text").attr("to", Jid::pn(FRIEND)).children([enc]).build()
}

#[tokio::test]
async fn sends_are_nacked_dropped_delayed_or_cut_off() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    simulator.phone(FRIEND);
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    companion.send(message("a", 1)).await;
    let ack = companion.next("ack").await;
    assert_eq!((attr(&ack, "id").as_str(), attr(&ack, "error").as_str()), ("a", ""));

    simulator.inject(Fault::NackMessages { code: 479 }.on(NUMBER).times(1));
    companion.send(message("b", 2)).await;
    assert_eq!(attr(&companion.next("ack").await, "error"), "479");

    simulator.inject(Fault::DropMessageAcks.times(1));
    companion.send(message("c", 3)).await;
    companion.send(message("d", 4)).await;
    assert_eq!(attr(&companion.next("ack").await, "id"), "d");
    assert_eq!(simulator.counters().acks_withheld, 1);

    let delay = Duration::from_millis(120);
    simulator.inject(Fault::DelayAcks { delay }.times(1));
    let start = Instant::now();
    companion.send(message("e", 5)).await;
    companion.next("ack").await;
    assert!(start.elapsed() >= delay);

    let other = simulator.inject(Fault::CloseOnMessage.on("6289999999999"));
    companion.send(message("f", 6)).await;
    companion.next("ack").await;
    simulator.clear(other);
    simulator.inject(Fault::CloseOnMessage.times(1));
    companion.send(message("g", 7)).await;
    while companion.receive().await.is_some() {}
    assert_eq!(simulator.counters().violations, 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn queries_are_slow_unanswered_or_refused() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let delay = Duration::from_millis(120);
    simulator.inject(Fault::SlowAnswers { delay }.times(1));
    let start = Instant::now();
    companion.ask("get", "w:p", "s.whatsapp.net", [ping()]).await;
    assert!(start.elapsed() >= delay);
    simulator.inject(Fault::RefusePreKeys.times(1));
    let key = NodeBuilder::new("key").children([NodeBuilder::new("user").attr("jid", Jid::pn(NUMBER)).build()]).build();
    let refused = companion.ask("get", "encrypt", "s.whatsapp.net", [key]).await;
    assert_eq!(attr(refused.get_optional_child("error").unwrap(), "code"), "503");
    simulator.inject(Fault::DropAnswers { xmlns: "w:p".to_owned() }.times(1));
    let lost = NodeBuilder::new("iq").attr("id", "lost").attr("type", "get").attr("xmlns", "w:p").children([ping()]);
    companion.send(lost.build()).await;
    let answer = companion.ask("get", "w:p", "s.whatsapp.net", [ping()]).await;
    assert_ne!(attr(&answer, "id"), "lost");
    simulator.shutdown().await;
}

#[tokio::test]
async fn connections_are_swallowed_dropped_or_refused() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    simulator.inject(Fault::RefuseLogin { code: 403 }.on(NUMBER).times(1));
    assert_eq!(attr(&companion.connect(&simulator, true).await.unwrap(), "reason"), "403");

    simulator.inject(Fault::SilentAfterLogin.times(1));
    companion.login(&simulator).await;
    let lost = NodeBuilder::new("iq").attr("id", "lost").attr("type", "get").attr("xmlns", "w:p").children([ping()]);
    companion.send(lost.build()).await;
    assert!(companion.silence().await);

    let silent = simulator.inject(Fault::SilentAccept);
    let connecting = tokio::time::timeout(Duration::from_millis(300), companion.connect(&simulator, true)).await;
    assert!(connecting.is_err(), "the handshake is never answered");
    simulator.clear(silent);

    simulator.inject(Fault::DropConnections.times(1));
    let address = simulator.ws_url().trim_start_matches("ws://").trim_end_matches("/ws/chat").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    assert!(!matches!(stream.read(&mut [0; 8]).await, Ok(1..)));

    simulator.inject(Fault::RefuseUpgrade.times(1));
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let refused = tokio_tungstenite::client_async(simulator.ws_url(), stream).await.unwrap_err();
    assert!(refused.to_string().contains("503"), "{refused}");
    companion.login(&simulator).await;
    assert_eq!(simulator.counters().faults_hit, 5);
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_counter_used_twice_is_counted_and_an_unknown_recipient_refused() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    companion.send(message("a", 1)).await;
    assert_eq!(attr(&companion.next("ack").await, "error"), "404");
    simulator.phone(FRIEND);
    let twice = message("b", 2);
    for _ in 0..2 {
        companion.send(twice.clone()).await;
        companion.next("ack").await;
    }
    companion.send(message("c", 2)).await;
    companion.next("ack").await;
    let counters = simulator.counters();
    assert_eq!((counters.repeated_ciphertexts, counters.repeated_counters), (1, 2));
    simulator.shutdown().await;
}
