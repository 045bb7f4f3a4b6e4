//! Handles the answers of ZooKeeper, other than lists.

use super::contender::{Need, Stage};
use super::lists::Placed;
use super::{Link, Lock, Retry, WATCH_RETRY};
use crate::machine::lock::protocol::{Command, Created, NodeStat};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Denied, Failure, Moment, PathMachine, Refusal, Reply, Wait};

impl Lock {
    pub(super) fn created(
        &mut self,
        attempt: Attempt,
        created: Result<Created, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if self.stage(attempt) != Some(Stage::Creating) {
            return;
        }
        let wanted = self.contenders[&attempt].wanted;
        match &created {
            Ok(_) => self.has_directory = true,
            Err(Failure::NoNode) => self.has_directory = false,
            Err(_) => {}
        }
        match created {
            Ok(Created { node, czxid }) => {
                self.retries.done(&Retry::Directory);
                self.set_node(attempt, node);
                match wanted {
                    true => self.set(attempt, Stage::Listing { czxid }),
                    false => self.proceed(attempt, Stage::Deleting, out),
                }
            }
            Err(Failure::NoNode) => match wanted {
                true => {
                    self.set(attempt, Stage::MakingDirectory);
                    self.make_directory_again(now, out);
                }
                false => self.remove(attempt, true, out),
            },
            Err(Failure::Unknown(_)) => {
                self.set(attempt, Stage::FindingCreated);
                if self.contenders[&attempt].request.wait == Wait::Try {
                    self.give_up(attempt, Refusal::Suspended, out);
                }
            }
            // `Lost` follows.
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(attempt, Refusal::NoAuth(Denied::Directory), out),
            Err(Failure::Refused(reason)) => self.fail(attempt, Refusal::Rejected(reason), out),
        }
    }

    pub(super) fn created_and_listed(
        &mut self,
        attempt: Attempt,
        created: Result<Created, Failure>,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) -> Placed {
        self.created(attempt, created, now, out);
        match self.list.as_ref().is_some_and(|list| list.behind == Some(attempt)) {
            true => self.listed(children, now, out),
            false => self.listed_jointly(attempt, children, now, out),
        }
    }

    pub(super) fn directory_made(
        &mut self,
        attempt: Attempt,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if self.making.take_if(|making| *making == attempt).is_none() {
            return;
        }
        match result {
            // All missing parents are created, including the chroot. So `NoNode` means that one was deleted meanwhile.
            Ok(()) | Err(Failure::NoNode) => {
                for attempt in self.all_with(Need::Directory) {
                    self.requeue(attempt, out);
                }
            }
            Err(Failure::Unknown(_)) => {
                for attempt in self.all_with(Need::Directory) {
                    if self.contenders[&attempt].request.wait == Wait::Try {
                        self.fail(attempt, Refusal::Suspended, out);
                    }
                }
                self.make_directory_again(now, out);
            }
            Err(Failure::SessionGone) => self.making = Some(attempt),
            Err(Failure::NoAuth) => self.directory_denied(attempt, Refusal::NoAuth(Denied::Directory), out),
            Err(Failure::Refused(reason)) => self.directory_denied(attempt, Refusal::Rejected(reason), out),
        }
    }

    /// Another contender's options may be accepted.
    fn directory_denied(&mut self, attempt: Attempt, refusal: Refusal, out: &mut Vec<Command>) {
        if self.stage(attempt) == Some(Stage::MakingDirectory) {
            self.fail(attempt, refusal, out);
        }
        self.make_directory(out);
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
                    // Otherwise `Resumed` follows, or the session is lost.
                    if self.is_up() {
                        out.push(Command::Reply(Reply::Resumed(ticket)));
                    }
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
        if !self.watched.contains_key(&node) {
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
                let behind: Vec<Attempt> = self.queue.local_from(&node).map(|(_, attempt)| attempt).collect();
                for attempt in behind {
                    if !self.is_held(attempt) && self.contenders[&attempt].kind().waits_for(&node) {
                        self.give_up(attempt, Refusal::NoAuth(Denied::Contender(node.clone())), out);
                    }
                }
            }
        }
    }

    pub(super) fn fired(&mut self, node: Znode, gone: bool, out: &mut Vec<Command>) {
        if !self.watched.contains_key(&node) {
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
                | Stage::Resting
                | Stage::Peeking
                | Stage::Creating
                | Stage::MakingDirectory
                | Stage::FindingCreated
                | Stage::Deleting,
            )
            | None => {}
        }
    }
}
