//! One run of one actor under one lease: it is told of doubt, asked to stop while there is time, and killed before
//! somebody else can hold.
//!
//! ```text
//! Running ──▶ Stopping ──▶ Killed ──▶ Over
//! ```
//!
//! Each phase may be skipped, and `Over` is reached only when the actor has really ended.

use std::time::Duration;

use super::Moment;
use crate::api::lease::LeaseState;

/// What a tenure may take, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// How long the actor may take to stop, before it is killed.
    pub grace: Duration,
    /// Whether it is stopped as soon as the connection is in doubt.
    pub stop_when_suspended: bool,
    /// The timeout of the session that the lease goes with, if it goes with one.
    pub session_timeout: Option<Duration>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TenureInput {
    /// The lease is in this state now.
    Lease(LeaseState),
    /// The actor is to be stopped, the lease being as it is.
    Stop,
    /// The actor has ended, or has not started.
    Ended {
        /// By a panic, an error, or a kill that was not ours.
        failed: bool,
    },
    /// The time of [`Tenure::wakeup`] has come.
    Wake,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenureCommand {
    /// Tell the actor.
    Tell(TermEvent),
    /// Ask it to stop: no more messages, then `post_stop`.
    Stop,
    /// Cut it short, at its next await.
    Kill,
    /// It has ended, for this reason.
    Finish(Reason),
}

/// What an actor that works under a lease is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TermEvent {
    /// The connection is in doubt: it is gone, or the lease is proven for less than five sixteenths of the session
    /// timeout. Unless that passes, the actor will be stopped, a quarter of the session
    /// timeout before somebody else can hold.
    Suspended,
    /// The connection is no longer in doubt.
    Resumed,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The actor stopped by itself.
    Finished,
    /// It did not start, panicked, returned an error, or was killed by somebody else.
    Failed,
    /// It was asked to stop.
    Stopped,
    /// The connection was in doubt, or the lease came to its end.
    Lease,
}

/// The machine of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenure {
    limits: Limits,
    phase: Phase,
    /// The connection is in doubt.
    suspended: bool,
    /// Since when the actor knows of a doubt.
    told: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Running,
    Stopping { reason: Reason, grace: Moment },
    Killed { reason: Reason },
    Over,
}

impl Tenure {
    /// The actor is being started.
    pub fn new(limits: Limits) -> Tenure {
        Tenure { limits, phase: Phase::Running, suspended: false, told: None }
    }

    /// One event, at `now`, while the lease is proven to last until `until`; `None` when it has no such end.
    pub fn handle(
        &mut self,
        input: TenureInput,
        until: Option<Moment>,
        now: Moment,
        out: &mut Vec<TenureCommand>,
    ) {
        match input {
            TenureInput::Lease(LeaseState::Held) => self.suspended = false,
            TenureInput::Lease(LeaseState::Suspended) => {
                self.suspended = true;
                if self.limits.stop_when_suspended {
                    // A message would come behind the stop.
                    self.stop(Reason::Lease, now, out);
                }
            }
            TenureInput::Lease(LeaseState::Lost) => self.kill(Reason::Lease, out),
            TenureInput::Stop => self.stop(Reason::Stopped, now, out),
            TenureInput::Ended { failed } => self.finish(failed, out),
            TenureInput::Wake => {}
        }
        if self.kill_at(until).is_some_and(|at| now >= at) {
            let reason = match &self.phase {
                Phase::Stopping { reason, .. } => *reason,
                Phase::Running | Phase::Killed { .. } | Phase::Over => Reason::Lease,
            };
            return self.kill(reason, out);
        }
        self.tell(until, now, out);
        if self.stop_at(until).is_some_and(|at| now >= at) {
            self.stop(Reason::Lease, now, out);
        }
    }

    /// When to be called again at the latest.
    pub fn wakeup(&self, until: Option<Moment>) -> Option<Moment> {
        match &self.phase {
            Phase::Running => {
                self.stop_at(until).or(self.doubt_at(until)).into_iter().chain(self.kill_at(until)).min()
            }
            Phase::Stopping { .. } => self.kill_at(until),
            Phase::Killed { .. } | Phase::Over => None,
        }
    }

    fn tell(&mut self, until: Option<Moment>, now: Moment, out: &mut Vec<TenureCommand>) {
        let in_doubt = self.suspended || self.doubt_at(until).is_some_and(|at| now >= at);
        if self.phase != Phase::Running || self.told.is_some() == in_doubt {
            return;
        }
        self.told = in_doubt.then_some(now);
        out.push(TenureCommand::Tell(if in_doubt { TermEvent::Suspended } else { TermEvent::Resumed }));
    }

    fn stop(&mut self, reason: Reason, now: Moment, out: &mut Vec<TenureCommand>) {
        if self.phase == Phase::Running {
            self.phase = Phase::Stopping { reason, grace: now + self.limits.grace };
            out.push(TenureCommand::Stop);
        }
    }

