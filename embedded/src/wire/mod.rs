//! The messages of the ZooKeeper protocol: requests, replies, stats and errors.
//!
//! [`decode`] decodes requests and [`encode`] encodes replies. Neither does I/O.

pub mod decode;
pub mod encode;
mod text;

use std::sync::Arc;

pub use text::Word;

/// The maximum length of a frame, without its four-byte length prefix. This is the default of the real server's
/// `jute.maxbuffer`.
pub const MAX_FRAME: usize = 0xf_ffff;

/// The data of a node. `None` is null, which differs from empty data: a node written with null is read as null.
pub type Data = Option<Arc<[u8]>>;

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The last transaction that the client has seen.
    pub last_zxid_seen: i64,
    /// The requested session timeout, in milliseconds.
    pub timeout_ms: i32,
    /// The session to resume, or zero for a new session.
    pub session: i64,
    /// The password of the session to resume.
    pub password: Vec<u8>,
    /// Whether the client accepts a read-only server. `None` for clients before 3.4: they do not send the field, and
    /// expect a reply without it.
    pub read_only: Option<bool>,
}

/// The reply to a [`ConnectRequest`]. All zeros if the server refuses the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectReply {
    /// The negotiated session timeout, in milliseconds.
    pub timeout_ms: i32,
    /// The id of the session, or zero.
    pub session: i64,
    /// The password that the client must send to resume the session.
    pub password: [u8; 16],
    /// Whether to include the field `readOnly`, which the oldest clients do not understand.
    pub tells_read_only: bool,
}

/// A request on a connection that has a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub enum Request {
    /// Keeps the session alive.
    Ping,
    /// Ends the session.
    CloseSession,
    /// Adds an identity to the connection.
    Auth { scheme: String, auth: Option<Vec<u8>> },
    /// A single write.
    Write(Write),
    /// Writes that succeed or fail together.
    Multi(Vec<Write>),
    /// A single read. `getChildren` is answered without a stat.
    Read { op: Read, watch: bool },
    /// Several reads with one reply.
    MultiRead(Vec<Read>),
    /// Reads a node's stat. The watch is set even if the node does not exist.
    Exists { path: String, watch: bool },
    /// Lists a node's children and reads its stat.
    GetChildren2 { path: String, watch: bool },
    /// Reads a node's access control list.
    GetAcl { path: String },
    /// Does nothing, but its reply comes after those of all earlier requests.
    Sync { path: String },
    /// Lists the session's own ephemeral nodes whose paths start with a prefix.
    GetEphemerals { prefix: Option<String> },
    /// Counts the nodes below a path.
    GetAllChildrenNumber { path: String },
    /// Re-arms the watches of the client's previous connection.
    SetWatches(SetWatches),
    /// Adds a persistent watch, which may be recursive.
    AddWatch { path: String, mode: i32 },
    /// Checks whether a watch is set.
    CheckWatches { path: String, kind: i32 },
    /// Removes a watch.
    RemoveWatches { path: String, kind: i32 },
    /// Lists the connection's identities.
    WhoAmI,
    /// Changes the members of an ensemble. This server rejects it.
    Reconfig,
    /// A request whose body could not be decoded. As in the real server, a malformed multi uses up a transaction id.
    Malformed { multi: bool },
    /// An operation that this server does not support, by its number.
    Unsupported(i32),
}

impl Request {
    /// The name of the operation in the response to the four-letter word `cons`.
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
            Request::SetWatches(watches) if watches.persistent.is_empty() && watches.recursive.is_empty() => {
                "SETW"
            }
            // Clients send `setWatches2` only with watches that `setWatches` does not have.
            Request::SetWatches(_) => "STW2",
            Request::AddWatch { .. } => "ADDW",
            Request::CheckWatches { .. } => "CHKW",
            Request::RemoveWatches { .. } => "REMW",
            Request::WhoAmI => "HOMI",
            Request::Reconfig => "RECO",
            Request::Auth { .. } | Request::Malformed { .. } | Request::Unsupported(_) => "NA",
        }
    }
}

