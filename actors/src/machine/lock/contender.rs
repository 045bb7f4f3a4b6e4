//! One local contender, and its stage.

use super::protocol::Request;
use crate::machine::Ticket;
use crate::machine::node::Znode;

/// A request, and the node that one attempt has created for it, or may have created.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LocalContender {
    pub ticket: Ticket,
    pub request: Request,
    /// Whether the caller still wants the lock. If not, the contender stays until its node is deleted.
    pub wanted: bool,
    /// The node, once an answer or a list has shown its name.
    pub node: Option<Znode>,
    pub stage: Stage,
}

/// The stages of a contender, in the order of an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// There is no session, so nothing has been sent.
    Idle,
    /// A try lists the directory before it creates a node.
    Peeking,
    /// The create and the list are in flight.
    Creating,
    /// The directory was missing, and is being created.
    MakingDirectory,
    /// The create's outcome is unknown. A sync and a list find out.
    FindingCreated,
    /// The node was found by name. Its stat shows which session owns it.
    ReadingStat,
    /// The node was created, but its list failed and was sent again.
    Listing { czxid: i64 },
    /// Its place in the queue is known, and so are all contenders ahead.
    Waiting { czxid: i64 },
    /// Granted.
    Held { czxid: i64 },
    /// After a lost session, a persistent node is read again before it counts as held or waiting.
    Unverified { czxid: i64, held: bool },
    /// The delete is in flight, or its retry is scheduled.
    Deleting,
}

impl LocalContender {
    pub fn new(ticket: Ticket, request: Request) -> LocalContender {
        LocalContender { ticket, request, wanted: true, node: None, stage: Stage::Idle }
    }

    /// The transaction that created its node, if known.
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

    /// The transaction that created its node, while it waits.
    pub fn waiting(&self) -> Option<i64> {
        self.czxid().filter(|_| matches!(self.stage, Stage::Waiting { .. }))
    }

    /// Whether this contender must wait for `node` if that is ahead.
    pub fn waits_for(&self, node: &Znode) -> bool {
        let Request { dialect, mode, patterns, .. } = &self.request;
        node.blocks(*dialect, *mode, patterns)
    }

    /// Whether this contender and that of `node` follow different rules, so that both could hold at the same time.
    pub fn clashes(&self, node: &Znode) -> bool {
        let Request { dialect, mode, patterns, .. } = &self.request;
        node.clashes(*dialect, *mode, patterns)
    }
}
