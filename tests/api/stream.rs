//! What lies below stanzas: frames in messages, handshakes, and streams that end at once.

use whatsapp_simulator::{Fault, Framing, Kick, Options};

use super::support::{STEP, TestGateway, eventually};

const NUMBER: &str = "6281234500501";
const FRIEND: &str = "6281234500502";

impl TestGateway {
    /// Ends the session's stream and waits for the login after it.
    async fn has_to_log_in_again(&self) {
        let logins = self.simulator.counters().logins;
        let device = self.simulator.devices(NUMBER)[0].device;
        self.simulator.kick(NUMBER, device, Kick::Close).await;
        eventually("another login", || async { (self.simulator.counters().logins > logins).then_some(()) }).await;
        self.api.wait_status("a", "connected").await;
    }

    async fn talks_both_ways(&self, text: &str) {
        self.api.text("a", FRIEND, text).await.expect(200);
        let friend = self.simulator.phone(FRIEND);
        assert_eq!(friend.next_message(STEP).await.unwrap().text.as_deref(), Some(text));
        friend.says(NUMBER, text).await.unwrap();
        self.receiver.message("a", text).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_may_lie_in_messages_as_they_like() {
    for framing in [Framing::Joined, Framing::Cut(1), Framing::Cut(97)] {
        let gateway = TestGateway::start_with(Options { framing, ..Options::default() }, &[]).await;
        gateway.simulator.phone(FRIEND);
        gateway.pair("a", NUMBER).await;
        gateway.talks_both_ways("first").await;
        let short = gateway.simulator.counters().logins_ik;
        gateway.has_to_log_in_again().await;
        assert!(gateway.simulator.counters().logins_ik > short, "{framing:?}: by a short handshake");
        gateway.talks_both_ways("second").await;
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_handshake_that_leads_nowhere_is_given_up_for_a_full_one() {
    for fault in [Fault::CloseOnIk, Fault::AnswerIkByXx] {
        let gateway = TestGateway::start_with(Options::default(), &[]).await;
        gateway.simulator.phone(FRIEND);
        gateway.pair("a", NUMBER).await;
        let injected = gateway.simulator.inject(fault.clone());
        let before = gateway.simulator.counters();
        gateway.has_to_log_in_again().await;
        let after = gateway.simulator.counters();
        assert!(after.handshakes_failed > before.handshakes_failed, "{fault:?}: it was tried");
        assert!(after.logins_xx > before.logins_xx, "{fault:?}");
        gateway.talks_both_ways("fully").await;
        // The key is known anew.
        gateway.simulator.clear(injected);
        gateway.has_to_log_in_again().await;
        assert!(gateway.simulator.counters().logins_ik > after.logins_ik);
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_login_that_is_refused_costs_new_credentials_only_the_third_time() {
    let gateway = TestGateway::start_with(Options::default(), &[]).await;
    gateway.simulator.phone(FRIEND);
    gateway.simulator.inject(Fault::RefuseLogin { code: 401 }.on(NUMBER).times(2));
    gateway.pair("a", NUMBER).await;
    assert_eq!(gateway.simulator.counters().pairings, 1);
    gateway.talks_both_ways("linked").await;
    gateway.api.delete("a").await.expect(200);

    // Whoever asks for it all the time does not use the tries up.
    let refused = gateway.simulator.inject(Fault::RefuseLogin { code: 401 }.on(NUMBER));
    let qr = gateway.api.qr("c").await;
    gateway.simulator.scan(&qr, NUMBER).await.unwrap();
    eventually("the first refusal", || async { (gateway.detail("c").await["state"] == "refused").then_some(()) }).await;
    for _ in 0..6 {
        gateway.api.start("c").await.expect(400);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    gateway.simulator.clear(refused);
    gateway.api.wait_status("c", "connected").await;
    gateway.api.delete("c").await.expect(200);

    gateway.simulator.inject(Fault::RefuseLogin { code: 401 }.on(NUMBER).times(3));
    let qr = gateway.api.qr("b").await;
    gateway.simulator.scan(&qr, NUMBER).await.unwrap();
    gateway.api.wait_status("b", "disconnected").await;
    assert_eq!(gateway.detail("b").await["state"], "logged_out");
    gateway.pair("b", NUMBER).await;
    gateway.finish().await;
}
