//! Lists of the directory, which contenders share, and the other requests that they share.

use super::*;

/// A waiter behind four foreign contenders, of which the nearest is deleted.
fn reviewing() -> Test {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.entered(0, 5, &[&foreign(1), &foreign(2), &foreign(3), &foreign(4)]);
    assert_eq!(test.on(Event::Fired { node: foreign(4), gone: true }), [LIST]);
    test
}

#[test]
fn one_list_shows_which_of_several_predecessors_are_left() {
    let mut test = reviewing();
    assert_eq!(test.on(listed(&[&test.own(0, 5)])), [test.grant(0, 0, 5)]);

    let mut test = reviewing();
    let own = test.own(0, 5);
    let watch = |sequence| [Command::Watch(foreign(sequence))];
    assert_eq!(test.on(listed(&[&foreign(1), &foreign(3), &own])), watch(3));
    assert_eq!(test.on(Event::Fired { node: foreign(3), gone: true }), watch(1));
    assert_eq!(test.on(Event::Fired { node: foreign(1), gone: true }), [test.grant(0, 0, 5)]);

    // Also when the next one was deleted before it was watched.
    let mut test = reviewing();
    assert_eq!(test.on(listed(&[&foreign(1), &foreign(2), &foreign(3), &own])), watch(3));
    let gone = test.on(Event::Watched(foreign(3), Err(Failure::NoNode)));
    assert_eq!(gone, [LIST]);
}

#[test]
fn after_a_failed_list_the_next_predecessor_is_watched() {
    let mut test = reviewing();
    assert_eq!(test.on(Event::Listed(unknown())), [Command::Watch(foreign(3))]);

    let mut test = reviewing();
    let refused = Err(Failure::Refused("too long".into()));
    assert_eq!(test.on(Event::Listed(refused)), [Command::Watch(foreign(3))]);
}

#[test]
fn a_list_without_the_own_node_grants_nothing() {
    for answer in [Ok(Vec::new()), Err(Failure::NoNode)] {
        let mut test = reviewing();
        let again = test.on(Event::Listed(answer));
        assert_eq!(again, [test.delete(0, 5), enter(1, 0)]);
    }
}

#[test]
fn a_list_that_shows_another_number_than_the_answer_to_the_create_is_right() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    let created = Ok(Created { node: test.own(0, 3), czxid: 105 });
    let children = Ok([foreign(4), test.own(0, 5)].map(|node| node.name().to_owned()).into());
    let placed = test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children });
    assert!(placed.contains(&test.track(0, 5)), "{placed:?}");
    assert!(placed.contains(&Command::Watch(foreign(4))), "{placed:?}");
}

#[test]
fn an_older_list_crosses_off_no_newer_contender() {
    let mut test = reviewing();
    let own = test.own(0, 5);
    test.on(Event::Acquire {
        ticket: Ticket(1),
        request: Request { joint: true, ..request(true, Wait::Forever) },
    });
    // The list of a multi-lock is answered before the list in flight, which was sent earlier.
    test.entered(1, 7, &[&own, &foreign(1), &foreign(6)]);
    assert_eq!(test.on(listed(&[&foreign(1), &own, &foreign(8)])), [Command::Watch(foreign(3))]);
    test.on(PathEvent::Cancel(Ticket(0)));
    let behind_it = test.on(Event::Watched(foreign(6), Ok(())));
    assert_eq!(behind_it, []);
    assert_eq!(test.on(Event::Fired { node: foreign(6), gone: true }), [LIST]);
}

#[test]
fn the_list_of_a_cancelled_waiter_counts_for_other_waiters() {
    let mut test = reviewing();
    assert_eq!(test.acquire(1, Wait::Forever), [Command::Create(Attempt(1), Ticket(1))]);
    let (first, second) = (test.own(0, 5), test.own(1, 6));
    assert_eq!(test.created(1, 6), []);
    test.on(PathEvent::Cancel(Ticket(0)));
    assert_eq!(test.on(listed(&[&first, &second])), [test.track(1, 6), test.grant(1, 1, 6)]);
}

