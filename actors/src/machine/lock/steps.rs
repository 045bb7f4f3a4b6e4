//! Grants and watches, and the steps of one contender.

use std::collections::BTreeSet;

use super::contender::{LocalContender, Stage};
use super::{Link, Lock, Retry, Review};
use crate::machine::lock::protocol::Command;
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Failure, Moment, PathMachine, Refusal, Reply, Ticket, Wait};

/// What follows from the front of the queue.
#[derive(Default)]
struct Front {
    granted: Vec<(Attempt, Znode, i64)>,
    /// The foreign nodes that must be watched.
    watched: BTreeSet<Znode>,
    /// A waiter whose nodes ahead must be listed again.
    unreviewed: Option<Review>,
}

impl Lock {
    /// Grants and watches, and answers the contender that this event has placed.
    pub(super) fn advance(&mut self, placed: Option<Attempt>, out: &mut Vec<Command>) {
        self.grant_and_watch(out);
        if let Some(attempt) = placed {
            self.answer_placed(attempt, out);
            self.grant_and_watch(out);
        }
    }

    fn grant_and_watch(&mut self, out: &mut Vec<Command>) {
        let Front { granted, watched, unreviewed } = self.front();
        for (attempt, node, czxid) in granted {
            self.set(attempt, Stage::Held { czxid });
            self.cancel_deadline(attempt);
            out.push(Command::Grant { ticket: self.contenders[&attempt].ticket, node, czxid });
        }
        if let (None, Some(review)) = (&self.review, unreviewed) {
            out.push(Command::List(review.attempt));
            self.review = Some(review);
        }
        self.watch(watched, out);
        // Only waiters need the foreign nodes, and later waiters list again.
        if !self.foreign.is_empty() && self.placed.values().all(|attempt| self.is_held(*attempt)) {
            self.foreign.clear();
            self.crossed_off = None;
        }
    }

    /// Looks at the local contenders in the order of the queue, up to the first one that all later ones wait for.
    fn front(&self) -> Front {
        let mut front = Front::default();
        let mut ahead: Vec<&Znode> = Vec::new();
        for (node, attempt) in &self.placed {
            let contender = &self.contenders[attempt];
            // No watch is needed behind a local contender, because its end is an event of this machine.
            let behind_local = || ahead.iter().any(|local| contender.waits_for(local));
            if let Some(czxid) = contender.waiting().filter(|_| !behind_local()) {
                let mut blocking =
                    self.foreign.range(..node).rev().filter(|other| contender.waits_for(other));
                match blocking.next() {
                    Some(nearest) => {
                        front.watched.insert(nearest.clone());
                        // Earlier nodes than the last one that was crossed off may be gone too: one list shows it.
                        let unseen = self.crossed_off.as_ref().is_some_and(|last| nearest < last);
                        if unseen && blocking.next().is_some() {
                            front.unreviewed = Some(Review { attempt: *attempt, node: node.clone() });
                        }
                    }
                    None if self.is_up() => front.granted.push((*attempt, node.clone(), czxid)),
                    None => {}
                }
            }
            if contender.request.mode.blocks_all() {
                break;
            }
            ahead.push(node);
        }
        front
    }

    fn watch(&mut self, mut nodes: BTreeSet<Znode>, out: &mut Vec<Command>) {
        // The list in flight will show which nodes to watch.
        if self.review.is_some() {
            nodes.retain(|node| self.watched.contains(node));
        }
        for node in self.watched.difference(&nodes) {
            self.retries.done(&Retry::Watch(node.clone()));
            out.push(Command::Unwatch(node.clone()));
        }
        for node in nodes.difference(&self.watched) {
            out.push(Command::Watch(node.clone()));
        }
        self.watched = nodes;
    }

    /// Reports the place of a waiter, and refuses a try that was not granted.
    fn answer_placed(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        if !matches!(self.stage(attempt), Some(Stage::Waiting { .. })) {
            return;
        }
        let contender = &self.contenders[&attempt];
        match contender.request.wait {
            Wait::Try if self.is_up() => self.give_up(attempt, Refusal::Contended, out),
            Wait::Try => self.give_up(attempt, Refusal::Suspended, out),
            Wait::Until(_) | Wait::Forever => {
                let Some(node) = &contender.node else { return };
                let ahead = (self.foreign.range(..node).chain(self.placed.range(..node).map(|(n, _)| n)))
                    .filter(|other| contender.waits_for(other))
                    .count();
                out.push(Command::Reply(Reply::Queued(contender.ticket, ahead)));
            }
        }
    }

