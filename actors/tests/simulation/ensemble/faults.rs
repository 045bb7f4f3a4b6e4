//! Faults of the ensemble and its network.

use std::collections::BTreeMap;

use lockkeeper_embedded::wire::{Request, Write};

use super::{Down, Ensemble, Entry, Lane, Occurrence, TICK, Time, Wire};

impl Ensemble {
    /// Breaks a connection so that both sides notice. Requests that would arrive at the server before `carried` are
    /// carried out, but not answered.
    pub fn cut(&mut self, wire: Wire, carried: Time) {
        let now = self.now;
        let Some(connection) = self.wires.get_mut(&wire) else { return };
        let process = connection.process;
        connection.down = Lane::default();
        self.deliveries[process].retain(|_, (other, _)| *other != wire);
        self.occurrences.retain(|(at, _), occurrence| {
            *at < carried || !matches!(occurrence, Occurrence::Arrive(other, _) if *other == wire)
        });
        let last = self.occurrences.iter().rev().find_map(|((at, _), occurrence)| {
            matches!(occurrence, Occurrence::Arrive(other, _) if *other == wire).then_some(*at)
        });
        self.at(last.unwrap_or(now) + 1, Occurrence::HungUp(wire));
        self.sequence += 1;
        self.deliveries[process].insert((now + 1, self.sequence), (wire, Down::Closed));
        if let Some(connection) = self.wires.get_mut(&wire) {
            connection.hung_up = true;
        }
    }

    /// Loses all packets from now on, without an error.
    pub fn half_open(&mut self, wire: Wire) {
        let Some(connection) = self.wires.get_mut(&wire) else { return };
        connection.half_open = true;
        let process = connection.process;
        self.deliveries[process].retain(|_, (other, _)| *other != wire);
        self.occurrences
            .retain(|_, occurrence| !matches!(occurrence, Occurrence::Arrive(other, _) if *other == wire));
    }

    /// Holds up all packets towards the server or towards the client.
    pub fn stall(&mut self, wire: Wire, up: bool, until: Time) {
        let Some(connection) = self.wires.get_mut(&wire) else { return };
        let lane = if up { &mut connection.up } else { &mut connection.down };
        lane.stalled = until;
        // Packets in flight are held up too, in their order.
        let held = match up {
            true => hold_up(
                &mut self.occurrences,
                until,
                |occurrence| matches!(occurrence, Occurrence::Arrive(other, _) | Occurrence::HungUp(other) if *other == wire),
            ),
            false => hold_up(&mut self.deliveries[connection.process], until, |(other, _)| *other == wire),
        };
        lane.passed(held, until);
    }

    /// Makes a process's connection slow, and its later ones too.
    pub fn slow(&mut self, wire: Wire, extra: Time) {
        if let Some(connection) = self.wires.get_mut(&wire) {
            connection.down.extra = extra;
            self.slow[connection.process] = extra;
        }
    }

    /// Stalls the link between a client's follower and the leader. Returns whether the client is at a follower.
    pub fn cut_off(&mut self, wire: Wire, until: Time) -> bool {
        let at = self.wires.get(&wire).map_or(0, |connection| connection.replica);
        if at != 0 {
            let wires = &self.wires;
            let replica = &mut self.replicas[at];
            (replica.from_leader.stalled, replica.to_leader.stalled) = (until, until);
            let held = hold_up(&mut self.occurrences, until, |occurrence| match occurrence {
                Occurrence::Learn { replica, .. } | Occurrence::PingArrives(replica) => *replica == at,
                Occurrence::AtLeader(wire, _) => wires[wire].replica == at,
                Occurrence::Arrive(..)
                | Occurrence::HungUp(_)
                | Occurrence::LeaderPings
                | Occurrence::Validated { .. }
                | Occurrence::Touched(_)
                | Occurrence::Expiry => false,
            });
            replica.from_leader.passed(held, until);
            replica.to_leader.passed(held, until);
        }
        at != 0
    }

