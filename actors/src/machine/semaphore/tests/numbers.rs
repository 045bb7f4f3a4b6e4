//! The number of permits: what a claim expects, what is stored, and changes of it.

use super::*;

#[test]
fn a_claim_that_waits_with_its_own_number_follows_a_number_that_is_stored_later() {
    let mut test = Test::new();
    let other = |read: u64| {
        let root = Root { version: 0, written: 10, data: b"anything".to_vec() };
        let leases = Leases { names: vec!["x".into()], written: 10 };
        Event::StateRead { read: Attempt(read), root: Some(Ok(root)), leases: Some(Ok(leases)) }
    };
    test.acquire(1, 2, FOREVER);
    test.granted(0, 0);
    assert_eq!(test.on(other(0)), [read(1, Reading::Watch, Reading::Watch)]);
    assert_eq!(test.on(other(1)), [Command::Reply(Reply::Queued(Ticket(1), 0))]);
    test.on(Event::Changed { read: Attempt(1), part: Part::Root });
    assert_eq!(test.state_read(2, Some(3), &["x"]), [test.take(5, (0, 0), false, [(1, 3), (1, 4)])]);
}

#[test]
fn a_change_of_the_limit_is_noticed_while_waiting_and_while_taking() {
    let mut test = full();
    let changed = test.on(Event::Changed { read: Attempt(4), part: Part::Root });
    assert_eq!(changed, [read(5, Reading::Once, Reading::Watch)]);
    let take = test.take(9, (1, 1), false, [(1, 6), (1, 7), (2, 8)]);
    assert_eq!(test.state_read(5, Some(4), &["x"]), [take]);
    let again = test.on(Event::Taken(Attempt(9), Err(TakeFailure::LimitChanged)));
    assert_eq!(
        again,
        [Command::Mutex(lock::Command::Track(test.mutex(1, 1))), read(10, Reading::Once, Reading::Watch)]
    );
    let refused = test.state_read(10, Some(1), &[]);
    let never = refuse(1, Refusal::TooMany { count: 2, limit: 1 });
    assert_eq!(refused[..2], [never, forget(1, true)]);
    assert_eq!(refused[2..], [test.take(12, (1, 1), false, [(2, 11)])]);
}

#[test]
fn the_expected_number_is_compared_with_the_stored_one_if_that_is_a_number() {
    let mut test = Test::new();
    test.acquire(1, 1, FOREVER);
    test.granted(0, 0);
    let mismatch = refuse(1, Refusal::LimitMismatch { stored: 5, given: 2 });
    assert_eq!(test.state_read(0, Some(5), &[])[..2], [mismatch, forget(1, true)]);

    let mut test = Test::new();
    let request = PermitRequest { count: 1, limit: None, agreed: false, bytes: 100, wait: FOREVER };
    test.on(Event::Acquire { ticket: Ticket(1), request });
    test.acquire(2, 1, FOREVER);
    test.granted(0, 0);
    let root = Some(Ok(Root { version: 3, written: 1, data: b"anything".to_vec() }));
    let leases = Some(Ok(Leases { names: vec!["x".into()], written: 1 }));
    let found = test.on(Event::StateRead { read: Attempt(0), root, leases });
    assert_eq!(found[..2], [refuse(1, Refusal::NoLimit), forget(1, true)]);
    assert!(matches!(&found[2], Command::Take { version: 3, leases, .. } if leases[0].0 == Ticket(2)));
}

#[test]
fn a_changed_limit_is_read_before_it_is_used() {
    // The limit was raised: the remembered one would refuse the claim.
    let mut test = Test::warm();
    let request = PermitRequest { count: 3, limit: Some(2), agreed: true, bytes: 100, wait: FOREVER };
    test.on(Event::Acquire { ticket: Ticket(1), request });
    test.granted(1, 1);
    test.written = 11;
    assert_eq!(test.state_read(3, None, &[]), [read(4, Reading::Once, Reading::Watch)]);
    let take = test.state_read(4, Some(3), &[]);
    assert!(matches!(&take[0], Command::Take { leases, .. } if leases.len() == 3));

    // The root was deleted and created again, with the same version.
    let mut test = Test::warm();
    test.acquire(1, 2, FOREVER);
    test.granted(1, 1);
    test.written = 11;
    assert_eq!(test.state_read(3, None, &[]), [read(4, Reading::Once, Reading::Watch)]);
    assert_eq!(
        test.state_read(4, Some(1), &[])[0],
        refuse(1, Refusal::LimitMismatch { stored: 1, given: 2 })
    );

    // A try is not refused without another read.
    let mut test = Test::warm();
    let request = PermitRequest { count: 1, limit: Some(2), agreed: true, bytes: 100, wait: Wait::Try };
    test.on(Event::Acquire { ticket: Ticket(1), request });
    test.written = 11;
    assert_eq!(test.state_read(3, None, &["x", "y"]), [read(4, Reading::Once, Reading::Once)]);
    assert_eq!(test.state_read(4, Some(3), &["x", "y"])[0], enter(1, 1));
}

