//! Retries of failed requests.

use super::Semaphore;
use super::protocol::Command;
use super::turn::{Serving, Step, TurnStage, Watches};
use crate::machine::Moment;
use crate::machine::node::Attempt;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Retry {
    /// The delete of a lease.
    DeleteLease(String),
    /// The next request of the turn: finding the leases of a take, or reading the state.
    Turn,
    /// The next turn, after a take has found that the mutex's node is gone.
    NextTurn,
}

impl Semaphore {
    /// Retries the delete of a lease after a lost answer.
    pub(super) fn delete_lease_again(&mut self, lease: String, now: Moment, out: &mut Vec<Command>) {
        if self.retries.again(&Retry::DeleteLease(lease.clone()), now) {
            out.push(Command::DeleteLease(lease));
        }
    }

    /// Retries the read of the state.
    pub(super) fn read_again(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.retries.again(&Retry::Turn, now) {
            return self.read_and_watch(out);
        }
        if let Some(serving) = self.serving() {
            serving.step = Step::Over(serving.step.watches());
        }
    }

    /// Retries finding the leases of a take whose outcome is still unknown. `lost`: the answer was lost, not negative.
    /// Nothing is watched until then, because the read that follows shows what has changed.
    pub(super) fn find_leases_again(
        &mut self,
        take: Attempt,
        lost: bool,
        now: Moment,
        out: &mut Vec<Command>,
    ) {
        if lost && self.retries.again(&Retry::Turn, now) {
            return out.push(Command::FindLeases(take));
        }
        if !lost {
            self.retries.later(&Retry::Turn, now);
        }
        if let Some(turn) = &mut self.turn {
            turn.unwatch(out);
        }
        if let Some(serving) = self.serving() {
            serving.step = Step::Taking(Watches::default());
        }
    }

