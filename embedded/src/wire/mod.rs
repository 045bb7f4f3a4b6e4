//! What clients and servers say to each other, decoded: requests, replies, stats, errors.
//!
//! [`decode`] turns the bytes of a client into these types, [`encode`] turns replies into bytes. Neither does I/O.

pub mod decode;
pub mod encode;
mod text;

use std::sync::Arc;

pub use text::Word;

/// The largest frame that is taken, not counting its four bytes of length: the real server's `jute.maxbuffer`.
pub const MAX_FRAME: usize = 0xf_ffff;

/// A node's content. `None` is not the same as empty: what was written as null reads as null.
pub type Data = Option<Arc<[u8]>>;

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The newest transaction the client knows of.
    pub last_zxid_seen: i64,
    /// The session timeout it would like, in milliseconds.
    pub timeout_ms: i32,
    /// The session to be resumed, or zero.
    pub session: i64,
    /// That session's password.
    pub password: Vec<u8>,
    /// Whether a read-only server would do; clients before 3.4 do not say, and expect an answer without it.
    pub read_only: Option<bool>,
}

/// The answer to a [`ConnectRequest`]. A refused session is all zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectReply {
    /// The negotiated timeout, in milliseconds.
    pub timeout_ms: i32,
    /// The session, or zero.
    pub session: i64,
    /// What the client shows when it resumes the session.
    pub password: [u8; 16],
    /// Whether the reply has the field `readOnly`, which the oldest clients do not understand.
    pub tells_read_only: bool,
}

/// A request of an established session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub enum Request {
    /// Keeps the session alive.
    Ping,
    /// Ends the session.
    CloseSession,
    /// Adds an identity to the connection.
    Auth { scheme: String, auth: Option<Vec<u8>> },
    /// A write by itself.
    Write(Write),
    /// Writes that succeed or fail together.
    Multi(Vec<Write>),
    /// A read by itself, whose answer has no stat when it is `getChildren`.
    Read { op: Read, watch: bool },
    /// Reads that are answered together.
    MultiRead(Vec<Read>),
    /// A node's stat; the watch is left even where there is no node.
    Exists { path: String, watch: bool },
    /// The children with the parent's stat.
    GetChildren2 { path: String, watch: bool },
    /// A node's access control list.
    GetAcl { path: String },
    /// A round trip through the server's order.
    Sync { path: String },
    /// The session's own ephemeral nodes under a prefix.
    GetEphemerals { prefix: Option<String> },
    /// How many nodes stand below a path.
    GetAllChildrenNumber { path: String },
    /// The watches of an earlier connection, set again.
    SetWatches(SetWatches),
    /// A persistent watch.
    AddWatch { path: String, mode: i32 },
    /// Whether a watch is set.
    CheckWatches { path: String, kind: i32 },
    /// Takes a watch away.
    RemoveWatches { path: String, kind: i32 },
    /// The connection's identities.
    WhoAmI,
    /// A change of an ensemble's members, which one node does not have.
    Reconfig,
    /// The body did not make sense. A malformed multi uses up a transaction id, as in the real server.
    Malformed { multi: bool },
    /// An operation that no client sends, or that this server does not have.
    Unsupported(i32),
}

impl Request {
    /// How the four-letter word `cons` names the operation.
    pub(crate) fn abbreviation(&self) -> &'static str {
        match self {
            Request::Ping => "PING",
            Request::CloseSession => "CLOS",
            Request::Write(Write::Create { .. }) => "CREA",
            Request::Write(Write::Delete { .. }) => "DELE",
            Request::Write(Write::SetData { .. }) => "SETD",
            Request::Write(Write::SetAcl { .. }) => "SETA",
            Request::Write(Write::Check { .. }) => "CHEC",
            Request::Multi(_) => "MULT",
            Request::Read { op: Read::GetData { .. }, .. } => "GETD",
            Request::Read { op: Read::GetChildren { .. }, .. } | Request::GetChildren2 { .. } => "GETC",
            Request::MultiRead(_) => "MLTR",
            Request::Exists { .. } => "EXIS",
            Request::GetAcl { .. } => "GETA",
            Request::Sync { .. } => "SYNC",
            Request::GetEphemerals { .. } => "GETE",
            Request::GetAllChildrenNumber { .. } => "GETACN",
            Request::SetWatches(_) => "SETW",
            Request::AddWatch { .. } => "ADDW",
            Request::CheckWatches { .. } => "CHKW",
            Request::RemoveWatches { .. } => "REMW",
            Request::WhoAmI => "HOMI",
            Request::Reconfig => "RECO",
            Request::Auth { .. } | Request::Malformed { .. } | Request::Unsupported(_) => "NA",
        }
    }
}

