use crate::message::Teller;
use crate::outbox::memory::MemoryKv;

use super::*;

const TO: &str = "6281@s.whatsapp.net";
const GROUP: &str = "120363012345678901@g.us";
const LIMITS: Limits = Limits { messages: 3, age: Duration::from_hours(1), keys: 2 };

fn ledger() -> (Arc<MemoryKv>, Ledger) {
    let kv = Arc::new(MemoryKv::default());
    let ledger = Ledger::new(Arc::clone(&kv) as _, "uid", LIMITS);
    (kv, ledger)
}

fn begun(id: &str, to: &str) -> Note {
    Note::Begun(id.to_owned(), Record::new(to.to_owned(), false, Utc::now().timestamp_millis()))
}

fn heard(id: &str, step: Step, at: i64, from: Option<&str>, in_group: bool) -> Note {
    let teller = from.map(|from| Teller { address: from.to_owned(), in_group, is_self: from == "me" });
    Note::Progress(Progress { id: id.to_owned(), step, at, code: (step == Step::Failed).then_some(479), teller })
}

async fn take(ledger: &Ledger, notes: &[Note]) -> Vec<(Step, Option<String>)> {
    let mut plan = ledger.plan(notes).await.unwrap();
    let advances = std::mem::take(&mut plan.advances);
    ledger.carry_out(plan).await.unwrap();
    advances.into_iter().map(|advance| (advance.step, advance.participant)).collect()
}

#[tokio::test]
async fn steps_only_go_forward_and_each_is_told_once() {
    use Step::{Delivered, Failed, Played, Read, Sent};
    for (heard_steps, told, last) in [
        (&[Sent, Delivered, Read, Played][..], &[Sent, Delivered, Read, Played][..], Played),
        (&[Sent, Read, Delivered], &[Sent, Read], Read),
        (&[Delivered, Sent, Sent, Delivered], &[Sent, Delivered], Delivered),
        (&[Failed, Failed], &[Failed], Failed),
        (&[Failed, Sent], &[Failed, Sent], Sent),
        (&[Sent, Failed], &[Sent], Sent),
        (&[Played, Read, Failed], &[Sent, Played], Played),
        (&[Failed, Read], &[Failed, Sent, Read], Read),
    ] {
        // One batch for each, and all in one.
        for together in [false, true] {
            let (_kv, ledger) = ledger();
            let steps = heard_steps.iter().zip(100..);
            let mut notes = vec![begun("m", TO)];
            notes.extend(steps.map(|(step, at)| heard("m", *step, at, (*step > Sent).then_some(TO), false)));
            let mut got = Vec::new();
            if together {
                got = take(&ledger, &notes).await;
            } else {
                for note in notes {
                    got.extend(take(&ledger, &[note]).await);
                }
            }
            let got: Vec<Step> = got.into_iter().map(|(step, _)| step).collect();
            assert_eq!(got, told, "{heard_steps:?} {together}");
            let record = ledger.message("m").await.unwrap().unwrap();
            assert_eq!((record.step, record.code), (last, (last == Failed).then_some(479)), "{heard_steps:?}");
        }
    }
}

#[tokio::test]
async fn a_late_step_is_remembered_with_its_time() {
    let (_kv, ledger) = ledger();
    take(&ledger, &[begun("m", TO), heard("m", Step::Read, 9, Some(TO), false)]).await;
    take(&ledger, &[heard("m", Step::Delivered, 8, Some(TO), false)]).await;
    let record = ledger.message("m").await.unwrap().unwrap();
    assert_eq!((record.since(), record.times.delivered, record.times.read), (9, Some(8), Some(9)));
}

#[tokio::test]
async fn a_groups_members_are_counted_and_told_one_by_one() {
    let (_kv, ledger) = ledger();
    take(&ledger, &[begun("m", GROUP)]).await;
    let told = take(
        &ledger,
        &[
            heard("m", Step::Sent, 1, None, false),
            heard("m", Step::Delivered, 2, Some("a"), true),
            heard("m", Step::Delivered, 2, Some("a"), true),
            heard("m", Step::Read, 3, Some("b"), true),
            heard("m", Step::Delivered, 4, Some("b"), true),
        ],
    )
    .await;
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(told, [(Step::Sent, None), (Step::Delivered, some("a")), (Step::Read, some("b"))]);
    assert_eq!(take(&ledger, &[heard("m", Step::Read, 5, Some("a"), true)]).await, [(Step::Read, some("a"))]);
    let record = ledger.message("m").await.unwrap().unwrap();
    assert_eq!(record.members, Members { delivered: 2, read: 2, played: 0 });
}

