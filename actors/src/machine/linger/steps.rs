//! What follows from the events: grants, new nodes, and the end of nodes.

use std::collections::BTreeMap;

use super::line::{Arrival, Following};
use super::protocol::{Command, LineId, SharedRequest};
use super::{LingeringLock, excludes, forgotten, reply};
use crate::machine::exclusion::Mode;
use crate::machine::lock::{self, Request};
use crate::machine::node::Znode;
use crate::machine::{
    COMMANDS, Failure, Machine, Moment, PathEvent, PathMachine, Refusal, Reply, Ticket, Wait,
};

impl LingeringLock {
    /// Passes an event to the queue. What its commands say about the nodes of lines is said to the members.
    pub(super) fn pass(&mut self, event: lock::Event, now: Moment, out: &mut Vec<Command>) {
        let mut commands = std::mem::take(&mut self.commands);
        self.queue.handle(event, now, &mut commands);
        for command in commands.drain(..) {
            match command {
                lock::Command::Create(attempt, ticket) => {
                    self.has_new_node(ticket);
                    let ticket = self.representative(ticket);
                    out.push(Command::Queue(lock::Command::Create(attempt, ticket)));
                }
                lock::Command::CreateAndList(attempt, ticket) => {
                    self.has_new_node(ticket);
                    let ticket = self.representative(ticket);
                    out.push(Command::Queue(lock::Command::CreateAndList(attempt, ticket)));
                }
                lock::Command::MakeDirectory(attempt, ticket) => {
                    let ticket = self.representative(ticket);
                    out.push(Command::Queue(lock::Command::MakeDirectory(attempt, ticket)));
                }
                lock::Command::Grant { ticket, node, czxid } => match self.line_of(ticket) {
                    Some(id) => self.held(id, node, czxid, out),
                    None => out.push(Command::Queue(lock::Command::Grant { ticket, node, czxid })),
                },
                lock::Command::Reply(said) => self.said(said, out),
                lock::Command::List { .. }
                | lock::Command::ReadStat(..)
                | lock::Command::Watch(_)
                | lock::Command::Unwatch(_)
                | lock::Command::Delete(..)
                | lock::Command::Track(_) => out.push(Command::Queue(command)),
            }
        }
        commands.shrink_to(COMMANDS);
        self.commands = commands;
    }

    /// A line's node is created, or created again: its members will be told their places.
    fn has_new_node(&mut self, ticket: Ticket) {
        if let Some(line) = self.line_of(ticket).and_then(|id| self.lines.get_mut(&id)) {
            line.untold.extend(line.waiting.keys());
        }
    }

    /// A caller whose options a line's node is created with. All members have the same.
    fn representative(&self, ticket: Ticket) -> Ticket {
        let line = self.line_of(ticket).map(|id| &self.lines[&id]);
        line.and_then(|line| line.waiting.values().next()).copied().unwrap_or(ticket)
    }

    fn held(&mut self, id: LineId, node: Znode, czxid: i64, out: &mut Vec<Command>) {
        let rivals = self.queue.has_rivals(id.ticket(), excludes);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.held = Some((node, czxid));
        let closes = line.contended || rivals;
        // A try's line was not open before.
        line.open |= line.request.wait == Wait::Try && !self.open.contains_key(&line.options);
        if line.open {
            self.open.insert(line.options, id);
        }
        if closes {
            self.close(id, out);
        }
        self.changed.insert(id);
    }

    /// Handles what the queue says about a line's node, or passes on what it says about another contender.
    fn said(&mut self, said: Reply, out: &mut Vec<Command>) {
        let ticket = match &said {
            Reply::Queued(ticket, _)
            | Reply::Refused(ticket, _)
            | Reply::Suspended(ticket)
            | Reply::Resumed(ticket)
            | Reply::Lost(ticket)
            | Reply::Forgotten { ticket, .. } => *ticket,
        };
        let Some(id) = self.line_of(ticket) else { return out.push(reply(said)) };
        match said {
            Reply::Queued(_, ahead) => self.queued(id, ahead, out),
            Reply::Refused(_, refusal) => self.refused(id, &refusal, out),
            Reply::Suspended(_) => {
                self.tell_holders(id, Reply::Suspended, out);
                // Nobody can be seen meanwhile.
                self.close(id, out);
            }
            Reply::Resumed(_) => {
                self.tell_holders(id, Reply::Resumed, out);
                self.changed.insert(id);
            }
            Reply::Lost(_) => self.lost(id, out),
            Reply::Forgotten { confirmed, .. } => self.ended(id, confirmed, out),
        }
    }

