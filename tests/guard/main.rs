//! The guard: what the hot paths allocate, compared with the committed `baseline.json`.
//!
//! Counts, not times: the gateway runs on one thread, everything else (simulator, webhook receiver, HTTP client) on another,
//! and only the gateway's thread is counted. A batch of operations is counted to its very end, so that none leaves work to the
//! next, and the least of several averages is taken: a timer or a page of the store that falls due only adds. A
//! change that allocates more on purpose changes the baseline in the same commit.

// `cfg(test)` tells clippy that helpers may unwrap as tests may.
#[cfg(test)]
mod hot_path;
