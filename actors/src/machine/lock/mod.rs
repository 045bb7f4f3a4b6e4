//! The queue of one lock path, as one process sees it: all its local contenders, and who is ahead of them.
//!
//! A contender is an ephemeral sequential child; the lowest blocking number holds. Sequence numbers count
//! creates, so once a contender has listed, the set ahead of it only shrinks, and names are crossed off. A waiter
//! watches only its nearest predecessor. When that goes, earlier ones may already have gone unseen, so with several
//! left we list once.
//!
//! At most one list is in flight. It is sent behind a create, and places every local contender that it shows: whatever it
//! shows below a contender's number is all that was ahead of that contender. Contenders that are created meanwhile share
//! the next list. Creates in flight are limited, so that heartbeats are not delayed by thousands of them. So the cost of
//! a contender does not depend on how many there are.
//!
//! A local contender that leaves is crossed off at once, before the server has confirmed the delete. Until then the
//! nodes of this process are the front of the queue, so no other process can be first, whichever of them the server
//! still shows. Hand-off within a process therefore needs no round trip, and the order stays that of the cluster.
//!
//! # How a request ends
//!
//! | stage | refused: cancel, deadline, error (`give_up`) | its node is missing (`missing`) | the session is lost (`lost`) |
//! |---|---|---|---|
//! | `Idle`, `Resting`, `Peeking`, `MakingDirectory` | refused and forgotten | | new attempt |
//! | `Creating`, `FindingCreated` | refused; the answer shows what to delete | | new attempt |
//! | `ReadingStat`, `Listing`, `Waiting` | refused; the node is deleted | new attempt; the node is deleted | new attempt |
//! | `Held` | | lost; the node is deleted | lost and forgotten |
//! | `Deleting`, or refused before | | | forgotten |
//! | `Unverified`, waiting | refused; the node is deleted | new attempt; the node is deleted | |
//! | `Unverified`, held | | lost; the node is deleted | |
//!
//! `release` deletes the node of a holder. `close` refuses all waiters and takes the lock from all holders. A node that
//! outlives sessions (`ephemeral: false`) is `Unverified` after a loss, until a new session has seen it. A missing node
//! is deleted as well: should the report be an error, no node is left behind.
//!
//! The recipe is ZooKeeper's ("Recipes and Solutions", Locks) with kazoo's names; what differs is argued above.

// Kinds are keys of maps. Their patterns are compared by their texts, which do not change.
#![allow(clippy::mutable_key_type)]

mod answers;
mod contender;
mod indexes;
mod lists;
pub mod protocol;
mod queue;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use self::contender::{LocalContender, Need, Stage};
use self::lists::{List, Placed};
pub use self::protocol::{Command, Created, Event, NodeStat, Request};
use self::queue::Queue;
use super::exclusion::Mode;
use super::node::{Attempt, Instance, Znode};
use super::retries::Retries;
use super::small_map::{SmallMap, SmallSet};
use super::{Machine, Moment, PathEvent, PathMachine, Refusal, Reply, Ticket, Wait};

/// The machine of one lock path: see the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lock {
    instance: Instance,
    link: Link,
    closed: bool,
    /// The next attempt. Attempts are numbered in order.
    next: Attempt,
    /// The first attempt of this session. Own nodes of earlier sessions count as foreign.
    epoch_start: Attempt,
    /// Boxed, because a tree makes room for eleven at once.
    contenders: SmallMap<Attempt, Box<LocalContender>>,
    tickets: SmallMap<Ticket, Attempt>,
    queue: Queue,
    /// The contenders that need something from a request that they share with others.
    needs: SmallSet<(Need, Attempt)>,
    /// The size of the creates in flight, in bytes, and its limit.
    in_flight: usize,
    room: usize,
    /// The directory existed at the last answer.
    has_directory: bool,
    /// The list in flight.
    list: Option<List>,
    /// The attempt with whose options the directory is being created.
    making: Option<Attempt>,
    /// The last node that was crossed off. Earlier ones may have been deleted without our notice.
    crossed_off: Option<Znode>,
    watched: SmallSet<Znode>,
    deadlines: BTreeSet<(Moment, Ticket)>,
    retries: Retries<Retry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Down,
    Suspended { session: i64 },
    Up { session: i64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Retry {
    /// The request of this attempt's stage.
    Step(Attempt),
    Watch(Znode),
    List,
    Directory,
}

/// The place of a contender in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of contenders ahead that block it.
    pub ahead: usize,
    /// Whether some of them belong to other processes.
    pub foreign: bool,
}

