//! A simulated ensemble and the network in front of it, in virtual time.
//!
//! Every replica is a core of the embedded server, and all apply the same log in the leader's order, each when the log
//! reaches it. So a follower that lags answers reads from an older state; its clients' writes are answered, and its
//! watches fire, once it has applied them. Time does not advance inside the cores. The leader tracks the sessions, as
//! in ZooKeeper: the sessions of a follower's clients are touched by the answers to the leader's pings, every half
//! tick. So a follower that is cut off from the leader serves sessions that the leader lets expire. A leader that is cut
//! off is deposed: the others elect another one, and until it notices, it answers reads and syncs from its old state.
//!
//! Every link is first-in-first-out, and takes at least [`LATENCY`] between a client and its server.

mod faults;
mod log;
mod nodes;
mod replica;
mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockkeeper_embedded::machine::{Config, ConnectionId, Input, Output};
use lockkeeper_embedded::wire::{ConnectReply, ConnectRequest, ErrorCode, EventKind, Reply, Request};

pub use self::faults::Deposed;
use self::log::Entry;
pub use self::nodes::{Gone, Node, actor_of};
use self::replica::{Lane, Replica, no_session, session_of};
use crate::random::Random;

/// Virtual milliseconds.
pub type Time = u64;

/// The minimum time from a client to its server or back. Every process can run this long without the others.
pub const LATENCY: Time = 50;
pub const SESSION_TIMEOUT: Time = 6000;
pub const TICK: Time = 600;
/// How long a leader that has lost its quorum continues to serve, at most. Longer than a session timeout, as a
/// `syncLimit` of five ticks is for a session of two.
pub const SYNC_LIMIT: Time = 15 * TICK;

/// Identifies a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wire(u64);

#[derive(Clone, Debug)]
pub enum Up {
    Connect(ConnectRequest),
    Request { xid: i32, request: Request },
}

#[derive(Clone, Debug)]
pub enum Down {
    Connected(ConnectReply),
    Reply { xid: i32, zxid: i64, result: Result<Reply, ErrorCode> },
    Event { kind: EventKind, path: String },
    Closed,
}

pub struct Ensemble {
    now: Time,
    sequence: u64,
    random: Random,
    occurrences: BTreeMap<(Time, u64), Occurrence>,
    /// Packets in flight to each process.
    deliveries: Vec<BTreeMap<(Time, u64), (Wire, Down)>>,
    wires: BTreeMap<Wire, Connection>,
    /// The only replica that each process can reach, if it is cut off from the others.
    islands: Vec<Option<usize>>,
    /// The additional time that answers take to each process.
    slow: Vec<Time>,
    replicas: Vec<Replica>,
    leader: usize,
    /// A former leader that is cut off from the others.
    deposed: Option<usize>,
    log: Vec<Entry>,
    /// The live sessions, as known to the leader.
    sessions: BTreeMap<i64, Tracked>,
    passwords: BTreeMap<i64, [u8; 16]>,
    /// The sessions that their clients have given up.
    given_up: BTreeSet<i64>,
    /// The actors of paths that died, with the session that is used to clean up after them.
    dead: Vec<(String, i64)>,
    operator: i64,
    /// How many changes the operator has made.
    operated: u64,
    /// Contenders' nodes, as known to the leader.
    pub nodes: BTreeMap<String, Node>,
    pub gone: BTreeMap<String, Gone>,
    /// One line for each entry of the log; `None` if it is not recorded.
    pub history: Option<Vec<String>>,
}

struct Connection {
    process: usize,
    replica: usize,
    core: ConnectionId,
    session: Option<i64>,
    /// Requests that have arrived and are not answered yet.
    waiting: VecDeque<(i32, Request)>,
    up: Lane,
    down: Lane,
    /// Whether the server's side is open.
    open: bool,
    /// Whether the client's side is closed.
    hung_up: bool,
    /// Whether all packets are lost, in both directions, without an error.
    half_open: bool,
}

struct Tracked {
    timeout: Time,
    ends: Time,
    /// The connection whose writes count.
    owner: Option<Wire>,
}

enum Occurrence {
    Arrive(Wire, Up),
    HungUp(Wire),
    AtLeader(Wire, Up),
    /// The leader's answer whether a session to be resumed is alive.
    Validated {
        wire: Wire,
        request: ConnectRequest,
        alive: bool,
    },
    Learn {
        replica: usize,
        upto: usize,
    },
    LeaderPings,
    PingArrives(usize),
    Touched(BTreeSet<i64>),
    Expiry,
    /// A deposed leader notices.
    StepsDown,
    /// It can reach the others again.
    Rejoins,
}

