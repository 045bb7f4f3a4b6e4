use super::*;
use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::lock::{self, Created};
use crate::machine::node::Znode;

/// A semaphore with a session.
struct Test {
    machine: Semaphore,
    now: Moment,
    /// The transaction that wrote the root's data.
    written: i64,
}

const FOREVER: Wait = Wait::Forever;

impl Test {
    fn new() -> Test {
        let machine = Semaphore::new(Instance::new(7 << 48));
        let mut test = Test { machine, now: Moment(0), written: 10 };
        assert_eq!(test.on(PathEvent::Connected { session: 1 }), []);
        test
    }

    /// A semaphore that remembers a limit of two permits from an earlier turn.
    fn warm() -> Test {
        let mut test = Test::new();
        let _ = test.acquire(90, 1, FOREVER);
        test.granted(0, 0);
        test.state_read(0, Some(2), &[]);
        test.taken(2);
        let released = test.on(PathEvent::Release(Ticket(90)));
        assert_eq!(released, [Command::DeleteLease(test.lease(1))]);
        assert_eq!(test.on(Event::LeaseDeleted(test.lease(1), Ok(()))), [forget(90, true)]);
        test
    }

    fn on(&mut self, event: impl Into<Event>) -> Vec<Command> {
        let mut out = Vec::new();
        self.machine.handle(event.into(), self.now, &mut out);
        out
    }

    fn acquire(&mut self, ticket: u64, count: u32, wait: Wait) -> Vec<Command> {
        let request = PermitRequest { count, limit: Some(2), agreed: false, bytes: 100, wait };
        self.on(Event::Acquire { ticket: Ticket(ticket), request })
    }

    fn mutex(&self, attempt: u64, sequence: u64) -> Znode {
        let prefix = Instance::new(7 << 48).prefix(Attempt(attempt), Dialect::Kazoo, Mode::Lock);
        Znode::parse(&format!("{prefix}{sequence:010}")).expect("a contender")
    }

    fn lease(&self, attempt: u64) -> String {
        Instance::new(7 << 48).lease(Attempt(attempt))
    }

    fn entered(&mut self, attempt: u64, sequence: u64, ahead: &[&str]) -> Vec<Command> {
        let node = self.mutex(attempt, sequence);
        let mut children: Vec<String> = ahead.iter().map(|name| name.to_string()).collect();
        children.push(node.name().to_owned());
        let czxid = 100 + sequence as i64;
        let created = Ok(Created { node, czxid });
        self.on(lock::Event::CreatedAndListed { attempt: Attempt(attempt), created, children: Ok(children) })
    }

    /// Grants the mutex at once.
    fn granted(&mut self, attempt: u64, sequence: u64) {
        let node = self.mutex(attempt, sequence);
        assert_eq!(self.entered(attempt, sequence, &[]), [Command::Mutex(lock::Command::Track(node))]);
    }

    fn state_read(&mut self, read: u64, permits: Option<u32>, leases: &[&str]) -> Vec<Command> {
        let data = |permits: u32| permits.to_string().into_bytes();
        let root = permits.map(|permits| Ok(Root { version: 0, written: self.written, data: data(permits) }));
        let names = leases.iter().map(|name| name.to_string()).collect();
        let leases = Some(Ok(Leases { names, written: self.written }));
        self.on(Event::StateRead { read: Attempt(read), root, leases })
    }

    fn taken(&mut self, take: u64) -> Vec<Command> {
        self.on(Event::Taken(Attempt(take), Ok(())))
    }

    fn take(
        &self,
        take: u64,
        mutex: (u64, u64),
        keep: bool,
        leases: impl IntoIterator<Item = (u64, u64)>,
    ) -> Command {
        let leases = leases.into_iter().map(|(ticket, lease)| (Ticket(ticket), self.lease(lease))).collect();
        let mutex = self.mutex(mutex.0, mutex.1);
        Command::Take { take: Attempt(take), version: 0, mutex, keep, leases }
    }

