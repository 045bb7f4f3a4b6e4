//! How lockkeeper works.
//!
//! Use it through the package `lockkeeper`. What an actor application sends and receives is in [`api`].
//!
//! ```text
//! KeeperActor        root supervisor: no I/O; restarts the session actor with back-off     keeper.rs
//! ├─ SessionActor    connection, epoch, heartbeats, lease deadline, watches                 session/
//! ├─ RegistryActor   supervises the actors of paths                                         registry.rs
//! │  ├─ LockActor       one for each lock path                                              lock.rs, path/
//! │  ├─ SemaphoreActor  one for each semaphore path                                         semaphore.rs, path/
//! │  └─ MultiLockActor  one for each request for several locks                              multi_lock.rs
//! └─ CandidateActor  one for each candidacy for a singleton                                 candidate.rs
//!    └─ RunActor     one actor of the application under one lease                           run.rs
//! ```
//!
//! Actors of paths stand beside the session actor, not below it: a lost session is a state for them, not their end.
//!
//! An acquire goes one way. `Lock::acquire` sends a `LockMessage::Acquire`. The `LockActor` passes it as an event
//! through the [gate](machine::gate) to its [machine], carries out the machine's commands through
//! [`zookeeper`], and passes answers and watches on as events of the session's epoch. A grant is a command as well: the
//! caller gets its guard in an event.

// Drivers do what machines must not; `machine` denies it again.
#![allow(clippy::disallowed_methods)]

/// Lets an actor be told the words of another one: the conversions that a `DerivedActorRef` needs, both ways.
macro_rules! accepts {
    ($message:ident: $($variant:ident($part:ty)),+ $(,)?) => {
        #[cfg(feature = "cluster")]
        impl ractor::Message for $message {}
        $(
            impl From<$part> for $message {
                fn from(part: $part) -> $message {
                    $message::$variant(part)
                }
            }

            impl TryFrom<$message> for $part {
                type Error = &'static str;

                fn try_from(message: $message) -> Result<$part, &'static str> {
                    match message {
                        $message::$variant(part) => Ok(part),
                        _ => Err("another message of the same actor"),
                    }
                }
            }
        )+
    };
}

pub mod api;
pub mod candidate;
mod inspect;
pub mod keeper;
mod lock;
pub mod machine;
mod multi_lock;
mod path;
mod registry;
pub mod run;
mod runtime;
mod semaphore;
mod session;
pub mod zookeeper;

pub use machine::backoff;
pub use runtime::clock::Clock;
pub use runtime::random::Randomness;
