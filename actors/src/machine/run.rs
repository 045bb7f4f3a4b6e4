//! One run of one actor under one lease: it is told of doubt, asked to stop while there is time, and killed before
//! somebody else can hold.
//!
//! ```text
//! Running ──▶ Stopping ──▶ Killed ──▶ Over
//! ```
//!
//! Each stage may be skipped, and `Over` is reached only when the actor has really ended.

use std::time::Duration;

use super::{LeaseState, Machine, Moment};

/// The limits of a run.
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
pub enum Event {
    /// The lease is in this state now.
    Lease(LeaseState),
    /// The actor is to be stopped, the lease being as it is.
    Stop,
    /// The actor has ended, or has not started.
    Ended {
        /// By a panic, an error, or a kill that was not ours.
        failed: bool,
    },
    /// The time of [`Machine::wakeup`] has come.
    Wake,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Tell the actor.
    Tell(LeaseEvent),
    /// Ask it to stop: no more messages, then `post_stop`.
    Stop,
    /// Cut it short, at its next await.
    Kill,
    /// It has ended, for this reason.
    Finish(EndReason),
}

/// What an actor that works under a lease is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaseEvent {
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
pub enum EndReason {
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
pub struct Run {
    limits: Limits,
    /// The proven end of the lease.
    until: Option<Moment>,
    stage: Stage,
    /// The connection is in doubt.
    suspended: bool,
    /// Since when the actor knows of a doubt.
    told: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Running,
    Stopping { reason: EndReason, grace: Moment },
    Killed { reason: EndReason },
    Over,
}

impl Run {
    /// The actor is being started.
    pub fn new(limits: Limits) -> Run {
        Run { limits, until: None, stage: Stage::Running, suspended: false, told: None }
    }

    /// The lease is proven to last until then; `None` when it has no such end. Heartbeats move it on without an event, so
    /// a driver sets it before every event.
    pub fn set_until(&mut self, until: Option<Moment>) {
        self.until = until;
    }
}

impl Machine for Run {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        match event {
            Event::Lease(LeaseState::Held) => self.suspended = false,
            Event::Lease(LeaseState::Suspended) => {
                self.suspended = true;
                if self.limits.stop_when_suspended {
                    // A message would come behind the stop.
                    self.stop(EndReason::Lease, now, out);
                }
            }
            Event::Lease(LeaseState::Lost) => self.kill(EndReason::Lease, out),
            Event::Stop => self.stop(EndReason::Stopped, now, out),
            Event::Ended { failed } => self.finish(failed, out),
            Event::Wake => {}
        }
        if self.kill_at().is_some_and(|at| now >= at) {
            let reason = match &self.stage {
                Stage::Stopping { reason, .. } => *reason,
                Stage::Running | Stage::Killed { .. } | Stage::Over => EndReason::Lease,
            };
            return self.kill(reason, out);
        }
        self.tell(now, out);
        if self.stop_at().is_some_and(|at| now >= at) {
            self.stop(EndReason::Lease, now, out);
        }
    }

    fn wakeup(&self) -> Option<Moment> {
        match &self.stage {
            Stage::Running => self.stop_at().or(self.doubt_at()).into_iter().chain(self.kill_at()).min(),
            Stage::Stopping { .. } => self.kill_at(),
            Stage::Killed { .. } | Stage::Over => None,
        }
    }
}

impl Run {
    fn tell(&mut self, now: Moment, out: &mut Vec<Command>) {
        let in_doubt = self.suspended || self.doubt_at().is_some_and(|at| now >= at);
        if self.stage != Stage::Running || self.told.is_some() == in_doubt {
            return;
        }
        self.told = in_doubt.then_some(now);
        out.push(Command::Tell(if in_doubt { LeaseEvent::Suspended } else { LeaseEvent::Resumed }));
    }

    fn stop(&mut self, reason: EndReason, now: Moment, out: &mut Vec<Command>) {
        if self.stage == Stage::Running {
            self.stage = Stage::Stopping { reason, grace: now + self.limits.grace };
            out.push(Command::Stop);
        }
    }