#[test]
fn contenders_that_are_created_while_a_list_is_in_flight_share_the_next_one() {
    let mut test = Test::new();
    assert_eq!(test.acquire(0, Wait::Forever), [enter(0, 0)]);
    for ticket in 1..4 {
        let create = [Command::Create(Attempt(ticket), Ticket(ticket))];
        assert_eq!(test.acquire(ticket, Wait::Forever), create);
    }
    assert_eq!(test.entered(0, 4, &[]), [test.track(0, 4), test.grant(0, 0, 4), LIST]);
    assert_eq!(test.created(1, 5), []);
    assert_eq!(test.created(2, 7), []);
    // The third create was carried out after the list.
    let (first, second) = (test.own(1, 5), test.own(2, 7));
    let queued = |ticket, ahead| Command::Reply(Reply::Queued(Ticket(ticket), ahead));
    assert_eq!(
        test.on(listed(&[&test.own(0, 4), &first, &foreign(6), &second])),
        [test.track(1, 5), test.track(2, 7), queued(1, 1), queued(2, 3), LIST]
    );
    assert_eq!(test.created(3, 9), []);
    assert_eq!(
        test.on(listed(&[&second, &foreign(6), &test.own(0, 4), &first, &test.own(3, 9), &foreign(8)])),
        [test.track(3, 9), queued(3, 5)]
    );
    // The order is that of all of them.
    let released = test.on(PathEvent::Release(Ticket(0)));
    assert_eq!(released, [test.delete(0, 4), test.grant(1, 1, 5)]);
    let released = test.on(PathEvent::Release(Ticket(1)));
    assert_eq!(released, [test.delete(1, 5), Command::Watch(foreign(6))]);
    assert_eq!(test.on(Event::Fired { node: foreign(6), gone: true }), [test.grant(2, 2, 7)]);
    let released = test.on(PathEvent::Release(Ticket(2)));
    assert_eq!(released, [test.delete(2, 7), Command::Watch(foreign(8))]);
}

#[test]
fn a_list_places_no_contender_that_it_does_not_show() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.acquire(1, Wait::Forever);
    assert_eq!(test.created(1, 7), []);
    assert_eq!(test.entered(0, 4, &[]), [test.track(0, 4), test.grant(0, 0, 4), LIST]);
    // It was sent after the create was answered, so the node has been deleted.
    let again = [test.delete(1, 7), enter(2, 1)];
    assert_eq!(test.on(listed(&[&test.own(0, 4), &foreign(8)])), again);
}

#[test]
fn a_try_is_answered_by_a_list_that_was_sent_after_it() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    assert_eq!(test.acquire(1, Wait::Try), []);
    // The lock may have been free since.
    let cancelled = test.on(PathEvent::Cancel(Ticket(0)));
    assert_eq!(cancelled, [refuse(0, Refusal::Cancelled)]);
    assert_eq!(test.entered(0, 4, &[&foreign(3)]), [test.delete(0, 4), LIST]);
    assert_eq!(test.on(listed(&[])), [enter(1, 1)]);
    assert_eq!(test.entered(1, 5, &[]), [test.track(1, 5), test.grant(1, 1, 5)]);
}

#[test]
fn no_list_is_sent_for_a_create_that_was_cancelled() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    assert_eq!(test.acquire(1, Wait::Forever), [Command::Create(Attempt(1), Ticket(1))]);
    assert_eq!(test.on(PathEvent::Cancel(Ticket(1))), [refuse(1, Refusal::Cancelled)]);
    assert_eq!(test.entered(0, 5, &[]), [test.track(0, 5), test.grant(0, 0, 5)]);
    assert_eq!(test.created(1, 6), [test.delete(1, 6)]);
}

#[test]
fn a_try_is_not_refused_by_the_failure_of_a_list_that_was_sent_before_it() {
    let mut test = Test::new();
    assert_eq!(test.acquire(0, Wait::Try), [LIST]);
    assert_eq!(test.acquire(1, Wait::Try), []);
    let failed = test.on(Event::Listed(unknown()));
    assert_eq!(failed, [refuse(0, Refusal::Suspended), forget(0, true), LIST]);
    assert_eq!(test.on(listed(&[])), [enter(1, 1)]);
}

