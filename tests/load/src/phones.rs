//! The simulator's control port: phones that scan, contacts that write and read, counts.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Answer, Server};

/// Lines that one bulk command carries.
const LINES: usize = 2_000;
/// Phones that one question names.
const PHONES: usize = 2_000;
/// What is acknowledged later has failed.
const ACKNOWLEDGED_LIMIT: Duration = Duration::from_mins(1);
/// How often it is asked what is left.
const STEP: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub(crate) struct Phones(Server);

/// A text that a contact writes.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) phone: String,
    pub(crate) to: String,
    pub(crate) text: String,
}

/// What a contact has read.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Id and text.
    pub(crate) texts: Vec<(String, Option<String>)>,
    /// Anything that no correct client does: ids or keys used twice, first messages without proof.
    pub(crate) odd: u64,
}

impl Phones {
    pub(crate) async fn new(control: &str) -> anyhow::Result<Self> {
        Ok(Self(Server::new(control, "").await?))
    }

    pub(crate) async fn scan(&self, code: &str, phone: &str) -> anyhow::Result<()> {
        self.0.post("/scan", &json!({"qr": code, "phone": phone})).await?.json().map(drop).context("the scan")
    }

    /// Makes the account of a number.
    pub(crate) async fn account(&self, phone: &str) -> anyhow::Result<()> {
        self.0.post("/account", &json!({"phone": phone})).await?.json().map(drop)
    }

    /// Has contacts write, at a pace or as fast as they can; returns when each began to write, in Unix microseconds.
    pub(crate) async fn say(&self, lines: &[Line], per_second: Option<f64>) -> anyhow::Result<Vec<u64>> {
        let mut begun = Vec::with_capacity(lines.len());
        for lines in lines.chunks(LINES) {
            let lines: Vec<Value> =
                lines.iter().map(|line| json!({"phone": line.phone, "to": line.to, "text": line.text})).collect();
            let mut asked = json!({"lines": lines});
            if let Some(rate) = per_second {
                asked["per_second"] = json!(rate);
                asked["at_once"] = json!(256);
            }
            let answer = self.0.post("/say-all", &asked).await?.json()?;
            for said in answer["said"].as_array().context("an odd answer to /say-all")? {
                ensure!(said["error"].is_null(), "a contact could not write: {}", said["error"]);
                begun.push(said["at_us"].as_u64().context("an odd answer to /say-all")?);
            }
        }
        Ok(begun)
    }

    pub(crate) async fn heard(&self, phones: &[String]) -> anyhow::Result<Vec<Heard>> {
        let mut heard = Vec::with_capacity(phones.len());
        for phones in phones.chunks(PHONES) {
            let answer = self.0.post("/heard", &json!({"phones": phones})).await?.json()?;
            for phone in answer["phones"].as_array().context("an odd answer to /heard")? {
                let texts = phone["texts"].as_array().context("an odd answer to /heard")?;
                let text = |pair: &Value| (text_of(&pair[0]).unwrap_or_default(), text_of(&pair[1]));
                let odd = ["repeated_ids", "repeated_keys", "unproven"].iter().filter_map(|name| phone[*name].as_u64());
                heard.push(Heard { texts: texts.iter().map(text).collect(), odd: odd.sum() });
            }
        }
        Ok(heard)
    }

    pub(crate) async fn send_picture(&self, phone: &str, to: &str, picture: &str) -> anyhow::Result<()> {
        let asked = json!({"phone": phone, "to": to, "kind": "image", "mimetype": "image/png", "base64": picture});
        self.0.post("/send-media", &asked).await?.json().map(drop)
    }

    /// Closes the connection of a number's companion.
    pub(crate) async fn drop_link(&self, phone: &str) -> anyhow::Result<()> {
        let devices = self.get(&format!("/devices?phone={phone}")).await?;
        for device in devices.as_array().into_iter().flatten() {
            let kick = json!({"phone": phone, "device": device["device"], "how": "close"});
            self.0.post("/kick", &kick).await?.json()?;
        }
        Ok(())
    }

    pub(crate) async fn counters(&self) -> anyhow::Result<Value> {
        self.get("/counters").await
    }

    /// Stanzas that companions have not acknowledged, and how many of each kind.
    pub(crate) async fn queued(&self) -> anyhow::Result<(u64, String)> {
        let queued = self.get("/queued").await?;
        Ok((queued["queued"].as_u64().context("an odd answer to /queued")?, queued.to_string()))
    }

    /// Waits until companions have acknowledged all stanzas.
    pub(crate) async fn acknowledged(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.queued().await?.0 > 0 {
            ensure!(begun.elapsed() < ACKNOWLEDGED_LIMIT, "stanzas stay unacknowledged");
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }

    pub(crate) async fn root(&self) -> anyhow::Result<Vec<u8>> {
        let Answer { status, body } = self.0.get("/root.pem").await?;
        ensure!(status == 200, "the simulator has no TLS");
        Ok(body.to_vec())
    }

    async fn get(&self, target: &str) -> anyhow::Result<Value> {
        self.0.get(target).await?.json()
    }
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
