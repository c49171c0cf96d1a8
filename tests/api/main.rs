//! The gateway as its users see it: HTTP on one side, a WhatsApp server on loopback on the other.
//!
//! Files by noun; `support` speaks the domain. Every wait has a deadline and says what it waited for.

#![expect(clippy::unwrap_used, reason = "a failed step of a test shall end it there")]

mod backup;
mod chaos;
mod check;
mod clients;
mod crash;
mod dashboard;
mod delete;
mod delivery;
mod faults;
mod files;
mod flood;
mod fuzz;
mod group;
mod inbound;
mod keys;
mod kill;
mod library;
mod many;
mod media;
mod moving;
mod operate;
mod outgoing;
mod pairing;
mod process;
mod profile;
mod redis;
#[path = "../redis/server.rs"]
mod redis_server;
mod send;
mod session;
mod stop;
mod store;
mod store_faults;
mod story;
mod stream;
mod support;
mod tls;
mod verbs;
mod watchdog;
