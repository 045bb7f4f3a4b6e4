//! Handles the answers of ZooKeeper.

use std::collections::BTreeSet;

use super::contender::Stage;
use super::{Link, Lock, Owner, Retry, Review, WATCH_RETRY};
use crate::machine::lock::protocol::{Command, Created, NodeStat};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Failure, Moment, Refusal, Reply};

impl Lock {
    pub(super) fn created_and_listed(
        &mut self,
        attempt: Attempt,
        created: Result<Created, Failure>,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) -> Option<Attempt> {
        if self.stage(attempt) != Some(Stage::Creating) {
            return None;
        }
        match created {
            Ok(Created { node, czxid }) => {
                self.set_node(attempt, node);
                return self.place(attempt, czxid, children, now, out);
            }
            Err(Failure::NoNode) => match self.contenders[&attempt].wanted {
                true => {
                    self.set(attempt, Stage::MakingDirectory);
                    self.retry(attempt, now, out);
                }
                false => self.remove(attempt, true, out),
            },
            Err(Failure::Unknown(_)) => {
                self.set(attempt, Stage::FindingCreated);
                self.lost_answer(attempt, now, out);
            }
            // `Lost` follows.
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(attempt, Refusal::NoAuth(None), out),
            Err(Failure::Refused(reason)) => self.fail(attempt, Refusal::Rejected(reason), out),
        }
        None
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
            // All missing parents are created, including the chroot. So `NoNode` means that one was deleted meanwhile.
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
    ) -> Option<Attempt> {
        if let Some(review) = self.review.take_if(|review| review.attempt == attempt) {
            self.reviewed(review, result, out);
            return None;
        }
        match self.stage(attempt) {
            Some(Stage::Listing { czxid }) => return self.place(attempt, czxid, result, now, out),
            Some(Stage::Peeking) => match result {
                Ok(children) => {
                    let contender = &self.contenders[&attempt];
                    let mut siblings: Vec<Znode> =
                        children.iter().filter_map(|name| Znode::parse(name)).collect();
                    siblings.retain(|node| !matches!(self.owner(node), Owner::Left));
                    if let Some(other) = siblings.iter().find(|node| contender.clashes(node)) {
                        self.fail(attempt, Refusal::MixedDialects(other.clone()), out)
                    } else if siblings.iter().any(|node| contender.waits_for(node)) {
                        self.fail(attempt, Refusal::Contended, out)
                    } else {
                        self.proceed(attempt, Stage::Creating, out)
                    }
                }
                Err(Failure::NoNode) => self.proceed(attempt, Stage::Creating, out),
                Err(Failure::NoAuth) => self.fail(attempt, Refusal::NoAuth(None), out),
                Err(Failure::Refused(reason)) => self.fail(attempt, Refusal::Rejected(reason), out),
                Err(Failure::Unknown(_) | Failure::SessionGone) => {
                    self.fail(attempt, Refusal::Suspended, out)
                }
            },
            _ => {}
        }
        None
    }

    /// Crosses off the nodes ahead of the own node that are not in the list. A node behind it may be newer than the
    /// list.
    fn reviewed(&mut self, review: Review, result: Result<Vec<String>, Failure>, out: &mut Vec<Command>) {
        let listed: BTreeSet<Znode> = match result {
            Ok(children) => children.iter().filter_map(|name| Znode::parse(name)).collect(),
            // The directory was deleted, and all nodes with it.
            Err(Failure::NoNode) => BTreeSet::new(),
            // `Lost` follows.
            Err(Failure::SessionGone) => return self.review = Some(review),
            // Without the list, they are watched one after the other.
            Err(Failure::NoAuth | Failure::Refused(_) | Failure::Unknown(_)) => {
                return self.crossed_off = None;
            }
        };
        let Review { attempt, node } = review;
        let ahead: Vec<Znode> = self.foreign.range(..&node).cloned().collect();
        for other in ahead.iter().filter(|other| !listed.contains(other)) {
            self.cross_off(other);
        }
        self.crossed_off = None;
        let waiting = matches!(self.stage(attempt), Some(Stage::Waiting { .. }));
        if waiting && !listed.contains(&node) {
            self.missing(attempt, out);
        }
    }

    pub(super) fn found(
        &mut self,
        attempt: Attempt,
        result: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if self.stage(attempt) != Some(Stage::FindingCreated) {
            return;
        }
        let own = |name: &String| {
            Znode::parse(name).filter(|node| self.instance.attempt(node.name()) == Some(attempt))
        };
        match result.map(|children| children.iter().find_map(own)) {
            Ok(Some(node)) => {
                self.set_node(attempt, node);
                let wanted = self.contenders[&attempt].wanted;
                self.proceed(attempt, if wanted { Stage::ReadingStat } else { Stage::Deleting }, out);
            }
            Ok(None) | Err(Failure::NoNode) => match self.contenders[&attempt].wanted {
                true => self.requeue(attempt, out),
                false => self.remove(attempt, true, out),
            },
            Err(failure) => self.retry_or_give_up(attempt, failure, now, out),
        }
    }

