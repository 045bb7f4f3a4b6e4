//! Lists of the directory: what they show of the contenders, and when the next one is sent.

use std::collections::BTreeSet;

use super::contender::{Need, Stage};
use super::queue::Kind;
use super::{Link, Lock, Owner, Retry};
use crate::machine::lock::protocol::Command;
use crate::machine::node::{Attempt, Znode};
use crate::machine::small_map::SmallMap;
use crate::machine::{Denied, Failure, Moment, Refusal, Wait};

/// A list in flight, which all local contenders share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct List {
    /// The attempt whose create was sent right before it.
    pub behind: Option<Attempt>,
    /// Attempts from this one on were made after it was sent.
    before: Attempt,
    /// Contenders whose nodes existed when it was sent.
    known: BTreeSet<Attempt>,
    /// The contenders whose creates it is to find, because it was sent behind a sync.
    finding: BTreeSet<Attempt>,
    /// The list of a multi-lock was answered meanwhile, which may have been sent later and may show newer nodes.
    overtaken: bool,
}

/// The contenders that a list has placed in the queue, in its order.
pub(super) type Placed = SmallMap<Znode, Attempt>;

/// What a list shows to the contenders of one kind.
struct Outlook {
    /// A node that follows other rules.
    clashing: Option<Znode>,
    /// A node that blocks this kind has a number past the end of the range.
    wrapped: bool,
    /// Some node blocks this kind.
    blocked: bool,
}

impl Lock {
    /// Sends a list, if a contender needs one and none is in flight.
    pub(super) fn list_if_needed(&mut self, out: &mut Vec<Command>) {
        let needs = [Need::Peek, Need::ListBehindCreate, Need::Find, Need::List];
        if needs.into_iter().any(|need| self.first_with(need).is_some()) {
            self.list([], out);
        }
    }

    /// Sends a list, if none is in flight and none is due after a pause. `known` are contenders whose nodes it must
    /// show. Returns whether one is in flight now.
    pub(super) fn list(&mut self, known: impl IntoIterator<Item = Attempt>, out: &mut Vec<Command>) -> bool {
        if self.list.is_some() {
            return true;
        }
        // A try does not wait for the end of a pause.
        let rests = self.retries.rests(&Retry::List) && self.first_with(Need::Peek).is_none();
        if self.link == Link::Down || rests {
            return false;
        }
        self.retries.sent(&Retry::List);
        let finding = self.all_with(Need::Find);
        out.push(Command::List { sync: !finding.is_empty() });
        let mut list = List { finding, ..self.list_behind(None) };
        list.known.extend(known);
        self.list = Some(list);
        true
    }

    /// A list that is sent now, right behind this create.
    pub(super) fn list_behind(&self, behind: Option<Attempt>) -> List {
        let known = self.all_with(Need::List);
        List { behind, before: self.next, known, finding: BTreeSet::new(), overtaken: false }
    }

    /// Handles the answer to the list in flight. Returns the contenders whose place is known now.
    pub(super) fn listed(
        &mut self,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) -> Placed {
        let Some(list) = self.list.take() else { return Placed::default() };
        match children {
            Ok(children) => self.shown(list, children, now, out),
            // The directory was deleted, and all nodes with it.
            Err(Failure::NoNode) => self.shown(list, Vec::new(), now, out),
            // `Lost` follows.
            Err(Failure::SessionGone) => {
                self.list = Some(list);
                Placed::default()
            }
            Err(failure) => {
                self.not_shown(&list, failure, now, out);
                Placed::default()
            }
        }
    }

    /// Handles the list of a multi-lock, which concerns only this part of it.
    pub(super) fn listed_jointly(
        &mut self,
        attempt: Attempt,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) -> Placed {
        if let Some(list) = &mut self.list {
            list.overtaken = true;
        }
        let Some(Stage::Listing { .. }) = self.stage(attempt) else { return Placed::default() };
        let node = self.contenders[&attempt].node.as_ref();
        let siblings = match children {
            Ok(children) => parse(children, node),
            Err(Failure::NoNode) => Vec::new(),
            // The next list is shared.
            Err(_) => return Placed::default(),
        };
        if let Some(node) = node.filter(|node| siblings.binary_search(node).is_ok()) {
            return self.place(&siblings, Placed::from_iter([(node.clone(), attempt)]), out);
        }
        self.replace_again(attempt, now, out);
        Placed::default()
    }

