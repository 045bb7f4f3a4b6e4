//! A semaphore, as one process sees it: all its local requests, and its place among the processes.
//!
//! The protocol is kazoo's (`kazoo/recipe/lock.py`, version 2.11, `Semaphore`): a lease is a child of the root, and a
//! process holds a mutex while it creates leases. The mutex is an ordinary lock in a directory next to the root.
//!
//! Here one contender for the mutex, with its own [`Lock`], serves all local requests, called *claims*. When the mutex
//! is granted, the process has its *turn*: it serves the claims that wait at that moment, in order, and each as a
//! whole. While there are too few permits for the first claim, it keeps the mutex. The transaction that creates the
//! last leases also releases the mutex.
//!
//! A list of the leases counts only if it was sent while the mutex was ours, because then all earlier holders of the
//! mutex have created their leases. When an event has shown that the mutex is ours, the first list is sent after a
//! request that brings the server up to date, and counts only if that succeeds: the client does not remember the zxid
//! of an event, so after a reconnect it may read from a server that has not seen the event's change yet.
//!
//! The server checks each transaction again: it fails if the mutex or the number of permits has changed. The number of
//! permits is read once and remembered. Each list of the leases shows which transaction wrote the root's data, and so
//! whether the remembered number is current. The version alone would not show that, because it restarts when the root
//! is deleted and created again.

mod own_leases;
mod pace;
pub mod protocol;
mod queue;
mod reads;
mod regroup;
mod take;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::own_leases::OwnLeases;
use self::pace::Retry;
pub use self::protocol::{Command, Event, Leases, Part, PermitRequest, Reading, Root, TakeFailure};
use self::queue::LocalQueue;
use self::take::Take;
use self::turn::{PendingRead, Turn};
use super::lock::Lock;
use super::node::{Attempt, Instance};
use super::retries::Retries;
use super::{Failure, Machine, Moment, PathEvent, PathMachine, Refusal, Reply, Ticket, Wait};

/// The machine of one semaphore: see the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Semaphore {
    instance: Instance,
    mutex: Lock,
    link: Link,
    closed: bool,
    /// The next number for a read, a take or the name of a lease.
    next: Attempt,
    /// The number of claims that have arrived. Claims are served in the order of their arrival.
    arrivals: u64,
    /// The claims that arrived before this one include all whose number must still be compared with the stored one.
    uncompared: u64,
    claims: BTreeMap<Ticket, Claim>,
    /// Claims that arrived before this one have been told their place in the queue.
    told: u64,
    local_queue: LocalQueue,
    /// The read in flight for tries, with the tries that arrived before it was sent.
    peek: Option<(PendingRead, BTreeSet<Ticket>)>,
    /// The tries that have arrived since. The read in flight may be older than they are, so they share the next one.
    to_peek: BTreeSet<Ticket>,
    leases: OwnLeases,
    limit: Limit,
    turns: u64,
    turn: Option<Turn>,
    take: Option<Take>,
    /// When claims stop waiting.
    timers: BTreeSet<(Moment, Ticket)>,
    retries: Retries<Retry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Down,
    Suspended,
    Up,
}

/// The total number of permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Limit {
    /// Not read yet, or changed since.
    Unknown,
    /// Read from this version of the root, which was written by this transaction. `permits` is `None` when the data is
    /// not a number; then each client uses its own number.
    Stored { version: i32, written: i64, permits: Option<i64> },
}

impl Limit {
    /// Whether the stored number is known, and is this one.
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
    /// The caller was told that the request is queued.
    queued: bool,
    /// When it stops waiting. A try does so only after it has seen free permits.
    due: Option<Moment>,
}

/// The stages of a claim, in the order of an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// A try reads the state before it is queued.
    Peeking,
    /// In the local queue.
    Waiting,
    /// The transaction that creates its leases is in flight.
    Taking,
    /// The transaction is in flight, but the caller no longer wants the permits.
    Abandoned,
    /// Its leases exist. They are granted once the session is verified again.
    Taken { czxid: i64 },
    /// Granted.
    Held,
    /// Its leases are being deleted.
    Deleting,
}