    fn grant(&self, ticket: u64, leases: &[u64], czxid: i64) -> Command {
        let leases = leases.iter().map(|lease| self.lease(*lease)).collect();
        Command::Grant { ticket: Ticket(ticket), leases, czxid }
    }
}

fn read(read: u64, root: Reading, leases: Reading) -> Command {
    Command::ReadState { read: Attempt(read), sync: false, root, leases }
}

/// A read after a sync.
fn synced(number: u64, root: Reading, leases: Reading) -> Command {
    match read(number, root, leases) {
        Command::ReadState { read, sync: _, root, leases } => {
            Command::ReadState { read, sync: true, root, leases }
        }
        other => other,
    }
}

fn enter(attempt: u64, ticket: u64) -> Command {
    Command::Mutex(lock::Command::CreateAndList(Attempt(attempt), Ticket(ticket)))
}

fn forget(ticket: u64, confirmed: bool) -> Command {
    Command::Reply(Reply::Forgotten { ticket: Ticket(ticket), confirmed })
}

fn refuse(ticket: u64, refusal: Refusal) -> Command {
    Command::Reply(Reply::Refused(Ticket(ticket), refusal))
}

#[test]
fn the_first_claim_creates_the_root_with_its_number() {
    let mut test = Test::new();
    let first = test.acquire(1, 1, FOREVER);
    assert_eq!(first, [enter(0, 1), read(0, Reading::Once, Reading::Once)]);
    test.granted(0, 0);
    let missing = Event::StateRead {
        read: Attempt(0),
        root: Some(Err(Failure::NoNode)),
        leases: Some(Err(Failure::NoNode)),
    };
    let make = Command::MakeRoot { read: Attempt(1), ticket: Ticket(1), limit: 2 };
    assert_eq!(test.on(missing), [make]);
    let made = test.on(Event::RootMade(Attempt(1), Ok(())));
    assert_eq!(made, [read(2, Reading::Once, Reading::Watch)]);
    assert_eq!(test.state_read(2, Some(2), &[]), [test.take(4, (0, 0), false, [(1, 3)])]);
    let grant = [Command::TrackLease(test.lease(3)), test.grant(1, &[3], 100), Command::UnwatchState];
    assert_eq!(test.taken(4), grant);
    assert!(!test.machine.is_idle());
}

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
fn free_permits_cost_two_round_trips_and_the_deletes() {
    let mut test = Test::warm();
    let flight = test.acquire(1, 2, FOREVER);
    assert_eq!(flight, [enter(1, 1), read(3, Reading::Skip, Reading::Once)]);
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &[]), [test.take(6, (1, 1), false, [(1, 4), (1, 5)])]);
    let leases = [4, 5].map(|lease| Command::TrackLease(test.lease(lease)));
    assert_eq!(test.taken(6), [&leases[..], &[test.grant(1, &[4, 5], 101)]].concat());
    let released = test.on(PathEvent::Release(Ticket(1)));
    assert_eq!(released, [4, 5].map(|lease| Command::DeleteLease(test.lease(lease))));
    assert_eq!(test.on(Event::LeaseDeleted(test.lease(4), Ok(()))), []);
    assert_eq!(test.on(Event::LeaseDeleted(test.lease(5), Err(Failure::NoNode))), [forget(1, true)]);
    assert!(test.machine.is_idle());
    assert_eq!(test.machine.wakeup(), None);
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

/// The first claim wants two permits, and one of two is free.
fn full() -> Test {
    let mut test = Test::warm();
    test.acquire(1, 2, FOREVER);
    test.acquire(2, 1, FOREVER);
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &["x"]), [read(4, Reading::Watch, Reading::Watch)]);
    let told = test.state_read(4, Some(2), &["x"]);
    assert_eq!(
        told,
        [Command::Reply(Reply::Queued(Ticket(1), 0)), Command::Reply(Reply::Queued(Ticket(2), 1))]
    );
    test
}

