//! For each event, the exact commands that follow.

use super::*;
use crate::machine::Failure;
use crate::machine::exclusion::Dialect;
use crate::machine::lock::{Created, Request};
use crate::machine::node::Attempt;
use crate::machine::patterns::Patterns;

const SESSION: i64 = 77;
const LINGER: Duration = Duration::from_secs(5);

struct Test {
    lock: LingeringLock,
    instance: Instance,
    now: Moment,
    mode: Mode,
}

impl Test {
    /// A lock with a session.
    fn new(mode: Mode) -> Test {
        let instance = Instance::new(0xabcd << 64);
        let mut test = Test { lock: LingeringLock::new(instance), instance, now: Moment(0), mode };
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

    fn share(&mut self, ticket: u64, wait: Wait) -> Vec<Command> {
        self.share_with(ticket, 0, wait)
    }

    fn share_with(&mut self, ticket: u64, options: u64, wait: Wait) -> Vec<Command> {
        let request = SharedRequest { request: request(self.mode, wait), options, linger: LINGER };
        self.on(Event::Share { ticket: Ticket(ticket), request })
    }

    /// A request that shares nothing.
    fn acquire(&mut self, ticket: u64, mode: Mode, wait: Wait) -> Vec<Command> {
        self.on(lock::Event::Acquire { ticket: Ticket(ticket), request: request(mode, wait) })
    }

    fn release(&mut self, ticket: u64) -> Vec<Command> {
        self.on(PathEvent::Release(Ticket(ticket)))
    }

    /// The node that an attempt creates, with this sequence number.
    fn own(&self, attempt: u64, sequence: i64) -> Znode {
        node(&format!("{}{sequence:010}", self.instance.prefix(Attempt(attempt), Dialect::Kazoo, self.mode)))
    }

    /// The create and the list of an attempt succeed. The transaction is 100 more than the sequence number.
    fn entered(&mut self, attempt: u64, sequence: i64, others: &[&Znode]) -> Vec<Command> {
        let node = self.own(attempt, sequence);
        let children = Ok(names(&[others, &[&node]].concat()));
        let created = Ok(Created { node, czxid: 100 + sequence });
        self.on(lock::Event::CreatedAndListed { attempt: Attempt(attempt), created, children })
    }

    fn followed(&mut self, line: u64, nodes: &[&Znode]) -> Vec<Command> {
        self.on(Event::Followed(LineId(line), Ok(names(nodes))))
    }

    /// Grants this ticket by the first node, and follows the node.
    fn held(&mut self, ticket: u64, sequence: i64) -> Znode {
        assert_eq!(self.share(ticket, Wait::Forever), [enter(0, ticket)]);
        let (node, granted) = (self.own(0, sequence), self.entered(0, sequence, &[]));
        assert_eq!(granted, [self.track(0, sequence), self.grant(ticket, 0, sequence), follow(0)]);
        assert_eq!(self.followed(0, &[&node]), []);
        node
    }

    fn grant(&self, ticket: u64, attempt: u64, sequence: i64) -> Command {
        let node = self.own(attempt, sequence);
        Command::Queue(lock::Command::Grant { ticket: Ticket(ticket), node, czxid: 100 + sequence })
    }

    fn track(&self, attempt: u64, sequence: i64) -> Command {
        Command::Queue(lock::Command::Track(self.own(attempt, sequence)))
    }

    fn delete(&self, attempt: u64, sequence: i64) -> Command {
        Command::Queue(lock::Command::Delete(Attempt(attempt), self.own(attempt, sequence)))
    }
}

fn request(mode: Mode, wait: Wait) -> Request {
    let dialect = Dialect::Kazoo;
    Request { mode, dialect, patterns: Patterns::default(), ephemeral: true, joint: false, bytes: 100, wait }
}

fn node(name: &str) -> Znode {
    Znode::parse(name).expect("a contender's name")
}

fn foreign(sequence: i64) -> Znode {
    node(&format!("{:032x}__lock__{sequence:010}", 7))
}

fn foreign_reader(sequence: i64) -> Znode {
    node(&format!("{:032x}__rlock__{sequence:010}", 7))
}

fn names(nodes: &[&Znode]) -> Vec<String> {
    nodes.iter().map(|node| node.name().to_owned()).collect()
}

fn enter(attempt: u64, ticket: u64) -> Command {
    Command::Queue(lock::Command::CreateAndList(Attempt(attempt), Ticket(ticket)))
}

fn watch(node: Znode) -> Command {
    Command::Queue(lock::Command::Watch(node))
}

fn follow(line: u64) -> Command {
    Command::Follow(LineId(line))
}

fn unfollow(line: u64) -> Command {
    Command::Unfollow(LineId(line))
}

fn queued(ticket: u64, ahead: usize) -> Command {
    reply(Reply::Queued(Ticket(ticket), ahead))
}

fn refuse(ticket: u64, refusal: Refusal) -> Command {
    reply(Reply::Refused(Ticket(ticket), refusal))
}

fn forget(ticket: u64) -> Command {
    forgotten(Ticket(ticket), true)
}

fn deleted(attempt: u64) -> Event {
    lock::Event::Deleted(Attempt(attempt), Ok(())).into()
}

#[test]
fn an_idle_node_is_granted_again_without_a_request_and_deleted_after_its_time() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    for ticket in 2..5 {
        assert_eq!(test.release(ticket - 1), [forget(ticket - 1)]);
        assert_eq!(test.share(ticket, Wait::Forever), [test.grant(ticket, 0, 5)]);
    }
    assert_eq!(test.release(4), [forget(4)]);
    assert_eq!(test.lock.wakeup(), Some(Moment(0) + LINGER));
    assert_eq!(test.later(), [unfollow(0), test.delete(0, 5)]);
    assert_eq!(test.on(deleted(0)), []);
    assert!(test.lock.is_idle());
}

