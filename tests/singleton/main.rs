//! One actor in the cluster: who runs it, what it is told, when it ends, and that nothing is left of it.

#[path = "../common/mod.rs"]
mod common;

mod deaths;
mod doubt;
mod leaders;
mod member;
mod running;
mod runs;
mod silence;
