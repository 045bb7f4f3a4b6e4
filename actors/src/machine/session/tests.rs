use super::*;

const TIMEOUT: Duration = Duration::from_millis(8000);

fn at(ms: u64) -> Moment {
    Moment(0) + Duration::from_millis(ms)
}

fn started() -> (Session, Vec<Command>) {
    let mut out = Vec::new();
    let session = Session::new(at(0), at(0), TIMEOUT, None, &mut out);
    (session, out)
}

fn input(session: &mut Session, input: Event, ms: u64) -> Vec<Command> {
    let mut out = Vec::new();
    session.handle(input, at(ms), &mut out);
    out
}

/// Wakes the machine whenever it asks to be, before `end`, and answers every heartbeat ten milliseconds later. The
/// first heartbeat was sent at zero. Returns all other commands, and when each heartbeat was sent.
fn run(session: &mut Session, end: u64) -> (Vec<Command>, Vec<Moment>) {
    let (mut others, mut sent) = (Vec::new(), vec![at(0)]);
    others.extend(input(session, Event::Answered { sent: at(0) }, 10));
    while let Some(due) = session.wakeup().filter(|due| *due < at(end)) {
        let mut out = Vec::new();
        session.handle(Event::Wake, due, &mut out);
        if out.contains(&Command::Heartbeat(due)) {
            sent.push(due);
            let answer = Event::Answered { sent: due };
            session.handle(answer, due + Duration::from_millis(10), &mut out);
        }
        others.extend(out.into_iter().filter(|command| !matches!(command, Command::Heartbeat(_))));
    }
    (others, sent)
}

#[test]
fn a_new_session_is_proven_from_the_beginning_of_its_connect() {
    let mut out = Vec::new();
    let session = Session::new(at(100), at(150), TIMEOUT, None, &mut out);
    assert_eq!(out, [Command::Hold(at(8020)), Command::Heartbeat(at(150))]);
    // Until the first answer shows the round trip, heartbeats are as frequent as allowed.
    assert_eq!(session.wakeup(), Some(at(150 + 250)));
}

#[test]
fn a_write_proves_the_session_only_after_a_second_one_a_gap_later_and_a_third() {
    let (mut session, _) = started();
    // The period: the timeout less three round trips, the gap and 7/16 of the timeout, divided by three.
    let (others, sent) = run(&mut session, 3000);
    assert_eq!(sent, [at(0), at(690), at(1380), at(2070), at(2760)]);
    // The second write is sent a gap of 2400 after the answer at 10, the third after the answer to the second.
    assert_eq!(others, []);
    assert_eq!(input(&mut session, Event::Wake, 3450), [Command::Heartbeat(at(3450))]);
    assert_eq!(
        input(&mut session, Event::Answered { sent: at(3450) }, 3460),
        [],
        "the first write was sent at zero, like the connect, so it proves nothing more"
    );
    assert_eq!(input(&mut session, Event::Wake, 4140), [Command::Heartbeat(at(4140))]);
    assert_eq!(
        input(&mut session, Event::Answered { sent: at(4140) }, 4150),
        [Command::Hold(at(690 + 8000 - 80))]
    );
}

#[test]
fn a_third_write_sent_before_the_second_was_answered_proves_nothing() {
    let (mut session, _) = started();
    run(&mut session, 3000);
    for sent in [3450, 4140] {
        assert_eq!(input(&mut session, Event::Wake, sent), [Command::Heartbeat(at(sent))]);
    }
    assert_eq!(input(&mut session, Event::Answered { sent: at(3450) }, 4140), []);
    assert_eq!(input(&mut session, Event::Answered { sent: at(4140) }, 4150), []);
}

#[test]
fn seven_sixteenths_of_the_timeout_are_always_left() {
    let (mut session, _) = started();
    let (others, _) = run(&mut session, 40_000);
    let mut until = at(7920);
    for command in others {
        let Command::Hold(end) = command else { panic!("{command:?}") };
        until = end;
    }
    assert!(until >= at(40_000 + 3500 - 80), "{until:?}");
}

