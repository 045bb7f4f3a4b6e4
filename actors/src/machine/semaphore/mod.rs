//! A semaphore, as one process sees it: all its local claims, and its place among the processes.
//!
//! On kazoo's wire a lease is a child of the root, and whoever takes leases holds a mutex meanwhile, which is an
//! ordinary lock in a directory beside the root. Here one contender for the mutex serves all local claims. It stands
//! in that lock's [`Queue`]; when it is granted the process has its *turn*: the claims that wait at that moment are
//! served in their order, each whole, and while the first of them does not fit the mutex is kept. Then the mutex is
//! given up, in the same transaction that makes the last leases.
//!
//! A list of the leases counts only when the mutex was ours before it was sent: whoever had the mutex earlier has
//! made its leases by then. Where a watch's event told that the mutex is ours, the first list is sent behind a `sync`,
//! and counts if that succeeds: a client does not remember how far an event was, so a reconnect may have led to a server
//! that does not know yet what it told. What is taken is checked once more by the server: the transaction fails if the mutex or
//! the number of permits is no longer what it was. How many permits there are is read once and remembered: each list
//! of the leases shows which transaction wrote the root's data, and with it whether what is remembered still holds,
//! also when the root was deleted and made again and counts its versions anew.
//!
//! The recipe is kazoo's (`kazoo/recipe/lock.py`, version 2.11, `Semaphore`).

mod pace;
mod take;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::pace::Retry;
use self::take::Take;
use self::turn::Turn;
use super::lock::Queue;
use super::lock::protocol::{Command, Event, Failure, PermitRequest, Refusal, Ticket, Wait};
use super::node::{Attempt, Instance};
use super::retries::Retries;
use super::{Machine, Moment};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Semaphore {
    instance: Instance,
    mutex: Queue,
    link: Link,
    closed: bool,
    /// Counts surveys, takes and names of leases.
    next: Attempt,
    /// Counts claims, in the order of their service.
    arrivals: u64,
    claims: BTreeMap<Ticket, Claim>,
    /// Claims that came before this have been told of the line.
    told: u64,
    /// The claims that wait, or that a take is under way for.
    line: BTreeMap<u64, Ticket>,
    /// Own leases that are there, as far as is known, and whose they are; nobody's are being deleted.
    leases: BTreeMap<String, Option<Ticket>>,
    limit: Limit,
    turns: u64,
    turn: Option<Turn>,
    take: Option<Take>,
    alarms: BTreeSet<(Moment, Alarm)>,
    retries: Retries<Retry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Down,
    Suspended,
    Up,
}

/// How many permits there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Limit {
    /// Not read yet, or changed since.
    Unknown,
    /// As of this version of the root, written by this transaction; `None` when its data is no number, and everybody
    /// uses his own.
    Stored { version: i32, written: i64, permits: Option<i64> },
}