#[test]
fn a_claim_that_arrives_after_a_read_was_sent_is_not_refused_by_that_read() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    let request = PermitRequest { count: 3, limit: Some(3), agreed: true, bytes: 100, wait: FOREVER };
    test.on(Event::Acquire { ticket: Ticket(2), request });
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &[]), [read(4, Reading::Once, Reading::Watch)]);
    let refused = test.state_read(4, Some(2), &[]);
    assert_eq!(refused[0], refuse(2, Refusal::TooMany { count: 3, limit: 2 }));
}

#[test]
fn a_waiting_claim_whose_number_matched_follows_later_changes() {
    let mut test = Test::new();
    assert_eq!(test.acquire(1, 1, FOREVER)[1], read(0, Reading::Once, Reading::Once));
    let other = format!("{:032x}__lock__{:010}", 1, 1);
    test.entered(0, 2, &[&other]);
    test.state_read(0, Some(2), &[]);
    test.written = 11;
    let node = Znode::parse(&other).expect("a contender");
    assert_eq!(test.on(lock::Event::Fired { node, gone: true }), [synced(1, Reading::Skip, Reading::Watch)]);
    assert_eq!(test.state_read(1, None, &[]), [read(2, Reading::Once, Reading::Watch)]);
    assert!(matches!(test.state_read(2, Some(3), &[])[..], [Command::Take { .. }]));
}

#[test]
fn a_number_from_an_earlier_turn_accepts_no_claim() {
    // The number was changed to five meanwhile. The second claim arrives while the turn's first read is in flight.
    let mut test = Test::warm();
    test.written = 11;
    test.acquire(1, 1, FOREVER);
    test.acquire(2, 1, FOREVER);
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &[]), [read(4, Reading::Once, Reading::Watch)]);
    let mismatch =
        |ticket| [refuse(ticket, Refusal::LimitMismatch { stored: 5, given: 2 }), forget(ticket, true)];
    assert_eq!(test.state_read(4, Some(5), &[])[..4], [mismatch(1), mismatch(2)].concat());

    // That read fails, which shows no number.
    let (mut test, other) = unread();
    test.acquire(2, 1, FOREVER);
    let turn = test.on(lock::Event::Fired { node: other, gone: true });
    assert_eq!(turn, [synced(5, Reading::Skip, Reading::Watch)]);
    test.written = 11;
    assert_eq!(test.state_read(5, None, &[]), [], "after the second failure it pauses");
    test.now = test.machine.wakeup().expect("a retry is scheduled");
    assert_eq!(test.on(PathEvent::Wake), [read(6, Reading::Once, Reading::Watch)]);
    assert_eq!(test.state_read(6, Some(5), &[])[..4], [mismatch(1), mismatch(2)].concat());
}

/// Behind a foreign contender. The first read of the turn has failed.
fn unread() -> (Test, Znode) {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    let other = format!("{:032x}__lock__{:010}", 1, 1);
    test.entered(1, 2, &[&other]);
    let cut = Some(Err(Failure::Unknown("reset".into())));
    let again = test.on(Event::StateRead { read: Attempt(3), root: None, leases: cut });
    assert_eq!(again, [synced(4, Reading::Skip, Reading::Once)]);
    (test, Znode::parse(&other).expect("a contender"))
}

#[test]
fn queued_is_reported_only_after_a_number_from_an_earlier_turn_was_read_again() {
    let (mut test, _) = unread();
    assert_eq!(test.acquire(2, 1, FOREVER), []);
    let told = |ticket| Command::Reply(Reply::Queued(Ticket(ticket), ticket as usize));
    // The second claim has arrived since that read was sent.
    assert_eq!(test.state_read(4, None, &[]), [synced(5, Reading::Skip, Reading::Once), told(1)]);
    assert_eq!(test.acquire(3, 1, FOREVER), []);
    assert_eq!(test.state_read(5, None, &[]), [synced(6, Reading::Skip, Reading::Once), told(2)]);
    assert_eq!(test.state_read(6, None, &[]), [told(3)]);
}

