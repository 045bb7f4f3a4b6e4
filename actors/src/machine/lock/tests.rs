//! One event, and the exact commands that follow from it.

use super::*;
use crate::machine::Failure;
use crate::machine::exclusion::{Dialect, Mode, Patterns};

const SESSION: i64 = 77;
const SECOND: Duration = Duration::from_secs(1);

struct Test {
    lock: Lock,
    instance: Instance,
    now: Moment,
}

impl Test {
    /// A queue with a session.
    fn new() -> Test {
        let instance = Instance::new(0xabcd << 64);
        let mut test = Test { lock: Lock::new(instance), instance, now: Moment(0) };
        assert_eq!(test.on(PathEvent::Connected { session: SESSION }), []);
        test
    }

    fn on(&mut self, event: impl Into<Event>) -> Vec<Command> {
        let mut out = Vec::new();
        self.lock.handle(event.into(), self.now, &mut out);
        out
    }

    /// What is due next.
    fn later(&mut self) -> Vec<Command> {
        let due = self.lock.wakeup().expect("something is due");
        assert!(due > self.now, "not at once");
        self.now = due;
        self.on(PathEvent::Wake)
    }

    fn acquire(&mut self, ticket: u64, wait: Wait) -> Vec<Command> {
        self.on(Event::Acquire { ticket: Ticket(ticket), request: request(true, wait) })
    }

    /// The node that an attempt makes, with this sequence number.
    fn own(&self, attempt: u64, sequence: i64) -> Znode {
        let name =
            format!("{}{sequence:010}", self.instance.prefix(Attempt(attempt), Dialect::Kazoo, Mode::Lock));
        Znode::parse(&name).expect("a contender's name")
    }

    /// The create and the list of an attempt succeed; its token is a hundred more than its number.
    fn entered(&mut self, attempt: u64, sequence: i64, children: &[&Znode]) -> Vec<Command> {
        let node = self.own(attempt, sequence);
        let children = children.iter().map(|node| node.name().to_owned()).chain([node.name().to_owned()]);
        let children = Ok(children.collect());
        let created = Ok(Created { node, czxid: 100 + sequence });
        self.on(Event::CreatedAndListed { attempt: Attempt(attempt), created, children })
    }

    /// A ticket that holds with attempt `ticket`, on this sequence number.
    fn held(&mut self, ticket: u64, sequence: i64) -> Znode {
        assert_eq!(self.acquire(ticket, Wait::Forever), [enter(ticket, ticket)]);
        let granted = self.entered(ticket, sequence, &[]);
        assert_eq!(granted.last(), Some(&self.grant(ticket, ticket, sequence)));
        self.own(ticket, sequence)
    }

    fn grant(&self, ticket: u64, attempt: u64, sequence: i64) -> Command {
        Command::Grant { ticket: Ticket(ticket), node: self.own(attempt, sequence), czxid: 100 + sequence }
    }

    fn track(&self, attempt: u64, sequence: i64) -> Command {
        Command::Track(self.own(attempt, sequence))
    }

    fn delete(&self, attempt: u64, sequence: i64) -> Command {
        Command::Delete(Attempt(attempt), self.own(attempt, sequence))
    }
}

fn request(ephemeral: bool, wait: Wait) -> Request {
    let (mode, dialect) = (Mode::Lock, Dialect::Kazoo);
    Request { mode, dialect, patterns: Patterns::from([]), ephemeral, wait }
}

fn enter(attempt: u64, ticket: u64) -> Command {
    Command::CreateAndList(Attempt(attempt), Ticket(ticket))
}

fn foreign(sequence: i64) -> Znode {
    Znode::parse(&format!("{:032x}__lock__{sequence:010}", 7)).expect("a contender's name")
}

fn refuse(ticket: u64, refusal: Refusal) -> Command {
    Command::Reply(Reply::Refused(Ticket(ticket), refusal))
}

fn forget(ticket: u64, confirmed: bool) -> Command {
    Command::Reply(Reply::Forgotten { ticket: Ticket(ticket), confirmed })
}

fn unknown<T>() -> Result<T, Failure> {
    Err(Failure::Unknown("the connection went".into()))
}