    /// Lets a client's follower apply the log late from now on. Returns whether the client is at a follower.
    pub fn lag(&mut self, wire: Wire, extra: Time) -> bool {
        let at = self.wires.get(&wire).map_or(0, |connection| connection.replica);
        if at != 0 {
            self.replicas[at].from_leader.extra = extra;
        }
        at != 0
    }

    /// Stops all servers. They restart at `until` with their data, and every session then gets its whole timeout.
    pub fn restart(&mut self, until: Time) {
        let wires: Vec<Wire> = self.wires.iter().filter(|(_, c)| c.open).map(|(wire, _)| *wire).collect();
        for wire in wires {
            self.cut(wire, 0);
            self.close(wire);
        }
        self.occurrences.retain(|_, occurrence| match occurrence {
            Occurrence::AtLeader(..)
            | Occurrence::Validated { .. }
            | Occurrence::Learn { .. }
            | Occurrence::PingArrives(_)
            | Occurrence::Touched(_) => false,
            Occurrence::Arrive(..) | Occurrence::HungUp(_) | Occurrence::LeaderPings | Occurrence::Expiry => {
                true
            }
        });
        for replica in 0..self.replicas.len() {
            self.learn(replica, self.log.len());
            self.replicas[replica].touched.clear();
            self.replicas[replica].from_leader = Lane::default();
            self.replicas[replica].to_leader = Lane::default();
        }
        self.down_until = until;
        for tracked in self.sessions.values_mut() {
            tracked.ends = ((until + tracked.timeout) / TICK + 1) * TICK;
        }
    }

    pub fn expire(&mut self, session: i64) {
        if self.sessions.contains_key(&session) {
            self.order(Entry::Expire { session, tampered: true });
        }
    }

    /// Returns whether there was such a node, as the following ones do.
    pub fn delete_node(&mut self, path: &str) -> bool {
        self.operate(Write::Delete { path: path.to_owned(), version: -1 })
    }

    pub fn write_node(&mut self, path: &str) -> bool {
        self.operate(Write::SetData { path: path.to_owned(), data: Some(Vec::new().into()), version: -1 })
    }

    /// Deletes a directory with all its nodes.
    pub fn delete_directory(&mut self, directory: &str) -> bool {
        let inside = |path: &String| path.rsplit_once('/').is_some_and(|(parent, _)| parent == directory);
        let children: Vec<String> = self.nodes.keys().filter(|path| inside(path)).cloned().collect();
        for child in children {
            self.delete_node(&child);
        }
        self.delete_node(directory)
    }

    fn operate(&mut self, write: Write) -> bool {
        let (session, before) = (self.operator, self.operated);
        self.order(Entry::Request { session, wire: None, xid: 0, request: Request::Write(write) });
        self.operated > before
    }

    /// Ends all lasting faults.
    pub fn heal(&mut self) {
        self.slow.fill(0);
        for connection in self.wires.values_mut() {
            for lane in [&mut connection.up, &mut connection.down] {
                (lane.stalled, lane.extra) = (0, 0);
            }
        }
        for replica in &mut self.replicas {
            for lane in [&mut replica.from_leader, &mut replica.to_leader] {
                (lane.stalled, lane.extra) = (0, 0);
            }
        }
    }
}

/// Postpones all matching packets that are due earlier. Returns whether there were any.
fn hold_up<T>(queue: &mut BTreeMap<(Time, u64), T>, until: Time, which: impl Fn(&T) -> bool) -> bool {
    let early = queue.range(..(until, 0)).filter(|(_, packet)| which(packet));
    let early: Vec<(Time, u64)> = early.map(|(key, _)| *key).collect();
    for key in &early {
        if let Some(packet) = queue.remove(key) {
            queue.insert((until, key.1), packet);
        }
    }
    !early.is_empty()
}
