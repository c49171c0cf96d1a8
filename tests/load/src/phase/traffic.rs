//! Texts both ways: cost, latencies, throughput, and whether each came through once.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::time::Instant;

use crate::bench::{Bench, each};
use crate::client::Server;
use crate::ledger::{check_counters, contact_number, own_number, session_name};
use crate::phones::{Line, Phones};
use crate::report::{Latencies, count};

/// Requests under way at the same time while all sessions send.
pub(crate) const AT_ONCE: usize = 16;
/// Texts of the latency phases, one at a time.
const SINGLE: usize = 300;
/// Texts of the throughput phases.
const MANY: usize = 2_000;
/// Pace of the incoming texts whose latency is told.
const PACE: f64 = 50.0;
/// Texts that come in at that pace.
const PACED: usize = 300;
/// What was written must have come by then.
const LIMIT: Duration = Duration::from_mins(3);

/// A text to be sent by HTTP.
#[derive(Clone, Debug)]
struct Send {
    session: usize,
    contact: String,
    text: String,
}

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (sessions, chats, messages) = (bench.settings.sessions, bench.settings.chats, bench.settings.messages);
    make_contacts(&bench.phones, sessions, chats).await?;
    let before = messages_in(bench).await?;
    let turn = |turns| turns_of_all(turns, sessions, chats);
    let begun = bench.cpu()?;
    send(bench, turn(0..chats).map(outgoing), AT_ONCE).await?;
    bench.cost("cpu.first", "CPU a first text to a contact", begun, sessions * chats)?;
    if messages > chats {
        let (begun, clock) = (bench.cpu()?, Instant::now());
        send(bench, turn(chats..messages).map(outgoing), AT_ONCE).await?;
        let number = sessions * (messages - chats);
        bench.cost("cpu.sent", "CPU a further text sent", begun, number)?;
        let rate = count(number) / clock.elapsed().as_secs_f64();
        bench.report.number("rate.all", format!("texts out of all sessions, {AT_ONCE} in flight"), rate, "a second");
    }

    let incoming = turn(0..messages).map(incoming);
    let (begun, clock) = (bench.cpu()?, Instant::now());
    hear(bench, incoming.collect(), None).await?;
    bench.cost("cpu.received", "CPU a text received", begun, sessions * messages)?;
    let rate = count(sessions * messages) / clock.elapsed().as_secs_f64();
    bench.report.number("rate.in", "texts in to all sessions", rate, "a second");
    bench.quiet().await?;
    bench.memory("after the texts")?;
    if let Some(process) = bench.process {
        let memory = process.memory()?;
        bench.report.mebibytes("rss.peak", "RSS, peak so far", memory.peak);
        bench.report.number("threads", "threads", crate::report::float(memory.threads), "of the process");
    }

    single(bench).await?;
    let many = bench.settings.times(MANY);
    let clock = Instant::now();
    let begun = bench.cpu()?;
    let from_one = (0..many).map(|turn| Send {
        session: 0,
        contact: contact_number(0, turn % chats),
        text: format!("0 to {}, one of many {turn}", turn % chats),
    });
    send(bench, from_one, AT_ONCE).await?;
    let rate = count(many) / clock.elapsed().as_secs_f64();
    bench.report.number("rate.one", format!("texts out of one session, {AT_ONCE} in flight"), rate, "a second");
    bench.cost("cpu.one", "CPU a text of these", begun, many)?;

    let texts = bench.ledger.sent_count() + bench.ledger.said_count();
    let counted = messages_in(bench).await? - before;
    if counted != texts as u64 {
        bench.report.fail(format!("{texts} texts were written, the simulator counts {counted} messages"));
    }
    Ok(())
}

/// Each session in each turn: its number, the chat and the turn.
fn turns_of_all(turns: Range<usize>, sessions: usize, chats: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    turns.flat_map(move |turn| (0..sessions).map(move |session| (session, turn % chats, turn)))
}

fn outgoing((session, chat, turn): (usize, usize, usize)) -> Send {
    Send { session, contact: contact_number(session, chat), text: format!("{session} to {chat}, text {turn}") }
}

fn incoming((session, chat, turn): (usize, usize, usize)) -> (usize, usize, String) {
    (session, chat, format!("{session} from {chat}, text {turn}"))
}

/// The same texts again after a restart, once each chat has had one: the store was opened knowing of all sessions.
pub(crate) async fn after_restart(bench: &mut Bench) -> anyhow::Result<()> {
    let (sessions, chats, messages) = (bench.settings.sessions, bench.settings.chats, bench.settings.messages);
    let turns = |begin: usize| turns_of_all(begin..begin + chats, sessions, chats);
    send(bench, turns(messages).map(outgoing), AT_ONCE).await?;
    let begun = bench.cpu()?;
    send(bench, turns(messages + chats).map(outgoing), AT_ONCE).await?;
    bench.cost("cpu.sent.restarted", "CPU a further text sent, after the restart", begun, sessions * chats)?;
    hear(bench, turns(messages).map(incoming).collect(), None).await?;
    let begun = bench.cpu()?;
    hear(bench, turns(messages + chats).map(incoming).collect(), None).await?;
    bench.cost("cpu.received.restarted", "CPU a text received, after the restart", begun, sessions * chats)?;
    Ok(())
}

/// Has the contacts be there before anything is timed.
pub(crate) async fn make_contacts(phones: &Phones, sessions: usize, chats: usize) -> anyhow::Result<()> {
    let contacts = (0..sessions).flat_map(|session| (0..chats).map(move |chat| contact_number(session, chat)));
    let made = each(contacts, AT_ONCE, |contact| {
        let phones = phones.clone();
        async move { phones.account(&contact).await }
    });
    made.await.map(drop)
}