#[test]
fn a_claim_for_more_permits_than_are_free_is_not_overtaken_and_the_mutex_is_kept() {
    let mut test = full();
    assert_eq!(test.acquire(3, 1, Wait::Try), [refuse(3, Refusal::Contended), forget(3, true)]);
    let changed = test.on(Event::Changed { read: Attempt(4), part: Part::Leases });
    assert_eq!(changed, [read(5, Reading::Skip, Reading::Watch)]);
    assert_eq!(test.state_read(5, None, &[]), [test.take(8, (1, 1), true, [(1, 6), (1, 7)])]);
    let granted = test.taken(8);
    assert!(granted.contains(&test.grant(1, &[6, 7], 101)));
    assert_eq!(granted.last(), Some(&read(9, Reading::Skip, Reading::Watch)), "the second claim waits");
}

#[test]
fn behind_a_claim_that_does_not_fit_tries_and_claims_that_cannot_be_served_are_refused() {
    let mut test = Test::warm();
    test.acquire(1, 2, FOREVER);
    test.acquire(2, 1, Wait::Try);
    test.state_read(4, None, &["x"]);
    let request =
        |count, limit| PermitRequest { count, limit: Some(limit), agreed: false, bytes: 100, wait: FOREVER };
    test.on(Event::Acquire { ticket: Ticket(3), request: request(1, 5) });
    test.acquire(4, 1, FOREVER);
    let agreed = PermitRequest { agreed: true, ..request(3, 3) };
    test.on(Event::Acquire { ticket: Ticket(5), request: agreed });
    // The answer may be older than the number that the last two claims expect, so that it is read again.
    test.granted(1, 1);
    let first = [refuse(2, Refusal::Contended), forget(2, true), read(5, Reading::Once, Reading::Watch)];
    assert_eq!(test.state_read(3, None, &["x"]), first);
    let mismatch = refuse(3, Refusal::LimitMismatch { stored: 2, given: 5 });
    let too_many = refuse(5, Refusal::TooMany { count: 3, limit: 2 });
    let rest = [mismatch, forget(3, true), too_many, forget(5, true), read(6, Reading::Watch, Reading::Skip)];
    assert_eq!(test.state_read(5, Some(2), &["x"]), rest);
    let told = [1, 4].map(|ticket| Command::Reply(Reply::Queued(Ticket(ticket), usize::from(ticket > 1))));
    let root = Some(Ok(Root { version: 0, written: 10, data: b"2".to_vec() }));
    assert_eq!(test.on(Event::StateRead { read: Attempt(6), root, leases: None }), told);
}

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
fn the_next_claim_is_served_when_the_first_is_cancelled() {
    let mut test = full();
    let cancelled = test.on(PathEvent::Cancel(Ticket(1)));
    let refused = [refuse(1, Refusal::Cancelled), forget(1, true)];
    assert_eq!(cancelled, [&refused[..], &[read(5, Reading::Skip, Reading::Watch)]].concat());
    assert_eq!(test.state_read(5, None, &["x"]), [test.take(7, (1, 1), false, [(2, 6)])]);
}

#[test]
fn the_mutex_is_released_when_no_claim_waits_any_more() {
    let mut test = full();
    test.on(PathEvent::Cancel(Ticket(1)));
    let last = test.on(PathEvent::Cancel(Ticket(2)));
    assert_eq!(
        last,
        [
            refuse(2, Refusal::Cancelled),
            forget(2, true),
            Command::UnwatchState,
            Command::Mutex(lock::Command::Delete(Attempt(1), test.mutex(1, 1)))
        ]
    );
    assert!(!test.machine.is_idle(), "the mutex's node must be deleted first");
    assert_eq!(test.on(lock::Event::Deleted(Attempt(1), Ok(()))), []);
    assert!(test.machine.is_idle());
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
fn a_cancel_while_the_leases_are_being_created_deletes_them() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &[]);
    assert_eq!(test.on(PathEvent::Cancel(Ticket(1))), [refuse(1, Refusal::Cancelled)]);
    let back = test.taken(5);
    assert_eq!(back, [Command::TrackLease(test.lease(4)), Command::DeleteLease(test.lease(4))]);
    assert_eq!(test.on(Event::LeaseDeleted(test.lease(4), Ok(()))), [forget(1, true)]);
    assert!(test.machine.is_idle());
}

