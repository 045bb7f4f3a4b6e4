//! The events and commands of a lock's machine. They are plain data, so that tests can compare and print them.

use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::node::{Attempt, Znode};
use crate::machine::patterns::Patterns;
use crate::machine::{Failure, PathEvent, Reply, Ticket, Wait};

/// A caller's request for the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Which other contenders it excludes.
    pub mode: Mode,
    /// How its node is named.
    pub dialect: Dialect,
    /// Additional name endings that count as contenders.
    pub patterns: Patterns,
    /// Whether the server deletes the node when the session ends.
    pub ephemeral: bool,
    /// Whether the node is created together with those of other paths, as a part of a multi-lock. Then its create and
    /// its list are sent later than they are commanded.
    pub joint: bool,
    /// The size of its create, in bytes.
    pub bytes: usize,
    /// How long to wait.
    pub wait: Wait,
}

/// What happened. Answers carry the attempt that asked; a driver drops those of an earlier session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A caller requests the lock.
    Acquire {
        /// A ticket that has not been used before.
        ticket: Ticket,
        /// The request.
        request: Request,
    },
    /// An event that locks and semaphores have in common.
    Path(PathEvent),
    /// Answer to [`Command::List`].
    Listed(Result<Vec<String>, Failure>),
    /// Answer to [`Command::Create`].
    Created(Attempt, Result<Created, Failure>),
    /// Answer to [`Command::CreateAndList`].
    CreatedAndListed {
        /// The attempt that creates the node.
        attempt: Attempt,
        /// The answer to the create.
        created: Result<Created, Failure>,
        /// The answer to the list that was sent right after the create.
        children: Result<Vec<String>, Failure>,
    },
    /// Answer to [`Command::MakeDirectory`].
    DirectoryMade(Attempt, Result<(), Failure>),
    /// Answer to [`Command::ReadStat`].
    StatRead(Attempt, Result<NodeStat, Failure>),
    /// Answer to [`Command::Watch`].
    Watched(Znode, Result<(), Failure>),
    /// A watch fired.
    Fired {
        /// The watched node.
        node: Znode,
        /// Whether the node was deleted; otherwise something else happened to it.
        gone: bool,
    },
    /// Answer to [`Command::Delete`].
    Deleted(Attempt, Result<(), Failure>),
}

impl From<PathEvent> for Event {
    fn from(event: PathEvent) -> Event {
        Event::Path(event)
    }
}

/// The answer to a successful create.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Created {
    /// The node.
    pub node: Znode,
    /// The transaction that created it, which is the fencing token.
    pub czxid: i64,
}

/// The part of a node's stat that shows its owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeStat {
    /// The transaction that created the node.
    pub czxid: i64,
    /// The session that owns the node; zero for a persistent node.
    pub owner: i64,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// List the directory.
    List {
        /// Whether to bring the server up to date first, on the same connection. If that fails, so does the list.
        sync: bool,
    },
    /// Create the node.
    Create(Attempt, Ticket),
    /// Create the node and list the directory, without waiting for an answer in between.
    CreateAndList(Attempt, Ticket),
    /// Create the directory and its parents.
    MakeDirectory(Attempt, Ticket),
    /// Read the node's stat.
    ReadStat(Attempt, Znode),
    /// Read the node and set a watch.
    Watch(Znode),
    /// Remove the watch.
    Unwatch(Znode),
    /// Delete the node.
    Delete(Attempt, Znode),
    /// Check this node of ours with heartbeats from now on.
    Track(Znode),
    /// Grant the lock.
    Grant {
        /// The request.
        ticket: Ticket,
        /// The node that holds the lock.
        node: Znode,
        /// The fencing token.
        czxid: i64,
    },
    /// Report to the caller.
    Reply(Reply),
}
