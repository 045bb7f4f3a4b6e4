//! What ZooKeeper answers, and what follows from it.

use std::collections::BTreeSet;

use super::{LOOK, Link, Queue, Retry, Standing};
use crate::machine::lock::contender::Stage;
use crate::machine::lock::protocol::{Command, Created, Failure, Inspection, Refusal, Wait};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Machine, Moment};

impl Queue {
    pub(super) fn entered(
        &mut self,
        attempt: Attempt,
        created: Result<Created, Failure>,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if self.stage(attempt) != Some(Stage::Entering) {
            return;
        }
        match created {
            Ok(Created { node, czxid }) => {
                self.sight(attempt, node);
                self.place(attempt, czxid, children, now, out);
            }
            Err(Failure::NoNode) => match self.contenders[&attempt].wanted {
                true => {
                    self.set(attempt, Stage::MakingDirectory);
                    self.send_again(attempt, now, out);
                }
                false => self.remove(attempt, true, out),
            },
            Err(Failure::Unknown(_)) => {
                self.set(attempt, Stage::Looking);
                self.lost_answer(attempt, now, out);
            }
            // Its loss will be told, and settles it.
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(attempt, Refusal::NoAuth(None), out),
            Err(Failure::Refused(reason)) => self.fail(attempt, Refusal::Rejected(reason), out),
        }
    }

    pub(super) fn directory_made(
        &mut self,
        attempt: Attempt,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if self.stage(attempt) != Some(Stage::MakingDirectory) {
            return;
        }
        match result {
            // A chroot that is missing is made like the rest, so that only a removal in between says NoNode.
            Ok(()) | Err(Failure::NoNode) => self.requeue(attempt, out),
            Err(Failure::Unknown(_)) => self.lost_answer(attempt, now, out),
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(attempt, Refusal::NoAuth(None), out),
            Err(Failure::Refused(reason)) => self.fail(attempt, Refusal::Rejected(reason), out),
        }
    }

    pub(super) fn listed(
        &mut self,
        attempt: Attempt,
        result: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if let Some((_, node)) = self.review.take_if(|(asked, _)| *asked == attempt) {
            return self.reviewed(attempt, node, result, out);
        }
        match self.stage(attempt) {
            Some(Stage::Listing { czxid }) => self.place(attempt, czxid, result, now, out),
            Some(Stage::Peeking) => match result {
                Ok(children) => {
                    let contender = &self.contenders[&attempt];
                    let mut siblings: Vec<Znode> =
                        children.iter().filter_map(|name| Znode::parse(name)).collect();
                    siblings.retain(|node| !matches!(self.standing(node), Standing::Left));
                    if let Some(other) = siblings.iter().find(|node| contender.clashes(node)) {
                        self.fail(attempt, Refusal::MixedDialects(other.clone()), out)
                    } else if siblings.iter().any(|node| contender.waits_for(node)) {
                        self.fail(attempt, Refusal::Contended, out)
                    } else {
                        self.proceed(attempt, Stage::Entering, out)
                    }
                }
                Err(Failure::NoNode) => self.proceed(attempt, Stage::Entering, out),
                Err(Failure::NoAuth) => self.fail(attempt, Refusal::NoAuth(None), out),
                Err(Failure::Refused(reason)) => self.fail(attempt, Refusal::Rejected(reason), out),
                Err(Failure::Unknown(_) | Failure::SessionGone) => {
                    self.fail(attempt, Refusal::Suspended, out)
                }
            },
            _ => {}
        }
    }

    /// Whoever stood before `node` and is not in the list has gone; who came behind may be missing from it.
    fn reviewed(
        &mut self,
        attempt: Attempt,
        node: Znode,
        result: Result<Vec<String>, Failure>,
        out: &mut Vec<Command>,
    ) {
        let there: BTreeSet<Znode> = match result {
            Ok(children) => children.iter().filter_map(|name| Znode::parse(name)).collect(),
            // The directory went, and all nodes with it.
            Err(Failure::NoNode) => BTreeSet::new(),
            // Its loss will be told, and settles it.
            Err(Failure::SessionGone) => return self.review = Some((attempt, node)),
            // One by one, then.
            Err(Failure::NoAuth | Failure::Refused(_) | Failure::Unknown(_)) => return self.gone = None,
        };
        let ahead: Vec<Znode> = self.foreign.range(..&node).cloned().collect();
        for other in ahead.iter().filter(|other| !there.contains(other)) {
            self.cross_off(other);
        }
        self.gone = None;
        let waiting = matches!(self.stage(attempt), Some(Stage::Waiting { .. }));
        if waiting && !there.contains(&node) {
            self.missing(attempt, out);
        }
    }

