//! For any sequence of requests, over any number of connections and any time, the machine answers each request exactly
//! once, on the right connection, and each of its outputs can be encoded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lockkeeper_embedded::machine::{Config, ConnectionId, Input, Moment, Output, Server, SessionId};
use lockkeeper_embedded::wire::{ConnectRequest, Word, decode, encode};

pub fn check(bytes: &[u8]) {
    let config = Config {
        tick: Duration::from_millis(100),
        min_session_timeout: Duration::from_millis(200),
        max_session_timeout: Duration::from_secs(2),
        container_check: Duration::from_millis(300),
        extended_types: true,
        super_digest: None,
        handshake_timeout: Duration::from_millis(500),
        client_port: 2181,
        wall_clock: Duration::from_secs(1_700_000_000),
        secret: 7,
    };
    let mut run = Run {
        server: Server::new(config),
        now: Moment::default(),
        last_connection: 0,
        open: BTreeMap::new(),
        known: Vec::new(),
        buffer: Vec::new(),
    };
    let mut steps = Steps(bytes);
    while run.step(&mut steps).is_some() {}
    run.end();
}

/// The fuzzer's input: a list of steps. Each has one byte for the kind of step, one that selects a connection or
/// session, and further bytes that depend on the kind.
struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A byte with a length, and that many bytes, or all remaining ones if there are fewer.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(taken)
    }
}

/// The server and the state of its driver.
struct Run {
    server: Server,
    now: Moment,
    last_connection: u64,
    /// The open connections, with their session if they have one.
    open: BTreeMap<ConnectionId, Option<SessionId>>,
    /// All sessions created so far, with their passwords.
    known: Vec<(SessionId, [u8; 16])>,
    buffer: Vec<u8>,
}

impl Run {
    fn step(&mut self, steps: &mut Steps<'_>) -> Option<()> {
        let (kind, target) = (steps.byte()?, steps.byte()?);
        match kind % 12 {
            0 => self.open(),
            1 => self.connect(target, 0, Vec::new()),
            2 => {
                let (session, password) = self.known.get(usize::from(target) % self.known.len().max(1))?;
                let (session, password) = (session.0, password.to_vec());
                self.connect(steps.byte()?, session, password);
            }
            3 => {
                let request = decode::connect_request(steps.bytes()?).ok();
                if let (Some(connection), Some(request)) = (self.connection(target), request) {
                    self.input(Input::Connect { connection, request });
                }
            }
            4 => {
                if let Some(connection) = self.connection(target) {
                    self.open.remove(&connection);
                    self.input(Input::Closed { connection });
                }
            }
            5 => {
                // Four random bytes rarely form a word.
                let words = [
                    *b"ruok", *b"srvr", *b"stat", *b"mntr", *b"cons", *b"isro", *b"dump", *b"wchs", *b"conf",
                ];
                let word = Word::from_bytes(words[usize::from(steps.byte()?) % words.len()]).expect("a word");
                if let Some(connection) = self.connection(target) {
                    self.input(Input::Word { connection, word });
                }
            }
            6 => {
                if let Some((session, _)) = self.known.get(usize::from(target)).copied() {
                    self.input(Input::Expire { session });
                    assert!(!self.server.has_session(session));
                }
            }
            7 => {
                self.now = self.now + Duration::from_millis(u64::from(target) * 4);
                self.input(Input::Time);
            }
            8 if target == 255 => {
                self.server.restart(self.now);
                self.open.clear();
            }
            _ => {
                if let (Some(connection), Ok((xid, request))) =
                    (self.connection(target), decode::request(steps.bytes()?))
                {
                    self.input(Input::Request { connection, xid, request });
                }
            }
        }
        Some(())
    }

    fn open(&mut self) {
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        self.open.insert(connection, None);
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        self.input(Input::Opened { connection, peer });
    }

    fn connect(&mut self, target: u8, session: i64, password: Vec<u8>) {
        let Some(connection) = self.connection(target) else { return };
        let request =
            ConnectRequest { last_zxid_seen: 0, timeout_ms: 1000, session, password, read_only: Some(false) };
        self.input(Input::Connect { connection, request });
    }

