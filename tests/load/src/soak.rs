//! The long run: steady traffic both ways with files, dropped connections and deletes; nothing may grow.

use std::time::Duration;

use futures_util::future::join;
use tokio::time::Instant;

use crate::bench::{Bench, each};
use crate::ledger::{contact_number, own_number, session_name};
use crate::phase::{pairing, traffic};
use crate::proc;
use crate::report::{count, float};

/// One round of traffic, drops and deletes.
const ROUND: Duration = Duration::from_secs(10);
/// Files of each round.
const FILES: usize = 4;
/// Connections that are cut in each round.
const DROPS: usize = 2;
/// A dropped session is back by then: WhatsApp's clients dial after a second or so.
const BACK: Duration = Duration::from_mins(1);
/// The smallest PNG: one white pixel.
const PICTURE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";

/// What must stay flat.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    resident: u64,
    descriptors: usize,
    threads: u64,
    disk: u64,
}

pub(crate) async fn run(bench: &mut Bench, minutes: f64) -> anyhow::Result<()> {
    let sessions = bench.settings.sessions;
    pairing::run(bench).await?;
    traffic::make_contacts(&bench.phones, bench.settings.sessions, bench.settings.chats).await?;
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let mut samples = Vec::new();
    let (mut round, mut files) = (0, 0);
    while Instant::now() < end {
        let next = Instant::now() + ROUND;
        texts(bench, round).await?;
        for file in 0..FILES {
            let session = (round * FILES + file) % sessions;
            bench.phones.send_picture(&contact_number(session, 0), &own_number(session), PICTURE).await?;
            files += 1;
        }
        bench.receiver.wait_files(files, BACK).await?;
        for drop in 0..DROPS {
            let session = (round * DROPS + drop) % sessions;
            let name = session_name(session);
            let dropped = Instant::now();
            bench.phones.drop_link(&own_number(session)).await?;
            bench.receiver.wait_status(&name, "connected", dropped, BACK).await?;
        }
        let session = round % sessions;
        bench.gateway.delete(&format!("/session/{}", session_name(session))).await?.json()?;
        pairing::pair(bench, session..session + 1, 1).await?;
        samples.push(sample(bench)?);
        round += 1;
        tokio::time::sleep_until(next).await;
    }
    let missing = bench.receiver.missing_files();
    if missing > 0 {
        bench.report.fail(format!("{missing} files did not come with their message"));
    }
    bench.report.number(
        "soak.rounds",
        "rounds of 10 s: texts, 4 files, 2 drops, 1 delete and pairing",
        count(round),
        "in all",
    );
    flat(bench, &samples);
    traffic::check(bench, true).await
}

/// The texts of one round, both ways at the same time.
async fn texts(bench: &mut Bench, round: usize) -> anyhow::Result<()> {
    let (sessions, chats, rate) = (bench.settings.sessions, bench.settings.chats, bench.settings.rate);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is above 0 and far below 2^32")]
    let number = (rate * ROUND.as_secs_f64() * 0.7) as usize;
    let place = |turn: usize| ((round * number + turn) % sessions, (round + turn) % chats);
    let gateway = bench.gateway.clone();
    let begun = Instant::now();
    let sending = each(0..number, 64, |turn| {
        let (gateway, (session, chat)) = (gateway.clone(), place(turn));
        async move {
            tokio::time::sleep_until(begun + Duration::from_secs_f64(count(turn) / rate)).await;
            let (contact, text) =
                (contact_number(session, chat), format!("{session} to {chat}, round {round}, {turn}"));
            let id = traffic::send_text(&gateway, session, &contact, &text).await?;
            Ok((contact, id, text))
        }
    });
    let lines = (0..number).map(|turn| {
        let (session, chat) = place(turn);
        (session, chat, format!("{session} from {chat}, round {round}, {turn}"))
    });
    let (sent, heard) = join(sending, traffic::hear(bench, lines.collect(), Some(rate))).await;
    for (contact, id, text) in sent? {
        bench.ledger.sent(contact, id, text);
    }
    heard.map(drop)
}

fn sample(bench: &Bench) -> anyhow::Result<Sample> {
    let Some(process) = bench.process else { return Ok(Sample::default()) };
    let memory = process.memory()?;
    Ok(Sample {
        resident: memory.resident,
        descriptors: process.descriptors()?,
        threads: memory.threads,
        disk: bench.data.as_deref().map(proc::disk).transpose()?.unwrap_or_default(),
    })
}

/// Tells the mean of the second and the last quarter: the first warms caches up.
fn flat(bench: &mut Bench, samples: &[Sample]) {
    let quarter = samples.len() / 4;
    if quarter == 0 {
        return;
    }
    let mean = |samples: &[Sample], of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count(samples.len());
    let (early, late) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
    let mut tell = |keys: [&'static str; 2], label: &str, unit: &str, of: fn(&Sample) -> f64| {
        bench.report.number(keys[0], format!("{label}, second quarter"), mean(early, of), unit);
        bench.report.number(keys[1], format!("{label}, last quarter"), mean(late, of), unit);
    };
    tell(["soak.rss.early", "soak.rss.late"], "RSS", "MiB", |sample| float(sample.resident) / 1_048_576.0);
    tell(["soak.files.early", "soak.files.late"], "descriptors", "open", |sample| count(sample.descriptors));
    tell(["soak.threads.early", "soak.threads.late"], "threads", "of the process", |sample| float(sample.threads));
    tell(["soak.disk.early", "soak.disk.late"], "disk", "MiB", |sample| float(sample.disk) / 1_048_576.0);
}
