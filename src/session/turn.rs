//! Whose turn it is: verbs on one name come one after the other, in the order in which they were asked.
//!
//! Start holds its turn only until the session is stored and its task runs, never while it waits for WhatsApp; what ends
//! a session holds it until the session has ended. So the last verb on a name wins, and one name never waits for another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Names that are remembered before those nobody waits for are swept out.
const SWEEP: usize = 64;

/// The turns of all names.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// One verb's turn on a name; over when dropped.
#[derive(Debug)]
#[must_use = "the turn is over when it is dropped"]
pub(super) struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedMutexGuard<()>);

impl Turns {
    /// Waits for the turn on a name; first come, first served.
    pub(super) async fn take(&self, name: &str) -> Turn {
        let own = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Amortized: whoever holds or waits for a turn keeps a second reference.
            if names.len() >= SWEEP && names.len() == names.capacity() {
                names.retain(|_name, turns| Arc::strong_count(turns) > 1);
            }
            match names.get(name) {
                Some(turns) => Arc::clone(turns),
                None => Arc::clone(names.entry(name.to_owned()).or_default()),
            }
        };
        Turn(own.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_names_do_not_wait_for_each_other() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let (mut second, mut third) = (Box::pin(turns.take("a")), Box::pin(turns.take("a")));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        let _other = turns.take("b").now_or_never().expect("another name is free");
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "it is the second one's turn");
        drop(second.await);
        let _last = third.await;
    }

    #[tokio::test]
    async fn names_that_nobody_waits_for_are_forgotten() {
        let turns = Turns::default();
        let _held = turns.take("held").await;
        for n in 0..10_000 {
            drop(turns.take(&n.to_string()).await);
        }
        let names = turns.0.lock().unwrap();
        assert!(names.len() < 1000 && names.contains_key("held"), "{}", names.len());
    }
}
