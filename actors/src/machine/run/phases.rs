//! Runs the machine of a run together with the machine of its session, in virtual time, with a server that stops
//! answering. In every phase of the heartbeats, the actor is told, stopped and killed at the promised moments.

use super::*;
use crate::machine::session::{self, Session};

const TIMEOUT: Duration = Duration::from_millis(4000);
const STEADY: Duration = Duration::from_secs(20);

/// How the machine of the run is driven.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Driver {
    Correct,
    /// Of two timers that are due, the run's rings before the session's.
    WakesFirst,
    /// Broken: does not report that the session is suspended, and wakes the run only when the actor must be stopped.
    WakesLate,
}

struct World {
    now: Moment,
    session: Session,
    run: Run,
    driver: Driver,
    stop_when_suspended: bool,
    trip: Duration,
    silent_from: Moment,
    /// When each heartbeat in flight was sent, oldest first.
    beats: Vec<Moment>,
    lease: LeaseState,
    until: Moment,
    /// The commands of the run, and when they came.
    done: Vec<(Moment, Command)>,
}

impl World {
    /// Runs until the actor is killed.
    fn play(trip: Duration, silent_from: Moment, driver: Driver, stop_when_suspended: bool) -> World {
        let (begun, mut out) = (Moment::default(), Vec::new());
        let now = begun + trip;
        let session = Session::new(begun, now, TIMEOUT, None, &mut out);
        let limits = Limits { grace: TIMEOUT, stop_when_suspended, session_timeout: Some(TIMEOUT) };
        let mut world = World {
            now,
            session,
            run: Run::new(limits),
            driver,
            stop_when_suspended,
            trip,
            silent_from,
            beats: Vec::new(),
            lease: LeaseState::Held,
            until: begun,
            done: Vec::new(),
        };
        world.execute(out);
        while !world.done.iter().any(|(_, command)| *command == Command::Kill) {
            world.step();
        }
        world
    }

    fn step(&mut self) {
        let beat = self.session.wakeup();
        let answer = self.beats.iter().map(|sent| *sent + self.trip).find(|at| *at < self.silent_from);
        self.run.set_until(Some(self.until));
        let mut wake = self.run.wakeup();
        if self.driver == Driver::WakesLate {
            wake = wake.map(|at| at.max(before(self.until, 4)));
        }
        let next = [beat, answer, wake].into_iter().flatten().min();
        self.now = self.now.max(next.expect("a timer or an answer is due before the kill"));
        if answer == Some(self.now) {
            let sent = self.beats.remove(0);
            self.session(session::Event::Answered { sent });
        } else if self.driver == Driver::WakesFirst && wake.is_some_and(|at| at <= self.now) {
            self.run(Event::Wake);
        } else if beat.is_some_and(|at| at <= self.now) {
            self.session(session::Event::Wake);
        } else {
            self.run(Event::Wake);
        }
    }

    fn session(&mut self, event: session::Event) {
        let mut out = Vec::new();
        self.session.handle(event, self.now, &mut out);
        self.execute(out);
    }

    fn execute(&mut self, commands: Vec<session::Command>) {
        for command in commands {
            let (lease, until) = match command {
                session::Command::Heartbeat(sent) => {
                    self.beats.push(sent);
                    continue;
                }
                // Only after a reconnect.
                session::Command::Identify(_) => continue,
                session::Command::Hold(until) => (LeaseState::Held, until),
                session::Command::Suspend(until) => (LeaseState::Suspended, until),
                session::Command::Lose => (LeaseState::Lost, Moment::default()),
            };
            self.until = until;
            if std::mem::replace(&mut self.lease, lease) != lease && self.driver != Driver::WakesLate {
                self.run(Event::Lease(lease));
            }
        }
    }

    fn run(&mut self, event: Event) {
        let mut out = Vec::new();
        self.run.set_until(Some(self.until));
        self.run.handle(event, self.now, &mut out);
        self.done.extend(out.into_iter().map(|command| (self.now, command)));
    }

    /// The promise that was not kept, if there is one.
    fn violation(&self) -> Option<String> {
        let told = Command::Tell(LeaseEvent::Suspended);
        let reasons = match self.done[..] {
            [(suspended, first), (stop, Command::Stop), (kill, Command::Kill)]
                if first == told && !self.stop_when_suspended =>
            {
                vec![
                    (suspended + self.trip < self.silent_from, "suspended while heartbeats were answered"),
                    (stop.since(suspended) < TIMEOUT / 16, "stopped too soon after it was told"),
                    (stop != before(self.until, 4), "not stopped when a quarter was left"),
                    (kill != before(self.until, 8), "not killed when an eighth was left"),
                ]
            }
            [(stop, Command::Stop), (kill, Command::Kill)] if self.stop_when_suspended => vec![
                (stop + self.trip < self.silent_from, "stopped while heartbeats were answered"),
                (stop != self.until - TIMEOUT * 5 / 16, "not stopped when the lease was suspended"),
                (kill != before(self.until, 8), "not killed when an eighth was left"),
            ],
            _ => return Some(format!("not told, stopped and killed as promised, but {:?}", self.done)),
        };
        reasons.iter().find(|(broken, _)| *broken).map(|(_, reason)| (*reason).to_owned())
    }
}

fn before(until: Moment, part: u32) -> Moment {
    until - TIMEOUT / part
}

/// The violations in all phases of a heartbeat, each with its phase.
fn violations(trip: Duration, driver: Driver, stop_when_suspended: bool) -> Vec<String> {
    let phases = (0..500).step_by(7).map(|phase| STEADY + Duration::from_millis(phase));
    let play = |phase| World::play(trip, Moment::default() + phase, driver, stop_when_suspended);
    let worlds = phases.map(|phase| (phase, play(phase)));
    worlds.filter_map(|(phase, world)| Some(format!("{phase:?}: {}", world.violation()?))).collect()
}

fn in_every_phase(stop_when_suspended: bool) {
    for driver in [Driver::Correct, Driver::WakesFirst] {
        for thousandths in [0, 5, 20, 50] {
            let trip = TIMEOUT * thousandths / 1000 + Duration::from_micros(100);
            let violations = violations(trip, driver, stop_when_suspended);
            assert!(
                violations.is_empty(),
                "{driver:?}, round trips of {trip:?}, in {} phases of 72: {}",
                violations.len(),
                violations[0]
            );
        }
    }
}

#[test]
fn in_every_phase_of_the_heartbeat_the_actor_is_told_then_stopped_then_killed() {
    in_every_phase(false);
}

#[test]
fn in_every_phase_of_the_heartbeat_the_actor_is_stopped_when_suspended_without_being_told() {
    in_every_phase(true);
}

#[test]
fn a_driver_that_wakes_the_run_too_late_is_detected() {
    assert_eq!(violations(Duration::from_millis(1), Driver::WakesLate, false).len(), 72);
}
