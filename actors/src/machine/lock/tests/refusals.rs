//! Requests that are not granted: cancelled, too late, tried in vain, or refused for what the queue shows.

use super::*;

#[test]
fn a_cancel_while_the_create_is_in_flight_deletes_the_node_afterwards() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    assert_eq!(test.on(PathEvent::Cancel(Ticket(0))), [refuse(0, Refusal::Cancelled)]);
    assert!(!test.lock.is_idle());
    assert_eq!(test.entered(0, 5, &[]), [test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), Err(Failure::NoNode))), [forget(0, true)]);
}

#[test]
fn a_cancelled_waiter_does_not_block_the_one_behind_it() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    test.entered(1, 6, &[&first]);
    test.acquire(2, Wait::Forever);
    test.entered(2, 7, &[&first, &test.own(1, 6)]);
    let cancelled = test.on(PathEvent::Cancel(Ticket(1)));
    assert_eq!(cancelled, [test.delete(1, 6), refuse(1, Refusal::Cancelled)]);
    assert_eq!(test.on(PathEvent::Cancel(Ticket(0))), [], "a granted request cannot be cancelled");
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [test.delete(0, 5), test.grant(2, 2, 7)]);
}

#[test]
fn at_the_deadline_the_delete_is_sent_before_the_refusal() {
    let mut test = Test::new();
    test.acquire(0, Wait::Until(Moment(0) + SECOND));
    test.entered(0, 5, &[&foreign(4)]);
    assert_eq!(test.lock.wakeup(), Some(Moment(0) + SECOND));
    test.now = test.now + SECOND;
    let late = test.on(Event::Fired { node: foreign(4), gone: true });
    assert_eq!(
        late[..2],
        [test.delete(0, 5), refuse(0, Refusal::TimedOut)],
        "even when it is first in the queue"
    );
    assert!(!late.iter().any(|command| matches!(command, Command::Grant { .. })));
    assert_eq!(test.lock.wakeup(), None);
}

#[test]
fn a_try_lists_before_it_creates_a_node() {
    let mut test = Test::new();
    assert_eq!(test.acquire(0, Wait::Try), [LIST]);
    let children = Ok(vec![foreign(3).name().to_owned()]);
    assert_eq!(test.on(Event::Listed(children)), [refuse(0, Refusal::Contended), forget(0, true)]);
    assert_eq!(test.acquire(1, Wait::Try), [LIST]);
    assert_eq!(test.on(Event::Listed(Err(Failure::NoNode))), [enter(1, 1)]);
    assert_eq!(test.entered(1, 5, &[]), [test.track(1, 5), test.grant(1, 1, 5)]);
    // A local holder is known without a list.
    assert_eq!(test.acquire(2, Wait::Try), [refuse(2, Refusal::Contended), forget(2, true)]);
    test.on(PathEvent::Suspended);
    assert_eq!(test.acquire(3, Wait::Try), [refuse(3, Refusal::Suspended), forget(3, true)]);
}

#[test]
fn a_try_that_is_overtaken_deletes_its_node() {
    let mut test = Test::new();
    test.acquire(0, Wait::Try);
    assert_eq!(test.on(Event::Listed(Ok(vec![]))), [enter(0, 0)]);
    let overtaken = test.entered(0, 5, &[&foreign(4)]);
    assert!(overtaken.contains(&test.delete(0, 5)), "{overtaken:?}");
    assert!(overtaken.contains(&refuse(0, Refusal::Contended)), "{overtaken:?}");
}

#[test]
fn a_try_is_refused_when_the_session_is_suspended_or_an_answer_is_lost() {
    // While it peeks, while its create is in flight, after the create's answer is lost, after the list's answer is
    // lost.
    for steps in 0..4 {
        let mut test = Test::new();
        test.acquire(0, Wait::Try);
        if steps > 0 {
            test.on(Event::Listed(Ok(vec![])));
        }
        let told = match steps {
            0 | 1 => test.on(PathEvent::Suspended),
            2 => test.on(lost_create(0)),
            _ => {
                let created = Ok(Created { node: test.own(0, 5), czxid: 105 });
                test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children: unknown() })
            }
        };
        assert!(told.contains(&refuse(0, Refusal::Suspended)), "{steps}: {told:?}");
        let more = test.on(PathEvent::Suspended);
        assert!(!more.contains(&refuse(0, Refusal::Suspended)), "{steps}: {more:?}");
    }
    let mut test = Test::new();
    test.acquire(0, Wait::Try);
    test.on(Event::Listed(Ok(vec![])));
    test.entered(0, 5, &[]);
    assert_eq!(
        test.on(PathEvent::Suspended),
        [Command::Reply(Reply::Suspended(Ticket(0)))],
        "a granted try keeps the lock"
    );
}

#[test]
fn sequence_numbers_near_the_end_of_their_range_are_refused() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    let near = i64::from(i32::MAX) - 1_000_000;
    let refused = test.entered(0, near, &[]);
    assert_eq!(refused, [test.delete(0, near), refuse(0, Refusal::Exhausted)]);
    test.acquire(1, Wait::Forever);
    let refused = test.entered(1, 3, &[&foreign(-5)]);
    assert_eq!(refused, [test.delete(1, 3), refuse(1, Refusal::Exhausted)]);
}

#[test]
fn a_predecessor_that_must_not_be_read_refuses_the_waiter_with_its_node() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.entered(0, 5, &[&foreign(4)]);
    let refused = test.on(Event::Watched(foreign(4), Err(Failure::NoAuth)));
    assert_eq!(refused, [test.delete(0, 5), refuse(0, Refusal::NoAuth(Denied::Contender(foreign(4))))]);
}
