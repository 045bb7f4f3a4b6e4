//! The state machines that make all decisions. They have no I/O, no clock and no tasks: events and the time go in,
//! commands come out, and a driver carries them out. This crate's `clippy.toml` enforces that.

#![deny(clippy::disallowed_methods)]

pub mod backoff;
pub mod candidate;
pub mod exclusion;
pub mod gate;
pub mod linger;
pub mod lock;
pub mod multi_lock;
pub mod node;
pub mod path_rules;
pub mod patterns;
mod reason;
mod retries;
pub mod run;
pub mod semaphore;
pub mod session;
pub(crate) mod small_map;
mod time;
pub(crate) mod waits;
pub(crate) mod watch_budget;

use std::fmt::Debug;

use self::node::Znode;
pub use self::reason::Reason;
pub use self::time::Moment;

/// A state machine. Each has its own events and commands.
pub trait Machine {
    /// What happened.
    type Event;
    /// What the driver must do.
    type Command: Debug;

    /// Handles one event. The driver must carry out the commands in their order.
    fn handle(&mut self, event: Self::Event, now: Moment, out: &mut Vec<Self::Command>);

    /// When the driver must pass in the next `Wake` event.
    fn wakeup(&self) -> Option<Moment>;
}

/// For how many commands room is kept between events. Those of an uncontended lock have no more.
pub(crate) const COMMANDS: usize = 2;

/// The machine of one path: a lock or a semaphore.
pub trait PathMachine: Machine<Event: From<PathEvent>> {
    /// Whether no request is left, and no node is left to delete.
    fn is_idle(&self) -> bool;

    /// Whether there is a session that is not suspended.
    fn is_up(&self) -> bool;
}

/// The events that locks and semaphores have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathEvent {
    /// The caller cancels a request. A granted request is not affected.
    Cancel(Ticket),
    /// The holder releases its lease.
    Release(Ticket),
    /// All requests end, and new ones are refused.
    Close,
    /// A session was established.
    Connected {
        /// Its id, as in `ephemeralOwner`.
        session: i64,
    },
    /// The session may have ended.
    Suspended,
    /// The session is verified again.
    Resumed,
    /// The session has ended, or must be assumed to have ended.
    Lost,
    /// These nodes of ours no longer exist, as heartbeats have shown.
    Missing(Vec<String>),
    /// The time of [`Machine::wakeup`] has come.
    Wake,
}

/// What to report to a caller, except for the grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The request is queued behind this many contenders that block it.
    Queued(Ticket, usize),
    /// The request is refused.
    Refused(Ticket, Refusal),
    /// The holder's lease is suspended.
    Suspended(Ticket),
    /// The holder's lease is no longer suspended.
    Resumed(Ticket),
    /// The holder's lease is lost.
    Lost(Ticket),
    /// The machine has removed the request.
    Forgotten {
        /// The request.
        ticket: Ticket,
        /// Whether the server has confirmed that no node of the request is left.
        confirmed: bool,
    },
}

/// Identifies one request, from the call until its node is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// A ticket with this number, for a caller that drives a machine itself, such as a model. With actors, use
    /// [`Ticket::new`], which returns unique tickets.
    pub const fn numbered(number: u64) -> Ticket {
        Ticket(number)
    }

    /// The ticket's number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// How long a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Does not wait: the request is granted or refused at once.
    Try,
    /// Waits until this moment.
    Until(Moment),
    /// Waits without limit.
    Forever,
}

/// The state of a lease at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Nobody whom this lease excludes can hold the lock. Two readers do not exclude each other, nor do two permits of
    /// a semaphore. As in kazoo, a reader does not exclude a plain lock on the same path.
    Held,
    /// Still held, but the connection broke, or has not been verified for too long. Becomes `Held` again, or `Lost`.
    Suspended,
    /// Somebody else may hold the lock. This state is final.
    Lost,
}

impl LeaseState {
    /// The worst of several: `Lost`, then `Suspended`, then `Held`.
    pub(crate) fn worst(states: impl IntoIterator<Item = LeaseState>) -> LeaseState {
        let rank = |state: &LeaseState| match state {
            LeaseState::Held => 0,
            LeaseState::Suspended => 1,
            LeaseState::Lost => 2,
        };
        states.into_iter().max_by_key(rank).unwrap_or(LeaseState::Held)
    }
}

/// Why a request to ZooKeeper failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The node or its parent does not exist.
    NoNode,
    /// The access list denies the request.
    NoAuth,
    /// The server rejected the request for this reason; nothing was changed.
    Refused(Reason),
    /// The session ended: no further request will be answered.
    SessionGone,
    /// It is unknown whether the request was carried out.
    Unknown(Reason),
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another contender is ahead, and the request was a try.
    Contended,
    /// There is no verified session, and the request was a try.
    Suspended,
    /// The deadline passed.
    TimedOut,
    /// The caller cancelled the request.
    Cancelled,
    /// The path's actor is closing.
    Closed,
    /// The directory is running out of sequence numbers.
    Exhausted,
    /// This contender follows other locking rules, so both could hold at the same time.
    MixedDialects(Znode),
    /// Zero permits were requested.
    NoPermits,
    /// The semaphore has fewer permits than were requested.
    TooMany {
        /// The number of permits requested.
        count: u32,
        /// The number of permits that the semaphore has.
        limit: u32,
    },
    /// The stored number of permits differs from the one that the caller expects.
    LimitMismatch {
        /// The stored number.
        stored: i64,
        /// The number that the caller expects.
        given: u32,
    },
    /// No number of permits is stored, and the caller has given none.
    NoLimit,
    /// The access list of this node denies a request.
    NoAuth(Denied),
    /// The request was rejected for this reason, by the server or because it could never succeed.
    Rejected(Reason),
}

/// A node whose access list denies a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// The directory of the queue.
    Directory,
    /// The semaphore's root.
    Root,
    /// A contender's node.
    Contender(Znode),
}
