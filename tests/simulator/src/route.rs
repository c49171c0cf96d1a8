//! Everything that goes from one device to others: messages, receipts, presence, typing.

pub(crate) mod ciphertext;
pub(crate) mod group;
pub(crate) mod message;
pub(crate) mod presence;
pub(crate) mod receipt;