fn lost_create(attempt: u64) -> Event {
    Event::CreatedAndListed { attempt: Attempt(attempt), created: unknown(), children: unknown() }
}

#[test]
fn a_free_path_is_granted_by_one_flight() {
    let mut test = Test::new();
    assert_eq!(test.acquire(0, Wait::Forever), [enter(0, 0)]);
    assert_eq!(test.entered(0, 5, &[]), [test.track(0, 5), test.grant(0, 0, 5)]);
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), Ok(()))), [forget(0, true)]);
    assert!(test.lock.is_idle());
}

#[test]
fn only_the_nearest_stranger_is_watched_and_its_end_grants_without_a_read() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    let queued = test.entered(0, 5, &[&foreign(2), &foreign(4), &foreign(9)]);
    assert_eq!(
        queued,
        [test.track(0, 5), Command::Watch(foreign(4)), Command::Reply(Reply::Queued(Ticket(0), 2))]
    );
    assert_eq!(test.on(Event::Watched(foreign(4), Ok(()))), []);
    let next = test.on(Event::Fired { node: foreign(4), gone: true });
    assert_eq!(next, [Command::Watch(foreign(2))]);
    assert_eq!(test.on(Event::Watched(foreign(2), Err(Failure::NoNode))), [test.grant(0, 0, 5)]);
}

/// A waiter behind four strangers, of whom the nearest goes.
fn reviewing() -> Test {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.entered(0, 5, &[&foreign(1), &foreign(2), &foreign(3), &foreign(4)]);
    assert_eq!(test.on(Event::Fired { node: foreign(4), gone: true }), [Command::List(Attempt(0))]);
    test
}

fn listed(nodes: &[&Znode]) -> Event {
    Event::Listed(Attempt(0), Ok(nodes.iter().map(|node| node.name().to_owned()).collect()))
}

#[test]
fn one_list_tells_who_is_left_of_many() {
    let mut test = reviewing();
    assert_eq!(test.on(listed(&[&test.own(0, 5)])), [test.grant(0, 0, 5)]);

    let mut test = reviewing();
    let own = test.own(0, 5);
    let watch = |sequence| [Command::Watch(foreign(sequence))];
    assert_eq!(test.on(listed(&[&foreign(1), &foreign(3), &own])), watch(3));
    assert_eq!(test.on(Event::Fired { node: foreign(3), gone: true }), watch(1));
    assert_eq!(test.on(Event::Fired { node: foreign(1), gone: true }), [test.grant(0, 0, 5)]);

    // Also when the next had gone before it was watched.
    let mut test = reviewing();
    assert_eq!(test.on(listed(&[&foreign(1), &foreign(2), &foreign(3), &own])), watch(3));
    let gone = test.on(Event::Watched(foreign(3), Err(Failure::NoNode)));
    assert_eq!(gone, [Command::List(Attempt(0))]);
}

#[test]
fn a_list_that_fails_is_done_without() {
    let mut test = reviewing();
    assert_eq!(test.on(Event::Listed(Attempt(0), unknown())), [Command::Watch(foreign(3))]);

    let mut test = reviewing();
    let refused = Err(Failure::Refused("too long".into()));
    assert_eq!(test.on(Event::Listed(Attempt(0), refused)), [Command::Watch(foreign(3))]);
}

#[test]
fn a_list_without_the_own_node_grants_nothing() {
    for answer in [Ok(Vec::new()), Err(Failure::NoNode)] {
        let mut test = reviewing();
        let again = test.on(Event::Listed(Attempt(0), answer));
        assert_eq!(again, [test.delete(0, 5), enter(1, 0)]);
    }
}

#[test]
fn an_older_list_crosses_off_nobody_who_came_later() {
    let mut test = reviewing();
    test.acquire(1, Wait::Forever);
    test.entered(1, 7, &[&test.own(0, 5), &foreign(6)]);
    assert_eq!(test.on(listed(&[&test.own(0, 5)])), [test.grant(0, 0, 5)]);
    let released = test.on(PathEvent::Release(Ticket(0)));
    assert_eq!(released, [test.delete(0, 5), Command::Watch(foreign(6))]);
}

