//! One candidate of a singleton: waits for its turn, serves, hands the lock back, rests, and waits again.
//!
//! ```text
//! Waiting ──▶ Starting ──▶ Serving ──▶ Releasing ──▶ Resting ──▶ Waiting …   shut down: ──▶ Over
//! ```
//!
//! Every run has a lock, and so a fencing token, of its own: what a crashed run left under way is out of date for
//! the next one, and another member has its chance when this one cannot run the actor.

use std::time::Duration;

use super::Moment;
use super::run::Reason;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SingletonInput {
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
    Ended(Reason),
    /// The lock is released, or gone.
    Released,
    /// The rest is over.
    Rested,
    /// Hand over, and be done.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SingletonCommand {
    /// Ask for the lock.
    Ask,
    /// Take the request back.
    Withdraw,
    /// Start the actor.
    Serve,
    /// Tell that the actor runs.
    Announce,
    /// Stop the actor.
    Dismiss,
    /// Release the lock.
    Release,
    /// Rest, after so many failures in a row; the first is 0.
    Rest(u32),
    /// The candidate is done.
    Finish,
}

/// The machine of one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Singleton {
    phase: Phase,
    /// Runs, or tries, that failed in a row.
    failures: u32,
    /// A run that lasted as long was no failure.
    proven_after: Duration,
    leaving: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Waiting,
    Starting,
    Serving { since: Moment },
    Releasing { rest: bool },
    Resting,
    Over,
}

impl Singleton {
    /// Begins by asking for the lock.
    pub fn new(proven_after: Duration, out: &mut Vec<SingletonCommand>) -> Singleton {
        out.push(SingletonCommand::Ask);
        Singleton { phase: Phase::Waiting, failures: 0, proven_after, leaving: false }
    }

    /// One event.
    pub fn handle(&mut self, input: SingletonInput, now: Moment, out: &mut Vec<SingletonCommand>) {
        match (input, &self.phase) {
            (SingletonInput::Granted, Phase::Waiting) if self.leaving => {
                self.phase = Phase::Releasing { rest: false };
                out.push(SingletonCommand::Release);
            }
            (SingletonInput::Granted, Phase::Waiting) => {
                self.phase = Phase::Starting;
                out.push(SingletonCommand::Serve);
            }
            (SingletonInput::Started, Phase::Starting) => {
                self.phase = Phase::Serving { since: now };
                out.push(SingletonCommand::Announce);
            }
            (SingletonInput::Refused { for_good }, Phase::Waiting) => match for_good || self.leaving {
                true => self.finish(out),
                false => self.rest(out),
            },
            (SingletonInput::Ended(reason), Phase::Starting) => self.release(reason, out),
            (SingletonInput::Ended(reason), Phase::Serving { since }) => {
                if now.since(*since) >= self.proven_after {
                    self.failures = 0;
                }
                self.release(reason, out);
            }
            (SingletonInput::Released, Phase::Releasing { .. }) if self.leaving => self.finish(out),
            (SingletonInput::Released, Phase::Releasing { rest: true }) => self.rest(out),
            (SingletonInput::Released, Phase::Releasing { rest: false }) => self.ask(out),
            (SingletonInput::Rested, Phase::Resting) => self.ask(out),
            (SingletonInput::Shutdown, phase) if !self.leaving => {
                match phase {
                    Phase::Waiting => out.push(SingletonCommand::Withdraw),
                    Phase::Starting | Phase::Serving { .. } => out.push(SingletonCommand::Dismiss),
                    Phase::Resting => self.finish(out),
                    Phase::Releasing { .. } | Phase::Over => {}
                }
                self.leaving = true;
            }
            // Late, or twice.
            (SingletonInput::Granted, Phase::Starting | Phase::Serving { .. })
            | (SingletonInput::Granted, Phase::Releasing { .. } | Phase::Resting | Phase::Over)
            | (SingletonInput::Refused { .. }, Phase::Starting | Phase::Serving { .. })
            | (SingletonInput::Refused { .. }, Phase::Releasing { .. } | Phase::Resting | Phase::Over)
            | (SingletonInput::Started, Phase::Waiting | Phase::Serving { .. })
            | (SingletonInput::Started, Phase::Releasing { .. } | Phase::Resting | Phase::Over)
            | (SingletonInput::Ended(_), Phase::Waiting | Phase::Releasing { .. })
            | (SingletonInput::Ended(_), Phase::Resting | Phase::Over)
            | (SingletonInput::Released, Phase::Waiting | Phase::Starting | Phase::Serving { .. })
            | (SingletonInput::Released, Phase::Resting | Phase::Over)
            | (SingletonInput::Rested, Phase::Waiting | Phase::Starting | Phase::Serving { .. })
            | (SingletonInput::Rested, Phase::Releasing { .. } | Phase::Over)
            | (SingletonInput::Shutdown, _) => {}
        }
    }

    fn release(&mut self, reason: Reason, out: &mut Vec<SingletonCommand>) {
        self.phase = Phase::Releasing { rest: matches!(reason, Reason::Finished | Reason::Failed) };
        out.push(SingletonCommand::Release);
    }

