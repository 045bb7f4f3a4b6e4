//! What the actor does around its machine, as `src/lock.rs` and `src/path` do it.

use std::collections::BTreeMap;
use std::time::Duration;

use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::machine::linger::{self, LineId, LingeringLock, SharedRequest};
use lockkeeper_actors::machine::lock::{Command, Created, Event, NodeStat, Request};
use lockkeeper_actors::machine::node::Attempt;
use lockkeeper_actors::machine::patterns::Patterns;
use lockkeeper_actors::machine::{Failure, Refusal, Reply, Ticket, Wait};

use super::twins::Twin;
use super::wire::{Answer, Ask, Asked, LockWire, Word};
use super::world::{Action, Budget, Flaw, Scenario, Want, World, named};
use crate::world::clients::{Clients, DEADLINE};
use crate::world::directory::{Directory, Name, PathServer};
use crate::world::gates::Gate;
use crate::world::session::{Call, No, Session, Wire};
use crate::world::steps::{self, Cause, Server, World as _};

impl steps::World for World {
    type Machine = LingeringLock;
    type Wire = LockWire;
    type Asked = Asked;
    type Server = PathServer;
    type Scenario = Scenario;
    type Action = Action;

    fn clients(&self) -> &Clients<LingeringLock, LockWire, Asked> {
        &self.clients
    }

    fn clients_mut(&mut self) -> &mut Clients<LingeringLock, LockWire, Asked> {
        &mut self.clients
    }

    fn server(&self) -> &PathServer {
        &self.server
    }

    fn server_mut(&mut self) -> &mut PathServer {
        &mut self.server
    }

    fn has(&self, name: &Name) -> bool {
        self.server.find(*name).is_some()
    }

    fn firing(&self, id: u8, actions: &mut Vec<Action>) {
        let seen = self.server.replicas().seen(id).as_ref();
        let is_gone = |name: &Name| seen.is_none_or(|seen| seen.nodes.iter().all(|node| node.name != *name));
        let watches = &self.clients.sessions[&id].watches;
        let armed = watches.nodes.iter().filter(|(_, armed)| **armed);
        actions.extend(armed.filter(|(name, _)| is_gone(name)).map(|(name, _)| Action::Fire(id, *name)));
        let now = seen.map(names_of);
        for (line, shown) in &watches.children {
            if shown.as_ref().is_some_and(|shown| *shown != now) {
                actions.push(Action::ChildrenChange(id, *line));
            }
        }
    }