#[test]
fn a_waiter_that_gives_up_takes_its_list_along_but_not_what_it_shows() {
    let mut test = reviewing();
    test.acquire(1, Wait::Forever);
    let own = test.own(0, 5);
    test.entered(1, 6, &[&foreign(1), &own]);
    test.on(PathEvent::Cancel(Ticket(0)));
    assert_eq!(test.on(listed(&[&own])), [test.grant(1, 1, 6)]);
}

#[test]
fn a_watch_that_fires_for_another_reason_is_armed_again() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.entered(0, 5, &[&foreign(4)]);
    let again = [Command::Watch(foreign(4))];
    assert_eq!(test.on(Event::Fired { node: foreign(4), gone: false }), again);
    assert_eq!(test.on(Event::Watched(foreign(4), unknown())), again);
    // No room for a watch: it is looked at once a second.
    assert_eq!(test.on(Event::Watched(foreign(4), Err(Failure::Refused("full".into())))), []);
    assert_eq!(test.lock.wakeup(), Some(Moment(0) + SECOND));
    test.now = test.now + SECOND;
    assert_eq!(test.on(PathEvent::Wake), again);
}

#[test]
fn a_local_waiter_needs_no_watch_and_is_granted_before_the_delete_is_confirmed() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    assert_eq!(
        test.entered(1, 6, &[&first]),
        [test.track(1, 6), Command::Reply(Reply::Queued(Ticket(1), 1))]
    );
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [test.delete(0, 5), test.grant(1, 1, 6)]);
    // A third, whose list still shows both.
    test.acquire(2, Wait::Forever);
    let second = test.own(1, 6);
    assert_eq!(
        test.entered(2, 7, &[&first, &second]),
        [test.track(2, 7), Command::Reply(Reply::Queued(Ticket(2), 1))]
    );
    assert_eq!(test.on(PathEvent::Release(Ticket(1))), [test.delete(1, 6), test.grant(2, 2, 7)]);
}

#[test]
fn a_stranger_between_two_local_ones_keeps_its_turn() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    test.entered(1, 7, &[&first, &foreign(6)]);
    let released = test.on(PathEvent::Release(Ticket(0)));
    assert_eq!(released, [test.delete(0, 5), Command::Watch(foreign(6))]);
    assert_eq!(test.on(Event::Fired { node: foreign(6), gone: true }), [test.grant(1, 1, 7)]);
}

#[test]
fn nothing_is_granted_while_suspended() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    test.entered(1, 6, &[&first]);
    assert_eq!(test.on(PathEvent::Suspended), [Command::Reply(Reply::Suspended(Ticket(0)))]);
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [test.delete(0, 5)]);
    assert_eq!(test.on(PathEvent::Resumed), [test.grant(1, 1, 6)]);
}

#[test]
fn a_cancel_while_the_create_is_in_flight_deletes_what_it_makes() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    assert_eq!(test.on(PathEvent::Cancel(Ticket(0))), [refuse(0, Refusal::Cancelled)]);
    assert!(!test.lock.is_idle());
    assert_eq!(test.entered(0, 5, &[]), [test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), Err(Failure::NoNode))), [forget(0, true)]);
}

#[test]
fn a_cancelled_waiter_lets_the_one_behind_it_in() {
    let mut test = Test::new();
    let first = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    test.entered(1, 6, &[&first]);
    test.acquire(2, Wait::Forever);
    test.entered(2, 7, &[&first, &test.own(1, 6)]);
    let cancelled = test.on(PathEvent::Cancel(Ticket(1)));
    assert_eq!(cancelled, [test.delete(1, 6), refuse(1, Refusal::Cancelled)]);
    assert_eq!(test.on(PathEvent::Cancel(Ticket(0))), [], "a holder is not cancelled");
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [test.delete(0, 5), test.grant(2, 2, 7)]);
}

#[test]
fn one_deadline_and_the_delete_is_sent_before_it_is_told() {
    let mut test = Test::new();
    test.acquire(0, Wait::Until(Moment(0) + SECOND));
    test.entered(0, 5, &[&foreign(4)]);
    assert_eq!(test.lock.wakeup(), Some(Moment(0) + SECOND));
    test.now = test.now + SECOND;
    let late = test.on(Event::Fired { node: foreign(4), gone: true });
    assert_eq!(late[..2], [test.delete(0, 5), refuse(0, Refusal::TimedOut)], "even when its turn has come");
    assert!(!late.iter().any(|command| matches!(command, Command::Grant { .. })));
    assert_eq!(test.lock.wakeup(), None);
}

