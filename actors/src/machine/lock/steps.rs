//! Grants and watches, and the steps of one contender.

use std::collections::BTreeMap;

use super::contender::{LocalContender, Need, Stage};
use super::lists::Placed;
use super::queue::Ahead;
use super::{Link, Lock, ROOM_WITHOUT_DIRECTORY, Retry};
use crate::machine::lock::protocol::Command;
use crate::machine::node::{Attempt, Znode};
use crate::machine::small_map::SmallSet;
use crate::machine::{Denied, Failure, Moment, PathMachine, Refusal, Reply, Ticket, Wait};

impl Lock {
    /// Grants and watches, answers the contenders that this event has placed, and sends what others need.
    pub(super) fn advance(&mut self, placed: &Placed, out: &mut Vec<Command>) {
        self.grant_and_watch(out);
        if !placed.is_empty() {
            self.answer_placed(placed, out);
            self.grant_and_watch(out);
        }
        while let Some(attempt) = self.first_with(Need::Room).filter(|attempt| self.may_start(*attempt)) {
            self.start(attempt, out);
        }
        if self.making.is_none() && !self.retries.rests(&Retry::Directory) {
            self.make_directory(out);
        }
        self.list_if_needed(out);
    }

    fn grant_and_watch(&mut self, out: &mut Vec<Command>) {
        while let Some(node) = self.queue.first_free().filter(|_| self.is_up()).cloned() {
            let Some(attempt) = self.queue.attempt(&node) else { break };
            let Some(Stage::Waiting { czxid }) = self.stage(attempt) else { break };
            self.set(attempt, Stage::Held { czxid });
            self.cancel_deadline(attempt);
            out.push(Command::Grant { ticket: self.contenders[&attempt].ticket, node, czxid });
        }
        let (mut watched, mut unreviewed) = (SmallSet::default(), Vec::new());
        for (node, ahead) in self.queue.first_waiters() {
            let Ahead::Foreign { nearest, only } = ahead else { continue };
            watched.insert(nearest.clone(), ());
            // Earlier nodes than the last one that was crossed off may be gone too: one list shows it.
            let unseen = self.crossed_off.as_ref().is_some_and(|last| nearest < last);
            unreviewed.extend(self.queue.attempt(node).filter(|_| unseen && !only));
        }
        let reviewing = !unreviewed.is_empty() && self.list(unreviewed, out);
        self.watch(watched, reviewing, out);
        // Only waiters need the foreign nodes, and later waiters list again.
        if !self.queue.anyone_waits() && self.first_with(Need::Verification).is_none() {
            self.queue.clear_foreign();
            self.crossed_off = None;
        }
    }

    /// Watches these nodes. While a list is in flight that will show which nodes to watch, no other nodes are watched.
    fn watch(&mut self, mut nodes: SmallSet<Znode>, reviewing: bool, out: &mut Vec<Command>) {
        if reviewing {
            nodes.retain(|node, ()| self.watched.contains_key(node));
        }
        for node in self.watched.keys().filter(|node| !nodes.contains_key(node)) {
            self.retries.done(&Retry::Watch(node.clone()));
            out.push(Command::Unwatch(node.clone()));
        }
        for node in nodes.keys().filter(|node| !self.watched.contains_key(node)) {
            out.push(Command::Watch(node.clone()));
        }
        self.watched = nodes;
    }

    /// Refuses tries that were not granted, and reports the places of waiters.
    fn answer_placed(&mut self, placed: &Placed, out: &mut Vec<Command>) {
        let is_try = |lock: &Lock, attempt: &Attempt| lock.contenders[attempt].request.wait == Wait::Try;
        let waits = |attempt: &&Attempt| matches!(self.stage(**attempt), Some(Stage::Waiting { .. }));
        let waiting: Vec<Attempt> = placed.values().filter(waits).copied().collect();
        for attempt in waiting.iter().filter(|attempt| is_try(self, attempt)).copied().collect::<Vec<_>>() {
            let refusal = if self.is_up() { Refusal::Contended } else { Refusal::Suspended };
            self.give_up(attempt, refusal, out);
        }
        let mut counts = BTreeMap::new();
        for attempt in waiting {
            let Some(contender) = self.contenders.get(&attempt).filter(|it| it.wanted) else { continue };
            let Some(node) = &contender.node else { continue };
            let kind = contender.kind();
            let count = self.queue.count(&kind, node, counts.get(&kind));
            out.push(Command::Reply(Reply::Queued(contender.ticket, count.ahead())));
            counts.insert(kind, count);
        }
    }

