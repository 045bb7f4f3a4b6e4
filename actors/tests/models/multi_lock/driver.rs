//! What the actors around the machines do: `src/lock.rs` and `src/path` for a path, `src/multi_lock.rs`
//! for a request.

use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::machine::lock::{self, Command, Event};
use lockkeeper_actors::machine::multi_lock;
use lockkeeper_actors::machine::node::Attempt;
use lockkeeper_actors::machine::patterns::Patterns;
use lockkeeper_actors::machine::{Failure, LeaseState, Machine, Moment, PathEvent, Refusal, Reply, Wait};

use super::messages::{Call, Entrant, Lease, Ticket, ToMulti, ToPath};
use super::properties::{ANSWERS, CERTAINTY};
use super::state::{Part, Path, Process, Request, Word};
use super::world::{Scenario, Twin, World};
use crate::world::clients::DEADLINE;
use crate::world::directory::Name;
use crate::world::gates::Gate;

impl World {
    // ---- callers ----

    pub fn acquire(&mut self, scenario: &Scenario, number: usize) {
        match scenario.paths(number) {
            [path] => {
                let process = self.requests[number].process;
                self.post(process, *path, ToPath::Acquire(Ticket { request: number, round: 0, part: 0 }));
            }
            _ => self.tell(scenario, number, ToMulti::Start),
        }
    }

    pub fn cancel(&mut self, scenario: &Scenario, number: usize) {
        let request = &mut self.requests[number];
        request.word = Word::Cancelling;
        match scenario.paths(number) {
            [path] => {
                let process = request.process;
                self.post(process, *path, ToPath::Cancel(Ticket { request: number, round: 0, part: 0 }));
            }
            _ => self.tell(scenario, number, ToMulti::Cancel),
        }
    }

    /// A guard reaches its caller, or one that has gone away, and drops it.
    fn hand_over(&mut self, number: usize, leases: Vec<Lease>) {
        let request = &mut self.requests[number];
        match request.word {
            Word::Waiting => {
                request.word = Word::Granted;
                request.guard = leases;
            }
            Word::Cancelling => {
                request.word = Word::Released;
                leases.into_iter().for_each(|lease| self.drop_lease(lease));
            }
            Word::Refused | Word::Granted | Word::Lost | Word::Released => drop(self.flaws.insert(ANSWERS)),
        }
    }

    /// Nobody is told of a cancel who has not cancelled.
    fn tell_refused(&mut self, number: usize, cancelled: bool) {
        let word = &mut self.requests[number].word;
        match word {
            Word::Waiting if !cancelled => *word = Word::Refused,
            Word::Cancelling => *word = Word::Refused,
            Word::Waiting | Word::Refused | Word::Granted | Word::Lost | Word::Released => {
                self.flaws.insert(ANSWERS);
            }
        }
    }

    fn tell_lost(&mut self, number: usize) {
        let word = &mut self.requests[number].word;
        match word {
            Word::Granted => *word = Word::Lost,
            Word::Released => {}
            Word::Waiting | Word::Cancelling | Word::Refused | Word::Lost => drop(self.flaws.insert(ANSWERS)),
        }
    }

    pub fn drop_lease(&mut self, lease: Lease) {
        let process = self.requests[lease.ticket.request].process;
        self.post(process, lease.path, ToPath::Release(lease.ticket));
    }

    /// What the lease itself says, ahead of the message that tells of it.
    pub fn is_over(&self, lease: &Lease) -> bool {
        let process = self.requests[lease.ticket.request].process;
        self.is_lost(lease.session) || self.processes[process].paths[lease.path].lost.contains(&lease.ticket)
    }

    // ---- the actor of a path ----

