//! Processes, sessions and a server, and everything that may happen to them.

use std::collections::{BTreeMap, BTreeSet};

use super::driver;
use super::process::{
    Answer, Ask, DEADLINE, Lease, News, No, Process, Purpose, Session, Word, place, ticket,
};
use super::server::{Server, Spot, Watch};
use super::twins::Twin;
use lockkeeper_actors::machine::Machine;
use lockkeeper_actors::machine::protocol::{Event, PermitRequest, Wait};

/// Who wants what, and how much may go wrong.
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

/// How often each may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A connection goes; of what was in flight, any part may have been carried out, and any answer have come.
    pub cuts: u8,
    /// A lease is in doubt for a while.
    pub doubts: u8,
    /// A lease ends; the server drops the session some time later, and a new one is begun.
    pub losses: u8,
    /// A caller takes its request back.
    pub cancels: u8,
    /// A process' requests reach their deadline.
    pub timeouts: u8,
    /// A request is refused, and would not be a second later.
    pub refusals: u8,
    /// A follower falls behind its leader.
    pub lags: u8,
    /// An operator deletes a lease or a contender for the mutex.
    pub deletions: u8,
    /// An operator deletes the root with all leases, or the mutex' directory with all contenders.
    pub removals: u8,
    /// The limit is raised by one, or lowered by one.
    pub resizes: u8,
    /// A client of kazoo with this number of permits in mind comes once.
    pub peer: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub server: Server,
    pub processes: Vec<Process>,
    /// By id; ids are not used again.
    pub sessions: BTreeMap<u8, Session>,
    pub next_session: u8,
    pub left: Budget,
    pub peer: Peer,
    /// Its mutex was taken from it between its count and its lease: its fault.
    pub robbed: bool,
    /// What an operator deleted: its owner may not know yet.
    pub struck: BTreeSet<String>,
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
    Acquire(usize),
    Cancel(usize, usize),
    Release(usize, usize),
    /// The server carries out the oldest request of a session that has no answer yet.
    Serve(u8),
    /// The same for one whose answer nobody will get.
    ServeUnheard(u8),
    /// The same, with a no.
    Deny(u8),
    /// The oldest command's answer reaches the actor.
    Hear(u8),
    HearNews(usize),
    Fire(u8, Spot, u64),
    /// A heartbeat finds out which nodes are gone.
    Beat(u8),
    HearMissing(usize),
    /// All but the first so many answers are lost, and so are requests, but for so many of the last ones.
    Cut(u8, usize, usize),
    /// To a server that has this tree, as a place in the past.
    Reconnect(u8, usize),
    Doubt(u8),
    Resume(u8),
    Lose(u8),
    /// The server drops a session whose lease has ended.
    Expire(u8),
    Connect(usize),
    /// Time goes on to what the process waits for next.
    Tick(usize),
    Wake(usize),
    FallBehind(u8),
    CatchUp(u8),
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
        let processes: Vec<Process> = (scenario.wants.iter().enumerate())
            .map(|(number, wants)| Process::new(number, wants.len(), number as u8 + 1))
            .collect();
        let mut world = World {
            server: Server::new(scenario.limit),
            sessions: (0..processes.len())
                .map(|process| (process as u8 + 1, Session::new(process)))
                .collect(),
            next_session: processes.len() as u8 + 1,
            processes,
            left: scenario.budget,
            peer: Peer::Out,
            robbed: false,
            struck: BTreeSet::new(),
            flaws: BTreeSet::new(),
        };
        for process in 0..world.processes.len() {
            world.hear_news(scenario, process);
            if scenario.budget.cuts > 0 {
                world.server.follow(process as u8 + 1);
            }
        }
        world
    }

    pub fn session(&mut self, id: u8) -> &mut Session {
        self.sessions.get_mut(&id).expect("a session that an action named")
    }

    // ---- what may happen ----

    pub fn actions(&self, scenario: &Scenario, actions: &mut Vec<Action>) {
        if !self.flaws.is_empty() {
            return;
        }
        self.due(scenario, actions);
        let tree = self.server.now();
        for (number, process) in self.processes.iter().enumerate() {
            if process.asked.iter().any(|asked| asked.word == Word::Unasked) {
                actions.push(Action::Acquire(number));
            }
            for (at, asked) in process.asked.iter().enumerate() {
                match asked.word {
                    Word::Waiting if self.left.cancels > 0 => actions.push(Action::Cancel(number, at)),
                    // A guard that reads `Lost` is dropped like any other.
                    Word::Lost if asked.forgotten => {}
                    Word::Granted { .. } | Word::Lost => actions.push(Action::Release(number, at)),
                    Word::Unasked | Word::Waiting | Word::Refused | Word::Released => {}
                }
            }
            let due = process.machine.wakeup();
            if self.left.timeouts > 0 && due == Some(DEADLINE) && process.now < DEADLINE {
                actions.push(Action::Tick(number));
            }
        }
        for (&id, session) in &self.sessions {
            let process = &self.processes[session.process];
            let used = process.using == Some(id);
            if session.connected && self.left.cuts > 0 && used {
                let watches = self.server.watches.iter().any(|watch| watch.session == id);
                if !session.calls.is_empty() || watches {
                    let answers = session.answers();
                    let unsent = 0..=session.requests() - answers;
                    actions
                        .extend((0..=answers).flat_map(|kept| {
                            unsent.clone().map(move |unsent| Action::Cut(id, kept, unsent))
                        }));
                }
            }
            if process.current == Some(id) {
                if self.left.doubts > 0 && session.lease == Lease::Held {
                    actions.push(Action::Doubt(id));
                }
                if self.left.losses > 0 {
                    actions.push(Action::Lose(id));
                }
            }
            if used && self.left.refusals > 0 && session.connected && !session.expired {
                let next = session.unserved().map(|at| &session.calls[at]);
                if next.is_some_and(|call| call.asks[call.answers.len()] != Ask::Sync) {
                    actions.push(Action::Deny(id));
                }
            }
            if used && self.left.lags > 0 && !session.expired && !self.server.is_behind(id) {
                actions.push(Action::FallBehind(id));
            }
        }
        let strays = self.server.watches.iter().filter(|watch| watch.stray);
        actions.extend(strays.map(|watch| Action::Fire(watch.session, watch.spot.clone(), watch.survey)));
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

    /// What happens by itself sooner or later, when nobody asks for anything and nothing more goes wrong.
    pub fn due(&self, scenario: &Scenario, actions: &mut Vec<Action>) {
        for (number, process) in self.processes.iter().enumerate() {
            if !process.news.is_empty() {
                actions.push(Action::HearNews(number));
            }
            if !process.missing.is_empty() {
                actions.push(Action::HearMissing(number));
            }
            if process.current.is_none() {
                actions.push(Action::Connect(number));
            }
            match process.machine.wakeup() {
                Some(due) if due <= process.now => actions.push(Action::Wake(number)),
                Some(due) if due < DEADLINE || process.now >= DEADLINE => actions.push(Action::Tick(number)),
                Some(_) | None => {}
            }
        }
        for (&id, session) in &self.sessions {
            let process = &self.processes[session.process];
            if process.using == Some(id) {
                if session.connected && session.unserved().is_some() {
                    actions.push(Action::Serve(id));
                }
                if session.is_answered() {
                    actions.push(Action::Hear(id));
                }
                if !session.connected && session.lease != Lease::Lost {
                    actions.extend(self.server.servers(id).map(|place| Action::Reconnect(id, place)));
                }
                if session.connected {
                    let fired = self.server.watches.iter();
                    let fired = fired
                        .filter(|watch| watch.session == id && watch.fired && watch.armed && !watch.stray);
                    actions.extend(fired.map(|watch| Action::Fire(id, watch.spot.clone(), watch.survey)));
                }
            }
            if process.current == Some(id) {
                if session.connected && session.tracked.iter().any(|name| !self.server.now().has(name)) {
                    actions.push(Action::Beat(id));
                }
                if session.connected && session.lease == Lease::Suspended {
                    actions.push(Action::Resume(id));
                }
            }
            if !session.unheard.is_empty() {
                actions.push(Action::ServeUnheard(id));
            }
            if session.lease == Lease::Lost && !session.expired {
                actions.push(Action::Expire(id));
            }
            if self.server.is_behind(id) {
                actions.push(Action::CatchUp(id));
            }
        }
        if self.peer_can_go_on(scenario) {
            actions.push(Action::PeerGoesOn);
        }
    }

    // ---- and what it does ----

    pub fn apply(&mut self, scenario: &Scenario, action: Action) {
        match action {
            Action::Acquire(process) => self.acquire(scenario, process),
            Action::Cancel(process, at) => {
                self.left.cancels -= 1;
                self.feed(scenario, process, Event::Cancel(ticket(at)));
                if self.processes[process].asked[at].word == Word::Waiting {
                    self.flaws.insert(super::properties::ANSWERS);
                }
            }
            Action::Release(process, at) => {
                let asked = &mut self.processes[process].asked[at];
                if let Word::Granted { .. } = asked.word {
                    asked.word = Word::Released;
                }
                if !asked.forgotten {
                    self.feed(scenario, process, Event::Release(ticket(at)));
                }
            }
            Action::Serve(id) => self.serve(scenario, id, None),
            Action::Deny(id) => {
                self.left.refusals -= 1;
                self.serve(scenario, id, Some(Answer::No(No::Refused)));
            }
            Action::ServeUnheard(id) => {
                if let Some(ask) = self.session(id).unheard.pop_front() {
                    self.carry_out(scenario, id, &ask);
                }
                self.bury(id);
            }
            Action::Hear(id) => self.hear(scenario, id),
            Action::HearNews(process) => self.hear_news(scenario, process),
            Action::Fire(id, spot, survey) => {
                let watches = &mut self.server.watches;
                let told =
                    |watch: &Watch| watch.session == id && watch.spot == spot && watch.survey == survey;
                watches.retain(|watch| !(told(watch) && (watch.armed || watch.stray)));
                if let Spot::Contender(name) = &spot {
                    self.session(id).watching.remove(name);
                }
                let process = self.sessions[&id].process;
                if self.processes[process].using == Some(id) {
                    self.feed(scenario, process, driver::fired(spot, survey));
                }
            }
            Action::Beat(id) => {
                let tracked = std::mem::take(&mut self.session(id).tracked);
                let (there, gone): (_, BTreeSet<_>) =
                    tracked.into_iter().partition(|name| self.server.now().has(name));
                let session = self.session(id);
                session.tracked = there;
                let process = session.process;
                self.processes[process].missing.push_back(gone.into_iter().collect());
            }
            Action::HearMissing(process) => {
                let names = self.processes[process].missing.pop_front().unwrap_or_default();
                self.feed(scenario, process, Event::Missing(names));
            }
            Action::Cut(id, kept, unsent) => {
                self.left.cuts -= 1;
                if let Some(place) = self.session(id).cut(kept, unsent) {
                    self.server.answered(id, place);
                }
                // The client has not registered those whose answers it did not get.
                let calls = self.sessions[&id].calls.clone();
                self.server.watches.retain(|watch| {
                    watch.session != id
                        || watch.armed
                        || watch.stray
                        || calls.iter().any(|call| call.left(watch))
                });
            }
            Action::Reconnect(id, place) => {
                let session = self.session(id);
                session.connected = true;
                session.unheard.clear();
                self.server.lead(id, place);
            }
            Action::Doubt(id) => {
                self.left.doubts -= 1;
                self.session(id).lease = Lease::Suspended;
                self.tell(id, News::Suspended(id));
            }
            Action::Resume(id) => {
                self.session(id).lease = Lease::Held;
                self.tell(id, News::Resumed(id));
            }
            Action::Lose(id) => {
                self.left.losses -= 1;
                let session = self.session(id);
                session.lease = Lease::Lost;
                let process = session.process;
                self.processes[process].current = None;
                self.tell(id, News::Lost(id));
            }
            Action::Expire(id) => {
                self.server.expire(id);
                let session = self.session(id);
                session.expired = true;
                session.unheard.clear();
                self.bury(id);
            }
            Action::Connect(process) => {
                let id = self.next_session;
                self.next_session += 1;
                self.sessions.insert(id, Session::new(process));
                self.server.follow(id);
                self.processes[process].current = Some(id);
                self.processes[process].news.push_back(News::Connected(id));
            }
            Action::Tick(process) => {
                let process = &mut self.processes[process];
                if let Some(due) = process.machine.wakeup() {
                    self.left.timeouts -= u8::from(due == DEADLINE && process.now < DEADLINE);
                    process.now = due;
                }
                // It took too long.
                process.asked.iter_mut().for_each(|asked| asked.free = false);
            }
            Action::Wake(process) => self.feed(scenario, process, Event::Wake),
            Action::FallBehind(id) => {
                self.left.lags -= 1;
                self.server.fall_behind(id);
            }
            Action::CatchUp(id) => self.server.catch_up(id),
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
                self.server.enter(PEERS_MUTEX, PEER);
                self.peer = Peer::Queued;
            }
            Action::PeerGoesOn => self.peer_goes_on(),
            Action::PeerLeaves | Action::PeerDies => {
                self.server.expire(PEER);
                (self.peer, self.left.peer) = (Peer::Out, 0);
            }
        }
        self.look_on(scenario);
        self.forget();
    }

    /// What cannot be seen any more makes no difference between two states.
    fn forget(&mut self) {
        for (id, session) in &self.sessions {
            if self.left.cuts == 0 && session.connected {
                self.server.unfollow(*id);
            }
        }
        let forgotten = self.server.forget();
        for session in self.sessions.values_mut() {
            for place in session.calls.iter_mut().flat_map(|call| &mut call.shown) {
                *place = if self.left.cuts == 0 { 0 } else { place.saturating_sub(forgotten) };
            }
        }
    }

    fn acquire(&mut self, scenario: &Scenario, process: usize) {
        let asked = &mut self.processes[process].asked;
        let Some(at) = asked.iter().position(|asked| asked.word == Word::Unasked) else { return };
        let limits = self.server.now().root.as_ref().map(|root| root.limit).into_iter().collect();
        (asked[at].word, asked[at].limits, asked[at].free) = (Word::Waiting, limits, true);
        let Want { count, limit, agreed, wait } = scenario.wants[process][at];
        let request = PermitRequest { count, limit, agreed, bytes: 100, wait };
        // What is so now may be the reason for an answer at once.
        self.look_on(scenario);
        self.feed(scenario, process, Event::AcquirePermits { ticket: ticket(at), request });
    }

    /// What those who wait might truly be told.
    fn look_on(&mut self, scenario: &Scenario) {
        let tree = self.server.now();
        let limit = tree.root.as_ref().map(|root| root.limit);
        let used = tree.leases().count() as u32;
        for number in 0..self.processes.len() {
            let process = &self.processes[number];
            let sure = process
                .using
                .is_some_and(|id| self.sessions[&id].lease == Lease::Held && !self.server.is_behind(id));
            let alone = tree.contenders().iter().all(|node| Some(node.owner) == process.using);
            let first = process.asked.iter().filter(|asked| asked.word == Word::Waiting).count() == 1;
            for (asked, want) in self.processes[number].asked.iter_mut().zip(scenario.wants[number]) {
                if asked.word == Word::Waiting {
                    asked.limits.extend(limit);
                    let fits = limit.is_none_or(|limit| used + want.count <= limit);
                    asked.free &= sure && alone && first && fits;
                }
            }
        }
    }

    fn tell(&mut self, id: u8, news: News) {
        let process = self.sessions[&id].process;
        self.processes[process].news.push_back(news);
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

    /// A session that is over is of no more interest once nobody uses it.
    pub fn bury(&mut self, id: u8) {
        let session = &self.sessions[&id];
        if session.expired && self.processes[session.process].using != Some(id) {
            self.sessions.remove(&id);
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

    // ---- the server ----

    fn serve(&mut self, scenario: &Scenario, id: u8, denied: Option<Answer>) {
        let Some(at) = self.sessions[&id].unserved() else { return };
        let call = &self.sessions[&id].calls[at];
        let ask = call.asks[call.answers.len()].clone();
        let answer = denied.unwrap_or_else(|| self.carry_out(scenario, id, &ask));
        let place = self.server.place(id);
        let call = &mut self.session(id).calls[at];
        call.answers.push(answer);
        call.shown.push(place);
    }

    fn carry_out(&mut self, scenario: &Scenario, id: u8, ask: &Ask) -> Answer {
        if self.sessions[&id].expired {
            return Answer::No(No::SessionGone);
        }
        if ask.writes() || *ask == Ask::Sync {
            self.server.refresh(id);
        }
        let mut watch = None;
        let seen = self.server.seen(id);
        let none = Answer::No(No::Missing);
        let done = |there: bool| if there { Answer::Done } else { Answer::No(No::Missing) };
        let answer = match ask {
            Ask::Create(prefix) => match self.server.enter(prefix, id) {
                Some((name, czxid)) => Answer::Created(name, czxid),
                None => none,
            },
            Ask::List => match &seen.mutex {
                Some(mutex) => Answer::Names(mutex.nodes.iter().map(|node| node.name.clone()).collect()),
                None => none,
            },
            Ask::Sync => Answer::Done,
            Ask::MakeDirectory => {
                self.server.change(|tree| {
                    tree.mutex.get_or_insert_default();
                });
                Answer::Done
            }
            Ask::Inspect(name) => match seen.contender(name) {
                Some(node) => Answer::Found { czxid: node.czxid, owner: node.owner },
                None => none,
            },
            Ask::Watch(name) => {
                let there = seen.contender(name).is_some();
                watch = there.then(|| (Spot::Contender(name.clone()), 0));
                done(there)
            }
            Ask::Delete(name) => done(self.server.delete(name)),
            Ask::ReadRoot { watch: survey } => match &seen.root {
                Some(root) => {
                    watch = survey.map(|survey| (Spot::Limit, survey));
                    Answer::Root { version: root.version, written: root.mzxid, limit: root.limit }
                }
                None => none,
            },
            Ask::ListLeases { watch: survey } => match &seen.root {
                Some(root) => {
                    watch = survey.map(|survey| (Spot::Leases, survey));
                    Answer::Leases(root.leases.keys().cloned().collect(), root.mzxid)
                }
                None => none,
            },
            Ask::MakeRoot(limit) => {
                self.server.make_root(*limit);
                Answer::Done
            }
            Ask::Take { version, mutex, keep, leases } => {
                self.take(scenario, id, *version, mutex, *keep, leases)
            }
        };
        if let Some((spot, survey)) = watch {
            let watch = Watch { session: id, spot, survey, fired: false, armed: false, stray: false };
            self.server.watches.push(watch);
        }
        answer
    }

    fn take(
        &mut self,
        scenario: &Scenario,
        id: u8,
        version: i32,
        mutex: &str,
        keep: bool,
        leases: &[String],
    ) -> Answer {
        let tree = self.server.now();
        if tree.contender(mutex).is_none() && scenario.twin != Some(Twin::TakesWithoutMutex) {
            return Answer::No(No::MutexGone);
        }
        match &tree.root {
            None => return Answer::No(No::RootGone),
            Some(root) if root.version != version && scenario.twin != Some(Twin::TakesAnyLimit) => {
                return Answer::No(No::LimitChanged);
            }
            Some(_) => {}
        }
        self.server.change(|tree| {
            if let Some(root) = &mut tree.root {
                root.leases.extend(leases.iter().map(|name| (name.clone(), id)));
            }
            if let Some(directory) = tree.mutex.as_mut().filter(|_| !keep) {
                directory.nodes.retain(|node| node.name != mutex);
            }
        });
        let root = self.server.now().root.as_ref();
        if root.is_some_and(|root| root.leases.len() > root.limit as usize) && !self.robbed {
            self.flaws.insert(super::properties::EXCLUSION);
        }
        Answer::Done
    }

    pub fn expect(
        &mut self,
        process: usize,
        ticket: lockkeeper_actors::machine::protocol::Ticket,
        next: impl FnOnce(&Word) -> Option<Word>,
    ) {
        let asked = place(ticket).and_then(|place| self.processes[process].asked.get_mut(place));
        match asked {
            Some(asked) if !asked.forgotten => match next(&asked.word) {
                Some(word) => asked.word = word,
                None => {
                    self.flaws.insert(super::properties::ANSWERS);
                }
            },
            Some(_) | None => {
                self.flaws.insert(super::properties::ANSWERS);
            }
        }
    }
}

impl super::process::Call {
    /// Whether this watch was left by a request whose answer is still to come.
    fn left(&self, watch: &Watch) -> bool {
        self.asks.iter().zip(&self.answers).any(|(ask, answer)| {
            !matches!(answer, Answer::No(_))
                && match (ask, &watch.spot) {
                    (Ask::Watch(name), Spot::Contender(watched)) => name == watched,
                    (Ask::ReadRoot { watch: Some(survey) }, Spot::Limit)
                    | (Ask::ListLeases { watch: Some(survey) }, Spot::Leases) => *survey == watch.survey,
                    _ => false,
                }
        }) && !matches!(self.purpose, Purpose::Return(_))
    }
}
