//! Which read of a semaphore's leases may decide how many more are made.
//!
//! Whoever makes leases holds the mutex. So a list of the leases that was sent while the mutex was this client's shows
//! all leases of others, and no more can come. The list counts if
//!
//! - it was sent behind the list of the mutex's queue that shows this client's node in front, or after the event that
//!   shows it;
//! - no leases of this client were being made, and none have been made since;
//! - the server that answered knew all of this. A client does not fall behind an answer that it has had, but it may fall
//!   behind an event: then the list follows a sync, or an answer that did.
//!
//! So the list that a try has asked for before the turn does not count.

use std::collections::BTreeMap;

use lockkeeper_actors::machine::lock;
use lockkeeper_actors::machine::node::{Attempt, Znode};
use lockkeeper_actors::machine::semaphore::{Command, Event};

/// The reads of one semaphore in one session.
#[derive(Default)]
pub(super) struct Reads {
    /// The number of commands so far.
    sent: u64,
    /// The newest lists of the mutex's queue: behind creates, and alone.
    lists: BTreeMap<Option<Attempt>, u64>,
    /// The reads that were sent since the last leases were made.
    reads: BTreeMap<Attempt, Sent>,
    turn: Option<Turn>,
}

struct Sent {
    number: u64,
    sync: bool,
}

/// The time in which the mutex is this client's.
struct Turn {
    mutex: Znode,
    /// Commands after this one were sent in it.
    since: u64,
    /// Every server that may answer knows the leases of earlier turns.
    fresh: bool,
}

impl Reads {
    /// After each event: `front` is this client's node, if it is the first in the mutex's queue.
    pub fn event(&mut self, event: &Event, front: Option<&Znode>) {
        let list = match event {
            Event::Mutex(lock::Event::CreatedAndListed { attempt, .. }) => self.lists.remove(&Some(*attempt)),
            Event::Mutex(lock::Event::Listed(_)) => self.lists.remove(&None),
            _ => None,
        };
        if self.turn.as_ref().map(|turn| &turn.mutex) != front {
            let (since, fresh) = (list.unwrap_or(self.sent), list.is_some());
            self.turn = front.map(|mutex| Turn { mutex: mutex.clone(), since, fresh });
        }
    }

    /// What is sent. `taking` says whether leases are being made.
    pub fn command(&mut self, command: &Command, taking: bool) {
        self.sent += 1;
        match command {
            Command::Mutex(lock::Command::CreateAndList(attempt, _)) => {
                self.lists.insert(Some(*attempt), self.sent);
            }
            Command::Mutex(lock::Command::List { .. }) => {
                self.lists.insert(None, self.sent);
            }
            Command::ReadState { read, sync, .. } if !taking => {
                self.reads.insert(*read, Sent { number: self.sent, sync: *sync });
            }
            Command::Take { .. } => self.reads.clear(),
            _ => {}
        }
    }

    /// A read was answered without a failure. Returns whether it counts.
    pub fn answered(&mut self, read: Attempt) -> bool {
        let (Some(Sent { number, sync }), Some(turn)) = (self.reads.remove(&read), &mut self.turn) else {
            return false;
        };
        let inside = number > turn.since;
        turn.fresh |= inside && sync;
        inside && turn.fresh
    }
}
