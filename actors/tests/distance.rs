//! Servers that are far away, in virtual time: what the session's machine says of the lease, and what becomes of a
//! singleton's actor that works under it.

use std::collections::VecDeque;
use std::time::Duration;

use lockkeeper_actors::lease::LeaseState;
use lockkeeper_actors::machine::Moment;
use lockkeeper_actors::machine::session::{Session, SessionCommand, SessionInput};
use lockkeeper_actors::machine::tenure::{Limits, Tenure, TenureCommand, TenureInput, TermEvent};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What came of a session of twenty timeouts whose every heartbeat is answered a round trip after it was sent, and
/// fails at once from the moment `refused` on.
struct Course {
    suspensions: usize,
    lost: bool,
    /// The least that was left of the timeout at any time, in thousandths.
    left: i64,
    beats: usize,
    /// What a singleton's actor was told, in order.
    told: Vec<TenureCommand>,
}

fn course(round_trip: Duration, refused: Option<Moment>) -> Course {
    let mut course = Course { suspensions: 0, lost: false, left: i64::MAX, beats: 0, told: Vec::new() };
    let begun = Moment(1);
    let (mut now, mut commands) = (begun + round_trip, Vec::new());
    let mut session = Session::new(begun, now, TIMEOUT, None, &mut commands);
    let limits = Limits { grace: TIMEOUT, stop_when_suspended: false, session_timeout: Some(TIMEOUT) };
    let mut tenure = Tenure::new(limits);
    let (mut answers, mut until, mut state) = (VecDeque::new(), begun, LeaseState::Held);
    while now < begun + TIMEOUT * 20 && !course.lost {
        for command in commands.drain(..) {
            match command {
                SessionCommand::Beat(sent) => {
                    course.beats += 1;
                    let refused = refused.is_some_and(|from| sent >= from);
                    answers.push_back(match refused {
                        true => {
                            (sent + Duration::from_millis(1), SessionInput::Failed { sent, at_once: false })
                        }
                        false => (sent + round_trip, SessionInput::Answered { sent }),
                    });
                }
                SessionCommand::Identify(_) => unreachable!("the connection stays"),
                SessionCommand::Hold(end) => (until, state) = (end, LeaseState::Held),
                SessionCommand::Suspend(end) => {
                    course.suspensions += usize::from(state == LeaseState::Held);
                    (until, state) = (end, LeaseState::Suspended);
                }
                SessionCommand::Lose => (course.lost, state) = (true, LeaseState::Lost),
            }
        }
        tenure.handle(TenureInput::Lease(state), Some(until), now, &mut course.told);
        let left = until.since(now).as_millis() * 1000 / TIMEOUT.as_millis();
        course.left = course.left.min(left as i64);
        // Whatever comes first: an answer, or a timer of one of the two machines.
        let answered = answers.front().map(|(at, _)| *at);
        let due = [answered, session.wakeup(), tenure.wakeup(Some(until)).filter(|at| *at > now)];
        let Some(next) = due.into_iter().flatten().min() else { break };
        now = now.max(next);
        let input = match answers.front() {
            Some((at, input)) if *at <= now => {
                let input = *input;
                answers.pop_front();
                input
            }
            Some(_) | None => SessionInput::Wake,
        };
        session.handle(input, now, &mut commands);
    }
    course
}

#[test]
fn up_to_a_tenth_of_the_timeout_away_no_singleton_is_stopped() {
    for (thousandths, doubts, least_left, most_beats) in
        [(0, 0, 437, 12), (20, 0, 437, 16), (50, 0, 437, 28), (100, 1, 260, 32)]
    {
        let course = course(TIMEOUT * thousandths / 1000, None);
        let beats = course.beats / 20;
        println!(
            "round trips of {thousandths}/1000: {}/1000 left, {beats} heartbeats a timeout",
            course.left
        );
        assert!(!course.lost && !course.told.contains(&TenureCommand::Stop), "at {thousandths}");
        // Before the first proof, the lease is what the connect proved.
        assert!(course.suspensions <= doubts, "{} doubts at {thousandths}", course.suspensions);
        assert!(course.left >= least_left, "{} left at {thousandths}", course.left);
        assert!(beats <= most_beats, "{beats} heartbeats a timeout at {thousandths}");
    }
}

#[test]
fn at_a_fifth_of_the_timeout_a_singleton_is_told_of_the_doubt_before_it_is_stopped() {
    let course = course(TIMEOUT / 5, None);
    assert_eq!(course.told[..2], [TenureCommand::Tell(TermEvent::Suspended), TenureCommand::Stop]);
}

#[test]
fn heartbeats_that_are_refused_at_once_suspend_before_the_lease_is_lost() {
    let course = course(TIMEOUT / 100, Some(Moment(0) + TIMEOUT * 3));
    assert_eq!((course.suspensions, course.lost), (1, true));
    assert_eq!(course.told[..2], [TenureCommand::Tell(TermEvent::Suspended), TenureCommand::Stop]);
}
