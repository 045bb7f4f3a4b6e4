//! What becomes of holders and waiters when a session or a node is lost, and when the lock is closed.

use super::*;

/// The requests whose nodes are created, in this order.
fn tickets(commands: &[Command]) -> Vec<u64> {
    let ticket = |command: &Command| match command {
        Command::Create(_, ticket) | Command::CreateAndList(_, ticket) => Some(ticket.0),
        _ => None,
    };
    commands.iter().filter_map(ticket).collect()
}

#[test]
fn a_lost_session_loses_holders_and_queues_waiters_again() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    test.entered(1, 6, &[&first]);
    assert_eq!(test.on(PathEvent::Lost), [Command::Reply(Reply::Lost(Ticket(0))), forget(0, false)]);
    assert_eq!(test.acquire(2, Wait::Try), [refuse(2, Refusal::Suspended), forget(2, true)]);
    assert_eq!(test.on(PathEvent::Connected { session: SESSION + 1 }), [enter(2, 1)]);
    // Nodes of the old session count as foreign until the server has deleted them.
    let queued = test.entered(2, 7, &[&first, &test.own(1, 6)]);
    assert_eq!(queued[1], Command::Watch(test.own(1, 6)));
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [forget(0, false)]);
}

#[test]
fn a_deleted_node_is_lost_for_a_holder_and_created_again_for_a_waiter() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    let second = test.own(1, 6);
    test.entered(1, 6, &[&first]);
    assert_eq!(test.on(PathEvent::Missing(vec![second.name().into()])), [test.delete(1, 6), enter(2, 1)]);
    assert_eq!(test.on(Event::Deleted(Attempt(1), Err(Failure::NoNode))), []);
    let lost = test.on(PathEvent::Missing(vec![first.name().into()]));
    assert_eq!(lost, [Command::Reply(Reply::Lost(Ticket(0))), test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), Err(Failure::NoNode))), [forget(0, true)]);
    assert_eq!(test.entered(2, 7, &[]), [test.track(2, 7), test.grant(1, 2, 7)]);
}

#[test]
fn a_waiter_is_not_granted_when_its_node_is_missing_together_with_the_holders() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    let second = test.own(1, 6);
    test.entered(1, 6, &[&first]);
    let missed = test.on(PathEvent::Missing(vec![first.name().into(), second.name().into()]));
    assert_eq!(
        missed,
        [Command::Reply(Reply::Lost(Ticket(0))), test.delete(0, 5), test.delete(1, 6), enter(2, 1)]
    );
}

#[test]
fn closing_does_not_wait_for_a_delete_that_is_denied() {
    let mut test = Test::new();
    test.held(0, 5);
    test.on(PathEvent::Close);
    assert_eq!(test.on(Event::Deleted(Attempt(0), unknown())), [test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), Err(Failure::NoAuth))), [forget(0, false)]);
    assert!(test.lock.is_idle());
}

#[test]
fn a_persistent_node_is_held_again_once_a_new_session_has_read_it() {
    let mut test = Test::new();
    let ticket = Ticket(0);
    test.on(Event::Acquire { ticket, request: request(false, Wait::Forever) });
    test.entered(0, 5, &[]);
    assert_eq!(test.on(PathEvent::Lost), [Command::Reply(Reply::Suspended(ticket))]);
    let own = test.own(0, 5);
    let inspect = [Command::ReadStat(Attempt(0), own.clone())];
    assert_eq!(test.on(PathEvent::Connected { session: SESSION + 1 }), inspect);
    let seen = Event::StatRead(Attempt(0), Ok(NodeStat { czxid: 105, owner: 0 }));
    assert_eq!(test.on(seen), [Command::Reply(Reply::Resumed(ticket)), test.track(0, 5)]);

    test.on(PathEvent::Lost);
    test.on(PathEvent::Connected { session: SESSION + 2 });
    let another = Event::StatRead(Attempt(0), Ok(NodeStat { czxid: 999, owner: 0 }));
    assert_eq!(test.on(another), [Command::Reply(Reply::Lost(ticket)), test.delete(0, 5)]);
}