    pub(super) fn run_deadlines(&mut self, now: Moment, out: &mut Vec<Command>) {
        while self.deadlines.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, ticket)) = self.deadlines.pop_first() else { return };
            if let Some(&attempt) = self.tickets.get(&ticket) {
                self.give_up(attempt, Refusal::TimedOut, out);
            }
        }
    }

    pub(super) fn run_retries(&mut self, now: Moment, out: &mut Vec<Command>) {
        while let Some(retry) = self.retries.pop(now) {
            match retry {
                Retry::Step(attempt) if self.stage(attempt) == Some(Stage::Resting) => {
                    self.start(attempt, out)
                }
                Retry::Step(attempt) => self.send(attempt, out),
                Retry::Watch(node) => out.push(Command::Watch(node)),
                Retry::Directory => self.make_directory(out),
                // Sent if it is still needed.
                Retry::List => {}
            }
        }
    }

    /// Whether nothing keeps this contender from being created.
    fn may_start(&self, attempt: Attempt) -> bool {
        let bytes = self.contenders[&attempt].request.bytes;
        let room = if self.has_directory { self.room } else { self.room.min(ROOM_WITHOUT_DIRECTORY) };
        self.link != Link::Down && (self.in_flight == 0 || self.in_flight + bytes <= room)
    }

    pub(super) fn start(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        let request = &self.contenders[&attempt].request;
        let directory_is_missing = self.making.is_some() || self.retries.rests(&Retry::Directory);
        let stage = match (self.link, request.wait) {
            (Link::Down, Wait::Try) => return self.fail(attempt, Refusal::Suspended, out),
            (Link::Down, Wait::Until(_) | Wait::Forever) => Stage::Idle,
            (_, Wait::Try) => Stage::Peeking,
            (_, Wait::Until(_) | Wait::Forever) if directory_is_missing => Stage::MakingDirectory,
            (_, Wait::Until(_) | Wait::Forever) if self.may_start(attempt) => Stage::Creating,
            (_, Wait::Until(_) | Wait::Forever) => Stage::Idle,
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
            Stage::Idle | Stage::Resting | Stage::Waiting { .. } | Stage::Held { .. } => {}
            // They share a list, or the request that creates the directory.
            Stage::Peeking | Stage::FindingCreated | Stage::Listing { .. } | Stage::MakingDirectory => {}
            Stage::Creating if contender.request.joint => {
                out.push(Command::CreateAndList(attempt, contender.ticket))
            }
            Stage::Creating if self.list.is_some() => out.push(Command::Create(attempt, contender.ticket)),
            Stage::Creating => {
                out.push(Command::CreateAndList(attempt, contender.ticket));
                self.list = Some(self.list_behind(Some(attempt)));
            }
            Stage::ReadingStat | Stage::Unverified { .. } => {
                out.extend(node.map(|node| Command::ReadStat(attempt, node)))
            }
            Stage::Deleting => out.extend(node.map(|node| Command::Delete(attempt, node))),
        }
    }

    /// Retries after a lost answer. A try is refused instead, because it does not wait for a reconnect.
    fn lost_answer(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
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
            Failure::NoAuth => {
                let node = self.contenders[&attempt].node.clone();
                Refusal::NoAuth(node.map_or(Denied::Directory, Denied::Contender))
            }
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

    /// Creates the directory, after a create has shown that it is missing, at once or after a pause.
    pub(super) fn make_directory_again(&mut self, now: Moment, out: &mut Vec<Command>) {
        let scheduled = self.making.is_some() || self.retries.rests(&Retry::Directory);
        if !scheduled && self.retries.again(&Retry::Directory, now) {
            self.make_directory(out);
        }
    }

    /// Creates the directory, if a contender still needs it.
    pub(super) fn make_directory(&mut self, out: &mut Vec<Command>) {
        self.making = self.first_with(Need::Directory);
        if let Some(attempt) = self.making {
            out.push(Command::MakeDirectory(attempt, self.contenders[&attempt].ticket));
        }
    }

    /// Makes a new attempt. The last one has left no node.
    pub(super) fn requeue(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        if let Some(again) = self.attempt_again(attempt) {
            self.start(again, out);
        }
    }

    /// Makes a new attempt after the last one's create was lost, at once or after a pause.
    pub(super) fn requeue_again(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
        if let Some(again) = self.attempt_again(attempt) {
            self.start_again(again, now, out);
        }
    }

    /// Starts an attempt at once if the last one was the first to fail, or else after a pause.
    fn start_again(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
        match self.retries.again(&Retry::Step(attempt), now) {
            true => self.start(attempt, out),
            false => self.set(attempt, Stage::Resting),
        }
    }

    fn attempt_again(&mut self, attempt: Attempt) -> Option<Attempt> {
        let contender = self.take(attempt)?;
        let again = self.insert(contender);
        self.retries.replace(&Retry::Step(attempt), Retry::Step(again));
        Some(again)
    }

    /// Makes a new attempt, and deletes the last one's node.
    pub(super) fn replace(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        let contender = LocalContender::clone(&self.contenders[&attempt]);
        // The new attempt takes over the ticket, so the end of the old attempt is not reported.
        let again = self.insert(contender);
        self.leave(attempt, out);
        self.start(again, out);
    }

    /// Makes a new attempt, at once or after a pause, and deletes the last one's node, which a list has not shown.
    pub(super) fn replace_again(&mut self, attempt: Attempt, now: Moment, out: &mut Vec<Command>) {
        let contender = LocalContender::clone(&self.contenders[&attempt]);
        let again = self.insert(contender);
        self.retries.replace(&Retry::Step(attempt), Retry::Step(again));
        self.leave(attempt, out);
        self.start_again(again, now, out);
    }

    /// Sends the delete of a waiting request, and then refuses it. Does nothing to a holder, or to a request that is no
    /// longer wanted.
    pub(super) fn give_up(&mut self, attempt: Attempt, refusal: Refusal, out: &mut Vec<Command>) {
        let contender = &self.contenders[&attempt];
        let ticket = contender.ticket;
        if !contender.wanted || self.is_held(attempt) {
            return;
        }
        if matches!(contender.stage, Stage::Idle | Stage::Resting | Stage::Peeking | Stage::MakingDirectory) {
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
        self.change(attempt, |contender| contender.wanted = false);
        match self.stage(attempt) {
            // A create in flight cannot be cancelled. Its answer will show the node to delete.
            Some(Stage::Creating | Stage::FindingCreated) | None => {}
            Some(_) => self.proceed(attempt, Stage::Deleting, out),
        }
    }

    pub(super) fn remove(&mut self, attempt: Attempt, confirmed: bool, out: &mut Vec<Command>) {
        self.cancel_deadline(attempt);
        self.retries.done(&Retry::Step(attempt));
        // Its request may have been sent or not. Others that need the directory send it again.
        self.making.take_if(|making| *making == attempt);
        let Some(contender) = self.take(attempt) else { return };
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

    /// Removes a foreign node that is gone.
    pub(super) fn cross_off(&mut self, node: &Znode) {
        self.queue.remove_foreign(node);
        self.watched.remove(node);
        self.retries.done(&Retry::Watch(node.clone()));
        self.crossed_off = self.crossed_off.take().max(Some(node.clone()));
    }

    pub(super) fn tell_holders(&self, reply: fn(Ticket) -> Reply, out: &mut Vec<Command>) {
        for (_, attempt) in self.queue.local() {
            if let LocalContender { ticket, stage: Stage::Held { .. }, .. } = *self.contenders[&attempt] {
                out.push(Command::Reply(reply(ticket)));
            }
        }
    }
}