    /// Selects one of the open connections.
    fn connection(&self, target: u8) -> Option<ConnectionId> {
        self.open.keys().nth(usize::from(target) % self.open.len().max(1)).copied()
    }

    /// Passes an input to the machine and checks the outputs.
    fn input(&mut self, input: Input) {
        let asked = match &input {
            Input::Request { connection, xid, .. }
                if self.open.get(connection).is_some_and(Option::is_some) =>
            {
                Some((*connection, *xid))
            }
            _ => None,
        };
        let before = self.server.last_zxid();
        let mut outputs = Vec::new();
        self.server.handle(input, self.now, &mut outputs);
        assert!(self.server.last_zxid() >= before, "the transaction id decreased");
        let (mut answers, mut closed) = (0, BTreeSet::new());
        for output in outputs {
            let connection = self.encode(&output);
            assert!(!closed.contains(&connection), "{output:?} comes after the connection was closed");
            assert!(
                self.open.contains_key(&connection),
                "{output:?} is for a connection that does not exist"
            );
            match output {
                Output::Connected { reply, .. } if reply.session != 0 => {
                    let session = SessionId(reply.session);
                    assert!(self.server.has_session(session));
                    self.known.push((session, reply.password));
                    self.open.insert(connection, Some(session));
                }
                Output::Reply { xid, .. } => {
                    assert_eq!(Some((connection, xid)), asked, "a reply without a request");
                    answers += 1;
                }
                Output::Close { .. } => {
                    closed.insert(connection);
                }
                Output::Connected { .. } | Output::Event { .. } | Output::Text { .. } => {}
            }
        }
        // There is no reply if the session expires at the time of the request.
        let unanswered = asked.filter(|(connection, _)| !closed.contains(connection)).is_some();
        assert!(answers == 1 || answers == 0 && !unanswered, "{answers} replies to one request");
        self.open.retain(|connection, _| !closed.contains(connection));
        self.check_sessions();
    }

    /// Encodes an output as the driver would. Returns its connection.
    fn encode(&mut self, output: &Output) -> ConnectionId {
        self.buffer.clear();
        let connection = match output {
            Output::Connected { connection, reply } => {
                encode::connect_reply(reply, &mut self.buffer);
                connection
            }
            Output::Reply { connection, xid, zxid, result } => {
                encode::reply(*xid, *zxid, result, &mut self.buffer);
                connection
            }
            Output::Event { connection, zxid, kind, path } => {
                encode::event(*kind, path, *zxid, &mut self.buffer);
                connection
            }
            Output::Text { connection, .. } | Output::Close { connection, .. } => return *connection,
        };
        let length = self.buffer.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        assert_eq!(length, Some(self.buffer.len() - 4), "the length prefix of a frame is wrong");
        *connection
    }

    fn check_sessions(&self) {
        let live: BTreeSet<SessionId> =
            self.server.sessions().into_iter().map(|session| session.id).collect();
        let connected: Vec<SessionId> = self.open.values().flatten().copied().collect();
        assert!(connected.iter().all(|session| live.contains(session)), "a connection outlives its session");
        let different: BTreeSet<&SessionId> = connected.iter().collect();
        assert_eq!(different.len(), connected.len(), "two connections have one session");
    }

    /// Closes all connections and checks that all sessions expire.
    fn end(mut self) {
        for connection in std::mem::take(&mut self.open).into_keys() {
            self.input_without_outputs(Input::Closed { connection });
        }
        self.now = self.now + Duration::from_secs(10);
        self.input_without_outputs(Input::Time);
        assert!(self.server.sessions().is_empty(), "a session did not expire");
        assert!(self.server.next_wake().is_none_or(|wake| wake > self.now), "a wake-up is still due");
    }

    fn input_without_outputs(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.server.handle(input, self.now, &mut outputs);
        assert!(outputs.is_empty(), "outputs without a connection: {outputs:?}");
    }
}
