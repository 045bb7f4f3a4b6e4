//! A process's turn: from queueing for the mutex to serving the claims.

use super::protocol::Command;
use super::{Limit, Link, Retry, Semaphore};
use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::lock::{self, Request};
use crate::machine::node::{Attempt, Znode};
use crate::machine::patterns::Patterns;
use crate::machine::{Machine, Moment, PathEvent, Refusal, Reply, Ticket, Wait};

/// The contender for the mutex, and its stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Turn {
    /// Identifies the contender in the mutex's machine. Not a ticket of a caller's request.
    pub ticket: Ticket,
    /// The claim whose options the newest node that was requested for the mutex has.
    pub made_for: Option<Ticket>,
    /// Claims that arrived before this one have been compared with the stored number of permits, if that can be read.
    pub compared: u64,
    pub stage: TurnStage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TurnStage {
    /// In the mutex's queue.
    Queued {
        /// The number of contenders ahead, once it is known.
        ahead: Option<usize>,
        /// A read that was sent right after a list of the mutex's queue. It counts if the list shows that no contender
        /// is ahead.
        read: Option<PendingRead>,
    },
    Serving(Serving),
}

/// The state of a turn while the mutex is ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Serving {
    pub mutex: Znode,
    pub czxid: i64,
    /// Claims that arrived before this one are served.
    pub before: u64,
    /// Whether every server that this session can read from knows the leases of earlier turns. Only an answer shows
    /// that. An event does not: after a reconnect, the server may not have seen the event's change yet.
    pub fresh: bool,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// A read is in flight.
    Reading { read: PendingRead, watches: Watches },
    /// The root is being created with the options of this claim.
    MakingRoot(Attempt, Ticket),
    /// Leases are being created.
    Taking(Watches),
    /// There are too few permits for the first claim. Both parts of the state are watched, by these reads.
    Full { head: Ticket, root: Attempt, leases: Attempt },
    /// Nothing is in flight: no claim is left to serve, a retry is scheduled, or the session has ended.
    Over(Watches),
}

/// A read in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PendingRead {
    pub id: Attempt,
    /// The number of claims that had arrived when it was sent.
    pub arrivals: u64,
    /// Whether a sync was sent before it.
    pub sync: bool,
    /// Set if the read only adds a watch: the first claim, and the limit with too few permits for it.
    pub full_for: Option<(Ticket, Limit)>,
}

/// The reads that set the current watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Watches {
    pub root: Option<Attempt>,
    pub leases: Option<Attempt>,
}

impl Turn {
    pub fn is_full(&self) -> bool {
        matches!(self.stage, TurnStage::Serving(Serving { step: Step::Full { .. }, .. }))
    }

    /// Forgets all reads and watches, because the session is lost.
    pub fn forget_reads(&mut self) {
        self.compared = 0;
        match &mut self.stage {
            TurnStage::Queued { ahead, read } => (*ahead, *read) = (None, None),
            TurnStage::Serving(serving) => serving.step = Step::Over(Watches::default()),
        }
    }

    /// The read in flight, if it is this one.
    pub fn awaited(&self, read: Attempt) -> Option<&PendingRead> {
        let pending = match &self.stage {
            TurnStage::Queued { read, .. } => read.as_ref(),
            TurnStage::Serving(Serving { step: Step::Reading { read, .. }, .. }) => Some(read),
            TurnStage::Serving(_) => None,
        };
        pending.filter(|pending| pending.id == read)
    }

    pub fn watches(&self) -> Watches {
        match &self.stage {
            TurnStage::Queued { .. } => Watches::default(),
            TurnStage::Serving(serving) => serving.step.watches(),
        }
    }

    /// Removes the watches.
    pub fn unwatch(&self, out: &mut Vec<Command>) {
        if self.watches() != Watches::default() {
            out.push(Command::UnwatchState);
        }
    }
}

impl Step {
    pub fn watches(&self) -> Watches {
        match *self {
            Step::Reading { watches, .. } | Step::Taking(watches) | Step::Over(watches) => watches,
            Step::MakingRoot(..) => Watches::default(),
            Step::Full { root, leases, .. } => Watches { root: Some(root), leases: Some(leases) },
        }
    }
}

