//! A lock path whose requests may share nodes. One node serves the requests of this process one after another, or all
//! at the same time if they are readers, and stays for a while when nobody wants it. So a lock that no other process
//! wants costs no requests to the server.
//!
//! The requests that share a node are a line (`line.rs`). The node is a contender in the queue of the path ([`Lock`]),
//! like those of requests that share nothing.
//!
//! # Who may join
//!
//! A request joins the line of its options, unless that is closed; then it gets a new line, whose node is at the end of
//! the queue. A line closes for good
//!
//! - when a contender of another process is seen behind its node, or was ahead of it: such a contender is overtaken only
//!   by requests that were made before it was seen;
//! - when another contender of this process comes that does not share the node and is excluded by it;
//! - when the directory cannot be listed and watched, or the session is in doubt: then nobody can be seen.
//!
//! A closed line still serves its members, and its node is deleted after the last one.
//!
//! # How others are seen
//!
//! A node that holds is followed: the directory is listed once and its children are watched. Holders do not wait for
//! that. A node that was granted the lock behind other processes is not followed and its line is closed at once, because
//! they will come back.
//!
//! A list that does not show the node itself means that somebody has deleted it. Then its holders have lost the lock, and
//! its other members queue again.

mod line;
pub mod protocol;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeBounds;
use std::time::Duration;

use self::line::{Arrival, Line, Member, excludes};
pub use self::protocol::{Command, Event, LineId, SharedRequest};
use super::exclusion::Mode;
use super::lock::{self, Lock};
use super::node::{Instance, Znode};
use super::{Machine, Moment, PathEvent, PathMachine, Refusal, Reply, Ticket, Wait};

/// The machine of one lock path: see the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LingeringLock {
    instance: Instance,
    queue: Lock,
    lines: BTreeMap<LineId, Line>,
    next_line: u64,
    /// The open lines, by their options.
    open: BTreeMap<u64, LineId>,
    members: BTreeMap<Ticket, Member>,
    arrivals: Arrival,
    deadlines: BTreeSet<(Moment, Ticket)>,
    /// When to look whether a line has been idle for long enough.
    checks: BTreeSet<(Moment, LineId)>,
    /// The lines that this event has changed.
    changed: BTreeSet<LineId>,
    /// The members of lines whose nodes were lost by this event.
    displaced: VecDeque<(SharedRequest, BTreeMap<Arrival, Ticket>)>,
    /// The commands of the queue. Empty between events; kept, so that not every event allocates it.
    commands: Vec<lock::Command>,
}

impl LingeringLock {
    /// A lock without a session, for nodes of this instance.
    pub fn new(instance: Instance) -> LingeringLock {
        LingeringLock::on(Lock::new(instance), instance)
    }

    /// A lock whose nodes stand in this queue.
    pub fn on(queue: Lock, instance: Instance) -> LingeringLock {
        LingeringLock {
            instance,
            queue,
            lines: BTreeMap::new(),
            next_line: 0,
            open: BTreeMap::new(),
            members: BTreeMap::new(),
            arrivals: 0,
            deadlines: BTreeSet::new(),
            checks: BTreeSet::new(),
            changed: BTreeSet::new(),
            displaced: VecDeque::new(),
            commands: Vec::new(),
        }
    }

    /// The node of a request that waits or holds, once its name is known. `None` for a request that shares a node.
    pub fn node(&self, ticket: Ticket) -> Option<&Znode> {
        self.queue.node(ticket)
    }

    /// Whether requests with these options share a node, or did last.
    pub fn uses(&self, options: u64) -> bool {
        self.lines.values().any(|line| line.options == options)
    }

    /// Whether a node stays although no request of this process wants it.
    pub fn lingers(&self) -> bool {
        self.idle_lines().next().is_some()
    }
}

