//! What the server keeps for each connection.

use std::net::SocketAddr;

use super::{Moment, SessionId, acl};
use crate::wire::Id;

/// A connection and what is known about it.
pub(super) struct Connection {
    pub peer: SocketAddr,
    pub phase: Phase,
    /// The identities that the client has proven. Initially only its address.
    pub identities: Vec<Id>,
    pub packets: Packets,
    /// When the connection was opened, in milliseconds since the Unix epoch.
    pub established: i64,
    pub last: LastOperation,
}

/// The last operation on a connection that was answered, as `cons` reports it.
#[derive(Clone, Copy)]
pub(super) struct LastOperation {
    pub operation: &'static str,
    /// The client's number for the last request with a regular number. Pings and the like have negative ones.
    pub cxid: Option<i32>,
    pub zxid: i64,
    pub at: Moment,
}

impl Default for LastOperation {
    fn default() -> Self {
        LastOperation { operation: "NA", cxid: None, zxid: -1, at: Moment::default() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a connect request until this deadline.
    Handshake(Moment),
    Session(SessionId),
}

#[derive(Clone, Copy, Default)]
pub(super) struct Packets {
    pub received: u64,
    pub sent: u64,
}

impl Connection {
    /// Resets the packet counts and the last operation.
    pub fn reset_statistics(&mut self) {
        (self.packets, self.last) = (Packets::default(), LastOperation::default());
    }

    /// Adds an identity. Returns `false` if the limit for identities is exceeded.
    pub fn add_identity(&mut self, identity: Id) -> bool {
        if self.identities.contains(&identity) {
            return true;
        }
        let size: usize = self.identities.iter().map(Id::size).sum();
        let fits = size + identity.size() <= acl::MAX_IDENTITIES_SIZE;
        if fits {
            self.identities.push(identity);
        }
        fits
    }
}
