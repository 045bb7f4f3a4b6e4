//! What the actors around the machines do: `src/lock` for a path, `src/multi.rs` for a request.

use lockkeeper_actors::machine::multi::{MultiCommand, MultiEvent};
use lockkeeper_actors::machine::protocol::{self, Command, Event, Failure, Wait};
use lockkeeper_actors::machine::znode::{Attempt, Dialect, Mode, Patterns};
use lockkeeper_actors::machine::{Machine, Moment};

use super::messages::{Call, Entrant, Lease, Ticket, ToMulti, ToPath};
use super::world::{Part, Request, Scenario, Twin, Word, World};
use crate::world::directory::Name;
use crate::world::gate::gate;

impl World {
    // ---- callers ----

    pub fn acquire(&mut self, scenario: &Scenario, number: usize) {
        match scenario.wants[number].1 {
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
        match scenario.wants[number].1 {
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
            Word::Refused | Word::Granted | Word::Lost | Word::Released => self.is_flawed = true,
        }
    }

    fn tell_refused(&mut self, number: usize) {
        let word = &mut self.requests[number].word;
        match word {
            Word::Waiting | Word::Cancelling => *word = Word::Refused,
            Word::Refused | Word::Granted | Word::Lost | Word::Released => self.is_flawed = true,
        }
    }

    fn tell_lost(&mut self, number: usize) {
        let word = &mut self.requests[number].word;
        match word {
            Word::Granted => *word = Word::Lost,
            Word::Released => {}
            Word::Waiting | Word::Cancelling | Word::Refused | Word::Lost => self.is_flawed = true,
        }
    }

    pub fn drop_lease(&mut self, lease: Lease) {
        let process = self.requests[lease.ticket.request].process;
        self.post(process, lease.path, ToPath::Release(lease.ticket));
    }

    /// What the lease itself says, ahead of the message that tells of it.
    pub fn is_over(&self, lease: &Lease) -> bool {
        let process = self.requests[lease.ticket.request].process;
        self.is_lost(lease.session) || self.processes[process].queues[lease.path].lost.contains(&lease.ticket)
    }

    // ---- the actor of a path ----

    pub fn take_path(&mut self, scenario: &Scenario, process: usize, path: usize) {
        let state = &mut self.processes[process].queues[path];
        let Some(message) = state.inbox.pop_front() else { return };
        let using = state.using;
        match message {
            ToPath::Acquire(ticket) => {
                let request = protocol::Request {
                    mode: Mode::Lock,
                    dialect: Dialect::Kazoo,
                    patterns: Patterns::from([]),
                    ephemeral: true,
                    wait: Wait::Forever,
                };
                self.feed(scenario, process, path, Event::Acquire { ticket: ticket.number(), request });
            }
            ToPath::Cancel(ticket) => self.feed(scenario, process, path, Event::Cancel(ticket.number())),
            ToPath::Release(ticket) => {
                state.lost.remove(&ticket);
                self.feed(scenario, process, path, Event::Release(ticket.number()));
            }
            ToPath::Event(epoch, event) if using == Some(epoch) => self.feed(scenario, process, path, event),
            ToPath::Connected(id) => {
                state.using = Some(id);
                self.feed(scenario, process, path, Event::Connected { session: id.into() });
            }
            ToPath::Lost(id) if using == Some(id) => {
                state.using = None;
                self.feed(scenario, process, path, Event::Lost);
            }
            ToPath::Event(..) | ToPath::Lost(_) => {}
            ToPath::Together(request, round, entrants) => {
                // Otherwise the end of that session is told in every path.
                if using == entrants.first().map(|entrant| entrant.epoch) {
                    self.make_together(scenario, request, round, entrants);
                }
            }
        }
    }

    fn make_together(&mut self, scenario: &Scenario, request: usize, round: u8, entrants: Vec<Entrant>) {
        let Some(epoch) = entrants.first().map(|entrant| entrant.epoch) else { return };
        let to = Some((request, round));
        if self.is_lost(epoch) {
            self.tell(scenario, request, ToMulti::Made(round));
        } else if scenario.twin == Some(Twin::MadeOneByOne) {
            let calls = entrants.into_iter().enumerate();
            let calls = calls.map(|(at, entrant)| Call::Make(to.filter(|_| at == 0), vec![entrant]));
            self.session(epoch).calls.extend(calls);
        } else {
            self.session(epoch).calls.push_back(Call::Make(to, entrants));
        }
    }

    fn feed(&mut self, scenario: &Scenario, process: usize, path: usize, event: Event) {
        let is_sure = self.processes[process].queues[path].using.is_some_and(|id| !self.is_lost(id));
        let machine = &mut self.processes[process].queues[path].machine;
        let mut commands = Vec::new();
        for event in gate(machine.is_up(), is_sure, event) {
            machine.handle(event, Moment(0), &mut commands);
        }
        for command in commands {
            self.execute(scenario, process, path, command);
        }
    }

    fn execute(&mut self, scenario: &Scenario, process: usize, path: usize, command: Command) {
        let using = self.processes[process].queues[path].using;
        let session = using.and_then(|id| self.sessions.get_mut(&id)).filter(|session| !session.lost);
        let small = |attempt: Attempt| attempt.0 as u8;
        let is_joint = |ticket: Ticket| scenario.wants[ticket.request].1.len() > 1;
        let call = match command {
            Command::Enter(attempt, ticket) => {
                let (ticket, attempt) = (Ticket::of(ticket), small(attempt));
                self.processes[process].queues[path].tickets.insert(attempt, ticket);
                let Some(epoch) = using else { return };
                let entrant = Entrant { ticket, path, attempt, epoch };
                if is_joint(ticket) {
                    self.tell(scenario, ticket.request, ToMulti::Named(entrant));
                    return;
                }
                Call::Make(None, vec![entrant])
            }
            Command::List(attempt) => Call::List(path, small(attempt)),
            Command::Look(attempt) => Call::Look(path, small(attempt)),
            Command::Inspect(attempt, node) => Call::Inspect(path, small(attempt), Name::of(&node)),
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
                match is_joint(ticket) {
                    true => self.tell(scenario, ticket.request, ToMulti::Acquired(lease)),
                    false => self.hand_over(ticket.request, vec![lease]),
                }
                return;
            }
            Command::Queued(ticket, ahead) => {
                let ticket = Ticket::of(ticket);
                if is_joint(ticket) {
                    self.tell(scenario, ticket.request, ToMulti::Queued(ticket, ahead));
                }
                return;
            }
            Command::Suspend(ticket) => {
                let ticket = Ticket::of(ticket);
                if is_joint(ticket) {
                    self.tell(scenario, ticket.request, ToMulti::Suspended(ticket));
                }
                return;
            }
            Command::Refuse(ticket, _) => {
                let ticket = Ticket::of(ticket);
                match is_joint(ticket) {
                    true => self.tell(scenario, ticket.request, ToMulti::Refused(ticket)),
                    false => self.tell_refused(ticket.request),
                }
                return;
            }
            Command::Lose(ticket) => {
                let ticket = Ticket::of(ticket);
                self.processes[process].queues[path].lost.insert(ticket);
                match is_joint(ticket) {
                    true => self.tell(scenario, ticket.request, ToMulti::Lost(ticket)),
                    false => self.tell_lost(ticket.request),
                }
                return;
            }
            Command::Forget { ticket, .. } => {
                let ticket = Ticket::of(ticket);
                if is_joint(ticket) {
                    self.tell(scenario, ticket.request, ToMulti::Over(ticket));
                }
                return;
            }
            Command::MakeDirectory(..)
            | Command::Resume(_)
            | Command::Survey { .. }
            | Command::Calm
            | Command::MakeRoot { .. }
            | Command::Take { .. }
            | Command::FindLeases(_)
            | Command::Return(_)
            | Command::TrackLease(_)
            | Command::GrantPermits { .. } => {
                unreachable!("directories are there, and no session comes back")
            }
        };
        if let Some(id) = using.filter(|id| !self.is_lost(*id)) {
            self.session(id).calls.push_back(call);
        }
    }