/// The size limit of a transaction: a server accepts requests of less than 1 MiB. A claim must fit into one
/// transaction. Several claims share one only up to half of the limit.
const MAX_TAKE: usize = 960 * 1024;

/// How long a try that saw free permits waits for the mutex.
const TRY_LIMIT: Duration = Duration::from_secs(1);

impl Machine for Semaphore {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        self.run_timers(now, out);
        // Timers first, so that nothing is sent for a claim that has timed out.
        self.advance(now, out);
        match event {
            Event::Acquire { ticket, request } => self.acquire(ticket, request, now, out),
            Event::Split { ticket, into, leases } => self.split(ticket, into, &leases, out),
            Event::Merge { ticket, into } => self.merge(ticket, into, out),
            Event::Path(event) => self.path_event(event, now, out),
            Event::Mutex(event) => self.mutex(event, now, out),
            Event::StateRead { read, root, leases } => self.state_read(read, root, leases, now, out),
            Event::Changed { read, part } => self.changed(read, part, out),
            Event::RootMade(read, result) => self.root_made(read, result, now, out),
            Event::Taken(take, result) => self.taken(take, result, now, out),
            Event::LeasesFound(take, result) => self.leases_found(take, result, now, out),
            Event::LeaseDeleted(lease, result) => self.lease_deleted(lease, result, now, out),
        }
        self.advance(now, out);
    }

    fn wakeup(&self) -> Option<Moment> {
        let timer = self.timers.first().map(|(moment, _)| *moment);
        timer.into_iter().chain(self.retries.wakeup()).chain(self.mutex.wakeup()).min()
    }
}

