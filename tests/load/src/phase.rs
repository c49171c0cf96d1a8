//! The phases of a measurement, in the order in which they run.

pub(crate) mod compare;
pub(crate) mod delete;
pub(crate) mod idle;
pub(crate) mod pairing;
pub(crate) mod requests;
pub(crate) mod restart;
pub(crate) mod traffic;
