//! One run of an actor under a lease. When the lease is about to end, the actor is first told that it is suspended,
//! then asked to stop, and killed before somebody else can hold the lock.
//!
//! ```text
//! Running ──▶ Stopping ──▶ Killed ──▶ Over
//! ```
//!
//! `Stopping` and `Killed` may be skipped. `Over` is reached only when the actor has ended.

use std::time::Duration;

use super::{LeaseState, Machine, Moment};

/// The limits of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// How long the actor may take to stop before it is killed.
    pub grace: Duration,
    /// Whether the actor is stopped as soon as the lease is suspended.
    pub stop_when_suspended: bool,
    /// The timeout of the lease's session; `None` if the lease outlives sessions.
    pub session_timeout: Option<Duration>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The lease changed to this state.
    Lease(LeaseState),
    /// The actor must be stopped, regardless of the lease.
    Stop,
    /// The actor has ended, or could not start.
    Ended {
        /// It ended with an error or a panic, or was killed.
        failed: bool,
    },
    /// The time of [`Machine::wakeup`] has come.
    Wake,
}

/// What the driver must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Send this event to the actor.
    Tell(LeaseEvent),
    /// Ask the actor to stop: it handles no more messages, and runs `post_stop`.
    Stop,
    /// Kill the actor, which ends it at its next await.
    Kill,
    /// Report that the actor has ended, and why.
    Finish(EndReason),
}

/// What an actor that works under a lease is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaseEvent {
    /// The lease is suspended: the connection broke, or less than five sixteenths of the session timeout are still
    /// proven. Unless the lease is resumed, the actor will be stopped a quarter of the session timeout before somebody
    /// else can hold the lock.
    Suspended,
    /// The lease is no longer suspended.
    Resumed,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The actor stopped by itself.
    Finished,
    /// The actor could not start, panicked, returned an error, or was killed by somebody else.
    Failed,
    /// The run was asked to stop.
    Stopped,
    /// The lease was suspended, about to end, or lost. Also if the run was asked to stop, and the actor was killed before
    /// its grace was over.
    Lease,
}

/// The machine of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    limits: Limits,
    /// The proven end of the lease.
    until: Option<Moment>,
    stage: Stage,
    /// The lease is suspended.
    suspended: bool,
    /// When the actor was told that the lease is suspended; `None` if it is not.
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
    /// A run whose actor is starting.
    pub fn new(limits: Limits) -> Run {
        Run { limits, until: None, stage: Stage::Running, suspended: false, told: None }
    }

    /// Sets the proven end of the lease; `None` when it has no end. Heartbeats extend the lease without an event, so
    /// the driver calls this before every event.
    pub fn set_until(&mut self, until: Option<Moment>) {
        self.until = until;
    }

    /// The proven end of the lease, as it was set last.
    pub fn until(&self) -> Option<Moment> {
        self.until
    }
}

impl Machine for Run {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        match event {
            Event::Lease(LeaseState::Held) => self.suspended = false,
            Event::Lease(LeaseState::Suspended) => self.suspended = true,
            Event::Lease(LeaseState::Lost) => self.kill(EndReason::Lease, out),
            Event::Stop => self.stop(EndReason::Stopped, now, out),
            Event::Ended { failed } => self.finish(failed, out),
            Event::Wake => {}
        }
        if self.kill_at().is_some_and(|at| now >= at) {
            let reason = match &self.stage {
                Stage::Stopping { reason, grace } if now >= *grace => *reason,
                Stage::Running | Stage::Stopping { .. } | Stage::Killed { .. } | Stage::Over => {
                    EndReason::Lease
                }
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
            Stage::Running => self.stop_at().or(self.suspended_at()).into_iter().chain(self.kill_at()).min(),
            Stage::Stopping { .. } => self.kill_at(),
            Stage::Killed { .. } | Stage::Over => None,
        }
    }
}

impl Run {
    /// Tells the actor that the lease is suspended or resumed, or stops it instead.
    fn tell(&mut self, now: Moment, out: &mut Vec<Command>) {
        let suspended = self.suspended || self.suspended_at().is_some_and(|at| now >= at);
        if self.stage != Stage::Running || self.told.is_some() == suspended {
            return;
        }
        if suspended && self.limits.stop_when_suspended {
            // Stopped without an event, because the actor would not handle it after the stop.
            return self.stop(EndReason::Lease, now, out);
        }
        self.told = suspended.then_some(now);
        out.push(Command::Tell(if suspended { LeaseEvent::Suspended } else { LeaseEvent::Resumed }));
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

    fn suspended_at(&self) -> Option<Moment> {
        self.before(SUSPENDED)
    }

    /// A stop discards unhandled messages, so it comes some time after the actor was told that the lease is suspended.
    fn stop_at(&self) -> Option<Moment> {
        let noticed = self.told? + self.limits.session_timeout? * (SUSPENDED - STOP) / PARTS;
        Some(self.before(STOP)?.max(noticed))
    }

    /// The grace ends with the lease, or earlier.
    fn kill_at(&self) -> Option<Moment> {
        let grace = match &self.stage {
            Stage::Stopping { grace, .. } => Some(*grace),
            Stage::Running | Stage::Killed { .. } | Stage::Over => None,
        };
        self.before(KILL).into_iter().chain(grace).min()
    }

    /// The moment that is this many parts of the session timeout before the lease's end.
    fn before(&self, parts: u32) -> Option<Moment> {
        let reserve = self.limits.session_timeout? * parts / PARTS;
        Some(self.until? - reserve)
    }
}

/// The following constants are in these parts of the session timeout, before the lease's end.
const PARTS: u32 = 16;

/// The actor is told that the lease is suspended, if it has not been told yet. While heartbeats are answered, at least
/// six parts less a round trip are always left.
const SUSPENDED: u32 = 5;

/// The actor is asked to stop, and can clean up.
const STOP: u32 = 4;

/// The actor is killed. The rest of the time is for its end, which comes at its next await.
const KILL: u32 = 2;

#[cfg(test)]
mod phases;

#[cfg(test)]
mod tests {
    use super::*;
    use Command::{Finish, Kill, Stop, Tell};
    use LeaseState::{Held, Lost, Suspended};