#[test]
fn a_number_from_the_beginning_of_the_turn_neither_accepts_nor_refuses_a_later_claim() {
    // The mutex is behind a foreign contender, and the number was changed to five since the turn's first read.
    let (mut test, other) = behind_one();
    test.written = 11;
    assert_eq!(test.acquire(2, 1, FOREVER), [synced(4, Reading::Skip, Reading::Once)]);
    let right = PermitRequest { count: 1, limit: Some(5), agreed: false, bytes: 100, wait: FOREVER };
    assert_eq!(test.on(Event::Acquire { ticket: Ticket(3), request: right }), []);
    assert_eq!(test.state_read(4, None, &[]), [synced(5, Reading::Once, Reading::Once)]);
    let told = [2, 3].map(|ticket| Command::Reply(Reply::Queued(Ticket(ticket), ticket as usize)));
    assert_eq!(test.state_read(5, Some(5), &[]), told);
    // It is changed once more. The first claim has the number from the beginning, the third that of its arrival.
    test.written = 12;
    test.on(lock::Event::Fired { node: other, gone: true });
    assert_eq!(test.state_read(6, None, &[]), [read(7, Reading::Once, Reading::Watch)]);
    let served = test.state_read(7, Some(6), &[]);
    let mismatch = refuse(2, Refusal::LimitMismatch { stored: 6, given: 2 });
    assert_eq!(served[..2], [mismatch, forget(2, true)]);
    assert_eq!(served[2..], [test.take(10, (1, 2), false, [(1, 8), (3, 9)])]);
}

#[test]
fn a_claim_whose_number_matched_on_arrival_is_not_refused_after_a_resize() {
    // The mutex is behind a foreign contender. The second claim arrives after the turn has read the number.
    let (mut test, other) = behind_one();
    assert_eq!(test.acquire(2, 1, FOREVER), [synced(4, Reading::Skip, Reading::Once)]);
    assert_eq!(test.state_read(4, None, &[]), [Command::Reply(Reply::Queued(Ticket(2), 2))]);
    test.written = 11;
    test.on(lock::Event::Fired { node: other, gone: true });
    assert_eq!(test.state_read(5, None, &[]), [read(6, Reading::Once, Reading::Watch)]);
    assert_eq!(test.state_read(6, Some(3), &[]), [test.take(9, (1, 2), false, [(1, 7), (2, 8)])]);

    // The process has its turn, and serves another claim first.
    let mut test = full();
    assert_eq!(test.acquire(3, 1, FOREVER), [Command::Reply(Reply::Queued(Ticket(3), 2))]);
    test.written = 11;
    test.on(Event::Changed { read: Attempt(4), part: Part::Root });
    test.state_read(5, Some(4), &["x"]);
    let next = test.taken(9);
    assert_eq!(next.last(), Some(&read(10, Reading::Skip, Reading::Once)));
    test.granted(2, 2);
    assert_eq!(test.state_read(10, None, &["x"]), [test.take(12, (2, 2), false, [(3, 11)])]);
}

#[test]
fn queued_is_reported_only_after_the_expected_number_was_compared() {
    let mut test = Test::new();
    test.acquire(1, 1, FOREVER);
    let other = format!("{:032x}__lock__{:010}", 1, 1);
    let watch = Command::Mutex(lock::Command::Watch(Znode::parse(&other).expect("a contender")));
    assert_eq!(
        test.entered(0, 2, &[&other]),
        [Command::Mutex(lock::Command::Track(test.mutex(0, 2))), watch]
    );
    let cut = |read| {
        let lost = || Failure::Unknown("reset".into());
        Event::StateRead { read: Attempt(read), root: Some(Err(lost())), leases: Some(Err(lost())) }
    };
    assert_eq!(test.on(cut(0)), [synced(1, Reading::Once, Reading::Once)]);
    assert_eq!(test.on(cut(1)), [], "after the second failure it pauses");
    test.now = test.machine.wakeup().expect("a retry is scheduled");
    assert_eq!(test.on(PathEvent::Wake), [synced(2, Reading::Once, Reading::Once)]);
    assert_eq!(test.state_read(2, Some(2), &[]), [Command::Reply(Reply::Queued(Ticket(1), 1))]);
}

#[test]
fn queued_is_reported_before_the_root_exists() {
    let mut test = Test::new();
    test.acquire(1, 1, FOREVER);
    test.entered(0, 2, &[&format!("{:032x}__lock__{:010}", 1, 1)]);
    let missing = || Failure::NoNode;
    let read = Attempt(0);
    let unread = Event::StateRead { read, root: Some(Err(missing())), leases: Some(Err(missing())) };
    assert_eq!(test.on(unread), [Command::Reply(Reply::Queued(Ticket(1), 1))]);
}
