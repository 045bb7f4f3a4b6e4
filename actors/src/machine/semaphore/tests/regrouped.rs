//! Permits that are split and merged.

use super::*;

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
