//! The claims that are not granted yet. No question about them is answered by a walk over all: each answer of the server
//! and each change of the limit concerns only a few of many.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{RangeBounds, RangeInclusive};

use super::Claim;
use super::protocol::PermitRequest;
use crate::machine::{Ticket, Wait};

/// The claims that are not granted yet, by arrival. Not all of them are in the queue: a try that peeks is not, nor is a
/// claim whose leases exist already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LocalQueue {
    /// The claims that wait, or whose take is in flight.
    queued: BTreeMap<u64, Ticket>,
    /// The tries among them.
    tries: BTreeSet<u64>,
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

    pub fn get(&self, arrival: u64) -> Option<Ticket> {
        self.queued.get(&arrival).copied()
    }

    /// The claims in the queue.
    pub fn range(&self, arrivals: impl RangeBounds<u64>) -> impl Iterator<Item = (u64, Ticket)> {
        self.queued.range(arrivals).map(|(arrival, ticket)| (*arrival, *ticket))
    }

    /// The tries in the queue.
    pub fn tries(&self, arrivals: impl RangeBounds<u64>) -> impl Iterator<Item = u64> {
        self.tries.range(arrivals).copied()
    }

    /// The claims in the queue that arrived before this one, by their terms.
    pub fn by_terms(&self, before: u64) -> impl Iterator<Item = (Terms, impl Iterator<Item = u64>)> {
        self.by_terms.iter().map(move |(terms, claims)| {
            let arrivals = claims.range(..before).map(|(arrival, _)| *arrival);
            (*terms, arrivals.filter(|arrival| self.queued.contains_key(arrival)))
        })
    }

    /// Adds a new claim, which is not in the queue yet.
    pub fn insert(&mut self, ticket: Ticket, claim: &Claim) {
        self.by_terms.entry((&claim.request).into()).or_default().insert(claim.arrival, ticket);
    }

    /// Lets a claim enter the queue.
    pub fn enter(&mut self, ticket: Ticket, claim: &Claim) {
        self.queued.insert(claim.arrival, ticket);
        if claim.request.wait == Wait::Try {
            self.tries.insert(claim.arrival);
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
        self.remove_terms((&claim.request).into(), claim.arrival);
    }

    /// Changes the terms of all claims that expect one of these numbers and arrived before this one: from now on the
    /// stored number counts. Returns these claims.
    pub fn agree(&mut self, numbers: RangeInclusive<u32>, before: u64) -> Vec<Ticket> {
        let terms = |limit: &u32, count| Terms { agreed: false, limit: Some(*limit), count };
        let groups = self.by_terms.range(terms(numbers.start(), 0)..=terms(numbers.end(), u32::MAX));
        let claims = groups.flat_map(|(terms, claims)| {
            claims.range(..before).map(|(arrival, ticket)| (*terms, *arrival, *ticket))
        });
        let claims: Vec<(Terms, u64, Ticket)> = claims.collect();
        for (terms, arrival, ticket) in &claims {
            self.remove_terms(*terms, *arrival);
            let agreed = Terms { agreed: true, ..*terms };
            self.by_terms.entry(agreed).or_default().insert(*arrival, *ticket);
        }
        claims.into_iter().map(|(_, _, ticket)| ticket).collect()
    }

    fn remove_terms(&mut self, terms: Terms, arrival: u64) {
        if let Some(claims) = self.by_terms.get_mut(&terms) {
            claims.remove(&arrival);
            if claims.is_empty() {
                self.by_terms.remove(&terms);
            }
        }
    }
}
