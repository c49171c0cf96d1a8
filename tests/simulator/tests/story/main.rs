//! The simulator told by a small companion written for these tests: its own Noise initiator, no client library.
//!
//! What the client libraries think of it is told elsewhere: by the gateway's tests and by the interop suite.

mod companion;
mod delivery;
mod faults;
mod initiator;
mod linking;
mod login;
mod watching;
