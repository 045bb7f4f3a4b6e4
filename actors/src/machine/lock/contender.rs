//! One local contender, and its stage.

use super::protocol::Request;
use super::queue::Kind;
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
    /// Nothing has been sent: there is no session, or enough creates are in flight.
    Idle,
    /// Its last attempt failed. The next one follows after a pause.
    Resting,
    /// A try waits for a list before it creates a node.
    Peeking,
    /// The create is in flight.
    Creating,
    /// The directory was missing, and is being created.
    MakingDirectory,
    /// The create's outcome is unknown. A sync and a list find out.
    FindingCreated,
    /// The node was found by name. Its stat shows which session owns it.
    ReadingStat,
    /// The node was created. A list must show who is ahead.
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

/// What a contender needs next from requests that it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Need {
    /// Room for its create.
    Room,
    /// A list that is sent after it was made.
    Peek,
    /// A list behind its create.
    ListBehindCreate,
    /// The directory.
    Directory,
    /// A list behind a sync.
    Find,
    /// A list that shows its node.
    List,
    /// The known nodes ahead, once its own node is verified.
    Verification,
}

/// The facts about a contender that are kept in indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexed {
    pub need: Option<Need>,
    /// The bytes of its create, while that is in flight.
    pub in_flight: usize,
    /// Its node, while the caller wants the lock.
    pub node: Option<Znode>,
    pub waits: bool,
    pub wanted: bool,
}

impl LocalContender {
    pub fn new(ticket: Ticket, request: Request) -> LocalContender {
        LocalContender { ticket, request, wanted: true, node: None, stage: Stage::Idle }
    }

    pub fn kind(&self) -> Kind {
        self.request.kind()
    }

    /// The transaction that created its node, if known.
    pub fn czxid(&self) -> Option<i64> {
        match self.stage {
            Stage::Listing { czxid }
            | Stage::Waiting { czxid }
            | Stage::Held { czxid }
            | Stage::Unverified { czxid, .. } => Some(czxid),
            Stage::Idle
            | Stage::Resting
            | Stage::Peeking
            | Stage::Creating
            | Stage::MakingDirectory
            | Stage::FindingCreated
            | Stage::ReadingStat
            | Stage::Deleting => None,
        }
    }

    pub fn indexed(&self) -> Indexed {
        // The parts of a multi-lock are created in a transaction of their own, together with a list of their own.
        let shares = !self.request.joint;
        let creating = self.stage == Stage::Creating && shares;
        Indexed {
            need: match self.stage {
                Stage::Idle => Some(Need::Room),
                Stage::Peeking => Some(Need::Peek),
                Stage::Creating => (self.wanted && shares).then_some(Need::ListBehindCreate),
                Stage::MakingDirectory => Some(Need::Directory),
                Stage::FindingCreated => Some(Need::Find),
                Stage::Listing { .. } => Some(Need::List),
                Stage::Unverified { held: false, .. } => Some(Need::Verification),
                Stage::Resting
                | Stage::ReadingStat
                | Stage::Waiting { .. }
                | Stage::Held { .. }
                | Stage::Unverified { held: true, .. }
                | Stage::Deleting => None,
            },
            in_flight: if creating { self.request.bytes } else { 0 },
            node: self.node.clone().filter(|_| self.wanted),
            waits: matches!(self.stage, Stage::Waiting { .. }),
            wanted: self.wanted,
        }
    }
}