    /// What would be passed over is not sent: rounds only go up.
    pub fn tell(&mut self, scenario: &Scenario, number: usize, message: ToMulti) {
        let request = &mut self.requests[number];
        let round = match message {
            ToMulti::Start | ToMulti::Cancel | ToMulti::Named(_) | ToMulti::Acquired(_) => request.round,
            ToMulti::Made(round) => round,
            ToMulti::Queued(ticket, _)
            | ToMulti::Suspended(ticket)
            | ToMulti::Refused(ticket)
            | ToMulti::Lost(ticket)
            | ToMulti::Over(ticket) => ticket.round,
        };
        let gives_back = matches!(message, ToMulti::Named(_) | ToMulti::Acquired(_));
        if round == request.round && (!request.ended || gives_back) {
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
            ToMulti::Start => self.feed_multi(scenario, number, MultiEvent::Start),
            ToMulti::Named(entrant) if is_now(entrant.ticket) => {
                let Ticket { part, .. } = entrant.ticket;
                if scenario.twin == Some(Twin::OnlyMissingAnew) && request.parts[part].placed {
                    let round = entrant.ticket.round;
                    return self.make_together(scenario, number, round, vec![entrant]);
                }
                let before = request.parts[part].entrant.replace(entrant);
                before.into_iter().for_each(|entrant| self.withdraw(entrant));
                let epoch = entrant.epoch.into();
                self.feed_multi(scenario, number, MultiEvent::Named { part, epoch });
            }
            ToMulti::Named(entrant) => self.withdraw(entrant),
            ToMulti::Made(round) if round == request.round && !request.ended => {
                self.feed_multi(scenario, number, MultiEvent::Made { back: Vec::new() })
            }
            ToMulti::Acquired(lease) if is_now(lease.ticket) => {
                request.parts[lease.ticket.part].lease = Some(lease);
                let lost = |part: &Part| part.lease.is_some_and(|lease| self.is_over(&lease));
                let event = match self.requests[number].parts.iter().position(lost) {
                    Some(part) => MultiEvent::Lost(part),
                    None => MultiEvent::Held(lease.ticket.part),
                };
                self.feed_multi(scenario, number, event);
            }
            ToMulti::Acquired(lease) => self.drop_lease(lease),
            ToMulti::Queued(ticket, ahead) if is_now(ticket) => {
                self.feed_multi(scenario, number, MultiEvent::Queued { part: ticket.part, ahead })
            }
            ToMulti::Suspended(ticket) if is_now(ticket) => {
                self.feed_multi(scenario, number, MultiEvent::Suspended(ticket.part))
            }
            ToMulti::Refused(ticket) if is_now(ticket) => {
                self.feed_multi(scenario, number, MultiEvent::Refused(ticket.part))
            }
            ToMulti::Lost(ticket) if is_now(ticket) => {
                self.feed_multi(scenario, number, MultiEvent::Lost(ticket.part))
            }
            ToMulti::Over(ticket) if is_now(ticket) => {
                self.feed_multi(scenario, number, MultiEvent::Over(ticket.part))
            }
            ToMulti::Cancel if !request.ended => self.feed_multi(scenario, number, MultiEvent::Cancel),
            ToMulti::Made(_)
            | ToMulti::Queued(..)
            | ToMulti::Suspended(_)
            | ToMulti::Refused(_)
            | ToMulti::Lost(_)
            | ToMulti::Over(_)
            | ToMulti::Cancel => {}
        }
    }

