//! The local contenders, and the indexes that find them without a walk through all of them.

use std::collections::BTreeSet;

use super::Lock;
use super::contender::{Indexed, LocalContender, Need, Stage};
use super::queue::Kind;
use crate::machine::node::{Attempt, Znode};

impl Lock {
    /// Adds a contender, whose attempt has not begun.
    pub(super) fn insert(&mut self, contender: LocalContender) -> Attempt {
        let attempt = self.next;
        self.next = Attempt(attempt.0 + 1);
        self.tickets.insert(contender.ticket, attempt);
        let contender = LocalContender { node: None, stage: Stage::Idle, ..contender };
        let (kind, indexed) = (contender.kind(), contender.indexed());
        self.queue.enter(kind.clone());
        self.contenders.insert(attempt, Box::new(contender));
        self.reindex(attempt, &kind, Indexed::default(), indexed);
        attempt
    }

    pub(super) fn take(&mut self, attempt: Attempt) -> Option<LocalContender> {
        let contender = self.contenders.remove(&attempt)?;
        let kind = contender.kind();
        self.reindex(attempt, &kind, contender.indexed(), Indexed::default());
        self.queue.exit(&kind);
        Some(*contender)
    }

    pub(super) fn change(&mut self, attempt: Attempt, change: impl FnOnce(&mut LocalContender)) {
        let Some(contender) = self.contenders.get_mut(&attempt) else { return };
        let before = contender.indexed();
        change(contender);
        let (kind, after) = (contender.kind(), contender.indexed());
        self.reindex(attempt, &kind, before, after);
    }

    pub(super) fn set(&mut self, attempt: Attempt, stage: Stage) {
        self.change(attempt, |contender| contender.stage = stage);
    }

    pub(super) fn set_node(&mut self, attempt: Attempt, node: Znode) {
        self.change(attempt, |contender| contender.node = Some(node));
    }

    /// The first contender that has this need.
    pub(super) fn first_with(&self, need: Need) -> Option<Attempt> {
        self.with(need).next()
    }

    /// All contenders that have this need.
    pub(super) fn all_with(&self, need: Need) -> BTreeSet<Attempt> {
        self.with(need).collect()
    }

    fn with(&self, need: Need) -> impl Iterator<Item = Attempt> {
        self.needs.range((need, Attempt(0))..=(need, Attempt(u64::MAX))).map(|((_, attempt), ())| *attempt)
    }

    fn reindex(&mut self, attempt: Attempt, kind: &Kind, before: Indexed, after: Indexed) {
        if before == after {
            return;
        }
        self.in_flight = self.in_flight - before.in_flight + after.in_flight;
        if before.need != after.need {
            if let Some(need) = before.need {
                self.needs.remove(&(need, attempt));
            }
            if let Some(need) = after.need {
                self.needs.insert((need, attempt), ());
            }
        }
        self.queue.count_wanted(kind, before.wanted, after.wanted);
        if let Some(node) = before.node.as_ref().filter(|_| before.waits) {
            self.queue.set_waiting(kind, node, false);
        }
        if before.node != after.node {
            if let Some(node) = &before.node {
                self.queue.remove_local(node);
            }
            if let Some(node) = &after.node {
                self.queue.add_local(node.clone(), attempt);
            }
        }
        if let Some(node) = after.node.filter(|_| after.waits) {
            self.queue.set_waiting(kind, &node, true);
        }
    }
}
