//! The store: one story for every engine, one suite for the five storage traits, and what a kill leaves.

mod backend;
mod engine;
mod faulty;
mod kill;
mod kv;
mod poison;
mod registry;