#[test]
fn a_try_reads_before_it_writes() {
    let mut test = Test::new();
    assert_eq!(test.acquire(0, Wait::Try), [Command::List(Attempt(0))]);
    let children = Ok(vec![foreign(3).name().to_owned()]);
    assert_eq!(
        test.on(Event::Listed(Attempt(0), children)),
        [refuse(0, Refusal::Contended), forget(0, true)]
    );
    assert_eq!(test.acquire(1, Wait::Try), [Command::List(Attempt(1))]);
    assert_eq!(test.on(Event::Listed(Attempt(1), Err(Failure::NoNode))), [enter(1, 1)]);
    assert_eq!(test.entered(1, 5, &[]), [test.track(1, 5), test.grant(1, 1, 5)]);
    // What is known needs no read.
    assert_eq!(test.acquire(2, Wait::Try), [refuse(2, Refusal::Contended), forget(2, true)]);
    test.on(PathEvent::Suspended);
    assert_eq!(test.acquire(3, Wait::Try), [refuse(3, Refusal::Suspended), forget(3, true)]);
}

#[test]
fn a_try_that_is_overtaken_leaves_nothing() {
    let mut test = Test::new();
    test.acquire(0, Wait::Try);
    assert_eq!(test.on(Event::Listed(Attempt(0), Ok(vec![]))), [enter(0, 0)]);
    let overtaken = test.entered(0, 5, &[&foreign(4)]);
    assert!(overtaken.contains(&test.delete(0, 5)), "{overtaken:?}");
    assert!(overtaken.contains(&refuse(0, Refusal::Contended)), "{overtaken:?}");
}

#[test]
fn a_missing_directory_is_made_and_both_requests_go_again() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    let missing = Event::CreatedAndListed {
        attempt: Attempt(0),
        created: Err(Failure::NoNode),
        children: Err(Failure::NoNode),
    };
    assert_eq!(test.on(missing), [Command::MakeDirectory(Attempt(0), Ticket(0))]);
    assert_eq!(test.on(Event::DirectoryMade(Attempt(0), Ok(()))), [enter(1, 0)]);
    assert_eq!(test.entered(1, 0, &[]), [test.track(1, 0), test.grant(0, 1, 0)]);
}

#[test]
fn a_list_that_failed_is_sent_again_and_the_create_is_not() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    let created = Ok(Created { node: test.own(0, 5), czxid: 105 });
    let half = Event::CreatedAndListed { attempt: Attempt(0), created, children: unknown() };
    assert_eq!(test.on(half), [Command::List(Attempt(0))]);
    let children = Ok(vec![foreign(4).name().to_owned()]);
    assert!(test.on(Event::Listed(Attempt(0), children)).contains(&Command::Watch(foreign(4))));
}

#[test]
fn a_create_of_unknown_outcome_that_was_not_carried_out_is_made_anew() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    assert_eq!(test.on(lost_create(0)), [Command::FindCreated(Attempt(0))]);
    assert_eq!(test.on(Event::Found(Attempt(0), unknown())), []);
    assert_eq!(test.later(), [Command::FindCreated(Attempt(0))]);
    let others = Ok(vec![foreign(1).name().to_owned()]);
    assert_eq!(test.on(Event::Found(Attempt(0), others)), [enter(1, 0)]);
}

#[test]
fn a_create_of_unknown_outcome_that_was_carried_out_is_adopted_from_this_session_only() {
    for (owner, adopted) in [(SESSION, true), (SESSION + 1, false)] {
        let mut test = Test::new();
        test.acquire(0, Wait::Forever);
        test.on(lost_create(0));
        let own = test.own(0, 5);
        let inspect = [Command::ReadStat(Attempt(0), own.clone())];
        assert_eq!(test.on(Event::Found(Attempt(0), Ok(vec![own.name().to_owned()]))), inspect);
        let found = test.on(Event::StatRead(Attempt(0), Ok(NodeStat { czxid: 105, owner })));
        if adopted {
            assert_eq!(found, [Command::List(Attempt(0))]);
            let granted = test.on(Event::Listed(Attempt(0), Ok(vec![own.name().to_owned()])));
            assert_eq!(granted, [test.track(0, 5), test.grant(0, 0, 5)]);
        } else {
            assert_eq!(found, [test.delete(0, 5), enter(1, 0)]);
            // The old node's end says nothing about the request.
            assert_eq!(test.on(Event::Deleted(Attempt(0), Ok(()))), []);
        }
    }
}

