//! `bare`: as many sessions as the gateway would have, of the bare library: what its part of a message costs when many
//! sessions share the processor's caches and the memory.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::arguments::{Crowd, Settings};
use crate::bare_library::Session;
use crate::bench::{self, each};
use crate::ledger::{contact_number, own_number};
use crate::phase::{pairing, traffic};
use crate::phones::{Line, Phones};
use crate::proc::{self, Memory, Process};
use crate::program::Program;
use crate::report::{Report, count, float, millis};
use crate::{complain, say};

/// What follows a login belongs to the pairing.
const SETTLE: Duration = Duration::from_secs(2);

/// Starts the simulator and the sessions in processes of their own and tells the figures.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<bool> {
    let (_simulator, urls) = Program::part(["simulator", "plain", "0", "0"]).await?;
    let url = |name: &str| urls[name].as_str().context("the simulator told no URL");
    let Settings { sessions, messages, chats, .. } = settings;
    complain(&format!("{sessions} sessions of the bare library on {}", proc::machine()));
    let [sessions_word, messages_word, chats_word] = [sessions, messages, chats].map(|number| number.to_string());
    let part = ["crowd", url("ws")?, url("control")?, &sessions_word, &messages_word, &chats_word];
    let (_crowd, told) = Program::part(part).await?;
    let mut report = Report::default();
    for (key, label, unit) in [
        ("bare.crowd.cpu.pairing", "bare library: CPU a pairing", "ms"),
        ("bare.crowd.rss.connected", "bare library: RSS, all connected", "MiB"),
        ("bare.crowd.cpu.first", "bare library: CPU a first text to a contact", "ms"),
        ("bare.crowd.cpu.sent", "bare library: CPU a further text sent", "ms"),
        ("bare.crowd.cpu.received", "bare library: CPU a text received", "ms"),
        ("bare.crowd.rss.texts", "bare library: RSS, after the texts", "MiB"),
    ] {
        // No further texts, no figure of them.
        if let Some(figure) = told[key].as_f64() {
            report.number(key, label, figure, unit);
        }
    }
    bench::tell(&report, &settings, &format!("{sessions}, bare"))?;
    Ok(true)
}

/// Links the sessions, has each send its texts and hear as many.
pub(crate) async fn part(crowd: Crowd) -> anyhow::Result<bool> {
    let Crowd { url, control, sessions, messages, chats } = crowd;
    let (own, tracker, phones) = (Process(std::process::id()), TaskTracker::new(), Phones::new(&control).await?);
    traffic::make_contacts(&phones, sessions, chats).await?;

    let cpu = own.cpu()?;
    let linking = each(0..sessions, pairing::AT_ONCE, |number| {
        let (url, phones, tracker) = (url.clone(), phones.clone(), tracker.clone());
        async move { Session::link(&url, &phones, &own_number(number), &tracker).await }
    });
    let mut linked: Vec<Session> = linking.await?.into_iter().map(|(session, _code)| session).collect();
    tokio::time::sleep(SETTLE).await;
    let pairing = own.cpu()?.saturating_sub(cpu);
    let connected = own.memory()?;

    let first = send(&mut linked, &phones, own, 0..chats, chats).await?;
    let sent = send(&mut linked, &phones, own, chats..messages, chats).await?;

    let cpu = own.cpu()?;
    let text = |turn: usize, session: usize| Line {
        phone: contact_number(session, turn % chats),
        to: own_number(session),
        text: format!("{session} from {}, text {turn}", turn % chats),
    };
    let all = (0..messages).flat_map(|turn| (0..sessions).map(move |session| text(turn, session)));
    phones.say(&all.collect::<Vec<_>>(), None).await?;
    for session in &mut linked {
        for _ in 0..messages {
            session.message().await?;
        }
    }
    phones.acknowledged().await?;
    let received = own.cpu()?.saturating_sub(cpu);

    let mebibytes = |memory: Memory| float(memory.resident) / 1_048_576.0;
    let told = json!({
        "bare.crowd.cpu.pairing": millis(pairing) / count(sessions),
        "bare.crowd.rss.connected": mebibytes(connected),
        "bare.crowd.cpu.first": millis(first) / count(sessions * chats),
        "bare.crowd.cpu.sent": (messages > chats).then(|| millis(sent) / count(sessions * (messages - chats))),
        "bare.crowd.cpu.received": millis(received) / count(sessions * messages),
        "bare.crowd.rss.texts": mebibytes(own.memory()?),
    });
    say(&told.to_string());
    Ok(true)
}

/// One text of each session a turn, in the order and as many at once as the gateway is asked to; returns the CPU time,
/// receipts of all included.
async fn send(
    linked: &mut [Session],
    phones: &Phones,
    own: Process,
    turns: std::ops::Range<usize>,
    chats: usize,
) -> anyhow::Result<Duration> {
    let cpu = own.cpu()?;
    for turn in turns {
        let sends = linked.iter_mut().enumerate();
        let sent = each(sends, traffic::AT_ONCE, |(number, session)| async move {
            let chat = turn % chats;
            session.send(&contact_number(number, chat), &format!("{number} to {chat}, text {turn}")).await
        });
        sent.await?;
    }
    phones.acknowledged().await?;
    Ok(own.cpu()?.saturating_sub(cpu))
}