    pub(super) fn looked(
        &mut self,
        attempt: Attempt,
        result: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if self.stage(attempt) != Some(Stage::Looking) {
            return;
        }
        let own = |name: &String| {
            Znode::parse(name).filter(|node| self.instance.attempt(node.name()) == Some(attempt))
        };
        match result.map(|children| children.iter().find_map(own)) {
            Ok(Some(node)) => {
                self.sight(attempt, node);
                let wanted = self.contenders[&attempt].wanted;
                self.proceed(attempt, if wanted { Stage::Inspecting } else { Stage::Leaving }, out);
            }
            Ok(None) | Err(Failure::NoNode) => match self.contenders[&attempt].wanted {
                true => self.requeue(attempt, out),
                false => self.remove(attempt, true, out),
            },
            Err(failure) => self.try_again(attempt, failure, now, out),
        }
    }

    pub(super) fn inspected(
        &mut self,
        attempt: Attempt,
        result: Result<Inspection, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        match (self.stage(attempt), result) {
            (Some(Stage::Inspecting), Ok(Inspection { czxid, owner })) => {
                let ours = match self.link {
                    Link::Up { session } | Link::Suspended { session } => owner == session,
                    Link::Down => false,
                };
                if ours || (owner == 0 && !self.contenders[&attempt].request.ephemeral) {
                    self.proceed(attempt, Stage::Listing { czxid }, out);
                } else {
                    // This session's end would not take it away: it must go, and a new one come.
                    self.replace(attempt, out);
                }
            }
            (Some(Stage::Unverified { czxid, held }), Ok(found)) if found.czxid == czxid => {
                self.retries.done(&Retry::Step(attempt));
                let ticket = self.contenders[&attempt].ticket;
                if held {
                    self.set(attempt, Stage::Held { czxid });
                    out.push(Command::Resume(ticket));
                } else {
                    self.set(attempt, Stage::Waiting { czxid });
                }
                out.extend(self.contenders[&attempt].node.clone().map(Command::Track));
            }
            (Some(Stage::Unverified { .. }), Ok(_))
            | (Some(Stage::Unverified { .. } | Stage::Inspecting), Err(Failure::NoNode)) => {
                self.missing(attempt, out)
            }
            (Some(Stage::Unverified { .. } | Stage::Inspecting), Err(failure)) => {
                self.try_again(attempt, failure, now, out)
            }
            _ => {}
        }
    }

    pub(super) fn watch_answered(
        &mut self,
        node: Znode,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if !self.watched.contains(&node) {
            return;
        }
        match result {
            Ok(()) => self.retries.done(&Retry::Watch(node)),
            Err(Failure::SessionGone) => {}
            Err(Failure::NoNode) => self.cross_off(&node),
            Err(Failure::Unknown(_)) => {
                if self.retries.again(&Retry::Watch(node.clone()), now) {
                    out.push(Command::Watch(node));
                }
            }
            // No room for another watch, or the server is busy.
            Err(Failure::Refused(_)) => self.retries.after(&Retry::Watch(node), now, LOOK),
            Err(Failure::NoAuth) => {
                self.cross_off(&node);
                let behind: Vec<Attempt> = self.placed.range(&node..).map(|(_, attempt)| *attempt).collect();
                for attempt in behind {
                    if !self.is_held(attempt) && self.contenders[&attempt].waits_for(&node) {
                        self.give_up(attempt, Refusal::NoAuth(Some(node.clone())), out);
                    }
                }
            }
        }
    }

    pub(super) fn fired(&mut self, node: Znode, gone: bool, out: &mut Vec<Command>) {
        if !self.watched.contains(&node) {
            return;
        }
        match gone {
            true => self.cross_off(&node),
            // Something else happened to it, and a watch fires once.
            false => out.push(Command::Watch(node)),
        }
    }

