//! Processes with a lock's machine each, sessions and a server, and everything that may happen to them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::linger::{self, LineId, LingeringLock};
use lockkeeper_actors::machine::lock::Lock;
use lockkeeper_actors::machine::{LeaseState, PathEvent, PathMachine, Ticket, Wait};

use super::driver::ROOM;
use super::twins::Twin;
use super::wire::{Ask, Asked, LockWire, Watches, Word};
use crate::world::budget::budget;
use crate::world::clients::Clients;
use crate::world::directory::{Directory, Name, PathServer, instance};
use crate::world::session::No;
use crate::world::steps::{Server, Step, World as _};

/// One row of the table: what is asked for, and how much may go wrong.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A process each, and its requests in the order in which they are made.
    pub wants: &'static [&'static [Want]],
    /// The number that the directory's next child gets, where there is a directory.
    pub next: Option<i32>,
    pub budget: Budget,
    pub twin: Option<Twin>,
    /// The states of which it is known that they come to rest.
    pub settled: Arc<Mutex<HashSet<u64>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub mode: Mode,
    pub wait: Wait,
    pub ephemeral: bool,
    /// Whether it shares a node with others of the same mode, which stays for a while.
    pub lingers: bool,
}

budget! {
    /// A connection goes; of what was in flight, any part may have been carried out, and any answer have come.
    cuts,
    /// A lease is in doubt for a while.
    doubts,
    /// A lease ends; the server drops the session some time later, and a new one is begun.
    losses,
    /// A process is gone.
    crashes,
    /// A caller takes its request back.
    cancels,
    /// A process' requests reach their deadline.
    timeouts,
    /// A lock is closed with all that wait for it.
    closes,
    /// A request is refused, and would not be a second later.
    refusals,
    /// A follower falls behind its leader.
    lags,
    /// An operator writes to a node.
    touches,
    /// An operator deletes a node.
    deletions,
    /// An operator deletes the directory with all that is in it.
    removals,
    /// A foreign client, kazoo for one, queues in some mode, holds and leaves; it goes without warning, too.
    peers,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub server: PathServer,
    pub clients: Clients<LingeringLock, LockWire, Asked>,
    pub crashed: BTreeSet<usize>,
    pub closed: BTreeSet<usize>,
    pub left: Budget,
    /// The foreign client's node, if it has one.
    pub peer: Option<Name>,
    /// What an operator deleted: its owner may not know yet.
    pub struck: BTreeSet<Name>,
    /// The largest number, and the largest token, that was granted so far: of all grants, and of those that exclude
    /// readers. Numbers begin anew with the directory.
    pub order: Highest,
    pub tokens: Highest,
    /// The last contender of another process that each process has been shown behind a node that it follows.
    pub shown: BTreeMap<usize, i32>,
    /// What should not have happened on the way here.
    pub flaws: BTreeSet<Flaw>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Highest {
    any: i64,
    exclusive: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flaw {
    /// A grant came after one to a contender further back.
    Order,
    /// A token was not larger than that of an earlier grant that conflicts.
    Token,
    /// A request was granted by a node ahead of a contender that came before the request, as its process knew, or of an
    /// earlier request of the process.
    Overtaking,
    /// A grant was given, or a guard was `Held` again, while the lease was in doubt.
    Doubt,
    /// A caller was told what it should not be: the same twice, anything after the last answer, a grant past its
    /// deadline, a refusal for a reason that does not apply, or a release that did not happen.
    Answer,
    /// A request was sent again while it was still unanswered, or at once after it had been refused; or more creates
    /// are in flight than there is room for.
    Storm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Step(Step),
    Acquire(usize),
    Cancel(usize, usize),
    Release(usize, usize),
    /// The server denies the oldest request of a session that has no answer yet.
    Deny(u8),
    /// A watch tells that its node is gone.
    Fire(u8, Name),
    /// A watch tells of a write to its node.
    Touch(u8, Name),
    /// A watch tells that the children have changed.
    ChildrenChange(u8, u8),
    /// All but the first so many answers are lost.
    Cut(u8, usize),
    Doubt(u8),
    Lose(u8),
    Crash(usize),
    Close(usize),
    /// A process that is closed and has nothing left to do ends its session.
    End(usize),
    /// The process' requests reach their deadline.
    TimeOut(usize),
    FallBehind(u8),
    Delete(Name),
    Remove,
    PeerEnters(Mode),
    PeerLeaves,
}

/// The author of the foreign client's nodes, and its session.
pub const PEER: u8 = 14;

impl World {
    pub fn new(scenario: &Scenario) -> World {
        let machines = scenario.wants.iter().enumerate();
        let room = if scenario.twin == Some(Twin::RoomIgnored) { usize::MAX } else { ROOM };
        let machines = machines.map(|(number, wants)| {
            let instance = instance(number as u8);
            let machine = LingeringLock::on(Lock::with_room(instance, room), instance);
            (machine, vec![Asked::NEW; wants.len()])
        });
        let directory = scenario.next.map(|next| Directory { next, nodes: Vec::new() });
        let mut world = World {
            server: PathServer::new(directory),
            clients: Clients::new(machines),
            crashed: BTreeSet::new(),
            closed: BTreeSet::new(),
            left: scenario.budget,
            peer: None,
            struck: BTreeSet::new(),
            order: Highest::NONE,
            tokens: Highest::NONE,
            shown: BTreeMap::new(),
            flaws: BTreeSet::new(),
        };
        world.begin(scenario, scenario.budget.cuts > 0);
        world
    }

    // ---- what may happen ----

    pub fn actions(&self, scenario: &Scenario, actions: &mut Vec<Action>) {
        if !self.flaws.is_empty() {
            return;
        }
        self.due(actions);
        for number in (0..self.clients.processes.len()).filter(|number| self.is_alive(*number)) {
            self.actions_of_process(number, actions);
        }
        for id in self.clients.sessions.keys() {
            self.actions_of_session(*id, actions);
        }
        if self.left.deletions > 0 {
            actions.extend(self.server.nodes().iter().map(|node| Action::Delete(node.name)));
        }
        if self.left.removals > 0 && self.server.has_directory() {
            actions.push(Action::Remove);
        }
        match self.peer {
            None if self.left.peers > 0 && self.server.has_directory() => {
                actions.extend(scenario.peer_modes().map(Action::PeerEnters))
            }
            None => {}
            Some(_) => actions.push(Action::PeerLeaves),
        }
    }

    fn actions_of_process(&self, number: usize, actions: &mut Vec<Action>) {
        let process = &self.clients.processes[number];
        // Tickets in order: nothing is gained by asking for the second before the first.
        if process.asked.iter().any(|asked| asked.word == Word::Unasked) {
            actions.push(Action::Acquire(number));
        }
        for (ticket, asked) in process.asked.iter().enumerate() {
            match asked.word {
                Word::Waiting if self.left.cancels > 0 => actions.push(Action::Cancel(number, ticket)),
                // A guard that reads `Lost` is dropped like any other.
                Word::Lost if asked.forgotten => {}
                Word::Granted { .. } | Word::Lost => actions.push(Action::Release(number, ticket)),
                Word::Unasked | Word::Waiting | Word::Cancelling | Word::Refused | Word::Released => {}
            }
        }
        if self.left.crashes > 0 {
            actions.push(Action::Crash(number));
        }
        if self.left.closes > 0 && !self.closed.contains(&number) {
            actions.push(Action::Close(number));
        }
        if self.left.timeouts > 0 && process.awaits_deadline() {
            actions.push(Action::TimeOut(number));
        }
    }

    fn actions_of_session(&self, id: u8, actions: &mut Vec<Action>) {
        let session = &self.clients.sessions[&id];
        let process = &self.clients.processes[session.process];
        if process.current == Some(id) {
            if self.left.doubts > 0 && session.lease == LeaseState::Held {
                actions.push(Action::Doubt(id));
            }
            if self.left.losses > 0 {
                actions.push(Action::Lose(id));
            }
        }
        if process.using != Some(id) {
            return;
        }
        if self.left.cuts > 0 && session.connected {
            let bare = session.calls.is_empty() && session.watches == Watches::default();
            actions.extend((0..=session.answers()).filter(|_| !bare).map(|kept| Action::Cut(id, kept)));
        }
        if self.left.refusals > 0 && session.connected && !session.expired {
            let next = session.next().filter(|ask| **ask != Ask::Sync);
            actions.extend(next.map(|_| Action::Deny(id)));
        }
        if self.left.lags > 0 && !session.expired && !self.server.replicas().is_behind(id) {
            actions.push(Action::FallBehind(id));
        }
        if self.left.touches > 0 {
            let armed = session.watches.nodes.iter().filter(|(_, armed)| **armed);
            actions.extend(armed.map(|(name, _)| Action::Touch(id, *name)));
        }
    }

    /// What happens by itself sooner or later, when no caller asks for anything and nothing more goes wrong.
    pub fn due(&self, actions: &mut Vec<Action>) {
        self.due_steps(actions);
        let closed = self.closed.iter().filter(|number| self.is_alive(**number));
        let ends = closed.filter(|number| {
            let process = &self.clients.processes[**number];
            process.current.is_some() && process.machine.is_idle()
        });
        actions.extend(ends.map(|number| Action::End(*number)));
    }

    // ---- and what it does ----

    pub fn apply(&mut self, scenario: &Scenario, action: Action) {
        match action {
            Action::Step(step) => {
                self.step(scenario, step);
                if let (Step::Reconnect(id, _), Some(Twin::WatchesLostOnReconnect)) = (step, scenario.twin) {
                    let watches = &mut self.clients.session(id).watches;
                    watches.nodes.values_mut().for_each(|armed| *armed = false);
                    watches.children.clear();
                }
            }
            Action::Acquire(process) => self.acquire(scenario, process),
            Action::Cancel(process, ticket) => {
                self.left.cancels -= 1;
                self.clients.processes[process].asked[ticket].word = Word::Cancelling;
                self.feed(scenario, process, PathEvent::Cancel(Ticket::numbered(ticket as u64)));
            }
            Action::Release(process, ticket) => {
                let word = &mut self.clients.processes[process].asked[ticket].word;
                if let Word::Granted { .. } = word {
                    *word = Word::Released;
                }
                self.feed(scenario, process, PathEvent::Release(Ticket::numbered(ticket as u64)));
            }
            Action::Deny(id) => {
                self.left.refusals -= 1;
                self.serve(scenario, id, Some(No::Refused));
            }
            Action::Fire(id, name) => self.fire(scenario, id, name, true),
            Action::Touch(id, name) => {
                self.left.touches -= 1;
                self.fire(scenario, id, name, false);
            }
            Action::ChildrenChange(id, line) => {
                let session = self.clients.session(id);
                session.watches.children.remove(&line);
                let process = session.process;
                self.feed(scenario, process, linger::Event::ChildrenChanged(LineId(line.into())));
            }
            Action::Cut(id, kept) => {
                self.left.cuts -= 1;
                self.cut(id, kept, 0);
            }
            Action::Doubt(id) => {
                self.left.doubts -= 1;
                self.clients.suspend(id);
            }
            Action::Lose(id) => {
                self.left.losses -= 1;
                self.clients.lose(id);
            }
            Action::Crash(process) => {
                self.left.crashes -= 1;
                self.crashed.insert(process);
                self.crash(process);
            }
            Action::Close(process) => {
                self.left.closes -= 1;
                self.closed.insert(process);
                self.feed(scenario, process, PathEvent::Close);
            }
            Action::End(process) => {
                if let Some(id) = self.clients.processes[process].current {
                    self.clients.lose(id);
                }
            }
            Action::TimeOut(process) => {
                self.left.timeouts -= 1;
                self.clients.processes[process].tick();
            }
            Action::FallBehind(id) => {
                self.left.lags -= 1;
                self.server.replicas_mut().fall_behind(id);
            }
            Action::Delete(name) => {
                self.left.deletions -= 1;
                self.strike(name);
                self.server.delete(name);
            }
            Action::Remove => {
                self.left.removals -= 1;
                for name in self.server.nodes().iter().map(|node| node.name).collect::<Vec<_>>() {
                    self.strike(name);
                }
                self.server.remove_directory();
                self.order = Highest::NONE;
            }
            Action::PeerEnters(mode) => {
                self.left.peers -= 1;
                let name = Name { sequence: 0, author: PEER, attempt: self.left.peers, mode };
                self.peer = self.server.create(name, PEER, false).map(|(name, _)| name);
            }
            Action::PeerLeaves => {
                if let Some(name) = self.peer.take() {
                    self.server.delete(name);
                }
            }
        }
        self.forget(self.left.cuts > 0);
    }

    fn strike(&mut self, name: Name) {
        if self.peer == Some(name) {
            self.peer = None;
        } else {
            self.struck.insert(name);
        }
    }
}

impl From<Step> for Action {
    fn from(step: Step) -> Action {
        Action::Step(step)
    }
}

impl Scenario {
    fn peer_modes(&self) -> impl Iterator<Item = Mode> {
        let modes: BTreeSet<Mode> =
            self.wants.iter().flat_map(|wants| wants.iter()).map(|want| named(want.mode)).collect();
        modes.into_iter()
    }
}

/// A writer's nodes are named like a lock's.
pub fn named(mode: Mode) -> Mode {
    if mode == Mode::Read { Mode::Read } else { Mode::Lock }
}

impl Highest {
    const NONE: Highest = Highest { any: i64::MIN, exclusive: i64::MIN };

    /// Whether it is larger than those of all earlier grants that conflict, or equal to one by the same node.
    pub fn rise(&mut self, want: Want, number: i64) -> bool {
        let shared = want.mode == Mode::Read;
        let bound = if shared { self.exclusive } else { self.any };
        let rises = number > bound || (want.lingers && number == bound);
        self.any = self.any.max(number);
        if !shared {
            self.exclusive = self.exclusive.max(number);
        }
        rises
    }
}