    fn kill(&mut self, reason: EndReason, out: &mut Vec<Command>) {
        if matches!(self.stage, Stage::Running | Stage::Stopping { .. }) {
            self.stage = Stage::Killed { reason };
            out.push(Command::Kill);
        }
    }

    fn finish(&mut self, failed: bool, out: &mut Vec<Command>) {
        let reason = match &self.stage {
            Stage::Running if failed => EndReason::Failed,
            Stage::Running => EndReason::Finished,
            Stage::Stopping { reason, .. } | Stage::Killed { reason } => *reason,
            Stage::Over => return,
        };
        self.stage = Stage::Over;
        out.push(Command::Finish(reason));
    }

    fn doubt_at(&self) -> Option<Moment> {
        self.before(DOUBT)
    }

    /// A stop discards the messages that are waiting, so it comes a notice after the one that tells of the doubt.
    fn stop_at(&self) -> Option<Moment> {
        let noticed = self.told? + self.limits.session_timeout? * (DOUBT - STOP) / PARTS;
        Some(self.before(STOP)?.max(noticed))
    }

    /// The grace ends with the lease, if not earlier.
    fn kill_at(&self) -> Option<Moment> {
        let grace = match &self.stage {
            Stage::Stopping { grace, .. } => Some(*grace),
            Stage::Running | Stage::Killed { .. } | Stage::Over => None,
        };
        self.before(KILL).into_iter().chain(grace).min()
    }

