//! The simulator told by a small companion written for these tests: its own Noise initiator, no client library.
//!
//! What the client libraries think of it is told elsewhere: by the gateway's tests and by the interop suite.

// `cfg(test)` tells clippy that helpers may unwrap as tests may.
#[cfg(test)]
mod companion;
mod delivery;
mod faults;
#[cfg(test)]
mod http;
#[cfg(test)]
mod initiator;
mod linking;
mod login;
#[cfg(test)]
mod media;
#[cfg(test)]
mod profile;
#[cfg(test)]
mod watching;
