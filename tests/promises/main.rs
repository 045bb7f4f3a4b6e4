//! What every kind of lock promises through the public API. Each promise is a function, with a test for each kind that
//! makes the promise. The kinds are defined in `common/kinds.rs`.
//!
//! The tests share one server, and each uses its own path.

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

mod acquiring;
mod cancelling;
mod contenders;
mod holding;
mod kazoo_faults;
mod losing;
mod messages;
mod options;
mod supervised;
