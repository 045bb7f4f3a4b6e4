//! Reading a semaphore's state: the root and the leases, for a try and for a turn.

use super::protocol::{Command, Leases, Part, Reading, Root};
use super::turn::{PendingRead, Step, Turn, TurnStage, Watches};
use super::{Limit, Retry, Semaphore, Stage, TRY_LIMIT};
use crate::machine::node::Attempt;
use crate::machine::{Denied, Failure, Moment, PathMachine, Refusal, Ticket};

impl Semaphore {
    /// Reads the state for the tries, each of which is queued only if there are enough permits. One read at a time,
    /// because the list of the leases may be long.
    pub(super) fn peek(&mut self, out: &mut Vec<Command>) {
        if self.peek.is_some() || self.to_peek.is_empty() {
            return;
        }
        let (id, arrivals, root) = (self.next_attempt(), self.arrivals, self.unknown_root());
        out.push(Command::ReadState { read: id, sync: false, root, leases: Reading::Once });
        let read = PendingRead { id, arrivals, sync: false, full_for: None };
        self.peek = Some((read, std::mem::take(&mut self.to_peek)));
    }

    /// The answer to the read that tries await, or to the one that the turn awaits.
    pub(super) fn state_read(
        &mut self,
        read: Attempt,
        root: Option<Result<Root, Failure>>,
        leases: Option<Result<Leases, Failure>>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let peek = self.peek.take_if(|(peek, _)| peek.id == read);
        let awaited = self.turn.as_ref().and_then(|turn| turn.awaited(read));
        let Some(PendingRead { arrivals, .. }) = peek.as_ref().map(|(peek, _)| peek).or(awaited).cloned()
        else {
            return;
        };
        let root_watch = self.turn.as_ref().and_then(|turn| turn.watches().root);
        let is_set = |watch| watch != read || matches!(root, Some(Ok(_)));
        let is_watched = peek.is_none() && root_watch.is_some_and(is_set);
        let leases_only = root.is_none();
        let answered = matches!(root, Some(Ok(_))) || matches!(leases, Some(Ok(_)));
        let found = self.learn(root, leases);
        if answered {
            // A number that is watched is current for later claims too.
            self.agree(if is_watched { u64::MAX } else { arrivals });
        }
        match (peek, self.turn.as_mut().map(|turn| &mut turn.stage)) {
            (Some((_, mut tries)), _) => {
                match leases_only && found.is_ok() && self.limit == Limit::Unknown {
                    true => self.to_peek.append(&mut tries),
                    false => tries.into_iter().for_each(|ticket| self.peeked(ticket, &found, now, out)),
                }
                self.peek(out);
            }
            (None, Some(TurnStage::Queued { read, .. })) => {
                *read = None;
                self.read_while_queued(arrivals, found, now, out);
            }
            (None, Some(TurnStage::Serving(_))) => self.read_while_serving(found, now, out),
            (None, None) => {}
        }
    }

    /// Remembers the limit, as far as the answer shows it. Returns the number of leases, if they were read.
    fn learn(
        &mut self,
        root: Option<Result<Root, Failure>>,
        leases: Option<Result<Leases, Failure>>,
    ) -> Result<Option<usize>, Failure> {
        let root = root.map(|root| root.map(|root| self.limit = stored(&root)));
        if let (Limit::Stored { written, .. }, Some(Ok(leases))) = (self.limit, &leases) {
            if written != leases.written {
                self.limit = Limit::Unknown;
            }
        }
        match (root, leases) {
            (Some(Err(failure)), _) | (_, Some(Err(failure))) => Err(failure),
            (Some(Ok(())) | None, Some(Ok(leases))) => Ok(Some(leases.names.len())),
            (Some(Ok(())) | None, None) => Ok(None),
        }
    }

    /// The mutex was not ours, so the list of leases may be out of date. Only the limit counts.
    fn read_while_queued(
        &mut self,
        arrivals: u64,
        found: Result<Option<usize>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        match found {
            Ok(_) if self.limit != Limit::Unknown => self.retries.done(&Retry::Turn),
            Ok(_) | Err(Failure::Unknown(_)) => {
                if self.has_uncompared() && self.retries.again(&Retry::Turn, now) {
                    self.read_ahead(true, out);
                }
                return;
            }
            Err(Failure::SessionGone) => return,
            // There is nothing to compare with.
            Err(Failure::NoNode | Failure::NoAuth | Failure::Refused(_)) => {}
        }
        if let Some(turn) = &mut self.turn {
            turn.compared = arrivals;
        }
    }

