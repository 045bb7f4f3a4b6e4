//! One local request, and its stage.

use super::protocol::Request;
use crate::machine::Ticket;
use crate::machine::node::Znode;

/// A request, and the node that an attempt made or may have made for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LocalContender {
    pub ticket: Ticket,
    pub request: Request,
    /// The caller still wants it. One that is not wanted stays until its node is deleted.
    pub wanted: bool,
    /// Its node's name, once an answer or a list has shown it.
    pub node: Option<Znode>,
    pub stage: Stage,
}

/// In the order of an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Nothing is sent: there is no session.
    Idle,
    /// A try that reads before it writes.
    Peeking,
    /// Create and list are in flight.
    Creating,
    /// The directory was missing.
    MakingDirectory,
    /// The create's outcome is unknown; a sync and a list will tell.
    FindingCreated,
    /// Found by name; its stat shows the session that owns it.
    ReadingStat,
    /// Created, but its list failed and was sent again.
    Listing { czxid: i64 },
    /// Its place is known, and so are all contenders ahead.
    Waiting { czxid: i64 },
    /// Granted.
    Held { czxid: i64 },
    /// A node that outlives sessions, held or waiting, until a new session has seen it.
    Unverified { czxid: i64, held: bool },
    /// Its delete is in flight, or due.
    Deleting,
}

impl LocalContender {
    pub fn new(ticket: Ticket, request: Request) -> LocalContender {
        LocalContender { ticket, request, wanted: true, node: None, stage: Stage::Idle }
    }

    /// The transaction that made its node, where that is known.
    pub fn czxid(&self) -> Option<i64> {
        match self.stage {
            Stage::Listing { czxid }
            | Stage::Waiting { czxid }
            | Stage::Held { czxid }
            | Stage::Unverified { czxid, .. } => Some(czxid),
            Stage::Idle
            | Stage::Peeking
            | Stage::Creating
            | Stage::MakingDirectory
            | Stage::FindingCreated
            | Stage::ReadingStat
            | Stage::Deleting => None,
        }
    }

    /// Whether this contender waits for `node` when that stands ahead.
    pub fn waits_for(&self, node: &Znode) -> bool {
        let Request { dialect, mode, patterns, .. } = &self.request;
        node.blocks(*dialect, *mode, patterns)
    }

    /// Whether this contender and the one of `node` could hold at the same time.
    pub fn clashes(&self, node: &Znode) -> bool {
        let Request { dialect, mode, patterns, .. } = &self.request;
        node.clashes(*dialect, *mode, patterns)
    }
}