    fn ask(&mut self, out: &mut Vec<SingletonCommand>) {
        self.phase = Phase::Waiting;
        out.push(SingletonCommand::Ask);
    }

    fn rest(&mut self, out: &mut Vec<SingletonCommand>) {
        self.phase = Phase::Resting;
        out.push(SingletonCommand::Rest(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    fn finish(&mut self, out: &mut Vec<SingletonCommand>) {
        self.phase = Phase::Over;
        out.push(SingletonCommand::Finish);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SingletonCommand::{Announce, Ask, Dismiss, Finish, Release, Rest, Serve, Withdraw};
    use SingletonInput::{Ended, Granted, Refused, Released, Rested, Shutdown, Started};

    fn new() -> Singleton {
        let mut out = Vec::new();
        let singleton = Singleton::new(Duration::from_secs(5), &mut out);
        assert_eq!(out, [Ask]);
        singleton
    }

    /// Every input with the command that it must lead to, a second apart.
    fn play(singleton: &mut Singleton, steps: &[(SingletonInput, &[SingletonCommand])]) {
        for (number, (input, expected)) in steps.iter().enumerate() {
            let mut out = Vec::new();
            let now = Moment::default() + Duration::from_secs(number as u64);
            singleton.handle(input.clone(), now, &mut out);
            assert_eq!(out, *expected, "step {number}: {input:?}");
        }
    }

    #[test]
    fn a_crash_hands_the_lock_back_and_rests_longer_each_time() {
        let crash = Ended(Reason::Failed);
        let round =
            |rest: &'static [SingletonCommand]| -> [(SingletonInput, &'static [SingletonCommand]); 4] {
                [(Granted, &[Serve]), (crash.clone(), &[Release]), (Released, rest), (Rested, &[Ask])]
            };
        let steps = [round(&[Rest(0)]), round(&[Rest(1)]), round(&[Rest(2)])].concat();
        play(&mut new(), &steps);
    }

    #[test]
    fn a_run_that_lasted_was_no_failure() {
        let mut singleton = new();
        let crash: (_, &[_]) = (Ended(Reason::Failed), &[Release]);
        play(&mut singleton, &[(Granted, &[Serve]), crash.clone(), (Released, &[Rest(0)]), (Rested, &[Ask])]);
        let idle: (_, &[_]) = (Rested, &[]);
        let started: [(_, &[_]); 2] = [(Granted, &[Serve]), (Started, &[Announce])];
        let end = [crash, (Released, &[Rest(0)])];
        play(&mut singleton, &[&started[..], &vec![idle; 5], &end].concat());
    }

    #[test]
    fn a_start_that_takes_long_and_fails_is_a_failure() {
        let mut singleton = new();
        let crash: (_, &[_]) = (Ended(Reason::Failed), &[Release]);
        play(&mut singleton, &[(Granted, &[Serve]), crash.clone(), (Released, &[Rest(0)]), (Rested, &[Ask])]);
        let idle: (_, &[_]) = (Rested, &[]);
        let long = [vec![(Granted, &[Serve][..])], vec![idle; 5], vec![crash, (Released, &[Rest(1)])]];
        play(&mut singleton, &long.concat());
    }

    #[test]
    fn after_a_lost_lease_it_asks_again_at_once() {
        let lost: (_, &[_]) = (Ended(Reason::Lease), &[Release]);
        play(&mut new(), &[(Granted, &[Serve]), lost, (Released, &[Ask])]);
    }

    #[test]
    fn shutting_down_stops_releases_and_only_then_finishes() {
        let stopped: (_, &[_]) = (Ended(Reason::Stopped), &[Release]);
        play(
            &mut new(),
            &[
                (Granted, &[Serve]),
                (Shutdown, &[Dismiss]),
                (Shutdown, &[]),
                stopped.clone(),
                (Released, &[Finish]),
            ],
        );
        let running: [(_, &[_]); 3] = [(Granted, &[Serve]), (Started, &[Announce]), (Shutdown, &[Dismiss])];
        play(&mut new(), &[&running[..], &[stopped, (Released, &[Finish])]].concat());
    }

    #[test]
    fn shutting_down_while_waiting_withdraws_and_gives_back_what_was_granted_meanwhile() {
        let refused = || Refused { for_good: false };
        play(&mut new(), &[(Shutdown, &[Withdraw]), (refused(), &[Finish])]);
        play(&mut new(), &[(Shutdown, &[Withdraw]), (Granted, &[Release]), (Released, &[Finish])]);
        play(&mut new(), &[(refused(), &[Rest(0)]), (Shutdown, &[Finish]), (Rested, &[])]);
    }

    #[test]
    fn a_refusal_is_asked_again_after_a_rest_unless_the_keeper_is_closed() {
        play(&mut new(), &[(Refused { for_good: false }, &[Rest(0)]), (Rested, &[Ask])]);
        play(&mut new(), &[(Refused { for_good: true }, &[Finish]), (Granted, &[])]);
    }
}