    pub(super) fn stat_read(
        &mut self,
        attempt: Attempt,
        result: Result<NodeStat, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        match (self.stage(attempt), result) {
            (Some(Stage::ReadingStat), Ok(NodeStat { czxid, owner })) => {
                let ours = match self.link {
                    Link::Up { session } | Link::Suspended { session } => owner == session,
                    Link::Down => false,
                };
                if ours || (owner == 0 && !self.contenders[&attempt].request.ephemeral) {
                    self.proceed(attempt, Stage::Listing { czxid }, out);
                } else {
                    // The node belongs to another session, and would not end with this one.
                    self.replace(attempt, out);
                }
            }
            (Some(Stage::Unverified { czxid, held }), Ok(found)) if found.czxid == czxid => {
                self.retries.done(&Retry::Step(attempt));
                let ticket = self.contenders[&attempt].ticket;
                if held {
                    self.set(attempt, Stage::Held { czxid });
                    out.push(Command::Reply(Reply::Resumed(ticket)));
                } else {
                    self.set(attempt, Stage::Waiting { czxid });
                }
                out.extend(self.contenders[&attempt].node.clone().map(Command::Track));
            }
            (Some(Stage::Unverified { .. }), Ok(_))
            | (Some(Stage::Unverified { .. } | Stage::ReadingStat), Err(Failure::NoNode)) => {
                self.missing(attempt, out)
            }
            (Some(Stage::Unverified { .. } | Stage::ReadingStat), Err(failure)) => {
                self.retry_or_give_up(attempt, failure, now, out)
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
            // The server cannot set the watch now.
            Err(Failure::Refused(_)) => self.retries.after(&Retry::Watch(node), now, WATCH_RETRY),
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
            // It still exists, and a watch fires only once.
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
        if self.stage(attempt) != Some(Stage::Deleting) {
            return;
        }
        match result {
            Ok(()) | Err(Failure::NoNode) => self.remove(attempt, true, out),
            Err(failure) => self.retry_or_give_up(attempt, failure, now, out),
        }
    }

    /// Handles a node of ours that somebody else has deleted.
    pub(super) fn missing(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        match self.stage(attempt) {
            Some(Stage::Held { .. } | Stage::Unverified { held: true, .. }) => {
                out.push(Command::Reply(Reply::Lost(self.contenders[&attempt].ticket)));
                self.leave(attempt, out);
            }
            Some(
                Stage::Waiting { .. }
                | Stage::Listing { .. }
                | Stage::ReadingStat
                | Stage::Unverified { held: false, .. },
            ) => self.replace(attempt, out),
            Some(
                Stage::Idle
                | Stage::Peeking
                | Stage::Creating
                | Stage::MakingDirectory
                | Stage::FindingCreated
                | Stage::Deleting,
            )
            | None => {}
        }
    }

    /// Finds out who is ahead of the node, from a list that was sent after the create. Returns the attempt once its
    /// place is known.
    pub(super) fn place(
        &mut self,
        attempt: Attempt,
        czxid: i64,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) -> Option<Attempt> {
        self.set(attempt, Stage::Listing { czxid });
        let contender = &self.contenders[&attempt];
        let node = contender.node.clone()?;
        if !contender.wanted {
            self.proceed(attempt, Stage::Deleting, out);
            return None;
        }
        let siblings: Vec<Znode> = match children {
            Ok(children) => children.iter().filter_map(|name| Znode::parse(name)).collect(),
            // The directory was deleted, and the node with it.
            Err(Failure::NoNode) => {
                self.replace(attempt, out);
                return None;
            }
            Err(failure) => {
                self.retry_or_give_up(attempt, failure, now, out);
                return None;
            }
        };
        let wrapped = |other: &Znode| other.sequence() < 0 && contender.waits_for(other);
        if node.is_exhausted() || siblings.iter().any(wrapped) {
            self.give_up(attempt, Refusal::Exhausted, out);
            return None;
        }
        let stays = |other: &&Znode| !matches!(self.owner(other), Owner::Left);
        if let Some(other) = siblings.iter().filter(stays).find(|other| contender.clashes(other)) {
            self.give_up(attempt, Refusal::MixedDialects(other.clone()), out);
            return None;
        }
        for other in siblings.into_iter().filter(|other| *other < node) {
            match self.owner(&other) {
                Owner::Local(owner) => self.set_node(owner, other),
                Owner::Left => {}
                Owner::Foreign => {
                    self.foreign.insert(other);
                }
            }
        }
        // Within a directory, sequence numbers grow with transactions. If another node has an earlier transaction but a
        // larger number, the directory has been deleted and created again since, so the other node is gone.
        let earlier = |owner: &Attempt| self.contenders[owner].czxid().is_some_and(|other| other < czxid);
        let deleted: Vec<Attempt> = (self.placed.range(&node..))
            .filter(|(other, owner)| other.sequence() > node.sequence() && earlier(owner))
            .map(|(_, owner)| *owner)
            .collect();
        for owner in deleted {
            self.missing(owner, out);
        }
        self.set(attempt, Stage::Waiting { czxid });
        self.retries.done(&Retry::Step(attempt));
        out.push(Command::Track(node.clone()));
        Some(attempt)
    }
}