#[test]
fn after_a_take_of_unknown_outcome_its_leases_are_searched_for() {
    for created in [true, false] {
        let mut test = Test::warm();
        test.acquire(1, 1, FOREVER);
        test.granted(1, 1);
        test.state_read(3, None, &[]);
        let unknown = Err(TakeFailure::Failed(Failure::Unknown("reset".into())));
        assert_eq!(test.on(Event::Taken(Attempt(5), unknown)), [Command::FindLeases(Attempt(5))]);
        let names = if created { vec![test.lease(4)] } else { vec![test.lease(1)] };
        let found = test.on(Event::LeasesFound(Attempt(5), Ok(names)));
        match created {
            true => assert_eq!(found, [Command::TrackLease(test.lease(4)), test.grant(1, &[4], 101)]),
            false => {
                let again = [
                    Command::Mutex(lock::Command::Track(test.mutex(1, 1))),
                    read(6, Reading::Skip, Reading::Watch),
                ];
                assert_eq!(found, again);
            }
        }
    }
}

#[test]
fn a_deleted_mutex_is_queued_for_again() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &[]);
    let gone = test.on(Event::Taken(Attempt(5), Err(TakeFailure::MutexGone)));
    let node = test.mutex(1, 1);
    assert_eq!(
        gone[..2],
        [
            Command::Mutex(lock::Command::Track(node.clone())),
            Command::Mutex(lock::Command::Delete(Attempt(1), node))
        ]
    );
    assert_eq!(gone[2..], [enter(2, 1), read(6, Reading::Skip, Reading::Once)]);
}

#[test]
fn nothing_is_granted_while_the_session_is_suspended() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &[]);
    assert_eq!(test.on(PathEvent::Suspended), []);
    assert_eq!(test.taken(5), [Command::TrackLease(test.lease(4))]);
    assert_eq!(test.acquire(2, 1, Wait::Try), [refuse(2, Refusal::Suspended), forget(2, true)]);
    assert_eq!(test.on(PathEvent::Resumed), [test.grant(1, &[4], 101)]);
    assert_eq!(test.on(PathEvent::Suspended), [Command::Reply(Reply::Suspended(Ticket(1)))]);
    assert_eq!(test.on(PathEvent::Resumed), [Command::Reply(Reply::Resumed(Ticket(1)))]);
}

#[test]
fn after_a_lost_session_holders_have_lost_and_waiters_keep_waiting() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &[]);
    test.taken(5);
    test.acquire(2, 1, FOREVER);
    test.granted(2, 2);
    test.state_read(6, None, &["x"]);
    assert_eq!(test.on(PathEvent::Lost), [Command::Reply(Reply::Lost(Ticket(1))), forget(1, false)]);
    let again = test.on(PathEvent::Connected { session: 2 });
    assert_eq!(again, [enter(3, 2), read(9, Reading::Once, Reading::Once)]);
    assert_eq!(test.on(PathEvent::Release(Ticket(1))), [forget(1, false)]);
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
fn all_permits_of_a_claim_are_lost_when_one_lease_is_missing() {
    let mut test = holding_two();
    let lost = test.on(PathEvent::Missing(vec![test.lease(4)]));
    let back = [4, 5].map(|lease| Command::DeleteLease(test.lease(lease)));
    assert_eq!(lost, [&[Command::Reply(Reply::Lost(Ticket(1)))], &back[..]].concat());
}

/// A claim that holds two permits: the leases 4 and 5.
fn holding_two() -> Test {
    let mut test = Test::warm();
    test.acquire(1, 2, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &[]);
    test.taken(6);
    test
}

fn split(ticket: u64, into: u64, leases: &[String]) -> Event {
    Event::Split { ticket: Ticket(ticket), into: Ticket(into), leases: leases.to_vec() }
}

