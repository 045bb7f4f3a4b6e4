mod numbers;
mod options;
mod reads;
mod regrouped;
mod tries;

use super::*;
use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::lock::{self, Created};
use crate::machine::node::Znode;
use crate::machine::{Denied, Reason};

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
fn all_claims_are_refused_when_the_mutex_is() {
    let mut test = Test::new();
    test.acquire(1, 1, FOREVER);
    test.acquire(2, 1, FOREVER);
    let (created, children) = (Err(Failure::NoAuth), Err(Failure::NoAuth));
    let denied = test.on(lock::Event::CreatedAndListed { attempt: Attempt(0), created, children });
    let refused =
        [1, 2].map(|ticket| [refuse(ticket, Refusal::NoAuth(Denied::Directory)), forget(ticket, true)]);
    assert_eq!(denied, refused.concat());
    assert!(test.machine.is_idle());
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
