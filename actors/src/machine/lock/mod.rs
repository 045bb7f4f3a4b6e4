//! The queue of one lock path, as one process sees it: all its local contenders, and who is ahead of them.
//!
//! A contender is an ephemeral sequential child; the lowest blocking number holds. Sequence numbers count
//! creates, so for a contender that has listed once, the set ahead only shrinks, and names are crossed off. Who waits
//! sees only its predecessor go. When everybody takes his turn, those before it went earlier, unseen: one list tells,
//! where several were left.
//!
//! A local contender that leaves is crossed off at once, before the server has confirmed it: this process' nodes are
//! then the front of the queue, and whichever of them the server still shows, nobody else can be first. That makes
//! hand-off within a process free of round trips while the order stays the cluster's.
//!
//! The recipe is ZooKeeper's ("Recipes and Solutions", Locks) with kazoo's names; what differs is argued above.

mod answers;
mod contender;
pub mod protocol;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::contender::{Contender, Stage};
use self::protocol::{Command, Event, Refusal, Request, Ticket, Wait};
use super::node::{Attempt, Instance, Znode};
use super::retries::Retries;
use super::{Machine, Moment};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    instance: Instance,
    link: Link,
    closed: bool,
    /// Attempts count up in the order in which they are made.
    next: Attempt,
    /// The first attempt of this session; own nodes of earlier ones are as foreign as anybody's.
    epoch_start: Attempt,
    contenders: BTreeMap<Attempt, Contender>,
    tickets: BTreeMap<Ticket, Attempt>,
    /// The nodes of wanted contenders, in the order of the queue.
    placed: BTreeMap<Znode, Attempt>,
    /// Names of others that a list showed and nothing has crossed off since.
    foreign: BTreeSet<Znode>,
    /// The last name that was crossed off. Names before it may have gone as well, unseen.
    gone: Option<Znode>,
    /// The list that will tell, and the own node up to which it does.
    review: Option<(Attempt, Znode)>,
    watched: BTreeSet<Znode>,
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
    /// What the stage of this attempt asks for.
    Step(Attempt),
    Watch(Znode),
}

/// Where a listed name stands.
enum Standing {
    /// A local contender that is wanted.
    Local(Attempt),
    /// A local one that has left: whether the server still shows it does not matter.
    Left,
    Foreign,
}

/// How often a node that cannot be watched is looked at instead.
const LOOK: Duration = Duration::from_secs(1);

impl Queue {
    /// A queue without a session, for nodes of this instance.
    pub fn new(instance: Instance) -> Queue {
        Queue {
            instance,
            link: Link::Down,
            closed: false,
            next: Attempt(0),
            epoch_start: Attempt(0),
            contenders: BTreeMap::new(),
            tickets: BTreeMap::new(),
            placed: BTreeMap::new(),
            foreign: BTreeSet::new(),
            gone: None,
            review: None,
            watched: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            retries: Retries::new(instance),
        }
    }
}

impl Machine for Queue {
    fn wakeup(&self) -> Option<Moment> {
        self.deadlines.first().map(|(moment, _)| *moment).into_iter().chain(self.retries.wakeup()).min()
    }

    fn is_idle(&self) -> bool {
        self.contenders.is_empty()
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        self.ring(now, out);
        match event {
            Event::Acquire { ticket, request } => self.acquire(ticket, request, now, out),
            Event::Cancel(ticket) => self.cancel(ticket, out),
            Event::Release(ticket) => self.release(ticket, out),
            Event::Close => self.close(out),
            Event::Connected { session } => self.connected(session, out),
            Event::Suspended => self.suspended(out),
            Event::Resumed => self.resumed(out),
            Event::Lost => self.lost(out),
            Event::Listed(attempt, result) => self.listed(attempt, result, now, out),
            Event::Entered { attempt, created, children } => {
                self.entered(attempt, created, children, now, out)
            }
            Event::DirectoryMade(attempt, result) => self.directory_made(attempt, result, now, out),
            Event::Looked(attempt, result) => self.looked(attempt, result, now, out),
            Event::Inspected(attempt, result) => self.inspected(attempt, result, now, out),
            Event::Watched(node, result) => self.watch_answered(node, result, now, out),
            Event::Fired { node, gone } => self.fired(node, gone, out),
            Event::Deleted(attempt, result) => self.deleted(attempt, result, now, out),
            // All of them before anybody is granted: the next in line may be among them.
            Event::Missing(names) => {
                let instance = self.instance;
                for attempt in names.iter().filter_map(|name| instance.attempt(name)) {
                    self.missing(attempt, out);
                }
            }
            Event::Wake => {}
            Event::AcquirePermits { ticket, .. } => {
                out.push(Command::Refuse(ticket, Refusal::Rejected("this is a lock".into())));
                out.push(Command::Forget { ticket, confirmed: true });
            }
            // Answers to what only a semaphore asks.
            Event::Surveyed { .. }
            | Event::Disturbed { .. }
            | Event::RootMade(..)
            | Event::Taken(..)
            | Event::LeasesFound(..)
            | Event::Returned(..) => {}
        }
        self.advance(out);
    }
}