    fn shown(&mut self, list: List, children: Vec<String>, now: Moment, out: &mut Vec<Command>) -> Placed {
        self.retries.done(&Retry::List);
        let created = list.behind.and_then(|attempt| self.contenders.get(&attempt)?.node.as_ref());
        let siblings = parse(children, created);
        if !list.overtaken {
            self.cross_off_unlisted(&siblings);
        }
        self.crossed_off = None;
        let mut own = SmallMap::default();
        for node in &siblings {
            if let Owner::Local(attempt) | Owner::Left(Some(attempt)) = self.owner(node) {
                own.insert(attempt, node);
            }
        }
        for (attempt, node) in own.iter() {
            let known = self.contenders.get(attempt).and_then(|contender| contender.node.as_ref());
            let differs = known.is_some_and(|known| known != *node);
            if differs && matches!(self.stage(*attempt), Some(Stage::Listing { .. })) {
                // The answer to the create was wrong, and the list is newer.
                self.set_node(*attempt, (*node).clone());
            }
        }
        for attempt in list.known.iter().chain(&list.behind) {
            let existed = self.contenders.get(attempt).is_some_and(|contender| contender.node.is_some());
            match self.stage(*attempt) {
                _ if !existed || own.contains_key(attempt) => {}
                Some(Stage::Listing { .. } | Stage::Waiting { .. }) => self.replace_again(*attempt, now, out),
                Some(_) | None => self.missing(*attempt, out),
            }
        }
        for attempt in list.finding {
            self.found(attempt, own.get(&attempt).copied(), now, out);
        }
        let peeking = self.all_with(Need::Peek).into_iter().filter(|attempt| *attempt < list.before);
        self.peeked(&siblings, peeking.collect(), out);
        let listing = |attempt: &Attempt| matches!(self.stage(*attempt), Some(Stage::Listing { .. }));
        let listing = own.iter().filter(|(attempt, _)| listing(attempt));
        let listing = listing.map(|(attempt, node)| (Znode::clone(node), *attempt)).collect();
        self.place(&siblings, listing, out)
    }

    /// Crosses off the nodes of others that are not in the list. A node behind all listed ones may be newer than the
    /// list.
    fn cross_off_unlisted(&mut self, siblings: &[Znode]) {
        let Some(last) = siblings.last() else { return };
        let known = self.queue.foreign_before(last);
        let gone: Vec<Znode> = known.filter(|node| siblings.binary_search(node).is_err()).cloned().collect();
        gone.iter().for_each(|node| self.cross_off(node));
    }

    /// Handles the search for the node of a create whose outcome was unknown.
    fn found(&mut self, attempt: Attempt, node: Option<&Znode>, now: Moment, out: &mut Vec<Command>) {
        let Some(contender) = self.contenders.get(&attempt) else { return };
        if contender.stage != Stage::FindingCreated {
            return;
        }
        match (contender.wanted, node) {
            (wanted, Some(node)) => {
                self.set_node(attempt, node.clone());
                self.proceed(attempt, if wanted { Stage::ReadingStat } else { Stage::Deleting }, out);
            }
            (true, None) => self.requeue_again(attempt, now, out),
            (false, None) => self.remove(attempt, true, out),
        }
    }

    /// Answers tries, before they create a node.
    fn peeked(&mut self, siblings: &[Znode], peeking: Vec<Attempt>, out: &mut Vec<Command>) {
        let mut outlooks = SmallMap::default();
        for attempt in peeking {
            let kind = self.contenders[&attempt].kind();
            let outlook = outlooks.get_or_insert_with(kind, |kind| self.outlook(kind, siblings));
            match &outlook.clashing {
                Some(other) => self.fail(attempt, Refusal::MixedDialects(other.clone()), out),
                None if outlook.blocked => self.fail(attempt, Refusal::Contended, out),
                None => self.proceed(attempt, Stage::Creating, out),
            }
        }
    }

