//! What every kind of lock promises, through the public API: each promise is one function, and a test for each kind
//! that makes it. A kind is a row in `common/kinds.rs`.
//!
//! The tests share one server, and each keeps to a path of its own.

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
