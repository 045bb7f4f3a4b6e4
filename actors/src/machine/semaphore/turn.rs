//! A process' turn: from its place in the mutex' queue to the leases of its claims.

use super::{Alarm, Limit, Link, PATIENCE, Retry, Semaphore, Stage};
use crate::machine::lock::protocol::{
    Command, Event, Failure, Leases, Refusal, Request, Root, Sight, Ticket, Wait,
};
use crate::machine::node::{Attempt, Dialect, Mode, Patterns, Znode};
use crate::machine::{Machine, Moment};

/// One contender for the mutex, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Turn {
    /// Names the contender in the mutex' queue.
    pub ticket: Ticket,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// In the mutex' queue.
    Queued {
        /// How many contenders are ahead, once it has its place.
        ahead: Option<usize>,
        /// Sent behind a list of the queue. It counts if that list shows that nobody is ahead.
        look: Option<Look>,
    },
    Serving(Serving),
}

/// Its node is the first: the mutex is ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Serving {
    pub mutex: Znode,
    pub czxid: i64,
    /// Claims that came before this are served.
    pub before: u64,
    /// No server that this session can still read from is without the leases of earlier turns. An answer has shown
    /// that; an event is not enough, because a reconnect may lead to a server that does not know yet what it told.
    pub fresh: bool,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The answer to a look is awaited.
    Looking { look: Look, watches: Watches },
    /// The root is being made.
    MakingRoot(Attempt),
    /// Leases are being made.
    Taking(Watches),
    /// The first in line does not fit. These surveys watch everything that can change that.
    Full { head: Ticket, root: Attempt, leases: Attempt },
    /// Nothing is awaited: nobody is left to serve, or the session has ended.
    Over(Watches),
}

/// A survey whose answer is awaited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Look {
    survey: Attempt,
    /// Claims that came before this had come when it was sent.
    pub asked: u64,
    /// A sync was sent before it.
    sync: bool,
    /// It only adds a watch for this claim, which was the first in line and did not fit into this limit.
    unfit: Option<(Ticket, Limit)>,
}

/// Which surveys left the watches that are armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Watches {
    pub root: Option<Attempt>,
    pub leases: Option<Attempt>,
}

impl Turn {
    pub fn is_full(&self) -> bool {
        matches!(self.state, State::Serving(Serving { step: Step::Full { .. }, .. }))
    }

    /// Answers and watches of a session that is lost do not come any more.
    pub fn forget_surveys(&mut self) {
        match &mut self.state {
            State::Queued { ahead, look } => (*ahead, *look) = (None, None),
            State::Serving(serving) => serving.step = Step::Over(Watches::default()),
        }
    }

    fn awaits(&self, survey: Attempt) -> bool {
        match &self.state {
            State::Queued { look: Some(look), .. }
            | State::Serving(Serving { step: Step::Looking { look, .. }, .. }) => look.survey == survey,
            State::Queued { look: None, .. } | State::Serving(_) => false,
        }
    }

    fn watches(&self) -> Watches {
        match &self.state {
            State::Queued { .. } => Watches::default(),
            State::Serving(serving) => serving.step.watches(),
        }
    }

    /// The watches are not needed any more.
    pub fn calm(&self, out: &mut Vec<Command>) {
        if self.watches() != Watches::default() {
            out.push(Command::Calm);
        }
    }
}

impl Step {
    pub fn watches(&self) -> Watches {
        match *self {
            Step::Looking { watches, .. } | Step::Taking(watches) | Step::Over(watches) => watches,
            Step::MakingRoot(_) => Watches::default(),
            Step::Full { root, leases, .. } => Watches { root: Some(root), leases: Some(leases) },
        }
    }
}

impl Semaphore {
    /// Begins and ends turns, and tells those who have to wait.
    pub(super) fn advance(&mut self, now: Moment, out: &mut Vec<Command>) {
        let served = |turn: &Turn| match &turn.state {
            State::Serving(Serving { before, .. }) => {
                self.line.first_key_value().is_none_or(|(arrival, _)| arrival >= before)
            }
            State::Queued { .. } => self.line.is_empty(),
        };
        if self.take.is_none() && self.turn.as_ref().is_some_and(served) {
            self.end_turn(now, out);
        }
        // Whoever comes next may fit.
        if let Some(State::Serving(Serving { step: Step::Full { head, .. }, .. })) =
            self.turn.as_ref().map(|turn| &turn.state)
        {
            if Some(*head) != self.head() {
                self.look_closely(out);
            }
        }
        if self.take.is_none() && self.turn.is_none() && !self.line.is_empty() && self.link != Link::Down {
            self.begin_turn(now, out);
        }
        self.tell_those_who_wait(out);
    }