    fn queued(&mut self, id: LineId, ahead: usize, out: &mut Vec<Command>) {
        let strangers = self.queue.place_of(id.ticket()).is_some_and(|place| place.foreign);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.contended |= strangers;
        line.tell_places(ahead, out);
    }

    fn refused(&mut self, id: LineId, refusal: &Refusal, out: &mut Vec<Command>) {
        self.close(id, out);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.ending = true;
        let waiting = std::mem::take(&mut line.waiting);
        line.leaving.extend(waiting.values().copied());
        for ticket in waiting.into_values() {
            out.push(reply(Reply::Refused(ticket, refusal.clone())));
            self.cancel_deadline(ticket);
        }
    }

    /// The holders have lost the lock. The other members need another node.
    fn lost(&mut self, id: LineId, out: &mut Vec<Command>) {
        self.close(id, out);
        self.tell_holders(id, Reply::Lost, out);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.ending = true;
        line.leaving.append(&mut line.holders);
        let waiting = std::mem::take(&mut line.waiting);
        if !waiting.is_empty() {
            self.displaced.push_back((line.again(), waiting));
        }
    }

    /// The node is gone.
    fn ended(&mut self, id: LineId, confirmed: bool, out: &mut Vec<Command>) {
        self.close(id, out);
        self.changed.remove(&id);
        let Some(line) = self.lines.remove(&id) else { return };
        if let Some(check) = line.check {
            self.checks.remove(&(check, id));
        }
        for ticket in line.leaving {
            match confirmed && !self.members.contains_key(&ticket) {
                // No request: it gives up idle nodes, and waits for the earlier ones, too.
                true => self.await_end(ticket, ..id, out),
                false => self.forget(ticket, confirmed, out),
            }
        }
    }

    pub(super) fn followed(
        &mut self,
        id: LineId,
        children: Result<Vec<String>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(line) = self.lines.get_mut(&id).filter(|line| line.following == Following::Listing) else {
            return;
        };
        let Some((node, _)) = line.held.clone() else { return };
        let children = match children {
            Ok(children) => children,
            // The directory was deleted, and all nodes with it.
            Err(Failure::NoNode) => Vec::new(),
            // `Lost` follows.
            Err(Failure::SessionGone) => return,
            Err(Failure::NoAuth | Failure::Refused(_) | Failure::Unknown(_)) => {
                line.following = Following::No;
                return self.close(id, out);
            }
        };
        line.following = Following::Watching;
        if !children.iter().any(|name| name == node.name()) {
            return self.pass(PathEvent::Missing(vec![node.name().to_owned()]).into(), now, out);
        }
        let (instance, request) = (self.instance, &line.request);
        let seen = children
            .iter()
            .filter(|name| instance.attempt(name).is_none())
            .filter_map(|name| Znode::parse(name));
        if seen.into_iter().any(|other| is_behind(&other, &node, request)) {
            self.close(id, out);
        }
    }