#[test]
fn requests_keep_their_order_when_the_session_is_lost_before_some_were_sent() {
    let mut test = Test::new();
    // Room for one create.
    test.lock = Lock::with_room(test.instance, 100);
    test.on(PathEvent::Connected { session: SESSION });
    test.acquire(0, Wait::Forever);
    assert_eq!(test.acquire(1, Wait::Forever), [], "there is no room");
    test.entered(0, 5, &[&foreign(4)]);
    assert_eq!(test.acquire(2, Wait::Forever), [], "there is no room");
    test.on(PathEvent::Lost);
    let sent = test.on(PathEvent::Connected { session: SESSION + 1 });
    assert_eq!(tickets(&sent), [0]);
    assert_eq!(tickets(&test.entered(3, 6, &[&foreign(4)])), [1]);
    let first = test.own(3, 6);
    assert_eq!(tickets(&test.entered(4, 7, &[&foreign(4), &first])), [2]);
}

#[test]
fn a_persistent_holder_is_suspended_once_for_a_lost_session() {
    let mut test = Test::new();
    let ticket = Ticket(0);
    test.on(Event::Acquire { ticket, request: request(false, Wait::Forever) });
    test.entered(0, 5, &[]);
    assert_eq!(test.on(PathEvent::Suspended), [Command::Reply(Reply::Suspended(ticket))]);
    assert_eq!(test.on(PathEvent::Lost), []);
}

#[test]
fn a_persistent_holder_that_is_seen_by_a_suspended_session_is_not_resumed() {
    for next in [PathEvent::Resumed, PathEvent::Lost] {
        let mut test = Test::new();
        let ticket = Ticket(0);
        test.on(Event::Acquire { ticket, request: request(false, Wait::Forever) });
        test.entered(0, 5, &[]);
        assert_eq!(test.on(PathEvent::Lost), [Command::Reply(Reply::Suspended(ticket))]);
        test.on(PathEvent::Connected { session: SESSION + 1 });
        assert_eq!(test.on(PathEvent::Suspended), []);
        let seen = Event::StatRead(Attempt(0), Ok(NodeStat { czxid: 105, owner: 0 }));
        assert_eq!(test.on(seen), [test.track(0, 5)]);
        let told = match next {
            PathEvent::Resumed => vec![Command::Reply(Reply::Resumed(ticket))],
            _ => Vec::new(),
        };
        assert_eq!(test.on(next), told);
    }
}

#[test]
fn a_waiter_with_a_persistent_node_keeps_its_place() {
    let mut test = Test::new();
    let ticket = Ticket(0);
    test.on(Event::Acquire { ticket, request: request(false, Wait::Forever) });
    test.entered(0, 5, &[&foreign(4)]);
    assert_eq!(test.on(PathEvent::Lost), []);
    let inspect = [Command::ReadStat(Attempt(0), test.own(0, 5))];
    assert_eq!(test.on(PathEvent::Connected { session: SESSION + 1 }), inspect);
    let seen = Event::StatRead(Attempt(0), Ok(NodeStat { czxid: 105, owner: 0 }));
    assert_eq!(test.on(seen), [test.track(0, 5), Command::Watch(foreign(4))]);
    assert_eq!(test.on(Event::Fired { node: foreign(4), gone: true }), [test.grant(0, 0, 5)]);
}

#[test]
fn closing_answers_all_requests_and_deletes_all_nodes() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    test.entered(1, 6, &[&first]);
    test.acquire(2, Wait::Forever);
    assert_eq!(
        test.on(PathEvent::Close),
        [
            Command::Reply(Reply::Lost(Ticket(0))),
            test.delete(0, 5),
            test.delete(1, 6),
            refuse(1, Refusal::Closed),
            refuse(2, Refusal::Closed),
        ]
    );
    assert_eq!(test.acquire(3, Wait::Forever), [refuse(3, Refusal::Closed), forget(3, true)]);
    assert_eq!(test.entered(2, 7, &[]), [test.delete(2, 7)]);
    for attempt in 0..3 {
        assert_eq!(test.on(Event::Deleted(Attempt(attempt), Ok(()))), [forget(attempt, true)]);
    }
    assert!(test.lock.is_idle());
}