    pub fn take_path(&mut self, scenario: &Scenario, process: usize, path: usize) {
        let state = &mut self.processes[process].paths[path];
        let Some(message) = state.inbox.pop_front() else { return };
        let using = state.using;
        match message {
            ToPath::Acquire(ticket) => {
                let joint = scenario.is_joint(ticket);
                let request = lock::Request {
                    mode: Mode::Lock,
                    dialect: Dialect::Kazoo,
                    patterns: Patterns::default(),
                    ephemeral: true,
                    joint,
                    bytes: 1,
                    wait: scenario.wait(ticket.request),
                };
                self.feed(scenario, process, path, Event::Acquire { ticket: ticket.number(), request });
            }
            ToPath::Cancel(ticket) => self.feed(scenario, process, path, PathEvent::Cancel(ticket.number())),
            ToPath::Release(ticket) => {
                state.lost.remove(&ticket);
                self.feed(scenario, process, path, PathEvent::Release(ticket.number()));
            }
            ToPath::Event(epoch, event) if using == Some(epoch) => self.feed(scenario, process, path, event),
            ToPath::Connected(id) => {
                state.using = Some(id);
                self.feed(scenario, process, path, PathEvent::Connected { session: id.into() });
            }
            ToPath::Suspended(id) if using == Some(id) => {
                self.feed(scenario, process, path, PathEvent::Suspended)
            }
            ToPath::Resumed(id) if using == Some(id) => {
                self.feed(scenario, process, path, PathEvent::Resumed)
            }
            ToPath::Lost(id) if using == Some(id) => {
                state.using = None;
                self.feed(scenario, process, path, PathEvent::Lost);
            }
            ToPath::Event(..) | ToPath::Suspended(_) | ToPath::Resumed(_) | ToPath::Lost(_) => {}
            ToPath::JointCreate(request, round, entrants) => {
                // Otherwise the end of that session is told in every path.
                if using == entrants.first().map(|entrant| entrant.epoch) {
                    self.create_jointly(scenario, request, round, entrants);
                }
            }
        }
    }

    fn create_jointly(&mut self, scenario: &Scenario, request: usize, round: u8, entrants: Vec<Entrant>) {
        let Some(epoch) = entrants.first().map(|entrant| entrant.epoch) else { return };
        let to = Some((request, round));
        if self.is_lost(epoch) {
            self.tell(scenario, request, ToMulti::Made(round, Vec::new()));
        } else if scenario.twin == Some(Twin::MadeOneByOne) {
            let calls = entrants.into_iter().enumerate();
            let calls = calls.map(|(at, entrant)| Call::Make(to.filter(|_| at == 0), vec![entrant]));
            self.session(epoch).calls.extend(calls);
        } else {
            self.session(epoch).calls.push_back(Call::Make(to, entrants));
        }
    }

    pub fn feed(&mut self, scenario: &Scenario, process: usize, path: usize, event: impl Into<Event>) {
        let gate = match scenario.twin {
            Some(Twin::Gate(gate)) => gate,
            Some(_) | None => Gate::Real,
        };
        let Path { machine, using, .. } = &self.processes[process].paths[path];
        let admitted = gate.admit(machine, using.map(|id| self.lease(id)), event.into());
        let Process { paths, now, .. } = &mut self.processes[process];
        let mut commands = Vec::new();
        for event in admitted {
            paths[path].machine.handle(event, *now, &mut commands);
        }
        for command in commands {
            self.execute(scenario, process, path, command);
        }
    }

    fn execute(&mut self, scenario: &Scenario, process: usize, path: usize, command: Command) {
        let using = self.processes[process].paths[path].using;
        let session = using
            .and_then(|id| self.sessions.get_mut(&id))
            .filter(|session| session.lease != LeaseState::Lost);
        let small = |attempt: Attempt| attempt.0 as u8;
        let call = match command {
            Command::CreateAndList(attempt, ticket) => {
                let (ticket, attempt) = (Ticket::of(ticket), small(attempt));
                self.processes[process].paths[path].tickets.insert(attempt, ticket);
                let Some(epoch) = using else { return };
                let entrant = Entrant { ticket, path, attempt, epoch };
                if self.tell_part(scenario, ticket, ToMulti::Ready(entrant)) {
                    return;
                }
                Call::Make(None, vec![entrant])
            }
            Command::Create(attempt, ticket) => {
                let (ticket, attempt) = (Ticket::of(ticket), small(attempt));
                self.processes[process].paths[path].tickets.insert(attempt, ticket);
                let Some(epoch) = using else { return };
                Call::Create(Entrant { ticket, path, attempt, epoch })
            }
            Command::List { .. } => Call::List(path),
            Command::ReadStat(attempt, node) => Call::ReadStat(path, small(attempt), Name::of(&node)),
            Command::Watch(node) => Call::Watch(path, Name::of(&node)),
            Command::Delete(attempt, node) => {
                let name = Name::of(&node);
                if let Some(session) = session {
                    session.tracked.remove(&(path, name));
                }
                Call::Delete(path, small(attempt), name)
            }
            Command::Unwatch(node) => {
                if let Some(session) = session {
                    session.watches.remove(&(path, Name::of(&node)));
                }
                return;
            }
            Command::Track(node) => {
                if let Some(session) = session {
                    session.tracked.insert((path, Name::of(&node)));
                }
                return;
            }
            Command::Grant { ticket, node, .. } => {
                let (Some(session), ticket) = (using, Ticket::of(ticket)) else { return };
                let lease = Lease { ticket, path, name: Name::of(&node), session };
                if self.lease(session) != LeaseState::Held {
                    self.flaws.insert(CERTAINTY);
                }
                if !self.tell_part(scenario, ticket, ToMulti::Acquired(lease)) {
                    self.hand_over(ticket.request, vec![lease]);
                }
                return;
            }
            Command::Reply(reply) => return self.reply(scenario, process, path, reply),
            Command::MakeDirectory(attempt, _) => Call::MakeDirectory(path, small(attempt)),
        };
        if let Some(id) = using.filter(|id| !self.is_lost(*id)) {
            self.session(id).calls.push_back(call);
        }
    }

