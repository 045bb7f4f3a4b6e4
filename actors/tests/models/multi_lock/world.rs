//! Processes with a lock for each path, requests for both, sessions, a server; and everything that may happen.
//!
//! Actors have mailboxes, and every order in which they take from them is tried. What is on its way to the server is
//! served in order, and answered into the mailbox of the actor that asked.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::lock::{Created, Event, NodeStat};
use lockkeeper_actors::machine::node::Attempt;
use lockkeeper_actors::machine::{Failure, LeaseState, Machine, PathEvent, Wait};

use super::messages::{Call, Entrant, Ticket, ToMulti, ToPath};
use super::state::{PATHS, Path, Process, Request, Session, Word};
use crate::world::budget::budget;
use crate::world::clients::DEADLINE;
use crate::world::directory::{Directory, Name, PathServer};
use crate::world::gates::Gate;
use crate::world::steps::Server;

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub wants: Wants,
    /// The actors of requests take a message as soon as it comes; those of paths take their time all the same.
    pub prompt: bool,
    pub budget: Budget,
    pub twin: Option<Twin>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// Of which process, and the paths in the order in which they name them. One of one path is a plain lock.
    pub requests: &'static [(usize, &'static [usize])],
    /// How long those for several paths wait.
    pub wait: Wait,
    /// Paths without a directory.
    pub missing: &'static [usize],
}

budget! {
    /// A caller takes its request back.
    cancels,
    /// The answer to a transaction is lost; it was carried out, or never will be.
    mislaid,
    /// A lease is in doubt for a while.
    doubts,
    /// A lease ends; the server drops the session some time later, and a new one is begun.
    losses,
    /// An operator deletes a node.
    deletions,
    /// A process' requests reach their deadline.
    timeouts,
    /// A directory without nodes is removed, as containers are.
    removals,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// Every node is made by a request of its own.
    MadeOneByOne,
    /// A request that has lost its place in one queue keeps the others.
    OnlyMissingAnew,
    /// A request that is cancelled leaves its parts where they are.
    NothingGivenBack,
    /// A part that was not created because of another one is not submitted again.
    BackForgotten,
    /// The first part that is held is taken for all.
    GrantedTooEarly,
    /// A request that loses a part is refused as if its caller had cancelled it.
    CancelledByLoss,
    /// A request for several paths does not hear that the lease of a part is in doubt.
    DoubtOfPartUnheard,
    /// An actor of a path with a broken gate.
    Gate(Gate),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// A directory for each path. A transaction goes to both at once.
    pub servers: [PathServer; PATHS],
    pub processes: Vec<Process>,
    /// By id; ids are not used again.
    pub sessions: BTreeMap<u8, Session>,
    pub next_session: u8,
    pub requests: Vec<Request>,
    pub left: Budget,
    /// What an operator deleted: its owner may not know yet.
    pub struck: BTreeSet<(usize, Name)>,
    /// What should not have happened on the way here.
    pub flaws: BTreeSet<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Cancel(usize),
    /// The caller drops its guard.
    Release(usize),
    /// The server carries out the oldest call of a session.
    Serve(u8),
    /// The answer to the oldest call is lost. It was carried out, or never will be.
    Mislay(u8, bool),
    /// The actor of a process' path takes its next message.
    Path(usize, usize),
    /// The actor of a request does.
    Multi(usize),
    /// The pause before a request's round is over.
    Ask(usize),
    /// A heartbeat finds out which nodes are gone.
    Heartbeat(u8),
    Doubt(u8),
    Resume(u8),
    Lose(u8),
    Expire(u8),
    Connect(usize),
    Delete(usize, Name),
    RemoveDirectory(usize),
    /// The process' requests reach their deadline.
    TimeOut(usize),
    /// What the actor of a process' path waits for next has come.
    Wake(usize, usize),
}

impl World {
    pub fn new(scenario: &Scenario) -> World {
        let Wants { requests, missing, .. } = scenario.wants;
        let count = requests.iter().map(|(process, _)| process + 1).max().unwrap_or(0);
        let server = |path| PathServer::new(Some(Directory::default()).filter(|_| !missing.contains(&path)));
        let mut world = World {
            servers: std::array::from_fn(server),
            processes: (0..count).map(Process::new).collect(),
            sessions: BTreeMap::new(),
            next_session: 1,
            requests: requests.iter().map(|(process, paths)| Request::new(*process, paths)).collect(),
            left: scenario.budget,
            struck: BTreeSet::new(),
            flaws: BTreeSet::new(),
        };
        for process in 0..count {
            world.connect(process);
            (0..PATHS).for_each(|path| world.take_path(scenario, process, path));
        }
        (0..requests.len()).for_each(|number| world.acquire(scenario, number));
        world
    }

