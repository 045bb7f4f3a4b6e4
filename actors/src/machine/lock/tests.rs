//! For each event, the exact commands that follow.

mod lists;
mod modes;
mod refusals;
mod retries;
mod sessions;

use super::*;
use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::patterns::Patterns;
use crate::machine::{Denied, Failure};

const SESSION: i64 = 77;
const SECOND: Duration = Duration::from_secs(1);
const LIST: Command = Command::List { sync: false };
const FIND: Command = Command::List { sync: true };

struct Test {
    lock: Lock,
    instance: Instance,
    now: Moment,
}

impl Test {
    /// A lock with a session.
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

    /// Advances the time to the next timer, and returns its commands.
    fn later(&mut self) -> Vec<Command> {
        let due = self.lock.wakeup().expect("a timer is set");
        assert!(due > self.now, "the timer is in the future");
        self.now = due;
        self.on(PathEvent::Wake)
    }

    fn acquire(&mut self, ticket: u64, wait: Wait) -> Vec<Command> {
        self.on(Event::Acquire { ticket: Ticket(ticket), request: request(true, wait) })
    }

    /// The node that an attempt creates, with this sequence number.
    fn own(&self, attempt: u64, sequence: i64) -> Znode {
        let name =
            format!("{}{sequence:010}", self.instance.prefix(Attempt(attempt), Dialect::Kazoo, Mode::Lock));
        Znode::parse(&name).expect("a contender's name")
    }

    /// The create and the list of an attempt succeed. The transaction is 100 more than the sequence number.
    fn entered(&mut self, attempt: u64, sequence: i64, children: &[&Znode]) -> Vec<Command> {
        let node = self.own(attempt, sequence);
        let children = children.iter().map(|node| node.name().to_owned()).chain([node.name().to_owned()]);
        let children = Ok(children.collect());
        let created = Ok(Created { node, czxid: 100 + sequence });
        self.on(Event::CreatedAndListed { attempt: Attempt(attempt), created, children })
    }

    /// The create of an attempt succeeds.
    fn created(&mut self, attempt: u64, sequence: i64) -> Vec<Command> {
        let created = Created { node: self.own(attempt, sequence), czxid: 100 + sequence };
        self.on(Event::Created(Attempt(attempt), Ok(created)))
    }

    /// Grants a ticket with the attempt of the same number, and this sequence number.
    fn held(&mut self, ticket: u64, sequence: i64) -> Znode {
        assert_eq!(self.acquire(ticket, Wait::Forever), [enter(ticket, ticket)]);
        let granted = self.entered(ticket, sequence, &[]);
        assert_eq!(granted.last(), Some(&self.grant(ticket, ticket, sequence)));
        let node = self.own(ticket, sequence);
        assert_eq!(self.lock.node(Ticket(ticket)), Some(&node));
        node
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
    Request { mode, dialect, patterns: Patterns::default(), ephemeral, joint: false, bytes: 100, wait }
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
    Err(Failure::Unknown("the connection broke".into()))
}

fn listed(nodes: &[&Znode]) -> Event {
    Event::Listed(Ok(nodes.iter().map(|node| node.name().to_owned()).collect()))
}

fn lost_create(attempt: u64) -> Event {
    Event::CreatedAndListed { attempt: Attempt(attempt), created: unknown(), children: unknown() }
}

fn granted(commands: &[Command]) -> Vec<u64> {
    let ticket = |command: &Command| match command {
        Command::Grant { ticket, .. } => Some(ticket.0),
        _ => None,
    };
    commands.iter().filter_map(ticket).collect()
}

#[test]
fn a_free_lock_is_granted_after_one_round_trip() {
    let mut test = Test::new();
    assert_eq!(test.acquire(0, Wait::Forever), [enter(0, 0)]);
    assert_eq!(test.entered(0, 5, &[]), [test.track(0, 5), test.grant(0, 0, 5)]);
    assert_eq!(test.on(PathEvent::Release(Ticket(0))), [test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), Ok(()))), [forget(0, true)]);
    assert!(test.lock.is_idle());
}

#[test]
fn only_the_nearest_foreign_predecessor_is_watched_and_its_end_grants_without_a_list() {
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

#[test]
fn a_watch_that_fires_for_a_change_is_set_again() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.entered(0, 5, &[&foreign(4)]);
    let again = [Command::Watch(foreign(4))];
    assert_eq!(test.on(Event::Fired { node: foreign(4), gone: false }), again);
    assert_eq!(test.on(Event::Watched(foreign(4), unknown())), again);
    // If the server cannot set the watch, it is retried once a second.
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
    // The list of a third contender still shows both nodes.
    test.acquire(2, Wait::Forever);
    let second = test.own(1, 6);
    assert_eq!(
        test.entered(2, 7, &[&first, &second]),
        [test.track(2, 7), Command::Reply(Reply::Queued(Ticket(2), 1))]
    );
    assert_eq!(test.on(PathEvent::Release(Ticket(1))), [test.delete(1, 6), test.grant(2, 2, 7)]);
}

