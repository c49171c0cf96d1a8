//! A loopback WhatsApp server: Noise, pairing, Signal keys, messages, receipts, groups, media, profiles, faults on command.
//!
//! An honest server, not a script: it keeps accounts, devices, keys, groups and queues, and answers what a client asks.
//! Phones live in this process and hold real Signal keys; companions come over real sockets. Tests hold a [`Simulator`];
//! other programs use its control port (see [`control`]).

mod connection;
pub mod control;
mod counters;
mod dispatch;
mod fault;
mod iq;
mod listener;
mod media;
mod network;
mod pairing;
pub mod phone;
mod route;
mod server;
mod stanza;
mod state;
mod wire;

pub use counters::{Counters, Features};
pub use fault::{Fault, FaultId, Injection, Kick};
pub use listener::Upgrade;
pub use network::{DeviceAddress, Network};
pub use phone::Phone;
pub use server::{Options, Simulator};
pub use state::account::DeviceInfo;
pub use wire::frame::Framing;