    /// Reads the number of permits for claims that have arrived since it was read last. One read at a time.
    pub(super) fn read_for_newcomers(&mut self, out: &mut Vec<Command>) {
        let stage = self.turn.as_ref().map(|turn| &turn.stage);
        let is_queued = matches!(stage, Some(TurnStage::Queued { ahead: Some(_), read: None }));
        if is_queued && self.has_uncompared() && self.is_up() && !self.retries.rests(&Retry::Turn) {
            self.read_ahead(true, out);
        }
    }

    fn read_while_serving(
        &mut self,
        found: Result<Option<usize>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(serving) = self.serving() else { return };
        let Step::Reading { read, mut watches } = serving.step.clone() else { return };
        match found {
            Ok(_) => serving.fresh |= read.sync,
            // One of the two reads may have set its watch.
            Err(_) if watches != Watches::default() => {
                out.push(Command::UnwatchState);
                watches = Watches::default();
            }
            Err(_) => {}
        }
        serving.step = Step::Over(watches);
        let full_for = self.head().map(|head| (head, self.limit));
        match found {
            Ok(Some(leases)) => self.serve(leases, read.arrivals, now, out),
            // The root was read only to watch it, and neither the first claim nor the limit has changed since.
            Ok(None) if read.full_for.is_some() && read.full_for == full_for => self.wait_for_permits(out),
            Ok(None) => self.read_and_watch(out),
            Err(Failure::Unknown(_)) => self.read_again(now, out),
            Err(Failure::NoNode) => self.make_root(out),
            // `Lost` follows.
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(Refusal::NoAuth(Denied::Root), out),
            Err(Failure::Refused(reason)) => self.fail(Refusal::Rejected(reason), out),
        }
    }

    fn peeked(
        &mut self,
        ticket: Ticket,
        found: &Result<Option<usize>, Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(claim) = self.claims.get(&ticket) else { return };
        let free = |used: Option<usize>| match self.permits((&claim.request).into()) {
            // Free permits are kept for the waiters.
            Ok(_) if self.turn.as_ref().is_some_and(Turn::is_full) => Err(Refusal::Contended),
            Ok(limit) if used.unwrap_or(0) as u64 + u64::from(claim.request.count) <= limit => Ok(()),
            Ok(_) => Err(Refusal::Contended),
            Err(refusal) => Err(refusal),
        };
        let result = match found {
            // The limit was changed between the reads of root and leases. The turn reads them again.
            Ok(_) if self.limit == Limit::Unknown => Ok(()),
            Ok(used) => free(*used),
            // The root is created during the turn.
            Err(Failure::NoNode) => Ok(()),
            Err(Failure::NoAuth) => Err(Refusal::NoAuth(Denied::Root)),
            Err(Failure::Refused(reason)) => Err(Refusal::Rejected(reason.clone())),
            Err(Failure::Unknown(_) | Failure::SessionGone) => Err(Refusal::Suspended),
        };
        match result {
            Ok(()) => {
                self.set(ticket, Stage::Waiting);
                self.wait(ticket);
                self.set_timer(ticket, now + TRY_LIMIT);
            }
            Err(refusal) => self.give_up(ticket, refusal, out),
        }
    }

    pub(super) fn changed(&mut self, read: Attempt, part: Part, out: &mut Vec<Command>) {
        let Some(TurnStage::Serving(serving)) = self.turn.as_mut().map(|turn| &mut turn.stage) else {
            return;
        };
        let mut watches = serving.step.watches();
        let watch = match part {
            Part::Root => &mut watches.root,
            Part::Leases => &mut watches.leases,
        };
        if watch.take_if(|left| *left == read).is_none() {
            return;
        }
        if part == Part::Root {
            self.limit = Limit::Unknown;
        }
        match &mut serving.step {
            // The answer in flight shows what to do.
            Step::Reading { watches: armed, .. } | Step::Taking(armed) | Step::Over(armed) => {
                *armed = watches
            }
            Step::MakingRoot(..) => {}
            Step::Full { .. } => {
                serving.step = Step::Over(watches);
                self.read_and_watch(out);
            }
        }
    }

