//! The server as a state machine, without I/O, clocks or tasks. [`Server::handle`] takes an [`Input`] and the time, and
//! returns [`Output`]s. A driver carries them out: `net` with sockets, or a simulation in virtual time.

mod acl;
mod connection;
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

/// A point in time on the clock of the machine's driver, in nanoseconds since that clock's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The next multiple of `unit` that is strictly later. The real server rounds the expiry of sessions like this.
    fn next_multiple_of(self, unit: Duration) -> Moment {
        let unit = nanoseconds(unit).max(1);
        Moment((self.0 / unit).saturating_add(1).saturating_mul(unit))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates at the latest possible moment.
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(nanoseconds(duration)))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The id of a connection, assigned by the driver. An id is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The id of a session, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// An input of the server.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client has connected.
    Opened {
        /// The new connection.
        connection: ConnectionId,
        /// The client's address.
        peer: SocketAddr,
    },
    /// A connection has ended. (If the machine closed it itself, this input may come at any time, or not at all.)
    Closed {
        /// The connection that has ended.
        connection: ConnectionId,
    },
    /// The first packet of a connection.
    Connect {
        /// The connection on which it arrived.
        connection: ConnectionId,
        /// The decoded packet.
        request: ConnectRequest,
    },
    /// A later packet.
    Request {
        /// The connection on which it arrived.
        connection: ConnectionId,
        /// The number that the client gave the request.
        xid: i32,
        /// The decoded packet.
        request: Request,
    },
    /// A four-letter word instead of a first packet.
    Word {
        /// The connection on which it arrived.
        connection: ConnectionId,
        /// The decoded word.
        word: Word,
    },
    /// A session is to be expired before its timeout. Nothing else expires, even if it is due.
    Expire {
        /// The session to expire.
        session: SessionId,
    },
    /// Time has passed. [`Server::next_wake`] tells when this input is due.
    Time,
}

/// An output that the driver must carry out. The outputs for one connection must be sent in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The reply to a connect request.
    Connected {
        /// The connection to send it on.
        connection: ConnectionId,
        /// The session, or zeros if the server refuses it.
        reply: ConnectReply,
    },
    /// The reply to a request.
    Reply {
        /// The connection to send it on.
        connection: ConnectionId,
        /// The number that the client gave the request.
        xid: i32,
        /// The last transaction that the reply reflects.
        zxid: i64,
        /// The body of the reply, or the error.
        result: Result<Reply, ErrorCode>,
    },
    /// A watch event.
    Event {
        /// The connection to send it on.
        connection: ConnectionId,
        /// The transaction that caused it, or −1 if the change happened while the client was disconnected.
        zxid: i64,
        /// What happened to the node.
        kind: EventKind,
        /// The path of the node.
        path: String,
    },
    /// The response to a four-letter word.
    Text {
        /// The connection to send it on.
        connection: ConnectionId,
        /// The whole response.
        text: String,
    },
    /// Close the connection after sending all earlier outputs.
    Close {
        /// The connection to close.
        connection: ConnectionId,
        /// Why it is closed.
        reason: CloseReason,
    },
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The client closed its session.
    #[error("the client closed its session")]
    SessionClosed,
    /// The session timed out or was expired by [`Input::Expire`].
    #[error("the session expired")]
    SessionExpired,
    /// The session was resumed on another connection.
    #[error("the session was resumed on another connection")]
    SessionMoved,
    /// The session that the client wanted to resume has expired or never existed.
    #[error("the session to resume does not exist")]
    UnknownSession,
    /// The client wanted to resume a session with a wrong password.
    #[error("the password of the session to resume is wrong")]
    WrongPassword,
    /// The client has seen later transactions than this server has.
    #[error("the client has seen a later transaction than this server has")]
    ClientAhead,
    /// The client did not send a complete connect request in time.
    #[error("the client did not send a connect request in time")]
    HandshakeTimeout,
    /// The client sent a second connect request, or a request before its connect request.
    #[error("the client sent packets out of order")]
    OutOfOrder,
    /// The client's credentials were rejected.
    #[error("authentication failed")]
    AuthFailed,
    /// The client requested an operation that this server does not support.
    #[error("the operation is not supported")]
    Unimplemented,
    /// A four-letter word was answered.
    #[error("a four-letter word was answered")]
    WordAnswered,
}