impl Limit {
    /// Whether this number is known to be the stored one.
    fn is(self, number: Option<u32>) -> bool {
        match self {
            Limit::Unknown => false,
            Limit::Stored { permits, .. } => permits.is_some() && permits == number.map(i64::from),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Claim {
    request: PermitRequest,
    arrival: u64,
    stage: Stage,
    /// The caller was told that it has to wait.
    queued: bool,
}

/// In the order of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// A try that looks before it stands in line.
    Peeking(Attempt),
    /// In line.
    Waiting,
    /// A transaction with its leases is in flight.
    Taking,
    /// The same, but nobody wants them any more.
    Abandoned,
    /// Its leases are there, and are granted when the session is sure again.
    Taken { czxid: i64 },
    /// It has its permits.
    Held,
    /// Its leases are being deleted.
    Returning,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Alarm {
    Deadline(Ticket),
    /// A try has seen free permits, but its turn does not come.
    Patience(Ticket),
}

/// A server takes requests of less than 1 MiB: a claim must fit into one, and several go together up to half of it.
const MAX_TAKE: usize = 960 * 1024;

/// How long a try that saw a free permit waits for those who are in line for it.
const PATIENCE: Duration = Duration::from_secs(1);

impl Machine for Semaphore {
    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        self.ring(now, out);
        // Nothing is asked for in the name of somebody who has just run out of time.
        self.advance(now, out);
        match event {
            Event::AcquirePermits { ticket, request } => self.acquire(ticket, request, now, out),
            Event::Cancel(ticket) => self.give_up(ticket, Refusal::Cancelled, out),
            Event::Release(ticket) => self.release(ticket, out),
            Event::Close => self.close(now, out),
            Event::Connected { .. } => {
                self.link = Link::Up;
                self.mutex(event, now, out);
            }
            Event::Suspended => self.suspended(now, out),
            Event::Resumed => self.resumed(now, out),
            Event::Lost => self.lost(now, out),
            Event::Surveyed { survey, root, leases } => self.surveyed(survey, root, leases, now, out),
            Event::Disturbed { survey, root } => self.disturbed(survey, root, out),
            Event::RootMade(survey, result) => self.root_made(survey, result, now, out),
            Event::Taken(take, result) => self.taken(take, result, now, out),
            Event::LeasesFound(take, result) => self.leases_found(take, result, now, out),
            Event::Returned(lease, result) => self.returned(lease, result, now, out),
            Event::Missing(names) => {
                let (leases, others): (Vec<_>, Vec<_>) =
                    names.into_iter().partition(|name| self.leases.contains_key(name));
                for lease in leases {
                    self.missing(&lease, out);
                }
                self.mutex(Event::Missing(others), now, out);
            }
            Event::Wake
            | Event::Listed(..)
            | Event::Entered { .. }
            | Event::DirectoryMade(..)
            | Event::Looked(..)
            | Event::Inspected(..)
            | Event::Watched(..)
            | Event::Fired { .. }
            | Event::Deleted(..) => self.mutex(event, now, out),
            // Of a lock, which a semaphore is not.
            Event::Acquire { ticket, .. } => {
                out.push(Command::Refuse(ticket, Refusal::Rejected("this is a semaphore".into())));
                out.push(Command::Forget { ticket, confirmed: true });
            }
        }
        self.advance(now, out);
    }

    fn wakeup(&self) -> Option<Moment> {
        let alarm = self.alarms.first().map(|(moment, _)| *moment);
        alarm.into_iter().chain(self.retries.wakeup()).chain(self.mutex.wakeup()).min()
    }

    fn is_idle(&self) -> bool {
        self.claims.is_empty() && self.leases.is_empty() && self.mutex.is_idle()
    }

    fn is_up(&self) -> bool {
        self.link == Link::Up
    }
}

impl Semaphore {
    /// A semaphore without a session, for nodes of this instance.
    pub fn new(instance: Instance) -> Semaphore {
        Semaphore {
            instance,
            mutex: Queue::new(instance),
            link: Link::Down,
            closed: false,
            next: Attempt(0),
            arrivals: 0,
            told: 0,
            claims: BTreeMap::new(),
            line: BTreeMap::new(),
            leases: BTreeMap::new(),
            limit: Limit::Unknown,
            turns: 0,
            turn: None,
            take: None,
            alarms: BTreeSet::new(),
            retries: Retries::new(instance),
        }
    }

    fn acquire(&mut self, ticket: Ticket, mut request: PermitRequest, now: Moment, out: &mut Vec<Command>) {
        let refusal = match request.wait {
            _ if self.closed => Some(Refusal::Closed),
            _ if request.count == 0 => Some(Refusal::NoPermits),
            _ if !request.agreed && request.limit.is_some_and(|limit| request.count > limit) => {
                let limit = request.limit.unwrap_or_default();
                Some(Refusal::TooMany { count: request.count, limit })
            }
            _ if request.count as usize > MAX_TAKE / request.bytes.max(1) => {
                let reason = "its leases do not fit into one request of less than 1 MiB";
                Some(Refusal::Rejected(reason.into()))
            }
            Wait::Try if !self.is_up() => Some(Refusal::Suspended),
            // What is free is kept for those who wait.
            Wait::Try if self.turn.as_ref().is_some_and(Turn::is_full) => Some(Refusal::Contended),
            Wait::Until(deadline) if deadline <= now => Some(Refusal::TimedOut),
            Wait::Try | Wait::Until(_) | Wait::Forever => None,
        };
        if let Some(refusal) = refusal {
            out.push(Command::Refuse(ticket, refusal));
            out.push(Command::Forget { ticket, confirmed: true });
            return;
        }
        let wait = request.wait;
        // Within a turn the number is one that this turn has seen.
        request.agreed |= self.turn.is_some() && self.limit.is(request.limit);
        let (arrival, stage) = (self.arrivals, Stage::Waiting);
        self.arrivals += 1;
        self.claims.insert(ticket, Claim { request, arrival, stage, queued: false });
        match wait {
            Wait::Try => {
                let survey = self.peek(out);
                self.set(ticket, Stage::Peeking(survey));
            }
            Wait::Until(deadline) => {
                self.alarms.insert((deadline, Alarm::Deadline(ticket)));
                self.line.insert(arrival, ticket);
            }
            Wait::Forever => {
                self.line.insert(arrival, ticket);
            }
        }
    }

    fn release(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        match self.stage(ticket) {
            Some(Stage::Held) => self.give_back(ticket, out),
            Some(_) => {}
            // Lost before: there is nothing left to delete.
            None => out.push(Command::Forget { ticket, confirmed: false }),
        }
    }

    fn close(&mut self, now: Moment, out: &mut Vec<Command>) {
        self.closed = true;
        for ticket in self.tickets() {
            match self.stage(ticket) {
                Some(Stage::Held) => {
                    out.push(Command::Lose(ticket));
                    self.give_back(ticket, out);
                }
                Some(_) => self.give_up(ticket, Refusal::Closed, out),
                None => {}
            }
        }
        self.mutex(Event::Close, now, out);
    }

    fn suspended(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.link != Link::Up {
            return;
        }
        self.link = Link::Suspended;
        for ticket in self.tickets() {
            let claim = &self.claims[&ticket];
            match claim.stage {
                Stage::Held => out.push(Command::Suspend(ticket)),
                _ if claim.request.wait == Wait::Try => self.give_up(ticket, Refusal::Suspended, out),
                _ => {}
            }
        }
        self.mutex(Event::Suspended, now, out);
    }

    fn resumed(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.link != Link::Suspended {
            return;
        }
        self.link = Link::Up;
        for ticket in self.tickets() {
            match self.stage(ticket) {
                Some(Stage::Held) => out.push(Command::Resume(ticket)),
                Some(Stage::Taken { czxid }) => self.grant(ticket, czxid, out),
                _ => {}
            }
        }
        self.mutex(Event::Resumed, now, out);
    }

    /// All leases go with the session. Who waits keeps its place among the local claims.
    fn lost(&mut self, now: Moment, out: &mut Vec<Command>) {
        self.link = Link::Down;
        (self.limit, self.take) = (Limit::Unknown, None);
        self.leases.clear();
        self.retries.clear();
        if let Some(turn) = &mut self.turn {
            turn.forget_surveys();
        }
        for ticket in self.tickets() {
            let claim = &self.claims[&ticket];
            match claim.stage {
                Stage::Held => {
                    out.push(Command::Lose(ticket));
                    self.remove(ticket, false, out);
                }
                Stage::Abandoned | Stage::Returning => self.remove(ticket, false, out),
                _ if claim.request.wait == Wait::Try => self.give_up(ticket, Refusal::Suspended, out),
                Stage::Taking | Stage::Taken { .. } => self.wait_again(ticket),
                Stage::Peeking(_) | Stage::Waiting => {}
            }
        }
        self.tell_again();
        self.mutex(Event::Lost, now, out);
    }

    fn ring(&mut self, now: Moment, out: &mut Vec<Command>) {
        while self.alarms.first().is_some_and(|(due, _)| *due <= now) {
            match self.alarms.pop_first() {
                Some((_, Alarm::Deadline(ticket))) => self.give_up(ticket, Refusal::TimedOut, out),
                // Leases that are being made are worth the moment.
                Some((_, Alarm::Patience(ticket))) if self.stage(ticket) == Some(Stage::Taking) => {
                    self.alarms.insert((now + PATIENCE, Alarm::Patience(ticket)));
                }
                Some((_, Alarm::Patience(ticket))) => self.give_up(ticket, Refusal::Contended, out),
                None => {}
            }
        }
        self.retry(now, out);
    }

    /// A lease is gone, and not by our hand. Whatever else its claim has is deleted.
    fn missing(&mut self, lease: &str, out: &mut Vec<Command>) {
        let Some(&Some(ticket)) = self.leases.get(lease) else { return };
        match self.stage(ticket) {
            Some(Stage::Held) => {
                out.push(Command::Lose(ticket));
                self.give_back(ticket, out);
            }
            // Not told of them yet: it stands in line again, and they belong to nobody.
            Some(Stage::Taken { .. }) => {
                for lease in self.leases_of(ticket) {
                    self.leases.insert(lease.clone(), None);
                    out.push(Command::Return(lease));
                }
                self.wait_again(ticket);
            }
            Some(
                Stage::Peeking(_) | Stage::Waiting | Stage::Taking | Stage::Abandoned | Stage::Returning,
            )
            | None => {}
        }
    }

    fn returned(&mut self, lease: String, result: Result<(), Failure>, now: Moment, out: &mut Vec<Command>) {
        let Some(&owner) = self.leases.get(&lease) else { return };
        match result {
            Ok(()) | Err(Failure::NoNode) => {
                self.retries.done(&Retry::Return(lease.clone()));
                self.leases.remove(&lease);
                if let Some(ticket) = owner.filter(|ticket| self.leases_of(*ticket).is_empty()) {
                    self.remove(ticket, true, out);
                }
            }
            Err(Failure::Unknown(_)) => self.return_again(lease, now, out),
            // Its loss will be told, and settles it.
            Err(Failure::SessionGone) => {}
            // The end of the session takes it away.
            Err(Failure::NoAuth | Failure::Refused(_)) if self.closed => {
                self.retries.done(&Retry::Return(lease.clone()));
                self.leases.remove(&lease);
                if let Some(ticket) = owner {
                    self.remove(ticket, false, out);
                }
            }
            Err(Failure::NoAuth | Failure::Refused(_)) => self.retries.later(&Retry::Return(lease), now),
        }
    }

    /// Answers a waiting caller with a no. Nothing happens to one that holds or is not wanted any more.
    fn give_up(&mut self, ticket: Ticket, refusal: Refusal, out: &mut Vec<Command>) {
        match self.stage(ticket) {
            Some(Stage::Peeking(_) | Stage::Waiting) => {
                out.push(Command::Refuse(ticket, refusal));
                self.remove(ticket, true, out);
            }
            // The transaction cannot be called back: its answer will show what is to be deleted.
            Some(Stage::Taking) => {
                self.set(ticket, Stage::Abandoned);
                self.leave_line(ticket);
                out.push(Command::Refuse(ticket, refusal));
            }
            Some(Stage::Taken { .. }) => {
                self.give_back(ticket, out);
                out.push(Command::Refuse(ticket, refusal));
            }
            Some(Stage::Abandoned | Stage::Held | Stage::Returning) | None => {}
        }
    }

    fn give_back(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        self.set(ticket, Stage::Returning);
        self.leave_line(ticket);
        out.extend(self.leases_of(ticket).into_iter().map(Command::Return));
    }

    fn grant(&mut self, ticket: Ticket, czxid: i64, out: &mut Vec<Command>) {
        self.set(ticket, Stage::Held);
        self.leave_line(ticket);
        let leases = self.leases_of(ticket);
        out.push(Command::GrantPermits { ticket, leases, czxid });
    }

    fn remove(&mut self, ticket: Ticket, confirmed: bool, out: &mut Vec<Command>) {
        self.leave_line(ticket);
        if self.claims.remove(&ticket).is_some() {
            out.push(Command::Forget { ticket, confirmed });
        }
    }

    fn wait_again(&mut self, ticket: Ticket) {
        if let Some(claim) = self.claims.get_mut(&ticket) {
            claim.stage = Stage::Waiting;
            self.told = self.told.min(claim.arrival);
            self.line.insert(claim.arrival, ticket);
        }
    }

    /// Whoever is in line is told anew how many are ahead.
    fn tell_again(&mut self) {
        self.told = 0;
        for ticket in self.line.values() {
            if let Some(claim) = self.claims.get_mut(ticket) {
                claim.queued = false;
            }
        }
    }

    /// Out of the line, and nothing more to wait for.
    fn leave_line(&mut self, ticket: Ticket) {
        let Some(claim) = self.claims.get(&ticket) else { return };
        self.line.remove(&claim.arrival);
        if let Wait::Until(deadline) = claim.request.wait {
            self.alarms.remove(&(deadline, Alarm::Deadline(ticket)));
        }
        if claim.request.wait == Wait::Try {
            self.alarms.retain(|(_, alarm)| *alarm != Alarm::Patience(ticket));
        }
    }

    fn tickets(&self) -> Vec<Ticket> {
        self.claims.keys().copied().collect()
    }

    fn stage(&self, ticket: Ticket) -> Option<Stage> {
        self.claims.get(&ticket).map(|claim| claim.stage)
    }

    fn set(&mut self, ticket: Ticket, stage: Stage) {
        if let Some(claim) = self.claims.get_mut(&ticket) {
            claim.stage = stage;
        }
    }

    fn leases_of(&self, ticket: Ticket) -> Vec<String> {
        let own = |(name, owner): (&String, &Option<Ticket>)| (*owner == Some(ticket)).then(|| name.clone());
        self.leases.iter().filter_map(own).collect()
    }
}