    // ---- what may happen ----

    pub fn actions(&self, actions: &mut Vec<Action>) {
        if !self.flaws.is_empty() {
            return;
        }
        self.due(actions);
        for (number, request) in self.requests.iter().enumerate() {
            match request.word {
                Word::Waiting if self.left.cancels > 0 => actions.push(Action::Cancel(number)),
                Word::Granted | Word::Lost => actions.push(Action::Release(number)),
                Word::Waiting | Word::Cancelling | Word::Refused | Word::Released => {}
            }
        }
        for (&id, session) in &self.sessions {
            let is_over = session.lease == LeaseState::Lost;
            if self.left.doubts > 0 && session.lease == LeaseState::Held {
                actions.push(Action::Doubt(id));
            }
            if self.left.losses > 0 && !is_over {
                actions.push(Action::Lose(id));
            }
            if self.left.mislaid > 0 && !is_over && matches!(session.calls.front(), Some(Call::Make(..))) {
                actions.extend([Action::Mislay(id, false), Action::Mislay(id, true)]);
            }
        }
        for (number, process) in self.processes.iter().enumerate() {
            let awaits = |path: &Path| path.machine.wakeup() == Some(DEADLINE);
            let pauses = |request: &Request| request.process == number && request.pauses;
            let waits = process.paths.iter().any(awaits) || self.requests.iter().any(pauses);
            if self.left.timeouts > 0 && process.now < DEADLINE && waits {
                actions.push(Action::TimeOut(number));
            }
        }
        if self.left.removals > 0 {
            let empty =
                |path: &usize| self.servers[*path].has_directory() && self.servers[*path].nodes().is_empty();
            actions.extend((0..PATHS).filter(empty).map(Action::RemoveDirectory));
        }
        if self.left.deletions > 0 {
            let nodes = |path: usize| self.servers[path].nodes().iter().map(move |node| (path, node.name));
            actions.extend((0..PATHS).flat_map(nodes).map(|(path, name)| Action::Delete(path, name)));
        }
    }

    /// What happens by itself sooner or later, when no caller asks for anything and nothing more goes wrong.
    pub fn due(&self, actions: &mut Vec<Action>) {
        for (number, process) in self.processes.iter().enumerate() {
            let busy = (0..PATHS).filter(|path| !process.paths[*path].inbox.is_empty());
            actions.extend(busy.map(|path| Action::Path(number, path)));
            let wakes = |path: &usize| {
                let moment = process.paths[*path].machine.wakeup();
                moment.is_some_and(|moment| moment <= process.now || moment < DEADLINE)
            };
            actions.extend((0..PATHS).filter(wakes).map(|path| Action::Wake(number, path)));
            if process.current.is_none() {
                actions.push(Action::Connect(number));
            }
        }
        let busy = self.requests.iter().enumerate().filter(|(_, request)| !request.inbox.is_empty());
        actions.extend(busy.map(|(number, _)| Action::Multi(number)));
        let pausing = self.requests.iter().enumerate().filter(|(_, request)| request.pauses);
        actions.extend(pausing.map(|(number, _)| Action::Ask(number)));
        for (&id, session) in &self.sessions {
            if !session.calls.is_empty() {
                actions.push(Action::Serve(id));
            }
            match session.lease {
                LeaseState::Held => {}
                LeaseState::Suspended => actions.push(Action::Resume(id)),
                LeaseState::Lost => actions.push(Action::Expire(id)),
            }
            if session.tracked.iter().any(|node| !self.is_there(*node)) {
                actions.push(Action::Heartbeat(id));
            }
        }
    }

    fn is_there(&self, (path, name): (usize, Name)) -> bool {
        self.servers[path].find(name).is_some()
    }

    // ---- and what it does ----