/// A request that changes something, or checks what a change depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub enum Write {
    /// A new node.
    Create { kind: CreateKind, path: String, data: Data, acl: Vec<Acl>, flags: i32 },
    /// Removes a node without children.
    Delete { path: String, version: i32 },
    /// Replaces a node's content.
    SetData { path: String, data: Data, version: i32 },
    /// Replaces a node's access control list.
    SetAcl { path: String, acl: Vec<Acl>, version: i32 },
    /// Fails unless the node is there in that version.
    Check { path: String, version: i32 },
}

/// Which of the four creating operations it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateKind {
    /// `create`, answered by the path.
    Plain,
    /// `create2`, answered by path and stat.
    WithStat,
    /// `createContainer`.
    Container,
    /// `createTTL`, with the time to live in milliseconds.
    Ttl(i64),
}

/// A read that `multiRead` can carry as well.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub enum Read {
    /// Content and stat.
    GetData { path: String },
    /// The children's names.
    GetChildren { path: String },
}

/// The watches a client had on its earlier connection, and how much of history it had seen there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetWatches {
    /// Changes after this transaction have been missed, and are told at once.
    pub relative_zxid: i64,
    /// One-shot watches left by `getData`, and by `exists` where a node was.
    pub data: Vec<String>,
    /// One-shot watches left by `exists` where no node was.
    pub exist: Vec<String>,
    /// One-shot watches left by `getChildren`.
    pub child: Vec<String>,
    /// Persistent watches.
    pub persistent: Vec<String>,
    /// Persistent recursive watches.
    pub recursive: Vec<String>,
}

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Bits: read 1, write 2, create 4, delete 8, admin 16.
    pub perms: i32,
    /// Who has them.
    pub id: Id,
}

/// Somebody, as an authentication scheme knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// `world`, `auth`, `digest` or `ip`.
    pub scheme: String,
    /// `anyone`, `name:hash`, an address.
    pub id: String,
}

impl Id {
    /// How many bytes both names have.
    pub(crate) fn size(&self) -> usize {
        self.scheme.len() + self.id.len()
    }
}

/// What the server tells of a node beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub ctime: i64,
    pub mtime: i64,
    pub version: i32,
    pub cversion: i32,
    pub aversion: i32,
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub num_children: i32,
    pub pzxid: i64,
}

/// The body of a successful reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing but the header.
    Empty,
    /// `create`, `sync`.
    Path(String),
    /// `create2`, `createContainer`, `createTTL`.
    PathStat(String, Stat),
    /// `exists`, `setData`, `setACL`.
    Stat(Stat),
    /// `getData`.
    Data(Data, Stat),
    /// `getChildren`.
    Children(Vec<Arc<str>>),
    /// `getChildren2`.
    ChildrenStat(Vec<Arc<str>>, Stat),
    /// `getACL`.
    Acl(Vec<Acl>, Stat),
    /// `getAllChildrenNumber`, and the zero that answers `addWatch`.
    Number(i32),
    /// `getEphemerals`.
    Paths(Vec<Arc<str>>),
    /// `whoAmI`: schemes and user names.
    Clients(Vec<Id>),
    /// `multi` and `multiRead`.
    Multi(Vec<OpResult>),
}

/// What one operation of a `multi` or `multiRead` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the answer to the operation of that name")]
pub enum OpResult {
    Create(String),
    CreateStat(String, Stat),
    Delete,
    SetData(Stat),
    SetAcl(Stat),
    Check,
    GetData(Data, Stat),
    GetChildren(Vec<Arc<str>>),
    /// The operation failed, or stands beside one that did. Zero stands before it, −2 after it.
    Error(i32),
}

/// What happened to a watched node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EventKind {
    /// It is there now.
    Created = 1,
    /// It is gone.
    Deleted = 2,
    /// Its content changed.
    DataChanged = 3,
    /// A child came or went.
    ChildrenChanged = 4,
}

/// Why a request failed, by the protocol's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(i32)]
#[allow(missing_docs, reason = "the message says it")]
pub enum ErrorCode {
    #[error("a former operation of the multi failed")]
    RuntimeInconsistency = -2,
    #[error("the request's body could not be read")]
    MarshallingError = -5,
    #[error("the server does not have this operation")]
    Unimplemented = -6,
    #[error("an argument is not valid")]
    BadArguments = -8,
    #[error("there is no such node")]
    NoNode = -101,
    #[error("not permitted by the access control list")]
    NoAuth = -102,
    #[error("the version is another one")]
    BadVersion = -103,
    #[error("ephemeral nodes have no children")]
    NoChildrenForEphemerals = -108,
    #[error("the node is there already")]
    NodeExists = -110,
    #[error("the node has children")]
    NotEmpty = -111,
    #[error("the access control list is not valid")]
    InvalidAcl = -114,
    #[error("the authentication failed")]
    AuthFailed = -115,
    #[error("there is no such watch")]
    NoWatcher = -121,
    #[error("reconfiguration is not enabled")]
    ReconfigDisabled = -123,
}