#[test]
fn a_cancelled_create_of_unknown_outcome_is_looked_for_until_it_is_gone() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.on(lost_create(0));
    assert_eq!(test.on(PathEvent::Cancel(Ticket(0))), [refuse(0, Refusal::Cancelled)]);
    let own = test.own(0, 5);
    let looked = test.on(Event::Found(Attempt(0), Ok(vec![own.name().to_owned()])));
    assert_eq!(looked, [test.delete(0, 5)]);
    for failure in [Failure::Unknown("cut".into()), Failure::Refused("throttled".into()), Failure::NoAuth] {
        assert_eq!(test.on(Event::Deleted(Attempt(0), Err(failure))), []);
        assert_eq!(test.later(), [test.delete(0, 5)]);
    }
    assert_eq!(test.on(Event::Deleted(Attempt(0), Ok(()))), [forget(0, true)]);
    assert!(test.lock.is_idle());
}

#[test]
fn a_listing_that_shows_a_local_node_of_unknown_outcome_waits_for_it() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.acquire(1, Wait::Forever);
    test.on(lost_create(0));
    let first = test.own(0, 5);
    let queued = test.entered(1, 6, &[&first]);
    assert_eq!(queued, [test.track(1, 6), Command::Reply(Reply::Queued(Ticket(1), 1))]);
    // It was never made after all: whoever is behind goes.
    let looked = test.on(Event::Found(Attempt(0), Ok(vec![])));
    assert_eq!(looked, [enter(2, 0), test.grant(1, 1, 6)]);
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
    // The nodes of the old session may outlive it: they are as foreign as anybody's.
    let queued = test.entered(2, 7, &[&first, &test.own(1, 6)]);
    assert_eq!(queued[1], Command::Watch(test.own(1, 6)));
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [forget(0, false)]);
}

#[test]
fn a_node_that_somebody_deleted_is_lost_to_its_holder_and_made_anew_for_a_waiter() {
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
fn a_waiter_is_not_granted_on_a_node_that_is_missed_together_with_its_holders() {
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
fn closing_does_not_wait_for_a_delete_that_is_refused() {
    let mut test = Test::new();
    test.held(0, 5);
    test.on(PathEvent::Close);
    assert_eq!(test.on(Event::Deleted(Attempt(0), unknown())), [test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), Err(Failure::NoAuth))), [forget(0, false)]);
    assert!(test.lock.is_idle());
}

#[test]
fn a_smaller_number_shows_that_the_directory_was_made_again_and_what_stood_in_it_is_gone() {
    let mut test = Test::new();
    let old = test.held(0, 5);
    test.acquire(1, Wait::Forever);
    let node = test.own(1, 0);
    let (created, children) = (Ok(Created { node: node.clone(), czxid: 200 }), Ok(vec![node.name().into()]));
    let entered = test.on(Event::CreatedAndListed { attempt: Attempt(1), created, children });
    let lost = [Command::Reply(Reply::Lost(Ticket(0))), Command::Delete(Attempt(0), old)];
    let granted = [test.track(1, 0), Command::Grant { ticket: Ticket(1), node, czxid: 200 }];
    assert_eq!(entered, [&lost[..], &granted].concat());
}

#[test]
fn answers_in_another_order_than_the_creates_show_nothing_of_the_kind() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.acquire(1, Wait::Forever);
    let (first, second) = (test.own(1, 5), test.own(0, 6));
    // The list of the second shows the first.
    assert_eq!(
        test.entered(0, 6, &[&first]),
        [test.track(0, 6), Command::Reply(Reply::Queued(Ticket(0), 1))]
    );
    assert_eq!(test.entered(1, 5, &[&second]), [test.track(1, 5), test.grant(1, 1, 5)]);
    assert_eq!(test.on(PathEvent::Release(Ticket(1))), [test.delete(1, 5), test.grant(0, 0, 6)]);
}