#[test]
fn more_is_left_when_the_tick_is_known() {
    let mut out = Vec::new();
    let mut session = Session::new(at(0), at(0), TIMEOUT, Some(Duration::from_millis(400)), &mut out);
    let (_, sent) = run(&mut session, 40_000);
    // Heartbeats are an eighth of the timeout apart, and the gap of 300 is shorter than that.
    assert_eq!(sent.last(), Some(&at(39_000)));
    assert_eq!(session.valid_until(), at(37_000 + 8000 - 80));
}

#[test]
fn a_long_tick_does_not_make_the_gap_longer_than_an_unknown_one() {
    let session = |tick| Session::new(at(0), at(0), TIMEOUT, tick, &mut Vec::new());
    for tick in [TIMEOUT * 2 / 5, TIMEOUT * 9 / 20, TIMEOUT / 2] {
        assert_eq!(session(Some(tick)), session(None), "{tick:?}");
    }
}

#[test]
fn the_gap_is_longer_than_half_a_tick_whatever_timeout_is_granted() {
    for tick in [TIMEOUT / 20, TIMEOUT / 2, TIMEOUT * 3 / 4, TIMEOUT * 2] {
        let session = Session::new(at(0), at(0), TIMEOUT, Some(tick), &mut Vec::new());
        assert!(session.gap > tick / 2, "{tick:?}");
    }
}

#[test]
fn unanswered_heartbeats_suspend_and_late_answers_resume() {
    let (mut session, _) = started();
    run(&mut session, 3000);
    let mut out = Vec::new();
    while let Some(due) = session.wakeup().filter(|due| *due <= at(7920 - 2500)) {
        session.handle(Event::Wake, due, &mut out);
    }
    let suspend = Command::Suspend(at(7920));
    assert_eq!(out.pop(), Some(suspend));
    let sent: Vec<Moment> = [3450, 4140, 4830].map(at).into();
    assert_eq!(out, sent.iter().map(|sent| Command::Heartbeat(*sent)).collect::<Vec<_>>());
    // The late answers count once another heartbeat, sent after them, is answered.
    let late = |sent| Event::Answered { sent };
    assert_eq!(input(&mut session, late(at(3450)), 5450), [Command::Heartbeat(at(5450))]);
    assert_eq!(input(&mut session, late(at(4140)), 5450), []);
    assert_eq!(input(&mut session, late(at(4830)), 5450), []);
    assert_eq!(input(&mut session, Event::Wake, 5700), [Command::Heartbeat(at(5700))]);
    assert_eq!(input(&mut session, late(at(5700)), 5710), [Command::Hold(at(2070 + 8000 - 80))]);
}

#[test]
fn the_number_of_unanswered_heartbeats_is_limited() {
    let (mut session, mut out) = started();
    while let Some(due) = session.wakeup().filter(|due| *due < at(5000)) {
        session.handle(Event::Wake, due, &mut out);
    }
    let beats = out.iter().filter(|command| matches!(command, Command::Heartbeat(_))).count();
    assert_eq!(beats, MOST_IN_FLIGHT);
}

#[test]
fn without_answers_the_session_is_lost_at_its_end_and_stays_lost() {
    let (mut session, _) = started();
    assert_eq!(input(&mut session, Event::Wake, 5420)[0], Command::Suspend(at(7920)));
    assert_eq!(input(&mut session, Event::Wake, 7920), [Command::Lose]);
    assert_eq!(session.wakeup(), None);
    assert_eq!(input(&mut session, Event::Answered { sent: at(0) }, 7930), []);
    assert_eq!(input(&mut session, Event::Reconnected, 7940), []);
}

/// A session after a disconnect and a reconnect, before the new connection is identified.
fn reconnected() -> Session {
    let (mut session, _) = started();
    run(&mut session, 3000);
    let cut = input(&mut session, Event::Disconnected, 3300);
    assert_eq!(cut, [Command::Suspend(at(7920))]);
    assert_eq!(session.wakeup(), Some(at(7920)));
    assert_eq!(
        input(&mut session, Event::Reconnected, 5000),
        [Command::Identify(at(5000)), Command::Heartbeat(at(5000))]
    );
    session
}

