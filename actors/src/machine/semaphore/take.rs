//! Chooses the claims that get leases, and handles the transaction that creates the leases.

use std::collections::{BTreeMap, BTreeSet};

use super::protocol::{Command, PermitRequest, TakeFailure};
use super::queue::Terms;
use super::turn::{Serving, Step};
use super::{Claim, Limit, MAX_TAKE, Retry, Semaphore, Stage};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Denied, Failure, Machine, Moment, PathEvent, PathMachine, Refusal, Ticket, Wait, lock};

/// A transaction that creates leases, in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Take {
    pub attempt: Attempt,
    leases: Vec<(Ticket, String)>,
    mutex: Znode,
    czxid: i64,
    keep: bool,
}

impl Take {
    fn created_one_of(&self, names: &[String]) -> bool {
        let names: BTreeSet<&String> = names.iter().collect();
        self.leases.iter().any(|(_, lease)| names.contains(lease))
    }
}

/// The claims that are served next.
struct Choice {
    /// With their numbers of permits.
    claims: Vec<(Ticket, u32)>,
    /// Other claims wait, so that the mutex is kept.
    keep: bool,
}

impl Semaphore {
    pub(super) fn taken(
        &mut self,
        attempt: Attempt,
        result: Result<(), TakeFailure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(take) = self.take.take_if(|take| take.attempt == attempt) else { return };
        match result {
            Ok(()) => self.take_succeeded(take, now, out),
            Err(TakeFailure::Failed(Failure::Unknown(_))) => {
                self.take = Some(take);
                self.find_leases_again(attempt, true, now, out);
            }
            // `Lost` follows.
            Err(TakeFailure::Failed(Failure::SessionGone)) => self.take = Some(take),
            Err(TakeFailure::MutexGone) => {
                let name = take.mutex.name().to_owned();
                self.take_failed(&take, None, out);
                self.mutex(PathEvent::Missing(vec![name]).into(), now, out);
                // The first time at once: `advance` begins the next turn unless a pause was scheduled.
                self.retries.again(&Retry::NextTurn, now);
            }
            Err(TakeFailure::LimitChanged | TakeFailure::RootGone | TakeFailure::Failed(Failure::NoNode)) => {
                self.limit = Limit::Unknown;
                self.take_failed(&take, None, out);
                self.read_again(now, out);
            }
            // Other claims' options may be accepted.
            Err(TakeFailure::Lease(index, reason)) => {
                self.take_failed(&take, None, out);
                if let Some((ticket, _)) = take.leases.get(index) {
                    self.give_up(*ticket, Refusal::Rejected(reason), out);
                }
                self.read_and_watch(out);
            }
            // The next turn has a new node, with another claim's options.
            Err(TakeFailure::MutexUnreadable) => {
                self.take_failed(&take, None, out);
                if let Some(ticket) = self.turn.as_ref().and_then(|turn| turn.made_for) {
                    self.give_up(ticket, Refusal::NoAuth(Denied::Contender(take.mutex)), out);
                }
                self.end_turn(now, out);
            }
            Err(TakeFailure::Failed(Failure::NoAuth)) => {
                self.take_failed(&take, Some(Refusal::NoAuth(Denied::Root)), out);
                self.read_and_watch(out);
            }
            Err(TakeFailure::Failed(Failure::Refused(reason))) => {
                self.take_failed(&take, Some(Refusal::Rejected(reason)), out);
                self.read_and_watch(out);
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
            Ok(names) if take.created_one_of(&names) => self.take_succeeded(take, now, out),
            // The take was not carried out. If the root is missing, its leases are gone in any case.
            Ok(_) | Err(Failure::NoNode) => {
                self.take_failed(&take, None, out);
                self.read_and_watch(out);
            }
            // The server deletes them with the session.
            Err(Failure::NoAuth | Failure::Refused(_)) if self.closed => {
                take.leases.iter().for_each(|(ticket, _)| self.remove(*ticket, false, out));
            }
            Err(failure) => {
                self.take = Some(take);
                match failure {
                    Failure::Unknown(_) => self.find_leases_again(attempt, true, now, out),
                    Failure::NoAuth | Failure::Refused(_) => self.find_leases_again(attempt, false, now, out),
                    // `NoNode` is handled above; after `SessionGone`, `Lost` follows.
                    Failure::NoNode | Failure::SessionGone => {}
                }
            }
        }
    }

    /// Handles the success of a take: its leases exist.
    fn take_succeeded(&mut self, take: Take, now: Moment, out: &mut Vec<Command>) {
        self.retries.done(&Retry::Turn);
        self.retries.done(&Retry::NextTurn);
        let tickets: BTreeSet<Ticket> = take.leases.iter().map(|(ticket, _)| *ticket).collect();
        for (ticket, lease) in take.leases {
            self.leases.insert(lease.clone(), Some(ticket));
            out.push(Command::TrackLease(lease));
        }
        let up = self.is_up();
        for ticket in tickets {
            match self.claims.get_mut(&ticket).filter(|claim| claim.stage == Stage::Taking) {
                Some(_) if up => self.grant(ticket, take.czxid, out),
                Some(claim) => {
                    claim.stage = Stage::Taken { czxid: take.czxid };
                    self.local_queue.leave(claim);
                }
                None => self.delete_leases(ticket, out),
            }
        }
        if take.keep {
            return self.read_and_watch(out);
        }
        let Some(turn) = self.turn.take() else { return };
        turn.unwatch(out);
        // The same transaction has deleted the mutex's node, so its delete is answered here.
        let mut commands = Vec::new();
        self.mutex.handle(PathEvent::Release(turn.ticket).into(), now, &mut commands);
        for command in commands {
            match command {
                lock::Command::Delete(attempt, node) if node == take.mutex => {
                    self.mutex(lock::Event::Deleted(attempt, Ok(())), now, out)
                }
                command => self.relay(command, false, out),
            }
        }
    }

    /// Handles the failure of a take: its leases do not exist, and its claims are queued again or refused.
    fn take_failed(&mut self, take: &Take, refusal: Option<Refusal>, out: &mut Vec<Command>) {
        if !take.keep {
            out.push(lock::Command::Track(take.mutex.clone()).into());
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

    /// Serves the local queue, as far as there are permits. `arrivals` is the number of claims that had arrived when
    /// the read was sent.
    pub(super) fn serve(&mut self, leases: usize, arrivals: u64, now: Moment, out: &mut Vec<Command>) {
        // The limit was changed between the reads of root and leases.
        let Limit::Stored { version, .. } = self.limit else { return self.read_again(now, out) };
        match self.choose(leases, arrivals, out) {
            None => {
                self.limit = Limit::Unknown;
                self.read_and_watch(out);
            }
            Some(Choice { claims, keep: true }) if claims.is_empty() => self.wait_for_permits(out),
            Some(Choice { claims, .. }) if claims.is_empty() => {}
            Some(choice) => self.send_take(choice, version, out),
        }
    }

    /// The claims that fit, in order. Refuses those that cannot be served. `None` if a claim that arrived after the read
    /// was sent may expect a newer limit.
    fn choose(&mut self, leases: usize, arrivals: u64, out: &mut Vec<Command>) -> Option<Choice> {
        let before = self.serving().map_or(0, |serving| serving.before);
        let mut refusals = self.unservable(before);
        let newer = refusals.range(arrivals..).next().map(|(arrival, _)| *arrival);
        let mut end = newer.unwrap_or(before);
        let (mut used, mut bytes) = (leases as u64, 0);
        let mut choice = Choice { claims: Vec::new(), keep: false };
        for (arrival, ticket) in self.local_queue.range(..end) {
            let Some(Claim { request, .. }) = self.claims.get(&ticket) else { continue };
            let Ok(limit) = self.permits(request.into()) else { continue };
            let PermitRequest { count, wait, bytes: size, .. } = *request;
            if used + u64::from(count) <= limit {
                used += u64::from(count);
                bytes += count as usize * size;
                // The other claims follow in another transaction.
                if bytes > MAX_TAKE / 2 && !choice.claims.is_empty() {
                    (choice.keep, end) = (true, arrival);
                    break;
                }
                choice.claims.push((ticket, count));
            } else if wait == Wait::Try {
                refusals.insert(arrival, (ticket, Refusal::Contended));
            } else {
                // Claims do not overtake each other, or a claim for many permits might never be served.
                choice.keep = true;
                for (arrival, ticket) in self.local_queue.tries(arrival..end) {
                    refusals.entry(arrival).or_insert((ticket, Refusal::Contended));
                }
                break;
            }
        }
        // Without a stored number, each claim's own counts, and later the one that is stored.
        if matches!(self.limit, Limit::Stored { permits: None, .. }) {
            let with_own = |terms: &Terms| !terms.agreed && terms.limit.is_some();
            let claims = self.local_queue.by_terms(end).filter(|(terms, _)| with_own(terms));
            let claims = claims.flat_map(|(_, claims)| claims.map(|(_, ticket)| ticket)).collect();
            self.mark_agreed(claims);
        }
        for (_, (ticket, refusal)) in refusals.into_iter().take_while(|(arrival, _)| *arrival < end) {
            self.give_up(ticket, refusal, out);
        }
        (newer != Some(end)).then_some(choice)
    }

    /// The claims that arrived before this one and cannot be served.
    fn unservable(&self, before: u64) -> BTreeMap<u64, (Ticket, Refusal)> {
        let mut refusals = BTreeMap::new();
        for (terms, claims) in self.local_queue.by_terms(before) {
            if let Err(refusal) = self.permits(terms) {
                refusals.extend(claims.map(|(arrival, ticket)| (arrival, (ticket, refusal.clone()))));
            }
        }
        refusals
    }

    fn send_take(&mut self, choice: Choice, version: i32, out: &mut Vec<Command>) {
        let Some(Serving { mutex, czxid, step, .. }) = self.serving().cloned() else { return };
        let mut leases = Vec::new();
        for (ticket, count) in choice.claims {
            self.set(ticket, Stage::Taking);
            for _ in 0..count {
                leases.push((ticket, self.instance.lease(self.next_attempt())));
            }
        }
        let (attempt, keep) = (self.next_attempt(), choice.keep);
        if let Some(serving) = self.serving() {
            serving.step = Step::Taking(step.watches());
        }
        out.push(Command::Take {
            take: attempt,
            version,
            mutex: mutex.clone(),
            keep,
            leases: leases.clone(),
        });
        self.take = Some(Take { attempt, leases, mutex, czxid, keep });
    }

    /// Marks the claims that arrived before this one and expect the stored number.
    pub(super) fn agree(&mut self, before: u64) {
        if let Limit::Stored { permits: Some(stored), .. } = self.limit {
            let claims = u32::try_from(stored).map(|number| self.local_queue.expecting(number, before));
            self.mark_agreed(claims.unwrap_or_default());
        }
    }

    fn mark_agreed(&mut self, claims: Vec<Ticket>) {
        for ticket in claims {
            if let Some(claim) = self.claims.get_mut(&ticket) {
                self.local_queue.agree(ticket, claim);
            }
        }
    }

    /// The total number of permits that applies to these terms, or why they cannot be served.
    pub(super) fn permits(&self, terms: Terms) -> Result<u64, Refusal> {
        let stored = match self.limit {
            Limit::Unknown => None,
            Limit::Stored { permits, .. } => permits,
        };
        let limit = match (stored, terms.limit) {
            (Some(stored), Some(given)) if !terms.agreed && stored != i64::from(given) => {
                return Err(Refusal::LimitMismatch { stored, given });
            }
            (Some(stored), _) => u32::try_from(stored.max(0)).unwrap_or(u32::MAX),
            (None, Some(given)) => given,
            (None, None) => return Err(Refusal::NoLimit),
        };
        match terms.count > limit {
            true => Err(Refusal::TooMany { count: terms.count, limit }),
            false => Ok(limit.into()),
        }
    }
}
