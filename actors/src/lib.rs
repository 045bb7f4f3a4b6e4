//! How lockkeeper works.
//!
//! Use it through the package `lockkeeper`; what an actor application sends and receives is in [`messages`].
//!
//! ```text
//! Keeper (root supervisor: no I/O; starts the session actor again with back-off)
//! ├─ SessionActor     connection, epoch, heartbeat and lease deadline      session.rs, machine/session.rs
//! ├─ Primitives       (supervisor) one LockActor per lock or semaphore,    lock.rs, machine/queue.rs,
//! │                                                                        machine/semaphore.rs
//! │                  one MultiActor per request for several paths          multi.rs, machine/multi.rs
//! └─ Singleton        one per candidate; above it, while it serves:        singleton.rs, machine/singleton.rs
//!    └─ Tenure        one actor of the application under one lease         tenure.rs, machine/tenure.rs
//! ```
//!
//! A lock's way, one direction only: `LockMessage::Acquire` → `LockActor` → [`machine`] → command →
//! [`zookeeper`] → answer or watch, cast back as an event of its session's epoch → machine → the guard, in an
//! event to the caller.

// Drivers do what machines must not; `machine` denies it again.
#![allow(clippy::disallowed_methods)]

pub mod backoff;
mod clock;
mod contenders;
pub mod error;
pub mod job;
pub mod lease;
mod leases;
mod lock;
pub mod machine;
pub mod messages;
pub mod multi;
mod primitives;
mod randomness;
mod servers;
mod session;
pub mod singleton;
pub mod supervisor;
pub mod tenure;
pub mod zookeeper;

pub use clock::Clock;
pub use primitives::{PrimitivesMessage, refuse};
pub use randomness::Randomness;
