//! A replica: a core of the embedded server, and the links between it and the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lockkeeper_embedded::machine::{Config, ConnectionId, Input, Moment, Output, Server};
use lockkeeper_embedded::wire::ConnectRequest;

use super::{Time, Wire};

pub(super) struct Replica {
    pub(super) core: Server,
    /// No client can connect before this time.
    pub(super) down_until: Time,
    pub(super) applied: usize,
    pub(super) from_leader: Lane,
    pub(super) to_leader: Lane,
    next_connection: u64,
    /// The connection of every session in this core. If the session's client is at another replica, it has no wire.
    pub(super) bound: BTreeMap<i64, ConnectionId>,
    /// The wires of the connections that have a client.
    pub(super) wires: BTreeMap<ConnectionId, Wire>,
    pub(super) touched: BTreeSet<i64>,
}

impl Replica {
    pub(super) fn new(config: Config) -> Replica {
        Replica {
            core: Server::new(config),
            down_until: 0,
            applied: 0,
            from_leader: Lane::default(),
            to_leader: Lane::default(),
            next_connection: 0,
            bound: BTreeMap::new(),
            wires: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }

    pub(super) fn connection(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection)
    }

    pub(super) fn connect(&mut self, connection: ConnectionId, request: ConnectRequest) -> Vec<Output> {
        let mut outputs =
            self.handle(Input::Opened { connection, peer: SocketAddr::from(([127, 0, 0, 1], 1)) });
        outputs.extend(self.handle(Input::Connect { connection, request }));
        outputs
    }

    pub(super) fn handle(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.core.handle(input, Moment(0), &mut outputs);
        outputs
    }
}

/// One direction of a link.
#[derive(Clone, Copy, Default)]
pub(super) struct Lane {
    pub(super) last: Time,
    pub(super) stalled: Time,
    pub(super) extra: Time,
}

impl Lane {
    pub(super) fn arrival(&mut self, at: Time) -> Time {
        self.last = self.last.max(at + self.extra).max(self.stalled);
        self.last
    }

    /// Keeps the order: packets sent later do not arrive before those that were held up.
    pub(super) fn passed(&mut self, held: bool, until: Time) {
        if held {
            self.last = self.last.max(until);
        }
    }
}

pub(super) fn no_session() -> ConnectRequest {
    ConnectRequest { last_zxid_seen: 0, timeout_ms: 0, session: 0, password: vec![0; 16], read_only: None }
}

pub(super) fn session_of(outputs: &[Output]) -> Option<(i64, [u8; 16])> {
    outputs.iter().find_map(|output| match output {
        Output::Connected { reply, .. } if reply.session != 0 => Some((reply.session, reply.password)),
        _ => None,
    })
}
