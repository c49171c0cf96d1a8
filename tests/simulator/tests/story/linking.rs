//! Pairing: what a scan accepts and what it refuses.

use std::time::Duration;

use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_simulator::{Options, Simulator};

use crate::companion::{Companion, attr};

const NUMBER: &str = "6281111111111";

#[tokio::test]
async fn a_scanned_companion_is_restarted_and_may_log_in() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::new();
    companion.register(&simulator).await;
    let jid = companion.pair(&simulator, NUMBER).await.unwrap();
    assert_eq!(jid, format!("{NUMBER}:1@s.whatsapp.net"));
    assert_eq!(attr(&companion.next("stream:error").await, "code"), "515");
    companion.login(&simulator).await;
    let devices = simulator.devices(NUMBER);
    assert_eq!((devices.len(), devices[0].online, devices[0].platform.as_str()), (1, true, "test"));
    let counters = simulator.counters();
    assert_eq!((counters.pairings, counters.logins, counters.violations), (1, 1, 0));
    simulator.shutdown().await;
}

#[tokio::test]
async fn companions_of_one_phone_get_numbers_and_indexes_of_their_own() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut first = Companion::linked(&simulator, NUMBER).await;
    let mut second = Companion::new();
    second.register(&simulator).await;
    second.pair(&simulator, NUMBER).await.unwrap();
    let devices = simulator.devices(NUMBER);
    assert_eq!(devices.iter().map(|device| (device.device, device.key_index)).collect::<Vec<_>>(), [(1, 1), (2, 2)]);
    loop {
        let notification = first.next("notification").await;
        if attr(&notification, "type") == "devices" {
            let added = notification.get_optional_child_by_tag(&["add", "device"]).unwrap();
            assert_eq!(attr(added, "jid"), format!("{NUMBER}:2@s.whatsapp.net"));
            break;
        }
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_code_that_the_server_never_gave_is_refused() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::new();
    companion.register(&simulator).await;
    let good = companion.code();
    companion.reference = "2@unknown".to_owned();
    assert!(simulator.scan(&companion.code(), NUMBER).await.is_err());
    assert!(simulator.scan("not a code", NUMBER).await.is_err());
    let other = Companion::new().code();
    let mixed = format!("{},{}", good.split(',').next().unwrap(), other.split_once(',').unwrap().1);
    assert!(simulator.scan(&mixed, NUMBER).await.is_err(), "keys of another client");
    assert_eq!(simulator.counters().scans_refused, 3);
    assert!(simulator.devices(NUMBER).is_empty());
    simulator.shutdown().await;
}

#[tokio::test]
async fn references_expire_and_the_registration_ends() {
    let (first, next) = (Duration::from_millis(40), Duration::from_millis(40));
    let options = Options { qr_first: first, qr_next: next, qr_refs: 1, ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    let mut companion = Companion::new();
    companion.register(&simulator).await;
    assert!(companion.receive().await.is_none(), "the server closes when all codes are stale");
    assert!(simulator.scan(&companion.code(), NUMBER).await.is_err());
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_companion_that_signs_with_another_key_is_not_linked() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::new();
    companion.register(&simulator).await;
    let code = companion.code();
    let (scanned, ()) = tokio::join!(simulator.scan(&code, NUMBER), companion.prove(false));
    assert!(scanned.is_err());
    assert!(simulator.devices(NUMBER).is_empty());
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_typed_code_links_a_companion_and_a_wrong_one_does_not() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::new();
    companion.register(&simulator).await;
    let code = "ABCD1234";
    let ephemeral = KeyPair::generate(&mut rand::rng());
    assert!(simulator.link(code, NUMBER).await.is_err(), "nobody shows a code");
    companion.show_code(NUMBER, code, &ephemeral).await;
    let (linked, ()) =
        tokio::join!(simulator.link("ABCD-1235", NUMBER), companion.finish_code(NUMBER, code, &ephemeral));
    assert!(linked.unwrap_err().to_string().contains("wrong"));
    assert!(simulator.devices(NUMBER).is_empty());

    // As people type it.
    let (linked, ()) = tokio::join!(simulator.link("abcd-1234", NUMBER), async {
        companion.finish_code(NUMBER, code, &ephemeral).await;
        companion.prove(true).await;
    });
    let jid = linked.unwrap();
    assert_eq!(jid, format!("{NUMBER}:1@s.whatsapp.net"));
    companion.jid = Some(jid.parse().unwrap());
    assert_eq!(attr(&companion.next("stream:error").await, "code"), "515");
    companion.login(&simulator).await;
    let counters = simulator.counters();
    assert_eq!((counters.codes_shown, counters.codes_refused, counters.pairings, counters.violations), (1, 2, 1, 0));
    assert!(simulator.features().contains_key("code-pairing"));
    assert!(simulator.link(code, NUMBER).await.is_err(), "a code is good for once");
    simulator.shutdown().await;
}
