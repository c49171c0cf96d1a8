//! An HTTP gateway for WhatsApp: sessions are linked by QR, send and receive by HTTP and webhooks.

pub mod cli;
pub mod config;
pub mod event;
pub mod gateway;
pub mod http;
pub mod message;
pub mod outbox;
pub mod session;
pub mod store;
pub mod webhook;
pub mod whatsapp;

pub use config::Config;
pub use gateway::Gateway;
