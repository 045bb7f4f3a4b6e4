//! Deciding who may go, and the steps of one contender.

use std::collections::BTreeSet;

use super::{Link, Queue, Retry};
use crate::machine::lock::contender::{Contender, Stage};
use crate::machine::lock::protocol::{Command, Failure, Refusal, Ticket, Wait};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Machine, Moment};

impl Queue {
    /// Grants whoever may go, and watches for whoever must wait for a stranger.
    pub(super) fn advance(&mut self, out: &mut Vec<Command>) {
        let mut needed = BTreeSet::new();
        let mut granted = Vec::new();
        let mut ahead: Vec<&Znode> = Vec::new();
        let mut unsure = None;
        for (node, attempt) in &self.placed {
            let contender = &self.contenders[attempt];
            if let Stage::Waiting { czxid } = contender.stage {
                // Behind somebody local no watch is needed: that one's leaving is an event here.
                if !ahead.iter().any(|local| contender.waits_for(local)) {
                    let mut blocking =
                        self.foreign.range(..node).rev().filter(|other| contender.waits_for(other));
                    match blocking.next() {
                        Some(nearest) => {
                            needed.insert(nearest.clone());
                            if self.gone.as_ref().is_some_and(|gone| nearest < gone)
                                && blocking.next().is_some()
                            {
                                unsure = Some((*attempt, node.clone()));
                            }
                        }
                        None if self.is_up() => granted.push((*attempt, node.clone(), czxid)),
                        None => {}
                    }
                }
            }
            if contender.request.mode.blocks_all() {
                break;
            }
            ahead.push(node);
        }
        for (attempt, node, czxid) in granted {
            self.set(attempt, Stage::Held { czxid });
            self.silence(attempt);
            out.push(Command::Grant { ticket: self.contenders[&attempt].ticket, node, czxid });
        }
        if let (None, Some((attempt, node))) = (&self.review, unsure) {
            out.push(Command::List(attempt));
            self.review = Some((attempt, node));
        }
        // Its answer will show whom to watch.
        if self.review.is_some() {
            needed.retain(|node| self.watched.contains(node));
        }
        for node in self.watched.difference(&needed) {
            self.retries.done(&Retry::Watch(node.clone()));
            out.push(Command::Unwatch(node.clone()));
        }
        for node in needed.difference(&self.watched) {
            out.push(Command::Watch(node.clone()));
        }
        self.watched = needed;
        // What a list showed matters to those who have listed; whoever comes later lists anew.
        if !self.foreign.is_empty() && self.placed.values().all(|attempt| self.is_held(*attempt)) {
            self.foreign.clear();
            self.gone = None;
        }
    }

    pub(super) fn ring(&mut self, now: Moment, out: &mut Vec<Command>) {
        // Nothing is asked for in the name of somebody who has just run out of time.
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

    pub(super) fn insert(&mut self, contender: Contender) -> Attempt {
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
            (_, Wait::Until(_) | Wait::Forever) => Stage::Entering,
        };
        self.proceed(attempt, stage, out);
    }

    pub(super) fn proceed(&mut self, attempt: Attempt, stage: Stage, out: &mut Vec<Command>) {
        self.set(attempt, stage);
        self.send(attempt, out);
    }