    /// So many parts of the session timeout before the lease's end.
    fn before(&self, parts: u32) -> Option<Moment> {
        let reserve = self.limits.session_timeout? * parts / PARTS;
        Some(Moment(self.until?.0.saturating_sub(reserve.as_nanos() as u64)))
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
    use Command::{Finish, Kill, Stop, Tell};
    use LeaseState::{Held, Lost, Suspended};

    /// Eight seconds: stopped two before the end, killed one before it.
    fn wakeup(run: &mut Run, until: Option<Moment>) -> Option<Moment> {
        run.set_until(until);
        run.wakeup()
    }

    fn run(stop_when_suspended: bool) -> Run {
        let session_timeout = Some(Duration::from_secs(8));
        Run::new(Limits { grace: Duration::from_secs(1), stop_when_suspended, session_timeout })
    }

    fn seconds(seconds: f64) -> Moment {
        Moment::default() + Duration::from_secs_f64(seconds)
    }

    fn at(run: &mut Run, now: f64, until: f64, input: Event) -> Vec<Command> {
        let mut out = Vec::new();
        run.set_until(Some(seconds(until)));
        run.handle(input, seconds(now), &mut out);
        out
    }

    #[test]
    fn doubt_is_told_once_and_the_actor_goes_on() {
        let mut run = run(false);
        let suspended = || Event::Lease(Suspended);
        assert_eq!(at(&mut run, 1.0, 8.0, Event::Lease(Held)), []);
        assert_eq!(at(&mut run, 2.0, 8.0, suspended()), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(at(&mut run, 2.1, 8.0, suspended()), []);
        assert_eq!(at(&mut run, 2.2, 8.0, Event::Lease(Held)), [Tell(LeaseEvent::Resumed)]);
        assert_eq!(wakeup(&mut run, Some(seconds(9.0))), Some(seconds(6.5)));
    }

    #[test]
    fn it_is_stopped_and_then_killed_before_the_lease_ends() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 5.4, 8.0, Event::Wake), []);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(5.5)));
        assert_eq!(at(&mut run, 5.5, 8.0, Event::Wake), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(6.0)));
        assert_eq!(at(&mut run, 5.9, 8.0, Event::Wake), []);
        assert_eq!(at(&mut run, 6.0, 8.0, Event::Wake), [Stop]);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(7.0)));
        assert_eq!(at(&mut run, 7.0, 8.0, Event::Wake), [Kill]);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), None);
        assert_eq!(at(&mut run, 7.1, 8.0, Event::Ended { failed: true }), [Finish(EndReason::Lease)]);
        assert_eq!(at(&mut run, 7.2, 8.0, Event::Ended { failed: true }), []);
    }

    #[test]
    fn a_lease_that_is_proven_further_puts_the_end_off() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 6.0, 9.0, Event::Wake), []);
        assert_eq!(at(&mut run, 6.5, 9.0, Event::Wake), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(at(&mut run, 7.0, 10.0, Event::Wake), [Tell(LeaseEvent::Resumed)]);
        assert_eq!(wakeup(&mut run, Some(seconds(10.0))), Some(seconds(7.5)));
    }

    #[test]
    fn one_that_is_woken_late_is_told_all_the_same_before_it_is_stopped() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 6.2, 8.0, Event::Wake), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(6.7)));
        assert_eq!(at(&mut run, 6.7, 8.0, Event::Wake), [Stop]);
        assert_eq!(at(&mut run, 7.0, 8.0, Event::Wake), [Kill]);
    }

    #[test]
    fn a_short_lease_is_a_doubt_that_lasts_until_it_is_neither_short_nor_suspended() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 5.5, 8.0, Event::Wake), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(at(&mut run, 5.6, 8.0, Event::Lease(Suspended)), []);
        assert_eq!(at(&mut run, 5.7, 8.1, Event::Lease(Held)), []);
        assert_eq!(at(&mut run, 5.8, 9.0, Event::Lease(Held)), [Tell(LeaseEvent::Resumed)]);
    }

    #[test]
    fn a_process_that_was_paused_kills_at_once() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 60.0, 8.0, Event::Wake), [Kill]);
    }

    #[test]
    fn a_lost_lease_kills_whatever_the_stage() {
        let mut running = run(false);
        assert_eq!(at(&mut running, 1.0, 8.0, Event::Lease(Lost)), [Kill]);
        let mut stopping = run(false);
        assert_eq!(at(&mut stopping, 1.0, 8.0, Event::Stop), [Stop]);
        assert_eq!(at(&mut stopping, 1.1, 8.0, Event::Lease(Lost)), [Kill]);
    }

    #[test]
    fn stopping_at_the_first_doubt_is_a_choice() {
        let mut run = run(true);
        let out = at(&mut run, 1.0, 8.0, Event::Lease(Suspended));
        assert_eq!(out, [Stop]);
        assert_eq!(at(&mut run, 1.5, 8.0, Event::Ended { failed: false }), [Finish(EndReason::Lease)]);
    }

    #[test]
    fn grace_is_for_stopping_and_ends_with_the_lease() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 1.0, 8.0, Event::Stop), [Stop]);
        assert_eq!(at(&mut run, 1.5, 8.0, Event::Stop), []);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(2.0)));
        assert_eq!(wakeup(&mut run, Some(seconds(2.5))), Some(seconds(1.5)));
        assert_eq!(at(&mut run, 2.0, 8.0, Event::Wake), [Kill]);
        assert_eq!(at(&mut run, 2.1, 8.0, Event::Ended { failed: true }), [Finish(EndReason::Stopped)]);
    }

    #[test]
    fn an_actor_that_ends_by_itself_is_told_from_one_that_fails() {
        for (failed, reason) in [(false, EndReason::Finished), (true, EndReason::Failed)] {
            assert_eq!(at(&mut run(false), 1.0, 8.0, Event::Ended { failed }), [Finish(reason)]);
        }
    }

    #[test]
    fn without_a_session_only_the_loss_ends_it() {
        let limits = Limits { session_timeout: None, ..run(false).limits };
        let (mut run, mut out) = (Run::new(limits), Vec::new());
        run.handle(Event::Wake, seconds(1e9), &mut out);
        assert_eq!((out.as_slice(), wakeup(&mut run, None)), (&[][..], None));
        run.handle(Event::Lease(Lost), seconds(1e9), &mut out);
        assert_eq!(out, [Kill]);
    }
}
