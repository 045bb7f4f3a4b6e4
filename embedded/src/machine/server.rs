//! The server: its sessions and connections. The modules `read` and `write` process the requests that read or change
//! nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::connection::{Connection, LastOperation, Packets, Phase};
use super::session::{Caller, Sessions};
use super::tree::{Stamp, Tree};
use super::watch::Watches;
use super::{CloseReason, ConnectionId, Input, Moment, Output, SessionId, acl};
use crate::wire::{ConnectReply, ConnectRequest, ErrorCode, EventKind, Id, Reply, Request, Word};

/// The configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The basic time unit. Sessions expire at multiples of it.
    pub tick: Duration,
    /// The shortest session timeout that the server grants.
    pub min_session_timeout: Duration,
    /// The longest session timeout that the server grants.
    pub max_session_timeout: Duration,
    /// How long after its last child was deleted a container node is deleted.
    pub container_check: Duration,
    /// Whether clients can create nodes with a TTL.
    pub extended_types: bool,
    /// The digest of the super user, as `name:hash`. The super user bypasses all access control lists.
    pub super_digest: Option<String>,
    /// How long a new connection may take to send a complete connect request.
    pub handshake_timeout: Duration,
    /// The port that the four-letter word `conf` reports.
    pub client_port: u16,
    /// The wall clock at moment zero, since the Unix epoch. It determines the times in stats. Transaction ids and
    /// session ids start from it too, so that they are higher than those of earlier runs.
    pub wall_clock: Duration,
    /// The secret from which session passwords are computed.
    pub secret: u64,
}

/// The complete state of a server. See the [module](super).
pub struct Server {
    pub(super) config: Config,
    pub(super) tree: Tree,
    pub(super) data_watches: Watches,
    pub(super) child_watches: Watches,
    pub(super) sessions: Sessions,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    /// The connections that have not sent a connect request yet, by their handshake deadline.
    handshakes: BTreeSet<(Moment, ConnectionId)>,
    pub(super) last_zxid: i64,
    pub(super) packets: Packets,
}

/// Information about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session's id.
    pub id: SessionId,
    /// The negotiated session timeout.
    pub timeout: Duration,
    /// The address of the client, if it is connected.
    pub peer: Option<SocketAddr>,
    /// The number of the session's ephemeral nodes.
    pub ephemerals: usize,
    /// The number of watches on the session's connection.
    pub watches: usize,
}

impl Server {
    /// Creates a server that has only the initial nodes.
    pub fn new(config: Config) -> Server {
        Server {
            tree: Tree::new(config.container_check),
            data_watches: Watches::default(),
            child_watches: Watches::default(),
            sessions: Sessions::new(config.tick, config.wall_clock, config.secret),
            connections: BTreeMap::new(),
            handshakes: BTreeSet::new(),
            // No server starts twice in a microsecond or executes a thousand transactions in one, so ids of
            // different runs never collide. They stay positive until the year 2255.
            last_zxid: i64::try_from(config.wall_clock.as_micros() << 10).unwrap_or(0),
            packets: Packets::default(),
            config,
        }
    }

    /// Processes one input and appends the resulting outputs to `out`.
    pub fn handle(&mut self, input: Input, now: Moment, out: &mut Vec<Output>) {
        // An expiry is forced. On a server that is down it must not expire anything else.
        if !matches!(input, Input::Expire { .. }) {
            self.pass_time(now, out);
        }
        match input {
            Input::Opened { connection, mut peer } => {
                // A listener for IPv6 shows its IPv4 clients with mapped addresses. The real server does not see these.
                peer.set_ip(peer.ip().to_canonical());
                let until = now + self.config.handshake_timeout;
                self.handshakes.insert((until, connection));
                let phase = Phase::Handshake(until);
                let identities = vec![acl::address(peer.ip())];
                let (packets, last) = (Packets::default(), LastOperation::default());
                let established = self.wall_clock(now);
                let opened = Connection { peer, phase, identities, packets, established, last };
                self.connections.insert(connection, opened);
            }
            Input::Closed { connection } => self.disconnect(connection),
            Input::Connect { connection, request } => self.connect(connection, &request, now, out),
            Input::Request { connection, xid, request } => {
                self.received(connection);
                let Some(Connection { phase, .. }) = self.connections.get(&connection) else { return };
                match *phase {
                    Phase::Handshake(_) => self.close(connection, CloseReason::OutOfOrder, out),
                    Phase::Session(session) => self.request(connection, session, xid, request, now, out),
                }
            }
            Input::Word { connection, word } => self.word(connection, word, now, out),
            Input::Expire { session } => {
                if self.sessions.get(session).is_some() {
                    self.end_session(session, CloseReason::SessionExpired, now, out);
                }
            }
            Input::Time => {}
        }
    }

