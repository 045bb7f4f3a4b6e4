//! Singletons: one actor in the cluster. Who runs it, what it is told, when it is stopped, and that nothing is left of
//! it.

#[path = "../common/mod.rs"]
mod common;

mod advertising;
mod by_message;
mod deaths;
mod endings;
mod leaders;
mod member;
mod running;
mod runs;
mod silence;
mod suspension;
