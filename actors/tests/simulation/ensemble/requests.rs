//! Requests of clients: a replica answers reads, and sends the rest to the leader, which orders it.

use lockkeeper_embedded::SessionId;
use lockkeeper_embedded::machine::Input;
use lockkeeper_embedded::wire::{ConnectReply, ConnectRequest, Request};

use super::log::Entry;
use super::{Connection, Down, Ensemble, Occurrence, TICK, Up, Wire};

impl Ensemble {
    pub(super) fn arrive(&mut self, wire: Wire, packet: Up) {
        let Some(connection) = self.wires.get_mut(&wire).filter(|connection| connection.open) else { return };
        let at = connection.replica;
        let replica = &mut self.replicas[at];
        match &packet {
            Up::Connect(request) => {
                if self.now < replica.down_until || request.last_zxid_seen > replica.core.last_zxid() {
                    connection.open = false;
                    return self.down(wire, Down::Closed);
                }
                let moved = |other: &Connection| other.open && other.session == Some(request.session);
                let earlier: Vec<Wire> = self
                    .wires
                    .iter()
                    .filter(|(_, other)| request.session != 0 && moved(other))
                    .map(|(wire, _)| *wire)
                    .collect();
                earlier.into_iter().for_each(|wire| self.close(wire));
                self.forward(wire, packet);
            }
            Up::Request { xid, request } => {
                let Some(session) = connection.session else { return };
                connection.waiting.push_back((*xid, request.clone()));
                replica.touched.insert(session);
                if at == self.leader {
                    self.touch(session);
                }
                match self.needs_leader(at, request) {
                    true => self.forward(wire, packet),
                    false => self.serve(wire),
                }
            }
        }
    }

    /// Answers reads, up to the first request that waits for the leader.
    pub(super) fn serve(&mut self, wire: Wire) {
        while let Some(connection) = self.wires.get(&wire).filter(|connection| connection.open) {
            let first = connection.waiting.front();
            let Some((xid, request)) = first.filter(|(_, r)| !self.needs_leader(connection.replica, r))
            else {
                return;
            };
            let input = Input::Request { connection: connection.core, xid: *xid, request: request.clone() };
            let (replica, core) = (connection.replica, connection.core);
            let outputs = self.replicas[replica].handle(input);
            assert!(!outputs.is_empty(), "{core:?} of {wire:?} did not answer");
            self.deliver(replica, outputs, Some(wire));
        }
    }

    fn forward(&mut self, wire: Wire, packet: Up) {
        let replica = self.wires[&wire].replica;
        match packet {
            Up::Connect(request) if Some(replica) == self.deposed => {
                // It resumes the sessions that it knows. A new session needs the quorum.
                if request.session != 0 {
                    let alive = self.replicas[replica].core.has_session(SessionId(request.session));
                    self.at(self.now + 1, Occurrence::Validated { wire, request, alive });
                }
            }
            // Waits for the quorum for ever.
            Up::Request { .. } if Some(replica) == self.deposed => {}
            packet if replica == self.leader => self.at_leader(wire, packet),
            packet => {
                let arrival = self.replicas[replica].to_leader.arrival(self.now + 1);
                self.at(arrival, Occurrence::AtLeader(wire, packet));
            }
        }
    }

    pub(super) fn at_leader(&mut self, wire: Wire, packet: Up) {
        match packet {
            Up::Connect(request) if request.session == 0 => {
                let timeout = (request.timeout_ms.max(0) as u64).clamp(2 * TICK, 20 * TICK);
                self.order(Entry::Begin { wire: Some(wire), timeout });
            }
            Up::Connect(request) => {
                self.touch(request.session);
                if let Some(tracked) = self.sessions.get_mut(&request.session) {
                    tracked.owner = Some(wire);
                }
                let alive = self.sessions.contains_key(&request.session);
                // Takes the same link as the log, but without the lag: entries of the log may have arrived without
                // being applied yet.
                let arrival = self.replicas[self.wires[&wire].replica].from_leader.stalled.max(self.now + 1);
                self.at(arrival, Occurrence::Validated { wire, request, alive });
            }
            Up::Request { xid, request } => {
                let session = self.wires[&wire].session.unwrap_or_default();
                let tracked = self.sessions.get(&session);
                if tracked.is_none_or(|tracked| tracked.owner != Some(wire)) {
                    let open = self.wires[&wire].open;
                    self.close(wire);
                    return if open {
                        self.down(wire, Down::Closed)
                    };
                }
                match request {
                    Request::Sync { path } => self.order(Entry::Sync { wire, xid, path }),
                    request => self.order(Entry::Request { session, wire: Some(wire), xid, request }),
                }
            }
        }
    }

    pub(super) fn validated(&mut self, wire: Wire, request: ConnectRequest, alive: bool) {
        let Some(connection) = self.wires.get_mut(&wire).filter(|connection| connection.open) else { return };
        let (at, core, session) = (connection.replica, connection.core, request.session);
        let known = self.replicas[at].core.has_session(SessionId(session));
        if alive && known {
            connection.session = Some(session);
            let replica = &mut self.replicas[at];
            replica.wires.insert(core, wire);
            let outputs = replica.connect(core, request);
            replica.bound.insert(session, core);
            return self.deliver(at, outputs, None);
        }
        connection.open = false;
        if !alive {
            let refusal =
                ConnectReply { timeout_ms: 0, session: 0, password: [0; 16], tells_read_only: true };
            self.down(wire, Down::Connected(refusal));
        }
        self.down(wire, Down::Closed);
    }

    /// Whether a replica cannot answer a request alone.
    fn needs_leader(&self, replica: usize, request: &Request) -> bool {
        match request {
            // A deposed leader does not know that it is not the leader.
            Request::Sync { .. } => Some(replica) != self.deposed,
            Request::Write(_) | Request::Multi(_) | Request::CloseSession => true,
            _ => false,
        }
    }
}