    /// With a session timeout of eight seconds: stopped two seconds before the end, killed one second before it.
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
    fn a_suspension_is_reported_once_and_the_actor_continues() {
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
    fn an_extended_lease_postpones_the_stop() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 6.0, 9.0, Event::Wake), []);
        assert_eq!(at(&mut run, 6.5, 9.0, Event::Wake), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(at(&mut run, 7.0, 10.0, Event::Wake), [Tell(LeaseEvent::Resumed)]);
        assert_eq!(wakeup(&mut run, Some(seconds(10.0))), Some(seconds(7.5)));
    }

    #[test]
    fn a_late_wakeup_still_reports_the_suspension_before_the_stop() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 6.2, 8.0, Event::Wake), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(6.7)));
        assert_eq!(at(&mut run, 6.7, 8.0, Event::Wake), [Stop]);
        assert_eq!(at(&mut run, 7.0, 8.0, Event::Wake), [Kill]);
    }

    #[test]
    fn a_lease_near_its_end_is_reported_as_suspended_until_it_is_extended_and_held() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 5.5, 8.0, Event::Wake), [Tell(LeaseEvent::Suspended)]);
        assert_eq!(at(&mut run, 5.6, 8.0, Event::Lease(Suspended)), []);
        assert_eq!(at(&mut run, 5.7, 8.1, Event::Lease(Held)), []);
        assert_eq!(at(&mut run, 5.8, 9.0, Event::Lease(Held)), [Tell(LeaseEvent::Resumed)]);
    }

    #[test]
    fn after_a_pause_of_the_process_the_actor_is_killed_at_once() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 60.0, 8.0, Event::Wake), [Kill]);
    }

    #[test]
    fn a_lost_lease_kills_in_every_stage() {
        let mut running = run(false);
        assert_eq!(at(&mut running, 1.0, 8.0, Event::Lease(Lost)), [Kill]);
        let mut stopping = run(false);
        assert_eq!(at(&mut stopping, 1.0, 8.0, Event::Stop), [Stop]);
        assert_eq!(at(&mut stopping, 1.1, 8.0, Event::Lease(Lost)), [Kill]);
    }

    #[test]
    fn it_can_be_stopped_as_soon_as_the_lease_is_suspended() {
        let mut run = run(true);
        let out = at(&mut run, 1.0, 8.0, Event::Lease(Suspended));
        assert_eq!(out, [Stop]);
        assert_eq!(at(&mut run, 1.5, 8.0, Event::Ended { failed: false }), [Finish(EndReason::Lease)]);
    }

    #[test]
    fn it_is_not_told_first_if_it_is_stopped_when_the_lease_is_suspended() {
        let mut run = run(true);
        assert_eq!(at(&mut run, 5.4, 8.0, Event::Wake), []);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(5.5)));
        assert_eq!(at(&mut run, 5.5, 8.0, Event::Wake), [Stop]);
        assert_eq!(at(&mut run, 5.5, 8.0, Event::Lease(Suspended)), []);
        assert_eq!(at(&mut run, 5.6, 9.0, Event::Ended { failed: false }), [Finish(EndReason::Lease)]);
    }

    #[test]
    fn the_grace_begins_with_the_stop_and_ends_with_the_lease() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 1.0, 8.0, Event::Stop), [Stop]);
        assert_eq!(at(&mut run, 1.5, 8.0, Event::Stop), []);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(2.0)));
        assert_eq!(wakeup(&mut run, Some(seconds(2.5))), Some(seconds(1.5)));
        assert_eq!(at(&mut run, 2.0, 8.0, Event::Wake), [Kill]);
        assert_eq!(at(&mut run, 2.1, 8.0, Event::Ended { failed: true }), [Finish(EndReason::Stopped)]);
    }

    #[test]
    fn if_the_lease_ends_before_the_grace_the_lease_is_the_reason() {
        let mut run = run(false);
        assert_eq!(at(&mut run, 6.5, 8.0, Event::Stop), [Stop]);
        assert_eq!(wakeup(&mut run, Some(seconds(8.0))), Some(seconds(7.0)), "the grace ends at 7.5");
        assert_eq!(at(&mut run, 7.0, 8.0, Event::Wake), [Kill]);
        assert_eq!(at(&mut run, 7.1, 8.0, Event::Ended { failed: true }), [Finish(EndReason::Lease)]);
    }

    #[test]
    fn an_actor_that_stops_by_itself_differs_from_one_that_fails() {
        for (failed, reason) in [(false, EndReason::Finished), (true, EndReason::Failed)] {
            assert_eq!(at(&mut run(false), 1.0, 8.0, Event::Ended { failed }), [Finish(reason)]);
        }
    }

    #[test]
    fn a_lease_without_a_session_ends_only_when_it_is_lost() {
        let limits = Limits { session_timeout: None, ..run(false).limits };
        let (mut run, mut out) = (Run::new(limits), Vec::new());
        run.handle(Event::Wake, seconds(1e9), &mut out);
        assert_eq!((out.as_slice(), wakeup(&mut run, None)), (&[][..], None));
        run.handle(Event::Lease(Lost), seconds(1e9), &mut out);
        assert_eq!(out, [Kill]);
    }
}
