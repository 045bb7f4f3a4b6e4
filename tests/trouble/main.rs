//! Behavior under faults: invalid requests, foreign nodes in the directory, access lists, lost replies, broken
//! connections, servers that are down, and faults of the application itself. As in the promises, each is a function
//! with a test for each kind of lock.

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

mod access_lists;
mod applications;
mod closing;
mod connections;
mod idle;
mod lost_answers;
mod neighbours;
mod requests;
