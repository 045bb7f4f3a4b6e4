//! The leases of this process, by name and by claim.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::Ticket;

/// Own leases that are known to exist, each with its claim. Leases without a claim are being deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct OwnLeases {
    claims: BTreeMap<String, Option<Ticket>>,
    by_claim: BTreeSet<(Ticket, String)>,
}

impl OwnLeases {
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// The claim of a lease. `None` if the lease is not known, `Some(None)` if it has no claim.
    pub fn claim(&self, lease: &str) -> Option<Option<Ticket>> {
        self.claims.get(lease).copied()
    }

    /// The leases of a claim, in the order of their names.
    pub fn of(&self, ticket: Ticket) -> impl Iterator<Item = &String> {
        let own = self.by_claim.range((ticket, String::new())..);
        own.take_while(move |(owner, _)| *owner == ticket).map(|(_, lease)| lease)
    }

    /// Adds a lease, or changes its claim.
    pub fn insert(&mut self, lease: String, claim: Option<Ticket>) {
        self.remove(&lease);
        self.by_claim.extend(claim.map(|ticket| (ticket, lease.clone())));
        self.claims.insert(lease, claim);
    }

    /// Removes a lease.
    pub fn remove(&mut self, lease: &str) {
        if let Some(Some(ticket)) = self.claims.remove(lease) {
            self.by_claim.remove(&(ticket, lease.to_owned()));
        }
    }

    pub fn clear(&mut self) {
        self.claims.clear();
        self.by_claim.clear();
    }
}