    fn tell_those_who_wait(&mut self, out: &mut Vec<Command>) {
        let ahead = match self.turn.as_ref().map(|turn| &turn.state) {
            // Their numbers are compared with the stored one first: a change that comes later concerns them no more.
            Some(State::Queued { look: Some(_), .. }) => return,
            Some(State::Queued { look: None, .. })
                if self.limit == Limit::Unknown && self.retries.rests(&Retry::Turn) =>
            {
                return;
            }
            Some(State::Queued { ahead: Some(ahead), .. }) => *ahead,
            Some(State::Serving(Serving { step: Step::Full { .. }, .. })) => 0,
            Some(State::Queued { ahead: None, .. } | State::Serving(_)) | None => return,
        };
        // Those who came since the last time: a long line is not walked at every event.
        let untold: Vec<Ticket> = self.line.range(self.told..).map(|(_, ticket)| *ticket).collect();
        let first = self.line.len() - untold.len();
        self.told = self.arrivals;
        for (position, ticket) in untold.into_iter().enumerate() {
            let Some(claim) = self.claims.get_mut(&ticket) else { continue };
            if claim.request.wait != Wait::Try && !std::mem::replace(&mut claim.queued, true) {
                out.push(Command::Queued(ticket, ahead + first + position));
            }
        }
    }

    fn begin_turn(&mut self, now: Moment, out: &mut Vec<Command>) {
        // What failed in the turn before does not slow this one.
        self.retries.done(&Retry::Turn);
        self.turns += 1;
        let ticket = Ticket(self.turns);
        self.turn = Some(Turn { ticket, state: State::Queued { ahead: None, look: None } });
        let patterns = Patterns::default();
        let (mode, dialect) = (Mode::Lock, Dialect::Kazoo);
        let request = Request { mode, dialect, patterns, ephemeral: true, wait: Wait::Forever };
        self.mutex(Event::Acquire { ticket, request }, now, out);
    }

    fn end_turn(&mut self, now: Moment, out: &mut Vec<Command>) {
        let Some(turn) = self.turn.take() else { return };
        turn.calm(out);
        let event = match turn.state {
            State::Serving(_) => Event::Release(turn.ticket),
            State::Queued { .. } => Event::Cancel(turn.ticket),
        };
        self.mutex(event, now, out);
    }

    /// One event for the mutex' queue, and what follows from it.
    pub(super) fn mutex(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        let mut commands = Vec::new();
        let at_once = matches!(event, Event::Entered { .. } | Event::Listed(..));
        self.mutex.handle(event, now, &mut commands);
        for command in commands {
            self.relay(command, at_once, out);
        }
    }