#[test]
fn a_node_stays_for_its_time_after_the_last_release() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.release(1);
    test.now = Moment(0) + LINGER / 2;
    test.share(2, Wait::Forever);
    test.release(2);
    assert_eq!(test.later(), [], "it has been idle for half of the time");
    assert_eq!(test.lock.wakeup(), Some(Moment(0) + LINGER / 2 + LINGER));
    test.share(3, Wait::Forever);
    assert_eq!(test.later(), [], "it is held");
    assert_eq!(test.lock.wakeup(), None);
    assert_eq!(test.release(3), [forget(3)]);
    assert_eq!(test.later(), [unfollow(0), test.delete(0, 5)]);
}

#[test]
fn a_line_is_served_in_the_order_of_arrival_and_a_release_hands_over_at_once() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    assert_eq!(test.share(2, Wait::Forever), [queued(2, 1)]);
    assert_eq!(test.share(3, Wait::Forever), [queued(3, 2)]);
    assert_eq!(test.release(1), [forget(1), test.grant(2, 0, 5)]);
    assert_eq!(test.release(2), [forget(2), test.grant(3, 0, 5)]);
}

#[test]
fn requests_share_the_node_of_a_request_that_still_waits() {
    let mut test = Test::new(Mode::Lock);
    assert_eq!(test.share(1, Wait::Forever), [enter(0, 1)]);
    assert_eq!(test.share(2, Wait::Forever), [], "its place is not known yet");
    let (first, second) = (queued(1, 1), queued(2, 2));
    assert_eq!(test.entered(0, 5, &[&foreign(4)]), [test.track(0, 5), watch(foreign(4)), first, second]);
    assert_eq!(test.share(3, Wait::Forever), [queued(3, 3)]);
}