#[test]
fn the_creates_in_flight_are_limited() {
    let mut test = Test::new();
    test.lock = Lock::with_room(test.instance, 250);
    for ticket in 0..5 {
        test.acquire(ticket, Wait::Forever);
    }
    let create = |attempt| Command::Create(Attempt(attempt), Ticket(attempt));
    assert_eq!(test.on(PathEvent::Connected { session: SESSION }), [enter(0, 0), create(1)]);
    assert_eq!(test.created(1, 7), [create(2)]);
    let granted = [test.track(0, 4), test.grant(0, 0, 4), enter(3, 3)];
    assert_eq!(test.entered(0, 4, &[]), granted);
    assert_eq!(test.on(PathEvent::Cancel(Ticket(4))), [refuse(4, Refusal::Cancelled), forget(4, true)]);
    assert_eq!(test.created(2, 8), []);
    // A create that is larger than the room is sent alone.
    let request = Request { bytes: 1000, ..request(true, Wait::Forever) };
    assert_eq!(test.on(Event::Acquire { ticket: Ticket(5), request }), []);
    assert_eq!(test.created(3, 9), [create(5)]);
}

#[test]
fn one_request_creates_a_missing_directory_for_all() {
    let mut test = Test::new();
    for ticket in 0..3 {
        test.acquire(ticket, Wait::Forever);
    }
    let (created, children) = (Err(Failure::NoNode), Err(Failure::NoNode));
    let missing = test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children });
    assert_eq!(missing, [Command::MakeDirectory(Attempt(0), Ticket(0)), LIST]);
    for attempt in 1..3 {
        assert_eq!(test.on(Event::Created(Attempt(attempt), Err(Failure::NoNode))), []);
    }
    assert_eq!(test.acquire(3, Wait::Forever), [], "it waits for the directory");
    assert_eq!(test.on(Event::Listed(Err(Failure::NoNode))), []);
    // The request of a contender that is cancelled may not have been sent.
    let cancelled =
        [refuse(0, Refusal::Cancelled), forget(0, true), Command::MakeDirectory(Attempt(1), Ticket(1))];
    assert_eq!(test.on(PathEvent::Cancel(Ticket(0))), cancelled);
    assert_eq!(test.on(Event::DirectoryMade(Attempt(0), Ok(()))), []);
    let made = test.on(Event::DirectoryMade(Attempt(1), Ok(())));
    let create = |attempt, ticket| Command::Create(Attempt(attempt), Ticket(ticket));
    assert_eq!(made, [enter(4, 1), create(5, 2), create(6, 3)]);
}

#[test]
fn a_directory_that_is_denied_to_one_is_created_with_the_options_of_another() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.acquire(1, Wait::Forever);
    let (created, children) = (Err(Failure::NoNode), Err(Failure::NoNode));
    test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children });
    test.on(Event::Created(Attempt(1), Err(Failure::NoNode)));
    let denied = test.on(Event::DirectoryMade(Attempt(0), Err(Failure::NoAuth)));
    assert_eq!(
        denied,
        [
            refuse(0, Refusal::NoAuth(Denied::Directory)),
            forget(0, true),
            Command::MakeDirectory(Attempt(1), Ticket(1))
        ]
    );
}

#[test]
fn few_creates_are_sent_before_the_directory_is_known_to_exist() {
    let creates = |commands: &[Command]| {
        let is_create =
            |command: &&Command| matches!(command, Command::Create(..) | Command::CreateAndList(..));
        commands.iter().filter(is_create).count()
    };
    let (mut test, few) = (Test::new(), ROOM_WITHOUT_DIRECTORY / 100);
    let sent: Vec<Command> = (0..100).flat_map(|ticket| test.acquire(ticket, Wait::Forever)).collect();
    assert_eq!(creates(&sent), few);
    let children = Err(Failure::NoNode);
    let first = Event::CreatedAndListed { attempt: Attempt(0), created: Err(Failure::NoNode), children };
    let mut said = test.on(first);
    for attempt in 1..few as u64 {
        said.append(&mut test.on(Event::Created(Attempt(attempt), Err(Failure::NoNode))));
    }
    assert_eq!(said[0], Command::MakeDirectory(Attempt(0), Ticket(0)));
    assert_eq!(creates(&said), 0);
    assert_eq!(creates(&test.on(Event::DirectoryMade(Attempt(0), Ok(())))), few, "it may be gone again");
    assert_eq!(creates(&test.created(100, 1)), 100 - few, "it exists");
}