    /// To the caller of a plain lock, or to the actor of a request for several.
    fn reply(&mut self, scenario: &Scenario, process: usize, path: usize, reply: Reply) {
        match reply {
            Reply::Queued(ticket, ahead) => {
                let ticket = Ticket::of(ticket);
                self.tell_part(scenario, ticket, ToMulti::Queued(ticket, ahead));
            }
            Reply::Suspended(ticket) => {
                let ticket = Ticket::of(ticket);
                self.tell_part(scenario, ticket, ToMulti::Suspended(ticket));
            }
            Reply::Resumed(ticket) => {
                let ticket = Ticket::of(ticket);
                self.tell_part(scenario, ticket, ToMulti::Resumed(ticket));
            }
            Reply::Refused(ticket, refusal) => {
                let ticket = Ticket::of(ticket);
                let wait = scenario.wait(ticket.request);
                // A part that is withdrawn is rejected.
                let cancelled = matches!(refusal, Refusal::Cancelled | Refusal::Rejected(_));
                let truth = match refusal {
                    Refusal::Cancelled | Refusal::Rejected(_) => true,
                    Refusal::TimedOut => {
                        wait == Wait::Until(DEADLINE) && self.processes[process].now >= DEADLINE
                    }
                    Refusal::Contended | Refusal::Suspended => wait == Wait::Try,
                    _ => false,
                };
                if !truth {
                    self.flaws.insert(ANSWERS);
                }
                if !self.tell_part(scenario, ticket, ToMulti::Refused(ticket, cancelled)) {
                    self.tell_refused(ticket.request, cancelled);
                }
            }
            Reply::Lost(ticket) => {
                let ticket = Ticket::of(ticket);
                self.processes[process].paths[path].lost.insert(ticket);
                if !self.tell_part(scenario, ticket, ToMulti::Lost(ticket)) {
                    self.tell_lost(ticket.request);
                }
            }
            Reply::Forgotten { ticket, .. } => {
                let ticket = Ticket::of(ticket);
                self.tell_part(scenario, ticket, ToMulti::Over(ticket));
            }
        }
    }

    /// Tells the actor of the request that this is a part of, if there is one.
    fn tell_part(&mut self, scenario: &Scenario, ticket: Ticket, message: ToMulti) -> bool {
        let is_joint = scenario.is_joint(ticket);
        if is_joint {
            self.tell(scenario, ticket.request, message);
        }
        is_joint
    }

    /// What would be passed over is not sent: rounds only go up.
    pub fn tell(&mut self, scenario: &Scenario, number: usize, message: ToMulti) {
        let request = &mut self.requests[number];
        let is_heard = match &message {
            // What it brings is given back, whenever it comes.
            ToMulti::Ready(_) | ToMulti::Acquired(_) => true,
            ToMulti::Made(_, back) if !back.is_empty() => true,
            ToMulti::Start | ToMulti::Cancel => !request.ended,
            ToMulti::Made(round, _) => !request.ended && *round == request.round,
            ToMulti::Queued(ticket, _)
            | ToMulti::Suspended(ticket)
            | ToMulti::Resumed(ticket)
            | ToMulti::Refused(ticket, _)
            | ToMulti::Lost(ticket)
            | ToMulti::Over(ticket) => !request.ended && ticket.round == request.round,
        };
        if is_heard {
            request.inbox.push_back(message);
            if scenario.prompt {
                self.take_multi(scenario, number);
            }
        }
    }