    fn kill(&mut self, reason: Reason, out: &mut Vec<TenureCommand>) {
        if matches!(self.phase, Phase::Running | Phase::Stopping { .. }) {
            self.phase = Phase::Killed { reason };
            out.push(TenureCommand::Kill);
        }
    }

    fn finish(&mut self, failed: bool, out: &mut Vec<TenureCommand>) {
        let reason = match &self.phase {
            Phase::Running if failed => Reason::Failed,
            Phase::Running => Reason::Finished,
            Phase::Stopping { reason, .. } | Phase::Killed { reason } => *reason,
            Phase::Over => return,
        };
        self.phase = Phase::Over;
        out.push(TenureCommand::Finish(reason));
    }

    fn doubt_at(&self, until: Option<Moment>) -> Option<Moment> {
        self.before(until, DOUBT)
    }

    /// A stop discards the messages that are waiting, so it comes a notice after the one that tells of the doubt.
    fn stop_at(&self, until: Option<Moment>) -> Option<Moment> {
        let noticed = self.told? + self.limits.session_timeout? * (DOUBT - STOP) / PARTS;
        Some(self.before(until, STOP)?.max(noticed))
    }

    /// The grace ends with the lease, if not earlier.
    fn kill_at(&self, until: Option<Moment>) -> Option<Moment> {
        let grace = match &self.phase {
            Phase::Stopping { grace, .. } => Some(*grace),
            Phase::Running | Phase::Killed { .. } | Phase::Over => None,
        };
        self.before(until, KILL).into_iter().chain(grace).min()
    }

    /// So many parts of the session timeout before the lease's end.
    fn before(&self, until: Option<Moment>, parts: u32) -> Option<Moment> {
        let reserve = self.limits.session_timeout? * parts / PARTS;
        Some(Moment(until?.0.saturating_sub(reserve.as_nanos() as u64)))
    }
}

/// Of a session timeout.
const PARTS: u32 = 16;

/// So many parts before the end, the actor is told of a doubt if it does not know yet. A lease that is being proven
/// is good for six, less a round trip, at any time.
const DOUBT: u32 = 5;

/// From here on it is stopping, and cleans up.
const STOP: u32 = 4;

/// The rest is for killing: an actor dies at its next await, as soon as the machine lets it run.
const KILL: u32 = 2;

#[cfg(test)]
mod phases;

#[cfg(test)]
mod tests {
    use super::*;
    use LeaseState::{Held, Lost, Suspended};
    use TenureCommand::{Finish, Kill, Stop, Tell};

    /// Eight seconds: stopped two before the end, killed one before it.
    fn tenure(stop_when_suspended: bool) -> Tenure {
        let session_timeout = Some(Duration::from_secs(8));
        Tenure::new(Limits { grace: Duration::from_secs(1), stop_when_suspended, session_timeout })
    }

    fn seconds(seconds: f64) -> Moment {
        Moment::default() + Duration::from_secs_f64(seconds)
    }

    fn at(tenure: &mut Tenure, now: f64, until: f64, input: TenureInput) -> Vec<TenureCommand> {
        let mut out = Vec::new();
        tenure.handle(input, Some(seconds(until)), seconds(now), &mut out);
        out
    }

    #[test]
    fn doubt_is_told_once_and_the_actor_goes_on() {
        let mut tenure = tenure(false);
        let suspended = || TenureInput::Lease(Suspended);
        assert_eq!(at(&mut tenure, 1.0, 8.0, TenureInput::Lease(Held)), []);
        assert_eq!(at(&mut tenure, 2.0, 8.0, suspended()), [Tell(TermEvent::Suspended)]);
        assert_eq!(at(&mut tenure, 2.1, 8.0, suspended()), []);
        assert_eq!(at(&mut tenure, 2.2, 8.0, TenureInput::Lease(Held)), [Tell(TermEvent::Resumed)]);
        assert_eq!(tenure.wakeup(Some(seconds(9.0))), Some(seconds(6.5)));
    }

    #[test]
    fn it_is_stopped_and_then_killed_before_the_lease_ends() {
        let mut tenure = tenure(false);
        assert_eq!(at(&mut tenure, 5.4, 8.0, TenureInput::Wake), []);
        assert_eq!(tenure.wakeup(Some(seconds(8.0))), Some(seconds(5.5)));
        assert_eq!(at(&mut tenure, 5.5, 8.0, TenureInput::Wake), [Tell(TermEvent::Suspended)]);
        assert_eq!(tenure.wakeup(Some(seconds(8.0))), Some(seconds(6.0)));
        assert_eq!(at(&mut tenure, 5.9, 8.0, TenureInput::Wake), []);
        assert_eq!(at(&mut tenure, 6.0, 8.0, TenureInput::Wake), [Stop]);
        assert_eq!(tenure.wakeup(Some(seconds(8.0))), Some(seconds(7.0)));
        assert_eq!(at(&mut tenure, 7.0, 8.0, TenureInput::Wake), [Kill]);
        assert_eq!(tenure.wakeup(Some(seconds(8.0))), None);
        assert_eq!(at(&mut tenure, 7.1, 8.0, TenureInput::Ended { failed: true }), [Finish(Reason::Lease)]);
        assert_eq!(at(&mut tenure, 7.2, 8.0, TenureInput::Ended { failed: true }), []);
    }