    /// A command of the mutex' queue; `at_once` when it follows from a list of the queue, with a survey behind it.
    pub(super) fn relay(&mut self, command: Command, at_once: bool, out: &mut Vec<Command>) {
        let current = |ticket: Ticket| self.turn.as_ref().is_some_and(|turn| turn.ticket == ticket);
        match command {
            // Made with the options of whoever is served first. What flies behind counts if this is granted at
            // once.
            Command::Enter(attempt, ticket) => {
                out.push(Command::Enter(attempt, self.head().unwrap_or(ticket)));
                self.look_ahead(false, out);
            }
            Command::MakeDirectory(attempt, ticket) => {
                out.push(Command::MakeDirectory(attempt, self.head().unwrap_or(ticket)))
            }
            Command::Grant { ticket, node, czxid } if current(ticket) => {
                self.begin_serving(node, czxid, at_once, out)
            }
            Command::Queued(ticket, now_ahead) if current(ticket) => {
                if let Some(State::Queued { ahead, .. }) = self.turn.as_mut().map(|turn| &mut turn.state) {
                    // Its node was deleted, and the new one stands at the tail.
                    if ahead.replace(now_ahead).is_some() {
                        self.tell_again();
                    }
                }
            }
            Command::Refuse(ticket, refusal) if current(ticket) => {
                self.turn = None;
                for ticket in self.line.values().copied().collect::<Vec<_>>() {
                    self.give_up(ticket, refusal.clone(), out);
                }
            }
            Command::Lose(ticket) if current(ticket) => {
                if let Some(turn) = self.turn.take() {
                    turn.calm(out);
                }
                self.tell_again();
            }
            // Of turns that are over; and the session's ups and downs are told to claims, not to turns.
            Command::Grant { .. }
            | Command::Queued(..)
            | Command::Refuse(..)
            | Command::Lose(_)
            | Command::Suspend(_)
            | Command::Resume(_)
            | Command::Forget { .. } => {}
            // The same: the list may show that all contenders ahead are gone, some of which only events reported.
            Command::List(_) => {
                out.push(command);
                self.look_ahead(true, out);
            }
            Command::Look(_)
            | Command::Inspect(..)
            | Command::Watch(_)
            | Command::Unwatch(_)
            | Command::Delete(..)
            | Command::Track(_)
            | Command::Survey { .. }
            | Command::Calm
            | Command::MakeRoot { .. }
            | Command::Take { .. }
            | Command::FindLeases(_)
            | Command::Return(_)
            | Command::TrackLease(_)
            | Command::GrantPermits { .. } => out.push(command),
        }
    }

    /// For a try: whether it is worth standing in line.
    pub(super) fn peek(&mut self, out: &mut Vec<Command>) -> Attempt {
        let survey = self.count();
        out.push(Command::Survey { survey, sync: false, root: self.unknown_root(), leases: Sight::Look });
        survey
    }

    pub(super) fn surveyed(
        &mut self,
        survey: Attempt,
        root: Option<Result<Root, Failure>>,
        leases: Option<Result<Leases, Failure>>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let peeking = |stage: &Stage| *stage == Stage::Peeking(survey);
        let peek = self.claims.iter().find(|(_, claim)| peeking(&claim.stage)).map(|(ticket, _)| *ticket);
        let awaited = self.turn.as_ref().is_some_and(|turn| turn.awaits(survey));
        if peek.is_none() && !awaited {
            return;
        }
        let root = root.map(|root| root.map(|root| self.limit = read(&root)));
        if let (Limit::Stored { written, .. }, Some(Ok(leases))) = (self.limit, &leases) {
            if written != leases.written {
                self.limit = Limit::Unknown;
            }
        }
        self.agree();
        let result = match (root, leases) {
            (Some(Err(failure)), _) | (_, Some(Err(failure))) => Err(failure),
            (Some(Ok(())) | None, Some(Ok(leases))) => Ok(Some(leases.names.len())),
            (Some(Ok(())) | None, None) => Ok(None),
        };
        if let Some(ticket) = peek {
            return self.peeked(ticket, result, now, out);
        }
        let Some(turn) = &mut self.turn else { return };
        let serving = match &mut turn.state {
            // What was seen before the mutex was ours may be out of date, but numbers are compared.
            State::Queued { look, .. } => {
                *look = None;
                let unknown = self.limit == Limit::Unknown;
                let again = match result {
                    Ok(_) => {
                        self.retries.done(&Retry::Turn);
                        unknown
                    }
                    Err(Failure::Unknown(_)) => unknown && self.retries.again(&Retry::Turn, now),
                    Err(Failure::NoNode | Failure::NoAuth | Failure::SessionGone | Failure::Refused(_)) => {
                        false
                    }
                };
                if again {
                    self.look_ahead(true, out);
                }
                return;
            }
            State::Serving(serving) => serving,
        };
        let Step::Looking { look, mut watches } = serving.step.clone() else { return };
        match result {
            Ok(_) => serving.fresh |= look.sync,
            // One half may have left its watch.
            Err(_) if watches != Watches::default() => {
                out.push(Command::Calm);
                watches = Watches::default();
            }
            Err(_) => {}
        }
        serving.step = Step::Over(watches);
        match result {
            Ok(Some(leases)) => self.serve(leases, look.asked, out),
            // The root alone, so that it is watched: nothing new, unless something happened meanwhile.
            Ok(None) if look.unfit.is_some() && look.unfit == self.head().map(|head| (head, self.limit)) => {
                self.be_full(out)
            }
            Ok(None) => self.look_closely(out),
            Err(Failure::Unknown(_)) => self.look_again(now, out),
            Err(Failure::NoNode) => self.make_root(out),
            // Its loss will be told, and settles it.
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(Refusal::NoAuth(None), out),
            Err(Failure::Refused(reason)) => self.fail(Refusal::Rejected(reason), out),
        }
    }

