//! Which reads count.

use super::*;

/// Queued for the mutex behind three foreign contenders, of which the nearest is deleted.
fn behind_many() -> (Test, [Znode; 3]) {
    let mut test = Test::warm();
    let _ = test.acquire(1, 1, FOREVER);
    let names = [6, 7, 8].map(|number| format!("{:032x}__lock__{number:010}", 9));
    let _ = test.entered(1, 9, &names.each_ref().map(String::as_str));
    assert_eq!(test.state_read(3, None, &[]), [Command::Reply(Reply::Queued(Ticket(1), 3))]);
    let ahead = names.map(|name| Znode::parse(&name).expect("a contender"));
    let gone = test.on(lock::Event::Fired { node: ahead[2].clone(), gone: true });
    assert_eq!(
        gone,
        [Command::Mutex(lock::Command::List { sync: false }), synced(4, Reading::Skip, Reading::Once)]
    );
    (test, ahead)
}

#[test]
fn the_list_of_the_queue_and_the_list_of_the_leases_are_sent_together() {
    let (mut test, _) = behind_many();
    let own = test.mutex(1, 9).name().to_owned();
    assert_eq!(test.on(lock::Event::Listed(Ok(vec![own]))), []);
    assert_eq!(test.state_read(4, None, &[]), [test.take(6, (1, 9), false, [(1, 5)])]);
}

#[test]
fn leases_listed_while_others_were_ahead_do_not_count() {
    let (mut test, ahead) = behind_many();
    let listed = vec![ahead[0].name().to_owned(), test.mutex(1, 9).name().to_owned()];
    assert_eq!(
        test.on(lock::Event::Listed(Ok(listed))),
        [Command::Mutex(lock::Command::Watch(ahead[0].clone()))]
    );
    assert_eq!(test.state_read(4, None, &[]), []);
    let turn = test.on(lock::Event::Fired { node: ahead[0].clone(), gone: true });
    assert_eq!(turn, [synced(5, Reading::Skip, Reading::Watch)]);
}

#[test]
fn leases_listed_before_the_mutex_was_ours_do_not_count() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    let other = format!("{:032x}__lock__{:010}", 1, 1);
    let queued = test.entered(1, 2, &[&other]);
    let watch = Command::Mutex(lock::Command::Watch(Znode::parse(&other).expect("a contender")));
    assert_eq!(queued, [Command::Mutex(lock::Command::Track(test.mutex(1, 2))), watch]);
    assert_eq!(
        test.state_read(3, None, &[]),
        [Command::Reply(Reply::Queued(Ticket(1), 1))],
        "a permit was free then"
    );
    let node = Znode::parse(&other).expect("a contender");
    let first = test.on(lock::Event::Fired { node, gone: true });
    assert_eq!(first, [synced(4, Reading::Skip, Reading::Watch)]);
    let full = test.state_read(4, None, &["a", "b"]);
    assert_eq!(
        full,
        [read(5, Reading::Watch, Reading::Skip)],
        "the other process has taken the last permits"
    );
}

#[test]
fn a_read_that_fails_in_part_leaves_no_watch_behind() {
    let mut test = Test::warm();
    test.acquire(1, 2, FOREVER);
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &["x"]), [read(4, Reading::Watch, Reading::Watch)]);
    let root = Some(Ok(Root { version: 0, written: 10, data: b"2".to_vec() }));
    let leases = Some(Err(Failure::Refused("busy".into())));
    let failed = test.on(Event::StateRead { read: Attempt(4), root, leases });
    assert_eq!(failed[0], Command::UnwatchState, "the root's watch was set");
}

#[test]
fn a_late_answer_to_a_read_sent_before_the_grant_does_not_count() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    let other = format!("{:032x}__lock__{:010}", 1, 1);
    test.entered(1, 2, &[&other]);
    let node = Znode::parse(&other).expect("a contender");
    let first = test.on(lock::Event::Fired { node, gone: true });
    assert_eq!(first, [synced(4, Reading::Skip, Reading::Watch)]);
    assert_eq!(test.state_read(3, None, &[]), [], "the permits were free before the other process's turn");
}

#[test]
fn after_an_event_a_read_counts_only_after_a_successful_sync() {
    let (mut test, other) = behind_one();
    let turn = test.on(lock::Event::Fired { node: other, gone: true });
    assert_eq!(turn, [synced(4, Reading::Skip, Reading::Watch)]);
    let cut = Some(Err(Failure::Unknown("reset".into())));
    let again = test.on(Event::StateRead { read: Attempt(4), root: None, leases: cut });
    assert_eq!(again, [Command::UnwatchState, synced(5, Reading::Skip, Reading::Watch)]);
    assert_eq!(
        test.state_read(5, None, &["x", "y"]),
        [read(6, Reading::Watch, Reading::Skip)],
        "after the successful sync, no other is needed"
    );
    let cut = Some(Err(Failure::Unknown("reset".into())));
    assert_eq!(
        test.on(Event::StateRead { read: Attempt(6), root: cut, leases: None }),
        [Command::UnwatchState]
    );
    // After a pause, because the turn has failed before.
    test.now = test.machine.wakeup().expect("a retry is scheduled");
    let again = [read(7, Reading::Skip, Reading::Watch)];
    assert_eq!(test.on(PathEvent::Wake), again, "no other sync is needed");
}

#[test]
fn the_next_claim_is_served_when_the_first_is_cancelled_during_a_read_of_the_root() {
    let mut test = Test::warm();
    test.acquire(1, 2, FOREVER);
    test.acquire(2, 1, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &["x"]);
    // The watch of the root fires during the read, so that the next read is of the root alone.
    assert_eq!(test.on(Event::Changed { read: Attempt(4), part: Part::Root }), []);
    assert_eq!(test.state_read(4, Some(2), &["x"]), [read(5, Reading::Watch, Reading::Skip)]);
    let refused = [refuse(1, Refusal::Cancelled), forget(1, true)];
    assert_eq!(test.on(PathEvent::Cancel(Ticket(1))), refused);
    let root = Some(Ok(Root { version: 0, written: 10, data: b"2".to_vec() }));
    let seen = test.on(Event::StateRead { read: Attempt(5), root, leases: None });
    assert_eq!(seen, [read(6, Reading::Skip, Reading::Watch)], "one is free, and one is wanted");
    assert_eq!(test.state_read(6, None, &["x"]), [test.take(8, (1, 1), false, [(2, 7)])]);
}