    fn carry_out(&mut self, _scenario: &Scenario, id: u8, ask: &Ask) -> Answer {
        if self.clients.sessions[&id].expired {
            return Answer::No(No::SessionGone);
        }
        if LockWire::writes(ask) || *ask == Ask::Sync {
            self.server.replicas_mut().refresh(id);
        }
        let there = |found: bool| if found { Answer::Done } else { Answer::No(No::Missing) };
        let seen = self.server.replicas().seen(id).as_ref();
        let find = |name: Name| seen.and_then(|seen| seen.nodes.iter().find(|node| node.name == name));
        match *ask {
            Ask::Create { name, ephemeral, belated } => {
                match self.server.create(name, if ephemeral { id } else { 0 }, belated) {
                    Some((name, czxid)) => Answer::Created(name, czxid),
                    None => Answer::No(No::Missing),
                }
            }
            Ask::Sync => Answer::Done,
            Ask::List { .. } | Ask::Follow { .. } => match seen {
                Some(seen) => Answer::Names(names_of(seen)),
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

    fn hear(&mut self, scenario: &Scenario, id: u8, call: Call<LockWire>) -> Option<linger::Event> {
        match call.asks[0] {
            Ask::Follow { line } => self.hear_followed(scenario, id, line, call.answers.into_iter().next()?),
            _ => heard(call, &mut self.clients.session(id).watches.nodes).map(linger::Event::from),
        }
    }

    fn event(&self, scenario: &Scenario, process: usize, event: linger::Event) -> Option<linger::Event> {
        match scenario.twin {
            Some(twin) => twin.event(self, process, event),
            None => Some(event),
        }
    }

    fn execute(
        &mut self,
        scenario: &Scenario,
        number: usize,
        cause: Cause<'_, World>,
        command: linger::Command,
    ) {
        let command = match (command, scenario.twin) {
            (linger::Command::Queue(command), Some(twin)) => twin.command(command),
            (linger::Command::Queue(command), None) => Some(command),
            (linger::Command::Follow(line), _) => return self.follow(number, cause.refused, line.0 as u8),
            (linger::Command::Unfollow(line), _) => {
                if let Some(session) = self.clients.used(number) {
                    session.watches.children.remove(&(line.0 as u8));
                }
                return;
            }
        };
        let (Some(command), refused) = (command, cause.refused) else { return };
        match command {
            Command::List { sync: false } => self.submit(number, refused, &[LIST]),
            Command::List { sync: true } => {
                let finding = self.unheard_creates(number);
                self.submit(number, refused, &[Ask::Sync, Ask::List { finding }])
            }
            Command::MakeDirectory(attempt, _) => {
                self.submit(number, refused, &[Ask::MakeDirectory { attempt: small(attempt) }])
            }
            Command::ReadStat(attempt, node) => {
                let ask = Ask::Read { attempt: small(attempt), name: Name::of(&node) };
                self.submit(number, refused, &[ask]);
            }
            Command::Create(attempt, ticket) => {
                let create = self.create(scenario, number, attempt, ticket);
                self.submit(number, refused, &[create]);
            }
            Command::CreateAndList(attempt, ticket) => {
                let create = self.create(scenario, number, attempt, ticket);
                self.submit(number, refused, &[create, LIST]);
            }
            Command::Watch(node) => {
                let name = Name::of(&node);
                self.submit(number, refused, &[Ask::Watch { name }]);
                if let Some(session) = self.clients.used(number) {
                    session.watches.nodes.insert(name, false);
                }
            }
            Command::Unwatch(node) => {
                if let Some(session) = self.clients.used(number) {
                    session.watches.nodes.remove(&Name::of(&node));
                }
            }
            Command::Delete(attempt, node) => {
                let name = Name::of(&node);
                self.submit(number, refused, &[Ask::Delete { attempt: small(attempt), name }]);
                if let Some(session) = self.clients.used(number) {
                    session.tracked.remove(&name);
                }
            }
            Command::Track(node) => {
                if let Some(session) = self.clients.used(number) {
                    session.tracked.insert(Name::of(&node));
                }
            }
            Command::Grant { ticket, node, czxid } => {
                self.grant(scenario, number, ticket, Name::of(&node), czxid)
            }
            Command::Reply(reply) => self.reply(scenario, number, reply),
        }
    }

    fn gate(&self, scenario: &Scenario) -> Gate {
        match scenario.twin {
            Some(Twin::Gate(gate)) => gate,
            Some(_) | None => Gate::Real,
        }
    }

    fn is_alive(&self, process: usize) -> bool {
        !self.crashed.contains(&process)
    }

    fn connects(&self, process: usize) -> bool {
        !self.closed.contains(&process)
    }

    fn serving(&mut self, id: u8) {
        let call = self.clients.sessions[&id].unserved();
        let finding = call.and_then(|call| match (call.asks.as_slice(), call.answers.len()) {
            ([Ask::Sync, Ask::List { finding }], 1) => Some(*finding),
            _ => None,
        });
        if let Some(finding) = finding {
            self.give_up_finding(id, finding);
        }
    }
}

impl World {
    pub fn acquire(&mut self, scenario: &Scenario, process: usize) {
        let asked = &mut self.clients.processes[process].asked;
        let Some(ticket) = asked.iter().position(|asked| asked.word == Word::Unasked) else { return };
        asked[ticket].word = Word::Waiting;
        let Want { mode, wait, ephemeral, lingers } = scenario.wants[process][ticket];
        let (dialect, patterns) = (Dialect::Kazoo, Patterns::default());
        let request = Request { mode, dialect, patterns, ephemeral, joint: false, bytes: 1, wait };
        let number = Ticket::numbered(ticket as u64);
        if lingers {
            asked[ticket].knew = self.shown.get(&process).copied();
            let request = SharedRequest { request, options: mode as u64, linger: LINGER };
            self.feed(scenario, process, linger::Event::Share { ticket: number, request });
        } else {
            self.feed(scenario, process, Event::Acquire { ticket: number, request });
        }
    }

    fn follow(&mut self, number: usize, refused: Option<&Ask>, line: u8) {
        self.submit(number, refused, &[Ask::Follow { line }]);
        if let Some(session) = self.clients.used(number) {
            session.watches.children.insert(line, None);
        }
    }

    /// What the actor makes of the answer to a list that it follows.
    fn hear_followed(
        &mut self,
        scenario: &Scenario,
        id: u8,
        line: u8,
        answer: Answer,
    ) -> Option<linger::Event> {
        let session = self.clients.session(id);
        let (process, watch) = (session.process, session.watches.children.get_mut(&line));
        let children = names(answer.clone());
        match (&answer, watch) {
            (Answer::Names(shown), Some(watch)) => *watch = Some(Some(shown.clone())),
            (_, _) => drop(session.watches.children.remove(&line)),
        }
        if let Answer::Names(shown) = answer {
            let reads = scenario.wants[process].iter().all(|want| want.mode == Mode::Read);
            let others = shown.iter().filter(|name| usize::from(name.author) != process);
            let last =
                others.filter(|name| !reads || name.mode != Mode::Read).map(|name| name.sequence).max();
            let known = self.shown.remove(&process).max(last);
            self.shown.extend(known.map(|known| (process, known)));
        }
        Some(linger::Event::Followed(LineId(line.into()), children))
    }

    pub fn fire(&mut self, scenario: &Scenario, id: u8, name: Name, gone: bool) {
        let session = self.clients.session(id);
        session.watches.nodes.remove(&name);
        let process = session.process;
        self.feed(scenario, process, Event::Fired { node: name.node(), gone });
    }

    fn create(&mut self, scenario: &Scenario, number: usize, attempt: Attempt, ticket: Ticket) -> Ask {
        let Want { mode, ephemeral, .. } = scenario.wants[number][ticket.number() as usize];
        let attempt = small(attempt);
        self.asked(number, ticket).attempt = Some(attempt);
        let name = Name { sequence: 0, author: number as u8, attempt, mode: named(mode) };
        Ask::Create { name, ephemeral, belated: false }
    }

    fn submit(&mut self, number: usize, refused: Option<&Ask>, asks: &[Ask]) {
        let Some(session) = self.clients.used(number) else { return };
        let repeats = |ask: &Ask| refused == Some(ask) || is_unanswered(session, *ask);
        let creates = |asks: &[Ask]| asks.iter().any(|ask| matches!(ask, Ask::Create { .. }));
        let in_flight = session.calls.iter().filter(|call| creates(&call.asks)).count();
        if asks.iter().any(repeats) || (creates(asks) && in_flight >= ROOM) {
            self.flaws.insert(Flaw::Storm);
        }
        if let Some(session) = self.clients.used(number) {
            session.submit((), asks.to_vec());
        }
    }

    fn grant(&mut self, scenario: &Scenario, number: usize, ticket: Ticket, name: Name, czxid: i64) {
        let want @ Want { wait, ephemeral, .. } = scenario.wants[number][ticket.number() as usize];
        let process = &self.clients.processes[number];
        let late = wait == Wait::Until(DEADLINE) && process.now >= DEADLINE;
        let session = process.using.filter(|_| ephemeral);
        if !self.clients.is_sure(number) {
            self.flaws.insert(Flaw::Doubt);
        }
        self.expect(number, ticket, |word| match word {
            Word::Waiting if !late => Some(Word::Granted { name, session }),
            Word::Waiting | Word::Unasked | Word::Cancelling | Word::Refused => None,
            Word::Granted { .. } | Word::Lost | Word::Released => None,
        });
        let overtakes_other = self.asked(number, ticket).knew.is_some_and(|other| other > name.sequence);
        if overtakes_other || self.overtakes_own(scenario, number, ticket, name) {
            self.flaws.insert(Flaw::Overtaking);
        }
        // Its owner does not know yet that an operator deleted it.
        if !self.struck.contains(&name) {
            if !self.order.rise(want, name.sequence.into()) {
                self.flaws.insert(Flaw::Order);
            }
            if !self.tokens.rise(want, czxid) {
                self.flaws.insert(Flaw::Token);
            }
        }
    }

    /// Whether a request that shares a node is granted by one that is ahead of an earlier request of the same process.
    /// Requests that lost their nodes queue again, so this is only asked where none does.
    fn overtakes_own(&self, scenario: &Scenario, number: usize, ticket: Ticket, name: Name) -> bool {
        let (wants, ticket) = (scenario.wants[number], ticket.number() as usize);
        let earlier = self.clients.processes[number].asked[..ticket].iter().zip(wants);
        let mut waiting = earlier.filter(|(asked, want)| asked.word == Word::Waiting && !want.lingers);
        let is_behind = |attempt| {
            let mut nodes = self.server.nodes().iter().map(|node| node.name);
            nodes.any(|node| {
                usize::from(node.author) == number && node.attempt == attempt && node.sequence > name.sequence
            })
        };
        let undisturbed = scenario.budget == Budget { cancels: scenario.budget.cancels, ..Budget::NONE };
        let lingers = wants[ticket].lingers && undisturbed;
        lingers && waiting.any(|(asked, _)| asked.attempt.is_some_and(is_behind))
    }

    fn reply(&mut self, scenario: &Scenario, number: usize, reply: Reply) {
        match reply {
            Reply::Queued(ticket, _) => self.expect(number, ticket, |word| match word {
                Word::Waiting | Word::Cancelling => Some(word),
                Word::Unasked | Word::Refused | Word::Granted { .. } | Word::Lost | Word::Released => None,
            }),
            Reply::Refused(ticket, refusal) => self.refuse(scenario, number, ticket, &refusal),
            Reply::Suspended(ticket) | Reply::Resumed(ticket) => {
                if matches!(reply, Reply::Resumed(_)) && !self.clients.is_sure(number) {
                    self.flaws.insert(Flaw::Doubt);
                }
                self.expect(number, ticket, |word| match word {
                    // A release may be on its way.
                    Word::Granted { .. } | Word::Released => Some(word),
                    Word::Unasked | Word::Waiting | Word::Cancelling | Word::Refused | Word::Lost => None,
                })
            }
            Reply::Lost(ticket) => self.expect(number, ticket, |word| match word {
                Word::Granted { .. } => Some(Word::Lost),
                Word::Released => Some(word),
                Word::Unasked | Word::Waiting | Word::Cancelling | Word::Refused | Word::Lost => None,
            }),
            Reply::Forgotten { ticket, confirmed } => {
                // A node that is shared may stay.
                let shares = scenario.wants[number][ticket.number() as usize].lingers;
                let attempt = self.asked(number, ticket).attempt.filter(|_| !shares);
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
        }
    }

    fn refuse(&mut self, scenario: &Scenario, number: usize, ticket: Ticket, refusal: &Refusal) {
        let Want { wait, .. } = scenario.wants[number][ticket.number() as usize];
        let truth = match refusal {
            Refusal::Contended | Refusal::Suspended => wait == Wait::Try,
            Refusal::TimedOut => {
                wait == Wait::Until(DEADLINE) && self.clients.processes[number].now >= DEADLINE
            }
            Refusal::Cancelled => self.asked(number, ticket).word == Word::Cancelling,
            Refusal::Closed => self.closed.contains(&number),
            Refusal::Exhausted => scenario.next == Some(i32::MAX),
            Refusal::Rejected(_) => self.left.refusals < scenario.budget.refusals,
            Refusal::NoAuth(_) | Refusal::MixedDialects(_) => false,
            Refusal::NoPermits | Refusal::NoLimit => false,
            Refusal::TooMany { .. } | Refusal::LimitMismatch { .. } => false,
        };
        self.expect(number, ticket, |word| match word {
            Word::Waiting | Word::Cancelling if truth => Some(Word::Refused),
            Word::Waiting | Word::Cancelling | Word::Unasked | Word::Refused => None,
            Word::Granted { .. } | Word::Lost | Word::Released => None,
        });
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
        &mut self.clients.processes[number].asked[ticket.number() as usize]
    }

    /// The attempts whose nodes may still be created after their answers were lost, as bits.
    fn unheard_creates(&self, number: usize) -> u32 {
        let sessions = self.clients.sessions.values().filter(|session| session.process == number);
        let creates = sessions.flat_map(|session| &session.unheard).filter_map(|ask| match ask {
            Ask::Create { name, .. } => Some(name.attempt),
            _ => None,
        });
        creates.fold(0, |bits, attempt| bits | bit(attempt))
    }

    /// What an earlier session of the same process has yet to create is not found any more.
    fn give_up_finding(&mut self, id: u8, finding: u32) {
        let process = self.clients.sessions[&id].process;
        let sessions = self.clients.sessions.values_mut().filter(|session| session.process == process);
        for ask in sessions.flat_map(|session| &mut session.unheard) {
            if let Ask::Create { name, ephemeral: false, belated } = ask {
                *belated |= finding & bit(name.attempt) != 0;
            }
        }
    }
}

/// How many creates of a process may be in flight.
pub const ROOM: usize = 2;

const LIST: Ask = Ask::List { finding: 0 };

/// How long an idle node stays.
const LINGER: Duration = Duration::from_secs(1);

fn bit(attempt: u8) -> u32 {
    1 << attempt
}

/// What the actor makes of the answers to a call. Nothing, if a watch is no longer wanted.
fn heard(call: Call<LockWire>, watches: &mut BTreeMap<Name, bool>) -> Option<Event> {
    let mut answers = call.answers.into_iter();
    let first = answers.next()?;
    let event = match (call.asks[0], answers.next()) {
        (Ask::Create { name, .. }, list) => {
            let created = match first {
                Answer::Created(name, czxid) => Ok(Created { node: name.node(), czxid: czxid.into() }),
                Answer::No(no) => Err(no.failure()),
                Answer::Done | Answer::Names(_) | Answer::Found { .. } => return None,
            };
            let attempt = large(name.attempt);
            match list {
                Some(list) => Event::CreatedAndListed { attempt, created, children: names(list) },
                None => Event::Created(attempt, created),
            }
        }
        (Ask::Sync, Some(list)) => Event::Listed(done(first).and_then(|()| names(list))),
        (Ask::List { .. }, _) => Event::Listed(names(first)),
        (Ask::MakeDirectory { attempt }, _) => Event::DirectoryMade(large(attempt), done(first)),
        (Ask::Read { attempt, .. }, _) => {
            let found = match first {
                Answer::Found { czxid, owner } => Ok(NodeStat { czxid: czxid.into(), owner: owner.into() }),
                Answer::No(no) => Err(no.failure()),
                Answer::Done | Answer::Created(..) | Answer::Names(_) => return None,
            };
            Event::StatRead(large(attempt), found)
        }
        (Ask::Watch { name }, _) => {
            let armed = done(first);
            match armed {
                Ok(()) => *watches.get_mut(&name)? = true,
                Err(_) => drop(watches.remove(&name)),
            }
            Event::Watched(name.node(), armed)
        }
        (Ask::Delete { attempt, .. }, _) => Event::Deleted(large(attempt), done(first)),
        (Ask::Sync, None) | (Ask::Follow { .. }, _) => return None,
    };
    Some(event)
}

fn names_of(directory: &Directory) -> Vec<Name> {
    directory.nodes.iter().map(|node| node.name).collect()
}

fn done(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::No(no) => Err(no.failure()),
        Answer::Done | Answer::Created(..) | Answer::Names(_) | Answer::Found { .. } => Ok(()),
    }
}

fn names(answer: Answer) -> Result<Vec<String>, Failure> {
    match answer {
        Answer::Names(names) => Ok(names.iter().map(Name::text).collect()),
        other => done(other).map(|()| Vec::new()),
    }
}

/// Whether the same request is on its way. A watch may be: given up and wanted again, it is asked for anew.
fn is_unanswered(session: &Session<LockWire>, ask: Ask) -> bool {
    match ask {
        Ask::List { .. } => {
            let lists = |ask: &Ask| matches!(ask, Ask::List { .. });
            session.calls.iter().any(|call| call.asks.iter().any(lists))
        }
        Ask::MakeDirectory { .. } | Ask::Read { .. } | Ask::Delete { .. } | Ask::Follow { .. } => {
            session.calls.iter().any(|call| call.asks.contains(&ask))
        }
        Ask::Create { .. } | Ask::Sync | Ask::Watch { .. } => false,
    }
}

fn small(attempt: Attempt) -> u8 {
    attempt.0 as u8
}

fn large(attempt: u8) -> Attempt {
    Attempt(attempt.into())
}
