//! A process' turn: from its place in the mutex' queue to the leases of its claims.

use std::collections::BTreeSet;

use super::{Alarm, Claim, Limit, Link, MAX_TAKE, PATIENCE, RETRY, Semaphore, Stage};
use crate::machine::protocol::{
    Command, Event, Failure, Leases, PermitRequest, Refusal, Request, Root, Sight, TakeFailure, Ticket, Wait,
};
use crate::machine::znode::{Attempt, Dialect, Mode, Patterns, Znode};
use crate::machine::{Machine, Moment};

/// One contender for the mutex, and what it found out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Turn {
    /// Names the contender in the mutex' queue.
    ticket: Ticket,
    /// How many contenders are ahead of it, once it has its place and as long as it waits.
    ahead: Option<usize>,
    /// Its node and that node's transaction, once it is the first.
    mutex: Option<(Znode, i64)>,
    /// Claims that came before this are served.
    before: u64,
    /// Whose answer is awaited.
    survey: Option<Attempt>,
    /// Claims that came before this had come when it was sent.
    asked: u64,
    /// Which surveys left the watches that are armed.
    root_watch: Option<Attempt>,
    lease_watch: Option<Attempt>,
    /// Who is the first in line and does not fit; both watches are armed then.
    full: Option<Ticket>,
}