    /// When [`Input::Time`] is due, if no other input comes before. It can be in the past.
    pub fn next_wake(&self) -> Option<Moment> {
        let handshake = self.handshakes.first().map(|(until, _)| *until);
        let node = self.tree.next_expiry().map(|time| self.moment_of(time));
        [self.sessions.next_expiry(), handshake, node].into_iter().flatten().min()
    }

    /// Simulates a restart that keeps nodes and sessions: removes all connections and starts the timeout of every
    /// session again.
    pub fn restart(&mut self, now: Moment) {
        self.disconnect_all();
        self.packets = Packets::default();
        self.sessions.restart(now);
    }

    /// Removes all connections with their watches. No time passes.
    pub(crate) fn disconnect_all(&mut self) {
        let connections: Vec<ConnectionId> = self.connections.keys().copied().collect();
        connections.into_iter().for_each(|connection| self.disconnect(connection));
    }

    /// Removes all nodes, sessions and connections. Transaction ids and session ids keep growing.
    pub fn reset(&mut self, now: Moment) {
        let mut config = self.config.clone();
        config.wall_clock += Duration::from_nanos(now.0);
        let new = Server::new(config);
        let last_zxid = new.last_zxid.max(self.last_zxid + 1);
        let sessions = new.sessions.after(&self.sessions);
        *self = Server { last_zxid, sessions, config: self.config.clone(), ..new };
    }

    /// Whether a session exists.
    pub fn has_session(&self, session: SessionId) -> bool {
        self.sessions.get(session).is_some()
    }

    /// The live sessions, oldest first.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let info = |(id, session): (SessionId, &super::session::Session)| SessionInfo {
            id,
            timeout: session.timeout,
            peer: session.connection.and_then(|connection| Some(self.connections.get(&connection)?.peer)),
            ephemerals: self.tree.ephemerals(id).count(),
            watches: session.connection.map_or(0, |connection| {
                self.data_watches.count_of(connection) + self.child_watches.count_of(connection)
            }),
        };
        self.sessions.iter().map(info).collect()
    }

    /// The id of the last transaction.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }
}

impl Server {
    fn pass_time(&mut self, now: Moment, out: &mut Vec<Output>) {
        while let Some(session) = self.sessions.expired(now) {
            self.end_session(session, CloseReason::SessionExpired, now, out);
        }
        self.remove_expired_nodes(now, out);
        while let Some((_, connection)) = self.handshakes.first().copied().filter(|(until, _)| *until <= now)
        {
            self.close(connection, CloseReason::HandshakeTimeout, out);
        }
    }

