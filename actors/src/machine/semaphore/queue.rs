//! The local queue: the claims that are not granted yet.
//!
//! Thousands may wait, and each answer of the server concerns a few of them. So these are found without a walk over all.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use super::protocol::{Command, PermitRequest};
use super::turn::{Serving, Step, TurnStage};
use super::{Claim, Semaphore, Stage};
use crate::machine::{Refusal, Reply, Ticket, Wait};

/// The claims that are not granted yet, by arrival. A try that peeks is not in the queue yet, and a claim whose leases
/// exist is not in it any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LocalQueue {
    /// The claims that wait, or whose take is in flight.
    queued: BTreeMap<u64, Ticket>,
    /// The tries among them.
    tries: BTreeMap<u64, Ticket>,
    /// All claims that are not granted yet.
    by_terms: BTreeMap<Terms, BTreeMap<u64, Ticket>>,
}

/// What decides whether a claim can be served at all: claims with the same terms can, or cannot. There are few different
/// terms, because claims for more permits than there are do not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Terms {
    pub agreed: bool,
    pub limit: Option<u32>,
    pub count: u32,
}

impl From<&PermitRequest> for Terms {
    fn from(request: &PermitRequest) -> Terms {
        Terms { agreed: request.agreed, limit: request.limit, count: request.count }
    }
}

impl LocalQueue {
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// The first claim in the queue.
    pub fn first(&self) -> Option<(u64, Ticket)> {
        self.range(..).next()
    }

    /// The claims in the queue.
    pub fn range(&self, arrivals: impl RangeBounds<u64>) -> impl Iterator<Item = (u64, Ticket)> {
        self.queued.range(arrivals).map(|(arrival, ticket)| (*arrival, *ticket))
    }

    /// The tries in the queue.
    pub fn tries(&self, arrivals: impl RangeBounds<u64>) -> impl Iterator<Item = (u64, Ticket)> {
        self.tries.range(arrivals).map(|(arrival, ticket)| (*arrival, *ticket))
    }

    /// The claims in the queue that arrived before this one, by their terms.
    pub fn by_terms(
        &self,
        before: u64,
    ) -> impl Iterator<Item = (Terms, impl Iterator<Item = (u64, Ticket)>)> {
        self.by_terms.iter().map(move |(terms, claims)| {
            let claims = claims.range(..before).map(|(arrival, ticket)| (*arrival, *ticket));
            (*terms, claims.filter(|(arrival, _)| self.queued.contains_key(arrival)))
        })
    }

    /// The claims, in the queue or not, that arrived before this one and expect this number, and for which it has not
    /// been the stored one before.
    pub fn expecting(&self, number: u32, before: u64) -> Vec<Ticket> {
        let terms = |count| Terms { agreed: false, limit: Some(number), count };
        let groups = self.by_terms.range(terms(0)..=terms(u32::MAX));
        groups.flat_map(|(_, claims)| claims.range(..before).map(|(_, ticket)| *ticket)).collect()
    }

    /// Adds a new claim, which is not in the queue yet.
    pub fn insert(&mut self, ticket: Ticket, claim: &Claim) {
        self.by_terms.entry((&claim.request).into()).or_default().insert(claim.arrival, ticket);
    }

    /// Lets a claim enter the queue.
    pub fn enter(&mut self, ticket: Ticket, claim: &Claim) {
        self.queued.insert(claim.arrival, ticket);
        if claim.request.wait == Wait::Try {
            self.tries.insert(claim.arrival, ticket);
        }
    }

    /// Removes a claim from the queue, because its leases exist.
    pub fn leave(&mut self, claim: &Claim) {
        self.queued.remove(&claim.arrival);
        self.tries.remove(&claim.arrival);
    }

    /// Removes a claim that is granted, or no longer wanted.
    pub fn remove(&mut self, claim: &Claim) {
        self.leave(claim);
        self.remove_terms(claim);
    }

    /// Marks a claim: from now on the stored number counts.
    pub fn agree(&mut self, ticket: Ticket, claim: &mut Claim) {
        self.remove_terms(claim);
        claim.request.agreed = true;
        self.insert(ticket, claim);
    }

    fn remove_terms(&mut self, claim: &Claim) {
        let terms = (&claim.request).into();
        if let Some(claims) = self.by_terms.get_mut(&terms) {
            claims.remove(&claim.arrival);
            if claims.is_empty() {
                self.by_terms.remove(&terms);
            }
        }
    }
}

impl Semaphore {
    /// Lets a claim enter the local queue again, at its old place.
    pub(super) fn wait_again(&mut self, ticket: Ticket) {
        self.set(ticket, Stage::Waiting);
        self.wait(ticket);
        if let Some(claim) = self.claims.get(&ticket) {
            self.told = self.told.min(claim.arrival);
        }
    }

    /// Lets a claim enter the local queue.
    pub(super) fn wait(&mut self, ticket: Ticket) {
        if let Some(claim) = self.claims.get(&ticket) {
            self.local_queue.enter(ticket, claim);
        }
    }

    /// Removes a claim from the local queue, with its timer.
    pub(super) fn leave_local_queue(&mut self, ticket: Ticket) {
        let Some(claim) = self.claims.get_mut(&ticket) else { return };
        if let Some(due) = claim.due.take() {
            self.timers.remove(&(due, ticket));
        }
        self.local_queue.remove(claim);
    }

    pub(super) fn tell_waiters(&mut self, out: &mut Vec<Command>) {
        let Some(turn) = &self.turn else { return };
        let (ahead, before) = match &turn.stage {
            // A read compares their expected numbers with the stored one first. Later changes do not concern them.
            TurnStage::Queued { ahead: Some(ahead), .. } if self.has_uncompared() => (*ahead, turn.compared),
            TurnStage::Queued { ahead: Some(ahead), .. } => (*ahead, self.arrivals),
            TurnStage::Serving(Serving { step: Step::Full { .. }, .. }) => (0, self.arrivals),
            TurnStage::Queued { ahead: None, .. } | TurnStage::Serving(_) => return,
        };
        // Only claims that have arrived since the last time, so that a long queue is not walked at every event.
        if before <= self.told {
            return;
        }
        let first = self.local_queue.len() - self.local_queue.range(self.told..).count();
        let untold: Vec<Ticket> =
            self.local_queue.range(self.told..before).map(|(_, ticket)| ticket).collect();
        self.told = before;
        for (position, ticket) in untold.into_iter().enumerate() {
            let Some(claim) = self.claims.get_mut(&ticket) else { continue };
            if claim.request.wait != Wait::Try && !std::mem::replace(&mut claim.queued, true) {
                out.push(Command::Reply(Reply::Queued(ticket, ahead + first + position)));
            }
        }
    }

    /// Lets all waiters be told again how many contenders are ahead.
    pub(super) fn tell_waiters_again(&mut self) {
        self.told = 0;
        for (_, ticket) in self.local_queue.range(..) {
            if let Some(claim) = self.claims.get_mut(&ticket) {
                claim.queued = false;
            }
        }
    }

    /// Refuses all claims in the local queue that arrived before this one.
    pub(super) fn refuse_all(&mut self, before: u64, refusal: Refusal, out: &mut Vec<Command>) {
        for (_, ticket) in self.local_queue.range(..before).collect::<Vec<_>>() {
            self.give_up(ticket, refusal.clone(), out);
        }
    }

    pub(super) fn head(&self) -> Option<Ticket> {
        self.local_queue.first().map(|(_, ticket)| ticket)
    }
}
