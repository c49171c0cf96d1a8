//! Notices when Redis came back without writes that it had acknowledged.
//!
//! Every write counts a number up in Redis. A server that returns with a lower one than was acknowledged has lost the
//! difference; each namespace then fails its next write once, for whoever builds on it must start again from what is stored.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::store::{KvError, Namespace};

#[derive(Debug, Default)]
pub(super) struct Loss(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The highest number that was acknowledged.
    acknowledged: u64,
    /// How often writes were lost.
    losses: u64,
    /// Value of `losses` when a namespace was last written; one for each namespace that is.
    told: HashMap<Namespace, u64>,
}

impl Loss {
    /// Notes an acknowledged write; zero: nothing was written.
    pub(super) fn acknowledge(&self, sequence: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.acknowledged = known.acknowledged.max(sequence);
    }

    /// Compares with what a new connection found; returns how many writes are missing.
    pub(super) fn compare(&self, sequence: u64) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = known.acknowledged.saturating_sub(sequence);
        if missing > 0 {
            known.losses += 1;
        }
        known.acknowledged = sequence;
        missing
    }

    /// Before each write.
    ///
    /// # Errors
    /// Once for each namespace after a loss.
    pub(super) fn check(&self, ns: &Namespace) -> Result<(), KvError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let losses = known.losses;
        match known.told.insert(ns.clone(), losses) {
            Some(told) if told < losses => Err(KvError::engine("Redis lost writes that it had acknowledged")),
            _ => Ok(()),
        }
    }

    pub(super) fn forget(&self, ns: &Namespace) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).told.remove(ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_learns_of_a_loss_once() {
        let loss = Loss::default();
        let (old, new) = (Namespace::credentials("old"), Namespace::credentials("new"));
        loss.check(&old).unwrap();
        loss.acknowledge(7);
        loss.acknowledge(5);
        assert_eq!(loss.compare(7), 0);
        loss.check(&old).unwrap();
        loss.acknowledge(8);
        assert_eq!(loss.compare(6), 2);
        loss.check(&new).expect("it has lost nothing");
        loss.check(&old).unwrap_err();
        loss.check(&old).unwrap();
        assert_eq!(loss.compare(6), 0, "the loss is known");
        assert_eq!(loss.compare(9), 0, "more than was acknowledged: an unknown outcome that was written");
        loss.acknowledge(10);
        assert_eq!(loss.compare(9), 1);
        loss.forget(&old);
        loss.check(&old).unwrap();
    }
}