impl Queue {
    fn acquire(&mut self, ticket: Ticket, request: Request, now: Moment, out: &mut Vec<Command>) {
        let refusal = match (request.wait, self.link) {
            _ if self.closed => Some(Refusal::Closed),
            (Wait::Try, Link::Down | Link::Suspended { .. }) => Some(Refusal::Suspended),
            (Wait::Try, Link::Up { .. }) => {
                let contender = Contender::new(ticket, request.clone());
                self.placed.keys().any(|node| contender.waits_for(node)).then_some(Refusal::Contended)
            }
            (Wait::Until(deadline), _) if deadline <= now => Some(Refusal::TimedOut),
            (Wait::Until(_) | Wait::Forever, _) => None,
        };
        if let Some(refusal) = refusal {
            out.push(Command::Refuse(ticket, refusal));
            out.push(Command::Forget { ticket, confirmed: true });
            return;
        }
        if let Wait::Until(deadline) = request.wait {
            self.deadlines.insert((deadline, ticket));
        }
        let attempt = self.insert(Contender::new(ticket, request));
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
            // Lost before: there is nothing left to delete.
            None => out.push(Command::Forget { ticket, confirmed: false }),
        }
    }

    fn close(&mut self, out: &mut Vec<Command>) {
        self.closed = true;
        for attempt in self.attempts() {
            if self.link == Link::Down {
                // No request can be sent any more, and none will be: ephemeral nodes are gone with the session.
                let ticket = self.contenders[&attempt].ticket;
                match self.is_held(attempt) {
                    true => out.push(Command::Lose(ticket)),
                    false if self.contenders[&attempt].wanted => {
                        out.push(Command::Refuse(ticket, Refusal::Closed))
                    }
                    false => {}
                }
                self.remove(attempt, false, out);
            } else if self.is_held(attempt) {
                out.push(Command::Lose(self.contenders[&attempt].ticket));
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
                Stage::Idle => self.start(attempt, out),
                Stage::Looking | Stage::Leaving | Stage::Unverified { .. } => self.send(attempt, out),
                Stage::Peeking
                | Stage::Entering
                | Stage::MakingDirectory
                | Stage::Inspecting
                | Stage::Listing { .. }
                | Stage::Waiting { .. }
                | Stage::Held { .. } => {}
            }
        }
    }

    fn suspended(&mut self, out: &mut Vec<Command>) {
        if let Link::Up { session } = self.link {
            self.link = Link::Suspended { session };
            self.tell_holders(Command::Suspend, out);
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
            self.tell_holders(Command::Resume, out);
        }
    }

    fn lost(&mut self, out: &mut Vec<Command>) {
        self.link = Link::Down;
        self.epoch_start = self.next;
        self.watched.clear();
        self.retries.clear();
        (self.gone, self.review) = (None, None);
        // For a node that outlives the session, this process' others become strangers until the server drops them.
        let outliving = self.contenders.values().any(|contender| !contender.request.ephemeral);
        self.foreign.retain(|_| outliving);
        if outliving {
            let dying = self.contenders.values().filter(|contender| contender.request.ephemeral);
            self.foreign.extend(dying.filter_map(|contender| contender.node.clone()));
        }
        for attempt in self.attempts() {
            let contender = &self.contenders[&attempt];
            let (ticket, ephemeral) = (contender.ticket, contender.request.ephemeral);
            match contender.stage {
                Stage::Held { .. } if ephemeral => {
                    out.push(Command::Lose(ticket));
                    self.remove(attempt, false, out);
                }
                Stage::Idle => {}
                _ if ephemeral && !contender.wanted => self.remove(attempt, false, out),
                Stage::Peeking | Stage::MakingDirectory => self.requeue(attempt, out),
                Stage::Entering | Stage::Looking | Stage::Inspecting | Stage::Listing { .. } => {
                    if ephemeral {
                        self.requeue(attempt, out)
                    } else {
                        self.set(attempt, Stage::Looking)
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
                    out.push(Command::Suspend(ticket));
                    self.set(attempt, Stage::Unverified { czxid, held: true });
                }
                Stage::Unverified { .. } | Stage::Leaving => {}
            }
        }
        if self.closed {
            self.close(out);
        }
    }

    // ---- looking things up ----

    fn standing(&self, node: &Znode) -> Standing {
        let Some(attempt) = self.instance.attempt(node.name()) else { return Standing::Foreign };
        match self.contenders.get(&attempt) {
            Some(contender) if contender.wanted => Standing::Local(attempt),
            Some(_) => Standing::Left,
            None if attempt >= self.epoch_start => Standing::Left,
            None => Standing::Foreign,
        }
    }

    fn attempts(&self) -> Vec<Attempt> {
        self.contenders.keys().copied().collect()
    }

    fn stage(&self, attempt: Attempt) -> Option<Stage> {
        self.contenders.get(&attempt).map(|contender| contender.stage)
    }

    fn set(&mut self, attempt: Attempt, stage: Stage) {
        if let Some(contender) = self.contenders.get_mut(&attempt) {
            contender.stage = stage;
        }
    }

    fn is_held(&self, attempt: Attempt) -> bool {
        matches!(self.stage(attempt), Some(Stage::Held { .. } | Stage::Unverified { held: true, .. }))
    }
}
