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
//! ├─ CandidateActor  one for each candidacy for a singleton                                 candidate.rs
//! │  └─ RunActor        one actor of the application under one lease                        run.rs
//! └─ RunActor        the same under a guard that the application holds                      run.rs
//! ```
//!
//! The actors of paths are siblings of the session actor, not its children, so they survive the loss of a session.
//!
//! An acquire takes this route: `Lock::acquire` sends a `LockMessage::Acquire`. The `LockActor` passes it as an event
//! through the [gate](machine::gate) to its [machine] and carries out the machine's commands through [`zookeeper`].
//! Answers and fired watches become events too, tagged with the session's epoch. A grant is also a command: the caller
//! receives its guard in an event.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | contender | a request's place in the queue of a path: a sequential node; its predecessors are the contenders ahead |
//! | holder | a contender that was granted, and is neither released nor lost |
//! | lease | the proven time in which the server keeps the session of a holder |
//! | permit | one unit of a semaphore; on the wire a node that kazoo calls a lease |
//! | session, epoch | a session with ZooKeeper, and its number among those of a keeper |
//! | suspended, lost | the session may have ended; it has ended, or must be assumed to have ended |
//! | fencing token | the id of the transaction that created a holder's node |
//! | machine, stage | a pure state machine, and the state of it or of one of its requests |
//! | event, command | the input and the output of a machine |
//! | gate | lets events through to a path's machine as far as the lease allows |
//! | resource | the lock or the semaphore at a path |
//! | step, record | an event that went into a machine, with the commands that came out; the newest steps of a keeper |
//! | event sink | receives the events of one request |

// Drivers may use clocks, randomness and tasks; `machine` denies them again.
#![allow(clippy::disallowed_methods)]

/// Wraps message types of other actors in variants of this message: both conversions that a `DerivedActorRef` needs.
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
                        _ => Err("this is another variant of the message"),
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
pub mod metrics;
mod multi_lock;
mod path;
pub mod record;
mod registry;
pub mod run;
mod runtime;
mod semaphore;
mod session;
pub mod zookeeper;

pub use machine::backoff;
pub use runtime::clock::Clock;
pub use runtime::random::Randomness;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::api::keep_alive::KeeperRequest;
    use super::api::lease::{Regroup, Release};
    use super::api::messages::RegistryMessage;
    use super::api::request::Ticket;
    use super::api::resource::Resource;
    use super::keeper::KeeperMessage;
    use super::lock::LockActorMessage;
    use super::lock::joint_create::JointCreate;
    use super::machine::node::{Attempt, Instance};
    use super::multi_lock::MultiLockReport;
    use super::path::{PathMessage, PathNotice, PathReport};
    use super::registry::RegistryActorMessage;
    use super::semaphore::SemaphoreActorMessage;
    use super::session::{SessionNotice, SessionReport};

    /// Whether a part comes back out of its message, and not out of the message of another part.
    fn converts<M: From<P> + From<Q>, P: TryFrom<M>, Q>(part: P, other: Q) -> bool {
        P::try_from(M::from(part)).is_ok() && P::try_from(M::from(other)).is_err()
    }

    #[test]
    fn every_part_of_a_message_converts_both_ways() {
        let release = || Release { ticket: Ticket::numbered(1), reply: None };
        let merge = Regroup::Merge { ticket: Ticket::numbered(1), into: Ticket::numbered(2) };
        let path: Arc<str> = "/a".into();
        let open = || RegistryMessage::Open(Resource::Lock(path.clone()));
        let create = JointCreate { entrants: Vec::new(), answer: Box::new(drop) };
        let orphaned = || PathReport::Orphaned {
            epoch: 1,
            directory: path.clone(),
            instance: Instance::new(1),
            attempt: Attempt(1),
        };
        let error = super::api::error::ConnectError::NoSupervisor;

        assert!(converts::<LockActorMessage, _, _>(release(), PathNotice::Close));
        assert!(converts::<LockActorMessage, _, _>(PathMessage::Wake, release()));
        assert!(converts::<LockActorMessage, _, _>(PathNotice::Close, release()));
        assert!(converts::<LockActorMessage, _, _>(create, release()));
        assert!(converts::<SemaphoreActorMessage, _, _>(release(), PathNotice::Close));
        assert!(converts::<SemaphoreActorMessage, _, _>(merge, release()));
        assert!(converts::<SemaphoreActorMessage, _, _>(PathMessage::Wake, release()));
        assert!(converts::<SemaphoreActorMessage, _, _>(PathNotice::Close, release()));
        assert!(converts::<RegistryActorMessage, _, _>(open(), orphaned()));
        assert!(converts::<RegistryActorMessage, _, _>(SessionNotice::Missing(Vec::new()), open()));
        assert!(converts::<RegistryActorMessage, _, _>(orphaned(), open()));
        assert!(converts::<RegistryActorMessage, _, _>(MultiLockReport::Open(path.clone()), open()));
        assert!(converts::<KeeperMessage, _, _>(
            KeeperRequest::Abandoned,
            SessionReport::NotConnected(error.clone())
        ));
        assert!(converts::<KeeperMessage, _, _>(
            SessionReport::NotConnected(error),
            KeeperRequest::Abandoned
        ));
    }
}