/// The owner of a listed name.
enum Owner {
    /// A local contender that still wants the lock.
    Local(Attempt),
    /// A local contender that has left. The server may still show its node, which is ignored. `None` if nothing is left
    /// of the contender.
    Left(Option<Attempt>),
    Foreign,
}

/// The pause before the next attempt, after the server has refused to set a watch.
const WATCH_RETRY: Duration = Duration::from_secs(1);

/// The limit of the creates in flight, in bytes. It does not apply to a single create.
const ROOM: usize = 64 * 1024;

/// The limit while the directory may be missing: then all of them fail.
const ROOM_WITHOUT_DIRECTORY: usize = 2 * 1024;

impl Lock {
    /// A lock without a session, for nodes of this instance.
    pub fn new(instance: Instance) -> Lock {
        Lock::with_room(instance, ROOM)
    }

    /// A lock that limits the creates in flight to this number of bytes.
    pub fn with_room(instance: Instance, room: usize) -> Lock {
        Lock {
            instance,
            link: Link::Down,
            closed: false,
            next: Attempt(0),
            epoch_start: Attempt(0),
            contenders: SmallMap::default(),
            tickets: SmallMap::default(),
            queue: Queue::default(),
            needs: SmallSet::default(),
            in_flight: 0,
            room,
            has_directory: false,
            list: None,
            making: None,
            crossed_off: None,
            watched: SmallSet::default(),
            deadlines: BTreeSet::new(),
            retries: Retries::new(instance),
        }
    }

    /// The node of a request that waits or holds, once its name is known.
    pub fn node(&self, ticket: Ticket) -> Option<&Znode> {
        let contender = self.contenders.get(self.tickets.get(&ticket)?)?;
        contender.node.as_ref().filter(|_| contender.wanted)
    }

    /// The place of a request that waits, once it is known.
    pub fn place_of(&self, ticket: Ticket) -> Option<Place> {
        let contender = self.contenders.get(self.tickets.get(&ticket)?)?;
        let node = contender.node.as_ref().filter(|_| matches!(contender.stage, Stage::Waiting { .. }))?;
        let kind = contender.kind();
        let ahead = self.queue.count(&kind, node, None).ahead();
        Some(Place { ahead, foreign: self.queue.is_behind_foreign(&kind, node) })
    }

    /// Whether there are other local contenders, in a mode that makes it and them `exclude` each other.
    pub fn has_rivals(&self, ticket: Ticket, exclude: fn(Mode, Mode) -> bool) -> bool {
        let contender = self.tickets.get(&ticket).and_then(|attempt| self.contenders.get(attempt));
        let Some(mode) = contender.map(|contender| contender.request.mode) else { return false };
        let excluded = self.queue.wanted().filter(|(other, _)| exclude(mode, *other));
        // The contender itself is one of them, unless it is a reader.
        excluded.map(|(_, wanted)| wanted).sum::<usize>() > usize::from(exclude(mode, mode))
    }
}

impl Machine for Lock {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        // First, so that nothing is sent for a request that has timed out.
        self.run_deadlines(now, out);
        let mut placed = Placed::default();
        match event {
            Event::Acquire { ticket, request } => self.acquire(ticket, request, now, out),
            Event::Path(event) => self.path_event(event, out),
            Event::Listed(children) => placed = self.listed(children, now, out),
            Event::Created(attempt, created) => self.created(attempt, created, now, out),
            Event::CreatedAndListed { attempt, created, children } => {
                placed = self.created_and_listed(attempt, created, children, now, out)
            }
            Event::DirectoryMade(attempt, result) => self.directory_made(attempt, result, now, out),
            Event::StatRead(attempt, result) => self.stat_read(attempt, result, now, out),
            Event::Watched(node, result) => self.watch_answered(node, result, now, out),
            Event::Fired { node, gone } => self.fired(node, gone, out),
            Event::Deleted(attempt, result) => self.deleted(attempt, result, now, out),
        }
        // Afterwards, so that nothing is sent again for a request that has ended.
        self.run_retries(now, out);
        self.advance(&placed, out);
    }

    fn wakeup(&self) -> Option<Moment> {
        self.deadlines.first().map(|(moment, _)| *moment).into_iter().chain(self.retries.wakeup()).min()
    }
}