#[test]
fn those_that_wait_for_the_first_of_their_line_are_told_their_places() {
    let mut test = Test::new(Mode::Lock);
    assert_eq!(test.share(1, Wait::Forever), [enter(0, 1)]);
    test.share(2, Wait::Forever);
    test.share(3, Wait::Forever);
    let granted = [test.track(0, 5), test.grant(1, 0, 5), queued(2, 1), queued(3, 2), follow(0)];
    assert_eq!(test.entered(0, 5, &[]), granted);
    assert_eq!(test.release(1), [forget(1), test.grant(2, 0, 5)], "told once");
}

#[test]
fn those_that_lose_the_node_they_wait_with_are_told_their_new_places() {
    let mut test = Test::new(Mode::Lock);
    for ticket in 1..=3 {
        test.share(ticket, Wait::Forever);
    }
    test.entered(0, 5, &[&foreign(4)]);
    assert_eq!(test.on(PathEvent::Lost), []);
    assert_eq!(test.on(PathEvent::Connected { session: SESSION + 1 }), [enter(1, 1)]);
    let granted = [test.track(1, 6), test.grant(1, 1, 6), queued(2, 1), queued(3, 2)];
    assert_eq!(test.entered(1, 6, &[]), granted);
}

#[test]
fn those_that_move_to_another_line_are_told_their_places_there() {
    let mut test = Test::new(Mode::Lock);
    let first = test.held(1, 5);
    test.share(2, Wait::Forever);
    test.on(Event::ChildrenChanged(LineId(0)));
    assert_eq!(test.followed(0, &[&first, &foreign(6)]), [unfollow(0)]);
    test.share(3, Wait::Forever);
    assert_eq!(test.entered(1, 7, &[&first, &foreign(6)]), [test.track(1, 7), queued(3, 2)]);
    let gone = test.on(PathEvent::Missing(vec![first.name().to_owned()]));
    assert!(gone.contains(&reply(Reply::Lost(Ticket(1)))), "{gone:?}");
    assert!(gone.contains(&queued(2, 1)), "behind the stranger: {gone:?}");
    assert!(!gone.contains(&queued(3, 2)), "it knows its place: {gone:?}");
}

#[test]
fn readers_of_a_process_hold_one_node_at_the_same_time() {
    let mut test = Test::new(Mode::Read);
    test.held(1, 5);
    assert_eq!(test.share(2, Wait::Forever), [test.grant(2, 0, 5)]);
    assert_eq!(test.share(3, Wait::Try), [test.grant(3, 0, 5)]);
    assert_eq!(test.on(Event::ChildrenChanged(LineId(0))), [follow(0)]);
    let own = test.own(0, 5);
    assert_eq!(test.followed(0, &[&own, &foreign_reader(6)]), [], "readers do not wait for readers");
    assert_eq!(test.on(Event::ChildrenChanged(LineId(0))), [follow(0)]);
    assert_eq!(test.followed(0, &[&own, &foreign_reader(6), &foreign(7)]), [unfollow(0)]);
    assert_eq!(test.share(4, Wait::Forever), [enter(1, 4)], "it queues behind the writer");
    assert_eq!(test.release(1), [forget(1)]);
    assert_eq!(test.release(2), [forget(2)]);
    assert_eq!(test.release(3), [test.delete(0, 5)], "told once the node is gone");
    assert_eq!(test.on(deleted(0)), [forget(3)]);
}

#[test]
fn once_a_stranger_is_seen_the_line_is_served_and_later_requests_queue_behind_it() {
    let mut test = Test::new(Mode::Lock);
    let own = test.held(1, 5);
    test.share(2, Wait::Forever);
    assert_eq!(test.on(Event::ChildrenChanged(LineId(0))), [follow(0)]);
    assert_eq!(test.followed(0, &[&own, &foreign(6)]), [unfollow(0)]);
    assert_eq!(test.share(3, Wait::Forever), [enter(1, 3)]);
    assert_eq!(test.entered(1, 7, &[&own, &foreign(6)]), [test.track(1, 7), queued(3, 2)]);
    assert_eq!(test.release(1), [forget(1), test.grant(2, 0, 5)]);
    assert_eq!(test.release(2), [test.delete(0, 5), watch(foreign(6))]);
    assert_eq!(test.on(deleted(0)), [forget(2)]);
}