    pub(super) fn disturbed(&mut self, survey: Attempt, root: bool, out: &mut Vec<Command>) {
        let Some(State::Serving(serving)) = self.turn.as_mut().map(|turn| &mut turn.state) else { return };
        let mut watches = serving.step.watches();
        let watch = if root { &mut watches.root } else { &mut watches.leases };
        if watch.take_if(|left| *left == survey).is_none() {
            return;
        }
        if root {
            self.limit = Limit::Unknown;
        }
        match &mut serving.step {
            // The answer that is awaited shows what is to be done.
            Step::Looking { watches: armed, .. } | Step::Taking(armed) | Step::Over(armed) => {
                *armed = watches
            }
            Step::MakingRoot(_) => {}
            Step::Full { .. } => {
                serving.step = Step::Over(watches);
                self.look_closely(out);
            }
        }
    }

    pub(super) fn root_made(
        &mut self,
        survey: Attempt,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(serving) = self.serving().filter(|serving| serving.step == Step::MakingRoot(survey)) else {
            return;
        };
        serving.step = Step::Over(Watches::default());
        match result {
            Ok(()) | Err(Failure::NoNode | Failure::Unknown(_)) => self.look_again(now, out),
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(Refusal::NoAuth(None), out),
            Err(Failure::Refused(reason)) => self.fail(Refusal::Rejected(reason), out),
        }
    }

    fn peeked(
        &mut self,
        ticket: Ticket,
        result: Result<Option<usize>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if result.is_ok() && self.limit == Limit::Unknown {
            let survey = self.peek(out);
            return self.set(ticket, Stage::Peeking(survey));
        }
        let Some(claim) = self.claims.get(&ticket) else { return };
        let free = |used: Option<usize>| match self.permits(&claim.request) {
            // What is free is kept for those who wait.
            Ok(_) if self.turn.as_ref().is_some_and(Turn::is_full) => Err(Refusal::Contended),
            Ok(limit) if used.unwrap_or(0) as u64 + u64::from(claim.request.count) <= limit => Ok(()),
            Ok(_) => Err(Refusal::Contended),
            Err(refusal) => Err(refusal),
        };
        let result = match result {
            Ok(used) => free(used),
            // The root is made in its turn.
            Err(Failure::NoNode) => Ok(()),
            Err(Failure::NoAuth) => Err(Refusal::NoAuth(None)),
            Err(Failure::Refused(reason)) => Err(Refusal::Rejected(reason)),
            Err(Failure::Unknown(_) | Failure::SessionGone) => Err(Refusal::Suspended),
        };
        match result {
            Ok(()) => {
                self.wait_again(ticket);
                self.alarms.insert((now + PATIENCE, Alarm::Patience(ticket)));
            }
            Err(refusal) => self.give_up(ticket, refusal, out),
        }
    }

    fn make_root(&mut self, out: &mut Vec<Command>) {
        self.limit = Limit::Unknown;
        let wanted = |ticket: &Ticket| Some((*ticket, self.claims.get(ticket)?.request.limit?));
        match self.line.values().find_map(wanted) {
            Some((ticket, limit)) => {
                let survey = self.count();
                if let Some(serving) = self.serving() {
                    serving.step = Step::MakingRoot(survey);
                    out.push(Command::MakeRoot { survey, ticket, limit });
                }
            }
            None => self.fail(Refusal::NoLimit, out),
        }
    }

