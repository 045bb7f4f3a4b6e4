//! One candidate for a singleton: waits for the lock, runs the actor, releases the lock, pauses, and waits again.
//!
//! ```text
//! Waiting ──▶ Starting ──▶ Serving ──▶ Releasing ──▶ Resting ──▶ Waiting …   shut down: ──▶ Over
//! ```
//!
//! Every run acquires the lock anew, and so has its own fencing token. Requests that a crashed run left in flight carry
//! an older token than the next run. And if this member cannot run the actor, another one gets the lock.

use std::time::Duration;

use super::run::EndReason;
use super::{Machine, Moment};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The lock was granted.
    Granted,
    /// The lock was refused.
    Refused {
        /// The keeper is closed, so another request would be refused too.
        for_good: bool,
    },
    /// The actor has started.
    Started,
    /// The run has ended.
    Ended(EndReason),
    /// The lock was released or lost.
    Released,
    /// The pause is over.
    Rested,
    /// The candidate must stop its actor, release the lock, and end.
    Shutdown,
}

/// What the driver must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Request the lock.
    Acquire,
    /// Cancel the request.
    Cancel,
    /// Start the actor.
    StartRun,
    /// Report that the actor runs.
    Announce,
    /// Stop the actor.
    StopRun,
    /// Release the lock.
    Release,
    /// Pause. The number counts consecutive failures before this one.
    Rest(u32),
    /// End the candidate.
    Finish,
}

/// The machine of one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    stage: Stage,
    /// The number of consecutive failures.
    failures: u32,
    /// A run that lasted at least this long resets `failures`.
    proven_after: Duration,
    leaving: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Waiting,
    Starting,
    Serving { since: Moment },
    Releasing { rest: bool },
    Resting,
    Over,
}

impl Candidate {
    /// A candidate that requests the lock.
    pub fn new(proven_after: Duration, out: &mut Vec<Command>) -> Candidate {
        out.push(Command::Acquire);
        Candidate { stage: Stage::Waiting, failures: 0, proven_after, leaving: false }
    }
}

impl Machine for Candidate {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        match (event, &self.stage) {
            (Event::Granted, Stage::Waiting) if self.leaving => {
                self.stage = Stage::Releasing { rest: false };
                out.push(Command::Release);
            }
            (Event::Granted, Stage::Waiting) => {
                self.stage = Stage::Starting;
                out.push(Command::StartRun);
            }
            (Event::Started, Stage::Starting) => {
                self.stage = Stage::Serving { since: now };
                out.push(Command::Announce);
            }
            (Event::Refused { for_good }, Stage::Waiting) => match for_good || self.leaving {
                true => self.finish(out),
                false => self.rest(out),
            },
            (Event::Ended(reason), Stage::Starting) => self.release(reason, out),
            (Event::Ended(reason), Stage::Serving { since }) => {
                if now.since(*since) >= self.proven_after {
                    self.failures = 0;
                }
                self.release(reason, out);
            }
            (Event::Released, Stage::Releasing { .. }) if self.leaving => self.finish(out),
            (Event::Released, Stage::Releasing { rest: true }) => self.rest(out),
            (Event::Released, Stage::Releasing { rest: false }) => self.ask(out),
            (Event::Rested, Stage::Resting) => self.ask(out),
            (Event::Shutdown, stage) if !self.leaving => {
                match stage {
                    Stage::Waiting => out.push(Command::Cancel),
                    Stage::Starting | Stage::Serving { .. } => out.push(Command::StopRun),
                    Stage::Resting => self.finish(out),
                    Stage::Releasing { .. } | Stage::Over => {}
                }
                self.leaving = true;
            }
            // Late or duplicate events.
            (Event::Granted, Stage::Starting | Stage::Serving { .. })
            | (Event::Granted, Stage::Releasing { .. } | Stage::Resting | Stage::Over)
            | (Event::Refused { .. }, Stage::Starting | Stage::Serving { .. })
            | (Event::Refused { .. }, Stage::Releasing { .. } | Stage::Resting | Stage::Over)
            | (Event::Started, Stage::Waiting | Stage::Serving { .. })
            | (Event::Started, Stage::Releasing { .. } | Stage::Resting | Stage::Over)
            | (Event::Ended(_), Stage::Waiting | Stage::Releasing { .. })
            | (Event::Ended(_), Stage::Resting | Stage::Over)
            | (Event::Released, Stage::Waiting | Stage::Starting | Stage::Serving { .. })
            | (Event::Released, Stage::Resting | Stage::Over)
            | (Event::Rested, Stage::Waiting | Stage::Starting | Stage::Serving { .. })
            | (Event::Rested, Stage::Releasing { .. } | Stage::Over)
            | (Event::Shutdown, _) => {}
        }
    }

    /// Always `None`: the driver times the pauses.
    fn wakeup(&self) -> Option<Moment> {
        None
    }
}

impl Candidate {
    fn release(&mut self, reason: EndReason, out: &mut Vec<Command>) {
        self.stage = Stage::Releasing { rest: matches!(reason, EndReason::Finished | EndReason::Failed) };
        out.push(Command::Release);
    }