#[test]
fn a_stranger_that_is_seen_while_the_node_is_idle_ends_it_at_once() {
    let mut test = Test::new(Mode::Lock);
    assert_eq!(test.share(1, Wait::Forever), [enter(0, 1)]);
    let own = test.own(0, 5);
    assert_eq!(test.entered(0, 5, &[]), [test.track(0, 5), test.grant(1, 0, 5), follow(0)]);
    assert_eq!(test.release(1), [forget(1)]);
    // The list was sent while the node was held.
    assert_eq!(test.followed(0, &[&own, &foreign(6)]), [unfollow(0), test.delete(0, 5)]);
}

#[test]
fn nobody_is_seen_without_a_list_so_the_node_does_not_stay() {
    for failure in [Failure::NoAuth, Failure::Refused("full".into()), Failure::Unknown("lost".into())] {
        let mut test = Test::new(Mode::Lock);
        test.share(1, Wait::Forever);
        test.entered(0, 5, &[]);
        assert_eq!(test.on(Event::Followed(LineId(0), Err(failure))), []);
        assert_eq!(test.release(1), [test.delete(0, 5)]);
    }
}

#[test]
fn a_node_that_waited_for_others_is_not_followed_and_does_not_stay() {
    let mut test = Test::new(Mode::Lock);
    test.share(1, Wait::Forever);
    test.share(2, Wait::Forever);
    test.entered(0, 5, &[&foreign(4)]);
    let gone = lock::Event::Fired { node: foreign(4), gone: true };
    assert_eq!(test.on(gone), [test.grant(1, 0, 5)]);
    assert_eq!(test.share(3, Wait::Forever), [enter(1, 3)]);
    assert_eq!(test.release(1), [forget(1), test.grant(2, 0, 5)]);
    assert_eq!(test.release(2), [test.delete(0, 5)]);
}

#[test]
fn a_list_that_does_not_show_the_node_ends_the_lease_and_the_line_queues_again() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.share(2, Wait::Forever);
    assert_eq!(test.on(Event::ChildrenChanged(LineId(0))), [follow(0)]);
    let lost = [reply(Reply::Lost(Ticket(1))), test.delete(0, 5), enter(1, 2), unfollow(0)];
    let mut said = test.followed(0, &[]);
    said.sort_by_key(|command| lost.iter().position(|other| other == command));
    assert_eq!(said, lost);
    assert_eq!(test.on(deleted(0)), [forget(1)]);
    assert_eq!(test.entered(1, 6, &[]), [test.track(1, 6), test.grant(2, 1, 6), follow(1)]);
}

#[test]
fn a_line_that_a_try_began_queues_again_and_waits() {
    let mut test = Test::new(Mode::Lock);
    test.share(1, Wait::Try);
    test.on(lock::Event::Listed(Ok(Vec::new())));
    assert!(test.entered(0, 5, &[]).contains(&test.grant(1, 0, 5)));
    test.share(2, Wait::Forever);
    let again = test.followed(0, &[]);
    assert!(again.contains(&enter(1, 2)), "a try would list first: {again:?}");
}

#[test]
fn the_line_of_a_lost_session_queues_again_under_one_node() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.share(2, Wait::Forever);
    test.share(3, Wait::Forever);
    let lost = [reply(Reply::Lost(Ticket(1))), unfollow(0), forgotten(Ticket(1), false)];
    let mut said = test.on(PathEvent::Lost);
    said.sort_by_key(|command| lost.iter().position(|other| other == command));
    assert_eq!(said, lost);
    assert_eq!(test.on(PathEvent::Connected { session: SESSION + 1 }), [enter(1, 2)]);
    let granted = [test.track(1, 6), test.grant(2, 1, 6), queued(3, 1), follow(1)];
    assert_eq!(test.entered(1, 6, &[]), granted);
    assert_eq!(test.release(2), [forget(2), test.grant(3, 1, 6)]);
}