    // ---- the actor of a request ----

    /// What belongs to an earlier round is dropped, and so given back.
    pub fn take_multi(&mut self, scenario: &Scenario, number: usize) {
        let request = &mut self.requests[number];
        let Some(message) = request.inbox.pop_front() else { return };
        let is_now = |ticket: Ticket| !request.ended && ticket.round == request.round;
        match message {
            ToMulti::Start => self.feed_multi(scenario, number, multi_lock::Event::Start),
            ToMulti::Ready(entrant) if is_now(entrant.ticket) => {
                let Ticket { part, .. } = entrant.ticket;
                if scenario.twin == Some(Twin::OnlyMissingAnew) && request.parts[part].placed {
                    let round = entrant.ticket.round;
                    return self.create_jointly(scenario, number, round, vec![entrant]);
                }
                let before = request.parts[part].entrant.replace(entrant);
                before.into_iter().for_each(|entrant| self.withdraw(entrant));
                let epoch = entrant.epoch.into();
                self.feed_multi(scenario, number, multi_lock::Event::Ready { part, epoch });
            }
            ToMulti::Ready(entrant) => self.withdraw(entrant),
            ToMulti::Made(round, back) if round == request.round && !request.ended => {
                let is_told = scenario.twin != Some(Twin::BackForgotten);
                let parts = back.iter().filter(|_| is_told).map(|entrant| entrant.ticket.part).collect();
                back.into_iter()
                    .for_each(|entrant| request.parts[entrant.ticket.part].entrant = Some(entrant));
                self.feed_multi(scenario, number, multi_lock::Event::Made { back: parts })
            }
            ToMulti::Made(_, back) => back.into_iter().for_each(|entrant| self.withdraw(entrant)),
            ToMulti::Acquired(lease) if is_now(lease.ticket) => {
                request.parts[lease.ticket.part].lease = Some(lease);
                let lost = |part: &Part| part.lease.is_some_and(|lease| self.is_over(&lease));
                let event = match self.requests[number].parts.iter().position(lost) {
                    Some(part) => multi_lock::Event::Lost(part),
                    None => multi_lock::Event::Held(lease.ticket.part),
                };
                self.feed_multi(scenario, number, event);
            }
            ToMulti::Acquired(lease) => self.drop_lease(lease),
            ToMulti::Queued(ticket, ahead) if is_now(ticket) => {
                self.feed_multi(scenario, number, multi_lock::Event::Queued { part: ticket.part, ahead })
            }
            ToMulti::Suspended(ticket) if is_now(ticket) => {
                request.parts[ticket.part].doubted = true;
                if scenario.twin == Some(Twin::DoubtOfPartUnheard) {
                    return;
                }
                self.feed_multi(scenario, number, multi_lock::Event::Suspended(ticket.part))
            }
            ToMulti::Resumed(ticket) if is_now(ticket) => {
                request.parts[ticket.part].doubted = false;
                self.feed_multi(scenario, number, multi_lock::Event::Resumed(ticket.part))
            }
            ToMulti::Refused(ticket, cancelled) if is_now(ticket) => {
                // Parts are cancelled and withdrawn only after their round.
                if cancelled && request.word == Word::Waiting {
                    self.flaws.insert(ANSWERS);
                }
                self.feed_multi(scenario, number, multi_lock::Event::Refused(ticket.part))
            }
            ToMulti::Lost(ticket) if is_now(ticket) => {
                self.feed_multi(scenario, number, multi_lock::Event::Lost(ticket.part))
            }
            ToMulti::Over(ticket) if is_now(ticket) => {
                self.feed_multi(scenario, number, multi_lock::Event::Over(ticket.part))
            }
            ToMulti::Cancel if !request.ended => self.feed_multi(scenario, number, multi_lock::Event::Cancel),
            ToMulti::Queued(..)
            | ToMulti::Suspended(_)
            | ToMulti::Resumed(_)
            | ToMulti::Refused(..)
            | ToMulti::Lost(_)
            | ToMulti::Over(_)
            | ToMulti::Cancel => {}
        }
    }