    fn make_root(&mut self, out: &mut Vec<Command>) {
        self.limit = Limit::Unknown;
        let wanted = |(_, ticket): (u64, Ticket)| Some((ticket, self.claims.get(&ticket)?.request.limit?));
        let first = self.local_queue.range(..).find_map(wanted);
        match first {
            Some((ticket, limit)) => {
                let read = self.next_attempt();
                if let Some(serving) = self.serving() {
                    serving.step = Step::MakingRoot(read, ticket);
                    out.push(Command::MakeRoot { read, ticket, limit });
                }
            }
            None => self.fail(Refusal::NoLimit, out),
        }
    }

    pub(super) fn root_made(
        &mut self,
        read: Attempt,
        result: Result<(), Failure>,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        let Some(serving) = self.serving() else { return };
        let made_for = match serving.step {
            Step::MakingRoot(making, ticket) if making == read => ticket,
            _ => return,
        };
        serving.step = Step::Over(Watches::default());
        match result {
            Ok(()) | Err(Failure::NoNode | Failure::Unknown(_)) => self.read_again(now, out),
            Err(Failure::SessionGone) => {}
            Err(Failure::NoAuth) => self.fail(Refusal::NoAuth(Denied::Root), out),
            // Other claims' options may be accepted.
            Err(Failure::Refused(reason)) => {
                self.give_up(made_for, Refusal::Rejected(reason), out);
                self.read_and_watch(out);
            }
        }
    }

    /// Waits for a change, because there are too few permits for the first claim. First, both parts must be watched.
    pub(super) fn wait_for_permits(&mut self, out: &mut Vec<Command>) {
        let (head, limit) = (self.head(), self.limit);
        let (Some(serving), Some(head)) = (self.serving(), head) else { return };
        match serving.step.watches() {
            Watches { root: Some(root), leases: Some(leases) } => {
                serving.step = Step::Full { head, root, leases };
                self.retries.done(&Retry::Turn);
            }
            Watches { root: None, leases: Some(_) } => {
                self.read_state(Reading::Watch, Reading::Skip, Some((head, limit)), out)
            }
            Watches { root: Some(_), leases: None } => {
                self.read_state(Reading::Skip, Reading::Watch, None, out)
            }
            Watches { root: None, leases: None } => {
                self.read_state(Reading::Watch, Reading::Watch, None, out)
            }
        }
    }

    /// Reads the state while the mutex is ours, and watches the leases. The watch is needed only if there are too few
    /// permits. Otherwise it costs nothing, because the created leases fire it.
    pub(super) fn read_and_watch(&mut self, out: &mut Vec<Command>) {
        self.read_state(self.unknown_root(), Reading::Watch, None, out);
    }

    fn read_state(
        &mut self,
        root: Reading,
        leases: Reading,
        full_for: Option<(Ticket, Limit)>,
        out: &mut Vec<Command>,
    ) {
        if self.take.is_none() {
            self.retries.sent(&Retry::Turn);
        }
        let (read, arrivals) = (self.next_attempt(), self.arrivals);
        let Some(serving) = self.serving() else { return };
        let mut watches = serving.step.watches();
        if root == Reading::Watch {
            watches.root = Some(read);
        }
        if leases == Reading::Watch {
            watches.leases = Some(read);
        }
        let sync = !serving.fresh;
        serving.step = Step::Reading { read: PendingRead { id: read, arrivals, sync, full_for }, watches };
        out.push(Command::ReadState { read, sync, root, leases });
    }

    /// Reads the state right after a list of the mutex's queue, which may show that the mutex is ours.
    pub(super) fn read_ahead(&mut self, sync: bool, out: &mut Vec<Command>) {
        self.retries.sent(&Retry::Turn);
        let (root, id, arrivals) = (self.unknown_root(), self.next_attempt(), self.arrivals);
        let Some(TurnStage::Queued { read, .. }) = self.turn.as_mut().map(|turn| &mut turn.stage) else {
            return;
        };
        *read = Some(PendingRead { id, arrivals, sync, full_for: None });
        out.push(Command::ReadState { read: id, sync, root, leases: Reading::Once });
    }

    fn unknown_root(&self) -> Reading {
        if self.limit == Limit::Unknown { Reading::Once } else { Reading::Skip }
    }
}

fn stored(root: &Root) -> Limit {
    Limit::Stored { version: root.version, written: root.written, permits: root.permits() }
}