#[test]
fn a_foreign_contender_between_two_local_ones_keeps_its_place() {
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
fn a_missing_directory_is_created_and_both_requests_are_sent_again() {
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
fn a_failed_list_is_sent_again_without_the_create() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    let created = Ok(Created { node: test.own(0, 5), czxid: 105 });
    let half = Event::CreatedAndListed { attempt: Attempt(0), created, children: unknown() };
    assert_eq!(test.on(half), [LIST]);
    let own = test.own(0, 5);
    assert!(test.on(listed(&[&foreign(4), &own])).contains(&Command::Watch(foreign(4))));
}

#[test]
fn a_create_of_unknown_outcome_is_sent_again_if_it_was_not_carried_out() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    assert_eq!(test.on(lost_create(0)), [FIND]);
    assert_eq!(test.on(Event::Listed(unknown())), []);
    assert_eq!(test.later(), [FIND]);
    let others = Ok(vec![foreign(1).name().to_owned()]);
    assert_eq!(test.on(Event::Listed(others)), [enter(1, 0)]);
}

#[test]
fn the_node_of_a_create_of_unknown_outcome_is_used_only_if_it_has_the_right_owner() {
    // A persistent node has none.
    for (ephemeral, owner, adopted) in
        [(true, SESSION, true), (true, SESSION + 1, false), (true, 0, false), (false, 0, true)]
    {
        let mut test = Test::new();
        test.on(Event::Acquire { ticket: Ticket(0), request: request(ephemeral, Wait::Forever) });
        test.on(lost_create(0));
        let own = test.own(0, 5);
        let inspect = [Command::ReadStat(Attempt(0), own.clone())];
        assert_eq!(test.on(Event::Listed(Ok(vec![own.name().to_owned()]))), inspect);
        let found = test.on(Event::StatRead(Attempt(0), Ok(NodeStat { czxid: 105, owner })));
        if adopted {
            assert_eq!(found, [LIST]);
            let granted = test.on(Event::Listed(Ok(vec![own.name().to_owned()])));
            assert_eq!(granted, [test.track(0, 5), test.grant(0, 0, 5)]);
        } else {
            assert_eq!(found, [test.delete(0, 5), enter(1, 0)]);
            // The delete of the old node does not end the request.
            assert_eq!(test.on(Event::Deleted(Attempt(0), Ok(()))), []);
        }
    }
}

#[test]
fn a_cancelled_create_of_unknown_outcome_is_found_and_deleted() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.on(lost_create(0));
    assert_eq!(test.on(PathEvent::Cancel(Ticket(0))), [refuse(0, Refusal::Cancelled)]);
    let own = test.own(0, 5);
    let looked = test.on(Event::Listed(Ok(vec![own.name().to_owned()])));
    assert_eq!(looked, [test.delete(0, 5)]);
    assert_eq!(test.on(Event::Deleted(Attempt(0), unknown())), [test.delete(0, 5)]);
    for failure in [Failure::Unknown("cut".into()), Failure::Refused("throttled".into()), Failure::NoAuth] {
        assert_eq!(test.on(Event::Deleted(Attempt(0), Err(failure))), []);
        assert_eq!(test.later(), [test.delete(0, 5)]);
    }
    assert_eq!(test.on(Event::Deleted(Attempt(0), Ok(()))), [forget(0, true)]);
    assert!(test.lock.is_idle());
}

#[test]
fn a_listed_local_node_of_unknown_outcome_blocks_those_behind_it() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.acquire(1, Wait::Forever);
    test.on(lost_create(0));
    let first = test.own(0, 5);
    let queued = test.entered(1, 6, &[&first]);
    assert_eq!(queued, [test.track(1, 6), Command::Reply(Reply::Queued(Ticket(1), 1))]);
    // A later list shows that it does not exist, so the one behind it is granted.
    let looked = test.on(Event::Listed(Ok(vec![])));
    assert_eq!(looked, [enter(2, 0), test.grant(1, 1, 6)]);
}

#[test]
fn a_smaller_sequence_number_shows_that_the_directory_was_created_again() {
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
fn answers_in_another_order_than_the_creates_lose_no_node() {
    let mut test = Test::new();
    test.acquire(0, Wait::Forever);
    test.acquire(1, Wait::Forever);
    let (first, second) = (test.own(1, 5), test.own(0, 6));
    // The list of the second shows the first.
    let queued = [test.track(0, 6), Command::Reply(Reply::Queued(Ticket(0), 1)), LIST];
    assert_eq!(test.entered(0, 6, &[&first]), queued);
    assert_eq!(test.created(1, 5), []);
    assert_eq!(test.on(listed(&[&first, &second])), [test.track(1, 5), test.grant(1, 1, 5)]);
    assert_eq!(test.on(PathEvent::Release(Ticket(1))), [test.delete(1, 5), test.grant(0, 0, 6)]);
}