#[test]
fn a_doubted_session_grants_nothing_and_its_node_does_not_stay() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.share(2, Wait::Forever);
    assert_eq!(test.on(PathEvent::Suspended), [reply(Reply::Suspended(Ticket(1))), unfollow(0)]);
    assert_eq!(test.release(1), [forget(1)]);
    assert_eq!(test.share(3, Wait::Try), [refuse(3, Refusal::Suspended), forget(3)]);
    assert_eq!(test.on(PathEvent::Resumed), [test.grant(2, 0, 5)]);
    assert_eq!(test.release(2), [test.delete(0, 5)]);
}

#[test]
fn a_try_is_granted_by_an_idle_node_and_refused_by_a_held_one_without_a_request() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    assert_eq!(test.share(2, Wait::Try), [refuse(2, Refusal::Contended), forget(2)]);
    test.release(1);
    assert_eq!(test.share(3, Wait::Try), [test.grant(3, 0, 5)]);
}

#[test]
fn the_node_of_a_request_is_shown_unless_it_shares_one() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    assert_eq!(test.lock.node(Ticket(1)), None);

    let mut test = Test::new(Mode::Lock);
    test.acquire(1, Mode::Lock, Wait::Forever);
    assert_eq!(test.lock.node(Ticket(1)), None, "it is not created yet");
    test.entered(0, 5, &[]);
    assert_eq!(test.lock.node(Ticket(1)), Some(&test.own(0, 5)));
}

#[test]
fn a_request_without_a_shared_node_ends_an_idle_one_and_keeps_its_place() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.release(1);
    let list = Command::Queue(lock::Command::List { sync: false });
    let tried = [unfollow(0), test.delete(0, 5), list];
    assert_eq!(test.acquire(2, Mode::Lock, Wait::Try), tried);

    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.share(2, Wait::Forever);
    let entered = Command::Queue(lock::Command::CreateAndList(Attempt(1), Ticket(3)));
    assert_eq!(test.acquire(3, Mode::Lock, Wait::Forever), [unfollow(0), entered]);
    let created = Command::Queue(lock::Command::Create(Attempt(2), Ticket(4)));
    assert_eq!(test.share(4, Wait::Forever), [created], "behind the request that came before");
}

#[test]
fn requests_with_other_options_do_not_share_a_node() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    assert_eq!(test.share_with(2, 9, Wait::Forever), [unfollow(0), enter(1, 2)]);
}

#[test]
fn a_request_that_ends_leaves_the_others_of_its_line_their_places() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    let deadline = Moment(0) + Duration::from_secs(1);
    test.share(2, Wait::Until(deadline));
    test.share(3, Wait::Forever);
    test.share(4, Wait::Forever);
    let cancelled = [refuse(3, Refusal::Cancelled), forget(3)];
    assert_eq!(test.on(PathEvent::Cancel(Ticket(3))), cancelled);
    assert_eq!(test.later(), [refuse(2, Refusal::TimedOut), forget(2)]);
    assert_eq!(test.release(1), [forget(1), test.grant(4, 0, 5)]);
    assert_eq!(test.lock.wakeup(), None);
}

#[test]
fn a_waiting_node_that_nobody_wants_any_more_is_deleted() {
    let mut test = Test::new(Mode::Lock);
    test.share(1, Wait::Forever);
    test.entered(0, 5, &[&foreign(4)]);
    let cancelled = test.on(PathEvent::Cancel(Ticket(1)));
    let unwatch = Command::Queue(lock::Command::Unwatch(foreign(4)));
    assert_eq!(cancelled, [refuse(1, Refusal::Cancelled), test.delete(0, 5), unwatch]);
    assert_eq!(test.on(deleted(0)), [forget(1)], "told once the node is gone");
}

