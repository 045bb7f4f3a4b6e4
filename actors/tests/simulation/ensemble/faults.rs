//! Faults of the ensemble and its network.

use std::collections::BTreeMap;

use lockkeeper_embedded::wire::{Request, Write};

use super::log::{Entry, end};
use super::replica::Lane;
use super::{Connection, Down, Ensemble, Occurrence, Time, Wire};

/// When a leader that is cut off is replaced.
pub struct Deposed {
    /// The next leader serves from this time on.
    pub elected: Time,
    /// The former one serves until then.
    pub noticed: Time,
    /// It can reach the others again, but not before it has noticed.
    pub healed: Time,
}

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

    /// The client's replica, if it is a follower.
    fn follower(&self, wire: Wire) -> Option<usize> {
        let at = self.wires.get(&wire)?.replica;
        self.followers().contains(&at).then_some(at)
    }

    /// Stalls the link between a client's follower and the leader. Returns whether the client is at a follower.
    pub fn cut_off(&mut self, wire: Wire, until: Time) -> bool {
        let follower = self.follower(wire);
        if let Some(at) = follower {
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
                | Occurrence::Expiry
                | Occurrence::StepsDown
                | Occurrence::Rejoins => false,
            });
            replica.from_leader.passed(held, until);
            replica.to_leader.passed(held, until);
        }
        follower.is_some()
    }

    /// Lets a client's follower apply the log late from now on. Returns whether the client is at a follower.
    pub fn lag(&mut self, wire: Wire, extra: Time) -> bool {
        let follower = self.follower(wire);
        if let Some(at) = follower {
            self.replicas[at].from_leader.extra = extra;
        }
        follower.is_some()
    }

    /// Cuts the client's server off from the others, if it is the leader. The others elect another leader. A client that
    /// is `alone` with the former one can reach no other server until that can. Returns whether the client is at the
    /// leader.
    pub fn depose(&mut self, wire: Wire, alone: bool, times: Deposed) -> bool {
        let Some(connection) = self.wires.get(&wire) else { return false };
        let (at, process, others) = (connection.replica, connection.process, self.followers());
        let Some(next) = others.first().copied().filter(|_| at == self.leader && self.deposed.is_none())
        else {
            return false;
        };
        self.disconnect(&others);
        self.occurrences.retain(|_, occurrence| match occurrence {
            // What the followers had sent to the former leader is lost, and they learn all that it had committed.
            Occurrence::AtLeader(..)
            | Occurrence::Learn { .. }
            | Occurrence::PingArrives(_)
            | Occurrence::Touched(_) => false,
            Occurrence::Arrive(..)
            | Occurrence::HungUp(_)
            | Occurrence::Validated { .. }
            | Occurrence::LeaderPings
            | Occurrence::Expiry
            | Occurrence::StepsDown
            | Occurrence::Rejoins => true,
        });
        for other in others {
            self.catch_up(other, times.elected);
        }
        (self.leader, self.deposed) = (next, Some(at));
        self.islands[process] = alone.then_some(at);
        self.renew_sessions(times.elected);
        self.at(times.noticed, Occurrence::StepsDown);
        self.at(times.healed.max(times.noticed), Occurrence::Rejoins);
        true
    }

    /// The deposed leader closes all connections, and accepts no others.
    pub(super) fn step_down(&mut self) {
        if let Some(at) = self.deposed {
            self.disconnect(&[at]);
            self.replicas[at].down_until = Time::MAX;
        }
    }

    /// The deposed leader becomes a follower.
    pub(super) fn rejoin(&mut self) {
        if let Some(at) = self.deposed.take() {
            self.islands.fill(None);
            self.catch_up(at, self.now);
        }
    }

    /// Closes all connections of these replicas.
    fn disconnect(&mut self, replicas: &[usize]) {
        let here = |(_, connection): &(&Wire, &Connection)| {
            connection.open && replicas.contains(&connection.replica)
        };
        let wires: Vec<Wire> = self.wires.iter().filter(here).map(|(wire, _)| *wire).collect();
        for wire in wires {
            self.close(wire);
            self.down(wire, Down::Closed);
        }
    }

    /// Lets a replica without connections learn everything. It accepts connections from `until` on.
    fn catch_up(&mut self, at: usize, until: Time) {
        self.learn(at, self.log.len());
        let replica = &mut self.replicas[at];
        (replica.from_leader, replica.to_leader) = (Lane::default(), Lane::default());
        replica.touched.clear();
        replica.down_until = until;
    }

    /// A new leader gives every session its whole timeout.
    fn renew_sessions(&mut self, at: Time) {
        for tracked in self.sessions.values_mut() {
            tracked.ends = end(at, tracked.timeout);
        }
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
            | Occurrence::Touched(_)
            | Occurrence::StepsDown
            | Occurrence::Rejoins => false,
            Occurrence::Arrive(..) | Occurrence::HungUp(_) | Occurrence::LeaderPings | Occurrence::Expiry => {
                true
            }
        });
        for replica in 0..self.replicas.len() {
            self.catch_up(replica, until);
        }
        self.deposed = None;
        self.islands.fill(None);
        self.renew_sessions(until);
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
        self.step_down();
        self.rejoin();
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
