//! Processes, sessions and a server, and everything that may happen to them.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper_actors::machine::semaphore::{Event, Part, PermitRequest, Semaphore};
use lockkeeper_actors::machine::{LeaseState, PathEvent, Wait};

use super::driver::fired;
use super::properties::ANSWERS;
use super::server::{SemaphoreServer, Spot, Watch};
use super::twins::Twin;
use super::wire::{Ask, Asked, Clients, Word, has_left, ticket};
use crate::world::budget::budget;
use crate::world::directory::instance;
use crate::world::session::No;
use crate::world::steps::{Server, Step, World as _};

/// What is asked for, and how much may go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// A process each, and its requests in the order in which they are made.
    pub wants: &'static [&'static [Want]],
    /// What the root says, where there is one.
    pub limit: Option<u32>,
    pub budget: Budget,
    pub twin: Option<Twin>,
}

/// What a caller asks for, and the number of permits that it believes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub count: u32,
    pub limit: Option<u32>,
    pub agreed: bool,
    pub wait: Wait,
}

budget! {
    /// A connection goes; of what was in flight, any part may have been carried out, and any answer have come.
    cuts,
    /// A lease is in doubt for a while.
    doubts,
    /// A lease ends; the server drops the session some time later, and a new one is begun.
    losses,
    /// A caller takes its request back.
    cancels,
    /// A process' requests reach their deadline.
    timeouts,
    /// A request is refused, and would not be a second later.
    refusals,
    /// A request is denied, because the access list does not allow it at that moment.
    denials,
    /// A process crashes; the server drops its session some time later.
    crashes,
    /// A follower falls behind its leader.
    lags,
    /// An operator deletes a lease or a contender for the mutex.
    deletions,
    /// An operator deletes the root with all leases, or the mutex' directory with all contenders.
    removals,
    /// The limit is raised by one, or lowered by one.
    resizes,
    /// A holder splits off one of its permits.
    splits,
    /// A holder merges the permits of two requests.
    merges,
    /// A client of kazoo with this number of permits in mind comes once.
    peer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub server: SemaphoreServer,
    pub clients: Clients,
    pub crashed: BTreeSet<usize>,
    pub left: Budget,
    pub peer: Peer,
    /// Its mutex was taken from it between its count and its lease: its fault.
    pub robbed: bool,
    /// What an operator deleted: its owner may not know yet.
    pub struck: BTreeSet<String>,
    /// The leases that were made and not granted yet, each with the transaction that made the mutex' node of its turn.
    pub turns: BTreeMap<String, u8>,
    /// What should not have happened on the way here.
    pub flaws: BTreeSet<&'static str>,
}

/// A client of kazoo: it queues for the mutex, counts the leases, makes one, and gives the mutex back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    Out,
    Queued,
    Counted,
    Leased,
    Holding,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Step(Step),
    Acquire(usize),
    Cancel(usize, usize),
    Release(usize, usize),
    /// Of a process, the request that is split.
    Split(usize, usize),
    /// Of a process, the request that is merged, and the one that it is merged into.
    Merge(usize, usize, usize),
    /// The server answers the oldest request of a session that has no answer yet with this.
    Deny(u8, No),
    Crash(usize),
    /// A watch tells of its change: which read of the state left it, or zero.
    Fire(u8, Spot, u64),
    /// All but the first so many answers are lost, and so are requests, but for so many of the last ones.
    Cut(u8, usize, usize),
    Doubt(u8),
    Lose(u8),
    /// The process' requests reach their deadline.
    TimeOut(usize),
    FallBehind(u8),
    Delete(String),
    RemoveRoot,
    RemoveMutex,
    Resize(u32),
    PeerEnters,
    PeerGoesOn,
    PeerLeaves,
    /// Its session ends.
    PeerDies,
}

