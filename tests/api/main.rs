//! The gateway as its users see it: HTTP on one side, a WhatsApp server on loopback on the other.
//!
//! Files by noun; `support` speaks the domain. Every wait has a deadline and says what it waited for.

#![expect(clippy::unwrap_used, reason = "a failed step of a test shall end it there")]

mod backup;
mod clients;
mod dashboard;
mod delete;
mod faults;
mod files;
mod fuzz;
mod group;
mod inbound;
mod kill;
mod library;
mod many;
mod media;
mod operate;
mod outgoing;
mod process;
mod profile;
mod redis;
#[path = "../redis/server.rs"]
mod redis_server;
mod send;
mod session;
mod store;
mod store_faults;
mod story;
mod support;
mod tls;
