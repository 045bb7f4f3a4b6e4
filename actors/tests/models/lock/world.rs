//! Processes, sessions and a server, and everything that may happen to them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use lockkeeper_actors::machine::Machine;
use lockkeeper_actors::machine::protocol::{Command, Created, Event, Inspection, Request, Ticket, Wait};
use lockkeeper_actors::machine::znode::{Attempt, Dialect, Mode, Patterns};

use super::process::{Answer, Ask, Asked, Call, DEADLINE, Lease, News, No, Process, Session, Word};
use super::server::{Directory, Name, Server};
use super::twins::Twin;

/// One row of the table: who wants what, and how much may go wrong.
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
    /// A process is gone.
    pub crashes: u8,
    /// A caller takes its request back.
    pub cancels: u8,
    /// A process' requests reach their deadline.
    pub timeouts: u8,
    /// A lock is closed with all that wait for it.
    pub closes: u8,
    /// A request is refused, and would not be a second later.
    pub refusals: u8,
    /// A follower falls behind its leader.
    pub lags: u8,
    /// An operator writes to a node.
    pub touches: u8,
    /// An operator deletes a node.
    pub deletions: u8,
    /// An operator deletes the directory with all that is in it.
    pub removals: u8,
    /// A foreign client, kazoo for one, queues in this mode, holds and leaves; it goes without warning, too.
    pub peers: u8,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = [
            ("cuts", self.cuts),
            ("doubts", self.doubts),
            ("losses", self.losses),
            ("crashes", self.crashes),
            ("cancels", self.cancels),
            ("timeouts", self.timeouts),
            ("closes", self.closes),
            ("refusals", self.refusals),
            ("lags", self.lags),
            ("touches", self.touches),
            ("deletions", self.deletions),
            ("removals", self.removals),
            ("peers", self.peers),
        ];
        let text =
            faults.iter().filter(|(_, times)| *times > 0).map(|(fault, times)| format!("{times} {fault}"));
        f.write_str(&text.collect::<Vec<_>>().join(", "))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub server: Server,
    pub processes: Vec<Process>,
    /// By id; ids are not used again.
    pub sessions: BTreeMap<u8, Session>,
    pub next_session: u8,
    pub left: Budget,
    /// The foreign client's node, if it has one.
    pub peer: Option<Name>,
    /// What an operator deleted: its owner may not know yet.
    pub struck: BTreeSet<Name>,
    /// The largest number, and the largest token, that was granted so far: to anybody, and to one who excludes
    /// readers. Numbers begin anew with the directory.
    pub order: Highest,
    pub tokens: Highest,
    /// What should not have happened on the way here.
    pub flaws: BTreeSet<Flaw>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Highest {
    pub any: i64,
    pub exclusive: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flaw {
    /// A grant came after one to somebody behind.
    Order,
    /// A token was not larger than that of an earlier grant that conflicts.
    Token,
    /// A grant was given while the lease was in doubt.
    Doubt,
    /// A caller was told what it should not be: twice, or something else after the last word, or a grant past its
    /// deadline, or a release that did not happen.
    Answer,
    /// A request was sent again while it was still unanswered, or at once after it had been refused.
    Storm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The oldest command's answer reaches the lock's actor.
    Hear(u8),
    HearNews(usize),
    Fire(u8, Name),
    Touch(u8, Name),
    /// A heartbeat finds out which nodes are gone.
    Beat(u8),
    HearMissing(usize),
    /// All but the first so many answers are lost.
    Cut(u8, usize),
    /// To a server that has this state, as a place in the past.
    Reconnect(u8, u8),
    Doubt(u8),
    Resume(u8),
    Lose(u8),
    /// The server drops a session whose lease has ended.
    Expire(u8),
    Connect(usize),
    Crash(usize),
    Close(usize),
    /// A process that is closed and has nothing left to do ends its session.
    End(usize),
    /// Time goes on to what the process waits for next.
    Tick(usize),
    Wake(usize),
    FallBehind(u8),
    CatchUp(u8),
    Delete(Name),
    Remove,
    PeerEnters(Mode),
    PeerLeaves,
}

/// The author of the foreign client's nodes, and its session.
pub const PEER: u8 = 14;

impl World {
    pub fn new(scenario: &Scenario) -> World {
        let processes: Vec<Process> = (scenario.wants.iter().enumerate())
            .map(|(number, wants)| Process::new(number, wants.len(), number as u8 + 1))
            .collect();
        let mut world = World {
            server: Server::new(scenario.next.map(|next| Directory { next, nodes: Vec::new() })),
            sessions: (0..processes.len())
                .map(|process| (process as u8 + 1, Session::new(process)))
                .collect(),
            next_session: processes.len() as u8 + 1,
            processes,
            left: scenario.budget,
            peer: None,
            struck: BTreeSet::new(),
            order: Highest::NONE,
            tokens: Highest::NONE,
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

    // ---- what may happen ----

    pub fn actions(&self, scenario: &Scenario, actions: &mut Vec<Action>) {
        if !self.flaws.is_empty() {
            return;
        }
        self.due(actions);
        for (number, process) in self.processes.iter().enumerate().filter(|(_, process)| process.alive) {
            if let Some(next) = process.asked.iter().position(|asked| asked.word == Word::Unasked) {
                // Tickets in order: nothing is gained by asking for the second before the first.
                debug_assert!(next < scenario.wants[number].len());
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
            if self.left.closes > 0 && !process.closed {
                actions.push(Action::Close(number));
            }
            if self.left.timeouts > 0 && process.queue.wakeup() == Some(DEADLINE) && process.now < DEADLINE {
                actions.push(Action::Tick(number));
            }
        }
        for (&id, session) in &self.sessions {
            let process = &self.processes[session.process];
            let used = process.alive && process.using == Some(id);
            if session.connected && self.left.cuts > 0 && used {
                let unserved = session.unserved().unwrap_or(session.calls.len());
                let kept = 0..=unserved;
                let bare = session.calls.is_empty() && session.watches.is_empty();
                actions.extend(kept.filter(|_| !bare).map(|kept| Action::Cut(id, kept)));
            }
            if process.alive && process.current == Some(id) {
                if self.left.doubts > 0 && session.lease == Lease::Held {
                    actions.push(Action::Doubt(id));
                }
                if self.left.losses > 0 {
                    actions.push(Action::Lose(id));
                }
            }
            if used && self.left.refusals > 0 && session.connected && !session.expired {
                match session.unserved().map(|at| session.calls[at].ask) {
                    Some(Ask::Sync) | None => {}
                    Some(_) => actions.push(Action::Deny(id)),
                }
            }
            if used && self.left.lags > 0 && !session.expired && !self.server.is_behind(id) {
                actions.push(Action::FallBehind(id));
            }
            if used && self.left.touches > 0 {
                let armed = session.watches.iter().filter(|(_, armed)| **armed);
                actions.extend(armed.map(|(name, _)| Action::Touch(id, *name)));
            }
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

    /// What happens by itself sooner or later, when nobody asks for anything and nothing more goes wrong.
    pub fn due(&self, actions: &mut Vec<Action>) {
        for (number, process) in self.processes.iter().enumerate().filter(|(_, process)| process.alive) {
            if !process.news.is_empty() {
                actions.push(Action::HearNews(number));
            }
            if !process.missing.is_empty() {
                actions.push(Action::HearMissing(number));
            }
            match process.current {
                None if !process.closed => actions.push(Action::Connect(number)),
                Some(_) if process.closed && process.queue.is_idle() => actions.push(Action::End(number)),
                Some(_) | None => {}
            }
            match process.queue.wakeup() {
                Some(due) if due <= process.now => actions.push(Action::Wake(number)),
                Some(due) if due < DEADLINE || process.now >= DEADLINE => actions.push(Action::Tick(number)),
                Some(_) | None => {}
            }
        }
        for (&id, session) in &self.sessions {
            let process = &self.processes[session.process];
            if process.alive && process.using == Some(id) {
                if session.connected && session.unserved().is_some() {
                    actions.push(Action::Serve(id));
                }
                if session.answered().is_some() {
                    actions.push(Action::Hear(id));
                }
                let seen = self.server.seen(id);
                let gone =
                    |name: &Name| seen.is_none_or(|seen| seen.nodes.iter().all(|node| node.name != *name));
                let armed = session.watches.iter().filter(|(_, armed)| **armed);
                actions.extend(armed.filter(|(name, _)| gone(name)).map(|(name, _)| Action::Fire(id, *name)));
                if !session.connected && session.lease != Lease::Lost {
                    actions.extend(self.server.servers(id).map(|place| Action::Reconnect(id, place)));
                }
            }
            if process.alive && process.current == Some(id) {
                if session.connected && session.tracked.iter().any(|name| self.server.find(*name).is_none()) {
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
    }

    // ---- and what it does ----

    pub fn apply(&mut self, scenario: &Scenario, action: Action) {
        match action {
            Action::Acquire(process) => self.acquire(scenario, process),
            Action::Cancel(process, ticket) => {
                self.left.cancels -= 1;
                self.processes[process].asked[ticket].word = Word::Cancelling;
                self.feed(scenario, process, Event::Cancel(Ticket::numbered(ticket as u64)));
            }
            Action::Release(process, ticket) => {
                let word = &mut self.processes[process].asked[ticket].word;
                if let Word::Granted { .. } = word {
                    *word = Word::Released;
                }
                self.feed(scenario, process, Event::Release(Ticket::numbered(ticket as u64)));
            }
            Action::Serve(id) => self.serve(id, None),
            Action::Deny(id) => {
                self.left.refusals -= 1;
                self.serve(id, Some(Answer::No(No::Refused)));
            }
            Action::ServeUnheard(id) => {
                if let Some(ask) = self.session(id).unheard.pop_front() {
                    self.carry_out(id, ask);
                }
                self.bury(id);
            }
            Action::Hear(id) => self.hear(scenario, id),
            Action::HearNews(process) => self.hear_news(scenario, process),
            Action::Fire(id, name) => self.fire(scenario, id, name, true),
            Action::Touch(id, name) => {
                self.left.touches -= 1;
                self.fire(scenario, id, name, false);
            }
            Action::Beat(id) => {
                let tracked = std::mem::take(&mut self.session(id).tracked);
                let (there, gone) = tracked.into_iter().partition(|name| self.server.find(*name).is_some());
                let session = self.session(id);
                session.tracked = there;
                let process = session.process;
                self.processes[process].missing.push_back(Vec::from_iter::<BTreeSet<Name>>(gone));
            }
            Action::HearMissing(process) => {
                let names = self.processes[process].missing.pop_front().unwrap_or_default();
                let names = names.iter().map(Name::text).collect();
                self.feed(scenario, process, Event::Missing(names));
            }
            Action::Cut(id, kept) => {
                self.left.cuts -= 1;
                if let Some(place) = self.session(id).cut(kept) {
                    self.server.answered(id, place);
                }
            }
            Action::Reconnect(id, place) => {
                self.server.lead(id, place);
                let session = self.session(id);
                session.connected = true;
                session.unheard.clear();
                if scenario.twin == Some(Twin::WatchesLostOnReconnect) {
                    session.watches.values_mut().for_each(|armed| *armed = false);
                }
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
                self.lose(id);
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
            Action::Crash(process) => {
                self.left.crashes -= 1;
                let gone = &mut self.processes[process];
                (gone.alive, gone.using, gone.current) = (false, None, None);
                gone.news.clear();
                gone.missing.clear();
                let ids: Vec<u8> = self.sessions.keys().copied().collect();
                for id in ids {
                    let session = self.session(id);
                    if session.process == process {
                        session.abandon();
                        session.lease = Lease::Lost;
                        self.server.unfollow(id);
                        self.bury(id);
                    }
                }
            }
            Action::Close(process) => {
                self.left.closes -= 1;
                self.processes[process].closed = true;
                self.feed(scenario, process, Event::Close);
            }
            Action::End(process) => {
                if let Some(id) = self.processes[process].current {
                    self.lose(id);
                }
            }
            Action::Tick(process) => {
                let process = &mut self.processes[process];
                if let Some(due) = process.queue.wakeup() {
                    self.left.timeouts -= u8::from(due == DEADLINE && process.now < DEADLINE);
                    process.now = due;
                }
            }
            Action::Wake(process) => self.feed(scenario, process, Event::Wake),
            Action::FallBehind(id) => {
                self.left.lags -= 1;
                self.server.fall_behind(id);
            }
            Action::CatchUp(id) => self.server.catch_up(id),
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
        for call in self.sessions.values_mut().flat_map(|session| &mut session.calls) {
            call.shown = if self.left.cuts == 0 { 0 } else { call.shown.saturating_sub(forgotten) };
        }
    }

    fn acquire(&mut self, scenario: &Scenario, process: usize) {
        let asked = &mut self.processes[process].asked;
        let Some(ticket) = asked.iter().position(|asked| asked.word == Word::Unasked) else { return };
        asked[ticket].word = Word::Waiting;
        let Want { mode, wait, ephemeral } = scenario.wants[process][ticket];
        let request =
            Request { mode, dialect: Dialect::Kazoo, patterns: Patterns::from([]), ephemeral, wait };
        self.feed(scenario, process, Event::Acquire { ticket: Ticket::numbered(ticket as u64), request });
    }

    fn lose(&mut self, id: u8) {
        let session = self.session(id);
        session.lease = Lease::Lost;
        let process = session.process;
        self.processes[process].current = None;
        self.tell(id, News::Lost(id));
    }

    fn tell(&mut self, id: u8, news: News) {
        let process = self.sessions[&id].process;
        self.processes[process].news.push_back(news);
    }

    fn strike(&mut self, name: Name) {
        if self.peer == Some(name) {
            self.peer = None;
        } else {
            self.struck.insert(name);
        }
    }

    // ---- the server ----

    fn serve(&mut self, id: u8, denied: Option<Answer>) {
        let Some(at) = self.sessions[&id].unserved() else { return };
        let ask = self.sessions[&id].calls[at].ask;
        if let (Ask::List { attempt }, Some(Ask::Sync)) =
            (ask, at.checked_sub(1).map(|before| self.sessions[&id].calls[before].ask))
        {
            self.give_up_looking(id, attempt);
        }
        let answer = denied.unwrap_or_else(|| self.carry_out(id, ask));
        let place = self.server.place(id);
        let call = &mut self.session(id).calls[at];
        (call.answer, call.shown) = (Some(answer), place);
    }

    /// What an earlier session of the same process has yet to create is not found any more.
    fn give_up_looking(&mut self, id: u8, wanted: u8) {
        let process = self.sessions[&id].process;
        for session in self.sessions.values_mut().filter(|session| session.process == process) {
            for ask in &mut session.unheard {
                if let Ask::Create { name, ephemeral: false, belated } = ask {
                    *belated |= name.attempt == wanted;
                }
            }
        }
    }

    fn carry_out(&mut self, id: u8, ask: Ask) -> Answer {
        if self.sessions[&id].expired {
            return Answer::No(No::SessionGone);
        }
        if ask.writes() || ask == Ask::Sync {
            self.server.refresh(id);
        }
        let there = |found: bool| if found { Answer::Done } else { Answer::No(No::Missing) };
        let seen = self.server.seen(id);
        let find = |name: Name| seen.and_then(|seen| seen.nodes.iter().find(|node| node.name == name));
        match ask {
            Ask::Create { name, ephemeral, belated } => {
                match self.server.create(name, if ephemeral { id } else { 0 }, belated) {
                    Some((name, czxid)) => Answer::Created(name, czxid),
                    None => Answer::No(No::Missing),
                }
            }
            Ask::Sync => Answer::Done,
            Ask::List { .. } => match seen {
                Some(seen) => Answer::Names(seen.nodes.iter().map(|node| node.name).collect()),
                None => Answer::No(No::Missing),
            },
            Ask::MakeDirectory { .. } => {
                self.server.make_directory();
                Answer::Done
            }
            Ask::Read { name, .. } => match find(name) {
                Some(node) => Answer::Found { czxid: node.czxid, owner: node.owner },
                None => Answer::No(No::Missing),
            },
            Ask::Watch { name } => there(find(name).is_some()),
            Ask::Delete { name, .. } => there(self.server.delete(name)),
        }
    }

    /// A session that is over is of no more interest once nobody uses it.
    fn bury(&mut self, id: u8) {
        let session = &self.sessions[&id];
        let process = &self.processes[session.process];
        if session.expired && process.using != Some(id) && !process.news.contains(&News::Connected(id)) {
            self.sessions.remove(&id);
        }
    }

    fn session(&mut self, id: u8) -> &mut Session {
        self.sessions.get_mut(&id).expect("a session that an action named")
    }

    // ---- the driver, as `src/lock.rs` does it ----

    fn hear(&mut self, scenario: &Scenario, id: u8) {
        let session = self.session(id);
        let Some(parts) = session.answered() else { return };
        let process = session.process;
        let mut calls: Vec<Call> = session.calls.drain(..parts).collect();
        calls.iter().for_each(|call| self.server.answered(id, call.shown));
        let second = if parts == 2 { calls.pop() } else { None };
        let (Some(Call { ask, answer: Some(answer), .. }), second) = (calls.pop(), second) else { return };
        let refused = (answer == Answer::No(No::Refused)).then_some(ask);
        let no = |answer: &Answer| match answer {
            Answer::No(no) => Err(no.failure()),
            Answer::Done | Answer::Created(..) | Answer::Names(_) | Answer::Found { .. } => Ok(()),
        };
        let names = |answer: &Answer| match answer {
            Answer::Names(names) => Ok(names.iter().map(Name::text).collect()),
            other => no(other).map(|()| Vec::new()),
        };
        let event = match (ask, second) {
            (Ask::Create { name, .. }, Some(Call { answer: Some(list), .. })) => Event::Entered {
                attempt: attempt_of(name.attempt),
                created: match answer {
                    Answer::Created(name, czxid) => Ok(Created { node: name.node(), czxid: czxid.into() }),
                    Answer::No(no) => Err(no.failure()),
                    Answer::Done | Answer::Names(_) | Answer::Found { .. } => return,
                },
                children: names(&list),
            },
            (Ask::Sync, Some(Call { ask: Ask::List { attempt }, answer: Some(list), .. })) => {
                Event::Looked(attempt_of(attempt), no(&answer).and_then(|()| names(&list)))
            }
            (Ask::List { attempt }, _) => Event::Listed(attempt_of(attempt), names(&answer)),
            (Ask::MakeDirectory { attempt }, _) => Event::DirectoryMade(attempt_of(attempt), no(&answer)),
            (Ask::Read { attempt, .. }, _) => Event::Inspected(
                attempt_of(attempt),
                match answer {
                    Answer::Found { czxid, owner } => {
                        Ok(Inspection { czxid: czxid.into(), owner: owner.into() })
                    }
                    Answer::No(no) => Err(no.failure()),
                    Answer::Done | Answer::Created(..) | Answer::Names(_) => return,
                },
            ),
            (Ask::Watch { name }, _) => match no(&answer) {
                Ok(()) => match self.session(id).watches.get_mut(&name) {
                    Some(armed) => {
                        *armed = true;
                        Event::Watched(name.node(), Ok(()))
                    }
                    None => return,
                },
                Err(failure) => {
                    self.session(id).watches.remove(&name);
                    Event::Watched(name.node(), Err(failure))
                }
            },
            (Ask::Delete { attempt, .. }, _) => Event::Deleted(attempt_of(attempt), no(&answer)),
            (Ask::Create { .. } | Ask::Sync, _) => return,
        };
        self.feed_answer(scenario, process, event, refused);
    }

    fn fire(&mut self, scenario: &Scenario, id: u8, name: Name, gone: bool) {
        let session = self.session(id);
        session.watches.remove(&name);
        let process = session.process;
        self.feed(scenario, process, Event::Fired { node: name.node(), gone });
    }

    fn hear_news(&mut self, scenario: &Scenario, process: usize) {
        let Some(news) = self.processes[process].news.pop_front() else { return };
        let using = self.processes[process].using;
        match news {
            News::Connected(id) => {
                self.let_go(process);
                if using.is_some() {
                    self.feed(scenario, process, Event::Lost);
                }
                self.processes[process].using = Some(id);
                self.feed(scenario, process, Event::Connected { session: id.into() });
            }
            News::Suspended(id) if using == Some(id) => self.feed(scenario, process, Event::Suspended),
            News::Resumed(id) if using == Some(id) => self.feed(scenario, process, Event::Resumed),
            News::Lost(id) if using == Some(id) => {
                self.let_go(process);
                self.feed(scenario, process, Event::Lost);
            }
            News::Suspended(_) | News::Resumed(_) | News::Lost(_) => {}
        }
    }

    fn let_go(&mut self, process: usize) {
        if let Some(id) = self.processes[process].using.take() {
            self.session(id).abandon();
            self.server.unfollow(id);
            self.bury(id);
        }
    }

    fn feed(&mut self, scenario: &Scenario, number: usize, event: Event) {
        self.feed_answer(scenario, number, event, None);
    }

    /// The same with the request that this event says was refused.
    fn feed_answer(&mut self, scenario: &Scenario, number: usize, event: Event, refused: Option<Ask>) {
        let sure = |id| self.sessions[&id].lease == Lease::Held;
        let sure = self.processes[number].using.is_some_and(sure);
        let mut events = Vec::new();
        if self.processes[number].queue.is_up() && !sure {
            events.push(Event::Suspended);
        }
        if sure || event != Event::Resumed || scenario.twin == Some(Twin::OldNewsResumes) {
            events.push(event);
        }
        let mut commands = Vec::new();
        for event in events {
            let event = match scenario.twin {
                Some(twin) => twin.event(self, number, event),
                None => Some(event),
            };
            if let Some(event) = event {
                let process = &mut self.processes[number];
                process.queue.handle(event, process.now, &mut commands);
            }
        }
        for command in commands {
            let command = match scenario.twin {
                Some(twin) => twin.command(command),
                None => Some(command),
            };
            if let Some(command) = command {
                self.execute(scenario, number, command, refused);
            }
        }
    }

    fn execute(&mut self, scenario: &Scenario, number: usize, command: Command, refused: Option<Ask>) {
        let using = self.processes[number].using;
        let mut storm = false;
        let mut submit = |asks: &[Ask]| {
            if let Some(session) = using.and_then(|id| self.sessions.get_mut(&id)) {
                storm = asks.iter().any(|ask| session.is_unanswered(*ask) || refused == Some(*ask));
                asks.iter().for_each(|ask| session.submit(*ask));
            }
        };
        match command {
            Command::List(attempt) => submit(&[Ask::List { attempt: attempt.0 as u8 }]),
            Command::Look(attempt) => submit(&[Ask::Sync, Ask::List { attempt: attempt.0 as u8 }]),
            Command::MakeDirectory(attempt, _) => submit(&[Ask::MakeDirectory { attempt: attempt.0 as u8 }]),
            Command::Inspect(attempt, node) => {
                submit(&[Ask::Read { attempt: attempt.0 as u8, name: Name::of(&node) }])
            }
            Command::Enter(attempt, ticket) => {
                let Want { mode, ephemeral, .. } = scenario.wants[number][ticket.number() as usize];
                let attempt = attempt.0 as u8;
                let name = Name { sequence: 0, author: number as u8, attempt, mode: named(mode) };
                submit(&[Ask::Create { name, ephemeral, belated: false }, Ask::List { attempt }]);
                self.asked(number, ticket).attempt = Some(attempt);
            }
            Command::Watch(node) => {
                let name = Name::of(&node);
                submit(&[Ask::Watch { name }]);
                if let Some(id) = using {
                    self.session(id).watches.insert(name, false);
                }
            }
            Command::Unwatch(node) => {
                if let Some(id) = using {
                    self.session(id).watches.remove(&Name::of(&node));
                }
            }
            Command::Delete(attempt, node) => {
                let name = Name::of(&node);
                submit(&[Ask::Delete { attempt: attempt.0 as u8, name }]);
                if let Some(id) = using {
                    self.session(id).tracked.remove(&name);
                }
            }
            Command::Track(node) => {
                if let Some(id) = using {
                    self.session(id).tracked.insert(Name::of(&node));
                }
            }
            Command::Grant { ticket, node, czxid } => {
                self.grant(scenario, number, ticket, Name::of(&node), czxid)
            }
            Command::Queued(ticket, _) => self.expect(number, ticket, |word| match word {
                Word::Waiting | Word::Cancelling => Some(word),
                Word::Unasked | Word::Refused | Word::Granted { .. } | Word::Lost | Word::Released => None,
            }),
            Command::Refuse(ticket, _) => self.expect(number, ticket, |word| match word {
                Word::Waiting | Word::Cancelling => Some(Word::Refused),
                Word::Unasked | Word::Refused | Word::Granted { .. } | Word::Lost | Word::Released => None,
            }),
            Command::Suspend(ticket) | Command::Resume(ticket) => {
                self.expect(number, ticket, |word| match word {
                    // A release may be on its way.
                    Word::Granted { .. } | Word::Released => Some(word),
                    Word::Unasked | Word::Waiting | Word::Cancelling | Word::Refused | Word::Lost => None,
                })
            }
            Command::Lose(ticket) => self.expect(number, ticket, |word| match word {
                Word::Granted { .. } => Some(Word::Lost),
                Word::Released => Some(word),
                Word::Unasked | Word::Waiting | Word::Cancelling | Word::Refused | Word::Lost => None,
            }),
            Command::Forget { ticket, confirmed } => {
                let attempt = self.asked(number, ticket).attempt;
                let mut nodes = self.server.nodes().iter();
                let there =
                    nodes.any(|node| node.name.author == number as u8 && Some(node.name.attempt) == attempt);
                let asked = self.asked(number, ticket);
                let told = matches!(asked.word, Word::Refused | Word::Lost | Word::Released);
                if asked.forgotten || !told || (asked.word == Word::Released && confirmed && there) {
                    self.flaws.insert(Flaw::Answer);
                }
                self.asked(number, ticket).forgotten = true;
            }
            Command::Survey { .. }
            | Command::Calm
            | Command::MakeRoot { .. }
            | Command::Take { .. }
            | Command::FindLeases(_)
            | Command::Return(_)
            | Command::TrackLease(_)
            | Command::GrantPermits { .. } => unreachable!("a lock has no permits"),
        }
        if storm {
            self.flaws.insert(Flaw::Storm);
        }
    }

    fn grant(&mut self, scenario: &Scenario, number: usize, ticket: Ticket, name: Name, czxid: i64) {
        let Want { mode, wait, ephemeral } = scenario.wants[number][ticket.number() as usize];
        let process = &self.processes[number];
        let late = wait == Wait::Until(DEADLINE) && process.now >= DEADLINE;
        let session = process.using.filter(|_| ephemeral);
        if process.using.is_none_or(|id| self.sessions[&id].lease != Lease::Held) {
            self.flaws.insert(Flaw::Doubt);
        }
        self.expect(number, ticket, |word| match word {
            Word::Waiting if !late => Some(Word::Granted { name, session }),
            Word::Waiting | Word::Unasked | Word::Cancelling | Word::Refused => None,
            Word::Granted { .. } | Word::Lost | Word::Released => None,
        });
        // Its owner does not know yet that an operator deleted it.
        if !self.struck.contains(&name) {
            if !self.order.rise(mode, name.sequence.into()) {
                self.flaws.insert(Flaw::Order);
            }
            if !self.tokens.rise(mode, czxid) {
                self.flaws.insert(Flaw::Token);
            }
        }
    }

    fn expect(&mut self, number: usize, ticket: Ticket, next: impl FnOnce(Word) -> Option<Word>) {
        let asked = self.asked(number, ticket);
        match next(asked.word).filter(|_| !asked.forgotten) {
            Some(word) => asked.word = word,
            None => {
                self.flaws.insert(Flaw::Answer);
            }
        }
    }

    fn asked(&mut self, number: usize, ticket: Ticket) -> &mut Asked {
        &mut self.processes[number].asked[ticket.number() as usize]
    }
}

fn attempt_of(attempt: u8) -> Attempt {
    Attempt(attempt.into())
}

/// A writer's nodes are named like a lock's.
fn named(mode: Mode) -> Mode {
    if mode == Mode::Read { Mode::Read } else { Mode::Lock }
}

impl Scenario {
    fn peer_modes(&self) -> impl Iterator<Item = Mode> {
        let modes: BTreeSet<Mode> =
            self.wants.iter().flat_map(|wants| wants.iter()).map(|want| named(want.mode)).collect();
        modes.into_iter()
    }
}

impl Highest {
    const NONE: Highest = Highest { any: i64::MIN, exclusive: i64::MIN };

    /// Whether it is larger than that of everybody that conflicts.
    fn rise(&mut self, mode: Mode, number: i64) -> bool {
        let shared = mode == Mode::Read;
        let rises = number > if shared { self.exclusive } else { self.any };
        self.any = self.any.max(number);
        if !shared {
            self.exclusive = self.exclusive.max(number);
        }
        rises
    }
}
