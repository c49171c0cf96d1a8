//! An HTTP gateway for WhatsApp: sessions are linked by QR, send and receive by HTTP and webhooks.
//!
//! It stands in for the Node.js wa-gateway 4.7.1 ("the original", whose HTTP surface is "the contract"). This page is
//! the map: which room does what, and the way of one request and of one event through them. Each room says the rest
//! itself.
//!
//! # The rooms
//!
//! ```text
//!              main ──▶ cli (log, signals, commands), config (the settings)
//!               └────▶ gateway     composition: builds every room, owns tokens and trackers
//!    ┌────────────────────┴────────────────────────────────────────┐
//!  4 │  http (routes, auth, errors, dashboard)      webhook (sink) │  the edges: in and out; and takeover (another gateway's
//!    │                                                             │  credentials), which goes straight down to store
//!    └────────┬───────────────────────────────────────▲────────────┘
//!  3          ▼                                       ┆ events flow up through the outbox and a channel
//!         session (manager, entry, task, state) ┄┄┄┄┄┄┘ of notices; no import goes up
//!  2          ├───────▶ whatsapp (dial, outbound, inbound, download, version)   media (fetch, prepare, save)
//!  1          ├───────▶ ledger (what became of sent messages) ─▶ store
//!  1          └───────▶ outbox (committed events) ──▶ store (Kv: sled, redis; backend; registry)   net (guarded client)
//!                       keys (who may call)
//!             backup (of the whole store) ──▶ archive (encrypted rows)   health (readiness, numbers)
//!  0      event (SessionName, Status)   message (Recipient, Outgoing, Sent, Incoming): plain words   metrics (counters)   memory (the allocator)
//! ```
//!
//! Arrows are imports, and go down only; `tests/architecture.rs` holds the exact law. Only [`gateway`], [`cli`] and
//! `main` know [`config`]: the other rooms get plain values. Only [`whatsapp`] and `store::backend` name whatsapp-rust.
//!
//! # One request: `POST /message/send-text`
//!
//! 1. [`http`] serves the connection within its limits. The layers, outermost first: CORS, so that refusals carry it;
//!    the request's span and id; catch-panic; the size of the head; the time. The table of routes then finds the
//!    handler, and the guard around it checks the API key. The handler reaches sessions through the rights of that key.
//! 2. The handler reads its fields in the contract's order, asks [`session`] whether the session is there and
//!    connected, and has [`message::Recipient::parse`] make an address of the number: pure, the only such code.
//! 3. [`session::SessionManager::send`] takes the live connection out of the session's entry; no lock is held from here
//!    on. It looks the number up, unless told not to, and shows *typing…* for as long as the text deserves. Meanwhile
//!    [`media`] fetches a picture or another file and fits it to its kind, and [`whatsapp`] uploads it, encrypted.
//! 4. [`whatsapp`] encrypts for every device of the recipient, sends under an id that we chose, and waits for the
//!    server's acknowledgement. Look-up, typing, file and sending share one deadline.
//!    A request with an `Idempotency-Key` has its key and that id in the [`ledger`] before anything leaves, and its
//!    answer there before it is given: a repeat finds them. How far the message got, as acknowledgements and receipts
//!    tell, is gathered there too, and becomes `ack` events.
//! 5. The handler spells the answer as the original did. Every error of a lower room becomes a status and `{"message"}`
//!    in `http::error` and nowhere else; a send without an acknowledgement is a 504 that still carries the id.
//!
//! `POST /session/start` differs in 3: it reserves the name in the registry, starts the session's task while that is
//! flushed, lists the session, and waits on its watch for a code or a connection. The wait has a deadline, the start
//! itself goes on.
//!
//! # One event: a picture arrives
//!
//! 1. whatsapp-rust decrypts it and calls its durability hook, before it tells WhatsApp that the message is here.
//! 2. [`whatsapp`] puts it into the words of the webhook and calls the closure that [`session`] gave it, which names
//!    the event (a hash: a redelivery keeps its id) and commits it to the session's [`outbox`]: flushed before it
//!    returns. Only then is the message acknowledged. A commit that fails closes the connection, and WhatsApp sends it
//!    again.
//! 3. A change of status goes another way to the same place: a signal to the session's task, the pure `session::state`
//!    for what follows from it, the watch that lists and waits read, and a status event in the outbox.
//! 4. The commit holds where the picture is, and the event is pending. While the session is connected its message lane
//!    downloads what is pending into the [`media`] folder, under a name that nobody else chooses, and completes the
//!    event with that name, or with the reason why there is none.
//! 5. [`webhook`] has one lane for each outbox. It posts the oldest to the session's own receiver or to the gateway's,
//!    tries again with growing pauses until it is taken, removes it, and goes on to the next: one at a time, in order within
//!    a session, except that two kinds of chats let the others pass: one that waits for its file, for a minute at most, and
//!    one whose oldest event failed ten times while the receiver takes others. What the policy gives up is a dead letter,
//!    kept beside what waits until it is replayed or too old. No session waits for another. The log names session and
//!    event, never a text.
//! 6. An outbox that is full sheds its oldest status events; full of messages, it refuses more: the library then does not
//!    acknowledge them, the session stays connected, and connects anew once there is room, which makes WhatsApp send them
//!    again in their order.
//! 7. A deleted session's outbox is dropped with it; its last `disconnected` waits in the registry until it is
//!    delivered.
//!
//! # Tasks and their end
//!
//! Every task runs on a tracker of [`Gateway`] and ends on its tokens. The first signal is soft: the server finishes
//! the requests in flight, for which the sessions live on for 8 s at most, and waits for no client that rests for 2 s; then
//! each session closes its connection and keeps its credentials, then the sink ends, and the store is flushed last. The
//! second signal, or 20 s, is hard. Credentials go by delete, by logout, or by WhatsApp's own verdict.
//!
//! # Known quirks of the contract
//!
//! Kept, because programs rely on them:
//!
//! - `Session already exist` is spelt so, and answers a start of a linked session with 400. A send to an unknown
//!   session is a 400 too, while its detail and its deletion are a 404. The logout of an unknown one is a success.
//! - `DELETE /session/logout` is a logout, so some names are reserved ([`event::RESERVED_SESSION_NAMES`]).
//! - A logged-out session stays listed as `disconnected`, across restarts too, until start or delete.
//! - The key may stand in the query, where it wins over the header, right or wrong. CORS is open to every origin.
//! - Only the first problem of a body is told, in the original's words. The members of a session trade places in the
//!   list once it was connected and is not any more. A send is answered with `messageTimestamp` as a string.
//! - Plain texts go out as extended texts. A recipient with an `@` is taken as it is, whatever `is_group` says.
//! - Stickers, reactions and the like reach the webhook with a null text; own messages and broadcasts don't. The header `key`
//!   is always sent, empty without a `KEY`.
//!
//! Mended knowingly: a start always answers, two at once make one session, and a waiting one hands out its current
//! code. GET works for start and logout, HEAD changes nothing. Delete works in every state and is final. Unknown paths
//! are 404 and wrong methods 405; only the dashboard's own paths redirect to the login page, and looking at a page there
//! starts nothing. What the caller did wrong is a 4xx instead of a 500. A file is announced as what it is, a local path is
//! none, and stickers need no text. Bodies, headers and times have limits. A failed webhook is tried again, and every
//! message of a batch is reported.

pub mod archive;
pub mod backup;
pub mod cli;
pub mod config;
pub mod event;
pub mod gateway;
pub mod health;
pub mod http;
pub mod keys;
pub mod ledger;
pub mod media;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod memory;
pub mod message;
pub mod metrics;
pub mod net;
pub mod outbox;
#[cfg(test)]
mod property;
pub mod session;
pub mod store;
#[cfg(feature = "takeover")]
pub mod takeover;
pub mod webhook;
pub mod whatsapp;

pub use config::Config;
pub use gateway::Gateway;
