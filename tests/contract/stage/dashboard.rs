//! What happened around the recorded pages of the dashboard.

use std::time::Duration;

use serde_json::Value;
use whatsapp_simulator::Fault;

use super::super::golden::SETTINGS;
use super::super::wire::{self, Answer};
use super::super::world::{STEP, eventually};
use super::Stage;

/// The account that scans the code of the create page: the number that its id makes is another session's.
const SCANS: &str = "6281234508001";

/// A name as the create page makes them up.
const RANDOM: &str = "7d0e4c1a-52b8-4f3e-9a6d-1c2b3a495867";

/// whatsapp-rust shows the first code for 60 s, as the phone does.
const CODE_LIVES: Duration = Duration::from_mins(1);

/// What a stranger who knows the key can sign: with any secret but this installation's.
const FORGED: &str = "key=secret.QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU%3D";

impl Stage {
    pub(super) async fn prepare_dashboard(&mut self, step: u32) {
        match step {
            1 => self.sign_in().await,
            70 => self.create("dq1").await,
            // The recording without a key and in development asked before the scan was noticed.
            78 if !self.asks_early() => self.scan().await,
            81 => {
                if self.asks_early() {
                    self.scan().await;
                }
                self.clear();
                self.world.wait_status("dq1", "connected").await;
            }
            85 => drop(self.world.ask("DELETE", "/session/dq1", None).await),
            133 => self.genuine = self.cookie.replace(FORGED.to_owned()),
            134 => self.cookie = self.genuine.take(),
            // Recorded with this setting only.
            138 if self.world.setting == SETTINGS[0] => self.shown_a_minute_ago().await,
            139 => {
                self.random = None;
                for _ in 0..5 {
                    self.log_in("bad").await;
                }
            }
            142 => self.delete_all().await,
            _ => {}
        }
    }

    fn asks_early(&self) -> bool {
        self.world.setting.key.is_empty() && self.world.setting.env == "development"
    }

    async fn log_in(&self, password: &str) -> Answer {
        let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
        wire::ask(self.world.port, "POST", "/auth/login", &form, Some(&format!("password={password}"))).await
    }

    async fn sign_in(&mut self) {
        self.world.connected("ok1").await;
        self.world.unlinked("dead1").await;
        self.silent("stuck1").await;
        for contact in ["62812", "62800"] {
            self.world.simulator.phone(contact);
        }
        if self.world.setting.key.is_empty() {
            return;
        }
        let answer = self.log_in(self.world.setting.key).await;
        let cookie = answer.header("set-cookie").and_then(|cookie| cookie.split(';').next());
        self.cookie = cookie.map(str::to_owned);
    }

    async fn visit(&self, method: &str, path: &str, form: Option<&str>) -> Answer {
        let mut headers = vec![("Cookie".to_owned(), self.cookie.clone().unwrap_or_default())];
        headers.extend(form.map(|_| ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())));
        wire::ask(self.world.port, method, path, &headers, form).await
    }

    /// Presses the button of the create page.
    async fn create(&self, id: &str) {
        let path = format!("/dashboard/sessions/create?id={id}");
        let page = self.visit("GET", &path, None).await.body;
        let token = page.split_once("name=\"csrf\" value=\"").and_then(|(_, rest)| rest.split('"').next());
        let token = token.unwrap_or_else(|| panic!("no form token in {page}"));
        let form = format!("id={id}&csrf={token}");
        let answer = self.visit("POST", "/dashboard/sessions/create", Some(&form)).await;
        assert_eq!((answer.status, answer.header("location")), (303, Some(path.as_str())), "{}", answer.body);
    }

    async fn code(&self, id: &str) -> Value {
        let answer = self.visit("GET", &format!("/dashboard/sessions/create/qr?id={id}"), None).await;
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The create page has shown a code, and nobody has looked at the page for the minute that the code lives.
    async fn shown_a_minute_ago(&mut self) {
        self.random = Some(RANDOM);
        self.create(RANDOM).await;
        let shown = self.code(RANDOM).await["qr"].as_str().unwrap().to_owned();
        let deadline = tokio::time::Instant::now() + CODE_LIVES + STEP;
        // The API tells when another code takes its place, and the page does not notice.
        while self.world.waits(RANDOM).await == shown {
            assert!(tokio::time::Instant::now() < deadline, "the first code stays");
            // A bounded poll of a condition that nobody announces.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Scans the code; the session is linked, and can't log in yet.
    async fn scan(&mut self) {
        self.world.simulator.account(SCANS, "Fake dq1").unwrap();
        self.fault = Some(self.world.simulator.inject(Fault::RefuseLogin { code: 503 }.on(SCANS)));
        let qr = self.code("dq1").await["qr"].as_str().unwrap().to_owned();
        self.world.simulator.scan(&qr, SCANS).await.unwrap();
        let noticed = || async { (self.code("dq1").await["status"] == "connecting").then_some(()) };
        eventually("the scan to be noticed", noticed).await;
    }

    async fn delete_all(&self) {
        let list: Value = serde_json::from_str(&self.world.ask("GET", "/session", None).await.body).unwrap();
        for row in list["data"].as_array().unwrap() {
            let path = format!("/session/{}", row["session"].as_str().unwrap());
            assert_eq!(self.world.ask("DELETE", &path, None).await.status, 200, "{path}");
        }
    }
}