impl Machine for LingeringLock {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        self.run_deadlines(now, out);
        match event {
            Event::Share { ticket, request } => self.share(ticket, request, now, out),
            Event::LetGo(ticket) => self.let_go(ticket, now, out),
            Event::Retire => self.retire(out),
            Event::Queue(lock::Event::Acquire { ticket, request }) => {
                self.make_way(request.mode, request.wait, now, out);
                self.pass(lock::Event::Acquire { ticket, request }, now, out);
            }
            Event::Queue(lock::Event::Path(PathEvent::Cancel(ticket))) => {
                self.give_up(ticket, Refusal::Cancelled, now, out)
            }
            Event::Queue(lock::Event::Path(PathEvent::Release(ticket))) => self.release(ticket, now, out),
            Event::Queue(event) => self.pass(event, now, out),
            Event::Followed(line, children) => self.followed(line, children, now, out),
            Event::ChildrenChanged(line) => self.children_changed(line, out),
        }
        self.settle(now, out);
    }

    fn wakeup(&self) -> Option<Moment> {
        let deadline = self.deadlines.first().map(|(moment, _)| *moment);
        let check = self.checks.first().map(|(moment, _)| *moment);
        deadline.into_iter().chain(check).chain(self.queue.wakeup()).min()
    }
}

impl PathMachine for LingeringLock {
    fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    fn is_up(&self) -> bool {
        self.queue.is_up()
    }
}

impl LingeringLock {
    fn share(&mut self, ticket: Ticket, request: SharedRequest, now: Moment, out: &mut Vec<Command>) {
        let deadline = match request.request.wait {
            Wait::Until(deadline) if deadline <= now => return self.refuse(ticket, Refusal::TimedOut, out),
            Wait::Until(deadline) => Some(deadline),
            Wait::Try | Wait::Forever => None,
        };
        let is_try = request.request.wait == Wait::Try;
        let line = match self.open.get(&request.options).map(|id| (*id, &self.lines[id])) {
            Some(_) if is_try && !self.is_up() => return self.refuse(ticket, Refusal::Suspended, out),
            Some((_, line)) if is_try && !line.is_free() => {
                return match line.is_shared() {
                    // Whoever is ahead of the line may have gone.
                    true => self.pass(lock::Event::Acquire { ticket, request: request.request }, now, out),
                    false => self.refuse(ticket, Refusal::Contended, out),
                };
            }
            Some((line, _)) => line,
            None => self.begin(request, now, out),
        };
        self.join(ticket, line, deadline, out);
        self.queue_for(line, now, out);
    }

    fn release(&mut self, ticket: Ticket, now: Moment, out: &mut Vec<Command>) {
        let Some(member) = self.members.get(&ticket) else {
            return self.pass(PathEvent::Release(ticket).into(), now, out);
        };
        let (id, line) = (member.line, self.lines.get_mut(&member.line));
        if let Some(line) = line.filter(|line| line.holders.contains(&ticket)) {
            line.holders.remove(&ticket);
            line.leaving.insert(ticket);
            self.changed.insert(id);
        }
    }

    /// Ends a request that waits.
    fn give_up(&mut self, ticket: Ticket, refusal: Refusal, now: Moment, out: &mut Vec<Command>) {
        let Some(Member { line: id, arrival, .. }) = self.members.get(&ticket).copied() else {
            return self.pass(PathEvent::Cancel(ticket).into(), now, out);
        };
        let Some(line) = self.lines.get_mut(&id) else { return };
        if line.waiting.remove(&arrival).is_none() {
            return;
        }
        line.leaving.insert(ticket);
        out.push(reply(Reply::Refused(ticket, refusal)));
        self.cancel_deadline(ticket);
        self.changed.insert(id);
    }

    /// Gives up all idle nodes, and answers once all are gone. Some may be on their way already.
    fn let_go(&mut self, ticket: Ticket, now: Moment, out: &mut Vec<Command>) {
        let idle: Vec<LineId> = self.idle_lines().collect();
        for id in idle {
            self.close(id, out);
        }
        self.await_end(ticket, .., out);
        self.settle(now, out);
    }

