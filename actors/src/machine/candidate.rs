//! One candidate of a singleton: waits for its turn, serves, hands the lock back, rests, and waits again.
//!
//! ```text
//! Waiting ──▶ Starting ──▶ Serving ──▶ Releasing ──▶ Resting ──▶ Waiting …   shut down: ──▶ Over
//! ```
//!
//! Every run has a lock, and so a fencing token, of its own: what a crashed run left under way is out of date for
//! the next one, and another member has its chance when this one cannot run the actor.

use std::time::Duration;

use super::run::EndReason;
use super::{Machine, Moment};

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The lock is held.
    Granted,
    /// The lock was refused; `for_good` when asking again is of no use.
    Refused {
        /// The keeper is closed.
        for_good: bool,
    },
    /// The actor has started.
    Started,
    /// The run is over.
    Ended(EndReason),
    /// The lock is released, or gone.
    Released,
    /// The rest is over.
    Rested,
    /// Hand over, and be done.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Ask for the lock.
    Acquire,
    /// Take the request back.
    Cancel,
    /// Start the actor.
    StartRun,
    /// Tell that the actor runs.
    Announce,
    /// Stop the actor.
    StopRun,
    /// Release the lock.
    Release,
    /// Rest, after so many failures in a row; the first is 0.
    Rest(u32),
    /// The candidate is done.
    Finish,
}

/// The machine of one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    stage: Stage,
    /// Runs, or tries, that failed in a row.
    failures: u32,
    /// A run that lasted as long was no failure.
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
    /// Begins by asking for the lock.
    pub fn new(proven_after: Duration, out: &mut Vec<Command>) -> Candidate {
        out.push(Command::Acquire);
        Candidate { stage: Stage::Waiting, failures: 0, proven_after, leaving: false }
    }
}

impl Machine for Candidate {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, input: Event, now: Moment, out: &mut Vec<Command>) {
        match (input, &self.stage) {
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
            // Late, or twice.
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

    /// It has no timers: its rests are timed by the driver.
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

    /// Every input with the command that it must lead to, a second apart.
    fn play(singleton: &mut Candidate, steps: &[(Event, &[Command])]) {
        for (number, (input, expected)) in steps.iter().enumerate() {
            let mut out = Vec::new();
            let now = Moment::default() + Duration::from_secs(number as u64);
            singleton.handle(input.clone(), now, &mut out);
            assert_eq!(out, *expected, "step {number}: {input:?}");
        }
    }

    #[test]
    fn a_crash_hands_the_lock_back_and_rests_longer_each_time() {
        let crash = Ended(EndReason::Failed);
        let round = |rest: &'static [Command]| -> [(Event, &'static [Command]); 4] {
            [(Granted, &[StartRun]), (crash.clone(), &[Release]), (Released, rest), (Rested, &[Acquire])]
        };
        let steps = [round(&[Rest(0)]), round(&[Rest(1)]), round(&[Rest(2)])].concat();
        play(&mut new(), &steps);
    }

    #[test]
    fn a_run_that_lasted_was_no_failure() {
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
    fn a_start_that_takes_long_and_fails_is_a_failure() {
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
    fn after_a_lost_lease_it_asks_again_at_once() {
        let lost: (_, &[_]) = (Ended(EndReason::Lease), &[Release]);
        play(&mut new(), &[(Granted, &[StartRun]), lost, (Released, &[Acquire])]);
    }

    #[test]
    fn shutting_down_stops_releases_and_only_then_finishes() {
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
    fn shutting_down_while_waiting_withdraws_and_gives_back_what_was_granted_meanwhile() {
        let refused = || Refused { for_good: false };
        play(&mut new(), &[(Shutdown, &[Cancel]), (refused(), &[Finish])]);
        play(&mut new(), &[(Shutdown, &[Cancel]), (Granted, &[Release]), (Released, &[Finish])]);
        play(&mut new(), &[(refused(), &[Rest(0)]), (Shutdown, &[Finish]), (Rested, &[])]);
    }

    #[test]
    fn a_refusal_is_asked_again_after_a_rest_unless_the_keeper_is_closed() {
        play(&mut new(), &[(Refused { for_good: false }, &[Rest(0)]), (Rested, &[Acquire])]);
        play(&mut new(), &[(Refused { for_good: true }, &[Finish]), (Granted, &[])]);
    }
}
