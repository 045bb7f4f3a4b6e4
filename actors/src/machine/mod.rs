//! The machines that decide: no I/O, no clock, no spawning. Events and the time go in, commands come out, and a driver
//! carries them out. `clippy.toml` beside this crate's manifest keeps it so.

#![deny(clippy::disallowed_methods)]

pub mod backoff;
pub mod candidate;
pub mod exclusion;
pub mod gate;
pub mod lock;
pub mod multi_lock;
pub mod node;
pub mod path;
mod retries;
pub mod run;
pub mod semaphore;
pub mod session;
mod time;

use self::node::Znode;
pub use self::time::Moment;

/// A state machine. Each has its own events and commands.
pub trait Machine {
    /// What happens.
    type Event;
    /// What is to be done.
    type Command;

    /// Takes one event. Commands are to be carried out in the order in which they come.
    fn handle(&mut self, event: Self::Event, now: Moment, out: &mut Vec<Self::Command>);

    /// When the machine's `Wake` event is due next.
    fn wakeup(&self) -> Option<Moment>;
}

/// The machine of one path: a lock or a semaphore.
pub trait PathMachine: Machine<Event: From<PathEvent>> {
    /// No request is left, and no node is left to delete.
    fn is_idle(&self) -> bool;

    /// There is a session, and it is not suspended.
    fn is_up(&self) -> bool;
}

/// What the requests of a path and its session have in common, whatever is at the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathEvent {
    /// The caller no longer wants it. Nothing happens to a request that is granted already.
    Cancel(Ticket),
    /// The holder is done.
    Release(Ticket),
    /// All requests end, and no further ones are taken.
    Close,
    /// A session has begun.
    Connected {
        /// Its id, as `ephemeralOwner` shows it.
        session: i64,
    },
    /// The session may have ended.
    Suspended,
    /// The session lives.
    Resumed,
    /// The session has ended, or must be taken for ended.
    Lost,
    /// A heartbeat did not find these nodes of ours.
    Missing(Vec<String>),
    /// The time that [`Machine::wakeup`] named has come.
    Wake,
}

/// What a caller is told, but for the grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The request is queued behind this many contenders that block it.
    Queued(Ticket, usize),
    /// The request is not granted.
    Refused(Ticket, Refusal),
    /// The holder's session may have ended.
    Suspended(Ticket),
    /// The holder's session lives.
    Resumed(Ticket),
    /// The holder does not hold any more.
    Lost(Ticket),
    /// Nothing is left of the request.
    Forgotten {
        /// The request.
        ticket: Ticket,
        /// Whether the server confirmed that its node is deleted.
        confirmed: bool,
    },
}

/// Names one request, from the call until its node is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// For a caller that drives a machine alone and counts its requests itself, as a model does. With actors,
    /// [`Ticket::new`] keeps tickets apart.
    pub const fn numbered(number: u64) -> Ticket {
        Ticket(number)
    }

    /// The number that it was made of.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// How long a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Not at all.
    Try,
    /// Until this moment, and no later.
    Until(Moment),
    /// Without limit.
    Forever,
}

/// What a holder may believe of its lease at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Nobody that this lease excludes can hold the lock. Two readers do not exclude each other, nor do two permits of
    /// a semaphore. As in kazoo, a reader does not exclude a plain lock on the same path.
    Held,
    /// The same, but the connection is in doubt; it will be `Held` again, or `Lost`.
    Suspended,
    /// Somebody else may hold it. Final.
    Lost,
}

/// Why a request to ZooKeeper did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nothing is at that path, or its parent is missing.
    NoNode,
    /// The access list forbids it.
    NoAuth,
    /// The server refused, for this reason; nothing was changed.
    Refused(String),
    /// The session ended: no further request will be answered.
    SessionGone,
    /// It is unknown whether the request was carried out.
    Unknown(String),
}

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another contender is ahead, and the request would not wait.
    Contended,
    /// There is no verified session, and the request would not wait.
    Suspended,
    /// The deadline came first.
    TimedOut,
    /// The caller cancelled it.
    Cancelled,
    /// Everything is being closed.
    Closed,
    /// The directory is running out of sequence numbers.
    Exhausted,
    /// This contender and the one that asked could hold at the same time.
    MixedDialects(Znode),
    /// Zero permits were requested.
    NoPermits,
    /// The semaphore has fewer permits than were requested.
    TooMany {
        /// How many were requested.
        count: u32,
        /// How many there are.
        limit: u32,
    },
    /// The semaphore has another number of permits than the caller says.
    LimitMismatch {
        /// The number that is stored.
        stored: i64,
        /// The caller's.
        given: u32,
    },
    /// No number of permits is stored, and the caller has given none.
    NoLimit,
    /// The access list forbids a step; on this node, or on the directory.
    NoAuth(Option<Znode>),
    /// The server refused, for this reason.
    Rejected(String),
}
