//! The server as a machine that decides: no I/O, no clock, no spawning. Inputs and the time go into
//! [`Server::handle`], [`Output`]s come out, and a driver (`net`, or a simulation in virtual time) carries them out.

mod acl;
mod path;
mod read;
pub mod server;
mod session;
mod tree;
mod watch;
mod words;
mod write;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Add;
use std::time::Duration;

pub(crate) use acl::is_password_digest;
pub use server::{Config, Server, SessionInfo};

use crate::wire::{ConnectReply, ConnectRequest, ErrorCode, EventKind, Reply, Request, Word};

/// A point in time on the clock of whoever drives the machine: nanoseconds since that clock's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Rounded up to a multiple of `unit`, always forward, as the real server buckets the ends of its sessions.
    fn next_multiple_of(self, unit: Duration) -> Moment {
        let unit = nanoseconds(unit).max(1);
        Moment((self.0 / unit).saturating_add(1).saturating_mul(unit))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates: a time too far away to be counted never comes.
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(nanoseconds(duration)))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A connection, by the number its driver gave it. A number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A session, by the number clients know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What happens to the server.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client has connected.
    Opened {
        /// The new connection.
        connection: ConnectionId,
        /// The client's address.
        peer: SocketAddr,
    },
    /// A connection is gone. (No matter when one is that the machine closed itself.)
    Closed {
        /// Which one.
        connection: ConnectionId,
    },
    /// The first packet of a connection.
    Connect {
        /// On which connection.
        connection: ConnectionId,
        /// What it says.
        request: ConnectRequest,
    },
    /// A later packet.
    Request {
        /// On which connection.
        connection: ConnectionId,
        /// The client's number for it.
        xid: i32,
        /// What it asks.
        request: Request,
    },
    /// A four-letter word instead of a first packet.
    Word {
        /// On which connection.
        connection: ConnectionId,
        /// Which one.
        word: Word,
    },
    /// An operator ends a session, as if its time had run out.
    Expire {
        /// Which one.
        session: SessionId,
    },
    /// Time has passed; [`Server::next_wake`] says when this is due.
    Time,
}

/// What is to be done. Outputs for one connection are in the order in which it must see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer to a connect request.
    Connected {
        /// On which connection.
        connection: ConnectionId,
        /// The session; zeros when it is refused.
        reply: ConnectReply,
    },
    /// The answer to a request.
    Reply {
        /// On which connection.
        connection: ConnectionId,
        /// The client's number for the request.
        xid: i32,
        /// The last transaction that the answer reflects.
        zxid: i64,
        /// The answer.
        result: Result<Reply, ErrorCode>,
    },
    /// A watch event.
    Event {
        /// On which connection.
        connection: ConnectionId,
        /// The transaction it comes from, or −1 where it makes up for one that was missed.
        zxid: i64,
        /// What happened.
        kind: EventKind,
        /// To which node.
        path: String,
    },
    /// The answer to a four-letter word.
    Text {
        /// On which connection.
        connection: ConnectionId,
        /// The whole answer.
        text: String,
    },
    /// Close the connection, once all that was sent before is out.
    Close {
        /// Which one.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The client closed its session.
    #[error("the client closed its session")]
    SessionClosed,
    /// The session's time ran out, or an operator expired it.
    #[error("the session expired")]
    SessionExpired,
    /// The session goes on over another connection.
    #[error("the session was resumed on another connection")]
    SessionMoved,
    /// The session to be resumed does not exist, any more or at all.
    #[error("there is no such session")]
    UnknownSession,
    /// The session to be resumed has another password.
    #[error("the session's password is another one")]
    WrongPassword,
    /// The client has seen transactions that this server does not know.
    #[error("the client has seen a later transaction than there is here")]
    ClientAhead,
    /// No complete connect request came in time.
    #[error("no connect request came in time")]
    HandshakeTimeout,
    /// A second connect request, or a request before the first.
    #[error("packets came in an order that is none")]
    OutOfOrder,
    /// The authentication failed.
    #[error("the authentication failed")]
    AuthFailed,
    /// An operation that does not exist.
    #[error("the operation does not exist")]
    Unimplemented,
    /// A four-letter word was answered.
    #[error("a four-letter word was answered")]
    WordAnswered,
}
