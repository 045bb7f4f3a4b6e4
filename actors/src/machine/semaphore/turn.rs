//! A process' turn: from its place in the mutex' queue to the leases of its claims.

use super::{Alarm, Limit, Link, PATIENCE, Retry, Semaphore, Stage};
use crate::machine::protocol::{
    Command, Event, Failure, Leases, Refusal, Request, Root, Sight, Ticket, Wait,
};
use crate::machine::znode::{Attempt, Dialect, Mode, Patterns, Znode};
use crate::machine::{Machine, Moment};

/// One contender for the mutex, and what it found out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Turn {
    /// Names the contender in the mutex' queue.
    pub ticket: Ticket,
    /// How many contenders are ahead of it, once it has its place and as long as it waits.
    pub ahead: Option<usize>,
    /// Its node and that node's transaction, once it is the first.
    pub mutex: Option<(Znode, i64)>,
    /// Claims that came before this are served.
    pub before: u64,
    /// Whose answer is awaited.
    pub survey: Option<Attempt>,
    /// Claims that came before this had come when it was sent.
    pub asked: u64,
    /// Which surveys left the watches that are armed.
    pub root_watch: Option<Attempt>,
    pub lease_watch: Option<Attempt>,
    /// Who is the first in line and does not fit; both watches are armed then.
    pub full: Option<Ticket>,
}

impl Turn {
    pub fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// Of a session that is lost.
    pub fn forget_surveys(&mut self) {
        (self.ahead, self.survey, self.root_watch, self.lease_watch) = (None, None, None, None);
        self.full = None;
    }
}

impl Semaphore {
    /// Begins and ends turns, and tells those who have to wait.
    pub(super) fn advance(&mut self, now: Moment, out: &mut Vec<Command>) {
        let served = |turn: &Turn| match turn.mutex {
            Some(_) => self.line.first_key_value().is_none_or(|(arrival, _)| *arrival >= turn.before),
            None => self.line.is_empty(),
        };
        if self.take.is_none() && self.turn.as_ref().is_some_and(served) {
            self.end_turn(now, out);
        }
        // Whoever comes next may fit.
        if self.turn.as_ref().is_some_and(|turn| turn.full.is_some() && turn.full != self.head()) {
            self.look_closely(out);
        }
        if self.take.is_none() && self.turn.is_none() && !self.line.is_empty() && self.link != Link::Down {
            self.begin_turn(now, out);
        }
        let Some(turn) = &self.turn else { return };
        let Some(ahead) = turn.ahead.or(turn.full.map(|_| 0)) else { return };
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
        self.turns += 1;
        let ticket = Ticket(self.turns);
        self.turn = Some(Turn {
            ticket,
            ahead: None,
            mutex: None,
            before: 0,
            survey: None,
            asked: 0,
            root_watch: None,
            lease_watch: None,
            full: None,
        });
        let patterns = Patterns::default();
        let (mode, dialect) = (Mode::Lock, Dialect::Kazoo);
        let request = Request { mode, dialect, patterns, ephemeral: true, wait: Wait::Forever };
        self.mutex(Event::Acquire { ticket, request }, now, out);
    }

