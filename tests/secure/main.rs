//! Encryption, passwords and secrets, on real servers: what is refused, what the error says, and what is never written.

#[path = "../common/mod.rs"]
mod common;

mod certificates;
mod passwords;
mod secrets;
