//! Who wrote what to whom: what must have come through exactly once.

use std::collections::HashMap;

use serde_json::Value;

use crate::phones::Heard;
use crate::report::Report;

/// Numbers of the sessions' own phones and of their contacts; all in the same valid-looking range.
pub(crate) fn own_number(session: usize) -> String {
    format!("62810{session:07}")
}

pub(crate) fn contact_number(session: usize, chat: usize) -> String {
    format!("62820{session:05}{chat:03}")
}

pub(crate) fn session_name(session: usize) -> String {
    format!("load-{session:04}")
}

/// All texts of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By contact: id and text of what the gateway said that it sent.
    sent: HashMap<String, Vec<(String, String)>>,
    /// By text: the session that must hear of it.
    said: HashMap<String, String>,
}

/// What did not come through as it should.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) unexpected: usize,
}

impl Ledger {
    pub(crate) fn sent(&mut self, contact: String, id: String, text: String) {
        self.sent.entry(contact).or_default().push((id, text));
    }

    pub(crate) fn said(&mut self, text: String, session: String) {
        self.said.insert(text, session);
    }

    pub(crate) fn sent_count(&self) -> usize {
        self.sent.values().map(Vec::len).sum()
    }

    pub(crate) fn said_count(&self) -> usize {
        self.said.len()
    }

    /// Contacts that were written to.
    pub(crate) fn contacts(&self) -> Vec<String> {
        let mut contacts: Vec<String> = self.sent.keys().cloned().collect();
        contacts.sort_unstable();
        contacts
    }

    /// Compares what contacts have read with what was sent to them.
    pub(crate) fn check_sent(&self, contacts: &[String], heard: &[Heard]) -> Wrong {
        let mut wrong = Wrong::default();
        for (contact, heard) in contacts.iter().zip(heard) {
            let mut came: HashMap<(&str, &str), usize> = HashMap::new();
            for (id, text) in &heard.texts {
                *came.entry((id, text.as_deref().unwrap_or_default())).or_default() += 1;
            }
            for (id, text) in self.sent.get(contact).into_iter().flatten() {
                match came.remove(&(id.as_str(), text.as_str())) {
                    None => wrong.lost += 1,
                    Some(times) => wrong.duplicated += times - 1,
                }
            }
            wrong.unexpected += came.values().sum::<usize>();
        }
        wrong
    }

    /// Compares what came by webhook with what contacts wrote.
    pub(crate) fn check_said(&self, texts: &HashMap<String, Vec<(String, u64)>>) -> Wrong {
        let mut wrong = Wrong::default();
        for (text, session) in &self.said {
            let right = texts.get(text).into_iter().flatten().filter(|(named, _at)| named == session).count();
            wrong.lost += usize::from(right == 0);
            wrong.duplicated += right.saturating_sub(1);
        }
        for (text, came) in texts {
            let expected = |named: &str| self.said.get(text).is_some_and(|session| session == named);
            wrong.unexpected += came.iter().filter(|(named, _at)| !expected(named)).count();
        }
        wrong
    }
}

impl Wrong {
    pub(crate) fn told(&self, report: &mut Report, what: &str) {
        if *self != Self::default() {
            let Self { lost, duplicated, unexpected } = self;
            report.fail(format!("{what}: {lost} lost, {duplicated} duplicated, {unexpected} unexpected"));
        }
    }
}

/// Counts of the simulator that a correct run leaves at zero.
pub(crate) fn check_counters(counters: &Value, dropped: bool, report: &mut Report) {
    for name in ["nacks", "repeated_counters", "repeated_ciphertexts", "violations"] {
        let count = counters[name].as_u64().unwrap_or_default();
        if count > 0 {
            report.fail(format!("the simulator counts {count} {name} ({})", counters["violations_seen"]));
        }
    }
    // Undecryptable messages are asked for again, by contacts and by the gateway; after dropped connections that may be.
    for name in ["retries", "client_nacks"] {
        let count: u64 = counters[name].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        if count > 0 && !dropped {
            report.fail(format!("{count} undecryptable messages: the simulator counts {name} {}", counters[name]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(texts: &[(&str, &str)]) -> Heard {
        Heard { texts: texts.iter().map(|(id, text)| ((*id).to_owned(), Some((*text).to_owned()))).collect(), odd: 0 }
    }

    #[test]
    fn every_kind_of_wrong_count_is_seen() {
        let mut ledger = Ledger::default();
        ledger.sent("1".into(), "A".into(), "a".into());
        ledger.sent("1".into(), "B".into(), "b".into());
        let contacts = ledger.contacts();
        let wrong = |texts: &[(&str, &str)]| ledger.check_sent(&contacts, &[heard(texts)]);
        assert_eq!(wrong(&[("A", "a"), ("B", "b")]), Wrong::default());
        assert_eq!(wrong(&[("A", "a")]), Wrong { lost: 1, ..Wrong::default() });
        assert_eq!(wrong(&[("A", "a"), ("B", "b"), ("B", "b")]), Wrong { duplicated: 1, ..Wrong::default() });
        assert_eq!(wrong(&[("A", "x"), ("B", "b")]), Wrong { lost: 1, unexpected: 1, ..Wrong::default() });
    }

    #[test]
    fn a_text_for_the_wrong_session_is_lost_and_unexpected() {
        let mut ledger = Ledger::default();
        ledger.said("t".into(), "s".into());
        let came = |named: &str, times: usize| HashMap::from([("t".to_owned(), vec![(named.to_owned(), 0); times])]);
        assert_eq!(ledger.check_said(&came("s", 1)), Wrong::default());
        assert_eq!(ledger.check_said(&came("s", 2)), Wrong { duplicated: 1, ..Wrong::default() });
        assert_eq!(ledger.check_said(&came("other", 1)), Wrong { lost: 1, unexpected: 1, ..Wrong::default() });
        assert_eq!(ledger.check_said(&HashMap::new()), Wrong { lost: 1, ..Wrong::default() });
    }

    #[test]
    fn the_simulators_own_counts_fail_a_run() {
        let fails = |counters: Value, dropped: bool| {
            let mut report = Report::default();
            check_counters(&counters, dropped, &mut report);
            !report.wrong.is_empty()
        };
        assert!(!fails(serde_json::json!({"nacks": 0, "retries": {}}), false));
        assert!(fails(serde_json::json!({"violations": 1}), false));
        assert!(fails(serde_json::json!({"retries": {"phone": 1}}), false));
        assert!(!fails(serde_json::json!({"retries": {"phone": 1}}), true));
    }
}
