//! Options of one claim that the server rejects, such as an invalid access list: the other claims are served.

use super::*;

fn invalid() -> Reason {
    "the access list is invalid".into()
}

fn rejected(ticket: u64) -> [Command; 2] {
    [refuse(ticket, Refusal::Rejected(invalid())), forget(ticket, true)]
}

#[test]
fn a_rejected_lease_refuses_only_its_own_claim() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.acquire(2, 1, FOREVER);
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &[]), [test.take(6, (1, 1), false, [(1, 4), (2, 5)])]);
    let rest = test.on(Event::Taken(Attempt(6), Err(TakeFailure::Lease(1, invalid()))));
    assert_eq!(rest[0], Command::Mutex(lock::Command::Track(test.mutex(1, 1))));
    assert_eq!(rest[1..3], rejected(2));
    assert_eq!(rest[3..], [read(7, Reading::Skip, Reading::Watch)]);
    assert_eq!(test.state_read(7, None, &[]), [test.take(9, (1, 1), false, [(1, 8)])]);
}

#[test]
fn a_rejected_mutex_or_directory_refuses_only_the_claim_whose_options_it_has() {
    for directory in [false, true] {
        let mut test = Test::new();
        test.acquire(1, 1, FOREVER);
        test.acquire(2, 1, FOREVER);
        let created = Err(if directory { Failure::NoNode } else { Failure::Refused(invalid()) });
        let children = Err(Failure::NoNode);
        let answer = lock::Event::CreatedAndListed { attempt: Attempt(0), created, children };
        let mut next = test.on(answer);
        if directory {
            assert_eq!(next, [Command::Mutex(lock::Command::MakeDirectory(Attempt(0), Ticket(1)))]);
            next = test.on(lock::Event::DirectoryMade(Attempt(0), Err(Failure::Refused(invalid()))));
        }
        assert_eq!(next[..2], rejected(1));
        assert_eq!(next[2..], [enter(1, 2), read(1, Reading::Once, Reading::Once)]);
    }
}

#[test]
fn a_rejected_root_refuses_only_the_claim_whose_options_it_has() {
    let mut test = Test::new();
    test.acquire(1, 1, FOREVER);
    test.acquire(2, 1, FOREVER);
    test.granted(0, 0);
    let missing = |read| Event::StateRead {
        read: Attempt(read),
        root: Some(Err(Failure::NoNode)),
        leases: Some(Err(Failure::NoNode)),
    };
    let make = |read, ticket| [Command::MakeRoot { read: Attempt(read), ticket: Ticket(ticket), limit: 2 }];
    assert_eq!(test.on(missing(0)), make(1, 1));
    let next = test.on(Event::RootMade(Attempt(1), Err(Failure::Refused(invalid()))));
    assert_eq!(next[..2], rejected(1));
    assert_eq!(next[2..], [read(2, Reading::Once, Reading::Watch)]);
    assert_eq!(test.on(missing(2))[1..], make(3, 2));
}

#[test]
fn a_mutex_that_cannot_be_read_refuses_only_the_claim_whose_options_it_has() {
    let mut test = Test::warm();
    test.acquire(1, 1, FOREVER);
    test.acquire(2, 2, FOREVER);
    test.granted(1, 1);
    assert_eq!(test.state_read(3, None, &[]), [test.take(5, (1, 1), true, [(1, 4)])]);
    let next = test.on(Event::Taken(Attempt(5), Err(TakeFailure::MutexUnreadable)));
    let node = test.mutex(1, 1);
    let denied = Refusal::NoAuth(Denied::Contender(node.clone()));
    assert_eq!(next[..2], [refuse(1, denied), forget(1, true)]);
    assert_eq!(next[2], Command::Mutex(lock::Command::Delete(Attempt(1), node)));
    assert_eq!(next[3..], [enter(2, 2), read(6, Reading::Skip, Reading::Once)]);
}
