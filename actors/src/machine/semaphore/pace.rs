//! What failed, and is asked for again after a pause.

use super::turn::{Serving, State, Step, Watches};
use super::{Limit, Semaphore};
use crate::machine::Moment;
use crate::machine::lock::protocol::Command;
use crate::machine::node::Attempt;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Retry {
    /// The delete of a lease.
    Return(String),
    /// What the turn needs next: the outcome of a take, or another look.
    Turn,
}

impl Semaphore {
    /// A lease's delete was not answered.
    pub(super) fn return_again(&mut self, lease: String, now: Moment, out: &mut Vec<Command>) {
        if self.retries.again(&Retry::Return(lease.clone()), now) {
            out.push(Command::Return(lease));
        }
    }

    /// The turn did not come further, and looks again.
    pub(super) fn look_again(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.retries.again(&Retry::Turn, now) {
            self.look_closely(out);
        }
    }

    /// What became of a take was not found out. While that has to wait, nothing is watched: whatever changes is seen by
    /// the look that follows.
    pub(super) fn find_again(&mut self, take: Attempt, lost: bool, now: Moment, out: &mut Vec<Command>) {
        if lost && self.retries.again(&Retry::Turn, now) {
            return out.push(Command::FindLeases(take));
        }
        if !lost {
            self.retries.later(&Retry::Turn, now);
        }
        if let Some(turn) = &mut self.turn {
            turn.calm(out);
        }
        if let Some(serving) = self.serving() {
            serving.step = Step::Taking(Watches::default());
        }
    }

    pub(super) fn retry(&mut self, now: Moment, out: &mut Vec<Command>) {
        while let Some(retry) = self.retries.pop(now) {
            match (retry, &self.take, &self.turn) {
                (Retry::Return(lease), _, _) => out.push(Command::Return(lease)),
                (Retry::Turn, Some(take), _) => out.push(Command::FindLeases(take.attempt)),
                (Retry::Turn, None, Some(turn)) => match &turn.state {
                    State::Queued { look: None, .. } if self.limit == Limit::Unknown => {
                        self.look_ahead(true, out);
                    }
                    State::Serving(Serving { step: Step::Over(_), .. }) => self.look_closely(out),
                    // Another turn has begun, or something else has been asked meanwhile.
                    State::Queued { .. } | State::Serving(_) => {}
                },
                (Retry::Turn, None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::Machine;
    use crate::machine::lock::protocol::{
        Created, Event, Failure, Leases, PermitRequest, Root, Sight, TakeFailure, Ticket, Wait,
    };
    use crate::machine::node::{Dialect, Instance, Mode, Znode};

    /// What a server does with everything but what is under test.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Broken {
        Survey,
        NoRoot,
        MakeRoot,
        Take,
        Find,
        Return,
    }

    fn answer(broken: Broken, failure: &Failure, command: &Command) -> Option<Event> {
        let fails = |what| broken == what;
        let failed = || failure.clone();
        match command {
            Command::Enter(attempt, _) => {
                let name = Instance::new(7 << 64).prefix(*attempt, Dialect::Kazoo, Mode::Lock);
                let node = Znode::parse(&format!("{name}0000000001")).expect("a contender");
                let children = Ok(vec![node.name().to_owned()]);
                Some(Event::Entered { attempt: *attempt, created: Ok(Created { node, czxid: 1 }), children })
            }
            Command::Survey { survey, root, leases, .. } => {
                let missing = matches!(broken, Broken::NoRoot | Broken::MakeRoot).then_some(Failure::NoNode);
                let wrong = fails(Broken::Survey).then(failed).or(missing);
                let seen = |sight: &Sight| *sight != Sight::Skip;
                let root = seen(root).then(|| match &wrong {
                    Some(failure) => Err(failure.clone()),
                    None => Ok(Root { version: 0, written: 5, data: b"1".to_vec() }),
                });
                let leases = seen(leases).then(|| match &wrong {
                    Some(failure) => Err(failure.clone()),
                    None => Ok(Leases { names: Vec::new(), written: 5 }),
                });
                Some(Event::Surveyed { survey: *survey, root, leases })
            }
            Command::MakeRoot { survey, .. } => {
                let made = if fails(Broken::MakeRoot) { Err(failed()) } else { Ok(()) };
                Some(Event::RootMade(*survey, made))
            }
            Command::Take { take, .. } => Some(Event::Taken(
                *take,
                match broken {
                    Broken::Take | Broken::Find => Err(TakeFailure::Failed(Failure::Unknown("lost".into()))),
                    Broken::Survey | Broken::NoRoot | Broken::MakeRoot | Broken::Return => Ok(()),
                },
            )),
            Command::FindLeases(take) => {
                let found = if fails(Broken::Find) { Err(failed()) } else { Ok(Vec::new()) };
                Some(Event::LeasesFound(*take, found))
            }
            Command::Return(lease) => {
                let gone = if fails(Broken::Return) { Err(failed()) } else { Ok(()) };
                Some(Event::Returned(lease.clone(), gone))
            }
            Command::Delete(attempt, _) => Some(Event::Deleted(*attempt, Ok(()))),
            _ => None,
        }
    }

    /// How many requests it sends in a minute, all of them answered at once; `None` when it does not pause.
    fn sent_in_a_minute(broken: Broken, failure: &Failure) -> Option<usize> {
        let (mut machine, mut now, mut sent) = (Semaphore::new(Instance::new(7 << 64)), Moment(0), 0);
        let (mut events, mut out) = (Vec::new(), Vec::new());
        let request =
            PermitRequest { count: 1, limit: Some(1), agreed: false, bytes: 100, wait: Wait::Forever };
        events.push(Event::Connected { session: 1 });
        events.push(Event::AcquirePermits { ticket: Ticket(1), request });
        loop {
            let mut answered = 0;
            while !events.is_empty() {
                answered += 1;
                if answered > 50 {
                    return None;
                }
                events.drain(..).for_each(|event| machine.handle(event, now, &mut out));
                for command in out.drain(..) {
                    if let Command::GrantPermits { ticket, .. } = &command {
                        events.push(Event::Release(*ticket));
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
            events.push(Event::Wake);
        }
    }

    /// With pauses that double up to five seconds, less up to a half, and three requests after each.
    const MOST: usize = 3 * 30 + 10;

    #[test]
    fn whatever_fails_for_good_is_repeated_ever_more_slowly() {
        let lost = Failure::Unknown("nobody knows".into());
        let throttled = Failure::Refused("throttled".into());
        for (broken, failure) in [
            (Broken::Survey, &lost),
            (Broken::NoRoot, &lost),
            (Broken::MakeRoot, &lost),
            (Broken::Take, &lost),
            (Broken::Find, &lost),
            (Broken::Find, &throttled),
            (Broken::Find, &Failure::NoAuth),
            (Broken::Return, &lost),
            (Broken::Return, &throttled),
            (Broken::Return, &Failure::NoAuth),
        ] {
            let sent = sent_in_a_minute(broken, failure);
            assert!(
                sent.is_some_and(|sent| (10..=MOST).contains(&sent)),
                "{broken:?}, {failure:?}: {sent:?}"
            );
        }
    }
}