#[tokio::test]
async fn what_does_not_concern_a_message_changes_nothing() {
    let (_kv, ledger) = ledger();
    take(&ledger, &[begun("m", TO), begun("g", GROUP)]).await;
    for note in [
        heard("unknown", Step::Read, 1, Some(TO), false),
        heard("m", Step::Read, 1, Some(TO), true),
        heard("g", Step::Read, 1, Some(TO), false),
        heard("m", Step::Read, 1, Some("me"), false),
    ] {
        assert_eq!(take(&ledger, &[note]).await, []);
    }
    for id in ["m", "g"] {
        assert_eq!(ledger.message(id).await.unwrap().unwrap().step, Step::Pending);
    }
    assert!(ledger.message("unknown").await.unwrap().is_none());
}

#[tokio::test]
async fn a_message_that_is_sent_again_stays_the_same() {
    let (_kv, ledger) = ledger();
    take(&ledger, &[begun("m", TO), heard("m", Step::Delivered, 5, Some(TO), false)]).await;
    take(&ledger, &[begun("m", TO)]).await;
    assert_eq!(ledger.message("m").await.unwrap().unwrap().step, Step::Delivered);
}

#[tokio::test]
async fn what_is_too_old_or_too_much_goes_with_its_members() {
    let (kv, ledger) = ledger();
    let now = Utc::now().timestamp_millis();
    let hours = |hours: i64| now - hours * 3_600_000;
    let mut notes = Vec::new();
    for (id, at) in [("old", hours(2)), ("b", now - 4), ("c", now - 3), ("d", now - 2), ("e", now - 1)] {
        notes.push(Note::Begun(id.to_owned(), Record::new(GROUP.to_owned(), false, at)));
        notes.push(heard(id, Step::Delivered, 1, Some("a"), true));
    }
    take(&ledger, &notes).await;
    let kept = |at_ms| Kept { digest: [1; 32], id: "m".to_owned(), at_ms, done: true, body: "{}".to_owned() };
    for (key, at) in [("old", hours(25)), ("x", now - 3), ("y", now - 2), ("z", now - 1)] {
        ledger.keep(key, &kept(at)).await.unwrap();
    }
    assert!(ledger.message("old").await.unwrap().is_none() && ledger.kept("old").await.unwrap().is_none());
    ledger.sweep().await.unwrap();
    let rows = kv.range(&Namespace::sent("uid"), KeyRange::all()).await.unwrap();
    let rows: Vec<String> = rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
    assert_eq!(rows, ["ky", "kz", "mc", "md", "me", "pc\0a", "pd\0a", "pe\0a"]);
    assert_eq!(ledger.kept("z").await.unwrap(), Some(kept(now - 1)));
}

#[tokio::test]
async fn a_closed_ledger_takes_nothing() {
    let (kv, ledger) = ledger();
    ledger.close().await;
    let plan = ledger.plan(&[begun("m", TO)]).await.unwrap();
    assert!(matches!(ledger.carry_out(plan).await, Err(KvError::Fenced)));
    assert!(kv.range(&Namespace::sent("uid"), KeyRange::all()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_ledger_that_is_opened_often_does_not_grow_beyond_its_limit() {
    let kv = Arc::new(MemoryKv::default());
    for run in 0..5 {
        let ledger = Ledger::new(Arc::clone(&kv) as _, "uid", LIMITS);
        for n in 0..FIRST_SWEEP {
            take(&ledger, &[begun(&format!("{run}-{n}"), TO)]).await;
        }
        let left = ledger.dated(key::MESSAGE).await.unwrap().len();
        assert_eq!(left, LIMITS.messages, "run {run}");
    }
}