/// A transaction that makes leases, in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Take {
    attempt: Attempt,
    leases: Vec<(Ticket, String)>,
    mutex: Znode,
    czxid: i64,
    keep: bool,
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
    fn relay(&mut self, command: Command, at_once: bool, out: &mut Vec<Command>) {
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
            Ok(None) | Err(Failure::Unknown(_)) => self.look_closely(out),
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

    pub(super) fn root_made(&mut self, survey: Attempt, result: Result<(), Failure>, out: &mut Vec<Command>) {
        let Some(turn) = self.turn.as_mut().filter(|turn| turn.survey == Some(survey)) else { return };
        turn.survey = None;
        match result {
            Ok(()) | Err(Failure::NoNode | Failure::Unknown(_)) => self.look_closely(out),
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(Refusal::NoAuth(None), out),
            Err(Failure::Refused(reason)) => self.fail(Refusal::Rejected(reason), out),
        }
    }

    pub(super) fn taken(
        &mut self,
        attempt: Attempt,
        result: Result<(), TakeFailure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(take) = self.take.take_if(|take| take.attempt == attempt) else { return };
        match result {
            Ok(()) => self.succeed(take, now, out),
            Err(TakeFailure::Failed(Failure::Unknown(_))) => {
                out.push(Command::FindLeases(attempt));
                self.take = Some(take);
            }
            // Its loss will be told, and settles it.
            Err(TakeFailure::Failed(Failure::SessionGone)) => self.take = Some(take),
            Err(TakeFailure::MutexGone) => {
                let name = take.mutex.name().to_owned();
                self.put_back(&take, None, out);
                self.mutex(Event::Missing(vec![name]), now, out);
            }
            Err(TakeFailure::LimitChanged | TakeFailure::RootGone | TakeFailure::Failed(Failure::NoNode)) => {
                self.limit = Limit::Unknown;
                self.put_back(&take, None, out);
                self.look_closely(out);
            }
            Err(TakeFailure::Failed(Failure::NoAuth)) => {
                self.put_back(&take, Some(Refusal::NoAuth(None)), out);
                self.look_closely(out);
            }
            Err(TakeFailure::Failed(Failure::Refused(reason))) => {
                self.put_back(&take, Some(Refusal::Rejected(reason)), out);
                self.look_closely(out);
            }
        }
    }

    pub(super) fn leases_found(
        &mut self,
        attempt: Attempt,
        result: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(take) = self.take.take_if(|take| take.attempt == attempt) else { return };
        match result {
            Ok(names) if names.iter().any(|name| take.leases.iter().any(|(_, lease)| lease == name)) => {
                self.succeed(take, now, out)
            }
            Ok(_) | Err(Failure::NoNode) => {
                self.put_back(&take, None, out);
                self.look_closely(out);
            }
            // The end of the session takes them away.
            Err(Failure::NoAuth | Failure::Refused(_)) if self.closed => {
                take.leases.iter().for_each(|(ticket, _)| self.remove(*ticket, false, out));
            }
            Err(failure) => {
                self.take = Some(take);
                match failure {
                    Failure::Unknown(_) => out.push(Command::FindLeases(attempt)),
                    Failure::NoAuth | Failure::Refused(_) => {
                        self.alarms.insert((now + RETRY, Alarm::Find(attempt)));
                    }
                    // A missing root shows that the take was not carried out, or that its leases are gone.
                    Failure::NoNode | Failure::SessionGone => {}
                }
            }
        }
    }

    /// The leases are there.
    fn succeed(&mut self, take: Take, now: Moment, out: &mut Vec<Command>) {
        let tickets: BTreeSet<Ticket> = take.leases.iter().map(|(ticket, _)| *ticket).collect();
        for (ticket, lease) in take.leases {
            self.leases.insert(lease.clone(), Some(ticket));
            out.push(Command::TrackLease(lease));
        }
        for ticket in tickets {
            match self.claims.get(&ticket).map(|claim| (claim.stage, claim.arrival)) {
                Some((Stage::Taking, _)) if self.is_up() => self.grant(ticket, take.czxid, out),
                Some((Stage::Taking, arrival)) => {
                    self.set(ticket, Stage::Taken { czxid: take.czxid });
                    self.line.remove(&arrival);
                }
                Some(_) | None => self.give_back(ticket, out),
            }
        }
        if take.keep {
            return self.look_closely(out);
        }
        let Some(turn) = self.turn.take() else { return };
        calm(&turn, out);
        // The mutex went in the same transaction: its delete is done already.
        let mut commands = Vec::new();
        self.mutex.handle(Event::Release(turn.ticket), now, &mut commands);
        for command in commands {
            match command {
                Command::Delete(attempt, node) if node == take.mutex => {
                    self.mutex(Event::Deleted(attempt, Ok(())), now, out)
                }
                command => self.relay(command, false, out),
            }
        }
    }

    /// There are no leases: whoever still wants them stands in line again, or gets this answer.
    fn put_back(&mut self, take: &Take, refusal: Option<Refusal>, out: &mut Vec<Command>) {
        if !take.keep {
            out.push(Command::Track(take.mutex.clone()));
        }
        for (ticket, _) in &take.leases {
            match self.stage(*ticket) {
                Some(Stage::Taking) => {
                    self.set(*ticket, Stage::Waiting);
                    if let Some(refusal) = &refusal {
                        self.give_up(*ticket, refusal.clone(), out);
                    }
                }
                Some(Stage::Abandoned) => self.remove(*ticket, true, out),
                Some(_) | None => {}
            }
        }
    }

    /// Serves the line, as far as there are permits.
    fn serve(&mut self, leases: usize, out: &mut Vec<Command>) {
        let Some(Turn { before, asked, mutex: Some((mutex, czxid)), .. }) = self.turn.clone() else { return };
        let Limit::Stored { version, .. } = self.limit else { return self.look_closely(out) };
        let (mut used, mut chosen, mut waiting) = (leases as u64, Vec::new(), false);
        let (mut bytes, mut rest) = (0, false);
        let line: Vec<(u64, Ticket)> = self.line.range(..before).map(|(at, ticket)| (*at, *ticket)).collect();
        for (arrival, ticket) in line {
            let Some(claim) = self.claims.get(&ticket) else { continue };
            let PermitRequest { count, wait, bytes: size, .. } = claim.request;
            let permits = self.permits(&claim.request);
            if let (Ok(_), Some(claim)) = (&permits, self.claims.get_mut(&ticket)) {
                claim.request.agreed = true;
            }
            match permits {
                // It may know of a limit that is newer than what was seen.
                Err(_) if arrival >= asked => {
                    self.limit = Limit::Unknown;
                    return self.look_closely(out);
                }
                Err(refusal) => self.give_up(ticket, refusal, out),
                Ok(limit) if !waiting && used + u64::from(count) <= limit => {
                    bytes += count as usize * size;
                    // The rest follows in a transaction of its own.
                    if bytes > MAX_TAKE / 2 && !chosen.is_empty() {
                        rest = true;
                        break;
                    }
                    used += u64::from(count);
                    chosen.push((ticket, count));
                }
                Ok(_) if wait == Wait::Try => self.give_up(ticket, Refusal::Contended, out),
                // Nobody overtakes: otherwise who wants many would wait for ever.
                Ok(_) => waiting = true,
            }
        }
        if !chosen.is_empty() {
            let mut leases = Vec::new();
            for (ticket, count) in chosen {
                self.set(ticket, Stage::Taking);
                for _ in 0..count {
                    leases.push((ticket, self.instance.lease(self.count())));
                }
            }
            let (attempt, keep) = (self.count(), waiting || rest);
            out.push(Command::Take {
                take: attempt,
                version,
                mutex: mutex.clone(),
                keep,
                leases: leases.clone(),
            });
            self.take = Some(Take { attempt, leases, mutex, czxid, keep });
        } else if waiting {
            let watched =
                self.turn.as_ref().map(|turn| (turn.root_watch.is_some(), turn.lease_watch.is_some()));
            match watched {
                Some((true, true)) => self.be_full(),
                Some((false, true)) => self.look(Sight::Watch, Sight::Skip, out),
                Some((true, false)) => self.look(Sight::Skip, Sight::Watch, out),
                Some((false, false)) => self.look(Sight::Watch, Sight::Watch, out),
                None => {}
            }
        }
    }

    /// Whose number this survey has found to be the stored one follows what is stored from then on.
    fn agree(&mut self, survey: Attempt) {
        let Limit::Stored { permits: Some(stored), .. } = self.limit else { return };
        let asked =
            self.turn.as_ref().filter(|turn| turn.survey == Some(survey)).map_or(0, |turn| turn.asked);
        let meant = |claim: &&mut Claim| claim.stage == Stage::Peeking(survey) || claim.arrival < asked;
        for claim in self.claims.values_mut().filter(meant) {
            claim.request.agreed |= claim.request.limit.map(i64::from) == Some(stored);
        }
    }

    /// How many permits there are for this request, if it can be served at all.
    fn permits(&self, request: &PermitRequest) -> Result<u64, Refusal> {
        let stored = match self.limit {
            Limit::Unknown => None,
            Limit::Stored { permits, .. } => permits,
        };
        let limit = match (stored, request.limit) {
            (Some(stored), Some(given)) if !request.agreed && stored != i64::from(given) => {
                return Err(Refusal::LimitMismatch { stored, given });
            }
            (Some(stored), _) => u32::try_from(stored.max(0)).unwrap_or(u32::MAX),
            (None, Some(given)) => given,
            (None, None) => return Err(Refusal::NoLimit),
        };
        match request.count > limit {
            true => Err(Refusal::TooMany { count: request.count, limit }),
            false => Ok(limit.into()),
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

    fn be_full(&mut self) {
        let head = self.head();
        if let Some(turn) = &mut self.turn {
            turn.full = head;
        }
    }

    /// With the mutex in hand: the watch is of use if there are too few permits, and costs nothing if there are
    /// enough, because the leases that are made then fire it.
    fn look_closely(&mut self, out: &mut Vec<Command>) {
        self.look(self.unknown_root(), Sight::Watch, out);
    }

    fn look(&mut self, root: Sight, leases: Sight, out: &mut Vec<Command>) {
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

    fn count(&mut self) -> Attempt {
        let attempt = self.next;
        self.next = Attempt(attempt.0 + 1);
        attempt
    }
}

fn calm(turn: &Turn, out: &mut Vec<Command>) {
    if turn.root_watch.is_some() || turn.lease_watch.is_some() {
        out.push(Command::Calm);
    }
}

fn read(root: &Root) -> Limit {
    let permits = std::str::from_utf8(&root.data).ok().and_then(|text| text.trim().parse().ok());
    Limit::Stored { version: root.version, written: root.written, permits }
}
