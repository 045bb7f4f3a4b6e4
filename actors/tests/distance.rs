//! Distant servers, in virtual time: until when the lease is proven, and what a singleton's actor is told.

use std::collections::VecDeque;
use std::time::Duration;

use lockkeeper_actors::api::lease::LeaseState;
use lockkeeper_actors::machine::run::{self, LeaseEvent, Limits, Run};
use lockkeeper_actors::machine::session::{self, Session};
use lockkeeper_actors::machine::{Machine, Moment};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What happened during a simulated session.
struct Course {
    suspensions: usize,
    lost: bool,
    /// The smallest part of the timeout that was ever left, in thousandths.
    left: i64,
    beats: usize,
    /// The commands for a singleton's actor, in order.
    told: Vec<run::Command>,
}

/// Simulates a session for twenty timeouts. Each heartbeat is answered one round trip after it was sent. From `refused`
/// on, heartbeats fail at once.
fn course(round_trip: Duration, refused: Option<Moment>) -> Course {
    let mut course = Course { suspensions: 0, lost: false, left: i64::MAX, beats: 0, told: Vec::new() };
    let begun = Moment(1);
    let (mut now, mut commands) = (begun + round_trip, Vec::new());
    let mut session = Session::new(begun, now, TIMEOUT, None, &mut commands);
    let limits = Limits { grace: TIMEOUT, stop_when_suspended: false, session_timeout: Some(TIMEOUT) };
    let mut run = Run::new(limits);
    let (mut answers, mut until, mut state) = (VecDeque::new(), begun, LeaseState::Held);
    while now < begun + TIMEOUT * 20 && !course.lost {
        for command in commands.drain(..) {
            match command {
                session::Command::Heartbeat(sent) => {
                    course.beats += 1;
                    let refused = refused.is_some_and(|from| sent >= from);
                    answers.push_back(match refused {
                        true => {
                            (sent + Duration::from_millis(1), session::Event::Failed { sent, at_once: false })
                        }
                        false => (sent + round_trip, session::Event::Answered { sent }),
                    });
                }
                session::Command::Identify(_) => unreachable!("there is no reconnect"),
                session::Command::Hold(end) => (until, state) = (end, LeaseState::Held),
                session::Command::Suspend(end) => {
                    course.suspensions += usize::from(state == LeaseState::Held);
                    (until, state) = (end, LeaseState::Suspended);
                }
                session::Command::Lose => (course.lost, state) = (true, LeaseState::Lost),
            }
        }
        run.set_until(Some(until));
        run.handle(run::Event::Lease(state), now, &mut course.told);
        let left = until.since(now).as_millis() * 1000 / TIMEOUT.as_millis();
        course.left = course.left.min(left as i64);
        // The next event is an answer, or a timer of one of the two machines.
        let answered = answers.front().map(|(at, _)| *at);
        let due = [answered, session.wakeup(), run.wakeup().filter(|at| *at > now)];
        let Some(next) = due.into_iter().flatten().min() else { break };
        now = now.max(next);
        let event = match answers.front() {
            Some((at, event)) if *at <= now => {
                let event = *event;
                answers.pop_front();
                event
            }
            Some(_) | None => session::Event::Wake,
        };
        session.handle(event, now, &mut commands);
    }
    course
}

#[test]
fn with_round_trips_up_to_a_tenth_of_the_timeout_no_singleton_is_stopped() {
    for (thousandths, suspensions, least_left, most_beats) in
        [(0, 0, 437, 12), (20, 0, 437, 16), (50, 0, 437, 28), (100, 1, 260, 32)]
    {
        let course = course(TIMEOUT * thousandths / 1000, None);
        let beats = course.beats / 20;
        println!(
            "round trips of {thousandths}/1000: {}/1000 left, {beats} heartbeats a timeout",
            course.left
        );
        assert!(!course.lost && !course.told.contains(&run::Command::Stop), "at {thousandths}");
        // Before the first proof by heartbeats, only the connect proves the lease.
        assert!(course.suspensions <= suspensions, "{} suspensions at {thousandths}", course.suspensions);
        assert!(course.left >= least_left, "{} left at {thousandths}", course.left);
        assert!(beats <= most_beats, "{beats} heartbeats a timeout at {thousandths}");
    }
}

#[test]
fn with_round_trips_of_a_fifth_of_the_timeout_a_singleton_is_told_before_it_is_stopped() {
    let course = course(TIMEOUT / 5, None);
    assert_eq!(course.told[..2], [run::Command::Tell(LeaseEvent::Suspended), run::Command::Stop]);
}

#[test]
fn heartbeats_that_are_refused_at_once_suspend_before_the_lease_is_lost() {
    let course = course(TIMEOUT / 100, Some(Moment(0) + TIMEOUT * 3));
    assert_eq!((course.suspensions, course.lost), (1, true));
    assert_eq!(course.told[..2], [run::Command::Tell(LeaseEvent::Suspended), run::Command::Stop]);
}