    /// Answers once all of these lines are gone that have no members: the last one first, then the others.
    fn await_end(&mut self, ticket: Ticket, lines: impl RangeBounds<LineId>, out: &mut Vec<Command>) {
        match self.lines.range_mut(lines).rfind(|(_, line)| line.is_empty()) {
            Some((_, line)) => drop(line.leaving.insert(ticket)),
            None => out.push(forgotten(ticket, true)),
        }
    }

    fn retire(&mut self, out: &mut Vec<Command>) {
        // A try may still open a line.
        self.lines.values_mut().for_each(|line| line.linger = Duration::ZERO);
        let open: Vec<LineId> = self.open.values().copied().collect();
        open.into_iter().for_each(|id| self.close(id, out));
    }

    /// Closes the lines that a new contender is excluded by. A try does not wait, so it needs only the idle ones to go.
    fn make_way(&mut self, mode: Mode, wait: Wait, now: Moment, out: &mut Vec<Command>) {
        let closed: Vec<LineId> = match wait {
            Wait::Try => self.idle_lines().collect(),
            Wait::Until(_) | Wait::Forever => self.open.values().copied().collect(),
        };
        for id in closed {
            if excludes(mode, self.lines[&id].request.mode) {
                self.close(id, out);
            }
        }
        self.settle(now, out);
    }

    fn idle_lines(&self) -> impl Iterator<Item = LineId> {
        self.open.values().copied().filter(|id| self.lines[id].held.is_some() && self.lines[id].is_empty())
    }

    /// Makes a line, which has no members yet.
    fn begin(&mut self, request: SharedRequest, now: Moment, out: &mut Vec<Command>) -> LineId {
        self.make_way(request.request.mode, request.request.wait, now, out);
        let id = LineId(self.next_line);
        self.next_line += 1;
        let line = Line::new(request);
        if line.open {
            self.open.insert(line.options, id);
        }
        self.lines.insert(id, line);
        id
    }

    fn join(&mut self, ticket: Ticket, id: LineId, deadline: Option<Moment>, out: &mut Vec<Command>) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.members.insert(ticket, Member { line: id, arrival, deadline });
        self.deadlines.extend(deadline.map(|deadline| (deadline, ticket)));
        let ahead = self.ahead(id);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.waiting.insert(arrival, ticket);
        match ahead {
            Some(ahead) => out.push(reply(Reply::Queued(ticket, ahead))),
            None => drop(line.untold.insert(arrival)),
        }
        self.changed.insert(id);
    }

    /// How many contenders a request that joins now has to wait for, if that is known and it has to wait.
    fn ahead(&self, id: LineId) -> Option<usize> {
        let line = &self.lines[&id];
        let members = if line.is_shared() { 0 } else { line.waiting.len() + line.holders.len() };
        match line.held {
            Some(_) => Some(members).filter(|_| !line.is_free()),
            None => self.queue.place_of(id.ticket()).map(|place| place.ahead + members),
        }
    }

    /// The line with the node of this ticket; `None` for the ticket of a caller.
    fn line_of(&self, ticket: Ticket) -> Option<LineId> {
        ticket.0.checked_sub(LINES).map(LineId).filter(|id| self.lines.contains_key(id))
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal, out: &mut Vec<Command>) {
        out.push(reply(Reply::Refused(ticket, refusal)));
        out.push(forgotten(ticket, true));
    }
}

impl LineId {
    /// The ticket of the line's node. Tickets that callers get are counted from one, and do not come so far.
    fn ticket(self) -> Ticket {
        Ticket(LINES + self.0)
    }
}

const LINES: u64 = 1 << 63;

fn reply(reply: Reply) -> Command {
    Command::Queue(lock::Command::Reply(reply))
}

fn forgotten(ticket: Ticket, confirmed: bool) -> Command {
    reply(Reply::Forgotten { ticket, confirmed })
}