impl PathMachine for Lock {
    fn is_idle(&self) -> bool {
        self.contenders.is_empty()
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }
}

impl Lock {
    fn path_event(&mut self, event: PathEvent, out: &mut Vec<Command>) {
        match event {
            PathEvent::Cancel(ticket) => self.cancel(ticket, out),
            PathEvent::Release(ticket) => self.release(ticket, out),
            PathEvent::Close => self.close(out),
            PathEvent::Connected { session } => self.connected(session, out),
            PathEvent::Suspended => self.suspended(out),
            PathEvent::Resumed => self.resumed(out),
            PathEvent::Lost => self.lost(out),
            PathEvent::Missing(names) => {
                // Handles all of them before any grant, because the next in the queue may be among them.
                let instance = self.instance;
                for attempt in names.iter().filter_map(|name| instance.attempt(name)) {
                    self.missing(attempt, out);
                }
            }
            PathEvent::Wake => {}
        }
    }

    fn acquire(&mut self, ticket: Ticket, request: Request, now: Moment, out: &mut Vec<Command>) {
        let refusal = match (request.wait, self.link) {
            _ if self.closed => Some(Refusal::Closed),
            (Wait::Try, Link::Down | Link::Suspended { .. }) => Some(Refusal::Suspended),
            (Wait::Try, Link::Up { .. }) => {
                self.queue.blocks_locally(&request.kind()).then_some(Refusal::Contended)
            }
            (Wait::Until(deadline), _) if deadline <= now => Some(Refusal::TimedOut),
            (Wait::Until(_) | Wait::Forever, _) => None,
        };
        if let Some(refusal) = refusal {
            out.push(Command::Reply(Reply::Refused(ticket, refusal)));
            out.push(Command::Reply(Reply::Forgotten { ticket, confirmed: true }));
            return;
        }
        if let Wait::Until(deadline) = request.wait {
            self.deadlines.insert((deadline, ticket));
        }
        let attempt = self.insert(LocalContender::new(ticket, request));
        self.start(attempt, out);
    }

    fn cancel(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let Some(&attempt) = self.tickets.get(&ticket) else { return };
        self.give_up(attempt, Refusal::Cancelled, out);
    }

    fn release(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        match self.tickets.get(&ticket) {
            Some(&attempt) if self.is_held(attempt) => self.leave(attempt, out),
            Some(_) => {}
            // Already lost: no node is left to delete.
            None => out.push(Command::Reply(Reply::Forgotten { ticket, confirmed: false })),
        }
    }

    fn close(&mut self, out: &mut Vec<Command>) {
        self.closed = true;
        for attempt in self.attempts() {
            if self.link == Link::Down {
                // Nothing can be sent without a session. Ephemeral nodes were deleted with the last one.
                let ticket = self.contenders[&attempt].ticket;
                match self.is_held(attempt) {
                    true => out.push(Command::Reply(Reply::Lost(ticket))),
                    false if self.contenders[&attempt].wanted => {
                        out.push(Command::Reply(Reply::Refused(ticket, Refusal::Closed)))
                    }
                    false => {}
                }
                self.remove(attempt, false, out);
            } else if self.is_held(attempt) {
                out.push(Command::Reply(Reply::Lost(self.contenders[&attempt].ticket)));
                self.leave(attempt, out);
            } else if self.contenders[&attempt].wanted {
                self.give_up(attempt, Refusal::Closed, out);
            }
        }
    }