    fn feed_multi(&mut self, scenario: &Scenario, number: usize, event: MultiEvent) {
        let mut commands = Vec::new();
        let keeps = scenario.twin == Some(Twin::NothingGivenBack) && event == MultiEvent::Cancel;
        let early = scenario.twin == Some(Twin::GrantedTooEarly) && matches!(event, MultiEvent::Held(_));
        self.requests[number].machine.handle(event, &mut commands);
        if early && self.requests[number].word == Word::Waiting {
            commands = vec![MultiCommand::Grant];
        }
        for command in commands {
            match command {
                MultiCommand::Ask => self.ask(scenario, number),
                MultiCommand::Submit => self.submit(scenario, number),
                MultiCommand::GiveBack if keeps => {}
                MultiCommand::GiveBack => self.give_back(scenario, number),
                MultiCommand::Grant => {
                    let parts = &mut self.requests[number].parts;
                    parts.iter_mut().for_each(|part| part.ticket = None);
                    let leases = parts.iter_mut().filter_map(|part| part.lease.take()).collect();
                    self.hand_over(number, leases);
                }
                MultiCommand::Lose => self.tell_lost(number),
                MultiCommand::Refuse(_) => self.tell_refused(number),
                MultiCommand::End => self.requests[number].ended = true,
                MultiCommand::Queued(_)
                | MultiCommand::Suspend
                | MultiCommand::Resume
                | MultiCommand::Released => {}
            }
        }
    }

    fn ask(&mut self, scenario: &Scenario, number: usize) {
        let request = &mut self.requests[number];
        request.round += 1;
        let (process, round) = (request.process, request.round);
        for (part, path) in scenario.wants[number].1.iter().enumerate() {
            let ticket = Ticket { request: number, round, part };
            self.requests[number].parts[part].ticket = Some(ticket);
            self.requests[number].parts[part].placed = false;
            self.post(process, *path, ToPath::Acquire(ticket));
        }
    }

    fn submit(&mut self, scenario: &Scenario, number: usize) {
        let Request { process, round, parts, .. } = &mut self.requests[number];
        parts.iter_mut().for_each(|part| part.placed = true);
        let entrants: Vec<Entrant> = parts.iter_mut().filter_map(|part| part.entrant.take()).collect();
        let (process, round) = (*process, *round);
        self.post(process, scenario.wants[number].1[0], ToPath::Together(number, round, entrants));
    }

    fn give_back(&mut self, scenario: &Scenario, number: usize) {
        let process = self.requests[number].process;
        for (part, path) in scenario.wants[number].1.iter().enumerate() {
            let Part { ticket, entrant, lease, .. } = std::mem::take(&mut self.requests[number].parts[part]);
            entrant.into_iter().for_each(|entrant| self.withdraw(entrant));
            lease.into_iter().for_each(|lease| self.drop_lease(lease));
            ticket.into_iter().for_each(|ticket| self.post(process, *path, ToPath::Cancel(ticket)));
        }
    }

    fn withdraw(&mut self, entrant: Entrant) {
        let failure = Failure::Refused(String::new());
        self.enter(entrant, Err(failure.clone()), Err(failure));
    }
}