impl Ensemble {
    pub fn new(mut random: Random, replicas: usize, processes: usize) -> Ensemble {
        let config = Config {
            tick: ms(TICK),
            min_session_timeout: ms(2 * TICK),
            max_session_timeout: ms(20 * TICK),
            container_check: ms(60_000),
            extended_types: false,
            super_digest: None,
            handshake_timeout: ms(60_000),
            client_port: 2181,
            wall_clock: ms(1_700_000_000_000),
            secret: random.next(),
        };
        let mut ensemble = Ensemble {
            now: 0,
            sequence: 0,
            random,
            occurrences: BTreeMap::new(),
            deliveries: (0..processes).map(|_| BTreeMap::new()).collect(),
            wires: BTreeMap::new(),
            islands: vec![None; processes],
            slow: vec![0; processes],
            replicas: (0..replicas).map(|_| Replica::new(config.clone())).collect(),
            leader: 0,
            deposed: None,
            log: Vec::new(),
            sessions: BTreeMap::new(),
            passwords: BTreeMap::new(),
            given_up: BTreeSet::new(),
            dead: Vec::new(),
            operator: 0,
            operated: 0,
            nodes: BTreeMap::new(),
            gone: BTreeMap::new(),
            history: None,
        };
        ensemble.order(Entry::Begin { wire: None, timeout: SESSION_TIMEOUT });
        ensemble.operator = ensemble.sessions.keys().next().copied().unwrap_or_default();
        ensemble.sessions.clear();
        ensemble.at(TICK / 2, Occurrence::LeaderPings);
        ensemble.at(TICK, Occurrence::Expiry);
        ensemble
    }

    // ---- for clients ----

    pub fn open(&mut self, process: usize) -> Wire {
        let any = self.random.between(0, self.replicas.len() as u64 - 1) as usize;
        let replica = self.islands[process].unwrap_or(any);
        self.sequence += 1;
        let (wire, core) = (Wire(self.sequence), self.replicas[replica].connection());
        let connection = Connection {
            process,
            replica,
            core,
            session: None,
            waiting: VecDeque::new(),
            up: Lane::default(),
            down: Lane { extra: self.slow[process], ..Lane::default() },
            open: true,
            hung_up: false,
            half_open: false,
        };
        self.wires.insert(wire, connection);
        wire
    }

    pub fn send(&mut self, wire: Wire, now: Time, packet: Up) {
        let latency = self.latency();
        let Some(connection) = self.wires.get_mut(&wire).filter(|c| !c.half_open && !c.hung_up) else {
            return;
        };
        let arrival = connection.up.arrival(now + latency);
        self.at(arrival, Occurrence::Arrive(wire, packet));
    }

    /// Closes the client's side. The server learns of it after all packets sent before.
    pub fn hang_up(&mut self, wire: Wire, now: Time) {
        let latency = self.latency();
        let Some(connection) = self.wires.get_mut(&wire) else { return };
        connection.hung_up = true;
        if !connection.half_open {
            let arrival = connection.up.arrival(now + latency);
            self.at(arrival, Occurrence::HungUp(wire));
        }
    }

    pub fn next_delivery(&self, process: usize) -> Option<Time> {
        self.deliveries[process].keys().next().map(|(at, _)| *at)
    }

    pub fn take_delivery(&mut self, process: usize, upto: Time) -> Option<(Wire, Down)> {
        self.deliveries[process]
            .first_entry()
            .filter(|first| first.key().0 <= upto)
            .map(|first| first.remove())
    }

    // ---- time ----

    /// Processes all events before `until`.
    pub fn run(&mut self, until: Time) {
        while let Some(first) = self.occurrences.first_entry().filter(|first| first.key().0 < until) {
            let ((at, _), occurrence) = first.remove_entry();
            self.now = self.now.max(at);
            self.happen(occurrence);
        }
        self.now = until;
    }

