//! Splits and merges held claims. Nothing is sent to the server: only the owners of leases change.

use super::protocol::Command;
use super::{Semaphore, Stage};
use crate::machine::{Reply, Ticket};

impl Semaphore {
    /// Moves these leases of a held claim to a claim of their own. The part of a claim that is no longer held is lost.
    pub(super) fn split(&mut self, ticket: Ticket, into: Ticket, leases: &[String], out: &mut Vec<Command>) {
        let Some(claim) = self.claims.get(&ticket).filter(|claim| claim.stage == Stage::Held).cloned() else {
            out.push(Command::Reply(Reply::Lost(into)));
            out.push(Command::Reply(Reply::Forgotten { ticket: into, confirmed: false }));
            return;
        };
        for lease in leases {
            if self.leases.claim(lease) == Some(Some(ticket)) {
                self.leases.insert(lease.clone(), Some(into));
            }
        }
        self.claims.insert(into, claim);
    }

    /// Moves all leases of a held claim to another. If one of the two is no longer held, both are lost: the caller
    /// regards them as one.
    pub(super) fn merge(&mut self, ticket: Ticket, into: Ticket, out: &mut Vec<Command>) {
        match (self.stage(ticket), self.stage(into)) {
            (Some(Stage::Held), Some(Stage::Held)) => {
                for lease in self.leases_of(ticket) {
                    self.leases.insert(lease, Some(into));
                }
                self.claims.remove(&ticket);
                out.push(Command::Merged { ticket, into });
            }
            (Some(Stage::Held), _) => self.lose(ticket, out),
            (_, Some(Stage::Held)) => self.lose(into, out),
            _ => {}
        }
    }
}