    pub(super) fn deleted(
        &mut self,
        attempt: Attempt,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if self.stage(attempt) != Some(Stage::Leaving) {
            return;
        }
        match result {
            Ok(()) | Err(Failure::NoNode) => self.remove(attempt, true, out),
            Err(failure) => self.try_again(attempt, failure, now, out),
        }
    }

    /// A node of ours is gone, and not by our hand. It is deleted all the same: should this be an error, no ghost
    /// is left.
    pub(super) fn missing(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        match self.stage(attempt) {
            Some(Stage::Held { .. } | Stage::Unverified { held: true, .. }) => {
                out.push(Command::Lose(self.contenders[&attempt].ticket));
                self.leave(attempt, out);
            }
            Some(
                Stage::Waiting { .. }
                | Stage::Listing { .. }
                | Stage::Inspecting
                | Stage::Unverified { held: false, .. },
            ) => self.replace(attempt, out),
            Some(
                Stage::Idle
                | Stage::Peeking
                | Stage::Entering
                | Stage::MakingDirectory
                | Stage::Looking
                | Stage::Leaving,
            )
            | None => {}
        }
    }

    /// A node's place is known if the list that came behind its create is.
    pub(super) fn place(
        &mut self,
        attempt: Attempt,
        czxid: i64,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        self.set(attempt, Stage::Listing { czxid });
        let contender = &self.contenders[&attempt];
        let (ticket, wait) = (contender.ticket, contender.request.wait);
        let Some(node) = contender.node.clone() else { return };
        if !contender.wanted {
            return self.proceed(attempt, Stage::Leaving, out);
        }
        let siblings: Vec<Znode> = match children {
            Ok(children) => children.iter().filter_map(|name| Znode::parse(name)).collect(),
            // The directory went, and the node with it.
            Err(Failure::NoNode) => return self.replace(attempt, out),
            Err(failure) => return self.try_again(attempt, failure, now, out),
        };
        let wrapped = |other: &Znode| other.sequence() < 0 && contender.waits_for(other);
        if node.is_exhausted() || siblings.iter().any(wrapped) {
            return self.give_up(attempt, Refusal::Exhausted, out);
        }
        let stays = |other: &&Znode| !matches!(self.standing(other), Standing::Left);
        if let Some(other) = siblings.iter().filter(stays).find(|other| contender.clashes(other)) {
            return self.give_up(attempt, Refusal::MixedDialects(other.clone()), out);
        }
        for other in siblings.into_iter().filter(|other| *other < node) {
            match self.standing(&other) {
                Standing::Local(owner) => self.sight(owner, other),
                Standing::Left => {}
                Standing::Foreign => {
                    self.foreign.insert(other);
                }
            }
        }
        // Within a directory, numbers grow as transactions do. A node that came earlier under a larger number stood in
        // one that has been deleted and made again since, and is gone.
        let earlier = |owner: &Attempt| self.contenders[owner].czxid().is_some_and(|other| other < czxid);
        let outlived: Vec<Attempt> = (self.placed.range(&node..))
            .filter(|(other, owner)| other.sequence() > node.sequence() && earlier(owner))
            .map(|(_, owner)| *owner)
            .collect();
        for owner in outlived {
            self.missing(owner, out);
        }
        self.set(attempt, Stage::Waiting { czxid });
        self.retries.done(&Retry::Step(attempt));
        out.push(Command::Track(node.clone()));
        self.advance(out);
        if self.stage(attempt) == Some(Stage::Waiting { czxid }) {
            match wait {
                Wait::Try if self.is_up() => self.give_up(attempt, Refusal::Contended, out),
                Wait::Try => self.give_up(attempt, Refusal::Suspended, out),
                Wait::Until(_) | Wait::Forever => {
                    let contender = &self.contenders[&attempt];
                    let ahead =
                        (self.foreign.range(..&node).chain(self.placed.range(..&node).map(|(n, _)| n)))
                            .filter(|other| contender.waits_for(other))
                            .count();
                    out.push(Command::Queued(ticket, ahead));
                }
            }
        }
    }
}
