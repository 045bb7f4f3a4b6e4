//! What goes into a lock's machine and what comes out: data, so that a test compares it and a reader prints it.

use super::Moment;
use super::znode::{Attempt, Mode, Patterns, Znode};

/// Names one request for a lock, from the call until its node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// For whoever drives a [`Queue`](super::queue::Queue) alone and counts its requests itself, as a model does.
    /// Where actors are, [`Ticket::new`] keeps tickets apart.
    pub const fn numbered(number: u64) -> Ticket {
        Ticket(number)
    }

    /// The number that it was made of.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// What a caller asks of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// How the path is wanted.
    pub mode: Mode,
    /// Further name endings that count as contenders.
    pub patterns: Patterns,
    /// Whether the node goes with the session.
    pub ephemeral: bool,
    /// How long to wait.
    pub wait: Wait,
}

/// How long a request waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Not at all.
    Try,
    /// Until this moment, and no later.
    Until(Moment),
    /// For as long as it takes.
    Forever,
}

/// What happened. Answers carry the attempt that asked; a driver drops those of an earlier session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants the lock.
    Acquire {
        /// New, and used once.
        ticket: Ticket,
        /// What is wanted.
        request: Request,
    },
    /// Somebody no longer wants it. Nothing happens to a lock that is already held.
    Cancel(Ticket),
    /// A holder is done.
    Release(Ticket),
    /// Nothing more is wanted by anybody.
    Close,
    /// A session is there.
    Connected {
        /// Its id, as `ephemeralOwner` shows it.
        session: i64,
    },
    /// It cannot be told whether the session still lives.
    Suspended,
    /// It lives.
    Resumed,
    /// It is gone, or must be taken for gone.
    Lost,
    /// Answer to [`Command::List`].
    Listed(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::Enter`].
    Entered {
        /// Who asked.
        attempt: Attempt,
        /// The create's answer.
        created: Result<Created, Failure>,
        /// The answer of the list that was sent right behind it.
        children: Result<Vec<String>, Failure>,
    },
    /// Answer to [`Command::MakeDirectory`].
    DirectoryMade(Attempt, Result<(), Failure>),
    /// Answer to [`Command::Look`].
    Looked(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::Inspect`].
    Inspected(Attempt, Result<Inspection, Failure>),
    /// Answer to [`Command::Watch`]: armed, or not.
    Watched(Znode, Result<(), Failure>),
    /// An armed watch fired.
    Fired {
        /// What was watched.
        node: Znode,
        /// Whether it is gone; otherwise something else happened to it.
        gone: bool,
    },
    /// Answer to [`Command::Delete`].
    Deleted(Attempt, Result<(), Failure>),
    /// A heartbeat did not find these nodes of ours.
    Missing(Vec<Znode>),
    /// The time that [`Queue::wakeup`](super::queue::Queue::wakeup) named has come.
    Wake,
}

/// What a successful create tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Created {
    /// The node.
    pub node: Znode,
    /// The transaction that made it: the fencing token.
    pub czxid: i64,
}

/// What a node's stat tells about whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inspection {
    /// The transaction that made it.
    pub czxid: i64,
    /// The session that it goes with; zero for none.
    pub owner: i64,
}

/// Why a request to ZooKeeper did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nothing is at that path, or its parent is missing.
    NoNode,
    /// The access list forbids it.
    NoAuth,
    /// A definite no, for this reason: nothing was changed.
    Refused(String),
    /// The session ended: no further request will be answered.
    SessionGone,
    /// Nobody knows whether it was carried out.
    Unknown(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// List the directory.
    List(Attempt),
    /// Create the node and list the directory, both sent before either is answered.
    Enter(Attempt, Ticket),
    /// Make the directory and what leads to it.
    MakeDirectory(Attempt, Ticket),
    /// Sync and list: whether a create of unknown outcome was carried out.
    Look(Attempt),
    /// Read the node's stat.
    Inspect(Attempt, Znode),
    /// Read the node and leave a watch.
    Watch(Znode),
    /// The watch is no longer needed.
    Unwatch(Znode),
    /// Delete the node.
    Delete(Attempt, Znode),
    /// This node of ours is to be checked by the heartbeats from now on.
    Track(Znode),
    /// The lock is held.
    Grant {
        /// By whom.
        ticket: Ticket,
        /// With which node.
        node: Znode,
        /// The fencing token.
        czxid: i64,
    },
    /// The request stands in the queue, with this many blocking contenders ahead.
    Queued(Ticket, usize),
    /// The request is not granted.
    Refuse(Ticket, Refusal),
    /// A holder can no longer be sure.
    Suspend(Ticket),
    /// A holder can be sure again.
    Resume(Ticket),
    /// A holder holds no longer.
    Lose(Ticket),
    /// Nothing is left of the request.
    Forget {
        /// Which.
        ticket: Ticket,
        /// Whether the server confirmed that its node is gone.
        confirmed: bool,
    },
}

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Somebody is ahead, and the request would not wait.
    Contended,
    /// There is no session to ask right now, and the request would not wait.
    Suspended,
    /// The deadline came first.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// Everything is being closed.
    Closed,
    /// The directory is running out of sequence numbers.
    Exhausted,
    /// The access list forbids a step; on this node, or on the directory.
    NoAuth(Option<Znode>),
    /// The server said no.
    Rejected(String),
}