    fn feed_multi(&mut self, scenario: &Scenario, number: usize, event: multi_lock::Event) {
        let mut commands = Vec::new();
        let keeps = scenario.twin == Some(Twin::NothingGivenBack) && event == multi_lock::Event::Cancel;
        let early =
            scenario.twin == Some(Twin::GrantedTooEarly) && matches!(event, multi_lock::Event::Held(_));
        let cancels = scenario.twin == Some(Twin::CancelledByLoss)
            && matches!(event, multi_lock::Event::Lost(_))
            && self.requests[number].word == Word::Waiting;
        let event = if cancels { multi_lock::Event::Cancel } else { event };
        self.requests[number].machine.handle(event, Moment(0), &mut commands);
        if early && self.requests[number].word == Word::Waiting {
            commands = vec![multi_lock::Command::Grant];
        }
        for command in commands {
            match command {
                multi_lock::Command::Ask => {
                    let request = &mut self.requests[number];
                    request.round += 1;
                    match request.round {
                        1 => self.ask(scenario, number),
                        _ => request.pauses = true,
                    }
                }
                multi_lock::Command::Submit => self.submit(scenario, number),
                multi_lock::Command::GiveBack if keeps => {}
                multi_lock::Command::GiveBack => self.give_back(scenario, number),
                multi_lock::Command::Grant => {
                    let parts = &mut self.requests[number].parts;
                    if parts.iter().any(|part| part.doubted) {
                        self.flaws.insert(CERTAINTY);
                    }
                    parts.iter_mut().for_each(|part| part.ticket = None);
                    let leases = parts.iter_mut().filter_map(|part| part.lease.take()).collect();
                    self.hand_over(number, leases);
                }
                multi_lock::Command::Lose => self.tell_lost(number),
                multi_lock::Command::Refuse(cause) => {
                    self.tell_refused(number, cause == multi_lock::Cause::Cancelled)
                }
                multi_lock::Command::End => {
                    (self.requests[number].ended, self.requests[number].pauses) = (true, false)
                }
                multi_lock::Command::Queued(_)
                | multi_lock::Command::Suspend
                | multi_lock::Command::Resume
                | multi_lock::Command::Released => {}
            }
        }
    }

    /// Begins the round.
    pub fn ask(&mut self, scenario: &Scenario, number: usize) {
        let request = &mut self.requests[number];
        request.pauses = false;
        let (process, round) = (request.process, request.round);
        for (part, path) in scenario.paths(number).iter().enumerate() {
            let ticket = Ticket { request: number, round, part };
            self.requests[number].parts[part].ticket = Some(ticket);
            self.requests[number].parts[part].placed = false;
            self.requests[number].parts[part].doubted = false;
            self.post(process, *path, ToPath::Acquire(ticket));
        }
    }

    fn submit(&mut self, scenario: &Scenario, number: usize) {
        let Request { process, round, parts, .. } = &mut self.requests[number];
        parts.iter_mut().for_each(|part| part.placed = true);
        let entrants: Vec<Entrant> = parts.iter_mut().filter_map(|part| part.entrant.take()).collect();
        let (process, round) = (*process, *round);
        self.post(process, scenario.paths(number)[0], ToPath::JointCreate(number, round, entrants));
    }

    fn give_back(&mut self, scenario: &Scenario, number: usize) {
        let process = self.requests[number].process;
        for (part, path) in scenario.paths(number).iter().enumerate() {
            let Part { ticket, entrant, lease, .. } = std::mem::take(&mut self.requests[number].parts[part]);
            entrant.into_iter().for_each(|entrant| self.withdraw(entrant));
            lease.into_iter().for_each(|lease| self.drop_lease(lease));
            ticket.into_iter().for_each(|ticket| self.post(process, *path, ToPath::Cancel(ticket)));
        }
    }

    fn withdraw(&mut self, entrant: Entrant) {
        let failure = Failure::Refused("".into());
        self.tell_created(entrant, Err(failure.clone()), Err(failure));
    }
}