    /// The mutex is ours. The look that is on its way counts if it was sent behind the list that has just shown it.
    fn begin_serving(&mut self, mutex: Znode, czxid: i64, at_once: bool, out: &mut Vec<Command>) {
        let before = self.arrivals;
        let Some(turn) = &mut self.turn else { return };
        let look = match &mut turn.state {
            State::Queued { look, .. } => look.take().filter(|_| at_once),
            State::Serving(_) => None,
        };
        let fresh = look.as_ref().is_some_and(|look| !look.sync);
        let watches = Watches::default();
        let (again, step) = match look {
            Some(look) => (false, Step::Looking { look, watches }),
            None => (true, Step::Over(watches)),
        };
        turn.state = State::Serving(Serving { mutex, czxid, before, fresh, step });
        if again {
            self.look_closely(out);
        }
    }

    /// The first in line does not fit: it waits until something changes, once everything that can is watched.
    pub(super) fn be_full(&mut self, out: &mut Vec<Command>) {
        let (head, limit) = (self.head(), self.limit);
        let (Some(serving), Some(head)) = (self.serving(), head) else { return };
        match serving.step.watches() {
            Watches { root: Some(root), leases: Some(leases) } => {
                serving.step = Step::Full { head, root, leases };
                self.retries.done(&Retry::Turn);
            }
            Watches { root: None, leases: Some(_) } => {
                self.look(Sight::Watch, Sight::Skip, Some((head, limit)), out)
            }
            Watches { root: Some(_), leases: None } => self.look(Sight::Skip, Sight::Watch, None, out),
            Watches { root: None, leases: None } => self.look(Sight::Watch, Sight::Watch, None, out),
        }
    }

    /// With the mutex in hand: the watch is of use if there are too few permits, and costs nothing if there are
    /// enough, because the leases that are made then fire it.
    pub(super) fn look_closely(&mut self, out: &mut Vec<Command>) {
        self.look(self.unknown_root(), Sight::Watch, None, out);
    }

    fn look(&mut self, root: Sight, leases: Sight, unfit: Option<(Ticket, Limit)>, out: &mut Vec<Command>) {
        if self.take.is_none() {
            self.retries.sent(&Retry::Turn);
        }
        let (survey, asked) = (self.count(), self.arrivals);
        let Some(serving) = self.serving() else { return };
        let mut watches = serving.step.watches();
        if root == Sight::Watch {
            watches.root = Some(survey);
        }
        if leases == Sight::Watch {
            watches.leases = Some(survey);
        }
        let sync = !serving.fresh;
        serving.step = Step::Looking { look: Look { survey, asked, sync, unfit }, watches };
        out.push(Command::Survey { survey, sync, root, leases });
    }

    /// Behind a list of the mutex' queue, which may show that it is our turn.
    pub(super) fn look_ahead(&mut self, sync: bool, out: &mut Vec<Command>) {
        self.retries.sent(&Retry::Turn);
        let (root, survey, asked) = (self.unknown_root(), self.count(), self.arrivals);
        let Some(State::Queued { look, .. }) = self.turn.as_mut().map(|turn| &mut turn.state) else { return };
        *look = Some(Look { survey, asked, sync, unfit: None });
        out.push(Command::Survey { survey, sync, root, leases: Sight::Look });
    }

    /// Everybody in this turn gets this answer.
    fn fail(&mut self, refusal: Refusal, out: &mut Vec<Command>) {
        let before = self.serving().map_or(0, |serving| serving.before);
        for ticket in self.line.range(..before).map(|(_, ticket)| *ticket).collect::<Vec<_>>() {
            self.give_up(ticket, refusal.clone(), out);
        }
    }

    pub(super) fn serving(&mut self) -> Option<&mut Serving> {
        match &mut self.turn.as_mut()?.state {
            State::Queued { .. } => None,
            State::Serving(serving) => Some(serving),
        }
    }

    fn unknown_root(&self) -> Sight {
        if self.limit == Limit::Unknown { Sight::Look } else { Sight::Skip }
    }

    fn head(&self) -> Option<Ticket> {
        self.line.first_key_value().map(|(_, ticket)| *ticket)
    }

    pub(super) fn count(&mut self) -> Attempt {
        let attempt = self.next;
        self.next = Attempt(attempt.0 + 1);
        attempt
    }
}

fn read(root: &Root) -> Limit {
    let permits = std::str::from_utf8(&root.data).ok().and_then(|text| text.trim().parse().ok());
    Limit::Stored { version: root.version, written: root.written, permits }
}