    /// Sends what the contender's stage asks for.
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
            Stage::Entering => out.push(Command::Enter(attempt, contender.ticket)),
            Stage::MakingDirectory => out.push(Command::MakeDirectory(attempt, contender.ticket)),
            Stage::Looking => out.push(Command::Look(attempt)),
            Stage::Inspecting | Stage::Unverified { .. } => {
                out.extend(node.map(|node| Command::Inspect(attempt, node)))
            }
            Stage::Leaving => out.extend(node.map(|node| Command::Delete(attempt, node))),
        }
    }

    /// The same after an answer was lost. A try does not wait for the connection to come back.
    pub(super) fn lost_answer(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
        let before = self.stage(attempt);
        if self.contenders[&attempt].request.wait == Wait::Try {
            self.give_up(attempt, Refusal::Suspended, out);
        }
        // Unless giving up has sent another request.
        if self.stage(attempt) == before {
            self.send_again(attempt, now, out);
        }
    }

    /// The same after a failure: at once, or after a pause.
    pub(super) fn send_again(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
        if self.retries.again(&Retry::Step(attempt), now) {
            self.send(attempt, out);
        }
    }

    pub(super) fn try_again(
        &mut self,
        attempt: Attempt,
        failure: Failure,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let refusal = match failure {
            Failure::Unknown(_) => return self.lost_answer(attempt, now, out),
            // Its loss will be told, and settles it.
            Failure::SessionGone => return,
            Failure::NoAuth => Refusal::NoAuth(self.contenders[&attempt].node.clone()),
            Failure::NoNode => Refusal::Rejected("a node is missing".into()),
            Failure::Refused(reason) => Refusal::Rejected(reason),
        };
        if self.closed {
            // The end of the session takes its nodes away; one that outlives it was not ours to delete.
            return self.remove(attempt, false, out);
        }
        let before = self.stage(attempt);
        self.give_up(attempt, refusal, out);
        if self.stage(attempt) == before {
            self.retries.later(&Retry::Step(attempt), now);
        }
    }

    /// Makes a new attempt where the last one left no node.
    pub(super) fn requeue(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        if let Some(contender) = self.contenders.remove(&attempt) {
            if let Some(node) = &contender.node {
                self.placed.remove(node);
            }
            let again = self.insert(Contender { node: None, stage: Stage::Idle, ..contender });
            self.retries.replace(&Retry::Step(attempt), Retry::Step(again));
            self.start(again, out);
        }
    }

    /// Makes a new attempt, and sees to it that the last one's node goes.
    pub(super) fn replace(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        let contender = self.contenders[&attempt].clone();
        // The new attempt takes the ticket over, so that the old one's end is told to nobody.
        let again = self.insert(Contender { node: None, stage: Stage::Idle, ..contender });
        self.leave(attempt, out);
        self.start(again, out);
    }

    /// Answers a waiting caller with a no, once the delete is sent. Nothing happens to one that holds or is not
    /// wanted any more.
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
        out.push(Command::Refuse(ticket, refusal));
    }

    /// The same where it is known that there is no node.
    pub(super) fn fail(&mut self, attempt: Attempt, refusal: Refusal, out: &mut Vec<Command>) {
        if self.contenders[&attempt].wanted {
            out.push(Command::Refuse(self.contenders[&attempt].ticket, refusal));
        }
        self.remove(attempt, true, out);
    }

    /// Nobody wants it any more: its node is to go.
    pub(super) fn leave(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        self.silence(attempt);
        let Some(contender) = self.contenders.get_mut(&attempt) else { return };
        contender.wanted = false;
        if let Some(node) = &contender.node {
            self.placed.remove(node);
        }
        match contender.stage {
            // A create in flight cannot be called back: its answer will show what is to be deleted.
            Stage::Entering | Stage::Looking => {}
            _ => self.proceed(attempt, Stage::Leaving, out),
        }
    }

    pub(super) fn remove(&mut self, attempt: Attempt, confirmed: bool, out: &mut Vec<Command>) {
        self.silence(attempt);
        self.retries.done(&Retry::Step(attempt));
        let Some(contender) = self.contenders.remove(&attempt) else { return };
        if let Some(node) = &contender.node {
            self.placed.remove(node);
        }
        if self.tickets.get(&contender.ticket) == Some(&attempt) {
            self.tickets.remove(&contender.ticket);
            out.push(Command::Forget { ticket: contender.ticket, confirmed });
        }
    }

    /// Takes back the deadline, unless a later attempt has taken the ticket over.
    pub(super) fn silence(&mut self, attempt: Attempt) {
        let Some(contender) = self.contenders.get(&attempt) else { return };
        if let (Wait::Until(deadline), Some(true)) =
            (contender.request.wait, self.tickets.get(&contender.ticket).map(|owner| *owner == attempt))
        {
            self.deadlines.remove(&(deadline, contender.ticket));
        }
    }

    /// The name of a local contender's node is known.
    pub(super) fn sight(&mut self, attempt: Attempt, node: Znode) {
        if let Some(contender) = self.contenders.get_mut(&attempt) {
            if contender.wanted {
                self.placed.insert(node.clone(), attempt);
            }
            contender.node = Some(node);
        }
    }

    pub(super) fn cross_off(&mut self, node: &Znode) {
        self.foreign.remove(node);
        self.watched.remove(node);
        self.retries.done(&Retry::Watch(node.clone()));
        self.gone = self.gone.take().max(Some(node.clone()));
    }

    pub(super) fn tell_holders(&self, tell: fn(Ticket) -> Command, out: &mut Vec<Command>) {
        for attempt in self.placed.values() {
            if let Contender { ticket, stage: Stage::Held { .. }, .. } = self.contenders[attempt] {
                out.push(tell(ticket));
            }
        }
    }
}