    fn end_turn(&mut self, now: Moment, out: &mut Vec<Command>) {
        let Some(turn) = self.turn.take() else { return };
        calm(&turn, out);
        let event = match turn.mutex {
            Some(_) => Event::Release(turn.ticket),
            None => Event::Cancel(turn.ticket),
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
                self.look(self.unknown_root(), Sight::Look, out);
            }
            Command::MakeDirectory(attempt, ticket) => {
                out.push(Command::MakeDirectory(attempt, self.head().unwrap_or(ticket)))
            }
            Command::Grant { ticket, node, czxid } if current(ticket) => {
                let before = self.arrivals;
                let Some(turn) = &mut self.turn else { return };
                (turn.mutex, turn.before, turn.ahead) = (Some((node, czxid)), before, None);
                // A survey that is still on its way counts if it was sent behind the list that showed us first.
                if !at_once || turn.survey.is_none() {
                    self.look(self.unknown_root(), Sight::Watch, out);
                }
            }
            Command::Queued(ticket, ahead) if current(ticket) => {
                let before = self.turn.as_mut().and_then(|turn| turn.ahead.replace(ahead));
                // Its node was deleted, and the new one stands at the tail.
                if before.is_some() {
                    self.tell_again();
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
                    calm(&turn, out);
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
            // The same: it may show that everybody ahead has gone.
            Command::List(_) => {
                out.push(command);
                self.look(self.unknown_root(), Sight::Look, out);
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
        out.push(Command::Survey { survey, root: self.unknown_root(), leases: Sight::Look });
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
        let awaited = self.turn.as_ref().is_some_and(|turn| turn.survey == Some(survey));
        if peek.is_none() && !awaited {
            return;
        }
        let known = self.limit;
        let root = root.map(|root| root.map(|root| self.limit = read(&root)));
        if let (Limit::Stored { written, .. }, Some(Ok(leases))) = (self.limit, &leases) {
            if written != leases.written {
                self.limit = Limit::Unknown;
            }
        }
        self.agree(survey);
        let result = match (root, leases) {
            (Some(Err(failure)), _) | (_, Some(Err(failure))) => Err(failure),
            (Some(Ok(())) | None, Some(Ok(leases))) => Ok(Some(leases.names.len())),
            (Some(Ok(())) | None, None) => Ok(None),
        };
        if let Some(ticket) = peek {
            return self.peeked(ticket, result, now, out);
        }
        let Some(turn) = &mut self.turn else { return };
        turn.survey = None;
        if result.is_err() {
            // One half may have left its watch.
            calm(turn, out);
            (turn.root_watch, turn.lease_watch) = (None, None);
        }
        // What was seen before the mutex was ours may be out of date.
        if turn.mutex.is_none() {
            return;
        }
        match result {
            Ok(Some(leases)) => self.serve(leases, out),
            // The root alone, so that it is watched: nothing new, unless something happened meanwhile.
            Ok(None) if known == self.limit && turn.lease_watch.is_some() => self.be_full(),
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
        let Some(turn) = &mut self.turn else { return };
        let watch = if root { &mut turn.root_watch } else { &mut turn.lease_watch };
        if *watch != Some(survey) {
            return;
        }
        *watch = None;
        if root {
            self.limit = Limit::Unknown;
        }
        // Otherwise the answer that is awaited shows what is to be done.
        if turn.full.take().is_some() {
            self.look_closely(out);
        }
    }

    pub(super) fn root_made(
        &mut self,
        survey: Attempt,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(turn) = self.turn.as_mut().filter(|turn| turn.survey == Some(survey)) else { return };
        turn.survey = None;
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
                if let Some(turn) = &mut self.turn {
                    turn.survey = Some(survey);
                    out.push(Command::MakeRoot { survey, ticket, limit });
                }
            }
            None => self.fail(Refusal::NoLimit, out),
        }
    }

    pub(super) fn be_full(&mut self) {
        self.retries.done(&Retry::Turn);
        let head = self.head();
        if let Some(turn) = &mut self.turn {
            turn.full = head;
        }
    }

    /// With the mutex in hand: the watch is of use if there are too few permits, and costs nothing if there are
    /// enough, because the leases that are made then fire it.
    pub(super) fn look_closely(&mut self, out: &mut Vec<Command>) {
        self.look(self.unknown_root(), Sight::Watch, out);
    }

    pub(super) fn look(&mut self, root: Sight, leases: Sight, out: &mut Vec<Command>) {
        if self.take.is_none() {
            self.retries.sent(&Retry::Turn);
        }
        let (survey, asked) = (self.count(), self.arrivals);
        let Some(turn) = &mut self.turn else { return };
        (turn.survey, turn.asked, turn.full) = (Some(survey), asked, None);
        if root == Sight::Watch {
            turn.root_watch = Some(survey);
        }
        if leases == Sight::Watch {
            turn.lease_watch = Some(survey);
        }
        out.push(Command::Survey { survey, root, leases });
    }

    /// Everybody in this turn gets this answer.
    fn fail(&mut self, refusal: Refusal, out: &mut Vec<Command>) {
        let before = self.turn.as_ref().map_or(0, |turn| turn.before);
        for ticket in self.line.range(..before).map(|(_, ticket)| *ticket).collect::<Vec<_>>() {
            self.give_up(ticket, refusal.clone(), out);
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

pub(super) fn calm(turn: &Turn, out: &mut Vec<Command>) {
    if turn.root_watch.is_some() || turn.lease_watch.is_some() {
        out.push(Command::Calm);
    }
}

fn read(root: &Root) -> Limit {
    let permits = std::str::from_utf8(&root.data).ok().and_then(|text| text.trim().parse().ok());
    Limit::Stored { version: root.version, written: root.written, permits }
}