#[test]
fn letting_go_ends_an_idle_node_and_is_answered_once_it_is_gone() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    assert_eq!(test.on(Event::LetGo(Ticket(8))), [forget(8)], "it is held");
    test.release(1);
    assert_eq!(test.on(Event::LetGo(Ticket(9))), [unfollow(0), test.delete(0, 5)]);
    assert_eq!(test.on(deleted(0)), [forget(9)]);
    assert_eq!(test.on(Event::LetGo(Ticket(10))), [forget(10)]);

    let mut test = Test::new(Mode::Read);
    let first = test.held(1, 5);
    assert_eq!(test.share_with(2, 1, Wait::Forever), [enter(1, 2)], "other options need another node");
    test.entered(1, 6, &[&first]);
    test.release(1);
    test.release(2);
    let deletes = [unfollow(0), unfollow(1), test.delete(0, 5), test.delete(1, 6)];
    assert_eq!(test.on(Event::LetGo(Ticket(9))), deletes);
    assert_eq!(test.on(deleted(1)), [], "the other one is still there");
    assert_eq!(test.on(deleted(0)), [forget(9)]);

    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.release(1);
    assert_eq!(test.later(), [unfollow(0), test.delete(0, 5)]);
    assert_eq!(test.on(Event::LetGo(Ticket(9))), [], "its time was over before");
    assert_eq!(test.on(deleted(0)), [forget(9)]);
}

#[test]
fn without_a_handle_no_node_stays_after_its_last_request() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.share(2, Wait::Forever);
    assert_eq!(test.on(Event::Retire), [unfollow(0)]);
    assert_eq!(test.release(1), [forget(1), test.grant(2, 0, 5)]);
    assert_eq!(test.release(2), [test.delete(0, 5)]);
    assert_eq!(test.on(deleted(0)), [forget(2)]);

    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.release(1);
    assert_eq!(test.on(Event::Retire), [unfollow(0), test.delete(0, 5)]);

    let mut test = Test::new(Mode::Lock);
    test.share(1, Wait::Try);
    test.on(Event::Retire);
    test.on(lock::Event::Listed(Ok(Vec::new())));
    test.entered(0, 5, &[]);
    test.release(1);
    assert!(test.on(PathEvent::Wake).contains(&test.delete(0, 5)), "a try that was on its way");
}

#[test]
fn closing_ends_nodes_that_are_idle_held_and_waiting() {
    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.release(1);
    assert_eq!(test.on(PathEvent::Close), [unfollow(0), test.delete(0, 5)]);
    assert_eq!(test.on(deleted(0)), []);
    assert_eq!(test.share(2, Wait::Forever), [refuse(2, Refusal::Closed), forget(2)]);

    let mut test = Test::new(Mode::Lock);
    test.held(1, 5);
    test.share(2, Wait::Forever);
    let closed = test.on(PathEvent::Close);
    for command in [reply(Reply::Lost(Ticket(1))), refuse(2, Refusal::Closed), test.delete(0, 5)] {
        assert!(closed.contains(&command), "{command:?} in {closed:?}");
    }
    assert_eq!(test.on(deleted(0)), [forget(1)]);
    assert!(test.lock.is_idle());
}

#[test]
fn a_caller_may_number_its_tickets_as_it_likes() {
    let mut test = Test::new(Mode::Lock);
    assert_eq!(test.acquire(u64::MAX, Mode::Lock, Wait::Forever), [enter(0, u64::MAX)]);
    assert_eq!(test.entered(0, 5, &[]), [test.track(0, 5), test.grant(u64::MAX, 0, 5)]);
    assert_eq!(test.release(u64::MAX), [test.delete(0, 5)]);
    assert_eq!(test.on(deleted(0)), [forget(u64::MAX)]);
}