    fn connected(&mut self, session: i64, out: &mut Vec<Command>) {
        self.link = Link::Up { session };
        for attempt in self.attempts() {
            match self.contenders[&attempt].stage {
                Stage::Deleting | Stage::Unverified { .. } => self.send(attempt, out),
                // Sent as far as there is room.
                Stage::Idle => {}
                // Found by a list.
                Stage::FindingCreated => {}
                Stage::Resting
                | Stage::Peeking
                | Stage::Creating
                | Stage::MakingDirectory
                | Stage::ReadingStat
                | Stage::Listing { .. }
                | Stage::Waiting { .. }
                | Stage::Held { .. } => {}
            }
        }
    }

    fn suspended(&mut self, out: &mut Vec<Command>) {
        if let Link::Up { session } = self.link {
            self.link = Link::Suspended { session };
            self.tell_holders(Reply::Suspended, out);
            for attempt in self.attempts() {
                if self.contenders[&attempt].request.wait == Wait::Try {
                    self.give_up(attempt, Refusal::Suspended, out);
                }
            }
        }
    }

    fn resumed(&mut self, out: &mut Vec<Command>) {
        if let Link::Suspended { session } = self.link {
            self.link = Link::Up { session };
            self.tell_holders(Reply::Resumed, out);
        }
    }

    fn lost(&mut self, out: &mut Vec<Command>) {
        let was_up = self.is_up();
        self.link = Link::Down;
        self.epoch_start = self.next;
        self.watched.clear();
        self.retries.clear();
        (self.list, self.making, self.crossed_off) = (None, None, None);
        // For a persistent contender, this process's ephemeral nodes are foreign until the server deletes them.
        match self.contenders.values().any(|contender| !contender.request.ephemeral) {
            true => {
                let ephemeral = self.contenders.values().filter(|contender| contender.request.ephemeral);
                ephemeral
                    .filter_map(|contender| contender.node.clone())
                    .for_each(|node| self.queue.add_foreign(node));
            }
            false => self.queue.clear_foreign(),
        }
        for attempt in self.attempts() {
            let contender = &self.contenders[&attempt];
            let (ticket, ephemeral) = (contender.ticket, contender.request.ephemeral);
            match contender.stage {
                Stage::Held { .. } if ephemeral => {
                    out.push(Command::Reply(Reply::Lost(ticket)));
                    self.remove(attempt, false, out);
                }
                // Behind those that came before: all get new numbers.
                Stage::Idle | Stage::Resting => self.requeue(attempt, out),
                _ if ephemeral && !contender.wanted => self.remove(attempt, false, out),
                Stage::Peeking | Stage::MakingDirectory => self.requeue(attempt, out),
                Stage::Creating | Stage::FindingCreated | Stage::ReadingStat | Stage::Listing { .. } => {
                    if ephemeral {
                        self.requeue(attempt, out)
                    } else {
                        self.set(attempt, Stage::FindingCreated)
                    }
                }
                Stage::Waiting { czxid } => {
                    if ephemeral {
                        self.requeue(attempt, out)
                    } else {
                        self.set(attempt, Stage::Unverified { czxid, held: false })
                    }
                }
                Stage::Held { czxid } => {
                    if was_up {
                        out.push(Command::Reply(Reply::Suspended(ticket)));
                    }
                    self.set(attempt, Stage::Unverified { czxid, held: true });
                }
                Stage::Unverified { .. } | Stage::Deleting => {}
            }
        }
        if self.closed {
            self.close(out);
        }
    }

    fn owner(&self, node: &Znode) -> Owner {
        let Some(attempt) = self.instance.attempt(node.name()) else { return Owner::Foreign };
        match self.contenders.get(&attempt) {
            Some(contender) if contender.wanted => Owner::Local(attempt),
            Some(_) => Owner::Left(Some(attempt)),
            None if attempt >= self.epoch_start => Owner::Left(None),
            None => Owner::Foreign,
        }
    }

    fn attempts(&self) -> Vec<Attempt> {
        self.contenders.keys().copied().collect()
    }

    fn stage(&self, attempt: Attempt) -> Option<Stage> {
        self.contenders.get(&attempt).map(|contender| contender.stage)
    }

    fn is_held(&self, attempt: Attempt) -> bool {
        matches!(self.stage(attempt), Some(Stage::Held { .. } | Stage::Unverified { held: true, .. }))
    }
}
