//! The machines that decide, the real ones, under an adversary: every order in which everything on its way may arrive,
//! with every fault of a stated budget at every step, exhaustively (`stateright`, by 64-bit fingerprints of states).
//! Beside the properties stand broken twins, which must be caught.
//!
//! - [`lock`]: the machine of one lock. [`multi_lock`]: requests for several paths, and the locks below them.
//! - [`semaphore`]: the semaphore's machine, also walked at random.
//! - [`lease`]: the session's machine, which decides when a lease ends.
//! - [`world`]: what they share.
//!
//! `cargo test -p lockkeeper-actors --test models -- --nocapture` prints the tables. `LOCKKEEPER_MODEL=long` takes the
//! larger budgets, and wants some minutes, an optimised build (`CARGO_PROFILE_TEST_OPT_LEVEL=3`) and some gigabytes.
//! `LOCKKEEPER_MODEL_WALKS=100000` makes that many random walks a row, and more searches of semaphores.

#![allow(clippy::disallowed_methods, reason = "how long it took is printed")]

mod lease;
mod lock;
mod multi_lock;
mod semaphore;
mod world;