    pub(super) fn run_timers(&mut self, now: Moment, out: &mut Vec<Command>) {
        // Deadlines first, so that nothing is sent for a request that has timed out.
        while self.deadlines.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, ticket)) = self.deadlines.pop_first() else { return };
            if let Some(&attempt) = self.tickets.get(&ticket) {
                self.give_up(attempt, Refusal::TimedOut, out);
            }
        }
        while let Some(retry) = self.retries.pop(now) {
            match retry {
                Retry::Step(attempt) => self.send(attempt, out),
                Retry::Watch(node) => out.push(Command::Watch(node)),
            }
        }
    }

    pub(super) fn insert(&mut self, contender: LocalContender) -> Attempt {
        let attempt = self.next;
        self.next = Attempt(attempt.0 + 1);
        self.tickets.insert(contender.ticket, attempt);
        self.contenders.insert(attempt, contender);
        attempt
    }

    pub(super) fn start(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        let stage = match (self.link, self.contenders[&attempt].request.wait) {
            (Link::Down, Wait::Try) => return self.fail(attempt, Refusal::Suspended, out),
            (Link::Down, Wait::Until(_) | Wait::Forever) => Stage::Idle,
            (_, Wait::Try) => Stage::Peeking,
            (_, Wait::Until(_) | Wait::Forever) => Stage::Creating,
        };
        self.proceed(attempt, stage, out);
    }

    pub(super) fn proceed(&mut self, attempt: Attempt, stage: Stage, out: &mut Vec<Command>) {
        self.set(attempt, stage);
        self.send(attempt, out);
    }

    /// Sends the request of the contender's stage.
    pub(super) fn send(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        let Some(contender) = self.contenders.get(&attempt) else { return };
        if self.link == Link::Down {
            return;
        }
        let node = contender.node.clone();
        self.retries.sent(&Retry::Step(attempt));
        match contender.stage {
            Stage::Idle | Stage::Waiting { .. } | Stage::Held { .. } => {}
            Stage::Peeking | Stage::Listing { .. } => out.push(Command::List(attempt)),
            Stage::Creating => out.push(Command::CreateAndList(attempt, contender.ticket)),
            Stage::MakingDirectory => out.push(Command::MakeDirectory(attempt, contender.ticket)),
            Stage::FindingCreated => out.push(Command::FindCreated(attempt)),
            Stage::ReadingStat | Stage::Unverified { .. } => {
                out.extend(node.map(|node| Command::ReadStat(attempt, node)))
            }
            Stage::Deleting => out.extend(node.map(|node| Command::Delete(attempt, node))),
        }
    }

    /// Retries after a lost answer. A try is refused instead, because it does not wait for a reconnect.
    pub(super) fn lost_answer(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
        let before = self.stage(attempt);
        if self.contenders[&attempt].request.wait == Wait::Try {
            self.give_up(attempt, Refusal::Suspended, out);
        }
        // If giving up has changed the stage, the next request is already sent.
        if self.stage(attempt) == before {
            self.retry(attempt, now, out);
        }
    }

    /// Retries after a failure, at once or after a pause.
    pub(super) fn retry(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
        if self.retries.again(&Retry::Step(attempt), now) {
            self.send(attempt, out);
        }
    }

    pub(super) fn retry_or_give_up(
        &mut self,
        attempt: Attempt,
        failure: Failure,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let refusal = match failure {
            Failure::Unknown(_) => return self.lost_answer(attempt, now, out),
            // `Lost` follows.
            Failure::SessionGone => return,
            Failure::NoAuth => Refusal::NoAuth(self.contenders[&attempt].node.clone()),
            Failure::NoNode => Refusal::Rejected("a node is missing".into()),
            Failure::Refused(reason) => Refusal::Rejected(reason),
        };
        if self.closed {
            // The server deletes ephemeral nodes with the session. A persistent node is left behind.
            return self.remove(attempt, false, out);
        }
        let before = self.stage(attempt);
        self.give_up(attempt, refusal, out);
        if self.stage(attempt) == before {
            self.retries.later(&Retry::Step(attempt), now);
        }
    }

    /// Makes a new attempt. The last one has left no node.
    pub(super) fn requeue(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        if let Some(contender) = self.contenders.remove(&attempt) {
            if let Some(node) = &contender.node {
                self.placed.remove(node);
            }
            let again = self.insert(LocalContender { node: None, stage: Stage::Idle, ..contender });
            self.retries.replace(&Retry::Step(attempt), Retry::Step(again));
            self.start(again, out);
        }
    }

    /// Makes a new attempt, and deletes the last one's node.
    pub(super) fn replace(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        let contender = self.contenders[&attempt].clone();
        // The new attempt takes over the ticket, so the end of the old attempt is not reported.
        let again = self.insert(LocalContender { node: None, stage: Stage::Idle, ..contender });
        self.leave(attempt, out);
        self.start(again, out);
    }

    /// Sends the delete of a waiting request, and then refuses it. Does nothing to a holder, or to a request that is no
    /// longer wanted.
    pub(super) fn give_up(&mut self, attempt: Attempt, refusal: Refusal, out: &mut Vec<Command>) {
        let contender = &self.contenders[&attempt];
        let ticket = contender.ticket;
        if !contender.wanted || self.is_held(attempt) {
            return;
        }
        if matches!(contender.stage, Stage::Idle | Stage::Peeking | Stage::MakingDirectory) {
            return self.fail(attempt, refusal, out);
        }
        self.leave(attempt, out);
        out.push(Command::Reply(Reply::Refused(ticket, refusal)));
    }

    /// Refuses a request that has no node.
    pub(super) fn fail(&mut self, attempt: Attempt, refusal: Refusal, out: &mut Vec<Command>) {
        if self.contenders[&attempt].wanted {
            out.push(Command::Reply(Reply::Refused(self.contenders[&attempt].ticket, refusal)));
        }
        self.remove(attempt, true, out);
    }

    /// Marks a contender as no longer wanted, and deletes its node.
    pub(super) fn leave(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        self.cancel_deadline(attempt);
        let Some(contender) = self.contenders.get_mut(&attempt) else { return };
        contender.wanted = false;
        if let Some(node) = &contender.node {
            self.placed.remove(node);
        }
        match contender.stage {
            // A create in flight cannot be cancelled. Its answer will show the node to delete.
            Stage::Creating | Stage::FindingCreated => {}
            _ => self.proceed(attempt, Stage::Deleting, out),
        }
    }

    pub(super) fn remove(&mut self, attempt: Attempt, confirmed: bool, out: &mut Vec<Command>) {
        self.cancel_deadline(attempt);
        self.retries.done(&Retry::Step(attempt));
        let Some(contender) = self.contenders.remove(&attempt) else { return };
        if let Some(node) = &contender.node {
            self.placed.remove(node);
        }
        if self.tickets.get(&contender.ticket) == Some(&attempt) {
            self.tickets.remove(&contender.ticket);
            out.push(Command::Reply(Reply::Forgotten { ticket: contender.ticket, confirmed }));
        }
    }

    /// Removes the deadline, unless a later attempt has taken over the ticket.
    pub(super) fn cancel_deadline(&mut self, attempt: Attempt) {
        let Some(contender) = self.contenders.get(&attempt) else { return };
        if let (Wait::Until(deadline), Some(true)) =
            (contender.request.wait, self.tickets.get(&contender.ticket).map(|owner| *owner == attempt))
        {
            self.deadlines.remove(&(deadline, contender.ticket));
        }
    }

    /// Sets the node of a local contender.
    pub(super) fn set_node(&mut self, attempt: Attempt, node: Znode) {
        if let Some(contender) = self.contenders.get_mut(&attempt) {
            if contender.wanted {
                self.placed.insert(node.clone(), attempt);
            }
            contender.node = Some(node);
        }
    }

    /// Removes a foreign node that is gone.
    pub(super) fn cross_off(&mut self, node: &Znode) {
        self.foreign.remove(node);
        self.watched.remove(node);
        self.retries.done(&Retry::Watch(node.clone()));
        self.crossed_off = self.crossed_off.take().max(Some(node.clone()));
    }

    pub(super) fn tell_holders(&self, reply: fn(Ticket) -> Reply, out: &mut Vec<Command>) {
        for attempt in self.placed.values() {
            if let LocalContender { ticket, stage: Stage::Held { .. }, .. } = self.contenders[attempt] {
                out.push(Command::Reply(reply(ticket)));
            }
        }
    }
}