fn merge(ticket: u64, into: u64) -> Event {
    Event::Merge { ticket: Ticket(ticket), into: Ticket(into) }
}

fn merged(ticket: u64, into: u64) -> Command {
    Command::Merged { ticket: Ticket(ticket), into: Ticket(into) }
}

fn lost(ticket: u64) -> Command {
    Command::Reply(Reply::Lost(Ticket(ticket)))
}

/// Two claims, 1 and 2, that hold a permit each: the leases 4 and 5.
fn split_in_two() -> Test {
    let mut test = holding_two();
    assert_eq!(test.on(split(1, 2, &[test.lease(5)])), []);
    test
}

#[test]
fn each_part_of_a_split_claim_is_released_alone() {
    for (first, second) in [((1, 4), (2, 5)), ((2, 5), (1, 4))] {
        let mut test = split_in_two();
        for (ticket, lease) in [first, second] {
            let lease = test.lease(lease);
            assert_eq!(test.on(PathEvent::Release(Ticket(ticket))), [Command::DeleteLease(lease.clone())]);
            assert!(!test.machine.is_idle());
            assert_eq!(test.on(Event::LeaseDeleted(lease, Ok(()))), [forget(ticket, true)]);
        }
        assert!(test.machine.is_idle());
    }
}

#[test]
fn a_missing_lease_loses_its_own_part_only() {
    let mut test = split_in_two();
    let missing = test.on(PathEvent::Missing(vec![test.lease(5)]));
    assert_eq!(missing, [lost(2), Command::DeleteLease(test.lease(5))]);
    assert_eq!(test.on(PathEvent::Suspended), [Command::Reply(Reply::Suspended(Ticket(1)))]);
}

#[test]
fn all_parts_are_lost_with_the_session_and_on_close() {
    let mut test = split_in_two();
    assert_eq!(test.on(PathEvent::Lost), [lost(1), forget(1, false), lost(2), forget(2, false)]);
    let mut test = split_in_two();
    let deletes = [4, 5].map(|lease| Command::DeleteLease(test.lease(lease)));
    let [first, second] = deletes;
    assert_eq!(test.on(PathEvent::Close), [lost(1), first, lost(2), second]);
}

#[test]
fn the_part_of_a_claim_that_is_not_held_is_lost() {
    let gone = [lost(2), forget(2, false)];
    for end in [PathEvent::Missing(vec![holding_two().lease(4)]), PathEvent::Release(Ticket(1))] {
        let mut test = holding_two();
        test.on(end);
        assert_eq!(test.on(split(1, 2, &[test.lease(5)])), gone, "its leases are being deleted");
    }
    let mut test = holding_two();
    test.on(PathEvent::Lost);
    assert_eq!(test.on(split(1, 2, &[test.lease(5)])), gone, "the session is lost");
    assert_eq!(test.on(PathEvent::Release(Ticket(2))), [forget(2, false)]);
}

#[test]
fn merged_claims_are_released_and_lost_as_one() {
    let both = |test: &Test| [4, 5].map(|lease| Command::DeleteLease(test.lease(lease)));
    for (ticket, into) in [(1, 2), (2, 1)] {
        let mut test = split_in_two();
        assert_eq!(test.on(merge(ticket, into)), [merged(ticket, into)]);
        assert_eq!(test.on(PathEvent::Release(Ticket(into))), both(&test));
        assert_eq!(test.on(Event::LeaseDeleted(test.lease(4), Ok(()))), []);
        assert_eq!(test.on(Event::LeaseDeleted(test.lease(5), Ok(()))), [forget(into, true)]);
        assert!(test.machine.is_idle());

        let mut test = split_in_two();
        test.on(merge(ticket, into));
        let missing = test.on(PathEvent::Missing(vec![test.lease(4)]));
        assert_eq!(missing, [&[lost(into)], &both(&test)[..]].concat());
    }
}