/// One at a time, on an otherwise idle gateway.
async fn single(bench: &mut Bench) -> anyhow::Result<()> {
    let known = contact_number(0, 0);
    let (times, paced) = (bench.settings.times(SINGLE), bench.settings.times(PACED));
    let single = |turn| Send { session: 0, contact: known.clone(), text: format!("0 to 0, alone {turn}") };
    let latencies = send(bench, (0..times).map(single), 1).await?;
    bench.report.latencies("send.alone", "further text to a known contact, alone", &latencies);
    if bench.settings.sessions >= 10 {
        let ten = (0..times).map(|turn| Send {
            session: turn % 10,
            contact: contact_number(turn % 10, 0),
            text: format!("{} to 0, beside nine {turn}", turn % 10),
        });
        let latencies = send(bench, ten, 10).await?;
        bench.report.latencies("send.ten", "further text, ten sessions sending", &latencies);
    }
    let lines = (0..paced).map(|turn| {
        let session = turn % bench.settings.sessions;
        (session, 0, format!("{session} from 0, paced {turn}"))
    });
    let latencies = hear(bench, lines.collect(), Some(PACE)).await?;
    bench.report.latencies("incoming", "incoming → webhook, 50 a second", &latencies);
    Ok(())
}

/// Sends and notes what was sent; every answer must be a success.
async fn send(bench: &mut Bench, texts: impl IntoIterator<Item = Send>, at_once: usize) -> anyhow::Result<Latencies> {
    let gateway = bench.gateway.clone();
    let sent = each(texts, at_once, |send| {
        let gateway = gateway.clone();
        async move {
            let begun = Instant::now();
            let id = send_text(&gateway, send.session, &send.contact, &send.text).await?;
            Ok((send, id, begun.elapsed()))
        }
    })
    .await?;
    let mut latencies = Latencies::default();
    for (Send { contact, text, .. }, id, latency) in sent {
        bench.ledger.sent(contact, id, text);
        latencies.add(latency);
    }
    Ok(latencies)
}

/// Sends one text by GET, which shows no "typing…", and returns its id.
pub(crate) async fn send_text(gateway: &Server, session: usize, to: &str, text: &str) -> anyhow::Result<String> {
    let name = session_name(session);
    let query = serde_urlencoded::to_string([("session", name.as_str()), ("to", to), ("text", text)])?;
    let answer = gateway.get(&format!("/message/send-text?{query}")).await?.json()?;
    id_of(&answer).with_context(|| format!("an answer without an id: {answer}"))
}

fn id_of(answer: &Value) -> Option<String> {
    answer["data"]["key"]["id"].as_str().map(str::to_owned)
}

/// Has contacts write, waits until all came by webhook, and tells how long each took.
pub(crate) async fn hear(
    bench: &mut Bench,
    lines: Vec<(usize, usize, String)>,
    pace: Option<f64>,
) -> anyhow::Result<Latencies> {
    let wanted = bench.ledger.said_count() + lines.len();
    let said: Vec<Line> = lines
        .iter()
        .map(|(session, chat, text)| Line {
            phone: contact_number(*session, *chat),
            to: own_number(*session),
            text: text.clone(),
        })
        .collect();
    for (session, _chat, text) in &lines {
        bench.ledger.said(text.clone(), session_name(*session));
    }
    let begun = bench.phones.say(&said, pace).await?;
    ensure!(begun.len() == lines.len(), "the simulator told of {} texts of {}", begun.len(), lines.len());
    if let Err(error) = bench.receiver.wait_texts(wanted, LIMIT).await {
        // The check of the ledger tells which.
        bench.report.fail(format!("{error:#}"));
    }
    let came = bench.receiver.texts();
    let latency = |(line, begun): (&Line, &u64)| {
        let (_session, at) = came.get(&line.text)?.first()?;
        Some(Duration::from_micros(at.saturating_sub(*begun)))
    };
    Ok(said.iter().zip(&begun).filter_map(latency).collect())
}

async fn messages_in(bench: &Bench) -> anyhow::Result<u64> {
    bench.phones.counters().await?["messages_in"].as_u64().context("an odd answer to /counters")
}

/// Whether everything came through once. `dropped`: connections were cut, so asking again is no fault.
pub(crate) async fn check(bench: &mut Bench, dropped: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let (queued, kinds) = bench.phones.queued().await?;
        if queued == 0 {
            break;
        }
        if begun.elapsed() > LIMIT {
            bench.report.fail(format!("the gateway did not acknowledge everything: {kinds}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let contacts = bench.ledger.contacts();
    let mut heard = bench.phones.heard(&contacts).await?;
    // Contacts read at once, but not before the answer to the send.
    while bench.ledger.check_sent(&contacts, &heard).lost > 0 && begun.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(100)).await;
        heard = bench.phones.heard(&contacts).await?;
    }
    bench.ledger.check_sent(&contacts, &heard).told(&mut bench.report, "texts sent");
    bench.ledger.check_said(&bench.receiver.texts()).told(&mut bench.report, "texts received");
    let odd: u64 = heard.iter().map(|heard| heard.odd).sum();
    if odd > 0 {
        bench.report.fail(format!("contacts count {odd} repeated ids or keys, or first messages without proof"));
    }
    check_counters(&bench.phones.counters().await?, dropped, &mut bench.report);
    let (sent, said) = (bench.ledger.sent_count(), bench.ledger.said_count());
    bench.report.number("texts.sent", "texts sent and read by their contacts", count(sent), "in all");
    bench.report.number("texts.received", "texts received and posted", count(said), "in all");
    Ok(())
}
