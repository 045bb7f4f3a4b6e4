//! Claims that do not wait.

use super::*;

#[test]
fn a_try_whose_take_has_failed_is_refused_when_its_permit_is_gone() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.acquire(2, 1, Wait::Try);
    test.state_read(4, None, &[]);
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &[]), [test.take(7, (1, 1), false, [(1, 5), (2, 6)])]);
    test.on(Event::Taken(Attempt(7), Err(TakeFailure::Failed(Failure::Unknown("reset".into())))));
    test.on(Event::LeasesFound(Attempt(7), Ok(vec![])));
    let refused = [refuse(2, Refusal::Contended), forget(2, true)];
    assert_eq!(test.state_read(8, None, &["x", "y"])[..2], refused);
}

#[test]
fn a_try_does_not_outlast_a_lost_session() {
    // While it peeks, while it waits for the mutex, and while its leases are being created.
    for (steps, confirmed) in [(0, true), (1, true), (2, false)] {
        let mut test = Test::warm();
        test.acquire(1, 1, Wait::Try);
        if steps > 0 {
            test.state_read(3, None, &[]);
        }
        if steps > 1 {
            test.granted(1, 1);
            test.state_read(4, None, &[]);
        }
        let refused = [refuse(1, Refusal::Suspended), forget(1, confirmed)];
        assert_eq!(test.on(PathEvent::Lost), refused, "{steps}");
        assert_eq!(test.on(PathEvent::Connected { session: 2 }), [], "{steps}");
        assert!(test.machine.is_idle(), "{steps}");
    }
}

#[test]
fn a_try_reads_before_it_is_queued_and_waits_only_a_limited_time() {
    let mut test = Test::warm();
    assert_eq!(test.acquire(1, 1, Wait::Try), [read(3, Reading::Skip, Reading::Once)]);
    let full = test.state_read(3, None, &["x", "y"]);
    assert_eq!(full, [refuse(1, Refusal::Contended), forget(1, true)]);

    test.acquire(2, 1, Wait::Try);
    let free = test.state_read(4, None, &["x"]);
    assert_eq!(free, [enter(1, 2), read(5, Reading::Skip, Reading::Once)]);
    let other = format!("{:032x}__lock__{:010}", 1, 1);
    test.entered(1, 2, &[&other]);
    test.now = test.now + TRY_LIMIT;
    assert_eq!(test.machine.wakeup(), Some(test.now));
    let given_up = test.on(PathEvent::Wake);
    assert_eq!(given_up[..2], [refuse(2, Refusal::Contended), forget(2, true)]);
    assert!(given_up.contains(&Command::Mutex(lock::Command::Delete(Attempt(1), test.mutex(1, 2)))));
}

#[test]
fn tries_share_a_read_that_was_sent_after_they_arrived() {
    let mut test = Test::warm();
    assert_eq!(test.acquire(1, 1, Wait::Try), [read(3, Reading::Skip, Reading::Once)]);
    // The read in flight may be older than these.
    for ticket in 2..500 {
        assert_eq!(test.acquire(ticket, 1, Wait::Try), []);
    }
    let cancelled = [refuse(2, Refusal::Cancelled), forget(2, true)];
    assert_eq!(test.on(PathEvent::Cancel(Ticket(2))), cancelled);
    let first = [refuse(1, Refusal::Contended), forget(1, true)];
    let next = [read(4, Reading::Skip, Reading::Once)];
    assert_eq!(test.state_read(3, None, &["x", "y"]), [&first[..], &next].concat());
    assert_eq!(test.acquire(500, 1, Wait::Try), []);
    let shared: Vec<Command> = (3..500)
        .flat_map(|ticket| [refuse(ticket, Refusal::Contended), forget(ticket, true)])
        .chain([read(5, Reading::Skip, Reading::Once)])
        .collect();
    assert_eq!(test.state_read(4, None, &["x", "y"]), shared);
    assert_eq!(test.state_read(5, None, &["x"])[0], enter(1, 500));
}

#[test]
fn a_try_of_a_new_session_does_not_wait_for_a_read_of_the_old_one() {
    let mut test = Test::warm();
    test.acquire(1, 1, Wait::Try);
    test.acquire(2, 1, Wait::Try);
    test.on(PathEvent::Lost);
    test.on(PathEvent::Connected { session: 2 });
    assert_eq!(test.acquire(3, 1, Wait::Try), [read(4, Reading::Once, Reading::Once)]);
}

#[test]
fn a_try_that_read_while_the_limit_changed_reads_again() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &[]);
    test.acquire(2, 1, Wait::Try);
    test.on(Event::Taken(Attempt(5), Err(TakeFailure::LimitChanged)));
    assert_eq!(test.state_read(6, None, &[]), [read(8, Reading::Once, Reading::Once)]);
}

#[test]
fn a_try_waits_once_more_when_the_mutex_is_deleted_during_its_take() {
    let mut test = Test::warm();
    test.acquire(2, 1, Wait::Try);
    test.state_read(3, None, &[]);
    test.granted(1, 1);
    assert_eq!(test.state_read(4, None, &[]), [test.take(6, (1, 1), false, [(2, 5)])]);
    test.now = test.now + TRY_LIMIT;
    assert_eq!(test.on(PathEvent::Wake), [], "the leases are being created");
    test.on(Event::Taken(Attempt(6), Err(TakeFailure::MutexGone)));
    test.now = test.now + TRY_LIMIT;
    assert_eq!(test.on(PathEvent::Wake)[0], refuse(2, Refusal::Contended));
}

/// The limit with too few permits for the first claim differs from the one after the read of the root.
#[test]
fn a_change_of_the_limit_that_a_try_reads_first_is_noticed() {
    let mut test = Test::warm();
    let request = PermitRequest { count: 2, limit: Some(2), agreed: true, bytes: 100, wait: FOREVER };
    test.on(Event::Acquire { ticket: Ticket(1), request });
    test.granted(1, 1);
    test.written = 11;
    assert_eq!(test.state_read(3, None, &["x"]), [read(4, Reading::Once, Reading::Watch)]);
    test.acquire(2, 1, Wait::Try);
    assert_eq!(test.state_read(4, Some(2), &["x"]), [read(6, Reading::Watch, Reading::Skip)]);
    test.written = 12;
    test.state_read(5, Some(1), &["x"]);
    let root = Some(Ok(Root { version: 0, written: 12, data: b"1".to_vec() }));
    let seen = test.on(Event::StateRead { read: Attempt(6), root, leases: None });
    assert_eq!(seen, [read(7, Reading::Skip, Reading::Watch)]);
    let refused = test.state_read(7, None, &["x"]);
    assert_eq!(refused[0], refuse(1, Refusal::TooMany { count: 2, limit: 1 }));
}

#[test]
fn a_try_is_not_reported_as_queued() {
    let mut test = Test::warm();
    test.acquire(1, 1, Wait::Try);
    assert_eq!(test.state_read(3, None, &["x"]), [enter(1, 1), read(4, Reading::Skip, Reading::Once)]);
    test.entered(1, 2, &[&format!("{:032x}__lock__{:010}", 1, 1)]);
    assert_eq!(test.state_read(4, None, &["x"]), []);
}
