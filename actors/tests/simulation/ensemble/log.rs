//! The log: the leader orders its entries, and every replica applies them. The leader knows when a session ends.

use lockkeeper_embedded::SessionId;
use lockkeeper_embedded::machine::{Input, Output};
use lockkeeper_embedded::wire::{ConnectRequest, Request};

use super::replica::{no_session, session_of};
use super::{Ensemble, Occurrence, TICK, Time, Tracked, Wire};

#[derive(Clone)]
pub(super) enum Entry {
    Begin { wire: Option<Wire>, timeout: Time },
    Request { session: i64, wire: Option<Wire>, xid: i32, request: Request },
    Sync { wire: Wire, xid: i32, path: String },
    Expire { session: i64, tampered: bool },
}

impl Ensemble {
    pub(super) fn order(&mut self, entry: Entry) {
        if let Some(history) = &mut self.history {
            history.push(format!("{:>7} leader: {}", self.now, entry.describe()));
        }
        self.log.push(entry);
        let upto = self.log.len();
        self.learn(self.leader, upto);
        for follower in self.followers() {
            let arrival = self.replicas[follower].from_leader.arrival(self.now + 1);
            self.at(arrival, Occurrence::Learn { replica: follower, upto });
        }
    }

    pub(super) fn learn(&mut self, replica: usize, upto: usize) {
        while self.replicas[replica].applied < upto {
            let entry = self.log[self.replicas[replica].applied].clone();
            self.replicas[replica].applied += 1;
            self.apply(replica, entry);
        }
    }

    fn apply(&mut self, at: usize, entry: Entry) {
        let here = |wire: &Wire| self.wires.get(wire).filter(|c| c.replica == at && c.open).map(|c| c.core);
        match entry {
            Entry::Begin { wire, timeout } => {
                let client = wire.and_then(|wire| Some((wire, here(&wire)?)));
                let core = client.map_or_else(|| self.replicas[at].connection(), |(_, core)| core);
                let timeout_ms = timeout as i32;
                let request = ConnectRequest { timeout_ms, ..no_session() };
                let outputs = self.replicas[at].connect(core, request);
                let Some((session, password)) = session_of(&outputs) else { return };
                self.replicas[at].bound.insert(session, core);
                if at == self.leader {
                    let ends = end(self.now, timeout);
                    self.sessions.insert(session, Tracked { timeout, ends, owner: wire });
                    self.passwords.insert(session, password);
                }
                if let Some((wire, core)) = client {
                    self.replicas[at].wires.insert(core, wire);
                }
                if let Some(connection) = wire.and_then(|wire| self.wires.get_mut(&wire)) {
                    connection.session = Some(session);
                }
                self.deliver(at, outputs, None);
            }
            Entry::Request { session, wire, xid, request } => {
                let Some(connection) = self.replicas[at].bound.get(&session).copied() else { return };
                let outputs =
                    self.replicas[at].handle(Input::Request { connection, xid, request: request.clone() });
                if at == self.leader {
                    let answer = outputs.iter().find_map(|output| match output {
                        Output::Reply { connection: c, result, .. } if *c == connection => {
                            Some(result.clone())
                        }
                        _ => None,
                    });
                    self.note(session, request, answer);
                }
                self.deliver(at, outputs, wire);
            }
            Entry::Sync { wire, xid, path } => {
                let Some(connection) = here(&wire) else { return };
                let request = Request::Sync { path };
                let outputs = self.replicas[at].handle(Input::Request { connection, xid, request });
                self.deliver(at, outputs, Some(wire));
            }
            Entry::Expire { session, tampered } => {
                let outputs = self.replicas[at].handle(Input::Expire { session: SessionId(session) });
                if at == self.leader {
                    self.sessions.remove(&session);
                    self.session_gone(session, tampered);
                }
                self.deliver(at, outputs, None);
            }
        }
    }

    pub(super) fn touch(&mut self, session: i64) {
        let Some(timeout) = self.sessions.get(&session).map(|tracked| tracked.timeout) else { return };
        let ends = end(self.now, timeout);
        if let Some(tracked) = self.sessions.get_mut(&session) {
            tracked.ends = ends;
        }
    }
}

impl Entry {
    fn describe(&self) -> String {
        match self {
            Entry::Begin { .. } => "a session begins".into(),
            Entry::Request { session, request, .. } => format!("{session:x} {request:?}"),
            Entry::Sync { path, .. } => format!("sync {path}"),
            Entry::Expire { session, tampered } => format!("{session:x} expires, by hand: {tampered}"),
        }
    }
}

/// The end of a session that is touched at this time. The server expires sessions in buckets of one tick, so this is
/// rounded up.
pub(super) fn end(touched: Time, timeout: Time) -> Time {
    ((touched + timeout) / TICK + 1) * TICK
}