impl Semaphore {
    /// Begins and ends turns, and tells waiters their place.
    pub(super) fn advance(&mut self, now: Moment, out: &mut Vec<Command>) {
        let served = |turn: &Turn| match &turn.stage {
            TurnStage::Serving(Serving { before, .. }) => {
                self.local_queue.first().is_none_or(|(arrival, _)| arrival >= *before)
            }
            TurnStage::Queued { .. } => self.local_queue.is_empty(),
        };
        if self.take.is_none() && self.turn.as_ref().is_some_and(served) {
            self.end_turn(now, out);
        }
        // There may be enough permits for the new first claim.
        if let Some(TurnStage::Serving(Serving { step: Step::Full { head, .. }, .. })) =
            self.turn.as_ref().map(|turn| &turn.stage)
        {
            if Some(*head) != self.head() {
                self.read_and_watch(out);
            }
        }
        if self.take.is_none()
            && self.turn.is_none()
            && !self.local_queue.is_empty()
            && self.link != Link::Down
            && !self.retries.rests(&Retry::NextTurn)
        {
            self.begin_turn(now, out);
        }
        self.read_for_newcomers(out);
        self.tell_waiters(out);
    }

    fn begin_turn(&mut self, now: Moment, out: &mut Vec<Command>) {
        // Failures of the turn before do not delay this one.
        self.retries.done(&Retry::Turn);
        self.turns += 1;
        let ticket = Ticket(self.turns);
        let stage = TurnStage::Queued { ahead: None, read: None };
        self.turn = Some(Turn { ticket, made_for: None, compared: 0, stage });
        let request = Request {
            mode: Mode::Lock,
            dialect: Dialect::Kazoo,
            patterns: Patterns::default(),
            ephemeral: true,
            joint: false,
            // No other contender for the mutex is created at the same time.
            bytes: 0,
            wait: Wait::Forever,
        };
        self.mutex(lock::Event::Acquire { ticket, request }, now, out);
    }

    pub(super) fn end_turn(&mut self, now: Moment, out: &mut Vec<Command>) {
        let Some(turn) = self.turn.take() else { return };
        turn.unwatch(out);
        let event = match turn.stage {
            TurnStage::Serving(_) => PathEvent::Release(turn.ticket),
            TurnStage::Queued { .. } => PathEvent::Cancel(turn.ticket),
        };
        self.mutex(event.into(), now, out);
    }

    /// Passes an event to the mutex, and relays its commands.
    pub(super) fn mutex(&mut self, event: lock::Event, now: Moment, out: &mut Vec<Command>) {
        let mut commands = Vec::new();
        let at_once = matches!(event, lock::Event::CreatedAndListed { .. } | lock::Event::Listed(..));
        self.mutex.handle(event, now, &mut commands);
        for command in commands {
            self.relay(command, at_once, out);
        }
    }

    /// Relays a command of the mutex, or handles its grant or reply. `at_once`: the command follows from a list of the
    /// mutex's queue, right after which a read was sent.
    pub(super) fn relay(&mut self, command: lock::Command, at_once: bool, out: &mut Vec<Command>) {
        match command {
            // Created with the options of the first claim. The read after it counts if the mutex is granted at once.
            lock::Command::CreateAndList(attempt, ticket) => {
                let ticket = self.make_for_head().unwrap_or(ticket);
                out.push(lock::Command::CreateAndList(attempt, ticket).into());
                self.read_ahead(false, out);
            }
            lock::Command::Create(attempt, ticket) => {
                let ticket = self.make_for_head().unwrap_or(ticket);
                out.push(lock::Command::Create(attempt, ticket).into())
            }
            lock::Command::MakeDirectory(attempt, ticket) => {
                let ticket = self.make_for_head().unwrap_or(ticket);
                out.push(lock::Command::MakeDirectory(attempt, ticket).into())
            }
            // The list may show that no contender is ahead any more. With only events, a sync is needed.
            lock::Command::List { sync: false } => {
                out.push(command.into());
                self.read_ahead(true, out);
            }
            lock::Command::List { sync: true }
            | lock::Command::ReadStat(..)
            | lock::Command::Watch(_)
            | lock::Command::Unwatch(_)
            | lock::Command::Delete(..)
            | lock::Command::Track(_) => out.push(command.into()),
            lock::Command::Grant { ticket, node, czxid } => {
                if self.is_current(ticket) {
                    self.begin_serving(node, czxid, at_once, out);
                }
            }
            lock::Command::Reply(reply) => self.mutex_replied(reply, out),
        }
    }