    pub(super) fn retry(&mut self, now: Moment, out: &mut Vec<Command>) {
        while let Some(retry) = self.retries.pop(now) {
            match (retry, &self.take, &self.turn) {
                (Retry::DeleteLease(lease), _, _) => out.push(Command::DeleteLease(lease)),
                // `advance` begins it.
                (Retry::NextTurn, _, _) => {}
                (Retry::Turn, Some(take), _) => out.push(Command::FindLeases(take.attempt)),
                (Retry::Turn, None, Some(turn)) => match &turn.stage {
                    TurnStage::Serving(Serving { step: Step::Over(_), .. }) => self.read_and_watch(out),
                    // `advance` reads for the claims that wait, or another request is in flight.
                    TurnStage::Queued { .. } | TurnStage::Serving(_) => {}
                },
                (Retry::Turn, None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Event, Leases, PermitRequest, Reading, Root, TakeFailure};
    use super::*;
    use crate::machine::exclusion::{Dialect, Mode};
    use crate::machine::lock::{self, Created};
    use crate::machine::node::{Instance, Znode};
    use crate::machine::{Failure, Machine, PathEvent, Ticket, Wait};

    /// The request that fails. The server answers all others.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Broken {
        Read,
        /// Root and leases name different transactions that have written the root.
        Contradiction,
        /// Every take finds another limit than the read before it has shown.
        Limit,
        /// Every take finds that the mutex's node is gone.
        Mutex,
        NoRoot,
        MakeRoot,
        Take,
        Find,
        DeleteLease,
    }

    fn answer(broken: Broken, failure: &Failure, command: &Command) -> Option<Event> {
        let fails = |what| broken == what;
        let failed = || failure.clone();
        match command {
            Command::Mutex(lock::Command::CreateAndList(attempt, _)) => {
                let name = Instance::new(7 << 64).prefix(*attempt, Dialect::Kazoo, Mode::Lock);
                let node = Znode::parse(&format!("{name}0000000001")).expect("a contender");
                let children = Ok(vec![node.name().to_owned()]);
                let created = Ok(Created { node, czxid: 1 });
                Some(lock::Event::CreatedAndListed { attempt: *attempt, created, children }.into())
            }
            Command::ReadState { read, root, leases, .. } => {
                let missing = matches!(broken, Broken::NoRoot | Broken::MakeRoot).then_some(Failure::NoNode);
                let wrong = fails(Broken::Read).then(failed).or(missing);
                let requested = |reading: &Reading| *reading != Reading::Skip;
                let root = requested(root).then(|| match &wrong {
                    Some(failure) => Err(failure.clone()),
                    None => Ok(Root { version: 0, written: 5, data: b"1".to_vec() }),
                });
                let leases = requested(leases).then(|| match &wrong {
                    Some(failure) => Err(failure.clone()),
                    None => {
                        Ok(Leases { names: Vec::new(), written: 5 + i64::from(fails(Broken::Contradiction)) })
                    }
                });
                Some(Event::StateRead { read: *read, root, leases })
            }
            Command::MakeRoot { read, .. } => {
                let made = if fails(Broken::MakeRoot) { Err(failed()) } else { Ok(()) };
                Some(Event::RootMade(*read, made))
            }
            Command::Take { take, .. } => Some(Event::Taken(
                *take,
                match broken {
                    Broken::Take | Broken::Find => Err(TakeFailure::Failed(Failure::Unknown("lost".into()))),
                    Broken::Limit => Err(TakeFailure::LimitChanged),
                    Broken::Mutex => Err(TakeFailure::MutexGone),
                    Broken::Read
                    | Broken::Contradiction
                    | Broken::NoRoot
                    | Broken::MakeRoot
                    | Broken::DeleteLease => Ok(()),
                },
            )),
            Command::FindLeases(take) => {
                let found = if fails(Broken::Find) { Err(failed()) } else { Ok(Vec::new()) };
                Some(Event::LeasesFound(*take, found))
            }
            Command::DeleteLease(lease) => {
                let gone = if fails(Broken::DeleteLease) { Err(failed()) } else { Ok(()) };
                Some(Event::LeaseDeleted(lease.clone(), gone))
            }
            Command::Mutex(lock::Command::Delete(attempt, _)) => {
                Some(lock::Event::Deleted(*attempt, Ok(())).into())
            }
            _ => None,
        }
    }

    /// The number of requests sent in a minute, if all are answered at once; `None` when there is no pause.
    fn sent_in_a_minute(broken: Broken, failure: &Failure) -> Option<usize> {
        let (mut machine, mut now, mut sent) = (Semaphore::new(Instance::new(7 << 64)), Moment(0), 0);
        let (mut events, mut out) = (Vec::new(), Vec::new());
        let request =
            PermitRequest { count: 1, limit: Some(1), agreed: false, bytes: 100, wait: Wait::Forever };
        events.push(PathEvent::Connected { session: 1 }.into());
        events.push(Event::Acquire { ticket: Ticket(1), request });
        loop {
            let mut answered = 0;
            while !events.is_empty() {
                answered += 1;
                if answered > 50 {
                    return None;
                }
                events.drain(..).for_each(|event| machine.handle(event, now, &mut out));
                for command in out.drain(..) {
                    if let Command::Grant { ticket, .. } = &command {
                        events.push(PathEvent::Release(*ticket).into());
                    }
                    let event = answer(broken, failure, &command);
                    sent += usize::from(event.is_some());
                    events.extend(event);
                }
            }
            match machine.wakeup().filter(|due| due.since(Moment(0)) < Duration::from_secs(60)) {
                Some(due) => now = due,
                None => return Some(sent),
            }
            events.push(PathEvent::Wake.into());
        }
    }

    /// An upper bound: pauses double up to five seconds, at most half of each is left out, and four requests follow
    /// each.
    const MOST: usize = 4 * 30 + 10;

    #[test]
    fn requests_that_keep_failing_are_retried_after_growing_pauses() {
        let lost = Failure::Unknown("the answer was lost".into());
        let throttled = Failure::Refused("throttled".into());
        for (broken, failure) in [
            (Broken::Read, &lost),
            (Broken::Contradiction, &lost),
            (Broken::Limit, &lost),
            (Broken::Mutex, &lost),
            (Broken::NoRoot, &lost),
            (Broken::MakeRoot, &lost),
            (Broken::Take, &lost),
            (Broken::Find, &lost),
            (Broken::Find, &throttled),
            (Broken::Find, &Failure::NoAuth),
            (Broken::DeleteLease, &lost),
            (Broken::DeleteLease, &throttled),
            (Broken::DeleteLease, &Failure::NoAuth),
        ] {
            let sent = sent_in_a_minute(broken, failure);
            assert!(
                sent.is_some_and(|sent| (10..=MOST).contains(&sent)),
                "{broken:?}, {failure:?}: {sent:?}"
            );
        }
    }
}