#[test]
fn numbers_near_the_wrap_are_refused() {
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
fn no_right_to_read_a_contender_ahead_is_told_with_its_node() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.entered(0, 5, &[&foreign(4)]);
    let refused = test.on(Event::Watched(foreign(4), Err(Failure::NoAuth)));
    assert_eq!(refused, [test.delete(0, 5), refuse(0, Refusal::NoAuth(Some(foreign(4))))]);
}

#[test]
fn a_node_that_outlives_sessions_is_held_again_once_it_was_seen() {
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
fn a_waiter_that_outlives_sessions_keeps_its_place() {
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
fn closing_answers_everybody_and_deletes_everything() {
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

/// A local contender in this mode, entered behind these.
fn join(test: &mut Test, ticket: u64, mode: Mode, sequence: i64, children: &[&Znode]) -> Vec<Command> {
    let request = Request { mode, ..request(true, Wait::Forever) };
    test.on(Event::Acquire { ticket: Ticket(ticket), request });
    let name = format!("{}{sequence:010}", test.instance.prefix(Attempt(ticket), Dialect::Kazoo, mode));
    let node = Znode::parse(&name).expect("a contender's name");
    let children = Ok(children.iter().map(|node| node.name().to_owned()).collect());
    let created = Ok(Created { node, czxid: 100 + sequence });
    test.on(Event::CreatedAndListed { attempt: Attempt(ticket), created, children })
}

fn granted(commands: &[Command]) -> Vec<u64> {
    let ticket = |command: &Command| match command {
        Command::Grant { ticket, .. } => Some(ticket.0),
        _ => None,
    };
    commands.iter().filter_map(ticket).collect()
}

#[test]
fn readers_share_and_a_writer_waits_for_all_of_them() {
    let mut test = Test::new();
    assert_eq!(granted(&join(&mut test, 0, Mode::Read, 0, &[])), [0]);
    assert_eq!(granted(&join(&mut test, 1, Mode::Read, 1, &[])), [1]);
    assert_eq!(granted(&join(&mut test, 2, Mode::Write, 2, &[])), []);
    assert_eq!(granted(&join(&mut test, 3, Mode::Read, 3, &[])), [], "not past a writer that waits");
    assert_eq!(granted(&test.on(PathEvent::Release(Ticket(1)))), []);
    assert_eq!(granted(&test.on(PathEvent::Release(Ticket(0)))), [2]);
    assert_eq!(granted(&test.on(PathEvent::Release(Ticket(2)))), [3]);
}

#[test]
fn a_cancelled_writer_lets_the_readers_behind_it_in_at_once() {
    let mut test = Test::new();
    join(&mut test, 0, Mode::Read, 0, &[]);
    join(&mut test, 1, Mode::Write, 1, &[]);
    for reader in 2..5 {
        assert_eq!(granted(&join(&mut test, reader, Mode::Read, reader as i64, &[])), []);
    }
    assert_eq!(granted(&test.on(PathEvent::Cancel(Ticket(1)))), [2, 3, 4]);
}

#[test]
fn readers_behind_one_strange_writer_share_one_watch() {
    let mut test = Test::new();
    let watch = Command::Watch(foreign(1));
    assert!(join(&mut test, 0, Mode::Read, 2, &[&foreign(1)]).contains(&watch));
    for reader in 1..4 {
        let entered = join(&mut test, reader, Mode::Read, 2 + reader as i64, &[&foreign(1)]);
        assert!(!entered.contains(&watch), "{entered:?}");
    }
    assert_eq!(granted(&test.on(Event::Fired { node: foreign(1), gone: true })), [0, 1, 2, 3]);
}

fn mutex_of_curator(sequence: i64) -> Znode {
    Znode::parse(&format!("_c_{:032x}-lock-{sequence:010}", 7)).expect("a contender's name")
}

#[test]
fn a_contender_beside_one_of_another_dialect_withdraws() {
    for (sequence, place) in [(4, "ahead"), (6, "behind")] {
        let mut test = Test::new();
        let other = mutex_of_curator(sequence);
        test.acquire(0, Wait::Forever);
        let withdrawn = [test.delete(0, 5), refuse(0, Refusal::MixedDialects(other.clone()))];
        assert_eq!(test.entered(0, 5, &[&foreign(3), &other]), withdrawn, "{place}");
    }
}

#[test]
fn a_try_beside_one_of_another_dialect_writes_nothing() {
    let mut test = Test::new();
    let other = mutex_of_curator(4);
    test.acquire(0, Wait::Try);
    let children = Ok(vec![foreign(3).name().to_owned(), other.name().to_owned()]);
    let refused = [refuse(0, Refusal::MixedDialects(other)), forget(0, true)];
    assert_eq!(test.on(Event::Listed(Attempt(0), children)), refused);
}

#[test]
fn one_of_another_dialect_that_has_left_is_in_nobodys_way() {
    let mut test = Test::new();
    let curators = Request { dialect: Dialect::Curator, ..request(true, Wait::Forever) };
    test.on(Event::Acquire { ticket: Ticket(0), request: curators });
    let name = format!("{}{:010}", test.instance.prefix(Attempt(0), Dialect::Curator, Mode::Lock), 5);
    let node = Znode::parse(&name).expect("a contender's name");
    let (created, children) = (Ok(Created { node: node.clone(), czxid: 105 }), Ok(vec![name]));
    let entered = test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children });
    assert_eq!(granted(&entered), [0]);
    test.acquire(1, Wait::Forever);
    let withdrawn = [test.delete(1, 6), refuse(1, Refusal::MixedDialects(node.clone()))];
    assert_eq!(test.entered(1, 6, &[&node]), withdrawn, "while it is held");
    test.on(PathEvent::Release(Ticket(0)));
    test.acquire(2, Wait::Forever);
    assert_eq!(granted(&test.entered(2, 7, &[&node])), [2], "its delete is on the way");
}

/// How often a request is sent, that is answered like this every time and at once, within this time.
fn sent_within(
    test: &mut Test,
    time: Duration,
    first: Vec<Command>,
    answer: impl Fn(&Command) -> Option<Event>,
) -> usize {
    let (end, mut sent, mut due) = (test.now + time, 0, first);
    loop {
        let mut answered = 0;
        while let Some(event) = due.iter().find_map(&answer) {
            answered += 1;
            assert!(answered < 10, "{due:?} without a pause");
            sent += due.iter().filter(|command| answer(command).is_some()).count();
            due = test.on(event);
        }
        match test.lock.wakeup() {
            Some(wakeup) if wakeup <= end => due = test.later(),
            Some(_) | None => return sent,
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Half a second after the first ten, and five seconds in the end: with pauses that are half as long, 30 a minute.
const A_MINUTES_RETRIES: usize = 30;

#[test]
fn whatever_fails_for_good_is_repeated_ever_more_slowly() {
    for failure in
        [Failure::Unknown("nobody knows".into()), Failure::Refused("throttled".into()), Failure::NoAuth]
    {
        let fail = |command: &Command| match command {
            Command::Delete(attempt, _) => Some(Event::Deleted(*attempt, Err(failure.clone()))),
            Command::FindCreated(attempt) => Some(Event::Found(*attempt, Err(failure.clone()))),
            Command::List(attempt) => Some(Event::Listed(*attempt, Err(failure.clone()))),
            Command::ReadStat(attempt, _) => Some(Event::StatRead(*attempt, Err(failure.clone()))),
            Command::MakeDirectory(attempt, _) => Some(Event::DirectoryMade(*attempt, Err(failure.clone()))),
            _ => None,
        };
        // A release.
        let mut test = Test::new();
        test.held(0, 5);
        let released = test.on(PathEvent::Release(Ticket(0)));
        let sent = sent_within(&mut test, MINUTE, released, fail);
        assert!((5..=A_MINUTES_RETRIES).contains(&sent), "{failure:?}: {sent} deletes a minute");
        // A create of unknown outcome.
        let mut test = Test::new();
        test.acquire(0, Wait::Forever);
        let looking = test.on(lost_create(0));
        let sent = sent_within(&mut test, MINUTE, looking, fail);
        assert!((5..=A_MINUTES_RETRIES).contains(&sent), "{failure:?}: {sent} looks a minute");
        // A node whose list does not come.
        let mut test = Test::new();
        test.acquire(0, Wait::Forever);
        let created = Ok(Created { node: test.own(0, 5), czxid: 105 });
        let half = test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children: unknown() });
        let sent = sent_within(&mut test, MINUTE, half, fail);
        assert!((5..=A_MINUTES_RETRIES).contains(&sent), "{failure:?}: {sent} lists or deletes a minute");
        // A node that outlives sessions, and is not found again.
        let mut test = Test::new();
        test.on(Event::Acquire { ticket: Ticket(0), request: request(false, Wait::Forever) });
        test.entered(0, 5, &[]);
        test.on(PathEvent::Lost);
        let inspected = test.on(PathEvent::Connected { session: SESSION + 1 });
        let sent = sent_within(&mut test, MINUTE, inspected, fail);
        assert!((5..=A_MINUTES_RETRIES).contains(&sent), "{failure:?}: {sent} reads a minute");
    }
}

#[test]
fn a_create_whose_answer_is_always_lost_is_repeated_ever_more_slowly() {
    let mut test = Test::new();
    let entered = test.acquire(0, Wait::Forever);
    let fail = |command: &Command| match command {
        Command::CreateAndList(attempt, _) => Some(lost_create(attempt.0)),
        Command::FindCreated(attempt) => Some(Event::Found(*attempt, Ok(Vec::new()))),
        _ => None,
    };
    let sent = sent_within(&mut test, MINUTE, entered, fail);
    assert!((5..=2 * A_MINUTES_RETRIES).contains(&sent), "{sent} creates and looks a minute");
}

#[test]
fn a_directory_that_goes_as_often_as_it_is_made_is_made_ever_more_slowly() {
    for made in [Ok(()), unknown()] {
        let mut test = Test::new();
        let entered = test.acquire(0, Wait::Forever);
        let fail = |command: &Command| match command {
            Command::CreateAndList(attempt, _) => {
                let (created, children) = (Err(Failure::NoNode), Err(Failure::NoNode));
                Some(Event::CreatedAndListed { attempt: *attempt, created, children })
            }
            Command::MakeDirectory(attempt, _) => Some(Event::DirectoryMade(*attempt, made.clone())),
            _ => None,
        };
        let sent = sent_within(&mut test, MINUTE, entered, fail);
        assert!((5..=2 * A_MINUTES_RETRIES).contains(&sent), "{sent} creates and directories a minute");
    }
}

#[test]
fn a_node_that_cannot_be_watched_is_looked_at_once_a_second_whoever_waits_for_it() {
    for (failure, most) in
        [(Failure::Refused("no room".into()), 61), (Failure::Unknown("cut".into()), A_MINUTES_RETRIES)]
    {
        let mut test = Test::new();
        let mut due = Vec::new();
        // One waiter after the other gives up while the look at their predecessor is due.
        for waiter in 0..5 {
            test.acquire(waiter, Wait::Forever);
            due = test.entered(waiter, 5 + waiter as i64, &[&foreign(4)]);
            if waiter < 4 {
                test.on(Event::Watched(foreign(4), Err(failure.clone())));
                test.on(PathEvent::Cancel(Ticket(waiter)));
                test.now = test.now + Duration::from_millis(10);
            }
        }
        let fail = |command: &Command| match command {
            Command::Watch(node) => Some(Event::Watched(node.clone(), Err(failure.clone()))),
            _ => None,
        };
        let sent = sent_within(&mut test, MINUTE, due, fail);
        assert!((5..=most).contains(&sent), "{failure:?}: {sent} looks a minute");
    }
}

#[test]
fn a_try_does_not_outlast_a_doubt() {
    // While it looks, while its create is in flight, while the outcome is unknown, while it lists.
    for steps in 0..4 {
        let mut test = Test::new();
        test.acquire(0, Wait::Try);
        if steps > 0 {
            test.on(Event::Listed(Attempt(0), Ok(vec![])));
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
    test.on(Event::Listed(Attempt(0), Ok(vec![])));
    test.entered(0, 5, &[]);
    assert_eq!(
        test.on(PathEvent::Suspended),
        [Command::Reply(Reply::Suspended(Ticket(0)))],
        "one that holds goes on"
    );
}
