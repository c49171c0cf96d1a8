//! The store: one story for every engine, one suite for the five storage traits, and what a kill leaves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the helpers between the tests do too")]

mod backend;
mod damage;
mod disk_full;
mod engine;
mod faulty;
mod inbound;
mod kill;
mod kv;
mod layout;
mod lease;
mod moving;
mod poison;
mod prekey;
mod redis;
#[path = "../redis/server.rs"]
mod redis_server;
mod registry;
mod renew;
mod renew_kill;
mod takeover;
