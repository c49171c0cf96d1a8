//! Logins: the three Noise patterns, wrong keys, replacement, removal, TLS, compression.

use whatsapp_rust::NodeBuilder;
use whatsapp_simulator::{Fault, Kick, Options, Simulator};

use crate::companion::{Companion, attr};

const NUMBER: &str = "6281111111111";

#[tokio::test]
async fn known_companions_log_in_by_ik_and_fall_back_when_declined() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    assert_eq!(companion.connect(&simulator, true).await.unwrap().tag, "success");
    simulator.inject(Fault::DeclineIk.times(1));
    assert_eq!(companion.connect(&simulator, true).await.unwrap().tag, "success");
    companion.server = Some([9; 32]);
    let counters = simulator.counters();
    assert_eq!((counters.logins_xx, counters.logins_ik, counters.logins_xxfallback), (1, 1, 1));
    assert_eq!(companion.connect(&simulator, true).await.unwrap().tag, "success", "a hello to a stale key");
    assert_eq!(simulator.counters().logins_xxfallback, 2);
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_login_with_another_noise_key_fails() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    companion.noise = Companion::new().noise;
    let failure = companion.connect(&simulator, false).await.unwrap();
    assert_eq!((failure.tag.as_ref(), attr(&failure, "reason").as_str()), ("failure", "401"));
    while companion.receive().await.is_some() {}
    assert_eq!(simulator.counters().logins_refused, 1);
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_second_login_replaces_the_first() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut first = Companion::linked(&simulator, NUMBER).await;
    let mut second = Companion::new();
    second.jid.clone_from(&first.jid);
    second.noise = first.noise.clone();
    second.login(&simulator).await;
    let error = first.next("stream:error").await;
    assert_eq!(attr(error.get_optional_child("conflict").unwrap(), "type"), "replaced");
    while first.receive().await.is_some() {}
    assert!(simulator.devices(NUMBER)[0].online);
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_removed_companion_is_told_now_and_at_its_next_login() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    simulator.unlink(NUMBER, 1);
    let error = companion.next("stream:error").await;
    assert_eq!(attr(&error, "code"), "401");
    assert_eq!(attr(error.get_optional_child("conflict").unwrap(), "type"), "device_removed");
    let failure = companion.connect(&simulator, true).await.unwrap();
    assert_eq!(attr(&failure, "reason"), "401");
    assert!(simulator.devices(NUMBER).is_empty());
    assert_eq!(simulator.counters().violations, 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_companion_that_unlinks_itself_is_forgotten() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let jid = companion.jid.clone().unwrap();
    let remove = NodeBuilder::new("remove-companion-device").attr("jid", jid).attr("reason", "user_initiated").build();
    let answer = companion.ask("set", "md", "s.whatsapp.net", [remove]).await;
    assert_eq!(attr(&answer, "type"), "result");
    assert!(simulator.devices(NUMBER).is_empty());
    assert_eq!(simulator.counters().unlinks, 1);
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_test_root_vouches_for_wss() {
    let simulator = Simulator::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    assert_eq!(companion.connect_securely(&simulator).await.unwrap().tag, "success");
    simulator.shutdown().await;
}

#[tokio::test]
async fn larger_frames_come_compressed_when_asked() {
    let simulator = Simulator::start(Options { compress: true, ..Options::default() }).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    companion.next("message").await;
    assert!(companion.compressed() > 0);
    assert!(simulator.counters().compressed_frames > 0);
    assert!(simulator.features()["compressed-frames"].contains("other"));
    simulator.shutdown().await;
}

#[tokio::test]
async fn kicks_end_a_connection_in_the_way_asked_for() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    simulator.kick(NUMBER, 1, Kick::Close).await;
    while companion.receive().await.is_some() {}
    for code in [503, 515, 429, 401] {
        companion.login(&simulator).await;
        simulator.kick(NUMBER, 1, Kick::StreamError { code }).await;
        assert_eq!(attr(&companion.next("stream:error").await, "code"), code.to_string());
        while companion.receive().await.is_some() {}
    }
    companion.login(&simulator).await;
    simulator.kick(NUMBER, 1, Kick::Replaced).await;
    let error = companion.next("stream:error").await;
    assert_eq!(attr(error.get_optional_child("conflict").unwrap(), "type"), "replaced");
    companion.login(&simulator).await;
    simulator.kick(NUMBER, 1, Kick::Failure { code: 405 }).await;
    while companion.receive().await.is_some() {}
    assert_eq!(attr(&companion.connect(&simulator, true).await.unwrap(), "reason"), "405");
    companion.login(&simulator).await;
    simulator.kick(NUMBER, 1, Kick::Silence).await;
    companion.send(NodeBuilder::new("iq").attr("id", "1").attr("type", "get").attr("xmlns", "w:p").build()).await;
    assert!(companion.silence().await);
    simulator.shutdown().await;
}