    pub(super) fn children_changed(&mut self, id: LineId, out: &mut Vec<Command>) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        if line.following == Following::Watching {
            line.following = Following::Listing;
            out.push(Command::Follow(id));
        }
    }

    pub(super) fn run_deadlines(&mut self, now: Moment, out: &mut Vec<Command>) {
        while self.deadlines.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, ticket)) = self.deadlines.pop_first() else { break };
            self.give_up(ticket, Refusal::TimedOut, now, out);
        }
        while self.checks.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, id)) = self.checks.pop_first() else { break };
            let Some(line) = self.lines.get_mut(&id) else { continue };
            line.check = None;
            self.changed.insert(id);
            if line.idle.is_some_and(|since| since + line.linger <= now) {
                self.close(id, out);
            }
        }
        self.settle(now, out);
    }

    /// Does what follows for all lines that this event has changed.
    pub(super) fn settle(&mut self, now: Moment, out: &mut Vec<Command>) {
        loop {
            if let Some((request, members)) = self.displaced.pop_front() {
                self.place_again(request, members, now, out);
            } else if let Some(id) = self.changed.pop_first() {
                self.settle_line(id, now, out);
            } else {
                return;
            }
        }
    }

    /// Puts members whose node was lost into the open line of their options, in the order of their arrival, or into a new
    /// one.
    fn place_again(
        &mut self,
        request: SharedRequest,
        members: BTreeMap<Arrival, Ticket>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let id = match self.open.get(&request.options) {
            Some(id) => *id,
            None => self.begin(request, now, out),
        };
        for ticket in members.values() {
            self.members.entry(*ticket).and_modify(|member| member.line = id);
        }
        if let Some(line) = self.lines.get_mut(&id) {
            line.untold.extend(members.keys());
            line.waiting.extend(members);
        }
        self.changed.insert(id);
        self.queue_for(id, now, out);
    }

    /// Requests a node for a new line, once the line has members.
    pub(super) fn queue_for(&mut self, id: LineId, now: Moment, out: &mut Vec<Command>) {
        let Some(line) = self.lines.get_mut(&id).filter(|line| !line.queued) else { return };
        line.queued = true;
        let request = line.request.clone();
        self.pass(lock::Event::Acquire { ticket: id.ticket(), request }, now, out);
    }

    fn settle_line(&mut self, id: LineId, now: Moment, out: &mut Vec<Command>) {
        let is_up = self.is_up();
        let Some(line) = self.lines.get_mut(&id).filter(|line| !line.ending) else { return };
        if line.is_empty() && (line.held.is_none() || !line.open) {
            return self.end(id, now, out);
        }
        let leaving = std::mem::take(&mut line.leaving);
        let Some((node, czxid)) = line.held.clone() else {
            if !line.untold.is_empty() {
                if let Some(place) = self.queue.place_of(id.ticket()) {
                    line.tell_places(place.ahead, out);
                }
            }
            return leaving.into_iter().for_each(|ticket| self.forget(ticket, true, out));
        };
        let mut granted = Vec::new();
        while is_up && (line.is_shared() || line.holders.is_empty()) {
            let Some((_, ticket)) = line.waiting.pop_first() else { break };
            line.holders.insert(ticket);
            granted.push(ticket);
        }
        line.idle = line.is_empty().then(|| line.idle.unwrap_or(now));
        let check = line.idle.filter(|_| line.check.is_none()).map(|since| since + line.linger);
        line.check = line.check.or(check);
        self.checks.extend(check.map(|check| (check, id)));
        let follows = line.open && line.following == Following::No;
        if follows {
            line.following = Following::Listing;
        }
        for ticket in leaving {
            self.forget(ticket, true, out);
        }
        for ticket in granted {
            self.cancel_deadline(ticket);
            let node = node.clone();
            out.push(Command::Queue(lock::Command::Grant { ticket, node, czxid }));
        }
        if let Some(line) = self.lines.get_mut(&id) {
            line.tell_places(line.holders.len(), out);
        }
        if follows {
            out.push(Command::Follow(id));
        }
    }

    /// Deletes the node of a line that has no members.
    fn end(&mut self, id: LineId, now: Moment, out: &mut Vec<Command>) {
        self.close(id, out);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.ending = true;
        let ticket = id.ticket();
        let event = match line.held {
            Some(_) => PathEvent::Release(ticket),
            None => PathEvent::Cancel(ticket),
        };
        self.pass(event.into(), now, out);
    }

    /// Closes a line to further requests. It is not followed any more.
    pub(super) fn close(&mut self, id: LineId, out: &mut Vec<Command>) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.open = false;
        if std::mem::replace(&mut line.following, Following::No) != Following::No {
            out.push(Command::Unfollow(id));
        }
        if self.open.get(&line.options) == Some(&id) {
            self.open.remove(&line.options);
        }
        self.changed.insert(id);
    }

    fn tell_holders(&self, id: LineId, said: fn(Ticket) -> Reply, out: &mut Vec<Command>) {
        let holders = self.lines.get(&id).into_iter().flat_map(|line| &line.holders);
        out.extend(holders.map(|ticket| reply(said(*ticket))));
    }

    fn forget(&mut self, ticket: Ticket, confirmed: bool, out: &mut Vec<Command>) {
        self.members.remove(&ticket);
        out.push(forgotten(ticket, confirmed));
    }

    pub(super) fn cancel_deadline(&mut self, ticket: Ticket) {
        if let Some(deadline) = self.members.get_mut(&ticket).and_then(|member| member.deadline.take()) {
            self.deadlines.remove(&(deadline, ticket));
        }
    }
}

/// Whether a contender of another process may have to wait for a node. Its name does not show everything, so this is
/// more often true than needed.
fn is_behind(other: &Znode, node: &Znode, request: &Request) -> bool {
    let mode = other.mode().or_else(|| request.patterns.matches(other.name()).then_some(Mode::Lock));
    mode.is_some_and(|mode| excludes(mode, request.mode)) && (other > node || other.is_exhausted())
}
