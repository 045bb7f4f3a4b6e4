//! The events and commands of a lock's machine, for requests that share nodes and for those that do not.

use std::time::Duration;

use crate::machine::lock::{self, Request};
use crate::machine::{Failure, PathEvent, Ticket};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A caller requests the lock, and shares a node with requests of the same options.
    Share {
        /// A ticket that has not been used before.
        ticket: Ticket,
        /// The request.
        request: SharedRequest,
    },
    /// A caller gives up idle nodes of this path. The answer is that the ticket is forgotten.
    LetGo(Ticket),
    /// The path has no handle left, so no node stays when its last request is over.
    Retire,
    /// An event of the queue. A request without a shared node is one of them.
    Queue(lock::Event),
    /// Answer to [`Command::Follow`].
    Followed(LineId, Result<Vec<String>, Failure>),
    /// The children have changed since they were listed for this line.
    ChildrenChanged(LineId),
}

impl From<PathEvent> for Event {
    fn from(event: PathEvent) -> Event {
        Event::Queue(event.into())
    }
}

impl From<lock::Event> for Event {
    fn from(event: lock::Event) -> Event {
        Event::Queue(event)
    }
}

/// A request that shares a node with others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedRequest {
    /// The request. It must be for an ephemeral node.
    pub request: Request,
    /// Requests with the same number have the same options, and may share a node.
    pub options: u64,
    /// How long the node stays when nobody wants it.
    pub linger: Duration,
}

/// Identifies a line: a node, and the requests that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineId(pub u64);

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// A command of the queue.
    Queue(lock::Command),
    /// List the directory, and watch its children.
    Follow(LineId),
    /// Remove that watch.
    Unfollow(LineId),
}