impl PathMachine for Semaphore {
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
            mutex: Lock::new(instance),
            link: Link::Down,
            closed: false,
            next: Attempt(0),
            arrivals: 0,
            uncompared: 0,
            told: 0,
            claims: BTreeMap::new(),
            local_queue: LocalQueue::default(),
            peek: None,
            to_peek: BTreeSet::new(),
            leases: OwnLeases::default(),
            limit: Limit::Unknown,
            turns: 0,
            turn: None,
            take: None,
            timers: BTreeSet::new(),
            retries: Retries::new(instance),
        }
    }

    fn path_event(&mut self, event: PathEvent, now: Moment, out: &mut Vec<Command>) {
        match event {
            PathEvent::Cancel(ticket) => self.give_up(ticket, Refusal::Cancelled, out),
            PathEvent::Release(ticket) => self.release(ticket, out),
            PathEvent::Close => self.close(now, out),
            PathEvent::Connected { session } => {
                self.link = Link::Up;
                self.mutex(PathEvent::Connected { session }.into(), now, out);
            }
            PathEvent::Suspended => self.suspended(now, out),
            PathEvent::Resumed => self.resumed(now, out),
            PathEvent::Lost => self.lost(now, out),
            PathEvent::Missing(names) => {
                let (leases, others): (Vec<_>, Vec<_>) =
                    names.into_iter().partition(|name| self.leases.claim(name).is_some());
                for lease in leases {
                    self.missing(&lease, out);
                }
                self.mutex(PathEvent::Missing(others).into(), now, out);
            }
            PathEvent::Wake => self.mutex(PathEvent::Wake.into(), now, out),
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
                let reason = "the permits do not fit into one request of less than 1 MiB";
                Some(Refusal::Rejected(reason.into()))
            }
            Wait::Try if !self.is_up() => Some(Refusal::Suspended),
            // Free permits are kept for the waiters.
            Wait::Try if self.turn.as_ref().is_some_and(Turn::is_full) => Some(Refusal::Contended),
            Wait::Until(deadline) if deadline <= now => Some(Refusal::TimedOut),
            Wait::Try | Wait::Until(_) | Wait::Forever => None,
        };
        if let Some(refusal) = refusal {
            out.push(Command::Reply(Reply::Refused(ticket, refusal)));
            out.push(Command::Reply(Reply::Forgotten { ticket, confirmed: true }));
            return;
        }
        let wait = request.wait;
        // A remembered number may have been changed since, unless it is watched.
        request.agreed |= self.turn.as_ref().is_some_and(Turn::is_full) && self.limit.is(request.limit);
        let is_compared = request.agreed || request.limit.is_none() || wait == Wait::Try;
        let claim =
            Claim { request, arrival: self.arrivals, stage: Stage::Waiting, queued: false, due: None };
        self.arrivals += 1;
        if !is_compared {
            self.uncompared = self.arrivals;
        }
        self.local_queue.insert(ticket, &claim);
        self.claims.insert(ticket, claim);
        match wait {
            Wait::Try => {
                self.set(ticket, Stage::Peeking);
                self.to_peek.insert(ticket);
                self.peek(out);
            }
            Wait::Until(deadline) => {
                self.set_timer(ticket, deadline);
                self.wait(ticket);
            }
            Wait::Forever => self.wait(ticket),
        }
    }

    fn release(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        match self.stage(ticket) {
            Some(Stage::Held) => self.delete_leases(ticket, out),
            Some(_) => {}
            // Already lost: no lease is left to delete.
            None => out.push(Command::Reply(Reply::Forgotten { ticket, confirmed: false })),
        }
    }

    fn close(&mut self, now: Moment, out: &mut Vec<Command>) {
        self.closed = true;
        for ticket in self.tickets() {
            match self.stage(ticket) {
                Some(Stage::Held) => self.lose(ticket, out),
                Some(_) => self.give_up(ticket, Refusal::Closed, out),
                None => {}
            }
        }
        self.mutex(PathEvent::Close.into(), now, out);
    }

    fn suspended(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.link != Link::Up {
            return;
        }
        self.link = Link::Suspended;
        for ticket in self.tickets() {
            let claim = &self.claims[&ticket];
            match claim.stage {
                Stage::Held => out.push(Command::Reply(Reply::Suspended(ticket))),
                _ if claim.request.wait == Wait::Try => self.give_up(ticket, Refusal::Suspended, out),
                _ => {}
            }
        }
        self.mutex(PathEvent::Suspended.into(), now, out);
    }

    fn resumed(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.link != Link::Suspended {
            return;
        }
        self.link = Link::Up;
        for ticket in self.tickets() {
            match self.stage(ticket) {
                Some(Stage::Held) => out.push(Command::Reply(Reply::Resumed(ticket))),
                Some(Stage::Taken { czxid }) => self.grant(ticket, czxid, out),
                _ => {}
            }
        }
        self.mutex(PathEvent::Resumed.into(), now, out);
    }

    /// The server deletes all leases with the session. Waiting claims keep their place in the local queue.
    fn lost(&mut self, now: Moment, out: &mut Vec<Command>) {
        self.link = Link::Down;
        (self.limit, self.take, self.peek) = (Limit::Unknown, None, None);
        self.leases.clear();
        self.retries.clear();
        if let Some(turn) = &mut self.turn {
            turn.forget_reads();
        }
        for ticket in self.tickets() {
            let claim = &self.claims[&ticket];
            match claim.stage {
                Stage::Held => {
                    out.push(Command::Reply(Reply::Lost(ticket)));
                    self.remove(ticket, false, out);
                }
                Stage::Abandoned | Stage::Deleting => self.remove(ticket, false, out),
                _ if claim.request.wait == Wait::Try => {
                    self.give_up(ticket, Refusal::Suspended, out);
                    self.remove(ticket, false, out);
                }
                Stage::Taking | Stage::Taken { .. } => self.wait_again(ticket),
                Stage::Peeking | Stage::Waiting => {}
            }
        }
        self.tell_waiters_again();
        self.mutex(PathEvent::Lost.into(), now, out);
    }

    fn run_timers(&mut self, now: Moment, out: &mut Vec<Command>) {
        while self.timers.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, ticket)) = self.timers.pop_first() else { break };
            match self.claims.get(&ticket).map(|claim| (claim.request.wait, claim.stage)) {
                // Its leases are being made.
                Some((Wait::Try, Stage::Taking)) => self.set_timer(ticket, now + TRY_LIMIT),
                Some((Wait::Try, _)) => self.give_up(ticket, Refusal::Contended, out),
                Some((Wait::Until(_) | Wait::Forever, _)) => self.give_up(ticket, Refusal::TimedOut, out),
                None => {}
            }
        }
        self.retry(now, out);
    }

    /// Handles a lease that somebody else has deleted: the other leases of its claim are deleted too.
    fn missing(&mut self, lease: &str, out: &mut Vec<Command>) {
        let Some(Some(ticket)) = self.leases.claim(lease) else { return };
        match self.stage(ticket) {
            Some(Stage::Held) => self.lose(ticket, out),
            // Not granted yet: the claim is queued again, and its remaining leases are deleted.
            Some(Stage::Taken { .. }) => {
                for lease in self.leases_of(ticket) {
                    self.leases.insert(lease.clone(), None);
                    out.push(Command::DeleteLease(lease));
                }
                self.wait_again(ticket);
            }
            Some(Stage::Peeking | Stage::Waiting | Stage::Taking | Stage::Abandoned | Stage::Deleting)
            | None => {}
        }
    }

    fn lease_deleted(
        &mut self,
        lease: String,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(owner) = self.leases.claim(&lease) else { return };
        match result {
            Ok(()) | Err(Failure::NoNode) => {
                self.retries.done(&Retry::DeleteLease(lease.clone()));
                self.leases.remove(&lease);
                if let Some(ticket) = owner.filter(|ticket| self.leases.of(*ticket).next().is_none()) {
                    self.remove(ticket, true, out);
                }
            }
            Err(Failure::Unknown(_)) => self.delete_lease_again(lease, now, out),
            // `Lost` follows.
            Err(Failure::SessionGone) => {}
            // The server deletes it with the session.
            Err(Failure::NoAuth | Failure::Refused(_)) if self.closed => {
                self.retries.done(&Retry::DeleteLease(lease.clone()));
                self.leases.remove(&lease);
                if let Some(ticket) = owner {
                    self.remove(ticket, false, out);
                }
            }
            Err(Failure::NoAuth | Failure::Refused(_)) => self.retries.later(&Retry::DeleteLease(lease), now),
        }
    }

    /// Refuses a waiting claim. Does nothing to a holder, or to a claim that is no longer wanted.
    fn give_up(&mut self, ticket: Ticket, refusal: Refusal, out: &mut Vec<Command>) {
        match self.stage(ticket) {
            Some(Stage::Peeking | Stage::Waiting) => {
                out.push(Command::Reply(Reply::Refused(ticket, refusal)));
                self.remove(ticket, true, out);
            }
            // The transaction cannot be cancelled. Its answer will show whether there are leases to delete.
            Some(Stage::Taking) => {
                self.set(ticket, Stage::Abandoned);
                self.leave_local_queue(ticket);
                out.push(Command::Reply(Reply::Refused(ticket, refusal)));
            }
            Some(Stage::Taken { .. }) => {
                self.delete_leases(ticket, out);
                out.push(Command::Reply(Reply::Refused(ticket, refusal)));
            }
            Some(Stage::Abandoned | Stage::Held | Stage::Deleting) | None => {}
        }
    }

    fn lose(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        out.push(Command::Reply(Reply::Lost(ticket)));
        self.delete_leases(ticket, out);
    }

    fn delete_leases(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        self.set(ticket, Stage::Deleting);
        self.leave_local_queue(ticket);
        out.extend(self.leases_of(ticket).into_iter().map(Command::DeleteLease));
    }

    fn grant(&mut self, ticket: Ticket, czxid: i64, out: &mut Vec<Command>) {
        self.set(ticket, Stage::Held);
        self.leave_local_queue(ticket);
        let leases = self.leases_of(ticket);
        out.push(Command::Grant { ticket, leases, czxid });
    }

    fn remove(&mut self, ticket: Ticket, confirmed: bool, out: &mut Vec<Command>) {
        self.leave_local_queue(ticket);
        self.to_peek.remove(&ticket);
        if let Some((_, tries)) = &mut self.peek {
            tries.remove(&ticket);
        }
        if self.claims.remove(&ticket).is_some() {
            out.push(Command::Reply(Reply::Forgotten { ticket, confirmed }));
        }
    }

    fn set_timer(&mut self, ticket: Ticket, due: Moment) {
        if let Some(claim) = self.claims.get_mut(&ticket) {
            claim.due = Some(due);
            self.timers.insert((due, ticket));
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
        self.leases.of(ticket).cloned().collect()
    }
}
