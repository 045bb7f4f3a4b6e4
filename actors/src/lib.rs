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

pub mod api;
pub mod candidate;
mod inspect;
pub mod keeper;
mod leases;
mod lock;
pub mod machine;
pub mod multi_lock;
mod registry;
pub mod run;
mod runtime;
mod session;
pub mod zookeeper;

pub use api::{error, lease, messages};
pub use candidate as singleton;
pub use keeper as supervisor;
pub use machine::backoff;
pub use multi_lock as multi;
pub use registry::{PrimitivesMessage, refuse};
pub use run as tenure;
pub use run::worker as job;
pub use runtime::clock::Clock;
pub use runtime::random::Randomness;