    fn ask(&mut self, out: &mut Vec<Command>) {
        self.stage = Stage::Waiting;
        out.push(Command::Acquire);
    }

    fn rest(&mut self, out: &mut Vec<Command>) {
        self.stage = Stage::Resting;
        out.push(Command::Rest(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    fn finish(&mut self, out: &mut Vec<Command>) {
        self.stage = Stage::Over;
        out.push(Command::Finish);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Command::{Acquire, Announce, Cancel, Finish, Release, Rest, StartRun, StopRun};
    use Event::{Ended, Granted, Refused, Released, Rested, Shutdown, Started};

    fn new() -> Candidate {
        let mut out = Vec::new();
        let singleton = Candidate::new(Duration::from_secs(5), &mut out);
        assert_eq!(out, [Acquire]);
        singleton
    }

    /// Passes in the events, one second apart, and compares the commands.
    fn play(singleton: &mut Candidate, steps: &[(Event, &[Command])]) {
        for (number, (input, expected)) in steps.iter().enumerate() {
            let mut out = Vec::new();
            let now = Moment::default() + Duration::from_secs(number as u64);
            singleton.handle(input.clone(), now, &mut out);
            assert_eq!(out, *expected, "step {number}: {input:?}");
        }
    }

    #[test]
    fn after_each_crash_it_releases_the_lock_and_pauses_longer() {
        let crash = Ended(EndReason::Failed);
        let round = |rest: &'static [Command]| -> [(Event, &'static [Command]); 4] {
            [(Granted, &[StartRun]), (crash.clone(), &[Release]), (Released, rest), (Rested, &[Acquire])]
        };
        let steps = [round(&[Rest(0)]), round(&[Rest(1)]), round(&[Rest(2)])].concat();
        play(&mut new(), &steps);
    }

    #[test]
    fn a_long_run_resets_the_count_of_failures() {
        let mut singleton = new();
        let crash: (_, &[_]) = (Ended(EndReason::Failed), &[Release]);
        play(
            &mut singleton,
            &[(Granted, &[StartRun]), crash.clone(), (Released, &[Rest(0)]), (Rested, &[Acquire])],
        );
        let idle: (_, &[_]) = (Rested, &[]);
        let started: [(_, &[_]); 2] = [(Granted, &[StartRun]), (Started, &[Announce])];
        let end = [crash, (Released, &[Rest(0)])];
        play(&mut singleton, &[&started[..], &vec![idle; 5], &end].concat());
    }

    #[test]
    fn a_long_start_that_fails_counts_as_a_failure() {
        let mut singleton = new();
        let crash: (_, &[_]) = (Ended(EndReason::Failed), &[Release]);
        play(
            &mut singleton,
            &[(Granted, &[StartRun]), crash.clone(), (Released, &[Rest(0)]), (Rested, &[Acquire])],
        );
        let idle: (_, &[_]) = (Rested, &[]);
        let long = [vec![(Granted, &[StartRun][..])], vec![idle; 5], vec![crash, (Released, &[Rest(1)])]];
        play(&mut singleton, &long.concat());
    }

    #[test]
    fn after_a_lost_lease_it_requests_the_lock_again_at_once() {
        let lost: (_, &[_]) = (Ended(EndReason::Lease), &[Release]);
        play(&mut new(), &[(Granted, &[StartRun]), lost, (Released, &[Acquire])]);
    }

    #[test]
    fn shutdown_stops_the_actor_releases_the_lock_and_then_finishes() {
        let stopped: (_, &[_]) = (Ended(EndReason::Stopped), &[Release]);
        play(
            &mut new(),
            &[
                (Granted, &[StartRun]),
                (Shutdown, &[StopRun]),
                (Shutdown, &[]),
                stopped.clone(),
                (Released, &[Finish]),
            ],
        );
        let running: [(_, &[_]); 3] =
            [(Granted, &[StartRun]), (Started, &[Announce]), (Shutdown, &[StopRun])];
        play(&mut new(), &[&running[..], &[stopped, (Released, &[Finish])]].concat());
    }

    #[test]
    fn shutdown_while_waiting_cancels_and_releases_a_lock_granted_meanwhile() {
        let refused = || Refused { for_good: false };
        play(&mut new(), &[(Shutdown, &[Cancel]), (refused(), &[Finish])]);
        play(&mut new(), &[(Shutdown, &[Cancel]), (Granted, &[Release]), (Released, &[Finish])]);
        play(&mut new(), &[(refused(), &[Rest(0)]), (Shutdown, &[Finish]), (Rested, &[])]);
    }

    #[test]
    fn after_a_refusal_it_requests_again_after_a_pause_unless_the_keeper_is_closed() {
        play(&mut new(), &[(Refused { for_good: false }, &[Rest(0)]), (Rested, &[Acquire])]);
        play(&mut new(), &[(Refused { for_good: true }, &[Finish]), (Granted, &[])]);
    }
}