    #[test]
    fn a_lease_that_is_proven_further_puts_the_end_off() {
        let mut tenure = tenure(false);
        assert_eq!(at(&mut tenure, 6.0, 9.0, TenureInput::Wake), []);
        assert_eq!(at(&mut tenure, 6.5, 9.0, TenureInput::Wake), [Tell(TermEvent::Suspended)]);
        assert_eq!(at(&mut tenure, 7.0, 10.0, TenureInput::Wake), [Tell(TermEvent::Resumed)]);
        assert_eq!(tenure.wakeup(Some(seconds(10.0))), Some(seconds(7.5)));
    }

    #[test]
    fn one_that_is_woken_late_is_told_all_the_same_before_it_is_stopped() {
        let mut tenure = tenure(false);
        assert_eq!(at(&mut tenure, 6.2, 8.0, TenureInput::Wake), [Tell(TermEvent::Suspended)]);
        assert_eq!(tenure.wakeup(Some(seconds(8.0))), Some(seconds(6.7)));
        assert_eq!(at(&mut tenure, 6.7, 8.0, TenureInput::Wake), [Stop]);
        assert_eq!(at(&mut tenure, 7.0, 8.0, TenureInput::Wake), [Kill]);
    }

    #[test]
    fn a_short_lease_is_a_doubt_that_lasts_until_it_is_neither_short_nor_suspended() {
        let mut tenure = tenure(false);
        assert_eq!(at(&mut tenure, 5.5, 8.0, TenureInput::Wake), [Tell(TermEvent::Suspended)]);
        assert_eq!(at(&mut tenure, 5.6, 8.0, TenureInput::Lease(Suspended)), []);
        assert_eq!(at(&mut tenure, 5.7, 8.1, TenureInput::Lease(Held)), []);
        assert_eq!(at(&mut tenure, 5.8, 9.0, TenureInput::Lease(Held)), [Tell(TermEvent::Resumed)]);
    }

    #[test]
    fn a_process_that_was_paused_kills_at_once() {
        let mut tenure = tenure(false);
        assert_eq!(at(&mut tenure, 60.0, 8.0, TenureInput::Wake), [Kill]);
    }

    #[test]
    fn a_lost_lease_kills_whatever_the_phase() {
        let mut running = tenure(false);
        assert_eq!(at(&mut running, 1.0, 8.0, TenureInput::Lease(Lost)), [Kill]);
        let mut stopping = tenure(false);
        assert_eq!(at(&mut stopping, 1.0, 8.0, TenureInput::Stop), [Stop]);
        assert_eq!(at(&mut stopping, 1.1, 8.0, TenureInput::Lease(Lost)), [Kill]);
    }

    #[test]
    fn stopping_at_the_first_doubt_is_a_choice() {
        let mut tenure = tenure(true);
        let out = at(&mut tenure, 1.0, 8.0, TenureInput::Lease(Suspended));
        assert_eq!(out, [Stop]);
        assert_eq!(at(&mut tenure, 1.5, 8.0, TenureInput::Ended { failed: false }), [Finish(Reason::Lease)]);
    }

    #[test]
    fn grace_is_for_stopping_and_ends_with_the_lease() {
        let mut tenure = tenure(false);
        assert_eq!(at(&mut tenure, 1.0, 8.0, TenureInput::Stop), [Stop]);
        assert_eq!(at(&mut tenure, 1.5, 8.0, TenureInput::Stop), []);
        assert_eq!(tenure.wakeup(Some(seconds(8.0))), Some(seconds(2.0)));
        assert_eq!(tenure.wakeup(Some(seconds(2.5))), Some(seconds(1.5)));
        assert_eq!(at(&mut tenure, 2.0, 8.0, TenureInput::Wake), [Kill]);
        assert_eq!(at(&mut tenure, 2.1, 8.0, TenureInput::Ended { failed: true }), [Finish(Reason::Stopped)]);
    }

    #[test]
    fn an_actor_that_ends_by_itself_is_told_from_one_that_fails() {
        for (failed, reason) in [(false, Reason::Finished), (true, Reason::Failed)] {
            assert_eq!(at(&mut tenure(false), 1.0, 8.0, TenureInput::Ended { failed }), [Finish(reason)]);
        }
    }

    #[test]
    fn without_a_session_only_the_loss_ends_it() {
        let limits = Limits { session_timeout: None, ..tenure(false).limits };
        let (mut tenure, mut out) = (Tenure::new(limits), Vec::new());
        tenure.handle(TenureInput::Wake, None, seconds(1e9), &mut out);
        assert_eq!((out.as_slice(), tenure.wakeup(None)), (&[][..], None));
        tenure.handle(TenureInput::Lease(Lost), None, seconds(1e9), &mut out);
        assert_eq!(out, [Kill]);
    }
}