const PEER: u8 = 99;
const PEERS_MUTEX: &str = "ffffffffffffffffffffffffffffffff__lock__";
const PEERS_LEASE: &str = "fffffffffffffffffffffffffffffffe";

impl World {
    pub fn new(scenario: &Scenario) -> World {
        let machines = scenario.wants.iter().enumerate();
        let machines = machines
            .map(|(number, wants)| (Semaphore::new(instance(number as u8)), vec![Asked::NEW; wants.len()]));
        let mut world = World {
            server: SemaphoreServer::new(scenario.limit),
            clients: Clients::new(machines),
            crashed: BTreeSet::new(),
            left: scenario.budget,
            peer: Peer::Out,
            robbed: false,
            struck: BTreeSet::new(),
            turns: BTreeMap::new(),
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
        self.due(scenario, actions);
        let tree = self.server.now();
        let processes = self.clients.processes.iter().enumerate();
        for (number, process) in processes.filter(|(number, _)| self.is_alive(*number)) {
            if process.asked.iter().any(|asked| asked.word == Word::Unasked) {
                actions.push(Action::Acquire(number));
            }
            for (at, asked) in process.asked.iter().enumerate() {
                match asked.word {
                    Word::Waiting if self.left.cancels > 0 => actions.push(Action::Cancel(number, at)),
                    // A guard that reads `Lost` is dropped like any other.
                    Word::Lost if asked.forgotten => {}
                    Word::Granted { .. } | Word::Lost => actions.push(Action::Release(number, at)),
                    Word::Unasked | Word::Waiting | Word::Refused | Word::Released | Word::Merged => {}
                }
            }
            if self.left.splits > 0 {
                let splits = (0..process.asked.len()).filter(|at| process.asked[*at].can_be_split());
                actions.extend(splits.map(|at| Action::Split(number, at)));
            }
            if self.left.merges > 0 {
                let guards = || (0..process.asked.len()).filter(|at| process.asked[*at].has_guard());
                let pairs = guards().flat_map(|at| guards().map(move |into| (at, into)));
                let held = |at: usize| process.asked[at].is_granted();
                let merges = pairs.filter(|&(at, into)| at != into && (held(at) || held(into)));
                actions.extend(merges.map(|(at, into)| Action::Merge(number, at, into)));
            }
            if self.left.timeouts > 0 && process.awaits_deadline() {
                actions.push(Action::TimeOut(number));
            }
            if self.left.crashes > 0 {
                actions.push(Action::Crash(number));
            }
        }
        for (&id, session) in &self.clients.sessions {
            let process = &self.clients.processes[session.process];
            let used = process.using == Some(id);
            if session.connected && self.left.cuts > 0 && used {
                let watches = self.server.watches.iter().any(|watch| watch.session == id);
                if !session.calls.is_empty() || watches {
                    let answers = session.answers();
                    let unsent = 0..=session.requests();
                    actions
                        .extend((0..=answers).flat_map(|kept| {
                            unsent.clone().map(move |unsent| Action::Cut(id, kept, unsent))
                        }));
                }
            }
            if process.current == Some(id) {
                if self.left.doubts > 0 && session.lease == LeaseState::Held {
                    actions.push(Action::Doubt(id));
                }
                if self.left.losses > 0 {
                    actions.push(Action::Lose(id));
                }
            }
            let next = session.next().filter(|ask| **ask != Ask::Sync);
            if used && session.connected && !session.expired && next.is_some() {
                if self.left.refusals > 0 {
                    actions.push(Action::Deny(id, No::Refused));
                }
                if self.left.denials > 0 {
                    actions.push(Action::Deny(id, No::Forbidden));
                }
            }
            if used && self.left.lags > 0 && !session.expired && !self.server.replicas().is_behind(id) {
                actions.push(Action::FallBehind(id));
            }
        }
        let strays = self.server.watches.iter().filter(|watch| watch.stray);
        actions.extend(strays.map(|watch| Action::Fire(watch.session, watch.spot.clone(), watch.read)));
        if self.left.deletions > 0 {
            actions.extend(tree.contenders().iter().map(|node| Action::Delete(node.name.clone())));
            actions.extend(tree.leases().map(|(name, _)| Action::Delete(name.clone())));
        }
        if self.left.removals > 0 && tree.root.is_some() {
            actions.push(Action::RemoveRoot);
        }
        if self.left.removals > 0 && tree.mutex.is_some() {
            actions.push(Action::RemoveMutex);
        }
        if let Some(root) = tree.root.as_ref().filter(|_| self.left.resizes > 0) {
            actions
                .extend([root.limit + 1, root.limit - 1].into_iter().filter(|l| *l > 0).map(Action::Resize));
        }
        match self.peer {
            Peer::Out if self.left.peer > 0 && tree.mutex.is_some() && tree.root.is_some() => {
                actions.push(Action::PeerEnters)
            }
            Peer::Out => {}
            Peer::Queued | Peer::Counted | Peer::Leased => actions.push(Action::PeerDies),
            Peer::Holding => actions.push(Action::PeerLeaves),
        }
    }

    /// What happens by itself sooner or later, when no caller asks for anything and nothing more goes wrong.
    pub fn due(&self, scenario: &Scenario, actions: &mut Vec<Action>) {
        self.due_steps(actions);
        if self.peer_can_go_on(scenario) {
            actions.push(Action::PeerGoesOn);
        }
    }

    // ---- and what it does ----

    pub fn apply(&mut self, scenario: &Scenario, action: Action) {
        match action {
            Action::Step(step) => {
                self.step(scenario, step);
                if let Step::Tick(process) = step {
                    self.have_waited(process);
                }
            }
            Action::Acquire(process) => self.acquire(scenario, process),
            Action::Cancel(process, at) => {
                self.left.cancels -= 1;
                self.feed(scenario, process, PathEvent::Cancel(ticket(at)));
                if self.clients.processes[process].asked[at].word == Word::Waiting {
                    self.flaws.insert(ANSWERS);
                }
            }
            Action::Release(process, at) => {
                let asked = &mut self.clients.processes[process].asked[at];
                if let Word::Granted { .. } = asked.word {
                    asked.give_back();
                    asked.word = Word::Released;
                }
                if !asked.forgotten {
                    self.feed(scenario, process, PathEvent::Release(ticket(at)));
                }
            }
            Action::Split(process, at) => {
                self.left.splits -= 1;
                self.split(scenario, process, at);
            }
            Action::Merge(process, at, into) => {
                self.left.merges -= 1;
                self.merge(scenario, process, at, into);
            }
            Action::Deny(id, no) => {
                match no {
                    No::Forbidden => self.left.denials -= 1,
                    No::Refused | No::Missing | No::Cut | No::SessionGone => self.left.refusals -= 1,
                }
                self.serve(scenario, id, Some(no));
            }
            Action::Crash(process) => {
                self.left.crashes -= 1;
                self.crashed.insert(process);
                self.crash(process);
            }
            Action::Fire(id, spot, read) => {
                let watches = &mut self.server.watches;
                let told = |watch: &Watch| watch.session == id && watch.spot == spot && watch.read == read;
                watches.retain(|watch| !(told(watch) && (watch.armed || watch.stray)));
                if let Spot::Contender(name) = &spot {
                    self.clients.session(id).watches.contenders.remove(name);
                }
                let process = self.clients.sessions[&id].process;
                if self.clients.processes[process].using == Some(id) {
                    self.feed(scenario, process, fired(spot, read));
                }
            }
            Action::Cut(id, kept, unsent) => {
                self.left.cuts -= 1;
                self.cut(id, kept, unsent);
                // The client has not registered those whose answers it did not get.
                let calls = self.clients.sessions[&id].calls.clone();
                self.server.watches.retain(|watch| {
                    watch.session != id
                        || watch.armed
                        || watch.stray
                        || calls.iter().any(|call| has_left(call, watch))
                });
            }
            Action::Doubt(id) => {
                self.left.doubts -= 1;
                self.clients.suspend(id);
            }
            Action::Lose(id) => {
                self.left.losses -= 1;
                self.clients.lose(id);
            }
            Action::TimeOut(process) => {
                self.left.timeouts -= 1;
                self.clients.processes[process].tick();
                self.have_waited(process);
            }
            Action::FallBehind(id) => {
                self.left.lags -= 1;
                self.server.replicas_mut().fall_behind(id);
            }
            Action::Delete(name) => {
                self.left.deletions -= 1;
                self.strike(&name);
                self.server.delete(&name);
            }
            Action::RemoveRoot => {
                self.left.removals -= 1;
                let names: Vec<String> = self.server.now().leases().map(|(name, _)| name.clone()).collect();
                names.iter().for_each(|name| self.strike(name));
                self.server.change(|tree| tree.root = None);
            }
            Action::RemoveMutex => {
                self.left.removals -= 1;
                let names: Vec<String> =
                    self.server.now().contenders().iter().map(|node| node.name.clone()).collect();
                names.iter().for_each(|name| self.strike(name));
                self.server.change(|tree| tree.mutex = None);
            }
            Action::Resize(limit) => {
                self.left.resizes -= 1;
                self.server.resize(limit);
            }
            Action::PeerEnters => {
                self.server.create(PEERS_MUTEX, PEER);
                self.peer = Peer::Queued;
            }
            Action::PeerGoesOn => self.peer_goes_on(),
            Action::PeerLeaves | Action::PeerDies => {
                self.server.expire(PEER);
                (self.peer, self.left.peer) = (Peer::Out, 0);
            }
        }
        self.look_on(scenario);
        self.forget(self.left.cuts > 0);
    }

    /// The news of another limit may be on its way, or its follower is behind.
    fn may_know_an_old_limit(&self, process: usize) -> bool {
        let Some(id) = self.clients.processes[process].using else { return false };
        let tells =
            |watch: &Watch| watch.session == id && watch.spot == Spot::Part(Part::Root) && watch.fired;
        self.server.replicas().is_behind(id) || self.server.watches.iter().any(tells)
    }

    /// It took too long for an answer at once.
    fn have_waited(&mut self, process: usize) {
        self.clients.processes[process].asked.iter_mut().for_each(|asked| asked.free = false);
    }

    fn acquire(&mut self, scenario: &Scenario, process: usize) {
        let uninformed = self.may_know_an_old_limit(process);
        let asked = &mut self.clients.processes[process].asked;
        let Some(at) = asked.iter().position(|asked| asked.word == Word::Unasked) else { return };
        let limits = self.server.now().root.as_ref().map(|root| root.limit).into_iter().collect();
        (asked[at].word, asked[at].limits, asked[at].free) = (Word::Waiting, limits, true);
        asked[at].uninformed = uninformed;
        let Want { count, limit, agreed, wait } = scenario.wants[process][at];
        let request = PermitRequest { count, limit, agreed, bytes: 100, wait };
        // What is so now may be the reason for an answer at once.
        self.look_on(scenario);
        self.feed(scenario, process, Event::Acquire { ticket: ticket(at), request });
    }

    /// The caller has the new part at once. The message may arrive after the loss of the whole.
    fn split(&mut self, scenario: &Scenario, process: usize, at: usize) {
        let asked = &mut self.clients.processes[process].asked;
        let (into, held) = (asked.len(), asked[at].is_granted());
        let (leases, session) = match &mut asked[at].word {
            Word::Granted { leases, session } => (leases.split_off(leases.len() - 1), *session),
            _ => (Vec::new(), 0),
        };
        asked.push(Asked { word: Word::Granted { leases: leases.clone(), session }, ..Asked::NEW });
        self.feed(scenario, process, Event::Split { ticket: ticket(at), into: ticket(into), leases });
        if !held && self.clients.processes[process].asked[into].is_granted() {
            self.flaws.insert(ANSWERS);
        }
    }

    /// The same for the permits that are merged.
    fn merge(&mut self, scenario: &Scenario, process: usize, at: usize, into: usize) {
        let asked = &mut self.clients.processes[process].asked;
        let held = asked[at].is_granted() && asked[into].is_granted();
        if held {
            let moved = asked[at].leases().map(std::mem::take);
            asked[into]
                .leases()
                .into_iter()
                .for_each(|leases| leases.extend(moved.iter().flatten().cloned()));
        }
        self.feed(scenario, process, Event::Merge { ticket: ticket(at), into: ticket(into) });
        let asked = &self.clients.processes[process].asked;
        if !held && (asked[at].is_granted() || asked[into].is_granted()) {
            self.flaws.insert(ANSWERS);
        }
    }

    /// What requests that wait might truly be told.
    fn look_on(&mut self, scenario: &Scenario) {
        let tree = self.server.now();
        let limit = tree.root.as_ref().map(|root| root.limit);
        let used = tree.leases().count() as u32;
        for number in 0..self.clients.processes.len() {
            let process = &self.clients.processes[number];
            let sure = process.using.is_some_and(|id| {
                self.clients.sessions[&id].lease == LeaseState::Held && !self.server.replicas().is_behind(id)
            });
            let alone = tree.contenders().iter().all(|node| Some(node.owner) == process.using);
            let first = process.asked.iter().filter(|asked| asked.word == Word::Waiting).count() == 1;
            for (asked, want) in self.clients.processes[number].asked.iter_mut().zip(scenario.wants[number]) {
                if asked.word == Word::Waiting {
                    asked.limits.extend(limit);
                    let fits = limit.is_none_or(|limit| used + want.count <= limit);
                    asked.free &= sure && alone && first && fits;
                }
            }
        }
    }

    fn strike(&mut self, name: &str) {
        if name.starts_with(PEERS_MUTEX) {
            // It does not notice before it wants to delete it.
            self.robbed |= self.peer == Peer::Counted;
            if self.peer == Peer::Queued {
                (self.peer, self.left.peer) = (Peer::Out, 0);
            }
        } else if name != PEERS_LEASE {
            self.struck.insert(name.to_owned());
        }
    }

    // ---- the peer ----

    fn peer_can_go_on(&self, scenario: &Scenario) -> bool {
        let tree = self.server.now();
        match self.peer {
            Peer::Out | Peer::Holding => false,
            Peer::Counted | Peer::Leased => true,
            Peer::Queued => {
                let first = tree.contenders().first().is_some_and(|node| node.owner == PEER);
                let free = tree.leases().count() < usize::from(scenario.budget.peer);
                first && (free || tree.root.is_none())
            }
        }
    }

    fn peer_goes_on(&mut self) {
        self.peer = match self.peer {
            Peer::Queued if self.server.now().root.is_some() => Peer::Counted,
            Peer::Counted if self.server.now().root.is_some() => {
                self.server.change(|tree| {
                    tree.root.iter_mut().for_each(|root| {
                        root.leases.insert(PEERS_LEASE.to_owned(), PEER);
                    })
                });
                Peer::Leased
            }
            // Its root is gone: it errs, and gives its mutex back.
            Peer::Queued | Peer::Counted => {
                self.server.expire(PEER);
                self.left.peer = 0;
                Peer::Out
            }
            Peer::Leased => {
                let mine = self.server.now().contenders().iter().find(|node| node.owner == PEER);
                if let Some(name) = mine.map(|node| node.name.clone()) {
                    self.server.delete(&name);
                }
                Peer::Holding
            }
            other => other,
        };
    }
}

impl From<Step> for Action {
    fn from(step: Step) -> Action {
        Action::Step(step)
    }
}