    fn connect(
        &mut self,
        connection: ConnectionId,
        request: &ConnectRequest,
        now: Moment,
        out: &mut Vec<Output>,
    ) {
        self.received(connection);
        match self.connections.get(&connection) {
            None => return,
            Some(Connection { phase: Phase::Session(_), .. }) => {
                return self.close(connection, CloseReason::OutOfOrder, out);
            }
            Some(Connection { phase: Phase::Handshake(until), .. }) => {
                self.handshakes.remove(&(*until, connection));
            }
        }
        if request.last_zxid_seen > self.last_zxid {
            return self.close(connection, CloseReason::ClientAhead, out);
        }
        let wanted = Duration::from_millis(request.timeout_ms.try_into().unwrap_or(0));
        let timeout = wanted.max(self.config.min_session_timeout).min(self.config.max_session_timeout);
        let session = if request.session == 0 {
            self.last_zxid += 1;
            self.record_operation(connection, "SESS", 0, now);
            Ok(self.sessions.create(timeout, connection, now))
        } else {
            self.resume(connection, request, timeout, now, out)
        };
        let reply = match session {
            Ok(session) => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.phase = Phase::Session(session);
                }
                let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
                let password = self.sessions.password(session);
                ConnectReply {
                    timeout_ms,
                    session: session.0,
                    password,
                    tells_read_only: request.read_only.is_some(),
                }
            }
            Err(_) => ConnectReply {
                timeout_ms: 0,
                session: 0,
                password: [0; 16],
                tells_read_only: request.read_only.is_some(),
            },
        };
        self.sent(connection);
        out.push(Output::Connected { connection, reply });
        if let Err(reason) = session {
            self.close(connection, reason, out);
        }
    }

    fn resume(
        &mut self,
        connection: ConnectionId,
        request: &ConnectRequest,
        timeout: Duration,
        now: Moment,
        out: &mut Vec<Output>,
    ) -> Result<SessionId, CloseReason> {
        let id = SessionId(request.session);
        // Like the real server, close the old connection first, even if the password is wrong.
        if let Some(earlier) = self.sessions.get(id).and_then(|session| session.connection) {
            self.close(earlier, CloseReason::SessionMoved, out);
        }
        if request.password != self.sessions.password(id) {
            return Err(CloseReason::WrongPassword);
        }
        if self.sessions.get(id).is_none() {
            return Err(CloseReason::UnknownSession);
        }
        self.sessions.resume(id, timeout, connection, now);
        Ok(id)
    }

    fn request(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        xid: i32,
        request: Request,
        now: Moment,
        out: &mut Vec<Output>,
    ) {
        if let Request::Auth { scheme, auth } = request {
            return self.authenticate(connection, xid, &scheme, auth.as_deref(), out);
        }
        self.sessions.touch(session, now);
        let caller = Caller { connection, session };
        let operation = request.abbreviation();
        let result = match request {
            Request::Ping => Ok(Reply::Empty),
            Request::CloseSession => {
                self.remove_session(session, now, out);
                self.reply(connection, xid, Ok(Reply::Empty), out);
                return self.close(connection, CloseReason::SessionClosed, out);
            }
            Request::Unsupported(_) => {
                self.sent(connection);
                let result = Err(ErrorCode::Unimplemented);
                out.push(Output::Reply { connection, xid, zxid: -1, result });
                return self.close(connection, CloseReason::Unimplemented, out);
            }
            Request::Malformed { multi } => {
                self.last_zxid += i64::from(multi);
                Err(ErrorCode::MarshallingError)
            }
            Request::Write(write) => self.write(caller, write, now, out),
            Request::Multi(writes) => self.multi(caller, writes, now, out),
            Request::Reconfig => {
                self.last_zxid += 1;
                Err(ErrorCode::ReconfigDisabled)
            }
            read => self.read(caller, read, out),
        };
        self.record_operation(connection, operation, xid, now);
        self.reply(connection, xid, result, out);
    }

    fn authenticate(
        &mut self,
        id: ConnectionId,
        xid: i32,
        scheme: &str,
        credentials: Option<&[u8]>,
        out: &mut Vec<Output>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let super_digest = self.config.super_digest.as_deref();
        let proven = acl::authenticate(scheme, credentials, connection.peer.ip(), super_digest);
        let succeeds =
            !proven.is_empty() && proven.into_iter().all(|identity| connection.add_identity(identity));
        let result = if succeeds { Ok(Reply::Empty) } else { Err(ErrorCode::AuthFailed) };
        let failed = result.is_err();
        self.sent(id);
        out.push(Output::Reply { connection: id, xid, zxid: 0, result });
        if failed {
            self.close(id, CloseReason::AuthFailed, out);
        }
    }

    /// Removes a session and closes its connection, if it has one.
    fn end_session(&mut self, session: SessionId, reason: CloseReason, now: Moment, out: &mut Vec<Output>) {
        let connection = self.sessions.get(session).and_then(|session| session.connection);
        self.remove_session(session, now, out);
        if let Some(connection) = connection {
            self.close(connection, reason, out);
        }
    }

    /// Removes a session and its ephemeral nodes in one transaction.
    fn remove_session(&mut self, session: SessionId, now: Moment, out: &mut Vec<Output>) {
        let at = self.next_stamp(now);
        self.sessions.remove(session);
        let paths: Vec<_> = self.tree.ephemerals(session).cloned().collect();
        for path in paths {
            self.remove_node(&path, at, out);
        }
    }

    /// Removes a connection and tells the driver to close it.
    pub(super) fn close(&mut self, connection: ConnectionId, reason: CloseReason, out: &mut Vec<Output>) {
        self.disconnect(connection);
        out.push(Output::Close { connection, reason });
    }

    /// Removes a connection and its watches.
    fn disconnect(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        match connection.phase {
            Phase::Handshake(until) => {
                self.handshakes.remove(&(until, id));
            }
            Phase::Session(session) => self.sessions.disconnect(session, id),
        }
        self.data_watches.disconnect(id);
        self.child_watches.disconnect(id);
    }

    fn reply(
        &mut self,
        connection: ConnectionId,
        xid: i32,
        result: Result<Reply, ErrorCode>,
        out: &mut Vec<Output>,
    ) {
        self.sent(connection);
        out.push(Output::Reply { connection, xid, zxid: self.last_zxid, result });
    }

    pub(super) fn event(
        &mut self,
        connection: ConnectionId,
        zxid: i64,
        kind: EventKind,
        path: &str,
        out: &mut Vec<Output>,
    ) {
        self.sent(connection);
        out.push(Output::Event { connection, zxid, kind, path: path.to_owned() });
    }

    fn word(&mut self, connection: ConnectionId, word: Word, now: Moment, out: &mut Vec<Output>) {
        self.received(connection);
        let text = self.answer(connection, word, now);
        self.sent(connection);
        out.push(Output::Text { connection, text });
        self.close(connection, CloseReason::WordAnswered, out);
    }

    /// Records the last operation on a connection.
    fn record_operation(&mut self, connection: ConnectionId, operation: &'static str, xid: i32, now: Moment) {
        if let Some(Connection { last, .. }) = self.connections.get_mut(&connection) {
            let cxid = (xid >= 0).then_some(xid).or(last.cxid);
            *last = LastOperation { operation, cxid, zxid: self.last_zxid, at: now };
        }
    }

    fn received(&mut self, connection: ConnectionId) {
        self.packets.received += 1;
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.packets.received += 1;
        }
    }

    fn sent(&mut self, connection: ConnectionId) {
        self.packets.sent += 1;
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.packets.sent += 1;
        }
    }

    /// The wall-clock time at a moment, in milliseconds since the Unix epoch.
    pub(super) fn wall_clock(&self, now: Moment) -> i64 {
        i64::try_from((self.config.wall_clock + Duration::from_nanos(now.0)).as_millis()).unwrap_or(i64::MAX)
    }

    /// The moment at a wall-clock time. The inverse of `wall_clock`.
    fn moment_of(&self, time: i64) -> Moment {
        let time = Duration::from_millis(u64::try_from(time).unwrap_or(0));
        Moment::default() + time.saturating_sub(self.config.wall_clock)
    }

    /// Starts the next transaction.
    pub(super) fn next_stamp(&mut self, now: Moment) -> Stamp {
        self.last_zxid += 1;
        Stamp { zxid: self.last_zxid, time: self.wall_clock(now) }
    }

    pub(super) fn identities(&self, connection: ConnectionId) -> &[Id] {
        self.connections.get(&connection).map_or(&[], |connection| &connection.identities)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("last_zxid", &self.last_zxid).finish_non_exhaustive()
    }
}