#[test]
fn a_reconnect_counts_the_last_answered_write_and_holds_only_when_verified() {
    let mut session = reconnected();
    // An answer to a heartbeat of the old connection does not verify the new one.
    assert_eq!(input(&mut session, Event::Answered { sent: at(2760) }, 5001), []);
    let same = Event::Identified { sent: at(5000), same: true };
    assert_eq!(input(&mut session, same, 5010), [Command::Suspend(at(2760 + 8000 - 80))]);
    assert_eq!(input(&mut session, Event::Answered { sent: at(5000) }, 5011), [Command::Hold(at(10_680))]);
}

#[test]
fn an_unidentified_connection_proves_and_verifies_nothing() {
    let mut session = reconnected();
    // Every heartbeat asks again.
    let mut out = Vec::new();
    while let Some(due) = session.wakeup().filter(|due| *due < at(7920)) {
        session.handle(Event::Wake, due, &mut out);
        session.handle(Event::Answered { sent: due }, due + Duration::from_millis(10), &mut out);
    }
    let asked = out.iter().filter(|command| matches!(command, Command::Identify(_))).count();
    let beats = out.iter().filter(|command| matches!(command, Command::Heartbeat(_))).count();
    assert!(asked == beats && asked + beats == out.len() && asked > 3, "{out:?}");
    // An answer from an earlier connection does not identify this one.
    assert_eq!(input(&mut session, Event::Identified { sent: at(4999), same: true }, 7900), []);
    assert_eq!(input(&mut session, Event::Wake, 7920), [Command::Lose]);
}

#[test]
fn a_connection_of_another_session_loses_this_session() {
    let mut session = reconnected();
    let other = Event::Identified { sent: at(5000), same: false };
    assert_eq!(input(&mut session, other, 5010), [Command::Lose]);
}

#[test]
fn a_disconnect_before_identification_keeps_the_last_write_of_the_connection_before() {
    let mut session = reconnected();
    input(&mut session, Event::Answered { sent: at(5000) }, 5010);
    input(&mut session, Event::Disconnected, 5020);
    input(&mut session, Event::Reconnected, 5500);
    let same = Event::Identified { sent: at(5500), same: true };
    assert_eq!(input(&mut session, same, 5510), [Command::Suspend(at(2760 + 8000 - 80))]);
}

#[test]
fn a_reconnect_without_a_reported_disconnect_proves_nothing() {
    let (mut session, _) = started();
    run(&mut session, 3000);
    let commands = input(&mut session, Event::Reconnected, 3300);
    let asked = [Command::Identify(at(3300)), Command::Heartbeat(at(3300))];
    assert_eq!(commands, [&[Command::Suspend(at(7920))], &asked[..]].concat());
    let same = Event::Identified { sent: at(3300), same: true };
    assert_eq!(input(&mut session, same, 3310), []);
}

#[test]
fn a_slowly_established_session_is_held_once_it_is_proven() {
    let mut out = Vec::new();
    let mut session = Session::new(at(0), at(9000), TIMEOUT, None, &mut out);
    assert_eq!(out, [Command::Suspend(at(17_000)), Command::Heartbeat(at(9000))]);
    out.clear();
    session.handle(Event::Answered { sent: at(9000) }, at(9010), &mut out);
    while let Some(due) = session.wakeup().filter(|due| *due < at(13_000)) {
        session.handle(Event::Wake, due, &mut out);
        session.handle(Event::Answered { sent: due }, due + Duration::from_millis(10), &mut out);
    }
    out.retain(|command| !matches!(command, Command::Heartbeat(_)));
    assert_eq!(out, [Command::Hold(at(9000 + 8000 - 80))]);
}

#[test]
fn a_heartbeat_is_repeated_at_once_after_a_missing_node_but_not_after_other_failures() {
    let (mut session, _) = started();
    let missed = Event::Failed { sent: at(0), at_once: true };
    assert_eq!(input(&mut session, missed, 10), [Command::Heartbeat(at(10))]);
    let refused = Event::Failed { sent: at(10), at_once: false };
    assert_eq!(input(&mut session, refused, 20), []);
    assert_eq!(session.wakeup(), Some(at(260)));
}