    /// Handles a reply of the mutex. Replies for earlier turns are ignored.
    fn mutex_replied(&mut self, reply: Reply, out: &mut Vec<Command>) {
        match reply {
            Reply::Queued(ticket, now_ahead) if self.is_current(ticket) => {
                if let Some(TurnStage::Queued { ahead, .. }) = self.turn.as_mut().map(|turn| &mut turn.stage)
                {
                    // Its node was deleted, and the new one is at the tail.
                    if ahead.replace(now_ahead).is_some() {
                        self.tell_waiters_again();
                    }
                }
            }
            Reply::Refused(ticket, refusal) if self.is_current(ticket) => {
                let made_for = self.turn.take().and_then(|turn| turn.made_for);
                match (refusal, made_for) {
                    // Other claims' options may be accepted.
                    (refusal @ Refusal::Rejected(_), Some(ticket)) => self.give_up(ticket, refusal, out),
                    (refusal, _) => self.refuse_all(u64::MAX, refusal, out),
                }
            }
            Reply::Lost(ticket) if self.is_current(ticket) => {
                if let Some(turn) = self.turn.take() {
                    turn.unwatch(out);
                }
                self.tell_waiters_again();
            }
            Reply::Queued(..) | Reply::Refused(..) | Reply::Lost(_) | Reply::Forgotten { .. } => {}
            // Claims get these events themselves.
            Reply::Suspended(_) | Reply::Resumed(_) => {}
        }
    }

    /// The claim whose options the mutex's node, or its directory, is created with: the first one.
    fn make_for_head(&mut self) -> Option<Ticket> {
        let head = self.head();
        if let Some(turn) = &mut self.turn {
            turn.made_for = head;
        }
        head
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.ticket == ticket)
    }

    /// Begins serving, because the mutex is ours. A read in flight counts if it was sent right after the list that has
    /// just shown this.
    fn begin_serving(&mut self, mutex: Znode, czxid: i64, at_once: bool, out: &mut Vec<Command>) {
        let before = self.arrivals;
        let Some(turn) = &mut self.turn else { return };
        let read = match &mut turn.stage {
            TurnStage::Queued { read, .. } => read.take().filter(|_| at_once),
            TurnStage::Serving(_) => None,
        };
        let fresh = read.as_ref().is_some_and(|read| !read.sync);
        let watches = Watches::default();
        let (again, step) = match read {
            Some(read) => (false, Step::Reading { read, watches }),
            None => (true, Step::Over(watches)),
        };
        turn.stage = TurnStage::Serving(Serving { mutex, czxid, before, fresh, step });
        if again {
            self.read_and_watch(out);
        }
    }

    /// Whether claims wait whose number must still be compared with the stored one.
    pub(super) fn has_uncompared(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.compared < self.uncompared)
    }

    /// Refuses all claims of this turn.
    pub(super) fn fail(&mut self, refusal: Refusal, out: &mut Vec<Command>) {
        let before = self.serving().map_or(0, |serving| serving.before);
        self.refuse_all(before, refusal, out);
    }

    pub(super) fn serving(&mut self) -> Option<&mut Serving> {
        match &mut self.turn.as_mut()?.stage {
            TurnStage::Queued { .. } => None,
            TurnStage::Serving(serving) => Some(serving),
        }
    }

    pub(super) fn next_attempt(&mut self) -> Attempt {
        let attempt = self.next;
        self.next = Attempt(attempt.0 + 1);
        attempt
    }
}
