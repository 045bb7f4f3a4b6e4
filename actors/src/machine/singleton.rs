//! One candidate of a singleton: waits for its turn, serves, hands the lock back, rests, and waits again.
//!
//! ```text
//! Waiting ──▶ Serving ──▶ Releasing ──▶ Resting ──▶ Waiting …   shut down: ──▶ Over
//! ```
//!
//! Every run has a lock, and so a fencing token, of its own: what a crashed run left under way is out of date for
//! the next one, and another member has its chance when this one cannot run the actor.

use std::time::Duration;

use super::Moment;
use super::tenure::Reason;

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
                self.phase = Phase::Serving { since: now };
                out.push(SingletonCommand::Serve);
            }
            (SingletonInput::Refused { for_good }, Phase::Waiting) => match for_good || self.leaving {
                true => self.finish(out),
                false => self.rest(out),
            },
            (SingletonInput::Ended(reason), Phase::Serving { since }) => {
                if now.since(*since) >= self.proven_after {
                    self.failures = 0;
                }
                let rest = matches!(reason, Reason::Finished | Reason::Failed);
                self.phase = Phase::Releasing { rest };
                out.push(SingletonCommand::Release);
            }
            (SingletonInput::Released, Phase::Releasing { .. }) if self.leaving => self.finish(out),
            (SingletonInput::Released, Phase::Releasing { rest: true }) => self.rest(out),
            (SingletonInput::Released, Phase::Releasing { rest: false }) => self.ask(out),
            (SingletonInput::Rested, Phase::Resting) => self.ask(out),
            (SingletonInput::Shutdown, phase) if !self.leaving => {
                match phase {
                    Phase::Waiting => out.push(SingletonCommand::Withdraw),
                    Phase::Serving { .. } => out.push(SingletonCommand::Dismiss),
                    Phase::Resting => self.finish(out),
                    Phase::Releasing { .. } | Phase::Over => {}
                }
                self.leaving = true;
            }
            // Late, or twice.
            (SingletonInput::Granted, Phase::Serving { .. } | Phase::Releasing { .. })
            | (SingletonInput::Granted, Phase::Resting | Phase::Over)
            | (SingletonInput::Refused { .. }, Phase::Serving { .. } | Phase::Releasing { .. })
            | (SingletonInput::Refused { .. }, Phase::Resting | Phase::Over)
            | (SingletonInput::Ended(_), Phase::Waiting | Phase::Releasing { .. })
            | (SingletonInput::Ended(_), Phase::Resting | Phase::Over)
            | (SingletonInput::Released, Phase::Waiting | Phase::Serving { .. })
            | (SingletonInput::Released, Phase::Resting | Phase::Over)
            | (SingletonInput::Rested, Phase::Waiting | Phase::Serving { .. })
            | (SingletonInput::Rested, Phase::Releasing { .. } | Phase::Over)
            | (SingletonInput::Shutdown, _) => {}
        }
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
    use SingletonCommand::{Ask, Dismiss, Finish, Release, Rest, Serve, Withdraw};
    use SingletonInput::{Ended, Granted, Refused, Released, Rested, Shutdown};

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
        let lasted = [vec![(Granted, &[Serve][..])], vec![idle; 5], vec![crash, (Released, &[Rest(0)])]];
        play(&mut singleton, &lasted.concat());
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
            &[(Granted, &[Serve]), (Shutdown, &[Dismiss]), (Shutdown, &[]), stopped, (Released, &[Finish])],
        );
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