    fn happen(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Arrive(wire, packet) => self.arrive(wire, packet),
            Occurrence::HungUp(wire) => self.close(wire),
            Occurrence::AtLeader(wire, packet) => self.at_leader(wire, packet),
            Occurrence::Validated { wire, request, alive } => self.validated(wire, request, alive),
            Occurrence::Learn { replica, upto } => self.learn(replica, upto),
            Occurrence::LeaderPings => {
                for follower in self.followers() {
                    let arrival = self.replicas[follower].from_leader.arrival(self.now + 1);
                    self.at(arrival, Occurrence::PingArrives(follower));
                }
                self.at(self.now + TICK / 2, Occurrence::LeaderPings);
            }
            Occurrence::PingArrives(follower) => {
                let replica = &mut self.replicas[follower];
                let touched = std::mem::take(&mut replica.touched);
                let arrival = replica.to_leader.arrival(self.now + 1);
                self.at(arrival, Occurrence::Touched(touched));
            }
            Occurrence::Touched(sessions) => sessions.into_iter().for_each(|session| self.touch(session)),
            Occurrence::Expiry => {
                let over =
                    |(session, tracked): (&i64, &Tracked)| (tracked.ends <= self.now).then_some(*session);
                let over: Vec<i64> = self.sessions.iter().filter_map(over).collect();
                for session in over {
                    self.order(Entry::Expire { session, tampered: false });
                }
                self.at(self.now + TICK, Occurrence::Expiry);
            }
            Occurrence::StepsDown => self.step_down(),
            Occurrence::Rejoins => self.rejoin(),
        }
    }

    /// The replicas that the leader can reach.
    fn followers(&self) -> Vec<usize> {
        let others = (0..self.replicas.len()).filter(|other| *other != self.leader);
        others.filter(|other| Some(*other) != self.deposed).collect()
    }

    /// Sends a core's outputs to clients. An answer goes only to the connection that sent the request, not to a later
    /// one of the same session.
    fn deliver(&mut self, at: usize, outputs: Vec<Output>, asked: Option<Wire>) {
        let mut answered = Vec::new();
        for output in outputs {
            let replica = &mut self.replicas[at];
            match output {
                Output::Connected { connection, reply } => {
                    if let Some(wire) = replica.wires.get(&connection).copied() {
                        self.down(wire, Down::Connected(reply));
                    }
                }
                Output::Reply { connection, xid, zxid, result } => {
                    let wire = replica.wires.get(&connection).copied();
                    let Some(wire) = wire.filter(|wire| asked == Some(*wire)) else { continue };
                    let waiting = self.wires.get_mut(&wire).and_then(|c| c.waiting.pop_front());
                    assert_eq!(waiting.map(|(xid, _)| xid), Some(xid), "answers come in the requests' order");
                    self.down(wire, Down::Reply { xid, zxid, result });
                    answered.push(wire);
                }
                Output::Event { connection, kind, path, .. } => {
                    if let Some(wire) = replica.wires.get(&connection).copied() {
                        self.down(wire, Down::Event { kind, path });
                    }
                }
                Output::Close { connection, .. } => {
                    replica.bound.retain(|_, bound| *bound != connection);
                    let Some(wire) = replica.wires.remove(&connection) else { continue };
                    if let Some(connection) = self.wires.get_mut(&wire) {
                        connection.open = false;
                    }
                    self.down(wire, Down::Closed);
                }
                Output::Text { .. } => {}
            }
        }
        // Reads that waited behind a write can be answered now.
        answered.into_iter().for_each(|wire| self.serve(wire));
    }

    fn down(&mut self, wire: Wire, packet: Down) {
        let latency = self.latency();
        let Some(connection) = self.wires.get_mut(&wire).filter(|c| !c.half_open && !c.hung_up) else {
            return;
        };
        let arrival = connection.down.arrival(self.now + latency);
        let process = connection.process;
        self.sequence += 1;
        self.deliveries[process].insert((arrival, self.sequence), (wire, packet));
    }

    /// Closes the server's side of a connection. The session continues.
    fn close(&mut self, wire: Wire) {
        let Some(connection) = self.wires.get_mut(&wire) else { return };
        if !std::mem::replace(&mut connection.open, false) {
            return;
        }
        connection.waiting.clear();
        let (at, core, session) = (connection.replica, connection.core, connection.session);
        let replica = &mut self.replicas[at];
        replica.wires.remove(&core);
        replica.handle(Input::Closed { connection: core });
        let Some(session) = session.filter(|session| replica.bound.get(session) == Some(&core)) else {
            return;
        };
        replica.bound.remove(&session);
        let nobody = replica.connection();
        let password = self.passwords.get(&session).map(|password| password.to_vec()).unwrap_or_default();
        let request = ConnectRequest { session, password, ..no_session() };
        if session_of(&replica.connect(nobody, request)).is_some() {
            replica.bound.insert(session, nobody);
        }
    }

    pub fn live_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The number of watches on all servers.
    pub fn watches(&self) -> usize {
        self.replicas.iter().flat_map(|replica| replica.core.sessions()).map(|session| session.watches).sum()
    }

    fn latency(&mut self) -> Time {
        LATENCY + self.random.between(0, 2 * LATENCY)
    }

    fn at(&mut self, time: Time, occurrence: Occurrence) {
        self.sequence += 1;
        self.occurrences.insert((time, self.sequence), occurrence);
    }
}

fn ms(milliseconds: u64) -> std::time::Duration {
    std::time::Duration::from_millis(milliseconds)
}