/// A request that changes a node, or checks a version as part of a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub enum Write {
    /// Creates a node.
    Create { kind: CreateKind, path: String, data: Data, acl: Vec<Acl>, flags: i32 },
    /// Deletes a node, which must have no children.
    Delete { path: String, version: i32 },
    /// Replaces a node's data.
    SetData { path: String, data: Data, version: i32 },
    /// Replaces a node's access control list.
    SetAcl { path: String, acl: Vec<Acl>, version: i32 },
    /// Fails unless the node exists and has this version.
    Check { path: String, version: i32 },
}

/// One of the four operations that create a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateKind {
    /// `create`, answered with the path.
    Plain,
    /// `create2`, answered with the path and the stat.
    WithStat,
    /// `createContainer`.
    Container,
    /// `createTTL`, with the TTL in milliseconds.
    Ttl(i64),
}

/// A read that can be part of a `multiRead`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub enum Read {
    /// Reads a node's data and stat.
    GetData { path: String },
    /// Lists the names of a node's children.
    GetChildren { path: String },
}

/// The watches that a client had on its previous connection, and the last transaction that it saw there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetWatches {
    /// The last transaction that the client saw. It gets events for later changes at once.
    pub relative_zxid: i64,
    /// One-shot watches set by `getData`, or by `exists` on nodes that existed.
    pub data: Vec<String>,
    /// One-shot watches set by `exists` on nodes that did not exist.
    pub exist: Vec<String>,
    /// One-shot watches set by `getChildren`.
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
    /// Who has these permissions.
    pub id: Id,
}

/// An identity in an authentication scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// `world`, `auth`, `digest` or `ip`.
    pub scheme: String,
    /// `anyone`, `name:hash` or an IP address, depending on the scheme.
    pub id: String,
}

impl Id {
    /// The length of the scheme and the id together, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.scheme.len() + self.id.len()
    }
}

/// The metadata of a node.
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
    /// No body, only the header.
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
    /// `getAllChildrenNumber`, and `addWatch`, which is answered with zero.
    Number(i32),
    /// `getEphemerals`.
    Paths(Vec<Arc<str>>),
    /// `whoAmI`: the schemes and user names.
    Clients(Vec<Id>),
    /// `multi` and `multiRead`.
    Multi(Vec<OpResult>),
}

/// The result of one operation of a `multi` or `multiRead`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the result of the operation of that name")]
pub enum OpResult {
    Create(String),
    CreateStat(String, Stat),
    Delete,
    SetData(Stat),
    SetAcl(Stat),
    Check,
    GetData(Data, Stat),
    GetChildren(Vec<Arc<str>>),
    /// The operation failed, or was rolled back because another one failed: zero before the failed operation, −2 after
    /// it.
    Error(i32),
}

/// What happened to a watched node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EventKind {
    /// The node was created.
    Created = 1,
    /// The node was deleted.
    Deleted = 2,
    /// The node's data was changed.
    DataChanged = 3,
    /// A child of the node was created or deleted.
    ChildrenChanged = 4,
}

/// Why a request failed. The values are the protocol's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(i32)]
#[allow(missing_docs, reason = "the error messages document the variants")]
pub enum ErrorCode {
    #[error("an earlier operation of the multi failed")]
    RuntimeInconsistency = -2,
    #[error("the request body is malformed")]
    MarshallingError = -5,
    #[error("the server does not support this operation")]
    Unimplemented = -6,
    #[error("an argument of the request is invalid")]
    BadArguments = -8,
    #[error("the node does not exist")]
    NoNode = -101,
    #[error("the access control list does not permit the operation")]
    NoAuth = -102,
    #[error("the version of the node is not the expected one")]
    BadVersion = -103,
    #[error("ephemeral nodes cannot have children")]
    NoChildrenForEphemerals = -108,
    #[error("the node already exists")]
    NodeExists = -110,
    #[error("the node has children")]
    NotEmpty = -111,
    #[error("the access control list is invalid")]
    InvalidAcl = -114,
    #[error("authentication failed")]
    AuthFailed = -115,
    #[error("the watch does not exist")]
    NoWatcher = -121,
    #[error("reconfiguration is not enabled")]
    ReconfigDisabled = -123,
}
