//! Properties that hold for every input, tried on many: with fixed seeds, or for as many seconds as `PROPERTY_SECS` says.

use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Inputs of one round.
const CASES: u32 = 1000;

/// Tries the property; a failure shows the smallest input that was found for it.
pub(crate) fn holds<S: Strategy>(inputs: S, property: impl Fn(S::Value)) {
    round(&inputs, &property, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    #[expect(clippy::disallowed_methods, reason = "no setting of the gateway: it makes this test longer")]
    let seconds = std::env::var("PROPERTY_SECS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = [0; 32];
    while Instant::now() < end {
        getrandom::fill(&mut seed).expect("random bytes");
        round(&inputs, &property, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    }
}

fn round<S: Strategy>(inputs: &S, property: &impl Fn(S::Value), rng: TestRng) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new_with_rng(config, rng).run(inputs, |input| {
        property(input);
        Ok::<_, TestCaseError>(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