    pub fn apply(&mut self, scenario: &Scenario, action: Action) {
        match action {
            Action::Cancel(number) => {
                self.left.cancels -= 1;
                self.cancel(scenario, number);
            }
            Action::Release(number) => {
                self.requests[number].word = Word::Released;
                let guard = std::mem::take(&mut self.requests[number].guard);
                guard.into_iter().for_each(|lease| self.drop_lease(lease));
            }
            Action::Serve(id) => self.serve(scenario, id),
            Action::Mislay(id, carried_out) => {
                self.left.mislaid -= 1;
                if let Some(Call::Make(to, entrants)) = self.session(id).calls.pop_front() {
                    if carried_out {
                        // It may fail. Nobody learns.
                        let _ = self.create(id, &entrants);
                    }
                    self.tell_made(scenario, to, Vec::new());
                    for entrant in entrants {
                        self.tell_created(entrant, Err(unknown()), Err(unknown()));
                    }
                }
            }
            Action::Path(process, path) => self.take_path(scenario, process, path),
            Action::Multi(number) => self.take_multi(scenario, number),
            Action::Ask(number) => self.ask(scenario, number),
            Action::Heartbeat(id) => {
                let tracked = std::mem::take(&mut self.session(id).tracked);
                let (there, gone) = tracked.into_iter().partition(|node| self.is_there(*node));
                self.session(id).tracked = there;
                for (path, name) in Vec::from_iter::<BTreeSet<(usize, Name)>>(gone) {
                    self.answer(id, path, PathEvent::Missing(vec![name.text()]));
                }
            }
            Action::Doubt(id) => {
                self.left.doubts -= 1;
                self.session(id).lease = LeaseState::Suspended;
                self.tell_paths(id, ToPath::Suspended(id));
            }
            Action::Resume(id) => {
                self.session(id).lease = LeaseState::Held;
                self.tell_paths(id, ToPath::Resumed(id));
            }
            Action::Lose(id) => {
                self.left.losses -= 1;
                let session = self.session(id);
                session.lease = LeaseState::Lost;
                session.calls.retain(|call| {
                    matches!(call, Call::Make(..) | Call::MakeDirectory(..) | Call::Delete(..))
                });
                session.watches.clear();
                session.tracked.clear();
                let process = session.process;
                self.processes[process].current = None;
                self.tell_paths(id, ToPath::Lost(id));
            }
            Action::Expire(id) => {
                self.sessions.remove(&id);
                self.servers.iter_mut().for_each(|server| server.expire(id));
                self.fire();
            }
            Action::Connect(process) => self.connect(process),
            Action::Delete(path, name) => {
                self.left.deletions -= 1;
                self.struck.insert((path, name));
                self.servers[path].delete(name);
                self.fire();
            }
            Action::RemoveDirectory(path) => {
                self.left.removals -= 1;
                self.servers[path].remove_directory();
            }
            Action::TimeOut(process) => {
                self.left.timeouts -= 1;
                self.processes[process].now = DEADLINE;
            }
            Action::Wake(process, path) => {
                let state = &mut self.processes[process];
                state.now = state.now.max(state.paths[path].machine.wakeup().unwrap_or(state.now));
                self.feed(scenario, process, path, PathEvent::Wake);
            }
        }
    }

    fn connect(&mut self, process: usize) {
        let id = self.next_session;
        self.next_session += 1;
        self.sessions.insert(id, Session::new(process));
        self.processes[process].current = Some(id);
        self.tell_paths(id, ToPath::Connected(id));
    }

    /// The actors of all paths in the session's process.
    fn tell_paths(&mut self, id: u8, message: ToPath) {
        let process = self.sessions[&id].process;
        (0..PATHS).for_each(|path| self.post(process, path, message.clone()));
    }

    // ---- the server ----

    fn serve(&mut self, scenario: &Scenario, id: u8) {
        let Some(call) = self.session(id).calls.pop_front() else { return };
        match call {
            Call::Make(to, entrants) => {
                let made = self.create(id, &entrants);
                let lists: Vec<_> = entrants.iter().map(|entrant| self.names(entrant.path)).collect();
                if !self.is_lost(id) {
                    self.distribute(scenario, to, entrants, made, lists);
                }
            }
            Call::Create(entrant) => {
                let created = self.create(id, &[entrant]).map(|mut made| made.remove(0));
                let created = created.map_err(|_| Failure::NoNode);
                self.answer(id, entrant.path, Event::Created(attempt_of(entrant.attempt), created));
            }
            Call::MakeDirectory(path, attempt) => {
                self.servers[path].make_directory();
                self.answer(id, path, Event::DirectoryMade(attempt_of(attempt), Ok(())));
            }
            Call::List(path) => {
                let names = self.names(path);
                self.answer(id, path, Event::Listed(names));
            }
            Call::ReadStat(path, attempt, name) => {
                let found = self.servers[path].find(name).ok_or(Failure::NoNode);
                let found = found.map(|node| NodeStat { czxid: node.czxid.into(), owner: node.owner.into() });
                self.answer(id, path, Event::StatRead(attempt_of(attempt), found));
            }
            Call::Watch(path, name) => {
                let there = self.is_there((path, name));
                if there {
                    self.session(id).watches.insert((path, name));
                }
                let armed = if there { Ok(()) } else { Err(Failure::NoNode) };
                self.answer(id, path, Event::Watched(name.node(), armed));
            }
            Call::Delete(path, attempt, name) => {
                let deleted = self.servers[path].delete(name);
                self.fire();
                let deleted = if deleted { Ok(()) } else { Err(Failure::NoNode) };
                self.answer(id, path, Event::Deleted(attempt_of(attempt), deleted));
            }
        }
    }