    /// Places these contenders from a list that shows their nodes. Returns those whose place is known now.
    fn place(&mut self, siblings: &[Znode], mut listing: Placed, out: &mut Vec<Command>) -> Placed {
        let mut outlooks = SmallMap::default();
        listing.retain(|_, attempt| {
            let contender = &self.contenders[attempt];
            let outlook = outlooks.get_or_insert_with(contender.kind(), |kind| self.outlook(kind, siblings));
            let exhausted = contender.node.as_ref().is_some_and(Znode::is_exhausted);
            if exhausted || outlook.wrapped {
                self.give_up(*attempt, Refusal::Exhausted, out);
            } else if let Some(other) = &outlook.clashing {
                self.give_up(*attempt, Refusal::MixedDialects(other.clone()), out);
            } else {
                return true;
            }
            false
        });
        let (Some(first), Some(last)) = (listing.keys().next(), listing.keys().next_back()) else {
            return listing;
        };
        for other in siblings.iter().take_while(|other| *other < last) {
            match self.owner(other) {
                // The answer to its create has not arrived, or was lost.
                Owner::Local(owner) if self.contenders[&owner].node.is_none() => {
                    self.set_node(owner, other.clone())
                }
                Owner::Local(_) | Owner::Left(_) => {}
                Owner::Foreign => self.queue.add_foreign(other.clone()),
            }
        }
        self.find_overtaken(first, out);
        listing.retain(|_, attempt| match self.stage(*attempt) {
            Some(Stage::Listing { czxid }) => {
                self.set(*attempt, Stage::Waiting { czxid });
                self.retries.done(&Retry::Step(*attempt));
                out.extend(self.contenders[attempt].node.clone().map(Command::Track));
                true
            }
            _ => false,
        });
        listing
    }

    /// Within a directory, sequence numbers grow with transactions. If a node has an earlier transaction than one with a
    /// smaller number, the directory has been deleted and created again since, so the node is gone.
    fn find_overtaken(&mut self, first: &Znode, out: &mut Vec<Command>) {
        let (mut newest, mut gone): (Option<(i64, i64)>, _) = (None, Vec::new());
        for (node, attempt) in self.queue.local_from(first) {
            let Some(czxid) = self.contenders[&attempt].czxid() else { continue };
            match newest {
                Some((sequence, newest)) if czxid < newest => {
                    if node.sequence() > sequence {
                        gone.push(attempt);
                    }
                }
                Some(_) | None => newest = Some((node.sequence(), czxid)),
            }
        }
        gone.into_iter().for_each(|attempt| self.missing(attempt, out));
    }

    fn outlook(&self, kind: &Kind, siblings: &[Znode]) -> Outlook {
        let stays = |node: &&Znode| !matches!(self.owner(node), Owner::Left(_));
        let clashing = siblings.iter().filter(|node| kind.clashes(node)).find(stays).cloned();
        let mut blocking = siblings.iter().filter(|node| kind.waits_for(node));
        Outlook {
            clashing,
            wrapped: blocking.clone().any(|node| node.sequence() < 0),
            blocked: blocking.any(|node| stays(&node)),
        }
    }

    fn not_shown(&mut self, list: &List, failure: Failure, now: Moment, out: &mut Vec<Command>) {
        // Without the list, the nodes ahead are watched one after the other.
        self.crossed_off = None;
        let refusal = match &failure {
            Failure::NoAuth => Refusal::NoAuth(Denied::Directory),
            Failure::Refused(reason) => Refusal::Rejected(reason.clone()),
            Failure::Unknown(_) | Failure::NoNode | Failure::SessionGone => Refusal::Suspended,
        };
        for attempt in self.all_with(Need::Peek).into_iter().filter(|attempt| *attempt < list.before) {
            self.fail(attempt, refusal.clone(), out);
        }
        let affected = self.all_with(Need::List).into_iter().chain(list.finding.iter().copied());
        for attempt in affected {
            let Some(contender) = self.contenders.get(&attempt) else { continue };
            // Only a try does not wait for a reconnect.
            if refusal == Refusal::Suspended && contender.request.wait != Wait::Try {
                continue;
            }
            match self.closed && refusal != Refusal::Suspended {
                // The server deletes ephemeral nodes with the session. A persistent node is left behind.
                true => self.remove(attempt, false, out),
                false => self.give_up(attempt, refusal.clone(), out),
            }
        }
        match failure {
            Failure::Unknown(_) => {
                self.retries.again(&Retry::List, now);
            }
            _ if self.first_with(Need::Find).is_some() => self.retries.later(&Retry::List, now),
            _ => {}
        }
    }
}

/// The contenders' nodes among these children, in the order of the queue. A node that is known is not made again.
fn parse(children: Vec<String>, known: Option<&Znode>) -> Vec<Znode> {
    let node = |name: String| match known.filter(|known| known.name() == name) {
        Some(known) => Some(known.clone()),
        None => Znode::named(name),
    };
    let mut nodes: Vec<Znode> = children.into_iter().filter_map(node).collect();
    nodes.sort_unstable();
    nodes
}