#[test]
fn a_claim_that_is_merged_with_one_that_is_not_held_is_lost() {
    for (ticket, into) in [(1, 2), (2, 1)] {
        for end in [PathEvent::Missing(vec![holding_two().lease(5)]), PathEvent::Release(Ticket(2))] {
            let mut test = split_in_two();
            test.on(end);
            assert_eq!(test.on(merge(ticket, into)), [lost(1), Command::DeleteLease(test.lease(4))]);
            assert_eq!(test.on(Event::LeaseDeleted(test.lease(4), Ok(()))), [forget(1, true)]);
        }
        let mut test = split_in_two();
        test.on(PathEvent::Lost);
        assert_eq!(test.on(merge(ticket, into)), []);
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
fn the_deadline_also_applies_while_the_mutex_is_held() {
    let mut test = Test::warm();
    test.acquire(1, 1, Wait::Until(Moment(5)));
    test.granted(1, 1);
    test.state_read(3, None, &["x", "y"]);
    test.state_read(4, Some(2), &["x", "y"]);
    test.now = Moment(5);
    let late = test.on(PathEvent::Wake);
    assert_eq!(late[..2], [refuse(1, Refusal::TimedOut), forget(1, true)]);
    assert_eq!(
        late[2..],
        [Command::UnwatchState, Command::Mutex(lock::Command::Delete(Attempt(1), test.mutex(1, 1)))]
    );
    assert_eq!(test.acquire(2, 1, Wait::Until(Moment(5))), [refuse(2, Refusal::TimedOut), forget(2, true)]);
}

#[test]
fn nothing_is_sent_for_a_claim_that_has_timed_out() {
    let mut test = Test::new();
    test.acquire(1, 1, Wait::Until(Moment(5)));
    let created = Err(Failure::NoNode);
    let entered =
        lock::Event::CreatedAndListed { attempt: Attempt(0), created, children: Err(Failure::NoNode) };
    assert_eq!(test.on(entered), [Command::Mutex(lock::Command::MakeDirectory(Attempt(0), Ticket(1)))]);
    test.now = Moment(5);
    let late = test.on(lock::Event::DirectoryMade(Attempt(0), Ok(())));
    assert_eq!(late, [refuse(1, Refusal::TimedOut), forget(1, true)]);
    assert!(test.machine.is_idle());
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

#[test]
fn closing_does_not_wait_for_a_list_that_is_denied() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.granted(1, 1);
    test.state_read(3, None, &[]);
    test.on(Event::Taken(Attempt(5), Err(TakeFailure::Failed(Failure::Unknown("reset".into())))));
    test.on(PathEvent::Close);
    test.on(lock::Event::Deleted(Attempt(1), Ok(())));
    assert_eq!(test.on(Event::LeasesFound(Attempt(5), Err(Failure::NoAuth))), [forget(1, false)]);
    assert!(test.machine.is_idle());
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
fn a_retried_delete_of_an_earlier_mutex_is_sent_even_when_it_is_due_as_a_take_succeeds() {
    let mut test = full();
    test.on(PathEvent::Cancel(Ticket(1)));
    test.on(PathEvent::Cancel(Ticket(2)));
    test.on(lock::Event::Deleted(Attempt(1), Err(Failure::Refused("busy".into()))));
    assert_eq!(test.acquire(3, 1, FOREVER)[0], enter(2, 3));
    test.granted(2, 2);
    test.state_read(6, None, &[]);
    test.now = test.now + Duration::from_secs(1);
    let granted = test.taken(8);
    assert!(
        granted.contains(&Command::Mutex(lock::Command::Delete(Attempt(1), test.mutex(1, 1)))),
        "{granted:?}"
    );
}

/// A claim for permits whose leases need 30 KiB each in a transaction, which is less than 32 times as much.
fn large(ticket: u64, count: u32) -> Event {
    let request = PermitRequest { count, limit: Some(100), agreed: false, bytes: 30 * 1024, wait: FOREVER };
    Event::Acquire { ticket: Ticket(ticket), request }
}

#[test]
fn a_claim_that_does_not_fit_into_one_transaction_is_refused() {
    let mut test = Test::new();
    let refused = test.on(large(1, 33));
    assert!(matches!(&refused[0], Command::Reply(Reply::Refused(Ticket(1), Refusal::Rejected(_)))));
    assert_eq!(refused[1..], [forget(1, true)]);
    assert_eq!(test.on(large(2, 32))[0], enter(0, 2));
}

#[test]
fn claims_share_a_transaction_up_to_half_of_its_limit() {
    let mut test = Test::new();
    for (ticket, count) in [(1, 10), (2, 6), (3, 20)] {
        test.on(large(ticket, count));
    }
    test.granted(0, 0);
    let leases = |ticket, numbers: std::ops::Range<u64>| numbers.map(move |number| (ticket, number));
    let both = leases(1, 1..11).chain(leases(2, 11..17));
    assert_eq!(test.state_read(0, Some(100), &[]), [test.take(17, (0, 0), true, both)]);
    assert_eq!(test.taken(17).last(), Some(&read(18, Reading::Skip, Reading::Watch)));
    // Alone, a claim may need more than half.
    let third = test.take(39, (0, 0), false, leases(3, 19..39));
    assert_eq!(test.state_read(18, None, &["x"; 16]), [third]);
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

/// Queued for the mutex behind a foreign contender.
fn behind_one() -> (Test, Znode) {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    let other = format!("{:032x}__lock__{:010}", 1, 1);
    test.entered(1, 2, &[&other]);
    assert_eq!(test.state_read(3, None, &[]), [Command::Reply(Reply::Queued(Ticket(1), 1))]);
    (test, Znode::parse(&other).expect("a contender"))
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
fn a_claim_whose_number_matched_on_arrival_is_not_refused_after_a_resize() {
    // The mutex is behind a foreign contender. The second claim arrives after the turn has read the number.
    let (mut test, other) = behind_one();
    assert_eq!(test.acquire(2, 1, FOREVER), [Command::Reply(Reply::Queued(Ticket(2), 2))]);
    test.written = 11;
    test.on(lock::Event::Fired { node: other, gone: true });
    assert_eq!(test.state_read(4, None, &[]), [read(5, Reading::Once, Reading::Watch)]);
    assert_eq!(test.state_read(5, Some(3), &[]), [test.take(8, (1, 2), false, [(1, 6), (2, 7)])]);

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

#[test]
fn all_claims_are_refused_when_the_mutex_is() {
    let mut test = Test::new();
    test.acquire(1, 1, FOREVER);
    test.acquire(2, 1, FOREVER);
    let (created, children) = (Err(Failure::NoAuth), Err(Failure::NoAuth));
    let denied = test.on(lock::Event::CreatedAndListed { attempt: Attempt(0), created, children });
    let refused = [1, 2].map(|ticket| [refuse(ticket, Refusal::NoAuth(None)), forget(ticket, true)]);
    assert_eq!(denied, refused.concat());
    assert!(test.machine.is_idle());
}

#[test]
fn a_try_is_not_reported_as_queued() {
    let mut test = Test::warm();
    test.acquire(1, 1, Wait::Try);
    assert_eq!(test.state_read(3, None, &["x"]), [enter(1, 1), read(4, Reading::Skip, Reading::Once)]);
    test.entered(1, 2, &[&format!("{:032x}__lock__{:010}", 1, 1)]);
    assert_eq!(test.state_read(4, None, &["x"]), []);
}

#[test]
fn waiters_are_told_their_place_again_after_a_lost_session() {
    let (mut test, other) = behind_one();
    test.on(PathEvent::Lost);
    let again = test.on(PathEvent::Connected { session: 2 });
    assert_eq!(again, [enter(2, 1), read(4, Reading::Once, Reading::Once)]);
    test.entered(2, 3, &[other.name()]);
    assert_eq!(test.state_read(4, Some(2), &[]), [Command::Reply(Reply::Queued(Ticket(1), 1))]);
}