    /// All at once, or none; then the first of them whose directory is missing.
    fn create(&mut self, id: u8, entrants: &[Entrant]) -> Result<Vec<Created>, usize> {
        if let Some(culprit) = entrants.iter().position(|entrant| !self.servers[entrant.path].has_directory())
        {
            return Err(culprit);
        }
        let author = self.sessions[&id].process as u8;
        let made = entrants.iter().filter_map(|entrant| {
            let name = Name { sequence: 0, author, attempt: entrant.attempt, mode: Mode::Lock };
            self.servers[entrant.path].create(name, id, false)
        });
        Ok(made.map(|(name, czxid)| Created { node: name.node(), czxid: czxid.into() }).collect())
    }

    fn names(&self, path: usize) -> Result<Vec<String>, Failure> {
        match self.servers[path].has_directory() {
            true => Ok(self.servers[path].nodes().iter().map(|node| node.name.text()).collect()),
            false => Err(Failure::NoNode),
        }
    }

    /// Watches of nodes that are gone.
    fn fire(&mut self) {
        let ids: Vec<u8> = self.sessions.keys().copied().collect();
        for id in ids {
            let watches = std::mem::take(&mut self.session(id).watches);
            let (there, gone) = watches.into_iter().partition(|node| self.is_there(*node));
            self.session(id).watches = there;
            for (path, name) in Vec::from_iter::<BTreeSet<(usize, Name)>>(gone) {
                self.answer(id, path, Event::Fired { node: name.node(), gone: true });
            }
        }
    }

    /// Those whose directories are there are given back when the transaction failed because of another one.
    fn distribute(
        &mut self,
        scenario: &Scenario,
        to: Option<(usize, u8)>,
        entrants: Vec<Entrant>,
        made: Result<Vec<Created>, usize>,
        lists: Vec<Result<Vec<String>, Failure>>,
    ) {
        let (mut back, mut answered) = (Vec::new(), Vec::new());
        for (at, (entrant, list)) in entrants.into_iter().zip(lists).enumerate() {
            match &made {
                Ok(made) => answered.push((entrant, Ok(made[at].clone()), list)),
                Err(culprit) if *culprit != at && list.is_ok() => back.push(entrant),
                Err(_) => answered.push((entrant, Err(Failure::NoNode), list)),
            }
        }
        self.tell_made(scenario, to, back);
        for (entrant, created, list) in answered {
            self.tell_created(entrant, created, list);
        }
    }

    fn tell_made(&mut self, scenario: &Scenario, to: Option<(usize, u8)>, back: Vec<Entrant>) {
        if let Some((request, round)) = to {
            self.tell(scenario, request, ToMulti::Made(round, back));
        }
    }

    /// Tells a lock what became of its contender's node.
    pub fn tell_created(
        &mut self,
        entrant: Entrant,
        created: Result<Created, Failure>,
        children: Result<Vec<String>, Failure>,
    ) {
        let process = self.requests[entrant.ticket.request].process;
        let event = Event::CreatedAndListed { attempt: attempt_of(entrant.attempt), created, children };
        self.post(process, entrant.path, ToPath::Event(entrant.epoch, event));
    }

    fn answer(&mut self, id: u8, path: usize, event: impl Into<Event>) {
        let Session { process, lease, .. } = self.sessions[&id];
        if lease != LeaseState::Lost {
            self.post(process, path, ToPath::Event(id, event.into()));
        }
    }

    pub fn post(&mut self, process: usize, path: usize, message: ToPath) {
        self.processes[process].paths[path].inbox.push_back(message);
    }

    pub fn session(&mut self, id: u8) -> &mut Session {
        self.sessions.get_mut(&id).expect("a session that an action named")
    }

    pub fn lease(&self, id: u8) -> LeaseState {
        self.sessions.get(&id).map_or(LeaseState::Lost, |session| session.lease)
    }

    pub fn is_lost(&self, id: u8) -> bool {
        self.lease(id) == LeaseState::Lost
    }
}

fn unknown() -> Failure {
    Failure::Unknown("".into())
}

pub fn attempt_of(attempt: u8) -> Attempt {
    Attempt(attempt.into())
}

impl Scenario {
    /// The paths that this request names.
    pub fn paths(&self, request: usize) -> &'static [usize] {
        self.wants.requests[request].1
    }

    /// How long it waits.
    pub fn wait(&self, request: usize) -> Wait {
        if self.paths(request).len() > 1 { self.wants.wait } else { Wait::Forever }
    }

    /// Whether it is one of several parts.
    pub fn is_joint(&self, ticket: Ticket) -> bool {
        self.paths(ticket.request).len() > 1
    }
}
