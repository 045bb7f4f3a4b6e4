//! A line: the requests that share one node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::protocol::{Command, SharedRequest};
use super::reply;
use crate::machine::exclusion::Mode;
use crate::machine::lock::Request;
use crate::machine::node::Znode;
use crate::machine::{Moment, Reply, Ticket, Wait};

/// The number of requests for this path that came before.
pub(super) type Arrival = u64;

/// A node, and the requests that share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Line {
    /// The request for the node.
    pub request: Request,
    pub options: u64,
    pub linger: Duration,
    /// The node and its token, once it holds the lock.
    pub held: Option<(Znode, i64)>,
    /// Whether the queue knows of it.
    pub queued: bool,
    /// Whether further requests may join.
    pub open: bool,
    /// Contenders of other processes were ahead. They will be back, so the node does not stay.
    pub contended: bool,
    /// The node is being deleted.
    pub ending: bool,
    pub waiting: BTreeMap<Arrival, Ticket>,
    /// Those that have not been told their place, because it was not known.
    pub untold: BTreeSet<Arrival>,
    pub holders: BTreeSet<Ticket>,
    /// Requests that are over once it is known whether the node stays or is gone.
    pub leaving: BTreeSet<Ticket>,
    pub following: Following,
    /// Since when nobody wants the node.
    pub idle: Option<Moment>,
    /// When to look whether it has been idle for long enough.
    pub check: Option<Moment>,
}

/// How the node's line learns of other contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Following {
    No,
    /// The list is in flight.
    Listing,
    /// The children are watched.
    Watching,
}

/// A request in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub line: super::LineId,
    pub arrival: Arrival,
    pub deadline: Option<Moment>,
}

impl Line {
    /// A line without members. It is not open while its request is a try.
    pub fn new(request: SharedRequest) -> Line {
        let SharedRequest { mut request, options, linger } = request;
        if let Wait::Until(_) = request.wait {
            request.wait = Wait::Forever;
        }
        Line {
            queued: false,
            open: request.wait != Wait::Try,
            request,
            options,
            linger,
            held: None,
            contended: false,
            ending: false,
            waiting: BTreeMap::new(),
            untold: BTreeSet::new(),
            holders: BTreeSet::new(),
            leaving: BTreeSet::new(),
            following: Following::No,
            idle: None,
            check: None,
        }
    }

    /// The request for a new node.
    pub fn again(&self) -> SharedRequest {
        let request = Request { wait: Wait::Forever, ..self.request.clone() };
        SharedRequest { request, options: self.options, linger: self.linger }
    }

    /// Whether all members hold at the same time.
    pub fn is_shared(&self) -> bool {
        self.request.mode == Mode::Read
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.holders.is_empty()
    }

    /// Tells their places to those that do not know them. `ahead` is the number of contenders ahead of the first.
    pub fn tell_places(&mut self, ahead: usize, out: &mut Vec<Command>) {
        let (untold, each) = (std::mem::take(&mut self.untold), usize::from(!self.is_shared()));
        if untold.is_empty() {
            return;
        }
        for (place, (arrival, ticket)) in self.waiting.iter().enumerate() {
            if untold.contains(arrival) {
                out.push(reply(Reply::Queued(*ticket, ahead + each * place)));
            }
        }
    }

    /// Whether a request that joins is granted at once, if the session is up.
    pub fn is_free(&self) -> bool {
        self.held.is_some() && (self.is_shared() || self.is_empty())
    }
}

/// Whether one of two contenders may have to wait for the other.
pub(super) fn excludes(one: Mode, other: Mode) -> bool {
    one != Mode::Read || other != Mode::Read
}
